/* threads_micro.c - what threads do to each other, in nanoseconds. An ordinary program: it measures whatever runs its threads.
 *
 *   threads_micro MEASURE [SECONDS]               for at most about so long (0.6)
 *   threads_micro compute THREADS MILLIONS        threads that only compute
 *   threads_micro rtt unix|tcp spin|block         a bare 64-byte message there and back, between two processes
 *   threads_micro --list                          the measures
 *
 * Prints one line for each result: NAME MEDIAN P90 SAMPLES. What a sample is, each measure says; one of several operations is their mean.
 * Every measure checks what its threads did, and ends with status 1 if it is wrong. Each first starts and joins an empty thread (start_first).
 * A time is always the difference of two readings by one thread, where not said otherwise. What threads share lies on pages of its
 * own, unless sharing a page is what is measured. */
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define OWN_PAGE __attribute__((aligned(4096)))
#define SAMPLES_MAX 4000u
#define SAMPLES_MIN 3u

static const char *measure_name = "";
static uint64_t budget_ns = 600000000;

static _Noreturn void wrong(const char *what, uint64_t got, uint64_t wanted)
{
    fprintf(stderr, "threads_micro %s: %s: %" PRIu64 ", wanted %" PRIu64 "\n", measure_name, what, got, wanted);
    _exit(1);
}

static void equal(const char *what, uint64_t got, uint64_t wanted)
{
    if (got != wanted)
        wrong(what, got, wanted);
}

