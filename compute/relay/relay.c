/* relay.c - connections over RDMA, devices, and when to look at what. */
#include "compute/relay/relay.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "proto/eg_load.h"
#include "proto/eg_rdma_listen.h"

#define RESOLVE_TIMEOUT_MS 5000
#define DOMAIN_LINKS 512u /* of one receive queue */
#define EVENTS_PER_TURN 64
#define ACCEPTS_PER_TURN 32
#define KEEPALIVE_S 10    /* how often each peer's machine is asked for a sign of life */
#define SPIN_NS 60000u    /* about what it takes to be woken */
#define HOT_NS 2000000u   /* who moved something within that time is looked at, too: answers come on other streams than their questions */
#define RUN_NS 1000000u   /* then the event loop has a turn */
#define LOAD_NS 5000000u  /* how often the machine's load is looked at */

struct domain {
    LIST_ENTRY(domain) entry;
    struct eg_rdma_domain rdma;
};

struct egr_device {
    LIST_ENTRY(egr_device) entry;
    struct egr_relay *relay;
    struct ibv_context *context; /* librdmacm's */
    struct ibv_comp_channel *channel;
    struct event *completions;
    LIST_HEAD(, domain) domains; /* kept, once there are */
};

/* eg_spin.h's clock. */
uint64_t eg_sys_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- turns --------------------------------------------------------------------------------------------------------------- */

/* How long to spin: not at all unless a processor is idle besides the one that we use. */
static uint64_t spin_ns(struct egr_relay *relay)
{
    uint64_t now_ns = eg_sys_now_ns();
    if (now_ns - relay->load_ns >= LOAD_NS) {
        uint32_t running = eg_load_running(relay->load_fd);
        relay->load_ns = now_ns;
        relay->spin_ns = running && running < (uint32_t)relay->processors ? SPIN_NS : 0;
    }
    return relay->spin_ns;
}

static bool turn_all(struct egr_relay *relay)
{
    struct egr_bridge *b;
    bool moved = false;
    TAILQ_FOREACH (b, &relay->hot, hot_entry) moved |= egr_bridge_turn(b);
    return moved;
}

/* Asks the devices to wake us, then looks once more, for what came before they knew. */
static bool arm_all(struct egr_relay *relay)
{
    struct egr_bridge *b;
    TAILQ_FOREACH (b, &relay->hot, hot_entry)
        if (!b->armed && b->ep.domain) b->armed = !eg_rdma_arm(&b->ep);
    return turn_all(relay);
}

static void cool_down(struct egr_relay *relay)
{
    struct egr_bridge *b, *next;
    uint64_t now_ns = eg_sys_now_ns();
    for (b = TAILQ_FIRST(&relay->hot); b; b = next) {
        next = TAILQ_NEXT(b, hot_entry);
        if (b->state != EGR_DEAD && now_ns - b->moved_ns < HOT_NS) continue;
        TAILQ_REMOVE(&relay->hot, b, hot_entry);
        b->hot = false;
    }
}

void egr_relay_run(struct egr_relay *relay)
{
    uint64_t begun_ns = eg_sys_now_ns();
    bool more = true;
    while (more) {
        relay->spin.begun_ns = 0;
        do {
            if (turn_all(relay)) relay->spin.begun_ns = 0;
            more = eg_sys_now_ns() - begun_ns < RUN_NS;
        } while (more && eg_spin_turn(&relay->spin, spin_ns(relay)));
        more = arm_all(relay) && more;
    }
    cool_down(relay);
    egr_relay_settle(relay);
}

void egr_relay_settle(struct egr_relay *relay)
{
    struct egr_bridge *b, *next;
    for (b = LIST_FIRST(&relay->bridges); b; b = next) {
        next = LIST_NEXT(b, entry);
        if (b->state == EGR_DEAD) egr_bridge_free(b);
    }
    if (relay->ending && !relay->n_bridges) event_base_loopexit(relay->base, NULL);
}

static void on_completions(evutil_socket_t fd, short what, void *arg)
{
    struct egr_device *device = arg;
    const struct eg_verbs *verbs = device->relay->verbs;
    struct ibv_cq *cq;
    void *context;
    (void)fd;
    (void)what;
    for (int i = 0; i < EVENTS_PER_TURN && !verbs->get_cq_event(device->channel, &cq, &context); i++) {
        struct egr_bridge *b = ((struct eg_rdma_ep *)context)->user;
        verbs->ack_cq_events(cq, 1); /* a queue with unacknowledged events cannot be destroyed */
        b->armed = false;
        egr_bridge_heat(b);
    }
    egr_relay_run(device->relay);
}

