/* near.c - who is near whom: threads go to the node that has what they want, come home when being away does not pay, and visit. */
#include "client/threads/eg_agent.h"

#define NEAR_ASKED 60u     /* requests after which a thread's place is looked at */
#define NEAR_PERCENT 25u   /* of them that one other node had to give something up for */
#define NEAR_PAUSE_NS 100000000u
#define BUSY_EVERY_NS 20000000u
#define LIGHT_PERCENT 50u  /* of its time a thread runs that fits in beside those that have the slots */
#define VISIT_ASKED 50u /* faults of a thread at home, within this time, on what nodes have */
#define VISIT_WITHIN_NS 65000000u
#define VISIT_STALE_NS 200000000u
#define SUMMON_NS 5000000u /* it has made no call since by which it could go */
#define SHARES_ASKED 10u   /* so many requests say something, if they took this time */
#define SHARES_WITHIN_NS 20000000u
#define SHARES_PERCENT 40u /* of its time a thread waits for a few pages that others have: it belongs with them, slot or no slot */
#define ALONE_PERCENT 10u  /* and one that waits less, or computes, can be anywhere */
#define ALONE_NS 500000000u
#define SPREAD_PART 10u    /* such a part of a processor it must have more there */
#define GET_COST_NS 40000u /* of a request for a page, beside the time that it waits here */

