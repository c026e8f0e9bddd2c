/* eg_pieces.h - system calls of threads that are away whose arguments travel with the call: what the kernel reads goes to home, what it writes comes back,
 * and the pages stay on the node. Calls that are not here are made with the program's memory itself, whose pages go home for it. Freestanding. */
#ifndef EG_PIECES_H
#define EG_PIECES_H

#include "proto/eg_threads.h"

#include <stddef.h>
#include <sys/syscall.h>

/* When what the kernel writes comes back. */
enum eg_piece_rule {
    EG_PIECE_DONE,   /* all of it, if the call did not fail */
    EG_PIECE_COUNT,  /* so many elements as the call returns */
    EG_PIECE_ALWAYS, /* all of it; it went there, too */
    EG_PIECE_EINTR   /* the same if the call was interrupted */
};

enum { EG_PIECE_IN = 1, EG_PIECE_OUT = 2, EG_PIECE_INOUT = 3 };
enum eg_piece_kind {
    EG_PIECE_BYTES,
    EG_PIECE_TEXT,     /* with the NUL at its end */
    EG_PIECE_BITS,     /* in words of 8 bytes */
    EG_PIECE_POLLFDS,  /* of which the kernel writes the last two bytes, whatever others do to the rest meanwhile */
    EG_PIECE_SIZE,     /* an int, not looked at when there is no piece behind it */
    EG_PIECE_SIZED,    /* as long as that says */
    EG_PIECE_SEGMENTS, /* what the piece before, struct iovecs, points to: one behind the other */
    EG_PIECE_MSGHDR,   /* the call's first piece; without a control message */
    EG_PIECE_NAME,     /* its address */
    EG_PIECE_IOVECS    /* its struct iovecs */
};

struct __attribute__((packed, may_alias)) eg_segment { /* struct iovec, wherever it lies */
    uint64_t addr, bytes;
};
#define EG_PIECE_SEGMENTS_MAX 64u

struct __attribute__((packed, may_alias)) eg_msghdr {
    uint64_t name;
    uint32_t name_bytes, unused;
    uint64_t iovecs, n_iovecs, control, control_bytes;
    uint32_t flags, unused_either;
};

#define EG_PIECE_FIXED 7 /* count */
#define EG_PIECE_TEXT_MAX 4096u /* PATH_MAX */
#define EG_PIECE_SIZED_MAX 4096
#define EG_PIECE_BITS_MAX 1024u /* of more the kernel looks only at as many as there are descriptors */

struct eg_piece {
    uint8_t arg, way, rule, kind;
    uint8_t count; /* the argument that says how many elements; EG_PIECE_FIXED: one */
    uint16_t each; /* bytes of an element */
};

struct eg_pieces {
    uint16_t nr;
    struct eg_piece piece[EG_CALL_PIECES_MAX];
};

/* clang-format off */
#define IN(a, bytes)         {a, EG_PIECE_IN, 0, EG_PIECE_BYTES, EG_PIECE_FIXED, bytes}
#define INN(a, n, each)      {a, EG_PIECE_IN, 0, EG_PIECE_BYTES, n, each}
#define TEXT(a)              {a, EG_PIECE_IN, 0, EG_PIECE_TEXT, EG_PIECE_FIXED, 1}
#define LEFT(a, rule)        {a, EG_PIECE_INOUT, EG_PIECE_##rule, EG_PIECE_BYTES, EG_PIECE_FIXED, 16} /* the time that is left */
#define POLLFDS(a, n)        {a, EG_PIECE_INOUT, EG_PIECE_ALWAYS, EG_PIECE_POLLFDS, n, 8}
#define BITS(a, n)           {a, EG_PIECE_INOUT, EG_PIECE_DONE, EG_PIECE_BITS, n, 8}
#define OUT(a, bytes)        {a, EG_PIECE_OUT, EG_PIECE_DONE, EG_PIECE_BYTES, EG_PIECE_FIXED, bytes}
#define OUTN(a, n, each)     {a, EG_PIECE_OUT, EG_PIECE_COUNT, EG_PIECE_BYTES, n, each}
#define SEGMENTS_IN(a, n)    INN(a, n, 16), {a, EG_PIECE_IN, 0, EG_PIECE_SEGMENTS, n, 1}
#define SEGMENTS_OUT(a, n)   INN(a, n, 16), {a, EG_PIECE_OUT, EG_PIECE_COUNT, EG_PIECE_SEGMENTS, n, 1}
#define SIZED(a, l)          {l, EG_PIECE_INOUT, EG_PIECE_ALWAYS, EG_PIECE_SIZE, EG_PIECE_FIXED, 4}, {a, EG_PIECE_INOUT, EG_PIECE_DONE, EG_PIECE_SIZED, EG_PIECE_FIXED, 1}
#define MSGHDR(way, name)    {1, way, EG_PIECE_DONE, EG_PIECE_MSGHDR, EG_PIECE_FIXED, 56}, {1, name, EG_PIECE_DONE, EG_PIECE_NAME, EG_PIECE_FIXED, 1}, \
                             {1, EG_PIECE_IN, 0, EG_PIECE_IOVECS, EG_PIECE_FIXED, 1}
