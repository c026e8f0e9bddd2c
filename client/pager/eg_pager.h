/* eg_pager.h - far memory: the state that the pager's parts share. Freestanding.
 *
 * One pager per process. Its lock is held by whoever works on this state: the pager's thread, or a program thread inside the
 * gate (signals blocked, on a gate stack). Nothing that is done under the lock may touch captured memory of the program.
 *
 * Life of a page (one byte each, in its 2 MiB block):
 *
 *              fault, zero fill             WP fault
 *     FRESH ---------------------> DIRTY <---------- CLEAN <---+
 *                                    | evict          | drop    | read installed
 *                                    v                v         |
 *                                 INFLIGHT -------> REMOTE -> FETCHING (write: to DIRTY)
 *                                           acked
 *
 * Inline, a CLEAN page may be FETCHING on its way to REMOTE: then it is dropped without the lock, and whoever wants it waits in the same way.
 *
 * A block is armed (its captured pages are registered with userfaultfd) or not. In a block that is not armed every page is
 * FRESH or RESERVED, the kernel fills it as it likes, and each FRESH page counts as resident. */
#ifndef EG_PAGER_H
#define EG_PAGER_H

#include "client/pager/eg_lock.h"
#include "client/pager/eg_pool.h"
#include "client/pager/eg_range.h"
#include "proto/eg_sys.h"
#include "proto/eg_transport.h"

#include <sys/resource.h>

/* What the C library of Debian 12 does not name: advice of Linux 6.1 and 6.13, prctl's of 6.4. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

#define EG_PAGE_SHIFT 12
#define EG_BLOCK_SHIFT 21
#define EG_BLOCK_BYTES (1ul << EG_BLOCK_SHIFT)
#define EG_BLOCK_PAGES 512u
#define EG_ADDR_BITS 47
#define EG_N_BLOCKS (1ul << (EG_ADDR_BITS - EG_BLOCK_SHIFT))
#define EG_LEAF_BLOCKS 8192u /* of a leaf of the directory; block.c's own */

_Static_assert(EG_BLOCK_BYTES == EG_SLAB_BYTES, "a block's pages live in one slab, at the same offsets");

enum eg_page_state {
    EG_P_NONE = 0,     /* not captured */
    EG_P_RESERVED = 1, /* PROT_NONE, nothing in it */
    EG_P_FRESH = 2,    /* no content that the server has; zeros, or (block not armed) whatever the kernel holds */
    EG_P_CLEAN = 3,    /* resident, write-protected, same as the server's copy */
    EG_P_DIRTY = 4,    /* resident, writable */
    EG_P_REMOTE = 5,   /* only the server has it */
    EG_P_FETCHING = 6, /* REMOTE, a read is under way, its place in memory is already counted; or CLEAN, just being dropped without the lock */
    EG_P_INFLIGHT = 7  /* taken out of the program's memory, its write to the server is not acknowledged yet */
};
#define EG_P_STATE 0x07u
#define EG_P_WRITTEN 0x08u /* dirty when it last left; inline: it came for reading, and was written then */
#define EG_P_REFS 0x30u /* turns that the page is spared at eviction */
#define EG_P_REF1 0x10u
#define EG_P_FIRST 0x40u  /* that entry is in the queue of what leaves first */
#define EG_P_QUEUED 0x80u /* it has an entry in an eviction queue */

#define EG_SLAB_NONE 0xffffffffu
#define EG_TURNED_MAX 31u

struct eg_block {
    uint32_t index;     /* address >> EG_BLOCK_SHIFT */
    uint32_t slab;      /* EG_SLAB_NONE: none leased */
    uint8_t server;
    uint8_t shared;     /* the slab is copy-on-write since a fork */
    uint8_t whole;      /* it came as one huge page, and no page of it has changed its state since */
    uint8_t turned;     /* of its pages that came protected more were written lately than left clean: up to EG_TURNED_MAX */
    uint16_t n_fresh;
    uint16_t n_resident; /* CLEAN, DIRTY, FETCHING */
    uint16_t n_copied;   /* CLEAN, REMOTE, FETCHING: the slab's content is needed */
    uint16_t n_busy;     /* FETCHING, INFLIGHT */
    uint32_t *sums;      /* checksum of each copied page; NULL until the first one */
    uint8_t page[EG_BLOCK_PAGES];
    uint8_t entry[EG_BLOCK_PAGES]; /* number of its last entry in a queue: older ones are void */
    uint8_t left[EG_BLOCK_PAGES];  /* the moment at which the page last left */
};

