/* cli_keeper.c - the keeper process and the embedded servers. */
#include "cli_keeper.h"
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READY_TIMEOUT_MS 15000
#define END_TIMEOUT_MS 15000 /* a server gives back many gigabytes in this time */
#define TERM_TIMEOUT_MS 5000
#define POLL_MIN_MS 50
#define POLL_MAX_MS 1000

/* Descriptors of the keeper, at fixed numbers so that everything else of the caller can be closed. */
enum { KEEPER_LINK = 3, KEEPER_READY, KEEPER_LOG, KEEPER_POOL, KEEPER_FREE };

/* 1 when pid (a child) has ended, 0 when it has not within timeout_ms. */
static int wait_child(pid_t pid, int timeout_ms)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd >= 0) {
        struct pollfd ended = {.fd = fd, .events = POLLIN};
        while (poll(&ended, 1, timeout_ms) < 0 && errno == EINTR)
            ;
        close(fd);
    }
    return waitpid(pid, NULL, WNOHANG) != 0;
}

static void reset_signals(void)
{
    for (int signal_number = 1; signal_number < NSIG; signal_number++)
        signal(signal_number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static const struct {
    const char *what, *option; /* option: that names one which is there already; NULL: there is none */
} kinds[CLI_EMBEDDED_KINDS] = {{"memory server", "--memserver"}, {"compute node", "--compute"}, {"relay for rdma:", NULL}};

const char *cli_embedded_what(const struct cli_embedded *embedded)
{
    int kind = -1;
    for (int k = 0; k < CLI_EMBEDDED_KINDS; k++)
        if (embedded->n[k] && kind >= 0)
            return "server";
        else if (embedded->n[k])
            kind = k;
    return kinds[kind < 0 ? CLI_EMBEDDED_MEMORY : kind].what;
}

static int count(const struct cli_embedded *embedded)
{
    int n = 0;
    for (int kind = 0; kind < CLI_EMBEDDED_KINDS; kind++)
        n += embedded->n[kind];
    return n;
}

/* What is in the user's environment for the loader is meant for the program: with LD_SHOW_AUXV a server would begin with that. A server must not page to a
 * server, either: this run may itself be inside another run. */
static void only_own_environment(void)
{
    for (char **at = environ; *at;) {
        char name[64];
        size_t n = strcspn(*at, "=");
        if (strncmp(*at, "LD_", 3) == 0 && strncmp(*at, "LD_LIBRARY_PATH=", 16) != 0 && n < sizeof name) {
            memcpy(name, *at, n);
            name[n] = 0;
            unsetenv(name);
        } else {
            at++;
        }
    }
    unsetenv("ENDGAME_POOL");
}

/* They are the program's, and as far as may be not the server's. */
static void no_limits(void)
{
    static const __rlimit_resource_t which[] = {RLIMIT_AS, RLIMIT_DATA}; /* that on descriptors each of them raises itself */
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
        if (setrlimit(which[i], &limit) == 0 || getrlimit(which[i], &limit) != 0)
            continue;
        limit.rlim_cur = limit.rlim_max;
        setrlimit(which[i], &limit);
    }
}

static void run_server(const struct cli_embedded *embedded, enum cli_embedded_kind kind, int i, const struct cli_pool *pool, int ready,
                       int end_with)
{
    enum { SERVER_END_WITH = 3 };
    const char *daemon = embedded->daemon[kind];
    bool relay = kind == CLI_EMBEDDED_RELAY;
    char address[sizeof pool->socket + 32];
    if (kind == CLI_EMBEDDED_COMPUTE)
        snprintf(address, sizeof address, "unix:%s/" CLI_POOL_COMPUTE_SOCKET, pool->dir, i);
    else if (relay)
        snprintf(address, sizeof address, "unix:%s/" CLI_POOL_RELAY_SOCKET, pool->dir, embedded->relay[i].node);
    else
        snprintf(address, sizeof address, "unix:%s", pool->socket);
    reset_signals();
    dup2(ready, STDOUT_FILENO);
    dup2(KEEPER_LOG, STDERR_FILENO);
    if (dup2(end_with, SERVER_END_WITH) < 0)
        _exit(CLI_EXIT_FAILED);
    close_range(SERVER_END_WITH + 1, ~0U, 0);
    only_own_environment();
    no_limits();
    /* What root starts may become another user, and then needs a server for its children; nobody else gets into the pool's folder. */
    const char *more = relay ? "--to" : kind == CLI_EMBEDDED_MEMORY && geteuid() == 0 ? "--any-user" : NULL;
    execl(daemon, daemon, "--listen", address, "--end-with", "3", more, relay ? embedded->relay[i].to : NULL, (char *)NULL);
    dprintf(STDERR_FILENO, "cannot execute %s: %s\n", daemon, strerror(errno));
    _exit(CLI_EXIT_FAILED);
}

/* The servers that the keeper started. */
struct servers {
    pid_t pid[EG_POOL_NODES + 1];
    int end_with[EG_POOL_NODES + 1]; /* ours to close */
    int ready[EG_POOL_NODES + 1];
    char kind[EG_POOL_NODES + 1];
    int n;
};

/* What the keeper tells the run: one byte, and the kind of server that it is about. */
enum { SAYS_READY = 'r', SAYS_LATE = 't', SAYS_ENDED = 'e' };

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool start_server(const struct cli_embedded *embedded, enum cli_embedded_kind kind, int i, const struct cli_pool *pool,
                         struct servers *servers)
{
    int ready[2], end_with[2], n = servers->n;
    pid_t pid = -1;
    if (pipe2(ready, O_CLOEXEC) != 0 || pipe2(end_with, O_CLOEXEC) != 0 || (pid = fork()) < 0) {
        dprintf(KEEPER_LOG, "%s\n", errno == EAGAIN ? "no more processes (ulimit -u)" : strerror(errno));
        return false;
    }
    if (pid == 0)
        run_server(embedded, kind, i, pool, ready[1], end_with[0]);
    close(ready[1]);
    close(end_with[0]);
    servers->pid[n] = pid;
    servers->end_with[n] = end_with[1];
    servers->ready[n] = ready[0];
    servers->kind[n] = (char)kind;
    servers->n++;
    return true;
}

static char start_servers(const struct cli_embedded *embedded, const struct cli_pool *pool, struct servers *servers, char *ret_kind)
{
    for (int kind = 0; kind < CLI_EMBEDDED_KINDS; kind++)
        for (int i = 0; i < embedded->n[kind]; i++) {
            *ret_kind = (char)kind;
            if (!start_server(embedded, (enum cli_embedded_kind)kind, i, pool, servers))
                return SAYS_ENDED;
        }
    int64_t deadline_ms = now_ms() + READY_TIMEOUT_MS;
    for (int i = 0; i < servers->n; i++) {
        struct pollfd readable = {.fd = servers->ready[i], .events = POLLIN};
        char text[512];
        int64_t left_ms = deadline_ms - now_ms();
        *ret_kind = servers->kind[i];
        int n = poll(&readable, 1, left_ms > 0 ? (int)left_ms : 0);
        if (n <= 0 || read(servers->ready[i], text, sizeof text) <= 0)
            return n == 0 ? SAYS_LATE : SAYS_ENDED;
        close(servers->ready[i]);
    }
    return SAYS_READY;
}

static void end_servers(const struct servers *servers)
{
    for (int i = 0; i < servers->n; i++)
        close(servers->end_with[i]);
    for (int i = 0; i < servers->n; i++) {
        if (wait_child(servers->pid[i], END_TIMEOUT_MS))
            continue;
        kill(servers->pid[i], SIGTERM);
        if (!wait_child(servers->pid[i], TERM_TIMEOUT_MS)) {
            kill(servers->pid[i], SIGKILL);
            wait_child(servers->pid[i], -1);
        }
    }
}

/* Moves the descriptors to their fixed numbers and closes all others, so that nobody waits on a pipe that only the keeper
 * still holds. */
static int settle(int link, int ready, int server_log, int pool_fd)
{
    enum { N = KEEPER_FREE - KEEPER_LINK };
    int from[N] = {link, ready, server_log, pool_fd};
    for (int i = 0; i < N; i++)
        if (from[i] >= 0 && (from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, KEEPER_FREE)) < 0)
            return -errno;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 && (null = memfd_create("endgame-null", MFD_CLOEXEC)) < 0) /* a root folder without devices */
        return -errno;
    for (int fd = 0; fd < KEEPER_LINK; fd++)
        dup2(null, fd);
    for (int i = 0; i < N; i++)
        if (from[i] >= 0)
            dup3(from[i], KEEPER_LINK + i, O_CLOEXEC);
        else
            close(KEEPER_LINK + i);
    close_range(KEEPER_FREE, ~0U, 0);
    return 0;
}

