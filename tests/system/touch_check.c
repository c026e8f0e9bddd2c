/* touch_check.c - small program of the failure and limit tests.
 *   touch_check hold MIB SECONDS     fills MIB, says "ready", then reads and changes it for so long; checks all the time
 *   touch_check until_enomem MIB     mallocs 1 MiB pieces, filled, until one is refused or MIB are held; checks all of them
 *   touch_check scattered GIB N      maps GIB, fills N scattered pages, checks them and their neighbours
 *   touch_check reserve              PROT_NONE and NORESERVE reservations of 1 TiB, of which a little is used
 *   touch_check forks N              N short-lived children, each checks a part and changes it
 *   touch_check fork_copies MIB      fills MIB, forks, and both change all of it
 *   touch_check advised MIB          fills and checks MIB after each kind of madvise, fork once in between
 *   touch_check chain N              execs itself N times, each with memory of its own */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)

static uint64_t word_of(uint64_t seed, uint64_t i)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15ull + i * 0xd1342543de82ef95ull + 1;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return z ^ (z >> 27);
}

static void fill(void *at, size_t len, uint64_t seed)
{
    uint64_t *w = at;
    for (size_t i = 0; i < len / 8; i++)
        w[i] = word_of(seed, i);
}

static void check(const void *at, size_t len, uint64_t seed)
{
    const uint64_t *w = at;
    for (size_t i = 0; i < len / 8; i++)
        if (w[i] != word_of(seed, i)) {
            printf("WRONG DATA: seed %" PRIu64 " word %zu is %016" PRIx64 "\n", seed, i, w[i]);
            fflush(stdout);
            _exit(3);
        }
}

static void *map(size_t len)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        printf("mmap of %zu: %s\n", len, strerror(errno));
        exit(4);
    }
    return at;
}

static int hold(size_t len, unsigned seconds)
{
    char *at = map(len);
    for (size_t i = 0; i < len; i += MIB)
        fill(at + i, MIB, i);
    puts("ready");
    fflush(stdout);
    time_t end = time(NULL) + seconds;
    unsigned long rounds = 0;
    do {
        for (size_t i = 0; i < len && time(NULL) < end; i += MIB) {
            check(at + i, MIB, i + rounds);
            fill(at + i, MIB, i + rounds + 1);
            if (i + MIB == len)
                rounds++;
        }
    } while (time(NULL) < end);
    puts("held");
    return 0;
}

static int until_enomem(size_t limit)
{
    char **piece = calloc(limit, sizeof(*piece));
    size_t n = 0;
    while (n < limit && (piece[n] = malloc(MIB)) != NULL) {
        fill(piece[n], MIB, n);
        n++;
    }
    if (n == limit)
        puts("never refused");
    else
        printf("refused with %s\n", strerrorname_np(errno));
    void *direct = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("mmap then: %s\n", direct == MAP_FAILED ? strerrorname_np(errno) : "given");
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < n; i++)
            check(piece[i], MIB, i);
    fprintf(stderr, "held %zu MiB\n", n);
    /* What is freed can be had again. */
    for (size_t i = 0; i < n; i += 2) {
        free(piece[i]);
        piece[i] = NULL;
    }
    size_t again = 0;
    for (size_t i = 0; i < n / 2; i += 2)
        if ((piece[i] = malloc(MIB - 64))) {
            fill(piece[i], MIB - 64, i);
            again++;
        }
    printf("had again: %s\n", again == (n / 2 + 1) / 2 ? "all" : "NOT ALL");
    for (size_t i = 0; i < n; i++)
        if (piece[i])
            check(piece[i], MIB - 64, i);
    puts("all content right");
    return 0;
}

static int scattered(size_t len, size_t n)
{
    char *at = map(len);
    size_t stride = len / PAGE / n;
    for (size_t i = 0; i < n; i++) {
        size_t page = i * stride + word_of(99, i) % stride;
        fill(at + page * PAGE, PAGE, page);
    }
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < n; i++) {
            size_t page = i * stride + word_of(99, i) % stride;
            check(at + page * PAGE, PAGE, page);
        }
    unsigned long untouched = 0;
    for (size_t i = 0; i + 1 < n; i += 97) {
        size_t page = i * stride + (word_of(99, i) + 1) % stride;
        const uint64_t *w = (const uint64_t *)(const void *)(at + page * PAGE);
        for (size_t k = 0; k < 512; k++)
            untouched |= w[k];
    }
    printf("%zu pages right, untouched pages %s\n", n, untouched ? "NOT ZERO" : "zero");
    return untouched != 0;
}

