/* signals.c - the handler of all signals. See eg_signals.h. */
#include "client/gate/eg_signals_state.h"
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <sys/uio.h>
#include <ucontext.h>

#define PROXIED 0x45474255 /* si_errno of a SIGBUS that waits as a proxy */
/* What of a caught signal's flags is the kernel's business. */
#define KERNEL_FLAGS (SA_NOCLDSTOP | SA_NOCLDWAIT | EG_SIG_TAGBITS | SA_RESTART | (unsigned)SA_RESETHAND)

/* What the kernel writes on the stack of a handler; the state of the FPU follows further up. */
#define CONTEXT_BYTES 304
struct signal_frame {
    uint64_t restorer;
    uint8_t context[CONTEXT_BYTES];
    siginfo_t info;
};
_Static_assert(sizeof(struct signal_frame) == 440 && offsetof(ucontext_t, uc_sigmask) + 8 == CONTEXT_BYTES, "the kernel's layout");
#define FXSAVE_BYTES 512u
#define FXSAVE_SW 464u /* magic, size of all, ... */
#define XSTATE_MAGIC 0x46505853u
#define ERR_WRITE 2

long eg_sig_fault_serve(void *arg)
{
    struct eg_sig_fault f = *(struct eg_sig_fault *)arg; /* before the lock: it may lie on the program's stack */
    return eg_inline_fault(f.addr, f.write);
}

struct pin {
    uint64_t owner, depth;
    struct eg_span_rw span;
};

static long pin_frame(void *arg)
{
    struct pin p = *(struct pin *)arg;
    eg_pin_call(p.owner, p.depth, &p.span, 1);
    return 0;
}

/* Where the lock may be taken: on the thread's alternate stack, if that is the runtime's, else on one of the gate's. */
static long on_safe_stack(const struct eg_sig_thread *t, long (*fn)(void *), void *arg)
{
    return t && eg_sig_thread_holds(t, (uint64_t)__builtin_frame_address(0)) ? fn(arg) : eg_gate_on_stack(fn, arg);
}

/* The kernel itself writes a word there, so that a stack grows as it does under the kernel's own frames. */
static int touch(const struct eg_sig_thread *t, uint64_t at)
{
    for (int i = 0; i < EG_SIG_TRIES; i++) {
        struct eg_sig_fault f = {at, 1};
        if (eg_sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, at, 8) == 0)
            return 1;
        if (!on_safe_stack(t, eg_sig_fault_serve, &f))
            return 0;
    }
    return 0;
}

/* Copies two pieces that lie in [start, end) of the program's memory, which may be away. Returns: 0, -EFAULT. */
static int put(const struct eg_sig_thread *t, uint64_t start, uint64_t end, const struct iovec from[2], const struct iovec to[2])
{
    long bytes = (long)(from[0].iov_len + from[1].iov_len);
    if (!touch(t, start))
        return -EFAULT;
    for (int i = 0; i < EG_SIG_TRIES; i++) {
        long rc = eg_rt.shut_in ? -EPERM : eg_sys6(SYS_process_vm_writev, eg_sys0(SYS_getpid), from, 2, to, 2, 0);
        if (rc == bytes)
            return 0;
        /* Where a filter refuses that: as long as no other thread takes the page meanwhile. */
        if (rc < 0 && rc != -EFAULT && !eg_ranges_seen(&eg_rt.ranges, start, end) && touch(t, end - 8)) {
            for (int k = 0; k < 2; k++)
                memcpy(to[k].iov_base, from[k].iov_base, from[k].iov_len);
            return 0;
        }
        for (uint64_t at = start; at < end; at = (at & ~(uint64_t)(EG_PAGE_BYTES - 1)) + EG_PAGE_BYTES)
            if (!touch(t, at < end - 8 ? at : end - 8))
                return -EFAULT;
    }
    return -EFAULT;
}

static uint64_t *context_mask(ucontext_t *uc)
{
    return (uint64_t *)&uc->uc_sigmask; /* the kernel's has eight bytes */
}

