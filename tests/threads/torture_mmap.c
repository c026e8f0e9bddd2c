/* torture_mmap.c - the address space changed by threads while others use it: mmap, munmap, mprotect, mremap, madvise, shared and file
 * mappings, code made at run time. See torture.h for the command line. */
#include "torture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static unsigned char *map(size_t len, int protection, int flags)
{
    void *at = mmap(NULL, len, protection, flags | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED, "mmap of %zu bytes: %s", len, strerror(errno));
    return at;
}

static unsigned char *map_private(size_t len)
{
    return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

/* ---- churn: each thread with mappings of its own ------------------------------------------------------------------------ */

enum { CHURN_PAGES = 24 };

struct mapping {
    unsigned char *at;
    size_t n_pages;
    bool mixed; /* the kernel may keep it as several areas, over which mremap fails */
    uint64_t keys[CHURN_PAGES]; /* of each page; 0: zeros */
};

static void mapping_check(const struct mapping *m)
{
    for (size_t p = 0; p < m->n_pages; p++) {
        if (m->keys[p])
            CHECK_BYTES(m->at + p * PAGE, PAGE, m->keys[p]);
        else
            CHECK_ZEROS(m->at + p * PAGE, PAGE);
    }
}

static void churn_step(struct member *me, struct mapping *m)
{
    if (!m->at) {
        m->n_pages = 1 + rng_below(&me->rng, CHURN_PAGES);
        m->at = map_private(m->n_pages * PAGE);
        m->mixed = false;
        memset(m->keys, 0, sizeof m->keys);
        return;
    }
    const size_t first = rng_below(&me->rng, (unsigned)m->n_pages);
    const size_t n = 1 + rng_below(&me->rng, (unsigned)(m->n_pages - first));
    unsigned char *const at = m->at + first * PAGE;
    switch (rng_below(&me->rng, 8)) {
    case 0:
    case 1: /* write */
        for (size_t p = first; p < first + n; p++) {
            m->keys[p] = rng_next(&me->rng) | 1;
            fill_bytes(m->at + p * PAGE, PAGE, m->keys[p]);
        }
        break;
    case 2:
        SYS(madvise(at, n * PAGE, MADV_DONTNEED));
        memset(&m->keys[first], 0, n * sizeof m->keys[0]);
        break;
    case 3: /* grow or shrink, perhaps moved */
    {
        if (m->mixed)
            break;
        const size_t n_pages = 1 + rng_below(&me->rng, CHURN_PAGES);
        void *moved = mremap(m->at, m->n_pages * PAGE, n_pages * PAGE, MREMAP_MAYMOVE);
        CHECK(moved != MAP_FAILED, "mremap: %s", strerror(errno));
        for (size_t p = m->n_pages; p < n_pages; p++)
            m->keys[p] = 0;
        m->at = moved;
        m->n_pages = n_pages;
        break;
    }
    case 4: /* protected and back: nothing is lost */
        m->mixed = true;
        SYS(mprotect(at, n * PAGE, PROT_READ));
        mapping_check(m);
        SYS(mprotect(at, n * PAGE, PROT_NONE));
        SYS(mprotect(at, n * PAGE, PROT_READ | PROT_WRITE));
        break;
    case 5: /* a new mapping over a part */
        m->mixed = true;
        CHECK(mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at, "mmap fixed: %s", strerror(errno));
        memset(&m->keys[first], 0, n * sizeof m->keys[0]);
        break;
    case 6: /* moved to where another mapping is */
    {
        if (m->mixed)
            break;
        unsigned char *there = map_private(m->n_pages * PAGE);
        memset(there, 0x77, m->n_pages * PAGE);
        void *moved = mremap(m->at, m->n_pages * PAGE, m->n_pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there);
        CHECK(moved == there, "mremap fixed: %s", strerror(errno));
        m->at = there;
        break;
    }
    default:
        mapping_check(m);
        SYS(munmap(m->at, m->n_pages * PAGE));
        m->at = NULL;
        return;
    }
    mapping_check(m);
}

static void churn_body(struct member *me)
{
    struct mapping *mappings = NOT_NULL(calloc(3, sizeof *mappings));
    const int n = rounds(60);
    for (int i = 0; i < n; i++)
        churn_step(me, &mappings[rng_below(&me->rng, 3)]);
    for (int i = 0; i < 3; i++)
        if (mappings[i].at) {
            mapping_check(&mappings[i]);
            SYS(munmap(mappings[i].at, mappings[i].n_pages * PAGE));
        }
    free(mappings);
}

static void churn(void)
{
    crew_run(threads(4), churn_body, NULL);
}

/* ---- by turns: what one thread does to a mapping, the others see when the call has returned ----------------------------- */

static struct {
    pthread_barrier_t barrier;
    unsigned char *at;
    size_t n_pages;
} stage;

static void meet(void)
{
    const int error = pthread_barrier_wait(&stage.barrier);
    CHECK(!error || error == PTHREAD_BARRIER_SERIAL_THREAD, "barrier: %d", error);
}

static void seen_page(size_t page, uint64_t key, int number)
{
    const size_t wrong = key ? wrong_byte(stage.at + page * PAGE, PAGE, key) : PAGE;
    CHECK(wrong == PAGE, "thread %d: byte %zu of page %zu is wrong: 0x%02x", number, wrong, page, stage.at[page * PAGE + wrong]);
    if (!key)
        CHECK_ZEROS(stage.at + page * PAGE, PAGE);
}

static void seen_by_all_body(struct member *me)
{
    enum { N = 8 };
    const int n = rounds(4);
    for (int i = 0; i < n; i++) {
        const int actor = i % me->of;
        const bool acts = me->number == actor;
        const uint64_t key = (uint64_t)i * 1000 + 5;
        if (acts) {
            stage.at = map_private(N * PAGE);
            stage.n_pages = N;
        }
        meet(); /* a new mapping is zeros for all */
        for (size_t p = 0; p < N; p++)
            seen_page(p, 0, me->number);
        meet();
        for (size_t p = (size_t)me->number; p < N; p += (size_t)me->of) /* everybody owns some pages now */
            fill_bytes(stage.at + p * PAGE, PAGE, key + p);
        meet();
        for (size_t p = 0; p < N; p++)
            seen_page(p, key + p, me->number);
        meet();
        if (acts) { /* calls that would discard everything, and fail: nothing is lost */
            CHECK(munmap(stage.at + 1, N * PAGE) == -1 && errno == EINVAL, "munmap of half pages: %s", strerror(errno));
            CHECK(madvise(stage.at + 1, N * PAGE, MADV_DONTNEED) == -1 && errno == EINVAL, "madvise of half pages: %s", strerror(errno));
            CHECK(mmap(stage.at, N * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1, 0) == MAP_FAILED && errno == EBADF, "mmap of no file: %s",
                  strerror(errno));
        }
        meet();
        for (size_t p = 0; p < N; p++)
            seen_page(p, key + p, me->number);
        meet();
        if (acts)
            SYS(madvise(stage.at + PAGE, 3 * PAGE, MADV_DONTNEED)); /* others' pages, too */
        meet();
        for (size_t p = 0; p < N; p++)
            seen_page(p, p >= 1 && p < 4 ? 0 : key + p, me->number);
        meet();
        if (acts) {
            unsigned char *moved = mremap(stage.at, N * PAGE, 2 * N * PAGE, MREMAP_MAYMOVE);
            CHECK(moved != MAP_FAILED, "mremap: %s", strerror(errno));
            /* Moved away for certain. */
            unsigned char *there = map_private(2 * N * PAGE);
            CHECK(mremap(moved, 2 * N * PAGE, 2 * N * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there) == there, "mremap: %s", strerror(errno));
            stage.at = there;
            SYS(mprotect(there, 2 * N * PAGE, PROT_READ));
        }
        meet();
        for (size_t p = 0; p < 2 * N; p++)
            seen_page(p, (p >= 1 && p < 4) || p >= N ? 0 : key + p, me->number);
        meet();
        if (acts)
            SYS(mprotect(stage.at, 2 * N * PAGE, PROT_READ | PROT_WRITE));
        meet();
        for (size_t p = (size_t)me->number; p < 2 * N; p += (size_t)me->of)
            fill_bytes(stage.at + p * PAGE, PAGE, key - p);
        meet();
        if (acts) { /* the same address, other memory: nobody may see the old */
            void *at = stage.at;
            SYS(munmap(at, 2 * N * PAGE));
            CHECK(mmap(at, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at, "mmap: %s",
                  strerror(errno));
        }
        meet();
        for (size_t p = 0; p < N; p++)
            seen_page(p, 0, me->number);
        void *const last = stage.at; /* the next actor sets its own when all have met */
        meet();
        if (acts)
            SYS(munmap(last, N * PAGE));
    }
}

/* The heap's end in the middle of a page: what is before it stays, though the pages behind are gone. */
static void heap_end_body(struct member *me)
{
    enum { N = 6 };
    const int n = rounds(4);
    for (int i = 0; i < n; i++) {
        const bool acts = me->number == i % me->of;
        if (acts) {
            stage.at = sbrk(N * PAGE);
            CHECK(stage.at != (void *)-1, "sbrk: %s", strerror(errno));
        }
        meet();
        for (size_t p = (size_t)me->number; p < N; p += (size_t)me->of)
            fill_bytes(stage.at + p * PAGE, PAGE, (uint64_t)i * 100 + p);
        meet();
        if (acts)
            SYS(brk(stage.at + 3 * PAGE + 100));
        meet();
        for (size_t p = 0; p < 4; p++)
            CHECK_BYTES(stage.at + p * PAGE, p < 3 ? PAGE : 100, (uint64_t)i * 100 + p);
        meet();
        if (acts) {
            SYS(brk(stage.at + N * PAGE));
            CHECK_ZEROS(stage.at + 4 * PAGE, 2 * PAGE);
            SYS(brk(stage.at));
        }
        meet();
    }
}

static void heap_end(void)
{
    OK(pthread_barrier_init(&stage.barrier, NULL, (unsigned)threads(3)));
    crew_run(threads(3), heap_end_body, NULL);
    OK(pthread_barrier_destroy(&stage.barrier));
}

static void seen_by_all(void)
{
    OK(pthread_barrier_init(&stage.barrier, NULL, (unsigned)threads(3)));
    crew_run(threads(3), seen_by_all_body, NULL);
    OK(pthread_barrier_destroy(&stage.barrier));
}

/* ---- neighbours: one thread maps and unmaps around pages that others compute on ----------------------------------------- */

static struct {
    unsigned char *at;
    atomic_int computing;
} island;

static void island_body(struct member *me)
{
    const int n = rounds(60);
    if (me->number == 0) {
        /* Pages 0, 2, 4... come and go; the odd ones are the others'. */
        for (int i = 0; i < n || atomic_load(&island.computing); i++) {
            unsigned char *at = island.at + (size_t)(i % me->of) * 2 * PAGE;
            SYS(munmap(at, PAGE));
            CHECK(mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at, "mmap: %s", strerror(errno));
            CHECK_ZEROS(at, PAGE);
            memset(at, 1 + i % 200, PAGE);
            SYS(mprotect(at, PAGE, i % 3 ? PROT_READ : PROT_NONE));
        }
        return;
    }
    volatile uint64_t *words = (void *)(island.at + ((size_t)me->number * 2 - 1) * PAGE);
    for (int i = 0; i < 20 * n; i++) {
        const size_t w = (size_t)i % (PAGE / 8);
        CHECK(words[w] == (uint64_t)i / (PAGE / 8), "thread %d: word %zu is %" PRIu64 " in round %d", me->number, w, words[w], i);
        words[w]++;
    }
    atomic_fetch_sub(&island.computing, 1);
}

static void neighbours(void)
{
    const int n = threads(3) < 2 ? 2 : threads(3);
    const size_t len = (size_t)n * 2 * PAGE;
    island.at = map_private(len);
    island.computing = n - 1;
    crew_run(n, island_body, NULL);
    SYS(munmap(island.at, len));
}

/* Memory is reserved first, made usable later, by different threads. */
static void reserved_body(struct member *me)
{
    enum { EACH = 16 };
    unsigned char *const base = me->shared, *const at = base + (size_t)me->number * EACH * PAGE;
    for (size_t p = 0; p < EACH; p++) {
        SYS(mprotect(at + p * PAGE, PAGE, PROT_READ | PROT_WRITE));
        CHECK_ZEROS(at + p * PAGE, PAGE);
        fill_bytes(at + p * PAGE, PAGE, (uint64_t)me->number * EACH + p);
    }
    for (size_t p = 0; p < EACH; p++)
        CHECK_BYTES(at + p * PAGE, PAGE, (uint64_t)me->number * EACH + p);
}

static void reserved(void)
{
    const size_t len = (size_t)1 << 36;
    unsigned char *base = map(len, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    crew_run(threads(4), reserved_body, base);
    for (uint64_t p = 0; p < 16 * (uint64_t)threads(4); p++)
        CHECK_BYTES(base + p * PAGE, PAGE, p);
    SYS(munmap(base, len));
}

/* ---- mappings of files, shared mappings --------------------------------------------------------------------------------- */

static int file_with(size_t n_pages, uint64_t key)
{
    char path[] = "/tmp/torture-mmap-XXXXXX";
    unsigned char page[4096];
    const int fd = SYS(mkstemp(path));
    SYS(unlink(path));
    for (size_t p = 0; p < n_pages; p++) {
        fill_bytes(page, PAGE, key + p);
        EQUAL(SYS(write(fd, page, PAGE)), PAGE);
    }
    return fd;
}

/* Private: everybody sees the file's content, then what threads wrote; the file does not change. */
static struct {
    unsigned char *at;
    pthread_barrier_t barrier;
} file;

static void private_file_body(struct member *me)
{
    enum { N = 12 };
    for (uint64_t p = 0; p < N; p++)
        CHECK_BYTES(file.at + p * PAGE, PAGE, 500 + p);
    pthread_barrier_wait(&file.barrier);
    for (uint64_t p = (uint64_t)me->number; p < N; p += (uint64_t)me->of)
        if (p % 2)
            fill_bytes(file.at + p * PAGE, PAGE, 900 + p);
    pthread_barrier_wait(&file.barrier);
    for (uint64_t p = 0; p < N; p++)
        CHECK_BYTES(file.at + p * PAGE, PAGE, p % 2 ? 900 + p : 500 + p);
}

static void private_file(void)
{
    enum { N = 12 };
    const int fd = file_with(N, 500);
    unsigned char page[4096];
    file.at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(file.at != MAP_FAILED, "mmap: %s", strerror(errno));
    OK(pthread_barrier_init(&file.barrier, NULL, (unsigned)threads(3)));
    crew_run(threads(3), private_file_body, NULL);
    OK(pthread_barrier_destroy(&file.barrier));
    for (uint64_t p = 0; p < N; p++) {
        EQUAL(SYS(pread(fd, page, PAGE, (off_t)(p * PAGE))), PAGE);
        CHECK_BYTES(page, PAGE, 500 + p);
    }
    SYS(munmap(file.at, N * PAGE));
    SYS(close(fd));
}

/* The same when each thread maps the file itself. */
static void mapped_by_threads_body(struct member *me)
{
    enum { N = 8 };
    const int *fd = me->shared;
    for (int i = 0; i < 5; i++) {
        unsigned char *at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, *fd, 0);
        CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
        for (uint64_t p = 0; p < N; p++)
            CHECK_BYTES(at + p * PAGE, PAGE, 70 + p);
        memset(at + PAGE, me->number, PAGE);
        SYS(madvise(at + PAGE, PAGE, MADV_DONTNEED)); /* the file's content again */
        CHECK_BYTES(at + PAGE, PAGE, 71);
        SYS(munmap(at, N * PAGE));
        at = mmap(NULL, N * PAGE, PROT_READ, MAP_PRIVATE, *fd, 2 * PAGE);
        CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
        CHECK_BYTES(at, PAGE, 72);
        SYS(munmap(at, N * PAGE));
    }
}

static void mapped_by_threads(void)
{
    int fd = file_with(10, 70);
    crew_run(threads(3), mapped_by_threads_body, &fd);
    SYS(close(fd));
}

/* Shared: what threads write is what read() gives, in every thread's mapping and in the file. */
static void shared_pages_body(struct member *me)
{
    atomic_ulong *const words = me->shared;
    const int n = rounds(200);
    for (int i = 0; i < n; i++) {
        atomic_fetch_add(&words[0], 1);
        words[512 + me->number]++; /* another page, a word of one's own */
    }
}

static void shared_check(atomic_ulong *words)
{
    EQUAL(words[0], (unsigned long)threads(4) * (unsigned long)rounds(200));
    for (int t = 0; t < threads(4); t++)
        EQUAL(words[512 + t], rounds(200));
}

static void shared_anonymous(void)
{
    const size_t len = 4 * PAGE;
    unsigned char *at = map(len, PROT_READ | PROT_WRITE, MAP_SHARED);
    crew_run(threads(4), shared_pages_body, at);
    shared_check((void *)at);
    SYS(munmap(at, len));
}

static void shared_file(void)
{
    const size_t len = 4 * PAGE;
    const int fd = SYS(memfd_create("torture", MFD_CLOEXEC));
    atomic_ulong *back = NOT_NULL(malloc(len));
    SYS(ftruncate(fd, (off_t)len));
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *again = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED && again != MAP_FAILED, "mmap: %s", strerror(errno));
    crew_run(threads(4), shared_pages_body, at);
    shared_check(at);
    shared_check(again);
    EQUAL(SYS(pread(fd, back, len, 0)), len);
    shared_check(back);
    SYS(msync(at, len, MS_SYNC));
    free(back);
    SYS(munmap(at, len));
    SYS(munmap(again, len));
    SYS(close(fd));
}

/* ---- code --------------------------------------------------------------------------------------------------------------- */

/* Functions written, made executable, called by others, rewritten. */
static struct {
    unsigned char *at;
    pthread_barrier_t barrier;
} code;

static void code_write(int value)
{
    /* mov $value, %eax; ret */
    const unsigned char function[] = {0xb8, (unsigned char)value, (unsigned char)(value >> 8), 0, 0, 0xc3};
    memcpy(code.at + 128, function, sizeof function);
}

static void code_body(struct member *me)
{
    const int n = rounds(8);
    int (*function)(void);
    *(void **)&function = code.at + 128;
    for (int i = 0; i < n; i++) {
        if (i % me->of == me->number) {
            SYS(mprotect(code.at, PAGE, PROT_READ | PROT_WRITE));
            code_write(1000 + i);
            SYS(mprotect(code.at, PAGE, PROT_READ | PROT_EXEC));
        }
        pthread_barrier_wait(&code.barrier);
        EQUAL(function(), 1000 + i);
        pthread_barrier_wait(&code.barrier);
    }
}

static void made_code(void)
{
    code.at = map_private(PAGE);
    OK(pthread_barrier_init(&code.barrier, NULL, (unsigned)threads(3)));
    crew_run(threads(3), code_body, NULL);
    OK(pthread_barrier_destroy(&code.barrier));
    SYS(munmap(code.at, PAGE));
}

/* Read-only data of the program and of libraries, and the program's own code as data. */
static const uint64_t constants[4096] = {[0] = 17, [1000] = 1000, [4095] = 4095};

static void read_only_body(struct member *me)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < COUNT_OF(constants); i++)
        sum += ((const volatile uint64_t *)constants)[i];
    EQUAL(sum, 17 + 1000 + 4095);
    const unsigned char *bytes;
    void (*const function)(struct member *) = read_only_body;
    memcpy(&bytes, &function, sizeof bytes);
    for (size_t i = 0; i < 64; i++)
        me->sum = mix(me->sum + bytes[i]);
    CHECK(!strcmp(strerror(ENOENT), "No such file or directory"), "the library's strings: '%s'", strerror(ENOENT));
}

