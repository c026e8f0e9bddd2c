/* pager.c - the pager's thread: reads faults, serves them, collects completions, evicts while nobody waits.
 *
 * It spins for a while after each event before it sleeps: waking a sleeping thread costs more than a page. The spin yields the
 * processor on every turn, so it takes nothing from a program that wants to run. */
#include "client/pager/eg_inline.h"
#include "client/pager/eg_peer.h"
#include "client/pager/eg_whole.h"
#include "proto/eg_uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define STACK_BYTES (64u << 10)
#define EVENTS 16
#define SPIN_NS 100000u
#define SPIN_POLLS 16 /* looks for completions before the processor is given away */
#define YIELD_SLOW_NS 300000u
#define BUSY_NS 50000000u
#define NAP_NS 1000000u
#define BESIDE_NAP_NS 5000000
#define SPIN_MAX_GAP_NS 300000u /* no use in spinning for faults that are further apart */
#define SLICE_PAGES 32
#define BATCH_PAGES 128    /* clean ones, at once */
#define WAITING_WRITES 2   /* pages; they take as long as a message */
#define ADMIT_MIN_PAGES 64
#define ZERO_AHEAD_MAX 16
#define STALL_NS 60000000000ull
#define CHECK_NS 50000000u
#define FDS_MAX (1u << 20)
#define FDS_ROOM 4096u /* above the program's numbers; below, where there is no room above: */
#define FDS_OWN 64u

struct eg_rt eg_rt = {.pool_fd = -1, .pagemap_fd = -1, .mem_fd = -1, .uffd = -1, .wake_fd = -1, .pid_fd = -1, .uffd_dev = -1};

/* --- endings and warnings -------------------------------------------------------------------------------------------- */

static uint64_t stderr_id(void)
{
    struct stat st;
    return eg_sys2(SYS_fstat, 2, &st) ? 0 : (uint64_t)st.st_dev << 40 ^ (uint64_t)st.st_ino;
}

void eg_say_init(void)
{
    eg_rt.stderr_id = stderr_id();
}

static void say(const char *what, const char *name, int err)
{
    char line[320];
    size_t n = eg_str_put(line, sizeof line, 0, "endgame: ");
    n = eg_str_put(line, sizeof line, n, what);
    if (name)
        n = eg_str_put(line, sizeof line, n, name);
    if (err) {
        n = eg_str_put(line, sizeof line, n, err == -ETIMEDOUT ? " (no answer for a minute, errno " : name ? " (connection broken, errno " : " (errno ");
        n = eg_str_put_u64(line, sizeof line, n, (uint64_t)-err);
        n = eg_str_put(line, sizeof line, n, ")");
    }
    n = eg_str_put(line, sizeof line, n, "\n");
    /* Descriptor 2 may be the program's own file by now: then `endgame run` says it at the end. */
    if (stderr_id() == eg_rt.stderr_id)
        eg_sys3(SYS_write, 2, line, n);
    else if (eg_rt.pool && !__atomic_exchange_n(&eg_rt.pool->said, 1, __ATOMIC_ACQ_REL))
        memcpy(eg_rt.pool->words, line, n < sizeof eg_rt.pool->words ? n : sizeof eg_rt.pool->words - 1);
}

void eg_end_by_signal(int number)
{
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } dfl = {0};
    uint64_t bit = 1ull << (number - 1);
    eg_sys4(SYS_rt_sigaction, number, &dfl, 0, 8);
    eg_sys4(SYS_rt_sigprocmask, SIG_UNBLOCK, &bit, 0, 8);
    eg_sys3(SYS_tgkill, eg_sys0(SYS_getpid), eg_sys0(SYS_gettid), number);
    for (;;)
        eg_sys1(SYS_exit_group, 128 + number);
}

void eg_die(const char *what, const char *name, int err)
{
    say(what, name, err);
    eg_end_by_signal(SIGBUS);
}

void eg_warn_once(enum eg_warning bit, const char *what, const char *name)
{
    if (!(__atomic_fetch_or(&eg_rt.pool->warned, bit, __ATOMIC_RELAXED) & bit))
        say(what, name, 0);
}

