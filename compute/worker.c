/* worker.c - the worker's main thread: sets up the empty address space, takes streams from the daemon, and does what home's agent says.
 *
 * fd 3: a SOCK_SEQPACKET socket to endgame-compute: an eg_node_hello and a stream's descriptor for each stream; "R" the other way
 * once the worker is ready. fd 4, if it is there: the seccomp filter to put on (struct sock_filter[]). The argument: how many of the program's
 * pages home may leave here. */
#include "compute/worker.h"
#include "proto/eg_msg.h"
#include "proto/eg_uffd.h"

#include <elf.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#define CONTROL_FD 3
#define FILTER_FD 4
#define FILTER_MAX 1024
#define USER_MODE_ONLY 1
#define STACK_BYTES (256u << 10)
#define STASH (EG_WORKER_START + (1ul << 31)) /* the vDSO's place until home's is known */
#define IN_BYTES (1u << 20)
#define DEFERRED 512u
#define EARLY 65536u
#define SLICE_NS 100000u
#define STREAM_OK 0
#define ZERO_FEW 16u /* pages, which home sends with the first that is asked for */

struct worker wk = {.control_fd = CONTROL_FD, .stream_fd = -1, .uffd = -1};

static uint8_t main_stack[STACK_BYTES] __attribute__((aligned(64)));
static uint8_t in[IN_BYTES] __attribute__((aligned(64)));
static uint8_t pages_out[EG_CO_MAX_PAGES * EG_PAGE_BYTES] __attribute__((aligned(4096)));
static uint64_t in_at, in_end;
static struct eg_co deferred[DEFERRED]; /* INVALIDATE and RECALL of pages that an instruction still needs */
static uint32_t n_deferred;
static uint64_t vdso_start, most_pages;

void wk_die(const char *what, long err)
{
    char line[160];
    size_t n = eg_str_put(line, sizeof line, 0, "endgame-worker: ");
    n = eg_str_put(line, sizeof line, n, what);
    n = eg_str_put(line, sizeof line, n, " ");
    n = eg_str_put_u64(line, sizeof line, n, (uint64_t)(err < 0 ? -err : err));
    n = eg_str_put(line, sizeof line, n, "\n");
    eg_sys3(SYS_write, 2, line, n);
    for (;;)
        eg_sys1(SYS_exit_group, 1);
}

/* --- streams ----------------------------------------------------------------------------------------------------------------- */

int wk_read_full(int fd, void *to, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        long n = eg_sys3(SYS_read, fd, (uint8_t *)to + at, bytes - at);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return 0;
        at += (uint64_t)n;
    }
    return 1;
}

int wk_write_full(int fd, const void *head, uint64_t head_bytes, const void *data, uint64_t bytes)
{
    struct iovec v[2] = {{(void *)head, head_bytes}, {(void *)data, bytes}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = bytes ? 2 : 1};
    while (m.msg_iovlen) {
        long n = eg_sys3(SYS_sendmsg, fd, &m, MSG_NOSIGNAL);
        if (n == -EINTR)
            continue;
        if (n < 0)
            return 0;
        eg_msg_sent(&m, (uint64_t)n);
    }
    return 1;
}

void wk_send(const struct eg_co *m, const void *data, uint32_t bytes)
{
    while (__atomic_exchange_n(&wk.out_lock, 1, __ATOMIC_ACQUIRE))
        eg_sys0(SYS_sched_yield);
    int sent = wk_write_full(wk.stream_fd, m, sizeof *m, data, bytes);
    __atomic_store_n(&wk.out_lock, 0, __ATOMIC_RELEASE);
    if (!sent)
        for (;;)
            eg_sys1(SYS_exit_group, 0); /* home is gone */
}

/* --- pages ------------------------------------------------------------------------------------------------------------------- */

static long uffd(unsigned long request, void *arg)
{
    long rc;
    do
        rc = eg_sys3(SYS_ioctl, wk.uffd, request, arg);
    while (rc == -EAGAIN);
    return rc;
}

