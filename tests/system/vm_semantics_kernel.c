/* vm_semantics_kernel.c - the kernel's own accesses to the program's memory, and its signals. */
#include "vm_semantics.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <sys/wait.h>

/* ---- the kernel's own accesses ----------------------------------------------------------------------------------- */

void kernel_reads_writes(void)
{
    size_t len = 3 * MIB;
    char *from = map_evicted(len, 90), *to = map(len);
    fill(to, len, 91);
    int fd = memfd_create("vm_semantics", MFD_CLOEXEC);
    press();
    out("write: %s", result(write(fd, from, len)));
    press();
    out_after(result(pread(fd, to, len, 0)), "pread: %s, %s", content(to, 0, len, 90));
    fill(to, len, 92);
    press();
    struct iovec vector[3] = {{to, MIB}, {to + 2 * MIB, MIB}, {to + MIB, MIB}};
    out("readv: %s", result(lseek(fd, 0, SEEK_SET) ?: readv(fd, vector, 3)));
    out("parts: %d %d %d", !memcmp(to, from, MIB), !memcmp(to + 2 * MIB, from + MIB, MIB), !memcmp(to + MIB, from + 2 * MIB, MIB));
    press();
    out("pwritev: %s", result(pwritev(fd, vector, 3, 0)));
    press();
    out_after(result(pread(fd, to, len, 0)), "pread: %s, %s", content(to, 0, len, 90));
    /* The vector itself in evicted memory. */
    struct iovec *far_vector = map(MIB);
    far_vector[0] = (struct iovec){to, MIB};
    far_vector[1] = (struct iovec){to + MIB, 2 * MIB};
    press();
    out("vector evicted: %s", result(preadv(fd, far_vector, 2, 0)));
    out("content %s", content(to, 0, len, 90));
    int ends[2];
    out("pipe2: %s", result(pipe2(ends, O_CLOEXEC)));
    unsigned bad = 0;
    for (size_t i = 0; i < len; i += 32768) {
        if (i % MIB == 0)
            press();
        bad += write(ends[1], from + i, 32768) != 32768;
        bad += read(ends[0], to + (i + 5 * 32768) % len, 32768) != 32768;
    }
    for (size_t i = 0; i < len; i += 32768)
        bad += memcmp(from + i, to + (i + 5 * 32768) % len, 32768) != 0;
    out("pipe, bad: %u", bad);
    fill(to, len, 93);
    press();
    struct iovec spliced = {from, 65536};
    out("vmsplice: %s", result(vmsplice(ends[1], &spliced, 1, 0)));
    out_after(result(read(ends[0], to, 65536)), "read back: %s, same: %d", !memcmp(from, to, 65536));
    close(ends[0]);
    close(ends[1]);
    out("getrandom: %s", result(getrandom(to, MIB, 0)));
    out("looks random: %s", *zeros(to + MIB - 64, 64) == 'N' ? "yes" : "no");
    char *none = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    out("read into PROT_NONE: %s", result(pread(fd, none, PAGE, 0)));
    mprotect(none, PAGE, PROT_READ);
    out("read into read only: %s", result(pread(fd, none, PAGE, 0)));
    munmap(none, PAGE);
    out("read into nothing: %s", result(pread(fd, none, PAGE, 0)));
    out("write from nothing: %s", result(pwrite(fd, none, PAGE, 0)));
    munmap(to + MIB, MIB);
    out("read over a hole: %s", result(pread(fd, to, len, 0)));
    out("before the hole %s", content(to, 0, MIB, 90));
    close(fd);
    munmap(to, len);
    munmap(from, len);
    munmap(far_vector, MIB);
}

