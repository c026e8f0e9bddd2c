/* What the kernel accesses in a system call: the table against the kernel's list of calls, the walk against what is known of single calls, and real calls
 * on memory of which nothing is there but what was pinned. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_inline.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

int eg_cap_fd_reserved(long fd)
{
    (void)fd;
    return 0;
}

long eg_fd_open_own(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC);
}
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 8192ul /* of the program's captured memory */

struct eg_rt eg_rt;
static uint8_t *far; /* the captured memory */

void eg_die(const char *what, const char *name, int err)
{
    (void)name;
    (void)err;
    ck_abort_msg("%s", what);
    abort();
}

long eg_fd_new(long nr, long a, long b, long c, long d)
{
    return eg_sys4(nr, a, b, c, d);
}

void eg_slab_free(uint8_t server, uint32_t slab, int shared)
{
    (void)server;
    (void)slab;
    (void)shared;
}

/* --- pages that are away: PROT_NONE, which the kernel's access does not get past either. Clean ones: PROT_READ. */

static uint32_t brought, unpinned;

static void protect(uint64_t i, int prot, enum eg_page_state s)
{
    uint64_t at = (uint64_t)far + i * PAGE;
    if (mprotect((void *)at, PAGE, prot))
        ck_abort_msg("mprotect: %s", strerror(errno));
    eg_page_set(eg_block_get(at >> EG_BLOCK_SHIFT), (uint32_t)(at / PAGE % EG_BLOCK_PAGES), s);
}

void eg_inline_bring(uint64_t start, uint64_t end, int write)
{
    ck_assert_uint_ge(start, (uint64_t)far);
    ck_assert_uint_le(end, (uint64_t)far + PAGES * PAGE);
    for (uint64_t at = start; at < end; at += PAGE) {
        unpinned += !eg_pin_has(at / PAGE);
        brought++;
        protect((at - (uint64_t)far) / PAGE, write ? PROT_READ | PROT_WRITE : PROT_READ, write ? EG_P_DIRTY : EG_P_CLEAN);
    }
}

int eg_signals_on_alternate(uint64_t sp)
{
    (void)sp;
    return 0;
}

static uint32_t handled;

uint32_t eg_signals_handled(void)
{
    return handled;
}

long eg_signals_quiet_call(long nr, const long a[6])
{
    return eg_syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

long eg_signals_copy_in(void *to, uint64_t from, size_t bytes)
{
    return eg_sys_copy_in(to, from, bytes) == (long)bytes ? 0 : -EFAULT;
}

long eg_gate_alone(long (*fn)(void *), void *arg)
{
    return fn(arg);
}

static void everything(int prot, enum eg_page_state s)
{
    ck_assert_int_eq(mprotect(far, PAGES * PAGE, prot), 0);
    for (uint64_t i = 0; i < PAGES; i++)
        eg_page_set(eg_block_get(((uint64_t)far + i * PAGE) >> EG_BLOCK_SHIFT), (uint32_t)(((uint64_t)far / PAGE + i) % EG_BLOCK_PAGES), s);
}

static void home(void)
{
    everything(PROT_READ | PROT_WRITE, EG_P_DIRTY);
}

/* All leave that may. */
static void away(void)
{
    everything(PROT_NONE, EG_P_REMOTE);
    for (uint64_t i = 0; i < PAGES; i++)
        if (eg_pin_has((uint64_t)far / PAGE + i))
            protect(i, PROT_READ | PROT_WRITE, EG_P_DIRTY);
}

static uint64_t used;

static void start(void)
{
    memset(&eg_rt, 0, sizeof eg_rt);
    eg_rt.pid = (uint32_t)getpid();
    eg_rt.budget = 8 * 1024;
    static struct eg_pool pool;
    pool.budget_bytes = eg_rt.budget * PAGE;
    pool.sole = 1;
    eg_rt.pool = &pool;
    eg_rt.pool_fd = memfd_create("pool", MFD_CLOEXEC);
    eg_rt.armed = eg_sys_map(EG_N_BLOCKS / 8);
    uint8_t *p = mmap(NULL, PAGES * PAGE + EG_BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    far = (uint8_t *)(((uint64_t)p + EG_BLOCK_BYTES - 1) & ~(EG_BLOCK_BYTES - 1));
    ck_assert_int_eq(eg_ranges_set(&eg_rt.ranges, (uint64_t)far, (uint64_t)far + PAGES * PAGE, 0), 0);
    for (uint64_t i = (uint64_t)far; i < (uint64_t)far + PAGES * PAGE; i += EG_BLOCK_BYTES)
        eg_block_set_armed(i >> EG_BLOCK_SHIFT, 1);
    used = 1;
    home();
}

/* Somewhere in the captured memory, across two pages when it is long enough, at least one page away from everything else. */
static void *some(size_t bytes)
{
    size_t before = bytes >= 16 ? 8 : bytes;
    uint8_t *at = far + used * PAGE - before;
    used += (bytes - before + PAGE - 1) / PAGE + 2;
    ck_assert_uint_lt(used, PAGES);
    return at;
}

static void *some_of(const void *what, size_t bytes)
{
    void *at = some(bytes);
    memcpy(at, what, bytes);
    return at;
}

static char *text(const char *s)
{
    return some_of(s, strlen(s) + 1);
}

/* --- the table ------------------------------------------------------------------------------------------------------------- */

START_TEST(the_table_is_sorted_and_complete)
{
    static const struct {
        long nr;
        const char *name;
    } with[] = {
#define X(nr, name, ...) {nr, #name},
        EG_CALLS(X)
#undef X
    }, without[] = {
#define X(nr, name) {nr, #name},
        EG_CALLS_PLAIN(X)
#undef X
    };
    size_t n = sizeof with / sizeof *with, m = sizeof without / sizeof *without;
    for (size_t i = 1; i < n; i++)
        ck_assert_int_lt(with[i - 1].nr, with[i].nr);
    for (size_t i = 1; i < m; i++)
        ck_assert_int_lt(without[i - 1].nr, without[i].nr);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(eg_call_has_pointers((uint32_t)with[i].nr), "%s", with[i].name);
    for (size_t i = 0; i < m; i++)
        ck_assert_msg(!eg_call_has_pointers((uint32_t)without[i].nr), "%s", without[i].name);
    /* Every number that the kernel's header has is in one of the lists, under its name; and the other way round, for as long as the header knows it. */
    FILE *f = fopen("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "r");
    char line[256], name[128];
    long nr, seen = 0, last = 0;
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "#define __NR_%127s %ld", name, &nr) != 2)
            continue;
        int found = 0;
        for (size_t i = 0; i < n; i++)
            found += with[i].nr == nr && !strcmp(with[i].name, name);
        for (size_t i = 0; i < m; i++)
            found += without[i].nr == nr && !strcmp(without[i].name, name);
        ck_assert_msg(found == 1, "%s (%ld) is in %d lists", name, nr, found);
        seen++;
        last = nr > last ? nr : last;
    }
    fclose(f);
    ck_assert_int_ge(seen, 300);
    for (size_t i = 0; i < n + m; i++) {
        long known = i < n ? with[i].nr : without[i - n].nr;
        seen -= known <= last && known != 335 && known != 336; /* uretprobe, uprobe: late in a hole */
    }
    ck_assert_int_eq(seen, 0);
    ck_assert(eg_call_has_pointers(470) && eg_call_has_pointers(100000));
    ck_assert(eg_call_declined(425) && !eg_call_declined(206) && !eg_call_declined(0) && !eg_call_declined(9999));
}
END_TEST

