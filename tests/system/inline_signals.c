/* Signals in a program whose memory comes and goes: what it prints is the same whether that memory is here or far.
 * inline_signals [--press MIB]: this much is in use besides; more than the budget makes all other memory leave between uses. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096u
#define FAR_PAGES 512u
#define N_THREADS 4

static uint8_t *far, *weight;
static size_t weight_pages;
static const char *self;

static void check(int ok, const char *what)
{
    printf("  %s: %s\n", what, ok ? "yes" : "NO");
    fflush(stdout);
}

static uint8_t *memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        exit(2);
    return p;
}

/* Everything else has to leave. */
static void press(void)
{
    for (size_t i = 0; i < weight_pages; i++)
        (*(volatile uint64_t *)(weight + i * PAGE))++;
}

static unsigned sum(void)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < FAR_PAGES; i++) {
        unsigned k = i * 37 % FAR_PAGES;
        wrong += *(volatile uint32_t *)(far + k * PAGE + k % 1000 * 4) != k * 2654435761u;
    }
    return wrong;
}

static int far_is_right(void)
{
    press();
    return sum() == 0;
}

static volatile sig_atomic_t n_seen, seen_sig, seen_code, seen_value, deepest, depth;
static void *volatile seen_addr;
static char *volatile seen_sp;
static sigset_t seen_mask;
static sigjmp_buf out;

static void note(int s, siginfo_t *info, void *ctx)
{
    (void)ctx;
    n_seen++;
    seen_sig = s;
    seen_code = info->si_code;
    seen_value = info->si_value.sival_int;
    seen_addr = info->si_addr;
    seen_sp = __builtin_frame_address(0);
    pthread_sigmask(SIG_BLOCK, NULL, &seen_mask);
}

static void leave(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    siglongjmp(out, 1);
}

static void on(int s, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    n_seen = 0;
    sigaction(s, &a, NULL);
}

static void off(int s)
{
    signal(s, SIG_DFL);
}

static void set_mask(int all, int but)
{
    sigset_t m;
    if (all)
        sigfillset(&m);
    else
        sigemptyset(&m);
    if (but)
        sigdelset(&m, but);
    pthread_sigmask(SIG_SETMASK, &m, NULL);
}

/* A mapped page of a file that has become shorter. */
static volatile uint8_t *lost_page(int *ret_fd)
{
    int fd = memfd_create("lost", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 2 * PAGE))
        exit(2);
    uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    p[PAGE] = 1;
    if (ftruncate(fd, PAGE))
        exit(2);
    *ret_fd = fd;
    return p + PAGE;
}

/* --- sections ------------------------------------------------------------------------------------------------------------ */

static int same_set(const sigset_t *a, const sigset_t *b)
{
    for (int s = 1; s <= 64; s++)
        if (sigismember(a, s) != sigismember(b, s))
            return 0;
    return 1;
}

static void blocked(void)
{
    sigset_t full, now, bus;
    set_mask(1, 0);
    sigfillset(&full);
    sigdelset(&full, SIGKILL);
    sigdelset(&full, SIGSTOP);
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    check(same_set(&now, &full), "all are blocked");
    check(far_is_right(), "far memory with all signals blocked");
    set_mask(0, 0);
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &bus, NULL);
    pthread_sigmask(SIG_UNBLOCK, &bus, &now);
    check(sigismember(&now, SIGBUS) == 1 && sigismember(&now, SIGSEGV) == 0, "SIGBUS alone is blocked");
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    check(sigismember(&now, SIGBUS) == 0, "and not any more");
}

static volatile sig_atomic_t wrong_in_handler;
static void touching(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    wrong_in_handler += (int)sum();
}

static void ticking(int s, siginfo_t *info, void *ctx)
{
    static unsigned at;
    (void)s;
    (void)info;
    (void)ctx;
    n_seen++;
    at = (at + 91) % FAR_PAGES;
    wrong_in_handler += *(volatile uint32_t *)(far + at * PAGE + at % 1000 * 4) != at * 2654435761u;
}

