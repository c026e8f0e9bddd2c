/* torture_signals.c - signals to threads that compute and to threads that sleep, jumps out of handlers, timers, masks. See torture.h for the
 * command line. */
#include "torture_handlers.h"

#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

/* ---- to a thread that computes ------------------------------------------------------------------------------------------ */

static atomic_int got, wrong_thread, wrong_code;
static atomic_bool stop;
static atomic_int begun;
static atomic_int got_by[1000];
static __thread volatile int own_signals;
static __thread int own_number;
static __thread pid_t own_tid;

static void count_signal(int signal, siginfo_t *info, void *context)
{
    const int saved = errno;
    (void)signal;
    (void)context;
    if (gettid() != own_tid)
        atomic_fetch_add(&wrong_thread, 1);
    if (info->si_pid != getpid())
        atomic_fetch_add(&wrong_code, 1);
    own_signals++;
    atomic_fetch_add(&got_by[own_number], 1);
    atomic_fetch_add(&got, 1);
    errno = saved;
}

/* Everything that a signal might spoil: many values in registers, of all kinds. */
static void computing_body(struct member *me)
{
    own_tid = gettid();
    atomic_fetch_add(&begun, 1);
    uint64_t a = 1, b = 2, c = 3, d = 4;
    double x = 1, y = 1;
    unsigned long i = 0;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        for (unsigned k = 0; k < 1000; k++, i++) {
            a = a * 3 + 1;
            b ^= a;
            c += b >> 3;
            d = mix(d);
            x = x * 0.5 + 1;
            y += x;
        }
    }
    uint64_t e = 1, f = 2, g = 3, h = 4;
    double u = 1, v = 1;
    for (unsigned long k = 0; k < i; k++) {
        e = e * 3 + 1;
        f ^= e;
        g += f >> 3;
        h = mix(h);
        u = u * 0.5 + 1;
        v += u;
    }
    CHECK(a == e && b == f && c == g && d == h, "a signal changed a register");
    CHECK(x == u && y == v, "a signal changed a floating point register");
    me->sum = (uint64_t)own_signals;
}

static void killed(void (*body)(struct member *), int n)
{
    const int n_threads = threads(3);
    got = wrong_thread = wrong_code = begun = 0;
    stop = false;
    handle(SIGUSR1, count_signal, SA_RESTART);
    struct member *crew = crew_start(n_threads, body, NULL);
    wait_until_at_least(&begun, n_threads);
    for (int i = 0; i < n; i++) {
        OK(pthread_kill(crew[i % n_threads].id, SIGUSR1));
        wait_until_at_least(&got, i + 1);
    }
    stop = true;
    EQUAL(crew_join(crew), n);
    EQUAL(got, n);
    EQUAL(wrong_thread, 0);
    EQUAL(wrong_code, 0);
    unhandle(SIGUSR1);
    result("%d", got);
}

static void kill_computing(void) { killed(computing_body, rounds(30)); }

/* ---- to threads that read clocks: they come home from the middle of the vDSO --------------------------------------------------- */

static atomic_llong newest_ns;

static void clocks_body(struct member *me)
{
    const uint64_t pattern = mix((uint64_t)me->number + 1);
    uint64_t a = pattern, b = ~pattern, c = pattern * 3, d = pattern * 5; /* in registers that a function preserves */
    own_tid = gettid();
    atomic_fetch_add(&begun, 1);
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        const long long before = atomic_load(&newest_ns);
        struct timespec now, real;
        struct timeval tv;
        SYS(clock_gettime(CLOCK_MONOTONIC, &now));
        SYS(clock_gettime(CLOCK_REALTIME, &real));
        SYS(gettimeofday(&tv, NULL));
        const time_t seconds = time(NULL);
        const long long now_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
        CHECK(now_ns >= before, "a clock went back %lld ns", before - now_ns);
        CHECK(tv.tv_sec >= real.tv_sec && tv.tv_sec - real.tv_sec < 60, "gettimeofday is %lld s from clock_gettime", (long long)(tv.tv_sec - real.tv_sec));
        CHECK(seconds - real.tv_sec >= -1 && seconds - real.tv_sec < 60, "time is %lld s from clock_gettime", (long long)(seconds - real.tv_sec));
        atomic_store(&newest_ns, now_ns);
        a++, b++, c++, d++;
        __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
        CHECK(a - pattern == b - ~pattern && c - pattern * 3 == a - pattern && d - pattern * 5 == a - pattern, "a clock changed a register");
    }
    me->sum = (uint64_t)own_signals;
}

