/* Signals while faults are served inline: stacks, and what is shown of actions and masks, to threads and children, too. */
#include "tests/unit/gate_handlers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* --- stacks ------------------------------------------------------------------------------------------------------------------------- */

static stack_t alt_now(void)
{
    stack_t s;
    memset(&s, 0x5a, sizeof s);
    ck_assert_int_eq(CALL(SYS_sigaltstack, 0, &s, 0, 0), 0);
    return s;
}

static int holds(const void *p, size_t bytes, uint64_t at)
{
    return at - (uint64_t)p < bytes;
}

static volatile int alt_flags, alt_refused;
static void *volatile outer_sp;
static void on_alt(int s, siginfo_t *info, void *ctx)
{
    stack_t off = {.ss_flags = SS_DISABLE};
    note(s, info, ctx);
    alt_flags = alt_now().ss_flags;
    alt_refused = (int)CALL(SYS_sigaltstack, &off, 0, 0, 0);
    evict(region, 4); /* this stack's own lower pages */
    seen.value = touch(40);
    if (s == SIGUSR1) {
        outer_sp = __builtin_frame_address(0);
        send_self(SIGUSR2);
        ck_assert(seen.sp < (uint64_t)outer_sp);
    }
}

START_TEST(alternate_stack_is_the_programs)
{
    int here;
    stack_t s, tiny = {.ss_sp = region, .ss_size = 2047}, odd = {.ss_sp = region, .ss_flags = 8, .ss_size = 8192};
    start();
    s = alt_now();
    ck_assert_int_eq(s.ss_flags, SS_DISABLE);
    ck_assert_uint_eq(s.ss_size, 0);
    ck_assert_ptr_null(s.ss_sp);
    act(SIGUSR1, note, SA_ONSTACK, 0);
    send_self(SIGUSR1); /* none: the normal one */
    ck_assert(seen.sp < (uint64_t)&here && (uint64_t)&here - seen.sp < 64u << 10);

    ck_assert_int_eq(CALL(SYS_sigaltstack, &tiny, 0, 0, 0), -ENOMEM);
    ck_assert_int_eq(CALL(SYS_sigaltstack, &odd, 0, 0, 0), -EINVAL);
    ck_assert_int_eq(CALL(SYS_sigaltstack, NO_POINTER, 0, 0, 0), -EFAULT);
    ck_assert_int_eq(CALL(SYS_sigaltstack, 0, NO_POINTER, 0, 0), -EFAULT);
    s = (stack_t){.ss_sp = region, .ss_size = 8 * PAGE}; /* nothing of it is here */
    ck_assert_int_eq(CALL(SYS_sigaltstack, &s, 0, 0, 0), 0);
    s = alt_now();
    ck_assert_int_eq(s.ss_flags, 0);
    ck_assert_uint_eq(s.ss_size, 8 * PAGE);
    ck_assert_ptr_eq(s.ss_sp, region);
    act(SIGUSR1, on_alt, SA_ONSTACK, 0);
    act(SIGUSR2, on_alt, SA_ONSTACK, 0);
    send_self(SIGUSR1);
    ck_assert_int_eq(seen.n, 3);
    ck_assert(holds(region, 8 * PAGE, seen.sp) && holds(region, 8 * PAGE, (uint64_t)outer_sp));
    ck_assert_int_eq(alt_flags, SS_ONSTACK);
    ck_assert_int_eq(alt_refused, -EPERM);
    ck_assert_int_eq(seen.value, content(40));
    act(SIGUSR1, note, 0, 0); /* does not want it */
    send_self(SIGUSR1);
    ck_assert(!holds(region, 8 * PAGE, seen.sp));
    s = (stack_t){.ss_flags = SS_DISABLE};
    ck_assert_int_eq(CALL(SYS_sigaltstack, &s, 0, 0, 0), 0);
    ck_assert_int_eq(alt_now().ss_flags, SS_DISABLE);
    eg_sys2(SYS_sigaltstack, 0, &s);
    ck_assert_int_eq(s.ss_flags, 0); /* the runtime's own, all the time */
}
END_TEST

