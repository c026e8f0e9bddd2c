/* agent.c - home's agent: one thread that owns the directory, the coherence streams, and the faults of home's own threads on memory that
 * workers have touched. It reads only pages that the kernel says are here, and waits for nobody but, for a moment, for room in the stream of a
 * thread that reads it. With far memory it does the pager's work, too: one thread reads the faults. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_capture.h"
#include "client/pager/eg_pager.h"
#include "proto/eg_load.h"
#include "proto/eg_spin.h"
#include "proto/eg_uffd.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#define EVENTS 16
#define SPIN_NS 60000u
#define SLICE_NS 100000u
#define LOAD_EVERY_NS 5000000u
#define FULL_RETRY_NS 100000u
#define PULSES 10u /* a node that was asked in vain so often hangs */

struct eg_home eg_home = {.maps_fd = -1, .load_fd = -1, .pulse_ms = EG_HOME_PULSE_MS};
uint32_t eg_where[1024] __attribute__((aligned(4096)));
struct eg_agent eg_agent;

static struct pollfd polls[2 + EG_HOME_NODES + 2 * EG_POOL_SERVERS];

/* --- who may have what ----------------------------------------------------------------------------------------------------------- */

static void park(uint64_t addr, uint64_t due_ns, uint32_t node, unsigned slot, int write)
{
    if (eg_home.n_parked == EG_PARKED)
        eg_die("internal error: more threads wait than there are", NULL, 0);
    if (!due_ns)
        __atomic_store_n(&eg_home.n_frozen, eg_home.n_frozen + 1, __ATOMIC_SEQ_CST);
    eg_home.parked[eg_home.n_parked++] = (struct eg_parked){addr, due_ns, (uint16_t)node, (uint16_t)slot, (uint8_t)write};
}

struct span {
    uint64_t lo, hi;
};

/* What was registered may have been more than one mapping's. */
static struct span within(struct span s, const struct eg_area *area)
{
    return (struct span){s.lo < area->start ? area->start : s.lo, s.hi > area->end ? area->end : s.hi};
}

/* The part of addr's mapping in this chunk is registered. Returns: that; hi 0: it cannot be. */
static struct span watch(struct eg_dir_chunk *c, const struct eg_area *area, uint64_t addr)
{
    c->n_fresh = 0;
    if (__atomic_exchange_n(&c->changed, 0, __ATOMIC_ACQ_REL))
        c->n_watched = 0;
    for (uint32_t i = 0; i < c->n_watched; i++)
        if (addr >= c->watched[i].lo && addr < c->watched[i].hi)
            return within((struct span){c->watched[i].lo, c->watched[i].hi}, area);
    uint64_t block = addr & ~(EG_BLOCK_BYTES - 1);
    struct span s = within((struct span){block, block + EG_BLOCK_BYTES}, area);
    /* The kernel merges neighbours: memory of the runtime's may be in the same mapping. */
    for (uint32_t i = 0; i < eg_home.n_private; i++) {
        if (eg_home.private_hi[i] <= addr && eg_home.private_hi[i] > s.lo)
            s.lo = eg_home.private_hi[i];
        if (eg_home.private_lo[i] > addr && eg_home.private_lo[i] < s.hi)
            s.hi = eg_home.private_lo[i];
    }
    if (eg_uffd_register(s.lo, s.hi))
        return (struct span){0};
    uint32_t i = c->n_watched < 4 ? c->n_watched++ : (uint32_t)(addr >> 12) % 4;
    c->watched[i].lo = s.lo;
    c->watched[i].hi = s.hi;
    return s;
}

