#include "memserver/rdma.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "memserver/control.h"
#include "proto/eg_listen.h"
#include "proto/eg_rdma.h"
#include "proto/eg_rdma_listen.h"

#define AGENTS_MAX 512u /* of one session on one device */
#define EVENTS_PER_TURN 64
#define KEEPALIVE_S 10 /* how often each client machine is asked for a sign of life */

struct listener {
    LIST_ENTRY(listener) entry;
    struct rdma_cm_id *id;
    char text[160];
};

struct domain {
    LIST_ENTRY(domain) entry;
    struct device *device;
    struct eg_rdma_domain rdma;
    uint8_t token[EG_TOKEN_BYTES];
    uint32_t n_links;
    _Atomic uint32_t n_tables; /* of keys; the reaper takes off */
};

struct device {
    LIST_ENTRY(device) entry;
    struct egm_rdma *rdma;
    struct ibv_context *context; /* librdmacm's */
    /* Connected to nothing: librdmacm closes the context of a device that was pulled out with the last id on it, and
     * regions and domains may outlive all connections. */
    struct rdma_cm_id *anchor;
    struct ibv_comp_channel *channel;
    struct event *completions, *troubles;
    LIST_HEAD(, domain) domains;
    LIST_HEAD(, egm_rdma_link) links;
    bool gone; /* pulled out, or broken */
};

struct egm_rdma_link {
    LIST_ENTRY(egm_rdma_link) entry;
    struct eg_rdma_ep ep;
    struct domain *domain;
    struct egm_conn *conn;
};

/* The remote keys of one session on one device. */
struct egm_keys {
    struct egm_keys *next; /* on its other devices */
    struct domain *domain;
    struct ibv_mr **mr; /* of each slab; address space only until used */
};

struct egm_rdma {
    struct egm_server *server;
    const struct eg_verbs *verbs;
    struct rdma_event_channel *channel;
    int released_fd; /* eventfd: the reaper let go of keys */
    struct event *cm, *released, *keepalive;
    LIST_HEAD(, listener) listeners;
    LIST_HEAD(, device) devices;
    uint64_t n_messages;
    _Atomic uint64_t n_keys;
};

static const uint8_t no_token[EG_TOKEN_BYTES];

