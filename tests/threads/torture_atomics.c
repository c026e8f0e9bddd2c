/* torture_atomics.c - C11 atomics and what is built of them: nothing here waits in the kernel on another thread, so only coherent
 * memory makes it work. See torture.h for the command line. */
#include "torture.h"

#include <sched.h>

/* A wait without any call; a processor that is shared with the thread that is waited for costs a time slice. */
static inline void cpu_relax(void)
{
    __builtin_ia32_pause();
}

/* For many short waits: the processor goes to somebody else now and then. */
static inline void relax(unsigned *spins)
{
    if (++*spins % 128 == 0)
        sched_yield();
    else
        cpu_relax();
}

/* ---- counters ----------------------------------------------------------------------------------------------------------- */

static struct {
    _Alignas(4096) atomic_ulong seq_cst;
    atomic_ulong relaxed;
    _Alignas(4096) atomic_uchar byte;
    atomic_ulong cas;
    _Alignas(4096) atomic_ullong bits[4];
} counters;

static void counters_body(struct member *me)
{
    const int n = rounds(400);
    for (int i = 0; i < n; i++) {
        atomic_fetch_add(&counters.seq_cst, 1);
        atomic_fetch_add_explicit(&counters.relaxed, 3, memory_order_relaxed);
        atomic_fetch_add(&counters.byte, 1);
        unsigned long old = atomic_load(&counters.cas);
        while (!atomic_compare_exchange_weak(&counters.cas, &old, old + 7))
            ;
        atomic_fetch_xor(&counters.bits[i % 4], 1ull << (me->number % 64));
    }
}

static void counters_test(void)
{
    const int n_threads = threads(4);
    const unsigned long n = (unsigned long)n_threads * (unsigned long)rounds(400);
    memset(&counters, 0, sizeof counters);
    crew_run(n_threads, counters_body, NULL);
    EQUAL(counters.seq_cst, n);
    EQUAL(counters.relaxed, 3 * n);
    EQUAL(counters.byte, n % 256);
    EQUAL(counters.cas, 7 * n);
    unsigned long long odd = 0;
    for (int t = 0; t < n_threads; t++)
        odd ^= 1ull << (t % 64);
    for (int b = 0; b < 4; b++) {
        const int flips = rounds(400) / 4 + (rounds(400) % 4 > b);
        EQUAL(counters.bits[b], flips % 2 ? odd : 0);
    }
    result("%lu", n);
}

/* ---- false sharing: plain variables of different threads in one page ---------------------------------------------------- */

static struct {
    _Alignas(4096) volatile uint32_t cell[1024];
} shared_page;

static void false_sharing_body(struct member *me)
{
    const int n = rounds(20000);
    const int cell = me->number * 3 % 1024;
    for (int i = 0; i < n; i++) {
        const uint32_t seen = shared_page.cell[cell];
        CHECK(seen == (uint32_t)i, "thread %d: its own variable is %" PRIu32 ", wanted %d", me->number, seen, i);
        shared_page.cell[cell] = seen + 1;
    }
}

static void false_sharing(void)
{
    const int n_threads = threads(4);
    memset((void *)&shared_page, 0, sizeof shared_page);
    crew_run(n_threads, false_sharing_body, NULL);
    uint64_t sum = 0;
    for (int i = 0; i < 1024; i++)
        sum += shared_page.cell[i];
    EQUAL(sum, (uint64_t)n_threads * (uint64_t)rounds(20000));
    result("%" PRIu64, sum);
}

/* The same with bytes, each next to the other: a write must not carry an old neighbour along. */
static struct {
    _Alignas(4096) volatile unsigned char byte[4096];
} byte_page;

static void neighbours_body(struct member *me)
{
    const int n = rounds(3000);
    for (int i = 0; i < n; i++) {
        const int at = me->number + me->of * (i % (int)(PAGE / (size_t)me->of));
        byte_page.byte[at] = (unsigned char)(byte_page.byte[at] + 1);
    }
}

static void neighbours(void)
{
    const int n_threads = threads(4), n = rounds(3000);
    memset((void *)&byte_page, 0, sizeof byte_page);
    crew_run(n_threads, neighbours_body, NULL);
    const int per_thread = (int)(PAGE / (size_t)n_threads);
    for (int i = 0; i < per_thread * n_threads; i++) {
        const int visits = n / per_thread + (n % per_thread > i / n_threads);
        CHECK(byte_page.byte[i] == (unsigned char)visits, "byte %d is %d, wanted %d", i, byte_page.byte[i], visits % 256);
    }
}

