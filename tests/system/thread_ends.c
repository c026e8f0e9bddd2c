/* thread_ends.c - threads end while what the kernel looks at then is away: robust mutexes, and a thread's control block on a stack of the program's own.
 * Prints "ok", or what is wrong. Argument "threads": not what the kernel looks at when the whole process ends. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define AREA (48 * MIB)
#define STACK (256ul << 10)
#define MUTEXES 8

static uint8_t *area, *apart; /* apart: a mutex each 64 KiB */
static pthread_mutex_t *held[MUTEXES];
static atomic_int has_all; /* the owner */

static void *map(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        exit(2);
    return at;
}

static void wrong(const char *what, int value)
{
    printf("%s: %d\n", what, value);
    exit(1);
}

/* Everything else leaves. */
static void press(void)
{
    static uint8_t turn;
    turn++;
    for (int twice = 0; twice < 2; twice++)
        for (size_t i = 0; i < AREA; i += PAGE)
            area[i] = (uint8_t)(turn + twice);
}

static void *owner(void *arg)
{
    for (int i = 0; i < MUTEXES; i++)
        if (pthread_mutex_lock(held[i]))
            wrong("lock", i);
    has_all = 1;
    press();
    madvise(apart, MIB, MADV_PAGEOUT);
    press();
    madvise(apart, MIB, MADV_PAGEOUT);
    return arg;
}

static void *waiter(void *arg)
{
    int rc = pthread_mutex_lock(arg);
    if (rc == EOWNERDEAD)
        pthread_mutex_consistent(arg), pthread_mutex_unlock(arg);
    return (void *)(intptr_t)rc;
}

static void robust(int waiting)
{
    pthread_mutexattr_t kind;
    pthread_t one, other;
    void *got;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    for (int i = 0; i < MUTEXES; i++) {
        held[i] = (pthread_mutex_t *)(apart + (size_t)i * (64 << 10));
        pthread_mutex_init(held[i], &kind);
    }
    has_all = 0;
    pthread_create(&one, NULL, owner, NULL);
    while (waiting && !has_all)
        usleep(1000);
    if (!waiting)
        pthread_join(one, NULL);
    for (int i = 0; i < MUTEXES; i++) {
        pthread_create(&other, NULL, waiter, held[i]);
        pthread_join(other, &got);
        if ((intptr_t)got != EOWNERDEAD && !(waiting && (intptr_t)got == 0))
            wrong("a dead owner's mutex", (int)(intptr_t)got);
    }
    if (waiting)
        pthread_join(one, NULL);
}

static void *presser(void *arg)
{
    press();
    return arg;
}

static void own_stacks(void)
{
    for (int turn = 0; turn < 6; turn++) {
        pthread_attr_t attr;
        pthread_t t;
        pthread_attr_init(&attr);
        pthread_attr_setstack(&attr, apart + MIB + (size_t)(turn % 2) * STACK, STACK);
        if (pthread_create(&t, &attr, presser, NULL))
            wrong("create", turn);
        pthread_join(t, NULL);
    }
}

/* A mutex that processes share, and behind it in the list of what the thread holds (so before it, as the kernel goes) one whose page is away. */
static pthread_mutex_t *shared;
static pthread_barrier_t both;

static void hold(int i)
{
    if (pthread_mutex_lock(shared + i) || pthread_mutex_lock(held[i]))
        wrong("lock", i);
}

static void *holder(void *arg)
{
    hold(1);
    pthread_barrier_wait(&both);
    for (;;)
        pause();
    return arg;
}

static void exits(void)
{
    pthread_t other;
    pthread_barrier_init(&both, NULL, 2);
    pthread_create(&other, NULL, holder, NULL);
    hold(0);
    pthread_barrier_wait(&both);
    press();
    madvise(apart, MIB, MADV_PAGEOUT);
    press();
    madvise(apart, MIB, MADV_PAGEOUT);
    _exit(0);
}

static void process_ends(void)
{
    pthread_mutexattr_t kind;
    int status;
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    for (int i = 0; i < 2; i++)
        pthread_mutex_init(held[i], &kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    for (int i = 0; i < 2; i++)
        pthread_mutex_init(shared + i, &kind);
    pid_t pid = fork();
    if (!pid)
        exits();
    if (waitpid(pid, &status, 0) != pid || status)
        wrong("the child", status);
    for (int i = 0; i < 2; i++) {
        struct timespec soon;
        clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_sec += 5;
        int rc = pthread_mutex_timedlock(shared + i, &soon);
        if (rc != EOWNERDEAD)
            wrong("a dead process's mutex", rc);
    }
}

int main(int argc, char **argv)
{
    alarm(100);
    area = map(AREA);
    apart = map(4 * MIB);
    press();
    robust(0);
    robust(1);
    own_stacks();
    if (argc < 2 || strcmp(argv[1], "threads") != 0)
        process_ends();
    puts("ok");
    return 0;
}
