/* verbs_lib.c - connections to memory servers over RDMA (see eg_verbs_lib.h). */
#include "client/verbs/eg_verbs_lib.h"

#include "client/verbs/verbs_malloc.h"
#include "proto/eg_rdma.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define LINKS 16
#define DEVICES 8
#define IMAGE_SEGMENTS 32
#define TLS_THREAD_BYTES (64u << 10)
#define STREAM_BYTES (EG_CONTROL_MAX_BYTES + sizeof(struct eg_frame) + EG_RDMA_MSG_BYTES)

struct device {
    struct ibv_context *context;
    struct eg_rdma_domain domain;
    struct ibv_comp_channel *channel;
    uint8_t token[EG_TOKEN_BYTES];
};

struct eg_verbs_link {
    struct eg_rdma_ep ep;
    struct rdma_event_channel *events;
    struct eg_io_queue done; /* completed while something else was being done */
    uint32_t in_at, in_end;
    uint8_t in[STREAM_BYTES]; /* the control stream's bytes that came and were not read */
};

/* Writable memory of the namespace as it was after loading. */
struct image {
    struct {
        void *addr;
        size_t bytes, at;
    } segment[IMAGE_SEGMENTS];
    uint32_t n;
    uint8_t *copy;
    size_t bytes;
};

static const struct eg_verbs *const verbs = &eg_verbs_real;
static struct eg_verbs_host host;
static struct device devices[DEVICES];
static struct eg_verbs_link *links[LINKS];
static struct image *image; /* not part of itself */
static struct iovec memory[IMAGE_SEGMENTS];
static struct eg_verbs_lib lib;

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void fd_up(int *fd)
{
    if (host.fd_high && *fd >= 0)
        *fd = host.fd_high(*fd);
}

/* --- connecting ----------------------------------------------------------------------------------------------------------- */

/* What the server said when it rejected, or the connection manager's own reasons. */
static int reject_errno(const struct rdma_cm_event *event)
{
    enum { INVALID_SERVICE_ID = 8, CONSUMER = 28 };
    struct eg_rdma_hello hello = {0};
    int rc = eg_rdma_hello_check(event->param.conn.private_data, event->param.conn.private_data_len, &hello);
    if (rc == -EPROTONOSUPPORT || hello.status == EG_STATUS_VERSION)
        return -EPROTONOSUPPORT;
    if (hello.status == EG_STATUS_DRAINING)
        return -ESHUTDOWN;
    return event->status == INVALID_SERVICE_ID || event->status == CONSUMER || event->status == -ECONNREFUSED ? -ECONNREFUSED
                                                                                                              : -EIO;
}

static int event_errno(const struct rdma_cm_event *event)
{
    switch (event->event) {
    case RDMA_CM_EVENT_REJECTED: return reject_errno(event);
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR: return event->status == -ENODEV || event->status == -ETIMEDOUT ? event->status : -EHOSTUNREACH;
    case RDMA_CM_EVENT_UNREACHABLE: return event->status == -ETIMEDOUT ? -ETIMEDOUT : -EHOSTUNREACH;
    case RDMA_CM_EVENT_DISCONNECTED: return -ECONNRESET;
    default: return event->status < 0 ? event->status : -EIO;
    }
}

/* Waits for one event of this connection. Returns: 0 it was the wanted one (and its private data is a fitting hello, where the
 * event has one), -ETIMEDOUT, -errno. */
static int event_wait(struct rdma_event_channel *events, enum rdma_cm_event_type wanted, int64_t deadline_ms)
{
    struct rdma_cm_event *event;
    for (;;) {
        int64_t left = deadline_ms - now_ms();
        struct pollfd p = {.fd = events->fd, .events = POLLIN};
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n == 0)
            return -ETIMEDOUT;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n < 0)
            continue;
        if (verbs->get_cm_event(events, &event)) {
            if (errno == EAGAIN)
                continue;
            return -errno;
        }
        int rc = event->event == wanted ? 0 : event_errno(event);
        if (!rc && wanted == RDMA_CM_EVENT_ESTABLISHED) {
            struct eg_rdma_hello hello;
            rc = eg_rdma_hello_check(event->param.conn.private_data, event->param.conn.private_data_len, &hello);
        }
        verbs->ack_cm_event(event);
        return rc;
    }
}

