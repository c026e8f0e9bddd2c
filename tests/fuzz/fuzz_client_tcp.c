/* The client's end of a tcp data connection: a peer that answers with arbitrary bytes, and with good replies that may have been
 * tampered with, in pieces of any size. A model that knows what was sent says what must complete, and when the link is dead. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "proto/eg_transport.h"

#define REQUESTS 64
#define STREAM_BYTES 65536

static struct eg_io io[REQUESTS];
static uint8_t *buf[REQUESTS]; /* of their own size each, so that ASan sees a byte too much */
static uint8_t ones[8192]; /* what a write holds, and must go on holding */
static uint32_t n_submitted, n_done;
static uint8_t stream[STREAM_BYTES]; /* everything that the peer has said so far */
static size_t stream_len, stream_taken; /* taken: by completed requests */

struct input {
    const uint8_t *at, *end;
};

static uint8_t u8(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static uint32_t payload_of(uint32_t k)
{
    return io[k].op == EG_IO_READ ? io[k].len_bytes : 0;
}

static void say(int fd, const void *data, size_t n)
{
    if (stream_len + n > sizeof stream) return;
    ssize_t sent = send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) return;
    memcpy(stream + stream_len, data, (size_t)sent);
    stream_len += (size_t)sent;
}

/* From the whole stream: how many of the n_sent requests that are out have their reply, and whether a complete header is wrong. */
static uint32_t expected(uint32_t n_sent, int *ret_dead)
{
    size_t at = 0;
    uint32_t n = 0;
    *ret_dead = 0;
    while (n < n_sent && stream_len - at >= sizeof(struct eg_frame)) {
        struct eg_frame f;
        memcpy(&f, stream + at, sizeof f);
        uint32_t payload = payload_of(n);
        uint8_t type = io[n].op == EG_IO_READ ? EG_FRAME_READ_REPLY : EG_FRAME_WRITE_REPLY;
        if (f.magic != EG_WIRE_MAGIC || f.type != type || f.status || f.len_bytes != payload || f.cookie != n) {
            *ret_dead = 1;
            break;
        }
        if (stream_len - at < sizeof f + payload) break;
        at += sizeof f + payload;
        n++;
    }
    return n;
}

static int collect(struct eg_link *link)
{
    struct eg_io_queue done = { NULL, NULL };
    int idle = !link->wait.head, dead, n = 0, rc = link->ops->poll(link, &done);
    uint32_t n_sent = n_submitted;
    for (const struct eg_io *q = link->send.head; q; q = q->next) n_sent--;
    for (struct eg_io *d; (d = eg_io_pop(&done)); n++) {
        if (n_done >= n_submitted || d != &io[n_done] || d->result) abort();
        stream_taken += sizeof d->frame;
        if (memcmp(d->buf, payload_of(n_done) ? stream + stream_taken : ones, d->len_bytes) != 0) abort();
        stream_taken += payload_of(n_done++);
    }
    if (rc >= 0 && rc != n) abort();
    if (n_done > expected(n_sent, &dead)) abort();
    if (rc == -EPROTO && !dead) abort();
    if (rc >= 0 && !idle) { /* everything said was seen; where nothing was awaited before, there was nothing to be seen */
        if (n_done != expected(n_sent, &dead) || dead) abort();
        if (link->outstanding != n_submitted - n_done) abort();
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, data + size };
    int fds[2], rc = 0;
    uint32_t n_answered = 0;
    n_submitted = n_done = 0;
    stream_len = stream_taken = 0;
    memset(ones, 1, sizeof ones);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds)) abort();
    struct eg_link link = { .ops = &eg_transport_tcp, .fd = fds[0] };
    for (int turn = 0; in.at < in.end && rc >= 0 && turn < 300; turn++) {
        uint8_t what = u8(&in), sink[16384];
        switch (what & 7) {
        case 0:
        case 1:
            if (n_submitted == REQUESTS) break;
            io[n_submitted] = (struct eg_io){ .op = what & 8 ? EG_IO_READ : EG_IO_WRITE, .len_bytes = 1 + 16u * u8(&in), .result = 1 };
            if (!(buf[n_submitted] = malloc(io[n_submitted].len_bytes))) abort();
            memset(buf[n_submitted], 1, io[n_submitted].len_bytes);
            io[n_submitted].buf = buf[n_submitted];
            if (link.ops->submit(&link, &io[n_submitted++])) abort();
            break;
        case 2:
        case 3:
        case 4: { /* the reply that is due, in up to two pieces, maybe with one byte changed */
            uint32_t k = n_answered;
            if (k >= n_submitted) break;
            uint8_t message[sizeof(struct eg_frame) + 4096] = { 0 };
            struct eg_frame f = { .magic = EG_WIRE_MAGIC, .cookie = k, .len_bytes = payload_of(k) };
            f.type = io[k].op == EG_IO_READ ? EG_FRAME_READ_REPLY : EG_FRAME_WRITE_REPLY;
            memset(message, (int)k, sizeof message);
            memcpy(message, &f, sizeof f);
            if ((what & 0xe0) == 0xe0) {
                uint8_t at = u8(&in) % sizeof f;
                message[at] = (uint8_t)(message[at] ^ u8(&in));
            }
            size_t n = sizeof f + f.len_bytes, cut = what & 8 ? u8(&in) * 16u % n : 0;
            rc = collect(&link); /* the request goes out before its answer comes */
            if (rc < 0) break;
            say(fds[1], message, cut);
            if (cut && what & 16) rc = collect(&link);
            if (rc >= 0) say(fds[1], message + cut, n - cut);
            n_answered++;
            break;
        }
        case 5: {
            size_t n = u8(&in) & 63;
            if (n > (size_t)(in.end - in.at)) n = (size_t)(in.end - in.at);
            say(fds[1], in.at, n);
            in.at += n;
            break;
        }
        case 6:
            if (what & 8) shutdown(fds[1], SHUT_WR);
            while (recv(fds[1], sink, sizeof sink, MSG_DONTWAIT) > 0) { }
            break;
        default:
            rc = collect(&link);
        }
    }
    if (rc >= 0) (void)collect(&link);
    for (uint32_t k = 0; k < n_submitted; k++) {
        if (k < n_done ? io[k].result != 0 : io[k].result != 1) abort();
        free(buf[k]);
    }
    link.ops->close(&link);
    close(fds[1]);
    return 0;
}
