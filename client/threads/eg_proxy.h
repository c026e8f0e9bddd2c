/* eg_proxy.h - what the rooms of the proxies share (slot.c, begin.c, proxy.c, call.c, end.c). Freestanding. */
#ifndef EG_PROXY_H
#define EG_PROXY_H

#include "client/threads/eg_home.h"

#include <sched.h>

#define ARCH_SET_FS 0x1002
#define ARCH_SET_GS 0x1001
#define ARCH_GET_FS 0x1003
#define ARCH_GET_GS 0x1004

/* --- slot.c --- */
/* eg_node_gets, eg_node_loses - a thread is to go to the node; is not there any more. Context: any. */
void eg_node_gets(struct eg_node *n);
void eg_node_loses(struct eg_node *n);
/* eg_proxy_slot - a slot for a new thread, taken (tid 1). Context: any. Returns: NULL: no memory, or there are EG_THREADS. */
struct eg_thread *eg_proxy_slot(void);
/* eg_proxy_stream_take - a stream to t->node. Context: the thread's proxy. Returns: 0, -errno. */
int eg_proxy_stream_take(struct eg_thread *t);
/* eg_proxy_stream_give - the node's thread is idle: the next one may have the stream. Context: proxy. */
void eg_proxy_stream_give(struct eg_thread *t);
/* eg_proxy_stream_left - a handler jumped away from a call: the node still waits for its end. Context: proxy, or who takes the slot. */
void eg_proxy_stream_left(struct eg_thread *t);
/* eg_proxy_transfer - all of it, by SYS_sendto or SYS_recvfrom; ends in eg_proxy_lost otherwise. Context: proxy. */
void eg_proxy_transfer(struct eg_thread *t, long nr, void *data, size_t bytes);

/* eg_task_text - what /proc says of one of our threads in the file of that name ("/status"), up to a zero. Context: any. Returns: buf; "" in it: nothing. */
const char *eg_task_text(uint32_t tid, const char *name, char *buf, size_t bytes);
/* eg_task_mask - of its status: the mask behind "\nSigBlk:\t", or another one. Context: any. Returns: ~0: unknown. */
uint64_t eg_task_mask(uint32_t tid, const char *line);

/* --- begin.c --- */
/* eg_home_place - which node a new thread goes to. stack: its top. Context: the start lock held. Returns: -1: none. */
int eg_home_place(uint64_t stack);

/* --- proxy.c --- */
/* eg_proxy_main - a new thread's first function. Context: on its slot's stack, signals blocked. */
void eg_proxy_main(void *thread);
/* eg_proxy_home - the thread runs at home from now on, with the registers in its slot. */
__attribute__((noreturn)) void eg_proxy_home(struct eg_thread *t);
/* eg_proxy_lost - its node is gone: it starts again, or the program ends. Context: proxy. */
__attribute__((noreturn)) void eg_proxy_lost(struct eg_thread *t);

/* --- call.c --- */
/* eg_proxy_call - a system call that the thread has sent, and its answer. Context: proxy. */
void eg_proxy_call(struct eg_thread *t, const struct eg_call *call);
/* eg_proxy_wake - EG_CALL_WAKE, and its answer. Context: proxy. */
void eg_proxy_wake(struct eg_thread *t, const struct eg_call *call);
/* eg_is_realtime - is it such a policy of scheduling? */
static inline int eg_is_realtime(long policy)
{
    policy &= ~(long)SCHED_RESET_ON_FORK;
    return policy == SCHED_FIFO || policy == SCHED_RR || policy == SCHED_DEADLINE;
}

/* --- crash.c --- */
/* eg_crash_by_call - will this call of the thread's end the process with a core dump?
 * eg_crash_by_fault - what it has come home for, will that? Context: proxy. */
int eg_crash_by_call(const struct eg_thread *t, long nr, const long a[6]);
int eg_crash_by_fault(const struct eg_thread *t, const struct eg_call *call);

/* --- end.c --- */
/* eg_proxy_take_back - what the end here needs of the thread's memory comes home. Context: proxy. */
void eg_proxy_take_back(const struct eg_thread *t);
/* eg_proxy_end - the thread ends. eg_proxy_exit: by exit(2), elsewhere. Context: on its slot's stack. */
__attribute__((noreturn)) void eg_proxy_end(struct eg_thread *t, long status);
__attribute__((noreturn)) void eg_proxy_exit(struct eg_thread *t, long status);

#endif
