/* verbs_malloc.c - malloc for the link namespace of libendgame-verbs.so (see eg_verbs_lib.h). libibverbs and librdmacm allocate when
 * connections come and go, some tens of kilobytes, never per transfer: powers of two, a free list each, nothing goes back.
 * The memory is the runtime's own, so the pager never takes it away. One user at a time: the pager's lock. */
#include "client/verbs/verbs_malloc.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES (8u << 20)
#define ALIGN 16u
#define CLASSES 40
#define PUBLIC __attribute__((visibility("default")))

struct head {
    uint32_t class; /* 2^class bytes, the head included */
    uint32_t back;  /* from the user's address to the head, for aligned ones */
    uint64_t unused;
};
_Static_assert(sizeof(struct head) == ALIGN, "what follows stays aligned");

static void *map_early(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static uint8_t *chunk, *at, *end;
static void *free_list[CLASSES];
static uint32_t n_chunks;
static void *(*more)(size_t bytes) = map_early;

void *eg_verbs_malloc_used(size_t *ret_bytes, size_t *ret_all_bytes)
{
    *ret_bytes = (size_t)(at - chunk);
    *ret_all_bytes = (size_t)(end - chunk);
    return n_chunks == 1 ? chunk : NULL;
}

void eg_verbs_malloc_from(void *(*map)(size_t bytes))
{
    if (map)
        more = map;
}

static struct head *take(size_t bytes)
{
    uint32_t class = 5;
    if (bytes > (size_t)1 << (CLASSES - 1))
        return NULL;
    while ((size_t)1 << class < bytes)
        class++;
    struct head *h = free_list[class];
    if (h) {
        memcpy(&free_list[class], h + 1, sizeof(void *));
        return h;
    }
    size_t n = (size_t)1 << class;
    if ((size_t)(end - at) < n) {
        size_t fresh = n > CHUNK_BYTES ? n : CHUNK_BYTES;
        uint8_t *p = more(fresh);
        if (!p)
            return NULL;
        n_chunks++;
        at = chunk = p;
        end = p + fresh;
    }
    h = (struct head *)at;
    at += n;
    h->class = class;
    return h;
}

static void *aligned(size_t align, size_t bytes)
{
    size_t room = sizeof(struct head) + (align > ALIGN ? align : 0);
    struct head *h = bytes > SIZE_MAX - room ? NULL : take(bytes + room);
    if (!h) {
        errno = ENOMEM;
        return NULL;
    }
    uintptr_t p = (uintptr_t)(h + 1);
    if (align > ALIGN)
        p = (p + align - 1) & ~(uintptr_t)(align - 1);
    ((struct head *)p - 1)->back = (uint32_t)(p - (uintptr_t)h); /* of an unaligned one: the head itself */
    return (void *)p;
}

static struct head *head_of(void *p)
{
    return (struct head *)((uint8_t *)p - ((struct head *)p - 1)->back);
}

PUBLIC void *malloc(size_t bytes)
{
    return aligned(ALIGN, bytes);
}

PUBLIC void free(void *p)
{
    if (!p)
        return;
    struct head *h = head_of(p);
    memcpy(h + 1, &free_list[h->class], sizeof(void *));
    free_list[h->class] = h;
}

PUBLIC void *calloc(size_t n, size_t bytes)
{
    if (bytes && n > SIZE_MAX / bytes) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = malloc(n * bytes);
    return p ? memset(p, 0, n * bytes) : NULL;
}

PUBLIC void *realloc(void *old, size_t bytes)
{
    void *p = malloc(bytes);
    if (!old || !p)
        return p;
    struct head *h = head_of(old);
    size_t had = ((size_t)1 << h->class) - (size_t)((uint8_t *)old - (uint8_t *)h);
    memcpy(p, old, had < bytes ? had : bytes);
    free(old);
    return p;
}

PUBLIC int posix_memalign(void **ret_p, size_t align, size_t bytes)
{
    void *p = aligned(align, bytes);
    if (!p)
        return ENOMEM;
    *ret_p = p;
    return 0;
}

PUBLIC void *aligned_alloc(size_t align, size_t bytes)
{
    return aligned(align, bytes);
}

PUBLIC void *memalign(size_t align, size_t bytes)
{
    return aligned(align, bytes);
}

PUBLIC void *valloc(size_t bytes)
{
    return aligned(4096, bytes);
}
