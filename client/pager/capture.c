/* capture.c - the program's memory calls, with their exact semantics, on captured memory. */
#include "client/pager/eg_pager.h"
#include "client/pager/eg_uffd.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define ADVICE_DONTNEED_LOCKED 24
#define ADVICE_GUARD_INSTALL 102
#define GRANULE_BLOCKS 64u /* a word of the armed bitmap */
#define SPAWN_MIN_PAGES 1024

static uint64_t page_up(uint64_t v)
{
    return (v + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1);
}

static void child_start(int was_active, int drop);

static void enter(void)
{
    __atomic_fetch_add(&eg_rt.lock.waiters, 1, __ATOMIC_RELAXED);
    eg_lock_take(&eg_rt.lock);
    __atomic_fetch_sub(&eg_rt.lock.waiters, 1, __ATOMIC_RELAXED);
    eg_rt.foreign = eg_rt.pid != 0 && (uint32_t)eg_sys0(SYS_getpid) != eg_rt.pid;
    if (eg_rt.foreign && eg_rt.fork_mark && *eg_rt.fork_mark == 0) {
        /* Not a vfork child: a copy of the address space that was made past the gate. */
        if (eg_rt.active)
            eg_die("the program forked in a way that endgame cannot follow (clone with a stack of its own)", NULL, 0);
        child_start(0, 0);
    }
}

static long leave(long ret)
{
    eg_rt.foreign = 0;
    eg_account_sync();
    int kick = eg_rt.active && !eg_rt.evicting && eg_account_total() > eg_rt.high;
    eg_lock_give(&eg_rt.lock);
    if (kick)
        eg_pager_kick();
    return ret;
}

static void must(int rc)
{
    if (rc)
        eg_die("no memory for the pager's own tables", NULL, 0);
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
    struct eg_block **leaf = eg_rt.dir[index >> 13];
    for (uint32_t k = 0; leaf && k < GRANULE_BLOCKS; k++)
        if (leaf[(index + k) & 8191])
            return 0;
    return 1;
}

/* --- taking memory in and letting it go -------------------------------------------------------------------------------- */

static void count_range(const struct eg_range *part, int sign)
{
    int64_t n = (int64_t)((part->end - part->start) >> EG_PAGE_SHIFT);
    if (part->flags & EG_RANGE_RESERVED)
        return;
    eg_rt.captured += sign * n;
    if (!(part->flags & EG_RANGE_NORESERVE))
        eg_rt.committed += sign * n;
    if (eg_rt.committed < 0)
        eg_rt.committed = 0;
}

/* Forgets [start, end): the memory is gone from the address space or is the kernel's alone from now on. */
static void cap_remove(uint64_t start, uint64_t end)
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
        count_range(&part, -1);
    must(eg_ranges_clear(&eg_rt.ranges, start, end));
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
            must(!(b = eg_block_get(index)));
            must(eg_uffd_register(at, hi));
            eg_evict_scan(b, at, hi);
        } else if (armed && !reg) {
            reg = at;
        } else if (!armed && reg) {
            must(eg_uffd_register(reg, at));
            reg = 0;
        }
    }
    if (reg)
        must(eg_uffd_register(reg, end));
}

