/* fetch.c - pages come back: demand reads, and reading ahead along the streams of faults. */
#include "client/pager/eg_capture.h"
#include "client/pager/eg_inline.h"
#include "client/pager/eg_whole.h"

#include <errno.h>
#include <sys/resource.h>

#define STREAM_NEAR 32      /* pages: a fault this close to a stream's last one may set its stride */
#define TREND_VOTES 3
#define TREND_MAX (1 << 20)  /* pages */
#define STREAM_FIRST 4      /* pages read ahead at the first sign */
#define WINDOW_MAX 128      /* by runs; more where blocks come whole */
#define STRIDED_WINDOW_MAX 16
#define WANTED_RUNS 4       /* in one turn */
#define TEST_RARELY 16      /* faults */
#define TEST_OFTEN 4
#define VIEW_NEAR (1ul << 45) /* where neither the kernel nor programs put anything of their own accord */

/* --- streams --------------------------------------------------------------------------------------------------------- */

static int is_sequence(int32_t stride)
{
    return stride == 1 || stride == -1;
}

/* Beyond the window of a sequence, but near: what lies between was here. */
static int skipped(const struct eg_stream *s, uint64_t page)
{
    uint64_t beyond = s->stride == 1 ? page - s->expect : s->expect - page;
    return is_sequence(s->stride) && s->ahead && beyond <= (s->ahead > STREAM_NEAR ? s->ahead : STREAM_NEAR);
}

/* A window of a block or more ends where a block does: blocks are then wanted whole. */
static uint32_t to_border(uint64_t page, int32_t stride, uint32_t window)
{
    const uint64_t in_block = EG_BLOCK_PAGES - 1;
    if (window < EG_BLOCK_PAGES || !is_sequence(stride))
        return window;
    return (uint32_t)(stride == 1 ? ((page + window + 1) & ~in_block) - page - 1 : page - ((page - window + in_block) & ~in_block));
}

static struct eg_stream *stream_match(struct eg_stream *v, uint32_t n, uint64_t page, uint32_t tid)
{
    struct eg_stream *near = NULL;
    for (uint32_t i = 0; i < n; i++) {
        struct eg_stream *s = &v[i];
        if (!s->used || s->tid != tid)
            continue;
        if (s->stride && (page == s->expect || skipped(s, page)))
            return s;
        int64_t d = (int64_t)(page - s->last);
        if (d >= -STREAM_NEAR && d <= STREAM_NEAR && (!near || s->used > near->used))
            near = s;
    }
    return near;
}

/* A fault that belongs to no stream. When it and most before it of its thread are as far apart (a matrix by its columns), they are one. */
static void stream_begin(struct eg_stream *v, uint32_t n, struct eg_stream *s, uint64_t page, uint32_t tid, uint64_t clock)
{
    const struct eg_stream *before = NULL;
    struct eg_stream new = {.tid = tid, .last = page, .used = clock};
    for (uint32_t i = 0; i < n; i++)
        if (v[i].used && v[i].tid == tid && !v[i].stride && (!before || v[i].used > before->used))
            before = &v[i];
    if (before) {
        int64_t d = (int64_t)(page - before->last);
        int same = d == before->trend;
        new.trend = same || before->votes ? before->trend : d;
        new.votes = same || !before->votes ? before->votes + 1 : before->votes - 1;
        if (same && new.votes >= TREND_VOTES && d > -TREND_MAX && d < TREND_MAX) {
            new.stride = (int32_t)d;
            new.window = STREAM_FIRST;
        }
    }
    *s = new;
}

