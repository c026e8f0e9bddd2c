/* peer_memory.c - processes access each other's memory (process_vm_readv, process_vm_writev) while most of it is away. Prints "right", or what is wrong.
 * Argument: MiB of each process. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PEERS 3

static size_t bytes;
static struct {
    volatile uint64_t at[PEERS], pid[PEERS];
    volatile int ready, done;
} *all;

static uint64_t word_of(int peer, size_t i)
{
    return (uint64_t)peer << 56 ^ (uint64_t)i * 0x9e3779b97f4a7c15ull;
}

static void fill(uint64_t *at, int peer)
{
    for (size_t i = 0; i < bytes / 8; i++)
        at[i] = word_of(peer, i);
}

static void wrong(const char *what, long value)
{
    printf("%s: %ld, %s\n", what, value, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

/* Pieces of all sizes, in iovecs that are cut differently on both sides. */
static void read_all(int from)
{
    static uint64_t buf[64 * PAGE];
    uint64_t there = all->at[from];
    for (size_t at = 0, n = PAGE / 2, turn = 0; at < bytes; at += n, n = n * 3 / 2 % sizeof buf / 8 * 8 + 8, turn++) {
        if (n > bytes - at)
            n = bytes - at;
        size_t a = n / 3 / 8 * 8, b = n / 2 / 8 * 8;
        struct iovec mine[3] = {{buf, a}, {NULL, 0}, {(char *)buf + a, n - a}}, theirs[2] = {{(void *)(there + at), b}, {(void *)(there + at + b), n - b}};
        memset(buf, 0, n);
        ssize_t got = process_vm_readv((pid_t)all->pid[from], mine, 3, theirs, 2, 0);
        if (got != (ssize_t)n)
            wrong("read", got);
        for (size_t i = 0; i < n / 8; i++)
            if (buf[i] != word_of(from, at / 8 + i))
                wrong("content", (long)(at + i * 8));
    }
}

static void write_and_back(int to)
{
    uint64_t there = all->at[to], one = 1, seen;
    for (size_t at = 8 * PAGE; at < bytes; at += 31 * PAGE) {
        struct iovec mine = {&one, 8}, theirs = {(void *)(there + at), 8}, back = {&seen, 8};
        uint64_t old = word_of(to, at / 8);
        if (process_vm_writev((pid_t)all->pid[to], &mine, 1, &theirs, 1, 0) != 8)
            wrong("write", (long)at);
        if (process_vm_readv((pid_t)all->pid[to], &back, 1, &theirs, 1, 0) != 8 || seen != 1)
            wrong("written", (long)at);
        mine.iov_base = &old;
        if (process_vm_writev((pid_t)all->pid[to], &mine, 1, &theirs, 1, 0) != 8)
            wrong("write back", (long)at);
    }
}

static void mistakes(int at)
{
    uint64_t word;
    struct iovec mine = {&word, 8}, none = {(void *)8, 8}, theirs[2] = {{(void *)all->at[at], 4}, {(void *)8, 4}};
    if (process_vm_readv((pid_t)all->pid[at], &mine, 1, &none, 1, 0) != -1 || errno != EFAULT)
        wrong("bad address", errno);
    if (process_vm_readv((pid_t)all->pid[at], &none, 1, theirs, 1, 0) != -1 || errno != EFAULT)
        wrong("bad own address", errno);
    if (process_vm_readv((pid_t)all->pid[at], &mine, 1, theirs, 2, 0) != 4)
        wrong("half bad", errno);
    if (process_vm_readv((pid_t)all->pid[at], &mine, 0, theirs, 1, 0) != 0 || process_vm_readv((pid_t)all->pid[at], &mine, 1, theirs, 1, 1) != -1)
        wrong("nothing, and flags", errno);
}

static void all_are_done(int steps)
{
    __atomic_add_fetch(&all->done, 1, __ATOMIC_SEQ_CST);
    while (all->done < steps * PEERS)
        usleep(1000);
}

static void peer(int self)
{
    uint64_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        wrong("mmap", self);
    fill(at, self);
    all->at[self] = (uint64_t)(uintptr_t)at;
    all->pid[self] = (uint64_t)getpid();
    __atomic_add_fetch(&all->ready, 1, __ATOMIC_SEQ_CST);
    while (all->ready < PEERS)
        usleep(1000);
    for (int other = (self + 1) % PEERS; other != self; other = (other + 1) % PEERS) {
        read_all(other);
        mistakes(other);
    }
    all_are_done(1); /* nobody reads what is written now */
    write_and_back(self);
    all_are_done(2);
    write_and_back((self + 1) % PEERS);
    all_are_done(3);
    for (size_t i = 0; i < bytes / 8; i++)
        if (at[i] != word_of(self, i))
            wrong("own content", (long)i * 8);
}

int main(int argc, char **argv)
{
    int bad = 0, status;
    alarm(100);
    bytes = (size_t)(argc > 1 ? atoi(argv[1]) : 16) << 20;
    all = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < PEERS; i++)
        if (!fork()) {
            alarm(90);
            peer(i);
            _exit(0);
        }
    for (int i = 0; i < PEERS; i++)
        bad |= wait(&status) < 0 || status;
    if (!bad)
        puts("right");
    return bad;
}
