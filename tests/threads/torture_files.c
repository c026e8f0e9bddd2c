/* torture_files.c - files, folders, pipes, sockets, epoll, eventfd and timers used between threads: what one thread hands to the kernel
 * from its memory, another gets into its own. See torture.h for the command line. */
#include "torture.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>

static char folder[] = "/tmp/torture-files-XXXXXX";

static void folder_make(void)
{
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    NOT_NULL(mkdtemp(folder));
}

static const char *in_folder(char *path, const char *name, int number)
{
    snprintf(path, PATH_MAX, "%s/%s%d", folder, name, number);
    return path;
}

static void write_all(int fd, const void *at, size_t len)
{
    const char *bytes = at;
    while (len > 0) {
        const ssize_t n = SYS(write(fd, bytes, len));
        bytes += n;
        len -= (size_t)n;
    }
}

/* Less only at the end. */
static size_t read_all(int fd, void *at, size_t len)
{
    char *bytes = at;
    size_t got = 0;
    while (got < len) {
        const ssize_t n = SYS(read(fd, bytes + got, len - got));
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return got;
}

/* ---- files -------------------------------------------------------------------------------------------------------------- */

/* Into memory that nobody has touched before, over many pages, not aligned. */
static void files_body(struct member *me)
{
    enum { SIZE = 150000 };
    char path[PATH_MAX];
    const int n = rounds(3);
    in_folder(path, "file", me->number);
    for (int i = 0; i < n; i++) {
        const uint64_t key = rng_next(&me->rng);
        unsigned char *out = NOT_NULL(malloc(SIZE)), *in = NOT_NULL(malloc(SIZE));
        fill_bytes(out, SIZE, key);
        const int fd = SYS(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        write_all(fd, out, SIZE);
        EQUAL(SYS(lseek(fd, 0, SEEK_SET)), 0);
        EQUAL(read_all(fd, in + 7, SIZE - 7), SIZE - 7);
        CHECK(!memcmp(in + 7, out, SIZE - 7), "a file's content came back wrong");
        EQUAL(SYS(pwrite(fd, "hole", 4, SIZE + 9000)), 4);
        memset(in, 1, SIZE);
        EQUAL(SYS(pread(fd, in, SIZE, SIZE)), 9004);
        CHECK_ZEROS(in, 9000);
        CHECK(!memcmp(in + 9000, "hole", 4), "pread gave something else than pwrite wrote");
        struct stat st;
        SYS(fstat(fd, &st));
        EQUAL(st.st_size, SIZE + 9004);
        SYS(ftruncate(fd, 100));
        SYS(stat(path, &st));
        EQUAL(st.st_size, 100);
        struct iovec parts[20];
        for (unsigned p = 0; p < COUNT_OF(parts); p++)
            parts[p] = (struct iovec){out + 5000 * p, 100 + p};
        const ssize_t total = 100 * 20 + 190;
        EQUAL(SYS(pwritev(fd, parts, COUNT_OF(parts), 0)), total);
        for (unsigned p = 0; p < COUNT_OF(parts); p++)
            parts[p].iov_base = in + 6000 * p;
        EQUAL(SYS(preadv(fd, parts, COUNT_OF(parts), 0)), total);
        for (unsigned p = 0; p < COUNT_OF(parts); p++)
            CHECK(!memcmp(in + 6000 * p, out + 5000 * p, 100 + p), "part %u of preadv is wrong", p);
        SYS(close(fd));
        FAILS(open("/nowhere/at/all", O_RDONLY), ENOENT);
        FAILS(read(fd + 1000, in, 1), EBADF);
        free(in);
        free(out);
    }
    SYS(unlink(path));
}

static void files(void)
{
    folder_make();
    crew_run(threads(4), files_body, NULL);
    SYS(rmdir(folder));
}

/* One descriptor for all: O_APPEND records stay whole, and are all there. */
struct record {
    int thread, number;
    unsigned char bytes[500];
};

static int shared_fd;

static void append_body(struct member *me)
{
    const int n = rounds(60);
    for (int i = 0; i < n; i++) {
        struct record record = {.thread = me->number, .number = i};
        fill_bytes(record.bytes, sizeof record.bytes, (uint64_t)(me->number * n + i));
        EQUAL(SYS(write(shared_fd, &record, sizeof record)), sizeof record);
    }
}

static void append(void)
{
    char path[PATH_MAX];
    const int n_threads = threads(4), n = rounds(60);
    int *next = NOT_NULL(calloc((size_t)n_threads, sizeof *next));
    folder_make();
    shared_fd = SYS(open(in_folder(path, "log", 0), O_RDWR | O_CREAT | O_APPEND, 0600));
    crew_run(n_threads, append_body, NULL);
    SYS(lseek(shared_fd, 0, SEEK_SET));
    struct record record;
    int records = 0;
    while (read_all(shared_fd, &record, sizeof record) == sizeof record) {
        CHECK(record.thread >= 0 && record.thread < n_threads && record.number == next[record.thread], "record %d: thread %d, number %d", records,
              record.thread, record.number);
        next[record.thread]++;
        CHECK_BYTES(record.bytes, sizeof record.bytes, (uint64_t)(record.thread * n + record.number));
        records++;
    }
    EQUAL(records, n_threads * n);
    SYS(close(shared_fd));
    SYS(unlink(path));
    SYS(rmdir(folder));
    free(next);
    result("%d", records);
}

/* Descriptors are the process's: opened by one thread, used and closed by others. */
static struct {
    pthread_barrier_t barrier;
    int fd[1000];
} descriptors;

static void descriptors_body(struct member *me)
{
    char path[PATH_MAX], text[32], back[32] = "";
    const int next = (me->number + 1) % me->of;
    for (int i = 0; i < 5; i++) {
        descriptors.fd[me->number] = SYS(open(in_folder(path, "passed", me->number), O_RDWR | O_CREAT | O_TRUNC, 0600));
        pthread_barrier_wait(&descriptors.barrier);
        const int len = snprintf(text, sizeof text, "round %d of %d", i, next);
        write_all(descriptors.fd[next], text, (size_t)len);
        pthread_barrier_wait(&descriptors.barrier);
        snprintf(text, sizeof text, "round %d of %d", i, me->number);
        EQUAL(SYS(pread(descriptors.fd[me->number], back, sizeof back - 1, 0)), strlen(text));
        CHECK(!strncmp(back, text, strlen(text)), "read '%s', wanted '%s'", back, text);
        pthread_barrier_wait(&descriptors.barrier);
        SYS(close(descriptors.fd[next]));
        pthread_barrier_wait(&descriptors.barrier);
        FAILS(fcntl(descriptors.fd[me->number], F_GETFD), EBADF);
        pthread_barrier_wait(&descriptors.barrier);
    }
    SYS(unlink(path));
}

static void passed_descriptors(void)
{
    folder_make();
    OK(pthread_barrier_init(&descriptors.barrier, NULL, (unsigned)threads(4)));
    crew_run(threads(4), descriptors_body, NULL);
    OK(pthread_barrier_destroy(&descriptors.barrier));
    SYS(rmdir(folder));
}

static void folders_body(struct member *me)
{
    char path[PATH_MAX], other[PATH_MAX], target[PATH_MAX], name[NAME_MAX];
    const int n = 12;
    SYS(mkdir(in_folder(path, "folder", me->number), 0700));
    const int dir = SYS(open(path, O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "entry-%d", i);
        const int fd = SYS(openat(dir, name, O_WRONLY | O_CREAT | O_EXCL, 0600));
        SYS(close(fd));
    }
    SYS(symlinkat("entry-0", dir, "link"));
    const ssize_t len = SYS(readlinkat(dir, "link", target, sizeof target));
    CHECK(len == 7 && !memcmp(target, "entry-0", 7), "readlinkat gave %.*s", (int)len, target);
    SYS(renameat(dir, "entry-1", dir, "renamed"));
    DIR *list = NOT_NULL(fdopendir(dir));
    int seen = 0;
    for (struct dirent *entry; (entry = readdir(list));)
        seen += entry->d_name[0] != '.';
    EQUAL(seen, n + 1);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, i == 1 ? "renamed" : "entry-%d", i);
        SYS(unlinkat(dir, name, 0));
    }
    SYS(unlinkat(dir, "link", 0));
    EQUAL(closedir(list), 0);
    NOT_NULL(realpath(path, other));
    SYS(rmdir(path));
    FAILS(rmdir(path), ENOENT);
}

