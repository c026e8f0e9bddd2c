/* torture_visit.c - threads that go elsewhere on their way: the first thread and another wait for each other by reading a word again and again, and make no
 * call by which one could join the other; and some that compute are left without a slot. See torture.h for the command line; a round is one turn of each. */
#include "torture.h"

#include <fenv.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#define SPINS 4000 /* then the processor is the other one's, if both have only one; a thread goes nowhere from sched_yield */

static struct {
    _Alignas(4096) atomic_int turn; /* whose turn it is: all turns there were */
    uint64_t count;
} shared;

/* The other one: it takes each second turn. */
static void partner_body(struct member *me)
{
    const int n = *(const int *)me->shared;
    for (int i = 0; i < n; i++) {
        for (unsigned spins = 1; atomic_load(&shared.turn) != 2 * i + 1; spins++) {
            __builtin_ia32_pause();
            if (spins % SPINS == 0)
                sched_yield();
        }
        shared.count += 3;
        atomic_store(&shared.turn, 2 * i + 2);
    }
}

/* Waits a while for *at to be wanted, with known values in nearly all registers. */
__attribute__((noinline)) static void look_holding(const atomic_int *at, int wanted, uint64_t key)
{
    uint64_t in[10 + 32], out[10 + 32];
    fill_bytes(in, sizeof in, key);
    __asm__ volatile(
        "push %%rbp\n\tmov %[spins], %%ebp\n\t"
        "mov 0(%[in]), %%rbx\n\tmov 8(%[in]), %%rcx\n\tmov 16(%[in]), %%r8\n\tmov 24(%[in]), %%r9\n\tmov 32(%[in]), %%r10\n\t"
        "mov 40(%[in]), %%r11\n\tmov 48(%[in]), %%r12\n\tmov 56(%[in]), %%r13\n\tmov 64(%[in]), %%r14\n\tmov 72(%[in]), %%r15\n\t"
        "movdqu 80(%[in]), %%xmm0\n\tmovdqu 96(%[in]), %%xmm1\n\tmovdqu 112(%[in]), %%xmm2\n\tmovdqu 128(%[in]), %%xmm3\n\t"
        "movdqu 144(%[in]), %%xmm4\n\tmovdqu 160(%[in]), %%xmm5\n\tmovdqu 176(%[in]), %%xmm6\n\tmovdqu 192(%[in]), %%xmm7\n\t"
        "movdqu 208(%[in]), %%xmm8\n\tmovdqu 224(%[in]), %%xmm9\n\tmovdqu 240(%[in]), %%xmm10\n\tmovdqu 256(%[in]), %%xmm11\n\t"
        "movdqu 272(%[in]), %%xmm12\n\tmovdqu 288(%[in]), %%xmm13\n\tmovdqu 304(%[in]), %%xmm14\n\tmovdqu 320(%[in]), %%xmm15\n\t"
        "1: cmp %[wanted], (%[at])\n\tje 2f\n\tpause\n\tdec %%ebp\n\tjnz 1b\n\t"
        "2: mov %[out], %[at]\n\t"
        "mov %%rbx, 0(%[at])\n\tmov %%rcx, 8(%[at])\n\tmov %%r8, 16(%[at])\n\tmov %%r9, 24(%[at])\n\tmov %%r10, 32(%[at])\n\t"
        "mov %%r11, 40(%[at])\n\tmov %%r12, 48(%[at])\n\tmov %%r13, 56(%[at])\n\tmov %%r14, 64(%[at])\n\tmov %%r15, 72(%[at])\n\t"
        "movdqu %%xmm0, 80(%[at])\n\tmovdqu %%xmm1, 96(%[at])\n\tmovdqu %%xmm2, 112(%[at])\n\tmovdqu %%xmm3, 128(%[at])\n\t"
        "movdqu %%xmm4, 144(%[at])\n\tmovdqu %%xmm5, 160(%[at])\n\tmovdqu %%xmm6, 176(%[at])\n\tmovdqu %%xmm7, 192(%[at])\n\t"
        "movdqu %%xmm8, 208(%[at])\n\tmovdqu %%xmm9, 224(%[at])\n\tmovdqu %%xmm10, 240(%[at])\n\tmovdqu %%xmm11, 256(%[at])\n\t"
        "movdqu %%xmm12, 272(%[at])\n\tmovdqu %%xmm13, 288(%[at])\n\tmovdqu %%xmm14, 304(%[at])\n\tmovdqu %%xmm15, 320(%[at])\n\t"
        "pop %%rbp"
        : [at] "+D"(at)
        : [in] "S"(in), [out] "d"(out), [wanted] "a"(wanted), [spins] "i"(SPINS)
        : "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
          "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
    CHECK_BYTES(out, sizeof out, key);
}

static void wait_holding(const atomic_int *at, int wanted, uint64_t key)
{
    for (look_holding(at, wanted, key); atomic_load(at) != wanted; look_holding(at, wanted, key))
        sched_yield();
}

/* All turns, with something done in each of the first thread's. */
static void turns(int n, void (*each)(int turn))
{
    atomic_store(&shared.turn, 0);
    shared.count = 0;
    struct member *crew = crew_start(1, partner_body, &n);
    for (int i = 0; i < n; i++) {
        wait_holding(&shared.turn, 2 * i, (uint64_t)i);
        shared.count += 5;
        if (each)
            each(i);
        atomic_store(&shared.turn, 2 * i + 1);
    }
    crew_join(crew);
    EQUAL(shared.count, n * 8);
}

/* ---- what a thread has is the same afterwards ---------------------------------------------------------------------------------- */

static void registers(void)
{
    char alternate[SIGSTKSZ];
    const stack_t mine = {.ss_sp = alternate, .ss_size = sizeof alternate};
    const pid_t tid = gettid();
    sigset_t some, mask;
    stack_t now;
    struct sigaction before[NSIG], after;
    for (int s = 1; s < NSIG; s++)
        if (s != 32 && s != 33)
            SYS(sigaction(s, NULL, &before[s]));
    sigemptyset(&some);
    sigaddset(&some, SIGUSR2);
    OK(pthread_sigmask(SIG_SETMASK, &some, NULL));
    SYS(sigaltstack(&mine, NULL));
    OK(fesetround(FE_TOWARDZERO));
    turns(rounds(3000), NULL);
    EQUAL(fegetround(), FE_TOWARDZERO);
    OK(fesetround(FE_TONEAREST));
    EQUAL(gettid(), tid);
    SYS(sigaltstack(NULL, &now));
    CHECK(now.ss_sp == alternate && now.ss_size == sizeof alternate && now.ss_flags == 0, "another alternate stack");
    now.ss_flags = SS_DISABLE;
    SYS(sigaltstack(&now, NULL));
    sigemptyset(&some);
    OK(pthread_sigmask(SIG_SETMASK, &some, &mask));
    for (int s = 1; s < NSIG; s++)
        EQUAL(sigismember(&mask, s) > 0, s == SIGUSR2);
    for (int s = 1; s < NSIG; s++)
        if (s != 32 && s != 33) {
            SYS(sigaction(s, NULL, &after));
            CHECK(after.sa_handler == before[s].sa_handler, "signal %d has another handler", s);
        }
}

/* ---- no call of a thread that handles no signals is interrupted ----------------------------------------------------------------- */

static int ends[2];

static void calls_each(int turn)
{
    const struct timespec moment = {0, 50000};
    char byte = (char)turn;
    if (turn % 4 == 1)
        SYS(nanosleep(&moment, NULL)); /* EINTR, if anything came */
    if (turn % 4 == 3) {
        EQUAL(SYS(write(ends[1], &byte, 1)), 1);
        EQUAL(SYS(read(ends[0], &byte, 1)), 1);
        EQUAL(byte, (char)turn);
    }
}

static void calls(void)
{
    SYS(pipe(ends));
    turns(rounds(3000), calls_each);
    SYS(close(ends[0]));
    SYS(close(ends[1]));
}

/* ---- signals of the program's arrive, with its mask ------------------------------------------------------------------------------- */

static volatile sig_atomic_t alarms, wrong;

static void on_alarm(int signal)
{
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    wrong += sigismember(&mask, signal) != 1 || sigismember(&mask, SIGUSR1) != 1 || sigismember(&mask, SIGUSR2) != 0;
    alarms = alarms + 1;
}

static void signals(void)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    const struct itimerval often = {{0, 7000}, {0, 7000}}, never = {0};
    sigaddset(&action.sa_mask, SIGUSR1);
    SYS(sigaction(SIGALRM, &action, NULL));
    alarms = 0;
    SYS(setitimer(ITIMER_REAL, &often, NULL));
    turns(rounds(3000), NULL);
    while (alarms < 3)
        sleep_ms(1);
    SYS(setitimer(ITIMER_REAL, &never, NULL));
    EQUAL(wrong, 0);
    signal(SIGALRM, SIG_DFL);
}