static void cap_add(uint64_t start, uint64_t end, uint64_t flags, int fresh, int arm)
{
    struct eg_range part = {start, end, flags};
    must(eg_ranges_set(&eg_rt.ranges, start, end, flags));
    count_range(&part, 1);
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

/* Before n more accessible pages: does the pool have room, and do new blocks have to be armed?
 * Returns: 0 or -ENOMEM; *ret_arm is then set. */
static int commit(uint64_t n, int noreserve, int *ret_arm)
{
    *ret_arm = 0;
    if (eg_rt.foreign)
        return 0;
    if (eg_account_total() + n > eg_rt.high) {
        int rc = eg_pager_activate();
        if (rc) {
            eg_warn_once(EG_WARN_ACTIVATE, "cannot use userfaultfd any more, memory stays local beyond the budget", NULL);
            return 0;
        }
        *ret_arm = 1;
    }
    int promised = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        promised |= eg_rt.server[i].reserved != 0;
    if (noreserve || (!*ret_arm && !promised))
        return 0;
    int64_t need = eg_rt.committed - eg_rt.inherited;
    return eg_session_reserve((need > 0 ? need : 0) + (int64_t)n);
}

/* Everything of [start, end) comes home and is dirty; then it is not registered any more. */
static void cap_home(uint64_t start, uint64_t end)
{
    struct eg_range part;
    eg_pager_quiesce(start, end);
    eg_rt.keep_start = start;
    eg_rt.keep_end = end;
    eg_fetch_range(start, end);
    eg_rt.keep_start = eg_rt.keep_end = 0;
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
static void cap_release(uint64_t start, uint64_t end)
{
    cap_home(start, end);
    cap_remove(start, end);
}

void eg_cap_adopt(uint64_t start, uint64_t end)
{
    enter();
    cap_add(start, end, 0, 0, 0);
    leave(0);
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
    uint64_t bytes = page_up((uint64_t)len), n = bytes >> EG_PAGE_SHIFT;
    int arm = 0, noreserve = (flags & MAP_NORESERVE) != 0;
    if (bytes < (uint64_t)len || bytes > 1ull << EG_ADDR_BITS)
        return eg_sys6(SYS_mmap, addr, len, prot, flags, fd, off);
    enter();
    if (capture && prot != PROT_NONE && commit(n, noreserve, &arm))
        return leave(-ENOMEM);
    if (fixed && eg_ranges_overlap(&eg_rt.ranges, (uint64_t)addr, (uint64_t)addr + bytes))
        eg_pager_quiesce((uint64_t)addr, (uint64_t)addr + bytes);
    if (capture)
        flags |= MAP_NORESERVE;
    if (arm)
        flags &= ~(long)MAP_POPULATE;
    long ret = eg_sys6(SYS_mmap, addr, len, prot, flags, fd, off);
    if (eg_sys_failed(ret))
        return leave(ret);
    uint64_t start = (uint64_t)ret;
    cap_remove(start, start + bytes);
    if (capture && start + bytes <= 1ull << EG_ADDR_BITS)
        cap_add(start, start + bytes, (prot == PROT_NONE ? EG_RANGE_RESERVED : 0) | (noreserve ? EG_RANGE_NORESERVE : 0),
                !(flags & MAP_POPULATE), arm);
    return leave(ret);
}

long eg_cap_munmap(long addr, long len)
{
    uint64_t start = (uint64_t)addr, bytes = page_up((uint64_t)len);
    if (start % EG_PAGE_BYTES || !len || bytes < (uint64_t)len || start + bytes < start)
        return eg_sys2(SYS_munmap, addr, len);
    enter();
    int ours = eg_ranges_overlap(&eg_rt.ranges, start, start + bytes);
    if (ours)
        eg_pager_quiesce(start, start + bytes);
    long ret = eg_sys2(SYS_munmap, addr, len);
    if (ours && ret == 0) {
        cap_remove(start, start + bytes);
        if (eg_rt.active)
            eg_session_relax(eg_rt.committed);
    }
    return leave(ret);
}

/* The PROT_NONE parts of [start, end) become accessible. */
static void cap_unreserve(uint64_t start, uint64_t end, int arm)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        if (part.flags & EG_RANGE_RESERVED)
            cap_add(part.start, part.end, part.flags & ~(uint64_t)EG_RANGE_RESERVED, 1, arm);
}

long eg_cap_mprotect(long addr, long len, long prot)
{
    uint64_t start = (uint64_t)addr, end = start + page_up((uint64_t)len);
    if (prot == PROT_NONE || start % EG_PAGE_BYTES || end <= start)
        return eg_sys3(SYS_mprotect, addr, len, prot);
    enter();
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
    if (n && (commit(n, 1, &arm) || commit(n_promise, 0, &ignore)))
        return leave(-ENOMEM);
    long ret = eg_sys3(SYS_mprotect, addr, len, prot);
    if (n && (ret == 0 || ret == -ENOMEM)) /* -ENOMEM: a hole further on, the part before it has changed */
        cap_unreserve(start, end, arm);
    return leave(ret);
}

long eg_cap_brk(long addr)
{
    enter();
    uint64_t old_end = page_up(eg_rt.heap_end), want_end = page_up((uint64_t)addr);
    int arm = 0;
    if (addr && want_end > old_end && commit((want_end - old_end) >> EG_PAGE_SHIFT, 0, &arm))
        return leave((long)eg_rt.heap_end);
    if (addr && want_end < old_end)
        eg_pager_quiesce(want_end, old_end);
    long ret = eg_sys1(SYS_brk, addr);
    uint64_t new_end = page_up((uint64_t)ret);
    eg_rt.heap_end = (uint64_t)ret;
    if (new_end > old_end)
        cap_add(old_end, new_end, 0, 1, arm);
    else if (new_end < old_end)
        cap_remove(new_end, old_end);
    return leave(ret);
}

/* --- madvise ------------------------------------------------------------------------------------------------------------- */

static void discard(uint64_t start, uint64_t end)
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

static void note_fork_advice(uint64_t start, uint64_t end, long advice)
{
    struct eg_range part;
    uint64_t flag = advice == MADV_DONTFORK || advice == MADV_DOFORK ? EG_RANGE_DONTFORK : EG_RANGE_WIPEONFORK;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        uint64_t flags = advice == MADV_DONTFORK || advice == MADV_WIPEONFORK ? part.flags | flag : part.flags & ~flag;
        must(eg_ranges_set(&eg_rt.ranges, part.start, part.end, flags));
    }
}

static int any_armed(uint64_t start, uint64_t end)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        for (uint64_t k = part.start >> EG_BLOCK_SHIFT; k <= (part.end - 1) >> EG_BLOCK_SHIFT; k++)
            if (eg_block_armed(k))
                return 1;
    return 0;
}

