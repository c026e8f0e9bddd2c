/* eg_gate.h - the one place through which the program's memory, process and descriptor calls pass. Freestanding.
 *
 * The system-call sites `mov $nr,%eax; syscall` of libc and ld.so are patched: the mov becomes a jump to a trampoline (the
 * syscall bytes stay, so a jump onto them still works), which calls eg_gate_entry with the registers of the call. */
#ifndef EG_GATE_H
#define EG_GATE_H

#include <stddef.h>
#include <stdint.h>

/* X(name, number, needed): needed: libc must have a site for it, or the program's memory cannot be kept truthfully. EG_GATE_FOR_VIEW: patched
 * only where the machine is to look bigger than it is (eg_gate_view). EG_GATE_FOR_NODES: patched only where threads may be away (eg_gate_nodes). EG_GATE_FOR_START: only
 * the one by which libc's new threads open their signal mask, right before the program's function. */
#define EG_GATE_FOR_VIEW 2
#define EG_GATE_FOR_NODES 3
#define EG_GATE_FOR_START 4
#define EG_GATE_CALLS(X)      \
    X(mmap, 9, 1)             \
    X(mprotect, 10, 1)        \
    X(munmap, 11, 1)          \
    X(brk, 12, 1)             \
    X(mremap, 25, 1)          \
    X(madvise, 28, 1)         \
    X(clone, 56, 1)           \
    X(clone3, 435, 0)         \
    X(fork, 57, 0)            \
    X(vfork, 58, 0)           \
    X(pkey_mprotect, 329, 0)  \
    X(exit, 60, EG_GATE_FOR_NODES)   \
    X(futex, 202, EG_GATE_FOR_NODES) \
    X(rt_sigprocmask, 14, EG_GATE_FOR_START) \
    X(close, 3, 1)            \
    X(close_range, 436, 0)    \
    X(dup2, 33, 0)            \
    X(dup3, 292, 0)           \
    X(sched_setaffinity, 203, EG_GATE_FOR_VIEW) \
    X(sched_getaffinity, 204, EG_GATE_FOR_VIEW) \
    X(open, 2, EG_GATE_FOR_VIEW)                \
    X(openat, 257, EG_GATE_FOR_VIEW)            \
    X(lseek, 8, EG_GATE_FOR_VIEW)               \
    X(execve, 59, EG_GATE_FOR_VIEW)             \
    X(execveat, 322, EG_GATE_FOR_VIEW)

struct eg_gate_frame {
    long pass; /* out: 1: make the call in place, with the registers as they were */
    long nr;
    long arg[6];
};

/* eg_gate_dispatch - one call of the program's. Context: any program thread, on its own stack.
 * Returns: the call's result or -errno; meaningless when frame->pass is set. */
long eg_gate_dispatch(struct eg_gate_frame *frame);
/* eg_gate_nodes - set before patching: thread ends (exit) and futex calls are led to the gate as well; only remote threads need that. */
extern uint8_t eg_gate_nodes;
/* eg_gate_start - set by patching: the place where libc's new threads are ready to run was found. */
extern uint8_t eg_gate_start;
/* eg_gate_view - set before patching: the calls by which a program counts processors are led to the gate. */
extern uint8_t eg_gate_view;

/* eg_gate_init - set up the gate's stacks. Returns: 0, -ENOMEM. */
int eg_gate_init(void);

/* eg_gate_patch - patch every known site in [text, text+bytes). Context: start-up, one thread.
 * ret_found: per entry of EG_GATE_CALLS, counts added up; ret_patched: sites that were patched before, added up.
 * Returns: the number of sites patched, or -errno. */
int eg_gate_patch(uint8_t *text, size_t bytes, uint32_t *ret_found, uint32_t *ret_patched);

/* eg_gate_on_stack - fn(arg) on a stack of the gate's. Context: all signals blocked but those that the runtime itself serves. Returns: what fn does. */
long eg_gate_on_stack(long (*fn)(void *), void *arg);

/* gate.S */
void eg_gate_entry(void);
long eg_gate_call_on(void *stack_top, long (*fn)(void *), void *arg);

#endif
