/* overhead_load.c - what overhead asks of a program.
 *   overhead_load calls MIB        touches MIB, then prints nanoseconds per system call, each as NAME NS: a call without buffers, one that writes to
 *                                  the stack, and one that writes to the heap (the best of some rounds: what others do on the machine is not the gate's)
 *   overhead_load calls2 MIB       the same, while a second thread sleeps
 *   overhead_load rest MIB ROUNDS  touches MIB of memory page by page, ROUNDS times, says START BYTES of it, and waits for its standard input to end */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 20, CALLS = 20000 };

static int zero_fd;
static char *heap;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void no_buffer(void)
{
    getppid();
}

static void to_stack(void)
{
    char byte;
    if (read(zero_fd, &byte, 1) != 1)
        exit(1);
}

static void to_heap(void)
{
    if (read(zero_fd, heap, 1) != 1)
        exit(1);
}

static double best_ns(void (*call)(void))
{
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = now_ns();
        for (int i = 0; i < CALLS; i++)
            call();
        uint64_t took = now_ns() - start;
        best = took < best ? took : best;
    }
    return (double)best / CALLS;
}

static void *sleeper(void *unused)
{
    pause();
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc < 3)
        return 2;
    size_t bytes = strtoul(argv[2], NULL, 10) << 20;
    int rounds = argc > 3 ? atoi(argv[3]) : 1;
    uint64_t *at = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return 1;
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < bytes / 8; i += 512)
            at[i] += i + 1;
    if (!strcmp(argv[1], "rest")) {
        char byte;
        printf("%" PRIu64 " %zu\n", (uint64_t)at, bytes + 4096);
        fflush(stdout);
        return read(0, &byte, 1) != 0;
    }
    if (!strcmp(argv[1], "calls2") && pthread_create(&thread, NULL, sleeper, NULL))
        return 1;
    zero_fd = open("/dev/zero", O_RDONLY);
    heap = malloc(4096);
    if (zero_fd < 0 || !heap)
        return 1;
    *heap = 1;
    printf("getppid %.1f\nread_to_stack %.1f\nread_to_heap %.1f\n", best_ns(no_buffer), best_ns(to_stack), best_ns(to_heap));
    return 0;
}
