/* init.c - the start: reads what `endgame run` left in the pool file, patches the gate in, captures what is there already. */
#include "client/preload/endgame.h"

#include "client/gate/eg_gate.h"
#include "client/gate/eg_texts.h"
#include "client/pager/eg_hints.h"
#include "client/pager/eg_pager.h"
#include "client/pager/eg_verbs_call.h"
#include "client/threads/eg_home.h"

#include <dlfcn.h>
#include <elf.h>
#include <emmintrin.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define ADOPT_MIN_BYTES (64u << 10)
#define EXIT_ENDGAME 125
#define TRACERS_MAX_BYTES (16ul << 20) /* of text that is looked through for them: a few milliseconds */
#define RESERVE_BYTES (4ul << 30)       /* the tables of 2 TiB of captured memory */
#define RESERVE_SMALL_BYTES (32ul << 20)
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

static __attribute__((noreturn)) void refuse(const char *why)
{
    char line[256];
    size_t n = eg_str_put(line, sizeof line, 0, "endgame: ");
    n = eg_str_put(line, sizeof line, n, why);
    n = eg_str_put(line, sizeof line, n, "\n");
    if (write(2, line, n) < 0)
        _exit(EXIT_ENDGAME);
    _exit(EXIT_ENDGAME);
}

/* The kernel's clock without libc: libc's own wrapper may look at TLS, which the pager's thread has not. */
static int (*vdso_clock(void))(int, void *)
{
    const uint8_t *base = (const uint8_t *)getauxval(AT_SYSINFO_EHDR);
    if (!base)
        return NULL;
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)base;
    const Elf64_Phdr *ph = (const Elf64_Phdr *)(base + eh->e_phoff);
    const Elf64_Dyn *dyn = NULL;
    uint64_t load = 0;
    for (int i = 0; i < eh->e_phnum; i++) {
        if (ph[i].p_type == PT_LOAD && !load)
            load = (uint64_t)base + ph[i].p_offset - ph[i].p_vaddr;
        if (ph[i].p_type == PT_DYNAMIC)
            dyn = (const Elf64_Dyn *)(base + ph[i].p_offset);
    }
    const Elf64_Sym *sym = NULL;
    const char *str = NULL;
    uint64_t str_bytes = 0;
    for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
        if (dyn->d_tag == DT_SYMTAB)
            sym = (const Elf64_Sym *)(load + dyn->d_un.d_ptr);
        if (dyn->d_tag == DT_STRTAB)
            str = (const char *)(load + dyn->d_un.d_ptr);
        if (dyn->d_tag == DT_STRSZ)
            str_bytes = dyn->d_un.d_val;
    }
    if (!sym || !str || (const char *)sym >= str)
        return NULL;
    /* The string table follows the symbols in every vDSO so far; the name's offset is checked all the same. */
    for (sym++; (const char *)(sym + 1) <= str; sym++) {
        if (sym->st_name >= str_bytes)
            break;
        if (strcmp(str + sym->st_name, "__vdso_clock_gettime") == 0)
            return (int (*)(int, void *))(load + sym->st_value);
    }
    return NULL;
}

static int file_is(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    return strncmp(slash ? slash + 1 : path, name, strlen(name)) == 0;
}

struct visit {
    uint32_t found[32], patched;
    int error, first;
    const uint64_t *harmless;
    struct eg_gate_verdict verdict; /* with eg_gate_all */
};

static inline __m128i bytes_equal(__m128i v, int byte)
{
    return _mm_cmpeq_epi8(v, _mm_set1_epi8((char)byte));
}

static inline __m128i bytes_and(__m128i v, int byte)
{
    return _mm_and_si128(v, _mm_set1_epi8((char)byte));
}

/* The start may use vector registers, the gate may not. */
static uint64_t look_fast(const uint8_t *p, int what)
{
    uint64_t found = 0;
    for (unsigned i = 0; i < 64; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(p + i)), next = _mm_loadu_si128((const __m128i *)(p + i + 1)), hit;
        if (what == EG_GATE_LOOK_SYSCALLS) {
            hit = _mm_and_si128(bytes_equal(v, 0x0f), bytes_equal(next, 0x05));
        } else {
            __m128i near = _mm_or_si128(bytes_equal(bytes_and(v, 0xfe), 0xe8), _mm_and_si128(bytes_equal(v, 0x0f), bytes_equal(bytes_and(next, 0xf0), 0x80)));
            __m128i table = _mm_or_si128(_mm_and_si128(bytes_equal(v, 0x8d), bytes_equal(bytes_and(next, 0xc7), 0x05)),
                                         _mm_and_si128(bytes_equal(v, 0xff), bytes_equal(next, 0x24)));
            hit = _mm_or_si128(near, table);
        }
        found |= (uint64_t)(uint32_t)_mm_movemask_epi8(hit) << i;
    }
    return found;
}

