/* Signals while faults are served inline: faults, endings, sent signals. What a handler sees is compared with what the kernel does by itself. */
#include "tests/unit/client_random.h"
#include "tests/unit/gate_handlers.h"

#include <errno.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* --- faults --------------------------------------------------------------------------------------------------------------------- */

START_TEST(faults_are_served_whatever_is_blocked)
{
    uint64_t full = ~0ull;
    start();
    ck_assert_uint_eq(touch(1), content(1));
    ck_assert_uint_eq(faults, 1);
    write_to(1, 9); /* write-protected so far */
    ck_assert_uint_eq(faults, 2);
    mask_to(full);
    ck_assert_uint_eq(mask_now(), ALL);
    ck_assert_uint_eq(mask_kernel() & BIT(SIGBUS), 0);
    ck_assert_uint_eq(touch(2), content(2));
    write_to(3, 1);
    evict(region + PAGE, 1);
    ck_assert_uint_eq(region[PAGE], 9);
    ck_assert_uint_eq(faults, 5);
    mask_to(0);
    ck_assert_uint_eq(mask_now(), 0);
}
END_TEST

static void touching(int s, siginfo_t *info, void *ctx)
{
    note_mask(s, info, ctx);
    seen.value = touch(5);
}

START_TEST(faults_are_served_in_handlers)
{
    start();
    act(SIGUSR1, touching, 0, ~0ull);
    send_self(SIGUSR1);
    ck_assert_int_eq(seen.n, 1);
    ck_assert_int_eq(seen.value, content(5));
    ck_assert_uint_eq(seen.mask, ALL);
    ck_assert_uint_eq(mask_now(), 0);
}
END_TEST

START_TEST(own_sigbus_is_told_from_faults)
{
    int fd;
    start();
    uint8_t *lost = lost_page(&fd);
    act(SIGBUS, note_and_leave, 0, 0);
    for (volatile int i = 0; i < 3; i++) {
        ck_assert_uint_eq(touch(10 + (unsigned)i), content(10 + (unsigned)i));
        if (sigsetjmp(out, 0) == 0) {
            lost[5 + i] = 1;
            ck_abort_msg("no signal");
        }
        ck_assert_uint_eq(mask_now(), BIT(SIGBUS) | BIT(SIGSTKFLT)); /* nothing has restored it */
        mask_to(0);
        ck_assert_int_eq(seen.n, i + 1);
        ck_assert_int_eq(seen.sig, SIGBUS);
        ck_assert_int_eq(seen.code, BUS_ADRERR);
        ck_assert_ptr_eq(seen.addr, lost + 5 + i);
    }
    ck_assert_uint_eq(faults, 3);
}
END_TEST

static int lost_fd;
static void mend(int s, siginfo_t *info, void *ctx)
{
    note_mask(s, info, ctx);
    ck_assert_int_eq(ftruncate(lost_fd, 2 * PAGE), 0);
    ((ucontext_t *)ctx)->uc_mcontext.gregs[REG_R15] += 5;
    *(uint64_t *)&((ucontext_t *)ctx)->uc_sigmask |= BIT(SIGUSR2);
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n movdqa %%xmm0, %%xmm15\n fldz" ::: "xmm0", "xmm15", "st");
}

START_TEST(handler_may_change_what_it_returns_to)
{
    uint64_t in[2] = {0x1234567890abcdef, 42}, r15 = 100, word = 0;
    unsigned mxcsr = __builtin_ia32_stmxcsr() | 0x8040, after;
    uint64_t xmm[2];
    start();
    uint8_t *lost = lost_page(&lost_fd);
    act(SIGBUS, mend, 0, BIT(SIGUSR1));
    __builtin_ia32_ldmxcsr(mxcsr);
    __asm__ volatile("movdqu (%[in]), %%xmm15\n mov %[r15], %%r15\n mov (%[lost]), %[word]\n mov %%r15, %[r15]\n movdqu %%xmm15, (%[xmm])"
                     : [r15] "+r"(r15), [word] "=&r"(word)
                     : [in] "r"(in), [lost] "r"(lost), [xmm] "r"(xmm)
                     : "r15", "xmm15", "memory");
    after = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80);
    ck_assert_uint_eq(r15, 105);
    ck_assert_uint_eq(word, 0);
    ck_assert_mem_eq(xmm, in, sizeof in);
    ck_assert_uint_eq(after, mxcsr);
    ck_assert_uint_eq(seen.mxcsr, 0x1f80);
    ck_assert_uint_eq(seen.frame % 16, 0);
    ck_assert_uint_eq(seen.mask, BIT(SIGBUS) | BIT(SIGSTKFLT) | BIT(SIGUSR1));
    ck_assert_uint_eq(mask_now(), BIT(SIGUSR2));
}
END_TEST

