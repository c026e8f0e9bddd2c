/* torture_churn.c - threads that come and go, one by one and many at a time, joined and detached, with stacks of all kinds. See
 * torture.h for the command line. */
#include "torture.h"

#include <limits.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* ---- create and join ---------------------------------------------------------------------------------------------------- */

struct errand {
    uint64_t in, out;
    pthread_t self;
};

static void *errand_main(void *arg)
{
    struct errand *errand = arg;
    errand->out = mix(errand->in);
    errand->self = pthread_self();
    return (void *)(uintptr_t)(errand->in * 3);
}

/* A few at a time, joined in another order than they were started in. */
static void create_join(void)
{
    enum { BATCH = 4 };
    const int n = rounds(2000);
    struct errand errands[BATCH];
    pthread_t ids[BATCH];
    uint64_t sum = 0;
    for (int done = 0; done < n; done += BATCH) {
        for (int b = 0; b < BATCH; b++) {
            errands[b] = (struct errand){.in = (uint64_t)(done + b)};
            OK(pthread_create(&ids[b], NULL, errand_main, &errands[b]));
        }
        for (int j = 0; j < BATCH; j++) {
            const int b = (j * 3 + done / BATCH) % BATCH;
            void *value;
            OK(pthread_join(ids[b], &value));
            EQUAL((uintptr_t)value, (uint64_t)(done + b) * 3);
            CHECK(errands[b].out == mix(errands[b].in), "thread %d: its result is not there after join", done + b);
            CHECK(pthread_equal(errands[b].self, ids[b]), "thread %d: pthread_self is not what pthread_create gave", done + b);
            sum += errands[b].out;
        }
    }
    result("%d %016" PRIx64, (n + BATCH - 1) / BATCH * BATCH, sum);
}

/* The same by several threads at once. */
static void create_join_body(struct member *me)
{
    const int n = rounds(100);
    for (int i = 0; i < n; i++) {
        struct errand errand = {.in = rng_next(&me->rng)};
        pthread_t id;
        void *value;
        OK(pthread_create(&id, NULL, errand_main, &errand));
        if (i % 3 == 0) {
            int error;
            while ((error = pthread_tryjoin_np(id, &value)) == EBUSY)
                sched_yield();
            OK(error);
        } else if (i % 3 == 1) {
            const struct timespec until = after_ms(CLOCK_REALTIME, 60000);
            OK(pthread_timedjoin_np(id, &value, &until));
        } else {
            OK(pthread_join(id, &value));
        }
        EQUAL((uintptr_t)value, errand.in * 3);
        CHECK(errand.out == mix(errand.in), "a result is not there after join");
        me->sum++;
    }
}

static void created_by_threads(void)
{
    result("%" PRIu64, crew_run(threads(3), create_join_body, NULL));
}

/* ---- detached ----------------------------------------------------------------------------------------------------------- */

static atomic_int ended;

static void *detached_main(void *arg)
{
    if ((intptr_t)arg % 2)
        OK(pthread_detach(pthread_self()));
    atomic_fetch_add(&ended, 1);
    return NULL;
}

