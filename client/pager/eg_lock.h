/* eg_lock.h - the pager's one lock: a futex mutex that hands over to waiters. Freestanding.
 * Order: it is the only lock of the runtime that is held across a system call; the gate's stack pool is taken before it. */
#ifndef EG_LOCK_H
#define EG_LOCK_H

#include "proto/eg_sys.h"

#include <linux/futex.h>

struct eg_lock {
    uint32_t word;    /* 0 free, 1 held, 2 held and somebody sleeps */
    uint32_t waiters; /* program threads that want it: the pager gives way to them */
};

static inline void eg_lock_take(struct eg_lock *l)
{
    uint32_t c = 0;
    if (__atomic_compare_exchange_n(&l->word, &c, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return;
    for (int i = 0; i < 100; i++) {
        eg_cpu_relax();
        c = 0;
        if (__atomic_compare_exchange_n(&l->word, &c, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
    }
    while (__atomic_exchange_n(&l->word, 2, __ATOMIC_ACQUIRE) != 0)
        eg_sys4(SYS_futex, &l->word, FUTEX_WAIT_PRIVATE, 2, 0);
}

/* The same for those who will have it within some microseconds: to be woken costs more than to look that long. */
static inline void eg_lock_take_soon(struct eg_lock *l)
{
    for (int i = 0; i < 2000; i++) {
        uint32_t c = 0;
        if (__atomic_load_n(&l->word, __ATOMIC_RELAXED) == 0 && __atomic_compare_exchange_n(&l->word, &c, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
        eg_cpu_relax();
    }
    eg_lock_take(l);
}

static inline void eg_lock_give(struct eg_lock *l)
{
    if (__atomic_exchange_n(&l->word, 0, __ATOMIC_RELEASE) == 2)
        eg_sys3(SYS_futex, &l->word, FUTEX_WAKE_PRIVATE, 1);
}

#endif
