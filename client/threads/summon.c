/* summon.c - a thread at home that should be on a node, and makes no call by which it could go (it spins, or its futex calls are in code that is not
 * patched), is sent a signal while it waits for a page: it goes from the instruction that does. */
#include "client/threads/eg_agent.h"
#include "client/threads/eg_proxy.h"

#include "client/gate/eg_signals.h"
#include "client/pager/eg_pager.h"

#include <signal.h>

#define SUMMONS SIGSTKFLT /* nobody sends it; and only while the program has left it at its default */
#define BIT(sig) (1ull << ((sig) - 1))
#define SA_RESTORER 0x04000000u
#define ALT_AUTODISARM (1u << 31)
#define STACK_LEFT (32u << 10)

/* Neither the runtime's code, which may hold a lock, nor the vDSO's, which may read this machine's clock. */
static int of_program(uint64_t pc)
{
    return (pc < eg_home.code_lo || pc >= eg_home.code_hi) && (pc < eg_home.vdso || pc >= eg_home.vdso_end);
}

static void on_summons(int signal, siginfo_t *info, struct eg_ucontext *uc)
{
    static const struct eg_sigaction by_default;
    uint64_t all = ~0ull;
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
    struct eg_sigaction now;
    if (!eg_sys4(SYS_rt_sigaction, signal, 0, &now, 8) && now.handler == (uint64_t)on_summons)
        eg_sys4(SYS_rt_sigaction, signal, &by_default, 0, 8);
    if (info->si_code != SI_QUEUE || info->si_ptr != &eg_home) { /* not the agent's: it comes again once this handler is left, and does what it does */
        eg_sys3(SYS_tgkill, eg_rt.pid, eg_sys0(SYS_gettid), signal);
        return;
    }
    /* Another signal's handler may have been first. */
    if (!of_program(uc->mc.regs[EG_REG_RIP]) || uc->stack.flags & (int32_t)ALT_AUTODISARM || !eg_frame_whole(uc->mc.fpstate))
        return;
    struct eg_thread *t = eg_home_visitor();
    if (t)
        eg_home_begin_at(t, uc);
}

/* The thread waits for a page. Is it in the program's code, in no system call, which the signal would interrupt, and is there room on its stack? */
static int can_leave(uint32_t tid)
{
    static const char none[] = "-1 0x";
    char text[256];
    uint64_t sp, pc;
    struct eg_area area;
    const char *at = eg_task_text(tid, "/syscall", text, sizeof text);
    if (memcmp(at, none, sizeof none - 1) != 0)
        return 0;
    at = eg_str_hex(at + sizeof none - 1, &sp);
    if (memcmp(at, " 0x", 3) != 0)
        return 0;
    eg_str_hex(at + 3, &pc);
    if (!of_program(pc))
        return 0;
    /* The first thread's stack grows */
    return !eg_area_find(sp, &area) && (area.start <= sp - STACK_LEFT || tid == eg_rt.pid);
}

int eg_summon(uint32_t tid)
{
    struct eg_sigaction now, ours = {(uint64_t)on_summons, SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_RESTORER, (uint64_t)eg_signals_restorer, 0};
    siginfo_t info = {.si_signo = SUMMONS, .si_code = SI_QUEUE};
    /* What costs least first: this is asked again at each fault. */
    if (eg_sys4(SYS_rt_sigaction, SUMMONS, 0, &now, 8) || (now.handler != (uint64_t)SIG_DFL && now.handler != ours.handler) || !can_leave(tid) ||
        eg_task_mask(tid, "\nSigBlk:\t") & BIT(SUMMONS) || eg_task_mask(tid, "\nTracerPid:\t") /* a debugger would stop it */)
        return 0;
    if (now.handler == (uint64_t)SIG_DFL && eg_sys4(SYS_rt_sigaction, SUMMONS, &ours, 0, 8))
        return 0;
    info.si_pid = (int)eg_rt.pid;
    info.si_ptr = &eg_home;
    return !eg_sys4(SYS_rt_tgsigqueueinfo, eg_rt.pid, tid, SUMMONS, &info);
}
