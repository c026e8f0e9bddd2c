#include "memserver/control.h"
#include <errno.h>
#include <event2/buffer.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "memserver/rdma.h"
#include "proto/eg_control_reply.h"

#define READ_BYTES EGM_DATA_IN_BYTES /* what comes behind an Attach must fit the data connection's buffer */
#define OUT_MAX_BYTES (256u << 10)   /* replies that the peer does not read: no more requests are taken */
#define IN_MAX_BYTES (256u << 10)    /* rdma: requests of a peer that does not read its replies and goes on asking */
#define LINGER_S 1                   /* rdma: for the peer to take the last reply and leave */
#define FRAMES_PER_TURN 16           /* of one connection before the others get their turn */
#define STATS_ROWS_BYTES (EG_CONTROL_MAX_BYTES - 4096u)

struct egm_conn {
    LIST_ENTRY(egm_conn) link;
    struct egm_server *server;
    int fd;                     /* -1: rdma */
    struct egm_rdma_link *rdma; /* NULL: a socket */
    bool is_unix, local;
    bool eof;
    bool closing;  /* drop once the replies are out */
    bool backlog;  /* whole frames wait in `in`: nothing is read */
    bool answered; /* there was at least one good request */
    struct event *read, *write, *deadline;
    struct evbuffer *in, *out;
    struct egm_agent *agent; /* NULL until Open */
    int pass_fd;             /* travels with the byte at `pass_at` of out; -1: none. Borrowed from the session */
    size_t pass_at;
};

enum outcome {
    GO_ON,
    CLOSE,    /* after the reply */
    BAD,      /* after the reply, and count it */
    HAND_OVER /* to the data plane */
};

static void set_deadline(struct egm_conn *conn)
{
    struct timeval tv = { .tv_sec = conn->closing && conn->rdma ? LINGER_S : EGM_HELLO_S };
    /* A program may be stopped (a debugger, Ctrl-Z) for as long as it likes, in the middle of a frame too. */
    if (conn->agent && !conn->closing) evtimer_del(conn->deadline);
    else evtimer_add(conn->deadline, &tv);
}

static bool flush_socket(struct egm_conn *conn)
{
    while (evbuffer_get_length(conn->out)) {
        struct evbuffer_iovec peeked[8];
        struct iovec iov[8];
        union {
            char bytes[CMSG_SPACE(sizeof(int))];
            struct cmsghdr align;
        } control = { .bytes = { 0 } };
        bool pass = conn->pass_fd >= 0 && !conn->pass_at;
        size_t limit = conn->pass_fd >= 0 && conn->pass_at ? conn->pass_at : SIZE_MAX;
        int n = evbuffer_peek(conn->out, -1, NULL, peeked, 8), used = 0;
        for (; used < n && used < 8 && limit; used++) {
            size_t len = peeked[used].iov_len < limit ? peeked[used].iov_len : limit;
            iov[used] = (struct iovec){ peeked[used].iov_base, len };
            limit -= len;
        }
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)used };
        if (pass) {
            msg.msg_control = control.bytes;
            msg.msg_controllen = sizeof control.bytes;
            struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
            cmsg->cmsg_level = SOL_SOCKET;
            cmsg->cmsg_type = SCM_RIGHTS;
            cmsg->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(cmsg), &conn->pass_fd, sizeof(int));
        }
        ssize_t sent = sendmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return errno == EAGAIN;
        if (pass) conn->pass_fd = -1;
        else if (conn->pass_fd >= 0) conn->pass_at -= (size_t)sent;
        evbuffer_drain(conn->out, (size_t)sent);
    }
    return true;
}

/* Returns: false when the connection is lost. */
static bool flush(struct egm_conn *conn)
{
    return conn->rdma ? !egm_rdma_send(conn->rdma, conn->out) : flush_socket(conn);
}