void eg_near_kick(struct eg_thread *t, uint32_t k, unsigned slot)
{
    eg_send_say(k, EG_CO_KICK, 0, slot, 1, __atomic_load_n(&t->tid, __ATOMIC_RELAXED));
    __atomic_store_n(&t->kick, 2, __ATOMIC_RELEASE);
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

#define WHOLE 10000u
/* Parts of a processor, in WHOLE of one, that a thread has there if so many more percent are wanted. */
static uint32_t part(uint32_t node, const struct eg_thread *but, uint32_t more_percent)
{
    uint32_t wanted = load(node, but) + more_percent, room = eg_home.node[node]->config->slots * 100;
    return wanted <= room ? WHOLE : (uint32_t)((uint64_t)room * WHOLE / wanted);
}

/* Would a thread do well on the node, which waits for the pages of others for so much of its time? As long as there is a slot for it; and when there
 * is none, if its part of one is more than what it has now. t NULL: one of home's. */
static int fits(uint32_t node, const struct eg_thread *t, uint32_t shares_percent)
{
    uint32_t there = load(node, t), room = eg_home.node[node]->config->slots * 100;
    if (there < (t && t->busy_percent < LIGHT_PERCENT ? 2 * room : t ? room : room + 100))
        return 1;
    return shares_percent >= SHARES_PERCENT && part(node, t, 100) > (t ? part(t->node, NULL, 0) : WHOLE) * (100 - shares_percent) / 100;
}

void eg_near_asks(struct eg_shares *s, uint64_t addr)
{
    for (uint32_t i = 0; i < sizeof s->page / sizeof *s->page; i++)
        if (s->page[i] == addr) {
            s->again++;
            s->n++;
            return;
        }
    s->page[s->n++ % (sizeof s->page / sizeof *s->page)] = addr;
}

static uint32_t waits_percent(const struct eg_shares *s)
{
    uint64_t since_ns = eg_agent.now_ns - s->since_ns;
    return s->waited_ns < since_ns ? (uint32_t)(s->waited_ns * 100 / since_ns) : 100;
}

/* For how much of its time does it wait for a few pages, which it loses again and again? 0: it asks for others all the time, or too little is known. */
static uint32_t shares_percent(const struct eg_shares *s)
{
    if (s->n < SHARES_ASKED || (s->n < NEAR_ASKED && eg_agent.now_ns - s->since_ns < SHARES_WITHIN_NS) || s->again * 2 < s->n)
        return 0;
    return waits_percent(s);
}

static void shares_anew(struct eg_shares *s)
{
    memset(s->from, 0, sizeof s->from);
    s->n = s->again = 0;
    s->waited_ns = 0;
    s->since_ns = eg_agent.now_ns;
}

static void move(struct eg_thread *t, uint32_t to)
{
    t->moved_ns = eg_agent.now_ns;
    __atomic_store_n(&t->move_to, to + 1, __ATOMIC_RELEASE);
    eg_near_kick(t, t->node, t->slot);
}

/* What threads leave behind is fetched page by page: of two nodes they meet on the one that has more. */
static int has_more(uint32_t a, uint32_t b)
{
    uint64_t of_a = eg_home.node[a]->n_held, of_b = eg_home.node[b]->n_held;
    return of_a > of_b || (of_a == of_b && a < b);
}

/* Most of what it wants lies on another node, and it fits in there: it goes, unless more of them are here, who would come to it. Those that wait count,
 * too, but for the slot: who shares waits often. Who waits nearly always needs none. */
static void nearer(struct eg_thread *t)
{
    struct eg_shares *s = &t->shares;
    uint32_t shares = shares_percent(s), best = 0, k = t->node;
    if (s->n < NEAR_ASKED && shares < SHARES_PERCENT)
        return;
    for (uint32_t i = 1; i < eg_home.n_nodes; i++)
        best = s->from[i] > s->from[best] ? i : best;
    int much = s->from[best] > s->n * NEAR_PERCENT / 100;
    shares_anew(s);
    if (!much || best == k || t->kick || !eg_home.node[best]->alive || eg_agent.now_ns - t->moved_ns < NEAR_PAUSE_NS)
        return;
    uint32_t here = staying(k, t), there = staying(best, t);
    if (!fits(best, t, shares) || there < here || (there == here && !has_more(best, k)))
        return;
    if (shares >= SHARES_PERCENT)
        eg_while_again(&eg_home.together);
    if (t->spread) /* in vain: what it works on is shared now and then */
        eg_while_again(&t->stays);
    t->spread = 0;
    move(t, best);
}

/* Nodes on home's machine have the same processors: what one has too much to run has no more room on another. (Two on one other machine, too, but that is not known.) */
static int share_processors(uint32_t a, uint32_t b)
{
    return !((eg_home.node[a]->config->flags | eg_home.node[b]->config->flags) & EG_HELLO_OTHER_CLOCK);
}

/* A node has more to run than slots, and another one has more room: a thread that shares little goes there. (One that spins asks for little, too: not while
 * some are seen that share.) */
static void spread(void)
{
    static uint64_t last_ns;
    uint32_t n = eg_home.n_nodes, from = n, to = n, least = WHOLE, most = 0;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t has = eg_home.node[k] && eg_home.node[k]->alive ? part(k, NULL, 0) : WHOLE;
        from = has < least ? k : from;
        least = has < least ? has : least;
    }
    for (uint32_t k = 0; k < n && from < n; k++) {
        uint32_t would_have = eg_node_takes(eg_home.node[k]) && !share_processors(from, k) ? part(k, NULL, 100) : 0;
        to = would_have > most ? k : to;
        most = would_have > most ? would_have : most;
    }
    int wanted = most > least + WHOLE / SPREAD_PART && eg_agent.now_ns - last_ns > NEAR_PAUSE_NS && !eg_while_is(&eg_home.together);
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        struct eg_thread *t = eg_home.thread[i];
        if (t->where != EG_AWAY || eg_agent.now_ns - t->shares.since_ns < ALONE_NS)
            continue;
        if (wanted && t->node == from && t->busy_percent > LIGHT_PERCENT && !t->kick && !t->visits && __atomic_load_n(&t->tid, __ATOMIC_RELAXED) &&
            waits_percent(&t->shares) < ALONE_PERCENT && eg_agent.now_ns - t->moved_ns > ALONE_NS && !eg_while_is(&t->stays)) {
            wanted = 0;
            last_ns = eg_agent.now_ns;
            t->spread = 1;
            move(t, to);
        }
        shares_anew(&t->shares);
    }
}

/* How much each thread runs: what it does not spend in calls, waiting for pages counts as running. */
void eg_near_turn(void)
{
    static uint64_t last_ns;
    if (eg_agent.now_ns - last_ns < BUSY_EVERY_NS)
        return;
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        struct eg_thread *t = eg_home.thread[i];
        uint64_t since = __atomic_load_n(&t->call_since_ns, __ATOMIC_RELAXED), idle = __atomic_load_n(&t->idle_ns, __ATOMIC_RELAXED);
        idle += since && since < eg_agent.now_ns ? eg_agent.now_ns - since : 0;
        uint64_t more = idle > t->seen_idle_ns ? (idle - t->seen_idle_ns) * 100 / (eg_agent.now_ns - last_ns) : 0;
        more += eg_sleep_percent(t);
        t->busy_percent = more < 100 ? 100 - (uint32_t)more : 0;
        t->seen_idle_ns = idle;
    }
    last_ns = eg_agent.now_ns;
    spread();
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
    uint32_t tid;
    struct eg_shares shares;
} sharers[64];

