/* cli_stats.c - the JSON object of --stats. Its fields are described in endgame(1); counters come from EG_COUNTERS. */
#include "cli_stats.h"
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct counters {
#define CLI_X(name, text) uint64_t name;
    EG_COUNTERS(CLI_X)
#undef CLI_X
    uint64_t fault_hist[EG_HIST_BUCKETS], thread_start_hist[EG_HIST_BUCKETS], coherent_fault_hist[EG_HIST_BUCKETS];
};

static void close_all(struct cli_stats *stats)
{
    if (stats->fd >= 0)
        close(stats->fd);
    if (stats->dir >= 0)
        close(stats->dir);
    stats->fd = stats->dir = -1;
}

static int fail(struct cli_stats *stats, const char *path)
{
    int error = errno;
    close_all(stats);
    return cli_fail(CLI_EXIT_FAILED, "cannot write statistics to %s: %s", path, strerror(error));
}

int cli_stats_open(const char *path, struct cli_stats *ret_stats)
{
    struct cli_stats stats = {.fd = -1, .dir = -1};
    if (strcmp(path, "-") == 0) {
        *ret_stats = stats;
        return 0;
    }
    stats.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    stats.created = stats.fd >= 0;
    if (stats.fd < 0 && errno == EEXIST)
        stats.fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666); /* or through a link that leads nowhere yet */
    struct stat st;
    if (stats.fd < 0 || fstat(stats.fd, &st) != 0)
        return fail(&stats, path);
    if (!S_ISREG(st.st_mode)) {
        *ret_stats = stats;
        return 0;
    }
    /* What a run before this one left there must not pass for this one's. */
    if (ftruncate(stats.fd, 0) != 0)
        return fail(&stats, path);
    char *real = realpath(path, NULL);
    char *slash = real ? strrchr(real, '/') : NULL;
    if (slash && strlen(slash + 1) < sizeof stats.name) {
        strcpy(stats.name, slash + 1);
        slash[slash == real] = 0;
        stats.dir = open(real, O_PATH | O_DIRECTORY | O_CLOEXEC);
        snprintf(stats.temporary, sizeof stats.temporary, ".%s.%d", stats.name, (int)getpid());
    }
    free(real);
    *ret_stats = stats;
    return 0;
}

void cli_stats_drop(struct cli_stats *stats)
{
    if (stats->created && stats->dir >= 0)
        unlinkat(stats->dir, stats->name, 0);
    close_all(stats);
}

/* Upper edge of a bucket: log-linear, four buckets for each power of two. */
static uint64_t bucket_edge_ns(unsigned bucket)
{
    unsigned scaled = bucket + 4 * EG_HIST_MIN_LOG2;
    return (UINT64_C(1) << (scaled / 4)) / 4 * (4 + scaled % 4 + 1);
}

/* Nearest-rank percentile, as its bucket's upper edge: up to a quarter above the true one. 0: nothing was counted. */
static uint64_t percentile_ns(const uint64_t *hist, unsigned percent)
{
    uint64_t total = 0, below = 0;
    for (unsigned i = 0; i < EG_HIST_BUCKETS; i++)
        total += hist[i];
    if (total == 0)
        return 0;
    uint64_t rank = (total * percent + 99) / 100;
    for (unsigned i = 0; i < EG_HIST_BUCKETS; i++) {
        below += hist[i];
        if (below >= rank)
            return bucket_edge_ns(i);
    }
    return bucket_edge_ns(EG_HIST_BUCKETS - 1);
}

static void add_row(struct counters *sum, const struct eg_pool_row *row)
{
#define CLI_X(name, text) sum->name += __atomic_load_n(&row->name, __ATOMIC_RELAXED);
    EG_COUNTERS(CLI_X)
#undef CLI_X
    for (unsigned i = 0; i < EG_HIST_BUCKETS; i++) {
        sum->fault_hist[i] += __atomic_load_n(&row->fault_hist[i], __ATOMIC_RELAXED);
        sum->thread_start_hist[i] += __atomic_load_n(&row->thread_start_hist[i], __ATOMIC_RELAXED);
        sum->coherent_fault_hist[i] += __atomic_load_n(&row->coherent_fault_hist[i], __ATOMIC_RELAXED);
    }
}

