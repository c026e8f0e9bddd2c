/* endgame-memserver: lends this machine's memory to programs that run elsewhere. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "memserver/control.h"
#include "memserver/meminfo.h"
#include "memserver/options.h"
#include "memserver/server.h"
#include "proto/eg_daemon.h"

#define LISTEN_MAX 16
#define DATA_THREADS_MAX 64
#define RESERVE_MAX_BYTES (256ull << 20) /* left to the machine when slabs are leased */

enum option_code {
    OPTION_BASE = 255,
#define EGM_X(id, letter, name, argument, text) OPTION_##id,
    EGM_OPTIONS(EGM_X)
#undef EGM_X
};

struct settings {
    const char *listen[LISTEN_MAX];
    unsigned n_listen, data_threads;
    uint64_t capacity, quota;
    bool has_capacity, has_quota;
    int end_with;
};

const char eg_daemon_name[] = "endgame-memserver";
static const struct eg_daemon_sizes sizes = { EG_SLAB_BYTES, EGM_CAPACITY_MAX_BYTES, "2M", "64T", "64G" };

static void show_help(void)
{
    puts("Usage: endgame-memserver --listen ADDR [--listen ADDR]... [OPTION]...\n"
         "Lend this machine's memory to programs started with `endgame run -s ADDR`.\n");
    static const struct eg_daemon_option rows[] = {
#define EGM_X(id, letter, name, argument, text) { letter, name, argument, text },
        EGM_OPTIONS(EGM_X)
#undef EGM_X
    };
    eg_daemon_show_options(rows, sizeof rows / sizeof *rows, 24);
    puts("\nOn standard output comes one line `endgame-memserver ready ADDR` per address once all serve.\n"
         "SIGTERM and SIGINT end the server at once; `endgame status ADDR` shows what it holds.");
}

static struct settings parse_options(int argc, char **argv)
{
    static const struct option options[] = {
#define EGM_X(id, letter, name, argument, text)                                                                        \
    { name, sizeof(argument) > 1 ? required_argument : no_argument, NULL, OPTION_##id },
        EGM_OPTIONS(EGM_X)
#undef EGM_X
            { 0 }
    };
    struct settings s = { .data_threads = 1, .end_with = -1 };
    int code, at = 1;

    opterr = 0;
    while ((code = getopt_long(argc, argv, ":l:c:q:t:hV", options, NULL)) != -1) {
        switch (code) {
        case 'l':
        case OPTION_LISTEN:
            if (s.n_listen == LISTEN_MAX) eg_daemon_usage("--listen: at most %d addresses", LISTEN_MAX);
            s.listen[s.n_listen++] = optarg;
            break;
        case 'c':
        case OPTION_CAPACITY:
            s.capacity = eg_daemon_size("capacity", optarg, &sizes);
            s.has_capacity = true;
            break;
        case 'q':
        case OPTION_QUOTA:
            s.quota = eg_daemon_size("quota", optarg, &sizes);
            s.has_quota = true;
            break;
        case 't':
        case OPTION_DATA_THREADS:
            s.data_threads = (unsigned)eg_daemon_number("data-threads", optarg, 1, DATA_THREADS_MAX);
            break;
        case OPTION_END_WITH:
            s.end_with = eg_daemon_number("end-with", optarg, 0, 1 << 30);
            if (fcntl(s.end_with, F_GETFD) < 0) eg_daemon_usage("--end-with %s: that descriptor is not open", optarg);
            break;
        case 'h':
        case OPTION_HELP:
            show_help();
            exit(0);
        case 'V':
        case OPTION_VERSION:
            puts("endgame-memserver " EG_VERSION);
            exit(0);
        case ':':
            eg_daemon_usage("%s: an argument is missing", argv[at]);
        default:
            eg_daemon_usage("%s: unknown option", argv[at]);
        }
        at = optind;
    }
    if (optind < argc) eg_daemon_usage("%s: not an option", argv[optind]);
    if (!s.n_listen) eg_daemon_usage("no --listen ADDR");
    return s;
}

struct end {
    struct egm_server *server;
    int signal;
};

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct end *end = arg;
    (void)what;
    end->signal = (int)number;
    event_base_loopbreak(end->server->base);
}