static void clocks(void)
{
    newest_ns = 0;
    killed(clocks_body, rounds(60));
}

/* ---- to a thread that has just begun ------------------------------------------------------------------------------------ */

static void *just_begun(void *arg)
{
    volatile atomic_int *seen = arg;
    while (!atomic_load_explicit(seen, memory_order_relaxed))
        ; /* no call at all: a signal that is lost is never seen */
    return NULL;
}

static atomic_int just_seen[4];

static void just_count(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    atomic_store(&just_seen[info->si_value.sival_int], 1);
}

static void kill_just_begun(void)
{
    const int n = rounds(40);
    handle(SIGUSR1, just_count, SA_RESTART);
    for (int i = 0; i < n; i++) {
        pthread_t id[COUNT_OF(just_seen)];
        for (size_t k = 0; k < COUNT_OF(just_seen); k++) {
            just_seen[k] = 0;
            OK(pthread_create(&id[k], NULL, just_begun, &just_seen[k]));
            for (volatile int spin = 0; spin < i * 1000; spin = spin + 1)
                ;
            OK(pthread_sigqueue(id[k], SIGUSR1, (union sigval){.sival_int = (int)k}));
        }
        for (size_t k = 0; k < COUNT_OF(just_seen); k++)
            OK(pthread_join(id[k], NULL));
    }
    unhandle(SIGUSR1);
    result("%d", n);
}

/* ---- to a thread that sleeps -------------------------------------------------------------------------------------------- */

static int sleepers_socket[2];
static pthread_mutex_t sleepers_lock = PTHREAD_MUTEX_INITIALIZER;
static sem_t sleepers_sem;
static atomic_int ended, ended_of[7];

/* Without SA_RESTART the call ends with EINTR, after the handler has run; a mutex goes on waiting. */
static void blocked_body(struct member *me)
{
    char byte;
    struct pollfd wait = {sleepers_socket[0], POLLIN, 0};
    const struct timespec nap = {300, 0};
    struct timespec left = {0, 0};
    own_tid = gettid();
    own_number = me->number;
    atomic_fetch_add(&begun, 1);
    if (me->number < 6) {
        errno = 0;
        long value = 0;
        switch (me->number) {
        case 0: value = read(sleepers_socket[0], &byte, 1); break;
        case 1: value = poll(&wait, 1, -1); break;
        case 2: value = nanosleep(&nap, &left); break;
        case 3: value = sem_wait(&sleepers_sem); break;
        case 4: value = pause(); break;
        default: value = syscall(SYS_futex, &(int){0}, 0 /* FUTEX_WAIT */, 0, NULL, NULL, 0); break;
        }
        CHECK(value == -1 && errno == EINTR, "call %d: %ld, errno %d", me->number, value, errno);
        CHECK(own_signals > 0, "call %d: EINTR without a signal", me->number);
        if (me->number == 2)
            CHECK(left.tv_sec > 200 && left.tv_sec < 300, "nanosleep: %ld s left", (long)left.tv_sec);
    }
    if (me->number == 6) {
        OK(pthread_mutex_lock(&sleepers_lock));
        CHECK(own_signals > 0, "the mutex was had before the signal");
        OK(pthread_mutex_unlock(&sleepers_lock));
    }
    atomic_store(&ended_of[me->number], 1);
    atomic_fetch_add(&ended, 1);
    me->sum = 1;
}

