/* robust.c - what the kernel does for the robust mutexes that a thread ends with (Documentation/locking/robust-futexes). It reads the list when no fault can
 * be served any more, and gives up at the first page that is away: so it is done here before, in a run whose faults are served inline. */
#include "client/gate/eg_signals.h"
#include "client/pager/eg_pager.h"

#include <linux/futex.h>

#define ROBUST_BYTES 24u
#define ENTRIES_MAX 2048 /* as the kernel */
#define PI 1ul

static void owner_died(uint64_t word, uint32_t tid)
{
    uint64_t value;
    if (word & 3 || eg_signals_peek(word & ~7ul, &value))
        return;
    uint32_t *futex = (uint32_t *)word, seen = __atomic_load_n(futex, __ATOMIC_SEQ_CST);
    while ((seen & FUTEX_TID_MASK) == tid)
        if (__atomic_compare_exchange_n(futex, &seen, (seen & FUTEX_WAITERS) | FUTEX_OWNER_DIED, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            if (seen & FUTEX_WAITERS)
                eg_sys6(SYS_futex, futex, FUTEX_WAKE, 1, 0, 0, 0);
            return;
        }
}

/* Those with priority inheritance are the kernel's, which has their state. Returns: how many there are. */
static int walk(uint64_t head, uint64_t entry, uint64_t offset, uint64_t pending, uint32_t tid)
{
    int n_pi = 0;
    for (int n = 0; n < ENTRIES_MAX && (entry & ~PI) != head; n++) {
        uint64_t at = entry & ~PI, pi = entry & PI;
        if (eg_signals_peek(at, &entry))
            break;
        if (pi) {
            uint64_t word;
            (void)!eg_signals_peek((at + offset) & ~7ul, &word); /* comes home, for the kernel */
            n_pi++;
        } else if (at != (pending & ~PI)) {
            owner_died(at + offset, tid);
        }
    }
    return n_pi;
}

void eg_gate_robust_end(void)
{
    uint64_t head = eg_signals_robust(), entry, offset, pending;
    uint32_t tid = (uint32_t)eg_sys0(SYS_gettid);
    if (!head || eg_signals_peek(head, &entry) || eg_signals_peek(head + 8, &offset) || eg_signals_peek(head + 16, &pending))
        return;
    if ((entry & ~PI) == head && !pending)
        return;
    /* The kernel must not follow it later: by then the mutexes may have been taken over and freed. */
    int n_pi = walk(head, entry, offset, pending, tid);
    if (pending & ~PI && !(pending & PI))
        owner_died((pending & ~PI) + offset, tid);
    if (!n_pi && !(pending & PI))
        eg_sys2(SYS_set_robust_list, 0, ROBUST_BYTES);
}
