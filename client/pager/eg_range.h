/* eg_range.h - the captured mappings: a sorted array of disjoint address ranges. Freestanding; the caller holds the lock. */
#ifndef EG_RANGE_H
#define EG_RANGE_H

#include <stddef.h>
#include <stdint.h>

#define EG_RANGE_RESERVED 1u  /* PROT_NONE since it was mapped: nothing can be in it yet */
#define EG_RANGE_NORESERVE 2u /* asked for with MAP_NORESERVE: not counted as committed */
#define EG_RANGE_DONTFORK 4u  /* madvise: a child does not inherit it */
#define EG_RANGE_WIPEONFORK 8u /* madvise: a child sees zeros */
#define EG_RANGE_GUARDED (1ull << 32) /* MADV_GUARD_INSTALL: whoever looks gets SIGSEGV or EFAULT, and nothing comes */
/* Advice: changes no result. See advice.c. */
#define EG_RANGE_PIN 0x10u        /* stays local */
#define EG_RANGE_FIRST 0x20u      /* leaves before others */
#define EG_RANGE_SEQUENTIAL 0x40u
#define EG_RANGE_RANDOM 0x80u
#define EG_RANGE_SERVER(flags) ((flags) >> 8 & 0xffu) /* 0: any; else its number + 1 */
#define EG_RANGE_SERVER_BITS 0xff00u
/* In a profile's run: which entry counts what becomes of it (eg_hints.h), from 1; 0: none. */
#define EG_RANGE_ENTRY_SHIFT 16
#define EG_RANGE_ENTRY_BITS 0xffff0000u
#define EG_RANGE_ENTRY(flags) ((flags) >> EG_RANGE_ENTRY_SHIFT & 0xffffu)
#define EG_RANGE_ADVICE (EG_RANGE_PIN | EG_RANGE_FIRST | EG_RANGE_SEQUENTIAL | EG_RANGE_RANDOM | EG_RANGE_SERVER_BITS)

struct eg_range {
    uint64_t start, end; /* page-aligned */
    uint64_t flags;
};

struct eg_ranges {
    struct eg_range *v;
    size_t n, cap;
    uint32_t turn; /* odd while entries move: for eg_ranges_seen */
};

/* eg_ranges_set - make [start, end) one range with these flags, replacing whatever overlapped.
 * Returns: 0, or -ENOMEM (nothing changed). */
int eg_ranges_set(struct eg_ranges *r, uint64_t start, uint64_t end, uint64_t flags) __attribute__((warn_unused_result));
/* eg_ranges_clear - remove [start, end). Returns: 0, or -ENOMEM (nothing changed). */
int eg_ranges_clear(struct eg_ranges *r, uint64_t start, uint64_t end) __attribute__((warn_unused_result));
/* eg_ranges_find - index of the first range that ends after addr (r->n when none). */
size_t eg_ranges_find(const struct eg_ranges *r, uint64_t addr);
/* eg_ranges_next - the part of the first range inside [at, end). Returns: 0 when there is none. */
int eg_ranges_next(const struct eg_ranges *r, uint64_t at, uint64_t end, struct eg_range *ret_part);

/* eg_ranges_seen - may something of [start, end) be captured? Sure when it is not. Context: any thread, no lock needed: an entry that was made before
 * is found, whatever happens to others meanwhile. */
int eg_ranges_seen(const struct eg_ranges *r, uint64_t start, uint64_t end);

static inline int eg_ranges_overlap(const struct eg_ranges *r, uint64_t start, uint64_t end)
{
    size_t i = eg_ranges_find(r, start);
    return start < end && i < r->n && r->v[i].start < end;
}

#endif
