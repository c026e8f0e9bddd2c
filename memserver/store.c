#include "memserver/store.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define TRIM_BATCH 64u /* slabs punched in one go: about 3 ms */
#define TRIM_BUSY_MS 10u
#define TRIM_IDLE_MS 1000u
#define COPY_BYTES (256u << 10) /* stays in the second-level cache */

uint64_t egm_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- numbers: room is made when a slab is first used, so that pushing cannot fail ---- */

static bool numbers_room(struct egm_numbers *numbers, size_t room)
{
    if (room <= numbers->room) return true;
    size_t larger = numbers->room ? numbers->room * 2 : 64;
    while (larger < room) larger *= 2;
    uint32_t *v = realloc(numbers->v, larger * sizeof *v);
    if (!v) return false;
    numbers->v = v;
    numbers->room = larger;
    return true;
}

static void numbers_push(struct egm_numbers *numbers, uint32_t number) { numbers->v[numbers->n++] = number; }

static void bit_set(uint64_t *bits, uint32_t i) { bits[i / 64] |= 1ull << (i % 64); }
static void bit_clear(uint64_t *bits, uint32_t i) { bits[i / 64] &= ~(1ull << (i % 64)); }
static size_t bit_words(const struct egm_session *session) { return ((size_t)session->n_slabs + 63) / 64; }

/* For each set bit of `bits`, of which only those below next_fresh can be set. */
#define FOR_EACH_SLAB(session, bits, i)                                                                                \
    for (uint32_t w_ = 0, i = 0; w_ < ((session)->next_fresh + 63) / 64; w_++)                                         \
        for (uint64_t left_ = (bits)[w_]; left_ && (i = w_ * 64 + (uint32_t)__builtin_ctzll(left_), 1);                \
             left_ &= left_ - 1)

/* ---- the account ---- */

static uint64_t agent_outstanding(const struct egm_agent *agent)
{
    return agent->reserved > agent->owned ? agent->reserved - agent->owned : 0;
}

static void account_agent(struct egm_agent *agent, uint64_t reserved, uint64_t owned)
{
    struct egm_session *session = agent->session;
    uint64_t before = agent_outstanding(agent);
    agent->reserved = reserved;
    agent->owned = owned;
    uint64_t change = agent_outstanding(agent) - before; /* modulo 2^64 */
    session->outstanding += change;
    session->store->outstanding += change;
}

static void account_physical(struct egm_session *session, int64_t change)
{
    session->physical += (uint64_t)change;
    session->store->physical += (uint64_t)change;
}

static enum eg_status account_fits(const struct egm_session *session)
{
    const struct egm_store *store = session->store;
    if (store->quota && session->physical + session->outstanding > store->quota) return EG_STATUS_QUOTA;
    if (store->physical + store->outstanding > store->capacity) return EG_STATUS_NOSPACE;
    return EG_STATUS_OK;
}

uint64_t egm_store_free_slabs(const struct egm_store *store)
{
    uint64_t used = store->physical + store->outstanding;
    return store->capacity > used ? store->capacity - used : 0;
}

/* A holder of the slab other than `agent`, rather one whose promise has room for it; NULL: only snapshots. */
static struct egm_agent *find_heir(const struct egm_agent *agent, uint32_t slab)
{
    struct egm_agent *other, *heir = NULL;
    TAILQ_FOREACH (other, &agent->session->agents, link) {
        if (other == agent || !egm_bit(other->held, slab)) continue;
        if (agent_outstanding(other)) return other;
        heir = other;
    }
    return heir;
}

static void set_owner(struct egm_slab *slab, struct egm_agent *owner)
{
    if (slab->owner) account_agent(slab->owner, slab->owner->reserved, slab->owner->owned - 1);
    slab->owner = owner;
    if (owner) account_agent(owner, owner->reserved, owner->owned + 1);
}

/* ---- memory of slabs ---- */

