/* eg_pool.h - the file that the processes of one run share: configuration (written once by `endgame run`), the budget's
 * account, and one row of counters per process. Every process of the tree maps it (its path is in ENDGAME_POOL);
 * `endgame run` makes it, reads it at exit for --stats and removes it.
 *
 * A row belongs to a live process exactly as long as that process holds an OFD write lock (F_OFD_SETLK) on the row's
 * first byte in the file: exit, kill and exec give it up without any code of ours. Row 0 belongs to nobody: it has the sum of
 * the counters of dead processes whose rows were needed again. */
#ifndef EG_POOL_H
#define EG_POOL_H

#include <stdint.h>

#define EG_POOL_MAGIC 0x4c4f4f5045474e45ull
#define EG_POOL_VERSION 6u
#define EG_POOL_ROWS 1024
#define EG_POOL_SERVERS 16
#define EG_POOL_NODES 16
#define EG_POOL_ROW_BYTES 2048
#define EG_HIST_BUCKETS 128

enum eg_addr_kind { EG_ADDR_UNIX = 1, EG_ADDR_TCP = 2, EG_ADDR_RDMA = 3, EG_ADDR_AUTO = 4 };
enum eg_engine { EG_ENGINE_AUTO = 0, EG_ENGINE_HANDLER = 1, EG_ENGINE_INLINE = 2 };

struct eg_pool_server {
    uint32_t kind;          /* enum eg_addr_kind */
    uint32_t sockaddr_len;
    uint8_t sockaddr[128];  /* resolved: the runtime never looks a name up */
    char text[128];         /* as the user wrote it, for messages */
};

enum eg_threads_mode { EG_THREADS_HOME = 0, EG_THREADS_REMOTE = 1, EG_THREADS_AUTO = 2 };

/* One compute node. The counters are written by every process of the run: only atomic access. */
struct eg_pool_node {
    uint32_t kind;          /* EG_ADDR_UNIX or EG_ADDR_TCP; over RDMA: unix, its relay's */
    uint32_t sockaddr_len;
    uint8_t sockaddr[128];
    char text[112];
    uint32_t flags;         /* EG_HELLO_* of proto/eg_threads.h, for its workers */
    uint32_t reserved;
    uint32_t slots;         /* threads that it offers to run at once; more share them */
    uint32_t threads;       /* of this run, there now */
    uint64_t threads_total; /* ever sent there */
    uint64_t pages_sent, pages_taken, calls; /* system calls forwarded */
};

/* A process that asked for certain processors and is about to become another program: which slots of the nodes it asked for (see
 * client/threads/eg_view.h; what it asked of home's, the kernel knows). The program that it becomes takes the entry. */
#define EG_POOL_VIEW_CPUS 1024u /* of a view of the machine: what a cpu_set_t holds */
#define EG_POOL_EXECS 16
struct eg_pool_exec {
    uint32_t pid; /* 0: free; EG_POOL_EXEC_BUSY: being written */
    uint32_t no_home;
    uint64_t start; /* of the process, as /proc/PID/stat has it: numbers come again */
    uint64_t slots[EG_POOL_VIEW_CPUS / 64];
};
#define EG_POOL_EXEC_BUSY 0xffffffffu

/* Histogram of nanoseconds: bucket of v is 4*floor(log2(v)) + the next two bits, minus 4*EG_HIST_MIN_LOG2, clamped. */
#define EG_HIST_MIN_LOG2 6

/* X(name, "what it counts"): plain counters, written by their process only. */
#define EG_COUNTERS(X)                                                                                    \
    X(faults, "page faults served by the pager")                                                          \
    X(faults_write_protect, "of these: first write to a clean page")                                      \
    X(faults_zero, "of these: first touch of a fresh page in an armed block")                             \
    X(pages_fetched, "pages read from a memory server, prefetched ones included")                         \
    X(pages_prefetched, "of these: read before they were asked for")                                      \
    X(prefetch_hits, "prefetched pages that the program then went on to use, as far as faults tell")      \
    X(pages_evicted, "pages taken from local memory, however")                                            \
    X(pages_dropped_clean, "of these: dropped without a write, the server had them")                      \
    X(pages_dropped_zero, "of these: all zeros, nothing to store")                                        \
    X(pages_written, "pages written to a memory server")                                                  \
    X(blocks_armed, "2 MiB blocks put under the pager's eye")                                             \
    X(blocks_admitted, "fresh blocks given back to the kernel whole, at their first touch")               \
    X(slabs_leased, "2 MiB slabs leased from memory servers")                                             \
    X(forks, "forks of a process with captured memory")                                                   \
    X(evict_stalls, "faults that had to wait for an eviction")                                            \
    X(pages_kept_local, "evictions given up because no server had room")                                  \
    X(threads_remote, "threads that began on a compute node")                                             \
    X(migrations, "threads moved: to a node, or home before their end")                                   \
    X(syscalls_forwarded, "system calls of remote threads made at home")                                  \
    X(futex_waits_remote, "of these: waits for a futex")                                                  \
    X(pages_coherent_fetched, "pages handed to another machine, or taken back")                           \
    X(invalidations, "shared copies of a page that had to go because somebody wrote to it")

/* Another process wants to access this one's memory (eg_peer.h). */
struct eg_pool_peer {
    uint32_t asker; /* a thread's number; 0: none */
    uint32_t state; /* futex; peer.c's own */
    uint64_t start, end;
    uint32_t write, unused;
};
_Static_assert(sizeof(struct eg_pool_peer) == 32, "eg_pool_row's size");

