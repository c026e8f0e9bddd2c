/* eg_inline.h - the inline fault engine: a thread that touches a page which is not here gets SIGBUS (UFFD_FEATURE_SIGBUS), and serves its fault itself,
 * in the handler. Freestanding.
 *
 * The price: the kernel's own access to such a page, within a system call, fails with EFAULT. So before a call its buffers are brought home and stay
 * there for the length of the call: they are *pinned* by the thread that makes it (pins.c). The call itself is made in place, by the program, and
 * nobody sees its end; a pin ends when its thread makes another call from the same depth of its stack or higher up. Of short buffers a few stay pinned
 * longer than that: what a loop of several calls needs again and again then costs no lock. */
#ifndef EG_INLINE_H
#define EG_INLINE_H

#include "client/pager/eg_pager.h"

/* eg_rt.inlined: this run's faults are served inline (decided at start, before there are threads). eg_rt.active: there may be pages away. */

/* eg_inline_fault - serve a fault of the calling thread at addr. write: the access was a write.
 * Context: signal (SIGBUS), all signals blocked, on a stack that is not captured memory, lock not held; waits for a memory server.
 * Returns: 1 go on, the access will succeed or the kernel has another answer now; 0 it is not the pager's: the program's own fault. */
int eg_inline_fault(uint64_t addr, int write);

/* eg_inline_bring - every captured page of [start, end) is here, and writable if `write`. It stays only if it is pinned.
 * Context: gate stack, all signals blocked, lock held (given up and taken again while waiting). */
void eg_inline_bring(uint64_t start, uint64_t end, int write);
/* eg_inline_lock, eg_inline_unlock - the pager's lock for a moment that the pager's other parts may not notice. */
void eg_inline_lock(void);
void eg_inline_unlock(void);
/* eg_inline_relock - the same after eg_inline_unlock by the same thread, which knows whether it is a vfork child's (eg_rt.foreign): no system call. */
void eg_inline_relock(uint8_t foreign);
/* eg_inline_arrived - pages [page, page+n) are here: threads that sleep until then are woken when the lock is given. Context: lock held. */
void eg_inline_arrived(uint64_t page, uint32_t n);
/* eg_inline_reset - in the child of a fork: nobody waits. Context: lock held. */
void eg_inline_reset(void);
/* eg_inline_give_way - another thread needs the lock, to finish what this one waits for. Context: lock held, given up and taken again. */
void eg_inline_give_way(void);

/* --- pins.c --------------------------------------------------------------------------------------------------------- */

struct eg_span_rw {
    uint64_t start, end; /* any addresses */
    int write;           /* the kernel may write there */
};

/* Depths are addresses of the stack, with this bit but for the program's alternate one for signals: that may lie anywhere, and what runs on it is deeper
 * than the rest. */
#define EG_PIN_MAIN (1ull << 62)
/* eg_pin_call - thread `owner` (its thread pointer) is about to make a system call, sp is its depth; the kernel will access v[0..n).
 * What of it is captured is pinned and brought home. Earlier pins of this owner from the same stack depth or deeper (sp or below) end.
 * Context: gate stack, all signals blocked, lock not held. */
void eg_pin_call(uint64_t owner, uint64_t sp, const struct eg_span_rw *v, uint32_t n);
/* eg_pin_more - more of the call that this thread has just begun with the same sp (what was brought home told where). sp ~0: lasts until the thread ends.
 * Context: as eg_pin_call. */
void eg_pin_more(uint64_t owner, uint64_t sp, const struct eg_span_rw *v, uint32_t n);
/* eg_pin_held - what a call with this sp needs is pinned by the thread's last one, from the same sp, or (asked with EG_PIN_MAIN) kept from one before, and
 * here: nothing is to be done. Only for few pages.
 * Context: the thread `owner` itself, no lock needed. */
int eg_pin_held(uint64_t owner, uint64_t sp, uint64_t start, uint64_t end, int write);
/* eg_pin_idle - pins of the thread that end with a call from this sp are many: worth an eg_pin_call with nothing. Context: as eg_pin_held. */
int eg_pin_idle(uint64_t owner, uint64_t sp);
/* eg_pin_ready - nothing is to be done before a call from this sp, on whichever stack, that accesses only this. Context: as eg_pin_held. */
int eg_pin_ready(uint64_t owner, uint64_t sp, const struct eg_span_rw *span);
/* eg_pin_owners - how many threads have pins. Context: any; stale without the lock. */
uint32_t eg_pin_owners(void);
/* eg_pin_known - has the thread with this number made a call that pinned? Context: lock not held, all signals blocked. */
int eg_pin_known(uint64_t tid);
/* Owner of pins made for a thread by somebody else, who knows its number only. They become the thread's own at its next call. */
#define EG_PIN_TID (1ull << 63)
/* Owner of pins of a request that goes on behind its call (libaio), by a number that whoever makes it gives out. They are lasting ones. */
#define EG_PIN_AIO (1ull << 61)
/* Owner of what another process wants to access (eg_peer.h). Lasting, too. */
#define EG_PIN_PEER (1ull << 60)
/* eg_pin_end - the thread, or the request, ends: its pins go. Context: any, lock not held. */
void eg_pin_end(uint64_t owner);
/* eg_pin_bury - pins that outlasted their threads, by number, go. Context: gate stack, all signals blocked, lock not held. */
void eg_pin_bury(void);
/* eg_pin_has - is the page (number) pinned by any call? Context: lock held. Cheap when there are no pins. */
int eg_pin_has(uint64_t page);
/* eg_pin_any - is anything of [start, end) pinned? A block that is not armed must not be while this is so: pages of it that the kernel has not filled
 * yet would be missing, and the call that pinned them would find that out. Context: lock held. */
int eg_pin_any(uint64_t start, uint64_t end);
/* eg_pin_reset - in the child of a fork: only the caller's thread is left. Context: lock held. */
void eg_pin_reset(void);

#endif
