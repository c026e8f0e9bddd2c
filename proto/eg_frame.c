#include "proto/eg_frame.h"

#include "proto/eg_sys.h"

#define FX_BYTES 512u
#define FX_SW_RESERVED 464u /* magic1, extended_size, ... */
#define FX_MAGIC1 0x46505853u
#define UC_FP_XSTATE 1u
#define UC_SS 6u /* UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */

uint32_t eg_frame_xstate_bytes(const uint8_t *fpstate)
{
    uint32_t magic, bytes;
    if (!fpstate)
        return 0;
    memcpy(&magic, fpstate + FX_SW_RESERVED, 4);
    memcpy(&bytes, fpstate + FX_SW_RESERVED + 4, 4);
    return magic == FX_MAGIC1 && bytes >= FX_BYTES && bytes <= EG_XSTATE_MAX_BYTES ? bytes : FX_BYTES;
}

void *eg_frame_build(uint8_t *top, const struct eg_thread_state *state, const uint8_t *xstate, uint64_t mask,
                     const struct eg_frame_stack *stack)
{
    uint8_t *fp = (uint8_t *)(((uint64_t)top - state->xstate_bytes - 64) & ~63ul);
    struct eg_ucontext *uc = (struct eg_ucontext *)(((uint64_t)fp - sizeof *uc - 256) & ~15ul);
    memset(uc, 0, sizeof *uc);
    if (state->xstate_bytes) {
        memcpy(fp, xstate, state->xstate_bytes);
        uc->mc.fpstate = fp;
    }
    uc->flags = UC_SS | (state->xstate_bytes > FX_BYTES ? UC_FP_XSTATE : 0);
    uc->stack.sp = stack->sp;
    uc->stack.flags = (int32_t)stack->flags;
    uc->stack.size = stack->size;
    memcpy(uc->mc.regs, &state->r8, sizeof uc->mc.regs);
    uc->mc.cs = 0x33;
    uc->mc.ss = 0x2b;
    uc->mask = mask;
    return uc;
}
