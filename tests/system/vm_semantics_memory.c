/* vm_semantics_memory.c - memory calls: mmap to mincore. */
#include "vm_semantics.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#define EG_MADV_GUARD_INSTALL 102
#define EG_MADV_GUARD_REMOVE 103
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* ---- mmap, munmap ------------------------------------------------------------------------------------------------ */

void partial_unmap(void)
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

void fixed_over(void)
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

void fixed_noreplace(void)
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

void mmap_flags(void)
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

void errors_mmap(void)
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

void mremap_grow(void)
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

void mremap_shrink(void)
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

void mremap_fixed(void)
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
void shared_over(void)
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

void own_stack(void)
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

void mremap_dontunmap(void)
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

void mremap_many(void)
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

void mremap_pieces(void)
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
void mremap_stacks(void)
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

void protect_keeps(void)
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

void protect_exec(void)
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

void guard_pages(void)
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

void dontneed(void)
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

void lazy_free(void)
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

void hints(void)
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
void process_advice(void)
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

void fork_advice(void)
{
    char *at = map_evicted(8 * MIB, 75);
    out_after(result(madvise(at, 2 * MIB, MADV_WIPEONFORK)), "wipeonfork: %s; dontfork: %s", result(madvise(at + 4 * MIB, 2 * MIB, MADV_DONTFORK)));
    press();
    out("child ended %d", in_child(look_at_wiped, at));
    out("parent %s", content(at, 0, 8 * MIB, 75));
    munmap(at, 8 * MIB);
}

/* ---- brk --------------------------------------------------------------------------------------------------------- */

void program_break(void)
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

void locking(void)
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
