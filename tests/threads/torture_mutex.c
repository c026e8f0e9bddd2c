/* torture_mutex.c - every kind of pthread mutex, spin locks and read-write locks, guarding data over several pages. See torture.h for
 * the command line. */
#include "torture.h"

/* ---- mutex: a counter beside it, and an invariant over pages ------------------------------------------------------------ */

static struct {
    _Alignas(4096) pthread_mutex_t lock;
    unsigned long count; /* in the lock's page */
} counter = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void counter_body(struct member *me)
{
    const int n = rounds(500);
    (void)me;
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&counter.lock));
        counter.count++;
        OK(pthread_mutex_unlock(&counter.lock));
    }
}

static void counter_test(void)
{
    counter.count = 0;
    crew_run(threads(4), counter_body, NULL);
    EQUAL(counter.count, (unsigned long)threads(4) * (unsigned long)rounds(500));
    result("%lu", counter.count);
}

#define LEDGER_PAGES 6
#define LEDGER_TOTAL 6000000l

static struct {
    _Alignas(4096) pthread_mutex_t lock;
    struct {
        _Alignas(4096) long balance;
        long moves;
    } account[LEDGER_PAGES]; /* the balances always add up */
} ledger = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void ledger_check(int round)
{
    long total = 0;
    for (int a = 0; a < LEDGER_PAGES; a++)
        total += ledger.account[a].balance;
    CHECK(total == LEDGER_TOTAL, "round %d: the balances add up to %ld", round, total);
}

static void ledger_body(struct member *me)
{
    const int n = rounds(200);
    for (int i = 0; i < n; i++) {
        const unsigned from = rng_below(&me->rng, LEDGER_PAGES), to = rng_below(&me->rng, LEDGER_PAGES);
        const long amount = (long)rng_below(&me->rng, 1000);
        OK(pthread_mutex_lock(&ledger.lock));
        if (i % 8 == 0)
            ledger_check(i);
        ledger.account[from].balance -= amount;
        ledger.account[to].balance += amount;
        ledger.account[from].moves++;
        ledger.account[to].moves++;
        OK(pthread_mutex_unlock(&ledger.lock));
    }
}

static void ledger_test(void)
{
    for (int a = 0; a < LEDGER_PAGES; a++) {
        ledger.account[a].balance = LEDGER_TOTAL / LEDGER_PAGES;
        ledger.account[a].moves = 0;
    }
    crew_run(threads(4), ledger_body, NULL);
    ledger_check(-1);
    long moves = 0;
    uint64_t hash = 0;
    for (int a = 0; a < LEDGER_PAGES; a++) {
        moves += ledger.account[a].moves;
        hash = mix(hash ^ (uint64_t)ledger.account[a].balance);
    }
    EQUAL(moves, 2l * threads(4) * rounds(200));
    /* Each thread's transfers follow from the seed, so the final balances do, too. */
    result("%ld %016" PRIx64, moves, hash);
}

/* ---- many locks, always taken in order: no deadlock --------------------------------------------------------------------- */

#define N_FORKS 5

static struct {
    _Alignas(4096) pthread_mutex_t lock;
    unsigned long meals;
} forks[N_FORKS];

static void philosopher_body(struct member *me)
{
    const int n = rounds(150);
    const int left = me->number % N_FORKS, right = (me->number + 1) % N_FORKS;
    const int low = left < right ? left : right, high = left < right ? right : left;
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&forks[low].lock));
        OK(pthread_mutex_lock(&forks[high].lock));
        forks[low].meals++;
        forks[high].meals++;
        OK(pthread_mutex_unlock(&forks[high].lock));
        OK(pthread_mutex_unlock(&forks[low].lock));
    }
}

static void philosophers(void)
{
    for (int f = 0; f < N_FORKS; f++) {
        OK(pthread_mutex_init(&forks[f].lock, NULL));
        forks[f].meals = 0;
    }
    crew_run(threads(N_FORKS), philosopher_body, NULL);
    unsigned long meals = 0;
    for (int f = 0; f < N_FORKS; f++) {
        meals += forks[f].meals;
        OK(pthread_mutex_destroy(&forks[f].lock));
    }
    EQUAL(meals, 2ul * (unsigned long)threads(N_FORKS) * (unsigned long)rounds(150));
    result("%lu", meals);
}