/* Source: the idea of windows that grow with hits is the kernel's read-ahead; strides by majority are Leap's (ATC'20). */
uint32_t eg_stream_fault(struct eg_stream *v, uint32_t n, uint64_t page, uint32_t tid, uint64_t clock, uint32_t max_window,
                         int eager, int32_t *ret_stride, uint32_t *ret_hits)
{
    struct eg_stream *s = stream_match(v, n, page, tid);
    *ret_hits = 0;
    *ret_stride = 1;
    if (!s) {
        s = &v[0];
        for (uint32_t i = 1; i < n; i++)
            if (v[i].used < s->used)
                s = &v[i];
        stream_begin(v, n, s, page, tid, clock);
        s->window = s->window < max_window ? s->window : max_window;
        s->ahead = s->window;
        s->expect = page + (uint64_t)((int64_t)s->stride * (s->window + 1));
        *ret_stride = s->stride ? s->stride : 1;
        return s->ahead;
    }
    int64_t d = (int64_t)(page - s->last);
    int predicted = s->stride && (page == s->expect || skipped(s, page));
    s->used = clock;
    if (d == 0)
        return 0; /* it came and went before it was used */
    if (predicted) {
        *ret_hits = s->ahead;
        s->hits++;
        uint32_t max = is_sequence(s->stride) ? max_window : STRIDED_WINDOW_MAX;
        s->window = s->window ? s->window * 2 : STREAM_FIRST;
        if (s->window > max)
            s->window = max;
    } else if (d == s->stride) {
        s->window = STREAM_FIRST; /* the window was evicted before its turn, or there was none */
    } else {
        s->stride = (int32_t)d;
        s->hits = 0;
        s->window = d == 1 && eager ? STREAM_FIRST : 0;
    }
    if (s->window > max_window)
        s->window = max_window;
    s->last = page;
    s->ahead = to_border(page, s->stride, s->window);
    s->expect = page + (uint64_t)((int64_t)s->stride * (s->ahead + 1));
    *ret_stride = s->stride;
    return s->ahead;
}

uint32_t eg_stream_joined(struct eg_stream *v, uint32_t n, uint64_t page, uint32_t tid, uint64_t clock, uint32_t max_window, uint64_t *ret_from,
                          int32_t *ret_stride, uint32_t *ret_hits)
{
    for (uint32_t i = 0; i < n; i++) {
        struct eg_stream *s = &v[i];
        uint64_t left = s->stride == 1 ? s->expect - page : page - s->expect;
        if (!s->used || s->tid != tid || !is_sequence(s->stride) || !s->ahead || !left || left > s->window)
            continue;
        uint64_t last = s->stride == 1 ? s->expect - 1 : s->expect + 1; /* of what was asked for */
        uint64_t passed = s->stride == 1 ? page - s->last : s->last - page;
        s->window = s->window * 2 < max_window ? s->window * 2 : max_window;
        uint32_t more = to_border(last, s->stride, s->window < EG_BLOCK_PAGES ? s->window : EG_BLOCK_PAGES);
        *ret_hits = passed < s->ahead ? (uint32_t)passed : s->ahead;
        s->used = clock;
        s->last = page;
        s->ahead += more - *ret_hits;
        s->expect = last + (uint64_t)((int64_t)s->stride * (more + 1));
        *ret_from = last;
        *ret_stride = s->stride;
        return more;
    }
    return 0;
}

/* Is a page that is read now likely to be written, too? For a handler thread a write-back costs less than a second fault, so one that was dirty when it
 * left is taken for such. Inline they cost about the same: one that was seen to turn from read to written, or one of a block of which most pages were. */
static int will_write(const struct eg_block *b, uint32_t i)
{
    return b->page[i] & EG_P_WRITTEN || b->turned > EG_TURNED_MAX / 2;
}

/* --- reads ------------------------------------------------------------------------------------------------------------ */

/* Inline, the end of a read may need a thread that waits for the lock. Who must not give it up until all has come has some to himself. */
static uint8_t in_range;
#define N_RANGE 4 /* fetches */

static struct eg_fetch *fetch_get(void)
{
    uint32_t n = in_range || !eg_rt.inlined ? EG_N_FETCHES : EG_N_FETCHES - N_RANGE;
    for (;;) {
        for (uint32_t i = 0; i < n; i++)
            if (!eg_rt.fetch[i].busy)
                return &eg_rt.fetch[i];
        if (n < EG_N_FETCHES)
            return NULL;
        eg_pager_poll();
    }
}

