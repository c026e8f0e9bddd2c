/* torture_heap.c - malloc and its family from all threads, blocks that pass from thread to thread, brk; every byte is checked. See
 * torture.h for the command line. */
#include "torture.h"

#include <malloc.h>

/* ---- blocks of one's own ------------------------------------------------------------------------------------------------ */

struct block {
    void *at;
    size_t len;
    uint64_t key;
};

static size_t random_size(uint64_t *rng)
{
    switch (rng_below(rng, 16)) {
    case 0:
        return 100000 + rng_below(rng, 200000); /* a mapping of its own, usually */
    case 1:
    case 2:
        return 4096 + rng_below(rng, 30000);
    default:
        return 1 + rng_below(rng, 600);
    }
}

static void block_get(struct member *me, struct block *block)
{
    static const size_t alignments[] = {16, 64, 256, 4096};
    const size_t len = random_size(&me->rng);
    *block = (struct block){.len = len, .key = rng_next(&me->rng)};
    switch (rng_below(&me->rng, 5)) {
    case 0:
        block->at = NOT_NULL(calloc(1, len));
        CHECK_ZEROS(block->at, len);
        break;
    case 1: {
        const size_t alignment = alignments[rng_below(&me->rng, COUNT_OF(alignments))];
        OK(posix_memalign(&block->at, alignment, len));
        CHECK((uintptr_t)block->at % alignment == 0, "posix_memalign: %p is not aligned to %zu", block->at, alignment);
        break;
    }
    case 2:
        block->at = NOT_NULL(memalign(64, len));
        break;
    default:
        block->at = NOT_NULL(malloc(len));
        break;
    }
    fill_bytes(block->at, len, block->key);
}

static void block_free(struct block *block)
{
    CHECK_BYTES(block->at, block->len, block->key);
    memset(block->at, 0xdb, block->len);
    free(block->at);
    block->at = NULL;
}

static void block_resize(struct member *me, struct block *block)
{
    const size_t len = random_size(&me->rng);
    unsigned char *at = NOT_NULL(realloc(block->at, len));
    CHECK_BYTES(at, len < block->len ? len : block->len, block->key);
    block->at = at;
    block->len = len;
    fill_bytes(at, len, block->key);
}

static void own_blocks_body(struct member *me)
{
    enum { HELD = 40 };
    struct block held[HELD];
    const int n = rounds(1500);
    memset(held, 0, sizeof held);
    for (int i = 0; i < n; i++) {
        struct block *block = &held[rng_below(&me->rng, HELD)];
        if (!block->at)
            block_get(me, block);
        else if (rng_below(&me->rng, 3) == 0)
            block_resize(me, block);
        else
            block_free(block);
    }
    for (int i = 0; i < HELD; i++)
        if (held[i].at)
            block_free(&held[i]);
}

static void own_blocks(void)
{
    crew_run(threads(4), own_blocks_body, NULL);
}

/* ---- blocks that another thread frees ----------------------------------------------------------------------------------- */

#define EXCHANGE 64

static struct {
    pthread_mutex_t lock;
    struct block block;
} exchange[EXCHANGE];

static void passed_on_body(struct member *me)
{
    const int n = rounds(700);
    for (int i = 0; i < n; i++) {
        struct block mine = {0}, other;
        const unsigned slot = rng_below(&me->rng, EXCHANGE);
        if (rng_below(&me->rng, 2))
            block_get(me, &mine);
        OK(pthread_mutex_lock(&exchange[slot].lock));
        other = exchange[slot].block;
        exchange[slot].block = mine;
        OK(pthread_mutex_unlock(&exchange[slot].lock));
        if (!other.at)
            continue;
        CHECK_BYTES(other.at, other.len, other.key);
        if (rng_below(&me->rng, 3) == 0)
            block_resize(me, &other);
        block_free(&other);
    }
}

static void passed_on(void)
{
    memset(exchange, 0, sizeof exchange);
    for (int i = 0; i < EXCHANGE; i++)
        OK(pthread_mutex_init(&exchange[i].lock, NULL));
    crew_run(threads(4), passed_on_body, NULL);
    for (int i = 0; i < EXCHANGE; i++) {
        if (exchange[i].block.at)
            block_free(&exchange[i].block);
        OK(pthread_mutex_destroy(&exchange[i].lock));
    }
}

/* ---- linked lists from producers to consumers --------------------------------------------------------------------------- */