static void folders(void)
{
    folder_make();
    crew_run(threads(4), folders_body, NULL);
    SYS(rmdir(folder));
}

/* ---- pipes -------------------------------------------------------------------------------------------------------------- */

/* A ring of pipes: each reads from the one before and passes on what it got; the first makes it and checks it at the end. */
static struct {
    int ends[2];
} *ring;

static void ring_body(struct member *me)
{
    enum { SIZE = 30000 };
    const int n = rounds(20), in = ring[me->number].ends[0], out = ring[(me->number + 1) % me->of].ends[1];
    unsigned char *bytes = NOT_NULL(malloc(SIZE));
    for (int i = 0; i < n; i++) {
        const size_t len = 1 + mix((uint64_t)i) % SIZE;
        if (me->number == 0) {
            fill_bytes(bytes, len, (uint64_t)i);
            write_all(out, bytes, len);
            memset(bytes, 0, len);
        }
        EQUAL(read_all(in, bytes, len), len);
        CHECK_BYTES(bytes, len, (uint64_t)i);
        if (me->number != 0)
            write_all(out, bytes, len);
        me->sum += len;
    }
    free(bytes);
    SYS(close(out));
    EQUAL(SYS(read(in, &(char){0}, 1)), 0);
}

static void pipes(void)
{
    const int n = threads(3) < 2 ? 2 : threads(3);
    ring = NOT_NULL(calloc((size_t)n, sizeof *ring));
    for (int i = 0; i < n; i++)
        SYS(pipe2(ring[i].ends, O_CLOEXEC));
    result("%" PRIu64, crew_run(n, ring_body, NULL));
    for (int i = 0; i < n; i++)
        SYS(close(ring[i].ends[0]));
    free(ring);
}