/* Returns: 0; -EAGAIN: too many are under way, and this thread must not wait for them here. */
static int fetch_submit(struct eg_block *b, uint32_t first, uint32_t n, int write, int passing, uint64_t demand_ns)
{
    struct eg_server *s = &eg_rt.server[b->server];
    struct eg_fetch *f = fetch_get();
    if (!f)
        return -EAGAIN;
    *f = (struct eg_fetch){
        .io = {.op = EG_IO_READ,
               .offset = (uint64_t)b->slab * EG_SLAB_BYTES + (uint64_t)first * EG_PAGE_BYTES,
               .buf = eg_rt.fetch_buf + (uint64_t)(f - eg_rt.fetch) * EG_FETCH_PAGES * EG_PAGE_BYTES,
               .len_bytes = n * EG_PAGE_BYTES},
        .block = b,
        .first = (uint16_t)first,
        .n = (uint16_t)n,
        .write = (uint8_t)write,
        .passing = (uint8_t)passing,
        .demand = demand_ns != 0,
        .start_ns = demand_ns,
        .busy = 1,
    };
    eg_pages_set(b, first, n, EG_P_FETCHING);
    EG_COUNT(pages_fetched, n);
    if (eg_rt.profiled)
        eg_profile_fetched((uint64_t)b->index * EG_BLOCK_PAGES + first, n, !demand_ns);
    eg_rt.outstanding++;
    if (eg_rt.putting_off && s->link.ops->read) {
        f->alone = 1;
        eg_fetch_view(s);
        eg_io_push(&eg_rt.put_off, &f->io);
        return 0;
    }
    int rc = s->link.ops->submit(&s->link, &f->io);
    if (rc)
        eg_session_lost(s, rc); /* does not return: the pages are there */
    return 0;
}

static uint8_t views_off;

void eg_fetch_views_end(void)
{
    eg_cap_enter();
    while (eg_rt.unlocked) /* somebody may be reading there */
        eg_inline_give_way();
    views_off = 1;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++)
        if (eg_rt.server[i].link.view)
            eg_rt.server[i].link.ops->unview(&eg_rt.server[i].link);
    eg_cap_leave(0);
}

/* Its pages are the server's, but appear in the program's resident size, and the mapping in what RLIMIT_AS counts: not where that is limited. */
void eg_fetch_view(struct eg_server *s)
{
    struct rlimit most = {0, 0};
    if (s->link.viewed || views_off || !s->link.ops->view)
        return;
    s->link.viewed = 1;
    if (!eg_sys4(SYS_prlimit64, 0, RLIMIT_AS, 0, &most) && most.rlim_cur == RLIM_INFINITY)
        (void)!s->link.ops->view(&s->link, s->n_slabs * EG_SLAB_BYTES, VIEW_NEAR);
}

static __attribute__((noreturn)) void damaged(const struct eg_block *b)
{
    eg_session_check(); /* a server that is gone may have wiped shared memory: then this says so */
    eg_die("a page came back damaged from memory server ", eg_rt.server[b->server].config->text, 0);
}

/* The pages into the program's memory. Nobody else touches them while they are FETCHING, so the lock may be given up meanwhile. */
static void fetch_install(struct eg_fetch *f)
{
    const struct eg_block *b = f->block;
    if (f->io.result)
        eg_session_lost(&eg_rt.server[b->server], f->io.result);
    for (uint32_t i = 0; i < f->n && !f->summed; i++)
        if (eg_page_sum((uint8_t *)f->io.buf + i * EG_PAGE_BYTES, NULL) != b->sums[f->first + i])
            damaged(b);
    if (f->whole) {
        eg_whole_piece(f);
        return;
    }
    uint64_t addr = eg_block_addr(b) + (uint64_t)f->first * EG_PAGE_BYTES;
    if (eg_uffd_copy(addr, f->io.buf, (uint64_t)f->n * EG_PAGE_BYTES, !f->write))
        eg_die("internal error: cannot put a page back into the program's memory", NULL, 0);
}

static void fetch_settle(struct eg_fetch *f)
{
    struct eg_block *b = f->block;
    if (f->whole) {
        eg_whole_settle(f);
        return;
    }
    eg_pages_set(b, f->first, f->n, f->write ? EG_P_DIRTY : EG_P_CLEAN);
    eg_evict_arrived(b, f->first, f->n, f->passing, f->demand);
    eg_inline_arrived((uint64_t)b->index * EG_BLOCK_PAGES + f->first, f->n);
    if (f->demand)
        eg_account_time(eg_rt.row->fault_hist, eg_sys_now_ns() - f->start_ns);
    f->busy = 0;
    eg_rt.outstanding--;
}

void eg_fetch_came(struct eg_fetch *f)
{
    if (eg_rt.putting_off) {
        f->alone = f->came = 1;
        if (f->whole)
            f->whole->alone = 1;
        eg_io_push(&eg_rt.put_off, &f->io);
        return;
    }
    fetch_install(f);
    fetch_settle(f);
}