static volatile int recursion;
static void recurse(int s, siginfo_t *info, void *ctx)
{
    (void)info;
    (void)ctx;
    recursion++;
    send_self(s);
}
static void die_overflowing(void)
{
    stack_t s = {.ss_sp = region, .ss_size = 8 * PAGE};
    CALL(SYS_sigaltstack, &s, 0, 0, 0);
    act(SIGUSR1, recurse, SA_ONSTACK | SA_NODEFER, 0);
    send_self(SIGUSR1);
}
static void deeper(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    _exit(s == SIGSEGV && info->si_code == SI_KERNEL && holds(region, 8 * PAGE, seen.sp) ? 42 : 43);
}
/* No stack at all under the stack pointer: SIGSEGV's handler has one. */
static void exit_by_segv_handler(void)
{
    stack_t s = {.ss_sp = region, .ss_size = 8 * PAGE};
    uint8_t *wall = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(wall + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    CALL(SYS_sigaltstack, &s, 0, 0, 0);
    act(SIGUSR1, note, 0, 0);
    act(SIGSEGV, deeper, SA_ONSTACK, 0);
    uint64_t pid = (uint64_t)getpid(), tid = (uint64_t)eg_sys0(SYS_gettid);
    __asm__ volatile("mov %0, %%rsp\n mov $234, %%eax\n syscall\n ud2" ::"r"(wall + 3 * PAGE + 64), "D"(pid), "S"(tid), "d"((uint64_t)SIGUSR1) : "rax", "rcx", "r11", "memory");
}
START_TEST(stack_that_is_full_is_sigsegv)
{
    start();
    check_killed(die_overflowing, SIGSEGV);
    int status = ending(exit_by_segv_handler);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 42, "status %x", (unsigned)status);
}
END_TEST

static ucontext_t main_context, coroutine;
static void coroutine_main(void)
{
    for (int i = 0; i < 50; i++) {
        uint8_t *page = (uint8_t *)((uint64_t)__builtin_frame_address(0) & ~(PAGE - 1ul));
        evict(region, (unsigned)(page - region) / PAGE); /* all below the current page */
        send_self(SIGUSR1);
        seen.value += touch(50) == content(50);
        evict(region + 50 * PAGE, 1);
        swapcontext(&coroutine, &main_context);
    }
}

START_TEST(stacks_of_coroutines_may_be_away)
{
    start();
    seen.value = 0;
    act(SIGUSR1, again, 0, 0);
    seen.n = 100; /* once each */
    getcontext(&coroutine);
    coroutine.uc_stack = (stack_t){.ss_sp = region, .ss_size = 16 * PAGE};
    coroutine.uc_link = &main_context;
    makecontext(&coroutine, coroutine_main, 0);
    int served = 0;
    for (int i = 0; i < 50; i++) {
        seen.value = 0;
        swapcontext(&main_context, &coroutine);
        ck_assert_int_eq(seen.n, 101 + i);
        ck_assert(holds(region, 16 * PAGE, seen.sp));
        served += seen.value == 1;
        evict(region, 16); /* all of its stack */
    }
    ck_assert_int_eq(served, 50);
    ck_assert_uint_gt(pins, 49);
}
END_TEST

/* --- what is shown ---------------------------------------------------------------------------------------------------------------- */

START_TEST(actions_are_shown_as_they_were_set)
{
    static const int sigs[] = {SIGUSR1, SIGBUS, SIGSEGV, SIGSTKFLT, SIGCHLD, 34, 64};
    struct action old, k;
    start();
    for (unsigned i = 0; i < sizeof sigs / sizeof *sigs; i++) {
        struct action a = act_with(note, SA_ONSTACK | SA_RESTART | SA_NODEFER, ~0ull), ignore = {.handler = (uint64_t)SIG_IGN, .mask = BIT(SIGBUS)};
        memset(&old, 0x77, sizeof old);
        ck_assert_int_eq(CALL(SYS_rt_sigaction, sigs[i], &a, &old, 8), 0);
        ck_assert_uint_eq(old.handler, 0);
        ck_assert_int_eq(CALL(SYS_rt_sigaction, sigs[i], 0, &old, 8), 0);
        a.mask = ALL;
        ck_assert_mem_eq(&old, &a, sizeof a);
        eg_sys4(SYS_rt_sigaction, sigs[i], 0, &k, 8);
        ck_assert_uint_ne(k.handler, a.handler);
        ck_assert_int_eq(CALL(SYS_rt_sigaction, sigs[i], &ignore, &old, 8), 0);
        ck_assert_mem_eq(&old, &a, sizeof a);
        ck_assert_int_eq(CALL(SYS_rt_sigaction, sigs[i], 0, &old, 8), 0);
        ck_assert_mem_eq(&old, &ignore, sizeof a);
    }
    struct action a = act_with(note, 0, 0);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, 0, &a, 0, 8), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, 65, &a, 0, 8), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGKILL, &a, 0, 8), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGKILL, 0, &old, 8), 0);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGBUS, &a, 0, 4), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGBUS, NO_POINTER, 0, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGBUS, &a, NO_POINTER, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGBUS, 0, &old, 8), 0);
    ck_assert_uint_eq(old.handler, a.handler); /* set all the same, as the kernel does */
}
END_TEST