/* Gives the pool's oldest `count` slabs back to the kernel. Returns: how many it could. */
static size_t pool_punch(struct egm_session *session, size_t count)
{
    size_t n = 0;
    for (; n < count && n < session->pool.n; n++) {
        uint32_t slab = session->pool.v[n];
        if (session->keys) session->store->on_punch(session, slab);
        if (fallocate(session->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)slab * EG_SLAB_BYTES,
                      EG_SLAB_BYTES))
            break;
        numbers_push(&session->unused, slab);
    }
    if (!n) return 0;
    session->pool.n -= n;
    memmove(session->pool.v, session->pool.v + n, session->pool.n * sizeof *session->pool.v);
    session->store->pooled -= n;
    if (session->pool_low > session->pool.n) session->pool_low = session->pool.n;
    return n;
}

static uint64_t reaper_dying(struct egm_reaper *reaper, uint64_t at_most)
{
    pthread_mutex_lock(&reaper->lock);
    while (reaper->dying_slabs > at_most) pthread_cond_wait(&reaper->done, &reaper->lock);
    uint64_t dying = reaper->dying_slabs;
    pthread_mutex_unlock(&reaper->lock);
    return dying;
}

/* Makes room for one more slab's memory beside what is kept for reuse or not yet freed. Those being counted in physical already. */
static void make_room(struct egm_store *store)
{
    uint64_t dying = reaper_dying(&store->reaper, UINT64_MAX);
    if (store->physical + store->pooled + dying <= store->capacity) return;
    struct egm_session *session;
    TAILQ_FOREACH (session, &store->sessions, link) {
        while (session->pool.n && store->physical + store->pooled + dying > store->capacity)
            if (!pool_punch(session, 1)) break;
        if (store->physical + store->pooled + dying <= store->capacity) return;
    }
    if (store->physical <= store->capacity) (void)reaper_dying(&store->reaper, store->capacity - store->physical);
}

/* How many of `want` more slabs the machine can give without being driven into the out-of-memory killer. */
static uint64_t memory_affords(const struct egm_store *store, uint64_t want)
{
    if (!store->memory_left || !want) return want;
    uint64_t left = store->memory_left();
    if (left == UINT64_MAX) return want;
    left = left > store->memory_reserve ? (left - store->memory_reserve) / EG_SLAB_BYTES : 0;
    return left < want ? left : want;
}

/* A slab number with memory behind it; physical already counts it. Returns: 0; -ENOSPC, -ENOMEM. */
static int memory_take(struct egm_session *session, uint32_t *ret_slab)
{
    struct egm_store *store = session->store;
    uint32_t slab;
    bool fresh = false;

    if (session->pool.n) {
        *ret_slab = session->pool.v[--session->pool.n];
        store->pooled--;
        if (session->pool_low > session->pool.n) session->pool_low = session->pool.n;
        return 0;
    }
    make_room(store);
    if (session->unused.n) {
        slab = session->unused.v[session->unused.n - 1];
    } else {
        if (session->next_fresh >= session->n_slabs) return -ENOSPC;
        if (!numbers_room(&session->unused, (size_t)session->next_fresh + 1) ||
            !numbers_room(&session->pool, (size_t)session->next_fresh + 1))
            return -ENOMEM;
        slab = session->next_fresh;
        fresh = true;
    }
    /* Where clients write to the memory themselves, the pages are made here, so that they are charged to the server's control
     * group and not to the client's. Where only the server writes they come with the first write: a slab with one page in use
     * then takes one page. */
    if (session->shared_memory) {
        int r;
        do r = fallocate(session->memfd, 0, (off_t)slab * EG_SLAB_BYTES, EG_SLAB_BYTES);
        while (r && errno == EINTR);
        if (r) {
            r = -errno;
            (void)!fallocate(session->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)slab * EG_SLAB_BYTES,
                             EG_SLAB_BYTES);
            return r == -EFBIG ? -ENOSPC : r;
        }
    }
    if (fresh) session->next_fresh++;
    else session->unused.n--;
    *ret_slab = slab;
    return 0;
}

static void memory_give(struct egm_session *session, uint32_t slab)
{
    numbers_push(&session->pool, slab);
    session->store->pooled++;
}

