/* patch.c - find the system-call sites of a piece of text and lead them to the gate. The view's calls (EG_GATE_FOR_VIEW) are looked for where the
 * compiler put something between their mov and syscall, too. */
#include "client/gate/eg_gate.h"
#include "proto/eg_sys.h"
#include "client/gate/eg_patch.h"

#include <errno.h>
#include <sys/mman.h>

#define MAX_SITES 256
#define REACH (1l << 30)
#define TRAMPOLINE_BYTES 56
#define BETWEEN_MAX 14u

static const struct {
    uint16_t nr, needed;
} calls[] = {
#define X(name, number, needed) {number, needed},
    EG_GATE_CALLS(X)
#undef X
};

/* syscall(3) ends in: mov 0x8(%rsp),%r9; syscall. */
static const uint8_t generic_site[7] = {0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05};

/* The end of libc's threads, a loop: xor %edi,%edi; mov %edx,%eax; syscall, with mov $60,%edx right before it. The jump takes the first five
 * of its six bytes; nobody jumps onto the syscall of an endless loop. */
static const uint8_t exit_site[6] = {0x31, 0xff, 0x89, 0xd0, 0x0f, 0x05};
static const uint8_t exit_number[5] = {0xba, 0x3c, 0x00, 0x00, 0x00};
#define EXIT_REACH 24

/* The beginning of libc's threads: set_robust_list, and a little further on the rt_sigprocmask after which the program's function is called. */
#define SET_ROBUST_LIST 273u
#define SIGPROCMASK 14u
#define START_REACH 160
/* Its end, after the program's function: the count of threads is lowered. */
#define COUNT_REACH 256

uint8_t eg_gate_nodes, eg_gate_view, eg_gate_start, eg_gate_all;
uint64_t eg_gate_count;

static int is_exit_site(const uint8_t *syscall, const uint8_t *text)
{
    if (syscall - text < 4 + EXIT_REACH || memcmp(syscall - 4, exit_site, sizeof exit_site) != 0)
        return 0;
    for (int back = 5; back <= EXIT_REACH; back++)
        if (memcmp(syscall - 4 - back, exit_number, sizeof exit_number) == 0)
            return 1;
    return 0;
}

int eg_patch_number_index(uint32_t nr)
{
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (calls[i].nr == nr)
            return (int)i;
    return -1;
}

/* Is it to be patched in this run, wherever it is? */
static int number_known(uint32_t nr)
{
    int i = eg_patch_number_index(nr);
    switch (i < 0 ? 0 : calls[i].needed) {
    case EG_GATE_FOR_START: return -1;
    case EG_GATE_FOR_VIEW: return eg_gate_view ? i : -1;
    case EG_GATE_FOR_NODES: return eg_gate_nodes ? i : -1;
    default: return i;
    }
}

static uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

int eg_patch_is_number(const uint8_t *p, const uint8_t *text)
{
    if (p[0] != 0xb8)
        return 0;
    /* REX.B: the mov goes to r8d; REX.W: its constant has eight bytes */
    return !(p > text && ((p[-1] & 0xf1) == 0x41 || (p[-1] & 0xf8) == 0x48));
}

/* mov $nr,%eax at p. Returns: index of the call, -1 not one of ours. */
static int number_at(const uint8_t *p, const uint8_t *text)
{
    return eg_patch_is_number(p, text) ? number_known(load32(p + 1)) : -1;
}

/* Whole instructions that move, add or compare registers and constants, without touching eax, memory or the place where they stand: they do
 * the same in a trampoline. */
static int is_plain(const uint8_t *c, size_t n)
{
    while (n) {
        uint8_t rex = (*c & 0xf0) == 0x40 ? *c : 0;
        if (rex) {
            c++;
            n--;
        }
        size_t len = 2;
        uint32_t into = 1; /* the register that changes; not eax */
        if (n < 2)
            return 0;
        switch (c[0]) {
        case 0x31: case 0x89: into = (c[1] & 7u) | (rex & 1u) << 3; break;       /* xor, mov */
        case 0x33: case 0x8b: into = (c[1] >> 3 & 7u) | (rex & 4u) << 1; break;
        case 0x39: case 0x3b: case 0x85: break;                                  /* cmp, test */
        case 0x0f:
            len = 3;
            if (n < 3 || (c[1] & 0xf0) != 0x40) /* cmov */
                return 0;
            into = (c[2] >> 3 & 7u) | (rex & 4u) << 1;
            break;
        case 0xb8: case 0xb9: case 0xba: case 0xbb: case 0xbe: case 0xbf:        /* mov of a constant */
            len = 5;
            into = (c[0] & 7u) | (rex & 1u) << 3;
            if (rex & 8)
                return 0;
            break;
        case 0x8d:                                                               /* lea of a register and a constant */
            len = c[1] >> 6 == 1 ? 3 : 6;
            into = (c[1] >> 3 & 7u) | (rex & 4u) << 1;
            if ((c[1] >> 6 != 1 && c[1] >> 6 != 2) || (c[1] & 7) == 4 || n < len)
                return 0;
            break;
        default: return 0;
        }
        if (n < len || into == 0 || (len < 5 && c[0] != 0x8d && c[len - 1] < 0xc0))
            return 0;
        c += len;
        n -= len;
    }
    return 1;
}

