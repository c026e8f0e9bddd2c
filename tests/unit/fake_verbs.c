#include "tests/unit/fake_verbs.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE_MAX 256
#define OBJECTS 64

/* Each begins with what the caller sees of it. */
struct fake_pd {
    struct ibv_pd pd;
    uint32_t users;
};

struct fake_mr {
    struct ibv_mr mr;
    uint64_t iova;
    int access;
};

struct fake_srq {
    struct ibv_srq srq;
    uint32_t users, max, head, tail;
    struct fake_recv {
        uint64_t wr_id;
        struct ibv_sge sge;
    } recv[];
};

struct fake_cq {
    struct ibv_cq cq;
    uint32_t users, head, tail;
    bool armed;
    struct fake_wc {
        struct ibv_wc wc;
        struct fake_qp *qp; /* NULL: gone */
        uint32_t upto;      /* of a send: the slots before this are free */
        const void *data;   /* of a receive */
    } wc[];
};

struct fake_qp {
    struct ibv_qp qp;
    struct ibv_qp_cap cap;
    struct fake_qp *peer;
    uint32_t posted, executed, freed; /* free-running */
    int reads;
    bool cut;
    struct fake_wr {
        struct ibv_send_wr wr;
        struct ibv_sge sge;
        uint8_t data[INLINE_MAX];
    } sq[];
};

struct fake fake;
static void *regions[OBJECTS], *qps[OBJECTS];
static uint32_t next_key;

static bool fails(const char *name)
{
    if (++fake.n_calls != fake.fail_at)
        return false;
    fake.failed = name;
    errno = FAKE_ERRNO;
    return true;
}

static void *object_new(size_t bytes)
{
    void *p = calloc(1, bytes);
    must(p, "no memory");
    fake.n_live++;
    return p;
}

static void object_free(void *p)
{
    fake.n_live--;
    free(p);
}

/* In a table, an entry becomes another; NULL is a free one. */
static void table_change(void **table, void *from, void *to)
{
    uint32_t i = 0;
    while (i < OBJECTS && table[i] != from) i++;
    must(i < OBJECTS, "no such object, or too many");
    table[i] = to;
}

void fake_reset(void)
{
    must(!fake.n_live, "%u objects left over", fake.n_live);
    fake = (struct fake){.max_inline = INLINE_MAX, .max_srq_wr = 4096, .reads = 16};
}

void fake_fail_at(uint32_t n)
{
    fake.n_calls = 0;
    fake.fail_at = n;
    fake.failed = NULL;
}

/* --- objects ----------------------------------------------------------------------------------------------------------- */

static int query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    (void)context;
    *attr = (struct ibv_device_attr){
        .max_srq_wr = (int)fake.max_srq_wr, .max_qp_rd_atom = fake.reads, .max_qp_init_rd_atom = fake.reads};
    return fails("query_device") ? FAKE_ERRNO : 0;
}

static struct ibv_pd *alloc_pd(struct ibv_context *context)
{
    (void)context;
    return fails("alloc_pd") ? NULL : object_new(sizeof(struct fake_pd));
}

static int dealloc_pd(struct ibv_pd *pd)
{
    must(!((struct fake_pd *)pd)->users, "protection domain in use");
    object_free(pd);
    return fails("dealloc_pd") ? FAKE_ERRNO : 0;
}

static struct ibv_mr *reg_mr(struct ibv_pd *pd, void *addr, size_t bytes, uint64_t iova, int access)
{
    if (fails("reg_mr"))
        return NULL;
    struct fake_mr *mr = object_new(sizeof *mr);
    next_key += 0x103;
    mr->mr = (struct ibv_mr){.pd = pd, .addr = addr, .length = bytes, .lkey = 2 * next_key, .rkey = 2 * next_key + 1};
    mr->iova = iova;
    mr->access = access;
    ((struct fake_pd *)pd)->users++;
    table_change(regions, NULL, mr);
    return &mr->mr;
}

