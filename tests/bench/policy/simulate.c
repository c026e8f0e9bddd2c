/* simulate.c - what replacement policies do with a recorded trace (record.c), next to the best that is possible.
 *   simulate TRACE PER_CENT...
 * For each share of the pages that the trace touches, and each policy, prints the fetches: touches of pages that are away, without the first touch
 * of each, which brings zeros. Demand fetches only: prefetch is another matter, and pages leave one at a time.
 *
 *   opt      Belady's: what is needed furthest in the future leaves. The bound.
 *   lru, clock, sieve (NSDI'24), s3fifo (SOSP'23: small queue a tenth, ghosts as many as main holds)
 *            see every touch that the trace has: more than a pager in user space does, to which a page that is there is silent.
 *   fifo     knows when a page came.
 *   turn     as fifo; a page that came for reading has another turn after its first write.
 *   ours     client/pager/queue.c: as turn; and a page that comes back when no more than a quarter of the capacity has left since, has three turns. It is
 *            what the pager does with pages that come one by one, written anew: what is read ahead in sequence has a queue of its own there, blocks of
 *            pages are looked at only once memory is short, and 32 pages leave at a time. */
#include "words.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEVER = 0x7fffffff };

struct touch {
    uint32_t page;
    uint8_t write;
};

static struct touch *trace;
static uint32_t n_touches, n_pages, capacity;

/* --- reading: pages get small numbers ------------------------------------------------------------------------------------- */

static void *need(size_t n, size_t bytes)
{
    void *p = calloc(n ? n : 1, bytes);
    if (!p)
        exit(1);
    return p;
}

static void load(const char *path)
{
    struct words words;
    if (words_read(&words, path, need))
        exit(1);
    n_touches = (uint32_t)words.n;
    n_pages = (uint32_t)words.n_pages;
    trace = need(n_touches, sizeof *trace);
    for (uint32_t i = 0; i < n_touches; i++)
        trace[i] = (struct touch){(uint32_t)words_page(&words, i), words.word[i] & 1};
    free(words.word);
    free(words.page);
}

/* --- a list of pages, oldest at the tail ----------------------------------------------------------------------------------- */

struct list {
    uint32_t *newer, *older, newest, oldest, n;
};
#define NONE 0xffffffffu

static struct list list_new(void)
{
    return (struct list){need(n_pages, 4), need(n_pages, 4), NONE, NONE, 0};
}

static void list_free(struct list *l)
{
    free(l->newer);
    free(l->older);
}

static void list_add(struct list *l, uint32_t p)
{
    l->older[p] = l->newest;
    l->newer[p] = NONE;
    if (l->newest != NONE)
        l->newer[l->newest] = p;
    else
        l->oldest = p;
    l->newest = p;
    l->n++;
}

static void list_take(struct list *l, uint32_t p)
{
    if (l->newer[p] != NONE)
        l->older[l->newer[p]] = l->older[p];
    else
        l->newest = l->older[p];
    if (l->older[p] != NONE)
        l->newer[l->older[p]] = l->newer[p];
    else
        l->oldest = l->newer[p];
    l->n--;
}

/* --- policies: each returns its fetches --------------------------------------------------------------------------------------- */

/* What all have: is the page there, was it there before? */
static uint8_t *here, *known;

static uint32_t came(uint32_t p)
{
    uint32_t fetch = known[p];
    here[p] = known[p] = 1;
    return fetch;
}

