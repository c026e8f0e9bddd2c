/* cli_status.c - `endgame status ADDR`. */
#include "cli.h"
#include "client/pager/eg_pool.h"
#include "proto/eg_control_client.h"
#include "proto/eg_wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define STATS_TIMEOUT_MS 5000

/* X(field, is a size): the server's own numbers, in the order of control.proto */
#define STATUS_NUMBERS(X)  \
    X(capacity_bytes, 1)   \
    X(stored_bytes, 1)     \
    X(promised_bytes, 1)   \
    X(quota_bytes, 1)      \
    X(reads, 0)            \
    X(writes, 0)           \
    X(read_bytes, 1)       \
    X(written_bytes, 1)    \
    X(bad_frames, 0)       \
    X(rdma_keys, 0)        \
    X(rdma_messages, 0)

static void print_json(const struct eg_addr *addr, const Endgame__StatsReply *stats)
{
    fputs("{\n  \"memserver\": ", stdout);
    cli_json_string(stdout, addr->text, sizeof addr->text);
    fputs(",\n  \"version\": ", stdout);
    cli_json_string(stdout, stats->version, SIZE_MAX);
    printf(",\n  \"uptime_s\": %" PRIu64 ",\n  \"draining\": %s,\n", stats->uptime_s, stats->draining ? "true" : "false");
#define CLI_X(field, is_size) printf("  \"" #field "\": %" PRIu64 ",\n", stats->field);
    STATUS_NUMBERS(CLI_X)
#undef CLI_X
    fputs("  \"agents\": [", stdout);
    for (size_t i = 0; i < stats->n_agents; i++) {
        const Endgame__AgentRow *row = stats->agents[i];
        printf("%s\n    {\"session\": \"%016" PRIx64 "\", \"program\": ", i ? "," : "", row->session);
        cli_json_string(stdout, row->program, SIZE_MAX);
        printf(", \"pid\": %" PRIu32 ", \"transport\": ", row->pid);
        cli_json_string(stdout, row->transport, SIZE_MAX);
        printf(", \"slabs_held\": %" PRIu64 ", \"slabs_shared\": %" PRIu64 ", \"slabs_promised\": %" PRIu64
               ", \"age_s\": %" PRIu64 "}",
               row->slabs_held, row->slabs_shared, row->slabs_promised, row->age_s);
    }
    fputs(stats->n_agents ? "\n  ]\n}\n" : "]\n}\n", stdout);
}

