/* vm_random.c - random memory calls on one area, several threads each on its own, as a trace that must be the same natively and under endgame: what every call
 * returned, what every page holds, and which accesses fail how. vm_semantics.c looks at what somebody thought of; this looks at what nobody did.
 *
 *   vm_random [--plain] THREADS SEED CALLS FILE    thread k writes its trace to FILE.k
 *
 * --plain: for threads on nodes: nothing that is declined there (guards), that they come home for (mappings of files, fork), or that the kernel alone does there
 * (moves of several mappings at once, Linux 6.17). */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 6144ul
#define WORDS (PAGE / 8)
#define MAX_THREADS 8
#define AREA 0x200000000000ul
#define AREA_STRIDE 0x100000000ul
#define FILE_BYTES (2u << 20)
#define LOOK_EVERY 50 /* calls between two looks at everything */
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

struct range {
    uint64_t at, n; /* pages */
};

struct thread {
    pthread_t id;
    uint64_t rng, calls;
    char *base;
    FILE *trace;
    int pipe[2], file;
    sigjmp_buf back;
    volatile int armed, fault;
    volatile uintptr_t fault_at;
    uint8_t freed[PAGES];  /* MADV_FREE: content or zeros, nobody knows */
    uint8_t shared[PAGES]; /* perhaps: a child sees what its parent writes */
};

static struct thread threads[MAX_THREADS];
static _Thread_local struct thread *me;
static uint64_t max_calls;
static int plain, one_at_a_time;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t draw(struct thread *t)
{
    return mix(t->rng += 0x9e3779b97f4a7c15ull);
}

#define TRACE(...) fprintf(t->trace, __VA_ARGS__)

/* ---- accesses that may fail ---------------------------------------------------------------------------------------- */

static void on_fault(int s, siginfo_t *info, void *context)
{
    (void)context;
    if (!me || !me->armed)
        _exit(7);
    me->fault = s * 16 + info->si_code;
    me->fault_at = (uintptr_t)info->si_addr;
    siglongjmp(me->back, 1);
}

static int failed(struct thread *t, const volatile void *at)
{
    t->armed = 0;
    if (t->fault_at != (uintptr_t)at)
        TRACE("  si_addr is %ld off\n", (long)(t->fault_at - (uintptr_t)at));
    return t->fault;
}

/* Returns: 0, or signal * 16 + code. */
static int peek(struct thread *t, const volatile uint64_t *at, uint64_t *ret_word)
{
    t->armed = 1;
    if (sigsetjmp(t->back, 1))
        return failed(t, at);
    *ret_word = *at;
    t->armed = 0;
    return 0;
}

static int poke(struct thread *t, volatile uint64_t *at, uint64_t word)
{
    t->armed = 1;
    if (sigsetjmp(t->back, 1))
        return failed(t, at);
    *at = word;
    t->armed = 0;
    return 0;
}

static uint64_t *page_at(const struct thread *t, uint64_t page)
{
    return (uint64_t *)(void *)(t->base + page * PAGE);
}

static uint64_t sum(struct thread *t, struct range r)
{
    uint64_t s = 0, word;
    for (uint64_t page = r.at; page < r.at + r.n; page++) {
        const uint64_t *p = page_at(t, page);
        int rc = peek(t, p, &word);
        uint64_t one = rc ? 0xdead0000u + (unsigned)rc : page;
        for (unsigned i = 0; !rc && !t->freed[page] && i < WORDS; i += i ? 37 : 1)
            one = mix(one ^ p[i]);
        s = mix(s ^ one);
    }
    return s;
}

static void fill(struct thread *t, struct range r, uint64_t key)
{
    uint64_t bad = 0;
    for (uint64_t page = r.at; page < r.at + r.n; page++) {
        uint64_t *p = page_at(t, page);
        int rc = poke(t, p, mix(key + page));
        bad = rc ? bad * 31 + (unsigned)rc : bad;
        if (!rc && t->freed[page]) {
            memset(p + 1, 0, PAGE - 8);
            t->freed[page] = 0;
        }
        for (unsigned i = 1; !rc && i < WORDS; i += 37)
            p[i] = mix(key + page * WORDS + i);
    }
    TRACE(" filled, bad %lx", (long)bad);
}

/* ---- what the calls are about -------------------------------------------------------------------------------------- */

static struct range pick(struct thread *t, uint64_t most)
{
    uint64_t r = draw(t), sizes[] = {1, 8, 64, 600, 2000};
    struct range v = {r % PAGES, 1 + (r >> 24) % sizes[(r >> 20) % 5]};
    if ((r >> 40) % 4 == 0) { /* whole blocks */
        v.at &= ~511ul;
        v.n = v.n > 300 ? (v.n + 511) & ~511ul : v.n;
    }
    v.n = v.n < most ? v.n : most;
    v.n = v.at + v.n > PAGES ? PAGES - v.at : v.n;
    return v;
}

