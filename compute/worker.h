/* worker.h - what the parts of endgame-worker share. Freestanding: raw system calls, no libc.
 *
 * A worker stands in for one home process. Its own image and memory are in [EG_WORKER_START, EG_WORKER_END); all the rest of the user
 * address space is one empty mapping under a userfaultfd, filled page by page from home. Faults come to the faulting thread itself
 * (SIGBUS), system calls of the program too (SIGSYS, Syscall User Dispatch), always on the thread's private alternate stack. */
#ifndef WORKER_H
#define WORKER_H

#include "proto/eg_frame.h"
#include "proto/eg_spin.h"
#include "proto/eg_sys.h"
#include "proto/eg_pieces.h"

#define WK_SLOT_BYTES (1024ul << 10) /* a thread's: struct, stack, alternate stack, pages that came, a call's data */
#define WK_SLOTS 4096u
#define WK_SLOTS_BASE (EG_WORKER_START + (1ul << 32))
#define WK_ALT_OFFSET (128ul << 10)
#define WK_ALT_END (256ul << 10)
#define WK_IN_OFFSET WK_ALT_END
#define WK_DATA_OFFSET (512ul << 10)
#define WK_KICK 34 /* signal */
#define WK_HELD 4

struct wk_slot {
    uint32_t index;
    uint32_t ktid;   /* 0: the slot is free */
    int fd;          /* thread stream */
    uint32_t kick;   /* the number of the thread that is to go home: it may be here only soon, or not any more */
    uint32_t active; /* between a fault's beginning and the return to its instruction */
    uint32_t n_held;
    uint32_t turn;   /* of running without a call; the leases of its pages end with it */
    uint64_t mask;   /* the program's signal mask */
    uint64_t addr, rip;        /* of the fault */
    uint64_t ends_at;          /* an instruction; 0: none */
    uint64_t held[WK_HELD];    /* pages that the same instruction was given before */
    uint64_t since_ns;
    uint32_t took_ns; /* the last one, not yet reported */
    struct eg_spin spin;
    int was_woken;    /* the last time that it waited for something on its stream */
    uint32_t n_apart; /* calls running that were made on another processor, and woke it */
    struct wk_slot *next;   /* sleep.c's own, as all up to slept_ns: who sleeps in the same bucket after it */
    uint64_t sleeps_at;
    uint32_t asleep;        /* futex */
    uint64_t told_ns;       /* then home was told how it sleeps */
    uint32_t told_percent;
    uint64_t window_ns, slept_ns; /* since then it has slept so long */
    struct eg_thread_state state; /* as it came */
    uint8_t xstate[EG_XSTATE_MAX_BYTES];
};

struct worker {
    int control_fd, stream_fd, uffd;
    uint32_t pid;      /* own */
    uint32_t n_slots;
    uint32_t n_active; /* threads that wait for a page */
    uint32_t n_running; /* threads that are in the program */
    uint32_t n_processors;
    uint32_t loaded;   /* home says so */
    uint32_t n_taken;  /* futex: all grants up to this number have been installed */
    uint32_t taken_asked; /* so many threads wait for that */
    uint64_t home_pid;
    int other_clock; /* home's clocks are not this machine's */
    uint64_t vdso;     /* where it is now */
    uint32_t out_lock;
    uint32_t answers_lock; /* from when pages go until home has been told: no answer that they are gone comes before their content */
    uint32_t rights_lock;  /* within it: no right to write a page comes while the page is given. Nothing is sent under it */
};
extern struct worker wk;

static inline struct wk_slot *wk_slot(uint32_t index)
{
    return (struct wk_slot *)(WK_SLOTS_BASE + (uint64_t)index * WK_SLOT_BYTES);
}

/* wk_die - one line on stderr, the process ends. */
__attribute__((noreturn)) void wk_die(const char *what, long err);

/* wk_vdso_home - r: registers (EG_REG_*) of a thread that leaves. In a function of the vDSO that is a call here home has other code: it begins that again
 * there. Returns: 1: it is in the vDSO; 0. */
int wk_vdso_home(uint64_t *r);

/* --- worker.c: the stream --- */
/* wk_install - the pages of a GRANT. data: its payload; write: they were asked for by a write. Context: any thread. */
void wk_install(const struct eg_co *m, const void *data, int write);
/* wk_send - a message to home, whole. Context: any thread. */
void wk_send(const struct eg_co *m, const void *data, uint32_t bytes);
/* wk_read_full - Returns: 1, 0 (the other side is gone). */
int wk_read_full(int fd, void *to, uint64_t bytes);
int wk_write_full(int fd, const void *head, uint64_t head_bytes, const void *data, uint64_t bytes);

/* wk_give - the pages of [addr, addr + n pages) that may be written here, and that no instruction here needs, go home unasked. Context: a thread that leaves, with this
 * stack pointer. Returns: 1: some of it is still here, or elsewhere (what is not here below the stack pointer may be nowhere); 0. */
int wk_give(struct wk_slot *s, uint64_t addr, uint32_t n, uint64_t sp);
/* wk_taken - the grant with this number has been installed. Context: who got it. */
void wk_taken(uint32_t number);
/* wk_grants_wait - what home has granted up to message `number` is here: who got it waits for lower numbers only. Context: any thread. */
void wk_grants_wait(uint32_t number);

/* --- twin.c: the threads --- */
/* wk_twin_new - a thread for this stream. */
void wk_twin_new(int fd);
void wk_signals_init(void);
/* wk_held - must the page stay for an instruction that has not retired yet, or because it has just come? Returns: 0, or until when (ask again
 * then). */
