/* eg_spin.h - waiting for something near: spin first, but only while nobody else wants the processor: never when the machine is known to be
 * loaded. A yield that comes back late says so, too: then block at once, for a while, because whoever blocks is run before whoever yields when
 * the awaited thing comes. */
#ifndef EG_SPIN_H
#define EG_SPIN_H

#include "proto/eg_sys.h"

#include <sys/syscall.h>

#define EG_SPIN_SLOW_NS 200000u
#define EG_SPIN_PAUSE_NS 2000000u       /* without spinning after a slow yield; doubles each time */
#define EG_SPIN_PAUSE_MAX_NS 200000000u

struct eg_spin {
    uint64_t begun_ns;  /* of this wait; 0: it begins */
    uint64_t pause_ns, not_before_ns;
};

/* eg_spin_turn - one turn of a wait that spins for `most_ns`; 0: the machine is loaded. Context: any thread, the struct is its own. begun_ns is set to 0 by whoever begins another
 * wait. Returns: 1 (look again), 0 (block). */
static inline int eg_spin_turn(struct eg_spin *s, uint64_t most_ns)
{
    if (!most_ns)
        return 0;
    uint64_t now = eg_sys_now_ns();
    if (!s->begun_ns)
        s->begun_ns = now;
    if (now < s->not_before_ns || now - s->begun_ns >= most_ns)
        return 0;
    eg_sys0(SYS_sched_yield);
    uint64_t after = eg_sys_now_ns();
    if (after - now < EG_SPIN_SLOW_NS)
        return 1;
    s->pause_ns = after - s->not_before_ns > 8 * EG_SPIN_PAUSE_MAX_NS || !s->pause_ns ? EG_SPIN_PAUSE_NS : s->pause_ns * 2;
    if (s->pause_ns > EG_SPIN_PAUSE_MAX_NS)
        s->pause_ns = EG_SPIN_PAUSE_MAX_NS;
    s->not_before_ns = after + s->pause_ns;
    return 1; /* look once more: it took its time */
}

#endif