static void read_only(void)
{
    struct member me = {0};
    read_only_body(&me);
    EQUAL(crew_run(threads(4), read_only_body, NULL), (uint64_t)threads(4) * me.sum);
}

/* ---- what is asked about memory ----------------------------------------------------------------------------------------- */

static void inquiries_body(struct member *me)
{
    enum { N = 8 };
    unsigned char resident[N];
    unsigned char *at = map_private(N * PAGE);
    (void)me;
    memset(at, 1, N * PAGE);
    SYS(mincore(at, N * PAGE, resident));
    SYS(madvise(at, N * PAGE, MADV_WILLNEED));
    SYS(madvise(at, N * PAGE, MADV_NOHUGEPAGE));
    SYS(munmap(at + PAGE, PAGE));
    FAILS(mincore(at + PAGE, PAGE, resident), ENOMEM);
    FAILS(mprotect(at + PAGE, PAGE, PROT_READ), ENOMEM);
    FAILS(madvise(at, N * PAGE, 12345), EINVAL);
    FAILS(munmap(at + 1, PAGE), EINVAL);
    CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL, "mmap of nothing succeeded");
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0) == MAP_FAILED && errno == EBADF, "mmap of no file succeeded");
    CHECK(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST,
          "MAP_FIXED_NOREPLACE replaced");
    SYS(munmap(at, N * PAGE));
}

