/* torture_calls.c - what system calls read and write of a thread's memory: at pages' ends, across them, in memory that cannot be written or is not there, and
 * beside what other threads write meanwhile. See torture.h for the command line. */
#include "torture.h"

#include <arpa/inet.h>
#include <asm/ioctls.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>

/* Two pages that can be used, and a hole after them. Of one page: the pages of threads lie side by side, and what was mapped for a moment may go out with a
 * neighbour's. Of 61: nobody maps anything right after the two, as that goes to the upper end of a hole. */
enum { HOLE_SMALL = 1, HOLE_LARGE = 61 };

static char *pages_make(size_t beyond)
{
    char *at = mmap(NULL, (2 + beyond) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
    SYS(munmap(at + 2 * PAGE, beyond * PAGE));
    memset(at, 0x5a, 2 * PAGE);
    return at;
}

static void rest_is_kept(const char *pages, const char *from, size_t len)
{
    for (const char *at = pages; at < pages + 2 * PAGE; at++)
        CHECK((at >= from && at < from + len) || *at == 0x5a, "byte %td beside what was written has changed", at - pages);
}

static size_t hole;

/* Each result at a page's end, across two, and where it has no room. */
static void places_body(struct member *me)
{
    struct stat st;
    struct utsname name;
    struct rlimit limit;
    char cwd[PATH_MAX];
    SYS(stat("/proc/self/exe", &st));
    SYS(uname(&name));
    SYS(getrlimit(RLIMIT_NOFILE, &limit));
    const size_t cwd_len = (size_t)SYS(syscall(SYS_getcwd, cwd, sizeof cwd));
    const int fd = SYS(open("/proc/self/exe", O_RDONLY));
    for (int round = 0; round < rounds(40); round++) {
        char *pages = pages_make(hole), *end = pages + 2 * PAGE;
        const size_t across = rng_below(&me->rng, 100) + 1;
        struct stat *a = (void *)(pages + PAGE - across);
        SYS(fstat(fd, a));
        CHECK(a->st_ino == st.st_ino && a->st_size == st.st_size, "fstat says something else across pages");
        rest_is_kept(pages, (char *)a, sizeof *a);
        memset(pages, 0x5a, 2 * PAGE);
        a = (void *)(end - sizeof *a);
        SYS(stat("/proc/self/exe", a));
        CHECK(a->st_ino == st.st_ino, "stat says something else at a page's end");
        rest_is_kept(pages, (char *)a, sizeof *a);
        if (hole == HOLE_LARGE) {
            FAILS(fstat(fd, (void *)(end - sizeof *a + across)), EFAULT);
            FAILS(stat("/proc/self/exe", (void *)end), EFAULT);
            FAILS(stat(end, &st), EFAULT);
        }
        FAILS(syscall(SYS_stat, NULL, &st), EFAULT);
        memset(pages, 0x5a, 2 * PAGE);
        struct utsname *u = (void *)(pages + PAGE - across);
        SYS(uname(u));
        CHECK(!memcmp(u, &name, sizeof name), "uname says something else");
        memset(pages, 0x5a, 2 * PAGE);
        EQUAL(syscall(SYS_getcwd, end - cwd_len, cwd_len), cwd_len);
        CHECK(!memcmp(end - cwd_len, cwd, cwd_len), "getcwd says something else");
        rest_is_kept(pages, end - cwd_len, cwd_len);
        FAILS(syscall(SYS_getcwd, end - cwd_len, cwd_len - 1), ERANGE);
        memset(pages, 0x5a, 2 * PAGE);
        EQUAL(readlink("/proc/self/exe", pages + PAGE - 2, 4), 4);
        rest_is_kept(pages, pages + PAGE - 2, 4);
        FAILS(readlink("/proc/self/exe", pages, 0), EINVAL);
        SYS(prlimit(0, RLIMIT_NOFILE, NULL, (void *)(end - sizeof limit)));
        CHECK(!memcmp(end - sizeof limit, &limit, sizeof limit), "prlimit says something else");
        EQUAL(getrandom(pages + PAGE - across, 2 * across, 0), 2 * across);
        SYS(mprotect(pages, PAGE, PROT_READ));
        FAILS(fstat(fd, (void *)pages), EFAULT);
        FAILS(fstat(fd, (void *)(pages + PAGE - across)), EFAULT);
        SYS(munmap(pages, 2 * PAGE));
    }
    SYS(close(fd));
}

static void places(void)
{
    hole = HOLE_LARGE;
    crew_run(threads(4), places_body, NULL);
}

static void places_side_by_side(void)
{
    hole = HOLE_SMALL;
    crew_run(threads(4), places_body, NULL);
}

static void texts_body(struct member *me)
{
    char *pages = pages_make(HOLE_LARGE), *end = pages + 2 * PAGE;
    for (int round = 0; round < rounds(40); round++) {
        const size_t len = rng_below(&me->rng, 60) + 2;
        char *path = end - len - 1;
        memset(path, '/', len);
        path[len] = 0;
        EQUAL(access(path, R_OK), 0); /* the text ends where the memory does */
        path[len] = 'x';
        FAILS(access(path, R_OK), EFAULT); /* it does not end */
        memset(pages, '/', 2 * PAGE);
        pages[PATH_MAX] = 0;
        FAILS(access(pages, R_OK), ENAMETOOLONG);
        pages[PATH_MAX - 1] = 0;
        EQUAL(access(pages, R_OK), 0);
        FAILS(access("", R_OK), ENOENT);
    }
    char folder[] = "/tmp/torture-calls-XXXXXX", name[PATH_MAX], other[PATH_MAX];
    NOT_NULL(mkdtemp(folder));
    for (int round = 0; round < rounds(20); round++) {
        snprintf(name, sizeof name, "%s/%d", folder, round);
        snprintf(other, sizeof other, "%s/other%d", folder, round);
        SYS(mkdir(name, 0700));
        SYS(rename(name, other));
        FAILS(access(name, F_OK), ENOENT);
        SYS(rmdir(other));
    }
    SYS(rmdir(folder));
    SYS(munmap(pages, 2 * PAGE));
}

static void texts(void)
{
    crew_run(threads(4), texts_body, NULL);
}

/* While one thread waits in poll, others change what it asks for: the kernel writes what it has seen, and nothing else. */
static struct pollfd asked[4];
static atomic_int polled, changed;

static void poll_fields_body(struct member *me)
{
    for (int round = 0; round < rounds(50); round++) {
        if (me->number == 0) {
            int ends[2];
            SYS(pipe(ends));
            for (size_t i = 0; i < COUNT_OF(asked); i++)
                asked[i] = (struct pollfd){i == 1 ? ends[0] : -1, POLLIN, 0x7f};
            SYS(write(ends[1], "x", 1));
            EQUAL(poll(asked, 0, 0), 0);
            EQUAL(poll(asked, COUNT_OF(asked), 1000), 1);
            for (size_t i = 0; i < COUNT_OF(asked); i++)
                EQUAL(asked[i].revents, i == 1 ? POLLIN : 0);
            asked[1].fd = -1;
            atomic_store(&polled, round + 1);
            EQUAL(poll(asked, COUNT_OF(asked), 20), 0);
            wait_until_at_least(&changed, round + 1);
            EQUAL(asked[2].events, 0x100 + round);
            SYS(close(ends[0]));
            SYS(close(ends[1]));
        } else {
            wait_until_at_least(&polled, round + 1);
            sleep_ms(5);
            asked[2].events = (short)(0x100 + round);
            atomic_store(&changed, round + 1);
        }
    }
}

static void poll_fields(void)
{
    atomic_store(&polled, 0);
    atomic_store(&changed, 0);
    crew_run(2, poll_fields_body, NULL);
}

static void on_alarm(int number)
{
    (void)number;
}

/* Calls that end early say what was left. */
static void interrupted_body(struct member *me)
{
    struct sigaction act = {.sa_handler = on_alarm};
    (void)me;
    SYS(sigaction(SIGUSR2, &act, NULL));
    for (int round = 0; round < rounds(10); round++) {
        timer_t timer;
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
        event._sigev_un._tid = gettid();
        struct itimerspec soon = {.it_value = {0, 30000000}};
        struct timespec rest = {77, 77}, second = {5, 0};
        struct timeval left = {5, 0};
        SYS(timer_create(CLOCK_MONOTONIC, &event, &timer));
        SYS(timer_settime(timer, 0, &soon, NULL));
        EQUAL(nanosleep(&second, &rest), -1);
        EQUAL(errno, EINTR);
        CHECK(rest.tv_sec < 5, "%ld s are left of 5", (long)rest.tv_sec);
        rest = (struct timespec){77, 77};
        struct timespec short_time = {0, 1000000};
        SYS(nanosleep(&short_time, &rest));
        CHECK(rest.tv_sec == 77 && rest.tv_nsec == 77, "a sleep that was not interrupted has written what was left");
        SYS(timer_settime(timer, 0, &soon, NULL));
        FAILS(syscall(SYS_select, 0, NULL, NULL, NULL, &left), EINTR);
        CHECK(left.tv_sec < 5, "select: %ld s are left of 5", (long)left.tv_sec);
        struct timespec until = after_ms(CLOCK_MONOTONIC, 2000);
        SYS(timer_settime(timer, 0, &soon, NULL));
        EQUAL(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, &rest), EINTR);
        CHECK(rest.tv_sec == 77 && rest.tv_nsec == 77, "a sleep until a time has written what was left");
        SYS(timer_settime(timer, 0, &soon, NULL));
        FAILS(poll(NULL, 0, 5000), EINTR);
        struct itimerspec is;
        SYS(timer_gettime(timer, &is));
        CHECK(!is.it_value.tv_sec && !is.it_value.tv_nsec, "the timer runs");
        SYS(timer_delete(timer));
    }
}

