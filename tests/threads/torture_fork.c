/* torture_fork.c - children made by threads while other threads run: fork, vfork, posix_spawn, popen, system. See torture.h for the
 * command line. */
#include "torture.h"

#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

extern char **environ;

/* ---- what a child finds: its parent's memory as it was at the fork ------------------------------------------------------ */

static struct {
    _Alignas(4096) uint64_t frozen[5 * 512]; /* nobody writes while a fork is near */
    _Alignas(4096) atomic_ulong busy;        /* somebody always writes */
    _Alignas(4096) atomic_bool stop;
} memory;

static __thread uint64_t own_of_thread = 5;

/* Keeps the processors and the pages busy. */
static void *busy_main(void *arg)
{
    uint64_t *heap = NOT_NULL(malloc(20000));
    (void)arg;
    for (unsigned long i = 0; !atomic_load(&memory.stop); i++) {
        atomic_fetch_add(&memory.busy, 1);
        heap[i % 2500] = i;
        if (i % 256 == 0) {
            free(heap);
            heap = NOT_NULL(malloc(20000));
            sleep_ms(0);
        }
    }
    free(heap);
    return NULL;
}

static void check_status(pid_t child, int wanted)
{
    int status = -1;
    EQUAL(SYS(waitpid(child, &status, 0)), child);
    CHECK(WIFEXITED(status), "the child was ended by signal %d", WTERMSIG(status));
    EQUAL(WEXITSTATUS(status), wanted);
}

static void child_checks(uint64_t key, const unsigned char *heap, size_t heap_len, pid_t parent)
{
    EQUAL(getppid(), parent);
    EQUAL(gettid(), getpid());
    EQUAL(own_of_thread, key);
    CHECK_BYTES(memory.frozen, sizeof memory.frozen, key);
    CHECK_BYTES(heap, heap_len, key + 1);
    /* Its own from now on. */
    fill_bytes(memory.frozen, sizeof memory.frozen, key + 2);
    CHECK_BYTES(memory.frozen, sizeof memory.frozen, key + 2);
    const unsigned long busy = atomic_load(&memory.busy);
    unsigned char *more = malloc(100000); /* a lock that another thread held at the fork must be free here */
    CHECK(more, "malloc in a child");
    memset(more, 1, 100000);
    free(more);
    EQUAL(atomic_load(&memory.busy), busy); /* nobody else runs here */
}

static void fork_body(struct member *me)
{
    const int n = rounds(6);
    for (int i = 0; i < n; i++) {
        const uint64_t key = rng_next(&me->rng);
        unsigned char *heap = NOT_NULL(malloc(30000));
        fill_bytes(memory.frozen, sizeof memory.frozen, key);
        fill_bytes(heap, 30000, key + 1);
        own_of_thread = key;
        const pid_t parent = getpid(), child = SYS(fork());
        if (child == 0) {
            child_checks(key, heap, 30000, parent);
            _exit(40 + i % 10);
        }
        heap[0] ^= 1; /* the child must not see it */
        memory.frozen[0] ^= 1;
        check_status(child, 40 + i % 10);
        heap[0] ^= 1;
        memory.frozen[0] ^= 1;
        CHECK_BYTES(memory.frozen, sizeof memory.frozen, key);
        CHECK_BYTES(heap, 30000, key + 1);
        free(heap);
        me->sum++;
    }
}

static void with_busy_threads(void (*body)(struct member *me), int forkers)
{
    pthread_t busy[2];
    memory.stop = false;
    for (int b = 0; b < 2; b++)
        OK(pthread_create(&busy[b], NULL, busy_main, NULL));
    const uint64_t n = crew_run(forkers, body, NULL);
    memory.stop = true;
    for (int b = 0; b < 2; b++)
        OK(pthread_join(busy[b], NULL));
    result("%" PRIu64, n);
}

static void fork_test(void)
{
    with_busy_threads(fork_body, 1);
}

/* The main thread forks while threads run. */
static void fork_main(void)
{
    pthread_t busy[2];
    memory.stop = false;
    for (int b = 0; b < 2; b++)
        OK(pthread_create(&busy[b], NULL, busy_main, NULL));
    struct member me = {.rng = torture_seed};
    fork_body(&me);
    memory.stop = true;
    for (int b = 0; b < 2; b++)
        OK(pthread_join(busy[b], NULL));
    own_of_thread = 5;
}

