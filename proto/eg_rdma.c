#include "proto/eg_rdma.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define POLL_BATCH 16
#define POST_BATCH 32
#define SIGNAL_EVERY 16 /* work requests without a completion in a row: the send queue must not fill up with them */
#define RNR_FOREVER 7
#define RETRIES 6 /* rxe takes 7 for without end */
#define INLINE_BYTES 128
#define ACK_TIMEOUT 16 /* 4.096 us * 2^16 = 0.27 s, and as long for each retry */
/* In a wr_id: a receive buffer, not a place in the send queue. A failed completion's opcode says nothing. */
#define RECEIVE (1ull << 63)

enum { KIND_DATA = 1, KIND_CREDIT = 2 };

struct message_head {
    uint16_t credits;
    uint16_t kind;
    uint32_t len_bytes;
};
_Static_assert(sizeof(struct message_head) == EG_RDMA_MSG_BYTES - EG_RDMA_PAYLOAD_BYTES, "message_head is a wire format");

struct eg_rdma_chunk {
    struct eg_rdma_chunk *next;
    struct ibv_mr *mr;
    uint8_t *mem;
    uint32_t idle; /* bit per buffer that the device does not have, because it refused it */
};

/* Verbs calls fail with errno, with its value, or with its negative. */
static int failure(int rc)
{
    int error = rc > 0 ? rc : rc < -1 ? -rc : errno;
    return error ? -error : -EIO;
}

static int null_failure(void)
{
    return errno ? -errno : -ENOMEM;
}

