/* pieces.c - what the arguments of a thread's system calls point to travels with the call, and its pages stay here. */
#include "compute/worker.h"

#include <errno.h>

static uint8_t *data_of(struct wk_slot *s)
{
    return (uint8_t *)s + WK_DATA_OFFSET;
}

static uint64_t page_rest(uint64_t at, uint64_t end)
{
    uint64_t next = (at | (EG_PAGE_BYTES - 1)) + 1;
    return (next < end ? next : end) - at;
}

/* With its NUL. Returns: 0: it is not here, or too long. */
static uint32_t text_bytes(struct wk_slot *s, uint64_t addr)
{
    uint8_t *to = data_of(s) + EG_PIECES_DATA_BYTES;
    for (uint64_t at = addr, end = addr + EG_PIECE_TEXT_MAX, n; at < end; at += n) {
        n = page_rest(at, end);
        if (!wk_value_in(to, at, n))
            return 0;
        for (uint64_t i = 0; i < n; i++)
            if (!to[i])
                return (uint32_t)(at - addr + i + 1);
    }
    return 0;
}

/* What is read is copied; what is written is here. Returns: 0: something is not. */
static int copy_in(const struct eg_piece *p, uint8_t *to, uint64_t addr, uint32_t bytes)
{
    uint8_t byte;
    if (!wk_is_programs(addr, bytes))
        return 0;
    for (uint64_t at = addr, end = addr + bytes, n; at < end; at += n) {
        n = page_rest(at, end);
        if (p->way & EG_PIECE_IN ? !wk_value_in(to + (at - addr), at, n) : !wk_value_in(&byte, at, 1))
            return 0;
    }
    if (p->kind == EG_PIECE_TEXT && bytes)
        to[bytes - 1] = 0; /* whoever writes to it meanwhile */
    return 1;
}

/* Returns: 0: it may not. */
static int make_writable(struct wk_slot *s, uint64_t rip, uint64_t addr, uint32_t bytes)
{
    for (uint64_t at = addr, end = addr + bytes; at < end; at += page_rest(at, end))
        while (!wk_try_touch((void *)at))
            if (!wk_page_get(s, at, rip, 1))
                return 0;
    return 1;
}

/* Returns: 0: the program has taken it away meanwhile. */
static int copy_out(struct wk_slot *s, uint64_t rip, uint64_t addr, const uint8_t *from, uint32_t bytes)
{
    for (uint64_t at = addr, end = addr + bytes, n; at < end; at += n) {
        n = page_rest(at, end);
        while (!wk_value_out(at, from + (at - addr), n))
            if (!wk_page_get(s, at, rip, 1))
                return 0;
    }
    return 1;
}

/* Returns: 0: it cannot travel. */
static int piece_take(struct wk_slot *s, const struct eg_pieces *c, uint32_t i, const int64_t a[6], struct wk_pieces *p)
{
    const struct eg_piece *piece = &c->piece[i];
    struct eg_pieces_data *d = &p->d;
    struct eg_part part = {.next = 0};
    uint64_t addr = (uint64_t)a[piece->arg], bytes = 0, end = i ? d->at[i - 1] + d->bytes[i - 1] : 0;
    if (piece->kind == EG_PIECE_TEXT ? addr && !(bytes = text_bytes(s, addr)) : !eg_piece_find(c, i, a, d, &addr, &bytes))
        return 0;
    d->addr[i] = addr;
    d->bytes[i] = (uint32_t)bytes;
    uint64_t at = eg_piece_place(piece, a, end, (uint32_t)bytes);
    if (at + bytes > EG_PIECES_DATA_BYTES)
        return 0;
    d->at[i] = (uint32_t)at;
    if (piece->kind == EG_PIECE_SEGMENTS)
        memcpy(p->segment, d->data + d->at[i - 1], d->bytes[i - 1]);
    while (eg_part_next(piece, EG_PIECE_IN, addr, p->segment, (uint32_t)bytes, &part))
        if (!copy_in(piece, d->data + at + part.at, part.addr, part.bytes))
            return 0;
    return 1;
}

const uint8_t *wk_pieces_begin(struct wk_slot *s, uint64_t rip, struct eg_call *call, struct wk_pieces *ret)
{
    const int64_t *a = call->arg + 1;
    const struct eg_pieces *c = eg_pieces_of((long)call->arg[0], a);
    struct eg_pieces_data *d = &ret->d;
    uint32_t from;
    ret->of = NULL;
    memset(d, 0, sizeof *d);
    d->data = data_of(s);
    for (uint32_t i = 0; c && i < EG_CALL_PIECES_MAX && c->piece[i].way; i++)
        if (!piece_take(s, c, i, a, ret))
            return NULL;
    for (uint32_t i = 0; c && i < EG_CALL_PIECES_MAX; i++) {
        struct eg_part part = {.next = 0};
        while (c->piece[i].way & EG_PIECE_OUT && eg_part_next(&c->piece[i], EG_PIECE_OUT, d->addr[i], ret->segment, d->bytes[i], &part))
            if (!make_writable(s, rip, part.addr, part.bytes))
                return NULL;
    }
    if (!c)
        return NULL;
    call->type = EG_CALL_PIECES;
    memcpy(call->piece, d->bytes, sizeof call->piece);
    call->len_bytes = eg_pieces_span(c, EG_PIECE_IN, d->bytes, d->at, &from);
    ret->of = c;
    return d->data + from;
}

/* An answer's payload: so much of it has come, to its place in the call's data, or at once to where it belongs. */
struct incoming {
    uint8_t *to;
    uint32_t bytes, have;
};

static void incoming_rest(struct wk_slot *s, struct incoming *in)
{
    wk_call_read(s, in->to + in->have, in->bytes - in->have);
    in->have = in->bytes;
}

/* A part of it, whose place is `from`, goes to the program: a large one without a stop there, as far as its pages are still here. Returns: 0: the program has taken them
 * away meanwhile. */
static int part_take(struct wk_slot *s, uint64_t rip, const struct eg_part *part, const uint8_t *from, struct incoming *in)
{
    uint32_t done = 0;
    if (part->bytes >= EG_PAGE_BYTES && from == in->to + in->have)
        in->have += done = wk_call_read(s, (void *)part->addr, part->bytes);
    if (done == part->bytes)
        return 1;
    incoming_rest(s, in);
    return copy_out(s, rip, part->addr + done, from + done, part->bytes - done);
}

int64_t wk_pieces_end(struct wk_slot *s, uint64_t rip, const struct eg_call *answer, struct wk_pieces *p)
{
    struct eg_pieces_data *d = &p->d;
    uint32_t from = 0;
    for (uint32_t i = 0; p->of && i < EG_CALL_PIECES_MAX; i++)
        d->bytes[i] = eg_piece_written(&p->of->piece[i], d->bytes[i], answer->arg[0]);
    if (!p->of || answer->len_bytes != eg_pieces_span(p->of, EG_PIECE_OUT, d->bytes, d->at, &from))
        wk_die("home sent other than was asked for, bytes:", answer->len_bytes);
    struct incoming in = {.to = d->data + from, .bytes = answer->len_bytes};
    int taken = 1;
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        struct eg_part part = {.next = 0};
        while (taken && eg_part_next(&p->of->piece[i], EG_PIECE_OUT, d->addr[i], p->segment, d->bytes[i], &part))
            taken = part_take(s, rip, &part, d->data + d->at[i] + part.at, &in);
    }
    incoming_rest(s, &in);
    return taken ? answer->arg[0] : -EFAULT;
}