void kernel_messages(void)
{
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
    struct far {
        struct msghdr header;
        struct iovec vector[4];
        char pad[2 * PAGE];
        char control[256];
        char data[4][64 * 1024];
    } *send_side = map(MIB), *receive_side = map(MIB);
    for (int side = 0; side < 2; side++) {
        struct far *f = side ? receive_side : send_side;
        for (int i = 0; i < 4; i++) {
            f->vector[i] = (struct iovec){f->data[i], 32768};
            fill(f->data[i], sizeof(f->data[i]), (uint64_t)(side ? 200 : 100 + i));
        }
        f->header = (struct msghdr){.msg_iov = f->vector, .msg_iovlen = 1, .msg_control = f->control, .msg_controllen = CMSG_SPACE(sizeof(int))};
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&send_side->header);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    int passed = 1;
    memcpy(CMSG_DATA(c), &passed, sizeof(passed));
    press();
    out("sendmsg: %s", result(sendmsg(pair[0], &send_side->header, 0)));
    press();
    out("recvmsg: %s", result(recvmsg(pair[1], &receive_side->header, MSG_CMSG_CLOEXEC)));
    press();
    out("content %s", content(receive_side->data[0], 0, 32768, 100));
    c = CMSG_FIRSTHDR(&receive_side->header);
    int got = -1;
    if (c)
        memcpy(&got, CMSG_DATA(c), sizeof(got));
    struct stat here, there;
    out("descriptor passed: %s", c && !fstat(got, &there) && !fstat(1, &here) && here.st_ino == there.st_ino ? "yes" : "no");
    if (got >= 0)
        close(got);

    struct pollfd *fds = map(MIB);
    fds[3] = (struct pollfd){.fd = pair[0], .events = POLLOUT};
    press();
    out_after(result(poll(fds + 3, 1, 1000)), "poll: %s, %d", (int)fds[3].revents);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event *event = map(MIB);
    event[0] = (struct epoll_event){.events = EPOLLIN, .data.u64 = 77};
    press();
    out("epoll_ctl: %s", result(epoll_ctl(ep, EPOLL_CTL_ADD, pair[1], event)));
    if (write(pair[0], "x", 1) != 1)
        out("write failed");
    press();
    out_after(result(epoll_wait(ep, event + 8, 4, 1000)), "epoll_wait: %s, %d", (int)event[8].data.u64);
    close(ep);
    struct utsname *name = map(MIB);
    press();
    out_after(result(uname(name)), "uname: %s %s", name->sysname);
    char *path = map(MIB);
    strcpy(path + 5, "/dev/null");
    press();
    int fd = open(path + 5, O_RDWR | O_CLOEXEC);
    out("open: %s", fd >= 0 ? "ok" : strerrorname_np(errno));
    close(fd);
    press();
    struct stat *st = map(MIB);
    out_after(result(stat(path + 5, st)), "stat: %s, %s", S_ISCHR(st->st_mode) ? "device" : "WRONG");
    press();
    out("getcwd: %s", getcwd(path + 3 * PAGE, 4096) ? "ok" : strerrorname_np(errno));
    struct timespec *time = map(MIB);
    time[0] = (struct timespec){0, 1000};
    press();
    out("nanosleep: %s", result(nanosleep(time, time + 600)));
    struct rlimit *limit = map(MIB);
    press();
    out_after(result(getrlimit(RLIMIT_STACK, limit)), "getrlimit: %s, %s", limit->rlim_max ? "ok" : "WRONG");
    /* A mask over the whole process: nothing of the runtime may depend on signals that a program blocks. */
    sigset_t *set = map(MIB), *old = (sigset_t *)((char *)set + 5 * PAGE);
    sigfillset(set);
    press();
    out("sigprocmask: %s", result(sigprocmask(SIG_SETMASK, set, old)));
    press();
    out("with all signals blocked %s", content(receive_side->data[0], 0, 32768, 100));
    out("sigprocmask: %s", result(sigprocmask(SIG_SETMASK, old, NULL)));
    DIR *dir = opendir("/proc/self/task");
    unsigned entries = 0;
    while (dir && readdir(dir))
        entries++;
    out("directory entries: %s", entries >= 3 ? "some" : "NONE");
    if (dir)
        closedir(dir);
    close(pair[0]);
    close(pair[1]);
    munmap(send_side, MIB), munmap(receive_side, MIB), munmap(fds, MIB), munmap(event, MIB), munmap(name, MIB), munmap(path, MIB);
    munmap(st, MIB), munmap(time, MIB), munmap(limit, MIB), munmap(set, MIB);
}

