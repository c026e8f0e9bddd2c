/* cli_child.c - running the program as a child.
 *
 * All signals are blocked in the parent for the whole run and taken one by one with sigwaitinfo: dispositions stay as they
 * were inherited, and no handler can interrupt anything. */
#include "cli_child.h"
#include "cli.h"
#include "cli_stat.h"
#include "cli_stop.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_TIMERS 3
static const enum __itimer_which timer_kinds[N_TIMERS] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};

static void list_descriptors(struct cli_inherit *inherit)
{
    inherit->fds = NULL;
    inherit->n_fds = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd == dirfd(dir) || fd == STDERR_FILENO)
            continue;
        int *more = realloc(inherit->fds, (size_t)(inherit->n_fds + 1) * sizeof *more);
        if (!more)
            break;
        inherit->fds = more;
        inherit->fds[inherit->n_fds++] = fd;
    }
    closedir(dir);
}

void cli_child_done(struct cli_inherit *inherit)
{
    free(inherit->fds);
    inherit->fds = NULL;
    inherit->n_fds = 0;
}

static void close_descriptors(struct cli_inherit *inherit)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < inherit->n_fds; i++)
        if (inherit->fds[i] <= STDOUT_FILENO && null >= 0)
            dup3(null, inherit->fds[i], O_CLOEXEC);
        else
            close(inherit->fds[i]);
    cli_child_done(inherit);
    if (null >= 0)
        close(null);
}

void cli_child_prepare(struct cli_inherit *ret_inherit)
{
    *ret_inherit = (struct cli_inherit){0};
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR | O_CLOEXEC) < 0)
            break;
    list_descriptors(ret_inherit);
    struct rlimit more = {RLIM_INFINITY, RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &ret_inherit->file_size);
    if (setrlimit(RLIMIT_FSIZE, &more) != 0) {
        more.rlim_cur = more.rlim_max = ret_inherit->file_size.rlim_max;
        setrlimit(RLIMIT_FSIZE, &more);
    }
}

void cli_child_block(struct cli_inherit *inherit)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &inherit->mask);
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &action, &inherit->child_action);
    /* A timer survives an exec but not a fork: it is the program's, not ours. */
    static const struct itimerval off;
    for (int i = 0; i < N_TIMERS; i++)
        setitimer(timer_kinds[i], &off, &inherit->timers[i]);
}

/* A signal that would have ended this process had it not been blocked; 0: none came. */
static int deadly_signal(const struct cli_inherit *inherit)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    static const struct timespec now = {0, 0};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action;
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, numbers[i]);
        if (sigismember(&inherit->mask, numbers[i]) || sigaction(numbers[i], NULL, &action) != 0 ||
            action.sa_handler == SIG_IGN)
            continue;
        if (sigtimedwait(&one, NULL, &now) == numbers[i])
            return numbers[i];
    }
    return 0;
}

static int set_environment(const char *pool_path, const char *library, const char *texts)
{
    const char *old = getenv("LD_PRELOAD");
    size_t len = strlen(library);
    char *preload = NULL, *own_texts = NULL;
    if (*texts) { /* for this process alone: it takes it out of its environment */
        if (asprintf(&own_texts, "%d:%s", (int)getpid(), texts) < 0)
            return -1;
        int ret = setenv("ENDGAME_TEXTS", own_texts, 1);
        free(own_texts);
        if (ret)
            return -1;
    }
    if (setenv("ENDGAME_POOL", pool_path, 1) != 0)
        return -1;
    if (!old || !*old)
        return setenv("LD_PRELOAD", library, 1);
    if (strncmp(old, library, len) == 0 && (old[len] == 0 || old[len] == ':' || old[len] == ' '))
        return 0; /* a run inside a run */
    if (asprintf(&preload, "%s:%s", library, old) < 0)
        return -1;
    int ret = setenv("LD_PRELOAD", preload, 1);
    free(preload);
    return ret;
}

