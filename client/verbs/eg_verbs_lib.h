/* eg_verbs_lib.h - what libendgame-verbs.so offers: connections to memory servers over RDMA, for the freestanding runtime and
 * for the command line.
 *
 * Inside a program the library is loaded with dlmopen into a link namespace of its own: libibverbs, librdmacm, the device's provider
 * and a libc that nothing else uses. The program's own libc could not serve: the runtime holds the pager's lock while it calls
 * here, and a program thread that holds malloc's lock may at that moment wait for a page. For the same reason the namespace's
 * malloc is the library's own (verbs_malloc.c).
 *
 * Context of all calls but eg_verbs_lib itself: the pager's lock held; FS base set to `tls`; on a stack of VERBS_STACK_BYTES. They
 * may use vector registers, and set errno there. None blocks for long but `open`.
 * All return a count or 0, or -errno as in eg_rdma.h. */
#ifndef EG_VERBS_LIB_H
#define EG_VERBS_LIB_H

#include <sys/uio.h>
#include "proto/eg_transport.h"

#define EG_VERBS_LIB_VERSION 2u
#define EG_VERBS_STACK_BYTES (256u << 10)
#define EG_VERBS_LIB_NAME "libendgame-verbs.so"
#define EG_VERBS_AREAS 2

struct eg_verbs_link;

struct eg_verbs_host {
    void *(*map)(size_t bytes); /* memory; NULL: malloc */
    int (*fd_high)(int fd);     /* moves a descriptor out of the program's way; NULL: stays */
};

struct eg_verbs_open {
    const void *sockaddr;
    uint32_t timeout_ms;
    uint8_t token[EG_TOKEN_BYTES]; /* zeros: a tool */
    struct iovec area[EG_VERBS_AREAS]; /* local memory for one-sided transfers; iov_len 0: none */
    /* Set on success: */
    struct eg_verbs_link *link;
    int cm_fd;         /* readable: call check */
    int cq_fd;         /* readable after arm: call poll */
    char device[32];   /* also set when the failure came after the device was found */
};

struct eg_verbs_lib {
    uint32_t version;
    void *tls;
    /* All that is written to in the namespace, whole pages: must be here whenever something is called. 0: with no thread of its own. */
    const struct iovec *memory;
    uint32_t n_memory;
    /* open - Returns: 0; -ENODEV (no device, or none leads there), -ECONNREFUSED, -EHOSTUNREACH, -ETIMEDOUT, -ENOMEM (most
     * often RLIMIT_MEMLOCK), -EPROTONOSUPPORT (version), -ESHUTDOWN (draining), -EPROTO, -errno. */
    long (*open)(struct eg_verbs_open *arg);
    /* send, recv - the control stream. Returns: bytes taken or given, maybe 0. */
    long (*send)(struct eg_verbs_link *link, const void *data, size_t bytes);
    long (*recv)(struct eg_verbs_link *link, void *data, size_t bytes);
    long (*submit)(struct eg_verbs_link *link, struct eg_io *io);
    long (*poll)(struct eg_verbs_link *link, struct eg_io_queue *done);
    long (*arm)(struct eg_verbs_link *link);
    long (*check)(struct eg_verbs_link *link);
    long (*close)(struct eg_verbs_link *link);
    /* forked - in the child of a fork: lets go of the parent's descriptors without a word to the devices, and everything here is as it
     * was after loading. */
    long (*forked)(void);
};

/* eg_verbs_lib - the library's one symbol. Context: start-up, one thread; loads the providers, so that nothing has to be loaded later.
 * own_thread: make a TLS block of the library's own (`tls`); else the caller's is used.
 * Returns: NULL when memory is short. */
typedef const struct eg_verbs_lib *eg_verbs_lib_fn(const struct eg_verbs_host *host, int own_thread);
eg_verbs_lib_fn eg_verbs_lib;

#endif