/* A machine that died says nothing: the device finds out when it gets no answer. */
static void on_keepalive(evutil_socket_t fd, short what, void *arg)
{
    struct egr_relay *relay = arg;
    struct egr_bridge *b;
    (void)fd;
    (void)what;
    LIST_FOREACH (b, &relay->bridges, entry) {
        if (b->state != EGR_OPEN) continue;
        (void)!eg_rdma_keepalive(&b->ep); /* which the next turn reports */
        b->armed = false; /* an event that was lost would be waited for in vain */
        egr_bridge_heat(b);
    }
    egr_relay_run(relay);
}

/* --- devices ------------------------------------------------------------------------------------------------------------- */

static void device_free(struct egr_device *device)
{
    struct domain *domain;
    LIST_REMOVE(device, entry);
    while ((domain = LIST_FIRST(&device->domains))) {
        LIST_REMOVE(domain, entry);
        eg_rdma_domain_close(&domain->rdma);
        free(domain);
    }
    if (device->completions) event_free(device->completions);
    if (device->channel) device->relay->verbs->destroy_comp_channel(device->channel);
    free(device);
}

static struct egr_device *device_get(struct egr_relay *relay, struct ibv_context *context)
{
    struct egr_device *device;
    LIST_FOREACH (device, &relay->devices, entry)
        if (device->context == context) return device;
    device = calloc(1, sizeof *device);
    if (!device) return NULL;
    device->relay = relay;
    device->context = context;
    LIST_INSERT_HEAD(&relay->devices, device, entry);
    device->channel = relay->verbs->create_comp_channel(context);
    if (device->channel && !fcntl(device->channel->fd, F_SETFL, fcntl(device->channel->fd, F_GETFL) | O_NONBLOCK))
        device->completions = event_new(relay->base, device->channel->fd, EV_READ | EV_PERSIST, on_completions, device);
    if (device->completions && !event_add(device->completions, NULL)) return device;
    device_free(device);
    return NULL;
}

static struct domain *domain_get(struct egr_device *device)
{
    struct domain *domain;
    LIST_FOREACH (domain, &device->domains, entry)
        if (domain->rdma.n_endpoints < DOMAIN_LINKS) return domain;
    domain = calloc(1, sizeof *domain);
    if (domain && eg_rdma_domain_open(&domain->rdma, device->relay->verbs, device->context, DOMAIN_LINKS)) {
        free(domain);
        domain = NULL;
    }
    if (domain) LIST_INSERT_HEAD(&device->domains, domain, entry);
    return domain;
}

/* Owns: the id is the endpoint's from a success on. */
static bool endpoint_open(struct egr_bridge *b, struct rdma_cm_id *id)
{
    struct egr_relay *relay = b->relay;
    struct egr_device *device = device_get(relay, id->verbs);
    struct domain *domain = device ? domain_get(device) : NULL;
    int r = domain ? eg_rdma_open(&b->ep, &domain->rdma, id, device->channel) : -ENOMEM;
    if (r == -ENOMEM && !relay->said_memory) {
        relay->said_memory = true;
        fprintf(stderr, "endgame-relay: note: no more memory can be locked for RDMA, 256 KiB for each stream: raise it with ulimit -l or "
                        "LimitMEMLOCK=\n");
    }
    b->armed = !r; /* by eg_rdma_open */
    return !r;
}

/* --- connections: at home -------------------------------------------------------------------------------------------------- */

static const struct eg_rdma_hello our_hello = EG_RDMA_HELLO;

static void connect_begin(struct egr_bridge *b)
{
    const struct eg_verbs *verbs = b->relay->verbs;
    if (verbs->create_id(b->relay->channel, &b->id, b, RDMA_PS_TCP)) b->id = NULL;
    if (!b->id || verbs->resolve_addr(b->id, NULL, (struct sockaddr *)&b->relay->to.sa, RESOLVE_TIMEOUT_MS)) egr_bridge_lost(b);
}