static void handlers(void)
{
    struct itimerval every = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    on(SIGUSR1, touching, 0);
    press();
    raise(SIGUSR1);
    check(n_seen == 1 && wrong_in_handler == 0, "far memory in a handler");
    on(SIGALRM, ticking, SA_RESTART);
    setitimer(ITIMER_REAL, &every, NULL);
    unsigned wrong = 0;
    while (n_seen < 200) {
        press();
        wrong += sum();
    }
    setitimer(ITIMER_REAL, &never, NULL);
    check(wrong == 0 && wrong_in_handler == 0, "far memory under a timer");
    off(SIGALRM);
    off(SIGUSR1);
}

static int mend_fd;
static void mend(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    if (ftruncate(mend_fd, 2 * PAGE))
        _exit(3);
}

static void own_faults(void)
{
    int fd;
    volatile uint8_t *lost = lost_page(&fd);
    on(SIGBUS, leave, 0);
    volatile int right = 1;
    for (volatile int i = 0; i < 5; i++) {
        if (sigsetjmp(out, 1) == 0) {
            lost[100 + i] = 1;
            right = 0;
        }
        right &= n_seen == i + 1 && seen_addr == lost + 100 + i && seen_code == BUS_ADRERR && seen_sig == SIGBUS;
        right &= far_is_right();
    }
    check(right, "the program's own faults, and no others");
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    check(sigismember(&now, SIGBUS) == 0, "siglongjmp brings the mask back");
    mend_fd = fd;
    on(SIGBUS, mend, 0);
    lost[0] = 7;
    check(n_seen == 1 && lost[0] == 7 && sigismember(&seen_mask, SIGBUS) == 1, "a handler that mends it");
    off(SIGBUS);
}

static void die_by_fault(void)
{
    int fd;
    *lost_page(&fd) = 1;
}
static void die_blocked(void)
{
    on(SIGBUS, note, 0);
    set_mask(1, 0);
    die_by_fault();
}
static void die_ignoring(void)
{
    signal(SIGBUS, SIG_IGN);
    raise(SIGBUS);
    die_by_fault();
}
static void die_sent(void)
{
    kill(getpid(), SIGBUS);
}
static void fault_again(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    die_by_fault();
}
static void die_nested(void)
{
    on(SIGBUS, fault_again, 0);
    die_by_fault();
}
static void die_once(void)
{
    on(SIGBUS, fault_again, SA_RESETHAND | SA_NODEFER);
    die_by_fault();
}
static void die_by_segv(void)
{
    volatile uint64_t nowhere = 16;
    *(volatile int *)nowhere = 1;
}
static void die_by_abort(void)
{
    abort();
}

static void endings(void)
{
    static const struct {
        void (*fn)(void);
        const char *name;
    } way[] = {{die_by_fault, "a fault"}, {die_blocked, "a fault while blocked"}, {die_ignoring, "a fault while ignored"},
               {die_sent, "sent"},        {die_nested, "a fault in the handler"}, {die_once, "a fault after the handler was reset"},
               {die_by_segv, "segmentation"}, {die_by_abort, "abort"}};
    for (unsigned i = 0; i < sizeof way / sizeof *way; i++) {
        int status;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            if (!far_is_right())
                _exit(4);
            way[i].fn();
            _exit(5);
        }
        waitpid(pid, &status, 0);
        printf("  %s: %s %d\n", way[i].name, WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
}

static void again(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    if (++depth > deepest)
        deepest = depth;
    if (n_seen < 3)
        raise(s);
    depth--;
}

static void sent(void)
{
    sigset_t bus, pending;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    on(SIGBUS, note, 0);
    pthread_sigmask(SIG_BLOCK, &bus, NULL);
    sigqueue(getpid(), SIGBUS, (union sigval){.sival_int = 4711});
    check(far_is_right() && n_seen == 0, "waits while it is blocked");
    sigpending(&pending);
    check(sigismember(&pending, SIGBUS) == 1, "and is pending");
    pthread_sigmask(SIG_UNBLOCK, &bus, NULL);
    check(n_seen == 1 && seen_sig == SIGBUS && seen_code == SI_QUEUE && seen_value == 4711, "then arrives as it was sent");
    for (int nodefer = 0; nodefer < 2; nodefer++) {
        on(SIGBUS, again, nodefer ? SA_NODEFER : 0);
        deepest = 0;
        raise(SIGBUS);
        printf("  nodefer %d: %d times, %d deep\n", nodefer, (int)n_seen, (int)deepest);
    }
    struct sigaction a = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART}, old;
    sigfillset(&a.sa_mask);
    sigaction(SIGBUS, &a, NULL);
    sigaction(SIGBUS, NULL, &old);
    check(old.sa_sigaction == note && (old.sa_flags & ~0x04000000 /* SA_RESTORER, libc's */) == a.sa_flags && sigismember(&old.sa_mask, SIGBUS) == 1, "the action is shown as it was set");
    errno = 0;
    check(syscall(SYS_rt_sigaction, SIGBUS, (void *)16, NULL, 8L) == -1 && errno == EFAULT, "EFAULT");
    check(syscall(SYS_rt_sigaction, SIGBUS, NULL, NULL, 4L) == -1 && errno == EINVAL, "EINVAL");
    check(syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)16, NULL, 8L) == -1 && errno == EFAULT, "EFAULT of a mask");
    off(SIGBUS);
}

