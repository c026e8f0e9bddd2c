/* drop.c - clean pages leave: the servers have them. */
#include "client/pager/eg_evict.h"

#include "client/pager/eg_inline.h"

#include <errno.h>
#include <sys/mman.h>

#define N_ASIDE 4

void eg_drop_note(struct eg_block *b, uint32_t first, uint32_t n)
{
    eg_pages_set(b, first, n, EG_P_REMOTE);
    for (uint32_t i = 0; i < n; i++) {
        eg_queue_left(b, first + i);
        b->page[first + i] &= (uint8_t)~EG_P_WRITTEN;
    }
    b->turned = (uint8_t)(b->turned > n ? b->turned - n : 0);
    EG_COUNT(pages_evicted, n);
    EG_COUNT(pages_dropped_clean, n);
    if (eg_rt.profiled)
        eg_profile_left(eg_page_number(b, first), n, 0);
}

uint64_t eg_drop_run(struct eg_block *b, uint32_t first, uint32_t n)
{
    uint64_t addr = eg_block_addr(b) + (uint64_t)first * EG_PAGE_BYTES;
    long rc = eg_sys3(SYS_madvise, addr, (uint64_t)n * EG_PAGE_BYTES, MADV_DONTNEED);
    if (eg_sys_failed(rc) && n > 1) {
        /* Some of them locked by mlock, those before them gone already: one by one. */
        uint64_t freed = 0;
        for (uint32_t i = 0; i < n; i++)
            freed += eg_drop_run(b, first + i, 1);
        return freed;
    }
    if (eg_sys_failed(rc) && eg_page_present(addr)) {
        eg_queue_spare(b, first);
        return 0;
    }
    eg_drop_note(b, first, n);
    return n;
}

static struct eg_drops aside[N_ASIDE];

long eg_drop_call(const struct eg_drops *d)
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

uint64_t eg_drop_settle(struct eg_drops *d, long gone)
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
            eg_drop_note(b, first, n);
            freed += n;
            continue;
        }
        gone = 0;
        if (d->busy)
            eg_pages_set(b, first, n, EG_P_CLEAN);
        freed += eg_drop_run(b, first, n);
    }
    for (uint32_t i = 0; i < d->runs && d->busy; i++)
        eg_inline_arrived((uint64_t)d->iov[i].iov_base >> EG_PAGE_SHIFT, (uint32_t)(d->iov[i].iov_len / EG_PAGE_BYTES));
    d->runs = d->pages = 0;
    return freed;
}

uint64_t eg_drop_all(struct eg_drops *d)
{
    return d->runs ? eg_drop_settle(d, eg_drop_call(d)) : 0;
}

void eg_drop_add(struct eg_drops *d, struct eg_block *b, uint32_t first, uint32_t n)
{
    d->iov[d->runs++] = (struct iovec){(void *)(eg_block_addr(b) + (uint64_t)first * EG_PAGE_BYTES), (uint64_t)n * EG_PAGE_BYTES};
    d->pages += n;
    if (d->busy)
        eg_pages_set(b, first, n, EG_P_FETCHING);
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

struct eg_drops *eg_drop_aside(void)
{
    for (struct eg_drops *d = aside; d < aside + N_ASIDE; d++)
        if (!d->busy) {
            d->busy = 1;
            d->runs = d->pages = 0;
            return d;
        }
    return NULL;
}

void eg_drop_reset(void)
{
    for (uint32_t i = 0; i < N_ASIDE; i++)
        aside[i].busy = 0;
}