static void keep(struct cli_pool *pool, const struct cli_embedded *embedded)
{
    struct servers servers = {.n = 0};
    char said[2] = {SAYS_ENDED, CLI_EMBEDDED_MEMORY};
    said[0] = start_servers(embedded, pool, &servers, &said[1]);
    bool told = write(KEEPER_READY, said, sizeof said) == sizeof said;
    close(KEEPER_READY);
    close(KEEPER_LOG);

    char byte;
    ssize_t got;
    while ((got = read(KEEPER_LINK, &byte, 1)) < 0 && errno == EINTR)
        ;
    if (told && said[0] == SAYS_READY && got <= 0) {
        /* Two looks, for what one look cannot see: a child between two locks. */
        int unused = 0;
        for (int pause_ms = POLL_MIN_MS; unused < 2;) {
            unused = cli_pool_in_use(pool) ? 0 : unused + 1;
            usleep((useconds_t)pause_ms * 1000);
            pause_ms = unused ? POLL_MIN_MS : pause_ms * 2 > POLL_MAX_MS ? POLL_MAX_MS : pause_ms * 2;
        }
    }
    end_servers(&servers);
    cli_pool_remove(pool);
    _exit(0);
}

void cli_keeper_server_said(const struct cli_keeper *keeper, char *ret_line, size_t line_bytes)
{
    char text[1024];
    *ret_line = 0;
    if (keeper->server_log < 0)
        return;
    off_t end = lseek(keeper->server_log, 0, SEEK_END);
    off_t start = end > (off_t)sizeof text - 1 ? end - (off_t)sizeof text + 1 : 0;
    ssize_t len = pread(keeper->server_log, text, sizeof text - 1, start);
    if (len <= 0)
        return;
    while (len > 0 && text[len - 1] == '\n')
        len--;
    text[len] = 0;
    const char *line = strrchr(text, '\n');
    snprintf(ret_line, line_bytes, "%s", line ? line + 1 : text);
}

