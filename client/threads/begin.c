/* begin.c - the beginning of a thread away from home: a clone, or a visit; which node it goes to, and whether that pays. */
#include "client/threads/eg_proxy.h"

#include "client/gate/eg_gate.h"
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>

/* --threads auto: a thread that is away comes home when more than so much of its time went into being away. A node on this very machine has no
 * processors of its own to offer for it. */
#define COST_MOST_PERCENT 10u
#define COST_MOST_HERE_PERCENT 3u
#define COST_SMALL_NS 3000000u
#define START_COST_NS 200000u /* of its end, and its way back */
#define WHILE_NS 500000000u
#define WHILE_MAX_NS 60000000000u
#define CLONE3_BYTES 88 /* what is known of them */
#define LIBC_FLAGS ((uint64_t)(CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_SYSVSEM)) /* of a thread that libc begins */

enum eg_clones eg_home_clones(long nr, const long arg[6])
{
    struct eg_clone_args a;
    const uint64_t need = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FILES; /* its streams are descriptors that the agent has, too */
    if (nr == SYS_fork)
        return EG_CLONES_PROCESS;
    if (nr == SYS_vfork || !eg_clone_args_read(nr, arg, &a) || (nr == SYS_clone3 && (size_t)arg[1] > CLONE3_BYTES))
        return EG_CLONES_IN_PLACE;
    if (!(a.flags & CLONE_VM))
        return !(a.flags & CLONE_FILES) ? EG_CLONES_PROCESS : eg_home.active || eg_rt.active ? EG_CLONES_REFUSED : EG_CLONES_APART;
    if ((a.flags & need) == need && eg_clone_stack(&a) && !(a.flags & (CLONE_VFORK | CLONE_PIDFD | CLONE_CHILD_SETTID)) && a.flags >> 32 == 0)
        return EG_CLONES_THREAD;
    return EG_CLONES_IN_PLACE;
}

void eg_while_again(struct eg_while *w)
{
    uint64_t now = eg_sys_now_ns(), ns = __atomic_load_n(&w->for_ns, __ATOMIC_RELAXED) * 2;
    ns = ns < WHILE_NS ? WHILE_NS : ns > WHILE_MAX_NS ? WHILE_MAX_NS : ns;
    if (now < __atomic_load_n(&w->until_ns, __ATOMIC_RELAXED))
        return; /* one of several that were seen together */
    __atomic_store_n(&w->for_ns, ns, __ATOMIC_RELAXED);
    __atomic_store_n(&w->until_ns, now + ns, __ATOMIC_RELAXED);
}

int eg_while_is(const struct eg_while *w)
{
    return eg_sys_now_ns() < __atomic_load_n(&w->until_ns, __ATOMIC_RELAXED);
}

/* Threads that share go where most are; who turns out to share little moves on (near.c). Returns: that node, -1. */
static int place_together(void)
{
    int best = -1;
    if (!eg_while_is(&eg_home.together))
        return -1;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++)
        if (eg_node_takes(eg_home.node[k]) && eg_home.node[k]->n_threads && (best < 0 || eg_home.node[k]->n_threads > eg_home.node[best]->n_threads))
            best = (int)k;
    return best;
}

/* The node with the fewest threads for its slots; of several, the one that has the new thread's stack from its last user, else they take turns. */
int eg_home_place(uint64_t stack)
{
    uint32_t n = eg_home.n_nodes, best = n;
    int near = eg_home_owner(stack - EG_PAGE_BYTES), together = place_together();
    if (together >= 0)
        return together;
    if (near >= 0 && (uint32_t)near < n)
        eg_home.next_node = (uint32_t)near;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = (eg_home.next_node + i) % n;
        const struct eg_node *x = eg_home.node[k], *y = best < n ? eg_home.node[best] : NULL;
        if (eg_node_takes(x) && (!y || (uint64_t)x->n_threads * y->config->slots < (uint64_t)y->n_threads * x->config->slots))
            best = k;
    }
    eg_home.next_node = best + 1;
    return best < n ? (int)best : -1;
}

/* auto: as many threads stay as there are processors here, the first one among them. */
static int goes_out(void)
{
    uint32_t here = 1;
    if (eg_rt.pool->threads_mode != EG_THREADS_AUTO)
        return eg_rt.pool->threads_mode == EG_THREADS_REMOTE;
    if (eg_while_is(&eg_home.stay))
        return 0;
    uint32_t processors = eg_sys_bits(eg_rt.affinity, sizeof eg_rt.affinity / sizeof *eg_rt.affinity);
    for (uint32_t i = 0; i < eg_home.n_threads; i++)
        here += eg_home.thread[i]->tid && eg_home.thread[i]->where == EG_AT_HOME && !eg_home.thread[i]->starting;
    return here >= processors;
}

static uint64_t cost_most_percent(const struct eg_thread *t)
{
    return eg_home.node[t->node]->config->flags & EG_HELLO_OTHER_CLOCK ? COST_MOST_PERCENT : COST_MOST_HERE_PERCENT;
}

int eg_home_pays(const struct eg_thread *t)
{
    uint64_t cost = __atomic_load_n(&t->cost_ns, __ATOMIC_RELAXED);
    if (eg_rt.pool->threads_mode != EG_THREADS_AUTO || cost < COST_SMALL_NS)
        return 1;
    return cost < (eg_sys_now_ns() - t->start_ns) / 100 * cost_most_percent(t);
}

