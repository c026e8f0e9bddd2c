#include "client/pager/eg_pager.h"

/* Both halves of the product: every bit of either factor reaches the whole word. */
static inline uint64_t mix(uint64_t x, uint64_t y)
{
    unsigned __int128 product = (unsigned __int128)x * y;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Four independent lanes, two 64-bit words a multiplication, folded: guards against a wrong or torn page, not against an adversary. Less than a cycle
 * per word.
 * Source: the multiplication is wyhash's. */
static inline __attribute__((always_inline)) uint32_t sum(const uint64_t *w, uint64_t *ret_any)
{
    const uint64_t k = 0x9e3779b97f4a7c15ull, l = 0xa0761d6478bd642full;
    uint64_t a = 1, b = 2, c = 3, d = 4, any = 0;
    for (unsigned i = 0; i < EG_PAGE_BYTES / 8; i += 8) {
        if (ret_any)
            any |= w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7];
        a = mix(w[i] ^ k, w[i + 1] ^ a);
        b = mix(w[i + 2] ^ l, w[i + 3] ^ b);
        c = mix(w[i + 4] ^ k, w[i + 5] ^ c);
        d = mix(w[i + 6] ^ l, w[i + 7] ^ d);
    }
    if (ret_any)
        *ret_any = any;
    a = mix(a ^ (b << 1 | b >> 63) ^ k, c ^ (d << 3 | d >> 61) ^ l);
    return (uint32_t)(a ^ (a >> 32));
}

uint32_t eg_page_sum(const void *page, int *ret_zero)
{
    uint64_t any;
    if (!ret_zero)
        return sum(page, NULL);
    uint32_t s = sum(page, &any);
    *ret_zero = any == 0;
    return s;
}
