/* pin.c - before a system call: what the kernel will access comes home and stays (pins.c), after a look whether there is anything to pin. And large reads
 * and writes, made in pieces so that what is pinned at a time stays small. */
#include "client/gate/eg_buffers.h"
#include "client/gate/eg_signals.h"
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define ADDR_END (1ul << EG_ADDR_BITS)
#define RW_MAX 0x7ffff000ul /* what the kernel transfers at most in one call */
#define IOVS_MAX 1024u
#define CHUNK 32 /* elements of an array looked at in one go */

enum {
#define X(nr, name, ...) NR_##name = nr,
    EG_CALLS(X)
#undef X
};

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

/* --- large reads and writes ---------------------------------------------------------------------------------------------- */

#define LIMIT_MIN (64ul * EG_PAGE_BYTES)
#define LIMIT_MAX (16ul << 20)
#define DATAGRAM_MAX (4ul << 20)
#define STREAM_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_CMSG_CLOEXEC) /* with others a read may be something else */
#define WINDOW 16
#define SECTOR 512u /* nothing that O_DIRECT takes is aligned to less */

/* What one call pins at most: an eighth of the budget, less when there are many threads. */
uint64_t eg_gate_pin_limit(void)
{
    uint64_t threads = eg_pin_owners(), bytes = eg_rt.budget / (4 * (threads > 2 ? threads : 2)) * EG_PAGE_BYTES;
    return bytes < LIMIT_MIN ? LIMIT_MIN : bytes > LIMIT_MAX ? LIMIT_MAX : bytes;
}

enum target { T_OTHER, T_REGULAR, T_PIPE, T_SOCKET, T_MESSAGES };

/* fstat and getsockopt write where they are told to: here, on a stack that is not captured memory. */
static long target_of(void *arg)
{
    const struct eg_gate_frame *f = arg;
    struct stat st;
    long fd = f->arg[0];
    if (eg_sys2(SYS_fstat, fd, &st))
        return T_OTHER;
    if (!S_ISSOCK(st.st_mode))
        return S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? T_REGULAR : S_ISFIFO(st.st_mode) ? T_PIPE : T_OTHER;
    int type = 0, bytes = sizeof type;
    eg_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &bytes);
    return type == SOCK_STREAM ? T_SOCKET : T_MESSAGES;
}

struct large {
    struct eg_gate_frame f; /* first member. The call as the program made it; pass: its stack pointer */
    uint8_t buf, len;  /* arguments; iov: the array and its length */
    uint8_t iov, write, offset; /* write: the program's memory is written. offset: argument 3 is one, and moves */
    uint8_t target;
    uint64_t total, done, last; /* last: of the last piece */
    struct iovec window[WINDOW]; /* what comes next */
    uint32_t n_window;
    uint64_t window_bytes, piece;
    uint64_t bits; /* of all lengths and addresses */
};

static int large_kind(struct large *l)
{
    l->buf = 1;
    l->len = 2;
    switch (l->f.nr) {
    case NR_getrandom: l->buf = 0; l->len = 1; l->write = 1; return 1;
    case NR_mlock:
    case NR_mlock2: l->buf = 0; l->len = 1; return 1;
    case NR_read:
    case NR_recvfrom: l->write = 1; return 1;
    case NR_write:
    case NR_sendto: return 1;
    case NR_pread64: l->write = l->offset = 1; return 1;
    case NR_pwrite64: l->offset = 1; return 1;
    case NR_readv: l->iov = l->write = 1; return 1;
    case NR_writev: l->iov = 1; return 1;
    case NR_preadv:
    case NR_preadv2: l->iov = l->write = 1; l->offset = l->f.arg[3] != -1; return 1;
    case NR_pwritev:
    case NR_pwritev2: l->iov = 1; l->offset = l->f.arg[3] != -1; return 1;
    default: return 0;
    }
}

/* From done on, as much as a piece may be: into the window. The array comes home as what process_madvise reads, the same arguments.
 * piece 0: only the total. Returns: 0; -1 when the array cannot be read, or is not one. */
