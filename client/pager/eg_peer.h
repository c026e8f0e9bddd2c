/* eg_peer.h - processes of a run access each other's memory (process_vm_readv) where faults are served inline: then the kernel waits for no page. Who wants
 * to asks the other's pager, in its row of the pool, to bring some pages home and keep them there for a moment. Freestanding. */
#ifndef EG_PEER_H
#define EG_PEER_H

#include "client/pager/eg_pager.h"

/* eg_peer_find - the row of the process with that number, if it is another one of this run and no thread brings its pages when the kernel wants them, or
 * that is not known yet. Context: any. Returns: NULL else. */
struct eg_pool_row *eg_peer_find(uint32_t pid);
/* eg_peer_ask - [start, end) of that process comes home, writable if `write`, and stays until eg_peer_done. For few pages.
 * Context: gate stack, all signals blocked, lock not held; waits for the other process. Returns: 0; -1 nothing of it is away, or it does not answer. */
int eg_peer_ask(struct eg_pool_row *row, uint64_t start, uint64_t end, int write);
void eg_peer_done(struct eg_pool_row *row);
/* eg_peer_turn - answer who asks this process. Context: the pager's thread, lock not held. Returns: 1 something is kept; 0. */
int eg_peer_turn(void);

#endif
