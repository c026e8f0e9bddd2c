/* verbs.c - the rdma transport: calls into libendgame-verbs.so, which is hosted code in a link namespace of its own (why:
 * client/verbs/eg_verbs_lib.h). Whoever holds the pager's lock may be any thread of the program, inside what the program takes
 * for a system call, or the pager's thread, which has no TLS. So a call takes the namespace's TLS (FS base), a stack, and
 * saves the vector registers of a program thread. Signals are blocked wherever the lock is held, so no handler sees the other FS base. */
#include "client/pager/eg_verbs_call.h"

#include <asm/prctl.h>
#include <errno.h>
#include <poll.h>

#define SPIN_NS 50000u
#define CONNECT_TIMEOUT_MS 10000u
#define HWCAP2_FSGSBASE_BIT 2u

static struct {
    const struct eg_verbs_lib *lib;
    uint8_t *stack_top;
    uint8_t *registers;   /* XSAVE area */
    int have_fsgsbase, have_xsave;
} here;

static uint32_t xsave_bytes(void)
{
    uint32_t a = 1, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(c >> 27 & 1))
        return 0; /* the kernel does not use XSAVE */
    a = 13;
    c = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return b;
}

int eg_verbs_init(const struct eg_verbs_lib *lib, uint64_t hwcap2)
{
    uint32_t bytes = xsave_bytes();
    uint8_t *stack = eg_sys_map(EG_VERBS_STACK_BYTES);
    here.registers = eg_sys_map(bytes < EG_PAGE_BYTES ? EG_PAGE_BYTES : bytes);
    if (!stack || !here.registers)
        return -ENOMEM;
    here.have_xsave = bytes != 0;
    here.have_fsgsbase = (hwcap2 & HWCAP2_FSGSBASE_BIT) != 0;
    here.stack_top = stack + EG_VERBS_STACK_BYTES;
    here.lib = lib;
    return 0;
}

static uint64_t fs_get(void)
{
    uint64_t v = 0;
    if (here.have_fsgsbase)
        __asm__ volatile("rdfsbase %0" : "=r"(v));
    else
        eg_sys2(SYS_arch_prctl, ARCH_GET_FS, &v);
    return v;
}

static void fs_set(uint64_t v)
{
    if (here.have_fsgsbase)
        __asm__ volatile("wrfsbase %0" : : "r"(v) : "memory");
    else
        eg_sys2(SYS_arch_prctl, ARCH_SET_FS, v);
}