/* ---- trylock, timedlock ------------------------------------------------------------------------------------------------- */

static void trylock_body(struct member *me)
{
    const int n = rounds(200);
    for (int done = 0; done < n;) {
        const int error = pthread_mutex_trylock(&counter.lock);
        if (error == EBUSY) {
            if (rng_below(&me->rng, 16) == 0)
                sleep_ms(0);
            continue;
        }
        OK(error);
        counter.count++;
        done++;
        OK(pthread_mutex_unlock(&counter.lock));
    }
}

static void trylock_refused(struct member *me)
{
    (void)me;
    EQUAL(pthread_mutex_trylock(&counter.lock), EBUSY);
}

static void trylock(void)
{
    counter.count = 0;
    OK(pthread_mutex_lock(&counter.lock));
    crew_run(2, trylock_refused, NULL);
    OK(pthread_mutex_unlock(&counter.lock));
    crew_run(threads(3), trylock_body, NULL);
    EQUAL(counter.count, (unsigned long)threads(3) * (unsigned long)rounds(200));
    result("%lu", counter.count);
}

static void timedlock_refused(struct member *me)
{
    (void)me;
    struct timespec until = after_ms(CLOCK_REALTIME, 15);
    EQUAL(pthread_mutex_timedlock(&counter.lock, &until), ETIMEDOUT);
    CHECK(not_before(CLOCK_REALTIME, until), "timedlock gave up too early");
    until = after_ms(CLOCK_MONOTONIC, 15);
    EQUAL(pthread_mutex_clocklock(&counter.lock, CLOCK_MONOTONIC, &until), ETIMEDOUT);
    CHECK(not_before(CLOCK_MONOTONIC, until), "clocklock gave up too early");
    until.tv_sec = 0; /* the past */
    EQUAL(pthread_mutex_clocklock(&counter.lock, CLOCK_MONOTONIC, &until), ETIMEDOUT);
}

static void timedlock_body(struct member *me)
{
    const int n = rounds(100);
    (void)me;
    for (int i = 0; i < n; i++) {
        const struct timespec until = after_ms(CLOCK_REALTIME, 60000);
        OK(pthread_mutex_timedlock(&counter.lock, &until));
        counter.count++;
        OK(pthread_mutex_unlock(&counter.lock));
    }
}

static void timedlock(void)
{
    counter.count = 0;
    OK(pthread_mutex_lock(&counter.lock));
    crew_run(2, timedlock_refused, NULL);
    OK(pthread_mutex_unlock(&counter.lock));
    crew_run(threads(3), timedlock_body, NULL);
    EQUAL(counter.count, (unsigned long)threads(3) * (unsigned long)rounds(100));
    result("%lu", counter.count);
}

/* ---- kinds of mutexes --------------------------------------------------------------------------------------------------- */

static pthread_mutex_t special;
static unsigned long special_count;

static void special_init(int type, int robust, int protocol, int pshared)
{
    pthread_mutexattr_t attr;
    OK(pthread_mutexattr_init(&attr));
    OK(pthread_mutexattr_settype(&attr, type));
    OK(pthread_mutexattr_setrobust(&attr, robust));
    OK(pthread_mutexattr_setprotocol(&attr, protocol));
    OK(pthread_mutexattr_setpshared(&attr, pshared));
    OK(pthread_mutex_init(&special, &attr));
    OK(pthread_mutexattr_destroy(&attr));
    special_count = 0;
}

static void special_body(struct member *me)
{
    const int n = rounds(150);
    (void)me;
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&special));
        special_count++;
        OK(pthread_mutex_unlock(&special));
    }
}

static void special_counts(void)
{
    crew_run(threads(3), special_body, NULL);
    EQUAL(special_count, (unsigned long)threads(3) * (unsigned long)rounds(150));
    result("%lu", special_count);
}

