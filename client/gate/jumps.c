/* jumps.c - what jumps into a site from afar: jumps to constant places, and jump tables, searched in the whole text by their bytes. What looks like one
 * counts, unless decoding shows that it is none. */
#include "client/gate/eg_site.h"

#define TABLE_ENTRIES 4096u

/* Whatever bytes of a site are taken, they are no further away. */
static void coarse_fill(struct eg_work *w)
{
    memset(w->coarse, 0, (size_t)(w->end - w->text + EG_SITE_NEAR) / 512 + 1);
    for (const struct eg_site *s = w->site; s < w->site + w->n; s++)
        for (int64_t i = (s->at > w->text + EG_SITE_NEAR ? s->at - EG_SITE_NEAR - w->text : 0) >> 6; i <= (s->at + EG_SITE_NEAR - w->text) >> 6; i++)
            w->coarse[i >> 3] |= (uint8_t)(1u << (i & 7));
}

/* Nearly all jumps go elsewhere. */
static inline int is_near_site(const struct eg_work *w, const uint8_t *to)
{
    uint64_t i = (uint64_t)(to - w->text);
    return i < (uint64_t)(w->end - w->text) && w->coarse[i >> 9] >> (i >> 6 & 7) & 1;
}

/* The site that must not be jumped to there; NULL: none. */
static struct eg_site *site_around(const struct eg_work *w, const uint8_t *to)
{
    uint32_t lo = 0, hi = w->n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        const struct eg_site *s = &w->site[mid];
        if (s->at + (s->after ? s->after : 1) > to)
            hi = mid;
        else
            lo = mid + 1;
    }
    struct eg_site *s = lo < w->n ? &w->site[lo] : NULL;
    return s && s->state == EG_SITE_PATCH && to > s->at - s->before ? s : NULL;
}

static void jump_found(struct eg_work *w, const uint8_t *to, uint32_t *ret_again)
{
    struct eg_site *s = is_near_site(w, to) ? site_around(w, to) : NULL;
    struct eg_window near;
    if (!s)
        return;
    eg_window_fill(&near, w, s->at);
    if (eg_window_alive(&near, to)) { /* nobody jumps into the middle of an instruction: chance bytes, or behind a table's end */
        eg_site_target_add(s, to);
        *ret_again += !s->again;
        s->again = 1;
    }
}

static int is_prefix(uint8_t byte)
{
    return (byte & 0xf0) == 0x40 || (byte & 0xfc) == 0x64 || (byte & 0xe7) == 0x26 || byte == 0xf2 || byte == 0xf3;
}

/* Is the opcode at p one of an instruction? It may have prefixes. */
static int is_real(const struct eg_work *work, const uint8_t *p)
{
    struct eg_window w;
    eg_window_fill(&w, work, p);
    for (int back = 0; back < 4 && p - back >= work->text; back++) {
        if (back && !is_prefix(p[-back]))
            return 0;
        if (eg_window_alive(&w, p - back))
            return 1;
    }
    return 0;
}

/* The end of what may be read at a table's place: the object's read-only data, or the text itself, where some compilers keep them. */
static uint64_t table_end(const struct eg_work *w, uint64_t at)
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
static int table_entry(const struct eg_work *w, const struct eg_jump_table *t, uint64_t at, uint64_t end, const uint8_t **ret_to)
{
    uint64_t entry = 0, bytes = t->absolute ? 8 : 4;
    if (end ? at + bytes > end : eg_sys_copy_in(&entry, at, bytes) != (long)bytes)
        return 0;
    if (end)
        entry = t->absolute ? *(const eg_any_word64 *)at : eg_load32((const uint8_t *)at);
    *ret_to = (const uint8_t *)(t->absolute ? entry : t->at + (uint64_t)(int64_t)(int32_t)(uint32_t)entry);
    return *ret_to >= w->text && *ret_to < w->end;
}

/* A table of places relative to itself, or of addresses; what is none leads elsewhere with its first entry. */
static void table_add(struct eg_work *w, uint64_t at, const uint8_t *by, int absolute)
{
    struct eg_jump_table t = {at, by, absolute};
    uint64_t end = table_end(w, at);
    const uint8_t *to;
    if ((!end && !w->object->unknown_tables) || !table_entry(w, &t, at, end, &to))
        return;
    if (w->n_tables < EG_WORK_TABLES)
        w->table[w->n_tables++] = t;
    else
        w->too_many = 1;
}

static void tables_sort(struct eg_work *w)
{
    for (uint32_t gap = w->n_tables / 2; gap; gap /= 2)
        for (uint32_t i = gap; i < w->n_tables; i++) {
            struct eg_jump_table t = w->table[i];
            uint32_t k = i;
            for (; k >= gap && w->table[k - gap].at > t.at; k -= gap)
                w->table[k] = w->table[k - gap];
            w->table[k] = t;
        }
}

/* Nothing tells where a table ends: the next one's entries, taken for this one's, lead anywhere. */
static void tables_look(struct eg_work *w, uint32_t *ret_again)
{
    tables_sort(w);
    for (uint32_t i = 0, next; i < w->n_tables; i = next) {
        const struct eg_jump_table *t = &w->table[i];
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

static inline void far_at(struct eg_work *w, const uint8_t *p, uint32_t *ret_again)
{
    const uint8_t *to;
    switch (p[0]) {
    case 0xe8:
    case 0xe9: to = p + 5 + (int32_t)eg_load32(p + 1); break;
    case 0x0f:
        if ((p[1] & 0xf0) != 0x80)
            return;
        to = p + 6 + (int32_t)eg_load32(p + 2);
        break;
    case 0x8d: /* lea table(%rip) */
        if ((p[1] & 0xc7) == 0x05)
            table_add(w, (uint64_t)p + 6 + (uint64_t)(int64_t)(int32_t)eg_load32(p + 2), p, 0);
        return;
    case 0xff: /* jmp *table(,%reg,8) */
        if (p[1] == 0x24 && (p[2] & 0xc7) == 0xc5)
            table_add(w, eg_load32(p + 3), p, 1);
        return;
    default: return;
    }
    if (!is_near_site(w, to))
        return;
    if (!w->looked && w->n_jumps++ < EG_WORK_JUMPS)
        w->jump[w->n_jumps - 1] = p;
    if (site_around(w, to) && is_real(w, p))
        jump_found(w, to, ret_again);
}

static void far_look(struct eg_work *w, uint32_t *ret_again)
{
    coarse_fill(w);
    w->n_tables = w->n_jumps = 0;
    const uint8_t *p = w->text;
    for (; w->end - p >= EG_LOOK_BLOCK + EG_LOOK_BEYOND; p += EG_LOOK_BLOCK)
        for (uint64_t hit = w->look(p, EG_GATE_LOOK_JUMPS); hit; hit &= hit - 1)
            far_at(w, p + __builtin_ctzll(hit), ret_again);
    for (; w->end - p >= EG_LOOK_BEYOND; p++)
        far_at(w, p, ret_again);
    w->looked = w->n_jumps <= EG_WORK_JUMPS;
}

uint32_t eg_jumps_find(struct eg_work *w)
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
