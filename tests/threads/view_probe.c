/* view_probe.c - what a program sees of the machine's processors, from its first thread, from another one, and from a child.
 *
 *   view_probe FIRST ALLOWED ONLINE SLOTS
 *
 * FIRST: home's highest present processor + 1. ALLOWED: home's processors that this process may use. ONLINE: all of home's. SLOTS: of the nodes. */
#include "torture.h"

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>

static int first, allowed, online, slots;
static cpu_set_t everything; /* the mask as it was at the start */

static cpu_set_t mask_of(pid_t tid)
{
    cpu_set_t set;
    SYS(sched_getaffinity(tid, sizeof set, &set));
    return set;
}

static cpu_set_t one(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return set;
}

static int home_cpu(void)
{
    for (int i = 0; i < first; i++)
        if (CPU_ISSET(i, &everything))
            return i;
    return -1;
}

/* ---- counts ---------------------------------------------------------------------------------------------------------- */

static void counts(void)
{
    cpu_set_t set = mask_of(0);
    EQUAL(CPU_COUNT(&set), allowed + slots);
    for (int i = first; i < first + slots; i++)
        CHECK(CPU_ISSET(i, &set), "processor %d is not in the mask", i);
    EQUAL(get_nprocs(), online + slots);
    EQUAL(sysconf(_SC_NPROCESSORS_ONLN), online + slots);
    CHECK(get_nprocs_conf() >= first + slots, "get_nprocs_conf: %d", get_nprocs_conf());
    EQUAL(sysconf(_SC_NPROCESSORS_CONF), get_nprocs_conf());
    CHECK(sched_getcpu() >= 0, "sched_getcpu: %s", strerror(errno));
}

