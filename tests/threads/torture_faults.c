/* torture_faults.c - faults that a handler repairs, by mapping or by other registers, exceptions, breakpoints, stacks that end on an alternate one. See
 * torture.h for the command line. */
#include "torture_handlers.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <ucontext.h>
#include <unistd.h>

static unsigned char *guarded;
static size_t guarded_len;
static atomic_int faults, wrong_faults;

static void repair(int signal, siginfo_t *info, void *context)
{
    const int saved = errno;
    unsigned char *at = info->si_addr;
    (void)context;
    if (signal != SIGSEGV || info->si_code != SEGV_ACCERR || at < guarded || at >= guarded + guarded_len) {
        complain(__FILE__, __LINE__, "signal %d, code %d, address %p, wanted SIGSEGV in %p + %zu", signal, info->si_code, (void *)at, (void *)guarded,
                 guarded_len);
    }
    atomic_fetch_add(&faults, 1);
    at -= (uintptr_t)at % PAGE;
    if (mprotect(at, PAGE, PROT_READ | PROT_WRITE) < 0)
        atomic_fetch_add(&wrong_faults, 1);
    errno = saved;
}

/* Each thread has pages of its own in the range. */
static void repair_body(struct member *me)
{
    const size_t n_pages = guarded_len / PAGE / (size_t)me->of;
    unsigned char *const base = guarded + (size_t)me->number * n_pages * PAGE;
    for (int round = 0; round < 2; round++) {
        errno = 77;
        for (size_t p = 0; p < n_pages; p++) {
            volatile uint64_t *word = (void *)(base + p * PAGE + 64 * (p % 8));
            if (round == 0)
                *word = mix((uint64_t)me->number * 100 + p); /* a write fault */
            CHECK(*word == mix((uint64_t)me->number * 100 + p), "page %zu of thread %d lost its content", p, me->number);
        }
        EQUAL(errno, 77);
        SYS(mprotect(base, n_pages * PAGE, PROT_NONE)); /* then read faults */
    }
}

static void repair_by_mprotect(void)
{
    const int n = threads(3);
    const size_t each = 6;
    guarded_len = (size_t)n * each * PAGE;
    guarded = mmap(NULL, guarded_len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(guarded != MAP_FAILED, "mmap: %s", strerror(errno));
    faults = wrong_faults = 0;
    handle(SIGSEGV, repair, 0);
    crew_run(n, repair_body, NULL);
    EQUAL(wrong_faults, 0);
    EQUAL(faults, 2 * n * (int)each);
    unhandle(SIGSEGV);
    SYS(munmap(guarded, guarded_len));
    result("%d", faults);
}

/* A handler that changes the registers: the access is skipped, or gets a value. */
extern const char fault_at[], fault_after[];

static void skip_access(int signal, siginfo_t *info, void *context)
{
    ucontext_t *const uc = context;
    if (signal != SIGSEGV || info->si_code != SEGV_MAPERR || info->si_addr != (void *)0x5000 || uc->uc_mcontext.gregs[REG_RIP] != (greg_t)fault_at)
        complain(__FILE__, __LINE__, "signal %d, code %d, address %p, at %p, wanted SIGSEGV for 0x5000 at %p", signal, info->si_code, info->si_addr,
                 (void *)uc->uc_mcontext.gregs[REG_RIP], (const void *)fault_at);
    if (uc->uc_mcontext.gregs[REG_R13] != 0x1234567)
        complain(__FILE__, __LINE__, "r13 is 0x%llx in the handler", (long long)uc->uc_mcontext.gregs[REG_R13]);
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)fault_after;
    uc->uc_mcontext.gregs[REG_RAX] = gettid();
    uc->uc_mcontext.gregs[REG_R12] = 99;
}

__attribute__((noinline)) static void registers_body(struct member *me)
{
    const int n = rounds(20);
    (void)me;
    for (int i = 0; i < n; i++) {
        register uint64_t r12 __asm__("r12") = 5;
        register uint64_t r13 __asm__("r13") = 0x1234567;
        uint64_t value = 0x5000;
        __asm__ volatile(".globl fault_at, fault_after\n"
                         "fault_at: mov (%%rax), %%rax\n"
                         "fault_after:"
                         : "+a"(value), "+r"(r12), "+r"(r13)
                         :
                         : "memory", "cc");
        EQUAL(value, gettid());
        EQUAL(r12, 99);
        EQUAL(r13, 0x1234567);
    }
}

static void changed_registers(void)
{
    handle(SIGSEGV, skip_access, 0);
    crew_run(threads(2), registers_body, NULL);
    unhandle(SIGSEGV);
}

/* Other exceptions: division, illegal instruction, breakpoint. */
#define RAISES(signal_wanted, code_wanted, statement)                          \
    do {                                                                       \
        last_signal = 0;                                                       \
        if (!sigsetjmp(escape, 1)) {                                           \
            statement;                                                         \
            complain(__FILE__, __LINE__, "%s raised nothing", #statement);     \
        }                                                                      \
        EQUAL(last_signal, signal_wanted);                                     \
        EQUAL(last_code, code_wanted);                                         \
    } while (0)

static void divide_by_zero(void)
{
    int quotient = 7, rest = 0;
    __asm__ volatile("idivl %2" : "+a"(quotient), "+d"(rest) : "r"(0) : "cc");
}

static void exceptions_body(struct member *me)
{
    const int n = rounds(10);
    volatile int *volatile nowhere = (int *)8;
    sigset_t before, after;
    (void)me;
    OK(pthread_sigmask(SIG_SETMASK, NULL, &before));
    for (volatile int i = 0; i < n; i++) {
        RAISES(SIGFPE, FPE_INTDIV, divide_by_zero());
        RAISES(SIGILL, ILL_ILLOPN, __asm__ volatile("ud2"));
        RAISES(SIGSEGV, SEGV_MAPERR, *nowhere = 1);
        RAISES(SIGSEGV, SI_KERNEL, *(volatile int *)(0x8000ull << 48) = 1);
        OK(pthread_sigmask(SIG_SETMASK, NULL, &after));
        CHECK(!memcmp(&before, &after, sizeof(uint64_t)), "the mask is another one after siglongjmp");
    }
}

static void exceptions(void)
{
    static const int signals[] = {SIGFPE, SIGILL, SIGSEGV};
    for (size_t i = 0; i < COUNT_OF(signals); i++)
        handle(signals[i], jump_out, 0);
    crew_run(threads(3), exceptions_body, NULL);
    for (size_t i = 0; i < COUNT_OF(signals); i++)
        unhandle(signals[i]);
}

/* int3 is met behind the instruction, rdtsc may be forbidden, and the calls of 32-bit programs have other numbers. */
static __thread volatile sig_atomic_t n_traps;

static void count_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    (void)context;
    n_traps++;
}

