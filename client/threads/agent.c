/* agent.c - home's agent: one thread that owns the directory, the coherence streams, and the faults of home's own threads on memory that
 * workers have touched. It reads only pages that the kernel says are here, and waits for nobody but, for a moment, for room in the stream of a
 * thread that reads it. With far memory it does the pager's work, too: one thread reads the faults. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_capture.h"
#include "client/pager/eg_pager.h"
#include "proto/eg_spin.h"
#include "proto/eg_uffd.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define EVENTS 16
#define SPIN_NS 60000u
#define SLICE_NS 100000u
#define LOAD_EVERY_NS 5000000u
#define NEAR_ASKED 60u     /* requests after which a thread's place is looked at */
#define NEAR_PERCENT 25u   /* of them that one other node had to give something up for */
#define NEAR_PAUSE_NS 100000000u
#define BUSY_EVERY_NS 20000000u
#define LIGHT_PERCENT 50u  /* of its time a thread runs that fits in beside those that have the slots */
#define VISIT_ASKED 50u /* faults of a thread at home, within this time, on what nodes have */
#define VISIT_WITHIN_NS 65000000u
#define VISIT_STALE_NS 200000000u
#define GET_COST_NS 40000u /* of a request for a page, beside the time that it waits here */
#define HOLD_NS 60000u        /* home's thread has to be woken before it can use its page */
#define HOLD_MORE_NS 300000u  /* its instruction wants another page as well */
#define AGAIN_NS 400000u
#define ZERO_AHEAD 16u
#define PULSES 10u /* a node that was asked in vain so often hangs */

struct eg_home eg_home = {.maps_fd = -1, .load_fd = -1, .pulse_ms = EG_HOME_PULSE_MS};
uint32_t eg_where[1024] __attribute__((aligned(4096)));

static struct pollfd polls[2 + EG_HOME_NODES + 2 * EG_POOL_SERVERS];

static uint64_t now_ns; /* of this turn */

/* --- streams ---------------------------------------------------------------------------------------------------------------------- */

static void node_flush(uint32_t k)
{
    struct eg_node *n = eg_home.node[k];
    while (n->alive && n->out_at < n->out_end) {
        long sent = eg_sys6(SYS_sendto, n->fd, n->out + n->out_at, n->out_end - n->out_at, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
        if (sent == -EAGAIN || sent == -EINTR)
            return;
        if (sent <= 0) {
            eg_lost_node(k);
            return;
        }
        n->out_at += (uint64_t)sent;
    }
    n->out_at = n->out_end = 0;
}

/* Room for a message in the queue; it is sent by node_flush. */
static uint8_t *node_room(uint32_t k, uint64_t bytes)
{
    struct eg_node *n = eg_home.node[k];
    if (n->out_end + bytes > EG_NODE_OUT_BYTES) {
        memmove(n->out, n->out + n->out_at, n->out_end - n->out_at);
        n->out_end -= n->out_at;
        n->out_at = 0;
        if (n->out_end + bytes > EG_NODE_OUT_BYTES) { /* it takes nothing any more; if the program goes on without it, nobody sends this */
            eg_lost_node(k);
            n->out_at = n->out_end = 0;
        }
    }
    uint8_t *p = n->out + n->out_end;
    n->out_end += bytes;
    return p;
}

static void node_say(uint32_t k, enum eg_co_type type, unsigned flags, unsigned slot, uint32_t n, uint64_t addr)
{
    struct eg_co m = {.type = (uint8_t)type, .flags = (uint8_t)flags, .slot = (uint16_t)slot, .n = n, .addr = addr,
                      .number = eg_home.node[k]->n_granted};
    if (eg_home.node[k]->alive)
        memcpy(node_room(k, sizeof m), &m, sizeof m);
}

/* --- who is near whom --------------------------------------------------------------------------------------------------------------------- */

/* The thread is to come home. */
static void kick(struct eg_thread *t, uint32_t k, unsigned slot)
{
    node_say(k, EG_CO_KICK, 0, slot, 1, __atomic_load_n(&t->tid, __ATOMIC_RELAXED));
    __atomic_store_n(&t->kick, 2, __ATOMIC_RELEASE);
}

static struct eg_thread *asking; /* whose request the directory looks at just now */

/* How much each thread runs: what it does not spend in calls, waiting for pages counts as running. */
static void busy_turn(void)
{
    static uint64_t last_ns;
    if (now_ns - last_ns < BUSY_EVERY_NS)
        return;
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        struct eg_thread *t = eg_home.thread[i];
        uint64_t since = __atomic_load_n(&t->call_since_ns, __ATOMIC_RELAXED), idle = __atomic_load_n(&t->idle_ns, __ATOMIC_RELAXED);
        idle += since && since < now_ns ? now_ns - since : 0;
        uint64_t more = idle > t->seen_idle_ns ? (idle - t->seen_idle_ns) * 100 / (now_ns - last_ns) : 0;
        t->busy_percent = more < 100 ? 100 - (uint32_t)more : 0;
        t->seen_idle_ns = idle;
    }
    last_ns = now_ns;
}

/* What the threads need that are on the node, or on their way there: percent of a processor. */
static uint32_t load(uint32_t node, const struct eg_thread *but)
{
    uint32_t percent = 0;
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        const struct eg_thread *t = eg_home.thread[i];
        uint32_t to = __atomic_load_n(&t->move_to, __ATOMIC_RELAXED), at = to ? to - 1 : t->node;
        if (t != but && __atomic_load_n(&t->tid, __ATOMIC_RELAXED) && t->where == EG_AWAY && at == node)
            percent += t->busy_percent;
    }
    return percent;
}

/* Threads that are on the node, or on their way there, whether they run or wait. */
static uint32_t staying(uint32_t node, const struct eg_thread *but)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        const struct eg_thread *t = eg_home.thread[i];
        uint32_t to = __atomic_load_n(&t->move_to, __ATOMIC_RELAXED);
        n += t != but && __atomic_load_n(&t->tid, __ATOMIC_RELAXED) && t->where == EG_AWAY && (to ? to - 1 : t->node) == node;
    }
    return n;
}

/* Most of what it wants lies on another node, where a slot is free: it goes there, unless more of them are here, who would come to it. Those that
 * wait count, too, but for the slot: who shares waits often. Who waits nearly always needs none. */
static void nearer(struct eg_thread *t, uint32_t k, unsigned slot)
{
    if (++t->n_asked < NEAR_ASKED)
        return;
    uint32_t best = 0;
    for (uint32_t i = 1; i < eg_home.n_nodes; i++)
        best = t->from[i] > t->from[best] ? i : best;
    int much = t->from[best] > NEAR_ASKED * NEAR_PERCENT / 100;
    t->n_asked = 0;
    for (uint32_t i = 0; i < eg_home.n_nodes; i++)
        t->from[i] = 0;
    if (!much || best == k || t->kick || !eg_home.node[best]->alive || now_ns - t->moved_ns < NEAR_PAUSE_NS)
        return;
    uint32_t here = staying(k, t), there = staying(best, t), room = eg_home.node[best]->config->slots * 100;
    if (load(best, t) >= (t->busy_percent < LIGHT_PERCENT ? 2 * room : room) || there < here || (there == here && best > k))
        return;
    t->moved_ns = now_ns;
    __atomic_store_n(&t->move_to, best + 1, __ATOMIC_RELEASE);
    kick(t, k, slot);
}

