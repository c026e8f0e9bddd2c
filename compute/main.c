/* endgame-compute: lets threads of programs that run elsewhere run on this machine. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "compute/node.h"
#include "compute/options.h"
#include "proto/eg_daemon.h"

#define LISTEN_MAX 16
#define SLOTS_MAX 4096
#define MEMORY_MIN_BYTES (16ull << 20) /* a worker's own, and a few of the program's pages */
#define ADDR_KIND_RDMA 3u              /* EG_ADDR_RDMA of the client's eg_pool.h */

enum option_code {
    OPTION_BASE = 255,
#define EGC_X(id, letter, name, argument, text) OPTION_##id,
    EGC_OPTIONS(EGC_X)
#undef EGC_X
};

struct settings {
    const char *listen[LISTEN_MAX];
    unsigned n_listen, slots;
    uint64_t memory_bytes;
    int end_with;
};

const char eg_daemon_name[] = "endgame-compute";
static const struct eg_daemon_sizes sizes = { MEMORY_MIN_BYTES, 64ull << 40, "16M", "64T", "4G" };

static void show_help(void)
{
    static const struct eg_daemon_option rows[] = {
#define EGC_X(id, letter, name, argument, text) { letter, name, argument, text },
        EGC_OPTIONS(EGC_X)
#undef EGC_X
    };
    puts("Usage: endgame-compute --listen ADDR [--listen ADDR]... [OPTION]...\n"
         "Let threads of programs started with `endgame run -c ADDR` run on this machine.\n");
    eg_daemon_show_options(rows, sizeof rows / sizeof *rows, 20);
    puts("\nOn standard output comes one line `endgame-compute ready ADDR` per address once all serve.\n"
         "SIGTERM and SIGINT end the node at once; `endgame status ADDR` shows whose threads are here.\n"
         "Each program's process has a worker of its own here, which cannot reach this machine's files,\n"
         "network or processes. endgame-worker is looked for beside this program, or at $ENDGAME_WORKER.");
}

static struct settings parse_options(int argc, char **argv)
{
    static const struct option options[] = {
#define EGC_X(id, letter, name, argument, text)                                                                        \
    { name, sizeof(argument) > 1 ? required_argument : no_argument, NULL, OPTION_##id },
        EGC_OPTIONS(EGC_X)
#undef EGC_X
            { 0 }
    };
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    struct settings s = { .slots = online > 0 && online <= SLOTS_MAX ? (unsigned)online : 1, .end_with = -1 };
    int code, at = 1;

    opterr = 0;
    while ((code = getopt_long(argc, argv, ":l:n:m:hV", options, NULL)) != -1) {
        switch (code) {
        case 'l':
        case OPTION_LISTEN:
            if (s.n_listen == LISTEN_MAX) eg_daemon_usage("--listen: at most %d addresses", LISTEN_MAX);
            s.listen[s.n_listen++] = optarg;
            break;
        case 'n':
        case OPTION_SLOTS:
            s.slots = (unsigned)eg_daemon_number("slots", optarg, 1, SLOTS_MAX);
            break;
        case 'm':
        case OPTION_MEMORY:
            s.memory_bytes = eg_daemon_size("memory", optarg, &sizes);
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
            puts("endgame-compute " EG_VERSION);
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

struct ending {
    struct egc_node *node;
    int signal;
    struct event *pipe;
};

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct ending *ending = arg;
    (void)what;
    ending->signal = (int)number;
    event_base_loopbreak(ending->node->base);
}

/* Its warnings repeat what comes back as an error. */
static void on_event_log(int severity, const char *text)
{
    if (severity >= EVENT_LOG_ERR) fprintf(stderr, "endgame-compute: event loop: %s\n", text);
}

static void on_end_with(evutil_socket_t fd, short what, void *arg)
{
    struct ending *ending = arg;
    char sink[256];
    (void)what;
    ssize_t n = read(fd, sink, sizeof sink);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) return;
    event_del(ending->pipe);
    ending->node->ending = true;
    egc_node_settle(ending->node);
}

static void parse_addresses(const struct settings *s, struct eg_addr *ret_addresses)
{
    char why[256];
    for (unsigned i = 0; i < s->n_listen; i++) {
        int error = eg_addr_parse(s->listen[i], 1, &ret_addresses[i], why, sizeof why);
        if (error == -ENOENT) eg_daemon_fatal("%s", why);
        if (error) eg_daemon_usage("--listen %s", why);
        if (ret_addresses[i].kind == ADDR_KIND_RDMA)
            eg_daemon_usage("--listen %s: rdma: is not supported yet for compute nodes, write tcp:HOST:PORT", s->listen[i]);
    }
}

int main(int argc, char **argv)
{
    static const int signal_numbers[2] = { SIGTERM, SIGINT };
    struct settings s = parse_options(argc, argv);
    struct eg_addr addresses[LISTEN_MAX];
    char ready[LISTEN_MAX][160], why[PATH_MAX + 256];
    struct egc_node node;
    struct ending ending = { .node = &node };
    struct event *signals[2] = { NULL };

    parse_addresses(&s, addresses);
    event_set_log_callback(on_event_log);
    signal(SIGPIPE, SIG_IGN);
    if (s.end_with >= 0) (void)fcntl(s.end_with, F_SETFD, FD_CLOEXEC);
    if (egc_node_init(&node, s.slots, s.memory_bytes, why, sizeof why)) eg_daemon_fatal("%s", why);
    if (*why) fprintf(stderr, "endgame-compute: note: %s\n", why);

    for (unsigned i = 0; i < 2; i++) {
        signals[i] = evsignal_new(node.base, signal_numbers[i], on_signal, &ending);
        if (!signals[i] || event_add(signals[i], NULL)) {
            egc_node_done(&node);
            eg_daemon_fatal("cannot start: out of memory");
        }
    }
    for (unsigned i = 0; i < s.n_listen; i++)
        if (egc_node_listen(&node, &addresses[i], ready[i], sizeof ready[i], why, sizeof why)) {
            egc_node_done(&node); /* removes the socket files of the others */
            eg_daemon_fatal("%s", why);
        }
    if (s.end_with >= 0) {
        (void)fcntl(s.end_with, F_SETFL, fcntl(s.end_with, F_GETFL) | O_NONBLOCK);
        ending.pipe = event_new(node.base, s.end_with, EV_READ | EV_PERSIST, on_end_with, &ending);
        if (!ending.pipe || event_add(ending.pipe, NULL)) {
            egc_node_done(&node);
            eg_daemon_fatal("--end-with %d: give the reading end of a pipe or a socket", s.end_with);
        }
    }
    for (unsigned i = 0; i < s.n_listen; i++) printf("endgame-compute ready %s\n", ready[i]);
    fflush(stdout);

    event_base_dispatch(node.base);

    uint32_t cut_off = egc_workers_count(&node.workers, EGC_BOUND);
    if (ending.signal && cut_off)
        fprintf(stderr, "endgame-compute: ended by %s, %u process%s cut off\n",
                ending.signal == SIGINT ? "SIGINT" : "SIGTERM", cut_off, cut_off == 1 ? "" : "es");
    for (unsigned i = 0; i < 2; i++) event_free(signals[i]);
    if (ending.pipe) event_free(ending.pipe);
    egc_node_done(&node);
    return 0;
}
