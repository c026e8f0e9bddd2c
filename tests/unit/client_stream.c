/* Reading ahead: what eg_stream_fault makes of sequences of faults. The loops below are a program that touches pages in some
 * order; a page that was read ahead does not fault, so the caller's next fault is the first page beyond the window. */
#include "client/pager/eg_pager.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <stdlib.h>
#include <string.h>

#define MAX_WINDOW 128u
#define STRIDED_MAX 16u
#define TID 100u
#define START_PAGE 0x500000000ull

struct eg_rt eg_rt;

static struct eg_stream streams[EG_N_STREAMS];
static uint64_t ticks;

static void start(void)
{
    memset(streams, 0, sizeof streams);
    ticks = 0;
}

static uint32_t fault(uint64_t page, uint32_t tid, uint32_t max, int32_t *ret_stride, uint32_t *ret_hits)
{
    return eg_stream_fault(streams, EG_N_STREAMS, page, tid, ++ticks, max, 1, ret_stride, ret_hits);
}

/* A walk of n pages in steps of stride, reading ahead whatever is proposed. */
struct walk {
    uint64_t page;
    int32_t stride;
    uint32_t tid;
    uint32_t max;
    uint32_t left; /* pages of the last window that are still to come */
    uint32_t faults, window, largest, hits;
};

static void walk_step(struct walk *w)
{
    uint32_t hits;
    int32_t stride;
    if (w->left) {
        w->left--;
    } else {
        w->window = fault(w->page, w->tid, w->max, &stride, &hits);
        w->faults++;
        w->hits += hits;
        if (w->window) {
            ck_assert_int_eq(stride, w->stride);
            w->left = w->window;
        }
        if (w->window > w->largest)
            w->largest = w->window;
    }
    w->page += (uint64_t)(int64_t)w->stride;
}

static void walk_far(struct walk *w, uint32_t steps)
{
    while (steps--)
        walk_step(w);
}

START_TEST(first_fault_reads_nothing_ahead)
{
    int32_t stride;
    uint32_t hits = 9;
    start();
    ck_assert_uint_eq(fault(START_PAGE, TID, MAX_WINDOW, &stride, &hits), 0);
    ck_assert_uint_eq(hits, 0);
}
END_TEST

START_TEST(sequence_opens_a_window_that_grows_to_the_cap)
{
    struct walk w = {.page = START_PAGE, .stride = 1, .tid = TID, .max = MAX_WINDOW};
    uint32_t was = 0;
    start();
    walk_step(&w);
    ck_assert_uint_eq(w.window, 0);
    walk_step(&w);
    ck_assert_uint_gt(w.window, 0); /* the second page already shows the way */
    for (uint32_t k = 0; k < 2000; k++) {
        walk_step(&w);
        ck_assert_uint_ge(w.window, was);
        was = w.window;
    }
    ck_assert_uint_eq(w.largest, MAX_WINDOW);
    ck_assert_uint_lt(w.faults, 30); /* of 2002 pages */
    /* Each window that was used up is a hit for every page of it; only the last one is still open. */
    ck_assert_uint_ge(w.hits + w.window + w.faults, 2002 - 1);
    ck_assert_uint_le(w.hits, 2002);
}
END_TEST

/* Two neighbours are a sign for an eager caller only; three in a row are one for everybody. */
START_TEST(without_eagerness_it_takes_three_to_make_a_sequence)
{
    uint32_t hits, ahead[2][3];
    int32_t stride;
    for (int eager = 0; eager < 2; eager++) {
        start();
        for (uint32_t k = 0; k < 3; k++)
            ahead[eager][k] = eg_stream_fault(streams, EG_N_STREAMS, START_PAGE + k, TID, ++ticks, MAX_WINDOW, eager, &stride, &hits);
        ck_assert_uint_eq(ahead[eager][0], 0);
        ck_assert_uint_gt(ahead[eager][2], 0);
    }
    ck_assert_uint_eq(ahead[0][1], 0);
    ck_assert_uint_gt(ahead[1][1], 0);
}
END_TEST

START_TEST(window_keeps_under_the_callers_cap)
{
    static const uint32_t cap[] = {16, 17, 31, 32, 100, MAX_WINDOW};
    struct walk w = {.page = START_PAGE, .stride = 1, .tid = TID, .max = cap[_i]};
    start();
    walk_far(&w, 2000);
    ck_assert_uint_eq(w.largest, cap[_i]);
}
END_TEST