static void protect(uint64_t addr, uint64_t bytes, int on)
{
    struct uffdio_writeprotect w = {.range = {addr, bytes}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
    long rc = uffd(UFFDIO_WRITEPROTECT, &w);
    if (rc)
        wk_die("cannot protect a page, errno", rc);
}

static void install(uint64_t addr, const uint8_t *data, uint32_t n, int writable)
{
    for (uint32_t i = 0; i < n;) {
        struct uffdio_copy c = {
            .dst = addr + (uint64_t)i * EG_PAGE_BYTES,
            .src = (uint64_t)data + (uint64_t)i * EG_PAGE_BYTES,
            .len = (uint64_t)(n - i) * EG_PAGE_BYTES,
            .mode = UFFDIO_COPY_MODE_DONTWAKE | (writable ? 0 : UFFDIO_COPY_MODE_WP),
        };
        long rc = eg_sys3(SYS_ioctl, wk.uffd, UFFDIO_COPY, &c);
        if (c.copy > 0)
            i += (uint32_t)((uint64_t)c.copy / EG_PAGE_BYTES);
        else if (rc == -EEXIST)
            i++; /* read-only memory that is here already: the others are granted once only */
        else if (rc != -EAGAIN)
            wk_die("no memory for a page of the program, errno", rc);
    }
}

/* Memory that is being written has pages of its own at once, because to take the kernel's one page of zeros away from under a write costs a fault and an
 * interrupt of the other processors; so has what comes many at once: that goes in order. */
static void install_zeros(uint64_t addr, uint32_t n, int write)
{
    static uint8_t zeros[EG_CO_MAX_ZEROS * EG_PAGE_BYTES] __attribute__((aligned(4096))); /* never written: the kernel has one page for all of it, which stays in the caches */
    if (write || n > ZERO_FEW) {
        install(addr, zeros, n, 1);
        return;
    }
    for (uint32_t i = 0; i < n;) {
        struct uffdio_zeropage z = {.range = {addr + (uint64_t)i * EG_PAGE_BYTES, (uint64_t)(n - i) * EG_PAGE_BYTES},
                                    .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE};
        long rc = eg_sys3(SYS_ioctl, wk.uffd, UFFDIO_ZEROPAGE, &z);
        if (z.zeropage > 0)
            i += (uint32_t)((uint64_t)z.zeropage / EG_PAGE_BYTES);
        else if (rc == -EEXIST)
            i++;
        else if (rc != -EAGAIN)
            wk_die("no memory for a page of the program, errno", rc);
    }
}

static void forget(uint64_t addr, uint64_t n)
{
    uint64_t end = addr + n * EG_PAGE_BYTES;
    if (addr < EG_WORKER_END && end > EG_WORKER_START) { /* not what is ours */
        if (addr < EG_WORKER_START)
            eg_sys3(SYS_madvise, addr, EG_WORKER_START - addr, 4 /* MADV_DONTNEED */);
        addr = EG_WORKER_END;
    }
    if (end > addr)
        eg_sys3(SYS_madvise, addr, end - addr, 4);
}

/* A part of what was asked back: with its content, in `data`, if it is here; what a thread has given is not. */
static void recall_answer(const struct eg_co *part, const uint8_t *data)
{
    if (part->type == EG_CO_DATA && !(part->flags & EG_CO_F_KEPT))
        forget(part->addr, part->n);
    wk_send(part, data, (uint32_t)eg_co_payload_bytes(part));
}

static void recalled(const struct eg_co *m)
{
    struct eg_co part = {.n = 0};
    protect(m->addr, (uint64_t)m->n * EG_PAGE_BYTES, 1);
    wk_futex_left(m->addr, m->n);
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t addr = m->addr + (uint64_t)i * EG_PAGE_BYTES;
        uint8_t type = wk_try_copy(pages_out + (uint64_t)i * EG_PAGE_BYTES, (const void *)addr, EG_PAGE_BYTES) ? EG_CO_DATA : EG_CO_ACK;
        if (part.n && part.type != type) {
            recall_answer(&part, pages_out + (part.addr - m->addr));
            part.n = 0;
        }
        if (!part.n)
            part = (struct eg_co){.type = type, .flags = type == EG_CO_DATA ? m->flags & EG_CO_F_KEPT : 0, .addr = addr};
        part.n++;
    }
    recall_answer(&part, pages_out + (part.addr - m->addr));
}

