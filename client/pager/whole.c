/* whole.c - a block that is wanted whole comes as one huge page. See eg_whole.h. */
#include "client/pager/eg_whole.h"

#include "client/pager/eg_inline.h"
#include "proto/eg_uffd.h"

#include <errno.h>
#include <sys/mman.h>

#define N_SPARE 1          /* huge pages kept, of blocks that have left */
#define SHARE 16           /* of the budget: a block must not be more */
#define RETRY_NS 1000000000u /* no huge page was to be had */
#define PIECE_PAGES (EG_DATA_MAX_BYTES / EG_PAGE_BYTES)

enum place { EMPTY = 0, FULL, USED };

/* The places that blocks are read into: one for each read, filled by the kernel as it is touched; then those of pages that were moved there, which are
 * registered, as UFFDIO_MOVE wants it. */
static uint8_t *area;
static uint8_t spare[N_SPARE]; /* enum place */
static uint64_t off_until_ns;

static uint8_t *spare_at(uint32_t k)
{
    return area + (EG_N_WHOLE + (uint64_t)k) * EG_BLOCK_BYTES;
}

static int is_huge(uint64_t addr)
{
    struct page_region found;
    struct pm_scan_arg s = {.size = sizeof s, .start = addr, .end = addr + EG_PAGE_BYTES, .vec = (uint64_t)&found, .vec_len = 1,
                            .category_mask = PAGE_IS_HUGE, .return_mask = PAGE_IS_HUGE};
    return eg_sys3(SYS_ioctl, eg_rt.pagemap_fd, PAGEMAP_SCAN, &s) == 1;
}

/* Its page table goes, too. */
static void place_empty(uint8_t *at)
{
    eg_sys3(SYS_madvise, at, EG_BLOCK_BYTES, MADV_DONTNEED);
}

static void rest(void)
{
    __atomic_store_n(&off_until_ns, eg_sys_now_ns() + RETRY_NS, __ATOMIC_RELAXED);
}

void eg_whole_never(void)
{
    if (eg_whole_busy(0, EG_N_BLOCKS - 1, 0))
        eg_pager_quiesce(0, 1ul << EG_ADDR_BITS);
    off_until_ns = ~0ull;
}

void eg_whole_start(void)
{
    uint64_t bytes = (EG_N_WHOLE + N_SPARE) * EG_BLOCK_BYTES;
    if (!eg_rt.move || eg_rt.served)
        return;
    if (!area) {
        uint8_t *at = eg_sys_map(bytes + EG_BLOCK_BYTES);
        if (!at)
            return;
        at = (uint8_t *)(((uint64_t)at + EG_BLOCK_BYTES - 1) & ~(EG_BLOCK_BYTES - 1));
        if (eg_sys_failed(eg_sys3(SYS_madvise, at, bytes, MADV_HUGEPAGE)))
            return;
        area = at;
    }
    if (eg_uffd_register((uint64_t)spare_at(0), (uint64_t)spare_at(N_SPARE)))
        off_until_ns = ~0ull;
}

uint32_t eg_whole_window(const struct eg_block *b)
{
    const struct eg_transport *ops = eg_rt.server[b->server].link.ops;
    if (!area || !ops || ops->registered || eg_rt.served || eg_rt.keeps || eg_rt.budget < SHARE * EG_BLOCK_PAGES ||
        __atomic_load_n(&off_until_ns, __ATOMIC_RELAXED) > eg_sys_now_ns())
        return 0;
    return ops->read ? EG_BLOCK_PAGES : 2 * EG_BLOCK_PAGES; /* one comes while the other is used */
}

int eg_whole_may(const struct eg_block *b)
{
    return b->n_copied == EG_BLOCK_PAGES && !b->n_busy && !b->n_resident && eg_whole_window(b);
}