static void inquiries(void)
{
    crew_run(threads(3), inquiries_body, NULL);
}

/* process_madvise discards, or says that it does not. */
static void filled_body(struct member *me)
{
    fill_bytes(me->shared, 4 * PAGE, 31);
}

static void discarded_by_process(void)
{
    unsigned char *const at = map_private(4 * PAGE);
    const struct iovec part = {at, 4 * PAGE};
    const int self = SYS((int)syscall(SYS_pidfd_open, getpid(), 0));
    crew_run(1, filled_body, at);
    if (syscall(SYS_process_madvise, self, &part, 1, MADV_DONTNEED, 0) < 0)
        CHECK_BYTES(at, 4 * PAGE, 31);
    else
        CHECK_ZEROS(at, 4 * PAGE);
    SYS(close(self));
    SYS(munmap(at, 4 * PAGE));
}

/* A guard page that needs no mapping of its own, or that the kernel does not know, among pages that threads read in order. */
static void around_the_guard_body(struct member *me)
{
    unsigned char *const at = me->shared;
    for (size_t p = 0; p < 64; p++)
        if (p != 20)
            me->sum += at[p * PAGE];
}

static void around_a_guard(void)
{
    unsigned char *const at = map_private(64 * PAGE);
    memset(at, 3, 64 * PAGE);
    (void)madvise(at + 20 * PAGE, PAGE, 102 /* MADV_GUARD_INSTALL */);
    for (int i = 0; i < 3; i++) {
        EQUAL(crew_run(1, around_the_guard_body, at), 3 * 63);
        for (size_t p = 0; p < 64; p++)
            if (p != 20)
                at[p * PAGE + 1]++;
    }
    SYS(munmap(at, 64 * PAGE));
}

