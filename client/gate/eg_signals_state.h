/* eg_signals_state.h - what the files of eg_signals.h share: what the program has set, and what the kernel is told instead. Freestanding.
 *
 * Context, where none is said: program thread, on any stack of its own; a word of the program's stack may leave at any moment, so whoever passes
 * one to the kernel asks again. */
#ifndef EG_SIGNALS_STATE_H
#define EG_SIGNALS_STATE_H

#include "client/gate/eg_signals.h"
#include "proto/eg_sys.h"

#include <signal.h>

#define EG_SIG_N 64
#define EG_SIG_PROXY SIGSTKFLT /* in the kernel's masks: the program blocks SIGBUS */
#define EG_SIG_BIT(s) (1ull << ((s) - 1))
#define EG_SIG_DEFAULT ((uint64_t)SIG_DFL)
#define EG_SIG_IGNORE ((uint64_t)SIG_IGN)
#define EG_SIG_RESTORER 0x04000000u
#define EG_SIG_TAGBITS 0x00000800u
#define EG_SIG_TRIES 1000

/* The signals whose handler in the kernel is the runtime's at all times. */
#define EG_SIG_N_KEPT 3u
extern const uint8_t eg_sig_kept[EG_SIG_N_KEPT];

/* Of a thread: right above its alternate stack. */
struct eg_sig_thread {
    struct eg_sig_thread *next; /* while it is free */
    stack_t alt;                /* the program's own alternate stack */
    uint64_t robust;            /* its list of robust mutexes */
    uint32_t handled;           /* handlers of the program's that it has entered */
    uint32_t owner;             /* the thread that took it: a vfork child runs on its parent's */
    uint32_t traceme;           /* a vfork child that is to be traced when it makes its execve (traceme.c) */
    uint32_t child;             /* a vfork child on this thread's memory, and what it set */
    struct eg_sigaction child_kept[EG_SIG_N_KEPT];
};

/* Masks for calls that are made in place: an entry stays for ever. ptr, len: what pselect6 and io_pgetevents want. */
struct eg_sig_mask {
    uint64_t mask, ptr, len;
};

/* What the program has set; of this process, under the lock. */
extern struct eg_sigaction eg_sig_actions[EG_SIG_N + 1];

/* --- signal_state.c --- */
/* eg_sig_state_init - frame_bytes: as eg_signals_init. Context: start-up. Returns: 0, -ENOMEM. */
int eg_sig_state_init(size_t frame_bytes);

/* The kernel's own: the calling thread's mask, the process's actions. */
uint64_t eg_sig_mask_get(void);
long eg_sig_mask_change(int how, uint64_t m);
long eg_sig_action_set(int s, const struct eg_sigaction *a);
void eg_sig_action_get(int s, struct eg_sigaction *ret_a);

/* eg_sig_mask_to_kernel - a mask of the program's in the kernel's terms: SIGBUS is never in it, EG_SIG_PROXY stands for it.
 * eg_sig_mask_to_program - and back. */
uint64_t eg_sig_mask_to_kernel(uint64_t m);
uint64_t eg_sig_mask_to_program(uint64_t m);
/* eg_sig_mask_place - a place for the mask, in the kernel's terms. Returns: NULL when the program has used too many different ones.
 * eg_sig_mask_at - the place that addr is; NULL: it is none. */
const struct eg_sig_mask *eg_sig_mask_place(uint64_t m);
const struct eg_sig_mask *eg_sig_mask_at(uint64_t addr);

/* eg_sig_lock - the lock: held for moments, by threads that take no signal but SIGBUS.
 * eg_sig_enter - and with all of them blocked but that. Returns: the mask before, for eg_sig_leave. */
void eg_sig_lock(void);
void eg_sig_unlock(void);
uint64_t eg_sig_enter(void);
void eg_sig_leave(uint64_t old);

/* eg_sig_alt_holds - does sp lie on that stack?
 * eg_sig_thread_of - the thread whose alternate stack of the runtime's this is; NULL: it is none.
 * eg_sig_thread_here - the calling thread's; NULL: it has none.
 * eg_sig_thread_get - the same, and it gets one; NULL: no memory, or it runs on a stack that the gate did not see.
 * eg_sig_thread_holds - is sp on the runtime's stack of t, with room to serve a fault? */
int eg_sig_alt_holds(const stack_t *alt, uint64_t sp);
struct eg_sig_thread *eg_sig_thread_of(const stack_t *alt);
struct eg_sig_thread *eg_sig_thread_here(void);
struct eg_sig_thread *eg_sig_thread_get(void);
int eg_sig_thread_holds(const struct eg_sig_thread *t, uint64_t sp);

/* eg_sig_kept_index - of s in eg_sig_kept; -1: it is not kept.
 * eg_sig_action_of - what the program set for s, of the process that is running. Context: lock held. t: eg_sig_thread_here. */
int eg_sig_kept_index(int s);
struct eg_sigaction *eg_sig_action_of(int s, struct eg_sig_thread *t);

/* --- signals.c --- */
/* eg_sig_action_caught - the kernel's action for a signal that the program catches.
 * eg_sig_action_keep - the same is set for one that is kept. What the program does not catch is not to end its system calls. Context: lock held. */
struct eg_sigaction eg_sig_action_caught(uint64_t flags);
void eg_sig_action_keep(int s);

/* eg_sig_fault_serve - serves a fault of a touch that would be made of addr. Context: on a stack that is here. arg: struct eg_sig_fault. Returns: 1; 0: it is the
 * program's own. */
struct eg_sig_fault {
    uint64_t addr;
    int write;
};
long eg_sig_fault_serve(void *arg);

/* --- traceme.c --- */
/* eg_sig_traceme_due - has the calling vfork child asked to be traced, so that its execve is to be made by eg_signals_traced_exec? t: eg_sig_thread_here. */
int eg_sig_traceme_due(const struct eg_sig_thread *t);
/* eg_sig_exec_try - would that execve succeed? A traced child for which it fails comes back to the program, and its next fault would be the stop that
 * nobody ends. So another one tries it, and is killed before the new program's first instruction. arg: struct eg_gate_frame.
 * Context: by eg_gate_alone; what the kernel reads is pinned. Returns: 0 (also when there is no way to try), -errno. */
long eg_sig_exec_try(void *arg);

#endif
