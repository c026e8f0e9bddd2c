/* peer.c - process_vm_readv and process_vm_writev on another process of the run, whose faults are served inline: for this call the kernel waits for no page
 * of it. What the call stops at is asked for (client/pager/peer.c), and that piece is copied once more. */
#include "client/gate/eg_buffers.h"
#include "client/pager/eg_peer.h"

#include <errno.h>
#include <sys/uio.h>

#define IOVS_MAX 1024ul
#define PIECE_BYTES (64ul * EG_PAGE_BYTES)
#define WINDOW 8u

/* A place in an array of iovecs. */
struct walk {
    uint64_t array, n, i, skip;
    struct iovec v[WINDOW]; /* those around i */
    uint64_t loaded;        /* from here; ~0: none */
};

/* What is left of the next one that is not empty. Returns: 1; 0 at the end; -EFAULT. */
static int walk_part(struct walk *w, struct iovec *ret_part)
{
    for (; w->i < w->n; w->i++, w->skip = 0) {
        uint64_t from = w->i - w->i % WINDOW, bytes = (w->n - from < WINDOW ? w->n - from : WINDOW) * sizeof *w->v;
        if (w->loaded != from && eg_sys_copy_in(w->v, w->array + from * sizeof *w->v, bytes) != (long)bytes)
            return -EFAULT;
        w->loaded = from;
        const struct iovec *v = &w->v[w->i - from];
        if (v->iov_len <= w->skip)
            continue;
        *ret_part = (struct iovec){(char *)v->iov_base + w->skip, v->iov_len - w->skip};
        return 1;
    }
    return 0;
}

static void walk_by(struct walk *w, uint64_t bytes)
{
    struct iovec part;
    while (bytes && walk_part(w, &part) > 0) {
        uint64_t step = part.iov_len < bytes ? part.iov_len : bytes;
        w->skip += step;
        bytes -= step;
    }
}

/* The same bytes on this side, without going there yet. Returns: how many iovecs; *bytes is less if there are no more. */
static uint32_t window(struct walk w, struct iovec v[WINDOW], uint64_t *bytes)
{
    uint64_t sum = 0;
    uint32_t n = 0;
    while (n < WINDOW && sum < *bytes && walk_part(&w, &v[n]) > 0) {
        if (v[n].iov_len > *bytes - sum)
            v[n].iov_len = *bytes - sum;
        walk_by(&w, v[n].iov_len);
        sum += v[n++].iov_len;
    }
    *bytes = sum;
    return n;
}

struct copy {
    long nr, arg[6], done;
    struct eg_pool_row *row;
};

static long piece(const struct copy *c, const struct iovec *here, uint32_t n, const struct iovec *there)
{
    long done = eg_sys6(c->nr, c->arg[0], here, n, there, 1, 0);
    uint64_t start = (uint64_t)there->iov_base, end = start + there->iov_len;
    if ((eg_sys_failed(done) && done != -EFAULT) || done == (long)there->iov_len)
        return done;
    if (eg_peer_ask(c->row, start, end, c->nr == SYS_process_vm_writev))
        return done;
    done = eg_sys6(c->nr, c->arg[0], here, n, there, 1, 0);
    eg_peer_done(c->row);
    return done;
}

static long copy(void *arg)
{
    struct copy c = *(struct copy *)arg;
    struct walk here = {.array = (uint64_t)c.arg[1], .n = (uint64_t)c.arg[2], .loaded = ~0ul};
    struct walk there = {.array = (uint64_t)c.arg[3], .n = (uint64_t)c.arg[4], .loaded = ~0ul};
    struct iovec v[WINDOW], part;
    long total = c.done;
    walk_by(&here, (uint64_t)total);
    walk_by(&there, (uint64_t)total);
    for (;;) {
        int more = walk_part(&there, &part);
        uint64_t bytes = more <= 0 ? 0 : part.iov_len < PIECE_BYTES ? part.iov_len : PIECE_BYTES;
        uint32_t n = window(here, v, &bytes);
        if (!bytes)
            return total || more >= 0 ? total : more;
        part.iov_len = bytes;
        long done = piece(&c, v, n, &part);
        if (eg_sys_failed(done))
            return total ? total : done;
        total += done;
        if (done < (long)bytes)
            return total;
        walk_by(&here, bytes);
        walk_by(&there, bytes);
    }
}

int eg_gate_peer(const struct eg_gate_frame *f, long *ret_result)
{
    struct copy c = {.nr = f->nr, .arg = {f->arg[0], f->arg[1], f->arg[2], f->arg[3], f->arg[4], f->arg[5]}};
    if ((uint64_t)c.arg[2] > IOVS_MAX || (uint64_t)c.arg[4] > IOVS_MAX || c.arg[5] || !(c.row = eg_peer_find((uint32_t)c.arg[0])))
        return 0;
    long ret = eg_syscall6(c.nr, c.arg[0], c.arg[1], c.arg[2], c.arg[3], c.arg[4], 0);
    if (!eg_sys_failed(ret) || ret == -EFAULT) {
        c.done = ret == -EFAULT ? 0 : ret;
        ret = eg_gate_alone(copy, &c);
    }
    *ret_result = ret;
    return 1;
}