struct eg_pool_row {
    uint32_t lock_byte;  /* lives at the row's start: the OFD lock is on its first byte */
    uint32_t pid;        /* 0: the row was never used */
    uint32_t ppid;
    uint32_t flags;      /* EG_ROW_* */
    uint64_t start_ns;   /* CLOCK_MONOTONIC */
    char program[48];    /* /proc/self/comm at start */
    char transport[16];  /* "shm", "tcp", "rdma", "none" while nothing was needed, "shm+tcp" */
    char engine[16];     /* "inline", "handler", "none" while nothing was armed */
    uint64_t captured_bytes;       /* now */
    uint64_t captured_bytes_peak;
    uint64_t charged_pages;        /* resident captured pages (an upper bound for blocks that were never armed) */
    uint64_t resident_bytes_peak;  /* peak of the same */
    uint64_t want_evict_pages;     /* other processes ask this one to give way by so much */
#define EG_X(name, text) uint64_t name;
    EG_COUNTERS(EG_X)
#undef EG_X
    uint32_t fault_hist[EG_HIST_BUCKETS];
    uint32_t thread_start_hist[EG_HIST_BUCKETS];   /* clone to the thread's first instruction on its node */
    uint32_t coherent_fault_hist[EG_HIST_BUCKETS]; /* a request from a node (or of home's) to its answer, at the directory */
    struct eg_pool_peer peer;
    uint8_t reserved[EG_POOL_ROW_BYTES - 144 - 8 * 22 - 3 * 4 * EG_HIST_BUCKETS - 32 - 1];
    uint8_t room; /* written to, by whoever may be the first to use the row, so that the file has a page there */
};
_Static_assert(sizeof(struct eg_pool_row) == EG_POOL_ROW_BYTES, "eg_pool_row is a file format");

#define EG_ROW_ACTIVE 1u /* the process had to use a memory server */

/* The head of the user's file of texts, from which a run's begin (EG_POOL_TEXTS_OFFSET): entries follow, as many bytes as it says. It is for one libendgame.so. */
#define EG_TEXTS_MAGIC 0x53545845544745ull
#define EG_TEXTS_PATH_BYTES 512
#define EG_TEXTS_MOST_BYTES (128u << 10) /* beyond that nothing is kept: a run needs room for texts of its own */
struct eg_texts_head {
    uint64_t magic;
    uint32_t version; /* EG_POOL_VERSION */
    uint32_t bytes;
    uint64_t library[4]; /* device, inode, size, time of its last change in ns */
    uint64_t sum;        /* of the entries: eg_texts_sum */
};

static inline uint64_t eg_texts_sum(const uint64_t *entries, uint32_t bytes)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < bytes / sizeof *entries; i++)
        sum = ((sum ^ entries[i]) * 0x9e3779b97f4a7c15ull) ^ sum >> 29;
    return sum;
}

struct eg_pool {
    uint64_t magic;
    uint32_t version;
    uint32_t n_servers;
    uint64_t budget_bytes;  /* for the whole process tree */
    uint32_t engine;        /* enum eg_engine */
    uint32_t n_rows;        /* EG_POOL_ROWS */
    uint8_t token[16];
    uint64_t rows_offset;   /* bytes from the start of the file */
    struct eg_pool_server servers[EG_POOL_SERVERS];
    uint32_t n_nodes;       /* compute nodes; 0: threads stay here */
    uint32_t threads_mode;  /* enum eg_threads_mode */
    struct eg_pool_node nodes[EG_POOL_NODES];
    char verbs_library[512]; /* path of libendgame-verbs.so; empty: no server is reached over RDMA */
    /* The account: only atomic access. */
    _Alignas(64) uint64_t charged_pages; /* sum over the tree */
    uint64_t charged_pages_peak;
    uint64_t captured_bytes;             /* sum over the tree */
    uint64_t captured_bytes_peak;
    uint32_t rows_used;                  /* next row never used */
    uint32_t warned;                     /* bit per warning already given */
    uint32_t said;                       /* `words` is taken */
    char words[320];                     /* a message for stderr of a process that has closed its own; else empty */
    uint64_t rows_lost;                  /* processes that found no row (their counters are in no row) */
    struct eg_pool_exec execs[EG_POOL_EXECS];
    uint32_t next_exec;
    uint32_t texts_used; /* bytes of the texts' part that are given out: only atomic access */
    struct eg_texts_head texts; /* bytes: those that were there before the run */
    uint32_t hints; /* 1: there is a hints file beside this one (eg_hints.h) */
    uint32_t sole;  /* 1: the first process, all of whose calls are seen, has made no other and is no other program: when it has ended, nothing is left */
    uint32_t held;  /* futex: the first process does not begin before this is 0, as its embedded server is not ready yet */
};
#define EG_POOL_ROWS_OFFSET 16384
/* The rows behind these have no memory before they are claimed: nobody reads one that is not below rows_used. */
#define EG_POOL_ROWS_READY 32
/* What was found out about texts (client/gate/texts.c): every process of the run starts with the same libraries. Entries one behind the other. */
#define EG_POOL_TEXTS_OFFSET (EG_POOL_ROWS_OFFSET + EG_POOL_ROWS * EG_POOL_ROW_BYTES)
#define EG_POOL_TEXTS_BYTES (256u << 10)
#define EG_POOL_FILE_BYTES (EG_POOL_TEXTS_OFFSET + EG_POOL_TEXTS_BYTES)
_Static_assert(sizeof(struct eg_pool) <= EG_POOL_ROWS_OFFSET, "rows begin after the header");

#endif