/* Whole pages: registering pins whole pages. */
static uint8_t *buffers_new(size_t bytes)
{
    void *p = aligned_alloc(EG_PAGE_BYTES, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

/* --- domain ----------------------------------------------------------------------------------------------------------- */

static void chunk_free(const struct eg_verbs *v, struct eg_rdma_chunk *chunk)
{
    if (chunk->mr)
        v->dereg_mr(chunk->mr);
    free(chunk->mem);
    free(chunk);
}

static int receive_post(struct eg_rdma_domain *d, struct eg_rdma_chunk *chunk, uint32_t buffer)
{
    struct ibv_sge sge = {
        .addr = (uintptr_t)chunk->mem + (uint64_t)buffer * EG_RDMA_MSG_BYTES,
        .length = EG_RDMA_MSG_BYTES,
        .lkey = chunk->mr->lkey,
    };
    struct ibv_recv_wr wr = {.wr_id = RECEIVE | (uintptr_t)chunk | buffer, .sg_list = &sge, .num_sge = 1}, *bad;
    int rc = d->verbs->post_srq_recv(d->srq, &wr, &bad);
    if (rc)
        chunk->idle |= 1u << buffer;
    else
        chunk->idle &= ~(1u << buffer);
    return rc ? failure(rc) : 0;
}

static struct eg_rdma_chunk *receive_buffer(uint64_t wr_id, uint32_t *ret_buffer)
{
    *ret_buffer = (uint32_t)(wr_id % EG_RDMA_WINDOW);
    return (struct eg_rdma_chunk *)(wr_id & ~(RECEIVE | (EG_RDMA_WINDOW - 1)));
}

/* One more window of receive buffers. */
static int chunk_add(struct eg_rdma_domain *d)
{
    struct eg_rdma_chunk *chunk = NULL;
    size_t bytes = (size_t)EG_RDMA_WINDOW * EG_RDMA_MSG_BYTES;
    /* The buffer's number travels in the low bits of the address. */
    if (posix_memalign((void **)&chunk, EG_RDMA_WINDOW, sizeof *chunk))
        return -ENOMEM;
    *chunk = (struct eg_rdma_chunk){.next = d->chunks, .idle = ~0u};
    int rc = -ENOMEM;
    if (!(chunk->mem = buffers_new(bytes)))
        goto fail;
    chunk->mr = d->verbs->reg_mr(d->pd, chunk->mem, bytes, (uintptr_t)chunk->mem, IBV_ACCESS_LOCAL_WRITE);
    if (!chunk->mr) {
        rc = null_failure();
        goto fail;
    }
    d->chunks = chunk;
    d->n_chunks++;
    return 0;
fail:
    chunk_free(d->verbs, chunk);
    return rc;
}

/* Sees to it that the device has a window for each endpoint and one more, with what it refused earlier too. */
static int windows_fill(struct eg_rdma_domain *d)
{
    uint32_t have = 0, need = (d->n_endpoints + 1) * EG_RDMA_WINDOW;
    int rc = d->n_endpoints >= d->n_chunks ? chunk_add(d) : 0;
    for (struct eg_rdma_chunk *chunk = d->chunks; chunk; chunk = chunk->next) {
        while (chunk->idle && !rc) rc = receive_post(d, chunk, (uint32_t)__builtin_ctz(chunk->idle));
        have += EG_RDMA_WINDOW - (uint32_t)__builtin_popcount(chunk->idle);
    }
    return have >= need ? 0 : rc;
}

int eg_rdma_domain_open(struct eg_rdma_domain *d, const struct eg_verbs *verbs, struct ibv_context *context, uint32_t max_endpoints)
{
    struct ibv_device_attr attr;
    *d = (struct eg_rdma_domain){.verbs = verbs, .context = context};
    int rc = verbs->query_device(context, &attr);
    if (rc)
        return failure(rc);
    int reads = attr.max_qp_rd_atom < attr.max_qp_init_rd_atom ? attr.max_qp_rd_atom : attr.max_qp_init_rd_atom;
    d->reads = (uint8_t)(reads < 1 ? 1 : reads > (int)EG_RDMA_READS ? (int)EG_RDMA_READS : reads);
    if (!(d->pd = verbs->alloc_pd(context)))
        return null_failure();
    uint32_t receives = max_endpoints * EG_RDMA_WINDOW;
    if (receives > (uint32_t)attr.max_srq_wr)
        receives = (uint32_t)attr.max_srq_wr;
    struct ibv_srq_init_attr init = {.attr = {.max_wr = receives, .max_sge = 1}};
    if (!(d->srq = verbs->create_srq(d->pd, &init))) {
        rc = null_failure();
        eg_rdma_domain_close(d);
        return rc;
    }
    return 0;
}

void eg_rdma_domain_close(struct eg_rdma_domain *d)
{
    if (!d || !d->verbs)
        return;
    if (d->srq)
        d->verbs->destroy_srq(d->srq);
    while (d->chunks) {
        struct eg_rdma_chunk *chunk = d->chunks;
        d->chunks = chunk->next;
        chunk_free(d->verbs, chunk);
    }
    for (uint32_t i = 0; i < EG_RDMA_AREAS; i++)
        if (d->area[i].mr)
            d->verbs->dereg_mr(d->area[i].mr);
    if (d->pd)
        d->verbs->dealloc_pd(d->pd);
    *d = (struct eg_rdma_domain){0};
}

int eg_rdma_domain_area(struct eg_rdma_domain *d, void *base, size_t bytes)
{
    for (uint32_t i = 0; i < EG_RDMA_AREAS; i++) {
        if (d->area[i].mr)
            continue;
        struct ibv_mr *mr = d->verbs->reg_mr(d->pd, base, bytes, (uintptr_t)base, IBV_ACCESS_LOCAL_WRITE);
        if (!mr)
            return null_failure();
        d->area[i].base = base;
        d->area[i].bytes = bytes;
        d->area[i].mr = mr;
        return 0;
    }
    return -ENOSPC;
}

static struct ibv_mr *area_find(struct eg_rdma_domain *d, const void *buf, uint32_t len)
{
    for (uint32_t i = 0; i < EG_RDMA_AREAS; i++) {
        size_t at = (size_t)((const uint8_t *)buf - d->area[i].base);
        if (d->area[i].mr && (const uint8_t *)buf >= d->area[i].base && at < d->area[i].bytes && len <= d->area[i].bytes - at)
            return d->area[i].mr;
    }
    return NULL;
}

/* --- opening and closing ------------------------------------------------------------------------------------------------ */

int eg_rdma_open(struct eg_rdma_ep *ep, struct eg_rdma_domain *d, struct rdma_cm_id *id, struct ibv_comp_channel *channel)
{
    const struct eg_verbs *v = d->verbs;
    size_t send_bytes = (size_t)EG_RDMA_SENDS * EG_RDMA_MSG_BYTES;
    uint8_t timeout = ACK_TIMEOUT;
    int rc = 0, qp = 0;
    if ((rc = windows_fill(d)))
        return rc;
    ep->cq = v->create_cq(d->context, EG_RDMA_SQ + EG_RDMA_WINDOW + POLL_BATCH, ep, channel, 0);
    if (!ep->cq)
        return null_failure();
    if (!(ep->send_mem = buffers_new(send_bytes))) {
        rc = -ENOMEM;
        goto fail;
    }
    if (!(ep->send_mr = v->reg_mr(d->pd, ep->send_mem, send_bytes, (uintptr_t)ep->send_mem, IBV_ACCESS_LOCAL_WRITE))) {
        rc = null_failure();
        goto fail;
    }
    struct ibv_qp_init_attr attr = {
        .send_cq = ep->cq,
        .recv_cq = ep->cq,
        .srq = d->srq,
        .cap = {.max_send_wr = EG_RDMA_SQ, .max_send_sge = 1, .max_inline_data = INLINE_BYTES},
        .qp_type = IBV_QPT_RC,
    };
    if (v->create_qp(id, d->pd, &attr)) {
        attr.cap.max_inline_data = 0;
        if ((rc = v->create_qp(id, d->pd, &attr))) {
            rc = failure(rc);
            goto fail;
        }
    }
    qp = 1;
    if ((rc = v->req_notify_cq(ep->cq, 0))) {
        rc = failure(rc);
        goto fail;
    }
    /* Without this the connection manager's guess is used, up to a minute for a dead peer; not every device takes it. */
    (void)v->set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof timeout);
    ep->domain = d;
    ep->id = id;
    ep->error = 0;
    ep->send_free = ~0u;
    ep->credits = EG_RDMA_WINDOW;
    ep->inline_bytes = attr.cap.max_inline_data;
    d->n_endpoints++;
    return 0;
fail:
    if (qp)
        v->destroy_qp(id);
    if (ep->send_mr)
        v->dereg_mr(ep->send_mr);
    free(ep->send_mem);
    v->destroy_cq(ep->cq);
    ep->cq = NULL;
    ep->send_mr = NULL;
    ep->send_mem = NULL;
    return rc;
}

struct rdma_conn_param eg_rdma_conn_param(const struct eg_rdma_ep *ep, const struct eg_rdma_hello *hello,
                                          const struct rdma_conn_param *request)
{
    uint8_t reads = ep->domain->reads;
    struct rdma_conn_param p = {
        .private_data = hello,
        .private_data_len = sizeof *hello,
        .responder_resources = reads,
        .initiator_depth = reads,
        .retry_count = RETRIES,
        .rnr_retry_count = RNR_FOREVER,
        .flow_control = 1,
    };
    /* Both are said of us already: rdma_get_cm_event(3). */
    if (request && request->responder_resources < p.responder_resources)
        p.responder_resources = request->responder_resources;
    if (request && request->initiator_depth < p.initiator_depth)
        p.initiator_depth = request->initiator_depth;
    return p;
}

int eg_rdma_hello_check(const void *data, size_t len_bytes, struct eg_rdma_hello *ret_hello)
{
    struct eg_rdma_hello hello;
    /* The connection manager pads private data with zeros. */
    if (!data || len_bytes < sizeof hello)
        return -EPROTO;
    memcpy(&hello, data, sizeof hello);
    if (hello.magic != EG_RDMA_MAGIC)
        return -EPROTO;
    *ret_hello = hello;
    return hello.version == EG_WIRE_VERSION && hello.window == EG_RDMA_WINDOW ? 0 : -EPROTONOSUPPORT;
}

/* Messages that arrived hold buffers of the shared queue: back with them, for the other endpoints. */
static void receives_return(struct eg_rdma_ep *ep)
{
    struct ibv_wc wc[POLL_BATCH];
    for (int n; (n = ep->domain->verbs->poll_cq(ep->cq, POLL_BATCH, wc)) > 0;)
        for (int i = 0; i < n; i++)
            if (wc[i].wr_id & RECEIVE) {
                uint32_t buffer;
                struct eg_rdma_chunk *chunk = receive_buffer(wc[i].wr_id, &buffer);
                (void)receive_post(ep->domain, chunk, buffer);
            }
}

void eg_rdma_close(struct eg_rdma_ep *ep)
{
    if (!ep || !ep->domain)
        return;
    struct eg_rdma_domain *d = ep->domain;
    d->verbs->disconnect(ep->id);
    /* Before: mlx5 and irdma drop a queue pair's completions with it. After: what was still being received. */
    receives_return(ep);
    d->verbs->destroy_qp(ep->id);
    receives_return(ep);
    d->verbs->destroy_cq(ep->cq);
    d->verbs->dereg_mr(ep->send_mr);
    free(ep->send_mem);
    d->verbs->destroy_id(ep->id);
    d->n_endpoints--;
    ep->domain = NULL;
    ep->error = -ENOTCONN;
}

void eg_rdma_fail(struct eg_rdma_ep *ep, int error)
{
    if (!ep->error)
        ep->error = error;
}

/* --- the send queue ------------------------------------------------------------------------------------------------------ */

static uint32_t sq_room(const struct eg_rdma_ep *ep)
{
    return EG_RDMA_SQ - (ep->sq_head - ep->sq_tail);
}

/* Notes a work request that is about to be posted. Returns: its wr_id. */
static uint64_t sq_enter(struct eg_rdma_ep *ep, struct eg_io *io, uint32_t buffer)
{
    ep->sq[ep->sq_head % EG_RDMA_SQ] = (struct eg_rdma_entry){io, (uint8_t)buffer};
    return ep->sq_head++;
}

static int post(struct eg_rdma_ep *ep, struct ibv_send_wr *wr)
{
    struct ibv_send_wr *bad;
    int rc = ep->domain->verbs->post_send(ep->id->qp, wr, &bad);
    if (rc)
        eg_rdma_fail(ep, failure(rc));
    return ep->error;
}

/* The work request that was signalled as number `upto`, and all before it, are done. */
static int sq_retire(struct eg_rdma_ep *ep, uint64_t upto, struct eg_io_queue *done)
{
    int n = 0;
    if (upto > UINT32_MAX || (uint32_t)upto - ep->sq_tail >= ep->sq_head - ep->sq_tail)
        return -EIO; /* the device completes what was never posted */
    while (ep->sq_tail != (uint32_t)upto + 1) {
        struct eg_rdma_entry *e = &ep->sq[ep->sq_tail++ % EG_RDMA_SQ];
        if (e->io) {
            ep->n_reads -= e->io->op == EG_IO_READ;
            e->io->result = 0;
            eg_io_push(done, e->io);
            n++;
        } else if (e->buffer < EG_RDMA_SENDS) {
            ep->send_free |= 1u << e->buffer;
        }
    }
    return n;
}

static void signal_maybe(struct eg_rdma_ep *ep, struct ibv_send_wr *wr, bool must)
{
    if (must || ++ep->unsignalled >= SIGNAL_EVERY) {
        wr->send_flags |= IBV_SEND_SIGNALED;
        ep->unsignalled = 0;
    }
}

/* --- messages ------------------------------------------------------------------------------------------------------------ */

static int message_post(struct eg_rdma_ep *ep, uint16_t kind, const void *data, uint32_t len)
{
    if (!ep->send_free || !sq_room(ep))
        return -EAGAIN;
    uint32_t b = (uint32_t)__builtin_ctz(ep->send_free);
    uint8_t *buf = ep->send_mem + (size_t)b * EG_RDMA_MSG_BYTES;
    struct message_head head = {.credits = (uint16_t)ep->owed, .kind = kind, .len_bytes = len};
    memcpy(buf, &head, sizeof head);
    if (len)
        memcpy(buf + sizeof head, data, len);
    struct ibv_sge sge = {(uintptr_t)buf, (uint32_t)sizeof head + len, ep->send_mr->lkey};
    struct ibv_send_wr wr = {.sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND};
    if (sge.length <= ep->inline_bytes)
        wr.send_flags |= IBV_SEND_INLINE;
    ep->send_free &= ~(1u << b);
    /* A message may be the last for long: its buffer must come back. */
    signal_maybe(ep, &wr, __builtin_popcount(ep->send_free) < (int)EG_RDMA_SENDS / 2);
    wr.wr_id = sq_enter(ep, NULL, b);
    ep->owed = 0;
    ep->credits--;
    return post(ep, &wr);
}

int eg_rdma_send(struct eg_rdma_ep *ep, const void *data, uint32_t len_bytes)
{
    if (ep->error)
        return ep->error;
    if (!len_bytes || len_bytes > EG_RDMA_PAYLOAD_BYTES)
        return -EMSGSIZE;
    if (ep->credits < 2) {
        ep->credit_waits++;
        return -EAGAIN;
    }
    int rc = message_post(ep, KIND_DATA, data, len_bytes);
    if (!rc)
        ep->messages_sent++;
    return rc;
}

static int status_errno(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR: return -ETIMEDOUT;
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_LOC_PROT_ERR: return -EACCES;
    case IBV_WC_WR_FLUSH_ERR:
    case IBV_WC_REM_ABORT_ERR: return -ECONNRESET;
    default: return -EIO;
    }
}

