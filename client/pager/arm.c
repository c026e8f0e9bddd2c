/* arm.c - blocks are armed: from then on the pager knows which of their pages are here. */
#include "client/pager/eg_evict.h"

#include "client/pager/eg_inline.h"

#include <errno.h>
#include <sys/mman.h>

static uint64_t page_map[EG_BLOCK_PAGES]; /* the lock is held */

/* Returns: 1: page_map[] tells of n pages from addr on; 0: nothing is known. */
static int page_map_read(uint64_t addr, uint32_t n)
{
    size_t bytes = n * sizeof *page_map;
    return eg_sys4(SYS_pread64, eg_rt.pagemap_fd, page_map, bytes, (addr >> EG_PAGE_SHIFT) * sizeof *page_map) == (long)bytes;
}

void eg_evict_scan(struct eg_block *b, uint64_t lo, uint64_t hi)
{
    uint32_t first = (uint32_t)(lo >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, n = (uint32_t)((hi - lo) >> EG_PAGE_SHIFT);
    int known = page_map_read(lo, n);
    for (uint32_t k = 0; k < n; k++) {
        if (eg_page_state(b, first + k) != EG_P_FRESH || eg_page_guarded((lo >> EG_PAGE_SHIFT) + k)) /* a guard looks like what is swapped out */
            continue;
        if (!known || page_map[k] & (PM_PRESENT | PM_SWAPPED)) {
            eg_page_set(b, first + k, EG_P_DIRTY);
            b->page[first + k] &= (uint8_t)~EG_P_REFS;
            eg_queue_push(b, first + k);
        }
    }
}

/* Makes what is there in [lo, hi) of a block the program's for good. In memory that the program cannot write, nothing else
 * writes either: a byte of each page is written over itself. Returns: 0, -errno. */
static int keep_present(uint64_t lo, uint64_t hi)
{
    if (!eg_sys_failed(eg_sys3(SYS_madvise, lo, hi - lo, MADV_POPULATE_WRITE)))
        return 0;
    for (; lo < hi; lo += EG_PAGE_BYTES) {
        uint8_t byte;
        if (eg_sys4(SYS_pread64, eg_rt.mem_fd, &byte, 1, lo) != 1 || eg_sys4(SYS_pwrite64, eg_rt.mem_fd, &byte, 1, lo) != 1)
            return -EFAULT;
    }
    return 0;
}

int eg_evict_settle(void)
{
    struct eg_range lazy, part;
    int rc = 0;
    for (uint64_t at = 0; eg_ranges_next(&eg_rt.lazy, at, 1ul << EG_ADDR_BITS, &lazy); at = lazy.end)
        for (uint64_t to = lazy.start; eg_ranges_next(&eg_rt.ranges, to, lazy.end, &part); to = part.end)
            for (uint64_t lo = part.start, hi; !rc && lo < part.end; lo = hi) {
                hi = (lo | (EG_BLOCK_BYTES - 1)) + 1;
                if (hi > part.end)
                    hi = part.end;
                uint32_t n = (uint32_t)((hi - lo) >> EG_PAGE_SHIFT);
                int known = page_map_read(lo, n);
                for (uint32_t i = 0, run = 0; !rc && i <= n; i++) {
                    if (i < n && (!known || page_map[i] & (PM_PRESENT | PM_SWAPPED)) && !eg_page_guarded((lo >> EG_PAGE_SHIFT) + i))
                        continue;
                    if (i > run)
                        rc = keep_present(lo + (uint64_t)run * EG_PAGE_BYTES, lo + (uint64_t)i * EG_PAGE_BYTES);
                    run = i + 1;
                }
            }
    eg_rt.lazy.n = 0;
    return rc;
}

int eg_evict_arm(uint64_t index)
{
    struct eg_block *b = eg_block_get(index);
    if (!b)
        return -ENOMEM;
    if (eg_block_armed(index))
        return 0;
    struct eg_range part;
    uint64_t start = eg_block_addr(b), end = start + EG_BLOCK_BYTES;
    int pinned = eg_rt.inlined && eg_pin_any(start, end);
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        /* A system call is under way that may be the first to touch some of it: what is missing from here on, it would find missing. */
        if (pinned && !(part.flags & EG_RANGE_RESERVED) &&
            eg_sys_failed(eg_sys3(SYS_madvise, part.start, part.end - part.start, MADV_POPULATE_WRITE)))
            eg_sys3(SYS_madvise, part.start, part.end - part.start, MADV_POPULATE_READ);
        int rc = eg_uffd_register(part.start, part.end);
        if (rc) {
            eg_uffd_unregister(start, part.start);
            return rc;
        }
    }
    /* From here on nothing becomes resident behind our back, so the page map stays true. */
    eg_block_set_armed(index, 1);
    eg_evict_scan(b, start, end);
    EG_COUNT(blocks_armed, 1);
    return 0;
}

int eg_evict_arm_next(void)
{
    struct eg_range part;
    uint64_t at = eg_rt.arm_hand;
    int wrapped = 0;
    for (;;) {
        if (!eg_ranges_next(&eg_rt.ranges, at, 1ul << EG_ADDR_BITS, &part)) {
            if (wrapped)
                return 0;
            wrapped = 1;
            at = 0;
            continue;
        }
        uint64_t index = part.start >> EG_BLOCK_SHIFT;
        if (part.flags & EG_RANGE_RESERVED) {
            at = part.end;
        } else {
            at = (index + 1) << EG_BLOCK_SHIFT;
            if (!eg_block_armed(index) && eg_evict_arm(index) == 0) {
                eg_rt.arm_hand = at;
                return 1;
            }
        }
        if (wrapped && at > eg_rt.arm_hand)
            return 0;
    }
}
