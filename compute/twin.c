/* twin.c - the worker's threads: each runs one thread of the program between signals.
 *
 * A thread is idle (reads its stream for the next one to run), in the program, or in a handler on its alternate stack with every signal
 * blocked. Nothing here touches the program's memory but by wk_try_* and system calls: an access of ours to a missing page would kill the worker. */
#include "compute/worker.h"

#include <errno.h>
#include <linux/audit.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>

#define PR_SET_SYSCALL_USER_DISPATCH 59
#define ARCH_SET_FS 0x1002
#define ARCH_GET_FS 0x1003
#define ARCH_SET_GS 0x1001
#define ARCH_GET_GS 0x1004
#define SPIN_NS 50000u
#define LEASE_NS 100000u       /* a page stays for so long after its instruction could go on: about what moving it costs */
#define HOLD_MAX_NS 2000000u   /* pages of an instruction that still waits for another one */
#define LOOK_AGAIN_NS 50000u
#define RECENT 1024u
#define PROCESSORS 1024u
#define APART_MOST 4u /* calls; to go to another processor costs about one */
#define FRAME_SOON 4096u /* of the stack: about a signal's frame */
#define LEAVES_SPAN (12 * EG_PAGE_BYTES)
#define TRAP_BREAKPOINT 3u /* int3: reported behind the instruction */

extern char __executable_start[], etext[];

static struct {
    uint64_t page, until_ns;
    uint32_t slot, turn; /* whose, in which of its turns: it ends with that, too */
} recent[RECENT];
static uint32_t waiting[WK_SLOTS]; /* slots with `active` set, the first wk.n_active of them */
static uint32_t waiting_lock;

void wk_lock(uint32_t *word)
{
    while (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE))
        eg_sys0(SYS_sched_yield);
}

void wk_unlock(uint32_t *word)
{
    __atomic_store_n(word, 0, __ATOMIC_RELEASE);
}

/* --- holding pages ----------------------------------------------------------------------------------------------------------- */

static void active_begin(struct wk_slot *s, uint64_t addr, uint64_t rip)
{
    if (s->rip != rip)
        s->n_held = 0;
    else if (s->n_held < WK_HELD && s->addr != addr)
        s->held[s->n_held++] = s->addr; /* it has not retired: it needs that page as well */
    s->addr = addr;
    s->rip = rip;
    s->since_ns = eg_sys_now_ns();
    wk_lock(&waiting_lock);
    s->active = 1;
    waiting[wk.n_active++] = s->index;
    wk_unlock(&waiting_lock);
}

/* Returns: the time now. */
static uint64_t lease_begin(struct wk_slot *s, uint64_t addr)
{
    uint64_t page = addr / EG_PAGE_BYTES, now = eg_sys_now_ns();
    recent[page % RECENT].until_ns = now + LEASE_NS;
    recent[page % RECENT].slot = s->index;
    recent[page % RECENT].turn = s->turn;
    __atomic_store_n(&recent[page % RECENT].page, page, __ATOMIC_RELEASE);
    return now;
}

static void active_end(struct wk_slot *s)
{
    uint64_t took_ns = lease_begin(s, s->addr) - s->since_ns;
    s->took_ns = took_ns < UINT32_MAX ? (uint32_t)took_ns : UINT32_MAX;
    wk_lock(&waiting_lock);
    s->active = 0;
    for (uint32_t i = 0; i < wk.n_active; i++)
        if (waiting[i] == s->index) {
            waiting[i] = waiting[--wk.n_active];
            break;
        }
    wk_unlock(&waiting_lock);
}

uint64_t wk_held(uint64_t addr, uint64_t now)
{
    uint64_t page = addr / EG_PAGE_BYTES, until = recent[page % RECENT].until_ns;
    int held = 0;
    if (__atomic_load_n(&recent[page % RECENT].page, __ATOMIC_ACQUIRE) == page && now < until &&
        wk_slot(recent[page % RECENT].slot)->turn == recent[page % RECENT].turn)
        return until;
    wk_lock(&waiting_lock);
    for (uint32_t i = 0; i < wk.n_active && !held; i++) {
        const struct wk_slot *s = wk_slot(waiting[i]);
        /* Two instructions that hold what the other wants: the limits differ, so one lets go first. */
        if (now > s->since_ns && now - s->since_ns > HOLD_MAX_NS + (s->ktid % 16) * 250000u)
            continue;
        for (uint32_t k = 0; k < s->n_held; k++)
            held |= s->held[k] == addr;
    }
    wk_unlock(&waiting_lock);
    return held ? now + LOOK_AGAIN_NS : 0;
}