static void read_parent(void *arg)
{
    char *at = arg;
    /* The address means the parent's memory; this copy must not be touched. */
    static char local[65536];
    for (size_t i = 0; i < 2 * MIB; i += sizeof(local)) {
        struct iovec mine = {local, sizeof(local)}, theirs = {at + i, sizeof(local)};
        if (process_vm_readv(getppid(), &mine, 1, &theirs, 1, 0) != (ssize_t)sizeof(local)) {
            out("process_vm_readv: %s", strerrorname_np(errno));
            return;
        }
        for (size_t w = 0; w < sizeof(local) / 8; w++)
            if (((uint64_t *)(void *)local)[w] != word_of(94, i / 8 + w)) {
                out("process_vm_readv: WRONG at %zu", i + w * 8);
                return;
            }
    }
    out("process_vm_readv right");
}

/* The kernel reads another's memory (and /proc/self/mem) without waiting for a userfaultfd: natively right, far EIO. */
void proc_self_mem(void)
{
    char *at = map_evicted(3 * MIB, 94), *to = map(3 * MIB);
    int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    out("open: %s", fd >= 0 ? "ok" : strerrorname_np(errno));
    if (fd >= 0) {
        press();
        out_after(result(pread(fd, to, 2 * MIB, (off_t)(uintptr_t)at)), "read: %s, %s", content(to, 0, 2 * MIB, 94));
        uint64_t marker = 0x1122334455667788ull;
        press();
        out("write: %s", result(pwrite(fd, &marker, 8, (off_t)(uintptr_t)(at + MIB))));
        press();
        out("written: %s", *(uint64_t *)(void *)(at + MIB) == marker ? "yes" : "no");
        close(fd);
    }
    munmap(at, 3 * MIB);
    munmap(to, 3 * MIB);
}

void peer_memory(void)
{
    char *at = map_evicted(3 * MIB, 94);
    press();
    out("child ended %d", in_child(read_parent, at));
    munmap(at, 3 * MIB);
}

void shared_futex(void)
{
    char *at = map_evicted(3 * MIB, 94);
    _Atomic int *word = (_Atomic int *)(void *)(at + 2 * MIB);
    *word = 5;
    struct timespec soon = {0, 1000000};
    press();
    out("futex, other value: %s", result(syscall(SYS_futex, word, FUTEX_WAIT, 4, NULL, NULL, 0)));
    press();
    out("futex, time-out: %s", result(syscall(SYS_futex, word, FUTEX_WAIT, 5, &soon, NULL, 0)));
    press();
    out("futex wake: %s", result(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0)));
    munmap(at, 3 * MIB);
}

void direct_io(void)
{
    char path[] = "vm_semantics.XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        out("no file: %s", strerrorname_np(errno));
        return;
    }
    char *at = map_evicted(2 * MIB, 95);
    out("write: %s", result(write(fd, at, 2 * MIB)));
    fsync(fd);
    close(fd);
    fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    out("O_DIRECT: %s", fd >= 0 ? "ok" : strerrorname_np(errno));
    if (fd >= 0) {
        char *to = map(4 * MIB);
        fill(to, 4 * MIB, 96);
        press();
        out_after(result(pread(fd, to + MIB, 2 * MIB, 0)), "read: %s, %s", content(to + MIB, 0, 2 * MIB, 95));
        fill(to + MIB, 2 * MIB, 97);
        press();
        out("write: %s", result(pwrite(fd, to + MIB, 2 * MIB, 0)));
        press();
        out("around %s", content(to, 0, MIB, 96));
        out_after(result(pread(fd, at, 2 * MIB, 0)), "read: %s, %s", content(at, 0, 2 * MIB, 97));
        munmap(to, 4 * MIB);
        close(fd);
    }
    unlink(path);
    munmap(at, 2 * MIB);
}

/* sigaction reports glibc's own SA_RESTORER (0x04000000) on some architectures. */

/* ---- signals ----------------------------------------------------------------------------------------------------- */