static long window_fill(void *large)
{
    struct large *l = large;
    const struct eg_gate_frame *f = &l->f;
    uint64_t at = (uint64_t)f->arg[1], n = (uint64_t)f->arg[2], skip = l->done, total = 0, take = l->piece, left = RW_MAX;
    struct iovec v[CHUNK], window[WINDOW];
    uint32_t k = 0;
    long arg[6] = {f->arg[0], f->arg[1], f->arg[2], 0, 0, 0};
    uint64_t window_bytes = 0, sp = (uint64_t)f->pass;
    if (!at || !n || n > IOVS_MAX)
        return -1;
    pin_buffers(eg_thread_pointer(), depth_of(sp), NR_process_madvise, arg, 0);
    for (uint64_t i = 0; i < n && left; i++) {
        if (i % CHUNK == 0) {
            uint64_t bytes = (n - i < CHUNK ? n - i : CHUNK) * sizeof *v;
            if (eg_sys_copy_in(v, at + i * sizeof *v, bytes) != (long)bytes)
                return -1;
        }
        struct iovec part = v[i % CHUNK];
        if ((long)part.iov_len < 0)
            return -1;
        l->bits |= (uint64_t)part.iov_base | part.iov_len;
        if (part.iov_len > left)
            part.iov_len = left;
        left -= part.iov_len;
        total += part.iov_len;
        uint64_t cut = skip < part.iov_len ? skip : part.iov_len;
        skip -= cut;
        part.iov_base = (char *)part.iov_base + cut;
        part.iov_len -= cut;
        if (part.iov_len > take)
            part.iov_len = take;
        if (!part.iov_len || k == WINDOW)
            continue;
        take -= part.iov_len;
        window_bytes += part.iov_len;
        window[k++] = part;
    }
    memcpy(l->window, window, k * sizeof *window);
    l->n_window = k;
    l->window_bytes = window_bytes;
    l->total = total;
    return 0;
}

/* Returns: the piece's bytes; 0 when the call is to be left to the kernel. */
static uint64_t next_piece(struct large *l, long ret_arg[6])
{
    for (int i = 0; i < 6; i++)
        ret_arg[i] = l->f.arg[i];
    if (l->offset)
        ret_arg[3] += (long)l->done;
    if (l->iov) {
        if (eg_gate_alone(window_fill, &l->f))
            return 0;
        ret_arg[1] = (long)l->window;
        ret_arg[2] = l->n_window;
        return l->window_bytes;
    }
    uint64_t n = l->total - l->done < l->piece ? l->total - l->done : l->piece;
    ret_arg[l->buf] += (long)l->done;
    ret_arg[l->len] = (long)n;
    return n;
}

static int is_lock(const struct large *l)
{
    return l->f.nr == NR_mlock || l->f.nr == NR_mlock2;
}

/* More of what a stream has already, without waiting: a read that is short, though more is there, would be taken for the end of what is there. With
 * something there, no error that is still to come is taken. Returns: 0 that was all. */
static long more_of_stream(void *large)
{
    struct large *l = large;
    struct iovec own[WINDOW];
    int there = 0;
    long a[6], flags = MSG_DONTWAIT, fd = l->f.arg[0];
    if (eg_sys3(SYS_ioctl, fd, FIONREAD, &there) || there <= 0)
        return 0;
    l->piece = (uint64_t)there < eg_gate_pin_limit() ? (uint64_t)there : eg_gate_pin_limit();
    uint64_t n = next_piece(l, a);
    if (!n)
        return 0;
    if (l->iov)
        memcpy(own, l->window, l->n_window * sizeof *own);
    else
        own[0] = (struct iovec){(void *)a[1], n};
    if (l->f.nr == NR_recvfrom)
        flags |= l->f.arg[3];
    struct msghdr m = {.msg_iov = own, .msg_iovlen = l->iov ? l->n_window : 1};
    pin_buffers(eg_thread_pointer(), depth_of((uint64_t)l->f.pass), NR_readv, (const long[6]){fd, (long)own, (long)m.msg_iovlen}, 0);
    long ret = l->target == T_SOCKET ? eg_sys3(SYS_recvmsg, fd, &m, flags) : eg_sys6(SYS_preadv2, fd, own, m.msg_iovlen, -1, -1, RWF_NOWAIT);
    if (ret <= 0)
        return 0;
    l->done += (uint64_t)ret;
    return (uint64_t)ret == n && l->done < l->total;
}

