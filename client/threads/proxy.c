/* proxy.c - the home end of a thread that is away: it starts the thread on a node, has its system calls made
 * (call.c), and takes it back.
 *
 * A proxy is the program's own thread, made by the program's own clone, on a stack of the runtime's and with every signal blocked. While it
 * makes a call it stands on the program's stack under the program's mask (eg_thread_call), so a handler that runs then runs where it
 * would have, and may even jump away: the thread is at home from then on. A signal that comes while the thread computes is seen through a
 * signalfd; the thread is asked home, and the kernel delivers the signal there. Going home is also the answer to all that a node cannot do. */
#include "client/threads/eg_proxy.h"

#include "client/pager/eg_pager.h"

#include <errno.h>
#include <linux/prctl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#define SPIN_TURNS 30
#define STACK_SOON 512u      /* of the stack, and of the thread's control block, are used at once */
#define VISIT_STAY_NS 20000000u /* between two visits; twice as long after a short one */
#define VISIT_STAY_MAX_NS 30000000000u
#define HEAD_BYTES ((sizeof(struct eg_thread) + 4095) & ~4095ul)

_Static_assert(__builtin_offsetof(struct eg_thread, caller) == 8 && __builtin_offsetof(struct eg_thread, mask) == 72 &&
                   __builtin_offsetof(struct eg_thread, nr) == 80 && __builtin_offsetof(struct eg_thread, arg) == 88 &&
                   __builtin_offsetof(struct eg_thread, ret) == 136 && __builtin_offsetof(struct eg_thread, tid) == 144,
               "threads.S has these numbers");
_Static_assert(HEAD_BYTES + (32u << 10) <= EG_THREAD_BYTES, "room for the proxy's stack");

/* A visit is over. */
static void visit_end(struct eg_thread *t)
{
    uint64_t now = eg_sys_now_ns(), stay = now - t->visit_ns > 8 * t->stay_ns ? VISIT_STAY_NS : t->stay_ns * 2;
    t->visits = 0;
    t->stay_ns = stay < VISIT_STAY_MAX_NS ? stay : VISIT_STAY_MAX_NS;
    __atomic_store_n(&t->stay_until_ns, now + t->stay_ns, __ATOMIC_RELAXED);
}

void eg_proxy_home(struct eg_thread *t)
{
    struct eg_frame_stack alt = {0};
    if (t->visits)
        visit_end(t);
    eg_sys2(SYS_sigaltstack, 0, &alt); /* the program's: its calls were made here */
    alt.flags &= 2 /* SS_DISABLE */;
    t->where = EG_AT_HOME;
    eg_home_robust_on(t->robust); /* the kernel's again: it sees to what processes share when this one ends */
    t->robust = 0;
    eg_sys2(SYS_arch_prctl, ARCH_SET_FS, t->state.fs_base);
    if (t->state.gs_base)
        eg_sys2(SYS_arch_prctl, ARCH_SET_GS, t->state.gs_base);
    void *sp = eg_frame_build(t->frame + sizeof t->frame, &t->state, t->xstate, t->mask, &alt);
    eg_frame_return(sp);
}

/* Signals to the process would call all threads home that are away. The first thread would have got them: if it is away, too, and takes them, it alone
 * comes. */
static int for_the_first(const struct eg_thread *t)
{
    const struct eg_thread *first = t->tid == eg_rt.pid ? NULL : eg_home_thread(eg_rt.pid);
    uint64_t pending = 0;
    if (!first || first->where != EG_AWAY || eg_sys2(SYS_rt_sigpending, &pending, 8))
        return 0;
    pending &= ~t->mask;
    return !(pending & __atomic_load_n(&first->mask, __ATOMIC_RELAXED)) && !(pending & eg_task_mask(t->tid, "\nSigPnd:\t") /* for this thread alone */);
}

