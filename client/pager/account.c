/* account.c - the budget is one for the whole process tree: each process publishes what it holds in the shared pool file,
 * and a process that is below its share asks the large ones to give way. */
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SMALL_PAGES 256           /* a process below this is never asked to give way */
#define INLINE_MARGIN_MIN 64u     /* pages */
#define POKE_INTERVAL_NS 1000000u
#define REAP_INTERVAL_NS 1000000u

void eg_account_budget(void)
{
    uint64_t pages = eg_rt.pool->budget_bytes / EG_PAGE_BYTES, margin = pages / 16;
    /* What is kept free is not used. Who serves inline evicts as he goes; a thread that serves needs room to go on while it does. */
    if (eg_rt.active && eg_rt.inlined && margin > INLINE_MARGIN_MIN)
        margin = pages / 64 > INLINE_MARGIN_MIN ? pages / 64 : INLINE_MARGIN_MIN;
    eg_rt.budget = pages;
    eg_rt.high = pages - margin;
    eg_rt.low = eg_rt.high - margin / 2;
}

static void raise_to(uint64_t *peak, uint64_t v)
{
    uint64_t old = __atomic_load_n(peak, __ATOMIC_RELAXED);
    while (v > old && !__atomic_compare_exchange_n(peak, &old, v, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

static void publish(int64_t now, int64_t *published, uint64_t *sum, uint64_t *peak, uint64_t unit)
{
    int64_t d = now - *published;
    if (!d)
        return;
    *published = now;
    uint64_t total = __atomic_add_fetch(sum, (uint64_t)(d * (int64_t)unit), __ATOMIC_RELAXED);
    if (d > 0 && (int64_t)total > 0)
        raise_to(peak, total);
}

void eg_account_sync(void)
{
    struct eg_rt *rt = &eg_rt;
    if (rt->row == &rt->own_row)
        return; /* nobody could take it out of the sums again when this process dies */
    publish(rt->charged, &rt->charged_published, &rt->pool->charged_pages, &rt->pool->charged_pages_peak, 1);
    publish(rt->captured, &rt->captured_published, &rt->pool->captured_bytes, &rt->pool->captured_bytes_peak, EG_PAGE_BYTES);
    uint64_t charged = rt->charged > 0 ? (uint64_t)rt->charged : 0;
    uint64_t captured = rt->captured > 0 ? (uint64_t)rt->captured * EG_PAGE_BYTES : 0;
    __atomic_store_n(&rt->row->charged_pages, charged, __ATOMIC_RELAXED);
    rt->row->captured_bytes = captured;
    if (captured > rt->row->captured_bytes_peak)
        rt->row->captured_bytes_peak = captured;
    if (charged * EG_PAGE_BYTES > rt->row->resident_bytes_peak)
        rt->row->resident_bytes_peak = charged * EG_PAGE_BYTES;
}

uint64_t eg_account_total(void)
{
    int64_t v = (int64_t)__atomic_load_n(&eg_rt.pool->charged_pages, __ATOMIC_RELAXED);
    v += eg_rt.charged - eg_rt.charged_published;
    return v > 0 ? (uint64_t)v : 0;
}

static struct eg_pool_row *row_at(uint32_t i)
{
    return (struct eg_pool_row *)((char *)eg_rt.pool + eg_rt.pool->rows_offset) + i;
}

static long row_lock(long cmd, uint32_t i, struct flock *ret)
{
    *ret = (struct flock){
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = (long)(eg_rt.pool->rows_offset + i * sizeof(struct eg_pool_row)),
        .l_len = 1,
    };
    return eg_sys3(SYS_fcntl, eg_rt.pool_fd, cmd, ret);
}

static uint32_t rows_used(void)
{
    uint32_t n = __atomic_load_n(&eg_rt.pool->rows_used, __ATOMIC_RELAXED);
    return n < eg_rt.pool->n_rows ? n : eg_rt.pool->n_rows;
}

/* The sums of a process that is gone leave the account; whoever clears the row's charge subtracts it. */
static void row_bury(struct eg_pool_row *r)
{
    uint64_t pages = __atomic_exchange_n(&r->charged_pages, 0, __ATOMIC_RELAXED);
    uint64_t bytes = __atomic_exchange_n(&r->captured_bytes, 0, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&eg_rt.pool->charged_pages, pages, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&eg_rt.pool->captured_bytes, bytes, __ATOMIC_RELAXED);
}

void eg_account_bury(void)
{
    struct flock f;
    for (uint32_t i = 0; i < rows_used(); i++) {
        struct eg_pool_row *r = row_at(i);
        if (r == eg_rt.row || !__atomic_load_n(&r->charged_pages, __ATOMIC_RELAXED))
            continue;
        if (row_lock(F_OFD_GETLK, i, &f) == 0 && f.l_type == F_UNLCK)
            row_bury(r);
    }
}

static void row_fill(struct eg_pool_row *r)
{
    char stat[48];
    r->pid = eg_rt.pid;
    r->ppid = (uint32_t)eg_sys0(SYS_getppid);
    r->start_ns = eg_sys_now_ns();
    eg_str_put(r->transport, sizeof r->transport, 0, "none");
    eg_str_put(r->engine, sizeof r->engine, 0, "none");
    long fd = eg_fd_new(SYS_openat, AT_FDCWD, (long)"/proc/self/comm", O_RDONLY | O_CLOEXEC, 0);
    if (!eg_sys_failed(fd)) {
        long n = eg_sys3(SYS_read, fd, stat, sizeof stat - 1);
        eg_sys1(SYS_close, fd);
        if (n > 0) {
            stat[n - (stat[n - 1] == '\n')] = 0;
            eg_str_put(r->program, sizeof r->program, 0, stat);
        }
    }
}

/* A row whose process is gone, its counters added to row 0. Returns: NULL when all 1023 processes live. */
static struct eg_pool_row *row_reuse(void)
{
    struct flock f;
    uint32_t n = rows_used(), from = eg_rt.pid % n;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = (from + k) % n;
        if (i == 0 || row_lock(F_OFD_SETLK, i, &f) != 0)
            continue;
        struct eg_pool_row *r = row_at(i), *ended = row_at(0);
        row_bury(r);
#define X(name, text) __atomic_add_fetch(&ended->name, r->name, __ATOMIC_RELAXED);
        EG_COUNTERS(X)
#undef X
        for (uint32_t b = 0; b < EG_HIST_BUCKETS; b++)
            __atomic_add_fetch(&ended->fault_hist[b], r->fault_hist[b], __ATOMIC_RELAXED);
        *r = (struct eg_pool_row){0};
        return r;
    }
    return NULL;
}

/* The file may have no memory there yet, and its file system none to give: that must be known before anybody looks at the row. */
static int row_has_room(uint32_t i)
{
    uint64_t at = eg_rt.pool->rows_offset + (i + 1ull) * sizeof(struct eg_pool_row) - 1;
    return i < EG_POOL_ROWS_READY || eg_sys4(SYS_pwrite64, eg_rt.pool_fd, "", 1, at) == 1;
}

/* A row that nobody has used yet, now the caller's. Returns: n_rows: there is none any more. */
static uint32_t row_next(void)
{
    uint32_t used = __atomic_load_n(&eg_rt.pool->rows_used, __ATOMIC_RELAXED), i;
    do {
        i = used ? used : 1; /* row 0 is the sum of those whose rows were used again */
        if (i >= eg_rt.pool->n_rows || !row_has_room(i))
            return eg_rt.pool->n_rows;
    } while (!__atomic_compare_exchange_n(&eg_rt.pool->rows_used, &used, i + 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return i;
}

void eg_account_row_claim(void)
{
    struct flock f;
    eg_rt.pid = (uint32_t)eg_sys0(SYS_getpid);
    eg_rt.charged_published = eg_rt.captured_published = 0;
    eg_account_bury();
    uint32_t i = row_next();
    eg_rt.row = NULL;
    if (i < eg_rt.pool->n_rows) {
        if (row_lock(F_OFD_SETLK, i, &f) == 0)
            eg_rt.row = row_at(i);
    } else {
        eg_rt.row = row_reuse();
    }
    if (!eg_rt.row) {
        __atomic_add_fetch(&eg_rt.pool->rows_lost, 1, __ATOMIC_RELAXED);
        eg_rt.own_row = (struct eg_pool_row){0};
        eg_rt.row = &eg_rt.own_row;
    }
    row_fill(eg_rt.row);
}

/* Every process with a pager listens on an abstract datagram socket named after its row. */
static uint32_t poke_name(struct sockaddr_un *sa, uint32_t row)
{
    static const char hex[] = "0123456789abcdef";
    size_t n = 1;
    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    n = eg_str_put(sa->sun_path, sizeof sa->sun_path, n, "endgame-");
    for (int i = 0; i < EG_TOKEN_BYTES; i++) {
        sa->sun_path[n++] = hex[eg_rt.pool->token[i] >> 4];
        sa->sun_path[n++] = hex[eg_rt.pool->token[i] & 15];
    }
    sa->sun_path[n++] = '-';
    n = eg_str_put_u64(sa->sun_path, sizeof sa->sun_path, n, row);
    return (uint32_t)(offsetof(struct sockaddr_un, sun_path) + n);
}

int eg_account_listen(void)
{
    struct sockaddr_un sa;
    long fd = eg_fd_new(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0);
    if (eg_sys_failed(fd))
        return (int)fd;
    eg_rt.wake_fd = eg_fd_high((int)fd);
    if (eg_rt.row != &eg_rt.own_row) {
        uint32_t len = poke_name(&sa, (uint32_t)(eg_rt.row - row_at(0)));
        if (!eg_sys_failed(eg_sys3(SYS_bind, eg_rt.wake_fd, &sa, len)))
            return 0;
    }
    /* Without that name nobody can ask this process; it must still be able to wake its own pager: any name. */
    sa.sun_family = AF_UNIX;
    long rc = eg_sys3(SYS_bind, eg_rt.wake_fd, &sa, sizeof sa.sun_family);
    return rc < 0 ? (int)rc : 0;
}

struct eg_pool_row *eg_account_row_of(uint32_t pid)
{
    struct eg_pool_row *found = NULL;
    for (uint32_t i = 1; pid && i < rows_used(); i++)
        if (row_at(i)->pid == pid && (!found || row_at(i)->start_ns > found->start_ns)) /* numbers are used again */
            found = row_at(i);
    return found;
}

void eg_account_poke(const struct eg_pool_row *row)
{
    struct sockaddr_un sa;
    uint32_t len = poke_name(&sa, (uint32_t)(row - row_at(0)));
    long fd = eg_fd_new(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0); /* this process may not have one yet */
    if (eg_sys_failed(fd))
        return;
    eg_sys6(SYS_sendto, fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, &sa, len);
    eg_sys1(SYS_close, fd);
}

uint64_t eg_account_ask_others(uint64_t n)
{
    /* This process counts, however small: one that has just been forked could not grow else. */
    uint64_t now = eg_sys_now_ns(), total = eg_rt.charged > 0 ? (uint64_t)eg_rt.charged : 0, asked = 0;
    uint32_t used = rows_used(), live = 1;
    if (used <= 2)
        return 0;
    if (now - eg_rt.last_reap_ns > REAP_INTERVAL_NS) {
        eg_rt.last_reap_ns = now;
        eg_account_bury();
    }
    for (uint32_t i = 0; i < used; i++) {
        uint64_t c = __atomic_load_n(&row_at(i)->charged_pages, __ATOMIC_RELAXED);
        if (c >= SMALL_PAGES && row_at(i) != eg_rt.row) {
            live++;
            total += c;
        }
    }
    uint64_t share = total / live;
    if (live == 1 || eg_rt.charged > (int64_t)share)
        return 0;
    int poke = now - eg_rt.last_poke_ns > POKE_INTERVAL_NS;
    if (poke)
        eg_rt.last_poke_ns = now;
    for (uint32_t i = 0; i < used; i++) {
        struct eg_pool_row *r = row_at(i);
        uint64_t c = __atomic_load_n(&r->charged_pages, __ATOMIC_RELAXED);
        if (r == eg_rt.row || c < SMALL_PAGES || c <= share)
            continue;
        uint64_t want = c - share < n * 2 ? c - share : n * 2;
        asked += want;
        if (!poke)
            continue;
        struct sockaddr_un sa;
        uint32_t len = poke_name(&sa, i);
        raise_to(&r->want_evict_pages, want);
        eg_sys6(SYS_sendto, eg_rt.wake_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, &sa, len);
    }
    return asked;
}

void eg_account_time(uint32_t *hist, uint64_t ns)
{
    uint32_t log2 = 63u - (uint32_t)__builtin_clzll(ns | 1);
    uint32_t b = 4 * log2 + (log2 >= 2 ? (uint32_t)(ns >> (log2 - 2)) & 3 : 0);
    b = b < 4 * EG_HIST_MIN_LOG2 ? 0 : b - 4 * EG_HIST_MIN_LOG2;
    hist[b < EG_HIST_BUCKETS ? b : EG_HIST_BUCKETS - 1]++;
}
