/* The store without sockets: single cases, and a long random walk against its own recount and a model of every slab's content. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "memserver/store.h"
#include "tests/unit/unit_suite.h"

#define SLAB ((uint64_t)EG_SLAB_BYTES)

static struct egm_store store;

static void start(uint64_t capacity_slabs, uint64_t quota_slabs)
{
    ck_assert_int_eq(egm_store_init(&store, capacity_slabs * SLAB, quota_slabs * SLAB), 0);
}

static void check(void)
{
    const char *wrong = egm_store_check(&store);
    ck_assert_msg(!wrong, "%s", wrong);
}

static void stop(void)
{
    check();
    egm_store_done(&store);
}

static struct egm_agent *agent_open(uint8_t token, uint64_t snapshot)
{
    uint8_t bytes[EG_TOKEN_BYTES];
    struct egm_agent *agent = NULL;
    memset(bytes, token, sizeof bytes);
    ck_assert_int_eq(egm_agent_open(&store, bytes, snapshot, true, &agent), 0);
    return agent;
}

START_TEST(capacity_below_a_slab_is_refused)
{
    ck_assert_int_lt(egm_store_init(&store, SLAB - 1, 0), 0);
    ck_assert_int_lt(egm_store_init(&store, EGM_CAPACITY_MAX_BYTES + SLAB, 0), 0);
    ck_assert_int_lt(egm_store_init(&store, SLAB, 1), 0);
}
END_TEST

START_TEST(owner_moves_with_the_last_holder)
{
    uint32_t slabs[4], n;
    uint64_t snapshot;
    start(8, 0);
    struct egm_agent *parent = agent_open(1, 0);
    ck_assert_int_eq(egm_agent_reserve(parent, 4), 0);
    ck_assert_int_eq(egm_agent_lease(parent, 4, slabs, &n), 0);
    ck_assert_uint_eq(n, 4);
    ck_assert_int_eq(egm_agent_snapshot(parent, &snapshot), 0);
    struct egm_agent *child = agent_open(1, snapshot);
    ck_assert_uint_eq(child->held_count, 4);
    ck_assert_uint_eq(child->owned, 0);
    ck_assert_uint_eq(egm_agent_shared(parent), 4);
    /* Both want to keep all they have: twice the room. */
    ck_assert_int_eq(egm_agent_reserve(child, 5), EG_STATUS_NOSPACE);
    ck_assert_int_eq(egm_agent_reserve(child, 4), 0);
    ck_assert_uint_eq(egm_store_free_slabs(&store), 0);
    check();
    /* The copies of either fit into what was promised. */
    uint32_t fresh[4];
    ck_assert_int_eq(egm_agent_break(parent, slabs, 4, fresh), 0);
    ck_assert_uint_eq(child->owned, 4);
    ck_assert_uint_eq(parent->owned, 4);
    ck_assert_uint_eq(store.outstanding, 0);
    ck_assert_uint_eq(store.physical, 8);
    check();
    egm_agent_close(child);
    ck_assert_uint_eq(store.physical, 4);
    egm_agent_close(parent);
    ck_assert_uint_eq(store.n_sessions, 0);
    stop();
}
END_TEST

/* A forked child that was killed had not opened its snapshot: the end of a run waited five seconds for it. */
START_TEST(idle_sessions_end_with_the_server)
{
    uint32_t slabs[2], n;
    uint64_t snapshot;
    start(8, 0);
    struct egm_agent *idle = agent_open(1, 0), *stays = agent_open(2, 0);
    ck_assert_int_eq(egm_agent_reserve(idle, 2), 0);
    ck_assert_int_eq(egm_agent_lease(idle, 2, slabs, &n), 0);
    ck_assert_int_eq(egm_agent_snapshot(idle, &snapshot), 0);
    ck_assert_int_eq(egm_agent_snapshot(stays, &snapshot), 0);
    egm_agent_close(idle);
    ck_assert_uint_eq(store.n_sessions, 2);
    egm_store_end_idle(&store);
    ck_assert_uint_eq(store.n_sessions, 1);
    check();
    egm_agent_close(stays);
    egm_store_end_idle(&store);
    ck_assert_uint_eq(store.n_sessions, 0);
    stop();
}
END_TEST

