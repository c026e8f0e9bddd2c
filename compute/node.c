#include "compute/node.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "compute/rdma.h"
#include "proto/eg_control_reply.h"
#include "proto/eg_listen.h"

#define ACCEPTS_PER_TURN 32
#define ACCEPT_PAUSE_MS 100
#define LINGER_S 1 /* for the peer to read the last answer and leave */
#define RETRY_MS 5 /* a stream waits for its worker's queue */
#define STATS_ROWS_BYTES (EG_CONTROL_MAX_BYTES - 4096u)
#define HOME_DIED_IDLE_S 10
#define HOME_DIED_INTERVAL_S 5
#define HOME_DIED_PROBES 3

struct egc_listener {
    LIST_ENTRY(egc_listener) link;
    struct egc_node *node;
    struct eg_listener at;
    pid_t relay; /* of an rdma: address, whose descriptor is the relay's; else 0 */
    char text[160];
    struct event *event, *resume;
};

/* A connection is read exactly as far as a message goes: what comes behind a hello is the worker's. */
enum state {
    MAGIC,   /* the first four bytes */
    HEAD,    /* of a control frame */
    PAYLOAD,
    HELLO,
    WAITING, /* a hello: for a worker */
    LAST     /* for the peer to leave */
};

struct egc_conn {
    LIST_ENTRY(egc_conn) link;
    struct egc_node *node;
    int fd;
    bool is_tcp, local;
    enum state state;
    struct event *read, *write, *deadline, *retry;
    size_t have, want; /* of in */
    union {
        uint32_t magic;
        struct eg_frame frame;
        struct eg_node_hello hello;
        uint8_t bytes[sizeof(struct eg_node_hello)];
    } in;
    uint8_t *payload;
    uint8_t *out;
    size_t out_at, out_bytes;
};

static void conn_free(struct egc_conn *conn)
{
    if (conn->read) event_free(conn->read);
    if (conn->write) event_free(conn->write);
    if (conn->deadline) event_free(conn->deadline);
    if (conn->retry) event_free(conn->retry);
    if (conn->fd >= 0) close(conn->fd);
    free(conn->payload);
    free(conn->out);
    conn->node->n_conns--;
    LIST_REMOVE(conn, link);
    free(conn);
}

static void set_deadline(struct egc_conn *conn, int seconds)
{
    struct timeval tv = { .tv_sec = seconds };
    evtimer_add(conn->deadline, &tv);
}

static void expect(struct egc_conn *conn, enum state state, size_t bytes)
{
    conn->state = state;
    conn->want = bytes;
}

/* Sends what it can; the rest later. Returns: false when the connection is gone. */
static bool flush(struct egc_conn *conn)
{
    while (conn->out_at < conn->out_bytes) {
        ssize_t n = send(conn->fd, conn->out + conn->out_at, conn->out_bytes - conn->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            event_del(conn->read);
            event_add(conn->write, NULL);
            return true;
        }
        if (n < 0) {
            conn_free(conn);
            return false;
        }
        conn->out_at += (size_t)n;
    }
    free(conn->out);
    conn->out = NULL;
    event_del(conn->write);
    event_add(conn->read, NULL);
    if (conn->state == LAST) (void)shutdown(conn->fd, SHUT_WR);
    return true;
}

/* Owns: out, from malloc; NULL: memory is short. */
static bool answer(struct egc_conn *conn, uint8_t *out, size_t bytes, bool last)
{
    if (!out) {
        conn_free(conn);
        return false;
    }
    conn->out = out;
    conn->out_at = 0;
    conn->out_bytes = bytes;
    conn->have = 0;
    if (last) conn->state = LAST;
    else expect(conn, HEAD, sizeof conn->in.frame);
    set_deadline(conn, last ? LINGER_S : EGC_HELLO_S);
    return flush(conn);
}

/* --- control ------------------------------------------------------------------------------------------------------------- */

static bool send_reply(struct egc_conn *conn, const Endgame__Reply *reply, bool last)
{
    size_t bytes = 0;
    uint8_t *out = eg_control_reply(reply, conn->in.frame.cookie, &bytes);
    return answer(conn, out, bytes, last);
}

