/* halt.c - a thread that a process of the same memory is about to stop (client/gate/tracer.c) runs nowhere else then: it is at home, or its node waits for the
 * end of a call of its. */
#include "client/threads/eg_home.h"

#include <time.h>

#define NAP_NS 50000
#define ASK_EVERY_NS 10000000u /* it may have been on its way when it was asked */

static int runs_elsewhere(const struct eg_thread *t)
{
    return t && __atomic_load_n(&t->where, __ATOMIC_SEQ_CST) == EG_AWAY && !__atomic_load_n(&t->in_call, __ATOMIC_SEQ_CST);
}

void eg_home_halt(uint32_t tid)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    uint64_t asked_ns = 0;
    eg_lock_take(&eg_home.halt_lock);
    __atomic_store_n(&eg_home.halt, tid, __ATOMIC_SEQ_CST); /* pairs with the proxy's looks, on its way out and behind a call */
    for (;;) {
        struct eg_thread *t = eg_home_thread(tid);
        if (!runs_elsewhere(t)) {
            eg_lock_take(&eg_home.memory_lock);
            if (!runs_elsewhere(eg_home_thread(tid)))
                return;
            eg_lock_give(&eg_home.memory_lock); /* it took a while: the call is over */
            continue;
        }
        uint64_t now = eg_sys_now_ns();
        if (now - asked_ns >= ASK_EVERY_NS) {
            asked_ns = now;
            __atomic_store_n(&t->kick, 1, __ATOMIC_SEQ_CST);
            __atomic_store_n(&eg_home.kicks, 1, __ATOMIC_SEQ_CST);
            eg_home_wake();
        }
        eg_sys5(SYS_ppoll, 0, 0, &nap, 0, 8);
    }
}

void eg_home_halted(void)
{
    __atomic_store_n(&eg_home.halt, 0, __ATOMIC_SEQ_CST);
    eg_lock_give(&eg_home.memory_lock);
    eg_lock_give(&eg_home.halt_lock);
}

int eg_home_between(uint32_t tid, uint64_t rsp)
{
    uint64_t t = (uint64_t)eg_home_thread(tid);
    return t && rsp >= t && rsp < t + EG_THREAD_BYTES;
}