static uint64_t fpu_bytes(const uint8_t *fpu)
{
    const uint32_t *sw = (const uint32_t *)(fpu + FXSAVE_SW);
    return !fpu ? 0 : sw[0] == XSTATE_MAGIC ? sw[1] : FXSAVE_BYTES;
}

/* The number of the system call that was made in place before rip; -1: it is not one of a patched site, whose trampoline begins with the number. */
static long site_number(uint64_t rip)
{
    const uint8_t *site = (const uint8_t *)rip - 7, *trampoline;
    int32_t rel, number;
    if ((rip & (EG_PAGE_BYTES - 1)) < 7 || eg_ranges_seen(&eg_rt.ranges, rip - 7, rip) || site[0] != 0xe9) /* captured code may be away */
        return -1;
    memcpy(&rel, site + 1, 4);
    trampoline = site + 5 + rel;
    memcpy(&number, trampoline + 1, 4);
    return trampoline[0] == 0xb8 ? number : -1;
}

/* A call that waits with a mask of its own was interrupted: that mask is in force when the handler begins, and the kernel shows the one before it.
 * Nothing else says so than the registers of the call, made in place. Returns: the mask, NULL: no such call. */
static const struct eg_sig_mask *waited(const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const struct {
        uint64_t at, bytes; /* a pointer to the mask and its size */
        long nr, other;
    } call[] = {{(uint64_t)g[REG_RDI], (uint64_t)g[REG_RSI], SYS_rt_sigsuspend, -1},
                {(uint64_t)g[REG_R10], (uint64_t)g[REG_R8], SYS_ppoll, -1},
                {(uint64_t)g[REG_R8], (uint64_t)g[REG_R9], SYS_epoll_pwait, SYS_epoll_pwait2},
                {(uint64_t)g[REG_R9] - offsetof(struct eg_sig_mask, ptr), 8, SYS_pselect6, SYS_io_pgetevents}};
    if (g[REG_RAX] != -EINTR)
        return NULL;
    for (uint32_t i = 0; i < sizeof call / sizeof *call; i++) {
        const struct eg_sig_mask *place = eg_sig_mask_at(call[i].at);
        /* Only then is a jump at rip one of the gate's for sure. */
        long nr = place && call[i].bytes == 8 ? site_number((uint64_t)g[REG_RIP]) : -2;
        if (nr == -1 || nr == call[i].nr || (nr >= 0 && nr == call[i].other))
            return place;
    }
    return NULL;
}

/* Enter the program's handler, as the kernel does it: its frame on the program's stack; the runtime's own frame then leads there.
 * Source: arch/x86/kernel/signal.c, get_sigframe() and x64_setup_rt_frame(). Returns: 0, -EFAULT: no stack for it. */
