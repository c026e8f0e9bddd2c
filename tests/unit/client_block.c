/* Page states, the counts of a block, and the process's charge, against a recount from the definitions in eg_pager.h. */
#include "client/pager/eg_pager.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKS 3u
#define FIRST_BLOCK 0x3fff0ull /* the walk's blocks; block 0x3ffff and up lie in the next leaf */

struct eg_rt eg_rt;

static int memory_short;
void *__real_eg_sys_map(size_t bytes);
void *__wrap_eg_sys_map(size_t bytes);
void *__wrap_eg_sys_map(size_t bytes)
{
    return memory_short ? NULL : __real_eg_sys_map(bytes);
}

static struct {
    uint32_t calls, slab;
    uint8_t server;
    int shared;
} freed;

void eg_slab_free(uint8_t server, uint32_t slab, int shared)
{
    freed.calls++;
    freed.slab = slab;
    freed.server = server;
    freed.shared = shared;
}

static void start(void)
{
    memset(&eg_rt, 0, sizeof eg_rt);
    memset(&freed, 0, sizeof freed);
    memory_short = 0;
    eg_rt.armed = eg_sys_map(EG_N_BLOCKS / 8);
    ck_assert_ptr_nonnull(eg_rt.armed);
}

static uint64_t page_addr(uint64_t block, uint32_t page)
{
    return (block << EG_BLOCK_SHIFT) + page * (uint64_t)EG_PAGE_BYTES;
}

static void capture(uint64_t start_addr, uint64_t end_addr, uint64_t flags)
{
    ck_assert_int_eq(eg_ranges_set(&eg_rt.ranges, start_addr, end_addr, flags), 0);
}

/* What the state diagram says, a page at a time. Returns: the block's share of the charge. */
static int64_t recount(const struct eg_block *b, int armed)
{
    uint32_t fresh = 0, resident = 0, copied = 0, busy = 0;
    for (uint32_t i = 0; i < EG_BLOCK_PAGES; i++) {
        switch (eg_page_state(b, i)) {
        case EG_P_NONE:
        case EG_P_RESERVED: break;
        case EG_P_FRESH: fresh++; break;
        case EG_P_CLEAN: resident++, copied++; break;
        case EG_P_DIRTY: resident++; break;
        case EG_P_REMOTE: copied++; break;
        case EG_P_FETCHING: resident++, copied++, busy++; break;
        case EG_P_INFLIGHT: busy++; break;
        }
    }
    ck_assert_uint_eq(b->n_fresh, fresh);
    ck_assert_uint_eq(b->n_resident, resident);
    ck_assert_uint_eq(b->n_copied, copied);
    ck_assert_uint_eq(b->n_busy, busy);
    return armed ? resident : fresh;
}

START_TEST(random_transitions_keep_the_counts)
{
    struct random_state r = {0xb10c + (uint64_t)_i};
    struct eg_block *b[BLOCKS];
    uint8_t model[BLOCKS][EG_BLOCK_PAGES] = {{0}};
    int armed[BLOCKS] = {0};
    start();
    capture(page_addr(FIRST_BLOCK, 100), page_addr(FIRST_BLOCK + 1, 300), 0);
    capture(page_addr(FIRST_BLOCK + 1, 300), page_addr(FIRST_BLOCK + 2, 10), EG_RANGE_RESERVED);
    for (uint32_t k = 0; k < BLOCKS; k++) {
        b[k] = eg_block_get(FIRST_BLOCK + k);
        ck_assert_ptr_nonnull(b[k]);
        memcpy(model[k], b[k]->page, EG_BLOCK_PAGES);
    }
    ck_assert_int_eq(eg_rt.charged, 0); /* the ranges had it in the charge already */
    int64_t offset = -(int64_t)b[0]->n_fresh - b[1]->n_fresh;
    for (int step = 0; step < 20000; step++) {
        uint32_t k = random_below(&r, BLOCKS), i = random_below(&r, EG_BLOCK_PAGES);
        uint32_t what = random_below(&r, 100);
        if (what == 0) {
            armed[k] = !armed[k];
            eg_block_set_armed(FIRST_BLOCK + k, armed[k]);
        } else if (what == 1) {
            eg_block_set_armed(FIRST_BLOCK + k, armed[k]); /* again: no change */
        } else if (what < 10) {
            b[k]->page[i] ^= (uint8_t)(random_u64(&r) & ~EG_P_STATE);
            model[k][i] = b[k]->page[i];
        } else {
            uint8_t s = (uint8_t)random_below(&r, EG_P_INFLIGHT + 1);
            eg_page_set(b[k], i, (enum eg_page_state)s);
            model[k][i] = (uint8_t)((model[k][i] & ~EG_P_STATE) | s);
        }
        ck_assert_uint_eq(b[k]->page[i], model[k][i]);
        if (step % 16)
            continue;
        int64_t charge = offset;
        for (uint32_t m = 0; m < BLOCKS; m++) {
            ck_assert_int_eq(eg_block_armed(FIRST_BLOCK + m), armed[m]);
            charge += recount(b[m], armed[m]);
        }
        ck_assert_int_eq(eg_rt.charged, charge);
    }
    for (uint32_t k = 0; k < BLOCKS; k++)
        ck_assert_mem_eq(b[k]->page, model[k], EG_BLOCK_PAGES);
}
END_TEST