/* By the thread itself, without the lock. */
static void read_now(const struct eg_link *link, struct eg_fetch *f)
{
    const uint8_t *mapped = link->view ? link->view + f->io.offset : NULL;
    if (!mapped) {
        f->io.result = link->ops->read(link, f->io.offset, f->io.buf, f->io.len_bytes);
        return;
    }
    for (uint32_t i = 0; i < f->n; i++) {
        const uint8_t *page = mapped + i * EG_PAGE_BYTES;
        if (eg_page_sum_copy((uint8_t *)f->io.buf + i * EG_PAGE_BYTES, page, i + 1 < f->n ? page + EG_PAGE_BYTES : page) != f->block->sums[f->first + i])
            damaged(f->block);
    }
    f->summed = 1;
}

int eg_fetch_make_up(void)
{
    struct eg_io_queue mine = eg_rt.put_off;
    uint8_t foreign = eg_rt.foreign;
    if (!mine.head)
        return 0;
    eg_rt.put_off = (struct eg_io_queue){NULL, NULL};
    eg_rt.unlocked++;
    eg_inline_unlock();
    for (struct eg_io *io = mine.head; io; io = io->next) {
        struct eg_fetch *f = (struct eg_fetch *)io;
        const struct eg_link *link = &eg_rt.server[f->block->server].link;
        if (!f->came)
            read_now(link, f);
        fetch_install(f);
    }
    eg_inline_relock(foreign);
    eg_rt.unlocked--;
    for (struct eg_io *io; (io = eg_io_pop(&mine));)
        fetch_settle((struct eg_fetch *)io);
    return 1;
}

/* Reads ahead the pages page+stride, page+2*stride, ... that are only on the servers; runs become one read. */
static void read_ahead(uint64_t page, int32_t stride, uint32_t n, int write)
{
    struct eg_block *run_block = NULL;
    uint32_t run_first = 0, run = 0;
    int back = stride == -1;
    uint64_t total = 0;
    for (uint32_t k = 1; k <= n; k++) {
        /* Backwards, the window is walked from its far end, so that its runs ascend too. */
        uint64_t p = page + (uint64_t)((int64_t)stride * (back ? n + 1 - k : k));
        struct eg_block *b = p >> (EG_ADDR_BITS - EG_PAGE_SHIFT) ? NULL : eg_block_find(p / EG_BLOCK_PAGES);
        uint32_t i = (uint32_t)(p % EG_BLOCK_PAGES);
        int wanted = b && eg_page_state(b, i) == EG_P_REMOTE;
        if (run && (!wanted || b != run_block || i != run_first + run || run == EG_FETCH_PAGES)) {
            if (fetch_submit(run_block, run_first, run, write, is_sequence(stride), 0))
                break;
            total += run;
            run = 0;
        }
        if (!write && is_sequence(stride) && b && i == 0 && n + 1 - k >= EG_BLOCK_PAGES && eg_whole_may(b) && !eg_whole_submit(b, 0)) {
            total += EG_BLOCK_PAGES;
            k += EG_BLOCK_PAGES - 1;
            continue;
        }
        if (!wanted)
            continue;
        if (!run) {
            run_block = b;
            run_first = i;
        }
        run++;
    }
    if (run && !fetch_submit(run_block, run_first, run, write, is_sequence(stride), 0))
        total += run;
    EG_COUNT(pages_prefetched, total);
}

/* Is reading ahead worth it for this program, lately? */
static int worth_it(void)
{
    return eg_rt.ahead_used * 4 >= eg_rt.ahead_read;
}

/* Pages that will be written come by runs: they leave that way, too, and a huge page would be taken apart for it. */
static uint32_t window_max(const struct eg_block *b, int write)
{
    uint32_t runs = eg_rt.budget / 32 < WINDOW_MAX ? (uint32_t)(eg_rt.budget / 32) : WINDOW_MAX, whole = !write && worth_it() ? eg_whole_window(b) : 0;
    return whole ? whole : runs;
}

