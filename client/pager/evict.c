/* evict.c - pages leave: blocks are armed, cold pages dropped (the server has them) or taken away and written. */
#include "client/pager/eg_inline.h"
#include "client/pager/eg_whole.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define WRITE_RUN_PAGES (EG_DATA_MAX_BYTES / EG_PAGE_BYTES)
#define WRITES_PAGES 16 /* that go to a link together, over messages */
#define EMPTY_BATCH 128 /* slots emptied with one call */
#define OTHERS_WAIT_NS 3000000u    /* before a process below its share gives way after all */
#define OTHERS_LIMIT_NS 200000000u /* before one that cannot goes beyond the budget */
#define SPARED_MAX 1024         /* pages passed over in one call */
#define STUCK_PAGES 64
#define DROP_RUNS 128
#define N_ASIDE 4
#define RECENT_WHOLE 3
#define RECENT_ALONE 2 /* the same for one thread: what an instruction reads may begin on one page and end on the next. 3 made a scan at 25 % of 128 MiB three times slower */
#define FIRST_REST 64 /* pages */
#define FULL_RETRY_NS 50000000u /* a server that had no room is asked again after this */
#define SLOT_ORPHAN (~0ull)
#define PAGEMAP_TRIES 1000

#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)

static uint64_t page_number(const struct eg_block *b, uint32_t i)
{
    return (uint64_t)b->index * EG_BLOCK_PAGES + i;
}

/* --- the queues: pages of armed blocks, oldest first ---------------------------------------------------------------- */

/* An entry is a page's number, and above it which of its entries it is. Only the last one counts: a page that changes queues, or leaves past them,
 * does not have to be looked for. */
#define ENTRY_PAGE_BITS 40
#define ENTRY_PAGE(entry) ((entry) & ((1ull << ENTRY_PAGE_BITS) - 1))
_Static_assert(EG_ADDR_BITS - EG_PAGE_SHIFT <= ENTRY_PAGE_BITS && ENTRY_PAGE_BITS + 8 <= 64, "a page's number and the entry's share a word");

/* Returns: the block; NULL: the entry is void. */
static struct eg_block *entry_block(uint64_t entry, uint32_t *ret_i)
{
    uint64_t page = ENTRY_PAGE(entry);
    struct eg_block *b = eg_block_find(page / EG_BLOCK_PAGES);
    *ret_i = (uint32_t)(page % EG_BLOCK_PAGES);
    return b && b->page[*ret_i] & EG_P_QUEUED && b->entry[*ret_i] == entry >> ENTRY_PAGE_BITS ? b : NULL;
}

static void queue_compact(struct eg_queue *q)
{
    uint64_t to = q->head;
    for (uint64_t at = q->head; at != q->tail; at++) {
        uint64_t entry = q->v[at & (q->cap - 1)];
        uint32_t i;
        struct eg_block *b = entry_block(entry, &i);
        enum eg_page_state s = b ? eg_page_state(b, i) : EG_P_NONE;
        if (s == EG_P_CLEAN || s == EG_P_DIRTY || s == EG_P_FETCHING)
            q->v[to++ & (q->cap - 1)] = entry;
        else if (b)
            b->page[i] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST);
    }
    q->tail = to;
}

static int queue_grow(struct eg_queue *q)
{
    uint64_t cap = q->cap ? q->cap * 2 : 8192;
    uint64_t *v = eg_sys_map(cap * sizeof *v);
    if (!v)
        return -ENOMEM;
    for (uint64_t at = q->head; at != q->tail; at++)
        v[at & (cap - 1)] = q->v[at & (q->cap - 1)];
    if (q->v)
        eg_sys_unmap(q->v, q->cap * sizeof *v);
    q->v = v;
    q->cap = cap;
    return 0;
}

static void push_to(struct eg_queue *q, struct eg_block *b, uint32_t i)
{
    if (b->page[i] & EG_P_QUEUED)
        return;
    if (q->tail - q->head == q->cap) {
        queue_compact(q);
        if ((q->tail - q->head) * 4 >= q->cap * 3 && queue_grow(q) && q->tail - q->head == q->cap)
            return; /* never evicted then: memory is short anyway */
    }
    b->page[i] = (uint8_t)((b->page[i] & ~EG_P_FIRST) | EG_P_QUEUED | (q == &eg_rt.first ? EG_P_FIRST : 0));
    q->v[q->tail++ & (q->cap - 1)] = page_number(b, i) | (uint64_t)++b->entry[i] << ENTRY_PAGE_BITS;
}