/* Until the thread says something, or a signal for it comes. */
static void wait_for_word(struct eg_thread *t)
{
    for (uint32_t i = 0; i < SPIN_TURNS && !eg_home.loaded; i++) {
        uint8_t byte;
        long n = eg_sys6(SYS_recvfrom, t->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
        if (n != -EAGAIN && n != -EINTR)
            return;
        eg_sys0(SYS_sched_yield);
    }
    for (;;) {
        if (t->signal_fd < 0 || t->signal_mask != ~t->mask) {
            t->signal_mask = ~t->mask;
            long fd = eg_sys4(SYS_signalfd4, t->signal_fd, &t->signal_mask, 8, 02000000 | 04000);
            if (t->signal_fd < 0 && fd >= 0)
                t->signal_fd = eg_fd_high((int)fd);
        }
        struct pollfd p[2] = {{.fd = t->fd, .events = POLLIN}, {.fd = t->kick ? -1 : t->signal_fd, .events = POLLIN}};
        eg_sys5(SYS_ppoll, p, 2, 0, 0, 8);
        if (p[0].revents)
            return;
        if (p[1].revents & POLLIN && for_the_first(t)) {
            const struct timespec moment = {.tv_nsec = 1000000};
            eg_sys5(SYS_ppoll, p, 1, &moment, 0, 8);
        } else if (p[1].revents & POLLIN) {
            t->kick_signal = 1;
            __atomic_store_n(&t->kick, 1, __ATOMIC_SEQ_CST);
            __atomic_store_n(&eg_home.kicks, 1, __ATOMIC_SEQ_CST);
            eg_home_wake();
        }
    }
}

static void payload_read(struct eg_thread *t, uint32_t bytes)
{
    if (bytes < sizeof t->state || bytes > sizeof t->state + EG_XSTATE_MAX_BYTES)
        eg_home_lost(t->node);
    eg_proxy_transfer(t, SYS_recvfrom, &t->state, sizeof t->state);
    t->state.tid = t->tid; /* nodes do not say; it may go on to another one */
    if (t->state.xstate_bytes != bytes - sizeof t->state)
        eg_home_lost(t->node);
    if (t->state.xstate_bytes)
        eg_proxy_transfer(t, SYS_recvfrom, t->xstate, t->state.xstate_bytes);
}

void eg_home_come(void)
{
    struct eg_thread *t = eg_home_thread((uint32_t)eg_sys0(SYS_gettid));
    if (!t || t->where != EG_AWAY)
        return;
    struct eg_call call = {.type = EG_CALL_HOME};
    eg_proxy_transfer(t, SYS_sendto, &call, sizeof call);
    eg_proxy_transfer(t, SYS_recvfrom, &call, sizeof call);
    if (call.type != EG_CALL_HOME)
        eg_home_lost(t->node);
    payload_read(t, call.len_bytes);
    eg_proxy_stream_give(t);
}

/* The instruction before which the thread stands made a call: at a patched place the gate must see it again. */
static void before_call(struct eg_thread_state *s)
{
    uint64_t site = eg_gate_site(s->rip);
    s->rip = site ? site : s->rip - 2;
}

/* What it will touch first goes with it: its stack and its control block, which libc has above it. Returns: runs of pages. */
static uint32_t pages_along(struct eg_thread *t)
{
    const uint64_t at[] = {t->state.rsp - STACK_SOON, t->state.rsp, t->state.fs_base, t->state.fs_base + EG_CONTROL_BYTES};
    uint32_t n = 0;
    memset(t->pushed, 0, sizeof t->pushed);
    for (uint32_t i = 0; i < sizeof at / sizeof *at; i++) {
        uint64_t page = at[i] & ~(uint64_t)(EG_PAGE_BYTES - 1);
        struct eg_run *last = n ? &t->pushed[n - 1] : NULL;
        if (last && page >= last->addr && page <= last->addr + last->n_pages * EG_PAGE_BYTES)
            last->n_pages = (page - last->addr) / EG_PAGE_BYTES + 1 > last->n_pages ? (uint32_t)((page - last->addr) / EG_PAGE_BYTES) + 1 : last->n_pages;
        else
            t->pushed[n++] = (struct eg_run){page, 1};
    }
    return n;
}

/* The thread goes to t->node. Returns: 0, -errno: no stream; it is at home. */
static int send_out(struct eg_thread *t)
{
    struct eg_node *n = eg_home.node[t->node];
    __atomic_store_n(&t->where, EG_AWAY, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&eg_home.halt, __ATOMIC_SEQ_CST) == t->tid) { /* it is about to be stopped */
        eg_node_loses(n);
        t->where = EG_AT_HOME;
        return -EINTR;
    }
    int rc = eg_proxy_stream_take(t);
    if (rc) { /* it refuses, or does not answer; what is on it may be well all the same */
        if (rc != -EMFILE && rc != -ENFILE && rc != -ENOMEM && rc != -ENOBUFS)
            n->refuses = 1;
        if (t->fd >= 0)
            eg_sys1(SYS_close, t->fd);
        t->fd = -1;
        eg_warn_once(EG_WARN_ACTIVATE, "threads stay here: no stream to a compute node: ", n->config->text);
        eg_node_loses(n);
        t->where = EG_AT_HOME;
        return rc;
    }
    struct {
        struct eg_call call;
        struct eg_thread_state state;
        uint8_t xstate[EG_XSTATE_MAX_BYTES];
    } *out = (void *)t->frame; /* that nobody needs until it comes home */
    _Static_assert(sizeof *out <= sizeof t->frame, "room for a start");
    uint32_t n_pushed = pages_along(t);
    out->call = (struct eg_call){.type = EG_CALL_START, .len_bytes = (uint32_t)sizeof t->state + t->state.xstate_bytes, .arg = {n_pushed, (int64_t)eg_gate_count},
                                  .mask = t->mask};
    out->state = t->state;
    memcpy(out->xstate, t->xstate, t->state.xstate_bytes);
    eg_proxy_transfer(t, SYS_sendto, out, sizeof out->call + out->call.len_bytes);
    __atomic_store_n(&t->n_pushed, n_pushed, __ATOMIC_RELEASE); /* after the start, on the same stream */
    __atomic_store_n(&eg_home.pushes, 1, __ATOMIC_SEQ_CST);
    eg_home_wake();
    __atomic_fetch_add(&eg_rt.row->migrations, 1, __ATOMIC_RELAXED);
    return 0;
}

