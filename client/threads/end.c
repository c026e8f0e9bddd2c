/* end.c - the end of a thread: what the kernel does then, it would do when no fault can be served any more. */
#include "client/threads/eg_proxy.h"

#include "client/gate/eg_robust.h"
#include "client/pager/eg_capture.h"
#include "client/pager/eg_pager.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <sys/mman.h>

/* The list is followed by copies, so that a wrong one does no harm. */
static void robust_end(uint64_t head)
{
    struct eg_robust list;
    uint64_t bytes;
    if (!head && eg_sys3(SYS_get_robust_list, 0, &head, &bytes)) /* given to the kernel at home: which cannot wait for a page at the end */
        return;
    if (head && !eg_robust_open(&list, head, eg_robust_copied) && !eg_robust_walk(&list))
        eg_robust_pending(&list);
}

/* The kernel reads the list at an exec, too, when the other threads, the agent among them, are gone already: it would wait for a page for ever. */
uint64_t eg_home_robust_off(void)
{
    uint64_t head = 0, bytes = 0, entry = 0, pending = 0;
    if (eg_sys3(SYS_get_robust_list, 0, &head, &bytes) || !head)
        return 0;
    /* Mutexes that it holds over the exec may be others', too: then the kernel is to see to them. */
    if (!eg_robust_copied(head, &entry) && (entry & ~EG_ROBUST_PI) == head && !eg_robust_copied(head + 16, &pending) && !pending &&
        !eg_sys2(SYS_set_robust_list, 0, EG_ROBUST_BYTES))
        return head;
    return 0;
}

static int bring(uint64_t at, uint64_t bytes)
{
    uint64_t start = at & ~(uint64_t)(EG_PAGE_BYTES - 1);
    return !eg_sys3(SYS_madvise, start, at + bytes - start, MADV_POPULATE_WRITE);
}

uint64_t eg_home_robust_exec(void)
{
    uint64_t off = eg_home_robust_off(), head = 0, bytes;
    if (!off && !eg_sys3(SYS_get_robust_list, 0, &head, &bytes) && head)
        eg_robust_touch(head, bring);
    return off;
}

void eg_home_robust_on(uint64_t head)
{
    if (head)
        eg_sys2(SYS_set_robust_list, head, EG_ROBUST_BYTES);
}

/* The thread has ended elsewhere, or ends here now: its control block, which the end here needs, comes home together with its stack, which the next thread's beginning
 * needs, if libc has put both into one place. They may be mapped no more: then the kernel says so. */
void eg_proxy_take_back(const struct eg_thread *t)
{
    for (uint32_t i = 0; i < EG_PUSHED; i++) {
        const struct eg_run *run = &t->pushed[i];
        uint64_t bytes = run->n_pages * EG_PAGE_BYTES;
        if (t->clear_tid >= run->addr && t->clear_tid < run->addr + bytes)
            eg_sys3(SYS_madvise, run->addr, bytes, MADV_POPULATE_WRITE);
    }
}

/* The end of a thread. The kernel would write the program's word (clear_child_tid) when no fault can be served any more: it is written
 * here, by a thread that needs nothing of the program's from then on. */
static __attribute__((noreturn)) void ends(uint64_t word, uint64_t robust, long status)
{
    if (word) { /* it is written below: then the page comes once, not first to be read. There may be none, or one that cannot be written: no matter */
        if (eg_sys3(SYS_madvise, word & ~(uint64_t)(EG_PAGE_BYTES - 1), EG_PAGE_BYTES, MADV_POPULATE_WRITE))
            word = 0;
    }
    robust_end(robust);
    eg_sys2(SYS_set_robust_list, 0, EG_ROBUST_BYTES); /* who is told by the word may use the memory again */
    if (word) {
        __atomic_store_n((uint32_t *)word, 0, __ATOMIC_SEQ_CST);
        eg_sys6(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0);
    }
    for (;;)
        eg_sys1(SYS_exit, status); /* clears t->tid, of a thread that has a slot */
}

void eg_proxy_end(struct eg_thread *t, long status)
{
    if (t->starting) /* it never went */
        eg_node_loses(eg_home.node[t->node]);
    eg_proxy_stream_left(t);
    if (t->signal_fd >= 0)
        eg_sys1(SYS_close, t->signal_fd);
    t->signal_fd = -1;
    ends(t->clear_tid, t->robust, status);
}

/* exit(2) of a thread that is away. */
void eg_proxy_exit(struct eg_thread *t, long status)
{
    if (eg_cap_thread_ends(status, 1))
        eg_sys1(SYS_exit_group, status);
    eg_proxy_end(t, status);
}

struct ending {
    struct eg_thread *thread;
    long status;
};

static long end_on_own_stack(void *f)
{
    struct ending *e = (struct ending *)f;
    eg_proxy_end(e->thread, e->status);
}

void eg_home_exit(long status)
{
    struct ending e = {eg_home_thread((uint32_t)eg_sys0(SYS_gettid)), status};
    if (!e.thread) { /* the first one, or one whose clone was made in place: it ends on its own stack */
        uint64_t word = 0;
        eg_sys5(SYS_prctl, PR_GET_TID_ADDRESS, &word, 0, 0, 0);
        eg_sys1(SYS_set_tid_address, 0); /* else the kernel would write it once more, when it may be another thread's */
        ends(word, 0, status);
    }
    struct ending *own = (struct ending *)(void *)e.thread->xstate;
    *own = e;
    eg_gate_call_on((uint8_t *)e.thread + EG_THREAD_BYTES, end_on_own_stack, own);
    __builtin_unreachable();
}
