/* cli_ps.c - `endgame ps`: the runs of this user on this machine, as their pool files tell. */
#include "cli.h"
#include "cli_pool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

struct ps {
    bool json;
    int n_runs, n_other; /* other: made by another version */
};

static const char *mode_name(const struct eg_pool *map)
{
    static const char *const names[] = {[EG_THREADS_HOME] = "home", [EG_THREADS_REMOTE] = "remote", [EG_THREADS_AUTO] = "auto"};
    if (map->n_nodes == 0)
        return "memory";
    return map->threads_mode <= EG_THREADS_AUTO ? names[map->threads_mode] : "?";
}

/* Counters and names are the programs' to write: they are only counted and quoted. */
static uint32_t threads_now(const struct eg_pool_node *node) { return __atomic_load_n(&node->threads, __ATOMIC_RELAXED); }
static uint64_t threads_ever(const struct eg_pool_node *node) { return __atomic_load_n(&node->threads_total, __ATOMIC_RELAXED); }
static uint32_t n_nodes(const struct eg_pool *map) { return map->n_nodes < EG_POOL_NODES ? map->n_nodes : EG_POOL_NODES; }

static void column(const char *text, size_t max_bytes, char *ret_text, size_t text_bytes)
{
    snprintf(ret_text, text_bytes, "%.*s", (int)strnlen(text, max_bytes), text);
    for (char *p = ret_text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

static void print_json(struct ps *ps, const struct cli_pool *pool)
{
    int printed = 0;
    printf("%s\n    {\"pool\": ", ps->n_runs ? "," : "");
    cli_json_string(stdout, pool->path, sizeof pool->path);
    printf(", \"threads\": \"%s\", \"processes\": [", mode_name(pool->map));
    for (uint32_t i = 1; i < cli_pool_rows(pool); i++) {
        const struct eg_pool_row *row = cli_pool_row(pool, i);
        if (row->pid == 0 || !cli_pool_row_alive(pool, i))
            continue;
        printf("%s{\"pid\": %" PRIu32 ", \"ppid\": %" PRIu32 ", \"program\": ", printed++ ? ", " : "", row->pid, row->ppid);
        cli_json_string(stdout, row->program, sizeof row->program);
        putchar('}');
    }
    fputs("], \"nodes\": [", stdout);
    for (uint32_t i = 0; i < n_nodes(pool->map); i++) {
        const struct eg_pool_node *node = &pool->map->nodes[i];
        fputs(i ? ", {\"node\": " : "{\"node\": ", stdout);
        cli_json_string(stdout, node->text, sizeof node->text);
        printf(", \"slots\": %" PRIu32 ", \"threads\": %" PRIu32 ", \"threads_total\": %" PRIu64 "}", node->slots, threads_now(node),
               threads_ever(node));
    }
    fputs("]}", stdout);
}

static void print_table(struct ps *ps, const struct cli_pool *pool)
{
    char text[256];
    if (!ps->n_runs)
        printf("%8s %8s %-8s %-16s\n", "PID", "PARENT", "THREADS", "PROGRAM");
    for (uint32_t i = 1; i < cli_pool_rows(pool); i++) {
        const struct eg_pool_row *row = cli_pool_row(pool, i);
        if (row->pid == 0 || !cli_pool_row_alive(pool, i))
            continue;
        column(row->program, sizeof row->program, text, sizeof text);
        printf("%8" PRIu32 " %8" PRIu32 " %-8s %s\n", row->pid, row->ppid, mode_name(pool->map), text);
    }
    for (uint32_t i = 0; i < n_nodes(pool->map); i++) {
        const struct eg_pool_node *node = &pool->map->nodes[i];
        column(node->text, sizeof node->text, text, sizeof text);
        printf("%8s %s: %" PRIu32 " thread%s now, %" PRIu64 " in all, %" PRIu32 " slot%s\n", "", text, threads_now(node),
               threads_now(node) == 1 ? "" : "s", threads_ever(node), node->slots, node->slots == 1 ? "" : "s");
    }
}

static void visit(struct cli_pool *pool, void *arg)
{
    struct ps *ps = arg;
    if (!cli_pool_in_use(pool))
        return;
    void *map = mmap(NULL, EG_POOL_FILE_BYTES, PROT_READ, MAP_SHARED, pool->fd, 0);
    if (map == MAP_FAILED)
        return;
    pool->map = map;
    if (pool->map->version != EG_POOL_VERSION) {
        ps->n_other++;
        return;
    }
    if (ps->json)
        print_json(ps, pool);
    else
        print_table(ps, pool);
    ps->n_runs++;
}

int cli_ps_main(const struct cli_command *command, int argc, char **argv)
{
    struct cli_args args = {.command = command, .argc = argc, .argv = argv, .next = 1};
    struct ps ps = {0};
    for (int id; (id = cli_args_next(&args)) != CLI_ARG_END;) {
        if (id == CLI_ARG_BAD)
            return CLI_EXIT_USAGE;
        ps.json |= id == CLI_OPT_PS_JSON;
    }
    if (args.next < argc)
        return cli_usage(command, "ps takes no arguments");
    if (ps.json)
        fputs("{\n  \"runs\": [", stdout);
    cli_pool_each(visit, &ps);
    if (ps.json)
        puts(ps.n_runs ? "\n  ]\n}" : "]\n}");
    else if (!ps.n_runs)
        puts("no programs");
    if (ps.n_other)
        cli_warn("%d more run%s of another version of endgame", ps.n_other, ps.n_other == 1 ? "" : "s");
    if (fflush(stdout) != 0)
        return cli_fail(CLI_EXIT_FAILED, "cannot write to standard output");
    return 0;
}