static void recursive_body(struct member *me)
{
    const int n = rounds(60);
    for (int i = 0; i < n; i++) {
        const int depth = 1 + (int)rng_below(&me->rng, 4);
        for (int d = 0; d < depth; d++) {
            OK(d % 2 ? pthread_mutex_trylock(&special) : pthread_mutex_lock(&special));
            special_count++;
        }
        const unsigned long seen = special_count;
        for (int d = 0; d < depth; d++) {
            CHECK(special_count == seen, "the lock was free at depth %d of %d", depth - d, depth);
            OK(pthread_mutex_unlock(&special));
        }
        me->sum += (uint64_t)depth;
    }
}

static void recursive(void)
{
    special_init(PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE, PTHREAD_PROCESS_PRIVATE);
    const uint64_t sum = crew_run(threads(3), recursive_body, NULL);
    EQUAL(special_count, sum);
    OK(pthread_mutex_destroy(&special));
    result("%" PRIu64, sum);
}

static void not_owner(struct member *me)
{
    (void)me;
    EQUAL(pthread_mutex_unlock(&special), EPERM);
    EQUAL(pthread_mutex_trylock(&special), EBUSY);
}

static void errorcheck_body(struct member *me)
{
    const int n = rounds(100);
    (void)me;
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&special));
        EQUAL(pthread_mutex_lock(&special), EDEADLK);
        special_count++;
        OK(pthread_mutex_unlock(&special));
    }
}

static void errorcheck(void)
{
    special_init(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE, PTHREAD_PROCESS_PRIVATE);
    EQUAL(pthread_mutex_unlock(&special), EPERM);
    OK(pthread_mutex_lock(&special));
    crew_run(2, not_owner, NULL);
    OK(pthread_mutex_unlock(&special));
    crew_run(threads(3), errorcheck_body, NULL);
    EQUAL(special_count, (unsigned long)threads(3) * (unsigned long)rounds(100));
    OK(pthread_mutex_destroy(&special));
    result("%lu", special_count);
}

static void adaptive(void)
{
    special_init(PTHREAD_MUTEX_ADAPTIVE_NP, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE, PTHREAD_PROCESS_PRIVATE);
    special_counts();
    OK(pthread_mutex_destroy(&special));
}

static void process_shared(void)
{
    special_init(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE, PTHREAD_PROCESS_SHARED);
    special_counts();
    OK(pthread_mutex_destroy(&special));
}

/* The kernel itself reads and writes these mutexes' words. */
static void priority_inheritance(void)
{
    special_init(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_INHERIT, PTHREAD_PROCESS_PRIVATE);
    special_counts();
    OK(pthread_mutex_destroy(&special));
}

static void slow_body(struct member *me)
{
    const int n = rounds(20);
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&special));
        special_count++;
        sleep_ms(rng_below(&me->rng, 2)); /* the others sleep */
        OK(pthread_mutex_unlock(&special));
    }
}

/* One word is a mutex of one kind, and then of another: what is left of sleepers on the first is nothing to the second. */
static void changing_kind(void)
{
    const int protocol[] = {PTHREAD_PRIO_NONE, PTHREAD_PRIO_INHERIT};
    for (int i = 0; i < 8; i++) {
        special_init(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, protocol[i % 2], PTHREAD_PROCESS_PRIVATE);
        crew_run(threads(4), slow_body, NULL);
        EQUAL(special_count, (unsigned long)threads(4) * (unsigned long)rounds(20));
        OK(pthread_mutex_destroy(&special));
    }
    result("%lu", special_count);
}

static void robust_body(struct member *me)
{
    int error = pthread_mutex_lock(&special);
    if (error == EOWNERDEAD) {
        OK(pthread_mutex_consistent(&special));
        me->sum = 1;
    } else {
        OK(error);
    }
    special_count++;
    /* It ends with the mutex locked: whoever waits for it must get it, with EOWNERDEAD. */
}