/* Context: lock held. */
static long cross(void *fn, const void *a, const void *b, uint64_t c)
{
    long ret;
    uint64_t fs = fs_get();
    int save = !eg_rt.on_pager;
    if (save && here.have_xsave)
        __asm__ volatile("xsave64 %0" : "+m"(*here.registers) : "a"(-1), "d"(-1) : "memory");
    else if (save)
        __asm__ volatile("fxsave64 %0" : "+m"(*here.registers) : : "memory");
    fs_set((uint64_t)here.lib->tls);
    __asm__ volatile("mov %%rsp, %%rbx\n\t"
                     "mov %[top], %%rsp\n\t"
                     "call *%[fn]\n\t"
                     "mov %%rbx, %%rsp"
                     : "=a"(ret), "+D"(a), "+S"(b), "+d"(c)
                     : [fn] "r"(fn), [top] "r"(here.stack_top)
                     : "rbx", "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
    fs_set(fs);
    if (save && here.have_xsave)
        __asm__ volatile("xrstor64 %0" : : "m"(*here.registers), "a"(-1), "d"(-1) : "memory");
    else if (save)
        __asm__ volatile("fxrstor64 %0" : : "m"(*here.registers) : "memory");
    return ret;
}

/* --- the transport -------------------------------------------------------------------------------------------------------- */

static int rdma_submit(struct eg_link *link, struct eg_io *io)
{
    io->key = link->keys[io->offset / EG_SLAB_BYTES];
    long rc = cross((void *)here.lib->submit, link->verbs, io, 0);
    if (!rc)
        link->outstanding++;
    return (int)rc;
}

static int rdma_poll(struct eg_link *link, struct eg_io_queue *done)
{
    long n = cross((void *)here.lib->poll, link->verbs, done, 0);
    if (n > 0)
        link->outstanding -= (uint32_t)n;
    return (int)n;
}

static int rdma_arm(struct eg_link *link)
{
    return (int)cross((void *)here.lib->arm, link->verbs, NULL, 0);
}

static void rdma_close(struct eg_link *link)
{
    if (link->verbs)
        cross((void *)here.lib->close, link->verbs, NULL, 0);
    link->verbs = NULL;
    link->fd = -1;
}

const struct eg_transport eg_transport_rdma = {.name = "rdma", .submit = rdma_submit, .poll = rdma_poll, .arm = rdma_arm, .close = rdma_close, .registered = 1};

/* --- sessions --------------------------------------------------------------------------------------------------------------- */

int eg_verbs_dial(struct eg_server *s)
{
    struct eg_verbs_open arg = {
        .sockaddr = s->config->sockaddr,
        .timeout_ms = CONNECT_TIMEOUT_MS,
        .area = {{eg_rt.stage, (uint64_t)EG_N_SLOTS * EG_PAGE_BYTES},
                 {eg_rt.fetch_buf, (uint64_t)EG_N_FETCHES * EG_FETCH_PAGES * EG_PAGE_BYTES}},
    };
    memcpy(arg.token, eg_rt.pool->token, EG_TOKEN_BYTES);
    if (!here.lib)
        return -ENODEV;
    long rc = cross((void *)here.lib->open, &arg, NULL, 0);
    if (rc)
        return (int)rc;
    uint32_t *keys = s->link.keys;
    s->link = (struct eg_link){.ops = &eg_transport_rdma, .fd = arg.cq_fd, .verbs = arg.link, .keys = keys};
    s->control_fd = arg.cm_fd;
    return 0;
}

/* Nothing moved: spin a while, then sleep until the device has something. Returns: 0, -ETIMEDOUT, -errno. */
static int pause_for(struct eg_link *link, uint64_t *since_ns, uint32_t timeout_ms)
{
    uint64_t now = eg_sys_now_ns();
    if (!*since_ns)
        *since_ns = now;
    if (now - *since_ns < SPIN_NS) {
        eg_sys0(SYS_sched_yield);
        return 0;
    }
    if (now - *since_ns > timeout_ms * 1000000ull)
        return -ETIMEDOUT;
    int rc = eg_verbs_check(link);
    if (!rc)
        rc = rdma_arm(link);
    if (rc)
        return rc;
    /* What came between the last look and the arming raises no event: hence the short sleep. */
    struct pollfd p = {.fd = link->fd, .events = POLLIN};
    struct timespec limit = {.tv_nsec = 1000000};
    eg_sys5(SYS_ppoll, &p, 1, &limit, 0, 8);
    return 0;
}

static int stream(struct eg_link *link, void *fn, uint8_t *buf, size_t len, uint32_t timeout_ms)
{
    uint64_t since_ns = 0;
    while (len) {
        long n = cross(fn, link->verbs, buf, len);
        if (n < 0)
            return (int)n;
        if (n > 0) {
            buf += n;
            len -= (size_t)n;
            since_ns = 0;
            continue;
        }
        int rc = pause_for(link, &since_ns, timeout_ms);
        if (rc)
            return rc;
    }
    return 0;
}

int eg_verbs_send(struct eg_link *link, const void *buf, size_t len, uint32_t timeout_ms)
{
    return stream(link, (void *)here.lib->send, (uint8_t *)(uintptr_t)buf, len, timeout_ms);
}

int eg_verbs_recv(struct eg_link *link, void *buf, size_t len, uint32_t timeout_ms)
{
    return stream(link, (void *)here.lib->recv, buf, len, timeout_ms);
}

int eg_verbs_check(struct eg_link *link)
{
    return (int)cross((void *)here.lib->check, link->verbs, NULL, 0);
}

void eg_verbs_forked(void)
{
    if (here.lib)
        cross((void *)here.lib->forked, NULL, NULL, 0);
}
