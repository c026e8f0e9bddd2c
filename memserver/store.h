/* store.h - what the server stores and for whom: sessions and their arenas, slabs with reference counts, snapshots, and the
 * account of capacity, promises and quotas.
 *
 * Account, in slabs:
 *   physical     slabs in use, over all sessions
 *   outstanding  sum over agents of max(0, reserved - owned): promised and not yet in use
 *   invariant    physical + outstanding <= capacity (per session the same against the quota)
 * A slab is owned by the agent whose promise it uses up: the one that allocated it. When the owner lets go of a slab that others
 * still hold, one of them becomes the owner; a slab held by snapshots only has none.
 * Memory kept for reuse (the pool) and memory on its way back to the kernel count against the capacity too, but give way.
 *
 * Threads: one control thread calls everything here. Data threads use egm_agent_may_read/_write and read `gone`, `arena`, all
 * under the agent's data_lock held for reading; the control thread takes it for writing where a slab ceases to be the agent's
 * or begins to be shared. */
#ifndef EGM_STORE_H
#define EGM_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include "proto/eg_wire.h"

#define EGM_CAPACITY_MAX_BYTES (64ull << 40) /* arenas are mapped whole: address space */
#define EGM_LEASE_MAX 64u                    /* slabs by one request: keeps the loop responsive */
#define EGM_BREAK_MAX 256u
#define EGM_SNAPSHOTS_MAX 1024u
#define EGM_POOL_SLABS 32u     /* returned slabs that a session may keep for a while */
#define EGM_SNAPSHOT_GRACE_S 5 /* a session without agents lives on so long for a snapshot's opener */
#define EGM_PROGRAM_BYTES 64

struct egm_data_conn;
struct egm_keys;
struct egm_store;
struct egm_session;

struct egm_slab {
    _Atomic uint32_t refs; /* agents and snapshots that hold it */
    uint32_t mark;         /* scratch of one request: duplicates */
    struct egm_agent *owner;
};

struct egm_agent {
    TAILQ_ENTRY(egm_agent) link;
    struct egm_session *session;
    uint64_t id, secret;
    uint64_t reserved, owned, held_count;
    uint64_t *held; /* a bit per slab of the arena */
    pthread_rwlock_t data_lock;
    bool gone;                             /* the control connection is closed: no slab is left */
    _Atomic uint32_t refs;                 /* the control thread's and one per data connection */
    LIST_HEAD(, egm_data_conn) data_conns; /* under data_lock */
    char program[EGM_PROGRAM_BYTES];
    char transport[8];
    uint32_t pid;
    uint64_t opened_ns;
};

struct egm_snapshot {
    TAILQ_ENTRY(egm_snapshot) link;
    uint64_t id;
    uint64_t *held;
};

struct egm_session {
    TAILQ_ENTRY(egm_session) link;
    STAILQ_ENTRY(egm_session) corpse_link;
    struct egm_store *store;
    uint64_t id;
    uint8_t token[EG_TOKEN_BYTES];
    int memfd;
    uint64_t arena_bytes;
    uint32_t n_slabs;       /* of the arena */
    uint8_t *arena;         /* NULL until somebody needs the mapping */
    bool shared_memory;     /* clients write to the memory themselves: they have the memfd, or remote keys */
    struct egm_slab *slabs; /* n_slabs, address space only until used */
    uint64_t physical, outstanding;
    uint32_t next_fresh; /* slabs from here on were never used */
    struct egm_numbers {
        uint32_t *v;
        size_t n, room;
    } unused, pool;  /* numbers without memory; numbers with memory, oldest first */
    size_t pool_low; /* smallest pool since trimmed_ns: nobody needed those */
    uint64_t trimmed_ns;
    uint64_t idle_since_ns; /* no agents, only snapshots; 0: in use */
    uint32_t n_snapshots;
    bool keep_memory; /* ended by the server's own end */
    struct egm_keys *keys; /* the remote keys of its slabs: rdma.c's */
    TAILQ_HEAD(, egm_agent) agents;
    TAILQ_HEAD(, egm_snapshot) snapshots;
};

struct egm_reaper {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    bool running, stopping;
    uint64_t dying_slabs;
    STAILQ_HEAD(, egm_session) corpses;
};

struct egm_store {
    uint64_t capacity, quota; /* slabs; quota 0: none */
    uint64_t physical, outstanding, pooled;
    uint64_t next_id, n_sessions;
    bool ending; /* the server ends: what clients have mapped is left to them */
    TAILQ_HEAD(, egm_session) sessions;
    uint64_t (*memory_left)(void); /* bytes that the machine can still give; NULL: do not ask */
    uint64_t memory_reserve;       /* bytes to leave to the machine */
    /* Called with data_lock held for writing after `agent` lost slabs, before they can be used again: queued replies must
     * not need them any more. NULL: there are no data connections. */
    void (*on_drop)(struct egm_agent *agent);
    /* Called for a session with `keys` before memory goes back to the kernel, which nobody must reach from outside any
     * more: that of one slab (control thread), or all at the session's end (the reaper, or egm_store_done's caller). */
    void (*on_punch)(struct egm_session *session, uint32_t slab);
    void (*on_free)(struct egm_session *session);
    struct egm_reaper reaper;
};