static void robust_kind(int protocol)
{
    const int n = threads(4);
    uint64_t dead_owners = 0;
    for (int i = rounds(20); i--;) {
        special_init(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ROBUST, protocol, PTHREAD_PROCESS_PRIVATE);
        dead_owners = crew_run(n, robust_body, NULL);
        EQUAL(dead_owners, n - 1);
        EQUAL(special_count, n);
        EQUAL(i % 2 ? pthread_mutex_trylock(&special) : pthread_mutex_lock(&special), EOWNERDEAD); /* its thread has been joined */
        OK(pthread_mutex_unlock(&special)); /* not made consistent: unusable from now on */
        EQUAL(pthread_mutex_lock(&special), ENOTRECOVERABLE);
        OK(pthread_mutex_destroy(&special));
    }
    result("%" PRIu64, dead_owners);
}

static void robust(void)
{
    robust_kind(PTHREAD_PRIO_NONE);
}

static void robust_inheriting(void)
{
    robust_kind(PTHREAD_PRIO_INHERIT);
}

static pthread_spinlock_t spinlock;

static void spinlock_body(struct member *me)
{
    const int n = rounds(200);
    (void)me;
    for (int i = 0; i < n; i++) {
        OK(pthread_spin_lock(&spinlock));
        special_count++;
        OK(pthread_spin_unlock(&spinlock));
    }
}

static void spinlock_test(void)
{
    special_count = 0;
    OK(pthread_spin_init(&spinlock, PTHREAD_PROCESS_PRIVATE));
    crew_run(threads(3), spinlock_body, NULL);
    EQUAL(special_count, (unsigned long)threads(3) * (unsigned long)rounds(200));
    OK(pthread_spin_lock(&spinlock));
    EQUAL(pthread_spin_trylock(&spinlock), EBUSY);
    OK(pthread_spin_unlock(&spinlock));
    OK(pthread_spin_destroy(&spinlock));
    result("%lu", special_count);
}

/* ---- hand-over by turns: every lock is somebody else's next ------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t turn_changed;
    int turn;
    uint64_t hash;
} relay = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static void relay_body(struct member *me)
{
    const int n = rounds(100);
    const pid_t tid = gettid();
    for (int i = 0; i < n; i++) {
        EQUAL(gettid(), tid); /* from wherever it was moved */
        OK(pthread_mutex_lock(&relay.lock));
        while (relay.turn != me->number)
            OK(pthread_cond_wait(&relay.turn_changed, &relay.lock));
        relay.hash = mix(relay.hash + (uint64_t)(i * me->of + me->number));
        relay.turn = (me->number + 1) % me->of;
        OK(pthread_cond_broadcast(&relay.turn_changed));
        OK(pthread_mutex_unlock(&relay.lock));
    }
}

static void relay_test(void)
{
    relay.turn = 0;
    relay.hash = 0;
    crew_run(threads(3), relay_body, NULL);
    uint64_t wanted = 0;
    for (uint64_t i = 0, n = (uint64_t)threads(3) * (uint64_t)rounds(100); i < n; i++)
        wanted = mix(wanted + i);
    CHECK(relay.hash == wanted, "the turns were not taken in order");
    result("%016" PRIx64, relay.hash);
}

/* ---- read-write locks --------------------------------------------------------------------------------------------------- */

static struct {
    _Alignas(4096) pthread_rwlock_t lock;
    _Alignas(4096) unsigned long first;
    _Alignas(4096) unsigned long second; /* the same */
    _Alignas(4096) atomic_int readers;
    atomic_int writers;
} library;

static void rwlock_body(struct member *me)
{
    const int n = rounds(200);
    for (int i = 0; i < n; i++) {
        const bool writes = rng_below(&me->rng, 4) == 0;
        const unsigned how = rng_below(&me->rng, 3);
        const struct timespec until = after_ms(CLOCK_REALTIME, 60000);
        int error;
        do {
            if (how == 0)
                error = writes ? pthread_rwlock_trywrlock(&library.lock) : pthread_rwlock_tryrdlock(&library.lock);
            else if (how == 1)
                error = writes ? pthread_rwlock_timedwrlock(&library.lock, &until) : pthread_rwlock_timedrdlock(&library.lock, &until);
            else
                error = writes ? pthread_rwlock_wrlock(&library.lock) : pthread_rwlock_rdlock(&library.lock);
            if (error == EBUSY)
                sleep_ms(0);
        } while (error == EBUSY && how == 0);
        OK(error);
        if (writes) {
            const int others = atomic_fetch_add(&library.writers, 1);
            CHECK(!others && !atomic_load(&library.readers), "a writer is not alone: %d writers, %d readers", others, library.readers);
            library.first++;
            library.second++;
            me->sum++;
            atomic_fetch_sub(&library.writers, 1);
        } else {
            atomic_fetch_add(&library.readers, 1);
            CHECK(!atomic_load(&library.writers), "a reader meets a writer");
            CHECK(library.first == library.second, "a reader sees half a write: %lu and %lu", library.first, library.second);
            atomic_fetch_sub(&library.readers, 1);
        }
        OK(pthread_rwlock_unlock(&library.lock));
    }
}

