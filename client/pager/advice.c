/* advice.c - hints about memory, from endgame.h, madvise(2) or a hints file (hints.c): how it is used, what should stay, what should go, on which server it
 * should be. They are kept with the captured ranges (so they go with mremap and fork, and end with the mapping), and change no result. */
#include "client/pager/eg_capture.h"

#include <errno.h>
#include <sys/mman.h>

int eg_advice_is(long number, enum eg_advice *ret_advice, uint32_t *ret_server)
{
    *ret_server = 0;
    switch (number) {
    case MADV_NORMAL: *ret_advice = EG_ADVICE_NORMAL; return 1;
    case MADV_RANDOM: *ret_advice = EG_ADVICE_RANDOM; return 1;
    case MADV_SEQUENTIAL: *ret_advice = EG_ADVICE_SEQUENTIAL; return 1;
    case MADV_WILLNEED: *ret_advice = EG_ADVICE_PREFETCH; return 1;
    case MADV_COLD: *ret_advice = EG_ADVICE_COLD; return 1;
    case MADV_PAGEOUT: *ret_advice = EG_ADVICE_EVICT; return 1;
    default: break;
    }
    long which = number - EG_ADVICE_BASE;
    if (which < 0 || (which & 0xff) >= EG_ADVICE_N || which >> 16 || (which >> 8 && (which & 0xff) != EG_ADVICE_PLACE))
        return 0;
    *ret_advice = (enum eg_advice)(which & 0xff);
    *ret_server = (uint32_t)(which >> 8);
    return 1;
}

uint64_t eg_advice_of(uint64_t page)
{
    uint64_t addr = page << EG_PAGE_SHIFT;
    size_t i = eg_ranges_find(&eg_rt.ranges, addr);
    return i < eg_rt.ranges.n && eg_rt.ranges.v[i].start <= addr ? eg_rt.ranges.v[i].flags : 0;
}

static void note(uint64_t start, uint64_t end, uint64_t set, uint64_t clear)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        uint64_t flags = (part.flags & ~clear) | set;
        if (flags == part.flags)
            continue;
        if (!(flags & EG_RANGE_RESERVED))
            eg_rt.pinned += ((flags & EG_RANGE_PIN) != 0) * (int64_t)((part.end - part.start) >> EG_PAGE_SHIFT) -
                            ((part.flags & EG_RANGE_PIN) != 0) * (int64_t)((part.end - part.start) >> EG_PAGE_SHIFT);
        eg_cap_must(eg_ranges_set(&eg_rt.ranges, part.start, part.end, flags));
        eg_rt.advised |= flags & EG_RANGE_ADVICE;
    }
}

void eg_advice_child(void)
{
    note(0, 1ull << EG_ADDR_BITS, 0, EG_RANGE_PIN); /* as with mlock */
}

/* Pages of [start, end) that a pin would add to those pinned. */
static uint64_t pin_adds(uint64_t start, uint64_t end)
{
    struct eg_range part;
    uint64_t n = 0;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        if (!(part.flags & (EG_RANGE_PIN | EG_RANGE_RESERVED)))
            n += (part.end - part.start) >> EG_PAGE_SHIFT;
    return n;
}

void eg_advice_add(uint64_t start, uint64_t end, uint64_t flags)
{
    if (flags & EG_RANGE_PIN && (uint64_t)eg_rt.pinned + pin_adds(start, end) > eg_rt.budget / 2)
        flags &= ~(uint64_t)EG_RANGE_PIN;
    note(start, end, flags, flags & EG_RANGE_ENTRY_BITS ? EG_RANGE_ENTRY_BITS : 0);
}

int eg_advise(uint64_t start, uint64_t end, enum eg_advice advice, uint32_t server)
{
    const uint64_t use = EG_RANGE_SEQUENTIAL | EG_RANGE_RANDOM;
    switch (advice) {
    case EG_ADVICE_NORMAL: note(start, end, 0, use | EG_RANGE_FIRST | EG_RANGE_PIN); break;
    case EG_ADVICE_RANDOM: note(start, end, EG_RANGE_RANDOM, use); break;
    case EG_ADVICE_SEQUENTIAL: note(start, end, EG_RANGE_SEQUENTIAL, use); break;
    case EG_ADVICE_EVICT_FIRST:
        note(start, end, EG_RANGE_FIRST, EG_RANGE_PIN);
        if (eg_rt.active)
            eg_evict_soon(start, end);
        break;
    case EG_ADVICE_COLD:
        if (eg_rt.active)
            eg_evict_soon(start, end);
        break;
    case EG_ADVICE_PIN:
        if ((uint64_t)eg_rt.pinned + pin_adds(start, end) > eg_rt.budget / 2)
            return -ENOMEM;
        note(start, end, EG_RANGE_PIN, EG_RANGE_FIRST);
        if (eg_rt.active)
            eg_fetch_want(start, end);
        break;
    case EG_ADVICE_PREFETCH:
        if (eg_rt.active)
            eg_fetch_want(start, end - start > eg_rt.budget / 4 * EG_PAGE_BYTES ? start + eg_rt.budget / 4 * EG_PAGE_BYTES : end);
        break;
    case EG_ADVICE_EVICT:
        if (eg_rt.active)
            eg_evict_now(start, end);
        break;
    case EG_ADVICE_PLACE:
        if (server >= eg_rt.n_servers)
            return -EINVAL;
        note(start, end, (uint64_t)(server + 1) << 8, EG_RANGE_SERVER_BITS);
        break;
    case EG_ADVICE_N: return -EINVAL;
    }
    return 0;
}