__attribute__((format(printf, 4, 5))) static bool refuse(struct egc_conn *conn, enum eg_status status, bool last,
                                                         const char *format, ...)
{
    size_t bytes = 0;
    va_list ap;

    va_start(ap, format);
    uint8_t *out = eg_control_refusal(status, conn->in.frame.cookie, &bytes, format, ap);
    va_end(ap);
    return answer(conn, out, bytes, last);
}

static uint32_t slots_busy(const struct egc_node *node)
{
    uint32_t threads = egc_workers_threads(&node->workers);
    return threads < node->slots ? threads : node->slots;
}

static bool do_ping(struct egc_conn *conn)
{
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__PingReply body = ENDGAME__PING_REPLY__INIT;
    body.version = EG_WIRE_VERSION;
    body.draining = conn->node->draining;
    body.compute = true;
    reply.body_case = ENDGAME__REPLY__BODY_PING;
    reply.ping = &body;
    return send_reply(conn, &reply, false);
}

static bool do_node(struct egc_conn *conn)
{
    struct egc_node *node = conn->node;
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__NodeReply body = ENDGAME__NODE_REPLY__INIT;
    body.version = EG_THREADS_VERSION;
    body.slots = node->slots;
    body.slots_busy = slots_busy(node);
    body.memory_bytes = node->memory_bytes;
    body.page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
    body.draining = node->draining;
    body.kernel = node->kernel;
    body.boot_id = node->boot_id;
    if (node->has_vdso) body.vdso_sum = (ProtobufCBinaryData){ sizeof node->vdso_sum, node->vdso_sum };
    body.cpu = (ProtobufCBinaryData){ sizeof node->cpu, (uint8_t *)&node->cpu };
    reply.body_case = ENDGAME__REPLY__BODY_NODE;
    reply.node = &body;
    return send_reply(conn, &reply, false);
}

/* For people: which workers belong to one run, without giving its token away. */
static uint64_t token_hash(const uint8_t *token)
{
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < EG_TOKEN_BYTES; i++) hash = (hash ^ token[i]) * 1099511628211u;
    return hash;
}

static bool do_stats(struct egc_conn *conn)
{
    struct egc_node *node = conn->node;
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__NodeStatsReply body = ENDGAME__NODE_STATS_REPLY__INIT;
    uint32_t room = egc_workers_count(&node->workers, EGC_BOUND), n = 0;
    Endgame__WorkerRow *rows = calloc(room + 1, sizeof *rows), **list = calloc(room + 1, sizeof *list);
    const struct egc_worker *worker;
    uint64_t now_ns = egc_now_ns();
    size_t bytes = 0;
    bool there;

    if (!rows || !list) {
        free(rows);
        free(list);
        return refuse(conn, EG_STATUS_INTERNAL, true, "the node lacks memory");
    }
    LIST_FOREACH (worker, &node->workers.list, link) {
        if (worker->state != EGC_BOUND) continue;
        Endgame__WorkerRow *row = &rows[n];
        endgame__worker_row__init(row);
        row->run = token_hash(worker->token);
        row->pid = (uint32_t)worker->pid;
        row->home_pid = worker->home_pid;
        row->streams = worker->streams;
        row->threads = worker->threads;
        row->age_s = (now_ns - worker->bound_ns) / 1000000000u;
        bytes += endgame__worker_row__get_packed_size(row) + 8;
        if (bytes > STATS_ROWS_BYTES) break;
        list[n++] = row;
    }
    body.version = (char *)EG_VERSION;
    body.uptime_s = (now_ns - node->started_ns) / 1000000000u;
    body.draining = node->draining;
    body.slots = node->slots;
    body.slots_busy = slots_busy(node);
    body.memory_bytes = node->memory_bytes;
    body.warm = egc_workers_count(&node->workers, EGC_WARM_WAITING);
    body.bad_frames = node->bad_frames;
    body.workers_total = node->workers.bound_total;
    body.n_workers = n;
    body.workers = list;
    reply.body_case = ENDGAME__REPLY__BODY_NODE_STATS;
    reply.node_stats = &body;
    there = send_reply(conn, &reply, false);
    free(rows);
    free(list);
    return there;
}

static bool do_drain(struct egc_conn *conn)
{
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    if (!conn->local) return refuse(conn, EG_STATUS_INVALID, false, "drain is only taken from the node's own machine");
    conn->node->draining = true;
    return send_reply(conn, &reply, true);
}

