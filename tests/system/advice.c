/* advice.c - advice has its effect, and changes no result. Linked with libendgame.
 *
 *   advice none                                not under `endgame run`: nothing to do
 *   advice errors|all MIB BUDGET_MIB           under it, with a budget smaller than MIB
 *
 * What is local is seen in /proc/self/pagemap. Prints "ok"; the first thing that is wrong goes to standard error, status 1. */
#include "client/preload/endgame.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)

static uint64_t *memory;
static size_t pages;

#define CHECK(condition, ...)                       \
    do {                                            \
        if (!(condition)) {                         \
            fprintf(stderr, "advice: " __VA_ARGS__); \
            fputc('\n', stderr);                    \
            exit(1);                                \
        }                                           \
    } while (0)

static uint64_t word(size_t page, unsigned i)
{
    return (page + 1) * 0x9e3779b97f4a7c15ull + i;
}

static void fill(size_t first, size_t n)
{
    for (size_t p = first; p < first + n; p++)
        for (unsigned i = 0; i < WORDS; i++)
            memory[p * WORDS + i] = word(p, i);
}

static void check(size_t first, size_t n)
{
    for (size_t p = first; p < first + n; p++)
        for (unsigned i = 0; i < WORDS; i += 73)
            CHECK(memory[p * WORDS + i] == word(p, i), "page %zu, word %u: %#llx", p, i, (unsigned long long)memory[p * WORDS + i]);
}

static size_t here(size_t first, size_t n)
{
    static uint64_t entry[1024];
    size_t count = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    for (size_t at = 0; at < n;) {
        size_t some = n - at < 1024 ? n - at : 1024;
        CHECK(pread(fd, entry, some * 8, (off_t)(((uintptr_t)memory / PAGE + first + at) * 8)) == (ssize_t)(some * 8), "cannot read the page map");
        for (size_t i = 0; i < some; i++)
            count += entry[i] >> 63;
        at += some;
    }
    close(fd);
    return count;
}

static void *at(size_t page)
{
    return memory + page * WORDS;
}

