/* control.h - control connections: frames in, requests done, replies out. Context of everything: control thread. */
#ifndef EGM_CONTROL_H
#define EGM_CONTROL_H

#include <stdbool.h>
#include "memserver/server.h"

/* egm_conn_new - serve fd (non-blocking) on the server's loop. `local`: over a unix socket or from a loopback address.
 * Owns:    fd, also on failure. Returns: 0 or -errno. */
int egm_conn_new(struct egm_server *server, int fd, bool is_unix, bool local) __attribute__((warn_unused_result));

/* egm_conn_free - close; its agent's slabs are given back. */
void egm_conn_free(struct egm_conn *conn);

#endif
