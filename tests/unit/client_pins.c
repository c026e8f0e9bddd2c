/* Which pages stay, and until when. */
#include "client/pager/eg_inline.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BASE 0x700000000000ull
#define PAGES 4096u
#define OWNER 0x7f0000001000ull
#define MORE_THAN_A_PAGE_OF_RUNS 600u

struct eg_rt eg_rt;

void eg_die(const char *what, const char *name, int err)
{
    (void)name;
    (void)err;
    ck_abort_msg("%s", what);
    abort();
}

void eg_slab_free(uint8_t server, uint32_t slab, int shared)
{
    (void)server;
    (void)slab;
    (void)shared;
}

static uint64_t page(uint64_t i)
{
    return BASE / EG_PAGE_BYTES + i;
}

static uint64_t addr(uint64_t i)
{
    return BASE + i * EG_PAGE_BYTES;
}

/* What would have come home; and whether all of it was pinned by then. */
static struct {
    uint32_t calls, pages, unpinned;
    int stubborn; /* nothing comes */
} brought;

static void set_state(uint64_t i, enum eg_page_state s)
{
    struct eg_block *b = eg_block_get(page(i) / EG_BLOCK_PAGES);
    eg_page_set(b, (uint32_t)(page(i) % EG_BLOCK_PAGES), s);
}

void eg_inline_bring(uint64_t start, uint64_t end, int write)
{
    ck_assert_int_eq(eg_rt.lock.word, 1);
    ck_assert_uint_eq((start | end) % EG_PAGE_BYTES, 0);
    brought.calls++;
    for (uint64_t at = start; at < end; at += EG_PAGE_BYTES) {
        brought.unpinned += !eg_pin_has(at / EG_PAGE_BYTES);
        struct eg_block *b = eg_block_find(at >> EG_BLOCK_SHIFT);
        uint32_t i = (uint32_t)(at / EG_PAGE_BYTES % EG_BLOCK_PAGES);
        if (brought.stubborn || eg_page_state(b, i) == EG_P_DIRTY || (eg_page_state(b, i) == EG_P_CLEAN && !write))
            continue;
        brought.pages++;
        eg_page_set(b, i, EG_P_DIRTY);
    }
}

/* All of the pages are captured, armed, and here. */
static void start(void)
{
    memset(&eg_rt, 0, sizeof eg_rt);
    memset(&brought, 0, sizeof brought);
    eg_rt.pid = (uint32_t)getpid();
    eg_rt.armed = eg_sys_map(EG_N_BLOCKS / 8);
    ck_assert_int_eq(eg_ranges_set(&eg_rt.ranges, BASE, addr(PAGES), 0), 0);
    for (uint64_t i = 0; i < PAGES; i++)
        set_state(i, EG_P_DIRTY);
    for (uint64_t i = page(0) / EG_BLOCK_PAGES; i < page(PAGES) / EG_BLOCK_PAGES; i++)
        eg_block_set_armed(i, 1);
}

static void pin(uint64_t owner, uint64_t sp, uint64_t first, uint64_t n)
{
    struct eg_span_rw v = {addr(first) + 1, addr(first + n) - 1, 1};
    eg_pin_call(owner, sp, &v, 1);
    ck_assert_int_eq(eg_rt.lock.word, 0);
}

static int pinned(uint64_t first)
{
    return eg_pin_has(page(first));
}

START_TEST(nothing_is_pinned_at_first)
{
    start();
    ck_assert(!pinned(0));
    ck_assert(!eg_pin_any(BASE, addr(PAGES)));
    ck_assert(!eg_pin_held(OWNER, 1000, addr(0), addr(1), 0));
    ck_assert(!eg_pin_idle(OWNER, 1000));
    eg_pin_end(OWNER);
    eg_pin_reset();
}
END_TEST