/* An error that has come since the last piece is the next call's to tell. */
static long has_error(void *large)
{
    struct pollfd p = {.fd = (int)((struct large *)large)->f.arg[0]};
    const struct timespec now = {0, 0};
    return eg_sys5(SYS_ppoll, &p, 1, &now, 0, 8) == 1 && p.revents & (POLLERR | POLLHUP);
}

/* Whatever is short ends it, as it would have ended the whole. one: the first piece may wait, and is all but for what is there then. */
static long in_pieces(struct large *l, int one)
{
    int lock = is_lock(l), stream = l->target == T_PIPE || l->target == T_SOCKET;
    uint32_t handled = stream ? eg_signals_handled() : 0;
    while (l->done < l->total) {
        long a[6];
        uint64_t n = l->last = next_piece(l, a);
        if (!n)
            return l->done ? (long)l->done : -EFAULT;
        if (probe(l->f.nr, a, (uint64_t)l->f.pass, 0).needed)
            pin_call(l->f.nr, a, (uint64_t)l->f.pass);
        /* Natively it would not be a call of its own, and no signal come with its error. (A pipe's does come.) */
        int quiet = l->done && !l->write && !lock && l->target != T_PIPE;
        if (quiet && l->target == T_SOCKET && eg_gate_alone(has_error, &l->f))
            break;
        long ret = quiet ? eg_signals_quiet_call(l->f.nr, a) : eg_syscall6(l->f.nr, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (eg_sys_failed(ret))
            return l->done && !lock ? (long)l->done : ret;
        l->done += lock ? n : (uint64_t)ret;
        if (one || (!lock && (uint64_t)ret < n))
            break;
        if (stream && eg_signals_handled() != handled) /* it would have been interrupted */
            break;
    }
    return lock ? 0 : (long)l->done;
}

/* --- reads and writes of a file at its position, while others may do the same: nothing of theirs comes between ------------------------------------ */

#define WHOLE_NAP_NS 100000
#define WHOLE_LIMIT_NS 10000000000u

/* One at a time in the whole run, as each may pin half of the budget. Who had it before a fork, or a process's end, has it no more. */
static uint32_t whole_by; /* eg_rt.pid of the process in which somebody does */

static long whole_lock(short type)
{
    struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    return eg_sys3(SYS_fcntl, eg_rt.pool_fd, F_OFD_SETLK, &f);
}

static int whole_begins(void)
{
    uint32_t before = 0;
    if (!__atomic_compare_exchange_n(&whole_by, &before, eg_rt.pid, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED) &&
        (before == eg_rt.pid || !__atomic_compare_exchange_n(&whole_by, &before, eg_rt.pid, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)))
        return 0;
    if (!whole_lock(F_WRLCK))
        return 1;
    __atomic_store_n(&whole_by, 0, __ATOMIC_RELEASE);
    return 0;
}

static long whole(void *arg)
{
    struct eg_gate_frame own = *(struct eg_gate_frame *)arg;
    const long *a = own.arg;
    const struct timespec nap = {.tv_nsec = WHOLE_NAP_NS};
    uint64_t end_ns = eg_sys_now_ns() + WHOLE_LIMIT_NS;
    int mine;
    while (!(mine = whole_begins()) && eg_sys_now_ns() < end_ns) /* then beyond the budget */
        eg_sys5(SYS_ppoll, 0, 0, &nap, 0, 8);
    pin_buffers(eg_thread_pointer(), depth_of((uint64_t)own.pass), own.nr, a, 0);
    long ret = eg_sys6(own.nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (mine) {
        whole_lock(F_UNLCK);
        __atomic_store_n(&whole_by, 0, __ATOMIC_RELEASE);
    }
    return ret;
}

/* O_DIRECT: how the whole is aligned decides, before anything is done. */
static int is_whole(const struct large *l)
{
    if (l->target != T_REGULAR)
        return 0;
    long flags = eg_sys2(SYS_fcntl, l->f.arg[0], F_GETFL);
    if (flags & O_DIRECT && l->bits % SECTOR)
        return 1;
    return !l->offset && l->total <= eg_rt.pool->budget_bytes / 2 && (eg_rt.spawned || !__atomic_load_n(&eg_rt.pool->sole, __ATOMIC_RELAXED) || (!l->write && flags & O_APPEND));
}

static int captured(const struct large *l)
{
    uint64_t at = (uint64_t)l->f.arg[l->buf];
    return l->iov || eg_ranges_seen(&eg_rt.ranges, at, at + l->total);
}

/* Returns: 1 the call was made, *ret_result; 0 it is not large, or has to be made as a whole. */
static int large(const struct eg_gate_frame *f, uint64_t sp, long *ret_result)
{
    struct large l = {.f = *f};
    l.f.pass = (long)sp;
    if (!large_kind(&l))
        return 0;
    int lock = is_lock(&l);
    if (l.iov) {
        if ((uint64_t)f->arg[2] > IOVS_MAX || eg_gate_alone(window_fill, &l.f))
            return 0;
    } else {
        uint64_t at = (uint64_t)f->arg[l.buf];
        l.total = (uint64_t)f->arg[l.len];
        if (lock && l.total < ADDR_END) {
            l.total += at & (EG_PAGE_BYTES - 1);
            l.f.arg[0] &= ~(long)(EG_PAGE_BYTES - 1);
        }
        if ((long)l.total <= 0 || at >= ADDR_END || l.total > ADDR_END - at)
            return 0;
        if (!lock && l.total > RW_MAX)
            l.total = RW_MAX;
        l.bits = at | l.total;
    }
    if (l.total <= LIMIT_MIN || !captured(&l) || (f->nr == NR_sendto && f->arg[3] & MSG_ZEROCOPY)) /* each call is one completion */
        return 0;
    l.target = f->nr == NR_getrandom || lock ? T_OTHER : (uint8_t)eg_gate_alone(target_of, &l.f);
    int stream = l.target == T_PIPE || l.target == T_SOCKET, flags = f->nr == NR_recvfrom ? (int)f->arg[3] : 0;
    int peek = flags & MSG_PEEK, one = peek || (stream && l.write && !(flags & MSG_WAITALL));
    l.piece = one ? LIMIT_MIN : eg_gate_pin_limit();
    if (l.target == T_MESSAGES || peek) {
        /* A message is taken or sent as a whole; what is only looked at stays, and would be the next piece, too. */
        l.piece = l.piece < DATAGRAM_MAX ? DATAGRAM_MAX : l.piece;
        if (!l.write || l.total <= l.piece)
            return 0;
        one = 1;
    }
    if (l.total <= l.piece)
        return 0;
    if (is_whole(&l)) {
        *ret_result = eg_gate_alone(whole, &l.f);
        return 1;
    }
    *ret_result = in_pieces(&l, one);
    if (stream && one && !peek && !(flags & ~STREAM_FLAGS) && *ret_result == (long)l.last) {
        while (eg_gate_alone(more_of_stream, &l.f))
            ;
        *ret_result = (long)l.done;
    }
    return 1;
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
    struct probe p = probe(f->nr, f->arg, sp, may_be_large ? LIMIT_MIN : 0);
    if (!p.needed)
        return 0;
    if (may_be_large && p.bytes > LIMIT_MIN && large(f, sp, ret_result))
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
