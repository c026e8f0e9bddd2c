/* async_io.c - libaio on memory that is away: what is submitted comes home and stays until it is complete, however completions are taken. Prints what each
 * call gives, for comparison with a native run. Argument: MiB of the area that presses. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define REQUESTS 64
#define BYTES (64ul << 10)
#define FILE_BYTES (REQUESTS * BYTES)

struct ring {
    uint32_t id, nr, head, tail, magic, compat, incompat, header_bytes;
    struct io_event event[];
};

static uint8_t *area, *buf;
static size_t area_bytes;
static struct iocb *iocb;
static struct iocb **list;

static void *map(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        exit(2);
    return at;
}

static void press(void)
{
    static uint8_t turn;
    turn++;
    for (size_t i = 0; i < area_bytes; i += PAGE)
        area[i] = turn;
}

static uint8_t byte_of(size_t i, int seed)
{
    return (uint8_t)(i / PAGE * 7 + i + (size_t)seed);
}

static void fill(uint8_t *to, int seed)
{
    for (size_t i = 0; i < FILE_BYTES; i++)
        to[i] = byte_of(i, seed);
}

static const char *right(const uint8_t *from, int seed)
{
    for (size_t i = 0; i < FILE_BYTES; i++)
        if (from[i] != byte_of(i, seed))
            return "WRONG";
    return "right";
}

static const char *result(long rc)
{
    static char text[32];
    snprintf(text, sizeof text, "%ld", rc);
    return rc < 0 ? strerrorname_np(errno) : text;
}

static long submit(aio_context_t ctx, long n, struct iocb **v)
{
    return syscall(SYS_io_submit, ctx, n, v);
}

static int by_event(const struct io_event *v, long n)
{
    int good = 0;
    for (long i = 0; i < n; i++)
        good += v[i].res == (int64_t)BYTES && v[i].obj == (uint64_t)(iocb + v[i].data);
    return good;
}

/* Without a call, as libaio's users may. */
static int reap_in_ring(aio_context_t ctx, int n)
{
    struct ring *r = (struct ring *)ctx;
    int good = 0;
    while (n) {
        uint32_t head = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
        if (head == __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE)) {
            usleep(100);
            continue;
        }
        good += by_event(&r->event[head], 1);
        __atomic_store_n(&r->head, (head + 1) % r->nr, __ATOMIC_RELEASE);
        n--;
    }
    return good;
}

static int reap(aio_context_t ctx, int n)
{
    struct io_event *v = (struct io_event *)(void *)(buf + 3 * FILE_BYTES);
    int good = 0;
    while (n) {
        long got = syscall(SYS_io_getevents, ctx, 1L, (long)n, v, NULL);
        if (got <= 0)
            exit(3);
        good += by_event(v, got);
        n -= (int)got;
    }
    return good;
}

static void prepare(int fd, uint16_t op, uint8_t *at)
{
    struct iovec *iov = (struct iovec *)(void *)(buf + 3 * FILE_BYTES + MIB);
    for (int i = 0; i < REQUESTS; i++) {
        int vector = op == IOCB_CMD_PREADV || op == IOCB_CMD_PWRITEV;
        iocb[i] = (struct iocb){.aio_data = (uint64_t)i, .aio_lio_opcode = op, .aio_fildes = (uint32_t)fd, .aio_offset = (int64_t)((size_t)i * BYTES)};
        iov[2 * i] = (struct iovec){at + (size_t)i * BYTES, PAGE};
        iov[2 * i + 1] = (struct iovec){at + (size_t)i * BYTES + PAGE, BYTES - PAGE};
        iocb[i].aio_buf = vector ? (uint64_t)(iov + 2 * i) : (uint64_t)(at + (size_t)i * BYTES);
        iocb[i].aio_nbytes = vector ? 2 : BYTES;
        list[i] = iocb + i;
    }
}

static long submit_all(aio_context_t ctx)
{
    long done = 0;
    while (done < REQUESTS) {
        long n = submit(ctx, REQUESTS - done, list + done);
        if (n < 0 && errno == EAGAIN)
            continue;
        if (n <= 0)
            return n;
        done += n;
    }
    return done;
}

static void transfers(const char *path, int flags, const char *name)
{
    static const struct {
        uint16_t read, write;
        int in_ring;
    } kinds[] = {{IOCB_CMD_PREAD, IOCB_CMD_PWRITE, 0}, {IOCB_CMD_PREADV, IOCB_CMD_PWRITEV, 0}, {IOCB_CMD_PREAD, IOCB_CMD_PWRITEV, 1}};
    aio_context_t ctx = 0;
    int fd = open(path, O_RDWR | O_CREAT | flags, 0600);
    if (fd < 0) {
        printf("%s: no\n", name);
        return;
    }
    printf("%s: setup %s\n", name, result(syscall(SYS_io_setup, 2 * REQUESTS, &ctx)));
    for (int k = 0; k < 6; k++) {
        uint8_t *from = buf, *to = buf + FILE_BYTES;
        int in_ring = kinds[k % 3].in_ring;
        fill(from, k);
        memset(to, 0, FILE_BYTES);
        prepare(fd, kinds[k % 3].write, from);
        press();
        long n = submit_all(ctx);
        press();
        printf("%s %d: submit %s, ", name, k, result(n));
        printf("written %d\n", in_ring ? reap_in_ring(ctx, REQUESTS) : reap(ctx, REQUESTS));
        prepare(fd, kinds[k % 3].read, to);
        press();
        n = submit_all(ctx);
        press();
        printf("%s %d: submit %s, ", name, k, result(n));
        printf("read %d", in_ring ? reap_in_ring(ctx, REQUESTS) : reap(ctx, REQUESTS));
        press();
        printf(", %s, %s\n", right(to, k), right(from, k));
    }
    printf("%s: destroy %s\n", name, result(syscall(SYS_io_destroy, ctx)));
    close(fd);
}

