/* eg_view.h - a program whose threads may go out sees a machine as big as the pool: home's processors, then one for each slot of the nodes.
 * Freestanding.
 *
 * Slots are numbered from home's highest present processor on. What a thread is allowed to run on is the kernel's mask for home's part; the
 * slots' part is kept here, one mask to a thread, inherited as the kernel's is. The files that tell of processors are answered with the real
 * ones' text, continued. Runs whose threads stay at home, or without nodes, never come here: none of these calls is patched then. */
#ifndef EG_VIEW_H
#define EG_VIEW_H

#include "client/pager/eg_pool.h"

#include <stddef.h>
#include <stdint.h>

#define EG_VIEW_CPUS EG_POOL_VIEW_CPUS
#define EG_VIEW_LIST_CPUS 8192u /* the most that Linux knows */

struct eg_view_mask {
    uint64_t slots[EG_VIEW_CPUS / 64]; /* by processor number; none of home's */
    uint32_t no_home; /* the thread asked for slots only: the kernel's mask is not its wish */
};

/* eg_view_init - what there is to be seen. Context: start-up, after the pool is known. */
void eg_view_init(void);
/* eg_view_on - Returns: 1: there are slots to be seen in this process. */
int eg_view_on(void);

/* eg_view_wants - is this one of the view's calls, and not one that passes as it is? Context: any program thread, a proxy; reads a pathname by
 * copy. */
int eg_view_wants(long nr, const long arg[6]);
/* eg_view_call - make a call that eg_view_wants. Context: gate stack, signals blocked, no lock held.
 * Returns: as the call; ret_pass 1: it is to be made as it is. */
long eg_view_call(long nr, const long arg[6], long *ret_pass);
/* eg_view_exec - execve or execveat: the program that comes inherits the mask. Context: program thread, its own stack and mask.
 * Returns: -errno; ret_pass 1: the call is to be made as it is. */
long eg_view_exec(long nr, const long arg[6], long *ret_pass);

/* eg_view_inherit - the calling thread's mask, for a thread that it makes. Context: signals blocked. */
void eg_view_inherit(struct eg_view_mask *ret_mask);
/* eg_view_child - in the child of a fork, which had that mask. */
void eg_view_child(const struct eg_view_mask *mask);

/* --- view_text.c: what the files say; pure --- */

/* eg_view_list_parse - "0-3,8" into bits. Returns: 0, -EINVAL, -ERANGE. */
int eg_view_list_parse(const char *text, size_t bytes, uint64_t bits[EG_VIEW_LIST_CPUS / 64]);
/* eg_view_list_put - the kernel's way of writing a set, with the end of line. Returns: bytes; 0: it does not fit. */
size_t eg_view_list_put(const uint64_t bits[EG_VIEW_LIST_CPUS / 64], char *buf, size_t cap);
/* eg_view_bits - set or clear bits [first, end). */
void eg_view_bits(uint64_t *bits, uint32_t first, uint32_t end, int on);

/* One processor of /proc/cpuinfo. A node is a package of its own. */
struct eg_view_cpu {
    uint64_t number, package, core, cores, apicid;
};
/* eg_view_cpuinfo_value - the number of a line such as "apicid\t\t: 1" of a block. Returns: 1; 0: there is none. */
int eg_view_cpuinfo_value(const char *block, size_t bytes, const char *key, uint64_t *ret_value);
/* eg_view_cpuinfo_put - the block of another processor with the numbers of `cpu`. Returns: bytes; 0: it does not fit. */
size_t eg_view_cpuinfo_put(const char *block, size_t bytes, const struct eg_view_cpu *cpu, char *buf, size_t cap);

/* eg_view_stat_ticks - a "cpuN" line of /proc/stat: how long that processor has been there. */
uint64_t eg_view_stat_ticks(const char *line, size_t bytes);
/* eg_view_stat_sum - the "cpu" line, with so many idle ticks more. Returns: bytes; 0: it does not fit. */
size_t eg_view_stat_sum(const char *line, size_t bytes, uint64_t idle, char *buf, size_t cap);
/* eg_view_stat_put - the line of a slot: what its node does is not known here, so it is idle. Returns: bytes; 0: it does not fit. */
size_t eg_view_stat_put(uint64_t number, uint64_t idle, char *buf, size_t cap);

#endif
