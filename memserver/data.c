#include "memserver/data.h"
#include "proto/eg_load.h"
#include "proto/eg_sys.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define ROUNDS_MAX 8u /* of one connection before the others get their turn */
#define IOV_BATCH 128u
#define EVENTS_BATCH 64
#define SPIN_START_NS 50000u
#define SPIN_MAX_NS 200000u
#define SPIN_MIN_NS 12000u    /* below this it is not worth the processor */
#define SPIN_PAUSES 16u      /* between two looks */
#define LOOKS 4u             /* of these one asks epoll, who knows of all connections; the others look at the last one that had something, which is one call less */
#define TAKEN_AWAY_NS 100000u /* somebody else had the processor meanwhile */
#define TAKEN_SOON_NS 50000000u
#define HOLD_MIN_NS 1000000u
#define HOLD_MAX_NS 256000000u

struct reply {
    struct eg_frame frame;
    uint64_t offset;     /* of the payload in the arena */
    uint32_t sent_bytes; /* of frame and payload */
    uint8_t *copy;       /* instead of the arena; the frame's len_bytes of it */
};

struct egm_data_conn {
    LIST_ENTRY(egm_data_conn) agent_link;  /* under the agent's data_lock */
    LIST_ENTRY(egm_data_conn) thread_link; /* the thread's own */
    struct egm_data *data;
    struct data_thread *thread;
    struct egm_agent *agent;
    int fd;
    uint32_t events; /* what epoll watches */
    bool local;      /* the client is on this machine */
    bool broken;     /* a reply cannot be sent any more */
    bool drained;    /* the last read took all that the socket had */
    bool eof;
    uint32_t in_at, in_end;
    struct eg_frame write; /* under way while write_left */
    uint32_t write_left;
    uint16_t write_status; /* not OK: the payload is dropped */
    uint32_t head, tail;   /* replies [head, tail) wait, counted without wrapping */
    uint64_t out_bytes;
    uint8_t in[EGM_DATA_IN_BYTES];
    struct reply replies[EGM_DATA_RING];
};

struct counters {
    _Atomic uint64_t reads, writes, read_bytes, written_bytes;
};

struct data_thread {
    struct egm_data *data;
    pthread_t thread;
    int epoll, wake;
    pthread_mutex_t lock;
    LIST_HEAD(, egm_data_conn) arriving; /* under lock */
    bool stopping;                       /* under lock */
    LIST_HEAD(, egm_data_conn) conns;
    struct egm_data_conn *last; /* of them, that had something; NULL */
    unsigned looks;
    struct counters counters;
    uint64_t spin_ns;
    uint64_t turn_ns; /* of the last turn that it spun */
    bool beside;      /* the client of the last request shares the processor: it cannot run meanwhile */
    uint64_t hold_ns, taken_ns; /* no spinning for so long after it was seen that others want the processor */
};

struct egm_data {
    unsigned n_threads, next_thread;
    bool one_processor; /* whoever spins keeps its client from running */
    _Atomic uint64_t *bad_frames;
    _Atomic uint32_t *n_conns;
    struct counters counters; /* of connections without a thread */
    struct data_thread threads[];
};

/* Written by one thread only: no need for a locked addition. */
static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static struct counters *conn_counters(struct egm_data_conn *conn)
{
    return conn->thread ? &conn->thread->counters : &conn->data->counters;
}

/* ---- one connection; everything here under the agent's data_lock for reading ---- */

static bool out_full(const struct egm_data_conn *conn)
{
    return conn->tail - conn->head >= EGM_DATA_RING || conn->out_bytes >= EGM_DATA_OUT_MAX_BYTES;
}

static void push_reply(struct egm_data_conn *conn, const struct eg_frame *request, uint8_t type, enum eg_status status,
                       uint32_t len_bytes)
{
    struct reply *reply = &conn->replies[conn->tail++ & (EGM_DATA_RING - 1)];
    reply->frame = (struct eg_frame){
        .magic = EG_WIRE_MAGIC,
        .type = type,
        .status = (uint16_t)status,
        .len_bytes = len_bytes,
        .arg = request->arg,
        .offset = request->offset,
        .cookie = request->cookie,
    };
    reply->offset = request->offset;
    reply->sent_bytes = 0;
    reply->copy = NULL;
    conn->out_bytes += sizeof reply->frame + len_bytes;
}