START_TEST(masks_are_shown_as_they_were_set)
{
    uint64_t bus = BIT(SIGBUS), old, lost = 0;
    int fd;
    start();
    uint64_t *far = (uint64_t *)(region + 20 * PAGE + 8);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, SIG_BLOCK, &bus, &old, 8), 0);
    ck_assert_uint_eq(old, 0);
    uint64_t usr = BIT(SIGUSR1);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, SIG_BLOCK, &usr, &old, 8), 0);
    ck_assert_uint_eq(old & ~BIT(SIGSTKFLT), bus);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, SIG_UNBLOCK, &bus, &old, 8), 0);
    ck_assert_uint_eq(old & ~BIT(SIGSTKFLT), bus | usr);
    ck_assert_uint_eq(mask_now(), usr);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 3, &bus, 0, 8), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 3, &bus, &old, 8), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, &bus, &old, 4), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, NO_POINTER, &old, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, ~0ul - 100, &old, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, 0x8000000000000000ul, &old, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, &usr, NO_POINTER, 8), -EFAULT);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, lost_page(&fd), 0, 8), -EFAULT);
    lost = mask_now();
    ck_assert_uint_eq(lost, usr);
    /* Masks in memory that is away, across pages. */
    *far = ~0ull;
    evict(far, 1);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, SIG_SETMASK, far, 0, 8), 0);
    evict(far, 2);
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, SIG_SETMASK, &usr, region + 21 * PAGE - 4, 8), 0);
    evict(far, 2);
    memcpy(&old, region + 21 * PAGE - 4, 8);
    ck_assert_uint_eq(old, ALL);
}
END_TEST

/* Everything but one signal is blocked while they wait; so is SIGBUS, for the program. */
START_TEST(waiting_masks_are_the_programs)
{
    uint64_t all_but = ~BIT(SIGUSR1), before = BIT(SIGUSR1);
    start();
    struct timespec long_ = {60, 0};
    struct {
        const uint64_t *mask;
        size_t len;
    } pointer = {&all_but, 8};
    act(SIGUSR1, note_mask, 0, 0);
    act(SIGUSR2, note_mask, 0, 0);
    for (int k = 0; k < 4; k++) {
        long rc;
        int ep;
        uint8_t event[16];
        seen.n = 0;
        mask_to(before);
        send_self(SIGUSR1);
        send_self(SIGUSR2); /* arrives before it waits */
        ck_assert_int_eq(seen.n, 1);
        switch (k) {
        case 0: rc = CALL(SYS_rt_sigsuspend, &all_but, 8, 0, 0); break;
        case 1: rc = call6(SYS_ppoll, 0, 0, (long)&long_, (long)&all_but, 8, 0); break;
        case 2: rc = call6(SYS_pselect6, 0, 0, 0, 0, (long)&long_, (long)&pointer); break;
        default:
            ep = (int)eg_sys1(SYS_epoll_create1, 0);
            rc = call6(SYS_epoll_pwait, ep, (long)event, 1, 60000, (long)&all_but, 8);
            close(ep);
        }
        ck_assert_int_eq(rc, -EINTR);
        ck_assert_int_eq(seen.n, 2);
        ck_assert_int_eq(seen.sig, SIGUSR1);
        ck_assert_uint_eq(seen.mask, ALL);
        ck_assert_uint_eq(mask_now(), before);
        ck_assert_uint_eq(mask_kernel(), before);
        ck_assert_uint_eq(all_but, ~BIT(SIGUSR1)); /* the program's memory is as it was */
    }
    ck_assert_int_eq(CALL(SYS_rt_sigsuspend, &all_but, 4, 0, 0), -EINVAL);
    ck_assert_int_eq(CALL(SYS_rt_sigsuspend, NO_POINTER, 8, 0, 0), -EFAULT);
    ck_assert_int_eq(call6(SYS_ppoll, 0, 0, (long)&long_, NO_POINTER, 8, 0), -EFAULT);
}
END_TEST