static int nonblocking(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

/* ---- domains and devices ---- */

static void device_free(struct device *device)
{
    const struct eg_verbs *verbs = device->rdma->verbs;
    LIST_REMOVE(device, entry);
    if (device->completions) event_free(device->completions);
    if (device->troubles) event_free(device->troubles);
    if (device->channel) verbs->destroy_comp_channel(device->channel);
    if (device->anchor) verbs->destroy_id(device->anchor);
    free(device);
}

/* Frees what nobody needs any more: domains without connections and keys; a device that is gone, with its last one. */
static void device_sweep(struct device *device)
{
    struct domain *domain, *next;
    for (domain = LIST_FIRST(&device->domains); domain; domain = next) {
        next = LIST_NEXT(domain, entry);
        if (domain->n_links || atomic_load_explicit(&domain->n_tables, memory_order_acquire)) continue;
        LIST_REMOVE(domain, entry);
        eg_rdma_domain_close(&domain->rdma);
        free(domain);
    }
    if (device->gone && LIST_EMPTY(&device->domains)) device_free(device);
}

/* Its connections end. What their sessions have registered is let go of when they end, or their slabs' memory goes. */
static void device_lost(struct device *device)
{
    struct egm_rdma_link *link;
    device->gone = true;
    event_del(device->completions);
    if (device->troubles) event_del(device->troubles);
    while ((link = LIST_FIRST(&device->links))) egm_conn_free(link->conn);
    device_sweep(device);
}

static struct domain *domain_get(struct device *device, const uint8_t *token)
{
    struct domain *domain;
    LIST_FOREACH (domain, &device->domains, entry)
        if (!memcmp(domain->token, token, EG_TOKEN_BYTES)) return domain;
    domain = calloc(1, sizeof *domain);
    if (!domain) return NULL;
    if (eg_rdma_domain_open(&domain->rdma, device->rdma->verbs, device->context, AGENTS_MAX)) {
        free(domain);
        return NULL;
    }
    domain->device = device;
    memcpy(domain->token, token, EG_TOKEN_BYTES);
    LIST_INSERT_HEAD(&device->domains, domain, entry);
    return domain;
}

static void on_completions(evutil_socket_t fd, short what, void *arg)
{
    struct device *device = arg;
    struct egm_server *server = device->rdma->server;
    const struct eg_verbs *verbs = device->rdma->verbs;
    struct ibv_cq *cq;
    void *context;
    (void)fd;
    (void)what;

    for (int i = 0; i < EVENTS_PER_TURN && !verbs->get_cq_event(device->channel, &cq, &context); i++) {
        const struct egm_rdma_link *link = ((struct eg_rdma_ep *)context)->user;
        verbs->ack_cq_events(cq, 1); /* a queue with unacknowledged events cannot be destroyed */
        egm_conn_ready(link->conn);
    }
    egm_server_settle(server);
}

/* What a device reports outside of completion queues. The two calls are not in the table of verbs: a test's context has
 * no async_fd (-1). */
static void on_troubles(evutil_socket_t fd, short what, void *arg)
{
    struct device *device = arg;
    struct egm_server *server = device->rdma->server;
    struct ibv_async_event event;
    (void)fd;
    (void)what;

    for (int i = 0; i < EVENTS_PER_TURN && !ibv_get_async_event(device->context, &event); i++) {
        struct egm_rdma_link *link, *next;
        const struct ibv_qp *qp = NULL;
        const struct ibv_cq *cq = NULL;
        const struct ibv_srq *srq = NULL;
        ibv_ack_async_event(&event); /* likewise */
        switch (event.event_type) {
        case IBV_EVENT_DEVICE_FATAL:
            device_lost(device);
            goto out;
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
            qp = event.element.qp;
            break;
        case IBV_EVENT_CQ_ERR:
            cq = event.element.cq;
            break;
        case IBV_EVENT_SRQ_ERR:
            srq = event.element.srq;
            break;
        default:
            continue;
        }
        for (link = LIST_FIRST(&device->links); link; link = next) {
            next = LIST_NEXT(link, entry);
            if ((qp && link->ep.id->qp == qp) || (cq && link->ep.cq == cq) || (srq && link->domain->rdma.srq == srq))
                egm_conn_free(link->conn);
        }
    }
out:
    egm_server_settle(server);
}

/* An id of our own on the same device as `id`. A failure is no harm unless the device is pulled out. */
static struct rdma_cm_id *anchor_new(struct egm_rdma *rdma, struct rdma_cm_id *id)
{
    struct sockaddr_storage local = id->route.addr.src_storage;
    struct rdma_cm_id *anchor;
    if (rdma->verbs->create_id(rdma->channel, &anchor, NULL, RDMA_PS_TCP)) return NULL;
    if (local.ss_family == AF_INET) ((struct sockaddr_in *)&local)->sin_port = 0;
    else ((struct sockaddr_in6 *)&local)->sin6_port = 0;
    if (!rdma->verbs->bind_addr(anchor, (struct sockaddr *)&local) && anchor->verbs == id->verbs) return anchor;
    rdma->verbs->destroy_id(anchor);
    return NULL;
}

/* The device that a connection request came in through. */
static struct device *device_get(struct egm_rdma *rdma, struct rdma_cm_id *id)
{
    struct event_base *base = rdma->server->base;
    struct device *device;
    LIST_FOREACH (device, &rdma->devices, entry)
        if (device->context == id->verbs && !device->gone) return device;
    device = calloc(1, sizeof *device);
    if (!device) return NULL;
    LIST_INSERT_HEAD(&rdma->devices, device, entry);
    device->rdma = rdma;
    device->context = id->verbs;
    device->channel = rdma->verbs->create_comp_channel(device->context);
    if (!device->channel || nonblocking(device->channel->fd)) goto fail;
    device->completions = event_new(base, device->channel->fd, EV_READ | EV_PERSIST, on_completions, device);
    if (!device->completions || event_add(device->completions, NULL)) goto fail;
    if (device->context->async_fd >= 0 && !nonblocking(device->context->async_fd)) {
        device->troubles = event_new(base, device->context->async_fd, EV_READ | EV_PERSIST, on_troubles, device);
        if (!device->troubles || event_add(device->troubles, NULL)) goto fail;
    }
    device->anchor = anchor_new(rdma, id);
    return device;
fail:
    device_free(device);
    return NULL;
}

/* ---- remote keys ---- */

static void key_drop(struct egm_keys *keys, uint32_t slab)
{
    struct egm_rdma *rdma = keys->domain->device->rdma;
    if (!keys->mr[slab]) return;
    /* Should it fail, the pages are still the device's, not the kernel's to give away. */
    (void)rdma->verbs->dereg_mr(keys->mr[slab]);
    keys->mr[slab] = NULL;
    atomic_fetch_sub_explicit(&rdma->n_keys, 1, memory_order_relaxed);
}

/* egm_store.on_punch */
static void on_punch(struct egm_session *session, uint32_t slab)
{
    for (struct egm_keys *keys = session->keys; keys; keys = keys->next) key_drop(keys, slab);
}

/* egm_store.on_free. Context: the reaper too. The domain may be freed as soon as its tables are counted off. */
static void on_free(struct egm_session *session)
{
    struct egm_keys *keys;
    while ((keys = session->keys)) {
        struct egm_rdma *rdma = keys->domain->device->rdma;
        for (uint32_t slab = 0; slab < session->next_fresh; slab++) key_drop(keys, slab);
        session->keys = keys->next;
        munmap(keys->mr, session->n_slabs * sizeof *keys->mr);
        atomic_fetch_sub_explicit(&keys->domain->n_tables, 1, memory_order_acq_rel);
        free(keys);
        (void)!eventfd_write(rdma->released_fd, 1);
    }
}

static struct egm_keys *keys_get(struct egm_session *session, struct domain *domain)
{
    struct egm_keys *keys;
    for (keys = session->keys; keys; keys = keys->next)
        if (keys->domain == domain) return keys;
    keys = malloc(sizeof *keys);
    if (!keys) return NULL;
    keys->mr = mmap(NULL, session->n_slabs * sizeof *keys->mr, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (keys->mr == MAP_FAILED) {
        free(keys);
        return NULL;
    }
    keys->domain = domain;
    keys->next = session->keys;
    session->keys = keys;
    atomic_fetch_add_explicit(&domain->n_tables, 1, memory_order_relaxed);
    return keys;
}

static void explain_registration(int error, char *why, size_t why_bytes)
{
    struct rlimit limit;
    char size[32];
    if (error == ENOMEM && !getrlimit(RLIMIT_MEMLOCK, &limit) && limit.rlim_cur != RLIM_INFINITY)
        snprintf(why, why_bytes,
                 "the server may lock no more memory for its RDMA device: its RLIMIT_MEMLOCK is %s: raise it with "
                 "ulimit -l or LimitMEMLOCK=",
                 eg_size_format(limit.rlim_cur, size, sizeof size));
    else
        snprintf(why, why_bytes, "the server's RDMA device registers no more memory: %s", strerror(error));
}

uint32_t egm_rdma_keys(struct egm_rdma_link *link, struct egm_session *session, const uint32_t *slabs, uint32_t n,
                       uint32_t *ret_keys, char *ret_why, size_t why_bytes)
{
    struct domain *domain = link->domain;
    struct egm_keys *keys = egm_session_map(session) ? NULL : keys_get(session, domain);
    if (!keys) {
        snprintf(ret_why, why_bytes, "the server lacks memory for a table of remote keys");
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct ibv_mr **mr = &keys->mr[slabs[i]];
        uint64_t at = (uint64_t)slabs[i] * EG_SLAB_BYTES;
        if (!*mr) {
            errno = 0;
            *mr = domain->rdma.verbs->reg_mr(domain->rdma.pd, session->arena + at, EG_SLAB_BYTES, at,
                                             IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
            if (!*mr) {
                explain_registration(errno ? errno : ENOMEM, ret_why, why_bytes);
                return i;
            }
            atomic_fetch_add_explicit(&domain->device->rdma->n_keys, 1, memory_order_relaxed);
        }
        ret_keys[i] = (*mr)->rkey;
    }
    return n;
}

/* ---- connections ---- */

static void on_message(struct eg_rdma_ep *ep, const void *data, uint32_t len_bytes)
{
    struct egm_rdma_link *link = ep->user;
    link->domain->device->rdma->n_messages++;
    if (!egm_conn_input(link->conn, data, len_bytes)) eg_rdma_fail(ep, -ENOMEM);
}

int egm_rdma_poll(struct egm_rdma_link *link)
{
    struct eg_io_queue none = { 0 };
    int r = eg_rdma_arm(&link->ep);
    if (!r) r = eg_rdma_poll(&link->ep, &none);
    return r < 0 ? r : 0;
}

int egm_rdma_send(struct egm_rdma_link *link, struct evbuffer *out)
{
    size_t left;
    while ((left = evbuffer_get_length(out))) {
        uint32_t n = left < EG_RDMA_PAYLOAD_BYTES ? (uint32_t)left : EG_RDMA_PAYLOAD_BYTES;
        const uint8_t *data = evbuffer_pullup(out, (ev_ssize_t)n);
        int r = data ? eg_rdma_send(&link->ep, data, n) : -ENOMEM;
        if (r) return r == -EAGAIN ? 0 : r;
        evbuffer_drain(out, n);
    }
    return 0;
}

void egm_rdma_close(struct egm_rdma_link *link)
{
    struct domain *domain = link->domain;
    LIST_REMOVE(link, entry);
    eg_rdma_close(&link->ep);
    domain->n_links--;
    free(link);
    /* One without keys goes at once; device_lost, which frees devices too, comes here from its loop. */
    if (!domain->device->gone) device_sweep(domain->device);
}

bool egm_rdma_admits(const struct egm_rdma_link *link, const uint8_t *token)
{
    const uint8_t *named = link->domain->token;
    return memcmp(named, no_token, EG_TOKEN_BYTES) && !memcmp(named, token, EG_TOKEN_BYTES);
}

static bool same_host(const struct rdma_cm_id *id)
{
    const struct rdma_addr *a = &id->route.addr;
    if (a->src_addr.sa_family != a->dst_addr.sa_family) return false;
    if (a->src_addr.sa_family == AF_INET) return a->src_sin.sin_addr.s_addr == a->dst_sin.sin_addr.s_addr;
    return a->src_addr.sa_family == AF_INET6 &&
           !memcmp(&a->src_sin6.sin6_addr, &a->dst_sin6.sin6_addr, sizeof(struct in6_addr));
}

/* A queue pair for a connection request. Owns: the id, on success. */
static bool request_accept(struct egm_rdma *rdma, struct rdma_cm_id *id, const uint8_t *token,
                           const struct rdma_conn_param *param)
{
    struct eg_rdma_hello hello = EG_RDMA_HELLO;
    struct device *device = device_get(rdma, id);
    struct domain *domain = device ? domain_get(device, token) : NULL;
    struct egm_rdma_link *link = domain ? calloc(1, sizeof *link) : NULL;
    if (!link) goto fail;
    link->domain = domain;
    link->ep.on_message = on_message;
    link->ep.user = link;
    if (eg_rdma_open(&link->ep, &domain->rdma, id, device->channel)) goto fail;
    id->context = link;
    domain->n_links++;
    LIST_INSERT_HEAD(&device->links, link, entry);
    link->conn = egm_conn_new_rdma(rdma->server, link, same_host(id));
    if (!link->conn) {
        egm_rdma_close(link); /* the id too: that is a rejection */
        return true;
    }
    struct rdma_conn_param answer = eg_rdma_conn_param(&link->ep, &hello, param);
    if (rdma->verbs->accept(id, &answer)) egm_conn_free(link->conn);
    return true;
fail:
    free(link);
    if (device) device_sweep(device);
    return false;
}

static bool session_exists(const struct egm_store *store, const uint8_t *token)
{
    const struct egm_session *session;
    TAILQ_FOREACH (session, &store->sessions, link)
        if (!memcmp(session->token, token, EG_TOKEN_BYTES)) return true;
    return false;
}

/* check: of the private data. Owns: the id. */
static void on_request(struct egm_rdma *rdma, struct rdma_cm_id *id, int check, const struct eg_rdma_hello *hello,
                       const struct rdma_conn_param *param)
{
    struct egm_server *server = rdma->server;
    struct eg_rdma_hello answer = EG_RDMA_HELLO;

    if (check == -EPROTO) {
        atomic_fetch_add(&server->bad_frames, 1);
        rdma->verbs->reject(id, NULL, 0);
        rdma->verbs->destroy_id(id);
        return;
    }
    if (check) answer.status = EG_STATUS_VERSION;
    else if (server->draining && memcmp(hello->token, no_token, EG_TOKEN_BYTES) &&
             !session_exists(&server->store, hello->token))
        answer.status = EG_STATUS_DRAINING;
    else if (atomic_load(&server->n_conns) >= server->max_conns || !request_accept(rdma, id, hello->token, param))
        answer.status = EG_STATUS_INTERNAL;
    if (!answer.status) return;
    rdma->verbs->reject(id, &answer, sizeof answer);
    rdma->verbs->destroy_id(id);
}

static void listener_free(struct egm_rdma *rdma, struct listener *listener)
{
    LIST_REMOVE(listener, entry);
    rdma->verbs->destroy_id(listener->id);
    free(listener);
}

/* The device of a listener, an anchor or a connection is pulled out. */
static void on_removal(struct egm_rdma *rdma, const struct rdma_cm_id *id)
{
    struct listener *listener;
    struct device *device;
    const struct ibv_context *context = id->verbs;
    LIST_FOREACH (listener, &rdma->listeners, entry)
        if (listener->id == id) {
            fprintf(stderr,
                    "endgame-memserver: note: the device of %s is gone: start the server anew when it is back\n",
                    listener->text);
            listener_free(rdma, listener);
            break;
        }
    LIST_FOREACH (device, &rdma->devices, entry)
        if (device->context == context && !device->gone) {
            device_lost(device);
            return;
        }
}

static void on_cm(evutil_socket_t fd, short what, void *arg)
{
    struct egm_rdma *rdma = arg;
    struct rdma_cm_event *event;
    (void)fd;
    (void)what;

    for (int i = 0; i < EVENTS_PER_TURN && !rdma->verbs->get_cm_event(rdma->channel, &event); i++) {
        enum rdma_cm_event_type type = event->event;
        struct rdma_cm_id *id = event->id;
        struct rdma_conn_param param = event->param.conn;
        struct eg_rdma_hello hello = { 0 };
        int check = eg_rdma_hello_check(param.private_data, param.private_data_len, &hello);
        /* An id with unacknowledged events cannot be destroyed. */
        rdma->verbs->ack_cm_event(event);
        switch (type) {
        case RDMA_CM_EVENT_CONNECT_REQUEST:
            on_request(rdma, id, check, &hello, &param);
            break;
        case RDMA_CM_EVENT_ESTABLISHED:
        case RDMA_CM_EVENT_ADDR_CHANGE:
            break;
        case RDMA_CM_EVENT_DEVICE_REMOVAL:
            on_removal(rdma, id);
            break;
        default: /* disconnected, or never to be connected */
            if (id->context) egm_conn_free(((struct egm_rdma_link *)id->context)->conn);
        }
    }
    egm_server_settle(rdma->server);
}

/* A machine that died says nothing: the device finds out when it gets no answer. */
static void on_keepalive(evutil_socket_t fd, short what, void *arg)
{
    struct egm_rdma *rdma = arg;
    struct device *device;
    struct egm_rdma_link *link, *next;
    (void)fd;
    (void)what;
    LIST_FOREACH (device, &rdma->devices, entry)
        for (link = LIST_FIRST(&device->links); link; link = next) {
            next = LIST_NEXT(link, entry);
            (void)!eg_rdma_keepalive(&link->ep); /* which the next poll reports */
            egm_conn_ready(link->conn);
        }
    egm_server_settle(rdma->server);
}

static void on_released(evutil_socket_t fd, short what, void *arg)
{
    struct egm_rdma *rdma = arg;
    struct device *device, *next;
    eventfd_t count;
    (void)what;
    (void)!eventfd_read(fd, &count);
    for (device = LIST_FIRST(&rdma->devices); device; device = next) {
        next = LIST_NEXT(device, entry);
        device_sweep(device);
    }
}

/* ---- listening ---- */

static void note_memlock(uint64_t capacity_bytes)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { 0 };
    struct rlimit limit;
    char size[32], capacity[32];

    if (!syscall(SYS_capget, &head, caps) && caps[0].effective >> CAP_IPC_LOCK & 1) return;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY) return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= capacity_bytes)
        return;
    fprintf(stderr,
            "endgame-memserver: note: RLIMIT_MEMLOCK is %s, so no more of the capacity of %s can be lent over rdma: "
            "raise it with ulimit -l or LimitMEMLOCK=\n",
            eg_size_format(limit.rlim_cur, size, sizeof size),
            eg_size_format(capacity_bytes, capacity, sizeof capacity));
}