/* Read-only memory: copies, uncounted; a memory call on it takes them all back. */
static void grant_fixed(uint32_t node, unsigned slot, const struct eg_area *area, uint64_t addr)
{
    static uint8_t buf[EG_CO_MAX_PAGES * EG_PAGE_BYTES];
    uint64_t n = (area->end - addr) / EG_PAGE_BYTES;
    n = n > EG_CO_MAX_PAGES ? EG_CO_MAX_PAGES : n;
    for (uint64_t i = 1; i < n; i++)
        if (eg_freeze_keeps(addr + i * EG_PAGE_BYTES))
            n = i;
    if (!area->file) { /* what is not here may be registered, and we would wait for ourselves: only what is, or one page of zeros */
        eg_far_bring(addr);
        uint64_t here = eg_agent_here(addr, (uint32_t)n);
        memset(buf, 0, EG_PAGE_BYTES);
        n = here & 1 ? (uint64_t)__builtin_ctzll(~here) : 1;
        if (!(here & 1))
            area = NULL;
    }
    long got = area ? eg_sys_copy_in(buf, addr, n * EG_PAGE_BYTES) : (long)EG_PAGE_BYTES;
    if (got < (long)EG_PAGE_BYTES) { /* past the end of its file, for one */
        eg_send_deny(node, slot, addr);
        return;
    }
    n = (uint64_t)got / EG_PAGE_BYTES;
    for (uint64_t at = addr; at < addr + n * EG_PAGE_BYTES; at += EG_PAGE_BYTES)
        eg_mark_set(eg_chunk_get(at)->fixed, at / EG_PAGE_BYTES, 1);
    struct eg_co m = {.type = EG_CO_GRANT, .flags = EG_CO_F_STATIC, .n = (uint32_t)n, .addr = addr};
    eg_spare_holds(node, addr, (uint32_t)n, 1);
    eg_send_slot(node, slot, m, buf, n * EG_PAGE_BYTES);
    __atomic_fetch_add(&eg_home.node[node]->config->pages_sent, n, __ATOMIC_RELAXED);
}

void eg_agent_ask(struct eg_dir_page *p, uint64_t page, unsigned agent, unsigned slot, int write)
{
    if (eg_dir_ask(&eg_home.dir, p, page, agent, slot, write))
        eg_die("internal error: the directory's lines are full", NULL, 0);
}

/* Would an agent have to ask for the page, and could it be answered without waiting behind others? */
int eg_agent_is_wanted(const struct eg_dir_page *p, unsigned agent, int write)
{
    if (p->line || eg_dir_busy(p) || p->state == EG_DIR_HOME)
        return 0;
    if (p->state == EG_DIR_OWNED)
        return agent == EG_DIR_AT_HOME || p->owner != agent;
    return write || (agent != EG_DIR_AT_HOME && !(p->sharers >> agent & 1));
}

/* It comes home unasked, if others have it and no memory call keeps it. */
static void bring(struct eg_dir_page *p, uint64_t addr)
{
    if (eg_agent_is_wanted(p, EG_DIR_AT_HOME, 1) && !eg_freeze_keeps(addr))
        eg_agent_ask(p, addr / EG_PAGE_BYTES, EG_DIR_AT_HOME, EG_SLOT_NOBODY, 1);
}

/* Who has the page are nodes without threads: nobody will miss it. */
static int is_left_over(const struct eg_dir_page *p)
{
    uint64_t holders = p->state == EG_DIR_SHARED ? p->sharers : 1ull << p->owner;
    for (; holders; holders &= holders - 1)
        if (__atomic_load_n(&eg_home.node[__builtin_ctzll(holders) - 1]->n_threads, __ATOMIC_RELAXED))
            return 0;
    return 1;
}