static bool handle(struct egc_conn *conn)
{
    Endgame__Request *req = endgame__request__unpack(NULL, conn->in.frame.len_bytes, conn->payload);
    bool there;

    free(conn->payload);
    conn->payload = NULL;
    if (!req || req->version != EG_WIRE_VERSION) {
        conn->node->bad_frames += !req;
        there = req ? refuse(conn, EG_STATUS_VERSION, true, "version %u here (endgame %s), version %u asked for",
                             EG_WIRE_VERSION, EG_VERSION, req->version)
                    : refuse(conn, EG_STATUS_INVALID, true, "the request cannot be read");
    } else if (req->body_case == ENDGAME__REQUEST__BODY_PING) {
        there = do_ping(conn);
    } else if (req->body_case == ENDGAME__REQUEST__BODY_NODE) {
        there = do_node(conn);
    } else if (req->body_case == ENDGAME__REQUEST__BODY_STATS) {
        there = do_stats(conn);
    } else if (req->body_case == ENDGAME__REQUEST__BODY_DRAIN) {
        there = do_drain(conn);
    } else {
        conn->node->bad_frames++;
        there = refuse(conn, EG_STATUS_INVALID, true, "this is a compute node: it lends no memory");
    }
    if (req) endgame__request__free_unpacked(req, NULL);
    return there;
}

/* --- streams ------------------------------------------------------------------------------------------------------------- */

static bool send_welcome(struct egc_conn *conn, enum eg_status status, const char *why)
{
    struct eg_node_welcome welcome = {
        .magic = EG_THREADS_MAGIC, .version = EG_THREADS_VERSION, .status = (uint16_t)status
    };
    uint8_t *out = malloc(sizeof welcome);
    strncpy(welcome.why, why, sizeof welcome.why - 1);
    if (out) memcpy(out, &welcome, sizeof welcome);
    return answer(conn, out, sizeof welcome, true);
}

/* Returns: false when the connection is gone: handed over, for the most part. */
static bool hand_over(struct egc_conn *conn)
{
    struct egc_node *node = conn->node;
    enum eg_status status = EG_STATUS_OK;
    char why[sizeof(((struct eg_node_welcome *)0)->why)];

    switch (egc_workers_hand(&node->workers, &conn->in.hello, conn->fd, !node->draining && !node->ending, &status, why,
                             sizeof why)) {
    case EGC_HANDED:
        conn_free(conn);
        return false;
    case EGC_WAIT: {
        struct timeval tv = { .tv_usec = RETRY_MS * 1000 };
        conn->state = WAITING;
        event_del(conn->read);
        evtimer_add(conn->retry, &tv);
        return true;
    }
    default:
        evtimer_del(conn->retry);
        return send_welcome(conn, status, why);
    }
}

static bool greet(struct egc_conn *conn)
{
    const struct eg_node_hello *hello = &conn->in.hello;
    if (hello->version != EG_THREADS_VERSION) {
        char why[56];
        snprintf(why, sizeof why, "version %u here, version %u asked for", EG_THREADS_VERSION, hello->version);
        return send_welcome(conn, EG_STATUS_VERSION, why);
    }
    if (hello->kind != EG_STREAM_COHERENCE && hello->kind != EG_STREAM_THREAD) {
        conn->node->bad_frames++;
        return send_welcome(conn, EG_STATUS_INVALID, "no such kind of stream");
    }
    if (conn->is_tcp) eg_listener_tune(conn->fd, HOME_DIED_IDLE_S, HOME_DIED_INTERVAL_S, HOME_DIED_PROBES);
    return hand_over(conn);
}

/* --- bytes --------------------------------------------------------------------------------------------------------------- */

static bool drop_bad(struct egc_conn *conn)
{
    conn->node->bad_frames++;
    conn_free(conn);
    return false;
}

