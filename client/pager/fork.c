/* fork.c - new threads and new processes. */
#include "client/pager/eg_capture.h"
#include "client/pager/eg_inline.h"
#include "client/pager/eg_whole.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <sys/mman.h>

#define SPAWN_MIN_PAGES 1024
#define LOOK_NS 50000000u
#define LOOK_SHUT_IN_NS 500000000u

void eg_cap_spawn(long flags, long tls)
{
    enum { VM = 0x100, VFORK = 0x4000, THREAD = 0x10000, SETTLS = 0x80000 };
    uint64_t page = (uint64_t)tls & ~(uint64_t)(EG_PAGE_BYTES - 1);
    if (!(flags & VM))
        return;
    eg_cap_enter();
    eg_rt.vforked |= !(flags & THREAD);
    if (!(flags & VFORK))
        eg_rt.spawned = 1; /* whoever makes a vfork child sleeps meanwhile */
    /* The kernel writes into the thread's control block (clear_child_tid, rseq, robust list) at moments when no fault can be
     * served: it must never be away. When it begins on a stack that is not captured, what follows the stack is somebody else's. */
    if (flags & SETTLS && tls && eg_ranges_overlap(&eg_rt.ranges, page, page + EG_PAGE_BYTES))
        eg_cap_release(page, page + 2 * EG_PAGE_BYTES);
    /* A child process will need memory of the same budget: be there to give way. */
    if (!(flags & THREAD) && !eg_rt.active && !eg_rt.foreign && eg_rt.charged > SPAWN_MIN_PAGES)
        eg_pager_activate_or_warn();
    eg_cap_leave(0);
}

/* What the parent's madvise kept from the child. */
static void child_forget(void)
{
    struct eg_range part;
    eg_advice_child();
    for (uint64_t at = 0; eg_ranges_next(&eg_rt.ranges, at, 1ul << EG_ADDR_BITS, &part); at = part.end) {
        if (part.flags & EG_RANGE_DONTFORK)
            eg_cap_remove(part.start, part.end);
        else if (part.flags & EG_RANGE_WIPEONFORK)
            eg_cap_discard(part.start, part.end);
    }
}

/* kcmp: is the table of descriptors its parent's (CLONE_FILES)? Where the kernel does not tell, it is not. */
static int shares_descriptors(void)
{
    return eg_sys5(SYS_kcmp, eg_sys0(SYS_getpid), eg_sys0(SYS_getppid), KCMP_FILES, 0, 0) == 0;
}

/* A row, sessions and a pager need descriptors, and those would be its parent's, too: it goes on as a vfork child does, its memory counts for nobody. */
static void child_apart(void)
{
    eg_rt.row = &eg_rt.own_row;
    eg_rt.foreign = 1;
    *eg_rt.fork_mark = 1;
}

