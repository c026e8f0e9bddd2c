/* eg_home.h - remote threads, seen from home: the agent (directory and streams), the proxies of threads that are away, and the program's
 * memory calls. Freestanding.
 *
 * Who waits for whom: program threads and proxies may wait for the agent; the agent waits for nobody. Nothing here touches the
 * program's memory while it holds a lock or is the agent, but pages that the directory knows to be here. */
#ifndef EG_HOME_H
#define EG_HOME_H

#include "client/gate/eg_gate.h"
#include "client/pager/eg_lock.h"
#include "client/pager/eg_pool.h"
#include "client/threads/eg_dir.h"
#include "client/threads/eg_view.h"
#include "proto/eg_frame.h"
#include "proto/eg_sys.h"

#include <time.h>

#define EG_HOME_NODES EG_POOL_NODES
#define EG_NODE_OUT_BYTES (64ul << 20) /* of address space; pages come when needed */
#define EG_NODE_IN_BYTES (1ul << 20)
#define EG_THREADS 16384u
#define EG_THREAD_BYTES (96ul << 10) /* the struct, then the proxy's stack */
#define EG_SLOT_NOBODY 0xffffu
#define EG_SLOT_FREEZE 0xfffeu /* of home: a memory call waits for the page */
#define EG_SLOT_RECLAIM 0xfffdu /* of home: the page is to leave for a memory server */
#define EG_SLOT_SPARE 0xff00u /* of home, and the node's number: it holds too much */
#define EG_NODE_RUNS (1u << 20)
#define EG_RECLAIMS 256u
#define EG_HOME_PULSE_MS 2000u /* a node that says nothing for so long is asked whether it is there */
#define EG_PUSHED 4u /* runs of pages that go out with a thread */
#define EG_PARKED (2 * (1 + EG_PUSHED) * EG_THREADS)

/* A thread's stream that no thread uses just now. */
struct eg_stream_free {
    int fd;
    uint32_t slot;
};

/* Has anybody seen what its threads did? CLEAN: no, home could undo it. DYING: it is lost, and being undone; DEAD: that is done. */
enum eg_node_state { EG_NODE_CLEAN = 0, EG_NODE_SEEN = 1, EG_NODE_DYING = 2, EG_NODE_DEAD = 3 };
struct eg_kept;

struct eg_node {
    struct eg_pool_node *config;
    int fd; /* coherence stream; -1: no worker there yet, or lost */
    uint8_t alive;
    uint8_t broken;      /* a thread's stream ended */
    uint8_t refuses;   /* it takes no more threads */
    uint32_t state;    /* enum eg_node_state */
    uint32_t n_silent; /* times that it was asked in vain whether it is there; the agent's, as the next */
    uint8_t heard;
    uint32_t n_drops;  /* EG_CO_DROPs that a memory call waits for */
    struct eg_kept *kept; /* lost.c's own */
    uint8_t *out, *in;
    uint64_t out_at, out_end, in_at, in_end;
    uint32_t n_threads; /* of this process, there now */
    struct eg_lock lock; /* of the free streams */
    struct eg_stream_free free[EG_THREADS];
    uint32_t n_free;
    struct eg_thread *slot[EG_THREADS]; /* who has the worker's slot now, or had it last */
    uint32_t n_granted;      /* grants, and other answers to threads, modulo 2^32 */
    uint64_t most_pages;     /* that the worker wants to hold; 0: no matter */
    uint64_t n_held, n_leaving; /* that it does hold; that it was asked to give up for that */
    uint64_t *run;           /* what went there, oldest first, much of it gone again: a ring of EG_NODE_RUNS */
    uint64_t run_begin, run_end;
};

/* Can a thread go there? */
static inline int eg_node_takes(const struct eg_node *n)
{
    return n && n->alive && !n->refuses;
}

struct eg_run {
    uint64_t addr;
    uint32_t n_pages;
};

/* What a thread has asked for since then. */
struct eg_shares {
    uint64_t since_ns, waited_ns; /* it has waited so long for pages that others had */
    uint64_t page[8];             /* the last ones */
    uint16_t from[EG_HOME_NODES]; /* requests for which that node had to give something up */
    uint16_t n, again;            /* all; for one of the last ones again */
    uint8_t last;                 /* others had the last one */
};

