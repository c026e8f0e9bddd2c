/* The directory under random schedules of its workers' streams, against one global value per page. */
#include "client/threads/eg_dir.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_AGENTS 8u
#define MAX_PAGES 4u
#define THREADS 3u /* of each agent */
#define NOBODY THREADS /* the slot of what is read ahead */
#define STREAM 256u
#define BASE 0x700000000ull /* the first page's number */

enum right { NONE, MAY_READ, MAY_WRITE };
enum kind { GRANT, INVALIDATE, RECALL, DROP, ASK, ACK, DATA, GIVEN, DROPPED };

struct message {
    enum kind kind;
    unsigned page, slot;
    int write, data, keep;
    uint64_t value;
    uint16_t number; /* GRANT: which one; INVALIDATE, RECALL: the last one before; GIVEN: all up to this one had been taken */
};

struct stream {
    struct message m[STREAM];
    unsigned n;
};

struct thread {
    enum { IDLE, WAITS, HAS, RETRIES } state; /* HAS: its grant is installed, but not counted yet */
    unsigned page;
    int write, then_write;
    uint16_t number; /* HAS: the grant's */
};

struct copy {
    enum right right;
    uint64_t value;
    int given; /* since content came last */
};

static struct {
    struct random_state random;
    int seed;
    unsigned step, n_agents, n_pages;
    int updates; /* who reads writes next */
    struct eg_dir dir;
    struct eg_dir_wait wait[EG_DIR_WAITS];
    struct eg_dir_page page[MAX_PAGES];
    struct copy copy[MAX_AGENTS][MAX_PAGES];
    uint64_t last[MAX_PAGES]; /* what was written last: the reference */
    struct thread thread[MAX_AGENTS][THREADS];
    struct stream out[MAX_AGENTS], in[MAX_AGENTS]; /* to the worker, and to home; in[0]: home's own faults */
    struct stream own[MAX_AGENTS][THREADS];        /* to a worker's thread: its grant, and pages read ahead that go with it */
    struct stream later[MAX_AGENTS];               /* what a worker puts off, as compute/worker.c does for a page it needs just now */
    uint16_t n_sent[MAX_AGENTS], n_taken[MAX_AGENTS]; /* grants; n_taken: all up to this one */
    uint8_t early[MAX_AGENTS][1 << 16];            /* taken before one with a lower number */
    uint64_t n_asked, n_granted, n_reads[2], n_writes[2], n_calls; /* [1]: at home */
    unsigned seen[EG_DIR_N_STATES];
    unsigned n_lost, n_bad_acks, n_bad_data; /* accesses whose copy had gone before they could retry; answers that nobody awaited */
    unsigned n_early, n_barred, n_rights_lost, n_joined; /* orders in which the streams of one worker came */
    unsigned n_moved; /* reads of workers that were taken for writes */
    unsigned n_given, n_crossed, n_none, n_returned; /* pages that were given unasked, with grants on their way, recalled then, returned because of a memory call */
    unsigned held, n_drops, n_forgotten, n_failed; /* page + 1 that a memory call discards just now; 0: none. Workers that have it still. How calls ended */
    struct stream parked[MAX_AGENTS];    /* requests for it */
} s;

