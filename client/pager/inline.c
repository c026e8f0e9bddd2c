/* inline.c - the inline fault engine: the thread that raised a fault serves it, in its SIGBUS handler. See eg_inline.h.
 *
 * Whoever waits for a page also collects completions and evicts; threads beyond one for two processors sleep meanwhile. What can be done without the lock
 * (reads from a server on this machine, checksums, the pages' way into the program's memory) is, so that threads fault side by side. */
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <poll.h>

#define SPIN_NS 40000u      /* for a page, before the thread sleeps until its link has something */
#define NAP_NS 1000000u     /* at most so long */
#define SHARED_NAP_NS 60000u /* while another thread looks for all; it may stop doing so */
#define PAUSES 8
#define SETTLE_NAP_NS 200000
#define SETTLE_LIMIT_NS 1000000000u

/* Threads that wait for messages. With as many of them looking all the time as there are processors, the server would have none. */
static uint32_t spinning, asleep; /* under the lock */
static uint32_t arrivals;         /* futex: counts what came, for those that are asleep */
static uint32_t arrived;          /* for which of them: a bit for each page number modulo 32; under the lock */

void eg_inline_relock(uint8_t foreign)
{
    eg_lock_take_soon(&eg_rt.lock);
    eg_rt.foreign = foreign;
}

