/* The RDMA endpoint against a device inside the process: a client's domain and a server's, one thread plays both sides. */
#include "tests/unit/client_random.h"
#include "tests/unit/fake_verbs.h"

#include "proto/eg_rdma.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <string.h>

#define UNTOUCHED 12345 /* the result of a transfer that has none yet */
#define PATTERN 1021
#define IOVA 0x700000000000u
#define REMOTE_BYTES (256u << 10)
#define SLOT_BYTES 2048u
#define SLOTS 512u
#define COUNT(array) (int)(sizeof(array) / sizeof *(array))

/* One side of a connection. Messages are numbered; number and stream say what is in them. */
struct end {
    struct eg_rdma_ep ep;
    struct end *other;
    uint32_t sent, got;
    uint32_t stream; /* of what it sends */
    bool answers;
};

/* The wire format of a message, written down once more. */
struct head {
    uint16_t credits, kind;
    uint32_t len_bytes;
};

static struct ibv_context context;
static struct ibv_comp_channel channel;
static struct eg_rdma_domain domain[2]; /* the client's, the server's */
static struct end client, server;
static struct ibv_mr *mr; /* all of the server's memory */
static uint8_t remote[REMOTE_BYTES], area[2][SLOTS / 2][SLOT_BYTES];
static struct eg_io io[SLOTS];
static uint8_t pattern[EG_RDMA_PAYLOAD_BYTES + PATTERN];
static uint32_t only_bytes; /* 0: lengths differ */

static uint32_t message_bytes(uint32_t number)
{
    uint32_t hash = number * 2654435761u >> 12;
    return only_bytes ? only_bytes : 1 + hash % (hash & 1 << 19 ? EG_RDMA_PAYLOAD_BYTES : 200);
}

static const uint8_t *data_of(uint32_t stream, uint32_t number)
{
    return pattern + (stream * 83 + number) % PATTERN;
}

static int send_next(struct end *e)
{
    uint8_t scratch[EG_RDMA_PAYLOAD_BYTES];
    uint32_t len = message_bytes(e->sent);
    memcpy(scratch, data_of(e->stream, e->sent), len);
    int rc = eg_rdma_send(&e->ep, scratch, len);
    e->sent += rc == 0;
    return rc;
}

/* As many as go. */
static void flood(struct end *e)
{
    int rc;
    while (!(rc = send_next(e))) {
    }
    must(rc == -EAGAIN, "send: %d", rc);
}

static void on_message(struct eg_rdma_ep *ep, const void *data, uint32_t len)
{
    struct end *e = ep->user;
    must(!ep->error, "a message after the end");
    must(len == message_bytes(e->got) && !memcmp(data, data_of(e->other->stream, e->got), len), "message %u differs", e->got);
    e->got++;
    must(!e->answers || !send_next(e), "no room for an answer");
}

/* --- opening and closing ----------------------------------------------------------------------------------------------- */

static struct ibv_mr *region(int side, int rights)
{
    return fake_verbs.reg_mr(domain[side].pd, remote, sizeof remote, IOVA, rights | IBV_ACCESS_LOCAL_WRITE);
}

static int open_domains(void)
{
    int rc = 0;
    for (int k = 0; k < 2 && !rc; k++) rc = eg_rdma_domain_open(&domain[k], &fake_verbs, &context, 128);
    for (int k = 0; k < 2 && !rc; k++) rc = eg_rdma_domain_area(&domain[0], area[k], sizeof area[k]);
    return rc ? rc : (mr = region(1, IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE)) ? 0 : -errno;
}

static int open_pair(struct end *a, struct end *b)
{
    static const struct eg_rdma_hello hello = {.magic = EG_RDMA_MAGIC};
    struct end *end[2] = {a, b};
    *a = (struct end){.ep = {.on_message = on_message, .user = a}, .stream = 1, .other = b};
    *b = (struct end){.ep = {.on_message = on_message, .user = b}, .stream = 2, .other = a};
    for (int k = 0; k < 2; k++) {
        struct rdma_cm_id *id = fake_id();
        int rc = eg_rdma_open(&end[k]->ep, &domain[k], id, &channel);
        if (rc) {
            (void)fake_verbs.destroy_id(id);
            return rc;
        }
    }
    struct rdma_conn_param pa = eg_rdma_conn_param(&a->ep, &hello, NULL);
    struct rdma_conn_param request = {.responder_resources = pa.initiator_depth, .initiator_depth = pa.responder_resources};
    fake_connect(a->ep.id, pa, b->ep.id, eg_rdma_conn_param(&b->ep, &hello, &request));
    return 0;
}

static void close_pair(struct end *a, struct end *b)
{
    eg_rdma_close(&a->ep);
    eg_rdma_close(&b->ep);
}