/* One memory server, as this process uses it. */
struct eg_server {
    const struct eg_pool_server *config;
    int control_fd; /* -1: no session yet */
    int path_fd;    /* unix: its socket's file, from when it could be found; -1 */
    uint8_t dead;
    uint64_t agent, secret;
    uint64_t n_slabs;   /* of the arena: slab numbers are below */
    struct eg_link link;
    struct eg_io_queue writes; /* over messages: not given to the link yet, so that reads go before them */
    uint32_t writes_pages;     /* in it */
    uint32_t reserved;  /* slabs promised to us */
    uint32_t held;      /* slabs we hold, free ones included */
    uint32_t *free;     /* leased, used by no block */
    uint32_t n_free;
    uint64_t snapshot;  /* while a fork is under way */
};
#define EG_FREE_SLABS 64u
#define EG_LEASE_BATCH 8u

#define EG_N_FETCHES 32
#define EG_FETCH_PAGES 32
#define EG_N_SLOTS 1024 /* pages on their way out */
#define EG_N_WRITES 128
#define EG_N_STREAMS 32
#define EG_N_RECENT 8

struct eg_whole;

/* A run of pages being read. */
struct eg_fetch {
    struct eg_io io; /* first member */
    struct eg_block *block;
    struct eg_whole *whole; /* it is a piece of that one's; else NULL */
    uint16_t first, n;
    uint8_t write; /* install writable, as dirty */
    uint8_t passing; /* read ahead in sequence */
    uint8_t demand; /* the first page is being waited for */
    uint8_t summed; /* compared with its checksums already */
    uint8_t alone;  /* a thread makes it, or its end, without the lock: no poll completes it */
    uint8_t came;   /* what was read is there */
    uint8_t busy;
    uint64_t start_ns;
};

#define EG_N_WHOLE 3
#define EG_WHOLE_PIECES (EG_BLOCK_BYTES / EG_DATA_MAX_BYTES)

/* A block being read whole (eg_whole.h). */
struct eg_whole {
    struct eg_block *block;
    uint8_t *buf;        /* a huge page */
    uint8_t busy, alone; /* as in eg_fetch */
    uint8_t huge;        /* it was moved into its place in one step */
    uint8_t left;        /* pieces that have not come and been looked at yet, perhaps by several threads without the lock */
    uint8_t unsettled;   /* under the lock: pieces whose end has not been noted */
    uint64_t start_ns;   /* somebody waits since; 0: nobody */
    uint64_t changed[EG_BLOCK_PAGES / 64]; /* pages written before they were protected */
    struct eg_fetch piece[EG_WHOLE_PIECES];
};

/* A run of pages being written. */
struct eg_write {
    struct eg_io io; /* first member */
    struct eg_block *block;
    uint16_t first, n;
    uint16_t slot;
    uint8_t busy;
};

/* A sequence of faults that looks regular. */
struct eg_stream {
    uint32_t tid;
    int32_t stride;     /* pages */
    uint64_t last;      /* page number of the last fault */
    uint64_t expect;    /* page at which the window that was read ahead ends */
    uint32_t window;    /* pages to read ahead next time */
    uint32_t ahead;     /* pages read ahead and not yet known to be used */
    uint32_t hits;      /* consecutive predictions that came true */
    uint64_t used;      /* for replacement */
    int64_t trend;      /* the step that most of the thread's faults that belong to no stream make */
    uint32_t votes;     /* for it, less those against */
};

struct eg_span {
    uint64_t start, end;
};
#define EG_N_WANTED 16

struct eg_queue {
    uint64_t *v; /* entries (queue.c); power-of-two ring */
    uint64_t cap, head, tail;
};

