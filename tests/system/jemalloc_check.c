/* jemalloc_check.c - a program linked with jemalloc: threads allocate, resize, free and purge, and every byte is checked.
 *   jemalloc_check MIB ROUNDS */
#include <jemalloc/jemalloc.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3, SLOTS = 12000 };

struct block {
    unsigned char *at;
    size_t size;
    uint64_t seed;
};

static size_t per_thread_bytes;
static int rounds;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void fill(struct block *b, size_t from)
{
    for (size_t i = from; i < b->size; i++)
        b->at[i] = (unsigned char)(b->seed >> (i & 31) ^ i * 167);
}

static void check(const struct block *b, size_t to, const char *when)
{
    for (size_t i = 0; i < to; i++) {
        unsigned char want = (unsigned char)(b->seed >> (i & 31) ^ i * 167);
        if (b->at[i] != want) {
            printf("%s: byte %zu of %zu at %p is %02x, wanted %02x\n", when, i, b->size, (void *)b->at, b->at[i], want);
            exit(1);
        }
    }
}

static size_t size_of(uint64_t r)
{
    switch (r & 7) {
    case 0: return 1 + (r >> 8) % 64;
    case 1:
    case 2: return 1 + (r >> 8) % 2000;
    case 7: return 1 + (r >> 8) % 150000;
    default: return 1 + (r >> 8) % 12000;
    }
}

static void *work(void *arg)
{
    uint64_t seed = (uintptr_t)arg * 0x1234567ull, held = 0, sum = 0;
    struct block *blocks = calloc(SLOTS, sizeof(*blocks));
    if (!blocks)
        return "no memory";
    for (int round = 0; round < rounds; round++) {
        for (int n = 0; n < SLOTS; n++) {
            uint64_t r = mix(seed += 0x9e3779b97f4a7c15ull);
            struct block *b = &blocks[r % SLOTS];
            if (!b->at) {
                if (held >= per_thread_bytes)
                    continue;
                b->size = size_of(r >> 20);
                b->seed = r;
                int flags = (r >> 17 & 7) == 0 ? MALLOCX_ALIGN(4096) : 0;
                if ((r >> 14 & 7) == 1)
                    flags |= MALLOCX_ZERO;
                b->at = mallocx(b->size, flags);
                if (!b->at)
                    return "mallocx failed";
                if (flags & MALLOCX_ZERO)
                    for (size_t i = 0; i < b->size; i++)
                        if (b->at[i])
                            return "zeroed memory is not zero";
                held += b->size;
                fill(b, 0);
            } else if ((r >> 40 & 3) == 0) {
                size_t old = b->size, size = size_of(r >> 20);
                unsigned char *at = rallocx(b->at, size, 0);
                if (!at)
                    return "rallocx failed";
                b->at = at;
                b->size = size;
                check(b, old < size ? old : size, "after rallocx");
                fill(b, old < size ? old : size);
                held += size - old;
            } else if ((r >> 40 & 3) == 1 && round > 0) {
                check(b, b->size, "before free");
                held -= b->size;
                sdallocx(b->at, b->size, 0);
                b->at = NULL;
            } else {
                check(b, b->size, "in use");
                sum += b->at[b->size / 2];
            }
        }
        /* Gives dirty pages back with MADV_FREE or MADV_DONTNEED. */
        mallctl("arena.4096.purge", NULL, NULL, NULL, 0); /* 4096: MALLCTL_ARENAS_ALL */
    }
    for (int i = 0; i < SLOTS; i++)
        if (blocks[i].at) {
            check(&blocks[i], blocks[i].size, "at the end");
            sum += blocks[i].size;
            dallocx(blocks[i].at, 0);
        }
    free(blocks);
    printf("thread %d: %" PRIu64 "\n", (int)(uintptr_t)arg, sum);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    per_thread_bytes = (strtoull(argv[1], NULL, 0) << 20) / THREADS;
    rounds = atoi(argv[2]);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)))
            return 1;
    int rc = 0;
    for (int i = 0; i < THREADS; i++) {
        void *why;
        pthread_join(threads[i], &why);
        if (why) {
            printf("thread %d: %s\n", i + 1, (char *)why);
            rc = 1;
        }
    }
    return rc;
}
