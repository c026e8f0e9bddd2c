/* eg_dir.h - the directory: who holds which page. Freestanding, one thread (home's agent), no locks.
 *
 * A page that the directory does not know is HOME's alone. Agent 0 is home; agents 1 to EG_DIR_AGENTS-1 are workers. Single writer
 * or many readers; home has a good copy whenever a page is shared. Transactions are asynchronous: whoever asks while one is under way
 * on the page waits in line, first in first out, and nobody retries.
 *
 * The protocol is EG_DIR_TABLE below, and nothing else: dir.c looks its rows up, tests/model/directory.pml is checked with Spin,
 * and tests/unit/client_dir.c runs random schedules of it against a reference. Change them together.
 *
 * Order: a recall never takes effect before the grants that were sent before it (eg_threads.h says how), and a page is granted only after the
 * answer to a recall, or after it was given unasked. An invalidation that meets a request of the same worker on its way is answered first (the copy goes); the request, when
 * its turn comes, finds the worker no sharer any more and is granted with data.
 *
 * A page that its owner gives unasked is home's. When a recall was sent before, or rights to write what it had may be on their way to its threads, home may use
 * it, but nobody else gets it until the owner has said, to a recall, that it has nothing of it. */
#ifndef EG_DIR_H
#define EG_DIR_H

#include <stdint.h>

#define EG_DIR_AGENTS 64
#define EG_DIR_AT_HOME 0u

/* X(name, "meaning") */
#define EG_DIR_STATES(X)                                                                   \
    X(HOME, "home's alone, writable there")                                                \
    X(SHARED, "home and some workers have copies, nobody may write")                       \
    X(OWNED, "one worker's alone, writable there; home has none")                          \
    X(WAIT_ACKS, "shared copies are being invalidated, for a writer")                      \
    X(WAIT_DATA, "the owner has been asked to give it back")                               \
    X(WAIT_KEPT, "the owner has been asked for a copy, and to keep one")                   \
    X(WAIT_GONE, "home's alone, writable there; the last owner has been asked for it, and will say that it is gone")

/* X(name, "meaning") */
#define EG_DIR_EVENTS(X)                                                                   \
    X(READ, "somebody wants a copy")                                                       \
    X(WRITE, "somebody wants to write")                                                    \
    X(ACK, "a worker has dropped its copy, or has none to give")                           \
    X(DATA, "the owner's content has come")                                                \
    X(GIVEN, "the same, unasked: the owner has nothing of it any more")                    \
    X(CROSSED, "the same, but rights to write may be on their way to the owner")           \
    X(FORGET, "its content is gone, and with it all copies: a memory call discarded it")

/* X(state, event, when, action, next): `when` picks among rows of one state and event. The conditions:
 *   ALWAYS; MINE: the asking agent has the right already; ALONE: nobody but the asker has a copy; AWAITED: its acknowledgement is; LAST: no
 *   other one; OWNER: who says so is the owner, or was it last; FOR_HOME: so it is, and home asked for what comes.
 * Every (state, event) that is not here is a fault of the other side (ACK or DATA that nobody awaits, GIVEN by who is not the owner), or home's (FORGET of a busy page). */
#define EG_DIR_TABLE(X)                                                                    \
    X(HOME, READ, MINE, NOTHING_NEW, HOME)                                                 \
    X(HOME, READ, ALWAYS, SHARE, SHARED)                                                   \
    X(HOME, WRITE, MINE, NOTHING_NEW, HOME)                                                \
    X(HOME, WRITE, ALWAYS, GIVE, OWNED)                                                    \
    X(SHARED, READ, MINE, NOTHING_NEW, SHARED)                                             \
    X(SHARED, READ, ALWAYS, SHARE, SHARED)                                                 \
    X(SHARED, WRITE, ALONE, GIVE, OWNED)                                                   \
    X(SHARED, WRITE, ALWAYS, INVALIDATE, WAIT_ACKS)                                        \
    X(OWNED, READ, MINE, NOTHING_NEW, OWNED)                                               \
    X(OWNED, READ, ALWAYS, RECALL_COPY, WAIT_KEPT)                                         \
    X(OWNED, WRITE, MINE, NOTHING_NEW, OWNED)                                              \
    X(OWNED, WRITE, ALWAYS, RECALL, WAIT_DATA)                                             \
    X(WAIT_ACKS, READ, ALWAYS, QUEUE, WAIT_ACKS)                                           \
    X(WAIT_ACKS, WRITE, ALWAYS, QUEUE, WAIT_ACKS)                                          \
    X(WAIT_ACKS, ACK, LAST, GIVE, OWNED)                                                   \
    X(WAIT_ACKS, ACK, AWAITED, NOTE_ACK, WAIT_ACKS)                                        \
    X(WAIT_DATA, READ, ALWAYS, QUEUE, WAIT_DATA)                                           \
    X(WAIT_DATA, WRITE, ALWAYS, QUEUE, WAIT_DATA)                                          \
    X(WAIT_DATA, DATA, FOR_HOME, STORE_GIVE, OWNED)                                        \
    X(WAIT_DATA, DATA, OWNER, PASS_ON, OWNED)                                              \
    X(WAIT_KEPT, READ, ALWAYS, QUEUE, WAIT_KEPT)                                           \
    X(WAIT_KEPT, WRITE, ALWAYS, QUEUE, WAIT_KEPT)                                          \
    X(WAIT_KEPT, DATA, OWNER, STORE_SHARE, SHARED)                                         \
    X(OWNED, GIVEN, OWNER, STORE_HOME, HOME)                                               \
    X(OWNED, CROSSED, OWNER, STORE_RECALL, WAIT_GONE)                                      \
    X(WAIT_DATA, GIVEN, OWNER, STORE_QUEUE, WAIT_GONE)                                     \
    X(WAIT_DATA, CROSSED, OWNER, STORE_QUEUE, WAIT_GONE)                                   \
    X(WAIT_KEPT, GIVEN, OWNER, STORE_QUEUE, WAIT_GONE)                                     \
    X(WAIT_KEPT, CROSSED, OWNER, STORE_QUEUE, WAIT_GONE)                                   \
    X(WAIT_GONE, READ, ALWAYS, QUEUE, WAIT_GONE)                                           \
    X(WAIT_GONE, WRITE, ALWAYS, QUEUE, WAIT_GONE)                                          \
    X(WAIT_GONE, ACK, OWNER, GONE, HOME)                                                   \
    X(HOME, FORGET, ALWAYS, FORGOTTEN, HOME)                                               \
    X(SHARED, FORGET, ALWAYS, FORGOTTEN, HOME)                                             \
    X(OWNED, FORGET, ALWAYS, FORGOTTEN, HOME)

