#include "proto/eg_rdma_listen.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define BACKLOG 128

static int last_error(void) { return errno ? errno : EIO; }

static int explain(const struct eg_addr *addr, bool opened, int error, char *why, size_t why_bytes)
{
    const char *rest = strchr(addr->text, ':') + 1;
    switch (error) {
    case ENODEV:
    case ENXIO:
    case ENOENT: /* no /dev/infiniband/rdma_cm */
    case EADDRNOTAVAIL:
        if (strncmp(addr->text, "rdma:", 5) == 0)
            snprintf(why, why_bytes, "%s: no RDMA device %s: see `ibv_devices`, `rdma link`; or listen on tcp:%s",
                     addr->text, opened ? "has this address" : "is here", rest);
        else /* a relay's own end */
            snprintf(why, why_bytes, "%s: no RDMA device is here: see `ibv_devices`, `rdma link`", addr->text);
        break;
    case EADDRINUSE:
        snprintf(why, why_bytes, "%s: another server listens there: stop it or choose another address", addr->text);
        break;
    case EACCES:
    case EPERM:
        snprintf(why, why_bytes,
                 "%s: not permitted: /dev/infiniband/* must be open to this user, and the port be from 1024 on",
                 addr->text);
        break;
    default:
        snprintf(why, why_bytes, "%s: cannot listen: %s", addr->text, strerror(error));
    }
    return -error;
}

static bool is_any(const struct sockaddr_storage *sa)
{
    if (sa->ss_family == AF_INET) return ((const struct sockaddr_in *)sa)->sin_addr.s_addr == INADDR_ANY;
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

static int id_listen(const struct eg_verbs *verbs, struct rdma_cm_id *id, struct sockaddr_storage sa)
{
    if (verbs->bind_addr(id, (struct sockaddr *)&sa)) return -last_error();
    /* A loopback address is taken, for no device: it would serve on those of all devices. */
    if (!id->verbs && !is_any(&sa)) return -ENODEV;
    return verbs->listen(id, BACKLOG) ? -last_error() : 0;
}

int eg_rdma_listen_channel(const struct eg_verbs *verbs, const struct eg_addr *addr, struct rdma_event_channel **ret_channel, char *ret_why,
                           size_t why_bytes)
{
    errno = 0;
    struct rdma_event_channel *channel = verbs->create_event_channel();
    if (!channel) return explain(addr, false, last_error(), ret_why, why_bytes);
    if (fcntl(channel->fd, F_SETFL, fcntl(channel->fd, F_GETFL) | O_NONBLOCK)) {
        int error = last_error();
        verbs->destroy_event_channel(channel);
        return explain(addr, false, error, ret_why, why_bytes);
    }
    *ret_channel = channel;
    return 0;
}

int eg_rdma_listen(const struct eg_verbs *verbs, struct rdma_event_channel *channel, const struct eg_addr *addr, struct rdma_cm_id **ret_id,
                   char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
{
    struct rdma_cm_id *id;
    int r = verbs->create_id(channel, &id, NULL, RDMA_PS_TCP) ? -last_error() : 0;
    if (!r && (r = id_listen(verbs, id, addr->sa))) verbs->destroy_id(id);
    if (r) return explain(addr, true, -r, ret_why, why_bytes);
    eg_addr_format(addr->kind, &id->route.addr.src_addr, addr->len_bytes, ret_text, text_bytes);
    *ret_id = id;
    return 0;
}
