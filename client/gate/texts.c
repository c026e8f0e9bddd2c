/* texts.c - see eg_texts.h. The pool file belongs to the run's user, as its processes do: what stands in it is believed, and looked at once more before
 * anything is patched (patch_all.c). */
#include "client/gate/eg_texts.h"
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

struct entry {
    uint8_t id[EG_GATE_ID_BYTES];
    uint32_t where;
    uint64_t text_bytes;
    uint32_t n;
    uint32_t ready; /* last: the rest can be read */
    struct eg_text_site site[];
};

static struct entry *entry_at(uint32_t at)
{
    return (struct entry *)(void *)((uint8_t *)eg_rt.pool + EG_POOL_TEXTS_OFFSET + at);
}

static uint32_t entry_bytes(uint32_t n)
{
    return (uint32_t)((sizeof(struct entry) + n * sizeof(struct eg_text_site) + 7) & ~7ul);
}

static int is_named(const struct eg_gate_text *text)
{
    static const uint8_t nothing[EG_GATE_ID_BYTES];
    return eg_rt.pool && memcmp(text->id, nothing, sizeof nothing) != 0;
}

int eg_texts_find(const struct eg_gate_text *text, const struct eg_text_site **ret_sites, uint32_t *ret_n)
{
    if (!is_named(text))
        return 0;
    uint32_t used = __atomic_load_n(&eg_rt.pool->texts_used, __ATOMIC_RELAXED);
    used = used < EG_POOL_TEXTS_BYTES ? used : EG_POOL_TEXTS_BYTES;
    for (uint32_t at = 0; at + sizeof(struct entry) <= used;) {
        struct entry *e = entry_at(at);
        /* Pairs with eg_texts_keep. One that is not ready hides those behind it: then they are found out again. */
        if (!__atomic_load_n(&e->ready, __ATOMIC_ACQUIRE) || e->n > (EG_POOL_TEXTS_BYTES - at - sizeof *e) / sizeof *e->site)
            return 0;
        if (e->where == text->where && e->text_bytes == text->bytes && memcmp(e->id, text->id, sizeof e->id) == 0) {
            *ret_sites = e->site;
            *ret_n = e->n;
            return 1;
        }
        at += entry_bytes(e->n);
    }
    return 0;
}

struct eg_text_site *eg_texts_room(const struct eg_gate_text *text, uint32_t n)
{
    if (!is_named(text) || n > EG_POOL_TEXTS_BYTES / sizeof(struct eg_text_site))
        return NULL;
    uint32_t bytes = entry_bytes(n), at = __atomic_load_n(&eg_rt.pool->texts_used, __ATOMIC_RELAXED);
    do
        if (at > EG_POOL_TEXTS_BYTES || bytes > EG_POOL_TEXTS_BYTES - at)
            return NULL;
    while (!__atomic_compare_exchange_n(&eg_rt.pool->texts_used, &at, at + bytes, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    struct entry *e = entry_at(at);
    memcpy(e->id, text->id, sizeof e->id);
    e->where = text->where;
    e->text_bytes = text->bytes;
    e->n = n;
    return e->site;
}

void eg_texts_keep(struct eg_text_site *sites)
{
    struct entry *e = (struct entry *)(void *)((uint8_t *)sites - offsetof(struct entry, site));
    __atomic_store_n(&e->ready, 1, __ATOMIC_RELEASE); /* pairs with eg_texts_find */
}

uint32_t eg_text_site_sum(const uint8_t *at, uint8_t before, uint8_t after)
{
    uint32_t sum = 0;
    for (const uint8_t *p = at - before, *end = at + (after > 2 ? after : 2); p < end; p++)
        sum = (sum ^ *p) * 16777619u;
    return sum;
}

static int write_all(long fd, const void *from, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        long n = eg_sys3(SYS_write, fd, (const uint8_t *)from + at, bytes - at);
        if (n <= 0 && n != -EINTR)
            return -1;
        at += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}

void eg_texts_save(const char *own)
{
    struct eg_pool *pool = eg_rt.pool;
    struct eg_texts_head head = pool->texts;
    struct rlimit most = {0, 0};
    uint32_t used = __atomic_load_n(&pool->texts_used, __ATOMIC_RELAXED);
    uint64_t pid;
    char path[EG_TEXTS_PATH_BYTES];
    const void *entries = entry_at(0);
    own = eg_str_u64(own, &pid);
    if (*own++ != ':' || pid != eg_rt.pid || used == head.bytes || used > EG_TEXTS_MOST_BYTES)
        return;
    /* A write beyond that would be a signal. */
    if (eg_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, &most) || most.rlim_cur < sizeof head + used)
        return;
    size_t n = eg_str_put(path, sizeof path, 0, own);
    n = eg_str_put(path, sizeof path, n, ".");
    eg_str_put_u64(path, sizeof path, n, pid);
    eg_sys1(SYS_unlink, path); /* somebody with this number was killed */
    long fd = eg_sys4(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (eg_sys_failed(fd))
        return;
    head.bytes = used;
    head.sum = eg_texts_sum(entries, used);
    int rc = write_all(fd, &head, sizeof head) || write_all(fd, entries, used);
    eg_sys1(SYS_close, fd);
    if (rc || eg_sys_failed(eg_sys2(SYS_rename, path, own)))
        eg_sys1(SYS_unlink, path);
}