static int leaves_first(const struct eg_block *b, uint32_t i)
{
    return eg_rt.advised && eg_advice_of(page_number(b, i)) & EG_RANGE_FIRST;
}

void eg_queue_push(struct eg_block *b, uint32_t i)
{
    push_to(leaves_first(b, i) ? &eg_rt.first : &eg_rt.queue, b, i);
}

static struct eg_block *queue_pop(struct eg_queue *q, uint32_t *ret_i)
{
    struct eg_block *b = entry_block(q->v[q->head++ & (q->cap - 1)], ret_i);
    if (b)
        b->page[*ret_i] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST);
    return b;
}

/* --- what left lately ------------------------------------------------------------------------------------------------ */

/* A page that is here tells nobody when it is touched. One that comes back soon after it left was not done with: it is spared more turns. One that was
 * read ahead in sequence is done with, as a rule, once the program has passed it: it waits in a queue of its own, which is kept short. Source: 2Q
 * (VLDB'94) and S3-FIFO (SOSP'23) do that to all pages that are new; how much and how soon is measured (tests/bench/policy). A moment passes
 * whenever so many pages have left as are 1/32 of what is here; moments come round after 256: a page that left just then has its turns by mistake. */
#define MOMENT_SHIFT 5
#define LATELY 8          /* moments: a quarter of what is here */
#define LATELY_PASSING 4  /* of passing pages: else a scan in circles, larger than what is here, would drive out itself */
#define PASSING_SHIFT 3   /* the part of what is here that passing pages may take */
#define PASSING_MIN 512u  /* pages: several streams, read well ahead */

static void left_note(struct eg_block *b, uint32_t i)
{
    eg_rt.arm_owed++;
    b->left[i] = eg_rt.moment;
    if ((int64_t)(++eg_rt.moment_pages << MOMENT_SHIFT) >= eg_rt.charged) {
        eg_rt.moment_pages = 0;
        eg_rt.moment++;
    }
}