START_TEST(promise_shrinks_when_its_slab_lives_on_elsewhere)
{
    uint32_t slabs[4], n;
    uint64_t snapshot;
    start(4, 0);
    struct egm_agent *agent = agent_open(1, 0);
    ck_assert_int_eq(egm_agent_reserve(agent, 4), 0);
    ck_assert_int_eq(egm_agent_lease(agent, 4, slabs, &n), 0);
    ck_assert_int_eq(egm_agent_snapshot(agent, &snapshot), 0);
    ck_assert_int_eq(egm_agent_return(agent, slabs, 2), 0);
    ck_assert_uint_eq(agent->reserved, 2);
    check();
    ck_assert_int_eq(egm_agent_lease(agent, 1, slabs, &n), EG_STATUS_NOSPACE);
    ck_assert_int_eq(egm_agent_drop_snapshot(agent, snapshot), 0);
    ck_assert_int_eq(egm_agent_reserve(agent, 4), 0);
    check();
    egm_agent_close(agent);
    stop();
}
END_TEST

START_TEST(returned_memory_goes_back_to_the_kernel)
{
    enum { MANY = 48 };
    uint32_t slabs[EGM_LEASE_MAX], n, have = 0;
    struct stat st;
    uint64_t now_ns = egm_now_ns();
    start(64, 0);
    struct egm_agent *agent = agent_open(1, 0);
    agent->session->shared_memory = true; /* else the pages come with the first write */
    while (have < MANY) {
        ck_assert_int_eq(egm_agent_lease(agent, MANY - have, slabs + have, &n), 0);
        have += n;
    }
    int fd = agent->session->memfd;
    ck_assert_int_eq(egm_agent_return(agent, slabs, MANY), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_blocks * 512, MANY * SLAB);
    (void)egm_store_trim(&store, now_ns);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_le(st.st_blocks * 512, EGM_POOL_SLABS * SLAB);
    for (int i = 1; i < 10; i++) (void)egm_store_trim(&store, now_ns += 1100000000u);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_blocks, 0);
    ck_assert_uint_eq(egm_store_trim(&store, now_ns), 0);
    check();
    /* Another session's wish takes it at once. */
    ck_assert_int_eq(egm_agent_lease(agent, 32, slabs, &n), 0);
    ck_assert_int_eq(egm_agent_return(agent, slabs, n), 0);
    struct egm_agent *other = agent_open(2, 0);
    for (have = 0; have < 64; have += n) ck_assert_int_eq(egm_agent_lease(other, 64, slabs, &n), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_blocks, 0);
    egm_agent_close(agent);
    egm_agent_close(other);
    stop();
}
END_TEST

static uint64_t left_bytes;
static uint64_t memory_left(void) { return left_bytes; }

START_TEST(lease_stops_before_the_machine_runs_out)
{
    uint32_t slabs[EGM_LEASE_MAX], n;
    start(64, 0);
    store.memory_left = memory_left;
    store.memory_reserve = 10 * SLAB;
    struct egm_agent *agent = agent_open(1, 0);
    left_bytes = 13 * SLAB;
    ck_assert_int_eq(egm_agent_lease(agent, 20, slabs, &n), 0);
    ck_assert_uint_eq(n, 3);
    left_bytes = 10 * SLAB;
    ck_assert_int_eq(egm_agent_lease(agent, 1, slabs + 3, &n), EG_STATUS_NOSPACE);
    check();
    /* What is kept for reuse is there without the machine's help. */
    ck_assert_int_eq(egm_agent_return(agent, slabs, 2), 0);
    ck_assert_int_eq(egm_agent_lease(agent, 20, slabs, &n), 0);
    ck_assert_uint_eq(n, 2);
    egm_agent_close(agent);
    stop();
}
END_TEST