struct eg_rt {
    struct eg_lock lock;
    struct eg_pool *pool; /* NULL: not under `endgame run`, everything passes */
    struct eg_pool_row *row;
    struct eg_pool_row own_row; /* used when the pool has no row left */
    int pool_fd, pagemap_fd, mem_fd, uffd, wake_fd;
    int uffd_dev; /* /dev/userfaultfd, from when it could be opened; -1 */
    int pid_fd;              /* of this process, where process_madvise can discard a batch (6.13); else -1 */
    int fd_floor;            /* the runtime's descriptors are at or above this */
    char pool_path[128];
    uint64_t features;       /* UFFD_FEATURE_*, of those granted */
    uint8_t active;          /* the pager is at work: by its own thread, or by whoever serves */
    uint8_t on_pager;        /* the lock's holder is the pager's thread, or who serves in its place */
    uint8_t served;          /* another part of the runtime reads the faults and makes the pager's turns */
    void (*began)(void);     /* inline: called once when the pager has become active, without the lock, before anything leaves */
    uint8_t settling;        /* and is at work: nothing leaves */
    void (*successor)(void); /* the pager's thread goes on there, and never comes back */
    int (*keeps)(uint64_t page); /* must the page stay as it is just now, here or not here? Context: lock held */
    uint8_t hinted;          /* mappings are looked at as they are made (hints.c): there are rules, or this is a profile's run */
    uint8_t profiled;        /* what becomes of them is counted */
    uint8_t guarded;         /* there has been MADV_GUARD_INSTALL */
    uint8_t inlined;         /* this run serves faults inline (eg_inline.h): decided at start */
    uint8_t move;            /* UFFDIO_MOVE works */
    uint8_t evicting;
    uint8_t first_gone;      /* the process's first thread has ended */
    uint8_t shut_in;         /* a thread shut itself in (seccomp): calls that it would not make itself may be refused, or end it */
    int32_t last_status;     /* what a thread has ended with: the process does, when it was the last */
    uint8_t spawned;         /* there has been more than one thread in this address space */
    uint8_t vforked;         /* there has been another process in this address space: only then is it asked which one this is */
    uint8_t foreign;         /* the lock's holder is a vfork child: other descriptors, no thread may start here */
    uint8_t *fork_mark;      /* 1; a child that the gate did not see finds 0 (MADV_WIPEONFORK) */
    uint32_t handlers;       /* of the program's for signals that were entered, in all threads (inline faults) */
    uint64_t stderr_id;      /* which file descriptor 2 was at the start */
    uint64_t affinity[16];   /* processors of the first thread at the start */
    uint8_t old_kernel;      /* ENDGAME_KERNEL=6.1: use nothing newer, for tests */
    uint32_t pid;
    uint32_t pager_tid; /* 0: there is no thread of the runtime's */
    uint32_t n_helpers; /* threads of the runtime's beside that */
    void *pager_stack;

    struct eg_ranges ranges;
    struct eg_ranges lazy;           /* MADV_FREE reached the kernel: it may drop pages from here by itself */
    struct eg_block **dir[EG_N_BLOCKS / EG_LEAF_BLOCKS]; /* block.c's own; leaves are made on first need */
    uint64_t *armed;                 /* bit per block */
    struct eg_block *block_chunk;    /* allocator */
    uint32_t block_chunk_left;
    uint64_t keep_start, keep_end;   /* nothing is evicted from here just now */
    uint32_t turns;                  /* of the pager's loop */
    uint64_t arm_hand;               /* address where the search for blocks to arm goes on */
    uint64_t heap_end;               /* brk */

    uint64_t budget, high, low;      /* pages, for the process tree */
    int64_t charged;                 /* pages, this process; published to the pool by eg_account_sync */
    int64_t charged_published;
    int64_t captured, captured_published; /* pages */
    int64_t committed;               /* pages for which the servers' promise is needed */
    int64_t inherited;               /* of these: a fork child's from its parent, promised to the parent */
    uint32_t n_servers, next_server;
    struct eg_server server[EG_POOL_SERVERS];

    struct eg_queue queue, first;    /* pages of armed blocks, oldest first; those that are to leave before all others */
    struct eg_queue passing;         /* pages that were read ahead in sequence */
    uint32_t moment_pages;           /* that left in this moment; moments are what queue.c counts in */
    uint8_t moment;
    int64_t arm_owed;                /* pages that left since a block was armed */
    uint64_t advised;                /* ranges were given advice: it is looked for */
    int64_t pinned;                  /* pages */
    struct eg_span wanted[EG_N_WANTED]; /* to be brought home when there is nothing better to do */
    uint32_t n_wanted;
    uint8_t *ring;                   /* EG_N_SLOTS pages that MOVE fills */
    uint8_t *stage;                  /* EG_N_SLOTS pages that copies fill */
    uint64_t slot_page[EG_N_SLOTS];  /* page number, 0: free */
    uint8_t slot_moved[EG_N_SLOTS];  /* the page is in `ring`, not in `stage` */
    uint32_t slot_head, slot_tail;   /* free-running */
    uint32_t slot_clean;             /* slots up to here have been emptied */
    struct eg_fetch fetch[EG_N_FETCHES];
    uint8_t *fetch_buf;
    struct eg_whole whole[EG_N_WHOLE];
    struct eg_write write[EG_N_WRITES];
    uint32_t outstanding;            /* fetches and writes */
    uint8_t putting_off;             /* inline: reads that need no message are put off until the lock's holder has given it up */
    struct eg_io_queue put_off;
    uint32_t unlocked;               /* threads that make such reads, or drop pages, just now */
    uint64_t recent[EG_N_RECENT];    /* pages served lately: whoever waited for one has to have used it before it leaves */
    uint32_t n_recent;               /* free-running */
    struct eg_stream stream[EG_N_STREAMS];
    uint64_t clock;
    uint32_t ahead_read, ahead_used; /* lately: is reading ahead worth it for this program? */
    uint8_t *zero;                   /* a page of zeros */
    uint64_t spared;                 /* passed over since a page last left */
    int64_t stuck_charged;           /* when nothing could leave */
    uint64_t last_poke_ns, last_reap_ns, full_until_ns, stuck_until_ns;
};