/* It was asked home to go on to another node. Signals that it must see come first. */
static int moves_on(struct eg_thread *t)
{
    uint32_t to = __atomic_exchange_n(&t->move_to, 0, __ATOMIC_ACQ_REL);
    uint64_t pending = 0;
    if (!to || eg_sys2(SYS_rt_sigpending, &pending, 8) || pending & ~t->mask)
        return 0;
    struct eg_node *n = eg_home.node[to - 1];
    t->node = to - 1;
    t->kick = t->kick_signal = 0;
    eg_node_gets(n);
    __atomic_fetch_add(&n->config->threads_total, 1, __ATOMIC_RELAXED);
    return send_out(t) == 0;
}

/* The thread has ended on its node, or comes from there to end here. */
static void ended(struct eg_thread *t)
{
    t->ends = 1;
    eg_home_ended(t);
    eg_proxy_stream_give(t);
    eg_proxy_take_back(t);
}

static __attribute__((noreturn)) void away(struct eg_thread *t)
{
    for (;;) {
        struct eg_call call;
        wait_for_word(t);
        eg_proxy_transfer(t, SYS_recvfrom, &call, sizeof call);
        if (!eg_node_seen(t->node)) /* its word came too late */
            eg_proxy_lost(t);
        if (call.len_bytes && call.type != EG_CALL_PIECES)
            payload_read(t, call.len_bytes);
        if (call.type != EG_CALL_EXIT)
            t->mask = call.mask;
        switch (call.type) {
        case EG_CALL_SYSCALL:
        case EG_CALL_KICKED:
        case EG_CALL_PIECES: eg_proxy_call(t, &call); break;
        case EG_CALL_WAKE: eg_proxy_wake(t, &call); break;
        case EG_CALL_EXIT:
            ended(t);
            eg_proxy_exit(t, (long)call.arg[0]);
        case EG_CALL_HOME:
            if (call.arg[0] == EG_HOME_END) {
                ended(t);
                eg_proxy_home(t);
            }
            eg_proxy_stream_give(t);
            __atomic_fetch_add(&eg_rt.row->migrations, 1, __ATOMIC_RELAXED);
            if (call.arg[0] == EG_HOME_KICK && moves_on(t))
                break;
            if (call.arg[0] == EG_HOME_SYSCALL)
                before_call(&t->state);
            else
                eg_gate_again(&t->state.rip, &t->state.rsp);
            if (t->crashes || eg_crash_by_fault(t, &call))
                eg_home_gather();
            t->crashes = 0;
            eg_proxy_home(t);
        default: eg_home_lost(t->node);
        }
    }
}