static const struct eg_pieces eg_pieces[] = {
    {SYS_read, {OUTN(1, 2, 1)}},
    {SYS_write, {INN(1, 2, 1)}},
    {SYS_pread64, {OUTN(1, 2, 1)}},
    {SYS_pwrite64, {INN(1, 2, 1)}},
    {SYS_recvfrom, {SIZED(4, 5), OUTN(1, 2, 1)}}, /* of this one and some others not all: eg_pieces_of */
    {SYS_sendto, {INN(1, 2, 1), INN(4, 5, 1)}},
    {SYS_readv, {SEGMENTS_OUT(1, 2)}},
    {SYS_writev, {SEGMENTS_IN(1, 2)}},
    {SYS_preadv, {SEGMENTS_OUT(1, 2)}},
    {SYS_pwritev, {SEGMENTS_IN(1, 2)}},
    {SYS_sendmsg, {MSGHDR(EG_PIECE_IN, EG_PIECE_IN), {1, EG_PIECE_IN, 0, EG_PIECE_SEGMENTS, EG_PIECE_FIXED, 1}}},
    {SYS_recvmsg, {MSGHDR(EG_PIECE_INOUT, EG_PIECE_INOUT), {1, EG_PIECE_OUT, EG_PIECE_COUNT, EG_PIECE_SEGMENTS, EG_PIECE_FIXED, 1}}},
    {SYS_accept, {SIZED(1, 2)}},
    {SYS_accept4, {SIZED(1, 2)}},
    {SYS_getsockname, {SIZED(1, 2)}},
    {SYS_getpeername, {SIZED(1, 2)}},
    {SYS_getsockopt, {SIZED(3, 4)}},
    {SYS_futex, {IN(3, 16)}},
    {SYS_getrandom, {OUTN(0, 1, 1)}},
    {SYS_getdents64, {OUTN(1, 2, 1)}},
    {SYS_stat, {TEXT(0), OUT(1, 144)}},
    {SYS_lstat, {TEXT(0), OUT(1, 144)}},
    {SYS_fstat, {OUT(1, 144)}},
    {SYS_newfstatat, {TEXT(1), OUT(2, 144)}},
    {SYS_statx, {TEXT(1), OUT(4, 256)}},
    {SYS_statfs, {TEXT(0), OUT(1, 120)}},
    {SYS_fstatfs, {OUT(1, 120)}},
    {SYS_access, {TEXT(0)}},
    {SYS_faccessat, {TEXT(1)}},
    {SYS_faccessat2, {TEXT(1)}},
    {SYS_readlink, {TEXT(0), OUTN(1, 2, 1)}},
    {SYS_readlinkat, {TEXT(1), OUTN(2, 3, 1)}},
    {SYS_getcwd, {OUTN(0, 1, 1)}},
    {SYS_unlink, {TEXT(0)}},
    {SYS_unlinkat, {TEXT(1)}},
    {SYS_mkdir, {TEXT(0)}},
    {SYS_rmdir, {TEXT(0)}},
    {SYS_rename, {TEXT(0), TEXT(1)}},
    {SYS_poll, {POLLFDS(0, 1)}},
    {SYS_ppoll, {IN(3, 8), POLLFDS(0, 1), LEFT(2, ALWAYS)}},
    {SYS_select, {BITS(1, 0), BITS(2, 0), BITS(3, 0), LEFT(4, ALWAYS)}},
    {SYS_epoll_wait, {OUTN(1, 2, 12)}},
    {SYS_epoll_pwait, {IN(4, 8), OUTN(1, 2, 12)}},
    {SYS_epoll_ctl, {IN(3, 12)}},
    {SYS_connect, {INN(1, 2, 1)}},
    {SYS_bind, {INN(1, 2, 1)}},
    {SYS_setsockopt, {INN(3, 4, 1)}},
    {SYS_socketpair, {OUT(3, 8)}},
    {SYS_pipe, {OUT(0, 8)}},
    {SYS_pipe2, {OUT(0, 8)}},
    {SYS_nanosleep, {IN(0, 16), LEFT(1, EINTR)}},
    {SYS_clock_nanosleep, {IN(2, 16), LEFT(3, EINTR)}},
    {SYS_clock_gettime, {OUT(1, 16)}},
    {SYS_clock_getres, {OUT(1, 16)}},
    {SYS_gettimeofday, {OUT(0, 16), OUT(1, 8)}},
    {SYS_times, {OUT(0, 32)}},
    {SYS_getrusage, {OUT(1, 144)}},
    {SYS_sysinfo, {OUT(0, 112)}},
    {SYS_uname, {OUT(0, 390)}},
    {SYS_getrlimit, {OUT(1, 16)}},
    {SYS_prlimit64, {IN(2, 16), OUT(3, 16)}},
    {SYS_getitimer, {OUT(1, 32)}},
    {SYS_setitimer, {IN(1, 32), OUT(2, 32)}},
    {SYS_timer_gettime, {OUT(1, 32)}},
    {SYS_timer_settime, {IN(2, 32), OUT(3, 32)}},
    {SYS_timerfd_gettime, {OUT(1, 32)}},
    {SYS_timerfd_settime, {IN(2, 32), OUT(3, 32)}},
    {SYS_rt_sigpending, {{0, EG_PIECE_OUT, EG_PIECE_DONE, EG_PIECE_BYTES, 1, 1}}},
};
/* By their requests. */
static const struct eg_pieces eg_pieces_ioctl[] = {
    {0x5401 /* TCGETS */, {OUT(2, 36)}},
    {0x5413 /* TIOCGWINSZ */, {OUT(2, 8)}},
    {0x541b /* FIONREAD */, {OUT(2, 4)}},
    {0x5421 /* FIONBIO */, {IN(2, 4)}},
};
/* clang-format on */
#undef IN
#undef INN
#undef TEXT
#undef LEFT
#undef POLLFDS
#undef BITS
#undef OUT
#undef OUTN
#undef SEGMENTS_IN
#undef SEGMENTS_OUT
#undef SIZED
#undef MSGHDR