START_TEST(a_call_pins_whole_pages_of_what_is_captured)
{
    start();
    ck_assert_int_eq(eg_ranges_clear(&eg_rt.ranges, addr(12), addr(14)), 0);
    ck_assert_int_eq(eg_ranges_set(&eg_rt.ranges, addr(16), addr(17), EG_RANGE_RESERVED), 0);
    pin(OWNER, 1000, 10, 8);
    for (uint64_t i = 0; i < 30; i++)
        ck_assert_int_eq(pinned(i), (i >= 10 && i < 18) && i != 12 && i != 13 && i != 16);
    ck_assert(eg_pin_any(addr(5), addr(10) + 1));
    ck_assert(!eg_pin_any(addr(5), addr(10)));
    ck_assert(!eg_pin_any(addr(18), addr(30)));
}
END_TEST

START_TEST(bad_addresses_pin_nothing)
{
    struct eg_span_rw v[] = {{0, 0, 1}, {addr(5), addr(5), 1}, {addr(6), addr(5), 1}, {addr(3), ~0ull, 1}, {1, 4096, 0}, {~0ull - 5, ~0ull, 1}};
    start();
    eg_pin_call(OWNER, 1000, v, sizeof v / sizeof *v);
    ck_assert(!eg_pin_any(0, 1ull << EG_ADDR_BITS));
}
END_TEST

START_TEST(a_call_from_the_same_depth_or_higher_up_ends_the_pins)
{
    start();
    pin(OWNER, 1000, 0, 1);
    pin(OWNER, 1000, 1, 1);
    ck_assert(!pinned(0) && pinned(1));
    pin(OWNER, 900, 2, 1); /* a signal handler's, deeper */
    ck_assert(pinned(1) && pinned(2));
    pin(OWNER, 800, 3, 1);
    ck_assert(pinned(1) && pinned(2) && pinned(3));
    pin(OWNER, 950, 4, 1);
    ck_assert(pinned(1) && !pinned(2) && !pinned(3) && pinned(4));
    pin(OWNER + 64, 2000, 5, 1); /* another thread's does not matter */
    ck_assert(pinned(1) && pinned(4) && pinned(5));
    pin(OWNER, 1001, 6, 1);
    ck_assert(!pinned(1) && !pinned(4) && pinned(5) && pinned(6));
    eg_pin_call(OWNER, 1001, NULL, 0);
    ck_assert(!pinned(6));
}
END_TEST

START_TEST(the_oldest_of_nine_calls_goes)
{
    start();
    for (uint64_t i = 0; i < 10; i++)
        pin(OWNER, 1000 - i, i, 1);
    for (uint64_t i = 0; i < 10; i++)
        ck_assert_int_eq(pinned(i), i >= 2);
}
END_TEST

START_TEST(more_extends_the_same_call)
{
    struct eg_span_rw v = {addr(20), addr(21), 0};
    start();
    pin(OWNER, 1000, 0, 1);
    pin(OWNER, 900, 1, 1);
    eg_pin_more(OWNER, 900, &v, 1);
    ck_assert(pinned(0) && pinned(1) && pinned(20));
    pin(OWNER, 900, 2, 1);
    ck_assert(pinned(0) && !pinned(1) && !pinned(20));
}
END_TEST

START_TEST(what_lasts_ends_with_the_thread)
{
    struct eg_span_rw v = {addr(20), addr(20) + 4, 1};
    start();
    eg_pin_more(OWNER, ~0ull, &v, 1);
    for (uint64_t i = 0; i < 8; i++)
        pin(OWNER, 1000 - i, i, 1);
    pin(OWNER, 1ull << 63, 0, 1);
    ck_assert(pinned(20));
    eg_pin_end(OWNER);
    ck_assert(!eg_pin_any(BASE, addr(PAGES)));
}
END_TEST

START_TEST(a_call_may_have_any_number_of_runs)
{
    static struct eg_span_rw v[MORE_THAN_A_PAGE_OF_RUNS];
    start();
    for (int turn = 0; turn < 3; turn++) {
        for (uint64_t i = 0; i < MORE_THAN_A_PAGE_OF_RUNS; i++)
            v[i] = (struct eg_span_rw){addr(2 * i), addr(2 * i) + 100, (int)(i & 1)};
        eg_pin_call(OWNER, 1000, v, MORE_THAN_A_PAGE_OF_RUNS);
        for (uint64_t i = 0; i < PAGES; i++)
            ck_assert_int_eq(pinned(i), i % 2 == 0 && i < 2 * MORE_THAN_A_PAGE_OF_RUNS);
        pin(OWNER, 1000, 1, 1);
        for (uint64_t i = 0; i < PAGES; i++)
            ck_assert_int_eq(pinned(i), i == 1);
    }
}
END_TEST

