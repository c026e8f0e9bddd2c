/* aio.c - requests of libaio that are under way, where faults are served inline. The kernel reaches their buffers by the pages that it took hold of in
 * io_submit; not all file systems do that in a way that eviction would notice. So what a request is about stays until its completion is in the
 * context's ring, or the context is gone.
 *
 * Programs take completions out of the ring without a call. It is looked at before each submission: since the last look no more can have been completed
 * than it has places, so each completion is still to be seen there, whoever has taken it. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_inline.h"

#include <linux/aio_abi.h>

#define RING_MAGIC 0xa10a10a1u
#define EVENTS 16u
#define PIECE 256u /* requests */

/* As in the kernel's fs/aio.c. */
struct ring {
    uint32_t id, nr, head, tail, magic, compat, incompat, header_bytes;
};

struct request {
    struct request *next;
    uint64_t iocb, id;
};

struct context {
    struct context *next;
    uint64_t ring;
    uint32_t nr, seen; /* its places; the first one that has not been looked at */
    uint32_t n;
    struct request *first, *last; /* oldest first */
};

static struct {
    struct eg_lock lock; /* taken before the pager's */
    struct context *contexts, *free_contexts;
    struct request *free;
    uint64_t next_id;
} aio;

/* --- requests ------------------------------------------------------------------------------------------------------------- */

static void request_add(struct context *c, struct request *r, uint64_t iocb, uint64_t id)
{
    *r = (struct request){.iocb = iocb, .id = id};
    *(c->first ? &c->last->next : &c->first) = r;
    c->last = r;
    c->n++;
}

/* Behind `before`; NULL: the oldest. */
static void request_end(struct context *c, struct request *before)
{
    struct request **at = before ? &before->next : &c->first, *r = *at;
    *at = r->next;
    if (c->last == r)
        c->last = before;
    c->n--;
    eg_pin_end(EG_PIN_AIO | r->id);
    r->next = aio.free;
    aio.free = r;
}

static void completed(struct context *c, uint64_t iocb)
{
    struct request *before = NULL, *r = c->first;
    for (; r && r->iocb != iocb; r = r->next)
        before = r;
    if (r)
        request_end(c, before);
}

/* Those with numbers in [from, to]. */
static void requests_end(struct context *c, uint64_t from, uint64_t to)
{
    struct request *before = NULL;
    for (struct request *r = c->first, *next; r; r = next) {
        next = r->next;
        if (r->id >= from && r->id <= to)
            request_end(c, before);
        else
            before = r;
    }
}

/* --- contexts ------------------------------------------------------------------------------------------------------------- */

static int ring_read(uint64_t at, struct ring *ret_ring)
{
    struct ring *r = ret_ring;
    return eg_sys_copy_in(r, at, sizeof *r) == (long)sizeof *r && r->magic == RING_MAGIC && r->tail < r->nr ? 0 : -1;
}

static struct context *context_find(uint64_t ring)
{
    struct context *c = aio.contexts;
    while (c && c->ring != ring)
        c = c->next;
    return c;
}

static struct context *context_new(uint64_t at)
{
    struct context *c = aio.free_contexts;
    struct ring ring;
    if (ring_read(at, &ring))
        return NULL;
    if (c)
        aio.free_contexts = c->next;
    else if (!(c = eg_sys_map(sizeof *c)))
        return NULL;
    *c = (struct context){.next = aio.contexts, .ring = at, .nr = ring.nr, .seen = ring.tail};
    aio.contexts = c;
    return c;
}

static void context_end(struct context *c)
{
    struct context **at = &aio.contexts;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->next = aio.free_contexts;
    aio.free_contexts = c;
}

static void context_look(struct context *c)
{
    struct ring ring;
    struct io_event event[EVENTS];
    if (ring_read(c->ring, &ring) || ring.nr != c->nr)
        return;
    while (c->n && c->seen != ring.tail) {
        uint32_t end = ring.tail > c->seen ? ring.tail : c->nr, n = end - c->seen < EVENTS ? end - c->seen : EVENTS;
        long bytes = (long)(n * sizeof *event);
        if (eg_sys_copy_in(event, c->ring + sizeof ring + c->seen * sizeof *event, (size_t)bytes) != bytes)
            return;
        for (uint32_t i = 0; i < n; i++)
            completed(c, event[i].obj);
        c->seen = (c->seen + n) % c->nr;
    }
    c->seen = ring.tail;
}

/* --- calls, on a stack of the gate's ---------------------------------------------------------------------------------------- */

struct piece {
    uint64_t ring, iocbs, left; /* of what is still to be submitted: where, and how many */
    uint64_t first, n, taken;   /* the number of its first request; so many go together; so many the kernel took */
};

static struct context *context_looked(uint64_t ring)
{
    struct context *c = context_find(ring);
    if (c)
        context_look(c);
    return c;
}

