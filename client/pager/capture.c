/* capture.c - the program's memory calls, with their exact semantics, on captured memory. */
#include "client/pager/eg_capture.h"
#include "client/pager/eg_inline.h"
#include "client/pager/eg_whole.h"

#include <errno.h>
#include <linux/shm.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>

#define GRANULE_BLOCKS 64u /* a word of the armed bitmap */
#define EVICT_SLICE_BYTES (4u << 20)
#define IOVS_MAX 1024u

void eg_cap_enter(void)
{
    __atomic_fetch_add(&eg_rt.lock.waiters, 1, __ATOMIC_RELAXED);
    eg_lock_take(&eg_rt.lock);
    __atomic_fetch_sub(&eg_rt.lock.waiters, 1, __ATOMIC_RELAXED);
    eg_rt.foreign = eg_rt.pid != 0 && (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid;
    if (eg_rt.foreign && eg_rt.fork_mark && *eg_rt.fork_mark == 0) {
        /* Not a vfork child: a copy of the address space that was made past the gate. */
        if (eg_rt.active)
            eg_die("the program forked in a way that endgame cannot follow (a system call of its own, or clone with its parent's descriptors)", NULL, 0);
        eg_cap_child_start(0, 0);
    }
}

long eg_cap_leave(long ret)
{
    eg_rt.foreign = 0;
    eg_account_sync();
    int kick = eg_rt.active && !eg_rt.evicting && eg_account_total() > eg_rt.high;
    eg_lock_give(&eg_rt.lock);
    if (kick)
        eg_pager_kick();
    return ret;
}

void eg_cap_must(int rc)
{
    if (rc == -ENOMEM)
        eg_die("no memory for the pager's own tables, or no more mappings (vm.max_map_count)", NULL, 0);
    if (rc)
        eg_die("the kernel does not let the program's memory be watched over any more", NULL, rc);
}

/* Accessible pages of [start, end). */
static int64_t open_pages(uint64_t start, uint64_t end)
{
    struct eg_range part;
    int64_t n = 0;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        if (!(part.flags & EG_RANGE_RESERVED))
            n += (int64_t)((part.end - part.start) >> EG_PAGE_SHIFT);
    return n;
}

static int granule_untouched(uint64_t index)
{
    return !eg_block_next(&index, index + GRANULE_BLOCKS);
}

/* --- taking memory in and letting it go -------------------------------------------------------------------------------- */

void eg_cap_count(const struct eg_range *part, int sign)
{
    int64_t n = (int64_t)((part->end - part->start) >> EG_PAGE_SHIFT);
    if (part->flags & EG_RANGE_RESERVED)
        return;
    eg_rt.captured += sign * n;
    if (part->flags & EG_RANGE_PIN)
        eg_rt.pinned += sign * n;
    if (!(part->flags & EG_RANGE_NORESERVE))
        eg_rt.committed += sign * n;
    if (eg_rt.committed < 0)
        eg_rt.committed = 0;
}

/* Forgets [start, end): the memory is gone from the address space or is the kernel's alone from now on. */
void eg_cap_remove(uint64_t start, uint64_t end)
{
    struct eg_range part;
    if (!eg_ranges_overlap(&eg_rt.ranges, start, end))
        return;
    for (uint64_t at = start; at < end;) {
        uint64_t index = at >> EG_BLOCK_SHIFT, hi = (index + 1) << EG_BLOCK_SHIFT;
        if (index % GRANULE_BLOCKS == 0 && at == index << EG_BLOCK_SHIFT &&
            at + ((uint64_t)GRANULE_BLOCKS << EG_BLOCK_SHIFT) <= end && granule_untouched(index) &&
            (!eg_rt.armed || eg_rt.armed[index / 64] == 0 || eg_rt.armed[index / 64] == ~0ull)) {
            hi = at + ((uint64_t)GRANULE_BLOCKS << EG_BLOCK_SHIFT);
            if (!eg_rt.armed || !eg_rt.armed[index / 64])
                eg_rt.charged -= open_pages(at, hi);
            at = hi;
            continue;
        }
        if (hi > end)
            hi = end;
        struct eg_block *b = eg_block_find(index);
        if (b) {
            for (uint64_t p = at; p < hi; p += EG_PAGE_BYTES)
                eg_page_set(b, (uint32_t)(p >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, EG_P_NONE);
            eg_block_slab_gone(b);
        } else if (!eg_block_armed(index)) {
            eg_rt.charged -= open_pages(at, hi);
        }
        at = hi;
    }
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        eg_cap_count(&part, -1);
    eg_cap_must(eg_ranges_clear(&eg_rt.ranges, start, end));
    /* A block of which nothing is left decides afresh, next time, whether it is armed. */
    for (uint64_t index = start >> EG_BLOCK_SHIFT; eg_rt.armed && index <= (end - 1) >> EG_BLOCK_SHIFT;) {
        if (index % 64 == 0 && eg_rt.armed[index / 64] == 0) {
            index += 64;
            continue;
        }
        uint64_t b0 = index << EG_BLOCK_SHIFT;
        if (eg_block_armed(index) && !eg_ranges_overlap(&eg_rt.ranges, b0, b0 + EG_BLOCK_BYTES))
            eg_block_set_armed(index, 0);
        index++;
    }
}

/* [start, end) is in the ranges and accessible. fresh: nothing is in it yet; else its pages may be there already.
 * Blocks that were empty are armed at once when `arm`; the others go as the rest of their block. */
static void cap_open(uint64_t start, uint64_t end, int fresh, int arm)
{
    uint64_t reg = 0, at, hi; /* [reg, at): to be registered */
    for (at = start; at < end; at = hi) {
        uint64_t index = at >> EG_BLOCK_SHIFT, b0 = index << EG_BLOCK_SHIFT, b1 = b0 + EG_BLOCK_BYTES;
        hi = b1 < end ? b1 : end;
        struct eg_block *b = eg_block_find(index);
        int armed = eg_block_armed(index);
        if (!armed && arm && !open_pages(b0, at) && !open_pages(hi, b1)) {
            eg_block_set_armed(index, 1);
            armed = 1;
            EG_COUNT(blocks_armed, 1);
        }
        if (b)
            for (uint64_t p = at; p < hi; p += EG_PAGE_BYTES)
                eg_page_set(b, (uint32_t)(p >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, EG_P_FRESH);
        else if (!armed)
            eg_rt.charged += (int64_t)((hi - at) >> EG_PAGE_SHIFT);
        if (armed && !fresh) {
            eg_cap_must((b = eg_block_get(index)) ? 0 : -ENOMEM);
            eg_cap_must(eg_uffd_register(at, hi));
            eg_evict_scan(b, at, hi);
        } else if (armed && !reg) {
            reg = at;
        } else if (!armed && reg) {
            eg_cap_must(eg_uffd_register(reg, at));
            reg = 0;
        }
    }
    if (reg)
        eg_cap_must(eg_uffd_register(reg, end));
}

void eg_cap_add(uint64_t start, uint64_t end, uint64_t flags, int fresh, int arm)
{
    struct eg_range part = {start, end, flags};
    eg_cap_must(eg_ranges_set(&eg_rt.ranges, start, end, flags));
    eg_cap_count(&part, 1);
    if (!(flags & EG_RANGE_RESERVED)) {
        cap_open(start, end, fresh, arm);
        return;
    }
    for (uint64_t at = start; at < end;) {
        uint64_t index = at >> EG_BLOCK_SHIFT, hi = (index + 1) << EG_BLOCK_SHIFT;
        struct eg_block *b = eg_block_find(index);
        if (!b && index % GRANULE_BLOCKS == 0 && granule_untouched(index)) {
            at = (index + GRANULE_BLOCKS) << EG_BLOCK_SHIFT;
            continue;
        }
        for (; b && at < hi && at < end; at += EG_PAGE_BYTES)
            eg_page_set(b, (uint32_t)(at >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, EG_P_RESERVED);
        at = hi;
    }
}

/* More at once the kernel would have refused, too. */
static uint64_t machine_pages(void)
{
    struct sysinfo info;
    return eg_sys1(SYS_sysinfo, &info) ? 0 : info.totalram * info.mem_unit / EG_PAGE_BYTES;
}

/* Before n more accessible pages: does the pool have room, and do new blocks have to be armed?
 * Returns: 0 or -ENOMEM; *ret_arm is then set. */
int eg_cap_commit(uint64_t n, int noreserve, int *ret_arm)
{
    *ret_arm = 0;
    if (eg_rt.foreign)
        return 0;
    if (eg_account_total() + n > eg_rt.high) {
        if (eg_pager_activate_or_warn())
            return 0;
        *ret_arm = 1;
    }
    int promised = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        promised |= eg_rt.server[i].reserved != 0;
    if (noreserve || (!*ret_arm && !promised))
        return 0;
    int64_t need = eg_rt.committed - eg_rt.inherited;
    int rc = eg_session_reserve((need > 0 ? need : 0) + (int64_t)n);
    if (rc && n <= machine_pages())
        eg_warn_once(EG_WARN_REFUSED, "no memory server has room for more, the program is refused memory; give it a server with more --capacity", NULL);
    return rc;
}

static int any_remote(uint64_t start, uint64_t end)
{
    struct eg_block *b;
    for (uint64_t k = start >> EG_BLOCK_SHIFT; (b = eg_block_next(&k, ((end - 1) >> EG_BLOCK_SHIFT) + 1));)
        for (uint32_t i = 0; b->n_copied && i < EG_BLOCK_PAGES; i++) {
            uint64_t addr = eg_block_addr(b) + (uint64_t)i * EG_PAGE_BYTES;
            if (addr >= start && addr < end && eg_page_state(b, i) >= EG_P_REMOTE)
                return 1;
        }
    return 0;
}

/* Everything of [start, end) comes home and is dirty; then it is not registered any more. */
void eg_cap_home(uint64_t start, uint64_t end)
{
    struct eg_range part;
    eg_pager_quiesce(start, end);
    do { /* while this waits, others may have evicted some of it again (inline) */
        eg_rt.keep_start = start;
        eg_rt.keep_end = end;
        eg_fetch_range(start, end);
        eg_rt.keep_start = eg_rt.keep_end = 0;
    } while (any_remote(start, end));
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        for (uint64_t p = part.start; p < part.end; p += EG_PAGE_BYTES) {
            struct eg_block *b = eg_block_find(p >> EG_BLOCK_SHIFT);
            uint32_t i = (uint32_t)(p >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
            if (!b)
                p |= EG_BLOCK_BYTES - EG_PAGE_BYTES; /* the block's last page: on to the next block */
            else if (eg_page_state(b, i) == EG_P_CLEAN)
                eg_page_set(b, i, EG_P_DIRTY);
        }
        if (eg_rt.active)
            eg_uffd_unregister(part.start, part.end);
    }
}

/* Makes [start, end) the kernel's alone: nothing is evicted from it any more. */
void eg_cap_release(uint64_t start, uint64_t end)
{
    eg_cap_home(start, end);
    eg_cap_remove(start, end);
}

void eg_cap_adopt(uint64_t start, uint64_t end)
{
    eg_cap_enter();
    eg_cap_add(start, end, 0, 0, 0);
    eg_cap_leave(0);
}

/* --- mmap, munmap, mprotect, brk --------------------------------------------------------------------------------------- */

long eg_cap_mmap(long addr, long len, long prot, long flags, long fd, long off)
{
    int type = (int)(flags & MAP_TYPE);
    int capture = (flags & MAP_ANONYMOUS) && type == MAP_PRIVATE &&
                  !(flags & (MAP_STACK | MAP_GROWSDOWN | MAP_HUGETLB | MAP_LOCKED)) && len > 0;
    int fixed = (flags & MAP_FIXED) != 0;
    if (!capture && !fixed)
        return eg_sys6(SYS_mmap, addr, len, prot, flags, fd, off);
    uint64_t bytes = eg_page_up((uint64_t)len), n = bytes >> EG_PAGE_SHIFT;
    int arm = 0, noreserve = (flags & MAP_NORESERVE) != 0;
    if (bytes < (uint64_t)len || bytes > 1ull << EG_ADDR_BITS)
        return eg_sys6(SYS_mmap, addr, len, prot, flags, fd, off);
    eg_cap_enter();
    if (capture && prot != PROT_NONE && eg_cap_commit(n, noreserve, &arm))
        return eg_cap_leave(-ENOMEM);
    if (fixed && eg_ranges_overlap(&eg_rt.ranges, (uint64_t)addr, (uint64_t)addr + bytes))
        eg_pager_quiesce((uint64_t)addr, (uint64_t)addr + bytes);
    if (capture)
        flags |= MAP_NORESERVE;
    if (arm)
        flags &= ~(long)MAP_POPULATE;
    long ret = eg_sys6(SYS_mmap, addr, len, prot, flags, fd, off);
    if (eg_sys_failed(ret))
        return eg_cap_leave(ret);
    uint64_t start = (uint64_t)ret;
    eg_cap_remove(start, start + bytes);
    if (capture && start + bytes <= 1ull << EG_ADDR_BITS)
        eg_cap_add(start, start + bytes, (prot == PROT_NONE ? EG_RANGE_RESERVED : 0) | (noreserve ? EG_RANGE_NORESERVE : 0),
                !(flags & MAP_POPULATE), arm);
    return eg_cap_leave(ret);
}

long eg_cap_munmap(long addr, long len)
{
    uint64_t start = (uint64_t)addr, bytes = eg_page_up((uint64_t)len);
    if (start % EG_PAGE_BYTES || !len || bytes < (uint64_t)len || start + bytes < start)
        return eg_sys2(SYS_munmap, addr, len);
    eg_cap_enter();
    int ours = eg_ranges_overlap(&eg_rt.ranges, start, start + bytes);
    if (ours)
        eg_pager_quiesce(start, start + bytes);
    long ret = eg_sys2(SYS_munmap, addr, len);
    if (ours && ret == 0) {
        eg_cap_remove(start, start + bytes);
        if (eg_rt.active)
            eg_session_relax(eg_rt.committed);
    }
    return eg_cap_leave(ret);
}

long eg_cap_shmat(long id, long addr, long flags)
{
    struct shmid64_ds ds;
    uint64_t start = (uint64_t)addr & ~(uint64_t)(EG_PAGE_BYTES - 1), bytes;
    if (!addr || (!(flags & SHM_RND) && start != (uint64_t)addr) || eg_sys3(SYS_shmctl, id, IPC_STAT, &ds))
        return eg_sys3(SYS_shmat, id, addr, flags);
    bytes = eg_page_up(ds.shm_segsz);
    if (start + bytes < start || start + bytes > 1ull << EG_ADDR_BITS)
        return eg_sys3(SYS_shmat, id, addr, flags);
    eg_cap_enter();
    if (eg_ranges_overlap(&eg_rt.ranges, start, start + bytes))
        eg_pager_quiesce(start, start + bytes);
    long ret = eg_sys3(SYS_shmat, id, addr, flags);
    if (!eg_sys_failed(ret))
        eg_cap_remove(start, start + bytes);
    return eg_cap_leave(ret);
}

/* The PROT_NONE parts of [start, end) become accessible. */
static void cap_unreserve(uint64_t start, uint64_t end, int arm)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        if (part.flags & EG_RANGE_RESERVED)
            eg_cap_add(part.start, part.end, part.flags & ~(uint64_t)EG_RANGE_RESERVED, 1, arm);
}

long eg_cap_mprotect(long addr, long len, long prot)
{
    uint64_t start = (uint64_t)addr, end = start + eg_page_up((uint64_t)len);
    if (start % EG_PAGE_BYTES || end <= start || (prot == PROT_NONE && !eg_rt.active))
        return eg_sys3(SYS_mprotect, addr, len, prot);
    eg_cap_enter();
    /* A block that comes whole is read once more at its place (whole.c): not while it becomes unreadable. */
    if (!(prot & (PROT_READ | PROT_WRITE)) && eg_whole_busy(start >> EG_BLOCK_SHIFT, (end - 1) >> EG_BLOCK_SHIFT, 0))
        eg_pager_quiesce(start, end);
    if (prot == PROT_NONE)
        return eg_cap_leave(eg_sys3(SYS_mprotect, addr, len, prot));
    struct eg_range part;
    uint64_t n = 0, n_promise = 0;
    int arm = 0, ignore;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        if (!(part.flags & EG_RANGE_RESERVED))
            continue;
        n += (part.end - part.start) >> EG_PAGE_SHIFT;
        if (!(part.flags & EG_RANGE_NORESERVE))
            n_promise += (part.end - part.start) >> EG_PAGE_SHIFT;
    }
    if (n && (eg_cap_commit(n, 1, &arm) || eg_cap_commit(n_promise, 0, &ignore)))
        return eg_cap_leave(-ENOMEM);
    long ret = eg_sys3(SYS_mprotect, addr, len, prot);
    if (n && (ret == 0 || ret == -ENOMEM)) /* -ENOMEM: a hole further on, the part before it has changed */
        cap_unreserve(start, end, arm);
    return eg_cap_leave(ret);
}

long eg_cap_brk(long addr)
{
    eg_cap_enter();
    uint64_t want_end = eg_page_up((uint64_t)addr);
    int arm = 0;
    if (addr && want_end < eg_page_up(eg_rt.heap_end))
        eg_pager_quiesce(want_end, eg_page_up(eg_rt.heap_end));
    uint64_t old_end = eg_page_up(eg_rt.heap_end);
    if (addr && want_end > old_end && eg_cap_commit((want_end - old_end) >> EG_PAGE_SHIFT, 0, &arm))
        return eg_cap_leave((long)eg_rt.heap_end);
    long ret = eg_sys1(SYS_brk, addr);
    uint64_t new_end = eg_page_up((uint64_t)ret);
    eg_rt.heap_end = (uint64_t)ret;
    if (new_end > old_end)
        eg_cap_add(old_end, new_end, 0, 1, arm);
    else if (new_end < old_end)
        eg_cap_remove(new_end, old_end);
    return eg_cap_leave(ret);
}

/* --- madvise ------------------------------------------------------------------------------------------------------------- */

void eg_cap_discard(uint64_t start, uint64_t end)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        for (uint64_t p = part.start; p < part.end;) {
            struct eg_block *b = eg_block_find(p >> EG_BLOCK_SHIFT);
            uint64_t hi = ((p >> EG_BLOCK_SHIFT) + 1) << EG_BLOCK_SHIFT;
            if (hi > part.end)
                hi = part.end;
            for (; b && p < hi; p += EG_PAGE_BYTES) {
                uint32_t i = (uint32_t)(p >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
                if (eg_page_state(b, i) > EG_P_FRESH)
                    eg_page_set(b, i, EG_P_FRESH);
            }
            if (b)
                eg_block_slab_gone(b);
            p = hi;
        }
    }
}

/* Advice that is a property of the memory until the opposite is said. Returns: 0 it is none. */
static uint64_t lasting_advice(long advice, int *ret_on)
{
    *ret_on = advice == MADV_DONTFORK || advice == MADV_WIPEONFORK || advice == MADV_GUARD_INSTALL;
    switch (advice) {
    case MADV_DONTFORK:
    case MADV_DOFORK: return EG_RANGE_DONTFORK;
    case MADV_WIPEONFORK:
    case MADV_KEEPONFORK: return EG_RANGE_WIPEONFORK;
    case MADV_GUARD_INSTALL:
    case MADV_GUARD_REMOVE: return EG_RANGE_GUARDED;
    default: return 0;
    }
}

static void note_lasting(uint64_t start, uint64_t end, uint64_t flag, int on)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        eg_cap_must(eg_ranges_set(&eg_rt.ranges, part.start, part.end, on ? part.flags | flag : part.flags & ~flag));
    if (flag == EG_RANGE_GUARDED)
        eg_rt.guarded = 1;
}

