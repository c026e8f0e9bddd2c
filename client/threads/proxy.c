/* proxy.c - the home end of a thread that is away: it starts the thread on a node, makes its system calls, and takes it back.
 *
 * A proxy is the program's own thread, made by the program's own clone, on a stack of the runtime's and with every signal blocked. While it
 * makes a call it stands on the program's stack under the program's mask (eg_thread_call), so a handler that runs then runs where it
 * would have, and may even jump away: the thread is at home from then on. A signal that comes while the thread computes is seen through a
 * signalfd; the thread is asked home, and the kernel delivers the signal there. Going home is also the answer to all that a node cannot do. */
#include "client/threads/eg_home.h"

#include "client/gate/eg_robust.h"
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define ARCH_SET_FS 0x1002
#define ARCH_SET_GS 0x1001
#define ARCH_GET_FS 0x1003
#define ARCH_GET_GS 0x1004
#define SPIN_TURNS 30
/* --threads auto: a thread that is away comes home when more than so much of its time went into being away. A node on this very machine has no
 * processors of its own to offer for it. */
#define COST_MOST_PERCENT 10u
#define COST_MOST_HERE_PERCENT 3u
#define COST_SMALL_NS 3000000u
#define CALL_COST_NS 25000u
#define STAY_NS 500000000u /* others then stay here for a while; twice as long each time */
#define STAY_MAX_NS 60000000000u
#define LIBC_FLAGS ((uint64_t)(CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_SYSVSEM)) /* of a thread that libc begins */
#define STACK_SOON 512u      /* of the stack, and of the thread's control block, are used at once */
#define CONTROL_BYTES 2048u
#define VISIT_STAY_NS 20000000u /* between two visits; twice as long after a short one */
#define VISIT_STAY_MAX_NS 30000000000u
#define HEAD_BYTES ((sizeof(struct eg_thread) + 4095) & ~4095ul)

_Static_assert(__builtin_offsetof(struct eg_thread, caller) == 8 && __builtin_offsetof(struct eg_thread, mask) == 72 &&
                   __builtin_offsetof(struct eg_thread, nr) == 80 && __builtin_offsetof(struct eg_thread, arg) == 88 &&
                   __builtin_offsetof(struct eg_thread, ret) == 136 && __builtin_offsetof(struct eg_thread, tid) == 144,
               "threads.S has these numbers");
_Static_assert(HEAD_BYTES + (32u << 10) <= EG_THREAD_BYTES, "room for the proxy's stack");

/* First fields of the kernel's struct clone_args. */
struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

/* --- slots ---------------------------------------------------------------------------------------------------------------------- */

/* A thread is to go to the node, or is not there any more. */
static void node_gets(struct eg_node *n)
{
    __atomic_fetch_add(&n->n_threads, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&n->config->threads, 1, __ATOMIC_RELAXED);
}

static void node_loses(struct eg_node *n)
{
    __atomic_fetch_sub(&n->n_threads, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&n->config->threads, 1, __ATOMIC_RELAXED);
}

/* A handler jumped away from a call: the node still waits for its end. */
static void stream_left(struct eg_thread *t)
{
    if (t->fd < 0)
        return;
    eg_sys1(SYS_close, t->fd);
    t->fd = -1;
    node_loses(eg_home.node[t->node]);
}

struct eg_thread *eg_home_thread(uint32_t tid)
{
    uint32_t n = __atomic_load_n(&eg_home.n_threads, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n; i++)
        if (__atomic_load_n(&eg_home.thread[i]->tid, __ATOMIC_RELAXED) == tid)
            return eg_home.thread[i];
    return NULL;
}

static struct eg_thread *slot_take(void)
{
    struct eg_home *h = &eg_home;
    struct eg_thread *t = NULL;
    eg_lock_take(&h->start_lock);
    for (uint32_t i = 0; i < h->n_threads && !t; i++)
        if (__atomic_load_n(&h->thread[i]->tid, __ATOMIC_ACQUIRE) == 0)
            t = h->thread[i];
    if (!t && h->n_threads < EG_THREADS && (t = eg_sys_map(EG_THREAD_BYTES))) {
        t->fd = t->signal_fd = -1;
        h->thread[h->n_threads] = t;
        __atomic_store_n(&h->n_threads, h->n_threads + 1, __ATOMIC_RELEASE);
    }
    if (t)
        t->tid = 1; /* taken; the kernel writes the number */
    eg_lock_give(&h->start_lock);
    if (t)
        stream_left(t); /* its thread may have ended past the gate */
    return t;
}

