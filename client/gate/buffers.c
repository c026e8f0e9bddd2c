/* buffers.c - what the kernel will access in a system call: the walk over a call's buffers, by the table in calls.h. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_pager.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <sys/socket.h>

#define ADDR_END (1ul << EG_ADDR_BITS)
#define RW_MAX 0x7ffff000ul /* what the kernel transfers at most in one call */
#define IOVS_MAX 1024u
#define PATH_BYTES 4096u
#define ARG_BYTES (128u << 10)
#define ARGS_MAX (1u << 20)
#define MASK_BITS_MAX (1u << 20)
#define CHUNK 32 /* elements of an array looked at in one go */

/* --- the table --------------------------------------------------------------------------------------------------------- */

enum shape { S_NONE, S_FIXED, S_COUNT, S_BITS, S_STRING, S_LENGTH_AT, S_IOV, S_MSG, S_MMSG, S_ARGV, S_SIG6, S_ANY };
#define D_READ 0
#define D_WRITE 0x80u
#define N_INT 0x8u /* in `from`: the length is an int */

struct entry {
    uint8_t shape; /* | D_WRITE */
    uint8_t arg, from;
    uint16_t bytes;
};

#define R(a, n) {S_FIXED | D_READ, a, 0, n}
#define W(a, n) {S_FIXED | D_WRITE, a, 0, n}
#define RW(a, n) W(a, n)
#define RN(a, n, each) {S_COUNT | D_READ, a, n, each}
#define WN(a, n, each) {S_COUNT | D_WRITE, a, n, each}
#define RWN(a, n, each) WN(a, n, each)
#define RI(a, n, each) {S_COUNT | D_READ, a, (n) | N_INT, each}
#define WI(a, n, each) {S_COUNT | D_WRITE, a, (n) | N_INT, each}
#define RWI(a, n, each) WI(a, n, each)
#define RB(a, n) {S_BITS | D_READ, a, n, 0}
#define WB(a, n) {S_BITS | D_WRITE, a, n, 0}
#define RWB(a, n) WB(a, n)
#define STR(a) {S_STRING, a, 0, 0}
#define LENP(a, l) {S_LENGTH_AT, a, l, 0}
#define IOVR(a, n) {S_IOV | D_READ, a, n, 0}
#define IOVW(a, n) {S_IOV | D_WRITE, a, n, 0}
#define MSGR(a) {S_MSG | D_READ, a, 0, 0}
#define MSGW(a) {S_MSG | D_WRITE, a, 0, 0}
#define MMSGR(a, n) {S_MMSG | D_READ, a, n, 0}
#define MMSGW(a, n) {S_MMSG | D_WRITE, a, n, 0}
#define ARGV(a) {S_ARGV, a, 0, 0}
#define SIG6(a) {S_SIG6, a, 0, 0}
#define ANY {S_ANY, 0, 0, 0}

enum {
#define X(nr, name, ...) NR_##name = nr,
    EG_CALLS(X)
#undef X
};
#define CALL_LAST NR_file_setattr

static const struct call {
    uint8_t flags; /* EG_CALL_*, EG_CALL_PLAIN, EG_CALL_KNOWN */
    struct entry entry[EG_CALL_ENTRIES];
} calls[CALL_LAST + 1] = {
#define X(nr, name, flags, ...) [nr] = {EG_CALL_KNOWN | (flags), {__VA_ARGS__}},
    EG_CALLS(X)
#undef X
#define X(nr, name) [nr] = {EG_CALL_KNOWN | EG_CALL_PLAIN, {{0}}},
    EG_CALLS_PLAIN(X)
#undef X
};

uint8_t eg_call_flags(long nr)
{
    return nr >= 0 && nr <= CALL_LAST ? calls[nr].flags : 0;
}

/* --- the walk ------------------------------------------------------------------------------------------------------------ */

static int span(struct eg_buffers *b, uint64_t start, uint64_t bytes, int write)
{
    if (!start || !bytes || start >= ADDR_END)
        return 0;
    return b->span(b, start, bytes > ADDR_END - start ? ADDR_END : start + bytes, write);
}

