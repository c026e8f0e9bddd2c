/* torture_malloc.c - threads that allocate, resize, move, protect, discard and free memory in every way a program can, and
 * check every byte against what a seed says it must be; now and then the process forks, the child checks the whole heap
 * as it was at the fork and goes on changing its own copy while the parent changes its.
 *
 *   torture_malloc [--threads N] [--size MIB] [--seconds S] [--ops N] [--seed N] [--forks N]
 *
 * --size is what all threads together hold; --ops ends each thread after so many operations, --seconds all of them.
 * Exit status 0 and "torture_malloc: passed ..." or 1 and one line that names the thread, operation, place and bytes. */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define MAX_THREADS 16
#define HEAP_SLOTS 400
#define MAP_SLOTS 24
#define MAP_PAGES 2048 /* of one mapping */
#define BRK_PAGES 2048
#define HOLE (~0ull)
#define FREED (1ull << 63) /* in a page's key: MADV_FREE was called, old content or zeros */
#define MAX_CHILDREN 2

/* A block of malloc's family: byte i is byte i of the stream of `key`. */
struct heap_slot {
    unsigned char *at;
    size_t len;
    uint64_t key;
};

/* Mapped pages: each has a key (0: zeros, HOLE: unmapped) and a protection. */
struct map_slot {
    unsigned char *at;
    size_t n_pages;
    int mixed; /* the kernel may keep it as several areas, over which an older mremap fails with EFAULT */
    uint64_t keys[MAP_PAGES];
    unsigned char protection[MAP_PAGES];
};

struct thread {
    pthread_t id;
    unsigned number;
    uint64_t rng;
    uint64_t ops;
    size_t held;
    struct heap_slot *heap;
    struct map_slot *maps;
    struct map_slot *brk; /* thread 0 only; keys of BRK_PAGES pages */
};

static struct thread threads[MAX_THREADS];
static unsigned n_threads = 3, n_forks = 6;
static size_t total_bytes = 192u << 20;
static uint64_t max_ops = ~0ull, seed = 1;
static struct timespec deadline;
static atomic_bool stop;
static atomic_uint forks_done, children_checked;
static pthread_rwlock_t world; /* an operation holds it shared; a fork that wants a consistent heap, exclusively */
static _Thread_local struct thread *me;
static _Thread_local const char *doing = "starting";
static int is_child;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t rng(struct thread *t)
{
    return mix(t->rng += 0x9e3779b97f4a7c15ull);
}

static uint64_t new_key(struct thread *t)
{
    return (rng(t) >> 2) | 1;
}

static uint64_t word_of(uint64_t key, size_t index)
{
    return mix(key + index * 0x9e3779b97f4a7c15ull);
}

/* ---- failing ----------------------------------------------------------------------------------------------------- */

__attribute__((noreturn)) static void failed(const char *what, const void *at, size_t offset, uint64_t got, uint64_t wanted)
{
    const uint64_t *page = (const uint64_t *)((uintptr_t)((const char *)at + offset) & ~(PAGE - 1));
    size_t n_zero = 0;
    for (size_t i = 0; page && i < PAGE / 8; i++)
        n_zero += !page[i];
    char line[512];
    int n = snprintf(line, sizeof(line),
                     "torture_malloc: FAILED: %s%s: thread %u operation %" PRIu64 " (%s): at %p + %zu: %016" PRIx64 ", wanted %016" PRIx64
                     "; %zu of the page's 512 words are zero; errno %d\n",
                     is_child ? "child: " : "", what, me ? me->number : 99, me ? me->ops : 0, doing, at, offset, got, wanted, n_zero, errno);
    if (write(STDOUT_FILENO, line, (size_t)n) != n)
        _exit(2);
    if (getenv("TORTURE_WAIT")) /* for a debugger */
        pause();
    _exit(1);
}

static void must(int fine, const char *what)
{
    if (!fine)
        failed(what, NULL, 0, 0, 0);
}

/* ---- content ----------------------------------------------------------------------------------------------------- */

static void heap_fill(struct heap_slot *s, size_t from)
{
    size_t i = from;
    for (; i < s->len && i % 8; i++)
        s->at[i] = (unsigned char)(word_of(s->key, i / 8) >> (i % 8 * 8));
    for (; i + 8 <= s->len; i += 8) {
        uint64_t w = word_of(s->key, i / 8);
        memcpy(s->at + i, &w, 8);
    }
    for (; i < s->len; i++)
        s->at[i] = (unsigned char)(word_of(s->key, i / 8) >> (i % 8 * 8));
}

