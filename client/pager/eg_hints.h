/* eg_hints.h - the file beside the pool file that a run with --hints, or `endgame profile`, has: the rules, parsed by the command, which the runtime
 * applies to mappings as they are made; and the table in which a profile's run counts what becomes of each mapping. Plain data: the command reads
 * and writes it, too. */
#ifndef EG_HINTS_H
#define EG_HINTS_H

#include <stdint.h>

#define EG_HINTS_FILE "hints" /* in the pool file's directory */
#define EG_HINTS_MAGIC 0x53544e4948474745ull
#define EG_HINTS_VERSION 1u
#define EG_HINT_RULES 64
#define EG_HINT_OBJECT_BYTES 64
#define EG_HINT_COMM_BYTES 16
#define EG_HINT_LAST UINT64_MAX /* of a range without an upper end */

/* X(NAME, "name in a hints file") */
#define EG_HINT_KINDS(X) \
    X(MMAP, "mmap")      \
    X(HEAP, "heap")      \
    X(DATA, "data")
enum eg_hint_kind {
#define EG_X(name, text) EG_HINT_##name,
    EG_HINT_KINDS(EG_X)
#undef EG_X
    EG_HINT_N_KINDS
};

/* One rule: memory that fulfils all of the conditions gets the flags. The first rule that fits a mapping is the one for it. */
struct eg_hint_rule {
    uint32_t kind;                      /* enum eg_hint_kind */
    uint32_t line;                      /* of the hints file, for messages */
    uint64_t min_bytes, max_bytes;      /* of the mapping when it is made */
    uint64_t first, last;               /* of the mappings of a process that fulfil the other conditions: from which to which, from 1 */
    uint64_t site, site_end;            /* offsets in the object's file; site_end 0: any call site */
    char object[EG_HINT_OBJECT_BYTES];  /* its file's name without the folder */
    char program[EG_HINT_COMM_BYTES];   /* as in /proc/PID/comm; empty: any */
    char thread[EG_HINT_COMM_BYTES];    /* likewise, of the thread that makes the mapping */
    uint64_t flags;                     /* EG_RANGE_*: advice */
};

/* X(name, "what it counts"): of a profile's entry. */
#define EG_HINT_COUNTERS(X)                                                          \
    X(mappings, "mappings made")                                                     \
    X(faults, "page faults served")                                                  \
    X(faults_in_order, "of those that fetched a page: of a stream of stride 1")      \
    X(faults_strided, "of a stream with another stride")                             \
    X(faults_random, "of no stream")                                                 \
    X(pages_fetched, "pages read from memory servers, ahead of need or not")         \
    X(pages_ahead, "of these: ahead of need")                                        \
    X(ahead_hits, "of these: then used, as far as faults tell")                      \
    X(pages_left, "pages taken from local memory")                                   \
    X(pages_left_dirty, "of these: written since they came")

/* One mapping of a process, or (nth == EG_PROFILE_NTH) all further ones with the same size and call site. Written by that process and its
 * children, with atomic additions. */
#define EG_PROFILE_ENTRIES 4096
#define EG_PROFILE_NTH 8u
#define EG_PROFILE_MIN_BYTES (256u << 10) /* smaller mappings are not told apart, nor recorded */
struct eg_profile_entry {
    uint32_t kind;                     /* enum eg_hint_kind */
    uint32_t nth;                      /* 1...; 0: the entry is not filled in yet */
    uint64_t bytes;                    /* the heap: at its largest */
    uint64_t site;                     /* offset in the object's file, where the object is known */
    char object[EG_HINT_OBJECT_BYTES]; /* empty: not known */
    char program[EG_HINT_COMM_BYTES];
#define EG_X(name, text) uint64_t name;
    EG_HINT_COUNTERS(EG_X)
#undef EG_X
};

struct eg_hints_file {
    uint64_t magic;
    uint32_t version;
    uint32_t n_rules;
    uint32_t profile;   /* 1: the table below is there, and wanted */
    uint32_t n_entries; /* next one never used; may be beyond the table's end: then some found no room */
    struct eg_hint_rule rules[EG_HINT_RULES];
    struct eg_profile_entry entries[EG_PROFILE_ENTRIES];
};

#endif
