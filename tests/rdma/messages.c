/* messages.c - torture of the message channel (proto/eg_rdma.h) over a real device: both sides send messages of random sizes in bursts,
 * both at once, now and then do not poll for a while, and check every byte and the order of what comes, while the connecting
 * side reads and writes the other's memory. Both must run out of credits many times, and never see the receive queue run dry.
 *
 *   messages ADDRESS [SEED]             two processes, over the device that has the address
 *   messages listen ADDRESS [SEED]      one of the two, for two machines (port 7472)
 *   messages connect ADDRESS [SEED]
 * Exit status 0 and a line of counts on each side, or 1 and what is wrong. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "proto/eg_rdma.h"

#define PORT 7472
#define MESSAGES 6000u
#define PAUSES 40u
#define SHARED_BYTES (1u << 20)
#define LIMIT_S 100

static const struct eg_verbs *const v = &eg_verbs_real;
static const char *side;
static uint64_t state, peer_state; /* what I send, what I must get: both sides know both seeds */
static uint32_t received, sent;

/* The accepting side sends this first: where its memory is. */
struct invitation {
    uint64_t magic, iova;
    uint32_t key, bytes;
};

__attribute__((noreturn)) static void fail(const char *what, long error)
{
    printf("messages (%s): FAILED: %s: %s (%u sent, %u received)\n", side, what, error < 0 ? strerror((int)-error) : "wrong", sent, received);
    exit(1);
}

static long must(long rc, const char *what)
{
    if (rc < 0)
        fail(what, rc == -1 && errno ? -errno : rc);
    return rc;
}