/* Takes `count` slabs, physical already counting them. Returns: how many it got. */
static size_t memory_take_many(struct egm_session *session, size_t count, uint32_t *ret_slabs)
{
    size_t n = 0, from_pool = count < session->pool.n ? count : session->pool.n;
    count = from_pool + memory_affords(session->store, count - from_pool);
    while (n < count && !memory_take(session, &ret_slabs[n])) n++;
    return n;
}

static int copy_slab(int memfd, uint32_t from, uint32_t to)
{
    static uint8_t buffer[COPY_BYTES]; /* the control thread's */
    for (uint64_t at = 0; at < EG_SLAB_BYTES;) {
        ssize_t n = pread(memfd, buffer, sizeof buffer, (off_t)((uint64_t)from * EG_SLAB_BYTES + at));
        if (n > 0) {
            size_t want = (uint64_t)n < EG_SLAB_BYTES - at ? (size_t)n : (size_t)(EG_SLAB_BYTES - at);
            n = pwrite(memfd, buffer, want, (off_t)((uint64_t)to * EG_SLAB_BYTES + at));
        }
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n ? -errno : -EIO;
        at += (uint64_t)n;
    }
    return 0;
}

/* ---- sessions ---- */

static void session_free(struct egm_session *session)
{
    if (session->keys) session->store->on_free(session);
    if (session->arena) munmap(session->arena, session->arena_bytes);
    if (session->memfd >= 0) close(session->memfd);
    if (session->slabs) munmap(session->slabs, session->n_slabs * sizeof *session->slabs);
    free(session->unused.v);
    free(session->pool.v);
    free(session);
}

