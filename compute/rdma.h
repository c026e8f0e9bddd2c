/* rdma.h - rdma: listeners: a process of endgame-relay beside the daemon ends RDMA and hands each connection over as a socket. So the daemon
 * and the workers that come from it know nothing of devices, and what reads a network's bytes in librdmacm's drivers is not the daemon.
 * Context: the daemon's thread. */
#ifndef EGC_RDMA_H
#define EGC_RDMA_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include "proto/eg_addr.h"

#define EGC_ADDR_RDMA 3u /* eg_addr.kind: EG_ADDR_RDMA of the client's eg_pool.h */

/* egc_rdma_open - start a relay that listens on addr; ret_text gets the address with its real port. Blocks until it does.
 * Owns:    *ret_fd and *ret_pid go to egc_rdma_close.
 * Returns: 0, or -errno and ret_why holds one line that says what to do. */
int egc_rdma_open(const struct eg_addr *addr, int *ret_fd, pid_t *ret_pid, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
    __attribute__((warn_unused_result));

/* egc_rdma_accept - the next connection, as eg_listener_accept; -EPIPE: the relay is gone. */
int egc_rdma_accept(int fd, bool *ret_local) __attribute__((warn_unused_result));

/* egc_rdma_close - the relay ends, and its connections with it. */
void egc_rdma_close(int fd, pid_t pid);

#endif
