/* gate_far.c - see gate_far.h. */
#include "tests/unit/gate_far.h"

#include "client/gate/eg_buffers.h"
#include "client/pager/eg_inline.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int eg_cap_fd_reserved(long fd)
{
    (void)fd;
    return 0;
}

long eg_fd_open_own(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC);
}

struct eg_rt eg_rt;
uint8_t *far;

void eg_die(const char *what, const char *name, int err)
{
    (void)name;
    (void)err;
    ck_abort_msg("%s", what);
    abort();
}

long eg_fd_new(long nr, long a, long b, long c, long d)
{
    return eg_sys4(nr, a, b, c, d);
}

void eg_slab_free(uint8_t server, uint32_t slab, int shared)
{
    (void)server;
    (void)slab;
    (void)shared;
}

/* --- pages that are away: PROT_NONE, which the kernel's access does not get past either. Clean ones: PROT_READ. */

uint32_t brought, unpinned;

static void protect(uint64_t i, int prot, enum eg_page_state s)
{
    uint64_t at = (uint64_t)far + i * PAGE;
    if (mprotect((void *)at, PAGE, prot))
        ck_abort_msg("mprotect: %s", strerror(errno));
    eg_page_set(eg_block_get(at >> EG_BLOCK_SHIFT), (uint32_t)(at / PAGE % EG_BLOCK_PAGES), s);
}

void eg_inline_bring(uint64_t start, uint64_t end, int write)
{
    ck_assert_uint_ge(start, (uint64_t)far);
    ck_assert_uint_le(end, (uint64_t)far + PAGES * PAGE);
    for (uint64_t at = start; at < end; at += PAGE) {
        unpinned += !eg_pin_has(at / PAGE);
        brought++;
        protect((at - (uint64_t)far) / PAGE, write ? PROT_READ | PROT_WRITE : PROT_READ, write ? EG_P_DIRTY : EG_P_CLEAN);
    }
}

int eg_signals_on_alternate(uint64_t sp)
{
    (void)sp;
    return 0;
}

static uint32_t handled;

uint32_t eg_signals_handled(void)
{
    return handled;
}

long eg_signals_quiet_call(long nr, const long a[6])
{
    return eg_syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

long eg_signals_copy_in(void *to, uint64_t from, size_t bytes)
{
    return eg_sys_copy_in(to, from, bytes) == (long)bytes ? 0 : -EFAULT;
}

long eg_gate_alone(long (*fn)(void *), void *arg)
{
    return fn(arg);
}

static void everything(int prot, enum eg_page_state s)
{
    ck_assert_int_eq(mprotect(far, PAGES * PAGE, prot), 0);
    for (uint64_t i = 0; i < PAGES; i++)
        eg_page_set(eg_block_get(((uint64_t)far + i * PAGE) >> EG_BLOCK_SHIFT), (uint32_t)(((uint64_t)far / PAGE + i) % EG_BLOCK_PAGES), s);
}

void far_home(void)
{
    everything(PROT_READ | PROT_WRITE, EG_P_DIRTY);
}

void far_away(void)
{
    everything(PROT_NONE, EG_P_REMOTE);
    for (uint64_t i = 0; i < PAGES; i++)
        if (eg_pin_has((uint64_t)far / PAGE + i))
            protect(i, PROT_READ | PROT_WRITE, EG_P_DIRTY);
}

uint64_t used;

void far_start(void)
{
    memset(&eg_rt, 0, sizeof eg_rt);
    eg_rt.pid = (uint32_t)getpid();
    eg_rt.budget = 8 * 1024;
    static struct eg_pool pool;
    pool.budget_bytes = eg_rt.budget * PAGE;
    pool.sole = 1;
    eg_rt.pool = &pool;
    eg_rt.pool_fd = memfd_create("pool", MFD_CLOEXEC);
    eg_rt.armed = eg_sys_map(EG_N_BLOCKS / 8);
    uint8_t *p = mmap(NULL, PAGES * PAGE + EG_BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    far = (uint8_t *)(((uint64_t)p + EG_BLOCK_BYTES - 1) & ~(EG_BLOCK_BYTES - 1));
    ck_assert_int_eq(eg_ranges_set(&eg_rt.ranges, (uint64_t)far, (uint64_t)far + PAGES * PAGE, 0), 0);
    for (uint64_t i = (uint64_t)far; i < (uint64_t)far + PAGES * PAGE; i += EG_BLOCK_BYTES)
        eg_block_set_armed(i >> EG_BLOCK_SHIFT, 1);
    used = 1;
    far_home();
}

void *some(size_t bytes)
{
    size_t before = bytes >= 16 ? 8 : bytes;
    uint8_t *at = far + used * PAGE - before;
    used += (bytes - before + PAGE - 1) / PAGE + 2;
    ck_assert_uint_lt(used, PAGES);
    return at;
}

void *some_of(const void *what, size_t bytes)
{
    void *at = some(bytes);
    memcpy(at, what, bytes);
    return at;
}

char *some_text(const char *s)
{
    return some_of(s, strlen(s) + 1);
}
