/* torture_sleep.c - futexes as such: who sleeps and who wakes may be anywhere; calls whose buffers travel with them; a first thread that goes where it
 * shares. See torture.h for the command line. */
#include "torture.h"

#include <limits.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static long futex(atomic_int *word, int op, int value, const struct timespec *timeout, atomic_int *other, int bits)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, timeout, other, bits);
}

/* ---- counts: each sleeper is woken by exactly one wake ------------------------------------------------------------------------- */

static struct {
    atomic_int word, gate, other, ready, by_thread, woken, end;
} bed;

static void sleeper(struct member *me)
{
    atomic_fetch_add(&bed.ready, 1);
    SYS(futex(&bed.word, FUTEX_WAIT, 0, NULL, NULL, 0));
    me->sum = 1;
}

/* Wakes until n have been woken. */
static void wake(atomic_int *word, int n, int at_once, int bits)
{
    for (int woken = 0; woken < n;) {
        const int most = n - woken < at_once ? n - woken : at_once;
        const int now = (int)SYS(futex(word, bits ? FUTEX_WAKE_BITSET : FUTEX_WAKE, most, NULL, NULL, bits));
        CHECK(now <= most, "%d were woken, wanted at most %d", now, most);
        woken += now;
        if (!now)
            sleep_ms(1);
    }
}

static void waker(struct member *me)
{
    wait_until_at_least(&bed.ready, me->of - 1);
    wake(&bed.word, me->of - 1, 2, 0);
}

static void sleeper_or_waker(struct member *me)
{
    if (me->number == me->of / 2)
        waker(me);
    else
        sleeper(me);
}

static void wake_counts(void)
{
    const int n = threads(5);
    for (int round = 0; round < rounds(20); round++) {
        memset(&bed, 0, sizeof bed);
        struct member *crew = crew_start(n, sleeper, NULL);
        wake(&bed.word, n, 1 + round % 3, 0);
        EQUAL(crew_join(crew), n);
        memset(&bed, 0, sizeof bed);
        EQUAL(crew_run(n, sleeper_or_waker, NULL), n - 1);
    }
}

/* ---- bits, requeue, wake-and-change ---------------------------------------------------------------------------------------------- */

static void bit_sleeper(struct member *me)
{
    SYS(futex(&bed.word, FUTEX_WAIT_BITSET, 0, NULL, NULL, me->number % 2 ? 2 : 1));
    me->sum = (uint64_t)atomic_load(&bed.gate);
}

static void bits(void)
{
    const int n = threads(4) / 2 * 2;
    memset(&bed, 0, sizeof bed);
    struct member *crew = crew_start(n, bit_sleeper, NULL);
    wake(&bed.word, n / 2, INT_MAX, 2);
    atomic_store(&bed.gate, 1);
    wake(&bed.word, n / 2, INT_MAX, 1);
    const uint64_t sum = crew_join(crew);
    CHECK(sum >= (uint64_t)n / 2, "%d with the first bit woke up early", n - (int)sum);
}

static void moved_sleeper(struct member *me)
{
    while (!atomic_load(&bed.gate)) {
        if (futex(&bed.word, FUTEX_WAIT, 0, NULL, NULL, 0) < 0)
            CHECK(errno == EAGAIN, "FUTEX_WAIT: %s", strerror(errno));
        sched_yield();
    }
    me->sum = 1;
}

static void requeue(void)
{
    const int n = threads(4);
    memset(&bed, 0, sizeof bed);
    struct member *crew = crew_start(n, moved_sleeper, NULL);
    for (int round = 0; round < rounds(20); round++) {
        SYS(syscall(SYS_futex, &bed.word, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, (long)INT_MAX, &bed.other, 0));
        FAILS(syscall(SYS_futex, &bed.word, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, (long)INT_MAX, &bed.other, 1), EAGAIN);
        SYS(syscall(SYS_futex, &bed.other, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 1, 1L, &bed.word, FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0)));
        sleep_ms(1);
    }
    atomic_store(&bed.gate, 1);
    atomic_store(&bed.word, 1); /* who has just seen the gate closed does not sleep any more */
    SYS(futex(&bed.word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0));
    SYS(futex(&bed.other, FUTEX_WAKE, INT_MAX, NULL, NULL, 0));
    EQUAL(crew_join(crew), n);
}