static void close_domains(void)
{
    if (mr)
        (void)fake_verbs.dereg_mr(mr);
    mr = NULL;
    for (int k = 0; k < 2; k++) eg_rdma_domain_close(&domain[k]);
    must(!fake.n_live, "%u objects left", fake.n_live);
}

/* Every receive buffer is where it belongs. */
static void check_buffers(void)
{
    for (int k = 0; k < 2; k++) {
        uint32_t have = fake_srq_posted(domain[k].srq), want = domain[k].n_chunks * EG_RDMA_WINDOW;
        must(have == (want < fake.max_srq_wr ? want : fake.max_srq_wr), "%u receive buffers of %u", have, want);
    }
}

static void reopen(void)
{
    close_pair(&client, &server);
    close_domains();
    ck_assert_int_eq(open_domains(), 0);
    ck_assert_int_eq(open_pair(&client, &server), 0);
}

static void setup(void)
{
    struct random_state r = {99};
    random_fill(&r, pattern, sizeof pattern);
    only_bytes = 0;
    fake_reset();
    reopen();
}

static void teardown(void)
{
    close_pair(&client, &server);
    close_pair(&client, &server); /* twice is harmless */
    eg_rdma_close(NULL);
    eg_rdma_domain_close(NULL);
    ck_assert_int_eq(eg_rdma_send(&client.ep, "x", 1), -ENOTCONN);
    check_buffers();
    close_domains();
}

/* --- what has to hold -------------------------------------------------------------------------------------------------- */

/* Returns: the endpoint's error, and makes sure of it for every call. */
static int poll_end(struct end *e)
{
    struct eg_io_queue done = {NULL, NULL};
    struct eg_io any = {.op = EG_IO_READ, .buf = area, .len_bytes = 1};
    int rc = eg_rdma_poll(&e->ep, &done);
    must(rc <= 0 && !done.head, "a transfer that was not asked for");
    must(rc == e->ep.error, "%d, but %d", rc, e->ep.error);
    must(!rc || (eg_rdma_send(&e->ep, "x", 1) == rc && eg_rdma_submit(&e->ep, &any) == rc && eg_rdma_poll(&e->ep, &done) == rc &&
                 eg_rdma_arm(&e->ep) == rc && eg_rdma_keepalive(&e->ep) == rc),
         "another error than %d", rc);
    return rc;
}

static uint32_t head_credits(const void *data)
{
    return ((const struct head *)data)->credits;
}

/* Each credit of the window is in one place: with the sender, used up, owed, or on its way back. */
static void ledger(const struct end *a)
{
    const struct end *b = a->other;
    uint32_t back, unused, used = fake_under_way(a->ep.id->qp, head_credits, &unused);
    (void)fake_under_way(b->ep.id->qp, head_credits, &back);
    must(a->ep.credits + used + b->ep.owed + back == EG_RDMA_WINDOW, "credits: %u left, %u used, %u owed, %u on the way",
         a->ep.credits, used, b->ep.owed, back);
}

/* After some turns all messages have arrived. */
static void settle(struct end *a, struct end *b)
{
    for (int k = 0; k < 4; k++) {
        fake_run(-1u);
        must(!poll_end(a) && !poll_end(b), "%d, %d", a->ep.error, b->ep.error);
        ledger(a);
        ledger(b);
    }
    must(a->got == b->sent && b->got == a->sent, "%u of %u, %u of %u", a->got, b->sent, b->got, a->sent);
}

/* Transfer number k, from or to slot k. */
static void submit(uint32_t k, enum eg_io_op op, uint32_t key, uint64_t offset, uint32_t len)
{
    void *buf = area[k / (SLOTS / 2)][k % (SLOTS / 2)];
    io[k] = (struct eg_io){.op = (uint8_t)op, .offset = offset, .key = key, .buf = buf, .len_bytes = len, .result = UNTOUCHED};
    must(!eg_rdma_submit(&client.ep, &io[k]), "submit");
}

/* --- messages ---------------------------------------------------------------------------------------------------------- */

static const uint32_t inlines[] = {0, 64, 128, 256};

START_TEST(every_size_arrives)
{
    fake.max_inline = inlines[_i];
    reopen();
    ck_assert_int_eq(eg_rdma_send(&client.ep, pattern, 0), -EMSGSIZE);
    ck_assert_int_eq(eg_rdma_send(&client.ep, pattern, EG_RDMA_PAYLOAD_BYTES + 1), -EMSGSIZE);
    ck_assert_int_eq(eg_rdma_send(&client.ep, pattern, -1u), -EMSGSIZE);
    for (only_bytes = 1; only_bytes <= EG_RDMA_PAYLOAD_BYTES; only_bytes += only_bytes < 300 || only_bytes > 4050 ? 1 : 37) {
        must(!send_next(&client) && !send_next(&client), "no room at %u bytes", only_bytes);
        settle(&client, &server);
    }
    ck_assert_uint_eq(client.ep.messages_sent, client.sent);
    ck_assert_uint_eq(server.ep.messages_received, client.sent);
    ck_assert_uint_le(server.ep.credit_messages, client.sent / (EG_RDMA_WINDOW / 2));
    ck_assert_uint_eq(client.ep.credit_messages, 0); /* a credit message alone is not worth one */
}
END_TEST