/* What the fault waits for: the page, or its whole block when that is foreseen. Returns: pages of the stream that are under way with it; 0: none. */
static uint32_t demand(struct eg_block *b, uint32_t i, int write, uint64_t start_ns, int32_t stride, uint32_t ahead)
{
    uint32_t rest = stride == 1 ? EG_BLOCK_PAGES - i : stride == -1 ? i + 1 : 0; /* of the block, in the stream's direction */
    if (!write && rest == EG_BLOCK_PAGES && ahead + 1 >= rest && eg_whole_may(b)) {
        eg_evict_room(EG_BLOCK_PAGES);
        if (eg_account_total() + EG_BLOCK_PAGES <= eg_rt.budget && !eg_whole_submit(b, start_ns)) {
            EG_COUNT(pages_prefetched, EG_BLOCK_PAGES - 1);
            return rest;
        }
    }
    eg_evict_room(1);
    return fetch_submit(b, i, 1, write, 0, start_ns) ? 0 : 1;
}

/* n pages beyond `from`, of a window of `window`; hits: of earlier ones. */
static void go_ahead(uint64_t from, int32_t stride, uint32_t window, uint32_t n, uint32_t hits, int write)
{
    eg_rt.ahead_used += hits;
    if (!window)
        return;
    eg_rt.ahead_read += window;
    if (eg_rt.ahead_read > 8 * EG_BLOCK_PAGES) {
        eg_rt.ahead_read /= 2;
        eg_rt.ahead_used /= 2;
    }
    if (n && eg_account_total() + n > eg_rt.budget)
        eg_evict_room(n);
    if (n && eg_account_total() + n <= eg_rt.budget)
        read_ahead(from, stride, n, write);
    eg_pager_collect();
}

void eg_fetch_fault(struct eg_block *b, uint32_t i, int write, uint32_t tid, uint64_t start_ns)
{
    uint64_t page = (uint64_t)b->index * EG_BLOCK_PAGES + i;
    uint64_t advice = eg_rt.advised ? eg_advice_of(page) : 0;
    int32_t stride = 1;
    uint32_t hits = 0, ahead = 0;
    eg_rt.clock++;
    /* Now and then the guess is put to the test, so that a page that is only read from now on becomes clean; more often, and of all that comes with it,
     * where nothing else speaks for it. */
    int likely = will_write(b, i), tested = likely && eg_rt.clock % (b->turned ? TEST_RARELY : TEST_OFTEN) == 0;
    int write_ahead = write || (likely && (!tested || b->turned));
    write |= likely && !tested;
    uint64_t max = window_max(b, write_ahead);
    if (advice & EG_RANGE_SEQUENTIAL)
        ahead = to_border(page, 1, (uint32_t)max);
    else if (!(advice & EG_RANGE_RANDOM))
        ahead = eg_stream_fault(eg_rt.stream, EG_N_STREAMS, page, tid, eg_rt.clock, (uint32_t)max, worth_it(), &stride, &hits);
    uint32_t done = demand(b, i, write, start_ns, stride, ahead);
    if (!done)
        return;
    eg_pager_collect();
    if (advice & EG_RANGE_RANDOM)
        return;
    if (advice & EG_RANGE_SEQUENTIAL) {
        /* What lies behind is done with. */
        uint64_t begin = eg_rt.ranges.v[eg_ranges_find(&eg_rt.ranges, page << EG_PAGE_SHIFT)].start >> EG_PAGE_SHIFT;
        if (page > begin + max)
            eg_evict_soon((page - begin > 3 * max ? page - 3 * max : begin) << EG_PAGE_SHIFT, (page - max) << EG_PAGE_SHIFT);
    }
    EG_COUNT(prefetch_hits, hits);
    if (eg_rt.profiled)
        eg_profile_stream(page, stride, ahead, hits);
    go_ahead(page + (uint64_t)((int64_t)stride * (done - 1)), stride, ahead, ahead - (done - 1), hits, write_ahead);
}

void eg_fetch_joined(struct eg_block *b, uint32_t i, int write, uint32_t tid)
{
    const struct eg_transport *ops = eg_rt.server[b->server].link.ops;
    uint64_t page = (uint64_t)b->index * EG_BLOCK_PAGES + i, from;
    int32_t stride;
    uint32_t hits = 0;
    if (!ops || ops->read || (eg_rt.advised && eg_advice_of(page) & EG_RANGE_RANDOM))
        return;
    write |= will_write(b, i);
    uint32_t ahead = eg_stream_joined(eg_rt.stream, EG_N_STREAMS, page, tid, ++eg_rt.clock, window_max(b, write), &from, &stride, &hits);
    EG_COUNT(prefetch_hits, hits);
    if (ahead)
        go_ahead(from, stride, ahead, ahead, hits, write);
}

