/* eg_evict.h - what the rooms of eviction share (queue.c, arm.c, drop.c, write.c, evict.c). All of it with the lock held, but where it says otherwise.
 * Freestanding. */
#ifndef EG_EVICT_H
#define EG_EVICT_H

#include "client/pager/eg_pager.h"

#include <sys/uio.h>

#define WRITE_RUN_PAGES (EG_DATA_MAX_BYTES / EG_PAGE_BYTES)
#define DROP_RUNS 128
#define EG_FULL_RETRY_NS 50000000u /* a server that had no room is asked again after this; also when nothing could leave */

#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)

static inline uint64_t eg_page_number(const struct eg_block *b, uint32_t i)
{
    return (uint64_t)b->index * EG_BLOCK_PAGES + i;
}

/* --- queue.c --- */
/* eg_queue_push_first - the page is among those that leave before all others. */
void eg_queue_push_first(struct eg_block *b, uint32_t i);
/* eg_queue_spare - it cannot leave now: back to the end, with all the turns there are. */
void eg_queue_spare(struct eg_block *b, uint32_t i);
/* eg_queue_pop - the oldest entry. Returns: its block, and which page of it; NULL: the entry was void. */
struct eg_block *eg_queue_pop(struct eg_queue *q, uint32_t *ret_i);
/* eg_queue_next_is - is this page (number) the oldest? */
int eg_queue_next_is(const struct eg_queue *q, uint64_t page);
/* eg_queue_left - the page has left, or is about to. */
void eg_queue_left(struct eg_block *b, uint32_t i);
/* eg_queue_count - entries, void ones too; of one queue, of all. */
uint64_t eg_queue_count(const struct eg_queue *q);
uint64_t eg_queue_count_all(void);
/* eg_queue_next - from which queue the next page leaves. pressed: many have been passed over. */
struct eg_queue *eg_queue_next(int pressed);

/* --- arm.c --- */
/* eg_evict_arm_next - the next block, in address order, that is captured and not armed. Returns: 1 armed one, 0 none is left. */
int eg_evict_arm_next(void);

/* --- drop.c --- */
/* Runs of clean pages that are to be dropped, in one call: each call interrupts all processors that run the program. */
struct eg_drops {
    struct iovec iov[DROP_RUNS];
    uint32_t runs, pages;
    uint8_t busy; /* of those that go without the lock: their pages are FETCHING meanwhile, and a fault on one waits until it is REMOTE */
};
/* eg_drop_add - one run more; there is room for DROP_RUNS. */
void eg_drop_add(struct eg_drops *d, struct eg_block *b, uint32_t first, uint32_t n);
/* eg_drop_call - Context: the lock need not be held. Returns: bytes of the first runs that are gone; -errno. */
long eg_drop_call(const struct eg_drops *d);
/* eg_drop_settle - gone: eg_drop_call's answer. What it did not drop is tried run by run. Returns: pages freed. */
uint64_t eg_drop_settle(struct eg_drops *d, long gone);
/* eg_drop_all - both. */
uint64_t eg_drop_all(struct eg_drops *d);
/* eg_drop_run - one run at once. Returns: pages freed. */
uint64_t eg_drop_run(struct eg_block *b, uint32_t first, uint32_t n);
/* eg_drop_note - pages are gone. */
void eg_drop_note(struct eg_block *b, uint32_t first, uint32_t n);
/* eg_drop_aside - Returns: an empty one that may go without the lock, busy until the caller says otherwise; NULL: enough of them are at it. */
struct eg_drops *eg_drop_aside(void);
/* eg_drop_reset - none goes without the lock. Context: fork child. */
void eg_drop_reset(void);

/* --- write.c --- */
/* eg_write_run - dirty pages [first, first+n) of one block leave. Returns: pages freed. */
uint64_t eg_write_run(struct eg_block *b, uint32_t first, uint32_t n);
/* eg_write_clean - the servers get a copy of each dirty page, which stays. Returns: 0; -ENOSPC; -EFAULT. */
int eg_write_clean(struct eg_block *b);

#endif