static int object_has(const struct dl_phdr_info *info, uint64_t address)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + p->p_vaddr;
        if (p->p_type == PT_LOAD && address >= start && address < start + p->p_memsz)
            return 1;
    }
    return 0;
}

/* Of its file, too: one that was changed may have kept its build-id. What is no file (the vDSO) is the kernel's. */
static void id_make(const uint8_t build_id[EG_GATE_ID_BYTES], const char *path, uint8_t ret_id[EG_GATE_ID_BYTES])
{
    struct stat st;
    memcpy(ret_id, build_id, EG_GATE_ID_BYTES);
    if (!strchr(path, '/'))
        return;
    if (stat(path, &st)) {
        memset(ret_id, 0, EG_GATE_ID_BYTES);
        return;
    }
    const uint64_t words[] = {(uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec, (uint64_t)st.st_size};
    const uint8_t *bytes = (const uint8_t *)words;
    for (size_t i = 0; i < sizeof words; i++)
        ret_id[i] ^= bytes[i];
}

/* A note of the object's. Returns: what it says, *ret_bytes; NULL: it has none. */
static const void *object_note(const struct dl_phdr_info *info, const char *owner, uint32_t type, uint32_t *ret_bytes)
{
    size_t owner_bytes = strlen(owner) + 1;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        const char *at = (const char *)(info->dlpi_addr + p->p_vaddr), *end = at + p->p_memsz;
        while (p->p_type == PT_NOTE && end - at >= (ptrdiff_t)sizeof(ElfW(Nhdr))) {
            const ElfW(Nhdr) *n = (const ElfW(Nhdr) *)at;
            uint64_t name = (n->n_namesz + 3ull) & ~3ull, desc = (n->n_descsz + 3ull) & ~3ull;
            if (name + desc > (uint64_t)(end - at) - sizeof *n)
                break;
            if (n->n_namesz == owner_bytes && n->n_type == type && memcmp(n + 1, owner, owner_bytes) == 0) {
                *ret_bytes = n->n_descsz;
                return (const char *)(n + 1) + name;
            }
            at += sizeof *n + name + desc;
        }
    }
    return NULL;
}

/* The part of a segment that is code, where an object has its read-only data in the same one: the rest is where its jump tables are. The file of that name may be another
 * one (a program that ld.so was told to run has no name): its first bytes must be those that are mapped. */