/* Several threads fork at once; each child checks only its maker's. */
static void fork_storm_body(struct member *me)
{
    const int n = rounds(4);
    for (int i = 0; i < n; i++) {
        const uint64_t key = rng_next(&me->rng);
        unsigned char *heap = NOT_NULL(malloc(9000));
        fill_bytes(heap, 9000, key);
        own_of_thread = key;
        const pid_t child = SYS(fork());
        if (child == 0) {
            EQUAL(own_of_thread, key);
            CHECK_BYTES(heap, 9000, key);
            _exit(me->number % 100);
        }
        free(heap);
        check_status(child, me->number % 100);
        me->sum++;
    }
}

static void fork_storm(void)
{
    with_busy_threads(fork_storm_body, threads(3));
}

/* A child of a thread makes threads of its own. */
static void grandchild_body(struct member *me)
{
    EQUAL(own_of_thread, 5);
    own_of_thread = (uint64_t)me->number;
    atomic_fetch_add(&memory.busy, 1);
    me->sum = own_of_thread;
}

static void threads_in_child_body(struct member *me)
{
    const int n = rounds(2);
    for (int i = 0; i < n; i++) {
        const pid_t child = SYS(fork());
        if (child == 0) {
            atomic_store(&memory.busy, 0);
            EQUAL(crew_run(4, grandchild_body, NULL), 6);
            EQUAL(atomic_load(&memory.busy), 4);
            _exit(9);
        }
        check_status(child, 9);
        me->sum++;
    }
}

static void threads_in_child(void)
{
    with_busy_threads(threads_in_child_body, 1);
}

/* ---- a handler forks while its thread is in a call: both come back from it ----------------------------------------------- */

static int handler_pipe[2];
static atomic_int in_read;
static __thread volatile pid_t handler_child = -1;

static void forking_handler(int signal)
{
    const int saved = errno;
    (void)signal;
    handler_child = fork();
    errno = saved;
}

static void fork_in_handler_body(struct member *me)
{
    char byte;
    uint64_t value = mix((uint64_t)me->number + 7);
    double half = 0.5 * me->number;
    atomic_store(&in_read, 1);
    errno = 0;
    const ssize_t got = read(handler_pipe[0], &byte, 1);
    CHECK(got == -1 && errno == EINTR, "read: %zd, errno %d", got, errno);
    CHECK(value == mix((uint64_t)me->number + 7) && half == 0.5 * me->number, "a register is another one after the fork");
    if (handler_child == 0)
        _exit(23);
    check_status(handler_child, 23);
    me->sum++;
}

static void fork_in_handler(void)
{
    const struct sigaction action = {.sa_handler = forking_handler}, before = {.sa_handler = SIG_DFL};
    SYS(pipe(handler_pipe));
    SYS(sigaction(SIGUSR1, &action, NULL));
    in_read = 0;
    struct member *crew = crew_start(1, fork_in_handler_body, NULL);
    wait_until_at_least(&in_read, 1);
    sleep_ms(30);
    OK(pthread_kill(crew[0].id, SIGUSR1));
    EQUAL(crew_join(crew), 1);
    SYS(sigaction(SIGUSR1, &before, NULL));
    SYS(close(handler_pipe[0]));
    SYS(close(handler_pipe[1]));
}

/* ---- pthread_atfork ----------------------------------------------------------------------------------------------------- */

static pthread_mutex_t atfork_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int prepared, in_parent, in_child;

static void atfork_prepare(void)
{
    OK(pthread_mutex_lock(&atfork_lock));
    atomic_fetch_add(&prepared, 1);
}

static void atfork_parent(void)
{
    atomic_fetch_add(&in_parent, 1);
    OK(pthread_mutex_unlock(&atfork_lock));
}

static void atfork_child(void)
{
    atomic_fetch_add(&in_child, 1);
    OK(pthread_mutex_unlock(&atfork_lock));
}

static void atfork_body(struct member *me)
{
    const int n = rounds(3);
    for (int i = 0; i < n; i++) {
        const pid_t child = SYS(fork());
        if (child == 0) {
            EQUAL(atomic_load(&in_child), 1);
            EQUAL(pthread_mutex_trylock(&atfork_lock), 0);
            _exit(0);
        }
        check_status(child, 0);
        me->sum++;
    }
}