/* Many write records up to PIPE_BUF, many read: none is torn. */
static int common_pipe[2];

static void common_pipe_body(struct member *me)
{
    struct record record;
    const int n = rounds(100);
    if (me->number % 2 == 0) {
        for (int i = 0; i < n; i++) {
            record = (struct record){.thread = me->number, .number = i};
            fill_bytes(record.bytes, sizeof record.bytes, (uint64_t)(me->number * n + i));
            EQUAL(SYS(write(common_pipe[1], &record, sizeof record)), sizeof record);
        }
        record = (struct record){.thread = -1}; /* one reader ends with each writer */
        EQUAL(SYS(write(common_pipe[1], &record, sizeof record)), sizeof record);
        return;
    }
    for (;;) {
        EQUAL(SYS(read(common_pipe[0], &record, sizeof record)), sizeof record);
        if (record.thread < 0)
            return;
        CHECK_BYTES(record.bytes, sizeof record.bytes, (uint64_t)(record.thread * n + record.number));
        me->sum++;
    }
}

static void common_pipe_test(void)
{
    const int n = (threads(4) + 1) / 2 * 2;
    SYS(pipe(common_pipe));
    const uint64_t records = crew_run(n, common_pipe_body, NULL);
    EQUAL(records, (uint64_t)n / 2 * (uint64_t)rounds(100));
    SYS(close(common_pipe[0]));
    SYS(close(common_pipe[1]));
    result("%" PRIu64, records);
}

/* ---- sockets ------------------------------------------------------------------------------------------------------------ */

struct pair {
    int fd[2];
};

