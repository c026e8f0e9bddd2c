#include "compute/isolation.h"
#include "proto/eg_wire.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534u /* the kernel's overflow user and group: owns nothing */
#define OWN_PAGES 1024u  /* of a worker, beside the program's */
#define LEAST_PAGES 256u
#define FD_ABOVE 64   /* where descriptors wait for their places */

/* X(CLONE_NEW flag, "name") */
#define EGC_NAMESPACES(X)      \
    X(CLONE_NEWNS, "mount")    \
    X(CLONE_NEWPID, "pid")     \
    X(CLONE_NEWIPC, "ipc")     \
    X(CLONE_NEWNET, "net")     \
    X(CLONE_NEWUTS, "uts")

/* The system calls of a worker, without a condition on their arguments. The rest are in compile_filter(); everything else
 * kills the worker. */
#define EGC_SYSCALLS(X) \
    X(read)             \
    X(write)            \
    X(readv)            \
    X(writev)           \
    X(recvfrom)         \
    X(recvmsg)          \
    X(sendto)           \
    X(sendmsg)          \
    X(poll)             \
    X(ppoll)            \
    X(close)            \
    X(futex)            \
    X(munmap)           \
    X(mremap)           \
    X(mprotect)         \
    X(madvise)          \
    X(exit)             \
    X(exit_group)       \
    X(rt_sigreturn)     \
    X(rt_sigaction)     \
    X(rt_sigprocmask)   \
    X(sigaltstack)      \
    X(arch_prctl)       \
    X(tgkill)           \
    X(gettid)           \
    X(getpid)           \
    X(sched_yield)      \
    X(clock_gettime)    \
    X(clock_nanosleep)  \
    X(nanosleep)        \
    X(getcpu)           \
    X(set_tid_address)  \
    X(set_robust_list)  \
    X(userfaultfd)      \
    X(sched_setaffinity) \
    X(sched_getaffinity) \
    X(process_vm_readv)

/* Debian 12's headers (Linux 6.1) lack the last two: UFFDIO_MOVE and UFFDIO_POISON, with the sizes of their structures. */
#define EGC_IOCTLS(X)                       \
    X(UFFDIO_API)                           \
    X(UFFDIO_REGISTER)                      \
    X(UFFDIO_UNREGISTER)                    \
    X(UFFDIO_WAKE)                          \
    X(UFFDIO_COPY)                          \
    X(UFFDIO_ZEROPAGE)                      \
    X(UFFDIO_WRITEPROTECT)                  \
    X(UFFDIO_CONTINUE)                      \
    X(_IOC(_IOC_READ | _IOC_WRITE, UFFDIO, 0x05, 40)) \
    X(_IOC(_IOC_READ | _IOC_WRITE, UFFDIO, 0x08, 32))

static int compile_filter(int *ret_fd)
{
    static const int calls[] = {
#define EGC_X(name) SCMP_SYS(name),
        EGC_SYSCALLS(EGC_X)
#undef EGC_X
    };
    static const uint32_t requests[] = {
#define EGC_X(request) (uint32_t)(request),
        EGC_IOCTLS(EGC_X)
#undef EGC_X
    };
    static const uint64_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                                       CLONE_NEWPID | CLONE_NEWNET;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r = filter ? 0 : -ENOMEM, fd = -1;

    for (size_t i = 0; !r && i < sizeof calls / sizeof *calls; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    for (size_t i = 0; !r && i < sizeof requests / sizeof *requests; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, requests[i]));
    if (!r) r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_SYSCALL_USER_DISPATCH));
    if (!r)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));
    if (!r)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces, 0));
    if (!r && (fd = memfd_create("endgame-worker-filter", MFD_CLOEXEC | MFD_ALLOW_SEALING)) < 0) r = -errno;
    if (!r) r = seccomp_export_bpf(filter, fd);
    /* Workers share the file: none may write to it. */
    if (!r && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)) r = -errno;
    if (filter) seccomp_release(filter);
    if (r && fd >= 0) close(fd);
    if (!r) *ret_fd = fd;
    return r;
}