long eg_cap_madvise(long addr, long len, long advice)
{
    uint64_t start = (uint64_t)addr, end = start + page_up((uint64_t)len);
    if (start % EG_PAGE_BYTES || end <= start)
        return eg_sys3(SYS_madvise, addr, len, advice);
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE:
    case MADV_DONTFORK:
    case MADV_DOFORK:
    case MADV_WIPEONFORK:
    case MADV_KEEPONFORK:
    case MADV_WILLNEED:
    case MADV_MERGEABLE:
    case ADVICE_DONTNEED_LOCKED:
    case ADVICE_GUARD_INSTALL: break;
    default: return eg_sys3(SYS_madvise, addr, len, advice);
    }
    enter();
    if (!eg_ranges_overlap(&eg_rt.ranges, start, end))
        return leave(eg_sys3(SYS_madvise, addr, len, advice));
    eg_pager_quiesce(start, end);
    if (advice == MADV_DONTFORK || advice == MADV_DOFORK || advice == MADV_WIPEONFORK || advice == MADV_KEEPONFORK) {
        long ret = eg_sys3(SYS_madvise, addr, len, advice);
        if (ret == 0 || ret == -ENOMEM)
            note_fork_advice(start, end, advice);
        return leave(ret);
    }
    if (advice == MADV_MERGEABLE)
        return leave(0); /* merging drops the write-protection by which clean pages are known: a hint, not taken */
    if (advice == MADV_WILLNEED) {
        uint64_t most = eg_rt.budget / 4 * EG_PAGE_BYTES;
        long ret = eg_sys3(SYS_madvise, addr, len, advice);
        if (ret == 0 && eg_rt.active)
            eg_fetch_range(start, end - start > most ? start + most : end);
        return leave(ret);
    }
    if (advice == MADV_FREE) {
        if (any_armed(start, end))
            advice = MADV_DONTNEED; /* freeing at once is one of the times at which MADV_FREE may free */
        else
            eg_rt.lazy_free_seen = 1;
    }
    long ret = eg_sys3(SYS_madvise, addr, len, advice);
    if (advice != MADV_FREE && (ret == 0 || ret == -ENOMEM))
        discard(start, end);
    else if (ret)
        eg_rt.lazy_free_seen = 1; /* it may have got part of the way */
    return leave(ret);
}

/* --- mremap ---------------------------------------------------------------------------------------------------------------- */

/* The kernel's mremap wants one mapping (VMA), and arming cuts what the program sees as one into several. */

struct maps {
    uint64_t *start; /* starts of the pieces; room for `cap` */
    uint32_t n, cap;
};
static struct maps maps; /* the lock is held */

static int maps_push(uint64_t start)
{
    if (maps.n == maps.cap) {
        uint32_t cap = maps.cap ? maps.cap * 2 : 512;
        uint64_t *v = eg_sys_map(cap * sizeof *v);
        if (!v)
            return -ENOMEM;
        if (maps.start) {
            memcpy(v, maps.start, maps.n * sizeof *v);
            eg_sys_unmap(maps.start, maps.cap * sizeof *v);
        }
        maps.start = v;
        maps.cap = cap;
    }
    maps.start[maps.n++] = start;
    return 0;
}

/* One line of /proc/self/maps: "start-end perms offset dev inode path". */
static const char *hex_read(const char *p, uint64_t *ret)
{
    uint64_t v = 0;
    for (;; p++) {
        if (*p >= '0' && *p <= '9')
            v = v << 4 | (uint64_t)(*p - '0');
        else if (*p >= 'a' && *p <= 'f')
            v = v << 4 | (uint64_t)(*p - 'a' + 10);
        else
            break;
    }
    *ret = v;
    return p;
}

/* Finds the kernel's pieces of [start, end). Returns: 0, or -EFAULT when natively it would not be one mapping either. */
static int maps_read(uint64_t start, uint64_t end)
{
    static char buf[8192 + 1];
    uint64_t at = start, perms = 0, lo, hi;
    long n, have = 0;
    long fd = eg_sys4(SYS_openat, -100, "/proc/self/maps", 02000000 /* O_RDONLY | O_CLOEXEC */, 0);
    if (eg_sys_failed(fd))
        return (int)fd;
    maps.n = 0;
    int rc = -EFAULT;
    while (at < end && (n = eg_sys3(SYS_read, fd, buf + have, 8192 - have)) > 0) {
        long line = 0, stop = have + n;
        buf[stop] = 0;
        for (long k = 0; k < stop && at < end; k++) {
            if (buf[k] != '\n')
                continue;
            const char *p = hex_read(buf + line, &lo);
            p = hex_read(p + 1, &hi);
            line = k + 1;
            if (hi <= start)
                continue;
            uint64_t these;
            memcpy(&these, p, sizeof these); /* " rw-p 00", the start of the offset included */
            these &= 0xffffffffffull;
            if (lo > at || (at != start && these != perms)) {
                at = 0;
                goto out;
            }
            perms = these;
            if (maps_push(at == start ? start : lo)) {
                rc = -ENOMEM;
                at = 0;
                goto out;
            }
            at = hi;
        }
        have = stop - line;
        memmove(buf, buf + line, (size_t)have);
    }
out:
    eg_sys1(SYS_close, fd);
    return at >= end ? 0 : rc;
}