static void code_of(const struct dl_phdr_info *info, const ElfW(Phdr) *p, struct eg_gate_text *text)
{
    uint64_t lo = 0, hi = p->p_filesz;
    int fd = p->p_offset || hi < sizeof(ElfW(Ehdr)) ? -1 : open(info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (eg_gate_code(fd, text->at, &lo, &hi)) {
        uint64_t start = (uint64_t)text->at, end = start + text->bytes;
        text->at += lo;
        text->where += (uint32_t)lo;
        text->bytes = hi - lo;
        text->tables[0].start = start;
        text->tables[0].end = (uint64_t)text->at;
        text->tables[1].start = (uint64_t)text->at + text->bytes;
        text->tables[1].end = end;
    }
    close(fd);
}

/* All calls of an object: not the runtime's own, which nobody must see, nor the vDSO's, which the kernel gives its own answers to. */
static int patch_object_all(struct dl_phdr_info *info, struct visit *v, int counts)
{
    struct eg_gate_text text = {.look = look_fast};
    uint32_t n = 0, note_bytes;
    if (object_has(info, getauxval(AT_SYSINFO_EHDR)))
        return 0;
    if (object_has(info, (uint64_t)&eg_gate_entry)) {
        v->verdict.n_left += info->dlpi_name[0] == 0; /* linked in: its calls and the program's cannot be told from each other */
        return 0;
    }
    if (object_note(info, "endgame", 1, &note_bytes)) { /* it has a copy of the runtime linked in */
        v->verdict.n_left++;
        return 0;
    }
    const void *id = object_note(info, "GNU", NT_GNU_BUILD_ID, &note_bytes);
    if (id && note_bytes == sizeof text.id)
        id_make(id, info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe", text.id);
    for (int i = 0; i < info->dlpi_phnum && n < EG_GATE_TABLES; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && p->p_flags & PF_R && !(p->p_flags & (PF_W | PF_X))) {
            text.tables[n].start = info->dlpi_addr + p->p_vaddr;
            text.tables[n++].end = info->dlpi_addr + p->p_vaddr + p->p_filesz;
        }
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        text.at = (uint8_t *)(info->dlpi_addr + p->p_vaddr);
        text.bytes = p->p_filesz;
        text.where = (uint32_t)p->p_vaddr;
        text.prot = PROT_READ | PROT_EXEC | (p->p_flags & PF_W ? PROT_WRITE : 0);
        if (!n)
            code_of(info, p, &text);
        uint32_t before = v->verdict.n_before;
        int rc = eg_gate_patch_all(&text, v->harmless, counts ? v->found : NULL, &v->verdict);
        if (rc < 0 && counts)
            v->error = rc;
        v->verdict.n_left += rc < 0;
        v->patched += v->verdict.n_before - before;
    }
    return 0;
}

/* Sanitizers stop threads by system calls of their own: where a thread of the runtime's serves the faults, it must not be stopped with the others. */
static void patch_tracers(const struct dl_phdr_info *info)
{
    if (object_has(info, getauxval(AT_SYSINFO_EHDR)) || object_has(info, (uint64_t)&eg_gate_entry))
        return;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && p->p_flags & PF_X && p->p_filesz <= TRACERS_MAX_BYTES &&
            eg_gate_patch_number((uint8_t *)(info->dlpi_addr + p->p_vaddr), p->p_filesz, SYS_ptrace) < 0)
            return; /* natively as before */
    }
}

/* Before 2.25, glibc moved sleepers from one futex to another. */
static void libc_is(uint64_t start, uint64_t bytes)
{
    struct eg_gate_libc *l = &eg_gate_libc;
    const char *version = gnu_get_libc_version();
    if (strncmp(version, "2.", 2) != 0 || atoi(version + 2) < 25 || l->n == EG_GATE_LIBC)
        return;
    l->lo[l->n] = start;
    l->hi[l->n++] = start + bytes;
}

/* Patches libc and the loader (and the program, when it carries its own libc); with eg_gate_all every object. */
static int patch_object(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    struct visit *v = arg;
    int own_libc = v->first; /* a program without a loader brings libc in its own text */
    (void)bytes;
    v->first = 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        own_libc &= info->dlpi_phdr[i].p_type != PT_INTERP;
    own_libc |= file_is(info->dlpi_name, "libc.so") || file_is(info->dlpi_name, "ld-linux");
    if (eg_gate_all)
        return patch_object_all(info, v, own_libc);
    if (!own_libc) {
        patch_tracers(info);
        return 0;
    }
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        int rc = eg_gate_patch((uint8_t *)(info->dlpi_addr + p->p_vaddr), p->p_filesz, v->found, &v->patched);
        libc_is(info->dlpi_addr + p->p_vaddr, p->p_filesz);
        if (rc < 0)
            v->error = rc;
    }
    return 0;
}

/* Captures large zero-initialised data, which is there before the gate. */
static int adopt_object(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    (void)bytes;
    (void)arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uint64_t start = info->dlpi_addr + p->p_vaddr, own = (uint64_t)&eg_rt;
        uint64_t bss = (start + p->p_filesz + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1);
        uint64_t end = (start + p->p_memsz + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1);
        if (p->p_type == PT_LOAD && p->p_flags & PF_W && p->p_memsz > p->p_filesz && end > bss &&
            end - bss >= ADOPT_MIN_BYTES && !(own >= start && own < end)) {
            eg_cap_adopt(bss, end);
            if (eg_rt.hinted)
                eg_hints_adopted(bss, end);
        }
    }
    return 0;
}

