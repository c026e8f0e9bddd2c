#include "client/gate/eg_buffers.h"
#include "client/gate/eg_robust.h"
#include "client/gate/eg_signals.h"
#include "client/pager/eg_capture.h"
#include "client/pager/eg_inline.h"
#include "client/threads/eg_home.h"

#include <errno.h>
#include <linux/prctl.h>
#include <linux/shm.h>
#include <signal.h>
#include <sys/mman.h>

/* Calls that take the pager's lock run on a stack of the gate's own: the program's stack may be captured memory, and a fault on
 * it under the lock could not be served. */
#define STACKS 64
#define STACK_BYTES (32u << 10)

static uint8_t *stacks;
static uint64_t stacks_used;

#define CLONE_FLAG_VM 0x100ul
#define CLONE_FLAG_FILES 0x400ul
#define CLONE_FLAG_THREAD 0x10000ul
#define CLONE_FLAG_SETTLS 0x80000ul
#define STACK_TOP_BYTES (32ul << 10)
#define STACK_RAW_BYTES (256ul << 10)
#define CLONE3_BYTES_MAX 256u
#define NR_set_robust_list 273
#define PTRACE_TRACEME 0
#define NR_select 23
#define NR_mlockall 151
#define NR_exit_group 231
#define NR_pselect6 270
#define SECCOMP_SET_MODE_LAST 1u /* strict, filter */

enum {
#define X(name, number, needed) NR_##name = number,
    EG_GATE_CALLS(X)
#undef X
};

int eg_gate_init(void)
{
    stacks = eg_sys_map((size_t)STACKS * STACK_BYTES);
    if (stacks && eg_home.on)
        eg_home_private_add((uint64_t)stacks, (uint64_t)stacks + (uint64_t)STACKS * STACK_BYTES);
    return stacks ? 0 : -ENOMEM;
}

static uint32_t stack_take(void)
{
    for (;;) {
        uint64_t used = __atomic_load_n(&stacks_used, __ATOMIC_RELAXED);
        if (~used == 0) {
            eg_sys0(SYS_sched_yield);
            continue;
        }
        uint32_t i = (uint32_t)__builtin_ctzll(~used);
        if (__atomic_compare_exchange_n(&stacks_used, &used, used | 1ull << i, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return i;
    }
}

long eg_gate_on_stack(long (*fn)(void *), void *arg)
{
    uint32_t i = stack_take(), pid = eg_rt.pid;
    long ret = eg_gate_call_on(stacks + (size_t)(i + 1) * STACK_BYTES, fn, arg);
    if (eg_rt.pid != pid) { /* fork child: the other threads are not here */
        __atomic_store_n(&stacks_used, 1ull << i, __ATOMIC_RELAXED);
        eg_gate_aio_child();
    }
    __atomic_fetch_and(&stacks_used, ~(1ull << i), __ATOMIC_RELEASE);
    return ret;
}

/* Inline, the kernel's access to the program's stack fails when that is captured memory which has just left: then once more. */
static uint64_t signals_off(void)
{
    static const uint64_t all[] = {~0ull, EG_SIGNALS_ALL};
    uint64_t old = 0;
    if (eg_gate_all && eg_ranges_seen(&eg_rt.ranges, (uint64_t)&old, (uint64_t)(&old + 1))) {
        do /* the old mask alone, first: it is lost when the new one is set, but the copy fails */
            *(volatile uint64_t *)&old = 0;
        while (eg_sys4(SYS_rt_sigprocmask, SIG_BLOCK, 0, &old, 8) == -EFAULT);
        eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all[1], 0, 8);
        return old;
    }
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all[eg_gate_all != 0], &old, 8);
    return old;
}

static void signals_back(uint64_t old)
{
    long rc;
    do {
        uint64_t copy;
        *(volatile uint64_t *)&copy = old;
        rc = eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &copy, 0, 8);
    } while (rc == -EFAULT);
}

