/* eg_rdma.h - one reliable connected queue pair between two agents: messages by SEND/RECV, memory by one-sided READ and
 * WRITE. Hosted; used by the memory server and, inside programs, by client/verbs. Nothing here locks or blocks: a domain and its
 * endpoints belong to one thread, or to the holder of one lock.
 *
 * Messages. Receive buffers are in a shared receive queue per domain; each endpoint brings EG_RDMA_WINDOW of them. Whoever sends
 * uses up one credit of the peer's window; the peer gives credits back in the header of whatever it sends, or, when it owes half
 * a window and has nothing to say, in a message of its own. The last credit is kept for that, so two sides that send only
 * cannot block each other. So a receive queue never runs dry, and RNR retries (infinite) are a net, not a mechanism.
 *
 * Completions. The send queue completes in order; entries remember what was posted, only the last of a batch (and each READ)
 * asks for a completion, and one completion retires everything before it.
 *
 * Failure. The first error (a failed completion, a refused post, the peer gone) ends the endpoint: every later call returns the same
 * -errno, and what was outstanding will not complete.
 *   -ETIMEDOUT  no answer after the retries        -EACCES  remote key or range refused
 *   -ECONNRESET peer disconnected or flushed       -EIO     anything else the device reports
 *   -EPROTO     the peer talks nonsense, or sends beyond its window
 *
 * Order. Transfers of one endpoint that overlap are the caller's to order: a WRITE posted behind a READ of the same place may overtake
 * it (no fence is set). The pager never has both under way for a page.
 * Source: credit windows over SEND/RECV as in NFS/RDMA (RFC 8166, section 3.3). */
#ifndef EG_RDMA_H
#define EG_RDMA_H

#include "proto/eg_transport.h"
#include "proto/eg_verbs.h"

#include <stdbool.h>

#define EG_RDMA_MAGIC 0x314d4452u /* "RDM1" */
#define EG_RDMA_MSG_BYTES 4096u   /* one message with its header */
#define EG_RDMA_PAYLOAD_BYTES (EG_RDMA_MSG_BYTES - 8u)
#define EG_RDMA_WINDOW 32u
#define EG_RDMA_SENDS 32u         /* messages not yet acknowledged by the device */
#define EG_RDMA_SQ 256u           /* work requests under way, a power of two */
#define EG_RDMA_AREAS 4
#define EG_RDMA_READS 16u         /* READs that the two devices work on at once, as far as they can; more wait in the queue */

/* Private data of the connection request and its answers. */
struct eg_rdma_hello {
    uint32_t magic;
    uint32_t version; /* EG_WIRE_VERSION */
    uint32_t window;
    uint32_t status;  /* enum eg_status: why a request was rejected */
    uint8_t token[EG_TOKEN_BYTES]; /* request: the session; zeros: none, for tools */
};
_Static_assert(sizeof(struct eg_rdma_hello) == 32, "eg_rdma_hello is a wire format");
/* What this side says of itself, without token and status. */
#define EG_RDMA_HELLO {.magic = EG_RDMA_MAGIC, .version = EG_WIRE_VERSION, .window = EG_RDMA_WINDOW}

struct eg_rdma_chunk;

/* A protection domain with its receive buffers. */
struct eg_rdma_domain {
    const struct eg_verbs *verbs;
    struct ibv_context *context; /* borrowed */
    struct ibv_pd *pd;
    struct ibv_srq *srq;
    struct eg_rdma_chunk *chunks; /* receive buffers, one window each */
    uint32_t n_chunks, n_endpoints;
    struct {
        uint8_t *base;
        size_t bytes;
        struct ibv_mr *mr;
    } area[EG_RDMA_AREAS]; /* local memory that one-sided transfers may use */
    uint8_t reads; /* READs the device allows at once */
};

struct eg_rdma_ep {
    struct eg_rdma_domain *domain; /* NULL: not open */
    struct rdma_cm_id *id;         /* owned */
    struct ibv_cq *cq;
    int error; /* 0, or the -errno that ended it */
    /* Context: inside eg_rdma_poll. The data is valid for the call only. */
    void (*on_message)(struct eg_rdma_ep *ep, const void *data, uint32_t len_bytes);
    void *user;
    uint8_t *send_mem;
    struct ibv_mr *send_mr;
    uint32_t send_free;      /* bit per send buffer */
    uint32_t credits;        /* messages that the peer has room for */
    uint32_t owed;           /* credits that the peer does not know of yet */
    uint32_t inline_bytes;
    struct eg_io_queue pending; /* one-sided, not yet posted */
    struct eg_rdma_entry {
        struct eg_io *io; /* NULL: a message or a keep-alive */
        uint8_t buffer;   /* EG_RDMA_SENDS: none */
    } sq[EG_RDMA_SQ];
    uint32_t sq_head, sq_tail; /* free-running; [tail, head) is under way */
    uint32_t unsignalled;
    uint32_t n_reads;
    uint64_t messages_sent, messages_received, credit_messages, credit_waits;
};