extern struct eg_rt eg_rt;

#define EG_COUNT(name, n) (eg_rt.row->name += (uint64_t)(n))

/* --- account.c: the budget, shared by the process tree ------------------------------------------------------------- */

/* eg_account_budget - the budget, and where eviction begins and ends. Context: start-up; the pager becomes active. */
void eg_account_budget(void);
/* eg_account_sync - publish what changed. Context: lock held. */
void eg_account_sync(void);
/* eg_account_total - resident captured pages of the tree. */
uint64_t eg_account_total(void);
/* eg_account_row_claim - take a row for this process. Context: start-up and fork child. */
void eg_account_row_claim(void);
/* eg_account_listen - open the socket (wake_fd) through which other processes ask. Returns: 0, -errno. */
int eg_account_listen(void);
/* eg_account_ask_others - find processes that should give way by n pages in all, ask them; forget the dead.
 * Context: lock held. Returns: the pages asked for (0: this process is the one to give way). */
uint64_t eg_account_ask_others(uint64_t n);
/* eg_account_bury - processes that are gone leave the account. */
void eg_account_bury(void);
/* eg_account_row_of - the row of the process with that number; NULL: none. eg_account_poke - its pager looks up. Context: any. */
struct eg_pool_row *eg_account_row_of(uint32_t pid);
void eg_account_poke(const struct eg_pool_row *row);
/* eg_account_time - one more in a histogram of the row's (EG_HIST_BUCKETS). */
void eg_account_time(uint32_t *hist, uint64_t ns);

/* --- block.c ------------------------------------------------------------------------------------------------------- */

struct eg_block *eg_block_find(uint64_t index);
/* eg_block_get - the block, made from the ranges when it had no state yet. Returns: NULL when memory is short. */
struct eg_block *eg_block_get(uint64_t index);
/* eg_block_next - the first block that has state from *at on, below end (at most EG_N_BLOCKS); *at is then the index behind it. Blocks
 * may be made between calls. Returns: NULL when there is none. */
struct eg_block *eg_block_next(uint64_t *at, uint64_t end);
/* eg_block_swap - two blocks that have state change places. The armed bitmap is the caller's. */
void eg_block_swap(uint64_t one, uint64_t other);
int eg_block_armed(uint64_t index);
void eg_block_set_armed(uint64_t index, int armed);
/* eg_pages_set, eg_page_set - change the state of some pages, or of one, keeping the counts. Flags other than the state are kept. */
void eg_pages_set(struct eg_block *b, uint32_t first, uint32_t n, enum eg_page_state state);
void eg_page_set(struct eg_block *b, uint32_t i, enum eg_page_state state);
static inline enum eg_page_state eg_page_state(const struct eg_block *b, uint32_t i)
{
    return (enum eg_page_state)(b->page[i] & EG_P_STATE);
}
static inline uint64_t eg_block_addr(const struct eg_block *b)
{
    return (uint64_t)b->index << EG_BLOCK_SHIFT;
}
/* eg_block_slab_gone - no page needs the slab's content any more: take it off the block. */
void eg_block_slab_gone(struct eg_block *b);

/* --- session.c: the control plane ---------------------------------------------------------------------------------- */

/* eg_session_need - open the sessions that are not open yet. Returns: 0, or -errno when no server could be used. */
int eg_session_need(void);
/* eg_session_reserve - make sure that the servers promise room for `pages` in all. Returns: 0, -ENOMEM. */
int eg_session_reserve(int64_t pages);
/* eg_session_relax - give back promises far above what `pages` need. */
void eg_session_relax(int64_t pages);
/* eg_slab_writable - a slab for the block that may be written. Returns: 0; -ENOSPC; -EBUSY: not now, a thread reads from the old one without the lock. */
int eg_slab_writable(struct eg_block *b);
/* eg_slab_free - a block needs its slab no more. shared: others may hold it too, so it is not used again here. */
void eg_slab_free(uint8_t server, uint32_t slab, int shared);
/* eg_session_keep - the same for the memory servers' sockets. Context: start-up. */
void eg_session_keep(void);
/* eg_session_snapshot / _forget / _child - fork: freeze our slabs; undo; be the child's end. */
int eg_session_snapshot(void);
void eg_session_forget_snapshot(void);
int eg_session_child(void);
/* eg_session_lost - a server is gone: die if it had pages of ours, else go on without it. */
void eg_session_lost(struct eg_server *s, int err);
void eg_session_check(void);