/* The syscall is at p, its number is set before it. Returns: index of the call, -1 not one of ours, -2 the generic site; ret_between: bytes of
 * code between the mov and the syscall. */
static int site_at(const uint8_t *p, const uint8_t *text, size_t *ret_between)
{
    *ret_between = 0;
    if (memcmp(p - 5, generic_site, sizeof generic_site) == 0)
        return -2;
    int k = number_at(p - 5, text);
    for (size_t n = 2; eg_gate_view && k == -1 && n <= BETWEEN_MAX && (size_t)(p - text) >= n + 5; n++) {
        int there = number_at(p - 5 - n, text);
        if (there >= 0 && calls[there].needed == EG_GATE_FOR_VIEW && is_plain(p - n, n)) {
            *ret_between = n;
            k = there;
        }
    }
    return k;
}

/* The call after which a new thread of libc's runs the program's function. */
static int is_start_site(const uint8_t *p, const uint8_t *text, const uint8_t *robust, size_t *ret_between)
{
    if (!eg_gate_nodes || !robust || p - robust > START_REACH)
        return 0;
    for (size_t n = 0; n <= BETWEEN_MAX; n++)
        if (eg_patch_is_number(p - 5 - n, text) && load32(p - 4 - n) == SIGPROCMASK && is_plain(p - n, n)) {
            *ret_between = n;
            return 1;
        }
    return 0;
}

/* The instruction that takes one from a global count, behind the start. Returns: NULL: there is none. */
static const uint8_t *count_find(const uint8_t *p, const uint8_t *end)
{
    static const uint8_t dec[] = {0xf0, 0xff, 0x0d}, sub[] = {0xf0, 0x83, 0x2d}; /* lock decl x(%rip); lock subl $1,x(%rip) */
    end = end - p > COUNT_REACH ? p + COUNT_REACH : end;
    for (; p + 8 <= end; p++)
        if (!memcmp(p, dec, sizeof dec) || (!memcmp(p, sub, sizeof sub) && p[7] == 1))
            return p;
    return NULL;
}

uint8_t *eg_patch_put_red_zone_back(uint8_t *at)
{
    static const uint8_t code[] = {0x48, 0x8d, 0xa4, 0x24, 0x80, 0x00, 0x00, 0x00}; /* lea 128(%rsp),%rsp */
    return eg_patch_put(at, code, sizeof code);
}

static uint8_t *put_entry_call(uint8_t *at, void *const *entry)
{
    uint8_t call[6] = {0xff, 0x15}; /* call *entry(%rip) */
    int32_t rel = (int32_t)((const uint8_t *)entry - (at + 6));
    memcpy(call + 2, &rel, 4);
    return eg_patch_put(at, call, sizeof call);
}

uint8_t *eg_patch_put_call(uint8_t *at, void *const *entry)
{
    static const uint8_t skip_red_zone[] = {0x48, 0x8d, 0x64, 0x24, 0x80}; /* lea -128(%rsp),%rsp */
    return eg_patch_put_red_zone_back(put_entry_call(eg_patch_put(at, skip_red_zone, sizeof skip_red_zone), entry));
}

static void trampoline_write(uint8_t *t, const uint8_t *site, size_t between, void *const *entry)
{
    uint8_t *at = eg_patch_put(t, site, 5 + between); /* mov $nr,%eax, or syscall(3)'s mov 8(%rsp),%r9 */
    at = eg_patch_put_jump(eg_patch_put_call(at, entry), site + between + 7);
    eg_patch_put_jump(eg_patch_put_red_zone_back(at), site + between + 5);
}

#define EXIT_IN_PLACE_BYTES 2u /* xor %edi,%edi, before exit's syscall */
#define IN_PLACE_JUMP 37u /* where that last jump is, if nothing lies between mov and syscall */

static uint64_t jump_at(uint64_t at)
{
    uint8_t code[5];
    int32_t rel;
    if (eg_sys_copy_in(code, at, sizeof code) != sizeof code || code[0] != 0xe9)
        return 0;
    memcpy(&rel, code + 1, sizeof rel);
    return at + sizeof code + (uint64_t)(int64_t)rel;
}

