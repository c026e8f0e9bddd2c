/* memory.c - the program's address space: what may go away, and the memory calls, which are home's alone to make. */
#include "client/threads/eg_home.h"

#include "client/pager/eg_capture.h"
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifndef FUTEX_LOCK_PI2 /* 5.14 */
#define FUTEX_LOCK_PI2 13
#endif

#define CONVERT_MAX_BYTES (256ul << 20)
#define FUTEX_TRIES 1000
#define FUTEX_TRIES_LEAVING 16

/* --- which mapping ------------------------------------------------------------------------------------------------------------ */

/* struct procmap_query of Linux 6.11 (include/uapi/linux/fs.h); Debian 12's headers lack it. */
struct map_query {
    uint64_t size, flags, addr, start, end, vma_flags, page_bytes, offset, inode;
    uint32_t dev_major, dev_minor, name_bytes, build_id_bytes;
    uint64_t name, build_id;
};
#define MAP_QUERY_OR_NEXT 0x10u
#define MAP_QUERY 0xc0686611ul /* _IOWR('f', 17, struct procmap_query) */
_Static_assert(sizeof(struct map_query) == 104, "the kernel's layout");

/* Calls fn with each line of /proc/self/maps until it returns 1. */
static int maps_each(int (*fn)(const struct eg_area *area, const char *name, void *arg), void *arg)
{
    char buf[4096];
    size_t have = 0;
    long fd = eg_fd_new(SYS_openat, -100, (long)"/proc/thread-self/maps", 02000000, 0), n = 1;
    if (eg_sys_failed(fd))
        return 0;
    int stop = 0;
    while (!stop && (n > 0 || have)) {
        n = eg_sys3(SYS_read, fd, buf + have, sizeof buf - 1 - have);
        if (n > 0)
            have += (size_t)n;
        buf[have] = 0;
        size_t at = 0, end;
        for (; !stop; at = end + 1) {
            for (end = at; end < have && buf[end] != '\n'; end++)
                ;
            if (end == have)
                break;
            buf[end] = 0;
            struct eg_area a;
            uint64_t skip;
            const char *p = eg_str_hex(buf + at, &a.start);
            p = eg_str_hex(p + 1, &a.end);
            a.readable = p[1] == 'r';
            a.writable = p[2] == 'w';
            a.shared = p[4] == 's';
            p = eg_str_hex(p + 6, &skip); /* offset */
            while (*++p != ' ')
                ; /* device */
            a.file = p[1] != '0' || p[2] != ' ';
            while (*++p && *p != ' ')
                ;
            while (*p == ' ')
                p++;
            stop = fn(&a, p, arg);
        }
        memmove(buf, buf + at, have - at);
        have -= at;
        if (n <= 0)
            break;
    }
    eg_sys1(SYS_close, fd);
    return stop;
}

struct find {
    uint64_t addr;
    int or_next;
    struct eg_area area;
};

static int find_line(const struct eg_area *area, const char *name, void *arg)
{
    struct find *f = arg;
    (void)name;
    if (f->addr >= area->end || (f->addr < area->start && !f->or_next))
        return 0;
    f->area = *area;
    return 1;
}

static int area(uint64_t addr, int or_next, struct eg_area *ret_area)
{
    static uint8_t no_query;
    if (!no_query) {
        struct map_query q = {.size = sizeof q, .flags = or_next ? MAP_QUERY_OR_NEXT : 0, .addr = addr};
        long rc = eg_sys3(SYS_ioctl, eg_home.maps_fd, MAP_QUERY, &q);
        if (rc == -ENOENT)
            return -ENOENT;
        if (rc == 0) {
            *ret_area = (struct eg_area){.start = q.start, .end = q.end, .readable = q.vma_flags & 1,
                                         .writable = (q.vma_flags & 2) != 0, .shared = (q.vma_flags & 8) != 0, .file = q.inode != 0};
            return 0;
        }
        no_query = 1;
    }
    struct find f = {.addr = addr, .or_next = or_next};
    if (!maps_each(find_line, &f))
        return -ENOENT;
    *ret_area = f.area;
    return 0;
}

int eg_area_find(uint64_t addr, struct eg_area *ret_area)
{
    return area(addr, 0, ret_area);
}

int eg_area_next(uint64_t addr, struct eg_area *ret_area)
{
    return area(addr, 1, ret_area);
}

static int is_name(const char *name, const char *want)
{
    size_t n = eg_strlen(want);
    return memcmp(name, want, n) == 0;
}