static int dereg_mr(struct ibv_mr *mr)
{
    /* Memory must outlive its registration: the sanitizer knows. */
    (void)*(volatile uint8_t *)mr->addr;
    table_change(regions, mr, NULL);
    ((struct fake_pd *)mr->pd)->users--;
    object_free(mr);
    return fails("dereg_mr") ? FAKE_ERRNO : 0;
}

/* Where the device finds `len` bytes at `addr` under a key, or NULL. */
static uint8_t *translate(const struct ibv_pd *pd, uint32_t key, uint64_t addr, uint32_t len, int access)
{
    static uint8_t nothing;
    bool remote = access & (IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
    for (uint32_t i = 0; i < OBJECTS && len; i++) {
        const struct fake_mr *r = regions[i];
        if (r && (remote ? r->mr.rkey : r->mr.lkey) == key)
            return r->mr.pd == pd && (r->access & access) == access && addr >= r->iova && addr - r->iova <= r->mr.length &&
                           len <= r->mr.length - (addr - r->iova)
                       ? (uint8_t *)r->mr.addr + (addr - r->iova)
                       : NULL;
    }
    return len ? NULL : &nothing;
}

static struct ibv_srq *create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *attr)
{
    must(attr->attr.max_wr <= fake.max_srq_wr && attr->attr.max_sge == 1, "create_srq: more than the device has");
    if (fails("create_srq"))
        return NULL;
    struct fake_srq *srq = object_new(sizeof *srq + attr->attr.max_wr * sizeof *srq->recv);
    srq->srq.pd = pd;
    srq->max = attr->attr.max_wr;
    ((struct fake_pd *)pd)->users++;
    return &srq->srq;
}

static int destroy_srq(struct ibv_srq *srq)
{
    must(!((struct fake_srq *)srq)->users, "receive queue in use");
    ((struct fake_pd *)srq->pd)->users--;
    object_free(srq);
    return fails("destroy_srq") ? FAKE_ERRNO : 0;
}

uint32_t fake_srq_posted(const struct ibv_srq *srq)
{
    return ((const struct fake_srq *)srq)->head - ((const struct fake_srq *)srq)->tail;
}

static int post_srq_recv(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
    struct fake_srq *s = (struct fake_srq *)srq;
    *bad = wr;
    must(!wr->next && wr->num_sge == 1, "post_srq_recv: one at a time is all that is modelled");
    if (fails("post_srq_recv"))
        return FAKE_ERRNO;
    if (s->head - s->tail >= s->max)
        return ENOMEM;
    s->recv[s->head++ % s->max] = (struct fake_recv){wr->wr_id, *wr->sg_list};
    return 0;
}

static struct ibv_cq *create_cq(struct ibv_context *context, int cqe, void *cq_context, struct ibv_comp_channel *channel,
                                int vector)
{
    must(cqe > 0 && vector == 0, "create_cq: %d entries, vector %d", cqe, vector);
    if (fails("create_cq"))
        return NULL;
    struct fake_cq *cq = object_new(sizeof *cq + (size_t)cqe * sizeof *cq->wc);
    cq->cq = (struct ibv_cq){.context = context, .channel = channel, .cq_context = cq_context, .cqe = cqe};
    return &cq->cq;
}

static int destroy_cq(struct ibv_cq *cq)
{
    must(!((struct fake_cq *)cq)->users, "completion queue in use");
    object_free(cq);
    return fails("destroy_cq") ? FAKE_ERRNO : 0;
}

static int req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
    if (fails("req_notify_cq"))
        return FAKE_ERRNO;
    ((struct fake_cq *)cq)->armed = !solicited_only;
    return 0;
}

static void cq_push(struct ibv_cq *cq, struct fake_wc wc)
{
    struct fake_cq *c = (struct fake_cq *)cq;
    must(c->head - c->tail < (uint32_t)cq->cqe, "completion queue of %d overflows", cq->cqe);
    c->wc[c->head++ % (uint32_t)cq->cqe] = wc;
    if (c->armed) {
        fake.n_events++;
        fake.event_cq = cq;
        c->armed = false;
    }
}

