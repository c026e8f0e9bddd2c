/* insn.c - a length decoder for x86-64: as much as finding instructions' borders, and moving some, takes. */
#include "client/gate/eg_insn.h"
#include "proto/eg_sys.h"

#define MAX_BYTES 15

/* What follows an opcode. */
enum {
    M = 1,    /* modrm */
    B = 2,    /* 8 bits */
    W = 4,    /* 16 bits */
    Z = 8,    /* 32 bits, 16 after 66 */
    D = 16,   /* 32 bits, always */
    P = 32,   /* a prefix */
    X = 64,   /* not in 64-bit user code */
    S = 128,  /* has a rule of its own */
};

#define ALU M, M, M, M, B, Z
static const uint8_t one_byte[256] = {
    /* 00 */ ALU, X, X, ALU, X, S,
    /* 10 */ ALU, X, X, ALU, X, X,
    /* 20 */ ALU, P, X, ALU, P, X,
    /* 30 */ ALU, P, X, ALU, P, X,
    /* 40 */ P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P,
    /* 50 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    /* 60 */ X, X, S, M, P, P, P, P, Z, M | Z, B, M | B, X, X, X, X,
    /* 70 */ B, B, B, B, B, B, B, B, B, B, B, B, B, B, B, B,
    /* 80 */ M | B, M | Z, X, M | B, M, M, M, M, M, M, M, M, M, M, M, M,
    /* 90 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, X, 0, 0, 0, 0, 0,
    /* a0 */ S, S, S, S, 0, 0, 0, 0, B, Z, 0, 0, 0, 0, 0, 0,
    /* b0 */ B, B, B, B, B, B, B, B, S, S, S, S, S, S, S, S,
    /* c0 */ M | B, M | B, W, 0, S, S, M | B, M | Z, W | B, 0, W, 0, 0, B, X, 0,
    /* d0 */ M, M, M, M, X, X, X, 0, M, M, M, M, M, M, M, M,
    /* e0 */ B, B, B, B, X, X, X, X, D, D, X, B, X, X, X, X,
    /* f0 */ P, 0, P, P, 0, 0, M | S, M | S, 0, 0, X, X, 0, 0, M, M,
};

#define ROW(x) x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x
static const uint8_t two_byte[256] = {
    /* 00 */ M, M, M, M, X, 0, X, X, X, X, X, 0, X, M, X, X,
    /* 10 */ ROW(M),
    /* 20 */ X, X, X, X, X, X, X, X, M, M, M, M, M, M, M, M,
    /* 30 */ X, 0, X, 0, X, X, X, X, S, X, S, X, X, X, X, X,
    /* 40 */ ROW(M),
    /* 50 */ ROW(M),
    /* 60 */ ROW(M),
    /* 70 */ M | B, M | B, M | B, M | B, M, M, M, 0, M, M, X, X, M, M, M, M,
    /* 80 */ ROW(D),
    /* 90 */ ROW(M),
    /* a0 */ 0, 0, 0, M, M | B, M, X, X, 0, 0, X, M, M | B, M, M, M,
    /* b0 */ M, M, M, M, M, M, M, M, M, M, M | B, M, M, M, M, M,
    /* c0 */ M, M, M | B, M, M | B, M | B, M | B, M, 0, 0, 0, 0, 0, 0, 0, 0,
    /* d0 */ ROW(M),
    /* e0 */ ROW(M),
    /* f0 */ ROW(M),
};

typedef int32_t __attribute__((may_alias, aligned(1))) any_word32;

struct cursor {
    const uint8_t *p, *start, *end;
};