/* A mapping across a 2 MiB border, of which threads elsewhere have had one side only, moves as one: to a given place, and to grow. */
enum { SIDE = 16 };

static void one_side_body(struct member *me)
{
    unsigned char *border = me->shared;
    for (size_t i = 0; i < SIDE; i++)
        border[i * PAGE] = (unsigned char)(i + 1);
}

static void moved_as_one(void)
{
    const size_t block = 2ul << 20, bytes = 2 * SIDE * PAGE;
    for (int grows = 0; grows < 2; grows++) {
        unsigned char *area = mmap(NULL, 3 * block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(area != MAP_FAILED, "mmap: %s", strerror(errno));
        unsigned char *border = (unsigned char *)(((uintptr_t)area + 2 * block) & ~(block - 1)), *at = border - SIDE * PAGE, *moved;
        for (size_t i = 0; i < SIDE; i++)
            at[i * PAGE] = (unsigned char)(100 + i);
        crew_run(1, one_side_body, border);
        for (size_t i = 0; i < SIDE; i++) /* all of it is home again */
            CHECK(border[i * PAGE]++ == i + 1, "page %zu before", i);
        if (grows) {
            moved = mremap(at, bytes, 4 * block, MREMAP_MAYMOVE);
        } else {
            unsigned char *there = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            moved = mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, there);
        }
        CHECK(moved != MAP_FAILED, "%s: %s", grows ? "grow" : "move", strerror(errno));
        for (size_t i = 0; i < SIDE; i++) {
            CHECK(moved[i * PAGE] == 100 + i, "page %zu", i);
            CHECK(moved[(SIDE + i) * PAGE] == i + 2, "page %zu of the other side", i);
        }
        SYS(munmap(moved, grows ? 4 * block : bytes));
    }
}