static int open_worker(int *ret_fd, char *ret_why, size_t why_bytes)
{
    const char *given = getenv("ENDGAME_WORKER");
    char path[PATH_MAX + 32];

    if (given && *given) {
        snprintf(path, sizeof path, "%s", given);
    } else {
        ssize_t len = readlink("/proc/self/exe", path, PATH_MAX - 1);
        path[len > 0 ? len : 0] = 0;
        char *slash = strrchr(path, '/');
        strcpy(slash ? slash + 1 : path, "endgame-worker");
    }
    struct stat st;
    int fd = open(path, O_PATH | O_CLOEXEC), r = 0;
    if (fd < 0 || fstat(fd, &st)) r = -errno;
    else if (!S_ISREG(st.st_mode) || faccessat(fd, "", X_OK, AT_EMPTY_PATH)) r = -EACCES;
    if (r) {
        snprintf(ret_why, why_bytes, "cannot use %s: %s: install endgame whole, or set ENDGAME_WORKER", path, strerror(-r));
        if (fd >= 0) close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

/* --- in the child, between clone and exec: nothing here allocates ------------------------------------------------------- */

static int take_root_away(void)
{
    static const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
    /* Any folder will do to put an empty file system on; /proc is there, or nothing of this would be. */
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) return -errno;
    if (mount("none", "/proc", "tmpfs", flags, "size=4k,nr_inodes=1,mode=0555")) return -errno;
    if (chdir("/proc")) return -errno;
    /* The old root lands on top of the new one, and goes. An initial RAM file system cannot go: it is covered. */
    if (!syscall(SYS_pivot_root, ".", ".")) return umount2(".", MNT_DETACH) || chdir("/") ? -errno : 0;
    if (mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".")) return -errno;
    return chdir("/") ? -errno : 0;
}

static int become_nobody(const struct egc_isolation *isolation)
{
    if (!isolation->privileged) return 0;
    if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY)) return -errno;
    return 0;
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &header, none) ? -errno : 0;
}

static void drop_bounding_set(void)
{
    for (unsigned long capability = 0; capability < 64; capability++) (void)prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
}

/* Where a user namespace is, wait until the daemon has written its maps. */
static int enter(const struct egc_isolation *isolation, int channel, const char **ret_step)
{
    char go;
    int r = 0;
    if (isolation->namespaces & CLONE_NEWUSER) {
        *ret_step = "wait for the daemon";
        if (recv(channel, &go, 1, 0) != 1) return -ECONNRESET;
        *ret_step = "change the user";
        r = become_nobody(isolation);
    }
    if (!r && isolation->root) {
        *ret_step = "take the root directory away";
        r = take_root_away();
    }
    drop_bounding_set();
    if (!r && !(isolation->namespaces & CLONE_NEWUSER)) {
        *ret_step = "change the user";
        r = become_nobody(isolation);
    }
    return r;
}

static int reset(void)
{
    const struct rlimit none = { 0, 0 };
    struct sigaction action = { .sa_handler = SIG_DFL };
    sigset_t empty;

    for (int number = 1; number < NSIG; number++)
        if (number != SIGPIPE) (void)sigaction(number, &action, NULL); /* that one stays ignored */
    sigemptyset(&empty);
    if (sigprocmask(SIG_SETMASK, &empty, NULL) || setrlimit(RLIMIT_CORE, &none)) return -errno;
    int r = drop_capabilities();
    if (r) return r;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL)) return -errno;
    return 0;
}

/* Its own description of the filter's file: reading moves the place. */
static int settle(const struct egc_isolation *isolation, int *channel, int filter, int *ret_worker)
{
    int from = fcntl(*channel, F_DUPFD_CLOEXEC, FD_ABOVE);
    filter = fcntl(filter, F_DUPFD_CLOEXEC, FD_ABOVE);
    *ret_worker = fcntl(isolation->worker_fd, F_DUPFD_CLOEXEC, FD_ABOVE);
    if (from < 0 || filter < 0 || *ret_worker < 0) return -errno;
    *channel = from;
    if (dup3(from, EGC_FD_CHANNEL, 0) < 0 || dup3(filter, EGC_FD_FILTER, 0) < 0) return -errno;
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    return close_range(EGC_FD_FILTER + 1, ~0u, CLOSE_RANGE_CLOEXEC) ? -errno : 0;
}

