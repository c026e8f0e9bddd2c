/* ahead.c - reading ahead: who goes on in order is given more at once. */
#include "client/threads/eg_agent.h"

/* Accesses in order, several streams of them at once: a window grows while they go on. What went in order once goes as one run to whoever asks for
 * its first page next: a buffer that is handed on costs one trip. It is a guess about others' pages, too: so where somebody else begins, runs
 * end, but for a stream that has come past such places already. Rights to write what is here already are streams of their own. */
#define CROSSED_MANY 2u

/* How many pages from `page` on went together, `most` at most, in its chunk. */
static uint32_t run_pages(const struct eg_dir_chunk *c, uint64_t page, uint32_t most)
{
    uint32_t n = 1;
    while (n < most && (page + n) % EG_BLOCK_PAGES && eg_mark(c->joined, page + n))
        n++;
    return n;
}

uint32_t eg_ahead_join(struct eg_dir_chunk *c, uint64_t page, uint32_t from, uint32_t n, int past_others)
{
    for (uint32_t i = from; i < n; i++) {
        if (i && (page + i) % EG_BLOCK_PAGES == 0)
            return i;
        if (i && !past_others && eg_mark(c->first, page + i))
            return i;
        eg_mark_set(c->joined, page + i, 1);
        eg_mark_set(c->first, page + i, 0);
    }
    return n;
}

uint32_t eg_ahead(struct eg_reader *r, struct eg_dir_chunk *c, uint64_t page, uint32_t most, int upgrade, int here)
{
    uint32_t oldest = 0;
    if (here)
        return 1;
    r->n_faults++;
    for (uint32_t i = 0; i < EG_AHEAD_STREAMS; i++) {
        uint64_t next = r->stream[i].next;
        uint32_t window = r->stream[i].window * 4;
        if (r->stream[i].upgrade == upgrade && (page == next || page == next + 1)) {
            r->stream[i].crossed = (uint8_t)(r->stream[i].crossed + (r->stream[i].crossed < CROSSED_MANY && eg_mark(c->first, page)));
            window = eg_ahead_join(c, page, page == next ? 0 : 1, window > most ? most : window, r->stream[i].crossed == CROSSED_MANY);
            r->stream[i].window = window;
            r->stream[i].next = page + window;
            r->stream[i].used = r->n_faults;
            return window;
        }
        if (r->n_faults - r->stream[i].used > r->n_faults - r->stream[oldest].used)
            oldest = i;
    }
    eg_mark_set(c->joined, page, 0);
    eg_mark_set(c->first, page, 1);
    r->stream[oldest].upgrade = (uint8_t)upgrade;
    r->stream[oldest].crossed = 0;
    r->stream[oldest].window = run_pages(c, page, most);
    r->stream[oldest].next = page + r->stream[oldest].window;
    r->stream[oldest].used = r->n_faults;
    return r->stream[oldest].window;
}

void eg_ahead_more(struct eg_reader *r, uint64_t page, uint32_t window, uint32_t n)
{
    for (uint32_t i = 0; i < EG_AHEAD_STREAMS; i++)
        if (r->stream[i].used == r->n_faults && r->stream[i].next == page + window) {
            r->stream[i].window = n;
            r->stream[i].next = page + n;
        }
}