/* --- the walk --------------------------------------------------------------------------------------------------------------- */

static struct {
    struct eg_buffers b; /* first member */
    uint32_t n, stop_after;
    struct eg_span_rw v[4096];
} told;

static int told_span(struct eg_buffers *b, uint64_t at, uint64_t end, int write)
{
    (void)b;
    ck_assert_uint_lt(at, end);
    ck_assert_uint_le(end, 1ul << 47);
    ck_assert_uint_lt(told.n, sizeof told.v / sizeof *told.v);
    told.v[told.n++] = (struct eg_span_rw){at, end, write};
    return told.stop_after && told.n >= told.stop_after ? 7 : 0;
}

static int covered(uint64_t at, uint64_t end, int write)
{
    while (at < end) {
        uint32_t i = 0;
        while (i < told.n && !(told.v[i].start <= at && told.v[i].end > at && (!write || told.v[i].write)))
            i++;
        if (i == told.n)
            return 0;
        at = told.v[i].end;
    }
    return 1;
}

static int told_look(struct eg_buffers *b, void *to, uint64_t from, size_t bytes)
{
    (void)b;
    ck_assert(covered(from, from + bytes, 0)); /* what is looked at was told of before */
    return eg_sys_copy_in(to, from, bytes) == (long)bytes ? 0 : -1;
}

static int walk(long nr, long a0, long a1, long a2, long a3, long a4, long a5)
{
    long arg[6] = {a0, a1, a2, a3, a4, a5};
    told.b.span = told_span;
    told.b.look = told_look;
    told.n = 0;
    return eg_gate_buffers(&told.b, nr, arg);
}

#define WALK_(a, b, c, d, e, f, g, ...) walk((long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f), (long)(g))
#define WALK(...) WALK_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
#define READS(p, n) ck_assert(covered((uint64_t)(p), (uint64_t)(p) + (n), 0))
#define WRITES(p, n) ck_assert(covered((uint64_t)(p), (uint64_t)(p) + (n), 1))
#define NOTHING() ck_assert_uint_eq(told.n, 0)

START_TEST(plain_buffers)
{
    WALK(SYS_read, 0, 0x10000, 100);
    ck_assert_uint_eq(told.n, 1);
    ck_assert_uint_eq(told.v[0].start, 0x10000);
    ck_assert_uint_eq(told.v[0].end, 0x10064);
    ck_assert_int_eq(told.v[0].write, 1);
    WALK(SYS_write, 0, 0x10000, 100);
    ck_assert_int_eq(told.v[0].write, 0);
    WALK(SYS_getgroups, 3, 0x10000);
    WRITES(0x10000, 12);
    ck_assert_uint_eq(told.v[0].end, 0x1000c);
    WALK(SYS_close, 0x10000);
    NOTHING();
    WALK(SYS_mmap, 0x10000, 4096, 0, 0, 0, 0);
    NOTHING();
    told.stop_after = 1;
    ck_assert_int_eq(WALK(SYS_rt_sigaction, 1, 0x10000, 0x20000, 8), 7);
    ck_assert_uint_eq(told.n, 1);
}
END_TEST

/* What it says, without the walk, is what the walk says. */
START_TEST(one_buffer)
{
    static const long at[] = {0x10000, 0x10fff, 0, -1, (1l << 47) - 8, 1l << 47}, bytes[] = {100, 1, 0, -1, 1l << 32, 0x7fffffffffff, 1l << 62};
    uint32_t agreed = 0;
    for (long nr = -1; nr < 600; nr++)
        for (uint32_t i = 0; i < 6 * 7; i++) {
            struct eg_span_rw one;
            long x = at[i % 6], n = bytes[i / 6], a[][6] = {{0, x, n, 0, 0, 0}, {x, n, x, n, x, n}, {n, x, n, x, n, x}};
            for (uint32_t k = 0; k < 3; k++) {
                if (!eg_gate_one_buffer(nr, a[k], &one))
                    continue;
                walk(nr, a[k][0], a[k][1], a[k][2], a[k][3], a[k][4], a[k][5]);
                ck_assert_uint_eq(told.n, one.start < one.end);
                ck_assert(!told.n || (told.v[0].start == one.start && told.v[0].end == one.end && told.v[0].write == one.write));
                agreed += told.n;
            }
        }
    ck_assert_uint_gt(agreed, 100);
    long a_buffer[] = {0, 0x10000, 100, 0, 0, 0};
    struct eg_span_rw one;
    ck_assert(eg_gate_one_buffer(SYS_read, a_buffer, &one) && one.start == 0x10000 && one.end == 0x10064 && one.write);
    ck_assert(eg_gate_one_buffer(SYS_write, a_buffer, &one) && !one.write);
    ck_assert(!eg_gate_one_buffer(SYS_readv, a_buffer, &one) && !eg_gate_one_buffer(SYS_open, a_buffer, &one));
    ck_assert(!eg_gate_one_buffer(SYS_recvfrom, a_buffer, &one));
}
END_TEST

START_TEST(bad_lengths)
{
    WALK(SYS_read, 0, 0x10000, 0);
    NOTHING();
    WALK(SYS_read, 0, 0x10000, -1);
    NOTHING();
    WALK(SYS_read, 0, 0, 100);
    NOTHING();
    WALK(SYS_read, 0, -4096, 100);
    NOTHING();
    WALK(SYS_read, 0, 1l << 47, 100);
    NOTHING();
    WALK(SYS_read, 0, (1l << 47) - 10, 100); /* clipped */
    WRITES((1ul << 47) - 10, 10);
    WALK(SYS_read, 0, 0x10000, 1l << 40);
    ck_assert_uint_eq(told.v[0].end, 0x10000 + 0x7ffff000ul);
    WALK(SYS_poll, 0x10000, 0x1fffffffffffffffl, 0); /* an int: -1 */
    NOTHING();
    WALK(SYS_poll, 0x10000, 0xabcdef0000000002l, 0); /* what is above an int says nothing */
    ck_assert_uint_eq(told.v[0].end, 0x10010);
    WALK(SYS_io_getevents, 0, 0, 1l << 62, 0x10000, 0);
    ck_assert_uint_eq(told.v[0].end, 0x10000 + 0x7ffff000ul);
    WALK(SYS_select, 0x7fffffff, 0x10000, 0, 0, 0);
    ck_assert_uint_le(told.v[0].end, 0x10000 + (1 << 20));
    WALK(SYS_select, -5, 0x10000, 0, 0, 0);
    NOTHING();
    WALK(SYS_readv, 0, 16, 3);
    ck_assert_uint_eq(told.n, 1);
    WALK(SYS_readv, 0, 16, -3);
    NOTHING();
    WALK(SYS_sendmsg, 0, 16);
    WALK(SYS_execve, 16, 24, -16);
    WALK(SYS_recvmmsg, 0, 16, -1);
    WALK(SYS_getsockname, 0, 16, 16);
    WALK(-1, 0x10000, -1, 0, 1, 2, 3);
    WALK(1l << 40, 0x10000);
    READS(0x10000, 4096);
}
END_TEST