static int advised(long rc)
{
    return rc == 0 || rc == -ENOMEM; /* a hole; what is beside it was advised */
}

/* For advice that may be said twice. The kernel stops at the first mapping that cannot take it (one that is locked): up to there it was taken.
 * *ret_end: where that is. */
static long advise(uint64_t start, uint64_t end, long advice, uint64_t *ret_end)
{
    long ret = eg_sys3(SYS_madvise, start, end - start, advice);
    uint64_t pages = (end - start) >> EG_PAGE_SHIFT, taken = advised(ret) ? pages : 0;
    while (pages - taken > 1 && !advised(ret)) {
        uint64_t half = (pages - taken) / 2 + taken;
        if (advised(eg_sys3(SYS_madvise, start, half << EG_PAGE_SHIFT, advice)))
            taken = half;
        else
            pages = half;
    }
    *ret_end = start + (taken << EG_PAGE_SHIFT);
    return ret;
}

/* MADV_FREE once the pager is at work: freeing at once is one of the times at which it may free. Beside captured memory the kernel decides, and may
 * stop it. */
static long free_now(uint64_t start, uint64_t end)
{
    struct eg_range part;
    long ret = 0, rc;
    for (uint64_t at = start, stop; at < end; at = stop) {
        uint64_t done;
        if (!eg_ranges_next(&eg_rt.ranges, at, end, &part))
            part.start = part.end = end;
        int ours = part.start == at;
        stop = ours ? part.end : part.start;
        rc = advise(at, stop, ours ? MADV_DONTNEED : MADV_FREE, &done);
        if (ours)
            eg_cap_discard(at, done);
        if (!advised(rc))
            return rc;
        ret = rc ? rc : ret;
    }
    return ret;
}