static void print_percentiles(FILE *to, const char *what, const uint64_t *hist, const char *indent)
{
    fprintf(to, "%s\"%s_ns_p50\": %" PRIu64 ",\n", indent, what, percentile_ns(hist, 50));
    fprintf(to, "%s\"%s_ns_p99\": %" PRIu64 ",\n", indent, what, percentile_ns(hist, 99));
}

static void print_counters(FILE *to, const struct counters *counters, const char *indent)
{
#define CLI_X(name, text) fprintf(to, "%s\"" #name "\": %" PRIu64 ",\n", indent, counters->name);
    EG_COUNTERS(CLI_X)
#undef CLI_X
    print_percentiles(to, "fault", counters->fault_hist, indent);
    print_percentiles(to, "thread_start", counters->thread_start_hist, indent);
    print_percentiles(to, "coherent_fault", counters->coherent_fault_hist, indent);
}

/* Adds the parts of one process's "shm+tcp" that all does not have yet; "none" gives way to anything. */
static void join_words(char *all, size_t all_bytes, const char *row_text, size_t row_bytes)
{
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)strnlen(row_text, row_bytes), row_text);
    for (char *word = strtok(text, "+"); word; word = strtok(NULL, "+")) {
        size_t len = strlen(all);
        if (strcmp(word, "none") == 0 || strstr(all, word))
            continue;
        if (len + strlen(word) + 2 <= all_bytes)
            sprintf(all + len, "%s%s", len ? "+" : "", word);
    }
}

static void print_process(FILE *to, const struct cli_pool *pool, uint32_t i)
{
    const struct eg_pool_row *row = cli_pool_row(pool, i);
    struct counters counters = {0};
    add_row(&counters, row);
    fprintf(to, "    {\n      \"pid\": %" PRIu32 ",\n      \"ppid\": %" PRIu32 ",\n      \"program\": ", row->pid, row->ppid);
    cli_json_string(to, row->program, sizeof row->program);
    fprintf(to, ",\n      \"alive\": %s,\n", cli_pool_row_alive(pool, i) ? "true" : "false");
    fprintf(to, "      \"active\": %s,\n", row->flags & EG_ROW_ACTIVE ? "true" : "false");
    fprintf(to, "      \"captured_bytes_peak\": %" PRIu64 ",\n", row->captured_bytes_peak);
    fprintf(to, "      \"resident_bytes_peak\": %" PRIu64 ",\n", row->resident_bytes_peak);
    print_counters(to, &counters, "      ");
    fputs("      \"transport\": ", to);
    cli_json_string(to, row->transport, sizeof row->transport);
    fputs(",\n      \"fault_engine\": ", to);
    cli_json_string(to, row->engine, sizeof row->engine);
    fputs("\n    }", to);
}

static void print_nodes(FILE *to, const struct eg_pool *map)
{
    for (uint32_t i = 0; i < map->n_nodes && i < EG_POOL_NODES; i++) {
        const struct eg_pool_node *node = &map->nodes[i];
        fputs(i ? ",\n    {\"node\": " : "\n    {\"node\": ", to);
        cli_json_string(to, node->text, sizeof node->text);
        fprintf(to, ", \"slots\": %" PRIu32, node->slots);
#define CLI_NUMBER(name) fprintf(to, ", \"" #name "\": %" PRIu64, __atomic_load_n(&node->name, __ATOMIC_RELAXED))
        CLI_NUMBER(threads_total);
        CLI_NUMBER(pages_sent);
        CLI_NUMBER(pages_taken);
        CLI_NUMBER(calls);
#undef CLI_NUMBER
        fputc('}', to);
    }
    fputs(map->n_nodes ? "\n  ]" : "]", to);
}

