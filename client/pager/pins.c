/* pins.c - pages that stay while the kernel may access them: see eg_inline.h. Per thread up to eight calls (one, and the frames of signal handlers and
 * the calls that they make while it lasts), each with the runs of pages that it needs; and short runs that are kept beyond their call, for a program's
 * loop has the same few buffers again and again. How often each page is pinned is counted in a table by a hash, so that the usual answer, no, needs one
 * look. */
#include "client/pager/eg_inline.h"

#include <errno.h>

#define CALLS 8
#define SPANS 6
#define MORE_SPANS 254
#define COUNT_BITS 15
#define SLOTS_FIRST 256u
#define HELD_PAGES 64u
#define IDLE_PAGES 64u
#define KEPT 16u
#define KEPT_RUN_PAGES 32u
#define KEPT_PAGES 128u
#define KEPT_SHARE 16u /* of the budget, all threads' together */
#define BRING_TURNS 4
#define LASTING (~0ull)

struct run {
    uint64_t first, end; /* page numbers; of end the uppermost bit: written */
};
#define WRITTEN (1ull << 63)

struct more {
    struct more *next;
    struct run v[MORE_SPANS];
};

struct call {
    uint64_t sp;
    uint32_t n;
    uint64_t pages;
    struct run v[SPANS];
    struct more *more; /* newest first; the oldest is full before the next begins */
};

/* A run that stays when its call is over, and may go then. It is over when the thread makes its next one, but for those that a handler interrupted. */
struct kept {
    struct run run;
    uint64_t sp;       /* the call that needed it last */
    uint32_t handlers; /* eg_rt.handlers at that time */
    uint32_t used;     /* owner's n_calls */
};

struct owner {
    uint64_t owner;
    uint32_t tid; /* 0: not known, or not of this process */
    uint32_t turn; /* odd while calls change: a signal handler's may come between the steps of eg_pin_held */
    uint32_t n;
    struct call call[CALLS]; /* outermost first */
    struct call lasting;
    uint32_t n_kept, n_calls; /* n_calls: that were not held */
    uint64_t kept_pages;
    struct kept kept[KEPT];
    struct owner *next_free;
};

struct slots {
    uint64_t mask;
    struct owner *slot[];
};

static struct {
    struct slots *slots;
    uint32_t n_owners;
    struct owner *free;
    struct more *free_more;
    uint32_t *count; /* by hash of the page */
    uint64_t total;  /* pages, each as often as it is pinned */
} pins;

/* --- counts ------------------------------------------------------------------------------------------------------------- */

static uint32_t *count_of(uint64_t page)
{
    return &pins.count[page * 0x9e3779b97f4a7c15ull >> (64 - COUNT_BITS)];
}

static void count(uint64_t first, uint64_t end, uint32_t by)
{
    for (uint64_t page = first; page < end; page++)
        *count_of(page) += by;
    pins.total += (end - first) * (uint64_t)(int64_t)(int32_t)by;
}

/* --- calls -------------------------------------------------------------------------------------------------------------- */

static void *must(void *p)
{
    if (!p)
        eg_die("no memory for the pager's own tables", NULL, 0);
    return p;
}

static struct run *run_last(struct call *c)
{
    return c->n <= SPANS ? &c->v[c->n - 1] : &c->more->v[(c->n - 1 - SPANS) % MORE_SPANS];
}

static struct run *run_add(struct call *c)
{
    if (c->n >= SPANS && (c->n - SPANS) % MORE_SPANS == 0) {
        struct more *m = pins.free_more;
        if (m)
            pins.free_more = m->next;
        else
            m = must(eg_sys_map(sizeof *m));
        m->next = c->more;
        c->more = m;
    }
    c->n++;
    return run_last(c);
}

static uint64_t run_end(const struct run *r)
{
    return r->end & ~WRITTEN;
}

static int covers(const struct run *r, uint64_t first, uint64_t end)
{
    return first >= r->first && end <= run_end(r);
}