/* A visitor whom everybody else has left. */
static int visits_nobody(const struct eg_thread *t)
{
    uint32_t n = 0;
    for (uint32_t k = 0; t->visits && k < eg_home.n_nodes; k++)
        n += __atomic_load_n(&eg_home.node[k]->n_threads, __ATOMIC_RELAXED);
    return n == 1;
}

/* Home's threads that meet those of a node all the time. */
static struct {
    uint32_t tid, n;
    uint64_t since_ns;
    uint16_t from[EG_HOME_NODES];
} sharers[64];

static int may_visit(uint32_t tid, uint32_t k)
{
    const struct eg_node *n = eg_home.node[k];
    const struct eg_thread *t = eg_home_thread(tid);
    if (!n->alive || n->refuses || !__atomic_load_n(&n->n_threads, __ATOMIC_RELAXED) || load(k, NULL) >= (n->config->slots + 1) * 100)
        return 0;
    return t ? t->where != EG_AWAY && !t->starting && now_ns >= __atomic_load_n(&t->stay_until_ns, __ATOMIC_RELAXED) : tid == eg_rt.pid;
}

/* The thread that is away, and for which this one makes a call; NULL. */
static struct eg_thread *caller(uint32_t tid)
{
    struct eg_thread *t = eg_home_thread(tid);
    return t && t->where == EG_AWAY && __atomic_load_n(&t->in_call, __ATOMIC_RELAXED) ? t : NULL;
}

/* A thread at home wants what node k has. If it is so most of the time, it should be there: it goes from its next futex call. A call for one that is
 * away counts for that one. */
static void visit_note(uint32_t tid, uint32_t k)
{
    static uint64_t asked_ns;
    unsigned i = tid % 64;
    struct eg_thread *t = caller(tid);
    if (t) {
        if (k != t->node)
            t->from[k]++;
        nearer(t, t->node, t->slot);
        return;
    }
    if (eg_rt.pool->threads_mode != EG_THREADS_REMOTE)
        return;
    if (sharers[i].tid != tid || now_ns - sharers[i].since_ns > VISIT_WITHIN_NS) {
        memset(&sharers[i], 0, sizeof sharers[i]);
        sharers[i].tid = tid;
        sharers[i].since_ns = now_ns;
    }
    sharers[i].from[k]++;
    if (++sharers[i].n < VISIT_ASKED)
        return;
    sharers[i].tid = 0;
    if (sharers[i].from[k] <= VISIT_ASKED / 2 || !may_visit(tid, k) ||
        (__atomic_load_n(&eg_home.visit, __ATOMIC_RELAXED) && now_ns - asked_ns < VISIT_STALE_NS))
        return;
    asked_ns = now_ns;
    __atomic_store_n(&eg_home.visit, (uint64_t)tid << 32 | (k + 1), __ATOMIC_RELEASE);
}

/* A thread's request is answered: what it has waited. */
static void cost_note(struct eg_thread *t, uint32_t k, unsigned slot)
{
    if (!t->asked_ns)
        return;
    uint64_t took = now_ns - t->asked_ns + GET_COST_NS;
    t->asked_ns = 0;
    nearer(t, k, slot);
    if (!t->kick && visits_nobody(t))
        kick(t, k, slot);
    __atomic_fetch_add(&t->cost_ns, took, __ATOMIC_RELAXED);
    if (t->kick || eg_home_pays(t))
        return;
    eg_home_costly();
    kick(t, k, slot);
}

/* To a thread that waits for a page, on its own stream. It reads, so there is room soon. */
static void slot_send(uint32_t k, unsigned slot, struct eg_co m, const void *data, uint64_t bytes)
{
    struct eg_node *n = eg_home.node[k];
    struct iovec v[2] = {{&m, sizeof m}, {(void *)data, bytes}};
    struct msghdr message = {.msg_iov = v, .msg_iovlen = bytes ? 2 : 1};
    struct eg_thread *t = slot < EG_THREADS ? __atomic_load_n(&n->slot[slot], __ATOMIC_ACQUIRE) : NULL;
    if (!n->alive)
        return;
    int fd = t ? __atomic_load_n(&t->fd, __ATOMIC_RELAXED) : -1;
    if (fd < 0)
        eg_die("a compute node does not keep to the protocol: ", n->config->text, 0);
    cost_note(t, k, slot);
    m.number = ++n->n_granted;
    m.flags |= eg_home.loaded && !(n->config->flags & EG_HELLO_OTHER_CLOCK) ? EG_CO_F_LOADED : 0;
    while (n->alive && message.msg_iovlen) {
        long sent = eg_sys3(SYS_sendmsg, fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == -EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            const struct timespec patience = {.tv_sec = 10};
            if (eg_sys5(SYS_ppoll, &p, 1, &patience, 0, 8) == 0)
                eg_lost_node(k);
            continue;
        }
        if (sent == -EINTR)
            continue;
        if (sent <= 0) {
            eg_lost_node(k);
            return;
        }
        while (message.msg_iovlen && (uint64_t)sent >= message.msg_iov->iov_len) {
            sent -= (long)message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen) {
            message.msg_iov->iov_base = (uint8_t *)message.msg_iov->iov_base + sent;
            message.msg_iov->iov_len -= (uint64_t)sent;
        }
    }
}

static void deny(uint32_t k, unsigned slot, uint64_t addr)
{
    slot_send(k, slot, (struct eg_co){.type = EG_CO_DENY, .n = 1, .addr = addr}, NULL, 0);
}

/* --- what the directory decides ------------------------------------------------------------------------------------------------------------ */

/* It is gathered, run by run, and done at once: the state has changed, and nobody else looks before it is done. */

/* Content that comes and is to be home's. */
static struct {
    uint64_t addr;
    uint32_t n;
    uint8_t write;
    const uint8_t *data;
} stores;
static const uint8_t *incoming; /* the page that has just come; NULL: none */

/* Does a memory call keep the page? */
static int frozen(uint64_t addr)
{
    return __atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST) != EG_REQ_NONE && addr >= eg_home.freeze_lo && addr < eg_home.freeze_hi;
}

int eg_agent_discards(uint64_t addr)
{
    return frozen(addr) && eg_home.discards;
}

static void stores_do(void)
{
    uint64_t bytes = (uint64_t)stores.n * EG_PAGE_BYTES;
    if (!stores.n)
        return;
    uint32_t n = stores.n;
    if (eg_home.far && eg_rt.active)
        eg_evict_room(n);
    int rc = eg_uffd_copy(stores.addr, stores.data, bytes, !stores.write);
    if (rc && !eg_agent_discards(stores.addr)) /* a call that failed may have unmapped some of it; or it was a lost node's */
        eg_die("cannot put a page back that was on a compute node", NULL, 0);
    EG_COUNT(pages_coherent_fetched, n);
    eg_far_dirty(stores.addr, n);
    stores.n = 0;
}

/* --- what nodes hold ------------------------------------------------------------------------------------------------------------------ */

/* A run: the first page's address, the number of pages, and whether they are read-only copies that the directory does not count. */
#define RUN_PAGES 0x3full
#define RUN_FIXED 0x40ull
#define SPARE_RUNS 8u /* in one turn */

static void run_push(struct eg_node *n, uint64_t run)
{
    if (n->run_end - n->run_begin == EG_NODE_RUNS) /* spare_turn lets that come seldom: such a page stays until somebody else wants it */
        n->run_begin++;
    n->run[n->run_end++ % EG_NODE_RUNS] = run;
}