START_TEST(unknown_calls_take_a_page_of_everything)
{
    WALK(5000, 0x10000, 0x20000, 0x30000, 0x40000, 0x50000, 0x60000);
    for (uint64_t i = 1; i < 7; i++)
        WRITES(i << 16, 4096);
}
END_TEST

START_TEST(masks)
{
    WALK(SYS_select, 65, 0x10000, 0x20000, 0x30000, 0x40000);
    WRITES(0x10000, 16);
    WRITES(0x20000, 16);
    WRITES(0x30000, 16);
    WRITES(0x40000, 16);
    ck_assert_uint_eq(told.v[0].end, 0x10010);
    WALK(SYS_get_mempolicy, 0, 0x20000, 1024, 0, 0);
    WRITES(0x20000, 128);
}
END_TEST

START_TEST(strings_up_to_their_end)
{
    start();
    char *s = (char *)far + PAGE - 3;
    memcpy(s, "ab", 3);
    WALK(SYS_open, s);
    READS(s, 3);
    ck_assert(!covered((uint64_t)s, (uint64_t)s + 4, 0));
    memcpy(s, "abcdef", 7);
    WALK(SYS_open, s);
    READS(s, 7);
    memset(far, 'x', 100 * PAGE);
    WALK(SYS_open, far + 5);
    READS(far + 5, PAGE);
    ck_assert(!covered((uint64_t)far, (uint64_t)far + 3 * PAGE, 0));
    munmap(far + 10 * PAGE, PAGE);
    WALK(SYS_open, far + 9 * PAGE + 5); /* runs into nothing */
    READS(far + 9 * PAGE + 5, PAGE - 5);
    char *argv[] = {text("one"), text("two"), (char *)16, NULL}, **v = some_of(argv, sizeof argv);
    WALK(SYS_execve, text("path"), v, v + 2);
    READS(v, sizeof argv);
    READS(argv[0], 4);
    READS(argv[1], 4);
}
END_TEST

START_TEST(nested)
{
    start();
    uint32_t *len = some(4);
    *len = 77;
    WALK(SYS_getsockopt, 0, 0, 0, 0x10000, len);
    WRITES(len, 4);
    WRITES(0x10000, 77);
    *len = (uint32_t)-1;
    WALK(SYS_accept, 0, 0x10000, len);
    ck_assert(!covered(0x10000, 0x10001, 0));

    struct iovec iov[3] = {{(void *)0x20000, 10}, {(void *)0x30000, 0x6fffffff}, {(void *)0x200000000, 0x6fffffff}}, *v = some_of(iov, sizeof iov);
    WALK(SYS_readv, 0, v, 3);
    READS(v, sizeof iov);
    WRITES(0x20000, 10);
    WRITES(0x30000, 0x6fffffff);
    WRITES(0x200000000, 0x0fff0000); /* 2 GB in all */
    ck_assert(!covered(0x200000000, 0x26fffffff, 1));
    WALK(SYS_writev, 0, v, 3);
    READS(0x20000, 10);
    ck_assert(!covered(0x20000, 0x20001, 1));
    struct iovec *many = some(1024 * sizeof *many);
    for (uint64_t i = 0; i < 1024; i++)
        many[i] = (struct iovec){(void *)(0x100000000 + i * 0x1000), 8};
    WALK(SYS_writev, 0, many, 1024);
    for (uint64_t i = 0; i < 1024; i++)
        READS(0x100000000 + i * 0x1000, 8);
    WALK(SYS_writev, 0, many, 1025);
    NOTHING();

    struct mmsghdr m[2] = {{{(void *)0x40000, 16, v, 1, (void *)0x50000, 64, 0}, 0}, {{NULL, 0, v + 1, 1, NULL, 0, 0}, 0}}, *mm = some_of(m, sizeof m);
    WALK(SYS_recvmsg, 0, mm);
    WRITES(mm, 56);
    WRITES(0x40000, 16);
    WRITES(0x50000, 64);
    WRITES(0x20000, 10);
    WALK(SYS_sendmmsg, 0, mm, 2);
    WRITES(mm, sizeof m);
    READS(0x40000, 16);
    ck_assert(!covered(0x40000, 0x40001, 1));
    READS(0x30000, 100);

    uint64_t sig[2] = {0x60000, 8}, *s = some_of(sig, sizeof sig);
    WALK(SYS_pselect6, 0, 0, 0, 0, 0, s);
    READS(s, 16);
    READS(0x60000, 8);

    struct sock_fprog prog = {9, (void *)0x70000}, *f = some_of(&prog, sizeof prog);
    WALK(SYS_seccomp, 1, 0, f);
    READS(0x70000, 72);
    WALK(SYS_setsockopt, 0, SOL_SOCKET, SO_ATTACH_FILTER, f, 16);
    READS(0x70000, 72);
    WALK(SYS_prctl, PR_SET_SECCOMP, 2, f);
    READS(0x70000, 72);

    uint64_t waitv[6] = {1, 0x80000, 2, 1, 0x90000, 2}, *w = some_of(waitv, sizeof waitv);
    WALK(SYS_futex_waitv, w, 2, 0, 0x11000);
    READS(w, sizeof waitv);
    READS(0x80000, 4);
    READS(0x90000, 4);
    READS(0x11000, 16);

    struct iocb io[4] = {{.aio_lio_opcode = IOCB_CMD_PREAD, .aio_buf = 0xd0000, .aio_nbytes = 5000},
                         {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = 0xe0000, .aio_nbytes = 7},
                         {.aio_lio_opcode = IOCB_CMD_PWRITEV, .aio_buf = (uint64_t)v, .aio_nbytes = 1},
                         {.aio_lio_opcode = IOCB_CMD_FSYNC, .aio_buf = 0xf0000, .aio_nbytes = 9}};
    uint64_t list[5], *l;
    for (int i = 0; i < 4; i++)
        list[i] = (uint64_t)some_of(&io[i], sizeof io[i]);
    list[4] = 0x100000;
    l = some_of(list, sizeof list);
    WALK(SYS_io_submit, 0x77000, 4, l);
    READS(l, 32);
    for (int i = 0; i < 4; i++)
        WRITES(list[i], 64);
    WRITES(0xd0000, 5000);
    READS(0xe0000, 7);
    READS(v, 16);
    READS(0x20000, 10);
    ck_assert(!covered(0xf0000, 0xf0001, 0) && !covered(0x100000, 0x100001, 0) && !covered(0xe0000, 0xe0001, 1));
    WALK(SYS_io_submit, 0x77000, -1, l);
    ck_assert(!covered((uint64_t)l, (uint64_t)l + 1, 0));

    uint64_t attr[8] = {1, 0xa0000, 5, 0xb0000}, *at = some_of(attr, sizeof attr);
    WALK(SYS_bpf, 0, at, sizeof attr);
    WRITES(at, sizeof attr);
    WRITES(0xa0000, 4096);
    WRITES(0xb0000, 4096);

    iov[0].iov_base = (void *)0xc0000;
    struct iovec *other = some_of(iov, sizeof iov);
    WALK(SYS_process_vm_readv, getpid(), v, 1, other, 1, 0);
    WRITES(0x20000, 10);
    READS(other, 16);
    READS(0xc0000, 10);
    ck_assert(!covered(0xc0000, 0xc0001, 1));
    WALK(SYS_process_vm_readv, 1, v, 1, other, 1, 0);
    ck_assert(!covered(0xc0000, 0xc0001, 0));
}
END_TEST