static _Noreturn void become_worker(const struct egc_isolation *isolation, int channel, int filter)
{
    char pages[24], text[128], *argv[] = { (char *)"endgame-worker", pages, NULL }, *envp[] = { NULL };
    const char *step = "";
    int worker = -1, r = enter(isolation, channel, &step);

    if (!r) {
        step = "give privileges away";
        r = reset();
    }
    if (!r) {
        step = "place descriptors";
        r = settle(isolation, &channel, filter, &worker);
    }
    if (!r) {
        step = "execute it";
        snprintf(pages, sizeof pages, "%llu", (unsigned long long)isolation->worker_pages);
        syscall(SYS_execveat, worker, "", argv, envp, AT_EMPTY_PATH);
        r = -errno;
    }
    snprintf(text, sizeof text, "Fcannot %s: %s", step, strerror(-r));
    (void)!send(channel, text, strlen(text), MSG_NOSIGNAL);
    _exit(1);
}

/* --- in the daemon ------------------------------------------------------------------------------------------------------- */

static int write_proc(pid_t pid, const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return r;
}

/* The one identity that the child's user namespace knows: nobody, who outside is nobody too, or, where that may not be given,
 * the daemon's own user. */
static int write_maps(const struct egc_isolation *isolation, pid_t pid)
{
    char uids[48], gids[48];
    snprintf(uids, sizeof uids, "%u %u 1", NOBODY, isolation->privileged ? NOBODY : geteuid());
    snprintf(gids, sizeof gids, "%u %u 1", NOBODY, isolation->privileged ? NOBODY : getegid());
    int r = isolation->privileged ? 0 : write_proc(pid, "setgroups", "deny");
    if (!r) r = write_proc(pid, "uid_map", uids);
    return r ? r : write_proc(pid, "gid_map", gids);
}

/* clone, as a fork: the child runs on a copy of this stack. Returns 0 in the child. Signals are blocked in it. */
static pid_t fork_into(const struct egc_isolation *isolation, int parent_channel)
{
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old); /* the loop's handlers are not the child's */
    pid_t pid = (pid_t)syscall(SYS_clone, (unsigned long)(isolation->namespaces | SIGCHLD), NULL, NULL, NULL, NULL);
    int r = pid < 0 ? -errno : 0;
    if (!pid) return 0;
    if (pid > 0 && (isolation->namespaces & CLONE_NEWUSER)) {
        r = write_maps(isolation, pid);
        if (!r && send(parent_channel, "G", 1, MSG_NOSIGNAL) != 1) r = -errno;
    }
    if (pid > 0 && !r) r = egc_cgroup_put(&isolation->cgroup, pid);
    if (pid > 0 && r) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        egc_cgroup_remove(&isolation->cgroup, pid);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    return r ? r : pid;
}

pid_t egc_isolation_spawn(const struct egc_isolation *isolation, int channel, int parent_channel)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", isolation->filter_fd);
    int filter = open(path, O_RDONLY | O_CLOEXEC);
    if (filter < 0) return -errno;
    pid_t pid = fork_into(isolation, parent_channel);
    if (!pid) {
        close(parent_channel);
        become_worker(isolation, channel, filter);
    }
    close(filter);
    return pid;
}

void egc_isolation_ended(const struct egc_isolation *isolation, pid_t pid) { egc_cgroup_remove(&isolation->cgroup, pid); }

/* Does a child get that far with these namespaces? */
static bool works(const struct egc_isolation *isolation)
{
    int ends[2], status = 1;
    const char *step;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) return false;
    pid_t pid = fork_into(isolation, ends[0]);
    if (!pid) {
        close(ends[0]);
        _exit(enter(isolation, ends[1], &step) != 0);
    }
    close(ends[0]);
    close(ends[1]);
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status);
}

