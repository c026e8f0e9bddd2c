/* torture_cancel.c - cancellation: deferred, asynchronous, in calls that block, with clean-up handlers; pthread_exit from deep inside. See
 * torture.h for the command line. */
#include "torture.h"

#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* ---- what a victim leaves behind ---------------------------------------------------------------------------------------- */

struct victim {
    pthread_t id;
    atomic_int ready;
    int fd[2];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    sem_t sem;
    int cleaned[8];
    int n_cleaned;
    atomic_int destroyed;
    atomic_ulong loops;
    pid_t child;
};

static pthread_key_t key;

static void key_destroy(void *arg)
{
    struct victim *victim = arg;
    atomic_fetch_add(&victim->destroyed, 1);
}

static struct victim *victim_new(void)
{
    struct victim *victim = NOT_NULL(calloc(1, sizeof *victim));
    SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, victim->fd));
    OK(pthread_mutex_init(&victim->lock, NULL));
    OK(pthread_cond_init(&victim->changed, NULL));
    SYS(sem_init(&victim->sem, 0, 0));
    return victim;
}

static void victim_free(struct victim *victim)
{
    SYS(close(victim->fd[0]));
    SYS(close(victim->fd[1]));
    OK(pthread_mutex_destroy(&victim->lock));
    OK(pthread_cond_destroy(&victim->changed));
    SYS(sem_destroy(&victim->sem));
    free(victim);
}

static void clean(struct victim *victim, int which)
{
    victim->cleaned[victim->n_cleaned++] = which;
}

static void clean_1(void *arg)
{
    clean(arg, 1);
}

static void clean_2(void *arg)
{
    clean(arg, 2);
}

static void clean_unlock(void *arg)
{
    struct victim *victim = arg;
    clean(victim, 3);
    OK(pthread_mutex_unlock(&victim->lock));
}

/* Cancels when the victim is ready, and checks how it ended. */
static void cancel_and_check(struct victim *victim, long delay_ms, int n_cleaned)
{
    void *value = NULL;
    wait_until_at_least(&victim->ready, 1);
    if (delay_ms >= 0)
        sleep_ms(delay_ms);
    OK(pthread_cancel(victim->id));
    OK(pthread_join(victim->id, &value));
    CHECK(value == PTHREAD_CANCELED, "a cancelled thread returned %p", value);
    EQUAL(victim->n_cleaned, n_cleaned);
    EQUAL(victim->destroyed, 1);
}

#define N_KINDS 9

static const char *const kind_names[N_KINDS] = {"read", "cond_wait", "sem_wait", "nanosleep", "poll", "join", "recv", "cond_timedwait", "waitpid"};

static void *sleeper_main(void *arg)
{
    (void)arg;
    sleep_ms(300000);
    return NULL;
}

static pthread_t sleeper;

static void *blocked_main(void *arg)
{
    struct victim *victim = ((void **)arg)[0];
    const int kind = (int)(intptr_t)((void **)arg)[1];
    char byte;
    const struct timespec until = after_ms(CLOCK_REALTIME, 300000), nap = {300, 0};
    struct pollfd wait = {victim->fd[0], POLLIN, 0};
    OK(pthread_setspecific(key, victim));
    pthread_cleanup_push(clean_1, victim);
    pthread_cleanup_push(clean_2, victim);
    OK(pthread_mutex_lock(&victim->lock));
    pthread_cleanup_push(clean_unlock, victim);
    atomic_store(&victim->ready, 1);
    switch (kind) {
    case 0: complain(__FILE__, __LINE__, "read gave %zd", read(victim->fd[0], &byte, 1));
    case 1:
        for (;;)
            OK(pthread_cond_wait(&victim->changed, &victim->lock));
    case 2: complain(__FILE__, __LINE__, "sem_wait gave %d", sem_wait(&victim->sem));
    case 3: complain(__FILE__, __LINE__, "nanosleep gave %d", nanosleep(&nap, NULL));
    case 4: complain(__FILE__, __LINE__, "poll gave %d", poll(&wait, 1, -1));
    case 5: complain(__FILE__, __LINE__, "join gave %d", pthread_join(sleeper, NULL));
    case 6: complain(__FILE__, __LINE__, "recv gave %zd", recv(victim->fd[0], &byte, 1, 0));
    case 7:
        for (;;)
            OK(pthread_cond_timedwait(&victim->changed, &victim->lock, &until));
    default:
        victim->child = fork();
        if (victim->child == 0) {
            alarm(60); /* in case that nobody ends it */
            sleep_ms(300000);
            _exit(0);
        }
        complain(__FILE__, __LINE__, "waitpid gave %d", (int)waitpid(victim->child, NULL, 0));
    }
    pthread_cleanup_pop(0);
    pthread_cleanup_pop(0);
    pthread_cleanup_pop(0);
    return NULL;
}

