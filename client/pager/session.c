/* session.c - the control plane as the runtime speaks it: one Request, one Reply, synchronous, bounded in time. */
#include "client/pager/eg_pager.h"
#include "client/pager/eg_verbs_call.h"
#include "proto/eg_pb.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/in.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#define RPC_TIMEOUT_MS 60000
#define RPC_SPIN_NS 50000
#define RPC_MAX_BYTES 8192

/* Field numbers of control.proto. */
enum { REQ_VERSION = 1, REQ_OPEN = 2, REQ_ATTACH = 3, REQ_RESERVE = 4, REQ_LEASE = 5, REQ_RETURN = 6, REQ_SNAPSHOT = 7,
       REQ_DROP_SNAPSHOT = 8, REQ_BREAK = 9 };
enum { REP_STATUS = 1, REP_MESSAGE = 2, REP_OPEN = 3, REP_LEASE = 4, REP_SNAPSHOT = 5, REP_BREAK = 6 };

struct rpc {
    uint8_t out[RPC_MAX_BYTES], in[RPC_MAX_BYTES];
    uint32_t status;
    char message[160];
    struct eg_pb_reader body; /* the reply's submessage */
    int memory_fd;
};
static struct rpc rpc; /* the lock is held */

static int wait_for(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    long rc;
    do
        rc = eg_sys3(SYS_poll, &p, 1, RPC_TIMEOUT_MS);
    while (rc == -EINTR);
    return rc < 0 ? (int)rc : rc == 0 ? -ETIMEDOUT : 0;
}