/* One domain per device and session: a program's links share their receive queue and the registered memory. */
static int device_get(struct ibv_context *context, const struct eg_verbs_open *arg, struct device **ret_device)
{
    struct device *d = NULL;
    for (uint32_t i = 0; i < DEVICES; i++) {
        if (devices[i].context == context && !memcmp(devices[i].token, arg->token, EG_TOKEN_BYTES)) {
            *ret_device = &devices[i];
            return 0;
        }
        if (!devices[i].context && !d)
            d = &devices[i];
    }
    if (!d)
        return -ENOSPC;
    fd_up(&context->cmd_fd);
    fd_up(&context->async_fd);
    int rc = eg_rdma_domain_open(&d->domain, verbs, context, LINKS);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < EG_VERBS_AREAS && !rc; i++)
        if (arg->area[i].iov_len)
            rc = eg_rdma_domain_area(&d->domain, arg->area[i].iov_base, arg->area[i].iov_len);
    if (!rc && !(d->channel = verbs->create_comp_channel(context)))
        rc = errno ? -errno : -ENOMEM;
    if (rc) {
        eg_rdma_domain_close(&d->domain);
        return rc;
    }
    fd_up(&d->channel->fd);
    fcntl(d->channel->fd, F_SETFL, O_NONBLOCK);
    memcpy(d->token, arg->token, EG_TOKEN_BYTES);
    d->context = context;
    *ret_device = d;
    return 0;
}

static void on_message(struct eg_rdma_ep *ep, const void *data, uint32_t len_bytes)
{
    struct eg_verbs_link *link = ep->user;
    if (link->in_at == link->in_end)
        link->in_at = link->in_end = 0;
    if (len_bytes > STREAM_BYTES - link->in_end) {
        eg_rdma_fail(ep, -EPROTO); /* more than the answer to one request */
        return;
    }
    memcpy(link->in + link->in_end, data, len_bytes);
    link->in_end += len_bytes;
}

static int connect_steps(struct eg_verbs_link *link, struct eg_verbs_open *arg, struct rdma_cm_id **id, int64_t deadline_ms)
{
    struct device *d;
    int left = (int)arg->timeout_ms;
    if (verbs->create_id(link->events, id, NULL, RDMA_PS_TCP) ||
        verbs->resolve_addr(*id, NULL, (struct sockaddr *)(uintptr_t)arg->sockaddr, left))
        return -errno;
    int rc = event_wait(link->events, RDMA_CM_EVENT_ADDR_RESOLVED, deadline_ms);
    if (rc)
        return rc;
    if (!(*id)->verbs)
        return -ENODEV;
    snprintf(arg->device, sizeof arg->device, "%.31s", (*id)->verbs->device->name);
    if (verbs->resolve_route(*id, left))
        return -errno;
    if ((rc = event_wait(link->events, RDMA_CM_EVENT_ROUTE_RESOLVED, deadline_ms)) ||
        (rc = device_get((*id)->verbs, arg, &d)) || (rc = eg_rdma_open(&link->ep, &d->domain, *id, d->channel)))
        return rc;
    *id = NULL; /* the endpoint's */
    struct eg_rdma_hello hello = EG_RDMA_HELLO;
    memcpy(hello.token, arg->token, EG_TOKEN_BYTES);
    struct rdma_conn_param param = eg_rdma_conn_param(&link->ep, &hello, NULL);
    if (verbs->connect(link->ep.id, &param))
        return -errno;
    if ((rc = event_wait(link->events, RDMA_CM_EVENT_ESTABLISHED, deadline_ms)))
        return rc;
    arg->cq_fd = d->channel->fd;
    return 0;
}

static long link_close(struct eg_verbs_link *link)
{
    eg_rdma_close(&link->ep);
    if (link->events)
        verbs->destroy_event_channel(link->events);
    for (uint32_t i = 0; i < LINKS; i++)
        if (links[i] == link)
            links[i] = NULL;
    free(link);
    return 0;
}

