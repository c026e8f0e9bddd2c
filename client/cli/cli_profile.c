/* cli_profile.c - from counts to advice. Every rule is written with the figures that decided it. */
#include "cli_profile.h"
#include "cli.h"
#include "cli_hints.h"
#include "cli_symbol.h"
#include "proto/eg_wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MATTERS_PAGES 256   /* moved in or out; below that no advice is worth a rule */
#define MATTERS_PART 200    /* and at least this part of all that moved */
#define SIZES_MAX 8         /* mappings of more sizes from one call site are taken together */
#define PIN_BUDGET_PART 4   /* all that is pinned is at most this part of the budget */

/* --- the decision ----------------------------------------------------------------------------------------------------- */

static double per(uint64_t n, uint64_t of)
{
    return of ? (double)n / (double)of : 0;
}

/* Times a page came back. */
static double returns(const struct cli_profile_item *v)
{
    return per(v->pages_fetched, v->pages);
}

static int by_returns(const void *a, const void *b)
{
    double one = returns(*(const struct cli_profile_item *const *)a), other = returns(*(const struct cli_profile_item *const *)b);
    return one < other ? 1 : one > other ? -1 : 0;
}

/* Small, and read back over and over. */
static bool wants_pin(const struct cli_profile_item *v, uint64_t fetched, uint64_t pages, uint64_t budget_pages, double *ret_others)
{
    *ret_others = per(fetched - v->pages_fetched, pages - v->pages);
    return v->pages <= budget_pages / PIN_BUDGET_PART && v->pages_fetched >= 2 * v->pages && returns(v) >= 2 * *ret_others;
}

static bool wants_sequential(const struct cli_profile_item *v, uint64_t budget_pages)
{
    uint64_t faults = v->faults_in_order + v->faults_strided + v->faults_random;
    bool in_order = v->faults_in_order * 10 >= faults * 6 || (v->pages_ahead * 4 >= v->pages_fetched * 3 && v->faults_strided <= v->faults_in_order);
    return v->pages * 2 >= budget_pages && v->pages_fetched * 2 >= v->pages && in_order && v->ahead_hits * 2 >= v->pages_ahead;
}

static bool wants_evict_first(const struct cli_profile_item *v)
{
    return v->pages_left * 2 >= v->pages && v->pages_fetched * 20 <= v->pages_left;
}

static bool wants_random(const struct cli_profile_item *v)
{
    uint64_t faults = v->faults_in_order + v->faults_strided + v->faults_random;
    return faults >= 64 && v->faults_random * 4 >= faults && v->pages_ahead * 10 >= v->pages_fetched && v->ahead_hits * 4 < v->pages_ahead;
}

static double percent(uint64_t n, uint64_t of)
{
    return 100 * per(n, of);
}

static void decide_use(struct cli_profile_item *v, uint64_t budget_pages)
{
    uint64_t faults = v->faults_in_order + v->faults_strided + v->faults_random;
    if (wants_evict_first(v)) {
        v->flags = EG_RANGE_FIRST;
        snprintf(v->why, sizeof v->why, "used once: of %" PRIu64 " pages that left, %.1f %% came back", v->pages_left,
                 percent(v->pages_fetched, v->pages_left));
    } else if (wants_sequential(v, budget_pages)) {
        v->flags = EG_RANGE_SEQUENTIAL;
        snprintf(v->why, sizeof v->why, "passed through in order: %.0f %% of its faults in order, of %" PRIu64 " pages read ahead %.0f %% were used; "
                 "%.1f times the budget",
                 percent(v->faults_in_order, faults), v->pages_ahead, percent(v->ahead_hits, v->pages_ahead), per(v->pages, budget_pages));
    } else if (wants_random(v)) {
        v->flags = EG_RANGE_RANDOM;
        snprintf(v->why, sizeof v->why, "in no order: %.0f %% of its faults at random, of %" PRIu64 " pages read ahead %.0f %% were used",
                 percent(v->faults_random, faults), v->pages_ahead, percent(v->ahead_hits, v->pages_ahead));
    }
}

void cli_profile_decide(struct cli_profile_item *v, size_t n, uint64_t budget_pages)
{
    uint64_t fetched = 0, left = 0, pages = 0, pinned = 0;
    struct cli_profile_item **hot = n ? calloc(n, sizeof *hot) : NULL;
    size_t n_hot = 0;
    double others;
    for (size_t i = 0; i < n; i++) {
        fetched += v[i].pages_fetched;
        left += v[i].pages_left;
        pages += v[i].pages;
        v[i].flags = 0;
        v[i].why[0] = 0;
    }
    for (size_t i = 0; hot && i < n; i++) {
        uint64_t moved = v[i].pages_fetched + v[i].pages_left;
        if (moved < MATTERS_PAGES || moved < (fetched + left) / MATTERS_PART)
            continue;
        if (wants_pin(&v[i], fetched, pages, budget_pages, &others))
            hot[n_hot++] = &v[i];
        else
            decide_use(&v[i], budget_pages);
    }
    if (n_hot)
        qsort(hot, n_hot, sizeof *hot, by_returns);
    for (size_t i = 0; i < n_hot; i++) {
        if (pinned + hot[i]->pages > budget_pages / PIN_BUDGET_PART) {
            decide_use(hot[i], budget_pages);
            continue;
        }
        pinned += hot[i]->pages;
        wants_pin(hot[i], fetched, pages, budget_pages, &others);
        hot[i]->flags = EG_RANGE_PIN;
        snprintf(hot[i]->why, sizeof hot[i]->why, "small and hot: each page came back %.1f times (others: %.1f); %.0f %% of the budget", returns(hot[i]),
                 others, percent(hot[i]->pages, budget_pages));
    }
    free(hot);
}