/* Something that threads do differently until then, because of what was seen; twice as long each time. */
struct eg_while {
    uint64_t until_ns, for_ns;
};

enum eg_thread_where { EG_AT_HOME = 0, EG_AWAY = 1 };

/* One thread of the program that the gate saw begin, at the start of its private memory. threads.S knows the first fields. */
struct eg_thread {
    uint64_t own_sp;   /* 0: the proxy's stack pointer while a system call is made */
    struct eg_caller caller; /* 8 */
    uint64_t mask;     /* 72: the program's signal mask */
    int64_t nr;        /* 80 */
    int64_t arg[6];    /* 88 */
    int64_t ret;       /* 136 */
    uint32_t tid;      /* 144: the kernel clears it when the thread is gone: the slot is free */
    uint32_t where;    /* enum eg_thread_where */
    uint32_t node;
    uint32_t slot;     /* the worker's number */
    int fd, signal_fd;
    uint32_t kick;     /* 1: asked for, 2: sent */
    uint32_t kick_signal; /* because of a signal */
    uint64_t signal_mask; /* that signal_fd has */
    uint64_t clear_tid; /* the program's word for the end of the thread; 0: none */
    uint64_t robust;    /* the program's list of robust mutexes; 0: none */
    uint64_t start_ns, out_ns; /* it was made; it went out */
    uint64_t asked_ns; /* since then it waits for a page; the agent's */
    struct eg_shares shares; /* the agent's, as the next */
    uint64_t moved_ns;
    struct eg_while stays; /* where it shares: it came back from where there was more room */
    uint8_t spread;    /* its last move was there */
    uint32_t move_to;  /* node + 1: it is on its way there, because that is where it shares; 0: none */
    uint32_t in_call;  /* it does not run: home makes a call for it */
    uint32_t busy_percent; /* of its time it ran, lately; the agent's, as the next */
    uint64_t seen_idle_ns;
    uint64_t call_since_ns, idle_ns; /* the call that is made for it began; all those before took so long */
    uint64_t slept_told_ns; /* how it sleeps where it is was said last; the agent's, as the next */
    uint32_t slept_percent;
    uint8_t sleeps_on;
    uint32_t visits;   /* it was at home, and went to whom it shares with */
    uint64_t visit_ns, stay_until_ns, stay_ns; /* its last one began; it stays at home until then, for so long the last time */
    uint32_t crashes;  /* its last call will end the process, and brings it home */
    uint32_t ends;     /* it has come home to end */
    uint32_t starting; /* it runs libc's own beginning here, and goes out at its end */
    uint32_t n_pushed; /* the agent sends these along, unasked; 0: done */
    struct eg_run pushed[EG_PUSHED];
    struct timespec left; /* of a sleep that home goes on with */
    uint64_t cost_ns;  /* what being away has cost so far: waiting for pages and calls, about; the agent's and the proxy's */
    struct eg_view_mask view; /* of the slots; view.c's */
    struct eg_thread_state state;
    uint8_t *data;     /* of a call: a page, in which its answer's head ends, then EG_CALL_DATA_MAX from anywhere in the next page on; NULL: not yet */
    uint8_t xstate[EG_XSTATE_MAX_BYTES] __attribute__((aligned(64)));
    uint8_t frame[EG_XSTATE_MAX_BYTES + 1024]; /* that rt_sigreturn reads: the way home */
};

/* A page that was given to a thread of home's, and stays until its instruction could go on. */
struct eg_home_held {
    uint64_t page, until_ns, given_ns;
    const struct eg_thread *thread; /* NULL: one that the gate did not see begin */
    uint32_t tid;
};
#define EG_HOME_HELD 64u

struct eg_parked {
    uint64_t addr, due_ns; /* due_ns 0: until the thaw */
    uint16_t node, slot;
    uint8_t write;
};

