/* orphan.c - a process fills the budget, forks and ends; its child goes on with the same memory. Prints "right", or what is wrong. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define AREA (24 * MIB)

static uint64_t *area_new(uint64_t with)
{
    uint64_t *at = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; at != MAP_FAILED && i < AREA / 8; i += PAGE / 8)
        at[i] = with + i;
    return at;
}

static int has(const uint64_t *at, uint64_t with)
{
    for (size_t i = 0; i < AREA / 8; i += PAGE / 8)
        if (at[i] != with + i)
            return 0;
    return 1;
}

static void orphan(const uint64_t *theirs, pid_t parent)
{
    while (getppid() == parent)
        usleep(1000);
    uint64_t *own = area_new(2);
    int right = own != MAP_FAILED;
    for (int turn = 0; turn < 10; turn++)
        right &= has(theirs, 1) && has(own, 2);
    puts(right ? "right" : "wrong");
}

static int parent_of_orphan(void)
{
    uint64_t *at = area_new(1), *more = area_new(3);
    if (at == MAP_FAILED || more == MAP_FAILED || !has(more, 3))
        return 2;
    pid_t self = getpid(), pid = fork();
    if (!pid)
        orphan(at, self);
    return pid < 0;
}

/* The parent is a program of its own: no copy of another process that lives. */
int main(int argc, char **argv)
{
    int ended[2];
    char byte;
    if (argc > 1)
        return parent_of_orphan();
    if (pipe(ended))
        return 1;
    pid_t parent = fork();
    if (!parent) {
        execl(argv[0], argv[0], "parent", (char *)NULL);
        _exit(3);
    }
    close(ended[1]);
    int status = -1;
    if (waitpid(parent, &status, 0) != parent || status)
        printf("the parent: %#x\n", (unsigned)status);
    return read(ended[0], &byte, 1) != 0; /* until the orphan has closed the other end */
}
