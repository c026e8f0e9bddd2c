/* torture_plugin.c - a shared object that torture_tls loads while threads run: code, data, read-only data, thread-local variables. */
#include <stdatomic.h>
#include <stdint.h>

static const uint64_t constants[4] = {2, 3, 5, 7};
static const char *const names[4] = {"two", "three", "five", "seven"}; /* with relocations */
static uint64_t counter = 40;
static atomic_int constructed;
static __thread uint64_t own = 11;
static __thread char big[9000]; /* does not fit into what glibc keeps free for late comers */

__attribute__((constructor)) static void construct(void)
{
    atomic_fetch_add(&constructed, 1);
}

int plugin_constructed(void);
int plugin_constructed(void)
{
    return atomic_load(&constructed);
}

uint64_t plugin_constant(int i);
uint64_t plugin_constant(int i)
{
    return constants[i & 3];
}

const char *plugin_name(int i);
const char *plugin_name(int i)
{
    return names[i & 3];
}

/* The caller's own count, from 11. */
uint64_t plugin_own(uint64_t add);
uint64_t plugin_own(uint64_t add)
{
    own += add;
    big[own % sizeof big] = (char)own;
    return own;
}

int plugin_big_sum(void);
int plugin_big_sum(void)
{
    int sum = 0;
    for (unsigned i = 0; i < sizeof big; i++)
        sum += big[i];
    return sum;
}

/* Everybody's count. */
uint64_t plugin_count(uint64_t add);
uint64_t plugin_count(uint64_t add)
{
    return __atomic_add_fetch(&counter, add, __ATOMIC_SEQ_CST);
}

uint64_t plugin_call_back(uint64_t (*function)(uint64_t), uint64_t value);
uint64_t plugin_call_back(uint64_t (*function)(uint64_t), uint64_t value)
{
    return function(value) + constants[0];
}
