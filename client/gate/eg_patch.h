/* eg_patch.h - what the two ways of patching share: the named calls of libc (patch.c) and every call of anybody (patch_all.c). Freestanding. */
#ifndef EG_PATCH_H
#define EG_PATCH_H

#include "proto/eg_sys.h"

#include <stddef.h>
#include <stdint.h>

#define EG_PAGE 4096ul

/* Zeroed memory within a jump's reach of the text; NULL: none. */
uint8_t *eg_patch_near_memory(uint8_t *text, size_t text_bytes, size_t bytes);
/* Of EG_GATE_CALLS; -1: not one of them. */
int eg_patch_number_index(uint32_t nr);
/* mov $nr,%eax at p, as far as the bytes around tell; p >= text. */
int eg_patch_is_number(const uint8_t *p, const uint8_t *text);

static inline uint8_t *eg_patch_put(uint8_t *at, const void *code, size_t n)
{
    memcpy(at, code, n);
    return at + n;
}

static inline uint8_t *eg_patch_put_jump(uint8_t *at, const uint8_t *to)
{
    int32_t rel = (int32_t)(to - (at + 5));
    *at = 0xe9;
    memcpy(at + 1, &rel, 4);
    return at + 5;
}

/* lea -128(%rsp),%rsp; call *entry(%rip); lea 128(%rsp),%rsp. gate.S counts on what follows: 13 bytes behind the call is the way for a call that
 * is made in place; it begins with the same lea. */
uint8_t *eg_patch_put_call(uint8_t *at, void *const *entry);
uint8_t *eg_patch_put_red_zone_back(uint8_t *at);

#endif
