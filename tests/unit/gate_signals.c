/* Signals while faults are served inline: a region under userfaultfd whose pages come and go stands for captured memory, and the program's calls go to
 * eg_signals_call as the gate hands them over. What a handler sees is compared with what the kernel does by itself. */
#include "client/gate/eg_signals.h"
#include "client/pager/eg_inline.h"
#include "proto/eg_uffd.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 64u
#define BIT(sig) (1ull << ((sig) - 1))
#define ALL (~(BIT(SIGKILL) | BIT(SIGSTOP)))
#define NO_POINTER 0x10ul

struct eg_rt eg_rt;

/* A sanitizer's own handlers would be taken for the program's. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "use_sigaltstack=0:handle_segv=0:handle_sigbus=0:handle_abort=0";
}

/* --- far memory ----------------------------------------------------------------------------------------------------------- */

static int uffd = -1;
static uint8_t *region, *store;
static volatile unsigned faults, pins;

static int ours(uint64_t addr)
{
    return addr - (uint64_t)region < PAGES * PAGE;
}

static void evict(const volatile void *from, unsigned pages)
{
    uint64_t at = (uint64_t)from & ~(PAGE - 1ul);
    memcpy(store + (at - (uint64_t)region), (void *)at, pages * PAGE);
    madvise((void *)at, pages * PAGE, MADV_DONTNEED);
}

static int bring(uint64_t addr, int write)
{
    uint64_t at = addr & ~(PAGE - 1ul);
    struct uffdio_copy c = {.dst = at, .src = (uint64_t)store + (at - (uint64_t)region), .len = PAGE, .mode = write ? 0 : UFFDIO_COPY_MODE_WP};
    struct uffdio_writeprotect w = {.range = {at, PAGE}};
    if (eg_sys3(SYS_ioctl, uffd, UFFDIO_COPY, &c) == -EEXIST && write)
        eg_sys3(SYS_ioctl, uffd, UFFDIO_WRITEPROTECT, &w);
    return 1;
}

int eg_inline_fault(uint64_t addr, int write)
{
    if (!ours(addr))
        return 0;
    faults++;
    return bring(addr, write);
}

void eg_pin_call(uint64_t owner, uint64_t sp, const struct eg_span_rw *v, uint32_t n)
{
    if (!owner || (sp & ~EG_PIN_MAIN) != v->start || n != 1)
        abort(); /* Check's own functions are not for handlers */
    pins++;
    for (uint64_t at = v->start & ~(PAGE - 1ul); at < v->end; at += PAGE)
        if (ours(at))
            bring(at, v->write);
}

int eg_ranges_seen(const struct eg_ranges *r, uint64_t start, uint64_t end)
{
    return r == &eg_rt.ranges && start < end;
}

long eg_gate_on_stack(long (*fn)(void *), void *arg)
{
    return fn(arg);
}

long eg_gate_alone(long (*fn)(void *), void *arg)
{
    return fn(arg);
}

long eg_fd_open_own(const char *path, int flags)
{
    return open(path, flags);
}

/* --- the program ------------------------------------------------------------------------------------------------------------ */

static long call6(long nr, long a, long b, long c, long d, long e, long g)
{
    struct eg_gate_frame f = {.pass = 7, .nr = nr, .arg = {a, b, c, d, e, g}};
    ck_assert_int_eq(eg_signals_wants(nr), 1);
    long ret = eg_signals_call(&f);
    return f.pass ? eg_syscall6(nr, f.arg[0], f.arg[1], f.arg[2], f.arg[3], f.arg[4], f.arg[5]) : ret;
}
#define CALL(nr, a, b, c, d) call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

struct action {
    uint64_t handler, flags, restorer, mask;
};
void test_restorer(void);
__asm__(".text\n nop\n.globl test_restorer\ntest_restorer: mov $15, %rax\n syscall\n");