static void print_all(FILE *to, const struct cli_pool *pool, const char *program, int wait_status, uint64_t wall_ns)
{
    struct counters sum = {0};
    char transport[32] = "", engine[32] = "";
    uint32_t n_rows = 0;
    /* Rows are the programs' to write: what is read from them is only ever counted or quoted. */
    for (uint32_t i = 0; i < cli_pool_rows(pool); i++) {
        const struct eg_pool_row *row = cli_pool_row(pool, i);
        if (i == 0)
            add_row(&sum, row); /* dead processes whose rows were used again */
        if (row->pid == 0)
            continue;
        n_rows++;
        add_row(&sum, row);
        join_words(transport, sizeof transport, row->transport, sizeof row->transport);
        join_words(engine, sizeof engine, row->engine, sizeof row->engine);
    }
    fputs("{\n  \"endgame\": \"" EG_VERSION "\",\n  \"program\": ", to);
    cli_json_string(to, program, SIZE_MAX);
    if (WIFSIGNALED(wait_status))
        fprintf(to, ",\n  \"exit_status\": %d,\n  \"signal\": %d,\n", 128 + WTERMSIG(wait_status), WTERMSIG(wait_status));
    else
        fprintf(to, ",\n  \"exit_status\": %d,\n  \"signal\": null,\n", WEXITSTATUS(wait_status));
    fprintf(to, "  \"wall_seconds\": %" PRIu64 ".%06" PRIu64 ",\n", wall_ns / 1000000000, wall_ns / 1000 % 1000000);
    fprintf(to, "  \"budget_bytes\": %" PRIu64 ",\n", pool->map->budget_bytes);
    fprintf(to, "  \"captured_bytes_peak\": %" PRIu64 ",\n",
            __atomic_load_n(&pool->map->captured_bytes_peak, __ATOMIC_RELAXED));
    fprintf(to, "  \"resident_bytes_peak\": %" PRIu64 ",\n",
            __atomic_load_n(&pool->map->charged_pages_peak, __ATOMIC_RELAXED) * 4096);
    print_counters(to, &sum, "  ");
    fprintf(to, "  \"transport\": \"%s\",\n  \"fault_engine\": \"%s\",\n", *transport ? transport : "none",
            *engine ? engine : "none");
    fputs("  \"memservers\": [", to);
    for (uint32_t i = 0; i < pool->map->n_servers && i < EG_POOL_SERVERS; i++) {
        fputs(i ? ", " : "", to);
        cli_json_string(to, pool->map->servers[i].text, sizeof pool->map->servers[i].text);
    }
    fputs("],\n  \"nodes\": [", to);
    print_nodes(to, pool->map);
    fprintf(to, ",\n  \"processes_not_counted\": %" PRIu64 ",\n  \"processes\": [",
            __atomic_load_n(&pool->map->rows_lost, __ATOMIC_RELAXED));
    for (uint32_t i = 0, printed = 0; i < cli_pool_rows(pool) && printed < n_rows; i++) {
        if (cli_pool_row(pool, i)->pid == 0)
            continue;
        fputs(printed++ ? ",\n" : "\n", to);
        print_process(to, pool, i);
    }
    fputs(n_rows ? "\n  ]\n}\n" : "]\n}\n", to);
}

static int write_whole(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0)
            return -errno;
        text += n;
        len -= (size_t)n;
    }
    return 0;
}

void cli_stats_write(struct cli_stats *stats, const struct cli_pool *pool, const char *program, int wait_status,
                     uint64_t wall_ns)
{
    char *text = NULL;
    size_t len = 0;
    int error = 0;
    FILE *memory = open_memstream(&text, &len);
    if (memory) {
        print_all(memory, pool, program, wait_status, wall_ns);
        if (fclose(memory) != 0)
            error = -errno;
    } else {
        error = -errno;
    }
    int fd = stats->fd >= 0 ? stats->fd : STDERR_FILENO;
    int whole = -1; /* the directory may have no room for a second file, or not be ours to write to: in place then */
    if (!error && stats->dir >= 0)
        whole = openat(stats->dir, stats->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (!error && whole >= 0) {
        struct stat st;
        if (fstat(stats->fd, &st) == 0 && fchmod(whole, st.st_mode & 07777) != 0)
            error = -errno;
        if (!error)
            error = write_whole(whole, text, len);
        if (!error && renameat(stats->dir, stats->temporary, stats->dir, stats->name) != 0)
            error = -errno;
        if (error)
            unlinkat(stats->dir, stats->temporary, 0);
    } else if (!error) {
        error = write_whole(fd, text, len);
    }
    if (whole >= 0)
        close(whole);
    if (error)
        cli_warn("the program's statistics could not be written: %s", strerror(-error));
    free(text);
    close_all(stats);
}