static uint8_t *alt;
#define ALT_BYTES (64u << 10)
static volatile int alt_flags, alt_errno;
static void on_alt(int s, siginfo_t *info, void *ctx)
{
    stack_t now, none = {.ss_flags = SS_DISABLE};
    note(s, info, ctx);
    sigaltstack(NULL, &now);
    alt_flags = now.ss_flags;
    alt_errno = sigaltstack(&none, NULL) == -1 ? errno : 0;
    wrong_in_handler += (int)sum();
}

static int in_alt(const void *p)
{
    return (uint64_t)p - (uint64_t)alt < ALT_BYTES;
}

static volatile int never;
static __attribute__((noinline)) int fall(int n)
{
    volatile char pad[512] = {(char)n};
    return never ? 0 : fall(n + 1) + pad[7];
}

static void *overflow(void *arg)
{
    stack_t s = {.ss_sp = alt, .ss_size = ALT_BYTES};
    sigaltstack(&s, NULL);
    press();
    if (sigsetjmp(out, 1) == 0)
        fall(0);
    *(int *)arg = n_seen == 1 && seen_sig == SIGSEGV && in_alt(seen_sp);
    return NULL;
}

static void alternate(void)
{
    stack_t s;
    int here = 0;
    alt = memory(ALT_BYTES);
    wrong_in_handler = 0;
    sigaltstack(NULL, &s);
    check(s.ss_flags == SS_DISABLE, "none at the start");
    on(SIGUSR1, note, SA_ONSTACK);
    raise(SIGUSR1);
    check((uint64_t)((char *)&here - seen_sp) < 64u << 10, "without one the normal stack is used");
    s = (stack_t){.ss_sp = alt, .ss_size = ALT_BYTES};
    check(sigaltstack(&s, NULL) == 0, "is set");
    sigaltstack(NULL, &s);
    check(s.ss_flags == 0 && s.ss_sp == alt && s.ss_size == ALT_BYTES, "is shown");
    on(SIGUSR1, on_alt, SA_ONSTACK);
    press();
    raise(SIGUSR1);
    check(n_seen == 1 && in_alt(seen_sp) && wrong_in_handler == 0, "is used, and far memory from there");
    check(alt_flags == SS_ONSTACK && alt_errno == EPERM, "cannot be changed meanwhile");
    s.ss_size = 100;
    check(sigaltstack(&s, NULL) == -1 && errno == ENOMEM, "too small");
    s = (stack_t){.ss_flags = SS_DISABLE};
    sigaltstack(&s, NULL);
    on(SIGSEGV, leave, SA_ONSTACK);
    pthread_t t;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 128 << 10);
    pthread_create(&t, &attr, overflow, &here);
    pthread_join(t, NULL);
    check(here, "catches a stack's overflow");
    off(SIGSEGV);
    off(SIGUSR1);
}

/* An alternate stack that another thread takes the right to write from, and gives it back, all the time: a signal's frame may find no place. That is a
 * SIGSEGV, which has a handler, and no more. (Handlers do next to nothing: a SIGSEGV in the first one has its own frame on the same stack, which may
 * natively be fatal.) */
#define TAKEN_TIMES 2000
static uint8_t taken[10 * PAGE] __attribute__((aligned(4096)));
static volatile int taken_over;
static volatile sig_atomic_t taken_segv, taken_usr1;

