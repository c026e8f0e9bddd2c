/* signal_calls.c - the program's calls that show or change what it has set of signals. See eg_signals.h. */
#include "client/gate/eg_signals_state.h"
#include "client/pager/eg_pager.h"

#include <errno.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

#define KNOWN_FLAGS \
    (SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | EG_SIG_TAGBITS | EG_SIG_RESTORER | SA_ONSTACK | SA_RESTART | SA_NODEFER | (unsigned)SA_RESETHAND)
#define ALT_MIN_BYTES 2048u
#define NO_HOW 99 /* of rt_sigprocmask */

/* A fault on memory that is not there is the end of a thread that blocks SIGSEGV: where the word is not beside the call's frame, the kernel looks first. */
static int reachable(uint64_t at, int write)
{
    const uint64_t in_page = EG_PAGE_BYTES - 1;
    if ((at & ~in_page) == ((uint64_t)__builtin_frame_address(0) & ~in_page) && (at & in_page) <= EG_PAGE_BYTES - 8)
        return 1;
    for (int i = 0; i < EG_SIG_TRIES; i++) {
        struct eg_sig_fault first = {at, write}, last = {at + 7, write};
        /* The word is read, and then `how` is wrong; or the mask is written to where something else will be. */
        long rc = write ? eg_sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, at, 8) : eg_sys4(SYS_rt_sigprocmask, NO_HOW, at, 0, 8);
        if (rc != -EFAULT)
            return 1;
        if (!(eg_gate_alone(eg_sig_fault_serve, &first) | eg_gate_alone(eg_sig_fault_serve, &last)))
            return 0;
    }
    return 0;
}

static long peek_words(uint64_t from, uint64_t *ret_words, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t at = from + 8u * (unsigned)i;
        if ((i == 0 || i == n - 1) && !reachable(at, 0))
            return -EFAULT;
        if (eg_signals_peek(at, ret_words + i))
            return -EFAULT;
    }
    return 0;
}

static long poke_words(uint64_t to, const uint64_t *words, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t at = to + 8u * (unsigned)i;
        if ((i == 0 || i == n - 1) && !reachable(at, 1))
            return -EFAULT;
        if (eg_signals_poke(at, words[i]))
            return -EFAULT;
    }
    return 0;
}

static long pass(struct eg_gate_frame *f)
{
    f->pass = 1;
    return 0;
}

/* In the process whose table it is. Context: lock held. */
static long action_change(int s, const struct eg_sigaction *to)
{
    if (eg_sig_kept_index(s) >= 0) {
        const struct eg_sigaction drop = {.handler = EG_SIG_IGNORE};
        int waits_as = s == SIGBUS ? EG_SIG_PROXY : s;
        eg_sig_actions[s] = *to;
        if (to->handler == EG_SIG_IGNORE)
            eg_sig_action_set(waits_as, &drop);
        eg_sig_action_keep(s);
        eg_sig_action_keep(waits_as);
        return 0;
    }
    struct eg_sigaction k = to->handler > EG_SIG_IGNORE ? eg_sig_action_caught(to->flags) : *to;
    if (to->handler <= EG_SIG_IGNORE)
        k.mask = eg_sig_mask_to_kernel(to->mask);
    long rc = eg_sig_action_set(s, &k);
    if (!rc)
        eg_sig_actions[s] = *to;
    return rc;
}

/* A vfork child (or one that the gate did not see): its actions are its own, the table is its parent's. Its handlers are the kernel's business,
 * but for the signals that are kept. Context: lock held. */
static long action_change_child(int s, const struct eg_sigaction *to, struct eg_sig_thread *t)
{
    int k = eg_sig_kept_index(s);
    if (k < 0) {
        struct eg_sigaction a = *to;
        a.mask = eg_sig_mask_to_kernel(a.mask);
        return eg_sig_action_set(s, &a);
    }
    if (!t)
        return 0;
    uint32_t pid = (uint32_t)eg_sys0(SYS_getpid);
    if (t->child != pid) {
        for (uint32_t i = 0; i < EG_SIG_N_KEPT; i++)
            t->child_kept[i] = eg_sig_actions[eg_sig_kept[i]];
        t->child = pid;
    }
    t->child_kept[k] = *to;
    return 0;
}

