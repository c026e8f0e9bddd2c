/* cli_run.c - `endgame run`: check everything, make the pool, start the keeper and the program, wait, report. */
#include "cli.h"
#include "cli_child.h"
#include "cli_compute.h"
#include "cli_hints.h"
#include "cli_keeper.h"
#include "cli_machine.h"
#include "cli_pool.h"
#include "cli_profile.h"
#include "cli_program.h"
#include "cli_stats.h"
#include "cli_texts.h"
#include "cli_uffd.h"
#include "cli_verbs.h"
#include "proto/eg_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUDGET_MIN_BYTES (UINT64_C(8) << 20)
#define BUDGET_MIN_TEXT "8M"
#define BUDGET_UNIT_BYTES (UINT64_C(1) << 20)
#define PING_TIMEOUT_MS 3000
#define BUDGET_NONE (UINT64_C(1) << 62) /* nothing is ever evicted */

struct run {
    uint64_t budget_bytes;
    enum eg_engine engine;
    const char *stats_path; /* NULL: none wanted */
    const char *hints_path; /* NULL: none given */
    struct cli_hints hints;
    bool profile;
    const char *output_path; /* of the profile */
    char default_output[NAME_MAX + 8];
    int output_fd;
    bool output_created;
    struct eg_addr servers[EG_POOL_SERVERS];
    int n_servers;
    struct cli_compute compute;
    bool far; /* memory servers, too */
    char **program;
    char library[PATH_MAX];
    char memserver[PATH_MAX];
    char verbs_library[sizeof(((struct eg_pool *)0)->verbs_library)]; /* empty: nothing goes over RDMA */
};

static int parse_memory(const struct cli_command *command, const char *text, struct run *run)
{
    int error = eg_size_parse(text, &run->budget_bytes);
    if (error == -ERANGE)
        return cli_usage(command, "--memory %s does not fit in 64 bits", text);
    if (error)
        return cli_usage(command, "--memory '%s' is not a size such as 64M or 1.5G", text);
    if (run->budget_bytes < BUDGET_MIN_BYTES)
        return cli_usage(command, "--memory %s is too small to run with: the minimum is " BUDGET_MIN_TEXT, text);
    run->budget_bytes &= ~(uint64_t)(EG_PAGE_BYTES - 1);
    return 0;
}

/* The program may change its directory, so a relative socket path is made absolute now. */
static int parse_server(const struct cli_command *command, const char *text, struct run *run)
{
    char why[256], absolute[PATH_MAX + 128], cwd[PATH_MAX];
    if (run->n_servers == EG_POOL_SERVERS)
        return cli_usage(command, "more than %d --memserver given", EG_POOL_SERVERS);
    if (strncmp(text, "unix:", 5) == 0 && text[5] && text[5] != '/' && text[5] != '@' && getcwd(cwd, sizeof cwd)) {
        snprintf(absolute, sizeof absolute, "unix:%s/%s", cwd, text + 5);
        text = absolute;
    }
    int error = eg_addr_parse(text, 0, &run->servers[run->n_servers], why, sizeof why);
    if (error == -EINVAL || error == -ENAMETOOLONG)
        return cli_usage(command, "--memserver: %s", why);
    if (error)
        return cli_fail(CLI_EXIT_FAILED, "--memserver: %s", why);
    run->n_servers++;
    return 0;
}

static int default_memory(struct run *run)
{
    struct cli_memory memory;
    cli_memory_read(&memory);
    uint64_t available = memory.available_bytes;
    if (memory.cgroup_available_bytes < available)
        available = memory.cgroup_available_bytes;
    run->budget_bytes = available / 2 & ~(BUDGET_UNIT_BYTES - 1);
    if (run->budget_bytes < BUDGET_MIN_BYTES)
        return cli_fail(CLI_EXIT_FAILED,
                        "only %" PRIu64 "M of memory is free here, too little to choose a budget; say --memory SIZE "
                        "(at least " BUDGET_MIN_TEXT ")",
                        available >> 20);
    return 0;
}

