/* eg_gate.h - the one place through which the program's memory, process and descriptor calls pass. Freestanding.
 *
 * The system-call sites `mov $nr,%eax; syscall` of libc and ld.so are patched: the mov becomes a jump to a trampoline (the
 * syscall bytes stay, so a jump onto them still works), which calls eg_gate_entry with the registers of the call. */
#ifndef EG_GATE_H
#define EG_GATE_H

#include <stddef.h>
#include <stdint.h>

/* X(name, number, needed): needed: libc must have a site for it, or the program's memory cannot be kept truthfully. */
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
    X(exit, 60, 0)            \
    X(close, 3, 1)            \
    X(close_range, 436, 0)    \
    X(dup2, 33, 0)            \
    X(dup3, 292, 0)

struct eg_gate_frame {
    long pass; /* out: 1: make the call in place, with the registers as they were */
    long nr;
    long arg[6];
};

/* eg_gate_dispatch - one call of the program's. Context: any program thread, on its own stack.
 * Returns: the call's result or -errno; meaningless when frame->pass is set. */
long eg_gate_dispatch(struct eg_gate_frame *frame);
/* eg_gate_exits - set before patching: thread ends (exit) are led to the gate as well; only remote threads need that. */
extern uint8_t eg_gate_exits;

/* eg_gate_init - set up the gate's stacks. Returns: 0, -ENOMEM. */
int eg_gate_init(void);

/* eg_gate_patch - patch every known site in [text, text+bytes). Context: start-up, one thread.
 * ret_found: per entry of EG_GATE_CALLS, counts added up; ret_patched: sites that were patched before, added up.
 * Returns: the number of sites patched, or -errno. */
int eg_gate_patch(uint8_t *text, size_t bytes, uint32_t *ret_found, uint32_t *ret_patched);

/* gate.S */
void eg_gate_entry(void);
long eg_gate_call_on(void *stack_top, long (*fn)(struct eg_gate_frame *), struct eg_gate_frame *frame);

#endif
