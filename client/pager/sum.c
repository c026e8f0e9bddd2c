#include "client/pager/eg_pager.h"

/* Four independent multiply-xor lanes over 64-bit words, folded: guards against a wrong or torn page, not against an
 * adversary. About a cycle per word. */
uint32_t eg_page_sum(const void *page, int *ret_zero)
{
    const uint64_t *w = page;
    const uint64_t k = 0x9e3779b97f4a7c15ull;
    uint64_t a = 1, b = 2, c = 3, d = 4, any = 0;
    for (unsigned i = 0; i < EG_PAGE_BYTES / 8; i += 4) {
        any |= w[i] | w[i + 1] | w[i + 2] | w[i + 3];
        a = (a ^ w[i]) * k;
        b = (b ^ w[i + 1]) * k;
        c = (c ^ w[i + 2]) * k;
        d = (d ^ w[i + 3]) * k;
        a ^= a >> 29;
        b ^= b >> 29;
        c ^= c >> 29;
        d ^= d >> 29;
    }
    *ret_zero = any == 0;
    a = (a ^ (b << 1 | b >> 63)) * k;
    c = (c ^ (d << 3 | d >> 61)) * k;
    a = (a ^ (a >> 32)) + (c ^ (c >> 31));
    return (uint32_t)(a ^ (a >> 32));
}
