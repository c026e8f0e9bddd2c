#include "proto/eg_verbs.h"

#define EG_X(result, name, parameters, arguments)                                                                            \
    static result real_##name parameters { return rdma_##name arguments; }
EG_VERBS_CM(EG_X)
#undef EG_X

#define EG_X(result, name, parameters, arguments)                                                                            \
    static result real_##name parameters { return ibv_##name arguments; }
EG_VERBS_IB(EG_X)
#undef EG_X

static struct ibv_mr *real_reg_mr(struct ibv_pd *pd, void *addr, size_t bytes, uint64_t iova, int access)
{
    return ibv_reg_mr_iova(pd, addr, bytes, iova, (unsigned)access);
}

const struct eg_verbs eg_verbs_real = {
#define EG_X(result, name, parameters, arguments) .name = real_##name,
    EG_VERBS_CM(EG_X)
    EG_VERBS_IB(EG_X)
#undef EG_X
    .reg_mr = real_reg_mr,
    .destroy_qp = rdma_destroy_qp,
    .destroy_event_channel = rdma_destroy_event_channel,
    .ack_cq_events = ibv_ack_cq_events,
};