START_TEST(backward_sequence_is_followed)
{
    struct walk w = {.page = START_PAGE, .stride = -1, .tid = TID, .max = MAX_WINDOW};
    start();
    walk_far(&w, 2000);
    ck_assert_uint_eq(w.largest, MAX_WINDOW);
    ck_assert_uint_lt(w.faults, 30);
    ck_assert_uint_gt(w.hits, 1500);
}
END_TEST

START_TEST(stride_is_followed_with_a_small_window)
{
    static const int32_t strides[] = {2, 3, 7, 16, 31, 32, -2, -5, -32};
    struct walk w = {.page = START_PAGE, .stride = strides[_i], .tid = TID, .max = MAX_WINDOW};
    start();
    walk_step(&w);
    walk_step(&w);
    ck_assert_uint_eq(w.window, 0); /* two points are no line */
    walk_step(&w);
    ck_assert_uint_gt(w.window, 0);
    walk_far(&w, 1000);
    ck_assert_uint_eq(w.largest, STRIDED_MAX);
    ck_assert_uint_lt(w.faults, 100);
    ck_assert_uint_gt(w.hits, 800);
}
END_TEST

/* A matrix by its columns: the step is a row. It takes longer to be believed than a near one. */
START_TEST(far_stride_is_followed)
{
    static const int32_t strides[] = {33, 100, -100, 4096, -1000, 262144};
    struct walk w = {.page = START_PAGE, .stride = strides[_i], .tid = TID, .max = MAX_WINDOW};
    start();
    for (uint32_t k = 0; k < 3; k++) {
        walk_step(&w);
        ck_assert_uint_eq(w.window, 0);
    }
    walk_far(&w, 1000);
    ck_assert_uint_eq(w.largest, STRIDED_MAX);
    ck_assert_uint_lt(w.faults, 100);
}
END_TEST

/* The next column is in the same pages: its walk is found again each time. */
START_TEST(columns_one_after_the_other)
{
    enum { ROWS = 200, ROW_PAGES = 64 };
    uint32_t faults = 0;
    start();
    for (uint32_t column = 0; column < 20; column++) {
        struct walk w = {.page = START_PAGE, .stride = ROW_PAGES, .tid = TID, .max = MAX_WINDOW};
        walk_far(&w, ROWS);
        faults += w.faults;
    }
    ck_assert_uint_lt(faults, 20 * ROWS / 5);
}
END_TEST

START_TEST(far_stride_is_the_majority_s)
{
    struct random_state r = {7};
    struct walk w = {.page = START_PAGE, .stride = 500, .tid = TID, .max = MAX_WINDOW};
    int32_t stride;
    uint32_t hits, wasted = 0;
    start();
    for (uint32_t k = 0; k < 2000; k++) {
        walk_step(&w);
        if (k % 7 == 0)
            wasted += fault(2 * START_PAGE + random_below(&r, 1u << 30), TID, MAX_WINDOW, &stride, &hits);
    }
    ck_assert_uint_eq(w.largest, STRIDED_MAX);
    ck_assert_uint_lt(w.faults, 300);
    ck_assert_uint_eq(wasted, 0);
}
END_TEST

/* Windows of a block or more end where blocks do, so that the next ones are wanted whole. */
START_TEST(large_windows_end_with_a_block)
{
    static const int32_t strides[] = {1, -1};
    struct walk w = {.page = START_PAGE + 77, .stride = strides[_i], .tid = TID, .max = 1024};
    uint32_t whole = 0;
    start();
    for (uint32_t k = 0; k < 20000; k++) {
        int faults = !w.left;
        uint64_t page = w.page;
        walk_step(&w);
        if (!faults || w.window < 512)
            continue;
        uint64_t next = page + (uint64_t)(int64_t)strides[_i] * (w.window + 1);
        ck_assert_uint_eq((strides[_i] > 0 ? next : next + 1) % 512, 0);
        ck_assert_uint_le(w.window, 1024 + 511);
        whole++;
    }
    ck_assert_uint_gt(whole, 15);
}
END_TEST