static int vdso_line(const struct eg_area *area, const char *name, void *arg)
{
    (void)arg;
    if (is_name(name, "[vvar") && !eg_home.vvar)
        eg_home.vvar = area->start; /* vvar_vclock follows it */
    if (!is_name(name, "[vdso]"))
        return 0;
    eg_home.vdso = area->start;
    eg_home.vdso_end = area->end;
    return 1;
}

void eg_home_vdso_find(void)
{
    if (!maps_each(vdso_line, NULL))
        eg_home.vvar = 0;
}

void eg_home_private_add(uint64_t start, uint64_t end)
{
    uint32_t most = sizeof eg_home.private_lo / sizeof *eg_home.private_lo;
    if (start == end)
        return;
    if (eg_home.n_private == most)
        eg_die("internal error: too many pieces of the runtime's own memory", NULL, 0);
    eg_home.private_lo[eg_home.n_private] = start;
    eg_home.private_hi[eg_home.n_private++] = end;
}

int eg_home_is_private(uint64_t addr)
{
    for (uint32_t i = 0; i < eg_home.n_private; i++)
        if (addr >= eg_home.private_lo[i] && addr < eg_home.private_hi[i])
            return 1;
    return addr < EG_USER_START || addr >= EG_USER_END || (addr >= EG_WORKER_START && addr < EG_WORKER_END) ||
           (addr >= eg_home.vvar && addr < eg_home.vdso_end);
}

/* --- conversion ---------------------------------------------------------------------------------------------------------------- */