int eg_fds_more(struct rlimit *ret_old)
{
    struct rlimit up;
    *ret_old = (struct rlimit){1024, 1024};
    eg_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, ret_old);
    uint64_t soft = ret_old->rlim_cur < FDS_MAX ? ret_old->rlim_cur : FDS_MAX;
    up.rlim_cur = up.rlim_max = ret_old->rlim_max > soft + FDS_OWN ? ret_old->rlim_max : soft + FDS_ROOM;
    if (!eg_sys_failed(eg_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, &up, 0)))
        return 1;
    up.rlim_cur = up.rlim_max = ret_old->rlim_max; /* few, but some */
    return ret_old->rlim_max > ret_old->rlim_cur && !eg_sys_failed(eg_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, &up, 0));
}

void eg_fds_less(const struct rlimit *old)
{
    eg_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, old, 0);
}

long eg_fd_new(long nr, long a, long b, long c, long d)
{
    struct rlimit old;
    long n = eg_sys4(nr, a, b, c, d);
    if (n == -EMFILE && eg_fds_more(&old)) {
        n = eg_sys4(nr, a, b, c, d);
        eg_fds_less(&old);
    }
    return n;
}

/* Above the soft limit where that is possible: the program's own numbers stay all its own. */
int eg_fd_dup_high(int fd)
{
    struct rlimit lim;
    int raised = eg_fds_more(&lim);
    uint64_t soft = lim.rlim_cur < FDS_MAX ? lim.rlim_cur : FDS_MAX;
    if (eg_rt.fd_floor == 0)
        eg_rt.fd_floor = (int)(raised ? soft : soft > FDS_OWN + 3 ? soft - FDS_OWN : 3);
    long n = eg_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, eg_rt.fd_floor);
    for (uint64_t from = lim.rlim_cur / 2; eg_sys_failed(n) && from >= 3; from /= 2)
        n = eg_sys3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, from);
    if (raised)
        eg_fds_less(&lim);
    if (!eg_sys_failed(n) && n < eg_rt.fd_floor)
        eg_rt.fd_floor = (int)n;
    return (int)n;
}

int eg_fd_high(int fd)
{
    int n = fd < 0 ? fd : eg_fd_dup_high(fd);
    if (n < 0)
        return fd;
    eg_sys1(SYS_close, fd);
    return n;
}

/* --- completions ------------------------------------------------------------------------------------------------------ */

static uint32_t idle_polls; /* since a completion came */
static uint64_t busy_until_ns; /* giving the processor away takes long: better sleep, and be woken */

/* Nothing for a while: is a server dead? */
static void stall_check(uint64_t now, int begin)
{
    static uint64_t last_progress_ns, last_check_ns, last_look_ns;
    if (begin || now - last_look_ns > STALL_NS / 20)
        last_progress_ns = now; /* the wait begins; or this process itself was stopped meanwhile */
    last_look_ns = now;
    if (now - last_progress_ns > STALL_NS)
        for (uint32_t i = 0; i < eg_rt.n_servers; i++)
            if (eg_rt.server[i].link.outstanding)
                eg_session_lost(&eg_rt.server[i], -ETIMEDOUT);
    if (now - last_check_ns > CHECK_NS) {
        last_check_ns = now;
        eg_session_check();
    }
}

static int collect(int all)
{
    struct eg_io_queue done = {NULL, NULL};
    struct eg_io *io;
    int progress = !eg_rt.outstanding;
    for (uint32_t i = 0; i < eg_rt.n_servers && eg_rt.outstanding; i++) {
        struct eg_server *s = &eg_rt.server[i];
        eg_evict_writes_go(s, all);
        if (!s->link.outstanding)
            continue;
        int rc = s->link.ops->poll(&s->link, &done);
        if (rc < 0)
            eg_session_lost(s, rc);
    }
    while ((io = eg_io_pop(&done))) {
        progress = 1;
        if (io->waiter)
            *io->waiter = 1;
        else if (io->op == EG_IO_READ)
            eg_fetch_came((struct eg_fetch *)io);
        else if (io->result == 0)
            eg_evict_write_done((struct eg_write *)io);
        else
            eg_session_lost(&eg_rt.server[((struct eg_write *)io)->block->server], io->result);
    }
    if (progress)
        idle_polls = 0;
    else if (++idle_polls % 64 == 0)
        stall_check(eg_sys_now_ns(), idle_polls == 64);
    return progress;
}

