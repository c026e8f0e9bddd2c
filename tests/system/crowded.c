/* crowded.c - four threads read regions of which every third page is here, so that what is read ahead comes in single pages, and touch others at random:
 * more is on its way than can be, and who asks for a page must see to it that room is made. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE_WORDS = 512, THREADS = 4, ROUNDS = 4 };

static uint64_t *memory;
static size_t n_pages;
static int wrong;

static void check(size_t page)
{
    if (memory[page * PAGE_WORDS] != page * 7 + 1)
        __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
}

static void *reader(void *number)
{
    size_t each = n_pages / (2 * THREADS), first = (size_t)number * each;
    uint32_t random = 12345u + (uint32_t)(size_t)number;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t k = 0; k < each / 3; k++)
            check(first + k * 389 % (each / 3) * 3);
        for (size_t i = first; i < first + each; i++) {
            check(i);
            random = random * 1103515245u + 12345u;
            if (random >> 30 == 0)
                check(n_pages / 2 + (random >> 8) % (n_pages / 2));
            for (volatile uint32_t pause = random >> 20 & 1023; pause; pause--)
                ;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread[THREADS];
    n_pages = (size_t)(argc > 1 ? atoi(argv[1]) : 0) * 256;
    memory = mmap(NULL, n_pages * PAGE_WORDS * sizeof *memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!n_pages || memory == MAP_FAILED)
        return 2;
    for (size_t i = 0; i < n_pages; i++)
        memory[i * PAGE_WORDS] = i * 7 + 1;
    for (size_t k = 0; k < THREADS; k++)
        if (pthread_create(&thread[k], NULL, reader, (void *)k))
            return 2;
    for (size_t k = 0; k < THREADS; k++)
        pthread_join(thread[k], NULL);
    puts(wrong ? "wrong" : "right");
    return wrong;
}
