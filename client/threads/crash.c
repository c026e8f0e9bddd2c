/* crash.c - a thread comes home to end the process by a signal that leaves a core dump: all that nodes have comes home first, so that its stack and what it
 * worked on are in the dump. */
#include "client/threads/eg_proxy.h"

#include "client/pager/eg_pager.h"

#include <fcntl.h>
#include <linux/prctl.h>
#include <signal.h>
#include <sys/resource.h>

#define STACK_STEP (1u << 20)
#define BIT(s) (1ull << ((s) - 1))
/* Source: signal(7), the default actions. */
#define CORE \
    (BIT(SIGQUIT) | BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGABRT) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGSEGV) | BIT(SIGXCPU) | BIT(SIGXFSZ) | BIT(SIGSYS))

/* Source: fs/coredump.c: a program gets a dump whatever the limit is. */
static int dumps(void)
{
    struct rlimit limit = {0, 0};
    char first = 0;
    if (eg_sys1(SYS_prctl, PR_GET_DUMPABLE) == 0)
        return 0;
    if (!eg_sys4(SYS_prlimit64, 0, RLIMIT_CORE, 0, &limit) && limit.rlim_cur)
        return 1;
    long fd = eg_fd_new(SYS_openat, AT_FDCWD, (long)"/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC, 0);
    if (eg_sys_failed(fd))
        return 0;
    eg_sys3(SYS_read, fd, &first, 1);
    eg_sys1(SYS_close, fd);
    return first == '|';
}

/* by_fault: an instruction raises it, so that to block or to ignore it is no help. */
static int ends_all(const struct eg_thread *t, int s, int by_fault)
{
    struct eg_sigaction action;
    if (s < 1 || s > 64 || !(CORE & BIT(s)) || eg_sys4(SYS_rt_sigaction, s, 0, &action, 8))
        return 0;
    int caught = action.handler > (uint64_t)SIG_IGN, blocked = (t->mask & BIT(s)) != 0;
    return (by_fault ? !caught || blocked : !caught && action.handler != (uint64_t)SIG_IGN && !blocked) && dumps();
}

int eg_crash_by_call(const struct eg_thread *t, long nr, const long a[6])
{
    switch (nr) {
    case SYS_kill: return (uint32_t)a[0] == eg_rt.pid && ends_all(t, (int)a[1], 0);
    case SYS_tkill: return (uint32_t)a[0] == t->tid && ends_all(t, (int)a[1], 0);
    case SYS_tgkill: return (uint32_t)a[1] == t->tid && ends_all(t, (int)a[2], 0);
    default: return 0;
    }
}

int eg_crash_by_fault(const struct eg_thread *t, const struct eg_call *call)
{
    struct eg_area area;
    uint64_t addr = (uint64_t)call->arg[2];
    if (call->arg[0] == EG_HOME_TRAP)
        return ends_all(t, (int)call->arg[1], 1);
    if (call->arg[0] != EG_HOME_FAULT || !call->arg[1])
        return 0;
    int there = !eg_area_find(addr, &area);
    if (there && !(call->arg[3] & EG_FAULT_CODE) && (call->arg[3] & EG_FAULT_WRITE ? area.writable : area.readable))
        return 0; /* home may do what a node may not */
    if (!there && t->tid == eg_rt.pid && addr + STACK_STEP > t->state.rsp && addr < t->state.rsp + STACK_STEP)
        return 0; /* the first thread's stack grows */
    return ends_all(t, SIGSEGV, 1);
}
