/* clone_files.c - processes that share their parent's table of descriptors (clone with CLONE_FILES, without CLONE_VM). Prints "right", or what is wrong. */
#include "area.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static pid_t child_with_files(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD | CLONE_FILES, 0, 0, 0, 0);
}

static int ended(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int main(void)
{
    uint64_t *mine = area_new(4 * MIB, 1), *more;
    alarm(60);
    for (int i = 0; i < 20; i++) {
        pid_t pid = child_with_files();
        if (pid < 0)
            wrong("clone", i);
        if (!pid) {
            uint64_t *own = area_new(3 * MIB, 2);
            int there = area_has(own, 3 * MIB, 2) && area_has(mine, 4 * MIB, 1);
            pid_t grandchild = fork();
            if (!grandchild)
                _exit(area_has(own, 3 * MIB, 2) ? 7 : 8);
            int good = there && ended(grandchild) == 7 && munmap(own, 3 * MIB) == 0;
            if (i == 0)
                good &= dup2(0, 100) == 100;
            _exit(good ? 3 : 4);
        }
        int status = ended(pid);
        if (status != 3)
            wrong("a child", status);
    }
    if (fcntl(100, F_GETFD) < 0)
        wrong("the child's descriptor", 0);
    more = area_new(64 * MIB, 8);
    for (int turn = 0; turn < 3; turn++) {
        area_fill(more, 64 * MIB, (uint64_t)turn);
        if (!area_has(more, 64 * MIB, (uint64_t)turn) || !area_has(mine, 4 * MIB, 1))
            wrong("memory", turn);
    }
    pid_t pid = child_with_files();
    if (!pid)
        _exit(area_has(more, 64 * MIB, 2) && area_has(mine, 4 * MIB, 1) ? 5 : 6);
    if (pid < 0 ? errno != ENOMEM : ended(pid) != 5)
        wrong("over the budget", pid);
    area_fill(more, 64 * MIB, 9);
    if (!area_has(more, 64 * MIB, 9))
        wrong("memory at the end", 0);
    puts("right");
    return 0;
}