static long link_open(struct eg_verbs_open *arg)
{
    struct rdma_cm_id *id = NULL;
    uint32_t k = 0;
    while (k < LINKS && links[k])
        k++;
    struct eg_verbs_link *link = k < LINKS ? calloc(1, sizeof *link) : NULL;
    if (!link)
        return -ENOMEM;
    links[k] = link;
    link->ep.on_message = on_message;
    link->ep.user = link;
    arg->device[0] = 0;
    int rc;
    if (!(link->events = verbs->create_event_channel())) {
        rc = errno == ENOENT || errno == ENODEV ? -ENODEV : -errno;
    } else {
        fd_up(&link->events->fd);
        fcntl(link->events->fd, F_SETFL, O_NONBLOCK);
        rc = connect_steps(link, arg, &id, now_ms() + arg->timeout_ms);
    }
    if (rc) {
        if (id)
            verbs->destroy_id(id);
        link_close(link);
        return rc;
    }
    arg->link = link;
    arg->cm_fd = link->events->fd;
    return 0;
}

/* --- using a connection ------------------------------------------------------------------------------------------------------- */

static int progress(struct eg_verbs_link *link)
{
    int n = eg_rdma_poll(&link->ep, &link->done);
    return n < 0 ? n : 0;
}

static long link_send(struct eg_verbs_link *link, const void *data, size_t bytes)
{
    size_t at = 0;
    int rc = progress(link);
    while (!rc && at < bytes) {
        uint32_t n = bytes - at < EG_RDMA_PAYLOAD_BYTES ? (uint32_t)(bytes - at) : EG_RDMA_PAYLOAD_BYTES;
        rc = eg_rdma_send(&link->ep, (const uint8_t *)data + at, n);
        if (!rc)
            at += n;
    }
    return rc && rc != -EAGAIN ? rc : (long)at;
}

static long link_recv(struct eg_verbs_link *link, void *data, size_t bytes)
{
    int rc = link->in_at == link->in_end ? progress(link) : 0;
    size_t n = link->in_end - link->in_at;
    if (n > bytes)
        n = bytes;
    memcpy(data, link->in + link->in_at, n);
    link->in_at += (uint32_t)n;
    return n || !rc ? (long)n : rc; /* a last word before the end still counts */
}

static long link_submit(struct eg_verbs_link *link, struct eg_io *io)
{
    return eg_rdma_submit(&link->ep, io);
}

static long link_poll(struct eg_verbs_link *link, struct eg_io_queue *done)
{
    struct eg_io *io;
    long n = 0;
    int rc = progress(link);
    if (rc)
        return rc;
    for (; (io = eg_io_pop(&link->done)); n++)
        eg_io_push(done, io);
    return n;
}

static long link_arm(struct eg_verbs_link *link)
{
    struct ibv_cq *cq;
    void *context;
    /* Events of before: one per arming and link of this device, none of them needed. */
    while (!verbs->get_cq_event(link->ep.cq->channel, &cq, &context))
        verbs->ack_cq_events(cq, 1);
    return eg_rdma_arm(&link->ep);
}

static long link_check(struct eg_verbs_link *link)
{
    struct rdma_cm_event *event;
    while (!verbs->get_cm_event(link->events, &event)) {
        if (event->event != RDMA_CM_EVENT_ESTABLISHED && event->event != RDMA_CM_EVENT_ADDR_CHANGE)
            eg_rdma_fail(&link->ep, event_errno(event));
        verbs->ack_cm_event(event);
    }
    return link->ep.error;
}

/* --- fork ---------------------------------------------------------------------------------------------------------------------- */

/* all_bytes: what may be used of it later, too. */
static void image_segment(struct image *im, void *addr, size_t bytes, size_t all_bytes)
{
    uintptr_t start = (uintptr_t)addr & ~(uintptr_t)4095, stop = ((uintptr_t)addr + all_bytes + 4095) & ~(uintptr_t)4095;
    memory[im->n] = (struct iovec){(void *)start, stop - start};
    im->segment[im->n].addr = addr;
    im->segment[im->n].bytes = bytes;
    im->segment[im->n++].at = im->bytes;
    im->bytes += bytes;
}