static void connect_go_on(struct egr_bridge *b, enum rdma_cm_event_type type)
{
    const struct eg_verbs *verbs = b->relay->verbs;
    bool good = false;
    if (type == RDMA_CM_EVENT_ADDR_RESOLVED) {
        good = b->id->verbs && !verbs->resolve_route(b->id, RESOLVE_TIMEOUT_MS);
    } else if (endpoint_open(b, b->id)) {
        struct rdma_conn_param param = eg_rdma_conn_param(&b->ep, &our_hello, NULL);
        b->id = NULL;
        good = !verbs->connect(b->ep.id, &param);
    }
    if (!good) egr_bridge_lost(b);
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
    struct egr_relay *relay = arg;
    (void)fd;
    (void)what;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        bool local;
        int got = eg_listener_accept(&relay->at, &local);
        if (got == -EACCES || got == -ECONNABORTED) continue;
        if (got < 0) break;
        struct egr_bridge *b = egr_bridge_new(relay, got);
        if (b) connect_begin(b);
    }
    egr_relay_settle(relay);
}

/* --- connections: on a node ------------------------------------------------------------------------------------------------ */

static bool same_host(const struct rdma_cm_id *id)
{
    const struct rdma_addr *a = &id->route.addr;
    if (a->src_addr.sa_family != a->dst_addr.sa_family) return false;
    if (a->src_addr.sa_family == AF_INET) return a->src_sin.sin_addr.s_addr == a->dst_sin.sin_addr.s_addr;
    return a->src_addr.sa_family == AF_INET6 && !memcmp(&a->src_sin6.sin6_addr, &a->dst_sin6.sin6_addr, sizeof(struct in6_addr));
}

/* The daemon's end of a socket pair, and whether the peer is on this machine. */
static bool hand(struct egr_relay *relay, int fd, bool local)
{
    char word = local ? 'l' : 'r';
    struct iovec iov = { &word, 1 };
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof fd)];
    } control = { .head = { .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    return sendmsg(relay->hand_to, &message, MSG_NOSIGNAL) == 1;
}

/* Returns: false: it is to be rejected. */
static bool request_accept(struct egr_relay *relay, struct rdma_cm_id *id, const struct rdma_conn_param *request)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) return false;
    struct egr_bridge *b = egr_bridge_new(relay, pair[0]);
    bool good = b && endpoint_open(b, id);
    if (good) {
        struct rdma_conn_param param = eg_rdma_conn_param(&b->ep, &our_hello, request);
        id->context = b;
        if (!relay->verbs->accept(id, &param) && hand(relay, pair[1], same_host(id))) egr_bridge_opened(b);
        else egr_bridge_lost(b); /* the id with it: that is a rejection */
    } else if (b) {
        egr_bridge_lost(b);
    }
    close(pair[1]);
    return good;
}

static void on_request(struct egr_relay *relay, struct rdma_cm_id *id, int check, const struct rdma_conn_param *request)
{
    struct eg_rdma_hello answer = EG_RDMA_HELLO;
    if (!check && request_accept(relay, id, request)) return;
    answer.status = check ? EG_STATUS_VERSION : EG_STATUS_INTERNAL;
    if (check == -EPROTO) relay->verbs->reject(id, NULL, 0);
    else relay->verbs->reject(id, &answer, sizeof answer);
    relay->verbs->destroy_id(id);
}

/* The compute daemon has ended. */
static void on_daemon(evutil_socket_t fd, short what, void *arg)
{
    struct egr_relay *relay = arg;
    (void)fd;
    (void)what;
    event_base_loopbreak(relay->base);
}

/* --- what the connection manager says ---------------------------------------------------------------------------------------- */

static void on_removal(struct egr_relay *relay)
{
    fprintf(stderr, "endgame-relay: note: the device of %s is gone: start the node anew when it is back\n", relay->listener_text);
    relay->verbs->destroy_id(relay->listener);
    relay->listener = NULL;
}

