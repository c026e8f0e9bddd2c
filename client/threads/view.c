/* view.c - the machine as the program is to see it: masks of processors, and the files that count them. */
#include "client/threads/eg_view.h"

#include "client/gate/eg_gate.h"
#include "client/pager/eg_pager.h"
#include "client/threads/eg_home.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u /* Linux 6.3; Debian 12's headers lack it */
#endif

#define KERNEL_WORDS 128u /* of a mask for 8192 processors */
#define PATH_BYTES 40u    /* all that are answered are shorter */
#define BUF_BYTES 8192u
#define STAT_FDS 8u

static struct {
    uint32_t first, end; /* numbers of the slots; first == end: nothing to be seen */
    uint32_t changed;    /* some thread has asked for certain processors */
    struct eg_lock lock; /* of all masks. Nothing of the program's is touched under it */
    struct eg_view_mask main; /* of the process's first thread; the others' are in their struct eg_thread */
    struct {
        int32_t fd; /* + 1; 0: free */
        uint64_t dev, ino;
    } stat[STAT_FDS]; /* open copies of /proc/stat: who goes back to the start wants to see what has become of it */
} view;

int eg_view_on(void)
{
    return view.first < view.end;
}

/* --- masks of threads -------------------------------------------------------------------------------------------------------------- */

static void mask_full(struct eg_view_mask *m)
{
    memset(m, 0, sizeof *m);
    eg_view_bits(m->slots, view.first, view.end, 1);
}

/* Returns: NULL: not a thread of this process, as far as is known. */
static struct eg_view_mask *mask_find(long tid)
{
    uint32_t newborn = 0;
    if (tid == eg_sys0(SYS_getpid) && tid == (long)eg_rt.pid)
        return &view.main;
    for (int turn = 0; tid > 1 && turn < 1000; turn++, newborn = 0) { /* 1: a slot that is taken */
        uint32_t n = __atomic_load_n(&eg_home.n_threads, __ATOMIC_ACQUIRE);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t seen = __atomic_load_n(&eg_home.thread[i]->tid, __ATOMIC_ACQUIRE);
            if (seen == (uint32_t)tid)
                return &eg_home.thread[i]->view;
            newborn |= seen == 1;
        }
        if (!newborn)
            break;
        eg_sys0(SYS_sched_yield); /* its creator knows its number before it does so itself */
    }
    return NULL;
}

static struct eg_view_mask *mask_own(void)
{
    struct eg_view_mask *m = mask_find(eg_sys0(SYS_gettid));
    return m ? m : &view.main; /* a child of vfork, before it becomes another program */
}

void eg_view_inherit(struct eg_view_mask *ret_mask)
{
    if (!eg_view_on())
        return;
    const struct eg_view_mask *m = mask_own();
    eg_lock_take(&view.lock);
    *ret_mask = *m;
    eg_lock_give(&view.lock);
}

void eg_view_child(const struct eg_view_mask *mask)
{
    if (!eg_view_on())
        return;
    view.lock = (struct eg_lock){0};
    view.main = *mask;
}

/* --- the program's memory, by copy: a wrong pointer is an error, not a fault ------------------------------------------------------- */

static long program_copy(long nr, void *own, uint64_t addr, size_t bytes)
{
    size_t first = EG_PAGE_BYTES - addr % EG_PAGE_BYTES;
    first = first < bytes ? first : bytes;
    struct iovec local = {own, bytes}, remote[2] = {{(void *)addr, first}, {(void *)(addr + first), bytes - first}};
    return eg_sys6(nr, eg_sys0(SYS_getpid), &local, 1, remote, first < bytes ? 2 : 1, 0);
}

/* --- sched_getaffinity, sched_setaffinity ------------------------------------------------------------------------------------------ */

