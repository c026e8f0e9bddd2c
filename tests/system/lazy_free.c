/* lazy_free.c - MADV_FREE while everything fits, then memory runs short: a page that was written since keeps what was written; one that
 * was not holds its old content or zeros; protection makes no difference. Prints "lazy_free: passed" or what is wrong. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ul
#define FREED_PAGES 8192ul /* 32 MiB */
#define MORE_PAGES 49152ul /* 192 MiB */

static uint64_t *page_at(char *base, size_t i)
{
    return (uint64_t *)(void *)(base + i * PAGE);
}

static uint64_t value(size_t i, int generation)
{
    return (i + 1) * 0x9e3779b97f4a7c15ull + (uint64_t)generation;
}

static void fill(char *base, size_t i, int generation)
{
    for (size_t k = 0; k < PAGE / 8; k++)
        page_at(base, i)[k] = value(i, generation) + k;
}

/* Returns: the page holds this generation, or (0) zeros. */
static int holds(char *base, size_t i, int generation)
{
    for (size_t k = 0; k < PAGE / 8; k++)
        if (page_at(base, i)[k] != (generation ? value(i, generation) + k : 0))
            return 0;
    return 1;
}

int main(void)
{
    char *freed = mmap(NULL, FREED_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *more = mmap(NULL, MORE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (freed == MAP_FAILED || more == MAP_FAILED)
        return puts("lazy_free: mmap failed"), 1;
    for (size_t i = 0; i < FREED_PAGES; i++)
        fill(freed, i, 1);
    if (madvise(freed, FREED_PAGES * PAGE, MADV_FREE))
        return puts("lazy_free: MADV_FREE failed"), 1;
    for (size_t i = 0; i < FREED_PAGES; i += 3)
        fill(freed, i, 2);
    size_t half = FREED_PAGES / 2;
    mprotect(freed + half * PAGE, half / 2 * PAGE, PROT_READ);
    mprotect(freed + (half + half / 2) * PAGE, half / 2 * PAGE, PROT_NONE);
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < MORE_PAGES; i++)
            fill(more, i, 3 + round);
    mprotect(freed + half * PAGE, half * PAGE, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < FREED_PAGES; i++)
        if (i % 3 == 0 ? !holds(freed, i, 2) : !holds(freed, i, 1) && !holds(freed, i, 0))
            return printf("lazy_free: page %zu is wrong: begins with %016llx\n", i, (unsigned long long)*page_at(freed, i)), 1;
    for (size_t i = 0; i < MORE_PAGES; i++)
        if (!holds(more, i, 4))
            return printf("lazy_free: page %zu of the rest is wrong\n", i), 1;
    puts("lazy_free: passed");
    return 0;
}