/* --- endings --------------------------------------------------------------------------------------------------------------------- */

static int dying_fd;
static void die_touching(void)
{
    *lost_page(&dying_fd) = 1;
}
static void die_blocked(void)
{
    act(SIGBUS, note, 0, 0);
    mask_to(~0ull);
    die_touching();
}
static void die_ignoring(void)
{
    act(SIGBUS, SIG_IGN, 0, 0);
    send_self(SIGBUS);
    kill(getpid(), SIGBUS);
    die_touching();
}
static void die_sent(void)
{
    send_self(SIGBUS);
}
static void die_sent_later(void)
{
    mask_to(BIT(SIGBUS));
    send_self(SIGBUS);
    seen.value = touch(0);
    mask_to(0);
}
static void nested(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    die_touching();
}
static void die_nested(void)
{
    act(SIGBUS, nested, 0, 0);
    die_touching();
}
static void die_once(void)
{
    act(SIGBUS, nested, SA_RESETHAND | SA_NODEFER, 0);
    die_touching();
}
static void die_segv(void)
{
    volatile uint64_t at = NO_POINTER;
    *(volatile int *)at = 1;
}
static void die_stkflt(void)
{
    send_self(SIGSTKFLT);
}
static void die_without_restorer(void)
{
    struct action a = act_with(note, 0, 0);
    a.flags &= ~0x04000000ul;
    CALL(SYS_rt_sigaction, SIGUSR1, &a, 0, 8);
    send_self(SIGUSR1);
}
static void die_usr1_reset(void)
{
    act(SIGUSR1, note, SA_RESETHAND, 0);
    send_self(SIGUSR1);
    if (seen.n == 1)
        send_self(SIGUSR1);
}

static const struct {
    void (*fn)(void);
    int sig;
} endings[] = {{die_touching, SIGBUS}, {die_blocked, SIGBUS},    {die_ignoring, SIGBUS}, {die_sent, SIGBUS},
               {die_sent_later, SIGBUS}, {die_nested, SIGBUS},   {die_once, SIGBUS},     {die_segv, SIGSEGV},
               {die_stkflt, SIGSTKFLT}, {die_without_restorer, SIGSEGV}, {die_usr1_reset, SIGUSR1}};

START_TEST(endings_are_the_native_ones)
{
    start();
    check_killed(endings[_i].fn, endings[_i].sig);
}
END_TEST

/* --- sent signals ------------------------------------------------------------------------------------------------------------------ */

START_TEST(sent_sigbus_arrives_with_its_sender)
{
    start();
    act(SIGBUS, note_mask, 0, BIT(SIGUSR1));
    kill(getpid(), SIGBUS);
    ck_assert_int_eq(seen.n, 1);
    ck_assert_int_eq(seen.sig, SIGBUS);
    ck_assert_int_eq(seen.code, SI_USER);
    ck_assert_int_eq(seen.pid, getpid());
    ck_assert_uint_eq(seen.mask, BIT(SIGBUS) | BIT(SIGSTKFLT) | BIT(SIGUSR1));
    ck_assert_uint_eq(mask_now(), 0);
    ck_assert_int_eq(sigqueue(getpid(), SIGBUS, (union sigval){.sival_int = 77}), 0);
    ck_assert_int_eq(seen.n, 2);
    ck_assert_int_eq(seen.code, SI_QUEUE);
    ck_assert_int_eq(seen.value, 77);
}
END_TEST

START_TEST(sent_sigbus_waits_while_it_is_blocked)
{
    uint64_t pending = 0;
    start();
    act(SIGBUS, note, 0, 0);
    mask_to(BIT(SIGBUS));
    ck_assert_int_eq(sigqueue(getpid(), SIGBUS, (union sigval){.sival_int = 5}), 0);
    ck_assert_int_eq(seen.n, 0);
    ck_assert_int_eq(CALL(SYS_rt_sigpending, &pending, 8, 0, 0), 0);
    ck_assert(pending & BIT(SIGBUS));
    ck_assert_uint_eq(touch(4), content(4));
    mask_to(0);
    ck_assert_int_eq(seen.n, 1);
    ck_assert_int_eq(seen.sig, SIGBUS);
    ck_assert_int_eq(seen.code, SI_QUEUE);
    ck_assert_int_eq(seen.value, 5);

    mask_to(BIT(SIGBUS));
    send_self(SIGBUS);
    act(SIGBUS, SIG_IGN, 0, 0); /* drops it */
    act(SIGBUS, note, 0, 0);
    mask_to(0);
    ck_assert_int_eq(seen.n, 1);
    /* SIGSTKFLT itself is a signal as any other. */
    act(SIGSTKFLT, note, 0, 0);
    send_self(SIGSTKFLT);
    ck_assert_int_eq(seen.n, 2);
    ck_assert_int_eq(seen.sig, SIGSTKFLT);
}
END_TEST

