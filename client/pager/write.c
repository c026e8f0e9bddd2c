/* write.c - dirty pages leave: they are moved away, or copied, and written. */
#include "client/pager/eg_evict.h"

#include "client/pager/eg_inline.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define WRITES_PAGES 16 /* that go to a link together, over messages */
#define EMPTY_BATCH 128 /* slots emptied with one call */
#define SLOT_ORPHAN (~0ull)
#define PAGEMAP_TRIES 1000

/* --- slots: pages on their way out ---------------------------------------------------------------------------------- */

void *eg_slot_buf(uint32_t slot)
{
    slot %= EG_N_SLOTS;
    return (eg_rt.slot_moved[slot] ? eg_rt.ring : eg_rt.stage) + (uint64_t)slot * EG_PAGE_BYTES;
}

int eg_slot_find(uint64_t page)
{
    for (uint32_t s = eg_rt.slot_tail; s != eg_rt.slot_head; s++)
        if (eg_rt.slot_page[s % EG_N_SLOTS] == page)
            return (int)(s % EG_N_SLOTS);
    return -1;
}

static void slots_advance(void)
{
    while (eg_rt.slot_tail != eg_rt.slot_head && eg_rt.slot_page[eg_rt.slot_tail % EG_N_SLOTS] == 0)
        eg_rt.slot_tail++;
}

/* UFFDIO_MOVE needs an empty place, so moved pages are let go before their slots come round again. */
static void slots_empty(void)
{
    while (eg_rt.slot_clean != eg_rt.slot_tail) {
        uint32_t from = eg_rt.slot_clean % EG_N_SLOTS, n = eg_rt.slot_tail - eg_rt.slot_clean;
        if (from + n > EG_N_SLOTS)
            n = EG_N_SLOTS - from;
        uint64_t at = (uint64_t)eg_rt.ring + (uint64_t)from * EG_PAGE_BYTES, bytes = (uint64_t)n * EG_PAGE_BYTES;
        if (eg_rt.move && eg_sys3(SYS_madvise, at, bytes, MADV_DONTNEED) == -EINVAL) {
            eg_sys2(SYS_munlock, eg_rt.ring, (uint64_t)EG_N_SLOTS * EG_PAGE_BYTES); /* the program's mlockall was for its own memory */
            eg_sys3(SYS_madvise, at, bytes, MADV_DONTNEED);
        }
        eg_rt.slot_clean += n;
    }
}

/* n slots in a row; they are held (SLOT_ORPHAN) until given a page or released. */
static uint32_t slots_take(uint32_t n)
{
    for (;;) {
        uint32_t from = eg_rt.slot_head % EG_N_SLOTS;
        uint32_t skip = from + n > EG_N_SLOTS ? EG_N_SLOTS - from : 0;
        if (eg_rt.slot_head - eg_rt.slot_clean + skip + n <= EG_N_SLOTS) {
            eg_rt.slot_head += skip;
            uint32_t first = eg_rt.slot_head % EG_N_SLOTS;
            for (uint32_t i = 0; i < n; i++) {
                eg_rt.slot_page[first + i] = SLOT_ORPHAN;
                eg_rt.slot_moved[first + i] = 0;
            }
            eg_rt.slot_head += n;
            slots_advance();
            return first;
        }
        eg_pager_poll();
        slots_advance();
        slots_empty();
    }
}

static void slots_release(uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        eg_rt.slot_page[first + i] = 0;
    slots_advance();
    if (eg_rt.slot_tail - eg_rt.slot_clean >= EMPTY_BATCH)
        slots_empty();
}

/* --- writing -------------------------------------------------------------------------------------------------------- */

static struct eg_write *write_get(void)
{
    for (;;) {
        for (uint32_t i = 0; i < EG_N_WRITES; i++)
            if (!eg_rt.write[i].busy)
                return &eg_rt.write[i];
        eg_pager_poll();
    }
}

/* Pages [first, first+n) of the block are in slots from `slot` on. */
static void write_submit(struct eg_block *b, uint32_t first, uint32_t n, uint32_t slot)
{
    struct eg_server *s = &eg_rt.server[b->server];
    struct eg_write *w = write_get();
    *w = (struct eg_write){
        .io = {.op = EG_IO_WRITE,
               .offset = (uint64_t)b->slab * EG_SLAB_BYTES + (uint64_t)first * EG_PAGE_BYTES,
               .buf = eg_slot_buf(slot),
               .len_bytes = n * EG_PAGE_BYTES},
        .block = b,
        .first = (uint16_t)first,
        .n = (uint16_t)n,
        .slot = (uint16_t)slot,
        .busy = 1,
    };
    EG_COUNT(pages_written, n);
    eg_rt.outstanding++;
    if (s->link.ops->ready) {
        eg_io_push(&s->writes, &w->io);
        s->writes_pages += n;
        return;
    }
    int rc = s->link.ops->submit(&s->link, &w->io);
    if (rc)
        eg_session_lost(s, rc); /* does not return: the block holds a slab there */
}

