/* traced_child.c - a program starts others as a debugger does: the child asks to be traced and touches memory that is away before its execve. Prints what its
 * parent sees of it, which is to be what it sees natively.
 *   traced_child FILE    FILE: executable, and of no format
 *   traced_child look    what the new program finds */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define AREA (48 * MIB)
#define STACK (256ul << 10)

static uint64_t *area;
static char *const *tried; /* what the child wants to be, one after the other */
static char *const true_only[] = {"/bin/true", NULL};
static int errors[16], n_errors;
static long asked[2];
static unsigned long wrong;
static int asks, pending;

static uint64_t word_of(size_t i)
{
    return i * 0x9e3779b97f4a7c15ull + 1;
}

static void touch(void)
{
    for (size_t i = 0; i < AREA / 8; i += PAGE / 8)
        wrong += area[i] != word_of(i);
}

static int is_pending(int s)
{
    sigset_t set;
    sigemptyset(&set);
    sigpending(&set);
    return sigismember(&set, s);
}

/* Of a child that shares the memory. Never returns. */
static int child(void *arg)
{
    static char *const look[] = {"/proc/self/exe", "look", NULL};
    for (int i = 0; i < asks; i++)
        asked[i] = ptrace(PTRACE_TRACEME, 0, NULL, NULL) ? errno : 0;
    touch();
    if (arg)
        raise(SIGSTOP);
    for (int i = 0; tried[i]; i++) {
        if (!strcmp(tried[i], "look"))
            execve(look[0], look, environ);
        else if (!strcmp(tried[i], "fd"))
            syscall(SYS_execveat, open(true_only[0], O_PATH | O_CLOEXEC), "", true_only, environ, AT_EMPTY_PATH);
        else
            execve(tried[i], true_only, environ);
        errors[n_errors++] = errno;
        touch();
        pending |= is_pending(SIGCHLD);
    }
    _exit(9);
}

static const char *signal_name(int s)
{
    return s == SIGTRAP ? "SIGTRAP" : s == SIGSTOP ? "SIGSTOP" : "another";
}

/* Every fault of a traced child that runs is a stop of its own, with inline faults: those are passed over. */
static void observe(const char *what, pid_t pid)
{
    int status = 0;
    printf("%s:", what);
    if (pid < 0)
        printf(" %s", strerror(errno));
    while (pid > 0 && waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
        int s = WSTOPSIG(status);
        if (s != SIGBUS)
            printf(" stop %s", signal_name(s));
        ptrace(PTRACE_CONT, pid, NULL, s == SIGTRAP || s == SIGSTOP ? 0 : s);
    }
    printf(" end %#x, wrong %lu, asked %ld %ld, errors", (unsigned)status, wrong, asked[0], asked[1]);
    for (int i = 0; i < n_errors; i++)
        printf(" %d", errors[i]);
    printf("%s\n", pending ? ", SIGCHLD" : "");
    fflush(stdout);
    n_errors = pending = 0;
    wrong = 0;
    asked[0] = asked[1] = -1;
}

static void by_vfork(const char *what, int n, char *const *files)
{
    asks = n;
    tried = files;
    pid_t pid = vfork();
    if (pid == 0)
        child(NULL);
    observe(what, pid);
}

static void by_clone(const char *what, int flags, void *stops)
{
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    asks = 1;
    tried = true_only;
    observe(what, stack == MAP_FAILED ? -1 : clone(child, stack + STACK, CLONE_VM | flags | SIGCHLD, stops));
    munmap(stack, STACK);
}

static void *in_thread(void *arg)
{
    by_vfork("vfork of a thread", 1, true_only);
    return arg;
}

static void by_fork(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit(6);
    }
    observe("fork", pid);
    pid = fork();
    if (pid == 0) {
        by_vfork("vfork of a fork", 1, true_only);
        _exit(7);
    }
    observe("fork that does", pid);
}

/* In a new program: what it inherited, and whether it has a tracer. */
static int look(void)
{
    struct sigaction action;
    char line[256];
    int traced = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "TracerPid:", 10))
            traced = atoi(line + 10) == getppid();
    sigaction(SIGCHLD, NULL, &action);
    printf("(traced %d, SIGCHLD pending %d, default %d)", traced, is_pending(SIGCHLD), action.sa_handler == SIG_DFL);
    fflush(stdout);
    return 5;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    if (!strcmp(argv[1], "look"))
        return look();
    char *const all_fail[] = {"/nowhere/true", "/", "/etc/passwd", argv[1], NULL};
    char *const last_works[] = {"/nowhere/true", argv[1], "/etc/passwd", "/bin/true", NULL};
    char *const look_only[] = {"look", NULL}, *const fd_only[] = {"fd", NULL};
    sigset_t chld, old;
    pthread_t thread;

    area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return 2;
    for (size_t i = 0; i < AREA / 8; i++)
        area[i] = word_of(i);

    by_vfork("vfork", 1, true_only);
    by_vfork("not traced", 0, true_only);
    by_vfork("asked twice, several files", 2, last_works);
    by_vfork("none works", 1, all_fail);
    by_vfork("not traced after that", 0, true_only);
    by_vfork("by descriptor", 1, fd_only);
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &old);
    by_vfork("SIGCHLD blocked, several files", 1, last_works);
    by_vfork("SIGCHLD blocked", 1, look_only);
    sigprocmask(SIG_SETMASK, &old, NULL);
    by_clone("clone, sleeping", CLONE_VFORK, NULL);
    by_clone("clone", 0, NULL);
    by_clone("clone, stopping", 0, &area);
    by_fork();
    if (pthread_create(&thread, NULL, in_thread, NULL) || pthread_join(thread, NULL))
        return 2;
    by_vfork("vfork again", 1, true_only);
    return 0;
}