static void kill_blocked(void)
{
    const int n = 7;
    got = wrong_thread = wrong_code = begun = ended = 0;
    memset(got_by, 0, sizeof got_by);
    memset(ended_of, 0, sizeof ended_of);
    SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, sleepers_socket));
    SYS(sem_init(&sleepers_sem, 0, 0));
    OK(pthread_mutex_lock(&sleepers_lock));
    handle(SIGUSR1, count_signal, 0);
    struct member *crew = crew_start(n, blocked_body, NULL);
    wait_until_at_least(&begun, n);
    sleep_ms(20);
    /* A signal may come just before the call: then it takes another one. */
    for (bool released = false; atomic_load(&ended) < n; sleep_ms(5)) {
        for (int i = 0; i < n; i++)
            if (!atomic_load(&got_by[i]) || (i != 6 && !atomic_load(&ended_of[i])))
                OK(pthread_kill(crew[i].id, SIGUSR1));
        if (!released && atomic_load(&got_by[6])) {
            released = true;
            OK(pthread_mutex_unlock(&sleepers_lock));
        }
    }
    EQUAL(crew_join(crew), n);
    EQUAL(wrong_thread, 0);
    SYS(close(sleepers_socket[0]));
    SYS(close(sleepers_socket[1]));
    SYS(sem_destroy(&sleepers_sem));
    unhandle(SIGUSR1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    SYS(clock_gettime(CLOCK_MONOTONIC, &t));
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Threads that sleep for some time: never less than that, however often a signal interrupts it, and what is left is told. One is cancelled. */
static void sleeps_body(struct member *me)
{
    const int turns = rounds(15);
    int interrupted = 0;
    struct timespec bad = {.tv_nsec = 1000000000};
    own_tid = gettid();
    own_number = me->number;
    atomic_fetch_add(&begun, 1);
    EQUAL(nanosleep(&bad, NULL), -1);
    EQUAL(errno, EINVAL);
    EQUAL(syscall(SYS_nanosleep, NULL, NULL), -1);
    EQUAL(errno, EFAULT);
    for (int turn = 0; turn < turns; turn++) {
        const uint64_t wanted_ns = turn % 5 ? (1 + rng_below(&me->rng, 30000)) * 1000ull : 0, start_ns = now_ns();
        struct timespec left = {.tv_nsec = (long)wanted_ns};
        for (bool done = false; !done;) {
            const struct timespec request = left;
            const int before = own_signals;
            int error = turn % 2 ? (nanosleep(&request, &left) ? errno : 0) : clock_nanosleep(CLOCK_MONOTONIC, 0, &request, &left);
            done = error == 0;
            if (done)
                break;
            EQUAL(error, EINTR);
            CHECK(own_signals > before, "EINTR, but no signal");
            CHECK(left.tv_sec == 0 && left.tv_nsec <= request.tv_nsec + 1000000 /* the timer's slack */, "%ld ns left of %ld", left.tv_nsec, request.tv_nsec);
            interrupted++;
        }
        const uint64_t slept_ns = now_ns() - start_ns;
        CHECK(slept_ns >= wanted_ns, "slept %" PRIu64 " ns of %" PRIu64, slept_ns, wanted_ns);
    }
    CHECK(interrupted > 0 || turns < 15, "no signal interrupted a sleep");
    me->sum = 1;
    atomic_fetch_add(&ended, 1);
    while (!atomic_load(&stop)) /* its number stays its own until nobody sends it signals */
        usleep(1000);
}

/* Many, and waits in which nobody wakes anybody. */
static void short_sleeps_body(struct member *me)
{
    sem_t never;
    SYS(sem_init(&never, 0, 0));
    for (int i = 0; i < rounds(50); i++) {
        struct timespec until, little = {.tv_nsec = 20000};
        SYS(nanosleep(&little, NULL));
        SYS(clock_gettime(CLOCK_REALTIME, &until));
        until.tv_nsec += 20000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        EQUAL(sem_timedwait(&never, &until), -1);
        EQUAL(errno, ETIMEDOUT);
    }
    SYS(sem_destroy(&never));
    me->sum = 1;
}

static void short_sleeps(void)
{
    EQUAL(crew_run(threads(4), short_sleeps_body, NULL), threads(4));
}

static void *sleeps_for_ever(void *unused)
{
    for (;;)
        sleep(1000);
    return unused;
}

static void sleeps(void)
{
    const int n = threads(4);
    pthread_t cancelled;
    void *value;
    got = wrong_thread = wrong_code = begun = ended = 0;
    stop = false;
    handle(SIGUSR1, count_signal, SA_RESTART); /* a sleep is not begun again */
    OK(pthread_create(&cancelled, NULL, sleeps_for_ever, NULL));
    struct member *crew = crew_start(n, sleeps_body, NULL);
    wait_until_at_least(&begun, n);
    for (int i = 0; atomic_load(&ended) < n; i++, sleep_ms(2))
        OK(pthread_kill(crew[i % n].id, SIGUSR1));
    atomic_store(&stop, true);
    EQUAL(crew_join(crew), n);
    EQUAL(wrong_thread, 0);
    OK(pthread_cancel(cancelled));
    OK(pthread_join(cancelled, &value));
    CHECK(value == PTHREAD_CANCELED, "not cancelled in its sleep");
    unhandle(SIGUSR1);
}

/* With SA_RESTART a read goes on. */
static void restarted_body(struct member *me)
{
    char byte = 0;
    own_tid = gettid();
    atomic_fetch_add(&begun, 1);
    EQUAL(SYS(read(sleepers_socket[0], &byte, 1)), 1);
    EQUAL(byte, 'r');
    CHECK(own_signals >= 3, "only %d signals came", own_signals);
    me->sum = 1;
}

static void restart(void)
{
    got = wrong_thread = wrong_code = begun = 0;
    SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, sleepers_socket));
    handle(SIGUSR1, count_signal, SA_RESTART);
    struct member *crew = crew_start(1, restarted_body, NULL);
    wait_until_at_least(&begun, 1);
    for (int i = 0; i < 3; i++) {
        sleep_ms(5);
        OK(pthread_kill(crew[0].id, SIGUSR1));
        wait_until_at_least(&got, i + 1);
    }
    EQUAL(SYS(write(sleepers_socket[1], "r", 1)), 1);
    EQUAL(crew_join(crew), 1);
    EQUAL(wrong_thread, 0);
    SYS(close(sleepers_socket[0]));
    SYS(close(sleepers_socket[1]));
    unhandle(SIGUSR1);
}