void eg_inline_lock(void)
{
    int may_be = eg_rt.vforked || (eg_rt.fork_mark && !*eg_rt.fork_mark);
    eg_inline_relock(may_be && (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid);
}

void eg_inline_unlock(void)
{
    uint32_t whose = arrived;
    arrived = 0;
    eg_rt.foreign = 0;
    eg_lock_give(&eg_rt.lock);
    if (whose)
        eg_sys6(SYS_futex, &arrivals, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 64, 0, 0, whose);
}

static uint32_t page_bit(uint64_t page)
{
    return 1u << page % 32;
}

void eg_inline_arrived(uint64_t page, uint32_t n)
{
    if (!asleep)
        return;
    __atomic_store_n(&arrivals, arrivals + 1, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < n && i < 32; i++)
        arrived |= page_bit(page + i);
}

void eg_inline_give_way(void)
{
    uint8_t foreign = eg_rt.foreign;
    eg_inline_unlock();
    eg_sys0(SYS_sched_yield);
    eg_lock_take(&eg_rt.lock);
    eg_rt.foreign = foreign;
}

void eg_inline_reset(void)
{
    spinning = asleep = arrived = 0;
}

/* Of captured memory. NONE: the kernel alone decides. */
static enum eg_page_state state_of(uint64_t addr)
{
    const struct eg_block *b = eg_block_find(addr >> EG_BLOCK_SHIFT);
    if (!eg_block_armed(addr >> EG_BLOCK_SHIFT))
        return EG_P_NONE;
    return b ? eg_page_state(b, (uint32_t)(addr >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES) : EG_P_FRESH; /* armed at birth, not touched yet */
}

/* Without the lock: is it worth taking it? */
static int worth_a_look(uint64_t addr)
{
    const struct eg_block *b = eg_block_find(addr >> EG_BLOCK_SHIFT);
    uint8_t page = b ? __atomic_load_n(&b->page[(addr >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES], __ATOMIC_RELAXED) : 0;
    if ((page & EG_P_STATE) != EG_P_FETCHING || !eg_rt.spawned) /* alone, it has the lock at once, and sees what came by taking it */
        return 1;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        const struct eg_link *link = &eg_rt.server[i].link;
        const struct eg_transport *ops = __atomic_load_n(&link->ops, __ATOMIC_ACQUIRE);
        if (ops && (eg_evict_writes_due(&eg_rt.server[i]) || (link->outstanding && (!ops->ready || ops->ready(link)))))
            return 1;
    }
    return 0;
}

static uint32_t processors(void)
{
    static uint32_t n;
    for (uint32_t i = 0; !n && i < sizeof eg_rt.affinity / sizeof *eg_rt.affinity; i++)
        for (uint64_t left = eg_rt.affinity[i]; left; left &= left - 1)
            n++;
    return n;
}

/* A thread's wait for one page. */
struct wait {
    uint64_t addr, since_ns; /* 0: it has not begun to spin */
    uint64_t nap_ns;
    uint8_t spins, spent; /* it is one of those that look; it has done so for long enough */
};

/* Can the server not run as long as this thread does? */
static int server_is_beside(void)
{
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_link *link = &eg_rt.server[i].link;
        const struct eg_transport *ops = __atomic_load_n(&link->ops, __ATOMIC_ACQUIRE);
        if (ops && ops->beside && link->outstanding && ops->beside(link))
            return 1;
    }
    return 0;
}

static void wait_awake(struct wait *w)
{
    if (!w->since_ns)
        w->since_ns = eg_sys_now_ns();
    if (server_is_beside()) {
        w->spent = 1;
        return;
    }
    while (!(w->spent = processors() == 1 || eg_sys_now_ns() - w->since_ns > SPIN_NS)) {
        for (int i = 0; i < PAUSES; i++)
            eg_cpu_relax();
        if (worth_a_look(w->addr))
            return;
    }
}

static void wait_links(void)
{
    struct pollfd p[2 * EG_POOL_SERVERS];
    struct timespec nap = {.tv_nsec = NAP_NS};
    eg_sys5(SYS_ppoll, p, eg_pager_links(p), &nap, 0, 8);
}

static void wait_asleep(struct wait *w, uint32_t seen)
{
    w->nap_ns = !w->nap_ns ? SHARED_NAP_NS : w->nap_ns < NAP_NS / 2 ? 2 * w->nap_ns : NAP_NS;
    uint64_t until_ns = eg_sys_now_ns() + w->nap_ns;
    struct timespec until = {.tv_sec = (long)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    eg_sys6(SYS_futex, &arrivals, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, &until, 0, page_bit(w->addr >> EG_PAGE_SHIFT));
}

static int messages_are_due(void)
{
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        if (eg_rt.server[i].link.outstanding)
            return 1;
    return 0;
}

/* Until something may have come. The lock is given up meanwhile. */
static void wait_outside(struct wait *w)
{
    uint8_t foreign = eg_rt.foreign;
    uint32_t seen = arrivals;
    if (!w->spins && spinning * 2 < processors()) {
        w->spins = 1;
        spinning++;
    }
    int sleeps = !w->spins || (w->spent && !messages_are_due()); /* another thread is at it, and says so */
    asleep += (uint32_t)sleeps;
    eg_inline_unlock();
    if (sleeps)
        wait_asleep(w, seen);
    else if (w->spent)
        wait_links();
    else
        wait_awake(w);
    eg_inline_relock(foreign);
    asleep -= (uint32_t)sleeps;
}

/* Nothing may leave yet (eg_rt.began is under way): then no more may come than there is room for. The lock is given up meanwhile. */
static void wait_settled(void)
{
    struct timespec nap = {.tv_nsec = SETTLE_NAP_NS};
    uint64_t end_ns = eg_sys_now_ns() + SETTLE_LIMIT_NS;
    while (eg_rt.settling && eg_account_total() >= eg_rt.budget && eg_sys_now_ns() < end_ns) {
        uint8_t foreign = eg_rt.foreign;
        eg_inline_unlock();
        eg_sys5(SYS_ppoll, 0, 0, &nap, 0, 8);
        eg_inline_relock(foreign);
    }
}

/* The page is away, or on its way. Returns when it is here, or gone. */
static void serve(uint64_t addr, int write, uint32_t thread, uint64_t now)
{
    struct wait w = {.addr = addr};
    if (eg_rt.settling)
        wait_settled();
    for (uint32_t looks = 0;; looks++) {
        eg_rt.putting_off = 1;
        if (looks) /* also when it has not been asked for yet: pages that nobody waits for may have all the fetches */
            eg_pager_collect();
        if (looks == 0 || state_of(addr) == EG_P_REMOTE || state_of(addr) == EG_P_INFLIGHT)
            eg_pager_serve(addr, write, 0, thread, now);
        eg_rt.putting_off = 0;
        eg_fetch_make_up();
        if (state_of(addr) != EG_P_FETCHING && state_of(addr) != EG_P_REMOTE)
            break;
        if (looks == 0 && messages_are_due())
            eg_pager_evict_some(1); /* there is time */
        else
            wait_outside(&w);
    }
    spinning -= w.spins;
}

static int is_captured(uint64_t addr)
{
    uint64_t page = addr & ~(uint64_t)(EG_PAGE_BYTES - 1);
    return eg_ranges_overlap(&eg_rt.ranges, page, page + EG_PAGE_BYTES);
}

/* Memory that got its registration past the gate, or that was captured, and away, until the program just now put something else in its place: the access
 * is made once more. If it fails again, and nothing was captured or let go meanwhile, that is the program's own affair. */
static int is_stranger(uint64_t addr, uint32_t thread)
{
    static struct {
        uint64_t addr;
        uint32_t turn;
    } last[64]; /* by thread */
    uint32_t k = thread % (sizeof last / sizeof *last), turn = eg_rt.ranges.turn;
    if (last[k].addr == addr && last[k].turn == turn) {
        last[k].addr = 0;
        return 0;
    }
    last[k].addr = addr;
    last[k].turn = turn;
    (void)!eg_uffd_unregister(addr & ~(uint64_t)(EG_PAGE_BYTES - 1), (addr | (EG_PAGE_BYTES - 1)) + 1);
    return 1;
}

int eg_inline_fault(uint64_t addr, int write)
{
    if (!eg_rt.inlined || !eg_rt.active || addr >> EG_ADDR_BITS)
        return 0;
    uint64_t now = eg_sys_now_ns();
    uint32_t thread = (uint32_t)(eg_thread_pointer() * 0x9e3779b97f4a7c15ull >> 32); /* for its streams: a guess is good enough, a system call is 3 % of a fault */
    eg_inline_lock();
    if (!is_captured(addr)) {
        int again = is_stranger(addr, thread);
        eg_inline_unlock();
        return again;
    }
    serve(addr, write, thread, now);
    eg_rt.recent[eg_rt.n_recent++ % EG_N_RECENT] = addr >> EG_PAGE_SHIFT;
    eg_pager_evict_some(0);
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
        if (part.flags & EG_RANGE_GUARDED)
            continue; /* a page put there would take the guard's place */
        for (uint64_t p = part.start; p < part.end; p += EG_PAGE_BYTES) {
            enum eg_page_state s = state_of(p);
            if (s == EG_P_NONE || s == EG_P_RESERVED || s == EG_P_DIRTY || (s == EG_P_CLEAN && !write))
                continue;
            serve(p, write, 0, now);
        }
        eg_account_sync();
    }
}
