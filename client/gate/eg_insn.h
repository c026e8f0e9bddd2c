/* eg_insn.h - how long one x86-64 instruction is, and whether it does the same at another place. Freestanding. */
#ifndef EG_INSN_H
#define EG_INSN_H

#include <stdint.h>

enum eg_insn_kind {
    EG_INSN_BAD,    /* not an instruction, none that a program executes, or cut off */
    EG_INSN_PLAIN,  /* goes on behind itself, wherever it stands (but for its rip_at) */
    EG_INSN_NOP,    /* the same, and does nothing: padding; endbr64 */
    EG_INSN_BRANCH, /* jcc */
    EG_INSN_LOOP,   /* loop, jrcxz: knows near targets only */
    EG_INSN_JUMP,   /* jmp to a constant place */
    EG_INSN_CALL,   /* call of a constant place */
    EG_INSN_RET,    /* a near return without an operand */
    EG_INSN_END,    /* does not go on: jumps to computed places, traps, other returns */
    EG_INSN_SYSCALL,
    EG_INSN_OTHER,  /* goes on, but knows where it stands: indirect calls, software interrupts */
};

struct eg_insn {
    uint8_t len;
    uint8_t kind;
    uint8_t rex;    /* 0: none */
    uint8_t map;    /* 0: one byte; 1, 2, 3: after 0f, 0f38, 0f3a, or coded by VEX and EVEX */
    uint8_t opcode;
    uint8_t modrm;  /* meaningful where the opcode has one */
    uint8_t rip_at; /* where in the instruction its 32 bits relative to rip are; 0: none */
    int32_t rel;    /* of jumps and calls to constant places: from the instruction's end */
};

/* eg_insn_decode - the instruction at p, which ends before `end`. Context: any. Source: Intel SDM volume 2, appendix A.
 * Returns: its length; 0: kind is EG_INSN_BAD. */
unsigned eg_insn_decode(const uint8_t *p, const uint8_t *end, struct eg_insn *ret);

#endif
