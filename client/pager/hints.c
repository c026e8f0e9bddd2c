/* hints.c - rules of a hints file, applied to mappings as they are made; and what a profile's run counts. Freestanding.
 *
 * A rule is applied right after the call that made the mapping, before the program knows of it: as if the program had given the advice. The mapping's
 * flags carry it from there on, and in a profile's run the number of the mapping's entry, too (EG_RANGE_ENTRY), so both go where the mapping goes.
 *
 * Call sites: code without frame pointers cannot be unwound, so the stack is searched for the first word that looks like an address behind a call, in an
 * object that is neither libc nor an allocator. What an earlier call left on the stack may look the same, and does so in each run. */
#include "client/pager/eg_capture.h"
#include "client/pager/eg_hints.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define STACK_WORDS 512
#define OBJECTS 256

struct object {
    uint64_t start, end, offset;
    char name[EG_HINT_OBJECT_BYTES];
};

/* A mapping that was just made. */
struct made {
    enum eg_hint_kind kind;
    uint64_t start, end;
    const uint64_t *stack; /* words of the caller's stack */
    uint32_t n_stack;
    uint8_t looked;        /* the two below are filled in */
    uint64_t site;
    const struct object *object; /* NULL: not found */
};

static struct {
    struct eg_hints_file *file;
    struct object *objects; /* executable, in address order */
    uint32_t n_objects;
    uint8_t objects_old;
    uint8_t need_site, need_thread;
    uint64_t heap_start, heap_end;
    uint64_t count[EG_HINT_RULES]; /* mappings that fulfilled all conditions but `first` and `last` */
} hints; /* under the lock, but for objects_old */

/* Memory that belongs to no program of its own: what asked these for memory is who counts. */
static const char *const passed_over[] = {"libc.so", "libc-", "ld-", "libendgame", "libstdc++", "libpthread", "libjemalloc", "libtcmalloc", "libmimalloc"};

static int begins(const char *name, const char *with)
{
    while (*with && *name == *with)
        name++, with++;
    return *with == 0;
}

static int same(const char *one, const char *other, size_t cap)
{
    for (size_t i = 0; i < cap; i++) {
        if (one[i] != other[i])
            return 0;
        if (!one[i])
            return 1;
    }
    return 1;
}

/* --- call sites ------------------------------------------------------------------------------------------------------- */

/* "start-end perms offset dev inode path": kept when it is executable, of a file, and not passed over. */
static void object_note(const char *line)
{
    struct object o = {0};
    const char *p = eg_str_hex(line, &o.start);
    p = eg_str_hex(p + 1, &o.end);
    int executable = p[3] == 'x';
    p = eg_str_hex(p + 6, &o.offset);
    while (*p && *p != '/')
        p++;
    if (!executable || *p != '/' || hints.n_objects == OBJECTS)
        return;
    const char *name = p;
    for (; *p; p++)
        if (*p == '/')
            name = p + 1;
    for (size_t i = 0; i < sizeof passed_over / sizeof *passed_over; i++)
        if (begins(name, passed_over[i]))
            return;
    eg_str_put(o.name, sizeof o.name, 0, name);
    hints.objects[hints.n_objects++] = o;
}

static void objects_read(void)
{
    static char buf[8192 + 1];
    long have = 0, n;
    long fd = eg_fd_new(SYS_openat, AT_FDCWD, (long)"/proc/thread-self/maps", O_RDONLY | O_CLOEXEC, 0);
    hints.n_objects = 0;
    if (eg_sys_failed(fd))
        return;
    while ((n = eg_sys3(SYS_read, fd, buf + have, 8192 - have)) > 0) {
        long line = 0, stop = have + n;
        for (long k = 0; k < stop; k++) {
            if (buf[k] != '\n')
                continue;
            buf[k] = 0;
            object_note(buf + line);
            line = k + 1;
        }
        have = stop - line;
        memmove(buf, buf + line, (size_t)have);
    }
    eg_sys1(SYS_close, fd);
}