static int meets(const struct run *r, uint64_t first, uint64_t end)
{
    return first < run_end(r) && end > r->first;
}

static void runs_end(const struct run *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        count(v[i].first, run_end(&v[i]), -1u);
}

/* Of more runs than fit into the call: how many are in the newest part. */
static uint32_t in_newest(const struct call *c)
{
    return c->n > SPANS ? (c->n - SPANS - 1) % MORE_SPANS + 1 : 0;
}

static void call_end(struct call *c)
{
    runs_end(c->v, c->n < SPANS ? c->n : SPANS);
    for (uint32_t n = in_newest(c); c->more; n = MORE_SPANS) {
        struct more *m = c->more;
        runs_end(m->v, n);
        c->more = m->next;
        m->next = pins.free_more;
        pins.free_more = m;
    }
    c->n = 0;
    c->pages = 0;
}

/* Is all of it in the call's last run, or does it go on where that ends (iovecs do)? Else it is a run of its own. */
static void call_pin(struct call *c, uint64_t first, uint64_t end, int write)
{
    uint64_t bit = write ? WRITTEN : 0;
    struct run *last = c->n ? run_last(c) : NULL;
    if (last && (last->end & WRITTEN) == bit && first >= last->first && first <= run_end(last)) {
        if (end <= run_end(last))
            return;
        first = run_end(last);
        last->end = end | bit;
    } else {
        *run_add(c) = (struct run){first, end | bit};
    }
    c->pages += end - first;
    count(first, end, 1);
}

static int call_has(struct call *c, uint64_t first, uint64_t end)
{
    for (uint32_t i = 0; i < c->n && i < SPANS; i++)
        if (meets(&c->v[i], first, end))
            return 1;
    uint32_t left = in_newest(c);
    for (const struct more *m = c->more; m; m = m->next, left = MORE_SPANS)
        for (uint32_t i = 0; i < left; i++)
            if (meets(&m->v[i], first, end))
                return 1;
    return 0;
}

/* --- kept runs ------------------------------------------------------------------------------------------------------------ */

/* May a call that a handler has interrupted go on with it, as seen from a call at sp? */
static int in_use(const struct kept *k, uint64_t sp)
{
    return k->handlers != __atomic_load_n(&eg_rt.handlers, __ATOMIC_RELAXED) && k->sp > sp;
}

static void kept_drop(struct owner *o, struct kept *k)
{
    runs_end(&k->run, 1);
    o->kept_pages -= run_end(&k->run) - k->run.first;
    *k = o->kept[--o->n_kept];
}

/* Returns: 0: there is nothing that may go. */
static int kept_drop_oldest(struct owner *o, uint64_t sp)
{
    struct kept *oldest = NULL;
    for (struct kept *k = o->kept; k < o->kept + o->n_kept; k++)
        if (k->used != o->n_calls && !in_use(k, sp) && (!oldest || o->n_calls - k->used > o->n_calls - oldest->used))
            oldest = k;
    if (oldest)
        kept_drop(o, oldest);
    return oldest != NULL;
}

/* Returns: 1; 0: it is the call's own. */
static int kept_pin(struct owner *o, uint64_t sp, uint64_t first, uint64_t end, int write)
{
    uint64_t most = eg_rt.budget / (KEPT_SHARE * pins.n_owners), n = end - first;
    most = most < KEPT_PAGES ? most : KEPT_PAGES;
    if (n > KEPT_RUN_PAGES || n > most || sp == LASTING || o->owner & (EG_PIN_TID | EG_PIN_AIO | EG_PIN_PEER))
        return 0;
    struct kept *k = o->kept;
    while (k < o->kept + o->n_kept && !covers(&k->run, first, end))
        k++;
    if (k == o->kept + o->n_kept) {
        while (o->n_kept == KEPT || o->kept_pages + n > most)
            if (!kept_drop_oldest(o, sp))
                return 0;
        k = &o->kept[o->n_kept++];
        *k = (struct kept){.run = {first, end}};
        o->kept_pages += n;
        count(first, end, 1);
    }
    k->run.end |= write ? WRITTEN : 0;
    if (!in_use(k, sp)) {
        k->sp = sp;
        k->handlers = eg_rt.handlers;
    }
    k->used = o->n_calls;
    return 1;
}