/* 512 pages of the directory. */
struct eg_dir_chunk {
    struct eg_dir_page page[512];
    struct {
        uint64_t lo, hi;
    } watched[4]; /* parts that are registered with userfaultfd */
    uint64_t fixed[8]; /* a bit per page: it was given away read-only, uncounted; the agent's, but who makes a memory call looks, too */
    uint64_t joined[8], first[8]; /* a bit per page: it went together with the one before it; somebody began there: agent.c's runs */
    uint8_t n_watched;
    uint8_t n_fresh; /* home's faults that found nothing, since a node asked */
    uint8_t changed; /* mappings may have changed: nothing is known to be watched. Set by whoever makes a memory call, cleared by the agent */
};

/* HELD: nobody gets anything of the range from the agent's next turn on; FREEZE: and what is away comes home; FROZEN: it has. SETTLE: nothing of the
 * range is to be on its way; SETTLED: it is so; DROP: what is away is forgotten where it is, and then FROZEN. */
enum { EG_REQ_NONE = 0, EG_REQ_HELD = 1, EG_REQ_FREEZE = 2, EG_REQ_FROZEN = 3, EG_REQ_SETTLE = 4, EG_REQ_SETTLED = 5, EG_REQ_DROP = 6 };

struct eg_home {
    uint8_t on;        /* this run has compute nodes */
    uint8_t far;       /* and memory servers */
    uint8_t active;    /* the agent runs */
    struct eg_lock start_lock, memory_lock, halt_lock; /* in this order: halt, start, memory */
    uint32_t halt;     /* that thread is to be at home, or in a call, and to stay there; under halt_lock */
    struct eg_node *node[EG_HOME_NODES];
    uint32_t n_nodes, next_node;
    int maps_fd, load_fd;
    uint32_t pulse_ms; /* EG_HOME_PULSE_MS; ENDGAME_PULSE_MS, for tests */
    uint32_t n_processors;
    uint64_t load_due_ns;
    uint32_t running;  /* threads that want to run on this machine, when it was looked at last */
    uint8_t loaded;    /* more than processors, when the agent had work: who waits does not spin */
    struct eg_while stay;     /* auto: threads stay here, because it did not pay */
    struct eg_while together; /* new threads go where most are, because they share */
    uint64_t process;
    uint64_t vdso, vvar, vdso_end;
    uint64_t private_lo[48], private_hi[48]; /* the runtime's own memory, beside the arena; the RDMA library's is in many pieces */
    uint32_t n_private;
    uint64_t code_lo, code_hi; /* the runtime's */
    struct eg_thread *thread[EG_THREADS];
    uint32_t n_threads;

    /* The agent's. */
    struct eg_dir dir;
    struct eg_dir_chunk **leaf[1u << 13]; /* chunk.c's own */
    struct eg_home_held held[EG_HOME_HELD];
    uint32_t next_held;
    struct eg_parked *parked;
    uint32_t n_parked, n_frozen; /* all; those that wait for the thaw */
    uint32_t agent_asleep;
    uint32_t storing; /* what has come home may be home's for the directory, and not be there yet */
    uint64_t reclaim[EG_RECLAIMS]; /* pages that are shared and should leave; under the pager's lock */
    uint32_t n_reclaim;

    /* A memory call's request, under memory_lock. */
    uint32_t request; /* futex, EG_REQ_* */
    uint64_t freeze_lo, freeze_hi;
    uint32_t pending; /* pages and nodes that the freeze waits for */
    uint8_t drop;     /* read-only pages of the range are away, too */
    uint8_t discards; /* the call leaves nothing of what was in the range */
    uint32_t kicks;
    uint64_t visit; /* a thread at home should go to a node: its number << 32 | node + 1 */
    uint32_t pushes; /* a thread has pages to be sent along */
    uint32_t fired;  /* a stand-in was woken */
};
extern struct eg_home eg_home;

/* In a page of its own: 0 at home; a worker has a page of its own there, with 1. */
extern uint32_t eg_where[1024];

/* --- start.c --- */
/* eg_home_activate - open userfaultfd, connect to the nodes, start the agent. Context: a program thread in the gate, signals
 * blocked. Returns: 0, -errno: threads stay at home, one warning was given. */
int eg_home_activate(void);
/* eg_home_child - in the child of a fork: nothing is away, nobody else is there. */
void eg_home_child(void);