static int parse(const struct cli_command *command, int argc, char **argv, struct run *ret_run)
{
    struct cli_args args = {.command = command, .argc = argc, .argv = argv, .next = 1};
    int status = 0;
    for (int id; !status && (id = cli_args_next(&args)) != CLI_ARG_END;) {
        switch (id) {
        case CLI_OPT_RUN_MEMORY:
            status = parse_memory(command, args.value, ret_run);
            break;
        case CLI_OPT_RUN_MEMSERVER:
            status = parse_server(command, args.value, ret_run);
            break;
        case CLI_OPT_RUN_COMPUTE:
            status = cli_compute_add(command, args.value, &ret_run->compute);
            break;
        case CLI_OPT_RUN_THREADS:
            status = cli_compute_mode(command, args.value, &ret_run->compute);
            break;
        case CLI_OPT_RUN_ENGINE:
            if (strcmp(args.value, "auto") == 0)
                ret_run->engine = EG_ENGINE_AUTO;
            else if (strcmp(args.value, "handler") == 0)
                ret_run->engine = EG_ENGINE_HANDLER;
            else if (strcmp(args.value, "inline") == 0)
                ret_run->engine = EG_ENGINE_INLINE;
            else
                status = cli_usage(command, "unknown fault engine '%s' (auto, handler or inline)", args.value);
            break;
        case CLI_OPT_RUN_STATS:
            if (!*args.value)
                status = cli_usage(command, "--stats needs a file name, or -");
            ret_run->stats_path = args.value;
            break;
        case CLI_OPT_RUN_HINTS:
            if (!*args.value)
                status = cli_usage(command, "--hints needs a file name");
            ret_run->hints_path = args.value;
            break;
        case CLI_OPT_PROFILE_OUTPUT:
            if (!*args.value)
                status = cli_usage(command, "--output needs a file name");
            ret_run->output_path = args.value;
            break;
        default:
            return CLI_EXIT_USAGE;
        }
    }
    if (status)
        return status;
    if (cli_compute_wanted(&ret_run->compute)) {
        if (ret_run->engine == EG_ENGINE_INLINE)
            return cli_usage(command, "--fault-engine inline does not go with --compute: leave one of them out");
        ret_run->far = ret_run->budget_bytes || ret_run->n_servers;
        if (!ret_run->far)
            ret_run->budget_bytes = BUDGET_NONE;
    } else if (ret_run->compute.mode != EG_THREADS_HOME) {
        return cli_usage(command, "--threads %s needs a compute node: give --compute ADDR, or --compute embedded",
                         ret_run->compute.mode == EG_THREADS_AUTO ? "auto" : "remote");
    } else {
        ret_run->far = true;
    }
    if (args.next >= argc)
        return cli_usage(command, "no program given");
    ret_run->program = argv + args.next;
    return 0;
}

/* Returns: 0, or -errno and ret_why. */
static int ping(struct eg_addr *addr, Endgame__Reply **ret_reply, char *ret_why, size_t why_bytes)
{
    Endgame__Ping body = ENDGAME__PING__INIT;
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    request.body_case = ENDGAME__REQUEST__BODY_PING;
    request.ping = &body;
    return cli_verbs_call(addr, &request, PING_TIMEOUT_MS, ret_reply, ret_why, why_bytes);
}

static int check_server(struct eg_addr *addr)
{
    char why[512];
    Endgame__Reply *reply = NULL;
    if (ping(addr, &reply, why, sizeof why) != 0)
        return cli_fail(CLI_EXIT_FAILED, "%s", why);
    int status = 0;
    const Endgame__PingReply *pong = reply->body_case == ENDGAME__REPLY__BODY_PING ? reply->ping : NULL;
    if (!pong)
        status = cli_fail(CLI_EXIT_FAILED, "%s does not answer as a memory server should; is it another service?", addr->text);
    else if (pong->version != EG_WIRE_VERSION)
        status = cli_fail(CLI_EXIT_FAILED, "%s speaks protocol version %" PRIu32 ", this endgame speaks %u; upgrade the older one",
                          addr->text, pong->version, EG_WIRE_VERSION);
    else if (pong->compute)
        status = cli_fail(CLI_EXIT_FAILED, "%s is a compute node: name it with --compute; memory servers are endgame-memserver", addr->text);
    else if (pong->draining)
        status = cli_fail(CLI_EXIT_FAILED, "%s is draining and takes no new programs; use another server", addr->text);
    else if (pong->free_bytes < EG_SLAB_BYTES)
        status = cli_fail(CLI_EXIT_FAILED, "%s is full; use another server or start it with a larger --capacity", addr->text);
    endgame__reply__free_unpacked(reply, NULL);
    return status;
}

