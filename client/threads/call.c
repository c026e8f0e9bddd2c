/* call.c - the system calls of a thread that is away: its proxy makes them, standing on the program's stack under the program's mask. */
#include "client/threads/eg_proxy.h"

#include "client/gate/eg_gate.h"
#include "client/gate/eg_robust.h"
#include "client/pager/eg_pager.h"
#include "proto/eg_pieces.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define CALL_COST_NS 25000u
#define PI_CALLS 16u /* so many of the program's within this time: who makes them goes home, and stays for a while */
#define PI_WITHIN_NS 32000000u
#define PI_STAY_NS 1000000000u

static long content_write(uint64_t addr, void *content, uint64_t bytes)
{
    struct iovec local = {content, bytes}, remote = {(void *)addr, bytes};
    return eg_sys6(SYS_process_vm_writev, eg_sys0(SYS_getpid), &local, 1, &remote, 1, 0) == (long)bytes ? 0 : -EFAULT;
}

static long word_write(uint64_t addr, uint64_t value) { return content_write(addr, &value, sizeof value); }

/* The answer says where the thread should be, too: a wake from one processor to another costs both an interrupt, while both have something to run. */
static void says_where(const struct eg_thread *t, struct eg_call *call)
{
    unsigned here;
    if (eg_home.running <= eg_home.n_processors || eg_home.node[t->node]->config->flags & EG_HELLO_OTHER_CLOCK || eg_sys3(SYS_getcpu, &here, 0, 0))
        return;
    call->arg[3] = (int64_t)here + 1;
    call->arg[4] = eg_home.running;
}

static void answer(struct eg_thread *t, int64_t ret)
{
    struct eg_call call = {.type = EG_CALL_RETURN, .arg = {ret}, .mask = t->mask};
    says_where(t, &call);
    eg_proxy_transfer(t, SYS_sendto, &call, sizeof call);
}

/* The thread may learn from it which of its futex calls are libc's own. If it was asked home for a signal, that has been seen to in this call. */
static void answer_waiter(struct eg_thread *t, const struct eg_call *to)
{
    int stays = to->type == EG_CALL_KICKED && t->kick_signal;
    struct eg_call call = {.type = EG_CALL_RETURN, .arg = {t->ret, eg_gate_is_libc(to->caller.rip), stays}, .mask = t->mask};
    if (stays) {
        t->kick_signal = 0;
        __atomic_store_n(&t->kick, 0, __ATOMIC_SEQ_CST);
    }
    eg_proxy_transfer(t, SYS_sendto, &call, sizeof call);
}

void eg_proxy_wake(struct eg_thread *t, const struct eg_call *call)
{
    __atomic_fetch_add(&eg_rt.row->syscalls_forwarded, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&eg_home.node[t->node]->config->calls, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->cost_ns, CALL_COST_NS, __ATOMIC_RELAXED);
    answer(t, eg_sleep_wake(t->node, (uint64_t)call->arg[0], (uint32_t)call->arg[1]));
}

/* What the call's arguments point to, during the call. */
struct pieces {
    const struct eg_pieces *of; /* NULL: the program's memory itself */
    struct eg_pieces_data d;
    struct eg_segment segment[EG_PIECE_SEGMENTS_MAX]; /* as the program has them */
};

/* Where they are: as they are aligned in their pages, and with room for an answer's head before them. Returns: NULL: no memory. */
static uint8_t *data_of(struct eg_thread *t)
{
    if (!t->data) {
        uint8_t *p = eg_sys_map(EG_CALL_DATA_MAX + 3 * EG_PAGE_BYTES);
        t->data = p ? p + (-(uint64_t)p & (EG_PAGE_BYTES - 1)) : NULL;
    }
    return t->data ? t->data + EG_PAGE_BYTES : NULL;
}

