/* spare.c - what nodes hold, and what leaves those that hold too much: what went there first. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"

/* A run: the first page's address, the number of pages, and whether they are read-only copies that the directory does not count. */
#define RUN_PAGES 0x7ffull
#define RUN_FIXED 0x800ull
#define SMALL_PAGES 8192u
#define SPARE_RUNS 8u /* in one turn */

_Static_assert(EG_CO_MAX_PAGES <= RUN_PAGES && EG_CO_MAX_ZEROS <= RUN_PAGES, "a grant is a run");

static void run_push(struct eg_node *n, uint64_t run)
{
    if (n->run_end - n->run_begin == EG_NODE_RUNS) /* spare_turn lets that come seldom: such a page stays until somebody else wants it */
        n->run_begin++;
    n->run[n->run_end++ % EG_NODE_RUNS] = run;
}

void eg_spare_holds(uint32_t k, uint64_t addr, uint32_t n_pages, int fixed)
{
    struct eg_node *n = eg_home.node[k];
    n->n_held += n_pages;
    run_push(n, addr | n_pages | (fixed ? RUN_FIXED : 0));
}

void eg_spare_gave(uint32_t k, uint32_t n_pages)
{
    struct eg_node *n = eg_home.node[k];
    n->n_held -= n_pages < n->n_held ? n_pages : n->n_held;
}

/* Read-only memory still, all of it? */
static int is_fixed(uint64_t addr, uint32_t n_pages)
{
    struct eg_area area;
    const struct eg_dir_chunk *c;
    for (uint32_t i = 0; i < n_pages; i++) {
        uint64_t at = addr + (uint64_t)i * EG_PAGE_BYTES, page = at / EG_PAGE_BYTES;
        if (!(c = eg_chunk_find(at)) || !eg_mark(c->fixed, page) || c->page[page % EG_BLOCK_PAGES].state != EG_DIR_HOME || eg_freeze_keeps(at))
            return 0;
    }
    return !eg_area_find(addr, &area) && !area.writable && addr + n_pages * EG_PAGE_BYTES <= area.end;
}

/* The run that went to node k first leaves it, as far as it is still there. */
static void spare_oldest(uint32_t k)
{
    struct eg_node *n = eg_home.node[k];
    uint64_t run = n->run[n->run_begin++ % EG_NODE_RUNS], addr = run & ~(uint64_t)(EG_PAGE_BYTES - 1);
    uint32_t n_pages = (uint32_t)(run & RUN_PAGES);
    if (run & RUN_FIXED) {
        if (is_fixed(addr, n_pages)) {
            n->n_leaving += n_pages;
            eg_send_say(k, EG_CO_DROP, EG_CO_F_SPARE, EG_SLOT_NOBODY, n_pages, addr);
        } else {
            eg_spare_gave(k, n_pages);
        }
        return;
    }
    for (; n_pages; n_pages--, addr += EG_PAGE_BYTES) {
        struct eg_dir_chunk *c = eg_chunk_find(addr);
        struct eg_dir_page *p = c ? eg_chunk_page(c, addr) : NULL;
        if (!p || p->state == EG_DIR_HOME || eg_freeze_keeps(addr))
            continue;
        if (p->line || eg_dir_busy(p)) {
            run_push(n, addr | 1); /* on its way; perhaps to here */
        } else if (p->state == EG_DIR_OWNED ? p->owner == k + 1 : (int)(p->sharers >> (k + 1) & 1)) {
            n->n_leaving++;
            eg_agent_ask(p, addr / EG_PAGE_BYTES, EG_DIR_AT_HOME, EG_SLOT_SPARE + k, 1);
        }
    }
}

int eg_spare_dropped(uint32_t k, uint32_t n_pages)
{
    struct eg_node *n = eg_home.node[k];
    if (n_pages > n->n_leaving)
        return 0;
    n->n_leaving -= n_pages;
    eg_spare_gave(k, n_pages);
    return 1;
}

int eg_spare_full(uint32_t k)
{
    const struct eg_node *n = eg_home.node[k];
    return n->most_pages && n->n_leaving && n->n_held > n->most_pages + n->most_pages / 8;
}

/* Not so many that several threads at once could fill it. */
uint32_t eg_spare_zeros(uint32_t k)
{
    const struct eg_node *n = eg_home.node[k];
    return n->most_pages && (n->most_pages < SMALL_PAGES || n->n_held > n->most_pages / 8 * 7) ? EG_AHEAD_MAX : EG_CO_MAX_ZEROS;
}

int eg_spare_turn(void)
{
    int work = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes && !eg_quiet_drops(); k++) {
        struct eg_node *n = eg_home.node[k];
        for (uint32_t i = 0; i < SPARE_RUNS && n->alive && n->run_begin < n->run_end; i++) {
            int much = n->most_pages && n->n_held > n->most_pages + n->n_leaving;
            if (!much && n->run_end - n->run_begin < EG_NODE_RUNS / 8 * 7)
                break;
            spare_oldest(k);
            work = 1;
        }
    }
    return work;
}