/* Without the lock; the depth is a guess (EG_PIN_MAIN), good enough where no call can have been interrupted since the run's last one. */
static int kept_held(struct owner *o, uint64_t sp, uint64_t first, uint64_t end, int write)
{
    for (struct kept *k = o->kept; k < o->kept + o->n_kept && k < o->kept + KEPT; k++)
        if (covers(&k->run, first, end) && (!write || k->run.end & WRITTEN)) {
            if (k->handlers != __atomic_load_n(&eg_rt.handlers, __ATOMIC_RELAXED))
                return 0;
            k->sp = sp;
            k->used = o->n_calls;
            return 1;
        }
    return 0;
}

/* --- owners ------------------------------------------------------------------------------------------------------------- */

static uint64_t slot_of(const struct slots *s, uint64_t owner)
{
    return (owner * 0x9e3779b97f4a7c15ull >> 20) & s->mask;
}

/* Without the lock: the slots may just be moving, then the owner may not be found. */
static struct owner *owner_find(uint64_t owner)
{
    struct slots *s = __atomic_load_n(&pins.slots, __ATOMIC_ACQUIRE);
    if (!s)
        return NULL;
    uint64_t mask = __atomic_load_n(&s->mask, __ATOMIC_RELAXED), i = (owner * 0x9e3779b97f4a7c15ull >> 20) & mask;
    for (uint64_t tries = 0; tries <= mask; tries++, i = (i + 1) & mask) {
        struct owner *o = __atomic_load_n(&s->slot[i], __ATOMIC_ACQUIRE);
        if (!o)
            return NULL;
        if (__atomic_load_n(&o->owner, __ATOMIC_RELAXED) == owner)
            return o;
    }
    return NULL;
}

static void slot_put(struct slots *s, struct owner *o)
{
    uint64_t i = slot_of(s, o->owner);
    while (s->slot[i])
        i = (i + 1) & s->mask;
    __atomic_store_n(&s->slot[i], o, __ATOMIC_RELEASE);
}

static void owner_turn(struct owner *o)
{
    __atomic_store_n(&o->turn, o->turn + 1, __ATOMIC_SEQ_CST);
}

/* What stood behind it in the slots moves up. */
static void owner_remove(struct owner *o)
{
    struct slots *s = pins.slots;
    uint64_t i = slot_of(s, o->owner);
    while (s->slot[i] != o)
        i = (i + 1) & s->mask;
    for (uint64_t j = (i + 1) & s->mask; s->slot[j]; j = (j + 1) & s->mask) {
        uint64_t home = slot_of(s, s->slot[j]->owner);
        if (((j - home) & s->mask) >= ((j - i) & s->mask)) {
            __atomic_store_n(&s->slot[i], s->slot[j], __ATOMIC_RELEASE);
            i = j;
        }
    }
    __atomic_store_n(&s->slot[i], NULL, __ATOMIC_RELEASE);
    for (uint32_t k = 0; k < o->n; k++)
        call_end(&o->call[k]);
    call_end(&o->lasting);
    while (o->n_kept)
        kept_drop(o, o->kept);
    o->n = 0;
    __atomic_store_n(&o->owner, 0, __ATOMIC_RELAXED);
    o->next_free = pins.free;
    pins.free = o;
    pins.n_owners--;
}