/* Its warnings repeat what comes back as an error. */
static void on_event_log(int severity, const char *text)
{
    if (severity >= EVENT_LOG_ERR) fprintf(stderr, "endgame-memserver: event loop: %s\n", text);
}

static struct event *end_with_event;

static void on_end_with(evutil_socket_t fd, short what, void *arg)
{
    struct egm_server *server = arg;
    char sink[256];
    (void)what;
    ssize_t n = read(fd, sink, sizeof sink);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) return;
    event_del(end_with_event);
    server->ending = true;
    egm_server_settle(server);
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

int main(int argc, char **argv)
{
    struct settings s = parse_options(argc, argv);
    struct eg_addr addresses[LISTEN_MAX];
    char ready[LISTEN_MAX][160], why[256];
    struct egm_server server;
    struct end end = { .server = &server };
    struct event *signals[2] = { NULL };
    static const int signal_numbers[2] = { SIGTERM, SIGINT };

    for (unsigned i = 0; i < s.n_listen; i++) {
        int error = eg_addr_parse(s.listen[i], 1, &addresses[i], why, sizeof why);
        if (error == -ENOENT) eg_daemon_fatal("%s", why);
        if (error) eg_daemon_usage("--listen %s", why);
    }
    event_set_log_callback(on_event_log);
    if (!s.has_capacity) s.capacity = default_capacity();
    else note_capacity(s.capacity);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* the arena is no file of the user's: RLIMIT_FSIZE shows as an error */
    int r = egm_server_init(&server, s.capacity, s.quota, s.data_threads);
    if (r) eg_daemon_fatal("cannot start: %s", strerror(-r));
    server.store.memory_left = egm_meminfo_available;
    server.store.memory_reserve =
        egm_meminfo_total() / 50 < RESERVE_MAX_BYTES ? egm_meminfo_total() / 50 : RESERVE_MAX_BYTES;

    for (unsigned i = 0; i < 2; i++) {
        signals[i] = evsignal_new(server.base, signal_numbers[i], on_signal, &end);
        if (!signals[i] || event_add(signals[i], NULL)) eg_daemon_fatal("cannot start: out of memory");
    }
    for (unsigned i = 0; i < s.n_listen; i++)
        if (egm_server_listen(&server, &addresses[i], ready[i], sizeof ready[i], why, sizeof why)) {
            egm_server_done(&server); /* removes the socket files of the others */
            eg_daemon_fatal("%s", why);
        }
    if (s.end_with >= 0) {
        (void)fcntl(s.end_with, F_SETFD, FD_CLOEXEC);
        (void)fcntl(s.end_with, F_SETFL, fcntl(s.end_with, F_GETFL) | O_NONBLOCK);
        end_with_event = event_new(server.base, s.end_with, EV_READ | EV_PERSIST, on_end_with, &server);
        if (!end_with_event || event_add(end_with_event, NULL)) {
            egm_server_done(&server);
            eg_daemon_fatal("--end-with %d: give the reading end of a pipe or a socket", s.end_with);
        }
    }
    for (unsigned i = 0; i < s.n_listen; i++) printf("endgame-memserver ready %s\n", ready[i]);
    fflush(stdout);

    event_base_dispatch(server.base);

    if (end.signal && server.store.n_sessions)
        fprintf(stderr, "endgame-memserver: ended by %s, %llu program%s cut off\n",
                end.signal == SIGINT ? "SIGINT" : "SIGTERM", (unsigned long long)server.store.n_sessions,
                server.store.n_sessions == 1 ? "" : "s");
    for (unsigned i = 0; i < 2; i++) event_free(signals[i]);
    if (end_with_event) event_free(end_with_event);
    egm_server_done(&server);
    return 0;
}