/* --- uffd.c -------------------------------------------------------------------------------------------------------- */

int eg_uffd_open(void);
/* eg_uffd_keep - whoever may open one now, shall when the program has become another user. Context: start-up. */
void eg_uffd_keep(void);
int eg_uffd_register(uint64_t start, uint64_t end);
int eg_uffd_unregister(uint64_t start, uint64_t end);
void eg_uffd_wake(uint64_t start, uint64_t end);
int eg_uffd_protect(uint64_t start, uint64_t end, int on);
/* eg_uffd_copy - install pages where none are. Returns: 0, -EEXIST (one is there already), -ENOENT (unmapped), -errno. */
int eg_uffd_copy(uint64_t dst, const void *src, uint64_t bytes, int write_protect);
/* eg_uffd_zero_check - map zeros where nothing is. Returns: 1 it was empty, 0 something is there, -errno. */
int eg_uffd_zero_check(uint64_t addr);
/* eg_uffd_move - take pages away, to where nothing is. Returns: bytes moved (maybe short), or -errno when the first page could
 * not be moved. */
long eg_uffd_move(uint64_t dst, uint64_t src, uint64_t bytes);

/* --- fetch.c ------------------------------------------------------------------------------------------------------- */

void eg_fetch_fault(struct eg_block *b, uint32_t i, int write, uint32_t tid, uint64_t start_ns);
/* eg_fetch_joined - a fault on a page that is on its way already. Context: lock held. */
void eg_fetch_joined(struct eg_block *b, uint32_t i, int write, uint32_t tid);
/* eg_fetch_view - from now on the server's memory is looked at itself, where that can be. Context: lock held. */
void eg_fetch_view(struct eg_server *s);
/* eg_fetch_views_end - no more of that: the program locks all that is mapped (mlockall), which would be the server's memory, too. Context: gate stack. */
void eg_fetch_views_end(void);
/* eg_fetch_came - a poll completed it. */
void eg_fetch_came(struct eg_fetch *f);
/* eg_fetch_make_up - the reads that were put off, without the lock. Context: lock held, given up and taken again. Returns: 1, 0 there were none. */
int eg_fetch_make_up(void);
/* eg_fetch_range - bring everything in [start, end) home and wait for it. Context: lock held. Returns: 0, -ENOMEM. */
int eg_fetch_range(uint64_t start, uint64_t end);
/* eg_stream_fault - record a fault and say what to read ahead. eager: two neighbours are enough to begin.
 * Returns: pages ahead; *ret_stride in pages; *ret_hits: pages read ahead earlier that are now known to have been used. */
uint32_t eg_stream_fault(struct eg_stream *v, uint32_t n, uint64_t page, uint32_t tid, uint64_t clock, uint32_t max_window,
                         int eager, int32_t *ret_stride, uint32_t *ret_hits);

/* eg_stream_joined - a fault on a page that is still on its way: when it is in the last window of a sequence, the sequence is extended, so that the next
 * pages come while these are used. Returns: pages to read beyond *ret_from (*ret_stride, *ret_hits as above); 0. */
uint32_t eg_stream_joined(struct eg_stream *v, uint32_t n, uint64_t page, uint32_t tid, uint64_t clock, uint32_t max_window, uint64_t *ret_from,
                          int32_t *ret_stride, uint32_t *ret_hits);

/* eg_fetch_want - bring [start, end) home soon; nobody waits for it. Context: lock held. */
void eg_fetch_want(uint64_t start, uint64_t end);
/* eg_fetch_turn - some of what is wanted. Context: lock held. Returns: 1 while there is more. */
int eg_fetch_turn(void);

/* --- advice.c ------------------------------------------------------------------------------------------------------ */

/* What is said about memory beside the kernel's own advice: numbers for madvise(2) that no kernel has (endgame.h's, from this base on). PLACE: the
 * server's number is above its lowest eight bits. */
#define EG_ADVICE_BASE 0x65670000l