/* Pages that mlock keeps here move all the same: a copy that stayed would be read for ever. */
static struct {
    volatile int *word;
    atomic_int turn;
} locked_stage;

static void locked_body(struct member *me)
{
    (void)me;
    for (int i = 1; i <= rounds(20); i++) {
        *locked_stage.word = i;
        atomic_store(&locked_stage.turn, 2 * i - 1);
        wait_until_at_least(&locked_stage.turn, 2 * i);
    }
}

static void locked(void)
{
    const int n = rounds(20);
    unsigned char *const at = map_private(4 * PAGE);
    memset(at, 0, 4 * PAGE);
    SYS(mlock(at, 4 * PAGE));
    locked_stage.word = (void *)(at + PAGE);
    locked_stage.turn = 0;
    struct member *crew = crew_start(1, locked_body, NULL);
    for (int i = 1; i <= n; i++) {
        wait_until_at_least(&locked_stage.turn, 2 * i - 1);
        EQUAL(*locked_stage.word, i);
        atomic_store(&locked_stage.turn, 2 * i);
    }
    crew_join(crew);
    SYS(munmap(at, 4 * PAGE));
}

/* ---- a mapping moves to right below another one: the kernel may make one of both ----------------------------------------- */

enum { MOVED_PAGES = 16, BELOW_PAGES = 64 };

