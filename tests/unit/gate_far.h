/* gate_far.h - captured memory of which pages are away, for the gate's buffers: protected, so that the kernel's access does not get past that either. */
#ifndef GATE_FAR_H
#define GATE_FAR_H

#include "tests/unit/unit_suite.h"

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul
#define PAGES 8192ul /* of the program's captured memory */

extern uint8_t *far; /* the captured memory */
extern uint64_t used; /* pages of it that some() has given */
extern uint32_t brought, unpinned; /* pages that came for a call; those of them that were not pinned */

void far_start(void);
/* far_home - all is here. far_away - all leave that may. */
void far_home(void);
void far_away(void);

/* some - somewhere in the captured memory, across two pages when it is long enough, at least one page away from everything else. */
void *some(size_t bytes);
void *some_of(const void *what, size_t bytes);
char *some_text(const char *s);

#endif
