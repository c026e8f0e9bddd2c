/* evict.c - which pages leave, and when: blocks are armed (arm.c), cold pages dropped (drop.c: the server has them) or taken away and written (write.c).
 * First in, first out; more turns for pages that came back soon, one for those written after they came in. */
#include "client/pager/eg_evict.h"

#include "client/pager/eg_inline.h"
#include "client/pager/eg_whole.h"

#include <sys/mman.h>

#define OTHERS_WAIT_NS 3000000u    /* before a process below its share gives way after all */
#define OTHERS_LIMIT_NS 200000000u /* before one that cannot goes beyond the budget */
#define OTHERS_VAIN_NS 5000000000u /* they were waited for so long for nothing: not again within this time */
#define SPARED_MAX 1024         /* pages passed over in one call */
#define STUCK_PAGES 64
#define RECENT_WHOLE 3
#define RECENT_ALONE 2 /* the same for one thread: what an instruction reads may begin on one page and end on the next. 3 made a scan at 25 % of 128 MiB three times slower */

/* Not long ago nothing could leave, and since then hardly anything came. */
static int stuck(void)
{
    return eg_rt.charged < eg_rt.stuck_charged + STUCK_PAGES && eg_sys_now_ns() < eg_rt.stuck_until_ns;
}

static uint8_t pins_yield; /* nothing else can leave: the budget comes before pins */

/* Of a block that came whole only the last few: as many of those may be most of what can leave. */
static int is_recent(const struct eg_block *b, uint32_t i)
{
    uint32_t n = !b->whole ? EG_N_RECENT : eg_rt.spawned || !eg_rt.inlined ? RECENT_WHOLE : RECENT_ALONE;
    for (uint32_t k = 1; k <= n; k++)
        if (eg_rt.recent[(eg_rt.n_recent - k) % EG_N_RECENT] == eg_page_number(b, i))
            return 1;
    return 0;
}

static int kept(uint64_t page)
{
    return (page >= eg_rt.keep_start >> EG_PAGE_SHIFT && page < eg_rt.keep_end >> EG_PAGE_SHIFT) || (eg_rt.keeps && eg_rt.keeps(page)) ||
           (eg_rt.inlined && eg_pin_has(page)) ||
           (eg_rt.pinned && !pins_yield && eg_advice_of(page) & EG_RANGE_PIN);
}