/* Text from a peer, fit for a terminal, in a column. */
static const char *column(const char *text, char *ret_text, size_t text_bytes)
{
    snprintf(ret_text, text_bytes, "%s", text);
    for (char *p = ret_text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    return ret_text;
}

static void print_head(const char *what, const struct eg_addr *addr, const char *version, uint64_t uptime_s, bool draining)
{
    char text[64];
    printf("%-10s %s\nversion    %s\n", what, addr->text, column(version, text, sizeof text));
    printf("uptime     %" PRIu64 "d %02" PRIu64 ":%02" PRIu64 ":%02" PRIu64 "%s\n", uptime_s / 86400, uptime_s / 3600 % 24,
           uptime_s / 60 % 60, uptime_s % 60, draining ? ", draining" : "");
}

static void print_table(const struct eg_addr *addr, const Endgame__StatsReply *stats)
{
    char text[64], more[64];
    print_head("memserver", addr, stats->version, stats->uptime_s, stats->draining);
    printf("capacity   %s\n", eg_size_format(stats->capacity_bytes, text, sizeof text));
    printf("stored     %s\n", eg_size_format(stats->stored_bytes, text, sizeof text));
    printf("promised   %s\n", eg_size_format(stats->promised_bytes, text, sizeof text));
    printf("quota      %s\n", stats->quota_bytes ? eg_size_format(stats->quota_bytes, text, sizeof text) : "none");
    printf("reads      %" PRIu64 " (%s)\n", stats->reads, eg_size_format(stats->read_bytes, text, sizeof text));
    printf("writes     %" PRIu64 " (%s)\n", stats->writes, eg_size_format(stats->written_bytes, text, sizeof text));
    printf("bad frames %" PRIu64 "\n", stats->bad_frames);
    if (stats->n_agents == 0) {
        puts("\nno programs");
        return;
    }
    printf("\n%-16s %8s %-16s %-9s %10s %10s %10s %8s\n", "SESSION", "PID", "PROGRAM", "TRANSPORT", "HELD", "SHARED", "PROMISED",
           "AGE");
    for (size_t i = 0; i < stats->n_agents; i++) {
        const Endgame__AgentRow *row = stats->agents[i];
        printf("%016" PRIx64 " %8" PRIu32 " %-16.16s %-9.9s", row->session, row->pid, column(row->program, text, sizeof text),
               column(row->transport, more, sizeof more));
        printf(" %10s", eg_size_format(row->slabs_held * EG_SLAB_BYTES, text, sizeof text));
        printf(" %10s", eg_size_format(row->slabs_shared * EG_SLAB_BYTES, text, sizeof text));
        printf(" %10s %7" PRIu64 "s\n", eg_size_format(row->slabs_promised * EG_SLAB_BYTES, text, sizeof text), row->age_s);
    }
}

static void print_node_json(const struct eg_addr *addr, const Endgame__NodeStatsReply *stats)
{
    fputs("{\n  \"node\": ", stdout);
    cli_json_string(stdout, addr->text, sizeof addr->text);
    fputs(",\n  \"version\": ", stdout);
    cli_json_string(stdout, stats->version, SIZE_MAX);
    printf(",\n  \"uptime_s\": %" PRIu64 ",\n  \"draining\": %s,\n", stats->uptime_s, stats->draining ? "true" : "false");
    printf("  \"slots\": %" PRIu32 ",\n  \"slots_busy\": %" PRIu32 ",\n  \"memory_bytes\": %" PRIu64 ",\n", stats->slots,
           stats->slots_busy, stats->memory_bytes);
    printf("  \"warm\": %" PRIu32 ",\n  \"bad_frames\": %" PRIu64 ",\n  \"workers_total\": %" PRIu64 ",\n  \"workers\": [",
           stats->warm, stats->bad_frames, stats->workers_total);
    for (size_t i = 0; i < stats->n_workers; i++) {
        const Endgame__WorkerRow *row = stats->workers[i];
        printf("%s\n    {\"run\": \"%016" PRIx64 "\", \"pid\": %" PRIu32 ", \"home_pid\": %" PRIu32 ", \"streams\": %" PRIu32
               ", \"threads\": %" PRIu32 ", \"age_s\": %" PRIu64 "}",
               i ? "," : "", row->run, row->pid, row->home_pid, row->streams, row->threads, row->age_s);
    }
    fputs(stats->n_workers ? "\n  ]\n}\n" : "]\n}\n", stdout);
}

static void print_node_table(const struct eg_addr *addr, const Endgame__NodeStatsReply *stats)
{
    char text[64];
    print_head("node", addr, stats->version, stats->uptime_s, stats->draining);
    printf("slots      %" PRIu32 ", %" PRIu32 " busy\n", stats->slots, stats->slots_busy);
    printf("memory     %s\n", stats->memory_bytes ? eg_size_format(stats->memory_bytes, text, sizeof text) : "no limit");
    printf("workers    %" PRIu64 " so far, %" PRIu32 " warm\n", stats->workers_total, stats->warm);
    printf("bad frames %" PRIu64 "\n", stats->bad_frames);
    if (stats->n_workers == 0) {
        puts("\nno programs");
        return;
    }
    printf("\n%-16s %8s %8s %8s %8s %8s\n", "RUN", "WORKER", "HOME PID", "THREADS", "STREAMS", "AGE");
    for (size_t i = 0; i < stats->n_workers; i++) {
        const Endgame__WorkerRow *row = stats->workers[i];
        printf("%016" PRIx64 " %8" PRIu32 " %8" PRIu32 " %8" PRIu32 " %8" PRIu32 " %7" PRIu64 "s\n", row->run, row->pid, row->home_pid,
               row->threads, row->streams, row->age_s);
    }
}

int cli_status_main(const struct cli_command *command, int argc, char **argv)
{
    struct cli_args args = {.command = command, .argc = argc, .argv = argv, .next = 1};
    const char *text = NULL;
    bool json = false;
    /* Options may follow the address. */
    for (int id; (id = cli_args_next(&args)) != CLI_ARG_END || args.next < argc;) {
        if (id == CLI_ARG_BAD)
            return CLI_EXIT_USAGE;
        if (id == CLI_OPT_STATUS_JSON) {
            json = true;
        } else {
            if (text)
                return cli_usage(command, "status takes one address; '%s' is one too many", argv[args.next]);
            text = argv[args.next++];
        }
    }
    if (!text)
        return cli_usage(command, "no address given (tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH)");

    char why[512];
    struct eg_addr addr;
    int error = eg_addr_parse(text, 0, &addr, why, sizeof why);
    if (error == -EINVAL || error == -ENAMETOOLONG)
        return cli_usage(command, "%s", why);
    if (error)
        return cli_fail(CLI_EXIT_FAILED, "%s", why);
    if (addr.kind == EG_ADDR_AUTO)
        return cli_usage(command, "%s: say which: tcp: or rdma:", text);
    Endgame__Stats stats = ENDGAME__STATS__INIT;
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Reply *reply = NULL;
    request.body_case = ENDGAME__REQUEST__BODY_STATS;
    request.stats = &stats;
    if (eg_control_call(&addr, &request, STATS_TIMEOUT_MS, &reply, why, sizeof why) != 0)
        return cli_fail(CLI_EXIT_FAILED, "%s", why);
    int status = 0;
    if (reply->body_case == ENDGAME__REPLY__BODY_STATS)
        (json ? print_json : print_table)(&addr, reply->stats);
    else if (reply->body_case == ENDGAME__REPLY__BODY_NODE_STATS)
        (json ? print_node_json : print_node_table)(&addr, reply->node_stats);
    else
        status = cli_fail(CLI_EXIT_FAILED, "%s does not answer as a memory server should; is it another service?", addr.text);
    endgame__reply__free_unpacked(reply, NULL);
    if (!status && fflush(stdout) != 0)
        status = cli_fail(CLI_EXIT_FAILED, "cannot write to standard output");
    return status;
}