/* Content went to node k. */
static void node_holds(uint32_t k, uint64_t addr, uint32_t n_pages, int fixed)
{
    struct eg_node *n = eg_home.node[k];
    n->n_held += n_pages;
    run_push(n, addr | n_pages | (fixed ? RUN_FIXED : 0));
}

static void node_gave(uint32_t k, uint32_t n_pages)
{
    struct eg_node *n = eg_home.node[k];
    n->n_held -= n_pages < n->n_held ? n_pages : n->n_held;
}

/* Which of n pages are here (or in the kernel's swap). */
static uint64_t present(uint64_t addr, uint32_t n)
{
    uint64_t entry[64], bits = 0;
    n = n > 64 ? 64 : n;
    long got = eg_sys4(SYS_pread64, eg_rt.pagemap_fd, entry, n * 8, addr / EG_PAGE_BYTES * 8);
    if (got != (long)(n * 8))
        eg_die("cannot read /proc/self/pagemap", NULL, 0);
    for (uint32_t i = 0; i < n; i++)
        bits |= (uint64_t)((entry[i] >> 62) != 0) << i;
    return bits;
}

/* Pages that go to one worker in one message. */
static struct {
    uint64_t addr;
    uint32_t n, node;
    uint16_t slot;
    uint8_t flags, take, protect, on;
    const uint8_t *data; /* NULL: home's copy */
} batch;
static uint8_t absent;    /* what is being asked for is nowhere yet: zeros */
static uint8_t protected; /* the page was home's alone */

static void batch_do(void)
{
    if (!batch.on)
        return;
    uint64_t bytes = (uint64_t)batch.n * EG_PAGE_BYTES;
    int payload = !(batch.flags & (EG_CO_F_ZERO | EG_CO_F_NODATA));
    struct eg_co m = {.type = EG_CO_GRANT, .flags = batch.flags, .slot = EG_SLOT_NOBODY, .n = batch.n, .addr = batch.addr};
    const void *data = batch.data ? batch.data : (const void *)batch.addr;
    batch.on = 0;
    stores_do();
    if (batch.protect && eg_uffd_protect(batch.addr, batch.addr + bytes, 1))
        eg_die("cannot protect a page that goes to a compute node", NULL, 0);
    if (payload) {
        __atomic_fetch_add(&eg_home.node[batch.node]->config->pages_sent, batch.n, __ATOMIC_RELAXED);
        EG_COUNT(pages_coherent_fetched, batch.n);
    }
    if (!(batch.flags & EG_CO_F_NODATA))
        node_holds(batch.node, batch.addr, batch.n, 0);
    if (batch.flags & EG_CO_F_EXCLUSIVE) {
        if (batch.flags & EG_CO_F_ZERO)
            eg_lost_keep(batch.node, batch.addr, batch.n, NULL);
        else if (batch.data)
            eg_lost_keep(batch.node, batch.addr, batch.n, batch.data);
        else
            eg_lost_keep_home(batch.node, batch.addr, batch.n, eg_home.node[batch.node]->state == EG_NODE_SEEN ? 0 : present(batch.addr, batch.n));
    }
    if (batch.take) { /* before the new owner can write: nobody here may read what was */
        static uint8_t copy[EG_CO_MAX_PAGES * EG_PAGE_BYTES];
        if (payload && !batch.data) {
            memcpy(copy, data, bytes);
            data = copy;
        }
        if (eg_sys_discard(batch.addr, bytes))
            eg_die("cannot take a page away that goes to a compute node", NULL, 0);
    }
    if (batch.flags & EG_CO_F_EXCLUSIVE && !batch.data)
        eg_far_gone(batch.addr, batch.n);
    if (batch.slot != EG_SLOT_NOBODY) {
        slot_send(batch.node, batch.slot, m, data, payload ? bytes : 0);
    } else if (eg_home.node[batch.node]->alive) {
        uint8_t *p = node_room(batch.node, sizeof m + (payload ? bytes : 0));
        memcpy(p, &m, sizeof m);
        if (payload)
            memcpy(p + sizeof m, data, bytes);
    }
}

static void batch_add(uint64_t addr, uint32_t node, unsigned slot, unsigned flags, int take, int protect, const uint8_t *data)
{
    if (batch.on && (batch.node != node || batch.flags != flags || batch.take != take || batch.protect != protect || slot != EG_SLOT_NOBODY ||
                     batch.addr + (uint64_t)batch.n * EG_PAGE_BYTES != addr || batch.n == EG_CO_MAX_PAGES ||
                     (data ? batch.data + (uint64_t)batch.n * EG_PAGE_BYTES != data : batch.data != NULL)))
        batch_do();
    if (!batch.on) {
        batch.on = 1;
        batch.addr = addr;
        batch.n = 0;
        batch.node = node;
        batch.slot = (uint16_t)slot;
        batch.flags = (uint8_t)flags;
        batch.take = (uint8_t)take;
        batch.protect = (uint8_t)protect;
        batch.data = data;
    }
    batch.n++;
}

/* Pages that one worker is asked for: after the grants that were decided before. */
static struct {
    uint64_t addr;
    uint32_t n, node;
    uint8_t type, flags;
} recalls;

static void recalls_do(void)
{
    batch_do();
    if (recalls.n)
        node_say(recalls.node, recalls.type, recalls.flags, EG_SLOT_NOBODY, recalls.n, recalls.addr);
    recalls.n = 0;
}

static void recalls_add(uint64_t addr, uint32_t node, enum eg_co_type type, unsigned flags)
{
    if (asking)
        asking->from[node]++;
    if (recalls.n && (recalls.node != node || recalls.type != type || recalls.flags != flags || recalls.n == EG_CO_MAX_PAGES ||
                      recalls.addr + (uint64_t)recalls.n * EG_PAGE_BYTES != addr))
        recalls_do();
    if (!recalls.n) {
        recalls.addr = addr;
        recalls.node = node;
        recalls.type = (uint8_t)type;
        recalls.flags = (uint8_t)flags;
    }
    recalls.n++;
}

/* Who of home's threads asked lately. One that was given a page, then another, and asks for the first again, got nowhere, perhaps: its instruction
 * needs both. Then what it is given stays longer. */
static struct {
    uint32_t tid;
    uint8_t again;
} askers[EG_HOME_HELD];
static uint32_t n_askers;