/* Up to n pages, at most so many of them by a write. Clean ones go with d, by the caller if d is busy (that may be after this). */
static uint64_t evict(uint64_t n, uint64_t writes, struct eg_drops *d)
{
    uint64_t freed = 0, spared = 0;
    int can_arm = 1;
    if (eg_rt.foreign || eg_rt.settling || stuck())
        return 0;
    while (freed + d->pages < n) {
        struct eg_queue *q = eg_queue_next(spared >= SPARED_MAX / 2);
        int64_t in_all = (int64_t)eg_queue_count_all();
        /* With each block's worth of pages that leaves one more is armed: what was here first must not stay for good. */
        if (can_arm && (in_all * 4 < eg_rt.charged || eg_rt.arm_owed >= (int64_t)EG_BLOCK_PAGES)) {
            eg_rt.arm_owed -= EG_BLOCK_PAGES;
            int64_t before = eg_rt.charged;
            can_arm = eg_evict_arm_next();
            if (!can_arm)
                eg_rt.arm_owed = -eg_rt.charged; /* the search goes over everything: not soon again */
            if (eg_rt.charged < before)
                freed += (uint64_t)(before - eg_rt.charged);
            continue;
        }
        if (!eg_queue_count(q) || spared > SPARED_MAX)
            break;
        uint32_t i;
        struct eg_block *b = eg_queue_pop(q, &i);
        if (!b)
            continue;
        enum eg_page_state s = eg_page_state(b, i);
        if (kept(eg_page_number(b, i)) || is_recent(b, i)) {
            eg_queue_push(b, i);
            spared++;
            continue;
        }
        if (q == &eg_rt.first && s != EG_P_FETCHING)
            b->page[i] &= (uint8_t)~EG_P_REFS;
        if (s == EG_P_FETCHING || ((s == EG_P_CLEAN || s == EG_P_DIRTY) && b->page[i] & EG_P_REFS)) {
            if (s != EG_P_FETCHING)
                b->page[i] = (uint8_t)(b->page[i] - EG_P_REF1);
            eg_queue_push(b, i);
            spared++;
            continue;
        }
        if (s != EG_P_CLEAN && s != EG_P_DIRTY)
            continue;
        uint32_t first = i, run = 1, longest = s == EG_P_CLEAN && b->whole && !first ? EG_BLOCK_PAGES : WRITE_RUN_PAGES;
        while (run < longest && first + run < EG_BLOCK_PAGES) {
            uint64_t page = eg_page_number(b, first + run);
            if (!eg_queue_next_is(q, page) || kept(page) || is_recent(b, first + run) || eg_page_state(b, first + run) != s ||
                (q != &eg_rt.first && b->page[first + run] & EG_P_REFS))
                break;
            eg_queue_pop(q, &i);
            run++;
        }
        if (run < EG_BLOCK_PAGES)
            eg_whole_split(b);
        if (run == EG_BLOCK_PAGES && eg_whole_take(b)) {
            eg_drop_note(b, 0, run);
            freed += run;
            continue;
        }
        if (s == EG_P_CLEAN) {
            eg_drop_add(d, b, first, run);
            if (d->runs == DROP_RUNS && d->busy)
                break;
            if (d->runs == DROP_RUNS)
                freed += eg_drop_all(d);
            continue;
        }
        uint64_t got = eg_write_run(b, first, run);
        freed += got;
        if (got < run)
            spared += run - got;
        if (got >= writes)
            break;
        writes -= got;
    }
    if (!d->busy)
        freed += eg_drop_all(d);
    /* When nothing of a whole round through the queue can leave, it is not looked at again for every fault. */
    eg_rt.spared = freed + d->pages ? 0 : eg_rt.spared + spared + 1;
    if (eg_rt.spared > eg_queue_count_all() * 4) {
        eg_rt.stuck_until_ns = eg_sys_now_ns() + EG_FULL_RETRY_NS;
        eg_rt.stuck_charged = eg_rt.charged;
        eg_rt.spared = 0;
    }
    eg_account_sync();
    return freed;
}

uint64_t eg_evict(uint64_t n)
{
    struct eg_drops drops;
    drops.runs = drops.pages = drops.busy = 0;
    return evict(n, n, &drops);
}

void eg_evict_aside(uint64_t n, uint64_t writes)
{
    struct eg_drops *d = eg_drop_aside();
    if (!d)
        return;
    eg_rt.outstanding++;
    eg_rt.unlocked++;
    evict(n, writes, d);
    if (d->runs) {
        uint8_t foreign = eg_rt.foreign;
        eg_inline_unlock();
        long gone = eg_drop_call(d);
        eg_inline_relock(foreign);
        eg_drop_settle(d, gone);
    }
    d->busy = 0;
    eg_rt.outstanding--;
    eg_rt.unlocked--;
}

/* The accessible parts of [start, end), block by block, armed. Returns: 0 when there is none any more. */
static int armed_part(uint64_t start, uint64_t end, struct eg_range *ret_part)
{
    while (eg_ranges_next(&eg_rt.ranges, start, end, ret_part)) {
        uint64_t index = ret_part->start >> EG_BLOCK_SHIFT, stop = (index + 1) << EG_BLOCK_SHIFT;
        if (!(ret_part->flags & EG_RANGE_RESERVED)) {
            ret_part->end = ret_part->end < stop ? ret_part->end : stop;
            return eg_evict_arm(index) == 0;
        }
        start = ret_part->end;
    }
    return 0;
}