static void detached(void)
{
    const int n = rounds(400);
    pthread_attr_t attr;
    ended = 0;
    OK(pthread_attr_init(&attr));
    OK(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
    for (intptr_t i = 0; i < n; i++) {
        pthread_t id;
        /* Odd ones detach themselves, every fourth is detached by its maker, the others are born so. */
        OK(pthread_create(&id, i % 2 || i % 4 == 0 ? NULL : &attr, detached_main, (void *)i));
        if (i % 2 == 0 && i % 4 == 0)
            OK(pthread_detach(id));
        wait_until_at_least(&ended, (int)i - 8); /* some at a time, not all */
    }
    wait_until_at_least(&ended, n);
    OK(pthread_attr_destroy(&attr));
    result("%d", ended);
}

/* ---- many at once ------------------------------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t all_there, go_home;
    int there;
    bool home;
    atomic_int stack_words;
} crowd = {.lock = PTHREAD_MUTEX_INITIALIZER, .all_there = PTHREAD_COND_INITIALIZER, .go_home = PTHREAD_COND_INITIALIZER};

static void crowd_body(struct member *me)
{
    volatile uint64_t on_stack[64];
    for (unsigned i = 0; i < 64; i++)
        on_stack[i] = mix((uint64_t)me->number * 64 + i);
    OK(pthread_mutex_lock(&crowd.lock));
    if (++crowd.there == me->of)
        OK(pthread_cond_signal(&crowd.all_there));
    while (!crowd.home)
        OK(pthread_cond_wait(&crowd.go_home, &crowd.lock));
    OK(pthread_mutex_unlock(&crowd.lock));
    for (unsigned i = 0; i < 64; i++)
        CHECK(on_stack[i] == mix((uint64_t)me->number * 64 + i), "thread %d: its stack changed while it slept", me->number);
    me->sum = (uint64_t)me->number;
}

static void alive(void)
{
    const int n = threads(100);
    crowd.there = 0;
    crowd.home = false;
    struct member *crew = crew_start(n, crowd_body, NULL);
    OK(pthread_mutex_lock(&crowd.lock));
    while (crowd.there < n)
        OK(pthread_cond_wait(&crowd.all_there, &crowd.lock));
    crowd.home = true;
    OK(pthread_cond_broadcast(&crowd.go_home));
    OK(pthread_mutex_unlock(&crowd.lock));
    EQUAL(crew_join(crew), (uint64_t)n * (uint64_t)(n - 1) / 2);
    result("%d", n);
}

/* A tree: every thread makes two more, down to the leaves, and joins them. */
static void *tree_main(void *arg)
{
    const uintptr_t depth = (uintptr_t)arg;
    uintptr_t n = 1;
    if (depth > 0) {
        pthread_t child[2];
        for (int c = 0; c < 2; c++)
            OK(pthread_create(&child[c], NULL, tree_main, (void *)(depth - 1)));
        for (int c = 0; c < 2; c++) {
            void *value;
            OK(pthread_join(child[c], &value));
            n += (uintptr_t)value;
        }
    }
    return (void *)n;
}

static void tree(void)
{
    const uintptr_t depth = 5;
    const uintptr_t n = (uintptr_t)tree_main((void *)depth);
    EQUAL(n, (1 << (depth + 1)) - 1);
    result("%zu", (size_t)n);
}

/* A chain: every thread makes the next one, detached, and ends before it. */
static sem_t chain_done;

static void *chain_main(void *arg)
{
    const intptr_t left = (intptr_t)arg;
    if (left == 0) {
        SYS(sem_post(&chain_done));
    } else {
        pthread_t next;
        OK(pthread_create(&next, NULL, chain_main, (void *)(left - 1)));
        OK(pthread_detach(next));
    }
    return NULL;
}

static void chain(void)
{
    pthread_t first;
    SYS(sem_init(&chain_done, 0, 0));
    OK(pthread_create(&first, NULL, chain_main, (void *)(intptr_t)rounds(100)));
    OK(pthread_join(first, NULL));
    SYS(sem_wait(&chain_done));
    SYS(sem_destroy(&chain_done));
    result("%d", rounds(100));
}

/* Each is joined by the next one. */
static void *relay_main(void *arg)
{
    const pthread_t before = *(pthread_t *)arg;
    free(arg);
    void *value;
    OK(pthread_join(before, &value));
    return (void *)((uintptr_t)value + 1);
}

static void *relay_first(void *arg)
{
    sleep_ms(1);
    return arg;
}

static void joined_by_others(void)
{
    const int n = rounds(30);
    pthread_t last;
    void *value;
    OK(pthread_create(&last, NULL, relay_first, NULL));
    for (int i = 0; i < n; i++) {
        pthread_t *before = NOT_NULL(malloc(sizeof *before));
        *before = last;
        OK(pthread_create(&last, NULL, relay_main, before));
    }
    OK(pthread_join(last, &value));
    EQUAL((uintptr_t)value, n);
    EQUAL(pthread_join(pthread_self(), NULL), EDEADLK);
    result("%d", n);
}

/* ---- stacks ------------------------------------------------------------------------------------------------------------- */

/* Uses the stack nearly to its end; every frame is checked on the way back. */
__attribute__((noinline)) static uint64_t deep(size_t left, uint64_t key)
{
    volatile unsigned char frame[2048];
    for (size_t i = 0; i < sizeof frame; i += 64)
        frame[i] = (unsigned char)(key + i);
    const uint64_t below = left > 2600 ? deep(left - 2600, mix(key)) : key;
    for (size_t i = 0; i < sizeof frame; i += 64)
        CHECK(frame[i] == (unsigned char)(key + i), "a stack frame changed, %zu bytes from the end", left);
    return below + frame[0] - (unsigned char)key;
}

static void *deep_main(void *arg)
{
    const size_t *size = arg;
    /* What the frames need beyond their arrays depends on how it was compiled: half of the stack is left. */
    return (void *)(uintptr_t)(deep(*size / 2, *size) != 0);
}

static void stacks(void)
{
    static const size_t sizes[] = {64 << 10, 1 << 20, 8 << 20, 16 << 20};
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        pthread_t id[3];
        pthread_attr_t attr;
        size_t size = sizes[s], guard;
        OK(pthread_attr_init(&attr));
        OK(pthread_attr_setstacksize(&attr, size));
        OK(pthread_attr_setguardsize(&attr, s * PAGE));
        OK(pthread_attr_getguardsize(&attr, &guard));
        EQUAL(guard, s * PAGE);
        for (int t = 0; t < 3; t++)
            OK(pthread_create(&id[t], &attr, deep_main, &size));
        for (int t = 0; t < 3; t++)
            OK(pthread_join(id[t], NULL));
        OK(pthread_attr_destroy(&attr));
    }
}