/* Pages go, or the right to write them. */
static void give_back(const struct eg_co *m)
{
    struct eg_co answer = {.type = EG_CO_ACK, .n = m->n, .addr = m->addr};
    if (!m->n)
        return;
    wk_lock(&wk.answers_lock);
    if (m->type == EG_CO_INVALIDATE) {
        forget(m->addr, m->n);
        wk_futex_left(m->addr, m->n);
        wk_send(&answer, NULL, 0);
    } else {
        recalled(m);
    }
    wk_unlock(&wk.answers_lock);
}

/* So many pages from addr on, n at most, can be given: copied to buf, they are gone. Returns: how many; *ret_here: is the next one, if there are fewer than n, here? */
static uint32_t given_take(uint64_t addr, uint32_t n, uint8_t *buf, int *ret_here)
{
    uint32_t k = 0;
    uint8_t byte;
    wk_lock(&wk.rights_lock);
    uint64_t now = eg_sys_now_ns();
    for (uint64_t at = addr; k < n && (*ret_here = wk_try_copy(&byte, (const void *)at, 1)) && !wk_held(at, now) && wk_try_touch((void *)at); at += EG_PAGE_BYTES)
        k++;
    if (k) {
        protect(addr, k * EG_PAGE_BYTES, 1);
        memcpy(buf, (const void *)addr, k * EG_PAGE_BYTES);
        forget(addr, k);
    }
    wk_unlock(&wk.rights_lock);
    return k;
}

int wk_give(struct wk_slot *s, uint64_t addr, uint32_t n, uint64_t sp)
{
    uint8_t *buf = (uint8_t *)s + WK_DATA_OFFSET;
    struct eg_co m = {.type = EG_CO_GIVEN};
    int stays = 0, here = 0;
    if (n > EG_CO_MAX_PAGES || !wk_is_programs(addr, n * EG_PAGE_BYTES)) /* a stack pointer may be anything */
        return 1;
    wk_lock(&wk.answers_lock);
    m.number = __atomic_load_n(&wk.n_taken, __ATOMIC_SEQ_CST);
    for (uint64_t end = addr + n * EG_PAGE_BYTES; addr < end; addr += EG_PAGE_BYTES) { /* the one that ended a run is looked at alone */
        m.addr = addr;
        m.n = given_take(addr, (uint32_t)((end - addr) / EG_PAGE_BYTES), buf, &here);
        if (m.n) {
            wk_futex_left(m.addr, m.n);
            wk_send(&m, buf, m.n * (uint32_t)EG_PAGE_BYTES);
            addr += m.n * EG_PAGE_BYTES;
        }
        stays |= addr < end && (here || addr + EG_PAGE_BYTES > sp);
    }
    wk_unlock(&wk.answers_lock);
    return stays;
}

/* Returns: when to look again; 0: nothing is put off. */
static uint64_t deferred_run(int all)
{
    uint64_t now = n_deferred ? eg_sys_now_ns() : 0, soonest = 0;
    for (uint32_t i = 0; i < n_deferred;) {
        uint64_t until = all ? 0 : wk_held(deferred[i].addr, now);
        if (until) {
            soonest = !soonest || until < soonest ? until : soonest;
            i++;
            continue;
        }
        struct eg_co m = deferred[i];
        deferred[i] = deferred[--n_deferred];
        give_back(&m);
    }
    return soonest;
}

