/* chunk.c - the directory's pages, in chunks of 2 MiB: found by address, made when a page of them first goes away, never given back. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"

#define LEAF_CHUNKS 8192u /* in a leaf */

struct eg_dir_chunk *eg_chunk_find(uint64_t addr)
{
    uint64_t i = addr >> EG_BLOCK_SHIFT;
    struct eg_dir_chunk **leaf = __atomic_load_n(&eg_home.leaf[i / LEAF_CHUNKS], __ATOMIC_ACQUIRE);
    return leaf ? __atomic_load_n(&leaf[i % LEAF_CHUNKS], __ATOMIC_ACQUIRE) : NULL;
}

struct eg_dir_chunk *eg_chunk_get(uint64_t addr)
{
    uint64_t i = addr >> EG_BLOCK_SHIFT;
    struct eg_dir_chunk *c = eg_chunk_find(addr), **leaf = eg_home.leaf[i / LEAF_CHUNKS];
    if (c)
        return c;
    if (!leaf)
        leaf = eg_sys_map(LEAF_CHUNKS * sizeof *leaf);
    c = eg_sys_map(sizeof *c);
    if (!leaf || !c)
        eg_die("no memory for the directory of pages", NULL, 0);
    /* Who makes a memory call looks, too: eg_home_untouched. */
    __atomic_store_n(&leaf[i % LEAF_CHUNKS], c, __ATOMIC_RELEASE);
    __atomic_store_n(&eg_home.leaf[i / LEAF_CHUNKS], leaf, __ATOMIC_RELEASE);
    return c;
}

int eg_home_owner(uint64_t addr)
{
    struct eg_dir_chunk *c = eg_chunk_find(addr);
    const struct eg_dir_page *p = c ? eg_chunk_page(c, addr) : NULL;
    return p && p->state == EG_DIR_OWNED ? p->owner - 1 : -1;
}

struct eg_dir_chunk *eg_chunk_next(uint64_t *at, uint64_t hi, uint64_t *ret_end)
{
    while (*at < hi) {
        struct eg_dir_chunk *c = eg_chunk_find(*at);
        uint64_t i = *at >> EG_BLOCK_SHIFT;
        *ret_end = (i + 1) << EG_BLOCK_SHIFT < hi ? (i + 1) << EG_BLOCK_SHIFT : hi;
        if (c)
            return c;
        *at = eg_home.leaf[i / LEAF_CHUNKS] ? *ret_end : (i / LEAF_CHUNKS + 1) * LEAF_CHUNKS << EG_BLOCK_SHIFT;
    }
    return NULL;
}

/* Those of word w that belong to pages of [lo, hi). */
static uint64_t bits(uint32_t w, uint64_t lo, uint64_t hi)
{
    uint64_t first = lo / EG_PAGE_BYTES % EG_BLOCK_PAGES, end = first + (hi - lo + EG_PAGE_BYTES - 1) / EG_PAGE_BYTES, at = 64 * w;
    if (first >= at + 64 || end <= at)
        return 0;
    uint64_t from = first > at ? first - at : 0, to = end < at + 64 ? end - at : 64;
    return ~0ull >> (64 - (to - from)) << from;
}

int eg_chunk_fixed(const struct eg_dir_chunk *c, uint64_t lo, uint64_t hi)
{
    uint64_t any = 0;
    for (uint32_t w = 0; w < EG_BLOCK_PAGES / 64; w++)
        any |= __atomic_load_n(&c->fixed[w], __ATOMIC_RELAXED) & bits(w, lo, hi);
    return any != 0;
}

void eg_chunk_fix(struct eg_dir_chunk *c, uint64_t lo, uint64_t hi, int on)
{
    for (uint32_t w = 0; w < EG_BLOCK_PAGES / 64; w++)
        __atomic_store_n(&c->fixed[w], on ? c->fixed[w] | bits(w, lo, hi) : c->fixed[w] & ~bits(w, lo, hi), __ATOMIC_RELAXED);
}

int eg_home_untouched(uint64_t lo, uint64_t hi)
{
    struct eg_dir_chunk *c;
    for (uint64_t at = lo, end; (c = eg_chunk_next(&at, hi, &end));) {
        if (__atomic_load_n(&c->any_fixed, __ATOMIC_RELAXED))
            return 0;
        for (; at < end; at += EG_PAGE_BYTES)
            if (eg_chunk_page(c, at)->state != EG_DIR_HOME || eg_chunk_page(c, at)->line)
                return 0;
    }
    return 1;
}

void eg_home_changed(uint64_t lo, uint64_t hi)
{
    struct eg_dir_chunk *c;
    for (uint64_t at = lo, end; (c = eg_chunk_next(&at, hi, &end)); at = end)
        __atomic_store_n(&c->changed, 1, __ATOMIC_RELEASE);
}
