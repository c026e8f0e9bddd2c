/* torture_futex.c - sleepers and wakers of the same word at home and away, by libc and by system calls of their own, with time limits, signals,
 * cancellation and requeues among them. A wake that is lost is a program that does not end. See torture.h for the command line. */
#include "torture.h"

#include <limits.h>
#include <linux/futex.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static long futex(atomic_uint *word, int op, unsigned value, const void *time, atomic_uint *other, unsigned value3)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, time, other, value3);
}

/* No libc in between: as language runtimes and OpenMP do it. */
static long raw_futex(atomic_uint *word, long op, unsigned value, const void *time)
{
    long ret;
    register const void *r10 __asm__("r10") = time;
    __asm__ volatile("syscall" : "=a"(ret) : "a"((long)SYS_futex), "D"(word), "S"(op | FUTEX_PRIVATE_FLAG), "d"((long)value), "r"(r10) : "rcx", "r11", "memory");
    return ret;
}

static void on_signal(int signal)
{
    (void)signal;
}

static void handle(int signal, int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    SYS(sigaction(signal, &action, NULL));
}

static void sem_take(sem_t *sem)
{
    while (sem_wait(sem))
        EQUAL(errno, EINTR);
}

/* ---- a ring: each waits for the one before it; the first thread is one of them ----------------------------------------------- */

static struct {
    sem_t sem[64]; /* several to a page */
    int n, laps;
    unsigned long passed;
} ring;

static void ring_pass(int number, uint64_t *rng)
{
    for (int lap = 0; lap < ring.laps; lap++) {
        struct timespec soon = after_ms(CLOCK_REALTIME, rng_below(rng, 3));
        switch (rng_below(rng, 4)) {
        case 0:
            if (!sem_timedwait(&ring.sem[number], &soon))
                break;
            CHECK(errno == ETIMEDOUT || errno == EINTR, "sem_timedwait: %s", strerror(errno));
            /* fall through */
        default: sem_take(&ring.sem[number]);
        }
        ring.passed++;
        SYS(sem_post(&ring.sem[(number + 1) % ring.n]));
    }
}

static void ring_body(struct member *me) { ring_pass(me->number + 1, &me->rng); }

static void ring_make(int n)
{
    ring.n = n;
    ring.laps = rounds(60);
    ring.passed = 0;
    for (int i = 0; i < n; i++)
        SYS(sem_init(&ring.sem[i], 0, i == 0));
}

static void ring_test(void)
{
    const int n = threads(5) < 63 ? threads(5) : 63;
    uint64_t rng = torture_seed;
    ring_make(n + 1);
    struct member *crew = crew_start(n, ring_body, NULL);
    ring_pass(0, &rng);
    crew_join(crew);
    EQUAL(ring.passed, (unsigned long)ring.n * (unsigned long)ring.laps);
    result("%lu", ring.passed);
}

/* ---- one semaphore, all sorts of waiters; as many posts as takes, and not one more ------------------------------------------- */

static struct {
    sem_t sem;
    atomic_int taken;
} pot;

static void pot_body(struct member *me)
{
    for (int i = 0, n = rounds(40); i < n;) {
        struct timespec soon = after_ms(CLOCK_REALTIME, rng_below(&me->rng, 2));
        const unsigned how = rng_below(&me->rng, 8);
        const int error = how == 0 ? sem_timedwait(&pot.sem, &soon) : how == 1 ? sem_trywait(&pot.sem) : sem_wait(&pot.sem);
        if (error) {
            CHECK(errno == ETIMEDOUT || errno == EAGAIN || errno == EINTR, "a semaphore: %s", strerror(errno));
            continue;
        }
        atomic_fetch_add(&pot.taken, 1);
        i++;
    }
}

static void pot_posts(struct member *me)
{
    for (int i = 0, n = rounds(40); i < n; i++) {
        if (rng_below(&me->rng, 4) == 0)
            sleep_ms(rng_below(&me->rng, 2));
        SYS(sem_post(&pot.sem));
    }
}