void eg_evict_arrived(struct eg_block *b, uint32_t first, uint32_t n, int passing, int demand)
{
    for (uint32_t i = first; i < first + n; i++) {
        uint8_t ago = (uint8_t)(eg_rt.moment - b->left[i]);
        b->page[i] &= (uint8_t)~EG_P_REFS;
        if (passing && ago >= LATELY_PASSING && !leaves_first(b, i)) {
            push_to(&eg_rt.passing, b, i);
            continue;
        }
        if (demand && i == first && ago < LATELY)
            b->page[i] |= EG_P_REFS;
        eg_queue_push(b, i);
    }
}

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
        if (eg_rt.slot_page[w->slot + i] == page_number(w->block, w->first + i) &&
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

static void spare(struct eg_block *b, uint32_t i)
{
    b->page[i] |= EG_P_REFS;
    eg_queue_push(b, i);
}

/* Dirty pages [first, first+n) of one block. Returns: pages freed. */
static uint64_t write_run(struct eg_block *b, uint32_t first, uint32_t n)
{
    uint64_t base = eg_block_addr(b) + (uint64_t)first * EG_PAGE_BYTES;
    int room = (b->slab != EG_SLAB_NONE && !b->shared) || eg_sys_now_ns() >= eg_rt.full_until_ns;
    int rc = room ? eg_slab_writable(b) : -ENOSPC;
    if (rc || (rc = sums_need(b))) {
        if (rc != -EBUSY) {
            if (room)
                eg_rt.full_until_ns = eg_sys_now_ns() + FULL_RETRY_NS;
            eg_warn_once(EG_WARN_FULL, "no memory server has room left, pages stay in local memory beyond the budget", NULL);
            EG_COUNT(pages_kept_local, n);
        }
        for (uint32_t i = 0; i < n; i++)
            spare(b, first + i);
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
            left_note(b, p);
            if (!eg_rt.inlined)
                b->page[p] |= EG_P_WRITTEN;
            eg_rt.slot_page[slot + i] = page_number(b, p);
            run++;
            continue;
        }
        if (run)
            write_submit(b, p - run, run, slot + i - run);
        run = 0;
        slots_release(slot + i, 1);
        if (t == TAKEN_REFUSED) {
            spare(b, p);
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
        eg_profile_left(page_number(b, first), (uint32_t)freed, 1);
    return freed;
}

static void drop_note(struct eg_block *b, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        eg_page_set(b, first + i, EG_P_REMOTE);
        left_note(b, first + i);
        b->page[first + i] &= (uint8_t)~EG_P_WRITTEN;
    }
    b->turned = (uint8_t)(b->turned > n ? b->turned - n : 0);
    EG_COUNT(pages_evicted, n);
    EG_COUNT(pages_dropped_clean, n);
    if (eg_rt.profiled)
        eg_profile_left(page_number(b, first), n, 0);
}

static uint64_t drop_run(struct eg_block *b, uint32_t first, uint32_t n)
{
    uint64_t addr = eg_block_addr(b) + (uint64_t)first * EG_PAGE_BYTES;
    long rc = eg_sys3(SYS_madvise, addr, (uint64_t)n * EG_PAGE_BYTES, MADV_DONTNEED);
    if (eg_sys_failed(rc) && n > 1) {
        /* Some of them locked by mlock, those before them gone already: one by one. */
        uint64_t freed = 0;
        for (uint32_t i = 0; i < n; i++)
            freed += drop_run(b, first + i, 1);
        return freed;
    }
    if (eg_sys_failed(rc) && eg_page_present(addr)) {
        spare(b, first);
        return 0;
    }
    drop_note(b, first, n);
    return n;
}

/* Runs of clean pages that are to be dropped, in one call: each call interrupts all processors that run the program. */
struct drops {
    struct iovec iov[DROP_RUNS];
    uint32_t runs, pages;
    uint8_t busy; /* of those that go without the lock: their pages are FETCHING meanwhile, and a fault on one waits until it is REMOTE */
};

static struct drops aside[N_ASIDE];

/* The lock need not be held. Returns: bytes of the first runs that are gone; -errno. */
static long drop_call(const struct drops *d)
{
    long gone = 0, rc = 0;
    if (d->runs > 1 && eg_rt.pid_fd >= 0)
        return eg_sys5(SYS_process_madvise, eg_rt.pid_fd, d->iov, d->runs, MADV_DONTNEED, 0);
    for (uint32_t i = 0; i < d->runs && !rc; i++) {
        rc = eg_sys3(SYS_madvise, d->iov[i].iov_base, d->iov[i].iov_len, MADV_DONTNEED);
        gone += rc ? 0 : (long)d->iov[i].iov_len;
    }
    return gone;
}

/* gone: drop_call's answer. What it did not drop is tried run by run. */
static uint64_t drop_settle(struct drops *d, long gone)
{
    uint64_t freed = 0;
    if (eg_sys_failed(gone)) {
        if (eg_rt.pid_fd >= 0 && (gone == -EINVAL || gone == -EPERM || gone == -ENOSYS || gone == -ESRCH)) {
            eg_sys1(SYS_close, eg_rt.pid_fd); /* this kernel cannot */
            eg_rt.pid_fd = -1;
        }
        gone = 0;
    }
    for (uint32_t i = 0; i < d->runs; i++) {
        uint64_t addr = (uint64_t)d->iov[i].iov_base, bytes = d->iov[i].iov_len;
        struct eg_block *b = eg_block_find(addr >> EG_BLOCK_SHIFT);
        uint32_t first = (uint32_t)(addr >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, n = (uint32_t)(bytes / EG_PAGE_BYTES);
        if ((uint64_t)gone >= bytes) {
            gone -= (long)bytes;
            drop_note(b, first, n);
            freed += n;
            continue;
        }
        gone = 0;
        for (uint32_t k = 0; k < n && d->busy; k++)
            eg_page_set(b, first + k, EG_P_CLEAN);
        freed += drop_run(b, first, n);
    }
    for (uint32_t i = 0; i < d->runs && d->busy; i++)
        eg_inline_arrived((uint64_t)d->iov[i].iov_base >> EG_PAGE_SHIFT, (uint32_t)(d->iov[i].iov_len / EG_PAGE_BYTES));
    d->runs = d->pages = 0;
    return freed;
}

static uint64_t drop_all(struct drops *d)
{
    return d->runs ? drop_settle(d, drop_call(d)) : 0;
}

static void drop_add(struct drops *d, struct eg_block *b, uint32_t first, uint32_t n)
{
    d->iov[d->runs++] = (struct iovec){(void *)(eg_block_addr(b) + (uint64_t)first * EG_PAGE_BYTES), (uint64_t)n * EG_PAGE_BYTES};
    d->pages += n;
    for (uint32_t i = 0; i < n && d->busy; i++)
        eg_page_set(b, first + i, EG_P_FETCHING);
}

int eg_evict_busy_aside(uint64_t first, uint64_t last)
{
    for (uint32_t k = 0; k < N_ASIDE; k++)
        for (uint32_t i = 0; aside[k].busy && i < aside[k].runs; i++) {
            uint64_t index = (uint64_t)aside[k].iov[i].iov_base >> EG_BLOCK_SHIFT;
            if (index >= first && index <= last)
                return 1;
        }
    return 0;
}

uint64_t eg_evict_leaving(void)
{
    uint64_t pages = 0;
    for (uint32_t k = 0; k < N_ASIDE; k++)
        pages += aside[k].busy ? aside[k].pages : 0;
    return pages;
}

/* --- arming --------------------------------------------------------------------------------------------------------- */

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
    for (uint32_t i = 0; i < N_ASIDE; i++)
        aside[i].busy = 0;
    eg_whole_let_go();
    eg_rt.outstanding = eg_rt.unlocked = 0;
    eg_rt.evicting = 0;
}

/* The next block, in address order, that is captured and not armed. Returns: 1 armed one, 0 none is left. */
static int arm_next(void)
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

/* --- policy: first in, first out; more turns for pages that came back soon, one for those written after they came in ------ */

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
        if (eg_rt.recent[(eg_rt.n_recent - k) % EG_N_RECENT] == page_number(b, i))
            return 1;
    return 0;
}

