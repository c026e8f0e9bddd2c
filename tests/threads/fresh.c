/* fresh.c - a thread touches one page of a block of 2 MiB, and ends; then home uses the rest of the block afresh. Prints how many of its pages were not zeros, and whether the
 * block is still registered with userfaultfd at the end. With an argument the process has as many mappings as it may have meanwhile: then nothing can be registered no more,
 * and what is touched must be there all the same. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, BLOCK = 2 << 20, PAGES = 400 };
static unsigned char *block;

static void *touch(void *arg)
{
    block[0] = 1;
    return arg;
}

static int registered(void)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    int here = 0, yes = -1;
    while (f && fgets(line, sizeof line, f)) {
        unsigned long lo, hi;
        if (sscanf(line, "%lx-%lx ", &lo, &hi) == 2)
            here = lo <= (unsigned long)block + PAGE && hi > (unsigned long)block + PAGE;
        else if (here && !strncmp(line, "VmFlags:", 8))
            yes = strstr(line, " um") || strstr(line, " uw");
    }
    if (f)
        fclose(f);
    return yes;
}

/* Every other page of a range gets another protection, until there can be no more mappings. */
static void *fill(size_t *ret_bytes)
{
    *ret_bytes = (size_t)PAGE << 18;
    unsigned char *p = mmap(NULL, *ret_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t at = 0; p != MAP_FAILED && at < *ret_bytes && !mprotect(p + at, PAGE, PROT_READ); at += 2 * PAGE)
        ;
    return p;
}

int main(int argc, char **argv)
{
    unsigned char *p = mmap(NULL, 4 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;
    size_t bytes = 0;
    int wrong = 0;
    (void)argv;
    if (p == MAP_FAILED)
        return 2;
    block = (unsigned char *)(((uintptr_t)p + 2 * BLOCK - 1) & ~(uintptr_t)(BLOCK - 1));
    if (pthread_create(&thread, NULL, touch, NULL) || pthread_join(thread, NULL))
        return 2;
    wrong += block[0] != 1; /* home has it again, and with it all that came along */
    for (int i = 1; i < 64; i++)
        wrong += block[(size_t)i * PAGE]++ != 0;
    void *filled = argc > 1 ? fill(&bytes) : NULL;
    for (int i = 64; i < PAGES; i++)
        wrong += block[(size_t)i * PAGE]++ != 0;
    for (int i = 1; i < PAGES; i++)
        wrong += block[(size_t)i * PAGE] != 1;
    if (filled)
        munmap(filled, bytes);
    printf("%d wrong, registered: %d\n", wrong, argc > 1 ? 0 : registered());
    return wrong != 0;
}
