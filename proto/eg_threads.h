/* eg_threads.h - what travels between home and the workers that stand in for it on compute nodes. Little-endian, fixed layout.
 *
 * A compute daemon tells connections apart by their first four bytes: EG_WIRE_MAGIC begins a control connection (protobuf, see
 * eg_wire.h), EG_THREADS_MAGIC an eg_node_hello. The daemon hands a stream's descriptor on to the worker of that home process and
 * takes no part in it any more.
 *
 *   coherence stream  one per worker: eg_co messages both ways, in order
 *   thread stream     one per remote thread (kept for the next one when it ends): eg_call messages, strictly by turns; and the eg_co that
 *                     answers a thread's request for a page, so that nobody but that thread has to be woken for it
 *
 * A recall may overtake the grant before it, which travels on another stream: it says the number of the last grant before it, and the worker
 * puts it off until all up to that have been taken. The other way round nothing can be overtaken: a page is granted only after the answer to the recall. A page that is given
 * unasked (GIVEN) says which grants its worker had taken; if there are more, home asks it for an answer first.
 *
 * Threads sleep on futexes where they are while a stand-in for their node sleeps on the word at home: COVER asks for it, COVERED says that it is there,
 * FIRED that it is not any more. Between a COVERED and the FIRED after it no wake at home is missed. */
#ifndef EG_THREADS_H
#define EG_THREADS_H

#include "proto/eg_wire.h"

#define EG_THREADS_MAGIC 0x31544745u /* "EGT1" */
#define EG_THREADS_VERSION 11u

/* Addresses that no program page has: the worker's image and private memory are there, at home the same range is kept free. */
#define EG_WORKER_START 0x100000000000ul
#define EG_WORKER_END 0x101000000000ul
#define EG_USER_START 0x10000ul
#define EG_USER_END 0x7ffffffff000ul

#define EG_HELLO_OTHER_CLOCK 1u /* home was booted by itself: its clocks, processors and random numbers are asked for there */

enum eg_stream_kind { EG_STREAM_COHERENCE = 1, EG_STREAM_THREAD = 2 };

/* First message of a stream. */
struct eg_node_hello {
    uint32_t magic;
    uint16_t version;
    uint16_t kind; /* enum eg_stream_kind */
    uint8_t token[EG_TOKEN_BYTES]; /* the run */
    uint64_t process;              /* random: which home process of the run */
    uint64_t vdso, vvar;           /* where home has them; coherence stream only */
    uint64_t where;                /* the page of home's runtime in which a worker finds 1: it is not home; coherence stream only */
    uint32_t pid;                  /* home's, for getpid */
    uint32_t flags;                /* EG_HELLO_* */
};
_Static_assert(sizeof(struct eg_node_hello) == 64, "eg_node_hello is a wire format");

/* The answer, from the worker, or from the daemon when status is not 0. */
struct eg_node_welcome {
    uint32_t magic;
    uint16_t version;
    uint16_t status; /* enum eg_status */
    union {
        char why[56];  /* for people, when status is not 0 */
        uint32_t slot; /* of a thread stream: by this number home's agent knows the thread */
        uint64_t most_pages; /* of a coherence stream: that the worker wants to hold at once */
    };
};
_Static_assert(sizeof(struct eg_node_welcome) == 64, "eg_node_welcome is a wire format");

/* --- coherence ------------------------------------------------------------------------------------------------------------- */

enum eg_co_type {
    /* worker to home */
    EG_CO_GET_SHARED = 1, /* slot waits for a copy of addr */
    EG_CO_GET_EXCLUSIVE = 2, /* slot waits to write addr */
    EG_CO_ACK = 3,        /* n pages are gone from here (answers INVALIDATE; RECALL, if they were given before; with EG_CO_F_STATIC: DROP) */
    EG_CO_DATA = 4,       /* payload: n pages, as they were last written (answers RECALL); EG_CO_F_KEPT: still shared here */
    EG_CO_COVER = 5,      /* slot would sleep on the futex at addr: COVERED or DENY */
    EG_CO_PASS = 6,       /* nobody sleeps on addr here (answers FIRED): the wake is somebody else's */
    EG_CO_SLEPT = 7,      /* beside its calls the thread in slot sleeps for n percent of its time: home takes it so for EG_SLEPT_GOOD_NS; EG_CO_F_KEPT: it sleeps until it
                           * says something else */
    EG_CO_LEAVES = 8,     /* a thread goes home, and will use n pages from addr there: before its HOME, so that home asks for them meanwhile. If it has not given all of them */
    EG_CO_GIVEN = 9,      /* payload: n pages, of which nothing is here any more: those that it will use, and that were writable here. Before its HOME. number: all of home's up to
                           * this one have been taken */
    /* home to worker. number: of GRANT, and of DENY and COVERED, which of such messages to this worker this one is (from 1, modulo 2^32); of INVALIDATE, RECALL,
     * DROP and FIRED, how many there were before */
    EG_CO_GRANT = 16,     /* n pages from addr; payload unless ZERO or NODATA. To a thread that waits: on its own stream */
    EG_CO_DENY = 17,      /* the thread cannot have addr here: go home and fault there. On its own stream */
    EG_CO_INVALIDATE = 18, /* forget the shared copies of n pages; ACK, in one or more parts */
    EG_CO_RECALL = 19,    /* give n pages back; EG_CO_F_KEPT: keep a shared copy; DATA, or ACK of what was given, in one or more parts */
    EG_CO_DROP = 20,      /* forget n pages from addr, whatever they are; ACK */
    EG_CO_KICK = 21,      /* the thread in slot is to come home now, if it is number addr (its tid) */
    EG_CO_COVERED = 22,   /* a stand-in for this node sleeps on the futex at addr. On the thread's own stream */
    EG_CO_FIRED = 23      /* it was woken, or ended: who sleeps on addr wakes; if nobody does, PASS */
};