/* Every function below returns enum eg_status (EG_STATUS_OK is 0) unless it says otherwise, and changes nothing on failure.
 * Context: control thread. */

/* egm_store_init - an empty store; capacity and quota in bytes, rounded down to slabs (quota 0: none).
 * Returns: 0 or -errno. */
int egm_store_init(struct egm_store *store, uint64_t capacity_bytes, uint64_t quota_bytes)
    __attribute__((warn_unused_result));
void egm_store_done(struct egm_store *store);

/* egm_store_trim - give memory that nobody reused back to the kernel, a bounded amount, and end sessions whose grace is over.
 * Returns: milliseconds until it wants to be called again; 0: not before the next request. */
unsigned egm_store_trim(struct egm_store *store, uint64_t now_ns);
/* egm_store_end_idle - end sessions without agents at once: nobody is left to open their snapshots. */
void egm_store_end_idle(struct egm_store *store);

/* egm_store_free_slabs - what a newcomer could still reserve. Returns: slabs. */
uint64_t egm_store_free_slabs(const struct egm_store *store);

struct egm_agent *egm_store_find_agent(struct egm_store *store, uint64_t id, uint64_t secret);

/* egm_agent_open - a new agent of the session `token` (16 bytes), made unless allow_new is false (then EG_STATUS_DRAINING); starts
 * with the slabs of `snapshot` unless that is 0. */
enum eg_status egm_agent_open(struct egm_store *store, const uint8_t *token, uint64_t snapshot, bool allow_new,
                              struct egm_agent **ret_agent) __attribute__((warn_unused_result));
/* egm_agent_close - give back slabs and promise; the session ends with its last agent. Data connections see `gone`. */
void egm_agent_close(struct egm_agent *agent);
/* Any thread. The last reference frees. */
void egm_agent_put(struct egm_agent *agent);

enum eg_status egm_agent_reserve(struct egm_agent *agent, uint64_t slabs) __attribute__((warn_unused_result));
/* egm_agent_lease - ret_slabs has room for min(count, EGM_LEASE_MAX); *ret_count is at least 1 on success. */
enum eg_status egm_agent_lease(struct egm_agent *agent, uint32_t count, uint32_t *ret_slabs, uint32_t *ret_count)
    __attribute__((warn_unused_result));
enum eg_status egm_agent_return(struct egm_agent *agent, const uint32_t *slabs, size_t count)
    __attribute__((warn_unused_result));
enum eg_status egm_agent_snapshot(struct egm_agent *agent, uint64_t *ret_snapshot) __attribute__((warn_unused_result));
enum eg_status egm_agent_drop_snapshot(struct egm_agent *agent, uint64_t snapshot) __attribute__((warn_unused_result));
/* egm_agent_break - ret_slabs[i] is to be used instead of slabs[i]: itself if nobody else holds it, else a copy. */
enum eg_status egm_agent_break(struct egm_agent *agent, const uint32_t *slabs, size_t count, uint32_t *ret_slabs)
    __attribute__((warn_unused_result));
uint64_t egm_agent_shared(const struct egm_agent *agent);

/* egm_session_map - make session->arena valid. Returns: 0 or -errno. */
int egm_session_map(struct egm_session *session) __attribute__((warn_unused_result));

/* egm_store_check - recount everything. Context: tests. Returns: NULL, or what does not add up. */
const char *egm_store_check(const struct egm_store *store);

static inline bool egm_bit(const uint64_t *bits, uint32_t i) { return bits[i / 64] >> (i % 64) & 1; }

/* egm_agent_may_read/_may_write - does the whole range lie in slabs that this agent holds (and nobody else, for a write)?
 * Context: data threads under data_lock, or the control thread. len_bytes is not 0. */
static inline bool egm_agent_may_read(const struct egm_agent *agent, uint64_t offset, uint32_t len_bytes)
{
    if (offset >= agent->session->arena_bytes || len_bytes > agent->session->arena_bytes - offset) return false;
    uint32_t last = (uint32_t)((offset + len_bytes - 1) / EG_SLAB_BYTES);
    for (uint32_t i = (uint32_t)(offset / EG_SLAB_BYTES); i <= last; i++)
        if (!egm_bit(agent->held, i)) return false;
    return true;
}

static inline bool egm_agent_shares(const struct egm_agent *agent, uint64_t offset, uint32_t len_bytes)
{
    uint32_t last = (uint32_t)((offset + len_bytes - 1) / EG_SLAB_BYTES);
    for (uint32_t i = (uint32_t)(offset / EG_SLAB_BYTES); i <= last; i++)
        if (atomic_load_explicit(&agent->session->slabs[i].refs, memory_order_acquire) > 1) return true;
    return false;
}

uint64_t egm_now_ns(void);

#endif
