#include "proto/eg_sys.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>

#ifndef EG_HOSTED
void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
    void *d = dst;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
    return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
    unsigned char *d = dst;
    const unsigned char *s = src;
    if (d <= s || d >= s + n)
        return memcpy(dst, src, n);
    while (n--)
        d[n] = s[n];
    return dst;
}

void *memset(void *dst, int byte, size_t n)
{
    void *d = dst;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(byte) : "memory");
    return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;
    for (; n--; x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}
#endif

void eg_sys_slice(uint64_t ns)
{
    struct { /* sched_setattr(2) */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } a = {.size = 48, .runtime = ns};
    long turned = eg_sys2(SYS_getpriority, 0, 0); /* 20 - nice */
    a.nice = turned > 0 ? 20 - (int32_t)turned : 0;
    eg_sys3(SYS_sched_setattr, 0, &a, 0);
}

long eg_sys_copy_in(void *to, uint64_t from, size_t bytes)
{
    struct iovec local = {to, bytes}, remote = {(void *)from, bytes};
    return eg_sys6(SYS_process_vm_readv, eg_sys0(SYS_gettid), &local, 1, &remote, 1, 0);
}

uint32_t eg_sys_bits(const uint64_t *words, uint32_t n)
{
    uint32_t set = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint64_t bits = words[i]; bits; bits &= bits - 1)
            set++;
    return set;
}

uint32_t eg_sys_processors(void)
{
    uint64_t mask[16] = {0};
    eg_sys3(SYS_sched_getaffinity, 0, sizeof mask, mask);
    uint32_t n = eg_sys_bits(mask, sizeof mask / sizeof *mask);
    return n ? n : 1;
}

static int (*clock_fn)(int, void *);

void eg_sys_clock_init(int (*vdso_clock_gettime)(int, void *))
{
    clock_fn = vdso_clock_gettime;
}

uint64_t eg_sys_now_ns(void)
{
    struct timespec ts = {0, 0};
    if (!clock_fn || clock_fn(CLOCK_MONOTONIC, &ts) != 0)
        eg_sys2(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* One reservation made at the start: memory taken later from wherever the kernel likes could land in a hole that the program
 * has just made and is about to fill again with MAP_FIXED. */
static struct {
    uint64_t start, at, open, end; /* at: next free byte; [start, open) is accessible */
} arena;

#define ARENA_STEP (1ul << 20)

static void *map_plain(size_t bytes, int prot)
{
    long p = eg_sys6(SYS_mmap, 0, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return eg_sys_failed(p) ? NULL : (void *)p;
}

int eg_sys_reserve(size_t bytes)
{
    void *p = map_plain(bytes, PROT_NONE);
    if (!p)
        return -1;
    /* A huge page under sparse tables would be resident for a few bytes. */
    eg_sys3(SYS_madvise, p, bytes, MADV_NOHUGEPAGE);
    eg_sys3(SYS_madvise, p, bytes, MADV_DONTDUMP); /* gdb's gcore writes what is not accessible, too */
    arena.start = arena.at = arena.open = (uint64_t)p;
    arena.end = arena.at + bytes;
    return 0;
}

void eg_sys_reserved(uint64_t *ret_start, uint64_t *ret_end)
{
    *ret_start = arena.start;
    *ret_end = arena.end;
}

static void *arena_take(size_t bytes)
{
    uint64_t size = (bytes + 63) & ~63ul, at = arena.at;
    if (bytes >= 4096)
        at = (at + 4095) & ~4095ul;
    if (at + size > arena.end)
        return map_plain(bytes, PROT_READ | PROT_WRITE);
    uint64_t open = (at + size + ARENA_STEP - 1) & ~(ARENA_STEP - 1);
    if (open > arena.end)
        open = arena.end;
    if (open > arena.open) {
        if (eg_sys_failed(eg_sys3(SYS_mprotect, arena.open, open - arena.open, PROT_READ | PROT_WRITE)))
            return NULL;
        eg_sys3(SYS_madvise, arena.open, open - arena.open, MADV_DODUMP); /* stacks among it: a backtrace goes through them */
        arena.open = open;
    }
    arena.at = at + size;
    return (void *)at;
}

void *eg_sys_map(size_t bytes)
{
    static uint8_t lock; /* held for a few instructions, by threads with signals blocked */
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        eg_sys0(SYS_sched_yield);
    void *p = arena_take(bytes);
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    return p;
}

int eg_sys_discard(uint64_t addr, size_t bytes)
{
    long rc = eg_sys3(SYS_madvise, addr, bytes, MADV_DONTNEED);
    if (rc == -EINVAL)
        rc = eg_sys3(SYS_madvise, addr, bytes, MADV_DONTNEED_LOCKED);
    if (rc == -EINVAL && !eg_sys2(SYS_munlock, addr, bytes)) /* that is newer */
        rc = eg_sys3(SYS_madvise, addr, bytes, MADV_DONTNEED);
    return (int)rc;
}

void eg_sys_unmap(void *p, size_t bytes)
{
    /* The addresses stay the runtime's; only the pages go back. */
    eg_sys_discard((uint64_t)p, bytes & ~4095ul);
}

size_t eg_strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

size_t eg_str_put(char *buf, size_t cap, size_t len, const char *s)
{
    while (*s && len + 1 < cap)
        buf[len++] = *s++;
    buf[len] = 0;
    return len;
}

size_t eg_str_put_u64(char *buf, size_t cap, size_t len, uint64_t v)
{
    char tmp[24];
    size_t n = sizeof tmp;
    tmp[--n] = 0;
    do
        tmp[--n] = (char)('0' + v % 10);
    while (v /= 10);
    return eg_str_put(buf, cap, len, tmp + n);
}

const char *eg_str_u64(const char *s, uint64_t *ret_value)
{
    for (*ret_value = 0; *s >= '0' && *s <= '9'; s++)
        *ret_value = *ret_value * 10 + (uint64_t)(*s - '0');
    return s;
}

void eg_sys_numbers(long fd, void (*each)(void *arg, uint64_t number), void *arg)
{
    const struct {
        uint64_t ino, off;
        uint16_t bytes;
        uint8_t type;
        char name[];
    } *d; /* struct linux_dirent64 */
    uint64_t buf[256], number;
    long got;
    while ((got = eg_sys3(SYS_getdents64, fd, buf, sizeof buf)) > 0)
        for (long at = 0; at < got; at += d->bytes) {
            d = (const void *)((const char *)buf + at);
            if (eg_str_u64(d->name, &number) != d->name)
                each(arg, number);
        }
    eg_sys1(SYS_close, fd);
}

const char *eg_str_hex(const char *s, uint64_t *ret_value)
{
    uint64_t v = 0;
    for (;; s++) {
        if (*s >= '0' && *s <= '9')
            v = v << 4 | (uint64_t)(*s - '0');
        else if (*s >= 'a' && *s <= 'f')
            v = v << 4 | (uint64_t)(*s - 'a' + 10);
        else
            break;
    }
    *ret_value = v;
    return s;
}
