/* torture_sync.c - condition variables, barriers, semaphores, once, and C11's threads. See torture.h for the command line. */
#include "torture.h"

#include <fcntl.h>
#include <limits.h>
#include <semaphore.h>
#include <threads.h>

/* ---- condition variables: a bounded queue ------------------------------------------------------------------------------- */

#define QUEUE_SLOTS 7

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_empty, not_full;
    unsigned head, n, producers;
    uint64_t items[QUEUE_SLOTS];
} queue;

static void queue_body(struct member *me)
{
    const int n = rounds(250);
    if (me->number % 2 == 0) {
        for (int i = 0; i < n; i++) {
            OK(pthread_mutex_lock(&queue.lock));
            while (queue.n == QUEUE_SLOTS)
                OK(pthread_cond_wait(&queue.not_full, &queue.lock));
            queue.items[(queue.head + queue.n++) % QUEUE_SLOTS] = (uint64_t)(me->number * n + i + 1);
            OK(pthread_cond_signal(&queue.not_empty));
            OK(pthread_mutex_unlock(&queue.lock));
        }
        OK(pthread_mutex_lock(&queue.lock));
        if (--queue.producers == 0)
            OK(pthread_cond_broadcast(&queue.not_empty));
        OK(pthread_mutex_unlock(&queue.lock));
        return;
    }
    for (;;) {
        OK(pthread_mutex_lock(&queue.lock));
        while (queue.n == 0 && queue.producers)
            OK(pthread_cond_wait(&queue.not_empty, &queue.lock));
        if (queue.n == 0) {
            OK(pthread_mutex_unlock(&queue.lock));
            return;
        }
        me->sum += queue.items[queue.head];
        queue.head = (queue.head + 1) % QUEUE_SLOTS;
        queue.n--;
        OK(pthread_mutex_unlock(&queue.lock));
        OK(pthread_cond_signal(&queue.not_full)); /* without the lock: allowed, too */
    }
}

static void bounded_queue(void)
{
    const int n_threads = (threads(4) + 1) / 2 * 2;
    const uint64_t n = (uint64_t)rounds(250);
    memset(&queue, 0, sizeof queue);
    OK(pthread_mutex_init(&queue.lock, NULL));
    OK(pthread_cond_init(&queue.not_empty, NULL));
    OK(pthread_cond_init(&queue.not_full, NULL));
    queue.producers = (unsigned)n_threads / 2;
    const uint64_t sum = crew_run(n_threads, queue_body, NULL);
    uint64_t wanted = 0;
    for (uint64_t p = 0; p < (uint64_t)n_threads; p += 2)
        wanted += n * p * n + n * (n + 1) / 2;
    EQUAL(sum, wanted);
    OK(pthread_cond_destroy(&queue.not_full));
    OK(pthread_cond_destroy(&queue.not_empty));
    OK(pthread_mutex_destroy(&queue.lock));
    result("%" PRIu64, sum);
}

/* ---- broadcast: everybody waits for the next generation ----------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t started, arrived;
    int generation, waiting;
} herd = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static void herd_body(struct member *me)
{
    const int n = rounds(60);
    OK(pthread_mutex_lock(&herd.lock));
    for (int i = 0; i < n; i++) {
        const int seen = herd.generation;
        EQUAL(seen, i);
        herd.waiting++;
        OK(pthread_cond_signal(&herd.arrived));
        while (herd.generation == seen)
            OK(pthread_cond_wait(&herd.started, &herd.lock));
        me->sum++;
    }
    OK(pthread_mutex_unlock(&herd.lock));
}

static void broadcast(void)
{
    const int n_threads = threads(4), n = rounds(60);
    herd.generation = herd.waiting = 0;
    struct member *crew = crew_start(n_threads, herd_body, NULL);
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&herd.lock));
        while (herd.waiting < n_threads)
            OK(pthread_cond_wait(&herd.arrived, &herd.lock));
        herd.waiting = 0;
        herd.generation++;
        OK(pthread_cond_broadcast(&herd.started));
        OK(pthread_mutex_unlock(&herd.lock));
    }
    const uint64_t woken = crew_join(crew);
    EQUAL(woken, (uint64_t)n_threads * (uint64_t)n);
    result("%" PRIu64, woken);
}

static void timedwait_body(struct member *me)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never;
    pthread_condattr_t attr;
    const clockid_t clock = me->number % 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
    OK(pthread_condattr_init(&attr));
    OK(pthread_condattr_setclock(&attr, clock));
    OK(pthread_cond_init(&never, &attr));
    OK(pthread_mutex_lock(&lock));
    for (int i = 0; i < 3; i++) {
        const struct timespec until = after_ms(clock, 10);
        int error;
        do
            error = pthread_cond_timedwait(&never, &lock, &until);
        while (!error); /* a spurious wake-up */
        EQUAL(error, ETIMEDOUT);
        CHECK(not_before(clock, until), "timedwait gave up too early");
    }
    const struct timespec past = {1, 0};
    EQUAL(pthread_cond_clockwait(&never, &lock, CLOCK_MONOTONIC, &past), ETIMEDOUT);
    OK(pthread_mutex_unlock(&lock));
    OK(pthread_cond_destroy(&never));
    OK(pthread_condattr_destroy(&attr));
}

