/* vm_semantics.c - what a program may rely on of its memory, its descriptors, its signals and its children, as a trace
 * that must be the same natively and under endgame. A small budget and a sweep over PRESS_BYTES before each look make
 * sure that the memory looked at was evicted; a background thread keeps evictions going while calls are under way.
 *
 *   vm_semantics [--press MIB] [--quiet-background] [--without SECTION,...] [SECTION...]   all sections, or the named ones
 *   vm_semantics --list
 *
 * The trace holds no addresses, numbers of processes or times. Natively, PRESS 0 gives the same trace faster. */
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define BACKGROUND_BYTES (64 * MIB)
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#define EG_MADV_GUARD_INSTALL 102
#define EG_MADV_GUARD_REMOVE 103
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

extern char **environ;

static size_t press_bytes = 24 * MIB;
static char *press_area;
static const char *self_path;
static const char *section = "";

/* ---- trace ------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static void out(const char *format, ...)
{
    char line[512];
    int at = snprintf(line, sizeof(line), "%s: ", section);
    va_list args;
    va_start(args, format);
    at += vsnprintf(line + at, sizeof(line) - (size_t)at - 1, format, args);
    va_end(args);
    if (at > (int)sizeof(line) - 2)
        at = (int)sizeof(line) - 2;
    line[at++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)at) != at)
        _exit(9);
}

/* Arguments are evaluated in any order: this one's first, and whatever it did, before the others. */
#define out_after(first, ...)                  \
    do {                                       \
        const char *first_text = (first);      \
        out_rest(first_text, __VA_ARGS__);     \
    } while (0)
#define out_rest(first, format, ...) out(format, first, __VA_ARGS__)

static const char *result(long rc)
{
    static char text[4][48];
    static unsigned next;
    char *to = text[next++ & 3];
    if (rc < 0)
        snprintf(to, sizeof(text[0]), "%s", strerrorname_np(errno));
    else
        snprintf(to, sizeof(text[0]), "%ld", rc);
    return to;
}

static const char *mapped(void *at)
{
    return at == MAP_FAILED ? strerrorname_np(errno) : "ok";
}

/* ---- content ----------------------------------------------------------------------------------------------------- */

static uint64_t word_of(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15ull + index * 0xd1342543de82ef95ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return z ^ (z >> 27);
}

static void fill(void *at, size_t len, uint64_t seed)
{
    uint64_t *w = at;
    for (size_t i = 0; i < len / 8; i++)
        w[i] = word_of(seed, i);
}

/* The part [from, from + len) of what fill(at, ..., seed) wrote. */
static const char *content(const void *at, size_t from, size_t len, uint64_t seed)
{
    static _Thread_local char texts[4][64];
    static _Thread_local unsigned next;
    char *text = texts[next++ & 3];
    const uint64_t *w = at;
    for (size_t i = from / 8; i < (from + len) / 8; i++)
        if (w[i] != word_of(seed, i)) {
            snprintf(text, sizeof(texts[0]), "WRONG at %zu: %016" PRIx64, i * 8, w[i]);
            return text;
        }
    return "right";
}

static const char *zeros(const void *at, size_t len)
{
    static char text[64];
    const uint64_t *w = at;
    for (size_t i = 0; i < len / 8; i++)
        if (w[i]) {
            snprintf(text, sizeof(text), "NOT ZERO at %zu: %016" PRIx64, i * 8, w[i]);
            return text;
        }
    return "zero";
}

static void press(void)
{
    for (size_t i = 0; i < press_bytes; i += PAGE)
        (*(volatile uint64_t *)(press_area + i))++;
}

static void *map(size_t len)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        out("mmap of %zu failed: %s", len, strerrorname_np(errno));
        exit(1);
    }
    return at;
}

static void map_at(void *at, size_t len)
{
    if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
        out("mmap of %zu failed: %s", len, strerrorname_np(errno));
}

