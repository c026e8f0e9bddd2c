/* cli_doctor.c - `endgame doctor`: one line for each thing that far memory needs or would use. */
#include "cli.h"
#include "cli_machine.h"
#include "cli_uffd.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include "proto/eg_addr.h"
#include "proto/eg_cpu.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF 0
#endif

enum verdict { HAVE, LACK_SLOWER, LACK_FATAL };

struct doctor {
    int n_fatal;
    int n_slower;
};

/* One finding; advice (may be NULL) is the command that gives what is missing. */
__attribute__((format(printf, 5, 6))) static void say(struct doctor *doctor, enum verdict verdict, const char *what,
                                                      const char *advice, const char *format, ...)
{
    static const char *const words[] = {[HAVE] = "ok", [LACK_SLOWER] = "note", [LACK_FATAL] = "MISSING"};
    va_list args;
    printf("%-8s %-22s ", words[verdict], what);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    if (advice && verdict != HAVE)
        printf("%-8s %-22s -> %s\n", "", "", advice);
    doctor->n_fatal += verdict == LACK_FATAL;
    doctor->n_slower += verdict == LACK_SLOWER;
}

/* First line of a file, without newline; false if it cannot be read. */
static bool read_line(const char *path, char *ret_line, size_t line_bytes)
{
    FILE *file = fopen(path, "re");
    bool ok = file && fgets(ret_line, (int)line_bytes, file);
    if (file)
        fclose(file);
    if (ok)
        ret_line[strcspn(ret_line, "\n")] = 0;
    return ok;
}

static void check_system(struct doctor *doctor)
{
    struct utsname name;
    int major = 0, minor = 0;
    uname(&name);
    sscanf(name.release, "%d.%d", &major, &minor);
    bool fits = major > 5 || (major == 5 && minor >= 10);
    bool best = major > 6 || (major == 6 && minor >= 8);
    say(doctor, fits ? best ? HAVE : LACK_SLOWER : LACK_FATAL, "kernel",
        fits ? "Linux 6.8 takes pages away in one step (UFFDIO_MOVE): apt-get install linux-image-amd64 from backports"
             : "boot Linux 5.10 or later",
        "Linux %s", name.release);
    say(doctor, strcmp(name.machine, "x86_64") == 0 ? HAVE : LACK_FATAL, "processor", "use an x86-64 machine", "%s", name.machine);
    say(doctor, HAVE, "C library", NULL, "glibc %s", gnu_get_libc_version());
}

static void check_uffd(struct doctor *doctor)
{
    struct cli_uffd uffd;
    char text[256], line[64];
    cli_uffd_probe(&uffd);
    const char *missing = cli_uffd_missing(&uffd, false, text, sizeof text);
    if (!missing && uffd.user_mode_only) {
        say(doctor, LACK_SLOWER, "userfaultfd", "sysctl vm.unprivileged_userfaultfd=1", "%s",
            "of user mode only: programs whose every call is seen have far memory; no remote threads");
    } else if (missing) {
        say(doctor, LACK_FATAL, "userfaultfd", NULL, "%s", missing);
        if (uffd.error == EPERM || uffd.error == EACCES)
            printf("%-8s %-22s -> %s\n", "", "", "sysctl vm.unprivileged_userfaultfd=1");
    } else {
        say(doctor, HAVE, "userfaultfd", NULL, "%s", uffd.via_device ? "through /dev/userfaultfd" : "by system call");
    }
    bool sysctl_on = read_line("/proc/sys/vm/unprivileged_userfaultfd", line, sizeof line) && strcmp(line, "1") == 0;
    bool device = access("/dev/userfaultfd", R_OK | W_OK) == 0;
    bool usable = geteuid() == 0 || sysctl_on || device;
    say(doctor, usable ? HAVE : LACK_SLOWER, "userfaultfd access", "setfacl -m u:USER:rw /dev/userfaultfd",
        "vm.unprivileged_userfaultfd=%s, /dev/userfaultfd %s", sysctl_on ? "1" : "0",
        device                                     ? "may be opened"
        : access("/dev/userfaultfd", F_OK) == 0 ? "may not be opened by this user"
                                                : "is not there (Linux 6.1)");
    if (uffd.error && !uffd.user_mode_only)
        return;
#define CLI_X(name, bit, kernel, text)                                                                                   \
    say(doctor, uffd.features & CLI_UFFD_FEATURE_BIT(bit) ? HAVE : LACK_SLOWER, "  " #name, "boot Linux " kernel " or later", \
        "%s", text);
    CLI_UFFD_FEATURES(CLI_X)
#undef CLI_X
    int error = cli_uffd_pagemap_scan();
    say(doctor, error == 0 ? HAVE : LACK_SLOWER, "PAGEMAP_SCAN", "boot Linux 6.7 or later", "find changed pages in one call%s%s",
        error ? ": " : "", error ? strerror(-error) : "");
}