static const struct {
    uint32_t device;   /* work requests at a time */
    uint32_t polls[2]; /* percent of the turns */
} pace[] = {{64, {100, 100}}, {1, {100, 100}}, {2, {50, 3}}, {3, {3, 100}}, {40, {10, 10}}, {64, {1, 100}}, {64, {2, 2}}};

START_TEST(both_directions_at_full_blast)
{
    enum { MANY = 1200 };
    struct random_state r = {17 + (uint64_t)_i};
    struct end *end[2] = {&client, &server};
    for (uint32_t turn = 0; client.got < MANY || server.got < MANY; turn++) {
        must(turn < 30 * MANY, "stuck at %u and %u", client.got, server.got);
        for (int k = 0; k < 2; k++) {
            int rc = 0;
            for (uint32_t n = random_below(&r, 40); n && end[k]->sent < MANY && !rc; n--) rc = send_next(end[k]);
            must(rc == 0 || rc == -EAGAIN, "send: %d", rc);
            must(random_below(&r, 100) >= pace[_i].polls[k] || !poll_end(end[k]), "poll: %d", end[k]->ep.error);
            ledger(end[k]);
        }
        fake_run(random_below(&r, pace[_i].device + 1));
        ledger(&client);
        ledger(&server);
    }
    settle(&client, &server);
}
END_TEST

/* Both have sent all they may, without a look at what came. */
START_TEST(both_out_of_credits_go_on)
{
    for (uint32_t turn = 1; turn <= 100; turn++) {
        flood(&client);
        flood(&server);
        must(client.ep.credits == 1 && server.ep.credits == 1, "the last credit is not for data");
        fake_run(turn % 3 ? -1u : turn % 40);
        flood(&client); /* nothing has changed for it */
        must(client.ep.credit_waits == 2 * turn, "%lu waits", (unsigned long)client.ep.credit_waits);
        settle(&client, &server);
        must(server.got >= turn * (EG_RDMA_WINDOW / 2), "%u messages in %u turns", server.got, turn);
    }
}
END_TEST

START_TEST(flood_on_one_endpoint_leaves_the_others_theirs)
{
    struct end a[2], b[2];
    for (int k = 0; k < 2; k++) {
        ck_assert_int_eq(open_pair(&a[k], &b[k]), 0);
        b[k].answers = true;
    }
    for (uint32_t turn = 1; turn <= 300; turn++) {
        flood(&client); /* the server does not poll this one */
        must(!send_next(&a[0]) && !send_next(&a[1]), "no room");
        for (int k = 0; k < 2; k++) {
            fake_run(-1u);
            must(!poll_end(&b[0]) && !poll_end(&b[1]) && !poll_end(&a[0]) && !poll_end(&a[1]), "poll");
        }
        must(a[0].got == turn && a[1].got == turn, "%u and %u answers of %u", a[0].got, a[1].got, turn);
    }
    ck_assert_uint_eq(client.sent, EG_RDMA_WINDOW - 1);
    settle(&client, &server);
    for (int k = 0; k < 2; k++) close_pair(&a[k], &b[k]);
}
END_TEST

/* Loop: whether the device forgets a queue pair's completions with it. */
START_TEST(closing_loses_no_receive_buffer)
{
    struct random_state r = {5};
    struct end *end[2] = {&client, &server};
    fake.drops = _i;
    for (uint32_t turn = 0; turn < 1000; turn++) {
        for (int k = 0; k < 2; k++)
            for (uint32_t n = random_below(&r, EG_RDMA_WINDOW); n; n--) must(!send_next(end[k]), "no room");
        fake_run(random_below(&r, 2) ? -1u : random_below(&r, EG_RDMA_WINDOW));
        must(random_below(&r, 3) || !poll_end(&client), "poll");
        uint32_t first = random_below(&r, 2);
        eg_rdma_close(&end[first]->ep);
        fake_run(random_below(&r, EG_RDMA_WINDOW));
        eg_rdma_close(&end[1 - first]->ep);
        check_buffers();
        must(domain[0].n_chunks == 1 && domain[1].n_chunks == 1, "%u and %u chunks", domain[0].n_chunks, domain[1].n_chunks);
        must(!open_pair(&client, &server), "open");
    }
}
END_TEST