void fake_complete(struct ibv_cq *cq, struct ibv_wc wc)
{
    cq_push(cq, (struct fake_wc){.wc = wc});
}

static int poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
    struct fake_cq *c = (struct fake_cq *)cq;
    int k = 0;
    if (fails("poll_cq"))
        return -1;
    for (; k < n && c->tail != c->head; k++) {
        struct fake_wc *w = &c->wc[c->tail++ % (uint32_t)cq->cqe];
        wc[k] = w->wc;
        if (w->qp && !w->data)
            w->qp->freed = w->upto;
    }
    return k;
}

/* --- connections ------------------------------------------------------------------------------------------------------- */

struct rdma_cm_id *fake_id(void)
{
    return object_new(sizeof(struct rdma_cm_id));
}

static int destroy_id(struct rdma_cm_id *id)
{
    must(!id->qp, "id with a queue pair destroyed");
    object_free(id);
    return fails("destroy_id") ? -1 : 0;
}

static int set_option(struct rdma_cm_id *id, int level, int option, void *value, size_t len)
{
    must(id->qp && level == RDMA_OPTION_ID && option == RDMA_OPTION_ID_ACK_TIMEOUT, "set_option of what?");
    must(len == 1 && *(uint8_t *)value, "the device's longest timeout");
    return fails("set_option") ? -1 : 0;
}

static int create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    if (fails("create_qp"))
        return -1;
    if (attr->cap.max_inline_data > fake.max_inline || attr->cap.max_send_sge != 1 || attr->qp_type != IBV_QPT_RC) {
        errno = EINVAL;
        return -1;
    }
    struct fake_qp *qp = object_new(sizeof *qp + attr->cap.max_send_wr * sizeof *qp->sq);
    must(attr->send_cq == attr->recv_cq, "two completion queues are not modelled");
    qp->qp = (struct ibv_qp){.pd = pd, .send_cq = attr->send_cq, .recv_cq = attr->recv_cq, .srq = attr->srq};
    qp->qp.state = IBV_QPS_INIT;
    qp->cap = attr->cap;
    ((struct fake_pd *)pd)->users++;
    ((struct fake_cq *)attr->recv_cq)->users++;
    ((struct fake_srq *)attr->srq)->users++;
    table_change(qps, NULL, qp);
    id->qp = &qp->qp;
    return 0;
}

static void destroy_qp(struct rdma_cm_id *id)
{
    struct fake_qp *qp = (struct fake_qp *)id->qp;
    struct fake_cq *cq = (struct fake_cq *)qp->qp.recv_cq;
    for (uint32_t i = cq->tail; i != cq->head; i++) cq->wc[i % (uint32_t)cq->cq.cqe].qp = NULL;
    if (fake.drops)
        cq->tail = cq->head;
    if (qp->peer)
        qp->peer->peer = NULL;
    ((struct fake_pd *)qp->qp.pd)->users--;
    ((struct fake_srq *)qp->qp.srq)->users--;
    cq->users--;
    table_change(qps, qp, NULL);
    object_free(qp);
    id->qp = NULL;
}

static int disconnect(struct rdma_cm_id *id)
{
    if (fails("disconnect"))
        return -1;
    id->qp->state = IBV_QPS_ERR;
    return 0;
}

void fake_connect(struct rdma_cm_id *a, struct rdma_conn_param pa, struct rdma_cm_id *b, struct rdma_conn_param pb)
{
    struct fake_qp *qa = (struct fake_qp *)a->qp, *qb = (struct fake_qp *)b->qp;
    must(pa.initiator_depth <= pb.responder_resources && pb.initiator_depth <= pa.responder_resources, "more READs than answered");
    must(pa.initiator_depth <= fake.reads && pb.initiator_depth <= fake.reads, "more READs than the device has");
    qa->peer = qb;
    qb->peer = qa;
    qa->reads = pa.initiator_depth;
    qb->reads = pb.initiator_depth;
    qa->qp.state = qb->qp.state = IBV_QPS_RTS;
}