static void pop_reply(struct egm_data_conn *conn)
{
    struct reply *reply = &conn->replies[conn->head++ & (EGM_DATA_RING - 1)];
    free(reply->copy);
    reply->copy = NULL;
}

static unsigned reply_iov(const struct egm_data_conn *conn, struct reply *reply, struct iovec *iov)
{
    unsigned n = 0;
    uint32_t skip = reply->sent_bytes;
    if (skip < sizeof reply->frame) {
        iov[n++] = (struct iovec){ (uint8_t *)&reply->frame + skip, sizeof reply->frame - skip };
        skip = 0;
    } else {
        skip -= (uint32_t)sizeof reply->frame;
    }
    if (reply->frame.len_bytes > skip) {
        uint8_t *payload = reply->copy ? reply->copy : conn->agent->session->arena + reply->offset;
        iov[n++] = (struct iovec){ payload + skip, reply->frame.len_bytes - skip };
    }
    return n;
}

/* Returns: false when the connection is lost. */
static bool flush(struct egm_data_conn *conn)
{
    while (conn->head != conn->tail) {
        struct iovec iov[IOV_BATCH];
        unsigned n = 0;
        for (uint32_t i = conn->head; i != conn->tail && n + 2 <= IOV_BATCH; i++)
            n += reply_iov(conn, &conn->replies[i & (EGM_DATA_RING - 1)], iov + n);
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n };
        ssize_t sent = sendmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return errno == EAGAIN;
        conn->out_bytes -= (uint64_t)sent;
        for (size_t left = (size_t)sent; left;) {
            struct reply *reply = &conn->replies[conn->head & (EGM_DATA_RING - 1)];
            size_t whole = sizeof reply->frame + reply->frame.len_bytes - reply->sent_bytes;
            if (left < whole) {
                reply->sent_bytes += (uint32_t)left;
                break;
            }
            left -= whole;
            pop_reply(conn);
        }
    }
    return true;
}

/* May change while a payload is coming in, so asked again before each piece. */
static enum eg_status write_allowed(const struct egm_data_conn *conn, const struct eg_frame *frame)
{
    if (!frame->len_bytes) return EG_STATUS_INVALID;
    if (!egm_agent_may_read(conn->agent, frame->offset, frame->len_bytes)) return EG_STATUS_RANGE;
    return egm_agent_shares(conn->agent, frame->offset, frame->len_bytes) ? EG_STATUS_INVALID : EG_STATUS_OK;
}

static void write_advance(struct egm_data_conn *conn, uint32_t n)
{
    conn->write_left -= n;
    if (conn->write_left) return;
    push_reply(conn, &conn->write, EG_FRAME_WRITE_REPLY, conn->write_status, 0);
    if (conn->write_status) return;
    count(&conn_counters(conn)->writes, 1);
    count(&conn_counters(conn)->written_bytes, conn->write.len_bytes);
}

static uint8_t *write_place(const struct egm_data_conn *conn)
{
    return conn->agent->session->arena + conn->write.offset + (conn->write.len_bytes - conn->write_left);
}

static void serve_read(struct egm_data_conn *conn, const struct eg_frame *frame)
{
    enum eg_status status = !frame->arg                                                   ? EG_STATUS_INVALID
                            : !egm_agent_may_read(conn->agent, frame->offset, frame->arg) ? EG_STATUS_RANGE
                                                                                          : EG_STATUS_OK;
    push_reply(conn, frame, EG_FRAME_READ_REPLY, status, status ? 0 : frame->arg);
    if (status) return;
    count(&conn_counters(conn)->reads, 1);
    count(&conn_counters(conn)->read_bytes, frame->arg);
}