static long affinity_get(const long arg[6], long *ret_pass)
{
    uint64_t bits[KERNEL_WORDS];
    uint32_t len = (uint32_t)arg[1];
    long tid = (int32_t)arg[0];
    struct eg_view_mask *m = tid ? mask_find(tid) : mask_own();
    if (!m) {
        *ret_pass = 1;
        return 0;
    }
    if (len % 8 || len * 8 < view.end) /* the kernel's product wraps, too */
        return -EINVAL;
    memset(bits, 0, sizeof bits);
    eg_lock_take(&view.lock);
    long ret = eg_sys3(SYS_sched_getaffinity, tid, len < sizeof bits ? len : sizeof bits, bits);
    if (m->no_home && !eg_sys_failed(ret))
        memset(bits, 0, sizeof bits);
    for (uint32_t i = 0; i < EG_VIEW_CPUS / 64; i++)
        bits[i] |= m->slots[i];
    eg_lock_give(&view.lock);
    if (eg_sys_failed(ret))
        return ret;
    uint32_t most = (view.end + 63) / 64 * 8;
    if (ret < most)
        ret = most;
    return program_copy(SYS_process_vm_writev, bits, (uint64_t)arg[2], (size_t)ret) == ret ? ret : -EFAULT;
}

static long affinity_set(const long arg[6], long *ret_pass)
{
    uint64_t bits[KERNEL_WORDS];
    struct eg_view_mask want;
    uint32_t len = (uint32_t)arg[1], any = 0, home = 0;
    long tid = (int32_t)arg[0], ret = 0;
    struct eg_view_mask *m = mask_find(tid ? tid : eg_sys0(SYS_gettid));
    if (!m) {
        *ret_pass = 1;
        return 0;
    }
    memset(bits, 0, sizeof bits);
    if (len > sizeof bits)
        len = sizeof bits;
    if (len && program_copy(SYS_process_vm_readv, bits, (uint64_t)arg[2], len) != (long)len)
        return -EFAULT;
    mask_full(&want);
    for (uint32_t i = 0; i < EG_VIEW_CPUS / 64; i++) {
        uint64_t slots = want.slots[i];
        any |= (want.slots[i] &= bits[i]) != 0;
        bits[i] &= ~slots;
    }
    for (uint32_t i = 0; i < KERNEL_WORDS; i++)
        home |= bits[i] != 0;
    eg_lock_take(&view.lock);
    if (home || !any)
        ret = eg_sys3(SYS_sched_setaffinity, tid, sizeof bits, bits);
    want.no_home = any && (!home || ret == -EINVAL); /* none of those at home that were asked for is there, or is ours */
    if (!eg_sys_failed(ret) || want.no_home) {
        *m = want;
        __atomic_store_n(&view.changed, 1, __ATOMIC_RELAXED);
        ret = 0;
    }
    eg_lock_give(&view.lock);
    return ret;
}

/* --- exec: the mask is inherited --------------------------------------------------------------------------------------------------- */

/* When this process began, in the kernel's ticks: the 22nd field. 0: not known. */
static uint64_t process_start(void)
{
    char text[1024];
    long fd = eg_sys4(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC, 0);
    if (eg_sys_failed(fd))
        return 0;
    long n = eg_sys3(SYS_read, fd, text, sizeof text);
    eg_sys1(SYS_close, fd);
    long at = n;
    while (at > 0 && text[at - 1] != ')') /* the name may hold anything */
        at--;
    if (at <= 0)
        return 0;
    for (int spaces = 0; at < n && spaces < 20; at++)
        spaces += text[at] == ' ';
    uint64_t start = 0;
    for (; at < n && text[at] >= '0' && text[at] <= '9'; at++)
        start = start * 10 + (uint64_t)(text[at] - '0');
    return start;
}

static void exec_inherit(void)
{
    uint32_t pid = (uint32_t)eg_sys0(SYS_getpid);
    for (uint32_t i = 0; i < EG_POOL_EXECS; i++) {
        struct eg_pool_exec *e = &eg_rt.pool->execs[i];
        if (__atomic_load_n(&e->pid, __ATOMIC_ACQUIRE) != pid)
            continue;
        if (e->start == process_start()) {
            for (uint32_t k = 0; k < EG_VIEW_CPUS / 64; k++)
                view.main.slots[k] &= e->slots[k];
            view.main.no_home = e->no_home;
            view.changed = 1;
        }
        __atomic_store_n(&e->pid, 0, __ATOMIC_RELEASE);
    }
}

