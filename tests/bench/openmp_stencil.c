/* openmp_stencil.c - a Jacobi iteration on a square grid of doubles, rows shared out evenly among the threads of one OpenMP team.
 *
 *   openmp_stencil THREADS SIDE STEPS [second]
 *
 * Each step reads a row of each neighbour's and ends with a barrier. Filling and summing up are the team's work, too. The team is the main thread and
 * others; with "second", a thread that the main thread starts, and others: the main thread only waits.
 * Prints the seconds of it all, and a hash that does not depend on the number of threads. */
#include <inttypes.h>
#include <omp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int n_threads, n_steps;
static size_t side;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *solve(void *arg)
{
    double begun = now_s();
    double *grid[2] = {malloc(side * side * sizeof(double)), malloc(side * side * sizeof(double))};
    uint64_t hash = 0;
    int team = 0;
    if (!grid[0] || !grid[1])
        exit(1);
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp single
        team = omp_get_num_threads();
#pragma omp for schedule(static)
        for (size_t r = 0; r < side; r++)
            for (size_t c = 0; c < side; c++)
                grid[0][r * side + c] = grid[1][r * side + c] = (double)(mix(r * side + c) % 1000) / 3.0;
        for (int step = 0; step < n_steps; step++) {
            const double *from = grid[step % 2];
            double *to = grid[(step + 1) % 2];
#pragma omp for schedule(static)
            for (size_t r = 1; r < side - 1; r++)
                for (size_t c = 1; c < side - 1; c++) {
                    const double *at = from + r * side + c;
                    to[r * side + c] = 0.2 * (at[0] + at[-1] + at[1] + at[-(ptrdiff_t)side] + at[side]);
                }
        }
#pragma omp for schedule(static) reduction(+ : hash)
        for (size_t i = 0; i < side * side; i++) {
            uint64_t bits;
            memcpy(&bits, &grid[n_steps % 2][i], sizeof bits);
            hash += mix(bits + i);
        }
    }
    printf("seconds %.6f\nsum %016" PRIx64 "\n", now_s() - begun, hash);
    if (team != n_threads)
        fprintf(stderr, "openmp_stencil: %d threads, wanted %d\n", team, n_threads);
    free(grid[0]);
    free(grid[1]);
    return team == n_threads ? arg : NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    void *ret;
    if (argc < 4 || (n_threads = atoi(argv[1])) < 1 || (side = strtoul(argv[2], NULL, 0)) < 3 || (n_steps = atoi(argv[3])) < 1) {
        fprintf(stderr, "usage: openmp_stencil THREADS SIDE STEPS [second]\n");
        return 2;
    }
    if (argc == 4)
        return solve(argv) ? 0 : 1;
    if (pthread_create(&thread, NULL, solve, argv) || pthread_join(thread, &ret))
        return 1;
    return ret ? 0 : 1;
}
