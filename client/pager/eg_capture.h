/* eg_capture.h - what the parts of capturing share: capture.c (memory calls), remap.c (mremap), fork.c, fds.c. All of it is called with
 * the pager's lock held, but eg_cap_enter, which takes it. */
#ifndef EG_CAPTURE_H
#define EG_CAPTURE_H

#include "client/pager/eg_pager.h"

static inline uint64_t eg_page_up(uint64_t v)
{
    return (v + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1);
}

/* eg_cap_enter / eg_cap_leave - around every call of the gate: the lock, and the account. leave returns its argument. */
void eg_cap_enter(void);
long eg_cap_leave(long ret);
/* eg_cap_must - the pager's tables cannot grow, or the kernel refuses another mapping: the program ends with a line. */
void eg_cap_must(int rc);

/* eg_cap_add - take [start, end) in. flags: EG_RANGE_*. fresh: nothing is in it yet. arm: blocks that were empty are armed at once. */
void eg_cap_add(uint64_t start, uint64_t end, uint64_t flags, int fresh, int arm);
/* eg_cap_remove - forget [start, end): it is gone from the address space, or the kernel's alone from now on. */
void eg_cap_remove(uint64_t start, uint64_t end);
/* eg_cap_count - a range's pages enter (sign 1) or leave (-1) the counts of captured and committed memory. */
void eg_cap_count(const struct eg_range *part, int sign);
/* eg_cap_commit - before n more accessible pages: has the pool room, and must new blocks be armed? Returns: 0, -ENOMEM. */
int eg_cap_commit(uint64_t n, int noreserve, int *ret_arm);
/* eg_cap_home - everything of [start, end) comes home, is dirty, and is not registered any more. */
void eg_cap_home(uint64_t start, uint64_t end);
/* eg_cap_release - eg_cap_home, and nothing is evicted from it any more. */
void eg_cap_release(uint64_t start, uint64_t end);
/* eg_cap_discard - the content of [start, end) is zeros from now on. */
void eg_cap_discard(uint64_t start, uint64_t end);
int eg_cap_any_armed(uint64_t start, uint64_t end);
/* eg_cap_rearm - register what lies in armed blocks, and protect the clean pages. */
void eg_cap_rearm(uint64_t start, uint64_t end);
/* eg_cap_child_start - in a new process: its own row, descriptors, sessions and pager. */
void eg_cap_child_start(int was_active, int drop);

#endif