int *eg_home_fd(uint32_t k)
{
    struct eg_home *h = &eg_home;
    if (k < 2)
        return k ? &h->load_fd : &h->maps_fd;
    k -= 2;
    if (k < h->n_nodes)
        return h->node[k] ? &h->node[k]->fd : &h->maps_fd;
    k -= h->n_nodes;
    if (k < 2 * h->n_threads)
        return k % 2 ? &h->thread[k / 2]->fd : &h->thread[k / 2]->signal_fd;
    k -= 2 * h->n_threads;
    for (uint32_t i = 0; i < h->n_nodes; i++) {
        if (h->node[i] && k < h->node[i]->n_free)
            return &h->node[i]->free[k].fd;
        k -= h->node[i] ? h->node[i]->n_free : 0;
    }
    return NULL;
}

/* --- streams --------------------------------------------------------------------------------------------------------------------- */

static int stream_take(struct eg_thread *t)
{
    struct eg_node *n = eg_home.node[t->node];
    eg_lock_take(&n->lock);
    if (n->n_free) {
        struct eg_stream_free f = n->free[--n->n_free];
        t->fd = f.fd;
        t->slot = f.slot;
    }
    eg_lock_give(&n->lock);
    if (t->fd < 0) {
        struct eg_node_welcome welcome;
        t->fd = eg_node_connect(t->node, EG_STREAM_THREAD, &welcome);
        t->slot = welcome.slot;
    }
    if (t->fd < 0)
        return t->fd;
    if (t->slot >= EG_THREADS)
        return -EPROTO;
    t->asked_ns = 0;
    __atomic_store_n(&n->slot[t->slot], t, __ATOMIC_RELEASE);
    return 0;
}

/* The node's thread is idle: the next one may have it. */
static void stream_give(struct eg_thread *t)
{
    struct eg_node *n = eg_home.node[t->node];
    eg_lock_take(&n->lock);
    int kept = n->n_free < EG_THREADS;
    if (kept)
        n->free[n->n_free++] = (struct eg_stream_free){t->fd, t->slot};
    eg_lock_give(&n->lock);
    node_loses(n);
    if (!kept)
        eg_sys1(SYS_close, t->fd);
    t->fd = -1;
    t->where = EG_AT_HOME;
}

static __attribute__((noreturn)) void stream_lost(struct eg_thread *t);

static void transfer(struct eg_thread *t, long nr, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        long n = eg_sys6(nr, t->fd, (uint8_t *)data + at, bytes - at, MSG_NOSIGNAL, 0, 0);
        if (n > 0)
            at += (size_t)n;
        else if (n != -EINTR)
            stream_lost(t);
    }
}

/* --- at home ------------------------------------------------------------------------------------------------------------------------ */

/* A visit is over. */
static void visit_end(struct eg_thread *t)
{
    uint64_t now = eg_sys_now_ns(), stay = now - t->visit_ns > 8 * t->stay_ns ? VISIT_STAY_NS : t->stay_ns * 2;
    t->visits = 0;
    t->stay_ns = stay < VISIT_STAY_MAX_NS ? stay : VISIT_STAY_MAX_NS;
    __atomic_store_n(&t->stay_until_ns, now + t->stay_ns, __ATOMIC_RELAXED);
    eg_home_robust_on(t->robust);
    t->robust = 0;
}

static __attribute__((noreturn)) void run_at_home(struct eg_thread *t)
{
    struct eg_frame_stack alt = {0};
    if (t->visits)
        visit_end(t);
    eg_sys2(SYS_sigaltstack, 0, &alt); /* the program's: its calls were made here */
    alt.flags &= 2 /* SS_DISABLE */;
    t->where = EG_AT_HOME;
    eg_sys2(SYS_arch_prctl, ARCH_SET_FS, t->state.fs_base);
    if (t->state.gs_base)
        eg_sys2(SYS_arch_prctl, ARCH_SET_GS, t->state.gs_base);
    void *sp = eg_frame_build(t->frame + sizeof t->frame, &t->state, t->xstate, t->mask, &alt);
    eg_frame_return(sp);
}

static long content_write(uint64_t addr, void *content, uint64_t bytes)
{
    struct iovec local = {content, bytes}, remote = {(void *)addr, bytes};
    return eg_sys6(SYS_process_vm_writev, eg_sys0(SYS_getpid), &local, 1, &remote, 1, 0) == (long)bytes ? 0 : -EFAULT;
}

static long word_write(uint64_t addr, uint64_t value) { return content_write(addr, &value, sizeof value); }

/* The list is followed by copies, so that a wrong one does no harm. */
static void robust_end(struct eg_thread *t)
{
    struct eg_robust list;
    uint64_t head = t->robust, bytes;
    if (!head && eg_sys3(SYS_get_robust_list, 0, &head, &bytes)) /* given to the kernel at home: which cannot wait for a page at the end */
        return;
    if (head && !eg_robust_open(&list, head, eg_robust_copied) && !eg_robust_walk(&list))
        eg_robust_pending(&list);
}