int eg_cap_any_armed(uint64_t start, uint64_t end)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        for (uint64_t k = part.start >> EG_BLOCK_SHIFT; k <= (part.end - 1) >> EG_BLOCK_SHIFT; k++)
            if (eg_block_armed(k))
                return 1;
    return 0;
}

/* The kernel cannot bring pages home by itself when faults are served inline: piece by piece they come first. */
static long populate(uint64_t start, uint64_t end, long advice)
{
    uint64_t piece = eg_rt.budget / 8 * EG_PAGE_BYTES, stop;
    long ret = 0;
    for (uint64_t at = start; !ret && at < end; at = stop) {
        stop = end - at > piece ? at + piece : end;
        for (int tries = 0; tries < 10; tries++) { /* others may need the room at once */
            eg_rt.keep_start = at;
            eg_rt.keep_end = stop;
            eg_inline_bring(at, stop, advice == MADV_POPULATE_WRITE);
            eg_rt.keep_start = eg_rt.keep_end = 0;
            if ((ret = eg_sys3(SYS_madvise, at, stop - at, advice)) != -EFAULT)
                break;
        }
    }
    return ret;
}

static long cap_advise(uint64_t start, uint64_t end, long advice, enum eg_advice ours, uint32_t server)
{
    long ret = 0;
    int own = advice >= EG_ADVICE_BASE, out = ours == EG_ADVICE_EVICT;
    eg_cap_enter();
    /* The kernel's own advice is its own first, mistakes included (-ENOMEM: a hole, what is beside it was advised). What is paged out is the pager's
     * affair: the kernel then only says what is wrong with it. */
    if (!own)
        ret = eg_sys3(SYS_madvise, start, end - start, out && eg_rt.active ? MADV_COLD : advice);
    if (eg_rt.foreign || (ret && ret != -ENOMEM))
        return eg_cap_leave(ret);
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        part.end = !out ? end : end - part.start > EVICT_SLICE_BYTES ? part.start + EVICT_SLICE_BYTES : end;
        int rc = eg_advise(part.start, part.end, ours, server);
        if (own && rc)
            ret = rc;
        if (part.end < end) { /* others want the lock, too */
            eg_cap_leave(0);
            eg_sys0(SYS_sched_yield);
            eg_cap_enter();
        }
    }
    return eg_cap_leave(ret);
}

