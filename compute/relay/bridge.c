/* bridge.c - bytes between a socket and an RDMA connection. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "compute/relay/relay.h"

#define OUT_FIRST_BYTES (64u << 10)
#define READS_PER_TURN 8

static size_t out_bytes(const struct egr_bridge *b) { return b->out_end - b->out_at; }

static void set_event(struct event *event, bool *is_on, bool on)
{
    if (*is_on == on) return;
    *is_on = on;
    if (on) event_add(event, NULL);
    else event_del(event);
}

static void moved(struct egr_bridge *b)
{
    b->moved = true;
    b->moved_ns = eg_sys_now_ns();
}

static void end(struct egr_bridge *b)
{
    b->state = EGR_DEAD;
    set_event(b->readable, &b->reading, false);
    set_event(b->writable, &b->writing, false);
}

/* --- from RDMA to the socket --------------------------------------------------------------------------------------------- */

static bool out_grow(struct egr_bridge *b, size_t bytes)
{
    size_t room = b->out_room ? b->out_room : OUT_FIRST_BYTES;
    if (b->out_at) memmove(b->out, b->out + b->out_at, out_bytes(b));
    b->out_end -= b->out_at;
    b->out_at = 0;
    while (room - b->out_end < bytes) room *= 2;
    if (room == b->out_room) return true;
    uint8_t *out = realloc(b->out, room);
    if (!out) return false;
    b->out = out;
    b->out_room = room;
    return true;
}

static void on_message(struct eg_rdma_ep *ep, const void *data, uint32_t len_bytes)
{
    struct egr_bridge *b = ep->user;
    if (b->deaf) return;
    if (b->out_room - b->out_end < len_bytes && !out_grow(b, len_bytes)) {
        eg_rdma_fail(ep, -ENOMEM);
        return;
    }
    memcpy(b->out + b->out_end, data, len_bytes);
    b->out_end += len_bytes;
    moved(b);
}

/* Writes what the socket takes. A socket whose other side is gone takes nothing, but may still have something to read. */
static void flush(struct egr_bridge *b)
{
    bool full = false;
    if (b->state == EGR_DEAD) return;
    while (!b->deaf && !full && out_bytes(b)) {
        ssize_t n = send(b->fd, b->out + b->out_at, out_bytes(b), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            b->out_at += (size_t)n;
            moved(b);
        } else if (n < 0 && errno == EAGAIN) {
            full = true;
        } else if (n == 0 || errno != EINTR) {
            b->deaf = true;
        }
    }
    if (b->deaf || !out_bytes(b)) b->out_at = b->out_end = 0;
    set_event(b->writable, &b->writing, full);
    if (b->state == EGR_LAST_OUT && !out_bytes(b)) end(b);
}

/* --- from the socket to RDMA --------------------------------------------------------------------------------------------- */

/* Sends what was read. Returns: 0: all of it; -EAGAIN: the peer has no room; -errno: the connection has ended. */
static int forward(struct egr_bridge *b)
{
    while (b->in_at < b->in_end) {
        uint32_t n = b->in_end - b->in_at;
        if (n > EG_RDMA_PAYLOAD_BYTES) n = EG_RDMA_PAYLOAD_BYTES;
        int r = eg_rdma_send(&b->ep, b->in + b->in_at, n);
        if (r) return r;
        b->in_at += n;
        moved(b);
    }
    return 0;
}

