/* grant.c - what the directory decides is gathered, run by run, and done at once: its state has changed, and nobody else looks before it is done. */
#include "client/threads/eg_agent.h"

#include "client/pager/eg_pager.h"
#include "proto/eg_uffd.h"

#include <errno.h>

/* Content that comes and is to be home's. */
static struct {
    uint64_t addr;
    uint32_t n;
    uint8_t write;
    const uint8_t *data;
} stores;

/* Some of it is no longer mapped: a call that failed may have unmapped it; or it was a lost node's. The rest is stored all the same. */
static int store_each(void)
{
    for (uint32_t i = 0; i < stores.n; i++) {
        uint64_t offset = (uint64_t)i * EG_PAGE_BYTES, addr = stores.addr + offset;
        int rc = eg_uffd_copy(addr, stores.data + offset, EG_PAGE_BYTES, !stores.write);
        if (rc && rc != -EEXIST && !eg_freeze_discards(addr)) /* -EEXIST: stored at the first try */
            return rc;
    }
    return 0;
}

void eg_grant_stores(void)
{
    uint64_t bytes = (uint64_t)stores.n * EG_PAGE_BYTES;
    if (!stores.n)
        return;
    uint32_t n = stores.n;
    if (eg_home.far && eg_rt.active)
        eg_evict_room(n);
    int rc = eg_uffd_copy(stores.addr, stores.data, bytes, !stores.write);
    if (rc == -ENOENT)
        rc = store_each();
    if (rc)
        eg_die("cannot put a page back that was on a compute node", NULL, rc);
    EG_COUNT(pages_coherent_fetched, n);
    eg_far_dirty(stores.addr, n);
    stores.n = 0;
}

uint64_t eg_agent_here(uint64_t addr, uint32_t n)
{
    uint64_t entry[EG_LOOK_PAGES], bits = 0;
    long got = eg_sys4(SYS_pread64, eg_rt.pagemap_fd, entry, n * 8, addr / EG_PAGE_BYTES * 8);
    if (got != (long)(n * 8))
        eg_die("cannot read /proc/self/pagemap", NULL, 0);
    for (uint32_t i = 0; i < n; i++)
        bits |= (uint64_t)((entry[i] >> 62) != 0) << i;
    return bits;
}

/* Pages that go to one worker in one message. */
static struct {
    uint64_t addr;
    uint32_t n, node;
    uint16_t slot;
    uint8_t flags, take, protect, on;
    const uint8_t *data; /* NULL: home's copy */
} batch;
static uint8_t protected; /* the page was home's alone */

void eg_grant_do(void)
{
    if (!batch.on)
        return;
    uint64_t bytes = (uint64_t)batch.n * EG_PAGE_BYTES;
    int payload = !(batch.flags & (EG_CO_F_ZERO | EG_CO_F_NODATA));
    struct eg_co m = {.type = EG_CO_GRANT, .flags = batch.flags, .slot = EG_SLOT_NOBODY, .n = batch.n, .addr = batch.addr};
    const void *data = batch.data ? batch.data : (const void *)batch.addr;
    batch.on = 0;
    eg_grant_stores();
    if (batch.protect && eg_uffd_protect(batch.addr, batch.addr + bytes, 1))
        eg_die("cannot protect a page that goes to a compute node", NULL, 0);
    if (payload) {
        __atomic_fetch_add(&eg_home.node[batch.node]->config->pages_sent, batch.n, __ATOMIC_RELAXED);
        EG_COUNT(pages_coherent_fetched, batch.n);
    }
    if (!(batch.flags & EG_CO_F_NODATA))
        eg_spare_holds(batch.node, batch.addr, batch.n, 0);
    if (batch.flags & EG_CO_F_EXCLUSIVE) {
        if (batch.flags & EG_CO_F_ZERO)
            eg_lost_keep(batch.node, batch.addr, batch.n, NULL);
        else if (batch.data)
            eg_lost_keep(batch.node, batch.addr, batch.n, batch.data);
        else
            eg_lost_keep_home(batch.node, batch.addr, batch.n, eg_home.node[batch.node]->state == EG_NODE_SEEN ? 0 : eg_agent_here(batch.addr, batch.n));
    }
    if (batch.take) { /* before the new owner can write: nobody here may read what was */
        static uint8_t copy[EG_CO_MAX_PAGES * EG_PAGE_BYTES];
        if (payload && !batch.data) {
            memcpy(copy, data, bytes);
            data = copy;
        }
        if (eg_sys_discard(batch.addr, bytes))
            eg_die("cannot take a page away that goes to a compute node", NULL, 0);
    }
    if (batch.flags & EG_CO_F_EXCLUSIVE && !batch.data)
        eg_far_gone(batch.addr, batch.n);
    if (batch.slot != EG_SLOT_NOBODY)
        eg_send_slot(batch.node, batch.slot, m, data, payload ? bytes : 0);
    else
        eg_send_grant(batch.node, m, data);
}

