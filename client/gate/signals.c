/* signals.c - the handler of all signals, and the calls that show or change what the program has set. See eg_signals.h. */
#include "client/gate/eg_signals.h"
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <signal.h>
#include <sys/uio.h>
#include <ucontext.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

#define N_SIGNALS 64
#define PROXY SIGSTKFLT
#define PROXIED 0x45474255 /* si_errno of a SIGBUS that waits as a PROXY */
#define BIT(sig) (1ull << ((sig) - 1))
#define RESTORER_FLAG 0x04000000u
#define TAGBITS_FLAG 0x00000800u
#define KNOWN_FLAGS \
    (SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | TAGBITS_FLAG | RESTORER_FLAG | SA_ONSTACK | SA_RESTART | SA_NODEFER | (unsigned)SA_RESETHAND)
/* What of a caught signal's flags is the kernel's business. */
#define KERNEL_FLAGS (SA_NOCLDSTOP | SA_NOCLDWAIT | TAGBITS_FLAG | SA_RESTART | (unsigned)SA_RESETHAND)
#define ALT_AUTODISARM (1u << 31)
#define ALT_MIN_BYTES 2048u
#define TRIES 1000
#define NO_HOW 99 /* of rt_sigprocmask */

/* The kernel's struct sigaction. */
struct action {
    uint64_t handler, flags, restorer, mask;
};
#define DEFAULT ((uint64_t)SIG_DFL)
#define IGNORE ((uint64_t)SIG_IGN)

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

/* The signals whose handler in the kernel is the runtime's at all times. */
static const uint8_t kept[] = {SIGBUS, SIGSEGV, PROXY};
#define N_KEPT (sizeof kept / sizeof *kept)

/* Of a thread: right above its alternate stack. */
struct thread {
    struct thread *next;             /* while it is free */
    stack_t alt;                     /* the program's own alternate stack */
    uint64_t robust;                 /* its list of robust mutexes */
    uint32_t child;                  /* a vfork child on this thread's memory, and what it set */
    struct action child_kept[N_KEPT];
};
#define STACK_BYTES (64u << 10)
#define FAULT_BYTES (40u << 10) /* what serving a fault may need of it */
#define FIRST_STACKS 16u
#define N_CHUNKS 16

/* Masks for calls that are made in place: an entry stays for ever. ptr, len: what pselect6 and io_pgetevents want. */
struct mask {
    uint64_t mask, ptr, len;
};
#define N_MASKS 8192u

static struct {
    uint32_t lock; /* eg_rt.pid of the holder: one from before a fork is no more */
    struct action action[N_SIGNALS + 1];
    uint64_t stride; /* a stack and its struct thread */
    struct {
        uint64_t start, n;
    } chunk[N_CHUNKS]; /* each twice the size of the last */
    uint32_t n_chunks, n_used; /* stacks of the last chunk that were given out */
    struct thread *free;
    struct mask *masks, no_mask;
} sig;

/* --- the kernel ----------------------------------------------------------------------------------------------------------- */

/* The program's stack may leave between a store and the kernel's look at it: then once more. */
static uint64_t mask_get(void)
{
    uint64_t m;
    do
        *(volatile uint64_t *)&m = 0;
    while (eg_sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, &m, 8));
    return m;
}

static long mask_change(int how, uint64_t m)
{
    uint64_t copy;
    long rc;
    do {
        *(volatile uint64_t *)&copy = m;
        rc = eg_sys4(SYS_rt_sigprocmask, how, &copy, 0, 8);
    } while (rc == -EFAULT);
    return rc;
}

static long action_set(int s, const struct action *a)
{
    struct action copy;
    long rc;
    do {
        *(volatile uint64_t *)&copy.mask = 0;
        copy = *a;
        rc = eg_sys4(SYS_rt_sigaction, s, &copy, 0, 8);
    } while (rc == -EFAULT);
    return rc;
}

static void action_get(int s, struct action *ret_a)
{
    do
        *(volatile uint64_t *)&ret_a->mask = 0;
    while (eg_sys4(SYS_rt_sigaction, s, 0, ret_a, 8) == -EFAULT);
}