/* INVALIDATE and RECALL: what no instruction needs goes at once. */
static void asked_back(const struct eg_co *m)
{
    uint64_t now = eg_sys_now_ns();
    struct eg_co part = *m;
    part.n = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t addr = m->addr + (uint64_t)i * EG_PAGE_BYTES;
        if (n_deferred < DEFERRED && wk_held(addr, now)) {
            give_back(&part);
            part.addr = addr + EG_PAGE_BYTES;
            part.n = 0;
            deferred[n_deferred] = *m;
            deferred[n_deferred].addr = addr;
            deferred[n_deferred++].n = 1;
        } else {
            part.n++;
        }
    }
    give_back(&part);
}

/* If home is gone, a message may be, too. */
void wk_grants_wait(uint32_t number)
{
    const struct timespec patience = {.tv_sec = 1};
    uint32_t seen;
    while ((int32_t)((seen = __atomic_load_n(&wk.n_taken, __ATOMIC_SEQ_CST)) - number) < 0) {
        __atomic_fetch_add(&wk.taken_asked, 1, __ATOMIC_SEQ_CST); /* pairs with wk_taken: it counts, then looks here */
        int late = __atomic_load_n(&wk.n_taken, __ATOMIC_SEQ_CST) == seen &&
                   eg_sys6(SYS_futex, &wk.n_taken, FUTEX_WAIT_PRIVATE, seen, &patience, 0, 0) == -ETIMEDOUT;
        __atomic_fetch_sub(&wk.taken_asked, 1, __ATOMIC_SEQ_CST);
        struct pollfd p = {.fd = wk.stream_fd, .events = POLLRDHUP};
        const struct timespec now = {0};
        if (late && eg_sys5(SYS_ppoll, &p, 1, &now, 0, 8) == 1)
            for (;;)
                eg_sys1(SYS_exit_group, 0);
    }
}

void wk_taken(uint32_t number)
{
    static uint64_t early[EARLY / 64]; /* taken before those with lower numbers */
    static uint32_t lock;
    while (number - __atomic_load_n(&wk.n_taken, __ATOMIC_SEQ_CST) >= EARLY) /* a thread that is not run lags so far behind */
        eg_sys0(SYS_sched_yield);
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        eg_sys0(SYS_sched_yield);
    early[number % EARLY / 64] |= 1ull << number % 64;
    uint32_t n = wk.n_taken;
    for (uint32_t next = n + 1; early[next % EARLY / 64] >> next % 64 & 1; next = n + 1) {
        early[next % EARLY / 64] &= ~(1ull << next % 64);
        n++;
    }
    __atomic_store_n(&wk.n_taken, n, __ATOMIC_SEQ_CST);
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    if (__atomic_load_n(&wk.taken_asked, __ATOMIC_SEQ_CST))
        eg_sys6(SYS_futex, &wk.n_taken, FUTEX_WAKE_PRIVATE, INT32_MAX, 0, 0, 0);
}

void wk_install(const struct eg_co *m, const void *data, int write)
{
    int writable = (m->flags & EG_CO_F_EXCLUSIVE) != 0;
    if (m->flags & EG_CO_F_NODATA) {
        if (writable) {
            wk_lock(&wk.rights_lock);
            protect(m->addr, (uint64_t)m->n * EG_PAGE_BYTES, 0);
            wk_unlock(&wk.rights_lock);
        }
    } else if (m->flags & EG_CO_F_ZERO) {
        install_zeros(m->addr, m->n, write);
    } else {
        install(m->addr, data, m->n, writable);
    }
}