uint64_t wk_held(uint64_t addr, uint64_t now);
/* wk_spin_ns - for how long whoever waits may spin. */
uint64_t wk_spin_ns(void);

/* wk_page_get - the page comes, for the instruction at rip. Context: the thread, in a handler. Returns: 1; 0: the thread cannot have it here. */
int wk_page_get(struct wk_slot *s, uint64_t addr, uint64_t rip, int write);
/* wk_answer_read - what home answers on the thread's own stream: a GRANT, which is installed, a DENY, a COVERED. most: bytes that may have come, with
 * this one; write: as for wk_install. wk_taken comes after it. Context: the thread. */
void wk_answer_read(struct wk_slot *s, struct eg_co *ret, uint64_t most, int write);
/* wk_is_programs - Returns: 1: nothing of it is the worker's own, or outside of what programs have; 0. */
static inline int wk_is_programs(uint64_t addr, uint64_t bytes)
{
    uint64_t end = addr + bytes;
    return end >= addr && end <= EG_USER_END && !(bytes && addr < EG_WORKER_END && end > EG_WORKER_START);
}
/* wk_value_in - a value at an address that the program gave. Returns: 1; 0: it is not here. */
int wk_value_in(void *to, uint64_t addr, uint64_t bytes);
/* wk_value_out - the other way. Returns: 1; 0: it is not here, or may not be written. */
int wk_value_out(uint64_t addr, const void *from, uint64_t bytes);
/* wk_call_read - from the thread's stream, when all of it is there. Returns: bytes; fewer, of what goes to the program's memory: the page of the next one is not
 * here, or may not be written. */
uint32_t wk_call_read(struct wk_slot *s, void *to, uint32_t bytes);

/* What a call's arguments point to, where it travels with the call (proto/eg_pieces.h). */
struct wk_pieces {
    const struct eg_pieces *of; /* NULL: it does not */
    struct eg_pieces_data d;
    struct eg_segment segment[EG_PIECE_SEGMENTS_MAX];
};
/* wk_pieces_begin - looks for it; what home takes from wherever it is, because it is not here, does not. rip: the call's, for who has to wait for a page.
 * Returns: the payload for *call, whose type and lengths are set then; what is to be written may be written here. NULL: there is none. */
const uint8_t *wk_pieces_begin(struct wk_slot *s, uint64_t rip, struct eg_call *call, struct wk_pieces *ret);
/* wk_pieces_end - the answer's payload to where it belongs. Returns: the call's result. */
int64_t wk_pieces_end(struct wk_slot *s, uint64_t rip, const struct eg_call *answer, struct wk_pieces *p);
/* wk_call_short - a message without payload, and its answer, without either. Context: the thread. */
void wk_call_short(struct wk_slot *s, const struct eg_call *call, struct eg_call *ret_answer);
void wk_lock(uint32_t *word);
void wk_unlock(uint32_t *word);

/* --- sleep.c: the program's futexes --- */
enum wk_futex { WK_FUTEX_DONE, WK_FUTEX_HOME, WK_FUTEX_KICKED };
/* wk_futex - a futex call. Context: the thread, in a handler. Returns: DONE, *ret: its result; HOME: home is to make it; KICKED: the same, as EG_CALL_KICKED, and then
 * the thread goes home, if home does not say that it may stay. */
enum wk_futex wk_futex(struct wk_slot *s, const uint64_t *regs, long *ret);
/* wk_nanosleep - nanosleep, or clock_nanosleep for some time. Context, Returns: as wk_futex (of other calls: HOME). DONE: the result is 0; KICKED: *ret_left_ns
 * are left for home to sleep. */
enum wk_futex wk_nanosleep(struct wk_slot *s, const uint64_t *regs, uint64_t *ret_left_ns);
/* wk_sleep_begins - home knows nothing of how this thread sleeps, which has just come. */
void wk_sleep_begins(struct wk_slot *s);
/* wk_futex_learn - what home said of who makes the futex calls that go on at rip. */
void wk_futex_learn(uint64_t rip, int is_libc);
/* wk_futex_fired - who sleeps on addr wakes: no stand-in does at home any more. Context: the main thread. */
void wk_futex_fired(uint64_t addr);
/* wk_futex_kick - the thread does not sleep on. Context: the main thread, after s->kick was set. */
void wk_futex_kick(struct wk_slot *s);
/* wk_futex_left - pages have gone, or the right to write them, and home does not know that yet; addr 0: any. Context: any. */
void wk_futex_left(uint64_t addr, uint64_t n_pages);

/* worker.S */
/* wk_try_copy - to or from memory of the program's. Returns: 1, 0 (a page was not here, or may not be written; nothing is promised of `to`). */
int wk_try_copy(void *to, const void *from, uint64_t bytes);
/* wk_try_touch - may the program write the byte at addr? It stays as it is. Returns: 1, 0. Context: as before. */
int wk_try_touch(void *addr);
extern const uint8_t wk_try_copy_from[], wk_try_copy_to[], wk_try_copy_failed[]; /* a fault between the first two, in either, goes on at the third */
void wk_restorer(void);
__attribute__((noreturn)) void wk_call_on(void *stack_top, void (*fn)(void *), void *arg);
/* wk_clone - a thread; *tid is its number as long as it exists, then 0. */
long wk_clone(unsigned long flags, void *stack_top, void (*fn)(void *), void *arg, uint32_t *tid);

#endif