/* Stacks that the program provides: a mapping, a piece of the heap, static memory. */
static _Alignas(4096) unsigned char static_stack[256 << 10];

static void *own_stack_main(void *arg)
{
    unsigned char here = 1;
    const unsigned char *stack = arg;
    CHECK(&here > stack && &here < stack + (256 << 10), "the thread is not on the stack that it was given");
    deep(128 << 10, (uintptr_t)stack);
    return arg;
}

static void own_stacks(void)
{
    const size_t size = sizeof static_stack;
    unsigned char *stack[3];
    pthread_t id[3];
    stack[0] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    CHECK(stack[0] != MAP_FAILED, "mmap: %s", strerror(errno));
    stack[1] = NOT_NULL(aligned_alloc(4096, size));
    stack[2] = static_stack;
    for (int round = 0; round < 5; round++) {
        for (int t = 0; t < 3; t++) {
            pthread_attr_t attr;
            OK(pthread_attr_init(&attr));
            OK(pthread_attr_setstack(&attr, stack[t], size));
            OK(pthread_create(&id[t], &attr, own_stack_main, stack[t]));
            OK(pthread_attr_destroy(&attr));
        }
        for (int t = 0; t < 3; t++) {
            void *value;
            OK(pthread_join(id[t], &value));
            CHECK(value == stack[t], "a thread returned %p", value);
            fill_bytes(stack[t], size, (uint64_t)(round * 3 + t)); /* it is mine again */
        }
        for (int t = 0; t < 3; t++)
            CHECK_BYTES(stack[t], size, (uint64_t)(round * 3 + t));
    }
    SYS(munmap(stack[0], size));
    free(stack[1]);
}

/* Data on one thread's stack that others read and write. */
static void borrowed_body(struct member *me)
{
    uint64_t *const words = me->shared;
    for (int i = me->number; i < 2000; i += me->of) {
        EQUAL(words[i], (uint64_t)i);
        words[i] = mix((uint64_t)i);
    }
}

static void *lender_main(void *arg)
{
    uint64_t words[2000];
    (void)arg;
    for (int round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < 2000; i++)
            words[i] = i;
        crew_run(threads(3), borrowed_body, words);
        for (uint64_t i = 0; i < 2000; i++)
            CHECK(words[i] == mix(i), "word %" PRIu64 " on the stack is not what a thread wrote there", i);
    }
    return NULL;
}

static void borrowed_stack(void)
{
    pthread_t id;
    lender_main(NULL);
    OK(pthread_create(&id, NULL, lender_main, NULL));
    OK(pthread_join(id, NULL));
}