static struct eg_pool_exec *exec_take(void)
{
    for (uint32_t turn = 0; turn < 2 * EG_POOL_EXECS; turn++) { /* an old one may belong to a program that has not our library */
        struct eg_pool_exec *e = &eg_rt.pool->execs[__atomic_fetch_add(&eg_rt.pool->next_exec, 1, __ATOMIC_RELAXED) % EG_POOL_EXECS];
        uint32_t seen = __atomic_load_n(&e->pid, __ATOMIC_RELAXED);
        if ((seen == 0 || turn >= EG_POOL_EXECS) && seen != EG_POOL_EXEC_BUSY &&
            __atomic_compare_exchange_n(&e->pid, &seen, EG_POOL_EXEC_BUSY, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return e;
    }
    return NULL;
}

long eg_view_exec(long nr, const long arg[6], long *ret_pass)
{
    uint64_t all = ~0ull, old;
    struct eg_view_mask mask;
    uint32_t pid = (uint32_t)eg_sys0(SYS_getpid);
    struct eg_pool_exec *e = __atomic_load_n(&view.changed, __ATOMIC_RELAXED) ? exec_take() : NULL;
    if (!e) {
        *ret_pass = 1;
        return 0;
    }
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
    eg_view_inherit(&mask);
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
    memcpy(e->slots, mask.slots, sizeof e->slots);
    e->no_home = mask.no_home;
    e->start = process_start();
    __atomic_store_n(&e->pid, pid, __ATOMIC_RELEASE);
    long ret = eg_syscall6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    __atomic_compare_exchange_n(&e->pid, &pid, 0, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return ret;
}

/* --- files ------------------------------------------------------------------------------------------------------------------------- */

enum file { FILE_NONE, FILE_LIST_MORE, FILE_LIST_LESS, FILE_NUMBER, FILE_CPUINFO, FILE_STAT };

static const struct {
    const char path[PATH_BYTES];
    enum file file;
} files[] = {
    {"/sys/devices/system/cpu/online", FILE_LIST_MORE},
    {"/sys/devices/system/cpu/possible", FILE_LIST_MORE},
    {"/sys/devices/system/cpu/present", FILE_LIST_MORE},
    {"/sys/devices/system/cpu/offline", FILE_LIST_LESS},
    {"/sys/devices/system/cpu/kernel_max", FILE_NUMBER},
    {"/proc/cpuinfo", FILE_CPUINFO},
    {"/proc/stat", FILE_STAT},
};

/* Nearly every other file is told by its first bytes, without the price of a copy. No signal mask is changed by a `how` that there is not, but
 * the kernel says first whether it could read the eight bytes: all names that are answered have as many. */
static int begins_as_ours(uint64_t path, long flags)
{
    typedef uint64_t __attribute__((may_alias, aligned(1))) word;
    if ((flags & O_ACCMODE) != O_RDONLY || flags & (O_PATH | O_DIRECTORY) || eg_sys4(SYS_rt_sigprocmask, -1, path, 0, 8) != -EINVAL)
        return 0;
    word first = *(const volatile word *)path;
    return memcmp(&first, "/proc/cp", 8) == 0 || memcmp(&first, "/proc/st", 8) == 0 || memcmp(&first, "/sys/dev", 8) == 0;
}

static enum file file_of(uint64_t path)
{
    char text[PATH_BYTES];
    long n = program_copy(SYS_process_vm_readv, text, path, sizeof text);
    for (uint32_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t len = eg_strlen(files[i].path) + 1;
        if ((long)len <= n && memcmp(text, files[i].path, len) == 0)
            return files[i].file;
    }
    return FILE_NONE;
}

/* What is written. The program's limit on files' sizes must not end the program for what it never wrote. */
struct out {
    int fd;
    uint8_t failed;
    uint64_t at, limit;
};

static void out_put(struct out *o, const char *text, size_t bytes)
{
    if (!bytes || o->at + bytes > o->limit)
        o->failed = 1;
    while (bytes && !o->failed) {
        long n = eg_sys3(SYS_write, o->fd, text, bytes);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            o->failed = 1;
            break;
        }
        text += n;
        bytes -= (size_t)n;
        o->at += (uint64_t)n;
    }
}

/* Fills buf from the real file. Returns: bytes in it now; what could not be read is the end. */
static size_t in_more(int fd, char *buf, size_t have, size_t cap, int *ret_end)
{
    long n = have < cap ? eg_sys3(SYS_read, fd, buf + have, cap - have) : 0;
    if (n == -EINTR)
        return have;
    *ret_end = n <= 0;
    return n > 0 ? have + (size_t)n : have;
}

static size_t in_all(int fd, char *buf, size_t cap)
{
    size_t have = 0;
    for (int end = 0; !end;)
        have = in_more(fd, buf, have, cap, &end);
    return have;
}

static void list_write(int fd, struct out *o, char *buf, int more)
{
    uint64_t bits[EG_VIEW_LIST_CPUS / 64];
    size_t n = in_all(fd, buf, BUF_BYTES);
    if (eg_view_list_parse(buf, n, bits)) {
        o->failed = 1;
        return;
    }
    eg_view_bits(bits, view.first, view.end, more);
    out_put(o, buf, eg_view_list_put(bits, buf, BUF_BYTES));
}

static void number_write(int fd, struct out *o, char *buf)
{
    uint64_t value = 0;
    size_t n = in_all(fd, buf, BUF_BYTES);
    for (size_t i = 0; i < n && buf[i] >= '0' && buf[i] <= '9'; i++)
        value = value * 10 + (uint64_t)(buf[i] - '0');
    n = eg_str_put_u64(buf, BUF_BYTES, 0, value > view.end - 1 ? value : view.end - 1);
    out_put(o, buf, eg_str_put(buf, BUF_BYTES, n, "\n"));
}

/* Length of the first block, its empty line included; 0: there is no whole one. */
static size_t block_bytes(const char *text, size_t bytes)
{
    for (size_t i = 1; i < bytes; i++)
        if (text[i] == '\n' && text[i - 1] == '\n')
            return i + 1;
    return 0;
}

/* The slots: blocks like the last one's, each node a package of its own. */
static void cpuinfo_slots(struct out *o, const char *last, size_t last_bytes, struct eg_view_cpu *cpu, char *buf)
{
    cpu->number = view.first;
    for (uint32_t k = 0; k < eg_rt.pool->n_nodes && cpu->number < view.end; k++) {
        uint32_t slots = eg_rt.pool->nodes[k].slots;
        cpu->package++;
        cpu->cores = slots < view.end - cpu->number ? slots : view.end - cpu->number;
        for (cpu->core = 0; cpu->core < cpu->cores && !o->failed; cpu->core++, cpu->number++) {
            cpu->apicid++;
            out_put(o, buf, eg_view_cpuinfo_put(last, last_bytes, cpu, buf, BUF_BYTES));
        }
    }
}

static void cpuinfo_write(int fd, struct out *o, char *buf)
{
    char last[BUF_BYTES / 2];
    size_t have = 0, last_bytes = 0, n;
    struct eg_view_cpu cpu = {0};
    for (int end = 0; !end && !o->failed;) {
        have = in_more(fd, buf, have, BUF_BYTES, &end);
        while ((n = block_bytes(buf, have)) != 0) {
            static const char *const keys[] = {"physical id", "apicid"};
            uint64_t value, *most[] = {&cpu.package, &cpu.apicid};
            for (int i = 0; i < 2; i++)
                if (eg_view_cpuinfo_value(buf, n, keys[i], &value) && value > *most[i])
                    *most[i] = value;
            out_put(o, buf, n);
            last_bytes = n <= sizeof last ? n : 0;
            memcpy(last, buf, last_bytes);
            memmove(buf, buf + n, have - n);
            have -= n;
        }
    }
    if (have || !last_bytes) /* not as it has been for decades */
        o->failed = 1;
    else
        cpuinfo_slots(o, last, last_bytes, &cpu, buf);
}

static size_t line_bytes(const char *text, size_t bytes)
{
    size_t i = 0;
    while (i < bytes && text[i] != '\n')
        i++;
    return i < bytes ? i + 1 : 0;
}

static void stat_write(int fd, struct out *o, char *buf)
{
    char line[512];
    int end = 0, slots_done = 0;
    size_t have = 0, n;
    while (have < BUF_BYTES && !end)
        have = in_more(fd, buf, have, BUF_BYTES, &end);
    size_t sum = line_bytes(buf, have), one = sum ? line_bytes(buf + sum, have - sum) : 0;
    if (!one || memcmp(buf, "cpu ", 4) != 0 || memcmp(buf + sum, "cpu", 3) != 0) {
        o->failed = 1;
        return;
    }
    uint64_t idle = eg_view_stat_ticks(buf + sum, one);
    out_put(o, line, eg_view_stat_sum(buf, sum, idle * (view.end - view.first), line, sizeof line));
    memmove(buf, buf + sum, have - sum);
    have -= sum;
    while (!o->failed) {
        while (!end && have < BUF_BYTES / 2)
            have = in_more(fd, buf, have, BUF_BYTES, &end);
        n = slots_done ? have : line_bytes(buf, have);
        if (!n)
            break;
        if (!slots_done && (n < 3 || memcmp(buf, "cpu", 3) != 0)) {
            for (uint32_t i = view.first; i < view.end; i++)
                out_put(o, line, eg_view_stat_put(i, idle, line, sizeof line));
            slots_done = 1;
            continue;
        }
        out_put(o, buf, n);
        memmove(buf, buf + n, have - n);
        have -= n;
    }
    o->failed |= (uint8_t)!slots_done;
}

/* The real file at fd, and what it is to say at `to`. Returns: 0, -EIO: it cannot be said. */
static int file_write(enum file file, int fd, int to)
{
    char buf[BUF_BYTES];
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    eg_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, &limit);
    struct out o = {.fd = to, .limit = limit.rlim_cur};
    switch (file) {
    case FILE_LIST_MORE: list_write(fd, &o, buf, 1); break;
    case FILE_LIST_LESS: list_write(fd, &o, buf, 0); break;
    case FILE_NUMBER: number_write(fd, &o, buf); break;
    case FILE_CPUINFO: cpuinfo_write(fd, &o, buf); break;
    case FILE_STAT: stat_write(fd, &o, buf); break;
    case FILE_NONE: o.failed = 1; break;
    }
    return o.failed ? -EIO : 0;
}

/* A descriptor of the same file, opened anew. */
static long reopen(int fd, int flags)
{
    char path[40];
    eg_str_put_u64(path, sizeof path, eg_str_put(path, sizeof path, 0, "/proc/self/fd/"), (uint64_t)fd);
    return eg_sys4(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
}

static int stat_find(long fd)
{
    for (uint32_t i = 0; i < STAT_FDS; i++)
        if (__atomic_load_n(&view.stat[i].fd, __ATOMIC_RELAXED) == fd + 1)
            return (int)i;
    return -1;
}

static void stat_note(int fd)
{
    struct stat st;
    static uint32_t next;
    if (eg_sys2(SYS_fstat, fd, &st))
        return;
    int i = stat_find(fd);
    if (i < 0)
        i = (int)(__atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % STAT_FDS);
    __atomic_store_n(&view.stat[i].fd, 0, __ATOMIC_RELEASE);
    view.stat[i].dev = st.st_dev;
    view.stat[i].ino = st.st_ino;
    __atomic_store_n(&view.stat[i].fd, fd + 1, __ATOMIC_RELEASE);
}

/* Whatever goes wrong, the program has at least the real file. */
static long file_open(long nr, const long arg[6], enum file file, long flags)
{
    long fd = eg_syscall6(nr, arg[0], arg[1], arg[2], arg[3], 0, 0);
    if (eg_sys_failed(fd))
        return fd;
    long copy = eg_sys2(SYS_memfd_create, "processors", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (copy == -EINVAL)
        copy = eg_sys2(SYS_memfd_create, "processors", MFD_CLOEXEC);
    if (eg_sys_failed(copy))
        return fd;
    long read_only = file_write(file, (int)fd, (int)copy) ? -EIO : reopen((int)copy, O_RDONLY);
    if (!eg_sys_failed(read_only)) {
        eg_sys3(SYS_dup3, read_only, fd, flags & O_CLOEXEC);
        eg_sys1(SYS_close, read_only);
        if (file == FILE_STAT)
            stat_note((int)fd);
    } else {
        eg_sys3(SYS_lseek, fd, 0, SEEK_SET);
    }
    eg_sys1(SYS_close, copy);
    return fd;
}

/* Back to the start of /proc/stat: as the kernel's would, it says what is now. */
static void stat_again(int fd)
{
    struct stat st;
    int i = stat_find(fd);
    if (i < 0 || eg_sys2(SYS_fstat, fd, &st) || st.st_dev != view.stat[i].dev || st.st_ino != view.stat[i].ino)
        return;
    long from = eg_sys4(SYS_openat, AT_FDCWD, "/proc/stat", O_RDONLY | O_CLOEXEC, 0), to = reopen(fd, O_WRONLY | O_TRUNC);
    if (!eg_sys_failed(from) && !eg_sys_failed(to))
        (void)file_write(FILE_STAT, (int)from, (int)to);
    if (!eg_sys_failed(from))
        eg_sys1(SYS_close, from);
    if (!eg_sys_failed(to))
        eg_sys1(SYS_close, to);
}

/* --- the gate's side --------------------------------------------------------------------------------------------------------------- */

int eg_view_wants(long nr, const long arg[6])
{
    if (!eg_view_on())
        return 0;
    switch (nr) {
    case SYS_sched_getaffinity:
    case SYS_sched_setaffinity: return 1;
    case SYS_open: return begins_as_ours((uint64_t)arg[0], arg[1]) && file_of((uint64_t)arg[0]) != FILE_NONE;
    case SYS_openat: return begins_as_ours((uint64_t)arg[1], arg[2]) && file_of((uint64_t)arg[1]) != FILE_NONE;
    case SYS_lseek: return arg[1] == 0 && arg[2] == SEEK_SET && stat_find((int32_t)arg[0]) >= 0;
    default: return 0;
    }
}

long eg_view_call(long nr, const long arg[6], long *ret_pass)
{
    switch (nr) {
    case SYS_sched_getaffinity: return affinity_get(arg, ret_pass);
    case SYS_sched_setaffinity: return affinity_set(arg, ret_pass);
    case SYS_open: return file_open(nr, arg, file_of((uint64_t)arg[0]), arg[1]);
    case SYS_openat: return file_open(nr, arg, file_of((uint64_t)arg[1]), arg[2]);
    case SYS_lseek: stat_again((int32_t)arg[0]); break;
    default: break;
    }
    *ret_pass = 1;
    return 0;
}

/* Home's processors end behind the highest that is present; one that may be plugged in later would have a slot's number, and nobody can tell. */
static uint32_t home_end(void)
{
    char text[1024];
    uint64_t bits[EG_VIEW_LIST_CPUS / 64];
    long fd = eg_sys4(SYS_openat, AT_FDCWD, "/sys/devices/system/cpu/present", O_RDONLY | O_CLOEXEC, 0);
    size_t n = 0;
    if (!eg_sys_failed(fd)) {
        n = in_all((int)fd, text, sizeof text);
        eg_sys1(SYS_close, fd);
    }
    if (!n || eg_view_list_parse(text, n, bits)) {
        memset(bits, 0, sizeof bits);
        memcpy(bits, eg_rt.affinity, sizeof eg_rt.affinity < sizeof bits ? sizeof eg_rt.affinity : sizeof bits);
    }
    for (uint32_t i = EG_VIEW_LIST_CPUS; i > 0; i--)
        if (bits[(i - 1) / 64] >> (i - 1) % 64 & 1)
            return i;
    return EG_VIEW_CPUS;
}

void eg_view_init(void)
{
    uint64_t slots = 0;
    if (eg_rt.pool->threads_mode == EG_THREADS_HOME)
        return;
    for (uint32_t i = 0; i < eg_rt.pool->n_nodes && i < EG_POOL_NODES; i++)
        slots += eg_rt.pool->nodes[i].slots;
    uint32_t first = home_end();
    if (first >= EG_VIEW_CPUS)
        return;
    view.first = first;
    view.end = slots < EG_VIEW_CPUS - first ? first + (uint32_t)slots : EG_VIEW_CPUS;
    mask_full(&view.main);
    exec_inherit();
}