static void pot_test(void)
{
    const int n = threads(4), posts = n * rounds(40);
    SYS(sem_init(&pot.sem, 0, 0));
    atomic_store(&pot.taken, 0);
    struct member *takers = crew_start(n, pot_body, NULL), *posters = crew_start(n / 2, pot_posts, NULL);
    for (int i = n / 2 * rounds(40); i < posts; i++) { /* from here, too */
        SYS(sem_post(&pot.sem));
        if (i % 8 == 0)
            sleep_ms(1);
    }
    crew_join(posters);
    crew_join(takers);
    EQUAL(atomic_load(&pot.taken), posts);
    EQUAL(sem_trywait(&pot.sem), -1);
    result("%d", posts);
}

/* ---- turns by condition variables, each its own; everybody in one barrier now and then --------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t turn_is[64];
    pthread_barrier_t barrier;
    int turn, n;
    unsigned long taken;
} turns = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void turns_take(int number, uint64_t *rng)
{
    for (int i = 0, n = rounds(60); i < n; i++) {
        OK(pthread_mutex_lock(&turns.lock));
        while (turns.turn != number) {
            const struct timespec soon = after_ms(CLOCK_REALTIME, 1);
            const int error = rng_below(rng, 4) ? pthread_cond_wait(&turns.turn_is[number], &turns.lock)
                                                : pthread_cond_timedwait(&turns.turn_is[number], &turns.lock, &soon);
            CHECK(!error || error == ETIMEDOUT, "pthread_cond_wait: %s", strerror(error));
        }
        turns.taken++;
        turns.turn = (number + 1) % turns.n;
        OK(pthread_cond_signal(&turns.turn_is[turns.turn]));
        OK(pthread_mutex_unlock(&turns.lock));
        if (i % 10 == 9) {
            const int error = pthread_barrier_wait(&turns.barrier);
            CHECK(!error || error == PTHREAD_BARRIER_SERIAL_THREAD, "pthread_barrier_wait: %s", strerror(error));
        }
    }
}

static void turns_body(struct member *me) { turns_take(me->number + 1, &me->rng); }

static void turns_test(void)
{
    const int n = threads(4) < 63 ? threads(4) : 63;
    uint64_t rng = torture_seed;
    turns.n = n + 1;
    turns.turn = 0;
    turns.taken = 0;
    OK(pthread_barrier_init(&turns.barrier, NULL, (unsigned)turns.n));
    for (int i = 0; i < turns.n; i++)
        OK(pthread_cond_init(&turns.turn_is[i], NULL));
    struct member *crew = crew_start(n, turns_body, NULL);
    turns_take(0, &rng);
    crew_join(crew);
    EQUAL(turns.taken, (unsigned long)turns.n * (unsigned long)rounds(60));
    for (int i = 0; i < turns.n; i++)
        OK(pthread_cond_destroy(&turns.turn_is[i]));
    OK(pthread_barrier_destroy(&turns.barrier));
    result("%lu", turns.taken);
}

/* ---- the same under a rain of signals, and of wakes that nobody needs ----------------------------------------------------- */

static atomic_bool rain;

static void *rain_main(void *arg)
{
    struct member *crew = arg;
    uint64_t rng = torture_seed;
    while (atomic_load(&rain)) {
        /* The crew's threads are joined only after this one has ended. */
        OK(pthread_kill(crew[rng_below(&rng, (unsigned)crew[0].of)].id, rng_below(&rng, 2) ? SIGUSR1 : SIGUSR2));
        sleep_ms(1);
    }
    return NULL;
}

static void signals_test(void)
{
    const int n = threads(4) < 63 ? threads(4) : 63;
    uint64_t rng = torture_seed;
    pthread_t id;
    handle(SIGUSR1, SA_RESTART);
    handle(SIGUSR2, 0);
    ring_make(n + 1);
    atomic_store(&rain, true);
    struct member *crew = crew_start(n, ring_body, NULL);
    OK(pthread_create(&id, NULL, rain_main, crew));
    ring_pass(0, &rng);
    atomic_store(&rain, false);
    OK(pthread_join(id, NULL));
    crew_join(crew);
    EQUAL(ring.passed, (unsigned long)ring.n * (unsigned long)ring.laps);
    result("%lu", ring.passed);
}

