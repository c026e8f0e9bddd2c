/* bfs.c - breadth-first search of a random directed graph in compressed rows.
 *   bfs VERTICES DEGREE SEARCHES
 * Prints the seconds that the searches took, then a checksum of the distances (the same wherever it runs). */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    uint32_t n = (uint32_t)strtoul(argv[1], NULL, 0), degree = (uint32_t)strtoul(argv[2], NULL, 0);
    int searches = atoi(argv[3]);
    uint64_t *row = malloc((n + 1ull) * sizeof(*row));
    uint32_t *to = malloc((uint64_t)n * degree * 2 * sizeof(*to)), *queue = malloc(n * sizeof(*queue)), *distance = malloc(n * sizeof(*distance));
    if (!row || !to || !queue || !distance)
        return 1;
    uint64_t edges = 0;
    for (uint32_t v = 0; v < n; v++) { /* degrees from half to one and a half of DEGREE */
        row[v] = edges;
        uint32_t own = degree / 2 + (uint32_t)(mix(v + 1ull) % (degree + 1));
        for (uint32_t i = 0; i < own; i++)
            to[edges++] = (uint32_t)(mix(((uint64_t)v << 32) + i + 7) % n);
    }
    row[n] = edges;
    uint64_t sum = 0;
    double start = now_s();
    for (int s = 0; s < searches; s++) {
        memset(distance, 0xff, n * sizeof(*distance));
        uint32_t head = 0, tail = 0, source = (uint32_t)(mix(1000u + (unsigned)s) % n);
        distance[source] = 0, queue[tail++] = source;
        while (head < tail) {
            uint32_t v = queue[head++];
            for (uint64_t e = row[v]; e < row[v + 1]; e++)
                if (distance[to[e]] == UINT32_MAX)
                    distance[to[e]] = distance[v] + 1, queue[tail++] = to[e];
        }
        for (uint32_t v = 0; v < n; v++)
            sum = mix(sum + distance[v] * 31ull + v);
    }
    printf("%.4f %016" PRIx64 "\n", now_s() - start, sum);
    return 0;
}
