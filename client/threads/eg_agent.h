/* eg_agent.h - what the agent's rooms share. Freestanding. */
#ifndef EG_AGENT_H
#define EG_AGENT_H

#include "client/pager/eg_capture.h"
#include "client/threads/eg_home.h"

/* --- agent.c --- */
extern struct eg_agent {
    uint64_t now_ns;         /* of this turn */
    struct eg_thread *asking; /* whose request the directory looks at just now; NULL */
    const uint8_t *incoming; /* the page that has just come; NULL: none */
    uint8_t asked;           /* a worker's thread has, since quiet.c looked: what that had begun does not count */
    uint8_t absent;          /* what is being asked for is nowhere yet: zeros */
} eg_agent;
/* eg_agent_main - the agent's turns, for ever. Context: a thread of the runtime's own. */
void eg_agent_main(void);
/* eg_agent_ask - the directory is asked for a page on behalf of an agent. Context: agent. */
void eg_agent_ask(struct eg_dir_page *p, uint64_t page, unsigned agent, unsigned slot, int write);
/* eg_agent_answer - a lost node's answer for one page: the content (to a recall), or NULL (to an invalidation, or it was given). Context: agent. */
void eg_agent_answer(struct eg_dir_page *p, uint64_t page, uint32_t node, const uint8_t *data);
/* eg_agent_get - a worker's thread asks for a page. wanted: how many, from this one on, it is known to want; 0: not known. Context: agent. */
void eg_agent_get(uint32_t node, unsigned slot, uint64_t addr, int write, uint32_t wanted);
/* eg_agent_bring_left - what nodes without threads have of [lo, hi) of a chunk is asked home. Context: agent. Returns: 1: all of it is there. */
int eg_agent_bring_left(struct eg_dir_chunk *c, uint64_t lo, uint64_t hi);
/* eg_agent_is_wanted - would an agent have to ask for the page, and could it be answered without waiting behind others? Context: agent. */
int eg_agent_is_wanted(const struct eg_dir_page *p, unsigned agent, int write);

/* --- send.c --- */
/* eg_send_flush - what waits for node k goes, as far as there is room. Context: agent. */
void eg_send_flush(uint32_t k);
/* eg_send_room - room for a message to node k, which the caller writes there; eg_send_flush sends it. Context: agent. */
uint8_t *eg_send_room(uint32_t k, uint64_t bytes);
/* eg_send_say - a message without content, to node k. Context: agent. */
void eg_send_say(uint32_t k, enum eg_co_type type, unsigned flags, unsigned slot, uint32_t n, uint64_t addr);
/* eg_send_grant - pages that no thread waits for; data: NULL: none. Context: agent. */
void eg_send_grant(uint32_t k, struct eg_co m, const void *data);
/* eg_send_slot - an answer to a thread that waits for a page, on its own stream. Context: agent; waits for room, at most 10 s. */
void eg_send_slot(uint32_t k, unsigned slot, struct eg_co m, const void *data, uint64_t bytes);
/* eg_send_deny - the thread cannot have the page there. Context: agent. */
void eg_send_deny(uint32_t k, unsigned slot, uint64_t addr);

/* Who has the slot of a node now, or had it last; NULL: nobody. Context: agent. */
static inline struct eg_thread *eg_slot_thread(const struct eg_node *n, unsigned slot)
{
    return slot < EG_THREADS ? __atomic_load_n(&n->slot[slot], __ATOMIC_ACQUIRE) : NULL;
}

/* --- near.c --- */
/* eg_near_kick - the thread, in this slot of node k, is to come home. Context: agent. */
void eg_near_kick(struct eg_thread *t, uint32_t k, unsigned slot);
/* eg_near_turn - looks how much each thread runs, now and then; one may go where there is more room. Context: agent, each turn. */
void eg_near_turn(void);
/* eg_near_asks - a thread asks for that page. Context: agent. */
void eg_near_asks(struct eg_shares *s, uint64_t addr);
/* eg_near_visit - a thread at home wants that page, which node k has. Context: agent, before it is given the page. */
void eg_near_visit(uint32_t tid, uint32_t k, uint64_t addr);
/* eg_near_waited - a thread at home waited so long for a page. by: a node and 1, who had it; 0: home. Context: agent. */
void eg_near_waited(uint32_t tid, unsigned by, uint64_t ns);
/* eg_near_answered - a thread's request is answered: what that cost it. Context: agent. */
void eg_near_answered(struct eg_thread *t, uint32_t k, unsigned slot);

