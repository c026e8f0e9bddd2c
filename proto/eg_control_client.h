/* eg_control_client.h - one question to the control plane of a memory server, or (Node) a compute node, for tools: connect, ask, read the
 * answer.
 * Hosted; part of eg_proto. The runtime inside programs has its own freestanding client. */
#ifndef EG_CONTROL_CLIENT_H
#define EG_CONTROL_CLIENT_H

#include <stddef.h>
#include "proto/control.pb-c.h"
#include "proto/eg_addr.h"

/* How rdma: addresses are reached; the command line sets it (NULL: they are not). All block until deadline_ms (CLOCK_MONOTONIC) at most
 * and return 0 or -errno; open's are those of client/verbs/eg_verbs_lib.h, and -ELIBACC: the library cannot be loaded. */
struct eg_control_rdma {
    int (*open)(const struct eg_addr *addr, int64_t deadline_ms, void **ret_connection);
    int (*send)(void *connection, const void *data, size_t bytes, int64_t deadline_ms);
    int (*recv)(void *connection, void *data, size_t bytes, int64_t deadline_ms);
    void (*close)(void *connection);
};
extern const struct eg_control_rdma *eg_control_rdma;

/* eg_control_call - connect to addr, send one request, read its one reply, close.
 * Context: hosted, any thread; blocks for at most timeout_ms in all (name resolution is the caller's, eg_addr_parse).
 * Pre:     req->version need not be set: the library's own version is sent.
 * Owns:    *ret_reply is the caller's, freed with endgame__reply__free_unpacked(reply, NULL). Only set on 0.
 * Returns: 0 (the server answered with status EG_STATUS_OK); else a negative errno, and ret_why holds one line without
 *          newline that names the address and says what to do:
 *          -ENODEV, -ELIBACC (rdma: no device leads there, no library), -ENOMEM (rdma: memory cannot be locked),
 *          -ECONNREFUSED, -ENOENT (nobody listens there), -EHOSTUNREACH, -ENETUNREACH, -EACCES (unix socket of another user),
 *          -ETIMEDOUT, -ECONNRESET (server hung up), -EPROTO (no memory server, or it talks nonsense),
 *          -EPROTONOSUPPORT (other protocol version), -ESHUTDOWN (draining), -ENOSPC, -EDQUOT, -EREMOTEIO (other refusal). */
int eg_control_call(const struct eg_addr *addr, const Endgame__Request *req, int timeout_ms, Endgame__Reply **ret_reply,
                    char *ret_why, size_t why_bytes) __attribute__((warn_unused_result));

#endif