/* --- entries to items ------------------------------------------------------------------------------------------------- */

static int by_site(const void *a, const void *b)
{
    const struct cli_profile_item *one = a, *other = b;
    int d = strcmp(one->program, other->program);
    if (!d)
        d = (one->kind > other->kind) - (one->kind < other->kind);
    if (!d)
        d = strcmp(one->object, other->object);
    if (!d)
        d = (one->site > other->site) - (one->site < other->site);
    return d;
}

static int by_key(const void *a, const void *b)
{
    const struct cli_profile_item *one = a, *other = b;
    int d = by_site(a, b);
    if (!d)
        d = (one->min_bytes > other->min_bytes) - (one->min_bytes < other->min_bytes);
    if (!d)
        d = (one->first > other->first) - (one->first < other->first);
    return d;
}

static int by_weight(const void *a, const void *b)
{
    const struct cli_profile_item *one = a, *other = b;
    uint64_t x = one->pages_fetched + one->pages_left, y = other->pages_fetched + other->pages_left;
    return x < y ? 1 : x > y ? -1 : by_key(a, b);
}

static void join(struct cli_profile_item *to, const struct cli_profile_item *from)
{
    to->pages += from->pages;
    to->min_bytes = from->min_bytes < to->min_bytes ? from->min_bytes : to->min_bytes;
    to->max_bytes = from->max_bytes > to->max_bytes ? from->max_bytes : to->max_bytes;
#define CLI_X(name, text) to->name += from->name;
    EG_HINT_COUNTERS(CLI_X)
#undef CLI_X
}

static size_t from_entries(const struct eg_profile_entry *entries, size_t n, struct cli_profile_item *v)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        const struct eg_profile_entry *e = &entries[i];
        if (!__atomic_load_n(&e->nth, __ATOMIC_ACQUIRE) || e->kind >= EG_HINT_N_KINDS)
            continue;
        uint64_t bytes = e->bytes;
        v[k] = (struct cli_profile_item){.kind = e->kind, .first = e->nth, .last = e->nth == EG_PROFILE_NTH ? EG_HINT_LAST : e->nth,
                                         .min_bytes = bytes, .max_bytes = bytes, .pages = bytes / EG_PAGE_BYTES * e->mappings, .site = e->site};
        snprintf(v[k].object, sizeof v[k].object, "%.*s", (int)sizeof e->object - 1, e->object);
        snprintf(v[k].program, sizeof v[k].program, "%.*s", (int)sizeof e->program - 1, e->program);
#define CLI_X(name, text) v[k].name = e->name;
        EG_HINT_COUNTERS(CLI_X)
#undef CLI_X
        k++;
    }
    return k;
}

/* The same mappings of several processes, or (`all`) everything from call sites that map many different sizes, become one item. v is in order. */
static size_t unite(struct cli_profile_item *v, size_t n, bool sites)
{
    size_t to = 0;
    for (size_t i = 0, stop; i < n; i = stop) {
        size_t sizes = 1;
        for (stop = i + 1; stop < n && (sites ? by_site : by_key)(&v[i], &v[stop]) == 0; stop++)
            sizes += v[stop].min_bytes != v[stop - 1].min_bytes;
        if (sites && sizes <= SIZES_MAX) {
            for (size_t k = i; k < stop; k++)
                v[to++] = v[k];
            continue;
        }
        for (size_t k = i + 1; k < stop; k++)
            join(&v[i], &v[k]);
        if (sites) {
            v[i].first = 1;
            v[i].last = EG_HINT_LAST;
        }
        v[to++] = v[i];
    }
    return to;
}

/* Mappings of one size and call site that all want the same are one rule. */
static size_t unite_decided(struct cli_profile_item *v, size_t n)
{
    size_t to = 0;
    for (size_t i = 0, stop; i < n; i = stop) {
        bool agreed = true;
        for (stop = i + 1; stop < n && by_site(&v[i], &v[stop]) == 0 && v[i].min_bytes == v[stop].min_bytes && v[i].max_bytes == v[stop].max_bytes; stop++)
            agreed &= v[stop].flags == v[i].flags;
        if (!agreed) {
            for (size_t k = i; k < stop; k++)
                v[to++] = v[k];
            continue;
        }
        for (size_t k = i + 1; k < stop; k++) {
            if (v[k].pages_fetched + v[k].pages_left > v[i].pages_fetched + v[i].pages_left)
                memcpy(v[i].why, v[k].why, sizeof v[i].why);
            join(&v[i], &v[k]);
        }
        v[i].first = 1;
        v[i].last = EG_HINT_LAST;
        v[to++] = v[i];
    }
    return to;
}

