/* vm_semantics_processes.c - threads, processes, descriptors, libraries. */
#include "vm_semantics.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

void thread_stacks(void)
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

void forking(void)
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

void executing(void)
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

void fork_from_threads(void)
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

void descriptors(void)
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

void libraries(void)
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

void allocator(void)
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