/* ---- message passing: plain data published by release, read by acquire -------------------------------------------------- */

#define MESSAGE_WORDS 300

static struct {
    _Alignas(4096) uint64_t data[MESSAGE_WORDS * 4]; /* over several pages */
    _Alignas(4096) atomic_int full;
    _Alignas(4096) atomic_int empty;
} mailbox;

static void message_body(struct member *me)
{
    const int n = rounds(200);
    unsigned spins = 0;
    for (int i = 1; i <= n; i++) {
        if (me->number == 0) {
            while (atomic_load_explicit(&mailbox.empty, memory_order_acquire) != i - 1)
                relax(&spins);
            for (size_t w = 0; w < MESSAGE_WORDS; w++)
                mailbox.data[w * 4] = mix((uint64_t)i * 1000 + w);
            atomic_store_explicit(&mailbox.full, i, memory_order_release);
        } else {
            while (atomic_load_explicit(&mailbox.full, memory_order_acquire) != i)
                relax(&spins);
            for (size_t w = 0; w < MESSAGE_WORDS; w++)
                CHECK(mailbox.data[w * 4] == mix((uint64_t)i * 1000 + w), "message %d: word %zu is stale or torn", i, w);
            me->sum += mailbox.data[0];
            atomic_store_explicit(&mailbox.empty, i, memory_order_release);
        }
    }
}

static void message_passing(void)
{
    memset(&mailbox, 0, sizeof mailbox);
    result("%016" PRIx64, crew_run(2, message_body, NULL));
}

/* ---- a spin barrier of atomics only, and phases between ----------------------------------------------------------------- */

static struct {
    _Alignas(4096) atomic_uint arrived;
    atomic_uint phase;
    _Alignas(4096) uint64_t slot[64][64];
} spin;

static void spin_barrier_wait(unsigned n)
{
    const unsigned phase = atomic_load(&spin.phase);
    if (atomic_fetch_add(&spin.arrived, 1) + 1 == n) {
        atomic_store(&spin.arrived, 0);
        atomic_fetch_add(&spin.phase, 1);
    } else {
        while (atomic_load(&spin.phase) == phase)
            cpu_relax();
    }
}

static void spin_barrier_body(struct member *me)
{
    const int n = rounds(20);
    for (int i = 0; i < n; i++) {
        for (int w = 0; w < 64; w++)
            spin.slot[me->number][w] = mix((uint64_t)(i * 64 + me->number));
        spin_barrier_wait((unsigned)me->of);
        for (int t = 0; t < me->of; t++)
            CHECK(spin.slot[t][i % 64] == mix((uint64_t)(i * 64 + t)), "round %d: thread %d sees an old slot of thread %d", i, me->number, t);
        spin_barrier_wait((unsigned)me->of);
    }
}

static void spin_barrier(void)
{
    memset(&spin, 0, sizeof spin);
    const int n = threads(3) > 64 ? 64 : threads(3);
    crew_run(n, spin_barrier_body, NULL);
    result("%d", rounds(20));
}

/* ---- a sequence lock: readers never see half of an update --------------------------------------------------------------- */

static struct {
    _Alignas(4096) atomic_uint sequence;
    _Alignas(4096) atomic_ulong first;
    _Alignas(4096) atomic_ulong second; /* always twice the first */
    _Alignas(4096) atomic_ulong third;  /* and its complement */
    atomic_bool done;
} seqlock;