/* Member 0 asks, member 1 answers, over a connected pair of sockets. */
static void talk(int fd, bool asks, int n)
{
    enum { SIZE = 20000 };
    unsigned char *bytes = NOT_NULL(malloc(SIZE));
    for (int i = 0; i < n; i++) {
        const uint32_t len = (uint32_t)(1 + mix((uint64_t)i * 3) % (SIZE - 1));
        uint32_t said;
        if (asks) {
            fill_bytes(bytes, len, (uint64_t)i);
            struct iovec parts[2] = {{(void *)&len, sizeof len}, {bytes, len}};
            struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
            ssize_t sent = SYS(sendmsg(fd, &message, MSG_NOSIGNAL));
            if ((size_t)sent < sizeof len + len)
                write_all(fd, bytes + (size_t)sent - sizeof len, sizeof len + len - (size_t)sent);
            memset(bytes, 0, len);
            EQUAL(read_all(fd, bytes, len), len);
            CHECK_BYTES(bytes, len, (uint64_t)i + 1000);
        } else {
            EQUAL(SYS(recv(fd, &said, sizeof said, MSG_WAITALL)), sizeof said);
            EQUAL(said, len);
            EQUAL(SYS(recv(fd, bytes, len, MSG_WAITALL)), len);
            CHECK_BYTES(bytes, len, (uint64_t)i);
            fill_bytes(bytes, len, (uint64_t)i + 1000);
            write_all(fd, bytes, len);
        }
    }
    free(bytes);
}

static void socketpair_body(struct member *me)
{
    const struct pair *pairs = me->shared;
    talk(pairs[me->number / 2].fd[me->number % 2], me->number % 2 == 0, rounds(20));
}

static void socket_pairs(void)
{
    const int n = (threads(4) + 1) / 2;
    struct pair *pairs = NOT_NULL(calloc((size_t)n, sizeof *pairs));
    for (int i = 0; i < n; i++)
        SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i].fd));
    crew_run(2 * n, socketpair_body, pairs);
    for (int i = 0; i < n; i++) {
        SYS(close(pairs[i].fd[0]));
        SYS(close(pairs[i].fd[1]));
    }
    free(pairs);
}

/* A listening socket, one thread for each connection, clients in threads. */
static struct sockaddr_in tcp_address;

static void tcp_client_body(struct member *me)
{
    const int fd = SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), on = 1;
    (void)me;
    SYS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    SYS(connect(fd, (struct sockaddr *)&tcp_address, sizeof tcp_address));
    talk(fd, true, rounds(15));
    SYS(shutdown(fd, SHUT_WR));
    EQUAL(SYS(read(fd, &(char){0}, 1)), 0);
    SYS(close(fd));
}

static void *tcp_server_main(void *arg)
{
    const int fd = (int)(intptr_t)arg;
    struct sockaddr_in peer = {0};
    socklen_t len = sizeof peer;
    SYS(getpeername(fd, (struct sockaddr *)&peer, &len));
    EQUAL(ntohl(peer.sin_addr.s_addr), INADDR_LOOPBACK);
    talk(fd, false, rounds(15));
    EQUAL(SYS(read(fd, &(char){0}, 1)), 0);
    SYS(close(fd));
    return NULL;
}

static void tcp(void)
{
    const int n = threads(3), listener = SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socklen_t len = sizeof tcp_address;
    pthread_t *servers = NOT_NULL(calloc((size_t)n, sizeof *servers));
    tcp_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    SYS(bind(listener, (struct sockaddr *)&tcp_address, sizeof tcp_address));
    SYS(getsockname(listener, (struct sockaddr *)&tcp_address, &len));
    SYS(listen(listener, n));
    struct member *crew = crew_start(n, tcp_client_body, NULL);
    for (int i = 0; i < n; i++) {
        const int fd = SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        OK(pthread_create(&servers[i], NULL, tcp_server_main, (void *)(intptr_t)fd));
    }
    for (int i = 0; i < n; i++)
        OK(pthread_join(servers[i], NULL));
    crew_join(crew);
    SYS(close(listener));
    free(servers);
}