uint64_t wk_spin_ns(void)
{
    return wk.loaded || __atomic_load_n(&wk.n_running, __ATOMIC_RELAXED) >= wk.n_processors ? 0 : SPIN_NS;
}

/* --- talking to the proxy ---------------------------------------------------------------------------------------------------- */

static __attribute__((noreturn)) void twin_end(struct wk_slot *s)
{
    __atomic_fetch_sub(&wk.n_running, 1, __ATOMIC_RELAXED);
    eg_sys1(SYS_close, s->fd);
    for (;;)
        eg_sys1(SYS_exit, 0);
}

static void call_send(struct wk_slot *s, const struct eg_call *call, const void *data)
{
    if (!wk_write_full(s->fd, call, sizeof *call, data, call->len_bytes))
        twin_end(s);
}

/* Until something comes. A unix socket's read also wakes at every piece of its own that the other side takes, in time for the answer, if a processor is free; poll
 * does not. */
static void sleep_until_read(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    eg_sys5(SYS_ppoll, &p, 1, NULL, 0, 8);
}

/* At least `least` bytes of what comes, `most` at most. Spins a little first. Returns: how many; fewer, if it goes to the program's memory and a page is not here,
 * or may not be written. */
static uint64_t some_read(struct wk_slot *s, void *to, uint64_t least, uint64_t most)
{
    uint64_t at = 0;
    s->spin.begun_ns = 0;
    s->was_woken = 0;
    __atomic_fetch_sub(&wk.n_running, 1, __ATOMIC_RELAXED);
    for (int block = 0; at < least;) {
        long n = eg_sys6(SYS_recvfrom, s->fd, (uint8_t *)to + at, most - at, block ? 0 : MSG_DONTWAIT, 0, 0);
        if (n > 0) {
            at += (uint64_t)n;
        } else if (n == -EAGAIN) {
            uint64_t spin_ns = wk_spin_ns();
            block = spin_ns && !eg_spin_turn(&s->spin, spin_ns);
            if (!spin_ns)
                sleep_until_read(s->fd);
            s->was_woken |= block || !spin_ns;
        } else if (n == -EFAULT) {
            break;
        } else if (n != -EINTR) {
            __atomic_fetch_add(&wk.n_running, 1, __ATOMIC_RELAXED);
            twin_end(s);
        }
    }
    __atomic_fetch_add(&wk.n_running, 1, __ATOMIC_RELAXED);
    return at;
}

uint32_t wk_call_read(struct wk_slot *s, void *to, uint32_t bytes)
{
    return (uint32_t)some_read(s, to, bytes, bytes);
}

void wk_call_short(struct wk_slot *s, const struct eg_call *call, struct eg_call *ret_answer)
{
    call_send(s, call, NULL);
    wk_call_read(s, ret_answer, sizeof *ret_answer);
}

/* Calls are made on that processor (from 1; 0: wherever), while so many threads want to run: when the thread was woken from there to another one several times running, it
 * goes there, and may run where it could before. */
static void follow(struct wk_slot *s, int was_woken, uint64_t processor, uint64_t running)
{
    uint64_t all[PROCESSORS / 64], one[PROCESSORS / 64] = {0};
    unsigned here;
    if (!processor || processor > PROCESSORS || running <= wk.n_processors || eg_sys3(SYS_getcpu, &here, 0, 0) || here + 1 == processor) {
        s->n_apart = 0;
        return;
    }
    s->n_apart += (uint32_t)was_woken;
    if (s->n_apart < APART_MOST)
        return;
    s->n_apart = 0;
    long bytes = eg_sys3(SYS_sched_getaffinity, 0, sizeof all, all);
    uint64_t word = (processor - 1) / 64, bit = 1ull << (processor - 1) % 64;
    if (bytes < (long)((word + 1) * sizeof *all) || !(all[word] & bit))
        return;
    one[word] = bit;
    if (!eg_sys3(SYS_sched_setaffinity, 0, bytes, one))
        eg_sys3(SYS_sched_setaffinity, 0, bytes, all);
}

static void idle(void *arg);

static __attribute__((noreturn)) void become_idle(struct wk_slot *s)
{
    wk_call_on((uint8_t *)s + WK_ALT_OFFSET, idle, s);
}

