/* scans.c MIB PASSES - scans of more memory than is local, while others write to it: two threads read all of it from either end, one merges two halves
 * into a third area, one walks it by columns, and one writes all over it. Another makes blocks of it inaccessible, which whoever comes to one opens
 * again (as garbage collectors do it). Whatever was written must be there, in every pass and at the end. A child of a fork in between sees the same. */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 512, ROW = 600 /* pages: a column's step */, FIXED = 8, MERGED = 24, COUNTED = 40 /* words of a page */ };

#define BLOCK (2ul << 20)
#define CLOSE_US 300

static uint64_t *at;
static size_t n_pages;
static int passes;
static uint32_t *written; /* times, of each page; the writer's own */
static volatile int done;

static void bad(const char *what, size_t page)
{
    fprintf(stderr, "scans: %s: page %zu of %zu is wrong\n", what, page, n_pages);
    _exit(3);
}

static void check(const char *what, size_t page)
{
    if (at[page * WORDS + FIXED] != page * 7 + 1)
        bad(what, page);
}

static void *forward(void *unused)
{
    for (int k = 0; k < passes; k++)
        for (size_t p = 0; p < n_pages; p++)
            check("forward", p);
    return unused;
}

static void *backward(void *unused)
{
    for (int k = 0; k < passes; k++)
        for (size_t p = n_pages; p-- > 0;)
            check("backward", p);
    return unused;
}

/* Two streams that are read and one that is written, as in a merge. */
static void *merge(void *unused)
{
    size_t third = n_pages / 3;
    for (int k = 1; k <= passes; k++)
        for (size_t p = 0; p < third; p++) {
            check("left", p);
            check("right", third + p);
            uint64_t *to = at + (2 * third + p) * WORDS + MERGED;
            if (*to != (uint64_t)(k - 1) * (p + 1))
                bad("merged", 2 * third + p);
            *to += p + 1;
        }
    return unused;
}

static void *columns(void *unused)
{
    for (int k = 0; k < passes; k++)
        for (size_t column = 0; column < ROW; column += 37)
            for (size_t p = column; p < n_pages; p += ROW)
                check("column", p);
    return unused;
}

/* Also in the pages that the scans are about to reach. */
static void *write_all_over(void *unused)
{
    uint64_t r = 88172645463325252ull;
    while (!done) {
        r ^= r << 13, r ^= r >> 7, r ^= r << 17;
        size_t page = (size_t)((r >> 32) * n_pages >> 32);
        if (at[page * WORDS + COUNTED] != written[page])
            bad("written", page);
        at[page * WORDS + COUNTED] = ++written[page];
    }
    return unused;
}

static void open_block(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    mprotect((void *)((uintptr_t)info->si_addr & ~(BLOCK - 1)), BLOCK, PROT_READ | PROT_WRITE);
}

static void *close_blocks(void *unused)
{
    uintptr_t first = ((uintptr_t)at + BLOCK - 1) & ~(BLOCK - 1), end = (uintptr_t)(at + n_pages * WORDS);
    uint64_t r = 88172645463325252ull;
    while (!done) {
        r ^= r << 13, r ^= r >> 7, r ^= r << 17;
        mprotect((void *)(first + (r >> 32) % ((end - first) / BLOCK) * BLOCK), BLOCK, PROT_NONE);
        usleep(CLOSE_US);
    }
    return unused;
}

int main(int argc, char **argv)
{
    static void *(*const scan[])(void *) = {forward, backward, merge, columns};
    enum { SCANS = sizeof scan / sizeof *scan };
    pthread_t thread[SCANS], writer, closer;
    struct sigaction on_segv = {.sa_sigaction = open_block, .sa_flags = SA_SIGINFO};
    if (argc != 3)
        return 2;
    n_pages = strtoul(argv[1], NULL, 0) << 8;
    passes = atoi(argv[2]);
    at = mmap(NULL, n_pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    written = calloc(n_pages, sizeof *written);
    if (at == MAP_FAILED || !written || sigaction(SIGSEGV, &on_segv, NULL))
        return 1;
    for (size_t p = 0; p < n_pages; p++)
        at[p * WORDS + FIXED] = p * 7 + 1;
    if (pthread_create(&closer, NULL, close_blocks, NULL))
        return 1;
    forward(NULL); /* alone, so that all of it is clean and comes in its largest pieces */
    for (int i = 0; i < SCANS; i++)
        if (pthread_create(&thread[i], NULL, scan[i], NULL))
            return 1;
    if (pthread_create(&writer, NULL, write_all_over, NULL))
        return 1;
    pid_t child = fork();
    if (child == 0) {
        for (size_t p = 0; p < n_pages; p++)
            check("child", p);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        return 4;
    for (int i = 0; i < SCANS; i++)
        pthread_join(thread[i], NULL);
    done = 1;
    pthread_join(writer, NULL);
    pthread_join(closer, NULL);
    for (size_t p = 0; p < n_pages; p++)
        if (check("end", p), at[p * WORDS + COUNTED] != written[p])
            bad("end, written", p);
    printf("right\n");
    return 0;
}
