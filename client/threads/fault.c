/* fault.c - faults of home's own threads on memory that workers have touched, and how long what they are given stays. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"
#include "proto/eg_uffd.h"

#include <errno.h>

#define HOLD_NS 60000u        /* home's thread has to be woken before it can use its page */
#define HOLD_MORE_NS 300000u  /* its instruction wants another page as well */
#define AGAIN_NS 400000u
#define FRESH_MANY 4u

/* Who of home's threads asked lately. One that was given a page, then another, and asks for the first again, got nowhere, perhaps: its instruction
 * needs both. Then what it is given stays longer. */
static struct {
    uint32_t tid;
    uint8_t again;
    uint8_t by; /* who had it: a node and 1 */
    uint64_t asked_ns;
} askers[EG_HOME_HELD];
static uint32_t n_askers;

static unsigned asker_note(uint64_t page, uint32_t tid, int missing, unsigned by)
{
    unsigned k = n_askers++ % EG_HOME_HELD;
    askers[k].tid = tid;
    askers[k].by = (uint8_t)by;
    askers[k].asked_ns = eg_agent.now_ns;
    uint64_t given_ns = 0, other_ns = 0;
    struct eg_home_held *other = NULL;
    for (uint32_t i = 0; i < EG_HOME_HELD; i++) {
        struct eg_home_held *h = &eg_home.held[i];
        if (h->tid != tid || eg_agent.now_ns - h->given_ns >= AGAIN_NS)
            continue;
        if (h->page == page) {
            given_ns = h->given_ns > given_ns ? h->given_ns : given_ns;
        } else if (h->given_ns > other_ns) {
            other_ns = h->given_ns;
            other = h;
        }
    }
    askers[k].again = missing && given_ns && other_ns > given_ns;
    if (askers[k].again)
        other->until_ns = eg_agent.now_ns + HOLD_MORE_NS;
    return k;
}

static void held_note(uint64_t page, unsigned asker)
{
    uint32_t tid = askers[asker].tid;
    uint64_t until_ns = eg_agent.now_ns + (askers[asker].again ? HOLD_MORE_NS : HOLD_NS);
    eg_home.held[eg_home.next_held++ % EG_HOME_HELD] =
        (struct eg_home_held){.page = page, .until_ns = until_ns, .given_ns = eg_agent.now_ns, .thread = eg_home_thread(tid), .tid = tid};
}

/* A thread that has ended needs its page no more, nor does a proxy whose call has. */
static int needs_it(const struct eg_home_held *h)
{
    const struct eg_thread *t = h->thread;
    return !t || (__atomic_load_n(&t->tid, __ATOMIC_RELAXED) == h->tid && (t->where != EG_AWAY || __atomic_load_n(&t->in_call, __ATOMIC_RELAXED)));
}

uint64_t eg_fault_held_until(uint64_t page)
{
    for (uint32_t i = 0; i < EG_HOME_HELD; i++)
        if (eg_home.held[i].page == page && eg_home.held[i].until_ns > eg_agent.now_ns && needs_it(&eg_home.held[i]))
            return eg_home.held[i].until_ns;
    return 0;
}

/* Lets who waits for the page look again, when nothing could be done for them as it is no longer there: nobody else would wake them. */
static void tries_again(uint64_t addr, int rc)
{
    if (rc && rc != -ENOENT)
        eg_die("cannot give the program a page", NULL, rc);
    if (rc)
        eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
}

void eg_fault_granted(uint64_t addr, unsigned slot, int write, int stored)
{
    if (slot >= EG_SLOT_SPARE && slot < EG_SLOT_SPARE + EG_HOME_NODES)
        eg_home.node[slot - EG_SLOT_SPARE]->n_leaving--;
    if (slot == EG_SLOT_RECLAIM || (slot >= EG_SLOT_SPARE && slot < EG_SLOT_SPARE + EG_HOME_NODES))
        return; /* protected as it is: whoever writes it tells the pager */
    if (!stored) { /* what is stored wakes them by itself */
        if (write) {
            eg_far_dirty(addr, 1);
            tries_again(addr, eg_uffd_protect(addr, addr + EG_PAGE_BYTES, 0));
        }
        eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
    }
    if (slot == EG_SLOT_FREEZE)
        eg_home.pending--;
    else if (slot < EG_HOME_HELD) {
        eg_near_waited(askers[slot].tid, askers[slot].by, eg_agent.now_ns - askers[slot].asked_ns);
        held_note(addr / EG_PAGE_BYTES, slot);
    }
}