static int message_take(struct eg_rdma_ep *ep, const struct ibv_wc *wc)
{
    uint32_t buffer;
    struct eg_rdma_chunk *chunk = receive_buffer(wc->wr_id, &buffer);
    const uint8_t *at = chunk->mem + (size_t)buffer * EG_RDMA_MSG_BYTES;
    struct message_head head;
    int rc = ep->error ? ep->error : wc->status ? status_errno(wc->status) : -EPROTO;
    /* A peer that sends beyond its window takes the other endpoints' buffers. */
    if (!ep->error && !wc->status && ep->owed < EG_RDMA_WINDOW && wc->byte_len >= sizeof head &&
        wc->byte_len <= EG_RDMA_MSG_BYTES) {
        memcpy(&head, at, sizeof head);
        if (head.len_bytes == wc->byte_len - sizeof head && head.credits <= EG_RDMA_WINDOW - ep->credits &&
            (head.kind == KIND_DATA ? head.len_bytes > 0 : head.kind == KIND_CREDIT && !head.len_bytes))
            rc = 0;
    }
    if (!rc) {
        ep->credits += head.credits;
        if (head.kind == KIND_DATA) {
            ep->messages_received++;
            if (ep->on_message)
                ep->on_message(ep, at + sizeof head, head.len_bytes);
        }
    }
    int posted = receive_post(ep->domain, chunk, buffer);
    ep->owed++;
    return rc ? rc : posted;
}