static uint32_t opt(void)
{
    /* A bucket for each moment: the page that is touched then. The furthest moment that is taken leaves. */
    uint32_t *next = need(n_touches, 4), *last = need(n_pages, 4), *at = need(n_pages, 4), fetches = 0, n = 0;
    uint32_t *heap = need((size_t)n_touches + 1, 4), n_heap = 0; /* moments; void when their page has a later one */
    memset(last, 0xff, n_pages * 4ul);
    for (uint32_t i = n_touches; i--;) {
        next[i] = last[trace[i].page] == NONE ? NEVER : last[trace[i].page];
        last[trace[i].page] = i;
    }
    uint32_t *never = need(n_pages, 4), n_never = 0; /* pages that are not needed any more */
    for (uint32_t i = 0; i < n_touches; i++) {
        uint32_t p = trace[i].page;
        if (!here[p]) {
            fetches += came(p);
            if (n == capacity) {
                uint32_t victim = NONE;
                while (n_never && victim == NONE)
                    victim = never[--n_never];
                while (victim == NONE) {
                    uint32_t top = heap[0], last_one = heap[--n_heap], k = 0;
                    for (uint32_t c; (c = 2 * k + 1) < n_heap; k = c) {
                        c += c + 1 < n_heap && heap[c + 1] > heap[c];
                        if (last_one >= heap[c])
                            break;
                        heap[k] = heap[c];
                    }
                    heap[k] = last_one;
                    uint32_t q = trace[top].page;
                    if (here[q] && at[q] == top && q != p)
                        victim = q;
                }
                here[victim] = 0;
                n--;
            }
            n++;
        }
        at[p] = next[i];
        if (next[i] == NEVER) {
            never[n_never++] = p;
            continue;
        }
        uint32_t k = n_heap++;
        for (; k && heap[(k - 1) / 2] < next[i]; k = (k - 1) / 2)
            heap[k] = heap[(k - 1) / 2];
        heap[k] = next[i];
    }
    free(next), free(last), free(at), free(heap), free(never);
    return fetches;
}

static uint32_t lru(void)
{
    struct list l = list_new();
    uint32_t fetches = 0;
    for (uint32_t i = 0; i < n_touches; i++) {
        uint32_t p = trace[i].page;
        if (here[p]) {
            list_take(&l, p);
        } else {
            fetches += came(p);
            if (l.n == capacity) {
                here[l.oldest] = 0;
                list_take(&l, l.oldest);
            }
        }
        list_add(&l, p);
    }
    list_free(&l);
    return fetches;
}

/* The oldest page without turns left; those with some come last again, with one turn less. Returns: it; it has left. */
static uint32_t leaves(struct list *l, uint8_t *turns)
{
    for (;;) {
        uint32_t q = l->oldest;
        list_take(l, q);
        if (!turns[q]) {
            here[q] = 0;
            return q;
        }
        turns[q]--;
        list_add(l, q);
    }
}

/* turns: of a page that is touched while it is there (clock: 1); fifo: 0. */
static uint32_t by_turns(uint8_t turns)
{
    struct list l = list_new();
    uint8_t *left = need(n_pages, 1);
    uint32_t fetches = 0;
    for (uint32_t i = 0; i < n_touches; i++) {
        uint32_t p = trace[i].page;
        if (here[p]) {
            left[p] = turns;
            continue;
        }
        fetches += came(p);
        if (l.n == capacity)
            leaves(&l, left);
        left[p] = 0;
        list_add(&l, p);
    }
    list_free(&l);
    free(left);
    return fetches;
}

static uint32_t fifo(void)
{
    return by_turns(0);
}

static uint32_t clock_(void)
{
    return by_turns(1);
}

static uint32_t sieve(void)
{
    struct list l = list_new();
    uint8_t *visited = need(n_pages, 1);
    uint32_t fetches = 0, hand = NONE;
    for (uint32_t i = 0; i < n_touches; i++) {
        uint32_t p = trace[i].page;
        if (here[p]) {
            visited[p] = 1;
            continue;
        }
        fetches += came(p);
        if (l.n == capacity) {
            uint32_t q = hand == NONE ? l.oldest : hand;
            while (visited[q]) {
                visited[q] = 0;
                q = l.newer[q] == NONE ? l.oldest : l.newer[q];
            }
            hand = l.newer[q];
            here[q] = 0;
            list_take(&l, q);
        }
        visited[p] = 0;
        list_add(&l, p);
    }
    list_free(&l);
    free(visited);
    return fetches;
}