/* Memory with content, at an odd page, that was evicted as far as pressure can do it. */
static char *map_evicted(size_t len, uint64_t seed)
{
    char *at = map(len);
    fill(at, len, seed);
    press();
    return at;
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static sigjmp_buf probe_jump;
static volatile sig_atomic_t probe_signal, probe_code;
static void *volatile probe_addr;

static void probe_handler(int number, siginfo_t *info, void *context)
{
    (void)context;
    probe_signal = number;
    probe_code = info->si_code;
    probe_addr = info->si_addr;
    siglongjmp(probe_jump, 1);
}

static const char *probe(void *at, int write_it)
{
    static char text[4][64];
    static unsigned next;
    struct sigaction action = {.sa_sigaction = probe_handler, .sa_flags = SA_SIGINFO}, old_segv, old_bus;
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    char *to = text[next++ & 3];
    if (sigsetjmp(probe_jump, 1)) {
        snprintf(to, sizeof(text[0]), "%s code %d%s", probe_signal == SIGSEGV ? "SIGSEGV" : "SIGBUS", (int)probe_code,
                 (uintptr_t)probe_addr / PAGE == (uintptr_t)at / PAGE ? "" : " elsewhere");
    } else if (write_it) {
        (*(volatile char *)at)++;
        (*(volatile char *)at)--;
        snprintf(to, sizeof(text[0]), "writable");
    } else {
        (void)*(volatile char *)at;
        snprintf(to, sizeof(text[0]), "readable");
    }
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    return to;
}

static const char *reads(void *at) { return probe(at, 0); }
static const char *writes(void *at) { return probe(at, 1); }

static int in_child(void (*body)(void *), void *arg)
{
    pid_t pid = fork();
    if (pid == 0) {
        body(arg);
        _exit(0);
    }
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- mmap, munmap ------------------------------------------------------------------------------------------------ */

static void partial_unmap(void)
{
    size_t len = 7 * MIB + 5 * PAGE;
    char *at = map_evicted(len, 11);
    out("head %s", result(munmap(at, 3 * PAGE)));
    out("middle %s", result(munmap(at + 2 * MIB + PAGE, 1 * MIB)));
    out("across blocks %s", result(munmap(at + 5 * MIB - PAGE, 2 * PAGE)));
    out("tail %s", result(munmap(at + len - 2 * PAGE, 2 * PAGE)));
    press();
    out("head gone: %s; middle gone: %s; tail gone: %s", reads(at + PAGE), reads(at + 2 * MIB + 5 * PAGE), reads(at + len - 1));
    out("before middle %s", content(at, 3 * PAGE, 2 * MIB - 2 * PAGE, 11));
    out("after middle %s", content(at, 3 * MIB + PAGE, 2 * MIB - 2 * PAGE, 11));
    out("rest %s", content(at, 5 * MIB + PAGE, len - 5 * MIB - 3 * PAGE, 11));
    char *again = mmap(at + 2 * MIB + PAGE, 1 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    out("mapped into the hole: %s, %s", again == at + 2 * MIB + PAGE ? "there" : "elsewhere", zeros(again, 1 * MIB));
    out("all at once %s", result(munmap(at, len)));
    out("again %s", result(munmap(at, len)));
}

static void fixed_over(void)
{
    size_t len = 6 * MIB;
    char *at = map_evicted(len, 12);
    out("anonymous over: %s", mapped(mmap(at + MIB + PAGE, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)));
    out("new part %s", zeros(at + MIB + PAGE, MIB));
    fill(at + MIB + PAGE, MIB, 13);
    int fd = open(self_path, O_RDONLY | O_CLOEXEC);
    out("file over: %s", mapped(mmap(at + 3 * MIB, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0)));
    out("file's first bytes: %s", memcmp(at + 3 * MIB, "\177ELF", 4) ? "WRONG" : "right");
    close(fd);
    out("PROT_NONE over: %s", mapped(mmap(at + 4 * MIB, MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0)));
    out("shared over: %s", mapped(mmap(at + 5 * MIB, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0)));
    out("shared part %s", zeros(at + 5 * MIB, PAGE));
    press();
    out("before %s", content(at, 0, MIB + PAGE, 12));
    out("over %s", content(at + MIB + PAGE, 0, MIB, 13));
    out("between %s", content(at, 2 * MIB + PAGE, MIB - PAGE, 12));
    out("after file %s", content(at, 3 * MIB + 2 * PAGE, MIB - 2 * PAGE, 12));
    out("PROT_NONE: %s", reads(at + 4 * MIB + PAGE));
    out_after(result(mprotect(at + 4 * MIB, MIB, PROT_READ | PROT_WRITE)), "PROT_NONE made writable: %s, %s", zeros(at + 4 * MIB, MIB));
    out("end %s", content(at, 5 * MIB + PAGE, MIB - PAGE, 12));
    out_after(mapped(mmap(at + 3 * MIB, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)), "anonymous over file: %s, %s",
        zeros(at + 3 * MIB, 2 * PAGE));
    out("unmap %s", result(munmap(at, len)));
}

static void fixed_noreplace(void)
{
    char *at = map_evicted(4 * MIB, 14);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    out("over: %s", mapped(mmap(at, 4 * MIB, PROT_READ | PROT_WRITE, flags, -1, 0)));
    out("over the end: %s", mapped(mmap(at + 4 * MIB - PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0)));
    press();
    out("content %s", content(at, 0, 4 * MIB, 14));
    out("hole %s", result(munmap(at + MIB, MIB)));
    char *in = mmap(at + MIB, MIB, PROT_READ | PROT_WRITE, flags, -1, 0);
    out_after(mapped(in), "into the hole: %s %s", in == at + MIB ? zeros(in, MIB) : "elsewhere");
    press();
    out("content %s", content(at, 2 * MIB, 2 * MIB, 14));
    munmap(at, 4 * MIB);
}

static void mmap_flags(void)
{
    static const struct {
        int flags;
        const char *name;
    } kinds[] = {{MAP_NORESERVE, "NORESERVE"}, {MAP_POPULATE, "POPULATE"}, {MAP_STACK, "STACK"}, {MAP_LOCKED, "LOCKED"},
                 {MAP_GROWSDOWN, "GROWSDOWN"}, {MAP_32BIT, "32BIT"}, {MAP_NONBLOCK | MAP_POPULATE, "NONBLOCK"}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        char *at = mmap(NULL, 3 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | kinds[i].flags, -1, 0);
        if (at == MAP_FAILED) {
            out("%s: %s", kinds[i].name, mapped(at));
            continue;
        }
        const char *low = kinds[i].flags == MAP_32BIT ? ((uintptr_t)at + 3 * MIB <= 1ul << 32 ? ", low" : ", NOT LOW") : "";
        fill(at, 3 * MIB, 15 + i);
        press();
        out("%s: %s%s", kinds[i].name, content(at, 0, 3 * MIB, 15 + i), low);
        munmap(at, 3 * MIB);
    }
    char *hint = map(8 * MIB);
    munmap(hint, 8 * MIB);
    char *at = mmap(hint, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    out("hint taken: %s", at == hint ? "yes" : "no");
    munmap(at, 4 * MIB);
    at = mmap(hint + 123, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    out_after(mapped(at), "unaligned hint: %s, aligned: %s", (uintptr_t)at % PAGE ? "NO" : "yes");
    munmap(at, 4 * MIB);
    at = (char *)syscall(SYS_mmap, NULL, 4 * MIB - 7, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill(at, 4 * MIB, 29);
    press();
    out("by syscall(), odd length: %s", content(at, 0, 4 * MIB, 29));
    out("munmap by syscall(): %s", result(syscall(SYS_munmap, at, 4 * MIB - 7)));
    out("gone: %s", reads(at + 4 * MIB - 1));
}

static void errors_mmap(void)
{
    int rw = PROT_READ | PROT_WRITE, anon = MAP_PRIVATE | MAP_ANONYMOUS;
    char *at = map_evicted(4 * MIB, 30);
    out("length 0: %s", mapped(mmap(NULL, 0, rw, anon, -1, 0)));
    out("no type: %s", mapped(mmap(NULL, PAGE, rw, MAP_ANONYMOUS, -1, 0)));
    out("fixed unaligned: %s", mapped(mmap(at + 1, PAGE, rw, anon | MAP_FIXED, -1, 0)));
    out("noreplace unaligned: %s", mapped(mmap(at + 1, PAGE, rw, anon | MAP_FIXED_NOREPLACE, -1, 0)));
    out("all of the address space: %s", mapped(mmap(NULL, ~0ul - 2 * PAGE, rw, anon | MAP_NORESERVE, -1, 0)));
    out("more than fits: %s", mapped(mmap(NULL, 1ul << 47, rw, anon | MAP_NORESERVE, -1, 0)));
    out("length overflow: %s", mapped(mmap(NULL, ~0ul, rw, anon, -1, 0)));
    out("offset unaligned: %s", mapped(mmap(NULL, PAGE, rw, anon, -1, 17)));
    out("bad descriptor: %s", mapped(mmap(NULL, PAGE, rw, MAP_PRIVATE, 9999, 0)));
    out("fixed in kernel space: %s", mapped(mmap((void *)(~0ul << 20), PAGE, rw, anon | MAP_FIXED, -1, 0)));
    out("huge pages: %s", mapped(mmap(NULL, 2 * MIB, rw, anon | MAP_HUGETLB, -1, 0)));
    out("munmap unaligned: %s", result(munmap(at + 5, PAGE)));
    out("munmap length 0: %s", result(munmap(at, 0)));
    out("munmap overflow: %s", result(munmap(at, ~0ul)));
    out("mprotect unaligned: %s", result(mprotect(at + 5, PAGE, PROT_READ)));
    out("mprotect length 0: %s", result(mprotect(at, 0, PROT_READ)));
    out("mprotect bad bits: %s", result(mprotect(at, PAGE, 0x40000000)));
    out("mprotect both grows: %s", result(mprotect(at, PAGE, PROT_READ | PROT_GROWSDOWN | PROT_GROWSUP)));
    out("mremap unaligned: %s", mapped(mremap(at + 5, PAGE, 2 * PAGE, MREMAP_MAYMOVE)));
    out("mremap to 0: %s", mapped(mremap(at, PAGE, 0, MREMAP_MAYMOVE)));
    out("mremap from 0: %s", mapped(mremap(at, 0, PAGE, MREMAP_MAYMOVE)));
    out("mremap bad flags: %s", mapped(mremap(at, PAGE, PAGE, 64)));
    out("mremap fixed without maymove: %s", mapped(mremap(at, PAGE, PAGE, MREMAP_FIXED, at + MIB)));
    out("mremap fixed unaligned: %s", mapped(mremap(at, PAGE, PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, at + 1)));
    out("mremap overlapping: %s", mapped(mremap(at, 4 * PAGE, 4 * PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, at + PAGE)));
    out("mremap dontunmap resized: %s", mapped(mremap(at, PAGE, 2 * PAGE, MREMAP_DONTUNMAP | MREMAP_MAYMOVE)));
    out("mremap overflow: %s", mapped(mremap(at, PAGE, ~0ul - PAGE, MREMAP_MAYMOVE)));
    out("madvise unaligned: %s", result(madvise(at + 5, PAGE, MADV_DONTNEED)));
    out("madvise unknown: %s", result(madvise(at, PAGE, 12345)));
    out("madvise length 0: %s", result(madvise(at, 0, MADV_DONTNEED)));
    out("madvise overflow: %s", result(madvise(at, ~0ul, MADV_DONTNEED)));
    out("madvise remove: %s", result(madvise(at, PAGE, MADV_REMOVE)));
    out("msync both: %s", result(msync(at, PAGE, MS_SYNC | MS_ASYNC)));
    out("msync unaligned: %s", result(msync(at + 1, PAGE, MS_SYNC)));
    unsigned char vector[4];
    out("mincore unaligned: %s", result(mincore(at + 1, PAGE, vector)));
    out("mincore bad vector: %s", result(mincore(at, PAGE, (unsigned char *)16)));
    press();
    out("after all of it %s", content(at, 0, 4 * MIB, 30));
    munmap(at + 2 * MIB, MIB);
    out("mprotect over a hole: %s", result(mprotect(at, 4 * MIB, PROT_READ)));
    out("before the hole: %s", writes(at + MIB));
    out("behind the hole: %s", writes(at + 3 * MIB + PAGE));
    out("mremap over a hole: %s", mapped(mremap(at, 4 * MIB, 4 * MIB, 0)));
    out("mremap of nothing: %s", mapped(mremap(at + 2 * MIB, MIB, MIB, MREMAP_MAYMOVE)));
    out("madvise over a hole: %s", result(madvise(at, 4 * MIB, MADV_DONTNEED)));
    out("both sides are empty: %s %s", zeros(at, 2 * MIB), zeros(at + 3 * MIB, MIB));
    out("msync over a hole: %s", result(msync(at, 4 * MIB, MS_SYNC)));
    static unsigned char wide[4 * MIB / PAGE];
    out("mincore over a hole: %s", result(mincore(at, 4 * MIB, wide)));
    out("mlock over a hole: %s", result(mlock(at, 4 * MIB)));
    munlock(at, 4 * MIB);
    munmap(at, 4 * MIB);
}

/* ---- mremap ------------------------------------------------------------------------------------------------------ */

static void mremap_grow(void)
{
    char *area = map(24 * MIB);
    munmap(area, 24 * MIB);
    char *at = mmap(area, 5 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    fill(at, 5 * MIB, 40);
    press();
    char *grown = mremap(at, 5 * MIB, 9 * MIB + PAGE, 0);
    out_after(mapped(grown), "in place: %s, %s", grown == at ? "same place" : "moved");
    out("old part %s", content(at, 0, 5 * MIB, 40));
    out("new part %s", zeros(at + 5 * MIB, 4 * MIB + PAGE));
    char *block = mmap(area + 9 * MIB + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    fill(at, 9 * MIB + PAGE, 41);
    press();
    out("against a wall: %s", mapped(mremap(at, 9 * MIB + PAGE, 12 * MIB, 0)));
    char *moved = mremap(at, 9 * MIB + PAGE, 12 * MIB, MREMAP_MAYMOVE);
    out_after(mapped(moved), "may move: %s, %s", moved == at ? "same place" : "moved");
    press();
    out("moved content %s", content(moved, 0, 9 * MIB + PAGE, 41));
    out("new part %s", zeros(moved + 9 * MIB + PAGE, 3 * MIB - PAGE));
    out("old place: %s", reads(at + MIB));
    munmap(moved, 12 * MIB);
    munmap(block, PAGE);
}

static void mremap_shrink(void)
{
    char *at = map_evicted(8 * MIB, 42);
    char *same = mremap(at, 8 * MIB, 3 * MIB + PAGE, 0);
    out("shrink: %s", same == at ? "same place" : mapped(same));
    out("tail: %s", reads(at + 3 * MIB + PAGE));
    press();
    out("content %s", content(at, 0, 3 * MIB + PAGE, 42));
    out("grow back: %s", mapped(mremap(at, 3 * MIB + PAGE, 8 * MIB, 0)));
    out("grown part %s", zeros(at + 3 * MIB + PAGE, 5 * MIB - PAGE));
    char *part = mremap(at + MIB, 2 * MIB, PAGE, 0);
    out("shrink in the middle: %s; %s; %s", part == at + MIB ? "same place" : mapped(part), reads(at + MIB + PAGE), reads(at + 3 * MIB));
    munmap(at, 8 * MIB);
}

static void mremap_fixed(void)
{
    char *from = map_evicted(5 * MIB, 43), *to = map_evicted(8 * MIB, 44);
    char *at = mremap(from, 5 * MIB, 5 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, to + MIB + PAGE);
    out("onto captured memory: %s", at == to + MIB + PAGE ? "there" : mapped(at));
    out("source: %s", reads(from));
    press();
    out("before %s", content(to, 0, MIB + PAGE, 44));
    out("moved %s", content(at, 0, 5 * MIB, 43));
    out("behind %s", content(to, 6 * MIB + PAGE, 2 * MIB - PAGE, 44));
    /* Part of a mapping, to a place of another offset within its 2 MiB. */
    char *again = mremap(to + 2 * MIB, 2 * MIB, 3 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, from + 3 * PAGE);
    out("a part, grown: %s", again == from + 3 * PAGE ? "there" : mapped(again));
    press();
    out("its content %s", content((char *)again - (MIB - PAGE), MIB - PAGE, 2 * MIB, 43));
    out("its new part %s", zeros(again + 2 * MIB, MIB));
    out("the hole: %s", reads(to + 3 * MIB));
    munmap(to, 8 * MIB);
    munmap(again, 3 * MIB);
}

/* Shared memory in place of captured memory: it is not the pager's any more. */
static void shared_over(void)
{
    char *at = map_evicted(8 * MIB, 45), *shared = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int id = shmget(IPC_PRIVATE, 2 * MIB, IPC_CREAT | 0600);
    if (shared == MAP_FAILED || id < 0) {
        out("no shared memory");
        return;
    }
    fill(shared, 2 * MIB, 46);
    char *again = mremap(shared, 0, 2 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, at + MIB + PAGE);
    out("mremap of 0 bytes onto captured memory: %s", again == at + MIB + PAGE ? "there" : mapped(again));
    again = shmat(id, at + 5 * MIB, 0);
    out("shmat over captured memory: %s", again == at + 5 * MIB ? "there" : mapped(again));
    again = shmat(id, at + 5 * MIB, SHM_REMAP);
    out("SHM_REMAP: %s", again == at + 5 * MIB ? "there" : mapped(again));
    shmctl(id, IPC_RMID, NULL);
    if (again == at + 5 * MIB)
        fill(again, 2 * MIB, 47);
    press();
    out("before %s", content(at, 0, MIB + PAGE, 45));
    out("shared %s", content(at + MIB + PAGE, 0, 2 * MIB, 46));
    out("between %s", content(at, 3 * MIB + PAGE, 2 * MIB - PAGE, 45));
    out("System V's %s", content(at + 5 * MIB, 0, 2 * MIB, 47));
    out("behind %s", content(at, 7 * MIB, MIB, 45));
    munmap(at, 8 * MIB);
    munmap(shared, 2 * MIB);
    map_at(at, 8 * MIB);
    out("anew: %s", zeros(at, 8 * MIB));
    munmap(at, 8 * MIB);
    char *mine = map_evicted(PAGE, 48);
    out("mremap of 0 bytes of private memory: %s", mapped(mremap(mine, 0, PAGE, MREMAP_MAYMOVE)));
    out("its content %s", content(mine, 0, PAGE, 48));
    munmap(mine, PAGE);
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } args = {.exit_signal = SIGCHLD, .stack = (uint64_t)result};
    out("clone3 with a stack of no size: %s", result(syscall(SYS_clone3, &args, sizeof args)));
}

/* A process that begins on a stack of its own; what it was given lies there. */
struct own_stack {
    char *at, *stack;
    pid_t parent;
};

static int on_own_stack(void *arg)
{
    struct own_stack *s = arg;
    char here, *more = map_evicted(MIB, 50);
    int bad = &here < s->stack || &here >= s->stack + MIB || getppid() != s->parent;
    bad |= strcmp(content(s->at, 0, 5 * MIB, 49), "right") << 1;
    fill(s->at, MIB, 51);
    bad |= strcmp(content(more, 0, MIB, 50), "right") << 2;
    pid_t pid = fork();
    if (pid == 0)
        _exit(strcmp(content(s->at, 0, MIB, 51), "right") || strcmp(content(s->at, MIB, 4 * MIB, 49), "right") ? 9 : 8);
    int status = -1;
    bad |= (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 8) << 3;
    return 100 + bad;
}

static struct own_stack *beginning;

static void begin_on_own_stack(void)
{
    _exit(on_own_stack(beginning));
}

static void out_end(const char *what, pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, __WALL);
    out("%s: %s %d", what, WIFEXITED(status) ? "exits with" : "is ended by", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static void own_stack(void)
{
    struct own_stack s = {map_evicted(5 * MIB, 49), map_evicted(MIB, 1), getpid()};
    pid_t tid = -1;
    press();
    for (int i = 0; i < 3; i++)
        out_end("clone", clone(on_own_stack, s.stack + MIB, SIGCHLD, &s));
    pid_t pid = clone(on_own_stack, s.stack + MIB, SIGCHLD | CLONE_PARENT_SETTID | CLONE_FS, &s, &tid);
    out("its number: %s", tid == pid ? "stored" : "lost");
    out_end("clone with a number", pid);
    pid = clone(on_own_stack, s.stack + MIB - 16, CLONE_VFORK, &s);
    out_end("clone of vfork's kind, and no signal", pid);
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } args = {.exit_signal = SIGCHLD, .stack = (uint64_t)s.stack, .stack_size = MIB};
    args.stack_size = MIB - 64; /* syscall(2) returns to what lies there */
    memcpy(s.stack + MIB - 64, &(void *){begin_on_own_stack}, sizeof(void *));
    beginning = &s;
    out_end("clone3", (pid_t)syscall(SYS_clone3, &args, sizeof args));
    args.stack_size = ~0ul - args.stack;
    out("clone3 with a stack beyond everything: %s", result(syscall(SYS_clone3, &args, sizeof args)));
    out("the parent's: %s", content(s.at, 0, 5 * MIB, 49));
    munmap(s.at, 5 * MIB);
    munmap(s.stack, MIB);
}

static void mremap_dontunmap(void)
{
    char *from = map_evicted(5 * MIB, 45);
    char *at = mremap(from, 5 * MIB, 5 * MIB, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    out("dontunmap: %s", mapped(at));
    if (at == MAP_FAILED) {
        munmap(from, 5 * MIB);
        return;
    }
    out("old place: %s, %s", reads(from), zeros(from, 5 * MIB));
    fill(from, 5 * MIB, 46);
    press();
    out("new place %s; old place %s", content(at, 0, 5 * MIB, 45), content(from, 0, 5 * MIB, 46));
    munmap(at, 5 * MIB);
    munmap(from, 5 * MIB);
}

static void mremap_many(void)
{
    /* realloc's pattern: pieces that grow in turns. */
    enum { PIECES = 4 };
    char *piece[PIECES];
    size_t len[PIECES];
    for (int i = 0; i < PIECES; i++) {
        len[i] = MIB;
        piece[i] = map(len[i]);
        fill(piece[i], len[i], 50 + (uint64_t)i);
    }
    for (int round = 0; round < 6; round++)
        for (int i = 0; i < PIECES; i++) {
            size_t more = MIB / 2 + (size_t)(i * 7 + round) * PAGE;
            char *at = mremap(piece[i], len[i], len[i] + more, MREMAP_MAYMOVE);
            if (at == MAP_FAILED) {
                out("piece %d failed", i);
                return;
            }
            if (*content(at, 0, len[i], 50 + (uint64_t)i) != 'r' || *zeros(at + len[i], more) != 'z')
                out("piece %d round %d: %s %s", i, round, content(at, 0, len[i], 50 + (uint64_t)i), zeros(at + len[i], more));
            piece[i] = at;
            len[i] += more;
            fill(at, len[i], 50 + (uint64_t)i);
        }
    press();
    for (int i = 0; i < PIECES; i++) {
        out("piece %d of %zu: %s", i, len[i], content(piece[i], 0, len[i], 50 + (uint64_t)i));
        munmap(piece[i], len[i]);
    }
}

static void mremap_pieces(void)
{
    /* Whole blocks that the kernel may fill as it likes in front of some that were evicted, to the same offset within a block, with nothing around:
     * one mapping to the program, several to a kernel that moves those before the first one that it refuses. */
    char *area = map(24 * MIB), *from = (char *)(((uintptr_t)area + 2 * MIB - 1) & ~(2 * MIB - 1)), *to = from + 10 * MIB;
    munmap(area, 24 * MIB);
    for (int round = 0; round < 4; round++) {
        map_at(from, 6 * MIB);
        fill(from + 2 * MIB, 4 * MIB, 60);
        press();
        fill(from, 2 * MIB, 61);
        char *at = mremap(from, 6 * MIB, 6 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        out("moved: %s; %s", at == to ? "there" : mapped(at), reads(from));
        if (at != to)
            break;
        out("blocks in front %s, behind %s", content(to, 0, 2 * MIB, 61), content(to + 2 * MIB, 0, 4 * MIB, 60));
        munmap(to, 6 * MIB);
    }
}

/* ---- mremap of memory with a thread's block ------------------------------------------------------------------------- */

static void *nothing(void *arg) { return arg; }

/* A thread that came and went, with this stack. */
static void short_thread(char *stack, size_t bytes)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, bytes);
    pthread_t thread;
    int rc = pthread_create(&thread, &attributes, nothing, NULL);
    pthread_attr_destroy(&attributes);
    if (rc || pthread_join(thread, NULL))
        out("no thread: %s", strerrorname_np(rc));
}

struct resize {
    char *at, *to;
    size_t len, new_len;
    int flags;
};

static void resize(void *arg)
{
    const struct resize *r = arg;
    char *at = mremap(r->at, r->len, r->new_len, r->flags, r->to);
    size_t kept = r->new_len < r->len ? r->new_len : r->len;
    out_after(mapped(at), "%s, %s", at == r->at ? "same place" : at == r->to ? "there" : "moved");
    if (at == MAP_FAILED)
        return;
    press();
    out("%s, %s", content(at, 0, kept, 62), zeros(at + kept, r->new_len - kept));
    munmap(at, r->new_len);
}

/* The kernel writes into a thread's control block, so that page is not captured any more. What lies right above a stack is not the thread's,
 * and what has a stack in it is still one mapping. In a child, parts that were once apart stay apart (two anon_vmas). */
static void mremap_stacks(void)
{
    const size_t stack = MIB / 4, len = 3 * MIB;
    for (int how = 0; how < 6; how++) {
        char *area = map(16 * MIB), *at = area + MIB;
        munmap(area, 16 * MIB);
        if (how == 0) {
            map_at(at, len);
            if (mmap(at - stack, stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_FIXED, -1, 0) != at - stack)
                out("no stack: %s", strerrorname_np(errno));
        } else {
            map_at(at, len);
        }
        short_thread(how == 0 ? at - stack : at + MIB, stack);
        fill(at, len, 62);
        press();
        struct resize r[] = {
            {at, NULL, len, 5 * MIB, MREMAP_MAYMOVE},                                         /* above a stack */
            {at, NULL, len, 5 * MIB, 0},                                                      /* around one */
            {at, NULL, len - PAGE, 5 * MIB, MREMAP_MAYMOVE},                                  /* against a wall */
            {at, NULL, len, 2 * MIB, 0},
            {at, at + 6 * MIB + 5 * PAGE, len, len, MREMAP_MAYMOVE | MREMAP_FIXED},
            {at, at + 6 * MIB, len, 4 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED},
        };
        out("child %d: %d", how, in_child(resize, &r[how]));
        resize(&r[how]);
        munmap(area, 16 * MIB);
    }
}

/* ---- mprotect ---------------------------------------------------------------------------------------------------- */

static void protect_keeps(void)
{
    char *at = map_evicted(6 * MIB, 60);
    out("none: %s", result(mprotect(at + MIB, 3 * MIB, PROT_NONE)));
    out("read: %s; write: %s", reads(at + 2 * MIB), writes(at + MIB + PAGE));
    press();
    out("back: %s", result(mprotect(at + MIB, 3 * MIB, PROT_READ | PROT_WRITE)));
    out("content %s", content(at, 0, 6 * MIB, 60));
    out("read only: %s", result(mprotect(at, 2 * MIB + PAGE, PROT_READ)));
    press();
    out("content %s", content(at, 0, 6 * MIB, 60));
    out("write: %s; last: %s; behind: %s", writes(at), writes(at + 2 * MIB), writes(at + 2 * MIB + PAGE));
    press();
    out("evicted, write: %s; read: %s", writes(at + MIB), reads(at + MIB));
    out("write back: %s", result(mprotect(at, 6 * MIB, PROT_READ | PROT_WRITE)));
    fill(at, 6 * MIB, 61);
    press();
    out("content %s", content(at, 0, 6 * MIB, 61));
    /* None before the first touch: an allocator's reservation, committed piece by piece. */
    char *reserved = mmap(NULL, 64 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t i = 0; i < 64 * MIB; i += 16 * MIB) {
        out("commit at %zu: %s", i / MIB, result(mprotect(reserved + i + PAGE, 2 * MIB, PROT_READ | PROT_WRITE)));
        fill(reserved + i + PAGE, 2 * MIB, 62 + i);
    }
    press();
    for (size_t i = 0; i < 64 * MIB; i += 16 * MIB)
        out("piece at %zu: %s; before: %s; behind: %s", i / MIB, content(reserved + i + PAGE, 0, 2 * MIB, 62 + i), reads(reserved + i),
            reads(reserved + i + PAGE + 2 * MIB));
    munmap(reserved, 64 * MIB);
    munmap(at, 6 * MIB);
}

static void protect_exec(void)
{
    /* mov eax, imm32; ret */
    unsigned char *at = mmap(NULL, 3 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < 3 * MIB; i += PAGE) {
        unsigned number = (unsigned)(i / PAGE) * 3;
        at[i] = 0xb8;
        memcpy(at + i + 1, &number, 4);
        at[i + 5] = 0xc3;
    }
    out("read and execute: %s", result(mprotect(at, 3 * MIB, PROT_READ | PROT_EXEC)));
    press();
    unsigned wrong = 0;
    for (size_t i = 0; i < 3 * MIB; i += PAGE) {
        unsigned (*function)(void);
        unsigned char *code = at + i;
        memcpy(&function, &code, sizeof(function));
        wrong += function() != (unsigned)(i / PAGE) * 3;
    }
    out("evicted code ran, wrong: %u", wrong);
    munmap(at, 3 * MIB);
}

static void guard_pages(void)
{
    char *at = map_evicted(4 * MIB, 65);
    for (size_t i = 0; i < 4 * MIB; i += 64 * PAGE)
        if (mprotect(at + i, PAGE, PROT_NONE))
            out("guard failed: %s", strerrorname_np(errno));
    press();
    unsigned faults = 0, right = 0;
    for (size_t i = 0; i < 4 * MIB; i += 64 * PAGE) {
        faults += !strcmp(reads(at + i), "SIGSEGV code 2");
        right += *content(at, i + PAGE, 63 * PAGE, 65) == 'r';
    }
    out("guards %u, right pieces %u", faults, right);
    for (size_t i = 0; i < 4 * MIB; i += 64 * PAGE)
        mprotect(at + i, PAGE, PROT_READ | PROT_WRITE);
    out("without guards %s", content(at, 0, 4 * MIB, 65));
    out("guard install: %s", result(madvise(at + MIB, 4 * PAGE, EG_MADV_GUARD_INSTALL)));
    out("guard hit: %s; beside: %s", reads(at + MIB + PAGE), content(at, MIB + 4 * PAGE, MIB, 65));
    out("guard remove: %s", result(madvise(at + MIB, 4 * PAGE, EG_MADV_GUARD_REMOVE)));
    munmap(at, 4 * MIB);
}

/* ---- madvise ----------------------------------------------------------------------------------------------------- */

static void dontneed(void)
{
    char *at = map_evicted(6 * MIB, 70);
    out("dontneed: %s", result(madvise(at + MIB + PAGE, 3 * MIB, MADV_DONTNEED)));
    out("zeroed: %s", zeros(at + MIB + PAGE, 3 * MIB));
    press();
    out("before %s; still %s; behind %s", content(at, 0, MIB + PAGE, 70), zeros(at + MIB + PAGE, 3 * MIB),
        content(at, 4 * MIB + PAGE, 2 * MIB - PAGE, 70));
    fill(at, 6 * MIB, 71);
    press();
    out("written again %s", content(at, 0, 6 * MIB, 71));
    for (size_t i = 0; i < 6 * MIB; i += 3 * PAGE)
        madvise(at + i, PAGE, MADV_DONTNEED);
    press();
    unsigned wrong = 0;
    for (size_t i = 0; i < 6 * MIB; i += PAGE)
        wrong += i / PAGE % 3 ? *content(at, i, PAGE, 71) != 'r' : *zeros(at + i, PAGE) != 'z';
    out("every third page, wrong: %u", wrong);
    out_after(result(mprotect(at, MIB, PROT_READ)), "read only memory: %s %s", result(madvise(at, MIB, MADV_DONTNEED)));
    out("zeroed: %s", zeros(at, MIB));
    munmap(at, 6 * MIB);
}

static void lazy_free(void)
{
    char *at = map_evicted(4 * MIB, 72);
    out("free: %s", result(madvise(at + PAGE, 2 * MIB, MADV_FREE)));
    press();
    unsigned wrong = 0;
    for (size_t i = PAGE; i < PAGE + 2 * MIB; i += PAGE)
        wrong += *content(at, i, PAGE, 72) != 'r' && *zeros(at + i, PAGE) != 'z';
    out("neither old nor zero: %u", wrong);
    fill(at + PAGE, MIB, 73);
    press();
    out("written after it %s; around %s %s", content(at + PAGE, 0, MIB, 73), content(at, 0, PAGE, 72), content(at, 2 * MIB + PAGE, 2 * MIB - PAGE, 72));
    munmap(at, 4 * MIB);
}

static void hints(void)
{
    static const struct {
        int advice;
        const char *name;
    } kinds[] = {{MADV_NORMAL, "NORMAL"}, {MADV_RANDOM, "RANDOM"}, {MADV_SEQUENTIAL, "SEQUENTIAL"}, {MADV_WILLNEED, "WILLNEED"},
                 {20, "COLD"}, {21, "PAGEOUT"}, {MADV_HUGEPAGE, "HUGEPAGE"}, {MADV_NOHUGEPAGE, "NOHUGEPAGE"},
                 {MADV_POPULATE_READ, "POPULATE_READ"}, {MADV_POPULATE_WRITE, "POPULATE_WRITE"}, {MADV_DONTDUMP, "DONTDUMP"}, {MADV_DODUMP, "DODUMP"}};
    char *at = map_evicted(3 * MIB, 74);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const char *rc = result(madvise(at + PAGE, 2 * MIB, kinds[i].advice));
        if (i % 3 == 2)
            press();
        out("%s: %s, %s", kinds[i].name, rc, content(at, 0, 3 * MIB, 74));
    }
    /* Over a hole what is beside it is advised all the same; what is locked is not paged out. */
    munmap(at + MIB, PAGE);
    out("lock: %s", result(mlock(at + 2 * MIB, 4 * PAGE)));
    for (int i = 0; i < 6; i++) {
        const char *over = result(madvise(at, 2 * MIB, kinds[i].advice)), *odd = result(madvise(at + 8, PAGE, kinds[i].advice));
        const char *locked = result(madvise(at + 2 * MIB, 2 * PAGE, kinds[i].advice)), *of_nothing = result(madvise(at + MIB, PAGE, kinds[i].advice));
        out("%s: over a hole %s, of one %s, odd %s, locked %s", kinds[i].name, over, of_nothing, odd, locked);
        press();
        out("content %s, %s", content(at, 0, MIB, 74), content(at, MIB + PAGE, 2 * MIB - PAGE, 74));
    }
    munmap(at, 3 * MIB);
    char *fresh = map(3 * MIB);
    out_after(result(madvise(fresh, 3 * MIB, MADV_POPULATE_READ)), "populate fresh: %s, %s", zeros(fresh, 3 * MIB));
    munmap(fresh, 3 * MIB);
}

/* Advice by process_madvise, to itself (6.13) and to another process. */
static void process_advice(void)
{
    char *at = map_evicted(4 * MIB, 76);
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    struct iovec part[] = {{at, MIB}, {at + 3 * MIB, PAGE}, {at + 2 * MIB, MIB}}, bad[] = {{at + MIB, PAGE}, {at + 8, PAGE}, {at + MIB + PAGE, PAGE}};
    out("of itself: %s", result(syscall(SYS_process_madvise, self, part, 3, MADV_DONTNEED, 0)));
    for (int i = 0; i < 3; i++)
        out("part %d %s", i, zeros(part[i].iov_base, part[i].iov_len));
    out("rest %s, %s", content(at, MIB, MIB, 76), content(at, 3 * MIB + PAGE, MIB - PAGE, 76));
    out("odd: %s", result(syscall(SYS_process_madvise, self, bad, 3, MADV_DONTNEED, 0)));
    for (int i = 0; i < 3; i += 2)
        out("part %d %s", i, zeros(bad[i].iov_base, PAGE));
    out("no descriptor: %s", result(syscall(SYS_process_madvise, -1, part, 3, MADV_DONTNEED, 0)));
    out("no vector: %s", result(syscall(SYS_process_madvise, self, 8, 1, MADV_DONTNEED, 0)));
    out("flags: %s", result(syscall(SYS_process_madvise, self, part, 1, MADV_DONTNEED, 1)));
    out("cold: %s", result(syscall(SYS_process_madvise, self, part + 1, 1, 20, 0)));
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    int other = (int)syscall(SYS_pidfd_open, child, 0);
    out("of another: %s", result(syscall(SYS_process_madvise, other, bad, 1, MADV_DONTNEED, 0)));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(other);
    close(self);
    munmap(at, 4 * MIB);
}

static void look_at_wiped(void *arg)
{
    char *at = arg;
    out("child: wiped %s", zeros(at, 2 * MIB));
    out("child: kept %s", content(at, 2 * MIB, 2 * MIB, 75));
    out("child: not inherited: %s", reads(at + 4 * MIB + PAGE));
    out("child: behind %s", content(at, 6 * MIB, 2 * MIB, 75));
}

static void fork_advice(void)
{
    char *at = map_evicted(8 * MIB, 75);
    out_after(result(madvise(at, 2 * MIB, MADV_WIPEONFORK)), "wipeonfork: %s; dontfork: %s", result(madvise(at + 4 * MIB, 2 * MIB, MADV_DONTFORK)));
    press();
    out("child ended %d", in_child(look_at_wiped, at));
    out("parent %s", content(at, 0, 8 * MIB, 75));
    munmap(at, 8 * MIB);
}

/* ---- brk --------------------------------------------------------------------------------------------------------- */

static void program_break(void)
{
    /* No malloc may happen in here: its own break would be shrunk away. */
    char *start = sbrk(0);
    uintptr_t up = (PAGE - (uintptr_t)start % PAGE) % PAGE;
    sbrk((intptr_t)up);
    char *at = sbrk((intptr_t)(6 * MIB));
    if (at == (void *)-1) {
        out("sbrk: %s", strerrorname_np(errno));
        return;
    }
    const char *fresh = zeros(at, 6 * MIB);
    fill(at, 6 * MIB, 80);
    press();
    const char *kept = content(at, 0, 6 * MIB, 80);
    int shrunk = brk(at + 3 * MIB + 100);
    press();
    const char *gone = reads(at + 3 * MIB + PAGE);
    int grown = brk(at + 6 * MIB);
    const char *grown_part = zeros(at + 3 * MIB + PAGE, 3 * MIB - PAGE);
    fill(at + 3 * MIB, 3 * MIB, 81);
    press();
    const char *low = content(at, 0, 3 * MIB, 80), *high = content(at + 3 * MIB, 0, 3 * MIB, 81);
    int far_too_far = brk((void *)0x7fffffffe000ul);
    int brk_errno = errno;
    int back = brk(at);
    int below = brk((void *)PAGE);
    brk(start);
    out("fresh %s; kept %s; shrunk %d; gone: %s; grown %d; grown part %s; low %s; high %s", fresh, kept, shrunk, gone, grown, grown_part, low, high);
    out("too far %d %s; back %d; below %d", far_too_far, strerrorname_np(brk_errno), back, below);
}

/* ---- mlock, msync, mincore --------------------------------------------------------------------------------------- */

static void locking(void)
{
    char *at = map_evicted(3 * MIB, 85);
    out("mlock: %s", result(mlock(at, MIB)));
    press();
    out("locked %s", content(at, 0, 3 * MIB, 85));
    out("mlock2 onfault: %s", result(mlock2(at + MIB, MIB, MLOCK_ONFAULT)));
    out("munlock: %s", result(munlock(at, 2 * MIB)));
    out_after(result(msync(at, 3 * MIB, MS_SYNC)), "msync: %s %s %s", result(msync(at, 3 * MIB, MS_ASYNC)), result(msync(at, 3 * MIB, MS_INVALIDATE)));
    static unsigned char vector[3 * MIB / PAGE];
    out("mincore: %s", result(mincore(at, 3 * MIB, vector)));
    out("mlock: %s", result(mlock(at, PAGE)));
    out("munmap while locked: %s", result(munmap(at, 3 * MIB)));
    out("munlockall: %s", result(munlockall()));
}

/* ---- the kernel's own accesses ----------------------------------------------------------------------------------- */

static void kernel_reads_writes(void)
{
    size_t len = 3 * MIB;
    char *from = map_evicted(len, 90), *to = map(len);
    fill(to, len, 91);
    int fd = memfd_create("vm_semantics", MFD_CLOEXEC);
    press();
    out("write: %s", result(write(fd, from, len)));
    press();
    out_after(result(pread(fd, to, len, 0)), "pread: %s, %s", content(to, 0, len, 90));
    fill(to, len, 92);
    press();
    struct iovec vector[3] = {{to, MIB}, {to + 2 * MIB, MIB}, {to + MIB, MIB}};
    out("readv: %s", result(lseek(fd, 0, SEEK_SET) ?: readv(fd, vector, 3)));
    out("parts: %d %d %d", !memcmp(to, from, MIB), !memcmp(to + 2 * MIB, from + MIB, MIB), !memcmp(to + MIB, from + 2 * MIB, MIB));
    press();
    out("pwritev: %s", result(pwritev(fd, vector, 3, 0)));
    press();
    out_after(result(pread(fd, to, len, 0)), "pread: %s, %s", content(to, 0, len, 90));
    /* The vector itself in evicted memory. */
    struct iovec *far_vector = map(MIB);
    far_vector[0] = (struct iovec){to, MIB};
    far_vector[1] = (struct iovec){to + MIB, 2 * MIB};
    press();
    out("vector evicted: %s", result(preadv(fd, far_vector, 2, 0)));
    out("content %s", content(to, 0, len, 90));
    int ends[2];
    out("pipe2: %s", result(pipe2(ends, O_CLOEXEC)));
    unsigned bad = 0;
    for (size_t i = 0; i < len; i += 32768) {
        if (i % MIB == 0)
            press();
        bad += write(ends[1], from + i, 32768) != 32768;
        bad += read(ends[0], to + (i + 5 * 32768) % len, 32768) != 32768;
    }
    for (size_t i = 0; i < len; i += 32768)
        bad += memcmp(from + i, to + (i + 5 * 32768) % len, 32768) != 0;
    out("pipe, bad: %u", bad);
    fill(to, len, 93);
    press();
    struct iovec spliced = {from, 65536};
    out("vmsplice: %s", result(vmsplice(ends[1], &spliced, 1, 0)));
    out_after(result(read(ends[0], to, 65536)), "read back: %s, same: %d", !memcmp(from, to, 65536));
    close(ends[0]);
    close(ends[1]);
    out("getrandom: %s", result(getrandom(to, MIB, 0)));
    out("looks random: %s", *zeros(to + MIB - 64, 64) == 'N' ? "yes" : "no");
    char *none = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    out("read into PROT_NONE: %s", result(pread(fd, none, PAGE, 0)));
    mprotect(none, PAGE, PROT_READ);
    out("read into read only: %s", result(pread(fd, none, PAGE, 0)));
    munmap(none, PAGE);
    out("read into nothing: %s", result(pread(fd, none, PAGE, 0)));
    out("write from nothing: %s", result(pwrite(fd, none, PAGE, 0)));
    munmap(to + MIB, MIB);
    out("read over a hole: %s", result(pread(fd, to, len, 0)));
    out("before the hole %s", content(to, 0, MIB, 90));
    close(fd);
    munmap(to, len);
    munmap(from, len);
    munmap(far_vector, MIB);
}

static void kernel_messages(void)
{
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
    struct far {
        struct msghdr header;
        struct iovec vector[4];
        char pad[2 * PAGE];
        char control[256];
        char data[4][64 * 1024];
    } *send_side = map(MIB), *receive_side = map(MIB);
    for (int side = 0; side < 2; side++) {
        struct far *f = side ? receive_side : send_side;
        for (int i = 0; i < 4; i++) {
            f->vector[i] = (struct iovec){f->data[i], 32768};
            fill(f->data[i], sizeof(f->data[i]), (uint64_t)(side ? 200 : 100 + i));
        }
        f->header = (struct msghdr){.msg_iov = f->vector, .msg_iovlen = 1, .msg_control = f->control, .msg_controllen = CMSG_SPACE(sizeof(int))};
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&send_side->header);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    int passed = 1;
    memcpy(CMSG_DATA(c), &passed, sizeof(passed));
    press();
    out("sendmsg: %s", result(sendmsg(pair[0], &send_side->header, 0)));
    press();
    out("recvmsg: %s", result(recvmsg(pair[1], &receive_side->header, MSG_CMSG_CLOEXEC)));
    press();
    out("content %s", content(receive_side->data[0], 0, 32768, 100));
    c = CMSG_FIRSTHDR(&receive_side->header);
    int got = -1;
    if (c)
        memcpy(&got, CMSG_DATA(c), sizeof(got));
    struct stat here, there;
    out("descriptor passed: %s", c && !fstat(got, &there) && !fstat(1, &here) && here.st_ino == there.st_ino ? "yes" : "no");
    if (got >= 0)
        close(got);

    struct pollfd *fds = map(MIB);
    fds[3] = (struct pollfd){.fd = pair[0], .events = POLLOUT};
    press();
    out_after(result(poll(fds + 3, 1, 1000)), "poll: %s, %d", (int)fds[3].revents);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event *event = map(MIB);
    event[0] = (struct epoll_event){.events = EPOLLIN, .data.u64 = 77};
    press();
    out("epoll_ctl: %s", result(epoll_ctl(ep, EPOLL_CTL_ADD, pair[1], event)));
    if (write(pair[0], "x", 1) != 1)
        out("write failed");
    press();
    out_after(result(epoll_wait(ep, event + 8, 4, 1000)), "epoll_wait: %s, %d", (int)event[8].data.u64);
    close(ep);
    struct utsname *name = map(MIB);
    press();
    out_after(result(uname(name)), "uname: %s %s", name->sysname);
    char *path = map(MIB);
    strcpy(path + 5, "/dev/null");
    press();
    int fd = open(path + 5, O_RDWR | O_CLOEXEC);
    out("open: %s", fd >= 0 ? "ok" : strerrorname_np(errno));
    close(fd);
    press();
    struct stat *st = map(MIB);
    out_after(result(stat(path + 5, st)), "stat: %s, %s", S_ISCHR(st->st_mode) ? "device" : "WRONG");
    press();
    out("getcwd: %s", getcwd(path + 3 * PAGE, 4096) ? "ok" : strerrorname_np(errno));
    struct timespec *time = map(MIB);
    time[0] = (struct timespec){0, 1000};
    press();
    out("nanosleep: %s", result(nanosleep(time, time + 600)));
    struct rlimit *limit = map(MIB);
    press();
    out_after(result(getrlimit(RLIMIT_STACK, limit)), "getrlimit: %s, %s", limit->rlim_max ? "ok" : "WRONG");
    /* A mask over the whole process: nothing of the runtime may depend on signals that a program blocks. */
    sigset_t *set = map(MIB), *old = (sigset_t *)((char *)set + 5 * PAGE);
    sigfillset(set);
    press();
    out("sigprocmask: %s", result(sigprocmask(SIG_SETMASK, set, old)));
    press();
    out("with all signals blocked %s", content(receive_side->data[0], 0, 32768, 100));
    out("sigprocmask: %s", result(sigprocmask(SIG_SETMASK, old, NULL)));
    DIR *dir = opendir("/proc/self/task");
    unsigned entries = 0;
    while (dir && readdir(dir))
        entries++;
    out("directory entries: %s", entries >= 3 ? "some" : "NONE");
    if (dir)
        closedir(dir);
    close(pair[0]);
    close(pair[1]);
    munmap(send_side, MIB), munmap(receive_side, MIB), munmap(fds, MIB), munmap(event, MIB), munmap(name, MIB), munmap(path, MIB);
    munmap(st, MIB), munmap(time, MIB), munmap(limit, MIB), munmap(set, MIB);
}

static void read_parent(void *arg)
{
    char *at = arg;
    /* The address means the parent's memory; this copy must not be touched. */
    static char local[65536];
    for (size_t i = 0; i < 2 * MIB; i += sizeof(local)) {
        struct iovec mine = {local, sizeof(local)}, theirs = {at + i, sizeof(local)};
        if (process_vm_readv(getppid(), &mine, 1, &theirs, 1, 0) != (ssize_t)sizeof(local)) {
            out("process_vm_readv: %s", strerrorname_np(errno));
            return;
        }
        for (size_t w = 0; w < sizeof(local) / 8; w++)
            if (((uint64_t *)(void *)local)[w] != word_of(94, i / 8 + w)) {
                out("process_vm_readv: WRONG at %zu", i + w * 8);
                return;
            }
    }
    out("process_vm_readv right");
}

/* The kernel reads another's memory (and /proc/self/mem) without waiting for a userfaultfd: natively right, far EIO. */
static void proc_self_mem(void)
{
    char *at = map_evicted(3 * MIB, 94), *to = map(3 * MIB);
    int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    out("open: %s", fd >= 0 ? "ok" : strerrorname_np(errno));
    if (fd >= 0) {
        press();
        out_after(result(pread(fd, to, 2 * MIB, (off_t)(uintptr_t)at)), "read: %s, %s", content(to, 0, 2 * MIB, 94));
        uint64_t marker = 0x1122334455667788ull;
        press();
        out("write: %s", result(pwrite(fd, &marker, 8, (off_t)(uintptr_t)(at + MIB))));
        press();
        out("written: %s", *(uint64_t *)(void *)(at + MIB) == marker ? "yes" : "no");
        close(fd);
    }
    munmap(at, 3 * MIB);
    munmap(to, 3 * MIB);
}

static void peer_memory(void)
{
    char *at = map_evicted(3 * MIB, 94);
    press();
    out("child ended %d", in_child(read_parent, at));
    munmap(at, 3 * MIB);
}

static void shared_futex(void)
{
    char *at = map_evicted(3 * MIB, 94);
    _Atomic int *word = (_Atomic int *)(void *)(at + 2 * MIB);
    *word = 5;
    struct timespec soon = {0, 1000000};
    press();
    out("futex, other value: %s", result(syscall(SYS_futex, word, FUTEX_WAIT, 4, NULL, NULL, 0)));
    press();
    out("futex, time-out: %s", result(syscall(SYS_futex, word, FUTEX_WAIT, 5, &soon, NULL, 0)));
    press();
    out("futex wake: %s", result(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0)));
    munmap(at, 3 * MIB);
}

static void direct_io(void)
{
    char path[] = "vm_semantics.XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        out("no file: %s", strerrorname_np(errno));
        return;
    }
    char *at = map_evicted(2 * MIB, 95);
    out("write: %s", result(write(fd, at, 2 * MIB)));
    fsync(fd);
    close(fd);
    fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    out("O_DIRECT: %s", fd >= 0 ? "ok" : strerrorname_np(errno));
    if (fd >= 0) {
        char *to = map(4 * MIB);
        fill(to, 4 * MIB, 96);
        press();
        out_after(result(pread(fd, to + MIB, 2 * MIB, 0)), "read: %s, %s", content(to + MIB, 0, 2 * MIB, 95));
        fill(to + MIB, 2 * MIB, 97);
        press();
        out("write: %s", result(pwrite(fd, to + MIB, 2 * MIB, 0)));
        press();
        out("around %s", content(to, 0, MIB, 96));
        out_after(result(pread(fd, at, 2 * MIB, 0)), "read: %s, %s", content(at, 0, 2 * MIB, 97));
        munmap(to, 4 * MIB);
        close(fd);
    }
    unlink(path);
    munmap(at, 2 * MIB);
}

/* sigaction reports glibc's own SA_RESTORER (0x04000000) on some architectures. */

/* ---- signals ----------------------------------------------------------------------------------------------------- */

static char *alternate_stack;
static volatile sig_atomic_t handled, on_alternate;

static void on_alternate_handler(int number)
{
    char here[3 * PAGE];
    memset(here, number, sizeof(here));
    __asm__ volatile("" ::"r"(here) : "memory");
    on_alternate += &here[0] > alternate_stack && &here[0] < alternate_stack + MIB;
    handled++;
}

static void alternate_stacks(void)
{
    alternate_stack = malloc(MIB);
    stack_t stack = {.ss_sp = alternate_stack, .ss_size = MIB}, old;
    out("sigaltstack: %s", result(sigaltstack(&stack, &old)));
    struct sigaction action = {.sa_handler = on_alternate_handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < 5; i++) {
        press();
        raise(SIGUSR1);
    }
    out("handled %d, on the alternate stack %d", (int)handled, (int)on_alternate);
    stack_t now;
    sigaltstack(NULL, &now);
    out("reported: %s", now.ss_sp == stack.ss_sp && now.ss_size == stack.ss_size && now.ss_flags == 0 ? "same" : "OTHER");
    old.ss_flags |= old.ss_sp ? 0 : SS_DISABLE;
    sigaltstack(&old, NULL);
    signal(SIGUSR1, SIG_DFL);
    free(alternate_stack);
}

static char *lazy_area;
static volatile sig_atomic_t lazy_faults;

static void lazy_handler(int number, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t page = (uintptr_t)info->si_addr & ~(PAGE - 1);
    if (number != SIGSEGV || page < (uintptr_t)lazy_area || page >= (uintptr_t)lazy_area + 6 * MIB)
        _exit(8);
    lazy_faults++;
    if (mprotect((void *)page, 16 * PAGE, PROT_READ | PROT_WRITE))
        _exit(7);
}

static void own_segv_handler(void)
{
    /* The write barrier of a garbage collector: read only, and a handler that opens it. */
    lazy_area = map_evicted(6 * MIB, 100);
    struct sigaction action = {.sa_sigaction = lazy_handler, .sa_flags = SA_SIGINFO}, old;
    sigaction(SIGSEGV, &action, &old);
    for (int round = 0; round < 2; round++) {
        mprotect(lazy_area, 6 * MIB, round ? PROT_NONE : PROT_READ);
        press();
        for (size_t i = 0; i < 6 * MIB; i += PAGE)
            ((uint64_t *)(void *)(lazy_area + i))[1]++;
        out("round %d: %d faults", round, (int)lazy_faults);
    }
    unsigned wrong = 0;
    for (size_t i = 0; i < 6 * MIB / 8; i++)
        wrong += ((uint64_t *)(void *)lazy_area)[i] != word_of(100, i) + (i % 512 == 1 ? 2 : 0);
    out("wrong words: %u", wrong);
    struct sigaction now;
    sigaction(SIGSEGV, &old, &now);
    out("handler reported: %s, flags %s", now.sa_sigaction == lazy_handler ? "same" : "OTHER", (now.sa_flags & ~0x04000000) == SA_SIGINFO ? "same" : "OTHER");
    munmap(lazy_area, 6 * MIB);
}

static volatile sig_atomic_t bus_count, bus_code;

static void bus_counter(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    bus_count++;
    bus_code = info->si_code;
}

static void own_bus_handler(void)
{
    struct sigaction action = {.sa_sigaction = bus_counter, .sa_flags = SA_SIGINFO | SA_RESTART}, first, now;
    out("install: %s", result(sigaction(SIGBUS, &action, &first)));
    out("before: %s", first.sa_handler == SIG_DFL ? "default" : first.sa_handler == SIG_IGN ? "ignored" : "OTHER");
    char *at = map_evicted(4 * MIB, 101);
    out("content %s", content(at, 0, 4 * MIB, 101));
    raise(SIGBUS);
    out("raised: count %d, code %d", (int)bus_count, (int)bus_code);
    kill(getpid(), SIGBUS);
    out("killed: count %d, code %d", (int)bus_count, (int)bus_code);
    sigaction(SIGBUS, NULL, &now);
    out("reported: %s", now.sa_sigaction == bus_counter && (now.sa_flags & ~0x04000000) == (SA_SIGINFO | SA_RESTART) ? "same" : "OTHER");
    sigset_t set, old, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    sigaddset(&set, SIGSEGV);
    sigprocmask(SIG_BLOCK, &set, &old);
    press();
    out("with SIGBUS blocked %s", content(at, 0, 4 * MIB, 101));
    raise(SIGBUS);
    sigpending(&pending);
    out("blocked: count %d, pending %d", (int)bus_count, sigismember(&pending, SIGBUS));
    sigprocmask(SIG_SETMASK, &old, &set);
    out("unblocked: count %d, was blocked %d", (int)bus_count, sigismember(&set, SIGBUS));
    sigaction(SIGBUS, &first, NULL);
    int fd = memfd_create("short", MFD_CLOEXEC);
    char *file = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    out("behind the end of a file: %s", reads(file));
    munmap(file, 2 * PAGE);
    close(fd);
    signal(SIGBUS, SIG_IGN);
    raise(SIGBUS);
    press();
    out("with SIGBUS ignored %s", content(at, 0, 4 * MIB, 101));
    signal(SIGBUS, SIG_DFL);
    munmap(at, 4 * MIB);
}

static void die_by(void *arg)
{
    char *at = arg;
    *(volatile char *)at = 1;
}

static void crash(void)
{
    struct rlimit none = {0, 0}, old;
    getrlimit(RLIMIT_CORE, &old);
    setrlimit(RLIMIT_CORE, &none);
    char *at = map_evicted(MIB, 102);
    mprotect(at, MIB, PROT_READ);
    out("write to read only ends by %d", in_child(die_by, at));
    munmap(at, MIB);
    out("write to nothing ends by %d", in_child(die_by, at));
    out("write to NULL ends by %d", in_child(die_by, NULL));
    setrlimit(RLIMIT_CORE, &old);
}

static volatile sig_atomic_t ticks;
static char *tick_area;

static void tick(int number)
{
    (void)number;
    ticks++;
    /* Touches far memory from a handler that may have interrupted a fault, or the runtime. */
    size_t page = (size_t)ticks * 37 % (4 * MIB / PAGE);
    if (((uint64_t *)(void *)(tick_area + page * PAGE))[3] != word_of(104, page * 512 + 3))
        _exit(6);
}

static void timer_signals(void)
{
    char *at = map(8 * MIB);
    fill(at, 8 * MIB, 103);
    tick_area = map_evicted(4 * MIB, 104);
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval fast = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &fast, NULL);
    const char *first = NULL;
    for (int round = 0; round < 3; round++) {
        press();
        first = content(at, 0, 8 * MIB, 103);
        char *more = map(MIB);
        fill(more, MIB, 105);
        munmap(more, MIB);
        if (*first != 'r')
            break;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    signal(SIGALRM, SIG_DFL);
    out("under a 2 kHz timer %s, ticks %s", first, ticks > 3 ? "some" : "none");
    munmap(at, 8 * MIB); /* not tick_area: another thread may still be in the handler */
}

static void longjmp_out(int number)
{
    (void)number;
    siglongjmp(probe_jump, 1);
}

static void jump_out_of_handler(void)
{
    char *at = map(6 * MIB);
    fill(at, 6 * MIB, 106);
    signal(SIGALRM, longjmp_out);
    volatile int jumps = 0;
    for (volatile int i = 0; i < 30; i++) {
        if (sigsetjmp(probe_jump, 1)) {
            jumps++;
            continue;
        }
        struct itimerval once = {{0, 0}, {0, 300 + i * 100}};
        setitimer(ITIMER_REAL, &once, NULL);
        for (;;)
            (void)content(at, 0, 6 * MIB, 106);
    }
    signal(SIGALRM, SIG_DFL);
    press();
    out("jumps %d, %s", jumps, content(at, 0, 6 * MIB, 106));
    munmap(at, 6 * MIB);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static sem_t *stack_go;

static uint64_t deep(unsigned depth, uint64_t seed)
{
    volatile uint64_t frame[64];
    for (unsigned i = 0; i < 64; i++)
        frame[i] = word_of(seed + depth, i);
    uint64_t below = depth ? deep(depth - 1, seed) : 0;
    if (!depth)
        sem_wait(stack_go);
    for (unsigned i = 0; i < 64; i++)
        if (frame[i] != word_of(seed + depth, i))
            return ~0ull;
    return below == ~0ull ? below : below + frame[depth & 63];
}

static void *on_given_stack(void *arg)
{
    return (void *)(uintptr_t)deep(1200, (uintptr_t)arg);
}

static void thread_stacks(void)
{
    enum { N = 4 };
    pthread_t threads[N];
    char *stacks[N];
    sem_t far_sem;
    stack_go = &far_sem;
    sem_init(stack_go, 0, 0);
    for (uintptr_t i = 0; i < N; i++) {
        stacks[i] = memalign(PAGE, 2 * MIB);
        memset(stacks[i], 0x5a, 2 * MIB);
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        out("setstack: %d", pthread_attr_setstack(&attributes, stacks[i], 2 * MIB));
        out("create: %d", pthread_create(&threads[i], &attributes, on_given_stack, (void *)(i + 300)));
        pthread_attr_destroy(&attributes);
    }
    usleep(50000);
    press();
    press();
    for (int i = 0; i < N; i++)
        sem_post(stack_go);
    for (int i = 0; i < N; i++) {
        void *sum;
        pthread_join(threads[i], &sum);
        out("thread %d: %s", i, sum == (void *)~0ul ? "WRONG" : "right");
        free(stacks[i]);
    }
    sem_destroy(stack_go);
    unsigned failed = 0;
    for (int round = 0; round < 50; round++) {
        pthread_t one;
        if (pthread_create(&one, NULL, (void *(*)(void *))(uintptr_t)getpid, NULL) || pthread_join(one, NULL))
            failed++;
    }
    out("short threads, failed: %u", failed);
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

static void child_of_fork(void *arg)
{
    char *at = arg;
    press();
    out("child: %s", content(at, 0, 6 * MIB, 110));
    fill(at + MIB, 2 * MIB, 111);
    char *own = map_evicted(3 * MIB, 112);
    press();
    out("child: changed %s, own %s, rest %s", content(at + MIB, 0, 2 * MIB, 111), content(own, 0, 3 * MIB, 112), content(at, 3 * MIB, 3 * MIB, 110));
    out("child: unmap %s", result(munmap(at, 2 * MIB)));
    pid_t pid = fork();
    if (pid == 0) {
        press();
        out("grandchild: %s %s", content(at + MIB, MIB, MIB, 111), content(at, 3 * MIB, 3 * MIB, 110));
        out("grandchild: unmapped: %s", reads(at));
        _exit(33);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    out("grandchild ended %d", WEXITSTATUS(status));
}

static void forking(void)
{
    char *at = map_evicted(6 * MIB, 110);
    int *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    out("child ended %d", in_child(child_of_fork, at));
    out("parent: %s", content(at, 0, 6 * MIB, 110));
    fill(at, 6 * MIB, 113);
    pid_t children[4];
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            press();
            int right = *content(at, 0, 6 * MIB, 113 + (uint64_t)i) == 'r';
            fill(at, 6 * MIB, 120 + (uint64_t)i);
            press();
            right += *content(at, 0, 6 * MIB, 120 + (uint64_t)i) == 'r';
            __atomic_fetch_add(shared, right, __ATOMIC_SEQ_CST);
            _exit(right);
        }
        fill(at, 6 * MIB, 114 + (uint64_t)i);
    }
    for (int i = 0; i < 4; i++) {
        int status = 0;
        waitpid(children[i], &status, 0);
        out("child %d: %d", i, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
    }
    out("parent: %s; shared count %d", content(at, 0, 6 * MIB, 117), *shared);
    munmap(at, 6 * MIB);
    munmap(shared, PAGE);
}

static int spawn_and_wait(char *const argv[], int how)
{
    pid_t pid = -1;
    switch (how) {
    case 0:
        if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ))
            return -1;
        break;
    case 1:
        pid = vfork();
        if (pid == 0) {
            execve(argv[0], argv, environ);
            _exit(127);
        }
        break;
    default:
        pid = fork();
        if (pid == 0) {
            execve(argv[0], argv, environ);
            _exit(127);
        }
    }
    int status = -1;
    if (waitpid(pid, &status, 0) != pid)
        return -2;
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void executing(void)
{
    char *at = map_evicted(4 * MIB, 130);
    /* Arguments and their strings in evicted memory. */
    char **argv = map(MIB);
    char *strings = map(MIB);
    strcpy(strings, self_path);
    strcpy(strings + 5 * PAGE, "--child");
    argv[0] = strings;
    argv[1] = strings + 5 * PAGE;
    argv[2] = NULL;
    for (int how = 0; how < 3; how++) {
        press();
        out("%s: %d", how == 0 ? "posix_spawn" : how == 1 ? "vfork" : "fork and exec", spawn_and_wait(argv, how));
        out("content %s", content(at, 0, 4 * MIB, 130));
    }
    char *const missing[] = {(char *)"/nonexistent/program", NULL};
    out("missing program: %d, %d", spawn_and_wait(missing, 1), spawn_and_wait(missing, 2));
    out("system: %d", system("echo from the shell; exit 3"));
    FILE *pipe = popen("echo through a pipe", "r");
    char line[64] = "";
    out("popen: %s", pipe && fgets(line, sizeof(line), pipe) ? "read" : "nothing");
    out("line: %.19s", line);
    out("pclose: %d", pipe ? pclose(pipe) : -1);
    press();
    out("content %s", content(at, 0, 4 * MIB, 130));
    munmap(at, 4 * MIB);
    munmap(argv, MIB);
    munmap(strings, MIB);
}

static void *fork_in_thread(void *arg)
{
    char *at = arg;
    pid_t pid = fork();
    if (pid == 0) {
        press();
        _exit(*content(at, 0, 4 * MIB, 131) == 'r' ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return (void *)(intptr_t)status;
}

static void fork_from_threads(void)
{
    char *at = map_evicted(4 * MIB, 131);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, fork_in_thread, at);
    for (int i = 0; i < 3; i++) {
        void *status;
        pthread_join(threads[i], &status);
        out("thread %d's child: %d", i, (int)(intptr_t)status);
    }
    munmap(at, 4 * MIB);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static void close_range_child(void *arg)
{
    out("close_range: %s", result(syscall(SYS_close_range, 3u, ~0u, 0u)));
    press();
    out("content %s", content(arg, 0, 4 * MIB, 140));
    int fd = open("/dev/null", O_RDONLY);
    out("lowest descriptor: %d", fd);
    close(fd);
    out("close_range cloexec: %s", result(syscall(SYS_close_range, 3u, ~0u, 4u)));
    out("close_range unshare: %s", result(syscall(SYS_close_range, 3u, ~0u, 2u)));
    press();
    fill(arg, 4 * MIB, 141);
    press();
    out("content %s", content(arg, 0, 4 * MIB, 141));
}

static void closefrom_child(void *arg)
{
    syscall(SYS_close_range, 3u, ~0u, 0u);
    long limit = sysconf(_SC_OPEN_MAX), closed = 0, other = 0;
    if (limit > 200000)
        limit = 200000;
    for (int fd = (int)limit - 1; fd >= 3; fd--)
        if (!close(fd))
            closed++;
        else if (errno != EBADF)
            other++;
    out("closed %ld, errors other than EBADF %ld", closed, other);
    press();
    out("content %s", content(arg, 0, 4 * MIB, 140));
    closefrom(3);
    press();
    out("content %s", content(arg, 0, 4 * MIB, 140));
    pid_t pid = fork();
    if (pid == 0) {
        closefrom(0);
        press();
        _exit(*content(arg, 0, 4 * MIB, 140) == 'r' ? 21 : 22);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    out("without any descriptor: %d", WEXITSTATUS(status));
}

static void listed_child(void *arg)
{
    /* What Python's subprocess and many daemons do. */
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) > 2 && atoi(entry->d_name) != dirfd(dir))
            close(atoi(entry->d_name));
    if (dir)
        closedir(dir);
    press();
    out("content %s", content(arg, 0, 4 * MIB, 140));
}

static void dup_child(void *arg)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    unsigned wrong = 0;
    for (int i = 1; i <= 64; i++)
        wrong += dup2(1, (int)limit.rlim_cur - i) != (int)limit.rlim_cur - i;
    out("dup2 onto the highest, wrong: %u", wrong);
    for (int fd = 3; fd < 1024; fd++)
        wrong += dup3(1, fd, O_CLOEXEC) != fd;
    out("dup3 onto 3 to 1023, wrong: %u", wrong);
    press();
    out("content %s", content(arg, 0, 4 * MIB, 140));
    int ends[2];
    close(3), close(4);
    out_after(result(pipe(ends)), "pipe: %s %d %d", ends[0], ends[1]);
    int high = (int)limit.rlim_cur - 5;
    char buffer[8] = "";
    out("through a high one: %d", dup2(ends[1], high) == high && write(high, "high", 4) == 4 && read(ends[0], buffer, 8) == 4 && !strcmp(buffer, "high"));
    press();
    out("content %s", content(arg, 0, 4 * MIB, 140));
}

/* The runtime keeps the few that it needs, if it can have none beyond the program's. */
static void all_taken_child(void *arg)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    int few = 16, refused = 0, lost = 0;
    for (int fd = 3; fd < (int)limit.rlim_cur; fd++)
        refused += dup2(1, fd) != fd && errno == EMFILE;
    press();
    out("dup2 onto all, refused: %s; content %s", refused < few ? "few" : "many", content(arg, 0, 4 * MIB, 140));
    for (int fd = 3; fd < (int)limit.rlim_cur; fd++)
        lost += close(fd) != 0;
    press();
    out("could not be closed: %s; content %s", lost < few ? "few" : "many", content(arg, 0, 4 * MIB, 140));
}

static void limit_child(void *arg)
{
    syscall(SYS_close_range, 3u, ~0u, 0u);
    struct rlimit limit = {64, 64}, old, now;
    out("setrlimit: %s", result(prlimit(0, RLIMIT_NOFILE, &limit, &old)));
    getrlimit(RLIMIT_NOFILE, &now);
    out("now %d of %d", (int)now.rlim_cur, (int)now.rlim_max);
    int fd, opened = 0;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0)
        opened++;
    out("opened %d, then %s", opened, strerrorname_np(errno));
    press();
    char *more = map_evicted(3 * MIB, 142);
    out("content %s, %s", content(arg, 0, 4 * MIB, 140), content(more, 0, 3 * MIB, 142));
    /* The child's runtime needs a few of its own. */
    for (fd = 40; fd < 56; fd++)
        close(fd);
    pid_t pid = fork();
    if (pid == 0) {
        press();
        _exit(*content(arg, 0, 4 * MIB, 140) == 'r' ? 23 : 24);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    out("child with few descriptors: %d", WEXITSTATUS(status));
}

static void descriptors(void)
{
    char *at = map_evicted(4 * MIB, 140);
    out("close_range child: %d", in_child(close_range_child, at));
    out("closefrom child: %d", in_child(closefrom_child, at));
    out("listed child: %d", in_child(listed_child, at));
    out("dup child: %d", in_child(dup_child, at));
    out("all taken child: %d", in_child(all_taken_child, at));
    out("limit child: %d", in_child(limit_child, at));
    out("parent %s", content(at, 0, 4 * MIB, 140));
    munmap(at, 4 * MIB);
}

/* ---- libraries, allocator ---------------------------------------------------------------------------------------- */

static void libraries(void)
{
    char *at = map_evicted(2 * MIB, 150);
    void *library = dlopen("libresolv.so.2", RTLD_NOW | RTLD_LOCAL);
    out("dlopen: %s", library ? "ok" : dlerror());
    if (library) {
        press();
        out("dlsym: %s", dlsym(library, "inet_net_pton") || dlsym(library, "__b64_ntop") || dlsym(library, "b64_ntop") ? "ok" : "missing");
        out("dlclose: %d", dlclose(library));
    }
    out("missing library: %s", dlopen("libnowhere-at-all.so", RTLD_NOW) ? "FOUND" : "not found");
    press();
    out("content %s", content(at, 0, 2 * MIB, 150));
    munmap(at, 2 * MIB);
}

static void allocator(void)
{
    enum { N = 3000 };
    char **block = calloc(N, sizeof(*block));
    for (size_t i = 0; i < N; i++) {
        size_t len = 64 + i * 8 % 20000;
        block[i] = malloc(len);
        fill(block[i], len, i);
    }
    press();
    unsigned wrong = 0;
    for (size_t i = 0; i < N; i++) {
        size_t len = 64 + i * 8 % 20000;
        wrong += *content(block[i], 0, len, i) != 'r';
        block[i] = realloc(block[i], len + 4096);
        wrong += *content(block[i], 0, len, i) != 'r';
    }
    out("malloc, wrong: %u", wrong);
    char *zeroed = calloc(5, MIB);
    out("calloc: %s", zeros(zeroed, 5 * MIB));
    fill(zeroed, 5 * MIB, 151);
    char *grown = realloc(zeroed, 9 * MIB);
    press();
    out("realloc: %s", content(grown, 0, 5 * MIB, 151));
    free(grown);
    for (size_t i = 0; i < N; i++)
        free(block[i]);
    free(block);
    malloc_trim(0);
    errno = 0;
    void *volatile too_much = malloc(1ul << 46);
    out("malloc of 64 TiB: %s", too_much ? "GIVEN" : strerrorname_np(errno));
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

/* X(name, what it is about) */
#define SECTIONS(X)                                                             \
    X(partial_unmap, "munmap of parts, blocks and holes")                       \
    X(fixed_over, "MAP_FIXED over captured memory")                             \
    X(fixed_noreplace, "MAP_FIXED_NOREPLACE")                                   \
    X(mmap_flags, "other flags, hints, mmap by syscall()")                      \
    X(errors_mmap, "errors of the memory calls")                                \
    X(mremap_grow, "mremap that grows")                                         \
    X(mremap_shrink, "mremap that shrinks")                                     \
    X(mremap_fixed, "MREMAP_FIXED")                                             \
    X(shared_over, "shared memory in place of captured memory")                 \
    X(own_stack, "processes on stacks of their own")                            \
    X(mremap_dontunmap, "MREMAP_DONTUNMAP")                                     \
    X(mremap_many, "pieces that grow in turns")                                 \
    X(mremap_pieces, "one mapping that is several to the kernel")               \
    X(mremap_stacks, "mremap of memory above and around a thread's stack")      \
    X(protect_keeps, "mprotect keeps content")                                  \
    X(protect_exec, "evicted code")                                             \
    X(guard_pages, "PROT_NONE pages in captured memory, MADV_GUARD_INSTALL")    \
    X(dontneed, "MADV_DONTNEED")                                                \
    X(lazy_free, "MADV_FREE")                                                   \
    X(hints, "madvise that must not change anything")                           \
    X(process_advice, "process_madvise")                                        \
    X(fork_advice, "MADV_WIPEONFORK, MADV_DONTFORK")                            \
    X(program_break, "brk")                                                     \
    X(locking, "mlock, msync, mincore")                                         \
    X(kernel_reads_writes, "read, write and their kin on evicted buffers")      \
    X(kernel_messages, "other calls with pointers into evicted memory")         \
    X(peer_memory, "process_vm_readv")                                          \
    X(shared_futex, "futex words that are not private")                         \
    X(proc_self_mem, "/proc/self/mem")                                          \
    X(direct_io, "O_DIRECT")                                                    \
    X(alternate_stacks, "sigaltstack in malloced memory")                       \
    X(own_segv_handler, "a write barrier by SIGSEGV")                           \
    X(own_bus_handler, "the program's own SIGBUS handler")                      \
    X(crash, "crashes stay what they are")                                      \
    X(timer_signals, "signals that interrupt faults")                           \
    X(jump_out_of_handler, "siglongjmp from a signal that interrupted a fault") \
    X(thread_stacks, "thread stacks in malloced memory")                        \
    X(forking, "fork")                                                          \
    X(executing, "exec, vfork, posix_spawn, system, popen")                     \
    X(fork_from_threads, "fork from threads")                                   \
    X(descriptors, "programs that close or replace all descriptors")            \
    X(libraries, "dlopen")                                                      \
    X(allocator, "glibc malloc")

static int in_list(const char *name, const char *list)
{
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (at[n] == ',' || !at[n]))
            return 1;
    return 0;
}

static atomic_bool background_stop;

static void *background(void *arg)
{
    sigset_t all; /* its process's signals are the first thread's: while that one serves a fault, another that does not block them may get them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    char *at = map(BACKGROUND_BYTES);
    for (size_t i = 0; i < BACKGROUND_BYTES; i += PAGE)
        *(uint64_t *)(void *)(at + i) = word_of(7, i);
    while (!atomic_load(&background_stop)) {
        for (size_t i = 0; i < BACKGROUND_BYTES && !atomic_load(&background_stop); i += PAGE) {
            if (*(uint64_t *)(void *)(at + i) != word_of(7, i)) {
                out("BACKGROUND: wrong at %zu", i);
                _exit(5);
            }
            if (i % (64 * PAGE) == 0)
                usleep(500);
        }
    }
    munmap(at, BACKGROUND_BYTES);
    return arg;
}

static int exec_child(void)
{
    section = "executed";
    press_area = map(24 * MIB);
    char *at = map_evicted(3 * MIB, 160);
    out("%s", content(at, 0, 3 * MIB, 160));
    return 42;
}

int main(int argc, char **argv)
{
    static char real[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", real, sizeof(real) - 1);
    self_path = n > 0 ? real : argv[0];
    if (argc == 2 && !strcmp(argv[1], "--child"))
        return exec_child();
    int at = 1, quiet = 0;
    const char *without = "";
    if (at < argc && !strcmp(argv[at], "--list")) {
#define X(name, text) printf("%-20s %s\n", #name, text);
        SECTIONS(X)
#undef X
        return 0;
    }
    if (at + 1 < argc && !strcmp(argv[at], "--press")) {
        press_bytes = strtoul(argv[at + 1], NULL, 0) * MIB;
        at += 2;
    }
    if (at < argc && !strcmp(argv[at], "--quiet-background")) {
        quiet = 1;
        at++;
    }
    if (at + 1 < argc && !strcmp(argv[at], "--without")) {
        without = argv[at + 1];
        at += 2;
    }
    if (press_bytes)
        press_area = map(press_bytes);
    pthread_t thread;
    if (!quiet && pthread_create(&thread, NULL, background, NULL))
        return 1;
    static const struct {
        const char *name;
        void (*run)(void);
    } sections[] = {
#define X(name, text) {#name, name},
        SECTIONS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
        int wanted = at == argc && !in_list(sections[i].name, without);
        for (int a = at; a < argc; a++)
            wanted |= !strcmp(argv[a], sections[i].name);
        if (!wanted)
            continue;
        section = sections[i].name;
        sections[i].run();
    }
    if (!quiet) {
        atomic_store(&background_stop, 1);
        pthread_join(thread, NULL);
    }
    section = "end";
    out("all sections done");
    return 0;
}