uint64_t eg_gate_site(uint64_t after)
{
    uint64_t site = after - 7, trampoline = jump_at(site);
    return trampoline && jump_at(trampoline + IN_PLACE_JUMP) == after - 2 ? site : 0;
}

#define CALL_BYTES 6u    /* call *entry(%rip) */
#define RED_ZONE_BACK 8u /* bytes of code */

/* Is that the place, in a trampoline, where a call in place begins? Returns: the trampoline's call of the gate, 0. */
static uint64_t entry_call_before(uint64_t at)
{
    uint64_t call = at - EG_GATE_PASS_BYTES - CALL_BYTES, entry;
    uint8_t code[CALL_BYTES];
    int32_t rel;
    if (eg_sys_copy_in(code, call, sizeof code) != sizeof code || code[0] != 0xff || code[1] != 0x15)
        return 0;
    memcpy(&rel, code + 2, sizeof rel);
    return eg_sys_copy_in(&entry, call + CALL_BYTES + (uint64_t)(int64_t)rel, sizeof entry) == sizeof entry && entry == (uint64_t)eg_gate_entry ? call : 0;
}

void eg_gate_again(uint64_t *rip, uint64_t *rsp)
{
    uint64_t at = *rip, sp = *rsp, call;
    if (at == (uint64_t)eg_gate_looked || at == (uint64_t)eg_gate_away) {
        *rip = (uint64_t)eg_gate_entry;
        return;
    }
    if (at == (uint64_t)eg_gate_away_end) {
        if (eg_sys_copy_in(&at, sp, sizeof at) != sizeof at)
            return;
        sp += sizeof at;
    }
    if ((call = entry_call_before(at)) || (call = entry_call_before(at - EXIT_IN_PLACE_BYTES))) {
        *rip = call;
        *rsp = sp;
    } else if ((call = entry_call_before(at - RED_ZONE_BACK))) {
        *rip = call;
        *rsp = sp - EG_GATE_RED_ZONE;
    } else if ((call = eg_gate_site(at + 2))) {
        *rip = call;
    }
}

struct eg_gate_libc eg_gate_libc;

int eg_gate_is_libc(uint64_t after)
{
    static uint64_t known[64]; /* the answer in the top bit */
    uint64_t *last = &known[after % 64], was = __atomic_load_n(last, __ATOMIC_RELAXED);
    uint8_t code[sizeof generic_site - 2];
    int in = 0;
    if (was << 1 >> 1 == after)
        return (int)(was >> 63);
    uint64_t trampoline = eg_gate_site(after);
    for (uint32_t i = 0; i < eg_gate_libc.n; i++)
        in |= after > eg_gate_libc.lo[i] && after < eg_gate_libc.hi[i];
    trampoline = in && trampoline ? jump_at(trampoline) : 0;
    in &= !(trampoline && eg_sys_copy_in(code, trampoline, sizeof code) == sizeof code && memcmp(code, generic_site, sizeof code) == 0);
    __atomic_store_n(last, after | (uint64_t)in << 63, __ATOMIC_RELAXED);
    return in;
}

static void exit_trampoline_write(uint8_t *t, void *const *entry)
{
    static const uint8_t begin[] = {0xb8, 0x3c, 0x00, 0x00, 0x00, 0x31, 0xff, 0x48, 0x8d, 0x64, 0x24, 0x80}; /* mov $60,%eax; xor %edi,%edi; lea -128(%rsp),%rsp */
    static const uint8_t never[13] = {0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b, 0x90};
    static const uint8_t in_place[] = {0x31, 0xff, 0x0f, 0x05, 0x0f, 0x0b}; /* xor %edi,%edi; syscall; ud2 */
    uint8_t *at = put_entry_call(eg_patch_put(t, begin, sizeof begin), entry);
    at = eg_patch_put(at, never, sizeof never);
    eg_patch_put(at, in_place, sizeof in_place);
}

uint8_t *eg_patch_near_memory(uint8_t *text, size_t text_bytes, size_t bytes)
{
    uint64_t at = ((uint64_t)text - (64ul << 10) - bytes) & ~(EG_PAGE - 1);
    for (; (int64_t)((uint64_t)text + text_bytes - at) < REACH; at -= 64ul << 10) {
        long p = eg_sys6(SYS_mmap, at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == (long)at)
            return (uint8_t *)p;
        if (!eg_sys_failed(p))
            eg_sys2(SYS_munmap, p, bytes); /* kernels before 4.17 take the flag for a hint */
    }
    return NULL;
}