long eg_gate_alone(long (*fn)(void *), void *arg)
{
    uint64_t old = signals_off();
    long ret = eg_gate_on_stack(fn, arg);
    signals_back(old);
    return ret;
}

/* A new thread has no alternate stack until its first call: a fault on its stack could not be served. */
static void pin_stack(const struct eg_clone_args *a)
{
    uint64_t top = eg_clone_stack(a), bytes = a->flags & CLONE_FLAG_SETTLS ? STACK_TOP_BYTES : STACK_RAW_BYTES;
    struct eg_span_rw span = {top > bytes ? top - bytes : 0, top, 1};
    if (eg_ranges_seen(&eg_rt.ranges, span.start, span.end))
        eg_pin_more(a->flags & CLONE_FLAG_SETTLS ? a->tls : top, ~0ull, &span, 1);
}

int eg_clone_args_read(long nr, const long arg[6], struct eg_clone_args *ret_args)
{
    struct eg_clone_args a = {0};
    if (nr == NR_clone) {
        a.flags = (uint64_t)arg[0];
        a.stack = (uint64_t)arg[1];
        a.parent_tid = (uint64_t)arg[2];
        a.child_tid = (uint64_t)arg[3];
        a.tls = (uint64_t)arg[4];
    } else if (nr == NR_vfork) {
        a.flags = CLONE_FLAG_VM;
    } else if (nr == NR_clone3) {
        /* The pointer may be anything: the kernel's copy fails where ours would crash. */
        size_t bytes = (size_t)arg[1] < sizeof a ? (size_t)arg[1] : sizeof a;
        if (eg_sys_copy_in(&a, (uint64_t)arg[0], bytes) != (long)bytes)
            return 0;
    }
    *ret_args = a;
    return 1;
}

/* A stack that the kernel refuses, or on which the child ends at once. */
static int no_stack(long nr, const struct eg_clone_args *a)
{
    uint64_t top = eg_clone_stack(a);
    return (nr == NR_clone3 && !a->stack != !a->stack_size) || top < a->stack || top < EG_PAGE_BYTES || top > 1ull << EG_ADDR_BITS;
}

/* A new process. On a stack of its own it begins like any other, with a pager and sessions, and changes to that stack when they are there.
 * ret_pass: in the child, its stack's top. */
static long fork_with(long (*make)(long, const long *), long nr, const long arg[6], const struct eg_clone_args *a, long *ret_pass)
{
    union {
        struct eg_clone_args args;
        uint8_t bytes[CLONE3_BYTES_MAX];
    } copy;
    long own[6];
    if (!a->stack && !a->stack_size)
        return make(nr, arg);
    if (no_stack(nr, a)) {
        *ret_pass = 1;
        return 0;
    }
    memcpy(own, arg, sizeof own);
    if (nr == NR_clone) {
        own[1] = 0;
    } else {
        if ((uint64_t)arg[1] > sizeof copy)
            return -E2BIG;
        if (eg_sys_copy_in(&copy, (uint64_t)arg[0], (size_t)arg[1]) != arg[1])
            return -EFAULT;
        copy.args.stack = copy.args.stack_size = 0;
        own[0] = (long)&copy;
    }
    long ret = make(nr, own);
    if (ret == 0)
        *ret_pass = (long)eg_clone_stack(a);
    return ret;
}

static long spawn(long nr, const long arg[6], long *ret_pass)
{
    struct eg_clone_args a;
    if (!eg_clone_args_read(nr, arg, &a)) {
        *ret_pass = 1;
        return 0;
    }
    if (!(a.flags & CLONE_FLAG_THREAD))
        __atomic_store_n(&eg_rt.pool->sole, 0, __ATOMIC_RELAXED);
    if (a.flags & CLONE_FLAG_VM) {
        eg_cap_spawn((long)a.flags, (long)a.tls);
        if (eg_rt.inlined && a.stack)
            pin_stack(&a);
        *ret_pass = 1; /* the child comes back on another stack: the call has to be made in place */
        return 0;
    }
    if (a.flags & CLONE_FLAG_FILES) {
        *ret_pass = !eg_rt.active;
        return -ENOMEM; /* a new process with this one's descriptors: its pager could not be started */
    }
    return fork_with(eg_cap_fork, nr, arg, &a, ret_pass);
}

