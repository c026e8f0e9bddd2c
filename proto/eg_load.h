/* eg_load.h - does anybody else on this machine want a processor? */
#ifndef EG_LOAD_H
#define EG_LOAD_H

#include "proto/eg_sys.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* eg_load_running - how many threads of this machine run or want to; 0: not known. fd: /proc/loadavg, open. Context: any; some microseconds. */
static inline uint32_t eg_load_running(long fd)
{
    char text[64];
    long n = eg_sys4(SYS_pread64, fd, text, sizeof text, 0), i = 0;
    uint32_t running = 0;
    for (int blanks = 0; i < n && blanks < 3; i++) /* 0.00 0.01 0.05 running/all last */
        blanks += text[i] == ' ';
    for (; i < n && text[i] >= '0' && text[i] <= '9'; i++)
        running = running * 10 + (uint32_t)(text[i] - '0');
    return running;
}

/* eg_load_is_local - is the other end of a tcp connection on this machine? Context: any. */
static inline int eg_load_is_local(long fd)
{
    struct sockaddr_in6 here = {0}, there = {0};
    int here_bytes = sizeof here, there_bytes = sizeof there;
    if (eg_sys3(SYS_getsockname, fd, &here, &here_bytes) || eg_sys3(SYS_getpeername, fd, &there, &there_bytes) || here.sin6_family != there.sin6_family)
        return 0;
    if (here.sin6_family == AF_INET)
        return ((struct sockaddr_in *)(void *)&here)->sin_addr.s_addr == ((struct sockaddr_in *)(void *)&there)->sin_addr.s_addr;
    return here.sin6_family == AF_INET6 && memcmp(&here.sin6_addr, &there.sin6_addr, sizeof here.sin6_addr) == 0;
}

/* eg_load_beside - does the other end of such a connection share the processor that the caller is on? (Within a machine a segment is received where it was
 * sent.) Then it cannot run while the caller spins. Context: any. */
static inline int eg_load_beside(long fd)
{
    int from = -1, bytes = sizeof from;
    uint32_t own = 0;
    return !eg_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_INCOMING_CPU, &from, &bytes) && !eg_sys3(SYS_getcpu, &own, 0, 0) && from == (int)own;
}

#endif
