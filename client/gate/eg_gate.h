/* eg_gate.h - the one place through which the program's memory, process and descriptor calls pass. Freestanding.
 *
 * The system-call sites `mov $nr,%eax; syscall` of libc and ld.so are patched: the mov becomes a jump to a trampoline (the
 * syscall bytes stay, so a jump onto them still works), which calls eg_gate_entry with the registers of the call. */
#ifndef EG_GATE_H
#define EG_GATE_H

#include <stddef.h>
#include <stdint.h>

/* X(name, number, needed): needed: libc must have a site for it, or the program's memory cannot be kept truthfully. EG_GATE_FOR_VIEW: patched
 * only where the machine is to look bigger than it is (eg_gate_view). EG_GATE_FOR_NODES: patched only where threads may be away (eg_gate_nodes). EG_GATE_FOR_START: only
 * the one by which libc's new threads open their signal mask, right before the program's function. */
#define EG_GATE_FOR_VIEW 2
#define EG_GATE_FOR_NODES 3
#define EG_GATE_FOR_START 4
#define EG_GATE_CALLS(X)      \
    X(mmap, 9, 1)             \
    X(mprotect, 10, 1)        \
    X(munmap, 11, 1)          \
    X(brk, 12, 1)             \
    X(mremap, 25, 1)          \
    X(madvise, 28, 1)         \
    X(clone, 56, 1)           \
    X(clone3, 435, 0)         \
    X(fork, 57, 0)            \
    X(vfork, 58, 0)           \
    X(pkey_mprotect, 329, 0)  \
    X(process_madvise, 440, 0) \
    X(shmat, 30, 0)            \
    X(exit, 60, 0)            \
    X(prctl, 157, 0)          \
    X(ptrace, 101, 0)         \
    X(seccomp, 317, 0)        \
    X(process_vm_readv, 310, 0)  \
    X(process_vm_writev, 311, 0) \
    X(futex, 202, EG_GATE_FOR_NODES) \
    X(pkey_alloc, 330, EG_GATE_FOR_NODES) \
    X(rt_sigprocmask, 14, EG_GATE_FOR_START) \
    X(close, 3, 1)            \
    X(close_range, 436, 0)    \
    X(dup2, 33, 0)            \
    X(dup3, 292, 0)           \
    X(sched_setaffinity, 203, EG_GATE_FOR_VIEW) \
    X(sched_getaffinity, 204, EG_GATE_FOR_VIEW) \
    X(open, 2, EG_GATE_FOR_VIEW)                \
    X(openat, 257, EG_GATE_FOR_VIEW)            \
    X(lseek, 8, EG_GATE_FOR_VIEW)               \
    X(execve, 59, EG_GATE_FOR_VIEW)             \
    X(execveat, 322, EG_GATE_FOR_VIEW)

struct eg_gate_frame {
    long pass; /* out: 1: make the call in place, with the registers as they were; more: within the gate, the stack that a new process begins on */
    long nr;
    long arg[6];
};

/* eg_gate_dispatch - one call of the program's. Context: any program thread, on its own stack.
 * Returns: the call's result or -errno; meaningless when frame->pass is set. */
long eg_gate_dispatch(struct eg_gate_frame *frame);
/* eg_gate_nodes - set before patching: futex calls, and where threads begin, are led to the gate as well; only remote threads need that. */
extern uint8_t eg_gate_nodes;
/* eg_gate_start - set by patching: the place where libc's new threads are ready to run was found. */
extern uint8_t eg_gate_start;
/* eg_gate_count - set by patching: the instruction by which libc's thread, past the program's function, takes itself from the count of threads. 0: not found. */
extern uint64_t eg_gate_count;
/* eg_gate_view - set before patching: the calls by which a program counts processors are led to the gate. */
extern uint8_t eg_gate_view;

/* eg_gate_init - set up the gate's stacks. Returns: 0, -ENOMEM. */
int eg_gate_init(void);

/* eg_gate_patch - patch every known site in [text, text+bytes). Context: start-up, one thread.
 * ret_found: per entry of EG_GATE_CALLS, counts added up; ret_patched: sites that were patched before, added up.
 * Returns: the number of sites patched, or -errno. */
int eg_gate_patch(uint8_t *text, size_t bytes, uint32_t *ret_found, uint32_t *ret_patched);
/* eg_gate_patch_number - the sites of one call, with what the compiler put between mov and syscall. Context: start-up, one thread. Returns: how many were
 * patched, or -errno. */
int eg_gate_patch_number(uint8_t *text, size_t bytes, uint32_t nr);
/* eg_gate_site - the patched site that has made its call in place and goes on at `after`. Context: any thread that may fault. Returns: where it begins, 0
 * (it is none, or one that cannot begin again). */
uint64_t eg_gate_site(uint64_t after);
/* eg_gate_again - a thread that comes home, with these registers: if it stands between the look at where it runs, on its node, and its call, which the gate
 * would not see, it is put back to before the look. Context: as before. */
void eg_gate_again(uint64_t *rip, uint64_t *rsp);

/* Where libc's code is, and the loader's; empty: this libc may do what nodes do not expect of its futexes. Set at start-up. */
#define EG_GATE_LIBC 8u
struct eg_gate_libc {
    uint64_t lo[EG_GATE_LIBC], hi[EG_GATE_LIBC];
    uint32_t n;
};
extern struct eg_gate_libc eg_gate_libc;
/* eg_gate_is_libc - is the call that goes on at `after` libc's own? Not one that its caller gave to syscall(3). Context: any thread that may fault. */
int eg_gate_is_libc(uint64_t after);