static void heap_check(const struct heap_slot *s, size_t to)
{
    size_t i = 0;
    for (; i + 8 <= to; i += 8) {
        uint64_t w;
        memcpy(&w, s->at + i, 8);
        if (w != word_of(s->key, i / 8))
            failed("heap block", s->at, i, w, word_of(s->key, i / 8));
    }
    for (; i < to; i++)
        if (s->at[i] != (unsigned char)(word_of(s->key, i / 8) >> (i % 8 * 8)))
            failed("heap block's tail", s->at, i, s->at[i], word_of(s->key, i / 8) >> (i % 8 * 8));
}

static void page_fill(struct map_slot *s, size_t page, uint64_t key)
{
    uint64_t *w = (uint64_t *)(void *)(s->at + page * PAGE);
    for (size_t i = 0; i < PAGE / 8; i++)
        w[i] = word_of(key, i);
    s->keys[page] = key;
}

static void page_check(struct map_slot *s, size_t page)
{
    uint64_t key = s->keys[page];
    if (key == HOLE || s->protection[page] == PROT_NONE)
        return;
    const uint64_t *w = (const uint64_t *)(const void *)(s->at + page * PAGE);
    if (key & FREED && !w[0]) /* word_of is a bijection of its argument: no page begins with 0 but by a rare key */
        key = 0;
    key &= ~FREED;
    for (size_t i = 0; i < PAGE / 8; i++) {
        uint64_t wanted = key ? word_of(key, i) : 0;
        if (w[i] != wanted)
            failed("mapped page", s->at, page * PAGE + i * 8, w[i], wanted);
    }
}

static void map_check(struct map_slot *s)
{
    for (size_t i = 0; i < s->n_pages; i++)
        page_check(s, i);
}

static void thread_check_all(struct thread *t)
{
    for (size_t i = 0; i < HEAP_SLOTS; i++)
        if (t->heap[i].at)
            heap_check(&t->heap[i], t->heap[i].len);
    for (size_t i = 0; i < MAP_SLOTS; i++)
        map_check(&t->maps[i]);
    if (t->brk)
        map_check(t->brk);
}

/* ---- malloc's family --------------------------------------------------------------------------------------------- */

static size_t heap_len(uint64_t r)
{
    switch (r % 16) {
    case 0: return 1 + (r >> 8) % 16;
    case 1:
    case 2:
    case 3:
    case 4: return 1 + (r >> 8) % 1024;
    case 5:
    case 6:
    case 7:
    case 8: return 1 + (r >> 8) % 20000;
    case 15: return 1 + (r >> 8) % (3u << 20);
    default: return 1 + (r >> 8) % 120000;
    }
}

static void heap_step(struct thread *t, size_t limit)
{
    uint64_t r = rng(t);
    struct heap_slot *s = &t->heap[r % HEAP_SLOTS];
    size_t len = heap_len(rng(t));
    if (s->at) {
        doing = "check before change";
        heap_check(s, s->len);
        if (r >> 20 & 3 && t->held + len <= limit) {
            doing = "realloc";
            unsigned char *at = realloc(s->at, len);
            must(at != NULL, "realloc gave NULL");
            size_t kept = len < s->len ? len : s->len;
            t->held += len - s->len;
            s->at = at;
            s->len = len;
            heap_check(s, kept);
            heap_fill(s, kept);
        } else {
            doing = "free";
            free(s->at);
            t->held -= s->len;
            *s = (struct heap_slot){0};
        }
        return;
    }
    if (t->held + len > limit)
        return;
    size_t align = 1;
    switch (r >> 20 & 7) {
    case 0:
    case 1:
        doing = "calloc";
        s->at = calloc(len / 8 + 1, 8);
        for (size_t i = 0; s->at && i < len; i++)
            if (s->at[i])
                failed("calloc is not zero", s->at, i, s->at[i], 0);
        break;
    case 2:
        doing = "memalign";
        align = (size_t)8 << (r >> 30) % 14;
        s->at = memalign(align, len);
        break;
    case 3: {
        doing = "posix_memalign";
        void *at = NULL;
        align = (size_t)16 << (r >> 30) % 17;
        if (!posix_memalign(&at, align, len))
            s->at = at;
        break;
    }
    case 4:
        doing = "aligned_alloc";
        align = PAGE;
        s->at = aligned_alloc(PAGE, (len + PAGE - 1) & ~(PAGE - 1));
        break;
    default:
        doing = "malloc";
        s->at = malloc(len);
    }
    must(s->at != NULL, "an allocation gave NULL");
    must((uintptr_t)s->at % align == 0, "misaligned");
    s->len = len;
    s->key = new_key(t);
    heap_fill(s, 0);
    t->held += len;
}

