/* clone_files.c - processes that share their parent's table of descriptors (clone with CLONE_FILES, without CLONE_VM). Prints "right", or what is wrong. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)

static void wrong(const char *what, long value)
{
    printf("%s: %ld, %s\n", what, value, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

static uint8_t *map(size_t bytes)
{
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        wrong("mmap", 0);
    return at;
}

static void fill(uint8_t *at, size_t bytes, uint8_t with)
{
    for (size_t i = 0; i < bytes; i += PAGE)
        at[i] = (uint8_t)(with + i / PAGE);
}

static int has(const uint8_t *at, size_t bytes, uint8_t with)
{
    for (size_t i = 0; i < bytes; i += PAGE)
        if (at[i] != (uint8_t)(with + i / PAGE))
            return 0;
    return 1;
}

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
    uint8_t *mine = map(4 * MIB), *more;
    alarm(60);
    fill(mine, 4 * MIB, 1);
    for (int i = 0; i < 20; i++) {
        pid_t pid = child_with_files();
        if (pid < 0)
            wrong("clone", i);
        if (!pid) {
            uint8_t *own = map(3 * MIB);
            fill(own, 3 * MIB, 2);
            int there = has(own, 3 * MIB, 2) && has(mine, 4 * MIB, 1);
            pid_t grandchild = fork();
            if (!grandchild)
                _exit(has(own, 3 * MIB, 2) ? 7 : 8);
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
    more = map(64 * MIB);
    for (int turn = 0; turn < 3; turn++) {
        fill(more, 64 * MIB, (uint8_t)turn);
        if (!has(more, 64 * MIB, (uint8_t)turn) || !has(mine, 4 * MIB, 1))
            wrong("memory", turn);
    }
    pid_t pid = child_with_files();
    if (!pid)
        _exit(has(more, 64 * MIB, 2) && has(mine, 4 * MIB, 1) ? 5 : 6);
    if (pid < 0 ? errno != ENOMEM : ended(pid) != 5)
        wrong("over the budget", pid);
    fill(more, 64 * MIB, 9);
    if (!has(more, 64 * MIB, 9))
        wrong("memory at the end", 0);
    puts("right");
    return 0;
}