static void interrupted(void)
{
    crew_run(threads(3), interrupted_body, NULL);
}

/* Sets, lists and addresses. */
static void waits_body(struct member *me)
{
    for (int round = 0; round < rounds(30); round++) {
        int ends[2], e = SYS(epoll_create1(0));
        SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
        fd_set in, out;
        FD_ZERO(&in);
        FD_ZERO(&out);
        FD_SET(ends[0], &in);
        FD_SET(ends[1], &out);
        struct timeval none = {0, 0};
        uint64_t pending[2] = {~0ull, ~0ull};
        EQUAL(syscall(SYS_rt_sigpending, pending, 4), 0);
        CHECK(!(uint32_t)pending[0] && pending[0] >> 32 == 0xffffffff && !~pending[1], "rt_sigpending writes more than it was given");
        FAILS(syscall(SYS_rt_sigpending, pending, 9), EINVAL);
        EQUAL(select((ends[0] > ends[1] ? ends[0] : ends[1]) + 1, &in, &out, NULL, &none), 1);
        CHECK(!FD_ISSET(ends[0], &in) && FD_ISSET(ends[1], &out), "select says something else");
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = me->rng}, got[64];
        memset(got, 0x5a, sizeof got);
        SYS(epoll_ctl(e, EPOLL_CTL_ADD, ends[0], &event));
        EQUAL(epoll_wait(e, got, COUNT_OF(got), 0), 0);
        FAILS(syscall(SYS_epoll_wait, e, got, 0, 0), EINVAL);
        FAILS(syscall(SYS_epoll_wait, e, got, -1, 0), EINVAL);
        SYS(write(ends[1], "x", 1));
        EQUAL(epoll_wait(e, got, COUNT_OF(got), 1000), 1);
        CHECK(got[0].data.u64 == me->rng && got[0].events == EPOLLIN, "epoll says something else");
        CHECK(((unsigned char *)&got[1])[0] == 0x5a, "epoll_wait has written more than it said");
        const int size = 4096, fd = SYS(socket(AF_INET, SOCK_STREAM, 0));
        SYS(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
        FAILS(syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDBUF, NULL, sizeof size), EFAULT);
        FAILS(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, 1), EINVAL);
        SYS(close(fd));
        SYS(close(ends[0]));
        SYS(close(ends[1]));
        SYS(close(e));
        rng_next(&me->rng);
    }
}