/* --- every system call (patch_all.c) ----------------------------------------------------------------------------------- */

/* eg_gate_all - set before patching: all system calls of all objects are led to the gate, whatever their number; not with eg_gate_nodes. */
extern uint8_t eg_gate_all;

#define EG_GATE_TABLES 4u
#define EG_GATE_ID_BYTES 20u
#define EG_GATE_HARMLESS_WORDS 8u

/* A bit for each of the 64 bytes at p where a `syscall`, or a far jump or a jump table's address, may begin (0f 05; e8, e9, 0f 8x, 8d with xx000101,
 * ff 24); where they do not, it does not matter. Eight more bytes may be read. */
enum { EG_GATE_LOOK_SYSCALLS, EG_GATE_LOOK_JUMPS };
typedef uint64_t eg_gate_look_fn(const uint8_t *p, int what);

/* A text to be patched, and the object's read-only data, where its jump tables are. */
struct eg_gate_text {
    uint8_t *at;
    uint64_t bytes;
    int prot; /* of its pages, and so it will be afterwards */
    eg_gate_look_fn *look;  /* NULL: the gate's own, which does without vector registers */
    uint8_t no_write;       /* only judge */
    uint8_t id[EG_GATE_ID_BYTES]; /* names the content of its file (build-id); zeros: unknown, nothing is remembered of it */
    uint32_t where;               /* of that file's texts, which */
    uint8_t unknown_tables; /* where the tables are is not known: they are read with care, wherever they are */
    struct {
        uint64_t start, end;
    } tables[EG_GATE_TABLES];
};

/* Added up over texts. Not counted: rt_sigreturn, which must never be led to the gate, and bytes that look like a system call but are none. */
struct eg_gate_verdict {
    uint32_t n_sites;
    uint32_t n_patched;
    uint32_t n_before; /* were led to a gate already */
    uint32_t n_left;   /* neither that nor harmless: their calls will not be seen */
    const uint8_t *first_left;
};

/* eg_gate_patch_all - patch every system call of a text. Context: start-up, one thread; or nobody runs in the text yet.
 * harmless: a bit for each of 512 call numbers that may be left (only where the number is constant); NULL: none. ret_found: as eg_gate_patch;
 * may be NULL. v: added up, in every case. What is no code does no harm. A text of more than 256 MiB is left.
 * Returns: the number of sites patched, or -errno. */
int eg_gate_patch_all(const struct eg_gate_text *text, const uint64_t *harmless, uint32_t *ret_found, struct eg_gate_verdict *v);
/* eg_gate_code - of the bytes [*lo, *hi) of a file that are mapped executable, which part its section headers say is code: *lo, *hi. head: its ELF header as it is
 * mapped, if it may be another file; else NULL. Context: any. Returns: 1; 0: it is, has none, or they say nothing of these bytes, which may all be code. */
int eg_gate_code(int fd, const void *head, uint64_t *lo, uint64_t *hi);
/* eg_gate_patch_late - the same for pages of a file that have just become executable, of which [lo, hi) is code; they may go on behind the file's end. Pages shared with others
 * are not written to: their sites are left.
 * Context: gate stack, all signals blocked, lock not held; nobody runs in these pages yet. Returns: the number of sites patched, or -errno. */
int eg_gate_patch_late(uint64_t start, uint64_t bytes, uint64_t lo, uint64_t hi, const uint64_t *harmless, struct eg_gate_verdict *v);

/* --- gate.c -------------------------------------------------------------------------------------------------------------- */

/* eg_gate_on_stack - fn(arg) on a stack of the gate's. Context: all signals blocked but those that the runtime itself serves. Returns: what fn does. */
long eg_gate_on_stack(long (*fn)(void *), void *arg);
/* eg_gate_alone - the same, for who has the program's mask: the signals are blocked meanwhile. */
long eg_gate_alone(long (*fn)(void *), void *arg);
/* eg_gate_inline - after patching with eg_gate_all: v says that every call is seen, so faults may be served inline from now on. frame_bytes:
 * AT_MINSIGSTKSZ. Context: start-up, one thread, after eg_sys_reserve. Returns: 0, -errno. */
int eg_gate_inline(size_t frame_bytes);
/* eg_gate_harmless - EG_GATE_HARMLESS_WORDS for eg_gate_patch_all. */
const uint64_t *eg_gate_harmless(void);

/* The first fields of the kernel's struct clone_args. Source: clone(2). */
struct eg_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};
/* eg_clone_args_read - of a clone, clone3, fork or vfork. Context: any. Returns: 1; 0: they cannot be read. */
int eg_clone_args_read(long nr, const long arg[6], struct eg_clone_args *ret_args);
/* eg_clone_stack - Returns: the new stack's top. */
static inline uint64_t eg_clone_stack(const struct eg_clone_args *a)
{
    return a->stack + a->stack_size;
}

/* gate.S */
#define EG_GATE_RED_ZONE 128u  /* below the stack pointer, which a trampoline skips */
#define EG_GATE_PASS_BYTES 13u /* from where a call returns to its trampoline, to where it is made in place */
void eg_gate_entry(void);
/* Places in it: behind the look; on a node; and about to return then. No functions. */
void eg_gate_looked(void);
void eg_gate_away(void);
void eg_gate_away_end(void);
long eg_gate_call_on(void *stack_top, long (*fn)(void *), void *arg);
/* eg_gate_onto - in a new process: its call returns 0, on another stack. Context: eg_gate_dispatch. */
_Noreturn void eg_gate_onto(const struct eg_gate_frame *frame, uint64_t stack_top);

#endif