static struct {
    unsigned char *at; /* MOVED_PAGES, to where the other mapping moves, and as many in use */
} beside;

static void beside_body(struct member *me)
{
    const size_t len = MOVED_PAGES * PAGE;
    unsigned char *in_use = beside.at + len;
    unsigned char *other = map_private(BELOW_PAGES * PAGE), *end = other + BELOW_PAGES * PAGE - len;
    for (size_t p = 0; p < MOVED_PAGES; p++)
        fill_bytes(in_use + p * PAGE, PAGE, p + 1);
    fill_bytes(other, PAGE, 99); /* its end is never touched */
    CHECK(mremap(end, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, beside.at) == beside.at, "mremap: %s", strerror(errno));
    fill_bytes(beside.at, PAGE, 98);
    CHECK_BYTES(other, PAGE, 99);
    SYS(munmap(other, BELOW_PAGES * PAGE - len));
    me->sum = 1;
}

static void moved_beside(void)
{
    for (int i = 0; i < rounds(3); i++) {
        beside.at = map_private(2 * MOVED_PAGES * PAGE);
        EQUAL(crew_run(1, beside_body, NULL), 1);
        CHECK_BYTES(beside.at, PAGE, 98);
        CHECK_ZEROS(beside.at + PAGE, (MOVED_PAGES - 1) * PAGE);
        for (size_t p = 0; p < MOVED_PAGES; p++)
            CHECK_BYTES(beside.at + (MOVED_PAGES + p) * PAGE, PAGE, p + 1);
        SYS(munmap(beside.at, 2 * MOVED_PAGES * PAGE));
    }
}

