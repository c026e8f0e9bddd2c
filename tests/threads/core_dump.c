/* core_dump.c - what is on a thread's stack and in memory that it has written, when it ends the process: for a look into the core dump. The argument says how:
 * segv, fpe, abort. Prints what to look for; it is nowhere else in the program's memory in this form. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARK_BYTES 32
static const char *how;
static char *heap;

/* Not as it is printed: that text stays in the buffer of standard output. */
static void mark(volatile char *to, char first)
{
    for (int i = 0; i < MARK_BYTES; i++)
        to[i] = (char)(i % 2 ? 'a' + i % 26 : first);
}

static __attribute__((noinline)) void crash(volatile char *deep)
{
    volatile int zero = 0, *volatile nowhere = NULL;
    deep[MARK_BYTES] = 0;
    if (!strcmp(how, "segv"))
        *nowhere = 1;
    else if (!strcmp(how, "fpe"))
        deep[0] = (char)(deep[1] / zero);
    abort();
}

static void *body(void *arg)
{
    volatile char stack[MARK_BYTES + 1];
    mark(stack, 'S');
    mark(heap, 'H');
    crash(stack);
    return arg;
}

static volatile int stop;
static void *computes(void *arg)
{
    while (!stop)
        ;
    return arg;
}

int main(int argc, char **argv)
{
    pthread_t t[2];
    how = argc > 1 ? argv[1] : "segv";
    heap = malloc(1 << 16);
    if (!heap || pthread_create(&t[0], NULL, computes, NULL))
        return 2;
    heap[0] = 1;
    usleep(100000);
    if (pthread_create(&t[1], NULL, body, NULL))
        return 2;
    pthread_join(t[1], NULL);
    return 3;
}