static int request_note(const struct piece *p, uint64_t iocb)
{
    eg_lock_take(&aio.lock);
    struct context *c = context_find(p->ring);
    struct request *r = c ? aio.free : NULL;
    if (r)
        aio.free = r->next;
    else if (c)
        r = eg_sys_map(sizeof *r);
    if (r)
        request_add(c, r, iocb, p->first + p->n);
    if (r && c->n > c->nr) /* more than can be under way: threads came between each other's looks */
        request_end(c, NULL);
    eg_lock_give(&aio.lock);
    return r ? 0 : -1;
}

/* Its memory comes home, which may wait; then it is noted, before the kernel sees it. */
static int request_begin(struct piece *p, uint64_t *bytes)
{
    uint64_t at = p->iocbs + p->n * sizeof at, iocb, owner = EG_PIN_AIO | (p->first + p->n);
    long call[6] = {(long)p->ring, 1, (long)at};
    *bytes += eg_gate_pin_for(owner, SYS_io_submit, call);
    if (eg_sys_copy_in(&iocb, at, sizeof iocb) == (long)sizeof iocb && !request_note(p, iocb)) {
        p->n++;
        return 0;
    }
    eg_pin_end(owner);
    return -1;
}

static long piece_begin(void *arg)
{
    struct piece p = *(struct piece *)arg;
    uint64_t limit = eg_gate_pin_limit(), bytes = 0;
    eg_lock_take(&aio.lock);
    int known = context_looked(p.ring) || context_new(p.ring);
    p.first = aio.next_id;
    aio.next_id += PIECE;
    eg_lock_give(&aio.lock);
    p.n = p.taken = 0;
    while (known && p.n < p.left && p.n < PIECE && bytes < limit && !request_begin(&p, &bytes))
        ;
    *(struct piece *)arg = p;
    return 0;
}

static long piece_refused(void *arg)
{
    struct piece p = *(struct piece *)arg;
    eg_lock_take(&aio.lock);
    struct context *c = context_find(p.ring);
    if (c)
        requests_end(c, p.first + p.taken, p.first + p.n);
    eg_lock_give(&aio.lock);
    return 0;
}

static long reaping(void *arg)
{
    uint64_t ring = *(uint64_t *)arg; /* it lies on the program's stack */
    eg_lock_take(&aio.lock);
    context_looked(ring);
    eg_lock_give(&aio.lock);
    return 0;
}

/* What has come until now, for whatever is made of this context's place by others is not meant. */
static long destroyed(void *arg)
{
    struct piece p = *(struct piece *)arg;
    eg_lock_take(&aio.lock);
    struct context *c = context_find(p.ring);
    if (c) {
        requests_end(c, 0, p.first);
        if (!c->n)
            context_end(c);
    }
    eg_lock_give(&aio.lock);
    return 0;
}

/* --- calls ------------------------------------------------------------------------------------------------------------------ */

/* Returns: 1 done; 0 the kernel is to say what is wrong with it. */
static int submit(const long arg[6], long *ret_result)
{
    long done = 0;
    while (done < arg[1]) {
        struct piece p = {.ring = (uint64_t)arg[0], .iocbs = (uint64_t)arg[2] + (uint64_t)done * 8, .left = (uint64_t)(arg[1] - done)};
        eg_gate_alone(piece_begin, &p);
        if (!p.n)
            break;
        long ret = eg_sys3(SYS_io_submit, p.ring, p.n, p.iocbs);
        p.taken = eg_sys_failed(ret) ? 0 : (uint64_t)ret;
        if (p.taken < p.n)
            eg_gate_alone(piece_refused, &p);
        if (eg_sys_failed(ret) && !done) {
            *ret_result = ret;
            return 1;
        }
        done += (long)p.taken;
        if (p.taken < p.n)
            break;
    }
    *ret_result = done;
    return done > 0;
}

int eg_gate_aio(const struct eg_gate_frame *f, long *ret_result)
{
    switch (f->nr) {
    case SYS_io_submit: return submit(f->arg, ret_result);
    case SYS_io_getevents:
    case SYS_io_pgetevents: {
        uint64_t ring = (uint64_t)f->arg[0];
        if (__atomic_load_n(&aio.contexts, __ATOMIC_RELAXED))
            eg_gate_alone(reaping, &ring);
        return 0;
    }
    case SYS_io_destroy: {
        struct piece p = {.ring = (uint64_t)f->arg[0], .first = __atomic_load_n(&aio.next_id, __ATOMIC_RELAXED)};
        *ret_result = eg_sys1(SYS_io_destroy, f->arg[0]);
        if (!eg_sys_failed(*ret_result))
            eg_gate_alone(destroyed, &p);
        return 1;
    }
    default: return 0;
    }
}

void eg_gate_aio_child(void)
{
    aio.lock = (struct eg_lock){0};
    for (struct context *c = aio.contexts, *next; c; c = next) {
        next = c->next;
        for (struct request *r = c->first, *behind; r; r = behind) {
            behind = r->next;
            r->next = aio.free;
            aio.free = r;
        }
        c->next = aio.free_contexts;
        aio.free_contexts = c;
    }
    aio.contexts = NULL;
}
