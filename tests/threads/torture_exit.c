/* torture_exit.c - how a process with threads ends. Every sub-test ends the program in its own way, so exactly one is named on the
 * command line; what it must print and its status are in torture_exit.test. See torture.h for the rest of the command line. */
#include "torture.h"

#include <signal.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static atomic_int running;

static void *compute_main(void *arg)
{
    volatile unsigned long n = 0;
    atomic_fetch_add(&running, 1);
    for (;;)
        n = n + 1;
    return arg;
}

static void *sleep_main(void *arg)
{
    atomic_fetch_add(&running, 1);
    for (;;)
        pause();
    return arg;
}

static pthread_mutex_t contended = PTHREAD_MUTEX_INITIALIZER;

static void *lock_main(void *arg)
{
    atomic_fetch_add(&running, 1);
    for (;;) {
        OK(pthread_mutex_lock(&contended));
        free(malloc(1000));
        OK(pthread_mutex_unlock(&contended));
    }
    return arg;
}

/* Three threads that would go on for ever. */
static void start_others(void)
{
    void *(*const mains[])(void *) = {compute_main, sleep_main, lock_main};
    pthread_t id;
    for (size_t i = 0; i < COUNT_OF(mains); i++)
        OK(pthread_create(&id, NULL, mains[i], NULL));
    wait_until_at_least(&running, (int)COUNT_OF(mains));
    struct rlimit none = {0, 0};
    SYS(setrlimit(RLIMIT_CORE, &none));
}

static void *in_thread(void *(*thread_main)(void *))
{
    pthread_t id;
    void *value;
    OK(pthread_create(&id, NULL, thread_main, NULL));
    OK(pthread_join(id, &value));
    return value;
}

/* Not through stdio: it must be out whatever happens next. */
static void say(const char *text)
{
    if (write(STDOUT_FILENO, text, strlen(text)) < 0)
        _exit(2);
}

static void at_exit(void)
{
    say("atexit handler\n");
}

static void exit_running(void)
{
    start_others();
    atexit(at_exit);
    printf("buffered\n"); /* exit flushes it */
    exit(21);
}

static void *exit_main(void *arg)
{
    atexit(at_exit);
    printf("buffered\n");
    exit(22);
    return arg;
}

static void exit_from_thread(void)
{
    start_others();
    in_thread(exit_main);
}

static void *quick_main(void *arg)
{
    say("out at once\n");
    _exit(23);
    return arg;
}

static void quick_exit_from_thread(void)
{
    start_others();
    in_thread(quick_main);
}

/* The main thread goes first; the process ends, with 0, when the last one does. */
static void *last_main(void *arg)
{
    sleep_ms(30);
    say("the last thread\n");
    return arg;
}

static void exit_of_main_thread(void)
{
    pthread_t id;
    atexit(at_exit);
    say("the main thread\n");
    for (int i = 0; i < 2; i++)
        OK(pthread_create(&id, NULL, last_main, NULL));
    pthread_exit(NULL);
}

static void *last_exit_main(void *arg)
{
    sleep_ms(30);
    say("the last thread\n");
    exit(24);
    return arg;
}

static void exit_of_main_thread_then_exit(void)
{
    pthread_t id;
    OK(pthread_create(&id, NULL, last_exit_main, NULL));
    pthread_exit(NULL);
}

static void *abort_main(void *arg)
{
    say("aborting\n");
    abort();
    return arg;
}

static void abort_in_thread(void)
{
    start_others();
    in_thread(abort_main);
}

static void *fault_main(void *arg)
{
    volatile int *volatile nowhere = (int *)16;
    say("faulting\n");
    *nowhere = 1;
    return arg;
}

static void fault_in_thread(void)
{
    start_others();
    in_thread(fault_main);
}

static void *read_only_main(void *arg)
{
    volatile char *text = (char *)(uintptr_t) "constant";
    say("faulting\n");
    text[0] = 'x';
    return arg;
}

static void fault_read_only(void)
{
    start_others();
    in_thread(read_only_main);
}

static void *jump_main(void *arg)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void (*function)(void);
    memcpy(&function, &page, sizeof function);
    say("faulting\n");
    function(); /* not executable */
    return arg;
}

static void fault_no_code(void)
{
    start_others();
    in_thread(jump_main);
}

static void *kill_main(void *arg)
{
    say("killing\n");
    SYS(kill(getpid(), SIGKILL));
    for (;;)
        pause();
    return arg;
}

static void killed_by_itself(void)
{
    start_others();
    in_thread(kill_main);
}

static void *terminate_main(void *arg)
{
    say("terminating\n");
    SYS(raise(SIGTERM));
    for (;;)
        pause();
    return arg;
}

static void terminated_by_thread(void)
{
    start_others();
    in_thread(terminate_main);
}

/* exec by a thread: the others are gone, the new program is this process. */
static void *exec_main(void *arg)
{
    char pid[40];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    say("before exec\n");
    execl("/bin/sh", "sh", "-c", "test $$ = \"$0\" && echo same process; exit 25", pid, (char *)NULL);
    complain(__FILE__, __LINE__, "execl: %s", strerror(errno));
    return arg;
}

static void exec_from_thread(void)
{
    start_others();
    in_thread(exec_main);
}