START_TEST(nested_in_memory_that_is_not_there)
{
    start();
    munmap(far, 4 * PAGE);
    WALK(SYS_readv, 0, far, 3);
    ck_assert_uint_eq(told.n, 1);
    WALK(SYS_sendmsg, 0, far);
    ck_assert_uint_eq(told.n, 1);
    WALK(SYS_recvmmsg, 0, far, 3);
    WALK(SYS_execve, far, far + 8, far + 16);
    WALK(SYS_getsockname, 0, far, far + 8);
    WALK(SYS_ioctl, 0, TCGETS, far);
    WALK(SYS_ioctl, 0, 0x8912, far);
    WALK(SYS_bpf, 0, far, 128);
    WALK(SYS_futex_waitv, far, 128, 0, far);
    WALK(SYS_pselect6, 5, far, far, far, far, far);
    WALK(SYS_clone3, far, 88);
    WALK(SYS_seccomp, 1, 0, far);
}
END_TEST

START_TEST(bundles)
{
    start();
    WALK(SYS_fcntl, 0, F_SETLK, 0x10000);
    WRITES(0x10000, sizeof(struct flock));
    WALK(SYS_fcntl, 0, F_DUPFD, 0x10000);
    NOTHING();
    WALK(SYS_ioctl, 0, FIONREAD, 0x10000);
    WRITES(0x10000, 4);
    WALK(SYS_ioctl, 0, _IOR('x', 1, char[5000]), 0x10000);
    WRITES(0x10000, 5000);
    uint64_t fiemap[7] = {0, ~0ull}, *p = some_of(fiemap, sizeof fiemap);
    p[3] = 3; /* fm_extent_count */
    WALK(SYS_ioctl, 0, 0xc020660b, p);
    WRITES(p, 32 + 3 * 56);
    uint64_t conf[2] = {9000, 0x10000}, *c = some_of(conf, sizeof conf);
    WALK(SYS_ioctl, 0, 0x8912, c);
    WRITES(0x10000, 9000);
    WALK(SYS_prctl, PR_SET_NAME, 0x10000);
    READS(0x10000, 16);
    ck_assert(!covered(0x10000, 0x10001, 1));
    char *name = text("name");
    WALK(SYS_prctl, 0x53564d41, 0, 0x10000, 4096, name); /* PR_SET_VMA */
    READS(name, 5);
    ck_assert(!covered(0x10000, 0x10001, 0));
    WALK(SYS_futex, 0x10000, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, 0x20000, 0x30000);
    READS(0x10000, 4);
    READS(0x20000, 16);
    ck_assert(!covered(0x30000, 0x30001, 0));
    WALK(SYS_futex, 0x10000, FUTEX_WAKE_OP, 0, 1, 0x30000);
    WRITES(0x10000, 4);
    WRITES(0x30000, 4);
    WALK(SYS_mincore, 0x10000, 5 * 4096 + 1, 0x20000);
    WRITES(0x20000, 6);
    ck_assert(!covered(0x10000, 0x10001, 0));
    WALK(SYS_msgsnd, 0, 0x10000, 10);
    READS(0x10000, 18);
    WALK(SYS_msgrcv, 0, 0x10000, -1);
    NOTHING();
    WALK(SYS_semctl, 0, 0, 13, 0x10000); /* GETALL */
    WRITES(0x10000, 1000);
}
END_TEST

/* --- real calls -------------------------------------------------------------------------------------------------------------- */

static int expect_fault = 1; /* without pins the same call fails with EFAULT */