/* Those of a call that does not have them always. */
static inline int eg_pieces_have(long nr, const int64_t a[6])
{
    enum { TRUNC = 0x20, ZEROCOPY = 0x4000000, SOL_SOCKET_ = 1, SO_GET_FILTER_ = 26 };
    uint32_t wait = 1u << 0 | 1u << 6 | 1u << 9 | 1u << 11 | 1u << 13; /* FUTEX_WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2 */
    switch (nr) {
    case SYS_recvfrom: return !(a[3] & TRUNC); /* that may leave the buffer as it is */
    case SYS_recvmsg: return !(a[2] & TRUNC);
    case SYS_sendto: return !(a[3] & ZEROCOPY); /* what is read later */
    case SYS_sendmsg: return !(a[2] & ZEROCOPY);
    case SYS_getsockopt: return (int)a[1] == SOL_SOCKET_ && (int)a[2] != SO_GET_FILTER_; /* which counts otherwise */
    case SYS_futex: return wait >> (a[1] & 0x1f) & 1; /* the time limit */
    default: return 1;
    }
}

/* a: the call's arguments. Returns: NULL: they do not travel. */
static inline const struct eg_pieces *eg_pieces_of(long nr, const int64_t a[6])
{
    const struct eg_pieces *v = nr == SYS_ioctl ? eg_pieces_ioctl : eg_pieces;
    uint32_t n = nr == SYS_ioctl ? sizeof eg_pieces_ioctl / sizeof *v : sizeof eg_pieces / sizeof *v;
    uint32_t wanted = nr == SYS_ioctl ? (uint32_t)a[1] : (uint32_t)nr;
    for (uint32_t i = 0; i < n; i++)
        if (v[i].nr == wanted)
            return eg_pieces_have(nr, a) ? &v[i] : NULL;
    return NULL;
}