static void on_cm(evutil_socket_t fd, short what, void *arg)
{
    struct egr_relay *relay = arg;
    struct rdma_cm_event *event;
    (void)fd;
    (void)what;
    for (int i = 0; i < EVENTS_PER_TURN && !relay->verbs->get_cm_event(relay->channel, &event); i++) {
        enum rdma_cm_event_type type = event->event;
        struct rdma_cm_id *id = event->id;
        struct egr_bridge *b = id->context;
        struct rdma_conn_param param = event->param.conn;
        struct eg_rdma_hello hello;
        int check = eg_rdma_hello_check(param.private_data, param.private_data_len, &hello);
        /* An id with unacknowledged events cannot be destroyed. */
        relay->verbs->ack_cm_event(event);
        if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
            on_request(relay, id, check, &param);
        } else if (type == RDMA_CM_EVENT_DEVICE_REMOVAL && id == relay->listener) {
            on_removal(relay);
        } else if (!b || type == RDMA_CM_EVENT_ADDR_CHANGE) {
            continue;
        } else if (b->state == EGR_CONNECTING && (type == RDMA_CM_EVENT_ADDR_RESOLVED || type == RDMA_CM_EVENT_ROUTE_RESOLVED)) {
            connect_go_on(b, type);
        } else if (type == RDMA_CM_EVENT_ESTABLISHED) {
            if (b->state != EGR_CONNECTING) continue; /* the node's side is open already */
            if (check) egr_bridge_lost(b);
            else egr_bridge_opened(b);
        } else {
            egr_bridge_lost(b);
        }
    }
    egr_relay_run(relay);
}

/* --- start and end ----------------------------------------------------------------------------------------------------------- */

static void raise_limit(int resource)
{
    struct rlimit limit;
    if (getrlimit(resource, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(resource, &limit);
}

int egr_relay_init(struct egr_relay *relay, struct event_base *base, const struct eg_addr *to, int hand_to)
{
    *relay = (struct egr_relay){ .base = base, .verbs = &eg_verbs_real, .to = *to, .at = { .fd = -1 }, .hand_to = hand_to };
    TAILQ_INIT(&relay->hot);
    cpu_set_t processors;
    relay->load_fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    if (!sched_getaffinity(0, sizeof processors, &processors)) relay->processors = CPU_COUNT(&processors);
    raise_limit(RLIMIT_NOFILE);
    raise_limit(RLIMIT_MEMLOCK);
    if (hand_to < 0) return 0;
    relay->daemon = event_new(base, hand_to, EV_READ | EV_PERSIST, on_daemon, relay);
    return relay->daemon && !event_add(relay->daemon, NULL) ? 0 : -ENOMEM;
}

int egr_relay_listen(struct egr_relay *relay, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
{
    struct timeval tv = { .tv_sec = KEEPALIVE_S };
    int r = eg_rdma_listen_channel(relay->verbs, addr, &relay->channel, ret_why, why_bytes);
    if (!r && relay->hand_to >= 0) {
        r = eg_rdma_listen(relay->verbs, relay->channel, addr, &relay->listener, ret_text, text_bytes, ret_why, why_bytes);
        snprintf(relay->listener_text, sizeof relay->listener_text, "%s", r ? "" : ret_text);
    } else if (!r) {
        r = eg_listener_open(addr, &relay->at, ret_text, text_bytes, ret_why, why_bytes);
        relay->acceptable = r ? NULL : event_new(relay->base, relay->at.fd, EV_READ | EV_PERSIST, on_acceptable, relay);
    }
    if (r) return r;
    relay->cm = event_new(relay->base, relay->channel->fd, EV_READ | EV_PERSIST, on_cm, relay);
    relay->keepalive = event_new(relay->base, -1, EV_PERSIST, on_keepalive, relay);
    if (!relay->cm || !relay->keepalive || event_add(relay->cm, NULL) || event_add(relay->keepalive, &tv) ||
        (relay->hand_to < 0 && (!relay->acceptable || event_add(relay->acceptable, NULL))))
        return eg_listener_explain(addr, ENOMEM, ret_why, why_bytes);
    return 0;
}

void egr_relay_done(struct egr_relay *relay)
{
    struct egr_bridge *b;
    struct egr_device *device;
    while ((b = LIST_FIRST(&relay->bridges))) egr_bridge_free(b);
    while ((device = LIST_FIRST(&relay->devices))) device_free(device);
    if (relay->acceptable) event_free(relay->acceptable);
    if (relay->cm) event_free(relay->cm);
    if (relay->keepalive) event_free(relay->keepalive);
    if (relay->daemon) event_free(relay->daemon);
    eg_listener_close(&relay->at);
    if (relay->listener) relay->verbs->destroy_id(relay->listener);
    if (relay->channel) relay->verbs->destroy_event_channel(relay->channel);
    if (relay->load_fd >= 0) close(relay->load_fd);
}