START_TEST(pinned_pages_come_home_and_only_those_that_must)
{
    start();
    set_state(3, EG_P_REMOTE);
    set_state(4, EG_P_CLEAN);
    set_state(6, EG_P_FRESH);
    struct eg_span_rw v[] = {{addr(4), addr(5), 0}, {addr(7), addr(9), 1}};
    eg_pin_call(OWNER, 1000, v, 2);
    ck_assert_uint_eq(brought.calls, 0);
    pin(OWNER, 1000, 3, 4);
    ck_assert_uint_eq(brought.pages, 3);
    ck_assert_uint_eq(brought.unpinned, 0);
    set_state(100, EG_P_REMOTE);
    brought.calls = 0;
    brought.stubborn = 1; /* unmapped past the gate: does not go on for ever */
    pin(OWNER, 1000, 100, 1);
    ck_assert_uint_ge(brought.calls, 1);
}
END_TEST

START_TEST(blocks_that_are_not_armed_need_nothing)
{
    start();
    for (uint64_t i = page(0) / EG_BLOCK_PAGES; i < page(PAGES) / EG_BLOCK_PAGES; i++)
        eg_block_set_armed(i, 0);
    set_state(3, EG_P_FRESH);
    pin(OWNER, 1000, 3, 1);
    ck_assert(pinned(3));
    ck_assert_uint_eq(brought.calls, 0);
}
END_TEST

START_TEST(held_when_the_last_call_needed_the_same)
{
    struct eg_span_rw v[] = {{addr(3), addr(5), 1}, {addr(8), addr(9), 0}};
    start();
    eg_pin_call(OWNER, 1000, v, 2);
    ck_assert(eg_pin_held(OWNER, 1000, addr(3) + 5, addr(4) + 7, 1));
    ck_assert(eg_pin_held(OWNER, 1000, addr(8), addr(8) + 7, 0));
    ck_assert(!eg_pin_held(OWNER, 1000, addr(8), addr(8) + 7, 1)); /* was for reading */
    ck_assert(!eg_pin_held(OWNER, 1000, addr(4), addr(6), 0));
    ck_assert(eg_pin_ready(OWNER, 1000, &v[0]) && eg_pin_ready(OWNER, 1000, &v[1]));
    ck_assert(!eg_pin_ready(OWNER, 1001, &v[0]));
    ck_assert(!eg_pin_ready(OWNER, 1000, &(struct eg_span_rw){addr(8), addr(9), 1}));
    ck_assert(eg_pin_ready(OWNER, 1000, &(struct eg_span_rw){1, 5, 1})); /* not captured */
    ck_assert(!eg_pin_held(OWNER, 1001, addr(3), addr(4), 0)); /* another depth */
    ck_assert(!eg_pin_held(OWNER, 999, addr(3), addr(4), 0));
    ck_assert(!eg_pin_held(OWNER + 8, 1000, addr(3), addr(4), 0));
    set_state(3, EG_P_FRESH); /* the program dropped it with madvise */
    ck_assert(!eg_pin_held(OWNER, 1000, addr(3), addr(4), 0));
    set_state(4, EG_P_CLEAN); /* a fork */
    ck_assert(!eg_pin_held(OWNER, 1000, addr(4), addr(5), 1));
    ck_assert(eg_pin_held(OWNER, 1000, addr(4), addr(5), 0));
    pin(OWNER, 1000, 100, 1000); /* many are rather given up */
    ck_assert(!eg_pin_held(OWNER, 1000, addr(100), addr(101), 1));
    ck_assert(eg_pin_idle(OWNER, 1000));
    ck_assert(!eg_pin_ready(OWNER, 1000, &(struct eg_span_rw){1, 5, 1})); /* they would stay */
    ck_assert(!eg_pin_idle(OWNER, 999));
}
END_TEST

