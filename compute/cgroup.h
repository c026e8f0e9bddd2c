/* cgroup.h - one memory cgroup per worker, below the daemon's own, where the daemon may make them. Hosted. */
#ifndef EGC_CGROUP_H
#define EGC_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct egc_cgroup {
    uint64_t limit_bytes; /* 0: no cgroups are made */
    bool v2;
    char dir[PATH_MAX]; /* where workers' groups are made */
    char own[PATH_MAX]; /* version 2: the group that the daemon moved to; empty: none */
};

/* egc_cgroup_init - find the daemon's memory cgroup and see that one with the limit can be made below it. Under version 2 the daemon
 * moves to a group of its own below it, as the kernel wants the processes in the leaves.
 * Context: hosted. limit_bytes 0: nothing is done.
 * Returns: 0; -errno, and no groups are made from then on. */
int egc_cgroup_init(struct egc_cgroup *cgroup, uint64_t limit_bytes) __attribute__((warn_unused_result));
void egc_cgroup_done(struct egc_cgroup *cgroup);

/* egc_cgroup_put - make the worker's group and put pid in. Returns: 0, -errno. */
int egc_cgroup_put(const struct egc_cgroup *cgroup, pid_t pid) __attribute__((warn_unused_result));
/* egc_cgroup_remove - pid has been reaped. */
void egc_cgroup_remove(const struct egc_cgroup *cgroup, pid_t pid);

#endif