static void exec_from_main(void)
{
    start_others();
    exec_main(NULL);
}

/* The same while a thread has the page that the kernel reads at an exec: main's control block and what lies beside it. */
static __thread volatile int of_main;

static void *write_of_main(void *arg)
{
    for (volatile int *p = arg;; (*p)++)
        ;
    return arg;
}

static void exec_without_own_page(void)
{
    pthread_t thread;
    OK(pthread_create(&thread, NULL, write_of_main, (void *)&of_main));
    while (of_main < 1000)
        ;
    exec_main(NULL);
}

/* An exec that fails changes nothing. */
static void *failing_exec_main(void *arg)
{
    FAILS(execl("/nowhere/at/all", "all", (char *)NULL), ENOENT);
    say("still here\n");
    return arg;
}

static void exec_that_fails(void)
{
    start_others();
    in_thread(failing_exec_main);
    exit(26);
}

/* Two at once: one status wins, the program ends. */
static void *race_main(void *arg)
{
    (void)arg;
    _exit(27);
}

static void exit_race(void)
{
    pthread_t id;
    for (int i = 0; i < 4; i++)
        OK(pthread_create(&id, NULL, race_main, NULL));
    pthread_exit(NULL);
}

static void return_from_main(void)
{
    start_others(); /* then main returns 0 */
}

static void *overflow_main(void *arg)
{
    volatile int depth = 0;
    say("overflowing\n");
    overflow(&depth);
    return arg;
}

static void stack_overflow(void)
{
    start_others();
    in_thread(overflow_main);
}

/* A thread of clone(2) that has descriptors of its own: it cannot go out. */
static int alone_in_kernel;

static int alone_main(void *arg)
{
    static const char text[] = "with descriptors of its own\n";
    (void)arg; /* it has main's control block, too: no errno here, thus no libc but what needs none */
    long ret = syscall(SYS_close_range, 100, 200, 0);
    ret |= syscall(SYS_write, STDOUT_FILENO, text, sizeof text - 1) != sizeof text - 1;
    syscall(SYS_exit, ret);
    return 0;
}

static void thread_with_own_descriptors(void)
{
    char *stack = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 3; i++) {
        alone_in_kernel = 1;
        SYS(clone(alone_main, stack + 64 * PAGE, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_CHILD_CLEARTID, NULL, NULL, NULL, &alone_in_kernel));
        while (__atomic_load_n(&alone_in_kernel, __ATOMIC_ACQUIRE))
            syscall(SYS_futex, &alone_in_kernel, FUTEX_WAIT, 1, NULL, NULL, 0);
    }
    exit(28);
}

static void *raw_end_main(void *arg)
{
    sleep_ms(10);
    say("a thread\n");
    syscall(SYS_exit, 29);
    return arg;
}

static void end_thread_by_thread(void)
{
    pthread_t id;
    for (int i = 0; i < 3; i++)
        OK(pthread_create(&id, NULL, raw_end_main, NULL));
    say("the main thread\n");
    syscall(SYS_exit, 29);
}

static const struct sub_test tests[] = {
    {"exit_running", exit_running, "status 21: exit while threads run"},
    {"exit_from_thread", exit_from_thread, "status 22: exit by a thread"},
    {"quick_exit_from_thread", quick_exit_from_thread, "status 23: _exit by a thread"},
    {"exit_of_main_thread", exit_of_main_thread, "status 0: pthread_exit by main"},
    {"exit_of_main_thread_then_exit", exit_of_main_thread_then_exit, "status 24: pthread_exit by main, exit by a thread"},
    {"return_from_main", return_from_main, "status 0: main returns while threads run"},
    {"exit_race", exit_race, "status 27: several exit at once"},
    {"abort_in_thread", abort_in_thread, "signal 6: abort by a thread"},
    {"fault_in_thread", fault_in_thread, "signal 11: a thread writes to nowhere"},
    {"fault_read_only", fault_read_only, "signal 11: a thread writes to a constant"},
    {"fault_no_code", fault_no_code, "signal 11: a thread runs what is not code"},
    {"stack_overflow", stack_overflow, "signal 11: a thread's stack ends"},
    {"killed_by_itself", killed_by_itself, "signal 9: kill by a thread"},
    {"terminated_by_thread", terminated_by_thread, "signal 15: raise by a thread"},
    {"thread_with_own_descriptors", thread_with_own_descriptors, "status 28: threads without CLONE_FILES"},
    {"end_thread_by_thread", end_thread_by_thread, "status 29: every thread ends by exit(2)"},
    {"exec_from_thread", exec_from_thread, "status 25: exec by a thread"},
    {"exec_from_main", exec_from_main, "status 25: exec by main"},
    {"exec_without_own_page", exec_without_own_page, "status 25: exec by main, whose control block is elsewhere"},
    {"exec_that_fails", exec_that_fails, "status 26: exec of nothing by a thread"},
};

/* Exactly one: it is the last argument. */
int main(int argc, char **argv)
{
    if (argc < 2 || (argv[argc - 1][0] == '-' && strcmp(argv[argc - 1], "--list"))) {
        fprintf(stderr, "torture_exit: name one sub-test; see --list\n");
        return 2;
    }
    return torture_main(argc, argv, tests, COUNT_OF(tests));
}