static void become_program(struct cli_inherit *inherit, char **argv, const char *pool_path, const char *library, const char *texts,
                           pid_t parent, int failure)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(CLI_EXIT_FAILED); /* it died before prctl */
    if (set_environment(pool_path, library, texts) == 0) {
        for (int i = 0; i < N_TIMERS; i++)
            setitimer(timer_kinds[i], &inherit->timers[i], NULL);
        setrlimit(RLIMIT_FSIZE, &inherit->file_size);
        sigaction(SIGCHLD, &inherit->child_action, NULL);
        sigprocmask(SIG_SETMASK, &inherit->mask, NULL);
        execvp(argv[0], argv);
    }
    int error = errno;
    if (write(failure, &error, sizeof error) != sizeof error)
        _exit(CLI_EXIT_FAILED);
    _exit(CLI_EXIT_CANNOT_RUN);
}

pid_t cli_child_start(struct cli_inherit *inherit, char **argv, const char *pool_path, const char *library, const char *texts)
{
    int failure[2];
    int number = deadly_signal(inherit);
    if (number)
        return -(CLI_CHILD_SIGNALLED + number);
    if (pipe2(failure, O_CLOEXEC) != 0)
        return -cli_fail(CLI_EXIT_FAILED, "cannot start %s: %s", argv[0], strerror(errno));
    pid_t parent = getpid();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        become_program(inherit, argv, pool_path, library, texts, parent, failure[1]);
    int error = child < 0 ? errno : 0;
    close(failure[1]);
    if (child > 0 && read(failure[0], &error, sizeof error) == sizeof error)
        waitpid(child, NULL, 0);
    close(failure[0]);
    if (child < 0)
        return -cli_fail(CLI_EXIT_FAILED, "cannot start %s: %s", argv[0], strerror(error));
    if (error)
        return -cli_fail(error == ENOENT ? CLI_EXIT_NOT_FOUND : CLI_EXIT_CANNOT_RUN, "cannot run %s: %s", argv[0],
                         strerror(error));
    close_descriptors(inherit);
    return child;
}

static pid_t parent_of(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    const char *fields = cli_stat_fields(AT_FDCWD, path, text, sizeof text);
    int parent = 0;
    return fields && sscanf(fields, "%*c %d", &parent) == 1 ? parent : 0;
}

/* Natively the program would not be reached by a signal that its own tree sends to the program's parent. */
static bool from_own_tree(pid_t sender, pid_t child)
{
    enum { MAX_DEPTH = 256 };
    for (int depth = 0; depth < MAX_DEPTH && sender > 1; depth++) {
        if (sender == child)
            return true;
        sender = parent_of(sender);
    }
    return false;
}

/* What the terminal sends goes to the whole foreground group: the program has it already. A session leader, though, is
 * told alone that its terminal is gone. */
static bool child_has_it(const siginfo_t *info, pid_t child)
{
    int number = info->si_signo;
    if (info->si_code == SI_KERNEL) {
        if ((number == SIGHUP || number == SIGCONT) && getsid(0) == getpid())
            return false;
        return number == SIGINT || number == SIGQUIT || number == SIGTSTP || number == SIGTTIN || number == SIGTTOU ||
               number == SIGWINCH || number == SIGHUP || number == SIGCONT;
    }
    return (info->si_code == SI_USER || info->si_code == SI_QUEUE || info->si_code == SI_TKILL) &&
           from_own_tree(info->si_pid, child);
}

static void hand_on(const siginfo_t *info, pid_t child)
{
    if (info->si_code == SI_QUEUE)
        sigqueue(child, info->si_signo, info->si_value);
    else
        kill(child, info->si_signo);
}

int cli_child_wait(pid_t child)
{
    sigset_t all;
    sigfillset(&all);
    for (;;) {
        int status;
        pid_t pid;
        while ((pid = waitpid(child, &status, WUNTRACED | WNOHANG)) == child) {
            if (!WIFSTOPPED(status))
                return status;
            cli_stop_follow(child, WSTOPSIG(status));
        }
        siginfo_t info;
        int number = sigwaitinfo(&all, &info);
        if (number > 0 && number != SIGCHLD && !child_has_it(&info, child))
            hand_on(&info, child);
    }
}

void cli_child_end_like(int wait_status)
{
    if (!WIFSIGNALED(wait_status))
        _exit(WEXITSTATUS(wait_status));
    int number = WTERMSIG(wait_status);
    struct rlimit none = {0, 0};
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, number);
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0); /* a core pattern with a pipe knows no limit */
    sigaction(number, &action, NULL);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    _exit(128 + number);
}