/* What it will use first at home goes along, or is asked for: its stack, where a signal's frame may come (but at its end), up to its control block, if that is
 * not far above. */
static void leaves(struct wk_slot *s, uint64_t rsp, uint64_t fs_base, enum eg_home_reason why)
{
    uint64_t start = (rsp - (why == EG_HOME_END ? 0 : FRAME_SOON)) & ~(uint64_t)(EG_PAGE_BYTES - 1);
    uint64_t end = fs_base > rsp && fs_base - rsp < LEAVES_SPAN ? fs_base + EG_CONTROL_BYTES : rsp + 1;
    struct eg_co m = {.type = EG_CO_LEAVES, .n = (uint32_t)((end - start + EG_PAGE_BYTES - 1) / EG_PAGE_BYTES), .addr = start};
    if (wk_give(s, start, m.n, rsp))
        wk_send(&m, NULL, 0);
}

/* The thread leaves: its registers go home. info: of the fault or trap that it leaves for, else NULL. */
static __attribute__((noreturn)) void go_home(struct wk_slot *s, struct eg_ucontext *uc, enum eg_home_reason why, const siginfo_t *info)
{
    struct {
        struct eg_call call;
        struct eg_thread_state state;
    } out;
    memset(&out, 0, sizeof out);
    s->turn++;
    s->kick = 0;
    uint64_t rip = uc->mc.regs[EG_REG_RIP];
    if (wk_vdso_home(uc->mc.regs) && (why == EG_HOME_KICK || rip != uc->mc.regs[EG_REG_RIP]))
        why = EG_HOME_FAULT; /* not on to another node, whose clock may be another; and it stands before its call already */
    memcpy(&out.state.r8, uc->mc.regs, sizeof uc->mc.regs);
    eg_sys2(SYS_arch_prctl, ARCH_GET_FS, &out.state.fs_base);
    eg_sys2(SYS_arch_prctl, ARCH_GET_GS, &out.state.gs_base);
    leaves(s, out.state.rsp, out.state.fs_base, why);
    out.state.xstate_bytes = eg_frame_xstate_bytes(uc->mc.fpstate);
    out.call.type = EG_CALL_HOME;
    out.call.mask = s->mask;
    out.call.arg[0] = why;
    if (info) {
        out.call.arg[1] = info->si_signo;
        out.call.arg[2] = (int64_t)(uint64_t)info->si_addr;
        out.call.arg[3] = (int64_t)(uc->mc.err & (EG_FAULT_WRITE | EG_FAULT_CODE));
    }
    out.call.len_bytes = (uint32_t)sizeof out.state + out.state.xstate_bytes;
    /* One message: head, state and extended state. */
    if (!wk_write_full(s->fd, &out, sizeof out, uc->mc.fpstate, out.state.xstate_bytes))
        twin_end(s);
    become_idle(s);
}

/* --- system calls ------------------------------------------------------------------------------------------------------------ */

int wk_value_in(void *to, uint64_t addr, uint64_t bytes)
{
    return (addr < EG_WORKER_START || addr >= EG_WORKER_END) && wk_try_copy(to, (const void *)addr, bytes);
}

int wk_value_out(uint64_t addr, const void *from, uint64_t bytes)
{
    return (addr < EG_WORKER_START || addr >= EG_WORKER_END) && wk_try_copy((void *)addr, from, bytes);
}

/* rt_sigprocmask that opens the mask for nothing: home need not know, because the thread takes its signals there only. Returns: 0: home is to do it. */
static int mask_here(struct wk_slot *s, uint64_t *r)
{
    uint64_t set, mask = s->mask, never = 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1);
    uint64_t given = r[EG_REG_RSI], old = r[EG_REG_RDX];
    if (r[EG_REG_R10] != sizeof set || (given && !wk_value_in(&set, given, sizeof set)))
        return 0;
    if (given)
        switch ((int)r[EG_REG_RDI]) {
        case SIG_BLOCK: mask |= set; break;
        case SIG_UNBLOCK: mask &= ~set; break;
        case SIG_SETMASK: mask = set; break;
        default: return 0;
        }
    mask &= ~never;
    if (s->mask & ~mask || (old && !wk_value_out(old, &s->mask, sizeof s->mask)))
        return 0;
    s->mask = mask;
    r[EG_REG_RAX] = 0;
    return 1;
}

