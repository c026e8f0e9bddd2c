/* endgame-compute: lets threads of programs that run elsewhere run on this machine. */
#include <limits.h>
#include <stdio.h>
#include <unistd.h>
#include "compute/node.h"
#include "proto/eg_daemon.h"

#define SLOTS_MAX 4096
#define MEMORY_MIN_BYTES (16ull << 20) /* a worker's own, and a few of the program's pages */

const char eg_daemon_name[] = "endgame-compute";
static const struct eg_daemon_sizes sizes = { MEMORY_MIN_BYTES, 64ull << 40, "16M", "64T", "4G" };

static const struct eg_daemon_option options[] = {
    { 'l', "listen", "ADDR", "serve on ADDR: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH; port 0: any free one; may be repeated" },
    { 'n', "slots", "N", "threads to run at once, 1 to 4096; more share them; default: the processors" },
    { 'm', "memory", "SIZE",
      "most that one process's worker may use, such as 4G; default: no limit, a quarter of the memory here for the program's pages" },
    EG_DAEMON_OPTIONS,
};

static const struct eg_daemon_help help = {
    "Usage: endgame-compute --listen ADDR [--listen ADDR]... [OPTION]...\n"
    "Let threads of programs started with `endgame run -c ADDR` run on this machine.\n",
    "\nOn standard output comes one line `endgame-compute ready ADDR` per address once all serve.\n"
    "SIGTERM and SIGINT end the node at once; `endgame status ADDR` shows whose threads are here.\n"
    "Each program's process has a worker of its own here, which cannot reach this machine's files,\n"
    "network or processes. endgame-worker is looked for beside this program, or at $ENDGAME_WORKER.",
    options, sizeof options / sizeof *options, 20
};

struct settings {
    unsigned slots;
    uint64_t memory_bytes;
};

static void on_option(void *arg, char letter, const char *value)
{
    struct settings *s = arg;
    if (letter == 'n') s->slots = (unsigned)eg_daemon_number("slots", value, 1, SLOTS_MAX);
    else s->memory_bytes = eg_daemon_size("memory", value, &sizes);
}

static int listen_on(void *arg, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
{
    return egc_node_listen(arg, addr, ret_text, text_bytes, ret_why, why_bytes);
}

static void leave(void *arg)
{
    struct egc_node *node = arg;
    node->ending = true;
    egc_node_settle(node);
}

int main(int argc, char **argv)
{
    static const struct eg_daemon_calls calls = { listen_on, leave };
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    struct settings s = { .slots = online > 0 && online <= SLOTS_MAX ? (unsigned)online : 1 };
    struct eg_daemon_args args;
    struct egc_node node;
    char why[PATH_MAX + 256];
    const char *ended_by;

    eg_daemon_parse(argc, argv, &help, on_option, &s, &args);
    eg_daemon_init();
    if (egc_node_init(&node, s.slots, s.memory_bytes, why, sizeof why)) eg_daemon_fatal("%s", why);
    if (*why) fprintf(stderr, "endgame-compute: note: %s\n", why);
    if (eg_daemon_run(&args, node.base, &calls, &node, &ended_by, why, sizeof why)) {
        egc_node_done(&node); /* removes socket files */
        eg_daemon_fatal("%s", why);
    }
    uint32_t cut_off = egc_workers_count(&node.workers, EGC_BOUND);
    if (ended_by && cut_off)
        fprintf(stderr, "endgame-compute: ended by %s, %u process%s cut off\n", ended_by, cut_off, cut_off == 1 ? "" : "es");
    egc_node_done(&node);
    return 0;
}
