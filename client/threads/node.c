/* node.c - streams to compute nodes. */
#include "client/threads/eg_home.h"

#include "client/pager/eg_pager.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#define TIMEOUT_PULSES 5u /* for the answer to a hello */

static void set_timeouts(int fd, long ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    eg_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    eg_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
}

static void tune_tcp(int fd)
{
    static const struct {
        int level, option, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1}, {SOL_SOCKET, SO_KEEPALIVE, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 10},
        {IPPROTO_TCP, TCP_KEEPINTVL, 5}, {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    for (uint32_t i = 0; i < sizeof options / sizeof *options; i++)
        eg_sys5(SYS_setsockopt, fd, options[i].level, options[i].option, &options[i].value, sizeof(int));
}

static int all(long nr, int fd, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        long n = eg_sys6(nr, fd, (uint8_t *)data + at, bytes - at, MSG_NOSIGNAL, 0, 0);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? -ECONNRESET : (int)n;
        at += (size_t)n;
    }
    return 0;
}

int eg_node_connect(uint32_t k, enum eg_stream_kind kind, struct eg_node_welcome *ret_welcome)
{
    const struct eg_pool_node *config = &eg_rt.pool->nodes[k];
    int family = config->kind == EG_ADDR_UNIX ? AF_UNIX : ((const struct sockaddr *)(const void *)config->sockaddr)->sa_family;
    long fd = eg_fd_new(SYS_socket, family, SOCK_STREAM | SOCK_CLOEXEC, 0, 0);
    if (eg_sys_failed(fd))
        return (int)fd;
    fd = eg_fd_high((int)fd);
    if (family != AF_UNIX)
        tune_tcp((int)fd);
    set_timeouts((int)fd, TIMEOUT_PULSES * eg_home.pulse_ms);
    struct eg_node_hello hello = {
        .magic = EG_THREADS_MAGIC,
        .version = EG_THREADS_VERSION,
        .kind = (uint16_t)kind,
        .process = eg_home.process,
        .vdso = eg_home.vdso,
        .vvar = eg_home.vvar,
        .where = (uint64_t)eg_where,
        .pid = (uint32_t)eg_sys0(SYS_getpid),
        .flags = config->flags,
    };
    memcpy(hello.token, eg_rt.pool->token, sizeof hello.token);
    long rc = eg_sys3(SYS_connect, fd, config->sockaddr, config->sockaddr_len);
    if (!rc)
        rc = all(SYS_sendto, (int)fd, &hello, sizeof hello);
    if (!rc)
        rc = all(SYS_recvfrom, (int)fd, ret_welcome, sizeof *ret_welcome);
    if (!rc && (ret_welcome->magic != EG_THREADS_MAGIC || ret_welcome->version != EG_THREADS_VERSION || ret_welcome->status))
        rc = -EPROTO;
    if (rc) {
        eg_sys1(SYS_close, fd);
        return (int)rc;
    }
    set_timeouts((int)fd, 0);
    return (int)fd;
}