static long call_action(struct eg_gate_frame *f)
{
    int s = (int)f->arg[0];
    uint64_t to = (uint64_t)f->arg[1], old_to = (uint64_t)f->arg[2];
    struct eg_sigaction new, old;
    if (f->arg[3] != 8 || s < 1 || s > EG_SIG_N || s == SIGKILL || s == SIGSTOP || (!to && !old_to))
        return pass(f);
    if (to && peek_words(to, (uint64_t *)&new, 4))
        return -EFAULT;
    new.flags &= KNOWN_FLAGS;
    new.mask &= ~(EG_SIG_BIT(SIGKILL) | EG_SIG_BIT(SIGSTOP));
    int child = (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid;
    struct eg_sig_thread *t = child ? eg_sig_thread_here() : NULL;
    long rc = 0;
    uint64_t mask = eg_sig_enter();
    old = *eg_sig_action_of(s, t);
    if (child && eg_sig_kept_index(s) < 0) {
        struct eg_sigaction k;
        eg_sig_action_get(s, &k);
        if (k.handler != eg_sig_action_caught(0).handler) {
            old = k;
            old.mask = eg_sig_mask_to_program(k.mask);
        }
    }
    if (to)
        rc = child ? action_change_child(s, &new, t) : action_change(s, &new);
    eg_sig_leave(mask);
    return !rc && old_to ? poke_words(old_to, (const uint64_t *)&old, 4) : rc;
}

static long call_mask(struct eg_gate_frame *f)
{
    uint64_t from = (uint64_t)f->arg[1], old_to = (uint64_t)f->arg[2], m = 0;
    if (f->arg[3] != 8)
        return pass(f);
    if (from && peek_words(from, &m, 1))
        return -EFAULT;
    /* Where signals are let in again they arrive in the program's code, so that its handlers see who called raise(). */
    const struct eg_sig_mask *place = from && !old_to ? eg_sig_mask_place(eg_sig_mask_to_kernel(m)) : NULL;
    if (place) {
        f->arg[1] = (long)&place->mask;
        return pass(f);
    }
    uint64_t old = old_to ? eg_sig_mask_get() : 0;
    long rc = from ? eg_sig_mask_change((int)f->arg[0], eg_sig_mask_to_kernel(m)) : 0;
    old = eg_sig_mask_to_program(old);
    return !rc && old_to ? poke_words(old_to, &old, 1) : rc;
}

static uint64_t pending(void)
{
    uint64_t m;
    do
        *(volatile uint64_t *)&m = 0;
    while (eg_sys2(SYS_rt_sigpending, &m, 8) == -EFAULT);
    return m;
}

static long call_pending(struct eg_gate_frame *f)
{
    if (f->arg[1] != 8)
        return pass(f);
    uint64_t m = eg_sig_mask_to_program(pending());
    return poke_words((uint64_t)f->arg[0], &m, 1);
}

static long call_alt(struct eg_gate_frame *f)
{
    uint64_t from = (uint64_t)f->arg[0], old_to = (uint64_t)f->arg[1];
    struct eg_sig_thread *t = eg_sig_thread_get();
    stack_t to, old;
    if (!t)
        return pass(f);
    if (from && peek_words(from, (uint64_t *)&to, 3))
        return -EFAULT;
    int on = eg_sig_alt_holds(&t->alt, (uint64_t)f);
    old = t->alt;
    old.ss_flags = !old.ss_size ? SS_DISABLE : on ? SS_ONSTACK : 0;
    if (from) {
        int off = to.ss_flags == SS_DISABLE;
        if (on)
            return -EPERM;
        /* SS_AUTODISARM is set again by rt_sigreturn, which the gate does not see: not known here, as before Linux 4.7. */
        if (!off && to.ss_flags != 0 && to.ss_flags != SS_ONSTACK)
            return -EINVAL;
        if (!off && to.ss_size < ALT_MIN_BYTES)
            return -ENOMEM;
        /* A handler may come at any moment, but only to this thread. */
        uint64_t mask = eg_sig_mask_get();
        eg_sig_mask_change(SIG_SETMASK, EG_SIGNALS_ALL);
        t->alt = off ? (stack_t){.ss_flags = SS_DISABLE} : to;
        eg_sig_mask_change(SIG_SETMASK, mask);
    }
    return old_to ? poke_words(old_to, (const uint64_t *)&old, 3) : 0;
}

/* A mask at arg[i], its size behind it. What is wrong with them the kernel says. */
static long call_waits(struct eg_gate_frame *f, int i)
{
    uint64_t m;
    if (f->arg[i] && f->arg[i + 1] == 8 && !peek_words((uint64_t)f->arg[i], &m, 1)) {
        const struct eg_sig_mask *place = eg_sig_mask_place(eg_sig_mask_to_kernel(m));
        if (!place)
            return -ENOMEM;
        f->arg[i] = (long)&place->mask;
    }
    return pass(f);
}

/* The sixth argument points to a pointer to the mask, and its size. */
static long call_waits_by_pointer(struct eg_gate_frame *f)
{
    uint64_t v[2], m;
    if (f->arg[5] && !peek_words((uint64_t)f->arg[5], v, 2) && v[0] && v[1] == 8 && !peek_words(v[0], &m, 1)) {
        const struct eg_sig_mask *place = eg_sig_mask_place(eg_sig_mask_to_kernel(m));
        if (!place)
            return -ENOMEM;
        f->arg[5] = (long)&place->ptr;
    }
    return pass(f);
}

int eg_signals_wants(long nr)
{
    switch (nr) {
    case SYS_rt_sigaction:
    case SYS_rt_sigprocmask:
    case SYS_rt_sigpending:
    case SYS_rt_sigsuspend:
    case SYS_sigaltstack:
    case SYS_ppoll:
    case SYS_pselect6:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_io_pgetevents: return 1;
    default: return 0;
    }
}

long eg_signals_call(struct eg_gate_frame *f)
{
    f->pass = 0;
    switch (f->nr) {
    case SYS_rt_sigaction: return call_action(f);
    case SYS_rt_sigprocmask: return call_mask(f);
    case SYS_rt_sigpending: return call_pending(f);
    case SYS_sigaltstack: return call_alt(f);
    case SYS_rt_sigsuspend: return call_waits(f, 0);
    case SYS_ppoll: return call_waits(f, 3);
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2: return call_waits(f, 4);
    case SYS_pselect6:
    case SYS_io_pgetevents: return call_waits_by_pointer(f);
    default: return pass(f);
    }
}

long eg_signals_exec(struct eg_gate_frame *f)
{
    uint64_t mask = eg_sig_mask_get();
    const struct eg_sigaction ignore = {.handler = EG_SIG_IGNORE};
    struct eg_sig_thread *t = eg_sig_thread_here();
    uint32_t ignored = 0;
    for (uint32_t i = 0; i < EG_SIG_N_KEPT; i++)
        ignored |= (eg_sig_action_of(eg_sig_kept[i], t)->handler == EG_SIG_IGNORE) << i;
    int traceme = eg_sig_traceme_due(t);
    long ret = traceme ? eg_gate_alone(eg_sig_exec_try, f) : 0;
    if (ret)
        return ret; /* still to be traced, by the next one: execvp tries several */
    if (!traceme && !ignored && !(mask & EG_SIG_BIT(EG_SIG_PROXY)))
        return pass(f);
    if (traceme)
        t->traceme = 0;
    for (uint32_t i = 0; i < EG_SIG_N_KEPT; i++)
        if (ignored & 1u << i)
            eg_sig_action_set(eg_sig_kept[i], &ignore);
    eg_sig_mask_change(SIG_SETMASK, eg_sig_mask_to_program(mask));
    ret = traceme ? eg_signals_traced_exec(f) : eg_syscall6(f->nr, f->arg[0], f->arg[1], f->arg[2], f->arg[3], f->arg[4], f->arg[5]);
    eg_sig_mask_change(SIG_SETMASK, mask);
    for (uint32_t i = 0; i < EG_SIG_N_KEPT; i++)
        if (ignored & 1u << i)
            eg_sig_action_keep(eg_sig_kept[i]);
    return ret;
}

uint32_t eg_signals_handled(void)
{
    const struct eg_sig_thread *t = eg_sig_thread_here();
    return t ? __atomic_load_n(&t->handled, __ATOMIC_RELAXED) : 0;
}

/* The signal that is pending, and blocked, comes no more. */
static void take(int s)
{
    uint64_t set;
    struct timespec now;
    long rc;
    do {
        *(volatile uint64_t *)&set = EG_SIG_BIT(s);
        *(volatile long *)&now.tv_sec = *(volatile long *)&now.tv_nsec = 0;
        rc = eg_sys4(SYS_rt_sigtimedwait, &set, 0, &now, 8);
    } while (rc == -EFAULT || rc == -EINTR);
}

long eg_signals_quiet_call(long nr, const long arg[6])
{
    uint64_t quiet = (EG_SIG_BIT(SIGPIPE) | EG_SIG_BIT(SIGXFSZ)) & ~eg_sig_mask_get();
    eg_sig_mask_change(SIG_BLOCK, quiet);
    uint64_t before = pending();
    long ret = eg_syscall6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    int s = ret == -EPIPE ? SIGPIPE : ret == -EFBIG ? SIGXFSZ : 0;
    if (s && pending() & ~before & EG_SIG_BIT(s))
        take(s);
    eg_sig_mask_change(SIG_UNBLOCK, quiet);
    return ret;
}
