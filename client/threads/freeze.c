/* freeze.c - memory calls: what they touch comes home first, or is dropped, and no worker gets it meanwhile. memory.c asks for it. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"

#include <linux/futex.h>

/* What a memory call kept when the agent's turn began. It goes by that for the whole turn: a call that ends in the middle of one has changed mappings that may have
 * been looked up before; one that begins waits for the next turn. */
static struct {
    uint64_t lo, hi;
    uint8_t discards;
} held;
static uint8_t under_way; /* the first step of what is requested has been done */

void eg_freeze_look(void)
{
    int keeps = __atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST) != EG_REQ_NONE;
    held.lo = keeps ? eg_home.freeze_lo : 0;
    held.hi = keeps ? eg_home.freeze_hi : 0;
    held.discards = eg_home.discards;
}

int eg_freeze_keeps(uint64_t addr)
{
    return addr >= held.lo && addr < held.hi;
}

int eg_freeze_discards(uint64_t addr)
{
    return eg_freeze_keeps(addr) && held.discards;
}

int eg_freeze_drops(void)
{
    return under_way && __atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST) == EG_REQ_DROP;
}

static uint64_t freeze_end(void)
{
    return eg_home.freeze_hi < EG_USER_END ? eg_home.freeze_hi : EG_USER_END;
}

static void freeze_begin(void)
{
    uint64_t hi = freeze_end();
    struct eg_dir_chunk *c;
    eg_home.drop = 0;
    for (uint64_t at = eg_home.freeze_lo, end; (c = eg_chunk_next(&at, hi, &end));) {
        for (; at < end; at += EG_PAGE_BYTES) {
            eg_home.drop |= (uint8_t)eg_mark(c->fixed, at / EG_PAGE_BYTES);
            struct eg_dir_page *p = eg_chunk_page(c, at);
            if (p->state == EG_DIR_HOME)
                continue;
            eg_home.pending++;
            eg_agent_ask(p, at / EG_PAGE_BYTES, EG_DIR_AT_HOME, EG_SLOT_FREEZE, 1);
        }
    }
    if (eg_home.freeze_lo == 0 && hi == EG_USER_END) /* a fork, or a look at all, changes nothing for the workers' read-only copies */
        eg_home.drop = 0;
}

void eg_freeze_drop(uint64_t lo, uint64_t hi)
{
    const uint64_t most = 1ul << 31;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++)
        for (uint64_t at = lo, n; eg_home.node[k]->alive && at < hi; at += n * EG_PAGE_BYTES) {
            n = (hi - at) / EG_PAGE_BYTES < most ? (hi - at) / EG_PAGE_BYTES : most;
            eg_home.pending++;
            eg_home.node[k]->n_drops++;
            eg_send_say(k, EG_CO_DROP, 0, EG_SLOT_NOBODY, (uint32_t)n, at);
        }
}

/* Everything is home that was counted; what was not goes, too. Only now: a worker may have waited to write a page of which it had a copy. */
static void freeze_drop(void)
{
    uint64_t hi = freeze_end();
    struct eg_dir_chunk *c;
    eg_home.drop = 0;
    eg_freeze_drop(eg_home.freeze_lo, hi);
    for (uint64_t at = eg_home.freeze_lo, end; (c = eg_chunk_next(&at, hi, &end));)
        for (; at < end; at += EG_PAGE_BYTES)
            eg_mark_set(c->fixed, at / EG_PAGE_BYTES, 0);
}

/* Is nothing of the range on its way? What keeps it from that is an answer that comes. */
static int settled(void)
{
    uint64_t hi = freeze_end();
    struct eg_dir_chunk *c;
    for (uint64_t at = eg_home.freeze_lo, end; (c = eg_chunk_next(&at, hi, &end));)
        for (; at < end; at += EG_PAGE_BYTES)
            if (eg_dir_busy(eg_chunk_page(c, at)) || eg_chunk_page(c, at)->line)
                return 0;
    return 1;
}

/* The nodes have dropped the range. */
static void forget(void)
{
    uint64_t hi = freeze_end();
    struct eg_dir_chunk *c;
    for (uint64_t at = eg_home.freeze_lo, end; (c = eg_chunk_next(&at, hi, &end));)
        for (; at < end; at += EG_PAGE_BYTES) {
            struct eg_dir_page *p = eg_chunk_page(c, at);
            if (p->state == EG_DIR_OWNED)
                eg_spare_gave(p->owner - 1u, 1);
            for (uint64_t with = p->state == EG_DIR_SHARED ? p->sharers : 0; with; with &= with - 1)
                eg_spare_gave((uint32_t)__builtin_ctzll(with) - 1, 1);
            if (eg_dir_forget(&eg_home.dir, p, at / EG_PAGE_BYTES))
                eg_die("internal error: a page was asked for while a memory call discarded it", NULL, 0);
        }
}

static int thawed(void)
{
    return __atomic_load_n(&eg_home.n_frozen, __ATOMIC_SEQ_CST) && __atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST) == EG_REQ_NONE;
}

/* Nobody keeps the range any more: those that waited for that ask again. */
static void unpark(void)
{
    uint32_t n = eg_home.n_parked, kept = 0;
    struct eg_parked *all = eg_home.parked;
    eg_home.parked = all + EG_PARKED; /* the second half takes those that are parked again */
    eg_home.n_parked = 0;
    __atomic_store_n(&eg_home.n_frozen, 0, __ATOMIC_SEQ_CST);
    eg_fault_unpark();
    for (uint32_t i = 0; i < n; i++)
        if (all[i].due_ns == 0)
            eg_agent_get(all[i].node, all[i].slot, all[i].addr, all[i].write, 0);
        else
            all[kept++] = all[i];
    for (uint32_t i = 0; i < eg_home.n_parked; i++)
        all[kept++] = eg_home.parked[i];
    eg_home.parked = all;
    eg_home.n_parked = kept;
}

static int answered(uint32_t how)
{
    __atomic_store_n(&eg_home.request, how, __ATOMIC_SEQ_CST);
    eg_sys3(SYS_futex, &eg_home.request, FUTEX_WAKE_PRIVATE, 1);
    return 1;
}

/* All of the range comes home, then what was not counted goes. */
static int freeze_turn(int first)
{
    if (first)
        freeze_begin();
    if (!eg_home.pending && eg_home.drop)
        freeze_drop();
    return !eg_home.pending && answered(EG_REQ_FROZEN);
}

/* All of it goes. */
static int drop_turn(int first)
{
    if (first)
        freeze_drop();
    if (eg_home.pending)
        return 0;
    forget();
    return answered(EG_REQ_FROZEN);
}

int eg_freeze_turn(void)
{
    int done, first = !under_way;
    if (thawed()) {
        unpark();
        return 1;
    }
    switch (__atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST)) {
    case EG_REQ_SETTLE: return settled() && answered(EG_REQ_SETTLED);
    case EG_REQ_FREEZE: done = freeze_turn(first); break;
    case EG_REQ_DROP: done = drop_turn(first); break;
    default: return 0;
    }
    under_way = !done;
    return done;
}

int eg_freeze_due(void)
{
    switch (__atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST)) {
    case EG_REQ_SETTLE: return settled();
    case EG_REQ_FREEZE: case EG_REQ_DROP: return !eg_home.pending;
    default: return thawed();
    }
}
