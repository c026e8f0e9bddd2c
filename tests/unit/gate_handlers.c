/* gate_handlers.c - see gate_handlers.h. */
#include "tests/unit/gate_handlers.h"

#include "proto/eg_uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct eg_rt eg_rt;

/* A sanitizer's own handlers would be taken for the program's. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "use_sigaltstack=0:handle_segv=0:handle_sigbus=0:handle_abort=0";
}

/* --- far memory ----------------------------------------------------------------------------------------------------------- */

static int uffd = -1;
uint8_t *region;
static uint8_t *store;
volatile unsigned faults, pins;

static int ours(uint64_t addr)
{
    return addr - (uint64_t)region < PAGES * PAGE;
}

void evict(const volatile void *from, unsigned pages)
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

long call6(long nr, long a, long b, long c, long d, long e, long g)
{
    struct eg_gate_frame f = {.pass = 7, .nr = nr, .arg = {a, b, c, d, e, g}};
    ck_assert_int_eq(eg_signals_wants(nr), 1);
    long ret = eg_signals_call(&f);
    return f.pass ? eg_syscall6(nr, f.arg[0], f.arg[1], f.arg[2], f.arg[3], f.arg[4], f.arg[5]) : ret;
}

__asm__(".text\n nop\n.globl test_restorer\ntest_restorer: mov $15, %rax\n syscall\n");

struct action act_with(void *handler, unsigned flags, uint64_t mask)
{
    return (struct action){(uint64_t)handler, flags | SA_SIGINFO | 0x04000000u, (uint64_t)test_restorer, mask};
}

void act(int s, void *handler, unsigned flags, uint64_t mask)
{
    struct action a = act_with(handler, flags, mask);
    ck_assert_int_eq(CALL(SYS_rt_sigaction, s, &a, 0, 8), 0);
}

uint64_t mask_now(void)
{
    uint64_t m = 0;
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, 0, 0, &m, 8), 0);
    return m;
}

uint64_t mask_kernel(void)
{
    uint64_t m = 0;
    eg_sys4(SYS_rt_sigprocmask, 0, 0, &m, 8);
    return m;
}

void mask_to(uint64_t m)
{
    ck_assert_int_eq(CALL(SYS_rt_sigprocmask, SIG_SETMASK, &m, 0, 8), 0);
}

void send_self(int s)
{
    eg_sys3(SYS_tgkill, getpid(), eg_sys0(SYS_gettid), s);
}

uint8_t content(unsigned page)
{
    return (uint8_t)(page * 7 + 3);
}

void start(void)
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

uint8_t touch(unsigned page)
{
    return *(volatile uint8_t *)(region + page * PAGE + 17);
}

void write_to(unsigned page, uint8_t byte)
{
    *(volatile uint8_t *)(region + page * PAGE) = byte;
}

/* A page of a file that has become shorter. */
uint8_t *lost_page(int *ret_fd)
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
int ending(void (*fn)(void))
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

void check_killed(void (*fn)(void), int s)
{
    int status = ending(fn);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == s, "status %x, wanted signal %d", (unsigned)status, s);
}

/* --- what handlers saw -------------------------------------------------------------------------------------------------------- */

struct seen seen;
sigjmp_buf out;

void note(int s, siginfo_t *info, void *ctx)
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

void note_mask(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    seen.mask = mask_now();
}

void note_and_leave(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    siglongjmp(out, 1);
}

void again(int s, siginfo_t *info, void *ctx)
{
    note(s, info, ctx);
    if (++seen.depth > seen.deepest)
        seen.deepest = seen.depth;
    if (seen.n < 4)
        send_self(s);
    seen.depth--;
}