static bool frame_ok(const struct eg_frame *frame)
{
    if (frame->magic != EG_WIRE_MAGIC || frame->flags) return false;
    if (frame->type == EG_FRAME_READ) return !frame->len_bytes && frame->arg <= EG_DATA_MAX_BYTES;
    return frame->type == EG_FRAME_WRITE && frame->len_bytes <= EG_DATA_MAX_BYTES;
}

/* Serves what is in the input buffer, as far as the output has room. Returns: false when the peer talks nonsense. */
static bool parse(struct egm_data_conn *conn)
{
    while (!out_full(conn)) {
        uint32_t have = conn->in_end - conn->in_at;
        if (conn->write_left) {
            uint32_t n = have < conn->write_left ? have : conn->write_left;
            if (!n) return true;
            if (!conn->write_status) memcpy(write_place(conn), conn->in + conn->in_at, n);
            conn->in_at += n;
            write_advance(conn, n);
            continue;
        }
        struct eg_frame frame;
        if (have < sizeof frame) return true;
        memcpy(&frame, conn->in + conn->in_at, sizeof frame);
        if (!frame_ok(&frame)) return false;
        conn->in_at += (uint32_t)sizeof frame;
        if (frame.type == EG_FRAME_READ) {
            serve_read(conn, &frame);
            continue;
        }
        conn->write = frame;
        conn->write_left = frame.len_bytes;
        conn->write_status = (uint16_t)write_allowed(conn, &frame);
        if (!frame.len_bytes) write_advance(conn, 0);
    }
    return true;
}

/* Returns: bytes read; 0 at the end; -errno. */
static ssize_t receive(struct egm_data_conn *conn)
{
    struct iovec iov[2];
    int n = 0;
    uint32_t direct = conn->write_left && !conn->write_status ? conn->write_left : 0;

    if (conn->in_at) {
        memmove(conn->in, conn->in + conn->in_at, conn->in_end - conn->in_at);
        conn->in_end -= conn->in_at;
        conn->in_at = 0;
    }
    if (direct) iov[n++] = (struct iovec){ write_place(conn), direct };
    iov[n++] = (struct iovec){ conn->in + conn->in_end, sizeof conn->in - conn->in_end };
    size_t room = direct + sizeof conn->in - conn->in_end;
    ssize_t got = readv(conn->fd, iov, n);
    if (got < 0) return -errno;
    conn->drained = (size_t)got < room;
    uint32_t in_place = (size_t)got < direct ? (uint32_t)got : direct;
    conn->in_end += (uint32_t)((size_t)got - in_place);
    if (in_place) write_advance(conn, in_place);
    return got;
}

static bool mid_frame(const struct egm_data_conn *conn) { return conn->write_left || conn->in_at != conn->in_end; }

static enum egm_serve serve_locked(struct egm_data_conn *conn)
{
    bool traffic = false;

    if (conn->broken) return EGM_SERVE_CLOSE;
    /* Since the last time the slab may have been given back, or shared with a snapshot. */
    if (conn->write_left && !conn->write_status) conn->write_status = (uint16_t)write_allowed(conn, &conn->write);
    for (unsigned round = 0;;) {
        if (!parse(conn)) {
            atomic_fetch_add(conn->data->bad_frames, 1);
            (void)flush(conn);
            return EGM_SERVE_CLOSE;
        }
        bool was_full = out_full(conn);
        if (!flush(conn)) return EGM_SERVE_CLOSE;
        if (out_full(conn)) return EGM_SERVE_BUSY;
        if (was_full) continue; /* the input may hold more whole requests */
        if (conn->eof) {
            if (mid_frame(conn)) atomic_fetch_add(conn->data->bad_frames, 1);
            return EGM_SERVE_CLOSE;
        }
        if (traffic && (conn->drained || ++round >= ROUNDS_MAX)) return EGM_SERVE_BUSY;
        ssize_t got = receive(conn);
        if (got == -EINTR) continue;
        if (got == -EAGAIN) return traffic ? EGM_SERVE_BUSY : EGM_SERVE_IDLE;
        if (got < 0) return EGM_SERVE_CLOSE;
        if (!got) conn->eof = true;
        traffic = true;
    }
}