enum eg_advice {
    EG_ADVICE_NORMAL = 0, EG_ADVICE_RANDOM, EG_ADVICE_SEQUENTIAL, EG_ADVICE_EVICT_FIRST, EG_ADVICE_PIN, EG_ADVICE_PREFETCH, EG_ADVICE_EVICT,
    EG_ADVICE_PLACE, EG_ADVICE_N,
    EG_ADVICE_COLD /* madvise's own: as EVICT_FIRST, but only what is here now */
};
/* eg_advice_is - is it advice that the pager follows itself? Returns: 1, and which; 0. */
int eg_advice_is(long madvise_number, enum eg_advice *ret_advice, uint32_t *ret_server);
/* eg_advise - Context: lock held, [start, end) is page-aligned. Returns: 0; -ENOMEM (that much cannot stay local: half of the budget may); -EINVAL (no
 * such server). */
int eg_advise(uint64_t start, uint64_t end, enum eg_advice advice, uint32_t server);
/* eg_advice_of - EG_RANGE_* of the page. Context: lock held. */
uint64_t eg_advice_of(uint64_t page);
/* eg_page_guarded - is nothing to be put there (MADV_GUARD_INSTALL)? Context: lock held. */
static inline int eg_page_guarded(uint64_t page)
{
    return eg_rt.guarded && eg_advice_of(page) & EG_RANGE_GUARDED;
}
/* eg_advice_child - what a child does not inherit. Context: fork child. */
void eg_advice_child(void);

/* eg_advice_add - a hint for memory that was just mapped. flags: EG_RANGE_*: advice, an entry's number. What cannot be pinned is not. Context: lock held. */
void eg_advice_add(uint64_t start, uint64_t end, uint64_t flags);

/* --- hints.c: a hints file's rules, and profiles ------------------------------------------------------------------- */

struct eg_hints_file;
/* eg_hints_init - this run has a hints file, or is a profile's. Context: start-up, eg_rt.heap_end is known. Returns: 0, -ENOMEM. */
int eg_hints_init(struct eg_hints_file *file);
/* eg_hints_memory - eg_cap_memory, then the rules for what was mapped. sp: the caller's stack (0: not known). Context: as eg_cap_memory. */
long eg_hints_memory(long nr, const long arg[6], uint64_t sp);
/* eg_hints_adopted - the same for memory that was there before the gate. Context: start-up. */
void eg_hints_adopted(uint64_t start, uint64_t end);
/* What becomes of a page (number), where eg_rt.profiled. Context: lock held.
 * A fault, of whatever kind; what the streams make of one that fetches; n pages in a row that are fetched; that leave. */
void eg_profile_fault(uint64_t page);
void eg_profile_stream(uint64_t page, int32_t stride, uint32_t ahead, uint32_t hits);
void eg_profile_fetched(uint64_t page, uint32_t n, int ahead);
void eg_profile_left(uint64_t page, uint32_t n, int dirty);

/* --- evict.c, queue.c, arm.c, drop.c, write.c ---------------------------------------------------------------------------------------- */

/* eg_evict - free up to n pages. Returns: pages freed or on their way. */
uint64_t eg_evict(uint64_t n);
/* eg_evict_aside - inline: the same, but clean pages are dropped without the lock, and at most `writes` pages leave by a write. Context: lock held, given up
 * and taken again. */
void eg_evict_aside(uint64_t n, uint64_t writes);
/* eg_evict_leaving - pages that are just being dropped without the lock, and still count. Context: lock held. */
uint64_t eg_evict_leaving(void);
/* eg_evict_busy_aside - is one of them in blocks [first, last]? Context: lock held. */
int eg_evict_busy_aside(uint64_t first, uint64_t last);
/* eg_evict_arrived - pages [first, first+n) have come from the servers: into a queue with them. passing: they were read ahead in sequence; demand: the
 * first one was waited for. Context: lock held. */
void eg_evict_arrived(struct eg_block *b, uint32_t first, uint32_t n, int passing, int demand);
/* eg_evict_soon - what is here of [start, end) leaves before anything else. Context: lock held, the pager is active. */
void eg_evict_soon(uint64_t start, uint64_t end);
/* eg_evict_now - it leaves at once, and nothing else does. Context: as above; waits for memory servers. */
void eg_evict_now(uint64_t start, uint64_t end);
/* eg_evict_room - before n more pages become resident: wait until the budget has room, as far as that is possible. */
void eg_evict_room(uint64_t n);
/* eg_evict_clean_all - arm everything and give the servers a copy of every page, keeping it resident.
 * Returns: 0, -ENOSPC (some pages stay dirty). */
int eg_evict_clean_all(void);
int eg_evict_arm(uint64_t index);
/* eg_evict_settle - before the pager's first work: what is left of memory that MADV_FREE was said about stays from now on, so
 * that no page vanishes while the pager has it in hand. Returns: 0, -errno. */