/* Everything that can be known to fail before a process is started. */
static int check(struct run *run)
{
    char text[256];
    if (access("/proc/self/exe", F_OK) != 0)
        return cli_fail(CLI_EXIT_FAILED, "no /proc here; mount it: mount -t proc proc /proc");
    int status = cli_program_check(run->program[0]);
    if (status)
        return status;
    if (run->budget_bytes == 0 && (status = default_memory(run)) != 0)
        return status;
    if (cli_library_find(run->library, sizeof run->library) != 0)
        return cli_fail(CLI_EXIT_FAILED, "no runtime library at %s; build or install endgame, or set ENDGAME_LIBRARY",
                        run->library);
    if (run->far && run->n_servers == 0 && cli_memserver_find(run->memserver, sizeof run->memserver) != 0)
        return cli_fail(CLI_EXIT_FAILED, "no memory server at %s to embed; build or install endgame, or name a running one "
                                         "with --memserver",
                        run->memserver);
    struct cli_uffd uffd;
    cli_uffd_probe(&uffd);
    const char *missing = cli_uffd_missing(&uffd, run->engine == EG_ENGINE_HANDLER || cli_compute_wanted(&run->compute), text, sizeof text);
    if (missing)
        return cli_fail(CLI_EXIT_FAILED, "%s; 'endgame doctor' says more", missing);
    status = cli_compute_check(&run->compute);
    for (int i = 0; i < run->n_servers && !status; i++) {
        status = check_server(&run->servers[i]);
        if (status || run->servers[i].kind != EG_ADDR_RDMA)
            continue;
        char library[PATH_MAX];
        if (cli_verbs_find(library, sizeof library) || strlen(library) >= sizeof run->verbs_library)
            return cli_fail(CLI_EXIT_FAILED, "no RDMA library at %s; install endgame whole, in a place with a shorter name", library);
        memcpy(run->verbs_library, library, strlen(library) + 1);
    }
    return status;
}

static int read_hints(struct run *run)
{
    char path[PATH_MAX] = "";
    struct cli_hints_for about = {.program = path, .n_servers = run->n_servers ? run->n_servers : 1};
    if (cli_program_find(run->program[0], path, sizeof path))
        path[0] = 0; /* said later, with the reason */
    return run->hints_path ? cli_hints_read(run->hints_path, &about, &run->hints) : 0;
}