/* What was wanted is there. Returns: false when the connection is gone. */
static bool advance(struct egc_conn *conn)
{
    const struct eg_frame *frame = &conn->in.frame;
    switch (conn->state) {
    case MAGIC:
        if (conn->in.magic == EG_WIRE_MAGIC) expect(conn, HEAD, sizeof *frame);
        else if (conn->in.magic == EG_THREADS_MAGIC) expect(conn, HELLO, sizeof conn->in.hello);
        else return drop_bad(conn);
        return true;
    case HEAD:
        if (frame->magic != EG_WIRE_MAGIC || frame->type != EG_FRAME_CONTROL || frame->flags ||
            frame->len_bytes > EG_CONTROL_MAX_BYTES)
            return drop_bad(conn);
        conn->have = 0;
        conn->payload = malloc(frame->len_bytes + 1);
        if (!conn->payload) return drop_bad(conn);
        if (!frame->len_bytes) return handle(conn);
        expect(conn, PAYLOAD, frame->len_bytes);
        return true;
    case PAYLOAD:
        return handle(conn);
    case HELLO:
        return greet(conn);
    default:
        return true;
    }
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct egc_conn *conn = arg;
    struct egc_node *node = conn->node;
    uint8_t sink[4096];
    (void)what;

    bool last = conn->state == LAST;
    uint8_t *to = last ? sink : (conn->state == PAYLOAD ? conn->payload : conn->in.bytes) + conn->have;
    ssize_t n = recv(fd, to, last ? sizeof sink : conn->want - conn->have, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        if (conn->have && !last) node->bad_frames++; /* the rest of a message never came */
        conn_free(conn);
    } else if (!last && (conn->have += (size_t)n) == conn->want) {
        (void)advance(conn);
    }
    egc_node_settle(node);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)flush(arg);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct egc_conn *conn = arg;
    (void)fd;
    (void)what;
    if (conn->state == WAITING) {
        evtimer_del(conn->retry);
        (void)send_welcome(conn, EG_STATUS_INTERNAL, "no worker took the stream in time");
        return;
    }
    if (conn->have || conn->state == MAGIC) conn->node->bad_frames++;
    conn_free(conn);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)hand_over(arg);
}

/* Owns: fd. */
static void conn_new(struct egc_node *node, int fd, bool is_tcp, bool local)
{
    struct egc_conn *conn = calloc(1, sizeof *conn);
    if (!conn) {
        close(fd);
        return;
    }
    conn->node = node;
    conn->fd = fd;
    conn->is_tcp = is_tcp;
    conn->local = local;
    node->n_conns++;
    LIST_INSERT_HEAD(&node->conns, conn, link);
    conn->read = event_new(node->base, fd, EV_READ | EV_PERSIST, on_readable, conn);
    conn->write = event_new(node->base, fd, EV_WRITE | EV_PERSIST, on_writable, conn);
    conn->deadline = evtimer_new(node->base, on_deadline, conn);
    conn->retry = evtimer_new(node->base, on_retry, conn);
    if (!conn->read || !conn->write || !conn->deadline || !conn->retry || event_add(conn->read, NULL)) {
        conn_free(conn);
        return;
    }
    expect(conn, MAGIC, sizeof conn->in.magic);
    set_deadline(conn, EGC_HELLO_S);
}

/* --- listeners ----------------------------------------------------------------------------------------------------------- */

static void listener_free(struct egc_listener *listener)
{
    if (listener->event) event_free(listener->event);
    if (listener->resume) event_free(listener->resume);
    if (listener->relay) egc_rdma_close(listener->at.fd, listener->relay);
    else eg_listener_close(&listener->at);
    free(listener);
}

/* Its connections have ended with it; the other addresses are still served. */
static void relay_lost(struct egc_listener *listener)
{
    fprintf(stderr, "endgame-compute: note: %s is not served any more, its endgame-relay ended: start the node anew\n", listener->text);
    LIST_REMOVE(listener, link);
    listener_free(listener);
}

static void on_accept(evutil_socket_t listen_fd, short what, void *arg)
{
    struct egc_listener *listener = arg;
    struct egc_node *node = listener->node;
    (void)listen_fd;
    (void)what;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        bool local;
        int fd = listener->relay ? egc_rdma_accept(listener->at.fd, &local) : eg_listener_accept(&listener->at, &local);
        if (fd == -EAGAIN) return;
        if (fd == -EPIPE) {
            relay_lost(listener);
            return;
        }
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
            struct timeval tv = { .tv_usec = ACCEPT_PAUSE_MS * 1000 };
            event_del(listener->event);
            evtimer_add(listener->resume, &tv);
            return;
        }
        if (fd < 0) continue; /* that connection is gone already */
        if (node->n_conns < EGC_CONNECTIONS_MAX) conn_new(node, fd, !listener->relay && listener->at.path.sun_family != AF_UNIX, local);
        else close(fd);
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct egc_listener *listener = arg;
    (void)fd;
    (void)what;
    event_add(listener->event, NULL);
}