#define must(cond, what)                                                                            \
    do {                                                                                            \
        if (!(cond))                                                                                \
            ck_abort_msg("seed %d, step %u: %s (not %s)", s.seed, s.step, what, #cond);             \
    } while (0)

static unsigned below(unsigned n)
{
    return random_below(&s.random, n);
}

static void put(struct stream *stream, struct message m)
{
    must(stream->n < STREAM, "a stream has more messages than the protocol can need");
    stream->m[stream->n++] = m;
}

static struct message take(struct stream *stream, unsigned i)
{
    struct message m = stream->m[i];
    memmove(&stream->m[i], &stream->m[i + 1], (--stream->n - i) * sizeof m);
    return m;
}

/* The thread for whom a grant is. */
static struct thread *waiter(unsigned agent, unsigned slot, unsigned page)
{
    must(slot < THREADS, "granted to a thread that does not exist");
    struct thread *t = &s.thread[agent][slot];
    must(t->state == WAITS && t->page == page, "granted to a thread that did not ask");
    return t;
}

/* --- home: what the directory has done ---------------------------------------------------------------------------------------- */

static uint64_t incoming;
static struct stream *joins; /* where the message is that the next page may go with; NULL: nowhere */

/* As eg_send_slot and eg_grant_do of client/threads: on the thread's own stream, what nobody waits for on the coherence stream, or with the
 * page before it. */
static void send_grant(unsigned agent, struct message m)
{
    if (m.slot != NOBODY) {
        struct stream *own = &s.own[agent][m.slot];
        must(!own->n, "a thread is granted twice");
        m.number = ++s.n_sent[agent];
        put(own, m);
        joins = own;
    } else if (joins && below(2)) {
        m.number = joins->m[0].number;
        put(joins, m);
        s.n_joined++;
    } else {
        m.number = ++s.n_sent[agent];
        put(&s.out[agent], m);
    }
}

static void op_grant(uint64_t number, unsigned agent, unsigned slot, int write, enum eg_dir_content content)
{
    unsigned page = (unsigned)(number - BASE);
    struct copy *home = &s.copy[0][page];
    s.n_calls++;
    s.n_granted++;
    if (agent == EG_DIR_AT_HOME) {
        must(home->right != NONE && home->value == s.last[page], "home is granted what it does not have");
        home->right = write ? MAY_WRITE : MAY_READ;
        if (slot != NOBODY)
            waiter(agent, slot, page)->state = RETRIES;
        return;
    }
    if (slot != NOBODY)
        s.n_moved += write && content != EG_DIR_NO_CONTENT && !waiter(agent, slot, page)->write;
    uint64_t value = content == EG_DIR_INCOMING ? incoming : home->value;
    if (content == EG_DIR_OF_HOME)
        must(home->right != NONE && home->value == s.last[page], "a page is sent that home has no good copy of");
    if (content == EG_DIR_INCOMING)
        must(home->right != MAY_WRITE && value == s.last[page] && (!write || home->right == NONE), "what comes is passed on, and home has a copy");
    if (write)
        *home = (struct copy){.right = NONE, .value = ~0ull};
    send_grant(agent, (struct message){.kind = GRANT, .page = page, .slot = slot, .write = write,
                                       .data = content != EG_DIR_NO_CONTENT, .value = value});
}

static void op_protect(uint64_t number)
{
    struct copy *home = &s.copy[0][number - BASE];
    s.n_calls++;
    must(home->right == MAY_WRITE, "home's copy is protected twice");
    home->right = MAY_READ;
}

static void op_invalidate(uint64_t number, unsigned agent)
{
    s.n_calls++;
    must(agent > 0 && agent < s.n_agents, "an invalidation goes to nobody");
    put(&s.out[agent], (struct message){.kind = INVALIDATE, .page = (unsigned)(number - BASE), .number = s.n_sent[agent]});
}

static void op_recall(uint64_t number, unsigned agent, int keep)
{
    s.n_calls++;
    must(agent > 0 && agent < s.n_agents, "a recall goes to nobody");
    put(&s.out[agent], (struct message){.kind = RECALL, .page = (unsigned)(number - BASE), .keep = keep,
                                        .number = s.n_sent[agent]});
}

static void op_store(uint64_t number, const void *data, int write)
{
    struct copy *home = &s.copy[0][number - BASE];
    s.n_calls++;
    must(home->right == NONE, "content comes to a home that has it");
    memcpy(&home->value, data, sizeof home->value);
    must(home->value == s.last[number - BASE], "what comes back is not what was written last");
    home->right = write ? MAY_WRITE : MAY_READ;
}

static const struct eg_dir_ops ops = {op_grant, op_protect, op_invalidate, op_recall, op_store};

static void ask(unsigned agent, unsigned page, unsigned slot, int write)
{
    s.n_asked++;
    must(eg_dir_ask(&s.dir, &s.page[page], BASE + page, agent, slot, write) == 0, "a request is refused");
}

/* A memory call discards the page, as discard() of client/threads/memory.c: nothing of it is on its way, home's copy goes, then the workers' do. */
static void discard(unsigned page)
{
    if (!s.held && !eg_dir_busy(&s.page[page]) && !s.page[page].line)
        s.held = page + 1;
}

static void thaw(void)
{
    s.held = 0;
    for (unsigned agent = 0; agent < s.n_agents; agent++)
        while (s.parked[agent].n)
            put(&s.in[agent], take(&s.parked[agent], 0));
}

/* The call is made: it may fail. */
static void call_turn(void)
{
    unsigned page = s.held - 1;
    if (!below(4)) {
        s.n_failed++;
        thaw();
        return;
    }
    s.copy[0][page].right = NONE;
    for (unsigned agent = 1; agent < s.n_agents; agent++, s.n_drops++)
        put(&s.out[agent], (struct message){.kind = DROP, .page = page, .number = s.n_sent[agent]});
}

/* All workers have: it is empty, and home's. */
static void forgotten(void)
{
    unsigned page = s.held - 1;
    must(eg_dir_forget(&s.dir, &s.page[page], BASE + page) == 0, "a page cannot be forgotten");
    s.copy[0][page] = (struct copy){.right = MAY_WRITE, .value = ++s.last[page]};
    s.n_forgotten++;
    thaw();
}

/* given_page() of client/threads/agent.c. */
static void given_turn(unsigned agent, const struct message *m)
{
    if (m->page + 1 != s.held) {
        int crossed = m->number != s.n_sent[agent];
        must(eg_dir_given(&s.dir, &s.page[m->page], BASE + m->page, agent, &m->value, crossed) == 0, "what is given is refused");
        s.n_crossed += crossed;
    } else if (!s.n_drops) {
        s.n_returned++;
        put(&s.out[agent], (struct message){.kind = GRANT, .page = m->page, .slot = NOBODY, .write = 1, .data = 1, .value = m->value,
                                            .number = ++s.n_sent[agent]});
    }
}

static void home_turn(unsigned agent)
{
    struct message m = take(&s.in[agent], 0);
    struct eg_dir_page *p = &s.page[m.page];
    joins = NULL;
    if (m.kind == ASK && m.page + 1 == s.held) {
        put(&s.parked[agent], m);
    } else if (m.kind == DROPPED) {
        if (--s.n_drops == 0)
            forgotten();
    } else if (m.kind == ASK) {
        unsigned ahead = (m.page + 1) % s.n_pages;
        ask(agent, m.page, m.slot, m.write);
        if (below(2) && ahead != m.page && !eg_dir_busy(&s.page[ahead]) && ahead + 1 != s.held)
            ask(agent, ahead, NOBODY, m.write);
    } else if (m.kind == GIVEN) {
        given_turn(agent, &m);
    } else if (m.kind == ACK) {
        must(eg_dir_ack(&s.dir, p, BASE + m.page, agent) == 0, "an acknowledgement is refused");
    } else {
        incoming = m.value;
        must(eg_dir_data(&s.dir, p, BASE + m.page, agent, &m.value) == 0, "content is refused");
    }
}

/* --- workers ------------------------------------------------------------------------------------------------------------------ */

static void give_back(unsigned agent, const struct message *m)
{
    struct copy *c = &s.copy[agent][m->page];
    if (m->kind == INVALIDATE) {
        must(c->right == MAY_READ, "an invalidation comes to a worker without a shared copy");
        c->right = NONE;
        put(&s.in[agent], (struct message){.kind = ACK, .page = m->page});
        return;
    }
    if (c->right == NONE) {
        must(c->given, "a recall comes to a worker that is not the owner");
        s.n_none++;
        put(&s.in[agent], (struct message){.kind = ACK, .page = m->page});
        return;
    }
    c->right = m->keep ? MAY_READ : NONE;
    put(&s.in[agent], (struct message){.kind = DATA, .page = m->page, .value = c->value});
}

/* As wk_give() of compute/worker.c. */
static void give(unsigned agent, unsigned page)
{
    struct copy *c = &s.copy[agent][page];
    if (c->right != MAY_WRITE)
        return;
    s.n_given++;
    put(&s.in[agent], (struct message){.kind = GIVEN, .page = page, .value = c->value, .number = s.n_taken[agent]});
    *c = (struct copy){.given = 1};
}

/* Is content for the worker's page under way? */
static int is_coming(unsigned agent, unsigned page)
{
    for (unsigned i = 0; i <= THREADS; i++) {
        const struct stream *stream = i < THREADS ? &s.own[agent][i] : &s.out[agent];
        for (unsigned k = 0; k < stream->n; k++)
            if (stream->m[k].kind == GRANT && stream->m[k].page == page && stream->m[k].data)
                return 1;
    }
    return 0;
}

/* wk_install of compute/worker.c, by whoever has read the grant. */
static void install(unsigned agent, const struct message *m)
{
    struct copy *c = &s.copy[agent][m->page];
    if (m->data) {
        must(c->right == NONE, "content comes to a worker that has a copy");
        *c = (struct copy){.right = m->write ? MAY_WRITE : MAY_READ, .value = m->value};
    } else if (c->right == NONE) { /* the right has overtaken the copy, and is lost: who needs it will ask again */
        must(c->given || is_coming(agent, m->page), "a right comes without content to a worker that has no copy");
        s.n_rights_lost++;
    } else if (m->write) {
        c->right = MAY_WRITE;
    }
}

/* wk_taken. */
static void taken(unsigned agent, uint16_t number)
{
    uint8_t *early = s.early[agent];
    s.n_early += number != (uint16_t)(s.n_taken[agent] + 1);
    early[number] = 1;
    for (uint16_t next; early[next = (uint16_t)(s.n_taken[agent] + 1)]; s.n_taken[agent] = next)
        early[next] = 0;
}

/* grants_wait: whatever comes behind waits, too. */
static int is_barred(unsigned agent)
{
    const struct message *m = &s.out[agent].m[0];
    return m->kind != GRANT && (int16_t)(uint16_t)(s.n_taken[agent] - m->number) < 0;
}

static void worker_turn(unsigned agent)
{
    struct message m = take(&s.out[agent], 0);
    if (m.kind == GRANT) {
        install(agent, &m);
        taken(agent, m.number);
    } else if (m.kind == DROP) {
        while (s.later[agent].n) { /* what was asked for before must still be there */
            struct message before = take(&s.later[agent], 0);
            give_back(agent, &before);
        }
        s.copy[agent][m.page].right = NONE;
        put(&s.in[agent], (struct message){.kind = DROPPED, .page = m.page});
    } else if (below(4)) {
        give_back(agent, &m);
    } else {
        put(&s.later[agent], m);
    }
}

/* A thread reads its own stream. */
static void own_turn(unsigned agent, unsigned slot)
{
    struct stream *own = &s.own[agent][slot];
    struct thread *t = waiter(agent, slot, own->m[0].page);
    t->number = own->m[0].number;
    while (own->n) {
        struct message m = take(own, 0);
        install(agent, &m);
    }
    t->state = HAS;
}

/* One access of a thread, or its request. */
static void thread_turn(unsigned agent, unsigned slot)
{
    struct thread *t = &s.thread[agent][slot];
    struct copy *c = &s.copy[agent][t->page];
    if (c->right >= (t->write ? MAY_WRITE : MAY_READ)) {
        must(c->value == s.last[t->page], t->write ? "a write goes to a stale copy" : "a stale read");
        if (t->write)
            c->value = ++s.last[t->page];
        (t->write ? s.n_writes : s.n_reads)[agent == 0]++;
        t->state = t->then_write ? RETRIES : IDLE;
        t->write |= t->then_write;
        t->then_write = 0;
        return;
    }
    s.n_lost += t->state == RETRIES;
    t->state = WAITS;
    put(&s.in[agent], (struct message){.kind = ASK, .page = t->page, .slot = slot, .write = t->write});
}

/* --- schedules ---------------------------------------------------------------------------------------------------------------- */

static void check(void)
{
    for (unsigned page = 0; page < s.n_pages; page++) {
        unsigned readers = 0, writers = 0;
        for (unsigned agent = 0; agent < s.n_agents; agent++) {
            const struct copy *c = &s.copy[agent][page];
            readers += c->right == MAY_READ;
            writers += c->right == MAY_WRITE;
            must(c->right == NONE || c->value == s.last[page], "a copy that may be read is stale");
        }
        must(writers <= 1, "two writers");
        must(!writers || !readers, "a writer and a reader");
        must(s.page[page].state < EG_DIR_N_STATES, "no such state");
        s.seen[s.page[page].state]++;
    }
}

/* An answer that nobody awaits changes nothing. */
static void wrong_answer(void)
{
    unsigned page = below(s.n_pages), agent = below(s.n_agents);
    struct eg_dir_page *p = &s.page[page], before = *p;
    uint64_t calls = s.n_calls, junk = ~0ull;
    int awaited = agent && ((p->state == EG_DIR_WAIT_ACKS && (p->sharers >> agent & 1)) || (p->state == EG_DIR_WAIT_GONE && p->owner == agent));
    if (!awaited) {
        must(eg_dir_ack(&s.dir, p, BASE + page, agent) == -EPROTO, "a wrong acknowledgement is taken");
        s.n_bad_acks++;
    }
    awaited = agent && (p->state == EG_DIR_WAIT_DATA || p->state == EG_DIR_WAIT_KEPT) && p->owner == agent;
    if (!awaited) {
        must(eg_dir_data(&s.dir, p, BASE + page, agent, &junk) == -EPROTO, "wrong content is taken");
        s.n_bad_data++;
    }
    awaited |= agent && p->state == EG_DIR_OWNED && p->owner == agent;
    if (!awaited)
        must(eg_dir_given(&s.dir, p, BASE + page, agent, &junk, (int)below(2)) == -EPROTO, "what is given by who has it not is taken");
    if (eg_dir_busy(p))
        must(eg_dir_forget(&s.dir, p, BASE + page) == -EPROTO, "a page is forgotten that is on its way");
    must(!memcmp(&before, p, sizeof before) && s.n_calls == calls, "a wrong answer has an effect");
}

/* One thing that can happen, at random. begin: threads may begin another access. Returns: 0 when nothing can. */
static int turn(int begin)
{
    enum { OUT, IN, LATER, OWN, THREAD, CALL };
    struct { unsigned what, agent, slot; } can[MAX_AGENTS * (3 + THREADS) + 1];
    unsigned n = 0;
    if (s.held && !s.n_drops)
        can[n].what = CALL, can[n].agent = 0, can[n++].slot = 0;
    for (unsigned agent = 0; agent < s.n_agents; agent++) {
        struct stream *stream[] = {&s.out[agent], &s.in[agent], &s.later[agent]};
        for (unsigned i = OUT; i <= LATER; i++) {
            if (i == OUT && stream[i]->n && is_barred(agent))
                s.n_barred++;
            else if (stream[i]->n)
                can[n].what = i, can[n].agent = agent, can[n++].slot = 0;
        }
        for (unsigned slot = 0; slot < THREADS; slot++) {
            const struct thread *t = &s.thread[agent][slot];
            if (s.own[agent][slot].n)
                can[n].what = OWN, can[n].agent = agent, can[n++].slot = slot;
            else if (t->state == HAS || t->state == RETRIES || (begin && t->state == IDLE))
                can[n].what = THREAD, can[n].agent = agent, can[n++].slot = slot;
        }
    }
    if (!n)
        return 0;
    unsigned i = below(n), agent = can[i].agent, slot = can[i].slot;
    struct thread *t = &s.thread[agent][slot];
    switch (can[i].what) {
    case OUT: worker_turn(agent); break;
    case IN: home_turn(agent); break;
    case LATER: {
        struct message m = take(&s.later[agent], below(s.later[agent].n));
        give_back(agent, &m);
        break;
    }
    case OWN: own_turn(agent, slot); break;
    case CALL:
        if (!begin || !below(32))
            call_turn();
        break;
    default:
        if (t->state == HAS) {
            taken(agent, t->number);
            t->state = RETRIES;
            break;
        }
        if (t->state == IDLE && agent && !below(8)) {
            give(agent, s.held && below(2) ? s.held - 1 : below(s.n_pages));
            break;
        }
        if (t->state == IDLE)
            t->page = below(s.n_pages), t->write = !below(3), t->then_write = !below(s.updates ? 1 : 4);
        thread_turn(agent, slot);
    }
    s.step++;
    check();
    return 1;
}

static unsigned lines_free(void)
{
    unsigned n = 0;
    for (uint16_t i = s.dir.free; i && n < EG_DIR_WAITS; i = s.dir.wait[i].next)
        n++;
    return n;
}

static void start(int seed, unsigned n_agents, unsigned n_pages)
{
    memset(&s, 0, sizeof s);
    s.seed = seed;
    s.random.x = 0x9e3779b97f4a7c15ull + (uint64_t)seed;
    s.n_agents = n_agents;
    s.n_pages = n_pages;
    for (unsigned page = 0; page < n_pages; page++)
        s.copy[0][page].right = MAY_WRITE;
    for (unsigned agent = 0; agent < n_agents; agent++) /* so that they wrap */
        s.n_sent[agent] = s.n_taken[agent] = (uint16_t)-below(100);
    eg_dir_init(&s.dir, &ops, s.wait);
}

/* Everything under way ends, and nobody is left waiting. */
static void drain(void)
{
    unsigned end = s.step + 1000000;
    while (turn(0))
        must(s.step < end, "the threads take the pages from each other for ever");
    for (unsigned agent = 0; agent < s.n_agents; agent++)
        for (unsigned slot = 0; slot < THREADS; slot++)
            must(s.thread[agent][slot].state == IDLE, "a thread waits for ever");
    for (unsigned agent = 0; agent < s.n_agents; agent++)
        must(!s.out[agent].n && s.n_taken[agent] == s.n_sent[agent], "a worker waits for a grant that has come");
    for (unsigned page = 0; page < s.n_pages; page++)
        must(!eg_dir_busy(&s.page[page]) && !s.page[page].line, "a page is busy for ever");
    must(s.n_asked == s.n_granted, "not every request is granted once");
    must(lines_free() == EG_DIR_WAITS - 1, "places in line are lost");
    must(!s.held, "a memory call waits for ever");
}

/* Home reads every page: what was written last is there, whoever wrote it. */
static void home_reads_all(void)
{
    for (unsigned page = 0; page < s.n_pages; page++) {
        s.thread[0][0] = (struct thread){.page = page};
        thread_turn(0, 0);
        drain();
        must(s.copy[0][page].right != NONE && s.copy[0][page].value == s.last[page], "home reads something else than was written");
    }
}

START_TEST(random_schedules_are_coherent)
{
    start(_i, _i & 1 ? 8 : 3, (unsigned)_i / 2 % MAX_PAGES + 1);
    for (int round = 0; round < 20; round++) {
        s.updates = round % 2;
        for (int i = 0; i < 1500; i++) {
            must(turn(1), "nothing can happen: a deadlock");
            if (!below(16))
                wrong_answer();
            if (!below(16))
                discard(below(s.n_pages));
        }
        drain();
    }
    home_reads_all();
    for (unsigned i = 0; i < EG_DIR_N_STATES; i++)
        must(s.seen[i], "a state was never reached");
    must(s.n_reads[0] && s.n_reads[1] && s.n_writes[0] && s.n_writes[1], "somebody never got a page");
    must(s.n_lost && s.n_bad_acks && s.n_bad_data && s.n_rights_lost && s.n_early && s.n_barred, "a race was never run");
    must(s.n_joined || s.n_pages == 1, "nothing was read ahead");
    must(s.n_moved, "no page was migratory");
    must(s.n_forgotten && s.n_failed, "no page was discarded, or all were");
    must(s.n_given > s.n_crossed && s.n_crossed && s.n_none && s.n_returned, "no page was given unasked, with a grant on its way, recalled then, or returned");
}
END_TEST

/* --- migratory pages ---------------------------------------------------------------------------------------------------------- */

/* One access, to its end. Returns: what the agent may do then. */
static enum right use(unsigned agent, int write)
{
    s.thread[agent][0] = (struct thread){.write = write};
    thread_turn(agent, 0);
    drain();
    must(s.copy[agent][0].right >= (write ? MAY_WRITE : MAY_READ), "the copy has gone by itself");
    return s.copy[agent][0].right;
}

/* Two agents read and write by turns. After the second, a read is taken for a write. */
static void make_migratory(unsigned a, unsigned b)
{
    start(0, 5, 1);
    ck_assert_int_eq(use(a, 0), MAY_READ);
    use(a, 1);
    ck_assert_int_eq(use(b, 0), MAY_READ);
    ck_assert_int_ne(s.copy[a][0].right, NONE);
    use(b, 1);
}

START_TEST(what_is_read_and_written_by_turns_is_migratory)
{
    static const unsigned pairs[][2] = {{1, 2}, {2, 1}, {1, EG_DIR_AT_HOME}};
    for (unsigned i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        unsigned a = pairs[i][0], b = pairs[i][1];
        make_migratory(a, b);
        for (unsigned k = 0; k < 10; k++) {
            unsigned from = k % 2 ? a : b, to = k % 2 ? b : a;
            uint64_t asked = s.n_asked;
            ck_assert_int_eq(use(to, 0), MAY_WRITE);
            ck_assert_int_eq(s.copy[from][0].right, NONE);
            use(to, 1);
            ck_assert_uint_eq(s.n_asked, asked + 1);
        }
        ck_assert_int_eq(use(4, 0), MAY_WRITE); /* whoever it is */
        ck_assert_int_eq(use(EG_DIR_AT_HOME, 0), MAY_WRITE);
        ck_assert_int_eq(use(4, 0), MAY_WRITE); /* from home, too */
    }
}
END_TEST

/* Two who wait for it when it comes free: the first has it to write, then the second. */
START_TEST(those_in_line_get_migratory_pages_to_write)
{
    make_migratory(1, 2);
    s.thread[3][0] = (struct thread){.state = IDLE};
    s.thread[4][0] = (struct thread){.state = IDLE};
    thread_turn(3, 0);
    thread_turn(4, 0);
    home_turn(3);
    home_turn(4);
    ck_assert_uint_eq(s.page[0].state, EG_DIR_WAIT_DATA);
    ck_assert_uint_ne(s.page[0].line, 0);
    unsigned moved = s.n_moved;
    drain();
    ck_assert_uint_ge(s.n_moved, moved + 2);
    ck_assert_uint_eq(s.page[0].state, EG_DIR_OWNED);
}
END_TEST

START_TEST(what_one_writes_and_others_read_is_not_migratory)
{
    for (unsigned writer = EG_DIR_AT_HOME; writer < 2; writer++) {
        start(0, 5, 1);
        for (unsigned k = 0; k < 10; k++) {
            use(writer, 0);
            use(writer, 1);
            ck_assert_int_eq(use(2, 0), MAY_READ);
            ck_assert_int_eq(s.copy[writer][0].right, MAY_READ);
        }
        ck_assert_uint_eq(s.page[0].moves, 0);
    }
}
END_TEST

START_TEST(what_many_read_is_not_migratory)
{
    start(0, 5, 1);
    for (unsigned k = 0; k < 10; k++) {
        unsigned writer = 1 + k % 2;
        ck_assert_int_eq(use(3, 0), MAY_READ);
        ck_assert_int_eq(use(4, 0), MAY_READ);
        ck_assert_int_eq(use(writer, 0), MAY_READ);
        use(writer, 1);
        ck_assert_uint_eq(s.page[0].moves, 0);
    }
}
END_TEST

START_TEST(what_is_written_without_being_read_is_not_migratory)
{
    start(0, 5, 1);
    for (unsigned k = 0; k < 10; k++) {
        use(1 + k % 2, 1);
        ck_assert_int_eq(use(EG_DIR_AT_HOME, 0), MAY_READ);
    }
    ck_assert_uint_eq(s.page[0].moves, 0);
}
END_TEST

/* The page moves with reads, until one in 32 is what it is. Returns: whose copy that left. */
static unsigned until_probe(void)
{
    unsigned k = 0;
    while (k < 31) {
        ck_assert_int_eq(use(1 + k % 2, 0), MAY_WRITE);
        ck_assert_int_eq(s.copy[1 + (k + 1) % 2][0].right, NONE);
        k++;
    }
    ck_assert_int_eq(use(1 + k % 2, 0), MAY_READ);
    ck_assert_uint_eq(s.page[0].state, EG_DIR_SHARED);
    return 1 + (k + 1) % 2;
}

START_TEST(one_read_in_32_shows_whether_a_page_still_moves)
{
    enum { READER_WRITES, OWNER_WRITES, NOBODY_WRITES };
    for (int then = READER_WRITES; then <= NOBODY_WRITES; then++) {
        make_migratory(1, 2);
        unsigned owner = until_probe(), reader = 3 - owner;
        if (then == READER_WRITES) {
            use(reader, 1);
            ck_assert_int_eq(use(owner, 0), MAY_WRITE);
        } else if (then == OWNER_WRITES) {
            for (unsigned k = 0; k < 40; k++) {
                use(owner, 1);
                ck_assert_int_eq(use(reader, 0), MAY_READ);
            }
        } else {
            for (unsigned k = 0; k < 40; k++)
                ck_assert_int_eq(use(k % s.n_agents, 0), MAY_READ);
        }
    }
}
END_TEST

/* --- the line ----------------------------------------------------------------------------------------------------------------- */

static unsigned line_next;

static void line_grant(uint64_t page, unsigned agent, unsigned slot, int write, enum eg_dir_content content)
{
    (void)page, (void)write, (void)content;
    if (agent == 2)
        ck_assert_uint_eq(slot, line_next++); /* first come, first served */
}
static void line_protect(uint64_t page) { (void)page; }
static void line_invalidate(uint64_t page, unsigned agent) { (void)page, (void)agent; }
static void line_recall(uint64_t page, unsigned agent, int keep) { (void)page, (void)agent, (void)keep; }
static void line_store(uint64_t page, const void *data, int write) { (void)page, (void)data, (void)write; }
static const struct eg_dir_ops line_ops = {line_grant, line_protect, line_invalidate, line_recall, line_store};

START_TEST(full_lines_are_refused_and_come_free_again)
{
    uint64_t value = 1;
    start(0, 3, 2);
    s.dir.ops = &line_ops;
    for (int round = 0; round < 2; round++) {
        struct eg_dir_page *p = &s.page[0], before;
        memset(s.page, 0, sizeof s.page);
        line_next = 0;
        ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 1, 0, 1), 0);
        ck_assert_int_eq(eg_dir_ask(&s.dir, &s.page[1], BASE + 1, 1, 0, 1), 0);
        for (unsigned slot = 0; slot < EG_DIR_WAITS; slot++) /* the first has the page recalled, the others wait in line */
            ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 2, slot, slot % 2 == 0), 0);
        before = *p;
        ck_assert_uint_eq(lines_free(), 0);
        ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 2, EG_DIR_WAITS, 0), -ENOSPC);
        ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, EG_DIR_AT_HOME, 0, 1), -ENOSPC);
        ck_assert_int_eq(memcmp(&before, p, sizeof before), 0);
        /* Another page can begin its transaction, but nobody can wait for it. */
        ck_assert_int_eq(eg_dir_ask(&s.dir, &s.page[1], BASE + 1, EG_DIR_AT_HOME, 0, 0), 0);
        ck_assert_int_eq(eg_dir_ask(&s.dir, &s.page[1], BASE + 1, EG_DIR_AT_HOME, 1, 0), -ENOSPC);

        ck_assert_int_eq(eg_dir_data(&s.dir, p, BASE, 1, &value), 0);
        ck_assert_uint_eq(line_next, EG_DIR_WAITS);
        ck_assert_uint_eq(lines_free(), EG_DIR_WAITS - 1);
        ck_assert_uint_eq(p->state, EG_DIR_OWNED);
        ck_assert_uint_eq(p->owner, 2);
        ck_assert_int_eq(eg_dir_ask(&s.dir, &s.page[1], BASE + 1, EG_DIR_AT_HOME, 1, 0), 0);
        ck_assert_int_eq(eg_dir_data(&s.dir, &s.page[1], BASE + 1, 1, &value), 0);
        ck_assert_uint_eq(lines_free(), EG_DIR_WAITS - 1);
    }
}
END_TEST

