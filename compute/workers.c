#include "compute/workers.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "compute/node.h"

#define BACKOFF_FIRST_MS 200u
#define BACKOFF_MAX_MS 30000u
#define REFILL_US 100000

uint64_t egc_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint32_t egc_workers_count(const struct egc_workers *workers, enum egc_worker_state state)
{
    const struct egc_worker *worker;
    uint32_t n = 0;
    LIST_FOREACH (worker, &workers->list, link) n += worker->state == state;
    return n;
}

uint32_t egc_workers_threads(const struct egc_workers *workers)
{
    const struct egc_worker *worker;
    uint32_t n = 0;
    LIST_FOREACH (worker, &workers->list, link)
        if (worker->state == EGC_BOUND) n += worker->threads;
    return n;
}

static void back_off(struct egc_workers *workers)
{
    unsigned shift = workers->failures < 8 ? workers->failures : 8;
    unsigned ms = BACKOFF_FIRST_MS << shift;
    if (ms > BACKOFF_MAX_MS) ms = BACKOFF_MAX_MS;
    struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
    workers->failures++;
    evtimer_add(workers->again, &tv);
}

/* Once until a worker has been of use again. */
static void report(const struct egc_workers *workers, const char *why)
{
    if (!workers->failures) fprintf(stderr, "endgame-compute: cannot start workers: %s\n", why);
}

static void close_channel(struct egc_worker *worker)
{
    if (worker->readable) event_free(worker->readable);
    if (worker->channel >= 0) close(worker->channel);
    worker->readable = NULL;
    worker->channel = -1;
}

static void free_worker(struct egc_worker *worker)
{
    close_channel(worker);
    LIST_REMOVE(worker, link);
    free(worker);
}

/* It has closed its channel, or must go: SIGCHLD will tell when it is gone. */
static void end_worker(struct egc_worker *worker)
{
    close_channel(worker);
    worker->state = EGC_ENDING;
    kill(worker->pid, SIGKILL);
}

static void on_message(evutil_socket_t fd, short what, void *arg)
{
    struct egc_worker *worker = arg;
    struct egc_workers *workers = worker->all;
    char text[160];
    (void)what;

    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n == 1 && text[0] == 'R' && worker->state == EGC_STARTING) {
        worker->state = EGC_WARM_WAITING;
    } else if (n == 1 + (ssize_t)sizeof worker->threads && text[0] == 'T' && worker->state == EGC_BOUND) {
        memcpy(&worker->threads, text + 1, sizeof worker->threads);
        worker->counts = true;
        return;
    } else {
        if (worker->state == EGC_STARTING || worker->state == EGC_WARM_WAITING) {
            text[n > 0 ? n : 0] = 0;
            report(workers, n > 1 && text[0] == 'F' ? text + 1 : "one ended before it had work");
            back_off(workers);
        }
        end_worker(worker);
    }
    egc_node_settle(workers->node);
}

static int start_worker(struct egc_workers *workers)
{
    struct egc_worker *worker = calloc(1, sizeof *worker);
    int ends[2];

    if (!worker) return -ENOMEM;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) {
        free(worker);
        return -errno;
    }
    worker->all = workers;
    worker->channel = ends[0];
    worker->readable = event_new(workers->node->base, ends[0], EV_READ | EV_PERSIST, on_message, worker);
    worker->pid = worker->readable && !event_add(worker->readable, NULL)
                      ? egc_isolation_spawn(&workers->isolation, ends[1], ends[0])
                      : -ENOMEM;
    int r = worker->pid < 0 ? worker->pid : 0;
    close(ends[1]);
    LIST_INSERT_HEAD(&workers->list, worker, link);
    if (r) free_worker(worker);
    return r;
}

static void keep_warm(struct egc_workers *workers)
{
    if (workers->ending || workers->node->draining || evtimer_pending(workers->again, NULL)) return;
    while (egc_workers_count(workers, EGC_STARTING) + egc_workers_count(workers, EGC_WARM_WAITING) < EGC_WARM) {
        int r = start_worker(workers);
        if (!r) continue;
        report(workers, strerror(-r));
        back_off(workers);
        return;
    }
}

/* A moment later: the one that was taken has its first thread to start now, perhaps on the same processors. */
static void keep_warm_soon(struct egc_workers *workers)
{
    const struct timeval moment = {0, REFILL_US};
    if (!evtimer_pending(workers->refill, NULL)) (void)evtimer_add(workers->refill, &moment);
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    keep_warm(arg);
}

static void on_child(evutil_socket_t number, short what, void *arg)
{
    struct egc_workers *workers = arg;
    struct egc_worker *worker, *next;
    (void)number;
    (void)what;

    for (worker = LIST_FIRST(&workers->list); worker; worker = next) {
        int status;
        next = LIST_NEXT(worker, link);
        if (waitpid(worker->pid, &status, WNOHANG) != worker->pid) continue;
        egc_isolation_ended(&workers->isolation, worker->pid);
        /* What it still said is read first: a reason may be there. */
        if (worker->state == EGC_STARTING) on_message(worker->channel, EV_READ, worker);
        if (worker->state == EGC_STARTING || worker->state == EGC_WARM_WAITING) back_off(workers);
        if (WIFSIGNALED(status) && (WTERMSIG(status) != SIGKILL || worker->state != EGC_ENDING))
            fprintf(stderr, "endgame-compute: worker %d died by signal %d%s\n", (int)worker->pid, WTERMSIG(status),
                    WTERMSIG(status) == SIGSYS ? ": it made a system call that workers may not make" : "");
        free_worker(worker);
    }
    keep_warm_soon(workers);
    egc_node_settle(workers->node);
}