/* ---- every signal is the program's ---------------------------------------------------------------------------------------------- */

static atomic_int got;

static void on_signal(int signal)
{
    (void)signal;
    atomic_fetch_add(&got, 1);
}

static void own_each(int turn)
{
    if (turn % 64 == 63)
        OK(pthread_kill(pthread_self(), SIGSTKFLT));
}

static void own_handler(void)
{
    const int n = rounds(700);
    struct sigaction now;
    signal(SIGSTKFLT, on_signal);
    turns(n, own_each);
    EQUAL(got, n / 64);
    SYS(sigaction(SIGSTKFLT, NULL, &now));
    CHECK(now.sa_handler == on_signal, "another handler");
    signal(SIGSTKFLT, SIG_DFL);
}

static void blocked(void)
{
    sigset_t all, old;
    sigfillset(&all);
    OK(pthread_sigmask(SIG_SETMASK, &all, &old));
    turns(rounds(400), NULL);
    OK(pthread_sigmask(SIG_SETMASK, &old, NULL));
}

static void by_default_each(int turn)
{
    int status;
    if (turn % 1000 != 999)
        return;
    fflush(NULL);
    const pid_t child = SYS(fork());
    if (child == 0) {
        raise(SIGSTKFLT);
        _exit(0);
    }
    SYS(waitpid(child, &status, 0));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSTKFLT, "SIGSTKFLT gave status 0x%x", status);
}

static void by_default(void)
{
    turns(rounds(3000), by_default_each);
}

/* ---- half of the threads end early --------------------------------------------------------------------------------------------------- */

static void unequal_body(struct member *me)
{
    const struct timespec end = after_ms(CLOCK_MONOTONIC, me->number % 2 ? 100 : 1600);
    double x = 1 + me->number;
    for (uint64_t i = 1; i % 4096 || !not_before(CLOCK_MONOTONIC, end); i++) {
        x = x * 0.5 + (double)(i % 7);
        CHECK(x > 0 && x < 20, "wrong: %g", x);
    }
}

static void unequal(void)
{
    crew_run(threads(6), unequal_body, NULL);
}

static const struct sub_test tests[] = {
    {"registers", registers, "registers, mask, alternate stack, handlers"},
    {"calls", calls, "blocking calls in between are not interrupted"},
    {"signals", signals, "a timer's signals in between"},
    {"own_handler", own_handler, "SIGSTKFLT has a handler"},
    {"blocked", blocked, "all signals are blocked"},
    {"unequal", unequal, "half of the threads end early"},
    {"by_default", by_default, "SIGSTKFLT ends a child"},
};

TORTURE_MAIN(tests)