/* All that they point to. Returns: more than EG_CALL_DATA_MAX when it cannot travel. */
static inline uint64_t eg_segments_bytes(const struct eg_segment *v, uint32_t n)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        if (v[i].bytes > EG_CALL_DATA_MAX || (bytes += v[i].bytes) > EG_CALL_DATA_MAX)
            return ~0ull;
    return bytes;
}

/* The content of piece i, as far as it has been read. */
struct eg_pieces_data {
    uint8_t *data;
    uint32_t at[EG_CALL_PIECES_MAX], bytes[EG_CALL_PIECES_MAX];
    uint64_t addr[EG_CALL_PIECES_MAX]; /* in the program */
};

/* Where piece i is in the program, and how long; those before it are known and read. Not for texts. Returns: 0: it cannot travel; ret_bytes. */
static inline int eg_piece_find(const struct eg_pieces *c, uint32_t i, const int64_t a[6], const struct eg_pieces_data *d, uint64_t *ret_addr, uint64_t *ret_bytes)
{
    const struct eg_piece *p = &c->piece[i];
    const struct eg_msghdr *h = (const struct eg_msghdr *)(const void *)(d->data + d->at[0]);
    uint32_t before = i ? i - 1 : 0;
    const uint8_t *last = d->data + d->at[before];
    uint64_t addr = (uint64_t)a[p->arg], n = p->count == EG_PIECE_FIXED ? 1 : (uint64_t)a[p->count];
    int32_t size;
    switch ((enum eg_piece_kind)p->kind) {
    case EG_PIECE_SEGMENTS:
        addr = 0;
        n = d->bytes[before] / sizeof(struct eg_segment);
        n = n > EG_PIECE_SEGMENTS_MAX ? ~0ull : eg_segments_bytes((const struct eg_segment *)(const void *)last, (uint32_t)n);
        break;
    case EG_PIECE_SIZE: n = addr && a[p[1].arg] ? p->each : 0; break;
    case EG_PIECE_SIZED:
        if (addr && !d->bytes[before])
            return 0;
        size = 0;
        if (addr)
            memcpy(&size, last, sizeof size);
        if (size < 0 || size > EG_PIECE_SIZED_MAX)
            return 0;
        n = (uint64_t)size;
        break;
    case EG_PIECE_NAME:
        if (!d->bytes[0] || (h->control && h->control_bytes) || (h->name && h->name_bytes > EG_PIECE_SIZED_MAX))
            return 0;
        addr = h->name;
        n = addr ? h->name_bytes : 0;
        break;
    case EG_PIECE_IOVECS:
        if (h->n_iovecs > EG_PIECE_SEGMENTS_MAX || (h->n_iovecs && !h->iovecs))
            return 0;
        addr = h->iovecs;
        n = h->n_iovecs * sizeof(struct eg_segment);
        break;
    case EG_PIECE_BITS: n = !addr ? 0 : n > EG_PIECE_BITS_MAX ? ~0ull : (n + 63) / 64 * 8; break;
    default: n = !addr ? 0 : n > EG_CALL_DATA_MAX ? ~0ull : n * p->each; break;
    }
    *ret_addr = addr;
    *ret_bytes = n;
    return n <= EG_CALL_DATA_MAX;
}