static void message(const struct eg_co *m, const uint8_t *data)
{
    switch (m->type) {
    case EG_CO_GRANT:
        if (m->n > eg_co_most_pages(m->flags))
            wk_die("home grants too many pages at once:", m->n);
        wk_install(m, data, 0);
        wk_taken(m->number);
        break;
    case EG_CO_INVALIDATE:
    case EG_CO_RECALL:
        if (m->n > EG_CO_MAX_PAGES)
            wk_die("home asks for too many pages at once:", m->n);
        wk_grants_wait(m->number);
        asked_back(m);
        break;
    case EG_CO_DROP: {
        struct eg_co answer = {.type = EG_CO_ACK, .flags = EG_CO_F_STATIC | (m->flags & EG_CO_F_SPARE), .n = m->n, .addr = m->addr};
        wk_grants_wait(m->number);
        deferred_run(1); /* what was asked for before must still be there */
        wk_lock(&wk.answers_lock);
        forget(m->addr, m->n);
        wk_futex_left(0, 0);
        wk_send(&answer, NULL, 0);
        wk_unlock(&wk.answers_lock);
        break;
    }
    case EG_CO_KICK:
        if (m->slot < wk.n_slots) {
            struct wk_slot *s = wk_slot(m->slot);
            uint32_t tid = __atomic_load_n(&s->ktid, __ATOMIC_ACQUIRE);
            __atomic_store_n(&s->kick, (uint32_t)m->addr, __ATOMIC_SEQ_CST);
            if (tid) {
                eg_sys3(SYS_tgkill, wk.pid, tid, WK_KICK);
                wk_futex_kick(s);
            }
        }
        break;
    case EG_CO_FIRED:
        wk_grants_wait(m->number);
        wk_futex_fired(m->addr);
        break;
    default:
        for (;;)
            eg_sys1(SYS_exit_group, 0);
    }
}

/* Reads what has come and does it. Returns: 1 if something had. */
static int stream_turn(void)
{
    if (in_at == in_end)
        in_at = in_end = 0;
    if (in_end == IN_BYTES || (in_at && in_end - in_at < sizeof(struct eg_co))) {
        memmove(in, in + in_at, in_end - in_at);
        in_end -= in_at;
        in_at = 0;
    }
    long n = eg_sys6(SYS_recvfrom, wk.stream_fd, in + in_end, IN_BYTES - in_end, MSG_DONTWAIT, 0, 0);
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    if (n <= 0)
        for (;;)
            eg_sys1(SYS_exit_group, 0); /* home is gone, and the program with it */
    in_end += (uint64_t)n;
    while (in_end - in_at >= sizeof(struct eg_co)) {
        struct eg_co m;
        memcpy(&m, in + in_at, sizeof m);
        uint64_t payload = eg_co_payload_bytes(&m);
        if (payload > EG_CO_MAX_PAGES * EG_PAGE_BYTES)
            wk_die("home sent nonsense of type", m.type);
        if (in_end - in_at < sizeof m + payload)
            break;
        message(&m, in + in_at + sizeof m);
        in_at += sizeof m + payload;
    }
    if (in_at && in_end - in_at < IN_BYTES / 2 && IN_BYTES - in_end < IN_BYTES / 2) {
        memmove(in, in + in_at, in_end - in_at);
        in_end -= in_at;
        in_at = 0;
    }
    return 1;
}

/* --- start ------------------------------------------------------------------------------------------------------------------- */

#define SPECIAL_MAX (16 * EG_PAGE_BYTES)

/* Moves the mappings of [from, end) one by one, whatever their sizes: the kernel moves its own only whole. The last one may go on behind end:
 * on Linux 6.1 a vDSO's mapping is longer than what its program header says. */
static void special_move(uint64_t from, uint64_t end, uint64_t to)
{
    while (from < end) {
        uint64_t bytes = EG_PAGE_BYTES;
        while (bytes <= SPECIAL_MAX && eg_sys_failed(eg_sys5(SYS_mremap, from, bytes, bytes, 3 /* MAYMOVE | FIXED */, to)))
            bytes += EG_PAGE_BYTES;
        if (bytes > SPECIAL_MAX)
            wk_die("cannot move the vDSO, pages left:", (long)((end - from) / EG_PAGE_BYTES));
        from += bytes;
        to += bytes;
    }
}