/* The verbs library and all it needs, in a link namespace of its own (see client/verbs/eg_verbs_lib.h). */
static void verbs_open(void)
{
    static const struct eg_verbs_host host = {.map = eg_sys_map, .fd_high = eg_fd_high};
    if (!eg_rt.pool->verbs_library[0])
        return;
    void *object = dlmopen(LM_ID_NEWLM, eg_rt.pool->verbs_library, RTLD_NOW | RTLD_LOCAL);
    eg_verbs_lib_fn *start = NULL;
    if (object)
        *(void **)&start = dlsym(object, "eg_verbs_lib");
    if (!start) {
        char line[200];
        const char *why = dlerror();
        eg_str_put(line, sizeof line, eg_str_put(line, sizeof line, 0, "cannot load the RDMA library, use tcp: instead: "),
                   why ? why : "?");
        refuse(line);
    }
    const struct eg_verbs_lib *lib = start(&host, 1);
    if (!lib || lib->version != EG_VERBS_LIB_VERSION || eg_verbs_init(lib, getauxval(AT_HWCAP2)))
        refuse("the RDMA library cannot start (out of memory, or of another version): use tcp: instead");
    for (uint32_t i = 0; eg_home.on && i < lib->n_memory; i++)
        eg_home_private_add((uint64_t)lib->memory[i].iov_base, (uint64_t)lib->memory[i].iov_base + lib->memory[i].iov_len);
}

/* The runtime's own writable memory: no node gets it. What is read-only since relocation everybody may read: the loader does when it binds
 * symbols. */
static int nodes_private(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    (void)bytes;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uint64_t lo = (info->dlpi_addr + p->p_vaddr) & ~(uint64_t)(EG_PAGE_BYTES - 1), own = (uint64_t)&eg_rt;
        uint64_t hi = (info->dlpi_addr + p->p_vaddr + p->p_memsz + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1);
        if (p->p_type == PT_LOAD && p->p_flags & PF_W && own >= lo && own < hi) {
            if (!*(int *)arg && info->dlpi_name[0] == 0)
                refuse("remote threads need the preloaded library, not one that is linked in");
            for (int k = 0; k < info->dlpi_phnum; k++) {
                const ElfW(Phdr) *r = &info->dlpi_phdr[k];
                uint64_t end = (info->dlpi_addr + r->p_vaddr + r->p_memsz) & ~(uint64_t)(EG_PAGE_BYTES - 1);
                if (r->p_type == PT_GNU_RELRO && end > lo && end < hi)
                    lo = end;
                if (r->p_type == PT_LOAD && r->p_flags & PF_X) {
                    eg_home.code_lo = info->dlpi_addr + r->p_vaddr;
                    eg_home.code_hi = eg_home.code_lo + r->p_memsz;
                }
            }
            eg_home_private_add(lo, hi);
        }
    }
    *(int *)arg = 1;
    return 0;
}

/* The kernel would write into the thread's control block at any moment: glibc then asks the kernel for its processor instead. __rseq_size stays: who found
 * 0 there (librseq) would register an area of its own. */
static void rseq_off(void)
{
    const ptrdiff_t *offset = dlsym(RTLD_DEFAULT, "__rseq_offset");
    const unsigned *size = dlsym(RTLD_DEFAULT, "__rseq_size");
    if (offset && size && *size)
        eg_sys4(SYS_rseq, eg_thread_pointer() + (uint64_t)*offset, 32, 1 /* RSEQ_FLAG_UNREGISTER */, 0x53053053);
}