static enum eg_status session_new(struct egm_store *store, const uint8_t *token, struct egm_session **ret_session)
{
    uint64_t n_slabs = store->quota && store->quota < store->capacity ? store->quota : store->capacity;
    struct egm_session *session = calloc(1, sizeof *session);
    if (!session) return EG_STATUS_INTERNAL;
    session->store = store;
    session->n_slabs = (uint32_t)n_slabs;
    session->arena_bytes = n_slabs * EG_SLAB_BYTES;
    session->memfd = memfd_create("endgame-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (session->memfd < 0 || ftruncate(session->memfd, (off_t)session->arena_bytes) ||
        fcntl(session->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        goto fail;
    session->slabs = mmap(NULL, session->n_slabs * sizeof *session->slabs, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (session->slabs == MAP_FAILED) {
        session->slabs = NULL;
        goto fail;
    }
    TAILQ_INIT(&session->agents);
    TAILQ_INIT(&session->snapshots);
    memcpy(session->token, token, EG_TOKEN_BYTES);
    session->id = ++store->next_id;
    TAILQ_INSERT_TAIL(&store->sessions, session, link);
    store->n_sessions++;
    *ret_session = session;
    return EG_STATUS_OK;
fail:
    session_free(session);
    return EG_STATUS_INTERNAL;
}

static void snapshot_free(struct egm_session *session, struct egm_snapshot *snapshot)
{
    TAILQ_REMOVE(&session->snapshots, snapshot, link);
    session->n_snapshots--;
    free(snapshot->held);
    free(snapshot);
}

/* No agent is left. The memory itself is freed by the reaper: gigabytes take a second. */
static void session_end(struct egm_session *session)
{
    struct egm_store *store = session->store;
    struct egm_reaper *reaper = &store->reaper;

    while (!TAILQ_EMPTY(&session->snapshots)) snapshot_free(session, TAILQ_FIRST(&session->snapshots));
    store->physical -= session->physical;
    store->pooled -= session->pool.n;
    store->n_sessions--;
    TAILQ_REMOVE(&store->sessions, session, link);
    session->physical += session->pool.n;
    session->keep_memory = store->ending;
    pthread_mutex_lock(&reaper->lock);
    reaper->dying_slabs += session->physical;
    STAILQ_INSERT_TAIL(&reaper->corpses, session, corpse_link);
    pthread_cond_signal(&reaper->wake);
    pthread_mutex_unlock(&reaper->lock);
}

static void *reaper_main(void *arg)
{
    struct egm_reaper *reaper = arg;
    pthread_mutex_lock(&reaper->lock);
    for (;;) {
        struct egm_session *session = STAILQ_FIRST(&reaper->corpses);
        if (!session) {
            if (reaper->stopping) break;
            pthread_cond_wait(&reaper->wake, &reaper->lock);
            continue;
        }
        STAILQ_REMOVE_HEAD(&reaper->corpses, corpse_link);
        uint64_t slabs = session->physical;
        pthread_mutex_unlock(&reaper->lock);
        if (session->keys) session->store->on_free(session);
        /* A client may still have the memfd open: closing ours would not free the memory. At the server's own end it may live
         * on in the client: the data is right. */
        if (!session->keep_memory)
            (void)!fallocate(session->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                             (off_t)session->arena_bytes);
        session_free(session);
        pthread_mutex_lock(&reaper->lock);
        reaper->dying_slabs -= slabs;
        pthread_cond_broadcast(&reaper->done);
    }
    pthread_mutex_unlock(&reaper->lock);
    return NULL;
}

int egm_session_map(struct egm_session *session)
{
    if (session->arena) return 0;
    void *arena =
        mmap(NULL, session->arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, session->memfd, 0);
    if (arena == MAP_FAILED) return -errno;
    (void)!madvise(arena, session->arena_bytes, MADV_DONTDUMP);
    session->arena = arena;
    return 0;
}

/* ---- the store ---- */

int egm_store_init(struct egm_store *store, uint64_t capacity_bytes, uint64_t quota_bytes)
{
    memset(store, 0, sizeof *store);
    store->capacity = capacity_bytes / EG_SLAB_BYTES;
    store->quota = quota_bytes / EG_SLAB_BYTES;
    if (!store->capacity || capacity_bytes > EGM_CAPACITY_MAX_BYTES || (quota_bytes && !store->quota)) return -EINVAL;
    TAILQ_INIT(&store->sessions);
    STAILQ_INIT(&store->reaper.corpses);
    pthread_mutex_init(&store->reaper.lock, NULL);
    pthread_cond_init(&store->reaper.wake, NULL);
    pthread_cond_init(&store->reaper.done, NULL);
    int r = pthread_create(&store->reaper.thread, NULL, reaper_main, &store->reaper);
    store->reaper.running = !r;
    return -r;
}

void egm_store_done(struct egm_store *store)
{
    struct egm_reaper *reaper = &store->reaper;
    if (!reaper->running) return;
    store->ending = true;
    pthread_mutex_lock(&reaper->lock);
    reaper->stopping = true;
    pthread_cond_signal(&reaper->wake);
    pthread_mutex_unlock(&reaper->lock);
    struct egm_session *session, *next_session;
    for (session = TAILQ_FIRST(&store->sessions); session; session = next_session) {
        next_session = TAILQ_NEXT(session, link);
        if (TAILQ_EMPTY(&session->agents)) session_end(session);
        else
            while (!TAILQ_EMPTY(&session->snapshots)) snapshot_free(session, TAILQ_FIRST(&session->snapshots));
    }
    while ((session = TAILQ_FIRST(&store->sessions))) {
        struct egm_agent *agent, *next;
        for (agent = TAILQ_FIRST(&session->agents); agent; agent = next) {
            next = TAILQ_NEXT(agent, link);
            egm_agent_close(agent); /* the last one ends the session */
        }
    }
    pthread_join(reaper->thread, NULL);
    /* The reaper may have left before the last sessions ended. */
    while ((session = STAILQ_FIRST(&reaper->corpses))) {
        STAILQ_REMOVE_HEAD(&reaper->corpses, corpse_link);
        session_free(session);
    }
    reaper->running = false;
    pthread_mutex_destroy(&reaper->lock);
    pthread_cond_destroy(&reaper->wake);
    pthread_cond_destroy(&reaper->done);
}

unsigned egm_store_trim(struct egm_store *store, uint64_t now_ns)
{
    size_t batch = TRIM_BATCH;
    bool waiting = false;
    struct egm_session *session, *next;

    for (session = TAILQ_FIRST(&store->sessions); session; session = next) {
        next = TAILQ_NEXT(session, link);
        if (session->idle_since_ns) {
            if (now_ns >= session->idle_since_ns + EGM_SNAPSHOT_GRACE_S * 1000000000ull) {
                session_end(session);
                continue;
            }
            waiting = true;
        }
        size_t want = session->pool.n > EGM_POOL_SLABS ? session->pool.n - EGM_POOL_SLABS : 0;
        if (now_ns >= session->trimmed_ns + TRIM_IDLE_MS * 1000000ull) {
            if (session->pool_low > want) want = session->pool_low;
        }
        size_t n = want < batch ? want : batch;
        batch -= pool_punch(session, n);
        if (n == want && now_ns >= session->trimmed_ns + TRIM_IDLE_MS * 1000000ull) {
            session->pool_low = session->pool.n;
            session->trimmed_ns = now_ns;
        }
        if (session->pool.n) waiting = true;
        if (!batch) return TRIM_BUSY_MS;
    }
    return waiting ? TRIM_IDLE_MS : 0;
}

struct egm_agent *egm_store_find_agent(struct egm_store *store, uint64_t id, uint64_t secret)
{
    struct egm_session *session;
    struct egm_agent *agent;
    TAILQ_FOREACH (session, &store->sessions, link)
        TAILQ_FOREACH (agent, &session->agents, link)
            if (agent->id == id) return agent->secret == secret ? agent : NULL;
    return NULL;
}

void egm_store_end_idle(struct egm_store *store)
{
    struct egm_session *session, *next;
    for (session = TAILQ_FIRST(&store->sessions); session; session = next) {
        next = TAILQ_NEXT(session, link);
        if (session->idle_since_ns) session_end(session);
    }
}

/* ---- agents ---- */

static struct egm_snapshot *find_snapshot(struct egm_session *session, uint64_t id)
{
    struct egm_snapshot *snapshot;
    TAILQ_FOREACH (snapshot, &session->snapshots, link)
        if (snapshot->id == id) return snapshot;
    return NULL;
}

static struct egm_agent *agent_new(struct egm_session *session)
{
    struct egm_agent *agent = calloc(1, sizeof *agent);
    pthread_rwlockattr_t attr;
    if (!agent) return NULL;
    agent->held = calloc(bit_words(session), sizeof *agent->held);
    if (!agent->held || getrandom(&agent->secret, sizeof agent->secret, 0) != sizeof agent->secret) {
        free(agent->held);
        free(agent);
        return NULL;
    }
    /* A data thread that spins takes the lock again and again: the control thread must not starve. */
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&agent->data_lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    agent->session = session;
    agent->id = ++session->store->next_id;
    agent->opened_ns = egm_now_ns();
    atomic_init(&agent->refs, 1);
    LIST_INIT(&agent->data_conns);
    return agent;
}

enum eg_status egm_agent_open(struct egm_store *store, const uint8_t *token, uint64_t snapshot_id, bool allow_new,
                              struct egm_agent **ret_agent)
{
    struct egm_session *session;
    struct egm_snapshot *snapshot = NULL;
    bool made = false;

    TAILQ_FOREACH (session, &store->sessions, link)
        if (!memcmp(session->token, token, EG_TOKEN_BYTES)) break;
    if (snapshot_id && (!session || !(snapshot = find_snapshot(session, snapshot_id)))) return EG_STATUS_NOENT;
    if (!session) {
        if (!allow_new) return EG_STATUS_DRAINING;
        enum eg_status status = session_new(store, token, &session);
        if (status) return status;
        made = true;
    }
    struct egm_agent *agent = agent_new(session);
    if (!agent) {
        if (made) session_end(session);
        return EG_STATUS_INTERNAL;
    }
    TAILQ_INSERT_TAIL(&session->agents, agent, link);
    session->idle_since_ns = 0;
    if (snapshot) {
        free(agent->held);
        agent->held = snapshot->held;
        snapshot->held = NULL;
        snapshot_free(session, snapshot);
        FOR_EACH_SLAB (session, agent->held, i) {
            agent->held_count++;
            if (!session->slabs[i].owner) set_owner(&session->slabs[i], agent);
        }
    }
    *ret_agent = agent;
    return EG_STATUS_OK;
}

/* Takes one slab away from the agent. data_lock is held for writing; on_drop comes after the last one. */
static void agent_lose_locked(struct egm_agent *agent, uint32_t number)
{
    struct egm_session *session = agent->session;
    struct egm_slab *slab = &session->slabs[number];

    bit_clear(agent->held, number);
    agent->held_count--;
    if (atomic_fetch_sub_explicit(&slab->refs, 1, memory_order_acq_rel) == 1) {
        set_owner(slab, NULL);
        account_physical(session, -1);
        memory_give(session, number);
    } else if (slab->owner == agent) {
        uint64_t before = agent_outstanding(agent);
        set_owner(slab, find_heir(agent, number));
        /* The slab lives on, so there may be no room for the promise that it filled. */
        if (agent_outstanding(agent) > before && account_fits(session))
            account_agent(agent, agent->reserved - 1, agent->owned);
    }
}

void egm_agent_put(struct egm_agent *agent)
{
    if (atomic_fetch_sub_explicit(&agent->refs, 1, memory_order_acq_rel) != 1) return;
    pthread_rwlock_destroy(&agent->data_lock);
    free(agent->held);
    free(agent);
}

void egm_agent_close(struct egm_agent *agent)
{
    struct egm_session *session = agent->session;
    struct egm_store *store = session->store;

    pthread_rwlock_wrlock(&agent->data_lock);
    agent->gone = true;
    account_agent(agent, 0, agent->owned);
    FOR_EACH_SLAB (session, agent->held, i) agent_lose_locked(agent, i);
    if (store->on_drop) store->on_drop(agent);
    agent->session = NULL;
    pthread_rwlock_unlock(&agent->data_lock);
    TAILQ_REMOVE(&session->agents, agent, link);
    if (TAILQ_EMPTY(&session->agents)) {
        if (TAILQ_EMPTY(&session->snapshots)) session_end(session);
        else session->idle_since_ns = egm_now_ns();
    }
    egm_agent_put(agent);
}

enum eg_status egm_agent_reserve(struct egm_agent *agent, uint64_t slabs)
{
    const struct egm_store *store = agent->session->store;
    uint64_t before = agent->reserved;

    if (slabs > before) {
        if (store->quota && slabs > store->quota) return EG_STATUS_QUOTA;
        if (slabs > store->capacity) return EG_STATUS_NOSPACE;
    }
    account_agent(agent, slabs, agent->owned);
    enum eg_status status = slabs > before ? account_fits(agent->session) : EG_STATUS_OK;
    if (status) account_agent(agent, before, agent->owned);
    return status;
}

enum eg_status egm_agent_lease(struct egm_agent *agent, uint32_t count, uint32_t *ret_slabs, uint32_t *ret_count)
{
    struct egm_session *session = agent->session;
    enum eg_status status = EG_STATUS_OK;
    uint32_t counted = 0;

    if (!count) return EG_STATUS_INVALID;
    if (count > EGM_LEASE_MAX) count = EGM_LEASE_MAX;
    for (; counted < count; counted++) {
        account_physical(session, 1);
        account_agent(agent, agent->reserved, agent->owned + 1);
        status = account_fits(session);
        if (status) {
            account_physical(session, -1);
            account_agent(agent, agent->reserved, agent->owned - 1);
            break;
        }
    }
    if (!counted) return status;
    uint32_t n = (uint32_t)memory_take_many(session, counted, ret_slabs);
    account_physical(session, -(int64_t)(counted - n));
    account_agent(agent, agent->reserved, agent->owned - (counted - n));
    if (!n) return EG_STATUS_NOSPACE;
    pthread_rwlock_wrlock(&agent->data_lock);
    for (uint32_t i = 0; i < n; i++) {
        struct egm_slab *slab = &session->slabs[ret_slabs[i]];
        atomic_store_explicit(&slab->refs, 1, memory_order_release);
        slab->owner = agent;
        bit_set(agent->held, ret_slabs[i]);
    }
    agent->held_count += n;
    pthread_rwlock_unlock(&agent->data_lock);
    *ret_count = n;
    return EG_STATUS_OK;
}

/* All held, none twice? */
static enum eg_status check_slabs(struct egm_agent *agent, const uint32_t *slabs, size_t count)
{
    struct egm_session *session = agent->session;
    enum eg_status status = EG_STATUS_OK;
    size_t n = 0;

    for (; n < count; n++) {
        if (slabs[n] >= session->n_slabs || !egm_bit(agent->held, slabs[n])) {
            status = EG_STATUS_NOENT;
            break;
        }
        if (session->slabs[slabs[n]].mark) {
            status = EG_STATUS_INVALID;
            break;
        }
        session->slabs[slabs[n]].mark = 1;
    }
    while (n--) session->slabs[slabs[n]].mark = 0;
    return status;
}

enum eg_status egm_agent_return(struct egm_agent *agent, const uint32_t *slabs, size_t count)
{
    enum eg_status status = check_slabs(agent, slabs, count);
    if (status) return status;
    struct egm_store *store = agent->session->store;
    pthread_rwlock_wrlock(&agent->data_lock);
    for (size_t i = 0; i < count; i++) agent_lose_locked(agent, slabs[i]);
    if (store->on_drop) store->on_drop(agent);
    pthread_rwlock_unlock(&agent->data_lock);
    return EG_STATUS_OK;
}

enum eg_status egm_agent_snapshot(struct egm_agent *agent, uint64_t *ret_snapshot)
{
    struct egm_session *session = agent->session;
    if (session->n_snapshots >= EGM_SNAPSHOTS_MAX) return EG_STATUS_QUOTA;
    struct egm_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot) return EG_STATUS_INTERNAL;
    snapshot->held = malloc(bit_words(session) * sizeof *snapshot->held);
    if (!snapshot->held) {
        free(snapshot);
        return EG_STATUS_INTERNAL;
    }
    memcpy(snapshot->held, agent->held, bit_words(session) * sizeof *snapshot->held);
    /* From here on a write on the tcp data plane to any of these is refused. Clients that write to the memory themselves
     * (shm, rdma) must refrain from it: a mapping or a remote key serves all of the session. */
    pthread_rwlock_wrlock(&agent->data_lock);
    FOR_EACH_SLAB (session, agent->held, i) atomic_fetch_add_explicit(&session->slabs[i].refs, 1, memory_order_acq_rel);
    pthread_rwlock_unlock(&agent->data_lock);
    snapshot->id = ++session->store->next_id;
    TAILQ_INSERT_TAIL(&session->snapshots, snapshot, link);
    session->n_snapshots++;
    *ret_snapshot = snapshot->id;
    return EG_STATUS_OK;
}

enum eg_status egm_agent_drop_snapshot(struct egm_agent *agent, uint64_t id)
{
    struct egm_session *session = agent->session;
    struct egm_snapshot *snapshot = find_snapshot(session, id);
    if (!snapshot) return EG_STATUS_NOENT;
    FOR_EACH_SLAB (session, snapshot->held, i)
        if (atomic_fetch_sub_explicit(&session->slabs[i].refs, 1, memory_order_acq_rel) == 1) {
            account_physical(session, -1);
            memory_give(session, i);
        }
    snapshot_free(session, snapshot);
    return EG_STATUS_OK;
}

enum eg_status egm_agent_break(struct egm_agent *agent, const uint32_t *slabs, size_t count, uint32_t *ret_slabs)
{
    struct egm_session *session = agent->session;
    struct egm_agent *owner[EGM_BREAK_MAX];
    uint32_t which[EGM_BREAK_MAX], copies[EGM_BREAK_MAX];
    size_t n = 0, taken;

    if (!count || count > EGM_BREAK_MAX) return EG_STATUS_INVALID;
    enum eg_status status = check_slabs(agent, slabs, count);
    if (status) return status;
    for (size_t i = 0; i < count; i++)
        if (atomic_load_explicit(&session->slabs[slabs[i]].refs, memory_order_relaxed) > 1) which[n++] = (uint32_t)i;

    /* First the account: it tells whether there is room, and can be undone. */
    for (size_t k = 0; k < n; k++) {
        struct egm_slab *slab = &session->slabs[slabs[which[k]]];
        owner[k] = slab->owner;
        account_physical(session, 1);
        account_agent(agent, agent->reserved, agent->owned + 1);
        if (slab->owner == agent) set_owner(slab, find_heir(agent, slabs[which[k]]));
    }
    status = account_fits(session);
    taken = status ? 0 : memory_take_many(session, n, copies);
    if (!status && taken < n) status = EG_STATUS_NOSPACE;
    for (size_t k = 0; k < n && !status; k++)
        if (copy_slab(session->memfd, slabs[which[k]], copies[k])) status = EG_STATUS_INTERNAL;
    if (status) {
        while (taken) memory_give(session, copies[--taken]);
        while (n--) {
            struct egm_slab *slab = &session->slabs[slabs[which[n]]];
            if (slab->owner != owner[n]) set_owner(slab, owner[n]);
            account_agent(agent, agent->reserved, agent->owned - 1);
            account_physical(session, -1);
        }
        return status;
    }

    memcpy(ret_slabs, slabs, count * sizeof *slabs);
    if (!n) return EG_STATUS_OK;
    pthread_rwlock_wrlock(&agent->data_lock);
    for (size_t k = 0; k < n; k++) {
        struct egm_slab *copy = &session->slabs[copies[k]];
        uint32_t old = slabs[which[k]];
        atomic_store_explicit(&copy->refs, 1, memory_order_release);
        copy->owner = agent;
        bit_set(agent->held, copies[k]);
        bit_clear(agent->held, old);
        atomic_fetch_sub_explicit(&session->slabs[old].refs, 1, memory_order_acq_rel);
        ret_slabs[which[k]] = copies[k];
    }
    if (session->store->on_drop) session->store->on_drop(agent);
    pthread_rwlock_unlock(&agent->data_lock);
    return EG_STATUS_OK;
}

uint64_t egm_agent_shared(const struct egm_agent *agent)
{
    uint64_t n = 0;
    FOR_EACH_SLAB (agent->session, agent->held, i)
        if (atomic_load_explicit(&agent->session->slabs[i].refs, memory_order_relaxed) > 1) n++;
    return n;
}

const char *egm_store_check(const struct egm_store *store)
{
    const struct egm_session *session;
    uint64_t physical = 0, outstanding = 0, pooled = 0, sessions = 0;

    TAILQ_FOREACH (session, &store->sessions, link) {
        const struct egm_agent *agent;
        const struct egm_snapshot *snapshot;
        uint64_t here = 0, promised = 0;
        sessions++;
        TAILQ_FOREACH (agent, &session->agents, link) {
            uint64_t owned = 0, held = 0;
            for (uint32_t i = 0; i < session->next_fresh; i++) {
                held += egm_bit(agent->held, i);
                owned += session->slabs[i].owner == agent;
            }
            if (owned != agent->owned) return "an agent's owned count";
            if (held != agent->held_count) return "an agent's held count";
            promised += agent_outstanding(agent);
        }
        for (uint32_t i = 0; i < session->next_fresh; i++) {
            uint32_t refs = 0, by_agents = 0;
            TAILQ_FOREACH (agent, &session->agents, link) by_agents += egm_bit(agent->held, i);
            TAILQ_FOREACH (snapshot, &session->snapshots, link) refs += egm_bit(snapshot->held, i);
            refs += by_agents;
            if (refs != session->slabs[i].refs) return "a slab's references";
            if (!by_agents != !session->slabs[i].owner) return "a slab's owner";
            if (session->slabs[i].owner && !egm_bit(session->slabs[i].owner->held, i))
                return "a slab owned by a stranger";
            if (session->slabs[i].mark) return "a mark left behind";
            here += refs != 0;
        }
        if (here != session->physical) return "a session's physical count";
        if (promised != session->outstanding) return "a session's outstanding count";
        if (here + session->pool.n + session->unused.n != session->next_fresh) return "a slab got lost";
        if (account_fits(session)) return "more promised than there is";
        physical += here;
        outstanding += promised;
        pooled += session->pool.n;
    }
    if (physical != store->physical || outstanding != store->outstanding || pooled != store->pooled)
        return "the store's totals";
    if (physical + pooled > store->capacity) return "more memory in use than the capacity";
    if (sessions != store->n_sessions) return "the number of sessions";
    return NULL;
}
