/* patch_all.c - lead every system call of a text to the gate, whatever its number. Five bytes around the `syscall` become a jump; the instructions
 * that stood there are done in the trampoline. Where the instructions before the `syscall` give the room, it stays where it is, and a call that
 * the gate passes is made there; else the trampoline makes it. No overwritten byte but the first may be jumped to: all jumps to constant
 * places and all jump tables of the object are looked at. eg_site.h says which file does what. */
#include "client/gate/eg_site.h"
#include "client/gate/eg_texts.h"

#include <errno.h>
#include <sys/mman.h>

#define ROUNDS 4

/* Bytes that equal: their top bits, and perhaps some above the first of these. */
static inline uint64_t bytes_equal(uint64_t word, uint64_t byte)
{
    const uint64_t ones = 0x0101010101010101ull;
    word ^= ones * byte;
    return (word - ones) & ~word & ones * 0x80;
}

uint64_t eg_look_plain(const uint8_t *p, int what)
{
    const uint64_t ones = 0x0101010101010101ull, even = ones * 0xfe, high = ones * 0xf0, no_reg = ones * 0xc7;
    uint64_t found = 0;
    for (unsigned i = 0; i < EG_LOOK_BLOCK; i += 8) {
        uint64_t word = *(const eg_any_word64 *)(p + i), next = *(const eg_any_word64 *)(p + i + 1), hit;
        if (what == EG_GATE_LOOK_SYSCALLS)
            hit = bytes_equal(word, 0x0f) & bytes_equal(next, 0x05);
        else
            hit = bytes_equal(word & even, 0xe8) | (bytes_equal(word, 0x0f) & bytes_equal(next & high, 0x80)) |
                  (bytes_equal(word, 0x8d) & bytes_equal(next & no_reg, 0x05)) | (bytes_equal(word, 0xff) & bytes_equal(next, 0x24));
        found |= (hit >> 7) * 0x0102040810204080ull >> 56 << i;
    }
    return found;
}

uint8_t *eg_look_syscall(const struct eg_work *w, uint8_t *p)
{
    for (; w->end - p >= EG_LOOK_BLOCK + EG_LOOK_BEYOND; p += EG_LOOK_BLOCK)
        for (uint64_t hit = w->look(p, EG_GATE_LOOK_SYSCALLS); hit; hit &= hit - 1) {
            uint8_t *at = p + __builtin_ctzll(hit);
            if (at[0] == 0x0f && at[1] == 0x05)
                return at;
        }
    for (; w->end - p >= 2; p++)
        if (p[0] == 0x0f && p[1] == 0x05)
            return p;
    return NULL;
}

static void collect(struct eg_work *w, uint8_t *first)
{
    for (uint8_t *p = first; p && w->n < EG_WORK_SITES; p = eg_look_syscall(w, p + 2))
        w->site[w->n++] = (struct eg_site){.at = p};
    for (uint32_t i = 0; i < w->n; i++)
        eg_site_pick(w, &w->site[i]);
}

static uint32_t to_patch(const struct eg_work *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++)
        n += w->site[i].state == EG_SITE_PATCH;
    return n;
}

/* Takes other bytes for the sites that turn out to be jumped into. Returns: the number of sites to be patched. */
static uint32_t settle(struct eg_work *w)
{
    uint32_t n = to_patch(w);
    for (int round = 0; n && eg_jumps_find(w); round++)
        for (uint32_t i = 0; i < w->n; i++) {
            struct eg_site *s = &w->site[i];
            if (!s->again)
                continue;
            if (round < ROUNDS)
                eg_site_pick(w, s);
            else
                s->state = EG_SITE_LEFT;
            s->again = 0;
            n -= s->state != EG_SITE_PATCH;
        }
    return n;
}

void eg_verdict_left(struct eg_gate_verdict *v, const uint8_t *at)
{
    if (!v->n_left++)
        v->first_left = at;
}

static void judge(const struct eg_work *w, const uint64_t *harmless, uint32_t *ret_found, struct eg_gate_verdict *v)
{
    for (const struct eg_site *s = w->site; s < w->site + w->n; s++) {
        int known = s->nr >= 0 && s->nr < 512;
        int k = known ? eg_patch_number_index((uint32_t)s->nr) : -1;
        v->n_sites += s->state != EG_SITE_NONE;
        v->n_patched += s->state == EG_SITE_PATCH;
        v->n_before += s->state == EG_SITE_BEFORE;
        if (s->state == EG_SITE_LEFT && !(known && harmless && harmless[s->nr / 64] >> (s->nr % 64) & 1))
            eg_verdict_left(v, s->at);
        if (ret_found && s->state == EG_SITE_PATCH && k >= 0)
            ret_found[k]++;
    }
}