static void taken_count(int s)
{
    *(s == SIGSEGV ? &taken_segv : &taken_usr1) += 1;
}

static void *taker(void *arg)
{
    while (!taken_over) {
        mprotect(taken, sizeof taken, PROT_READ);
        mprotect(taken, sizeof taken, PROT_READ | PROT_WRITE);
    }
    return arg;
}

static void stack_taken(void)
{
    pthread_t t;
    sigaltstack(&(stack_t){.ss_sp = taken, .ss_size = sizeof taken}, NULL);
    sigaction(SIGSEGV, &(struct sigaction){.sa_handler = taken_count}, NULL);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = taken_count, .sa_flags = SA_ONSTACK}, NULL);
    pthread_create(&t, NULL, taker, NULL);
    for (int i = 0; i < TAKEN_TIMES; i++)
        raise(SIGUSR1);
    taken_over = 1;
    pthread_join(t, NULL);
    sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
    check(taken_usr1 <= TAKEN_TIMES && taken_usr1 + taken_segv >= TAKEN_TIMES, "another thread takes it and gives it back");
    off(SIGSEGV);
    off(SIGUSR1);
}

#define OWN_STACK_BYTES (256u << 10)
static int calling_pipe[2];
static volatile sig_atomic_t calling_times;
static volatile pthread_t calling_reader;
#define CALLING_BUFFERS 40 /* more than the runtime keeps for a thread */
static uint8_t *calling_buffers;
static void calling(int s, siginfo_t *info, void *ctx)
{
    char path[64];
    note(s, info, ctx);
    wrong_in_handler += readlink("/proc/self/exe", path, sizeof path) <= 0;
    for (size_t i = 0; i < CALLING_BUFFERS; i++)
        wrong_in_handler += readlink("/proc/self/exe", (char *)calling_buffers + i * PAGE, PAGE) <= 0;
    press();
    calling_times++;
}

static void *calling_sender(void *arg)
{
    (void)arg;
    for (int i = 0; i < 4; i++) {
        usleep(100000);
        pthread_kill(calling_reader, SIGUSR1);
        while (calling_times <= i)
            usleep(1000);
    }
    return (void *)(write(calling_pipe[1], "done", 4) == 4 ? NULL : arg);
}

/* A call that waits, with handlers in between that call, too, and after which everything else has left. arg: an alternate stack. */
static void *calling_thread(void *arg)
{
    stack_t s = {.ss_sp = arg, .ss_size = ALT_BYTES};
    char *to = (char *)memory(2 * PAGE) + PAGE - 2;
    pthread_t t;
    sigaltstack(&s, NULL);
    calling_reader = pthread_self();
    calling_times = 0;
    pthread_create(&t, NULL, calling_sender, NULL);
    ssize_t got = read(calling_pipe[0], to, 4);
    pthread_join(t, NULL);
    return (void *)(uintptr_t)(got == 4 && memcmp(to, "done", 4) == 0);
}

static void calls_in_handlers(void)
{
    uint8_t *place = memory(2 * ALT_BYTES + OWN_STACK_BYTES), *low = place, *own = place + ALT_BYTES, *high = own + OWN_STACK_BYTES;
    pthread_attr_t attr;
    wrong_in_handler = 0;
    calling_buffers = memory(CALLING_BUFFERS * PAGE);
    on(SIGUSR1, calling, SA_ONSTACK | SA_RESTART);
    for (unsigned at = 0; at < PAGE; at += 512) {
        stack_t s = {.ss_sp = low + at, .ss_size = ALT_BYTES - PAGE};
        sigaltstack(&s, NULL);
        press();
        raise(SIGUSR1);
    }
    check(calling_times == PAGE / 512 && wrong_in_handler == 0, "handlers return from an alternate stack after calls");
    sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
    check(pipe(calling_pipe) == 0, "a pipe");
    pthread_attr_init(&attr);
    pthread_attr_setstack(&attr, own, OWN_STACK_BYTES);
    for (int above = 0; above < 3; above++) {
        pthread_t t;
        void *right = NULL;
        if (above == 2)
            on(SIGUSR1, calling, SA_RESTART);
        pthread_create(&t, &attr, calling_thread, above ? high : low);
        pthread_join(t, &right);
        check(right != NULL, above == 2 ? "a call goes on after a handler on its own stack" : "a call goes on after a handler on an alternate stack");
    }
    off(SIGUSR1);
}

