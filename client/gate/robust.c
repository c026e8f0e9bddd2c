/* robust.c - what the kernel does for the robust mutexes that a thread ends with. It reads the list when no fault can be served any more, and gives up at
 * the first page that is away: so it is done here before, in a run whose faults are served inline or that has compute nodes. */
#include "client/gate/eg_robust.h"

#include "client/gate/eg_buffers.h"
#include "client/gate/eg_signals.h"
#include "client/pager/eg_inline.h"

#include <errno.h>

#define ENTRIES_MAX 2048 /* as the kernel */

/* pi: the mutex has priority inheritance. Who waits for such a one gets it from the kernel when the thread has ended (exit_pi_state_list), as the kernel's own
 * handle_futex_death has it; one for which nobody waits is found by its word alone. */
static void owner_died(const struct eg_robust *list, uint64_t word, uint64_t pi)
{
    uint64_t value;
    if (word & 3 || list->read(word & ~7ul, &value))
        return;
    uint32_t *futex = (uint32_t *)word, seen = __atomic_load_n(futex, __ATOMIC_SEQ_CST);
    while ((seen & FUTEX_TID_MASK) == list->tid)
        if (__atomic_compare_exchange_n(futex, &seen, (seen & FUTEX_WAITERS) | FUTEX_OWNER_DIED, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            if (seen & FUTEX_WAITERS && !pi)
                eg_sys6(SYS_futex, futex, FUTEX_WAKE, 1, 0, 0, 0);
            return;
        }
}

int eg_robust_open(struct eg_robust *ret_list, uint64_t head, eg_robust_read_fn *read)
{
    *ret_list = (struct eg_robust){.read = read, .head = head, .tid = (uint32_t)eg_sys0(SYS_gettid)};
    return read(head, &ret_list->entry) || read(head + 8, &ret_list->offset) || read(head + 16, &ret_list->pending) ? -EFAULT : 0;
}

int eg_robust_walk(struct eg_robust *list)
{
    uint64_t entry = list->entry;
    for (int n = 0; n < ENTRIES_MAX && (entry & ~EG_ROBUST_PI) != list->head; n++) {
        uint64_t at = entry & ~EG_ROBUST_PI, pi = entry & EG_ROBUST_PI;
        if (list->read(at, &entry))
            return -EFAULT;
        if (at != (list->pending & ~EG_ROBUST_PI))
            owner_died(list, at + list->offset, pi);
    }
    return 0;
}

void eg_robust_pending(const struct eg_robust *list)
{
    if (list->pending & ~EG_ROBUST_PI)
        owner_died(list, (list->pending & ~EG_ROBUST_PI) + list->offset, list->pending & EG_ROBUST_PI);
}

void eg_robust_touch(uint64_t head, eg_robust_touch_fn *touch)
{
    struct eg_robust list;
    if (!touch(head, EG_ROBUST_BYTES) || eg_robust_open(&list, head, eg_robust_copied))
        return;
    uint64_t entry = list.entry & ~EG_ROBUST_PI;
    for (int n = 0; n < ENTRIES_MAX && entry != head; n++) {
        touch(entry + list.offset, sizeof(uint32_t));
        if (!touch(entry, sizeof entry) || eg_robust_copied(entry, &entry))
            return;
        entry &= ~EG_ROBUST_PI;
    }
    if (list.pending)
        touch((list.pending & ~EG_ROBUST_PI) + list.offset, sizeof(uint32_t));
}

long eg_robust_copied(uint64_t addr, uint64_t *ret_word)
{
    return eg_sys_copy_in(ret_word, addr, sizeof *ret_word) == (long)sizeof *ret_word ? 0 : -EFAULT;
}

static uint64_t head_here(void)
{
    uint64_t head = 0, bytes;
    if (eg_gate_all)
        return eg_signals_robust();
    return eg_sys3(SYS_get_robust_list, 0, &head, &bytes) ? 0 : head;
}

void eg_gate_robust_end(void)
{
    struct eg_robust list;
    uint64_t head = head_here();
    if (!head || eg_robust_open(&list, head, eg_gate_all ? eg_signals_peek : eg_robust_copied) || ((list.entry & ~EG_ROBUST_PI) == head && !list.pending))
        return;
    (void)!eg_robust_walk(&list);
    eg_robust_pending(&list);
    /* The kernel must not follow it later: by then the mutexes may have been taken over and freed. */
    eg_sys2(SYS_set_robust_list, 0, EG_ROBUST_BYTES);
}

/* --- the end of all threads ---------------------------------------------------------------------------------------------- */

static int stays(uint64_t at, uint64_t bytes)
{
    struct eg_span_rw v = {at, at + bytes, 1};
    if (at >> EG_ADDR_BITS)
        return 0;
    if (eg_ranges_seen(&eg_rt.ranges, v.start, v.end))
        eg_pin_more(EG_PIN_TID | (uint64_t)eg_sys0(SYS_gettid), ~0ull, &v, 1);
    return 1;
}

static long all_stay(void *unused)
{
    uint64_t at = 0, head;
    (void)unused;
    while ((head = eg_signals_robust_next(&at)) != EG_SIGNALS_NO_MORE)
        if (head)
            eg_robust_touch(head, stays);
    return 0;
}

void eg_gate_robust_stays(void)
{
    if ((uint32_t)eg_sys0(SYS_getpid) == eg_rt.pid)
        eg_gate_alone(all_stay, NULL);
}
