/* other_user.c - a program that root starts goes on as another user, as servers do. Prints "right", or what is wrong.
 *
 *   other_user early|late   it becomes the other user before it needs far memory, or after that */
#include "area.h"

#include <grp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define AREA (40 * MIB)
#define NOBODY 65534

static void become_nobody(void)
{
    if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
        wrong("setuid", 0);
}

static void *beside(void *arg)
{
    return area_has(arg, AREA, 1) ? arg : NULL;
}

int main(int argc, char **argv)
{
    int early = argc == 2 && strcmp(argv[1], "early") == 0;
    if (early)
        become_nobody();
    uint64_t *first = area_new(AREA, 1);
    if (!early)
        become_nobody();
    uint64_t *second = area_new(AREA, 2);
    if (!area_has(first, AREA, 1) || !area_has(second, AREA, 2))
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
            uint64_t *own = area_new(AREA, 3);
            pid_t grandchild = fork();
            if (grandchild == 0)
                _exit(area_has(own, AREA, 3) && area_has(second, AREA, 2) ? 7 : 8);
            int status = -1;
            waitpid(grandchild, &status, 0);
            _exit(area_has(first, AREA, 1) && area_has(own, AREA, 3) && WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 5 : 6);
        }
        int status = -1;
        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 5)
            wrong("a child", status);
    }
    if (prctl(PR_GET_DUMPABLE) == 1)
        wrong("it may be dumped", 1);
    if (getuid() != NOBODY || !area_has(first, AREA, 1) || !area_has(second, AREA, 2))
        wrong("memory at the end", 0);
    puts("right");
    return 0;
}