enum egm_serve egm_data_conn_serve(struct egm_data_conn *conn)
{
    struct egm_agent *agent = conn->agent;
    pthread_rwlock_rdlock(&agent->data_lock);
    enum egm_serve r = agent->gone ? EGM_SERVE_CLOSE : serve_locked(conn);
    pthread_rwlock_unlock(&agent->data_lock);
    return r;
}

void egm_data_on_drop(struct egm_agent *agent)
{
    struct egm_data_conn *conn;
    LIST_FOREACH (conn, &agent->data_conns, agent_link) {
        if (agent->gone) {
            conn->broken = true;
            shutdown(conn->fd, SHUT_RDWR); /* wakes its thread, which closes it */
            continue;
        }
        for (uint32_t i = conn->head; i != conn->tail; i++) {
            struct reply *reply = &conn->replies[i & (EGM_DATA_RING - 1)];
            uint32_t len = reply->frame.len_bytes;
            if (!len || reply->copy || egm_agent_may_read(agent, reply->offset, len)) continue;
            reply->copy = malloc(len);
            if (reply->copy) memcpy(reply->copy, agent->session->arena + reply->offset, len);
            else conn->broken = true;
        }
    }
}

struct egm_data_conn *egm_data_conn_new(struct egm_data *data, struct egm_agent *agent, int fd, const void *early,
                                        size_t early_bytes)
{
    if (early_bytes > EGM_DATA_IN_BYTES) return NULL;
    struct egm_data_conn *conn = calloc(1, sizeof *conn);
    if (!conn) return NULL;
    conn->data = data;
    conn->agent = agent;
    conn->fd = fd;
    conn->local = eg_load_is_local(fd);
    if (early_bytes) memcpy(conn->in, early, early_bytes);
    conn->in_end = (uint32_t)early_bytes;
    atomic_fetch_add_explicit(&agent->refs, 1, memory_order_relaxed);
    pthread_rwlock_wrlock(&agent->data_lock);
    LIST_INSERT_HEAD(&agent->data_conns, conn, agent_link);
    pthread_rwlock_unlock(&agent->data_lock);
    return conn;
}

void egm_data_conn_free(struct egm_data_conn *conn)
{
    pthread_rwlock_wrlock(&conn->agent->data_lock);
    LIST_REMOVE(conn, agent_link);
    pthread_rwlock_unlock(&conn->agent->data_lock);
    while (conn->head != conn->tail) pop_reply(conn);
    if (conn->fd >= 0) {
        close(conn->fd);
        atomic_fetch_sub(conn->data->n_conns, 1);
    }
    egm_agent_put(conn->agent);
    free(conn);
}

/* ---- threads ---- */

static bool watch(struct egm_data_conn *conn)
{
    uint32_t want = (out_full(conn) ? 0 : (uint32_t)EPOLLIN) | (conn->head != conn->tail ? (uint32_t)EPOLLOUT : 0);
    if (want == conn->events) return true;
    struct epoll_event event = { .events = want, .data.ptr = conn };
    if (epoll_ctl(conn->thread->epoll, conn->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, conn->fd, &event)) return false;
    conn->events = want;
    return true;
}

/* Returns: was there traffic? */
static bool thread_serve(struct egm_data_conn *conn)
{
    struct data_thread *thread = conn->thread;
    enum egm_serve r = egm_data_conn_serve(conn);
    if (r == EGM_SERVE_BUSY) thread->last = conn;
    if (r != EGM_SERVE_CLOSE && watch(conn)) return r == EGM_SERVE_BUSY;
    if (thread->last == conn) thread->last = NULL;
    LIST_REMOVE(conn, thread_link);
    egm_data_conn_free(conn);
    return true;
}