enum eg_dir_state {
#define EG_X(name, text) EG_DIR_##name,
    EG_DIR_STATES(EG_X)
#undef EG_X
    EG_DIR_N_STATES
};

enum eg_dir_event {
#define EG_X(name, text) EG_DIR_EV_##name,
    EG_DIR_EVENTS(EG_X)
#undef EG_X
    EG_DIR_N_EVENTS
};

/* One page. All zeros: HOME. */
struct eg_dir_page {
    uint64_t sharers; /* bit per worker with a copy; WAIT_ACKS: those whose acknowledgement is awaited */
    uint8_t state;    /* enum eg_dir_state */
    uint8_t owner;    /* OWNED, WAIT_DATA, WAIT_KEPT; else who was it last (WAIT_GONE: and is to say that it has nothing) */
    uint8_t agent;    /* WAIT_*: for whom; WAIT_GONE: for home */
    uint8_t had_copy : 1; /* WAIT_ACKS: the asker has a good copy already */
    uint8_t moves : 2;    /* how surely whoever reads it will write it, too: see eg_dir_ask */
    uint8_t n_moved : 5;  /* reads that were taken for writes since one was not */
    uint16_t slot;    /* WAIT_*: for which of the asker's threads */
    uint16_t line;    /* first of those who wait; 0: nobody */
};
_Static_assert(sizeof(struct eg_dir_page) == 16, "millions of them");

/* What goes with a grant. */
enum eg_dir_content {
    EG_DIR_NO_CONTENT, /* the agent's copy is good */
    EG_DIR_OF_HOME,    /* home's copy; to write: home's then goes */
    EG_DIR_INCOMING    /* what eg_dir_data was just given; home has no copy, or the same in its copy */
};

/* What the directory has done by whoever knows memory and streams. None may block or call back. */
struct eg_dir_ops {
    /* grant - `agent` gets the page: to write, or a shared copy. Home: its page table is changed and its threads are woken. */
    void (*grant)(uint64_t page, unsigned agent, unsigned slot, int write, enum eg_dir_content content);
    /* protect - home's copy may not be written any more. */
    void (*protect)(uint64_t page);
    void (*invalidate)(uint64_t page, unsigned agent);
    /* recall - ask the owner for the content; keep: it goes on with a shared copy. */
    void (*recall)(uint64_t page, unsigned agent, int keep);
    /* store - the content that came is home's copy now; write: home may write it. */
    void (*store)(uint64_t page, const void *data, int write);
};

struct eg_dir_wait {
    uint16_t next, slot;
    uint8_t agent, write;
};
#define EG_DIR_WAITS 32768u

struct eg_dir {
    const struct eg_dir_ops *ops;
    struct eg_dir_wait *wait; /* EG_DIR_WAITS of them, [0] unused */
    uint16_t free;
};

/* eg_dir_init - Context: any; wait: zeroed memory for EG_DIR_WAITS entries. */
void eg_dir_init(struct eg_dir *dir, const struct eg_dir_ops *ops, struct eg_dir_wait *wait);

/* eg_dir_ask - READ or WRITE. Migratory pages: where readers have written next, one after the other, a READ is taken for a WRITE (P. Stenstrom,
 * M. Brorsson, L. Sandberg, "An adaptive cache coherence protocol optimized for migratory sharing", ISCA 1993), but for one in 32, which shows
 * whether it still is so. Returns: 0; -ENOSPC (the lines are full: EG_DIR_WAITS - 1 wait already). */
int eg_dir_ask(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent, unsigned slot, int write);
/* eg_dir_ack, eg_dir_data - a worker's answer. Returns: 0; -EPROTO (nobody asked: the worker does not keep to the protocol). */
int eg_dir_ack(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent);
int eg_dir_data(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent, const void *data);
/* eg_dir_given - a worker has given the page back unasked. crossed: a right may have been on its way to it. Returns: 0; -EPROTO (it was not the owner); -ENOSPC (as
 * eg_dir_ask). */
int eg_dir_given(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent, const void *data, int crossed);
/* eg_dir_forget - workers and home have no copy of the page any more, and what it had in it was discarded. Context: nobody waits in its line. Returns: 0; -EPROTO:
 * it is busy. */
int eg_dir_forget(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page);

/* Nothing of it is away, and nobody waits for it. */
static inline int eg_dir_is_home(const struct eg_dir_page *p)
{
    return p->state == EG_DIR_HOME && !p->line;
}

static inline int eg_dir_busy(const struct eg_dir_page *p)
{
    return p->state >= EG_DIR_WAIT_ACKS;
}

#endif
