/* large.c - large reads and writes: made in pieces, so that what is pinned at a time stays small, or as a whole where pieces would be seen. */
#include "client/gate/eg_buffers.h"
#include "client/gate/eg_signals.h"
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define ADDR_END (1ul << EG_ADDR_BITS)
#define RW_MAX 0x7ffff000ul /* what the kernel transfers at most in one call */
#define IOVS_MAX 1024u
#define CHUNK 32 /* elements of an array looked at in one go */
#define LIMIT_MAX (16ul << 20)
#define DATAGRAM_MAX (4ul << 20)
#define WHOLE_FLAGS (MSG_ZEROCOPY | MSG_OOB | MSG_FASTOPEN) /* each call has one completion, mark, or beginning */
#define STREAM_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_CMSG_CLOEXEC) /* with others a read may be something else */
#define WINDOW 16
#define SECTOR EG_PAGE_BYTES /* of no disk is it more */

enum {
#define X(nr, name, ...) NR_##name = nr,
    EG_CALLS(X)
#undef X
};

/* What one call pins at most: an eighth of the budget, less when there are many threads. */
uint64_t eg_gate_pin_limit(void)
{
    uint64_t threads = eg_pin_owners(), bytes = eg_rt.budget / (4 * (threads > 2 ? threads : 2)) * EG_PAGE_BYTES;
    return bytes < EG_GATE_LARGE_MIN ? EG_GATE_LARGE_MIN : bytes > LIMIT_MAX ? LIMIT_MAX : bytes;
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
    uint8_t target, beyond;
    long result; /* as a whole */
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
    eg_gate_pin_here(sp, NR_process_madvise, arg);
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

/* The window is filled. Returns: the piece's bytes. */
static uint64_t piece_args(struct large *l, long ret_arg[6])
{
    for (int i = 0; i < 6; i++)
        ret_arg[i] = l->f.arg[i];
    if (l->offset)
        ret_arg[3] += (long)l->done;
    if (l->iov) {
        ret_arg[1] = (long)l->window;
        ret_arg[2] = l->n_window;
        return l->window_bytes;
    }
    uint64_t n = l->total - l->done < l->piece ? l->total - l->done : l->piece;
    ret_arg[l->buf] += (long)l->done;
    ret_arg[l->len] = (long)n;
    return n;
}

/* Returns: the piece's bytes; 0 when the call is to be left to the kernel. */
static uint64_t next_piece(struct large *l, long ret_arg[6])
{
    return l->iov && eg_gate_alone(window_fill, &l->f) ? 0 : piece_args(l, ret_arg);
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
    if (l->iov && window_fill(l)) /* on this stack: all others may be in use by such calls, too */
        return 0;
    uint64_t n = piece_args(l, a);
    if (!n)
        return 0;
    if (l->iov)
        memcpy(own, l->window, l->n_window * sizeof *own);
    else
        own[0] = (struct iovec){(void *)a[1], n};
    if (l->f.nr == NR_recvfrom)
        flags |= l->f.arg[3];
    struct msghdr m = {.msg_iov = own, .msg_iovlen = l->iov ? l->n_window : 1};
    eg_gate_pin_here((uint64_t)l->f.pass, NR_readv, (const long[6]){fd, (long)own, (long)m.msg_iovlen});
    long ret = l->target == T_SOCKET ? eg_sys3(SYS_recvmsg, fd, &m, flags) : eg_sys6(SYS_preadv2, fd, own, m.msg_iovlen, -1, -1, RWF_NOWAIT);
    if (ret <= 0)
        return 0;
    l->done += (uint64_t)ret;
    return (uint64_t)ret == n && l->done < l->total;
}

/* The other end is gone since the last piece: the error is the next call's to tell. (POLLERR alone may be about other things.) */
static long is_over(void *large)
{
    struct pollfd p = {.fd = (int)((struct large *)large)->f.arg[0]};
    const struct timespec now = {0, 0};
    return eg_sys5(SYS_ppoll, &p, 1, &now, 0, 8) == 1 && p.revents & POLLHUP;
}

/* A piece after the first: natively it would not be a call of its own, and no signal come with its error. (A pipe's does come.) n: its bytes; may
 * become less. */
static long later_piece(struct large *l, const long a[6], uint64_t *n)
{
    if (l->write || is_lock(l) || l->target == T_PIPE)
        return eg_syscall6(l->f.nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (l->target != T_SOCKET) /* nothing that waits: signals may be changed meanwhile */
        return eg_signals_quiet_call(l->f.nr, a);
    if (l->f.nr == NR_sendto)
        return eg_syscall6(SYS_sendto, a[0], a[1], a[2], a[3] | MSG_NOSIGNAL, a[4], a[5]);
    if (!l->iov)
        return eg_syscall6(SYS_sendto, a[0], a[1], a[2], MSG_NOSIGNAL, 0, 0);
    *n = l->window[0].iov_len;
    return eg_syscall6(SYS_sendto, a[0], (long)l->window[0].iov_base, (long)*n, MSG_NOSIGNAL, 0, 0);
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
        eg_gate_pin_before((uint64_t)l->f.pass, l->f.nr, a);
        if (l->done && l->target == T_SOCKET && !l->write && eg_gate_alone(is_over, &l->f))
            break;
        long ret = l->done ? later_piece(l, a, &n) : eg_syscall6(l->f.nr, a[0], a[1], a[2], a[3], a[4], a[5]);
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

/* One at a time in the whole run, as each may pin half of the budget; no more depends on it. Who had it before a fork, or in a process that is gone, has it
 * no more. */
static uint32_t whole_by; /* the process in which somebody does */

static long whole_lock(short type)
{
    struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    return eg_sys3(SYS_fcntl, eg_rt.pool_fd, F_OFD_SETLK, &f);
}

static int whole_begins(void)
{
    uint32_t before = 0, self = (uint32_t)eg_sys0(SYS_getpid);
    if (!__atomic_compare_exchange_n(&whole_by, &before, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED) &&
        (before == self || !__atomic_compare_exchange_n(&whole_by, &before, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)))
        return 0;
    long rc = whole_lock(F_WRLCK);
    if (rc != -EAGAIN && rc != -EACCES) /* who may not lock goes on without */
        return 1;
    __atomic_store_n(&whole_by, 0, __ATOMIC_RELEASE);
    return 0;
}

/* Signals wait meanwhile: a handler could jump away with the lock. Returns: 0: somebody else has it. */
static long whole(void *large)
{
    struct large *l = large;
    struct eg_gate_frame own = l->f;
    const long *a = own.arg;
    int beyond = l->beyond;
    if (!beyond && !whole_begins())
        return 0;
    eg_gate_pin_here((uint64_t)own.pass, own.nr, a);
    l->result = eg_sys6(own.nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (!beyond) {
        whole_lock(F_UNLCK);
        __atomic_store_n(&whole_by, 0, __ATOMIC_RELEASE);
    }
    return 1;
}

/* It waits where signals are let in, and on no stack of the gate's. */
static long as_a_whole(struct large *l)
{
    const struct timespec nap = {.tv_nsec = WHOLE_NAP_NS};
    uint64_t end_ns = eg_sys_now_ns() + WHOLE_LIMIT_NS;
    while (!eg_gate_alone(whole, &l->f)) {
        l->beyond = eg_sys_now_ns() > end_ns; /* the budget */
        eg_sys5(SYS_ppoll, 0, 0, &nap, 0, 8);
    }
    return l->result;
}

/* O_DIRECT: how the whole is aligned decides, before anything is done. */
static int is_misaligned(const struct large *l, long flags)
{
    return flags & O_DIRECT && l->bits % SECTOR;
}

static int is_shared(const struct large *l, long flags)
{
    return !l->offset && (eg_rt.spawned || !__atomic_load_n(&eg_rt.pool->sole, __ATOMIC_RELAXED) || (!l->write && flags & O_APPEND));
}

static int captured(const struct large *l)
{
    uint64_t at = (uint64_t)l->f.arg[l->buf];
    return l->iov || eg_ranges_seen(&eg_rt.ranges, at, at + l->total);
}

int eg_gate_large(const struct eg_gate_frame *f, uint64_t sp, long *ret_result)
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
    if (l.total <= EG_GATE_LARGE_MIN || !captured(&l) || (f->nr == NR_sendto && f->arg[3] & WHOLE_FLAGS))
        return 0;
    l.target = f->nr == NR_getrandom || lock ? T_OTHER : (uint8_t)eg_gate_alone(target_of, &l.f);
    int stream = l.target == T_PIPE || l.target == T_SOCKET, flags = f->nr == NR_recvfrom ? (int)f->arg[3] : 0;
    int peek = flags & MSG_PEEK, one = peek || (stream && l.write && !(flags & MSG_WAITALL));
    l.piece = one ? EG_GATE_LARGE_MIN : eg_gate_pin_limit();
    if (l.target == T_MESSAGES || peek) {
        /* A message is taken or sent as a whole; what is only looked at stays, and would be the next piece, too. */
        l.piece = l.piece < DATAGRAM_MAX ? DATAGRAM_MAX : l.piece;
        if (!l.write || l.total <= l.piece)
            return 0;
        one = 1;
    }
    if (l.total <= l.piece)
        return 0;
    if (l.target == T_REGULAR) {
        long file = eg_sys2(SYS_fcntl, f->arg[0], F_GETFL);
        if (l.total <= eg_rt.pool->budget_bytes / 2 && (is_misaligned(&l, file) || is_shared(&l, file))) {
            *ret_result = as_a_whole(&l);
            return 1;
        }
        if (is_misaligned(&l, file)) /* the first piece is to be refused for it, too */
            l.piece += l.total % SECTOR;
    }
    *ret_result = in_pieces(&l, one);
    if (stream && one && !peek && !(flags & ~STREAM_FLAGS) && *ret_result == (long)l.last) {
        while (eg_gate_alone(more_of_stream, &l.f))
            ;
        *ret_result = (long)l.done;
    }
    return 1;
}