static void atfork(void)
{
    static bool registered;
    if (!registered)
        OK(pthread_atfork(atfork_prepare, atfork_parent, atfork_child));
    registered = true;
    prepared = in_parent = in_child = 0;
    with_busy_threads(atfork_body, threads(2));
    EQUAL(prepared, threads(2) * rounds(3));
    EQUAL(in_parent, prepared);
    EQUAL(in_child, 0);
}

/* ---- other programs ----------------------------------------------------------------------------------------------------- */

static void spawn_body(struct member *me)
{
    const int n = rounds(3);
    char number[20], text[64] = "", wanted[64];
    for (int i = 0; i < n; i++) {
        int ends[2];
        pid_t child;
        posix_spawn_file_actions_t actions;
        snprintf(number, sizeof number, "%d", me->number * 100 + i);
        char *argv[] = {"sh", "-c", "echo spawned $0 $TORTURE; exit 3", number, NULL};
        char *env[] = {"TORTURE=here", "PATH=/usr/bin:/bin", NULL};
        SYS(pipe2(ends, 0));
        OK(posix_spawn_file_actions_init(&actions));
        OK(posix_spawn_file_actions_adddup2(&actions, ends[1], 1));
        OK(posix_spawn_file_actions_addclose(&actions, ends[0]));
        OK(posix_spawn(&child, "/bin/sh", &actions, NULL, argv, env));
        OK(posix_spawn_file_actions_destroy(&actions));
        SYS(close(ends[1]));
        snprintf(wanted, sizeof wanted, "spawned %s here\n", number);
        /* Another thread's child may hold the other end a moment longer: no reading to the end. */
        size_t len = 0;
        while (len < strlen(wanted)) {
            const ssize_t got = SYS(read(ends[0], text + len, sizeof text - 1 - len));
            CHECK(got > 0, "the child said only '%.*s'", (int)len, text);
            len += (size_t)got;
        }
        text[len] = 0;
        CHECK(!strcmp(text, wanted), "the child said '%s', wanted '%s'", text, wanted);
        SYS(close(ends[0]));
        check_status(child, 3);
        EQUAL(posix_spawn(&child, "/nowhere/at/all", NULL, NULL, argv, env), ENOENT);
        me->sum++;
    }
}

static void spawn(void)
{
    with_busy_threads(spawn_body, threads(2));
}

__attribute__((noinline)) static pid_t vfork_shell(char **argv)
{
    const pid_t child = vfork();
    if (child == 0) {
        execve("/bin/sh", argv, environ);
        _exit(99);
    }
    return child;
}

static void vfork_body(struct member *me)
{
    const int n = rounds(3);
    char *argv[] = {"sh", "-c", "exit 7", NULL};
    for (int i = 0; i < n; i++) {
        check_status(SYS(vfork_shell(argv)), 7);
        me->sum++;
    }
}

static void vfork_test(void)
{
    with_busy_threads(vfork_body, threads(2));
}

static void popen_body(struct member *me)
{
    const int n = rounds(2);
    for (int i = 0; i < n; i++) {
        char command[100];
        int value = -1, twice = -1;
        snprintf(command, sizeof command, "echo %d $((%d * 2)); exit 5", i + me->number, i + me->number);
        FILE *in = NOT_NULL(popen(command, "re"));
        EQUAL(fscanf(in, "%d %d", &value, &twice), 2);
        EQUAL(value, i + me->number);
        EQUAL(twice, 2 * value);
        EQUAL(pclose(in), 5 << 8);

        FILE *out = NOT_NULL(popen("read x && test \"$x\" = 'from a thread'", "we"));
        CHECK(fputs("from a thread\n", out) >= 0, "fputs: %s", strerror(errno));
        EQUAL(pclose(out), 0);
        me->sum++;
    }
}

static void popen_test(void)
{
    with_busy_threads(popen_body, threads(2));
}

static void system_body(struct member *me)
{
    const int n = rounds(3);
    for (int i = 0; i < n; i++) {
        char command[100];
        snprintf(command, sizeof command, "test %d -eq %d; exit %d", i, i, me->number + i);
        EQUAL(system(command), (me->number + i) % 256 << 8);
        EQUAL(system("kill -9 $$"), SIGKILL);
        me->sum++;
    }
}

static void system_test(void)
{
    with_busy_threads(system_body, threads(2));
}

