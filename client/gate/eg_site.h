/* eg_site.h - what patch_all.c and its parts share: the sites of a text, and the text around each. Freestanding.
 *   window.c       instructions, told from chance bytes, around a place
 *   site.c         what a site is, and which bytes are taken
 *   jumps.c        what jumps there from afar
 *   trampoline.c   the code that stands in for the bytes
 *   late.c         code that comes later */
#ifndef EG_SITE_H
#define EG_SITE_H

#include "client/gate/eg_gate.h"
#include "client/gate/eg_insn.h"
#include "client/gate/eg_patch.h"

#define EG_TEXT_MAX (256ul << 20)
#define EG_WORK_SITES 16384u
#define EG_WORK_TABLES 65536u
#define EG_WORK_JUMPS 65536u

/* A site's neighbourhood, of which one word says where jumps go: from 32 bytes before it to 31 behind. */
#define EG_SITE_NEAR 32

/* Decoded around a site: decoding starts BACK bytes before it, is one stream some 150 bytes before it, and goes on for AHEAD bytes: a near
 * jump's reach and an instruction more on both sides. */
#define EG_WINDOW_BACK 320
#define EG_WINDOW_AHEAD 150
#define EG_WINDOW_WORDS ((EG_WINDOW_BACK + EG_WINDOW_AHEAD + 64) / 64)
#define EG_WINDOW_CLOSE 24 /* no stretch of instructions that matters to a site is longer */

#define EG_LOOK_BLOCK 64
#define EG_LOOK_BEYOND 8

enum { EG_SITE_NONE, EG_SITE_PATCH, EG_SITE_BEFORE, EG_SITE_LEFT };

struct eg_site {
    uint8_t *at; /* the syscall */
    uint64_t targets;
    int32_t nr;          /* -1: not constant */
    uint8_t before;      /* bytes moved in front of it */
    uint8_t after;       /* 0: it stays; else the bytes taken from it on, its own two included */
    uint8_t state, again;
};

struct eg_jump_table {
    uint64_t at;
    const uint8_t *by; /* the opcode of what takes its address */
    int absolute;
};

struct eg_work {
    uint8_t *text, *end;
    const struct eg_gate_text *object;
    struct eg_site *site;
    uint32_t n;
    struct eg_jump_table *table;
    uint32_t n_tables;
    int too_many;
    eg_gate_look_fn *look;
    uint8_t *coarse; /* a bit for 64 bytes of the text: some of them may have to be not jumped to */
    const uint8_t **jump; /* what may be jumps from afar to there, once the whole text has been looked at */
    uint32_t n_jumps;
    int looked; /* it has, and all of them have found room */
};

struct eg_window {
    const uint8_t *from, *to;
    uint64_t alive[EG_WINDOW_WORDS]; /* an instruction begins here, in a stream that goes on to the end */
    int over_data;                   /* no stream does: these may be data */
};

typedef uint32_t __attribute__((may_alias, aligned(1))) eg_any_word32;
typedef uint64_t __attribute__((may_alias, aligned(1))) eg_any_word64;

static inline uint32_t eg_load32(const uint8_t *p)
{
    return *(const eg_any_word32 *)p;
}

static inline int eg_bit_get(const uint64_t *words, size_t i)
{
    return words[i / 64] >> (i % 64) & 1;
}

static inline int eg_window_alive(const struct eg_window *w, const uint8_t *p)
{
    return p >= w->from && p < w->to && eg_bit_get(w->alive, (size_t)(p - w->from));
}

static inline const uint8_t *eg_window_next(const struct eg_window *w, const uint8_t *p)
{
    while (p < w->to && !eg_window_alive(w, p))
        p++;
    return p;
}

static inline void eg_site_target_add(struct eg_site *s, const uint8_t *to)
{
    int64_t i = to - s->at + EG_SITE_NEAR;
    if (i >= 0 && i < 64)
        s->targets |= 1ull << i;
}

/* eg_window_fill - decodes around `at`; which of the bytes begin an instruction, over all ways to begin.
 * eg_window_is_one_stream - do all of them agree from p to `to`? eg_window_targets - where the jumps of the neighbourhood go, of every way. */
void eg_window_fill(struct eg_window *w, const struct eg_work *work, const uint8_t *at);
int eg_window_is_one_stream(const struct eg_window *w, const struct eg_work *work, const uint8_t *p, const uint8_t *to);
void eg_window_targets(struct eg_site *s, const struct eg_window *w, const struct eg_work *work);

/* What a place with a `syscall` is, and which bytes are to be taken; the sites before it have been looked at. */
void eg_site_pick(const struct eg_work *work, struct eg_site *s);
/* The sites that are jumped into get `again`. Returns: how many. */
uint32_t eg_jumps_find(struct eg_work *w);
/* Trampolines for all sites with EG_SITE_PATCH, of which there are n_patch; their jumps into the text. trampoline: room for one pointer a site.
 * Returns: 0, -errno. */
int eg_trampolines_put(struct eg_work *w, uint32_t n_patch, uint8_t *trampoline[]);
/* Is that in a trampoline that was put there? */
int eg_trampolines_have(uint64_t at);

uint64_t eg_look_plain(const uint8_t *p, int what);
/* The next `syscall` (0f 05) at or after p, instruction or not; NULL: none. */
uint8_t *eg_look_syscall(const struct eg_work *w, uint8_t *p);
void eg_verdict_left(struct eg_gate_verdict *v, const uint8_t *at);

#endif
