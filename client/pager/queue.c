/* queue.c - the queues: pages of armed blocks, oldest first; and what left lately. */
#include "client/pager/eg_evict.h"

#include <errno.h>

#define FIRST_REST 64 /* pages */

/* An entry is a page's number, and above it which of its entries it is. Only the last one counts: a page that changes queues, or leaves past them,
 * does not have to be looked for. */
#define ENTRY_PAGE_BITS 40
#define ENTRY_PAGE(entry) ((entry) & ((1ull << ENTRY_PAGE_BITS) - 1))
_Static_assert(EG_ADDR_BITS - EG_PAGE_SHIFT <= ENTRY_PAGE_BITS && ENTRY_PAGE_BITS + 8 <= 64, "a page's number and the entry's share a word");

/* Returns: the block; NULL: the entry is void. */
static struct eg_block *entry_block(uint64_t entry, uint32_t *ret_i)
{
    uint64_t page = ENTRY_PAGE(entry);
    struct eg_block *b = eg_block_find(page / EG_BLOCK_PAGES);
    *ret_i = (uint32_t)(page % EG_BLOCK_PAGES);
    return b && b->page[*ret_i] & EG_P_QUEUED && b->entry[*ret_i] == entry >> ENTRY_PAGE_BITS ? b : NULL;
}

static void queue_compact(struct eg_queue *q)
{
    uint64_t to = q->head;
    for (uint64_t at = q->head; at != q->tail; at++) {
        uint64_t entry = q->v[at & (q->cap - 1)];
        uint32_t i;
        struct eg_block *b = entry_block(entry, &i);
        enum eg_page_state s = b ? eg_page_state(b, i) : EG_P_NONE;
        if (s == EG_P_CLEAN || s == EG_P_DIRTY || s == EG_P_FETCHING)
            q->v[to++ & (q->cap - 1)] = entry;
        else if (b)
            b->page[i] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST);
    }
    q->tail = to;
}

static int queue_grow(struct eg_queue *q)
{
    uint64_t cap = q->cap ? q->cap * 2 : 8192;
    uint64_t *v = eg_sys_map(cap * sizeof *v);
    if (!v)
        return -ENOMEM;
    for (uint64_t at = q->head; at != q->tail; at++)
        v[at & (cap - 1)] = q->v[at & (q->cap - 1)];
    if (q->v)
        eg_sys_unmap(q->v, q->cap * sizeof *v);
    q->v = v;
    q->cap = cap;
    return 0;
}

static void push_to(struct eg_queue *q, struct eg_block *b, uint32_t i)
{
    if (b->page[i] & EG_P_QUEUED)
        return;
    if (q->tail - q->head == q->cap) {
        queue_compact(q);
        if ((q->tail - q->head) * 4 >= q->cap * 3 && queue_grow(q) && q->tail - q->head == q->cap)
            return; /* never evicted then: memory is short anyway */
    }
    b->page[i] = (uint8_t)((b->page[i] & ~EG_P_FIRST) | EG_P_QUEUED | (q == &eg_rt.first ? EG_P_FIRST : 0));
    q->v[q->tail++ & (q->cap - 1)] = eg_page_number(b, i) | (uint64_t)++b->entry[i] << ENTRY_PAGE_BITS;
}

static int leaves_first(const struct eg_block *b, uint32_t i)
{
    return eg_rt.advised && eg_advice_of(eg_page_number(b, i)) & EG_RANGE_FIRST;
}

void eg_queue_push(struct eg_block *b, uint32_t i)
{
    push_to(leaves_first(b, i) ? &eg_rt.first : &eg_rt.queue, b, i);
}

void eg_queue_push_first(struct eg_block *b, uint32_t i)
{
    b->page[i] &= (uint8_t)~EG_P_QUEUED;
    push_to(&eg_rt.first, b, i);
}

void eg_queue_spare(struct eg_block *b, uint32_t i)
{
    b->page[i] |= EG_P_REFS;
    eg_queue_push(b, i);
}

struct eg_block *eg_queue_pop(struct eg_queue *q, uint32_t *ret_i)
{
    struct eg_block *b = entry_block(q->v[q->head++ & (q->cap - 1)], ret_i);
    if (b)
        b->page[*ret_i] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST);
    return b;
}

int eg_queue_next_is(const struct eg_queue *q, uint64_t page)
{
    uint64_t entry = q->head == q->tail ? 0 : q->v[q->head & (q->cap - 1)];
    uint32_t i;
    return entry && ENTRY_PAGE(entry) == page && entry_block(entry, &i);
}

/* --- what left lately ------------------------------------------------------------------------------------------------ */

/* A page that is here tells nobody when it is touched. One that comes back soon after it left was not done with: it is spared more turns. One that was
 * read ahead in sequence is done with, as a rule, once the program has passed it: it waits in a queue of its own, which is kept short. Source: 2Q
 * (VLDB'94) and S3-FIFO (SOSP'23) do that to all pages that are new; how much and how soon is measured (tests/bench/policy). A moment passes
 * whenever so many pages have left as are 1/32 of what is here; moments come round after 256: a page that left just then has its turns by mistake. */
#define MOMENT_SHIFT 5
#define LATELY 8          /* moments: a quarter of what is here */
#define LATELY_PASSING 4  /* of passing pages: else a scan in circles, larger than what is here, would drive out itself */
#define PASSING_SHIFT 3   /* the part of what is here that passing pages may take */
#define PASSING_MIN 512u  /* pages: several streams, read well ahead */

void eg_queue_left(struct eg_block *b, uint32_t i)
{
    eg_rt.arm_owed++;
    b->left[i] = eg_rt.moment;
    if ((int64_t)(++eg_rt.moment_pages << MOMENT_SHIFT) >= eg_rt.charged) {
        eg_rt.moment_pages = 0;
        eg_rt.moment++;
    }
}

void eg_evict_arrived(struct eg_block *b, uint32_t first, uint32_t n, int passing, int demand)
{
    for (uint32_t i = first; i < first + n; i++) {
        uint8_t ago = (uint8_t)(eg_rt.moment - b->left[i]);
        b->page[i] &= (uint8_t)~EG_P_REFS;
        if (passing && ago >= LATELY_PASSING && !leaves_first(b, i)) {
            push_to(&eg_rt.passing, b, i);
            continue;
        }
        if (demand && i == first && ago < LATELY)
            b->page[i] |= EG_P_REFS;
        eg_queue_push(b, i);
    }
}

uint64_t eg_queue_count(const struct eg_queue *q)
{
    return q->tail - q->head;
}

uint64_t eg_queue_count_all(void)
{
    return eg_queue_count(&eg_rt.queue) + eg_queue_count(&eg_rt.first) + eg_queue_count(&eg_rt.passing);
}

/* The last few of those that go first are left alone: they have just come. */
struct eg_queue *eg_queue_next(int pressed)
{
    if (eg_queue_count(&eg_rt.first) > FIRST_REST && !pressed)
        return &eg_rt.first;
    uint64_t passing = eg_queue_count(&eg_rt.passing);
    if (passing && ((passing > PASSING_MIN && (int64_t)(passing << PASSING_SHIFT) > eg_rt.charged) || pressed))
        return &eg_rt.passing;
    return eg_queue_count(&eg_rt.queue) ? &eg_rt.queue : passing ? &eg_rt.passing : &eg_rt.first;
}