static int listener_open(struct egc_listener *listener, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why,
                         size_t why_bytes)
{
    if (addr->kind != EGC_ADDR_RDMA) return eg_listener_open(addr, &listener->at, ret_text, text_bytes, ret_why, why_bytes);
    return egc_rdma_open(addr, &listener->at.fd, &listener->relay, ret_text, text_bytes, ret_why, why_bytes);
}

int egc_node_listen(struct egc_node *node, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why,
                    size_t why_bytes)
{
    struct egc_listener *listener = calloc(1, sizeof *listener);
    if (!listener) return eg_listener_explain(addr, ENOMEM, ret_why, why_bytes);
    int r = listener_open(listener, addr, ret_text, text_bytes, ret_why, why_bytes);
    if (r) {
        free(listener);
        return r;
    }
    listener->node = node;
    snprintf(listener->text, sizeof listener->text, "%s", ret_text);
    listener->event = event_new(node->base, listener->at.fd, EV_READ | EV_PERSIST, on_accept, listener);
    listener->resume = evtimer_new(node->base, on_resume, listener);
    if (!listener->event || !listener->resume || event_add(listener->event, NULL)) {
        listener_free(listener);
        return eg_listener_explain(addr, ENOMEM, ret_why, why_bytes);
    }
    if (!listener->at.loopback)
        fprintf(stderr, "endgame-compute: note: %s is open to the network without authentication\n", ret_text);
    LIST_INSERT_HEAD(&node->listeners, listener, link);
    return 0;
}

/* --- the node ------------------------------------------------------------------------------------------------------------ */

void egc_node_settle(struct egc_node *node)
{
    struct egc_conn *conn, *next;
    if ((node->draining || node->ending) && !egc_workers_count(&node->workers, EGC_BOUND)) {
        event_base_loopexit(node->base, NULL);
        return;
    }
    for (conn = LIST_FIRST(&node->conns); conn; conn = next) {
        next = LIST_NEXT(conn, link);
        if (conn->state == WAITING) event_active(conn->retry, EV_TIMEOUT, 1);
    }
}

static void describe_machine(struct egc_node *node)
{
    struct utsname name;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file && fgets(node->boot_id, sizeof node->boot_id, file)) node->boot_id[strcspn(node->boot_id, "\n")] = 0;
    if (file) fclose(file);
    if (!uname(&name)) snprintf(node->kernel, sizeof node->kernel, "%s", name.release);
    eg_cpu_read(&node->cpu);
    node->has_vdso = !eg_cpu_vdso_sum(node->vdso_sum);
}

int egc_node_init(struct egc_node *node, uint32_t slots, uint64_t memory_bytes, char *ret_note, size_t note_bytes)
{
    struct rlimit limit;

    memset(node, 0, sizeof *node);
    LIST_INIT(&node->conns);
    LIST_INIT(&node->listeners);
    node->slots = slots;
    node->memory_bytes = memory_bytes;
    node->started_ns = egc_now_ns();
    describe_machine(node);
    /* For workers too: each thread there has a stream. */
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    node->base = event_base_new();
    if (!node->base) {
        snprintf(ret_note, note_bytes, "out of memory");
        return -ENOMEM;
    }
    int r = egc_workers_init(&node->workers, node, node->base, memory_bytes, ret_note, note_bytes);
    if (r) {
        event_base_free(node->base);
        node->base = NULL;
    } else if (!node->workers.isolation.cgroup.limit_bytes) {
        node->memory_bytes = 0;
    }
    return r;
}

void egc_node_done(struct egc_node *node)
{
    struct egc_listener *listener;
    struct egc_conn *conn;
    while ((listener = LIST_FIRST(&node->listeners))) {
        LIST_REMOVE(listener, link);
        listener_free(listener);
    }
    while ((conn = LIST_FIRST(&node->conns))) conn_free(conn);
    egc_workers_done(&node->workers);
    if (node->base) event_base_free(node->base);
    node->base = NULL;
}
