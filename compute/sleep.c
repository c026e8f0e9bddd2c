/* sleep.c - the program's futexes, as far as threads here sleep on them and wake each other; and its sleeps for some time (nanosleep), for which nobody
 * else is needed.
 *
 * Only libc's own calls, on private futexes: libc looks at its words again whenever it wakes. All others home makes; those with a time limit, too,
 * where the node's clock is another.
 *
 * A thread may sleep here while a stand-in for this node sleeps on the word at home (*covered*): it finds every wake that is made there, and then
 * everybody who sleeps on that word here wakes. The sleeper looks at the word when it is in its bucket already, as the kernel does: who changes
 * the word elsewhere has to take the page from here after that look, and makes its wake after that; who changes it here finds the sleeper in the bucket.
 *
 * A wake finds those who sleep here, and goes home for the rest, unless nobody can be there (*alone*): home found nobody left when it was asked last,
 * and this node alone has had the page ever since, while who sleeps elsewhere has looked at the word there before. That a page leaves is counted when it
 * cannot be written here any more, and before home gets it: counted earlier, who asks home in between took the page for one that stays. */
#include "compute/worker.h"

#include <errno.h>
#include <linux/futex.h>
#include <time.h>

#define BUCKETS 1024u
#define PAGES 4096u
#define SITES 64u
#define KEPT_MOST 16u /* wakes in a row that go to threads here, while others may wait elsewhere */
#define TELL_NS 2000000u       /* home hears of a sleep that is so long, but not of each one */
#define TELL_AGAIN_NS (EG_SLEPT_GOOD_NS / 4 * 3)
#define NEWS_PERCENT 20u
#define SLEEPER_PERCENT 50u
#define SECOND_NS 1000000000u
#define TIME_MAX_S 8000000000
#define EVER UINT64_MAX
#define LIBC 1ull
#define NOT_LIBC 2ull

/* What is known of one word, the last one of those that share the bucket; and all who sleep. */
static struct bucket {
    uint32_t lock;
    uint8_t covered, alone;
    uint32_t left;   /* times that pages had left, when it was alone */
    uint32_t n_kept;
    uint64_t addr;
    struct wk_slot *first, *last;
} buckets[BUCKETS];
static uint32_t left[PAGES], left_any;
static uint64_t sites[SITES]; /* where a futex call goes on, and LIBC or NOT_LIBC in the top two bits */

static struct bucket *bucket_of(uint64_t addr) { return &buckets[(addr >> 2) * 0x9e3779b97f4a7c15ull >> 54]; }

static uint32_t times_left(uint64_t addr)
{
    return __atomic_load_n(&left[addr / EG_PAGE_BYTES % PAGES], __ATOMIC_SEQ_CST) + __atomic_load_n(&left_any, __ATOMIC_SEQ_CST);
}

void wk_futex_left(uint64_t addr, uint64_t n_pages)
{
    for (uint64_t page = addr / EG_PAGE_BYTES; n_pages; n_pages--, page++)
        __atomic_fetch_add(&left[page % PAGES], 1, __ATOMIC_SEQ_CST);
    if (!addr)
        __atomic_fetch_add(&left_any, 1, __ATOMIC_SEQ_CST);
}

void wk_futex_learn(uint64_t rip, int is_libc)
{
    __atomic_store_n(&sites[rip % SITES], rip | (is_libc ? LIBC : NOT_LIBC) << 62, __ATOMIC_RELAXED);
}

static int by_libc(uint64_t rip) { return __atomic_load_n(&sites[rip % SITES], __ATOMIC_RELAXED) == (rip | LIBC << 62); }

/* The bucket is about this word from now on. Context: locked. */
static void about(struct bucket *b, uint64_t addr)
{
    if (b->addr == addr)
        return;
    b->addr = addr;
    b->covered = b->alone = 0;
}

/* Up to n who sleep on addr leave the bucket. Context: locked. Returns: the first of them; *ret_n: how many. */
static struct wk_slot *take(struct bucket *b, uint64_t addr, uint32_t n, uint32_t *ret_n)
{
    struct wk_slot *taken = NULL, **end = &taken, *before = NULL;
    *ret_n = 0;
    for (struct wk_slot **at = &b->first; *at && *ret_n < n;) {
        struct wk_slot *s = *at;
        if (s->sleeps_at != addr) {
            before = s;
            at = &s->next;
            continue;
        }
        *at = s->next;
        if (b->last == s)
            b->last = before;
        s->next = NULL;
        *end = s;
        end = &s->next;
        ++*ret_n;
    }
    return taken;
}

