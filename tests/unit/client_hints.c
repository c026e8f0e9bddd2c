/* Hints files: the parser, and what a profile's figures decide. */
#include "client/cli/cli.h"
#include "client/cli/cli_hints.h"
#include "client/cli/cli_profile.h"
#include "client/cli/cli_symbol.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUDGET 10000u

/* What cli_hints.c needs of the command's messages; the files here do not go through them. */
int cli_fail(enum cli_exit status, const char *format, ...)
{
    (void)format;
    return (int)status;
}

static struct cli_hints hints;
static char why[768];

static int parse(const char *rules)
{
    char text[8192];
    struct cli_hints_for about = {.program = "/proc/self/exe", .n_servers = 2};
    snprintf(text, sizeof text, "endgame-hints 1\n%s", rules);
    FILE *from = fmemopen(text, strlen(text), "r");
    int error = cli_hints_parse(from, "F", &about, &hints, why, sizeof why);
    fclose(from);
    return error;
}

START_TEST(a_rule_has_everything)
{
    ck_assert_int_eq(parse("# one\n\nmmap size=64K..1.5G nth=2..5 site=prog.so+0x1f program=sh thread=\"a b\" -> sequential server=1 # two\n"), 0);
    ck_assert_uint_eq(hints.n_rules, 1);
    const struct eg_hint_rule *r = hints.rules;
    ck_assert_uint_eq(r->kind, EG_HINT_MMAP);
    ck_assert_uint_eq(r->line, 4);
    ck_assert_uint_eq(r->min_bytes, 64 << 10);
    ck_assert_uint_eq(r->max_bytes, 1536u << 20);
    ck_assert_uint_eq(r->first, 2);
    ck_assert_uint_eq(r->last, 5);
    ck_assert_uint_eq(r->site, 0x1f);
    ck_assert_uint_eq(r->site_end, 0x20);
    ck_assert_str_eq(r->object, "prog.so");
    ck_assert_str_eq(r->program, "sh");
    ck_assert_str_eq(r->thread, "a b");
    ck_assert_uint_eq(r->flags, EG_RANGE_SEQUENTIAL | 2u << 8);
}
END_TEST

START_TEST(open_ends_mean_all)
{
    ck_assert_int_eq(parse("heap -> pin\ndata size=..1M nth=..2 -> evict-first random\nmmap size=1M.. nth=3.. -> random\nmmap size=5000 -> pin\n"), 0);
    ck_assert_uint_eq(hints.n_rules, 4);
    ck_assert_uint_eq(hints.rules[0].min_bytes, 0);
    ck_assert_uint_eq(hints.rules[0].max_bytes, UINT64_MAX);
    ck_assert_uint_eq(hints.rules[0].site_end, 0);
    ck_assert_uint_eq(hints.rules[1].kind, EG_HINT_DATA);
    ck_assert_uint_eq(hints.rules[1].first, 1);
    ck_assert_uint_eq(hints.rules[1].last, 2);
    ck_assert_uint_eq(hints.rules[1].flags, EG_RANGE_FIRST | EG_RANGE_RANDOM);
    ck_assert_uint_eq(hints.rules[2].max_bytes, UINT64_MAX);
    ck_assert_uint_eq(hints.rules[2].first, 3);
    ck_assert_uint_eq(hints.rules[2].last, EG_HINT_LAST);
    /* A mapping is whole pages, whatever was asked for. */
    ck_assert_uint_eq(hints.rules[3].min_bytes, 8192);
    ck_assert_uint_eq(hints.rules[3].max_bytes, 8192);
}
END_TEST

START_TEST(symbols_are_places_in_the_file)
{
    char name[64];
    ck_assert_int_eq(parse("mmap site=cli_hints_parse -> pin\n"), 0);
    ck_assert_uint_gt(hints.rules[0].site_end, hints.rules[0].site);
    ck_assert_int_eq(cli_symbol_at("/proc/self/exe", hints.rules[0].site_end - 1, name, sizeof name), 0);
    ck_assert_str_eq(name, "cli_hints_parse");
    ck_assert_int_eq(cli_symbol_at("/proc/self/exe", 0, name, sizeof name), -ENOENT);
}
END_TEST