/* Where the next page begins, or the end if that comes first. */
static uint64_t page_part(uint64_t at, uint64_t end)
{
    uint64_t next = (at | (EG_PAGE_BYTES - 1)) + 1;
    return next < end ? next : end;
}

/* A page at a time, until its end was seen. */
static int string(struct eg_buffers *b, uint64_t at, uint64_t max)
{
    char part[256];
    uint64_t end = at + max;
    if (!at || at >= ADDR_END || (b->far && !b->far(b, at, end)))
        return 0;
    while (at < end) {
        uint64_t stop = page_part(at, end);
        int rc = span(b, at, stop - at, 0);
        if (rc)
            return rc;
        for (; at < stop; at += sizeof part) {
            size_t n = stop - at < sizeof part ? stop - at : sizeof part;
            if (b->look(b, part, at, n))
                return 0;
            for (size_t i = 0; i < n; i++)
                if (!part[i])
                    return 0;
        }
        at = stop;
    }
    return 0;
}

static int strings(struct eg_buffers *b, uint64_t at)
{
    uint64_t v[CHUNK];
    for (uint32_t seen = 0; at && at < ADDR_END && seen < ARGS_MAX;) {
        uint64_t stop = page_part(at, at + sizeof v);
        size_t n = (stop - at) / sizeof *v ? (stop - at) / sizeof *v : 1; /* a pointer may lie across two pages */
        int rc = span(b, at, n * sizeof *v, 0);
        if (rc)
            return rc;
        if (b->look(b, v, at, n * sizeof *v))
            return 0;
        for (size_t i = 0; i < n; i++) {
            if (!v[i])
                return 0;
            if ((rc = string(b, v[i], ARG_BYTES)))
                return rc;
        }
        at += n * sizeof *v;
        seen += (uint32_t)n;
    }
    return 0;
}

/* Pairs of address and length, each at the start of `stride` bytes. */
static int pairs(struct eg_buffers *b, uint64_t at, uint64_t n, uint64_t stride, int write)
{
    uint64_t v[CHUNK * 4], left = RW_MAX;
    if (!n || n > IOVS_MAX)
        return 0;
    int rc = span(b, at, n * stride, 0);
    while (!rc && n && left) {
        uint64_t k = n < CHUNK ? n : CHUNK;
        if (b->look(b, v, at, k * stride))
            return 0;
        for (uint64_t i = 0; i < k && !rc; i++) {
            const uint64_t *pair = v + i * stride / sizeof *v;
            uint64_t bytes = pair[1] < left ? pair[1] : left;
            left -= bytes;
            rc = span(b, pair[0], bytes, write);
        }
        at += k * stride;
        n -= k;
    }
    return rc;
}

struct user_msghdr {
    uint64_t name;
    uint32_t name_bytes, pad;
    uint64_t iov, iovs, control, control_bytes, flags;
};

static int message(struct eg_buffers *b, uint64_t at, int write)
{
    struct user_msghdr m;
    int rc = span(b, at, sizeof m, write);
    if (rc || !at || b->look(b, &m, at, sizeof m))
        return rc;
    if ((rc = span(b, m.name, (int32_t)m.name_bytes > 0 ? m.name_bytes : 0, write)))
        return rc;
    if ((rc = span(b, m.control, m.control_bytes < RW_MAX ? m.control_bytes : 0, write)))
        return rc;
    return pairs(b, m.iov, m.iovs, 16, write);
}

static int messages(struct eg_buffers *b, uint64_t at, uint32_t n, int write)
{
    int rc = 0;
    if (n > IOVS_MAX)
        n = IOVS_MAX; /* so does the kernel */
    for (; n && !rc; n--, at += 64) {
        if ((rc = span(b, at, 64, 1)))
            return rc; /* also for sending: its length is filled in */
        rc = message(b, at, write);
    }
    return rc;
}