static unsigned order[4], n_order;

static void order_grant(uint64_t page, unsigned agent, unsigned slot, int write, enum eg_dir_content content)
{
    (void)page, (void)slot, (void)write, (void)content;
    order[n_order++ % 4] = agent;
}
static const struct eg_dir_ops order_ops = {order_grant, line_protect, line_invalidate, line_recall, line_store};

/* The page was asked back already when its owner gives it: who asked has it before those who wait behind. */
START_TEST(who_asked_for_what_is_given_is_first)
{
    uint64_t value = 0;
    for (int write = 0; write < 2; write++) {
        start(0, 4, 1);
        s.dir.ops = &order_ops;
        n_order = 0;
        struct eg_dir_page *p = s.page;
        ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 1, 0, 1), 0);
        ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 2, 0, write), 0);
        ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 3, 0, 0), 0);
        ck_assert_int_eq(eg_dir_given(&s.dir, p, BASE, 1, &value, 0), 0);
        ck_assert_uint_eq(n_order, 1);
        ck_assert_int_eq(eg_dir_ack(&s.dir, p, BASE, 1), 0);
        if (write)
            ck_assert_int_eq(eg_dir_data(&s.dir, p, BASE, 2, &value), 0);
        ck_assert_uint_eq(n_order, 3);
        ck_assert_uint_eq(order[1], 2);
        ck_assert_uint_eq(order[2], 3);
    }
}
END_TEST