static int rdma_new(struct egm_server *server, const struct eg_addr *addr, char *ret_why, size_t why_bytes)
{
    struct egm_rdma *rdma = calloc(1, sizeof *rdma);
    struct timeval tv = { .tv_sec = KEEPALIVE_S };
    int error = ENOMEM;
    if (!rdma) return eg_listener_explain(addr, error, ret_why, why_bytes);
    rdma->server = server;
    rdma->verbs = server->verbs;
    rdma->released_fd = -1;
    int r = eg_rdma_listen_channel(rdma->verbs, addr, &rdma->channel, ret_why, why_bytes);
    if (r) {
        egm_rdma_free(rdma);
        return r;
    }
    rdma->released_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (rdma->released_fd < 0) {
        error = errno;
        goto fail;
    }
    rdma->cm = event_new(server->base, rdma->channel->fd, EV_READ | EV_PERSIST, on_cm, rdma);
    rdma->released = event_new(server->base, rdma->released_fd, EV_READ | EV_PERSIST, on_released, rdma);
    rdma->keepalive = event_new(server->base, -1, EV_PERSIST, on_keepalive, rdma);
    if (!rdma->cm || !rdma->released || !rdma->keepalive || event_add(rdma->cm, NULL) ||
        event_add(rdma->released, NULL) || event_add(rdma->keepalive, &tv))
        goto fail;
    server->store.on_punch = on_punch;
    server->store.on_free = on_free;
    server->rdma = rdma;
    note_memlock(server->store.capacity * EG_SLAB_BYTES);
    return 0;
fail:
    egm_rdma_free(rdma);
    return eg_listener_explain(addr, error, ret_why, why_bytes);
}