static void syscall_trap(struct wk_slot *s, struct eg_ucontext *uc)
{
    struct {
        struct eg_call call;
        struct eg_thread_state state;
    } out;
    uint64_t *r = uc->mc.regs;
    uint64_t nr = r[EG_REG_RAX];
    switch (nr) {
    case SYS_gettid: r[EG_REG_RAX] = s->state.tid; return;
    case SYS_getpid: r[EG_REG_RAX] = wk.home_pid; return;
    case SYS_sched_yield: r[EG_REG_RAX] = (uint64_t)eg_sys0(SYS_sched_yield); return;
    case SYS_rseq: r[EG_REG_RAX] = (uint64_t)-ENOSYS; return; /* the kernel would write into memory that may be away */
    case SYS_rt_sigprocmask:
        if (mask_here(s, r))
            return;
        break;
    case SYS_arch_prctl:
        if (r[EG_REG_RDI] == ARCH_SET_FS || r[EG_REG_RDI] == ARCH_SET_GS) {
            r[EG_REG_RAX] = (uint64_t)eg_sys2(SYS_arch_prctl, r[EG_REG_RDI], r[EG_REG_RSI]);
            return;
        }
        break;
    case SYS_exit:
        s->turn++;
        out.call = (struct eg_call){.type = EG_CALL_EXIT, .arg = {(int64_t)r[EG_REG_RDI]}};
        call_send(s, &out.call, NULL);
        become_idle(s);
    default: break;
    }
    long ret = 0;
    uint64_t left_ns = r[EG_REG_R9];
    enum wk_futex here = nr == SYS_futex ? wk_futex(s, r, &ret) : wk_nanosleep(s, r, &left_ns);
    if (here == WK_FUTEX_DONE) {
        r[EG_REG_RAX] = (uint64_t)ret;
        return;
    }
    out.call = (struct eg_call){
        .type = here == WK_FUTEX_KICKED ? EG_CALL_KICKED : EG_CALL_SYSCALL,
        .arg = {(int64_t)nr, (int64_t)r[EG_REG_RDI], (int64_t)r[EG_REG_RSI], (int64_t)r[EG_REG_RDX], (int64_t)r[EG_REG_R10],
                (int64_t)r[EG_REG_R8], (int64_t)left_ns},
        .caller = {r[EG_REG_RSP], r[EG_REG_RIP], r[EG_REG_RBX], r[EG_REG_RBP], r[EG_REG_R12], r[EG_REG_R13], r[EG_REG_R14], r[EG_REG_R15]},
        .mask = s->mask,
    };
    struct wk_pieces pieces = {.of = NULL};
    const uint8_t *payload = here == WK_FUTEX_KICKED ? NULL : wk_pieces_begin(s, r[EG_REG_RIP], &out.call, &pieces);
    s->turn++; /* what it was given it does not use now */
    if (nr == SYS_clone || nr == SYS_clone3) { /* the new thread starts with these registers */
        memset(&out.state, 0, sizeof out.state);
        memcpy(&out.state.r8, r, sizeof uc->mc.regs);
        out.state.xstate_bytes = eg_frame_xstate_bytes(uc->mc.fpstate);
        out.call.len_bytes = (uint32_t)sizeof out.state + out.state.xstate_bytes;
        if (!wk_write_full(s->fd, &out, sizeof out, uc->mc.fpstate, out.state.xstate_bytes))
            twin_end(s);
    } else {
        call_send(s, &out.call, payload);
    }
    struct eg_call answer;
    wk_call_read(s, &answer, sizeof answer);
    int was_woken = s->was_woken;
    if (answer.type == EG_CALL_HOME)
        go_home(s, uc, EG_HOME_SYSCALL, NULL);
    s->mask = answer.mask;
    r[EG_REG_RAX] = (uint64_t)(answer.len_bytes ? wk_pieces_end(s, r[EG_REG_RIP], &answer, &pieces) : answer.arg[0]);
    follow(s, was_woken, (uint64_t)answer.arg[3], (uint64_t)answer.arg[4]);
    if (nr == SYS_futex)
        wk_futex_learn(r[EG_REG_RIP], answer.arg[1] != 0);
    if (here == WK_FUTEX_KICKED && !answer.arg[2])
        go_home(s, uc, EG_HOME_KICK, NULL);
}

/* --- faults ------------------------------------------------------------------------------------------------------------------ */