/* --- runs that are kept beyond their call: where the budget has room for them ------------------------------------------------------ */

#define KEPT 16u
#define KEPT_RUN_PAGES 32u
#define KEPT_PAGES 128u
#define DEPTH(sp) ((sp) | EG_PIN_MAIN)

static void start_keeping(void)
{
    start();
    eg_rt.budget = 1u << 20;
}

static int held(uint64_t sp, uint64_t first)
{
    return eg_pin_held(OWNER, DEPTH(sp), addr(first), addr(first) + 1, 1);
}

START_TEST(a_loop_of_calls_keeps_its_buffers)
{
    start_keeping();
    for (uint64_t i = 0; i < 8; i++)
        pin(OWNER, DEPTH(1000 + 10 * (i % 3)), 2 * i, 1);
    for (int turn = 0; turn < 3; turn++)
        for (uint64_t i = 0; i < 8; i++) {
            ck_assert(held(1000 + 20 * (i % 2), 2 * i)); /* from any depth */
            ck_assert(!eg_pin_held(OWNER, 1000, addr(2 * i), addr(2 * i) + 1, 1)); /* the depth must be known where it counts */
            ck_assert(!eg_pin_held(OWNER + 8, DEPTH(1000), addr(2 * i), addr(2 * i) + 1, 1));
            ck_assert(!held(1000, 2 * i + 1));
        }
    ck_assert(!eg_pin_idle(OWNER, DEPTH(2000)));
    struct eg_span_rw v = {addr(40), addr(41), 0};
    eg_pin_call(OWNER, DEPTH(1000), &v, 1);
    ck_assert(!held(1000, 40)); /* for reading */
    pin(OWNER, DEPTH(1000), 40, 1);
    ck_assert(held(1000, 40));
    set_state(0, EG_P_CLEAN); /* a fork */
    ck_assert(!held(1000, 0));
    pin(OWNER, DEPTH(1000), 0, 1);
    ck_assert(held(1000, 0));
    eg_pin_end(OWNER);
    ck_assert(!eg_pin_any(BASE, addr(PAGES)));
}
END_TEST

START_TEST(the_longest_unused_goes)
{
    start_keeping();
    for (uint64_t i = 0; i < KEPT; i++)
        pin(OWNER, DEPTH(1000), 2 * i, 1);
    ck_assert(held(1000, 0)); /* used again */
    pin(OWNER, DEPTH(1000), 100, 1);
    ck_assert(pinned(0) && !pinned(2) && pinned(4) && pinned(100));
    /* By pages, too; one that is too long is the call's own. */
    for (uint64_t i = 0; i < 10; i++)
        pin(OWNER, DEPTH(1000), 1000 + 100 * i, KEPT_RUN_PAGES);
    for (uint64_t i = 0; i < 10; i++)
        ck_assert_int_eq(pinned(1000 + 100 * i), i >= 10 - KEPT_PAGES / KEPT_RUN_PAGES);
    pin(OWNER, DEPTH(1000), 2000, KEPT_RUN_PAGES + 1);
    ck_assert(pinned(2000) && pinned(1900));
    pin(OWNER, DEPTH(1000), 1900, 1);
    ck_assert(!pinned(2000) && pinned(1900));
}
END_TEST

START_TEST(one_call_may_need_more_than_is_kept)
{
    struct eg_span_rw v[3 * KEPT];
    start_keeping();
    for (uint64_t i = 0; i < 3 * KEPT; i++)
        v[i] = (struct eg_span_rw){addr(2 * i), addr(2 * i) + 1, 1};
    for (int turn = 0; turn < 3; turn++) {
        eg_pin_call(OWNER, DEPTH(1000), v, KEPT);
        eg_pin_more(OWNER, DEPTH(1000), v + KEPT, 2 * KEPT);
        for (uint64_t i = 0; i < 3 * KEPT; i++)
            ck_assert(pinned(2 * i));
        pin(OWNER, DEPTH(1000), 200, 1);
        uint64_t n = 0;
        for (uint64_t i = 0; i < 3 * KEPT; i++)
            n += (uint64_t)pinned(2 * i);
        ck_assert_uint_eq(n, KEPT - 1);
    }
}
END_TEST