/* ---- out of handlers ------------------------------------------------------------------------------------------------------- */

/* siglongjmp out of the handler of a signal that came from another thread. */
static void jumper_body(struct member *me)
{
    const int n = rounds(10);
    volatile int jumps = 0;
    own_tid = gettid();
    if (sigsetjmp(escape, 1))
        jumps = jumps + 1;
    atomic_fetch_add(&begun, 1);
    while (jumps < n) {
        for (volatile int i = 0; i < 100000; i++)
            ;
    }
    me->sum = (uint64_t)jumps;
}

static void jumps_out_of_handlers(void)
{
    const int n = rounds(10);
    begun = 0;
    handle(SIGUSR2, jump_out, 0);
    struct member *crew = crew_start(1, jumper_body, NULL);
    for (int i = 0; i < n; i++) {
        wait_until_at_least(&begun, i + 1);
        OK(pthread_kill(crew[0].id, SIGUSR2));
    }
    EQUAL(crew_join(crew), n);
    unhandle(SIGUSR2);
}

/* ---- timers ------------------------------------------------------------------------------------------------------------- */

static atomic_int alarms;
static __thread volatile sig_atomic_t own_alarms;

static void alarm_handler(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    (void)context;
    own_alarms = own_alarms + 1;
    atomic_fetch_add(&alarms, 1);
}

/* One that signals this very thread: it computes, then sleeps and is woken with EINTR. */
static void timers_body(struct member *me)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    event._sigev_un._tid = gettid();
    (void)me;
    SYS(timer_create(CLOCK_MONOTONIC, &event, &timer));
    const struct itimerspec every = {{0, 3000000}, {0, 3000000}};
    SYS(timer_settime(timer, 0, &every, NULL));
    while (own_alarms < 3)
        for (volatile int i = 0; i < 10000; i++)
            ;
    const int before = own_alarms;
    const struct timespec nap = {300, 0};
    EQUAL(nanosleep(&nap, NULL), -1);
    EQUAL(errno, EINTR);
    CHECK(own_alarms > before, "EINTR without an alarm");
    SYS(timer_delete(timer));
}

static void timers(void)
{
    alarms = 0;
    handle(SIGALRM, alarm_handler, 0);
    crew_run(threads(3), timers_body, NULL);
    unhandle(SIGALRM);
}

