/* quiet.c - threads that share a page all the time, and wait for one another, come home (--threads auto); a while later nothing of the program's memory is watched
 * over any more, and all of it is right. Twice, with as many threads as the first argument says; then so many pairs of threads that do nothing as the second says. Prints `right`. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 20000, TOGETHER = 500, PAGES = 512, PAGE = 4096 };
static long counter[2];
static pthread_barrier_t barrier; /* one that went out would else be alone by the time that it begins */
static unsigned char area[PAGES * PAGE];

static void *share(void *number)
{
    for (int i = 0; i < ROUNDS; i++) {
        if (i % TOGETHER == 0)
            pthread_barrier_wait(&barrier);
        __atomic_fetch_add(&counter[i % 2], 1, __ATOMIC_SEQ_CST);
        area[(size_t)(i % PAGES) * PAGE + (size_t)(long)number]++;
    }
    return NULL;
}

static void *nothing(void *arg)
{
    return arg;
}

/* Mappings that are registered with userfaultfd. */
static int watched(void)
{
    char line[1024];
    int n = 0;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f))
        n += !strncmp(line, "VmFlags:", 8) && (strstr(line, " um ") || strstr(line, " uw "));
    if (f)
        fclose(f);
    return n;
}

int main(int argc, char **argv)
{
    pthread_t t[64];
    int n = argc > 1 ? atoi(argv[1]) : 4;
    if (pthread_barrier_init(&barrier, NULL, n ? (unsigned)n : 1))
        return 2;
    for (int again = 1; again <= 2; again++) {
        for (long i = 0; i < n; i++)
            if (pthread_create(&t[i], NULL, share, (void *)i))
                return 2;
        for (int i = 0; i < n; i++)
            pthread_join(t[i], NULL);
        int left = 1;
        for (int try = 0; try < 100 && (left = watched()); try++)
            usleep(20000);
        if (left)
            printf("%d mappings are still watched over\n", left);
        for (int i = 0; i < 2; i++)
            if (counter[i] != (long)again * n * ROUNDS / 2)
                printf("counter %d: %ld\n", i, counter[i]);
        for (size_t p = 0; p < PAGES; p++)
            for (int i = 0; i < n; i++)
                if (area[p * PAGE + (size_t)i] != (unsigned char)(again * (ROUNDS / PAGES + (p < ROUNDS % PAGES))))
                    printf("page %zu, byte %d: %d\n", p, i, area[p * PAGE + (size_t)i]);
    }
    for (int i = 0; i < (argc > 2 ? atoi(argv[2]) : 0); i++)
        for (int k = 0; k < 4; k++)
            if (k < 2 ? pthread_create(&t[k], NULL, nothing, NULL) : pthread_join(t[k - 2], NULL))
                return 2;
    puts("right");
    return 0;
}