static int may_visit(uint32_t tid, uint32_t k, uint32_t shares_percent)
{
    const struct eg_node *n = eg_home.node[k];
    const struct eg_thread *t = eg_home_thread(tid);
    if (!eg_node_takes(n) || !__atomic_load_n(&n->n_threads, __ATOMIC_RELAXED) || !fits(k, NULL, shares_percent))
        return 0;
    return t ? t->where != EG_AWAY && !t->starting && eg_agent.now_ns >= __atomic_load_n(&t->stay_until_ns, __ATOMIC_RELAXED) : tid == eg_rt.pid;
}

/* The thread that is away, and for which this one makes a call; NULL. */
static struct eg_thread *caller(uint32_t tid)
{
    struct eg_thread *t = eg_home_thread(tid);
    return t && t->where == EG_AWAY && __atomic_load_n(&t->in_call, __ATOMIC_RELAXED) ? t : NULL;
}

/* A thread at home wants what node k has. If it is so most of the time, it should be there: it goes from its next futex call, or, when it makes none, from where
 * it waits for a page. A call for one that is away counts for that one. */
void eg_near_visit(uint32_t tid, uint32_t k, uint64_t addr)
{
    static uint64_t asked_ns;
    static int summoned;
    struct eg_shares *s = &sharers[tid % 64].shares;
    struct eg_thread *t = caller(tid);
    if (t) {
        eg_near_asks(&t->shares, addr);
        if (k != t->node)
            t->shares.from[k]++;
        nearer(t);
        return;
    }
    if (eg_rt.pool->threads_mode != EG_THREADS_REMOTE)
        return;
    uint64_t visit = __atomic_load_n(&eg_home.visit, __ATOMIC_RELAXED);
    if (visit >> 32 == tid && !summoned && eg_agent.now_ns - asked_ns > SUMMON_NS)
        summoned = eg_summon(tid);
    if (sharers[tid % 64].tid != tid || eg_agent.now_ns - s->since_ns > VISIT_WITHIN_NS) {
        sharers[tid % 64].tid = tid;
        shares_anew(s);
    }
    eg_near_asks(s, addr);
    s->from[k]++;
    uint32_t shares = shares_percent(s), n = s->n, of_k = s->from[k];
    if (n < VISIT_ASKED && shares < SHARES_PERCENT)
        return;
    shares_anew(s);
    if (shares >= SHARES_PERCENT)
        eg_while_again(&eg_home.together);
    if (of_k * 2 <= n || !may_visit(tid, k, shares) || (visit && eg_agent.now_ns - asked_ns < VISIT_STALE_NS))
        return;
    asked_ns = eg_agent.now_ns;
    summoned = 0;
    __atomic_store_n(&eg_home.visit, (uint64_t)tid << 32 | (k + 1), __ATOMIC_RELEASE);
}

/* What home's threads wait for a node's pages costs, too; whose pages they were is not known: all that are there have a part of it. */
static void costs_home(uint32_t k, uint64_t ns)
{
    uint32_t n = __atomic_load_n(&eg_home.node[k]->n_threads, __ATOMIC_RELAXED);
    for (uint32_t i = 0; n && i < eg_home.n_threads; i++) {
        struct eg_thread *t = eg_home.thread[i];
        if (t->where == EG_AWAY && t->node == k && __atomic_load_n(&t->tid, __ATOMIC_RELAXED))
            __atomic_fetch_add(&t->cost_ns, ns / n, __ATOMIC_RELAXED);
    }
}

void eg_near_waited(uint32_t tid, unsigned by, uint64_t ns)
{
    ns += GET_COST_NS;
    if (sharers[tid % 64].tid == tid)
        sharers[tid % 64].shares.waited_ns += ns;
    if (by && eg_rt.pool->threads_mode == EG_THREADS_AUTO) {
        const struct eg_thread *t = eg_home_thread(tid);
        if (!t || !t->ends) /* its own end has been counted */
            costs_home(by - 1, ns);
    }
}

void eg_near_answered(struct eg_thread *t, uint32_t k, unsigned slot)
{
    if (!t->asked_ns)
        return;
    uint64_t took = eg_agent.now_ns - t->asked_ns + GET_COST_NS;
    t->asked_ns = 0;
    t->shares.last = took > GET_COST_NS;
    nearer(t);
    if (!t->kick && visits_nobody(t))
        eg_near_kick(t, k, slot);
    __atomic_fetch_add(&t->cost_ns, took, __ATOMIC_RELAXED);
    if (t->kick || eg_home_pays(t))
        return;
    eg_while_again(&eg_home.stay);
    eg_near_kick(t, k, slot);
}
