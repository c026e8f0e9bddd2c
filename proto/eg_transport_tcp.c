/* TCP: pipelined frames on one connection. The server answers in order, so the places of the next replies' payloads are known
 * before they arrive: headers and payloads are read with one system call, straight into the callers' buffers. */
#include "proto/eg_load.h"
#include "proto/eg_sys.h"
#include "proto/eg_transport.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define IOV_MAX_BATCH 32

static int tcp_submit(struct eg_link *link, struct eg_io *io)
{
    int write = io->op == EG_IO_WRITE;
    if (link->fd < 0)
        return -EPIPE;
    io->frame = (struct eg_frame){
        .magic = EG_WIRE_MAGIC,
        .type = write ? EG_FRAME_WRITE : EG_FRAME_READ,
        .len_bytes = write ? io->len_bytes : 0,
        .arg = io->len_bytes,
        .offset = io->offset,
        .cookie = link->next_cookie++,
    };
    link->outstanding++;
    eg_io_push(&link->send, io);
    return 0;
}

/* Adds the part of two consecutive pieces that is left after *skip bytes. */
static int iov_add(struct iovec *iov, int n, void *base, uint32_t len, uint32_t *skip)
{
    if (*skip >= len) {
        *skip -= len;
        return n;
    }
    iov[n] = (struct iovec){(char *)base + *skip, len - *skip};
    *skip = 0;
    return n + 1;
}

static int tcp_send(struct eg_link *link)
{
    while (link->send.head) {
        struct iovec iov[IOV_MAX_BATCH];
        int n = 0;
        uint32_t skip = link->send_done_bytes;
        for (struct eg_io *io = link->send.head; io && n + 2 <= IOV_MAX_BATCH; io = io->next) {
            n = iov_add(iov, n, &io->frame, sizeof io->frame, &skip);
            if (io->frame.len_bytes)
                n = iov_add(iov, n, io->buf, io->frame.len_bytes, &skip);
        }
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
        long sent = eg_sys3(SYS_sendmsg, link->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == -EINTR)
            continue;
        if (sent == -EAGAIN) {
            link->want_write = 1;
            return 0;
        }
        if (sent < 0)
            return (int)sent;
        link->send_done_bytes += (uint32_t)sent;
        struct eg_io *io;
        while ((io = link->send.head)) {
            uint32_t whole = (uint32_t)sizeof io->frame + io->frame.len_bytes;
            if (link->send_done_bytes < whole)
                break;
            link->send_done_bytes -= whole;
            eg_io_push(&link->wait, eg_io_pop(&link->send));
        }
    }
    link->want_write = 0;
    return 0;
}

static uint32_t reply_payload(const struct eg_io *io)
{
    return io->op == EG_IO_READ ? io->len_bytes : 0;
}

static int reply_check(const struct eg_frame *f, const struct eg_io *io)
{
    uint8_t want = io->op == EG_IO_READ ? EG_FRAME_READ_REPLY : EG_FRAME_WRITE_REPLY;
    if (f->magic != EG_WIRE_MAGIC || f->type != want || f->cookie != io->frame.cookie || f->status != EG_STATUS_OK ||
        f->len_bytes != reply_payload(io))
        return -EPROTO;
    return 0;
}

/* How many of the first `have` bytes of the replies belong to whole ones; those complete. Returns: how many did, -EPROTO. */
static int replies_take(struct eg_link *link, uint32_t have, struct eg_io_queue *done)
{
    int n = 0;
    for (struct eg_io *io; (io = link->wait.head) && have >= sizeof *link->reply; n++) {
        if (n == EG_LINK_REPLIES || reply_check(&link->reply[n], io))
            break;
        uint32_t whole = (uint32_t)sizeof *link->reply + reply_payload(io);
        if (have < whole)
            break;
        have -= whole;
        link->outstanding--;
        eg_io_pop(&link->wait);
        io->result = 0;
        eg_io_push(done, io);
    }
    int more = link->wait.head && have && n < EG_LINK_REPLIES;
    if (more && n)
        link->reply[0] = link->reply[n];
    link->recv_done_bytes = have;
    return more && have >= sizeof *link->reply && reply_check(&link->reply[0], link->wait.head) ? -EPROTO : n;
}

static int tcp_recv(struct eg_link *link, struct eg_io_queue *done)
{
    int completed = 0;
    while (link->wait.head) {
        struct iovec iov[2 * EG_LINK_REPLIES];
        int n = 0, k = 0;
        uint32_t skip = link->recv_done_bytes, room = 0;
        for (struct eg_io *io = link->wait.head; io && k < EG_LINK_REPLIES; io = io->next, k++) {
            n = iov_add(iov, n, &link->reply[k], sizeof link->reply[k], &skip);
            if (reply_payload(io))
                n = iov_add(iov, n, io->buf, reply_payload(io), &skip);
        }
        for (int i = 0; i < n; i++)
            room += (uint32_t)iov[i].iov_len;
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
        long got = eg_sys3(SYS_recvmsg, link->fd, &msg, MSG_DONTWAIT);
        if (got == -EINTR)
            continue;
        if (got == -EAGAIN)
            return completed;
        if (got <= 0)
            return got < 0 ? (int)got : -ECONNRESET;
        int came = replies_take(link, link->recv_done_bytes + (uint32_t)got, done);
        if (came < 0)
            return came;
        completed += came;
        if (came && got < room)
            return completed; /* that was all */
    }
    return completed;
}

static int tcp_poll(struct eg_link *link, struct eg_io_queue *done)
{
    if (link->fd < 0)
        return -EPIPE;
    int idle = !link->wait.head; /* what is sent now cannot be answered yet */
    int rc = tcp_send(link);
    if (rc < 0 || idle)
        return rc;
    return tcp_recv(link, done);
}

static void tcp_close(struct eg_link *link)
{
    if (link->fd >= 0)
        eg_sys1(SYS_close, link->fd);
    link->fd = -1;
    link->local = 0;
}

static int tcp_ready(const struct eg_link *link)
{
    char first;
    return link->send.head || eg_sys6(SYS_recvfrom, link->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0) != -EAGAIN;
}

static int tcp_beside(struct eg_link *link)
{
    if (!link->local)
        link->local = eg_load_is_local(link->fd) ? 1 : 2;
    return link->local == 1 && eg_load_beside(link->fd);
}

const struct eg_transport eg_transport_tcp = {
    .name = "tcp", .submit = tcp_submit, .poll = tcp_poll, .close = tcp_close, .ready = tcp_ready, .beside = tcp_beside};
