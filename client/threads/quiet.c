/* quiet.c - --threads auto: when threads are to stay at home, as it did not pay elsewhere, and all have been there for a while, all memory comes home, too, and
 * is watched over no more. The program is then as fast as one that never had threads on nodes; what is touched afresh would cost a fault by the agent each else. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"

#define QUIET_NS 20000000u

static uint64_t since_ns, at; /* all have been at home; as far as that all is done */
static const struct eg_dir_chunk *dropping; /* its read-only copies were asked to go, and nothing else has happened since */
static uint8_t done;

static uint32_t threads_away(void)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++)
        n += __atomic_load_n(&eg_home.node[k]->n_threads, __ATOMIC_SEQ_CST);
    return n;
}

static uint64_t leaving(void)
{
    uint64_t n = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++)
        n += eg_home.node[k]->alive ? eg_home.node[k]->n_leaving : 0;
    return n;
}

/* Read-only copies of the chunk, uncounted, go: every memory call on them would have to have them dropped. Only they: a worker has pages of its own, too
 * (eg_where). Returns: 1 there are none; 0 not yet. */
static int chunk_is_dropped(struct eg_dir_chunk *c, uint64_t lo, uint64_t hi)
{
    if (!eg_chunk_any_fixed(c)) {
        dropping = NULL;
        return 1;
    }
    if (dropping != c && leaving()) /* that spare.c asked for: such a word must not come after a new grant */
        return 0;
    for (uint64_t addr = lo, end; addr < hi && dropping != c; addr = end) {
        int fixed = eg_mark(c->fixed, addr / EG_PAGE_BYTES);
        for (end = addr + EG_PAGE_BYTES; end < hi && eg_mark(c->fixed, end / EG_PAGE_BYTES) == fixed; end += EG_PAGE_BYTES)
            ;
        if (fixed)
            eg_freeze_drop(addr, end);
    }
    dropping = c;
    if (eg_home.pending)
        return 0;
    dropping = NULL;
    memset(c->fixed, 0, sizeof c->fixed);
    return 1;
}

static int off(void)
{
    return eg_rt.pool->threads_mode != EG_THREADS_AUTO || eg_home.far || (done && !eg_agent.asked);
}

int eg_quiet_due(void)
{
    return !off() && !since_ns && !threads_away() && eg_while_is(&eg_home.stay);
}

int eg_quiet_drops(void)
{
    return dropping != NULL;
}

uint64_t eg_quiet_turn(int *work)
{
    if (off())
        return 0;
    if (eg_agent.asked || threads_away() || !eg_while_is(&eg_home.stay)) {
        eg_agent.asked = done = 0;
        dropping = NULL;
        since_ns = at = 0;
        return 0; /* eg_node_loses wakes the agent */
    }
    since_ns = since_ns ? since_ns : eg_agent.now_ns;
    if (eg_agent.now_ns - since_ns < QUIET_NS)
        return since_ns + QUIET_NS;
    if (__atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST) != EG_REQ_NONE)
        return eg_agent.now_ns + QUIET_NS; /* a memory call goes first */
    uint64_t end;
    struct eg_dir_chunk *c = eg_chunk_next(&at, EG_USER_END, &end);
    if (!c) {
        done = 1;
        return 0;
    }
    if (!eg_agent_bring_left(c, at, end) || !chunk_is_dropped(c, at, end))
        return eg_agent.now_ns + QUIET_NS; /* what comes wakes the agent */
    (void)!eg_chunk_unwatch(c, at, end);
    at = end;
    *work = 1;
    return 0;
}