/* ---- mappings ---------------------------------------------------------------------------------------------------- */

static void map_protect_all(struct map_slot *s)
{
    for (size_t i = 0; i < s->n_pages; i++)
        if (s->keys[i] != HOLE && s->protection[i] != (PROT_READ | PROT_WRITE)) {
            must(!mprotect(s->at + i * PAGE, PAGE, PROT_READ | PROT_WRITE), "mprotect back");
            s->protection[i] = PROT_READ | PROT_WRITE;
        }
}

/* Another thread's mapping may have landed in a hole: then it stays one. Returns whether there is none left. */
static int map_fill_holes(struct map_slot *s)
{
    int whole = 1;
    for (size_t i = 0, end; i < s->n_pages; i = end) {
        for (end = i + 1; end < s->n_pages && (s->keys[end] == HOLE) == (s->keys[i] == HOLE);)
            end++;
        if (s->keys[i] != HOLE)
            continue;
        void *at = mmap(s->at + i * PAGE, (end - i) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        must(at == s->at + i * PAGE || (at == MAP_FAILED && errno == EEXIST), "mmap into a hole");
        if (at == MAP_FAILED) {
            whole = 0;
            continue;
        }
        memset(s->keys + i, 0, (end - i) * sizeof(s->keys[0]));
        memset(s->protection + i, PROT_READ | PROT_WRITE, end - i);
    }
    return whole;
}

static void map_unmap(struct map_slot *s)
{
    for (size_t i = 0, end; i < s->n_pages; i = end) {
        for (end = i + 1; end < s->n_pages && (s->keys[end] == HOLE) == (s->keys[i] == HOLE);)
            end++;
        if (s->keys[i] != HOLE)
            must(!munmap(s->at + i * PAGE, (end - i) * PAGE), "munmap");
    }
    s->at = NULL;
    s->n_pages = 0;
    s->mixed = 0;
}

static void map_grown(struct map_slot *s, size_t n_pages)
{
    for (size_t i = s->n_pages; i < n_pages; i++) {
        s->keys[i] = 0;
        s->protection[i] = PROT_READ | PROT_WRITE;
    }
    s->n_pages = n_pages;
}

static void map_new(struct thread *t, struct map_slot *s, size_t limit)
{
    uint64_t r = rng(t);
    size_t n = r % 4 == 0 ? 1 + (r >> 8) % 32 : 1 + (r >> 8) % (MAP_PAGES / 2);
    if (t->held + n * PAGE > limit)
        return;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (r >> 40 & 1)
        flags |= MAP_NORESERVE;
    doing = "mmap";
    if ((r >> 41 & 7) == 0) { /* as allocators align: more than wanted, then cut */
        unsigned char *wide = mmap(NULL, n * PAGE + (4u << 20), PROT_NONE, flags | MAP_NORESERVE, -1, 0);
        must(wide != MAP_FAILED, "mmap");
        unsigned char *aligned = (unsigned char *)(((uintptr_t)wide + (2u << 20)) & ~(((uintptr_t)2 << 20) - 1));
        must(!munmap(wide, (size_t)(aligned - wide)), "munmap of the head");
        must(!munmap(aligned + n * PAGE, (size_t)(wide + (4u << 20) - aligned)), "munmap of the tail");
        must(!mprotect(aligned, n * PAGE, PROT_READ | PROT_WRITE), "mprotect");
        s->at = aligned;
    } else {
        s->at = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
        must(s->at != MAP_FAILED, "mmap");
    }
    s->n_pages = 0;
    map_grown(s, n);
    t->held += n * PAGE;
    size_t density = 1 + (r >> 50) % 3; /* some pages stay untouched */
    for (size_t i = 0; i < n; i++)
        if (rng(t) % density == 0)
            page_fill(s, i, new_key(t));
}

static void map_range(struct thread *t, const struct map_slot *s, size_t *ret_from, size_t *ret_n)
{
    uint64_t r = rng(t);
    *ret_from = r % s->n_pages;
    *ret_n = 1 + (r >> 20) % (s->n_pages - *ret_from);
    if (r >> 50 & 1 && *ret_n > 8)
        *ret_n = 1 + (r >> 52) % 8;
}

static void map_step(struct thread *t, size_t limit)
{
    uint64_t r = rng(t);
    struct map_slot *s = &t->maps[r % MAP_SLOTS];
    if (!s->at) {
        map_new(t, s, limit);
        return;
    }
    size_t from, n;
    map_range(t, s, &from, &n);
    switch (r >> 10 & 15) {
    case 0:
        doing = "munmap";
        map_check(s);
        t->held -= s->n_pages * PAGE;
        map_unmap(s);
        break;
    case 1: { /* grow */
        doing = "mremap, grow";
        size_t more = 1 + rng(t) % 400;
        if (s->n_pages + more > MAP_PAGES || t->held + more * PAGE > limit)
            break;
        map_protect_all(s);
        if (!map_fill_holes(s))
            break;
        unsigned char *at = mremap(s->at, s->n_pages * PAGE, (s->n_pages + more) * PAGE, MREMAP_MAYMOVE);
        if (at == MAP_FAILED && errno == EFAULT && s->mixed)
            break;
        must(at != MAP_FAILED, "mremap, grow");
        s->at = at;
        map_grown(s, s->n_pages + more);
        t->held += more * PAGE;
        map_check(s);
        break;
    }
    case 2: { /* shrink */
        doing = "mremap, shrink";
        if (s->n_pages < 2)
            break;
        size_t less = 1 + rng(t) % (s->n_pages - 1);
        map_protect_all(s);
        if (!map_fill_holes(s))
            break;
        void *same = mremap(s->at, s->n_pages * PAGE, (s->n_pages - less) * PAGE, 0);
        if (same == MAP_FAILED && errno == EFAULT && s->mixed)
            break;
        must(same == s->at, "mremap, shrink");
        s->n_pages -= less;
        t->held -= less * PAGE;
        break;
    }
    case 3: { /* move to a place of our choice */
        doing = "mremap, fixed";
        map_protect_all(s);
        if (!map_fill_holes(s))
            break;
        unsigned char *to = mmap(NULL, s->n_pages * PAGE + (2u << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        must(to != MAP_FAILED, "mmap of the target");
        if (r >> 30 & 1) /* a target with content of its own */
            memset(to, 0xee, s->n_pages * PAGE);
        size_t shift = rng(t) % 512;
        unsigned char *at = mremap(s->at, s->n_pages * PAGE, s->n_pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + shift * PAGE);
        if (at == MAP_FAILED && errno == EFAULT && s->mixed) {
            /* What was at the target may be gone, or not. */
            must(!munmap(to, s->n_pages * PAGE + (2u << 20)), "munmap of the target");
            break;
        }
        must(at == to + shift * PAGE, "mremap, fixed");
        must(!shift || !munmap(to, shift * PAGE), "munmap before the target");
        must(shift == 512 || !munmap(at + s->n_pages * PAGE, (512 - shift) * PAGE), "munmap behind the target");
        s->at = at;
        map_check(s);
        break;
    }
    case 4:
        doing = "madvise DONTNEED";
        for (size_t i = from; i < from + n; i++)
            if (s->keys[i] == HOLE)
                n = i - from;
        must(!n || !madvise(s->at + from * PAGE, n * PAGE, MADV_DONTNEED), "madvise");
        memset(s->keys + from, 0, n * sizeof(s->keys[0]));
        for (size_t i = from; i < from + n; i += 1 + n / 8)
            page_check(s, i);
        break;
    case 5:
        doing = "madvise FREE";
        for (size_t i = from; i < from + n; i++)
            if (s->keys[i] == HOLE)
                n = i - from;
        must(!n || !madvise(s->at + from * PAGE, n * PAGE, MADV_FREE), "madvise");
        for (size_t i = from; i < from + n; i++)
            s->keys[i] |= s->keys[i] ? FREED : 0;
        break;
    case 6: {
        static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
        int protection = protections[rng(t) % 3];
        doing = "mprotect";
        for (size_t i = from; i < from + n; i++)
            if (s->keys[i] == HOLE)
                n = i - from;
        must(!n || !mprotect(s->at + from * PAGE, n * PAGE, protection), "mprotect");
        s->mixed = 1;
        memset(s->protection + from, protection, n);
        break;
    }
    case 7:
        doing = "munmap of a part";
        for (size_t i = from; i < from + n; i++)
            if (s->keys[i] == HOLE)
                n = i - from;
        s->mixed = 1;
        must(!n || !munmap(s->at + from * PAGE, n * PAGE), "munmap");
        for (size_t i = from; i < from + n; i++) {
            s->keys[i] = HOLE;
            s->protection[i] = PROT_NONE;
        }
        break;
    case 8:
        doing = "mmap into holes";
        map_fill_holes(s);
        break;
    case 9: {
        doing = "mmap over";
        for (size_t i = from; i < from + n; i++)
            if (s->keys[i] == HOLE)
                n = i - from;
        if (!n)
            break;
        s->mixed = 1;
        void *at = mmap(s->at + from * PAGE, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        must(at == s->at + from * PAGE, "mmap over");
        memset(s->keys + from, 0, n * sizeof(s->keys[0]));
        memset(s->protection + from, PROT_READ | PROT_WRITE, n);
        break;
    }
    case 10:
        doing = "protect back and check";
        map_protect_all(s);
        map_check(s);
        break;
    case 11:
        doing = "madvise hints";
        for (size_t i = from; i < from + n; i++)
            if (s->keys[i] == HOLE)
                n = i - from;
        static const int advice[] = {MADV_WILLNEED, MADV_SEQUENTIAL, MADV_RANDOM, MADV_NORMAL, MADV_HUGEPAGE, MADV_NOHUGEPAGE};
        s->mixed = 1;
        if (n)
            madvise(s->at + from * PAGE, n * PAGE, advice[rng(t) % 6]);
        break;
    case 12:
        doing = "check";
        map_check(s);
        break;
    default:
        doing = "write pages";
        for (size_t i = from; i < from + n; i++)
            if (s->keys[i] != HOLE && s->protection[i] == (PROT_READ | PROT_WRITE)) {
                page_check(s, i);
                page_fill(s, i, new_key(t));
            }
    }
}

/* Only thread 0, and only while nothing else moves the break: the other threads' malloc has arenas of its own. */
static void brk_step(struct thread *t)
{
    struct map_slot *s = t->brk;
    size_t wanted = rng(t) % BRK_PAGES;
    doing = "brk";
    map_check(s);
    if (sbrk(0) != s->at + s->n_pages * PAGE)
        return; /* somebody did */
    must(!brk(s->at + wanted * PAGE), "brk");
    if (wanted > s->n_pages) {
        size_t old = s->n_pages;
        map_grown(s, wanted);
        for (size_t i = old; i < wanted; i++)
            page_check(s, i);
        for (size_t i = old; i < wanted; i += 1 + rng(t) % 3)
            page_fill(s, i, new_key(t));
    } else {
        s->n_pages = wanted;
    }
}

static void random_touches(struct thread *t)
{
    doing = "random touches";
    for (int i = 0; i < 64; i++) {
        uint64_t r = rng(t);
        struct map_slot *s = &t->maps[r % MAP_SLOTS];
        if (!s->at)
            continue;
        size_t page = (r >> 20) % s->n_pages;
        page_check(s, page);
        if (r >> 60 & 1 && s->keys[page] != HOLE && s->protection[page] == (PROT_READ | PROT_WRITE))
            page_fill(s, page, new_key(t));
    }
}

static void step(struct thread *t, size_t limit)
{
    t->ops++;
    switch (rng(t) % 8) {
    case 0:
    case 1:
    case 2:
    case 3: heap_step(t, limit); break;
    case 4: random_touches(t); break;
    case 5:
        if (t->brk && rng(t) % 4 == 0) {
            brk_step(t);
            break;
        } /* fallthrough */
    default: map_step(t, limit);
    }
}

/* ---- fork -------------------------------------------------------------------------------------------------------- */

static pid_t children[MAX_CHILDREN];

static void reap(int slot, int flags)
{
    int status;
    pid_t pid = waitpid(children[slot], &status, flags);
    if (pid == 0)
        return;
    must(pid == children[slot], "waitpid");
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        failed("a child failed; its status is the word", NULL, 0, (uint64_t)status, 0);
    children[slot] = 0;
    atomic_fetch_add(&children_checked, 1);
}

__attribute__((noreturn)) static void child_main(struct thread *t, int consistent, size_t limit)
{
    is_child = 1;
    alarm(100);
    pthread_rwlock_init(&world, NULL);
    doing = "check after fork";
    if (!consistent) {
        thread_check_all(t);
        _exit(0);
    }
    for (unsigned i = 0; i < n_threads; i++)
        thread_check_all(&threads[i]);
    for (int i = 0; i < 60; i++) {
        struct thread *other = &threads[(unsigned)i % n_threads];
        other->rng ^= 0x5555;
        me = other;
        step(other, limit);
    }
    doing = "check at the child's end";
    for (unsigned i = 0; i < n_threads; i++) {
        me = &threads[i];
        thread_check_all(&threads[i]);
    }
    _exit(0);
}

static void maybe_fork(struct thread *t, size_t limit)
{
    int slot = -1;
    for (int i = 0; i < MAX_CHILDREN; i++) {
        if (children[i])
            reap(i, WNOHANG);
        if (!children[i])
            slot = i;
    }
    if (slot < 0 || atomic_load(&forks_done) >= n_forks)
        return;
    doing = "fork";
    unsigned number = atomic_fetch_add(&forks_done, 1);
    int consistent = number % 3 != 2;
    if (consistent)
        pthread_rwlock_wrlock(&world);
    pid_t pid = fork();
    if (pid == 0)
        child_main(t, consistent, limit);
    if (consistent)
        pthread_rwlock_unlock(&world);
    must(pid > 0, "fork");
    children[slot] = pid;
    doing = "check in the parent after fork";
    thread_check_all(t);
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

static int over(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return deadline.tv_sec && now.tv_sec >= deadline.tv_sec;
}

static void *thread_main(void *arg)
{
    struct thread *t = me = arg;
    size_t limit = total_bytes / n_threads;
    t->heap = calloc(HEAP_SLOTS, sizeof(*t->heap));
    t->maps = calloc(MAP_SLOTS, sizeof(*t->maps));
    must(t->heap && t->maps, "calloc");
    if (t->number == 0) {
        t->brk = calloc(1, sizeof(*t->brk));
        must(t->brk != NULL, "calloc");
        uintptr_t now = (uintptr_t)sbrk(0);
        sbrk((intptr_t)((PAGE - now % PAGE) % PAGE));
        t->brk->at = sbrk(0);
    }
    while (t->ops < max_ops && !atomic_load(&stop) && !over()) {
        pthread_rwlock_rdlock(&world);
        step(t, limit);
        pthread_rwlock_unlock(&world);
        /* The first fork comes when there is something to inherit. */
        if (t->number == 0 && t->ops % 64 == 0 && t->held > limit / 4)
            maybe_fork(t, limit);
        if (t->ops % 512 == 0) {
            doing = "check of everything";
            thread_check_all(t);
        }
    }
    doing = "check at the end";
    thread_check_all(t);
    return NULL;
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 0);
        if (!strcmp(argv[i], "--threads") && value >= 1 && value <= MAX_THREADS) {
            n_threads = (unsigned)value;
        } else if (!strcmp(argv[i], "--size")) {
            total_bytes = value << 20;
        } else if (!strcmp(argv[i], "--seconds")) {
            clock_gettime(CLOCK_MONOTONIC, &deadline);
            deadline.tv_sec += (time_t)value;
        } else if (!strcmp(argv[i], "--ops")) {
            max_ops = value;
        } else if (!strcmp(argv[i], "--seed")) {
            seed = value;
        } else if (!strcmp(argv[i], "--forks")) {
            n_forks = (unsigned)value;
        } else {
            fprintf(stderr, "torture_malloc: unknown option %s\n", argv[i]);
            return 2;
        }
    }
    if (max_ops == ~0ull && !deadline.tv_sec) {
        fprintf(stderr, "torture_malloc: --seconds or --ops is needed\n");
        return 2;
    }
    /* A fork must not wait behind a stream of readers. */
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&world, &attributes);
    for (unsigned i = 0; i < n_threads; i++) {
        threads[i].number = i;
        threads[i].rng = mix(seed * 1000 + i);
        if (pthread_create(&threads[i].id, NULL, thread_main, &threads[i]))
            return 1;
    }
    uint64_t ops = 0, held = 0;
    for (unsigned i = 0; i < n_threads; i++) {
        pthread_join(threads[i].id, NULL);
        ops += threads[i].ops;
        held += threads[i].held;
    }
    for (int i = 0; i < MAX_CHILDREN; i++)
        if (children[i])
            reap(i, 0);
    char line[160];
    int n = snprintf(line, sizeof(line), "torture_malloc: passed: %" PRIu64 " operations, %" PRIu64 " MiB held, %u children\n", ops, held >> 20,
                     atomic_load(&children_checked));
    return write(STDOUT_FILENO, line, (size_t)n) == n ? 0 : 1;
}