static void wake(struct wk_slot *taken)
{
    for (struct wk_slot *next; taken; taken = next) {
        next = taken->next;
        __atomic_store_n(&taken->asleep, 0, __ATOMIC_SEQ_CST);
        eg_sys6(SYS_futex, &taken->asleep, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    }
}

void wk_futex_fired(uint64_t addr)
{
    struct bucket *b = bucket_of(addr);
    uint32_t n;
    wk_lock(&b->lock);
    if (b->addr == addr)
        b->covered = 0;
    struct wk_slot *taken = take(b, addr, UINT32_MAX, &n);
    wk_unlock(&b->lock);
    wake(taken);
    if (!n) {
        struct eg_co m = {.type = EG_CO_PASS, .addr = addr};
        wk_send(&m, NULL, 0);
    }
}

/* What home takes it to be, that it sleeps. */
static uint32_t believed_percent(const struct wk_slot *s, uint64_t now) { return now - s->told_ns < TELL_AGAIN_NS ? s->told_percent : 0; }

/* Home knows who runs. */
static void tell(struct wk_slot *s, uint64_t now, uint32_t percent, int more)
{
    struct eg_co m = {.type = EG_CO_SLEPT, .flags = more ? EG_CO_F_KEPT : 0, .slot = (uint16_t)s->index, .n = percent};
    s->told_percent = percent;
    s->told_ns = now;
    wk_send(&m, NULL, 0);
}

/* The thread has slept, and that it still does has been told, or not. */
static void slept(struct wk_slot *s, uint64_t ns, uint64_t now, int told)
{
    uint64_t window_ns = now - s->window_ns;
    s->slept_ns += ns;
    if (!told && window_ns < TELL_NS)
        return;
    uint32_t percent = (uint32_t)(s->slept_ns * 100 / window_ns), believed = believed_percent(s, now);
    int news = told || (percent > believed ? percent - believed : believed - percent) >= NEWS_PERCENT;
    if (news)
        tell(s, now, percent, 0);
    if (news || window_ns > TELL_AGAIN_NS) {
        s->window_ns = now;
        s->slept_ns = 0;
    }
}

void wk_sleep_begins(struct wk_slot *s)
{
    s->told_ns = s->window_ns = eg_sys_now_ns();
    s->slept_ns = 0;
    s->told_percent = 0;
}

/* Until it is woken, or kicked (0: it is still in its bucket), or that time has come. */
static int sleeps(struct wk_slot *s, uint64_t until_ns)
{
    uint64_t since = eg_sys_now_ns(), now = since;
    uint64_t tell_ns = believed_percent(s, now) < SLEEPER_PERCENT ? now + TELL_NS : s->told_ns + TELL_AGAIN_NS;
    int told = 0;
    uint32_t state;
    s->turn++;
    __atomic_fetch_sub(&wk.n_running, 1, __ATOMIC_RELAXED);
    while ((state = __atomic_load_n(&s->asleep, __ATOMIC_SEQ_CST)) == 1 && now < until_ns) {
        uint64_t at = told || until_ns < tell_ns ? until_ns : tell_ns, ns = at == EVER ? EVER : at > now ? at - now : 0;
        struct timespec time = {.tv_sec = (long)(ns / SECOND_NS), .tv_nsec = (long)(ns % SECOND_NS)};
        eg_sys6(SYS_futex, &s->asleep, FUTEX_WAIT_PRIVATE, 1, ns == EVER ? NULL : &time, 0, 0);
        now = eg_sys_now_ns();
        if (told || now < tell_ns)
            continue;
        told = 1;
        tell(s, now, 100, 1);
    }
    __atomic_fetch_add(&wk.n_running, 1, __ATOMIC_RELAXED);
    now = eg_sys_now_ns();
    slept(s, now - since, now, told);
    return state == 0;
}

void wk_futex_kick(struct wk_slot *s)
{
    uint32_t asleep = 1;
    if (__atomic_load_n(&s->kick, __ATOMIC_SEQ_CST) == s->state.tid && __atomic_compare_exchange_n(&s->asleep, &asleep, 2, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        eg_sys6(SYS_futex, &s->asleep, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

/* It leaves its bucket by itself. Returns: 1; 0: it has been woken meanwhile. */
static int leaves(struct wk_slot *s)
{
    struct bucket *b = bucket_of(s->sleeps_at);
    struct wk_slot *before = NULL;
    wk_lock(&b->lock);
    struct wk_slot **at = &b->first;
    for (; *at && *at != s; at = &(*at)->next)
        before = *at;
    int there = *at == s;
    if (there) {
        *at = s->next;
        if (b->last == s)
            b->last = before;
    }
    wk_unlock(&b->lock);
    return there;
}

/* A thread that was not woken, and is in no bucket, sleeps no more. Returns: 1: its time is over; 0: it was kicked, and this kick has been seen: another one may
 * come while home makes the call. */
static int time_is_over(struct wk_slot *s, int kicked)
{
    uint32_t asleep = 1;
    if (__atomic_compare_exchange_n(&s->asleep, &asleep, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) && !kicked)
        return 1;
    s->asleep = 0;
    s->kick = 0;
    return 0;
}

/* A stand-in is asked for. Returns: 1; 0: there is none to be had. */
static int cover(struct wk_slot *s, struct bucket *b, uint64_t addr)
{
    struct eg_co m = {.type = EG_CO_COVER, .slot = (uint16_t)s->index, .addr = addr};
    wk_send(&m, NULL, 0);
    wk_answer_read(s, &m, sizeof m, 0);
    wk_lock(&b->lock);
    about(b, addr);
    b->covered = m.type == EG_CO_COVERED;
    int covered = b->covered;
    wk_unlock(&b->lock);
    wk_taken(m.number); /* now it may be told that it is covered no more */
    return covered;
}

static enum wk_futex wait_here(struct wk_slot *s, uint64_t rip, uint64_t addr, uint32_t expected, uint64_t until_ns, long *ret)
{
    struct bucket *b = bucket_of(addr);
    uint32_t now;
    for (;;) {
        wk_lock(&b->lock);
        int covered = b->addr == addr && b->covered, seen = covered && wk_value_in(&now, addr, sizeof now);
        if (seen && now == expected)
            break;
        wk_unlock(&b->lock);
        if (seen) {
            *ret = -EAGAIN;
            return WK_FUTEX_DONE;
        }
        if (covered ? !wk_page_get(s, addr, rip, 0) : !cover(s, b, addr))
            return WK_FUTEX_HOME;
    }
    s->sleeps_at = addr;
    s->next = NULL;
    if (b->last)
        b->last->next = s;
    else
        b->first = s;
    b->last = s;
    __atomic_store_n(&s->asleep, 1, __ATOMIC_SEQ_CST);
    wk_unlock(&b->lock);
    int kicked = __atomic_load_n(&s->kick, __ATOMIC_SEQ_CST) == s->state.tid;
    if (kicked || !sleeps(s, until_ns)) {
        if (leaves(s)) {
            *ret = -ETIMEDOUT;
            return time_is_over(s, kicked) ? WK_FUTEX_DONE : WK_FUTEX_KICKED;
        }
        while (__atomic_load_n(&s->asleep, __ATOMIC_SEQ_CST)) /* who took it is about to say so */
            eg_sys0(SYS_sched_yield);
    }
    *ret = 0;
    return WK_FUTEX_DONE;
}

/* Home wakes up to n who sleep elsewhere. times: that the page had left, before. Returns: how many, -errno. */
static long wake_elsewhere(struct wk_slot *s, struct bucket *b, uint64_t addr, uint32_t n, uint32_t times)
{
    int here = wk_try_touch((void *)addr); /* nobody else has it then */
    struct eg_call call = {.type = EG_CALL_WAKE, .arg = {(int64_t)addr, n}, .mask = s->mask}, answer;
    s->turn++;
    wk_call_short(s, &call, &answer);
    if (here && answer.arg[0] >= 0 && answer.arg[0] < n) {
        wk_lock(&b->lock);
        about(b, addr);
        b->alone = 1;
        b->left = times;
        wk_unlock(&b->lock);
    }
    return answer.arg[0];
}

static long wake_here(struct wk_slot *s, uint64_t addr, uint32_t n)
{
    struct bucket *b = bucket_of(addr);
    uint32_t woken = 0, more, times = times_left(addr);
    wk_lock(&b->lock);
    int alone = b->addr == addr && b->alone && b->left == times, others_first = !alone && b->first && ++b->n_kept % KEPT_MOST == 0;
    struct wk_slot *taken = others_first ? NULL : take(b, addr, n, &woken);
    wk_unlock(&b->lock);
    wake(taken);
    if (alone || woken == n)
        return woken;
    long elsewhere = wake_elsewhere(s, b, addr, n - woken, times);
    if (!others_first || elsewhere < 0 || elsewhere >= n)
        return elsewhere < 0 && woken ? woken : woken + elsewhere;
    wk_lock(&b->lock);
    taken = take(b, addr, n - (uint32_t)elsewhere, &more);
    wk_unlock(&b->lock);
    wake(taken);
    return elsewhere + more;
}

/* Home's kernel refuses others; but for those that are far away. */
static int is_time(const struct timespec *t)
{
    return t->tv_sec >= 0 && t->tv_sec <= TIME_MAX_S && (unsigned long)t->tv_nsec < SECOND_NS;
}

static uint64_t ns_of(const struct timespec *t) { return (uint64_t)t->tv_sec * SECOND_NS + (uint64_t)t->tv_nsec; }

/* When a wait ends at the latest, on this machine's CLOCK_MONOTONIC. at: of the limit, a time of that clock or of CLOCK_REALTIME (which nobody sets meanwhile).
 * Returns: 0: home is to see to it. */
static uint64_t until(uint64_t at, uint64_t op)
{
    struct timespec time, real = {0, 0};
    if (!at)
        return EVER;
    if (wk.other_clock || !wk_value_in(&time, at, sizeof time) || !is_time(&time))
        return 0;
    uint64_t ns = ns_of(&time);
    if (!(op & FUTEX_CLOCK_REALTIME))
        return ns ? ns : 1;
    eg_sys2(SYS_clock_gettime, CLOCK_REALTIME, &real);
    return eg_sys_now_ns() + (ns > ns_of(&real) ? ns - ns_of(&real) : 0);
}

enum wk_futex wk_futex(struct wk_slot *s, const uint64_t *r, long *ret)
{
    uint64_t addr = r[EG_REG_RDI], op = r[EG_REG_RSI], time = r[EG_REG_R10], until_ns;
    uint32_t value = (uint32_t)r[EG_REG_RDX];
    if (!(op & FUTEX_PRIVATE_FLAG) || addr % 4 || addr >= EG_USER_END || (addr >= EG_WORKER_START && addr < EG_WORKER_END) || !by_libc(r[EG_REG_RIP]))
        return WK_FUTEX_HOME;
    switch (op & ~(uint64_t)(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)) {
    case FUTEX_WAIT_BITSET:
        if ((uint32_t)r[EG_REG_R9] != FUTEX_BITSET_MATCH_ANY)
            return WK_FUTEX_HOME;
        until_ns = until(time, op);
        return until_ns ? wait_here(s, r[EG_REG_RIP], addr, value, until_ns, ret) : WK_FUTEX_HOME;
    case FUTEX_WAIT: return time ? WK_FUTEX_HOME : wait_here(s, r[EG_REG_RIP], addr, value, EVER, ret); /* that time is a length: home would begin it again */
    case FUTEX_WAKE:
        if ((int32_t)value < 1)
            return WK_FUTEX_HOME;
        *ret = wake_here(s, addr, value);
        return WK_FUTEX_DONE;
    default: return WK_FUTEX_HOME;
    }
}

/* How long the call sleeps, when it is one that sleeps for some time. Returns: nanoseconds; 0: it is another, or home's to refuse. */
static uint64_t sleep_ns(const uint64_t *r)
{
    struct timespec time;
    uint64_t at = r[EG_REG_RDI];
    if (r[EG_REG_RAX] == SYS_clock_nanosleep) {
        int clock = (int)r[EG_REG_RDI];
        if (r[EG_REG_RSI] || (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME))
            return 0;
        at = r[EG_REG_RDX];
    } else if (r[EG_REG_RAX] != SYS_nanosleep) {
        return 0;
    }
    if (!wk_value_in(&time, at, sizeof time) || !is_time(&time))
        return 0;
    return ns_of(&time) ? ns_of(&time) : 1;
}

enum wk_futex wk_nanosleep(struct wk_slot *s, const uint64_t *r, uint64_t *ret_left_ns)
{
    uint64_t ns = sleep_ns(r), until_ns = ns ? eg_sys_now_ns() + ns : 0;
    if (!ns)
        return WK_FUTEX_HOME;
    __atomic_store_n(&s->asleep, 1, __ATOMIC_SEQ_CST);
    int kicked = __atomic_load_n(&s->kick, __ATOMIC_SEQ_CST) == s->state.tid;
    if (!kicked)
        sleeps(s, until_ns);
    if (time_is_over(s, kicked))
        return WK_FUTEX_DONE;
    uint64_t now = eg_sys_now_ns();
    *ret_left_ns = now < until_ns ? until_ns - now : 0;
    return WK_FUTEX_KICKED;
}