/* Owns: out, from malloc. NULL: memory is short. */
static void answer(struct egm_conn *conn, uint8_t *out, size_t bytes)
{
    if (out) evbuffer_add(conn->out, out, bytes);
    free(out);
}

static void send_reply(struct egm_conn *conn, uint64_t cookie, const Endgame__Reply *reply)
{
    size_t bytes = 0;
    uint8_t *out = eg_control_reply(reply, cookie, &bytes);
    answer(conn, out, bytes);
}

__attribute__((format(printf, 4, 5))) static void refuse(struct egm_conn *conn, uint64_t cookie, enum eg_status status,
                                                         const char *format, ...)
{
    size_t bytes = 0;
    va_list ap;

    va_start(ap, format);
    uint8_t *out = eg_control_refusal(status, cookie, &bytes, format, ap);
    va_end(ap);
    answer(conn, out, bytes);
}

static void send_status(struct egm_conn *conn, uint64_t cookie, enum eg_status status)
{
    const struct egm_store *store = &conn->server->store;
    char size[32];

    switch (status) {
    case EG_STATUS_OK: {
        Endgame__Reply reply = ENDGAME__REPLY__INIT;
        send_reply(conn, cookie, &reply);
        break;
    }
    case EG_STATUS_NOSPACE:
        refuse(conn, cookie, status, "the capacity of %s is in use or promised, or the machine is out of memory",
               eg_size_format(store->capacity * EG_SLAB_BYTES, size, sizeof size));
        break;
    case EG_STATUS_QUOTA:
        refuse(conn, cookie, status, "the quota of a program is %s",
               store->quota ? eg_size_format(store->quota * EG_SLAB_BYTES, size, sizeof size) : "reached");
        break;
    case EG_STATUS_NOENT:
        refuse(conn, cookie, status, "no such agent, snapshot or slab");
        break;
    case EG_STATUS_DRAINING:
        refuse(conn, cookie, status, "this server takes no new programs");
        break;
    case EG_STATUS_INTERNAL:
        refuse(conn, cookie, status, "the server lacks descriptors or memory");
        break;
    default:
        refuse(conn, cookie, status, "malformed or out of order");
    }
}

static enum outcome do_open(struct egm_conn *conn, uint64_t cookie, const Endgame__Open *open)
{
    struct egm_server *server = conn->server;
    struct egm_agent *agent;