void eg_cap_child_start(int was_active, int drop)
{
    struct eg_rt *rt = &eg_rt;
    if (!was_active && rt->fork_mark && shares_descriptors()) {
        child_apart();
        return;
    }
    rt->first_gone = 0;
    int *fds[] = {&rt->uffd, &rt->wake_fd, &rt->pagemap_fd, &rt->mem_fd, &rt->pool_fd, &rt->pid_fd};
    rt->lock = (struct eg_lock){.word = 1};
    /* Row locks belong to an open file: one of its own. */
    int pool = (int)eg_fd_new(SYS_openat, -100, (long)rt->pool_path, 02000002 /* O_RDWR | O_CLOEXEC */, 0);
    if (pool < 0 && rt->pool_fd >= 0) { /* another user, or root directory */
        char path[EG_FD_PATH_BYTES];
        eg_fd_path(rt->pool_fd, path);
        pool = (int)eg_fd_new(SYS_openat, -100, (long)path, 02000002, 0);
    }
    for (uint32_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            eg_sys1(SYS_close, *fds[i]);
        *fds[i] = -1;
    }
    rt->active = rt->served = rt->spawned = rt->vforked = 0;
    rt->pager_tid = 0;
    eg_pin_reset();
    rt->successor = NULL;
    rt->keeps = NULL;
    rt->pool_fd = eg_fd_high(pool);
    rt->inherited = rt->committed;
    rt->n_wanted = 0;
    rt->foreign = 0;
    if (rt->fork_mark)
        *rt->fork_mark = 1;
    eg_account_row_claim();
    if (!was_active) {
        child_forget();
        eg_account_sync();
        return;
    }
    eg_evict_reset();
    eg_inline_reset();
    int rc = eg_pager_activate();
    if (rc)
        eg_die("the child of a fork can use no userfaultfd, or does not find itself in /proc", NULL, rc);
    rc = eg_session_child();
    if (rc)
        eg_die("the child of a fork cannot reach its memory servers", NULL, rc);
    child_forget();
    if (drop) {
        struct eg_range part;
        for (uint64_t at = 0; eg_ranges_next(&rt->ranges, at, 1ul << EG_ADDR_BITS, &part); at = part.end)
            for (uint64_t p = part.start; p < part.end;) {
                struct eg_block *b = eg_block_find(p >> EG_BLOCK_SHIFT);
                uint64_t hi = ((p >> EG_BLOCK_SHIFT) + 1) << EG_BLOCK_SHIFT;
                if (hi > part.end)
                    hi = part.end;
                while (b && p < hi) {
                    uint64_t run = p;
                    while (run < hi && eg_page_state(b, (uint32_t)(run >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES) == EG_P_CLEAN)
                        run += EG_PAGE_BYTES;
                    if (run > p && !eg_sys_failed(eg_sys3(SYS_madvise, p, run - p, MADV_DONTNEED)))
                        for (uint64_t q = p; q < run; q += EG_PAGE_BYTES)
                            eg_page_set(b, (uint32_t)(q >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES, EG_P_REMOTE);
                    p = run > p ? run : p + EG_PAGE_BYTES;
                }
                p = hi;
            }
    }
    eg_cap_rearm(0, 1ul << EG_ADDR_BITS);
    eg_account_sync();
}

static void count_one(void *n, uint64_t number)
{
    (void)number;
    ++*(uint32_t *)n;
}

/* Threads of this process, the pager's included; 0: not known. */
static uint32_t threads_count(void)
{
    uint32_t n = 0;
    long fd = eg_fd_new(SYS_openat, -100, (long)"/proc/thread-self/../", 0200000 | 02000000 /* O_DIRECTORY | O_CLOEXEC */, 0);
    if (!eg_sys_failed(fd))
        eg_sys_numbers(fd, count_one, &n);
    return n;
}

int eg_cap_thread_ends(long status, int ours)
{
    struct eg_rt *rt = &eg_rt;
    int first = (uint32_t)eg_sys0(SYS_gettid) == rt->pid;
    __atomic_store_n(&rt->last_status, (int32_t)status, __ATOMIC_RELAXED);
    if (first)
        __atomic_store_n(&rt->first_gone, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&rt->first_gone, __ATOMIC_SEQ_CST))
        return 0;
    if (ours && ((first && !rt->spawned) || threads_count() == 2 + !first + __atomic_load_n(&rt->n_helpers, __ATOMIC_SEQ_CST))) /* the first thread is there as long as the process */
        return 1;
    if (first)
        eg_pager_kick();
    return 0;
}

/* What the process's first thread ended with, as wait(2) says it; -1: it has not. */
static int32_t first_status(void)
{
    char text[1024];
    long fd = eg_fd_new(SYS_openat, -100, (long)"/proc/thread-self/../../stat", 02000000 /* O_CLOEXEC */, 0);
    if (eg_sys_failed(fd))
        return -1;
    long n = eg_sys3(SYS_read, fd, text, sizeof text), at = n;
    eg_sys1(SYS_close, fd);
    while (at > 0 && text[at - 1] != ')') /* the program's name may hold anything; the last field is the status (proc(5): exit_code) */
        at--;
    if (at <= 0 || at + 2 > n || text[at + 1] != 'Z')
        return -1;
    long field = n;
    while (field > at && text[field - 1] != ' ')
        field--;
    int32_t status = 0;
    for (; field < n && text[field] >= '0' && text[field] <= '9'; field++)
        status = status * 10 + (text[field] - '0');
    return status;
}

uint64_t eg_cap_look_alive(void)
{
    static uint64_t next_ns;
    int gone = __atomic_load_n(&eg_rt.first_gone, __ATOMIC_RELAXED);
    if (!gone && !eg_rt.shut_in)
        return 0;
    uint64_t now = eg_sys_now_ns();
    if (now < next_ns)
        return next_ns - now;
    if (threads_count() == 2 + __atomic_load_n(&eg_rt.n_helpers, __ATOMIC_SEQ_CST)) {
        if (gone)
            eg_sys1(SYS_exit_group, __atomic_load_n(&eg_rt.last_status, __ATOMIC_RELAXED));
        int32_t status = first_status(); /* one that is shut in ends without a word, by its own call or because of one */
        if (status > 0 && status & 127)
            eg_end_by_signal(status & 127);
        if (status >= 0)
            eg_sys1(SYS_exit_group, status >> 8);
    }
    uint64_t every = gone ? LOOK_NS : LOOK_SHUT_IN_NS;
    next_ns = now + every;
    return every;
}

void eg_cap_sandbox(void)
{
    struct eg_rt *rt = &eg_rt;
    eg_cap_enter();
    if (!rt->inlined || rt->foreign) {
        eg_cap_leave(0);
        return;
    }
    if (rt->active && threads_count() != 2) {
        eg_warn_once(EG_WARN_SANDBOX, "a thread shuts itself in (seccomp) while others run: if it ends by SIGBUS or SIGSYS, use --fault-engine handler", NULL);
        eg_cap_leave(0);
        return;
    }
    int was_active = rt->active;
    rt->inlined = 0;
    rt->began = NULL;
    if (was_active) {
        eg_pager_quiesce(0, 1ul << EG_ADDR_BITS);
        eg_evict_reset();
        eg_sys1(SYS_close, rt->uffd); /* with it goes the registration of everything */
        rt->uffd = -1;
        rt->active = 0;
        rt->pager_stack = NULL; /* the thread that is on it ends when it looks up */
        int rc = eg_pager_activate();
        if (rc)
            eg_die(rc == -EPERM ? "a thread would have to serve the faults of a program that shuts itself in (seccomp); as root, run `sysctl vm.unprivileged_userfaultfd=1`"
                                : "cannot let a thread serve the faults of a program that shuts itself in (seccomp)", NULL, 0);
        eg_cap_rearm(0, 1ul << EG_ADDR_BITS);
        eg_pager_kick();
    }
    eg_cap_leave(0);
}

long eg_cap_fork(long nr, const long arg[6])
{
    int drop = 0;
    eg_cap_enter();
    if (eg_rt.charged > 0 && eg_account_total() + (uint64_t)eg_rt.charged > eg_rt.high && eg_pager_activate() == 0) {
        /* Parent and child do not both fit: the servers get a copy of everything, and the child starts with nothing resident. */
        eg_evict_clean_all();
        drop = 1;
    } else if (eg_rt.charged > SPAWN_MIN_PAGES && !eg_rt.foreign) {
        eg_pager_activate_or_warn();
    }
    eg_pager_quiesce(0, 1ul << EG_ADDR_BITS);
    eg_whole_let_go(); /* what parent and child share is no huge page for long */
    if (eg_rt.active && eg_session_snapshot())
        return eg_cap_leave(-ENOMEM);
    int was_active = eg_rt.active;
    EG_COUNT(forks, eg_rt.captured > 0);
    eg_account_sync();
    long ret = eg_syscall6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
    if (ret == 0)
        eg_cap_child_start(was_active, drop);
    else if (ret < 0)
        eg_session_forget_snapshot();
    return eg_cap_leave(ret);
}