static unsigned asker_note(uint64_t page, uint32_t tid, int missing)
{
    unsigned k = n_askers++ % EG_HOME_HELD;
    askers[k].tid = tid;
    uint64_t given_ns = 0, other_ns = 0;
    struct eg_home_held *other = NULL;
    for (uint32_t i = 0; i < EG_HOME_HELD; i++) {
        struct eg_home_held *h = &eg_home.held[i];
        if (h->tid != tid || now_ns - h->given_ns >= AGAIN_NS)
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
        other->until_ns = now_ns + HOLD_MORE_NS;
    return k;
}

static void held_note(uint64_t page, unsigned asker)
{
    uint32_t tid = askers[asker].tid;
    uint64_t until_ns = now_ns + (askers[asker].again ? HOLD_MORE_NS : HOLD_NS);
    eg_home.held[eg_home.next_held++ % EG_HOME_HELD] =
        (struct eg_home_held){.page = page, .until_ns = until_ns, .given_ns = now_ns, .thread = eg_home_thread(tid), .tid = tid};
}

/* A thread that has ended needs its page no more, nor does a proxy whose call has. */
static int needs_it(const struct eg_home_held *h)
{
    const struct eg_thread *t = h->thread;
    return !t || (__atomic_load_n(&t->tid, __ATOMIC_RELAXED) == h->tid && (t->where != EG_AWAY || __atomic_load_n(&t->in_call, __ATOMIC_RELAXED)));
}

static uint64_t held_until(uint64_t page)
{
    for (uint32_t i = 0; i < EG_HOME_HELD; i++)
        if (eg_home.held[i].page == page && eg_home.held[i].until_ns > now_ns && needs_it(&eg_home.held[i]))
            return eg_home.held[i].until_ns;
    return 0;
}

static void home_granted(uint64_t addr, unsigned slot, int write)
{
    int stored = stores.n && addr >= stores.addr && addr < stores.addr + (uint64_t)stores.n * EG_PAGE_BYTES;
    if (stored && write && !stores.write) {
        stores_do();
        stored = 0;
    }
    if (slot >= EG_SLOT_SPARE && slot < EG_SLOT_SPARE + EG_HOME_NODES)
        eg_home.node[slot - EG_SLOT_SPARE]->n_leaving--;
    if (slot == EG_SLOT_RECLAIM || (slot >= EG_SLOT_SPARE && slot < EG_SLOT_SPARE + EG_HOME_NODES))
        return; /* protected as it is: whoever writes it tells the pager */
    if (!stored) { /* what is stored wakes them by itself */
        if (write) {
            eg_far_dirty(addr, 1);
            eg_uffd_protect(addr, addr + EG_PAGE_BYTES, 0);
        }
        eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
    }
    if (slot == EG_SLOT_FREEZE)
        eg_home.pending--;
    else if (slot < EG_HOME_HELD)
        held_note(addr / EG_PAGE_BYTES, slot);
}

static void op_grant(uint64_t page, unsigned agent, unsigned slot, int write, enum eg_dir_content content)
{
    uint64_t addr = page * EG_PAGE_BYTES;
    int was_home = protected;
    protected = 0;
    if (agent == EG_DIR_AT_HOME) {
        home_granted(addr, slot, write);
        return;
    }
    unsigned flags = (write ? EG_CO_F_EXCLUSIVE : 0u) | (content == EG_DIR_NO_CONTENT ? EG_CO_F_NODATA : absent ? EG_CO_F_ZERO : 0u);
    int of_home = content != EG_DIR_INCOMING && !absent;
    /* A new owner: home's own copy goes, if it has one. */
    batch_add(addr, agent - 1, slot, flags, write && of_home, of_home && content == EG_DIR_OF_HOME && (was_home || write),
              content == EG_DIR_INCOMING ? incoming : NULL);
}

static void op_protect(uint64_t page)
{
    (void)page;
    protected = 1; /* the grant that follows does it, run by run */
}

static void op_invalidate(uint64_t page, unsigned agent)
{
    EG_COUNT(invalidations, 1);
    recalls_add(page * EG_PAGE_BYTES, agent - 1, EG_CO_INVALIDATE, 0);
}

static void op_recall(uint64_t page, unsigned agent, int keep)
{
    recalls_add(page * EG_PAGE_BYTES, agent - 1, EG_CO_RECALL, keep ? EG_CO_F_KEPT : 0);
}

static void op_store(uint64_t page, const void *data, int write)
{
    uint64_t addr = page * EG_PAGE_BYTES;
    if (stores.n && (stores.addr + (uint64_t)stores.n * EG_PAGE_BYTES != addr || stores.write != write ||
                     stores.data + (uint64_t)stores.n * EG_PAGE_BYTES != (const uint8_t *)data))
        stores_do();
    if (!stores.n) {
        stores.addr = addr;
        stores.write = (uint8_t)write;
        stores.data = data;
    }
    stores.n++;
}

const struct eg_dir_ops eg_agent_ops = {op_grant, op_protect, op_invalidate, op_recall, op_store};

/* --- who may have what ----------------------------------------------------------------------------------------------------------- */

static void park(uint64_t addr, uint64_t due_ns, uint32_t node, unsigned slot, int write)
{
    if (eg_home.n_parked == EG_PARKED)
        eg_die("internal error: more threads wait than there are", NULL, 0);
    if (!due_ns)
        __atomic_store_n(&eg_home.n_frozen, eg_home.n_frozen + 1, __ATOMIC_SEQ_CST);
    eg_home.parked[eg_home.n_parked++] = (struct eg_parked){addr, due_ns, (uint16_t)node, (uint16_t)slot, (uint8_t)write};
}

/* The part of [addr's mapping) in this chunk is registered. Returns: where it ends; 0: it cannot be. */
static uint64_t watch(struct eg_dir_chunk *c, const struct eg_area *area, uint64_t addr)
{
    if (__atomic_exchange_n(&c->changed, 0, __ATOMIC_ACQ_REL))
        c->n_watched = 0;
    for (uint32_t i = 0; i < c->n_watched; i++)
        if (addr >= c->watched[i].lo && addr < c->watched[i].hi)
            return c->watched[i].hi;
    uint64_t lo = addr & ~(EG_BLOCK_BYTES - 1), hi = lo + EG_BLOCK_BYTES;
    lo = lo < area->start ? area->start : lo;
    hi = hi > area->end ? area->end : hi;
    /* The kernel merges neighbours: memory of the runtime's may be in the same mapping. */
    for (uint32_t i = 0; i < eg_home.n_private; i++) {
        if (eg_home.private_hi[i] <= addr && eg_home.private_hi[i] > lo)
            lo = eg_home.private_hi[i];
        if (eg_home.private_lo[i] > addr && eg_home.private_lo[i] < hi)
            hi = eg_home.private_lo[i];
    }
    if (eg_uffd_register(lo, hi))
        return 0;
    uint32_t i = c->n_watched < 4 ? c->n_watched++ : (uint32_t)(addr >> 12) % 4;
    c->watched[i].lo = lo;
    c->watched[i].hi = hi;
    return hi;
}

/* Read-only memory: copies, uncounted; a memory call on it takes them all back. */
static void grant_fixed(uint32_t node, unsigned slot, const struct eg_area *area, uint64_t addr)
{
    static uint8_t buf[EG_CO_MAX_PAGES * EG_PAGE_BYTES];
    uint64_t n = (area->end - addr) / EG_PAGE_BYTES;
    n = n > EG_CO_MAX_PAGES ? EG_CO_MAX_PAGES : n;
    for (uint64_t i = 1; i < n; i++)
        if (frozen(addr + i * EG_PAGE_BYTES))
            n = i;
    if (!area->file) { /* what is not here may be registered, and we would wait for ourselves: only what is, or one page of zeros */
        eg_far_bring(addr);
        uint64_t here = present(addr, (uint32_t)n);
        memset(buf, 0, EG_PAGE_BYTES);
        n = here & 1 ? (uint64_t)__builtin_ctzll(~here) : 1;
        if (!(here & 1))
            area = NULL;
    }
    long got = area ? eg_sys_copy_in(buf, addr, n * EG_PAGE_BYTES) : (long)EG_PAGE_BYTES;
    if (got < (long)EG_PAGE_BYTES) { /* past the end of its file, for one */
        deny(node, slot, addr);
        return;
    }
    n = (uint64_t)got / EG_PAGE_BYTES;
    for (uint64_t at = addr; at < addr + n * EG_PAGE_BYTES; at = (at | (EG_BLOCK_BYTES - 1)) + 1)
        eg_chunk_get(at)->fixed = 1;
    struct eg_co m = {.type = EG_CO_GRANT, .flags = EG_CO_F_STATIC, .n = (uint32_t)n, .addr = addr};
    node_holds(node, addr, (uint32_t)n, 1);
    slot_send(node, slot, m, buf, n * EG_PAGE_BYTES);
    __atomic_fetch_add(&eg_home.node[node]->config->pages_sent, n, __ATOMIC_RELAXED);
}

/* Accesses in order, several streams of them at once: a window grows while they go on. What went in order once goes as one run to whoever asks for
 * its first page next: a buffer that is handed on costs one trip. It is a guess about others' pages, too: so where somebody else begins, runs
 * end, but for a stream that has come past such places already. Rights to write what is here already are streams of their own. */
#define STREAMS 4
#define AHEAD_MAX (2 * EG_CO_MAX_PAGES)
#define CROSSED_MANY 2u
struct reader {
    struct {
        uint64_t next;
        uint32_t window, used; /* used: when, in faults of this reader */
        uint8_t upgrade, crossed;
    } stream[STREAMS];
    uint32_t n_faults;
};

static int mark(const uint64_t *marks, uint64_t page)
{
    return marks[page % EG_BLOCK_PAGES / 64] >> page % 64 & 1;
}

static void mark_set(uint64_t *marks, uint64_t page, int on)
{
    uint64_t bit = 1ull << page % 64, *word = &marks[page % EG_BLOCK_PAGES / 64];
    *word = on ? *word | bit : *word & ~bit;
}

/* How many pages from `page` on went together, `most` at most, in its chunk. */
static uint32_t run_pages(const struct eg_dir_chunk *c, uint64_t page, uint32_t most)
{
    uint32_t n = 1;
    while (n < most && (page + n) % EG_BLOCK_PAGES && mark(c->joined, page + n))
        n++;
    return n;
}

/* Pages from page + `from` to page + n - 1 go together with those before them. Returns: n, or less: somebody else begins there. */
static uint32_t run_join(struct eg_dir_chunk *c, uint64_t page, uint32_t from, uint32_t n, int past_others)
{
    for (uint32_t i = from; i < n; i++) {
        if (i && (page + i) % EG_BLOCK_PAGES == 0)
            return i;
        if (i && !past_others && mark(c->first, page + i))
            return i;
        mark_set(c->joined, page + i, 1);
        mark_set(c->first, page + i, 0);
    }
    return n;
}

/* Returns: how many pages to take, with this one. here: the asker has it, or it is coming. */
static uint32_t ahead(struct reader *r, struct eg_dir_chunk *c, uint64_t page, int upgrade, int here)
{
    uint32_t oldest = 0;
    if (here)
        return 1;
    r->n_faults++;
    for (uint32_t i = 0; i < STREAMS; i++) {
        uint64_t next = r->stream[i].next;
        uint32_t window = r->stream[i].window * 4;
        if (r->stream[i].upgrade == upgrade && (page == next || page == next + 1)) {
            r->stream[i].crossed = (uint8_t)(r->stream[i].crossed + (r->stream[i].crossed < CROSSED_MANY && mark(c->first, page)));
            window = run_join(c, page, page == next ? 0 : 1, window > AHEAD_MAX ? AHEAD_MAX : window, r->stream[i].crossed == CROSSED_MANY);
            r->stream[i].window = window;
            r->stream[i].next = page + window;
            r->stream[i].used = r->n_faults;
            return window;
        }
        if (r->n_faults - r->stream[i].used > r->n_faults - r->stream[oldest].used)
            oldest = i;
    }
    mark_set(c->joined, page, 0);
    mark_set(c->first, page, 1);
    r->stream[oldest].upgrade = (uint8_t)upgrade;
    r->stream[oldest].crossed = 0;
    r->stream[oldest].window = run_pages(c, page, AHEAD_MAX);
    r->stream[oldest].next = page + r->stream[oldest].window;
    r->stream[oldest].used = r->n_faults;
    return r->stream[oldest].window;
}

/* From `page` on n pages went instead of the `window` that ahead() said. */
static void ahead_more(struct reader *r, uint64_t page, uint32_t window, uint32_t n)
{
    for (uint32_t i = 0; i < STREAMS; i++)
        if (r->stream[i].used == r->n_faults && r->stream[i].next == page + window) {
            r->stream[i].window = n;
            r->stream[i].next = page + n;
        }
}

void eg_agent_ask(struct eg_dir_page *p, uint64_t page, unsigned agent, unsigned slot, int write)
{
    if (eg_dir_ask(&eg_home.dir, p, page, agent, slot, write))
        eg_die("internal error: the directory's lines are full", NULL, 0);
}

/* Would an agent have to ask for the page, and could it be answered without waiting behind others? */
static int is_wanted(const struct eg_dir_page *p, unsigned agent, int write)
{
    if (p->line || eg_dir_busy(p) || p->state == EG_DIR_HOME)
        return 0;
    if (p->state == EG_DIR_OWNED)
        return agent == EG_DIR_AT_HOME || p->owner != agent;
    return write || (agent != EG_DIR_AT_HOME && !(p->sharers >> agent & 1));
}

/* A worker has the page, or it is coming to it. */
static int holds(const struct eg_dir_page *p, unsigned agent)
{
    switch (p->state) {
    case EG_DIR_SHARED: return (int)(p->sharers >> agent & 1);
    case EG_DIR_OWNED: return p->owner == agent;
    default: return eg_dir_busy(p) && p->agent == agent;
    }
}

/* A worker's thread asks. wanted: pages that it is known to want. */
static void get(uint32_t node, unsigned slot, uint64_t addr, int write, uint32_t wanted)
{
    static struct reader seen[1024];
    struct eg_area area;
    struct eg_thread *t = slot < EG_THREADS ? __atomic_load_n(&eg_home.node[node]->slot[slot], __ATOMIC_ACQUIRE) : NULL;
    if (!eg_home.node[node]->alive)
        return; /* the thread starts again elsewhere */
    if (t && !t->asked_ns)
        t->asked_ns = now_ns;
    if (addr & (EG_PAGE_BYTES - 1) || eg_home_is_private(addr)) {
        deny(node, slot, addr);
        return;
    }
    if (frozen(addr)) {
        park(addr, 0, node, slot, write);
        return;
    }
    struct eg_dir_chunk *c = eg_chunk_find(addr);
    struct eg_dir_page *p = c ? eg_chunk_page(c, addr) : NULL;
    uint64_t page = addr / EG_PAGE_BYTES;
    if (p && p->state != EG_DIR_HOME) { /* known: it is memory that was registered, writable, and no call has changed that */
        int mine = holds(p, node + 1);
        uint32_t window = ahead(&seen[(slot + node * 131) % 1024], c, page, write && mine, mine && (!write || p->state == EG_DIR_OWNED));
        window = window < wanted ? run_join(c, page, 1, wanted, 1) : window;
        absent = 0;
        asking = t;
        eg_agent_ask(p, page, node + 1, slot, write);
        asking = NULL;
        for (uint32_t i = 1; i < window && (page + i) % EG_BLOCK_PAGES && !frozen(addr + i * EG_PAGE_BYTES); i++) {
            p = eg_chunk_page(c, addr + i * EG_PAGE_BYTES);
            if (!is_wanted(p, node + 1, write))
                break;
            eg_agent_ask(p, page + i, node + 1, EG_SLOT_NOBODY, write);
        }
        batch_do();
        return;
    }
    if (eg_area_find(addr, &area) || area.shared || !area.readable || (write && !area.writable) || (area.file && area.writable)) {
        deny(node, slot, addr);
        return;
    }
    if (!area.writable) {
        grant_fixed(node, slot, &area, addr);
        return;
    }
    uint64_t until = held_until(page);
    if (until) {
        park(addr, until, node, slot, write);
        return;
    }
    c = eg_chunk_get(addr);
    uint64_t end = watch(c, &area, addr);
    if (!end) {
        deny(node, slot, addr);
        return;
    }
    end = end < area.end ? end : area.end;
    struct reader *r = &seen[(slot + node * 131) % 1024];
    uint32_t n = ahead(r, c, page, 0, 0), window = n, i;
    n = n < wanted ? run_join(c, page, 1, wanted, 1) : n;
    if (n > (end - addr) / EG_PAGE_BYTES)
        n = (uint32_t)((end - addr) / EG_PAGE_BYTES);
    uint64_t room = (end - addr) / EG_PAGE_BYTES;
    eg_far_bring(addr);
    uint64_t here = present(addr, room > ZERO_AHEAD ? ZERO_AHEAD > n ? ZERO_AHEAD : n : (uint32_t)room);
    absent = !(here & 1);
    if (absent && n < ZERO_AHEAD) /* fresh memory: its neighbours will be wanted */
        n = room > ZERO_AHEAD ? ZERO_AHEAD : (uint32_t)room;
    for (i = 0; i < n; i++) {
        uint64_t at = addr + (uint64_t)i * EG_PAGE_BYTES;
        p = eg_chunk_page(c, at);
        if (i && (p->state != EG_DIR_HOME || p->line || (here >> i & 1) == absent || frozen(at) || held_until(page + i) || eg_far_away(at)))
            break;
        eg_agent_ask(p, page + i, node + 1, i ? EG_SLOT_NOBODY : slot, write || absent);
    }
    batch_do();
    if (absent) /* then the next ones are a stream's, and more of them */
        ahead_more(r, page, window, i);
    absent = 0;
}

/* Read-only memory still, all of it? */
static int is_fixed(uint64_t addr, uint32_t n_pages)
{
    struct eg_area area;
    const struct eg_dir_chunk *c;
    for (uint32_t i = 0; i < n_pages; i++) {
        uint64_t at = addr + (uint64_t)i * EG_PAGE_BYTES;
        if (!(c = eg_chunk_find(at)) || !c->fixed || c->page[at / EG_PAGE_BYTES % EG_BLOCK_PAGES].state != EG_DIR_HOME || frozen(at))
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
        node_gave(k, n_pages);
        if (is_fixed(addr, n_pages))
            node_say(k, EG_CO_DROP, EG_CO_F_SPARE, EG_SLOT_NOBODY, n_pages, addr);
        return;
    }
    for (; n_pages; n_pages--, addr += EG_PAGE_BYTES) {
        struct eg_dir_chunk *c = eg_chunk_find(addr);
        struct eg_dir_page *p = c ? eg_chunk_page(c, addr) : NULL;
        if (!p || p->state == EG_DIR_HOME || frozen(addr))
            continue;
        if (p->line || eg_dir_busy(p)) {
            run_push(n, addr | 1); /* on its way; perhaps to here */
        } else if (p->state == EG_DIR_OWNED ? p->owner == k + 1 : (int)(p->sharers >> (k + 1) & 1)) {
            n->n_leaving++;
            eg_agent_ask(p, addr / EG_PAGE_BYTES, EG_DIR_AT_HOME, EG_SLOT_SPARE + k, 1);
        }
    }
}

static int spare_turn(void)
{
    int work = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++) {
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

/* --- what comes from workers --------------------------------------------------------------------------------------------------------- */

static void answer(uint32_t node, const struct eg_co *m, const uint8_t *data)
{
    int rc = m->type == EG_CO_ACK || m->type == EG_CO_DATA ? 0 : -EPROTO;
    absent = 0;
    if (m->type == EG_CO_ACK && m->flags & EG_CO_F_STATIC) {
        uint32_t awaited = !(m->flags & EG_CO_F_SPARE);
        if (awaited > eg_home.node[node]->n_drops)
            eg_die("a compute node does not keep to the protocol: ", eg_home.node[node]->config->text, 0);
        eg_home.pending -= awaited;
        eg_home.node[node]->n_drops -= awaited;
        return;
    }
    if (m->type == EG_CO_DATA)
        eg_lost_came(node, m->addr, m->n, data);
    if (!(m->flags & EG_CO_F_KEPT))
        node_gave(node, m->n);
    for (uint32_t i = 0; i < m->n && !rc; i++) {
        uint64_t addr = m->addr + (uint64_t)i * EG_PAGE_BYTES, page = addr / EG_PAGE_BYTES;
        struct eg_dir_chunk *c = eg_chunk_find(addr);
        incoming = data + (uint64_t)i * EG_PAGE_BYTES;
        if (!c)
            rc = -EPROTO;
        else if (m->type == EG_CO_ACK)
            rc = eg_dir_ack(&eg_home.dir, eg_chunk_page(c, addr), page, node + 1);
        else
            rc = eg_dir_data(&eg_home.dir, eg_chunk_page(c, addr), page, node + 1, incoming);
    }
    batch_do();
    stores_do();
    incoming = NULL;
    if (m->type == EG_CO_DATA)
        __atomic_fetch_add(&eg_home.node[node]->config->pages_taken, m->n, __ATOMIC_RELAXED);
    if (rc)
        eg_die("a compute node does not keep to the protocol: ", eg_home.node[node]->config->text, 0);
}

void eg_agent_answer(struct eg_dir_page *p, uint64_t page, uint32_t node, const uint8_t *data)
{
    absent = 0;
    incoming = data;
    if (data ? eg_dir_data(&eg_home.dir, p, page, node + 1, data) : eg_dir_ack(&eg_home.dir, p, page, node + 1))
        eg_home_lost(node);
    batch_do();
    stores_do();
    incoming = NULL;
}

static int node_turn(uint32_t k)
{
    struct eg_node *n = eg_home.node[k];
    if (!n->alive)
        return 0;
    long got = eg_sys6(SYS_recvfrom, n->fd, n->in + n->in_end, EG_NODE_IN_BYTES - n->in_end, MSG_DONTWAIT, 0, 0);
    if (got == -EAGAIN || got == -EINTR)
        return 0;
    if (got <= 0) {
        eg_lost_node(k);
        return 1;
    }
    n->in_end += (uint64_t)got;
    n->heard = 1;
    uint64_t at = 0;
    while (n->alive && n->in_end - at >= sizeof(struct eg_co)) {
        struct eg_co m;
        memcpy(&m, n->in + at, sizeof m);
        uint64_t payload = eg_co_payload_bytes(&m);
        if (m.type >= EG_CO_GRANT || (m.n > EG_CO_MAX_PAGES && !(m.type == EG_CO_ACK && m.flags & EG_CO_F_STATIC)))
            eg_die("a compute node does not keep to the protocol: ", n->config->text, 0);
        if (n->in_end - at < sizeof m + payload)
            break;
        const uint8_t *data = n->in + at + sizeof m;
        at += sizeof m + payload;
        if (m.took_ns && (m.type == EG_CO_GET_SHARED || m.type == EG_CO_GET_EXCLUSIVE))
            eg_account_time(eg_rt.row->coherent_fault_hist, m.took_ns);
        if (m.type == EG_CO_GET_SHARED || m.type == EG_CO_GET_EXCLUSIVE)
            get(k, m.slot, m.addr, m.type == EG_CO_GET_EXCLUSIVE, 1);
        else
            answer(k, &m, data);
    }
    memmove(n->in, n->in + at, n->in_end - at);
    n->in_end -= at;
    return 1;
}

/* --- home's own faults ---------------------------------------------------------------------------------------------------------------- */

static void home_zero(struct eg_dir_chunk *c, uint64_t addr)
{
    int rc = eg_uffd_zero_check(addr);
    if (rc == 0)
        eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
    for (uint64_t at = addr + EG_PAGE_BYTES; c && rc == 1 && at % EG_BLOCK_BYTES && at < addr + ZERO_AHEAD * EG_PAGE_BYTES; at += EG_PAGE_BYTES) {
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

static void home_fault(const struct uffd_msg *m)
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
            eg_pager_fault(m, now_ns);
        else if (wp)
            eg_uffd_protect(addr, addr + EG_PAGE_BYTES, 0);
        else
            home_zero(c, addr);
        return;
    }
    if (eg_agent_discards(addr)) {
        home_park(addr);
        return;
    }
    if (p->state == EG_DIR_SHARED && !write) {
        eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
        return;
    }
    unsigned by = p->state == EG_DIR_SHARED ? (unsigned)__builtin_ctzll(p->sharers) : eg_dir_busy(p) && p->agent ? p->agent : p->owner;
    if (by)
        visit_note(tid, by - 1);
    absent = 0;
    static struct reader seen[64]; /* of home's threads */
    uint32_t window = ahead(&seen[tid % 64], c, page, wp, 0);
    eg_agent_ask(p, page, EG_DIR_AT_HOME, asker_note(page, tid, !wp), write);
    for (uint64_t i = 1; i < window && (addr + i * EG_PAGE_BYTES) % EG_BLOCK_BYTES; i++) {
        p = eg_chunk_page(c, addr + i * EG_PAGE_BYTES);
        if (!is_wanted(p, EG_DIR_AT_HOME, write))
            break;
        eg_agent_ask(p, page + i, EG_DIR_AT_HOME, EG_SLOT_NOBODY, write);
    }
    batch_do();
    stores_do();
}

/* --- memory calls ---------------------------------------------------------------------------------------------------------------------- */

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
        eg_home.drop |= c->fixed;
        for (; at < end; at += EG_PAGE_BYTES) {
            struct eg_dir_page *p = eg_chunk_page(c, at);
            if (p->state == EG_DIR_HOME)
                continue;
            eg_home.pending++;
            eg_agent_ask(p, at / EG_PAGE_BYTES, EG_DIR_AT_HOME, EG_SLOT_FREEZE, 1);
        }
    }
    if (eg_home.freeze_lo == 0 && hi == EG_USER_END) /* a fork changes nothing for the workers' read-only copies */
        eg_home.drop = 0;
}

