/* replay.c - touches pages as a recorded trace (record.c) has it, so that a pager can be compared with simulate.c's picture of it.
 *   replay TRACE COPIES
 * Every page of the trace is COPIES pages here, far from each other and touched in a row, so that small traces fill the smallest budget. Read ahead is
 * declined (MADV_RANDOM). Prints the number of pages. */
#include "words.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* The trace's own memory is not captured: it is shared. */
static void *shared(size_t n, size_t bytes)
{
    void *p = mmap(NULL, n ? n * bytes : 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int main(int argc, char **argv)
{
    size_t copies = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    struct words words;
    if (!copies)
        return 2;
    int status = words_read(&words, argv[1], shared);
    if (status)
        return status;
    size_t n = words.n, n_pages = words.n_pages;
    size_t bytes = n_pages * copies * 4096;
    volatile uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return 1;
    madvise((void *)at, bytes, MADV_RANDOM);
    for (size_t i = 0; i < n; i++) {
        size_t page = words_page(&words, i);
        for (size_t k = 0; k < copies; k++) {
            volatile uint8_t *p = at + (k * n_pages + page) * 4096;
            if (words.word[i] & 1)
                *p = 1; /* never zeros: those would not be kept */
            else
                (void)*p;
        }
    }
    printf("%zu\n", n_pages * copies);
    return 0;
}