static int image_note(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    struct image *im = arg;
    (void)bytes;
    const char *slash = strrchr(info->dlpi_name, '/');
    if (strncmp(slash ? slash + 1 : info->dlpi_name, "ld-linux", 8) == 0)
        return 0; /* one for all namespaces */
    uintptr_t relro = 0, relro_end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_GNU_RELRO) {
            relro = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            relro_end = (relro + info->dlpi_phdr[i].p_memsz + 4095) & ~(uintptr_t)4095;
        }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + p->p_vaddr, end = start + p->p_memsz;
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_W))
            continue;
        if (start >= relro && start < relro_end)
            start = relro_end;
        if (start >= end)
            continue;
        if (im->n == IMAGE_SEGMENTS)
            return 1;
        image_segment(im, (void *)start, end - start, end - start);
    }
    return 0;
}

/* Keeps a copy of everything that the namespace may change: the child of a fork starts from it, because librdmacm and the providers
 * have no way to forget connections that are the parent's. */
static int image_take(void *tls, size_t tls_bytes)
{
    struct image *im = mmap(NULL, sizeof *im, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (im == MAP_FAILED)
        return -ENOMEM;
    image = im; /* before the copy: the copy must know of it */
    if (dl_iterate_phdr(image_note, im) || im->n + 2 > IMAGE_SEGMENTS)
        return -ENOSPC;
    image_segment(im, tls, tls_bytes, tls_bytes);
    size_t used, all;
    void *heap = eg_verbs_malloc_used(&used, &all);
    if (!heap)
        return -ENOSPC;
    image_segment(im, heap, used, all);
    lib.memory = memory;
    lib.n_memory = im->n;
    im->copy = mmap(NULL, im->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (im->copy == MAP_FAILED)
        return -ENOMEM;
    for (uint32_t i = 0; i < im->n; i++)
        memcpy(im->copy + im->segment[i].at, im->segment[i].addr, im->segment[i].bytes);
    return 0;
}

static long forked(void)
{
    for (uint32_t i = 0; i < LINKS; i++)
        if (links[i] && links[i]->events)
            close(links[i]->events->fd);
    for (uint32_t i = 0; i < DEVICES; i++) {
        if (!devices[i].context)
            continue;
        close(devices[i].channel->fd);
        close(devices[i].context->cmd_fd);
        close(devices[i].context->async_fd);
    }
    struct image *im = image;
    for (uint32_t i = 0; im && i < im->n; i++)
        memcpy(im->segment[i].addr, im->copy + im->segment[i].at, im->segment[i].bytes);
    eg_verbs_malloc_from(host.map); /* set after the image was taken */
    return 0;
}

/* --- start ---------------------------------------------------------------------------------------------------------------------- */

/* Whatever is loaded or allocated once is, now: drivers, tables, thread-local storage. */
static void warm_up(void)
{
    struct rdma_event_channel *channel = verbs->create_event_channel();
    if (channel)
        verbs->destroy_event_channel(channel);
}

static void *thread_main(void *arg)
{
    int *ready = arg;
    warm_up();
    lib.tls = (void *)pthread_self();
    /* The thread has done its work; its control block and thread-local storage stay, for whoever holds the pager's lock. */
    syscall(SYS_set_tid_address, NULL);
    __atomic_store_n(ready, 1, __ATOMIC_RELEASE);
    syscall(SYS_exit, 0);
    return NULL;
}

static int thread_make(void)
{
    static int ready;
    size_t bytes = TLS_THREAD_BYTES;
    sigset_t all, old;
    pthread_attr_t attr;
    pthread_t thread;
    uint8_t *stack = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED || pthread_attr_init(&attr) || pthread_attr_setstack(&attr, stack, bytes))
        return -ENOMEM;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&thread, &attr, thread_main, &ready);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return -rc;
    while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
        sched_yield();
    return image_take(stack, bytes);
}

PUBLIC const struct eg_verbs_lib *eg_verbs_lib(const struct eg_verbs_host *with, int own_thread)
{
    host = *with;
    lib = (struct eg_verbs_lib){
        .version = EG_VERBS_LIB_VERSION,
        .open = link_open,
        .send = link_send,
        .recv = link_recv,
        .submit = link_submit,
        .poll = link_poll,
        .arm = link_arm,
        .check = link_check,
        .close = link_close,
        .forked = forked,
    };
    if (own_thread && thread_make())
        return NULL;
    /* Not before: what the image does not hold must not be in use when it is taken. */
    eg_verbs_malloc_from(host.map);
    return &lib;
}