static int handler_enter(int s, const struct eg_sigaction *a, const siginfo_t *info, ucontext_t *uc, struct eg_sig_thread *t)
{
    greg_t *g = uc->uc_mcontext.gregs;
    uint64_t sp = (uint64_t)g[REG_RSP], here = (uint64_t)__builtin_frame_address(0);
    uint64_t fpu = (uint64_t)uc->uc_mcontext.fpregs, fpu_len = fpu_bytes((const uint8_t *)fpu);
    const stack_t *alt = t ? &t->alt : &uc->uc_stack;
    int nested = eg_sig_alt_holds(alt, sp), enters = a->flags & SA_ONSTACK && alt->ss_size && !nested;
    if (!(a->flags & EG_SIG_RESTORER))
        return -EFAULT;
    sp -= EG_GATE_RED_ZONE;
    if (enters)
        sp = (uint64_t)alt->ss_sp + alt->ss_size;
    if (!t && eg_sig_alt_holds(alt, here) == (nested || enters))
        sp = here - EG_PAGE_BYTES; /* a thread that the gate does not know: the runtime's own frame is where the new one is to be */
    uint64_t fpu_to = (sp - fpu_len) & ~63ull, to = ((fpu_to - sizeof(struct signal_frame)) & ~15ull) - 8;
    if ((nested || enters) && !eg_sig_alt_holds(alt, to))
        return -EFAULT;

    struct signal_frame f = {.restorer = a->restorer, .info = *info};
    memcpy(f.context, uc, CONTEXT_BYTES);
    if (fpu)
        memcpy(f.context + offsetof(ucontext_t, uc_mcontext.fpregs), &fpu_to, sizeof fpu_to);
    struct pin pin = {eg_thread_pointer(), eg_sig_alt_holds(alt, to) ? to : to | EG_PIN_MAIN, {to, sp, 1}};
    if (eg_ranges_seen(&eg_rt.ranges, to, sp))
        on_safe_stack(t, pin_frame, &pin); /* rt_sigreturn reads it, and cannot wait */
    if (t)
        t->handled++;
    __atomic_fetch_add(&eg_rt.handlers, 1, __ATOMIC_RELAXED); /* after that: what is pinned by now is to last */
    struct iovec from[2] = {{&f, sizeof f}, {(void *)fpu, fpu_len}}, into[2] = {{(void *)to, sizeof f}, {(void *)fpu_to, fpu_len}};
    if (put(t, to, sp, from, into))
        return -EFAULT;

    const struct eg_sig_mask *waiting = waited(uc);
    if (waiting)
        *context_mask(uc) = waiting->mask;
    uint64_t self = a->flags & SA_NODEFER ? 0 : EG_SIG_BIT(s);
    *context_mask(uc) |= eg_sig_mask_to_kernel(a->mask | self) | (self & EG_SIG_BIT(EG_SIG_PROXY)); /* in the handler of that one SIGBUS waits, too */
    g[REG_RIP] = (greg_t)a->handler;
    g[REG_RSP] = (greg_t)to;
    g[REG_RDI] = s;
    g[REG_RSI] = (greg_t)(to + offsetof(struct signal_frame, info));
    g[REG_RDX] = (greg_t)(to + offsetof(struct signal_frame, context));
    g[REG_RAX] = 0;
    g[REG_EFL] &= ~0x10500ll; /* RF, DF, TF */
    uc->uc_mcontext.fpregs = NULL; /* as at the start of a program */
    return 0;
}

/* The same signal to the calling thread, or to the process. */
static void send_again(int s, const siginfo_t *info, int to_process)
{
    long pid = eg_sys0(SYS_getpid);
    if (to_process)
        eg_sys3(SYS_rt_sigqueueinfo, pid, s, info);
    else
        eg_sys4(SYS_rt_tgsigqueueinfo, pid, eg_sys0(SYS_gettid), s, info);
}

static int from_an_instruction(int s, int code)
{
    return s == SIGBUS ? code > 0 && code != BUS_MCEERR_AO : s == SIGSEGV && code > 0;
}

/* The default action ends the process: by the instruction that faults again, or by the signal that comes again. */
static void end(int s, const siginfo_t *info, ucontext_t *uc, int sent)
{
    struct eg_sigaction dfl = {0};
    eg_sig_action_set(s, &dfl);
    *context_mask(uc) &= ~EG_SIG_BIT(s);
    if (sent)
        send_again(s, info, 0);
}

/* What of the program's action happens now; a handler that is to be taken once is gone. */
static struct eg_sigaction action_take(int s, struct eg_sig_thread *t)
{
    eg_sig_lock();
    struct eg_sigaction *at = eg_sig_action_of(s, t), a = *at;
    if (a.handler > EG_SIG_IGNORE && a.flags & (unsigned)SA_RESETHAND)
        at->handler = EG_SIG_DEFAULT;
    eg_sig_unlock();
    return a;
}

/* No stack for the handler's frame: SIGSEGV, by its handler if that has one. */
static void no_stack(int s, ucontext_t *uc, struct eg_sig_thread *t)
{
    siginfo_t info = {.si_signo = SIGSEGV, .si_code = SI_KERNEL};
    if (s != SIGSEGV && !(*context_mask(uc) & EG_SIG_BIT(SIGSEGV))) {
        struct eg_sigaction a = action_take(SIGSEGV, t);
        if (a.handler > EG_SIG_IGNORE && handler_enter(SIGSEGV, &a, &info, uc, t) == 0)
            return;
    }
    end(SIGSEGV, &info, uc, 1);
}

