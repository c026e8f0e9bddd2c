/* eg_listen.c - listening sockets of the daemons. */
#include "proto/eg_listen.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr) >> 24 == 127;
    if (sa->sa_family != AF_INET6) return false;
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
}

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

void eg_listener_tune(int fd, int idle_s, int interval_s, int n)
{
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, n);
}

int eg_listener_accept(const struct eg_listener *listener, bool *ret_local)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    int fd = accept4(listener->fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) return -errno;
    if (listener->path.sun_family == AF_UNIX) {
        struct ucred peer;
        socklen_t peer_len = sizeof peer;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_len) || (peer.uid != geteuid() && peer.uid != 0 && !listener->any_user)) {
            close(fd);
            return -EACCES;
        }
        *ret_local = true;
    } else {
        *ret_local = is_loopback((struct sockaddr *)&sa);
    }
    return fd;
}

int eg_listener_let_in(struct eg_listener *listener)
{
    if (listener->path.sun_family == AF_UNIX && chmod(listener->path.sun_path, 0666)) return -errno;
    listener->any_user = true;
    return 0;
}

/* A socket file that nobody listens on any more goes. Returns: 0, -EADDRINUSE (a live server), -EEXIST (not a socket), -errno. */
static int remove_stale(const struct sockaddr_un *path, socklen_t len)
{
    struct stat st;
    if (lstat(path->sun_path, &st)) return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) return -EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    int r = connect(fd, (const struct sockaddr *)path, len) ? errno : 0;
    close(fd);
    if (r != ECONNREFUSED) return r == ENOENT ? 0 : -EADDRINUSE;
    return unlink(path->sun_path) && errno != ENOENT ? -errno : 0;
}

int eg_listener_explain(const struct eg_addr *addr, int error, char *why, size_t why_bytes)
{
    switch (error) {
    case EADDRINUSE:
        snprintf(why, why_bytes, "%s: another server listens there: stop it or choose another address", addr->text);
        break;
    case EEXIST:
        snprintf(why, why_bytes, "%s: the file is there and is not a socket: choose another path", addr->text);
        break;
    case EADDRNOTAVAIL:
        snprintf(why, why_bytes, "%s: this machine does not have that address: see ip addr", addr->text);
        break;
    case ENOENT:
        snprintf(why, why_bytes, "%s: no such directory: make it first", addr->text);
        break;
    case EACCES:
    case EPERM:
        snprintf(why, why_bytes, "%s: not permitted: %s", addr->text,
                 addr->sa.ss_family == AF_UNIX ? "choose a directory that you may write to"
                                               : "choose a port from 1024 on");
        break;
    default:
        snprintf(why, why_bytes, "%s: cannot listen: %s", addr->text, strerror(error));
    }
    return -error;
}

int eg_listener_open(const struct eg_addr *addr, struct eg_listener *ret_listener, char *ret_text, size_t text_bytes,
                     char *ret_why, size_t why_bytes)
{
    const struct sockaddr *sa = (const struct sockaddr *)&addr->sa;
    struct eg_listener listener = { .loopback = true };
    int error;

    listener.fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener.fd < 0) goto fail;
    if (sa->sa_family == AF_UNIX) {
        struct sockaddr_un path;
        memcpy(&path, sa, sizeof path);
        error = remove_stale(&path, addr->len_bytes);
        if (error) {
            errno = -error;
            goto fail;
        }
        mode_t mask = umask(0177); /* 0600 from the first moment */
        int r = bind(listener.fd, sa, addr->len_bytes);
        umask(mask);
        if (r || lstat(path.sun_path, &listener.made)) goto fail;
        listener.path = path;
    } else {
        set_option(listener.fd, SOL_SOCKET, SO_REUSEADDR, 1);
        if (sa->sa_family == AF_INET6) set_option(listener.fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
        if (bind(listener.fd, sa, addr->len_bytes)) goto fail;
    }
    if (listen(listener.fd, SOMAXCONN)) goto fail;
    if (sa->sa_family == AF_UNIX) {
        snprintf(ret_text, text_bytes, "%s", addr->text);
    } else {
        struct sockaddr_storage bound;
        socklen_t len = sizeof bound;
        if (getsockname(listener.fd, (struct sockaddr *)&bound, &len)) goto fail;
        eg_addr_format(addr->kind, (struct sockaddr *)&bound, len, ret_text, text_bytes);
        listener.loopback = is_loopback((struct sockaddr *)&bound);
    }
    *ret_listener = listener;
    return 0;
fail:
    error = errno;
    eg_listener_close(&listener);
    return eg_listener_explain(addr, error, ret_why, why_bytes);
}

void eg_listener_close(struct eg_listener *listener)
{
    struct stat now;
    if (listener->fd >= 0) close(listener->fd);
    listener->fd = -1;
    if (listener->path.sun_path[0] && !lstat(listener->path.sun_path, &now) && now.st_dev == listener->made.st_dev &&
        now.st_ino == listener->made.st_ino)
        unlink(listener->path.sun_path);
    listener->path.sun_path[0] = 0;
}