/* Where they are in the data, from the lengths that the node says. Returns: 0: they do not fit, or it has sent more or less of them. */
static int pieces_place(struct pieces *p, const struct eg_call *call, uint32_t *ret_from)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        uint64_t at = eg_piece_place(&p->of->piece[i], call->arg + 1, end, call->piece[i]);
        end = at + call->piece[i];
        if (end > EG_PIECES_DATA_BYTES)
            return 0;
        p->d.at[i] = (uint32_t)at;
        p->d.bytes[i] = call->piece[i];
    }
    return call->len_bytes == eg_pieces_span(p->of, EG_PIECE_IN, p->d.bytes, p->d.at, ret_from);
}

static int text_fits(uint64_t addr, const uint8_t *text, uint32_t bytes)
{
    return addr ? bytes && !text[bytes - 1] : !bytes;
}

/* The lengths are those of the call: the kernel will not go beyond them. */
static int pieces_fit(struct pieces *p, const int64_t a[6])
{
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        const struct eg_piece *piece = &p->of->piece[i];
        uint64_t addr = (uint64_t)a[piece->arg], bytes = 0;
        if (piece->kind == EG_PIECE_TEXT ? !text_fits(addr, p->d.data + p->d.at[i], p->d.bytes[i]) :
            piece->way                   ? !eg_piece_find(p->of, i, a, &p->d, &addr, &bytes) || bytes != p->d.bytes[i] :
                                           p->d.bytes[i] != 0)
            return 0;
        p->d.addr[i] = addr;
    }
    return 1;
}

/* The call is made with them where they are now. */
static void pieces_point(struct pieces *p, int64_t ret_arg[6])
{
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        const struct eg_piece *piece = &p->of->piece[i];
        struct eg_msghdr *h = (struct eg_msghdr *)(void *)(p->d.data + p->d.at[0]);
        uint64_t at = (uint64_t)p->d.data + p->d.at[i];
        if (!p->d.bytes[i])
            continue;
        switch (piece->kind) {
        case EG_PIECE_NAME: h->name = at; break;
        case EG_PIECE_IOVECS: h->iovecs = at; break;
        case EG_PIECE_SEGMENTS: {
            struct eg_segment *v = (struct eg_segment *)(void *)(p->d.data + p->d.at[i - 1]);
            uint32_t n = p->d.bytes[i - 1] / sizeof *v;
            memcpy(p->segment, v, n * sizeof *v);
            for (uint32_t k = 0; k < n; k++) {
                v[k].addr = at;
                at += v[k].bytes;
            }
            break;
        }
        default: ret_arg[piece->arg] = (int64_t)at; break;
        }
    }
}

/* Without memory for them the call is made with the program's. */
static void pieces_take(struct eg_thread *t, const struct eg_call *call, struct pieces *ret)
{
    uint32_t from = 0;
    uint8_t byte;
    memset(&ret->d, 0, sizeof ret->d);
    ret->of = eg_pieces_of((long)call->arg[0], call->arg + 1);
    ret->d.data = data_of(t);
    if (!ret->of || !pieces_place(ret, call, &from))
        eg_home_lost(t->node);
    if (ret->d.data && call->len_bytes)
        eg_proxy_transfer(t, SYS_recvfrom, ret->d.data + from, call->len_bytes);
    for (uint32_t i = 0; !ret->d.data && i < call->len_bytes; i++)
        eg_proxy_transfer(t, SYS_recvfrom, &byte, 1);
    if (!ret->d.data)
        ret->of = NULL;
    else if (!pieces_fit(ret, call->arg + 1))
        eg_home_lost(t->node);
}

/* What the call has written of them is all that is left. */
static void pieces_written(struct pieces *p, int64_t result)
{
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++)
        p->d.bytes[i] = eg_piece_written(&p->of->piece[i], p->d.bytes[i], result);
}

static void pieces_answer(struct eg_thread *t, struct pieces *p)
{
    uint32_t from, n;
    pieces_written(p, t->ret);
    n = eg_pieces_span(p->of, EG_PIECE_OUT, p->d.bytes, p->d.at, &from);
    struct eg_call call = {.type = EG_CALL_RETURN, .len_bytes = n, .arg = {t->ret}, .mask = t->mask};
    says_where(t, &call);
    uint8_t *head = p->d.data + from - sizeof call;
    memcpy(head, &call, sizeof call);
    eg_proxy_transfer(t, SYS_sendto, head, sizeof call + n);
}