static long call_in_place(long nr, const long a[6])
{
    return eg_syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* As the program would: everything is away, the gate is passed, the call is made, nothing that was not pinned is there during it. */
static long make(long nr, long a0, long a1, long a2, long a3, long a4, long a5)
{
    struct eg_gate_frame f = {0, nr, {a0, a1, a2, a3, a4, a5}};
    long ret;
    eg_pin_reset();
    away();
    if (expect_fault)
        ck_assert_msg(call_in_place(nr, f.arg) == -EFAULT, "call %ld: did not fail without pins", nr);
    if (!eg_gate_pin(&f, &ret)) {
        away();
        ret = call_in_place(nr, f.arg);
    }
    home();
    ck_assert_uint_eq(unpinned, 0);
    return ret;
}

#define MAKE_(a, b, c, d, e, f, g, ...) make((long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f), (long)(g))
#define MAKE(...) MAKE_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

START_TEST(real_files)
{
    char dir[] = "/tmp/gate_buffers.XXXXXX", path[64], path2[64];
    start();
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(path2, sizeof path2, "%s/other", dir);
    char *p = text(path), *q = text(path2), *buf = some(10000);
    long fd = MAKE(SYS_openat, AT_FDCWD, p, O_RDWR | O_CREAT, 0600);
    ck_assert_int_ge(fd, 0);
    memset(buf, 'a', 10000);
    ck_assert_int_eq(MAKE(SYS_write, fd, buf, 10000), 10000);
    memset(buf, 'b', 10000);
    ck_assert_int_eq(MAKE(SYS_pread64, fd, buf, 10000, 5000), 5000);
    ck_assert(buf[0] == 'a' && buf[4999] == 'a' && buf[5000] == 'b');
    struct iovec iov[2] = {{some(5000), 5000}, {some(5000), 5000}}, *v = some_of(iov, sizeof iov);
    ck_assert_int_eq(MAKE(SYS_preadv, fd, v, 2, 0, 0), 10000);
    ck_assert_int_eq(((char *)iov[1].iov_base)[4999], 'a');
    ck_assert_int_eq(MAKE(SYS_pwritev2, fd, v, 2, 0, 0, 0), 10000);
    struct stat *st = some(sizeof *st);
    ck_assert_int_eq(MAKE(SYS_stat, p, st), 0);
    ck_assert_int_eq(st->st_size, 10000);
    ck_assert_int_eq(MAKE(SYS_fstat, fd, st), 0);
    ck_assert_int_eq(MAKE(SYS_newfstatat, AT_FDCWD, p, st, 0), 0);
    struct statx *sx = some(sizeof *sx);
    ck_assert_int_eq(MAKE(SYS_statx, AT_FDCWD, p, 0, STATX_ALL, sx), 0);
    ck_assert_int_eq(sx->stx_size, 10000);
    ck_assert_int_eq(MAKE(SYS_statfs, p, some(120)), 0);
    ck_assert_int_eq(MAKE(SYS_access, p, R_OK), 0);
    struct flock lock = {.l_type = F_WRLCK}, *l = some_of(&lock, sizeof lock);
    ck_assert_int_eq(MAKE(SYS_fcntl, fd, F_SETLK, l), 0);
    ck_assert_int_eq(MAKE(SYS_rename, p, q), 0);
    ck_assert_int_eq(MAKE(SYS_symlink, q, p), 0);
    ck_assert_int_eq(MAKE(SYS_readlink, p, buf, 10000), (long)strlen(q));
    ck_assert_int_eq(memcmp(buf, q, strlen(q)), 0);
    struct timespec times[2] = {{1, 2}, {3, 4}}, *t = some_of(times, sizeof times);
    ck_assert_int_eq(MAKE(SYS_utimensat, AT_FDCWD, q, t, 0), 0);
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY}, *h = some_of(&how, sizeof how);
    long dir_fd = MAKE(SYS_openat2, AT_FDCWD, text(dir), h, sizeof how);
    ck_assert_int_ge(dir_fd, 0);
    ck_assert_int_gt(MAKE(SYS_getdents64, dir_fd, buf, 10000), 0);
    ck_assert_int_eq(MAKE(SYS_unlink, p), 0);
    ck_assert_int_eq(MAKE(SYS_unlinkat, AT_FDCWD, q, 0), 0);
    ck_assert_int_eq(MAKE(SYS_rmdir, text(dir)), 0);
    ck_assert_int_gt(MAKE(SYS_getcwd, buf, 4096), 0);
    long out = MAKE(SYS_memfd_create, text("some name"), 0);
    ck_assert_int_ge(out, 0);
    off_t *o1 = some_of(&(off_t){0}, 8), *o2 = some_of(&(off_t){20000}, 8);
    ck_assert_int_eq(MAKE(SYS_sendfile, out, fd, o1, 100), 100);
    *o1 = 0;
    ck_assert_int_eq(MAKE(SYS_copy_file_range, fd, o1, fd, o2, 100, 0), 100);
}
END_TEST

START_TEST(real_sockets_and_pipes)
{
    start();
    int *pair = some(8);
    ck_assert_int_eq(MAKE(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, pair), 0);
    int a = pair[0], b = pair[1];
    char *out = text("hello, far memory"), *in = some(100);
    ck_assert_int_eq(MAKE(SYS_sendto, a, out, 18, 0, 0, 0), 18);
    ck_assert_int_eq(MAKE(SYS_recvfrom, b, in, 100, 0, 0, 0), 18);
    ck_assert_str_eq(in, "hello, far memory");
    struct iovec iov[2] = {{out, 9}, {out + 9, 9}}, *v = some_of(iov, sizeof iov);
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr m = {NULL, 0, v, 2, control, sizeof control, 0};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &a, sizeof a);
    m.msg_control = some_of(control, sizeof control);
    struct msghdr *mp = some_of(&m, sizeof m);
    ck_assert_int_eq(MAKE(SYS_sendmsg, a, mp, 0), 18);
    struct iovec riov = {in, 100};
    *mp = (struct msghdr){some(110), 110, some_of(&riov, sizeof riov), 1, some(200), 200, 0};
    memset(in, 0, 100);
    ck_assert_int_eq(MAKE(SYS_recvmsg, b, mp, 0), 18);
    ck_assert_str_eq(in, "hello, far memory");
    ck_assert_uint_gt(mp->msg_controllen, 0);
    struct mmsghdr mm[2] = {{{NULL, 0, v, 2, NULL, 0, 0}, 0}, {{NULL, 0, v, 1, NULL, 0, 0}, 0}}, *mmp = some_of(mm, sizeof mm);
    expect_fault = 0; /* the second one of two may fail without any harm to the first */
    ck_assert_int_eq(MAKE(SYS_sendmmsg, a, mmp, 2, 0), 2);
    ck_assert_uint_eq(mmp[1].msg_len, 9);
    mmp[0].msg_hdr.msg_iov = mmp[1].msg_hdr.msg_iov = some_of(&riov, sizeof riov);
    mmp[0].msg_hdr.msg_iovlen = mmp[1].msg_hdr.msg_iovlen = 1;
    ck_assert_int_eq(MAKE(SYS_recvmmsg, b, mmp, 1, 0, 0), 1);
    expect_fault = 1;
    struct sockaddr_un sun = {.sun_family = AF_UNIX, .sun_path = "\0gate_buffers"}, *sp;
    snprintf(sun.sun_path + 1, 60, "gate_buffers.%d", getpid());
    sp = some_of(&sun, sizeof sun);
    int s = socket(AF_UNIX, SOCK_STREAM, 0), s2 = socket(AF_UNIX, SOCK_STREAM, 0), *len = some(4);
    ck_assert_int_eq(MAKE(SYS_bind, s, sp, sizeof sun), 0);
    ck_assert_int_eq(listen(s, 5), 0);
    ck_assert_int_eq(MAKE(SYS_connect, s2, sp, sizeof sun), 0);
    *len = 100;
    expect_fault = 0; /* it would take the connection and drop it */
    ck_assert_int_ge(MAKE(SYS_accept, s, some(100), len), 0);
    expect_fault = 1;
    *len = sizeof sun;
    memset(sp, 0, sizeof *sp);
    ck_assert_int_eq(MAKE(SYS_getsockname, s, sp, len), 0);
    ck_assert_int_eq(memcmp(sp, &sun, sizeof sun), 0);
    int *value = some_of(&(int){1}, 4);
    ck_assert_int_eq(MAKE(SYS_setsockopt, s, SOL_SOCKET, SO_KEEPALIVE, value, 4), 0);
    *value = 0;
    *len = 4;
    ck_assert_int_eq(MAKE(SYS_getsockopt, s, SOL_SOCKET, SO_TYPE, value, len), 0);
    ck_assert_int_eq(*value, SOCK_STREAM);
    struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, 0xffffffff};
    struct sock_fprog prog = {1, some_of(&allow, sizeof allow)};
    ck_assert_int_eq(MAKE(SYS_setsockopt, b, SOL_SOCKET, SO_ATTACH_FILTER, some_of(&prog, sizeof prog), sizeof prog), 0);

    int *p = some(8);
    ck_assert_int_eq(MAKE(SYS_pipe2, p, 0), 0);
    ck_assert_int_eq(MAKE(SYS_writev, p[1], v, 2), 18);
    int *n = some(4);
    ck_assert_int_eq(MAKE(SYS_ioctl, p[0], FIONREAD, n), 0);
    ck_assert_int_eq(*n, 18);
    ck_assert_int_eq(MAKE(SYS_vmsplice, p[1], v, 2, 0), 18);
    struct pollfd pf = {p[0], POLLIN, 0}, *pp = some_of(&pf, sizeof pf);
    ck_assert_int_eq(MAKE(SYS_poll, pp, 1, 0), 1);
    ck_assert_int_eq(pp->revents, POLLIN);
    struct timespec zero = {0, 0}, *ts = some_of(&zero, sizeof zero);
    uint64_t *mask = some_of(&(uint64_t){0}, 8);
    ck_assert_int_eq(MAKE(SYS_ppoll, pp, 1, ts, mask, 8), 1);
    fd_set *set = some(sizeof *set);
    memset(set, 0, sizeof *set);
    FD_SET(p[0], set);
    struct timeval tv = {0, 0}, *tvp = some_of(&tv, sizeof tv);
    ck_assert_int_eq(MAKE(SYS_select, p[0] + 1, set, 0, 0, tvp), 1);
    uint64_t six[2] = {(uint64_t)mask, 8};
    ck_assert_int_eq(MAKE(SYS_pselect6, p[0] + 1, set, 0, 0, ts, some_of(six, sizeof six)), 1);
    int ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN, {.u64 = 42}}, *e = some_of(&ev, sizeof ev);
    ck_assert_int_eq(MAKE(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, p[0], e), 0);
    e->data.u64 = 0;
    ck_assert_int_eq(MAKE(SYS_epoll_wait, ep, e, 5, 0), 1);
    ck_assert_uint_eq(e->data.u64, 42);
    ck_assert_int_eq(MAKE(SYS_epoll_pwait2, ep, e, 5, ts, mask, 8), 1);
}
END_TEST

