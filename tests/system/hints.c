/* hints.c - a program that cannot be told anything: it knows nothing of endgame, and takes no advice. Its memory is used in ways that hints files are
 * made for. Every word read is checked.
 *
 *   hints table SCAN_MIB TABLE_MIB TURNS       a table read all over in each turn, beside a scan of something larger than the budget
 *   hints records RECORDS_MIB STREAM_MIB N     records of two pages in no order, beside a stream
 *   hints two TABLE_MIB SCAN_MIB TURNS         two mappings of TABLE_MIB from one place, of which the second is the hot one; then a scan
 *   hints heap SMALL_MIB SCAN_MIB TURNS        as table, the table from the heap (small pieces)
 *   hints data SCAN_MIB TURNS                  as table, the table of 4 MiB a static array
 *   hints thread SCAN_MIB TABLE_MIB TURNS      as table, mapped by a thread named "mapper" */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define WORDS (PAGE / sizeof(uint64_t))
#define SLOW __attribute__((noinline, noclone))

static uint64_t fixed_table[(4ul << 20) / sizeof(uint64_t)];

static uint64_t word(size_t page, uint64_t seed)
{
    return (page + 1) * 0x9e3779b97f4a7c15ull ^ seed;
}

static uint64_t *map(size_t pages)
{
    void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("hints: mmap");
        exit(1);
    }
    return p;
}

/* The three places that map memory; what the call returns is used afterwards, so that it stays a call. */
SLOW uint64_t *map_table(size_t pages)
{
    uint64_t *p = map(pages);
    p[0] = 0;
    return p;
}

SLOW uint64_t *map_scan(size_t pages)
{
    uint64_t *p = map(pages);
    p[0] = 0;
    return p;
}

static void fill(uint64_t *p, size_t pages, uint64_t seed)
{
    for (size_t i = 0; i < pages; i++)
        p[i * WORDS + i % WORDS] = word(i, seed);
}

static void check(const uint64_t *p, size_t page, uint64_t seed)
{
    if (p[page * WORDS + page % WORDS] == word(page, seed))
        return;
    fprintf(stderr, "hints: page %zu is wrong\n", page);
    exit(1);
}

static void scan(const uint64_t *p, size_t pages, uint64_t seed)
{
    for (size_t i = 0; i < pages; i++)
        check(p, i, seed);
}

/* Every page once, in no order: a generator whose period is the number of pages, a power of two. */
static void all_over(const uint64_t *p, size_t pages, uint64_t seed)
{
    for (size_t i = 0, at = 0; i < pages; i++, at = (at * 1664525 + 1013904223) % pages)
        check(p, at, seed);
}

static void turns(uint64_t *table, size_t table_pages, size_t scan_pages, int n)
{
    uint64_t *large = map_scan(scan_pages);
    fill(table, table_pages, 1);
    fill(large, scan_pages, 2);
    /* Makes the pager look at every page from here on: what it has never looked at stays, and the table might be part of that. */
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    if (child < 0 || waitpid(child, NULL, 0) != child)
        exit(1);
    for (int i = 0; i < n; i++) {
        /* In pieces, so that the table is looked at again and again while the scan goes by. */
        for (size_t piece = 0; piece < 8; piece++) {
            all_over(table, table_pages, 1);
            /* Every other page, then those between: what is read in one sequence is taken for what is soon done with, and lets the table be. */
            for (size_t odd = 0; odd < 2; odd++)
                for (size_t k = odd; k < scan_pages / 8; k += 2)
                    check(large, scan_pages / 8 * piece + k, 2);
        }
    }
}

static void records(size_t pages, size_t stream_pages, size_t n)
{
    uint64_t *v = map_table(pages), *stream = map_scan(stream_pages), random = 1;
    fill(v, pages, 3);
    fill(stream, stream_pages, 4);
    for (size_t i = 0, at = 0; i < n; i++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        size_t record = (size_t)(random >> 33) % (pages / 2) * 2;
        check(v, record, 3);
        check(v, record + 1, 3);
        for (int k = 0; k < 8; k++, at = (at + 1) % stream_pages)
            check(stream, at, 4);
    }
}

struct job {
    size_t pages;
    uint64_t *table;
};

static void *mapper(void *arg)
{
    struct job *job = arg;
    pthread_setname_np(pthread_self(), "mapper");
    job->table = map_table(job->pages);
    return NULL;
}

int main(int argc, char **argv)
{
    size_t a = argc > 2 ? strtoul(argv[2], NULL, 10) : 0, b = argc > 3 ? strtoul(argv[3], NULL, 10) : 0, c = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
    if (argc < 4)
        return 2;
    if (strcmp(argv[1], "table") == 0) {
        turns(map_table(b << 8), b << 8, a << 8, (int)c);
    } else if (strcmp(argv[1], "records") == 0) {
        records(a << 8, b << 8, c);
    } else if (strcmp(argv[1], "two") == 0) {
        uint64_t *cold = map_table(a << 8), *hot = map_table(a << 8);
        fill(cold, a << 8, 5);
        turns(hot, a << 8, b << 8, (int)c);
        scan(cold, a << 8, 5);
    } else if (strcmp(argv[1], "heap") == 0) {
        size_t pages = a << 8;
        char *first = malloc(100), *at = first;
        for (size_t bytes = 0; bytes < (pages + 1) * PAGE; bytes += 64 << 10)
            at = malloc((64 << 10) - 16);
        if (!at)
            return 1;
        turns((uint64_t *)(((uintptr_t)first + PAGE) & ~(PAGE - 1)), pages, b << 8, (int)c);
    } else if (strcmp(argv[1], "data") == 0) {
        turns(fixed_table, sizeof fixed_table / PAGE, a << 8, (int)b);
    } else if (strcmp(argv[1], "thread") == 0) {
        struct job job = {.pages = b << 8};
        pthread_t thread;
        if (pthread_create(&thread, NULL, mapper, &job) || pthread_join(thread, NULL))
            return 1;
        turns(job.table, b << 8, a << 8, (int)c);
    } else {
        return 2;
    }
    puts("ok");
    return 0;
}
