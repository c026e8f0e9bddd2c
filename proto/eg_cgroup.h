/* eg_cgroup.h - the control group that limits this process's memory. Hosted. */
#ifndef EG_CGROUP_H
#define EG_CGROUP_H

#include <limits.h>
#include <stdbool.h>

struct eg_cgroup {
    bool v2;
    char mount[PATH_MAX];
    char path[PATH_MAX]; /* below mount, starts with / */
};

/* eg_cgroup_find - version 1's group if there is a memory hierarchy, else version 2's.
 * Context: hosted, single-threaded (strtok); reads /proc. Returns: false when there is none. */
bool eg_cgroup_find(struct eg_cgroup *ret_cgroup);

#endif
