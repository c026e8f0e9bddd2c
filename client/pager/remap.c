/* remap.c - mremap(2) on captured memory: the pages move, and what the pager knows of them follows. */
#include "client/pager/eg_capture.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

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

/* Behind the addresses of a line of /proc/self/maps: " rw-p 7fd0c1e00000 00:00 0". Is it anonymous memory, and which permissions has it? */
static int line_anonymous(const char *p, uint64_t *ret_perms)
{
    uint64_t perms, tail, offset;
    memcpy(&perms, p, sizeof perms);
    *ret_perms = perms & 0xffffffffffull;
    memcpy(&tail, eg_str_hex(p + 6, &offset), sizeof tail);
    return !memcmp(&tail, " 00:00 0", sizeof tail);
}

enum pieces {
    PIECES_ANY,
    PIECES_ANONYMOUS,
    PIECES_ALIKE, /* anonymous, with the same permissions */
};

/* Finds the kernel's pieces of [start, end).
 * Returns: 0; -EFAULT: natively it would not be one mapping either; -ENOMEM: the kernel does not say. */
static int maps_read(uint64_t start, uint64_t end, enum pieces kind)
{
    static char buf[8192 + 1];
    uint64_t at = start, perms = 0, these, lo, hi;
    long n = 0, have = 0;
    /* Not "self": that is the first thread, which may be gone. */
    long fd = eg_fd_new(SYS_openat, -100, (long)"/proc/thread-self/maps", 02000000 /* O_RDONLY | O_CLOEXEC */, 0);
    if (eg_sys_failed(fd))
        return -ENOMEM;
    maps.n = 0;
    int rc = -EFAULT;
    while (at < end && (n = eg_sys3(SYS_read, fd, buf + have, 8192 - have)) > 0) {
        long line = 0, stop = have + n;
        buf[stop] = 0;
        for (long k = 0; k < stop && at < end; k++) {
            if (buf[k] != '\n')
                continue;
            const char *p = eg_str_hex(buf + line, &lo);
            p = eg_str_hex(p + 1, &hi);
            line = k + 1;
            if (hi <= start)
                continue;
            int anonymous = line_anonymous(p, &these);
            if (lo > at || (kind != PIECES_ANY && !anonymous) || (kind == PIECES_ALIKE && at != start && these != perms)) {
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
    return at >= end ? 0 : n < 0 ? -ENOMEM : rc;
}

/* mremap(2) of [old, old+old_len), whatever pieces it is in. to: 0: stay in place. one: natively it has to be one mapping.
 * A move is never tried in one call where there may be pieces: Linux since 6.17 moves those before the first one that is registered, and older
 * ones unmap the target, or what a smaller size cuts off, and only then say that it is not one mapping. */
static long remap(uint64_t old, uint64_t old_len, uint64_t new_len, long flags, uint64_t to, int one)
{
    long ret = to && eg_rt.uffd >= 0 ? -EFAULT : eg_sys5(SYS_mremap, old, old_len, new_len, flags, to);
    if (ret != -EFAULT)
        return ret;
    /* Linux since 6.17 moves neighbours that differ in one call, as long as none changes its size. */
    int rc = maps_read(old, old + old_len, one || !to || new_len != old_len ? PIECES_ALIKE : PIECES_ANONYMOUS);
    if (rc)
        return rc;
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

/* Memory that is registered for the nodes alone, and all here, before it moves: the kernel may make one mapping of it and the target's neighbour, and take
 * the registration from both. */
static void forget_watched(uint64_t start, uint64_t end)
{
    if (eg_rt.uffd >= 0 && start < end)
        eg_uffd_unregister(start, end);
}

long eg_cap_remap_home(const long a[6])
{
    uint64_t old = (uint64_t)a[0], old_len = eg_page_up((uint64_t)a[1]), new_len = eg_page_up((uint64_t)a[2]);
    if (old % EG_PAGE_BYTES == 0 && old_len <= (1ull << EG_ADDR_BITS) - old)
        forget_watched(old, old + old_len);
    long ret = eg_sys5(SYS_mremap, a[0], a[1], a[2], a[3], a[4]);
    if (ret != -EFAULT || !new_len || a[3] & MREMAP_DONTUNMAP)
        return ret;
    /* Parts that were registered have been filled apart from their neighbours: natively it is one mapping. */
    if (a[3] & MREMAP_FIXED)
        return remap(old, old_len, new_len, MREMAP_MAYMOVE | MREMAP_FIXED, (uint64_t)a[4], 0);
    ret = remap(old, old_len, new_len, 0, 0, 1);
    if (ret != -ENOMEM || !(a[3] & MREMAP_MAYMOVE))
        return ret;
    long to = eg_sys6(SYS_mmap, 0, new_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (eg_sys_failed(to))
        return to;
    ret = remap(old, old_len, new_len, MREMAP_MAYMOVE | MREMAP_FIXED, (uint64_t)to, 0);
    if (eg_sys_failed(ret))
        eg_sys2(SYS_munmap, to, new_len);
    return ret;
}

/* Copies pages that only the servers have from one block's slab to another's. Both slabs are there. */
static void copy_remote(struct eg_block *from, uint32_t i, struct eg_block *to, uint32_t k, uint32_t n)
{
    void *buf = eg_rt.stage;
    struct eg_block *side[2] = {from, to};
    uint32_t at[2] = {i, k};
    eg_pager_written(); /* the staging pages are free then */
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
    eg_block_swap(from, to);
    uint64_t bit_from = 1ull << (from % 64), bit_to = 1ull << (to % 64);
    if (eg_rt.armed) {
        eg_rt.armed[from / 64] &= ~bit_from;
        eg_rt.armed[to / 64] = armed ? eg_rt.armed[to / 64] | bit_to : eg_rt.armed[to / 64] & ~bit_to;
    }
    for (uint32_t i = 0; i < EG_BLOCK_PAGES; i++) {
        b->page[i] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST | EG_P_REFS);
        other->page[i] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST);
        if (armed && (eg_page_state(b, i) == EG_P_CLEAN || eg_page_state(b, i) == EG_P_DIRTY))
            eg_queue_push(b, i);
    }
}

/* Registers the captured parts of [start, end) that lie in armed blocks and protects their clean pages. */
void eg_cap_rearm(uint64_t start, uint64_t end)
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
                    eg_cap_must(eg_uffd_register(reg, p));
                reg = hi;
            }
            p = hi;
        }
        if (reg < part.end)
            eg_cap_must(eg_uffd_register(reg, part.end));
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
                    eg_cap_must(eg_uffd_protect(p, run, 1));
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

static long cap_move(uint64_t old, uint64_t old_len, uint64_t new_len, long flags, uint64_t new_addr, int one)
{
    uint64_t end = old + old_len;
    struct eg_range part, last = {0, 0, 0};
    int arm = 0, grown = new_len > old_len;
    long to = (long)new_addr, ret;
    uint64_t extra = (grown ? new_len - old_len : 0) + (flags & MREMAP_DONTUNMAP ? old_len : 0);
    for (uint64_t at = old; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        last = part;
    int reserved = (last.flags & EG_RANGE_RESERVED) != 0;
    if (extra && !reserved && eg_cap_commit(extra >> EG_PAGE_SHIFT, (last.flags & EG_RANGE_NORESERVE) != 0, &arm))
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
        eg_cap_remove(start, start + new_len);
    }
    /* Before what is prepared: the lock may be given up meanwhile. */
    do {
        eg_pager_quiesce(start, start + new_len);
        eg_pager_quiesce(old, end);
    } while (eg_pager_busy_alone(start, start + new_len));
    int armed = eg_cap_any_armed(old, end);
    if (armed && move_prepare(old, old + kept, delta)) {
        ret = -ENOMEM;
        goto undo;
    }
    /* The program's own place may touch another mapping (see congruent_place): then nothing must be registered that merges. */
    if (armed && (eg_ranges_overlap(&eg_rt.ranges, start - EG_PAGE_BYTES, start) ||
                  eg_ranges_overlap(&eg_rt.ranges, start + new_len, start + new_len + EG_PAGE_BYTES)))
        eg_cap_home(old, end);
    else if (!armed)
        forget_watched(old, end);
    ret = remap(old, old_len, new_len, MREMAP_MAYMOVE | MREMAP_FIXED | (flags & MREMAP_DONTUNMAP), start, one);
    if (eg_sys_failed(ret)) {
        if (armed)
            eg_cap_rearm(old, end); /* pieces that moved and came back have lost it */
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
                eg_cap_add(old_part[k].start + delta, old_part[k].end + delta, old_part[k].flags, 0, 0);
                continue;
            }
            eg_cap_must(eg_ranges_set(&eg_rt.ranges, old_part[k].start + delta, old_part[k].end + delta, old_part[k].flags));
            eg_cap_count(&old_part[k], 1);
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
    eg_cap_remove(old, end);
    if (eg_ranges_overlap(&eg_rt.lazy, old, end))
        eg_cap_must(eg_ranges_set(&eg_rt.lazy, start, start + kept, 0));
    if (armed)
        eg_cap_rearm(start, start + kept);
    if (grown) {
        if (eg_rt.active)
            eg_uffd_unregister(start + old_len, start + new_len); /* an expanded mapping inherits the registration */
        eg_cap_add(start + old_len, start + new_len, last.flags & ~EG_RANGE_GUARDED, 1, arm);
    }
    if (flags & MREMAP_DONTUNMAP) {
        if (eg_rt.active)
            eg_uffd_unregister(old, end);
        eg_cap_add(old, end, last.flags & ~EG_RANGE_GUARDED, 1, arm);
    }
    return ret;
undo:
    if (hole)
        eg_sys2(SYS_munmap, start, new_len);
    return ret;
}

/* Are the captured parts of [start, end) still there, as far as the kernel knows? */
static int is_mapped(uint64_t start, uint64_t end)
{
    struct eg_range part;
    uint8_t here[64];
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        for (uint64_t p = part.start, n; p < part.end; p += n * EG_PAGE_BYTES) {
            n = (part.end - p) / EG_PAGE_BYTES < sizeof here ? (part.end - p) / EG_PAGE_BYTES : sizeof here;
            if (eg_sys3(SYS_mincore, p, n * EG_PAGE_BYTES, here) == -ENOMEM)
                return 0;
        }
    return 1;
}

/* mremap(2) of what is not captured; the kernel decides. At a fixed place: of several mappings with holes between them (Linux 6.17) only their own places are
 * replaced, and perhaps not all; of one, all of the target, or, if it fails, none or all. Context: lock held. */
static long by_kernel(uint64_t old, uint64_t old_len, uint64_t new_len, long flags, uint64_t to)
{
    int over = flags & MREMAP_FIXED && to < to + new_len && eg_ranges_overlap(&eg_rt.ranges, to, to + new_len);
    if (over && (maps_read(old, old + old_len, PIECES_ANY) || maps.n > 1))
        eg_cap_release(to, to + new_len);
    if (over)
        eg_pager_quiesce(to, to + new_len);
    forget_watched(old, old + old_len);
    long ret = eg_sys5(SYS_mremap, old, old_len, new_len, flags, to);
    if (over && (!eg_sys_failed(ret) || !is_mapped(to, to + new_len)))
        eg_cap_remove(to, to + new_len);
    return ret;
}

/* What is not captured of one mapping was let go for a thread's control block (eg_cap_spawn): that thread is gone when its memory moves. */
static void take_gaps(uint64_t start, uint64_t end)
{
    struct eg_range part;
    while (start < end) {
        if (!eg_ranges_next(&eg_rt.ranges, start, end, &part))
            part.start = part.end = end;
        if (start < part.start)
            eg_cap_add(start, part.start, 0, 0, 0);
        start = part.end;
    }
}

long eg_cap_mremap(long old_addr, long old_bytes, long new_bytes, long flags, long new_addr)
{
    uint64_t old = (uint64_t)old_addr, old_len = eg_page_up((uint64_t)old_bytes), new_len = eg_page_up((uint64_t)new_bytes);
    uint64_t limit = 1ull << EG_ADDR_BITS;
    int fixed = (flags & MREMAP_FIXED) != 0, dontunmap = (flags & MREMAP_DONTUNMAP) != 0;
    if (old % EG_PAGE_BYTES || (!old_len && old_bytes) || !new_len || old >= limit || old_len > limit || new_len > limit ||
        flags & ~(long)(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) || ((fixed || dontunmap) && !(flags & MREMAP_MAYMOVE)) ||
        (dontunmap && old_len != new_len) || (fixed && ((uint64_t)new_addr % EG_PAGE_BYTES || (uint64_t)new_addr >= limit)))
        return eg_sys5(SYS_mremap, old_addr, old_bytes, new_bytes, flags, new_addr);
    eg_cap_enter();
    if (!old_len) /* a second place for shared memory; of private memory the kernel refuses that */
        return eg_cap_leave(by_kernel(old, 0, new_len, flags, (uint64_t)new_addr));
    uint64_t end = old + old_len, covered = 0;
    struct eg_range part;
    long ret;
    int one = fixed && new_len < old_len; /* what is cut off goes first, whatever it is; then the rest has to be one mapping */
    if (one && eg_ranges_overlap(&eg_rt.ranges, old, old + EG_PAGE_BYTES) && ((uint64_t)new_addr >= end || old >= (uint64_t)new_addr + new_len)) {
        eg_pager_quiesce(old + new_len, end);
        if ((ret = eg_sys2(SYS_munmap, old + new_len, old_len - new_len)))
            return eg_cap_leave(ret);
        eg_cap_remove(old + new_len, end);
        old_len = new_len;
        end = old + old_len;
    }
    for (uint64_t at = old; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        covered += part.end - part.start;
    if (covered != old_len && (!covered || maps_read(old, end, PIECES_ALIKE))) {
        /* Not captured, or not one mapping of ours. */
        if (covered)
            eg_cap_release(old, end);
        return eg_cap_leave(by_kernel(old, old_len, new_len, flags, (uint64_t)new_addr));
    }
    eg_pager_quiesce(old, end);
    if (new_len <= old_len && !fixed && !dontunmap) {
        ret = remap(old, old_len, new_len, flags, 0, 1);
        if (!eg_sys_failed(ret))
            eg_cap_remove(old + new_len, end);
        return eg_cap_leave(ret);
    }
    if (!fixed && !dontunmap) {
        int arm = 0;
        uint64_t rf = eg_ranges_next(&eg_rt.ranges, end - EG_PAGE_BYTES, end, &part) ? part.flags : 0;
        if (!(rf & EG_RANGE_RESERVED) &&
            eg_cap_commit((new_len - old_len) >> EG_PAGE_SHIFT, (rf & EG_RANGE_NORESERVE) != 0, &arm))
            return eg_cap_leave(-ENOMEM);
        ret = remap(old, old_len, new_len, 0, 0, 1);
        if (!eg_sys_failed(ret)) {
            if (eg_rt.active)
                eg_uffd_unregister(end, old + new_len);
            eg_cap_add(end, old + new_len, rf & ~EG_RANGE_GUARDED, 1, arm);
            return eg_cap_leave(ret);
        }
        if (ret != -ENOMEM || !(flags & MREMAP_MAYMOVE))
            return eg_cap_leave(ret);
    }
    if (covered != old_len)
        take_gaps(old, end);
    return eg_cap_leave(cap_move(old, old_len, new_len, flags, (uint64_t)new_addr, one));
}