static ucontext_t main_context, routine[2];
static volatile int routine_right;
static void routine_main(int which)
{
    for (int i = 0; i < 20; i++) {
        press();
        raise(SIGUSR1);
        routine_right += sum() == 0;
        swapcontext(&routine[which], &main_context);
    }
}

static void routine_make(int which)
{
    enum { BYTES = 64u << 10 };
    getcontext(&routine[which]);
    routine[which].uc_stack = (stack_t){.ss_sp = memory(BYTES), .ss_size = BYTES};
    routine[which].uc_link = &main_context;
    makecontext(&routine[which], (void (*)(void))routine_main, 1, which);
}

static void coroutines(void)
{
    on(SIGUSR1, touching, 0);
    wrong_in_handler = 0;
    routine_make(0);
    routine_make(1);
    for (int i = 0; i < 40; i++) {
        press();
        swapcontext(&main_context, &routine[i % 2]);
    }
    check(routine_right == 40 && n_seen == 40 && wrong_in_handler == 0, "stacks of coroutines, with signals on them");
    off(SIGUSR1);
}

static void *thread_main(void *arg)
{
    for (int i = 0; i < 5; i++) {
        press();
        *(int *)arg += sum() == 0;
        pthread_kill(pthread_self(), SIGUSR1);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t t[N_THREADS];
    int right[N_THREADS] = {0}, total = 0;
    on(SIGUSR1, ticking, 0);
    wrong_in_handler = 0;
    for (int own = 0; own < 2; own++) {
        pthread_attr_t attr;
        for (int i = 0; i < N_THREADS; i++) {
            pthread_attr_init(&attr);
            if (own)
                pthread_attr_setstack(&attr, memory(256u << 10), 256u << 10);
            set_mask(i % 2, SIGUSR1);
            pthread_create(&t[i], &attr, thread_main, &right[i]);
            set_mask(0, 0);
        }
        for (int i = 0; i < N_THREADS; i++)
            pthread_join(t[i], NULL);
    }
    for (int i = 0; i < N_THREADS; i++)
        total += right[i];
    check(total == 10 * N_THREADS && wrong_in_handler == 0, "threads, on stacks of libc's and of their own");
    off(SIGUSR1);
}

static void waits(void)
{
    sigset_t all_but, before;
    struct timespec long_ = {60, 0};
    sigfillset(&all_but);
    sigdelset(&all_but, SIGUSR1);
    sigemptyset(&before);
    sigaddset(&before, SIGUSR1);
    on(SIGUSR1, note, 0);
    for (int k = 0; k < 4; k++) {
        int ep = epoll_create1(EPOLL_CLOEXEC), rc;
        struct epoll_event event;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        n_seen = 0;
        raise(SIGUSR1);
        press();
        errno = 0;
        switch (k) {
        case 0: rc = sigsuspend(&all_but); break;
        case 1: rc = ppoll(NULL, 0, &long_, &all_but); break;
        case 2: rc = pselect(0, NULL, NULL, NULL, &long_, &all_but); break;
        default: rc = epoll_pwait(ep, &event, 1, 60000, &all_but);
        }
        printf("  wait %d: %d, errno %d, %d signal(s), SIGBUS %d and SIGUSR2 %d blocked\n", k, rc, errno, (int)n_seen, sigismember(&seen_mask, SIGBUS),
               sigismember(&seen_mask, SIGUSR2));
        close(ep);
    }
    set_mask(0, 0);
    off(SIGUSR1);
}

static void run_self(const char *what)
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execl(self, self, what, NULL);
        _exit(9);
    }
    waitpid(pid, &status, 0);
    printf("  ends with %x\n", (unsigned)status);
}