/* Memory shared with children: atomics and a process-shared mutex in it. */
static struct {
    pthread_mutex_t lock;
    unsigned long locked;
    atomic_ulong atomic;
} *common;

static void common_work(int n)
{
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&common->lock));
        common->locked++;
        OK(pthread_mutex_unlock(&common->lock));
        atomic_fetch_add(&common->atomic, 1);
    }
}

static void shared_memory_body(struct member *me)
{
    if (me->number == 0) {
        const pid_t child = SYS(fork());
        if (child == 0) {
            common_work(rounds(100));
            _exit(0);
        }
        common_work(rounds(100));
        check_status(child, 0);
    } else {
        common_work(rounds(100));
    }
}

static void shared_memory(void)
{
    pthread_mutexattr_t attr;
    common = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(common != MAP_FAILED, "mmap: %s", strerror(errno));
    OK(pthread_mutexattr_init(&attr));
    OK(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
    OK(pthread_mutex_init(&common->lock, &attr));
    OK(pthread_mutexattr_destroy(&attr));
    crew_run(2, shared_memory_body, NULL);
    EQUAL(common->locked, 3 * rounds(100));
    EQUAL(common->atomic, 3 * rounds(100));
    result("%lu", common->locked);
    SYS(munmap(common, PAGE));
}

/* ---- a robust mutex of two processes, one of which ends while a thread of it holds it -------------------------------------- */

struct held {
    pthread_mutex_t mutex;
    atomic_int by; /* how many times it was taken by a child */
};

static void nothing(int signal)
{
    (void)signal;
}

static void *holder_main(void *shared)
{
    struct held *h = shared;
    volatile int work = 0;
    for (int i = 0; i < 100000; i++)
        work++;
    OK(pthread_mutex_lock(&h->mutex));
    atomic_fetch_add(&h->by, 1);
    for (;;)
        pause();
}

static void child_holds(struct held *h, int how)
{
    pthread_t t;
    OK(pthread_create(&t, NULL, holder_main, h));
    if (how % 2) /* it comes home before */
        OK(pthread_kill(t, SIGUSR1));
    while (!atomic_load(&h->by))
        sleep_ms(1);
    if (how / 2 == 1)
        _exit(0);
    if (how / 2 == 2)
        execl("/bin/true", "true", (char *)NULL);
    for (;;)
        pause();
}

static void robust_shared(void)
{
    signal(SIGUSR1, nothing);
    for (int how = 0; how < 6; how++) {
        struct held *h = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        pthread_mutexattr_t attr;
        CHECK(h != MAP_FAILED, "mmap: %s", strerror(errno));
        OK(pthread_mutexattr_init(&attr));
        OK(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST));
        OK(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
        OK(pthread_mutex_init(&h->mutex, &attr));
        const pid_t child = SYS(fork());
        if (!child)
            child_holds(h, how);
        while (!atomic_load(&h->by))
            sleep_ms(1);
        if (how / 2 == 0)
            SYS(kill(child, SIGKILL));
        SYS(waitpid(child, NULL, 0));
        struct timespec until;
        SYS(clock_gettime(CLOCK_REALTIME, &until));
        until.tv_sec += 10;
        EQUAL(pthread_mutex_timedlock(&h->mutex, &until), EOWNERDEAD);
        SYS(munmap(h, PAGE));
    }
    signal(SIGUSR1, SIG_DFL);
}

static const struct sub_test tests[] = {
    {"fork", fork_test, "a thread forks while others run; the child checks memory"},
    {"fork_main", fork_main, "the main thread forks while others run"},
    {"fork_storm", fork_storm, "several threads fork"},
    {"threads_in_child", threads_in_child, "the child of a thread makes threads"},
    {"fork_in_handler", fork_in_handler, "a handler forks while its thread sleeps in a call"},
    {"spawn", spawn, "posix_spawn with pipes"},
    {"vfork", vfork_test, "vfork and execve"},
    {"popen", popen_test, "popen, both ways"},
    {"system", system_test, "system"},
    {"shared_memory", shared_memory, "a shared mapping with a child"},
    {"atfork", atfork, "handlers of pthread_atfork"},
    {"robust_shared", robust_shared, "a child ends while a thread of it holds a robust mutex that processes share"},
};

TORTURE_MAIN(tests)
