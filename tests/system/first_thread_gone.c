/* first_thread_gone.c - the first thread ends; the others need far memory only then, and resize what they have. Processes end thread by thread. Prints "ok", or what is wrong. */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define AREA (48 * MIB)

static pthread_t first;

static uint64_t *area_new(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        exit(2);
    return at;
}

static void fill(uint64_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes / 8; i += 64)
        at[i] = i + 1;
}

static void check(const char *when, const uint64_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes / 8; i += 64)
        if (at[i] != i + 1) {
            printf("%s: word %zu is %#llx\n", when, i, (unsigned long long)at[i]);
            exit(1);
        }
}

static void *sleeper(void *arg)
{
    uint64_t *mine = area_new(AREA);
    fill(mine, AREA); /* what its stack does not need is evicted meanwhile */
    check("a thread's", mine, AREA);
    munmap(mine, AREA);
    return arg;
}

static void *raw_end(void *arg)
{
    uint64_t *mine = area_new(AREA / 8);
    fill(mine, AREA / 8);
    check("one that ends", mine, AREA / 8);
    syscall(SYS_exit, 9);
    return arg;
}

/* A child of which every thread ends by exit(2), the first one first, last, or among the others: its status is the last one's. */
static void end_one_by_one(int wait_us)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        uint64_t *mine = area_new(AREA / 2);
        fill(mine, AREA / 2);
        for (int i = 0; i < 3 && wait_us >= 0; i++)
            if (pthread_create(&thread, NULL, raw_end, NULL))
                _exit(1);
        if (wait_us > 0)
            usleep((useconds_t)wait_us);
        check("the first thread's", mine, AREA / 2);
        syscall(SYS_exit, 9);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 9) {
        printf("thread by thread, %d: %#x\n", wait_us, (unsigned)status);
        exit(1);
    }
}

static void *rest(void *arg)
{
    pthread_join(first, NULL);
    uint64_t *at = area_new(AREA), *other = area_new(AREA);
    fill(at, AREA);
    fill(other, AREA);
    check("at first", at, AREA);
    for (size_t more = MIB; more <= 4 * MIB; more += MIB) {
        size_t was = AREA + (more - MIB);
        at = mremap(at, was, AREA + more, MREMAP_MAYMOVE);
        if (at == MAP_FAILED) {
            printf("mremap: %s\n", strerror(errno));
            exit(1);
        }
        check("grown", at, was);
        fill(at, AREA + more);
        check("the other", other, AREA);
    }
    /* Another thread, on a stack that is far memory; and a child. */
    void *stack = memalign(PAGE, MIB);
    pthread_attr_t attributes;
    pthread_t thread;
    memset(stack, 1, MIB);
    check("with a stack", other, AREA);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, MIB);
    if (pthread_create(&thread, &attributes, sleeper, NULL) || pthread_join(thread, NULL)) {
        puts("no thread");
        exit(1);
    }
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        check("the child's", other, AREA);
        _exit(7);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7) {
        printf("child: %#x\n", (unsigned)status);
        exit(1);
    }
    for (int us = -1; us < 400000; us = us < 0 ? 0 : us * 4 + 10000)
        end_one_by_one(us);
    check("after the children", at, AREA);
    puts("ok");
    exit(0);
    return arg;
}

int main(void)
{
    pthread_t thread;
    first = pthread_self();
    if (pthread_create(&thread, NULL, rest, NULL))
        return 2;
    pthread_exit(NULL);
}
