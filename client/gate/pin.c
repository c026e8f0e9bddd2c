/* pin.c - before a system call: what the kernel will access comes home and stays (pins.c), after a look whether there is anything to pin. */
#include "client/gate/eg_buffers.h"
#include "client/gate/eg_signals.h"
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>

/* --- pinning ------------------------------------------------------------------------------------------------------------- */

#define DEPTH_LASTING (~0ull) /* higher up than any call: ends with the thread */

static uint64_t depth_of(uint64_t sp)
{
    return eg_signals_on_alternate(sp) ? sp : sp | EG_PIN_MAIN;
}

/* The look beforehand, on the program's stack and without the lock. */
struct probe {
    struct eg_buffers b; /* first member */
    uint64_t owner, sp;
    uint64_t enough; /* bytes; it need not go on for more, once something is to be pinned */
    uint64_t bytes;  /* of all buffers; NOT_KNOWN */
    int needed;      /* something is to be pinned, or to be let go */
};
#define NOT_KNOWN (1ull << 63) /* more than there can be, and more may come to it */
#define STACK_NEAR (128u << 10) /* from a call's frame up, what can only be the stack */

static int seen(struct eg_buffers *b, uint64_t start, uint64_t end)
{
    (void)b;
    return eg_ranges_seen(&eg_rt.ranges, start, end);
}

static int probe_span(struct eg_buffers *b, uint64_t start, uint64_t end, int write)
{
    struct probe *p = (struct probe *)b;
    p->bytes += end - start;
    p->needed |= !p->needed && eg_ranges_seen(&eg_rt.ranges, start, end) && !eg_pin_held(p->owner, p->sp | EG_PIN_MAIN, start, end, write) &&
                 !eg_pin_held(p->owner, p->sp, start, end, write);
    return p->needed && p->bytes > p->enough;
}

/* The program's memory, by copy. What is held, or the stack that this very call stands in, is there; else the kernel is asked. */
static int probe_look(struct eg_buffers *b, void *to, uint64_t from, size_t bytes)
{
    struct probe *p = (struct probe *)b;
    int is_there = from - p->sp < STACK_NEAR || (!p->needed && eg_ranges_seen(&eg_rt.ranges, from, from + bytes));
    if (is_there ? eg_signals_copy_in(to, from, bytes) == 0 : eg_sys_copy_in(to, from, bytes) == (long)bytes)
        return 0;
    p->bytes = NOT_KNOWN;
    return -1;
}

/* Bringing home, on a stack of the gate's. */
#define SPANS 32
struct pinning {
    struct eg_buffers b; /* first member */
    uint64_t owner, depth;
    int begun;
    uint64_t bytes;
    uint32_t n;
    struct eg_span_rw v[SPANS];
};

static void pin_now(struct pinning *p)
{
    if (p->begun)
        eg_pin_more(p->owner, p->depth, p->v, p->n);
    else
        eg_pin_call(p->owner, p->depth, p->v, p->n);
    p->begun = 1;
    p->n = 0;
}

static int pin_span(struct eg_buffers *b, uint64_t start, uint64_t end, int write)
{
    struct pinning *p = (struct pinning *)b;
    if (p->n == SPANS)
        pin_now(p);
    p->v[p->n++] = (struct eg_span_rw){start, end, write};
    p->bytes += end - start;
    return 0;
}

static int pin_look(struct eg_buffers *b, void *to, uint64_t from, size_t bytes)
{
    struct pinning *p = (struct pinning *)b;
    if (p->n)
        pin_now(p);
    return eg_sys_copy_in(to, from, bytes) == (long)bytes ? 0 : -1;
}

/* Returns: bytes. */
static uint64_t pin_buffers(uint64_t owner, uint64_t depth, long nr, const long arg[6], int lasting)
{
    struct pinning p = {.b = {pin_span, pin_look, seen}, .owner = owner, .depth = depth, .begun = lasting};
    eg_gate_buffers(&p.b, nr, arg);
    if (p.n || !p.begun)
        pin_now(&p);
    return p.bytes;
}

uint64_t eg_gate_pin_for(uint64_t owner, long nr, const long arg[6])
{
    return pin_buffers(owner, DEPTH_LASTING, nr, arg, 1);
}

void eg_gate_pin_here(uint64_t sp, long nr, const long arg[6])
{
    pin_buffers(eg_thread_pointer(), depth_of(sp), nr, arg, 0);
}

/* f->pass: the stack pointer of the call. */
static long pin_frame(void *arg)
{
    struct eg_gate_frame own = *(struct eg_gate_frame *)arg; /* the frame is on the program's stack: nothing of it is needed under the lock */
    int lasting = eg_call_flags(own.nr) & EG_CALL_LASTING;
    pin_buffers(eg_thread_pointer(), lasting ? DEPTH_LASTING : depth_of((uint64_t)own.pass), own.nr, own.arg, lasting);
    return 0;
}

