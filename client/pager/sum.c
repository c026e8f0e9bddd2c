#include "client/pager/eg_pager.h"

enum { WORDS = EG_PAGE_BYTES / 8 };

/* Both halves of the product: every bit of either factor reaches the whole word. */
static inline uint64_t mix(uint64_t x, uint64_t y)
{
    unsigned __int128 product = (unsigned __int128)x * y;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Read once: what is copied is what is summed. */
static inline __attribute__((always_inline)) uint64_t word(const uint64_t *from, uint64_t *to, uint64_t *any, unsigned i)
{
    uint64_t w = *(const volatile uint64_t *)(from + i);
    if (to)
        to[i] = w;
    if (any)
        *any |= w;
    return w;
}

/* Four independent lanes, two 64-bit words a multiplication, folded: guards against a wrong or torn page, not against an adversary. Less than a cycle
 * per word. to, any: may be NULL. next: the page that is read after this one; the processor's own read-ahead ends with each page (memory in no cache:
 * a fifth of the time).
 * Source: the multiplication is wyhash's. */
static inline __attribute__((always_inline)) uint32_t sum(const uint64_t *w, uint64_t *to, uint64_t *any, const uint64_t *next)
{
    const uint64_t k = 0x9e3779b97f4a7c15ull, l = 0xa0761d6478bd642full;
    uint64_t a = 1, b = 2, c = 3, d = 4;
    for (unsigned i = 0; i < WORDS; i += 8) {
        __builtin_prefetch(i < WORDS / 2 ? w + i + WORDS / 2 : next + i - WORDS / 2);
        a = mix(word(w, to, any, i) ^ k, word(w, to, any, i + 1) ^ a);
        b = mix(word(w, to, any, i + 2) ^ l, word(w, to, any, i + 3) ^ b);
        c = mix(word(w, to, any, i + 4) ^ k, word(w, to, any, i + 5) ^ c);
        d = mix(word(w, to, any, i + 6) ^ l, word(w, to, any, i + 7) ^ d);
    }
    a = mix(a ^ (b << 1 | b >> 63) ^ k, c ^ (d << 3 | d >> 61) ^ l);
    return (uint32_t)(a ^ (a >> 32));
}

uint32_t eg_page_sum(const void *page, int *ret_zero)
{
    uint64_t any = 0;
    if (!ret_zero)
        return sum(page, NULL, NULL, page);
    uint32_t s = sum(page, NULL, &any, page);
    *ret_zero = any == 0;
    return s;
}

uint32_t eg_page_sum_copy(void *to, const void *from, const void *next)
{
    return sum(from, to, NULL, next);
}