/* The kernel reads the list at an exec, too, when the other threads, the agent among them, are gone already: it would wait for a page for ever. */
uint64_t eg_home_robust_off(void)
{
    uint64_t head = 0, bytes = 0, entry = 0, pending = 0;
    if (eg_sys3(SYS_get_robust_list, 0, &head, &bytes) || !head)
        return 0;
    /* Mutexes that it holds over the exec may be others', too: then the kernel is to see to them. */
    if (!eg_robust_copied(head, &entry) && (entry & ~EG_ROBUST_PI) == head && !eg_robust_copied(head + 16, &pending) && !pending &&
        !eg_sys2(SYS_set_robust_list, 0, EG_ROBUST_BYTES))
        return head;
    return 0;
}

void eg_home_robust_on(uint64_t head)
{
    if (head)
        eg_sys2(SYS_set_robust_list, head, EG_ROBUST_BYTES);
}

/* The thread has ended elsewhere: its control block, which the end here needs, comes home together with its stack, which the next thread's beginning
 * needs, if libc has put both into one place. They may be mapped no more: then the kernel says so. */
static void take_back(const struct eg_thread *t)
{
    for (uint32_t i = 0; i < EG_PUSHED; i++) {
        const struct eg_run *run = &t->pushed[i];
        uint64_t bytes = run->n_pages * EG_PAGE_BYTES;
        if (t->clear_tid >= run->addr && t->clear_tid < run->addr + bytes)
            eg_sys3(SYS_madvise, run->addr, bytes, MADV_POPULATE_WRITE);
    }
}

/* The end of a thread. The kernel would write the program's word (clear_child_tid) when no fault can be served any more: it is written
 * here, by a thread that needs nothing of the program's from then on. */
static __attribute__((noreturn)) void thread_end(struct eg_thread *t, long status)
{
    uint64_t word = t->clear_tid;
    if (t->starting) /* it never went */
        node_loses(eg_home.node[t->node]);
    stream_left(t);
    if (word) { /* it is written below: then the page comes once, not first to be read. There may be none, or one that cannot be written: no matter */
        long rc = eg_sys3(SYS_madvise, word & ~(uint64_t)(EG_PAGE_BYTES - 1), EG_PAGE_BYTES, MADV_POPULATE_WRITE);
        word = rc == -ENOMEM || rc == -EFAULT ? 0 : word;
    }
    robust_end(t);
    if (t->signal_fd >= 0)
        eg_sys1(SYS_close, t->signal_fd);
    t->signal_fd = -1;
    if (word) {
        __atomic_store_n((uint32_t *)word, 0, __ATOMIC_SEQ_CST);
        eg_sys6(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0);
    }
    for (;;)
        eg_sys1(SYS_exit, status); /* clears t->tid */
}

/* exit(2) of a thread that is away. */
static __attribute__((noreturn)) void thread_exits(struct eg_thread *t, long status)
{
    if (eg_cap_thread_ends(status, 1))
        eg_sys1(SYS_exit_group, status);
    thread_end(t, status);
}

struct ending {
    struct eg_thread *thread;
    long status;
};

static long end_on_own_stack(void *f)
{
    struct ending *e = (struct ending *)f;
    thread_end(e->thread, e->status);
}

void eg_home_exit(long status)
{
    static struct eg_thread first; /* the process's first thread has no slot: it ends on a stack that nobody needs again */
    struct ending e = {eg_home_thread((uint32_t)eg_sys0(SYS_gettid)), status};
    if (!e.thread) {
        first.fd = first.signal_fd = -1;
        first.clear_tid = 0;
        eg_sys5(SYS_prctl, PR_GET_TID_ADDRESS, &first.clear_tid, 0, 0, 0);
        thread_end(&first, status);
    }
    struct ending *own = (struct ending *)(void *)e.thread->xstate;
    *own = e;
    eg_gate_call_on((uint8_t *)e.thread + EG_THREAD_BYTES, end_on_own_stack, own);
    __builtin_unreachable();
}

/* --- system calls -------------------------------------------------------------------------------------------------------------------- */

static void answer(struct eg_thread *t, int64_t ret)
{
    struct eg_call call = {.type = EG_CALL_RETURN, .arg = {ret}, .mask = t->mask};
    transfer(t, SYS_sendto, &call, sizeof call);
}

/* The content of the buffer at addr is here during a call: as it is aligned there. Returns: NULL: no memory. */
static uint8_t *data_at(struct eg_thread *t, uint64_t addr)
{
    if (!t->data) {
        uint8_t *p = eg_sys_map(EG_CALL_DATA_MAX + 3 * EG_PAGE_BYTES);
        t->data = p ? p + (-(uint64_t)p & (EG_PAGE_BYTES - 1)) : NULL;
    }
    return t->data ? t->data + EG_PAGE_BYTES + addr % EG_PAGE_BYTES : NULL;
}