/* Faults on pages that are on their way: while the last window is used, the next one is asked for, once. */
START_TEST(joined_faults_extend_the_sequence)
{
    static const int32_t strides[] = {1, -1};
    struct walk w = {.page = START_PAGE, .stride = strides[_i], .tid = TID, .max = 64};
    uint64_t from, step = (uint64_t)(int64_t)strides[_i];
    int32_t stride;
    uint32_t hits;
    start();
    walk_far(&w, 1);
    while (w.left || w.window < 64)
        walk_step(&w);
    walk_step(&w); /* 64 pages behind this one are on their way */
    uint64_t page = w.page - step;
    ck_assert_uint_eq(w.left, 64);
    ck_assert_uint_eq(eg_stream_joined(streams, EG_N_STREAMS, page + step * 8, TID + 1, ++ticks, 128, &from, &stride, &hits), 0);
    ck_assert_uint_eq(eg_stream_joined(streams, EG_N_STREAMS, page + step * 80, TID, ++ticks, 128, &from, &stride, &hits), 0);
    ck_assert_uint_eq(eg_stream_joined(streams, EG_N_STREAMS, page + step * 8, TID, ++ticks, 128, &from, &stride, &hits), 128);
    ck_assert_uint_eq(from, page + step * 64);
    ck_assert_int_eq(stride, strides[_i]);
    ck_assert_uint_eq(hits, 8);
    ck_assert_uint_eq(eg_stream_joined(streams, EG_N_STREAMS, page + step * 9, TID, ++ticks, 128, &from, &stride, &hits), 0);
    ck_assert_uint_eq(eg_stream_joined(streams, EG_N_STREAMS, page + step * 70, TID, ++ticks, 128, &from, &stride, &hits), 128);
    ck_assert_uint_eq(from, page + step * 192);
    ck_assert_uint_eq(hits, 62);
    ck_assert_uint_eq(fault(page + step * 321, TID, 128, &stride, &hits), 128); /* all of it was used */
}
END_TEST

/* A sequence goes on behind a piece that was here. */
START_TEST(gap_that_was_here_is_passed_over)
{
    struct walk w = {.page = START_PAGE, .stride = 1, .tid = TID, .max = MAX_WINDOW};
    start();
    walk_far(&w, 1000);
    while (w.left)
        walk_step(&w);
    uint32_t faults = w.faults;
    w.page += 100;
    walk_far(&w, 2 * MAX_WINDOW);
    ck_assert_uint_eq(w.window, MAX_WINDOW);
    ck_assert_uint_le(w.faults, faults + 2);
}
END_TEST

/* Several walks at once, by one thread or by one each, in a random turn order, do not disturb each other. */
START_TEST(interleaved_streams_keep_their_own_windows)
{
    static const int32_t strides[] = {1, -1, 4, 1, -3, 1, 1, 9, 1, -1, 2, 1};
    enum { N = sizeof strides / sizeof *strides };
    struct walk w[N];
    struct random_state r = {99};
    start();
    for (uint32_t k = 0; k < N; k++)
        w[k] = (struct walk){.page = START_PAGE + k * 1000000u, .stride = strides[k], .tid = _i ? TID + k : TID, .max = MAX_WINDOW};
    for (uint32_t step = 0; step < N * 1500u; step++)
        walk_step(&w[random_below(&r, N)]);
    for (uint32_t k = 0; k < N; k++) {
        int line = strides[k] == 1 || strides[k] == -1;
        ck_assert_uint_eq(w[k].largest, line ? MAX_WINDOW : STRIDED_MAX);
        ck_assert_uint_lt(w[k].faults, line ? 30 : 150);
    }
}
END_TEST

/* Threads that work through neighbouring pages must not be taken for one walk. */
START_TEST(threads_are_told_apart)
{
    uint32_t hits, ahead = 0;
    int32_t stride;
    start();
    for (uint32_t k = 0; k < 64; k++)
        ahead += fault(START_PAGE + k, TID + k % 16, MAX_WINDOW, &stride, &hits);
    for (uint32_t k = 0; k < EG_N_STREAMS; k++)
        ck_assert(streams[k].stride != 1);
    start();
    uint32_t alone = 0;
    for (uint32_t k = 0; k < 20; k++)
        alone += fault(START_PAGE + 2 * k, TID, MAX_WINDOW, &stride, &hits);
    start();
    ahead = 0;
    for (uint32_t k = 0; k < 20; k++)
        ahead += fault(START_PAGE + 2 * k, TID + k, MAX_WINDOW, &stride, &hits);
    ck_assert_uint_gt(alone, 0);
    ck_assert_uint_eq(ahead, 0);
}
END_TEST