static void batch_add(uint64_t addr, uint32_t node, unsigned slot, unsigned flags, int take, int protect, const uint8_t *data)
{
    if (batch.on && (batch.node != node || batch.flags != flags || batch.take != take || batch.protect != protect || (slot != EG_SLOT_NOBODY && batch.slot != EG_SLOT_NOBODY) ||
                     batch.addr + (uint64_t)batch.n * EG_PAGE_BYTES != addr || batch.n == eg_co_most_pages(flags) ||
                     (data ? batch.data + (uint64_t)batch.n * EG_PAGE_BYTES != data : batch.data != NULL)))
        eg_grant_do();
    if (!batch.on) {
        batch.on = 1;
        batch.addr = addr;
        batch.n = 0;
        batch.node = node;
        batch.slot = (uint16_t)slot;
        batch.flags = (uint8_t)flags;
        batch.take = (uint8_t)take;
        batch.protect = (uint8_t)protect;
        batch.data = data;
    }
    if (slot != EG_SLOT_NOBODY)
        batch.slot = (uint16_t)slot;
    batch.n++;
}

/* Pages that one worker is asked for: after the grants that were decided before. */
static struct {
    uint64_t addr;
    uint32_t n, node;
    uint8_t type, flags;
} recalls;

void eg_grant_recalls(void)
{
    eg_grant_do();
    if (recalls.n)
        eg_send_say(recalls.node, recalls.type, recalls.flags, EG_SLOT_NOBODY, recalls.n, recalls.addr);
    recalls.n = 0;
}

static void recalls_add(uint64_t addr, uint32_t node, enum eg_co_type type, unsigned flags)
{
    if (eg_agent.asking)
        eg_agent.asking->shares.from[node]++;
    if (recalls.n && (recalls.node != node || recalls.type != type || recalls.flags != flags || recalls.n == EG_CO_MAX_PAGES ||
                      recalls.addr + (uint64_t)recalls.n * EG_PAGE_BYTES != addr))
        eg_grant_recalls();
    if (!recalls.n) {
        recalls.addr = addr;
        recalls.node = node;
        recalls.type = (uint8_t)type;
        recalls.flags = (uint8_t)flags;
    }
    recalls.n++;
}

/* Is it one of the pages that have just come? */
static int stored(uint64_t addr, int write)
{
    if (!stores.n || addr < stores.addr || addr >= stores.addr + (uint64_t)stores.n * EG_PAGE_BYTES)
        return 0;
    if (write && !stores.write)
        eg_grant_stores();
    return stores.n != 0;
}

static void op_grant(uint64_t page, unsigned agent, unsigned slot, int write, enum eg_dir_content content)
{
    uint64_t addr = page * EG_PAGE_BYTES;
    int was_home = protected;
    protected = 0;
    if (agent == EG_DIR_AT_HOME) {
        eg_fault_granted(addr, slot, write, stored(addr, write));
        return;
    }
    unsigned flags = (write ? EG_CO_F_EXCLUSIVE : 0u) | (content == EG_DIR_NO_CONTENT ? EG_CO_F_NODATA : eg_agent.absent ? EG_CO_F_ZERO : 0u);
    int of_home = content != EG_DIR_INCOMING && !eg_agent.absent;
    /* A new owner: home's own copy goes, if it has one. */
    batch_add(addr, agent - 1, slot, flags, write && of_home, of_home && content == EG_DIR_OF_HOME && (was_home || write),
              content == EG_DIR_INCOMING ? eg_agent.incoming : NULL);
}

static void op_protect(uint64_t page)
{
    (void)page;
    protected = 1; /* the grant that follows does it, run by run */
}

static void op_invalidate(uint64_t page, unsigned agent)
{
    EG_COUNT(invalidations, 1);
    recalls_add(page * EG_PAGE_BYTES, agent - 1, EG_CO_INVALIDATE, 0);
}

static void op_recall(uint64_t page, unsigned agent, int keep)
{
    recalls_add(page * EG_PAGE_BYTES, agent - 1, EG_CO_RECALL, keep ? EG_CO_F_KEPT : 0);
}

static void op_store(uint64_t page, const void *data, int write)
{
    uint64_t addr = page * EG_PAGE_BYTES;
    if (stores.n && (stores.addr + (uint64_t)stores.n * EG_PAGE_BYTES != addr || stores.write != write ||
                     stores.data + (uint64_t)stores.n * EG_PAGE_BYTES != (const uint8_t *)data))
        eg_grant_stores();
    if (!stores.n) {
        stores.addr = addr;
        stores.write = (uint8_t)write;
        stores.data = data;
    }
    stores.n++;
}

const struct eg_dir_ops eg_agent_ops = {op_grant, op_protect, op_invalidate, op_recall, op_store};