long cli_profile_rules(const struct eg_profile_entry *entries, size_t n, uint64_t budget_pages, struct cli_profile_item **ret_items)
{
    struct cli_profile_item *v = calloc(n + 1, sizeof *v);
    if (!v)
        return -ENOMEM;
    n = from_entries(entries, n, v);
    qsort(v, n, sizeof *v, by_key);
    n = unite(v, n, false);
    n = unite(v, n, true);
    cli_profile_decide(v, n, budget_pages);
    n = unite_decided(v, n);
    size_t to = 0;
    for (size_t i = 0; i < n; i++)
        if (v[i].flags)
            v[to++] = v[i];
    qsort(v, to, sizeof *v, by_weight);
    *ret_items = v;
    return (long)to;
}

/* --- writing ------------------------------------------------------------------------------------------------------------ */

static void print_size(FILE *to, uint64_t bytes)
{
    if (bytes % (1 << 20) == 0)
        fprintf(to, "%" PRIu64 "M", bytes >> 20);
    else
        fprintf(to, "%" PRIu64 "K", bytes >> 10);
}

static void print_name(FILE *to, const char *key, const char *name)
{
    const char *quote = strpbrk(name, " \t#") ? "\"" : "";
    fprintf(to, " %s=%s%s%s", key, quote, name, quote);
}

static bool printable(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 32 || *text == '"')
            return false;
    return true;
}

static void print_rule(FILE *to, const struct cli_profile_item *v, bool say_program, const char *path)
{
    char symbol[200];
    const char *base = path ? strrchr(path, '/') : NULL;
    fprintf(to, "\n# %s", v->why);
    if (v->object[0] && base && strcmp(base + 1, v->object) == 0 && cli_symbol_at(path, v->site, symbol, sizeof symbol) == 0 && printable(symbol))
        fprintf(to, "; from %s", symbol);
    fprintf(to, ".\n%s", cli_hint_kinds[v->kind]);
    if (v->kind != EG_HINT_HEAP) {
        fputs(" size=", to);
        print_size(to, v->min_bytes);
        if (v->max_bytes != v->min_bytes) {
            fputs("..", to);
            print_size(to, v->max_bytes);
        }
    }
    if (v->last == EG_HINT_LAST && v->first > 1)
        fprintf(to, " nth=%" PRIu64 "..", v->first);
    else if (v->last != EG_HINT_LAST)
        fprintf(to, " nth=%" PRIu64, v->first);
    if (v->object[0] && printable(v->object)) {
        char site[EG_HINT_OBJECT_BYTES + 24];
        snprintf(site, sizeof site, "%s+0x%" PRIx64, v->object, v->site);
        print_name(to, "site", site);
    }
    if (say_program && v->program[0] && printable(v->program))
        print_name(to, "program", v->program);
    fputs(" ->", to);
#define CLI_X(name, bits, not_with, text) \
    if (v->flags & (bits))                \
        fputs(" " name, to);
    CLI_HINT_ACTIONS(CLI_X)
#undef CLI_X
    fputc('\n', to);
}

long cli_profile_write(FILE *to, const struct eg_hints_file *file, uint64_t budget_bytes, const char *path, char *const *program)
{
    uint32_t used = __atomic_load_n(&file->n_entries, __ATOMIC_ACQUIRE), n_entries = used < EG_PROFILE_ENTRIES ? used : EG_PROFILE_ENTRIES;
    struct cli_profile_item *v;
    bool several = false;
    long n = cli_profile_rules(file->entries, n_entries, budget_bytes / EG_PAGE_BYTES, &v);
    if (n < 0)
        return n;
    for (uint32_t i = 1; i < n_entries; i++)
        several |= strncmp(file->entries[i].program, file->entries[0].program, EG_HINT_COMM_BYTES) != 0;
    fprintf(to, CLI_HINTS_FORMAT " %d\n# Written by endgame profile, " EG_VERSION ", with a budget of ", CLI_HINTS_FORMAT_VERSION);
    print_size(to, budget_bytes);
    fputs(", of:\n#", to);
    for (; *program; program++)
        fprintf(to, " %s", printable(*program) ? *program : "...");
    fputs("\n# For: endgame run --hints THIS-FILE ... What the words mean: endgame(1). Rules may be changed or taken out; they change no result.\n", to);
    if (used > EG_PROFILE_ENTRIES)
        fprintf(to, "# %" PRIu32 " mappings found no place in the table and are not in this profile.\n", used - EG_PROFILE_ENTRIES);
    if (n > EG_HINT_RULES)
        fprintf(to, "# %ld rules that would matter least are left out.\n", n - EG_HINT_RULES);
    if (n == 0)
        fputs("# Nothing that was seen asks for advice.\n", to);
    n = n < EG_HINT_RULES ? n : EG_HINT_RULES;
    for (long i = 0; i < n; i++)
        print_rule(to, &v[i], several, path);
    free(v);
    return ferror(to) ? -EIO : n;
}