struct link {
    struct link *next;
    unsigned length;
    uint64_t key;
    unsigned char bytes[];
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct link *lists[8];
    int n_lists, producers;
} shelf = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void list_producer(struct member *me)
{
    const int n = rounds(60);
    for (int i = 0; i < n; i++) {
        struct link *list = NULL;
        const unsigned length = 1 + rng_below(&me->rng, 30);
        for (unsigned l = 1; l <= length; l++) {
            const unsigned len = 1 + rng_below(&me->rng, 200);
            struct link *link = NOT_NULL(malloc(sizeof *link + len));
            *link = (struct link){.next = list, .length = len, .key = rng_next(&me->rng)};
            fill_bytes(link->bytes, len, link->key);
            list = link;
        }
        me->sum += length;
        OK(pthread_mutex_lock(&shelf.lock));
        while (shelf.n_lists == (int)COUNT_OF(shelf.lists))
            OK(pthread_cond_wait(&shelf.changed, &shelf.lock));
        shelf.lists[shelf.n_lists++] = list;
        OK(pthread_cond_broadcast(&shelf.changed));
        OK(pthread_mutex_unlock(&shelf.lock));
    }
    OK(pthread_mutex_lock(&shelf.lock));
    shelf.producers--;
    OK(pthread_cond_broadcast(&shelf.changed));
    OK(pthread_mutex_unlock(&shelf.lock));
}

static void list_consumer(struct member *me)
{
    for (;;) {
        OK(pthread_mutex_lock(&shelf.lock));
        while (!shelf.n_lists && shelf.producers)
            OK(pthread_cond_wait(&shelf.changed, &shelf.lock));
        struct link *list = shelf.n_lists ? shelf.lists[--shelf.n_lists] : NULL;
        OK(pthread_cond_broadcast(&shelf.changed));
        OK(pthread_mutex_unlock(&shelf.lock));
        if (!list)
            return;
        for (struct link *next; list; list = next) {
            next = list->next;
            CHECK_BYTES(list->bytes, list->length, list->key);
            free(list);
            me->sum++;
        }
    }
}

static void linked_lists_body(struct member *me)
{
    if (me->number % 2)
        list_consumer(me);
    else
        list_producer(me);
}

static void linked_lists(void)
{
    const int n = (threads(4) + 1) / 2 * 2;
    shelf.n_lists = 0;
    shelf.producers = n / 2;
    const uint64_t sum = crew_run(n, linked_lists_body, NULL);
    EQUAL(sum % 2, 0); /* each link counted by its producer and by its consumer */
    result("%" PRIu64, sum / 2);
}

/* A tree that all threads together build under one lock and that each then walks. */
struct leaf {
    struct leaf *child[2];
    uint64_t key;
};

static pthread_mutex_t tree_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t tree_built;
static struct leaf *tree;

static uint64_t tree_walk(const struct leaf *leaf, unsigned *n)
{
    if (!leaf)
        return 0;
    ++*n;
    return leaf->key + tree_walk(leaf->child[0], n) + tree_walk(leaf->child[1], n);
}

static void tree_free(struct leaf *leaf)
{
    if (!leaf)
        return;
    tree_free(leaf->child[0]);
    tree_free(leaf->child[1]);
    free(leaf);
}

static void tree_body(struct member *me)
{
    const int n = rounds(200);
    for (int i = 0; i < n; i++) {
        struct leaf *leaf = NOT_NULL(calloc(1, sizeof *leaf));
        leaf->key = rng_next(&me->rng);
        OK(pthread_mutex_lock(&tree_lock));
        struct leaf **at = &tree;
        while (*at)
            at = &(*at)->child[leaf->key > (*at)->key];
        *at = leaf;
        OK(pthread_mutex_unlock(&tree_lock));
    }
    const int error = pthread_barrier_wait(&tree_built);
    CHECK(!error || error == PTHREAD_BARRIER_SERIAL_THREAD, "barrier: %d", error);
    unsigned found = 0;
    me->sum = tree_walk(tree, &found);
    EQUAL(found, n * me->of);
}

static void shared_tree(void)
{
    const int n = threads(4);
    tree = NULL;
    OK(pthread_barrier_init(&tree_built, NULL, (unsigned)n));
    const uint64_t sum = crew_run(n, tree_body, NULL);
    OK(pthread_barrier_destroy(&tree_built));
    unsigned found = 0;
    const uint64_t once = tree_walk(tree, &found);
    CHECK(sum == once * (uint64_t)n, "a thread saw another tree");
    tree_free(tree);
    result("%u %016" PRIx64, found, once);
}