static char *alternate_stack;
static volatile sig_atomic_t handled, on_alternate;

static void on_alternate_handler(int number)
{
    char here[3 * PAGE];
    memset(here, number, sizeof(here));
    __asm__ volatile("" ::"r"(here) : "memory");
    on_alternate += &here[0] > alternate_stack && &here[0] < alternate_stack + MIB;
    handled++;
}

void alternate_stacks(void)
{
    alternate_stack = malloc(MIB);
    stack_t stack = {.ss_sp = alternate_stack, .ss_size = MIB}, old;
    out("sigaltstack: %s", result(sigaltstack(&stack, &old)));
    struct sigaction action = {.sa_handler = on_alternate_handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < 5; i++) {
        press();
        raise(SIGUSR1);
    }
    out("handled %d, on the alternate stack %d", (int)handled, (int)on_alternate);
    stack_t now;
    sigaltstack(NULL, &now);
    out("reported: %s", now.ss_sp == stack.ss_sp && now.ss_size == stack.ss_size && now.ss_flags == 0 ? "same" : "OTHER");
    old.ss_flags |= old.ss_sp ? 0 : SS_DISABLE;
    sigaltstack(&old, NULL);
    signal(SIGUSR1, SIG_DFL);
    free(alternate_stack);
}

static char *lazy_area;
static volatile sig_atomic_t lazy_faults;

static void lazy_handler(int number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t page = (uintptr_t)info->si_addr & ~(PAGE - 1);
    if (number != SIGSEGV || page < (uintptr_t)lazy_area || page >= (uintptr_t)lazy_area + 6 * MIB)
        _exit(8);
    lazy_faults++;
    if (mprotect((void *)page, 16 * PAGE, PROT_READ | PROT_WRITE))
        _exit(7);
}

void own_segv_handler(void)
{
    /* The write barrier of a garbage collector: read only, and a handler that opens it. */
    lazy_area = map_evicted(6 * MIB, 100);
    struct sigaction action = {.sa_sigaction = lazy_handler, .sa_flags = SA_SIGINFO}, old;
    sigaction(SIGSEGV, &action, &old);
    for (int round = 0; round < 2; round++) {
        mprotect(lazy_area, 6 * MIB, round ? PROT_NONE : PROT_READ);
        press();
        for (size_t i = 0; i < 6 * MIB; i += PAGE)
            ((uint64_t *)(void *)(lazy_area + i))[1]++;
        out("round %d: %d faults", round, (int)lazy_faults);
    }
    unsigned wrong = 0;
    for (size_t i = 0; i < 6 * MIB / 8; i++)
        wrong += ((uint64_t *)(void *)lazy_area)[i] != word_of(100, i) + (i % 512 == 1 ? 2 : 0);
    out("wrong words: %u", wrong);
    struct sigaction now;
    sigaction(SIGSEGV, &old, &now);
    out("handler reported: %s, flags %s", now.sa_sigaction == lazy_handler ? "same" : "OTHER", (now.sa_flags & ~0x04000000) == SA_SIGINFO ? "same" : "OTHER");
    munmap(lazy_area, 6 * MIB);
}

static volatile sig_atomic_t bus_count, bus_code;

static void bus_counter(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    bus_count++;
    bus_code = info->si_code;
}

