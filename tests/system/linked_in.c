/* linked_in.c - a program that has libendgame linked in, as an archive or as a shared library, and fills MIB of memory. Says whether
 * the runtime that it was linked with is the one at work, and checks its memory. */
#include "client/preload/endgame.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    size_t n = (size_t)(argc > 1 ? atoi(argv[1]) : 64) << 17, wrong = 0;
    unsigned long *v = malloc(n * sizeof *v);
    if (!v)
        return 1;
    for (int round = 1; round < 4; round++) {
        for (size_t i = 0; i < n; i += 512)
            v[i] = i * (unsigned long)round;
        for (size_t i = 0; i < n; i += 512)
            wrong += v[i] != i * (unsigned long)round;
    }
    printf("%s, active %d, wrong %zu\n", endgame_version(), endgame_active(), wrong);
    free(v);
    return wrong != 0;
}