/* --- quiet.c --- */
/* eg_quiet_turn - a step towards a program of which nothing is away. Context: agent, each turn. *work is set when there is more to do at once.
 * Returns: when to look again (ns); 0: nothing is waited for. */
uint64_t eg_quiet_turn(int *work);
/* eg_quiet_due - threads have come home since the last turn. eg_quiet_drops - read-only copies are asked to go. Context: agent, before it sleeps; agent. */
int eg_quiet_due(void);
int eg_quiet_drops(void);

/* --- summon.c --- */
/* eg_summon - the thread, which waits at home for a page, is to make its visit (eg_home.visit) from there. Context: agent, before it is given the page.
 * Returns: 1; 0: it cannot just now. */
int eg_summon(uint32_t tid);

/* --- sleep.c --- */
/* eg_sleep_cover - a thread of node k would sleep on the futex at addr, there. Context: agent. */
void eg_sleep_cover(uint32_t k, unsigned slot, uint64_t addr);
/* eg_sleep_pass - node k had no use for a wake. Context: agent. */
void eg_sleep_pass(uint32_t k, uint64_t addr);
/* eg_sleep_slept - a thread of node k sleeps for such a part of its time; more: now, until it says something else. Context: agent. */
void eg_sleep_slept(uint32_t k, unsigned slot, uint32_t percent, int more);
/* eg_sleep_percent - of its time a thread sleeps where it is, as far as is known. Context: agent. */
uint32_t eg_sleep_percent(const struct eg_thread *t);
/* eg_sleep_turn - stand-ins that were woken: their nodes are told. Context: agent. Returns: was there one? */
int eg_sleep_turn(void);

/* --- grant.c --- */
extern const struct eg_dir_ops eg_agent_ops;
/* eg_grant_do - grants that the directory decided are done. Context: agent, before it asks the directory for something of another kind. */
void eg_grant_do(void);
/* eg_grant_stores - content that came for home is put there. Context: agent. */
void eg_grant_stores(void);
/* eg_grant_recalls - recalls that the directory decided are sent, after the grants. Context: agent, at the end of its turn. */
void eg_grant_recalls(void);
#define EG_LOOK_PAGES 64u
/* eg_agent_here - Context: agent. Returns: which of n pages (EG_LOOK_PAGES at most) are here, or in the kernel's swap, a bit each. */
uint64_t eg_agent_here(uint64_t addr, uint32_t n);

/* --- spare.c --- */
/* eg_spare_holds - content of pages went to node k. fixed: read-only copies that the directory does not count. Context: agent. */
void eg_spare_holds(uint32_t k, uint64_t addr, uint32_t n_pages, int fixed);
/* eg_spare_gave - node k has so many pages less. Context: agent. */
void eg_spare_gave(uint32_t k, uint32_t n_pages);
/* eg_spare_dropped - node k has acknowledged that so many read-only copies are gone. Context: agent. Returns: 1; 0: it was not asked to. */
int eg_spare_dropped(uint32_t k, uint32_t n_pages);
/* eg_spare_full - does node k hold so much more than it wants that its threads have to wait until it has given up what it was asked for? Context: agent. */
int eg_spare_full(uint32_t k);
/* eg_spare_zeros - so many pages of fresh memory may go to node k at once. Context: agent. */
uint32_t eg_spare_zeros(uint32_t k);
/* eg_spare_turn - nodes that hold too much are asked to give up what went there first. Context: agent. Returns: was there anything? */
int eg_spare_turn(void);

/* --- ahead.c --- */
#define EG_AHEAD_STREAMS 4
/* One thread's accesses in order, several streams of them at once. */
struct eg_reader {
    struct {
        uint64_t next;
        uint32_t window, used; /* used: when, in faults of this reader */
        uint8_t upgrade, crossed;
    } stream[EG_AHEAD_STREAMS];
    uint32_t n_faults;
};
#define EG_AHEAD_MAX (2 * EG_CO_MAX_PAGES)
/* eg_ahead - upgrade: the asker wants to write what it has; here: it has it so, or it is coming. Context: agent. Returns: how many pages to take, with
 * this one: `most`, at most. */