static int send_all(int fd, const void *buf, size_t len)
{
    const char *p = buf;
    while (len) {
        long n = eg_sys6(SYS_sendto, fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0);
        if (n == -EINTR)
            continue;
        if (n == -EAGAIN) {
            int rc = wait_for(fd, POLLOUT);
            if (rc)
                return rc;
            continue;
        }
        if (n < 0)
            return (int)n;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int recv_all(int fd, void *buf, size_t len, int *ret_fd)
{
    char *p = buf;
    uint64_t spin_until = eg_sys_now_ns() + RPC_SPIN_NS;
    while (len) {
        union {
            struct cmsghdr h;
            char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = {p, len};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        if (ret_fd) {
            msg.msg_control = &control;
            msg.msg_controllen = sizeof control;
        }
        long n = eg_sys3(SYS_recvmsg, fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n == -EINTR)
            continue;
        if (n == -EAGAIN) {
            if (eg_sys_now_ns() < spin_until) {
                eg_sys0(SYS_sched_yield);
                continue;
            }
            int rc = wait_for(fd, POLLIN);
            if (rc)
                return rc;
            continue;
        }
        if (n <= 0)
            return n < 0 ? (int)n : -ECONNRESET;
        if (ret_fd && msg.msg_controllen >= sizeof(struct cmsghdr) && control.h.cmsg_level == SOL_SOCKET &&
            control.h.cmsg_type == SCM_RIGHTS && control.h.cmsg_len >= CMSG_LEN(sizeof(int)))
            memcpy(ret_fd, CMSG_DATA(&control.h), sizeof(int));
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int status_errno(uint32_t status)
{
    switch (status) {
    case EG_STATUS_OK: return 0;
    case EG_STATUS_NOSPACE: return -ENOSPC;
    case EG_STATUS_QUOTA: return -EDQUOT;
    case EG_STATUS_NOENT: return -ENOENT;
    default: return -EPROTO;
    }
}

/* What control frames travel in: a socket, or a link's message stream. */
struct channel {
    int fd;
    struct eg_link *rdma; /* NULL: the socket */
};

static int channel_send(const struct channel *c, const void *buf, size_t len)
{
    return c->rdma ? eg_verbs_send(c->rdma, buf, len, RPC_TIMEOUT_MS) : send_all(c->fd, buf, len);
}

static int channel_recv(const struct channel *c, void *buf, size_t len, int *ret_fd)
{
    return c->rdma ? eg_verbs_recv(c->rdma, buf, len, RPC_TIMEOUT_MS) : recv_all(c->fd, buf, len, ret_fd);
}

static struct channel channel_of(struct eg_server *s)
{
    return (struct channel){s->control_fd, s->link.ops == &eg_transport_rdma ? &s->link : NULL};
}

/* A descriptor that comes along in a message is lost where there is no number for it. */
static int fds_full(int fd)
{
    long n = eg_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
    if (!eg_sys_failed(n))
        eg_sys1(SYS_close, n);
    return n == -EMFILE;
}

/* Sends the request `field` with the body in *body, reads the reply whose body is field `want` (0: none). */
static int call(const struct channel *c, uint32_t field, const struct eg_pb_writer *body, uint32_t want)
{
    struct eg_pb_writer w = {.buf = rpc.out + sizeof(struct eg_frame), .cap = sizeof rpc.out - sizeof(struct eg_frame)};
    eg_pb_put_varint(&w, REQ_VERSION, EG_WIRE_VERSION);
    eg_pb_put_bytes(&w, field, body->buf, body->len);
    if (w.overflow || body->overflow)
        return -E2BIG;
    struct eg_frame f = {.magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .len_bytes = (uint32_t)w.len, .cookie = field};
    memcpy(rpc.out, &f, sizeof f);
    int rc = channel_send(c, rpc.out, sizeof f + w.len);
    if (rc)
        return rc;
    rpc.memory_fd = -1;
    rpc.status = EG_STATUS_OK;
    rpc.message[0] = 0;
    rpc.body = (struct eg_pb_reader){rpc.in, rpc.in};
    struct rlimit old;
    int more = want == REP_OPEN && fds_full(c->fd) && eg_fds_more(&old);
    rc = channel_recv(c, &f, sizeof f, &rpc.memory_fd);
    if (more)
        eg_fds_less(&old);
    if (rc)
        return rc;
    if (f.magic != EG_WIRE_MAGIC || f.type != EG_FRAME_CONTROL || f.len_bytes > sizeof rpc.in)
        return -EPROTO;
    rc = channel_recv(c, rpc.in, f.len_bytes, NULL);
    if (rc)
        return rc;
    struct eg_pb_reader r = {rpc.in, rpc.in + f.len_bytes};
    struct eg_pb_field pf;
    int seen = 0;
    while ((rc = eg_pb_next(&r, &pf)) > 0) {
        if (pf.number == REP_STATUS && pf.wire_type == 0) {
            rpc.status = (uint32_t)pf.value;
        } else if (pf.number == REP_MESSAGE && pf.wire_type == 2) {
            size_t n = pf.len < sizeof rpc.message - 1 ? pf.len : sizeof rpc.message - 1;
            memcpy(rpc.message, pf.data, n);
            rpc.message[n] = 0;
        } else if (want && pf.number == want && pf.wire_type == 2) {
            rpc.body = (struct eg_pb_reader){pf.data, pf.data + pf.len};
            seen = 1;
        }
    }
    if (rc < 0)
        return rc;
    rc = status_errno(rpc.status);
    return rc ? rc : want && !seen ? -EPROTO : 0;
}

static int is_refusal(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT;
}

/* A call on an open session; anything but a refusal means that the server is lost. */
static int session_call(struct eg_server *s, uint32_t field, const struct eg_pb_writer *body, uint32_t want)
{
    if (s->dead || s->control_fd < 0)
        return -ENOTCONN;
    if (eg_rt.foreign)
        return -ENOSPC; /* its descriptors may be others */
    struct channel c = channel_of(s);
    int rc = call(&c, field, body, want);
    if (rc && !is_refusal(rc))
        eg_session_lost(s, rc);
    return rc;
}

void eg_session_keep(void)
{
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        const struct sockaddr_un *sa = (const struct sockaddr_un *)(const void *)s->config->sockaddr;
        if (s->config->kind == EG_ADDR_UNIX && sa->sun_path[0])
            s->path_fd = eg_fd_high((int)eg_sys4(SYS_openat, AT_FDCWD, sa->sun_path, O_PATH | O_CLOEXEC, 0));
    }
}

/* By its name, or, where this process does not get there any more, by what is left from when it did. */
static long dial_path(long fd, const struct eg_server *s)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    long rc = eg_sys3(SYS_connect, fd, s->config->sockaddr, s->config->sockaddr_len);
    if ((rc != -EACCES && rc != -ENOENT) || s->config->kind != EG_ADDR_UNIX || s->path_fd < 0)
        return rc;
    eg_fd_path(s->path_fd, sa.sun_path);
    return eg_sys3(SYS_connect, fd, &sa, sizeof sa);
}

static int dial(const struct eg_server *s)
{
    const struct eg_pool_server *c = s->config;
    int family = c->kind == EG_ADDR_UNIX ? AF_UNIX : ((const struct sockaddr *)c->sockaddr)->sa_family;
    long fd = eg_fd_new(SYS_socket, family, SOCK_STREAM | SOCK_CLOEXEC, 0, 0);
    if (eg_sys_failed(fd))
        return (int)fd;
    long rc;
    do
        rc = dial_path(fd, s);
    while (rc == -EINTR);
    if (eg_sys_failed(rc) && rc != -EISCONN) {
        eg_sys1(SYS_close, fd);
        return (int)rc;
    }
    if (c->kind == EG_ADDR_TCP) {
        int one = 1, idle = 10, interval = 5, count = 3, dead_ms = 30000, buf = 1 << 20;
        eg_sys5(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        eg_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
        eg_sys5(SYS_setsockopt, fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
        eg_sys5(SYS_setsockopt, fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
        eg_sys5(SYS_setsockopt, fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
        eg_sys5(SYS_setsockopt, fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof dead_ms);
        eg_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDBUF, &buf, sizeof buf);
        eg_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVBUF, &buf, sizeof buf);
    }
    return eg_fd_high((int)fd);
}

static int attach_data(struct eg_server *s)
{
    uint8_t buf[64];
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    int fd = dial(s);
    if (fd < 0)
        return fd;
    eg_pb_put_fixed64(&w, 1, s->agent);
    eg_pb_put_fixed64(&w, 2, s->secret);
    struct channel c = {.fd = fd};
    int rc = call(&c, REQ_ATTACH, &w, 0);
    if (rc) {
        eg_sys1(SYS_close, fd);
        return rc;
    }
    s->link = (struct eg_link){.ops = &eg_transport_tcp, .fd = fd};
    return 0;
}

/* rdma: the descriptor belongs to the link, and goes with it. */
static void control_close(struct eg_server *s)
{
    if (s->link.ops == &eg_transport_rdma)
        s->link.ops->close(&s->link);
    else if (s->control_fd >= 0)
        eg_sys1(SYS_close, s->control_fd);
    s->control_fd = -1;
}

static int session_open(struct eg_server *s, uint64_t snapshot)
{
    uint8_t buf[128];
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    struct eg_pb_field pf;
    int rdma = s->config->kind == EG_ADDR_RDMA;
    int rc = rdma ? eg_verbs_dial(s) : dial(s);
    if (rc < 0)
        return rc;
    struct channel c = {rdma ? s->control_fd : rc, rdma ? &s->link : NULL};
    eg_pb_put_bytes(&w, 1, eg_rt.pool->token, EG_TOKEN_BYTES);
    eg_pb_put_bytes(&w, 2, eg_rt.row->program, eg_strlen(eg_rt.row->program));
    eg_pb_put_varint(&w, 3, eg_rt.pid);
    if (snapshot)
        eg_pb_put_fixed64(&w, 4, snapshot);
    rc = call(&c, REQ_OPEN, &w, REP_OPEN);
    uint64_t slab_bytes = 0;
    while (!rc && (rc = eg_pb_next(&rpc.body, &pf)) > 0) {
        rc = 0;
        switch (pf.number) {
        case 1: s->agent = pf.value; break;
        case 2: s->secret = pf.value; break;
        case 3: s->n_slabs = pf.value / EG_SLAB_BYTES; break;
        case 4: slab_bytes = pf.value; break;
        default: break;
        }
    }
    if (!rc && slab_bytes != EG_SLAB_BYTES)
        rc = -EPROTO;
    s->control_fd = c.fd;
    if (eg_rt.inlined && eg_rt.active)
        eg_pager_kick(); /* its thread watches the connection */
    if (!rc && rdma) {
        if (!s->link.keys && !(s->link.keys = eg_sys_map(s->n_slabs * sizeof *s->link.keys)))
            rc = -ENOMEM;
    } else if (!rc && s->config->kind == EG_ADDR_UNIX) {
        if (rpc.memory_fd < 0)
            rc = -EPROTO;
        else
            s->link = (struct eg_link){.ops = &eg_transport_shm, .fd = eg_fd_high(rpc.memory_fd)};
    } else if (!rc) {
        rc = attach_data(s);
    }
    if (rc) {
        if (rpc.memory_fd >= 0 && s->link.fd != rpc.memory_fd)
            eg_sys1(SYS_close, rpc.memory_fd);
        control_close(s);
        return rc;
    }
    size_t n = eg_strlen(eg_rt.row->transport);
    const char *name = s->link.ops->name;
    if (n == 0 || memcmp(eg_rt.row->transport, "none", 4) == 0)
        eg_str_put(eg_rt.row->transport, sizeof eg_rt.row->transport, 0, name);
    else if (memcmp(eg_rt.row->transport, name, 3) != 0 && n < 5)
        eg_str_put(eg_rt.row->transport, sizeof eg_rt.row->transport, eg_str_put(eg_rt.row->transport, 16, n, "+"), name);
    eg_rt.row->flags |= EG_ROW_ACTIVE;
    return 0;
}

int eg_session_need(void)
{
    int rc = -ENOTCONN, usable = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        if (s->dead)
            continue;
        if (s->control_fd < 0 && eg_rt.foreign)
            continue;
        if (s->control_fd < 0) {
            if (!s->free && !(s->free = eg_sys_map(EG_FREE_SLABS * sizeof *s->free)))
                return -ENOMEM;
            int err = session_open(s, 0);
            if (err) {
                s->dead = 1;
                rc = err;
                eg_warn_once(EG_WARN_SERVER,
                             s->config->kind == EG_ADDR_RDMA && err == -ENOMEM
                                 ? "cannot lock memory for RDMA (raise ulimit -l), going on without memory server: "
                                 : "no session with memory server, going on without it: ",
                             s->config->text);
                continue;
            }
        }
        usable++;
    }
    return usable ? 0 : rc;
}

static int reserve_on(struct eg_server *s, uint32_t slabs)
{
    uint8_t buf[16];
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    eg_pb_put_varint(&w, 1, slabs);
    int rc = session_call(s, REQ_RESERVE, &w, 0);
    if (!rc)
        s->reserved = slabs;
    return rc;
}

int eg_session_reserve(int64_t pages)
{
    int64_t need = (pages + EG_SLAB_PAGES - 1) / EG_SLAB_PAGES, have = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        have += eg_rt.server[i].dead ? 0 : eg_rt.server[i].reserved;
    if (need <= have)
        return 0;
    if (eg_session_need())
        return -ENOMEM;
    /* A little ahead, so that a growing program does not ask each time; then exactly; then what each server can give. */
    for (uint32_t pass = 0; pass < 2 && have < need; pass++) {
        for (uint32_t k = 0; k < eg_rt.n_servers && have < need; k++) {
            struct eg_server *s = &eg_rt.server[(eg_rt.next_server + k) % eg_rt.n_servers];
            if (s->dead || s->control_fd < 0)
                continue;
            uint64_t want = (uint64_t)(need - have);
            if (pass == 0) {
                want += 32;
                if (!reserve_on(s, s->reserved + (uint32_t)want))
                    have += (int64_t)want;
                continue;
            }
            for (; want > 0 && have < need; want /= 2) {
                if (!reserve_on(s, s->reserved + (uint32_t)want))
                    have += (int64_t)want;
                if (want > (uint64_t)(need - have) * 2)
                    want = (uint64_t)(need - have) * 2;
            }
        }
    }
    eg_rt.next_server++;
    return have >= need ? 0 : -ENOMEM;
}

void eg_session_relax(int64_t pages)
{
    int64_t need = (pages + EG_SLAB_PAGES - 1) / EG_SLAB_PAGES, have = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        have += eg_rt.server[i].reserved;
    for (uint32_t i = 0; i < eg_rt.n_servers && have > need + 256; i++) {
        struct eg_server *s = &eg_rt.server[i];
        int64_t excess = have - need - 32;
        uint32_t keep = s->reserved > excess ? (uint32_t)(s->reserved - excess) : 0;
        uint32_t before = s->reserved;
        if (!s->dead && s->control_fd >= 0 && !reserve_on(s, keep))
            have -= before - keep;
    }
}

/* The server names slabs and, over rdma, their keys. Returns: 0, -EPROTO. */
static int keys_note(struct eg_server *s, const uint32_t *slabs, size_t n, const uint32_t *keys, size_t n_keys)
{
    for (size_t k = 0; k < n; k++)
        if (slabs[k] >= s->n_slabs)
            return -EPROTO;
    if (s->link.ops != &eg_transport_rdma)
        return 0;
    if (n_keys != n)
        return -EPROTO;
    for (size_t k = 0; k < n; k++)
        s->link.keys[slabs[k]] = keys[k];
    return 0;
}

static int lease(struct eg_server *s)
{
    uint8_t buf[16];
    uint32_t keys[EG_FREE_SLABS];
    size_t n_keys = 0;
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    struct eg_pb_field pf;
    size_t n = 0;
    eg_pb_put_varint(&w, 1, EG_LEASE_BATCH);
    int rc = session_call(s, REQ_LEASE, &w, REP_LEASE);
    while (!rc && (rc = eg_pb_next(&rpc.body, &pf)) > 0)
        rc = pf.number == 1   ? eg_pb_u32s(&pf, s->free + s->n_free, EG_FREE_SLABS - s->n_free, &n)
             : pf.number == 2 ? eg_pb_fixed32s(&pf, keys, EG_FREE_SLABS, &n_keys)
                              : 0;
    if (rc >= 0 && keys_note(s, s->free + s->n_free, n, keys, n_keys))
        rc = -EPROTO;
    if (rc == -EPROTO)
        eg_session_lost(s, rc);
    if (rc < 0)
        return rc;
    s->n_free += (uint32_t)n;
    s->held += (uint32_t)n;
    EG_COUNT(slabs_leased, n);
    return n ? 0 : -ENOSPC;
}

static int slab_new(struct eg_block *b)
{
    if (eg_session_need())
        return -ENOSPC;
    uint32_t wish = eg_rt.advised ? (uint32_t)EG_RANGE_SERVER(eg_advice_of((uint64_t)b->index * EG_BLOCK_PAGES)) : 0;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t k = 0; k < eg_rt.n_servers; k++) {
            uint32_t i = ((wish ? wish - 1 : b->index) + k) % eg_rt.n_servers;
            struct eg_server *s = &eg_rt.server[i];
            if (s->dead || s->control_fd < 0)
                continue;
            if (s->n_free == 0 && (pass == 0 && s->held >= s->reserved && eg_rt.n_servers > 1))
                continue; /* another server may have promised us more */
            if (s->n_free == 0 && lease(s))
                continue;
            b->slab = s->free[--s->n_free];
            b->server = (uint8_t)i;
            b->shared = 0;
            return 0;
        }
    }
    return -ENOSPC;
}

int eg_slab_writable(struct eg_block *b)
{
    if (b->slab == EG_SLAB_NONE)
        return slab_new(b);
    if (!b->shared)
        return 0;
    struct eg_server *s = &eg_rt.server[b->server];
    if (b->n_busy) { /* a read under way would meet a slab that is no longer ours */
        if (eg_pager_busy_alone(eg_block_addr(b), eg_block_addr(b) + EG_BLOCK_BYTES))
            return -EBUSY;
        eg_pager_quiesce(eg_block_addr(b), eg_block_addr(b) + EG_BLOCK_BYTES);
    }
    uint8_t buf[16];
    uint32_t slab, key;
    size_t n = 0, n_keys = 0;
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    struct eg_pb_field pf;
    eg_pb_put_packed_u32(&w, 1, &b->slab, 1);
    int rc = session_call(s, REQ_BREAK, &w, REP_BREAK);
    while (!rc && (rc = eg_pb_next(&rpc.body, &pf)) > 0)
        rc = pf.number == 1 ? eg_pb_u32s(&pf, &slab, 1, &n) : pf.number == 2 ? eg_pb_fixed32s(&pf, &key, 1, &n_keys) : 0;
    if (rc < 0)
        return -ENOSPC;
    if (n != 1 || keys_note(s, &slab, 1, &key, n_keys)) {
        eg_session_lost(s, -EPROTO);
        return -ENOSPC;
    }
    b->slab = slab;
    b->shared = 0;
    return 0;
}

static void give_back(struct eg_server *s, const uint32_t *slabs, uint32_t n)
{
    uint8_t buf[8 + EG_FREE_SLABS * 5];
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    if (!n)
        return;
    eg_pb_put_packed_u32(&w, 1, slabs, n);
    if (!session_call(s, REQ_RETURN, &w, 0))
        s->held -= n;
}

void eg_slab_free(uint8_t server, uint32_t slab, int shared)
{
    struct eg_server *s = &eg_rt.server[server];
    if (s->dead || s->control_fd < 0)
        return;
    if (shared) {
        give_back(s, &slab, 1);
        return;
    }
    if (s->n_free == EG_FREE_SLABS) {
        s->n_free -= EG_FREE_SLABS / 2;
        give_back(s, s->free + s->n_free, EG_FREE_SLABS / 2);
    }
    s->free[s->n_free++] = slab;
}

int eg_session_snapshot(void)
{
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        eg_rt.server[i].snapshot = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        struct eg_pb_writer w = {.buf = rpc.out, .cap = 0};
        struct eg_pb_field pf;
        if (s->dead || s->control_fd < 0)
            continue;
        /* Free slabs would become shared too: back to the server with them. */
        uint32_t n = s->n_free;
        s->n_free = 0;
        give_back(s, s->free, n);
        if (!s->held)
            continue;
        int rc = session_call(s, REQ_SNAPSHOT, &w, REP_SNAPSHOT);
        while (!rc && (rc = eg_pb_next(&rpc.body, &pf)) > 0) {
            rc = 0;
            if (pf.number == 1)
                s->snapshot = pf.value;
        }
        if (rc < 0 || !s->snapshot) {
            eg_session_forget_snapshot();
            return -ENOMEM;
        }
    }
    struct eg_block *b;
    for (uint64_t at = 0; (b = eg_block_next(&at, EG_N_BLOCKS));)
        if (b->slab != EG_SLAB_NONE)
            b->shared = 1;
    return 0;
}

void eg_session_forget_snapshot(void)
{
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        uint8_t buf[16];
        struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
        if (!s->snapshot)
            continue;
        eg_pb_put_fixed64(&w, 1, s->snapshot);
        s->snapshot = 0;
        session_call(s, REQ_DROP_SNAPSHOT, &w, 0);
    }
}