/* Calls that must not fail: pthread calls return an error number, the others -1. */
static void ok(const char *what, int rc)
{
    if (rc)
        wrong(what, (uint64_t)(rc > 0 ? rc : errno), 0);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* --- samples --------------------------------------------------------------------------------------------------------------------- */

/* Filled by one thread, which has its pages before the first reading of a clock. */
struct samples {
    uint64_t deadline_ns;
    uint32_t n, max;
    double ns[SAMPLES_MAX];
} OWN_PAGE;

static void samples_begin(struct samples *s, uint32_t max)
{
    memset(s, 0, sizeof *s);
    s->max = max < SAMPLES_MAX ? max : SAMPLES_MAX;
    s->deadline_ns = now_ns() + budget_ns;
}

static void samples_add(struct samples *s, uint64_t took_ns, uint32_t n_operations)
{
    if (s->n < SAMPLES_MAX)
        s->ns[s->n++] = (double)took_ns / n_operations;
}

static bool samples_more(const struct samples *s)
{
    return s->n < s->max && (s->n < SAMPLES_MIN || now_ns() < s->deadline_ns);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *name, struct samples *s)
{
    if (!s->n)
        wrong("samples", 0, 1);
    qsort(s->ns, s->n, sizeof *s->ns, by_size);
    printf("%s %.1f %.1f %" PRIu32 "\n", name, s->ns[s->n / 2], s->ns[(s->n * 9 - 1) / 10], s->n);
}

static struct samples sampled, sampled_too;

/* --- threads --------------------------------------------------------------------------------------------------------------------- */

#define CREW_MAX 8

/* Runs body(0), body(1)... as threads; the main thread waits. Each thread's number is its argument. */
static void crew(int n, void *(*body)(void *))
{
    pthread_t thread[CREW_MAX];
    for (intptr_t i = 0; i < n; i++)
        ok("pthread_create", pthread_create(&thread[i], NULL, body, (void *)i));
    for (int i = 0; i < n; i++)
        ok("pthread_join", pthread_join(thread[i], NULL));
}

static void *empty(void *arg)
{
    return arg;
}

static void *first_statement(void *arg)
{
    (void)arg;
    return (void *)(uintptr_t)now_ns();
}

/* A sample: one thread. start_statement compares two threads' readings of the clock. */
static void start(void)
{
    void *at;
    samples_begin(&sampled, 100);
    samples_begin(&sampled_too, 100);
    while (samples_more(&sampled)) {
        pthread_t thread;
        uint64_t begun = now_ns();
        ok("pthread_create", pthread_create(&thread, NULL, first_statement, NULL));
        ok("pthread_join", pthread_join(thread, &at));
        uint64_t joined = now_ns();
        if ((uint64_t)at < begun || (uint64_t)at > joined)
            wrong("the thread's time", (uint64_t)at, begun);
        samples_add(&sampled, joined - begun, 1);
        samples_add(&sampled_too, (uint64_t)at - begun, 1);
    }
    report("start_warm", &sampled);
    report("start_statement", &sampled_too);
}

static void start_first(void)
{
    pthread_t thread;
    void *ret;
    samples_begin(&sampled, 1);
    uint64_t begun = now_ns();
    ok("pthread_create", pthread_create(&thread, NULL, empty, &sampled));
    ok("pthread_join", pthread_join(thread, &ret));
    samples_add(&sampled, now_ns() - begun, 1);
    equal("the thread's value", (uintptr_t)ret, (uintptr_t)&sampled);
    report("start_first", &sampled);
}

/* --- faults ---------------------------------------------------------------------------------------------------------------------- */

#define FAULT_PAGES 8192u  /* all of them are written once */
#define FAULT_CHOSEN 256u  /* in each round main writes these, and the thread visits them */
#define FAULT_GROUP 16u
#define WORDS (PAGE / 8)

static struct {
    sem_t go, done;
    uint32_t order[FAULT_CHOSEN];
    uint64_t round;
    bool sequential, writing, stop;
} fault OWN_PAGE;
static uint64_t *fault_page;

static uint64_t fault_value(uint32_t page, uint64_t round)
{
    return mix(page + (round << 32));
}

static void fault_choose(uint64_t round)
{
    uint32_t first = (uint32_t)(mix(round) % (FAULT_PAGES - FAULT_CHOSEN));
    static uint8_t taken[FAULT_PAGES];
    memset(taken, 0, sizeof taken);
    for (uint32_t i = 0; i < FAULT_CHOSEN; i++) {
        uint32_t page = fault.sequential ? first + i : (uint32_t)(mix(round * FAULT_CHOSEN + i) % FAULT_PAGES);
        while (taken[page])
            page = (page + 1) % FAULT_PAGES;
        taken[page] = 1;
        fault.order[i] = page;
    }
}

/* A sample: FAULT_GROUP pages; in order, where reading ahead makes some wait for all, the whole round. */
static void *fault_visit(void *arg)
{
    (void)arg;
    uint32_t group = fault.sequential ? FAULT_CHOSEN : FAULT_GROUP;
    samples_begin(&sampled, SAMPLES_MAX);
    for (;;) {
        sem_wait(&fault.go);
        if (fault.stop)
            return NULL;
        uint64_t round = fault.round, sum = 0, wanted = 0;
        uint32_t order[FAULT_CHOSEN];
        memcpy(order, fault.order, sizeof order);
        for (uint32_t i = 0; i < FAULT_CHOSEN; i += group) {
            uint64_t begun = now_ns();
            for (uint32_t k = i; k < i + group; k++) {
                volatile uint64_t *page = fault_page + (size_t)order[k] * WORDS;
                if (fault.writing)
                    page[1] = ~fault_value(order[k], round);
                else
                    sum += page[1];
            }
            samples_add(&sampled, now_ns() - begun, group);
        }
        for (uint32_t i = 0; i < FAULT_CHOSEN; i++)
            wanted += fault_value(order[i], round);
        if (!fault.writing)
            equal("the sum of what was read", sum, wanted);
        sem_post(&fault.done);
    }
}

static void faults(const char *name, bool sequential, bool writing, const char *back)
{
    pthread_t thread;
    fault.sequential = sequential;
    fault.writing = writing;
    sem_init(&fault.go, 0, 0);
    sem_init(&fault.done, 0, 0);
    fault_page = mmap(NULL, (size_t)FAULT_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ok("mmap", fault_page == MAP_FAILED ? -1 : 0);
    for (uint32_t i = 0; i < FAULT_PAGES; i++)
        fault_page[(size_t)i * WORDS] = i;
    samples_begin(&sampled_too, SAMPLES_MAX);
    ok("pthread_create", pthread_create(&thread, NULL, fault_visit, NULL));
    uint64_t deadline = now_ns() + budget_ns;
    for (uint64_t round = 1; round <= 3 || (now_ns() < deadline && round <= 40); round++) {
        fault.round = round;
        fault_choose(round);
        for (uint32_t i = 0; i < FAULT_CHOSEN; i++)
            fault_page[(size_t)fault.order[i] * WORDS + 1] = fault_value(fault.order[i], round);
        sem_post(&fault.go);
        sem_wait(&fault.done);
        for (uint32_t i = 0; writing && i < FAULT_CHOSEN; i += FAULT_GROUP) {
            uint64_t begun = now_ns(), sum = 0, wanted = 0;
            for (uint32_t k = i; k < i + FAULT_GROUP; k++)
                sum += ((volatile uint64_t *)fault_page)[(size_t)fault.order[k] * WORDS + 1];
            samples_add(&sampled_too, now_ns() - begun, FAULT_GROUP);
            for (uint32_t k = i; k < i + FAULT_GROUP; k++)
                wanted += ~fault_value(fault.order[k], round);
            equal("the sum of what the thread wrote", sum, wanted);
        }
    }
    fault.stop = true;
    sem_post(&fault.go);
    ok("pthread_join", pthread_join(thread, NULL));
    report(name, &sampled);
    if (back)
        report(back, &sampled_too);
}

static void fault_read_random(void) { faults("fault_read_random", false, false, NULL); }
static void fault_read_sequential(void) { faults("fault_read_sequential", true, false, NULL); }
static void fault_write_random(void) { faults("fault_write_random", false, true, "fault_back_random"); }
static void fault_write_sequential(void) { faults("fault_write_sequential", true, true, NULL); }

/* A sample: 512 pages that nobody has touched, written in order; per page. */
static void *fresh_touch(void *arg)
{
    const uint32_t n = 512;
    samples_begin(&sampled, 40);
    while (samples_more(&sampled)) {
        uint64_t *at = mmap(NULL, (size_t)n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), sum = 0;
        ok("mmap", at == MAP_FAILED ? -1 : 0);
        uint64_t begun = now_ns();
        for (uint32_t i = 0; i < n; i++)
            at[(size_t)i * WORDS] = i;
        samples_add(&sampled, now_ns() - begun, n);
        for (uint32_t i = 0; i < n; i++)
            sum += at[(size_t)i * WORDS] + at[(size_t)i * WORDS + 1];
        equal("the sum of fresh memory", sum, (uint64_t)n * (n - 1) / 2);
        ok("munmap", munmap(at, (size_t)n * PAGE));
    }
    return arg;
}

static void fault_fresh(void)
{
    crew(1, fresh_touch);
    report("fault_fresh", &sampled);
}

/* --- one word, written in turns ------------------------------------------------------------------------------------------------ */

#define PING_GROUP 8u
#define PING_STOP (1ull << 63)

static struct {
    _Atomic uint64_t word;
} ping OWN_PAGE;
static struct {
    bool yielding;
    uint64_t n_second;
} ping_about OWN_PAGE;

static void ping_wait(uint64_t least)
{
    while (atomic_load_explicit(&ping.word, memory_order_acquire) < least) {
        if (ping_about.yielding)
            sched_yield();
        else
            __builtin_ia32_pause();
    }
}

/* The first makes the word odd, the second even. A sample: PING_GROUP turns of each; per turn. */
static void *ping_player(void *arg)
{
    uint64_t n = 0;
    if (arg) {
        for (;; n++) {
            ping_wait(2 * n + 1);
            uint64_t seen = atomic_load(&ping.word);
            if (seen & PING_STOP)
                break;
            equal("the word", seen, 2 * n + 1);
            atomic_store(&ping.word, 2 * n + 2);
        }
        ping_about.n_second = n;
        return NULL;
    }
    samples_begin(&sampled, 2000);
    while (samples_more(&sampled)) {
        uint64_t begun = now_ns();
        for (uint32_t i = 0; i < PING_GROUP; i++, n++) {
            atomic_store(&ping.word, 2 * n + 1);
            ping_wait(2 * n + 2);
        }
        samples_add(&sampled, now_ns() - begun, 2 * PING_GROUP);
    }
    equal("the word at the end", atomic_load(&ping.word), 2 * n);
    atomic_store(&ping.word, PING_STOP | n);
    return NULL;
}

static void pings(const char *name, bool yielding)
{
    ping_about.yielding = yielding;
    crew(2, ping_player);
    equal("turns of the second", ping_about.n_second, atomic_load(&ping.word) & ~PING_STOP);
    report(name, &sampled);
}

static void ping_spin(void) { pings("ping_spin", false); }
static void ping_yield(void) { pings("ping_yield", true); }

/* --- locks --------------------------------------------------------------------------------------------------------------------- */

struct lock {
    pthread_mutex_t mutex;
    uint64_t count;
    bool stop;
} OWN_PAGE;
static struct lock ring[3] = {{PTHREAD_MUTEX_INITIALIZER, 0, 0}, {PTHREAD_MUTEX_INITIALIZER, 0, 0}, {PTHREAD_MUTEX_INITIALIZER, 0, 0}};
static struct {
    pthread_barrier_t barrier;
} gather OWN_PAGE;
static struct {
    uint64_t n;
} OWN_PAGE tally[CREW_MAX];

#define RING_GROUP 8u

/* Three mutexes in a ring, each thread holds one, takes the next and gives the last back: each taking waits for the other thread's giving,
 * so hand-overs follow each other without a pause and none can be won by who had it last. A sample: 2 * RING_GROUP hand-overs; per one. */
static void *ring_walker(void *arg)
{
    uint64_t me = (uintptr_t)arg, n = 0;
    uint32_t at = (uint32_t)me;
    bool stop = false;
    ok("pthread_mutex_lock", pthread_mutex_lock(&ring[at].mutex));
    if (!me)
        samples_begin(&sampled, 2000);
    pthread_barrier_wait(&gather.barrier);
    while (!stop) {
        uint64_t begun = now_ns();
        for (uint32_t i = 0; i < RING_GROUP && !stop; i++, n++) {
            struct lock *next = &ring[(at + 1) % 3];
            ok("pthread_mutex_lock", pthread_mutex_lock(&next->mutex));
            next->count++;
            stop = next->stop;
            ok("pthread_mutex_unlock", pthread_mutex_unlock(&ring[at].mutex));
            at = (at + 1) % 3;
        }
        if (me)
            continue;
        samples_add(&sampled, now_ns() - begun, 2 * RING_GROUP);
        ring[at].stop = stop = !samples_more(&sampled);
    }
    ok("pthread_mutex_unlock", pthread_mutex_unlock(&ring[at].mutex));
    tally[me].n = n;
    return NULL;
}

static void lock_handover(void)
{
    pthread_barrier_init(&gather.barrier, NULL, 2);
    crew(2, ring_walker);
    equal("the counts under the locks", ring[0].count + ring[1].count + ring[2].count, tally[0].n + tally[1].n);
    report("lock_handover", &sampled);
}

static struct {
    int to[2][2]; /* pipes */
} token OWN_PAGE;

/* The other thread had the lock last, nobody wants it now: lock, count, unlock. The turn goes through pipes. A sample: one. */
static void *lock_taker(void *arg)
{
    static struct {
        char byte;
    } OWN_PAGE message[2];
    uint64_t me = (uintptr_t)arg, n = 0;
    if (!me) {
        samples_begin(&sampled, 1000);
        ok("write", write(token.to[0][1], "g", 1) != 1);
    }
    for (bool stop = false; !stop; n++) {
        ok("read", read(token.to[me][0], &message[me].byte, 1) != 1);
        stop = me ? message[me].byte == 's' : !samples_more(&sampled);
        message[me].byte = stop ? 's' : 'g';
        now_ns(); /* what this thread itself needs is there */
        uint64_t begun = now_ns();
        pthread_mutex_lock(&ring[0].mutex);
        ring[0].count++;
        pthread_mutex_unlock(&ring[0].mutex);
        uint64_t took = now_ns() - begun;
        if (!me && !stop)
            samples_add(&sampled, took, 1);
        ok("write", write(token.to[!me][1], &message[me].byte, 1) != 1);
    }
    tally[me].n = n;
    return NULL;
}

static void lock_free(void)
{
    ok("pipe", pipe(token.to[0]) | pipe(token.to[1]));
    crew(2, lock_taker);
    equal("the count under the lock", ring[0].count, tally[0].n + tally[1].n);
    report("lock_free", &sampled);
}

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t cond[2];
    uint64_t turn, n;
    bool stop;
} talk OWN_PAGE = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER}};