static int reserve(void)
{
    char *none = mmap(NULL, MIB * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *open = mmap(NULL, MIB * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *bare = mmap(NULL, MIB * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("reservations: %s %s %s\n", none == MAP_FAILED ? "refused" : "given", open == MAP_FAILED ? "refused" : "given", bare == MAP_FAILED ? "refused" : "given");
    if (none == MAP_FAILED || open == MAP_FAILED || bare == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < 128; i++) {
        size_t place = i * 7919 % 1024 * (1024 * MIB);
        if (mprotect(none + place, MIB, PROT_READ | PROT_WRITE))
            return 1;
        fill(none + place, MIB, i);
        fill(open + place, MIB, i + 1000);
    }
    for (size_t i = 0; i < 128; i++) {
        size_t place = i * 7919 % 1024 * (1024 * MIB);
        check(none + place, MIB, i);
        check(open + place, MIB, i + 1000);
    }
    printf("munmap: %d %d %d\n", munmap(none, MIB * MIB), munmap(open, MIB * MIB), munmap(bare, MIB * MIB));
    return 0;
}

static int forks(unsigned n)
{
    size_t len = 96 * MIB;
    char *at = map(len);
    fill(at, len, 5);
    unsigned fine = 0;
    for (unsigned started = 0, running = 0; started < n || running > 0;) {
        if (started < n && running < 4) {
            pid_t pid = fork();
            if (pid == 0) {
                size_t piece = len / n / MIB * MIB ?: MIB, from = started * piece % len;
                uint64_t *w = (uint64_t *)(void *)(at + from);
                for (size_t i = 0; i < piece / 8; i++)
                    if (w[i] != word_of(5, from / 8 + i))
                        _exit(1);
                fill(at + from, piece, 6 + started);
                char *own = map(2 * MIB);
                fill(own, 2 * MIB, started);
                check(own, 2 * MIB, started);
                check(at + from, piece, 6 + started);
                _exit(0);
            }
            if (pid < 0) {
                printf("fork: %s\n", strerror(errno));
                return 1;
            }
            started++;
            running++;
            continue;
        }
        int status;
        if (wait(&status) > 0 && status == 0)
            fine++;
        running--;
    }
    check(at, len, 5);
    printf("%u of %u children fine, parent fine\n", fine, n);
    return fine != n;
}

static int advised(size_t len)
{
    static const int kinds[] = {MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLD,
                                MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_MERGEABLE, MADV_UNMERGEABLE,
                                MADV_DONTDUMP, MADV_DODUMP, MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK, MADV_KEEPONFORK};
    char *at = map(len);
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        fill(at, len, i);
        int rc = madvise(at, len, kinds[i]);
        printf("advice %d: %s\n", kinds[i], rc ? strerrorname_np(errno) : "done");
        check(at, len, i);
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        check(at, len, sizeof(kinds) / sizeof(kinds[0]) - 1);
        _exit(0);
    }
    int status = 1;
    if (pid > 0)
        waitpid(pid, &status, 0);
    printf("child: %d\n", status);
    return status != 0;
}

static int chain(char **argv, unsigned n)
{
    char *at = map(24 * MIB);
    fill(at, 24 * MIB, n);
    check(at, 24 * MIB, n);
    printf("link %u\n", n);
    fflush(stdout);
    if (n == 0)
        return 17;
    char text[16];
    snprintf(text, sizeof(text), "%u", n - 1);
    execl("/proc/self/exe", argv[0], "chain", text, (char *)NULL);
    perror("exec");
    return 1;
}

static int fork_copies(size_t len)
{
    char *at = map(len);
    fill(at, len, 5);
    pid_t pid = fork();
    int status = 0;
    check(at, len, 5);
    fill(at, len, pid ? 6 : 7);
    check(at, len, pid ? 6 : 7);
    if (pid == 0)
        _exit(0);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
        return 1;
    printf("both right\n");
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    size_t first = argc > 2 ? strtoul(argv[2], NULL, 0) : 0, second = argc > 3 ? strtoul(argv[3], NULL, 0) : 0;
    if (!strcmp(mode, "hold") && argc == 4)
        return hold(first * MIB, (unsigned)second);
    if (!strcmp(mode, "until_enomem") && argc == 3)
        return until_enomem(first);
    if (!strcmp(mode, "scattered") && argc == 4)
        return scattered(first << 30, second);
    if (!strcmp(mode, "reserve"))
        return reserve();
    if (!strcmp(mode, "forks") && argc == 3)
        return forks((unsigned)first);
    if (!strcmp(mode, "fork_copies") && argc == 3)
        return fork_copies(first * MIB);
    if (!strcmp(mode, "advised") && argc == 3)
        return advised(first * MIB);
    if (!strcmp(mode, "chain") && argc == 3)
        return chain(argv, (unsigned)first);
    fprintf(stderr, "touch_check: see its source\n");
    return 2;
}
