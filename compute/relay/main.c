/* endgame-relay: carries streams to compute nodes over RDMA. Started by `endgame run` and by endgame-compute, not by users. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "proto/eg_daemon.h"
#include "compute/relay/relay.h"

#define ADDR_KIND_RDMA 3u /* EG_ADDR_RDMA of the client's eg_pool.h */
#define DAEMON_STDERR 4   /* compute/rdma.c */

const char eg_daemon_name[] = "endgame-relay";

static const struct eg_daemon_option options[] = {
    { 'l', "listen", "ADDR", "with --to: unix:PATH; with --hand-to: rdma:HOST:PORT" },
    { 't', "to", "ADDR", "connect each connection with rdma:HOST:PORT" },
    { 'f', "hand-to", "FD", "hand each connection to the compute daemon behind descriptor FD" },
    EG_DAEMON_OPTIONS,
};

static const struct eg_daemon_help help = {
    "Usage: endgame-relay --listen unix:PATH --to rdma:HOST:PORT [OPTION]...\n"
    "Carry streams to compute nodes over RDMA. `endgame run --compute rdma:...` and\n"
    "`endgame-compute --listen rdma:...` start one each; it is not for users.\n",
    "\nOn standard output comes one line `endgame-relay ready ADDR` when it serves.",
    options, sizeof options / sizeof *options, 18
};

struct settings {
    struct eg_addr to;
    int hand_to;
};

static void on_option(void *arg, char letter, const char *value)
{
    struct settings *s = arg;
    char why[256];
    if (letter == 'f') s->hand_to = eg_daemon_number("hand-to", value, 3, 1 << 20);
    else if (eg_addr_parse(value, 0, &s->to, why, sizeof why)) eg_daemon_usage("--to %s", why);
}

/* The daemon says what went wrong; it has the user's terminal. */
static void tell_daemon(int fd, char how, const char *text)
{
    char line[PATH_MAX + 256];
    int n = snprintf(line, sizeof line, "%c%s", how, text);
    (void)!send(fd, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1, MSG_NOSIGNAL);
}

static int listen_on(void *arg, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
{
    struct egr_relay *relay = arg;
    int r = egr_relay_listen(relay, addr, ret_text, text_bytes, ret_why, why_bytes);
    if (relay->hand_to >= 0) tell_daemon(relay->hand_to, r ? 'E' : 'R', r ? ret_why : ret_text);
    return r;
}

static void leave(void *arg)
{
    struct egr_relay *relay = arg;
    relay->ending = true;
    egr_relay_settle(relay);
}

int main(int argc, char **argv)
{
    static const struct eg_daemon_calls calls = { listen_on, leave };
    struct settings s = { .hand_to = -1 };
    struct eg_daemon_args args;
    struct egr_relay relay;
    char why[PATH_MAX + 256];
    const char *ended_by;

    eg_daemon_parse(argc, argv, &help, on_option, &s, &args);
    if ((s.hand_to < 0) == !s.to.kind) eg_daemon_usage("one of --to and --hand-to");
    if (args.n_listen != 1) eg_daemon_usage("one --listen");
    if (s.to.kind && s.to.kind != ADDR_KIND_RDMA) eg_daemon_usage("--to %s: write rdma:HOST:PORT", s.to.text);
    if ((args.listen[0].kind == ADDR_KIND_RDMA) != (s.hand_to >= 0)) eg_daemon_usage("--listen %s: not with this", args.listen[0].text);
    eg_daemon_init();
    struct event_base *base = event_base_new();
    if (!base || egr_relay_init(&relay, base, &s.to, s.hand_to)) eg_daemon_fatal("out of memory");
    int r = eg_daemon_run(&args, base, &calls, &relay, &ended_by, why, sizeof why);
    egr_relay_done(&relay);
    event_base_free(base);
    if (r) eg_daemon_fatal("%s", why);
    return 0;
}