/* What gate.S pushed below the frame, and where the call returns to. */
static void state_of(const struct eg_gate_frame *f, struct eg_thread_state *ret_state)
{
    const uint64_t *at = (const uint64_t *)f, *end = (const uint64_t *)(f + 1);
    memset(ret_state, 0, sizeof *ret_state);
    ret_state->rbp = at[-1];
    ret_state->rbx = at[-2];
    ret_state->r12 = at[-3];
    ret_state->r13 = at[-4];
    ret_state->r14 = at[-5];
    ret_state->r15 = at[-6];
    ret_state->rdi = (uint64_t)f->arg[0];
    ret_state->rsi = (uint64_t)f->arg[1];
    ret_state->rdx = (uint64_t)f->arg[2];
    ret_state->r10 = (uint64_t)f->arg[3];
    ret_state->r8 = (uint64_t)f->arg[4];
    ret_state->r9 = (uint64_t)f->arg[5];
    ret_state->eflags = 0x202;
    ret_state->rip = end[0]; /* into the trampoline, which undoes the red zone's skip */
}

/* A new thread of libc's is about to run the program's function: from here on it may be elsewhere. */
static long thread_begins(struct eg_gate_frame *f)
{
    struct eg_thread *t = eg_home.active ? eg_home_starting() : NULL;
    struct eg_thread_state state;
    long ret = eg_sys4(SYS_rt_sigprocmask, f->arg[0], f->arg[1], f->arg[2], f->arg[3]);
    if (t) {
        state_of(f, &state);
        state.rax = (uint64_t)ret;
        state.rsp = (uint64_t)(f + 1) + 8;
        eg_home_begin(t, &state);
    }
    return ret;
}

/* It goes on on a node, with this call to make. */
static void thread_visits(struct eg_gate_frame *f)
{
    struct eg_thread *t = eg_home_visitor();
    struct eg_thread_state state;
    if (!t)
        return;
    state_of(f, &state);
    state.rip += EG_GATE_PASS_BYTES;
    state.rax = (uint64_t)f->nr;
    state.rsp = (uint64_t)(f + 1) + 8;
    eg_home_begin(t, &state);
}

/* The calls of a program whose threads may be away: memory is one authority's, and threads begin and end under its eyes. */
static long with_nodes(struct eg_gate_frame *f, const long a[6], uint64_t mask)
{
    struct eg_thread_state state;
    switch (f->nr) {
    case NR_clone:
    case NR_clone3:
    case NR_fork:
    case NR_vfork:
        switch (eg_home_clones(f->nr, a)) {
        case EG_CLONES_THREAD:
            eg_rt.spawned = 1;
            state_of(f, &state);
            return eg_home_clone(f->nr, a, &state, NULL, mask, EG_GATE_RED_ZONE);
        case EG_CLONES_PROCESS: {
            struct eg_view_mask own;
            struct eg_clone_args args;
            long pass = 0;
            eg_view_inherit(&own);
            long ret = eg_clone_args_read(f->nr, a, &args) ? fork_with(eg_home_fork, f->nr, a, &args, &pass) : -EFAULT;
            if (ret == 0 && pass != 1)
                eg_view_child(&own);
            f->pass = pass;
            return ret;
        }
        case EG_CLONES_REFUSED: return -ENOMEM;
        case EG_CLONES_IN_PLACE:
            if (eg_home.far)
                eg_cap_spawn(CLONE_FLAG_VM, 0);
            f->pass = 1;
            return 0;
        case EG_CLONES_APART: f->pass = 1; return 0;
        }
        return -ENOMEM;
    default: return eg_home_memory(f->nr, a);
    }
}

