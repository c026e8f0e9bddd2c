/* record.c - which pages an ordinary program touches, in order: a library to preload, for programs that work in one thread.
 *   RECORD_TO=FILE LD_PRELOAD="record.so libjemalloc.so.2" PROGRAM...
 * The last WINDOW pages that were touched are there, all other pages of anonymous memory are away, so that touching them is a fault (userfaultfd) and
 * gets a line in the trace: 64-bit words, page number << 1 | was it written. A page that was read first has its first write told as well. What a
 * window of WINDOW pages hides are touches that no cache larger than it would miss, if it keeps the pages that came last.
 * Memory is seen when it is mapped by a call of mmap that the loader binds, as jemalloc's, Python's and most programs' own are; glibc's allocator is not. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, WINDOW = 32, MAX_REGIONS = 4096, MIN_BYTES = 65536, LOG_WORDS = 4096 };

struct region {
    uint64_t start, end;
    uint8_t *shadow; /* content of the pages that are away */
    uint8_t *kept;   /* a byte for each page: there is content */
};

static struct region regions[MAX_REGIONS];
static uint32_t n_regions; /* the handler reads it, the program's only thread writes it */
static uint64_t window[WINDOW], newest, log_words[LOG_WORDS];
static uint32_t n_logged;
static int uffd = -1, log_fd = -1;

static void *map(uint64_t bytes)
{
    void *p = (void *)syscall(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static struct region *region_of(uint64_t addr)
{
    for (uint32_t i = __atomic_load_n(&n_regions, __ATOMIC_ACQUIRE); i--;)
        if (addr >= regions[i].start && addr < regions[i].end)
            return &regions[i];
    return NULL;
}

static void log_flush(void)
{
    if (n_logged && write(log_fd, log_words, n_logged * sizeof *log_words) < 0)
        _exit(99);
    n_logged = 0;
}

static void log_add(uint64_t addr, int written)
{
    log_words[n_logged++] = addr / PAGE << 1 | (uint64_t)written;
    if (n_logged == LOG_WORDS)
        log_flush();
}

/* The program's thread waits for its fault: nobody writes to the page meanwhile. */
static void send_away(uint64_t addr)
{
    struct region *r = region_of(addr);
    uint64_t at = addr - r->start;
    memcpy(r->shadow + at, (void *)addr, PAGE);
    r->kept[at / PAGE] = 1;
    syscall(SYS_madvise, addr, PAGE, MADV_DONTNEED);
}

static void serve(uint64_t addr, uint64_t flags)
{
    static const uint8_t zeros[PAGE] __attribute__((aligned(4096)));
    struct region *r = region_of(addr);
    struct uffdio_range range = {addr, PAGE};
    int written = (flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0;
    if (!r)
        _exit(98);
    log_add(addr, written);
    if (flags & UFFD_PAGEFAULT_FLAG_WP) {
        struct uffdio_writeprotect wp = {.range = range};
        ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
        return;
    }
    uint64_t at = addr - r->start;
    struct uffdio_copy copy = {.dst = addr, .src = (uint64_t)(r->kept[at / PAGE] ? r->shadow + at : zeros), .len = PAGE,
                               .mode = UFFDIO_COPY_MODE_DONTWAKE | (written ? 0 : UFFDIO_COPY_MODE_WP)};
    if (ioctl(uffd, UFFDIO_COPY, &copy) && copy.copy != -EEXIST)
        _exit(97);
    uint64_t *oldest = &window[newest++ % WINDOW];
    if (*oldest)
        send_away(*oldest);
    *oldest = addr;
    ioctl(uffd, UFFDIO_WAKE, &range);
}

static void *handler(void *unused)
{
    (void)unused;
    struct pollfd p = {.fd = uffd, .events = POLLIN};
    for (struct uffd_msg m;;) {
        if (read(uffd, &m, sizeof m) == sizeof m)
            serve(m.arg.pagefault.address & ~(uint64_t)(PAGE - 1), m.arg.pagefault.flags);
        else
            poll(&p, 1, -1);
    }
    return NULL;
}

__attribute__((constructor)) static void start(void)
{
    const char *to = getenv("RECORD_TO");
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    pthread_t thread;
    if (!to || uffd >= 0)
        return;
    log_fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (log_fd < 0 || fd < 0 || ioctl(fd, UFFDIO_API, &api))
        _exit(96);
    uffd = fd;
    if (pthread_create(&thread, NULL, handler, NULL))
        _exit(96);
}

__attribute__((destructor)) static void finish(void)
{
    if (log_fd >= 0)
        log_flush();
}

static void watch(uint64_t start_at, uint64_t bytes)
{
    struct region r = {start_at, start_at + bytes, map(bytes), map(bytes / PAGE)};
    struct uffdio_register reg = {.range = {start_at, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP};
    if (n_regions == MAX_REGIONS || !r.shadow || !r.kept)
        _exit(95);
    syscall(SYS_madvise, start_at, bytes, MADV_NOHUGEPAGE);
    regions[n_regions] = r;
    __atomic_store_n(&n_regions, n_regions + 1, __ATOMIC_RELEASE); /* pairs with region_of: before the first fault there */
    if (ioctl(uffd, UFFDIO_REGISTER, &reg))
        _exit(95);
}

void *mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    void *p = (void *)syscall(SYS_mmap, addr, bytes, prot, flags, fd, offset);
    if (p != MAP_FAILED && uffd >= 0 && flags & MAP_ANONYMOUS && flags & MAP_PRIVATE && !(flags & (MAP_STACK | MAP_FIXED)) && prot & PROT_WRITE &&
        bytes >= MIN_BYTES)
        watch((uint64_t)p, (bytes + PAGE - 1) / PAGE * PAGE);
    return p;
}

void *mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset) __attribute__((alias("mmap")));

/* What is watched stays, with its content, unless it is made anew. */
int munmap(void *addr, size_t bytes)
{
    return region_of((uint64_t)addr) ? 0 : (int)syscall(SYS_munmap, addr, bytes);
}

int madvise(void *addr, size_t bytes, int advice)
{
    struct region *r = region_of((uint64_t)addr);
    if (!r || advice != MADV_DONTNEED)
        return r ? 0 : (int)syscall(SYS_madvise, addr, bytes, advice);
    memset(addr, 0, bytes); /* as the program will see it */
    return 0;
}