/* Everything is home that was counted; what was not goes, too. Only now: a worker may have waited to write a page of which it had a copy. */
static void freeze_drop(void)
{
    uint64_t hi = freeze_end();
    const uint64_t most = 1ul << 31;
    eg_home.drop = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++)
        for (uint64_t at = eg_home.freeze_lo, n; eg_home.node[k]->alive && at < hi; at += n * EG_PAGE_BYTES) {
            n = (hi - at) / EG_PAGE_BYTES < most ? (hi - at) / EG_PAGE_BYTES : most;
            eg_home.pending++;
            eg_home.node[k]->n_drops++;
            node_say(k, EG_CO_DROP, 0, EG_SLOT_NOBODY, (uint32_t)n, at);
        }
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
                node_gave(p->owner - 1u, 1);
            for (uint64_t with = p->state == EG_DIR_SHARED ? p->sharers : 0; with; with &= with - 1)
                node_gave((uint32_t)__builtin_ctzll(with) - 1, 1);
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
    if (home_parked.hi)
        eg_uffd_wake(home_parked.lo, home_parked.hi);
    home_parked.hi = 0;
    for (uint32_t i = 0; i < n; i++)
        if (all[i].due_ns == 0)
            get(all[i].node, all[i].slot, all[i].addr, all[i].write, 1);
        else
            all[kept++] = all[i];
    for (uint32_t i = 0; i < eg_home.n_parked; i++)
        all[kept++] = eg_home.parked[i];
    eg_home.parked = all;
    eg_home.n_parked = kept;
}