START_TEST(nodefer_decides_about_nesting)
{
    static const int sigs[] = {SIGBUS, SIGUSR1, SIGSEGV, SIGSTKFLT};
    start();
    for (int k = 0; k < 4; k++)
        for (int nodefer = 0; nodefer < 2; nodefer++) {
            seen.n = seen.deepest = 0;
            act(sigs[k], again, nodefer ? SA_NODEFER : 0, 0);
            send_self(sigs[k]);
            ck_assert_int_eq(seen.n, 4);
            ck_assert_int_eq(seen.deepest, nodefer ? 4 : 1);
            ck_assert_uint_eq(mask_now(), 0);
        }
}
END_TEST

static pid_t interrupter;
static void interrupt_soon(int s)
{
    pid_t parent = getpid();
    interrupter = fork();
    if (interrupter == 0) {
        usleep(50000);
        kill(parent, s);
        usleep(50000);
        kill(parent, SIGUSR2);
        _exit(0);
    }
}

static int pipe_fd[2];
static void feed(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    ck_assert_int_eq(write(pipe_fd[1], "x", 1), 1);
}

START_TEST(calls_are_restarted_or_not)
{
    static const int sigs[] = {SIGUSR1, SIGBUS};
    char c;
    start();
    act(SIGUSR2, feed, SA_RESTART, 0);
    for (int k = 0; k < 2; k++)
        for (int restart = 0; restart < 2; restart++) {
            ck_assert_int_eq(pipe(pipe_fd), 0);
            act(sigs[k], note, restart ? SA_RESTART : 0, 0);
            interrupt_soon(sigs[k]);
            ck_assert_int_eq(eg_sys3(SYS_read, pipe_fd[0], &c, 1), restart ? 1 : -EINTR);
            waitpid(interrupter, NULL, 0);
            close(pipe_fd[0]);
            close(pipe_fd[1]);
        }
}
END_TEST

/* --- all at once ------------------------------------------------------------------------------------------------------------------------ */

static void storm(int s, siginfo_t *info, void *ctx)
{
    (void)s;
    (void)info;
    (void)ctx;
    seen.n++;
    unsigned page = 8 + (unsigned)seen.n % (PAGES - 8);
    seen.value += touch(page) != content(page);
    __asm__ volatile("pxor %%xmm3, %%xmm3" ::: "xmm3");
}

START_TEST(timer_among_faults)
{
    struct random_state r = {5};
    struct itimerval every = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
    stack_t s = {.ss_sp = region, .ss_size = 8 * PAGE};
    start();
    s.ss_sp = region;
    ck_assert_int_eq(CALL(SYS_sigaltstack, &s, 0, 0, 0), 0);
    act(SIGALRM, storm, SA_ONSTACK | SA_RESTART, 0);
    setitimer(ITIMER_REAL, &every, NULL);
    while (seen.n < 1000) {
        unsigned page = 8 + (unsigned)(random_u64(&r) % (PAGES - 8));
        uint64_t word = random_u64(&r), back;
        __asm__ volatile("movq %[w], %%xmm3\n movzbl (%[at]), %%eax\n movq %%xmm3, %[b]" : [b] "=r"(back) : [w] "r"(word), [at] "r"(region + page * PAGE) : "rax", "xmm3", "memory");
        ck_assert_uint_eq(back, word);
        ck_assert_uint_eq(touch(page), content(page));
        uint64_t alarm_ = BIT(SIGALRM);
        CALL(SYS_rt_sigprocmask, SIG_BLOCK, &alarm_, 0, 8);
        evict(region, PAGES);
        CALL(SYS_rt_sigprocmask, SIG_UNBLOCK, &alarm_, 0, 8);
    }
    setitimer(ITIMER_REAL, &off, NULL);
    ck_assert_uint_gt(faults, 1000);
    ck_assert_int_eq(seen.value, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gate_signals");
    TCase *tc = unit_case(suite, "signals", 60);
    tcase_add_test(tc, faults_are_served_whatever_is_blocked);
    tcase_add_test(tc, faults_are_served_in_handlers);
    tcase_add_test(tc, own_sigbus_is_told_from_faults);
    tcase_add_test(tc, handler_may_change_what_it_returns_to);
    tcase_add_loop_test(tc, endings_are_the_native_ones, 0, sizeof endings / sizeof *endings);
    tcase_add_test(tc, sent_sigbus_arrives_with_its_sender);
    tcase_add_test(tc, sent_sigbus_waits_while_it_is_blocked);
    tcase_add_test(tc, nodefer_decides_about_nesting);
    tcase_add_test(tc, calls_are_restarted_or_not);
    tcase_add_test(tc, timer_among_faults);
    return unit_run(suite);
}