/* The thread is at home by now: to where the kernel would have written them. Returns: the call's result. */
static int64_t pieces_store(struct pieces *p, int64_t result)
{
    pieces_written(p, result);
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        struct eg_part part = {.next = 0};
        while (eg_part_next(&p->of->piece[i], EG_PIECE_OUT, p->d.addr[i], p->segment, p->d.bytes[i], &part))
            if (part.bytes && content_write(part.addr, p->d.data + p->d.at[i] + part.at, part.bytes))
                return -EFAULT;
    }
    return result;
}

static int is_gated(long nr)
{
    switch (nr) {
    case SYS_mmap: case SYS_munmap: case SYS_mremap: case SYS_mprotect: case SYS_madvise: case SYS_brk: case SYS_pkey_mprotect:
    case SYS_process_madvise: case SYS_pkey_alloc:
    case SYS_close: case SYS_close_range: case SYS_dup2: case SYS_dup3:
    case SYS_open: case SYS_openat: case SYS_lseek: case SYS_sched_getaffinity: case SYS_sched_setaffinity: return 1;
    default: return 0;
    }
}

/* Only the thread itself can make these, where it stands; or they change what its instructions and calls do, or when it runs, which no node carries out. */
static int goes_home(long nr, const long a[6])
{
    switch (nr) {
    case SYS_seccomp: case SYS_ioperm: case SYS_iopl: case SYS_modify_ldt: case SYS_sched_setattr: return 1;
    case SYS_prctl: return a[0] == PR_SET_SECCOMP || a[0] == PR_SET_TSC || a[0] == PR_SET_SYSCALL_USER_DISPATCH;
    case SYS_sched_setscheduler: return eg_is_realtime(a[1]);
    case SYS_clone: case SYS_clone3: case SYS_fork: case SYS_vfork: case SYS_rt_sigreturn: case SYS_execve: case SYS_execveat:
    case SYS_arch_prctl: return 1;
    default: return 0;
    }
}

/* A lock with priority inheritance is home's kernel's: for each call the lock's page comes home, and goes out again for who unlocks it (200 us a call; at
 * home they cost nothing but themselves). A guess at how many there are is enough. */
