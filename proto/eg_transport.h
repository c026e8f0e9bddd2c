/* eg_transport.h - one-sided reads and writes of a memory server's arena, behind one table of operations. Freestanding.
 *
 * A link is one agent's data path to one server. Requests are submitted, flushed (one doorbell for a batch) and completed by
 * polling; completions of one link come in the order of submission. A link belongs to whoever holds the pager's lock:
 * nothing here locks. The buffers stay the caller's and must not move until completion.
 *
 *   transport  submit                      completion                      server's processor
 *   shm        copies at once (memfd)      next poll                       none
 *   tcp        queues a frame              reply frame read by poll        copies to and from its socket
 *   rdma       queues a work request       completion queue, at poll       none
 */
#ifndef EG_TRANSPORT_H
#define EG_TRANSPORT_H

#include "proto/eg_wire.h"

#include <stddef.h>

enum eg_io_op { EG_IO_READ = 1, EG_IO_WRITE = 2 };

struct eg_io {
    struct eg_io *next;
    uint64_t offset; /* in the arena */
    void *buf;
    uint32_t len_bytes; /* at most EG_DATA_MAX_BYTES */
    uint32_t key;       /* rdma: the slab's remote key */
    uint8_t op;         /* enum eg_io_op */
    int result;         /* 0 or -errno, valid once completed */
    int *waiter;        /* not NULL: set to 1 at completion; for whoever waits for just this one */
    struct eg_frame frame;
};

struct eg_io_queue {
    struct eg_io *head, *tail;
};

struct eg_link;

struct eg_transport {
    const char *name;
    /* submit - queue one request. Returns: 0, or -errno when the link is dead (the request was not queued). */
    int (*submit)(struct eg_link *link, struct eg_io *io);
    /* poll - send what can be sent, and collect completions. Returns: the number moved to *done, or -errno: the link is dead
     * and nothing outstanding on it will complete. Never blocks. */
    int (*poll)(struct eg_link *link, struct eg_io_queue *done);
    /* arm - link->fd becomes readable at the next completion; poll once more before sleeping on it. NULL: it always does.
     * Returns: 0, or -errno as poll. */
    int (*arm)(struct eg_link *link);
    /* close - release the descriptor. */
    void (*close)(struct eg_link *link);
    /* read - the same as an EG_IO_READ, done at once, by any thread and without the pager's lock. NULL: the transport has messages.
     * Returns: 0, -errno. */
    int (*read)(const struct eg_link *link, uint64_t offset, void *buf, uint32_t len_bytes);
    /* view - map the arena's first bytes, somewhere from `near` on: link->view; unview and close undo it. NULL: it cannot be. Returns: 0, -errno. */
    int (*view)(struct eg_link *link, uint64_t bytes, uint64_t near);
    void (*unview)(struct eg_link *link);
    /* ready - would a poll find something? By any thread, without the pager's lock: the answer may be out of date. NULL: poll to find out. */
    int (*ready)(const struct eg_link *link);
    /* beside - does the server share the processor that the caller is on? Then to spin for it is in vain. Context: as ready. NULL: never. */
    int (*beside)(struct eg_link *link);
    uint8_t registered; /* buffers must lie in the pager's staging or receive area, and stay the same physical pages */
};

#define EG_LINK_REPLIES 16 /* read with one system call */

struct eg_link {
    const struct eg_transport *ops;
    int fd;              /* shm: the arena's memfd; tcp: the data connection; rdma: completion events; -1 when closed */
    struct eg_verbs_link *verbs; /* rdma: the verbs library's side */
    uint32_t *keys;      /* rdma: remote key of each slab */
    uint8_t want_write;  /* tcp: something waits for room in the socket */
    uint8_t local;       /* tcp: 1 the server is on this machine, 2 it is not, 0 not looked yet */
    uint32_t outstanding;
    uint8_t viewed;      /* shm: a view was asked for */
    uint8_t *view;       /* the arena, if it could be mapped; else NULL */
    uint64_t view_bytes;
    struct eg_io_queue send, wait; /* shm: `wait` holds the completed ones until the next poll */
    uint32_t send_done_bytes;      /* of send.head */
    uint32_t recv_done_bytes;      /* of wait.head's reply */
    uint64_t next_cookie;
    struct eg_frame reply[EG_LINK_REPLIES]; /* tcp: headers of the first of `wait` */
};

extern const struct eg_transport eg_transport_shm, eg_transport_tcp, eg_transport_rdma;

static inline void eg_io_push(struct eg_io_queue *q, struct eg_io *io)
{
    io->next = NULL;
    if (q->tail)
        q->tail->next = io;
    else
        q->head = io;
    q->tail = io;
}

static inline struct eg_io *eg_io_pop(struct eg_io_queue *q)
{
    struct eg_io *io = q->head;
    if (io && !(q->head = io->next))
        q->tail = NULL;
    return io;
}

#endif
