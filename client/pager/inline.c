/* inline.c - the inline fault engine: the thread that raised a fault serves it, in its SIGBUS handler. See eg_inline.h.
 *
 * Nobody has to be woken: whoever waits for a page also collects completions and evicts. What can be done without the lock (reads from a server on this
 * machine, their checksums, the pages' way into the program's memory) is, so that threads fault side by side. */
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <poll.h>

#define SPIN_LOOKS 4           /* for a completion, before the processor is given away */
#define YIELD_SLOW_NS 300000u
#define BUSY_NS 50000000u
#define NAP_NS 1000000u

void eg_inline_lock(void)
{
    eg_lock_take_soon(&eg_rt.lock);
    eg_rt.foreign = (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid;
}

void eg_inline_unlock(void)
{
    eg_rt.foreign = 0;
    eg_lock_give(&eg_rt.lock);
}

void eg_inline_give_way(void)
{
    uint8_t foreign = eg_rt.foreign;
    eg_inline_unlock();
    eg_sys0(SYS_sched_yield);
    eg_lock_take(&eg_rt.lock);
    eg_rt.foreign = foreign;
}

/* Until something may have come: longer and longer, as nothing does. The lock is given up meanwhile. */
static void wait_outside(uint32_t looks)
{
    static uint64_t busy_until_ns; /* giving the processor away took long: better sleep, and be woken */
    struct pollfd p[2 * EG_POOL_SERVERS];
    uint8_t foreign = eg_rt.foreign;
    eg_inline_unlock();
    if (looks < SPIN_LOOKS) {
        for (int i = 0; i < 8; i++)
            eg_cpu_relax();
    } else {
        uint64_t before = eg_sys_now_ns();
        const struct eg_transport *ops = eg_rt.server[0].link.ops; /* NULL: never reached; the others are of its kind, or sleep a nap too long */
        if (before < __atomic_load_n(&busy_until_ns, __ATOMIC_RELAXED) && !(ops && ops->arm)) {
            struct timespec nap = {.tv_nsec = NAP_NS};
            eg_sys5(SYS_ppoll, p, eg_pager_links(p), &nap, 0, 8);
        } else {
            eg_sys0(SYS_sched_yield);
            uint64_t now = eg_sys_now_ns();
            if (now - before > YIELD_SLOW_NS)
                __atomic_store_n(&busy_until_ns, now + BUSY_NS, __ATOMIC_RELAXED);
        }
    }
    eg_lock_take_soon(&eg_rt.lock);
    eg_rt.foreign = foreign;
}

/* Of captured memory. NONE: the kernel alone decides. */
static enum eg_page_state state_of(uint64_t addr)
{
    const struct eg_block *b = eg_block_find(addr >> EG_BLOCK_SHIFT);
    if (!eg_block_armed(addr >> EG_BLOCK_SHIFT))
        return EG_P_NONE;
    return b ? eg_page_state(b, (uint32_t)(addr >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES) : EG_P_FRESH; /* armed at birth, not touched yet */
}

/* The page is away, or on its way. Returns when it is here, or gone. */
static void serve(uint64_t addr, int write, uint32_t tid, uint64_t now)
{
    for (uint32_t looks = 0;; looks++) {
        if (looks == 0 || state_of(addr) == EG_P_REMOTE || state_of(addr) == EG_P_INFLIGHT) {
            eg_rt.putting_off = 1;
            eg_pager_serve(addr, write, 0, tid, now);
            eg_rt.putting_off = 0;
            eg_fetch_make_up();
        } else {
            eg_pager_collect();
        }
        if (state_of(addr) != EG_P_FETCHING && state_of(addr) != EG_P_REMOTE)
            return;
        wait_outside(looks);
    }
}

static int is_captured(uint64_t addr)
{
    uint64_t page = addr & ~(uint64_t)(EG_PAGE_BYTES - 1);
    return eg_ranges_overlap(&eg_rt.ranges, page, page + EG_PAGE_BYTES);
}

int eg_inline_fault(uint64_t addr, int write)
{
    static uint64_t last_stranger;
    if (!eg_rt.inlined || !eg_rt.active || addr >> EG_ADDR_BITS)
        return 0;
    uint64_t now = eg_sys_now_ns();
    uint32_t tid = (uint32_t)eg_sys0(SYS_gettid);
    eg_inline_lock();
    if (!is_captured(addr)) {
        /* Memory that got its registration past the gate (once); else it is the program's own affair. */
        int ours = last_stranger != addr && !eg_uffd_unregister(addr & ~(uint64_t)(EG_PAGE_BYTES - 1), (addr | (EG_PAGE_BYTES - 1)) + 1);
        last_stranger = ours ? addr : 0;
        eg_inline_unlock();
        return ours;
    }
    serve(addr, write, tid, now);
    eg_rt.recent[eg_rt.n_recent++ % EG_N_RECENT] = addr >> EG_PAGE_SHIFT;
    eg_pager_evict_some();
    eg_account_sync();
    eg_inline_unlock();
    return 1;
}

void eg_inline_bring(uint64_t start, uint64_t end, int write)
{
    struct eg_range part;
    uint64_t now = eg_sys_now_ns();
    start &= ~(uint64_t)(EG_PAGE_BYTES - 1);
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        for (uint64_t p = part.start; p < part.end; p += EG_PAGE_BYTES) {
            enum eg_page_state s = state_of(p);
            if (s == EG_P_NONE || s == EG_P_RESERVED || s == EG_P_DIRTY || (s == EG_P_CLEAN && !write))
                continue;
            serve(p, write, 0, now);
        }
        eg_account_sync();
    }
}
