/* peer.c - see eg_peer.h. */
#include "client/pager/eg_peer.h"

#include "client/pager/eg_inline.h"

#include <linux/futex.h>
#include <time.h>

#define PATIENCE_NS 5000000000u
#define NAP_NS 20000000u
#define TURN_NS 100000u

enum { NOBODY, ASKED, HERE, DONE };

/* The words are in a file that both processes share. */
static void word_wait(uint32_t *word, uint32_t value)
{
    struct timespec nap = {.tv_nsec = NAP_NS};
    eg_sys6(SYS_futex, word, FUTEX_WAIT, value, &nap, 0, 0);
}

static void state_set(struct eg_pool_row *row, uint32_t state)
{
    __atomic_store_n(&row->peer.state, state, __ATOMIC_RELEASE);
    eg_account_poke(row);
}

struct eg_pool_row *eg_peer_find(uint32_t pid)
{
    struct eg_pool_row *row = eg_account_row_of(pid);
    return row && row != eg_rt.row && row->engine[0] != 'h' ? row : NULL;
}

static int row_take(struct eg_pool_row *row, uint64_t until_ns)
{
    uint32_t nobody = 0, self = (uint32_t)eg_sys0(SYS_gettid);
    struct timespec turn = {.tv_nsec = TURN_NS};
    while (!__atomic_compare_exchange_n(&row->peer.asker, &nobody, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        nobody = 0;
        if (eg_sys_now_ns() > until_ns)
            return -1;
        eg_sys5(SYS_ppoll, 0, 0, &turn, 0, 8);
    }
    return 0;
}

int eg_peer_ask(struct eg_pool_row *row, uint64_t start, uint64_t end, int write)
{
    uint64_t until_ns = eg_sys_now_ns() + PATIENCE_NS;
    uint32_t asked = ASKED;
    if (row->engine[0] != 'i' || row_take(row, until_ns))
        return -1;
    row->peer.start = start;
    row->peer.end = end;
    row->peer.write = (uint32_t)write;
    state_set(row, ASKED);
    while (__atomic_load_n(&row->peer.state, __ATOMIC_ACQUIRE) == ASKED) {
        if (eg_sys_now_ns() > until_ns && __atomic_compare_exchange_n(&row->peer.state, &asked, DONE, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return -1;
        asked = ASKED;
        word_wait(&row->peer.state, ASKED);
    }
    return 0;
}

void eg_peer_done(struct eg_pool_row *row)
{
    if (__atomic_load_n(&row->peer.asker, __ATOMIC_RELAXED) == (uint32_t)eg_sys0(SYS_gettid))
        state_set(row, DONE);
}

static void over(struct eg_pool_row *row)
{
    eg_pin_end(EG_PIN_PEER);
    __atomic_store_n(&row->peer.state, NOBODY, __ATOMIC_RELAXED);
    __atomic_store_n(&row->peer.asker, 0, __ATOMIC_RELEASE);
}

int eg_peer_turn(void)
{
    static uint64_t since_ns;
    struct eg_pool_row *row = eg_rt.row;
    uint32_t asked = ASKED;
    switch (__atomic_load_n(&row->peer.state, __ATOMIC_ACQUIRE)) {
    case ASKED: {
        struct eg_span_rw span = {row->peer.start, row->peer.end, (int)row->peer.write};
        eg_pin_more(EG_PIN_PEER, ~0ull, &span, 1);
        since_ns = eg_sys_now_ns();
        if (!__atomic_compare_exchange_n(&row->peer.state, &asked, HERE, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
            over(row); /* it has not waited */
            return 0;
        }
        eg_sys6(SYS_futex, &row->peer.state, FUTEX_WAKE, 64, 0, 0, 0);
        return 1;
    }
    case HERE:
        if (eg_sys_now_ns() - since_ns < PATIENCE_NS)
            return 1;
        over(row); /* who asked is no more */
        return 0;
    case DONE: over(row); return 0;
    default: return 0;
    }
}