START_TEST(only_so_many_masks_have_a_place)
{
    start();
    for (uint64_t m = 1; m < 10000; m++) {
        uint64_t set = m << 33; /* one more than there are places: still right */
        mask_to(set);
        ck_assert_uint_eq(mask_now(), set);
    }
    mask_to(0);
}
END_TEST

/* --- threads, children --------------------------------------------------------------------------------------------------------------- */

static stack_t kernels_alt(void)
{
    stack_t s;
    eg_sys2(SYS_sigaltstack, 0, &s);
    return s;
}

static void *thread_main(void *arg)
{
    stack_t *alt = arg, own = {.ss_sp = region + 30 * PAGE, .ss_size = 4 * PAGE};
    ck_assert_int_eq(kernels_alt().ss_flags, SS_DISABLE);
    eg_signals_thread_begins(0);
    eg_signals_thread_begins(0);
    *alt = kernels_alt();
    ck_assert_int_eq(alt_now().ss_flags, SS_DISABLE); /* whatever the last one with this stack had */
    ck_assert_int_eq(CALL(SYS_sigaltstack, &own, 0, 0, 0), 0);
    mask_to(~0ull);
    for (unsigned i = 0; i < PAGES; i++)
        ck_assert_uint_eq(touch(i), content(i));
    eg_signals_thread_ends();
    ck_assert_int_eq(kernels_alt().ss_flags, SS_DISABLE);
    return NULL;
}

START_TEST(threads_have_a_stack_each)
{
    enum { N = 100 };
    static stack_t alt[N], last;
    pthread_t t[N];
    start();
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(pthread_create(t, NULL, thread_main, &alt[0]), 0);
        pthread_join(t[0], NULL);
        ck_assert_ptr_ne(alt[0].ss_sp, kernels_alt().ss_sp);
        if (i)
            ck_assert_ptr_eq(alt[0].ss_sp, last.ss_sp);
        last = alt[0];
        evict(region, PAGES);
    }
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, thread_main, &alt[i]), 0);
    for (int i = 0; i < N; i++)
        pthread_join(t[i], NULL);
}
END_TEST

/* As posix_spawn's child does it: the parent's table stays. */
START_TEST(vfork_child_has_actions_of_its_own)
{
    struct action dfl = {0}, old;
    int fd, status;
    volatile int bad = 0;
    start();
    act(SIGUSR1, note, 0, 0);
    act(SIGBUS, note_and_leave, 0, 0);
    uint8_t *lost = lost_page(&fd);
    pid_t pid = vfork();
    if (pid == 0) {
        for (int s = 1; s <= 64; s++) {
            if (CALL(SYS_rt_sigaction, s, 0, &old, 8) || old.handler <= 1)
                continue;
            bad |= s == SIGUSR1 && old.handler != (uint64_t)note;
            bad |= s == SIGBUS && old.handler != (uint64_t)note_and_leave;
            CALL(SYS_rt_sigaction, s, &dfl, 0, 8);
            CALL(SYS_rt_sigaction, s, 0, &old, 8);
            bad |= old.handler != 0;
        }
        bad |= touch(8) != content(8);
        *lost = 1; /* ends it */
        _exit(1);
    }
    waitpid(pid, &status, 0);
    ck_assert_int_eq(bad, 0);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGBUS, 0, &old, 8), 0);
    ck_assert_uint_eq(old.handler, (uint64_t)note_and_leave);
    send_self(SIGUSR1);
    ck_assert_int_eq(seen.n, 1);
    if (sigsetjmp(out, 0) == 0)
        *lost = 1;
    ck_assert_int_eq(seen.n, 2);
}
END_TEST