static int kept(uint64_t page)
{
    return (page >= eg_rt.keep_start >> EG_PAGE_SHIFT && page < eg_rt.keep_end >> EG_PAGE_SHIFT) || (eg_rt.keeps && eg_rt.keeps(page)) ||
           (eg_rt.inlined && eg_pin_has(page)) ||
           (eg_rt.pinned && !pins_yield && eg_advice_of(page) & EG_RANGE_PIN);
}

static uint64_t queued(const struct eg_queue *q)
{
    return q->tail - q->head;
}

static uint64_t queued_in_all(void)
{
    return queued(&eg_rt.queue) + queued(&eg_rt.first) + queued(&eg_rt.passing);
}

/* From which queue the next page leaves. The last few of those that go first are left alone: they have just come. */
static struct eg_queue *next_queue(uint64_t spared)
{
    if (queued(&eg_rt.first) > FIRST_REST && spared < SPARED_MAX / 2)
        return &eg_rt.first;
    uint64_t passing = queued(&eg_rt.passing);
    if (passing && ((passing > PASSING_MIN && (int64_t)(passing << PASSING_SHIFT) > eg_rt.charged) || spared >= SPARED_MAX / 2))
        return &eg_rt.passing;
    return queued(&eg_rt.queue) ? &eg_rt.queue : passing ? &eg_rt.passing : &eg_rt.first;
}