void fake_drop(struct rdma_cm_id *id)
{
    struct fake_qp *qp = (struct fake_qp *)id->qp;
    qp->cut = qp->peer->cut = true;
}

/* --- work requests ----------------------------------------------------------------------------------------------------- */

static int post_send(struct ibv_qp *ibqp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    struct fake_qp *qp = (struct fake_qp *)ibqp;
    uint32_t accept = -1u;
    fake.n_doorbells++;
    if (fails("post_send")) {
        accept = 0;
        for (struct ibv_send_wr *w = wr->next; w; w = w->next) accept++;
        accept /= 2;
    }
    for (; wr; wr = wr->next, accept--) {
        *bad = wr;
        if (!accept)
            return FAKE_ERRNO;
        if (ibqp->state == IBV_QPS_INIT || wr->num_sge > 1)
            return EINVAL;
        if (qp->posted - qp->freed >= qp->cap.max_send_wr)
            return ENOMEM;
        struct fake_wr *w = &qp->sq[qp->posted % qp->cap.max_send_wr];
        w->wr = *wr;
        w->sge = wr->num_sge ? *wr->sg_list : (struct ibv_sge){0};
        if (wr->send_flags & IBV_SEND_INLINE) {
            if (w->sge.length > qp->cap.max_inline_data || wr->opcode == IBV_WR_RDMA_READ)
                return EINVAL;
            memcpy(w->data, (void *)(uintptr_t)w->sge.addr, w->sge.length);
        }
        qp->posted++;
    }
    return 0;
}

static uint8_t *local_data(struct fake_qp *qp, struct fake_wr *w)
{
    if (w->wr.send_flags & IBV_SEND_INLINE)
        return w->data;
    int access = w->wr.opcode == IBV_WR_RDMA_READ ? IBV_ACCESS_LOCAL_WRITE : 0;
    return translate(qp->qp.pd, w->sge.lkey, w->sge.addr, w->sge.length, access);
}

/* One message into a receive buffer. Returns: the sender's status. */
static enum ibv_wc_status deliver(struct fake_qp *to, const uint8_t *data, uint32_t len)
{
    struct fake_srq *srq = (struct fake_srq *)to->qp.srq;
    must(srq->head != srq->tail, "the receive queue ran dry");
    const struct fake_recv *r = &srq->recv[srq->tail++ % srq->max];
    uint8_t *at = translate(to->qp.pd, r->sge.lkey, r->sge.addr, r->sge.length, IBV_ACCESS_LOCAL_WRITE);
    must(at, "a receive buffer that is not registered");
    bool fits = len <= r->sge.length;
    struct ibv_wc wc = {.wr_id = r->wr_id, .opcode = IBV_WC_RECV, .byte_len = len};
    if (fits) {
        memcpy(at, data, len);
    } else { /* only the number and the status are said to be valid then */
        wc = (struct ibv_wc){.wr_id = r->wr_id, .status = IBV_WC_LOC_LEN_ERR, .opcode = IBV_WC_SEND, .byte_len = 16};
        to->qp.state = IBV_QPS_ERR;
    }
    cq_push(to->qp.recv_cq, (struct fake_wc){.wc = wc, .qp = to, .data = at});
    return fits ? IBV_WC_SUCCESS : IBV_WC_REM_INV_REQ_ERR;
}