    if (conn->agent || open->token.len != EG_TOKEN_BYTES) {
        refuse(conn, cookie, EG_STATUS_INVALID, "%s",
               conn->agent ? "this connection is open already" : "the token has a wrong length");
        return BAD;
    }
    if (conn->rdma && !egm_rdma_admits(conn->rdma, open->token.data)) {
        refuse(conn, cookie, EG_STATUS_INVALID, "the token is not the one that the connection was made with");
        return BAD;
    }
    enum eg_status status = egm_agent_open(&server->store, open->token.data, open->snapshot, !server->draining, &agent);
    if (status) {
        send_status(conn, cookie, status);
        return GO_ON;
    }
    /* Whatever the client calls itself will be shown on terminals. */
    for (size_t i = 0; i < sizeof agent->program - 1 && open->program[i]; i++) {
        unsigned char c = (unsigned char)open->program[i];
        agent->program[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    agent->pid = open->pid;
    strcpy(agent->transport, conn->is_unix ? "shm" : conn->rdma ? "rdma" : "tcp");
    conn->agent = agent;
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__OpenReply body = ENDGAME__OPEN_REPLY__INIT;
    body.agent = agent->id;
    body.secret = agent->secret;
    body.arena_bytes = agent->session->arena_bytes;
    body.slab_bytes = EG_SLAB_BYTES;
    body.memory_follows = conn->is_unix;
    reply.body_case = ENDGAME__REPLY__BODY_OPEN;
    reply.open = &body;
    if (conn->is_unix || conn->rdma) agent->session->shared_memory = true;
    if (conn->is_unix) {
        conn->pass_fd = agent->session->memfd;
        conn->pass_at = evbuffer_get_length(conn->out);
    }
    send_reply(conn, cookie, &reply);
    return GO_ON;
}

static enum outcome do_attach(struct egm_conn *conn, uint64_t cookie, const Endgame__Attach *attach,
                              struct egm_agent **ret_agent)
{
    struct egm_server *server = conn->server;

    if (conn->answered || conn->is_unix || conn->rdma) {
        refuse(conn, cookie, EG_STATUS_INVALID, "%s",
               conn->is_unix ? "over a unix socket the memory itself is shared"
               : conn->rdma  ? "over rdma the client's device reads and writes the memory"
                             : "attach must be the first request");
        return BAD;
    }
    struct egm_agent *agent = egm_store_find_agent(&server->store, attach->agent, attach->secret);
    if (!agent) {
        send_status(conn, cookie, EG_STATUS_NOENT);
        return CLOSE;
    }
    if (egm_session_map(agent->session)) {
        send_status(conn, cookie, EG_STATUS_INTERNAL);
        return CLOSE;
    }
    send_status(conn, cookie, EG_STATUS_OK);
    *ret_agent = agent;
    return HAND_OVER;
}

static void do_stats(struct egm_conn *conn, uint64_t cookie)
{
    struct egm_server *server = conn->server;
    const struct egm_store *store = &server->store;
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__StatsReply body = ENDGAME__STATS_REPLY__INIT;
    struct egm_data_stats data = { 0 };
    const struct egm_session *session;
    const struct egm_agent *agent;
    uint64_t now_ns = egm_now_ns();
    size_t n = 0, room = 0, bytes = 0;

    TAILQ_FOREACH (session, &store->sessions, link)
        TAILQ_FOREACH (agent, &session->agents, link) room++;
    Endgame__AgentRow *rows = calloc(room + 1, sizeof *rows), **list = calloc(room + 1, sizeof *list);
    if (!rows || !list) {
        send_status(conn, cookie, EG_STATUS_INTERNAL);
        goto out;
    }
    TAILQ_FOREACH (session, &store->sessions, link)
        TAILQ_FOREACH (agent, &session->agents, link) {
            Endgame__AgentRow *row = &rows[n];
            endgame__agent_row__init(row);
            row->session = session->id;
            row->program = (char *)agent->program;
            row->pid = agent->pid;
            row->transport = (char *)agent->transport;
            row->slabs_held = agent->held_count;
            row->slabs_shared = egm_agent_shared(agent);
            row->slabs_promised = agent->reserved;
            row->age_s = (now_ns - agent->opened_ns) / 1000000000u;
            bytes += endgame__agent_row__get_packed_size(row) + 8;
            if (bytes > STATS_ROWS_BYTES) goto full;
            list[n++] = row;
        }
full:
    if (server->data) egm_data_stats(server->data, &data);
    body.version = (char *)EG_VERSION;
    body.uptime_s = (now_ns - server->started_ns) / 1000000000u;
    body.draining = server->draining;
    body.capacity_bytes = store->capacity * EG_SLAB_BYTES;
    body.stored_bytes = store->physical * EG_SLAB_BYTES;
    body.promised_bytes = store->outstanding * EG_SLAB_BYTES;
    body.quota_bytes = store->quota * EG_SLAB_BYTES;
    body.reads = data.reads;
    body.writes = data.writes;
    body.read_bytes = data.read_bytes;
    body.written_bytes = data.written_bytes;
    body.bad_frames = atomic_load(&server->bad_frames);
    body.n_agents = n;
    body.agents = list;
    if (server->rdma) egm_rdma_stats(server->rdma, &body.rdma_keys, &body.rdma_messages);
    reply.body_case = ENDGAME__REPLY__BODY_STATS;
    reply.stats = &body;
    send_reply(conn, cookie, &reply);
out:
    free(rows);
    free(list);
}

static enum outcome do_drain(struct egm_conn *conn, uint64_t cookie)
{
    if (!conn->local) {
        refuse(conn, cookie, EG_STATUS_INVALID, "drain is only taken from the server's own machine");
        return GO_ON;
    }
    conn->server->draining = true;
    send_status(conn, cookie, EG_STATUS_OK);
    return GO_ON;
}

static void do_ping(struct egm_conn *conn, uint64_t cookie)
{
    const struct egm_store *store = &conn->server->store;
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__PingReply body = ENDGAME__PING_REPLY__INIT;
    body.version = EG_WIRE_VERSION;
    body.capacity_bytes = store->capacity * EG_SLAB_BYTES;
    body.free_bytes = egm_store_free_slabs(store) * EG_SLAB_BYTES;
    body.draining = conn->server->draining;
    reply.body_case = ENDGAME__REPLY__BODY_PING;
    reply.ping = &body;
    send_reply(conn, cookie, &reply);
}

static void do_lease(struct egm_conn *conn, uint64_t cookie, const Endgame__Lease *lease)
{
    uint32_t slabs[EGM_LEASE_MAX], keys[EGM_LEASE_MAX], n;
    enum eg_status status = egm_agent_lease(conn->agent, lease->count, slabs, &n);
    if (status) {
        send_status(conn, cookie, status);
        return;
    }
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__LeaseReply body = ENDGAME__LEASE_REPLY__INIT;
    if (conn->rdma) {
        char why[200];
        uint32_t leased = n;
        n = egm_rdma_keys(conn->rdma, conn->agent->session, slabs, leased, keys, why, sizeof why);
        if (n < leased) (void)!egm_agent_return(conn->agent, slabs + n, leased - n);
        if (!n) {
            refuse(conn, cookie, EG_STATUS_NOSPACE, "%s", why);
            return;
        }
        body.n_keys = n;
        body.keys = keys;
    }
    body.n_slabs = n;
    body.slabs = slabs;
    reply.body_case = ENDGAME__REPLY__BODY_LEASE;
    reply.lease = &body;
    send_reply(conn, cookie, &reply);
}

static void do_snapshot(struct egm_conn *conn, uint64_t cookie)
{
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__SnapshotReply body = ENDGAME__SNAPSHOT_REPLY__INIT;
    enum eg_status status = egm_agent_snapshot(conn->agent, &body.snapshot);
    if (status == EG_STATUS_QUOTA) {
        refuse(conn, cookie, status, "%u snapshots wait to be opened", EGM_SNAPSHOTS_MAX);
        return;
    }
    if (status) {
        send_status(conn, cookie, status);
        return;
    }
    reply.body_case = ENDGAME__REPLY__BODY_SNAPSHOT;
    reply.snapshot = &body;
    send_reply(conn, cookie, &reply);
}

static enum outcome do_break(struct egm_conn *conn, uint64_t cookie, const Endgame__Break *shared)
{
    uint32_t slabs[EGM_BREAK_MAX], keys[EGM_BREAK_MAX];
    if (shared->n_slabs > EGM_BREAK_MAX) {
        refuse(conn, cookie, EG_STATUS_INVALID, "at most %u slabs at once", EGM_BREAK_MAX);
        return GO_ON;
    }
    enum eg_status status = egm_agent_break(conn->agent, shared->slabs, shared->n_slabs, slabs);
    if (status) {
        send_status(conn, cookie, status);
        return GO_ON;
    }
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    Endgame__BreakReply body = ENDGAME__BREAK_REPLY__INIT;
    body.n_slabs = shared->n_slabs;
    body.slabs = slabs;
    if (conn->rdma) {
        char why[200];
        size_t n = shared->n_slabs;
        if (egm_rdma_keys(conn->rdma, conn->agent->session, slabs, (uint32_t)n, keys, why, sizeof why) < n) {
            refuse(conn, cookie, EG_STATUS_INTERNAL, "%s", why); /* the slabs are exchanged already */
            return CLOSE;
        }
        body.n_keys = n;
        body.keys = keys;
    }
    reply.body_case = ENDGAME__REPLY__BODY_BREAK_SHARED;
    reply.break_shared = &body;
    send_reply(conn, cookie, &reply);
    return GO_ON;
}

static enum outcome handle(struct egm_conn *conn, uint64_t cookie, const Endgame__Request *req,
                           struct egm_agent **ret_attach)
{
    switch (req->body_case) {
    case ENDGAME__REQUEST__BODY_OPEN:
        return do_open(conn, cookie, req->open);
    case ENDGAME__REQUEST__BODY_ATTACH:
        return do_attach(conn, cookie, req->attach, ret_attach);
    case ENDGAME__REQUEST__BODY_STATS:
        do_stats(conn, cookie);
        return GO_ON;
    case ENDGAME__REQUEST__BODY_DRAIN:
        return do_drain(conn, cookie);
    case ENDGAME__REQUEST__BODY_PING:
        do_ping(conn, cookie);
        return GO_ON;
    default:
        break;
    }
    if (!conn->agent) {
        refuse(conn, cookie, EG_STATUS_INVALID, "open a session first");
        return BAD;
    }
    switch (req->body_case) {
    case ENDGAME__REQUEST__BODY_RESERVE:
        send_status(conn, cookie, egm_agent_reserve(conn->agent, req->reserve->slabs));
        return GO_ON;
    case ENDGAME__REQUEST__BODY_LEASE:
        do_lease(conn, cookie, req->lease);
        return GO_ON;
    case ENDGAME__REQUEST__BODY_GIVE_BACK:
        send_status(conn, cookie, egm_agent_return(conn->agent, req->give_back->slabs, req->give_back->n_slabs));
        return GO_ON;
    case ENDGAME__REQUEST__BODY_SNAPSHOT:
        do_snapshot(conn, cookie);
        return GO_ON;
    case ENDGAME__REQUEST__BODY_DROP_SNAPSHOT:
        send_status(conn, cookie, egm_agent_drop_snapshot(conn->agent, req->drop_snapshot->snapshot));
        return GO_ON;
    case ENDGAME__REQUEST__BODY_BREAK_SHARED:
        return do_break(conn, cookie, req->break_shared);
    default:
        refuse(conn, cookie, EG_STATUS_INVALID, "a request of an unknown kind");
        return BAD;
    }
}

static enum outcome handle_frame(struct egm_conn *conn, const struct eg_frame *frame, const uint8_t *payload,
                                 struct egm_agent **ret_attach)
{
    Endgame__Request *req = endgame__request__unpack(NULL, frame->len_bytes, payload);
    enum outcome outcome;

    if (!req) {
        refuse(conn, frame->cookie, EG_STATUS_INVALID, "the request cannot be read");
        return BAD;
    }
    if (req->version != EG_WIRE_VERSION) {
        refuse(conn, frame->cookie, EG_STATUS_VERSION, "version %u here (endgame %s), version %u asked for",
               EG_WIRE_VERSION, EG_VERSION, req->version);
        outcome = CLOSE;
    } else {
        outcome = handle(conn, frame->cookie, req, ret_attach);
    }
    endgame__request__free_unpacked(req, NULL);
    return outcome;
}

static void count_bad(struct egm_conn *conn) { atomic_fetch_add(&conn->server->bad_frames, 1); }

/* The descriptor moves to the data plane, with the bytes that came behind the Attach frame. */
static void hand_over(struct egm_conn *conn, struct egm_agent *agent)
{
    uint8_t early[READ_BYTES];
    size_t n = evbuffer_get_length(conn->in);

    if (n <= sizeof early) {
        evbuffer_remove(conn->in, early, n);
        /* Ours must forget the descriptor before another thread may close it. */
        event_del(conn->read);
        event_del(conn->write);
        if (conn->server->data && !egm_data_attach(conn->server->data, agent, conn->fd, early, n)) conn->fd = -1;
    }
    egm_conn_free(conn);
}

/* Does what waits in `in`. Returns: false when the connection is gone. */
static bool process(struct egm_conn *conn)
{
    struct egm_agent *attach = NULL;
    enum outcome outcome = GO_ON;

    conn->backlog = false;
    for (int n = 0; !conn->closing; n++) {
        struct eg_frame frame;
        size_t have = evbuffer_get_length(conn->in);
        if (have < sizeof frame) break;
        evbuffer_copyout(conn->in, &frame, sizeof frame);
        if (frame.magic != EG_WIRE_MAGIC || frame.type != EG_FRAME_CONTROL || frame.flags ||
            frame.len_bytes > EG_CONTROL_MAX_BYTES) {
            count_bad(conn);
            (void)flush(conn);
            egm_conn_free(conn);
            return false;
        }
        if (have < sizeof frame + frame.len_bytes) break;
        if (n == FRAMES_PER_TURN || evbuffer_get_length(conn->out) > OUT_MAX_BYTES) {
            conn->backlog = true;
            break;
        }
        const uint8_t *whole = evbuffer_pullup(conn->in, (ev_ssize_t)(sizeof frame + frame.len_bytes));
        if (!whole) {
            egm_conn_free(conn);
            return false;
        }
        outcome = handle_frame(conn, &frame, whole + sizeof frame, &attach);
        evbuffer_drain(conn->in, sizeof frame + frame.len_bytes);
        conn->answered = true;
        if (outcome == BAD) count_bad(conn);
        if (outcome == BAD || outcome == CLOSE) conn->closing = true;
        set_deadline(conn);
        if (outcome == HAND_OVER) break;
    }
    if (!flush(conn)) {
        egm_conn_free(conn);
        return false;
    }
    size_t unsent = evbuffer_get_length(conn->out);
    if (outcome == HAND_OVER) {
        if (unsent) egm_conn_free(conn); /* a fresh socket has room for one frame */
        else hand_over(conn, attach);
        return false;
    }
    if (conn->eof && !conn->backlog) {
        if (!conn->closing && evbuffer_get_length(conn->in)) count_bad(conn); /* the rest of a frame never came */
        conn->closing = true;
        if (conn->agent) { /* its process is gone or has let go: nobody waits for replies */
            egm_conn_free(conn);
            return false;
        }
        set_deadline(conn);
    }
    /* The end of a queue pair would overtake a last reply: the peer ends it when it has read that, or the deadline. */
    if (conn->closing && !unsent && !conn->rdma) {
        egm_conn_free(conn);
        return false;
    }
    /* Nothing is read while replies pile up, or a backlog is there, which has its turn at the end of the queue.
     * Of rdma's two events, which have no descriptor, only the last line's comes. */
    if (unsent) event_add(conn->write, NULL);
    else event_del(conn->write);
    if (conn->closing || conn->eof || unsent > OUT_MAX_BYTES || conn->backlog) event_del(conn->read);
    else event_add(conn->read, NULL);
    if (conn->backlog && unsent <= OUT_MAX_BYTES) event_active(conn->write, EV_WRITE, 1);
    return true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct egm_conn *conn = arg;
    struct egm_server *server = conn->server;
    (void)what;

    int n = evbuffer_read(conn->in, fd, READ_BYTES);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) {
        egm_conn_free(conn);
    } else {
        conn->eof = !n;
        (void)process(conn);
    }
    egm_server_settle(server);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct egm_conn *conn = arg;
    struct egm_server *server = conn->server;
    (void)fd;
    (void)what;
    (void)process(conn);
    egm_server_settle(server);
}

bool egm_conn_input(struct egm_conn *conn, const void *data, size_t len_bytes)
{
    return conn->closing || !evbuffer_add(conn->in, data, len_bytes);
}

/* Polling is what reads, and what tells of the peer's room for replies. So it waits while there is a backlog, unless
 * the backlog waits for that room. */
void egm_conn_ready(struct egm_conn *conn)
{
    for (bool polled = false; !polled;) {
        polled = !conn->backlog || evbuffer_get_length(conn->out) > OUT_MAX_BYTES;
        int r = polled ? egm_rdma_poll(conn->rdma) : 0;
        if (!r && evbuffer_get_length(conn->in) > IN_MAX_BYTES) r = -EPROTO;
        if (r) {
            if (r == -EPROTO) count_bad(conn);
            egm_conn_free(conn);
            return;
        }
        if (!process(conn)) return;
        if (conn->backlog && evbuffer_get_length(conn->out) <= OUT_MAX_BYTES) return; /* its turn comes */
    }
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    struct egm_conn *conn = arg;
    struct egm_server *server = conn->server;
    (void)fd;
    (void)what;
    egm_conn_ready(conn);
    egm_server_settle(server);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct egm_conn *conn = arg;
    struct egm_server *server = conn->server;
    (void)fd;
    (void)what;
    if (!conn->closing && (!conn->answered || evbuffer_get_length(conn->in))) count_bad(conn);
    egm_conn_free(conn);
    egm_server_settle(server);
}

void egm_conn_free(struct egm_conn *conn)
{
    /* Before the agent's slabs are given back: its device writes to them. */
    if (conn->rdma) egm_rdma_close(conn->rdma);
    if (conn->read) event_free(conn->read);
    if (conn->write) event_free(conn->write);
    if (conn->deadline) event_free(conn->deadline);
    if (conn->in) evbuffer_free(conn->in);
    if (conn->out) evbuffer_free(conn->out);
    if (conn->agent) egm_agent_close(conn->agent);
    if (conn->fd >= 0) close(conn->fd);
    if (conn->fd >= 0 || conn->rdma) atomic_fetch_sub(&conn->server->n_conns, 1);
    LIST_REMOVE(conn, link);
    free(conn);
}

/* Owns: neither fd nor link on failure. */
static struct egm_conn *conn_new(struct egm_server *server, int fd, struct egm_rdma_link *rdma, bool local)
{
    struct egm_conn *conn = calloc(1, sizeof *conn);
    if (!conn) return NULL;
    conn->server = server;
    conn->fd = -1;
    conn->local = local;
    conn->pass_fd = -1;
    LIST_INSERT_HEAD(&server->conns, conn, link);
    conn->in = evbuffer_new();
    conn->out = evbuffer_new();
    conn->read = event_new(server->base, fd, EV_READ | EV_PERSIST, on_readable, conn);
    conn->write = event_new(server->base, fd, EV_WRITE | EV_PERSIST, rdma ? on_turn : on_writable, conn);
    conn->deadline = evtimer_new(server->base, on_deadline, conn);
    if (!conn->in || !conn->out || !conn->read || !conn->write || !conn->deadline || event_add(conn->read, NULL)) {
        egm_conn_free(conn);
        return NULL;
    }
    conn->fd = fd;
    conn->rdma = rdma;
    atomic_fetch_add(&server->n_conns, 1);
    set_deadline(conn);
    return conn;
}

int egm_conn_new(struct egm_server *server, int fd, bool is_unix, bool local)
{
    struct egm_conn *conn = conn_new(server, fd, NULL, local);
    if (!conn) {
        close(fd);
        return -ENOMEM;
    }
    conn->is_unix = is_unix;
    return 0;
}

struct egm_conn *egm_conn_new_rdma(struct egm_server *server, struct egm_rdma_link *link, bool local)
{
    return conn_new(server, -1, link, local);
}