/* --- every call, where faults are served inline --------------------------------------------------------------------------- */

const uint64_t *eg_gate_harmless(void)
{
    static uint64_t harmless[EG_GATE_HARMLESS_WORDS];
    for (uint32_t nr = 0; !harmless[0] && nr < 64 * EG_GATE_HARMLESS_WORDS; nr++)
        if (!eg_call_has_pointers(nr) && !eg_call_declined(nr) && !eg_signals_wants(nr))
            harmless[nr / 64] |= 1ull << (nr % 64);
    return harmless;
}

int eg_gate_inline(size_t frame_bytes)
{
    int rc = eg_signals_init(frame_bytes);
    if (rc)
        return rc;
    eg_rt.inlined = 1;
    eg_rt.began = eg_gate_pin_blocked;
    return 0;
}

/* A library that is loaded later. What it calls past the gate may be refused a buffer that is away: then a thread has to serve the faults. */
static void late_code(uint64_t start, uint64_t bytes, int fd, uint64_t offset)
{
    struct eg_gate_verdict v = {0};
    bytes = eg_page_up(bytes);
    uint64_t lo = offset, hi = offset + bytes;
    eg_gate_code(fd, NULL, &lo, &hi);
    if (eg_gate_patch_late(start, bytes, lo - offset, hi - offset, eg_gate_harmless(), &v) >= 0 && !v.n_left)
        return;
    __atomic_store_n(&eg_rt.pool->sole, 0, __ATOMIC_RELAXED);
    eg_cap_enter();
    if (!eg_rt.active)
        eg_rt.inlined = 0;
    else if (eg_rt.inlined)
        eg_warn_once(EG_WARN_LATE, "a library was loaded whose system calls are not all seen; they may fail with EFAULT; use --fault-engine handler", NULL);
    eg_cap_leave(0);
}

static long sandbox_begins(void *unused)
{
    (void)unused;
    eg_cap_sandbox();
    return 0;
}

static long all_is_locked(void *unused)
{
    (void)unused;
    eg_fetch_views_end();
    return 0;
}

/* Returns: 1 the call is done, *ret_result; 0 go on. */
static int inline_first(struct eg_gate_frame *f, long *ret_result)
{
    switch (f->nr) {
    case NR_set_robust_list: eg_signals_thread_begins((uint64_t)f->arg[1] == EG_ROBUST_BYTES ? (uint64_t)f->arg[0] : 0); break;
    case NR_mlockall:
        if (eg_rt.inlined)
            eg_gate_alone(all_is_locked, NULL);
        break;
    case NR_select:
    case NR_pselect6: f->arg[0] = eg_gate_set_bits(f->arg[0]); break;
    case NR_prctl:
        if ((uint32_t)f->arg[0] == PR_SET_SECCOMP && eg_rt.inlined)
            eg_gate_alone(sandbox_begins, NULL);
        break;
    case NR_seccomp:
        if ((uint32_t)f->arg[0] <= SECCOMP_SET_MODE_LAST && eg_rt.inlined)
            eg_gate_alone(sandbox_begins, NULL);
        break;
    case NR_ptrace: /* also before pages can be away: that may begin before the child's execve */
        if ((uint64_t)f->arg[0] == PTRACE_TRACEME && eg_rt.inlined && eg_signals_traceme(ret_result))
            return 1;
        break;
    case NR_exit:
        if (eg_rt.inlined && eg_rt.active) {
            eg_gate_robust_end();
            eg_gate_unpin();
        }
        if (!eg_rt.shut_in) /* else its stack stays taken */
            eg_signals_thread_ends();
        return 0;
    case NR_exit_group:
        if (eg_rt.inlined && eg_rt.active)
            eg_gate_robust_stays();
        return 0;
    default: break;
    }
    if (eg_call_declined((uint32_t)f->nr)) {
        *ret_result = -ENOSYS;
        return 1;
    }
    if (eg_signals_wants(f->nr)) {
        *ret_result = eg_signals_call(f);
        if (!f->pass)
            return 1;
    }
    if (eg_rt.active && eg_rt.inlined && (eg_gate_aio(f, ret_result) || eg_gate_pin(f, ret_result))) {
        f->pass = 0;
        return 1;
    }
    if (f->nr == NR_execve || f->nr == NR_execveat) {
        __atomic_store_n(&eg_rt.pool->sole, 0, __ATOMIC_RELAXED);
        *ret_result = eg_signals_exec(f);
        return 1;
    }
    return 0;
}