int eg_evict_writes_due(const struct eg_server *s)
{
    return s->writes_pages >= WRITES_PAGES;
}

void eg_evict_writes_go(struct eg_server *s, int all)
{
    struct eg_io *io;
    if (s->link.send.head || !(all || eg_evict_writes_due(s)))
        return; /* what somebody waits for first */
    for (uint32_t pages = 0; pages < WRITES_PAGES && (io = eg_io_pop(&s->writes)); pages += io->len_bytes / EG_PAGE_BYTES) {
        s->writes_pages -= io->len_bytes / EG_PAGE_BYTES;
        int rc = s->link.ops->submit(&s->link, io);
        if (rc)
            eg_session_lost(s, rc);
    }
}

void eg_evict_write_done(struct eg_write *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        if (eg_rt.slot_page[w->slot + i] == eg_page_number(w->block, w->first + i) &&
            eg_page_state(w->block, w->first + i) == EG_P_INFLIGHT)
            eg_page_set(w->block, w->first + i, EG_P_REMOTE);
    slots_release(w->slot, w->n);
    w->busy = 0;
    eg_rt.outstanding--;
}

static int sums_need(struct eg_block *b)
{
    if (!b->sums)
        b->sums = eg_sys_map(EG_BLOCK_PAGES * sizeof *b->sums);
    return b->sums ? 0 : -ENOMEM;
}

/* Copies pages that stay where they are; never faults (the caller looked at the page map). */
static int copy_out(void *dst, uint64_t src, uint64_t bytes)
{
    struct iovec local = {dst, bytes}, remote = {(void *)src, bytes};
    long n = eg_sys6(SYS_process_vm_readv, eg_sys0(SYS_gettid), &local, 1, &remote, 1, 0);
    if (n == (long)bytes)
        return 0;
    n = eg_sys4(SYS_pread64, eg_rt.mem_fd, dst, bytes, src); /* PROT_NONE, or no process_vm_readv here */
    return n == (long)bytes ? 0 : -EFAULT;
}

int eg_page_present(uint64_t addr)
{
    uint64_t e;
    for (int tries = 0; tries < PAGEMAP_TRIES; tries++) {
        if (eg_sys4(SYS_pread64, eg_rt.pagemap_fd, &e, sizeof e, (addr >> EG_PAGE_SHIFT) * sizeof e) == sizeof e)
            return (e & (PM_PRESENT | PM_SWAPPED)) != 0;
        eg_sys0(SYS_sched_yield); /* the kernel lacks memory for a moment */
    }
    eg_die("cannot read /proc/self/pagemap", NULL, 0);
}

enum taken { TAKEN, TAKEN_NOTHING, TAKEN_REFUSED };

/* One dirty page by write-protect, copy, discard. */
static enum taken take_by_copy(uint64_t addr, uint32_t slot)
{
    if (!eg_page_present(addr))
        return TAKEN_NOTHING;
    eg_rt.slot_moved[slot] = 0;
    if (eg_uffd_protect(addr, addr + EG_PAGE_BYTES, 1))
        return TAKEN_REFUSED;
    if (copy_out(eg_slot_buf(slot), addr, EG_PAGE_BYTES) ||
        eg_sys_failed(eg_sys3(SYS_madvise, addr, EG_PAGE_BYTES, MADV_DONTNEED))) {
        eg_uffd_protect(addr, addr + EG_PAGE_BYTES, 0);
        return TAKEN_REFUSED;
    }
    return TAKEN;
}

static enum taken take_one(uint64_t addr, uint32_t slot)
{
    if (!eg_rt.move)
        return take_by_copy(addr, slot);
    uint64_t dst = (uint64_t)eg_rt.ring + (uint64_t)slot * EG_PAGE_BYTES;
    for (int tries = 0; tries < 3; tries++) {
        long rc = eg_uffd_move(dst, addr, EG_PAGE_BYTES);
        if (rc > 0) {
            eg_rt.slot_moved[slot] = 1;
            return TAKEN;
        }
        if (!eg_page_present(addr))
            return TAKEN_NOTHING; /* given back in a way that the gate does not see: zeros by the kernel's own rules */
        if (rc == -EEXIST && !eg_sys_failed(eg_sys3(SYS_madvise, dst, EG_PAGE_BYTES, MADV_DONTNEED)))
            continue; /* mlockall filled the ring */
        if (rc != -EBUSY)
            return take_by_copy(addr, slot);
        /* Busy: shared since a fork (also when the child is long gone), or a device may be writing into it (O_DIRECT). Making
         * the page this process's own cures the first; in the second it is so already, and a copy would lose what the device writes. This raises no
         * fault, which nobody could serve: a dirty page is not protected, unless it was moved by mremap (kernels before 6.13 keep that). */
        if (tries == 0 && (eg_uffd_protect(addr, addr + EG_PAGE_BYTES, 0) ||
                           eg_sys_failed(eg_sys3(SYS_madvise, addr, EG_PAGE_BYTES, MADV_POPULATE_WRITE))))
            return take_by_copy(addr, slot);
    }
    return TAKEN_REFUSED;
}