static void advise(size_t first, size_t n, enum endgame_advice advice)
{
    int rc = endgame_advise(at(first), n * PAGE, advice);
    CHECK(rc == 0, "advice %d: %s", advice, strerror(-rc));
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

static void errors(size_t budget)
{
    CHECK(endgame_advise((char *)memory + 8, PAGE, ENDGAME_RANDOM) == -EINVAL, "an odd address");
    CHECK(endgame_advise(memory, PAGE, (enum endgame_advice)77) == -EINVAL, "no such advice");
    CHECK(endgame_advise(memory, (budget / 2 + 1) * PAGE, ENDGAME_PIN) == -ENOMEM, "more than half of the budget was pinned");
    for (int twice = 0; twice < 2; twice++)
        CHECK(endgame_advise(memory, budget * 3 / 8 * PAGE, ENDGAME_PIN) == 0, "pinned memory was pinned: the second time it takes nothing more");
    CHECK(endgame_advise(memory, pages * PAGE, ENDGAME_NORMAL) == 0, "to take it back");
    CHECK(endgame_advise(memory, 0, ENDGAME_RANDOM) == 0, "no bytes");
    CHECK(endgame_advise(memory, SIZE_MAX / 4, ENDGAME_EVICT) == 0, "much more than there is");
    CHECK(endgame_place(memory, 1 << 21, 7) == -EINVAL, "no such server");
    CHECK(madvise(memory, PAGE, 999) == -1 && errno == EINVAL, "no such advice of the kernel's");
}

static void effects(size_t budget)
{
    const size_t hot = budget / 4, cold = budget / 8;
    fill(0, pages);
    /* What is pinned stays through a scan of everything else, and comes home if it was away. */
    advise(0, hot, ENDGAME_PIN);
    for (int tries = 0; here(0, hot) < hot && tries < 250; tries++)
        nap();
    CHECK(here(0, hot) == hot, "of %zu pinned pages %zu are here", hot, here(0, hot));
    for (int turn = 0; turn < 2; turn++) {
        check(hot, pages - hot);
        CHECK(here(0, hot) == hot, "after a scan, of %zu pinned pages %zu are here", hot, here(0, hot));
    }
    CHECK(here(0, pages) <= budget + budget / 8, "%zu pages are here", here(0, pages));
    advise(0, hot, ENDGAME_NORMAL);
    for (size_t i = 0; i < pages - hot; i++) /* in no order: a scan in sequence lets the rest be */
        check(hot + i * 7919 % (pages - hot), 1);
    CHECK(here(0, hot) < hot, "what is not pinned any more never left");
    check(0, hot);
    /* Out, and home again in the background. */
    advise(0, cold, ENDGAME_EVICT);
    for (int tries = 0; here(0, cold) && tries < 250; tries++)
        nap();
    CHECK(here(0, cold) == 0, "%zu of %zu pages did not leave", here(0, cold), cold);
    advise(0, cold, ENDGAME_PREFETCH);
    for (int tries = 0; here(0, cold) < cold && tries < 250; tries++)
        nap();
    CHECK(here(0, cold) == cold, "%zu of %zu pages came home", here(0, cold), cold);
    check(0, cold);
    /* It is not among the oldest because of what it was before; and advising again and again costs no memory. */
    for (int turn = 0; turn < 40; turn++) {
        advise(0, cold, ENDGAME_EVICT);
        CHECK(here(0, cold) == 0, "turn %d: %zu of %zu pages did not leave", turn, here(0, cold), cold);
        check(0, cold);
        CHECK(here(0, cold) == cold, "turn %d: %zu of %zu pages came home", turn, here(0, cold), cold);
    }
    /* What is pinned does not leave, and nothing else in its place. */
    advise(0, cold, ENDGAME_PIN);
    size_t others = 0;
    for (int tries = 0; others != here(cold, pages - cold) && tries < 250; tries++) { /* what is on its way out goes */
        others = here(cold, pages - cold);
        nap();
    }
    advise(0, cold, ENDGAME_EVICT);
    CHECK(here(0, cold) == cold, "%zu of %zu pinned pages were evicted", cold - here(0, cold), cold);
    CHECK(here(cold, pages - cold) == others, "of %zu other pages %zu stayed", others, here(cold, pages - cold));
    advise(0, cold, ENDGAME_NORMAL);
    /* What leaves first makes room for the others. */
    const size_t keep = budget / 4, first = pages / 2;
    check(0, keep);
    advise(first, pages - first, ENDGAME_EVICT_FIRST);
    check(0, keep);
    check(first, pages - first);
    CHECK(here(0, keep) == keep, "a scan of what leaves first took %zu of %zu other pages along", keep - here(0, keep), keep);
    /* Hints of use, and the kernel's own names for them. */
    advise(first, pages - first, ENDGAME_SEQUENTIAL);
    check(first, pages - first);
    CHECK(madvise(at(first), (pages - first) * PAGE, MADV_RANDOM) == 0, "MADV_RANDOM: %s", strerror(errno));
    for (size_t i = 0; i < pages / 4; i++)
        check(first + i * 7919 % (pages - first), 1);
    CHECK(madvise(at(first), (pages - first) * PAGE, MADV_NORMAL) == 0, "MADV_NORMAL: %s", strerror(errno));
    CHECK(madvise(at(0), cold * PAGE, 20 /* MADV_COLD */) == 0, "MADV_COLD: %s", strerror(errno));
    CHECK(madvise(at(0), cold * PAGE, 21 /* MADV_PAGEOUT */) == 0, "MADV_PAGEOUT: %s", strerror(errno));
    for (int tries = 0; here(0, cold) && tries < 250; tries++)
        nap();
    CHECK(here(0, cold) == 0, "MADV_PAGEOUT left %zu pages here", here(0, cold));
    CHECK(endgame_place(at(0), cold * PAGE, 0) == 0, "the first server");
    fill(0, cold);
    advise(0, cold, ENDGAME_EVICT);
    check(0, pages);
    /* A child made while something is on its way home has it all, too, and may pin as much as its parent. */
    advise(0, hot, ENDGAME_PIN);
    advise(hot, pages - hot, ENDGAME_PREFETCH);
    pid_t child = fork();
    if (child == 0) {
        check(0, pages);
        advise(pages - hot, hot, ENDGAME_PIN);
        check(0, pages);
        _exit(0);
    }
    int status = -1;
    check(0, pages);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "the child ended with %#x", (unsigned)status);
    check(0, pages);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    if (!strcmp(argv[1], "none")) {
        static char some[2 * PAGE] __attribute__((aligned(4096)));
        CHECK(endgame_advise(some, sizeof some, ENDGAME_RANDOM) == -ENOSYS, "it is not under endgame run");
        CHECK(endgame_place(some, sizeof some, 0) == -ENOSYS, "it is not under endgame run");
        puts("ok");
        return 0;
    }
    pages = (size_t)atol(argv[2]) << 8;
    size_t budget = (size_t)atol(argv[3]) << 8;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "no memory");
    if (!strcmp(argv[1], "errors"))
        errors(budget);
    else
        effects(budget);
    puts("ok");
    return 0;
}
