/* eg_rdma_listen.h - listening on rdma: addresses, for the daemons. Hosted; for the thread that owns the event channel. */
#ifndef EG_RDMA_LISTEN_H
#define EG_RDMA_LISTEN_H

#include "proto/eg_addr.h"
#include "proto/eg_verbs.h"

/* eg_rdma_listen - an id that listens on addr; ret_text gets the address with its real port.
 * Context: hosted. Owns: *ret_id is the caller's, to destroy.
 * Returns: 0, or -errno and ret_why holds one line that says what to do. */
int eg_rdma_listen(const struct eg_verbs *verbs, struct rdma_event_channel *channel, const struct eg_addr *addr, struct rdma_cm_id **ret_id,
                   char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes) __attribute__((warn_unused_result));

/* eg_rdma_listen_channel - a non-blocking event channel. Returns: 0, or -errno and ret_why as above. */
int eg_rdma_listen_channel(const struct eg_verbs *verbs, const struct eg_addr *addr, struct rdma_event_channel **ret_channel, char *ret_why,
                           size_t why_bytes) __attribute__((warn_unused_result));

#endif