START_TEST(block_is_made_from_the_ranges)
{
    start();
    uint64_t index = FIRST_BLOCK;
    capture(page_addr(index - 1, 500), page_addr(index, 3), 0);
    capture(page_addr(index, 5), page_addr(index, 6), EG_RANGE_RESERVED);
    capture(page_addr(index, 7), page_addr(index, 9), EG_RANGE_NORESERVE);
    capture(page_addr(index, 511), page_addr(index + 1, 1), EG_RANGE_RESERVED | EG_RANGE_NORESERVE);
    struct eg_block *b = eg_block_get(index);
    ck_assert_ptr_nonnull(b);
    ck_assert_uint_eq(b->index, index);
    ck_assert_uint_eq(eg_block_addr(b), index << EG_BLOCK_SHIFT);
    ck_assert_uint_eq(b->slab, EG_SLAB_NONE);
    ck_assert_ptr_null(b->sums);
    for (uint32_t i = 0; i < EG_BLOCK_PAGES; i++) {
        uint8_t want = i < 3 || i == 7 || i == 8 ? EG_P_FRESH : i == 5 || i == 511 ? EG_P_RESERVED : EG_P_NONE;
        ck_assert_msg(b->page[i] == want, "page %u: %u, expected %u", i, b->page[i], want);
    }
    ck_assert_int_eq(recount(b, 0), 5);
    ck_assert_int_eq(eg_rt.charged, 0);
    /* From now on the block speaks for itself. */
    capture(page_addr(index, 100), page_addr(index, 200), 0);
    ck_assert_ptr_eq(eg_block_get(index), b);
    ck_assert_ptr_eq(eg_block_find(index), b);
    ck_assert_int_eq(recount(b, 0), 5);
}
END_TEST

START_TEST(every_block_of_the_address_space_has_a_place)
{
    static const uint64_t index[] = {0, 1, 8191, 8192, 0x3ffff, 0x40000, EG_N_BLOCKS - 8193, EG_N_BLOCKS - 1};
    struct eg_block *b[sizeof index / sizeof *index];
    start();
    for (size_t k = 0; k < sizeof index / sizeof *index; k++) {
        ck_assert_ptr_null(eg_block_find(index[k]));
        ck_assert_int_eq(eg_block_armed(index[k]), 0);
        b[k] = eg_block_get(index[k]);
        ck_assert_ptr_nonnull(b[k]);
        eg_block_set_armed(index[k], 1);
    }
    for (size_t k = 0; k < sizeof index / sizeof *index; k++) {
        ck_assert_ptr_eq(eg_block_find(index[k]), b[k]);
        ck_assert_uint_eq(b[k]->index, index[k]);
        ck_assert_int_eq(eg_block_armed(index[k]), 1);
        for (size_t j = 0; j < k; j++)
            ck_assert_ptr_ne(b[j], b[k]);
        eg_block_set_armed(index[k], 0);
        ck_assert_int_eq(eg_block_armed(index[k]), 0);
    }
    ck_assert_int_eq(eg_block_armed(2), 0);
    ck_assert_ptr_null(eg_block_find(2));
}
END_TEST

/* In order, across leaves that are there and leaves that are not; a block made meanwhile, further on, is met. */
START_TEST(blocks_are_walked_in_order)
{
    static const uint64_t index[] = {0, 8191, 8192, 3 * 8192 + 5, EG_N_BLOCKS - 1};
    uint64_t at = 0;
    start();
    ck_assert_ptr_null(eg_block_next(&at, EG_N_BLOCKS));
    for (size_t k = 0; k < 4; k++)
        ck_assert_ptr_nonnull(eg_block_get(index[k]));
    at = 0;
    for (size_t k = 0; k < 5; k++) {
        struct eg_block *b = eg_block_next(&at, EG_N_BLOCKS);
        ck_assert_ptr_nonnull(b);
        ck_assert_uint_eq(b->index, index[k]);
        ck_assert_uint_eq(at, index[k] + 1);
        if (k == 2)
            ck_assert_ptr_nonnull(eg_block_get(index[4]));
    }
    ck_assert_ptr_null(eg_block_next(&at, EG_N_BLOCKS));
    for (size_t k = 0; k < 5; k++) {
        ck_assert_ptr_nonnull(eg_block_next(&(uint64_t){index[k]}, index[k] + 1));
        ck_assert_ptr_null(eg_block_next(&(uint64_t){index[k]}, index[k]));
        ck_assert(k == 1 || k == 4 || !eg_block_next(&(uint64_t){index[k] + 1}, index[k] + 64));
    }
}
END_TEST