START_TEST(full_receive_queue_refuses_endpoints)
{
    struct end a[2], b[2];
    fake.max_srq_wr = 2 * EG_RDMA_WINDOW + 10;
    reopen();
    ck_assert_int_eq(open_pair(&a[0], &b[0]), 0);
    for (int k = 0; k < 3; k++) ck_assert_int_eq(open_pair(&a[1], &b[1]), -ENOMEM);
    flood(&client);
    flood(&a[0]);
    settle(&client, &server);
    settle(&a[0], &b[0]);
    close_pair(&a[0], &b[0]);
    ck_assert_int_eq(open_pair(&a[1], &b[1]), 0);
    close_pair(&a[1], &b[1]);
}
END_TEST

START_TEST(hello_is_checked)
{
    struct eg_rdma_hello h = {EG_RDMA_MAGIC, EG_WIRE_VERSION, EG_RDMA_WINDOW, EG_STATUS_DRAINING, {7}}, got = {0};
    uint8_t padded[sizeof h + 24] = {0}; /* as the connection manager does */
    memcpy(padded, &h, sizeof h);
    ck_assert_int_eq(eg_rdma_hello_check(NULL, 0, &got), -EPROTO);
    for (size_t len = 0; len < sizeof h; len++) ck_assert_int_eq(eg_rdma_hello_check(padded, len, &got), -EPROTO);
    h.magic ^= 1;
    ck_assert_int_eq(eg_rdma_hello_check(&h, sizeof h, &got), -EPROTO);
    ck_assert_uint_eq(got.magic, 0);
    ck_assert_int_eq(eg_rdma_hello_check(padded, sizeof padded, &got), 0);
    ck_assert_mem_eq(&got, padded, sizeof got);
    h = got;
    h.version++;
    ck_assert_int_eq(eg_rdma_hello_check(&h, sizeof h, &got), -EPROTONOSUPPORT);
    h.version--;
    h.window--;
    ck_assert_int_eq(eg_rdma_hello_check(&h, sizeof h, &got), -EPROTONOSUPPORT);
}
END_TEST

/* A request says what its recipient may do and has to answer, not what the sender does: rdma_get_cm_event(3). */
START_TEST(connection_keeps_to_both_devices)
{
    struct eg_rdma_hello h = {0};
    struct rdma_conn_param request = {.responder_resources = 4, .initiator_depth = 2};
    struct rdma_conn_param p = eg_rdma_conn_param(&client.ep, &h, NULL);
    ck_assert(p.private_data == &h && p.private_data_len == sizeof h && p.rnr_retry_count == 7);
    ck_assert(p.initiator_depth == EG_RDMA_READS && p.responder_resources == EG_RDMA_READS);
    p = eg_rdma_conn_param(&server.ep, &h, &request);
    ck_assert_uint_eq(p.responder_resources, 4);
    ck_assert_uint_eq(p.initiator_depth, 2);
    fake.reads = 3;
    reopen();
    p = eg_rdma_conn_param(&client.ep, &h, NULL);
    ck_assert(p.initiator_depth == 3 && p.responder_resources == 3);
}
END_TEST

/* --- transfers --------------------------------------------------------------------------------------------------------- */

static const struct {
    uint32_t device, burst, writes; /* writes: percent */
    int reads;
} flow[] = {{64, 64, 50, 16}, {1, SLOTS, 50, 16}, {20, SLOTS, 50, 1}, {300, SLOTS, 100, 4}, {30, SLOTS, 0, 16}, {3, 8, 50, 16}};

