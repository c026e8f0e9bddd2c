/* meminfo.h - how much memory this machine, and this process's control group, can still give. */
#ifndef EGM_MEMINFO_H
#define EGM_MEMINFO_H

#include <stdint.h>

/* egm_meminfo_available - bytes that can still be taken without the kernel killing for it: MemAvailable plus free swap, and no
 * more than the memory limits of this process's control groups (version 2) leave.
 * Context: hosted; reads a few files of /proc and /sys/fs/cgroup (about 50 us).
 * Returns: bytes; UINT64_MAX when the machine does not say. */
uint64_t egm_meminfo_available(void);

/* egm_meminfo_total - physical memory of the machine in bytes. */
uint64_t egm_meminfo_total(void);

#endif
