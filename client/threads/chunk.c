/* chunk.c - the directory's pages, in chunks of 2 MiB: found by address, made when a page of them first goes away, never given back. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"
#include "proto/eg_uffd.h"

#include <errno.h>

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

int eg_chunk_any_fixed(const struct eg_dir_chunk *c)
{
    uint64_t any = 0;
    for (uint32_t w = 0; w < sizeof c->fixed / sizeof *c->fixed; w++)
        any |= __atomic_load_n(&c->fixed[w], __ATOMIC_RELAXED);
    return any != 0;
}

int eg_home_untouched(uint64_t lo, uint64_t hi)
{
    struct eg_dir_chunk *c;
    for (uint64_t at = lo, end; (c = eg_chunk_next(&at, hi, &end));) {
        for (; at < end; at += EG_PAGE_BYTES)
            if (eg_mark(c->fixed, at / EG_PAGE_BYTES) || !eg_dir_is_home(eg_chunk_page(c, at)))
                return 0;
    }
    return 1;
}

int eg_chunk_unwatch(struct eg_dir_chunk *c, uint64_t lo, uint64_t hi)
{
    struct eg_area area;
    int parts = eg_uffd_unregister(lo, hi) != 0, failed = 0, found = 0;
    /* There may be gaps, and mappings that cannot have been registered. */
    for (uint64_t addr = lo; parts && !eg_area_next(addr, &area) && area.start < hi; addr = area.end) {
        int rc = eg_uffd_unregister(area.start > lo ? area.start : lo, area.end < hi ? area.end : hi);
        failed |= rc && rc != -EINVAL;
        found = 1;
    }
    c->n_watched = 0;
    return !parts || (found && !failed);
}

void eg_home_changed(uint64_t lo, uint64_t hi)
{
    struct eg_dir_chunk *c;
    for (uint64_t at = lo, end; (c = eg_chunk_next(&at, hi, &end)); at = end)
        __atomic_store_n(&c->changed, 1, __ATOMIC_RELEASE);
}