static void *start(const struct thread *t, struct range v)
{
    return t->base + v.at * PAGE;
}

static size_t bytes(struct range v)
{
    return v.n * PAGE;
}

static long place(const struct thread *t, const void *p)
{
    return p == MAP_FAILED ? -errno : (long)((const char *)p - t->base) / (long)PAGE;
}

static long result(int rc)
{
    return rc ? -errno : 0;
}

static void is_new(struct thread *t, struct range v, int shared)
{
    memset(t->freed + v.at, 0, v.n);
    memset(t->shared + v.at, shared, v.n);
}

static int any(const uint8_t *flags, const char *base, const char *from, size_t len)
{
    for (size_t page = (size_t)(from - base) / PAGE; page <= (size_t)(from - base + len) / PAGE && page < PAGES; page++)
        if (flags[page])
            return 1;
    return 0;
}

/* ---- the calls ------------------------------------------------------------------------------------------------------ */

static void call_mmap(struct thread *t, struct range v, uint64_t r)
{
    int prot = r % 8 == 0 ? PROT_NONE : r % 8 == 1 ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (r >> 4 & 1 ? MAP_NORESERVE : 0) | ((r >> 5) % 16 == 0 ? MAP_POPULATE : 0);
    TRACE("mmap %lu+%lu prot %d: %ld", v.at, v.n, prot, place(t, mmap(start(t, v), bytes(v), prot, flags, -1, 0)));
    is_new(t, v, 0);
}

static void call_munmap(struct thread *t, struct range v, uint64_t r)
{
    if (v.n > 200 && r & 3)
        v.n = 1 + v.n % 200;
    TRACE("munmap %lu+%lu: %ld", v.at, v.n, result(munmap(start(t, v), bytes(v))));
    is_new(t, v, 0);
    if (r >> 2 & 1)
        TRACE(" reserved %ld", place(t, mmap(start(t, v), bytes(v), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0)));
}

static void call_map_file(struct thread *t, struct range v, uint64_t r)
{
    v.n = v.n < 300 ? v.n : 300;
    TRACE("mmap of a file %lu+%lu: %ld", v.at, v.n,
          place(t, mmap(start(t, v), bytes(v), PROT_READ | (r & 1 ? PROT_WRITE : 0), MAP_PRIVATE | MAP_FIXED, t->file, 0)));
    is_new(t, v, 0);
}

static void call_map_shared(struct thread *t, struct range v, uint64_t r)
{
    (void)r;
    v.n = v.n < 300 ? v.n : 300;
    TRACE("mmap, shared %lu+%lu: %ld", v.at, v.n,
          place(t, mmap(start(t, v), bytes(v), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0)));
    is_new(t, v, 1);
}

static void call_mprotect(struct thread *t, struct range v, uint64_t r)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE};
    int prot = prots[r % 6];
    TRACE("mprotect %lu+%lu %d: %ld", v.at, v.n, prot, result(mprotect(start(t, v), bytes(v), prot)));
}

