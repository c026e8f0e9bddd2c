/* endgame.h - what a program may ask libendgame. Nothing here is needed: an unmodified program runs as well. */
#ifndef ENDGAME_H
#define ENDGAME_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* endgame_active - is this process under `endgame run`, its memory captured?
 * Context: any thread, any time after the program's constructors began; never blocks.
 * Returns: 1 or 0 (not started under `endgame run`, or the runtime declined and said why on stderr). */
int endgame_active(void);

/* endgame_version - the library's version, such as "0.1.0".
 * Context: any. Owns: a static string. */
const char *endgame_version(void);

/* How memory is used, for endgame_advise. The advice lasts as long as the mapping, but for PREFETCH and EVICT, which are done once. */
enum endgame_advice {
    ENDGAME_NORMAL = 0,      /* takes back RANDOM, SEQUENTIAL, EVICT_FIRST and PIN */
    ENDGAME_RANDOM = 1,      /* nothing is read ahead; as MADV_RANDOM */
    ENDGAME_SEQUENTIAL = 2,  /* read ahead at once, what lies behind leaves first; as MADV_SEQUENTIAL */
    ENDGAME_EVICT_FIRST = 3, /* leaves before anything else; as MADV_COLD, but for good */
    ENDGAME_PIN = 4,         /* stays local, as far as the budget allows: at most half of it; not a fork child's */
    ENDGAME_PREFETCH = 5,    /* comes home soon, in the background; as MADV_WILLNEED */
    ENDGAME_EVICT = 6        /* leaves now; as MADV_PAGEOUT */
};

/* endgame_advise - say how [addr, addr+bytes) is used. No result changes by it, only speed.
 * Context: any thread; does not wait for memory servers, but for ENDGAME_EVICT.
 * Pre:     addr is a multiple of 4096; bytes are rounded up. Memory that is not captured (files, shared memory, stacks) is passed over.
 * Returns: 0; -EINVAL (addr, or no such advice); -ENOMEM (so much cannot be pinned); -ENOSYS (not under `endgame run`: nothing to do). */
int endgame_advise(void *addr, size_t bytes, enum endgame_advice advice);

/* endgame_place - keep [addr, addr+bytes) on the given memory server (0: the first one named on the command line), as far as it has room.
 * Concerns what leaves from now on; best said before the memory is used, for whole multiples of 2 MiB.
 * Context, Pre: as endgame_advise. Returns: 0; -EINVAL (addr, or no such server); -ENOSYS. */
int endgame_place(void *addr, size_t bytes, unsigned server);

#ifdef __cplusplus
}
#endif

#endif