static const struct object *object_at(uint64_t addr)
{
    uint32_t lo = 0, hi = hints.n_objects;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (hints.objects[mid].end <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < hints.n_objects && hints.objects[lo].start <= addr ? &hints.objects[lo] : NULL;
}

/* Is there a call right before this address? */
static int behind_call(uint64_t addr, uint64_t start)
{
    uint8_t code[7];
    if (addr - start < sizeof code || eg_sys_copy_in(code, addr - sizeof code, sizeof code) != (long)sizeof code)
        return 0;
    if (code[2] == 0xe8)
        return 1; /* call rel32 */
    for (uint32_t bytes = 2; bytes <= 7; bytes++) { /* call of a register or of memory: ff /2 */
        const uint8_t *at = code + sizeof code - bytes;
        uint32_t mod = at[1] >> 6, rm = at[1] & 7, want = 2 + (mod != 3 && rm == 4);
        if (at[0] != 0xff || (at[1] >> 3 & 7) != 2)
            continue;
        want += mod == 1 ? 1 : mod == 2 || (mod == 0 && rm == 5) ? 4 : 0;
        if (want == bytes)
            return 1;
    }
    return 0;
}

static void look(struct made *m)
{
    if (m->looked || !m->n_stack)
        return;
    m->looked = 1;
    if (__atomic_exchange_n(&hints.objects_old, 0, __ATOMIC_RELAXED))
        objects_read();
    for (uint32_t i = 0; i < m->n_stack; i++) {
        const struct object *o = object_at(m->stack[i]);
        if (!o || !behind_call(m->stack[i], o->start))
            continue;
        m->object = o;
        m->site = m->stack[i] - o->start + o->offset;
        return;
    }
}

/* --- rules ------------------------------------------------------------------------------------------------------------ */

static int rule_fits(const struct eg_hint_rule *r, struct made *m, const char *thread)
{
    uint64_t bytes = m->end - m->start;
    if (r->kind != (uint32_t)m->kind || bytes < r->min_bytes || bytes > r->max_bytes)
        return 0;
    if (r->program[0] && !same(r->program, eg_rt.row->program, EG_HINT_COMM_BYTES - 1))
        return 0;
    if (r->thread[0] && !same(r->thread, thread, EG_HINT_COMM_BYTES - 1))
        return 0;
    if (!r->site_end)
        return 1;
    look(m);
    return m->object && m->site >= r->site && m->site < r->site_end && same(r->object, m->object->name, EG_HINT_OBJECT_BYTES - 1);
}

static uint64_t rules_flags(struct made *m)
{
    char thread[EG_HINT_COMM_BYTES + 1] = "";
    uint64_t flags = 0;
    if (hints.need_thread)
        eg_sys5(SYS_prctl, PR_GET_NAME, thread, 0, 0, 0);
    for (uint32_t i = 0; i < hints.file->n_rules && i < EG_HINT_RULES; i++) {
        const struct eg_hint_rule *r = &hints.file->rules[i];
        if (!rule_fits(r, m, thread))
            continue;
        uint64_t nth = ++hints.count[i];
        if (!flags && nth >= r->first && nth <= r->last)
            flags = r->flags;
    }
    return flags;
}

/* --- profile ---------------------------------------------------------------------------------------------------------- */

static struct eg_profile_entry *entry_new(const struct made *m, uint32_t nth, uint32_t *ret_number)
{
    uint32_t i = __atomic_fetch_add(&hints.file->n_entries, 1, __ATOMIC_RELAXED);
    if (i >= EG_PROFILE_ENTRIES)
        return NULL;
    struct eg_profile_entry *e = &hints.file->entries[i];
    e->kind = (uint32_t)m->kind;
    e->bytes = m->end - m->start;
    e->site = m->site;
    if (m->object)
        memcpy(e->object, m->object->name, sizeof e->object);
    eg_str_put(e->program, sizeof e->program, 0, eg_rt.row->program);
    __atomic_store_n(&e->nth, nth, __ATOMIC_RELEASE); /* the command reads what is filled in */
    *ret_number = i + 1;
    return e;
}

/* Which entries are this process's own, newest first: a chain by number + 1. */
static uint16_t chain[EG_PROFILE_ENTRIES];
static uint16_t chain_head;

/* The number (from 1) of the mapping's entry; 0: none. */
static uint32_t entry_of(struct made *m)
{
    uint32_t nth = 1, number = 0;
    look(m);
    for (uint32_t at = chain_head; at; at = chain[at - 1]) {
        struct eg_profile_entry *e = &hints.file->entries[at - 1];
        if (e->kind != (uint32_t)m->kind || e->bytes != m->end - m->start || e->site != m->site ||
            !same(e->object, m->object ? m->object->name : "", EG_HINT_OBJECT_BYTES))
            continue;
        if (e->nth == EG_PROFILE_NTH) {
            __atomic_fetch_add(&e->mappings, 1, __ATOMIC_RELAXED);
            return at;
        }
        nth = e->nth + 1;
        break;
    }
    struct eg_profile_entry *e = entry_new(m, nth, &number);
    if (!e)
        return 0;
    e->mappings = 1;
    chain[number - 1] = chain_head;
    chain_head = (uint16_t)number;
    return number;
}

static struct eg_profile_entry *entry_at(uint64_t page)
{
    uint64_t number = EG_RANGE_ENTRY(eg_advice_of(page));
    return number && number <= EG_PROFILE_ENTRIES ? &hints.file->entries[number - 1] : NULL;
}

#define ADD(entry, name, n) __atomic_fetch_add(&(entry)->name, (uint64_t)(n), __ATOMIC_RELAXED)

void eg_profile_fault(uint64_t page)
{
    struct eg_profile_entry *e = entry_at(page);
    if (e)
        ADD(e, faults, 1);
}

void eg_profile_stream(uint64_t page, int32_t stride, uint32_t ahead, uint32_t hits)
{
    struct eg_profile_entry *e = entry_at(page);
    if (!e)
        return;
    if (!ahead)
        ADD(e, faults_random, 1);
    else if (stride == 1 || stride == -1)
        ADD(e, faults_in_order, 1);
    else
        ADD(e, faults_strided, 1);
    ADD(e, ahead_hits, hits);
}

void eg_profile_fetched(uint64_t page, uint32_t n, int ahead)
{
    struct eg_profile_entry *e = entry_at(page);
    if (!e)
        return;
    ADD(e, pages_fetched, n);
    if (ahead)
        ADD(e, pages_ahead, n);
}

void eg_profile_left(uint64_t page, uint32_t n, int dirty)
{
    struct eg_profile_entry *e = entry_at(page);
    if (!e)
        return;
    ADD(e, pages_left, n);
    if (dirty)
        ADD(e, pages_left_dirty, n);
}

/* --- mappings as they are made ------------------------------------------------------------------------------------------ */

/* old: flags that it has already (a mapping that has grown). */
static void apply(struct made *m, uint64_t old)
{
    uint64_t flags = hints.file->n_rules && !(old & EG_RANGE_ADVICE) ? rules_flags(m) : 0, number = EG_RANGE_ENTRY(old);
    if (eg_rt.profiled && !number && m->end - m->start >= EG_PROFILE_MIN_BYTES)
        number = entry_of(m);
    if (number && number <= EG_PROFILE_ENTRIES && hints.file->entries[number - 1].bytes < m->end - m->start)
        hints.file->entries[number - 1].bytes = m->end - m->start;
    flags |= number << EG_RANGE_ENTRY_SHIFT;
    if (flags)
        eg_advice_add(m->start, m->end, flags);
}

/* The heap is one mapping, which grows and shrinks. */
static void apply_heap(struct made *m)
{
    uint64_t old_end = hints.heap_end, old = eg_advice_of(hints.heap_start >> EG_PAGE_SHIFT);
    hints.heap_end = m->end;
    if (m->end <= old_end)
        return;
    m->start = hints.heap_start;
    apply(m, old);
    if (old & EG_RANGE_ADVICE)
        eg_advice_add(old_end, m->end, old & EG_RANGE_ADVICE);
}

static void made(struct made *m)
{
    eg_cap_enter();
    if (!eg_rt.foreign) {
        if (m->kind == EG_HINT_HEAP)
            apply_heap(m);
        else if (eg_ranges_overlap(&eg_rt.ranges, m->start, m->end))
            apply(m, eg_advice_of(m->start >> EG_PAGE_SHIFT));
    }
    eg_cap_leave(0);
}

/* The caller's stack may be captured memory: it is read without the lock. */
static __attribute__((noinline)) void made_by_call(struct made *m, uint64_t sp)
{
    uint64_t words[STACK_WORDS];
    long n = sp && hints.need_site && m->kind == EG_HINT_MMAP ? eg_sys_copy_in(words, sp, sizeof words) : 0;
    m->stack = words;
    m->n_stack = n > 0 ? (uint32_t)((uint64_t)n / sizeof *words) : 0;
    made(m);
}

long eg_hints_memory(long nr, const long a[6], uint64_t sp)
{
    struct made m = {.kind = EG_HINT_MMAP};
    long ret = eg_cap_memory(nr, a);
    if (eg_sys_failed(ret))
        return ret;
    switch (nr) {
    case SYS_mmap:
        if (a[2] & PROT_EXEC)
            __atomic_store_n(&hints.objects_old, 1, __ATOMIC_RELAXED);
        if (!(a[3] & MAP_ANONYMOUS))
            return ret;
        m.start = (uint64_t)ret;
        m.end = m.start + eg_page_up((uint64_t)a[1]);
        break;
    case SYS_mremap:
        if (a[2] <= a[1])
            return ret;
        m.start = (uint64_t)ret;
        m.end = m.start + eg_page_up((uint64_t)a[2]);
        break;
    case SYS_brk:
        m.kind = EG_HINT_HEAP;
        m.end = eg_page_up((uint64_t)ret);
        if (m.end == __atomic_load_n(&hints.heap_end, __ATOMIC_RELAXED))
            return ret;
        break;
    default: return ret;
    }
    made_by_call(&m, sp);
    return ret;
}

void eg_hints_adopted(uint64_t start, uint64_t end)
{
    struct made m = {.kind = EG_HINT_DATA, .start = start, .end = end};
    made(&m);
}

int eg_hints_init(struct eg_hints_file *file)
{
    hints.file = file;
    hints.heap_start = hints.heap_end = eg_page_up(eg_rt.heap_end);
    hints.objects_old = 1;
    hints.need_site = file->profile != 0;
    for (uint32_t i = 0; i < file->n_rules && i < EG_HINT_RULES; i++) {
        hints.need_site |= file->rules[i].site_end != 0;
        hints.need_thread |= file->rules[i].thread[0] != 0;
    }
    if (hints.need_site && !(hints.objects = eg_sys_map(OBJECTS * sizeof *hints.objects)))
        return -ENOMEM;
    eg_rt.profiled = file->profile != 0;
    eg_rt.hinted = file->profile || file->n_rules;
    return 0;
}