static int request_turn(void)
{
    static uint8_t under_way;
    if (thawed()) {
        unpark();
        return 1;
    }
    uint32_t request = __atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST);
    if (request == EG_REQ_SETTLE ? !settled() : request != EG_REQ_FREEZE && request != EG_REQ_DROP)
        return 0;
    if (request != EG_REQ_SETTLE && !under_way) {
        under_way = 1;
        if (request == EG_REQ_FREEZE)
            freeze_begin();
        else
            freeze_drop();
    }
    if (request == EG_REQ_FREEZE && !eg_home.pending && eg_home.drop)
        freeze_drop();
    if (request != EG_REQ_SETTLE && eg_home.pending)
        return 0;
    under_way = 0;
    if (request == EG_REQ_DROP)
        forget();
    __atomic_store_n(&eg_home.request, request == EG_REQ_SETTLE ? EG_REQ_SETTLED : EG_REQ_FROZEN, __ATOMIC_SEQ_CST);
    eg_sys3(SYS_futex, &eg_home.request, FUTEX_WAKE_PRIVATE, 1);
    return 1;
}

/* Is there something that a memory call waits for, and that no message brings? */
static int requested(void)
{
    uint32_t request = __atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST);
    return request == EG_REQ_SETTLE ? settled() : (request == EG_REQ_FREEZE || request == EG_REQ_DROP) && !eg_home.pending;
}