#define TALK_GROUP 4u

/* A sample: TALK_GROUP turns of each; per turn. */
static void *talker(void *arg)
{
    uint64_t me = (uintptr_t)arg, n = 0;
    bool stop = false;
    if (!me)
        samples_begin(&sampled, 1000);
    while (!stop) {
        uint64_t begun = now_ns();
        for (uint32_t i = 0; i < TALK_GROUP && !stop; i++, n++) {
            pthread_mutex_lock(&talk.mutex);
            while (talk.turn != me && !talk.stop)
                pthread_cond_wait(&talk.cond[me], &talk.mutex);
            stop = talk.stop;
            talk.n++;
            talk.turn = !me;
            pthread_cond_signal(&talk.cond[!me]);
            pthread_mutex_unlock(&talk.mutex);
        }
        if (me)
            continue;
        samples_add(&sampled, now_ns() - begun, 2 * TALK_GROUP);
        if (samples_more(&sampled))
            continue;
        stop = true;
        pthread_mutex_lock(&talk.mutex);
        talk.stop = true;
        pthread_cond_signal(&talk.cond[1]);
        pthread_mutex_unlock(&talk.mutex);
    }
    tally[me].n = n;
    return NULL;
}

static void cond_handover(void)
{
    crew(2, talker);
    equal("turns", talk.n, tally[0].n + tally[1].n);
    report("cond_handover", &sampled);
}

