/* dir.c - the directory's protocol: rows of EG_DIR_TABLE, and what their actions are. */
#include "client/threads/eg_dir.h"

#include <errno.h>

enum when { ALWAYS, MINE, ALONE, AWAITED, LAST, OWNER, FOR_HOME };

enum action {
    QUEUE, NOTHING_NEW, SHARE, GIVE, INVALIDATE, RECALL, RECALL_COPY, NOTE_ACK, STORE_GIVE, PASS_ON, STORE_SHARE, STORE_HOME, STORE_RECALL, STORE_QUEUE, GONE, FORGOTTEN,
};

struct row {
    uint8_t state, event, when, action, next;
};

static const struct row table[] = {
#define EG_X(state, event, when, action, next) {EG_DIR_##state, EG_DIR_EV_##event, when, action, EG_DIR_##next},
    EG_DIR_TABLE(EG_X)
#undef EG_X
};

static uint64_t bit(unsigned agent)
{
    return agent == EG_DIR_AT_HOME ? 0 : 1ull << agent;
}

static int holds(const struct eg_dir_page *p, unsigned agent)
{
    switch (p->state) {
    case EG_DIR_HOME: return agent == EG_DIR_AT_HOME;
    case EG_DIR_SHARED: return agent == EG_DIR_AT_HOME || (p->sharers & bit(agent));
    default: return agent != EG_DIR_AT_HOME && p->owner == agent;
    }
}

static int is(const struct eg_dir_page *p, enum when when, unsigned agent)
{
    switch (when) {
    case MINE: return holds(p, agent);
    case ALONE: return !(p->sharers & ~bit(agent));
    case AWAITED: return (p->sharers & bit(agent)) != 0;
    case LAST: return p->sharers == bit(agent);
    case OWNER: return p->owner == agent;
    case FOR_HOME: return p->owner == agent && p->agent == EG_DIR_AT_HOME;
    default: return 1;
    }
}

/* first: before those who wait already. */
static int queue(struct eg_dir *dir, struct eg_dir_page *p, unsigned agent, unsigned slot, int write, int first)
{
    uint16_t i = dir->free, *at = &p->line;
    if (!i)
        return -ENOSPC;
    dir->free = dir->wait[i].next;
    while (*at && !first)
        at = &dir->wait[*at].next;
    dir->wait[i] = (struct eg_dir_wait){.next = *at, .slot = (uint16_t)slot, .agent = (uint8_t)agent, .write = write != 0};
    *at = i;
    return 0;
}

#define MOVES_SURELY 2

/* A writer that read the page of another one before: it moves. The last writer again, or many readers: it does not. (In SHARED, owner is the
 * last writer.) */
static void moves_note(struct eg_dir_page *p, unsigned agent)
{
    uint64_t others = p->sharers & ~bit(agent);
    if (p->owner == agent || others & (others - 1))
        p->moves = 0;
    else if (holds(p, agent) && p->moves < 3)
        p->moves++;
}

static int moves(struct eg_dir_page *p, unsigned agent)
{
    if (p->moves < MOVES_SURELY || (p->state != EG_DIR_HOME && p->state != EG_DIR_OWNED) || holds(p, agent))
        return 0;
    if (++p->n_moved == 0) {
        p->moves = MOVES_SURELY - 1;
        return 0;
    }
    return 1;
}

/* The page is `agent`'s to write. Home's way of owning is the state HOME. */
static void give(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent, unsigned slot, enum eg_dir_content content)
{
    p->sharers = 0;
    p->owner = (uint8_t)agent;
    p->state = agent == EG_DIR_AT_HOME ? EG_DIR_HOME : EG_DIR_OWNED;
    dir->ops->grant(page, agent, slot, 1, content);
}