int eg_pager_collect(void)
{
    return collect(0);
}

/* Whoever works for us (a server, a kernel thread of a software device) may need this processor. */
static void give_way(void)
{
    uint64_t before = eg_sys_now_ns();
    eg_sys0(SYS_sched_yield);
    uint64_t now = eg_sys_now_ns();
    if (now - before > YIELD_SLOW_NS)
        busy_until_ns = now + BUSY_NS; /* a program that computes had it for its whole slice */
}

static void links_arm(void)
{
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        int rc = s->link.outstanding && s->link.ops->arm ? s->link.ops->arm(&s->link) : 0;
        if (rc < 0)
            eg_session_lost(s, rc);
    }
}

/* Without the lock: a session that is just being opened or lost may be seen half-way, and is looked at again soon. */
uint32_t eg_pager_links(struct pollfd *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < eg_rt.n_servers; i++) {
        struct eg_server *s = &eg_rt.server[i];
        if (s->dead || s->control_fd < 0)
            continue;
        const struct eg_transport *ops = __atomic_load_n(&s->link.ops, __ATOMIC_ACQUIRE);
        p[n++] = (struct pollfd){.fd = s->control_fd, .events = POLLIN};
        /* Where events are asked for (arm), one that nobody waits for may still be there. */
        if (ops && ops != &eg_transport_shm && (!ops->arm || s->link.outstanding))
            p[n++] = (struct pollfd){.fd = s->link.fd, .events = (short)(POLLIN | (s->link.want_write ? POLLOUT : 0))};
    }
    return n;
}

/* Sleeps until a link has something, or one of the first n descriptors of p, which has room for the links behind them. */
static void links_sleep(struct pollfd *p, uint32_t n, struct timespec limit)
{
    n += eg_pager_links(p + n);
    eg_sys5(SYS_ppoll, p, n, &limit, 0, 8);
}

void eg_pager_poll(void)
{
    struct pollfd p[2 * EG_POOL_SERVERS];
    if (collect(1) || idle_polls <= SPIN_POLLS)
        return;
    if (eg_sys_now_ns() >= busy_until_ns) {
        give_way();
        return;
    }
    links_arm();
    if (!collect(1))
        links_sleep(p, 0, (struct timespec){.tv_nsec = NAP_NS});
}

/* Only what is under way matters, and that is little: look at the operations, not at the blocks. */
static int busy_in(uint64_t first, uint64_t last, int alone)
{
    for (uint32_t i = 0; i < EG_N_FETCHES; i++) {
        const struct eg_fetch *f = &eg_rt.fetch[i];
        if (f->busy && f->block->index >= first && f->block->index <= last && (f->alone || !alone))
            return 1;
    }
    if (eg_whole_busy(first, last, alone) || (eg_rt.unlocked && eg_evict_busy_aside(first, last)))
        return 1;
    for (uint32_t i = 0; i < EG_N_WRITES && !alone; i++)
        if (eg_rt.write[i].busy && eg_rt.write[i].block->index >= first && eg_rt.write[i].block->index <= last)
            return 1;
    return 0;
}

int eg_pager_busy_alone(uint64_t start, uint64_t end)
{
    return (eg_rt.unlocked || eg_rt.put_off.head) && busy_in(start >> EG_BLOCK_SHIFT, (end - 1) >> EG_BLOCK_SHIFT, 1);
}

void eg_pager_quiesce(uint64_t start, uint64_t end)
{
    uint8_t putting_off = eg_rt.putting_off;
    eg_rt.putting_off = 0; /* what comes now ends here */
    while (eg_rt.outstanding && busy_in(start >> EG_BLOCK_SHIFT, (end - 1) >> EG_BLOCK_SHIFT, 0)) {
        if (eg_pager_busy_alone(start, end))
            eg_inline_give_way();
        else
            eg_pager_poll();
    }
    eg_rt.putting_off = putting_off;
}

void eg_pager_written(void)
{
    for (uint32_t i = 0; i < EG_N_WRITES; i++)
        while (eg_rt.write[i].busy)
            eg_pager_poll();
}

/* --- faults ----------------------------------------------------------------------------------------------------------- */

