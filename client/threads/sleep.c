/* sleep.c - stand-ins: threads of the runtime's own that sleep on the program's futexes at home for those who sleep on nodes.
 *
 * A stand-in sleeps on a word of its own first, and FUTEX_CMP_REQUEUE moves it to the program's word: nothing looks at the program's page, which may be
 * away. There it is one sleeper among others: whoever wakes at home, by whatever call, finds it. Its node is told (FIRED), wakes all who sleep on that
 * word there, and has nobody covered until it asks again. What a node knows of a stand-in may be late only in one way: it is gone, and FIRED is on its way.
 *
 * The word of a stand-in is even while it waits to be used, and odd from before it is moved: a wait that the kernel begins again, for whatever
 * reason, ends then, and counts as a wake. */
#include "client/threads/eg_agent.h"
#include "client/threads/eg_proxy.h"

#include "client/pager/eg_pager.h"

#include <linux/futex.h>

#define STAND_INS_OF_NODE 48u
#define STAND_INS (STAND_INS_OF_NODE * EG_HOME_NODES)
#define STAND_IN_STACK_BYTES 4096u

/* Each belongs to one node: its wait has the node's bit, so that the node's own wakes leave it. */
static struct stand_in {
    uint64_t addr; /* what it sleeps on; 0: it waits to be used. The agent's */
    uint32_t node, word, fired;
    uint8_t *stack;
} stand_ins[STAND_INS], *ending;
static uint32_t n_stand_ins, next_end;

static uint32_t bit(uint32_t node) { return 1u << node; }

static void stand_in_main(void *arg)
{
    struct stand_in *s = arg;
    for (uint32_t v = 0;; v += 2) {
        while (__atomic_load_n(&s->word, __ATOMIC_SEQ_CST) == v)
            eg_sys6(SYS_futex, &s->word, FUTEX_WAIT_BITSET_PRIVATE, v, 0, 0, bit(s->node));
        __atomic_store_n(&s->word, v + 2, __ATOMIC_SEQ_CST);
        __atomic_store_n(&s->fired, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&eg_home.fired, 1, __ATOMIC_SEQ_CST);
        eg_home_wake();
    }
}

static void stand_in_new(uint32_t k)
{
    struct stand_in *s = &stand_ins[n_stand_ins];
    if (n_stand_ins == STAND_INS || (!s->stack && !(s->stack = eg_sys_map(STAND_IN_STACK_BYTES))))
        return;
    s->node = k;
    __atomic_fetch_add(&eg_rt.n_helpers, 1, __ATOMIC_SEQ_CST);
    if (eg_sys_failed(eg_thread_clone(EG_THREAD_FLAGS, s->stack + STAND_IN_STACK_BYTES, 0, 0, 0, stand_in_main, s)))
        __atomic_fetch_sub(&eg_rt.n_helpers, 1, __ATOMIC_SEQ_CST);
    else
        n_stand_ins++;
}

/* There can be no more of them: one of the node's is woken, to be used elsewhere. */
static void stand_in_end(uint32_t k)
{
    for (uint32_t i = 0; !ending && i < n_stand_ins; i++) {
        struct stand_in *s = &stand_ins[next_end++ % n_stand_ins];
        if (s->node == k && s->addr && eg_sys6(SYS_futex, s->addr, FUTEX_WAKE_BITSET_PRIVATE, 1, 0, 0, bit(k)) == 1)
            ending = s;
    }
}

/* The kernel looks at the stand-in's word once more before it moves it: one that was not asleep has perhaps gone on meanwhile, and sleeps as an idle one
 * again. Moved as that, it would take a wake from the program's threads, and nobody would hear of it.
 * Returns: 1; 0: it was not asleep yet, and will find that it need not sleep, which counts as a wake. */
static int stand_in_moves(struct stand_in *s, uint64_t addr)
{
    uint32_t odd = s->word + 1;
    s->addr = addr;
    __atomic_store_n(&s->word, odd, __ATOMIC_SEQ_CST);
    return eg_sys6(SYS_futex, &s->word, FUTEX_CMP_REQUEUE_PRIVATE, 0, 1, addr, odd) == 1;
}

void eg_sleep_cover(uint32_t k, unsigned slot, uint64_t addr)
{
    struct stand_in *idle = NULL;
    uint32_t n_idle = 0, n = 0;
    int covered = 0, has;
    eg_sleep_turn();
    for (uint32_t i = 0; i < n_stand_ins; i++) {
        struct stand_in *s = &stand_ins[i];
        if (s->node != k)
            continue;
        n++;
        n_idle += !s->addr;
        covered |= s->addr == addr;
        idle = s->addr ? idle : s;
    }
    has = covered;
    if (!has && idle)
        covered = stand_in_moves(idle, addr);
    if (!has && n_idle <= 1 && n < STAND_INS_OF_NODE)
        stand_in_new(k); /* for the next one */
    else if (!has && !idle)
        stand_in_end(k);
    eg_send_slot(k, slot, (struct eg_co){.type = covered ? EG_CO_COVERED : EG_CO_DENY, .addr = addr}, NULL, 0);
}

int eg_sleep_turn(void)
{
    if (!__atomic_load_n(&eg_home.fired, __ATOMIC_RELAXED) || !__atomic_exchange_n(&eg_home.fired, 0, __ATOMIC_SEQ_CST))
        return 0;
    for (uint32_t i = 0; i < n_stand_ins; i++) {
        struct stand_in *s = &stand_ins[i];
        if (!__atomic_exchange_n(&s->fired, 0, __ATOMIC_SEQ_CST))
            continue;
        if (eg_home.node[s->node]->alive)
            eg_send_say(s->node, EG_CO_FIRED, 0, EG_SLOT_NOBODY, 0, s->addr);
        else
            eg_sleep_pass(s->node, s->addr);
        ending = ending == s ? NULL : ending;
        s->addr = 0;
    }
    return 1;
}

long eg_sleep_wake(uint32_t k, uint64_t addr, uint32_t n)
{
    return eg_sys6(SYS_futex, addr, FUTEX_WAKE_BITSET_PRIVATE, n, 0, 0, ~bit(k));
}

void eg_sleep_leave(uint64_t addr)
{
    eg_sys6(SYS_futex, addr, FUTEX_WAKE_BITSET_PRIVATE, INT32_MAX, 0, 0, bit(EG_HOME_NODES) - 1);
}

void eg_sleep_pass(uint32_t k, uint64_t addr) { eg_sleep_wake(k, addr, 1); }

void eg_sleep_slept(uint32_t k, unsigned slot, uint32_t percent, int more)
{
    struct eg_thread *t = eg_slot_thread(eg_home.node[k], slot);
    if (!t || t->node != k)
        return;
    t->slept_percent = percent;
    t->slept_told_ns = eg_agent.now_ns;
    t->sleeps_on = (uint8_t)more;
}

uint32_t eg_sleep_percent(const struct eg_thread *t)
{
    return t->sleeps_on || eg_agent.now_ns - t->slept_told_ns < EG_SLEPT_GOOD_NS ? t->slept_percent : 0;
}

void eg_sleep_child(void)
{
    n_stand_ins = eg_home.fired = 0;
    ending = NULL;
    for (uint32_t i = 0; i < STAND_INS; i++)
        stand_ins[i] = (struct stand_in){.stack = stand_ins[i].stack};
    eg_rt.n_helpers = 0;
}
