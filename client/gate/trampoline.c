/* trampoline.c - the code that the sites of a text jump to: the instructions that stood there, and a call of the gate between them. */
#include "client/gate/eg_site.h"

#include <errno.h>
#include <sys/mman.h>

#define TRAMPOLINE_MAX 160u
#define MAX_AREAS 256u

static struct {
    uint64_t start, end;
} areas[MAX_AREAS];
static uint32_t n_areas;

/* Returns: the end; NULL: something is out of reach. */
static uint8_t *put_moved(uint8_t *at, const uint8_t *from, const uint8_t *end, const struct eg_work *w)
{
    struct eg_insn insn;
    while (at && from < end) {
        unsigned len = eg_insn_decode(from, w->end, &insn);
        const uint8_t *next = from + len;
        if (insn.kind == EG_INSN_BRANCH) {
            uint8_t code[6] = {0x0f, (uint8_t)(0x80 | (insn.opcode & 0x0f))};
            int32_t rel = (int32_t)(next + insn.rel - (at + 6));
            memcpy(code + 2, &rel, 4);
            at = eg_patch_put(at, code, sizeof code);
        } else if (insn.kind == EG_INSN_JUMP) {
            at = eg_patch_put_jump(at, next + insn.rel);
        } else {
            memcpy(at, from, len);
            if (insn.rip_at) {
                int64_t rel = (int32_t)eg_load32(from + insn.rip_at) + (int64_t)(from - at);
                if (rel != (int32_t)rel)
                    return NULL;
                int32_t rel32 = (int32_t)rel;
                memcpy(at + insn.rip_at, &rel32, 4);
            }
            at += len;
        }
        from = next;
    }
    return at;
}

static uint8_t *trampoline_put(uint8_t *t, const struct eg_site *s, void *const *entry, const struct eg_work *w)
{
    uint8_t *at = put_moved(t, s->at - s->before, s->at, w);
    if (!at)
        return NULL;
    at = eg_patch_put_call(at, entry);
    if (!s->after)
        return eg_patch_put_jump(eg_patch_put_red_zone_back(eg_patch_put_jump(at, s->at + 2)), s->at);
    uint8_t *answered = at, *made = eg_patch_put_red_zone_back(at + 5);
    made = eg_patch_put(made, s->at, 2);
    eg_patch_put_jump(answered, made);
    at = put_moved(made, s->at + 2, s->at + s->after, w);
    return at ? eg_patch_put_jump(at, s->at + s->after) : NULL;
}

static void area_add(const uint8_t *mem, size_t bytes)
{
    uint32_t i = __atomic_load_n(&n_areas, __ATOMIC_RELAXED);
    while (i < MAX_AREAS && !__atomic_compare_exchange_n(&n_areas, &i, i + 1, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    if (i < MAX_AREAS) {
        areas[i].start = (uint64_t)mem;
        areas[i].end = (uint64_t)mem + bytes;
    }
}

int eg_trampolines_have(uint64_t at)
{
    uint32_t n = __atomic_load_n(&n_areas, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n && i < MAX_AREAS; i++)
        if (at >= areas[i].start && at < areas[i].end)
            return 1;
    return 0;
}

/* Makes the text writable from the first site to the last, in one: every start of a program pays. It stays executable when the kernel lets
 * it: a thread of the runtime's own may be in it. */
static int text_write(const struct eg_work *w, uint8_t *const trampoline[])
{
    uint64_t first = 0, last = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        const struct eg_site *s = &w->site[i];
        if (s->state != EG_SITE_PATCH)
            continue;
        if (!first)
            first = (uint64_t)(s->at - s->before) & ~(EG_PAGE - 1);
        last = ((uint64_t)s->at + s->after) | (EG_PAGE - 1);
    }
    if (!first)
        return 0;
    uint64_t bytes = last + 1 - first;
    long rc = eg_sys3(SYS_mprotect, first, bytes, PROT_READ | PROT_WRITE | PROT_EXEC);
    if (eg_sys_failed(rc))
        rc = eg_sys3(SYS_mprotect, first, bytes, PROT_READ | PROT_WRITE);
    if (eg_sys_failed(rc))
        return (int)rc;
    for (uint32_t i = 0; i < w->n; i++)
        if (w->site[i].state == EG_SITE_PATCH)
            eg_patch_put_jump(w->site[i].at - w->site[i].before, trampoline[i]);
    return (int)eg_sys3(SYS_mprotect, first, bytes, w->object->prot);
}

int eg_trampolines_put(struct eg_work *w, uint32_t n_patch, uint8_t *trampoline[])
{
    size_t need = (sizeof(void *) + (size_t)n_patch * TRAMPOLINE_MAX + EG_PAGE - 1) & ~(EG_PAGE - 1);
    uint8_t *mem = eg_patch_near_memory(w->text, (size_t)(w->end - w->text), need);
    if (!mem)
        return -ENOMEM;
    void **entry = (void **)mem;
    uint8_t *at = mem + sizeof *entry;
    *entry = (void *)eg_gate_entry;
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->site[i].state != EG_SITE_PATCH)
            continue;
        trampoline[i] = at;
        uint8_t *end = trampoline_put(at, &w->site[i], entry, w);
        if (end)
            at = end;
        else
            w->site[i].state = EG_SITE_LEFT;
    }
    size_t used = ((size_t)(at - mem) + EG_PAGE - 1) & ~(EG_PAGE - 1);
    if (used < need)
        eg_sys2(SYS_munmap, mem + used, need - used);
    long rc = eg_sys3(SYS_mprotect, mem, used, PROT_READ | PROT_EXEC);
    if (eg_sys_failed(rc))
        return (int)rc;
    area_add(mem, used);
    return text_write(w, trampoline);
}