/* Datagrams, with a descriptor in a message. */
static void descriptor_message_body(struct member *me)
{
    const struct pair *pair = me->shared;
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char text[100] = "a message with a descriptor";
    struct iovec part = {text, sizeof text};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memset(&control, 0, sizeof control);
    for (int i = 0; i < 5; i++) {
        if (me->number == 0) {
            int ends[2];
            SYS(pipe(ends));
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
            memcpy(CMSG_DATA(header), &ends[1], sizeof(int));
            EQUAL(SYS(sendmsg(pair->fd[0], &message, 0)), sizeof text);
            SYS(close(ends[1]));
            char back[10] = "";
            EQUAL(read_all(ends[0], back, sizeof back), 6); /* to the end: the other's copy is closed */
            CHECK(!strcmp(back, "hello"), "through the descriptor came '%s'", back);
            SYS(close(ends[0]));
        } else {
            memset(text, 0, sizeof text);
            message.msg_controllen = sizeof control;
            EQUAL(SYS(recvmsg(pair->fd[1], &message, MSG_CMSG_CLOEXEC)), sizeof text);
            CHECK(!strcmp(text, "a message with a descriptor"), "the message is '%.30s'", text);
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            CHECK(header && header->cmsg_type == SCM_RIGHTS, "no descriptor in the message");
            int fd;
            memcpy(&fd, CMSG_DATA(header), sizeof fd);
            write_all(fd, "hello", 6);
            SYS(close(fd));
        }
    }
}

static void descriptor_messages(void)
{
    struct pair pair;
    SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.fd));
    crew_run(2, descriptor_message_body, &pair);
    SYS(close(pair.fd[0]));
    SYS(close(pair.fd[1]));
}

/* ---- waiting for descriptors -------------------------------------------------------------------------------------------- */

static struct {
    int epoll, stop;
    struct pair *pairs;
    int n;
    atomic_int messages;
} events;

/* Member 0 and 1 wait in one epoll; the others write to their pipes and wait for the answer. */
static void epoll_body(struct member *me)
{
    const int n = rounds(30);
    if (me->number >= 2) {
        const int fd = events.pairs[me->number - 2].fd[1];
        for (int i = 0; i < n; i++) {
            uint64_t value = mix((uint64_t)(me->number * n + i)), answer = 0;
            write_all(fd, &value, sizeof value);
            struct pollfd wait = {fd, POLLIN, 0};
            EQUAL(SYS(poll(&wait, 1, -1)), 1);
            EQUAL(read_all(fd, &answer, sizeof answer), sizeof answer);
            CHECK(answer == mix(value), "message %d of thread %d: wrong answer", i, me->number);
        }
        return;
    }
    for (;;) {
        struct epoll_event happened[4];
        const int k = SYS(epoll_wait(events.epoll, happened, COUNT_OF(happened), -1));
        for (int i = 0; i < k; i++) {
            const uint32_t which = happened[i].data.u32;
            if (which == UINT32_MAX)
                return;
            CHECK(which < (uint32_t)events.n, "epoll gave something that nobody put in: %u", which);
            const int fd = events.pairs[which].fd[0];
            uint64_t value;
            EQUAL(read_all(fd, &value, sizeof value), sizeof value);
            value = mix(value);
            atomic_fetch_add(&events.messages, 1);
            struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u32 = which};
            SYS(epoll_ctl(events.epoll, EPOLL_CTL_MOD, fd, &again));
            write_all(fd, &value, sizeof value);
        }
    }
}

static void epoll(void)
{
    events.n = threads(3);
    events.messages = 0;
    events.epoll = SYS(epoll_create1(EPOLL_CLOEXEC));
    events.stop = SYS(eventfd(0, EFD_CLOEXEC));
    events.pairs = NOT_NULL(calloc((size_t)events.n, sizeof *events.pairs));
    for (int i = 0; i < events.n; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u32 = (uint32_t)i};
        SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, events.pairs[i].fd));
        SYS(epoll_ctl(events.epoll, EPOLL_CTL_ADD, events.pairs[i].fd[0], &event));
    }
    struct epoll_event stop = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    SYS(epoll_ctl(events.epoll, EPOLL_CTL_ADD, events.stop, &stop));
    struct member *crew = crew_start(events.n + 2, epoll_body, NULL);
    wait_until_at_least(&events.messages, events.n * rounds(30));
    write_all(events.stop, &(uint64_t){1}, 8);
    crew_join(crew);
    EQUAL(events.messages, events.n * rounds(30));
    for (int i = 0; i < events.n; i++) {
        SYS(close(events.pairs[i].fd[0]));
        SYS(close(events.pairs[i].fd[1]));
    }
    free(events.pairs);
    SYS(close(events.stop));
    SYS(close(events.epoll));
    result("%d", events.messages);
}

