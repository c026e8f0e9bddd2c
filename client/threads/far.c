/* far.c - far memory and remote threads together: what the pager knows of home's copy of a page, told by the agent, and what it wants of pages
 * that workers share. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"

/* Everything here has the pager's lock (the agent takes it for its turn). Returns: the block, if the pager looks after this page; else the page is here, or nowhere. */
struct eg_block *eg_far_block(uint64_t addr, uint32_t *ret_i)
{
    if (!eg_home.far || !eg_rt.active || !eg_block_armed(addr >> EG_BLOCK_SHIFT))
        return NULL;
    struct eg_block *b = eg_block_get(addr >> EG_BLOCK_SHIFT);
    if (!b)
        eg_die("no memory for the pager's own tables", NULL, 0);
    *ret_i = (uint32_t)(addr >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
    return eg_page_state(b, *ret_i) == EG_P_NONE ? NULL : b;
}

/* Is the content on a memory server, or on its way? */
int eg_far_away(uint64_t addr)
{
    uint32_t i;
    struct eg_block *b = eg_far_block(addr, &i);
    enum eg_page_state state = b ? eg_page_state(b, i) : EG_P_NONE;
    return state == EG_P_REMOTE || state == EG_P_FETCHING || state == EG_P_INFLIGHT || (state == EG_P_CLEAN && !eg_page_present(addr));
}

/* The page comes home, if it is on a server. */
void eg_far_bring(uint64_t addr)
{
    uint32_t i;
    struct eg_block *b = eg_far_block(addr, &i);
    if (!b || !eg_far_away(addr))
        return;
    eg_pager_quiesce(addr, addr + EG_PAGE_BYTES);
    if (eg_page_state(b, i) == EG_P_CLEAN && !eg_page_present(addr))
        eg_page_set(b, i, EG_P_REMOTE); /* discarded past the gate: the server still has it */
    eg_fetch_range(addr, addr + EG_PAGE_BYTES);
}

/* Home's copies have gone to a worker. */
void eg_far_gone(uint64_t addr, uint32_t n)
{
    uint32_t i;
    for (; n; n--, addr += EG_PAGE_BYTES) {
        struct eg_block *b = eg_far_block(addr, &i);
        if (b && eg_page_state(b, i) > EG_P_FRESH) {
            eg_page_set(b, i, EG_P_FRESH);
            eg_block_slab_gone(b);
        }
    }
}

/* They came back, or may be written here: the server's copy is not good any more. */
void eg_far_dirty(uint64_t addr, uint32_t n)
{
    uint32_t i;
    for (; n; n--, addr += EG_PAGE_BYTES) {
        struct eg_block *b = eg_far_block(addr, &i);
        if (!b)
            continue;
        eg_page_set(b, i, EG_P_DIRTY);
        b->page[i] = (uint8_t)((b->page[i] & ~EG_P_REFS) | EG_P_REF1);
        eg_queue_push(b, i);
    }
}

/* Context: whoever evicts. A page that workers share stays until they have given it up; asked for by eg_far_reclaim. */
int eg_far_keeps(uint64_t page)
{
    struct eg_dir_chunk *c = eg_chunk_find(page * EG_PAGE_BYTES);
    const struct eg_dir_page *p = c ? eg_chunk_page(c, page * EG_PAGE_BYTES) : NULL;
    if (!p || p->state == EG_DIR_HOME)
        return 0;
    if (p->state == EG_DIR_SHARED && eg_home.n_reclaim < EG_RECLAIMS)
        eg_home.reclaim[eg_home.n_reclaim++] = page;
    return 1;
}

/* Shared pages that the pager would like to see gone: the workers give them up, and they are home's alone. */
int eg_far_reclaim(void)
{
    uint32_t n = eg_home.n_reclaim;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t page = eg_home.reclaim[i];
        struct eg_dir_chunk *c = eg_chunk_find(page * EG_PAGE_BYTES);
        struct eg_dir_page *p = c ? eg_chunk_page(c, page * EG_PAGE_BYTES) : NULL;
        if (p && p->state == EG_DIR_SHARED && !p->line)
            eg_agent_ask(p, page, EG_DIR_AT_HOME, EG_SLOT_RECLAIM, 1);
    }
    eg_home.n_reclaim = 0;
    return n > 0;
}