START_TEST(mistakes_name_the_line)
{
    static const char *const bad[] = {"stack -> pin", "heap", "heap ->", "heap -> server=2", "mmap nth=0 -> pin", "mmap size= -> pin", "heap -> pin random sequential"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[128];
        snprintf(text, sizeof text, "# a comment\n%s\nheap -> pin\n", bad[i]);
        ck_assert_int_eq(parse(text), -EINVAL);
        ck_assert_msg(strncmp(why, "F:3: ", 5) == 0, "%s", why);
    }
}
END_TEST

/* --- decisions ---------------------------------------------------------------------------------------------------------- */

static struct cli_profile_item item(uint64_t pages, uint64_t fetched, uint64_t left)
{
    return (struct cli_profile_item){.first = 1, .last = 1, .min_bytes = pages * 4096, .max_bytes = pages * 4096, .pages = pages,
                                     .pages_fetched = fetched, .pages_left = left, .faults = fetched, .faults_random = fetched};
}

START_TEST(small_and_hot_stays)
{
    struct cli_profile_item v[] = {item(BUDGET / 10, BUDGET, BUDGET), item(10 * BUDGET, 10 * BUDGET, 10 * BUDGET)};
    cli_profile_decide(v, 2, BUDGET);
    ck_assert_uint_eq(v[0].flags, EG_RANGE_PIN);
    ck_assert_uint_eq(v[1].flags, 0);
    ck_assert_ptr_nonnull(strstr(v[0].why, "10.0 times (others: 1.0)"));
    /* As hot as everything else: nothing is won. */
    v[1] = item(BUDGET / 2, 5 * BUDGET, 5 * BUDGET);
    cli_profile_decide(v, 2, BUDGET);
    ck_assert_uint_eq(v[0].flags, 0);
}
END_TEST

START_TEST(pins_share_a_quarter_of_the_budget)
{
    struct cli_profile_item v[] = {item(BUDGET / 5, BUDGET, BUDGET), item(BUDGET / 6, 2 * BUDGET, BUDGET), item(20 * BUDGET, 20 * BUDGET, 20 * BUDGET)};
    cli_profile_decide(v, 3, BUDGET);
    ck_assert_uint_eq(v[1].flags, EG_RANGE_PIN); /* the hottest */
    ck_assert_uint_eq(v[0].flags, 0);
}
END_TEST

START_TEST(passes_in_order_are_sequential)
{
    struct cli_profile_item v = item(4 * BUDGET, 12 * BUDGET, 16 * BUDGET);
    v.pages_ahead = v.ahead_hits = 11 * BUDGET;
    v.faults_in_order = BUDGET;
    v.faults_random = 10;
    cli_profile_decide(&v, 1, BUDGET);
    ck_assert_uint_eq(v.flags, EG_RANGE_SEQUENTIAL);
    v.ahead_hits = 0; /* what was read ahead was not used */
    cli_profile_decide(&v, 1, BUDGET);
    ck_assert_uint_ne(v.flags, EG_RANGE_SEQUENTIAL);
}
END_TEST

START_TEST(poor_reading_ahead_is_random)
{
    struct cli_profile_item v = item(4 * BUDGET, 12 * BUDGET, 16 * BUDGET);
    v.faults_random = v.faults_in_order = 2 * BUDGET;
    v.pages_ahead = 8 * BUDGET;
    v.ahead_hits = BUDGET;
    cli_profile_decide(&v, 1, BUDGET);
    ck_assert_uint_eq(v.flags, EG_RANGE_RANDOM);
    v.pages_ahead = BUDGET / 2; /* little was read ahead: nothing to save */
    v.ahead_hits = 0;
    cli_profile_decide(&v, 1, BUDGET);
    ck_assert_uint_eq(v.flags, 0);
}
END_TEST

START_TEST(used_once_leaves_first)
{
    struct cli_profile_item v[] = {item(4 * BUDGET, 10, 4 * BUDGET), item(100, 1, 100)};
    cli_profile_decide(v, 2, BUDGET);
    ck_assert_uint_eq(v[0].flags, EG_RANGE_FIRST);
    ck_assert_uint_eq(v[1].flags, 0); /* too little to matter */
}
END_TEST

static struct eg_profile_entry entry(uint64_t site, uint64_t bytes, uint32_t nth, uint64_t left)
{
    return (struct eg_profile_entry){.kind = EG_HINT_MMAP, .nth = nth, .bytes = bytes, .site = site, .object = "prog", .program = "prog", .mappings = 1,
                                     .pages_left = left};
}

