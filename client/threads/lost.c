/* lost.c - a node dies. What its threads did is undone, if nobody can have seen any of it: they start again from the registers with which they went
 * out. Else the program ends with one line.
 *
 * Of a node that nobody has seen anything of (EG_NODE_CLEAN) home keeps, for every page that it may write, what was in it when it was handed out.
 * The node is SEEN, for good, with the first word of a thread of its (a call, the way home, the end), or with the first page that comes back
 * and is not what was kept: until then memory and the world are as if its threads had never run, but slowly waited at their beginning.
 * When a clean node is lost, the agent answers in its place (eg_dir_data with what was kept, eg_dir_ack) until it holds nothing: for the directory it
 * is a node that gives back pages which it has not written. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"

#include <sys/socket.h>

#define KEPT_PAGES 4096u /* a node that was handed more to write is SEEN */
#define KEPT_SLOTS (2 * KEPT_PAGES)

struct eg_kept {
    uint64_t page[KEPT_SLOTS]; /* + 1: 0 is a free place */
    uint32_t at[KEPT_SLOTS];   /* its content; 0: zeros */
    uint32_t n, n_content;
    uint8_t content[KEPT_PAGES + 1][EG_PAGE_BYTES];
};

static const uint8_t zeros[EG_PAGE_BYTES];

static uint32_t *state_of(uint32_t k)
{
    return &eg_home.node[k]->state;
}

int eg_node_seen(uint32_t k)
{
    uint32_t was = EG_NODE_CLEAN;
    return __atomic_compare_exchange_n(state_of(k), &was, EG_NODE_SEEN, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) || was == EG_NODE_SEEN;
}

/* The agent's: it cannot go on as if nothing had been seen. */
static void seen_or_lost(uint32_t k)
{
    if (!eg_node_seen(k))
        eg_home_lost(k);
}

static uint32_t place(const struct eg_kept *kept, uint64_t page)
{
    uint32_t i = (uint32_t)((page * 0x9e3779b97f4a7c15ull) >> 40) % KEPT_SLOTS;
    while (kept->page[i] && kept->page[i] != page + 1)
        i = (i + 1) % KEPT_SLOTS;
    return i;
}

/* Returns: what was in the page; NULL: it is not known. */
static const uint8_t *kept_find(uint32_t k, uint64_t page)
{
    const struct eg_kept *kept = eg_home.node[k]->kept;
    uint32_t i = kept ? place(kept, page) : 0;
    return !kept || !kept->page[i] ? NULL : kept->at[i] ? kept->content[kept->at[i]] : zeros;
}

void eg_lost_forget(uint32_t k)
{
    struct eg_kept *kept = eg_home.node[k]->kept;
    if (kept && kept->n)
        eg_sys_unmap(kept, sizeof *kept); /* zeros again */
}

void eg_lost_keep(uint32_t k, uint64_t addr, uint32_t n, const uint8_t *data)
{
    struct eg_node *node = eg_home.node[k];
    if (__atomic_load_n(state_of(k), __ATOMIC_RELAXED) == EG_NODE_SEEN) {
        eg_lost_forget(k);
        return;
    }
    if (!node->kept && !(node->kept = eg_sys_map(sizeof *node->kept))) {
        seen_or_lost(k);
        return;
    }
    struct eg_kept *kept = node->kept;
    for (uint32_t j = 0; j < n; j++) {
        uint64_t page = addr / EG_PAGE_BYTES + j;
        const uint8_t *from = data ? data + (uint64_t)j * EG_PAGE_BYTES : NULL;
        uint32_t i = place(kept, page);
        if ((!kept->page[i] && kept->n == KEPT_PAGES) || (from && !kept->at[i] && kept->n_content == KEPT_PAGES)) {
            seen_or_lost(k);
            return;
        }
        kept->n += !kept->page[i];
        kept->page[i] = page + 1;
        if (from && !kept->at[i])
            kept->at[i] = ++kept->n_content;
        if (!from)
            kept->at[i] = 0; /* a content's place is lost with that, which ends the keeping sooner */
        else if (from != kept->content[kept->at[i]])
            memcpy(kept->content[kept->at[i]], from, EG_PAGE_BYTES);
    }
}

void eg_lost_keep_home(uint32_t k, uint64_t addr, uint32_t n, uint64_t here)
{
    if (__atomic_load_n(state_of(k), __ATOMIC_RELAXED) == EG_NODE_SEEN)
        return;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t at = addr + (uint64_t)i * EG_PAGE_BYTES;
        if (here >> i & 1)
            eg_lost_keep(k, at, 1, (const uint8_t *)at);
        else if (!kept_find(k, at / EG_PAGE_BYTES)) /* it has the page already */
            seen_or_lost(k);
    }
}