static uint32_t s3fifo(void)
{
    struct list small = list_new(), large = list_new(), ghosts = list_new();
    uint8_t *freq = need(n_pages, 1), *is_ghost = need(n_pages, 1);
    uint32_t fetches = 0, n_small = capacity / 10 ? capacity / 10 : 1, n_ghosts = capacity - n_small;
    for (uint32_t i = 0; i < n_touches; i++) {
        uint32_t p = trace[i].page;
        if (here[p]) {
            freq[p] = freq[p] < 3 ? freq[p] + 1 : 3;
            continue;
        }
        fetches += came(p);
        while (small.n + large.n == capacity) {
            if (small.n >= n_small || !large.n) {
                uint32_t q = small.oldest;
                list_take(&small, q);
                if (freq[q] > 1) {
                    freq[q] = 0;
                    list_add(&large, q);
                    continue;
                }
                here[q] = 0;
                if (ghosts.n == n_ghosts && n_ghosts) {
                    is_ghost[ghosts.oldest] = 0;
                    list_take(&ghosts, ghosts.oldest);
                }
                if (n_ghosts) {
                    is_ghost[q] = 1;
                    list_add(&ghosts, q);
                }
            } else {
                leaves(&large, freq);
            }
        }
        freq[p] = 0;
        if (is_ghost[p]) {
            is_ghost[p] = 0;
            list_take(&ghosts, p);
            list_add(&large, p);
        } else {
            list_add(&small, p);
        }
    }
    list_free(&small), list_free(&large), list_free(&ghosts);
    free(freq), free(is_ghost);
    return fetches;
}

/* ghost_per_cent: of the capacity; of what left last, so many are remembered by the number of pages that left since. */
static uint32_t pager(uint32_t ghost_per_cent, uint8_t turns)
{
    struct list l = list_new();
    uint8_t *left = need(n_pages, 1), *clean = need(n_pages, 1), *seen = need(n_pages, 1);
    uint32_t *left_at = need(n_pages, 4), fetches = 0, n_left = 0, ghosts = (uint32_t)((uint64_t)capacity * ghost_per_cent / 100);
    for (uint32_t i = 0; i < n_touches; i++) {
        uint32_t p = trace[i].page;
        if (here[p]) {
            if (trace[i].write && clean[p]) {
                clean[p] = 0;
                left[p] = left[p] > 1 ? left[p] : 1;
                seen[p] = 1; /* comes back writable */
            }
            continue;
        }
        int fetched = (int)came(p);
        fetches += (uint32_t)fetched;
        if (l.n == capacity) {
            uint32_t q = leaves(&l, left);
            left_at[q] = n_left++;
            seen[q] = clean[q] ? 0 : seen[q];
        }
        clean[p] = fetched && !trace[i].write && !seen[p];
        left[p] = fetched && n_left - left_at[p] < ghosts ? turns : 0;
        list_add(&l, p);
    }
    list_free(&l);
    free(left), free(clean), free(seen), free(left_at);
    return fetches;
}

static uint32_t turn(void)
{
    return pager(0, 0);
}

static uint32_t ours(void)
{
    return pager(25, 3);
}

static const struct {
    const char *name;
    uint32_t (*run)(void);
} policies[] = {{"opt", opt}, {"lru", lru}, {"clock", clock_}, {"sieve", sieve}, {"s3fifo", s3fifo}, {"fifo", fifo}, {"turn", turn}, {"ours", ours}};

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    load(argv[1]);
    here = need(n_pages, 1);
    known = need(n_pages, 1);
    printf("touches %" PRIu32 " pages %" PRIu32 "\n", n_touches, n_pages);
    for (int i = 2; i < argc; i++) {
        capacity = (uint32_t)((uint64_t)n_pages * strtoul(argv[i], NULL, 10) / 100);
        if (capacity < 2)
            return 2;
        for (size_t k = 0; k < sizeof policies / sizeof *policies; k++) {
            memset(here, 0, n_pages);
            memset(known, 0, n_pages);
            printf("%s %s %" PRIu32 "\n", argv[i], policies[k].name, policies[k].run());
        }
    }
    return 0;
}