void egm_rdma_free(struct egm_rdma *rdma)
{
    struct listener *listener;
    struct device *device;
    if (!rdma) return;
    while ((listener = LIST_FIRST(&rdma->listeners))) listener_free(rdma, listener);
    while ((device = LIST_FIRST(&rdma->devices))) {
        device->gone = true;
        device_sweep(device);
    }
    if (rdma->cm) event_free(rdma->cm);
    if (rdma->released) event_free(rdma->released);
    if (rdma->keepalive) event_free(rdma->keepalive);
    if (rdma->channel) rdma->verbs->destroy_event_channel(rdma->channel);
    if (rdma->released_fd >= 0) close(rdma->released_fd);
    free(rdma);
}

void egm_rdma_stats(const struct egm_rdma *rdma, uint64_t *ret_keys, uint64_t *ret_messages)
{
    *ret_keys = atomic_load_explicit(&rdma->n_keys, memory_order_relaxed);
    *ret_messages = rdma->n_messages;
}

int egm_rdma_listen(struct egm_server *server, const struct eg_addr *addr, char *ret_text, size_t text_bytes,
                    char *ret_why, size_t why_bytes)
{
    int r = server->rdma ? 0 : rdma_new(server, addr, ret_why, why_bytes);
    if (r) return r;
    struct egm_rdma *rdma = server->rdma;
    struct listener *listener = calloc(1, sizeof *listener);
    if (!listener) return eg_listener_explain(addr, ENOMEM, ret_why, why_bytes);
    r = eg_rdma_listen(rdma->verbs, rdma->channel, addr, &listener->id, ret_text, text_bytes, ret_why, why_bytes);
    if (r) {
        free(listener);
        return r;
    }
    snprintf(listener->text, sizeof listener->text, "%s", ret_text);
    LIST_INSERT_HEAD(&rdma->listeners, listener, entry);
    fprintf(stderr, "endgame-memserver: note: %s is open to the network without authentication\n", ret_text);
    return 0;
}