/* What the keeper says. Returns 0, or CLI_EXIT_FAILED after saying why. */
static int wait_ready(const struct cli_keeper *keeper, int ready)
{
    enum { GRACE_MS = 5000 };
    struct pollfd readable = {.fd = ready, .events = POLLIN};
    char result[2] = {SAYS_ENDED, CLI_EMBEDDED_MEMORY}, said[512];
    int n = poll(&readable, 1, READY_TIMEOUT_MS + GRACE_MS);
    if (n > 0 && read(ready, result, sizeof result) == sizeof result && result[0] == SAYS_READY)
        return 0;
    int kind = result[1] >= 0 && result[1] < CLI_EMBEDDED_KINDS ? result[1] : CLI_EMBEDDED_MEMORY;
    if ((n == 0 || result[0] == SAYS_LATE) && !kinds[kind].option)
        return cli_fail(CLI_EXIT_FAILED, "the %s was not ready after %d seconds; name the node as tcp:HOST:PORT", kinds[kind].what,
                        READY_TIMEOUT_MS / 1000);
    if (n == 0 || result[0] == SAYS_LATE)
        return cli_fail(CLI_EXIT_FAILED, "the embedded %s was not ready after %d seconds; start one by hand and name it with %s",
                        kinds[kind].what, READY_TIMEOUT_MS / 1000, kinds[kind].option);
    cli_keeper_server_said(keeper, said, sizeof said);
    return cli_fail(CLI_EXIT_FAILED, "the embedded %s did not start: %s", kinds[kind].what, *said ? said : "it gave no reason");
}

void cli_keeper_give_up(struct cli_keeper *keeper)
{
    close(keeper->link);
    if (keeper->pid > 0)
        waitpid(keeper->pid, NULL, 0);
    if (keeper->server_log >= 0)
        close(keeper->server_log);
}

int cli_keeper_start(struct cli_pool *pool, const struct cli_embedded *embedded, struct cli_keeper *ret_keeper)
{
    struct cli_keeper keeper = {.pid = -1, .link = -1, .ready = -1, .server_log = -1};
    int link[2] = {-1, -1}, ready[2] = {-1, -1};
    bool made = pipe2(link, O_CLOEXEC) == 0 && pipe2(ready, O_CLOEXEC) == 0;
    int n = count(embedded);
    if (made && n > 0)
        made = (keeper.server_log = memfd_create("endgame-log", MFD_CLOEXEC)) >= 0;
    if (made)
        made = (keeper.pid = fork()) >= 0;
    if (made && keeper.pid == 0) {
        setsid();
        int error = chdir("/") == 0 ? settle(link[0], ready[1], keeper.server_log, pool->fd) : -errno;
        if (error) {
            bool limited = error == -EMFILE || error == -EINVAL;
            dprintf(keeper.server_log, "its keeper: %s%s\n", strerror(-error), limited ? "; raise the limit on descriptors (ulimit -n)" : "");
            _exit(CLI_EXIT_FAILED);
        }
        pool->fd = KEEPER_POOL;
        keep(pool, embedded);
    }
    int status = 0;
    if (!made)
        status = cli_fail(CLI_EXIT_FAILED, "cannot start the keeper process: %s%s", strerror(errno),
                          errno == EMFILE ? "; raise the limit on descriptors (ulimit -n)" : "");
    close(link[0]);
    close(ready[1]);
    keeper.link = link[1];
    if (!status && n > 0)
        keeper.ready = ready[0];
    else
        close(ready[0]);
    if (status)
        cli_keeper_give_up(&keeper);
    else
        *ret_keeper = keeper;
    return status;
}

int cli_keeper_wait(struct cli_keeper *keeper)
{
    if (keeper->ready < 0)
        return 0;
    int status = wait_ready(keeper, keeper->ready);
    close(keeper->ready);
    keeper->ready = -1;
    return status;
}

void cli_keeper_finish(struct cli_keeper *keeper, struct cli_pool *pool)
{
    bool in_use = cli_pool_in_use(pool);
    /* A keeper that was killed does not read this; SIGPIPE is blocked. */
    ssize_t told = in_use ? 0 : write(keeper->link, "q", 1);
    close(keeper->link);
    keeper->link = -1;
    if (keeper->ready >= 0)
        close(keeper->ready);
    keeper->ready = -1;
    if (keeper->server_log >= 0)
        close(keeper->server_log);
    keeper->server_log = -1;
    if (in_use)
        return;
    if (told == 1)
        wait_child(keeper->pid, END_TIMEOUT_MS + 2 * TERM_TIMEOUT_MS);
    cli_pool_remove(pool);
}
