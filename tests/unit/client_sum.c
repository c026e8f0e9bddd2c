/* The checksum of a page. */
#include "client/pager/eg_pager.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <stdlib.h>
#include <string.h>

static _Alignas(64) uint8_t page[EG_PAGE_BYTES], other[EG_PAGE_BYTES];

static uint32_t sum(const void *p)
{
    int zero = -1;
    uint32_t s = eg_page_sum(p, &zero);
    if (zero != 0 && zero != 1)
        ck_abort_msg("zero: %d", zero);
    return s;
}

static void fill(int kind)
{
    struct random_state r = {0x1234567ull + (uint64_t)kind};
    memset(page, 0, sizeof page);
    if (kind == 1)
        memset(page, 0xff, sizeof page);
    if (kind == 2)
        random_fill(&r, page, sizeof page);
    if (kind == 3) /* a page of pointers and small numbers */
        for (size_t i = 0; i < sizeof page; i += 8)
            memcpy(page + i, &(uint64_t){i % 16 ? i : 0x7f0000000000ull + i}, 8);
}

START_TEST(any_single_bit_shows)
{
    fill(_i);
    uint32_t was = sum(page);
    ck_assert_uint_eq(sum(page), was);
    for (uint32_t bit = 0; bit < sizeof page * 8; bit++) {
        page[bit / 8] = (uint8_t)(page[bit / 8] ^ (1u << bit % 8));
        if (sum(page) == was)
            ck_abort_msg("bit %u does not show", bit);
        page[bit / 8] = (uint8_t)(page[bit / 8] ^ (1u << bit % 8));
    }
    ck_assert_uint_eq(sum(page), was);
}
END_TEST

START_TEST(zero_is_all_zeros_only)
{
    int zero = 0;
    memset(page, 0, sizeof page);
    eg_page_sum(page, &zero);
    ck_assert_int_eq(zero, 1);
    for (uint32_t i = 0; i < sizeof page; i++) {
        page[i] = (uint8_t)(1u << i % 8);
        eg_page_sum(page, &zero);
        if (zero)
            ck_abort_msg("byte %u does not show", i);
        page[i] = 0;
    }
}
END_TEST

START_TEST(words_that_change_places_show)
{
    struct random_state r = {77};
    fill(2);
    uint32_t was = sum(page);
    for (int k = 0; k < 20000; k++) {
        uint32_t a = random_below(&r, EG_PAGE_BYTES / 8), b = random_below(&r, EG_PAGE_BYTES / 8);
        uint64_t x, y;
        memcpy(&x, page + 8 * a, 8);
        memcpy(&y, page + 8 * b, 8);
        if (x == y)
            continue;
        memcpy(page + 8 * a, &y, 8);
        memcpy(page + 8 * b, &x, 8);
        if (sum(page) == was)
            ck_abort_msg("words %u and %u may change places", a, b);
        memcpy(page + 8 * a, &x, 8);
        memcpy(page + 8 * b, &y, 8);
    }
}
END_TEST

/* The same bit in two words: where lanes are weakest. */
START_TEST(pairs_of_bits_show)
{
    struct random_state r = {78};
    fill(2);
    uint32_t was = sum(page);
    for (int k = 0; k < 50000; k++) {
        uint32_t bit = k % 2 ? 63 : random_below(&r, 64), a = random_below(&r, EG_PAGE_BYTES / 8);
        uint32_t b = (a + 4 * (1 + random_below(&r, EG_PAGE_BYTES / 32 - 1))) % (EG_PAGE_BYTES / 8);
        uint64_t *w = (uint64_t *)(void *)page;
        w[a] ^= 1ull << bit;
        w[b] ^= 1ull << bit;
        if (sum(page) == was)
            ck_abort_msg("bit %u of words %u and %u does not show", bit, a, b);
        w[a] ^= 1ull << bit;
        w[b] ^= 1ull << bit;
    }
}
END_TEST

START_TEST(torn_page_shows)
{
    struct random_state r = {5};
    fill(2);
    random_fill(&r, other, sizeof other);
    uint32_t was = sum(page), s = sum(other);
    for (size_t cut = 64; cut < sizeof page; cut += 64) {
        uint8_t torn[EG_PAGE_BYTES] __attribute__((aligned(8)));
        memcpy(torn, page, cut);
        memcpy(torn + cut, other + cut, sizeof torn - cut);
        ck_assert(sum(torn) != was && sum(torn) != s);
    }
}
END_TEST

/* A page is summed where it lies: in a staging slot, a read's buffer, the program's memory. */
START_TEST(place_does_not_matter)
{
    uint8_t *room = aligned_alloc(64, EG_PAGE_BYTES + 64);
    ck_assert_ptr_nonnull(room);
    for (int kind = 0; kind < 4; kind++) {
        fill(kind);
        uint32_t was = sum(page);
        for (size_t off = 0; off <= 64; off += 8) {
            memset(room, 0xa5, EG_PAGE_BYTES + 64);
            memcpy(room + off, page, sizeof page);
            ck_assert_uint_eq(sum(room + off), was);
        }
    }
    free(room);
}
END_TEST

START_TEST(nothing_outside_the_page_is_read)
{
    fill(2);
    uint8_t *exact = malloc(EG_PAGE_BYTES); /* ASan guards both ends */
    ck_assert_ptr_nonnull(exact);
    memcpy(exact, page, sizeof page);
    ck_assert_uint_eq(sum(exact), sum(page));
    free(exact);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_sum");
    TCase *tc = unit_case(suite, "sum", 120);
    tcase_add_loop_test(tc, any_single_bit_shows, 0, 4);
    tcase_add_test(tc, zero_is_all_zeros_only);
    tcase_add_test(tc, words_that_change_places_show);
    tcase_add_test(tc, pairs_of_bits_show);
    tcase_add_test(tc, torn_page_shows);
    tcase_add_test(tc, place_does_not_matter);
    tcase_add_test(tc, nothing_outside_the_page_is_read);
    return unit_run(suite);
}