/* The first touch of a block in which nothing is: the kernel may fill it as it likes, huge pages and all. */
static int admit(struct eg_block *b)
{
    struct eg_range part;
    uint64_t start = eg_block_addr(b), end = start + EG_BLOCK_BYTES;
    if (eg_rt.served || b->n_resident || b->n_copied || b->n_busy || b->n_fresh < ADMIT_MIN_PAGES || eg_rt.budget < 4 * EG_BLOCK_PAGES)
        return 0;
    eg_evict_room(b->n_fresh);
    if (eg_account_total() + b->n_fresh > eg_rt.budget)
        return 0;
    for (uint64_t at = start; eg_ranges_next(&eg_rt.ranges, at, end, &part); at = part.end)
        if (eg_uffd_unregister(part.start, part.end))
            eg_die("internal error: cannot unregister memory", NULL, 0);
    eg_block_set_armed(b->index, 0);
    eg_account_sync();
    EG_COUNT(blocks_admitted, 1);
    return 1;
}

static void fault_zero(struct eg_block *b, uint32_t i, int write, uint32_t tid)
{
    uint64_t addr = eg_block_addr(b) + (uint64_t)i * EG_PAGE_BYTES;
    int32_t stride;
    uint32_t hits, n = 1;
    if (admit(b))
        return;
    uint32_t ahead = eg_stream_fault(eg_rt.stream, EG_N_STREAMS, addr >> EG_PAGE_SHIFT, tid, ++eg_rt.clock, ZERO_AHEAD_MAX,
                                     1, &stride, &hits);
    while (stride == 1 && n <= ahead && i + n < EG_BLOCK_PAGES && eg_page_state(b, i + n) == EG_P_FRESH &&
           !(eg_rt.keeps && eg_rt.keeps((addr >> EG_PAGE_SHIFT) + n)) &&
           !eg_page_guarded((addr >> EG_PAGE_SHIFT) + n))
        n++;
    eg_evict_room(n);
    EG_COUNT(faults_zero, 1);
    for (uint32_t k = 0; k < n; k++) {
        int rc = k == 0 && write ? eg_uffd_copy(addr, eg_rt.zero, EG_PAGE_BYTES, 0)
                                 : eg_uffd_zero_check(addr + (uint64_t)k * EG_PAGE_BYTES);
        if (rc == -EEXIST) {
            eg_uffd_wake(addr, addr + EG_PAGE_BYTES);
            rc = 0;
        }
        if (rc < 0 && rc != -ENOENT && k == 0)
            eg_die("cannot give the program a fresh page", NULL, rc);
        if (rc == -ENOENT && k == 0)
            eg_uffd_wake(addr, addr + EG_PAGE_BYTES); /* unmapped past the gate: let the kernel say so */
        if (rc < 0)
            break;
        eg_page_set(b, i + k, EG_P_DIRTY);
        b->page[i + k] &= (uint8_t)~EG_P_REFS;
        eg_queue_push(b, i + k);
    }
}

