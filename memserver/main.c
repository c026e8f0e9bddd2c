/* endgame-memserver: lends this machine's memory to programs that run elsewhere. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include "memserver/control.h"
#include "memserver/meminfo.h"
#include "memserver/server.h"
#include "proto/eg_daemon.h"

#define DATA_THREADS_MAX 64
#define RESERVE_MAX_BYTES (256ull << 20) /* left to the machine when slabs are leased */

const char eg_daemon_name[] = "endgame-memserver";
static const struct eg_daemon_sizes sizes = { EG_SLAB_BYTES, EGM_CAPACITY_MAX_BYTES, "2M", "64T", "64G" };

static const struct eg_daemon_option options[] = {
    { 'l', "listen", "ADDR",
      "serve on ADDR: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH; port 0: any free one; may be repeated" },
    { 'c', "capacity", "SIZE", "memory to lend, such as 64G; default: what is free now, less a tenth" },
    { 'q', "quota", "SIZE", "most that one program run may hold or be promised; default: no limit" },
    { 't', "data-threads", "N", "threads that serve tcp reads and writes, 1 to 64; default: 1" },
    { 'u', "any-user", "", "unix sockets are for all users that get at them, not only for this one and root" },
    EG_DAEMON_OPTIONS,
};

static const struct eg_daemon_help help = {
    "Usage: endgame-memserver --listen ADDR [--listen ADDR]... [OPTION]...\n"
    "Lend this machine's memory to programs started with `endgame run -s ADDR`.\n",
    "\nOn standard output comes one line `endgame-memserver ready ADDR` per address once all serve.\n"
    "SIGTERM and SIGINT end the server at once; `endgame status ADDR` shows what it holds.",
    options, sizeof options / sizeof *options, 24
};

struct settings {
    unsigned data_threads;
    uint64_t capacity, quota; /* 0: not given */
    bool any_user;
};

static void on_option(void *arg, char letter, const char *value)
{
    struct settings *s = arg;
    if (letter == 'c') s->capacity = eg_daemon_size("capacity", value, &sizes);
    else if (letter == 'q') s->quota = eg_daemon_size("quota", value, &sizes);
    else if (letter == 'u') s->any_user = true;
    else s->data_threads = (unsigned)eg_daemon_number("data-threads", value, 1, DATA_THREADS_MAX);
}

static uint64_t default_capacity(void)
{
    uint64_t left = egm_meminfo_available();
    if (left == UINT64_MAX) eg_daemon_fatal("cannot find out how much memory is free: give --capacity SIZE");
    left -= left / 10;
    if (left < EG_SLAB_BYTES) eg_daemon_fatal("this machine has no memory to lend: free some or give --capacity SIZE");
    return left < EGM_CAPACITY_MAX_BYTES ? left : EGM_CAPACITY_MAX_BYTES;
}

static void note_capacity(uint64_t capacity)
{
    char size[32], total[32];
    if (capacity <= egm_meminfo_total()) return;
    fprintf(stderr,
            "endgame-memserver: note: capacity %s is above this machine's %s of memory; what is not there is refused "
            "when asked for\n",
            eg_size_format(capacity, size, sizeof size), eg_size_format(egm_meminfo_total(), total, sizeof total));
}

static void raise_limit(__rlimit_resource_t which, const char *what, uint64_t bytes)
{
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    char most[24], least[24];

    if (!setrlimit(which, &limit) || getrlimit(which, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(which, &limit);
    if (limit.rlim_cur < bytes)
        eg_daemon_fatal("the limit on %s is %s, and a program may get %s here: "
                        "raise it (as root), or lower --capacity or --quota",
                        what, eg_size_format(limit.rlim_cur, most, sizeof most), eg_size_format(bytes, least, sizeof least));
}

/* A program's memory here is a file of ours; for programs on other machines it is mapped as a whole. */
static void memory_may_grow(uint64_t bytes, const struct eg_daemon_args *args)
{
    bool maps = false;

    for (unsigned i = 0; i < args->n_listen; i++) maps |= args->listen[i].sa.ss_family != AF_UNIX;
    raise_limit(RLIMIT_FSIZE, "file sizes (ulimit -f)", bytes);
    raise_limit(RLIMIT_AS, "addresses (ulimit -v)", maps ? bytes : 0);
}

static int listen_on(void *arg, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
{
    return egm_server_listen(arg, addr, ret_text, text_bytes, ret_why, why_bytes);
}

static void leave(void *arg)
{
    struct egm_server *server = arg;
    server->ending = true;
    egm_server_settle(server);
}

int main(int argc, char **argv)
{
    static const struct eg_daemon_calls calls = { listen_on, leave };
    struct settings s = { .data_threads = 1 };
    struct eg_daemon_args args;
    struct egm_server server;
    char why[256];
    const char *ended_by;

    eg_daemon_parse(argc, argv, &help, on_option, &s, &args);
    if (!s.capacity) s.capacity = default_capacity();
    else note_capacity(s.capacity);
    eg_daemon_init();
    memory_may_grow(s.quota && s.quota < s.capacity ? s.quota : s.capacity, &args);
    signal(SIGXFSZ, SIG_IGN); /* the arena is no file of the user's: RLIMIT_FSIZE shows as an error */
    int r = egm_server_init(&server, s.capacity, s.quota, s.data_threads);
    if (r) eg_daemon_fatal("cannot start: %s", strerror(-r));
    server.any_user = s.any_user;
    server.store.memory_left = egm_meminfo_available;
    server.store.memory_reserve =
        egm_meminfo_total() / 50 < RESERVE_MAX_BYTES ? egm_meminfo_total() / 50 : RESERVE_MAX_BYTES;
    if (eg_daemon_run(&args, server.base, &calls, &server, &ended_by, why, sizeof why)) {
        egm_server_done(&server); /* removes socket files */
        eg_daemon_fatal("%s", why);
    }
    if (ended_by && server.store.n_sessions)
        fprintf(stderr, "endgame-memserver: ended by %s, %llu program%s cut off\n", ended_by,
                (unsigned long long)server.store.n_sessions, server.store.n_sessions == 1 ? "" : "s");
    egm_server_done(&server);
    return 0;
}