/* A word of libc's is woken by others: all sleepers look again, and none is lost. */
static void *needless_main(void *arg)
{
    uint64_t rng = torture_seed;
    (void)arg;
    while (atomic_load(&rain)) {
        atomic_uint *word = (atomic_uint *)(void *)&ring.sem[rng_below(&rng, (unsigned)ring.n)];
        if (rng_below(&rng, 2))
            raw_futex(word, FUTEX_WAKE, 1 + rng_below(&rng, 2) * INT_MAX / 2, NULL);
        else
            SYS(futex(word, FUTEX_WAKE, 1, NULL, NULL, 0));
        sleep_ms(0);
    }
    return NULL;
}

static void needless_wakes(void)
{
    const int n = threads(4) < 63 ? threads(4) : 63;
    uint64_t rng = torture_seed;
    pthread_t id;
    ring_make(n + 1);
    atomic_store(&rain, true);
    OK(pthread_create(&id, NULL, needless_main, NULL));
    struct member *crew = crew_start(n, ring_body, NULL);
    ring_pass(0, &rng);
    crew_join(crew);
    atomic_store(&rain, false);
    OK(pthread_join(id, NULL));
    EQUAL(ring.passed, (unsigned long)ring.n * (unsigned long)ring.laps);
    result("%lu", ring.passed);
}

/* ---- a wait that a signal ends, and one that it does not ---------------------------------------------------------------------- */

static struct {
    sem_t sem, go;
    atomic_int ready;
} alarmed;

static void alarmed_body(struct member *me)
{
    for (int i = 0, n = rounds(6); i < n; i++) {
        sem_take(&alarmed.go);
        atomic_fetch_add(&alarmed.ready, 1);
        if (i % 2) {
            EQUAL(sem_wait(&alarmed.sem), -1);
            EQUAL(errno, EINTR);
        } else {
            SYS(sem_wait(&alarmed.sem));
        }
        me->sum++;
    }
}

static void interrupted(void)
{
    SYS(sem_init(&alarmed.sem, 0, 0));
    SYS(sem_init(&alarmed.go, 0, 0));
    atomic_store(&alarmed.ready, 0);
    handle(SIGUSR1, SA_RESTART);
    handle(SIGUSR2, 0);
    struct member *crew = crew_start(1, alarmed_body, NULL);
    for (int i = 0, n = rounds(6); i < n; i++) {
        SYS(sem_post(&alarmed.go));
        wait_until_at_least(&alarmed.ready, i + 1);
        sleep_ms(60); /* it sleeps now, surely */
        OK(pthread_kill(crew[0].id, i % 2 ? SIGUSR2 : SIGUSR1));
        sleep_ms(20);
        if (i % 2 == 0)
            SYS(sem_post(&alarmed.sem));
    }
    EQUAL(crew_join(crew), rounds(6));
    result("%d", rounds(6));
}

/* ---- cancelled while it waits: nobody else's wake goes with it ---------------------------------------------------------------- */

static sem_t shared_sem;
static atomic_int cancel_ready;

static void cancel_body(struct member *me)
{
    (void)me;
    atomic_fetch_add(&cancel_ready, 1);
    sem_take(&shared_sem);
}