static void breakpoints_body(struct member *me)
{
    const int n = rounds(10);
    (void)me;
    for (int i = 0; i < n; i++) {
        __asm__ volatile("int3");
        EQUAL(n_traps, i + 1);
    }
}

static void forbidden_body(struct member *me)
{
    (void)me;
    OK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
    RAISES(SIGSEGV, SI_KERNEL, __builtin_ia32_rdtsc());
    OK(prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0));
}

static void old_calls_body(struct member *me)
{
    long pid = 20; /* getpid's number there */
    (void)me;
    if (sigsetjmp(escape, 1))
        return; /* this kernel has none */
    __asm__ volatile("int $0x80" : "+a"(pid) : : "memory", "r8", "r9", "r10", "r11");
    EQUAL(pid, getpid());
}

static void breakpoints(void)
{
    handle(SIGTRAP, count_trap, 0);
    handle(SIGSEGV, jump_out, 0);
    crew_run(threads(2), breakpoints_body, NULL);
    crew_run(threads(2), forbidden_body, NULL);
    crew_run(threads(2), old_calls_body, NULL);
    unhandle(SIGTRAP);
    unhandle(SIGSEGV);
}

/* ---- alternate stacks --------------------------------------------------------------------------------------------------- */

static __thread unsigned char *own_alternate;
static const size_t alternate_len = 64 << 10;
static atomic_int on_alternate;

static void overflow_handler(int signal, siginfo_t *info, void *context)
{
    unsigned char here = 0;
    stack_t stack;
    (void)info;
    (void)context;
    if (&here < own_alternate || &here >= own_alternate + alternate_len)
        complain(__FILE__, __LINE__, "the handler runs at %p, not on the alternate stack at %p", (void *)&here, (void *)own_alternate);
    if (sigaltstack(NULL, &stack) < 0 || !(stack.ss_flags & SS_ONSTACK) || stack.ss_sp != own_alternate)
        complain(__FILE__, __LINE__, "sigaltstack in the handler: flags %d, %p", stack.ss_flags, stack.ss_sp);
    atomic_fetch_add(&on_alternate, 1);
    if (signal == SIGSEGV)
        siglongjmp(escape, 1);
}

static void alternate_body(struct member *me)
{
    volatile int depth;
    (void)me;
    own_alternate = NOT_NULL(malloc(alternate_len));
    const stack_t stack = {.ss_sp = own_alternate, .ss_size = alternate_len};
    stack_t old;
    SYS(sigaltstack(&stack, &old));
    CHECK(old.ss_flags & SS_DISABLE, "a new thread has an alternate stack");
    for (volatile int i = 0; i < 3; i++) {
        depth = 0;
        if (!sigsetjmp(escape, 1))
            overflow(&depth); /* the thread's stack ends */
        CHECK(depth > 10, "the stack ended at depth %d", depth);
        SYS(raise(SIGUSR1));
        SYS(sigaltstack(NULL, &old));
        EQUAL(old.ss_flags, 0);
    }
    const stack_t none = {.ss_flags = SS_DISABLE};
    SYS(sigaltstack(&none, NULL));
    free(own_alternate);
}

static void alternate_stacks(void)
{
    const int n = threads(3);
    pthread_attr_t attr;
    struct member crew[1000];
    on_alternate = 0;
    handle(SIGSEGV, overflow_handler, SA_ONSTACK);
    handle(SIGUSR1, overflow_handler, SA_ONSTACK);
    OK(pthread_attr_init(&attr));
    OK(pthread_attr_setstacksize(&attr, 256 << 10));
    for (int i = 0; i < n; i++) {
        crew[i] = (struct member){.number = i, .of = n, .body = alternate_body};
        OK(pthread_create(&crew[i].id, &attr, crew_main, &crew[i]));
    }
    for (int i = 0; i < n; i++)
        OK(pthread_join(crew[i].id, NULL));
    OK(pthread_attr_destroy(&attr));
    EQUAL(on_alternate, 6 * n);
    unhandle(SIGSEGV);
    unhandle(SIGUSR1);
    result("%d", on_alternate);
}

static const struct sub_test tests[] = {
    {"repair_by_mprotect", repair_by_mprotect, "a SIGSEGV handler that makes pages accessible"},
    {"changed_registers", changed_registers, "a SIGSEGV handler that changes registers"},
    {"exceptions", exceptions, "SIGFPE, SIGILL, SIGSEGV, left by siglongjmp"},
    {"breakpoints", breakpoints, "int3, forbidden instructions, int 0x80"},
    {"alternate_stacks", alternate_stacks, "stack overflow handled on an alternate stack"},
};

TORTURE_MAIN(tests)
