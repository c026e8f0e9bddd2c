/* signal_state.c - what the program has set of signals, and the alternate stacks of its threads. See eg_signals_state.h. */
#include "client/gate/eg_signals_state.h"
#include "client/pager/eg_pager.h"

#include <errno.h>

#define STACK_BYTES (64u << 10)
#define FAULT_BYTES (40u << 10) /* what serving a fault may need of it */
#define FIRST_STACKS 16u
#define N_CHUNKS 16
#define N_MASKS 8192u

const uint8_t eg_sig_kept[EG_SIG_N_KEPT] = {SIGBUS, SIGSEGV, EG_SIG_PROXY};
struct eg_sigaction eg_sig_actions[EG_SIG_N + 1];

static struct {
    uint32_t lock; /* eg_rt.pid of the holder: one from before a fork is no more */
    uint64_t stride; /* a stack and its struct eg_sig_thread */
    struct {
        uint64_t start, n;
    } chunk[N_CHUNKS]; /* each twice the size of the last */
    uint32_t n_chunks, n_used; /* stacks of the last chunk that were given out */
    struct eg_sig_thread *free;
    struct eg_sig_mask *masks, no_mask;
} own;

/* --- the kernel ------------------------------------------------------------------------------------------------------------- */

/* The program's stack may leave between a store and the kernel's look at it: then once more. */
uint64_t eg_sig_mask_get(void)
{
    uint64_t m;
    do
        *(volatile uint64_t *)&m = 0;
    while (eg_sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, &m, 8));
    return m;
}

long eg_sig_mask_change(int how, uint64_t m)
{
    uint64_t copy;
    long rc;
    do {
        *(volatile uint64_t *)&copy = m;
        rc = eg_sys4(SYS_rt_sigprocmask, how, &copy, 0, 8);
    } while (rc == -EFAULT);
    return rc;
}

long eg_sig_action_set(int s, const struct eg_sigaction *a)
{
    struct eg_sigaction copy;
    long rc;
    do {
        *(volatile uint64_t *)&copy.mask = 0;
        copy = *a;
        rc = eg_sys4(SYS_rt_sigaction, s, &copy, 0, 8);
    } while (rc == -EFAULT);
    return rc;
}

void eg_sig_action_get(int s, struct eg_sigaction *ret_a)
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

/* --- masks ---------------------------------------------------------------------------------------------------------------- */

uint64_t eg_sig_mask_to_kernel(uint64_t m)
{
    uint64_t bus = m & EG_SIG_BIT(SIGBUS);
    m &= ~(EG_SIG_BIT(SIGBUS) | EG_SIG_BIT(EG_SIG_PROXY));
    return bus ? m | EG_SIG_BIT(EG_SIG_PROXY) : m;
}

uint64_t eg_sig_mask_to_program(uint64_t m)
{
    return m & EG_SIG_BIT(EG_SIG_PROXY) ? m | EG_SIG_BIT(SIGBUS) : m;
}

static struct eg_sig_mask *mask_slot(uint64_t m)
{
    uint32_t at = (uint32_t)((m * 0x9e3779b97f4a7c15ull) >> 32) % N_MASKS;
    for (uint32_t n = 0; n < N_MASKS; n++, at = (at + 1) % N_MASKS) {
        struct eg_sig_mask *e = &own.masks[at];
        uint64_t there = 0;
        if (__atomic_compare_exchange_n(&e->mask, &there, m, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED) || there == m)
            return e;
    }
    return NULL;
}

const struct eg_sig_mask *eg_sig_mask_place(uint64_t m)
{
    struct eg_sig_mask *e = m ? mask_slot(m) : &own.no_mask;
    if (e) { /* whoever finds it writes the same */
        __atomic_store_n(&e->ptr, (uint64_t)&e->mask, __ATOMIC_RELAXED);
        __atomic_store_n(&e->len, 8, __ATOMIC_RELAXED);
    }
    return e;
}

const struct eg_sig_mask *eg_sig_mask_at(uint64_t addr)
{
    uint64_t at = addr - (uint64_t)own.masks;
    int is = (at < N_MASKS * sizeof *own.masks && at % sizeof *own.masks == 0) || addr == (uint64_t)&own.no_mask;
    return is ? (const struct eg_sig_mask *)addr : NULL;
}

/* --- the lock --------------------------------------------------------------------------------------------------------------------- */

void eg_sig_lock(void)
{
    for (;;) {
        uint32_t holder = 0, self = eg_rt.pid;
        if (__atomic_compare_exchange_n(&own.lock, &holder, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED) ||
            (holder != self && __atomic_compare_exchange_n(&own.lock, &holder, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)))
            return;
        eg_sys0(SYS_sched_yield);
    }
}

void eg_sig_unlock(void)
{
    __atomic_store_n(&own.lock, 0, __ATOMIC_RELEASE);
}

uint64_t eg_sig_enter(void)
{
    uint64_t old = eg_sig_mask_get();
    eg_sig_mask_change(SIG_SETMASK, EG_SIGNALS_ALL);
    eg_sig_lock();
    return old;
}

void eg_sig_leave(uint64_t old)
{
    eg_sig_unlock();
    eg_sig_mask_change(SIG_SETMASK, old);
}

/* --- threads and their stacks -------------------------------------------------------------------------------------------------- */

int eg_sig_alt_holds(const stack_t *alt, uint64_t sp)
{
    uint64_t start = (uint64_t)alt->ss_sp;
    return sp > start && sp - start <= alt->ss_size;
}