/* Is there anything to be done before the call? enough: 0, or how many bytes of buffers are to be told from more. */
static struct probe probe(long nr, const long arg[6], uint64_t sp, uint64_t enough)
{
    struct probe p = {{probe_span, probe_look, seen}, eg_thread_pointer(), sp, enough, 0, 0};
    eg_gate_buffers(&p.b, nr, arg);
    p.needed = p.needed || eg_pin_idle(p.owner, sp | EG_PIN_MAIN);
    return p;
}

static void pin_call(long nr, const long arg[6], uint64_t sp)
{
    struct eg_gate_frame f = {(long)sp, nr, {arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]}};
    eg_gate_alone(pin_frame, &f);
}

void eg_gate_pin_before(uint64_t sp, long nr, const long arg[6])
{
    if (probe(nr, arg, sp, 0).needed)
        pin_call(nr, arg, sp);
}

/* The kernel clears the thread's number (clear_child_tid) when it is gone, and writes to the rseq area until then. libc has both behind the thread
 * pointer: they stay, by the thread's number, for another thread may have this thread pointer next. */
#define TCB_BYTES 2560u

/* What is left to be done on the thread's stack is done without an alternate one: what the thread stands in stays, too. */
static long pins_end(void *arg)
{
    uint64_t owner = eg_thread_pointer(), sp = *(const uint64_t *)arg;
    struct eg_span_rw last[] = {{owner, owner + TCB_BYTES, 1}, {sp - EG_PAGE_BYTES, sp + EG_PAGE_BYTES, 1}};
    if (eg_ranges_seen(&eg_rt.ranges, last[0].start, last[0].end) || eg_ranges_seen(&eg_rt.ranges, last[1].start, last[1].end)) {
        eg_pin_bury();
        eg_pin_more(EG_PIN_TID | (uint64_t)eg_sys0(SYS_gettid), DEPTH_LASTING, last, 2);
    }
    eg_pin_end(owner);
    return 0;
}

void eg_gate_unpin(void)
{
    uint64_t sp = (uint64_t)__builtin_frame_address(0);
    eg_gate_alone(pins_end, &sp);
}

int eg_gate_pin(struct eg_gate_frame *f, long *ret_result)
{
    uint64_t sp = (uint64_t)f;
    uint8_t flags = eg_call_flags(f->nr);
    if (flags & EG_CALL_PLAIN)
        return 0;
    if (flags & EG_CALL_DECLINED) {
        *ret_result = -ENOSYS;
        return 1;
    }
    struct eg_span_rw only;
    if (eg_gate_one_buffer(f->nr, f->arg, &only) && eg_pin_ready(eg_thread_pointer(), sp, &only))
        return 0;
    int may_be_large = flags & EG_CALL_LARGE;
    struct probe p = probe(f->nr, f->arg, sp, may_be_large ? EG_GATE_LARGE_MIN : 0);
    if (!p.needed)
        return 0;
    if (may_be_large && p.bytes > EG_GATE_LARGE_MIN && eg_gate_large(f, sp, ret_result))
        return 1;
    pin_call(f->nr, f->arg, sp);
    return 0;
}

/* --- calls that began before ------------------------------------------------------------------------------------------------ */

#define BELOW 256u /* the gate's frame would have been about that far below the call; a signal's frame is further */

static const char *number(const char *s, uint64_t *ret_value)
{
    uint64_t v = 0;
    uint32_t base = 10;
    while (*s == ' ')
        s++;
    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    for (;; s++) {
        uint32_t digit = *s >= '0' && *s <= '9' ? (uint32_t)(*s - '0') : *s >= 'a' && *s <= 'f' ? (uint32_t)(*s - 'a' + 10) : 16;
        if (digit >= base)
            break;
        v = v * base + digit;
    }
    *ret_value = v;
    return s;
}

/* The program's descriptors. */
struct descriptors {
    long look; /* through which they are looked for */
    uint64_t end;
};

static void descriptor_seen(void *arg, uint64_t n)
{
    struct descriptors *d = arg;
    if (n >= d->end && (long)n != d->look && !eg_cap_fd_reserved((long)n))
        d->end = n + 1;
}

/* One more than the highest. */
static long descriptors(void *unused)
{
    struct descriptors d = {eg_fd_open_own("/proc/thread-self/fd", O_RDONLY | O_DIRECTORY), 0};
    (void)unused;
    if (eg_sys_failed(d.look))
        return INT_MAX;
    eg_sys_numbers(d.look, descriptor_seen, &d);
    return (long)d.end;
}

/* The kernel looks at no more bits than its table has room for, whatever select is told, and the runtime's descriptors make that larger than the program's sets
 * may be: select(getdtablesize(), ...) with sets of the usual size is right as long as few are open.
 * Source: fs/file.c, alloc_fdtable(). */
