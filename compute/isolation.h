/* isolation.h - what a worker is shut into: namespaces, an empty root, an unprivileged identity, the list of its system calls, a
 * memory cgroup. Everything is made by the daemon or between clone and exec; the worker only installs the filter. */
#ifndef EGC_ISOLATION_H
#define EGC_ISOLATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "compute/cgroup.h"

/* Descriptors of a worker; all others but standard error are closed. */
enum egc_worker_fd {
    EGC_FD_CHANNEL = 3, /* SOCK_SEQPACKET to the daemon */
    EGC_FD_FILTER = 4   /* file of struct sock_filter, at its start: the seccomp program to install */
};

struct egc_isolation {
    int worker_fd;  /* the worker's executable */
    int filter_fd;
    int namespaces; /* CLONE_NEW* that this machine gives */
    bool root;      /* the root directory can be taken away */
    bool privileged; /* the daemon may give workers another user id */
    uint64_t worker_pages; /* that a worker may hold of its program */
    struct egc_cgroup cgroup;
};

/* egc_isolation_init - open the worker's executable (beside this one, or $ENDGAME_WORKER), compile the filter, find out what
 * this machine gives.
 * Context: hosted, single-threaded; forks and waits, a few milliseconds. memory_bytes 0: no limit.
 * Returns: 0, and ret_note says in one line what is missing ("" if nothing is); or -errno, and ret_note says why. */
int egc_isolation_init(struct egc_isolation *isolation, uint64_t memory_bytes, char *ret_note, size_t note_bytes)
    __attribute__((warn_unused_result));
void egc_isolation_done(struct egc_isolation *isolation);

/* egc_isolation_spawn - start a worker whose EGC_FD_CHANNEL is `channel` (the daemon's own copy is the caller's to close).
 * If the child fails before it is a worker, it sends one message on the channel: 'F' and why, then ends.
 * Context: hosted, single-threaded; does not wait for the child. `parent_channel` is the other end.
 * Returns: the child's pid; -errno. */
pid_t egc_isolation_spawn(const struct egc_isolation *isolation, int channel, int parent_channel)
    __attribute__((warn_unused_result));

/* egc_isolation_ended - the child has been reaped: what was made for it goes. */
void egc_isolation_ended(const struct egc_isolation *isolation, pid_t pid);

#endif