struct eg_sig_thread *eg_sig_thread_of(const stack_t *alt)
{
    uint64_t at = (uint64_t)alt->ss_sp;
    if (alt->ss_size != own.stride - sizeof(struct eg_sig_thread))
        return NULL;
    for (uint32_t i = 0; i < __atomic_load_n(&own.n_chunks, __ATOMIC_ACQUIRE); i++)
        if (at - own.chunk[i].start < own.chunk[i].n * own.stride)
            return (struct eg_sig_thread *)(at + alt->ss_size);
    return NULL;
}

struct eg_sig_thread *eg_sig_thread_here(void)
{
    stack_t alt;
    alt_get(&alt);
    return eg_sig_thread_of(&alt);
}

int eg_sig_thread_holds(const struct eg_sig_thread *t, uint64_t sp)
{
    uint64_t top = (uint64_t)t;
    return sp < top && sp > top - own.stride + FAULT_BYTES;
}

int eg_signals_on_alternate(uint64_t sp)
{
    stack_t alt;
    alt_get(&alt);
    const struct eg_sig_thread *t = eg_sig_thread_of(&alt);
    return eg_sig_alt_holds(t ? &t->alt : &alt, sp);
}

/* Context: lock held. */
static struct eg_sig_thread *thread_new(void)
{
    struct eg_sig_thread *t = own.free;
    if (t) {
        own.free = t->next;
        return t;
    }
    uint32_t k = own.n_chunks;
    if (!k || own.n_used == own.chunk[k - 1].n) {
        uint64_t n = (uint64_t)FIRST_STACKS << k;
        void *p = k < N_CHUNKS ? eg_sys_map(n * own.stride) : NULL;
        if (!p)
            return NULL;
        own.chunk[k].start = (uint64_t)p;
        own.chunk[k].n = n;
        own.n_used = 0;
        __atomic_store_n(&own.n_chunks, ++k, __ATOMIC_RELEASE);
    }
    return (struct eg_sig_thread *)(own.chunk[k - 1].start + ++own.n_used * own.stride) - 1;
}

static void thread_use(struct eg_sig_thread *t, const stack_t *alt)
{
    memset(t, 0, sizeof *t);
    t->alt = *alt;
    t->owner = (uint32_t)eg_sys0(SYS_gettid);
    alt_set((uint8_t *)(t + 1) - own.stride, 0, own.stride - sizeof *t);
}

/* The calling thread's, which it gets if it has none. An alternate stack that it has by a way that the gate did not see becomes its own one. */
struct eg_sig_thread *eg_sig_thread_get(void)
{
    stack_t alt;
    alt_get(&alt);
    struct eg_sig_thread *t = eg_sig_thread_of(&alt);
    if (t || alt.ss_flags & SS_ONSTACK)
        return t;
    if (alt.ss_flags & SS_DISABLE)
        alt = (stack_t){.ss_flags = SS_DISABLE};
    uint64_t old = eg_sig_enter();
    t = thread_new();
    if (t)
        thread_use(t, &alt);
    eg_sig_leave(old);
    return t;
}

void eg_signals_thread_begins(uint64_t robust)
{
    struct eg_sig_thread *t = eg_sig_thread_get();
    if (t && (uint32_t)eg_sys0(SYS_getpid) == eg_rt.pid)
        t->robust = robust;
}

uint64_t eg_signals_robust(void)
{
    const struct eg_sig_thread *t = eg_sig_thread_here();
    return t && (uint32_t)eg_sys0(SYS_getpid) == eg_rt.pid ? t->robust : 0;
}

uint64_t eg_signals_robust_next(uint64_t *at)
{
    for (uint64_t n, k = 0, i = (*at)++; k < __atomic_load_n(&own.n_chunks, __ATOMIC_ACQUIRE); k++, i -= n) {
        n = own.chunk[k].n;
        if (i < n)
            return ((const struct eg_sig_thread *)(own.chunk[k].start + (i + 1) * own.stride) - 1)->robust;
    }
    return EG_SIGNALS_NO_MORE;
}

void eg_signals_thread_ends(void)
{
    struct eg_sig_thread *t = eg_sig_thread_here();
    if (!t || (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid)
        return; /* the end of a vfork child is not the end of its parent's thread */
    uint64_t old = eg_sig_enter();
    alt_set(NULL, SS_DISABLE, 0);
    t->robust = 0;
    t->next = own.free;
    own.free = t;
    eg_sig_leave(old);
}

/* --- actions ------------------------------------------------------------------------------------------------------------------- */

int eg_sig_kept_index(int s)
{
    for (uint32_t i = 0; i < EG_SIG_N_KEPT; i++)
        if (eg_sig_kept[i] == s)
            return (int)i;
    return -1;
}

struct eg_sigaction *eg_sig_action_of(int s, struct eg_sig_thread *t)
{
    int k = eg_sig_kept_index(s);
    if (k >= 0 && t && t->child && t->child == (uint32_t)eg_sys0(SYS_getpid))
        return &t->child_kept[k];
    return &eg_sig_actions[s];
}

/* --- start ------------------------------------------------------------------------------------------------------------------------ */

int eg_sig_state_init(size_t frame_bytes)
{
    own.stride = STACK_BYTES + ((frame_bytes > EG_PAGE_BYTES ? 4 * frame_bytes : 0) & ~(uint64_t)(EG_PAGE_BYTES - 1));
    own.masks = eg_sys_map(N_MASKS * sizeof *own.masks);
    return own.masks ? 0 : -ENOMEM;
}