/* --- barriers ------------------------------------------------------------------------------------------------------------------ */

#define BARRIER_GROUP 8u

static struct {
    int n_threads;
    bool stop; /* written once */
} team OWN_PAGE;

/* A sample: BARRIER_GROUP barriers, seen by the first thread; per barrier. After each the threads' counts are compared. */
static void *barrier_member(void *arg)
{
    uint64_t me = (uintptr_t)arg, n = 0;
    if (!me)
        samples_begin(&sampled, 1000);
    for (;;) {
        pthread_barrier_wait(&gather.barrier);
        uint64_t begun = now_ns();
        for (uint32_t i = 0; i < BARRIER_GROUP; i++, n++)
            pthread_barrier_wait(&gather.barrier);
        if (!me)
            samples_add(&sampled, now_ns() - begun, BARRIER_GROUP);
        tally[me].n = n;
        if (!me && !samples_more(&sampled))
            team.stop = true;
        pthread_barrier_wait(&gather.barrier);
        for (int i = 0; i < team.n_threads; i++)
            equal("barriers that another thread has passed", tally[i].n, n);
        if (team.stop)
            return NULL;
    }
}

static void barriers(const char *name, int n_threads)
{
    team.n_threads = n_threads;
    pthread_barrier_init(&gather.barrier, NULL, (unsigned)n_threads);
    crew(n_threads, barrier_member);
    report(name, &sampled);
}