/* Another process has looked at the same text. Returns: 0 when it is not quite the same after all (another gate has been there). */
static int recall(struct eg_work *w, const struct eg_text_site *known, uint32_t n)
{
    for (w->n = 0; w->n < n && n <= EG_WORK_SITES; w->n++) {
        const struct eg_text_site *k = &known[w->n];
        uint8_t *at = w->text + k->at;
        if (k->at + 16ull > (uint64_t)(w->end - w->text) || k->at < k->before || k->after > 16 || at[0] != 0x0f || at[1] != 0x05 ||
            eg_text_site_sum(at, k->before, k->after) != k->sum)
            break;
        w->site[w->n] = (struct eg_site){.at = at, .nr = k->nr, .before = k->before, .after = k->after, .state = k->state};
    }
    return w->n == n;
}

static void remember(const struct eg_work *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->site[i].state == EG_SITE_BEFORE)
            return;
        n += w->site[i].state != EG_SITE_NONE;
    }
    struct eg_text_site *to = w->n < EG_WORK_SITES && !w->too_many ? eg_texts_room(w->object, n) : NULL;
    if (!to)
        return;
    for (uint32_t i = 0, k = 0; i < w->n; i++) {
        const struct eg_site *s = &w->site[i];
        if (s->state != EG_SITE_NONE)
            to[k++] = (struct eg_text_site){.at = (uint32_t)(s->at - w->text), .nr = (int16_t)(s->nr >= 0 && s->nr < 512 ? s->nr : -1),
                                            .before = s->before, .after = s->after, .state = s->state,
                                            .sum = eg_text_site_sum(s->at, s->before, s->after)};
    }
    eg_texts_keep(to);
}

int eg_gate_patch_all(const struct eg_gate_text *object, const uint64_t *harmless, uint32_t *ret_found, struct eg_gate_verdict *v)
{
    struct eg_work w = {.text = object->at, .end = object->at + object->bytes, .object = object, .look = object->look ? object->look : eg_look_plain};
    if (object->bytes > EG_TEXT_MAX) {
        eg_verdict_left(v, object->at);
        return 0;
    }
    const struct eg_text_site *known = NULL;
    uint32_t n_known;
    uint8_t *first = w.text;
    if (eg_texts_find(object, &known, &n_known) ? !n_known : !(first = eg_look_syscall(&w, w.text))) {
        if (!known)
            remember(&w);
        return 0;
    }
    size_t sites = EG_WORK_SITES * sizeof *w.site, trampolines = EG_WORK_SITES * sizeof(uint8_t *), tables = EG_WORK_TABLES * sizeof *w.table;
    size_t jumps = EG_WORK_JUMPS * sizeof *w.jump, bytes = sites + trampolines + tables + jumps + (object->bytes + EG_SITE_NEAR) / 512 + 1;
    long scratch = eg_sys6(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (eg_sys_failed(scratch)) {
        eg_verdict_left(v, first);
        return -ENOMEM;
    }
    w.site = (struct eg_site *)scratch;
    w.table = (struct eg_jump_table *)(scratch + (long)(sites + trampolines));
    w.jump = (const uint8_t **)(scratch + (long)(sites + trampolines + tables));
    w.coarse = (uint8_t *)scratch + sites + trampolines + tables + jumps;
    int rc = 0, n_before = (int)v->n_patched;
    uint32_t n;
    if (known && recall(&w, known, n_known)) {
        n = to_patch(&w);
    } else {
        w.n = 0;
        if (!known || (first = eg_look_syscall(&w, w.text)))
            collect(&w, first);
        n = settle(&w);
        if (!known)
            remember(&w);
    }
    if (n && (object->no_write || w.too_many))
        rc = object->no_write ? -EACCES : -E2BIG;
    else if (n)
        rc = eg_trampolines_put(&w, n, (uint8_t **)((uint8_t *)scratch + sites));
    for (uint32_t i = 0; rc < 0 && i < w.n; i++)
        if (w.site[i].state == EG_SITE_PATCH)
            w.site[i].state = EG_SITE_LEFT;
    judge(&w, harmless, ret_found, v);
    if (w.n == EG_WORK_SITES && eg_look_syscall(&w, w.site[w.n - 1].at + 2))
        eg_verdict_left(v, w.site[w.n - 1].at + 1);
    eg_sys2(SYS_munmap, scratch, bytes);
    return rc < 0 ? rc : (int)v->n_patched - n_before;
}