uint32_t eg_ahead(struct eg_reader *r, struct eg_dir_chunk *c, uint64_t page, uint32_t most, int upgrade, int here);
/* eg_ahead_more - from `page` on n pages went instead of the `window` that eg_ahead said. Context: agent. */
void eg_ahead_more(struct eg_reader *r, uint64_t page, uint32_t window, uint32_t n);
/* eg_ahead_join - pages from page + `from` to page + n - 1 go together with those before them. Context: agent. Returns: n, or less: somebody else
 * begins there. */
uint32_t eg_ahead_join(struct eg_dir_chunk *c, uint64_t page, uint32_t from, uint32_t n, int past_others);

/* --- fault.c --- */
#define EG_ZERO_AHEAD 16u /* pages of fresh memory: neighbours will be wanted */
/* eg_fault_home - a thread at home waits for a page. Context: agent. */
void eg_fault_home(const struct uffd_msg *m);
/* eg_fault_granted - home may read, or write, the page. slot: what for. stored: its content has just come, and wakes who waits for it. Context: agent. */
void eg_fault_granted(uint64_t addr, unsigned slot, int write, int stored);
/* eg_fault_held_until - Context: agent. Returns: until when (ns) home keeps the page, because an instruction needs it; 0: it need not. */
uint64_t eg_fault_held_until(uint64_t page);
/* eg_fault_unpark - threads that wait for the end of a memory call try again. Context: agent. */
void eg_fault_unpark(void);

/* --- freeze.c --- */
/* eg_freeze_look - what does a memory call keep? Context: agent, at the beginning of its turn. */
void eg_freeze_look(void);
/* eg_freeze_keeps - did a memory call keep the page when this turn began? Context: agent. */
int eg_freeze_keeps(uint64_t addr);
/* eg_freeze_discards - and does it leave nothing of it? Context: agent. */
int eg_freeze_discards(uint64_t addr);
/* eg_freeze_drops - have the nodes been asked to drop it already? Context: agent. */
int eg_freeze_drops(void);
/* eg_freeze_drop - all nodes are to drop the range; eg_home.pending counts their answers. Context: agent. */
void eg_freeze_drop(uint64_t lo, uint64_t hi);
/* eg_freeze_turn - what a memory call asks for, a step of it. Context: agent. Returns: was anything done? */
int eg_freeze_turn(void);
/* eg_freeze_due - is there something to be done for a memory call, or after it, that no message brings? Context: agent, before it sleeps. */
int eg_freeze_due(void);

/* --- chunk.c --- */
/* eg_chunk_find - Context: any. Returns: the address's chunk; NULL: nothing of it was ever away. */
struct eg_dir_chunk *eg_chunk_find(uint64_t addr);
/* eg_chunk_unwatch - [lo, hi) of it is registered with userfaultfd no more; who waited for a page there tries again. Context: agent. Returns: 1; 0: some of it still may be (no
 * more mappings may be made, for one). */
int eg_chunk_unwatch(struct eg_dir_chunk *c, uint64_t lo, uint64_t hi);
/* eg_chunk_any_fixed - was any page of it given away read-only? Context: agent. */
int eg_chunk_any_fixed(const struct eg_dir_chunk *c);
/* eg_mark, eg_mark_set - a page's bit among those of its chunk. Context: agent; eg_mark also as eg_home_untouched. */
static inline int eg_mark(const uint64_t *marks, uint64_t page)
{
    return __atomic_load_n(&marks[page % EG_BLOCK_PAGES / 64], __ATOMIC_RELAXED) >> page % 64 & 1;
}
static inline void eg_mark_set(uint64_t *marks, uint64_t page, int on)
{
    uint64_t bit = 1ull << page % 64, *word = &marks[page % EG_BLOCK_PAGES / 64];
    __atomic_store_n(word, on ? *word | bit : *word & ~bit, __ATOMIC_RELAXED);
}
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