long eg_cap_madvise(long addr, long len, long advice)
{
    uint64_t start = (uint64_t)addr, end = start + eg_page_up((uint64_t)len);
    enum eg_advice ours;
    uint32_t server;
    if (advice >= EG_ADVICE_BASE && !len && start % EG_PAGE_BYTES == 0 && eg_advice_is(advice, &ours, &server))
        return 0;
    if (start % EG_PAGE_BYTES || end <= start)
        return eg_sys3(SYS_madvise, addr, len, advice);
    if ((advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE) && eg_rt.inlined && eg_rt.active) {
        eg_cap_enter();
        return eg_cap_leave(populate(start, end, advice));
    }
    if (eg_advice_is(advice, &ours, &server)) {
        return cap_advise(start, end, advice, ours, server);
    }
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE:
    case MADV_DONTFORK:
    case MADV_DOFORK:
    case MADV_WIPEONFORK:
    case MADV_KEEPONFORK:
    case MADV_MERGEABLE:
    case MADV_DONTNEED_LOCKED:
    case MADV_GUARD_INSTALL:
    case MADV_GUARD_REMOVE: break;
    default: return eg_sys3(SYS_madvise, addr, len, advice);
    }
    eg_cap_enter();
    if (!eg_ranges_overlap(&eg_rt.ranges, start, end))
        return eg_cap_leave(eg_sys3(SYS_madvise, addr, len, advice));
    eg_pager_quiesce(start, end);
    if (advice == MADV_MERGEABLE)
        return eg_cap_leave(0); /* merging drops the write-protection by which clean pages are known: a hint, not taken */
    if (advice == MADV_FREE && (eg_rt.active || eg_ranges_set(&eg_rt.lazy, start, end, 0)))
        return eg_cap_leave(free_now(start, end));
    int on;
    uint64_t flag = lasting_advice(advice, &on);
    long ret = advise(start, end, advice, &end);
    if (flag)
        note_lasting(start, end, flag, on);
    if (advice != MADV_FREE && (!flag || advice == MADV_GUARD_INSTALL))
        eg_cap_discard(start, end);
    return eg_cap_leave(ret);
}