static void sets_itself(const struct eg_gate_frame *f)
{
    if (f->nr == NR_seccomp || (uint32_t)f->arg[0] == PR_SET_SECCOMP) {
        eg_rt.shut_in = 1;
        if (eg_rt.active || eg_home.active)
            eg_pager_kick(); /* it looks from now on whether this thread is still there */
    }
    if (f->nr == NR_prctl && (uint32_t)f->arg[0] == PR_SET_TSC && (int32_t)f->arg[1] == PR_TSC_SIGSEGV)
        eg_sys_clock_init(NULL); /* the vDSO's clock needs what is being forbidden */
}

static long slow(void *arg)
{
    struct eg_gate_frame *f = arg;
    /* The frame is on the program's stack, which may be captured memory: nothing of it is needed under the lock. */
    long a[6];
    uint64_t mask = (uint64_t)f->pass;
    f->pass = 0;
    for (int i = 0; i < 6; i++)
        a[i] = f->arg[i];
    switch (f->nr) {
    case NR_sched_setaffinity:
    case NR_sched_getaffinity:
    case NR_open:
    case NR_openat:
    case NR_lseek: {
        long pass = 0, ret = eg_view_call(f->nr, a, &pass);
        f->pass = pass;
        return ret;
    }
    default: break;
    }
    if (eg_home.on && f->nr != NR_dup2 && f->nr != NR_dup3 && f->nr != NR_close_range)
        return with_nodes(f, a, mask);
    switch (f->nr) {
    case NR_mmap: {
        long ret = eg_rt.hinted ? eg_hints_memory(f->nr, a, (uint64_t)(f + 1)) : eg_cap_memory(f->nr, a);
        if (eg_gate_all && !eg_sys_failed(ret) && a[2] & PROT_EXEC && !(a[3] & MAP_ANONYMOUS))
            late_code((uint64_t)ret, (uint64_t)a[1], (int)a[4], (uint64_t)a[5]);
        return ret;
    }
    case NR_munmap:
    case NR_mremap:
    case NR_mprotect:
    case NR_madvise:
    case NR_brk:
    case NR_pkey_mprotect: return eg_rt.hinted ? eg_hints_memory(f->nr, a, (uint64_t)(f + 1)) : eg_cap_memory(f->nr, a);
    case NR_clone:
    case NR_clone3:
    case NR_vfork:
    case NR_fork: {
        long pass = 0, ret = spawn(f->nr, a, &pass);
        f->pass = pass;
        return ret;
    }
    case NR_dup2:
    case NR_dup3: {
        int rc = eg_cap_fd_move_away(a[1]);
        f->pass = !rc;
        return rc;
    }
    case NR_close_range: return eg_cap_close_range(a[0], a[1], a[2]);
    case NR_process_madvise: return eg_cap_process_madvise(a);
    case NR_shmat: return eg_cap_shmat(a[0], a[1], a[2]);
    default: f->pass = 1; return 0;
    }
}

/* As MADV_MERGEABLE: a hint, not taken. What was on before is off when the pager begins. */
static int merges_memory(const struct eg_gate_frame *f)
{
    return f->nr == NR_prctl && eg_rt.pool && (uint32_t)f->arg[0] == PR_SET_MEMORY_MERGE && f->arg[1] == 1 && !f->arg[2] && !f->arg[3] && !f->arg[4];
}