/* Each of them may be too short for eg_home_pays to say anything: what they cost together does. */
void eg_home_ended(const struct eg_thread *t)
{
    static uint64_t cost_ns, life_ns;
    if (eg_rt.pool->threads_mode != EG_THREADS_AUTO)
        return;
    eg_lock_take(&eg_home.start_lock);
    cost_ns += t->out_ns - t->start_ns + START_COST_NS + __atomic_load_n(&t->cost_ns, __ATOMIC_RELAXED);
    life_ns += eg_sys_now_ns() - t->start_ns;
    if (cost_ns >= COST_SMALL_NS) {
        if (cost_ns > life_ns / 100 * cost_most_percent(t))
            eg_while_again(&eg_home.stay);
        cost_ns = life_ns = 0;
    }
    eg_lock_give(&eg_home.start_lock);
}

/* A thread that is to be on a node soon: nothing is known of what it costs there. */
static void begun(struct eg_thread *t)
{
    t->kick = t->kick_signal = t->move_to = t->in_call = 0;
    t->call_since_ns = 0;
    t->busy_percent = 100;
    t->start_ns = t->out_ns = eg_sys_now_ns();
    t->moved_ns = t->cost_ns = 0;
    t->stays = (struct eg_while){.for_ns = WHILE_NS};
    t->spread = 0;
    t->ends = 0;
    memset(&t->shares, 0, sizeof t->shares);
    t->shares.since_ns = t->start_ns;
}

struct eg_thread *eg_home_visitor(void)
{
    uint64_t visit = __atomic_load_n(&eg_home.visit, __ATOMIC_ACQUIRE), all = ~0ull, old;
    uint32_t tid = (uint32_t)eg_sys0(SYS_gettid), node = (uint32_t)visit - 1;
    if (visit >> 32 != tid || node >= eg_home.n_nodes || eg_is_realtime(eg_sys1(SYS_sched_getscheduler, 0)) || /* a node would run it like any other */
        !__atomic_compare_exchange_n(&eg_home.visit, &visit, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return NULL;
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
    struct eg_thread *t = eg_home_thread(tid);
    if (!t && tid == eg_rt.pid && (t = eg_proxy_slot())) { /* the process's first thread */
        t->robust = t->stay_ns = t->stay_until_ns = t->starting = 0;
        t->where = EG_AT_HOME;
        int rc = (int)eg_sys5(SYS_prctl, PR_GET_TID_ADDRESS, &t->clear_tid, 0, 0, 0);
        __atomic_store_n(&t->tid, rc ? 0 : tid, __ATOMIC_RELEASE);
        if (rc)
            t = NULL;
        else
            eg_sys1(SYS_set_tid_address, &t->tid);
    }
    if (t) {
        begun(t);
        t->node = node;
        t->n_pushed = 0;
        t->visit_ns = t->start_ns;
        t->visits = 1;
        eg_node_gets(eg_home.node[node]);
    }
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
    return t;
}

long eg_home_clone(long nr, const long arg[6], const struct eg_thread_state *state, const uint8_t *xstate, uint64_t mask, uint32_t below)
{
    struct eg_clone_args a;
    if (!eg_clone_args_read(nr, arg, &a))
        return -EFAULT;
    uint64_t stack = eg_clone_stack(&a);
    eg_lock_take(&eg_home.start_lock);
    int rc = goes_out() ? eg_home_activate() : 1, node = -1;
    if (rc < 0) {
        eg_warn_once(EG_WARN_ACTIVATE, "threads stay here: no compute node can be used", NULL);
        eg_rt.pool->threads_mode = EG_THREADS_HOME;
    }
    if (rc == 0)
        node = eg_home_place(stack);
    eg_lock_give(&eg_home.start_lock);
    struct eg_thread *t = eg_proxy_slot();
    if (!t)
        return -EAGAIN;
    t->state = *state;
    t->state.rsp = stack - below;
    t->state.rax = 0;
    t->state.gs_base = 0;
    t->state.fs_base = a.tls;
    if (!(a.flags & CLONE_SETTLS)) /* its maker's, who is who calls, or whose proxy that is */
        eg_sys2(SYS_arch_prctl, ARCH_GET_FS, &t->state.fs_base);
    if (xstate && state->xstate_bytes)
        memcpy(t->xstate, xstate, state->xstate_bytes);
    else
        t->state.xstate_bytes = 0;
    t->mask = mask;
    t->robust = 0;
    t->clear_tid = a.flags & CLONE_CHILD_CLEARTID ? a.child_tid : 0;
    /* libc's own beginning is a few calls that only home can make: such a thread goes out after them. */
    t->starting = node >= 0 && eg_gate_start && (a.flags & LIBC_FLAGS) == LIBC_FLAGS;
    t->where = node >= 0 && !t->starting ? EG_AWAY : EG_AT_HOME;
    t->node = node >= 0 ? (uint32_t)node : 0;
    t->fd = t->signal_fd = -1;
    t->visits = 0;
    t->stay_ns = t->stay_until_ns = 0;
    begun(t);
    eg_view_inherit(&t->view);
    if (node >= 0)
        eg_node_gets(eg_home.node[node]);
    long flags = (long)(a.flags & ~(uint64_t)(CLONE_CHILD_CLEARTID | CLONE_DETACHED)) | CLONE_SETTLS;
    long tid = eg_thread_clone(flags, (uint8_t *)t + EG_THREAD_BYTES, (long)a.parent_tid, 0, (long)t->state.fs_base, eg_proxy_main, t);
    uint32_t taken = 1; /* the thread itself may be slower than a call about it */
    if (!eg_sys_failed(tid))
        __atomic_compare_exchange_n(&t->tid, &taken, (uint32_t)tid, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (eg_sys_failed(tid)) {
        if (node >= 0)
            eg_node_loses(eg_home.node[node]);
        __atomic_store_n(&t->tid, 0, __ATOMIC_RELEASE);
    }
    return tid;
}