void eg_pager_fault(const struct uffd_msg *m, uint64_t now)
{
    int wp = (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
    eg_pager_serve(m->arg.pagefault.address, wp || (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE), wp,
                   m->arg.pagefault.feat.ptid, now);
}

void eg_pager_serve(uint64_t addr, int write, int wp, uint32_t tid, uint64_t now)
{
    addr &= ~(uint64_t)(EG_PAGE_BYTES - 1);
    uint64_t end = addr + EG_PAGE_BYTES;
    if (addr - (uint64_t)eg_rt.ring < (uint64_t)EG_N_SLOTS * EG_PAGE_BYTES) {
        eg_uffd_zero_check(addr); /* the program's mlockall, which fills the runtime's memory, too: it stays registered */
        eg_uffd_wake(addr, end);
        return;
    }
    struct eg_block *b = eg_block_get(addr >> EG_BLOCK_SHIFT);
    uint32_t i = (uint32_t)(addr >> EG_PAGE_SHIFT) % EG_BLOCK_PAGES;
    EG_COUNT(faults, 1);
    if (eg_rt.profiled)
        eg_profile_fault(addr >> EG_PAGE_SHIFT);
    if (!b)
        eg_die("no memory for the pager's own tables", NULL, 0);
    if (!eg_block_armed(b->index)) {
        eg_uffd_unregister(addr, end); /* disarmed after the fault was raised, or an expanded mapping's inheritance */
        eg_uffd_wake(addr, end);
        return;
    }
    switch (eg_page_state(b, i)) {
    case EG_P_NONE:
        eg_uffd_unregister(addr, end); /* unmapped meanwhile, or never ours: the kernel decides */
        eg_uffd_wake(addr, end);
        return;
    case EG_P_RESERVED:
        eg_page_set(b, i, EG_P_FRESH); /* accessible by a way that the gate did not see */
        fault_zero(b, i, write, tid);
        break;
    case EG_P_FRESH: fault_zero(b, i, write, tid); break;
    case EG_P_CLEAN:
    case EG_P_DIRTY:
        if (wp || (eg_rt.inlined && write && eg_page_present(addr))) {
            EG_COUNT(faults_write_protect, 1);
            b->turned = (uint8_t)(b->turned + (b->turned < EG_TURNED_MAX));
            eg_whole_split(b);
            eg_page_set(b, i, EG_P_DIRTY);
            b->page[i] = (uint8_t)((b->page[i] & ~EG_P_REFS) | EG_P_REF1 | EG_P_WRITTEN);
            eg_uffd_protect(addr, end, 0);
        } else if (eg_page_present(addr)) {
            eg_uffd_wake(addr, end); /* two threads met at one page */
        } else if (eg_page_state(b, i) == EG_P_CLEAN) {
            eg_page_set(b, i, EG_P_REMOTE); /* discarded past the gate: the server still has it */
            eg_fetch_fault(b, i, write, tid, now);
            return;
        } else {
            eg_page_set(b, i, EG_P_FRESH); /* discarded past the gate: zeros, by the kernel's own rules */
            fault_zero(b, i, write, tid);
        }
        break;
    case EG_P_REMOTE: eg_fetch_fault(b, i, write, tid, now); return;
    case EG_P_FETCHING: eg_fetch_joined(b, i, write, tid); return; /* its arrival wakes everybody */
    case EG_P_INFLIGHT: {
        int slot = eg_slot_find(addr >> EG_PAGE_SHIFT);
        if (slot < 0)
            eg_die("internal error: a page on its way out is in no slot", NULL, 0);
        eg_evict_room(1);
        if (eg_page_state(b, i) != EG_P_INFLIGHT) { /* the wait for room saw its write acknowledged */
            eg_fetch_fault(b, i, write, tid, now);
            return;
        }
        if (eg_uffd_copy(addr, eg_slot_buf((uint32_t)slot), EG_PAGE_BYTES, 0))
            eg_die("cannot put a page back into the program's memory", NULL, 0);
        eg_rt.slot_page[slot] = ~0ull; /* held until the write is acknowledged */
        eg_page_set(b, i, EG_P_DIRTY);
        b->page[i] = (uint8_t)((b->page[i] & ~EG_P_REFS) | EG_P_REF1);
        eg_queue_push(b, i);
        break;
    }
    }
    eg_account_time(eg_rt.row->fault_hist, eg_sys_now_ns() - now);
}

/* --- the thread -------------------------------------------------------------------------------------------------------- */

static int over(void)
{
    return eg_account_total() > (eg_rt.evicting ? eg_rt.low : eg_rt.high);
}

/* Without the lock a stale answer costs a turn. */
static int has_work(void)
{
    return eg_rt.outstanding || eg_rt.n_wanted || over() || __atomic_load_n(&eg_rt.row->want_evict_pages, __ATOMIC_RELAXED);
}

/* Eviction while nobody waits. Returns: 1 when it did something. */
static int background(void)
{
    uint64_t asked = __atomic_load_n(&eg_rt.row->want_evict_pages, __ATOMIC_RELAXED);
    if (asked) {
        uint64_t got = eg_evict(asked < SLICE_PAGES ? asked : SLICE_PAGES);
        if (got >= asked || !got)
            __atomic_store_n(&eg_rt.row->want_evict_pages, 0, __ATOMIC_RELAXED);
        else
            __atomic_sub_fetch(&eg_rt.row->want_evict_pages, got, __ATOMIC_RELAXED);
        return 1;
    }
    eg_rt.evicting = (uint8_t)over();
    if (!eg_rt.evicting || eg_account_ask_others(SLICE_PAGES))
        return 0;
    return eg_evict(SLICE_PAGES) != 0;
}

int eg_pager_turn(int worked)
{
    int more = has_work();
    if (!worked && !more)
        return 0;
    collect(!worked);
    if (!worked || over())
        more = background();
    if (!worked && eg_rt.n_wanted)
        more |= eg_fetch_turn();
    eg_account_sync();
    return more || eg_rt.outstanding || eg_rt.n_wanted;
}

/* By many pages a call: each interrupts the other processors. They must leave room for what comes meanwhile. */
static uint64_t batch(void)
{
    uint64_t room = (eg_rt.budget - eg_rt.high) / 2;
    return room < SLICE_PAGES ? SLICE_PAGES : room < BATCH_PAGES ? room : BATCH_PAGES;
}

void eg_pager_evict_some(int waiting)
{
    static uint8_t waited; /* for a message: the next fault may, too, and has time for this then */
    uint64_t later = waited && !waiting ? (eg_rt.budget - eg_rt.high) / 4 : 0;
    waited |= (uint8_t)(waiting != 0);
    if (eg_account_total() > eg_rt.high + later + eg_evict_leaving() && !eg_account_ask_others(SLICE_PAGES))
        eg_evict_aside(batch(), waiting ? WAITING_WRITES : SLICE_PAGES);
}

static void wakes_drain(void)
{
    char drain[16];
    while (eg_sys3(SYS_read, eg_rt.wake_fd, drain, sizeof drain) > 0)
        ;
}

static void pager_sleep(struct timespec limit)
{
    struct pollfd p[2 + 2 * EG_POOL_SERVERS];
    p[0] = (struct pollfd){.fd = eg_rt.uffd, .events = POLLIN};
    p[1] = (struct pollfd){.fd = eg_rt.wake_fd, .events = POLLIN};
    links_sleep(p, 2, limit);
    if (p[1].revents)
        wakes_drain();
}

static void pager_lock(void)
{
    eg_lock_take(&eg_rt.lock);
    eg_rt.on_pager = 1;
}

static void pager_unlock(void)
{
    eg_rt.on_pager = 0;
    eg_lock_give(&eg_rt.lock);
}

/* Faults are served inline: what is left is what nobody waits for. Threads that fault collect completions, too, so those wake nobody. */
static __attribute__((noreturn)) void pager_beside(void)
{
    /* Once more: threads that had passed the gate when the pager became active, but were not in the kernel yet. */
    struct timespec soon = {.tv_nsec = BESIDE_NAP_NS};
    eg_sys5(SYS_ppoll, 0, 0, &soon, 0, 8);
    void (*began)(void) = __atomic_load_n(&eg_rt.began, __ATOMIC_RELAXED);
    if (began)
        began();
    for (;;) {
        int more = 0;
        if (!__atomic_load_n(&eg_rt.inlined, __ATOMIC_RELAXED))
            for (;;) /* eg_cap_sandbox: another has taken over */
                eg_sys1(SYS_exit, 0);
        __atomic_fetch_add(&eg_rt.turns, 1, __ATOMIC_SEQ_CST);
        if (has_work()) {
            pager_lock();
            more = eg_pager_turn(0) && (over() || eg_rt.n_wanted);
            pager_unlock();
        }
        int kept = eg_peer_turn();
        if (more && idle_polls <= SPIN_POLLS)
            continue;
        uint64_t look = eg_cap_look_alive();
        struct timespec limit = {.tv_sec = eg_rt.outstanding || more || look ? 0 : kept ? 1 : 3600,
                                 .tv_nsec = eg_rt.outstanding || more ? BESIDE_NAP_NS : (long)look};
        struct pollfd p[1 + EG_POOL_SERVERS] = {{.fd = eg_rt.wake_fd, .events = POLLIN}};
        for (uint32_t i = 0; i < eg_rt.n_servers; i++)
            p[1 + i] = (struct pollfd){.fd = eg_rt.server[i].control_fd, .events = POLLIN}; /* one that is gone hangs up */
        if (eg_sys5(SYS_ppoll, p, 1 + eg_rt.n_servers, &limit, 0, 8) <= 0)
            continue;
        if (p[0].revents)
            wakes_drain();
        if (p[0].revents == 0) {
            pager_lock();
            eg_session_check();
            pager_unlock();
            limit = (struct timespec){.tv_nsec = BESIDE_NAP_NS};
            eg_sys5(SYS_ppoll, p, 1, &limit, 0, 8);
        }
    }
}

static void pager_main(void)
{
    struct uffd_msg m[EVENTS];
    struct sched_param other = {0};
    /* Not the policy and the processors of whichever thread happened to start it. */
    eg_sys3(SYS_sched_setscheduler, 0, SCHED_OTHER, &other);
    eg_sys3(SYS_sched_setaffinity, 0, sizeof eg_rt.affinity, eg_rt.affinity);
    if (eg_rt.inlined)
        pager_beside();
    uint64_t last = eg_sys_now_ns(), gap = SPIN_NS, check = last;
    for (;;) {
        void (*successor)(void) = __atomic_load_n(&eg_rt.successor, __ATOMIC_ACQUIRE);
        if (successor)
            successor();
        __atomic_fetch_add(&eg_rt.turns, 1, __ATOMIC_SEQ_CST);
        int uffd = __atomic_load_n(&eg_rt.uffd, __ATOMIC_RELAXED);
        long got = eg_sys3(SYS_read, uffd, m, sizeof m);
        int work = got > 0;
        int more = has_work();
        if (work || more) {
            while (__atomic_load_n(&eg_rt.lock.waiters, __ATOMIC_RELAXED) && !work)
                eg_sys0(SYS_sched_yield);
            pager_lock();
            uint64_t now = eg_sys_now_ns();
            for (long k = 0; k < got / (long)sizeof *m; k++)
                if (m[k].event == UFFD_EVENT_PAGEFAULT)
                    eg_pager_fault(&m[k], now);
            more = eg_pager_turn(work);
            pager_unlock();
        }
        if (!work && !more && !eg_rt.outstanding) {
            uint64_t now = eg_sys_now_ns();
            if (now - last < SPIN_NS && gap < SPIN_MAX_GAP_NS) {
                eg_sys0(SYS_sched_yield);
                continue;
            }
            if (now - check > CHECK_NS) {
                check = now;
                pager_lock();
                eg_session_check();
                pager_unlock();
            }
            uint64_t look = eg_cap_look_alive();
            pager_sleep((struct timespec){.tv_sec = look ? 0 : 3600, .tv_nsec = (long)look});
        } else if (!work && eg_rt.outstanding && idle_polls > SPIN_POLLS) {
            if (eg_sys_now_ns() >= busy_until_ns) {
                give_way();
            } else {
                pager_lock();
                links_arm();
                int came = eg_pager_collect();
                pager_unlock();
                if (!came)
                    pager_sleep((struct timespec){.tv_nsec = NAP_NS});
            }
        }
        if (work) {
            uint64_t now = eg_sys_now_ns();
            gap = gap - gap / 8 + (now - last) / 8;
            last = now;
        }
    }
}

static int setup_memory(void)
{
    struct eg_rt *rt = &eg_rt;
    uint64_t slots = (uint64_t)EG_N_SLOTS * EG_PAGE_BYTES;
    if (!rt->ring && !(rt->ring = eg_sys_map(slots)))
        return -ENOMEM;
    if (!rt->stage && !(rt->stage = eg_sys_map(slots)))
        return -ENOMEM;
    if (!rt->fetch_buf && !(rt->fetch_buf = eg_sys_map((uint64_t)EG_N_FETCHES * EG_FETCH_PAGES * EG_PAGE_BYTES)))
        return -ENOMEM;
    if (!rt->zero && !(rt->zero = eg_sys_map(EG_PAGE_BYTES)))
        return -ENOMEM;
    if (!rt->armed && !(rt->armed = eg_sys_map(EG_N_BLOCKS / 8)))
        return -ENOMEM;
    if (!rt->pager_stack && !(rt->pager_stack = eg_sys_map(STACK_BYTES)))
        return -ENOMEM;
    memset(rt->zero, 0, EG_PAGE_BYTES);
    return 0;
}

/* The new thread: no TLS, all signals blocked (inherited from the gate), its own descriptors shared with the program's. */
long eg_thread_start(void *stack_top, void (*fn)(void))
{
    long flags = EG_THREAD_FLAGS;
    long ret;
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "call *%[fn]\n\t"
                     "ud2\n\t"
                     "1:"
                     : "=a"(ret)
                     : "a"(SYS_clone), "D"(flags), "S"(stack_top), "d"(0), "r"(r10), "r"(r8), [fn] "r"(fn)
                     : "rcx", "r11", "memory");
    return ret;
}