/* ---- brk, trimming ------------------------------------------------------------------------------------------------------ */

/* One arena for all, so that it grows and shrinks by brk with all threads in it. */
static void brk_body(struct member *me)
{
    enum { BLOCKS = 64, SIZE = 60000 };
    const int n = rounds(4);
    void *blocks[BLOCKS];
    for (int i = 0; i < n; i++) {
        const uint64_t key = rng_next(&me->rng);
        for (unsigned b = 0; b < BLOCKS; b++) {
            blocks[b] = NOT_NULL(malloc(SIZE));
            /* Two places, first and last page. */
            fill_bytes(blocks[b], 100, key + b);
            fill_bytes((char *)blocks[b] + SIZE - 100, 100, key - b);
        }
        for (unsigned b = BLOCKS; b-- > 0;) {
            CHECK_BYTES(blocks[b], 100, key + b);
            CHECK_BYTES((char *)blocks[b] + SIZE - 100, 100, key - b);
            free(blocks[b]);
        }
        malloc_trim(0);
    }
}

static void brk_growth(void)
{
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_ARENA_MAX, 1);
    crew_run(threads(3), brk_body, NULL);
}

static pthread_mutex_t brk_lock = PTHREAD_MUTEX_INITIALIZER;

/* The program's own sbrk: what a thread gets is zeros, and stays its own. malloc tolerates it. */
static void sbrk_body(struct member *me)
{
    enum { SIZE = 3 * 4096 + 512 };
    const int n = rounds(12);
    for (int i = 0; i < n; i++) {
        OK(pthread_mutex_lock(&brk_lock));
        unsigned char *at = sbrk(SIZE);
        OK(pthread_mutex_unlock(&brk_lock));
        CHECK(at != (void *)-1, "sbrk: %s", strerror(errno));
        CHECK_ZEROS(at, SIZE);
        fill_bytes(at, SIZE, me->rng);
        sleep_ms(0);
        CHECK_BYTES(at, SIZE, me->rng);
        me->sum += SIZE;
    }
}

static void sbrk_test(void)
{
    result("%" PRIu64, crew_run(threads(3), sbrk_body, NULL));
    /* Back and forth by this thread: whole pages that were given back are zeros when they come again. */
    const uintptr_t end = (uintptr_t)sbrk(0);
    CHECK(sbrk((intptr_t)(-end % PAGE)) != (void *)-1, "sbrk: %s", strerror(errno));
    for (int i = 0; i < 4; i++) {
        unsigned char *at = sbrk(5 * 4096);
        CHECK(at != (void *)-1, "sbrk: %s", strerror(errno));
        CHECK_ZEROS(at, 5 * 4096);
        memset(at, 0xee, 5 * 4096);
        CHECK(sbrk(-5 * 4096) == at + 5 * 4096, "brk was moved by somebody else");
    }
}

/* ---- threads that begin and end with memory in hand --------------------------------------------------------------------- */

static void *inherited_main(void *arg)
{
    struct block *block = arg;
    CHECK_BYTES(block->at, block->len, block->key);
    struct member me = {.rng = block->key};
    block_free(block);
    block_get(&me, block);
    return block;
}

static void inherited(void)
{
    const int n = rounds(30);
    struct member me = {.rng = torture_seed};
    struct block *block = NOT_NULL(malloc(sizeof *block));
    block_get(&me, block);
    for (int i = 0; i < n; i++) {
        pthread_t id;
        void *value;
        OK(pthread_create(&id, NULL, inherited_main, block));
        OK(pthread_join(id, &value));
        CHECK(value == block, "a thread returned %p", value);
    }
    CHECK_BYTES(block->at, block->len, block->key);
    result("%zu %016" PRIx64, block->len, block->key);
    free(block->at);
    free(block);
}

static const struct sub_test tests[] = {
    {"own_blocks", own_blocks, "allocate, resize, free blocks of one's own"},
    {"passed_on", passed_on, "blocks freed or resized by another thread"},
    {"linked_lists", linked_lists, "lists from producers to consumers"},
    {"shared_tree", shared_tree, "a tree that all threads build"},
    {"inherited", inherited, "one block through many threads, one after the other"},
    {"brk_growth", brk_growth, "one arena that grows and shrinks by brk"},
    {"sbrk", sbrk_test, "sbrk by threads"},
};

TORTURE_MAIN(tests)
