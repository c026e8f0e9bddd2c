/* fault_floor.c - what no pager on this machine can beat: the bare steps of a fault, in microseconds per 4 KiB page.
 *   fault_floor MEASURE SECONDS
 *   uffd            a read fault of the thread's own that a SIGBUS handler answers with UFFDIO_COPY (UFFD_FEATURE_SIGBUS), random order,
 *                   from a page that is in no cache, as a memory server's would be
 *   tcp             request of 64 bytes, reply of 64 + 4096, over a loopback socket whose two ends spin, and UFFDIO_COPY of the page
 *   stream_tcp      a loopback socket's own streaming rate: large blocking writes to large blocking reads
 *   stream_memcpy   memcpy's own streaming rate, from and to memory that is in no cache
 * Pages are mapped with MADV_NOHUGEPAGE; taking them away again is not timed. Prints one number: the median of the passes that fit into
 * SECONDS, at least three. Exit status 77: userfaultfd is not to be had here. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

enum { PAGE = 4096, HEADER = 64, PAGE_BITS = 14, PAGES = 1 << PAGE_BITS, STREAM = 256 << 10, MAX_PASSES = 10000 };

static int uffd = -1, peer = -1;
static char *far, *local; /* PAGES pages each */

static void need(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fault_floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A permutation of the page numbers without an array that would compete for the caches. */
static uint32_t shuffled(uint32_t i, uint32_t salt)
{
    i = (i * 0x9e3779b1u + salt) & (PAGES - 1);
    i ^= i >> (PAGE_BITS / 2);
    i = (i * 0x85ebca6bu) & (PAGES - 1);
    return i ^ i >> (PAGE_BITS / 2);
}

static char *map(void)
{
    char *at = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED, "mmap");
    madvise(at, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE);
    return at;
}

static void map_both(void)
{
    far = map(), local = map();
    for (uint32_t i = 0; i < PAGES; i++)
        memset(far + (size_t)i * PAGE, (int)(i | 1), PAGE), local[(size_t)i * PAGE] = 1;
}

static int copy_in(char *to, const void *from)
{
    struct uffdio_copy copy = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = PAGE};
    return ioctl(uffd, UFFDIO_COPY, &copy);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    char *at = (char *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));
    if (at < local || at >= local + (size_t)PAGES * PAGE || copy_in(at, far + (at - local)))
        _exit(4);
}

static void open_uffd(void)
{
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) {
        fprintf(stderr, "fault_floor: userfaultfd: %s\n", strerror(errno));
        exit(77);
    }
    map_both();
    struct uffdio_register range = {.range = {(uintptr_t)local, (size_t)PAGES * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    need(!ioctl(uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    need(!sigaction(SIGBUS, &action, NULL), "sigaction");
}

static void spin_send(int fd, const char *from, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(fd, from + done, len - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            exit(1);
        done += n > 0 ? (size_t)n : 0;
    }
}

static void spin_receive(int fd, char *to, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = recv(fd, to + done, len - done, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            exit(1);
        done += n > 0 ? (size_t)n : 0;
    }
}

static void answer_pages(int fd)
{
    static char buffer[HEADER + PAGE];
    for (;;) {
        spin_receive(fd, buffer, HEADER);
        uint32_t page;
        memcpy(&page, buffer, sizeof(page));
        memcpy(buffer + HEADER, far + (size_t)(page % PAGES) * PAGE, PAGE);
        spin_send(fd, buffer, sizeof(buffer));
    }
}

static void send_stream(int fd)
{
    static char buffer[STREAM];
    while (send(fd, buffer, sizeof(buffer), MSG_NOSIGNAL) > 0)
        ;
    exit(0);
}

/* `peer` leads to a child that runs `serve`; it ends when its socket does, or with its parent. */
static void open_peer(void (*serve)(int fd))
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    need(!bind(listener, (struct sockaddr *)&address, len) && !listen(listener, 1) && !getsockname(listener, (struct sockaddr *)&address, &len),
         "listening");
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = accept(listener, NULL, NULL);
        close(listener);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        serve(fd);
    }
    peer = socket(AF_INET, SOCK_STREAM, 0);
    need(!connect(peer, (struct sockaddr *)&address, len), "connect");
    close(listener);
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* ---- one pass of each measure over all pages */

static void discard(void)
{
    need(!madvise(local, (size_t)PAGES * PAGE, MADV_DONTNEED), "MADV_DONTNEED");
}

static void pass_uffd(uint32_t salt)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t page = shuffled(i, salt);
        if (((volatile char *)local)[(size_t)page * PAGE + 8] != (char)(page | 1))
            exit(3);
    }
}

static void pass_tcp(uint32_t salt)
{
    static _Alignas(PAGE) char reply[PAGE + HEADER + PAGE];
    char *content = reply + PAGE, request[HEADER] = {0};
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t page = shuffled(i, salt);
        memcpy(request, &page, sizeof(page));
        spin_send(peer, request, sizeof(request));
        spin_receive(peer, content - HEADER, HEADER + PAGE);
        if (copy_in(local + (size_t)page * PAGE, content) || local[(size_t)page * PAGE + 8] != (char)(page | 1))
            exit(3);
    }
}

static void pass_stream_tcp(uint32_t salt)
{
    (void)salt;
    static char buffer[STREAM];
    for (size_t left = (size_t)PAGES * PAGE; left > 0;) {
        ssize_t n = recv(peer, buffer, left < sizeof(buffer) ? left : sizeof(buffer), 0);
        need(n > 0, "stream");
        left -= (size_t)n;
    }
}

static void pass_stream_memcpy(uint32_t salt)
{
    (void)salt;
    memcpy(local, far, (size_t)PAGES * PAGE);
    __asm__ volatile("" ::: "memory");
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    void (*pass)(uint32_t salt);
    int faults = 0;
    if (!strcmp(argv[1], "uffd"))
        open_uffd(), pass = pass_uffd, faults = 1;
    else if (!strcmp(argv[1], "tcp"))
        open_uffd(), open_peer(answer_pages), pass = pass_tcp, faults = 1;
    else if (!strcmp(argv[1], "stream_tcp"))
        open_peer(send_stream), pass = pass_stream_tcp;
    else if (!strcmp(argv[1], "stream_memcpy"))
        map_both(), pass = pass_stream_memcpy;
    else
        return 2;
    static double us[MAX_PASSES];
    int n = 0;
    uint64_t end = now_ns() + (uint64_t)(strtod(argv[2], NULL) * 1e9);
    for (uint32_t i = 0; n < MAX_PASSES && (n < 3 || now_ns() < end); i++) {
        if (faults)
            discard();
        uint64_t start = now_ns();
        pass(i * 2654435761u);
        if (i > 0) /* the first one warms up */
            us[n++] = (double)(now_ns() - start) / 1000 / PAGES;
    }
    qsort(us, (size_t)n, sizeof(us[0]), by_size);
    printf("%.3f\n", us[n / 2]);
    return 0;
}
