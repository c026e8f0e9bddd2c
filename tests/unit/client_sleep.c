/* Stand-ins: who is woken at home for a node, and that no wake is lost to one that is idle. The kernel's futexes are real; a move of a stand-in can be
 * made slow. */
#include "client/threads/eg_agent.h"
#include "client/threads/eg_proxy.h"
#include "client/pager/eg_pager.h"
#include "tests/unit/unit_suite.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void on_move(void);
static long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    if (nr == SYS_futex && ((b & FUTEX_CMD_MASK) == FUTEX_REQUEUE || (b & FUTEX_CMD_MASK) == FUTEX_CMP_REQUEUE))
        on_move();
    return eg_sys6(nr, a, b, c, d, e, f);
}
#undef eg_sys6
#define eg_sys6(nr, a, b, c, d, e, f) sys6((long)(nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#include "client/threads/sleep.c"

#define NODE 1u
#define OTHER 0u
#define MOMENT_US 200
#define WORDS 8u
#define PATIENCE 25000 /* moments */

struct eg_rt eg_rt;
struct eg_home eg_home;
struct eg_agent eg_agent;
static struct eg_node nodes[2];
static struct {
    int type, n_fired;
    uint64_t addr;
} said;
static int gate, slow;
static uint32_t word[WORDS];

void eg_home_wake(void) {}

void eg_send_slot(uint32_t k, unsigned slot, struct eg_co m, const void *data, uint64_t bytes)
{
    ck_assert(k == NODE && slot == 3 && !data && !bytes);
    said.type = m.type;
}

void eg_send_say(uint32_t k, enum eg_co_type type, unsigned flags, unsigned slot, uint32_t n, uint64_t addr)
{
    ck_assert(k == NODE && type == EG_CO_FIRED && !flags && slot == EG_SLOT_NOBODY && !n);
    said.n_fired++;
    said.addr = addr;
}

struct begin {
    void (*fn)(void *);
    void *arg;
};

static void *begun(void *begin)
{
    struct begin b = *(struct begin *)begin;
    free(begin);
    while (__atomic_load_n(&gate, __ATOMIC_SEQ_CST))
        usleep(MOMENT_US);
    b.fn(b.arg);
    return NULL;
}

long eg_thread_clone(long flags, void *stack_top, long parent_tid, long child_tid, long tls, void (*fn)(void *), void *arg)
{
    pthread_t thread;
    ck_assert(flags == EG_THREAD_FLAGS && stack_top && !parent_tid && !child_tid && !tls);
    struct begin *b = malloc(sizeof *b);
    *b = (struct begin){fn, arg};
    ck_assert_int_eq(pthread_create(&thread, NULL, begun, b), 0);
    return 1;
}

/* The agent is not run for a while just here: a stand-in that was not asleep goes its whole round. */
static void on_move(void)
{
    if (!slow)
        return;
    __atomic_store_n(&gate, 0, __ATOMIC_SEQ_CST);
    for (int i = 0; i < PATIENCE && !__atomic_load_n(&stand_ins[0].fired, __ATOMIC_SEQ_CST); i++)
        usleep(MOMENT_US);
    usleep(100 * MOMENT_US); /* until it sleeps again */
}

static void setup(void)
{
    for (int k = 0; k < 2; k++) {
        nodes[k].alive = 1;
        eg_home.node[k] = &nodes[k];
    }
    eg_home.n_nodes = 2;
}

static int cover(uint32_t *w)
{
    said.type = 0;
    eg_sleep_cover(NODE, 3, (uint64_t)w);
    ck_assert(said.type == EG_CO_COVERED || said.type == EG_CO_DENY);
    return said.type == EG_CO_COVERED;
}

/* Whether anybody sleeps there: moved to where it is already, it is counted. */
static int one_sleeps(uint32_t *w)
{
    return eg_sys6(SYS_futex, w, FUTEX_CMP_REQUEUE_PRIVATE, 0, 1, w, *w) == 1;
}

/* Those that nobody uses are asleep: one that was not yet would count as woken at once. */
static void idle_sleep(void)
{
    for (uint32_t k = 0, i = 0; k < n_stand_ins; i++) {
        struct stand_in *s = &stand_ins[k];
        if (s->addr || one_sleeps(&s->word))
            k++;
        else
            usleep(MOMENT_US);
        ck_assert_uint_lt(i, PATIENCE);
    }
}