/* eventfd as a counter and as a semaphore. */
static int tickets, taken;

static void eventfd_body(struct member *me)
{
    const int n = rounds(100);
    uint64_t value;
    if (me->number % 2 == 0) {
        for (int i = 0; i < n; i++) {
            value = 1;
            EQUAL(SYS(write(tickets, &value, 8)), 8);
        }
    } else {
        for (int i = 0; i < n; i++) {
            EQUAL(SYS(read(tickets, &value, 8)), 8);
            EQUAL(value, 1);
            value = 2;
            EQUAL(SYS(write(taken, &value, 8)), 8);
        }
    }
}

static void eventfds(void)
{
    const int n = (threads(4) + 1) / 2 * 2;
    uint64_t value = 0;
    tickets = SYS(eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC));
    taken = SYS(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    crew_run(n, eventfd_body, NULL);
    EQUAL(SYS(read(taken, &value, 8)), 8);
    EQUAL(value, (uint64_t)n * (uint64_t)rounds(100));
    FAILS(read(taken, &value, 8), EAGAIN);
    SYS(close(tickets));
    SYS(close(taken));
    result("%" PRIu64, value);
}

static void timers_body(struct member *me)
{
    const int fd = SYS(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    const struct timespec due = after_ms(CLOCK_MONOTONIC, 5 + me->number);
    const struct itimerspec when = {.it_value = due};
    SYS(timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    struct timeval limit = {60, 0};
    EQUAL(SYS(select(fd + 1, &set, NULL, NULL, &limit)), 1);
    CHECK(FD_ISSET(fd, &set), "select says 1, but not for which");
    CHECK(not_before(CLOCK_MONOTONIC, due), "a timer came too early");
    uint64_t times = 0;
    EQUAL(SYS(read(fd, &times, sizeof times)), 8);
    EQUAL(times, 1);
    struct pollfd wait = {fd, POLLIN, 0};
    EQUAL(SYS(poll(&wait, 1, 5)), 0);
    const struct timespec nap = {0, 3000000};
    EQUAL(SYS(ppoll(&wait, 1, &nap, NULL)), 0);
    SYS(close(fd));
}

static void timers(void)
{
    crew_run(threads(4), timers_body, NULL);
}

/* Copies inside the kernel, and calls that write into structures of the thread's. */
static void kernel_copies_body(struct member *me)
{
    enum { SIZE = 40000 };
    char path[PATH_MAX];
    unsigned char *bytes = NOT_NULL(malloc(SIZE));
    const uint64_t key = rng_next(&me->rng);
    int ends[2], waiting = -1;
    fill_bytes(bytes, SIZE, key);
    const int fd = SYS(open(in_folder(path, "copy", me->number), O_RDWR | O_CREAT | O_TRUNC, 0600));
    write_all(fd, bytes, SIZE);
    memset(bytes, 0, SIZE);
    SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    off_t from = 0;
    while (from < SIZE)
        SYS(sendfile(ends[0], fd, &from, (size_t)(SIZE - from)));
    SYS(ioctl(ends[1], FIONREAD, &waiting));
    CHECK(waiting > 0, "FIONREAD: %d", waiting);
    EQUAL(read_all(ends[1], bytes, SIZE), SIZE);
    CHECK_BYTES(bytes, SIZE, key);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    SYS(fcntl(fd, F_OFD_SETLK, &lock));
    int type = 0;
    socklen_t len = sizeof type;
    SYS(getsockopt(ends[0], SOL_SOCKET, SO_TYPE, &type, &len));
    EQUAL(type, SOCK_STREAM);
    EQUAL(len, sizeof type);
    SYS(close(ends[0]));
    SYS(close(ends[1]));
    SYS(close(fd));
    SYS(unlink(path));
    free(bytes);
}

static void kernel_copies(void)
{
    folder_make();
    crew_run(threads(4), kernel_copies_body, NULL);
    SYS(rmdir(folder));
}

/* The kernel reads and writes where other threads do at the same time: each has its own bytes in shared pages. */
static unsigned char mixed[8 * 4096];

static void shared_buffers_body(struct member *me)
{
    const int n = rounds(60);
    int ends[2];
    SYS(pipe(ends));
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)(i % 8) * PAGE + (size_t)(me->number % 16) * 256;
        const uint64_t key = rng_next(&me->rng);
        unsigned char bytes[256];
        fill_bytes(bytes, sizeof bytes, key);
        write_all(ends[1], bytes, sizeof bytes);
        EQUAL(read_all(ends[0], mixed + at, 256), 256); /* the kernel writes beside the others' bytes */
        CHECK_BYTES(mixed + at, 256, key);
        write_all(ends[1], mixed + at, 256);
        memset(mixed + at, 0, 256);
        memset(bytes, 0, sizeof bytes);
        EQUAL(read_all(ends[0], bytes, 256), 256);
        CHECK_BYTES(bytes, 256, key);
    }
    SYS(close(ends[0]));
    SYS(close(ends[1]));
}