/* What a call writes. Without memory for it the call takes it from its place. */
static uint8_t *data_read(struct eg_thread *t, const struct eg_call *call)
{
    uint8_t *data = data_at(t, (uint64_t)call->arg[2]), byte;
    if (call->len_bytes > EG_CALL_DATA_MAX || call->len_bytes != (uint64_t)call->arg[3])
        eg_home_lost(t->node);
    if (data)
        transfer(t, SYS_recvfrom, data, call->len_bytes);
    for (uint32_t i = 0; !data && i < call->len_bytes; i++)
        transfer(t, SYS_recvfrom, &byte, 1);
    return data;
}

/* With what was read. */
static void answer_data(struct eg_thread *t, uint8_t *data, uint64_t most)
{
    uint64_t n = t->ret > 0 ? (uint64_t)t->ret : 0;
    n = n < most ? n : most; /* it cannot be more */
    struct eg_call call = {.type = EG_CALL_RETURN, .len_bytes = (uint32_t)n, .arg = {t->ret}, .mask = t->mask};
    memcpy(data - sizeof call, &call, sizeof call);
    transfer(t, SYS_sendto, data - sizeof call, sizeof call + n);
}

static int is_gated(long nr)
{
    switch (nr) {
    case SYS_mmap: case SYS_munmap: case SYS_mremap: case SYS_mprotect: case SYS_madvise: case SYS_brk: case SYS_pkey_mprotect:
    case SYS_process_madvise:
    case SYS_close: case SYS_close_range: case SYS_dup2: case SYS_dup3:
    case SYS_open: case SYS_openat: case SYS_lseek: case SYS_sched_getaffinity: case SYS_sched_setaffinity: return 1;
    default: return 0;
    }
}

static int is_realtime(long policy)
{
    policy &= ~(long)SCHED_RESET_ON_FORK;
    return policy == SCHED_FIFO || policy == SCHED_RR || policy == SCHED_DEADLINE;
}

/* Only the thread itself can make these, where it stands; or they change what its instructions and calls do, or when it runs, which no node carries out. */
static int goes_home(long nr, const long a[6])
{
    switch (nr) {
    case SYS_seccomp: case SYS_ioperm: case SYS_iopl: case SYS_modify_ldt: case SYS_sched_setattr: return 1;
    case SYS_prctl: return a[0] == PR_SET_SECCOMP || a[0] == PR_SET_TSC || a[0] == PR_SET_SYSCALL_USER_DISPATCH;
    case SYS_sched_setscheduler: return is_realtime(a[1]);
    case SYS_clone: case SYS_clone3: case SYS_fork: case SYS_vfork: case SYS_rt_sigreturn: case SYS_execve: case SYS_execveat:
    case SYS_arch_prctl: return 1;
    default: return 0;
    }
}

/* What the kernel would say of itself, but the runtime has in its place: the word for the thread's end, its list of robust mutexes. Returns: 1, 0: not such a
 * call. */
static int own_words(struct eg_thread *t, long nr, const long a[6], long *ret)
{
    switch (nr) {
    case SYS_set_tid_address:
        t->clear_tid = (uint64_t)a[0];
        *ret = t->tid;
        return 1;
    case SYS_set_robust_list:
        if (a[1] != EG_ROBUST_BYTES)
            return 0;
        t->robust = (uint64_t)a[0];
        *ret = 0;
        return 1;
    case SYS_get_robust_list:
        if (!t->robust || ((int32_t)a[0] && (uint32_t)a[0] != t->tid))
            return 0;
        *ret = word_write((uint64_t)a[2], EG_ROBUST_BYTES) || word_write((uint64_t)a[1], t->robust) ? -EFAULT : 0;
        return 1;
    case SYS_prctl:
        if (a[0] != PR_GET_TID_ADDRESS)
            return 0;
        *ret = word_write((uint64_t)a[1], t->clear_tid);
        return 1;
    default: return 0;
    }
}

