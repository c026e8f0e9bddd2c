/* eg_signals.h - signals in a run whose faults are served inline (eg_inline.h). Freestanding.
 *
 * SIGBUS is the runtime's: it must arrive in every thread, whatever the program blocks, and on a stack that is here. So the kernel has one handler for
 * every signal that the program catches, on an alternate stack of the runtime's that each thread gets; from there the program's handler is entered
 * by a frame as the kernel writes it, on the stack where the program wants it, which is brought home first. What the program sets and reads
 * (actions, alternate stacks, masks) is kept here.
 *
 * "SIGBUS is blocked" is kept in the kernel's mask, as SIGSTKFLT, which no kernel sends: so it is saved and restored with the mask wherever the kernel
 * or libc does that. A SIGBUS that is sent meanwhile waits as a SIGSTKFLT. */
#ifndef EG_SIGNALS_H
#define EG_SIGNALS_H

#include "client/gate/eg_gate.h"

/* What the runtime blocks when it wants to be alone: everything but SIGBUS, which a touch of its caller's stack may need. */
#define EG_SIGNALS_ALL (~(1ull << (7 - 1)))

/* eg_signals_init - the handlers stand, the calling thread has its alternate stack. frame_bytes: AT_MINSIGSTKSZ, 0 when the kernel does not say.
 * Context: start-up, one thread, after eg_gate_init and eg_sys_reserve, before the first page can leave. Returns: 0, -errno. */
int eg_signals_init(size_t frame_bytes);

/* eg_signals_thread_begins - the calling thread gets an alternate stack, if it has none (set_robust_list is libc's first call in a thread). robust: that list.
 * eg_signals_thread_ends - it goes back; the thread touches nothing far any more.
 * Context: program thread, on its own stack, no lock. */
void eg_signals_thread_begins(uint64_t robust);
void eg_signals_thread_ends(void);
/* eg_signals_robust - the head of the calling thread's list of robust mutexes; 0: none is known. Context: as eg_signals_thread_ends. */
uint64_t eg_signals_robust(void);
/* eg_signals_robust_next - that of the next of all threads that there have been; 0: none. *at begins with 0. Context: any; stale. Returns: EG_SIGNALS_NO_MORE at the end. */
#define EG_SIGNALS_NO_MORE (~0ull)
uint64_t eg_signals_robust_next(uint64_t *at);

/* eg_signals_wants - does this call show or change signal state? rt_sigaction, rt_sigprocmask, rt_sigpending, sigaltstack, and what waits with a mask.
 * eg_signals_call - one of those. The frame's arguments may be changed for a call made in place; a mask then lies in the runtime's memory.
 * Context: program thread, on its own stack, signals as the program has them, no lock. Returns: as eg_gate_dispatch. */
int eg_signals_wants(long nr);
long eg_signals_call(struct eg_gate_frame *frame);

/* eg_signals_exec - an execve or execveat. The new program inherits an ignored or blocked SIGBUS if this one set it so: then the call is made here, else
 * it is to be made in place. Context: as eg_signals_call; what the kernel reads is pinned. Returns: as eg_gate_dispatch. */
long eg_signals_exec(struct eg_gate_frame *frame);

/* eg_signals_traceme - PTRACE_TRACEME. Of a vfork child it is put off until its execve. Context: as eg_signals_call.
 * Returns: 1: done, *ret_result; 0: it is the kernel's. */
int eg_signals_traceme(long *ret_result);

/* eg_signals_on_alternate - does sp lie on the alternate stack that the calling thread's program has set? Context: program thread. */
int eg_signals_on_alternate(uint64_t sp);

/* eg_signals_handled - how many handlers of the program's the calling thread has entered. Context: program thread. */
uint32_t eg_signals_handled(void);
/* eg_signals_quiet_call - the call, without the signal that comes with EPIPE or EFBIG. Context: program thread, signals as the program has them; the call does
 * not wait for others, as these two are blocked meanwhile. */
long eg_signals_quiet_call(long nr, const long arg[6]);

/* signals.S */
void eg_signals_restorer(void);
/* eg_signals_traced_exec - PTRACE_TRACEME, and then the execve or execveat of f; between the two no memory is touched. Context: as eg_signals_exec.
 * Returns: -errno of either.
 * eg_signals_exec_by_child - has a vfork child do that. It stops before the new program's first instruction, or exits with the errno.
 * Context: f and the stack are the runtime's memory. Returns: its number, -errno. */
long eg_signals_traced_exec(const struct eg_gate_frame *f);
long eg_signals_exec_by_child(const struct eg_gate_frame *f);
/* eg_signals_peek, eg_signals_poke - eight bytes of the program's memory, at any address. eg_signals_copy_in - a copy of some of it.
 * Context: as eg_signals_call. Where the thread blocks SIGSEGV, memory that is not there ends it. Returns: 0, -EFAULT. */
long eg_signals_peek(uint64_t from, uint64_t *ret_word);
long eg_signals_poke(uint64_t to, uint64_t word);
long eg_signals_copy_in(void *to, uint64_t from, size_t bytes);
extern const uint8_t eg_signals_peek_at[], eg_signals_copy_at[], eg_signals_poke_at[], eg_signals_probe_failed[];

#endif
