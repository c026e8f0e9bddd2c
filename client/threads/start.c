/* start.c - the agent begins, with streams to the nodes; and what is left of all that in the child of a fork. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_capture.h"
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <fcntl.h>

#define STACK_BYTES (256u << 10)
#define NODE_TRIES 15

static int memory_init(void)
{
    struct eg_home *h = &eg_home;
    if (!h->parked && !(h->parked = eg_sys_map(2 * EG_PARKED * sizeof *h->parked)))
        return -ENOMEM;
    struct eg_dir_wait *wait = h->dir.wait ? h->dir.wait : eg_sys_map(EG_DIR_WAITS * sizeof *wait);
    if (!wait)
        return -ENOMEM;
    eg_dir_init(&h->dir, &eg_agent_ops, wait);
    for (uint32_t k = 0; k < h->n_nodes; k++) {
        struct eg_node *n = h->node[k];
        if (!n && (n = h->node[k] = eg_sys_map(sizeof *n))) {
            n->config = &eg_rt.pool->nodes[k];
            n->out = eg_sys_map(EG_NODE_OUT_BYTES);
            n->in = eg_sys_map(EG_NODE_IN_BYTES);
            n->run = eg_sys_map(EG_NODE_RUNS * sizeof *n->run);
        }
        if (!n || !n->out || !n->in || !n->run)
            return -ENOMEM;
        n->fd = -1;
    }
    return 0;
}

static void *stack;

static long agent_run(void *unused)
{
    (void)unused;
    eg_agent_main();
    return 0;
}

/* From the pager's thread: its stack is small. */
static void agent_succeed(void)
{
    eg_gate_call_on((uint8_t *)stack + STACK_BYTES, agent_run, NULL);
}