void wk_answer_read(struct wk_slot *s, struct eg_co *ret, uint64_t most, int write)
{
    uint8_t *in = (uint8_t *)s + WK_IN_OFFSET;
    uint64_t have = some_read(s, in, sizeof *ret, most);
    memcpy(ret, in, sizeof *ret);
    uint64_t bytes = sizeof *ret + eg_co_payload_bytes(ret);
    if ((ret->type != EG_CO_GRANT && ret->type != EG_CO_DENY && ret->type != EG_CO_COVERED) || ret->n > eg_co_most_pages(ret->flags) || have > bytes)
        wk_die("home sent nonsense of type", ret->type);
    if (have < bytes)
        some_read(s, in + have, bytes - have, bytes - have);
    wk.loaded = (ret->flags & EG_CO_F_LOADED) != 0;
    if (ret->type == EG_CO_GRANT)
        wk_install(ret, in + sizeof *ret, write);
}

int wk_page_get(struct wk_slot *s, uint64_t addr, uint64_t rip, int write)
{
    addr &= ~(uint64_t)(EG_PAGE_BYTES - 1);
    active_begin(s, addr, rip);
    struct eg_co m = {
        .type = write ? EG_CO_GET_EXCLUSIVE : EG_CO_GET_SHARED,
        .slot = (uint16_t)s->index,
        .n = 1,
        .addr = addr,
        .took_ns = s->took_ns,
    };
    wk_send(&m, NULL, 0);
    /* The answer comes on this thread's own stream: nobody else has to be woken for it. */
    wk_answer_read(s, &m, sizeof m + EG_CO_MAX_PAGES * EG_PAGE_BYTES, write);
    active_end(s);
    wk_taken(m.number);
    uint8_t byte;
    if (m.flags & EG_CO_F_NODATA && !wk_try_copy(&byte, (const void *)addr, 1)) { /* its content is on its way to another thread, or to the main one */
        __atomic_fetch_sub(&wk.n_running, 1, __ATOMIC_RELAXED);
        wk_grants_wait(m.number);
        __atomic_fetch_add(&wk.n_running, 1, __ATOMIC_RELAXED);
    }
    return m.type != EG_CO_DENY;
}

/* The trap is to be met at home, too: the thread goes there with the instruction still before it. */
static void before_breakpoint(uint64_t *r)
{
    uint8_t byte = 0xcc;
    r[EG_REG_RIP] -= wk_value_in(&byte, r[EG_REG_RIP] - 1, 1) && byte == 0x03 ? 2 : 1;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    struct eg_ucontext *uc = context;
    struct wk_slot *s = (struct wk_slot *)((uint64_t)__builtin_frame_address(0) & ~(WK_SLOT_BYTES - 1));
    uint64_t rip = uc->mc.regs[EG_REG_RIP];
    if ((number == SIGBUS || number == SIGSEGV) && rip >= (uint64_t)wk_try_copy_from && rip < (uint64_t)wk_try_copy_to) {
        uc->mc.regs[EG_REG_RIP] = (uint64_t)wk_try_copy_failed;
        return;
    }
    if ((uint64_t)s < WK_SLOTS_BASE || (rip >= EG_WORKER_START && rip < EG_WORKER_END && number != WK_KICK))
        wk_die("internal error: a signal in its own code, number", number);
    switch (number) {
    case SIGBUS:
        if (rip == s->ends_at)
            go_home(s, uc, EG_HOME_END, NULL);
        if (!wk_page_get(s, (uint64_t)info->si_addr, rip, (uc->mc.err & EG_FAULT_WRITE) != 0))
            go_home(s, uc, EG_HOME_FAULT, info);
        break;
    case SIGSYS:
        if (info->si_arch != AUDIT_ARCH_X86_64)
            go_home(s, uc, EG_HOME_SYSCALL, NULL); /* int 0x80: other numbers, other registers */
        syscall_trap(s, uc);
        break;
    case SIGSEGV: go_home(s, uc, EG_HOME_FAULT, info);
    case WK_KICK:
        if (__atomic_load_n(&s->kick, __ATOMIC_SEQ_CST) != s->state.tid || (rip >= EG_WORKER_START && rip < EG_WORKER_END))
            break;
        go_home(s, uc, EG_HOME_KICK, NULL);
    default:
        if (number == SIGTRAP && uc->mc.trapno == TRAP_BREAKPOINT)
            before_breakpoint(uc->mc.regs);
        go_home(s, uc, EG_HOME_TRAP, info);
    }
}

