/* tracer.c - a process that shares the program's memory stops the program's threads, to look at it (LeakSanitizer at the end, heap checkers, core dumpers).
 * Its faults go on being served: so nobody is stopped while holding the pager's lock, or working at a page without it, and the runtime's own thread is
 * not to be had. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_capture.h"
#include "client/pager/eg_inline.h"
#include "client/threads/eg_home.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#define GETREGS 12
#define ATTACH 16
#define DETACH 17
#define SEIZE 0x4206
#define INTERRUPT 0x4207
#define RSP 19 /* of struct user_regs_struct */
#define SPINS 50u
#define TRIES 200u
#define NAP_NS 50000
#define STOPS_NS 1000000000u /* a thread that waits for a vfork child does not stop before that has gone on */

/* It is the caller's to be told: the state is only looked at. */
static void stop_wait(long tid)
{
    struct timespec nap = {.tv_nsec = NAP_NS};
    uint64_t end_ns = eg_sys_now_ns() + STOPS_NS;
    for (uint32_t looks = 0; eg_sys_now_ns() < end_ns; looks++) {
        siginfo_t info = {0};
        if (eg_sys5(SYS_waitid, P_PID, tid, &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL, 0) || info.si_pid)
            return;
        if (looks < SPINS)
            eg_sys0(SYS_sched_yield);
        else
            eg_sys5(SYS_ppoll, 0, 0, &nap, 0, 8);
    }
}

struct stop {
    long arg[4];
    int last, again;
};

/* The runtime's locks are ours meanwhile. */
static long stop_locked(struct stop *s)
{
    const long *a = s->arg;
    if ((uint64_t)a[1] == eg_rt.pager_tid)
        return -EPERM;
    long ret = eg_sys4(SYS_ptrace, a[0], a[1], a[2], a[3]);
    if (ret || a[0] == SEIZE)
        return ret;
    stop_wait(a[1]);
    uint64_t regs[27] = {0};
    s->again = !s->last && a[0] == ATTACH && eg_home.active && !eg_sys4(SYS_ptrace, GETREGS, a[1], 0, regs) && eg_home_between((uint32_t)a[1], regs[RSP]) &&
               !eg_sys4(SYS_ptrace, DETACH, a[1], 0, 0);
    return ret;
}

static long stop(void *arg)
{
    struct stop mine = *(struct stop *)arg, *s = &mine; /* that one is on the program's stack, which may be away: nobody could bring it under the lock */
    int nodes = eg_home.active, far = eg_rt.active;
    s->again = 0;
    if (nodes)
        eg_home_halt((uint32_t)s->arg[1]);
    if (far)
        eg_cap_enter();
    while (far && eg_rt.unlocked)
        eg_inline_give_way();
    long ret = stop_locked(s);
    if (far)
        eg_cap_leave(0);
    if (nodes)
        eg_home_halted();
    ((struct stop *)arg)->again = s->again;
    return ret;
}

int eg_gate_tracer(const long arg[6], long *ret_result)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    struct stop s = {.arg = {arg[0], arg[1], arg[2], arg[3]}};
    if ((arg[0] != ATTACH && arg[0] != SEIZE && arg[0] != INTERRUPT) || (uint32_t)eg_sys0(SYS_getpid) == eg_rt.pid)
        return 0;
    for (uint32_t tries = 1;; tries++) { /* its registers are to be the program's: it comes home just now */
        s.last = tries > TRIES;
        *ret_result = eg_gate_alone(stop, &s);
        if (!s.again)
            return 1;
        eg_sys5(SYS_ppoll, 0, 0, &nap, 0, 8);
    }
}
