/* other_user.c - a program that root starts goes on as another user, as servers do. Prints "right", or what is wrong.
 *
 *   other_user early|late   it becomes the other user before it needs far memory, or after that */
#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define AREA (40 * MIB)
#define NOBODY 65534

static void wrong(const char *what, long value)
{
    printf("%s: %ld, %s\n", what, value, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

static uint64_t *area_new(uint64_t with)
{
    uint64_t *at = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        wrong("mmap", 0);
    for (size_t i = 0; i < AREA / 8; i += PAGE / 8)
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

static void become_nobody(void)
{
    if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
        wrong("setuid", 0);
}

static void *beside(void *arg)
{
    return has(arg, 1) ? arg : NULL;
}

int main(int argc, char **argv)
{
    int early = argc == 2 && strcmp(argv[1], "early") == 0;
    if (early)
        become_nobody();
    uint64_t *first = area_new(1);
    if (!early)
        become_nobody();
    uint64_t *second = area_new(2);
    if (!has(first, 1) || !has(second, 2))
        wrong("memory", 0);
    pthread_t thread;
    void *ret = NULL;
    if (pthread_create(&thread, NULL, beside, first) || pthread_join(thread, &ret) || ret != first)
        wrong("a thread", 0);
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid < 0)
            wrong("fork", i);
        if (pid == 0) {
            uint64_t *own = area_new(3);
            pid_t grandchild = fork();
            if (grandchild == 0)
                _exit(has(own, 3) && has(second, 2) ? 7 : 8);
            int status = -1;
            waitpid(grandchild, &status, 0);
            _exit(has(first, 1) && has(own, 3) && WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 5 : 6);
        }
        int status = -1;
        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 5)
            wrong("a child", status);
    }
    if (prctl(PR_GET_DUMPABLE) == 1)
        wrong("it may be dumped", 1);
    if (getuid() != NOBODY || !has(first, 1) || !has(second, 2))
        wrong("memory at the end", 0);
    puts("right");
    return 0;
}