/* A wrong answer in each state by itself, so that a failure names the state. */
START_TEST(unawaited_answers_are_refused)
{
    uint64_t value = 0;
    start(0, 4, 1);
    s.dir.ops = &line_ops;
    struct eg_dir_page *p = s.page;
#define REFUSED(want, ack, data, given)                                                             \
    do {                                                                                            \
        ck_assert_uint_eq(p->state, EG_DIR_##want);                                                 \
        struct eg_dir_page before = *p;                                                             \
        for (unsigned k = 0; k < 4; k++) {                                                          \
            if (!((ack) >> k & 1))                                                                  \
                ck_assert_int_eq(eg_dir_ack(&s.dir, p, BASE, k), -EPROTO);                          \
            if (!((data) >> k & 1))                                                                 \
                ck_assert_int_eq(eg_dir_data(&s.dir, p, BASE, k, &value), -EPROTO);                 \
            if (!((given) >> k & 1))                                                                \
                ck_assert_int_eq(eg_dir_given(&s.dir, p, BASE, k, &value, 0), -EPROTO);             \
        }                                                                                           \
        ck_assert_int_eq(memcmp(&before, p, sizeof before), 0);                                     \
    } while (0)
    line_next = 0;
    REFUSED(HOME, 0, 0, 0);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 1, 0, 0), 0);
    REFUSED(SHARED, 0, 0, 0);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 3, 0, 0), 0);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 2, 0, 1), 0);
    REFUSED(WAIT_ACKS, 1 << 1 | 1 << 3, 0, 0);
    ck_assert_int_eq(eg_dir_ack(&s.dir, p, BASE, 3), 0);
    REFUSED(WAIT_ACKS, 1 << 1, 0, 0);
    ck_assert_int_eq(eg_dir_ack(&s.dir, p, BASE, 1), 0);
    REFUSED(OWNED, 0, 0, 1 << 2);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 1, 0, 0), 0);
    REFUSED(WAIT_KEPT, 0, 1 << 2, 1 << 2);
    ck_assert_int_eq(eg_dir_data(&s.dir, p, BASE, 2, &value), 0);
    REFUSED(SHARED, 0, 0, 0);
    ck_assert_uint_eq(p->sharers, 1 << 1 | 1 << 2);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 1, 0, 1), 0);
    ck_assert_int_eq(eg_dir_ack(&s.dir, p, BASE, 2), 0);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, EG_DIR_AT_HOME, 0, 1), 0);
    REFUSED(WAIT_DATA, 0, 1 << 1, 1 << 1);
    ck_assert_int_eq(eg_dir_data(&s.dir, p, BASE, 1, &value), 0);
    REFUSED(HOME, 0, 0, 0);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 3, 0, 1), 0);
    ck_assert_int_eq(eg_dir_given(&s.dir, p, BASE, 3, &value, 0), 0);
    REFUSED(HOME, 0, 0, 0);
    ck_assert_int_eq(eg_dir_ask(&s.dir, p, BASE, 3, 0, 1), 0);
    ck_assert_int_eq(eg_dir_given(&s.dir, p, BASE, 3, &value, 1), 0);
    REFUSED(WAIT_GONE, 1 << 3, 0, 0);
    ck_assert_int_eq(eg_dir_ack(&s.dir, p, BASE, 3), 0);
    REFUSED(HOME, 0, 0, 0);
#undef REFUSED
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_dir");
    TCase *tc = unit_case(suite, "dir", 120);
    tcase_add_loop_test(tc, random_schedules_are_coherent, 0, 32);
    tcase_add_test(tc, what_is_read_and_written_by_turns_is_migratory);
    tcase_add_test(tc, those_in_line_get_migratory_pages_to_write);
    tcase_add_test(tc, what_one_writes_and_others_read_is_not_migratory);
    tcase_add_test(tc, what_many_read_is_not_migratory);
    tcase_add_test(tc, what_is_written_without_being_read_is_not_migratory);
    tcase_add_test(tc, one_read_in_32_shows_whether_a_page_still_moves);
    tcase_add_test(tc, full_lines_are_refused_and_come_free_again);
    tcase_add_test(tc, who_asked_for_what_is_given_is_first);
    tcase_add_test(tc, unawaited_answers_are_refused);
    return unit_run(suite);
}