START_TEST(mappings_that_agree_are_one_rule)
{
    const uint64_t size = 64u << 20, pages = size / 4096;
    struct cli_profile_item *v;
    /* Two processes with the same two mappings; all used once. */
    struct eg_profile_entry same[] = {entry(16, size, 1, pages), entry(16, size, 2, pages), entry(16, size, 1, pages), entry(16, size, 2, pages)};
    ck_assert_int_eq(cli_profile_rules(same, 4, BUDGET, &v), 1);
    ck_assert_uint_eq(v[0].first, 1);
    ck_assert_uint_eq(v[0].last, EG_HINT_LAST);
    ck_assert_uint_eq(v[0].pages_left, 4 * pages);
    free(v);
    /* They differ: each its own; and an entry that is not filled in counts for nothing. */
    struct eg_profile_entry differ[] = {entry(16, size, 1, pages), entry(16, size, EG_PROFILE_NTH, 0), entry(16, size, 0, pages)};
    ck_assert_int_eq(cli_profile_rules(differ, 3, BUDGET, &v), 1);
    ck_assert_uint_eq(v[0].first, 1);
    ck_assert_uint_eq(v[0].last, 1);
    free(v);
    /* Many sizes from one place. */
    struct eg_profile_entry sizes[20];
    for (uint32_t i = 0; i < 20; i++)
        sizes[i] = entry(16, size + i * 4096u, 1, pages);
    ck_assert_int_eq(cli_profile_rules(sizes, 20, BUDGET, &v), 1);
    ck_assert_uint_eq(v[0].min_bytes, size);
    ck_assert_uint_eq(v[0].max_bytes, size + 19u * 4096u);
    free(v);
}
END_TEST

START_TEST(what_is_written_is_read)
{
    static struct eg_hints_file file;
    const uint64_t size = 64u << 20;
    char text[8192] = "", arg[] = "prog", *program[] = {arg, NULL};
    struct cli_hints_for about = {.n_servers = 1};
    file.n_entries = 100;
    for (uint32_t i = 0; i < 100; i++) {
        file.entries[i] = entry(i, size + i * 4096, 1, size / 4096);
        strcpy(file.entries[i].object, i % 2 ? "a b" : "prog");
        strcpy(file.entries[i].program, i % 3 ? "one" : "t#o");
    }
    FILE *to = fopen("/dev/null", "w");
    ck_assert_int_eq(cli_profile_write(to, &file, BUDGET * 4096ul, NULL, program), EG_HINT_RULES);
    fclose(to);
    file.n_entries = 20;
    to = fmemopen(text, sizeof text, "w");
    ck_assert_int_eq(cli_profile_write(to, &file, BUDGET * 4096ul, NULL, program), 20);
    fclose(to);
    FILE *from = fmemopen(text, strlen(text), "r");
    int error = cli_hints_parse(from, "F", &about, &hints, why, sizeof why);
    fclose(from);
    ck_assert_msg(error == 0, "%s in:\n%s", why, text);
    ck_assert_uint_eq(hints.n_rules, 20);
    for (uint32_t i = 0; i < 20; i++) {
        const struct eg_hint_rule *r = &hints.rules[i];
        ck_assert_uint_lt(r->site, 20);
        ck_assert_uint_eq(r->min_bytes, size + r->site * 4096);
        ck_assert_uint_eq(r->max_bytes, r->min_bytes);
        ck_assert_str_eq(r->object, r->site % 2 ? "a b" : "prog");
        ck_assert_str_eq(r->program, r->site % 3 ? "one" : "t#o");
        ck_assert_uint_eq(r->flags, EG_RANGE_FIRST);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_hints");
    TCase *tc = unit_case(suite, "files", 20);
    tcase_add_test(tc, a_rule_has_everything);
    tcase_add_test(tc, open_ends_mean_all);
    tcase_add_test(tc, symbols_are_places_in_the_file);
    tcase_add_test(tc, mistakes_name_the_line);
    tc = unit_case(suite, "decisions", 20);
    tcase_add_test(tc, small_and_hot_stays);
    tcase_add_test(tc, pins_share_a_quarter_of_the_budget);
    tcase_add_test(tc, passes_in_order_are_sequential);
    tcase_add_test(tc, poor_reading_ahead_is_random);
    tcase_add_test(tc, used_once_leaves_first);
    tcase_add_test(tc, mappings_that_agree_are_one_rule);
    tcase_add_test(tc, what_is_written_is_read);
    return unit_run(suite);
}
