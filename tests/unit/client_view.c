/* What the files that count processors say: sets, blocks of /proc/cpuinfo, lines of /proc/stat. */
#include "client/threads/eg_view.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORDS (EG_VIEW_LIST_CPUS / 64)
#define LEFT '#'

static uint64_t bits[WORDS], again[WORDS];

/* A buffer with a guard behind it, so that one byte too many shows. */
static char *room(size_t cap)
{
    static char buf[65536];
    ck_assert_uint_lt(cap, sizeof buf);
    memset(buf, LEFT, sizeof buf);
    return buf;
}

static void check_room(const char *buf, size_t cap)
{
    ck_assert_int_eq(buf[cap], LEFT);
}

/* --- sets -------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    int error;
    uint32_t first, end; /* one range that is put in */
    const char *with, *without;
} lists[] = {
    {"0-1\n", 0, 2, 6, "0-5\n", "0-1\n"},
    {"0\n", 0, 1, 2, "0-1\n", "0\n"},
    {"0-3,8-11\n", 0, 12, 14, "0-3,8-13\n", "0-3,8-11\n"},
    {"0-1", 0, 3, 4, "0-1,3\n", "0-1\n"},
    {"0-239\n", 0, 2, 6, "0-239\n", "0-1,6-239\n"},
    {"2-239\n", 0, 2, 6, "2-239\n", "6-239\n"},
    {"2-5\n", 0, 2, 6, "2-5\n", "\n"},
    {"\n", 0, 4, 5, "4\n", "\n"},
    {"", 0, 0, 0, "\n", "\n"},
    {"8191\n", 0, 0, 1, "0,8191\n", "8191\n"},
    {"1,3,5,7-8,10\n", 0, 63, 65, "1,3,5,7-8,10,63-64\n", "1,3,5,7-8,10\n"},
    {"8192\n", -ERANGE, 0, 0, NULL, NULL},
    {"0-99999999999999999999999\n", -ERANGE, 0, 0, NULL, NULL},
    {"0-\n", -EINVAL, 0, 0, NULL, NULL},
    {"-1\n", -EINVAL, 0, 0, NULL, NULL},
    {"3-1\n", -EINVAL, 0, 0, NULL, NULL},
    {"0,\n", -EINVAL, 0, 0, NULL, NULL},
    {",0\n", -EINVAL, 0, 0, NULL, NULL},
    {"0 1\n", -EINVAL, 0, 0, NULL, NULL},
    {"0-1-2\n", -EINVAL, 0, 0, NULL, NULL},
    {"yes\n", -EINVAL, 0, 0, NULL, NULL},
};

static void check_list(const char *expected)
{
    size_t len = strlen(expected);
    for (size_t cap = 2; cap < len + 8; cap++) {
        char *buf = room(cap);
        size_t n = eg_view_list_put(bits, buf, cap);
        check_room(buf, cap);
        if (cap < len + 2) {
            ck_assert_uint_eq(n, 0);
            continue;
        }
        ck_assert_uint_eq(n, len);
        ck_assert_mem_eq(buf, expected, len);
    }
}

START_TEST(list_is_read_changed_and_written)
{
    int rc = eg_view_list_parse(lists[_i].text, strlen(lists[_i].text), bits);
    ck_assert_int_eq(rc, lists[_i].error);
    if (rc)
        return;
    memcpy(again, bits, sizeof bits);
    eg_view_bits(bits, lists[_i].first, lists[_i].end, 1);
    check_list(lists[_i].with);
    memcpy(bits, again, sizeof bits);
    eg_view_bits(bits, lists[_i].first, lists[_i].end, 0);
    check_list(lists[_i].without);
}
END_TEST

START_TEST(any_set_comes_back)
{
    struct random_state r = {4 + (uint64_t)_i};
    for (int turn = 0; turn < 200; turn++) {
        memset(bits, 0, sizeof bits);
        for (uint32_t k = random_below(&r, 40); k > 0; k--) {
            uint32_t first = random_below(&r, EG_VIEW_LIST_CPUS), most = EG_VIEW_LIST_CPUS - first;
            eg_view_bits(bits, first, first + random_below(&r, most < 200 ? most + 1 : 200), 1);
        }
        char *buf = room(65000);
        size_t n = eg_view_list_put(bits, buf, 65000);
        ck_assert_uint_gt(n, 0);
        ck_assert_int_eq(eg_view_list_parse(buf, n, again), 0);
        ck_assert_mem_eq(again, bits, sizeof bits);
    }
}
END_TEST

/* --- /proc/cpuinfo ------------------------------------------------------------------------------------------------------------ */

