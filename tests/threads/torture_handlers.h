/* torture_handlers.h - handlers of signals, for the torture programs that are about them. */
#ifndef TORTURE_HANDLERS_H
#define TORTURE_HANDLERS_H

#include "torture.h"

#include <setjmp.h>
#include <signal.h>

static inline void handle(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    SYS(sigemptyset(&action.sa_mask));
    SYS(sigaction(signal, &action, NULL));
}

static inline void unhandle(int signal)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    SYS(sigaction(signal, &action, NULL));
}

static __thread sigjmp_buf escape;
static __thread volatile sig_atomic_t last_signal, last_code;

static inline void jump_out(int signal, siginfo_t *info, void *context)
{
    (void)context;
    last_signal = signal;
    last_code = info->si_code;
    siglongjmp(escape, 1);
}

#endif