static void barrier_2(void) { barriers("barrier_2", 2); }
static void barrier_4(void) { barriers("barrier_4", 4); }

/* --- system calls --------------------------------------------------------------------------------------------------------------- */

#define CALL_GROUP 8u

static pid_t parent;
static int file_fd;

/* A sample: CALL_GROUP calls; per call. */
static void *caller(void *arg)
{
    static uint64_t buffer[WORDS] OWN_PAGE;
    samples_begin(&sampled, 1000);
    while (samples_more(&sampled)) {
        uint64_t begun = now_ns(), sum = 0;
        for (uint32_t i = 0; i < CALL_GROUP; i++)
            sum += (uint64_t)syscall(SYS_getppid);
        samples_add(&sampled, now_ns() - begun, CALL_GROUP);
        equal("the parents' sum", sum, CALL_GROUP * (uint64_t)parent);
    }
    samples_begin(&sampled_too, 500);
    while (samples_more(&sampled_too)) {
        uint64_t begun = now_ns();
        for (uint32_t i = 0; i < CALL_GROUP; i++) {
            ok("pread", pread(file_fd, buffer, PAGE, i * PAGE) != PAGE);
            equal("what was read", buffer[i], mix(i));
            buffer[i] = 0;
        }
        samples_add(&sampled_too, now_ns() - begun, CALL_GROUP);
    }
    return arg;
}