int eg_evict_settle(void);
/* eg_page_present - does the kernel hold the page (in memory or in its swap)? */
int eg_page_present(uint64_t addr);
/* eg_evict_scan - after registering [lo, hi) of an armed block: pages that are there count and may be evicted. */
void eg_evict_scan(struct eg_block *b, uint64_t lo, uint64_t hi);
/* eg_evict_reset - fork child: nothing is on its way out. */
void eg_evict_reset(void);
void eg_evict_write_done(struct eg_write *w);
/* eg_evict_writes_go - writes that wait for their turn go to the link, unless it has something to send already. all: also when they are few. */
void eg_evict_writes_go(struct eg_server *s, int all);
/* eg_evict_writes_due - would it do anything? Without the lock the answer may be out of date. */
int eg_evict_writes_due(const struct eg_server *s);
void eg_queue_push(struct eg_block *b, uint32_t i);
/* eg_slot_buf - a slot's page of memory. */
void *eg_slot_buf(uint32_t slot);
int eg_slot_find(uint64_t page);

/* --- pager.c ------------------------------------------------------------------------------------------------------- */

/* eg_pager_activate - start the pager's thread. Context: lock held. Returns: 0, -errno; eg_pager_activate_or_warn: after a line that memory stays local. */
int eg_pager_activate(void);
int eg_pager_activate_or_warn(void);
/* Of a thread of the runtime's. */
#define EG_THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)
/* eg_thread_start - a thread of the runtime's: no TLS, signals as the caller has them; fn never returns. Returns: its number, -errno. */
long eg_thread_start(void *stack_top, void (*fn)(void));
/* For whoever serves (eg_rt.served). Context: lock held, on_pager set.
 * eg_pager_fault: a fault in an armed block. eg_pager_turn: completions and eviction; worked: faults were served just now. Returns: 1 while there is more
 * to do. eg_pager_links: the descriptors that may have something (no lock needed). Returns: how many, at most 2 * EG_POOL_SERVERS. */
struct uffd_msg;
struct pollfd;
void eg_pager_fault(const struct uffd_msg *m, uint64_t now_ns);
/* eg_pager_serve - the same, taken apart. wp: the kernel says that the page is there and protected; inline nobody says so, and it is found out. */
void eg_pager_serve(uint64_t addr, int write, int wp, uint32_t tid, uint64_t now_ns);
/* eg_pager_evict_some - inline: who has served its fault, or waits for a message (waiting), evicts, too, when the budget asks for it. Context: lock held,
 * given up and taken again. */
void eg_pager_evict_some(int waiting);
int eg_pager_turn(int worked);
uint32_t eg_pager_links(struct pollfd *ret_polls);
/* eg_pager_collect - collect completions. Context: lock held. Returns: 0 when something is under way and nothing came. */
int eg_pager_collect(void);
/* eg_pager_poll - the same for whoever waits for one: when nothing comes, the processor is given away for a moment. */
void eg_pager_poll(void);
/* eg_pager_quiesce - wait until nothing is under way in [start, end). Context: lock held; inline: it may be given up for moments meanwhile. */
void eg_pager_quiesce(uint64_t start, uint64_t end);
/* eg_pager_busy_alone - does a thread, this one included, read pages of [start, end) without the lock, or is it about to? Then a wait for it gives the lock up. Context: lock held. */
int eg_pager_busy_alone(uint64_t start, uint64_t end);
/* eg_pager_written - wait until no write is under way: the slots are free then. Context: lock held throughout. */
void eg_pager_written(void);
void eg_pager_kick(void);
/* eg_end_by_signal - the process ends by this signal's default action, which must be to end it. Context: any. */
__attribute__((noreturn)) void eg_end_by_signal(int number);
/* eg_die - one line on stderr, then SIGBUS with its default action: the program cannot be carried on truthfully. */
__attribute__((noreturn)) void eg_die(const char *what, const char *name, int err);
/* eg_warn_once - one line, once per run of the program. bit: enum eg_warning. */
enum eg_warning { EG_WARN_FULL = 1, EG_WARN_SERVER = 2, EG_WARN_ACTIVATE = 4, EG_WARN_LATE = 8, EG_WARN_ENGINE = 16, EG_WARN_SANDBOX = 32, EG_WARN_REFUSED = 64 };
/* eg_say_init - remember what descriptor 2 is. Context: start-up. */
void eg_say_init(void);
void eg_warn_once(enum eg_warning bit, const char *what, const char *name);
/* eg_fds_more - there are numbers now that the program cannot have: the hard limit allows it, or may be raised. Context: any; for a moment.
 * Returns: 1, and eg_fds_less(ret_old) has to follow; 0 it cannot be. */
