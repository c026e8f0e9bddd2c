/* eg_control_client.c - one question to a memory server or compute node, for tools. */
#include "proto/eg_control_client.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "proto/eg_wire.h"

enum { ADDR_KIND_RDMA = 3 }; /* EG_ADDR_RDMA of eg_pool.h: proto is a leaf */

const struct eg_control_rdma *eg_control_rdma;

struct call {
    const struct eg_addr *addr;
    int fd;
    void *rdma; /* instead of the descriptor */
    int64_t deadline_ms;
    int timeout_ms;
    const char *server, *daemon; /* what should be there */
    char *why;
    size_t why_bytes;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

__attribute__((format(printf, 3, 4))) static int fail(const struct call *call, int error, const char *format, ...)
{
    va_list ap;
    if (!call->why_bytes) return error;
    int n = snprintf(call->why, call->why_bytes, "%s: ", call->addr->text);
    if (n < 0 || (size_t)n >= call->why_bytes) return error;
    va_start(ap, format);
    vsnprintf(call->why + n, call->why_bytes - (size_t)n, format, ap);
    va_end(ap);
    return error;
}

static int fail_timeout(const struct call *call)
{
    return fail(call, -ETIMEDOUT, "no answer in %d ms: check the address, the network and a firewall in between",
                call->timeout_ms);
}

static int fail_hangup(const struct call *call)
{
    return fail(call, -ECONNRESET, "the server hung up: check that this is an %s, and its messages", call->daemon);
}

static int fail_errno(const struct call *call, int error)
{
    switch (error) {
    case ECONNREFUSED:
    case ENOENT:
        return fail(call, -error,
                    "no %s listens there: start %s --listen %s, or check the address", call->server, call->daemon,
                    call->addr->text);
    case EACCES:
    case EPERM:
        return fail(call, -EACCES,
                    "the socket belongs to another user: run as that user or start a server of your own");
    case ETIMEDOUT:
        return fail_timeout(call);
    case EPIPE:
    case ECONNRESET:
        return fail_hangup(call);
    case ENODEV:
        return fail(call, -error, "no RDMA device leads there: 'endgame doctor' says what is missing, or use tcp:HOST:PORT");
    case ELIBACC:
        return fail(call, -error, "the RDMA library cannot be loaded: install libibverbs1 and librdmacm1, or use tcp:HOST:PORT");
    case EOPNOTSUPP:
    case ENOSYS:
        return fail(call, -error, "the RDMA device has no shared receive queues: use tcp:HOST:PORT");
    case ESHUTDOWN:
        return fail(call, -error, "the server is draining and takes no new programs: use another one");
    case EPROTONOSUPPORT:
        return fail(call, -error, "the server speaks another protocol version: install the same endgame on both sides");
    case ENOMEM:
        return fail(call, -error, "no memory can be locked for RDMA: raise the limit (ulimit -l), or use tcp:HOST:PORT");
    default:
        return fail(call, -error, "cannot reach the %s: %s", call->server, strerror(error));
    }
}

/* Returns: 0 when fd is ready; -ETIMEDOUT. */
static int wait_for(const struct call *call, int fd, short events)
{
    for (;;) {
        int64_t left = call->deadline_ms - now_ms();
        struct pollfd p = { .fd = fd, .events = events };
        int r = poll(&p, 1, left > 0 ? (int)left : 0);
        if (r > 0) return 0;
        if (!r) return -ETIMEDOUT;
        if (errno != EINTR) return -errno;
    }
}

static int open_connection(const struct call *call, int *ret_fd)
{
    const struct sockaddr *sa = (const struct sockaddr *)&call->addr->sa;
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    for (;;) {
        int error = 0, r;
        socklen_t len = sizeof error;
        if (!connect(fd, sa, call->addr->len_bytes)) break;
        if (errno == EAGAIN && sa->sa_family == AF_UNIX) {
            /* A unix server with a full backlog: there is nothing to poll for. */
            if (now_ms() >= call->deadline_ms) {
                close(fd);
                return -ETIMEDOUT;
            }
            poll(NULL, 0, 10);
            continue;
        }
        if (errno == EINPROGRESS || errno == EINTR) {
            r = wait_for(call, fd, POLLOUT);
            if (!r && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len)) r = -errno;
            if (!r && !error) break;
            close(fd);
            return r ? r : -error;
        }
        r = -errno;
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int send_all(const struct call *call, const uint8_t *bytes, size_t n)
{
    if (call->rdma) return eg_control_rdma->send(call->rdma, bytes, n, call->deadline_ms);
    while (n) {
        ssize_t got = send(call->fd, bytes, n, MSG_NOSIGNAL);
        if (got >= 0) {
            bytes += got;
            n -= (size_t)got;
        } else if (errno == EAGAIN) {
            int r = wait_for(call, call->fd, POLLOUT);
            if (r) return r;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int recv_all(const struct call *call, uint8_t *bytes, size_t n)
{
    if (call->rdma) return eg_control_rdma->recv(call->rdma, bytes, n, call->deadline_ms);
    while (n) {
        ssize_t got = recv(call->fd, bytes, n, 0);
        if (got > 0) {
            bytes += got;
            n -= (size_t)got;
        } else if (!got) {
            return -ECONNRESET;
        } else if (errno == EAGAIN) {
            int r = wait_for(call, call->fd, POLLIN);
            if (r) return r;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* The reply's message goes to a terminal: nothing but printable text. */
static const char *printable(char *text)
{
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    return text;
}

static int refused(const struct call *call, Endgame__Reply *reply)
{
    const char *said = printable(reply->message);
    switch (reply->status) {
    case EG_STATUS_VERSION:
        return fail(call, -EPROTONOSUPPORT,
                    "the server speaks another protocol version (%s): install the same endgame on both sides", said);
    case EG_STATUS_DRAINING:
        return fail(call, -ESHUTDOWN, "the server is draining and takes no new programs: use another one");
    case EG_STATUS_NOSPACE:
        return fail(call, -ENOSPC, "the server is full (%s): free some, raise --capacity, or use another one", said);
    case EG_STATUS_QUOTA:
        return fail(call, -EDQUOT, "over the server's quota (%s): raise --quota or add a server", said);
    default:
        return fail(call, -EREMOTEIO, "the server refused: %s (status %u)", said, reply->status);
    }
}

static int converse(const struct call *call, const Endgame__Request *req, Endgame__Reply **ret_reply)
{
    static const uint64_t cookie = 0x656e6467616d6531;
    Endgame__Request versioned = *req;
    struct eg_frame head = { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .cookie = cookie };
    uint8_t *payload;
    int r;

    versioned.version = EG_WIRE_VERSION;
    size_t n = endgame__request__get_packed_size(&versioned);
    if (n > EG_CONTROL_MAX_BYTES) return fail(call, -EMSGSIZE, "the request is too long");
    payload = malloc(sizeof head + EG_CONTROL_MAX_BYTES);
    if (!payload) return fail(call, -ENOMEM, "out of memory");
    head.len_bytes = (uint32_t)n;
    memcpy(payload, &head, sizeof head);
    endgame__request__pack(&versioned, payload + sizeof head);
    r = send_all(call, payload, sizeof head + n);
    if (!r) r = recv_all(call, (uint8_t *)&head, sizeof head);
    if (r) {
        r = r == -ETIMEDOUT ? fail_timeout(call) : fail_errno(call, -r);
        goto out;
    }
    if (head.magic != EG_WIRE_MAGIC || head.type != EG_FRAME_CONTROL || head.len_bytes > EG_CONTROL_MAX_BYTES ||
        head.cookie != cookie) {
        r = fail(call, -EPROTO, "what answers there is not an %s: check the address", call->daemon);
        goto out;
    }
    r = recv_all(call, payload, head.len_bytes);
    if (r) {
        r = r == -ETIMEDOUT ? fail_timeout(call) : fail_errno(call, -r);
        goto out;
    }
    Endgame__Reply *reply = endgame__reply__unpack(NULL, head.len_bytes, payload);
    if (!reply) {
        r = fail(call, -EPROTO, "the server's answer cannot be read: install the same endgame on both sides");
        goto out;
    }
    if (reply->status) {
        r = refused(call, reply);
        endgame__reply__free_unpacked(reply, NULL);
        goto out;
    }
    *ret_reply = reply;
out:
    free(payload);
    return r;
}

int eg_control_call(const struct eg_addr *addr, const Endgame__Request *req, int timeout_ms, Endgame__Reply **ret_reply,
                    char *ret_why, size_t why_bytes)
{
    bool node = req->body_case == ENDGAME__REQUEST__BODY_NODE;
    struct call call = { .addr = addr,
                         .server = node ? "compute node" : "memory server",
                         .daemon = node ? "endgame-compute" : "endgame-memserver",
                         .deadline_ms = now_ms() + timeout_ms,
                         .timeout_ms = timeout_ms,
                         .why = ret_why,
                         .why_bytes = why_bytes };
    bool over_rdma = addr->kind == ADDR_KIND_RDMA;
    int r = !over_rdma ? open_connection(&call, &call.fd)
            : eg_control_rdma ? eg_control_rdma->open(addr, call.deadline_ms, &call.rdma) : -ELIBACC;

    if (r == -ETIMEDOUT) return fail_timeout(&call);
    if (r) return fail_errno(&call, -r);
    r = converse(&call, req, ret_reply);
    if (over_rdma) eg_control_rdma->close(call.rdma);
    else close(call.fd);
    return r;
}
