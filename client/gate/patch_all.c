/* patch_all.c - lead every system call of a text to the gate, whatever its number. Five bytes around the `syscall` become a jump; the instructions
 * that stood there are done in the trampoline. Where the instructions before the `syscall` give the room, it stays where it is, and a call that
 * the gate passes is made there; else the trampoline makes it. No overwritten byte but the first may be jumped to: all jumps to constant
 * places and all jump tables of the object are looked at. Instructions are told from chance bytes by decoding from every place where one may
 * begin, far enough before: what all of these agree on is what the processor sees. */
#include "client/gate/eg_gate.h"
#include "proto/eg_sys.h"
#include "client/gate/eg_insn.h"
#include "client/gate/eg_patch.h"
#include "client/gate/eg_texts.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#define PAGE 4096ul
#define TEXT_MAX (256ul << 20)
#define MAX_SITES 16384u
#define TRAMPOLINE_MAX 160u
#define NUMBERS 600u
#define SIGRETURN 15
#define ROUNDS 4
#define TABLE_ENTRIES 4096u
#define MAX_AREAS 256u
#define MAX_TABLES 65536u
#define MAX_NEAR 65536u

/* Decoded around a site: decoding starts BACK bytes before it, is one stream by SURE bytes before it, and goes on for AHEAD bytes: a near
 * jump's reach and an instruction more on both sides. */
#define BACK 320
#define SURE 150
#define AHEAD 150
#define WORDS ((BACK + AHEAD + 64) / 64)
#define STARTS 15
#define CLOSE 24
#define SETTER_REACH 96

/* A site's neighbourhood, of which one word says where jumps go: from 32 bytes before it to 31 behind. */
#define NEAR 32

enum { SITE_NONE, SITE_PATCH, SITE_BEFORE, SITE_LEFT };

struct site {
    uint8_t *at; /* the syscall */
    uint64_t targets;
    int32_t nr;          /* -1: not constant */
    uint8_t before;      /* bytes moved in front of it */
    uint8_t after;       /* 0: it stays; else the bytes taken from it on, its own two included */
    uint8_t state, again;
};

struct table {
    uint64_t at;
    const uint8_t *by; /* the opcode of what takes its address */
    int absolute;
};

struct work {
    uint8_t *text, *end;
    const struct eg_gate_text *object;
    struct site *site;
    uint32_t n;
    struct table *table;
    uint32_t n_tables;
    int too_many;
    eg_gate_look_fn *look;
    uint8_t *coarse; /* a bit for 64 bytes of the text: some of them may have to be not jumped to */
    const uint8_t **jump; /* what may be jumps from afar to there, once the whole text has been looked at */
    uint32_t n_jumps;
    int looked; /* it has, and all of them have found room */
};

struct window {
    const uint8_t *from, *to;
    uint64_t alive[WORDS]; /* an instruction begins here, in a stream that goes on to the end */
    int over_data;         /* no stream does: these may be data */
};

static struct {
    uint64_t start, end;
} areas[MAX_AREAS];
static uint32_t n_areas;

typedef uint32_t __attribute__((may_alias, aligned(1))) any_word32;
typedef uint64_t __attribute__((may_alias, aligned(1))) any_word64;

static inline uint32_t load32(const uint8_t *p)
{
    return *(const any_word32 *)p;
}

/* --- a quick look ------------------------------------------------------------------------------------------------------ */

#define BLOCK 64
#define LOOK_BEYOND 8

/* Bytes that equal: their top bits, and perhaps some above the first of these. */
static inline uint64_t bytes_equal(uint64_t word, uint64_t byte)
{
    const uint64_t ones = 0x0101010101010101ull;
    word ^= ones * byte;
    return (word - ones) & ~word & ones * 0x80;
}

static uint64_t look_plain(const uint8_t *p, int what)
{
    const uint64_t ones = 0x0101010101010101ull, even = ones * 0xfe, high = ones * 0xf0, no_reg = ones * 0xc7;
    uint64_t found = 0;
    for (unsigned i = 0; i < BLOCK; i += 8) {
        uint64_t word = *(const any_word64 *)(p + i), next = *(const any_word64 *)(p + i + 1), hit;
        if (what == EG_GATE_LOOK_SYSCALLS)
            hit = bytes_equal(word, 0x0f) & bytes_equal(next, 0x05);
        else
            hit = bytes_equal(word & even, 0xe8) | (bytes_equal(word, 0x0f) & bytes_equal(next & high, 0x80)) |
                  (bytes_equal(word, 0x8d) & bytes_equal(next & no_reg, 0x05)) | (bytes_equal(word, 0xff) & bytes_equal(next, 0x24));
        found |= (hit >> 7) * 0x0102040810204080ull >> 56 << i;
    }
    return found;
}

