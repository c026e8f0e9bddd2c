/* torture_alone.c - threads that compute for long without a call and write to nothing but their stacks until the end. What they read is
 * changed by nobody, so that they can begin again at any moment before their end: ARGUMENT rounds (millions) each. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 4

static struct {
    uint64_t seed, result;
    char apart[8192]; /* each thread's result on pages of its own */
} work[THREADS];
static uint64_t rounds;

static void *compute(void *arg)
{
    uint64_t k = (uint64_t)(uintptr_t)arg, x = work[k].seed;
    volatile uint64_t table[4096];
    for (uint64_t i = 0; i < 4096; i++)
        table[i] = i * x;
    for (uint64_t i = 0; i < rounds; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        table[x % 4096] += x;
    }
    for (uint64_t i = 0; i < 4096; i++)
        x = x * 31 + table[i];
    work[k].result += x; /* twice begun, but once ended */
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread[THREADS];
    rounds = (argc > 1 ? strtoull(argv[1], NULL, 10) : 10) * 1000000u;
    for (uint64_t k = 0; k < THREADS; k++)
        work[k].seed = k + 1;
    for (uint64_t k = 0; k < THREADS; k++)
        if (pthread_create(&thread[k], NULL, compute, (void *)(uintptr_t)k))
            return 1;
    for (uint64_t k = 0; k < THREADS; k++)
        pthread_join(thread[k], NULL);
    for (uint64_t k = 0; k < THREADS; k++)
        printf("%llu %016llx\n", (unsigned long long)k, (unsigned long long)work[k].result);
    return 0;
}
