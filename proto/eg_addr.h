/* eg_addr.h - addresses of servers as users write them: tcp:HOST:PORT, rdma:HOST:PORT, unix:PATH; auto:HOST:PORT, for
 * clients, is rdma where that works, else tcp. Hosted. */
#ifndef EG_ADDR_H
#define EG_ADDR_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct eg_addr {
    uint32_t kind; /* enum eg_addr_kind of eg_pool.h: 1 unix, 2 tcp, 3 rdma, 4 auto */
    socklen_t len_bytes;
    struct sockaddr_storage sa;
    char text[128]; /* as given */
};

/* eg_addr_parse - read and resolve one address.
 * Context: hosted; may block on name resolution. HOST may be a name, an IPv4 address or [IPv6].
 * Pre:     for_listening: port 0 and an empty host or `*` (any interface) are allowed.
 * Returns: 0, or -EINVAL (not an address), -ENAMETOOLONG, -ENOENT (name does not resolve); ret_why then holds one line without
 *          newline that says what to do. */
int eg_addr_parse(const char *text, int for_listening, struct eg_addr *ret_addr, char *ret_why, size_t why_bytes)
    __attribute__((warn_unused_result));

/* eg_addr_format - the address of a bound or connected socket in the same notation (numeric).
 * Context: hosted. Returns: ret_text. */
char *eg_addr_format(uint32_t kind, const struct sockaddr *sa, socklen_t len_bytes, char *ret_text, size_t text_bytes);

/* eg_size_parse - "64M", "1.5G", "4096", "2GiB" (powers of 1024) to bytes.
 * Returns: 0, -EINVAL (not a size), -ERANGE (does not fit). */
int eg_size_parse(const char *text, uint64_t *ret_bytes) __attribute__((warn_unused_result));

/* eg_size_format - bytes in the largest binary unit that keeps three digits, "64M", "1.5G". */
char *eg_size_format(uint64_t bytes, char *ret_text, size_t text_bytes);

#endif