/* --- one-sided transfers --------------------------------------------------------------------------------------------------- */

int eg_rdma_submit(struct eg_rdma_ep *ep, struct eg_io *io)
{
    if (ep->error)
        return ep->error;
    if (!area_find(ep->domain, io->buf, io->len_bytes))
        return -EFAULT;
    eg_io_push(&ep->pending, io);
    return 0;
}

/* Posts what waits, as far as the queue and the device's limit of READs allow: one doorbell for each POST_BATCH. */
static int transfers_post(struct eg_rdma_ep *ep)
{
    while (ep->pending.head && !ep->error) {
        struct ibv_send_wr wr[POST_BATCH];
        struct ibv_sge sge[POST_BATCH];
        uint32_t n = 0;
        struct eg_io *io;
        while ((io = ep->pending.head) && n < POST_BATCH && sq_room(ep) > 1 &&
               (io->op == EG_IO_WRITE || ep->n_reads < EG_RDMA_SQ / 4)) {
            eg_io_pop(&ep->pending);
            sge[n] = (struct ibv_sge){(uintptr_t)io->buf, io->len_bytes, area_find(ep->domain, io->buf, io->len_bytes)->lkey};
            wr[n] = (struct ibv_send_wr){
                .wr_id = sq_enter(ep, io, EG_RDMA_SENDS),
                .next = &wr[n + 1],
                .sg_list = &sge[n],
                .num_sge = 1,
                .opcode = io->op == EG_IO_READ ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
                .wr.rdma = {.remote_addr = io->offset, .rkey = io->key},
            };
            ep->n_reads += io->op == EG_IO_READ;
            signal_maybe(ep, &wr[n], io->op == EG_IO_READ);
            n++;
        }
        if (!n)
            return 0;
        wr[n - 1].next = NULL;
        if (!(wr[n - 1].send_flags & IBV_SEND_SIGNALED))
            signal_maybe(ep, &wr[n - 1], true);
        if (post(ep, wr))
            break;
    }
    return ep->error;
}