#define SET_BITS 1024 /* FD_SETSIZE: no set is smaller; tables are powers of two from 128 on */
long eg_gate_set_bits(long n)
{
    static uint64_t most; /* the table does not become smaller */
    if ((int)n <= SET_BITS)
        return n;
    uint64_t open = (uint64_t)eg_gate_alone(descriptors, NULL), before = __atomic_load_n(&most, __ATOMIC_RELAXED), table = SET_BITS;
    open = open > before ? open : before;
    __atomic_store_n(&most, open, __ATOMIC_RELAXED);
    while (table < open)
        table *= 2;
    return (uint64_t)(int)n < table ? n : (long)table;
}

/* A file of a thread's in /proc, as text. Returns: its length; 0: the thread is gone. */
static size_t thread_file(uint64_t tid, const char *name, char *ret_text, size_t cap)
{
    char path[64];
    size_t n = eg_str_put(path, sizeof path, 0, "/proc/self/task/");
    n = eg_str_put_u64(path, sizeof path, n, tid);
    eg_str_put(path, sizeof path, n, name);
    ret_text[0] = 0;
    long fd = eg_fd_open_own(path, O_RDONLY);
    if (eg_sys_failed(fd))
        return 0;
    long got = eg_sys3(SYS_read, fd, ret_text, cap - 1);
    eg_sys1(SYS_close, fd);
    ret_text[got > 0 ? got : 0] = 0;
    return got > 0 ? (size_t)got : 0;
}

/* "7 0x7ffc.. 0x1 .. SP PC", or "running", or "-1 SP PC". Returns: 1 it is running, in the program's code or in a call, nobody says which. */
static int pin_blocked(uint64_t tid)
{
    char line[256];
    if (!thread_file(tid, "/syscall", line, sizeof line) || line[0] < '0' || line[0] > '9')
        return line[0] == 'r';
    uint64_t v[8];
    const char *s = line;
    for (int i = 0; i < 8; i++)
        s = number(s, v + i);
    pin_buffers(EG_PIN_TID | tid, (v[7] - BELOW) | EG_PIN_MAIN, (long)v[0], (const long *)(v + 1), 0);
    return 0;
}

/* The time that the thread has spent in the program's code, in hundredths of a second: the 14th field of "1234 (name) R ...". */
static uint64_t user_ticks(uint64_t tid)
{
    char text[512], *s = text;
    uint64_t ticks;
    size_t n = thread_file(tid, "/stat", text, sizeof text);
    for (size_t i = 0; i < n; i++)
        if (text[i] == ')')
            s = text + i; /* the last one: a name may have some, too */
    for (int spaces = 0; *s && spaces < 12; s++)
        spaces += *s == ' ';
    number(s, &ticks);
    return ticks;
}

/* Threads that were running: perhaps inside a long call, such as a read of a large file into memory that is not here yet. They are waited for, until each
 * has been in the program's code since: what it calls from then on is seen. */
struct running {
    uint64_t tid, ticks;
};
#define RUNNING_MAX 64u
#define RUNNING_TICKS 2u /* the kernel's division into user and system time is off by one at times */
#define RUNNING_LIMIT_NS 500000000u
#define RUNNING_NAP_NS 2000000

static void await_running(struct running *v, uint32_t n)
{
    uint64_t end_ns = eg_sys_now_ns() + RUNNING_LIMIT_NS;
    for (struct timespec nap = {.tv_nsec = 50000}; n && eg_sys_now_ns() < end_ns; nap.tv_nsec = nap.tv_nsec < RUNNING_NAP_NS ? 2 * nap.tv_nsec : RUNNING_NAP_NS) {
        eg_sys5(SYS_ppoll, 0, 0, &nap, 0, 8);
        uint32_t left = 0;
        for (uint32_t i = 0; i < n; i++)
            if (!eg_pin_known(v[i].tid) && pin_blocked(v[i].tid) && user_ticks(v[i].tid) < v[i].ticks + RUNNING_TICKS)
                v[left++] = v[i];
        n = left;
    }
}

struct blocked {
    uint64_t own;
    struct running running[RUNNING_MAX];
    uint32_t n;
};

static void thread_seen(void *arg, uint64_t tid)
{
    struct blocked *b = arg;
    if (tid != b->own && !eg_pin_known(tid) && pin_blocked(tid) && b->n < RUNNING_MAX)
        b->running[b->n++] = (struct running){tid, user_ticks(tid)};
}

void eg_gate_pin_blocked(void)
{
    static uint32_t waited; /* eg_rt.pid: the first look of a process is the one that nothing leaves before */
    struct blocked b;
    long fd = eg_fd_new(SYS_openat, AT_FDCWD, (long)"/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (eg_sys_failed(fd))
        return;
    b.own = (uint64_t)eg_sys0(SYS_gettid);
    b.n = 0;
    eg_sys_numbers(fd, thread_seen, &b);
    if (__atomic_exchange_n(&waited, eg_rt.pid, __ATOMIC_RELAXED) != eg_rt.pid)
        await_running(b.running, b.n);
}
