/* select_many.c - select is told of as many descriptors as there may be, with sets of the usual size, and with larger ones when it needs them. */
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HIGH = 3000, WORDS = 1024 };

int main(void)
{
    struct {
        fd_set in;
        unsigned long after[WORDS];
    } s;
    int ends[2], n = getdtablesize();
    struct timeval none = {0, 0};
    if (n <= HIGH || pipe(ends) || write(ends[1], "x", 1) != 1)
        return 2;
    for (int round = 0; round < 2; round++) {
        memset(&s, round ? 0 : 0xff, sizeof s);
        FD_ZERO(&s.in);
        FD_SET(ends[0], &s.in);
        printf("%d of few: %d", round, select(n, &s.in, NULL, NULL, &none));
        none = (struct timeval){0, 0};
        printf(" %d, behind: %lx\n", FD_ISSET(ends[0], &s.in) != 0, s.after[50]);
    }
    unsigned long set[WORDS] = {0};
    if (dup2(ends[0], HIGH) != HIGH)
        return 2;
    set[HIGH / 64] = 1ul << HIGH % 64;
    set[0] = 1ul << ends[1];
    printf("high: %ld", syscall(SYS_select, n, set, NULL, NULL, &none));
    printf(" %d %d\n", set[HIGH / 64] == 1ul << HIGH % 64, set[0] != 0);
    set[0] = 1ul << ends[0];
    printf("pselect6: %ld\n", syscall(SYS_pselect6, n, set, NULL, NULL, &(struct timespec){0, 0}, NULL));
    close(HIGH);
    printf("closed: %ld\n", syscall(SYS_select, n, set, NULL, NULL, &none));
    return 0;
}