static void shared_buffers(void)
{
    crew_run(threads(4) > 16 ? 16 : threads(4), shared_buffers_body, NULL);
}

/* Errors are the kernel's own: wrong addresses above all. */
static void wrong_addresses_body(struct member *me)
{
    int ends[2];
    (void)me;
    SYS(pipe(ends));
    void *volatile nowhere = (void *)8, *volatile constant = (void *)"constant";
    write_all(ends[1], "text", 4);
    FAILS(read(ends[0], nowhere, 4), EFAULT);
    FAILS(read(ends[0], constant, 4), EFAULT);
    FAILS(write(ends[1], nowhere, 4), EFAULT);
    FAILS(fstat(ends[0], nowhere), EFAULT);
    FAILS(open(nowhere, O_RDONLY), EFAULT);
    FAILS(pipe(nowhere), EFAULT);
    char text[5] = "";
    EQUAL(SYS(read(ends[0], text, 4)), 4);
    SYS(close(ends[0]));
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(ends[1], "x", 1), EPIPE);
    SYS(close(ends[1]));
}

static void wrong_addresses(void)
{
    crew_run(threads(2), wrong_addresses_body, NULL);
    signal(SIGPIPE, SIG_DFL);
}

static const struct sub_test tests[] = {
    {"files", files, "read, write, pread, preadv, holes, truncation"},
    {"append", append, "records appended through one descriptor"},
    {"passed_descriptors", passed_descriptors, "descriptors opened, used, closed by different threads"},
    {"folders", folders, "folders, links, renames"},
    {"pipes", pipes, "a ring of pipes"},
    {"common_pipe", common_pipe_test, "records through one pipe"},
    {"socket_pairs", socket_pairs, "questions and answers over socket pairs"},
    {"tcp", tcp, "a server with a thread for each connection"},
    {"descriptor_messages", descriptor_messages, "descriptors in messages"},
    {"epoll", epoll, "two threads wait in one epoll, one-shot"},
    {"eventfds", eventfds, "eventfd as counter and semaphore"},
    {"timers", timers, "timerfd, select, poll"},
    {"kernel_copies", kernel_copies, "sendfile, ioctl, fcntl, getsockopt"},
    {"shared_buffers", shared_buffers, "the kernel writes beside other threads' bytes"},
    {"wrong_addresses", wrong_addresses, "EFAULT and EPIPE"},
};

TORTURE_MAIN(tests)
