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
#define GET_COST_NS 40000u /* of a request for a page, beside the time that it waits here */

void eg_near_kick(struct eg_thread *t, uint32_t k, unsigned slot)
{
    eg_send_say(k, EG_CO_KICK, 0, slot, 1, __atomic_load_n(&t->tid, __ATOMIC_RELAXED));
    __atomic_store_n(&t->kick, 2, __ATOMIC_RELEASE);
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
        idle += t->slept_since_ns && t->slept_since_ns < eg_agent.now_ns ? eg_agent.now_ns - t->slept_since_ns : 0;
        uint64_t more = idle > t->seen_idle_ns ? (idle - t->seen_idle_ns) * 100 / (eg_agent.now_ns - last_ns) : 0;
        t->busy_percent = more < 100 ? 100 - (uint32_t)more : 0;
        t->seen_idle_ns = idle;
    }
    last_ns = eg_agent.now_ns;
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
    if (!much || best == k || t->kick || !eg_home.node[best]->alive || eg_agent.now_ns - t->moved_ns < NEAR_PAUSE_NS)
        return;
    uint32_t here = staying(k, t), there = staying(best, t), room = eg_home.node[best]->config->slots * 100;
    if (load(best, t) >= (t->busy_percent < LIGHT_PERCENT ? 2 * room : room) || there < here || (there == here && best > k))
        return;
    t->moved_ns = eg_agent.now_ns;
    __atomic_store_n(&t->move_to, best + 1, __ATOMIC_RELEASE);
    eg_near_kick(t, k, slot);
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
    return t ? t->where != EG_AWAY && !t->starting && eg_agent.now_ns >= __atomic_load_n(&t->stay_until_ns, __ATOMIC_RELAXED) : tid == eg_rt.pid;
}

/* The thread that is away, and for which this one makes a call; NULL. */
static struct eg_thread *caller(uint32_t tid)
{
    struct eg_thread *t = eg_home_thread(tid);
    return t && t->where == EG_AWAY && __atomic_load_n(&t->in_call, __ATOMIC_RELAXED) ? t : NULL;
}

/* A thread at home wants what node k has. If it is so most of the time, it should be there: it goes from its next futex call. A call for one that is
 * away counts for that one. */
void eg_near_visit(uint32_t tid, uint32_t k)
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
    if (sharers[i].tid != tid || eg_agent.now_ns - sharers[i].since_ns > VISIT_WITHIN_NS) {
        memset(&sharers[i], 0, sizeof sharers[i]);
        sharers[i].tid = tid;
        sharers[i].since_ns = eg_agent.now_ns;
    }
    sharers[i].from[k]++;
    if (++sharers[i].n < VISIT_ASKED)
        return;
    sharers[i].tid = 0;
    if (sharers[i].from[k] <= VISIT_ASKED / 2 || !may_visit(tid, k) ||
        (__atomic_load_n(&eg_home.visit, __ATOMIC_RELAXED) && eg_agent.now_ns - asked_ns < VISIT_STALE_NS))
        return;
    asked_ns = eg_agent.now_ns;
    __atomic_store_n(&eg_home.visit, (uint64_t)tid << 32 | (k + 1), __ATOMIC_RELEASE);
}

void eg_near_answered(struct eg_thread *t, uint32_t k, unsigned slot)
{
    if (!t->asked_ns)
        return;
    uint64_t took = eg_agent.now_ns - t->asked_ns + GET_COST_NS;
    t->asked_ns = 0;
    nearer(t, k, slot);
    if (!t->kick && visits_nobody(t))
        eg_near_kick(t, k, slot);
    __atomic_fetch_add(&t->cost_ns, took, __ATOMIC_RELAXED);
    if (t->kick || eg_home_pays(t))
        return;
    eg_home_costly();
    eg_near_kick(t, k, slot);
}