static int step(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, enum eg_dir_event event, unsigned agent, unsigned slot,
                const void *data)
{
    const struct row *row = table, *end = table + sizeof table / sizeof *table;
    while (row < end && !(row->state == p->state && row->event == event && is(p, row->when, agent)))
        row++;
    if (row == end)
        return -EPROTO;
    int write = event == EG_DIR_EV_WRITE;
    if (write && p->state == EG_DIR_SHARED)
        moves_note(p, agent);
    switch ((enum action)row->action) {
    case QUEUE: return queue(dir, p, agent, slot, write, 0);
    case NOTHING_NEW: dir->ops->grant(page, agent, slot, row->next != EG_DIR_SHARED, EG_DIR_NO_CONTENT); return 0;
    case SHARE:
        if (p->state == EG_DIR_HOME)
            dir->ops->protect(page);
        p->state = row->next;
        p->sharers |= bit(agent);
        dir->ops->grant(page, agent, slot, 0, EG_DIR_OF_HOME);
        return 0;
    case GIVE:
        if (event == EG_DIR_EV_ACK)
            give(dir, p, page, p->agent, p->slot, p->had_copy ? EG_DIR_NO_CONTENT : EG_DIR_OF_HOME);
        else
            give(dir, p, page, agent, slot, holds(p, agent) ? EG_DIR_NO_CONTENT : EG_DIR_OF_HOME);
        return 0;
    case INVALIDATE: {
        uint64_t others = p->sharers & ~bit(agent);
        p->had_copy = holds(p, agent) != 0;
        p->agent = (uint8_t)agent;
        p->slot = (uint16_t)slot;
        p->sharers = others;
        p->state = row->next;
        for (unsigned k = 1; k < EG_DIR_AGENTS; k++)
            if (others & bit(k))
                dir->ops->invalidate(page, k);
        return 0;
    }
    case RECALL:
    case RECALL_COPY:
        p->agent = (uint8_t)agent;
        p->slot = (uint16_t)slot;
        p->state = row->next;
        dir->ops->recall(page, p->owner, row->action == RECALL_COPY);
        return 0;
    case NOTE_ACK: p->sharers &= ~bit(agent); return 0;
    case STORE_GIVE:
        dir->ops->store(page, data, 1);
        give(dir, p, page, p->agent, p->slot, EG_DIR_NO_CONTENT);
        return 0;
    case PASS_ON:
        give(dir, p, page, p->agent, p->slot, EG_DIR_INCOMING);
        return 0;
    case STORE_SHARE:
        dir->ops->store(page, data, 0);
        p->state = row->next;
        p->sharers = bit(agent) | bit(p->agent);
        dir->ops->grant(page, p->agent, p->slot, 0, p->agent == EG_DIR_AT_HOME ? EG_DIR_NO_CONTENT : EG_DIR_INCOMING);
        return 0;
    case STORE_HOME:
    case STORE_RECALL:
        dir->ops->store(page, data, 1);
        p->agent = EG_DIR_AT_HOME;
        p->state = row->next;
        if (row->action == STORE_RECALL)
            dir->ops->recall(page, agent, 0);
        return 0;
    case STORE_QUEUE:
        if (queue(dir, p, p->agent, p->slot, p->state == EG_DIR_WAIT_DATA, 1))
            return -ENOSPC;
        dir->ops->store(page, data, 1);
        p->agent = EG_DIR_AT_HOME;
        p->state = row->next;
        return 0;
    case GONE: p->state = row->next; return 0;
    case FORGOTTEN:
        *p = (struct eg_dir_page){.state = row->next};
        return 0;
    }
    return -EPROTO;
}

/* After a transaction: those in line, until one of them begins another. */
static int next(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page)
{
    int rc = 0;
    while (!rc && p->line && !eg_dir_busy(p)) {
        uint16_t i = p->line;
        struct eg_dir_wait w = dir->wait[i];
        p->line = w.next;
        dir->wait[i].next = dir->free;
        dir->free = i;
        rc = step(dir, p, page, w.write || moves(p, w.agent) ? EG_DIR_EV_WRITE : EG_DIR_EV_READ, w.agent, w.slot, 0);
    }
    return rc;
}

void eg_dir_init(struct eg_dir *dir, const struct eg_dir_ops *ops, struct eg_dir_wait *wait)
{
    dir->ops = ops;
    dir->wait = wait;
    dir->free = 0;
    for (uint32_t i = EG_DIR_WAITS - 1; i > 0; i--) {
        wait[i].next = dir->free;
        dir->free = (uint16_t)i;
    }
}

int eg_dir_ask(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent, unsigned slot, int write)
{
    return step(dir, p, page, write || moves(p, agent) ? EG_DIR_EV_WRITE : EG_DIR_EV_READ, agent, slot, 0);
}

int eg_dir_ack(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent)
{
    int rc = step(dir, p, page, EG_DIR_EV_ACK, agent, 0, 0);
    return rc ? rc : next(dir, p, page);
}

int eg_dir_forget(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page)
{
    return step(dir, p, page, EG_DIR_EV_FORGET, EG_DIR_AT_HOME, 0, 0);
}

int eg_dir_data(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent, const void *data)
{
    int rc = step(dir, p, page, EG_DIR_EV_DATA, agent, 0, data);
    return rc ? rc : next(dir, p, page);
}

int eg_dir_given(struct eg_dir *dir, struct eg_dir_page *p, uint64_t page, unsigned agent, const void *data, int crossed)
{
    return step(dir, p, page, crossed ? EG_DIR_EV_CROSSED : EG_DIR_EV_GIVEN, agent, 0, data);
}
