/* eg_listen.h - listening sockets of the daemons: tcp and unix addresses. Hosted; for one thread each. */
#ifndef EG_LISTEN_H
#define EG_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "proto/eg_addr.h"

struct eg_listener {
    int fd;                  /* non-blocking, close-on-exec */
    bool loopback;           /* nobody from another machine can connect; true for unix */
    struct sockaddr_un path; /* unix; else sun_family is 0 */
    struct stat made;        /* unix: the socket file is ours as long as it is this one */
    bool any_user;           /* unix: see eg_listener_let_in */
};

/* eg_listener_open - bind and listen. ret_text gets the address with its real port. Removes a stale unix socket, never a live
 * one; a unix socket is its user's alone.
 * Context: hosted. Owns: *ret_listener goes to eg_listener_close().
 * Returns: 0, or -errno and ret_why holds one line that says what to do. */
int eg_listener_open(const struct eg_addr *addr, struct eg_listener *ret_listener, char *ret_text, size_t text_bytes,
                     char *ret_why, size_t why_bytes) __attribute__((warn_unused_result));

/* eg_listener_let_in - over a unix socket all users are let in from now on that get at the file (folders may keep them away). Returns: 0, -errno. */
int eg_listener_let_in(struct eg_listener *listener) __attribute__((warn_unused_result));

/* eg_listener_explain - the line for an error of listening on addr (also for kinds of address that are not opened here).
 * Returns: -error. */
int eg_listener_explain(const struct eg_addr *addr, int error, char *ret_why, size_t why_bytes);

/* eg_listener_close - close; a socket file of ours goes. */
void eg_listener_close(struct eg_listener *listener);

/* eg_listener_accept - the next connection, non-blocking and close-on-exec. *ret_local: from this machine. Over a unix socket
 * only the same user and root are let in, until eg_listener_let_in.
 * Context: hosted; does not block.
 * Returns: a descriptor; -EAGAIN: nobody waits; -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM: try again later; else this one is gone, or was
 *          not let in: take the next. */
int eg_listener_accept(const struct eg_listener *listener, bool *ret_local) __attribute__((warn_unused_result));

/* eg_listener_tune - no delay, and notice of a peer that died without a word after idle_s + n * interval_s seconds. Buffer sizes
 * are left to the kernel: its own tuning goes beyond what SO_SNDBUF and SO_RCVBUF may ask for. */
void eg_listener_tune(int fd, int idle_s, int interval_s, int n);

#endif