/* Up to n pages, at most so many of them by a write. Clean ones go with d, by the caller if d is busy (that may be after this). */
static uint64_t evict(uint64_t n, uint64_t writes, struct drops *d)
{
    uint64_t freed = 0, spared = 0;
    int can_arm = 1;
    if (eg_rt.foreign || eg_rt.settling || stuck())
        return 0;
    while (freed + d->pages < n) {
        struct eg_queue *q = next_queue(spared);
        int64_t in_all = (int64_t)queued_in_all();
        /* With each block's worth of pages that leaves one more is armed: what was here first must not stay for good. */
        if (can_arm && (in_all * 4 < eg_rt.charged || eg_rt.arm_owed >= (int64_t)EG_BLOCK_PAGES)) {
            eg_rt.arm_owed -= EG_BLOCK_PAGES;
            int64_t before = eg_rt.charged;
            can_arm = arm_next();
            if (!can_arm)
                eg_rt.arm_owed = -eg_rt.charged; /* the search goes over everything: not soon again */
            if (eg_rt.charged < before)
                freed += (uint64_t)(before - eg_rt.charged);
            continue;
        }
        if (!queued(q) || spared > SPARED_MAX)
            break;
        uint32_t i;
        struct eg_block *b = queue_pop(q, &i);
        if (!b)
            continue;
        enum eg_page_state s = eg_page_state(b, i);
        if (kept(page_number(b, i)) || is_recent(b, i)) {
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
        while (run < longest && q->head != q->tail && first + run < EG_BLOCK_PAGES) {
            uint64_t next = q->v[q->head & (q->cap - 1)], page = page_number(b, first + run);
            if (ENTRY_PAGE(next) != page || !entry_block(next, &i) || kept(page) || is_recent(b, first + run) || eg_page_state(b, first + run) != s ||
                (q != &eg_rt.first && b->page[first + run] & EG_P_REFS))
                break;
            queue_pop(q, &i);
            run++;
        }
        if (run < EG_BLOCK_PAGES)
            eg_whole_split(b);
        if (run == EG_BLOCK_PAGES && eg_whole_take(b)) {
            drop_note(b, 0, run);
            freed += run;
            continue;
        }
        if (s == EG_P_CLEAN) {
            drop_add(d, b, first, run);
            if (d->runs == DROP_RUNS && d->busy)
                break;
            if (d->runs == DROP_RUNS)
                freed += drop_all(d);
            continue;
        }
        uint64_t got = write_run(b, first, run);
        freed += got;
        if (got < run)
            spared += run - got;
        if (got >= writes)
            break;
        writes -= got;
    }
    if (!d->busy)
        freed += drop_all(d);
    /* When nothing of a whole round through the queue can leave, it is not looked at again for every fault. */
    eg_rt.spared = freed + d->pages ? 0 : eg_rt.spared + spared + 1;
    if (eg_rt.spared > queued_in_all() * 4) {
        eg_rt.stuck_until_ns = eg_sys_now_ns() + FULL_RETRY_NS;
        eg_rt.stuck_charged = eg_rt.charged;
        eg_rt.spared = 0;
    }
    eg_account_sync();
    return freed;
}

uint64_t eg_evict(uint64_t n)
{
    struct drops drops;
    drops.runs = drops.pages = drops.busy = 0;
    return evict(n, n, &drops);
}

void eg_evict_aside(uint64_t n, uint64_t writes)
{
    struct drops *d = aside;
    while (d < aside + N_ASIDE && d->busy)
        d++;
    if (d == aside + N_ASIDE)
        return; /* enough of them are at it */
    d->busy = 1;
    d->runs = d->pages = 0;
    eg_rt.outstanding++;
    eg_rt.unlocked++;
    evict(n, writes, d);
    if (d->runs) {
        uint8_t foreign = eg_rt.foreign;
        eg_inline_unlock();
        long gone = drop_call(d);
        eg_inline_relock(foreign);
        drop_settle(d, gone);
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
            b->page[i] &= (uint8_t)~EG_P_QUEUED;
            push_to(&eg_rt.first, b, i);
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
            for (n = 0; here && n < WRITE_RUN_PAGES && i + n < stop && eg_page_state(b, i + n) == s && !kept(page_number(b, i + n)); n++)
                b->page[i + n] &= (uint8_t)~(EG_P_QUEUED | EG_P_FIRST | EG_P_REFS);
            if (n && s == EG_P_CLEAN)
                drop_run(b, i, n);
            else if (n)
                write_run(b, i, n);
        }
    }
    eg_account_sync();
}

void eg_evict_room(uint64_t n)
{
    uint64_t start = 0;
    while (eg_account_total() + n > eg_rt.budget && !eg_rt.settling) {
        EG_COUNT(evict_stalls, 1);
        eg_account_sync();
        uint64_t now = eg_sys_now_ns();
        if (!start)
            start = now;
        uint64_t asked = eg_account_ask_others(n);
        if (asked && now - start < OTHERS_WAIT_NS) {
            eg_sys0(SYS_sched_yield);
            continue;
        }
        if (eg_evict(n > 32 ? n : 32) || (!eg_rt.foreign && !stuck()))
            continue;
        /* Nothing of this process can leave. Others were asked, and may only be slow. */
        eg_account_bury();
        if (!asked || now - start > OTHERS_LIMIT_NS) {
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

/* --- fork: every page gets a copy on the servers ------------------------------------------------------------------------- */

static int clean_block(struct eg_block *b)
{
    uint32_t i = 0;
    while (i < EG_BLOCK_PAGES) {
        uint32_t n = 0;
        uint64_t addr = eg_block_addr(b) + (uint64_t)i * EG_PAGE_BYTES;
        while (i + n < EG_BLOCK_PAGES && n < WRITE_RUN_PAGES && eg_page_state(b, i + n) == EG_P_DIRTY &&
               !(eg_rt.inlined && eg_pin_has(page_number(b, i + n))) && /* a call under way must find it writable */
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

int eg_evict_clean_all(void)
{
    int rc = 0;
    eg_pager_quiesce(0, 1ul << EG_ADDR_BITS);
    while (arm_next())
        ;
    struct eg_block *b;
    for (uint64_t at = 0; (b = eg_block_next(&at, EG_N_BLOCKS));) {
        if (eg_block_armed(b->index) && b->n_resident) {
            int err = clean_block(b);
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