START_TEST(blocks_change_places)
{
    start();
    struct eg_block *one = eg_block_get(7), *other = eg_block_get(8192 + 7);
    ck_assert_ptr_nonnull(one);
    ck_assert_ptr_nonnull(other);
    eg_block_swap(7, 8192 + 7);
    ck_assert_ptr_eq(eg_block_find(7), other);
    ck_assert_ptr_eq(eg_block_find(8192 + 7), one);
    ck_assert_uint_eq(other->index, 7);
    ck_assert_uint_eq(one->index, 8192 + 7);
}
END_TEST

/* More blocks than one piece of the allocator holds: each has its own memory. */
START_TEST(many_blocks_do_not_overlap)
{
    enum { MANY = 1000 };
    static struct eg_block *b[MANY];
    start();
    for (uint32_t k = 0; k < MANY; k++) {
        ck_assert_ptr_nonnull(b[k] = eg_block_get(8000 + k));
        memset(b[k]->page, (int)(k & 0xff), sizeof b[k]->page);
        b[k]->slab = k;
    }
    for (uint32_t k = 0; k < MANY; k++) {
        ck_assert_uint_eq(b[k]->index, 8000 + k);
        ck_assert_uint_eq(b[k]->slab, k);
        ck_assert_uint_eq(b[k]->page[0], k & 0xff);
        ck_assert_uint_eq(b[k]->page[EG_BLOCK_PAGES - 1], k & 0xff);
    }
}
END_TEST

START_TEST(armed_is_asked_before_there_is_a_map)
{
    memset(&eg_rt, 0, sizeof eg_rt);
    ck_assert_int_eq(eg_block_armed(5), 0);
}
END_TEST

START_TEST(without_memory_there_is_no_block)
{
    start();
    memory_short = 1;
    ck_assert_ptr_null(eg_block_get(7));
    ck_assert_ptr_null(eg_block_find(7));
    memory_short = 0;
    ck_assert_ptr_nonnull(eg_block_get(7));
}
END_TEST

START_TEST(slab_goes_when_no_page_needs_it)
{
    static const enum eg_page_state holds[] = {EG_P_CLEAN, EG_P_REMOTE, EG_P_FETCHING, EG_P_INFLIGHT};
    static const enum eg_page_state does_not[] = {EG_P_NONE, EG_P_RESERVED, EG_P_FRESH, EG_P_DIRTY};
    start();
    struct eg_block *b = eg_block_get(9);
    ck_assert_ptr_nonnull(b);
    eg_block_slab_gone(b);
    ck_assert_uint_eq(freed.calls, 0);
    b->slab = 41;
    b->server = 3;
    b->shared = 1;
    for (size_t i = 0; i < 4; i++) {
        eg_page_set(b, 17, holds[i]);
        eg_block_slab_gone(b);
        ck_assert_uint_eq(freed.calls, 0);
        ck_assert_uint_eq(b->slab, 41);
    }
    for (size_t i = 0; i < 4; i++) {
        b->slab = 41;
        b->shared = 1;
        eg_page_set(b, 17, does_not[i]);
        eg_block_slab_gone(b);
        ck_assert_uint_eq(freed.calls, i + 1);
        ck_assert_uint_eq(freed.slab, 41);
        ck_assert_uint_eq(freed.server, 3);
        ck_assert_int_eq(freed.shared, 1);
        ck_assert_uint_eq(b->slab, EG_SLAB_NONE);
        ck_assert_uint_eq(b->shared, 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_block");
    TCase *tc = unit_case(suite, "block", 120);
    tcase_add_loop_test(tc, random_transitions_keep_the_counts, 0, 3);
    tcase_add_test(tc, block_is_made_from_the_ranges);
    tcase_add_test(tc, every_block_of_the_address_space_has_a_place);
    tcase_add_test(tc, blocks_are_walked_in_order);
    tcase_add_test(tc, blocks_change_places);
    tcase_add_test(tc, many_blocks_do_not_overlap);
    tcase_add_test(tc, armed_is_asked_before_there_is_a_map);
    tcase_add_test(tc, without_memory_there_is_no_block);
    tcase_add_test(tc, slab_goes_when_no_page_needs_it);
    return unit_run(suite);
}
