/* send.c - the agent's messages: on a node's coherence stream, where they wait for room, and on the streams of threads that wait for a page. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"
#include "proto/eg_msg.h"

#include <errno.h>
#include <poll.h>

void eg_send_flush(uint32_t k)
{
    struct eg_node *n = eg_home.node[k];
    while (n->alive && n->out_at < n->out_end) {
        long sent = eg_sys6(SYS_sendto, n->fd, n->out + n->out_at, n->out_end - n->out_at, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
        if (sent == -EAGAIN || sent == -EINTR)
            return;
        if (sent <= 0) {
            eg_lost_node(k);
            return;
        }
        n->out_at += (uint64_t)sent;
    }
    n->out_at = n->out_end = 0;
}

uint8_t *eg_send_room(uint32_t k, uint64_t bytes)
{
    struct eg_node *n = eg_home.node[k];
    if (n->out_end + bytes > EG_NODE_OUT_BYTES) {
        memmove(n->out, n->out + n->out_at, n->out_end - n->out_at);
        n->out_end -= n->out_at;
        n->out_at = 0;
        if (n->out_end + bytes > EG_NODE_OUT_BYTES) { /* it takes nothing any more; if the program goes on without it, nobody sends this */
            eg_lost_node(k);
            n->out_at = n->out_end = 0;
        }
    }
    uint8_t *p = n->out + n->out_end;
    n->out_end += bytes;
    return p;
}

void eg_send_say(uint32_t k, enum eg_co_type type, unsigned flags, unsigned slot, uint32_t n, uint64_t addr)
{
    struct eg_co m = {.type = (uint8_t)type, .flags = (uint8_t)flags, .slot = (uint16_t)slot, .n = n, .addr = addr,
                      .number = eg_home.node[k]->n_granted};
    if (eg_home.node[k]->alive)
        memcpy(eg_send_room(k, sizeof m), &m, sizeof m);
}

void eg_send_grant(uint32_t k, struct eg_co m, const void *data)
{
    uint64_t bytes = eg_co_payload_bytes(&m);
    if (!eg_home.node[k]->alive)
        return;
    uint8_t *p = eg_send_room(k, sizeof m + bytes);
    m.number = ++eg_home.node[k]->n_granted;
    memcpy(p, &m, sizeof m);
    if (bytes)
        memcpy(p + sizeof m, data, bytes);
}

/* To a thread that waits for a page, on its own stream. It reads, so there is room soon. */
void eg_send_slot(uint32_t k, unsigned slot, struct eg_co m, const void *data, uint64_t bytes)
{
    struct eg_node *n = eg_home.node[k];
    struct iovec v[2] = {{&m, sizeof m}, {(void *)data, bytes}};
    struct msghdr message = {.msg_iov = v, .msg_iovlen = bytes ? 2 : 1};
    struct eg_thread *t = eg_slot_thread(n, slot);
    if (!n->alive)
        return;
    int fd = t ? __atomic_load_n(&t->fd, __ATOMIC_RELAXED) : -1;
    if (fd < 0)
        eg_die("a compute node does not keep to the protocol: ", n->config->text, 0);
    eg_near_answered(t, k, slot);
    m.number = ++n->n_granted;
    m.flags |= eg_home.loaded && !(n->config->flags & EG_HELLO_OTHER_CLOCK) ? EG_CO_F_LOADED : 0;
    while (n->alive && message.msg_iovlen) {
        long sent = eg_sys3(SYS_sendmsg, fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == -EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            const struct timespec patience = {.tv_sec = 10};
            if (eg_sys5(SYS_ppoll, &p, 1, &patience, 0, 8) == 0)
                eg_lost_node(k);
            continue;
        }
        if (sent == -EINTR)
            continue;
        if (sent <= 0) {
            eg_lost_node(k);
            return;
        }
        eg_msg_sent(&message, (uint64_t)sent);
    }
}

void eg_send_deny(uint32_t k, unsigned slot, uint64_t addr)
{
    eg_send_slot(k, slot, (struct eg_co){.type = EG_CO_DENY, .n = 1, .addr = addr}, NULL, 0);
}