static uint64_t next(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* The next message of a stream. */
static uint32_t compose(uint64_t *s, uint8_t *buf)
{
    uint64_t r = next(s);
    uint32_t len = 1 + (uint32_t)(r % 3 == 0 ? r >> 8 & 15 : r % 3 == 1 ? (r >> 8) % 200 : (r >> 8) % EG_RDMA_PAYLOAD_BYTES);
    uint64_t word = r;
    for (uint32_t i = 0; i < len; i++)
        buf[i] = (uint8_t)((word += 0x9e3779b97f4a7c15ull) >> 56);
    return len;
}

static struct invitation invited;

static void on_message(struct eg_rdma_ep *ep, const void *data, uint32_t len)
{
    uint8_t want[EG_RDMA_PAYLOAD_BYTES];
    (void)ep;
    if (!invited.magic && !strcmp(side, "connect")) {
        if (len != sizeof invited)
            fail("the invitation", 0);
        memcpy(&invited, data, sizeof invited);
        return;
    }
    if (compose(&peer_state, want) != len || memcmp(want, data, len))
        fail("a message's content or order", 0);
    received++;
}

static struct rdma_cm_event *event_wait(struct rdma_event_channel *channel, enum rdma_cm_event_type want)
{
    struct rdma_cm_event *event;
    must(v->get_cm_event(channel, &event), "cm event");
    if (event->event != want) {
        printf("messages (%s): FAILED: event %d, status %d instead of %d\n", side, event->event, event->status, want);
        exit(1);
    }
    return event;
}

static struct eg_rdma_hello hello = EG_RDMA_HELLO;

static void connect_to(struct sockaddr_in *sa, struct rdma_event_channel *channel, struct eg_rdma_domain *d, struct eg_rdma_ep *ep)
{
    for (int try = 0;; try++) {
        struct rdma_cm_id *id;
        struct rdma_cm_event *event;
        must(v->create_id(channel, &id, NULL, RDMA_PS_TCP), "create id");
        must(v->resolve_addr(id, NULL, (struct sockaddr *)sa, 5000), "resolve address");
        v->ack_cm_event(event_wait(channel, RDMA_CM_EVENT_ADDR_RESOLVED));
        must(v->resolve_route(id, 5000), "resolve route");
        v->ack_cm_event(event_wait(channel, RDMA_CM_EVENT_ROUTE_RESOLVED));
        if (!d->verbs)
            must(eg_rdma_domain_open(d, v, id->verbs, 1), "domain");
        must(eg_rdma_open(ep, d, id, NULL), "endpoint");
        struct rdma_conn_param param = eg_rdma_conn_param(ep, &hello, NULL);
        must(v->connect(id, &param), "connect");
        must(v->get_cm_event(channel, &event), "cm event");
        enum rdma_cm_event_type type = event->event;
        v->ack_cm_event(event);
        if (type == RDMA_CM_EVENT_ESTABLISHED)
            return;
        if (type != RDMA_CM_EVENT_REJECTED || try == 50)
            fail("the other side does not listen", -ECONNREFUSED);
        eg_rdma_close(ep);
        usleep(200000);
    }
}

static void accept_from(struct sockaddr_in *sa, struct rdma_event_channel *channel, struct eg_rdma_domain *d, struct eg_rdma_ep *ep)
{
    struct rdma_cm_id *listener;
    must(v->create_id(channel, &listener, NULL, RDMA_PS_TCP), "create id");
    must(v->bind_addr(listener, (struct sockaddr *)sa), "bind");
    must(v->listen(listener, 1), "listen");
    struct rdma_cm_event *event = event_wait(channel, RDMA_CM_EVENT_CONNECT_REQUEST);
    struct rdma_cm_id *id = event->id;
    must(eg_rdma_domain_open(d, v, id->verbs, 1), "domain");
    must(eg_rdma_open(ep, d, id, NULL), "endpoint");
    struct rdma_conn_param param = eg_rdma_conn_param(ep, &hello, &event->param.conn);
    v->ack_cm_event(event);
    must(v->accept(id, &param), "accept");
    v->ack_cm_event(event_wait(channel, RDMA_CM_EVENT_ESTABLISHED));
}

/* The connecting side's transfers: writes of words that say where they are, read back later. */
static void transfers(struct eg_rdma_ep *ep, uint8_t *area, struct eg_io_queue *done, uint64_t *random, uint32_t *n_done)
{
    static struct eg_io io;
    static uint64_t stamp;
    static bool under_way, check;
    if (under_way) {
        if (!eg_io_pop(done))
            return;
        under_way = false;
        if (check)
            for (uint32_t i = 0; i < io.len_bytes; i += 8)
                if (*(uint64_t *)(void *)(area + i) != (stamp ^ (io.offset + i)))
                    fail("what was read back", 0);
        ++*n_done;
        check = !check;
    }
    if (!check) {
        uint32_t pages = SHARED_BYTES / EG_PAGE_BYTES, from = (uint32_t)(next(random) % pages);
        uint32_t n = 1 + (uint32_t)(next(random) % (pages - from < 32 ? pages - from : 32));
        stamp = next(random);
        io = (struct eg_io){.offset = invited.iova + (uint64_t)from * EG_PAGE_BYTES, .buf = area, .len_bytes = n * EG_PAGE_BYTES, .key = invited.key};
        for (uint32_t i = 0; i < io.len_bytes; i += 8)
            *(uint64_t *)(void *)(area + i) = stamp ^ (io.offset + i);
    } else {
        memset(area, 0x5a, io.len_bytes);
    }
    io.op = check ? EG_IO_READ : EG_IO_WRITE;
    must(eg_rdma_submit(ep, &io), "submit");
    under_way = true;
}

static int run(const char *name, struct sockaddr_in *sa, uint64_t seed)
{
    static struct eg_rdma_ep ep = {.on_message = on_message};
    struct eg_rdma_domain d = {0};
    struct ibv_mr *mr = NULL;
    uint64_t random = seed ^ 77;
    uint32_t n_transfers = 0;
    side = name;
    bool connecting = !strcmp(name, "connect");
    state = connecting ? seed : ~seed;
    peer_state = ~state;
    struct rdma_event_channel *channel = v->create_event_channel();
    uint8_t *area = aligned_alloc(EG_PAGE_BYTES, SHARED_BYTES);
    if (!channel || !area)
        fail("start", -errno);
    memset(area, 0, SHARED_BYTES);
    (connecting ? connect_to : accept_from)(sa, channel, &d, &ep);
    if (connecting) {
        must(eg_rdma_domain_area(&d, area, SHARED_BYTES), "area");
    } else {
        struct invitation invitation = {.magic = EG_RDMA_MAGIC, .iova = 1ull << 40, .bytes = SHARED_BYTES};
        mr = v->reg_mr(d.pd, area, SHARED_BYTES, invitation.iova, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
        if (!mr)
            fail("register", -errno);
        invitation.key = mr->rkey;
        must(eg_rdma_send(&ep, &invitation, sizeof invitation), "invitation");
    }

    uint8_t message[EG_RDMA_PAYLOAD_BYTES];
    uint32_t len = compose(&state, message), pauses = 0;
    time_t end = time(NULL) + LIMIT_S;
    while ((sent < MESSAGES || received < MESSAGES) && time(NULL) < end) {
        struct eg_io_queue done = {NULL, NULL};
        if (pauses < PAUSES && next(&random) % 2000 == 0) {
            usleep((useconds_t)(next(&random) % 20000)); /* the peer runs out of credits */
            pauses++;
        }
        must(eg_rdma_poll(&ep, &done), "poll");
        if (connecting && invited.magic)
            transfers(&ep, area, &done, &random, &n_transfers);
        uint32_t burst = 1u << next(&random) % 8;
        while (sent < MESSAGES && burst--) {
            int rc = eg_rdma_send(&ep, message, len);
            if (rc == -EAGAIN)
                break;
            must(rc, "send");
            sent++;
            len = compose(&state, message);
        }
    }
    if (sent < MESSAGES || received < MESSAGES)
        fail("not finished in time", -ETIMEDOUT);
    if (!ep.credit_waits || (connecting && !n_transfers))
        fail("it was too easy", 0);
    /* The other side may still wait for credits or an acknowledgement. */
    for (int i = 0; i < 300; i++) {
        struct eg_io_queue done = {NULL, NULL};
        if (eg_rdma_poll(&ep, &done) < 0)
            break;
        usleep(1000);
    }
    printf("messages (%s): passed: %u sent, %u received, %llu waits for credit, %llu credit messages, %u transfers\n", side, sent, received,
           (unsigned long long)ep.credit_waits, (unsigned long long)ep.credit_messages, n_transfers);
    return 0;
}

int main(int argc, char **argv)
{
    int at = argc > 1 && (!strcmp(argv[1], "listen") || !strcmp(argv[1], "connect")) ? 2 : 1;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    if (argc <= at || !inet_pton(AF_INET, argv[at], &sa.sin_addr)) {
        fprintf(stderr, "usage: messages [listen|connect] ADDRESS [SEED]\n");
        return 2;
    }
    uint64_t seed = argc > at + 1 ? strtoull(argv[at + 1], NULL, 0) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (at == 2)
        return run(argv[1], &sa, seed);
    pid_t child = fork();
    if (child == 0)
        return run("connect", &sa, seed);
    alarm(LIMIT_S + 20);
    int rc = run("listen", &sa, seed), status = 1;
    waitpid(child, &status, 0);
    return rc || status;
}