/* eg_rdma_domain_open - for up to max_endpoints, as far as the device has room in a receive queue.
 * Returns: 0; -ENOMEM (most often memlock: the limit of RLIMIT_MEMLOCK is too small), -errno. */
int eg_rdma_domain_open(struct eg_rdma_domain *domain, const struct eg_verbs *verbs, struct ibv_context *context,
                        uint32_t max_endpoints)
    __attribute__((warn_unused_result));
/* eg_rdma_domain_close - Pre: its endpoints are closed. NULL-safe, tolerates a half-open one. */
void eg_rdma_domain_close(struct eg_rdma_domain *domain);
/* eg_rdma_domain_area - register local memory for one-sided transfers. Returns: 0, -ENOSPC (EG_RDMA_AREAS), -ENOMEM (memlock), -errno. */
int eg_rdma_domain_area(struct eg_rdma_domain *domain, void *base, size_t bytes) __attribute__((warn_unused_result));

/* eg_rdma_open - queue pair and receive window for a cm id that has a device (route resolved, or connect request).
 * Pre:     *ep is zeroed but for on_message and user.
 * Owns:    the id is the endpoint's from a success on.
 * Returns: 0, -ENOMEM, -errno; nothing is left behind then. */
int eg_rdma_open(struct eg_rdma_ep *ep, struct eg_rdma_domain *domain, struct rdma_cm_id *id, struct ibv_comp_channel *channel)
    __attribute__((warn_unused_result));
/* eg_rdma_conn_param - what to pass to connect (request) or accept, with `hello` as private data, which must outlive the call. */
struct rdma_conn_param eg_rdma_conn_param(const struct eg_rdma_ep *ep, const struct eg_rdma_hello *hello,
                                          const struct rdma_conn_param *request);
/* eg_rdma_hello_check - the peer's private data. Returns: 0, -EPROTO (not one of us), -EPROTONOSUPPORT (another version). */
int eg_rdma_hello_check(const void *data, size_t len_bytes, struct eg_rdma_hello *ret_hello);
/* eg_rdma_close - disconnect and release everything, the id too. NULL-safe. Not from on_message: use eg_rdma_fail there. */
void eg_rdma_close(struct eg_rdma_ep *ep);
/* eg_rdma_fail - end the endpoint from outside (cm event, device removal). The first reason stays. */
void eg_rdma_fail(struct eg_rdma_ep *ep, int error);

/* eg_rdma_send - one message of at most EG_RDMA_PAYLOAD_BYTES; the data is copied.
 * Returns: 0; -EAGAIN (no credit or no buffer: poll, then again); -EMSGSIZE; the endpoint's error. */
int eg_rdma_send(struct eg_rdma_ep *ep, const void *data, uint32_t len_bytes) __attribute__((warn_unused_result));
/* eg_rdma_submit - queue a one-sided transfer of io->len_bytes between io->buf (inside an area) and the peer's memory at
 * io->offset under io->key. Posted by the next eg_rdma_poll. Returns: 0; -EFAULT (buffer in no area); the endpoint's error. */
int eg_rdma_submit(struct eg_rdma_ep *ep, struct eg_io *io) __attribute__((warn_unused_result));
/* eg_rdma_poll - post what waits (one doorbell), take completions, hand out messages.
 * Returns: transfers moved to *done, or the endpoint's error. */
int eg_rdma_poll(struct eg_rdma_ep *ep, struct eg_io_queue *done) __attribute__((warn_unused_result));
/* eg_rdma_arm - ask for an event on the completion channel at the next completion. After it, poll once more before sleeping.
 * Returns: 0, the endpoint's error. */
int eg_rdma_arm(struct eg_rdma_ep *ep) __attribute__((warn_unused_result));
/* eg_rdma_keepalive - make the device ask the peer's device for a sign of life (a WRITE of no bytes), when nothing is under way.
 * A dead peer ends the endpoint within the retries. Returns: 0, the endpoint's error. */
int eg_rdma_keepalive(struct eg_rdma_ep *ep) __attribute__((warn_unused_result));

#endif