void eg_evict_soon(uint64_t start, uint64_t end)
{
    struct eg_range part;
    for (uint64_t at = start; armed_part(at, end, &part); at = part.end) {
        struct eg_block *b = eg_block_find(part.start >> EG_BLOCK_SHIFT);
        for (uint64_t p = part.start; p < part.end; p += EG_PAGE_BYTES) {
            uint32_t i = (uint32_t)(p >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
            enum eg_page_state s = eg_page_state(b, i);
            if ((s != EG_P_CLEAN && s != EG_P_DIRTY) || b->page[i] & EG_P_FIRST)
                continue;
            eg_queue_push_first(b, i);
        }
    }
}

void eg_evict_now(uint64_t start, uint64_t end)
{
    struct eg_range part;
    for (uint64_t at = start; armed_part(at, end, &part); at = part.end) {
        struct eg_block *b = eg_block_find(part.start >> EG_BLOCK_SHIFT);
        uint32_t i = (uint32_t)(part.start >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
        uint32_t stop = i + (uint32_t)((part.end - part.start) >> EG_PAGE_SHIFT), n;
        eg_whole_split(b);
        for (; i < stop; i += n ? n : 1) {
            enum eg_page_state s = eg_page_state(b, i);
            int here = s == EG_P_CLEAN || s == EG_P_DIRTY;
            for (n = 0; here && n < WRITE_RUN_PAGES && i + n < stop && eg_page_state(b, i + n) == s && !kept(eg_page_number(b, i + n)); n++)
                b->page[i + n] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST | EG_P_REFS);
            if (n && s == EG_P_CLEAN)
                eg_drop_run(b, i, n);
            else if (n)
                eg_write_run(b, i, n);
        }
    }
    eg_account_sync();
}

void eg_evict_room(uint64_t n)
{
    static uint64_t vain_until_ns;
    uint64_t start = 0;
    while (eg_account_total() + n > eg_rt.budget && !eg_rt.settling) {
        EG_COUNT(evict_stalls, 1);
        eg_account_sync();
        uint64_t now = eg_sys_now_ns();
        if (!start)
            start = now;
        uint64_t asked = eg_account_ask_others(n);
        int in_vain = now < vain_until_ns;
        if (asked && !in_vain && now - start < OTHERS_WAIT_NS) {
            eg_sys0(SYS_sched_yield);
            continue;
        }
        if (eg_evict(n > 32 ? n : 32) || (!eg_rt.foreign && !stuck()))
            continue;
        /* Nothing of this process can leave. Others were asked, and may only be slow. */
        eg_account_bury();
        if (!asked || in_vain || now - start > OTHERS_LIMIT_NS) {
            if (asked && !in_vain)
                vain_until_ns = now + OTHERS_VAIN_NS;
            if (!eg_rt.pinned || pins_yield)
                break; /* the program goes on beyond the budget */
            pins_yield = 1;
            eg_rt.stuck_until_ns = 0;
            continue;
        }
        eg_sys0(SYS_sched_yield);
    }
    pins_yield = 0;
}

int eg_evict_clean_all(void)
{
    int rc = 0;
    eg_pager_quiesce(0, 1ul << EG_ADDR_BITS);
    while (eg_evict_arm_next())
        ;
    struct eg_block *b;
    for (uint64_t at = 0; (b = eg_block_next(&at, EG_N_BLOCKS));) {
        if (eg_block_armed(b->index) && b->n_resident) {
            int err = eg_write_clean(b);
            if (err)
                rc = err;
        }
    }
    eg_pager_quiesce(0, 1ul << EG_ADDR_BITS);
    int registered = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        registered |= eg_rt.server[i].link.ops && eg_rt.server[i].link.ops->registered;
    if (!registered)
        eg_sys_unmap(eg_rt.stage, (uint64_t)EG_N_SLOTS * EG_PAGE_BYTES);
    return rc;
}

void eg_evict_reset(void)
{
    for (uint32_t i = 0; i < EG_POOL_SERVERS; i++) {
        eg_rt.server[i].writes = (struct eg_io_queue){NULL, NULL};
        eg_rt.server[i].writes_pages = 0;
    }
    memset(eg_rt.slot_page, 0, sizeof eg_rt.slot_page);
    eg_rt.slot_head = eg_rt.slot_tail = eg_rt.slot_clean = 0;
    if (eg_rt.ring)
        eg_sys3(SYS_madvise, eg_rt.ring, (uint64_t)EG_N_SLOTS * EG_PAGE_BYTES, MADV_DONTNEED);
    for (uint32_t i = 0; i < EG_N_WRITES; i++)
        eg_rt.write[i].busy = 0;
    for (uint32_t i = 0; i < EG_N_FETCHES; i++)
        eg_rt.fetch[i].busy = 0;
    eg_drop_reset();
    eg_whole_let_go();
    eg_rt.outstanding = eg_rt.unlocked = 0;
    eg_rt.evicting = 0;
}