START_TEST(real_time_and_process)
{
    start();
    struct timespec short_time = {0, 1000}, *ts = some_of(&short_time, sizeof short_time), *rem = some(sizeof *rem);
    ck_assert_int_eq(MAKE(SYS_clock_gettime, CLOCK_MONOTONIC, rem), 0);
    ck_assert_int_eq(MAKE(SYS_nanosleep, ts, rem), 0);
    ck_assert_int_eq(MAKE(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, ts, rem), 0);
    struct itimerspec its = {{0, 0}, {100, 0}}, *it = some_of(&its, sizeof its), *old = some(sizeof *old);
    long tfd = timerfd_create(CLOCK_MONOTONIC, 0);
    ck_assert_int_eq(MAKE(SYS_timerfd_settime, tfd, 0, it, old), 0);
    ck_assert_int_eq(MAKE(SYS_timerfd_gettime, tfd, old), 0);
    ck_assert_int_eq(old->it_value.tv_sec, 99);
    struct sigevent sev = {.sigev_notify = SIGEV_NONE};
    int *id = some(4);
    ck_assert_int_eq(MAKE(SYS_timer_create, CLOCK_MONOTONIC, some_of(&sev, sizeof sev), id), 0);
    ck_assert_int_eq(MAKE(SYS_timer_settime, *id, 0, it, old), 0);
    ck_assert_int_eq(MAKE(SYS_timer_gettime, *id, old), 0);
    ck_assert_int_eq(MAKE(SYS_sysinfo, some(sizeof(struct sysinfo))), 0);
    ck_assert_int_eq(MAKE(SYS_uname, some(390)), 0);
    ck_assert_int_eq(MAKE(SYS_getrusage, 0, some(sizeof(struct rusage))), 0);
    ck_assert_int_ge(MAKE(SYS_times, some(32)), 0);
    struct rlimit *lim = some(16);
    ck_assert_int_eq(MAKE(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, lim), 0);
    ck_assert_int_eq(MAKE(SYS_prlimit64, 0, RLIMIT_NOFILE, lim, some(16)), 0);
    ck_assert_int_gt(MAKE(SYS_sched_getaffinity, 0, 128, some(128)), 0);
    ck_assert_int_eq(MAKE(SYS_sched_getattr, 0, some(56), 56, 0), 0);
    char *name = text("a name for test");
    ck_assert_int_eq(MAKE(SYS_prctl, PR_SET_NAME, name), 0);
    memset(name, 0, 16);
    ck_assert_int_eq(MAKE(SYS_prctl, PR_GET_NAME, name), 0);
    ck_assert_str_eq(name, "a name for test");
    ck_assert_int_eq(MAKE(SYS_getrandom, some(5000), 5000, 0), 5000);
    sigset_t *set = some_of(&(uint64_t){1 << (SIGUSR1 - 1)}, 8), *was = some(8);
    ck_assert_int_eq(MAKE(SYS_rt_sigprocmask, SIG_BLOCK, set, was, 8), 0);
    raise(SIGUSR1);
    siginfo_t *info = some(sizeof *info);
    ck_assert_int_eq(MAKE(SYS_rt_sigpending, was, 8), 0);
    expect_fault = 0; /* the signal is gone by then */
    ck_assert_int_eq(MAKE(SYS_rt_sigtimedwait, set, info, ts, 8), SIGUSR1);
    expect_fault = 1;
    ck_assert_int_eq(MAKE(SYS_rt_sigaction, SIGUSR1, 0, some(32), 8), 0);
    uint32_t *word = some_of(&(uint32_t){5}, 4);
    ck_assert_int_eq(MAKE(SYS_futex, word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 5, ts), -ETIMEDOUT);
    uint64_t wv[3] = {5, (uint64_t)word, 2};
    struct timespec past = {0, 1};
    long ret = MAKE(SYS_futex_waitv, some_of(wv, sizeof wv), 1, 0, some_of(&past, sizeof past), CLOCK_MONOTONIC);
    ck_assert_int_eq(ret, -ETIMEDOUT);
    ck_assert_int_eq(MAKE(SYS_getcpu, some(4), some(4)), 0);
    ck_assert_int_eq(MAKE(SYS_mincore, far, 100 * PAGE, some(100)), 0);
    char *from = text("from here"), *to = some(10);
    struct iovec local = {to, 10}, remote = {from, 10};
    ck_assert_int_eq(MAKE(SYS_process_vm_readv, getpid(), some_of(&local, 16), 1, some_of(&remote, 16), 1, 0), 10);
    ck_assert_str_eq(to, "from here");
}
END_TEST

