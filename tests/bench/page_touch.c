/* page_touch.c - nanoseconds per page of touching MIB of memory in one of four ways, after a warm-up pass that fills it.
 *   page_touch MIB random_read|random_write|sequential_read|sequential_write
 * The content is checked as it is touched. Prints one number. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define WORDS 512 /* of a page */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t n = strtoul(argv[1], NULL, 0) << 8;
    int random_order = !strncmp(argv[2], "random", 6), writing = strstr(argv[2], "write") != NULL;
    uint64_t *at = mmap(NULL, n * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *order = malloc(n * sizeof(*order));
    if (at == MAP_FAILED || !order)
        return 1;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    uint64_t rng = 88172645463325252ull;
    for (size_t i = n - 1; random_order && i > 0; i--) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        size_t k = rng % (i + 1);
        uint32_t kept = order[i];
        order[i] = order[k];
        order[k] = kept;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t w = 0; w < WORDS; w += 8)
            at[i * WORDS + w] = i * 7 + w;
    uint64_t start = now_ns();
    unsigned wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t *page = at + (size_t)order[i] * WORDS;
        wrong += page[8] != order[i] * 7ull + 8;
        if (writing)
            page[16]++;
    }
    uint64_t took = now_ns() - start;
    if (wrong) {
        fprintf(stderr, "page_touch: %u pages are wrong\n", wrong);
        return 3;
    }
    printf("%.1f\n", (double)took / (double)n);
    return 0;
}