/* Threads that ended without the gate's knowing. Only those with one of the bits of `only`, if any. */
static void owners_bury(uint64_t only)
{
    struct slots *s = pins.slots;
    long pid = eg_sys0(SYS_getpid);
    for (uint64_t i = 0; i <= s->mask;) {
        struct owner *o = s->slot[i];
        if (o && o->tid && (!only || o->owner & only) && eg_sys3(SYS_tgkill, pid, o->tid, 0) == -ESRCH)
            owner_remove(o); /* another may have moved here */
        else
            i++;
    }
}

static void slots_grow(void)
{
    struct slots *old = pins.slots;
    uint64_t n = old ? 2 * (old->mask + 1) : SLOTS_FIRST;
    struct slots *s = must(eg_sys_map(sizeof *s + n * sizeof s->slot[0]));
    s->mask = n - 1;
    for (uint64_t i = 0; old && i <= old->mask; i++)
        if (old->slot[i])
            slot_put(s, old->slot[i]);
    __atomic_store_n(&pins.slots, s, __ATOMIC_RELEASE);
    if (old)
        eg_sys_unmap(old, sizeof *old + n / 2 * sizeof old->slot[0]);
}

/* A vfork child has a number of its own, in another process, and its parent's thread pointer. */
static uint32_t own_tid(void)
{
    return eg_sys0(SYS_getpid) == (long)eg_rt.pid ? (uint32_t)eg_sys0(SYS_gettid) : 0;
}

static struct owner *owner_new(uint64_t owner, uint32_t tid)
{
    if (!pins.count)
        pins.count = must(eg_sys_map(sizeof *pins.count << COUNT_BITS));
    if (pins.slots && pins.n_owners >= (pins.slots->mask + 1) / 4 * 3)
        owners_bury(0);
    if (!pins.slots || pins.n_owners >= (pins.slots->mask + 1) / 4 * 3)
        slots_grow();
    struct owner *o = pins.free;
    if (o)
        pins.free = o->next_free;
    else
        o = must(eg_sys_map(sizeof *o));
    o->tid = tid;
    __atomic_store_n(&o->owner, owner, __ATOMIC_RELEASE);
    slot_put(pins.slots, o);
    pins.n_owners++;
    return o;
}

/* own: the caller is that thread, and not the one that is about to make it. */
static struct owner *owner_get(uint64_t owner, int own)
{
    struct owner *o = owner_find(owner), *other;
    if (owner & EG_PIN_TID)
        return o ? o : owner_new(owner, (uint32_t)owner);
    if (!o) {
        o = owner_new(owner, own ? own_tid() : 0);
        /* What somebody else pinned for the call that this thread was in becomes its own. */
        if (o->tid && (other = owner_find(EG_PIN_TID | o->tid))) {
            memcpy(o->call, other->call, sizeof o->call);
            o->n = other->n;
            other->n = 0;
            owner_remove(other);
        }
    }
    if (!o->tid)
        o->tid = own ? own_tid() : 0;
    return o;
}

/* --- calls of an owner ---------------------------------------------------------------------------------------------------- */

static void drop_oldest(struct owner *o)
{
    call_end(&o->call[0]);
    memmove(o->call, o->call + 1, (CALLS - 1) * sizeof o->call[0]);
    o->n--;
}

/* The one that the owner makes: begun, if it is not yet. */
static struct call *call_of(struct owner *o, uint64_t sp)
{
    if (sp == LASTING)
        return &o->lasting;
    if (o->n && o->call[o->n - 1].sp == sp)
        return &o->call[o->n - 1];
    if (o->n == CALLS)
        drop_oldest(o);
    struct call *c = &o->call[o->n++];
    memset(c, 0, sizeof *c);
    c->sp = sp;
    return c;
}