static uint64_t parked_turn(void)
{
    uint64_t due = 0;
    for (uint32_t i = 0; i < eg_home.n_parked;) {
        struct eg_parked p = eg_home.parked[i];
        if (p.due_ns && p.due_ns <= now_ns) {
            eg_home.parked[i] = eg_home.parked[--eg_home.n_parked];
            get(p.node, p.slot, p.addr, p.write, 1);
            continue;
        }
        if (p.due_ns && (!due || p.due_ns < due))
            due = p.due_ns;
        i++;
    }
    return due;
}

/* A node of which threads or pages are needed, and that has said nothing, is asked to forget no pages, which it acknowledges. It is the turns that
 * count, not the time: this process may have been stopped itself. Returns: when to look again; 0: nobody is asked anything. */
static uint64_t pulse_turn(void)
{
    static uint64_t next_ns;
    int due = now_ns >= next_ns, needed = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++) {
        struct eg_node *n = eg_home.node[k];
        int needs = n->alive && (n->n_held || __atomic_load_n(&n->n_threads, __ATOMIC_RELAXED));
        needed |= needs;
        if (!needs || n->heard)
            n->n_silent = 0;
        else if (due && ++n->n_silent > PULSES)
            eg_lost_node(k);
        else if (due)
            node_say(k, EG_CO_DROP, EG_CO_F_SPARE, EG_SLOT_NOBODY, 0, EG_USER_START);
        n->heard = due ? 0 : n->heard;
    }
    if (due)
        next_ns = now_ns + eg_home.pulse_ms * 1000000ull;
    return needed ? next_ns : 0;
}

