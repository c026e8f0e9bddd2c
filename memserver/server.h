/* server.h - the daemon's own state: listeners, connections, when to end. One event loop on the control thread. */
#ifndef EGM_SERVER_H
#define EGM_SERVER_H

#include <event2/event.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include "memserver/data.h"
#include "memserver/store.h"
#include "proto/eg_addr.h"
#include "proto/eg_verbs.h"

#define EGM_CONNECTIONS_MAX 4096u
#define EGM_HELLO_S 10 /* for a first request, and for what must be finished without a session */

struct egm_conn;
struct egm_listener;
struct egm_rdma;

struct egm_server {
    struct event_base *base;
    struct egm_store store;
    struct egm_data *data;
    struct egm_rdma *rdma;        /* NULL until it listens on an rdma: address */
    const struct eg_verbs *verbs; /* for that; tests put their own here */
    LIST_HEAD(, egm_conn) conns;
    LIST_HEAD(, egm_listener) listeners;
    _Atomic uint64_t bad_frames;
    _Atomic uint32_t n_conns; /* data connections included */
    uint32_t max_conns;
    bool draining; /* no new sessions; end after the last */
    bool ending;   /* end when there is no session */
    bool any_user; /* unix sockets are not only for the own user: before egm_server_listen */
    uint64_t started_ns;
    struct event *trim;
};

/* egm_server_init - a server without listeners. n_threads 0: no data plane threads (tests).
 * Returns: 0 or -errno. */
int egm_server_init(struct egm_server *server, uint64_t capacity_bytes, uint64_t quota_bytes, unsigned n_threads)
    __attribute__((warn_unused_result));
void egm_server_done(struct egm_server *server);

/* egm_server_listen - ret_text gets the address with its real port. Removes a stale unix socket, never a live one.
 * Returns: 0, or -errno and ret_why holds one line that says what to do. */
int egm_server_listen(struct egm_server *server, const struct eg_addr *addr, char *ret_text, size_t text_bytes,
                      char *ret_why, size_t why_bytes) __attribute__((warn_unused_result));

/* egm_server_settle - something was freed or ended: arm the trimmer, end the loop if it is time. Context: control thread. */
void egm_server_settle(struct egm_server *server);

#endif
