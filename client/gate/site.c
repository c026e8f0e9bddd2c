/* site.c - what a place with the bytes of a `syscall` is, which number it calls, and which instructions around it may become a jump. */
#include "client/gate/eg_site.h"

#define NUMBERS 600u
#define SIGRETURN 15
#define SETTER_REACH 96

/* Is one of the places in (lo, hi) jumped to? */
static int is_target(const struct eg_site *s, const uint8_t *lo, const uint8_t *hi)
{
    for (lo++; lo < hi; lo++)
        if (s->targets >> (lo - s->at + EG_SITE_NEAR) & 1)
            return 1;
    return 0;
}

/* Any near jump onto the syscall, be it of an instruction or of chance bytes? */
static int may_be_near_target(const struct eg_work *w, const uint8_t *at)
{
    const uint8_t *p = at - w->text > 129 ? at - 129 : w->text;
    for (; p < at + 126 && p + 2 <= w->end; p++)
        if (p[1] == (uint8_t)(at - p - 2) && ((p[0] & 0xf0) == 0x70 || p[0] == 0xeb || (p[0] & 0xfc) == 0xe0))
            return 1;
    return 0;
}

/* Does the instruction set eax? ret_nr: to what; -1 unknown. */
static int sets_number(const uint8_t *p, const struct eg_insn *i, int32_t *ret_nr)
{
    int reg = (i->modrm >> 3 & 7) == 0 && !(i->rex & 4), rm = i->modrm >> 6 == 3 && (i->modrm & 7) == 0 && !(i->rex & 1);
    *ret_nr = -1;
    if (i->map == 1)
        return reg && ((i->opcode & 0xf0) == 0x40 || (i->opcode & 0xf6) == 0xb6); /* cmov, movzx, movsx */
    if (i->map)
        return 0;
    switch (i->opcode) {
    case 0xb8:
        if (!(i->rex & 1))
            *ret_nr = (int32_t)eg_load32(p + i->len - 4 - (i->rex & 8 ? 4 : 0));
        return !(i->rex & 1);
    case 0xc7:
        if (rm)
            *ret_nr = (int32_t)eg_load32(p + i->len - 4);
        return rm;
    case 0x31:
    case 0x33:
        if (i->modrm == 0xc0 && !(i->rex & 5))
            *ret_nr = 0;
        return i->opcode == 0x31 ? rm : reg;
    case 0x38: case 0x39: case 0x3a: case 0x3b: case 0x3c: case 0x3d: return 0;
    case 0x80: case 0x81: case 0x83: return rm && (i->modrm >> 3 & 7) != 7; /* but for cmp */
    case 0x88: case 0x89: case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: case 0xf6: case 0xf7: case 0xfe: case 0xff: return rm;
    case 0x63: case 0x69: case 0x6b: case 0x8a: case 0x8b: case 0x8d: return reg;
    case 0x58: case 0xb0: return !(i->rex & 1);
    case 0x98: return 1;
    default: break;
    }
    if (i->opcode < 0x40)
        return (i->opcode & 7) >= 4 ? (i->opcode & 7) < 6 : i->opcode & 2 ? reg : rm;
    return i->opcode > 0x90 && i->opcode < 0x98; /* xchg */
}

/* The last setting of eax before the syscall. Returns: 0 none. */
static int find_number(struct eg_site *s, const struct eg_window *w, const struct eg_work *work)
{
    struct eg_insn insn;
    const uint8_t *p = s->at - w->from > SETTER_REACH ? s->at - SETTER_REACH : w->from, *setter = NULL;
    for (p = eg_window_next(w, p); p < s->at; p = eg_window_next(w, p + 1)) {
        int32_t nr;
        if (!eg_insn_decode(p, work->end, &insn) || p + insn.len > s->at)
            continue;
        if (sets_number(p, &insn, &nr)) {
            setter = p;
            s->nr = nr;
        } else if (insn.kind == EG_INSN_CALL || insn.kind == EG_INSN_OTHER) {
            s->nr = -1;
        }
    }
    if (!setter || s->at - setter > EG_SITE_NEAR || is_target(s, setter, s->at + 1))
        s->nr = -1;
    if (w->over_data && setter && *setter != 0x89 && *setter != 0x8b) /* data look like anything */
        return s->nr >= 0 && s->nr < (int32_t)NUMBERS;
    return setter != NULL;
}

/* rt_sigreturn takes the whole stack pointer and never comes back; its bytes are what unwinders know it by. */
static int is_sigreturn(const uint8_t *at, const uint8_t *text)
{
    return at - text >= 5 && eg_load32(at - 4) == SIGRETURN && (at[-5] == 0xb8 || at[-5] == 0xc0);
}

/* A jump into a trampoline, which takes the place of the instructions in front of the syscall. */
static int is_patched(const struct eg_work *w, const uint8_t *at)
{
    for (const uint8_t *p = at - 5; p >= w->text && p >= at - EG_WINDOW_CLOSE; p--) {
        const uint8_t *to = p + 5 + (int32_t)eg_load32(p + 1);
        if (*p != 0xe9 || (to >= w->text && to < w->end))
            continue;
        if (p == at - 5) /* by another copy of the runtime, if not by this one */
            return 1;
        if (eg_trampolines_have((uint64_t)to))
            return 1;
    }
    return 0;
}