static void rwlock_refused(struct member *me)
{
    struct timespec until = after_ms(CLOCK_REALTIME, 10);
    EQUAL(pthread_rwlock_trywrlock(&library.lock), EBUSY);
    EQUAL(pthread_rwlock_timedwrlock(&library.lock, &until), ETIMEDOUT);
    if (me->shared) { /* held for writing */
        EQUAL(pthread_rwlock_tryrdlock(&library.lock), EBUSY);
        until = after_ms(CLOCK_REALTIME, 10);
        EQUAL(pthread_rwlock_timedrdlock(&library.lock, &until), ETIMEDOUT);
    } else {
        OK(pthread_rwlock_tryrdlock(&library.lock));
        OK(pthread_rwlock_unlock(&library.lock));
    }
}

static void rwlock_kind(int kind)
{
    pthread_rwlockattr_t attr;
    OK(pthread_rwlockattr_init(&attr));
    OK(pthread_rwlockattr_setkind_np(&attr, kind));
    memset(&library, 0, sizeof library);
    OK(pthread_rwlock_init(&library.lock, &attr));
    OK(pthread_rwlockattr_destroy(&attr));

    OK(pthread_rwlock_rdlock(&library.lock));
    crew_run(1, rwlock_refused, NULL); /* of two, one might be refused because of the other that waits to write */
    OK(pthread_rwlock_unlock(&library.lock));
    OK(pthread_rwlock_wrlock(&library.lock));
    EQUAL(pthread_rwlock_wrlock(&library.lock), EDEADLK);
    crew_run(2, rwlock_refused, &library);
    OK(pthread_rwlock_unlock(&library.lock));

    const uint64_t writes = crew_run(threads(4), rwlock_body, NULL);
    EQUAL(library.first, writes);
    EQUAL(library.second, writes);
    OK(pthread_rwlock_destroy(&library.lock));
    result("%" PRIu64, writes);
}

static void rwlock(void)
{
    rwlock_kind(PTHREAD_RWLOCK_PREFER_READER_NP);
}

static void rwlock_writers_first(void)
{
    rwlock_kind(PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
}

static const struct sub_test tests[] = {
    {"counter", counter_test, "a counter in the mutex's page"},
    {"ledger", ledger_test, "transfers between accounts in six pages"},
    {"philosophers", philosophers, "two locks at a time, in order"},
    {"trylock", trylock, "trylock until it succeeds"},
    {"timedlock", timedlock, "timedlock and clocklock, in time and too late"},
    {"recursive", recursive, "recursive mutexes"},
    {"errorcheck", errorcheck, "errors of errorcheck mutexes"},
    {"adaptive", adaptive, "adaptive mutexes"},
    {"process_shared", process_shared, "process-shared mutexes"},
    {"priority_inheritance", priority_inheritance, "mutexes that the kernel takes part in"},
    {"changing_kind", changing_kind, "a word that is a mutex of one kind, and then of another"},
    {"robust", robust, "threads that end with a robust mutex locked"},
    {"robust_inheriting", robust_inheriting, "threads that end with a robust mutex with priority inheritance locked"},
    {"spinlock", spinlock_test, "pthread_spin_lock"},
    {"relay", relay_test, "a lock handed on by turns"},
    {"rwlock", rwlock, "readers and writers"},
    {"rwlock_writers_first", rwlock_writers_first, "the same, preferring writers"},
};

TORTURE_MAIN(tests)
