/* orphan.c - a process fills the budget, forks and ends; its child goes on with the same memory. Prints "right", or what is wrong. */
#include "area.h"

#include <signal.h>
#include <sys/wait.h>

#define AREA (24 * MIB)

static void orphan(const uint64_t *theirs, pid_t parent)
{
    while (getppid() == parent)
        usleep(1000);
    uint64_t *own = area_new(AREA, 2);
    int right = 1;
    for (int turn = 0; turn < 10; turn++)
        right &= area_has(theirs, AREA, 1) && area_has(own, AREA, 2);
    puts(right ? "right" : "wrong");
}

static int parent_of_orphan(void)
{
    uint64_t *at = area_new(AREA, 1), *more = area_new(AREA, 3);
    if (!area_has(more, AREA, 3))
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