/* The process's timer: some thread that does not block it gets it. */
static void itimer_body(struct member *me)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    OK(pthread_sigmask(me->number == 0 ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL));
    while (atomic_load(&alarms) < 5)
        for (volatile int i = 0; i < 1000; i++)
            ;
    me->sum = (uint64_t)own_alarms;
    CHECK(me->number == 0 || own_alarms == 0, "a thread got %d signals that it blocks", (int)own_alarms);
}

static void process_timer(void)
{
    const struct itimerval every = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    OK(pthread_sigmask(SIG_BLOCK, &set, &old)); /* the main thread, too */
    alarms = 0;
    handle(SIGALRM, alarm_handler, SA_RESTART);
    SYS(setitimer(ITIMER_REAL, &every, NULL));
    const uint64_t seen = crew_run(threads(3), itimer_body, NULL);
    SYS(setitimer(ITIMER_REAL, &never, NULL));
    CHECK(seen >= 5, "the thread got %d alarms", (int)seen);
    const struct timespec now = {0, 0};
    while (sigtimedwait(&set, NULL, &now) > 0)
        ;
    unhandle(SIGALRM);
    OK(pthread_sigmask(SIG_SETMASK, &old, NULL));
}

/* ---- masks, waiting for signals ----------------------------------------------------------------------------------------- */

static void mask_body(struct member *me)
{
    sigset_t set, now;
    OK(pthread_sigmask(SIG_SETMASK, NULL, &now));
    EQUAL(sigismember(&now, SIGUSR1), 1); /* inherited */
    EQUAL(sigismember(&now, SIGUSR2), 0);
    own_tid = gettid();
    OK(pthread_kill(pthread_self(), SIGUSR1));
    SYS(sigpending(&set));
    EQUAL(sigismember(&set, SIGUSR1), 1);
    EQUAL(own_signals, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    OK(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
    EQUAL(own_signals, 1); /* before the call returned */
    OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
    OK(pthread_kill(pthread_self(), SIGUSR1));
    EQUAL(own_signals, 1);
    sigset_t none;
    sigemptyset(&none);
    EQUAL(sigsuspend(&none), -1);
    EQUAL(errno, EINTR);
    EQUAL(own_signals, 2);
    OK(pthread_sigmask(SIG_SETMASK, NULL, &now));
    EQUAL(sigismember(&now, SIGUSR1), 1);
    SYS(raise(SIGUSR1));
    const struct timespec nap = {300, 0};
    EQUAL(ppoll(NULL, 0, &nap, &none), -1);
    EQUAL(errno, EINTR);
    EQUAL(own_signals, 3);
    me->sum = 1;
}

static void masks(void)
{
    sigset_t set, old;
    got = wrong_thread = wrong_code = 0;
    handle(SIGUSR1, count_signal, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    OK(pthread_sigmask(SIG_BLOCK, &set, &old));
    EQUAL(crew_run(threads(3), mask_body, NULL), threads(3));
    EQUAL(got, 3 * threads(3));
    EQUAL(wrong_thread, 0);
    OK(pthread_sigmask(SIG_SETMASK, &old, NULL));
    unhandle(SIGUSR1);
}

/* One thread takes all signals by sigwait, as servers do; another by signalfd. */
static void waiter_body(struct member *me)
{
    const int n = rounds(20);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, me->number ? SIGRTMIN + 1 : SIGRTMIN);
    const int fd = me->number ? SYS(signalfd(-1, &set, SFD_CLOEXEC)) : -1;
    for (int i = 0; i < n; i++) {
        int value;
        if (me->number == 0) {
            siginfo_t info = {0};
            EQUAL(SYS(sigwaitinfo(&set, &info)), SIGRTMIN);
            value = info.si_value.sival_int;
            EQUAL(info.si_code, SI_QUEUE);
        } else {
            struct signalfd_siginfo info;
            EQUAL(SYS(read(fd, &info, sizeof info)), sizeof info);
            value = info.ssi_int;
            EQUAL(info.ssi_signo, SIGRTMIN + 1);
        }
        EQUAL(value, 7 * i); /* queued in order, none lost */
    }
    if (fd >= 0)
        SYS(close(fd));
}

static void queued(void)
{
    const int n = rounds(20);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGRTMIN + 1);
    OK(pthread_sigmask(SIG_BLOCK, &set, &old));
    struct member *crew = crew_start(2, waiter_body, NULL);
    for (int i = 0; i < n; i++) {
        SYS(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 7 * i}));
        SYS(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 7 * i}));
    }
    crew_join(crew);
    OK(pthread_sigmask(SIG_SETMASK, &old, NULL));
}

