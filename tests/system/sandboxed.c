/* sandboxed.c - a program whose child gives up the system calls by which faults are served (seccomp, in the thread alone), once more memory is in use
 * than stays local, and calls for no more. Every word is checked, before and behind. Then children in the strict mode, and with a filter that kills all but
 * write and exit: they end as natively, by exit(2) or killed, before memory is in use as well as after. And a program that is started under a filter has its signals
 * though the call by which their frames are written is refused. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS 512ul

static uint64_t *at;
static size_t pages;

static void fill(uint64_t seed)
{
    for (size_t i = 0; i < pages; i++)
        for (size_t w = 0; w < WORDS; w += 64)
            at[i * WORDS + w] = seed + i * 31 + w;
}

static int wrong(uint64_t seed)
{
    for (size_t i = 0; i < pages; i++)
        for (size_t w = 0; w < WORDS; w += 64)
            if (at[i * WORDS + w] != seed + i * 31 + w)
                return 1;
    return 0;
}

#define DENY(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES)

/* 0, or 1: it cannot be set. */
static int filter_set(struct sock_filter *code, size_t bytes)
{
    struct sock_fprog program = {(unsigned short)(bytes / sizeof *code), code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int shut_in(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        DENY(SYS_ioctl),
        DENY(SYS_pread64),
        DENY(SYS_pwrite64),
        DENY(SYS_process_vm_readv),
        DENY(SYS_userfaultfd),
        DENY(SYS_sendmsg),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    if (filter_set(code, sizeof code))
        return 1;
    return ioctl(0, 0) != -1 || errno != EACCES; /* it is in force */
}

static int sandboxed(uint64_t seed)
{
    if (wrong(seed) || shut_in() || wrong(seed))
        return 1;
    fill(seed + 1);
    return wrong(seed + 1);
}

/* Ends by exit(2), or by a call that it may not make. */
static void ends(int strict, int breaks)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
    };
    if (strict ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) : filter_set(code, sizeof code))
        _exit(3);
    if (breaks)
        syscall(SYS_getppid);
    syscall(SYS_exit, 7);
}

static int ends_natively(const char *when)
{
    int bad = 0;
    for (int how = 0; how < 4; how++) {
        int strict = how & 1, breaks = how >> 1, status = -1;
        pid_t child = fork();
        if (child == 0)
            ends(strict, breaks);
        waitpid(child, &status, 0);
        if (breaks ? !WIFSIGNALED(status) || WTERMSIG(status) != (strict ? SIGKILL : SIGSYS) : !WIFEXITED(status) || WEXITSTATUS(status) != 7) {
            printf("%s: %s, %s: status %#x\n", when, strict ? "strict" : "filter", breaks ? "breaking it" : "exit(2)", status);
            bad = 1;
        }
    }
    return bad;
}

static volatile sig_atomic_t n_signals;
static void count(int number)
{
    (void)number;
    n_signals++;
}

static int signals_come(char *self)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        DENY(SYS_process_vm_writev),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        if (filter_set(code, sizeof code))
            _exit(3);
        execl(self, self, "signals", NULL);
        _exit(4);
    }
    return waitpid(child, &status, 0) != child || status;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "signals") == 0) {
        signal(SIGUSR1, count);
        for (int i = 0; i < 100; i++)
            raise(SIGUSR1);
        return n_signals != 100;
    }
    if (signals_come(argv[0]))
        return printf("signals under a filter\n"), 1;
    if (ends_natively("fits"))
        return 1;
    pages = (argc > 1 ? strtoul(argv[1], NULL, 0) : 64) << 8;
    at = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return 2;
    fill(7);
    pid_t child = fork();
    if (child == 0)
        _exit(sandboxed(7));
    int status = -1;
    if (waitpid(child, &status, 0) != child || status)
        return printf("child: status %#x\n", status), 1;
    if (wrong(7))
        return printf("parent\n"), 1;
    if (ends_natively("does not fit"))
        return 1;
    printf("right\n");
    return 0;
}
