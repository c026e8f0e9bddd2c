/* stopped_threads MIB - two threads touch MIB of memory all the time, and again and again a process that shares it (CLONE_VM, as LeakSanitizer's at the end
 * of a program) stops all threads, reads what they have written, and lets them go on. Says "right", or what was wrong. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 12
#define THREADS_MAX 64

static uint64_t *memory;
static size_t words;
static volatile int end;
static char stack[1 << 16] __attribute__((aligned(64)));
static volatile int n_stopped, n_wrong;

/* Each page's first two words are equal, but while a thread is at it. */
static void *toucher(void *arg)
{
    uint64_t x = (uintptr_t)arg;
    while (!end) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        size_t page = ((x >> 33) % (words / 1024)) * 1024 + ((uintptr_t)arg == 1 ? 0 : 512);
        memory[page]++;
        memory[page + 1]++;
    }
    return NULL;
}

static int stop(pid_t tid)
{
    int status;
    if (ptrace(PTRACE_ATTACH, tid, NULL, NULL))
        return 0;
    while (waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status)) {
        if (WSTOPSIG(status) == SIGSTOP)
            return 1;
        ptrace(PTRACE_CONT, tid, NULL, (void *)(uintptr_t)WSTOPSIG(status));
    }
    return 0;
}

static int tracer(void *arg)
{
    pid_t stopped[THREADS_MAX];
    int n = 0, apart = 0;
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/task", *(pid_t *)arg);
    DIR *tasks = opendir(name);
    for (struct dirent *e; tasks && (e = readdir(tasks)) && n < THREADS_MAX;)
        if (e->d_name[0] != '.' && stop(atoi(e->d_name)))
            stopped[n++] = atoi(e->d_name);
    if (tasks)
        closedir(tasks);
    for (size_t w = 0; w < words; w += 512)
        apart += memory[w] != memory[w + 1];
    n_stopped = n;
    n_wrong = apart;
    for (int i = 0; i < n; i++)
        ptrace(PTRACE_DETACH, stopped[i], NULL, NULL);
    return 0;
}

/* Debuggers write all of a mapping into a core file but where it says "dd" (MADV_DONTDUMP): the runtime's reservations, and its view of the server's memory,
 * would be gigabytes. */
static int is_large_dump(void)
{
    char line[512];
    unsigned long kib = 0, large = 0;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Size: %lu", &kib) != 1 && !strncmp(line, "VmFlags:", 8) && !strstr(line, " dd") && kib > large)
            large = kib;
    if (f)
        fclose(f);
    return large >= 1ul << 20;
}

int main(int argc, char **argv)
{
    size_t bytes = (size_t)(argc > 1 ? atoi(argv[1]) : 64) << 20;
    pthread_t t[2];
    pid_t self = getpid();
    words = bytes / sizeof *memory;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 2;
    for (size_t w = 0; w < words; w += 512)
        memory[w] = memory[w + 1] = w;
    prctl(PR_SET_PTRACER, -1l);
    for (uintptr_t i = 0; i < 2; i++)
        if (pthread_create(&t[i], NULL, toucher, (void *)(i + 1)))
            return 2;
    for (int r = 0; r < ROUNDS; r++) {
        int status;
        usleep(5000);
        pid_t child = clone(tracer, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED, &self);
        if (child < 0 || waitpid(child, &status, __WALL) != child || status) {
            printf("the tracer ended with %d, errno %d\n", status, errno);
            return 1;
        }
        /* Main and both threads; one of each thread's words may be ahead. */
        if (n_stopped < 3 || n_wrong > 2) {
            printf("%d threads stopped, %d pages half written\n", n_stopped, n_wrong);
            return n_stopped < 3 && n_wrong <= 2 && !r ? 77 : 1;
        }
    }
    end = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    puts(is_large_dump() ? "a core file would be large" : "right");
    return 0;
}