static uint64_t vdso_bytes(uint64_t at)
{
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)at;
    const Elf64_Phdr *ph = (const Elf64_Phdr *)(at + eh->e_phoff);
    uint64_t end = 0;
    for (int i = 0; i < eh->e_phnum; i++)
        if (ph[i].p_type == PT_LOAD && ph[i].p_vaddr + ph[i].p_memsz > end)
            end = ph[i].p_vaddr + ph[i].p_memsz;
    return (end + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1);
}

/* Everything that the kernel put here goes, but the vDSO; then one empty mapping on each side of our own. */
static void address_space_init(void)
{
    uint64_t bytes = vdso_bytes(vdso_start), vvar = vdso_start;
    /* The kernel's data pages lie right below; how many is its own affair: each page is asked. */
    unsigned char there;
    while (vdso_start - vvar < SPECIAL_MAX && eg_sys3(SYS_mincore, vvar - EG_PAGE_BYTES, EG_PAGE_BYTES, &there) == 0)
        vvar -= EG_PAGE_BYTES;
    special_move(vvar, vdso_start, STASH);
    special_move(vdso_start, vdso_start + bytes, STASH + (vdso_start - vvar));
    wk.vdso = STASH + (vdso_start - vvar);
    eg_sys2(SYS_munmap, 0, EG_WORKER_START);
    eg_sys2(SYS_munmap, EG_WORKER_END, EG_USER_END - EG_WORKER_END);

    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP};
    long fd = eg_sys1(SYS_userfaultfd, USER_MODE_ONLY | 02000000 /* O_CLOEXEC */);
    if (eg_sys_failed(fd))
        wk_die("no userfaultfd here, errno", fd);
    wk.uffd = (int)fd;
    long rc = uffd(UFFDIO_API, &api);
    if (rc)
        wk_die("this kernel's userfaultfd lacks SIGBUS or write-protection, errno", rc);
    uint64_t low = EG_USER_START;
    uint64_t part[2][2] = {{low, EG_WORKER_START}, {EG_WORKER_END, EG_USER_END}};
    for (int i = 0; i < 2; i++) {
        uint64_t n = part[i][1] - part[i][0];
        long p = eg_sys6(SYS_mmap, part[i][0], n, 7, 0x4032, -1, 0);
        struct uffdio_register r = {.range = {part[i][0], n}, .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP};
        if (eg_sys_failed(p))
            wk_die("cannot map the program's address space (ulimit -v, vm.overcommit_memory=2?), errno", p);
        eg_sys3(SYS_madvise, part[i][0], n, 15 /* MADV_NOHUGEPAGE */);
        eg_sys3(SYS_madvise, part[i][0], n, 16 /* MADV_DONTDUMP */);
        rc = uffd(UFFDIO_REGISTER, &r);
        if (rc)
            wk_die("cannot watch the program's address space, errno", rc);
    }
}

static struct sock_filter filter[FILTER_MAX];
static long filter_bytes;

/* First thing of all: the number may be taken by another file later. */
static void filter_read(void)
{
    filter_bytes = eg_sys3(SYS_read, FILTER_FD, filter, sizeof filter);
    if (filter_bytes != -EBADF)
        eg_sys1(SYS_close, FILTER_FD);
}

static void filter_put_on(void)
{
    if (filter_bytes == -EBADF)
        return;
    struct sock_fprog prog = {.len = (unsigned short)((uint64_t)filter_bytes / sizeof *filter), .filter = filter};
    eg_sys5(SYS_prctl, 38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0);
    long rc = filter_bytes <= 0 ? -EINVAL : eg_sys3(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 0, &prog);
    if (rc)
        wk_die("cannot put the seccomp filter on, errno", rc);
}

/* Where home has its vDSO; what of it is a plain call here. */
static const uint8_t vdso_call[] = {0x49, 0x89, 0xca, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3}; /* mov %rcx,%r10; mov $nr,%eax; syscall; ret */
#define VDSO_CALLS 6u
#define VDSO_CALL_NR 4u
static struct {
    uint64_t start, end;
    uint32_t n_calls;
    uint64_t calls[VDSO_CALLS];
} vdso;