/* ---- a part of a thread's stack is discarded while the thread, called by a signal, is on its way ------------------------- */

static struct {
    _Atomic(unsigned char *) page;
    atomic_bool done;
} leaver;

static void on_call(int number)
{
    (void)number;
}

/* Only what it has in its frame is discarded. */
static void *leaver_body(void *key)
{
    unsigned char frame[2 * PAGE], *page = (void *)(((uintptr_t)frame + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    fill_bytes(page, PAGE, *(uint64_t *)key);
    leaver.page = page;
    while (!leaver.done)
        ;
    return NULL;
}

static void discarded_on_its_way(void)
{
    struct sigaction act = {.sa_handler = on_call};
    uint64_t rng = torture_seed;
    SYS(sigaction(SIGUSR1, &act, NULL));
    for (int i = 0; i < rounds(100); i++) {
        uint64_t key = (uint64_t)i + 1;
        pthread_t thread;
        leaver.page = NULL;
        leaver.done = false;
        EQUAL(pthread_create(&thread, NULL, leaver_body, &key), 0);
        while (!leaver.page)
            ;
        EQUAL(pthread_kill(thread, SIGUSR1), 0);
        for (unsigned n = rng_below(&rng, 100000); n; n--)
            __asm__ volatile("");
        if (i % 2) {
            FAILS(munmap(leaver.page + 8, PAGE), EINVAL);
            CHECK_BYTES(leaver.page, PAGE, key);
        } else {
            SYS(madvise(leaver.page, PAGE, MADV_DONTNEED));
            CHECK_ZEROS(leaver.page, PAGE);
        }
        leaver.done = true;
        EQUAL(pthread_join(thread, NULL), 0);
    }
}

/* ---- protection keys: they protect, or there are none -------------------------------------------------------------------- */

static void key_body(struct member *me)
{
    unsigned char *page = map_private(PAGE);
    int fd[2];
    (void)me;
    page[0] = 1;
    SYS(pipe(fd));
    const int key = pkey_alloc(0, 0);
    if (key < 0 && !getenv("ENDGAME_POOL")) { /* natively Linux says EINVAL on x86 without keys */
        CHECK(errno == ENOSPC || errno == EINVAL, "pkey_alloc gives errno %d", errno);
    } else if (key < 0) {
        EQUAL(errno, ENOSPC);
    } else {
        SYS(pkey_mprotect(page, PAGE, PROT_READ | PROT_WRITE, key));
        SYS(pkey_set(key, PKEY_DISABLE_ACCESS));
        CHECK(write(fd[1], page, 1) < 0 && errno == EFAULT, "the kernel reads a page that a key denies");
        SYS(pkey_set(key, 0));
        SYS(pkey_mprotect(page, PAGE, PROT_READ | PROT_WRITE, 0));
        SYS(pkey_free(key));
    }
    page[0]++;
    EQUAL(page[0], 2);
    SYS(close(fd[0]));
    SYS(close(fd[1]));
    SYS(munmap(page, PAGE));
}

static void protection_keys(void)
{
    crew_run(threads(3), key_body, NULL);
}

static const struct sub_test tests[] = {
    {"churn", churn, "every call on mappings of one's own, every byte checked"},
    {"moved_beside", moved_beside, "a mapping moves to beside another one, whose pages are away"},
    {"seen_by_all", seen_by_all, "one changes a mapping, all look"},
    {"neighbours", neighbours, "mappings come and go beside pages in use"},
    {"reserved", reserved, "64 GiB reserved, pieces made usable by threads"},
    {"private_file", private_file, "a private mapping of a file"},
    {"mapped_by_threads", mapped_by_threads, "private mappings of a file made by threads"},
    {"heap_end", heap_end, "the end of the heap, in the middle of a page"},
    {"shared_anonymous", shared_anonymous, "atomics in a shared mapping"},
    {"shared_file", shared_file, "the same in a file, mapped twice"},
    {"made_code", made_code, "functions written at run time"},
    {"read_only", read_only, "constants and code, read"},
    {"inquiries", inquiries, "mincore, and errors"},
    {"locked", locked, "pages locked by mlock, written by threads"},
    {"discarded_by_process", discarded_by_process, "process_madvise on one's own memory"},
    {"around_a_guard", around_a_guard, "pages around one that MADV_GUARD_INSTALL guards"},
    {"moved_as_one", moved_as_one, "a mapping of which one side was away"},
    {"discarded_on_its_way", discarded_on_its_way, "a part of a stack is discarded, or cannot be, while its thread goes home"},
    {"protection_keys", protection_keys, "pkey_alloc and what it then promises"},
};

TORTURE_MAIN(tests)
