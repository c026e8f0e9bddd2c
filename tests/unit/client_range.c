/* The captured mappings against an array with one cell per page. */
#include "client/pager/eg_range.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ull
#define BASE 0x700000000000ull
#define PAGES 1024u

static struct eg_ranges ranges;
static uint8_t model[PAGES]; /* 0: nothing there, else flags + 1 */

/* The linker leads eg_range.c's calls here, so that memory can be short. */
static int memory_short;
void *__real_eg_sys_map(size_t bytes);
void *__wrap_eg_sys_map(size_t bytes);
void *__wrap_eg_sys_map(size_t bytes)
{
    return memory_short ? NULL : __real_eg_sys_map(bytes);
}

static uint64_t addr(uint32_t page)
{
    return BASE + page * PAGE;
}

static void start(void)
{
    if (ranges.v)
        munmap(ranges.v, ranges.cap * sizeof *ranges.v);
    memset(&ranges, 0, sizeof ranges);
    memset(model, 0, sizeof model);
    memory_short = 0;
}

static void set(uint32_t first, uint32_t end, uint64_t flags)
{
    ck_assert_int_eq(eg_ranges_set(&ranges, addr(first), addr(end), flags), 0);
    for (uint32_t i = first; i < end; i++)
        model[i] = (uint8_t)(flags + 1);
}

static void clear(uint32_t first, uint32_t end)
{
    ck_assert_int_eq(eg_ranges_clear(&ranges, addr(first), addr(end)), 0);
    for (uint32_t i = first; i < end; i++)
        model[i] = 0;
}

/* The array must be the model's maximal runs, in order, and nothing else. */
static void check(void)
{
    size_t k = 0;
    for (uint32_t i = 0; i < PAGES;) {
        uint32_t end = i + 1;
        while (end < PAGES && model[end] == model[i])
            end++;
        if (model[i]) {
            const struct eg_range *v = &ranges.v[k];
            if (k >= ranges.n || v->start != addr(i) || v->end != addr(end) || v->flags != model[i] - 1u)
                ck_abort_msg("entry %zu of %zu is not pages %u to %u with flags %u", k, ranges.n, i, end, model[i] - 1u);
            k++;
        }
        i = end;
    }
    ck_assert_uint_eq(k, ranges.n);
    ck_assert_uint_le(ranges.n, ranges.cap);
}

static void check_questions(struct random_state *r)
{
    uint32_t a = random_below(r, PAGES + 1), b = random_below(r, PAGES + 1), hits = 0, i = a;
    size_t at = eg_ranges_find(&ranges, addr(a) + random_below(r, PAGE));
    while (i < PAGES && !model[i])
        i++;
    if (i == PAGES)
        ck_assert_uint_eq(at, ranges.n);
    else
        ck_assert(at < ranges.n && ranges.v[at].start <= addr(i) && ranges.v[at].end > addr(i));

    for (i = a; i < b; i++)
        hits += model[i] != 0;
    ck_assert_int_eq(eg_ranges_overlap(&ranges, addr(a), addr(b)) != 0, hits != 0);
    if (a < b)
        ck_assert_int_eq(eg_ranges_seen(&ranges, addr(a), addr(b)), hits != 0);

    /* A walk over the parts sees each captured page of [a, b) once, in order, with its flags. */
    struct eg_range part;
    uint64_t last = addr(a);
    for (uint64_t p = addr(a); eg_ranges_next(&ranges, p, addr(b), &part); p = part.end) {
        if (part.start < last || part.start >= part.end || part.end > addr(b))
            ck_abort_msg("part %llx to %llx", (unsigned long long)part.start, (unsigned long long)part.end);
        for (uint64_t q = part.start; q < part.end; q += PAGE, hits--)
            if (part.flags + 1 != model[(q - BASE) / PAGE])
                ck_abort_msg("page %llx: wrong flags", (unsigned long long)q);
        last = part.end;
    }
    ck_assert_uint_eq(hits, 0);
}

START_TEST(random_walk_matches_a_page_array)
{
    static const uint32_t longest[] = {2, 8, 64, PAGES};
    struct random_state r = {0x9e3779b97f4a7c15ull + (uint64_t)_i};
    start();
    size_t most = 0;
    for (int step = 0; step < 6000; step++) {
        uint32_t first = random_below(&r, PAGES + 1);
        /* Long stretches of short operations fill the array with many entries, long ones swallow them. */
        uint32_t len = random_below(&r, longest[(step / 750 + _i) % 4] + 1);
        uint32_t end = first + len < PAGES ? first + len : PAGES;
        if (random_below(&r, 3))
            set(first, end, random_below(&r, 4));
        else
            clear(first, end);
        check();
        check_questions(&r);
        if (ranges.n > most)
            most = ranges.n;
    }
    ck_assert_uint_gt(most, 4096 / sizeof *ranges.v); /* else growing was never tried */
}
END_TEST