/* A signal handler's calls come while one waits: what that needs stays, though there are many of them, and none from higher up. */
START_TEST(what_an_interrupted_call_needs_stays)
{
    start_keeping();
    pin(OWNER, DEPTH(1000), 0, 1);
    pin(OWNER, DEPTH(900), 2, 1); /* the handler's frame */
    eg_rt.handlers++;
    ck_assert(!held(800, 0) && !held(800, 2)); /* not known without the lock */
    for (uint64_t i = 0; i < 40; i++)
        pin(OWNER, DEPTH(800), 100 + 2 * i, 1);
    pin(OWNER, DEPTH(800), 0, 1); /* the same buffer */
    for (uint64_t i = 0; i < 40; i++)
        pin(OWNER, DEPTH(800), 100 + 2 * i, 1);
    ck_assert(pinned(0) && pinned(2));
    for (uint64_t i = 0; i < 40; i++) /* and after it, deeper than the interrupted call, which may have begun again */
        pin(OWNER, DEPTH(950), 200 + 2 * i, 1);
    ck_assert(pinned(0) && !pinned(2));
    pin(OWNER, DEPTH(1000), 300, 1);
    for (uint64_t i = 0; i < 40; i++)
        pin(OWNER, DEPTH(1000), 200 + 2 * i, 1);
    ck_assert(!pinned(0));
}
END_TEST

START_TEST(little_is_kept_where_there_is_little)
{
    start();
    eg_rt.budget = 2048;
    for (uint64_t i = 0; i < 100; i++)
        for (uint64_t k = 0; k < 4; k++)
            pin(OWNER + 64 * i, DEPTH(1000), 40 * i + 8 * k, 8);
    uint64_t n = 0;
    for (uint64_t i = 0; i < PAGES; i++)
        n += (uint64_t)pinned(i);
    ck_assert_uint_lt(n, 2048 / 2);
}
END_TEST

START_TEST(a_fork_child_starts_with_none)
{
    start();
    for (uint64_t i = 0; i < 50; i++)
        pin(OWNER + 8 * i, 1000, i, 1);
    ck_assert_uint_eq(eg_pin_owners(), 50);
    eg_pin_reset();
    ck_assert_uint_eq(eg_pin_owners(), 0);
    ck_assert(!eg_pin_any(BASE, addr(PAGES)));
    pin(OWNER, 1000, 7, 1);
    ck_assert(pinned(7));
}
END_TEST

static pid_t pinner;

static void *pin_and_die(void *at)
{
    pinner = gettid();
    pin(OWNER + 8 * (uint64_t)at, 1000, (uint64_t)at, 1);
    return NULL;
}

START_TEST(threads_that_are_gone_are_found_when_the_table_is_full)
{
    start();
    pin(OWNER, 1000, 0, 1);
    for (uint64_t i = 1; i <= 150; i++) {
        pthread_t t;
        ck_assert_int_eq(pthread_create(&t, NULL, pin_and_die, (void *)i), 0);
        pthread_join(t, NULL);
        while (tgkill(getpid(), pinner, 0) == 0) /* joined, but not quite gone */
            sched_yield();
    }
    ck_assert(pinned(1) && pinned(150));
    for (uint64_t i = 151; i < 350; i++)
        pin(OWNER + 8 * i, 1000, i, 1); /* this thread's number: all of them live */
    for (uint64_t i = 0; i < 350; i++)
        ck_assert_int_eq(pinned(i), i == 0 || i > 150);
    ck_assert_uint_eq(eg_pin_owners(), 200);
}
END_TEST

START_TEST(pins_by_thread_number_become_the_threads_own)
{
    uint64_t tid = (uint64_t)gettid();
    struct eg_span_rw v = {addr(3), addr(4), 1};
    start();
    ck_assert(!eg_pin_known(tid));
    eg_pin_call(EG_PIN_TID | tid, 1000, &v, 1);
    ck_assert(!eg_pin_known(tid));
    ck_assert(pinned(3));
    pin(OWNER, 900, 4, 1); /* a handler's call while that one lasts */
    ck_assert(eg_pin_known(tid));
    ck_assert(pinned(3) && pinned(4));
    ck_assert_uint_eq(eg_pin_owners(), 1);
    pin(OWNER, 1000, 5, 1);
    ck_assert(!pinned(3) && !pinned(4) && pinned(5));
}
END_TEST

