/* large_calls.c - single reads and writes that are larger than what may be local at a time end as the kernel's own do: streams give all that they have, nobody
 * else's records come between, limits and closed ends are no worse. Prints what differs, and `right`. */
#include "area.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

static char *area;
static const size_t area_bytes = 24 * MIB;

static int file_new(int flags)
{
    char name[] = "/tmp/large_calls.XXXXXX";
    int fd = mkstemp(name);
    if (fd < 0 || unlink(name) || fcntl(fd, F_SETFL, flags))
        wrong("file", fd);
    return fd;
}

/* A reader that gets less than it asked for waits for the next edge. */
static void streams(void)
{
    int pair[2], many = 2 * MIB, room = 4 * many, left;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair))
        wrong("socketpair", 0);
    if (setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room))
        many = 128 << 10; /* not root's */
    struct iovec v[2] = {{area + 8 * MIB, 100}, {area + 12 * MIB, 4 * MIB}};
    for (int how = 0; how < 3; how++) {
        if (write(pair[0], area, (size_t)many) != many)
            wrong("write", many);
        long n = how == 0 ? read(pair[1], area + 8 * MIB, 4 * MIB) : how == 1 ? recv(pair[1], area + 8 * MIB, 4 * MIB, 0) : readv(pair[1], v, 2);
        if (n != many || ioctl(pair[1], FIONREAD, &left) || left)
            wrong("a read of what is there", n);
        for (int i = 0; i < n && how < 2; i++)
            if (area[i] != area[8 * MIB + i])
                wrong("a byte of a stream", i);
    }
    if (read(pair[1], area, 4 * MIB) >= 0 || errno != EAGAIN)
        wrong("an empty stream", 0);
    close(pair[0]);
    if (read(pair[1], area, 4 * MIB) != 0)
        wrong("a closed stream", 0);
    close(pair[1]);
}

#define RECORD (3 * MIB)
#define RECORDS 4
#define WRITERS 3
static void append(int fd, int who)
{
    char *record = malloc(RECORD);
    memset(record, 'A' + who, RECORD);
    for (int i = 0; i < RECORDS; i++)
        if (write(fd, record, RECORD) != RECORD)
            wrong("append", i);
    free(record);
}

/* Each record is one writer's. */
static void records(int fd)
{
    char *page = area;
    for (long i = 0; i < (long)(WRITERS * RECORDS * RECORD / PAGE); i++) {
        char first = page[0];
        if (pread(fd, page, PAGE, (off_t)(i * (long)PAGE)) != (long)PAGE)
            wrong("records", i);
        if (page[0] != page[PAGE - 1] || (i % (long)(RECORD / PAGE) && page[0] != first))
            wrong("a record is torn at page", i);
    }
    close(fd);
}

static void appends(void)
{
    int fd = file_new(O_APPEND);
    for (int who = 0; who < WRITERS; who++)
        if (!fork()) {
            append(fd, who);
            _exit(0);
        }
    for (int who = 0, status; who < WRITERS; who++)
        if (wait(&status) < 0 || status)
            wrong("writer", status);
    records(fd);
}

/* The same by threads, through one position. */
static int shared_fd;
static void *write_records(void *who)
{
    append(shared_fd, (int)(long)who);
    return NULL;
}
static void positions(void)
{
    pthread_t t[WRITERS];
    shared_fd = file_new(0);
    for (long who = 0; who < WRITERS; who++)
        if (pthread_create(&t[who], NULL, write_records, (void *)who))
            wrong("thread", who);
    for (int who = 0; who < WRITERS; who++)
        pthread_join(t[who], NULL);
    records(shared_fd);
}

static volatile sig_atomic_t signals;
static void count(int number)
{
    (void)number;
    signals++;
}

static void limits(void)
{
    struct rlimit old, small;
    int fd = file_new(0);
    signal(SIGXFSZ, count);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){MIB, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    signals = 0;
    long n = pwrite(fd, area, 8 * MIB, 0), m = write(fd, area, 8 * MIB);
    if (n != MIB || m != MIB || signals)
        wrong("a write up to the limit, and signals", signals ? -signals : n);
    if (pwrite(fd, area, 8 * MIB, MIB) >= 0 || errno != EFBIG || signals != 1)
        wrong("a write at the limit", signals);
    setrlimit(RLIMIT_FSIZE, &old);
    close(fd);
}

/* The other end takes some and is gone: what was taken is told, and SIGPIPE comes with the next call. */
static void *take_some(void *fd)
{
    static char some[64 << 10];
    for (size_t left = MIB; left; left -= sizeof some)
        if (recv(*(int *)fd, some, sizeof some, MSG_WAITALL) != sizeof some)
            wrong("taking some", (long)left);
    close(*(int *)fd);
    return NULL;
}
static void ends(void)
{
    int pair[2];
    pthread_t t;
    signal(SIGPIPE, count);
    signals = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || pthread_create(&t, NULL, take_some, &pair[1]))
        wrong("socketpair", 0);
    long n = write(pair[0], area, area_bytes);
    pthread_join(t, NULL);
    if (n < (long)MIB || signals)
        wrong("a write whose reader ends, and signals", signals ? -signals : n);
    if (write(pair[0], area, area_bytes) >= 0 || errno != EPIPE || signals != 1)
        wrong("a write without a reader", signals);
    close(pair[0]);
}

/* A signal ends a write that waits, wherever it is. */
static void interrupted(void)
{
    int p[2];
    const struct itimerval soon = {.it_value.tv_usec = 200000, .it_interval.tv_usec = 200000};
    signal(SIGALRM, count);
    signals = 0;
    if (pipe(p))
        wrong("pipe", 0);
    setitimer(ITIMER_REAL, &soon, NULL);
    long n = write(p[1], area, area_bytes);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    if (n < (64 << 10) || n >= (long)area_bytes || !signals)
        wrong("a write that is interrupted", n);
    close(p[0]);
    close(p[1]);
}

/* O_DIRECT: the alignment of the whole decides, before anything is written. (Where a file system has no O_DIRECT, nothing to look at.) */
static void direct(void)
{
    struct stat st;
    char name[] = "large_calls.XXXXXX"; /* not in /tmp, which may be a tmpfs */
    int made = mkstemp(name), fd = open(name, O_RDWR | O_DIRECT);
    unlink(name);
    if (made < 0 || fd < 0)
        return;
    char *aligned = (char *)(((uintptr_t)area + PAGE - 1) & ~(PAGE - 1));
    long n = pwrite(fd, aligned, 8 * MIB - 1, 0);
    if (!fstat(fd, &st) && n < 0 ? errno != EINVAL || st.st_size : n != 8 * MIB - 1)
        wrong("O_DIRECT, misaligned", n);
    if ((n = pwrite(fd, aligned, 8 * MIB, 0)) != 8 * MIB || (n = pread(fd, aligned, 8 * MIB, 0)) != 8 * MIB)
        wrong("O_DIRECT", n);
    close(fd);
    close(made);
}

int main(void)
{
    area = (char *)area_new(area_bytes, 1);
    streams();
    appends();
    positions();
    limits();
    ends();
    interrupted();
    direct();
    puts("right");
    return 0;
}