/* What looks like a pointer in there is one, to something that is no longer than a page. */
static int scan(struct eg_buffers *b, uint64_t at, uint64_t bytes)
{
    uint64_t v[CHUNK];
    int rc = 0;
    bytes = bytes < 512 ? bytes : 512;
    while (!rc && bytes >= sizeof *v) {
        size_t n = bytes < sizeof v ? bytes / sizeof *v : CHUNK;
        if (!at || b->look(b, v, at, n * sizeof *v))
            return 0;
        for (size_t i = 0; i < n && !rc; i++)
            if (v[i] >= EG_PAGE_BYTES)
                rc = span(b, v[i], EG_PAGE_BYTES, 1);
        at += n * sizeof *v;
        bytes -= n * sizeof *v;
    }
    return rc;
}

static int with_pointers(struct eg_buffers *b, uint64_t at, uint64_t bytes)
{
    int rc = span(b, at, bytes, 1);
    return rc ? rc : scan(b, at, bytes);
}

/* A filter program: how many instructions of 8 bytes, and where. */
static int filter(struct eg_buffers *b, uint64_t at)
{
    uint64_t v[2];
    int rc = span(b, at, sizeof v, 0);
    if (rc || !at || b->look(b, v, at, sizeof v))
        return rc;
    return span(b, v[1], (v[0] & 0xffff) * 8, 0);
}

/* Requests whose structure holds, or is followed by, something of variable length. */
static const struct ioctl_part {
    uint32_t request;
    uint8_t where; /* offset of the pointer; FOLLOWS: right behind `fixed` bytes */
    uint8_t count, count_bytes; /* offset and size of the length or number */
    uint8_t each, fixed;
} ioctl_parts[] = {
#define FOLLOWS 0xff
    {0x8912, 8, 0, 4, 1, 16},              /* SIOCGIFCONF */
    {0x2285, 24, 16, 4, 1, 88},            /* SG_IO */
    {0xc0484e41, 24, 36, 4, 1, 72},        /* NVME_IOCTL_ADMIN_CMD */
    {0xc0484e43, 24, 36, 4, 1, 72},        /* NVME_IOCTL_IO_CMD */
    {0xc020660b, FOLLOWS, 24, 4, 56, 32},  /* FS_IOC_FIEMAP */
    {0xc0189436, FOLLOWS, 16, 2, 32, 24},  /* FIDEDUPERANGE */
};

static int ioctl_part(struct eg_buffers *b, const struct ioctl_part *p, uint64_t at)
{
    uint8_t v[96];
    uint64_t count = 0, to;
    int rc = span(b, at, p->fixed, 1);
    if (rc || !at || b->look(b, v, at, p->fixed))
        return rc;
    memcpy(&count, v + p->count, p->count_bytes);
    if (p->where == FOLLOWS)
        to = at + p->fixed;
    else
        memcpy(&to, v + p->where, sizeof to);
    return span(b, to, count * p->each, 1);
}

static int do_ioctl(struct eg_buffers *b, uint32_t request, uint64_t at)
{
    uint64_t bytes = request >> 30 ? request >> 16 & 0x3fff : 0;
    for (size_t i = 0; i < sizeof ioctl_parts / sizeof *ioctl_parts; i++)
        if (ioctl_parts[i].request == request) {
            int rc = ioctl_part(b, ioctl_parts + i, at);
            if (rc)
                return rc;
        }
    if (bytes < 256)
        bytes = 256;
    if ((request & 0xffffff00u) == 0x5400)
        return span(b, at, bytes, 1); /* terminals: flat */
    return with_pointers(b, at, bytes);
}

static int do_fcntl(struct eg_buffers *b, uint32_t cmd, uint64_t at)
{
    switch (cmd) {
    case F_GETLK:
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_GETLK:
    case F_OFD_SETLK:
    case F_OFD_SETLKW: return span(b, at, 32, 1);
    case 15: /* F_SETOWN_EX */
    case 16: /* F_GETOWN_EX */
    case 17: /* F_GETOWNER_UIDS */
    case 1035: /* F_GET_RW_HINT */
    case 1036:
    case 1037:
    case 1038: return span(b, at, 8, 1);
    default: return 0;
    }
}