/* Private memory of a file cannot be registered with userfaultfd: a copy takes its place. What lies past the file's end stays as it is. */
static void convert(uint64_t start, uint64_t end, int prot)
{
    uint64_t bytes = end - start, done = 0;
    long to = eg_sys6(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (eg_sys_failed(to))
        return;
    long tid = eg_sys0(SYS_gettid);
    while (done < bytes) {
        struct iovec local = {(void *)(to + (long)done), bytes - done}, remote = {(void *)(start + done), bytes - done};
        long n = eg_sys6(SYS_process_vm_readv, tid, &local, 1, &remote, 1, 0);
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    done &= ~(uint64_t)(EG_PAGE_BYTES - 1);
    if (prot != (PROT_READ | PROT_WRITE))
        eg_sys3(SYS_mprotect, to, bytes, prot);
    if (!done || eg_sys_failed(eg_sys5(SYS_mremap, to, done, done, MREMAP_MAYMOVE | MREMAP_FIXED, start)))
        done = 0;
    if (done < bytes)
        eg_sys2(SYS_munmap, to + (long)done, bytes - done);
}

struct convert_list {
    uint64_t start[256], end[256];
    uint32_t n;
};

static int convert_note(const struct eg_area *area, const char *name, void *arg)
{
    struct convert_list *list = arg;
    (void)name;
    if (area->file && area->writable && area->readable && !area->shared && !eg_home_is_private(area->start) &&
        area->end - area->start <= CONVERT_MAX_BYTES && list->n < 256) {
        list->start[list->n] = area->start;
        list->end[list->n++] = area->end;
    }
    return 0;
}

void eg_home_convert_all(void)
{
    struct convert_list list;
    list.n = 0;
    maps_each(convert_note, &list);
    for (uint32_t i = 0; i < list.n; i++)
        convert(list.start[i], list.end[i], PROT_READ | PROT_WRITE);
}

/* --- memory calls -------------------------------------------------------------------------------------------------------------- */

/* The agent does it, and says so. */
static void request(uint32_t what, uint32_t done)
{
    uint32_t seen;
    __atomic_store_n(&eg_home.request, what, __ATOMIC_SEQ_CST);
    eg_home_wake();
    for (uint32_t turn = 0; (seen = __atomic_load_n(&eg_home.request, __ATOMIC_SEQ_CST)) != done; turn++) {
        if (turn < 100)
            eg_sys0(SYS_sched_yield);
        else
            eg_sys4(SYS_futex, &eg_home.request, FUTEX_WAIT_PRIVATE, seen, 0);
    }
}

/* Everything of the range comes home. */
static void freeze(void)
{
    request(EG_REQ_FREEZE, EG_REQ_FROZEN);
}

/* No worker gets anything of [lo, hi) until the thaw. discards: nor do home's threads, of what is away. Context: memory_lock held. */
static void hold(uint64_t lo, uint64_t hi, int discards)
{
    eg_home.discards = (uint8_t)discards;
    eg_home.freeze_lo = lo & ~(uint64_t)(EG_PAGE_BYTES - 1);
    eg_home.freeze_hi = eg_page_up(hi);
    __atomic_store_n(&eg_home.request, EG_REQ_HELD, __ATOMIC_SEQ_CST);
    /* The agent's present turn may have begun before that. When it sleeps, it will look. */
    uint32_t turn = __atomic_load_n(&eg_rt.turns, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&eg_rt.turns, __ATOMIC_SEQ_CST) == turn && !__atomic_load_n(&eg_home.agent_asleep, __ATOMIC_SEQ_CST))
        eg_sys0(SYS_sched_yield);
}

static void thaw(void)
{
    __atomic_store_n(&eg_home.request, EG_REQ_NONE, __ATOMIC_SEQ_CST); /* pairs with the agent's look before it sleeps */
    if (__atomic_load_n(&eg_home.n_frozen, __ATOMIC_SEQ_CST))
        eg_home_wake();
}

static long raw(long nr, const long a[6])
{
    return eg_syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* The range that a call changes. Returns: 0 (none that anybody could have). */
static int affected(long nr, const long a[6], uint64_t *lo, uint64_t *hi)
{
    *lo = (uint64_t)a[0];
    *hi = *lo + (uint64_t)a[1];
    switch (nr) {
    case SYS_mmap: return (a[3] & MAP_FIXED) != 0 && *hi > *lo;
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_pkey_mprotect: return *hi > *lo;
    case SYS_mremap:
        if (a[3] & MREMAP_FIXED) {
            /* Two ranges: the hull, when they lie apart, is more than needed, never less. */
            uint64_t to = (uint64_t)a[4], to_end = to + (uint64_t)a[2];
            *lo = to < *lo ? to : *lo;
            *hi = to_end > *hi ? to_end : *hi;
        }
        return *hi > *lo;
    case SYS_madvise: {
        enum eg_advice advice;
        uint32_t server;
        return *hi > *lo && !eg_advice_is(a[2], &advice, &server) && a[2] != MADV_HUGEPAGE && a[2] != MADV_DONTDUMP && a[2] != MADV_DODUMP;
    }
    case SYS_brk:
        *lo = eg_page_up((uint64_t)a[0]); /* a part of a page stays whole */
        *hi = eg_rt.heap_end;
        return a[0] && *lo < *hi;
    default: return 0;
    }
}

/* Does nothing stay of what was in the range, if the call succeeds? The pager wants its pages back. */
static int discards(long nr, const long a[6])
{
    return !eg_home.far && (nr == SYS_munmap || nr == SYS_mmap || nr == SYS_brk || (nr == SYS_madvise && a[2] == MADV_DONTNEED));
}

/* A call that discards what nodes have: its content need not come home, but only when the call is made is it known that nothing of it is left. */
static long discard(long nr, const long a[6])
{
    request(EG_REQ_SETTLE, EG_REQ_SETTLED);
    long ret = raw(nr, a);
    if (nr == SYS_brk ? ret == a[0] : !eg_sys_failed(ret)) {
        request(EG_REQ_DROP, EG_REQ_FROZEN);
        return ret;
    }
    freeze(); /* some of it may stay */
    return raw(nr, a);
}

/* Guard pages (6.13) look like memory that is here, which the agent could read: libc falls back to mprotect. Merging drops the write-protection of
 * pages that nodes have, too: a hint, not taken. */
static int advice_is_declined(const long a[6], long *ret)
{
    *ret = a[2] == MADV_MERGEABLE ? 0 : -EINVAL;
    return a[2] == MADV_MERGEABLE || a[2] == MADV_GUARD_INSTALL || a[2] == MADV_GUARD_REMOVE;
}

long eg_home_memory(long nr, const long arg[6])
{
    long a[6], declined;
    uint64_t lo = 0, hi = 0;
    if (nr == SYS_madvise && advice_is_declined(arg, &declined))
        return declined;
    memcpy(a, arg, sizeof a);
    eg_lock_take(&eg_home.memory_lock);
    int frozen = affected(nr, a, &lo, &hi) && eg_home.active && lo < EG_USER_END, dropped = 0;
    if (frozen) {
        hold(lo, hi, discards(nr, a));
        int away = !eg_home_untouched(eg_home.freeze_lo, eg_home.freeze_hi);
        /* The agent may have slept when the range was held, and be at work now: what it has just been sent is home's by then, but not there yet. */
        while (__atomic_load_n(&eg_home.storing, __ATOMIC_SEQ_CST))
            eg_sys0(SYS_sched_yield);
        dropped = away && eg_home.discards;
        if (away && !dropped)
            freeze();
    }
    long ret = dropped ? discard(nr, a) : !eg_home.far && frozen && nr == SYS_mremap ? eg_cap_remap_home(a) : !eg_home.far ? raw(nr, a) : eg_rt.hinted ? eg_hints_memory(nr, a, 0) : eg_cap_memory(nr, a);
    if (nr == SYS_brk)
        eg_rt.heap_end = (uint64_t)ret;
    /* A library that is loaded later: its data, too. The loader alone says MAP_DENYWRITE (no effect for 20 years); other private mappings of
     * files stay as they are (MADV_DONTNEED brings the file's content back), and who touches them does so at home. */
    if (nr == SYS_mmap && !eg_sys_failed(ret) && (a[3] & (MAP_TYPE | MAP_ANONYMOUS | MAP_DENYWRITE)) == (MAP_PRIVATE | MAP_DENYWRITE) &&
        (a[2] & (PROT_READ | PROT_WRITE)) == (PROT_READ | PROT_WRITE) && (uint64_t)a[1] <= CONVERT_MAX_BYTES)
        convert((uint64_t)ret, (uint64_t)ret + eg_page_up((uint64_t)a[1]), (int)a[2]);
    if (frozen) {
        eg_home_changed(eg_home.freeze_lo, eg_home.freeze_hi);
        thaw();
    }
    eg_lock_give(&eg_home.memory_lock);
    return ret;
}

int eg_home_futex_writes(long op)
{
    switch (op & 0x7f) {
    case FUTEX_LOCK_PI: case FUTEX_LOCK_PI2: case FUTEX_UNLOCK_PI: case FUTEX_TRYLOCK_PI: case FUTEX_WAIT_REQUEUE_PI: case FUTEX_CMP_REQUEUE_PI:
    case FUTEX_WAKE_OP: return 1;
    default: return 0;
    }
}

/* The kernel gives a mutex with priority inheritance to who waits for it when its owner has ended, and writes the word then. It gives up if the word's page is
 * away, and keeps to what it decided: the word gets its owner here. Returns: the call's result. */
static long futex_owned(long ret, const long a[6])
{
    int op = a[1] & 0x7f;
    if ((ret && ret != -EDEADLK) || (op != FUTEX_LOCK_PI && op != FUTEX_LOCK_PI2))
        return ret;
    uint32_t *word = (uint32_t *)a[0], seen = __atomic_load_n(word, __ATOMIC_SEQ_CST), tid = (uint32_t)eg_sys0(SYS_gettid);
    while (!(seen & FUTEX_TID_MASK))
        if (__atomic_compare_exchange_n(word, &seen, seen | tid, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return 0;
    return ret;
}

int eg_home_futex_again(int64_t *ret, const long a[6], int *tries)
{
    int op = a[1] & 0x7f, two = op == FUTEX_WAKE_OP || op == FUTEX_WAIT_REQUEUE_PI || op == FUTEX_CMP_REQUEUE_PI;
    int most = *ret == -EFAULT ? FUTEX_TRIES : *ret == -EINVAL ? FUTEX_TRIES_LEAVING : 0;
    uint64_t word[2] = {(uint64_t)a[0], (uint64_t)a[4]};
    if (!eg_home_futex_writes(a[1]))
        return 0;
    if (*tries >= most) {
        *ret = *tries ? futex_owned(*ret, a) : *ret;
        return 0;
    }
    ++*tries;
    for (int i = 0; i < 1 + two; i++)
        if (*ret == -EINVAL) /* whether one left or another thread has just done the same: again */
            eg_sleep_leave(word[i]);
        else if (eg_sys3(SYS_madvise, word[i] & ~(uint64_t)(EG_PAGE_BYTES - 1), EG_PAGE_BYTES, MADV_POPULATE_WRITE))
            return 0;
    return 1;
}

long eg_home_futex(const long a[6])
{
    int64_t ret;
    int tries = 0;
    do
        ret = eg_sys6(SYS_futex, a[0], a[1], a[2], a[3], a[4], a[5]);
    while (eg_home_futex_again(&ret, a, &tries));
    return ret;
}

void eg_home_gather(void)
{
    eg_lock_take(&eg_home.memory_lock);
    hold(0, EG_USER_END, 0);
    freeze();
    thaw();
    eg_lock_give(&eg_home.memory_lock);
}

long eg_home_fork(long nr, const long arg[6])
{
    eg_home_come();
    eg_lock_take(&eg_home.start_lock);
    eg_lock_take(&eg_home.memory_lock);
    int active = eg_home.active;
    if (active) {
        hold(0, EG_USER_END, 0);
        freeze();
    }
    long ret = eg_home.far ? eg_cap_fork(nr, arg) : raw(nr, arg);
    if (ret == 0) {
        eg_home_child();
        return 0;
    }
    if (active)
        thaw();
    eg_lock_give(&eg_home.memory_lock);
    eg_lock_give(&eg_home.start_lock);
    return ret;
}