/* ---- ends of a sleep: time, another value, a signal ------------------------------------------------------------------------------- */

static atomic_int handled;

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&handled, 1);
}

static void handler_set(int flags)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = flags};
    SYS(sigaction(SIGUSR1, &act, NULL));
    atomic_store(&handled, 0);
}

static sem_t never;

static void interrupted(struct member *me)
{
    const struct timespec moment = {.tv_nsec = 2000000};
    struct timespec end = after_ms(CLOCK_MONOTONIC, 2);
    FAILS(futex(&bed.word, FUTEX_WAIT, 0, &moment, NULL, 0), ETIMEDOUT);
    FAILS(futex(&bed.word, FUTEX_WAIT_BITSET, 0, &end, NULL, -1), ETIMEDOUT);
    CHECK(not_before(CLOCK_MONOTONIC, end), "woke up too early");
    FAILS(futex(&bed.word, FUTEX_WAIT, 1, NULL, NULL, 0), EAGAIN);
    atomic_fetch_add(&bed.ready, 1);
    FAILS(sem_wait(&never), EINTR);
    atomic_fetch_add(&bed.end, 1);
    CHECK(atomic_load(&handled) > 0, "interrupted, but not by the handler");
    me->sum = 1;
}

static void ends(void)
{
    const int n = threads(2);
    memset(&bed, 0, sizeof bed);
    OK(sem_init(&never, 0, 0));
    handler_set(0);
    struct member *crew = crew_start(n, interrupted, NULL);
    wait_until_at_least(&bed.ready, n);
    while (atomic_load(&bed.end) < n) { /* one may not have slept yet */
        for (int i = 0; i < n; i++)
            pthread_kill(crew[i].id, SIGUSR1);
        sleep_ms(5);
    }
    EQUAL(crew_join(crew), n);
}

/* ---- buffers ------------------------------------------------------------------------------------------------------------------------ */

