/* eg_verbs_call.h - from the freestanding runtime into libendgame-verbs.so and back. */
#ifndef EG_VERBS_CALL_H
#define EG_VERBS_CALL_H

#include "client/pager/eg_pager.h"
#include "client/verbs/eg_verbs_lib.h"

/* eg_verbs_init - what the start-up code loaded, and its AT_HWCAP2. Context: start-up. Returns: 0, -ENOMEM. */
int eg_verbs_init(const struct eg_verbs_lib *lib, uint64_t hwcap2);
/* eg_verbs_dial - connect s->link and s->control_fd to an rdma: server. Context: lock held. Returns: 0, -errno. */
int eg_verbs_dial(struct eg_server *s);
/* eg_verbs_send, eg_verbs_recv - the control stream. Returns: 0, -ETIMEDOUT, -errno. */
int eg_verbs_send(struct eg_link *link, const void *buf, size_t len, uint32_t timeout_ms);
int eg_verbs_recv(struct eg_link *link, void *buf, size_t len, uint32_t timeout_ms);
/* eg_verbs_check - has the peer gone? Returns: 0, -errno. */
int eg_verbs_check(struct eg_link *link);
/* eg_verbs_forked - in the child of a fork, before anything else here: every link is the parent's. */
void eg_verbs_forked(void);

#endif