/* Reads, writes and messages in any mixture; after each transfer, what a memory of the same requests in order would hold. */
START_TEST(transfers_match_memory)
{
    enum { MANY = 3000 };
    static uint8_t model[REMOTE_BYTES], want[SLOTS][SLOT_BYTES];
    struct random_state r = {31 + (uint64_t)_i};
    uint32_t n_sent = 0, n_done = 0;
    fake.reads = flow[_i].reads;
    reopen();
    for (uint32_t turn = 0; n_done < MANY; turn++) {
        must(turn < 20 * MANY, "stuck at %u of %u", n_done, n_sent);
        for (uint32_t n = random_below(&r, flow[_i].burst + 1); n && n_sent < MANY && n_sent - n_done < SLOTS; n--, n_sent++) {
            uint32_t k = n_sent % SLOTS, len = random_below(&r, SLOT_BYTES + 1), at = random_below(&r, REMOTE_BYTES - len + 1);
            bool write = random_below(&r, 100) < flow[_i].writes;
            submit(k, write ? EG_IO_WRITE : EG_IO_READ, mr->rkey, IOVA + at, len);
            memcpy(io[k].buf, data_of(n_sent, n_sent / 7), len);
            if (write)
                memcpy(model + at, io[k].buf, len);
            memcpy(want[k], model + at, len);
        }
        for (uint32_t n = random_below(&r, 3); n; n--) (void)!send_next(&client);
        struct eg_io_queue done = {NULL, NULL};
        int rc = eg_rdma_poll(&client.ep, &done);
        for (struct eg_io *d; (d = eg_io_pop(&done)); rc--, n_done++)
            must(d == &io[n_done % SLOTS] && d->result == 0 && !memcmp(d->buf, want[n_done % SLOTS], d->len_bytes),
                 "transfer %u", n_done);
        must(rc == 0, "poll: %d", rc);
        must(client.ep.sq_head - client.ep.sq_tail <= EG_RDMA_SQ && client.ep.n_reads <= EG_RDMA_SQ / 4, "too many under way");
        fake_run(random_below(&r, flow[_i].device) + 1);
        must(!poll_end(&server), "poll: %d", server.ep.error);
    }
    ck_assert_mem_eq(remote, model, sizeof model);
    ck_assert_uint_eq(client.ep.n_reads, 0);
    settle(&client, &server);
}
END_TEST

START_TEST(batch_needs_one_doorbell)
{
    struct eg_io_queue done = {NULL, NULL};
    for (uint32_t k = 0; k < 32; k++) submit(k, EG_IO_WRITE, mr->rkey, IOVA, 64);
    ck_assert_uint_eq(fake.n_doorbells, 0);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 0);
    ck_assert_uint_eq(fake.n_doorbells, 1);
    fake_run(31);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 16); /* one completion on the way, so that the queue cannot fill up */
    fake_run(1);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 16);
}
END_TEST

START_TEST(buffer_outside_the_areas_is_refused)
{
    static uint8_t elsewhere[64];
    uint8_t *begin = area[0][0], *end = area[1][0]; /* where the areas touch, a buffer that is in both is in none */
    const struct {
        void *buf;
        uint32_t len;
    } outside[] = {{elsewhere, 64}, {NULL, 1}, {end - 63, 65}, {end - 1, -1u}, {begin, sizeof area[0] + 1},
                   {(void *)((uintptr_t)begin - 1), 2}};
    for (int k = 0; k < COUNT(outside); k++) {
        struct eg_io out = {.op = EG_IO_READ, .key = mr->rkey, .offset = IOVA, .buf = outside[k].buf, .len_bytes = outside[k].len};
        ck_assert_int_eq(eg_rdma_submit(&client.ep, &out), -EFAULT);
    }
    struct eg_io_queue done = {NULL, NULL};
    submit(0, EG_IO_READ, mr->rkey, IOVA, SLOT_BYTES);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 0);
    fake_run(1);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 1);
    for (int k = 2; k < EG_RDMA_AREAS; k++) ck_assert_int_eq(eg_rdma_domain_area(&domain[0], elsewhere, 1), 0);
    ck_assert_int_eq(eg_rdma_domain_area(&domain[0], elsewhere, 1), -ENOSPC);
}
END_TEST

enum { ALL, READ_ONLY, ELSEWHERE, LOCAL, NONE };
static const struct {
    const char *what;
    uint8_t op, key;
    uint64_t offset;
} refused[] = {
    {"unknown key", EG_IO_READ, NONE, IOVA},
    {"local key", EG_IO_READ, LOCAL, IOVA},
    {"another domain's key", EG_IO_WRITE, ELSEWHERE, IOVA},
    {"write to what is read only", EG_IO_WRITE, READ_ONLY, IOVA},
    {"a byte too far", EG_IO_READ, ALL, IOVA + REMOTE_BYTES - 63},
    {"before", EG_IO_WRITE, ALL, IOVA - 1},
    {"local address", EG_IO_WRITE, ALL, 0},
    {"wraps around", EG_IO_READ, ALL, -16ull},
};

