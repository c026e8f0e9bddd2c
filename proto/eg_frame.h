/* eg_frame.h - a thread's registers: from the kernel's signal frame, and back into one. Freestanding; x86-64.
 * Source: arch/x86/include/uapi/asm/sigcontext.h and asm/ucontext.h of Linux (layouts are ABI). */
#ifndef EG_FRAME_H
#define EG_FRAME_H

#include "proto/eg_threads.h"

struct eg_sigcontext {
    uint64_t regs[18]; /* as eg_thread_state has them, from r8 to eflags */
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2;
    uint8_t *fpstate;
    uint64_t reserved[8];
};

struct eg_ucontext {
    uint64_t flags;
    void *link;
    struct {
        void *sp;
        int32_t flags;
        uint64_t size;
    } stack;
    struct eg_sigcontext mc;
    uint64_t mask;
};
_Static_assert(sizeof(struct eg_ucontext) == 304, "the kernel's layout");

enum { EG_REG_RDI = 8, EG_REG_RSI = 9, EG_REG_RDX = 12, EG_REG_RAX = 13, EG_REG_RCX = 14, EG_REG_RSP = 15, EG_REG_RIP = 16,
       EG_REG_R8 = 0, EG_REG_R9 = 1, EG_REG_R10 = 2, EG_REG_R12 = 4, EG_REG_R13 = 5, EG_REG_R14 = 6, EG_REG_R15 = 7,
       EG_REG_RBP = 10, EG_REG_RBX = 11 };

/* What rt_sigreturn and sigaltstack take. */
struct eg_frame_stack {
    void *sp;
    uint64_t flags, size;
};

/* eg_frame_xstate_bytes - how much of extended state lies at `fpstate`; at most EG_XSTATE_MAX_BYTES. */
uint32_t eg_frame_xstate_bytes(const uint8_t *fpstate);

/* eg_frame_whole - is that all of it? A program that has asked for AMX has more. */
int eg_frame_whole(const uint8_t *fpstate);

/* eg_frame_build - a signal frame below `top` (private memory, EG_XSTATE_MAX_BYTES + 1 KiB of it) from which rt_sigreturn makes
 * the registers `state`, the extended state `xstate` (state->xstate_bytes of it; 0: initial), the signal mask and the alternate stack.
 * The bases of FS and GS are the caller's to set. Returns: the stack pointer for eg_frame_return. */
void *eg_frame_build(uint8_t *top, const struct eg_thread_state *state, const uint8_t *xstate, uint64_t mask,
                     const struct eg_frame_stack *stack);

/* eg_frame_xsave - the calling thread's extended state as a signal frame has it. to: EG_XSTATE_MAX_BYTES, 64-byte aligned.
 * Returns: how many bytes. Source: the kernel's arch/x86/kernel/fpu/signal.c (layout), Intel SDM vol. 1, 13 (XSAVE). */
uint32_t eg_frame_xsave(uint8_t *to);

/* eg_frame_return - rt_sigreturn from that stack pointer. */
static inline __attribute__((noreturn)) void eg_frame_return(void *sp)
{
    __asm__ volatile("mov %0, %%rsp\n\tmov $15, %%eax\n\tsyscall\n\tud2" : : "r"(sp) : "memory");
    __builtin_unreachable();
}

#endif
