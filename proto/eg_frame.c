#include "proto/eg_frame.h"

#include "proto/eg_sys.h"

#define FX_BYTES 512u
#define FX_SW_RESERVED 464u /* magic1, extended_size, ... */
#define FX_MAGIC1 0x46505853u
#define FX_MAGIC2 0x46505845u /* follows the extended state */
#define XSTATE_BY_PERMISSION (3ull << 17) /* AMX: not part of a frame that has not asked for it */
#define UC_FP_XSTATE 1u
#define UC_SS 6u /* UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */

/* What its frame says; 0: FXSAVE's part only. */
static uint32_t extended_bytes(const uint8_t *fpstate)
{
    uint32_t magic, bytes;
    memcpy(&magic, fpstate + FX_SW_RESERVED, 4);
    memcpy(&bytes, fpstate + FX_SW_RESERVED + 4, 4);
    return magic == FX_MAGIC1 ? bytes : 0;
}

uint32_t eg_frame_xstate_bytes(const uint8_t *fpstate)
{
    if (!fpstate)
        return 0;
    uint32_t bytes = extended_bytes(fpstate);
    return bytes >= FX_BYTES && bytes <= EG_XSTATE_MAX_BYTES ? bytes : FX_BYTES;
}

int eg_frame_whole(const uint8_t *fpstate)
{
    return !fpstate || extended_bytes(fpstate) <= EG_XSTATE_MAX_BYTES;
}

static void cpuid(uint32_t leaf, uint32_t sub, uint32_t ret[4])
{
    __asm__ volatile("cpuid" : "=a"(ret[0]), "=b"(ret[1]), "=c"(ret[2]), "=d"(ret[3]) : "a"(leaf), "c"(sub));
}

/* Which parts of the state are saved, and how long they are together; 0: this processor only has FXSAVE. */
static uint64_t xstate_parts(uint32_t *ret_bytes)
{
    static uint64_t parts;
    static uint32_t bytes;
    uint32_t r[4], low, high, most = FX_BYTES + 64;
    if (!__atomic_load_n(&bytes, __ATOMIC_ACQUIRE)) {
        uint64_t p = 0;
        cpuid(1, 0, r);
        if (r[2] >> 27 & 1) { /* OSXSAVE */
            __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
            p = ((uint64_t)high << 32 | low) & ~XSTATE_BY_PERMISSION;
        }
        for (uint32_t i = 2; i < 63; i++)
            if (p >> i & 1) {
                cpuid(0xd, i, r);
                most = r[0] + r[1] > most ? r[0] + r[1] : most;
            }
        if (most + 4 > EG_XSTATE_MAX_BYTES)
            p = 0;
        parts = p;
        __atomic_store_n(&bytes, most, __ATOMIC_RELEASE);
    }
    *ret_bytes = bytes;
    return parts;
}

uint32_t eg_frame_xsave(uint8_t *to)
{
    uint32_t bytes, magic1 = FX_MAGIC1, magic2 = FX_MAGIC2;
    uint64_t parts = xstate_parts(&bytes);
    if (!parts) {
        __asm__ volatile("fxsave64 %0" : "=m"(*(uint8_t(*)[FX_BYTES])to));
        memset(to + FX_SW_RESERVED, 0, FX_BYTES - FX_SW_RESERVED);
        return FX_BYTES;
    }
    memset(to, 0, bytes);
    __asm__ volatile("xsave64 %0" : "+m"(*(uint8_t(*)[EG_XSTATE_MAX_BYTES])to) : "a"((uint32_t)parts), "d"((uint32_t)(parts >> 32)));
    uint32_t whole = bytes + 4;
    memset(to + FX_SW_RESERVED, 0, FX_BYTES - FX_SW_RESERVED);
    memcpy(to + FX_SW_RESERVED, &magic1, 4);
    memcpy(to + FX_SW_RESERVED + 4, &whole, 4);
    memcpy(to + FX_SW_RESERVED + 8, &parts, 8);
    memcpy(to + FX_SW_RESERVED + 16, &bytes, 4);
    memcpy(to + bytes, &magic2, 4);
    return whole;
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