/* --- chunk.c --- */
/* eg_home_owner - the node that has the page alone; -1: none. Context: any; it may be another one by now. */
int eg_home_owner(uint64_t addr);
/* eg_home_untouched - nothing of [lo, hi) is away, or was asked for. Context: EG_REQ_HELD of it, and the agent has seen that. */
int eg_home_untouched(uint64_t lo, uint64_t hi);
/* eg_home_changed - mappings in [lo, hi) may have changed; registering memory again costs little. Context: as before. */
void eg_home_changed(uint64_t lo, uint64_t hi);

/* --- agent.c --- */
/* eg_home_load_look - how many threads want to run here, if that has not been looked at for a while. Context: any. */
void eg_home_load_look(uint64_t now_ns);
/* eg_home_wake - the agent looks at its requests. */
void eg_home_wake(void);
/* eg_home_lost - a node is gone while the program needs it: one line, and the program ends. */
__attribute__((noreturn)) void eg_home_lost(uint32_t node);

/* --- sleep.c --- */
/* eg_sleep_wake - a wake that a thread on node k makes, once it has woken who sleeps there. Context: proxy. Returns: how many, -errno. */
long eg_sleep_wake(uint32_t k, uint64_t addr, uint32_t n);
/* eg_sleep_leave - no stand-in sleeps on addr any more: a futex with an owner that the kernel knows (PI) is there now, and it refuses both in one
 * place. Context: the program's threads. */
void eg_sleep_leave(uint64_t addr);
/* eg_sleep_child - in the child of a fork: there are no stand-ins. */
void eg_sleep_child(void);

/* --- lost.c --- */
/* eg_node_seen - a thread of the node's is about to have an effect. Context: proxy, agent. Returns: 1; 0: too late, the node is lost. */
int eg_node_seen(uint32_t k);
/* eg_lost_wait - a stream of the node's has ended. Context: proxy. Returns: when nothing of the node is left; its threads may start again. If they
 * may not, the program ends. */
void eg_lost_wait(uint32_t k);

/* --- node.c --- */
/* eg_node_connect - a stream to node k. Returns: its descriptor, -errno. */
int eg_node_connect(uint32_t k, enum eg_stream_kind kind, struct eg_node_welcome *ret_welcome);

/* --- memory.c --- */
struct eg_area {
    uint64_t start, end;
    uint8_t readable, writable, shared, file;
};
/* eg_area_find - the mapping that addr lies in. Returns: 0, -ENOENT. */
int eg_area_find(uint64_t addr, struct eg_area *ret_area);
/* eg_area_next - the same, or the first one above. */
int eg_area_next(uint64_t addr, struct eg_area *ret_area);
int eg_home_is_private(uint64_t addr);
/* eg_home_private_add - memory of the runtime's that no node gets. Context: start-up. */
void eg_home_private_add(uint64_t start, uint64_t end);
/* eg_home_vdso_find - where the kernel put its vDSO and that one's data. Context: start-up. */
void eg_home_vdso_find(void);
/* eg_home_convert_all - private writable mappings of files become anonymous, in place. Context: one thread. */
void eg_home_convert_all(void);
/* eg_home_memory - a memory call of the program's, whoever makes it. Context: gate stack or proxy, signals blocked. */
long eg_home_memory(long nr, const long arg[6]);
long eg_home_fork(long nr, const long arg[6]);
/* eg_home_gather - all that is away comes home; it may go out again. Context: proxy, no lock. */
void eg_home_gather(void);
/* eg_home_futex_writes - does the kernel write the word in this futex call, too? It then fails with EFAULT where it would have to wait for the
 * page (fault_in_user_writeable does not wait for userfaultfd). */
int eg_home_futex_writes(long op);
/* eg_home_futex - such a call, again when the page was away or a stand-in in its way. Context: the program's stack and mask. */
long eg_home_futex(const long arg[6]);
/* eg_home_futex_again - after EFAULT: the words' pages are brought home; after EINVAL: stand-ins leave the words. ret: the call's result, of the last try as
 * libc is to see it. tries: 0 at first. Returns: 1 (worth another try), 0 (not this call or error, no such memory, or often enough). */
int eg_home_futex_again(int64_t *ret, const long arg[6], int *tries);