static void cancelled(void)
{
    const int n = threads(6), n_rounds = rounds(6);
    for (int round = 0; round < n_rounds; round++) {
        SYS(sem_init(&shared_sem, 0, 0));
        atomic_store(&cancel_ready, 0);
        struct member *crew = crew_start(n, cancel_body, NULL);
        wait_until_at_least(&cancel_ready, n);
        if (round % 2)
            sleep_ms(20);
        for (int i = 0; i < n / 2; i++)
            OK(pthread_cancel(crew[i].id));
        if (round % 3 == 0)
            SYS(sem_post(&shared_sem)); /* who is cancelled may have it, or its wake */
        for (int i = 0; i < n / 2; i++)
            OK(pthread_join(crew[i].id, NULL));
        for (int i = n / 2; i < n; i++)
            SYS(sem_post(&shared_sem));
        for (int i = n / 2; i < n; i++)
            OK(pthread_join(crew[i].id, NULL));
        free(crew);
    }
    result("%d", n_rounds);
}

/* ---- more words than anybody keeps account of ---------------------------------------------------------------------------------- */

#define WORDS 400

static struct {
    _Alignas(64) sem_t there, back;
} words[WORDS];

static void words_body(struct member *me)
{
    for (int i = me->number; i < WORDS; i += me->of) {
        sem_take(&words[i].there);
        SYS(sem_post(&words[i].back));
        me->sum++;
    }
}

static void many_words(void)
{
    const int n = threads(4);
    for (int i = 0; i < WORDS; i++) {
        SYS(sem_init(&words[i].there, 0, 0));
        SYS(sem_init(&words[i].back, 0, 0));
    }
    struct member *crew = crew_start(n, words_body, NULL);
    for (int i = 0; i < WORDS; i++) {
        if (i % 16 == 0)
            sleep_ms(2);
        SYS(sem_post(&words[i].there));
        sem_take(&words[i].back);
    }
    EQUAL(crew_join(crew), WORDS);
    result("%d", WORDS);
}

/* ---- by system calls: counts are exact ----------------------------------------------------------------------------------------- */

static struct {
    _Alignas(64) atomic_uint word, word2;
    atomic_int waiting, woken;
} raw;

static void parked_body(struct member *me)
{
    for (int i = 0, n = rounds(20); i < n; i++) {
        atomic_fetch_add(&raw.waiting, 1);
        const long ret = me->number % 2 ? raw_futex(&raw.word, FUTEX_WAIT, 0, NULL) : futex(&raw.word, FUTEX_WAIT, 0, NULL, NULL, 0);
        EQUAL(ret, 0);
        atomic_fetch_add(&raw.woken, 1);
    }
}

/* The word never changes: who wakes knows by the count alone that somebody slept. */
static void parked(void)
{
    const int n = threads(3), total = n * rounds(20);
    atomic_store(&raw.word, 0);
    atomic_store(&raw.waiting, 0);
    atomic_store(&raw.woken, 0);
    struct member *crew = crew_start(n, parked_body, NULL);
    for (int i = 0; i < total; i++) {
        for (unsigned tries = 0; (i % 2 ? futex(&raw.word, FUTEX_WAKE, 1, NULL, NULL, 0) : raw_futex(&raw.word, FUTEX_WAKE, 1, NULL)) != 1; tries++)
            sleep_ms(tries < 1000 ? 0 : 1);
        wait_until_at_least(&raw.woken, i + 1);
        EQUAL(atomic_load(&raw.woken), i + 1);
    }
    crew_join(crew);
    result("%d", total);
}

static void requeued_body(struct member *me)
{
    (void)me;
    while (raw_futex(&raw.word, FUTEX_WAIT, 0, NULL) == -EINTR)
        ;
    atomic_fetch_add(&raw.woken, 1);
}