static void forwarded(struct eg_thread *t, const struct eg_call *call)
{
    long nr = (long)call->arg[0], a[6];
    for (int i = 0; i < 6; i++)
        a[i] = (long)call->arg[1 + i];
    __atomic_fetch_add(&eg_rt.row->syscalls_forwarded, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&eg_home.node[t->node]->config->calls, 1, __ATOMIC_RELAXED);
    uint8_t *data = call->type == EG_CALL_WRITE ? data_read(t, call) : NULL;
    if (call->type == EG_CALL_READ && (uint64_t)a[2] <= EG_CALL_DATA_MAX)
        data = data_at(t, (uint64_t)a[1]);
    if (call->type == EG_CALL_SYSCALL && call->len_bytes && eg_home_clones(nr, a) == EG_CLONES_THREAD) {
        answer(t, eg_home_clone(nr, a, &t->state, t->xstate, t->mask, 0));
        return;
    }
    __atomic_fetch_add(&t->cost_ns, CALL_COST_NS, __ATOMIC_RELAXED);
    int costly = !eg_home_pays(t);
    if (costly)
        eg_home_costly();
    if (costly || goes_home(nr, a)) {
        struct eg_call come = {.type = EG_CALL_HOME};
        transfer(t, SYS_sendto, &come, sizeof come);
        return;
    }
    long own;
    if (own_words(t, nr, a, &own)) {
        answer(t, own);
        return;
    }
    if (nr == SYS_futex && ((a[1] & 0x7f) == FUTEX_WAIT || (a[1] & 0x7f) == FUTEX_WAIT_BITSET))
        __atomic_fetch_add(&eg_rt.row->futex_waits_remote, 1, __ATOMIC_RELAXED);
    if (is_gated(nr)) {
        struct eg_gate_frame f = {.nr = nr};
        memcpy(f.arg, a, sizeof a);
        long ret = eg_gate_dispatch(&f);
        if (!f.pass) {
            answer(t, ret);
            return;
        }
    }
    t->nr = nr;
    memcpy(t->arg, a, sizeof a);
    if (data)
        t->arg[1] = (int64_t)data;
    t->caller = call->caller;
    int tries = 0;
    uint64_t begun_ns = eg_sys_now_ns();
    __atomic_store_n(&t->call_since_ns, begun_ns, __ATOMIC_RELAXED);
    t->in_call = 1;
    do
        eg_thread_call(t);
    while (t->ret == -EFAULT && nr == SYS_futex && eg_home_futex_again(a, &tries));
    t->in_call = 0;
    __atomic_store_n(&t->call_since_ns, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->idle_ns, eg_sys_now_ns() - begun_ns, __ATOMIC_RELAXED);
    int reads = data && call->type == EG_CALL_READ;
    if (t->where == EG_AT_HOME) { /* eg_home_come: perhaps this is the child */
        if (reads && t->ret > 0 && content_write((uint64_t)a[1], data, t->ret < a[2] ? (uint64_t)t->ret : (uint64_t)a[2]))
            t->ret = -EFAULT;
        t->state.rax = (uint64_t)t->ret;
        run_at_home(t);
    }
    if (reads)
        answer_data(t, data, (uint64_t)a[2]);
    else
        answer(t, t->ret);
}

/* --- the proxy ------------------------------------------------------------------------------------------------------------------------ */

/* Signals that wait for the calling thread alone. */
static uint64_t own_pending(void)
{
    static const char line[] = "\nSigPnd:\t";
    char buf[2048];
    uint64_t mask = 0;
    long fd = eg_fd_new(SYS_openat, -100, (long)"/proc/thread-self/status", 02000000, 0);
    long n = eg_sys_failed(fd) ? -1 : eg_sys3(SYS_read, fd, buf, sizeof buf - 1);
    if (!eg_sys_failed(fd))
        eg_sys1(SYS_close, fd);
    if (n <= 0)
        return ~0ull;
    buf[n] = 0;
    for (long i = 0; i + (long)sizeof line <= n; i++)
        if (memcmp(buf + i, line, sizeof line - 1) == 0) {
            eg_str_hex(buf + i + sizeof line - 1, &mask);
            return mask;
        }
    return ~0ull;
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
    return !(pending & __atomic_load_n(&first->mask, __ATOMIC_RELAXED)) && !(pending & own_pending());
}