static void waits(void)
{
    crew_run(threads(4), waits_body, NULL);
}

/* Through a pipe by segments of all lengths, and into a file and back. */
static void segments_body(struct member *me)
{
    enum { MOST = 100, BYTES = 20000 };
    char *from = NOT_NULL(malloc(BYTES)), *to = NOT_NULL(malloc(BYTES)), name[] = "/tmp/torture-calls-XXXXXX";
    const int file = SYS(mkstemp(name));
    int ends[2];
    SYS(unlink(name));
    SYS(pipe(ends));
    for (int round = 0; round < rounds(60); round++) {
        struct iovec out[MOST], in[MOST];
        const int n = (int)rng_below(&me->rng, round % 4 ? 10 : MOST) + 1;
        size_t total = 0;
        memset(to, 0, BYTES);
        for (int i = 0; i < n; i++) {
            const size_t len = rng_below(&me->rng, 4) ? rng_below(&me->rng, 200) : 0;
            out[i] = (struct iovec){from + total, len};
            in[n - 1 - i] = (struct iovec){NULL, len};
            total += len;
        }
        for (size_t i = 0, at = 0; i < (size_t)n; at += in[i++].iov_len)
            in[i].iov_base = to + at;
        fill_bytes(from, BYTES, me->rng);
        EQUAL(writev(ends[1], out, n), total);
        EQUAL(write(ends[1], from + total, 7), 7); /* less comes than there is room for */
        struct iovec more[MOST + 1];
        memcpy(more, in, (size_t)n * sizeof *in);
        more[n] = (struct iovec){to + total, 1000};
        EQUAL(readv(ends[0], more, n + 1), total + 7);
        CHECK_BYTES(to, total + 7, me->rng);
        CHECK_ZEROS(to + total + 7, BYTES - total - 7);
        EQUAL(pwritev(file, out, n, 1000), total);
        memset(to, 0, BYTES);
        EQUAL(preadv(file, in, n, 1000), total);
        CHECK_BYTES(to, total, me->rng);
    }
    char *pages = pages_make(HOLE_LARGE), *end = pages + 2 * PAGE;
    struct iovec bad[] = {{from, 5}, {end, 5}}, *at_end = (struct iovec *)(void *)end - 1;
    FAILS(writev(file, bad + 1, 1), EFAULT);
    FAILS(writev(file, (void *)end, 1), EFAULT);
    FAILS(syscall(SYS_writev, file, bad, -1), EINVAL);
    EQUAL(writev(file, bad, 0), 0);
    *at_end = (struct iovec){from, 5};
    EQUAL(pwritev(file, at_end, 1, 0), 5);
    at_end->iov_base = end - 100; /* the array itself is written over */
    at_end->iov_len = 100;
    EQUAL(preadv(file, at_end, 1, 0), 100);
    SYS(munmap(pages, 2 * PAGE));
    SYS(close(file));
    SYS(close(ends[0]));
    SYS(close(ends[1]));
    free(from);
    free(to);
}

