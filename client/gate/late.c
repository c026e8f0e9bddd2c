/* late.c - code that comes when the program runs already: of the pages that become executable, those that have a `syscall` are patched. */
#include "client/gate/eg_site.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

struct mapping {
    uint64_t start, end;
    int prot, is_shared;
};

struct maps_reader {
    long fd;
    uint32_t at, n;
    uint8_t buf[1024];
};

static int maps_byte(struct maps_reader *r)
{
    if (r->at == r->n) {
        long n = eg_sys3(SYS_read, r->fd, r->buf, sizeof r->buf);
        if (n <= 0)
            return -1;
        r->at = 0;
        r->n = (uint32_t)n;
    }
    return r->buf[r->at++];
}

/* Returns: the byte behind the number. */
static int maps_hex(struct maps_reader *r, uint64_t *ret)
{
    int c;
    for (*ret = 0; (c = maps_byte(r)) >= 0; *ret = *ret << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10))
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            break;
    return c;
}

/* The mapping at an address, as /proc/thread-self/maps has it. Returns: 0, -ENOENT, -errno. */
static int mapping_find(uint64_t address, struct mapping *ret)
{
    struct maps_reader r = {.fd = eg_sys3(SYS_open, "/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0)};
    int rc = -ENOENT, c = 0;
    if (eg_sys_failed(r.fd))
        return (int)r.fd;
    while (rc && c >= 0) {
        uint64_t start, end;
        if (maps_hex(&r, &start) != '-' || maps_hex(&r, &end) != ' ')
            break;
        int read = maps_byte(&r), write = maps_byte(&r), exec = maps_byte(&r), shared = maps_byte(&r);
        if (address >= start && address < end) {
            *ret = (struct mapping){start, end,
                                    (read == 'r' ? PROT_READ : 0) | (write == 'w' ? PROT_WRITE : 0) | (exec == 'x' ? PROT_EXEC : 0), shared != 'p'};
            rc = 0;
        }
        while ((c = maps_byte(&r)) >= 0 && c != '\n')
            ;
    }
    eg_sys1(SYS_close, r.fd);
    return rc;
}

static int is_readable(uint64_t address)
{
    uint8_t byte;
    return eg_sys_copy_in(&byte, address, 1) == 1;
}

/* A mapping may go on behind its file's end, where nobody may look. Returns: how many bytes may be read. */
static uint64_t readable_bytes(uint64_t start, uint64_t bytes)
{
    if (!eg_sys_failed(eg_sys3(SYS_madvise, start, bytes, MADV_POPULATE_READ)))
        return bytes;
    uint64_t lo = 0, hi = bytes / EG_PAGE; /* pages known to be readable; the first that is not */
    while (lo < hi) {
        uint64_t mid = (lo + hi) / 2;
        if (is_readable(start + mid * EG_PAGE))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo * EG_PAGE;
}

int eg_gate_patch_late(uint64_t start, uint64_t bytes, uint64_t lo, uint64_t hi, const uint64_t *harmless, struct eg_gate_verdict *v)
{
    int n = 0;
    uint64_t at = start + lo, end = start + hi;
    uint64_t there = start + (hi - lo > EG_TEXT_MAX ? bytes : readable_bytes(start, bytes)); /* up to here anybody may look */
    while (at < end) {
        struct mapping m;
        if (at >= there) { /* behind the file's end, or for execution only */
            if (mapping_find(at, &m) || !(m.prot & PROT_READ) || eg_sys_copy_in(&m, at, 1) != -EFAULT)
                eg_verdict_left(v, (uint8_t *)at);
            break;
        }
        uint64_t stop = end < there ? end : there;
        struct eg_work look = {.end = (uint8_t *)stop, .look = eg_look_plain};
        if (stop - at <= EG_TEXT_MAX && !eg_look_syscall(&look, (uint8_t *)at))
            break;
        int rc = mapping_find(at, &m);
        if (rc)
            m = (struct mapping){at, end, 0, 1};
        stop = m.end < stop ? m.end : stop;
        struct eg_gate_text object = {.at = (uint8_t *)at, .bytes = stop - at, .prot = m.prot, .no_write = (uint8_t)m.is_shared, .unknown_tables = 1,
                                      .tables = {{start, start + lo}, {end, there > end ? there : end}}}; /* the rest is data, and may have jump tables */
        rc = eg_gate_patch_all(&object, harmless, NULL, v);
        if (rc < 0 && rc != -EACCES)
            return rc;
        n += rc > 0 ? rc : 0;
        at = stop;
    }
    return n;
}