int eg_home_activate(void)
{
    struct eg_home *h = &eg_home;
    if (h->active)
        return 0;
    h->n_nodes = eg_rt.pool->n_nodes < EG_HOME_NODES ? eg_rt.pool->n_nodes : EG_HOME_NODES;
    int rc = memory_init();
    if (rc || (!stack && !(stack = eg_sys_map(STACK_BYTES))))
        return -ENOMEM;
    eg_sys3(SYS_getrandom, &h->process, sizeof h->process, 0);
    eg_lock_take(&eg_rt.lock); /* the pager may be starting just now */
    if (eg_rt.uffd < 0)
        rc = eg_uffd_open();
    if (!rc && eg_rt.pagemap_fd < 0)
        eg_rt.pagemap_fd = eg_fd_high((int)eg_fd_new(SYS_openat, -100, (long)"/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC, 0));
    if (!rc && eg_rt.wake_fd < 0)
        rc = eg_account_listen();
    if (h->load_fd < 0) /* without it, nobody knows: the threads spin */
        h->load_fd = eg_fd_high((int)eg_fd_new(SYS_openat, -100, (long)"/proc/loadavg", O_RDONLY | O_CLOEXEC, 0));
    h->n_processors = eg_sys_processors();
    eg_lock_give(&eg_rt.lock);
    if (rc || eg_rt.pagemap_fd < 0 || eg_rt.wake_fd < 0)
        return rc ? rc : -EMFILE;
    uint32_t n_alive = 0;
    for (uint32_t k = 0; k < h->n_nodes; k++) {
        struct eg_node *n = h->node[k];
        struct eg_node_welcome welcome;
        /* A worker that died before its work is replaced, after a moment. */
        for (int tries = 0; n->fd < 0 && tries < NODE_TRIES; tries++) {
            struct timespec moment = {.tv_nsec = tries ? 100000000 : 0};
            eg_sys2(SYS_nanosleep, &moment, 0);
            n->fd = eg_node_connect(k, EG_STREAM_COHERENCE, &welcome);
            if (n->fd == -ECONNREFUSED || n->fd == -ENOENT || n->fd == -EAGAIN || n->fd == -EINPROGRESS)
                break; /* nobody is there, or does not answer in time */
        }
        n->alive = n->fd >= 0;
        n->most_pages = n->alive ? welcome.most_pages : 0;
        n_alive += n->alive;
        if (!n->alive)
            eg_warn_once(EG_WARN_ACTIVATE, "a compute node cannot be used: ", n->config->text);
    }
    if (!n_alive)
        return -EHOSTUNREACH;
    /* One thread reads the faults: the pager's becomes the agent, or the agent does the pager's work, too, once there is some. */
    long tid = 0;
    eg_lock_take(&eg_rt.lock);
    eg_rt.keeps = h->far ? eg_far_keeps : NULL;
    eg_rt.served = 1;
    if (eg_rt.active) {
        __atomic_store_n(&eg_rt.successor, agent_succeed, __ATOMIC_RELEASE);
        eg_pager_kick();
    } else {
        tid = eg_thread_start((uint8_t *)stack + STACK_BYTES, eg_agent_main);
    }
    eg_rt.served = !eg_sys_failed(tid);
    if (tid > 0)
        eg_rt.pager_tid = (uint32_t)tid;
    eg_lock_give(&eg_rt.lock);
    if (eg_sys_failed(tid))
        return (int)tid;
    __atomic_store_n(&h->active, 1, __ATOMIC_SEQ_CST);
    return 0;
}

void eg_home_child(void)
{
    struct eg_home *h = &eg_home;
    eg_rt.first_gone = 0;
    for (uint32_t k = 0; k < h->n_nodes; k++) {
        struct eg_node *n = h->node[k];
        if (!n)
            continue;
        if (n->fd >= 0)
            eg_sys1(SYS_close, n->fd);
        for (uint32_t i = 0; i < n->n_free; i++)
            eg_sys1(SYS_close, n->free[i].fd);
        n->fd = -1;
        n->alive = 0;
        n->n_free = n->n_threads = n->n_granted = 0;
        n->state = EG_NODE_CLEAN;
        n->broken = n->refuses = 0;
        n->n_drops = n->n_silent = 0;
        eg_lost_forget(k);
        n->n_held = n->n_leaving = n->run_begin = n->run_end = 0;
        n->out_at = n->out_end = n->in_end = 0;
        n->lock = (struct eg_lock){0};
    }
    for (uint32_t i = 0; i < h->n_threads; i++) {
        struct eg_thread *t = h->thread[i];
        int *fds[2] = {&t->fd, &t->signal_fd};
        for (uint32_t k = 0; k < 2; k++) {
            if (*fds[k] >= 0)
                eg_sys1(SYS_close, *fds[k]);
            *fds[k] = -1;
        }
        t->tid = t->tid == (uint32_t)eg_sys0(SYS_gettid) ? t->tid : 0;
        t->n_pushed = 0;
    }
    struct eg_dir_chunk *c;
    for (uint64_t at = 0, end; (c = eg_chunk_next(&at, EG_USER_END, &end)); at = end)
        memset(c, 0, sizeof *c);
    h->active = 0;
    h->n_parked = h->n_frozen = 0;
    h->pending = 0;
    h->request = EG_REQ_NONE;
    h->kicks = h->pushes = 0;
    eg_sleep_child();
    h->agent_asleep = 0;
    memset(h->held, 0, sizeof h->held);
    h->start_lock = h->memory_lock = h->halt_lock = (struct eg_lock){0};
    h->halt = 0;
    if (h->maps_fd >= 0)
        eg_sys1(SYS_close, h->maps_fd);
    h->maps_fd = eg_fd_high((int)eg_fd_new(SYS_openat, -100, (long)"/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0));
    h->n_reclaim = 0;
    eg_rt.pager_tid = 0;
    if (h->far)
        return; /* the pager has done the rest */
    eg_cap_child_start(0, 0);
    eg_rt.lock = (struct eg_lock){0};
}