START_TEST(real_children)
{
    start();
    char *argv[] = {text("sh"), text("-c"), text("test \"$there\" = yes && exit 7"), NULL}, *env[] = {text("there=yes"), NULL};
    char **a = some_of(argv, sizeof argv), **e = some_of(env, sizeof env), *path = text("/bin/sh");
    pid_t pid = fork();
    if (pid == 0) {
        MAKE(SYS_execve, path, a, e);
        _exit(1);
    }
    int *status = some(4);
    expect_fault = 0; /* it would be waited for all the same */
    ck_assert_int_eq(MAKE(SYS_wait4, pid, status, 0, some(144)), pid);
    ck_assert_int_eq(WEXITSTATUS(*status), 7);
    struct clone_args ca = {.flags = CLONE_PARENT_SETTID, .exit_signal = SIGCHLD}, *c = some(sizeof ca);
    int *tid = some(4);
    ca.parent_tid = (uint64_t)tid;
    memcpy(c, &ca, sizeof ca);
    long child = MAKE(SYS_clone3, c, sizeof ca);
    if (child == 0)
        _exit(3);
    ck_assert_int_gt(child, 0);
    ck_assert_int_eq(*tid, child);
    siginfo_t *info = some(sizeof *info);
    ck_assert_int_eq(MAKE(SYS_waitid, P_PID, child, info, WEXITED, some(144)), 0);
    ck_assert_int_eq(info->si_status, 3);
}
END_TEST

START_TEST(declined)
{
    start();
    expect_fault = 0;
    ck_assert_int_eq(MAKE(SYS_io_uring_setup, 8, some(120)), -ENOSYS);
}
END_TEST

START_TEST(nothing_captured_nothing_done)
{
    start();
    char near[100];
    struct eg_gate_frame f = {0, SYS_read, {0, (long)near, sizeof near}};
    long ret;
    ck_assert_int_eq(eg_gate_pin(&f, &ret), 0);
    ck_assert_uint_eq(eg_pin_owners(), 0);
    struct iovec iov = {near, sizeof near};
    f = (struct eg_gate_frame){0, SYS_readv, {0, (long)&iov, 1}};
    ck_assert_int_eq(eg_gate_pin(&f, &ret), 0);
    f = (struct eg_gate_frame){0, SYS_open, {(long)"/etc/passwd"}};
    ck_assert_int_eq(eg_gate_pin(&f, &ret), 0);
    ck_assert_uint_eq(eg_pin_owners(), 0);
    /* The same again from the same place: nothing new. */
    f = (struct eg_gate_frame){0, SYS_read, {0, (long)some(100), 100}};
    away();
    brought = 0;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(eg_gate_pin(&f, &ret), 0);
    ck_assert_uint_eq(brought, 2);
    ck_assert_uint_eq(eg_pin_owners(), 1);
    home();
}
END_TEST

/* --- large ones --------------------------------------------------------------------------------------------------------------- */

#define LARGE (20ul << 20)

static uint8_t pattern(uint64_t i)
{
    return (uint8_t)(i * 7 + (i >> 12));
}

static int matches(const uint8_t *p, uint64_t n, uint64_t from)
{
    uint64_t bad = 0;
    for (uint64_t i = 0; i < n; i++)
        bad += p[i] != pattern(from + i);
    return !bad;
}

static uint64_t pinned_pages(void)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < PAGES; i++)
        n += (uint64_t)eg_pin_has((uint64_t)far / PAGE + i);
    return n;
}

START_TEST(large_files_in_pieces)
{
    start();
    expect_fault = 0;
    uint8_t *buf = far + 123;
    int fd = memfd_create("large", 0);
    for (uint64_t i = 0; i < LARGE; i++)
        buf[i] = pattern(i);
    ck_assert_int_eq(MAKE(SYS_write, fd, buf, LARGE), LARGE);
    ck_assert_uint_le(pinned_pages(), 8 * 1024 / 8 + 2);
    memset(buf, 0, LARGE);
    ck_assert_int_eq(MAKE(SYS_pread64, fd, buf, LARGE, 1000), LARGE - 1000); /* ends short: the file does */
    ck_assert(matches(buf, LARGE - 1000, 1000));
    lseek(fd, 0, SEEK_SET);
    memset(buf, 0, LARGE);
    struct iovec iov[40], *v;
    for (uint64_t i = 0; i < 40; i++)
        iov[i] = (struct iovec){buf + i * (LARGE / 40), LARGE / 40};
    used = 6000;
    v = some_of(iov, sizeof iov);
    ck_assert_int_eq(MAKE(SYS_readv, fd, v, 40), LARGE);
    ck_assert_uint_le(pinned_pages(), 8 * 1024 / 8 + 42);
    ck_assert(matches(buf, LARGE, 0));
    ck_assert_int_eq(MAKE(SYS_pwritev, fd, v, 40, 4096, 0), LARGE);
    memset(buf, 0, LARGE);
    ck_assert_int_eq(MAKE(SYS_preadv2, fd, v, 40, 4096, 0, 0), LARGE);
    ck_assert(matches(buf, LARGE, 0));
    ck_assert_int_eq(MAKE(SYS_read, -1, buf, LARGE), -EBADF);
    ck_assert_int_eq(MAKE(SYS_getrandom, buf, LARGE, 0), LARGE);
    ck_assert_int_eq(MAKE(SYS_mlock, buf, LARGE), 0);
}
END_TEST

/* At a file's position, while others may do the same: the whole is pinned, and no lock stays. */
START_TEST(large_files_as_a_whole)
{
    start();
    expect_fault = 0;
    const long half = (long)eg_rt.pool->budget_bytes / 2, limit = (long)eg_gate_pin_limit();
    uint8_t *buf = far + 123;
    int fd = memfd_create("large", 0);
    ck_assert_int_gt(half, limit + (long)PAGE);
    ck_assert_int_eq(MAKE(SYS_write, fd, buf, half), half);
    ck_assert_uint_le(pinned_pages(), (uint64_t)limit / PAGE + 2);
    fcntl(fd, F_SETFL, O_APPEND);
    ck_assert_int_eq(MAKE(SYS_write, fd, buf, half), half);
    ck_assert_uint_ge(pinned_pages(), (uint64_t)half / PAGE);
    fcntl(fd, F_SETFL, 0);
    eg_rt.pool->sole = 0;
    lseek(fd, 0, SEEK_SET);
    ck_assert_int_eq(MAKE(SYS_read, fd, buf, half), half);
    ck_assert_uint_ge(pinned_pages(), (uint64_t)half / PAGE);
    ck_assert_int_eq(MAKE(SYS_pread64, fd, buf, half, 0), half);
    ck_assert_uint_le(pinned_pages(), (uint64_t)limit / PAGE + 2);
    ck_assert_int_eq(MAKE(SYS_write, fd, buf, half + (long)PAGE), half + (long)PAGE); /* too much for that */
    ck_assert_uint_le(pinned_pages(), (uint64_t)limit / PAGE + 2);
    struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", eg_rt.pool_fd);
    ck_assert_int_eq(fcntl(open(path, O_RDWR), F_OFD_GETLK, &f), 0);
    ck_assert_int_eq(f.l_type, F_UNLCK);
}
END_TEST