/* At once, when it may not have got there yet, and later, when it sleeps in the kernel. */
static void blocked_kind(int kind)
{
    for (int i = 0; i < 2; i++) {
        struct victim *victim = victim_new();
        void *args[2] = {victim, (void *)(intptr_t)kind};
        OK(pthread_create(&victim->id, NULL, blocked_main, args));
        cancel_and_check(victim, i ? 15 : -1, 3);
        CHECK(victim->cleaned[0] == 3 && victim->cleaned[1] == 2 && victim->cleaned[2] == 1, "%s: clean-up in another order", kind_names[kind]);
        OK(pthread_mutex_trylock(&victim->lock)); /* its handler unlocked it */
        OK(pthread_mutex_unlock(&victim->lock));
        if (victim->child > 0) {
            SYS(kill(victim->child, SIGKILL));
            EQUAL(SYS(waitpid(victim->child, NULL, 0)), victim->child);
        }
        victim_free(victim);
    }
}

static void blocked(void)
{
    OK(pthread_key_create(&key, key_destroy));
    OK(pthread_create(&sleeper, NULL, sleeper_main, NULL));
    for (int kind = 0; kind < N_KINDS; kind++)
        blocked_kind(kind);
    OK(pthread_cancel(sleeper));
    OK(pthread_join(sleeper, NULL));
    OK(pthread_key_delete(key));
    result("%d", N_KINDS);
}

/* ---- deferred: only where it says so ------------------------------------------------------------------------------------ */

static void *deferred_main(void *arg)
{
    struct victim *victim = arg;
    OK(pthread_setspecific(key, victim));
    pthread_cleanup_push(clean_1, victim);
    /* While it is disabled, nothing is a cancellation point. */
    OK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL));
    atomic_store(&victim->ready, 1);
    for (int i = 0; i < 20; i++) {
        sleep_ms(1);
        pthread_testcancel();
        atomic_fetch_add(&victim->loops, 1);
    }
    int state;
    OK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state));
    EQUAL(state, PTHREAD_CANCEL_DISABLE);
    for (int i = 0; i < 100000; i++) /* no cancellation point, either */
        atomic_fetch_add(&victim->loops, 1);
    for (;;) {
        pthread_testcancel();
        sched_yield();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static void deferred(void)
{
    OK(pthread_key_create(&key, key_destroy));
    for (int i = 0; i < 3; i++) {
        struct victim *victim = victim_new();
        OK(pthread_create(&victim->id, NULL, deferred_main, victim));
        cancel_and_check(victim, i, 1);
        EQUAL(victim->loops, 100020);
        victim_free(victim);
    }
    OK(pthread_key_delete(key));
}

/* ---- asynchronous: in the middle of computing --------------------------------------------------------------------------- */

static void *asynchronous_main(void *arg)
{
    struct victim *victim = arg;
    OK(pthread_setspecific(key, victim));
    pthread_cleanup_push(clean_1, victim);
    pthread_cleanup_push(clean_2, victim);
    OK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL));
    atomic_store(&victim->ready, 1);
    for (;;) /* without any call */
        atomic_fetch_add_explicit(&victim->loops, 1, memory_order_relaxed);
    pthread_cleanup_pop(0);
    pthread_cleanup_pop(0);
    return NULL;
}

static void asynchronous(void)
{
    const int n = rounds(5);
    OK(pthread_key_create(&key, key_destroy));
    for (int i = 0; i < n; i++) {
        struct victim *victim = victim_new();
        OK(pthread_create(&victim->id, NULL, asynchronous_main, victim));
        cancel_and_check(victim, i % 3, 2);
        CHECK(victim->cleaned[0] == 2 && victim->cleaned[1] == 1, "clean-up in another order");
        victim_free(victim);
    }
    OK(pthread_key_delete(key));
    result("%d", n);
}

/* ---- before it has begun, twice, itself, too late ----------------------------------------------------------------------- */

static void *finished_main(void *arg)
{
    return arg;
}

static void *self_main(void *arg)
{
    struct victim *victim = arg;
    OK(pthread_setspecific(key, victim));
    pthread_cleanup_push(clean_1, victim);
    OK(pthread_cancel(pthread_self()));
    clean(victim, 7); /* it goes on to the next cancellation point */
    pthread_testcancel();
    clean(victim, 8);
    pthread_cleanup_pop(0);
    return NULL;
}

static void *waits_main(void *arg)
{
    (void)arg;
    for (;;)
        pause();
    return NULL;
}