/* Are the captured pages of [start, end) here, as far as the kernel's access needs it? Without the lock: sure only of what is pinned already. */
static int present(uint64_t start, uint64_t end, int write)
{
    for (uint64_t page = start >> EG_PAGE_SHIFT, stop = (end + EG_PAGE_BYTES - 1) >> EG_PAGE_SHIFT; page < stop;) {
        uint64_t index = page / EG_BLOCK_PAGES, next = (index + 1) * EG_BLOCK_PAGES;
        const struct eg_block *b = eg_block_armed(index) ? eg_block_find(index) : NULL;
        if (!b && eg_block_armed(index))
            return 0;
        for (; page < stop && page < next; page++) {
            if (!b)
                continue;
            switch ((enum eg_page_state)(__atomic_load_n(&b->page[page % EG_BLOCK_PAGES], __ATOMIC_ACQUIRE) & EG_P_STATE)) {
            case EG_P_NONE:
            case EG_P_RESERVED:
            case EG_P_DIRTY: break;
            case EG_P_CLEAN:
                if (!write)
                    break;
                return 0;
            case EG_P_FRESH:
            case EG_P_REMOTE:
            case EG_P_FETCHING:
            case EG_P_INFLIGHT: return 0;
            }
        }
    }
    return 1;
}

/* Pinned first, then brought home: the lock may be given up on the way, and nothing of it leaves again. */
static void pin_span(struct owner *o, uint64_t sp, const struct eg_span_rw *v)
{
    uint64_t start = v->start & ~(uint64_t)(EG_PAGE_BYTES - 1), end = v->end;
    struct eg_range part;
    if (end <= start || end > 1ull << EG_ADDR_BITS)
        return;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end) {
        if (part.flags & (EG_RANGE_RESERVED | EG_RANGE_GUARDED))
            continue; /* the kernel's access fails, as it should */
        uint64_t first = part.start >> EG_PAGE_SHIFT, stop = (part.end + EG_PAGE_BYTES - 1) >> EG_PAGE_SHIFT;
        if (!kept_pin(o, sp, first, stop, v->write))
            call_pin(call_of(o, sp), first, stop, v->write);
    }
}

static void bring_span(const struct eg_span_rw *v)
{
    uint64_t start = v->start & ~(uint64_t)(EG_PAGE_BYTES - 1), end = v->end;
    struct eg_range part;
    if (end <= start || end > 1ull << EG_ADDR_BITS)
        return;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        /* A fork by another thread, while the lock was given up, protects pages again. What cannot be had is the kernel's to refuse. */
        for (int turn = 0; turn < BRING_TURNS && !(part.flags & (EG_RANGE_RESERVED | EG_RANGE_GUARDED)) && !present(part.start, part.end, v->write); turn++)
            eg_inline_bring(part.start & ~(uint64_t)(EG_PAGE_BYTES - 1), (part.end + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1), v->write);
}

static void pin_all(struct owner *o, uint64_t sp, const struct eg_span_rw *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        pin_span(o, sp, v + i);
    owner_turn(o);
    for (uint32_t i = 0; i < n; i++)
        bring_span(v + i);
}

void eg_pin_call(uint64_t owner, uint64_t sp, const struct eg_span_rw *v, uint32_t n)
{
    eg_lock_take(&eg_rt.lock);
    struct owner *o = owner_get(owner, 1);
    owner_turn(o);
    while (o->n && o->call[o->n - 1].sp <= sp)
        call_end(&o->call[--o->n]);
    o->n_calls++;
    pin_all(o, sp, v, n);
    eg_lock_give(&eg_rt.lock);
}

void eg_pin_more(uint64_t owner, uint64_t sp, const struct eg_span_rw *v, uint32_t n)
{
    eg_lock_take(&eg_rt.lock);
    struct owner *o = owner_get(owner, sp != LASTING);
    owner_turn(o);
    pin_all(o, sp, v, n);
    eg_lock_give(&eg_rt.lock);
}

