/* workers.h - the processes that stand in for home processes: kept warm, bound to one, handed its streams, reaped.
 * Context: the daemon's thread. */
#ifndef EGC_WORKERS_H
#define EGC_WORKERS_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>
#include "compute/isolation.h"
#include "proto/eg_threads.h"

#define EGC_WARM 1u /* workers ahead of need */
#define EGC_WORKERS_MAX 1024u

/*   STARTING --'R'--> WARM --hello--> BOUND
 *      any state --channel closed--> ENDING --SIGCHLD--> gone */
enum egc_worker_state { EGC_STARTING, EGC_WARM_WAITING, EGC_BOUND, EGC_ENDING };

struct egc_node;

struct egc_worker {
    LIST_ENTRY(egc_worker) link;
    struct egc_workers *all;
    enum egc_worker_state state;
    pid_t pid;
    int channel;
    struct event *readable;
    uint8_t token[EG_TOKEN_BYTES]; /* from here: BOUND */
    uint64_t process;
    uint32_t home_pid;
    uint32_t streams; /* thread streams handed over */
    uint32_t threads; /* of those, running now, as the worker says; if it never says: streams */
    bool counts;
    uint64_t bound_ns;
};

struct egc_workers {
    struct egc_node *node;
    struct egc_isolation isolation;
    LIST_HEAD(, egc_worker) list;
    struct event *child, *again, *refill;
    uint32_t failures; /* in a row: workers that ended before they were ready */
    bool ending;
    uint64_t bound_total;
};

enum egc_hand {
    EGC_HANDED,
    EGC_WAIT,   /* no worker is ready yet, or its queue is full: try again */
    EGC_REFUSED
};

/* egc_workers_init - start to keep workers warm on base.
 * Returns: 0, and ret_note says what they must do without; or -errno, and ret_note says why. */
int egc_workers_init(struct egc_workers *workers, struct egc_node *node, struct event_base *base, uint64_t memory_bytes,
                     char *ret_note, size_t note_bytes) __attribute__((warn_unused_result));
void egc_workers_done(struct egc_workers *workers);

/* egc_workers_hand - give the stream fd, which began with hello, to the worker of hello's process; a coherence stream binds a
 * warm one. The descriptor is made blocking. allow_new: processes without a worker may have one.
 * Owns:    fd stays the caller's, to close.
 * Returns: EGC_REFUSED with *ret_status and ret_why (at most 55 characters) for the peer. */
enum egc_hand egc_workers_hand(struct egc_workers *workers, const struct eg_node_hello *hello, int fd, bool allow_new,
                               enum eg_status *ret_status, char *ret_why, size_t why_bytes)
    __attribute__((warn_unused_result));

/* How many are in a state; threads of all that are bound. */
uint32_t egc_workers_count(const struct egc_workers *workers, enum egc_worker_state state);
uint32_t egc_workers_threads(const struct egc_workers *workers);

uint64_t egc_now_ns(void);

#endif