static void children(void)
{
    extern char **environ;
    char *argv[] = {(char *)self, "--inherited", NULL};
    int status = 0;
    pid_t pid;
    fflush(stdout);
    on(SIGUSR1, note, 0);
    on(SIGBUS, note, 0);
    if (posix_spawn(&pid, self, NULL, NULL, argv, environ) == 0)
        waitpid(pid, &status, 0);
    printf("  spawned, ends with %x\n", (unsigned)status);
    raise(SIGUSR1);
    raise(SIGBUS);
    check(n_seen == 2, "the parent's handlers stay");
    fflush(stdout);
    signal(SIGBUS, SIG_IGN);
    run_self("--inherited");
    off(SIGBUS);
    set_mask(1, 0);
    run_self("--inherited");
    set_mask(0, 0);
    off(SIGUSR1);
    check(system("exit 3") == 3 << 8, "system");
}

static int inherited(void)
{
    struct sigaction a;
    sigset_t m;
    sigaction(SIGBUS, NULL, &a);
    pthread_sigmask(SIG_BLOCK, NULL, &m);
    printf("  inherited: SIGBUS %s, %s\n", a.sa_handler == SIG_IGN ? "ignored" : a.sa_handler == SIG_DFL ? "default" : "caught",
           sigismember(&m, SIGBUS) ? "blocked" : "not blocked");
    return 0;
}

/* What is no pointer gives EFAULT, also to who blocks SIGSEGV (the kernel would end it). */
static void bad_pointers(void)
{
    const uint64_t bad[] = {8, ~0ul, ~0ul - 6, 1ul << 47, (1ul << 47) - 4, 1ul << 63};
    char *hole = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigset_t all, before;
    munmap(hole + PAGE, PAGE);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    for (unsigned i = 0; i <= sizeof bad / sizeof *bad; i++) {
        uint64_t at = i < sizeof bad / sizeof *bad ? bad[i] : (uint64_t)hole + PAGE - 4, n = 0;
        const long made[] = {
            syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, at, 8),
            syscall(SYS_rt_sigprocmask, SIG_BLOCK, at, NULL, 8),
            syscall(SYS_rt_sigprocmask, SIG_BLOCK, at, &before, 8),
            syscall(SYS_rt_sigaction, SIGUSR1, at, NULL, 8),
            syscall(SYS_rt_sigaction, SIGUSR1, NULL, at, 8),
            syscall(SYS_sigaltstack, at, NULL),
            syscall(SYS_sigaltstack, NULL, at),
            syscall(SYS_rt_sigpending, at, 8),
            syscall(SYS_rt_sigsuspend, at, 8),
            syscall(SYS_ppoll, NULL, 0, NULL, at, 8),
            syscall(SYS_pselect6, 0, NULL, NULL, NULL, NULL, at),
        };
        for (unsigned k = 0; k < sizeof made / sizeof *made; k++)
            n += made[k] == -1 && errno == EFAULT;
        printf("  %u: %u of %u\n", i, (unsigned)n, (unsigned)(sizeof made / sizeof *made));
    }
    pthread_sigmask(SIG_SETMASK, NULL, &all);
    printf("  all blocked: %s\n", sigismember(&all, SIGUSR2) && sigismember(&all, SIGBUS) ? "yes" : "NO");
    sigemptyset(&before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(hole, PAGE);
}

int main(int argc, char **argv)
{
    static const struct {
        void (*fn)(void);
        const char *name;
    } section[] = {{blocked, "blocked"},     {handlers, "handlers"},     {own_faults, "own faults"}, {endings, "endings"}, {sent, "sent"},
                   {alternate, "alternate stacks"}, {stack_taken, "alternate stacks that go"}, {calls_in_handlers, "calls in handlers"}, {coroutines, "coroutines"}, {threads, "threads"}, {waits, "waits"},     {children, "children"},
                   {bad_pointers, "bad pointers"}};
    self = argv[0];
    if (argc == 2 && strcmp(argv[1], "--inherited") == 0)
        return inherited();
    weight_pages = (argc == 3 && strcmp(argv[1], "--press") == 0 ? (size_t)atoi(argv[2]) : 0) << 8;
    weight = memory((weight_pages + 1) * PAGE);
    far = memory(FAR_PAGES * PAGE);
    for (unsigned k = 0; k < FAR_PAGES; k++)
        *(uint32_t *)(far + k * PAGE + k % 1000 * 4) = k * 2654435761u;
    for (unsigned i = 0; i < sizeof section / sizeof *section; i++) {
        printf("%s\n", section[i].name);
        fflush(stdout);
        section[i].fn();
    }
    return 0;
}