static struct egc_worker *find_bound(struct egc_workers *workers, const struct eg_node_hello *hello)
{
    struct egc_worker *worker;
    LIST_FOREACH (worker, &workers->list, link)
        if (worker->state == EGC_BOUND && worker->process == hello->process &&
            !memcmp(worker->token, hello->token, EG_TOKEN_BYTES))
            return worker;
    return NULL;
}

static struct egc_worker *find_warm(struct egc_workers *workers)
{
    struct egc_worker *worker;
    LIST_FOREACH (worker, &workers->list, link)
        if (worker->state == EGC_WARM_WAITING) return worker;
    return NULL;
}

/* Returns: 0, -errno. */
static int pass(const struct egc_worker *worker, const struct eg_node_hello *hello, int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = { .bytes = { 0 } };
    struct iovec iov = { (void *)hello, sizeof *hello };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
    };
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    return sendmsg(worker->channel, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof *hello ? 0 : -errno;
}

static enum egc_hand refuse(enum eg_status status, const char *why, enum eg_status *ret_status, char *ret_why,
                            size_t why_bytes)
{
    *ret_status = status;
    snprintf(ret_why, why_bytes, "%s", why);
    return EGC_REFUSED;
}

enum egc_hand egc_workers_hand(struct egc_workers *workers, const struct eg_node_hello *hello, int fd, bool allow_new,
                               enum eg_status *ret_status, char *ret_why, size_t why_bytes)
{
    struct egc_worker *worker = find_bound(workers, hello);
    bool coherence = hello->kind == EG_STREAM_COHERENCE;

    if (coherence && worker)
        return refuse(EG_STATUS_INVALID, "that process has a worker already", ret_status, ret_why, why_bytes);
    if (!coherence && !worker)
        return refuse(EG_STATUS_NOENT, "no worker for that process", ret_status, ret_why, why_bytes);
    if (coherence && !allow_new)
        return refuse(EG_STATUS_DRAINING, "this node takes no new programs", ret_status, ret_why, why_bytes);
    if (coherence && egc_workers_count(workers, EGC_BOUND) >= EGC_WORKERS_MAX)
        return refuse(EG_STATUS_NOSPACE, "too many processes have workers here", ret_status, ret_why, why_bytes);
    if (coherence && !(worker = find_warm(workers))) {
        if (evtimer_pending(workers->again, NULL))
            return refuse(EG_STATUS_INTERNAL, "workers do not start: see the daemon's messages", ret_status, ret_why, why_bytes);
        keep_warm(workers);
        return EGC_WAIT;
    }
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    int r = pass(worker, hello, fd);
    if (r == -EAGAIN || r == -ETOOMANYREFS) {
        (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        return EGC_WAIT;
    }
    if (r) {
        if (coherence) { /* a warm one that is dead: the next will do */
            end_worker(worker);
            keep_warm(workers);
            return EGC_WAIT;
        }
        return refuse(EG_STATUS_NOENT, "the worker has ended", ret_status, ret_why, why_bytes);
    }
    if (coherence) {
        worker->state = EGC_BOUND;
        workers->failures = 0;
        memcpy(worker->token, hello->token, EG_TOKEN_BYTES);
        worker->process = hello->process;
        worker->home_pid = (uint32_t)hello->pid;
        worker->bound_ns = egc_now_ns();
        workers->bound_total++;
        keep_warm_soon(workers);
    } else {
        worker->streams++;
        if (!worker->counts) worker->threads = worker->streams;
    }
    return EGC_HANDED;
}

int egc_workers_init(struct egc_workers *workers, struct egc_node *node, struct event_base *base, uint64_t memory_bytes,
                     char *ret_note, size_t note_bytes)
{
    memset(workers, 0, sizeof *workers);
    LIST_INIT(&workers->list);
    workers->node = node;
    int r = egc_isolation_init(&workers->isolation, memory_bytes, ret_note, note_bytes);
    if (r) return r;
    workers->child = evsignal_new(base, SIGCHLD, on_child, workers);
    workers->again = evtimer_new(base, on_again, workers);
    workers->refill = evtimer_new(base, on_again, workers);
    if (!workers->child || !workers->again || !workers->refill || event_add(workers->child, NULL)) {
        egc_workers_done(workers);
        snprintf(ret_note, note_bytes, "out of memory");
        return -ENOMEM;
    }
    keep_warm(workers);
    return 0;
}

void egc_workers_done(struct egc_workers *workers)
{
    struct egc_worker *worker;
    workers->ending = true;
    LIST_FOREACH (worker, &workers->list, link) kill(worker->pid, SIGKILL);
    while ((worker = LIST_FIRST(&workers->list))) {
        while (waitpid(worker->pid, NULL, 0) < 0 && errno == EINTR)
            ;
        egc_isolation_ended(&workers->isolation, worker->pid);
        free_worker(worker);
    }
    if (workers->child) event_free(workers->child);
    if (workers->again) event_free(workers->again);
    if (workers->refill) event_free(workers->refill);
    workers->child = workers->again = workers->refill = NULL;
    egc_isolation_done(&workers->isolation);
}
