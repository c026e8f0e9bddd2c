/* cli_stop.c - stopping with the program.
 *
 * A program can be let go on, or be killed, by its own pid: a supervisor does so, or a child of the program. The kernel tells a
 * stopped parent nothing that would wake it, so a watcher looks at the program while this process is stopped. */
#include "cli_stop.h"
#include "cli.h"
#include "cli_stat.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char thread_state(int tasks, int tid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "%d", tid);
    const char *fields = cli_stat_fields(tasks, path, text, sizeof text);
    return fields ? *fields : 0;
}

/* The state of the first thread that has not ended, as in proc(5): a stop is one of all threads, and the first of them may
 * have ended long before the others. Z: all have ended; 0: nothing can be seen. */
static char state_of(pid_t pid)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return 0;
    for (struct dirent *entry; (state == 0 || state == 'Z' || state == 'X') && (entry = readdir(tasks));) {
        char one = entry->d_name[0] == '.' ? 0 : thread_state(dirfd(tasks), atoi(entry->d_name));
        state = one ? one : state;
    }
    closedir(tasks);
    return state;
}

/* The state in doubt is a stop: t is one of a debugger, behind which there may be one of job control (a program that strace -p
 * follows has no other state while it is stopped), D one of the freezer. A program that goes on is seen in R or S soon. */
static bool is_stopped(char state)
{
    return state && !strchr("RSZX", state);
}

/* A /proc of another PID namespace tells of other processes. */
static bool proc_is_ours(void)
{
    char self[32];
    ssize_t len = readlink("/proc/self", self, sizeof self - 1);
    self[len > 0 ? len : 0] = 0;
    return atoi(self) == getpid();
}

/* Neither the pid of the parent nor that of the child can become another process's: the watcher dies with the former, and only
 * that reaps the latter, when the watcher is gone. A SIGCONT that comes before the parent is stopped has no effect, hence
 * one at each look. */
static _Noreturn void watch(pid_t child, pid_t parent)
{
    static const struct timespec pause = {.tv_nsec = 25000000};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);           /* it died before prctl */
    close_range(0, ~0U, 0); /* no pipe or lock is held by a process that nobody knows of */
    setsid();               /* a SIGSTOP for the whole process group must not stop this one */
    for (;;) {
        nanosleep(&pause, NULL);
        if (!is_stopped(state_of(child))) /* or not to be seen any more: better awake than stopped for ever */
            kill(parent, SIGCONT);
    }
}

static pid_t start_watcher(pid_t child)
{
    pid_t parent = getpid(), watcher = fork();
    if (watcher == 0)
        watch(child, parent);
    return watcher;
}

void cli_stop_follow(pid_t child, int number)
{
    static const struct timespec now = {0, 0};
    struct sigaction old, action = {.sa_handler = SIG_DFL};
    sigset_t one, cont;
    siginfo_t info;
    char state = proc_is_ours() ? state_of(child) : 0;
    if (state && !is_stopped(state))
        return;
    pid_t watcher = state ? start_watcher(child) : -1;
    if (watcher < 0 && number == SIGSTOP)
        return; /* by the program's pid, most likely, and so goes on: job control stops by the others, or the whole group */

    sigemptyset(&cont);
    sigaddset(&cont, SIGCONT);
    sigemptyset(&one);
    sigaddset(&one, number);
    if (number != SIGSTOP)
        sigaction(number, &action, &old);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &one, NULL); /* here it stops */
    sigprocmask(SIG_BLOCK, &one, NULL);
    if (number != SIGSTOP)
        sigaction(number, &old, NULL);
    if (watcher > 0) {
        kill(watcher, SIGKILL);
        waitpid(watcher, NULL, 0);
    }
    /* In an orphaned process group the kernel ignores a stop by the terminal's signals: no SIGCONT is waiting then, and whoever
     * stopped the child lets it go on. The child does not need the watcher's. */
    if (sigtimedwait(&cont, &info, &now) == SIGCONT && !(info.si_code == SI_USER && info.si_pid == watcher))
        kill(child, SIGCONT);
}