uint64_t eg_write_run(struct eg_block *b, uint32_t first, uint32_t n)
{
    uint64_t base = eg_block_addr(b) + (uint64_t)first * EG_PAGE_BYTES;
    int room = (b->slab != EG_SLAB_NONE && !b->shared) || eg_sys_now_ns() >= eg_rt.full_until_ns;
    int rc = room ? eg_slab_writable(b) : -ENOSPC;
    if (rc || (rc = sums_need(b))) {
        if (rc != -EBUSY) {
            if (room)
                eg_rt.full_until_ns = eg_sys_now_ns() + EG_FULL_RETRY_NS;
            eg_warn_once(EG_WARN_FULL, "no memory server has room left, pages stay in local memory beyond the budget", NULL);
            EG_COUNT(pages_kept_local, n);
        }
        for (uint32_t i = 0; i < n; i++)
            eg_queue_spare(b, first + i);
        return 0;
    }
    uint32_t slot = slots_take(n);
    uint32_t moved = 0;
    uint64_t freed = 0;
    if (eg_rt.move && n > 1) {
        long got = eg_uffd_move((uint64_t)eg_rt.ring + (uint64_t)slot * EG_PAGE_BYTES, base, (uint64_t)n * EG_PAGE_BYTES);
        moved = got > 0 ? (uint32_t)(got / EG_PAGE_BYTES) : 0;
        memset(eg_rt.slot_moved + slot, 1, moved);
    }
    int to_stage = eg_rt.server[b->server].link.ops->registered;
    uint32_t run = 0; /* taken, not zero, not yet submitted: pages [i-run, i) */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t p = first + i;
        enum taken t = i < moved ? TAKEN : take_one(base + (uint64_t)i * EG_PAGE_BYTES, slot + i);
        int zero = 0;
        if (t == TAKEN) {
            b->sums[p] = eg_page_sum(eg_slot_buf(slot + i), &zero);
            freed++;
        }
        if (t == TAKEN && !zero) {
            if (to_stage && eg_rt.slot_moved[slot + i]) {
                const void *moved_page = eg_slot_buf(slot + i);
                eg_rt.slot_moved[slot + i] = 0;
                memcpy(eg_slot_buf(slot + i), moved_page, EG_PAGE_BYTES);
            }
            /* One write's buffer is in one piece. */
            if (run && eg_rt.slot_moved[slot + i] != eg_rt.slot_moved[slot + i - 1]) {
                write_submit(b, p - run, run, slot + i - run);
                run = 0;
            }
            eg_page_set(b, p, EG_P_INFLIGHT);
            eg_queue_left(b, p);
            if (!eg_rt.inlined)
                b->page[p] |= EG_P_WRITTEN;
            eg_rt.slot_page[slot + i] = eg_page_number(b, p);
            run++;
            continue;
        }
        if (run)
            write_submit(b, p - run, run, slot + i - run);
        run = 0;
        slots_release(slot + i, 1);
        if (t == TAKEN_REFUSED) {
            eg_queue_spare(b, p);
        } else {
            eg_page_set(b, p, EG_P_FRESH);
            if (zero)
                EG_COUNT(pages_dropped_zero, 1);
        }
    }
    if (run)
        write_submit(b, first + n - run, run, slot + n - run);
    EG_COUNT(pages_evicted, freed);
    if (eg_rt.profiled)
        eg_profile_left(eg_page_number(b, first), (uint32_t)freed, 1);
    return freed;
}

/* --- fork: every page gets a copy on the servers ------------------------------------------------------------------------- */

int eg_write_clean(struct eg_block *b)
{
    uint32_t i = 0;
    while (i < EG_BLOCK_PAGES) {
        uint32_t n = 0;
        uint64_t addr = eg_block_addr(b) + (uint64_t)i * EG_PAGE_BYTES;
        while (i + n < EG_BLOCK_PAGES && n < WRITE_RUN_PAGES && eg_page_state(b, i + n) == EG_P_DIRTY &&
               !(eg_rt.inlined && eg_pin_has(eg_page_number(b, i + n))) && /* a call under way must find it writable */
               eg_page_present(addr + (uint64_t)n * EG_PAGE_BYTES))
            n++;
        if (!n) {
            i++;
            continue;
        }
        if (eg_slab_writable(b) || sums_need(b))
            return -ENOSPC;
        uint32_t slot = slots_take(n);
        if (eg_uffd_protect(addr, addr + (uint64_t)n * EG_PAGE_BYTES, 1) ||
            copy_out(eg_slot_buf(slot), addr, (uint64_t)n * EG_PAGE_BYTES)) {
            eg_uffd_protect(addr, addr + (uint64_t)n * EG_PAGE_BYTES, 0);
            slots_release(slot, n);
            return -EFAULT;
        }
        for (uint32_t k = 0; k < n; k++) {
            int zero;
            b->sums[i + k] = eg_page_sum(eg_slot_buf(slot + k), &zero);
            eg_page_set(b, i + k, EG_P_CLEAN);
        }
        write_submit(b, i, n, slot);
        i += n;
    }
    return 0;
}
