/* Shared memory: the arena is a memfd of the server's. pread and pwrite rather than a mapping: no page tables, no resident
 * size of the program's own, and one copy either way. */
#include "proto/eg_sys.h"
#include "proto/eg_transport.h"

#include <errno.h>

static int shm_submit(struct eg_link *link, struct eg_io *io)
{
    long nr = io->op == EG_IO_READ ? SYS_pread64 : SYS_pwrite64;
    uint32_t at = 0;
    io->result = 0;
    while (at < io->len_bytes) {
        long n = eg_sys4(nr, link->fd, (char *)io->buf + at, io->len_bytes - at, io->offset + at);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            io->result = n < 0 ? (int)n : -EIO;
            break;
        }
        at += (uint32_t)n;
    }
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

static void shm_close(struct eg_link *link)
{
    if (link->fd >= 0)
        eg_sys1(SYS_close, link->fd);
    link->fd = -1;
}

const struct eg_transport eg_transport_shm = {"shm", shm_submit, shm_poll, NULL, shm_close, 0};