/* A huge page to read into. Returns: NULL when none is to be had. */
static uint8_t *place_take(uint32_t own)
{
    for (uint32_t k = 0; k < N_SPARE; k++)
        if (spare[k] == FULL) {
            spare[k] = USED;
            return spare_at(k);
        }
    uint8_t *at = area + own * EG_BLOCK_BYTES;
    *(volatile uint8_t *)at = 0;
    if (is_huge((uint64_t)at))
        return at;
    place_empty(at);
    rest();
    return NULL;
}

int eg_whole_submit(struct eg_block *b, uint64_t demand_ns)
{
    struct eg_server *s = &eg_rt.server[b->server];
    struct eg_whole *w = NULL;
    for (uint32_t k = 0; k < EG_N_WHOLE && !w; k++)
        w = eg_rt.whole[k].busy ? NULL : &eg_rt.whole[k];
    if (!w)
        return -EAGAIN;
    uint8_t *buf = place_take((uint32_t)(w - eg_rt.whole));
    if (!buf)
        return -ENOMEM;
    int alone = eg_rt.putting_off && s->link.ops->read;
    eg_fetch_view(s);
    w->block = b;
    w->buf = buf;
    w->busy = 1;
    w->alone = (uint8_t)alone;
    w->left = w->unsettled = EG_WHOLE_PIECES;
    w->start_ns = demand_ns;
    memset(w->changed, 0, sizeof w->changed);
    eg_pages_set(b, 0, EG_BLOCK_PAGES, EG_P_FETCHING);
    EG_COUNT(pages_fetched, EG_BLOCK_PAGES);
    if (eg_rt.profiled)
        eg_profile_fetched((uint64_t)b->index * EG_BLOCK_PAGES, EG_BLOCK_PAGES, !demand_ns);
    for (uint32_t k = 0; k < EG_WHOLE_PIECES; k++) {
        struct eg_fetch *f = &w->piece[k];
        *f = (struct eg_fetch){
            .io = {.op = EG_IO_READ,
                   .offset = (uint64_t)b->slab * EG_SLAB_BYTES + k * EG_DATA_MAX_BYTES,
                   .buf = buf + k * EG_DATA_MAX_BYTES,
                   .len_bytes = EG_DATA_MAX_BYTES},
            .block = b,
            .whole = w,
            .first = (uint16_t)(k * PIECE_PAGES),
            .n = PIECE_PAGES,
            .alone = (uint8_t)alone,
        };
        eg_rt.outstanding++;
        int rc = 0;
        if (alone)
            eg_io_push(&eg_rt.put_off, &f->io);
        else
            rc = s->link.ops->submit(&s->link, &f->io);
        if (rc)
            eg_session_lost(s, rc); /* does not return: the pages are there */
    }
    return 0;
}

/* The one thread of the run is the one that is here. (A process from outside may write, too, a debugger: README.md says what becomes of that.) */
static int nobody_writes(void)
{
    return eg_rt.inlined && !eg_rt.spawned && !eg_rt.on_pager && __atomic_load_n(&eg_rt.pool->sole, __ATOMIC_RELAXED);
}

/* Moved pages are writable until they are protected, so a thread that does not wait for its fault may have written: what differs then is not clean.
 * What was read is what was written to the server, so nobody ever sees anything else. */
static void protect(struct eg_whole *w, uint64_t addr, uint32_t n)
{
    if (eg_uffd_protect(addr, addr + (uint64_t)n * EG_PAGE_BYTES, 1))
        eg_die("internal error: cannot protect a block that came whole", NULL, 0);
    if (nobody_writes())
        return;
    for (uint32_t i = 0; i < n; i++)
        if (eg_page_sum((const void *)(addr + (uint64_t)i * EG_PAGE_BYTES), NULL) != w->block->sums[i])
            w->changed[i / 64] |= 1ull << i % 64;
}