/* Before the program starts: can the profile be written? What is there already stays until then. */
static int open_output(struct run *run)
{
    if (!run->profile)
        return 0;
    if (!run->output_path) {
        const char *slash = strrchr(run->program[0], '/');
        snprintf(run->default_output, sizeof run->default_output, "%.*s.hints", NAME_MAX - 6, slash ? slash + 1 : run->program[0]);
        run->output_path = run->default_output;
    }
    run->output_fd = open(run->output_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    run->output_created = run->output_fd >= 0;
    if (run->output_fd < 0 && errno == EEXIST)
        run->output_fd = open(run->output_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (run->output_fd < 0)
        return cli_fail(CLI_EXIT_FAILED, "cannot write hints to %s: %s; say --output FILE", run->output_path, strerror(errno));
    return 0;
}

static void drop_output(struct run *run)
{
    if (run->output_fd >= 0)
        close(run->output_fd);
    if (run->output_fd >= 0 && run->output_created)
        unlink(run->output_path);
    run->output_fd = -1;
}

static void write_output(struct run *run, const struct eg_hints_file *file)
{
    char found[PATH_MAX], *path = cli_program_find(run->program[0], found, sizeof found) == 0 ? realpath(found, NULL) : NULL;
    FILE *to = NULL;
    long n = ftruncate(run->output_fd, 0) != 0 && errno != EINVAL ? -errno : 0; /* EINVAL: a pipe */
    if (!n && !(to = fdopen(run->output_fd, "w")))
        n = -errno;
    if (!n)
        n = cli_profile_write(to, file, run->budget_bytes, path, run->program);
    if (to && fclose(to) != 0 && n >= 0)
        n = -errno;
    if (to)
        run->output_fd = -1;
    free(path);
    if (n < 0)
        cli_warn("the hints could not be written to %s: %s", run->output_path, strerror((int)-n));
    else if (!n)
        cli_warn("%s has no rules: nothing in this run asked for any (has the program more memory than --memory?)", run->output_path);
    else
        cli_warn("%ld rule%s in %s, for endgame run --hints", n, n == 1 ? "" : "s", run->output_path);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int embedded_address(const struct cli_pool *pool, struct eg_addr *ret_addr)
{
    char text[sizeof pool->socket + 8], why[256];
    snprintf(text, sizeof text, "unix:%s", pool->socket);
    if (eg_addr_parse(text, 0, ret_addr, why, sizeof why) != 0)
        return cli_fail(CLI_EXIT_FAILED, "%s", why);
    return 0;
}

static void let_begin(struct cli_pool *pool)
{
    __atomic_store_n(&pool->map->held, 0, __ATOMIC_RELEASE); /* pairs with wait_while_held of preload/init.c */
    syscall(SYS_futex, &pool->map->held, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Ends like the program, or returns an exit status if it was not started. */
static int start(struct run *run, struct cli_inherit *inherit, struct cli_stats *stats)
{
    struct cli_pool pool;
    struct cli_keeper keeper;
    struct eg_hints_file *hints = NULL;
    char texts[EG_TEXTS_PATH_BYTES];
    struct cli_embedded embedded = {.daemon = {run->memserver, run->compute.daemon, run->compute.relay},
                                    .n = {run->far && run->n_servers == 0, run->compute.n_embedded}};
    cli_compute_relays(&run->compute, &embedded);
    int status = cli_pool_create(run->budget_bytes, run->engine, run->library, &pool);
    if (status)
        return status;
    if (embedded.n[CLI_EMBEDDED_MEMORY] && (status = embedded_address(&pool, &run->servers[run->n_servers++])) != 0)
        goto no_keeper;
    for (int i = 0; i < run->n_servers; i++)
        cli_pool_add_server(&pool, &run->servers[i]);
    memcpy(pool.map->verbs_library, run->verbs_library, sizeof run->verbs_library);
    cli_texts_recall(&pool, texts, sizeof texts);
    if ((run->hints.n_rules || run->profile) && (status = cli_hints_publish(&run->hints, run->profile, &pool, &hints)) != 0)
        goto no_keeper;
    status = cli_keeper_start(&pool, &embedded, &keeper);
    if (status)
        goto no_keeper;

    if (cli_compute_wanted(&run->compute)) {
        status = cli_keeper_wait(&keeper);
        if (status)
            goto no_server;
        status = cli_compute_publish(&run->compute, &pool);
        if (status) {
            cli_keeper_finish(&keeper, &pool);
            cli_pool_close(&pool);
            return status;
        }
    }

    uint64_t start_ns = now_ns();
    pool.map->held = keeper.ready >= 0; /* until the embedded server is ready, the program is loaded, but does not begin */
    pid_t child = cli_child_start(inherit, run->program, pool.path, pool.library, texts);
    if (child < 0) {
        cli_keeper_finish(&keeper, &pool);
        cli_pool_close(&pool);
        return -child;
    }
    status = cli_keeper_wait(&keeper);
    if (status) {
        kill(child, SIGKILL); /* before the pool goes: the program would find none, and begin */
        waitpid(child, NULL, 0);
        goto no_server;
    }
    let_begin(&pool);
    int wait_status = cli_child_wait(child);
    if (pool.map->said) /* from a process that had closed its own stderr */
        fprintf(stderr, "%.*s", (int)sizeof pool.map->words, pool.map->words);
    if (run->stats_path)
        cli_stats_write(stats, &pool, run->program[0], wait_status, now_ns() - start_ns);
    if (hints)
        write_output(run, hints);
    if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGBUS) {
        char said[512];
        cli_keeper_server_said(&keeper, said, sizeof said);
        if (*said)
            cli_warn("the embedded %s's last words: %s", cli_embedded_what(&embedded), said);
    }
    cli_keeper_finish(&keeper, &pool);
    cli_child_end_like(wait_status);

no_server:
    cli_keeper_give_up(&keeper);
no_keeper:
    cli_pool_remove(&pool);
    cli_pool_close(&pool);
    return status;
}

static int run_main(const struct cli_command *command, int argc, char **argv, bool profile)
{
    static struct run run;
    run.profile = profile;
    run.output_fd = -1;
    struct cli_inherit inherit;
    struct cli_stats stats = {.fd = -1, .dir = -1};
    int status = parse(command, argc, argv, &run);
    if (status)
        return status;
    cli_child_prepare(&inherit);
    status = read_hints(&run);
    if (!status)
        status = check(&run);
    if (!status)
        status = open_output(&run);
    if (!status && run.stats_path)
        status = cli_stats_open(run.stats_path, &stats);
    if (!status) {
        cli_child_block(&inherit);
        status = start(&run, &inherit, &stats);
    }
    cli_stats_drop(&stats);
    drop_output(&run);
    cli_child_done(&inherit);
    if (status > CLI_CHILD_SIGNALLED)
        cli_child_end_like(status - CLI_CHILD_SIGNALLED);
    return status;
}

int cli_run_main(const struct cli_command *command, int argc, char **argv)
{
    return run_main(command, argc, argv, false);
}

int cli_profile_main(const struct cli_command *command, int argc, char **argv)
{
    return run_main(command, argc, argv, true);
}