static void timedwait(void)
{
    crew_run(threads(4), timedwait_body, NULL);
}

/* ---- barriers ----------------------------------------------------------------------------------------------------------- */

static pthread_barrier_t barrier;
static atomic_int serial_threads;
static struct {
    _Alignas(4096) uint64_t value;
} *column;

static void barrier_body(struct member *me)
{
    const int n = rounds(60);
    for (int i = 0; i < n; i++) {
        column[me->number].value = mix((uint64_t)(i * me->of + me->number));
        int error = pthread_barrier_wait(&barrier);
        if (error == PTHREAD_BARRIER_SERIAL_THREAD)
            atomic_fetch_add(&serial_threads, 1);
        else
            OK(error);
        const int other = (me->number + 1 + i) % me->of;
        CHECK(column[other].value == mix((uint64_t)(i * me->of + other)), "round %d: thread %d sees an old value of %d", i, me->number, other);
        error = pthread_barrier_wait(&barrier);
        CHECK(error == 0 || error == PTHREAD_BARRIER_SERIAL_THREAD, "barrier: %d", error);
    }
}

static void barrier_test(void)
{
    const int n = threads(4);
    column = NOT_NULL(aligned_alloc(4096, (size_t)n * sizeof *column));
    serial_threads = 0;
    OK(pthread_barrier_init(&barrier, NULL, (unsigned)n));
    crew_run(n, barrier_body, NULL);
    OK(pthread_barrier_destroy(&barrier));
    free(column);
    EQUAL(serial_threads, rounds(60));
    result("%d", serial_threads);
}

/* ---- semaphores --------------------------------------------------------------------------------------------------------- */

static sem_t *slots;
static atomic_int holders;

static void semaphore_body(struct member *me)
{
    const int n = rounds(120);
    for (int i = 0; i < n; i++) {
        const struct timespec until = after_ms(CLOCK_REALTIME, 60000);
        if (me->number % 3 == 0) {
            while (sem_trywait(slots) < 0) {
                EQUAL(errno, EAGAIN);
                sleep_ms(0);
            }
        } else if (me->number % 3 == 1) {
            SYS(sem_timedwait(slots, &until));
        } else {
            SYS(sem_wait(slots));
        }
        const int now = atomic_fetch_add(&holders, 1) + 1;
        CHECK(now <= 2, "%d threads hold a semaphore of 2", now);
        atomic_fetch_sub(&holders, 1);
        SYS(sem_post(slots));
        me->sum++;
    }
}

static void semaphore_use(sem_t *sem)
{
    int value;
    slots = sem;
    holders = 0;
    const uint64_t n = crew_run(threads(4), semaphore_body, NULL);
    SYS(sem_getvalue(sem, &value));
    EQUAL(value, 2);
    SYS(sem_wait(sem));
    SYS(sem_wait(sem));
    FAILS(sem_trywait(sem), EAGAIN);
    const struct timespec until = after_ms(CLOCK_REALTIME, 10);
    FAILS(sem_timedwait(sem, &until), ETIMEDOUT);
    CHECK(not_before(CLOCK_REALTIME, until), "sem_timedwait gave up too early");
    result("%" PRIu64, n);
}

static void semaphore(void)
{
    sem_t sem;
    SYS(sem_init(&sem, 0, 2));
    semaphore_use(&sem);
    SYS(sem_destroy(&sem));
}

static void named_semaphore(void)
{
    char name[64];
    snprintf(name, sizeof name, "/torture-sync-%ld", (long)getpid());
    sem_t *sem = sem_open(name, O_CREAT | O_EXCL, 0600, 2);
    CHECK(sem != SEM_FAILED, "sem_open: %s", strerror(errno));
    SYS(sem_unlink(name));
    semaphore_use(sem);
    SYS(sem_close(sem));
}

/* Two semaphores, passed to and fro: nobody goes twice. */
static sem_t ping, pong;
static uint64_t ball;

static void ping_pong_body(struct member *me)
{
    const int n = rounds(150);
    for (int i = 0; i < n; i++) {
        SYS(sem_wait(me->number ? &pong : &ping));
        EQUAL(ball, 2 * i + me->number);
        ball++;
        SYS(sem_post(me->number ? &ping : &pong));
    }
}

static void ping_pong(void)
{
    ball = 0;
    SYS(sem_init(&ping, 0, 1));
    SYS(sem_init(&pong, 0, 0));
    crew_run(2, ping_pong_body, NULL);
    EQUAL(ball, 2 * rounds(150));
    result("%" PRIu64, ball);
}