/* Memory of which nodes had something, and have nothing any more, is watched over no longer when home goes on using it afresh: each fault would be one by the
 * agent. What is left over on nodes comes first. */
static int home_alone(struct eg_dir_chunk *c, uint64_t addr)
{
    uint64_t block = addr & ~(EG_BLOCK_BYTES - 1);
    if (!c || eg_home.far || ++c->n_fresh < FRESH_MANY)
        return 0;
    c->n_fresh = 0;
    return eg_agent_bring_left(c, block, block + EG_BLOCK_BYTES) && eg_chunk_unwatch(c, block, block + EG_BLOCK_BYTES);
}

static void home_zero(struct eg_dir_chunk *c, uint64_t addr)
{
    if (home_alone(c, addr)) /* which has woken it */
        return;
    int rc = eg_uffd_zero_check(addr);
    if (rc == 0)
        eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
    else if (rc < 0)
        tries_again(addr, rc);
    for (uint64_t at = addr + EG_PAGE_BYTES; c && rc == 1 && at % EG_BLOCK_BYTES && at < addr + EG_ZERO_AHEAD * EG_PAGE_BYTES; at += EG_PAGE_BYTES) {
        if (eg_chunk_page(c, at)->state != EG_DIR_HOME)
            break;
        rc = eg_uffd_zero_check(at);
    }
}

/* Home's threads that touch what is being discarded: they try again after that. */
static struct {
    uint64_t lo, hi;
} home_parked;

static void home_park(uint64_t addr)
{
    home_parked.lo = !home_parked.hi || addr < home_parked.lo ? addr : home_parked.lo;
    home_parked.hi = addr + EG_PAGE_BYTES > home_parked.hi ? addr + EG_PAGE_BYTES : home_parked.hi;
    __atomic_store_n(&eg_home.n_frozen, eg_home.n_frozen + 1, __ATOMIC_SEQ_CST);
}

void eg_fault_unpark(void)
{
    if (home_parked.hi)
        eg_uffd_wake(home_parked.lo, home_parked.hi);
    home_parked.hi = 0;
}

void eg_fault_home(const struct uffd_msg *m)
{
    uint64_t addr = m->arg.pagefault.address & ~(uint64_t)(EG_PAGE_BYTES - 1), page = addr / EG_PAGE_BYTES;
    int wp = (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
    int write = wp || (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE);
    struct eg_dir_chunk *c = eg_chunk_find(addr);
    struct eg_dir_page *p = c ? eg_chunk_page(c, addr) : NULL;
    uint32_t tid = m->arg.pagefault.feat.ptid;
    if (!p || p->state == EG_DIR_HOME) {
        uint32_t i;
        if (eg_far_block(addr, &i))
            eg_pager_fault(m, eg_agent.now_ns);
        else if (wp)
            tries_again(addr, eg_uffd_protect(addr, addr + EG_PAGE_BYTES, 0));
        else
            home_zero(c, addr);
        return;
    }
    if (eg_freeze_discards(addr)) {
        home_park(addr);
        return;
    }
    if (p->state == EG_DIR_SHARED && !write) {
        eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
        return;
    }
    unsigned by = p->state == EG_DIR_SHARED ? (unsigned)__builtin_ctzll(p->sharers) : eg_dir_busy(p) && p->agent ? p->agent : p->owner;
    if (by)
        eg_near_visit(tid, by - 1, addr);
    eg_agent.absent = 0;
    static struct eg_reader seen[64]; /* of home's threads */
    uint32_t window = eg_ahead(&seen[tid % 64], c, page, EG_AHEAD_MAX, wp, 0);
    eg_agent_ask(p, page, EG_DIR_AT_HOME, asker_note(page, tid, !wp, by), write);
    for (uint64_t i = 1; i < window && (addr + i * EG_PAGE_BYTES) % EG_BLOCK_BYTES; i++) {
        p = eg_chunk_page(c, addr + i * EG_PAGE_BYTES);
        /* What is being discarded must not come after the call that discards it. */
        if (!eg_agent_is_wanted(p, EG_DIR_AT_HOME, write) || eg_freeze_discards(addr + i * EG_PAGE_BYTES))
            break;
        eg_agent_ask(p, page + i, EG_DIR_AT_HOME, EG_SLOT_NOBODY, write);
    }
    eg_grant_do();
    eg_grant_stores();
}
