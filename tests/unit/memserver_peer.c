#include "tests/unit/memserver_peer.h"
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 20000

void daemon_start(struct daemon *daemon, const char *const *options)
{
    char unix_listen[128], line[256], why[256];
    const char *argv[32] = { EG_MEMSERVER, "--listen", unix_listen, "--listen", "tcp:127.0.0.1:0" };
    int out[2], n = 5;
    const char *tmp = getenv("TMPDIR");

    memset(daemon, 0, sizeof *daemon);
    snprintf(daemon->dir, sizeof daemon->dir, "%s/eg-test-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(daemon->dir));
    snprintf(unix_listen, sizeof unix_listen, "unix:%s/s", daemon->dir);
    for (; options && *options; options++) argv[n++] = *options;
    char errors[128];
    snprintf(errors, sizeof errors, "%s/errors", daemon->dir);
    daemon->errors = open(errors, O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0600);
    ck_assert_int_ge(daemon->errors, 0);
    ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
    daemon->pid = fork();
    ck_assert_int_ge(daemon->pid, 0);
    if (!daemon->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        dup2(daemon->errors, 2);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(out[1]);
    FILE *ready = fdopen(out[0], "r");
    struct pollfd p = { .fd = out[0], .events = POLLIN };
    ck_assert_msg(poll(&p, 1, START_MS) == 1, "the daemon does not get ready");
    while ((!daemon->unix_text[0] || !daemon->tcp_text[0]) && fgets(line, sizeof line, ready)) {
        char text[128];
        if (sscanf(line, "endgame-memserver ready %127s", text) != 1) continue;
        strcpy(!strncmp(text, "unix:", 5) ? daemon->unix_text : daemon->tcp_text, text);
    }
    fclose(ready);
    ck_assert_msg(daemon->unix_text[0] && daemon->tcp_text[0], "no ready line: %s", daemon_errors(daemon));
    ck_assert_msg(!eg_addr_parse(daemon->unix_text, 0, &daemon->unix_addr, why, sizeof why), "%s", why);
    ck_assert_msg(!eg_addr_parse(daemon->tcp_text, 0, &daemon->tcp_addr, why, sizeof why), "%s", why);
}

int daemon_wait(struct daemon *daemon)
{
    int status = 0;
    ck_assert_int_eq(waitpid(daemon->pid, &status, 0), daemon->pid);
    daemon->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void daemon_stop(struct daemon *daemon)
{
    char path[128];
    if (daemon->pid) {
        kill(daemon->pid, SIGTERM);
        int status = daemon_wait(daemon);
        ck_assert_msg(!status, "exit status %d: %s", status, daemon_errors(daemon));
    }
    ck_assert_msg(!strstr(daemon_errors(daemon), "Sanitizer"), "%s", daemon_errors(daemon));
    snprintf(path, sizeof path, "%s/errors", daemon->dir);
    unlink(path);
    ck_assert_msg(!rmdir(daemon->dir), "something is left in %s", daemon->dir);
    close(daemon->errors);
}

const char *daemon_errors(struct daemon *daemon)
{
    static char text[16384];
    ssize_t n = pread(daemon->errors, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    return text;
}

int peer_connect(const struct eg_addr *addr)
{
    int fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_msg(!connect(fd, (const struct sockaddr *)&addr->sa, addr->len_bytes), "%s: %s", addr->text,
                  strerror(errno));
    return fd;
}

void peer_send_all(int fd, const void *bytes, size_t n)
{
    const char *at = bytes;
    while (n) {
        ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return; /* the server hung up: whoever reads next will see it */
        at += sent;
        n -= (size_t)sent;
    }
}

/* Takes a descriptor that comes along. */
static bool receive(int fd, void *bytes, size_t n, int *ret_fd)
{
    char *at = bytes;
    while (n) {
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec iov = { at, n };
        struct msghdr msg = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
        };
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ck_assert_msg(poll(&p, 1, START_MS) == 1, "the server does not answer");
        ssize_t got = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg && cmsg->cmsg_type == SCM_RIGHTS) {
            int passed;
            memcpy(&passed, CMSG_DATA(cmsg), sizeof passed);
            ck_assert_ptr_nonnull(ret_fd);
            *ret_fd = passed;
        }
        at += got;
        n -= (size_t)got;
    }
    return true;
}

bool peer_recv_all(int fd, void *bytes, size_t n) { return receive(fd, bytes, n, NULL); }

bool peer_hung_up(int fd, int timeout_ms)
{
    char sink[4096];
    for (;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (poll(&p, 1, timeout_ms) != 1) return false;
        if (recv(fd, sink, sizeof sink, 0) <= 0) return true;
    }
}

static Endgame__Reply *ask(int fd, uint64_t cookie, const Endgame__Request *request, int *ret_memfd)
{
    struct eg_frame frame = { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .cookie = cookie };
    uint8_t *bytes = malloc(sizeof frame + EG_CONTROL_MAX_BYTES);
    Endgame__Reply *reply = NULL;

    frame.len_bytes = (uint32_t)endgame__request__get_packed_size(request);
    ck_assert_uint_le(frame.len_bytes, EG_CONTROL_MAX_BYTES);
    memcpy(bytes, &frame, sizeof frame);
    endgame__request__pack(request, bytes + sizeof frame);
    peer_send_all(fd, bytes, sizeof frame + frame.len_bytes);
    if (receive(fd, &frame, sizeof frame, ret_memfd)) {
        ck_assert_uint_eq(frame.magic, EG_WIRE_MAGIC);
        ck_assert_uint_eq(frame.type, EG_FRAME_CONTROL);
        ck_assert_uint_eq(frame.cookie, cookie);
        ck_assert_uint_le(frame.len_bytes, EG_CONTROL_MAX_BYTES);
        ck_assert(receive(fd, bytes, frame.len_bytes, ret_memfd));
        reply = endgame__reply__unpack(NULL, frame.len_bytes, bytes);
        ck_assert_ptr_nonnull(reply);
        ck_assert_uint_eq(reply->status, frame.status);
        ck_assert(!reply->status == !reply->message[0]);
    }
    free(bytes);
    return reply;
}

Endgame__Reply *peer_ask(int fd, uint64_t cookie, const Endgame__Request *request)
{
    return ask(fd, cookie, request, NULL);
}

static void forget(Endgame__Reply *reply) { endgame__reply__free_unpacked(reply, NULL); }

#define REQUEST(name, upper, Type, TYPE)                                                                               \
    Endgame__Request request = ENDGAME__REQUEST__INIT;                                                                 \
    Endgame__##Type body = ENDGAME__##TYPE##__INIT;                                                                    \
    request.version = EG_WIRE_VERSION;                                                                                 \
    request.body_case = ENDGAME__REQUEST__BODY_##upper;                                                                \
    request.name = &body

static uint32_t try_open(struct peer *peer, const struct eg_addr *addr, uint8_t token, uint64_t snapshot)
{
    uint8_t bytes[EG_TOKEN_BYTES];
    REQUEST(open, OPEN, Open, OPEN);

    memset(peer, 0, sizeof *peer);
    memset(bytes, token, sizeof bytes);
    body.token.data = bytes;
    body.token.len = sizeof bytes;
    body.program = (char *)"test";
    body.pid = (uint32_t)getpid();
    body.snapshot = snapshot;
    peer->data = peer->memfd = -1;
    peer->fd = peer_connect(addr);
    Endgame__Reply *reply = ask(peer->fd, ++peer->cookie, &request, &peer->memfd);
    ck_assert_ptr_nonnull(reply);
    uint32_t status = reply->status;
    if (!status) {
        ck_assert_int_eq(reply->body_case, ENDGAME__REPLY__BODY_OPEN);
        peer->agent = reply->open->agent;
        peer->secret = reply->open->secret;
        peer->arena_bytes = reply->open->arena_bytes;
        ck_assert_uint_eq(reply->open->slab_bytes, EG_SLAB_BYTES);
        ck_assert_int_eq(reply->open->memory_follows, addr->sa.ss_family == AF_UNIX);
        ck_assert_int_eq(peer->memfd >= 0, addr->sa.ss_family == AF_UNIX);
    }
    forget(reply);
    return status;
}

void peer_open(struct peer *peer, const struct eg_addr *addr, uint8_t token, uint64_t snapshot)
{
    ck_assert_uint_eq(try_open(peer, addr, token, snapshot), EG_STATUS_OK);
}

uint32_t peer_open_status(const struct eg_addr *addr, uint8_t token, uint64_t snapshot)
{
    struct peer peer;
    uint32_t status = try_open(&peer, addr, token, snapshot);
    peer_close(&peer);
    return status;
}

void peer_close(struct peer *peer)
{
    close(peer->fd);
    if (peer->data >= 0) close(peer->data);
    if (peer->memfd >= 0) close(peer->memfd);
}

static Endgame__Reply *must_ask(struct peer *peer, const Endgame__Request *request)
{
    Endgame__Reply *reply = ask(peer->fd, ++peer->cookie, request, NULL);
    ck_assert_ptr_nonnull(reply);
    return reply;
}

static uint32_t ask_status(struct peer *peer, const Endgame__Request *request)
{
    Endgame__Reply *reply = must_ask(peer, request);
    uint32_t status = reply->status;
    forget(reply);
    return status;
}

uint32_t peer_reserve(struct peer *peer, uint64_t slabs)
{
    REQUEST(reserve, RESERVE, Reserve, RESERVE);
    body.slabs = slabs;
    return ask_status(peer, &request);
}

uint32_t peer_lease(struct peer *peer, uint32_t count, uint32_t *ret_slabs, uint32_t *ret_status)
{
    uint32_t n = 0;
    REQUEST(lease, LEASE, Lease, LEASE);
    body.count = count;
    Endgame__Reply *reply = must_ask(peer, &request);
    if (!reply->status) {
        n = (uint32_t)reply->lease->n_slabs;
        ck_assert_uint_ge(n, 1);
        ck_assert_uint_le(n, count);
        memcpy(ret_slabs, reply->lease->slabs, n * sizeof *ret_slabs);
    }
    if (ret_status) *ret_status = reply->status;
    forget(reply);
    return n;
}

uint32_t peer_return(struct peer *peer, const uint32_t *slabs, size_t count)
{
    REQUEST(give_back, GIVE_BACK, Return, RETURN);
    body.n_slabs = count;
    body.slabs = (uint32_t *)slabs;
    return ask_status(peer, &request);
}

uint64_t peer_snapshot(struct peer *peer)
{
    REQUEST(snapshot, SNAPSHOT, Snapshot, SNAPSHOT);
    Endgame__Reply *reply = must_ask(peer, &request);
    ck_assert_uint_eq(reply->status, 0);
    uint64_t snapshot = reply->snapshot->snapshot;
    ck_assert_uint_ne(snapshot, 0);
    forget(reply);
    return snapshot;
}

uint32_t peer_drop_snapshot(struct peer *peer, uint64_t snapshot)
{
    REQUEST(drop_snapshot, DROP_SNAPSHOT, DropSnapshot, DROP_SNAPSHOT);
    body.snapshot = snapshot;
    return ask_status(peer, &request);
}

uint32_t peer_break(struct peer *peer, const uint32_t *slabs, size_t count, uint32_t *ret_slabs)
{
    REQUEST(break_shared, BREAK_SHARED, Break, BREAK);
    body.n_slabs = count;
    body.slabs = (uint32_t *)slabs;
    Endgame__Reply *reply = must_ask(peer, &request);
    uint32_t status = reply->status;
    if (!status) {
        ck_assert_uint_eq(reply->break_shared->n_slabs, count);
        memcpy(ret_slabs, reply->break_shared->slabs, count * sizeof *ret_slabs);
    }
    forget(reply);
    return status;
}

Endgame__StatsReply peer_stats(const struct eg_addr *addr)
{
    REQUEST(stats, STATS, Stats, STATS);
    int fd = peer_connect(addr);
    Endgame__Reply *reply = peer_ask(fd, 1, &request);
    ck_assert_ptr_nonnull(reply);
    ck_assert_int_eq(reply->body_case, ENDGAME__REPLY__BODY_STATS);
    Endgame__StatsReply stats = *reply->stats;
    stats.version = NULL;
    stats.agents = NULL;
    forget(reply);
    close(fd);
    return stats;
}

void peer_attach(struct peer *peer, const struct eg_addr *addr)
{
    REQUEST(attach, ATTACH, Attach, ATTACH);
    body.agent = peer->agent;
    body.secret = peer->secret;
    peer->data = peer_connect(addr);
    Endgame__Reply *reply = peer_ask(peer->data, ++peer->cookie, &request);
    ck_assert_ptr_nonnull(reply);
    ck_assert_uint_eq(reply->status, 0);
    forget(reply);
}

void peer_send_read(struct peer *peer, uint64_t offset, uint32_t len_bytes)
{
    struct eg_frame frame = {
        .magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ, .arg = len_bytes, .offset = offset, .cookie = offset ^ len_bytes
    };
    peer_send_all(peer->data, &frame, sizeof frame);
}

void peer_send_write(struct peer *peer, uint64_t offset, const void *bytes, uint32_t len_bytes)
{
    struct eg_frame frame = { .magic = EG_WIRE_MAGIC,
                              .type = EG_FRAME_WRITE,
                              .len_bytes = len_bytes,
                              .arg = len_bytes,
                              .offset = offset,
                              .cookie = offset ^ len_bytes };
    peer_send_all(peer->data, &frame, sizeof frame);
    peer_send_all(peer->data, bytes, len_bytes);
}

uint32_t peer_reply(struct peer *peer, void *bytes, uint32_t *ret_len_bytes)
{
    static uint8_t sink[EG_DATA_MAX_BYTES];
    struct eg_frame frame;
    ck_assert_msg(peer_recv_all(peer->data, &frame, sizeof frame), "the server hung up");
    ck_assert_uint_eq(frame.magic, EG_WIRE_MAGIC);
    ck_assert(frame.type == EG_FRAME_READ_REPLY || frame.type == EG_FRAME_WRITE_REPLY);
    ck_assert_uint_eq(frame.cookie, frame.offset ^ frame.arg);
    ck_assert_uint_le(frame.len_bytes, EG_DATA_MAX_BYTES);
    if (frame.len_bytes) ck_assert(peer_recv_all(peer->data, bytes ? bytes : sink, frame.len_bytes));
    if (ret_len_bytes) *ret_len_bytes = frame.len_bytes;
    return frame.status;
}

uint32_t peer_read(struct peer *peer, uint64_t offset, void *bytes, uint32_t len_bytes)
{
    uint32_t got;
    peer_send_read(peer, offset, len_bytes);
    uint32_t status = peer_reply(peer, bytes, &got);
    ck_assert_uint_eq(got, status ? 0 : len_bytes);
    return status;
}

uint32_t peer_write(struct peer *peer, uint64_t offset, const void *bytes, uint32_t len_bytes)
{
    peer_send_write(peer, offset, bytes, len_bytes);
    return peer_reply(peer, NULL, NULL);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 29);
}

void pattern_fill(void *bytes, size_t n, uint64_t seed)
{
    uint8_t *at = bytes;
    for (size_t i = 0; i < n; i++) at[i] = (uint8_t)(mix(seed * 0x10001 + (i >> 3) + 1) >> (8 * (i & 7)));
}

bool pattern_is(const void *bytes, size_t n, uint64_t seed)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < n; i++)
        if (at[i] != (uint8_t)(mix(seed * 0x10001 + (i >> 3) + 1) >> (8 * (i & 7)))) return false;
    return true;
}