static void kicks_turn(void)
{
    if (!__atomic_exchange_n(&eg_home.kicks, 0, __ATOMIC_ACQ_REL))
        return;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++)
        if (__atomic_load_n(&eg_home.node[k]->broken, __ATOMIC_SEQ_CST))
            eg_lost_node(k);
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        struct eg_thread *t = eg_home.thread[i];
        if (__atomic_load_n(&t->kick, __ATOMIC_ACQUIRE) == 1)
            kick(t, t->node, t->slot);
    }
}

/* Threads that went out: what they touch first goes to them as if they had asked. */
static int pushes_turn(void)
{
    if (!__atomic_exchange_n(&eg_home.pushes, 0, __ATOMIC_ACQ_REL))
        return 0;
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        struct eg_thread *t = eg_home.thread[i];
        struct eg_run run[EG_PUSHED];
        uint32_t n = __atomic_load_n(&t->n_pushed, __ATOMIC_ACQUIRE), node = t->node, slot = t->slot;
        if (!n)
            continue;
        memcpy(run, t->pushed, sizeof run);
        __atomic_store_n(&t->n_pushed, 0, __ATOMIC_RELEASE); /* once it has the last one, it may go out again */
        for (uint32_t k = 0; k < n; k++)
            get(node, slot, run[k].addr, 1, run[k].n_pages);
    }
    return 1;
}

/* --- the thread -------------------------------------------------------------------------------------------------------------------------- */

/* Do more threads want to run on this machine than there are processors? */
static void load_look(void)
{
    static uint64_t next_ns;
    char text[64];
    if (now_ns < next_ns)
        return;
    next_ns = now_ns + LOAD_EVERY_NS;
    long n = eg_sys4(SYS_pread64, eg_home.load_fd, text, sizeof text, 0), i = 0, running = 0;
    for (int blanks = 0; i < n && blanks < 3; i++) /* 0.00 0.01 0.05 running/all last */
        blanks += text[i] == ' ';
    for (; i < n && text[i] >= '0' && text[i] <= '9'; i++)
        running = running * 10 + (text[i] - '0');
    eg_home.loaded = running > eg_home.n_processors;
}

static void agent_lock(void)
{
    if (!eg_home.far)
        return;
    while (__atomic_load_n(&eg_rt.lock.waiters, __ATOMIC_RELAXED) && eg_rt.lock.word == 0)
        eg_sys0(SYS_sched_yield); /* a program's memory call goes first */
    eg_lock_take(&eg_rt.lock);
    eg_rt.on_pager = 1;
}

static void agent_unlock(void)
{
    if (!eg_home.far)
        return;
    eg_rt.on_pager = 0;
    eg_lock_give(&eg_rt.lock);
}

void eg_agent_main(void)
{
    struct uffd_msg m[EVENTS];
    struct eg_spin spin = {0};
    struct sched_param other = {0};
    /* Not the policy and the processors of whichever thread happened to start it. */
    eg_sys3(SYS_sched_setscheduler, 0, SCHED_OTHER, &other);
    eg_sys3(SYS_sched_setaffinity, 0, sizeof eg_rt.affinity, eg_rt.affinity);
    eg_sys_slice(SLICE_NS);
    for (;;) {
        now_ns = eg_sys_now_ns();
        busy_turn();
        int work = 0;
        __atomic_fetch_add(&eg_rt.turns, 1, __ATOMIC_SEQ_CST);
        agent_lock();
        long got = eg_sys3(SYS_read, eg_rt.uffd, m, sizeof m);
        for (long k = 0; k < got / (long)sizeof *m; k++)
            if (m[k].event == UFFD_EVENT_PAGEFAULT) {
                work = 1;
                home_fault(&m[k]);
            }
        for (uint32_t k = 0; k < eg_home.n_nodes; k++)
            work |= node_turn(k);
        work |= pushes_turn() | request_turn();
        uint64_t due = eg_home.n_parked ? parked_turn() : 0;
        uint64_t pulse = pulse_turn();
        due = !due || (pulse && pulse < due) ? pulse : due;
        uint64_t look = eg_cap_look_alive();
        if (look && (!due || now_ns + look < due))
            due = now_ns + look;
        kicks_turn();
        work |= eg_lost_turn();
        int more = eg_home.far && eg_rt.active ? eg_pager_turn(work) | eg_far_reclaim() : 0;
        more |= spare_turn();
        recalls_do();
        for (uint32_t k = 0; k < eg_home.n_nodes; k++)
            node_flush(k);
        if (more && !work && eg_rt.outstanding)
            eg_pager_poll(); /* gives the processor away when nothing has come for a while */
        agent_unlock();
        if (work || more) {
            spin.begun_ns = 0;
            load_look();
            continue;
        }
        if (eg_spin_turn(&spin, eg_home.loaded ? 0 : SPIN_NS))
            continue;
        __atomic_store_n(&eg_home.agent_asleep, 1, __ATOMIC_SEQ_CST);
        if (!requested() && !thawed() && !__atomic_load_n(&eg_home.kicks, __ATOMIC_SEQ_CST) && !__atomic_load_n(&eg_home.pushes, __ATOMIC_SEQ_CST)) {
            uint8_t drain[16];
            uint32_t n = 0;
            polls[n++] = (struct pollfd){.fd = eg_rt.uffd, .events = POLLIN};
            polls[n++] = (struct pollfd){.fd = eg_rt.wake_fd, .events = POLLIN};
            if (eg_home.far && eg_rt.active) {
                agent_lock();
                eg_session_check();
                agent_unlock();
                n += eg_pager_links(polls + n);
            }
            for (uint32_t k = 0; k < eg_home.n_nodes; k++) {
                const struct eg_node *node = eg_home.node[k];
                if (node->alive)
                    polls[n++] = (struct pollfd){.fd = node->fd,
                                                 .events = (short)(POLLIN | (node->out_at < node->out_end ? POLLOUT : 0))};
            }
            uint64_t wait_ns = due > now_ns ? due - now_ns : 1;
            struct timespec wait = {.tv_sec = (long)(wait_ns / 1000000000u), .tv_nsec = (long)(wait_ns % 1000000000u)};
            eg_sys5(SYS_ppoll, polls, n, due ? &wait : NULL, 0, 8);
            if (polls[1].revents)
                while (eg_sys3(SYS_read, eg_rt.wake_fd, drain, sizeof drain) > 0)
                    ;
        }
        __atomic_store_n(&eg_home.agent_asleep, 0, __ATOMIC_SEQ_CST);
        spin.begun_ns = 0;
    }
}

void eg_home_wake(void)
{
    if (__atomic_load_n(&eg_home.agent_asleep, __ATOMIC_SEQ_CST))
        eg_pager_kick();
}

void eg_home_lost(uint32_t node)
{
    static uint8_t said;
    while (__atomic_exchange_n(&said, 1, __ATOMIC_ACQ_REL)) /* somebody else ends the program just now */
        eg_sys0(SYS_pause);
    eg_die("lost a compute node on which threads or memory of the program were: ", eg_rt.pool->nodes[node].text, 0);
    for (;;)
        eg_sys1(SYS_exit_group, 135);
}
