#include "memserver/server.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "memserver/control.h"
#include "memserver/rdma.h"
#include "proto/eg_listen.h"

#define ACCEPTS_PER_TURN 32
#define TRIM_FIRST_MS 100
#define ACCEPT_PAUSE_MS 100

struct egm_listener {
    LIST_ENTRY(egm_listener) link;
    struct egm_server *server;
    struct eg_listener at;
    struct event *event, *resume;
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
    if (server->ending) egm_store_end_idle(&server->store);
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
    if (listener->event) event_free(listener->event);
    if (listener->resume) event_free(listener->resume);
    eg_listener_close(&listener->at);
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

static void on_accept(evutil_socket_t listen_fd, short what, void *arg)
{
    struct egm_listener *listener = arg;
    struct egm_server *server = listener->server;
    (void)listen_fd;
    (void)what;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        bool local, is_unix = listener->at.path.sun_family == AF_UNIX;
        int fd = eg_listener_accept(&listener->at, &local);
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
            struct timeval tv = timeval_ms(ACCEPT_PAUSE_MS);
            event_del(listener->event);
            evtimer_add(listener->resume, &tv);
            return;
        }
        if (fd == -EAGAIN) return;
        if (fd < 0) continue; /* that connection is gone already */
        if (atomic_load(&server->n_conns) >= server->max_conns) {
            close(fd);
            continue;
        }
        /* A machine that died must not hold its slabs for ever. */
        if (!is_unix) eg_listener_tune(fd, 30, 10, 3);
        (void)!egm_conn_new(server, fd, is_unix, local);
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct egm_listener *listener = arg;
    (void)fd;
    (void)what;
    event_add(listener->event, NULL);
}

int egm_server_listen(struct egm_server *server, const struct eg_addr *addr, char *ret_text, size_t text_bytes,
                      char *ret_why, size_t why_bytes)
{
    if (addr->kind == EGM_ADDR_RDMA) return egm_rdma_listen(server, addr, ret_text, text_bytes, ret_why, why_bytes);
    struct egm_listener *listener = calloc(1, sizeof *listener);
    if (!listener) return eg_listener_explain(addr, ENOMEM, ret_why, why_bytes);
    int r = eg_listener_open(addr, &listener->at, ret_text, text_bytes, ret_why, why_bytes);
    if (r) {
        free(listener);
        return r;
    }
    if (server->any_user && (r = eg_listener_let_in(&listener->at))) {
        listener_free(listener);
        return eg_listener_explain(addr, -r, ret_why, why_bytes);
    }
    listener->server = server;
    listener->event = event_new(server->base, listener->at.fd, EV_READ | EV_PERSIST, on_accept, listener);
    listener->resume = evtimer_new(server->base, on_resume, listener);
    if (!listener->event || !listener->resume || event_add(listener->event, NULL)) {
        listener_free(listener);
        return eg_listener_explain(addr, ENOMEM, ret_why, why_bytes);
    }
    if (!listener->at.loopback)
        fprintf(stderr, "endgame-memserver: note: %s is open to the network without authentication\n", ret_text);
    LIST_INSERT_HEAD(&server->listeners, listener, link);
    return 0;
}