/* Returns: false: the socket has ended. */
static bool refill(struct egr_bridge *b)
{
    ssize_t n;
    do n = recv(b->fd, b->in, sizeof b->in, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    b->in_at = 0;
    b->in_end = n > 0 ? (uint32_t)n : 0;
    return n > 0 || (n < 0 && errno == EAGAIN);
}

static void take(struct egr_bridge *b)
{
    int r = forward(b);
    for (int i = 0; !r && b->state == EGR_OPEN && i < READS_PER_TURN; i++) {
        if (!refill(b)) b->state = EGR_LAST_IN;
        if (!b->in_end) break;
        r = forward(b);
    }
    if (r && r != -EAGAIN) {
        egr_bridge_lost(b);
        return;
    }
    set_event(b->readable, &b->reading, b->state == EGR_OPEN && !r);
    /* The peer's device has all of it only when it says so. */
    if (b->state != EGR_LAST_IN || r) return;
    if (b->ep.sq_head == b->ep.sq_tail) end(b);
    else if (eg_rdma_keepalive(&b->ep)) egr_bridge_lost(b);
}

/* --- both ---------------------------------------------------------------------------------------------------------------- */

/* Does the socket's other side say something that is not on its way yet? */
static bool says(const struct egr_bridge *b)
{
    uint8_t byte;
    return b->in_at < b->in_end || recv(b->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

bool egr_bridge_turn(struct egr_bridge *b)
{
    struct eg_io_queue none = { 0 };
    b->moved = false;
    if (out_bytes(b)) flush(b);
    /* While too much waits for the socket, its event is on. But a worker that does not read may be waiting to be read itself. */
    if ((b->state == EGR_OPEN || b->state == EGR_LAST_IN) && (out_bytes(b) < EGR_OUT_MOST_BYTES || says(b))) {
        if (eg_rdma_poll(&b->ep, &none) < 0) egr_bridge_lost(b);
        else take(b);
        flush(b);
    }
    return b->moved;
}

void egr_bridge_lost(struct egr_bridge *b)
{
    struct eg_io_queue none = { 0 };
    if (b->state == EGR_DEAD || b->state == EGR_LAST_OUT) return;
    if (b->ep.domain) {
        (void)!eg_rdma_poll(&b->ep, &none); /* what came before the end */
        b->ep.id->context = NULL;
        eg_rdma_close(&b->ep);
    }
    bool was_connecting = b->state == EGR_CONNECTING;
    set_event(b->readable, &b->reading, false);
    b->state = EGR_LAST_OUT;
    if (was_connecting) end(b);
    else flush(b);
}

void egr_bridge_opened(struct egr_bridge *b)
{
    b->state = EGR_OPEN;
    set_event(b->readable, &b->reading, true);
    egr_bridge_heat(b);
}

void egr_bridge_heat(struct egr_bridge *b)
{
    if (b->hot) return;
    b->hot = true;
    TAILQ_INSERT_TAIL(&b->relay->hot, b, hot_entry);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    struct egr_bridge *b = arg;
    (void)fd;
    (void)what;
    egr_bridge_heat(b);
    egr_relay_run(b->relay);
}

struct egr_bridge *egr_bridge_new(struct egr_relay *relay, int fd)
{
    struct egr_bridge *b = relay->n_bridges < EGR_BRIDGES_MAX ? calloc(1, sizeof *b) : NULL;
    if (!b) {
        close(fd);
        return NULL;
    }
    b->relay = relay;
    b->fd = fd;
    b->ep.on_message = on_message;
    b->ep.user = b;
    b->readable = event_new(relay->base, fd, EV_READ | EV_PERSIST, on_event, b);
    b->writable = event_new(relay->base, fd, EV_WRITE | EV_PERSIST, on_event, b);
    relay->n_bridges++;
    LIST_INSERT_HEAD(&relay->bridges, b, entry);
    if (b->readable && b->writable) return b;
    egr_bridge_free(b);
    return NULL;
}

void egr_bridge_free(struct egr_bridge *b)
{
    struct egr_relay *relay = b->relay;
    if (b->readable) event_free(b->readable);
    if (b->writable) event_free(b->writable);
    if (b->hot) TAILQ_REMOVE(&relay->hot, b, hot_entry);
    LIST_REMOVE(b, entry);
    relay->n_bridges--;
    eg_rdma_close(&b->ep);
    if (b->id) relay->verbs->destroy_id(b->id);
    close(b->fd);
    free(b->out);
    free(b);
}
