/* torture_openmp.c - OpenMP under libgomp, whose locks and barriers spin before they sleep. Built with -fopenmp. --threads is the size of
 * the team. See torture.h for the command line. */
#include "torture.h"

#include <omp.h>

enum { ROWS = 120, COLUMNS = 500 };

static double hash_of(const double *at, size_t n, uint64_t *ret_hash)
{
    double sum = 0;
    uint64_t hash = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &at[i], sizeof bits);
        hash = mix(hash ^ bits);
        sum += at[i];
    }
    *ret_hash = hash;
    return sum;
}

static double *stencil_grid(int n_threads, int steps)
{
    double *from = NOT_NULL(malloc(sizeof(double) * ROWS * COLUMNS)), *to = NOT_NULL(malloc(sizeof(double) * ROWS * COLUMNS));
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        from[i] = to[i] = (double)(mix(i) % 1000) / 3.0;
    for (int s = 0; s < steps; s++) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
        for (int r = 1; r < ROWS - 1; r++)
            for (int c = 1; c < COLUMNS - 1; c++) {
                const double *const at = from + r * COLUMNS + c;
                to[r * COLUMNS + c] = 0.25 * (at[-1] + at[1] + at[-COLUMNS] + at[COLUMNS]);
            }
        double *const other = from;
        from = to;
        to = other;
    }
    free(to);
    return from;
}

static void stencil(void)
{
    uint64_t hash, wanted_hash;
    double *got = stencil_grid(threads(4), rounds(15)), *wanted = stencil_grid(1, rounds(15));
    hash_of(got, ROWS * COLUMNS, &hash);
    hash_of(wanted, ROWS * COLUMNS, &wanted_hash);
    CHECK(hash == wanted_hash, "the grid differs from one thread's");
    free(got);
    free(wanted);
    result("%016" PRIx64, hash);
}

static void reduction(void)
{
    const long n = rounds(300) * 1000l;
    long sum = 0, max = 0, in_critical = 0, atomic = 0;
    uint64_t bits = 0;
#pragma omp parallel for num_threads(threads(4)) schedule(static) reduction(+ : sum) reduction(max : max) reduction(^ : bits)
    for (long i = 0; i < n; i++) {
        const long value = (long)(mix((uint64_t)i) >> 40);
        sum += value;
        max = value > max ? value : max;
        bits ^= mix((uint64_t)i);
    }
#pragma omp parallel num_threads(threads(4))
    {
        for (int i = 0; i < 60; i++) {
#pragma omp critical
            in_critical++;
#pragma omp atomic
            atomic++;
        }
    }
    long wanted_sum = 0, wanted_max = 0;
    uint64_t wanted_bits = 0;
    for (long i = 0; i < n; i++) {
        const long value = (long)(mix((uint64_t)i) >> 40);
        wanted_sum += value;
        wanted_max = value > wanted_max ? value : wanted_max;
        wanted_bits ^= mix((uint64_t)i);
    }
    EQUAL(sum, wanted_sum);
    EQUAL(max, wanted_max);
    EQUAL(bits, wanted_bits);
    EQUAL(in_critical, 60 * threads(4));
    EQUAL(atomic, 60 * threads(4));
    result("%ld %ld %016" PRIx64, sum, max, bits);
}

static long fibonacci(int n)
{
    long a, b;
    if (n < 2)
        return n;
#pragma omp task shared(a) if (n > 10)
    a = fibonacci(n - 1);
#pragma omp task shared(b) if (n > 10)
    b = fibonacci(n - 2);
#pragma omp taskwait
    return a + b;
}

/* A tree of tasks, and tasks with dependences. */
static void tasks(void)
{
    long value = 0;
#pragma omp parallel num_threads(threads(4))
#pragma omp single
    value = fibonacci(18);
    EQUAL(value, 2584);

    uint64_t cells[40] = {0};
#pragma omp parallel num_threads(threads(4))
#pragma omp single
    for (int step = 0; step < 4; step++)
        for (int i = 0; i < 40; i++) {
            const int before = i ? i - 1 : 0;
#pragma omp task depend(in : cells[before]) depend(inout : cells[i])
            cells[i] = mix(cells[i] + cells[before] + 1);
        }
    uint64_t wanted[40] = {0}, hash = 0;
    for (int step = 0; step < 4; step++)
        for (int i = 0; i < 40; i++)
            wanted[i] = mix(wanted[i] + wanted[i ? i - 1 : 0] + 1);
    for (int i = 0; i < 40; i++) {
        CHECK(cells[i] == wanted[i], "task chain: cell %d is wrong", i);
        hash ^= cells[i];
    }
    result("%ld %016" PRIx64, value, hash);
}