/* Takes over what the control thread hands in. Returns: false when the thread is to end. */
static bool thread_arrivals(struct data_thread *thread)
{
    uint64_t n;
    (void)!read(thread->wake, &n, sizeof n);
    for (;;) {
        pthread_mutex_lock(&thread->lock);
        bool stopping = thread->stopping;
        struct egm_data_conn *conn = LIST_FIRST(&thread->arriving);
        if (conn) LIST_REMOVE(conn, thread_link);
        pthread_mutex_unlock(&thread->lock);
        if (!conn) return !stopping;
        LIST_INSERT_HEAD(&thread->conns, conn, thread_link);
        (void)thread_serve(conn);
    }
}

/* The window follows the gaps between one traffic and the next: it opens when waiting a little longer would have caught the
 * next request, which is also learnt from a wake-up, and closes when waiting was in vain. */
static void spin_learn(struct data_thread *thread, uint64_t gap_ns)
{
    if (gap_ns > SPIN_MAX_NS) {
        thread->spin_ns /= 2;
        if (thread->spin_ns < SPIN_MIN_NS) thread->spin_ns = 0;
        return;
    }
    if (thread->data->one_processor) return;
    uint64_t want = 4 * gap_ns;
    if (want < SPIN_START_NS) want = SPIN_START_NS;
    if (want > SPIN_MAX_NS) want = SPIN_MAX_NS;
    if (thread->spin_ns < want) thread->spin_ns = want;
}

/* Others want the processor: for a while this thread does not spin, twice as long if that is soon seen again. (Requests that come are no sign
 * that nobody wants it: between two such times a slice's worth of them is served, a hundred.) */
static void spin_not(struct data_thread *thread, uint64_t now_ns)
{
    bool soon = now_ns - thread->taken_ns < thread->hold_ns + TAKEN_SOON_NS;
    thread->hold_ns = !soon ? HOLD_MIN_NS : thread->hold_ns < HOLD_MAX_NS ? 2 * thread->hold_ns : HOLD_MAX_NS;
    thread->taken_ns = now_ns;
}

/* One turn of waiting without sleep. Returns: false when it is time to sleep.
 * The processor is not given away in between: where somebody else wants it, a yield costs milliseconds, and a sleeper would be run at once when its
 * request comes. Whoever needs the processor takes it; when that is seen, do not spin for a while, longer each time. */
static bool spin_on(struct data_thread *thread, uint64_t last_ns)
{
    uint64_t now_ns = egm_now_ns();
    if (thread->turn_ns > last_ns && now_ns - thread->turn_ns > TAKEN_AWAY_NS) spin_not(thread, now_ns);
    if (thread->turn_ns <= last_ns) thread->beside = thread->last && thread->last->local && eg_load_beside(thread->last->fd);
    thread->turn_ns = now_ns;
    if (thread->beside || !thread->spin_ns || now_ns - last_ns >= thread->spin_ns || now_ns - thread->taken_ns < thread->hold_ns) return false;
    for (unsigned i = 0; i < SPIN_PAUSES; i++) eg_cpu_relax();
    return true;
}

static void *thread_main(void *arg)
{
    struct data_thread *thread = arg;
    struct epoll_event events[EVENTS_BATCH];
    uint64_t last_ns = egm_now_ns();

    for (;;) {
        bool traffic = false;
        int n = 0;
        if (thread->last && ++thread->looks % LOOKS) traffic = thread_serve(thread->last);
        else n = epoll_wait(thread->epoll, events, EVENTS_BATCH, 0);
        if (!n && !traffic) {
            if (spin_on(thread, last_ns)) continue;
            n = epoll_wait(thread->epoll, events, EVENTS_BATCH, -1);
            thread->turn_ns = 0;
        }
        if (n < 0) continue; /* EINTR: nothing else can be */
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) traffic |= thread_serve(events[i].data.ptr);
            else if (!thread_arrivals(thread)) return NULL;
        }
        if (traffic) {
            uint64_t now_ns = egm_now_ns();
            spin_learn(thread, now_ns - last_ns);
            last_ns = now_ns;
        }
    }
}