/* Many threads, against a list of what each has. */
START_TEST(random_calls_agree_with_the_model)
{
    enum { OWNERS = 400, CALLS = 8 };
    static struct {
        uint32_t n;
        struct {
            uint64_t sp, first, n;
        } call[CALLS];
    } model[OWNERS];
    static uint16_t count[PAGES];
    struct random_state r = {0x9119 + (uint64_t)_i};
    start();
    memset(model, 0, sizeof model);
    memset(count, 0, sizeof count);
    for (int step = 0; step < 20000; step++) {
        uint32_t o = random_below(&r, OWNERS), what = random_below(&r, 50);
        uint64_t sp = 1000 - random_below(&r, 8), first = random_below(&r, PAGES - 40), n = 1 + random_below(&r, 40);
        if (what == 0)
            eg_pin_end(OWNER + o * 64);
        else
            pin(OWNER + o * 64, sp, first, n);
        while (model[o].n && (what == 0 || model[o].call[model[o].n - 1].sp <= sp)) {
            model[o].n--;
            for (uint64_t i = 0; i < model[o].call[model[o].n].n; i++)
                count[model[o].call[model[o].n].first + i]--;
        }
        if (what) {
            if (model[o].n == CALLS) {
                for (uint64_t i = 0; i < model[o].call[0].n; i++)
                    count[model[o].call[0].first + i]--;
                memmove(model[o].call, model[o].call + 1, (CALLS - 1) * sizeof model[o].call[0]);
                model[o].n--;
            }
            model[o].call[model[o].n].sp = sp;
            model[o].call[model[o].n].first = first;
            model[o].call[model[o].n++].n = n;
            for (uint64_t i = 0; i < n; i++)
                count[first + i]++;
        }
        for (int k = 0; k < 8; k++) {
            uint32_t i = random_below(&r, PAGES);
            ck_assert_int_eq(pinned(i), count[i] != 0);
        }
    }
    for (uint32_t o = 0; o < OWNERS; o++)
        eg_pin_end(OWNER + o * 64);
    ck_assert(!eg_pin_any(BASE, addr(PAGES)));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_pins");
    TCase *tc = unit_case(suite, "pins", 60);
    tcase_add_test(tc, nothing_is_pinned_at_first);
    tcase_add_test(tc, a_call_pins_whole_pages_of_what_is_captured);
    tcase_add_test(tc, bad_addresses_pin_nothing);
    tcase_add_test(tc, a_call_from_the_same_depth_or_higher_up_ends_the_pins);
    tcase_add_test(tc, the_oldest_of_nine_calls_goes);
    tcase_add_test(tc, more_extends_the_same_call);
    tcase_add_test(tc, what_lasts_ends_with_the_thread);
    tcase_add_test(tc, a_call_may_have_any_number_of_runs);
    tcase_add_test(tc, pinned_pages_come_home_and_only_those_that_must);
    tcase_add_test(tc, blocks_that_are_not_armed_need_nothing);
    tcase_add_test(tc, held_when_the_last_call_needed_the_same);
    tcase_add_test(tc, a_loop_of_calls_keeps_its_buffers);
    tcase_add_test(tc, the_longest_unused_goes);
    tcase_add_test(tc, one_call_may_need_more_than_is_kept);
    tcase_add_test(tc, what_an_interrupted_call_needs_stays);
    tcase_add_test(tc, little_is_kept_where_there_is_little);
    tcase_add_test(tc, a_fork_child_starts_with_none);
    tcase_add_test(tc, threads_that_are_gone_are_found_when_the_table_is_full);
    tcase_add_test(tc, pins_by_thread_number_become_the_threads_own);
    tcase_add_loop_test(tc, random_calls_agree_with_the_model, 0, 3);
    return unit_run(suite);
}