START_TEST(bad_numbers_change_nothing)
{
    uint32_t slabs[4], n, out[4];
    start(8, 0);
    struct egm_agent *a = agent_open(1, 0), *b = agent_open(1, 0);
    ck_assert_int_eq(egm_agent_lease(a, 2, slabs, &n), 0);
    ck_assert_int_eq(egm_agent_lease(b, 1, slabs + 2, &n), 0);
    ck_assert_int_eq(egm_agent_return(a, (uint32_t[]){ slabs[0], slabs[0] }, 2), EG_STATUS_INVALID);
    ck_assert_int_eq(egm_agent_return(a, (uint32_t[]){ slabs[0], slabs[2] }, 2), EG_STATUS_NOENT);
    ck_assert_int_eq(egm_agent_return(a, (uint32_t[]){ slabs[0], 8 }, 2), EG_STATUS_NOENT);
    ck_assert_int_eq(egm_agent_return(a, (uint32_t[]){ slabs[0], UINT32_MAX }, 2), EG_STATUS_NOENT);
    ck_assert_int_eq(egm_agent_break(a, (uint32_t[]){ slabs[0], UINT32_MAX }, 2, out), EG_STATUS_NOENT);
    ck_assert_int_eq(egm_agent_break(a, slabs, 0, out), EG_STATUS_INVALID);
    ck_assert_int_eq(egm_agent_drop_snapshot(a, 12345), EG_STATUS_NOENT);
    ck_assert_uint_eq(a->held_count, 2);
    ck_assert(!egm_agent_may_read(a, slabs[2] * SLAB, 1));
    ck_assert(!egm_agent_may_read(a, UINT64_MAX, 4096));
    ck_assert(!egm_agent_may_read(a, 8 * SLAB - 1, 2));
    ck_assert(egm_agent_may_read(a, slabs[0] * SLAB, EG_SLAB_BYTES));
    egm_agent_close(a);
    egm_agent_close(b);
    stop();
}
END_TEST

/* ---- the random walk ---- */

enum { AGENTS = 12, SNAPSHOTS = 8, TOKENS = 3, CAPACITY = 24, QUOTA = 16 };

/* What an agent or a snapshot believes: for each thing it stored, the slab and the stamp written there. */
struct belief {
    bool live;
    uint8_t token;
    uint64_t id;
    struct egm_agent *agent;
    uint32_t n, slabs[CAPACITY];
    uint64_t stamps[CAPACITY];
};

static struct belief agents[AGENTS], snapshots[SNAPSHOTS];
static uint64_t next_stamp, state;