/* The system call itself: lengths, results, errors. */
static void call_get(void)
{
    unsigned long bits[16];
    const int wanted = (first + slots + 63) / 64 * 8;
    long n = SYS(syscall(SYS_sched_getaffinity, 0, sizeof bits, bits));
    CHECK(n >= wanted && n % 8 == 0 && n <= (long)sizeof bits, "length %ld", n);
    n = SYS(syscall(SYS_sched_getaffinity, 0, wanted, bits));
    EQUAL(n, wanted);
    FAILS(syscall(SYS_sched_getaffinity, 0, wanted - 8, bits), EINVAL);
    FAILS(syscall(SYS_sched_getaffinity, 0, wanted + 4, bits), EINVAL);
    FAILS(syscall(SYS_sched_getaffinity, 0, 0, bits), EINVAL);
    FAILS(syscall(SYS_sched_getaffinity, 0, sizeof bits, (void *)16), EFAULT);
    FAILS(syscall(SYS_sched_getaffinity, 0, sizeof bits, counts), EFAULT); /* not writable */
    FAILS(syscall(SYS_sched_getaffinity, 0x3fffffff, sizeof bits, bits), ESRCH);
    FAILS(syscall(SYS_sched_getaffinity, -1, sizeof bits, bits), ESRCH);
    FAILS(syscall(SYS_sched_setaffinity, 0, sizeof bits, (void *)16), EFAULT);
    /* A page's last bytes. */
    uint8_t *page = SYS(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SYS(mprotect(page + PAGE, PAGE, PROT_NONE));
    SYS(syscall(SYS_sched_getaffinity, 0, wanted, page + PAGE - wanted));
    SYS(syscall(SYS_sched_setaffinity, 0, wanted, page + PAGE - wanted));
    FAILS(syscall(SYS_sched_setaffinity, 0, wanted + 8, page + PAGE - wanted), EFAULT);
    SYS(munmap(page, 2 * PAGE));
}

/* ---- wishes ----------------------------------------------------------------------------------------------------------- */

static void set_and_get(const cpu_set_t *set)
{
    SYS(sched_setaffinity(0, sizeof *set, set));
    cpu_set_t now = mask_of(0), by_number = mask_of(gettid());
    CHECK(CPU_EQUAL(&now, set), "the mask is not what was set: %d processors, wanted %d", CPU_COUNT(&now), CPU_COUNT(set));
    CHECK(CPU_EQUAL(&by_number, set), "by its number the thread has another mask");
    OK(pthread_getaffinity_np(pthread_self(), sizeof now, &now));
    CHECK(CPU_EQUAL(&now, set), "pthread_getaffinity_np gives another mask");
}

static void wishes(void)
{
    cpu_set_t set, empty;
    for (int i = 0; i < first + slots; i++) {
        if (!CPU_ISSET(i, &everything))
            continue;
        set = one(i);
        set_and_get(&set);
        CPU_SET(home_cpu(), &set);
        set_and_get(&set);
    }
    set_and_get(&everything);
    if (slots) {
        set = one(first + slots - 1);
        CPU_SET(first, &set);
        OK(pthread_setaffinity_np(pthread_self(), sizeof set, &set));
        cpu_set_t now = mask_of(0);
        CHECK(CPU_EQUAL(&now, &set), "the mask is not what was set by pthread_setaffinity_np");
    }
    CPU_ZERO(&empty);
    set = mask_of(0);
    FAILS(sched_setaffinity(0, sizeof empty, &empty), EINVAL);
    if (first + slots < 1000) {
        empty = one(1000);
        FAILS(sched_setaffinity(0, sizeof empty, &empty), EINVAL);
    }
    cpu_set_t now = mask_of(0);
    CHECK(CPU_EQUAL(&now, &set), "a call that fails has changed the mask");
    set_and_get(&everything);
    /* The number of processors of the machine is another matter. */
    set = one(home_cpu());
    set_and_get(&set);
    EQUAL(get_nprocs(), online + slots);
    set_and_get(&everything);
}

static void *mask_get(void *arg)
{
    *(cpu_set_t *)arg = mask_of(0);
    return NULL;
}

static pid_t other_tid;
static pthread_barrier_t barrier;

static void *other(void *arg)
{
    other_tid = gettid();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    *(cpu_set_t *)arg = mask_of(0);
    return NULL;
}

static void inherited(void)
{
    pthread_attr_t attr;
    pthread_t thread;
    cpu_set_t set = one(first + slots - 1), seen;
    CPU_SET(home_cpu(), &set);
    /* By a new thread from its creator, */
    SYS(sched_setaffinity(0, sizeof set, &set));
    OK(pthread_create(&thread, NULL, mask_get, &seen));
    OK(pthread_join(thread, NULL));
    CHECK(CPU_EQUAL(&seen, &set), "a new thread has another mask than its creator");
    /* or as its attribute has it, */
    SYS(sched_setaffinity(0, sizeof everything, &everything));
    OK(pthread_attr_init(&attr));
    OK(pthread_attr_setaffinity_np(&attr, sizeof set, &set));
    OK(pthread_create(&thread, &attr, mask_get, &seen));
    OK(pthread_join(thread, NULL));
    OK(pthread_attr_destroy(&attr));
    CHECK(CPU_EQUAL(&seen, &set), "a new thread has another mask than its attribute");
    /* or as another thread wants it; the creator's own stays, */
    OK(pthread_barrier_init(&barrier, NULL, 2));
    OK(pthread_create(&thread, NULL, other, &seen));
    pthread_barrier_wait(&barrier);
    SYS(sched_setaffinity(other_tid, sizeof set, &set));
    cpu_set_t by_number = mask_of(other_tid);
    CHECK(CPU_EQUAL(&by_number, &set), "another thread's mask is not what was set");
    pthread_barrier_wait(&barrier);
    OK(pthread_join(thread, NULL));
    OK(pthread_barrier_destroy(&barrier));
    CHECK(CPU_EQUAL(&seen, &set), "the mask is not what another thread has set");
    by_number = mask_of(0);
    CHECK(CPU_EQUAL(&by_number, &everything), "another thread's mask has become the own one");
    /* and by a child of fork. */
    SYS(sched_setaffinity(0, sizeof set, &set));
    int status;
    pid_t child = SYS(fork());
    if (child == 0) {
        cpu_set_t now = mask_of(0);
        CHECK(CPU_EQUAL(&now, &set), "a child has another mask than its parent");
        now = mask_of(getppid()); /* of another process: as the kernel has it */
        SYS(sched_setaffinity(0, sizeof everything, &everything));
        counts();
        _exit(0);
    }
    SYS(waitpid(child, &status, 0));
    EQUAL(status, 0);
    set_and_get(&set);
    set_and_get(&everything);
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

static char text[1 << 20];

static size_t read_all(int fd)
{
    size_t n = 0;
    for (;;) {
        ssize_t more = SYS(read(fd, text + n, sizeof text - 1 - n));
        if (!more)
            break;
        n += (size_t)more;
    }
    text[n] = 0;
    return n;
}

static void slurp(const char *path)
{
    FILE *file = NOT_NULL(fopen(path, "re"));
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    fclose(file);
    CHECK(n > 0, "%s is empty", path);
}

static int lines_like(const char *prefix)
{
    int n = 0;
    for (const char *at = text; at; at = strchr(at, '\n'), at = at ? at + 1 : NULL)
        n += strncmp(at, prefix, strlen(prefix)) == 0;
    return n;
}

/* How many processors a list such as "0-3,8" has; all of the slots must be in it, or none. */
static int list_count(int with_slots)
{
    int n = 0, seen = 0;
    for (char *at = text; *at && *at != '\n';) {
        long lo = strtol(at, &at, 10), hi = *at == '-' ? strtol(at + 1, &at, 10) : lo;
        for (long i = lo; i <= hi; i++, n++)
            seen += i >= first && i < first + slots;
        at += *at == ',';
    }
    EQUAL(seen, with_slots ? slots : 0);
    return n;
}

static void files(void)
{
    char key[32];
    slurp("/sys/devices/system/cpu/online");
    EQUAL(list_count(1), online + slots);
    slurp("/sys/devices/system/cpu/present");
    CHECK(list_count(1) <= first + slots, "present: %s", text);
    slurp("/sys/devices/system/cpu/possible");
    EQUAL(list_count(1), get_nprocs_conf());
    slurp("/sys/devices/system/cpu/offline");
    list_count(0);
    slurp("/sys/devices/system/cpu/kernel_max");
    CHECK(atoi(text) >= first + slots - 1, "kernel_max: %s", text);

    slurp("/proc/cpuinfo");
    EQUAL(lines_like("processor\t"), online + slots);
    EQUAL(lines_like("flags\t"), online + slots);
    for (int i = first; i < first + slots; i++) {
        snprintf(key, sizeof key, "processor\t: %d\n", i);
        EQUAL(lines_like(key), 1);
    }
    slurp("/proc/stat");
    EQUAL(lines_like("cpu"), online + slots + 1);
    EQUAL(lines_like("cpu "), 1);
    EQUAL(lines_like("btime "), 1);
    EQUAL(lines_like("softirq "), 1);
    CHECK(strncmp(text, "cpu ", 4) == 0, "/proc/stat begins with %.10s", text);
    for (int i = first; i < first + slots; i++) {
        snprintf(key, sizeof key, "cpu%d ", i);
        EQUAL(lines_like(key), 1);
    }
}

static void descriptors(void)
{
    int low = SYS(open("/dev/null", O_RDONLY | O_CLOEXEC));
    SYS(close(low));
    int fd = SYS(open("/proc/cpuinfo", O_RDONLY));
    EQUAL(fd, low);
    EQUAL(fcntl(fd, F_GETFD), 0);
    EQUAL(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    FAILS(write(fd, "x", 1), EBADF);
    size_t all = read_all(fd);
    EQUAL(lseek(fd, 0, SEEK_SET), 0);
    EQUAL(read_all(fd), all);
    SYS(close(fd));
    fd = SYS(openat(-1, "/sys/devices/system/cpu/online", O_RDONLY | O_CLOEXEC));
    EQUAL(fd, low);
    EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
    SYS(close(fd));
    fd = (int)SYS(syscall(SYS_open, "/sys/devices/system/cpu/online", O_RDONLY));
    read_all(fd);
    EQUAL(list_count(1), online + slots);
    SYS(close(fd));
    /* /proc/stat is a new one each time that it is read from its start. */
    fd = SYS(open("/proc/stat", O_RDONLY));
    read_all(fd);
    long long before = atoll(NOT_NULL(strstr(text, "\nctxt ")) + 6), after = before;
    for (int i = 0; i < 100 && after == before; i++) {
        usleep(1000);
        EQUAL(lseek(fd, 0, SEEK_SET), 0);
        read_all(fd);
        EQUAL(lines_like("cpu"), online + slots + 1);
        after = atoll(NOT_NULL(strstr(text, "\nctxt ")) + 6);
    }
    CHECK(after > before, "/proc/stat stands still");
    SYS(close(fd));

    /* What is not ours to answer. */
    FAILS(open((const char *)16, O_RDONLY), EFAULT);
    FAILS(open("/proc/cpuinfo/", O_RDONLY), ENOTDIR);
    FAILS(open("/proc/cpuinfo", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open("/proc/cpuinfo2", O_RDONLY), ENOENT);
    FAILS(open("/proc/cpuinf", O_RDONLY), ENOENT);
    FAILS(open("", O_RDONLY), ENOENT);
    char *page = SYS(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SYS(munmap(page + PAGE, PAGE));
    const char *names[] = {"/proc/cpuinfo", "/dev/null"};
    for (size_t i = 0; i < COUNT_OF(names); i++) { /* a name that ends with its page */
        size_t len = strlen(names[i]) + 1;
        memcpy(page + PAGE - len, names[i], len);
        fd = SYS(open(page + PAGE - len, O_RDONLY));
        EQUAL(read_all(fd) > 0, i == 0);
        if (i == 0)
            EQUAL(lines_like("processor\t"), online + slots);
        SYS(close(fd));
        FAILS(open(page + PAGE - len + 1, O_RDONLY), ENOENT);
        page[PAGE - 1] = 'x';
        FAILS(open(page + PAGE - len, O_RDONLY), EFAULT);
    }
    SYS(munmap(page, PAGE));
}

/* ---- programs that this one becomes, or starts --------------------------------------------------------------------------- */

extern char **environ;

static void programs(void)
{
    char all[16];
    char *arguments[] = {"sh", "-c", "test $(nproc) = $0", all, NULL};
    cpu_set_t set = one(first + slots - 1);
    for (int restricted = 0; restricted < 2; restricted++) {
        int status;
        pid_t child;
        snprintf(all, sizeof all, "%d", restricted ? 1 : allowed + slots);
        if (restricted)
            SYS(sched_setaffinity(0, sizeof set, &set));
        child = SYS(fork());
        if (child == 0) {
            execv("/bin/sh", arguments);
            _exit(9);
        }
        SYS(waitpid(child, &status, 0));
        CHECK(status == 0, "nproc of a forked child is not %s", all);
        /* The first thread's mask is what a spawned one gets. */
        if (gettid() == getpid()) {
            OK(posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ));
            SYS(waitpid(child, &status, 0));
            CHECK(status == 0, "nproc of a spawned child is not %s", all);
        }
        char *nothing[] = {"nothing", NULL};
        FAILS(execv("/nonexistent", nothing), ENOENT);
    }
    SYS(sched_setaffinity(0, sizeof everything, &everything));
}

static void *probe(void *where)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"counts", counts}, {"call_get", call_get}, {"wishes", wishes}, {"inherited", inherited}, {"files", files},
                 {"descriptors", descriptors}, {"programs", programs}};
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        torture_sub_test = parts[i].name;
        parts[i].run();
        printf("%s %s ok\n", (const char *)where, parts[i].name);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    torture_name = "view_probe";
    if (argc != 5)
        return 2;
    first = atoi(argv[1]);
    allowed = atoi(argv[2]);
    online = atoi(argv[3]);
    slots = atoi(argv[4]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    everything = mask_of(0);
    probe("first");
    OK(pthread_create(&thread, NULL, probe, "other"));
    OK(pthread_join(thread, NULL));
    return 0;
}