int eg_session_child(void)
{
    eg_verbs_forked();
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        uint64_t snapshot = s->snapshot;
        s->snapshot = 0;
        if (s->dead || s->control_fd < 0)
            continue;
        if (s->link.ops == &eg_transport_rdma) {
            s->link.verbs = NULL; /* the parent's; its keys serve here too */
        } else {
            eg_sys1(SYS_close, s->control_fd);
            s->link.ops->close(&s->link);
        }
        s->control_fd = -1;
        s->reserved = 0;
        if (!snapshot) {
            s->held = 0;
            continue; /* opened again when it is needed */
        }
        int rc = session_open(s, snapshot);
        if (rc)
            return rc;
    }
    return 0;
}

void eg_session_lost(struct eg_server *s, int err)
{
    if (s->dead)
        return;
    if (s->held > s->n_free)
        eg_die("the program's pages on this memory server are lost: ", s->config->text, err);
    s->dead = 1;
    s->held = s->n_free = s->reserved = 0;
    control_close(s);
    if (s->link.ops)
        s->link.ops->close(&s->link);
    eg_warn_once(EG_WARN_SERVER, "memory server is gone, going on without it: ", s->config->text);
}

void eg_session_check(void)
{
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        char c;
        if (s->dead || s->control_fd < 0)
            continue;
        if (s->link.ops == &eg_transport_rdma) {
            int rc = eg_verbs_check(&s->link);
            if (rc)
                eg_session_lost(s, rc);
            continue;
        }
        long n = eg_sys6(SYS_recvfrom, s->control_fd, &c, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
        if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR))
            eg_session_lost(s, n == 0 ? -ECONNRESET : (int)n);
    }
}
