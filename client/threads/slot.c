/* slot.c - threads' slots, and their streams to nodes. */
#include "client/threads/eg_proxy.h"

#include "client/pager/eg_pager.h"

#include <errno.h>
#include <sys/socket.h>

/* A thread is to go to the node, or is not there any more. */
void eg_node_gets(struct eg_node *n)
{
    __atomic_fetch_add(&n->n_threads, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&n->config->threads, 1, __ATOMIC_RELAXED);
}

void eg_node_loses(struct eg_node *n)
{
    uint32_t before = __atomic_fetch_sub(&n->n_threads, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&n->config->threads, 1, __ATOMIC_RELAXED);
    if (before == 1 && eg_rt.pool->threads_mode == EG_THREADS_AUTO)
        eg_home_wake(); /* quiet.c */
}

/* A handler jumped away from a call: the node still waits for its end. */
void eg_proxy_stream_left(struct eg_thread *t)
{
    if (t->fd < 0)
        return;
    eg_sys1(SYS_close, t->fd);
    t->fd = -1;
    eg_node_loses(eg_home.node[t->node]);
}

struct eg_thread *eg_home_thread(uint32_t tid)
{
    uint32_t n = __atomic_load_n(&eg_home.n_threads, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n; i++)
        if (__atomic_load_n(&eg_home.thread[i]->tid, __ATOMIC_RELAXED) == tid)
            return eg_home.thread[i];
    return NULL;
}

struct eg_thread *eg_proxy_slot(void)
{
    struct eg_home *h = &eg_home;
    struct eg_thread *t = NULL;
    eg_lock_take(&h->start_lock);
    for (uint32_t i = 0; i < h->n_threads && !t; i++)
        if (__atomic_load_n(&h->thread[i]->tid, __ATOMIC_ACQUIRE) == 0)
            t = h->thread[i];
    if (!t && h->n_threads < EG_THREADS && (t = eg_sys_map(EG_THREAD_BYTES))) {
        t->fd = t->signal_fd = -1;
        h->thread[h->n_threads] = t;
        __atomic_store_n(&h->n_threads, h->n_threads + 1, __ATOMIC_RELEASE);
    }
    if (t)
        t->tid = 1; /* taken; the kernel writes the number */
    eg_lock_give(&h->start_lock);
    if (t)
        eg_proxy_stream_left(t); /* its thread may have ended past the gate */
    return t;
}

int *eg_home_fd(uint32_t k)
{
    struct eg_home *h = &eg_home;
    if (k < 2)
        return k ? &h->load_fd : &h->maps_fd;
    k -= 2;
    if (k < h->n_nodes)
        return h->node[k] ? &h->node[k]->fd : &h->maps_fd;
    k -= h->n_nodes;
    if (k < 2 * h->n_threads)
        return k % 2 ? &h->thread[k / 2]->fd : &h->thread[k / 2]->signal_fd;
    k -= 2 * h->n_threads;
    for (uint32_t i = 0; i < h->n_nodes; i++) {
        if (h->node[i] && k < h->node[i]->n_free)
            return &h->node[i]->free[k].fd;
        k -= h->node[i] ? h->node[i]->n_free : 0;
    }
    return NULL;
}

const char *eg_task_text(uint32_t tid, const char *name, char *buf, size_t bytes)
{
    char path[64];
    size_t n = eg_str_put(path, sizeof path, 0, "/proc/self/task/");
    n = eg_str_put_u64(path, sizeof path, n, tid);
    path[eg_str_put(path, sizeof path - 1, n, name)] = 0;
    long fd = eg_fd_new(SYS_openat, -100, (long)path, 02000000, 0);
    long got = eg_sys_failed(fd) ? -1 : eg_sys3(SYS_read, fd, buf, bytes - 1);
    if (!eg_sys_failed(fd))
        eg_sys1(SYS_close, fd);
    buf[got > 0 ? got : 0] = 0;
    return buf;
}

uint64_t eg_task_mask(uint32_t tid, const char *line)
{
    char buf[2048];
    uint64_t mask = ~0ull;
    size_t len = eg_strlen(line);
    for (const char *at = eg_task_text(tid, "/status", buf, sizeof buf); *at; at++)
        if (*at == *line && (size_t)(buf + sizeof buf - at) > len && memcmp(at, line, len) == 0) {
            eg_str_hex(at + len, &mask);
            break;
        }
    return mask;
}

int eg_proxy_stream_take(struct eg_thread *t)
{
    struct eg_node *n = eg_home.node[t->node];
    eg_lock_take(&n->lock);
    if (n->n_free) {
        struct eg_stream_free f = n->free[--n->n_free];
        t->fd = f.fd;
        t->slot = f.slot;
    }
    eg_lock_give(&n->lock);
    if (t->fd < 0) {
        struct eg_node_welcome welcome;
        t->fd = eg_node_connect(t->node, EG_STREAM_THREAD, &welcome);
        t->slot = welcome.slot;
    }
    if (t->fd < 0)
        return t->fd;
    if (t->slot >= EG_THREADS)
        return -EPROTO;
    t->asked_ns = 0;
    __atomic_store_n(&n->slot[t->slot], t, __ATOMIC_RELEASE);
    return 0;
}

/* The node's thread is idle: the next one may have it. */
void eg_proxy_stream_give(struct eg_thread *t)
{
    struct eg_node *n = eg_home.node[t->node];
    eg_lock_take(&n->lock);
    int kept = n->n_free < EG_THREADS;
    if (kept)
        n->free[n->n_free++] = (struct eg_stream_free){t->fd, t->slot};
    eg_lock_give(&n->lock);
    eg_node_loses(n);
    if (!kept)
        eg_sys1(SYS_close, t->fd);
    t->fd = -1;
    t->where = EG_AT_HOME;
}

void eg_proxy_transfer(struct eg_thread *t, long nr, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        long n = eg_sys6(nr, t->fd, (uint8_t *)data + at, bytes - at, MSG_NOSIGNAL, 0, 0);
        if (n > 0)
            at += (size_t)n;
        else if (n != -EINTR)
            eg_proxy_lost(t);
    }
}