#define ADVICE_PIECES 32

int eg_cap_keeps_content(long advice)
{
    return advice == MADV_COLD || advice == MADV_PAGEOUT || advice == MADV_WILLNEED || advice == MADV_COLLAPSE;
}

long eg_cap_process_madvise(const long a[6])
{
    struct iovec v[ADVICE_PIECES];
    uint64_t n = (uint64_t)a[2], done = 0;
    long ret = 0, advice = a[3];
    if (eg_cap_keeps_content(advice))
        return eg_syscall6(SYS_process_madvise, a[0], a[1], a[2], a[3], a[4], a[5]);
    if ((ret = eg_sys5(SYS_process_madvise, a[0], 0, 0, advice, a[4]))) /* may it be said to that process? To none but this one */
        return ret;
    if (n > IOVS_MAX)
        return -EINVAL;
    for (uint64_t i = 0; i < n && !ret; i++) {
        uint64_t bytes = (n - i < ADVICE_PIECES ? n - i : ADVICE_PIECES) * sizeof *v;
        const struct iovec *part = &v[i % ADVICE_PIECES];
        if (part == v && eg_sys_copy_in(v, (uint64_t)a[1] + i * sizeof *v, bytes) != (long)bytes)
            ret = -EFAULT;
        else if (!(ret = eg_cap_madvise((long)part->iov_base, (long)part->iov_len, advice)))
            done += part->iov_len;
    }
    return done ? (long)done : ret;
}