/* --- instructions around a place -------------------------------------------------------------------------------------- */

static int bit_get(const uint64_t *words, size_t i)
{
    return words[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *words, size_t i)
{
    words[i / 64] |= 1ull << (i % 64);
}

static int is_alive(const struct window *w, const uint8_t *p)
{
    return p >= w->from && p < w->to && bit_get(w->alive, (size_t)(p - w->from));
}

static const uint8_t *next_alive(const struct window *w, const uint8_t *p)
{
    while (p < w->to && !is_alive(w, p))
        p++;
    return p;
}

/* A stream that comes to what is no instruction before `at` was none, unless the bytes there are data (over_data). */
static void window_decode(struct window *w, const struct work *work, const uint8_t *at, int over_data)
{
    uint64_t seen[WORDS] = {0};
    uint16_t path[BACK + AHEAD];
    struct eg_insn insn;
    for (unsigned start = 0; start < STARTS; start++) {
        const uint8_t *p = w->from + start;
        unsigned n = 0;
        int alive = 1;
        while (p < w->to) {
            size_t i = (size_t)(p - w->from);
            if (bit_get(seen, i)) {
                alive = bit_get(w->alive, i);
                break;
            }
            bit_set(seen, i);
            path[n++] = (uint16_t)i;
            if (eg_insn_decode(p, work->end, &insn)) {
                p += insn.len;
            } else if (over_data || p > at + CLOSE) {
                p++;
            } else {
                alive = 0;
                break;
            }
        }
        for (unsigned k = 0; alive && k < n; k++)
            bit_set(w->alive, path[k]);
    }
}

static void window_fill(struct window *w, const struct work *work, const uint8_t *at)
{
    memset(w, 0, sizeof *w);
    w->from = at - work->text > BACK ? at - BACK : work->text;
    w->to = work->end - at > AHEAD ? at + AHEAD : work->end;
    window_decode(w, work, at, 0);
    const uint8_t *near = at - w->from > CLOSE ? at - CLOSE : w->from;
    w->over_data = next_alive(w, near) > at;
    if (w->over_data)
        window_decode(w, work, at, 1);
}

/* Do all streams agree from p to `to`? */
static int is_one_stream(const struct window *w, const struct work *work, const uint8_t *p, const uint8_t *to)
{
    struct eg_insn insn;
    for (p = next_alive(w, p); p < to;) {
        if (!eg_insn_decode(p, work->end, &insn))
            return 0;
        const uint8_t *next = p + insn.len;
        for (p++; p < next && p < to; p++)
            if (is_alive(w, p))
                return 0;
        p = next;
    }
    return 1;
}

static void target_add(struct site *s, const uint8_t *to)
{
    int64_t i = to - s->at + NEAR;
    if (i >= 0 && i < 64)
        s->targets |= 1ull << i;
}

static int is_jump(const struct eg_insn *insn)
{
    return insn->kind == EG_INSN_BRANCH || insn->kind == EG_INSN_JUMP || insn->kind == EG_INSN_LOOP || insn->kind == EG_INSN_CALL;
}

/* Every stream's jumps count. */
static void near_targets(struct site *s, const struct window *w, const struct work *work)
{
    struct eg_insn insn;
    const uint8_t *p = s->at - w->from > SURE ? s->at - SURE : w->from;
    for (p = next_alive(w, p); p < w->to; p = next_alive(w, p + 1))
        if (eg_insn_decode(p, work->end, &insn) && is_jump(&insn))
            target_add(s, p + insn.len + insn.rel);
}

/* Is one of the places in (lo, hi) jumped to? */
static int is_target(const struct site *s, const uint8_t *lo, const uint8_t *hi)
{
    for (lo++; lo < hi; lo++)
        if (s->targets >> (lo - s->at + NEAR) & 1)
            return 1;
    return 0;
}

/* Any near jump onto the syscall, be it of an instruction or of chance bytes? */
static int may_be_near_target(const struct work *w, const uint8_t *at)
{
    const uint8_t *p = at - w->text > 129 ? at - 129 : w->text;
    for (; p < at + 126 && p + 2 <= w->end; p++)
        if (p[1] == (uint8_t)(at - p - 2) && ((p[0] & 0xf0) == 0x70 || p[0] == 0xeb || (p[0] & 0xfc) == 0xe0))
            return 1;
    return 0;
}

/* --- what a site is ------------------------------------------------------------------------------------------------------ */

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
            *ret_nr = (int32_t)load32(p + i->len - 4 - (i->rex & 8 ? 4 : 0));
        return !(i->rex & 1);
    case 0xc7:
        if (rm)
            *ret_nr = (int32_t)load32(p + i->len - 4);
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
static int find_number(struct site *s, const struct window *w, const struct work *work)
{
    struct eg_insn insn;
    const uint8_t *p = s->at - w->from > SETTER_REACH ? s->at - SETTER_REACH : w->from, *setter = NULL;
    for (p = next_alive(w, p); p < s->at; p = next_alive(w, p + 1)) {
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
    if (!setter || s->at - setter > NEAR || is_target(s, setter, s->at + 1))
        s->nr = -1;
    if (w->over_data && setter && *setter != 0x89 && *setter != 0x8b) /* data look like anything */
        return s->nr >= 0 && s->nr < (int32_t)NUMBERS;
    return setter != NULL;
}

/* rt_sigreturn takes the whole stack pointer and never comes back; its bytes are what unwinders know it by. */
static int is_sigreturn(const uint8_t *at, const uint8_t *text)
{
    return at - text >= 5 && load32(at - 4) == SIGRETURN && (at[-5] == 0xb8 || at[-5] == 0xc0);
}

/* A jump into a trampoline, which takes the place of the instructions in front of the syscall. */
static int is_patched(const struct work *w, const uint8_t *at)
{
    uint32_t n = __atomic_load_n(&n_areas, __ATOMIC_ACQUIRE);
    for (const uint8_t *p = at - 5; p >= w->text && p >= at - CLOSE; p--) {
        const uint8_t *to = p + 5 + (int32_t)load32(p + 1);
        if (*p != 0xe9 || (to >= w->text && to < w->end))
            continue;
        if (p == at - 5) /* by another copy of the runtime, if not by this one */
            return 1;
        for (uint32_t i = 0; i < n && i < MAX_AREAS; i++)
            if ((uint64_t)to >= areas[i].start && (uint64_t)to < areas[i].end)
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

static int behind_reads_flags(const struct work *w, const uint8_t *at)
{
    struct eg_insn insn;
    return eg_insn_decode(at + 2, w->end, &insn) && reads_flags(&insn);
}

/* --- which bytes to take --------------------------------------------------------------------------------------------------- */

static int may_move(const struct eg_insn *insn)
{
    return insn->kind == EG_INSN_PLAIN || insn->kind == EG_INSN_BRANCH;
}

/* The borders of the movable instructions right before the syscall, nearest first. Returns: how many. */
static unsigned borders_before(const struct site *s, const struct window *w, const struct work *work, const uint8_t *floor, uint8_t ret[])
{
    struct eg_insn insn;
    unsigned n = 0;
    const uint8_t *next = s->at;
    for (const uint8_t *p = s->at - 1; p >= floor && s->at - p < 20 && n < 8; p--) {
        if (!is_alive(w, p))
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
static unsigned borders_behind(const struct site *s, const struct work *work, const uint8_t *ceiling, uint8_t ret[])
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

static int pick_bytes(struct site *s, const struct window *w, const struct work *work, const uint8_t *floor, const uint8_t *ceiling)
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

static void pick(const struct work *work, struct site *s)
{
    const struct site *end = work->site + work->n;
    const uint8_t *floor = s > work->site ? s[-1].at + (s[-1].after ? s[-1].after : 2) : work->text;
    const uint8_t *ceiling = s + 1 < end ? s[1].at - s[1].before : work->end;
    struct window w;
    s->again = s->before = s->after = 0;
    s->nr = -1;
    int direct = s->at - 5 >= floor && eg_patch_is_number(s->at - 5, work->text) && load32(s->at - 4) < NUMBERS;
    if (is_sigreturn(s->at, work->text))
        return;
    if (is_patched(work, s->at)) {
        s->state = SITE_BEFORE;
        return;
    }
    if (direct && !(s->targets >> NEAR & 1) && !behind_reads_flags(work, s->at) && !may_be_near_target(work, s->at)) {
        s->nr = (int32_t)load32(s->at - 4);
        s->before = 5;
        s->state = SITE_PATCH;
        return;
    }
    window_fill(&w, work, s->at);
    const uint8_t *back = s->at - work->text > CLOSE ? s->at - CLOSE : work->text;
    int here = is_alive(&w, s->at);
    near_targets(s, &w, work);
    int number = find_number(s, &w, work), sure = here && !w.over_data && is_one_stream(&w, work, back, s->at + 2);
    if (!direct && !(here && (number || sure)))
        return;
    s->state = SITE_LEFT;
    if (sure && number && !behind_reads_flags(work, s->at) && pick_bytes(s, &w, work, floor, ceiling))
        s->state = SITE_PATCH;
}

/* --- jumps from afar --------------------------------------------------------------------------------------------------------- */

/* Whatever bytes of a site are taken, they are no further away. */
static void coarse_fill(struct work *w)
{
    memset(w->coarse, 0, (size_t)(w->end - w->text + NEAR) / 512 + 1);
    for (const struct site *s = w->site; s < w->site + w->n; s++)
        for (int64_t i = (s->at > w->text + NEAR ? s->at - NEAR - w->text : 0) >> 6; i <= (s->at + NEAR - w->text) >> 6; i++)
            w->coarse[i >> 3] |= (uint8_t)(1u << (i & 7));
}

/* Nearly all jumps go elsewhere. */
static inline int is_near_site(const struct work *w, const uint8_t *to)
{
    uint64_t i = (uint64_t)(to - w->text);
    return i < (uint64_t)(w->end - w->text) && w->coarse[i >> 9] >> (i >> 6 & 7) & 1;
}

/* The site that must not be jumped to there; NULL: none. */
static struct site *site_around(const struct work *w, const uint8_t *to)
{
    uint32_t lo = 0, hi = w->n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        const struct site *s = &w->site[mid];
        if (s->at + (s->after ? s->after : 1) > to)
            hi = mid;
        else
            lo = mid + 1;
    }
    struct site *s = lo < w->n ? &w->site[lo] : NULL;
    return s && s->state == SITE_PATCH && to > s->at - s->before ? s : NULL;
}

static void jump_found(struct work *w, const uint8_t *to, uint32_t *ret_again)
{
    struct site *s = is_near_site(w, to) ? site_around(w, to) : NULL;
    struct window near;
    if (!s)
        return;
    window_fill(&near, w, s->at);
    if (is_alive(&near, to)) { /* nobody jumps into the middle of an instruction: chance bytes, or behind a table's end */
        target_add(s, to);
        *ret_again += !s->again;
        s->again = 1;
    }
}

static int is_prefix(uint8_t byte)
{
    return (byte & 0xf0) == 0x40 || (byte & 0xfc) == 0x64 || (byte & 0xe7) == 0x26 || byte == 0xf2 || byte == 0xf3;
}

/* Is the opcode at p one of an instruction? It may have prefixes. */
static int is_real(const struct work *work, const uint8_t *p)
{
    struct window w;
    window_fill(&w, work, p);
    for (int back = 0; back < 4 && p - back >= work->text; back++) {
        if (back && !is_prefix(p[-back]))
            return 0;
        if (is_alive(&w, p - back))
            return 1;
    }
    return 0;
}

/* The end of what may be read at a table's place: the object's read-only data, or the text itself, where some compilers keep them. */
static uint64_t table_end(const struct work *w, uint64_t at)
{
    const struct eg_gate_text *o = w->object;
    if (at >= (uint64_t)w->text && at < (uint64_t)w->end)
        return (uint64_t)w->end;
    for (unsigned i = 0; i < EG_GATE_TABLES; i++)
        if (at >= o->tables[i].start && at < o->tables[i].end)
            return o->tables[i].end;
    return 0;
}

/* Returns: 0 no entry there that leads into the text. */
static int table_entry(const struct work *w, const struct table *t, uint64_t at, uint64_t end, const uint8_t **ret_to)
{
    uint64_t entry = 0, bytes = t->absolute ? 8 : 4;
    if (end ? at + bytes > end : eg_sys_copy_in(&entry, at, bytes) != (long)bytes)
        return 0;
    if (end)
        entry = t->absolute ? *(const any_word64 *)at : load32((const uint8_t *)at);
    *ret_to = (const uint8_t *)(t->absolute ? entry : t->at + (uint64_t)(int64_t)(int32_t)(uint32_t)entry);
    return *ret_to >= w->text && *ret_to < w->end;
}

/* A table of places relative to itself, or of addresses; what is none leads elsewhere with its first entry. */
static void table_add(struct work *w, uint64_t at, const uint8_t *by, int absolute)
{
    struct table t = {at, by, absolute};
    uint64_t end = table_end(w, at);
    const uint8_t *to;
    if ((!end && !w->object->unknown_tables) || !table_entry(w, &t, at, end, &to))
        return;
    if (w->n_tables < MAX_TABLES)
        w->table[w->n_tables++] = t;
    else
        w->too_many = 1;
}

static void tables_sort(struct work *w)
{
    for (uint32_t gap = w->n_tables / 2; gap; gap /= 2)
        for (uint32_t i = gap; i < w->n_tables; i++) {
            struct table t = w->table[i];
            uint32_t k = i;
            for (; k >= gap && w->table[k - gap].at > t.at; k -= gap)
                w->table[k] = w->table[k - gap];
            w->table[k] = t;
        }
}

/* Nothing tells where a table ends: the next one's entries, taken for this one's, lead anywhere. */
static void tables_look(struct work *w, uint32_t *ret_again)
{
    tables_sort(w);
    for (uint32_t i = 0, next; i < w->n_tables; i = next) {
        const struct table *t = &w->table[i];
        uint64_t bytes = t->absolute ? 8 : 4, end = table_end(w, t->at);
        const uint8_t *to;
        for (next = i + 1; next < w->n_tables && w->table[next].at == t->at;)
            next++;
        for (uint64_t at = t->at; at < t->at + TABLE_ENTRIES * bytes && table_entry(w, t, at, end, &to); at += bytes) {
            if (!is_near_site(w, to) || !site_around(w, to))
                continue;
            if (next < w->n_tables && at >= w->table[next].at && is_real(w, w->table[next].by))
                break;
            jump_found(w, to, ret_again);
        }
    }
}

static inline void far_at(struct work *w, const uint8_t *p, uint32_t *ret_again)
{
    const uint8_t *to;
    switch (p[0]) {
    case 0xe8:
    case 0xe9: to = p + 5 + (int32_t)load32(p + 1); break;
    case 0x0f:
        if ((p[1] & 0xf0) != 0x80)
            return;
        to = p + 6 + (int32_t)load32(p + 2);
        break;
    case 0x8d: /* lea table(%rip) */
        if ((p[1] & 0xc7) == 0x05)
            table_add(w, (uint64_t)p + 6 + (uint64_t)(int64_t)(int32_t)load32(p + 2), p, 0);
        return;
    case 0xff: /* jmp *table(,%reg,8) */
        if (p[1] == 0x24 && (p[2] & 0xc7) == 0xc5)
            table_add(w, load32(p + 3), p, 1);
        return;
    default: return;
    }
    if (!is_near_site(w, to))
        return;
    if (!w->looked && w->n_jumps++ < MAX_NEAR)
        w->jump[w->n_jumps - 1] = p;
    if (site_around(w, to) && is_real(w, p))
        jump_found(w, to, ret_again);
}

static void far_look(struct work *w, uint32_t *ret_again)
{
    coarse_fill(w);
    w->n_tables = w->n_jumps = 0;
    const uint8_t *p = w->text;
    for (; w->end - p >= BLOCK + LOOK_BEYOND; p += BLOCK)
        for (uint64_t hit = w->look(p, EG_GATE_LOOK_JUMPS); hit; hit &= hit - 1)
            far_at(w, p + __builtin_ctzll(hit), ret_again);
    for (; w->end - p >= LOOK_BEYOND; p++)
        far_at(w, p, ret_again);
    w->looked = w->n_jumps <= MAX_NEAR;
}

/* Returns: the number of sites that are jumped into. */
static uint32_t far_jumps(struct work *w)
{
    uint32_t again = 0;
    if (!w->looked)
        far_look(w, &again);
    else
        for (uint32_t i = 0; i < w->n_jumps; i++)
            far_at(w, w->jump[i], &again);
    tables_look(w, &again);
    return again;
}

/* --- trampolines --------------------------------------------------------------------------------------------------------------- */

/* Returns: the end; NULL: something is out of reach. */
static uint8_t *put_moved(uint8_t *at, const uint8_t *from, const uint8_t *end, const struct work *w)
{
    struct eg_insn insn;
    while (at && from < end) {
        unsigned len = eg_insn_decode(from, w->end, &insn);
        const uint8_t *next = from + len;
        if (insn.kind == EG_INSN_BRANCH) {
            uint8_t code[6] = {0x0f, (uint8_t)(0x80 | (insn.opcode & 0x0f))};
            int32_t rel = (int32_t)(next + insn.rel - (at + 6));
            memcpy(code + 2, &rel, 4);
            at = eg_patch_put(at, code, sizeof code);
        } else if (insn.kind == EG_INSN_JUMP) {
            at = eg_patch_put_jump(at, next + insn.rel);
        } else {
            memcpy(at, from, len);
            if (insn.rip_at) {
                int64_t rel = (int32_t)load32(from + insn.rip_at) + (int64_t)(from - at);
                if (rel != (int32_t)rel)
                    return NULL;
                int32_t rel32 = (int32_t)rel;
                memcpy(at + insn.rip_at, &rel32, 4);
            }
            at += len;
        }
        from = next;
    }
    return at;
}

static uint8_t *trampoline_put(uint8_t *t, const struct site *s, void *const *entry, const struct work *w)
{
    uint8_t *at = put_moved(t, s->at - s->before, s->at, w);
    if (!at)
        return NULL;
    at = eg_patch_put_call(at, entry);
    if (!s->after)
        return eg_patch_put_jump(eg_patch_put_red_zone_back(eg_patch_put_jump(at, s->at + 2)), s->at);
    uint8_t *answered = at, *made = eg_patch_put_red_zone_back(at + 5);
    made = eg_patch_put(made, s->at, 2);
    eg_patch_put_jump(answered, made);
    at = put_moved(made, s->at + 2, s->at + s->after, w);
    return at ? eg_patch_put_jump(at, s->at + s->after) : NULL;
}

static void area_add(const uint8_t *mem, size_t bytes)
{
    uint32_t i = __atomic_load_n(&n_areas, __ATOMIC_RELAXED);
    while (i < MAX_AREAS && !__atomic_compare_exchange_n(&n_areas, &i, i + 1, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    if (i < MAX_AREAS) {
        areas[i].start = (uint64_t)mem;
        areas[i].end = (uint64_t)mem + bytes;
    }
}

/* Makes the text writable from the first site to the last, in one: every start of a program pays. It stays executable when the kernel lets
 * it: a thread of the runtime's own may be in it. */
static int text_write(const struct work *w, uint8_t *const trampoline[])
{
    uint64_t first = 0, last = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        const struct site *s = &w->site[i];
        if (s->state != SITE_PATCH)
            continue;
        if (!first)
            first = (uint64_t)(s->at - s->before) & ~(PAGE - 1);
        last = ((uint64_t)s->at + s->after) | (PAGE - 1);
    }
    if (!first)
        return 0;
    uint64_t bytes = last + 1 - first;
    long rc = eg_sys3(SYS_mprotect, first, bytes, PROT_READ | PROT_WRITE | PROT_EXEC);
    if (eg_sys_failed(rc))
        rc = eg_sys3(SYS_mprotect, first, bytes, PROT_READ | PROT_WRITE);
    if (eg_sys_failed(rc))
        return (int)rc;
    for (uint32_t i = 0; i < w->n; i++)
        if (w->site[i].state == SITE_PATCH)
            eg_patch_put_jump(w->site[i].at - w->site[i].before, trampoline[i]);
    return (int)eg_sys3(SYS_mprotect, first, bytes, w->object->prot);
}

static int patch_sites(struct work *w, uint32_t n_patch, uint8_t *trampoline[])
{
    size_t need = (sizeof(void *) + (size_t)n_patch * TRAMPOLINE_MAX + PAGE - 1) & ~(PAGE - 1);
    uint8_t *mem = eg_patch_near_memory(w->text, (size_t)(w->end - w->text), need);
    if (!mem)
        return -ENOMEM;
    void **entry = (void **)mem;
    uint8_t *at = mem + sizeof *entry;
    *entry = (void *)eg_gate_entry;
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->site[i].state != SITE_PATCH)
            continue;
        trampoline[i] = at;
        uint8_t *end = trampoline_put(at, &w->site[i], entry, w);
        if (end)
            at = end;
        else
            w->site[i].state = SITE_LEFT;
    }
    size_t used = ((size_t)(at - mem) + PAGE - 1) & ~(PAGE - 1);
    if (used < need)
        eg_sys2(SYS_munmap, mem + used, need - used);
    long rc = eg_sys3(SYS_mprotect, mem, used, PROT_READ | PROT_EXEC);
    if (eg_sys_failed(rc))
        return (int)rc;
    area_add(mem, used);
    return text_write(w, trampoline);
}

/* --- texts ------------------------------------------------------------------------------------------------------------------------ */

/* The next `syscall` (0f 05) at or after p, instruction or not; NULL: none. */
static uint8_t *next_syscall(const struct work *w, uint8_t *p)
{
    for (; w->end - p >= BLOCK + LOOK_BEYOND; p += BLOCK)
        for (uint64_t hit = w->look(p, EG_GATE_LOOK_SYSCALLS); hit; hit &= hit - 1) {
            uint8_t *at = p + __builtin_ctzll(hit);
            if (at[0] == 0x0f && at[1] == 0x05)
                return at;
        }
    for (; w->end - p >= 2; p++)
        if (p[0] == 0x0f && p[1] == 0x05)
            return p;
    return NULL;
}

static void collect(struct work *w, uint8_t *first)
{
    for (uint8_t *p = first; p && w->n < MAX_SITES; p = next_syscall(w, p + 2))
        w->site[w->n++] = (struct site){.at = p};
    for (uint32_t i = 0; i < w->n; i++)
        pick(w, &w->site[i]);
}

static uint32_t to_patch(const struct work *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++)
        n += w->site[i].state == SITE_PATCH;
    return n;
}

/* Takes other bytes for the sites that turn out to be jumped into. Returns: the number of sites to be patched. */
static uint32_t settle(struct work *w)
{
    uint32_t n = to_patch(w);
    for (int round = 0; n && far_jumps(w); round++)
        for (uint32_t i = 0; i < w->n; i++) {
            struct site *s = &w->site[i];
            if (!s->again)
                continue;
            if (round < ROUNDS)
                pick(w, s);
            else
                s->state = SITE_LEFT;
            s->again = 0;
            n -= s->state != SITE_PATCH;
        }
    return n;
}

static void left_add(struct eg_gate_verdict *v, const uint8_t *at)
{
    if (!v->n_left++)
        v->first_left = at;
}

static void judge(const struct work *w, const uint64_t *harmless, uint32_t *ret_found, struct eg_gate_verdict *v)
{
    for (const struct site *s = w->site; s < w->site + w->n; s++) {
        int known = s->nr >= 0 && s->nr < 512;
        int k = known ? eg_patch_number_index((uint32_t)s->nr) : -1;
        v->n_sites += s->state != SITE_NONE;
        v->n_patched += s->state == SITE_PATCH;
        v->n_before += s->state == SITE_BEFORE;
        if (s->state == SITE_LEFT && !(known && harmless && harmless[s->nr / 64] >> (s->nr % 64) & 1))
            left_add(v, s->at);
        if (ret_found && s->state == SITE_PATCH && k >= 0)
            ret_found[k]++;
    }
}

/* Another process of the run has looked at the same text. Returns: 0 when it is not quite the same after all (another gate has been there). */
static int recall(struct work *w, const struct eg_text_site *known, uint32_t n)
{
    for (w->n = 0; w->n < n && n <= MAX_SITES; w->n++) {
        const struct eg_text_site *k = &known[w->n];
        uint8_t *at = w->text + k->at;
        if (k->at + 16ull > (uint64_t)(w->end - w->text) || k->at < k->before || at[0] != 0x0f || at[1] != 0x05 || at[-k->before] == 0xe9)
            break;
        w->site[w->n] = (struct site){.at = at, .nr = k->nr, .before = k->before, .after = k->after, .state = k->state};
    }
    return w->n == n;
}

static void remember(const struct work *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->site[i].state == SITE_BEFORE)
            return;
        n += w->site[i].state != SITE_NONE;
    }
    struct eg_text_site *to = w->n < MAX_SITES && !w->too_many ? eg_texts_room(w->object, n) : NULL;
    if (!to)
        return;
    for (uint32_t i = 0, k = 0; i < w->n; i++) {
        const struct site *s = &w->site[i];
        if (s->state != SITE_NONE)
            to[k++] = (struct eg_text_site){.at = (uint32_t)(s->at - w->text), .nr = (int16_t)(s->nr >= 0 && s->nr < 512 ? s->nr : -1),
                                            .before = s->before, .after = s->after, .state = s->state};
    }
    eg_texts_keep(to);
}

int eg_gate_patch_all(const struct eg_gate_text *object, const uint64_t *harmless, uint32_t *ret_found, struct eg_gate_verdict *v)
{
    struct work w = {.text = object->at, .end = object->at + object->bytes, .object = object, .look = object->look ? object->look : look_plain};
    if (object->bytes > TEXT_MAX) {
        left_add(v, object->at);
        return 0;
    }
    const struct eg_text_site *known = NULL;
    uint32_t n_known;
    uint8_t *first = w.text;
    if (eg_texts_find(object, &known, &n_known) ? !n_known : !(first = next_syscall(&w, w.text))) {
        if (!known)
            remember(&w);
        return 0;
    }
    size_t sites = MAX_SITES * sizeof *w.site, trampolines = MAX_SITES * sizeof(uint8_t *), tables = MAX_TABLES * sizeof *w.table;
    size_t jumps = MAX_NEAR * sizeof *w.jump, bytes = sites + trampolines + tables + jumps + (object->bytes + NEAR) / 512 + 1;
    long scratch = eg_sys6(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (eg_sys_failed(scratch)) {
        left_add(v, first);
        return -ENOMEM;
    }
    w.site = (struct site *)scratch;
    w.table = (struct table *)(scratch + (long)(sites + trampolines));
    w.jump = (const uint8_t **)(scratch + (long)(sites + trampolines + tables));
    w.coarse = (uint8_t *)scratch + sites + trampolines + tables + jumps;
    int rc = 0, n_before = (int)v->n_patched;
    uint32_t n;
    if (known && recall(&w, known, n_known)) {
        n = to_patch(&w);
    } else {
        w.n = 0;
        if (!known || (first = next_syscall(&w, w.text)))
            collect(&w, first);
        n = settle(&w);
        if (!known)
            remember(&w);
    }
    if (n && (object->no_write || w.too_many))
        rc = object->no_write ? -EACCES : -E2BIG;
    else if (n)
        rc = patch_sites(&w, n, (uint8_t **)((uint8_t *)scratch + sites));
    for (uint32_t i = 0; rc < 0 && i < w.n; i++)
        if (w.site[i].state == SITE_PATCH)
            w.site[i].state = SITE_LEFT;
    judge(&w, harmless, ret_found, v);
    if (w.n == MAX_SITES && next_syscall(&w, w.site[w.n - 1].at + 2))
        left_add(v, w.site[w.n - 1].at + 1);
    eg_sys2(SYS_munmap, scratch, bytes);
    return rc < 0 ? rc : (int)v->n_patched - n_before;
}

/* --- a mapping that comes later ------------------------------------------------------------------------------------------------------ */

struct mapping {
    uint64_t start, end;
    int prot, is_shared;
};

struct maps_reader {
    long fd;
    uint32_t at, n;
    uint8_t buf[1024];
};

static int maps_byte(struct maps_reader *r)
{
    if (r->at == r->n) {
        long n = eg_sys3(SYS_read, r->fd, r->buf, sizeof r->buf);
        if (n <= 0)
            return -1;
        r->at = 0;
        r->n = (uint32_t)n;
    }
    return r->buf[r->at++];
}

/* Returns: the byte behind the number. */
static int maps_hex(struct maps_reader *r, uint64_t *ret)
{
    int c;
    for (*ret = 0; (c = maps_byte(r)) >= 0; *ret = *ret << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10))
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            break;
    return c;
}

/* The mapping at an address, as /proc/thread-self/maps has it. Returns: 0, -ENOENT, -errno. */
static int mapping_find(uint64_t address, struct mapping *ret)
{
    struct maps_reader r = {.fd = eg_sys3(SYS_open, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0)};
    int rc = -ENOENT, c = 0;
    if (eg_sys_failed(r.fd))
        return (int)r.fd;
    while (rc && c >= 0) {
        uint64_t start, end;
        if (maps_hex(&r, &start) != '-' || maps_hex(&r, &end) != ' ')
            break;
        int read = maps_byte(&r), write = maps_byte(&r), exec = maps_byte(&r), shared = maps_byte(&r);
        if (address >= start && address < end) {
            *ret = (struct mapping){start, end,
                                    (read == 'r' ? PROT_READ : 0) | (write == 'w' ? PROT_WRITE : 0) | (exec == 'x' ? PROT_EXEC : 0), shared != 'p'};
            rc = 0;
        }
        while ((c = maps_byte(&r)) >= 0 && c != '\n')
            ;
    }
    eg_sys1(SYS_close, r.fd);
    return rc;
}

static int is_readable(uint64_t address)
{
    uint8_t byte;
    return eg_sys_copy_in(&byte, address, 1) == 1;
}


/* A mapping may go on behind its file's end, where nobody may look. Returns: how many bytes may be read. */
static uint64_t readable_bytes(uint64_t start, uint64_t bytes)
{
    if (!eg_sys_failed(eg_sys3(SYS_madvise, start, bytes, MADV_POPULATE_READ)))
        return bytes;
    uint64_t lo = 0, hi = bytes / PAGE; /* pages known to be readable; the first that is not */
    while (lo < hi) {
        uint64_t mid = (lo + hi) / 2;
        if (is_readable(start + mid * PAGE))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo * PAGE;
}

int eg_gate_patch_late(uint64_t start, uint64_t bytes, const uint64_t *harmless, struct eg_gate_verdict *v)
{
    int n = 0;
    uint64_t end = start + ((bytes + PAGE - 1) & ~(PAGE - 1));
    while (start < end) {
        struct mapping m;
        uint64_t readable = end - start > TEXT_MAX ? end - start : readable_bytes(start, end - start);
        if (!readable) { /* behind the file's end, or for execution only */
            if (mapping_find(start, &m) || !(m.prot & PROT_READ) || eg_sys_copy_in(&m, start, 1) != -EFAULT)
                left_add(v, (uint8_t *)start);
            break;
        }
        struct work look = {.end = (uint8_t *)start + readable, .look = look_plain};
        if (readable <= TEXT_MAX && !next_syscall(&look, (uint8_t *)start))
            break;
        int rc = mapping_find(start, &m);
        if (rc)
            m = (struct mapping){start, end, 0, 1};
        uint64_t stop = m.end < start + readable ? m.end : start + readable;
        struct eg_gate_text object = {.at = (uint8_t *)start, .bytes = stop - start, .prot = m.prot, .no_write = (uint8_t)m.is_shared, .unknown_tables = 1};
        rc = eg_gate_patch_all(&object, harmless, NULL, v);
        if (rc < 0 && rc != -EACCES)
            return rc;
        n += rc > 0 ? rc : 0;
        start = stop;
    }
    return n;
}
