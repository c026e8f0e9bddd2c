/* cli_uffd.h - what userfaultfd this machine and user have. */
#ifndef CLI_UFFD_H
#define CLI_UFFD_H

#include "proto/eg_uffd.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(NAME, bit, "kernel", "what it is good for") */
#define CLI_UFFD_FEATURES(X)                                                                     \
    X(PAGEFAULT_FLAG_WP, 0, "5.7", "tell clean pages from changed ones; needed")                 \
    X(EVENT_FORK, 1, "4.11", "not used")                                                         \
    X(SIGBUS, 7, "4.14", "serve a fault in the thread that took it")                             \
    X(THREAD_ID, 8, "4.14", "prefetch per thread")                                               \
    X(EXACT_ADDRESS, 11, "5.18", "not used")                                                     \
    X(WP_UNPOPULATED, 13, "6.4", "write-protect before the first touch")                         \
    X(POISON, 14, "6.6", "mark a page as lost")                                                  \
    X(WP_ASYNC, 15, "6.7", "learn which pages changed without a fault for each")                 \
    X(MOVE, 16, "6.8", "take pages away from running threads in one step")

#define CLI_UFFD_FEATURE_BIT(bit) (UINT64_C(1) << (bit))

struct cli_uffd {
    int error;           /* 0, or the errno that keeps run from using userfaultfd */
    bool user_mode_only; /* error is EPERM, and faults of user mode alone would be allowed */
    bool via_device;     /* got through /dev/userfaultfd, the system call is not allowed */
    uint64_t features;   /* valid if error is 0 or user_mode_only */
    uint64_t ioctls;
};

/* cli_uffd_probe - open a userfaultfd as the runtime would, ask for its features, close it.
 * Context: hosted. Source: userfaultfd(2), ioctl_userfaultfd(2). */
void cli_uffd_probe(struct cli_uffd *ret_uffd);

/* cli_uffd_missing - NULL if `run` can work with it, else one line that says what to do; text is its buffer. thread: by a thread that serves the
 * faults, those of system calls among them (else by the threads that meet them: faults of user mode are enough). */
const char *cli_uffd_missing(const struct cli_uffd *uffd, bool thread, char *text, size_t text_bytes);

/* cli_uffd_pagemap_scan - Returns: 0, or -errno if this kernel has no PAGEMAP_SCAN. */
int cli_uffd_pagemap_scan(void);

#endif