/* ---- once --------------------------------------------------------------------------------------------------------------- */

#define MAX_ONCE 200

static pthread_once_t once_control[MAX_ONCE];
static atomic_int once_calls[MAX_ONCE];
static uint64_t once_value[MAX_ONCE];
static _Thread_local int once_number;

static void once_init(void)
{
    atomic_fetch_add(&once_calls[once_number], 1);
    if (once_number % 10 == 0)
        sleep_ms(1); /* so that the others have to wait */
    once_value[once_number] = mix((uint64_t)once_number + 77);
}

static void once_body(struct member *me)
{
    const int n = rounds(60) < MAX_ONCE ? rounds(60) : MAX_ONCE;
    (void)me;
    for (once_number = 0; once_number < n; once_number++) {
        OK(pthread_once(&once_control[once_number], once_init));
        CHECK(once_value[once_number] == mix((uint64_t)once_number + 77), "pthread_once returned before %d was initialised", once_number);
    }
}

static void once_test(void)
{
    const int n = rounds(60) < MAX_ONCE ? rounds(60) : MAX_ONCE;
    for (int i = 0; i < n; i++)
        once_control[i] = (pthread_once_t)PTHREAD_ONCE_INIT;
    crew_run(threads(4), once_body, NULL);
    for (int i = 0; i < n; i++)
        CHECK(once_calls[i] == 1, "pthread_once ran %d times for %d", once_calls[i], i);
    memset(once_calls, 0, sizeof once_calls);
}

/* ---- C11 ---------------------------------------------------------------------------------------------------------------- */

static mtx_t c11_lock;
static cnd_t c11_changed;
static tss_t c11_key;
static once_flag c11_once = ONCE_FLAG_INIT;
static thread_local int c11_own;
static int c11_turn, c11_n, c11_inits;
static atomic_int c11_destroyed;

static void c11_init(void)
{
    c11_inits++;
}

static void c11_destroy(void *value)
{
    atomic_fetch_add(&c11_destroyed, *(int *)value);
    free(value);
}

static int c11_main(void *arg)
{
    const int number = (int)(intptr_t)arg;
    int *value = NOT_NULL(malloc(sizeof *value));
    *value = number + 1;
    call_once(&c11_once, c11_init);
    EQUAL(tss_set(c11_key, value), thrd_success);
    c11_own = number;
    EQUAL(mtx_lock(&c11_lock), thrd_success);
    while (c11_turn != number)
        EQUAL(cnd_wait(&c11_changed, &c11_lock), thrd_success);
    c11_turn++;
    EQUAL(cnd_broadcast(&c11_changed), thrd_success);
    EQUAL(mtx_unlock(&c11_lock), thrd_success);
    EQUAL(c11_own, number);
    CHECK(tss_get(c11_key) == value, "tss_get gave another value");
    thrd_yield();
    thrd_exit(number * 3);
}

static void c11_threads(void)
{
    enum { MAX = 1000 };
    static thrd_t ids[MAX];
    c11_n = threads(4);
    c11_turn = c11_inits = 0;
    c11_destroyed = 0;
    c11_once = (once_flag)ONCE_FLAG_INIT;
    EQUAL(mtx_init(&c11_lock, mtx_timed), thrd_success);
    EQUAL(cnd_init(&c11_changed), thrd_success);
    EQUAL(tss_create(&c11_key, c11_destroy), thrd_success);
    for (int i = 0; i < c11_n; i++)
        EQUAL(thrd_create(&ids[i], c11_main, (void *)(intptr_t)(c11_n - 1 - i)), thrd_success);
    for (int i = 0; i < c11_n; i++) {
        int value = -1;
        EQUAL(thrd_join(ids[i], &value), thrd_success);
        EQUAL(value, (c11_n - 1 - i) * 3);
    }
    EQUAL(c11_turn, c11_n);
    EQUAL(c11_inits, 1);
    EQUAL(c11_destroyed, c11_n * (c11_n + 1) / 2);
    tss_delete(c11_key);
    cnd_destroy(&c11_changed);
    mtx_destroy(&c11_lock);
    result("%d", c11_destroyed);
}

static const struct sub_test tests[] = {
    {"bounded_queue", bounded_queue, "producers and consumers of a queue of seven slots"},
    {"broadcast", broadcast, "everybody is woken, in every generation"},
    {"timedwait", timedwait, "waits that end by their time, on both clocks"},
    {"barrier", barrier_test, "phases between barriers, one page to a thread"},
    {"semaphore", semaphore, "at most two inside, by three ways in"},
    {"named_semaphore", named_semaphore, "the same with a semaphore in a shared mapping"},
    {"ping_pong", ping_pong, "two semaphores, to and fro"},
    {"once", once_test, "pthread_once, entered by all at once"},
    {"c11_threads", c11_threads, "thrd, mtx, cnd, tss, call_once"},
};

TORTURE_MAIN(tests)
