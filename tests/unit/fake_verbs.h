/* fake_verbs.h - a verbs device inside the process, behind the table of proto/eg_verbs.h: connected queue pairs whose work
 * requests are carried out when the test says so, with the checks a device makes (keys, ranges, rights, room in every queue).
 * What a correct user never does (overflow a completion queue, free what is in use, let a receive queue run dry) ends the test.
 *
 *   as a device does                                       harsher than most
 *   a slot of the send queue is free when a later          a send's data is read when it is carried out, unless inline
 *     signalled completion was polled; full is ENOMEM      an error completion's opcode says the opposite of the truth
 *   a queue pair in error flushes, signalled or not        a chain that is refused was accepted half
 *
 * Not modelled: packets (a message arrives whole or not at all), a READ overtaken by a later request, connection events. */
#ifndef EG_TEST_FAKE_VERBS_H
#define EG_TEST_FAKE_VERBS_H

#include "proto/eg_verbs.h"

#include <check.h>
#include <stdbool.h>

#define FAKE_ERRNO EBADE /* what an injected failure gives; nothing else here does */

/* ck_assert leaves a note each time it passes: too slow for every step. */
#define must(condition, ...) ((condition) ? (void)0 : ck_abort_msg(__VA_ARGS__))

struct fake {
    /* What the device is like; to be set before use. */
    uint32_t max_inline, max_srq_wr;
    int reads;                      /* under way at once */
    bool drops;                     /* destroying a queue pair drops its completions (mlx5, irdma); else they stay (rxe) */
    enum ibv_wc_status status_next; /* of the next work request, once */
    /* What happened. */
    uint32_t n_live; /* objects that exist */
    uint32_t n_calls, n_doorbells, n_events;
    const struct ibv_cq *event_cq;  /* the last event's */
    uint32_t fail_at;
    const char *failed;             /* name of the call that was made to fail */
};

extern struct fake fake;
extern const struct eg_verbs fake_verbs;

/* fake_reset - Pre: nothing lives. */
void fake_reset(void);
/* fake_fail_at - the n-th call from now fails as that call does: NULL or -1 with errno, or errno's value. One that releases has
 * released nevertheless. 0: none. */
void fake_fail_at(uint32_t n);
/* fake_id - an id with its route resolved. */
struct rdma_cm_id *fake_id(void);
/* fake_connect - what connect and accept do with the parameters of both sides. */
void fake_connect(struct rdma_cm_id *a, struct rdma_conn_param pa, struct rdma_cm_id *b, struct rdma_conn_param pb);
/* fake_run - carry out up to n work requests of each queue pair. Returns: how many that were. */
uint32_t fake_run(uint32_t n);
/* fake_drop - the connection is gone without a word, for both sides. */
void fake_drop(struct rdma_cm_id *id);
/* fake_complete - a completion out of nowhere. */
void fake_complete(struct ibv_cq *cq, struct ibv_wc wc);
/* fake_srq_posted - receives that the device has. */
uint32_t fake_srq_posted(const struct ibv_srq *srq);
/* fake_under_way - messages of this queue pair that its peer has not polled yet; *ret_sum: what `add` gives for each, in all. */
uint32_t fake_under_way(const struct ibv_qp *qp, uint32_t (*add)(const void *data), uint32_t *ret_sum);

#endif
