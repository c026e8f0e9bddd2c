#include "client/pager/eg_range.h"

#include "proto/eg_sys.h"

#include <errno.h>
#include <sys/mman.h>

size_t eg_ranges_find(const struct eg_ranges *r, uint64_t addr)
{
    size_t lo = 0, hi = r->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (r->v[mid].end <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Room for two more entries: a set or a clear adds at most that many. */
static int grow(struct eg_ranges *r)
{
    if (r->n + 2 <= r->cap)
        return 0;
    size_t cap = r->cap ? r->cap * 2 : 4096 / sizeof *r->v;
    struct eg_range *v = eg_sys_map(cap * sizeof *v);
    if (!v)
        return -ENOMEM;
    if (r->v) {
        memcpy(v, r->v, r->n * sizeof *v);
        eg_sys_unmap(r->v, r->cap * sizeof *v);
    }
    __atomic_store_n(&r->v, v, __ATOMIC_RELEASE); /* before any n that needs its size: pairs with eg_ranges_seen's two loads */
    r->cap = cap;
    return 0;
}

/* Readers without the lock see from an odd turn, or from one that changed, that entries moved. */
static void turn_begin(struct eg_ranges *r)
{
    __atomic_store_n(&r->turn, r->turn + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* before the entries: pairs with the fence in eg_ranges_seen */
}

static void turn_end(struct eg_ranges *r)
{
    __atomic_store_n(&r->turn, r->turn + 1, __ATOMIC_RELEASE);
}

int eg_ranges_seen(const struct eg_ranges *r, uint64_t start, uint64_t end)
{
    uint32_t turn = __atomic_load_n(&r->turn, __ATOMIC_ACQUIRE);
    if (turn & 1)
        return 1;
    /* n first: the array is then at least as new, and as long. An old one is never given back, only emptied. */
    size_t lo = 0, hi = __atomic_load_n(&r->n, __ATOMIC_ACQUIRE), n = hi;
    const struct eg_range *v = __atomic_load_n(&r->v, __ATOMIC_ACQUIRE);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (__atomic_load_n(&v[mid].end, __ATOMIC_RELAXED) <= start)
            lo = mid + 1;
        else
            hi = mid;
    }
    int found = lo < n && __atomic_load_n(&v[lo].start, __ATOMIC_RELAXED) < end;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return found || __atomic_load_n(&r->turn, __ATOMIC_RELAXED) != turn;
}

static void replace(struct eg_ranges *r, size_t at, size_t n_old, const struct eg_range *with, size_t n_new)
{
    memmove(r->v + at + n_new, r->v + at + n_old, (r->n - at - n_old) * sizeof *r->v);
    for (size_t i = 0; i < n_new; i++)
        r->v[at + i] = with[i];
    __atomic_store_n(&r->n, r->n - n_old + n_new, __ATOMIC_RELEASE);
}

static int splice(struct eg_ranges *r, uint64_t start, uint64_t end, const struct eg_range *mid)
{
    if (start >= end)
        return 0;
    turn_begin(r);
    if (grow(r)) {
        turn_end(r);
        return -ENOMEM;
    }
    struct eg_range with[3];
    size_t n = 0, at = eg_ranges_find(r, start), stop = at;
    while (stop < r->n && r->v[stop].start < end)
        stop++;
    if (at < stop && r->v[at].start < start)
        with[n++] = (struct eg_range){r->v[at].start, start, r->v[at].flags};
    if (mid)
        with[n++] = *mid;
    if (at < stop && r->v[stop - 1].end > end)
        with[n++] = (struct eg_range){end, r->v[stop - 1].end, r->v[stop - 1].flags};
    replace(r, at, stop - at, with, n);
    /* Neighbours that now agree become one. */
    size_t i = at ? at - 1 : 0, last = at + n;
    while (i + 1 < r->n && i < last) {
        if (r->v[i].end == r->v[i + 1].start && r->v[i].flags == r->v[i + 1].flags) {
            r->v[i].end = r->v[i + 1].end;
            replace(r, i + 1, 1, NULL, 0);
            last--;
        } else {
            i++;
        }
    }
    turn_end(r);
    return 0;
}

int eg_ranges_set(struct eg_ranges *r, uint64_t start, uint64_t end, uint64_t flags)
{
    struct eg_range mid = {start, end, flags};
    return splice(r, start, end, &mid);
}

int eg_ranges_clear(struct eg_ranges *r, uint64_t start, uint64_t end)
{
    return splice(r, start, end, NULL);
}

int eg_ranges_next(const struct eg_ranges *r, uint64_t at, uint64_t end, struct eg_range *ret_part)
{
    size_t i = eg_ranges_find(r, at);
    if (at >= end || i >= r->n || r->v[i].start >= end)
        return 0;
    *ret_part = r->v[i];
    if (ret_part->start < at)
        ret_part->start = at;
    if (ret_part->end > end)
        ret_part->end = end;
    return 1;
}
