/* eg_agent.h - what the agent's rooms (agent.c, chunk.c, far.c, lost.c, start.c) share. Freestanding. */
#ifndef EG_AGENT_H
#define EG_AGENT_H

#include "client/pager/eg_capture.h"
#include "client/threads/eg_home.h"

/* --- agent.c --- */
/* eg_agent_main - the agent's turns, for ever. Context: a thread of the runtime's own. */
void eg_agent_main(void);
/* eg_agent_ask - the directory is asked for a page on behalf of an agent. Context: agent. */
void eg_agent_ask(struct eg_dir_page *p, uint64_t page, unsigned agent, unsigned slot, int write);
/* eg_agent_answer - a lost node's answer for one page: the content (to a recall), or NULL (to an invalidation). Context: agent. */
void eg_agent_answer(struct eg_dir_page *p, uint64_t page, uint32_t node, const uint8_t *data);
/* eg_agent_discards - does a memory call keep the page, and leave nothing of it? Context: agent. */
int eg_agent_discards(uint64_t addr);
extern const struct eg_dir_ops eg_agent_ops;

/* --- chunk.c --- */
/* eg_chunk_find - Context: any. Returns: the address's chunk; NULL: nothing of it was ever away. */
struct eg_dir_chunk *eg_chunk_find(uint64_t addr);
/* eg_chunk_get - the same, made if need be. Context: agent. */
struct eg_dir_chunk *eg_chunk_get(uint64_t addr);
/* eg_chunk_next - the first chunk with pages of [*at, hi). Context: any. Returns: it, NULL (none); *at: its first address in there, ret_end: where
 * its part ends. */
struct eg_dir_chunk *eg_chunk_next(uint64_t *at, uint64_t hi, uint64_t *ret_end);
static inline struct eg_dir_page *eg_chunk_page(struct eg_dir_chunk *c, uint64_t addr)
{
    return &c->page[addr / EG_PAGE_BYTES % EG_BLOCK_PAGES];
}

/* --- far.c: all with the pager's lock, which the agent takes for its turn --- */
/* eg_far_block - Context: agent. Returns: the block, if the pager looks after this page; else NULL: the page is here, or nowhere. */
struct eg_block *eg_far_block(uint64_t addr, uint32_t *ret_i);
/* eg_far_away - is the content on a memory server, or on its way? Context: agent. */
int eg_far_away(uint64_t addr);
/* eg_far_bring - the page comes home, if it is on a server. Context: agent. */
void eg_far_bring(uint64_t addr);
/* eg_far_gone - home's copies have gone to a worker. Context: agent. */
void eg_far_gone(uint64_t addr, uint32_t n);
/* eg_far_dirty - they came back, or may be written here: the server's copy is not good any more. Context: agent. */
void eg_far_dirty(uint64_t addr, uint32_t n);
/* eg_far_keeps - must the pager leave the page here? Context: whoever evicts. */
int eg_far_keeps(uint64_t page);
/* eg_far_reclaim - workers give up what the pager asked for. Context: agent. Returns: was there anything? */
int eg_far_reclaim(void);

/* --- lost.c --- */
/* eg_lost_keep - node k may write n pages from now on, in which data is (NULL: zeros). Context: agent. */
void eg_lost_keep(uint32_t k, uint64_t addr, uint32_t n, const uint8_t *data);
/* eg_lost_keep_home - the same, with home's copies; here: bit per page that is here; the others the node has already. Context: agent. */
void eg_lost_keep_home(uint32_t k, uint64_t addr, uint32_t n, uint64_t here);
/* eg_lost_came - content of pages comes back from node k, and will be seen. Context: agent. */
void eg_lost_came(uint32_t k, uint64_t addr, uint32_t n, const uint8_t *data);
/* eg_lost_node - node k is gone. Context: agent, anywhere. */
void eg_lost_node(uint32_t k);
/* eg_lost_forget - nothing is kept of what node k may write. Context: agent, fork child. */
void eg_lost_forget(uint32_t k);
/* eg_lost_turn - what is left of lost nodes goes. Context: agent, between messages. Returns: was there anything? */
int eg_lost_turn(void);

#endif