/* Compiled code lets no flags live across a system call; other code might. */
static int reads_flags(const struct eg_insn *i)
{
    if (i->kind == EG_INSN_BRANCH)
        return 1;
    if (i->map == 1)
        return (i->opcode & 0xf0) == 0x40 || (i->opcode & 0xf0) == 0x90;
    return i->map == 0 && (i->opcode == 0x9c || i->opcode == 0x9f || (i->opcode >= 0x10 && i->opcode < 0x20));
}

static int behind_reads_flags(const struct eg_work *w, const uint8_t *at)
{
    struct eg_insn insn;
    return eg_insn_decode(at + 2, w->end, &insn) && reads_flags(&insn);
}

static int may_move(const struct eg_insn *insn)
{
    return insn->kind == EG_INSN_PLAIN || insn->kind == EG_INSN_BRANCH;
}

/* The borders of the movable instructions right before the syscall, nearest first. Returns: how many. */
static unsigned borders_before(const struct eg_site *s, const struct eg_window *w, const struct eg_work *work, const uint8_t *floor, uint8_t ret[])
{
    struct eg_insn insn;
    unsigned n = 0;
    const uint8_t *next = s->at;
    for (const uint8_t *p = s->at - 1; p >= floor && s->at - p < 20 && n < 8; p--) {
        if (!eg_window_alive(w, p))
            continue;
        if (eg_insn_decode(p, work->end, &insn) != next - p || !may_move(&insn))
            break;
        ret[n++] = (uint8_t)(s->at - p);
        next = p;
        if (s->at - p >= 5)
            break;
    }
    return n;
}

/* The same behind it, its own two bytes included. */
static unsigned borders_behind(const struct eg_site *s, const struct eg_work *work, const uint8_t *ceiling, uint8_t ret[])
{
    struct eg_insn insn;
    unsigned n = 0, at = 2;
    ret[n++] = 2;
    while (at < 5 && eg_insn_decode(s->at + at, work->end, &insn) && s->at + at + insn.len <= ceiling) {
        int last = insn.kind == EG_INSN_JUMP || insn.kind == EG_INSN_RET;
        if (!may_move(&insn) && !last)
            break;
        at += insn.len;
        ret[n++] = (uint8_t)at;
        if (last)
            break;
    }
    return n;
}

static int pick_bytes(struct eg_site *s, const struct eg_window *w, const struct eg_work *work, const uint8_t *floor, const uint8_t *ceiling)
{
    uint8_t before[8], behind[8];
    unsigned n = borders_before(s, w, work, floor, before), m = borders_behind(s, work, ceiling, behind);
    if (n && before[n - 1] >= 5 && !is_target(s, s->at - before[n - 1], s->at + 1)) {
        s->before = before[n - 1];
        s->after = 0;
        return 1;
    }
    for (unsigned i = 0; i <= n; i++)
        for (unsigned k = 0; k < m; k++) {
            unsigned b = i ? before[i - 1] : 0, a = behind[k];
            if (a + b >= 5 && !is_target(s, s->at - b, s->at + a)) {
                s->before = (uint8_t)b;
                s->after = (uint8_t)a;
                return 1;
            }
        }
    return 0;
}

void eg_site_pick(const struct eg_work *work, struct eg_site *s)
{
    const struct eg_site *end = work->site + work->n;
    const uint8_t *floor = s > work->site ? s[-1].at + (s[-1].after ? s[-1].after : 2) : work->text;
    const uint8_t *ceiling = s + 1 < end ? s[1].at - s[1].before : work->end;
    struct eg_window w;
    s->again = s->before = s->after = 0;
    s->nr = -1;
    int direct = s->at - 5 >= floor && eg_patch_is_number(s->at - 5, work->text) && eg_load32(s->at - 4) < NUMBERS;
    if (is_sigreturn(s->at, work->text))
        return;
    if (is_patched(work, s->at)) {
        s->state = EG_SITE_BEFORE;
        return;
    }
    if (direct && !(s->targets >> EG_SITE_NEAR & 1) && !behind_reads_flags(work, s->at) && !may_be_near_target(work, s->at)) {
        s->nr = (int32_t)eg_load32(s->at - 4);
        s->before = 5;
        s->state = EG_SITE_PATCH;
        return;
    }
    eg_window_fill(&w, work, s->at);
    const uint8_t *back = s->at - work->text > EG_WINDOW_CLOSE ? s->at - EG_WINDOW_CLOSE : work->text;
    int here = eg_window_alive(&w, s->at);
    eg_window_targets(s, &w, work);
    int number = find_number(s, &w, work), sure = here && !w.over_data && eg_window_is_one_stream(&w, work, back, s->at + 2);
    if (!direct && !(here && (number || sure)))
        return;
    s->state = EG_SITE_LEFT;
    if (sure && number && !behind_reads_flags(work, s->at) && pick_bytes(s, &w, work, floor, ceiling))
        s->state = EG_SITE_PATCH;
}