enum {
    EG_CO_F_EXCLUSIVE = 1, /* GRANT: may be written */
    EG_CO_F_ZERO = 2,      /* GRANT: the pages are zeros, no payload */
    EG_CO_F_NODATA = 4,    /* GRANT: the copy that is here is good, only the right is new */
    EG_CO_F_KEPT = 8,
    EG_CO_F_STATIC = 16,   /* GRANT: read-only memory, never recalled page by page */
    EG_CO_F_SPARE = 64,    /* DROP, ACK: the worker holds too much; no memory call waits for it */
    EG_CO_F_LOADED = 32    /* GRANT, DENY: home's machine, which is the node's, too, has more threads to run than processors */
};

struct eg_co {
    uint8_t type;
    uint8_t flags;
    uint16_t slot; /* of the worker: which thread waits */
    uint32_t n;    /* pages */
    uint64_t addr;
    uint32_t number;
    uint32_t took_ns; /* GET: what this thread waited for its last page, at most 2^32 - 1; 0: nothing to report */
};
_Static_assert(sizeof(struct eg_co) == 24, "eg_co is a wire format");
#define EG_SLEPT_GOOD_NS 64000000u
#define EG_CO_MAX_PAGES 32u
#define EG_CO_MAX_ZEROS 128u /* of a GRANT with EG_CO_F_ZERO */

/* eg_co_most_pages - of a grant. */
static inline uint32_t eg_co_most_pages(unsigned flags) { return flags & EG_CO_F_ZERO ? EG_CO_MAX_ZEROS : EG_CO_MAX_PAGES; }

static inline uint64_t eg_co_payload_bytes(const struct eg_co *m)
{
    int has = m->type == EG_CO_DATA || m->type == EG_CO_GIVEN || (m->type == EG_CO_GRANT && !(m->flags & (EG_CO_F_ZERO | EG_CO_F_NODATA)));
    return has ? (uint64_t)m->n * EG_PAGE_BYTES : 0;
}

/* --- threads --------------------------------------------------------------------------------------------------------------- */

enum eg_call_type {
    EG_CALL_START = 1,  /* to the worker: run this; payload: eg_thread_state; arg[0]: so many GRANTs (or DENYs) follow unasked, wait for them;
                         * arg[1]: at this instruction it ends, and rather goes home (END) than wait for a page; 0: nowhere */
    EG_CALL_SYSCALL = 2, /* to home: arg[0] number, arg[1..6] arguments; payload of a clone: eg_thread_state of the new thread */
    EG_CALL_RETURN = 3, /* to the worker: arg[0] result; mask; to a futex
                         * call arg[1]: 1: libc itself made it; to KICKED arg[2]: 1: it may stay; to others arg[3]: on this processor (from 1) it was made, and
                         * the thread should be there, if arg[4], how many threads want to run on the machine, is more than it has processors; 0 */
    EG_CALL_HOME = 4,   /* to home: go on there; payload: eg_thread_state; arg[0]: enum eg_home_reason; FAULT, TRAP: arg[1] the
                         * signal, arg[2] its address, arg[3] EG_FAULT_* */
    EG_CALL_EXIT = 5,   /* to home: the thread made exit(2); the stream is free for another thread */
    EG_CALL_PIECES = 6, /* as SYSCALL; payload: what the kernel is to read (eg_pieces.h); the payload of its RETURN: what it has written */
    EG_CALL_WAKE = 7,   /* to home: wake arg[1] who sleep on the private futex at arg[0], but none on this node */
    EG_CALL_KICKED = 8  /* as SYSCALL: a wait on a futex, or a sleep (arg[6]: nanoseconds that are left); the thread began it where it is, and was asked home */
};
#define EG_CALL_DATA_MAX (256u << 10)
#define EG_CALL_PIECES_MAX 4

/* Bits of the processor's error code. */
#define EG_FAULT_WRITE 2u
#define EG_FAULT_CODE 16u

enum eg_home_reason {
    EG_HOME_SYSCALL = 1, /* a call that only home can make: rip stands before it */
    EG_HOME_FAULT = 2,   /* an access that only home can answer */
    EG_HOME_TRAP = 3,    /* an exception: the instruction will raise it again at home */
    EG_HOME_KICK = 4,
    EG_HOME_END = 5      /* libc's end of a thread is all about home's pages */
};

/* Where the program is in a call that is made for it: for handlers of signals that come meanwhile, and for who unwinds from them. */
struct eg_caller {
    uint64_t rsp, rip, rbx, rbp, r12, r13, r14, r15;
};

struct eg_call {
    uint32_t type; /* enum eg_call_type */
    uint32_t len_bytes; /* of the payload */
    int64_t arg[7];
    uint32_t piece[EG_CALL_PIECES_MAX]; /* PIECES: bytes of each */
    struct eg_caller caller; /* SYSCALL, PIECES, KICKED */
    uint64_t mask; /* SYSCALL, HOME, START, RETURN: the thread's signal mask. The thread itself may add to it where it is; signals it takes at home only */
};
_Static_assert(sizeof(struct eg_call) == 152, "eg_call is a wire format");

/* A thread: the registers as the kernel's signal frame has them (struct sigcontext's order), FS and GS base, and the extended state
 * as the kernel writes it into a signal frame (with its software-reserved bytes and both magic numbers, or 512 bytes of FXSAVE). */
struct eg_thread_state {
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
    uint64_t fs_base, gs_base;
    uint32_t tid, xstate_bytes;
};
#define EG_XSTATE_MAX_BYTES 12288u
#define EG_CONTROL_BYTES 2048u /* from fs_base on: of libc's control block, used at a thread's beginning and end */

#endif
