/* Real calls on memory of which nothing is there but what was pinned: small ones, large ones in pieces, and those that began before. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_inline.h"
#include "tests/unit/gate_far.h"

#include <errno.h>
#include <fcntl.h>
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
#include <unistd.h>

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
    far_away();
    if (expect_fault)
        ck_assert_msg(call_in_place(nr, f.arg) == -EFAULT, "call %ld: did not fail without pins", nr);
    if (!eg_gate_pin(&f, &ret)) {
        far_away();
        ret = call_in_place(nr, f.arg);
    }
    far_home();
    ck_assert_uint_eq(unpinned, 0);
    return ret;
}

#define MAKE_(a, b, c, d, e, f, g, ...) make((long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f), (long)(g))
#define MAKE(...) MAKE_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

START_TEST(real_files)
{
    char dir[] = "/tmp/gate_buffers.XXXXXX", path[64], path2[64];
    far_start();
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(path2, sizeof path2, "%s/other", dir);
    char *p = some_text(path), *q = some_text(path2), *buf = some(10000);
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
    long dir_fd = MAKE(SYS_openat2, AT_FDCWD, some_text(dir), h, sizeof how);
    ck_assert_int_ge(dir_fd, 0);
    ck_assert_int_gt(MAKE(SYS_getdents64, dir_fd, buf, 10000), 0);
    ck_assert_int_eq(MAKE(SYS_unlink, p), 0);
    ck_assert_int_eq(MAKE(SYS_unlinkat, AT_FDCWD, q, 0), 0);
    ck_assert_int_eq(MAKE(SYS_rmdir, some_text(dir)), 0);
    ck_assert_int_gt(MAKE(SYS_getcwd, buf, 4096), 0);
    long out = MAKE(SYS_memfd_create, some_text("some name"), 0);
    ck_assert_int_ge(out, 0);
    off_t *o1 = some_of(&(off_t){0}, 8), *o2 = some_of(&(off_t){20000}, 8);
    ck_assert_int_eq(MAKE(SYS_sendfile, out, fd, o1, 100), 100);
    *o1 = 0;
    ck_assert_int_eq(MAKE(SYS_copy_file_range, fd, o1, fd, o2, 100, 0), 100);
}
END_TEST

START_TEST(real_sockets_and_pipes)
{
    far_start();
    int *pair = some(8);
    ck_assert_int_eq(MAKE(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, pair), 0);
    int a = pair[0], b = pair[1];
    char *out = some_text("hello, far memory"), *in = some(100);
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
    far_start();
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
    char *name = some_text("a name for test");
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
    char *from = some_text("from here"), *to = some(10);
    struct iovec local = {to, 10}, remote = {from, 10};
    ck_assert_int_eq(MAKE(SYS_process_vm_readv, getpid(), some_of(&local, 16), 1, some_of(&remote, 16), 1, 0), 10);
    ck_assert_str_eq(to, "from here");
}
END_TEST

START_TEST(real_children)
{
    far_start();
    char *argv[] = {some_text("sh"), some_text("-c"), some_text("test \"$there\" = yes && exit 7"), NULL}, *env[] = {some_text("there=yes"), NULL};
    char **a = some_of(argv, sizeof argv), **e = some_of(env, sizeof env), *path = some_text("/bin/sh");
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
    far_start();
    expect_fault = 0;
    ck_assert_int_eq(MAKE(SYS_io_uring_setup, 8, some(120)), -ENOSYS);
}
END_TEST

START_TEST(nothing_captured_nothing_done)
{
    far_start();
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
    far_away();
    brought = 0;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(eg_gate_pin(&f, &ret), 0);
    ck_assert_uint_eq(brought, 2);
    ck_assert_uint_eq(eg_pin_owners(), 1);
    far_home();
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
    far_start();
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
    far_start();
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
    far_start();
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
    far_start();
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
    far_away();
    ck_assert_int_eq(eg_sys3(SYS_write, p[1], "hello", 6), 6);
    pthread_join(t, NULL);
    far_home();
    ck_assert_int_eq(waiter.ret, 6);
    ck_assert_str_eq(waiter.buf, "hello");
    /* Its next call ended that. */
    ck_assert(eg_pin_any((uint64_t)waiter.buf2, (uint64_t)waiter.buf2 + 1));
    ck_assert(!eg_pin_any((uint64_t)waiter.buf, (uint64_t)waiter.buf + 1));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gate_pin");
    TCase *tc = unit_case(suite, "calls", 60);
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