static void check_memlock(struct doctor *doctor, const char *what, uint64_t need_bytes, const char *for_what)
{
    struct rlimit limit;
    char text[32];
    getrlimit(RLIMIT_MEMLOCK, &limit);
    bool enough = geteuid() == 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= need_bytes;
    say(doctor, enough ? HAVE : LACK_SLOWER, what, "ulimit -l 65536, or `USER - memlock 65536` in /etc/security/limits.conf", "limit %s%s",
        limit.rlim_cur == RLIM_INFINITY ? "none" : eg_size_format(limit.rlim_cur, text, sizeof text), for_what);
}

static void check_process(struct doctor *doctor)
{
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    bool reads = process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1 && to == 1;
    say(doctor, reads ? HAVE : LACK_FATAL, "process_vm_readv",
        "allow the system call: a container's seccomp profile forbids it, or CONFIG_CROSS_MEMORY_ATTACH is off",
        "%s", reads ? "works" : strerror(errno));

    enum { LOCKED_NEED_BYTES = 8 << 20 };
    check_memlock(doctor, "locked memory", LOCKED_NEED_BYTES, "; the runtime locks its own");
}

static void check_memory(struct doctor *doctor)
{
    char line[128], text[32], more[32];
    struct cli_memory memory;
    cli_memory_read(&memory);
    say(doctor, HAVE, "memory", NULL, "%s, %s available", eg_size_format(memory.total_bytes, text, sizeof text),
        eg_size_format(memory.available_bytes, more, sizeof more));
    if (memory.cgroup_limit_bytes != UINT64_MAX)
        say(doctor, HAVE, "memory cgroup", NULL, "limit %s, %s available",
            eg_size_format(memory.cgroup_limit_bytes, text, sizeof text),
            eg_size_format(memory.cgroup_available_bytes, more, sizeof more));
    else
        say(doctor, HAVE, "memory cgroup", NULL, "no limit");
    if (read_line("/proc/sys/vm/overcommit_memory", line, sizeof line))
        say(doctor, strcmp(line, "2") == 0 ? LACK_SLOWER : HAVE, "overcommit",
            "sysctl vm.overcommit_memory=0 (with 2, a program cannot allocate more than this machine has)",
            "vm.overcommit_memory=%s", line);
    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line))
        say(doctor, strstr(line, "[never]") ? LACK_SLOWER : HAVE, "huge pages",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", "%s", line);
    if (read_line("/proc/sys/vm/max_map_count", line, sizeof line))
        say(doctor, strtoul(line, NULL, 10) >= 65530 ? HAVE : LACK_SLOWER, "mappings", "sysctl vm.max_map_count=65530",
            "vm.max_map_count=%s", line);
}

/* Ports of one verbs device, as the kernel shows them. */
static void check_ports(struct doctor *doctor, const char *device)
{
    char path[PATH_MAX], state[64] = "?", layer[64] = "?", rate[64] = "?", netdev[64] = "no network interface";
    for (int port = 1; port < 256; port++) {
        snprintf(path, sizeof path, "/sys/class/infiniband/%s/ports/%d/state", device, port);
        if (!read_line(path, state, sizeof state))
            break;
        snprintf(path, sizeof path, "/sys/class/infiniband/%s/ports/%d/link_layer", device, port);
        read_line(path, layer, sizeof layer);
        snprintf(path, sizeof path, "/sys/class/infiniband/%s/ports/%d/rate", device, port);
        read_line(path, rate, sizeof rate);
        snprintf(path, sizeof path, "/sys/class/infiniband/%s/ports/%d/gid_attrs/ndevs/0", device, port);
        read_line(path, netdev, sizeof netdev);
        bool active = strstr(state, "ACTIVE") != NULL;
        char what[80];
        snprintf(what, sizeof what, "  %.60s/%d", device, port);
        say(doctor, active ? HAVE : LACK_SLOWER, what, "ip link set DEV up; see the cable, or the subnet manager (InfiniBand)", "%s, %s, %s, %s",
            state, layer, rate, netdev);
    }
}

