#ifndef EG_VERBS_MALLOC_H
#define EG_VERBS_MALLOC_H

#include <stddef.h>

/* eg_verbs_malloc_from - where memory comes from, from now on (NULL: as before); at the start it is mapped. */
void eg_verbs_malloc_from(void *(*map)(size_t bytes));
/* eg_verbs_malloc_used - all that was ever given out, and with what is still free behind it. Returns: its start, or NULL when it is not in one
 * piece any more. */
void *eg_verbs_malloc_used(size_t *ret_bytes, size_t *ret_all_bytes);

#endif
