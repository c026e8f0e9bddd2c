/* Shared memory: the arena is a memfd of the server's. pread and pwrite rather than a mapping: no page tables, no resident
 * size of the program's own, and one copy either way. Who reads and writes megabytes may have a view of it: half the time (a page
 * written 1.1 us, by pwrite 2.2). A program's stray store there is found by the page's checksum. */
#include "proto/eg_sys.h"
#include "proto/eg_transport.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define WINDOW_NEAR (63ul << 40) /* as VIEW_NEAR of the pager's: nobody puts anything there */
#define WINDOW_BYTES (256u << 10)

static int shm_copy(long nr, int fd, uint64_t offset, void *buf, uint32_t len_bytes)
{
    for (uint32_t at = 0; at < len_bytes;) {
        long n = eg_sys4(nr, fd, (char *)buf + at, len_bytes - at, offset + at);
        if (n > 0)
            at += (uint32_t)n;
        else if (n != -EINTR)
            return n < 0 ? (int)n : -EIO;
    }
    return 0;
}

static int shm_read(const struct eg_link *link, uint64_t offset, void *buf, uint32_t len_bytes)
{
    return shm_copy(SYS_pread64, link->fd, offset, buf, len_bytes);
}

/* A limit on the size of the program's files (ulimit -f) would hold for the arena, too, and SIGXFSZ end the program. */
static int too_far_for_pwrite(uint64_t end)
{
    struct rlimit most = {RLIM_INFINITY, RLIM_INFINITY};
    eg_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, &most);
    return end > most.rlim_cur;
}

static long window_map(int fd, uint64_t offset, uint64_t bytes)
{
    static uint64_t window; /* whoever submits has the pager's lock */
    long p = -EEXIST;
    for (uint64_t at = WINDOW_NEAR; !window && p == -EEXIST && at < WINDOW_NEAR + 1024ul * WINDOW_BYTES; at += WINDOW_BYTES) {
        p = eg_sys6(SYS_mmap, at, WINDOW_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (eg_sys_failed(p))
            continue;
        eg_sys3(SYS_madvise, p, WINDOW_BYTES, MADV_DONTDUMP);
        window = (uint64_t)p;
    }
    return window ? eg_sys6(SYS_mmap, window, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset) : p;
}

static int shm_write_mapped(int fd, uint64_t offset, const void *buf, uint32_t len_bytes)
{
    for (uint32_t at = 0; at < len_bytes; at += WINDOW_BYTES) {
        uint32_t n = len_bytes - at < WINDOW_BYTES ? len_bytes - at : WINDOW_BYTES;
        long p = window_map(fd, offset + at, n);
        if (eg_sys_failed(p))
            return (int)p;
        memcpy((void *)p, (const char *)buf + at, n);
    }
    return 0;
}

static int shm_submit(struct eg_link *link, struct eg_io *io)
{
    io->result = 0;
    if (io->op == EG_IO_WRITE && link->view && io->offset + io->len_bytes <= link->view_bytes)
        memcpy(link->view + io->offset, io->buf, io->len_bytes);
    else if (io->op == EG_IO_WRITE && too_far_for_pwrite(io->offset + io->len_bytes))
        io->result = shm_write_mapped(link->fd, io->offset, io->buf, io->len_bytes);
    else
        io->result = shm_copy(io->op == EG_IO_READ ? SYS_pread64 : SYS_pwrite64, link->fd, io->offset, io->buf, io->len_bytes);
    link->outstanding++;
    eg_io_push(&link->wait, io);
    return 0;
}

static int shm_poll(struct eg_link *link, struct eg_io_queue *done)
{
    int n = 0;
    struct eg_io *io;
    while ((io = eg_io_pop(&link->wait))) {
        eg_io_push(done, io);
        n++;
    }
    link->outstanding = 0;
    return n;
}

static int shm_view(struct eg_link *link, uint64_t bytes, uint64_t near)
{
    for (uint64_t at = near; at < 2 * near; at += near / 8) {
        long p = eg_sys6(SYS_mmap, at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, link->fd, 0);
        if (p == -EEXIST)
            continue;
        if (eg_sys_failed(p))
            return (int)p;
        eg_sys3(SYS_madvise, p, bytes, MADV_DONTDUMP); /* a dump of it would fill the holes of the file with pages, too */
        link->view = (uint8_t *)p;
        link->view_bytes = bytes;
        return 0;
    }
    return -ENOMEM;
}

static void shm_unview(struct eg_link *link)
{
    if (link->view)
        eg_sys2(SYS_munmap, link->view, link->view_bytes);
    link->view = NULL;
}

static void shm_close(struct eg_link *link)
{
    shm_unview(link);
    if (link->fd >= 0)
        eg_sys1(SYS_close, link->fd);
    link->fd = -1;
}

const struct eg_transport eg_transport_shm = {.name = "shm", .submit = shm_submit, .poll = shm_poll, .close = shm_close, .read = shm_read,
                                             .view = shm_view, .unview = shm_unview};
