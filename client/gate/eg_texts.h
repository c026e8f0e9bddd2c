/* eg_texts.h - the sites of a text, remembered for the run's other processes and, what its first one found, for later runs: to find them takes
 * milliseconds, and a shell script starts thousands of processes. Freestanding. */
#ifndef EG_TEXTS_H
#define EG_TEXTS_H

#include "client/gate/eg_gate.h"

struct eg_text_site {
    uint32_t at;   /* the syscall, from the text's start */
    int16_t nr;    /* -1: not constant */
    uint8_t before, after;
    uint8_t state;
    uint8_t pad[3];
    uint32_t sum; /* of the bytes that were looked at: eg_text_site_sum */
};

/* eg_texts_find - Context: any. Returns: 1 and the sites (in the pool file, for good), also when there are none; 0: not known. */
int eg_texts_find(const struct eg_gate_text *text, const struct eg_text_site **ret_sites, uint32_t *ret_n);
/* eg_texts_room - room for the sites of a text that is not known yet. Returns: NULL: no room, or nothing is to be remembered.
 * eg_texts_keep - they are filled in. */
struct eg_text_site *eg_texts_room(const struct eg_gate_text *text, uint32_t n);
void eg_texts_keep(struct eg_text_site *sites);
/* eg_text_site_sum - of what stands at the site: from before on, to the end of what is replaced. Pre: all of it, and two bytes at `at`, can be read. */
uint32_t eg_text_site_sum(const uint8_t *at, uint8_t before, uint8_t after);
/* eg_texts_save - what this process has found out goes to the user's file, from which later runs begin. Nobody else has been in the pool file yet: what a
 * program writes there, which may have become another user by then, must not get into other runs. own: "PID:PATH", from this process's environment. No error
 * stops anything: the next run finds out again. Context: start-up, the run's first process, before the program. */
void eg_texts_save(const char *own);

#endif