static struct action act_with(void *handler, unsigned flags, uint64_t mask)
{
    return (struct action){(uint64_t)handler, flags | SA_SIGINFO | 0x04000000u, (uint64_t)test_restorer, mask};
}

static void act(int s, void *handler, unsigned flags, uint64_t mask)
{
    struct action a = act_with(handler, flags, mask);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, s, &a, 0, 8), 0);
}

static uint64_t mask_now(void)
{
    uint64_t m = 0;
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, 0, &m, 8), 0);
    return m;
}

static uint64_t mask_kernel(void)
{
    uint64_t m = 0;
    eg_sys4(SYS_rt_sigprocmask, 0, 0, &m, 8);
    return m;
}

static void mask_to(uint64_t m)
{
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, SIG_SETMASK, &m, 0, 8), 0);
}

static void send_self(int s)
{
    eg_sys3(SYS_tgkill, getpid(), eg_sys0(SYS_gettid), s);
}

static uint8_t content(unsigned page)
{
    return (uint8_t)(page * 7 + 3);
}

static void start(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    ck_assert_msg(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd of user mode with SIGBUS is needed");
    region = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    store = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < PAGES; i++)
        memset(store + i * PAGE, content(i), PAGE);
    struct uffdio_register r = {.range = {(uint64_t)region, PAGES * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP};
    ck_assert_int_eq(ioctl(uffd, UFFDIO_REGISTER, &r), 0);
    eg_rt.pid = (uint32_t)getpid();
    eg_rt.inlined = 1;
    ck_assert_int_eq(eg_signals_init(getauxval(51 /* AT_MINSIGSTKSZ */)), 0);
    faults = pins = 0;
}

static uint8_t touch(unsigned page)
{
    return *(volatile uint8_t *)(region + page * PAGE + 17);
}

static void write_to(unsigned page, uint8_t byte)
{
    *(volatile uint8_t *)(region + page * PAGE) = byte;
}

/* A page of a file that has become shorter. */
static uint8_t *lost_page(int *ret_fd)
{
    int fd = memfd_create("lost", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(fd, 2 * PAGE), 0);
    uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    p[PAGE + 5] = 55;
    ck_assert_int_eq(ftruncate(fd, PAGE), 0);
    *ret_fd = fd;
    return p + PAGE;
}

/* How a child ends that does fn. Returns: its wait status. */
static int ending(void (*fn)(void))
{
    pid_t pid = fork();
    int status = 0;
    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        eg_rt.pid = (uint32_t)getpid();
        fn();
        _exit(99);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status;
}

static void check_killed(void (*fn)(void), int s)
{
    int status = ending(fn);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == s, "status %x, wanted signal %d", (unsigned)status, s);
}

/* --- what handlers saw -------------------------------------------------------------------------------------------------------- */

static struct {
    volatile int n, sig, code, value, depth, deepest;
    void *volatile addr;
    volatile uint64_t mask, sp, frame;
    volatile unsigned mxcsr;
    volatile pid_t pid;
} seen;
static sigjmp_buf out;

static void note(int s, siginfo_t *info, void *ctx)
{
    seen.n++;
    seen.sig = s == info->si_signo ? s : -1;
    seen.code = info->si_code;
    seen.addr = info->si_addr;
    seen.pid = info->si_pid;
    seen.value = info->si_value.sival_int;
    seen.sp = (uint64_t)__builtin_frame_address(0);
    seen.frame = (uint64_t)ctx;
    seen.mxcsr = __builtin_ia32_stmxcsr();
}

static void note_mask(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    seen.mask = mask_now();
}

static void note_and_leave(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    siglongjmp(out, 1);
}

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

static void again(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    if (++seen.depth > seen.deepest)
        seen.deepest = seen.depth;
    if (seen.n < 4)
        send_self(s);
    seen.depth--;
}

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
    tcase_add_test(tc, timer_among_faults);
    return unit_run(suite);
}