/* Several mappings with the same rights are one to endgame where the kernel knows better, so a call that wants one gets one. */
static void call_mremap(struct thread *t, struct range v, uint64_t r)
{
    struct range to = pick(t, PAGES);
    int flags = r % 6 == 0 ? 0 : r % 6 == 1 ? MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP : MREMAP_MAYMOVE | MREMAP_FIXED;
    if (r >> 8 & 3 || flags & MREMAP_DONTUNMAP)
        to.n = v.n;
    if (to.at + to.n > PAGES)
        to.n = PAGES - to.at;
    if (!(flags & MREMAP_FIXED))
        to.at = v.at;
    if (one_at_a_time || to.n != v.n || flags != (MREMAP_MAYMOVE | MREMAP_FIXED)) {
        mmap(start(t, v), bytes(v), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        is_new(t, v, 0);
        fill(t, (struct range){v.at, v.n < 300 ? v.n : 300}, r);
    }
    uint64_t before = sum(t, v);
    const void *p = mremap(start(t, v), bytes(v), bytes(to), flags, start(t, to));
    TRACE(" mremap %lu+%lu to %lu+%lu flags %d: %ld, was %lx", v.at, v.n, to.at, to.n, flags, place(t, p), before);
    uint64_t kept = v.n < to.n ? v.n : to.n;
    for (uint64_t i = 0; p != MAP_FAILED && i < kept; i++) {
        t->freed[to.at + i] |= t->freed[v.at + i];
        t->shared[to.at + i] |= t->shared[v.at + i];
    }
}

static void call_mremap_copy(struct thread *t, struct range v, uint64_t r)
{
    (void)r;
    void *p = mremap(start(t, v), 0, PAGE, MREMAP_MAYMOVE);
    TRACE("mremap of nothing %lu: %d", v.at, p == MAP_FAILED ? errno : 0);
    if (p != MAP_FAILED)
        munmap(p, PAGE);
}

enum { COLLAPSE = 25, POPULATE_READ = 22, POPULATE_WRITE = 23, DONTNEED_LOCKED = 24, GUARD_INSTALL = 102, GUARD_REMOVE = 103 };

static void call_madvise(struct thread *t, struct range v, uint64_t r)
{
    static const int advices[] = {MADV_DONTNEED, MADV_DONTNEED, MADV_DONTNEED, DONTNEED_LOCKED, MADV_FREE, MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT,
                                  MADV_HUGEPAGE, MADV_NOHUGEPAGE, POPULATE_READ, POPULATE_WRITE, COLLAPSE, MADV_MERGEABLE, MADV_SEQUENTIAL,
                                  MADV_RANDOM, MADV_NORMAL, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK, GUARD_INSTALL, GUARD_REMOVE};
    int advice = advices[r % (sizeof advices / sizeof *advices)];
    if (advice == COLLAPSE && v.n > 600)
        v.n = 600;
    if (plain && (advice == GUARD_INSTALL || advice == GUARD_REMOVE))
        return;
    long rc = result(madvise(start(t, v), bytes(v), advice));
    TRACE("madvise %d %lu+%lu: %ld", advice, v.at, v.n, advice == COLLAPSE || advice == MADV_MERGEABLE ? 0 : rc); /* hints that need not be taken */
    if (advice == MADV_FREE)
        memset(t->freed + v.at, 1, v.n);
    else if (!rc && (advice == MADV_DONTNEED || advice == DONTNEED_LOCKED || advice == GUARD_INSTALL))
        memset(t->freed + v.at, 0, v.n);
}

static void call_mlock(struct thread *t, struct range v, uint64_t r)
{
    v.n = v.n < 60 ? v.n : 60;
    TRACE("%s %lu+%lu: %ld", r & 1 ? "mlock" : "munlock", v.at, v.n, result(r & 1 ? mlock(start(t, v), bytes(v)) : munlock(start(t, v), bytes(v))));
}

static void call_msync(struct thread *t, struct range v, uint64_t r)
{
    TRACE("msync %lu+%lu: %ld", v.at, v.n, result(msync(start(t, v), bytes(v), r & 1 ? MS_ASYNC : MS_SYNC)));
}

static void call_fill(struct thread *t, struct range v, uint64_t r)
{
    v.n = v.n < 700 ? v.n : 700;
    TRACE("%lu+%lu", v.at, v.n);
    fill(t, v, r);
}

static void call_look(struct thread *t, struct range v, uint64_t r)
{
    (void)r;
    v.n = v.n < 900 ? v.n : 900;
    TRACE("look %lu+%lu: %lx", v.at, v.n, sum(t, v));
}

static void call_pipe(struct thread *t, struct range v, uint64_t r)
{
    size_t skip = r % PAGE, len = 1 + (r >> 12) % 60000;
    const char *from = (const char *)start(t, v) + skip;
    len = len > bytes(v) - skip ? bytes(v) - skip : len;
    if (any(t->freed, t->base, from, len))
        return;
    long sent = write(t->pipe[1], from, len), got;
    TRACE("write %lu+%zu %zu: %ld", v.at, skip, len, sent < 0 ? -errno : sent);
    if (sent <= 0)
        return;
    struct range w = pick(t, PAGES);
    char *to = (char *)start(t, w) + (r >> 30) % (2 * PAGE), aside[60000];
    if (to + sent > t->base + PAGES * PAGE)
        to = t->base + PAGES * PAGE - sent;
    if (any(t->freed, t->base, to, (size_t)sent))
        to = aside;
    got = read(t->pipe[0], to, (size_t)sent);
    TRACE(" read to %lu: %ld", w.at, got < 0 ? -errno : got);
    fcntl(t->pipe[0], F_SETFL, O_NONBLOCK); /* the rest */
    while (read(t->pipe[0], aside, sizeof aside) > 0)
        ;
    fcntl(t->pipe[0], F_SETFL, 0);
}

static void call_vectors(struct thread *t, struct range v, uint64_t r)
{
    struct iovec iov[4];
    const char *end = t->base + PAGES * PAGE;
    for (int i = 0; i < 4; i++) {
        uint64_t q = draw(t);
        v = pick(t, 40);
        char *at = (char *)start(t, v) + (q % 3 == 0 ? (q >> 8) % PAGE : 0);
        size_t len = bytes(v) - (q >> 2 & 1 ? (q >> 20) % PAGE : 0);
        iov[i] = (struct iovec){at, at + len > end ? (size_t)(end - at) : len};
        if (any(t->freed, t->base, at, iov[i].iov_len))
            return;
    }
    off_t offset = (off_t)((r >> 8) % 100000);
    long n = r & 1 ? pwritev(t->file, iov, 4, offset) : preadv(t->file, iov, 4, offset);
    TRACE("%s: %ld", r & 1 ? "pwritev" : "preadv", n < 0 ? -errno : n);
}

static void call_fork(struct thread *t, struct range v, uint64_t r)
{
    int status = 0;
    v.n = v.n < 1500 ? v.n : 1500;
    TRACE("fork %lu+%lu", v.at, v.n);
    fflush(t->trace);
    pid_t child = fork();
    if (child == 0) {
        TRACE(" child %lx", sum(t, v));
        fill(t, (struct range){v.at, v.n < 200 ? v.n : 200}, r);
        TRACE(" %lx", sum(t, v));
        fflush(t->trace);
        _exit(3);
    }
    for (uint64_t page = (v.at + 50) % (PAGES - 200), n = (r >> 1) % 200; r & 1 && n; n--, page++)
        if (!t->shared[page])
            poke(t, page_at(t, page), mix(r + page));
    waitpid(child, &status, 0);
    TRACE(" ended %x", (unsigned)status);
}

typedef void call_fn(struct thread *t, struct range v, uint64_t r);

static call_fn *const calls[] = {
    call_mmap,    call_mmap,    call_munmap,  call_map_file, call_map_shared, call_mprotect, call_mprotect, call_mprotect, call_mremap,
    call_mremap,  call_mremap_copy, call_madvise, call_madvise, call_madvise, call_madvise,  call_mlock,    call_msync,    call_fill,
    call_fill,    call_fill,    call_fill,    call_look,     call_look,       call_look,     call_pipe,     call_vectors,  call_fork,
};

static void *run(void *arg)
{
    struct thread *t = me = arg;
    const struct range all = {0, PAGES};
    for (t->calls = 0; t->calls < max_calls; t->calls++) {
        uint64_t r = draw(t);
        struct range v = pick(t, PAGES);
        TRACE("%lu ", t->calls);
        call_fn *call = calls[r % (sizeof calls / sizeof *calls)];
        if (!plain || (call != call_map_file && call != call_map_shared && call != call_fork))
            call(t, v, r >> 8);
        TRACE("\n");
        if (t->calls % LOOK_EVERY == LOOK_EVERY - 1)
            TRACE("all %lx\n", sum(t, all));
    }
    TRACE("all %lx\n", sum(t, all));
    fclose(t->trace);
    return NULL;
}

static int thread_make(struct thread *t, unsigned number, uint64_t seed, const char *file)
{
    static char content[FILE_BYTES];
    char path[4096];
    t->rng = seed * 1000 + number;
    snprintf(path, sizeof path, "%s.%u", file, number);
    t->trace = fopen(path, "w");
    snprintf(path, sizeof path, "%s.%u.data", file, number);
    t->file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    unlink(path);
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (char)mix(i >> 3);
    t->base = mmap((void *)(AREA + number * AREA_STRIDE), PAGES * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
    return t->trace && t->base != MAP_FAILED && !pipe(t->pipe) && fcntl(t->pipe[1], F_SETPIPE_SZ, 1 << 20) > 0 &&
           write(t->file, content, sizeof content) == sizeof content;
}

/* Does this kernel move two mappings in one call? Of shared memory, which is none of endgame's business. */
static int moves_several(void)
{
    char *from = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    mprotect(from, PAGE, PROT_READ | PROT_WRITE);
    int moved = mremap(from, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, from + 2 * PAGE) != MAP_FAILED;
    munmap(from, 4 * PAGE);
    return moved;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    plain = argc > 1 && strcmp(argv[1], "--plain") == 0;
    argc -= plain;
    argv += plain;
    unsigned n = argc == 5 ? (unsigned)atoi(argv[1]) : 0;
    if (n < 1 || n > MAX_THREADS) {
        fprintf(stderr, "usage: vm_random [--plain] THREADS SEED CALLS FILE\n");
        return 2;
    }
    one_at_a_time = plain || !moves_several();
    max_calls = strtoull(argv[3], NULL, 0);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    for (unsigned i = 0; i < n; i++)
        if (!thread_make(&threads[i], i, strtoull(argv[2], NULL, 0), argv[4]))
            return 2;
    for (unsigned i = 0; i < n; i++)
        if (pthread_create(&threads[i].id, NULL, run, &threads[i]))
            return 2;
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i].id, NULL);
    return 0;
}