/* With the registers with which it went out. */
static long start_again(void *thread)
{
    struct eg_thread *t = (struct eg_thread *)thread;
    struct eg_node *n = eg_home.node[t->node];
    eg_sys1(SYS_close, t->fd);
    t->fd = -1;
    t->where = EG_AT_HOME;
    t->move_to = 0;
    eg_node_loses(n);
    eg_warn_once(EG_WARN_SERVER, "lost a compute node; its threads, of which nothing was seen yet, start again elsewhere: ", n->config->text);
    eg_lock_take(&eg_home.start_lock);
    int node = t->kick ? -1 : eg_home_place(t->state.rsp);
    if (node >= 0) {
        t->node = (uint32_t)node;
        n = eg_home.node[node];
        eg_node_gets(n);
        __atomic_fetch_add(&n->config->threads_total, 1, __ATOMIC_RELAXED);
    }
    eg_lock_give(&eg_home.start_lock);
    if (node < 0 || send_out(t))
        eg_proxy_home(t);
    away(t);
}

void eg_proxy_lost(struct eg_thread *t)
{
    eg_lost_wait(t->node);
    eg_gate_call_on((uint8_t *)t + EG_THREAD_BYTES, start_again, t);
    __builtin_unreachable();
}

static __attribute__((noreturn)) void go_out(struct eg_thread *t)
{
    t->starting = 0;
    if (eg_is_realtime(eg_sys1(SYS_sched_getscheduler, 0))) { /* a node would run it like any other */
        eg_node_loses(eg_home.node[t->node]);
        eg_proxy_home(t);
    }
    if (send_out(t))
        eg_proxy_home(t);
    __atomic_fetch_add(&eg_rt.row->threads_remote, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&eg_home.node[t->node]->config->threads_total, 1, __ATOMIC_RELAXED);
    t->out_ns = eg_sys_now_ns();
    eg_account_time(eg_rt.row->thread_start_hist, t->out_ns - t->start_ns);
    away(t);
}

void eg_proxy_main(void *arg)
{
    struct eg_thread *t = arg;
    eg_sys1(SYS_set_tid_address, &t->tid);
    t->state.tid = t->tid = (uint32_t)eg_sys0(SYS_gettid);
    if (!t->state.xstate_bytes) { /* rounding modes and the like are inherited */
        __asm__ volatile("fxsave64 %0" : "=m"(*(uint8_t(*)[512])t->xstate));
        memset(t->xstate + 464, 0, 48);
        t->state.xstate_bytes = 512;
    }
    if (t->where != EG_AWAY)
        eg_proxy_home(t);
    go_out(t);
}

struct eg_thread *eg_home_starting(void)
{
    struct eg_thread *t = eg_home_thread((uint32_t)eg_sys0(SYS_gettid));
    return t && t->starting ? t : NULL;
}

static long begin_on_own_stack(void *thread)
{
    struct eg_thread *t = (struct eg_thread *)thread;
    if (!t->visits)
        go_out(t);
    if (send_out(t))
        eg_proxy_home(t);
    __atomic_fetch_add(&eg_home.node[t->node]->config->threads_total, 1, __ATOMIC_RELAXED);
    away(t);
}

/* With the registers in its slot, and extended state, as the kernel has them of the calling thread but for the mask. */
static __attribute__((noreturn)) void begin(struct eg_thread *t)
{
    uint64_t robust = eg_home_robust_off();
    t->robust = robust; /* 0: it holds some, which stay the kernel's */
    t->state.tid = t->tid;
    eg_sys2(SYS_arch_prctl, ARCH_GET_FS, &t->state.fs_base);
    eg_sys2(SYS_arch_prctl, ARCH_GET_GS, &t->state.gs_base);
    eg_gate_call_on((uint8_t *)t + EG_THREAD_BYTES, begin_on_own_stack, t);
    __builtin_unreachable();
}

void eg_home_begin(struct eg_thread *t, const struct eg_thread_state *state)
{
    uint64_t all = ~0ull;
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &t->mask, 8);
    t->state = *state;
    t->state.xstate_bytes = eg_frame_xsave(t->xstate);
    begin(t);
}

void eg_home_begin_at(struct eg_thread *t, const struct eg_ucontext *uc)
{
    t->mask = uc->mask;
    memset(&t->state, 0, sizeof t->state);
    memcpy(&t->state.r8, uc->mc.regs, sizeof uc->mc.regs);
    t->state.xstate_bytes = eg_frame_xstate_bytes(uc->mc.fpstate);
    memcpy(t->xstate, uc->mc.fpstate, t->state.xstate_bytes);
    begin(t);
}
