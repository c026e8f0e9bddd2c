#include "client/pager/eg_pager.h"

/* What a page in this state counts as resident. */
static int weight(enum eg_page_state s, int armed)
{
    if (!armed)
        return s == EG_P_FRESH;
    return s == EG_P_CLEAN || s == EG_P_DIRTY || s == EG_P_FETCHING;
}

static void count(struct eg_block *b, enum eg_page_state s, int by)
{
    switch (s) {
    case EG_P_NONE:
    case EG_P_RESERVED: return;
    case EG_P_FRESH: b->n_fresh = (uint16_t)(b->n_fresh + by); return;
    case EG_P_CLEAN:
        b->n_copied = (uint16_t)(b->n_copied + by);
        b->n_resident = (uint16_t)(b->n_resident + by);
        return;
    case EG_P_DIRTY: b->n_resident = (uint16_t)(b->n_resident + by); return;
    case EG_P_REMOTE: b->n_copied = (uint16_t)(b->n_copied + by); return;
    case EG_P_FETCHING:
        b->n_copied = (uint16_t)(b->n_copied + by);
        b->n_resident = (uint16_t)(b->n_resident + by);
        b->n_busy = (uint16_t)(b->n_busy + by);
        return;
    case EG_P_INFLIGHT: b->n_busy = (uint16_t)(b->n_busy + by); return;
    }
}

int eg_block_armed(uint64_t index)
{
    return eg_rt.armed && (eg_rt.armed[index / 64] >> (index % 64) & 1);
}

struct eg_block *eg_block_find(uint64_t index)
{
    struct eg_block **leaf = eg_rt.dir[index / EG_LEAF_BLOCKS];
    return leaf ? leaf[index % EG_LEAF_BLOCKS] : NULL;
}

struct eg_block *eg_block_next(uint64_t *at, uint64_t end)
{
    while (*at < end) {
        struct eg_block **leaf = eg_rt.dir[*at / EG_LEAF_BLOCKS];
        if (!leaf) {
            *at += EG_LEAF_BLOCKS - *at % EG_LEAF_BLOCKS;
            continue;
        }
        struct eg_block *b = leaf[(*at)++ % EG_LEAF_BLOCKS];
        if (b)
            return b;
    }
    return NULL;
}

void eg_pages_set(struct eg_block *b, uint32_t first, uint32_t n, enum eg_page_state state)
{
    int armed = eg_block_armed(b->index);
    for (uint32_t i = first, run; i < first + n; i += run) {
        enum eg_page_state old = eg_page_state(b, i);
        for (run = 0; i + run < first + n && eg_page_state(b, i + run) == old; run++)
            b->page[i + run] = (uint8_t)((b->page[i + run] & ~EG_P_STATE) | state);
        if (old == state)
            continue;
        count(b, old, -(int)run);
        count(b, state, (int)run);
        eg_rt.charged += (weight(state, armed) - weight(old, armed)) * (int)run;
        b->whole = 0;
    }
}

void eg_page_set(struct eg_block *b, uint32_t i, enum eg_page_state state)
{
    eg_pages_set(b, i, 1, state);
}

void eg_block_set_armed(uint64_t index, int armed)
{
    struct eg_block *b = eg_block_find(index);
    uint64_t bit = 1ull << (index % 64);
    if (eg_block_armed(index) == armed)
        return;
    if (armed)
        eg_rt.armed[index / 64] |= bit;
    else
        eg_rt.armed[index / 64] &= ~bit;
    if (b)
        eg_rt.charged += armed ? (int64_t)b->n_resident - b->n_fresh : (int64_t)b->n_fresh - b->n_resident;
}

static struct eg_block *block_alloc(void)
{
    if (!eg_rt.block_chunk_left) {
        uint32_t n = 256;
        eg_rt.block_chunk = eg_sys_map(n * sizeof(struct eg_block));
        if (!eg_rt.block_chunk)
            return NULL;
        eg_rt.block_chunk_left = n;
    }
    eg_rt.block_chunk_left--;
    return eg_rt.block_chunk++;
}

struct eg_block *eg_block_get(uint64_t index)
{
    struct eg_block *b = eg_block_find(index);
    if (b)
        return b;
    struct eg_block ***leaf = &eg_rt.dir[index / EG_LEAF_BLOCKS];
    if (!*leaf && !(*leaf = eg_sys_map(EG_LEAF_BLOCKS * sizeof **leaf)))
        return NULL;
    if (!(b = block_alloc()))
        return NULL;
    b->index = (uint32_t)index;
    b->slab = EG_SLAB_NONE;
    /* Until now the ranges spoke for the block, with the same weight: the charge does not change. */
    struct eg_range part;
    uint64_t start = index << EG_BLOCK_SHIFT, end = start + EG_BLOCK_BYTES;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        uint8_t s = part.flags & EG_RANGE_RESERVED ? EG_P_RESERVED : EG_P_FRESH;
        uint32_t first = (uint32_t)((part.start - start) >> EG_PAGE_SHIFT);
        uint32_t n = (uint32_t)((part.end - part.start) >> EG_PAGE_SHIFT);
        memset(b->page + first, s, n);
        if (s == EG_P_FRESH)
            b->n_fresh = (uint16_t)(b->n_fresh + n);
    }
    (*leaf)[index % EG_LEAF_BLOCKS] = b;
    return b;
}

void eg_block_swap(uint64_t one, uint64_t other)
{
    struct eg_block **a = &eg_rt.dir[one / EG_LEAF_BLOCKS][one % EG_LEAF_BLOCKS];
    struct eg_block **b = &eg_rt.dir[other / EG_LEAF_BLOCKS][other % EG_LEAF_BLOCKS], *was = *a;
    *a = *b;
    *b = was;
    (*a)->index = (uint32_t)one;
    (*b)->index = (uint32_t)other;
}

void eg_block_slab_gone(struct eg_block *b)
{
    if (b->slab == EG_SLAB_NONE || b->n_copied || b->n_busy)
        return;
    eg_slab_free(b->server, b->slab, b->shared);
    b->slab = EG_SLAB_NONE;
    b->shared = 0;
}
