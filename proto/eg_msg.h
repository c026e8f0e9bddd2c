/* eg_msg.h - messages that go in parts. Freestanding. */
#ifndef EG_MSG_H
#define EG_MSG_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* eg_msg_sent - sendmsg took so many bytes: the message is what is left (msg_iovlen 0: nothing), its iovecs are changed. Context: any. */
static inline void eg_msg_sent(struct msghdr *m, uint64_t bytes)
{
    while (m->msg_iovlen && bytes >= m->msg_iov->iov_len) {
        bytes -= m->msg_iov->iov_len;
        m->msg_iov++;
        m->msg_iovlen--;
    }
    if (m->msg_iovlen) {
        m->msg_iov->iov_base = (uint8_t *)m->msg_iov->iov_base + bytes;
        m->msg_iov->iov_len -= bytes;
    }
}

#endif