int eg_agent_bring_left(struct eg_dir_chunk *c, uint64_t lo, uint64_t hi)
{
    int home = 1;
    eg_agent.absent = 0;
    for (uint64_t addr = lo; addr < hi; addr += EG_PAGE_BYTES) {
        struct eg_dir_page *p = eg_chunk_page(c, addr);
        if (eg_dir_is_home(p))
            continue;
        home = 0;
        if ((p->state == EG_DIR_SHARED || p->state == EG_DIR_OWNED) && is_left_over(p))
            bring(p, addr);
    }
    eg_grant_do();
    eg_grant_stores();
    return home;
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

/* Which of the pages from lo on are here. */
struct looked {
    uint64_t lo, here;
};

static int is_here(struct looked *l, uint64_t addr, const struct span *in)
{
    uint64_t bytes = EG_LOOK_PAGES * EG_PAGE_BYTES, lo = addr & ~(bytes - 1), hi = lo + bytes < in->hi ? lo + bytes : in->hi;
    lo = lo > in->lo ? lo : in->lo;
    if (l->lo != lo) {
        l->lo = lo;
        l->here = eg_agent_here(lo, (uint32_t)((hi - lo) / EG_PAGE_BYTES));
    }
    return (int)(l->here >> (addr - l->lo) / EG_PAGE_BYTES & 1);
}

/* May a page that is not the asked one go along? here: home has it, as it has the asked one, or has neither. */
static int goes_along(struct eg_dir_chunk *c, uint64_t addr, int here)
{
    const struct eg_dir_page *p = eg_chunk_page(c, addr);
    return here != eg_agent.absent && eg_dir_is_home(p) && !eg_freeze_keeps(addr) && !eg_fault_held_until(addr / EG_PAGE_BYTES) && !eg_far_away(addr);
}

/* Fresh memory: its neighbours will be wanted, on both sides of addr. Who touches it in any order would leave gaps else, each of them worth two or
 * three more requests. Twice as many go when the other half of them is there already. Returns: a part of `in`. */
static struct span neighbours(struct eg_dir_chunk *c, uint32_t node, uint64_t addr, struct span in)
{
    uint64_t bytes = EG_ZERO_AHEAD * EG_PAGE_BYTES, lo = addr & ~(bytes - 1);
    const struct eg_dir_page *other = eg_chunk_page(c, lo ^ bytes);
    if (other->state == EG_DIR_OWNED && other->owner == node + 1) {
        bytes *= 2;
        lo = addr & ~(bytes - 1);
    }
    return (struct span){lo < in.lo ? in.lo : lo, lo + bytes > in.hi ? in.hi : lo + bytes};
}

/* A worker's thread asks. wanted: pages that it is known to want from addr on; 0: this one. */
void eg_agent_get(uint32_t node, unsigned slot, uint64_t addr, int write, uint32_t wanted)
{
    static struct eg_reader seen[1024];
    struct eg_reader *r = &seen[(slot + node * 131) % 1024];
    struct eg_area area;
    struct eg_thread *t = eg_slot_thread(eg_home.node[node], slot);
    eg_agent.asked = 1;
    if (!eg_home.node[node]->alive)
        return; /* the thread starts again elsewhere */
    if (t && !t->asked_ns) {
        t->asked_ns = eg_agent.now_ns;
        eg_near_asks(&t->shares, addr);
    }
    if (addr & (EG_PAGE_BYTES - 1) || eg_home_is_private(addr)) {
        eg_send_deny(node, slot, addr);
        return;
    }
    if (eg_freeze_keeps(addr)) {
        park(addr, 0, node, slot, write);
        return;
    }
    if (eg_spare_full(node)) {
        park(addr, eg_agent.now_ns + FULL_RETRY_NS, node, slot, write);
        return;
    }
    struct eg_dir_chunk *c = eg_chunk_find(addr);
    struct eg_dir_page *p = c ? eg_chunk_page(c, addr) : NULL;
    uint64_t page = addr / EG_PAGE_BYTES;
    if (p && p->state != EG_DIR_HOME) { /* known: it is memory that was registered, writable, and no call has changed that */
        int mine = holds(p, node + 1);
        uint32_t window = eg_ahead(r, c, page, EG_AHEAD_MAX, write && mine, mine && (!write || p->state == EG_DIR_OWNED));
        window = window < wanted ? eg_ahead_join(c, page, 1, wanted, 1) : window;
        eg_agent.absent = 0;
        eg_agent.asking = t;
        eg_agent_ask(p, page, node + 1, slot, write);
        eg_agent.asking = NULL;
        for (uint32_t i = 1; i < window && (page + i) % EG_BLOCK_PAGES && !eg_freeze_keeps(addr + i * EG_PAGE_BYTES); i++) {
            p = eg_chunk_page(c, addr + i * EG_PAGE_BYTES);
            if (!eg_agent_is_wanted(p, node + 1, write))
                break;
            eg_agent_ask(p, page + i, node + 1, EG_SLOT_NOBODY, write);
        }
        eg_grant_do();
        return;
    }
    if (eg_area_find(addr, &area) || area.shared || !area.readable || (write && !area.writable) || (area.file && area.writable)) {
        eg_send_deny(node, slot, addr);
        return;
    }
    if (!area.writable) {
        grant_fixed(node, slot, &area, addr);
        return;
    }
    uint64_t until = eg_fault_held_until(page);
    if (until) {
        park(addr, until, node, slot, write);
        return;
    }
    c = eg_chunk_get(addr);
    struct span in = watch(c, &area, addr);
    if (!in.hi) {
        eg_send_deny(node, slot, addr);
        return;
    }
    eg_far_bring(addr);
    struct looked look = {.lo = 0};
    eg_agent.absent = !is_here(&look, addr, &in);
    uint32_t n = eg_ahead(r, c, page, eg_agent.absent ? eg_spare_zeros(node) : EG_AHEAD_MAX, 0, 0), window = n;
    n = n < wanted ? eg_ahead_join(c, page, 1, wanted, 1) : n;
    struct span out = {addr, addr + (uint64_t)n * EG_PAGE_BYTES};
    out.hi = out.hi > in.hi ? in.hi : out.hi;
    if (eg_agent.absent && n < EG_ZERO_AHEAD) {
        struct span with = neighbours(c, node, addr, in);
        out.lo = wanted ? addr : with.lo; /* a thread's start knows its pages by where they begin */
        out.hi = with.hi > out.hi ? with.hi : out.hi;
    }
    uint64_t at = addr;
    while (at > out.lo && goes_along(c, at - EG_PAGE_BYTES, is_here(&look, at - EG_PAGE_BYTES, &in)))
        at -= EG_PAGE_BYTES;
    for (; at < out.hi && (at <= addr || goes_along(c, at, is_here(&look, at, &in))); at += EG_PAGE_BYTES)
        eg_agent_ask(eg_chunk_page(c, at), at / EG_PAGE_BYTES, node + 1, at == addr ? slot : EG_SLOT_NOBODY, write || eg_agent.absent);
    eg_grant_do();
    if (eg_agent.absent) /* then the next ones are a stream's, and more of them */
        eg_ahead_more(r, page, window, (uint32_t)((at - addr) / EG_PAGE_BYTES));
    eg_agent.absent = 0;
}

/* --- what comes from workers --------------------------------------------------------------------------------------------------------- */

/* From here on pages may be home's for the directory that are not there yet. */
static void answer_begins(void)
{
    eg_agent.absent = 0;
    __atomic_store_n(&eg_home.storing, 1, __ATOMIC_SEQ_CST);
}

static void answer_done(void)
{
    eg_grant_do();
    eg_grant_stores();
    __atomic_store_n(&eg_home.storing, 0, __ATOMIC_SEQ_CST);
    eg_agent.incoming = NULL;
}

/* What a memory call discards goes back to who gives it: of a call that fails it must be left, and home may not have it any more. Once all are asked to drop it, it
 * is nobody's. Returns: 0, -errno of eg_dir_given. */
static int given_page(uint32_t node, struct eg_dir_page *p, uint64_t addr, const uint8_t *data, int crossed)
{
    if (eg_dir_busy(p) || !eg_freeze_discards(addr)) {
        eg_spare_gave(node, 1);
        return eg_dir_given(&eg_home.dir, p, addr / EG_PAGE_BYTES, node + 1, data, crossed);
    }
    if (!eg_freeze_drops())
        eg_send_grant(node, (struct eg_co){.type = EG_CO_GRANT, .flags = EG_CO_F_EXCLUSIVE, .slot = EG_SLOT_NOBODY, .n = 1, .addr = addr}, data);
    return p->state == EG_DIR_OWNED && p->owner == node + 1 ? 0 : -EPROTO;
}

/* One page of an answer, or of what is given. Returns: 0, -errno of the directory. */
static int answer_page(uint32_t node, const struct eg_co *m, struct eg_dir_page *p, uint64_t addr)
{
    uint64_t page = addr / EG_PAGE_BYTES;
    if (!(m->flags & EG_CO_F_KEPT) && p->state != EG_DIR_WAIT_GONE)
        eg_spare_gave(node, 1);
    return m->type == EG_CO_ACK ? eg_dir_ack(&eg_home.dir, p, page, node + 1) : eg_dir_data(&eg_home.dir, p, page, node + 1, eg_agent.incoming);
}

static void answer(uint32_t node, const struct eg_co *m, const uint8_t *data)
{
    int rc = m->type == EG_CO_ACK || m->type == EG_CO_DATA || m->type == EG_CO_GIVEN ? 0 : -EPROTO;
    eg_home.node[node]->heard |= m->type != EG_CO_GIVEN; /* by what its main thread does: threads go on asking when that is stuck */
    if (m->type == EG_CO_ACK && m->flags & EG_CO_F_STATIC) {
        uint32_t awaited = !(m->flags & EG_CO_F_SPARE);
        if (awaited > eg_home.node[node]->n_drops || (!awaited && !eg_spare_dropped(node, m->n)))
            eg_die("a compute node does not keep to the protocol: ", eg_home.node[node]->config->text, 0);
        eg_home.pending -= awaited;
        eg_home.node[node]->n_drops -= awaited;
        return;
    }
    answer_begins();
    if (m->type != EG_CO_ACK)
        eg_lost_came(node, m->addr, m->n, data);
    int crossed = m->number != eg_home.node[node]->n_granted; /* of what is given */
    for (uint32_t i = 0; i < m->n && !rc; i++) {
        uint64_t addr = m->addr + (uint64_t)i * EG_PAGE_BYTES;
        struct eg_dir_chunk *c = eg_chunk_find(addr);
        eg_agent.incoming = data + (uint64_t)i * EG_PAGE_BYTES;
        if (!c)
            rc = -EPROTO;
        else if (m->type == EG_CO_GIVEN)
            rc = given_page(node, eg_chunk_page(c, addr), addr, eg_agent.incoming, crossed);
        else
            rc = answer_page(node, m, eg_chunk_page(c, addr), addr);
    }
    answer_done();
    if (m->type != EG_CO_ACK)
        __atomic_fetch_add(&eg_home.node[node]->config->pages_taken, m->n, __ATOMIC_RELAXED);
    if (rc == -ENOSPC)
        eg_die("internal error: the directory's lines are full", NULL, 0);
    if (rc)
        eg_die("a compute node does not keep to the protocol: ", eg_home.node[node]->config->text, 0);
}

void eg_agent_answer(struct eg_dir_page *p, uint64_t page, uint32_t node, const uint8_t *data)
{
    eg_agent.incoming = data;
    answer_begins();
    if (data ? eg_dir_data(&eg_home.dir, p, page, node + 1, data) : eg_dir_ack(&eg_home.dir, p, page, node + 1))
        eg_home_lost(node);
    answer_done();
}

/* A thread is on its way home: what it will use there comes, too, as if it had asked. */
static void leaves(const struct eg_co *m)
{
    uint64_t hi = m->addr + m->n * EG_PAGE_BYTES;
    struct eg_dir_chunk *c;
    if (m->addr % EG_PAGE_BYTES)
        return;
    hi = hi < EG_USER_END ? hi : EG_USER_END; /* a stack pointer may be anything */
    eg_agent.absent = 0;
    for (uint64_t at = m->addr, end; (c = eg_chunk_next(&at, hi, &end));)
        for (; at < end; at += EG_PAGE_BYTES)
            bring(eg_chunk_page(c, at), at);
    eg_grant_do();
    eg_grant_stores();
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
    uint64_t at = 0;
    while (n->alive && n->in_end - at >= sizeof(struct eg_co)) {
        struct eg_co m;
        memcpy(&m, n->in + at, sizeof m);
        uint64_t payload = eg_co_payload_bytes(&m);
        if (m.type >= EG_CO_GRANT || (m.n > EG_CO_MAX_PAGES && m.type != EG_CO_SLEPT && !(m.type == EG_CO_ACK && m.flags & EG_CO_F_STATIC)))
            eg_die("a compute node does not keep to the protocol: ", n->config->text, 0);
        if (n->in_end - at < sizeof m + payload)
            break;
        const uint8_t *data = n->in + at + sizeof m;
        at += sizeof m + payload;
        if (m.took_ns && (m.type == EG_CO_GET_SHARED || m.type == EG_CO_GET_EXCLUSIVE)) {
            struct eg_thread *t = eg_slot_thread(n, m.slot);
            eg_account_time(eg_rt.row->coherent_fault_hist, m.took_ns);
            if (t && t->shares.last)
                t->shares.waited_ns += m.took_ns;
        }
        switch (m.type) {
        case EG_CO_GET_SHARED:
        case EG_CO_GET_EXCLUSIVE: eg_agent_get(k, m.slot, m.addr, m.type == EG_CO_GET_EXCLUSIVE, 0); break;
        case EG_CO_COVER: eg_sleep_cover(k, m.slot, m.addr); break;
        case EG_CO_PASS: eg_sleep_pass(k, m.addr); break;
        case EG_CO_LEAVES: leaves(&m); break;
        case EG_CO_SLEPT: eg_sleep_slept(k, m.slot, m.n, m.flags & EG_CO_F_KEPT); break;
        default: answer(k, &m, data);
        }
    }
    memmove(n->in, n->in + at, n->in_end - at);
    n->in_end -= at;
    return 1;
}

/* --- its turns -------------------------------------------------------------------------------------------------------------------------- */

static uint64_t parked_turn(void)
{
    uint64_t due = 0;
    for (uint32_t i = 0; i < eg_home.n_parked;) {
        struct eg_parked p = eg_home.parked[i];
        if (p.due_ns && p.due_ns <= eg_agent.now_ns) {
            eg_home.parked[i] = eg_home.parked[--eg_home.n_parked];
            eg_agent_get(p.node, p.slot, p.addr, p.write, 0);
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
    int due = eg_agent.now_ns >= next_ns, needed = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++) {
        struct eg_node *n = eg_home.node[k];
        int needs = n->alive && (n->n_held || __atomic_load_n(&n->n_threads, __ATOMIC_RELAXED));
        needed |= needs;
        if (!needs || n->heard)
            n->n_silent = 0;
        else if (due && ++n->n_silent > PULSES)
            eg_lost_node(k);
        else if (due)
            eg_send_say(k, EG_CO_DROP, EG_CO_F_SPARE, EG_SLOT_NOBODY, 0, EG_USER_START);
        n->heard = due ? 0 : n->heard;
    }
    if (due)
        next_ns = eg_agent.now_ns + eg_home.pulse_ms * 1000000ull;
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
            eg_near_kick(t, t->node, t->slot);
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
        t->slept_percent = 0; /* what the node that it comes from said of it is over */
        memcpy(run, t->pushed, sizeof run);
        __atomic_store_n(&t->n_pushed, 0, __ATOMIC_RELEASE); /* once it has the last one, it may go out again */
        for (uint32_t k = 0; k < n; k++)
            eg_agent_get(node, slot, run[k].addr, 1, run[k].n_pages);
    }
    return 1;
}

/* --- the thread -------------------------------------------------------------------------------------------------------------------------- */

void eg_home_load_look(uint64_t now_ns)
{
    uint64_t due_ns = __atomic_load_n(&eg_home.load_due_ns, __ATOMIC_RELAXED);
    if (now_ns < due_ns || !__atomic_compare_exchange_n(&eg_home.load_due_ns, &due_ns, now_ns + LOAD_EVERY_NS, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return;
    eg_home.running = eg_load_running(eg_home.load_fd);
    if (eg_home.running <= eg_home.n_processors)
        eg_home.loaded = 0;
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
        eg_agent.now_ns = eg_sys_now_ns();
        eg_near_turn();
        int work = 0;
        __atomic_fetch_add(&eg_rt.turns, 1, __ATOMIC_SEQ_CST);
        eg_freeze_look();
        agent_lock();
        long got = eg_sys3(SYS_read, eg_rt.uffd, m, sizeof m);
        for (long k = 0; k < got / (long)sizeof *m; k++)
            if (m[k].event == UFFD_EVENT_PAGEFAULT) {
                work = 1;
                eg_fault_home(&m[k]);
            }
        for (uint32_t k = 0; k < eg_home.n_nodes; k++)
            work |= node_turn(k);
        work |= pushes_turn() | eg_sleep_turn() | eg_freeze_turn();
        uint64_t due = eg_home.n_parked ? parked_turn() : 0;
        uint64_t pulse = pulse_turn();
        due = !due || (pulse && pulse < due) ? pulse : due;
        uint64_t quiet = eg_quiet_turn(&work);
        due = !due || (quiet && quiet < due) ? quiet : due;
        uint64_t look = eg_cap_look_alive();
        if (look && (!due || eg_agent.now_ns + look < due))
            due = eg_agent.now_ns + look;
        kicks_turn();
        work |= eg_lost_turn();
        int more = eg_home.far && eg_rt.active ? eg_pager_turn(work) | eg_far_reclaim() : 0;
        more |= eg_spare_turn();
        eg_grant_recalls();
        for (uint32_t k = 0; k < eg_home.n_nodes; k++)
            eg_send_flush(k);
        if (more && !work && eg_rt.outstanding)
            eg_pager_poll(); /* gives the processor away when nothing has come for a while */
        agent_unlock();
        if (work || more) {
            spin.begun_ns = 0;
            eg_home_load_look(eg_agent.now_ns);
            eg_home.loaded = eg_home.running > eg_home.n_processors;
            continue;
        }
        if (eg_spin_turn(&spin, eg_home.loaded ? 0 : SPIN_NS))
            continue;
        __atomic_store_n(&eg_home.agent_asleep, 1, __ATOMIC_SEQ_CST);
        if (!eg_freeze_due() && !__atomic_load_n(&eg_home.kicks, __ATOMIC_SEQ_CST) && !__atomic_load_n(&eg_home.pushes, __ATOMIC_SEQ_CST) &&
            !__atomic_load_n(&eg_home.fired, __ATOMIC_SEQ_CST) && !eg_quiet_due()) {
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
            uint64_t wait_ns = due > eg_agent.now_ns ? due - eg_agent.now_ns : 1;
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