static void *others_come_and_go(void *stop)
{
    struct random_state r = {7};
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) {
        uint32_t first = random_below(&r, PAGES), n = 1 + random_below(&r, 3);
        uint32_t end = first + n < PAGES ? first + n : PAGES;
        if (first <= PAGES / 2 && end > PAGES / 2)
            continue;
        ck_assert_int_eq(random_below(&r, 2) ? eg_ranges_set(&ranges, addr(first), addr(end), random_below(&r, 4))
                                             : eg_ranges_clear(&ranges, addr(first), addr(end)), 0);
    }
    return NULL;
}

/* Without the lock, an entry is found whatever happens to the others, the array's growing included. */
START_TEST(seen_while_others_change)
{
    int stop = 0;
    pthread_t t;
    uint64_t mine = addr(PAGES / 2), missed = 0;
    start();
    set(PAGES / 2, PAGES / 2 + 1, 1);
    ck_assert_int_eq(pthread_create(&t, NULL, others_come_and_go, &stop), 0);
    for (int i = 0; i < 3000000; i++)
        missed += !eg_ranges_seen(&ranges, mine + 5, mine + 6);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(t, NULL);
    ck_assert_uint_eq(missed, 0);
}
END_TEST

START_TEST(equal_neighbours_become_one)
{
    start();
    set(0, 2, 0);
    set(4, 6, 0);
    check();
    ck_assert_uint_eq(ranges.n, 2);
    set(2, 4, 0);
    check();
    ck_assert_uint_eq(ranges.n, 1);
    set(3, 4, EG_RANGE_RESERVED);
    ck_assert_uint_eq(ranges.n, 3);
    set(3, 4, 0);
    ck_assert_uint_eq(ranges.n, 1);
    set(6, 8, EG_RANGE_NORESERVE);
    ck_assert_uint_eq(ranges.n, 2);
    check();
}
END_TEST

START_TEST(empty_interval_changes_nothing)
{
    start();
    set(5, 5, 0);
    clear(5, 5);
    ck_assert_uint_eq(ranges.n, 0);
    set(4, 8, 0);
    ck_assert_int_eq(eg_ranges_set(&ranges, addr(7), addr(5), 1), 0);
    ck_assert_int_eq(eg_ranges_clear(&ranges, addr(7), addr(5)), 0);
    set(6, 6, 1);
    clear(6, 6);
    check();
    struct eg_range part = {1, 2, 3};
    ck_assert_int_eq(eg_ranges_next(&ranges, addr(5), addr(5), &part), 0);
    ck_assert_int_eq(eg_ranges_next(&ranges, addr(7), addr(5), &part), 0);
    ck_assert_int_eq(eg_ranges_overlap(&ranges, addr(5), addr(5)), 0);
    ck_assert_int_eq(eg_ranges_overlap(&ranges, addr(7), addr(5)), 0);
    ck_assert_uint_eq(part.start, 1);
}
END_TEST

START_TEST(ends_are_exclusive)
{
    struct eg_range part;
    start();
    set(4, 8, 0);
    ck_assert_int_eq(eg_ranges_overlap(&ranges, addr(0), addr(4)), 0);
    ck_assert_int_eq(eg_ranges_overlap(&ranges, addr(8), addr(9)), 0);
    ck_assert_int_ne(eg_ranges_overlap(&ranges, addr(0), addr(4) + 1), 0);
    ck_assert_int_ne(eg_ranges_overlap(&ranges, addr(8) - 1, addr(9)), 0);
    ck_assert_int_eq(eg_ranges_next(&ranges, addr(8), addr(9), &part), 0);
    ck_assert_int_eq(eg_ranges_next(&ranges, addr(0), addr(4), &part), 0);
    ck_assert_int_eq(eg_ranges_next(&ranges, addr(7), addr(20), &part), 1);
    ck_assert_uint_eq(part.start, addr(7));
    ck_assert_uint_eq(part.end, addr(8));
}
END_TEST

START_TEST(without_memory_nothing_changes)
{
    start();
    memory_short = 1;
    ck_assert_int_eq(eg_ranges_set(&ranges, addr(0), addr(1), 0), -ENOMEM);
    ck_assert_uint_eq(ranges.n, 0);
    memory_short = 0;
    uint32_t page = 0;
    while (ranges.n + 2 <= ranges.cap || !ranges.cap) {
        set(page, page + 1, 0);
        page += 2;
    }
    memory_short = 1;
    ck_assert_int_eq(eg_ranges_set(&ranges, addr(page), addr(page + 1), 0), -ENOMEM);
    ck_assert_int_eq(eg_ranges_clear(&ranges, addr(0), addr(1)), -ENOMEM);
    check();
    memory_short = 0;
    set(page, page + 1, 0);
    clear(0, 1);
    check();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_range");
    TCase *tc = unit_case(suite, "range", 120);
    tcase_add_loop_test(tc, random_walk_matches_a_page_array, 0, 3);
    tcase_add_test(tc, seen_while_others_change);
    tcase_add_test(tc, equal_neighbours_become_one);
    tcase_add_test(tc, empty_interval_changes_nothing);
    tcase_add_test(tc, ends_are_exclusive);
    tcase_add_test(tc, without_memory_nothing_changes);
    return unit_run(suite);
}