/* A run with compute nodes. */
static void nodes_init(const char *pulse)
{
    int seen = 0;
    uint32_t ms = 0;
    for (; pulse && *pulse >= '0' && *pulse <= '9' && ms < 1000000; pulse++)
        ms = ms * 10 + (uint32_t)(*pulse - '0');
    eg_home.pulse_ms = ms ? ms : eg_home.pulse_ms;
    eg_home.on = 1;
    eg_home.far = eg_rt.n_servers > 0;
    eg_gate_nodes = 1;
    void *hole = mmap((void *)EG_WORKER_START, EG_WORKER_END - EG_WORKER_START, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (hole == MAP_FAILED && errno == ENOMEM)
        refuse("there are not enough addresses for remote threads; raise the limit on address space (ulimit -v), or run without --compute");
    if (hole != (void *)EG_WORKER_START)
        refuse("the addresses that remote threads need are taken in this program; run it without --compute");
    (void)!madvise(hole, EG_WORKER_END - EG_WORKER_START, MADV_DONTDUMP);
    dl_iterate_phdr(nodes_private, &seen);
    eg_home_vdso_find();
    rseq_off();
    eg_view_init();
    eg_gate_view = (uint8_t)eg_view_on();
    eg_home.maps_fd = eg_fd_high(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
}

static void pool_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return; /* another root directory or user than `endgame run` saw: the program runs as it would without */
    void *p = mmap(NULL, EG_POOL_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        refuse("cannot map the run's pool file; is $ENDGAME_POOL the one that `endgame run` set?");
    struct eg_pool *pool = p;
    if (pool->magic != EG_POOL_MAGIC || pool->version != EG_POOL_VERSION)
        refuse("$ENDGAME_POOL is not a pool file of this version; start the program with this version's `endgame run`");
    /* Its pages are the runtime's: a child's copy must be the same memory. That copy keeps the open file alive that was mapped, and with it the locks made by
     * it: the row's lock, which goes with this process, is made by another one. */
    int own = open(path, O_RDWR | O_CLOEXEC);
    if (own < 0)
        refuse("cannot open the run's pool file a second time");
    close(fd);
    eg_rt.pool_fd = eg_fd_high(own);
    eg_str_put(eg_rt.pool_path, sizeof eg_rt.pool_path, 0, path);
    eg_rt.pool = pool;
    eg_rt.n_servers = pool->n_servers < EG_POOL_SERVERS ? pool->n_servers : EG_POOL_SERVERS;
    for (uint32_t i = 0; i < EG_POOL_SERVERS; i++) {
        eg_rt.server[i].config = &pool->servers[i];
        eg_rt.server[i].control_fd = eg_rt.server[i].link.fd = eg_rt.server[i].path_fd = -1;
    }
}

/* The rules of --hints, and a profile's table, in a file beside the pool's. */
static void hints_open(const char *pool_path)
{
    char path[sizeof eg_rt.pool_path + sizeof "/" EG_HINTS_FILE];
    const char *slash = strrchr(pool_path, '/');
    if (!eg_rt.pool->hints || !slash || (size_t)(slash - pool_path) >= sizeof eg_rt.pool_path)
        return;
    memcpy(path, pool_path, (size_t)(slash - pool_path));
    strcpy(path + (slash - pool_path), "/" EG_HINTS_FILE);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct eg_hints_file *file = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (file == MAP_FAILED)
        return; /* hints are no more than hints */
    if (file->magic != EG_HINTS_MAGIC || file->version != EG_HINTS_VERSION)
        refuse("the run's hints file is not of this version; start the program with this version's `endgame run`");
    if (eg_hints_init(file))
        refuse("out of memory at start");
    if (eg_home.on)
        eg_home_private_add((uint64_t)file, (uint64_t)file + sizeof *file);
}

/* AddressSanitizer asks for this while it starts. Its library insists on being the first one loaded, so that nobody has interposed before it:
 * we do not interpose. A program that has options of its own is asked instead of us. */
const char *__asan_default_options(void);
PUBLIC __attribute__((weak)) const char *__asan_default_options(void)
{
    return "verify_asan_link_order=0";
}

/* libc has not been initialised yet (initfirst): its environ is not set, the loader's arguments are. Returns: the entry; where they end when there is none. */
static char **env_at(char **envp, const char *name)
{
    size_t n = strlen(name);
    while (*envp && !(strncmp(*envp, name, n) == 0 && (*envp)[n] == '='))
        envp++;
    return envp;
}

static const char *env_find(char **envp, const char *name)
{
    const char *entry = envp ? *env_at(envp, name) : NULL;
    return entry ? entry + strlen(name) + 1 : NULL;
}

/* The same, and it is there no more. */
static const char *env_take(char **envp, const char *name)
{
    const char *value = env_find(envp, name);
    for (char **at = value ? env_at(envp, name) : NULL; at && *at; at++)
        at[0] = at[1];
    return value;
}

/* The embedded server starts beside this process. Whoever started both ends this one when that fails. */
static void wait_while_held(void)
{
    while (__atomic_load_n(&eg_rt.pool->held, __ATOMIC_ACQUIRE))
        eg_sys4(SYS_futex, &eg_rt.pool->held, 0 /* FUTEX_WAIT */, 1, 0);
}

__attribute__((constructor(101))) static void endgame_start(int argc, char **argv, char **envp)
{
    const char *path = env_find(envp, "ENDGAME_POOL"), *texts = env_take(envp, "ENDGAME_TEXTS");
    (void)argc;
    (void)argv;
    if (!path || !*path || eg_rt.pool)
        return;
    eg_sys_clock_init(vdso_clock());
    pool_open(path);
    if (!eg_rt.pool)
        return;
    eg_account_budget();
    const char *kernel = env_find(envp, "ENDGAME_KERNEL");
    eg_rt.old_kernel = kernel && strcmp(kernel, "6.1") == 0;
    eg_say_init();
    eg_sys3(SYS_sched_getaffinity, 0, sizeof eg_rt.affinity, eg_rt.affinity);
    void *mark = mmap(NULL, EG_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mark != MAP_FAILED && madvise(mark, EG_PAGE_BYTES, MADV_WIPEONFORK) == 0) {
        eg_rt.fork_mark = mark;
        *eg_rt.fork_mark = 1;
    }
    if (eg_rt.pool->n_nodes)
        nodes_init(env_find(envp, "ENDGAME_PULSE_MS"));
    verbs_open(); /* before the gate, so that nothing of it is captured */
    if (eg_gate_init())
        refuse("out of memory at start");
    /* Threads that are away have their own way of serving faults. */
    eg_gate_all = !eg_home.on && eg_rt.pool->engine != EG_ENGINE_HANDLER;
    struct visit v = {.first = 1, .harmless = eg_gate_harmless()};
    dl_iterate_phdr(patch_object, &v);
    if (v.error)
        refuse("cannot patch libc's system calls (are writable code pages forbidden here?)");
    if (v.patched && !v.found[0]) {
        eg_rt.pool = NULL; /* linked in and preloaded: the other copy is at work already */
        return;
    }
    uint32_t k = 0;
#define X(name, number, needed)                                                                              \
    if (needed == 1 && !v.found[k])                                                                          \
        refuse("this libc makes its " #name " calls in a way that is not known; see `endgame doctor`");      \
    k++;
    EG_GATE_CALLS(X)
#undef X
    eg_account_row_claim();
    eg_rt.heap_end = (uint64_t)eg_sys1(SYS_brk, 0);
    /* After the trampolines, which need room near the text. */
    if (eg_sys_reserve(RESERVE_BYTES))
        eg_sys_reserve(RESERVE_SMALL_BYTES); /* under `ulimit -v` */
    if (eg_gate_all && (v.verdict.n_left || eg_gate_inline(getauxval(AT_MINSIGSTKSZ)))) {
        eg_gate_all = 0;
        if (eg_rt.pool->engine == EG_ENGINE_INLINE)
            eg_warn_once(EG_WARN_ENGINE, "this program makes system calls that the gate cannot see: a thread serves its faults", NULL);
    }
    if (eg_home.on) {
        uint64_t lo, hi;
        eg_sys_reserved(&lo, &hi);
        eg_home_private_add(lo, hi);
        eg_home_private_add((uint64_t)eg_rt.pool, (uint64_t)eg_rt.pool + EG_POOL_FILE_BYTES);
    }
    hints_open(path);
    if (eg_home.on)
        eg_home_convert_all(); /* last: the text is patched, the tables are made */
    if (!eg_home.on || eg_home.far)
        dl_iterate_phdr(adopt_object, NULL);
    /* The first row: no other process has been there. */
    if (__atomic_load_n(&eg_rt.pool->rows_used, __ATOMIC_RELAXED) == 2) {
        if (eg_gate_all)
            __atomic_store_n(&eg_rt.pool->sole, 1, __ATOMIC_RELAXED);
        if (texts)
            eg_texts_save(texts);
    }
    wait_while_held();
    if (getauxval(AT_EUID) == 0 && eg_rt.n_servers) { /* it may become another user, or change its root directory */
        eg_uffd_keep();
        eg_session_keep();
    }
}

PUBLIC int endgame_active(void)
{
    return eg_rt.pool != NULL;
}

PUBLIC const char *endgame_version(void)
{
    return EG_VERSION;
}

/* By the gate, wherever the thread is: at home it sees the call, from a node the call is sent home. */
static int advise(const void *addr, size_t bytes, unsigned long number)
{
    if (syscall(SYS_madvise, addr, bytes, (int)(EG_ADVICE_BASE + (long)number)) == 0)
        return 0;
    /* The kernel knows no such advice. A thread on a node does not look at the runtime's own memory, which is not there. */
    return errno == EINVAL && !__atomic_load_n(&eg_where[0], __ATOMIC_RELAXED) && !eg_rt.pool ? -ENOSYS : -errno;
}

PUBLIC int endgame_advise(void *addr, size_t bytes, enum endgame_advice advice)
{
    return (unsigned)advice > ENDGAME_EVICT ? -EINVAL : advise(addr, bytes, (unsigned long)advice);
}

PUBLIC int endgame_place(void *addr, size_t bytes, unsigned server)
{
    return server >= EG_POOL_SERVERS ? -EINVAL : advise(addr, bytes, EG_ADVICE_PLACE | (unsigned long)server << 8);
}