/* The length of modrm and what belongs to it; 0: cut off. */
static unsigned address_bytes(const struct cursor *c, uint8_t *ret_rip_at)
{
    if (c->p >= c->end)
        return 0;
    uint8_t modrm = *c->p, mod = modrm >> 6, rm = modrm & 7;
    unsigned n = 1;
    if (mod == 3)
        return 1;
    if (rm == 4) {
        if (c->end - c->p < 2)
            return 0;
        n++;
        if (mod == 0 && (c->p[1] & 7) == 5)
            n += 4;
    } else if (mod == 0 && rm == 5) {
        *ret_rip_at = (uint8_t)(c->p + 1 - c->start);
        n += 4;
    }
    return n + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

static uint8_t kind_one(const struct eg_insn *i, int repeat)
{
    uint8_t op = i->opcode;
    switch (op) {
    case 0xe0: case 0xe1: case 0xe2: case 0xe3: return EG_INSN_LOOP;
    case 0xe8: return EG_INSN_CALL;
    case 0xe9: case 0xeb: return EG_INSN_JUMP;
    case 0xc3: return EG_INSN_RET;
    case 0xc2: case 0xca: case 0xcb: case 0xcc: case 0xcf: case 0xf4: return EG_INSN_END;
    case 0xcd: case 0xf1: return EG_INSN_OTHER;
    case 0xc6: case 0xc7: /* /0 only, but for xabort and xbegin */
        return i->modrm == 0xf8 ? EG_INSN_OTHER : i->modrm & 0x38 ? EG_INSN_BAD : EG_INSN_PLAIN;
    case 0x8f: return i->modrm & 0x38 ? EG_INSN_BAD : EG_INSN_PLAIN;
    case 0x90: return i->rex & 1 ? EG_INSN_PLAIN : repeat ? EG_INSN_PLAIN : EG_INSN_NOP;
    case 0xfe: return (i->modrm & 0x38) > 0x08 ? EG_INSN_BAD : EG_INSN_PLAIN;
    case 0xff:
        switch (i->modrm >> 3 & 7) {
        case 2: case 3: return EG_INSN_OTHER;
        case 4: case 5: return EG_INSN_END;
        case 7: return EG_INSN_BAD;
        default: return EG_INSN_PLAIN;
        }
    default: return (op & 0xf0) == 0x70 ? EG_INSN_BRANCH : EG_INSN_PLAIN;
    }
}

static uint8_t kind_two(const struct eg_insn *i)
{
    uint8_t op = i->opcode;
    switch (op) {
    case 0x05: return EG_INSN_SYSCALL;
    case 0x0b: case 0xff: case 0xb9: return EG_INSN_END; /* ud2 and its like */
    case 0x1c: case 0x1d: case 0x1e: case 0x1f: return EG_INSN_NOP;
    default: return (op & 0xf0) == 0x80 ? EG_INSN_BRANCH : EG_INSN_PLAIN;
    }
}

/* VEX and EVEX: the opcode's map, and in c the place of the opcode. Returns: 0 cut off or none. */
static int vector_prefix(struct cursor *c, uint8_t first, struct eg_insn *ret)
{
    unsigned payload = first == 0xc5 ? 1 : first == 0xc4 ? 2 : 3;
    if (c->end - c->p < (ptrdiff_t)payload + 1)
        return 0;
    ret->map = first == 0xc5 ? 1 : *c->p & (first == 0xc4 ? 0x1f : 7);
    c->p += payload;
    return ret->map != 0 && ret->map < 7 && (first == 0x62 || ret->map < 4);
}

static uint8_t vector_layout(const struct eg_insn *i)
{
    if (i->map == 1)
        return i->opcode == 0x77 ? 0 : M | (two_byte[i->opcode] & B);
    return i->map == 3 ? M | B : M;
}

unsigned eg_insn_decode(const uint8_t *p, const uint8_t *end, struct eg_insn *ret)
{
    struct cursor c = {.p = p, .start = p, .end = end - p > MAX_BYTES ? p + MAX_BYTES : end};
    int narrow = 0, address32 = 0, repeat = 0, vector = 0;
    uint8_t layout;
    *ret = (struct eg_insn){0};
    for (;;) {
        if (c.p >= c.end)
            return 0;
        ret->opcode = *c.p++;
        layout = one_byte[ret->opcode];
        if (layout != P)
            break;
        if (ret->rex) /* it must be the last */
            return 0;
        if ((ret->opcode & 0xf0) == 0x40)
            ret->rex = ret->opcode;
        narrow |= ret->opcode == 0x66;
        address32 |= ret->opcode == 0x67;
        repeat |= ret->opcode == 0xf3;
    }
    if (ret->opcode == 0xc4 || ret->opcode == 0xc5 || ret->opcode == 0x62) {
        if (ret->rex || !vector_prefix(&c, ret->opcode, ret))
            return 0;
        ret->opcode = *c.p++;
        layout = vector_layout(ret);
        vector = 1;
    } else if (ret->opcode == 0x0f) {
        if (c.p >= c.end)
            return 0;
        ret->map = 1;
        ret->opcode = *c.p++;
        layout = two_byte[ret->opcode];
        if (layout == S) {
            if (c.p >= c.end)
                return 0;
            layout = ret->opcode == 0x38 ? M : M | B;
            ret->map = ret->opcode == 0x38 ? 2 : 3;
            ret->opcode = *c.p++;
        }
    }
    if (layout == X)
        return 0;
    unsigned n = 0;
    if (layout & M) {
        n = address_bytes(&c, &ret->rip_at);
        if (!n)
            return 0;
        ret->modrm = *c.p;
    }
    unsigned z = narrow && !(ret->rex & 8) ? 2 : 4;
    n += (layout & B ? 1u : 0) + (layout & W ? 2u : 0) + (layout & Z ? z : 0) + (layout & D ? 4u : 0);
    if (layout & S) {
        if ((ret->opcode & 0xfc) == 0xa0)
            n += address32 ? 4 : 8;
        else if ((ret->opcode & 0xf8) == 0xb8)
            n += ret->rex & 8 ? 8 : z;
        else if (!(ret->modrm & 0x30)) /* f6, f7: test */
            n += ret->opcode & 1 ? z : 1;
    }
    if (c.end - c.p < (ptrdiff_t)n)
        return 0;
    c.p += n;
    if (vector || ret->map > 1)
        ret->kind = EG_INSN_PLAIN;
    else
        ret->kind = ret->map ? kind_two(ret) : kind_one(ret, repeat);
    if (ret->rip_at && address32 && ret->kind == EG_INSN_PLAIN)
        ret->kind = EG_INSN_OTHER;
    switch (ret->kind) {
    case EG_INSN_BAD: return 0;
    case EG_INSN_BRANCH: case EG_INSN_LOOP: case EG_INSN_JUMP: case EG_INSN_CALL:
        if (n == 1)
            ret->rel = (int8_t)c.p[-1];
        else
            ret->rel = *(const any_word32 *)(c.p - 4);
        break;
    default: break;
    }
    ret->len = (uint8_t)(c.p - p);
    return ret->len;
}
