/* eg_verbs.h - every call into libibverbs and librdmacm goes through one table, so that a test can put a layer in between that fails
 * at any of them. Hosted.
 *
 * What the data-path calls do in the providers of rdma-core 44 (Debian 12; read in the sources of tag v44.0), for whoever wants to post
 * from a fault handler:
 *
 *   call            rxe                                    mlx5                                     irdma
 *   post_send       spin lock, copies into a shared ring,  spin lock, ring in memory, doorbell by   spin lock, ring in memory,
 *                   then write(2) as doorbell              MMIO                                     doorbell by MMIO
 *   post_srq_recv   spin lock, ring                        spin lock, ring, doorbell record         no shared receive queues
 *   poll_cq         spin lock, ring                        spin lock, ring                          spin lock, ring
 *   req_notify_cq   write(2)                               doorbell by MMIO                         spin lock, doorbell by MMIO
 *
 * None allocates memory or sleeps (mlx5 prints an error completion that it does not expect). The locks are pthread spin locks, taken for
 * the length of the call, unless the program sets MLX5_SINGLE_THREADED: a signal handler that interrupts a call on the same queue
 * would spin for ever, so a handler may post only to a queue to which nothing but handlers, or code with signals blocked, posts. rxe's
 * write(2) sets errno: the caller needs TLS.
 */
#ifndef EG_VERBS_H
#define EG_VERBS_H

#include <rdma/rdma_cma.h>

/* X(result, name, (parameters), (arguments)): the real call's name without rdma_ or ibv_. */
#define EG_VERBS_CM(X)                                                                                                        \
    X(struct rdma_event_channel *, create_event_channel, (void), ())                                                          \
    X(int, create_id, (struct rdma_event_channel *channel, struct rdma_cm_id **id, void *context, enum rdma_port_space ps),   \
      (channel, id, context, ps))                                                                                             \
    X(int, destroy_id, (struct rdma_cm_id *id), (id))                                                                         \
    X(int, bind_addr, (struct rdma_cm_id *id, struct sockaddr *addr), (id, addr))                                             \
    X(int, listen, (struct rdma_cm_id *id, int backlog), (id, backlog))                                                       \
    X(int, resolve_addr, (struct rdma_cm_id *id, struct sockaddr *src, struct sockaddr *dst, int timeout_ms),                 \
      (id, src, dst, timeout_ms))                                                                                             \
    X(int, resolve_route, (struct rdma_cm_id *id, int timeout_ms), (id, timeout_ms))                                          \
    X(int, create_qp, (struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr), (id, pd, attr))              \
    X(int, connect, (struct rdma_cm_id *id, struct rdma_conn_param *param), (id, param))                                      \
    X(int, accept, (struct rdma_cm_id *id, struct rdma_conn_param *param), (id, param))                                       \
    X(int, reject, (struct rdma_cm_id *id, const void *data, uint8_t len), (id, data, len))                                   \
    X(int, disconnect, (struct rdma_cm_id *id), (id))                                                                         \
    X(int, get_cm_event, (struct rdma_event_channel *channel, struct rdma_cm_event **event), (channel, event))                \
    X(int, ack_cm_event, (struct rdma_cm_event *event), (event))                                                              \
    X(int, set_option, (struct rdma_cm_id *id, int level, int option, void *value, size_t len), (id, level, option, value, len))

#define EG_VERBS_IB(X)                                                                                                        \
    X(int, query_device, (struct ibv_context *context, struct ibv_device_attr *attr), (context, attr))                        \
    X(struct ibv_pd *, alloc_pd, (struct ibv_context *context), (context))                                                    \
    X(int, dealloc_pd, (struct ibv_pd *pd), (pd))                                                                             \
    X(int, dereg_mr, (struct ibv_mr *mr), (mr))                                                                               \
    X(struct ibv_comp_channel *, create_comp_channel, (struct ibv_context *context), (context))                               \
    X(int, destroy_comp_channel, (struct ibv_comp_channel *channel), (channel))                                               \
    X(struct ibv_cq *, create_cq,                                                                                             \
      (struct ibv_context *context, int cqe, void *cq_context, struct ibv_comp_channel *channel, int vector),                 \
      (context, cqe, cq_context, channel, vector))                                                                            \
    X(int, destroy_cq, (struct ibv_cq *cq), (cq))                                                                             \
    X(int, get_cq_event, (struct ibv_comp_channel *channel, struct ibv_cq **cq, void **cq_context), (channel, cq, cq_context)) \
    X(int, req_notify_cq, (struct ibv_cq *cq, int solicited_only), (cq, solicited_only))                                      \
    X(int, poll_cq, (struct ibv_cq *cq, int n, struct ibv_wc *wc), (cq, n, wc))                                               \
    X(struct ibv_srq *, create_srq, (struct ibv_pd *pd, struct ibv_srq_init_attr *attr), (pd, attr))                          \
    X(int, destroy_srq, (struct ibv_srq *srq), (srq))                                                                         \
    X(int, post_srq_recv, (struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad), (srq, wr, bad))            \
    X(int, post_send, (struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad), (qp, wr, bad))

struct eg_verbs {
#define EG_X(result, name, parameters, arguments) result(*name) parameters;
    EG_VERBS_CM(EG_X)
    EG_VERBS_IB(EG_X)
#undef EG_X
    /* reg_mr - register memory whose remote addresses begin at iova. */
    struct ibv_mr *(*reg_mr)(struct ibv_pd *pd, void *addr, size_t bytes, uint64_t iova, int access);
    void (*destroy_qp)(struct rdma_cm_id *id);
    void (*destroy_event_channel)(struct rdma_event_channel *channel);
    void (*ack_cq_events)(struct ibv_cq *cq, unsigned n);
};

extern const struct eg_verbs eg_verbs_real;

#endif