static int fights_at_home(struct eg_thread *t, long nr, const long a[6])
{
    static uint64_t since_ns;
    static uint32_t n;
    long op = a[1] & FUTEX_CMD_MASK;
    if (nr != SYS_futex || (op != FUTEX_LOCK_PI && op != FUTEX_LOCK_PI2 && op != FUTEX_UNLOCK_PI && op != FUTEX_TRYLOCK_PI && op != FUTEX_WAIT_REQUEUE_PI))
        return 0;
    uint64_t now = eg_sys_now_ns();
    if (now - __atomic_load_n(&since_ns, __ATOMIC_RELAXED) > PI_WITHIN_NS) {
        __atomic_store_n(&since_ns, now, __ATOMIC_RELAXED);
        __atomic_store_n(&n, 0, __ATOMIC_RELAXED);
    }
    if (__atomic_add_fetch(&n, 1, __ATOMIC_RELAXED) < PI_CALLS)
        return 0;
    __atomic_store_n(&t->stay_until_ns, now + PI_STAY_NS, __ATOMIC_RELAXED);
    return 1;
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

/* Would the signals that wait end a call in which the thread had slept, and not have it made again? (A sleep for some time never is.) */
static int is_interrupted(const struct eg_thread *t, int sleeps)
{
    struct eg_sigaction act;
    uint64_t pending = 0;
    eg_sys2(SYS_rt_sigpending, &pending, 8);
    for (pending &= ~t->mask; pending; pending &= pending - 1)
        if (!eg_sys4(SYS_rt_sigaction, __builtin_ctzll(pending) + 1, 0, &act, 8) && act.handler > 1) /* not SIG_DFL, SIG_IGN */
            return sleeps || !(act.flags & SA_RESTART);
    return 0;
}

/* The rest of a sleep. Returns: where the program wants to be told of what is left. */
static uint64_t sleep_on(struct eg_thread *t, uint64_t left_ns)
{
    int64_t rest_to = t->arg[t->nr == SYS_nanosleep ? 1 : 3];
    if (t->nr != SYS_nanosleep && t->nr != SYS_clock_nanosleep)
        eg_home_lost(t->node);
    t->left = (struct timespec){.tv_sec = (long)(left_ns / 1000000000u), .tv_nsec = (long)(left_ns % 1000000000u)};
    t->nr = SYS_clock_nanosleep;
    t->arg[0] = CLOCK_MONOTONIC;
    t->arg[1] = 0;
    t->arg[2] = (int64_t)&t->left;
    t->arg[3] = rest_to;
    return (uint64_t)rest_to;
}

void eg_proxy_call(struct eg_thread *t, const struct eg_call *call)
{
    long nr = (long)call->arg[0], a[6];
    for (int i = 0; i < 6; i++)
        a[i] = (long)call->arg[1 + i];
    __atomic_fetch_add(&eg_rt.row->syscalls_forwarded, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&eg_home.node[t->node]->config->calls, 1, __ATOMIC_RELAXED);
    struct pieces pieces = {.of = NULL};
    if (call->type == EG_CALL_PIECES)
        pieces_take(t, call, &pieces);
    if (call->type == EG_CALL_SYSCALL && call->len_bytes && eg_home_clones(nr, a) == EG_CLONES_THREAD) {
        answer(t, eg_home_clone(nr, a, &t->state, t->xstate, t->mask, 0));
        return;
    }
    __atomic_fetch_add(&t->cost_ns, CALL_COST_NS, __ATOMIC_RELAXED);
    int costly = !eg_home_pays(t), sleeps = call->type == EG_CALL_KICKED && nr != SYS_futex; /* who goes home before a sleep begins it again */
    if (costly)
        eg_while_again(&eg_home.stay);
    t->crashes = (uint32_t)eg_crash_by_call(t, nr, a);
    if ((costly && !sleeps) || t->crashes || goes_home(nr, a) || fights_at_home(t, nr, a)) {
        struct eg_call come = {.type = EG_CALL_HOME};
        eg_proxy_transfer(t, SYS_sendto, &come, sizeof come);
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
    if (pieces.of)
        pieces_point(&pieces, t->arg);
    t->caller = call->caller;
    uint64_t rest_to = sleeps ? sleep_on(t, (uint64_t)a[5]) : 0;
    int tries = 0, interrupted = call->type == EG_CALL_KICKED && is_interrupted(t, sleeps);
    if (interrupted) /* its handlers run before the call */
        t->nr = SYS_sched_yield;
    uint64_t begun_ns = eg_sys_now_ns();
    eg_home_load_look(begun_ns);
    __atomic_store_n(&t->call_since_ns, begun_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&t->in_call, 1, __ATOMIC_SEQ_CST);
    do
        eg_thread_call(t);
    while (nr == SYS_futex && eg_home_futex_again(&t->ret, a, &tries));
    if (interrupted)
        t->ret = rest_to && content_write(rest_to, &t->left, sizeof t->left) ? -EFAULT : -EINTR;
    __atomic_store_n(&t->in_call, 0, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&eg_home.halt, __ATOMIC_SEQ_CST) == t->tid) /* it is being stopped */
        eg_home_come();
    __atomic_store_n(&t->call_since_ns, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->idle_ns, eg_sys_now_ns() - begun_ns, __ATOMIC_RELAXED);
    if (t->where == EG_AT_HOME) { /* eg_home_come: perhaps this is the child */
        t->state.rax = (uint64_t)(pieces.of ? pieces_store(&pieces, t->ret) : t->ret);
        eg_proxy_home(t);
    }
    if (nr == SYS_futex || call->type == EG_CALL_KICKED)
        answer_waiter(t, call);
    else if (pieces.of)
        pieces_answer(t, &pieces);
    else
        answer(t, t->ret);
}