static void call(void)
{
    FILE *file = tmpfile();
    ok("tmpfile", file ? 0 : -1);
    for (uint32_t i = 0; i < CALL_GROUP; i++)
        for (uint32_t k = 0; k < WORDS; k++) {
            uint64_t value = mix(k);
            fwrite(&value, sizeof value, 1, file);
        }
    ok("fflush", fflush(file));
    file_fd = fileno(file);
    parent = getppid();
    crew(1, caller);
    report("call", &sampled);
    report("call_read", &sampled_too);
}

/* --- signals -------------------------------------------------------------------------------------------------------------------- */

static struct {
    volatile uint64_t handled_ns;
    volatile sig_atomic_t done;
    pid_t by;
} handled OWN_PAGE;
static struct {
    sem_t ready;
    pid_t tid;
    uint64_t value, n;
} worked OWN_PAGE;

static void on_signal(int number)
{
    (void)number;
    handled.handled_ns = now_ns();
    handled.by = gettid();
    handled.done = 1;
}

static void *interrupted(void *arg)
{
    uint64_t value = 1, n = 0;
    worked.tid = gettid();
    sem_post(&worked.ready);
    for (; !handled.done; n++)
        value = mix(value + n);
    worked.value = value;
    worked.n = n;
    return arg;
}

/* A sample: a new thread that computes; from before pthread_kill to the handler's first statement, on that thread. */
static void signals(void)
{
    struct sigaction act = {.sa_handler = on_signal};
    ok("sigaction", sigaction(SIGUSR1, &act, NULL));
    sem_init(&worked.ready, 0, 0);
    samples_begin(&sampled, 40);
    while (samples_more(&sampled)) {
        pthread_t thread;
        handled.done = 0;
        ok("pthread_create", pthread_create(&thread, NULL, interrupted, NULL));
        while (sem_wait(&worked.ready))
            ;
        usleep(3000);
        uint64_t begun = now_ns(), value = 1;
        ok("pthread_kill", pthread_kill(thread, SIGUSR1));
        ok("pthread_join", pthread_join(thread, NULL));
        samples_add(&sampled, handled.handled_ns - begun, 1);
        equal("the thread of the handler", (uint64_t)handled.by, (uint64_t)worked.tid);
        for (uint64_t i = 0; i < worked.n; i++)
            value = mix(value + i);
        equal("what the thread computed", worked.value, value);
    }
    report("signal", &sampled);
}

/* --- computing ------------------------------------------------------------------------------------------------------------------ */

static uint64_t compute_turns;

static void *computing(void *arg)
{
    const uint32_t n = 1u << 15; /* 256 KiB, of this thread's own */
    uint64_t *table = malloc(n * sizeof *table), value = (uintptr_t)arg + 1;
    ok("malloc", table ? 0 : -1);
    for (uint32_t i = 0; i < n; i++)
        table[i] = mix(i);
    for (uint64_t i = 0; i < compute_turns; i++) {
        value = mix(value + i);
        table[value % n] += value;
    }
    for (uint32_t i = 0; i < n; i++)
        value = mix(value ^ table[i]);
    free(table);
    tally[(uintptr_t)arg].n = value;
    return NULL;
}

/* Prints the seconds from the first thread's creation to the last one's end, and a sum that must be the same everywhere. */
static int compute(int n_threads, uint64_t millions)
{
    uint64_t sum = 0;
    compute_turns = millions * 1000000;
    if (n_threads < 1 || n_threads > CREW_MAX)
        return 2;
    uint64_t begun = now_ns();
    crew(n_threads, computing);
    uint64_t took = now_ns() - begun;
    for (int i = 0; i < n_threads; i++)
        sum = mix(sum ^ tally[i].n);
    printf("seconds %.6f\nsum %016" PRIx64 "\n", (double)took / 1e9, sum);
    return 0;
}

/* --- the network ---------------------------------------------------------------------------------------------------------------- */

