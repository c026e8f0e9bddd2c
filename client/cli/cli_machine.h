/* cli_machine.h - this machine's memory as a process here may use it, and where the project's binaries are. */
#ifndef CLI_MACHINE_H
#define CLI_MACHINE_H

#include <stddef.h>
#include <stdint.h>

struct cli_memory {
    uint64_t total_bytes;
    uint64_t available_bytes;        /* of the machine */
    uint64_t cgroup_limit_bytes;     /* lowest of the cgroups above this process; UINT64_MAX: none */
    uint64_t cgroup_available_bytes; /* likewise: limit, less use, with file cache counted as free */
};

/* cli_memory_read - from /proc/meminfo and the memory cgroup, version 1 or 2. What cannot be read counts as no limit.
 * Context: hosted. */
void cli_memory_read(struct cli_memory *ret_memory);

/* cli_library_find, cli_memserver_find, cli_compute_find, cli_relay_find - absolute path of libendgame.so, endgame-memserver, endgame-compute, endgame-relay: by environment, in the build
 * tree or installed, always from where this executable lies.
 * Returns: 0, or -ENOENT, and ret_path is then the place where it was expected. */
int cli_library_find(char *ret_path, size_t path_bytes) __attribute__((warn_unused_result));
int cli_memserver_find(char *ret_path, size_t path_bytes) __attribute__((warn_unused_result));
int cli_compute_find(char *ret_path, size_t path_bytes) __attribute__((warn_unused_result));
int cli_relay_find(char *ret_path, size_t path_bytes) __attribute__((warn_unused_result));

#endif
