/* eg_pieces.h - system calls of threads that are away whose arguments travel with the call: what the kernel reads goes to home, what it writes comes back,
 * and the pages stay on the node. Calls that are not here are made with the program's memory itself, whose pages go home for it. Freestanding. */
#ifndef EG_PIECES_H
#define EG_PIECES_H

#include "proto/eg_threads.h"

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
    EG_PIECE_TEXT,   /* with the NUL at its end */
    EG_PIECE_BITS,   /* in words of 8 bytes */
    EG_PIECE_POLLFDS, /* of which the kernel writes the last two bytes, whatever others do to the rest meanwhile */
    EG_PIECE_SEGMENTS /* what the segments of the piece before, struct iovecs, point to: one behind the other */
};

struct __attribute__((packed, may_alias)) eg_segment { /* struct iovec, wherever it lies */
    uint64_t addr, bytes;
};
#define EG_PIECE_SEGMENTS_MAX 64u

#define EG_PIECE_FIXED 7 /* count */
#define EG_PIECE_TEXT_MAX 4096u /* PATH_MAX */

struct eg_piece {
    uint8_t arg, way, rule, kind;
    uint8_t count; /* the argument that says how many elements; EG_PIECE_FIXED: one */
    uint16_t each; /* bytes of an element */
};

struct eg_pieces {
    uint16_t nr;
    struct eg_piece piece[EG_CALL_PIECES_MAX]; /* IN, then INOUT, then OUT */
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
static const struct eg_pieces eg_pieces[] = {
    {SYS_read, {OUTN(1, 2, 1)}},
    {SYS_write, {INN(1, 2, 1)}},
    {SYS_pread64, {OUTN(1, 2, 1)}},
    {SYS_pwrite64, {INN(1, 2, 1)}},
    {SYS_recvfrom, {OUTN(1, 2, 1)}}, /* eg_pieces_of: not all */
    {SYS_sendto, {INN(1, 2, 1), INN(4, 5, 1)}},
    {SYS_readv, {SEGMENTS_OUT(1, 2)}},
    {SYS_writev, {SEGMENTS_IN(1, 2)}},
    {SYS_preadv, {SEGMENTS_OUT(1, 2)}},
    {SYS_pwritev, {SEGMENTS_IN(1, 2)}},
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
    {SYS_rt_sigpending, {OUT(0, 8)}},
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

/* a: the call's arguments. Returns: NULL: its arguments do not travel. */
static inline const struct eg_pieces *eg_pieces_of(long nr, const int64_t a[6])
{
    /* An address to be filled in says itself how long it is; TRUNC may leave the buffer as it is; ZEROCOPY reads it later. */
    enum { TRUNC = 0x20, ZEROCOPY = 0x4000000 };
    if ((nr == SYS_recvfrom && (a[4] || a[3] & TRUNC)) || (nr == SYS_sendto && a[3] & ZEROCOPY))
        return NULL;
    for (uint32_t i = 0; i < sizeof eg_pieces / sizeof *eg_pieces; i++)
        if (eg_pieces[i].nr == nr)
            return &eg_pieces[i];
    return NULL;
}

/* Of all but texts and segments. Returns: more than EG_CALL_DATA_MAX when it cannot travel. */
static inline uint64_t eg_piece_bytes(const struct eg_piece *p, const int64_t a[6])
{
    uint64_t n = p->count == EG_PIECE_FIXED ? 1 : (uint64_t)a[p->count];
    if (!a[p->arg])
        return 0;
    if (n > EG_CALL_DATA_MAX)
        return ~0ull;
    return p->kind == EG_PIECE_BITS ? (n + 63) / 64 * 8 : n * p->each;
}

/* All that they point to. Returns: as eg_piece_bytes. */
static inline uint64_t eg_segments_bytes(const struct eg_segment *v, uint32_t n)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        if (v[i].bytes > EG_CALL_DATA_MAX || (bytes += v[i].bytes) > EG_CALL_DATA_MAX)
            return ~0ull;
    return bytes;
}

/* Where pieces of these lengths lie in a call's data, the same at both ends: long ones as in their pages, as a device may want that.
 * Returns: 0; -1: they are too long together. */
static inline int eg_pieces_place(const struct eg_pieces *c, const int64_t a[6], const uint32_t bytes[EG_CALL_PIECES_MAX], uint32_t ret_at[EG_CALL_PIECES_MAX])
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        at = (at + 15) & ~15ull;
        if (bytes[i] >= 512) {
            uint64_t addr = c->piece[i].kind == EG_PIECE_SEGMENTS ? 0 : (uint64_t)a[c->piece[i].arg]; /* a device wants each to be as long as it is aligned */
            at += (addr - at) & (EG_PAGE_BYTES - 1);
        }
        ret_at[i] = (uint32_t)at;
        at += bytes[i];
    }
    return at <= EG_CALL_DATA_MAX + EG_PAGE_BYTES ? 0 : -1;
}

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

/* The parts of a piece of so many bytes, one after the other: *part is zeros before the first. way: of what is to be copied. Returns: 0: there are no more. */
static inline int eg_part_next(const struct eg_piece *p, int way, const int64_t a[6], const struct eg_segment *segments, uint32_t bytes, struct eg_part *part)
{
    uint32_t k = part->next++;
    if (p->kind == EG_PIECE_SEGMENTS) {
        part->at += part->bytes;
        if (part->at >= bytes)
            return 0;
        uint64_t most = bytes - part->at;
        part->addr = segments[k].addr;
        part->bytes = (uint32_t)(segments[k].bytes < most ? segments[k].bytes : most);
        return 1;
    }
    int fields = p->kind == EG_PIECE_POLLFDS && way == EG_PIECE_OUT;
    part->at = fields ? k * p->each + 6 : 0;
    part->bytes = fields ? 2 : bytes;
    part->addr = (uint64_t)a[p->arg] + part->at;
    return fields ? part->at < bytes : bytes && !k;
}

#endif