#define RTT_GROUP 16u

static void tcp_pair(int fd[2])
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    int one = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    ok("listen", listening < 0 || bind(listening, (struct sockaddr *)&addr, len) || listen(listening, 1) ||
                     getsockname(listening, (struct sockaddr *)&addr, &len));
    fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    ok("connect", connect(fd[0], (struct sockaddr *)&addr, len));
    fd[1] = accept(listening, NULL, NULL);
    ok("accept", fd[1] < 0);
    for (int i = 0; i < 2; i++)
        ok("TCP_NODELAY", setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    close(listening);
}

static bool message_read(int fd, uint64_t message[8], int flags)
{
    for (size_t at = 0; at < 64;) {
        ssize_t n = recv(fd, (char *)message + at, 64 - at, flags);
        if (n > 0)
            at += (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return false;
    }
    return true;
}

/* A sample: RTT_GROUP messages there and back; per one. */
static int rtt(const char *kind, bool spinning)
{
    char name[40];
    int fd[2], flags = spinning ? MSG_DONTWAIT : 0, status;
    uint64_t message[8] = {0};
    if (strcmp(kind, "tcp") == 0)
        tcp_pair(fd);
    else
        ok("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
    pid_t child = fork();
    ok("fork", child < 0);
    if (child == 0) {
        close(fd[0]);
        while (message_read(fd[1], message, flags)) {
            message[0]++;
            if (send(fd[1], message, sizeof message, MSG_NOSIGNAL) != sizeof message)
                _exit(1);
        }
        _exit(0);
    }
    close(fd[1]);
    samples_begin(&sampled, SAMPLES_MAX);
    for (uint64_t n = 0; samples_more(&sampled);) {
        uint64_t begun = now_ns();
        for (uint32_t i = 0; i < RTT_GROUP; i++) {
            ok("send", send(fd[0], message, sizeof message, MSG_NOSIGNAL) != sizeof message);
            ok("recv", !message_read(fd[0], message, flags));
        }
        samples_add(&sampled, now_ns() - begun, RTT_GROUP);
        n += RTT_GROUP;
        equal("messages that came back", message[0], n);
    }
    close(fd[0]);
    ok("waitpid", waitpid(child, &status, 0) != child || status);
    snprintf(name, sizeof name, "rtt_%s_%s", kind, spinning ? "spin" : "block");
    report(name, &sampled);
    return 0;
}

/* --- all of them ----------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} measures[] = {
    {"start", start},
    {"fault_read_random", fault_read_random},
    {"fault_read_sequential", fault_read_sequential},
    {"fault_write_random", fault_write_random},
    {"fault_write_sequential", fault_write_sequential},
    {"fault_fresh", fault_fresh},
    {"ping_spin", ping_spin},
    {"ping_yield", ping_yield},
    {"lock_free", lock_free},
    {"lock_handover", lock_handover},
    {"cond_handover", cond_handover},
    {"barrier_2", barrier_2},
    {"barrier_4", barrier_4},
    {"call", call},
    {"signal", signals},
};

int main(int argc, char **argv)
{
    measure_name = argc > 1 ? argv[1] : "";
    if (argc == 4 && strcmp(argv[1], "compute") == 0)
        return compute(atoi(argv[2]), strtoull(argv[3], NULL, 0));
    if (argc == 4 && strcmp(argv[1], "rtt") == 0)
        return rtt(argv[2], strcmp(argv[3], "spin") == 0);
    if (argc == 3)
        budget_ns = (uint64_t)(strtod(argv[2], NULL) * 1e9);
    for (size_t i = 0; i < sizeof measures / sizeof *measures; i++) {
        if (strcmp(measure_name, "--list") == 0)
            puts(measures[i].name);
        if (strcmp(measure_name, measures[i].name) == 0) {
            start_first();
            measures[i].run();
            return fflush(stdout) ? 1 : 0;
        }
    }
    if (strcmp(measure_name, "--list") == 0)
        return 0;
    fprintf(stderr, "usage: threads_micro MEASURE [SECONDS] | compute THREADS MILLIONS | rtt unix|tcp spin|block | --list\n");
    return 2;
}