static void special(void)
{
    void *value;
    pthread_t id;
    OK(pthread_key_create(&key, key_destroy));
    struct victim *victim = victim_new();
    OK(pthread_create(&victim->id, NULL, self_main, victim));
    OK(pthread_join(victim->id, &value));
    CHECK(value == PTHREAD_CANCELED, "a thread that cancelled itself returned %p", value);
    EQUAL(victim->n_cleaned, 2);
    EQUAL(victim->cleaned[0], 7);
    EQUAL(victim->cleaned[1], 1);
    EQUAL(victim->destroyed, 1);
    victim_free(victim);

    OK(pthread_create(&id, NULL, finished_main, &value));
    sleep_ms(10);
    OK(pthread_cancel(id)); /* has most probably ended: no harm, its value stays */
    void *returned;
    OK(pthread_join(id, &returned));
    CHECK(returned == &value || returned == PTHREAD_CANCELED, "a finished thread returned %p", returned);

    for (int i = 0; i < 10; i++) {
        OK(pthread_create(&id, NULL, waits_main, NULL));
        OK(pthread_cancel(id)); /* at once */
        OK(pthread_cancel(id));
        OK(pthread_join(id, &value));
        CHECK(value == PTHREAD_CANCELED, "a thread cancelled at once returned %p", value);
    }
    OK(pthread_key_delete(key));
}

/* ---- a crowd: all wait for one condition, all are cancelled ------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t never;
    int waiting, cleaned;
} crowd = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static void crowd_clean(void *arg)
{
    (void)arg;
    crowd.cleaned++; /* with the lock */
    OK(pthread_mutex_unlock(&crowd.lock));
}

static void *crowd_main(void *arg)
{
    OK(pthread_mutex_lock(&crowd.lock));
    pthread_cleanup_push(crowd_clean, NULL);
    crowd.waiting++;
    for (;;)
        OK(pthread_cond_wait(&crowd.never, &crowd.lock));
    pthread_cleanup_pop(0);
    return arg;
}

static void crowd_test(void)
{
    const int n = threads(8);
    pthread_t *ids = NOT_NULL(calloc((size_t)n, sizeof *ids));
    crowd.waiting = crowd.cleaned = 0;
    for (int i = 0; i < n; i++)
        OK(pthread_create(&ids[i], NULL, crowd_main, NULL));
    for (int there = 0; there < n; sleep_ms(1)) {
        OK(pthread_mutex_lock(&crowd.lock));
        there = crowd.waiting;
        OK(pthread_mutex_unlock(&crowd.lock));
    }
    for (int i = 0; i < n; i++)
        OK(pthread_cancel(ids[i]));
    for (int i = 0; i < n; i++) {
        void *value;
        OK(pthread_join(ids[i], &value));
        CHECK(value == PTHREAD_CANCELED, "a cancelled thread returned %p", value);
    }
    EQUAL(crowd.cleaned, n);
    free(ids);
    result("%d", n);
}

/* ---- pthread_exit from deep inside -------------------------------------------------------------------------------------- */

static void (*volatile leave)(void *) = pthread_exit; /* not known never to return */

__attribute__((noinline)) static void descend(struct victim *victim, int depth)
{
    volatile char frame[500];
    memset((char *)frame, depth, sizeof frame);
    pthread_cleanup_push(clean_1, victim);
    if (depth == 0)
        leave((void *)(uintptr_t)(victim->n_cleaned + 4711));
    else
        descend(victim, depth - 1);
    pthread_cleanup_pop(0);
    CHECK(frame[100] == depth, "pthread_exit came back");
}

static void *exits_main(void *arg)
{
    OK(pthread_setspecific(key, arg));
    descend(arg, 6);
    return NULL;
}

static void exit_from_deep(void)
{
    OK(pthread_key_create(&key, key_destroy));
    for (int i = 0; i < 5; i++) {
        struct victim *victim = victim_new();
        void *value;
        OK(pthread_create(&victim->id, NULL, exits_main, victim));
        OK(pthread_join(victim->id, &value));
        EQUAL((uintptr_t)value, 4711);
        EQUAL(victim->n_cleaned, 7);
        EQUAL(victim->destroyed, 1);
        victim_free(victim);
    }
    OK(pthread_key_delete(key));
}

static const struct sub_test tests[] = {
    {"blocked", blocked, "in nine calls that block, at once and later"},
    {"deferred", deferred, "only at cancellation points, not while disabled"},
    {"asynchronous", asynchronous, "while it computes, without any call"},
    {"special", special, "itself, at once, twice, after its end"},
    {"crowd", crowd_test, "all that wait for one condition"},
    {"exit_from_deep", exit_from_deep, "pthread_exit below clean-up handlers"},
};

TORTURE_MAIN(tests)