/* ---- attributes --------------------------------------------------------------------------------------------------------- */

static void *attributes_main(void *arg)
{
    cpu_set_t set, *wanted = arg;
    CPU_ZERO(&set);
    OK(pthread_getaffinity_np(pthread_self(), sizeof set, &set));
    CHECK(CPU_EQUAL(&set, wanted), "the thread has another set of processors than its attributes said");
    const int cpu = sched_getcpu();
    CHECK(cpu >= 0, "sched_getcpu: %d", cpu);
    struct sched_param param;
    int policy;
    OK(pthread_getschedparam(pthread_self(), &policy, &param));
    EQUAL(policy, SCHED_OTHER);
    return NULL;
}

static void attributes(void)
{
    cpu_set_t all, one;
    pthread_attr_t attr;
    pthread_t id;
    SYS(sched_getaffinity(0, sizeof all, &all));
    OK(pthread_attr_init(&attr));
    OK(pthread_attr_setaffinity_np(&attr, sizeof all, &all));
    OK(pthread_create(&id, &attr, attributes_main, &all));
    OK(pthread_join(id, NULL));
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&one); cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    OK(pthread_attr_setaffinity_np(&attr, sizeof one, &one));
    OK(pthread_create(&id, &attr, attributes_main, &one));
    OK(pthread_join(id, NULL));
    EQUAL(pthread_attr_setstacksize(&attr, 100), EINVAL);
    /* Not to be had: the error is pthread_create's, and no thread is left over. */
    OK(pthread_attr_setstacksize(&attr, (size_t)1 << 46));
    EQUAL(pthread_create(&id, &attr, attributes_main, &one), EAGAIN);
    OK(pthread_attr_destroy(&attr));
}

/* ---- the word that says that a thread has ended ------------------------------------------------------------------------------ */

/* It is cleared by the kernel, which does not mind one that cannot be written. */
static struct {
    int *page;
    int protection; /* -1: none is there */
    pid_t tid;
} word;

static void *word_main(void *arg)
{
    (void)arg;
    syscall(SYS_set_tid_address, word.page);
    SYS(word.protection < 0 ? munmap(word.page, PAGE) : mprotect(word.page, PAGE, word.protection));
    __atomic_store_n(&word.tid, gettid(), __ATOMIC_RELEASE);
    syscall(SYS_exit, 0);
    return NULL;
}

static void word_not_writable(void)
{
    static const int protections[] = {PROT_READ, PROT_NONE, -1};
    for (size_t i = 0; i < sizeof protections / sizeof *protections; i++) {
        pthread_t id; /* libc never learns that it has ended */
        word.page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(word.page != MAP_FAILED, "mmap: %s", strerror(errno));
        *word.page = 7;
        word.protection = protections[i];
        word.tid = 0;
        OK(pthread_create(&id, NULL, word_main, NULL));
        while (!__atomic_load_n(&word.tid, __ATOMIC_ACQUIRE) || !tgkill(getpid(), word.tid, 0))
            usleep(100);
        if (word.protection >= 0) {
            SYS(mprotect(word.page, PAGE, PROT_READ));
            EQUAL(*word.page, 7);
        }
    }
}

static const struct sub_test tests[] = {
    {"create_join", create_join, "--rounds threads, four at a time"},
    {"created_by_threads", created_by_threads, "threads made by threads; tryjoin, timedjoin"},
    {"detached", detached, "threads detached in three ways"},
    {"alive", alive, "--threads threads alive at once"},
    {"tree", tree, "every thread makes two more"},
    {"chain", chain, "every thread makes the next one and ends"},
    {"joined_by_others", joined_by_others, "every thread joins the one before"},
    {"stacks", stacks, "deep use of stacks of several sizes"},
    {"own_stacks", own_stacks, "stacks that the program provides"},
    {"borrowed_stack", borrowed_stack, "data on a stack that other threads use"},
    {"attributes", attributes, "affinity, policy, stacks that cannot be had"},
    {"word_not_writable", word_not_writable, "threads whose end the kernel cannot note"},
};

TORTURE_MAIN(tests)