static int thread_start(struct egm_data *data, struct data_thread *thread)
{
    struct epoll_event event = { .events = EPOLLIN };
    sigset_t all, before;

    thread->data = data;
    thread->spin_ns = data->one_processor ? 0 : SPIN_START_NS;
    thread->hold_ns = HOLD_MIN_NS;
    LIST_INIT(&thread->arriving);
    LIST_INIT(&thread->conns);
    thread->epoll = epoll_create1(EPOLL_CLOEXEC);
    thread->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (thread->epoll < 0 || thread->wake < 0 || epoll_ctl(thread->epoll, EPOLL_CTL_ADD, thread->wake, &event)) {
        int error = errno;
        if (thread->epoll >= 0) close(thread->epoll);
        if (thread->wake >= 0) close(thread->wake);
        return -error;
    }
    pthread_mutex_init(&thread->lock, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread->thread, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error) return 0;
    close(thread->epoll);
    close(thread->wake);
    pthread_mutex_destroy(&thread->lock);
    return -error;
}

int egm_data_new(unsigned n_threads, _Atomic uint64_t *bad_frames, _Atomic uint32_t *n_conns,
                 struct egm_data **ret_data)
{
    struct egm_data *data = calloc(1, sizeof *data + n_threads * sizeof data->threads[0]);
    if (!data) return -ENOMEM;
    data->bad_frames = bad_frames;
    data->n_conns = n_conns;
    data->one_processor = sysconf(_SC_NPROCESSORS_ONLN) == 1;
    for (; data->n_threads < n_threads; data->n_threads++) {
        int r = thread_start(data, &data->threads[data->n_threads]);
        if (r) {
            egm_data_free(data);
            return r;
        }
    }
    *ret_data = data;
    return 0;
}

void egm_data_free(struct egm_data *data)
{
    if (!data) return;
    for (unsigned i = 0; i < data->n_threads; i++) {
        struct data_thread *thread = &data->threads[i];
        struct egm_data_conn *conn;
        pthread_mutex_lock(&thread->lock);
        thread->stopping = true;
        pthread_mutex_unlock(&thread->lock);
        eventfd_write(thread->wake, 1);
        pthread_join(thread->thread, NULL);
        while ((conn = LIST_FIRST(&thread->conns))) {
            LIST_REMOVE(conn, thread_link);
            egm_data_conn_free(conn);
        }
        close(thread->epoll);
        close(thread->wake);
        pthread_mutex_destroy(&thread->lock);
    }
    free(data);
}

int egm_data_attach(struct egm_data *data, struct egm_agent *agent, int fd, const void *early, size_t early_bytes)
{
    if (!data->n_threads) return -ENOTSUP;
    struct egm_data_conn *conn = egm_data_conn_new(data, agent, fd, early, early_bytes);
    if (!conn) return -ENOMEM;
    struct data_thread *thread = &data->threads[data->next_thread++ % data->n_threads];
    conn->thread = thread;
    pthread_mutex_lock(&thread->lock);
    LIST_INSERT_HEAD(&thread->arriving, conn, thread_link);
    pthread_mutex_unlock(&thread->lock);
    eventfd_write(thread->wake, 1);
    return 0;
}

static void add_counters(struct egm_data_stats *stats, struct counters *counters)
{
    stats->reads += atomic_load_explicit(&counters->reads, memory_order_relaxed);
    stats->writes += atomic_load_explicit(&counters->writes, memory_order_relaxed);
    stats->read_bytes += atomic_load_explicit(&counters->read_bytes, memory_order_relaxed);
    stats->written_bytes += atomic_load_explicit(&counters->written_bytes, memory_order_relaxed);
}

void egm_data_stats(struct egm_data *data, struct egm_data_stats *ret_stats)
{
    struct egm_data_stats stats = { 0 };
    add_counters(&stats, &data->counters);
    for (unsigned i = 0; i < data->n_threads; i++) add_counters(&stats, &data->threads[i].counters);
    *ret_stats = stats;
}