static int site_patch(uint8_t *site, const uint8_t *trampoline)
{
    uint64_t first = (uint64_t)site & ~(EG_PAGE - 1), last = ((uint64_t)site + 6) & ~(EG_PAGE - 1);
    size_t bytes = last - first + EG_PAGE;
    long rc = eg_sys3(SYS_mprotect, first, bytes, PROT_READ | PROT_WRITE);
    if (eg_sys_failed(rc))
        return (int)rc;
    eg_patch_put_jump(site, trampoline);
    return (int)eg_sys3(SYS_mprotect, first, bytes, PROT_READ | PROT_EXEC);
}

typedef uint64_t __attribute__((may_alias, aligned(1))) any_word;

/* Seven places at a time: every start of a program pays. */
static uint8_t *next_syscall(uint8_t *p, uint8_t *end)
{
    const uint64_t ones = 0x0101010101010101ull, tops = ones * 0x80;
    while (p + 8 <= end) {
        uint64_t w = *(const any_word *)p;
        /* A byte of x is 0 where this one is 0f and the next one 05 (never the last: its next one is not in w). */
        uint64_t x = (w ^ ones * 0x0f) | ((w >> 8) ^ ones * 0x05);
        uint64_t hit = (x - ones) & ~x & tops;
        if (hit)
            return p + __builtin_ctzll(hit) / 8;
        p += 7;
    }
    for (; p + 1 < end; p++)
        if (p[0] == 0x0f && p[1] == 0x05)
            return p;
    return NULL;
}

struct site {
    uint8_t *at;
    uint8_t exits, between;
};

/* Trampolines for n sites, and the jumps to them. Returns: n, -errno. */
static int sites_patch(uint8_t *text, size_t bytes, const struct site *site, int n)
{
    if (!n)
        return 0;
    size_t need = (sizeof(void *) + (size_t)n * TRAMPOLINE_BYTES + EG_PAGE - 1) & ~(EG_PAGE - 1);
    uint8_t *mem = eg_patch_near_memory(text, bytes, need);
    if (!mem)
        return -ENOMEM;
    void **entry = (void **)mem;
    *entry = (void *)eg_gate_entry;
    for (int i = 0; i < n; i++) {
        uint8_t *t = mem + sizeof(void *) + (size_t)i * TRAMPOLINE_BYTES;
        if (site[i].exits)
            exit_trampoline_write(t, entry);
        else
            trampoline_write(t, site[i].at, site[i].between, entry);
    }
    long rc = eg_sys3(SYS_mprotect, mem, need, PROT_READ | PROT_EXEC);
    for (int i = 0; i < n && !eg_sys_failed(rc); i++)
        rc = site_patch(site[i].at, mem + sizeof(void *) + (size_t)i * TRAMPOLINE_BYTES);
    return eg_sys_failed(rc) ? (int)rc : n;
}

int eg_gate_patch_number(uint8_t *text, size_t bytes, uint32_t nr)
{
    struct site site[MAX_SITES];
    int n = 0;
    for (uint8_t *p = text + 5 + BETWEEN_MAX; n < MAX_SITES && p < text + bytes && (p = next_syscall(p, text + bytes)); p++)
        for (uint8_t between = 0; between <= BETWEEN_MAX; between++)
            if (eg_patch_is_number(p - 5 - between, text) && load32(p - 4 - between) == nr && is_plain(p - between, between)) {
                site[n++] = (struct site){p - 5 - between, 0, between};
                break;
            }
    return sites_patch(text, bytes, site, n);
}

int eg_gate_patch(uint8_t *text, size_t bytes, uint32_t *ret_found, uint32_t *ret_patched)
{
    struct site site[MAX_SITES];
    int n = 0;
    const uint8_t *robust = NULL; /* the last set_robust_list */
    for (uint8_t *p = text + 5; (p = next_syscall(p, text + bytes)); p++) {
        if (is_exit_site(p, text)) {
            if (n == MAX_SITES)
                return -E2BIG;
            site[n].exits = 1;
            site[n++].at = p - 4;
            continue;
        }
        size_t between;
        int k = site_at(p, text, &between);
        if (eg_patch_is_number(p - 5, text) && load32(p - 4) == SET_ROBUST_LIST)
            robust = p;
        if (k == -1 && is_start_site(p, text, robust, &between)) {
            eg_gate_start = 1;
            eg_gate_count = eg_gate_count ? eg_gate_count : (uint64_t)count_find(p, text + bytes);
            robust = NULL;
            k = eg_patch_number_index(SIGPROCMASK);
        }
        if (k == -1) {
            *ret_patched += p[-5] == 0xe9;
            continue;
        }
        if (n == MAX_SITES)
            return -E2BIG;
        if (k >= 0)
            ret_found[k]++;
        site[n].exits = 0;
        site[n].between = (uint8_t)between;
        site[n++].at = p - 5 - between;
    }
    return sites_patch(text, bytes, site, n);
}