static void requeued(void)
{
    const int n = threads(5), n_rounds = rounds(6);
    for (int round = 0; round < n_rounds; round++) {
        int moved = 0;
        atomic_store(&raw.word, 0);
        atomic_store(&raw.word2, 0);
        atomic_store(&raw.woken, 0);
        struct member *crew = crew_start(n, requeued_body, NULL);
        while (moved < n) {
            const long got = round % 2 ? futex(&raw.word, FUTEX_REQUEUE, 0, (void *)(long)INT_MAX, &raw.word2, 0)
                                       : futex(&raw.word, FUTEX_CMP_REQUEUE, 0, (void *)(long)INT_MAX, &raw.word2, 0);
            moved += (int)SYS(got);
            sleep_ms(1);
        }
        EQUAL(atomic_load(&raw.woken), 0);
        EQUAL(SYS(futex(&raw.word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0)), 0);
        for (int i = 0; i < n; i++) {
            EQUAL(SYS(futex(&raw.word2, FUTEX_WAKE, 1, NULL, NULL, 0)), 1);
            wait_until_at_least(&raw.woken, i + 1);
        }
        crew_join(crew);
    }
    result("%d", n_rounds);
}

/* ---- a fork while they sleep; the child has threads of its own ------------------------------------------------------------------ */

static void forks(void)
{
    const int n = threads(3), n_rounds = rounds(3);
    ring.n = n + 1;
    ring.laps = 10;
    for (int round = 0; round < n_rounds; round++) {
        uint64_t rng = torture_seed;
        ring.passed = 0;
        for (int i = 0; i < ring.n; i++)
            SYS(sem_init(&ring.sem[i], 0, 0));
        struct member *crew = crew_start(n, ring_body, NULL);
        sleep_ms(20);
        const pid_t child = SYS(fork());
        if (!child) {
            for (int i = 0; i < ring.n; i++)
                SYS(sem_init(&ring.sem[i], 0, i == 0));
            crew = crew_start(n, ring_body, NULL);
            ring_pass(0, &rng);
            crew_join(crew);
            _exit(ring.passed != (unsigned long)ring.n * (unsigned long)ring.laps);
        }
        int status;
        SYS(sem_post(&ring.sem[0]));
        ring_pass(0, &rng);
        crew_join(crew);
        EQUAL(ring.passed, (unsigned long)ring.n * (unsigned long)ring.laps);
        SYS(waitpid(child, &status, 0));
        EQUAL(status, 0);
    }
    result("%d", n_rounds);
}

/* ---- threads that end, beside threads that sleep ------------------------------------------------------------------------------ */

static void *short_main(void *arg)
{
    sem_take(arg);
    return arg;
}

static void ends(void)
{
    const int n = rounds(60);
    SYS(sem_init(&shared_sem, 0, 0));
    for (int i = 0; i < n; i++) {
        pthread_t id[2];
        for (int k = 0; k < 2; k++)
            OK(pthread_create(&id[k], NULL, short_main, &shared_sem));
        if (i % 2)
            sleep_ms(1);
        SYS(sem_post(&shared_sem));
        SYS(sem_post(&shared_sem));
        for (int k = 0; k < 2; k++)
            OK(pthread_join(id[k], NULL));
    }
    result("%d", n);
}

int main(int argc, char **argv)
{
    static const struct sub_test tests[] = {
        {"ring", ring_test, "semaphores in a ring, the first thread among them; some waits have a limit (threads, laps)"},
        {"pot", pot_test, "one semaphore, waits of all kinds, posts from everywhere (threads, takes of each)"},
        {"turns", turns_test, "turns by condition variables, and a barrier (threads, turns of each)"},
        {"signals", signals_test, "the ring, and signals to all of it (threads, laps)"},
        {"needless", needless_wakes, "the ring, and wakes of its words that nobody needs (threads, laps)"},
        {"interrupted", interrupted, "a wait that a signal ends or does not (rounds)"},
        {"cancelled", cancelled, "half of those who wait are cancelled (threads, rounds)"},
        {"many_words", many_words, "hundreds of semaphores, one after the other (threads)"},
        {"parked", parked, "by system calls: woken until the count says that one was (threads, wakes of each)"},
        {"requeued", requeued, "by system calls: moved to another word, woken there one by one (threads, rounds)"},
        {"forks", forks, "a fork while they sleep, threads in the child (threads, forks)"},
        {"ends", ends, "threads that wait once, and end (rounds)"},
    };
    return torture_main(argc, argv, tests, COUNT_OF(tests));
}