long eg_gate_dispatch(struct eg_gate_frame *f)
{
    long first;
    if (f->nr == NR_exit && eg_rt.pool && !eg_rt.shut_in && eg_cap_thread_ends(f->arg[0], eg_rt.active || eg_home.active))
        f->nr = NR_exit_group;
    if (eg_gate_all && inline_first(f, &first))
        return first;
    switch (f->nr) {
    case NR_exit:
        if (eg_home.on)
            eg_home_exit(f->arg[0]);
        else if (eg_rt.active && !eg_rt.inlined && !eg_rt.shut_in)
            eg_gate_robust_end();
        f->pass = 1;
        return 0;
    case NR_process_vm_readv:
    case NR_process_vm_writev:
        if (!eg_home.on && eg_rt.pool && eg_gate_peer(f, &first))
            return first;
        f->pass = 1;
        return 0;
    case NR_prctl:
    case NR_seccomp:
        sets_itself(f);
        f->pass = !merges_memory(f);
        return 0;
    case NR_ptrace:
        if ((eg_home.active || eg_rt.active) && eg_gate_tracer(f->arg, &first))
            return first;
        f->pass = 1;
        return 0;
    case NR_pkey_alloc: /* keys are each processor's own, and no node knows home's: as on a machine without them */
        if (eg_home.on)
            return -ENOSPC;
        f->pass = 1;
        return 0;
    case NR_rt_sigprocmask:
        if (eg_home.on)
            return thread_begins(f);
        f->pass = 1;
        return 0;
    case NR_close:
        if (eg_cap_fd_reserved(f->arg[0]))
            return -EBADF;
        return eg_sys1(SYS_close, f->arg[0]);
    case NR_dup2:
    case NR_dup3:
        if (!eg_cap_fd_reserved(f->arg[1])) {
            f->pass = 1;
            return 0;
        }
        break;
    case NR_sched_setaffinity:
    case NR_sched_getaffinity:
    case NR_open:
    case NR_openat:
    case NR_lseek:
        if (!eg_view_wants(f->nr, f->arg)) {
            f->pass = 1;
            return 0;
        }
        break;
    case NR_execve:
    case NR_execveat: {
        uint64_t robust = eg_home.active ? eg_home_robust_exec() : 0;
        long ret = eg_view_exec(f->nr, f->arg, &f->pass);
        if (f->pass && robust) {
            f->pass = 0;
            ret = eg_syscall6(f->nr, f->arg[0], f->arg[1], f->arg[2], f->arg[3], f->arg[4], f->arg[5]);
        }
        eg_home_robust_on(robust);
        return ret;
    }
    case NR_process_madvise:
        if (!eg_home.on)
            break;
        if (!eg_cap_keeps_content(f->arg[3])) /* as before 6.13: the agent sees madvise */
            return -EINVAL;
        f->pass = 1;
        return 0;
    case NR_shmat:
        if (!eg_home.on && f->arg[2] & SHM_REMAP)
            break;
        f->pass = 1;
        return 0;
    case NR_futex:
        if (__atomic_load_n(&eg_home.visit, __ATOMIC_RELAXED))
            thread_visits(f);
        if (eg_home.active && eg_home_futex_writes(f->arg[1]))
            return eg_home_futex(f->arg);
        f->pass = 1;
        return 0;
    case NR_mmap:
    case NR_munmap:
    case NR_mremap:
    case NR_mprotect:
    case NR_madvise:
    case NR_brk:
    case NR_clone:
    case NR_clone3:
    case NR_vfork:
    case NR_fork:
    case NR_pkey_mprotect:
    case NR_close_range: break;
    default: f->pass = 1; return 0;
    }
    if (!eg_rt.pool) {
        f->pass = 1;
        return 0;
    }
    uint64_t old = signals_off();
    f->pass = (long)old; /* for slow, until it decides */
    long ret = eg_gate_on_stack(slow, f);
    signals_back(old);
    if (ret == 0 && f->pass > 1)
        eg_gate_onto(f, (uint64_t)f->pass);
    return ret;
}
