/* torture_far.c - more memory than stays local, used by threads on nodes and at home at once: pages travel between home, workers and memory
 * servers all the time, and each says what was written last. See torture.h for the command line. */
#include "torture.h"

#include <sys/mman.h>
#include <sys/wait.h>

#define LOCKS 64
#define WORDS (PAGE / sizeof(uint64_t))

/* A page's words follow from its count and its number; count 0: zeros. */
struct store {
    uint64_t *at;
    uint32_t n_pages;
    pthread_mutex_t lock[LOCKS];
    atomic_long total;
};

static uint64_t word(uint32_t page, uint64_t count, size_t i)
{
    return count ? mix(count << 32 ^ page) + i : 0;
}

static void page_check(const struct store *s, uint32_t page)
{
    const volatile uint64_t *at = s->at + (size_t)page * WORDS;
    const uint64_t count = at[0];
    for (size_t i = 1; i < WORDS; i++)
        CHECK(at[i] == word(page, count, i), "page %u, count %" PRIu64 ", word %zu: %#" PRIx64 ", wanted %#" PRIx64, page, count, i, at[i],
              word(page, count, i));
}

static void page_write(struct store *s, uint32_t page)
{
    uint64_t *at = s->at + (size_t)page * WORDS;
    at[0]++;
    for (size_t i = 1; i < WORDS; i++)
        at[i] = word(page, at[0], i);
}

static void store_new(struct store *s, uint32_t n_pages)
{
    memset(s, 0, sizeof *s);
    s->n_pages = n_pages;
    s->at = mmap(NULL, n_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(s->at != MAP_FAILED, "no memory: %s", strerror(errno));
    for (int i = 0; i < LOCKS; i++)
        OK(pthread_mutex_init(&s->lock[i], NULL));
}

static void store_free(struct store *s)
{
    long sum = 0;
    for (uint32_t page = 0; page < s->n_pages; page++) {
        page_check(s, page);
        sum += (long)s->at[(size_t)page * WORDS];
    }
    EQUAL(sum, atomic_load(&s->total));
    for (uint32_t page = 0; page < s->n_pages; page++) /* what has left for a server meanwhile comes back, wherever the pages were before */
        page_check(s, page);
    SYS(munmap(s->at, s->n_pages * PAGE));
}

/* Random pages, one at a time; now and then one is given back to the kernel and is zeros again. */
static void scattered_body(struct member *me)
{
    struct store *s = me->shared;
    const int n = rounds(1500);
    for (int i = 0; i < n; i++) {
        const uint32_t page = rng_below(&me->rng, s->n_pages);
        OK(pthread_mutex_lock(&s->lock[page % LOCKS]));
        page_check(s, page);
        if (rng_below(&me->rng, 16) == 0) {
            atomic_fetch_sub(&s->total, (long)s->at[(size_t)page * WORDS]);
            SYS(madvise(s->at + (size_t)page * WORDS, PAGE, MADV_DONTNEED));
        } else {
            page_write(s, page);
            atomic_fetch_add(&s->total, 1);
        }
        OK(pthread_mutex_unlock(&s->lock[page % LOCKS]));
    }
}

static void scattered(void)
{
    static struct store s;
    store_new(&s, 6000);
    struct member *crew = crew_start(threads(4), scattered_body, &s);
    struct member here = {.rng = torture_seed + 77, .shared = &s};
    scattered_body(&here);
    crew_join(crew);
    store_free(&s);
}

/* Each thread writes its stripe in order, then all read everything: what is shared must be able to leave, too. */
struct round {
    struct store *s;
    pthread_barrier_t barrier;
    int n;
};

static void in_order_body(struct member *me)
{
    struct round *r = me->shared;
    const uint32_t stripe = r->s->n_pages / (uint32_t)r->n, first = (uint32_t)me->number * stripe;
    for (int i = 0; i < rounds(3); i++) {
        for (uint32_t page = first; page < first + stripe; page++)
            page_write(r->s, page);
        pthread_barrier_wait(&r->barrier);
        for (uint32_t page = 0; page < stripe * (uint32_t)r->n; page++) {
            page_check(r->s, page);
            EQUAL(((const volatile uint64_t *)r->s->at)[(size_t)page * WORDS], i + 1);
        }
        pthread_barrier_wait(&r->barrier);
    }
}

static void in_order(void)
{
    static struct store s;
    struct round r = {.s = &s, .n = threads(3)};
    store_new(&s, 6000);
    OK(pthread_barrier_init(&r.barrier, NULL, (unsigned)r.n));
    crew_run(r.n, in_order_body, &r);
    OK(pthread_barrier_destroy(&r.barrier));
    atomic_store(&s.total, (long)rounds(3) * (long)(s.n_pages / (uint32_t)r.n * (uint32_t)r.n));
    store_free(&s);
}

/* The same while home forks: the child sees each page whole, before or after a write. */
static void forked(void)
{
    static struct store s;
    store_new(&s, 4000);
    for (int i = 0; i < rounds(3); i++) {
        struct member *crew = crew_start(threads(2), scattered_body, &s);
        for (int k = 0; k < LOCKS; k++)
            OK(pthread_mutex_lock(&s.lock[k])); /* no write is under way */
        const pid_t child = fork();
        CHECK(child >= 0, "fork: %s", strerror(errno));
        if (!child) {
            for (uint32_t page = 0; page < s.n_pages; page++)
                page_check(&s, page);
            _exit(7);
        }
        for (int k = 0; k < LOCKS; k++)
            OK(pthread_mutex_unlock(&s.lock[k]));
        int status;
        EQUAL(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "the child ended with status %#x", (unsigned)status);
        crew_join(crew);
    }
    store_free(&s);
}

/* A file's pages, which nobody writes. */
static void constant_body(struct member *me)
{
    const struct store *s = me->shared;
    const int n = rounds(3000);
    for (int i = 0; i < n; i++)
        page_check(s, rng_below(&me->rng, s->n_pages));
}

static void constant(void)
{
    static struct store s;
    static uint64_t page[WORDS];
    char name[] = "/tmp/torture_far.XXXXXX";
    const int file = mkstemp(name);
    CHECK(file >= 0, "no file in /tmp: %s", strerror(errno));
    SYS(unlink(name));
    s.n_pages = 8000;
    for (uint32_t k = 0; k < s.n_pages; k++) {
        page[0] = 1 + k % 3;
        for (size_t i = 1; i < WORDS; i++)
            page[i] = word(k, page[0], i);
        EQUAL(write(file, page, sizeof page), sizeof page);
    }
    s.at = mmap(NULL, s.n_pages * PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    CHECK(s.at != MAP_FAILED, "cannot map a file: %s", strerror(errno));
    crew_join(crew_start(threads(4), constant_body, &s));
    SYS(munmap(s.at, s.n_pages * PAGE));
    SYS(close(file));
}

static const struct sub_test tests[] = {
    {"scattered", scattered, "random pages, checked and written by all threads and the first one"},
    {"in_order", in_order, "stripes written by one each, then read by all"},
    {"constant", constant, "random pages of a file, read by all threads"},
    {"forked", forked, "forks meanwhile, whose children check everything"},
};

TORTURE_MAIN(tests)