static void check_rdma(struct doctor *doctor)
{
    enum { LOCKED_NEED_BYTES = 16 << 20 };
    int n_devices = 0;
    DIR *dir = opendir("/sys/class/infiniband");
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        n_devices += entry->d_name[0] != '.';
    say(doctor, n_devices ? HAVE : LACK_SLOWER, "RDMA devices",
        "modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0 (soft-RoCE)", n_devices ? "%d" :
        "none; servers are reached over tcp, or shared memory on this machine", n_devices);
    if (dir)
        rewinddir(dir);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            check_ports(doctor, entry->d_name);
    if (dir)
        closedir(dir);
    if (n_devices) {
        bool cm = access("/dev/infiniband/rdma_cm", R_OK | W_OK) == 0;
        say(doctor, cm ? HAVE : LACK_SLOWER, "RDMA connections", "modprobe rdma_ucm; chmod 666 /dev/infiniband/rdma_cm /dev/infiniband/uverbs*",
            "/dev/infiniband/rdma_cm %s", cm ? "may be opened" : strerror(errno));
        check_memlock(doctor, "RDMA memory", LOCKED_NEED_BYTES, "; each process of a program locks 9M for its device");
    }
    void *verbs = dlopen("libibverbs.so.1", RTLD_LAZY | RTLD_LOCAL), *cm = dlopen("librdmacm.so.1", RTLD_LAZY | RTLD_LOCAL);
    say(doctor, verbs && cm ? HAVE : LACK_SLOWER, "RDMA libraries", "apt-get install libibverbs1 librdmacm1 ibverbs-providers", "%s",
        verbs && cm ? "found" : "not installed; needed for rdma: addresses only");
    if (verbs)
        dlclose(verbs);
    if (cm)
        dlclose(cm);
}

/* Can a child have namespaces of its own? Returns: 0, or the errno. */
static int try_namespaces(void)
{
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS) == 0 ? 0 : errno & 0x7f);
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return EAGAIN;
    return WEXITSTATUS(status);
}

/* What a compute node needs, and what threads that go to one must find alike here. */
static void check_compute(struct doctor *doctor)
{
    uint8_t sum[EG_VDSO_SUM_BYTES];
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    bool faults = fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0;
    if (fd >= 0)
        close(fd);
    bool dispatch = prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) == 0;
    bool vdso = eg_cpu_vdso_sum(sum) == 0;
    const char *lacks = !faults ? "userfaultfd of user mode with SIGBUS" : !dispatch ? "Syscall User Dispatch" : !vdso ? "a vDSO" : NULL;
    say(doctor, lacks ? LACK_SLOWER : HAVE, "remote threads", "boot Linux 5.11 or later, built with CONFIG_USERFAULTFD", "%s%s",
        lacks ? "not here, and no compute node here: there is no " : "can come from here and run here", lacks ? lacks : "");
    int error = try_namespaces();
    say(doctor, error ? LACK_SLOWER : HAVE, "namespaces", "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1",
        "%s%s", error ? "endgame-compute has to do without some here: " : "a compute node's workers are shut in",
        error ? strerror(error) : "");
}

static void check_installation(struct doctor *doctor)
{
    char path[PATH_MAX];
    int error = cli_library_find(path, sizeof path);
    say(doctor, error ? LACK_FATAL : HAVE, "libendgame.so", "scripts/build, or install endgame whole", "%s%s", path,
        error ? " is not there" : "");
    error = cli_memserver_find(path, sizeof path);
    say(doctor, error ? LACK_FATAL : HAVE, "endgame-memserver", "scripts/build, or install endgame whole", "%s%s", path,
        error ? " is not there" : "");
    error = cli_compute_find(path, sizeof path);
    say(doctor, error ? LACK_SLOWER : HAVE, "endgame-compute", "scripts/build, or install endgame whole", "%s%s", path,
        error ? " is not there" : "");
    error = cli_relay_find(path, sizeof path);
    say(doctor, error ? LACK_SLOWER : HAVE, "endgame-relay", "scripts/build, or install endgame whole", "%s%s", path,
        error ? " is not there; needed for rdma: compute nodes only" : "");
}

int cli_doctor_main(const struct cli_command *command, int argc, char **argv)
{
    struct cli_args args = {.command = command, .argc = argc, .argv = argv, .next = 1};
    if (cli_args_next(&args) == CLI_ARG_BAD)
        return CLI_EXIT_USAGE;
    if (args.next < argc)
        return cli_usage(command, "doctor takes no arguments");
    struct doctor doctor = {0, 0};
    check_system(&doctor);
    check_uffd(&doctor);
    check_process(&doctor);
    check_memory(&doctor);
    check_rdma(&doctor);
    check_compute(&doctor);
    check_installation(&doctor);
    if (doctor.n_fatal)
        printf("\n'endgame run' does not work here: %d missing\n", doctor.n_fatal);
    else
        printf("\n'endgame run' works here%s\n", doctor.n_slower ? "; notes name what would make it better" : "");
    if (fflush(stdout) != 0)
        return cli_fail(CLI_EXIT_FAILED, "cannot write to standard output");
    return doctor.n_fatal ? 1 : 0;
}