int wk_vdso_home(uint64_t *r)
{
    uint64_t rip = r[EG_REG_RIP];
    if (rip < vdso.start || rip >= vdso.end)
        return 0;
    for (uint32_t i = 0; i < vdso.n_calls; i++)
        if (rip > vdso.calls[i] && rip < vdso.calls[i] + sizeof vdso_call) {
            r[EG_REG_RCX] = r[EG_REG_R10];
            r[EG_REG_RIP] = vdso.calls[i];
        }
    return 1;
}

/* A copy of the vDSO whose functions are plain system calls, which home answers. Its data is this machine's, and is not there. */
static void vdso_by_calls(uint64_t at, uint64_t bytes)
{
    static const struct {
        const char *name;
        uint32_t nr;
    } calls[VDSO_CALLS] = {
        {"__vdso_clock_gettime", SYS_clock_gettime}, {"__vdso_gettimeofday", SYS_gettimeofday}, {"__vdso_time", SYS_time},
        {"__vdso_clock_getres", SYS_clock_getres}, {"__vdso_getcpu", SYS_getcpu}, {"__vdso_getrandom", SYS_getrandom},
    };
    long p = eg_sys6(SYS_mmap, at, bytes, 7, 0x32, -1, 0);
    if (eg_sys_failed(p))
        wk_die("cannot map a vDSO, errno", p);
    memcpy((void *)at, (const void *)wk.vdso, bytes);
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)at;
    const Elf64_Phdr *ph = (const Elf64_Phdr *)(at + eh->e_phoff);
    const Elf64_Dyn *dyn = NULL;
    const Elf64_Sym *sym = NULL;
    const char *str = NULL;
    for (int i = 0; i < eh->e_phnum; i++)
        if (ph[i].p_type == PT_DYNAMIC)
            dyn = (const Elf64_Dyn *)(at + ph[i].p_offset);
    for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
        if (dyn->d_tag == DT_SYMTAB)
            sym = (const Elf64_Sym *)(at + dyn->d_un.d_ptr);
        if (dyn->d_tag == DT_STRTAB)
            str = (const char *)(at + dyn->d_un.d_ptr);
    }
    uint32_t done = 0;
    for (sym = sym ? sym + 1 : sym; str && (const char *)(sym + 1) <= str; sym++) /* the names follow the symbols in every vDSO so far */
        for (uint32_t i = 0; i < sizeof calls / sizeof *calls; i++) {
            if (memcmp(str + sym->st_name, calls[i].name, eg_strlen(calls[i].name) + 1) != 0)
                continue;
            if (done & 1u << i || sym->st_size < sizeof vdso_call) /* it looks for the data then, and goes home */
                continue;
            uint8_t *code = (uint8_t *)at + sym->st_value;
            memcpy(code, vdso_call, sizeof vdso_call);
            memcpy(code + VDSO_CALL_NR, &calls[i].nr, 4);
            vdso.calls[vdso.n_calls++] = (uint64_t)code;
            done |= 1u << i;
        }
    if (!(done & 1))
        wk_die("this vDSO has no clock_gettime where it was looked for", 0);
    eg_sys3(SYS_mprotect, at, bytes, 5);
}

