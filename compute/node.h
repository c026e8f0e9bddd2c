/* node.h - the daemon's own state: listeners, connections until they are handed over, workers, when to end. One event loop on
 * one thread: context of everything here. */
#ifndef EGC_NODE_H
#define EGC_NODE_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "compute/workers.h"
#include "proto/eg_addr.h"
#include "proto/eg_cpu.h"

#define EGC_CONNECTIONS_MAX 4096u
#define EGC_HELLO_S 5 /* for a first message, for a request, and to find a worker for a stream */

struct egc_conn;
struct egc_listener;

struct egc_node {
    struct event_base *base;
    struct egc_workers workers;
    LIST_HEAD(, egc_conn) conns;
    LIST_HEAD(, egc_listener) listeners;
    uint32_t slots, n_conns;
    uint64_t memory_bytes; /* limit of each worker; 0: none */
    uint64_t bad_frames, started_ns;
    bool draining; /* no new processes; end after the last */
    bool ending;   /* end when there is no process */
    struct eg_cpu cpu;
    uint8_t vdso_sum[EG_VDSO_SUM_BYTES];
    bool has_vdso;
    char kernel[65], boot_id[40];
};

/* egc_node_init - a node without listeners. memory_bytes 0: no limit.
 * Returns: 0, and ret_note says what workers must do without ("": nothing); or -errno, and ret_note says why. */
int egc_node_init(struct egc_node *node, uint32_t slots, uint64_t memory_bytes, char *ret_note, size_t note_bytes)
    __attribute__((warn_unused_result));
/* egc_node_done - workers are killed and reaped. */
void egc_node_done(struct egc_node *node);

/* egc_node_listen - as eg_listener_open. */
int egc_node_listen(struct egc_node *node, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why,
                    size_t why_bytes) __attribute__((warn_unused_result));

/* egc_node_settle - a worker got ready or ended: see to the streams that wait for one, end the loop if it is time. */
void egc_node_settle(struct egc_node *node);

#endif