void wk_signals_init(void)
{
    static const uint8_t numbers[] = {SIGBUS, SIGSYS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, WK_KICK};
    struct {
        void *handler;
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } act = {(void *)on_signal, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | 0x04000000 /* SA_RESTORER */, wk_restorer, ~(1ull << (SIGBUS - 1) | 1ull << (SIGSEGV - 1))}; /* wk_try_copy is done inside a handler */
    for (uint32_t i = 0; i < sizeof numbers; i++)
        eg_sys4(SYS_rt_sigaction, numbers[i], &act, 0, 8);
    act.handler = (void *)SIG_IGN;
    eg_sys4(SYS_rt_sigaction, SIGPIPE, &act, 0, 8);
}

/* --- life -------------------------------------------------------------------------------------------------------------------- */

static void idle(void *arg)
{
    struct wk_slot *s = arg;
    struct eg_call call;
    wk_call_read(s, &call, sizeof call);
    if (call.type != EG_CALL_START || call.len_bytes < sizeof s->state || call.len_bytes > sizeof s->state + EG_XSTATE_MAX_BYTES)
        twin_end(s);
    wk_call_read(s, &s->state, sizeof s->state);
    if (s->state.xstate_bytes != call.len_bytes - sizeof s->state)
        twin_end(s);
    if (s->state.xstate_bytes)
        wk_call_read(s, s->xstate, s->state.xstate_bytes);
    s->mask = call.mask;
    s->n_held = 0;
    s->rip = 0;
    wk_sleep_begins(s);
    s->ends_at = (uint64_t)call.arg[1];
    for (int64_t i = 0; i < call.arg[0]; i++) { /* what it touches first; of several that wait, only the head: the next one may have come, too */
        struct eg_co m;
        wk_answer_read(s, &m, sizeof m, 1);
        lease_begin(s, m.addr);
        wk_taken(m.number);
    }
    struct eg_frame_stack alt = {(uint8_t *)s + WK_ALT_OFFSET, 0, WK_ALT_END - WK_ALT_OFFSET};
    eg_sys2(SYS_arch_prctl, ARCH_SET_FS, s->state.fs_base);
    eg_sys2(SYS_arch_prctl, ARCH_SET_GS, s->state.gs_base);
    void *sp = eg_frame_build((uint8_t *)s + WK_ALT_END, &s->state, s->xstate, 0, &alt);
    eg_frame_return(sp);
}

static void twin_main(void *arg)
{
    struct wk_slot *s = arg;
    __atomic_fetch_add(&wk.n_running, 1, __ATOMIC_RELAXED);
    struct eg_frame_stack alt = {(uint8_t *)s + WK_ALT_OFFSET, 0, WK_ALT_END - WK_ALT_OFFSET};
    eg_sys2(SYS_sigaltstack, &alt, 0);
    long rc = eg_sys5(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, 1, __executable_start, etext - __executable_start, 0);
    if (rc)
        wk_die("this kernel has no Syscall User Dispatch, errno", -rc);
    const struct eg_node_welcome welcome = {.magic = EG_THREADS_MAGIC, .version = EG_THREADS_VERSION, .slot = s->index};
    if (!wk_write_full(s->fd, &welcome, sizeof welcome, NULL, 0))
        twin_end(s);
    idle(s);
}

void wk_twin_new(int fd)
{
    uint32_t i = 0;
    while (i < wk.n_slots && __atomic_load_n(&wk_slot(i)->ktid, __ATOMIC_ACQUIRE))
        i++;
    struct wk_slot *s = wk_slot(i);
    if (i == WK_SLOTS) {
        eg_sys1(SYS_close, fd);
        return;
    }
    if (i == wk.n_slots) {
        long p = eg_sys6(SYS_mmap, s, WK_SLOT_BYTES, 3, 0x4032 /* NORESERVE | PRIVATE | ANONYMOUS | FIXED */, -1, 0);
        if (eg_sys_failed(p))
            wk_die("no memory for another thread, errno", -p);
        wk.n_slots++;
    }
    s->index = i;
    s->fd = fd;
    unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                          CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    uint64_t all = ~0ull, old;
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
    long tid = wk_clone(flags, (uint8_t *)s + WK_ALT_OFFSET, twin_main, s, &s->ktid);
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
    if (eg_sys_failed(tid))
        eg_sys1(SYS_close, fd);
}