/* mremap(2) of [old, old+old_len), all of it captured, whatever pieces it is in. to: 0: stay in place. */
static long remap(uint64_t old, uint64_t old_len, uint64_t new_len, long flags, uint64_t to)
{
    long ret = eg_sys5(SYS_mremap, old, old_len, new_len, flags, to);
    if (ret != -EFAULT || maps_read(old, old + old_len))
        return ret;
    uint64_t end = old + old_len;
    if (!to && new_len <= old_len) {
        ret = new_len < old_len ? eg_sys2(SYS_munmap, old + new_len, old_len - new_len) : 0;
        return ret ? ret : (long)old;
    }
    uint64_t last = maps.start[maps.n - 1];
    if (!to) {
        ret = eg_sys5(SYS_mremap, last, end - last, end - last + (new_len - old_len), 0, 0);
        return eg_sys_failed(ret) ? ret : (long)old;
    }
    if (new_len < old_len)
        end = old + new_len;
    for (uint32_t k = 0; k < maps.n && maps.start[k] < end; k++) {
        uint64_t a = maps.start[k], b = k + 1 < maps.n ? maps.start[k + 1] : end;
        uint64_t bytes = (b < end ? b : end) - a, grown = bytes;
        if (a + bytes == end && new_len > old_len)
            grown += new_len - old_len;
        ret = eg_sys5(SYS_mremap, a, bytes, grown, flags, to + (a - old));
        if (eg_sys_failed(ret)) {
            /* All or nothing: what has moved goes back. */
            for (uint32_t q = 0; q < k; q++) {
                uint64_t c = maps.start[q], d = maps.start[q + 1];
                if (eg_sys_failed(eg_sys5(SYS_mremap, to + (c - old), d - c, d - c, MREMAP_MAYMOVE | MREMAP_FIXED, c)))
                    eg_die("internal error: mremap stopped half-way", NULL, 0);
            }
            return ret;
        }
    }
    if (end < old + old_len)
        eg_sys2(SYS_munmap, end, old + old_len - end);
    return (long)to;
}

/* Copies pages that only the servers have from one block's slab to another's. Both slabs are there. */
static void copy_remote(struct eg_block *from, uint32_t i, struct eg_block *to, uint32_t k, uint32_t n)
{
    void *buf = eg_rt.stage;
    struct eg_block *side[2] = {from, to};
    uint32_t at[2] = {i, k};
    eg_pager_quiesce(0, 1ul << EG_ADDR_BITS); /* the staging pages are free then */
    for (int w = 0; w < 2; w++) {
        struct eg_server *s = &eg_rt.server[side[w]->server];
        int done = 0;
        struct eg_io io = {
            .op = w ? EG_IO_WRITE : EG_IO_READ,
            .offset = (uint64_t)side[w]->slab * EG_SLAB_BYTES + (uint64_t)at[w] * EG_PAGE_BYTES,
            .buf = buf,
            .len_bytes = n * EG_PAGE_BYTES,
            .waiter = &done,
        };
        int rc = s->link.ops->submit(&s->link, &io);
        eg_rt.outstanding++;
        while (!rc && !done)
            eg_pager_poll();
        eg_rt.outstanding--;
        if (rc || io.result)
            eg_session_lost(s, rc ? rc : io.result);
    }
    for (uint32_t p = 0; p < n; p++)
        to->sums[k + p] = from->sums[i + p];
}

/* After the kernel moved [old, end) by delta: what the pager knows of these pages follows, page by page. All blocks on both
 * sides are armed, and the target's slabs are there where a page is only on a server. */