static void find_out(struct egc_isolation *isolation, char *ret_note, size_t note_bytes)
{
    static const struct {
        int flag;
        const char *name;
    } rows[] = {
#define EGC_X(flag, name) { flag, name },
        EGC_NAMESPACES(EGC_X)
#undef EGC_X
    };
    struct egc_isolation all = *isolation, tried = *isolation;
    char missing[128] = "";

    memset(&all.cgroup, 0, sizeof all.cgroup);
    memset(&tried.cgroup, 0, sizeof tried.cgroup);
    all.namespaces = CLONE_NEWUSER;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) all.namespaces |= rows[i].flag;
    all.root = true;
    if (works(&all)) {
        isolation->namespaces = all.namespaces;
        isolation->root = true;
        return;
    }
    if (tried.privileged && !works(&tried)) isolation->privileged = tried.privileged = false; /* root by name only */
    tried.namespaces = CLONE_NEWUSER;
    if (!works(&tried)) {
        tried.namespaces = 0;
        strcat(missing, " user,");
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tried.namespaces |= rows[i].flag;
        if (works(&tried)) continue;
        tried.namespaces &= ~rows[i].flag;
        snprintf(missing + strlen(missing), sizeof missing - strlen(missing), " %s,", rows[i].name);
    }
    tried.root = tried.namespaces & CLONE_NEWNS;
    if (tried.root && !works(&tried)) tried.root = false;
    isolation->namespaces = tried.namespaces;
    isolation->root = tried.root;
    if (*missing) missing[strlen(missing) - 1] = 0;
    snprintf(ret_note, note_bytes, "workers go without%s%s%s%s", *missing ? " namespaces:" : "", missing,
             *missing && !tried.root ? "; and without" : "", tried.root ? "" : " an empty root directory");
}

/* What a worker may hold of its program is less than its limit: page tables and the worker's own memory count, too. Without a limit, workers of
 * several programs and the rest of the machine have to get along. */
static uint64_t pages_of(uint64_t memory_bytes)
{
    long here = sysconf(_SC_PHYS_PAGES);
    uint64_t pages = memory_bytes ? memory_bytes / EG_PAGE_BYTES / 4 * 3 : here > 0 ? (uint64_t)here / 4 : 0;
    return pages < OWN_PAGES + LEAST_PAGES ? LEAST_PAGES : pages - OWN_PAGES;
}

int egc_isolation_init(struct egc_isolation *isolation, uint64_t memory_bytes, char *ret_note, size_t note_bytes)
{
    memset(isolation, 0, sizeof *isolation);
    isolation->filter_fd = isolation->worker_fd = -1;
    isolation->privileged = geteuid() == 0;
    isolation->worker_pages = pages_of(memory_bytes);
    *ret_note = 0;
    int r = open_worker(&isolation->worker_fd, ret_note, note_bytes);
    if (r) return r;
    r = compile_filter(&isolation->filter_fd);
    if (r) {
        snprintf(ret_note, note_bytes, "cannot make the workers' system call filter: %s", strerror(-r));
        egc_isolation_done(isolation);
        return r;
    }
    find_out(isolation, ret_note, note_bytes);
    r = egc_cgroup_init(&isolation->cgroup, memory_bytes);
    if (r) {
        size_t len = strlen(ret_note);
        snprintf(ret_note + len, note_bytes - len, "%swithout the limit of --memory (no cgroup can be made: %s)",
                 len ? "; and " : "workers go ", strerror(-r));
    }
    return 0;
}

void egc_isolation_done(struct egc_isolation *isolation)
{
    egc_cgroup_done(&isolation->cgroup);
    if (isolation->worker_fd >= 0) close(isolation->worker_fd);
    if (isolation->filter_fd >= 0) close(isolation->filter_fd);
    isolation->worker_fd = isolation->filter_fd = -1;
}