static const char block[] = "processor\t: 1\nvendor_id\t: GenuineIntel\nmodel name\t: Any CPU @ 2.00GHz\nphysical id\t: 0\nsiblings\t: 2\n"
                            "core id\t\t: 1\ncpu cores\t: 2\napicid\t\t: 3\ninitial apicid\t: 3\nflags\t\t: fpu apicid\npower management:\n\n";
static const char block_of_7[] = "processor\t: 7\nvendor_id\t: GenuineIntel\nmodel name\t: Any CPU @ 2.00GHz\nphysical id\t: 2\nsiblings\t: 16\n"
                                 "core id\t\t: 5\ncpu cores\t: 16\napicid\t\t: 1000\ninitial apicid\t: 1000\nflags\t\t: fpu apicid\n"
                                 "power management:\n\n";

START_TEST(block_of_another_processor_differs_in_its_numbers_only)
{
    const struct eg_view_cpu cpu = {.number = 7, .package = 2, .core = 5, .cores = 16, .apicid = 1000};
    size_t len = strlen(block_of_7);
    for (size_t cap = 2; cap < len + 8; cap++) {
        char *buf = room(cap);
        size_t n = eg_view_cpuinfo_put(block, strlen(block), &cpu, buf, cap);
        check_room(buf, cap);
        ck_assert_uint_eq(n, cap < len + 2 ? 0 : len);
        ck_assert_mem_eq(buf, block_of_7, n);
    }
}
END_TEST

START_TEST(values_are_found_by_their_whole_key)
{
    uint64_t v = 99;
    ck_assert_int_eq(eg_view_cpuinfo_value(block, strlen(block), "apicid", &v), 1);
    ck_assert_uint_eq(v, 3);
    ck_assert_int_eq(eg_view_cpuinfo_value(block, strlen(block), "processor", &v), 1);
    ck_assert_uint_eq(v, 1);
    v = 99;
    ck_assert_int_eq(eg_view_cpuinfo_value(block, strlen(block), "core", &v), 0);
    ck_assert_int_eq(eg_view_cpuinfo_value(block, strlen(block), "vendor_id", &v), 0);
    ck_assert_int_eq(eg_view_cpuinfo_value(block, strlen(block), "power management", &v), 0);
    ck_assert_int_eq(eg_view_cpuinfo_value(block, 5, "processor", &v), 0);
    ck_assert_int_eq(eg_view_cpuinfo_value(block, 0, "processor", &v), 0);
    ck_assert_uint_eq(v, 99);
}
END_TEST

/* --- /proc/stat ---------------------------------------------------------------------------------------------------------------- */

START_TEST(stat_lines_add_up)
{
    static const char sum[] = "cpu  10 1 20 300 4 0 5 6 7 8\n", one[] = "cpu0 5 1 10 150 2 0 3 4 2 1\n";
    static const char bigger[] = "cpu  10 1 20 650 4 0 5 6 7 8\n", slot[] = "cpu12 0 0 0 175 0 0 0 0 0 0\n";
    ck_assert_uint_eq(eg_view_stat_ticks(one, strlen(one)), 175); /* guests' time is in user's and nice's already */
    for (size_t cap = 2; cap < 80; cap++) {
        char *buf = room(cap);
        size_t n = eg_view_stat_sum(sum, strlen(sum), 350, buf, cap);
        check_room(buf, cap);
        ck_assert_uint_eq(n, cap < strlen(bigger) + 2 ? 0 : strlen(bigger));
        ck_assert_mem_eq(buf, bigger, n);
        buf = room(cap);
        n = eg_view_stat_put(12, 175, buf, cap);
        check_room(buf, cap);
        ck_assert_uint_eq(n, cap < strlen(slot) + 2 ? 0 : strlen(slot));
        ck_assert_mem_eq(buf, slot, n);
    }
    ck_assert_uint_eq(eg_view_stat_sum("cpu  1 2 3\n", 11, 1, room(80), 80), 0);
    ck_assert_uint_eq(eg_view_stat_sum("cpu", 3, 1, room(80), 80), 0);
    ck_assert_uint_eq(eg_view_stat_ticks("cpu0", 4), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_view");
    TCase *tc = unit_case(suite, "view", 60);
    tcase_add_loop_test(tc, list_is_read_changed_and_written, 0, sizeof lists / sizeof *lists);
    tcase_add_loop_test(tc, any_set_comes_back, 0, 3);
    tcase_add_test(tc, block_of_another_processor_differs_in_its_numbers_only);
    tcase_add_test(tc, values_are_found_by_their_whole_key);
    tcase_add_test(tc, stat_lines_add_up);
    return unit_run(suite);
}