static void move_pages(uint64_t old, uint64_t end, uint64_t delta)
{
    for (uint64_t p = old; p < end;) {
        struct eg_block *from = eg_block_find(p >> EG_BLOCK_SHIFT), *to = eg_block_find((p + delta) >> EG_BLOCK_SHIFT);
        uint32_t i = (uint32_t)(p >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
        uint32_t k = (uint32_t)((p + delta) >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, n = 1;
        enum eg_page_state s = eg_page_state(from, i);
        if (s == EG_P_REMOTE) {
            while (n < 64 && p + (uint64_t)n * EG_PAGE_BYTES < end && i + n < EG_BLOCK_PAGES && k + n < EG_BLOCK_PAGES &&
                   eg_page_state(from, i + n) == EG_P_REMOTE)
                n++;
            copy_remote(from, i, to, k, n);
        }
        for (uint32_t q = 0; q < n; q++) {
            to->page[k + q] &= (uint8_t)~EG_P_REFS;
            eg_page_set(to, k + q, s == EG_P_CLEAN ? EG_P_DIRTY : s);
            if (s == EG_P_CLEAN || s == EG_P_DIRTY)
                eg_queue_push(to, k + q);
        }
        p += (uint64_t)n * EG_PAGE_BYTES;
    }
}

/* The block's pages all move, to where nothing of ours is: the block itself moves, slab and all (move_prepare made an empty
 * one for the other side). */
static void move_block(uint64_t from, uint64_t to)
{
    struct eg_block *b = eg_block_find(from), *other = eg_block_find(to);
    int armed = eg_block_armed(from);
    eg_rt.dir[from >> 13][from & 8191] = other;
    eg_rt.dir[to >> 13][to & 8191] = b;
    other->index = (uint32_t)from;
    b->index = (uint32_t)to;
    uint64_t bit_from = 1ull << (from % 64), bit_to = 1ull << (to % 64);
    if (eg_rt.armed) {
        eg_rt.armed[from / 64] &= ~bit_from;
        eg_rt.armed[to / 64] = armed ? eg_rt.armed[to / 64] | bit_to : eg_rt.armed[to / 64] & ~bit_to;
    }
    for (uint32_t i = 0; i < EG_BLOCK_PAGES; i++) {
        b->page[i] &= (uint8_t)~(EG_P_QUEUED | EG_P_REFS);
        other->page[i] &= (uint8_t)~EG_P_QUEUED;
        if (armed && (eg_page_state(b, i) == EG_P_CLEAN || eg_page_state(b, i) == EG_P_DIRTY))
            eg_queue_push(b, i);
    }
}

/* Registers the captured parts of [start, end) that lie in armed blocks and protects their clean pages. */
static void rearm(uint64_t start, uint64_t end)
{
    struct eg_range part;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        uint64_t reg = part.start;
        for (uint64_t p = part.start; p < part.end;) {
            uint64_t index = p >> EG_BLOCK_SHIFT, hi = (index + 1) << EG_BLOCK_SHIFT;
            if (hi > part.end)
                hi = part.end;
            if (!eg_block_armed(index)) {
                if (reg < p)
                    must(eg_uffd_register(reg, p));
                reg = hi;
            }
            p = hi;
        }
        if (reg < part.end)
            must(eg_uffd_register(reg, part.end));
        for (uint64_t p = part.start; p < part.end;) {
            struct eg_block *b = eg_block_find(p >> EG_BLOCK_SHIFT);
            uint64_t hi = ((p >> EG_BLOCK_SHIFT) + 1) << EG_BLOCK_SHIFT;
            if (hi > part.end)
                hi = part.end;
            while (b && eg_block_armed(b->index) && p < hi) {
                uint64_t run = p;
                while (run < hi && eg_page_state(b, (uint32_t)(run >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES) == EG_P_CLEAN)
                    run += EG_PAGE_BYTES;
                if (run > p)
                    must(eg_uffd_protect(p, run, 1));
                p = run > p ? run : p + EG_PAGE_BYTES;
            }
            p = hi;
        }
    }
}

static int block_wholly_inside(uint64_t index, uint64_t start, uint64_t end)
{
    uint64_t b0 = index << EG_BLOCK_SHIFT, b1 = b0 + EG_BLOCK_BYTES;
    return !eg_ranges_overlap(&eg_rt.ranges, b0, start > b0 ? start : b0) &&
           !eg_ranges_overlap(&eg_rt.ranges, end < b1 ? end : b1, b1);
}

/* A place for `bytes` at the same offset within a block as `like`, in blocks of which nothing else is used, so that whole
 * blocks can move. It touches no other mapping: the kernel would merge the two and then drop the registration of both
 * (mremap_userfaultfd_prep on the merged VMA). */
static long congruent_place(uint64_t like, uint64_t bytes)
{
    uint64_t offset = like & (EG_BLOCK_BYTES - 1), size = bytes + 4 * EG_BLOCK_BYTES;
    long hole = eg_sys6(SYS_mmap, 0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (eg_sys_failed(hole))
        return hole;
    uint64_t at = (((uint64_t)hole + EG_BLOCK_BYTES) & ~(EG_BLOCK_BYTES - 1)) + offset;
    eg_sys2(SYS_munmap, hole, at - (uint64_t)hole);
    eg_sys2(SYS_munmap, at + bytes, (uint64_t)hole + size - (at + bytes));
    return (long)at;
}

/* Can the block go as a whole, or do its pages move one by one? The answer is the same before and after the kernel's move. */
static int moves_whole(uint64_t index, uint64_t old, uint64_t kept, uint64_t delta)
{
    uint64_t first = old >> EG_BLOCK_SHIFT, last = (old + kept - 1) >> EG_BLOCK_SHIFT;
    uint64_t to = ((index << EG_BLOCK_SHIFT) + delta) >> EG_BLOCK_SHIFT, to_first = (old + delta) >> EG_BLOCK_SHIFT;
    uint64_t to_last = (old + delta + kept - 1) >> EG_BLOCK_SHIFT;
    return delta % EG_BLOCK_BYTES == 0 && (to_last < first || last < to_first) &&
           block_wholly_inside(index, old, old + kept) && block_wholly_inside(to, old + delta, old + delta + kept);
}

/* Arms the blocks of [old, end) whose pages have to move one by one, and gives the target blocks what that needs. */
static int move_prepare(uint64_t old, uint64_t end, uint64_t delta)
{
    for (uint64_t p = old; p < end;) {
        uint64_t index = p >> EG_BLOCK_SHIFT, hi = (index + 1) << EG_BLOCK_SHIFT;
        if (hi > end)
            hi = end;
        struct eg_block *b;
        if (!moves_whole(index, old, end - old, delta)) {
            if (eg_evict_arm(index) || !(b = eg_block_find(index)))
                return -ENOMEM;
            for (uint64_t q = p + delta; q < hi + delta; q = ((q >> EG_BLOCK_SHIFT) + 1) << EG_BLOCK_SHIFT) {
                uint64_t t = q >> EG_BLOCK_SHIFT;
                struct eg_block *to = eg_block_get(t);
                if (!to || eg_evict_arm(t))
                    return -ENOMEM;
                if (b->n_copied && (eg_slab_writable(to) ||
                                    (!to->sums && !(to->sums = eg_sys_map(EG_BLOCK_PAGES * sizeof *to->sums)))))
                    return -ENOMEM;
            }
        } else if (!eg_block_get(index) || !eg_block_get((p + delta) >> EG_BLOCK_SHIFT)) {
            return -ENOMEM;
        }
        p = hi;
    }
    return 0;
}

static long cap_move(uint64_t old, uint64_t old_len, uint64_t new_len, long flags, uint64_t new_addr)
{
    uint64_t end = old + old_len;
    struct eg_range part, last = {0, 0, 0};
    int arm = 0, armed = any_armed(old, end), grown = new_len > old_len;
    long to = (long)new_addr, ret;
    uint64_t extra = (grown ? new_len - old_len : 0) + (flags & MREMAP_DONTUNMAP ? old_len : 0);
    for (uint64_t at = old; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        last = part;
    int reserved = (last.flags & EG_RANGE_RESERVED) != 0;
    if (extra && !reserved && commit(extra >> EG_PAGE_SHIFT, (last.flags & EG_RANGE_NORESERVE) != 0, &arm))
        return -ENOMEM;
    if (flags & MREMAP_FIXED)
        eg_pager_quiesce(new_addr, new_addr + new_len);
    else if (eg_sys_failed(to = congruent_place(old, new_len)))
        return to;
    uint64_t start = (uint64_t)to, delta = start - old;
    uint64_t kept = old_len < new_len ? old_len : new_len;
    int hole = !(flags & MREMAP_FIXED);
    if (start % EG_PAGE_BYTES || (start < end && old < start + new_len)) {
        ret = -EINVAL;
        goto undo;
    }
    /* What the target replaces goes first, as the kernel does it; if the call then fails, that is lost natively, too. */
    if (eg_ranges_overlap(&eg_rt.ranges, start, start + new_len)) {
        ret = eg_sys2(SYS_munmap, start, new_len);
        if (ret)
            goto undo;
        cap_remove(start, start + new_len);
    }
    if (armed && move_prepare(old, old + kept, delta)) {
        ret = -ENOMEM;
        goto undo;
    }
    eg_pager_quiesce(old, end);
    /* The program's own place may touch another mapping (see congruent_place): then nothing must be registered that merges. */
    if (armed && (eg_ranges_overlap(&eg_rt.ranges, start - EG_PAGE_BYTES, start) ||
                  eg_ranges_overlap(&eg_rt.ranges, start + new_len, start + new_len + EG_PAGE_BYTES)))
        cap_home(old, end);
    ret = remap(old, old_len, new_len, MREMAP_MAYMOVE | MREMAP_FIXED | (flags & MREMAP_DONTUNMAP), start);
    if (eg_sys_failed(ret)) {
        if (armed)
            rearm(old, end); /* pieces that moved and came back have lost it */
        goto undo;
    }
    /* The ranges first (blocks made from here on come from them), without opening: the pages' own states move below. */
    struct eg_range old_part[64];
    for (uint64_t at = old; at < old + kept;) {
        uint32_t n = 0;
        uint64_t stop = at;
        while (n < 64 && eg_ranges_next(&eg_rt.ranges, stop, old + kept, &old_part[n]))
            stop = old_part[n++].end;
        if (!n)
            break;
        for (uint32_t k = 0; k < n; k++) {
            if (!armed) {
                cap_add(old_part[k].start + delta, old_part[k].end + delta, old_part[k].flags, 0, 0);
                continue;
            }
            must(eg_ranges_set(&eg_rt.ranges, old_part[k].start + delta, old_part[k].end + delta, old_part[k].flags));
            count_range(&old_part[k], 1);
        }
        at = stop;
    }
    if (armed) {
        for (uint64_t p = old; p < old + kept;) {
            uint64_t index = p >> EG_BLOCK_SHIFT, hi = (index + 1) << EG_BLOCK_SHIFT;
            if (hi > old + kept)
                hi = old + kept;
            if (moves_whole(index, old, kept, delta))
                move_block(index, ((index << EG_BLOCK_SHIFT) + delta) >> EG_BLOCK_SHIFT);
            else
                move_pages(p, hi, delta);
            p = hi;
        }
    }
    cap_remove(old, end);
    if (armed)
        rearm(start, start + kept);
    if (grown) {
        if (eg_rt.active)
            eg_uffd_unregister(start + old_len, start + new_len); /* an expanded mapping inherits the registration */
        cap_add(start + old_len, start + new_len, last.flags, 1, arm);
    }
    if (flags & MREMAP_DONTUNMAP) {
        if (eg_rt.active)
            eg_uffd_unregister(old, end);
        cap_add(old, end, last.flags, 1, arm);
    }
    return ret;
undo:
    if (hole)
        eg_sys2(SYS_munmap, start, new_len);
    return ret;
}

long eg_cap_mremap(long old_addr, long old_bytes, long new_bytes, long flags, long new_addr)
{
    uint64_t old = (uint64_t)old_addr, old_len = page_up((uint64_t)old_bytes), new_len = page_up((uint64_t)new_bytes);
    uint64_t limit = 1ull << EG_ADDR_BITS;
    int fixed = (flags & MREMAP_FIXED) != 0, dontunmap = (flags & MREMAP_DONTUNMAP) != 0;
    if (old % EG_PAGE_BYTES || !old_len || !new_len || old >= limit || old_len > limit || new_len > limit ||
        flags & ~(long)(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) || ((fixed || dontunmap) && !(flags & MREMAP_MAYMOVE)) ||
        (dontunmap && old_len != new_len) || (fixed && ((uint64_t)new_addr % EG_PAGE_BYTES || (uint64_t)new_addr >= limit)))
        return eg_sys5(SYS_mremap, old_addr, old_bytes, new_bytes, flags, new_addr);
    enter();
    uint64_t end = old + old_len, covered = 0;
    struct eg_range part;
    for (uint64_t at = old; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        covered += part.end - part.start;
    long ret;
    if (covered != old_len) {
        /* Not captured, or not one mapping of ours: the kernel decides; what the target replaced is gone. */
        if (covered)
            cap_release(old, end);
        if (fixed)
            eg_pager_quiesce((uint64_t)new_addr, (uint64_t)new_addr + new_len);
        ret = eg_sys5(SYS_mremap, old_addr, old_bytes, new_bytes, flags, new_addr);
        if (fixed && !eg_sys_failed(ret))
            cap_remove((uint64_t)ret, (uint64_t)ret + new_len);
        return leave(ret);
    }
    eg_pager_quiesce(old, end);
    if (new_len <= old_len && !fixed && !dontunmap) {
        ret = remap(old, old_len, new_len, flags, 0);
        if (!eg_sys_failed(ret))
            cap_remove(old + new_len, end);
        return leave(ret);
    }
    if (!fixed && !dontunmap) {
        int arm = 0, i = (int)eg_ranges_find(&eg_rt.ranges, end - 1);
        uint64_t rf = eg_rt.ranges.v[i].flags;
        if (!(rf & EG_RANGE_RESERVED) &&
            commit((new_len - old_len) >> EG_PAGE_SHIFT, (rf & EG_RANGE_NORESERVE) != 0, &arm))
            return leave(-ENOMEM);
        ret = remap(old, old_len, new_len, 0, 0);
        if (!eg_sys_failed(ret)) {
            if (eg_rt.active)
                eg_uffd_unregister(end, old + new_len);
            cap_add(end, old + new_len, rf, 1, arm);
            return leave(ret);
        }
        if (ret != -ENOMEM || !(flags & MREMAP_MAYMOVE))
            return leave(ret);
    }
    return leave(cap_move(old, old_len, new_len, flags, (uint64_t)new_addr));
}

/* --- fork and threads -------------------------------------------------------------------------------------------------------- */

void eg_cap_spawn(long flags, long tls)
{
    enum { VM = 0x100, THREAD = 0x10000, SETTLS = 0x80000 };
    uint64_t page = (uint64_t)tls & ~(uint64_t)(EG_PAGE_BYTES - 1);
    if (!(flags & VM))
        return;
    enter();
    /* The kernel writes into the thread's control block (clear_child_tid, rseq, robust list) at moments when no fault can be
     * served: it must never be away. */
    if (flags & SETTLS && tls && eg_ranges_overlap(&eg_rt.ranges, page, page + 2 * EG_PAGE_BYTES))
        cap_release(page, page + 2 * EG_PAGE_BYTES);
    /* A child process will need memory of the same budget: be there to give way. */
    if (!(flags & THREAD) && !eg_rt.active && !eg_rt.foreign && eg_rt.charged > SPAWN_MIN_PAGES && eg_pager_activate())
        eg_warn_once(EG_WARN_ACTIVATE, "cannot use userfaultfd any more, memory stays local beyond the budget", NULL);
    leave(0);
}

/* What the parent's madvise kept from the child. */
static void child_forget(void)
{
    struct eg_range part;
    for (uint64_t at = 0; eg_ranges_next(&eg_rt.ranges, at, 1ul << EG_ADDR_BITS, &part); at = part.end) {
        if (part.flags & EG_RANGE_DONTFORK)
            cap_remove(part.start, part.end);
        else if (part.flags & EG_RANGE_WIPEONFORK)
            discard(part.start, part.end);
    }
}

static void child_start(int was_active, int drop)
{
    struct eg_rt *rt = &eg_rt;
    int *fds[] = {&rt->uffd, &rt->wake_fd, &rt->pagemap_fd, &rt->mem_fd, &rt->pool_fd};
    rt->lock = (struct eg_lock){.word = 1};
    /* Row locks belong to an open file: one of its own. */
    int pool = (int)eg_sys4(SYS_openat, -100, rt->pool_path, 02000002 /* O_RDWR | O_CLOEXEC */, 0);
    for (uint32_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            eg_sys1(SYS_close, *fds[i]);
        *fds[i] = -1;
    }
    rt->active = 0;
    rt->pool_fd = eg_fd_high(pool);
    rt->inherited = rt->committed;
    rt->foreign = 0;
    if (rt->fork_mark)
        *rt->fork_mark = 1;
    eg_account_row_claim();
    if (!was_active) {
        child_forget();
        eg_account_sync();
        return;
    }
    eg_evict_reset();
    int rc = eg_pager_activate();
    if (rc)
        eg_die("the child of a fork cannot use userfaultfd", NULL, 0);
    rc = eg_session_child();
    if (rc)
        eg_die("the child of a fork cannot reach its memory servers", NULL, rc);
    child_forget();
    if (drop) {
        struct eg_range part;
        for (uint64_t at = 0; eg_ranges_next(&rt->ranges, at, 1ul << EG_ADDR_BITS, &part); at = part.end)
            for (uint64_t p = part.start; p < part.end;) {
                struct eg_block *b = eg_block_find(p >> EG_BLOCK_SHIFT);
                uint64_t hi = ((p >> EG_BLOCK_SHIFT) + 1) << EG_BLOCK_SHIFT;
                if (hi > part.end)
                    hi = part.end;
                while (b && p < hi) {
                    uint64_t run = p;
                    while (run < hi && eg_page_state(b, (uint32_t)(run >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES) == EG_P_CLEAN)
                        run += EG_PAGE_BYTES;
                    if (run > p && !eg_sys_failed(eg_sys3(SYS_madvise, p, run - p, MADV_DONTNEED)))
                        for (uint64_t q = p; q < run; q += EG_PAGE_BYTES)
                            eg_page_set(b, (uint32_t)(q >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, EG_P_REMOTE);
                    p = run > p ? run : p + EG_PAGE_BYTES;
                }
                p = hi;
            }
    }
    rearm(0, 1ul << EG_ADDR_BITS);
    eg_account_sync();
}

long eg_cap_fork(long nr, const long arg[6])
{
    int drop = 0;
    enter();
    if (eg_rt.charged > 0 && eg_account_total() + (uint64_t)eg_rt.charged > eg_rt.high && eg_pager_activate() == 0) {
        /* Parent and child do not both fit: the servers get a copy of everything, and the child starts with nothing resident. */
        eg_evict_clean_all();
        drop = 1;
    } else if (eg_rt.charged > SPAWN_MIN_PAGES && eg_pager_activate()) {
        eg_warn_once(EG_WARN_ACTIVATE, "cannot use userfaultfd any more, memory stays local beyond the budget", NULL);
    }
    eg_pager_quiesce(0, 1ul << EG_ADDR_BITS);
    if (eg_rt.active && eg_session_snapshot())
        return leave(-ENOMEM);
    int was_active = eg_rt.active;
    EG_COUNT(forks, eg_rt.captured > 0);
    eg_account_sync();
    long ret = eg_syscall6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    if (ret == 0)
        child_start(was_active, drop);
    else if (ret < 0)
        eg_session_forget_snapshot();
    return leave(ret);
}

/* --- descriptors ------------------------------------------------------------------------------------------------------------- */

/* The k-th of the runtime's descriptors, open or not; NULL past the last. */
static int *own_fd(uint32_t k)
{
    struct eg_rt *rt = &eg_rt;
    int *fixed[] = {&rt->pool_fd, &rt->pagemap_fd, &rt->mem_fd, &rt->uffd, &rt->wake_fd};
    uint32_t n = sizeof fixed / sizeof *fixed;
    if (k < n)
        return fixed[k];
    k -= n;
    if (k >= rt->n_servers * 2)
        return NULL;
    struct eg_server *s = &rt->server[k / 2];
    return k % 2 ? &s->link.fd : &s->control_fd;
}

int eg_cap_fd_reserved(long fd)
{
    int *own;
    if (!eg_rt.pool || fd < eg_rt.fd_floor)
        return 0;
    for (uint32_t k = 0; (own = own_fd(k)); k++)
        if (__atomic_load_n(own, __ATOMIC_RELAXED) == (int)fd)
            return 1;
    return 0;
}

long eg_cap_close_range(long first, long last, long flags)
{
    uint64_t at = (uint32_t)first, end = (uint32_t)last;
    if (at > end || flags & 4 /* CLOSE_RANGE_CLOEXEC */)
        return eg_sys3(SYS_close_range, first, last, flags);
    long ret = 0;
    while (at <= end && ret == 0) {
        uint64_t stop = end + 1; /* the first own descriptor at or after `at` */
        int *own;
        for (uint32_t k = 0; (own = own_fd(k)); k++)
            if (*own >= 0 && (uint64_t)*own >= at && (uint64_t)*own < stop)
                stop = (uint64_t)*own;
        if (stop > at) {
            ret = eg_sys3(SYS_close_range, at, stop - 1, flags);
            flags &= ~2l; /* CLOSE_RANGE_UNSHARE is done */
        }
        at = stop + 1;
    }
    return ret;
}

void eg_cap_fd_move_away(long fd)
{
    int *own;
    enter();
    for (uint32_t k = 0; !eg_rt.foreign && (own = own_fd(k)); k++) {
        if (*own != (int)fd)
            continue;
        int to = eg_fd_dup_high((int)fd);
        if (to < 0)
            break;
        __atomic_store_n(own, to, __ATOMIC_SEQ_CST);
        uint32_t turns = __atomic_load_n(&eg_rt.turns, __ATOMIC_SEQ_CST);
        int active = eg_rt.active;
        leave(0);
        /* The pager may be about to read the old number: let it come round twice. */
        while (active && __atomic_load_n(&eg_rt.turns, __ATOMIC_SEQ_CST) - turns < 2) {
            eg_pager_kick();
            eg_sys0(SYS_sched_yield);
        }
        return;
    }
    leave(0);
}