static int do_prctl(struct eg_buffers *b, const long a[6])
{
    int rc = 0;
    switch ((uint32_t)a[0]) {
    case PR_SET_NAME: return span(b, (uint64_t)a[1], 16, 0);
    case PR_GET_NAME: return span(b, (uint64_t)a[1], 16, 1);
    case PR_SET_SECCOMP: return filter(b, (uint64_t)a[2]);
    case 0x53564d41: return string(b, (uint64_t)a[4], 80); /* PR_SET_VMA: the address is only named */
    case 0x41555856: return span(b, (uint64_t)a[1], (uint64_t)a[2] < RW_MAX ? (uint64_t)a[2] : 0, 1); /* PR_GET_AUXV */
    default:
        for (int i = 1; i < 5 && !rc; i++)
            rc = span(b, (uint64_t)a[i], i == 1 ? 16 : 512, 1);
        return rc;
    }
}

/* A private word is only named by its address when it is woken; waiting and taking over look at it. One that is shared is named by its page, which
 * the kernel wants to be writable then. */
static int do_futex(struct eg_buffers *b, const long a[6])
{
    uint32_t op = (uint32_t)a[1] & FUTEX_CMD_MASK;
    int timed = 0, word2 = 0, write = !((uint32_t)a[1] & FUTEX_PRIVATE_FLAG), rc;
    switch (op) {
    case FUTEX_WAKE:
    case FUTEX_WAKE_BITSET: break;
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET: timed = 1; break;
    case FUTEX_LOCK_PI:
    case 13: /* FUTEX_LOCK_PI2 */ timed = write = 1; break;
    case FUTEX_WAIT_REQUEUE_PI: timed = write = word2 = 1; break;
    default: write = word2 = 1; break;
    }
    if ((rc = span(b, (uint64_t)a[0], 4, write)))
        return rc;
    if (timed && (rc = span(b, (uint64_t)a[3], 16, 0)))
        return rc;
    return word2 ? span(b, (uint64_t)a[4], 4, 1) : 0;
}

/* struct futex_waitv: the word's address is the second of three words. */
static int futex_words(struct eg_buffers *b, uint64_t at, uint32_t n)
{
    uint64_t v[3];
    int rc = 0;
    for (n = n < 128 ? n : 128; n && !rc; n--, at += sizeof v) {
        if (!at || b->look(b, v, at, sizeof v))
            return 0;
        rc = span(b, v[1], 8, 1);
    }
    return rc;
}

static int do_keyctl(struct eg_buffers *b, const long a[6])
{
    int rc = 0;
    for (int i = 1; i < 5 && !rc; i++)
        rc = span(b, (uint64_t)a[i], i == 2 && (uint64_t)a[3] < 1u << 20 && (uint64_t)a[3] > EG_PAGE_BYTES ? (uint64_t)a[3] : EG_PAGE_BYTES, 1);
    return rc;
}

/* Its key is filled in. */
static int request(struct eg_buffers *b, uint64_t at)
{
    struct iocb r;
    int rc = span(b, at, sizeof r, 1);
    if (rc || !at || b->look(b, &r, at, sizeof r))
        return rc;
    switch (r.aio_lio_opcode) {
    case IOCB_CMD_PREAD: return span(b, r.aio_buf, r.aio_nbytes < RW_MAX ? r.aio_nbytes : RW_MAX, 1);
    case IOCB_CMD_PWRITE: return span(b, r.aio_buf, r.aio_nbytes < RW_MAX ? r.aio_nbytes : RW_MAX, 0);
    case IOCB_CMD_PREADV: return pairs(b, r.aio_buf, r.aio_nbytes, 16, 1);
    case IOCB_CMD_PWRITEV: return pairs(b, r.aio_buf, r.aio_nbytes, 16, 0);
    default: return 0;
    }
}

