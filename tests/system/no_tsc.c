/* no_tsc.c - a program that forbids itself the time stamp counter (prctl PR_SET_TSC) goes on. Prints "right", or what is wrong. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#define PAGE 4096ul
#define BYTES (64ul << 20)

static sigjmp_buf back;

static void on_segv(int sig)
{
    (void)sig;
    siglongjmp(back, 1);
}

static int forbidden(void)
{
    if (sigsetjmp(back, 1))
        return 1;
    __rdtsc();
    return 0;
}

static void *touch(void *arg)
{
    uint8_t *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int turn = 0; turn < 3; turn++)
        for (size_t i = 0; i < BYTES; i += PAGE) {
            if (at == MAP_FAILED || (turn && at[i] != (uint8_t)(turn - 1 + (int)(i / PAGE))))
                return NULL;
            at[i] = (uint8_t)(turn + (int)(i / PAGE));
        }
    munmap(at, BYTES);
    return arg;
}

static int wrong(const char *what)
{
    puts(what);
    return 1;
}

int main(void)
{
    int status;
    pthread_t t;
    void *ret;
    alarm(60);
    signal(SIGSEGV, on_segv);
    if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV) || !forbidden())
        return wrong("it is not forbidden");
    if (!touch(&t))
        return wrong("memory");
    pthread_create(&t, NULL, touch, &ret);
    pthread_join(t, &ret);
    if (!ret)
        return wrong("memory of a thread");
    pid_t pid = fork();
    if (!pid)
        _exit(touch(&t) ? 0 : 1);
    if (waitpid(pid, &status, 0) != pid || status)
        return wrong("memory of a child");
    if (!forbidden() || prctl(PR_SET_TSC, PR_TSC_ENABLE) || forbidden())
        return wrong("it is not allowed again");
    puts("right");
    return 0;
}