/* Until the thread says something, or a signal for it comes. */
static void wait_for_word(struct eg_thread *t)
{
    for (uint32_t i = 0;; i++) {
        uint8_t byte;
        long n = eg_sys6(SYS_recvfrom, t->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
        if (n != -EAGAIN && n != -EINTR)
            return;
        if (i < SPIN_TURNS && !eg_home.loaded) {
            eg_sys0(SYS_sched_yield);
            continue;
        }
        if (t->signal_fd < 0 || t->signal_mask != ~t->mask) {
            t->signal_mask = ~t->mask;
            long fd = eg_sys4(SYS_signalfd4, t->signal_fd, &t->signal_mask, 8, 02000000 | 04000);
            if (t->signal_fd < 0 && fd >= 0)
                t->signal_fd = eg_fd_high((int)fd);
        }
        struct pollfd p[2] = {{.fd = t->fd, .events = POLLIN}, {.fd = t->kick ? -1 : t->signal_fd, .events = POLLIN}};
        eg_sys5(SYS_ppoll, p, 2, 0, 0, 8);
        if (p[1].revents & POLLIN && !p[0].revents && for_the_first(t)) {
            const struct timespec moment = {.tv_nsec = 1000000};
            eg_sys5(SYS_ppoll, p, 1, &moment, 0, 8);
        } else if (p[1].revents & POLLIN && !p[0].revents) {
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
    transfer(t, SYS_recvfrom, &t->state, sizeof t->state);
    if (t->state.xstate_bytes != bytes - sizeof t->state)
        eg_home_lost(t->node);
    if (t->state.xstate_bytes)
        transfer(t, SYS_recvfrom, t->xstate, t->state.xstate_bytes);
}

void eg_home_come(void)
{
    struct eg_thread *t = eg_home_thread((uint32_t)eg_sys0(SYS_gettid));
    if (!t || t->where != EG_AWAY)
        return;
    struct eg_call call = {.type = EG_CALL_HOME};
    transfer(t, SYS_sendto, &call, sizeof call);
    transfer(t, SYS_recvfrom, &call, sizeof call);
    if (call.type != EG_CALL_HOME)
        eg_home_lost(t->node);
    payload_read(t, call.len_bytes);
    stream_give(t);
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
    const uint64_t at[] = {t->state.rsp - STACK_SOON, t->state.rsp, t->state.fs_base, t->state.fs_base + CONTROL_BYTES};
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
    t->where = EG_AWAY;
    int rc = stream_take(t);
    if (rc) { /* it refuses, or does not answer; what is on it may be well all the same */
        if (rc != -EMFILE && rc != -ENFILE && rc != -ENOMEM && rc != -ENOBUFS)
            n->refuses = 1;
        if (t->fd >= 0)
            eg_sys1(SYS_close, t->fd);
        t->fd = -1;
        eg_warn_once(EG_WARN_ACTIVATE, "threads stay here: no stream to a compute node: ", n->config->text);
        node_loses(n);
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
    out->call = (struct eg_call){.type = EG_CALL_START, .len_bytes = (uint32_t)sizeof t->state + t->state.xstate_bytes, .arg = {n_pushed},
                                  .mask = t->mask};
    out->state = t->state;
    memcpy(out->xstate, t->xstate, t->state.xstate_bytes);
    transfer(t, SYS_sendto, out, sizeof out->call + out->call.len_bytes);
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
    t->kick = 0;
    node_gets(n);
    __atomic_fetch_add(&n->config->threads_total, 1, __ATOMIC_RELAXED);
    return send_out(t) == 0;
}

static __attribute__((noreturn)) void away(struct eg_thread *t)
{
    for (;;) {
        struct eg_call call;
        wait_for_word(t);
        transfer(t, SYS_recvfrom, &call, sizeof call);
        if (!eg_node_seen(t->node)) /* its word came too late */
            stream_lost(t);
        if (call.len_bytes && call.type != EG_CALL_WRITE)
            payload_read(t, call.len_bytes);
        if (call.type != EG_CALL_EXIT)
            t->mask = call.mask;
        switch (call.type) {
        case EG_CALL_SYSCALL:
        case EG_CALL_WRITE:
        case EG_CALL_READ: forwarded(t, &call); break;
        case EG_CALL_EXIT:
            stream_give(t);
            take_back(t);
            thread_exits(t, (long)call.arg[0]);
        case EG_CALL_HOME:
            stream_give(t);
            __atomic_fetch_add(&eg_rt.row->migrations, 1, __ATOMIC_RELAXED);
            if (call.arg[0] == EG_HOME_KICK && moves_on(t))
                break;
            if (call.arg[0] == EG_HOME_SYSCALL)
                before_call(&t->state);
            run_at_home(t);
        default: eg_home_lost(t->node);
        }
    }
}

static int place(uint64_t stack);

/* With the registers with which it went out. */
static long start_again(void *thread)
{
    struct eg_thread *t = (struct eg_thread *)thread;
    struct eg_node *n = eg_home.node[t->node];
    eg_sys1(SYS_close, t->fd);
    t->fd = -1;
    t->where = EG_AT_HOME;
    t->move_to = 0;
    node_loses(n);
    eg_warn_once(EG_WARN_SERVER, "lost a compute node; its threads, of which nothing was seen yet, start again elsewhere: ", n->config->text);
    eg_lock_take(&eg_home.start_lock);
    int node = t->kick ? -1 : place(t->state.rsp);
    if (node >= 0) {
        t->node = (uint32_t)node;
        n = eg_home.node[node];
        node_gets(n);
        __atomic_fetch_add(&n->config->threads_total, 1, __ATOMIC_RELAXED);
    }
    eg_lock_give(&eg_home.start_lock);
    if (node < 0 || send_out(t))
        run_at_home(t);
    away(t);
}

static void stream_lost(struct eg_thread *t)
{
    eg_lost_wait(t->node);
    eg_gate_call_on((uint8_t *)t + EG_THREAD_BYTES, start_again, t);
    __builtin_unreachable();
}

static __attribute__((noreturn)) void go_out(struct eg_thread *t)
{
    t->starting = 0;
    if (is_realtime(eg_sys1(SYS_sched_getscheduler, 0))) { /* a node would run it like any other */
        node_loses(eg_home.node[t->node]);
        run_at_home(t);
    }
    if (send_out(t))
        run_at_home(t);
    __atomic_fetch_add(&eg_rt.row->threads_remote, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&eg_home.node[t->node]->config->threads_total, 1, __ATOMIC_RELAXED);
    eg_account_time(eg_rt.row->thread_start_hist, eg_sys_now_ns() - t->start_ns);
    away(t);
}

static void proxy_main(void *arg)
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
        run_at_home(t);
    go_out(t);
}

struct eg_thread *eg_home_starting(void)
{
    struct eg_thread *t = eg_home_thread((uint32_t)eg_sys0(SYS_gettid));
    return t && t->starting ? t : NULL;
}

struct eg_thread *eg_home_visitor(void)
{
    uint64_t visit = __atomic_load_n(&eg_home.visit, __ATOMIC_ACQUIRE), all = ~0ull, old;
    uint32_t tid = (uint32_t)eg_sys0(SYS_gettid), node = (uint32_t)visit - 1;
    if (visit >> 32 != tid || node >= eg_home.n_nodes ||
        !__atomic_compare_exchange_n(&eg_home.visit, &visit, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return NULL;
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
    struct eg_thread *t = eg_home_thread(tid);
    if (!t && tid == eg_rt.pid && (t = slot_take())) { /* the process's first thread */
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
        t->node = node;
        t->kick = t->move_to = t->in_call = t->n_pushed = 0;
        t->call_since_ns = 0;
        t->busy_percent = 100;
        t->visit_ns = t->start_ns = eg_sys_now_ns();
        t->moved_ns = t->cost_ns = 0;
        memset(t->from, 0, sizeof t->from);
        t->n_asked = 0;
        t->visits = 1;
        node_gets(eg_home.node[node]);
    }
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
    return t;
}

static long begin_on_own_stack(void *thread)
{
    struct eg_thread *t = (struct eg_thread *)thread;
    if (!t->visits)
        go_out(t);
    if (send_out(t))
        run_at_home(t);
    __atomic_fetch_add(&eg_home.node[t->node]->config->threads_total, 1, __ATOMIC_RELAXED);
    away(t);
}

void eg_home_begin(struct eg_thread *t, const struct eg_thread_state *state)
{
    uint64_t all = ~0ull;
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &t->mask, 8);
    uint64_t robust = eg_home_robust_off();
    t->robust = robust ? robust : t->robust; /* one that has come home before: the kernel may have none any more */
    t->state = *state;
    t->state.tid = t->tid;
    t->state.xstate_bytes = eg_frame_xsave(t->xstate);
    eg_sys2(SYS_arch_prctl, ARCH_GET_FS, &t->state.fs_base);
    eg_sys2(SYS_arch_prctl, ARCH_GET_GS, &t->state.gs_base);
    eg_gate_call_on((uint8_t *)t + EG_THREAD_BYTES, begin_on_own_stack, t);
    __builtin_unreachable();
}

/* --- beginnings ------------------------------------------------------------------------------------------------------------------------ */

static int clone_args(long nr, const long arg[6], struct clone3_args *a)
{
    memset(a, 0, sizeof *a);
    if (nr == SYS_clone) {
        a->flags = (uint64_t)arg[0];
        a->stack = (uint64_t)arg[1];
        a->parent_tid = (uint64_t)arg[2];
        a->child_tid = (uint64_t)arg[3];
        a->tls = (uint64_t)arg[4];
        return 1;
    }
    size_t bytes = (size_t)arg[1] < sizeof *a ? (size_t)arg[1] : sizeof *a;
    if (eg_sys_copy_in(a, (uint64_t)arg[0], bytes) != (long)bytes)
        return 0;
    a->stack += a->stack_size;
    return (size_t)arg[1] <= 88;
}

enum eg_clones eg_home_clones(long nr, const long arg[6])
{
    struct clone3_args a;
    const uint64_t need = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FILES; /* its streams are descriptors that the agent has, too */
    if (nr == SYS_fork)
        return EG_CLONES_PROCESS;
    if (nr == SYS_vfork || !clone_args(nr, arg, &a))
        return EG_CLONES_IN_PLACE;
    if (!(a.flags & CLONE_VM))
        return !(a.flags & CLONE_FILES) ? EG_CLONES_PROCESS : eg_home.active || eg_rt.active ? EG_CLONES_REFUSED : EG_CLONES_APART;
    if ((a.flags & need) == need && a.stack && !(a.flags & (CLONE_VFORK | CLONE_PIDFD | CLONE_CHILD_SETTID)) && a.flags >> 32 == 0)
        return EG_CLONES_THREAD;
    return EG_CLONES_IN_PLACE;
}

/* The node with the fewest threads for its slots; of several, the one that has the new thread's stack from its last user, else they take turns. */
static int place(uint64_t stack)
{
    uint32_t n = eg_home.n_nodes, best = n;
    int near = eg_home_owner(stack - EG_PAGE_BYTES);
    if (near >= 0 && (uint32_t)near < n)
        eg_home.next_node = (uint32_t)near;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = (eg_home.next_node + i) % n;
        const struct eg_node *x = eg_home.node[k], *y = best < n ? eg_home.node[best] : NULL;
        if (x && x->alive && !x->refuses && (!y || (uint64_t)x->n_threads * y->config->slots < (uint64_t)y->n_threads * x->config->slots))
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
    if (eg_sys_now_ns() < __atomic_load_n(&eg_home.stay_until_ns, __ATOMIC_RELAXED))
        return 0;
    uint32_t processors = eg_sys_bits(eg_rt.affinity, sizeof eg_rt.affinity / sizeof *eg_rt.affinity);
    for (uint32_t i = 0; i < eg_home.n_threads; i++)
        here += eg_home.thread[i]->tid && eg_home.thread[i]->where == EG_AT_HOME && !eg_home.thread[i]->starting;
    return here >= processors;
}

int eg_home_pays(const struct eg_thread *t)
{
    uint64_t cost = __atomic_load_n(&t->cost_ns, __ATOMIC_RELAXED);
    if (eg_rt.pool->threads_mode != EG_THREADS_AUTO || cost < COST_SMALL_NS)
        return 1;
    uint64_t percent = eg_home.node[t->node]->config->flags & EG_HELLO_OTHER_CLOCK ? COST_MOST_PERCENT : COST_MOST_HERE_PERCENT;
    return cost < (eg_sys_now_ns() - t->start_ns) / 100 * percent;
}

void eg_home_costly(void)
{
    uint64_t now = eg_sys_now_ns(), stay = __atomic_load_n(&eg_home.stay_ns, __ATOMIC_RELAXED) * 2;
    stay = stay < STAY_NS ? STAY_NS : stay > STAY_MAX_NS ? STAY_MAX_NS : stay;
    if (now < __atomic_load_n(&eg_home.stay_until_ns, __ATOMIC_RELAXED))
        return; /* one of several that went out together */
    __atomic_store_n(&eg_home.stay_ns, stay, __ATOMIC_RELAXED);
    __atomic_store_n(&eg_home.stay_until_ns, now + stay, __ATOMIC_RELAXED);
}

long eg_home_clone(long nr, const long arg[6], const struct eg_thread_state *state, const uint8_t *xstate, uint64_t mask, uint32_t below)
{
    struct clone3_args a;
    clone_args(nr, arg, &a);
    eg_lock_take(&eg_home.start_lock);
    int rc = goes_out() ? eg_home_activate() : 1, node = -1;
    if (rc < 0) {
        eg_warn_once(EG_WARN_ACTIVATE, "threads stay here: no compute node can be used", NULL);
        eg_rt.pool->threads_mode = EG_THREADS_HOME;
    }
    if (rc == 0)
        node = place(a.stack);
    eg_lock_give(&eg_home.start_lock);
    struct eg_thread *t = slot_take();
    if (!t)
        return -EAGAIN;
    t->state = *state;
    t->state.rsp = a.stack - below;
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
    t->kick = 0;
    t->fd = t->signal_fd = -1;
    t->start_ns = eg_sys_now_ns();
    t->visits = 0;
    t->stay_ns = t->stay_until_ns = 0;
    t->cost_ns = 0;
    memset(t->from, 0, sizeof t->from);
    t->n_asked = 0;
    t->moved_ns = 0;
    t->move_to = t->in_call = 0;
    t->call_since_ns = 0;
    t->busy_percent = 100;
    eg_view_inherit(&t->view);
    if (node >= 0)
        node_gets(eg_home.node[node]);
    long flags = (long)(a.flags & ~(uint64_t)(CLONE_CHILD_CLEARTID | CLONE_DETACHED)) | CLONE_SETTLS;
    long tid = eg_thread_clone(flags, (uint8_t *)t + EG_THREAD_BYTES, (long)a.parent_tid, 0, (long)t->state.fs_base, proxy_main, t);
    uint32_t taken = 1; /* the thread itself may be slower than a call about it */
    if (!eg_sys_failed(tid))
        __atomic_compare_exchange_n(&t->tid, &taken, (uint32_t)tid, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (eg_sys_failed(tid)) {
        if (node >= 0)
            node_loses(eg_home.node[node]);
        __atomic_store_n(&t->tid, 0, __ATOMIC_RELEASE);
    }
    return tid;
}
