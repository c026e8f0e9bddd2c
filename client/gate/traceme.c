/* traceme.c - a vfork child asks to be traced by its parent, as debuggers start programs. A touch of memory that is away raises SIGBUS, and that would stop
 * the child, for good: its tracer sleeps until the child is another program. So the call is made right before the execve, between which nothing is touched.
 * Nobody could have looked at a stop before. */
#include "client/gate/eg_signals_state.h"
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/wait.h>

#define STATUS_BYTES 1024u

/* Of the child: its parent thread waits for it, and only then is the alternate stack still that one's. A copy of the address space
 * that was made past the gate, or that has its parent's descriptors, looks the same, but for kcmp; its parent can look at its stops. Where the kernel does
 * not tell, it is none. */
static int parent_waits(const struct eg_sig_thread *t, uint32_t pid)
{
    return t && t->owner != (uint32_t)eg_sys0(SYS_gettid) && eg_sys5(SYS_kcmp, pid, eg_sys0(SYS_getppid), KCMP_VM, 0, 0) <= 0;
}

/* /proc says "TracerPid:\t0" where there is none. Where it says nothing, the call before the execve finds out. */
static long has_tracer(void *unused)
{
    static const char field[] = "\nTracerPid:\t";
    char text[STATUS_BYTES];
    (void)unused;
    long fd = eg_fd_open_own("/proc/thread-self/status", O_RDONLY | O_CLOEXEC);
    if (eg_sys_failed(fd))
        return 0;
    long got = eg_sys3(SYS_read, fd, text, sizeof text);
    eg_sys1(SYS_close, fd);
    for (long i = 0; i + (long)sizeof field <= got; i++)
        if (!memcmp(text + i, field, sizeof field - 1))
            return text[i + (long)sizeof field - 1] != '0';
    return 0;
}

int eg_signals_traceme(long *ret_result)
{
    uint32_t pid = (uint32_t)eg_sys0(SYS_getpid);
    struct eg_sig_thread *t = pid == eg_rt.pid ? NULL : eg_sig_thread_here();
    if (!parent_waits(t, pid))
        return 0;
    *ret_result = t->traceme == pid || (!eg_rt.shut_in && eg_gate_alone(has_tracer, NULL)) ? -EPERM : 0;
    if (!*ret_result)
        t->traceme = pid;
    return 1;
}

int eg_sig_traceme_due(const struct eg_sig_thread *t)
{
    return t && t->traceme && t->traceme == (uint32_t)eg_sys0(SYS_getpid);
}

static void reap(long pid, int *ret_status)
{
    while (eg_sys4(SYS_wait4, pid, ret_status, __WALL, 0) == -EINTR)
        ;
}

long eg_sig_exec_try(void *arg)
{
    struct eg_gate_frame f = *(struct eg_gate_frame *)arg; /* that one is on the program's stack */
    const struct eg_sigaction ignore = {.handler = EG_SIG_IGNORE};
    struct eg_sigaction kept;
    int status = -1;
    if (eg_rt.shut_in)
        return 0;
    eg_sig_action_get(SIGCHLD, &kept); /* of the vfork child alone: it must not hear of a child that it did not make */
    eg_sig_action_set(SIGCHLD, &ignore);
    long pid = eg_signals_exec_by_child(&f);
    if (pid > 0)
        reap(pid, &status);
    int stopped = pid > 0 && WIFSTOPPED(status), ended = status;
    if (stopped) {
        eg_sys2(SYS_kill, pid, SIGKILL);
        reap(pid, &ended);
    }
    eg_sig_action_set(SIGCHLD, &ignore); /* one that is blocked waits all the same, until then */
    eg_sig_action_set(SIGCHLD, &kept);
    return stopped || pid < 0 ? 0 : status != -1 && WIFEXITED(status) ? -WEXITSTATUS(status) : -EPERM;
}
