/* eg_texts.h - the sites of a text, remembered for the run's other processes: to find them takes milliseconds, and a shell script starts thousands of
 * processes. Freestanding. */
#ifndef EG_TEXTS_H
#define EG_TEXTS_H

#include "client/gate/eg_gate.h"

struct eg_text_site {
    uint32_t at;   /* the syscall, from the text's start */
    int16_t nr;    /* -1: not constant */
    uint8_t before, after;
    uint8_t state;
    uint8_t pad[3];
};

/* eg_texts_find - Context: any. Returns: 1 and the sites (in the pool file, for good), also when there are none; 0: not known. */
int eg_texts_find(const struct eg_gate_text *text, const struct eg_text_site **ret_sites, uint32_t *ret_n);
/* eg_texts_room - room for the sites of a text that is not known yet. Returns: NULL: no room, or nothing is to be remembered.
 * eg_texts_keep - they are filled in. */
struct eg_text_site *eg_texts_room(const struct eg_gate_text *text, uint32_t n);
void eg_texts_keep(struct eg_text_site *sites);

#endif