static void seqlock_body(struct member *me)
{
    unsigned spins = 0;
    if (me->number == 0) {
        const unsigned long n = (unsigned long)rounds(500);
        for (unsigned long i = 1; i <= n; i++) {
            const unsigned s = atomic_load_explicit(&seqlock.sequence, memory_order_relaxed);
            atomic_store_explicit(&seqlock.sequence, s + 1, memory_order_relaxed);
            atomic_thread_fence(memory_order_release);
            atomic_store_explicit(&seqlock.first, i, memory_order_relaxed);
            atomic_store_explicit(&seqlock.second, 2 * i, memory_order_relaxed);
            atomic_store_explicit(&seqlock.third, ~i, memory_order_relaxed);
            atomic_store_explicit(&seqlock.sequence, s + 2, memory_order_release);
            relax(&spins);
        }
        atomic_store(&seqlock.done, true);
        return;
    }
    unsigned long last = 0;
    for (bool end = false; !end;) {
        end = atomic_load(&seqlock.done);
        const unsigned s = atomic_load_explicit(&seqlock.sequence, memory_order_acquire);
        const unsigned long first = atomic_load_explicit(&seqlock.first, memory_order_relaxed);
        const unsigned long second = atomic_load_explicit(&seqlock.second, memory_order_relaxed);
        const unsigned long third = atomic_load_explicit(&seqlock.third, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (s % 2 || atomic_load_explicit(&seqlock.sequence, memory_order_relaxed) != s) {
            relax(&spins);
            end = false;
            continue;
        }
        CHECK(second == 2 * first && third == ~first, "a reader saw %lu, %lu, %lx in sequence %u", first, second, third, s);
        CHECK(first >= last, "a reader saw %lu after %lu", first, last);
        last = first;
        relax(&spins);
    }
    EQUAL(last, rounds(500));
}

static void seqlock_test(void)
{
    memset(&seqlock, 0, sizeof seqlock);
    atomic_store(&seqlock.third, ~0ul);
    crew_run(threads(3) < 2 ? 2 : threads(3), seqlock_body, NULL);
    result("%lu", atomic_load(&seqlock.first));
}

/* ---- mutual exclusion by loads and stores only: right under sequential consistency alone -------------------------------- */

static struct {
    _Alignas(4096) atomic_bool wants[2];
    atomic_int turn;
    _Alignas(4096) atomic_bool wants_far; /* wants[1] in another page */
    _Alignas(4096) unsigned long inside, owner;
} exclusion;

static void critical_section(int number, int round)
{
    exclusion.owner = (unsigned long)number;
    exclusion.inside++;
    CHECK(exclusion.owner == (unsigned long)number, "round %d: thread %d is not alone inside", round, number);
}

static void peterson_body(struct member *me)
{
    const int n = rounds(300), self = me->number, other = 1 - self;
    unsigned spins = 0;
    for (int i = 0; i < n; i++) {
        atomic_store(&exclusion.wants[self], true);
        atomic_store(&exclusion.turn, other);
        while (atomic_load(&exclusion.wants[other]) && atomic_load(&exclusion.turn) == other)
            relax(&spins);
        critical_section(self, i);
        atomic_store(&exclusion.wants[self], false);
    }
}

static void peterson(void)
{
    memset(&exclusion, 0, sizeof exclusion);
    crew_run(2, peterson_body, NULL);
    EQUAL(exclusion.inside, 2 * rounds(300));
    result("%lu", exclusion.inside);
}

static void dekker_body(struct member *me)
{
    const int n = rounds(300), self = me->number;
    atomic_bool *const mine = self ? &exclusion.wants_far : &exclusion.wants[0];
    atomic_bool *const others = self ? &exclusion.wants[0] : &exclusion.wants_far;
    unsigned spins = 0;
    for (int i = 0; i < n; i++) {
        atomic_store(mine, true);
        while (atomic_load(others)) {
            if (atomic_load(&exclusion.turn) != self) {
                atomic_store(mine, false);
                while (atomic_load(&exclusion.turn) != self)
                    relax(&spins);
                atomic_store(mine, true);
            }
            relax(&spins);
        }
        critical_section(self, i);
        atomic_store(&exclusion.turn, 1 - self);
        atomic_store(mine, false);
    }
}

static void dekker(void)
{
    memset(&exclusion, 0, sizeof exclusion);
    crew_run(2, dekker_body, NULL);
    EQUAL(exclusion.inside, 2 * rounds(300));
    result("%lu", exclusion.inside);
}

/* ---- litmus tests ------------------------------------------------------------------------------------------------------- */

/* One set of variables: in one page, or each in its own. */
static struct {
    _Alignas(4096) atomic_int near[4];
    _Alignas(4096) atomic_int far_0;
    _Alignas(4096) atomic_int far_1;
    _Alignas(4096) atomic_int seen[4];
    atomic_uint arrived;
    atomic_uint phase;
} litmus;

static void litmus_meet(unsigned n)
{
    const unsigned phase = atomic_load(&litmus.phase);
    unsigned spins = 0;
    if (atomic_fetch_add(&litmus.arrived, 1) + 1 == n) {
        atomic_store(&litmus.arrived, 0);
        atomic_fetch_add(&litmus.phase, 1);
    } else {
        while (atomic_load(&litmus.phase) == phase)
            relax(&spins);
    }
}

static atomic_int *litmus_variable(int round, int which)
{
    return round % 2 ? &litmus.near[which] : which ? &litmus.far_1 : &litmus.far_0;
}

/* x = 1; read y against y = 1; read x: at least one of them reads 1. */
static void store_buffer_body(struct member *me)
{
    const int n = rounds(150);
    for (int i = 0; i < n; i++) {
        litmus_meet(2);
        atomic_store(litmus_variable(i, me->number), 1);
        atomic_store(&litmus.seen[me->number], atomic_load(litmus_variable(i, 1 - me->number)));
        litmus_meet(2);
        if (me->number == 0) {
            CHECK(litmus.seen[0] || litmus.seen[1], "round %d: both read 0", i);
            atomic_store(litmus_variable(i, 0), 0);
            atomic_store(litmus_variable(i, 1), 0);
        }
    }
}

static void store_buffer(void)
{
    memset(&litmus, 0, sizeof litmus);
    crew_run(2, store_buffer_body, NULL);
}

/* Two threads write x and y; two others read them in opposite order and may not disagree about which came first. */
static void independent_reads_body(struct member *me)
{
    const int n = rounds(80), reader = me->number - 2;
    for (int i = 0; i < n; i++) {
        litmus_meet(4);
        if (reader < 0) {
            atomic_store(litmus_variable(i, me->number), 1);
        } else {
            const int first = atomic_load(litmus_variable(i, reader)), second = atomic_load(litmus_variable(i, 1 - reader));
            atomic_store(&litmus.seen[reader * 2], first);
            atomic_store(&litmus.seen[reader * 2 + 1], second);
        }
        litmus_meet(4);
        if (me->number == 0) {
            CHECK(!(litmus.seen[0] == 1 && litmus.seen[1] == 0 && litmus.seen[2] == 1 && litmus.seen[3] == 0),
                  "round %d: the readers saw the writes in different orders", i);
            atomic_store(litmus_variable(i, 0), 0);
            atomic_store(litmus_variable(i, 1), 0);
        }
    }
}

static void independent_reads(void)
{
    memset(&litmus, 0, sizeof litmus);
    crew_run(4, independent_reads_body, NULL);
}

/* A variable is never seen to go back, and a value written before another is never missing after it. */
static void no_going_back_body(struct member *me)
{
    const int n = rounds(2000);
    unsigned spins = 0;
    if (me->number == 0) {
        for (int i = 1; i <= n; i++) {
            atomic_store(&litmus.far_0, i);
            atomic_store(&litmus.far_1, i);
        }
        return;
    }
    int last = 0;
    while (last < n) {
        const int second = atomic_load(&litmus.far_1), first = atomic_load(&litmus.far_0);
        CHECK(first >= second, "the later variable is %d, the earlier one still %d", second, first);
        CHECK(second >= last, "a variable went back from %d to %d", last, second);
        last = second;
        relax(&spins);
    }
}

static void no_going_back(void)
{
    memset(&litmus, 0, sizeof litmus);
    crew_run(threads(3) < 2 ? 2 : threads(3), no_going_back_body, NULL);
}

/* ---- locks and lists of atomics ----------------------------------------------------------------------------------------- */

static struct {
    _Alignas(4096) atomic_uint next;
    atomic_uint serving;
    unsigned long count, square; /* in the lock's own page */
    _Alignas(4096) unsigned long elsewhere;
} ticket;

static void ticket_body(struct member *me)
{
    const int n = rounds(100);
    unsigned spins = 0;
    (void)me;
    for (int i = 0; i < n; i++) {
        const unsigned mine = atomic_fetch_add(&ticket.next, 1);
        while (atomic_load(&ticket.serving) != mine)
            relax(&spins);
        EQUAL(ticket.count, mine);
        EQUAL(ticket.elsewhere, ticket.square);
        ticket.square += 2 * ticket.count + 1;
        ticket.count++;
        ticket.elsewhere = ticket.square;
        atomic_store(&ticket.serving, mine + 1);
    }
}

static void ticket_lock(void)
{
    memset(&ticket, 0, sizeof ticket);
    crew_run(threads(4), ticket_body, NULL);
    EQUAL(ticket.square, ticket.count * ticket.count);
    result("%lu", ticket.count);
}

struct node {
    struct node *next;
    uint64_t value;
};

static _Atomic(struct node *) stack_top;

static void push_body(struct member *me)
{
    const int n = rounds(300);
    for (int i = 0; i < n; i++) {
        struct node *node = NOT_NULL(malloc(sizeof *node));
        node->value = (uint64_t)(me->number * n + i);
        node->next = atomic_load(&stack_top);
        while (!atomic_compare_exchange_weak(&stack_top, &node->next, node))
            ;
    }
}

/* Everybody pushes; then everybody takes the whole list, and only one gets it. */
static void take_body(struct member *me)
{
    for (struct node *node = atomic_exchange(&stack_top, NULL), *next; node; node = next) {
        next = node->next;
        me->sum += node->value + 1;
        free(node);
    }
}

static void lock_free_stack(void)
{
    const int n = threads(4);
    const uint64_t pushed = (uint64_t)n * (uint64_t)rounds(300);
    atomic_store(&stack_top, NULL);
    crew_run(n, push_body, NULL);
    const uint64_t sum = crew_run(n, take_body, NULL);
    EQUAL(sum, pushed * (pushed + 1) / 2);
    result("%" PRIu64, sum);
}

/* 16 bytes at once, where the processor can. */
#ifdef __SIZEOF_INT128__
static union {
    _Alignas(4096) unsigned __int128 both;
    volatile uint64_t half[2];
} wide;

__attribute__((target("cx16"))) static void wide_body(struct member *me)
{
    const int n = rounds(300);
    (void)me;
    for (int i = 0; i < n; i++) {
        uint64_t low, high;
        unsigned char done;
        do {
            /* A torn read is cured by the exchange's failing. */
            low = wide.half[0];
            high = wide.half[1];
            uint64_t expected_low = low, expected_high = high;
            __asm__ volatile("lock cmpxchg16b %1; sete %0"
                             : "=q"(done), "+m"(wide.both), "+a"(expected_low), "+d"(expected_high)
                             : "b"(low + 1), "c"(high + 2)
                             : "cc", "memory");
            CHECK(done || expected_high == 2 * expected_low, "16 bytes: %" PRIu64 " and %" PRIu64, expected_low, expected_high);
        } while (!done);
    }
}

static void wide_exchange(void)
{
    wide.both = 0;
    crew_run(threads(4), wide_body, NULL);
    EQUAL(wide.half[0], (uint64_t)threads(4) * (uint64_t)rounds(300));
    EQUAL(wide.half[1], 2 * wide.half[0]);
    result("%" PRIu64, wide.half[0]);
}
#endif

static const struct sub_test tests[] = {
    {"counters", counters_test, "fetch-and-add of several widths and orders, compare-and-exchange"},
    {"false_sharing", false_sharing, "threads increment neighbours in one page"},
    {"neighbours", neighbours, "threads write alternate bytes of one page"},
    {"message_passing", message_passing, "data over pages, published by release and acquire"},
    {"spin_barrier", spin_barrier, "a barrier that spins without any call"},
    {"seqlock", seqlock_test, "readers of a sequence lock over four pages"},
    {"peterson", peterson, "Peterson's lock"},
    {"dekker", dekker, "Dekker's lock, flags in different pages"},
    {"store_buffer", store_buffer, "litmus: store buffering"},
    {"independent_reads", independent_reads, "litmus: independent reads of independent writes"},
    {"no_going_back", no_going_back, "two variables written in order"},
    {"ticket_lock", ticket_lock, "a fair spin lock beside its data"},
    {"lock_free_stack", lock_free_stack, "push by compare-and-exchange, take by exchange"},
#ifdef __SIZEOF_INT128__
    {"wide_exchange", wide_exchange, "cmpxchg16b"},
#endif
};

TORTURE_MAIN(tests)
