/* replay.c - touches pages as a recorded trace (record.c) has it, so that a pager can be compared with simulate.c's picture of it.
 *   replay TRACE COPIES
 * Every page of the trace is COPIES pages here, far from each other and touched in a row, so that small traces fill the smallest budget. Read ahead is
 * declined (MADV_RANDOM). Prints the number of pages. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A file's content, not captured: shared memory. */
static uint64_t *words_of(FILE *f, size_t n)
{
    uint64_t *p = mmap(NULL, n * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED && (!f || fread(p, 8, n, f) == n) ? p : NULL;
}

int main(int argc, char **argv)
{
    FILE *f = argc == 3 ? fopen(argv[1], "rb") : NULL;
    size_t copies = argc == 3 ? strtoul(argv[2], NULL, 10) : 0, n_pages = 0;
    if (!f || !copies || fseek(f, 0, SEEK_END))
        return 2;
    size_t n = (size_t)ftell(f) / 8;
    rewind(f);
    uint64_t *trace = words_of(f, n), *pages = words_of(NULL, n);
    if (!n || !trace || !pages)
        return 1;
    for (size_t i = 0; i < n; i++)
        pages[i] = trace[i] >> 1;
    qsort(pages, n, 8, by_value);
    for (size_t i = 0; i < n; i++)
        if (!n_pages || pages[n_pages - 1] != pages[i])
            pages[n_pages++] = pages[i];
    size_t bytes = n_pages * copies * 4096;
    volatile uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return 1;
    madvise((void *)at, bytes, MADV_RANDOM);
    for (size_t i = 0; i < n; i++) {
        uint64_t page = trace[i] >> 1, *found = bsearch(&page, pages, n_pages, 8, by_value);
        for (size_t k = 0; k < copies; k++) {
            volatile uint8_t *p = at + (k * n_pages + (size_t)(found - pages)) * 4096;
            if (trace[i] & 1)
                *p = 1; /* never zeros: those would not be kept */
            else
                (void)*p;
        }
    }
    printf("%zu\n", n_pages * copies);
    return 0;
}