/* Nested: a handler that sends another signal to itself, which has its own handler, with SA_NODEFER and masks. */
static __thread volatile sig_atomic_t depth_now, depth_max, nested_calls;

static void nested_handler(int signal, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    depth_now = depth_now + 1;
    nested_calls = nested_calls + 1;
    if (depth_now > depth_max)
        depth_max = depth_now;
    if (signal == SIGUSR1 && nested_calls < 10)
        raise(SIGUSR2);
    else if (signal == SIGUSR2 && nested_calls < 10)
        raise(SIGUSR1); /* masked unless SA_NODEFER: it comes when the first is through */
    depth_now = depth_now - 1;
}

static void nested_body(struct member *me)
{
    (void)me;
    SYS(raise(SIGUSR1));
    CHECK(nested_calls == 10, "%d handlers ran, wanted 10", (int)nested_calls);
    EQUAL(depth_now, 0);
    EQUAL(depth_max, 10);
}

static void nested(void)
{
    handle(SIGUSR1, nested_handler, SA_NODEFER);
    handle(SIGUSR2, nested_handler, SA_NODEFER);
    crew_run(threads(3), nested_body, NULL);
    unhandle(SIGUSR1);
    unhandle(SIGUSR2);
}

/* A storm: all threads signal each other while they take locks and allocate. */
static struct {
    pthread_mutex_t lock;
    unsigned long count;
    pthread_barrier_t barrier;
    pthread_t ids[1000];
} storm = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void storm_body(struct member *me)
{
    const int n = rounds(60);
    own_tid = gettid();
    storm.ids[me->number] = pthread_self();
    pthread_barrier_wait(&storm.barrier);
    for (int i = 0; i < n; i++) {
        OK(pthread_kill(storm.ids[rng_below(&me->rng, (unsigned)me->of)], SIGUSR1));
        const size_t len = 1 + rng_below(&me->rng, 5000);
        unsigned char *block = NOT_NULL(malloc(len));
        fill_bytes(block, len, me->rng);
        OK(pthread_mutex_lock(&storm.lock));
        storm.count++;
        OK(pthread_mutex_unlock(&storm.lock));
        CHECK_BYTES(block, len, me->rng);
        free(block);
    }
    pthread_barrier_wait(&storm.barrier);
}

static void storm_test(void)
{
    got = wrong_thread = wrong_code = 0;
    storm.count = 0;
    handle(SIGUSR1, count_signal, SA_RESTART);
    OK(pthread_barrier_init(&storm.barrier, NULL, (unsigned)threads(3)));
    crew_run(threads(3), storm_body, NULL);
    OK(pthread_barrier_destroy(&storm.barrier));
    EQUAL(storm.count, (unsigned long)threads(3) * (unsigned long)rounds(60));
    EQUAL(wrong_thread, 0);
    CHECK(got > 0, "no signal came");
    unhandle(SIGUSR1);
    result("%lu", storm.count);
}

static const struct sub_test tests[] = {
    {"kill_computing", kill_computing, "pthread_kill to threads that compute"},
    {"clocks", clocks, "the same to threads that read clocks"},
    {"kill_just_begun", kill_just_begun, "a signal to threads that have just begun, and compute"},
    {"kill_blocked", kill_blocked, "pthread_kill to threads in calls: EINTR"},
    {"sleeps", sleeps, "the same to threads that sleep for some time"},
    {"short_sleeps", short_sleeps, "short ones, and waits with a time limit"},
    {"restart", restart, "the same with SA_RESTART"},
    {"jumps_out_of_handlers", jumps_out_of_handlers, "siglongjmp from another thread's signal"},
    {"timers", timers, "timer_create for one thread, EINTR"},
    {"process_timer", process_timer, "setitimer with one thread that does not block it"},
    {"masks", masks, "masks, sigpending, sigsuspend, ppoll"},
    {"queued", queued, "sigqueue, sigwaitinfo, signalfd"},
    {"nested", nested, "handlers within handlers"},
    {"storm", storm_test, "threads signal each other while they work"},
};

TORTURE_MAIN(tests)