static uint32_t pick(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static off_t stamp_at(uint32_t slab) { return (off_t)(slab * SLAB + SLAB - 4096); }

static void write_stamp(struct belief *b, uint32_t i)
{
    b->stamps[i] = ++next_stamp;
    ck_assert_int_eq(pwrite(b->agent->session->memfd, &b->stamps[i], 8, stamp_at(b->slabs[i])), 8);
}

static void check_stamps(void)
{
    for (int k = 0; k < AGENTS; k++)
        for (uint32_t i = 0; agents[k].live && i < agents[k].n; i++) {
            uint64_t stamp;
            ck_assert_int_eq(pread(agents[k].agent->session->memfd, &stamp, 8, stamp_at(agents[k].slabs[i])), 8);
            ck_assert_uint_eq(stamp, agents[k].stamps[i]);
            ck_assert(egm_agent_may_read(agents[k].agent, agents[k].slabs[i] * SLAB, EG_SLAB_BYTES));
        }
}

static struct belief *free_place(struct belief *list, int n)
{
    for (int i = 0; i < n; i++)
        if (!list[i].live) return &list[i];
    return NULL;
}

static void step(void)
{
    struct belief *b = &agents[pick(AGENTS)];
    uint32_t slabs[EGM_LEASE_MAX], n;

    if (!b->live) {
        uint8_t token = (uint8_t)(1 + pick(TOKENS));
        struct belief *s = &snapshots[pick(SNAPSHOTS)];
        memset(b, 0, sizeof *b);
        if (s->live && pick(2)) {
            *b = *s;
            b->agent = agent_open(s->token, s->id);
            s->live = false;
        } else {
            b->token = token;
            b->agent = agent_open(token, 0);
        }
        b->live = true;
        return;
    }
    switch (pick(10)) {
    case 0:
        (void)!egm_agent_reserve(b->agent, pick(CAPACITY + 4));
        break;
    case 1:
    case 2: {
        uint64_t before = b->agent->reserved > b->agent->owned ? b->agent->reserved - b->agent->owned : 0;
        uint32_t want = 1 + pick(4);
        enum eg_status status = egm_agent_lease(b->agent, want, slabs, &n);
        ck_assert(!status || !before); /* within the promise always */
        if (status) break;
        ck_assert_uint_ge(n, want < before ? want : before);
        for (uint32_t i = 0; i < n; i++) {
            b->slabs[b->n] = slabs[i];
            write_stamp(b, b->n++);
        }
        break;
    }
    case 3:
        if (!b->n) break;
        n = pick(b->n);
        ck_assert_int_eq(egm_agent_return(b->agent, &b->slabs[n], 1), 0);
        b->slabs[n] = b->slabs[--b->n];
        b->stamps[n] = b->stamps[b->n];
        break;
    case 4: {
        struct belief *s = free_place(snapshots, SNAPSHOTS);
        if (!s) break;
        *s = *b;
        ck_assert_int_eq(egm_agent_snapshot(b->agent, &s->id), 0);
        break;
    }
    case 5: {
        struct belief *s = &snapshots[pick(SNAPSHOTS)];
        if (!s->live) break;
        if (s->token == b->token) {
            ck_assert_int_eq(egm_agent_drop_snapshot(b->agent, s->id), 0);
            s->live = false;
        } else {
            ck_assert_int_eq(egm_agent_drop_snapshot(b->agent, s->id), EG_STATUS_NOENT);
        }
        break;
    }
    case 6:
    case 7:
    case 8: {
        /* Write: break first, as a client does. */
        uint32_t first, out[CAPACITY];
        if (!b->n) break;
        first = pick(b->n);
        n = 1 + pick(b->n - first);
        if (egm_agent_break(b->agent, &b->slabs[first], n, out)) break;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t stamp;
            b->slabs[first + i] = out[i];
            ck_assert_int_eq(pread(b->agent->session->memfd, &stamp, 8, stamp_at(out[i])), 8);
            ck_assert_uint_eq(stamp, b->stamps[first + i]);
            ck_assert(!egm_agent_shares(b->agent, out[i] * SLAB, EG_SLAB_BYTES));
            write_stamp(b, first + i);
        }
        break;
    }
    case 9:
        if (pick(3)) {
            (void)egm_store_trim(&store, egm_now_ns() + pick(2) * 2000000000u);
        } else {
            bool last = true;
            egm_agent_close(b->agent);
            b->live = false;
            for (int k = 0; k < AGENTS; k++) last &= !agents[k].live || agents[k].token != b->token;
            for (int k = 0; last && k < SNAPSHOTS; k++) {
                /* A session without agents lives for its snapshots, and only so long. */
                if (!snapshots[k].live || snapshots[k].token != b->token) continue;
                (void)egm_store_trim(&store, egm_now_ns() + (EGM_SNAPSHOT_GRACE_S + 1) * 1000000000ull);
                for (k = 0; k < SNAPSHOTS; k++)
                    if (snapshots[k].token == b->token) snapshots[k].live = false;
            }
        }
        break;
    }
}

START_TEST(random_walk_adds_up)
{
    state = (uint64_t)_i * 7919 + 1;
    memset(agents, 0, sizeof agents);
    memset(snapshots, 0, sizeof snapshots);
    start(CAPACITY, _i % 2 ? QUOTA : 0);
    for (int i = 0; i < 3000; i++) {
        step();
        check();
        if (i % 16 == 0) check_stamps();
    }
    check_stamps();
    for (int k = 0; k < AGENTS; k++)
        if (agents[k].live) egm_agent_close(agents[k].agent);
    check();
    (void)egm_store_trim(&store, egm_now_ns() + 100000000000u);
    ck_assert_uint_eq(store.n_sessions, 0);
    ck_assert_uint_eq(store.physical + store.outstanding + store.pooled, 0);
    stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memserver_store");
    TCase *tc = unit_case(suite, "store", 120);
    tcase_add_test(tc, capacity_below_a_slab_is_refused);
    tcase_add_test(tc, owner_moves_with_the_last_holder);
    tcase_add_test(tc, idle_sessions_end_with_the_server);
    tcase_add_test(tc, promise_shrinks_when_its_slab_lives_on_elsewhere);
    tcase_add_test(tc, returned_memory_goes_back_to_the_kernel);
    tcase_add_test(tc, lease_stops_before_the_machine_runs_out);
    tcase_add_test(tc, bad_numbers_change_nothing);
    tcase_add_loop_test(tc, random_walk_adds_up, 0, 6);
    return unit_run(suite);
}