static void alt_get(stack_t *ret_alt)
{
    do
        *(volatile size_t *)&ret_alt->ss_size = 0;
    while (eg_sys2(SYS_sigaltstack, 0, ret_alt) == -EFAULT);
}

static void alt_set(void *start, int flags, size_t bytes)
{
    stack_t s;
    do {
        *(volatile size_t *)&s.ss_size = 0;
        s = (stack_t){.ss_sp = start, .ss_flags = flags, .ss_size = bytes};
    } while (eg_sys2(SYS_sigaltstack, &s, 0) == -EFAULT);
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

/* --- masks ---------------------------------------------------------------------------------------------------------------- */

static uint64_t mask_to_kernel(uint64_t m)
{
    uint64_t bus = m & BIT(SIGBUS);
    m &= ~(BIT(SIGBUS) | BIT(PROXY));
    return bus ? m | BIT(PROXY) : m;
}

static uint64_t mask_to_program(uint64_t m)
{
    return m & BIT(PROXY) ? m | BIT(SIGBUS) : m;
}

static struct mask *mask_slot(uint64_t m)
{
    uint32_t at = (uint32_t)((m * 0x9e3779b97f4a7c15ull) >> 32) % N_MASKS;
    for (uint32_t n = 0; n < N_MASKS; n++, at = (at + 1) % N_MASKS) {
        struct mask *e = &sig.masks[at];
        uint64_t there = 0;
        if (__atomic_compare_exchange_n(&e->mask, &there, m, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED) || there == m)
            return e;
    }
    return NULL;
}

/* A place for the mask, in the kernel's terms. Returns: NULL when the program has used too many different ones. */
static const struct mask *mask_place(uint64_t m)
{
    struct mask *e = m ? mask_slot(m) : &sig.no_mask;
    if (e) { /* whoever finds it writes the same */
        __atomic_store_n(&e->ptr, (uint64_t)&e->mask, __ATOMIC_RELAXED);
        __atomic_store_n(&e->len, 8, __ATOMIC_RELAXED);
    }
    return e;
}

/* --- the lock: held for moments, by threads that take no signal but SIGBUS ------------------------------------------------------ */

static void lock_take(void)
{
    for (;;) {
        uint32_t holder = 0, self = eg_rt.pid;
        if (__atomic_compare_exchange_n(&sig.lock, &holder, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED) ||
            (holder != self && __atomic_compare_exchange_n(&sig.lock, &holder, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)))
            return;
        eg_sys0(SYS_sched_yield);
    }
}

static void lock_give(void)
{
    __atomic_store_n(&sig.lock, 0, __ATOMIC_RELEASE);
}

static uint64_t enter(void)
{
    uint64_t old = mask_get();
    mask_change(SIG_SETMASK, EG_SIGNALS_ALL);
    lock_take();
    return old;
}

static void leave(uint64_t old)
{
    lock_give();
    mask_change(SIG_SETMASK, old);
}

/* --- threads and their stacks -------------------------------------------------------------------------------------------------- */

static int alt_holds(const stack_t *alt, uint64_t sp)
{
    uint64_t start = (uint64_t)alt->ss_sp;
    return sp > start && sp - start <= alt->ss_size;
}

/* The thread whose alternate stack of the runtime's this is; NULL: it is none. */
static struct thread *thread_of(const stack_t *alt)
{
    uint64_t at = (uint64_t)alt->ss_sp;
    if (alt->ss_size != sig.stride - sizeof(struct thread))
        return NULL;
    for (uint32_t i = 0; i < __atomic_load_n(&sig.n_chunks, __ATOMIC_ACQUIRE); i++)
        if (at - sig.chunk[i].start < sig.chunk[i].n * sig.stride)
            return (struct thread *)(at + alt->ss_size);
    return NULL;
}

static struct thread *thread_here(void)
{
    stack_t alt;
    alt_get(&alt);
    return thread_of(&alt);
}

int eg_signals_on_alternate(uint64_t sp)
{
    stack_t alt;
    alt_get(&alt);
    const struct thread *t = thread_of(&alt);
    return alt_holds(t ? &t->alt : &alt, sp);
}

/* Context: lock held. */
static struct thread *thread_new(void)
{
    struct thread *t = sig.free;
    if (t) {
        sig.free = t->next;
        return t;
    }
    uint32_t k = sig.n_chunks;
    if (!k || sig.n_used == sig.chunk[k - 1].n) {
        uint64_t n = (uint64_t)FIRST_STACKS << k;
        void *p = k < N_CHUNKS ? eg_sys_map(n * sig.stride) : NULL;
        if (!p)
            return NULL;
        sig.chunk[k].start = (uint64_t)p;
        sig.chunk[k].n = n;
        sig.n_used = 0;
        __atomic_store_n(&sig.n_chunks, ++k, __ATOMIC_RELEASE);
    }
    return (struct thread *)(sig.chunk[k - 1].start + ++sig.n_used * sig.stride) - 1;
}

static void thread_use(struct thread *t, const stack_t *alt)
{
    memset(t, 0, sizeof *t);
    t->alt = *alt;
    alt_set((uint8_t *)(t + 1) - sig.stride, 0, sig.stride - sizeof *t);
}

/* The calling thread's, which it gets if it has none. An alternate stack that it has by a way that the gate did not see becomes its own one. */
static struct thread *thread_get(void)
{
    stack_t alt;
    alt_get(&alt);
    struct thread *t = thread_of(&alt);
    if (t || alt.ss_flags & SS_ONSTACK)
        return t;
    if (alt.ss_flags & SS_DISABLE)
        alt = (stack_t){.ss_flags = SS_DISABLE};
    uint64_t old = enter();
    t = thread_new();
    if (t)
        thread_use(t, &alt);
    leave(old);
    return t;
}

void eg_signals_thread_begins(uint64_t robust)
{
    struct thread *t = thread_get();
    if (t && (uint32_t)eg_sys0(SYS_getpid) == eg_rt.pid)
        t->robust = robust;
}

uint64_t eg_signals_robust(void)
{
    const struct thread *t = thread_here();
    return t && (uint32_t)eg_sys0(SYS_getpid) == eg_rt.pid ? t->robust : 0;
}

uint64_t eg_signals_robust_next(uint64_t *at)
{
    for (uint64_t n, k = 0, i = (*at)++; k < __atomic_load_n(&sig.n_chunks, __ATOMIC_ACQUIRE); k++, i -= n) {
        n = sig.chunk[k].n;
        if (i < n)
            return ((const struct thread *)(sig.chunk[k].start + (i + 1) * sig.stride) - 1)->robust;
    }
    return EG_SIGNALS_NO_MORE;
}

void eg_signals_thread_ends(void)
{
    struct thread *t = thread_here();
    if (!t || (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid)
        return; /* the end of a vfork child is not the end of its parent's thread */
    uint64_t old = enter();
    alt_set(NULL, SS_DISABLE, 0);
    t->robust = 0;
    t->next = sig.free;
    sig.free = t;
    leave(old);
}

/* --- actions ------------------------------------------------------------------------------------------------------------------- */

static int kept_index(int s)
{
    for (uint32_t i = 0; i < N_KEPT; i++)
        if (kept[i] == s)
            return (int)i;
    return -1;
}

/* What the program set for s, of the process that is running. Context: lock held. */
static struct action *action_of(int s, struct thread *t)
{
    int k = kept_index(s);
    if (k >= 0 && t && t->child && t->child == (uint32_t)eg_sys0(SYS_getpid))
        return &t->child_kept[k];
    return &sig.action[s];
}

/* --- the handler ---------------------------------------------------------------------------------------------------------------- */

struct fault {
    uint64_t addr;
    int write;
};

static long fault_serve(void *arg)
{
    struct fault f = *(struct fault *)arg; /* before the lock: it may lie on the program's stack */
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
static long on_safe_stack(const struct thread *t, long (*fn)(void *), void *arg)
{
    uint64_t here = (uint64_t)__builtin_frame_address(0), top = (uint64_t)t;
    return t && here < top && here > top - sig.stride + FAULT_BYTES ? fn(arg) : eg_gate_on_stack(fn, arg);
}

/* The kernel itself writes a word there, so that a stack grows as it does under the kernel's own frames. */
static int touch(const struct thread *t, uint64_t at)
{
    for (int i = 0; i < TRIES; i++) {
        struct fault f = {at, 1};
        if (eg_sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, at, 8) == 0)
            return 1;
        if (!on_safe_stack(t, fault_serve, &f))
            return 0;
    }
    return 0;
}

/* Copies two pieces that lie in [start, end) of the program's memory, which may be away. Returns: 0, -EFAULT. */
static int put(const struct thread *t, uint64_t start, uint64_t end, const struct iovec from[2], const struct iovec to[2])
{
    long bytes = (long)(from[0].iov_len + from[1].iov_len);
    if (!touch(t, start))
        return -EFAULT;
    for (int i = 0; i < TRIES; i++) {
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
static const struct mask *waited(const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    const struct {
        uint64_t at, bytes; /* a pointer to the mask and its size */
        long nr, other;
    } call[] = {{(uint64_t)g[REG_RDI], (uint64_t)g[REG_RSI], SYS_rt_sigsuspend, -1},
                {(uint64_t)g[REG_R10], (uint64_t)g[REG_R8], SYS_ppoll, -1},
                {(uint64_t)g[REG_R8], (uint64_t)g[REG_R9], SYS_epoll_pwait, SYS_epoll_pwait2},
                {(uint64_t)g[REG_R9] - offsetof(struct mask, ptr), 8, SYS_pselect6, SYS_io_pgetevents}};
    if (g[REG_RAX] != -EINTR)
        return NULL;
    for (uint32_t i = 0; i < sizeof call / sizeof *call; i++) {
        uint64_t at = call[i].at - (uint64_t)sig.masks;
        int known = (at < N_MASKS * sizeof(struct mask) && at % sizeof(struct mask) == 0) || call[i].at == (uint64_t)&sig.no_mask;
        /* Only then is a jump at rip one of the gate's for sure. */
        long nr = known && call[i].bytes == 8 ? site_number((uint64_t)g[REG_RIP]) : -2;
        if (nr == -1 || nr == call[i].nr || (nr >= 0 && nr == call[i].other))
            return (const struct mask *)call[i].at;
    }
    return NULL;
}

/* Enter the program's handler, as the kernel does it: its frame on the program's stack; the runtime's own frame then leads there.
 * Source: arch/x86/kernel/signal.c, get_sigframe() and x64_setup_rt_frame(). Returns: 0, -EFAULT: no stack for it. */
static int handler_enter(int s, const struct action *a, const siginfo_t *info, ucontext_t *uc, struct thread *t)
{
    greg_t *g = uc->uc_mcontext.gregs;
    uint64_t sp = (uint64_t)g[REG_RSP], here = (uint64_t)__builtin_frame_address(0);
    uint64_t fpu = (uint64_t)uc->uc_mcontext.fpregs, fpu_len = fpu_bytes((const uint8_t *)fpu);
    const stack_t *alt = t ? &t->alt : &uc->uc_stack;
    int nested = alt_holds(alt, sp), enters = a->flags & SA_ONSTACK && alt->ss_size && !nested;
    if (!(a->flags & RESTORER_FLAG))
        return -EFAULT;
    sp -= EG_GATE_RED_ZONE;
    if (enters)
        sp = (uint64_t)alt->ss_sp + alt->ss_size;
    if (!t && alt_holds(alt, here) == (nested || enters))
        sp = here - EG_PAGE_BYTES; /* a thread that the gate does not know: the runtime's own frame is where the new one is to be */
    uint64_t fpu_to = (sp - fpu_len) & ~63ull, to = ((fpu_to - sizeof(struct signal_frame)) & ~15ull) - 8;
    if ((nested || enters) && !alt_holds(alt, to))
        return -EFAULT;

    struct signal_frame f = {.restorer = a->restorer, .info = *info};
    memcpy(f.context, uc, CONTEXT_BYTES);
    if (fpu)
        memcpy(f.context + offsetof(ucontext_t, uc_mcontext.fpregs), &fpu_to, sizeof fpu_to);
    struct pin pin = {eg_thread_pointer(), alt_holds(alt, to) ? to : to | EG_PIN_MAIN, {to, sp, 1}};
    if (eg_ranges_seen(&eg_rt.ranges, to, sp))
        on_safe_stack(t, pin_frame, &pin); /* rt_sigreturn reads it, and cannot wait */
    __atomic_fetch_add(&eg_rt.handlers, 1, __ATOMIC_RELAXED); /* after that: what is pinned by now is to last */
    struct iovec from[2] = {{&f, sizeof f}, {(void *)fpu, fpu_len}}, into[2] = {{(void *)to, sizeof f}, {(void *)fpu_to, fpu_len}};
    if (put(t, to, sp, from, into))
        return -EFAULT;

    const struct mask *waiting = waited(uc);
    if (waiting)
        *context_mask(uc) = waiting->mask;
    uint64_t self = a->flags & SA_NODEFER ? 0 : BIT(s);
    *context_mask(uc) |= mask_to_kernel(a->mask | self) | (self & BIT(PROXY)); /* in the handler of that one SIGBUS waits, too */
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

static int from_an_instruction(int s, int code)
{
    return s == SIGBUS ? code > 0 && code != BUS_MCEERR_AO : s == SIGSEGV && code > 0;
}

/* The default action ends the process: by the instruction that faults again, or by the signal that comes again. */
static void end(int s, const siginfo_t *info, ucontext_t *uc, int sent)
{
    struct action dfl = {0};
    action_set(s, &dfl);
    *context_mask(uc) &= ~BIT(s);
    if (sent)
        send_again(s, info, 0);
}

/* What of the program's action happens now; a handler that is to be taken once is gone. */
static struct action action_take(int s, struct thread *t)
{
    lock_take();
    struct action *at = action_of(s, t), a = *at;
    if (a.handler > IGNORE && a.flags & (unsigned)SA_RESETHAND)
        at->handler = DEFAULT;
    lock_give();
    return a;
}

/* No stack for the handler's frame: SIGSEGV, by its handler if that has one. */
static void no_stack(int s, ucontext_t *uc, struct thread *t)
{
    siginfo_t info = {.si_signo = SIGSEGV, .si_code = SI_KERNEL};
    if (s != SIGSEGV && !(*context_mask(uc) & BIT(SIGSEGV))) {
        struct action a = action_take(SIGSEGV, t);
        if (a.handler > IGNORE && handler_enter(SIGSEGV, &a, &info, uc, t) == 0)
            return;
    }
    end(SIGSEGV, &info, uc, 1);
}

static void arrived(int s, siginfo_t *info, ucontext_t *uc, struct thread *t)
{
    int sent = !from_an_instruction(s, info->si_code);
    const struct mask *waiting = s == SIGBUS && sent ? waited(uc) : NULL;
    if (s == SIGBUS && (waiting ? waiting->mask : *context_mask(uc)) & BIT(PROXY)) {
        if (!sent) {
            end(s, info, uc, 0);
            return;
        }
        info->si_errno = PROXIED;
        send_again(PROXY, info, info->si_code == SI_USER);
        return;
    }
    if (s == PROXY && info->si_errno == PROXIED) {
        s = info->si_signo = SIGBUS;
        info->si_errno = 0;
        sent = 1;
    }
    struct action a = action_take(s, t);
    if (a.handler > IGNORE) {
        if (handler_enter(s, &a, info, uc, t))
            no_stack(s, uc, t);
    } else if (a.handler == DEFAULT || !sent) {
        end(s, info, uc, sent);
    } else if (kept_index(s) < 0) {
        action_set(s, &(struct action){.handler = IGNORE}); /* it came between two settings */
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

#define ERR_WRITE 2

static void on_signal(int s, siginfo_t *info, ucontext_t *uc)
{
    struct thread *t = thread_of(&uc->uc_stack);
    int faulted = from_an_instruction(s, info->si_code);
    if (s == SIGBUS && info->si_code == BUS_ADRERR) {
        struct fault f = {(uint64_t)info->si_addr, (uc->uc_mcontext.gregs[REG_ERR] & ERR_WRITE) != 0};
        if (on_safe_stack(t, fault_serve, &f))
            return;
    }
    if (!faulted || !probe_failed(uc))
        arrived(s, info, uc, t);
}

/* The kernel's action for a signal that the program catches. */
static struct action action_caught(uint64_t flags)
{
    return (struct action){(uint64_t)on_signal, (flags & KERNEL_FLAGS) | SA_SIGINFO | SA_ONSTACK | RESTORER_FLAG, (uint64_t)eg_signals_restorer, ~0ull};
}

/* The same for one that is kept. What the program does not catch is not to end its system calls. */
static void action_keep(int s)
{
    const struct action *a = &sig.action[s == PROXY ? SIGBUS : s];
    struct action own = action_caught(a->handler > IGNORE ? a->flags & SA_RESTART : SA_RESTART);
    action_set(s, &own);
}

/* --- start ------------------------------------------------------------------------------------------------------------------------ */

int eg_signals_init(size_t frame_bytes)
{
    sig.stride = STACK_BYTES + ((frame_bytes > EG_PAGE_BYTES ? 4 * frame_bytes : 0) & ~(uint64_t)(EG_PAGE_BYTES - 1));
    sig.masks = eg_sys_map(N_MASKS * sizeof *sig.masks);
    struct thread *first = sig.masks ? thread_get() : NULL;
    uint64_t bytes;
    if (!first)
        return -ENOMEM;
    if (eg_sys3(SYS_get_robust_list, 0, &first->robust, &bytes)) /* given by the loader, before the gate was there */
        first->robust = 0;
    for (int s = 1; s <= N_SIGNALS; s++) {
        struct action *a = &sig.action[s];
        action_get(s, a);
        a->mask = mask_to_program(a->mask);
        if (kept_index(s) >= 0) {
            action_keep(s);
        } else if (a->handler > IGNORE) {
            struct action own = action_caught(a->flags);
            action_set(s, &own);
        }
    }
    mask_change(SIG_SETMASK, mask_to_kernel(mask_get()));
    return 0;
}

/* --- the program's calls ------------------------------------------------------------------------------------------------------------ */

/* A fault on memory that is not there is the end of a thread that blocks SIGSEGV: where the word is not beside the call's frame, the kernel looks first. */
static int reachable(uint64_t at, int write)
{
    const uint64_t in_page = EG_PAGE_BYTES - 1;
    if ((at & ~in_page) == ((uint64_t)__builtin_frame_address(0) & ~in_page) && (at & in_page) <= EG_PAGE_BYTES - 8)
        return 1;
    for (int i = 0; i < TRIES; i++) {
        struct fault first = {at, write}, last = {at + 7, write};
        /* The word is read, and then `how` is wrong; or the mask is written to where something else will be. */
        long rc = write ? eg_sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, at, 8) : eg_sys4(SYS_rt_sigprocmask, NO_HOW, at, 0, 8);
        if (rc != -EFAULT)
            return 1;
        if (!(eg_gate_alone(fault_serve, &first) | eg_gate_alone(fault_serve, &last)))
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
static long action_change(int s, const struct action *to)
{
    if (kept_index(s) >= 0) {
        const struct action drop = {.handler = IGNORE};
        int waits_as = s == SIGBUS ? PROXY : s;
        sig.action[s] = *to;
        if (to->handler == IGNORE)
            action_set(waits_as, &drop);
        action_keep(s);
        action_keep(waits_as);
        return 0;
    }
    struct action k = to->handler > IGNORE ? action_caught(to->flags) : *to;
    if (to->handler <= IGNORE)
        k.mask = mask_to_kernel(to->mask);
    long rc = action_set(s, &k);
    if (!rc)
        sig.action[s] = *to;
    return rc;
}

/* A vfork child (or one that the gate did not see): its actions are its own, the table is its parent's. Its handlers are the kernel's business,
 * but for the signals that are kept. Context: lock held. */
static long action_change_child(int s, const struct action *to, struct thread *t)
{
    int k = kept_index(s);
    if (k < 0) {
        struct action a = *to;
        a.mask = mask_to_kernel(a.mask);
        return action_set(s, &a);
    }
    if (!t)
        return 0;
    uint32_t pid = (uint32_t)eg_sys0(SYS_getpid);
    if (t->child != pid) {
        for (uint32_t i = 0; i < N_KEPT; i++)
            t->child_kept[i] = sig.action[kept[i]];
        t->child = pid;
    }
    t->child_kept[k] = *to;
    return 0;
}

static long call_action(struct eg_gate_frame *f)
{
    int s = (int)f->arg[0];
    uint64_t to = (uint64_t)f->arg[1], old_to = (uint64_t)f->arg[2];
    struct action new, old;
    if (f->arg[3] != 8 || s < 1 || s > N_SIGNALS || s == SIGKILL || s == SIGSTOP || (!to && !old_to))
        return pass(f);
    if (to && peek_words(to, (uint64_t *)&new, 4))
        return -EFAULT;
    new.flags &= KNOWN_FLAGS;
    new.mask &= ~(BIT(SIGKILL) | BIT(SIGSTOP));
    int child = (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid;
    struct thread *t = child ? thread_here() : NULL;
    long rc = 0;
    uint64_t mask = enter();
    old = *action_of(s, t);
    if (child && kept_index(s) < 0) {
        struct action k;
        action_get(s, &k);
        if (k.handler != (uint64_t)on_signal) {
            old = k;
            old.mask = mask_to_program(k.mask);
        }
    }
    if (to)
        rc = child ? action_change_child(s, &new, t) : action_change(s, &new);
    leave(mask);
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
    const struct mask *place = from && !old_to ? mask_place(mask_to_kernel(m)) : NULL;
    if (place) {
        f->arg[1] = (long)&place->mask;
        return pass(f);
    }
    uint64_t old = old_to ? mask_get() : 0;
    long rc = from ? mask_change((int)f->arg[0], mask_to_kernel(m)) : 0;
    old = mask_to_program(old);
    return !rc && old_to ? poke_words(old_to, &old, 1) : rc;
}

static long call_pending(struct eg_gate_frame *f)
{
    uint64_t m;
    if (f->arg[1] != 8)
        return pass(f);
    do
        *(volatile uint64_t *)&m = 0;
    while (eg_sys2(SYS_rt_sigpending, &m, 8) == -EFAULT);
    m = mask_to_program(m);
    return poke_words((uint64_t)f->arg[0], &m, 1);
}

static long call_alt(struct eg_gate_frame *f)
{
    uint64_t from = (uint64_t)f->arg[0], old_to = (uint64_t)f->arg[1];
    struct thread *t = thread_get();
    stack_t to, old;
    if (!t)
        return pass(f);
    if (from && peek_words(from, (uint64_t *)&to, 3))
        return -EFAULT;
    int on = alt_holds(&t->alt, (uint64_t)f);
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
        uint64_t mask = mask_get();
        mask_change(SIG_SETMASK, EG_SIGNALS_ALL);
        t->alt = off ? (stack_t){.ss_flags = SS_DISABLE} : to;
        mask_change(SIG_SETMASK, mask);
    }
    return old_to ? poke_words(old_to, (const uint64_t *)&old, 3) : 0;
}

/* A mask at arg[i], its size behind it. What is wrong with them the kernel says. */
static long call_waits(struct eg_gate_frame *f, int i)
{
    uint64_t m;
    if (f->arg[i] && f->arg[i + 1] == 8 && !peek_words((uint64_t)f->arg[i], &m, 1)) {
        const struct mask *place = mask_place(mask_to_kernel(m));
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
        const struct mask *place = mask_place(mask_to_kernel(m));
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
    uint64_t mask = mask_get();
    const struct action ignore = {.handler = IGNORE};
    struct thread *t = thread_here();
    uint32_t ignored = 0;
    for (uint32_t i = 0; i < N_KEPT; i++)
        ignored |= (action_of(kept[i], t)->handler == IGNORE) << i;
    if (!ignored && !(mask & BIT(PROXY)))
        return pass(f);
    for (uint32_t i = 0; i < N_KEPT; i++)
        if (ignored & 1u << i)
            action_set(kept[i], &ignore);
    mask_change(SIG_SETMASK, mask_to_program(mask));
    long ret = eg_syscall6(f->nr, f->arg[0], f->arg[1], f->arg[2], f->arg[3], f->arg[4], f->arg[5]);
    mask_change(SIG_SETMASK, mask);
    for (uint32_t i = 0; i < N_KEPT; i++)
        if (ignored & 1u << i)
            action_keep(kept[i]);
    return ret;
}
