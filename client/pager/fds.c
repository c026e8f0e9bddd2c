/* fds.c - the runtime's descriptors, out of the program's way. */
#include "client/pager/eg_capture.h"
#include "client/threads/eg_home.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>

#define TRIES 3

/* The k-th of the runtime's descriptors, open or not; NULL past the last. */
static int *own_fd(uint32_t k)
{
    struct eg_rt *rt = &eg_rt;
    int *fixed[] = {&rt->pool_fd, &rt->pagemap_fd, &rt->mem_fd, &rt->uffd, &rt->wake_fd, &rt->pid_fd, &rt->uffd_dev};
    uint32_t n = sizeof fixed / sizeof *fixed;
    if (k < n)
        return fixed[k];
    k -= n;
    if (k >= rt->n_servers * 3)
        return eg_home.on ? eg_home_fd(k - rt->n_servers * 3) : NULL;
    struct eg_server *s = &rt->server[k / 3];
    int *of_server[] = {&s->control_fd, &s->link.fd, &s->path_fd};
    return of_server[k % 3];
}

long eg_fd_open_own(const char *path, int flags)
{
    long fd = eg_fd_new(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, 0);
    for (int i = 0; i < TRIES && fd == -EACCES; i++) { /* another thread may be here, too */
        /* What /proc has of a process that has changed its user is root's, until it may be dumped again. */
        long dumpable = eg_sys5(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
        eg_sys5(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
        fd = eg_fd_new(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, 0);
        if (dumpable != 1)
            eg_sys5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    return fd;
}

void eg_fd_path(int fd, char ret_path[EG_FD_PATH_BYTES])
{
    size_t n = eg_str_put(ret_path, EG_FD_PATH_BYTES, 0, "/proc/thread-self/fd/");
    eg_str_put_u64(ret_path, EG_FD_PATH_BYTES, n, (uint64_t)fd);
}

int eg_cap_fd_reserved(long fd)
{
    int *own;
    if (!eg_rt.pool || fd < eg_rt.fd_floor)
        return 0;
    for (uint32_t k = 0; (own = own_fd(k)); k++)
        if (__atomic_load_n(own, __ATOMIC_RELAXED) == (int)fd)
            return 1;
    return 0;
}

long eg_cap_close_range(long first, long last, long flags)
{
    uint64_t at = (uint32_t)first, end = (uint32_t)last;
    if (at > end || flags & 4 /* CLOSE_RANGE_CLOEXEC */)
        return eg_sys3(SYS_close_range, first, last, flags);
    long ret = 0;
    while (at <= end && ret == 0) {
        uint64_t stop = end + 1; /* the first own descriptor at or after `at` */
        int *own;
        for (uint32_t k = 0; (own = own_fd(k)); k++)
            if (*own >= 0 && (uint64_t)*own >= at && (uint64_t)*own < stop)
                stop = (uint64_t)*own;
        if (stop > at) {
            ret = eg_sys3(SYS_close_range, at, stop - 1, flags);
            flags &= ~2l; /* CLOSE_RANGE_UNSHARE is done */
        }
        at = stop + 1;
    }
    return ret;
}

int eg_cap_fd_move_away(long fd)
{
    int *own;
    eg_cap_enter();
    for (uint32_t k = 0; !eg_rt.foreign && (own = own_fd(k)); k++) {
        if (*own != (int)fd)
            continue;
        int to = eg_fd_dup_high((int)fd);
        if (to < 0)
            return (int)eg_cap_leave(to);
        __atomic_store_n(own, to, __ATOMIC_SEQ_CST);
        eg_pager_quiesce(0, 1ul << EG_ADDR_BITS); /* threads that read without the lock have the old number */
        uint32_t turns = __atomic_load_n(&eg_rt.turns, __ATOMIC_SEQ_CST);
        int active = eg_rt.active;
        eg_cap_leave(0);
        /* The pager may be about to read the old number: let it come round twice. */
        while (active && __atomic_load_n(&eg_rt.turns, __ATOMIC_SEQ_CST) - turns < 2) {
            eg_pager_kick();
            eg_sys0(SYS_sched_yield);
        }
        return 0;
    }
    return (int)eg_cap_leave(0);
}