/* More completions than the ring has places, each taken before the next is asked for. */
static void many_turns(const char *path)
{
    aio_context_t ctx = 0;
    int fd = open(path, O_RDWR), good = 0;
    syscall(SYS_io_setup, 1, &ctx);
    prepare(fd, IOCB_CMD_PREAD, buf + FILE_BYTES);
    for (int i = 0; i < 2000; i++)
        good += submit(ctx, 1, list + i % REQUESTS) == 1 && reap_in_ring(ctx, 1) == 1;
    printf("turns %d\n", good);
    printf("left behind: %s\n", result(submit(ctx, 1, list)));
    printf("destroy %s, ", result(syscall(SYS_io_destroy, ctx)));
    printf("submit %s\n", result(submit(ctx, 1, list)));
    close(fd);
}

static void mistakes(const char *path)
{
    aio_context_t ctx = 0;
    int fd = open(path, O_RDWR);
    struct io_event event;
    syscall(SYS_io_setup, 64, &ctx);
    prepare(fd, IOCB_CMD_PREAD, buf + FILE_BYTES);
    press();
    printf("none %s, ", result(submit(ctx, 0, list)));
    printf("negative %s, ", result(submit(ctx, -1, list)));
    printf("no context %s, ", result(submit((aio_context_t)(uintptr_t)buf, 1, list)));
    printf("no list %s, ", result(submit(ctx, 1, NULL)));
    printf("bad list %s\n", result(submit(ctx, 1, (void *)8)));
    list[0] = (void *)16;
    printf("bad request %s, ", result(submit(ctx, 1, list)));
    list[0] = iocb;
    list[1] = (void *)16;
    printf("bad second %s, ", result(submit(ctx, 3, list)));
    printf("of which %d\n", reap(ctx, 1));
    list[1] = iocb + 1;
    iocb[1].aio_fildes = 999;
    printf("bad file %s, ", result(submit(ctx, 3, list)));
    printf("of which %d\n", reap(ctx, 1));
    iocb[0].aio_buf = 8;
    printf("bad buffer %s", result(submit(ctx, 1, list)));
    struct timespec none = {0, 0};
    printf(", events %s\n", result(syscall(SYS_io_getevents, ctx, 0L, 4L, buf + 3 * FILE_BYTES, &none)));
    printf("cancel %s\n", result(syscall(SYS_io_cancel, ctx, iocb + 2, &event)));
    syscall(SYS_io_destroy, ctx);
    close(fd);
}

static int in_child(aio_context_t parents, const char *path)
{
    aio_context_t ctx = 0;
    int fd = open(path, O_RDWR);
    prepare(fd, IOCB_CMD_PREAD, buf + FILE_BYTES);
    press();
    if (submit(parents, 1, list) != -1)
        return 1;
    if (syscall(SYS_io_setup, 2 * REQUESTS, &ctx) || submit_all(ctx) != REQUESTS || reap_in_ring(ctx, REQUESTS) != REQUESTS)
        return 2;
    press();
    return strcmp(right(buf + FILE_BYTES, 5), "right") ? 3 : 0;
}

static void children(const char *path)
{
    aio_context_t ctx = 0;
    int fd = open(path, O_RDWR), status;
    syscall(SYS_io_setup, 2 * REQUESTS, &ctx);
    prepare(fd, IOCB_CMD_PREAD, buf);
    press();
    long n = submit_all(ctx);
    fflush(stdout);
    pid_t pid = fork();
    if (!pid)
        _exit(in_child(ctx, path));
    waitpid(pid, &status, 0);
    printf("submit %s, read %d, ", result(n), reap(ctx, REQUESTS));
    press();
    printf("%s, child %d\n", right(buf, 5), WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    syscall(SYS_io_destroy, ctx);
    close(fd);
}

int main(int argc, char **argv)
{
    char path[] = "async_io.file";
    alarm(100);
    area_bytes = (size_t)(argc > 1 ? atoi(argv[1]) : 48) * MIB;
    area = map(area_bytes);
    buf = map(4 * FILE_BYTES + 4 * MIB);
    iocb = (struct iocb *)(void *)(buf + 3 * FILE_BYTES + 2 * MIB);
    list = (struct iocb **)(void *)(buf + 3 * FILE_BYTES + 3 * MIB);
    press();
    transfers(path, 0, "buffered");
    transfers(path, O_DIRECT, "direct");
    transfers(path, 0, "buffered");
    many_turns(path);
    mistakes(path);
    children(path);
    unlink(path);
    return 0;
}
