/* locked_all.c MIB - mlockall of more memory than is to be local, which takes hold of the runtime's memory as well; what is written before, meanwhile and
 * afterwards must be there. Exit status 77: the limit of locked memory (ulimit -l) does not allow it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WORDS = 512 };

static uint64_t *at, *other;
static size_t n_pages;

static void write_all(uint64_t round)
{
    for (size_t p = 0; p < n_pages; p++)
        at[p * WORDS + 5] = p * 3 + round;
}

static void check_all(const char *when, uint64_t round)
{
    for (size_t p = 0; p < n_pages; p++)
        if (at[p * WORDS + 5] != p * 3 + round) {
            fprintf(stderr, "locked_all: %s, round %d: page %zu of %zu is wrong\n", when, (int)round, p, n_pages);
            _exit(3);
        }
}

static void rounds(const char *when, uint64_t first, uint64_t last)
{
    for (uint64_t r = first; r < last; r++) {
        write_all(r);
        for (size_t p = 0; p < n_pages; p++)
            other[p * WORDS]++;
        check_all(when, r);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    n_pages = strtoul(argv[1], NULL, 0) << 8;
    at = mmap(NULL, n_pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    other = mmap(NULL, n_pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || other == MAP_FAILED)
        return 1;
    rounds("before", 1, 3);
    if (mlockall(MCL_CURRENT))
        return 77;
    check_all("locked", 2);
    rounds("locked", 3, 5);
    if (munlockall())
        return 1;
    check_all("unlocked", 4);
    rounds("unlocked", 5, 8);
    printf("right\n");
    return 0;
}