START_TEST(random_faults_read_nothing_ahead)
{
    struct random_state r = {0xabcdef + (uint64_t)_i};
    uint64_t ahead = 0, asked = 0;
    uint32_t hits;
    int32_t stride;
    start();
    for (uint32_t k = 0; k < 20000; k++) {
        ahead += fault(START_PAGE + random_below(&r, 1u << 20), TID + random_below(&r, 4), MAX_WINDOW, &stride, &hits);
        asked++;
    }
    /* Chance neighbours there are: 32 streams over 2^20 pages. */
    ck_assert_uint_lt(ahead * 200, asked);
}
END_TEST

START_TEST(jump_ends_the_old_window)
{
    struct walk w = {.page = START_PAGE, .stride = 1, .tid = TID, .max = MAX_WINDOW};
    uint32_t hits;
    int32_t stride;
    start();
    walk_far(&w, 1000);
    ck_assert_uint_eq(w.window, MAX_WINDOW);
    ck_assert_uint_eq(fault(START_PAGE + 500000, TID, MAX_WINDOW, &stride, &hits), 0);
    ck_assert_uint_eq(hits, 0);
    uint32_t again = fault(START_PAGE + 500001, TID, MAX_WINDOW, &stride, &hits);
    ck_assert(again > 0 && again < MAX_WINDOW);
    /* The old walk goes on where it was, as large as it was. */
    walk_far(&w, 300);
    ck_assert_uint_eq(w.window, MAX_WINDOW);
}
END_TEST

/* A change of direction near the last fault closes the window. */
START_TEST(turn_closes_the_window)
{
    struct walk w = {.page = START_PAGE, .stride = 1, .tid = TID, .max = MAX_WINDOW};
    uint32_t hits;
    int32_t stride;
    start();
    walk_far(&w, 400);
    uint64_t last = 0;
    for (uint32_t k = 0; k < EG_N_STREAMS; k++)
        if (streams[k].used)
            last = streams[k].last;
    ck_assert_uint_eq(fault(last - 7, TID, MAX_WINDOW, &stride, &hits), 0);
    ck_assert_uint_eq(hits, 0);
}
END_TEST

/* The stream that was idle longest makes room. */
START_TEST(oldest_stream_is_replaced)
{
    uint32_t hits;
    int32_t stride;
    start();
    for (uint64_t k = 0; k < EG_N_STREAMS; k++)
        ck_assert_uint_eq(fault(START_PAGE + k * k * 100000, TID, MAX_WINDOW, &stride, &hits), 0);
    for (uint64_t k = 1; k < EG_N_STREAMS; k++) /* all but the first show signs of life */
        ck_assert_uint_gt(fault(START_PAGE + k * k * 100000 + 1, TID, MAX_WINDOW, &stride, &hits), 0);
    ck_assert_uint_eq(fault(START_PAGE + 99 * 99 * 100000ull, TID, MAX_WINDOW, &stride, &hits), 0);
    for (uint64_t k = 1; k < EG_N_STREAMS; k++)
        ck_assert_uint_gt(fault(START_PAGE + k * k * 100000 + 6, TID, MAX_WINDOW, &stride, &hits), 0);
    ck_assert_uint_eq(fault(START_PAGE + 1, TID, MAX_WINDOW, &stride, &hits), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_stream");
    TCase *tc = unit_case(suite, "stream", 120);
    tcase_add_test(tc, first_fault_reads_nothing_ahead);
    tcase_add_test(tc, sequence_opens_a_window_that_grows_to_the_cap);
    tcase_add_test(tc, without_eagerness_it_takes_three_to_make_a_sequence);
    tcase_add_loop_test(tc, window_keeps_under_the_callers_cap, 0, 6);
    tcase_add_test(tc, backward_sequence_is_followed);
    tcase_add_loop_test(tc, stride_is_followed_with_a_small_window, 0, 9);
    tcase_add_loop_test(tc, far_stride_is_followed, 0, 6);
    tcase_add_test(tc, columns_one_after_the_other);
    tcase_add_test(tc, far_stride_is_the_majority_s);
    tcase_add_loop_test(tc, large_windows_end_with_a_block, 0, 2);
    tcase_add_loop_test(tc, joined_faults_extend_the_sequence, 0, 2);
    tcase_add_test(tc, gap_that_was_here_is_passed_over);
    tcase_add_loop_test(tc, interleaved_streams_keep_their_own_windows, 0, 2);
    tcase_add_test(tc, threads_are_told_apart);
    tcase_add_loop_test(tc, random_faults_read_nothing_ahead, 0, 3);
    tcase_add_test(tc, jump_ends_the_old_window);
    tcase_add_test(tc, turn_closes_the_window);
    tcase_add_test(tc, oldest_stream_is_replaced);
    return unit_run(suite);
}
