/* area.h - memory of which each page says what it is: for programs that go on with the same memory as another user, after a fork, with other descriptors.
 * Include first: strerrorname_np is wanted. */
#ifndef AREA_H
#define AREA_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)

/* One line, and the end of this process, with status 1. */
static inline void wrong(const char *what, long value)
{
    printf("%s: %ld, %s\n", what, value, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

static inline void area_fill(uint64_t *at, size_t bytes, uint64_t with)
{
    for (size_t i = 0; i < bytes / 8; i += PAGE / 8)
        at[i] = with + i;
}

static inline uint64_t *area_new(size_t bytes, uint64_t with)
{
    uint64_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        wrong("mmap", (long)bytes);
    area_fill(at, bytes, with);
    return at;
}

static inline int area_has(const uint64_t *at, size_t bytes, uint64_t with)
{
    for (size_t i = 0; i < bytes / 8; i += PAGE / 8)
        if (at[i] != with + i)
            return 0;
    return 1;
}

#endif