/* What a new program inherits. Returns: its SigBlk and SigIgn. */
static void exec_sees(uint64_t *ret_blocked, uint64_t *ret_ignored)
{
    char line[256] = "";
    int p[2];
    ck_assert_int_eq(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {"cat", "/proc/self/status", NULL}, *envp[] = {NULL};
        eg_rt.pid = (uint32_t)getpid();
        dup2(p[1], 1);
        struct eg_gate_frame wrong = {.nr = SYS_execve, .arg = {(long)"/nowhere", (long)argv, (long)envp}};
        long rc = eg_signals_exec(&wrong);
        if (!wrong.pass && (rc != -ENOENT || mask_kernel() & BIT(SIGBUS)))
            _exit(1);
        struct eg_gate_frame f = {.nr = SYS_execve, .arg = {(long)"/bin/cat", (long)argv, (long)envp}};
        eg_signals_exec(&f);
        if (f.pass)
            eg_sys3(SYS_execve, f.arg[0], f.arg[1], f.arg[2]);
        _exit(1);
    }
    close(p[1]);
    FILE *file = fdopen(p[0], "r");
    unsigned long v;
    *ret_blocked = *ret_ignored = 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "SigBlk: %lx", &v) == 1)
            *ret_blocked = v;
        if (sscanf(line, "SigIgn: %lx", &v) == 1)
            *ret_ignored = v;
    }
    fclose(file);
    int status;
    waitpid(pid, &status, 0);
    ck_assert_int_eq(status, 0);
}

START_TEST(exec_inherits_what_the_program_set)
{
    uint64_t blocked, ignored;
    start();
    act(SIGBUS, note, 0, 0);
    act(SIGUSR2, note, 0, 0);
    act(SIGUSR1, SIG_IGN, 0, 0);
    exec_sees(&blocked, &ignored);
    ck_assert_uint_eq(blocked, 0);
    ck_assert_uint_eq(ignored & (BIT(SIGBUS) | BIT(SIGUSR1) | BIT(SIGUSR2) | BIT(SIGSEGV) | BIT(SIGSTKFLT)), BIT(SIGUSR1));
    act(SIGBUS, SIG_IGN, 0, 0);
    act(SIGSEGV, SIG_IGN, 0, 0);
    mask_to(BIT(SIGBUS) | BIT(SIGUSR2));
    exec_sees(&blocked, &ignored);
    ck_assert_uint_eq(blocked & ~BIT(SIGSTKFLT), BIT(SIGBUS) | BIT(SIGUSR2));
    ck_assert_uint_eq(ignored & (BIT(SIGBUS) | BIT(SIGUSR1) | BIT(SIGUSR2) | BIT(SIGSEGV)), BIT(SIGBUS) | BIT(SIGUSR1) | BIT(SIGSEGV));
}
END_TEST

START_TEST(what_was_inherited_is_shown)
{
    struct action old, ignore = {.handler = (uint64_t)SIG_IGN};
    uint64_t m = BIT(SIGBUS);
    eg_sys4(SYS_rt_sigaction, SIGBUS, &ignore, 0, 8);
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &m, 0, 8);
    start();
    ck_assert_uint_eq(mask_now() & ~BIT(SIGSTKFLT), m);
    ck_assert_uint_eq(touch(9), content(9));
    ck_assert_int_eq(CALL(SYS_rt_sigaction, SIGBUS, 0, &old, 8), 0);
    ck_assert_uint_eq(old.handler, (uint64_t)SIG_IGN);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gate_signal_state");
    TCase *tc = unit_case(suite, "state", 60);
    tcase_add_test(tc, alternate_stack_is_the_programs);
    tcase_add_test(tc, stack_that_is_full_is_sigsegv);
    tcase_add_test(tc, stacks_of_coroutines_may_be_away);
    tcase_add_test(tc, actions_are_shown_as_they_were_set);
    tcase_add_test(tc, masks_are_shown_as_they_were_set);
    tcase_add_test(tc, waiting_masks_are_the_programs);
    tcase_add_test(tc, only_so_many_masks_have_a_place);
    tcase_add_test(tc, threads_have_a_stack_each);
    tcase_add_test(tc, vfork_child_has_actions_of_its_own);
    tcase_add_test(tc, exec_inherits_what_the_program_set);
    tcase_add_test(tc, what_was_inherited_is_shown);
    return unit_run(suite);
}
