/* client_random.h - seeded numbers for the random walks: the same on every run, so that a failure can be repeated. */
#ifndef EG_TEST_CLIENT_RANDOM_H
#define EG_TEST_CLIENT_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random_state {
    uint64_t x; /* not 0 */
};

/* Source: xorshift64*, Marsaglia 2003 and Vigna 2016. */
static inline uint64_t random_u64(struct random_state *r)
{
    r->x ^= r->x >> 12;
    r->x ^= r->x << 25;
    r->x ^= r->x >> 27;
    return r->x * 0x2545f4914f6cdd1dull;
}

static inline uint32_t random_below(struct random_state *r, uint32_t n)
{
    return (uint32_t)((random_u64(r) >> 32) % n);
}

static inline void random_fill(struct random_state *r, void *buf, size_t n)
{
    uint8_t *p = buf;
    while (n--)
        *p++ = (uint8_t)(random_u64(r) >> 56);
}

#endif