static int requests(struct eg_buffers *b, uint64_t at, int64_t n)
{
    int rc = 0;
    for (n = n < IOVS_MAX ? n : IOVS_MAX; n > 0 && !rc; n--, at += sizeof at) {
        uint64_t one;
        if ((rc = span(b, at, sizeof one, 0)))
            return rc;
        if (!at || b->look(b, &one, at, sizeof one))
            return 0;
        rc = request(b, one);
    }
    return rc;
}

/* struct xattr_args: where the value is, and how long. */
static int xattr_value(struct eg_buffers *b, uint64_t at, int write)
{
    uint64_t v[2];
    if (!at || b->look(b, v, at, sizeof v))
        return 0;
    return span(b, v[0], (uint32_t)v[1], write);
}

#define SEM_GETALL 13
#define SEM_SETALL 17
#define SEMS_MAX 32000u
#define IPC_64 0x100

static int any(struct eg_buffers *b, long nr, const long a[6])
{
    const uint64_t *u = (const uint64_t *)a;
    switch (nr) {
    case NR_ioctl: return do_ioctl(b, (uint32_t)u[1], u[2]);
    case NR_fcntl: return do_fcntl(b, (uint32_t)u[1], u[2]);
    case NR_prctl: return do_prctl(b, a);
    case NR_futex: return do_futex(b, a);
    case NR_keyctl: return do_keyctl(b, a);
    case NR_ptrace: return with_pointers(b, u[3], EG_PAGE_BYTES);
    case NR_mincore: return span(b, u[2], u[1] < ADDR_END ? (u[1] + EG_PAGE_BYTES - 1) >> EG_PAGE_SHIFT : 0, 1);
    case NR_mlock:
    case NR_mlock2: return span(b, u[0], u[1] < ADDR_END ? u[1] + EG_PAGE_BYTES : 0, 1); /* what may be written is written */
    case NR_semctl: {
        uint32_t cmd = (uint32_t)u[2] & ~(uint32_t)IPC_64;
        return span(b, u[3], cmd == SEM_GETALL || cmd == SEM_SETALL ? SEMS_MAX * 2 : 112, 1);
    }
    case NR_msgsnd:
    case NR_msgrcv: return span(b, u[1], u[2] < RW_MAX ? u[2] + 8 : 0, nr == NR_msgrcv);
    case NR_setsockopt:
        if ((int32_t)u[4] < 8 || (int32_t)u[4] > 64)
            return 0;
        if ((int32_t)u[1] == SOL_SOCKET && ((int32_t)u[2] == SO_ATTACH_FILTER || (int32_t)u[2] == SO_ATTACH_REUSEPORT_CBPF))
            return filter(b, u[3]);
        return scan(b, u[3], (uint32_t)u[4]);
    case NR_seccomp:
        return (uint32_t)u[0] == 1 ? filter(b, u[2]) : span(b, u[2], 256, 1); /* SECCOMP_SET_MODE_FILTER */
    case NR_mq_notify:
    case NR_clone3: return scan(b, u[nr == NR_mq_notify ? 1 : 0], nr == NR_mq_notify ? 8 : u[1]);
    case NR_bpf: return scan(b, u[1], (uint32_t)u[2]);
    case NR_futex_waitv: return futex_words(b, u[0], (uint32_t)u[1]);
    case NR_futex_requeue: return futex_words(b, u[0], 2);
    case NR_io_submit: return requests(b, u[2], a[1]);
    case NR_process_vm_readv:
    case NR_process_vm_writev:
        if ((long)(int32_t)u[0] == eg_sys0(SYS_getpid) || (long)(int32_t)u[0] == eg_sys0(SYS_gettid))
            return pairs(b, u[3], u[4], 16, nr == NR_process_vm_writev);
        return span(b, u[3], u[4] <= IOVS_MAX ? u[4] * 16 : 0, 0);
    case NR_setxattrat:
    case NR_getxattrat: return xattr_value(b, u[4], nr == NR_getxattrat);
    case NR_kexec_load: return pairs(b, u[2], u[1], 32, 0);
    default: return 0;
    }
}