/* Where a piece of this length lies in a call's data, whose last one ended at `end`; the same at both ends. What a device may want as it lies in its page
 * does so; of segments the first does, and then each that is as long as such a device wants it. */
static inline uint64_t eg_piece_place(const struct eg_piece *p, const int64_t a[6], uint64_t end, uint32_t bytes)
{
    uint64_t at = (end + 15) & ~15ull;
    if (bytes >= 512 && p->kind == EG_PIECE_SEGMENTS)
        at += (0 - at) & (EG_PAGE_BYTES - 1);
    else if (bytes >= 512 && p->kind == EG_PIECE_BYTES)
        at += ((uint64_t)a[p->arg] - at) & (EG_PAGE_BYTES - 1);
    return at;
}
#define EG_PIECES_DATA_BYTES (EG_CALL_DATA_MAX + EG_PAGE_BYTES) /* all of them */

/* What goes one way: from the first such piece's beginning to the last one's end. Returns: bytes; *ret_from. */
static inline uint32_t eg_pieces_span(const struct eg_pieces *c, int way, const uint32_t bytes[EG_CALL_PIECES_MAX], const uint32_t at[EG_CALL_PIECES_MAX],
                                      uint32_t *ret_from)
{
    uint32_t from = 0, end = 0;
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++)
        if (bytes[i] && c->piece[i].way & way) {
            from = end ? from : at[i];
            end = at[i] + bytes[i];
        }
    *ret_from = from;
    return end - from;
}

/* What has come back of a piece of so many bytes. */
static inline uint32_t eg_piece_written(const struct eg_piece *p, uint32_t bytes, int64_t ret)
{
    uint64_t n = ret > 0 ? (uint64_t)ret * p->each : 0;
    if (!(p->way & EG_PIECE_OUT))
        return 0;
    switch ((enum eg_piece_rule)p->rule) {
    case EG_PIECE_ALWAYS: return bytes;
    case EG_PIECE_DONE: return ret < 0 ? 0 : bytes;
    case EG_PIECE_EINTR: return ret == -4 /* EINTR */ ? bytes : 0;
    case EG_PIECE_COUNT: return n < bytes ? (uint32_t)n : bytes;
    }
    return 0;
}

/* A part of a piece that lies together in the program. */
struct eg_part {
    uint64_t addr;
    uint32_t at, bytes; /* in the piece */
    uint32_t next;
};

/* The parts of a piece, one after the other: *part is zeros before the first. way: of what is to be copied. Returns: 0: there are no more. */
static inline int eg_part_next(const struct eg_piece *p, int way, uint64_t addr, const struct eg_segment *segments, uint32_t bytes, struct eg_part *part)
{
    uint32_t k = part->next++;
    int fields = way == EG_PIECE_OUT && (p->kind == EG_PIECE_POLLFDS || p->kind == EG_PIECE_MSGHDR);
    if (p->kind == EG_PIECE_SEGMENTS) {
        part->at += part->bytes;
        if (part->at >= bytes)
            return 0;
        uint64_t most = bytes - part->at;
        part->addr = segments[k].addr;
        part->bytes = (uint32_t)(segments[k].bytes < most ? segments[k].bytes : most);
        return 1;
    }
    part->at = 0;
    part->bytes = bytes;
    if (fields && p->kind == EG_PIECE_POLLFDS) {
        part->at = k * p->each + 6;
        part->bytes = 2;
    } else if (fields) {
        part->at = k == 0 ? offsetof(struct eg_msghdr, name_bytes) : k == 1 ? offsetof(struct eg_msghdr, control_bytes) : bytes;
        part->bytes = k == 0 ? 4 : 12;
    }
    part->addr = addr + part->at;
    return fields ? part->at < bytes : bytes && !k;
}

#endif
