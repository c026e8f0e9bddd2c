/* control.h - control connections: frames in, requests done, replies out. Context of everything: control thread. */
#ifndef EGM_CONTROL_H
#define EGM_CONTROL_H

#include <stdbool.h>
#include "memserver/server.h"

struct egm_rdma_link;

/* egm_conn_new - serve fd (non-blocking) on the server's loop. `local`: over a unix socket or from a loopback address.
 * Owns:    fd, also on failure. Returns: 0 or -errno. */
int egm_conn_new(struct egm_server *server, int fd, bool is_unix, bool local) __attribute__((warn_unused_result));

/* egm_conn_new_rdma - serve a connection over RDMA. `local`: from this machine.
 * Owns:    the link, on success. Returns: NULL when memory is short. */
struct egm_conn *egm_conn_new_rdma(struct egm_server *server, struct egm_rdma_link *link, bool local);

/* egm_conn_ready - for rdma: something completed: take it and do what it asks for. It may be the connection's end. */
void egm_conn_ready(struct egm_conn *conn);

/* egm_conn_input - for rdma, from within egm_rdma_poll: bytes that came. Returns: false when memory is short. */
bool egm_conn_input(struct egm_conn *conn, const void *data, size_t len_bytes) __attribute__((warn_unused_result));

/* egm_conn_free - close; its agent's slabs are given back. */
void egm_conn_free(struct egm_conn *conn);

#endif