static void *feed(void *arg)
{
    int fd = *(int *)arg;
    uint8_t *p = malloc(LARGE);
    uint64_t done = 0;
    for (uint64_t i = 0; i < LARGE; i++)
        p[i] = pattern(i);
    while (done < LARGE) {
        ssize_t n = write(fd, p + done, LARGE - done);
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    free(p);
    return NULL;
}

static void *drain(void *arg)
{
    int fd = *(int *)arg;
    static uint8_t p[1 << 16];
    uint64_t done = 0, bad = 0;
    while (done < LARGE) {
        ssize_t n = read(fd, p, sizeof p);
        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            bad += p[i] != pattern(done + (uint64_t)i);
        done += (uint64_t)n;
    }
    return (void *)(done == LARGE ? bad : ~0ul);
}

START_TEST(large_streams)
{
    start();
    expect_fault = 0;
    int pair[2];
    void *bad;
    pthread_t t;
    uint8_t *buf = far + 123;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    pthread_create(&t, NULL, feed, &pair[0]);
    ck_assert_int_eq(MAKE(SYS_recvfrom, pair[1], buf, LARGE, MSG_WAITALL, 0, 0), LARGE);
    pthread_join(t, NULL);
    ck_assert(matches(buf, LARGE, 0));
    /* What is there comes at once, however long the buffer. */
    ck_assert_int_eq(write(pair[0], "hello", 5), 5);
    ck_assert_int_eq(MAKE(SYS_read, pair[1], buf, LARGE), 5);
    ck_assert_uint_le(pinned_pages(), 66);
    /* And all that is there does: a short read means that no more is. */
    const int there = 1 << 20; /* as much as a pipe may have */
    uint8_t *data = malloc((size_t)there);
    for (int i = 0; i < there; i++)
        data[i] = pattern((uint64_t)i);
    struct iovec v[] = {{buf, 300000}, {buf + 300000, LARGE - 300000}};
    struct iovec many[1000];
    for (int i = 0; i < 1000; i++)
        many[i] = (struct iovec){buf + i * 4000, 4000};
    for (int how = 0; how < 5; how++) {
        int p[2];
        if (how == 3) {
            ck_assert_int_eq(pipe(p), 0);
            ck_assert_int_ge(fcntl(p[1], F_SETPIPE_SZ, there), there);
        } else {
            ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
            ck_assert_int_eq(setsockopt(p[1], SOL_SOCKET, SO_SNDBUFFORCE, &(int){4 * there}, sizeof(int)), 0);
        }
        ck_assert_int_eq(write(p[1], data, (size_t)there), there);
        memset(buf, 0, LARGE);
        ck_assert_int_eq(how == 0 ? MAKE(SYS_recvfrom, p[0], buf, LARGE, 0, 0, 0) : how == 1 ? MAKE(SYS_readv, p[0], v, 2) : how == 4 ? MAKE(SYS_readv, p[0], many, 1000) : MAKE(SYS_read, p[0], buf, LARGE), there);
        ck_assert(matches(buf, (uint64_t)there, 0));
        if (how == 2) { /* looked at, and still there */
            ck_assert_int_eq(write(p[1], data, (size_t)there), there);
            ck_assert_int_eq(MAKE(SYS_recvfrom, p[0], buf, LARGE, MSG_PEEK, 0, 0), there);
            ck_assert_int_eq(MAKE(SYS_recvfrom, p[0], buf, 500000, 0, 0, 0), 500000);
        }
        close(p[0]);
        close(p[1]);
    }
    free(data);
    for (uint64_t i = 0; i < LARGE; i++)
        buf[i] = pattern(i);
    pthread_create(&t, NULL, drain, &pair[1]);
    ck_assert_int_eq(MAKE(SYS_write, pair[0], buf, LARGE), LARGE);
    pthread_join(t, &bad);
    ck_assert_ptr_eq(bad, NULL);
    /* A full one that does not wait: the sum so far. */
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    long n = MAKE(SYS_write, pair[0], buf, LARGE);
    ck_assert_int_gt(n, 0);
    ck_assert_int_lt(n, LARGE);
    ck_assert_int_eq(MAKE(SYS_write, pair[0], buf, LARGE), -EAGAIN);
    int dgram[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram), 0);
    ck_assert_int_eq(write(dgram[0], "hello", 5), 5);
    ck_assert_int_eq(MAKE(SYS_read, dgram[1], buf, LARGE), 5);
}
END_TEST

/* --- calls that began before ----------------------------------------------------------------------------------------------------- */

static struct {
    int fd;
    char *buf;
    long ret, later;
    char *buf2;
} waiter;

static void *wait_for_input(void *arg)
{
    (void)arg;
    waiter.ret = eg_sys3(SYS_read, waiter.fd, waiter.buf, 100);
    struct eg_gate_frame f = {0, SYS_read, {waiter.fd, (long)waiter.buf2, 100}};
    eg_gate_pin(&f, &waiter.later);
    return NULL;
}

START_TEST(calls_that_began_before)
{
    int p[2];
    pthread_t t;
    start();
    ck_assert_int_eq(pipe(p), 0);
    waiter.fd = p[0];
    waiter.buf = some(100);
    waiter.buf2 = some(100);
    pthread_create(&t, NULL, wait_for_input, NULL);
    for (int i = 0; i < 1000 && !eg_pin_any((uint64_t)waiter.buf, (uint64_t)waiter.buf + 100); i++) {
        usleep(1000);
        eg_gate_pin_blocked();
    }
    ck_assert(eg_pin_any((uint64_t)waiter.buf, (uint64_t)waiter.buf + 1));
    away();
    ck_assert_int_eq(eg_sys3(SYS_write, p[1], "hello", 6), 6);
    pthread_join(t, NULL);
    home();
    ck_assert_int_eq(waiter.ret, 6);
    ck_assert_str_eq(waiter.buf, "hello");
    /* Its next call ended that. */
    ck_assert(eg_pin_any((uint64_t)waiter.buf2, (uint64_t)waiter.buf2 + 1));
    ck_assert(!eg_pin_any((uint64_t)waiter.buf, (uint64_t)waiter.buf + 1));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gate_buffers");
    TCase *tc = unit_case(suite, "table", 30);
    tcase_add_test(tc, the_table_is_sorted_and_complete);
    tc = unit_case(suite, "walk", 30);
    tcase_add_test(tc, plain_buffers);
    tcase_add_test(tc, one_buffer);
    tcase_add_test(tc, bad_lengths);
    tcase_add_test(tc, unknown_calls_take_a_page_of_everything);
    tcase_add_test(tc, masks);
    tcase_add_test(tc, strings_up_to_their_end);
    tcase_add_test(tc, nested);
    tcase_add_test(tc, nested_in_memory_that_is_not_there);
    tcase_add_test(tc, bundles);
    tc = unit_case(suite, "calls", 60);
    tcase_add_test(tc, real_files);
    tcase_add_test(tc, real_sockets_and_pipes);
    tcase_add_test(tc, real_time_and_process);
    tcase_add_test(tc, real_children);
    tcase_add_test(tc, declined);
    tcase_add_test(tc, nothing_captured_nothing_done);
    tcase_add_test(tc, large_files_in_pieces);
    tcase_add_test(tc, large_files_as_a_whole);
    tcase_add_test(tc, large_streams);
    tcase_add_test(tc, calls_that_began_before);
    return unit_run(suite);
}
