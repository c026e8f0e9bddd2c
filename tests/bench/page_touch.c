/* page_touch.c - what a touch of a page costs when MIB of memory do not fit, in the steady state: memory is filled, then touched in PASSES passes of
 * as many touches as there are pages, and the last pass is measured. The passes before it have sent away what the fill had written.
 *   page_touch MIB random_read|random_write|sequential_read|sequential_write PASSES THREADS
 * Random: uniform, with replacement, each from a generator of the thread's own (an array of page numbers would be memory that pages compete with), so
 * that no policy can know what comes, and the share of touches that fault is the share of memory that is away. THREADS divide the touches; in
 * sequential order each takes a piece of memory.
 * Built with -DUMAP (against LLNL's UMap, see vs_umap), the memory is a UMap region over the file that $PAGE_TOUCH_STORE names; all else is the same.
 * The content is checked as it is touched. Prints microseconds per touch (wall clock of the last pass / touches), and the major faults that the
 * kernel counted in it. */
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#ifdef UMAP
#include <fcntl.h>
#include <umap/umap.h>
#endif

enum { WORDS = 512 /* of a page */, MAX_THREADS = 16 };

struct toucher {
    uint64_t rng, wrong;
    size_t first, n;
    pthread_t thread;
};

static uint64_t *at;
static size_t n_pages;
static int random_order, writing;
static struct toucher touchers[MAX_THREADS];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *touch(void *argument)
{
    struct toucher *t = argument;
    uint64_t rng = t->rng, wrong = 0;
    for (size_t i = 0; i < t->n; i++) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        size_t page = random_order ? (size_t)((rng >> 32) * n_pages >> 32) : t->first + i;
        uint64_t *words = at + page * WORDS;
        wrong += words[8] != page * 7 + 8;
        if (writing)
            words[16]++;
    }
    t->rng = rng, t->wrong += wrong;
    return NULL;
}

static void pass(int n_threads)
{
    for (int i = 1; i < n_threads; i++)
        if (pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]))
            exit(1);
    touch(&touchers[0]);
    for (int i = 1; i < n_threads; i++)
        pthread_join(touchers[i].thread, NULL);
}

static void *memory(size_t bytes)
{
#ifdef UMAP
    int fd = open(getenv("PAGE_TOUCH_STORE"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    return fd < 0 || ftruncate(fd, (off_t)bytes) ? MAP_FAILED : umap(NULL, bytes, PROT_READ | PROT_WRITE, UMAP_PRIVATE, fd, 0);
#else
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
#endif
}

static long major_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_majflt;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    n_pages = strtoul(argv[1], NULL, 0) << 8;
    random_order = !strncmp(argv[2], "random", 6), writing = strstr(argv[2], "write") != NULL;
    int passes = atoi(argv[3]), n_threads = atoi(argv[4]);
    if (passes < 1 || n_threads < 1 || n_threads > MAX_THREADS)
        return 2;
    at = memory(n_pages * 4096);
    if (at == MAP_FAILED)
        return 1;
    for (int i = 0; i < n_threads; i++) {
        size_t first = n_pages * (size_t)i / (size_t)n_threads, end = n_pages * (size_t)(i + 1) / (size_t)n_threads;
        touchers[i] = (struct toucher){.rng = 88172645463325252ull * (2u * (unsigned)i + 1), .first = first, .n = end - first};
    }
    for (size_t i = 0; i < n_pages; i++)
        for (size_t w = 0; w < WORDS; w += 8)
            at[i * WORDS + w] = i * 7 + w;
    for (int i = 1; i < passes; i++)
        pass(n_threads);
    long major = major_faults();
    uint64_t start = now_ns();
    pass(n_threads);
    uint64_t took = now_ns() - start, wrong = 0;
    major = major_faults() - major;
    for (int i = 0; i < n_threads; i++)
        wrong += touchers[i].wrong;
    if (wrong) {
        fprintf(stderr, "page_touch: %" PRIu64 " pages are wrong\n", wrong);
        return 3;
    }
    printf("%.4f %ld\n", (double)took / 1000 / (double)n_pages, major);
    return 0;
}