static uint64_t count_of(const struct entry *e, const long a[6])
{
    long n = e->from & N_INT ? (int32_t)a[e->from & 7] : a[e->from];
    uint64_t bytes;
    if (n <= 0)
        return 0;
    if (__builtin_mul_overflow((uint64_t)n, e->bytes, &bytes) || bytes > RW_MAX)
        return RW_MAX;
    return bytes;
}

static int length_at(struct eg_buffers *b, uint64_t at, uint64_t length_at)
{
    int32_t n;
    int rc = span(b, length_at, sizeof n, 1);
    if (rc || !at || !length_at || b->look(b, &n, length_at, sizeof n) || n <= 0)
        return rc;
    return span(b, at, (uint64_t)n, 1);
}

static int signal_set(struct eg_buffers *b, uint64_t at)
{
    uint64_t v[2];
    int rc = span(b, at, sizeof v, 0);
    if (rc || !at || b->look(b, v, at, sizeof v))
        return rc;
    return span(b, v[0], 8, 0);
}

static int entry(struct eg_buffers *b, const struct entry *e, long nr, const long a[6])
{
    uint64_t at = (uint64_t)a[e->arg];
    int write = (e->shape & D_WRITE) != 0;
    switch ((enum shape)(e->shape & ~D_WRITE)) {
    case S_NONE: return 0;
    case S_FIXED: return span(b, at, e->bytes, write);
    case S_COUNT: return span(b, at, count_of(e, a), write);
    case S_BITS: {
        int32_t bits = (int32_t)a[e->from];
        if (bits <= 0)
            return 0;
        uint64_t n = (uint32_t)bits < MASK_BITS_MAX ? (uint32_t)bits : MASK_BITS_MAX;
        return span(b, at, (n + 63) / 64 * 8, write);
    }
    case S_STRING: return string(b, at, PATH_BYTES);
    case S_LENGTH_AT: return length_at(b, at, (uint64_t)a[e->from]);
    case S_IOV: return pairs(b, at, (uint64_t)a[e->from], 16, write);
    case S_MSG: return message(b, at, write);
    case S_MMSG: return messages(b, at, (uint32_t)a[e->from], write);
    case S_ARGV: return strings(b, at);
    case S_SIG6: return signal_set(b, at);
    case S_ANY: return any(b, nr, a);
    }
    return 0;
}

int eg_gate_one_buffer(long nr, const long arg[6], struct eg_span_rw *ret_span)
{
    if (!(eg_call_flags(nr) & EG_CALL_KNOWN))
        return 0;
    const struct entry *e = calls[nr].entry;
    uint8_t shape = e[0].shape & (uint8_t)~D_WRITE;
    if ((shape != S_FIXED && shape != S_COUNT) || e[1].shape != S_NONE)
        return 0;
    uint64_t at = (uint64_t)arg[e[0].arg], bytes = shape == S_FIXED ? e[0].bytes : count_of(&e[0], arg);
    *ret_span = (struct eg_span_rw){at, at + bytes, (e[0].shape & D_WRITE) != 0};
    return at && at < ADDR_END && bytes <= ADDR_END - at;
}

int eg_gate_buffers(struct eg_buffers *b, long nr, const long arg[6])
{
    int rc = 0;
    if (eg_call_flags(nr) & EG_CALL_PLAIN)
        return 0;
    if (!(eg_call_flags(nr) & EG_CALL_KNOWN)) {
        for (int i = 0; i < 6 && !rc; i++)
            rc = span(b, (uint64_t)arg[i], EG_PAGE_BYTES, 1);
        return rc;
    }
    for (int i = 0; i < EG_CALL_ENTRIES && !rc; i++)
        rc = entry(b, &calls[nr].entry[i], nr, arg);
    return rc;
}