static void cohere_begin(int fd, const struct eg_node_hello *hello)
{
    wk.stream_fd = fd;
    wk.home_pid = hello->pid;
    wk.other_clock = (hello->flags & EG_HELLO_OTHER_CLOCK) != 0;
    uint64_t bytes = vdso_bytes(wk.vdso);
    vdso.start = hello->vdso;
    vdso.end = hello->vdso ? hello->vdso + bytes : 0;
    if (hello->vdso && hello->flags & EG_HELLO_OTHER_CLOCK) {
        vdso_by_calls(hello->vdso, bytes);
    } else if (hello->vdso) {
        uint64_t gap = hello->vdso - hello->vvar;
        special_move(wk.vdso - gap, wk.vdso, hello->vvar);
        special_move(wk.vdso, wk.vdso + bytes, hello->vdso);
        wk.vdso = hello->vdso;
    }
    if (hello->where) { /* the runtime's code, should the program run into it, sees that it is not at home */
        long p = eg_sys6(SYS_mmap, hello->where, EG_PAGE_BYTES, 3, 0x32, -1, 0);
        if (eg_sys_failed(p))
            wk_die("cannot map the runtime's own page, errno", p);
        *(uint32_t *)hello->where = 1;
        eg_sys3(SYS_mprotect, hello->where, EG_PAGE_BYTES, 1); /* not the program's, to be given away */
    }
    struct eg_node_welcome welcome = {.magic = EG_THREADS_MAGIC, .version = EG_THREADS_VERSION, .status = STREAM_OK, .most_pages = most_pages};
    if (!wk_write_full(fd, &welcome, sizeof welcome, NULL, 0))
        eg_sys1(SYS_exit_group, 0);
}

/* A stream from the daemon. */
static void control_turn(void)
{
    struct eg_node_hello hello;
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec v = {&hello, sizeof hello};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    long n = eg_sys3(SYS_recvmsg, wk.control_fd, &m, MSG_CMSG_CLOEXEC);
    if (n <= 0 && n != -EINTR && n != -EAGAIN)
        for (;;)
            eg_sys1(SYS_exit_group, 0); /* the daemon is gone */
    int fd = -1;
    if (n == sizeof hello && m.msg_controllen >= CMSG_LEN(sizeof(int)) && control.head.cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
    if (fd < 0)
        return;
    if (hello.kind == EG_STREAM_COHERENCE && wk.stream_fd < 0)
        cohere_begin(fd, &hello);
    else if (hello.kind == EG_STREAM_THREAD && wk.stream_fd >= 0)
        wk_twin_new(fd);
    else
        eg_sys1(SYS_close, fd);
}

static void main_loop(void *arg)
{
    (void)arg;
    wk.pid = (uint32_t)eg_sys0(SYS_getpid);
    filter_read();
    address_space_init();
    wk_signals_init();
    eg_sys5(SYS_prctl, 29 /* PR_SET_TIMERSLACK */, 1, 0, 0, 0);
    eg_sys_slice(SLICE_NS);
    wk.n_processors = eg_sys_processors();
    filter_put_on();
    eg_sys3(SYS_write, wk.control_fd, "R", 1);
    struct eg_spin spin = {0};
    for (;;) {
        if (wk.stream_fd >= 0 && stream_turn())
            spin.begun_ns = 0;
        uint64_t soonest = deferred_run(0);
        if (wk.stream_fd >= 0 && eg_spin_turn(&spin, wk_spin_ns()))
            continue;
        struct pollfd p[2] = {{.fd = wk.control_fd, .events = POLLIN}, {.fd = wk.stream_fd, .events = POLLIN}};
        uint64_t now = soonest ? eg_sys_now_ns() : 0;
        struct timespec soon = {.tv_nsec = soonest > now ? (long)(soonest - now) : 0};
        eg_sys5(SYS_ppoll, p, 2, soonest ? &soon : NULL, 0, 8);
        if (p[0].revents)
            control_turn();
        spin.begun_ns = 0;
    }
}

__attribute__((noreturn)) void wk_start(const uint64_t *sp);
void wk_start(const uint64_t *sp)
{
    const uint64_t *at = sp + 1 + sp[0] + 1; /* past argc, argv */
    for (const char *pages = sp[0] > 1 ? (const char *)sp[2] : ""; *pages >= '0' && *pages <= '9'; pages++)
        most_pages = most_pages * 10 + (uint64_t)(*pages - '0');
    while (*at++)
        ; /* past envp */
    for (; at[0]; at += 2)
        if (at[0] == 33 /* AT_SYSINFO_EHDR */)
            vdso_start = at[1];
    if (!vdso_start)
        wk_die("this kernel gives no vDSO", 0);
    wk_call_on(main_stack + sizeof main_stack, main_loop, NULL);
}
