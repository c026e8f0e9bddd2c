/* eg_buffers.h - what the kernel will access in a system call, and making sure that it finds it (see client/pager/eg_inline.h). Freestanding. */
#ifndef EG_BUFFERS_H
#define EG_BUFFERS_H

#include "client/gate/calls.h"
#include "client/gate/eg_gate.h"
#include "client/pager/eg_inline.h"

#define EG_CALL_KNOWN 0x40u
#define EG_CALL_PLAIN 0x80u /* takes no pointers */
/* eg_call_flags - EG_CALL_*. Returns: 0 for a number that is not known. */
uint8_t eg_call_flags(long nr);
/* eg_call_has_pointers - may the kernel access the program's memory in this call? 1 for numbers that are not known. */
static inline int eg_call_has_pointers(uint32_t nr)
{
    return !(eg_call_flags(nr) & EG_CALL_PLAIN);
}
/* eg_call_declined - is the call to be answered with -ENOSYS, whether the pager is active or not? */
static inline int eg_call_declined(uint32_t nr)
{
    return (eg_call_flags(nr) & EG_CALL_DECLINED) != 0;
}

/* Who is told of a call's buffers. */
struct eg_buffers {
    /* The kernel will access [start, end), and may write there. Returns: 0 go on, else the walk ends. */
    int (*span)(struct eg_buffers *b, uint64_t start, uint64_t end, int write);
    /* A copy of memory that span was told of: what lies in it says where further buffers are. Returns: 0; -1: the kernel cannot read it either. */
    int (*look)(struct eg_buffers *b, void *to, uint64_t from, size_t bytes);
    /* May something in [start, end) be away? 0 saves the look for the end of a string. NULL: it may. */
    int (*far)(struct eg_buffers *b, uint64_t start, uint64_t end);
};
/* eg_gate_buffers - tell b of everything that the kernel accesses in this call; too much rather than too little.
 * Context: any; touches the program's memory through b->look only. Returns: 0, or what b->span ended the walk with. */
int eg_gate_buffers(struct eg_buffers *b, long nr, const long arg[6]);
/* eg_gate_one_buffer - a call that accesses one span, which its arguments tell. Context: any. Returns: 1, *ret_span; 0: it is another, or eg_gate_buffers
 * would cut the span or leave it out. */
int eg_gate_one_buffer(long nr, const long arg[6], struct eg_span_rw *ret_span);

/* eg_gate_pin - before a call of the program's: what the kernel will access comes home and stays. A large read or write is made here, in pieces.
 * Pre: eg_rt.active and eg_rt.inlined. Context: any program thread, on its own stack, signals as they are; lock not held.
 * Returns: 0 make the call in place; 1 it is done, *ret_result is its result. */
int eg_gate_pin(struct eg_gate_frame *f, long *ret_result);
/* eg_gate_unpin - the calling thread ends: its pins go. Context: as eg_gate_pin. */
void eg_gate_unpin(void);
/* eg_gate_pin_for - what a call will access is pinned for `owner` until eg_pin_end. Context: gate stack, all signals blocked, lock not held.
 * Returns: bytes. */
uint64_t eg_gate_pin_for(uint64_t owner, long nr, const long arg[6]);
/* eg_gate_pin_before - what a call from sp will access is pinned, if it need be. Context: as eg_gate_pin.
 * eg_gate_pin_here - it is. Context: gate stack, all signals blocked, lock not held. */
void eg_gate_pin_before(uint64_t sp, long nr, const long arg[6]);
void eg_gate_pin_here(uint64_t sp, long nr, const long arg[6]);
/* eg_gate_large - a call with EG_CALL_LARGE, whose buffers have more than EG_GATE_LARGE_MIN bytes, from sp (large.c). Context: as eg_gate_pin. Returns: 1 it is
 * done, *ret_result; 0 it is not large, or has to be made as any other. */
#define EG_GATE_LARGE_MIN (64ul * EG_PAGE_BYTES)
int eg_gate_large(const struct eg_gate_frame *f, uint64_t sp, long *ret_result);
/* eg_gate_pin_limit - bytes: about as much as is to be pinned at a time. Context: any. */
uint64_t eg_gate_pin_limit(void);
/* eg_gate_peer - a process_vm_readv or process_vm_writev (peer.c). Pre: what it accesses of this process is pinned, if faults are served inline.
 * Context: as eg_gate_pin. Returns: 1 it is done, *ret_result; 0 it is as any other call. */
int eg_gate_peer(const struct eg_gate_frame *f, long *ret_result);
/* eg_gate_tracer - a ptrace (tracer.c). Pre: the pager is at work. Context: as eg_gate_pin. Returns: 1 it is done, *ret_result; 0 it is as any other call. */
int eg_gate_tracer(const long arg[6], long *ret_result);
/* eg_gate_aio - a call on a context of libaio's (aio.c). Pre, Context, Returns: as eg_gate_pin, which comes after it.
 * eg_gate_aio_child - in the child of a fork: its parent's contexts are not there. Context: gate stack. */
int eg_gate_aio(const struct eg_gate_frame *f, long *ret_result);
void eg_gate_aio_child(void);
/* eg_gate_robust_end - the calling thread ends: owners of its robust mutexes are marked as died, which the kernel cannot do when a page is away.
 * Context: program thread, on its own stack, no lock; faults are served.
 * eg_gate_robust_stays - the process ends (exit_group): what the kernel will follow comes home and stays, for all threads. It marks them itself, when none
 * of them can see it any more. Pre, Context: as eg_gate_pin. */
void eg_gate_robust_end(void);
void eg_gate_robust_stays(void);
/* eg_gate_set_bits - what select is to be told instead of n: no more than what it would look at if the runtime had no descriptors. Context: gate, program's stack. */
long eg_gate_set_bits(long n);
/* eg_gate_pin_blocked - threads that are inside a call which began before the pager was active: their buffers come home and stay, too. To be called when
 * the pager has become active, before anything leaves. Context: gate stack or the pager's thread, all signals blocked, lock not held. */
void eg_gate_pin_blocked(void);

#endif