START_TEST(refused_transfer_ends_the_endpoint)
{
    struct eg_io_queue done = {NULL, NULL};
    struct ibv_mr *read_only = region(1, IBV_ACCESS_REMOTE_READ), *elsewhere = region(0, IBV_ACCESS_REMOTE_WRITE);
    const uint32_t keys[] = {mr->rkey, read_only->rkey, elsewhere->rkey, mr->lkey, 77};
    submit(0, EG_IO_READ, keys[READ_ONLY], IOVA, 64);
    submit(1, (enum eg_io_op)refused[_i].op, keys[refused[_i].key], refused[_i].offset, 64);
    submit(2, EG_IO_WRITE, keys[ALL], IOVA + 128, 64);
    memset(area, 0x22, sizeof area);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 0);
    fake_run(-1u);
    int rc = eg_rdma_poll(&client.ep, &done);
    ck_assert_msg(rc == -EACCES, "%s: %d", refused[_i].what, rc);
    ck_assert_ptr_eq(eg_io_pop(&done), &io[0]); /* done before */
    ck_assert_ptr_null(eg_io_pop(&done));
    ck_assert(io[1].result == UNTOUCHED && io[2].result == UNTOUCHED);
    for (uint32_t k = 0; k < REMOTE_BYTES; k++) must(!remote[k], "%u was written", k);
    ck_assert_int_eq(poll_end(&client), -EACCES);
    eg_rdma_fail(&client.ep, -EIO); /* the first reason stays */
    ck_assert_int_eq(poll_end(&client), -EACCES);
    (void)fake_verbs.dereg_mr(read_only);
    (void)fake_verbs.dereg_mr(elsewhere);
}
END_TEST

/* --- events and errors ------------------------------------------------------------------------------------------------- */

START_TEST(arm_gives_one_event)
{
    for (uint32_t n = 1; n < 4; n++) { /* armed from the start */
        must(!send_next(&client) && !send_next(&client), "no room");
        ck_assert_uint_eq(fake.n_events, n - 1);
        settle(&client, &server);
        ck_assert_uint_eq(fake.n_events, n);
        ck_assert(fake.event_cq->channel == &channel && fake.event_cq->cq_context == &server.ep);
        ck_assert_int_eq(eg_rdma_arm(&server.ep), 0);
    }
}
END_TEST

/* Loop: messages sent before, whose completion nobody asked for: what broke was that they counted as under way for ever. */
START_TEST(keepalive_notices_a_dead_peer)
{
    for (int n = 0; n < _i; n++) ck_assert_int_eq(send_next(&client), 0);
    settle(&client, &server);
    fake.n_doorbells = 0;
    for (int k = 0; k < 3; k++) ck_assert_int_eq(eg_rdma_keepalive(&client.ep), 0);
    ck_assert_uint_eq(fake.n_doorbells, 1); /* one under way is enough */
    settle(&client, &server);
    fake_drop(client.ep.id);
    settle(&client, &server);
    ck_assert_int_eq(eg_rdma_keepalive(&client.ep), 0);
    fake_run(-1u);
    ck_assert_int_eq(poll_end(&client), -ETIMEDOUT);
}
END_TEST

START_TEST(keepalive_waits_for_room)
{
    struct eg_io_queue done = {NULL, NULL};
    uint32_t n = 0;
    for (uint32_t k = 0; k < EG_RDMA_SQ; k++) submit(k, EG_IO_WRITE, mr->rkey, IOVA, 64);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 0);
    ck_assert_int_eq(send_next(&client), 0); /* room was kept for it */
    ck_assert_int_eq(send_next(&client), -EAGAIN);
    ck_assert_int_eq(eg_rdma_keepalive(&client.ep), 0);
    for (int turn = 0; turn < 4; turn++) {
        fake_run(-1u);
        n += (uint32_t)eg_rdma_poll(&client.ep, &done);
    }
    ck_assert_uint_eq(n, EG_RDMA_SQ);
    settle(&client, &server);
}
END_TEST

START_TEST(dead_peer_completes_nothing)
{
    struct eg_io_queue done = {NULL, NULL};
    for (uint32_t k = 0; k < 300; k++) submit(k, k % 2 ? EG_IO_WRITE : EG_IO_READ, mr->rkey, IOVA + k, 64);
    flood(&client);
    flood(&server);
    ck_assert_int_eq(eg_rdma_poll(&client.ep, &done), 0);
    fake_drop(client.ep.id);
    fake_run(-1u);
    ck_assert_int_eq(poll_end(&client), -ETIMEDOUT);
    ck_assert_int_eq(poll_end(&server), -ETIMEDOUT);
    ck_assert_uint_eq(client.got + server.got, 0);
    for (uint32_t k = 0; k < 300; k++) must(io[k].result == UNTOUCHED, "transfer %u has a result", k);
}
END_TEST

static const struct {
    int status, error;
} statuses[] = {
    {IBV_WC_RETRY_EXC_ERR, -ETIMEDOUT}, {IBV_WC_RNR_RETRY_EXC_ERR, -ETIMEDOUT}, {IBV_WC_RESP_TIMEOUT_ERR, -ETIMEDOUT},
    {IBV_WC_REM_ACCESS_ERR, -EACCES},   {IBV_WC_REM_INV_REQ_ERR, -EACCES},      {IBV_WC_LOC_PROT_ERR, -EACCES},
    {IBV_WC_WR_FLUSH_ERR, -ECONNRESET}, {IBV_WC_REM_ABORT_ERR, -ECONNRESET},    {IBV_WC_LOC_LEN_ERR, -EIO},
    {IBV_WC_LOC_QP_OP_ERR, -EIO},       {IBV_WC_REM_OP_ERR, -EIO},              {IBV_WC_FATAL_ERR, -EIO},
};

