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
    uint8_t *to = data_of(s);
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

static int is_programs(uint64_t addr, uint64_t bytes)
{
    uint64_t end = addr + bytes;
    return end >= addr && end <= EG_USER_END && !(bytes && addr < EG_WORKER_END && end > EG_WORKER_START);
}

/* All that a call's segments point to, which are noted. Returns: 0: it cannot travel. */
static int segments_measure(struct wk_pieces *p, uint64_t addr, uint32_t bytes, uint32_t *ret_bytes)
{
    uint32_t n = bytes / sizeof *p->segment;
    uint64_t all;
    if (n > EG_PIECE_SEGMENTS_MAX)
        return 0;
    for (uint64_t at = addr, end = addr + bytes, part; at < end; at += part) {
        part = page_rest(at, end);
        if (!wk_value_in((uint8_t *)p->segment + (at - addr), at, part))
            return 0;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!is_programs(p->segment[i].addr, p->segment[i].bytes))
            return 0;
    all = eg_segments_bytes(p->segment, n);
    *ret_bytes = (uint32_t)all;
    return all <= EG_CALL_DATA_MAX;
}

/* Returns: 0: one of them cannot travel. */
static int measure(struct wk_slot *s, const struct eg_pieces *c, struct eg_call *call, struct wk_pieces *pieces)
{
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX && c->piece[i].way; i++) {
        const struct eg_piece *p = &c->piece[i];
        uint64_t addr = (uint64_t)call->arg[1 + p->arg], bytes;
        if (p->kind == EG_PIECE_SEGMENTS) {
            if (!segments_measure(pieces, addr, call->piece[i - 1], &call->piece[i]))
                return 0;
            continue;
        }
        bytes = p->kind != EG_PIECE_TEXT ? eg_piece_bytes(p, call->arg + 1) : addr ? text_bytes(s, addr) : 0;
        if (bytes > EG_CALL_DATA_MAX || !is_programs(addr, bytes) || (p->kind == EG_PIECE_TEXT && addr && !bytes))
            return 0;
        call->piece[i] = (uint32_t)bytes;
    }
    return 1;
}

/* What is read is copied; what is written is here. Returns: 0: something is not. */
static int copy_in(const struct eg_piece *p, uint8_t *to, uint64_t addr, uint32_t bytes)
{
    uint8_t byte;
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

const uint8_t *wk_pieces_begin(struct wk_slot *s, uint64_t rip, struct eg_call *call, struct wk_pieces *ret)
{
    const int64_t *a = call->arg + 1;
    const struct eg_pieces *c = eg_pieces_of((long)call->arg[0], a);
    uint32_t from;
    ret->of = NULL;
    if (!c || !measure(s, c, call, ret) || eg_pieces_place(c, a, call->piece, ret->at))
        return NULL;
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        struct eg_part part = {.next = 0};
        while (eg_part_next(&c->piece[i], EG_PIECE_IN, a, ret->segment, call->piece[i], &part))
            if (!copy_in(&c->piece[i], data_of(s) + ret->at[i] + part.at, part.addr, part.bytes))
                return NULL;
    }
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        struct eg_part part = {.next = 0};
        while (c->piece[i].way & EG_PIECE_OUT && eg_part_next(&c->piece[i], EG_PIECE_OUT, a, ret->segment, call->piece[i], &part))
            if (!make_writable(s, rip, part.addr, part.bytes))
                return NULL;
    }
    call->type = EG_CALL_PIECES;
    call->len_bytes = eg_pieces_span(c, EG_PIECE_IN, call->piece, ret->at, &from);
    ret->of = c;
    return data_of(s) + from;
}

int64_t wk_pieces_end(struct wk_slot *s, uint64_t rip, const struct eg_call *call, const struct eg_call *answer, const struct wk_pieces *p)
{
    uint32_t written[EG_CALL_PIECES_MAX] = {0}, from = 0;
    for (uint32_t i = 0; p->of && i < EG_CALL_PIECES_MAX; i++)
        written[i] = eg_piece_written(&p->of->piece[i], call->piece[i], answer->arg[0]);
    if (!p->of || answer->len_bytes != eg_pieces_span(p->of, EG_PIECE_OUT, written, p->at, &from))
        wk_die("home sent other than was asked for, bytes:", answer->len_bytes);
    wk_call_read(s, data_of(s) + from, answer->len_bytes);
    for (uint32_t i = 0; i < EG_CALL_PIECES_MAX; i++) {
        struct eg_part part = {.next = 0};
        while (eg_part_next(&p->of->piece[i], EG_PIECE_OUT, call->arg + 1, p->segment, written[i], &part))
            if (!copy_out(s, rip, part.addr, data_of(s) + p->at[i] + part.at, part.bytes))
                return -EFAULT;
    }
    return answer->arg[0];
}