void eg_fetch_want(uint64_t start, uint64_t end)
{
    if (eg_rt.n_wanted == EG_N_WANTED) {
        memmove(eg_rt.wanted, eg_rt.wanted + 1, (EG_N_WANTED - 1) * sizeof *eg_rt.wanted);
        eg_rt.n_wanted--;
    }
    eg_rt.wanted[eg_rt.n_wanted++] = (struct eg_span){start, end};
    eg_pager_kick();
}

/* The first run of pages of [*at, end) that only a server has, in one block. Returns: how many; *at: where, or the end. 0 before the end: a page is
 * still on its way there. */
static uint32_t remote_run(uint64_t *at, uint64_t end, struct eg_block **ret_b)
{
    while (*at < end) {
        uint64_t index = *at >> EG_BLOCK_SHIFT, stop = (index + 1) << EG_BLOCK_SHIFT;
        struct eg_block *b = eg_block_find(index);
        if (!b) {
            uint64_t next = index;
            b = eg_block_next(&next, EG_N_BLOCKS);
            *at = b && eg_block_addr(b) < end ? eg_block_addr(b) : end;
            continue;
        }
        for (stop = stop < end ? stop : end; *at < stop; *at += EG_PAGE_BYTES) {
            uint32_t i = (uint32_t)(*at >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, n = 0;
            while (n < EG_FETCH_PAGES && *at + n * EG_PAGE_BYTES < stop && eg_page_state(b, i + n) == EG_P_REMOTE &&
                   will_write(b, i + n) == will_write(b, i))
                n++;
            *ret_b = b;
            if (n || eg_page_state(b, i) == EG_P_INFLIGHT)
                return n;
        }
    }
    return 0;
}

int eg_fetch_turn(void)
{
    struct eg_span *w = eg_rt.wanted;
    for (uint32_t runs = 0; eg_rt.n_wanted && runs < WANTED_RUNS; runs++) {
        struct eg_block *b = NULL;
        uint32_t n = remote_run(&w->start, w->end, &b);
        if (!n && w->start < w->end)
            return 1;
        if (!n) {
            memmove(w, w + 1, --eg_rt.n_wanted * sizeof *w);
            continue;
        }
        if (eg_account_total() + n > eg_rt.budget) {
            uint64_t freed = eg_evict(n); /* of this process: for a hint nobody else gives way */
            if (eg_account_total() + n > eg_rt.budget) {
                w->start = freed ? w->start : w->end;
                continue;
            }
        }
        uint32_t i = (uint32_t)(w->start >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
        if (fetch_submit(b, i, n, will_write(b, i), 0, 0))
            return 1;
        EG_COUNT(pages_prefetched, n);
        w->start += (uint64_t)n * EG_PAGE_BYTES;
    }
    return eg_rt.n_wanted != 0;
}

/* Those that only who holds the lock ends. */
static int fetching_own(void)
{
    for (uint32_t i = EG_N_FETCHES - N_RANGE; i < EG_N_FETCHES; i++)
        if (eg_rt.fetch[i].busy)
            return 1;
    return 0;
}

int eg_fetch_range(uint64_t start, uint64_t end)
{
    in_range = 1;
    for (uint64_t at = start; at < end;) {
        struct eg_block *b = eg_block_find(at >> EG_BLOCK_SHIFT);
        uint64_t block_end = ((at >> EG_BLOCK_SHIFT) + 1) << EG_BLOCK_SHIFT;
        uint64_t stop = block_end < end ? block_end : end;
        while (b && at < stop) {
            uint32_t i = (uint32_t)(at >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, n = 0;
            while (at + (uint64_t)n * EG_PAGE_BYTES < stop && n < EG_FETCH_PAGES && eg_page_state(b, i + n) == EG_P_REMOTE)
                n++;
            if (n) {
                eg_evict_room(n);
                if (fetch_submit(b, i, n, 1, 0, 0))
                    eg_die("internal error: a read that cannot be put off was", NULL, 0);
            }
            at += (uint64_t)(n ? n : 1) * EG_PAGE_BYTES;
        }
        at = stop;
    }
    while (fetching_own())
        eg_pager_poll();
    in_range = 0;
    eg_pager_quiesce(start, end);
    return 0;
}
