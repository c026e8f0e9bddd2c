/* relay.h - streams to compute nodes over RDMA. The programs' runtime and the workers speak streams on sockets; a relay process on each side
 * ends RDMA for them: each connection of one is a *bridge* between a socket and an endpoint of proto/eg_rdma.h.
 *
 *   at home   listens on a unix socket; each connection there becomes one to the node (--to)
 *   node      listens on the rdma: address; each connection becomes a socket pair, whose other end the compute daemon gets (--hand-to)
 *
 * Ends travel: what a side had sent before its socket ended arrives, then the other side's socket ends. Neither half lives on alone.
 * Both directions of a bridge wait while one side does not take what came for it (over EGR_OUT_MOST_BYTES) and says nothing itself. A side that does
 * may read only when that is gone: then more is kept for it, at most what home sends unasked (runs of pages for the worker's threads).
 *
 * Context of everything: the relay's one thread, in the event loop. */
#ifndef EGR_RELAY_H
#define EGR_RELAY_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include "proto/eg_addr.h"
#include "proto/eg_listen.h"
#include "proto/eg_rdma.h"
#include "proto/eg_spin.h"

#define EGR_BRIDGES_MAX 4096u
#define EGR_IN_BYTES (8u * EG_RDMA_PAYLOAD_BYTES)
#define EGR_OUT_MOST_BYTES (1u << 20)

/*   CONNECTING --ESTABLISHED--> OPEN --end of the socket--> LAST_IN --all acknowledged--> DEAD
 *                                    --end of the RDMA connection--> LAST_OUT --all written--> DEAD */
enum egr_state { EGR_CONNECTING, EGR_OPEN, EGR_LAST_IN, EGR_LAST_OUT, EGR_DEAD };

struct egr_bridge {
    LIST_ENTRY(egr_bridge) entry;
    TAILQ_ENTRY(egr_bridge) hot_entry;
    struct egr_relay *relay;
    enum egr_state state;
    bool hot;                 /* on the list */
    bool armed;               /* the device will say when something is there */
    bool moved;               /* bytes, since this was last cleared */
    bool reading, writing;    /* the events are on */
    bool deaf;                /* nobody reads from the socket any more */
    uint64_t moved_ns;
    int fd;
    struct event *readable, *writable;
    struct rdma_cm_id *id;    /* until the endpoint has it */
    struct eg_rdma_ep ep;
    uint32_t in_at, in_end;
    uint8_t in[EGR_IN_BYTES]; /* from the socket */
    uint8_t *out;             /* to the socket */
    size_t out_at, out_end, out_room;
};

struct egr_device;

struct egr_relay {
    struct event_base *base;
    const struct eg_verbs *verbs;
    struct rdma_event_channel *channel;
    struct event *cm, *keepalive;
    LIST_HEAD(, egr_device) devices;
    LIST_HEAD(, egr_bridge) bridges;
    TAILQ_HEAD(egr_hot, egr_bridge) hot; /* those that are looked at while the relay spins */
    uint32_t n_bridges;
    struct eg_spin spin;
    int load_fd, processors;  /* /proc/loadavg */
    uint64_t load_ns, spin_ns;
    bool ending;              /* when no bridge is left */
    bool said_memory;
    /* at home */
    struct eg_addr to;
    struct eg_listener at;
    struct event *acceptable;
    /* on a node */
    struct rdma_cm_id *listener;
    char listener_text[160];
    int hand_to;              /* -1: at home */
    struct event *daemon;
};

/* egr_relay_init - Returns: 0, -ENOMEM. */
int egr_relay_init(struct egr_relay *relay, struct event_base *base, const struct eg_addr *to, int hand_to) __attribute__((warn_unused_result));
/* egr_relay_listen - on a unix address at home, on an rdma: one on a node. As eg_listener_open. */
int egr_relay_listen(struct egr_relay *relay, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
    __attribute__((warn_unused_result));
/* egr_relay_settle - free the bridges that ended; end the loop when it is time. */
void egr_relay_settle(struct egr_relay *relay);
void egr_relay_done(struct egr_relay *relay);
/* egr_relay_run - look at the hot bridges until nothing has come for a while, then ask to be woken. */
void egr_relay_run(struct egr_relay *relay);

/* egr_bridge_new - for a socket; it is CONNECTING. Owns: fd, in any case. Returns: NULL: memory is short. */
struct egr_bridge *egr_bridge_new(struct egr_relay *relay, int fd);
/* egr_bridge_opened - the connection is there. */
void egr_bridge_opened(struct egr_bridge *bridge);
/* egr_bridge_turn - move what can be moved, both ways. Returns: something was. */
bool egr_bridge_turn(struct egr_bridge *bridge);
/* egr_bridge_lost - the RDMA connection has ended, or never began; what had come is still written. */
void egr_bridge_lost(struct egr_bridge *bridge);
/* egr_bridge_heat - look at it in the next egr_relay_run. */
void egr_bridge_heat(struct egr_bridge *bridge);
/* egr_bridge_free - Context: not from within a turn. */
void egr_bridge_free(struct egr_bridge *bridge);

#endif