/* --- by number ------------------------------------------------------------------------------------------------------------ */

long eg_cap_memory(long nr, const long a[6])
{
    switch (nr) {
    case SYS_mmap: return eg_cap_mmap(a[0], a[1], a[2], a[3], a[4], a[5]);
    case SYS_munmap: return eg_cap_munmap(a[0], a[1]);
    case SYS_mremap: return eg_cap_mremap(a[0], a[1], a[2], a[3], a[4]);
    case SYS_mprotect: return eg_cap_mprotect(a[0], a[1], a[2]);
    case SYS_madvise: return eg_cap_madvise(a[0], a[1], a[2]);
    case SYS_brk: return eg_cap_brk(a[0]);
    case SYS_pkey_mprotect: {
        /* With a key, even what may be read cannot be, in a signal handler and in other threads (whole.c does). */
        eg_cap_enter();
        eg_whole_never();
        eg_cap_leave(0);
        /* First as it is: only a success may open PROT_NONE memory, and that is what mprotect tells the pager. */
        long ret = eg_sys4(SYS_pkey_mprotect, a[0], a[1], a[2], a[3]);
        if (ret)
            return ret;
        ret = eg_cap_mprotect(a[0], a[1], a[2]);
        return ret ? ret : eg_sys4(SYS_pkey_mprotect, a[0], a[1], a[2], a[3]);
    }
    default: return eg_syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
}