static int held(struct owner *o, uint64_t sp, uint64_t start, uint64_t end, int write)
{
    uint64_t first = start >> EG_PAGE_SHIFT, stop = (end + EG_PAGE_BYTES - 1) >> EG_PAGE_SHIFT;
    uint32_t turn = o ? __atomic_load_n(&o->turn, __ATOMIC_ACQUIRE) : 1;
    if (turn & 1 || end <= start)
        return 0;
    const struct call *c = o->n ? &o->call[o->n - 1] : NULL;
    uint32_t n = c && c->sp == sp && c->pages <= HELD_PAGES ? c->n : 0;
    int found = sp & EG_PIN_MAIN && kept_held(o, sp, first, stop, write);
    for (uint32_t i = 0; i < n && i < SPANS && !found; i++)
        found = covers(&c->v[i], first, stop) && (!write || c->v[i].end & WRITTEN);
    return found && present(start, end, write) && __atomic_load_n(&o->turn, __ATOMIC_SEQ_CST) == turn;
}

static int idle(const struct owner *o, uint64_t sp)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; o && i < o->n && i < CALLS; i++)
        if (o->call[i].sp <= sp)
            pages += o->call[i].pages;
    return pages > IDLE_PAGES;
}

int eg_pin_held(uint64_t owner, uint64_t sp, uint64_t start, uint64_t end, int write)
{
    return held(owner_find(owner), sp, start, end, write);
}

int eg_pin_idle(uint64_t owner, uint64_t sp)
{
    return idle(owner_find(owner), sp);
}

int eg_pin_ready(uint64_t owner, uint64_t sp, const struct eg_span_rw *s)
{
    struct owner *o = owner_find(owner);
    return !idle(o, sp | EG_PIN_MAIN) && (!eg_ranges_seen(&eg_rt.ranges, s->start, s->end) || held(o, sp | EG_PIN_MAIN, s->start, s->end, s->write) ||
                                          held(o, sp, s->start, s->end, s->write));
}

uint32_t eg_pin_owners(void)
{
    return __atomic_load_n(&pins.n_owners, __ATOMIC_RELAXED);
}

int eg_pin_known(uint64_t tid)
{
    int known = 0;
    eg_lock_take(&eg_rt.lock);
    for (uint64_t i = 0; pins.slots && i <= pins.slots->mask && !known; i++)
        known = pins.slots->slot[i] && pins.slots->slot[i]->tid == tid && !(pins.slots->slot[i]->owner & EG_PIN_TID);
    eg_lock_give(&eg_rt.lock);
    return known;
}

void eg_pin_end(uint64_t owner)
{
    eg_lock_take(&eg_rt.lock);
    struct owner *o = owner_find(owner);
    if (o)
        owner_remove(o);
    eg_lock_give(&eg_rt.lock);
}

void eg_pin_bury(void)
{
    eg_lock_take(&eg_rt.lock);
    if (pins.slots)
        owners_bury(EG_PIN_TID);
    eg_lock_give(&eg_rt.lock);
}

static int has(uint64_t first, uint64_t end)
{
    for (uint64_t i = 0; i <= pins.slots->mask; i++) {
        struct owner *o = pins.slots->slot[i];
        if (!o)
            continue;
        for (uint32_t k = 0; k < o->n; k++)
            if (call_has(&o->call[k], first, end))
                return 1;
        if (call_has(&o->lasting, first, end))
            return 1;
        for (uint32_t k = 0; k < o->n_kept; k++)
            if (meets(&o->kept[k].run, first, end))
                return 1;
    }
    return 0;
}

int eg_pin_has(uint64_t page)
{
    return pins.total && *count_of(page) && has(page, page + 1);
}

int eg_pin_any(uint64_t start, uint64_t end)
{
    return pins.total && has(start >> EG_PAGE_SHIFT, (end + EG_PAGE_BYTES - 1) >> EG_PAGE_SHIFT);
}

void eg_pin_reset(void)
{
    for (uint64_t i = 0; pins.slots && i <= pins.slots->mask;)
        if (pins.slots->slot[i])
            owner_remove(pins.slots->slot[i]);
        else
            i++;
}
