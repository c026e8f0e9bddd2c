#include "memserver/server.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "memserver/control.h"
#include "memserver/rdma.h"

#define ACCEPTS_PER_TURN 32
#define TRIM_FIRST_MS 100
#define ACCEPT_PAUSE_MS 100

struct egm_listener {
    LIST_ENTRY(egm_listener) link;
    struct egm_server *server;
    int fd;
    struct event *event, *resume;
    struct sockaddr_un path; /* unix */
    struct stat made;        /* unix: the socket file is ours as long as it is this one */
};

static struct timeval timeval_ms(unsigned ms)
{
    return (struct timeval){ .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
}

static void on_trim(evutil_socket_t fd, short what, void *arg)
{
    struct egm_server *server = arg;
    (void)fd;
    (void)what;
    unsigned ms = egm_store_trim(&server->store, egm_now_ns());
    if (ms) {
        struct timeval tv = timeval_ms(ms);
        evtimer_add(server->trim, &tv);
    }
    egm_server_settle(server);
}

void egm_server_settle(struct egm_server *server)
{
    const struct egm_session *session;
    bool idle = false;
    if ((server->draining || server->ending) && !server->store.n_sessions) {
        event_base_loopexit(server->base, NULL);
        return;
    }
    TAILQ_FOREACH (session, &server->store.sessions, link) idle |= session->idle_since_ns != 0;
    if ((server->store.pooled || idle) && !evtimer_pending(server->trim, NULL)) {
        struct timeval tv = timeval_ms(TRIM_FIRST_MS);
        evtimer_add(server->trim, &tv);
    }
}

int egm_server_init(struct egm_server *server, uint64_t capacity_bytes, uint64_t quota_bytes, unsigned n_threads)
{
    struct rlimit limit;
    int r;

    memset(server, 0, sizeof *server);
    LIST_INIT(&server->conns);
    LIST_INIT(&server->listeners);
    server->started_ns = egm_now_ns();
    server->max_conns = EGM_CONNECTIONS_MAX;
    server->verbs = &eg_verbs_real;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        /* A session has a descriptor of its own besides its agents' connections. */
        if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur != RLIM_INFINITY) {
            uint64_t room = limit.rlim_cur > 128 ? (limit.rlim_cur - 64) / 2 : 32;
            if (room < server->max_conns) server->max_conns = (uint32_t)room;
        }
    }
    r = egm_store_init(&server->store, capacity_bytes, quota_bytes);
    if (r) return r;
    server->store.on_drop = egm_data_on_drop;
    server->base = event_base_new();
    server->trim = server->base ? evtimer_new(server->base, on_trim, server) : NULL;
    r = server->trim ? egm_data_new(n_threads, &server->bad_frames, &server->n_conns, &server->data) : -ENOMEM;
    if (r) egm_server_done(server);
    return r;
}

static void listener_free(struct egm_listener *listener)
{
    struct stat now;
    if (listener->event) event_free(listener->event);
    if (listener->resume) event_free(listener->resume);
    if (listener->fd >= 0) close(listener->fd);
    if (listener->path.sun_path[0] && !lstat(listener->path.sun_path, &now) && now.st_dev == listener->made.st_dev &&
        now.st_ino == listener->made.st_ino)
        unlink(listener->path.sun_path);
    free(listener);
}

void egm_server_done(struct egm_server *server)
{
    struct egm_listener *listener;
    server->store.ending = true;
    while ((listener = LIST_FIRST(&server->listeners))) {
        LIST_REMOVE(listener, link);
        listener_free(listener);
    }
    egm_data_free(server->data); /* before the arenas go */
    server->data = NULL;
    struct egm_conn *conn;
    while ((conn = LIST_FIRST(&server->conns))) egm_conn_free(conn);
    egm_store_done(&server->store);
    egm_rdma_free(server->rdma); /* keys go with their sessions */
    server->rdma = NULL;
    if (server->trim) event_free(server->trim);
    if (server->base) event_base_free(server->base);
    server->trim = NULL;
    server->base = NULL;
}

static bool is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr) >> 24 == 127;
    if (sa->sa_family != AF_INET6) return false;
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
}

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

/* Buffer sizes are left to the kernel: its own tuning goes beyond what SO_SNDBUF and SO_RCVBUF may ask for. */
static void tune_tcp(int fd)
{
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* A machine that died must not hold its slabs for ever. */
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

static void on_accept(evutil_socket_t listen_fd, short what, void *arg)
{
    struct egm_listener *listener = arg;
    struct egm_server *server = listener->server;
    (void)what;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage sa;
        socklen_t len = sizeof sa;
        int fd = accept4(listen_fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
            struct timeval tv = timeval_ms(ACCEPT_PAUSE_MS);
            event_del(listener->event);
            evtimer_add(listener->resume, &tv);
            return;
        }
        if (fd < 0 && errno == EAGAIN) return;
        if (fd < 0) continue; /* that connection is gone already */
        if (atomic_load(&server->n_conns) >= server->max_conns) {
            close(fd);
            continue;
        }
        bool is_unix = listener->path.sun_family == AF_UNIX;
        if (is_unix) {
            struct ucred peer;
            socklen_t peer_len = sizeof peer;
            if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_len) || (peer.uid != geteuid() && peer.uid != 0)) {
                close(fd);
                continue;
            }
        } else {
            tune_tcp(fd);
        }
        (void)!egm_conn_new(server, fd, is_unix, is_unix || is_loopback((struct sockaddr *)&sa));
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct egm_listener *listener = arg;
    (void)fd;
    (void)what;
    event_add(listener->event, NULL);
}

