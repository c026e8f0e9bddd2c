/* eg_whole.h - a block that is wanted whole comes as one huge page. Freestanding.
 *
 * It is read into a huge page of the runtime's and moved into its place (UFFDIO_MOVE) in one step: no page is allocated, charged, mapped or, when it
 * leaves, unmapped and freed by itself, and that is most of what a page of a scan costs. A clean block that leaves whole is moved out the same way,
 * and is what the next one is read into. Where that cannot be (kernels before 6.14, no huge pages, parts of the block are here or may not be written,
 * links that need memory of their own), pages come by runs, as ever. */
#ifndef EG_WHOLE_H
#define EG_WHOLE_H

#include "client/pager/eg_pager.h"

/* eg_whole_start - Context: the pager becomes active, its userfaultfd is there. */
void eg_whole_start(void);
/* eg_whole_window - pages that a stream may read ahead of b: more than a block where they can come whole; else 0. Context: lock held. */
uint32_t eg_whole_window(const struct eg_block *b);
/* eg_whole_may - can the block come whole now? Context: lock held. */
int eg_whole_may(const struct eg_block *b);
/* eg_whole_submit - all of the block is read. demand_ns: since when somebody waits for it (0: nobody). Context: lock held, eg_whole_may, the budget has room.
 * Returns: 0; -EAGAIN (too many are under way), -ENOMEM (no huge page to be had): nothing was begun. */
int eg_whole_submit(struct eg_block *b, uint64_t demand_ns);
/* A piece of it was read, and is what was written: the last one installs the block. Context: the lock may be given up, as in fetch.c. */
void eg_whole_piece(struct eg_fetch *f);
/* What follows under the lock. */
void eg_whole_settle(struct eg_fetch *f);
/* eg_whole_take - a clean block that came whole leaves. Context: lock held. Returns: 1; 0: it has to be dropped as others are. */
int eg_whole_take(struct eg_block *b);
/* eg_whole_split - a part of a block that came whole is about to have a life of its own: else its huge page would stay, unseen, as long as any part of
 * it does. Context: lock held, nothing of it has left. */
void eg_whole_split(struct eg_block *b);
/* eg_whole_busy - is a whole block of [first, last] on its way (alone: read without the lock)? Context: lock held. */
int eg_whole_busy(uint64_t first, uint64_t last, int alone);
/* eg_whole_never - no block comes whole from here on. Context: lock held, may be given up meanwhile. */
void eg_whole_never(void);
/* eg_whole_let_go - no huge pages are kept. Context: nothing is on its way. */
void eg_whole_let_go(void);

#endif