static void tcp_pair(int fd[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    const int listening = SYS(socket(AF_INET, SOCK_STREAM, 0));
    SYS(bind(listening, (struct sockaddr *)&at, len));
    SYS(listen(listening, 1));
    SYS(getsockname(listening, (struct sockaddr *)&at, &len));
    fd[0] = SYS(socket(AF_INET, SOCK_STREAM, 0));
    SYS(connect(fd[0], (struct sockaddr *)&at, len));
    fd[1] = SYS(accept(listening, NULL, NULL));
    SYS(close(listening));
}

static void buffer_reader(struct member *me)
{
    enum { MOST = 300000 };
    unsigned char *own = NOT_NULL(malloc(MOST + 64));
    const int n = rounds(30);
    int pipes[2], sockets[2], streams[2];
    char *fixed = SYS(mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    FILE *file = NOT_NULL(tmpfile());
    SYS(pipe(pipes));
    SYS(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets));
    tcp_pair(streams);
    EQUAL(fixed[PAGE], 0);
    for (int i = 0; i < n; i++) {
        const size_t bytes = i % 3 == 2 ? MOST - (size_t)i : 1 + rng_below(&me->rng, 20000), from = rng_below(&me->rng, 64);
        const uint64_t key = rng_next(&me->rng);
        fill_bytes(own + from, bytes, key);
        EQUAL(pwrite(fileno(file), own + from, bytes, 77), (long)bytes);
        memset(own, i, MOST + 64);
        EQUAL(pread(fileno(file), own + from, bytes, 77), (long)bytes);
        CHECK_BYTES(own + from, bytes, key);
        EQUAL(own[from + bytes], (unsigned char)i);
        const size_t small = bytes < 3000 ? bytes : 3000;
        EQUAL(write(pipes[1], own + from, small), (long)small);
        FAILS(read(pipes[0], fixed + 5, small), EFAULT);
        FAILS(write(pipes[1], (char *)16, small), EFAULT);
        EQUAL(read(pipes[0], memset(own, 0, bytes + from), small + 1), (long)small); /* nothing is lost */
        CHECK_BYTES(own, small, key);
        EQUAL(send(sockets[0], own, small, 0), (long)small);
        EQUAL(recv(sockets[1], memset(own + PAGE, 7, 9), small / 2, MSG_TRUNC), (long)small);
        CHECK_BYTES(own + PAGE, small / 2, key);
        EQUAL(write(streams[0], own, small), (long)small);
        memset(own + PAGE, 9, small);
        EQUAL(recv(streams[1], own + PAGE, small, MSG_TRUNC | MSG_WAITALL), (long)small); /* thrown away, in the kernel */
        EQUAL(own[PAGE + small / 2], 9);
        me->sum += bytes;
    }
    for (int i = 0; i < 2; i++) {
        SYS(close(pipes[i]));
        SYS(close(sockets[i]));
        SYS(close(streams[i]));
    }
    SYS(munmap(fixed, 2 * PAGE));
    fclose(file);
    free(own);
}

static void buffers(void)
{
    result("%" PRIu64, crew_run(threads(3), buffer_reader, NULL));
}

/* ---- the first thread shares all the time --------------------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int turn, n;
    int *on_stack; /* of the first thread */
} table = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, NULL};

static void sit(int number, int of)
{
    OK(pthread_mutex_lock(&table.lock));
    while (table.turn != number)
        OK(pthread_cond_wait(&table.changed, &table.lock));
    table.turn = (number + 1) % of;
    table.n++;
    ++*table.on_stack;
    OK(pthread_cond_broadcast(&table.changed));
    OK(pthread_mutex_unlock(&table.lock));
}

static void guest(struct member *me)
{
    for (int i = 0; i < rounds(600); i++)
        sit(me->number + 1, me->of + 1);
}

static void *passer_by(void *arg)
{
    return arg;
}

static void visit(void)
{
    const int n = threads(2), n_rounds = rounds(600);
    int here = 0, n_sent = 0;
    handler_set(SA_RESTART);
    table.n = table.turn = 0;
    table.on_stack = &here;
    struct member *crew = crew_start(n, guest, NULL);
    for (int i = 0; i < n_rounds; i++) {
        sit(0, n + 1);
        if (i % 97 == 96) { /* to the process: somebody must take it before we go on */
            SYS(kill(getpid(), SIGUSR1));
            wait_until_at_least(&handled, ++n_sent);
        }
        if (i % 250 == 249) {
            void *all = NULL;
            pthread_t thread;
            OK(pthread_create(&thread, NULL, passer_by, NULL));
            OK(pthread_join(thread, &all));
        }
    }
    crew_join(crew);
    EQUAL(table.n, n_rounds * (n + 1));
    EQUAL(here, n_rounds * (n + 1));
    EQUAL(atomic_load(&handled), n_sent);
    result("%d", here);
}

static const struct sub_test tests[] = {
    {"wake_counts", wake_counts, "as many wake up as were woken, whoever wakes them"},
    {"bits", bits, "FUTEX_WAIT_BITSET and FUTEX_WAKE_BITSET"},
    {"requeue", requeue, "FUTEX_CMP_REQUEUE and FUTEX_WAKE_OP"},
    {"ends", ends, "times, values and signals that end a sleep"},
    {"buffers", buffers, "what is read and written, wherever its pages are"},
    {"visit", visit, "a first thread that shares with the others all the time"},
};

TORTURE_MAIN(tests)