void eg_lost_came(uint32_t k, uint64_t addr, uint32_t n, const uint8_t *data)
{
    if (__atomic_load_n(state_of(k), __ATOMIC_RELAXED) == EG_NODE_SEEN)
        return;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *kept = kept_find(k, addr / EG_PAGE_BYTES + i);
        if (!kept || memcmp(kept, data + (uint64_t)i * EG_PAGE_BYTES, EG_PAGE_BYTES)) {
            seen_or_lost(k);
            return;
        }
    }
}

void eg_lost_node(uint32_t k)
{
    struct eg_node *n = eg_home.node[k];
    uint32_t was = EG_NODE_CLEAN;
    if (!n->alive)
        return;
    n->alive = 0;
    if (!__atomic_compare_exchange_n(state_of(k), &was, EG_NODE_DYING, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        eg_home_lost(k);
    /* A node that only seemed to be dead finds out; and its proxies do. */
    eg_sys2(SYS_shutdown, n->fd, SHUT_RDWR);
    for (uint32_t i = 0; i < eg_home.n_threads; i++) {
        const struct eg_thread *t = eg_home.thread[i];
        int fd = __atomic_load_n(&t->fd, __ATOMIC_RELAXED);
        if (__atomic_load_n(&t->tid, __ATOMIC_RELAXED) && t->where == EG_AWAY && t->node == k && fd >= 0)
            eg_sys2(SYS_shutdown, fd, SHUT_RDWR);
    }
    eg_home.pending -= n->n_drops;
    n->n_drops = 0;
}

/* Is it on its way to node k, or will it be? */
static int comes_to(const struct eg_dir_page *p, unsigned agent)
{
    int comes = p->agent == agent;
    for (uint16_t i = p->line; i && !comes; i = eg_home.dir.wait[i].next)
        comes = eg_home.dir.wait[i].agent == agent;
    return comes;
}

/* In the place of node k: its part in what goes on with this page, one step. Returns: was there one, or will there be? */
static int page_step(uint32_t k, struct eg_dir_page *p, uint64_t page)
{
    unsigned agent = k + 1;
    uint64_t mine = 1ull << agent;
    switch (p->state) {
    case EG_DIR_HOME: return 0;
    case EG_DIR_SHARED:
    case EG_DIR_OWNED:
        if (p->state == EG_DIR_SHARED ? !(p->sharers & mine) : p->owner != agent)
            return 0;
        if (!eg_freeze_discards(page * EG_PAGE_BYTES)) /* else it is home's, empty, in a moment */
            eg_agent_ask(p, page, EG_DIR_AT_HOME, EG_SLOT_RECLAIM, 1);
        return 1;
    case EG_DIR_WAIT_ACKS:
    case EG_DIR_WAIT_GONE:
        if (p->state == EG_DIR_WAIT_ACKS ? !(p->sharers & mine) : p->owner != agent)
            return comes_to(p, agent);
        eg_agent_answer(p, page, k, NULL);
        return 1;
    default: {
        const uint8_t *kept = kept_find(k, page);
        if (p->owner != agent)
            return comes_to(p, agent);
        if (!kept)
            eg_home_lost(k);
        eg_agent_answer(p, page, k, kept);
        return 1;
    }
    }
}

int eg_lost_turn(void)
{
    int dying = 0;
    for (uint32_t k = 0; k < eg_home.n_nodes; k++) {
        if (__atomic_load_n(state_of(k), __ATOMIC_RELAXED) != EG_NODE_DYING)
            continue;
        int more = 0;
        struct eg_dir_chunk *c;
        for (uint64_t at = 0, end; (c = eg_chunk_next(&at, EG_USER_END, &end));)
            for (; at < end; at += EG_PAGE_BYTES)
                more |= page_step(k, eg_chunk_page(c, at), at / EG_PAGE_BYTES);
        if (!more)
            __atomic_store_n(state_of(k), EG_NODE_DEAD, __ATOMIC_SEQ_CST);
        dying = 1;
    }
    return dying;
}

void eg_lost_wait(uint32_t k)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    uint32_t state;
    __atomic_store_n(&eg_home.node[k]->broken, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&eg_home.kicks, 1, __ATOMIC_SEQ_CST);
    eg_home_wake();
    while ((state = __atomic_load_n(state_of(k), __ATOMIC_SEQ_CST)) != EG_NODE_DEAD) {
        if (state == EG_NODE_SEEN)
            eg_home_lost(k);
        eg_sys2(SYS_nanosleep, &moment, 0);
    }
}