void own_bus_handler(void)
{
    struct sigaction action = {.sa_sigaction = bus_counter, .sa_flags = SA_SIGINFO | SA_RESTART}, first, now;
    out("install: %s", result(sigaction(SIGBUS, &action, &first)));
    out("before: %s", first.sa_handler == SIG_DFL ? "default" : first.sa_handler == SIG_IGN ? "ignored" : "OTHER");
    char *at = map_evicted(4 * MIB, 101);
    out("content %s", content(at, 0, 4 * MIB, 101));
    raise(SIGBUS);
    out("raised: count %d, code %d", (int)bus_count, (int)bus_code);
    kill(getpid(), SIGBUS);
    out("killed: count %d, code %d", (int)bus_count, (int)bus_code);
    sigaction(SIGBUS, NULL, &now);
    out("reported: %s", now.sa_sigaction == bus_counter && (now.sa_flags & ~0x04000000) == (SA_SIGINFO | SA_RESTART) ? "same" : "OTHER");
    sigset_t set, old, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    sigaddset(&set, SIGSEGV);
    sigprocmask(SIG_BLOCK, &set, &old);
    press();
    out("with SIGBUS blocked %s", content(at, 0, 4 * MIB, 101));
    raise(SIGBUS);
    sigpending(&pending);
    out("blocked: count %d, pending %d", (int)bus_count, sigismember(&pending, SIGBUS));
    sigprocmask(SIG_SETMASK, &old, &set);
    out("unblocked: count %d, was blocked %d", (int)bus_count, sigismember(&set, SIGBUS));
    sigaction(SIGBUS, &first, NULL);
    int fd = memfd_create("short", MFD_CLOEXEC);
    char *file = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    out("behind the end of a file: %s", reads(file));
    munmap(file, 2 * PAGE);
    close(fd);
    signal(SIGBUS, SIG_IGN);
    raise(SIGBUS);
    press();
    out("with SIGBUS ignored %s", content(at, 0, 4 * MIB, 101));
    signal(SIGBUS, SIG_DFL);
    munmap(at, 4 * MIB);
}

static void die_by(void *arg)
{
    char *at = arg;
    *(volatile char *)at = 1;
}

void crash(void)
{
    struct rlimit none = {0, 0}, old;
    getrlimit(RLIMIT_CORE, &old);
    setrlimit(RLIMIT_CORE, &none);
    char *at = map_evicted(MIB, 102);
    mprotect(at, MIB, PROT_READ);
    out("write to read only ends by %d", in_child(die_by, at));
    munmap(at, MIB);
    out("write to nothing ends by %d", in_child(die_by, at));
    out("write to NULL ends by %d", in_child(die_by, NULL));
    setrlimit(RLIMIT_CORE, &old);
}

static volatile sig_atomic_t ticks;
static char *tick_area;

static void tick(int number)
{
    (void)number;
    ticks++;
    /* Touches far memory from a handler that may have interrupted a fault, or the runtime. */
    size_t page = (size_t)ticks * 37 % (4 * MIB / PAGE);
    if (((uint64_t *)(void *)(tick_area + page * PAGE))[3] != word_of(104, page * 512 + 3))
        _exit(6);
}

void timer_signals(void)
{
    char *at = map(8 * MIB);
    fill(at, 8 * MIB, 103);
    tick_area = map_evicted(4 * MIB, 104);
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval fast = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &fast, NULL);
    const char *first = NULL;
    for (int round = 0; round < 3; round++) {
        press();
        first = content(at, 0, 8 * MIB, 103);
        char *more = map(MIB);
        fill(more, MIB, 105);
        munmap(more, MIB);
        if (*first != 'r')
            break;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    signal(SIGALRM, SIG_DFL);
    out("under a 2 kHz timer %s, ticks %s", first, ticks > 3 ? "some" : "none");
    munmap(at, 8 * MIB); /* not tick_area: another thread may still be in the handler */
}

static sigjmp_buf out_of_tick;

static void longjmp_out(int number)
{
    (void)number;
    siglongjmp(out_of_tick, 1);
}

void jump_out_of_handler(void)
{
    char *at = map(6 * MIB);
    fill(at, 6 * MIB, 106);
    signal(SIGALRM, longjmp_out);
    volatile int jumps = 0;
    for (volatile int i = 0; i < 30; i++) {
        if (sigsetjmp(out_of_tick, 1)) {
            jumps++;
            continue;
        }
        struct itimerval once = {{0, 0}, {0, 300 + i * 100}};
        setitimer(ITIMER_REAL, &once, NULL);
        for (;;)
            (void)content(at, 0, 6 * MIB, 106);
    }
    signal(SIGALRM, SIG_DFL);
    press();
    out("jumps %d, %s", jumps, content(at, 0, 6 * MIB, 106));
    munmap(at, 6 * MIB);
}