static void arrived(int s, siginfo_t *info, ucontext_t *uc, struct eg_sig_thread *t)
{
    int sent = !from_an_instruction(s, info->si_code);
    const struct eg_sig_mask *waiting = s == SIGBUS && sent ? waited(uc) : NULL;
    if (s == SIGBUS && (waiting ? waiting->mask : *context_mask(uc)) & EG_SIG_BIT(EG_SIG_PROXY)) {
        if (!sent) {
            end(s, info, uc, 0);
            return;
        }
        info->si_errno = PROXIED;
        send_again(EG_SIG_PROXY, info, info->si_code == SI_USER);
        return;
    }
    if (s == EG_SIG_PROXY && info->si_errno == PROXIED) {
        s = info->si_signo = SIGBUS;
        info->si_errno = 0;
        sent = 1;
    }
    struct eg_sigaction a = action_take(s, t);
    if (a.handler > EG_SIG_IGNORE) {
        if (handler_enter(s, &a, info, uc, t))
            no_stack(s, uc, t);
    } else if (a.handler == EG_SIG_DEFAULT || !sent) {
        end(s, info, uc, sent);
    } else if (eg_sig_kept_index(s) < 0) {
        eg_sig_action_set(s, &(struct eg_sigaction){.handler = EG_SIG_IGNORE}); /* it came between two settings */
    }
}

/* An access to the program's memory that may fail. */
static int probe_failed(ucontext_t *uc)
{
    greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];
    if (*rip != (greg_t)eg_signals_peek_at && *rip != (greg_t)eg_signals_copy_at && *rip != (greg_t)eg_signals_poke_at)
        return 0;
    *rip = (greg_t)eg_signals_probe_failed;
    return 1;
}

static void on_signal(int s, siginfo_t *info, ucontext_t *uc)
{
    struct eg_sig_thread *t = eg_sig_thread_of(&uc->uc_stack);
    int faulted = from_an_instruction(s, info->si_code);
    if (s == SIGBUS && info->si_code == BUS_ADRERR) {
        struct eg_sig_fault f = {(uint64_t)info->si_addr, (uc->uc_mcontext.gregs[REG_ERR] & ERR_WRITE) != 0};
        if (on_safe_stack(t, eg_sig_fault_serve, &f))
            return;
    }
    if (!faulted || !probe_failed(uc))
        arrived(s, info, uc, t);
}

struct eg_sigaction eg_sig_action_caught(uint64_t flags)
{
    return (struct eg_sigaction){(uint64_t)on_signal, (flags & KERNEL_FLAGS) | SA_SIGINFO | SA_ONSTACK | EG_SIG_RESTORER, (uint64_t)eg_signals_restorer, ~0ull};
}

void eg_sig_action_keep(int s)
{
    const struct eg_sigaction *a = &eg_sig_actions[s == EG_SIG_PROXY ? SIGBUS : s];
    struct eg_sigaction own = eg_sig_action_caught(a->handler > EG_SIG_IGNORE ? a->flags & SA_RESTART : SA_RESTART);
    eg_sig_action_set(s, &own);
}

/* --- start ------------------------------------------------------------------------------------------------------------------------ */

int eg_signals_init(size_t frame_bytes)
{
    struct eg_sig_thread *first = eg_sig_state_init(frame_bytes) ? NULL : eg_sig_thread_get();
    uint64_t bytes;
    if (!first)
        return -ENOMEM;
    if (eg_sys3(SYS_get_robust_list, 0, &first->robust, &bytes)) /* given by the loader, before the gate was there */
        first->robust = 0;
    for (int s = 1; s <= EG_SIG_N; s++) {
        struct eg_sigaction *a = &eg_sig_actions[s];
        eg_sig_action_get(s, a);
        a->mask = eg_sig_mask_to_program(a->mask);
        if (eg_sig_kept_index(s) >= 0) {
            eg_sig_action_keep(s);
        } else if (a->handler > EG_SIG_IGNORE) {
            struct eg_sigaction own = eg_sig_action_caught(a->flags);
            eg_sig_action_set(s, &own);
        }
    }
    eg_sig_mask_change(SIG_SETMASK, eg_sig_mask_to_kernel(eg_sig_mask_get()));
    return 0;
}