/* Loop: alone, or with more behind it than one look at the completion queue takes. */
START_TEST(status_of_a_completion_is_an_errno)
{
    fake.status_next = (enum ibv_wc_status)statuses[_i / 2].status;
    ck_assert_int_eq(send_next(&client), 0); /* nobody asked for its completion */
    if (_i % 2)
        flood(&client);
    fake_run(-1u);
    ck_assert_int_eq(poll_end(&client), statuses[_i / 2].error);
    ck_assert_int_eq(poll_end(&server), 0);
    ck_assert_uint_eq(server.got, 0);
}
END_TEST

START_TEST(completion_of_nothing_is_an_error)
{
    const uint64_t strange[] = {3, 12345, UINT32_MAX, 1ull << 31, 1ull << 32, (1ull << 40) + 1};
    for (int n = 0; n < 3; n++) ck_assert_int_eq(send_next(&client), 0);
    fake_complete(client.ep.cq, (struct ibv_wc){.wr_id = strange[_i], .opcode = IBV_WC_SEND});
    ck_assert_int_eq(poll_end(&client), -EIO);
}
END_TEST

/* A message that eg_rdma_send would not make. */
static void raw_send(struct head head, uint32_t bytes)
{
    struct ibv_sge sge = {(uintptr_t)client.ep.send_mem, bytes, client.ep.send_mr->lkey};
    struct ibv_send_wr wr = {.sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND}, *bad;
    memcpy(client.ep.send_mem, &head, sizeof head);
    ck_assert_int_eq(fake_verbs.post_send(client.ep.id->qp, &wr, &bad), 0);
    fake_run(-1u);
}

static const struct {
    const char *what;
    struct head head;
    uint32_t bytes;
    int error;
} malformed[] = {
    {"nothing", {0, 0, 0}, 0, -EPROTO},
    {"shorter than a header", {0, 1, 0}, 7, -EPROTO},
    {"no data", {0, 1, 0}, 8, -EPROTO},
    {"length too small", {0, 1, 7}, 16, -EPROTO},
    {"length too large", {0, 1, 9}, 16, -EPROTO},
    {"length huge", {0, 1, -8u}, 16, -EPROTO},
    {"kind zero", {0, 0, 8}, 16, -EPROTO},
    {"kind unknown", {0, 3, 8}, 16, -EPROTO},
    {"credits with data", {0, 2, 8}, 16, -EPROTO},
    {"a credit too many", {1, 1, 8}, 16, -EPROTO},
    {"credits too many", {0xffff, 2, 0}, 8, -EPROTO},
    {"longer than a buffer", {0, 1, EG_RDMA_PAYLOAD_BYTES + 1}, EG_RDMA_MSG_BYTES + 1, -EIO},
};

START_TEST(malformed_message_ends_the_endpoint)
{
    only_bytes = 8;
    for (uint32_t turn = 0; turn < EG_RDMA_WINDOW + 1; turn++) { /* one more than there are buffers to lose */
        for (uint32_t k = 0; k <= turn % 2; k++) must(!send_next(&client), "no room");
        fake_run(-1u);
        raw_send(malformed[_i].head, malformed[_i].bytes);
        raw_send((struct head){0, 1, 8}, 16);
        int rc = poll_end(&server);
        must(rc == malformed[_i].error && server.got == client.sent, "%s: %d, %u messages", malformed[_i].what, rc, server.got);
        close_pair(&client, &server);
        check_buffers();
        must(!open_pair(&client, &server), "open");
    }
}
END_TEST

/* The second endpoint's receive buffers are not for the first one's peer. */
START_TEST(peer_that_overruns_its_window_ends_the_endpoint)
{
    struct end a, b;
    ck_assert_int_eq(open_pair(&a, &b), 0);
    server.ep.on_message = NULL;
    for (uint32_t k = 0; k < EG_RDMA_WINDOW + 1; k++) raw_send((struct head){0, 1, 8}, 16);
    ck_assert_int_eq(poll_end(&server), -EPROTO);
    ck_assert_int_eq(poll_end(&b), 0);
    close_pair(&a, &b);
}
END_TEST

/* --- every call into the device fails once ----------------------------------------------------------------------------- */

/* Messages both ways beyond the window, transfers beyond the send queue, a keep-alive. Returns: the first error reported, or 0:
 * then all of it was right. */