int eg_rdma_poll(struct eg_rdma_ep *ep, struct eg_io_queue *done)
{
    struct ibv_wc wc[POLL_BATCH];
    int completed = 0, n;
    if (ep->error || transfers_post(ep))
        return ep->error;
    do {
        n = ep->domain->verbs->poll_cq(ep->cq, POLL_BATCH, wc);
        if (n < 0)
            eg_rdma_fail(ep, -EIO);
        for (int i = 0; i < n; i++) {
            int rc = wc[i].wr_id & RECEIVE ? message_take(ep, &wc[i])
                     : wc[i].status        ? status_errno(wc[i].status)
                                           : sq_retire(ep, wc[i].wr_id, done);
            if (rc < 0)
                eg_rdma_fail(ep, rc);
            else
                completed += rc;
        }
    } while (n == POLL_BATCH && !ep->error);
    if (!ep->error && ep->owed >= EG_RDMA_WINDOW / 2 && ep->credits) {
        int rc = message_post(ep, KIND_CREDIT, NULL, 0);
        ep->credit_messages += rc == 0;
    }
    if (!ep->error)
        transfers_post(ep);
    return ep->error ? ep->error : completed;
}

int eg_rdma_arm(struct eg_rdma_ep *ep)
{
    int rc = ep->error ? 0 : ep->domain->verbs->req_notify_cq(ep->cq, 0);
    if (rc)
        eg_rdma_fail(ep, failure(rc));
    return ep->error;
}

int eg_rdma_keepalive(struct eg_rdma_ep *ep)
{
    /* Requests at the end that nobody asked about may have been through for long. */
    if (ep->error || (ep->sq_head != ep->sq_tail && !ep->unsignalled) || !sq_room(ep))
        return ep->error;
    ep->unsignalled = 0;
    struct ibv_send_wr wr = {
        .wr_id = sq_enter(ep, NULL, EG_RDMA_SENDS),
        .opcode = IBV_WR_RDMA_WRITE,
        .send_flags = IBV_SEND_SIGNALED,
    };
    return post(ep, &wr);
}
