/* What the kernel accesses in a system call: the table against the kernel's list of calls, and the walk against what is known of single calls. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_inline.h"
#include "tests/unit/gate_far.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

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
    far_start();
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
    char *argv[] = {some_text("one"), some_text("two"), (char *)16, NULL}, **v = some_of(argv, sizeof argv);
    WALK(SYS_execve, some_text("path"), v, v + 2);
    READS(v, sizeof argv);
    READS(argv[0], 4);
    READS(argv[1], 4);
}
END_TEST

START_TEST(nested)
{
    far_start();
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
    far_start();
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
    far_start();
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
    char *name = some_text("name");
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
    return unit_run(suite);
}