int eg_fds_more(struct rlimit *ret_old);
void eg_fds_less(const struct rlimit *old);
/* eg_fd_new - a system call that makes a descriptor, also where the program has taken all its numbers (to be moved up then, or closed at once).
 * Context: any. Returns: the descriptor, -errno. */
long eg_fd_new(long nr, long a, long b, long c, long d);
/* eg_fd_high - move a descriptor up to where the program does not look, close-on-exec. Returns: the new one. */
int eg_fd_high(int fd);
/* eg_fd_dup_high - the same, leaving the old one open. Returns: the new one, -errno. */
int eg_fd_dup_high(int fd);
/* eg_fd_open_own - open a file of this process's in /proc, though it may have changed its user. Returns: a descriptor, -errno. */
long eg_fd_open_own(const char *path, int flags);
/* eg_fd_path - /proc's name for what a descriptor is open on. */
#define EG_FD_PATH_BYTES 48
void eg_fd_path(int fd, char ret_path[EG_FD_PATH_BYTES]);

/* --- capture.c: what the gate calls (system calls of the program, lock taken inside) -------------------------------- */

long eg_cap_mmap(long addr, long len, long prot, long flags, long fd, long off);
long eg_cap_munmap(long addr, long len);
long eg_cap_mremap(long old, long old_len, long new_len, long flags, long new_addr);
/* eg_cap_remap_home - mremap without far memory, of what may be registered in parts, for compute nodes. All of it is here and not protected, and nobody
 * registers it meanwhile; afterwards it is not registered. Context: one at a time. Returns: as mremap(2). */
long eg_cap_remap_home(const long arg[6]);
long eg_cap_mprotect(long addr, long len, long prot);
long eg_cap_madvise(long addr, long len, long advice);
/* eg_cap_keeps_content - whether this advice may be given to other processes, too, and so changes no content. */
int eg_cap_keeps_content(long advice);
/* eg_cap_shmat - shmat(2) in place of what is there (SHM_REMAP). */
long eg_cap_shmat(long id, long addr, long flags);
/* eg_cap_process_madvise - process_madvise(2), by which a process may give all advice to itself (6.13). */
long eg_cap_process_madvise(const long arg[6]);
long eg_cap_brk(long addr);
/* eg_cap_sandbox - the calling thread is about to give up system calls (seccomp): it could not serve its own faults then, so a thread of the runtime's does
 * from now on. Context: gate stack. */
void eg_cap_sandbox(void);
/* eg_cap_memory - any of the six, or pkey_mprotect, by number. */
long eg_cap_memory(long nr, const long arg[6]);
long eg_cap_fork(long nr, const long arg[6]);
/* eg_cap_spawn - a thread or a vfork child is about to be made; tls: its thread pointer (0: none). */
void eg_cap_spawn(long flags, long tls);
/* eg_cap_thread_ends - the calling thread is about to end by exit(2). With the last one the process ends, but there is a thread of the runtime's.
 * ours: there is one now. Returns: 1 it is the last: exit_group is due; 0. Context: any thread of the program. */
int eg_cap_thread_ends(long status, int ours);
/* eg_cap_look_alive - ends the process if no thread of the program is left. Context: the runtime's thread. Returns: ns until it should look again; 0: no need. */
uint64_t eg_cap_look_alive(void);
/* eg_cap_adopt - capture anonymous memory that existed before the gate. Context: start-up. */
void eg_cap_adopt(uint64_t start, uint64_t end);

/* eg_cap_fd_reserved - is this descriptor the runtime's own? Context: any thread, no lock. */
int eg_cap_fd_reserved(long fd);
/* eg_cap_close_range - close_range(2) that leaves the runtime's descriptors out. */
long eg_cap_close_range(long first, long last, long flags);
/* eg_cap_fd_move_away - the program wants this number for itself: the runtime's descriptor goes elsewhere. Returns: 0; -EMFILE: there is no other. */
int eg_cap_fd_move_away(long fd);

/* eg_page_sum - checksum of a page; *ret_zero (may be NULL): all zeros. */
uint32_t eg_page_sum(const void *page, int *ret_zero);
/* eg_page_sum_copy - the same of a page that is copied; what is summed is what is at `to`, also when `from` changes meanwhile.
 * next: the page that will be copied after it, or this one. */
__attribute__((nonnull)) uint32_t eg_page_sum_copy(void *to, const void *from, const void *next);

#endif