static int own_value;
#pragma omp threadprivate(own_value)

/* Loops handed out in pieces, sections, ordered parts, private variables, locks. */
static void schedules(void)
{
    const int n = rounds(2000), team = threads(4);
    uint64_t *out = NOT_NULL(calloc((size_t)n, sizeof *out));
    int in_order = 0, sections = 0;
    bool order_kept = true;
#pragma omp parallel for num_threads(team) schedule(dynamic, 16)
    for (int i = 0; i < n; i++)
        out[i] += mix((uint64_t)i);
#pragma omp parallel for num_threads(team) schedule(guided)
    for (int i = 0; i < n; i++)
        out[i] ^= (uint64_t)i;
#pragma omp parallel for num_threads(team) schedule(dynamic) ordered
    for (int i = 0; i < 40; i++) {
#pragma omp ordered
        {
            order_kept = order_kept && in_order == i;
            in_order++;
        }
    }
    CHECK(order_kept && in_order == 40, "an ordered part came out of order");
#pragma omp parallel sections num_threads(team) reduction(+ : sections)
    {
#pragma omp section
        sections += 1;
#pragma omp section
        sections += 10;
#pragma omp section
        sections += 100;
    }
    EQUAL(sections, 111);

    int singles = 0, sum_of_own = 0;
    omp_lock_t lock;
    omp_init_lock(&lock);
#pragma omp parallel num_threads(team)
    {
        own_value = omp_get_thread_num() + 1;
#pragma omp barrier
        for (int i = 0; i < 5; i++) {
#pragma omp single
            singles++;
#pragma omp barrier
        }
        omp_set_lock(&lock);
        sum_of_own += own_value;
        omp_unset_lock(&lock);
    }
    omp_destroy_lock(&lock);
    EQUAL(singles, 5);
    EQUAL(sum_of_own, team * (team + 1) / 2);
    uint64_t hash = 0;
    for (int i = 0; i < n; i++) {
        CHECK(out[i] == (mix((uint64_t)i) ^ (uint64_t)i), "element %d is wrong", i);
        hash = mix(hash ^ out[i]);
    }
    free(out);
    result("%016" PRIx64, hash);
}

/* Teams that come, grow, shrink, and nest. */
static void teams(void)
{
    const int n = rounds(20);
    long sum = 0;
    for (int i = 0; i < n; i++) {
        const int team = 1 + i % threads(4);
#pragma omp parallel num_threads(team) reduction(+ : sum)
        sum += omp_get_num_threads();
    }
    long wanted = 0;
    for (int i = 0; i < n; i++)
        wanted += (1l + i % threads(4)) * (1 + i % threads(4));
    EQUAL(sum, wanted);
    long nested = 0;
    omp_set_max_active_levels(2);
#pragma omp parallel num_threads(2) reduction(+ : nested)
    {
        long inner = 0;
#pragma omp parallel num_threads(2) reduction(+ : inner)
        inner += 1;
        nested += inner;
    }
    omp_set_max_active_levels(1);
    EQUAL(nested, 4);
    result("%ld", sum);
}

static const struct sub_test tests[] = {
    {"stencil", stencil, "steps over rows, compared with one thread's"},
    {"reduction", reduction, "sum, maximum, exclusive or; critical, atomic"},
    {"tasks", tasks, "a tree of tasks, tasks with dependences"},
    {"schedules", schedules, "dynamic, guided, ordered, sections, single, locks"},
    {"teams", teams, "teams of changing size, nested ones"},
};

/* No adjusting: the numbers asked for are the numbers had. */
int main(int argc, char **argv)
{
    omp_set_dynamic(0);
    return torture_main(argc, argv, tests, COUNT_OF(tests));
}