static void cover_soon(uint32_t *w)
{
    int covered = 0;
    for (int i = 0; i < 2 && !covered; i++) { /* there may have been none */
        eg_sleep_turn();
        idle_sleep();
        covered = cover(w);
    }
    ck_assert(covered);
}

static long wake(uint32_t *w, int n)
{
    return eg_sys6(SYS_futex, w, FUTEX_WAKE_PRIVATE, n, 0, 0, 0);
}

static void fired(const uint32_t *w)
{
    int before = said.n_fired;
    for (int i = 0; said.n_fired == before; i++) {
        ck_assert_int_lt(i, PATIENCE);
        usleep(MOMENT_US);
        eg_sleep_turn();
    }
    ck_assert_int_eq(said.n_fired, before + 1);
    ck_assert_uint_eq(said.addr, (uint64_t)w);
}

static void *sleeper(void *w)
{
    while (!__atomic_load_n((uint32_t *)w, __ATOMIC_SEQ_CST))
        eg_sys6(SYS_futex, w, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
    return NULL;
}

/* A thread of the program sleeps on w at home: one wake is enough for it. */
static void sleeper_wakes(uint32_t *w)
{
    pthread_t thread;
    struct timespec end;
    ck_assert_int_eq(pthread_create(&thread, NULL, sleeper, w), 0);
    for (int i = 0; !one_sleeps(w); i++) {
        ck_assert_int_lt(i, PATIENCE);
        usleep(MOMENT_US);
    }
    __atomic_store_n(w, 1, __ATOMIC_SEQ_CST);
    ck_assert_int_eq(wake(w, 1), 1);
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 5;
    ck_assert_int_eq(pthread_timedjoin_np(thread, NULL, &end), 0);
}

START_TEST(woken_for_its_node)
{
    ck_assert(!cover(&word[0])); /* there is none yet */
    cover_soon(&word[0]);
    ck_assert(cover(&word[0])); /* it is there already */
    ck_assert_int_eq(eg_sleep_wake(NODE, (uint64_t)&word[0], 9), 0); /* the node's own wake */
    ck_assert(!eg_sleep_turn());
    ck_assert_int_eq(eg_sleep_wake(OTHER, (uint64_t)&word[0], 9), 1);
    fired(&word[0]);
    ck_assert_int_eq(wake(&word[0], 9), 0);
}
END_TEST

START_TEST(not_asleep_when_moved)
{
    gate = 1;
    ck_assert(!cover(&word[0]));
    slow = 1;
    ck_assert(!cover(&word[0])); /* it saw that it need not sleep, and has gone on as an idle one */
    slow = 0;
    fired(&word[0]);
    sleeper_wakes(&word[0]);
    cover_soon(&word[1]); /* it is good for another word */
    ck_assert_int_eq(wake(&word[1], 9), 1);
    fired(&word[1]);
}
END_TEST

static void *waker(void *arg)
{
    uint32_t *stop = arg;
    for (uint32_t i = 0; !__atomic_load_n(stop, __ATOMIC_SEQ_CST); i++)
        wake(&word[i % WORDS], i % 3 ? 1 : 9);
    return NULL;
}

/* Whatever the order of moves and wakes, who is covered can be woken. */
START_TEST(moved_and_woken)
{
    pthread_t thread;
    uint32_t stop = 0;
    ck_assert_int_eq(pthread_create(&thread, NULL, waker, &stop), 0);
    for (uint32_t i = 0; i < 20000; i++) {
        cover(&word[i * 7 % WORDS]);
        eg_sleep_turn();
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    for (uint32_t w = 0; w < WORDS; w++)
        wake(&word[w], 9);
    for (int i = 0; i < 200; i++, usleep(MOMENT_US)) /* all are idle again */
        eg_sleep_turn();
    for (uint32_t w = 0; w < WORDS; w++) {
        cover_soon(&word[w]);
        ck_assert_int_eq(wake(&word[w], 9), 1);
        fired(&word[w]);
        ck_assert_int_eq(wake(&word[w], 9), 0);
        sleeper_wakes(&word[w]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_sleep");
    TCase *tc = unit_case(suite, "stand-ins", 60);
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, woken_for_its_node);
    tcase_add_test(tc, not_asleep_when_moved);
    tcase_add_test(tc, moved_and_woken);
    return unit_run(suite);
}
