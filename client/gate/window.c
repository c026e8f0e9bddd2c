/* window.c - the instructions around a place of a text. They are told from chance bytes by decoding from every place where one may begin, far
 * enough before: what all of these agree on is what the processor sees. */
#include "client/gate/eg_site.h"

#define STARTS 15
#define SURE 150 /* so far before the place all streams have become one */

static void bit_set(uint64_t *words, size_t i)
{
    words[i / 64] |= 1ull << (i % 64);
}

/* A stream that comes to what is no instruction before `at` was none, unless the bytes there are data (over_data). */
static void window_decode(struct eg_window *w, const struct eg_work *work, const uint8_t *at, int over_data)
{
    uint64_t seen[EG_WINDOW_WORDS] = {0};
    uint16_t path[EG_WINDOW_BACK + EG_WINDOW_AHEAD];
    struct eg_insn insn;
    for (unsigned start = 0; start < STARTS; start++) {
        const uint8_t *p = w->from + start;
        unsigned n = 0;
        int alive = 1;
        while (p < w->to) {
            size_t i = (size_t)(p - w->from);
            if (eg_bit_get(seen, i)) {
                alive = eg_bit_get(w->alive, i);
                break;
            }
            bit_set(seen, i);
            path[n++] = (uint16_t)i;
            if (eg_insn_decode(p, work->end, &insn)) {
                p += insn.len;
            } else if (over_data || p > at + EG_WINDOW_CLOSE) {
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

void eg_window_fill(struct eg_window *w, const struct eg_work *work, const uint8_t *at)
{
    memset(w, 0, sizeof *w);
    w->from = at - work->text > EG_WINDOW_BACK ? at - EG_WINDOW_BACK : work->text;
    w->to = work->end - at > EG_WINDOW_AHEAD ? at + EG_WINDOW_AHEAD : work->end;
    window_decode(w, work, at, 0);
    const uint8_t *near = at - w->from > EG_WINDOW_CLOSE ? at - EG_WINDOW_CLOSE : w->from;
    w->over_data = eg_window_next(w, near) > at;
    if (w->over_data)
        window_decode(w, work, at, 1);
}

int eg_window_is_one_stream(const struct eg_window *w, const struct eg_work *work, const uint8_t *p, const uint8_t *to)
{
    struct eg_insn insn;
    for (p = eg_window_next(w, p); p < to;) {
        if (!eg_insn_decode(p, work->end, &insn))
            return 0;
        const uint8_t *next = p + insn.len;
        for (p++; p < next && p < to; p++)
            if (eg_window_alive(w, p))
                return 0;
        p = next;
    }
    return 1;
}

static int is_jump(const struct eg_insn *insn)
{
    return insn->kind == EG_INSN_BRANCH || insn->kind == EG_INSN_JUMP || insn->kind == EG_INSN_LOOP || insn->kind == EG_INSN_CALL;
}

/* Every stream's jumps count. */
void eg_window_targets(struct eg_site *s, const struct eg_window *w, const struct eg_work *work)
{
    struct eg_insn insn;
    const uint8_t *p = s->at - w->from > SURE ? s->at - SURE : w->from;
    for (p = eg_window_next(w, p); p < w->to; p = eg_window_next(w, p + 1))
        if (eg_insn_decode(p, work->end, &insn) && is_jump(&insn))
            eg_site_target_add(s, p + insn.len + insn.rel);
}