static int exchange(void)
{
    enum { MESSAGES = 40, HALF = 150, BYTES = 256 };
    struct end *end[2] = {&client, &server};
    uint32_t n_done = 0;
    int rc = 0;
    memset(remote, 0, sizeof remote);
    for (uint32_t k = 0; k < 2 * HALF; k++) {
        submit(k, k < HALF ? EG_IO_WRITE : EG_IO_READ, mr->rkey, IOVA + k % HALF * BYTES, BYTES);
        memcpy(io[k].buf, data_of(k, k), BYTES);
    }
    for (int turn = 0; n_done < 2 * HALF || client.got < MESSAGES || server.got < MESSAGES; turn++) {
        must(turn < 1000, "it hangs");
        for (int k = 0; k < 2; k++) {
            for (rc = 0; end[k]->sent < MESSAGES && !rc;) rc = send_next(end[k]);
            if (rc && rc != -EAGAIN)
                return rc;
            struct eg_io_queue done = {NULL, NULL};
            rc = eg_rdma_poll(&end[k]->ep, &done);
            for (struct eg_io *d; (d = eg_io_pop(&done)); n_done++)
                must(d == &io[n_done] && d->result == 0 && !memcmp(d->buf, data_of(n_done % HALF, n_done % HALF), BYTES),
                     "transfer %u differs", n_done);
            if (rc < 0 || (rc = eg_rdma_arm(&end[k]->ep)))
                return rc;
        }
        fake_run(64);
    }
    for (int turn = 0; turn < 4; turn++) {
        fake_run(-1u);
        for (int k = 0; k < 2; k++)
            if ((rc = turn == 2 ? eg_rdma_keepalive(&end[k]->ep) : poll_end(end[k])))
                return rc;
    }
    return 0;
}

/* Returns: whether there was a call with this number. */
static bool life(uint32_t fail_at)
{
    fake_fail_at(fail_at);
    int rc = open_domains();
    if (!rc)
        rc = open_pair(&client, &server);
    if (!rc)
        rc = exchange();
    const char *failed = fake.failed;
    bool other_way = !failed || !strcmp(failed, "set_option") || !strcmp(failed, "create_qp");
    int want = other_way ? 0 : strcmp(failed, "poll_cq") ? -FAKE_ERRNO : -EIO;
    must(rc == want, "call %u, %s, failed: %d", fail_at, failed, rc);
    close_pair(&client, &server);
    failed = fake.failed;
    if (failed && mr) { /* who comes next has nothing to suffer */
        must(!open_pair(&client, &server) && !exchange(), "after call %u, %s, had failed", fail_at, failed);
        close_pair(&client, &server);
        check_buffers();
        must(domain[0].n_chunks == 1 && domain[1].n_chunks == 1, "call %u, %s: chunks are lost", fail_at, failed);
    }
    close_domains();
    return fake.failed;
}

START_TEST(any_call_may_fail)
{
    uint32_t n = 1;
    close_pair(&client, &server);
    close_domains();
    while (life(n)) n++;
    ck_assert_uint_gt(n, 300);
    fake_fail_at(0);
    reopen();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("proto_rdma");
    TCase *tc = unit_case(suite, "rdma", 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, every_size_arrives, 0, COUNT(inlines));
    tcase_add_loop_test(tc, both_directions_at_full_blast, 0, COUNT(pace));
    tcase_add_test(tc, both_out_of_credits_go_on);
    tcase_add_test(tc, flood_on_one_endpoint_leaves_the_others_theirs);
    tcase_add_loop_test(tc, closing_loses_no_receive_buffer, 0, 2);
    tcase_add_test(tc, full_receive_queue_refuses_endpoints);
    tcase_add_test(tc, hello_is_checked);
    tcase_add_test(tc, connection_keeps_to_both_devices);
    tcase_add_loop_test(tc, transfers_match_memory, 0, COUNT(flow));
    tcase_add_test(tc, batch_needs_one_doorbell);
    tcase_add_test(tc, buffer_outside_the_areas_is_refused);
    tcase_add_loop_test(tc, refused_transfer_ends_the_endpoint, 0, COUNT(refused));
    tcase_add_test(tc, arm_gives_one_event);
    tcase_add_loop_test(tc, keepalive_notices_a_dead_peer, 0, 4);
    tcase_add_test(tc, keepalive_waits_for_room);
    tcase_add_test(tc, dead_peer_completes_nothing);
    tcase_add_loop_test(tc, status_of_a_completion_is_an_errno, 0, 2 * COUNT(statuses));
    tcase_add_loop_test(tc, completion_of_nothing_is_an_error, 0, 6);
    tcase_add_loop_test(tc, malformed_message_ends_the_endpoint, 0, COUNT(malformed));
    tcase_add_test(tc, peer_that_overruns_its_window_ends_the_endpoint);
    tcase_add_test(tc, any_call_may_fail);
    return unit_run(suite);
}
