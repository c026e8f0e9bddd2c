/* tracer.c - a process that shares the program's memory stops the program's threads, to look at it (LeakSanitizer at the end, heap checkers, core dumpers).
 * Its faults go on being served: so nobody is stopped while holding the pager's lock, or working at a page without it, and the runtime's own thread is
 * not to be had. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_capture.h"
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#define ATTACH 16
#define SEIZE 0x4206
#define INTERRUPT 0x4207
#define SPINS 50u
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

static long stop(void *arg)
{
    const long *a = arg;
    eg_cap_enter();
    while (eg_rt.unlocked)
        eg_inline_give_way();
    long ret = (uint64_t)a[1] == eg_rt.pager_tid ? -EPERM : eg_sys4(SYS_ptrace, a[0], a[1], a[2], a[3]);
    if (!ret && a[0] != SEIZE)
        stop_wait(a[1]);
    eg_cap_leave(0);
    return ret;
}

int eg_gate_tracer(const long arg[6], long *ret_result)
{
    long a[4] = {arg[0], arg[1], arg[2], arg[3]};
    if ((arg[0] != ATTACH && arg[0] != SEIZE && arg[0] != INTERRUPT) || (uint32_t)eg_sys0(SYS_getpid) == eg_rt.pid)
        return 0;
    *ret_result = eg_gate_alone(stop, a);
    return 1;
}