static void segments(void)
{
    crew_run(threads(4), segments_body, NULL);
}

/* Datagrams with addresses, by msghdr and without. */
static void messages_body(struct member *me)
{
    struct sockaddr_in at[2], from;
    int fd[2], type = 0;
    socklen_t len = sizeof type;
    for (int i = 0; i < 2; i++) {
        at[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd[i] = SYS(socket(AF_INET, SOCK_DGRAM, 0));
        SYS(bind(fd[i], (struct sockaddr *)&at[i], sizeof at[i]));
        len = sizeof at[i];
        SYS(getsockname(fd[i], (struct sockaddr *)&at[i], &len));
        EQUAL(len, sizeof at[i]);
        CHECK(at[i].sin_port, "getsockname does not say the port");
    }
    len = sizeof type;
    SYS(getsockopt(fd[0], SOL_SOCKET, SO_TYPE, &type, &len));
    EQUAL(type, SOCK_DGRAM);
    char *text = NOT_NULL(malloc(3000)), *got = NOT_NULL(malloc(3000));
    for (int round = 0; round < rounds(40); round++) {
        const size_t n = rng_below(&me->rng, 1500) + 1, cut = rng_below(&me->rng, (unsigned)n);
        fill_bytes(text, n, me->rng);
        struct iovec out[] = {{text, cut}, {text + cut, n - cut}}, in[] = {{got, 700}, {got + 700, 2300}};
        struct msghdr m = {.msg_name = &at[1], .msg_namelen = sizeof at[1], .msg_iov = out, .msg_iovlen = 2};
        memset(got, 0, 3000);
        EQUAL(sendmsg(fd[0], &m, 0), n);
        memset(&from, 0, sizeof from);
        m = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = in, .msg_iovlen = 2, .msg_flags = 0x5555, .msg_control = NULL, .msg_controllen = 0};
        EQUAL(recvmsg(fd[1], &m, 0), n);
        CHECK(m.msg_name == &from && m.msg_iov == in && m.msg_iovlen == 2, "recvmsg has changed what it should not");
        CHECK(m.msg_namelen == sizeof from && from.sin_port == at[0].sin_port && !m.msg_flags, "recvmsg says something else");
        CHECK_BYTES(got, n, me->rng);
        CHECK_ZEROS(got + n, 3000 - n);
        /* Less room than came, for the name too. */
        EQUAL(sendto(fd[1], text, n, 0, (struct sockaddr *)&at[0], sizeof at[0]), n);
        memset(got, 0, 3000);
        memset(&from, 0, sizeof from);
        in[0].iov_len = cut;
        m = (struct msghdr){.msg_name = &from, .msg_namelen = 4, .msg_iov = in, .msg_iovlen = 1};
        EQUAL(recvmsg(fd[0], &m, 0), cut);
        CHECK(m.msg_namelen == sizeof from && from.sin_port == at[1].sin_port && !from.sin_addr.s_addr, "recvmsg writes more of the name than fits");
        EQUAL(m.msg_flags, MSG_TRUNC);
        CHECK_ZEROS(got + cut, 3000 - cut);
        EQUAL(sendto(fd[1], text, n, 0, (struct sockaddr *)&at[0], sizeof at[0]), n);
        len = sizeof from;
        EQUAL(recvfrom(fd[0], got, 3000, MSG_PEEK, (struct sockaddr *)&from, &len), n);
        CHECK(len == sizeof from && from.sin_port == at[1].sin_port, "recvfrom says something else");
        EQUAL(recvfrom(fd[0], got, 10, MSG_TRUNC, NULL, NULL), n);
        m.msg_iov = NULL;
        m.msg_iovlen = 0;
        FAILS(recvmsg(fd[0], &m, MSG_DONTWAIT), EAGAIN);
        FAILS(syscall(SYS_recvmsg, fd[0], NULL, 0), EFAULT);
        m.msg_iovlen = 3;
        FAILS(sendmsg(fd[0], &m, 0), EFAULT);
    }
    const int server = SYS(socket(AF_INET, SOCK_STREAM, 0)), client = SYS(socket(AF_INET, SOCK_STREAM, 0));
    SYS(bind(server, (struct sockaddr *)&(struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, sizeof at[0]));
    SYS(listen(server, 1));
    len = sizeof at[0];
    SYS(getsockname(server, (struct sockaddr *)&at[0], &len));
    SYS(connect(client, (struct sockaddr *)&at[0], sizeof at[0]));
    len = sizeof at[1];
    SYS(getsockname(client, (struct sockaddr *)&at[1], &len));
    len = sizeof from;
    const int peer = SYS(accept(server, (struct sockaddr *)&from, &len));
    CHECK(len == sizeof from && from.sin_port == at[1].sin_port, "accept says something else");
    len = sizeof from;
    SYS(getpeername(peer, (struct sockaddr *)&from, &len));
    CHECK(from.sin_port == at[1].sin_port, "getpeername says something else");
    SYS(write(client, "12345", 5));
    SYS(recv(peer, got, 1, MSG_PEEK));
    SYS(ioctl(peer, FIONREAD, &type));
    EQUAL(type, 5);
    type = 1;
    SYS(ioctl(client, FIONBIO, &type));
    FAILS(read(client, got, 1), EAGAIN);
    FAILS(ioctl(client, TCGETS, got), ENOTTY);
    FAILS(syscall(SYS_getsockname, server, &from, NULL), EFAULT);
    for (int i = 0; i < 2; i++)
        SYS(close(fd[i]));
    SYS(close(server));
    SYS(close(client));
    SYS(close(peer));
    free(text);
    free(got);
}

static void messages(void)
{
    crew_run(threads(3), messages_body, NULL);
}

static const struct sub_test tests[] = {
    {"places", places, "results at pages' ends, across them, in memory that cannot be written"},
    {"places_side_by_side", places_side_by_side, "the same with the pages of threads side by side"},
    {"texts", texts, "paths that end with the memory, or do not end"},
    {"poll_fields", poll_fields, "poll writes what it has seen, beside what others write"},
    {"interrupted", interrupted, "what is left of a sleep"},
    {"waits", waits, "select, epoll, socket options"},
    {"segments", segments, "readv, writev and their like"},
    {"messages", messages, "messages, addresses, their lengths"},
};

TORTURE_MAIN(tests)