static void install(struct eg_whole *w)
{
    uint64_t addr = eg_block_addr(w->block);
    place_empty((uint8_t *)addr); /* nothing is there, but a page table may be in the way */
    long rc = eg_uffd_move(addr, (uint64_t)w->buf, EG_BLOCK_BYTES);
    uint64_t moved = rc > 0 ? (uint64_t)rc : 0;
    if (moved < EG_BLOCK_BYTES && eg_uffd_copy(addr + moved, w->buf + moved, EG_BLOCK_BYTES - moved, 1))
        eg_die("internal error: cannot put a block back into the program's memory", NULL, 0);
    if (moved)
        protect(w, addr, (uint32_t)(moved >> EG_PAGE_SHIFT));
    w->huge = moved == EG_BLOCK_BYTES && is_huge(addr);
    if (!w->huge)
        place_empty(w->buf);
    if (moved && !w->huge)
        rest();
    if (!eg_rt.inlined)
        eg_uffd_wake(addr, addr + EG_BLOCK_BYTES);
}

void eg_whole_piece(struct eg_fetch *f)
{
    if (!__atomic_sub_fetch(&f->whole->left, 1, __ATOMIC_ACQ_REL))
        install(f->whole);
}

void eg_whole_settle(struct eg_fetch *f)
{
    struct eg_whole *w = f->whole;
    struct eg_block *b = w->block;
    eg_rt.outstanding--;
    if (--w->unsettled)
        return;
    int changed = 0;
    eg_pages_set(b, 0, EG_BLOCK_PAGES, EG_P_CLEAN);
    for (uint32_t i = 0; i < EG_BLOCK_PAGES; i++)
        if (w->changed[i / 64] >> i % 64 & 1) {
            eg_page_set(b, i, EG_P_DIRTY);
            changed = 1;
        }
    eg_evict_arrived(b, 0, EG_BLOCK_PAGES, 1, 0);
    b->whole = w->huge;
    if (changed)
        eg_whole_split(b);
    for (uint32_t k = 0; k < N_SPARE; k++)
        if (w->buf == spare_at(k))
            spare[k] = EMPTY;
    eg_inline_arrived((uint64_t)b->index * EG_BLOCK_PAGES, EG_BLOCK_PAGES);
    if (w->start_ns)
        eg_account_time(eg_rt.row->fault_hist, eg_sys_now_ns() - w->start_ns);
    w->busy = 0;
}

int eg_whole_take(struct eg_block *b)
{
    uint64_t addr = eg_block_addr(b);
    uint32_t k = 0;
    while (k < N_SPARE && spare[k] != EMPTY)
        k++;
    if (!b->whole || k == N_SPARE)
        return 0;
    uint8_t *at = spare_at(k);
    int all = eg_uffd_move((uint64_t)at, addr, EG_BLOCK_BYTES) == (long)EG_BLOCK_BYTES;
    if (all && is_huge((uint64_t)at))
        spare[k] = FULL;
    else
        place_empty(at);
    return all;
}

void eg_whole_split(struct eg_block *b)
{
    if (!b->whole)
        return;
    b->whole = 0;
    eg_sys3(SYS_madvise, eg_block_addr(b), EG_PAGE_BYTES, MADV_COLD); /* of a part of a huge page: the kernel splits it */
}

int eg_whole_busy(uint64_t first, uint64_t last, int alone)
{
    for (uint32_t k = 0; k < EG_N_WHOLE; k++) {
        const struct eg_whole *w = &eg_rt.whole[k];
        if (w->busy && w->block->index >= first && w->block->index <= last && (w->alone || !alone))
            return 1;
    }
    return 0;
}

void eg_whole_let_go(void)
{
    for (uint32_t k = 0; area && k < N_SPARE; k++) {
        place_empty(spare_at(k));
        spare[k] = EMPTY;
    }
    for (uint32_t k = 0; k < EG_N_WHOLE; k++) {
        if (area)
            place_empty(area + k * EG_BLOCK_BYTES);
        eg_rt.whole[k].busy = 0;
    }
}