/* A socket file that nobody listens on any more goes. Returns: 0, -EADDRINUSE (a live server), -EEXIST (not a socket), -errno. */
static int remove_stale(const struct sockaddr_un *path, socklen_t len)
{
    struct stat st;
    if (lstat(path->sun_path, &st)) return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) return -EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    int r = connect(fd, (const struct sockaddr *)path, len) ? errno : 0;
    close(fd);
    if (r != ECONNREFUSED) return r == ENOENT ? 0 : -EADDRINUSE;
    return unlink(path->sun_path) && errno != ENOENT ? -errno : 0;
}

static int explain(const struct eg_addr *addr, int error, char *why, size_t why_bytes)
{
    switch (error) {
    case EADDRINUSE:
        snprintf(why, why_bytes, "%s: another server listens there: stop it or choose another address", addr->text);
        break;
    case EEXIST:
        snprintf(why, why_bytes, "%s: the file is there and is not a socket: choose another path", addr->text);
        break;
    case EADDRNOTAVAIL:
        snprintf(why, why_bytes, "%s: this machine does not have that address: see ip addr", addr->text);
        break;
    case ENOENT:
        snprintf(why, why_bytes, "%s: no such directory: make it first", addr->text);
        break;
    case EACCES:
    case EPERM:
        snprintf(why, why_bytes, "%s: not permitted: %s", addr->text,
                 addr->sa.ss_family == AF_UNIX ? "choose a directory that you may write to"
                                               : "choose a port from 1024 on");
        break;
    default:
        snprintf(why, why_bytes, "%s: cannot listen: %s", addr->text, strerror(error));
    }
    return -error;
}

int egm_server_listen(struct egm_server *server, const struct eg_addr *addr, char *ret_text, size_t text_bytes,
                      char *ret_why, size_t why_bytes)
{
    if (addr->kind == EGM_ADDR_RDMA) return egm_rdma_listen(server, addr, ret_text, text_bytes, ret_why, why_bytes);
    const struct sockaddr *sa = (const struct sockaddr *)&addr->sa;
    struct egm_listener *listener = calloc(1, sizeof *listener);
    int error;

    if (!listener) return explain(addr, ENOMEM, ret_why, why_bytes);
    listener->server = server;
    listener->fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->fd < 0) goto fail;
    if (sa->sa_family == AF_UNIX) {
        struct sockaddr_un path;
        memcpy(&path, sa, sizeof path);
        error = remove_stale(&path, addr->len_bytes);
        if (error) {
            errno = -error;
            goto fail;
        }
        mode_t mask = umask(0177); /* 0600 from the first moment */
        int r = bind(listener->fd, sa, addr->len_bytes);
        umask(mask);
        if (r || lstat(path.sun_path, &listener->made)) goto fail;
        listener->path = path;
    } else {
        set_option(listener->fd, SOL_SOCKET, SO_REUSEADDR, 1);
        if (sa->sa_family == AF_INET6) set_option(listener->fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
        if (bind(listener->fd, sa, addr->len_bytes)) goto fail;
    }
    if (listen(listener->fd, SOMAXCONN)) goto fail;
    listener->event = event_new(server->base, listener->fd, EV_READ | EV_PERSIST, on_accept, listener);
    listener->resume = evtimer_new(server->base, on_resume, listener);
    if (!listener->event || !listener->resume || event_add(listener->event, NULL)) {
        errno = ENOMEM;
        goto fail;
    }
    if (sa->sa_family == AF_UNIX) {
        snprintf(ret_text, text_bytes, "%s", addr->text);
    } else {
        struct sockaddr_storage bound;
        socklen_t len = sizeof bound;
        if (getsockname(listener->fd, (struct sockaddr *)&bound, &len)) goto fail;
        eg_addr_format(addr->kind, (struct sockaddr *)&bound, len, ret_text, text_bytes);
        if (!is_loopback((struct sockaddr *)&bound))
            fprintf(stderr, "endgame-memserver: note: %s is open to the network without authentication\n", ret_text);
    }
    LIST_INSERT_HEAD(&server->listeners, listener, link);
    return 0;
fail:
    error = errno;
    listener_free(listener);
    return explain(addr, error, ret_why, why_bytes);
}