/* --- proxy.c, slot.c, begin.c, call.c, end.c, halt.c --- */
/* eg_home_clone - clone or clone3 of a new thread, by the program's thread whose registers are `state` (at the instruction where the
 * new thread begins, stack and FS not yet set). below: it begins that far below its stack's top. Returns: as the call. */
long eg_home_clone(long nr, const long arg[6], const struct eg_thread_state *state, const uint8_t *xstate, uint64_t mask, uint32_t below);
enum eg_clones {
    EG_CLONES_THREAD,   /* eg_home_clone */
    EG_CLONES_PROCESS,  /* eg_home_fork */
    EG_CLONES_IN_PLACE, /* shares our memory (vfork, posix_spawn): nothing to do */
    EG_CLONES_APART,    /* a copy of our memory, and our descriptors: it has neither pager nor nodes */
    EG_CLONES_REFUSED   /* the same, while parts of our memory are away */
};
/* eg_home_clones - what a clone, clone3, fork or vfork is for. */
enum eg_clones eg_home_clones(long nr, const long arg[6]);
/* eg_home_thread - the thread with that number, if the gate saw it begin; else NULL. Context: any. */
struct eg_thread *eg_home_thread(uint32_t tid);
/* eg_home_starting - the calling thread, if it goes out once libc has begun it; else NULL. Context: the gate, on the program's stack. */
struct eg_thread *eg_home_starting(void);
/* eg_home_begin - it goes, with these registers and its present signal mask; it comes back elsewhere. Context: as before. */
__attribute__((noreturn)) void eg_home_begin(struct eg_thread *thread, const struct eg_thread_state *state);
/* eg_home_begin_at - the same, from a signal frame. Context: its handler, signals blocked. */
__attribute__((noreturn)) void eg_home_begin_at(struct eg_thread *thread, const struct eg_ucontext *uc);
/* eg_home_come - before a fork: if this is a handler, in a call that is made for a thread that is away, the child will need the registers to return to:
 * they come home, and the thread with them. Context: gate stack, signals blocked. */
void eg_home_come(void);
/* eg_home_visitor - the calling thread, if the agent would have it on a node: it may go there by eg_home_begin. Else NULL. Context: as before. */
struct eg_thread *eg_home_visitor(void);
/* eg_home_pays - may the thread stay away? Only --threads auto ever says no. Context: agent, proxy. */
int eg_home_pays(const struct eg_thread *thread);
/* eg_home_ended - a thread has ended, away, or here, where it came for that. Context: proxy. */
void eg_home_ended(const struct eg_thread *thread);
/* eg_while_again - it is so from now on, if it is not already. eg_while_is - is it? Context: any. */
void eg_while_again(struct eg_while *w);
int eg_while_is(const struct eg_while *w);
/* eg_home_halt - nobody makes a memory call, and the thread is at home, or its node waits for the end of a call, until eg_home_halted. Context: the gate, in a
 * process that shares the program's memory; the agent runs. eg_home_between: was it stopped in the runtime, with that stack pointer, on its way? */
void eg_home_halt(uint32_t tid);
void eg_home_halted(void);
int eg_home_between(uint32_t tid, uint64_t rsp);
/* eg_home_robust_off - the kernel forgets the calling thread's list of robust mutexes, if there is nothing on it. Returns: the list, 0: as before;
 * eg_home_robust_on: it has it again. eg_home_robust_exec - the same, before an exec, in which nobody serves faults: what is on the list comes home. */
uint64_t eg_home_robust_off(void);
uint64_t eg_home_robust_exec(void);
void eg_home_robust_on(uint64_t head);
/* eg_home_exit - exit(2) by a thread that runs at home. */
__attribute__((noreturn)) void eg_home_exit(long status);
/* eg_home_fd - the k-th descriptor of this part of the runtime; NULL past the last. */
int *eg_home_fd(uint32_t k);

/* threads.S */
/* eg_thread_call - thread->nr with thread->arg on the program's stack, under the program's signal mask; the result is in
 * thread->ret, the mask as it is then in thread->mask, and all signals are blocked again. */
void eg_thread_call(struct eg_thread *thread);
/* eg_thread_clone - a new thread that begins in fn(arg) below stack_top. */
long eg_thread_clone(long flags, void *stack_top, long parent_tid, long child_tid, long tls, void (*fn)(void *), void *arg);

#endif