int eg_pager_activate(void)
{
    struct eg_rt *rt = &eg_rt;
    uint64_t all = ~0ull, old;
    if (rt->active)
        return 0;
    if (rt->foreign)
        return -EAGAIN;
    int rc = setup_memory();
    if (!rc && rt->uffd < 0)
        rc = eg_uffd_open();
    if (rc)
        return rc;
    if (rt->move && eg_uffd_register((uint64_t)rt->ring, (uint64_t)rt->ring + (uint64_t)EG_N_SLOTS * EG_PAGE_BYTES))
        rt->move = 0;
    if (rt->pagemap_fd < 0)
        rt->pagemap_fd = eg_fd_high((int)eg_fd_open_own("/proc/thread-self/pagemap", O_RDONLY));
    if (rt->mem_fd < 0)
        rt->mem_fd = eg_fd_high((int)eg_fd_open_own("/proc/thread-self/mem", O_RDWR));
    if (rt->pid_fd < 0 && !rt->old_kernel)
        rt->pid_fd = eg_fd_high((int)eg_fd_new(SYS_pidfd_open, eg_sys0(SYS_getpid), 0, 0, 0));
    rc = rt->pagemap_fd < 0 ? rt->pagemap_fd : rt->mem_fd < 0 ? rt->mem_fd : rt->wake_fd < 0 ? eg_account_listen() : 0;
    if (!rc)
        rc = eg_evict_settle();
    if (rc)
        return rc;
    if (eg_sys5(SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1) /* set before this program began: see madvise's MADV_MERGEABLE */
        eg_sys5(SYS_prctl, PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
    eg_whole_start();
    eg_str_put(rt->row->engine, sizeof rt->row->engine, 0, rt->inlined ? "inline" : "handler");
    if (rt->served) {
        rt->active = 1;
        return 0;
    }
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
    /* The top of a page-aligned stack, less one word: the ABI's alignment at a call. */
    long tid = eg_thread_start((char *)rt->pager_stack + STACK_BYTES, pager_main);
    eg_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
    if (eg_sys_failed(tid))
        return (int)tid;
    rt->pager_tid = (uint32_t)tid;
    rt->active = 1;
    eg_account_budget();
    if (rt->began) {
        rt->settling = 1;
        eg_inline_unlock();
        rt->began();
        eg_inline_lock();
        rt->settling = 0;
    }
    return 0;
}

int eg_pager_activate_or_warn(void)
{
    int err = eg_pager_activate();
    if (err == -EMFILE)
        eg_warn_once(EG_WARN_ACTIVATE, "the program has taken every descriptor that it may have, memory stays local beyond the budget; raise the limit (ulimit -Hn)", NULL);
    else if (err == -EPERM)
        eg_warn_once(EG_WARN_ACTIVATE, "this program's faults would have to be served by a thread, and userfaultfd serves only those of user mode here: memory stays local "
                     "beyond the budget; as root, run `sysctl vm.unprivileged_userfaultfd=1`", NULL);
    else if (err)
        eg_warn_once(EG_WARN_ACTIVATE, "cannot use userfaultfd any more, memory stays local beyond the budget", NULL);
    return err;
}

void eg_pager_kick(void)
{
    /* The pager may sleep with work to do that no descriptor announces: make it look. */
    struct {
        uint16_t family;
        char name[110];
    } self;
    uint32_t len = sizeof self;
    if (eg_sys3(SYS_getsockname, eg_rt.wake_fd, &self, &len) == 0 && len > 2)
        eg_sys6(SYS_sendto, eg_rt.wake_fd, "", 1, 0x40 /* MSG_DONTWAIT */, &self, len);
}