static enum ibv_wc_status one_sided(struct fake_qp *qp, const struct fake_wr *w, uint8_t *local)
{
    bool read = w->wr.opcode == IBV_WR_RDMA_READ;
    uint8_t *remote = translate(qp->peer->qp.pd, w->wr.wr.rdma.rkey, w->wr.wr.rdma.remote_addr, w->sge.length,
                                read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE);
    if (!remote) {
        qp->peer->qp.state = IBV_QPS_ERR;
        return IBV_WC_REM_ACCESS_ERR;
    }
    memcpy(read ? local : remote, read ? remote : local, w->sge.length);
    return IBV_WC_SUCCESS;
}

static void execute(struct fake_qp *qp)
{
    struct fake_wr *w = &qp->sq[qp->executed++ % qp->cap.max_send_wr];
    enum ibv_wc_status status = fake.status_next;
    uint8_t *local = local_data(qp, w);
    if (qp->qp.state == IBV_QPS_ERR)
        status = IBV_WC_WR_FLUSH_ERR;
    else if (status)
        fake.status_next = IBV_WC_SUCCESS;
    else if (!qp->peer || qp->cut || qp->peer->qp.state != IBV_QPS_RTS)
        status = IBV_WC_RETRY_EXC_ERR;
    else if (!local)
        status = IBV_WC_LOC_PROT_ERR;
    else
        status = w->wr.opcode == IBV_WR_SEND ? deliver(qp->peer, local, w->sge.length) : one_sided(qp, w, local);
    if (status)
        qp->qp.state = IBV_QPS_ERR;
    struct ibv_wc wc = {.wr_id = w->wr.wr_id, .status = status, .opcode = status ? IBV_WC_RECV : IBV_WC_SEND};
    if (status || w->wr.send_flags & IBV_SEND_SIGNALED)
        cq_push(qp->qp.send_cq, (struct fake_wc){.wc = wc, .qp = qp, .upto = qp->executed});
}

uint32_t fake_run(uint32_t n)
{
    uint32_t done = 0;
    for (uint32_t k = 0; k < OBJECTS; k++) {
        struct fake_qp *qp = qps[k];
        int reads = qp ? qp->reads : 0;
        for (uint32_t i = 0; i < n && qp && qp->executed != qp->posted; i++, done++) {
            if (qp->sq[qp->executed % qp->cap.max_send_wr].wr.opcode == IBV_WR_RDMA_READ && !reads--)
                break; /* the rest waits for these to come back */
            execute(qp);
        }
    }
    return done;
}

uint32_t fake_under_way(const struct ibv_qp *ibqp, uint32_t (*add)(const void *data), uint32_t *ret_sum)
{
    struct fake_qp *qp = (struct fake_qp *)ibqp;
    const struct fake_cq *cq = (struct fake_cq *)qp->peer->qp.recv_cq;
    uint32_t n = 0;
    *ret_sum = 0;
    for (uint32_t i = qp->executed; i != qp->posted; i++)
        if (qp->sq[i % qp->cap.max_send_wr].wr.opcode == IBV_WR_SEND) {
            *ret_sum += add(local_data(qp, &qp->sq[i % qp->cap.max_send_wr]));
            n++;
        }
    for (uint32_t i = cq->tail; i != cq->head; i++)
        if (cq->wc[i % (uint32_t)cq->cq.cqe].data) {
            *ret_sum += add(cq->wc[i % (uint32_t)cq->cq.cqe].data);
            n++;
        }
    return n;
}

const struct eg_verbs fake_verbs = {
    .destroy_id = destroy_id,
    .create_qp = create_qp,
    .destroy_qp = destroy_qp,
    .disconnect = disconnect,
    .set_option = set_option,
    .query_device = query_device,
    .alloc_pd = alloc_pd,
    .dealloc_pd = dealloc_pd,
    .reg_mr = reg_mr,
    .dereg_mr = dereg_mr,
    .create_cq = create_cq,
    .destroy_cq = destroy_cq,
    .req_notify_cq = req_notify_cq,
    .poll_cq = poll_cq,
    .create_srq = create_srq,
    .destroy_srq = destroy_srq,
    .post_srq_recv = post_srq_recv,
    .post_send = post_send,
};
