/* torture.h - what the torture programs share: sub-tests selected by name, checks that say what is wrong, crews of threads.
 *
 *   torture_X [--threads N] [--rounds N] [--seed N] [--verbose] [--list] [SUB-TEST]...
 *
 * Without names all sub-tests run, in order. --threads (up to 1000) and --rounds replace every sub-test's own numbers; what a round is, the
 * sub-test says. Each prints "NAME ok" and perhaps numbers that do not depend on how the threads were interleaved; the first thing
 * that is wrong is printed on standard error, with its place, and ends the program with status 1. --verbose names each sub-test on
 * standard error when it begins, --list prints their names and what they do. */
#ifndef TORTURE_H
#define TORTURE_H

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define UNUSED __attribute__((unused))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

struct sub_test {
    const char *name;
    void (*run)(void);
    const char *what;
};

static const char *torture_name = "torture", *torture_sub_test = "start";
static long torture_threads, torture_rounds;
static uint64_t torture_seed = 1;
static char torture_result[200];

/* The numbers of a sub-test, unless the command line gives others. */
UNUSED static int threads(int usual)
{
    return torture_threads ? (int)torture_threads : usual;
}

UNUSED static int rounds(int usual)
{
    return torture_rounds ? (int)torture_rounds : usual;
}

/* ---- checks ------------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4), noreturn)) UNUSED static void complain(const char *file, int line, const char *format, ...)
{
    char text[600];
    const char *base = strrchr(file, '/');
    int len = snprintf(text, sizeof text, "%s: %s: %s:%d: ", torture_name, torture_sub_test, base ? base + 1 : file, line);
    va_list list;
    va_start(list, format);
    len += vsnprintf(text + len, sizeof text - (size_t)len - 1, format, list);
    va_end(list);
    if (len > (int)sizeof text - 2)
        len = (int)sizeof text - 2;
    text[len++] = '\n';
    if (write(STDERR_FILENO, text, (size_t)len) < 0)
        _exit(2);
    _exit(1);
}

/* CHECK(condition, "what is wrong", ...) */
#define CHECK(condition, ...)                               \
    do {                                                    \
        if (!(condition))                                   \
            complain(__FILE__, __LINE__, __VA_ARGS__);      \
    } while (0)

/* EQUAL(value, wanted): integers. */
#define EQUAL(value, wanted)                                                                                      \
    do {                                                                                                          \
        const long long equal_value = (long long)(value), equal_wanted = (long long)(wanted);                     \
        if (equal_value != equal_wanted)                                                                          \
            complain(__FILE__, __LINE__, "%s is %lld, wanted %lld", #value, equal_value, equal_wanted);           \
    } while (0)

/* OK(call): a pthread call, which returns an error number. */
#define OK(call)                                                                                     \
    do {                                                                                             \
        const int ok_error = (call);                                                                 \
        if (ok_error)                                                                                \
            complain(__FILE__, __LINE__, "%s: %s", #call, strerror(ok_error));                       \
    } while (0)

/* SYS(call): a call that returns -1 and sets errno; its value otherwise. */
#define SYS(call)                                                                                    \
    ({                                                                                               \
        const __auto_type sys_value = (call);                                                        \
        if (sys_value == (__typeof__(sys_value))-1)                                                  \
            complain(__FILE__, __LINE__, "%s: %s", #call, strerror(errno));                          \
        sys_value;                                                                                   \
    })

/* FAILS(call, wanted): must return -1 with this errno. */
#define FAILS(call, wanted)                                                                                          \
    do {                                                                                                             \
        errno = 0;                                                                                                   \
        const long fails_value = (long)(call);                                                                       \
        const int fails_errno = errno;                                                                               \
        if (fails_value != -1 || fails_errno != (wanted))                                                            \
            complain(__FILE__, __LINE__, "%s: %ld with errno %d, wanted -1 with %s", #call, fails_value, fails_errno, #wanted); \
    } while (0)

#define NOT_NULL(pointer)                                                                            \
    ({                                                                                               \
        const __auto_type not_null = (pointer);                                                      \
        if (!not_null)                                                                               \
            complain(__FILE__, __LINE__, "%s is NULL: %s", #pointer, strerror(errno));               \
        not_null;                                                                                    \
    })

/* Numbers to be printed after "ok": the same in every run. */
__attribute__((format(printf, 1, 2))) UNUSED static void result(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(torture_result, sizeof torture_result, format, list);
    va_end(list);
}

/* ---- randomness, time --------------------------------------------------------------------------------------------------- */

UNUSED static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

UNUSED static uint64_t rng_next(uint64_t *rng)
{
    *rng += 0x9e3779b97f4a7c15ull;
    return mix(*rng);
}

UNUSED static unsigned rng_below(uint64_t *rng, unsigned n)
{
    return (unsigned)(rng_next(rng) % n);
}

/* Every byte of [at, at + len) follows from key and its place. */
UNUSED static void fill_bytes(void *at, size_t len, uint64_t key)
{
    unsigned char *bytes = at;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (unsigned char)(mix(key + i / 8) >> (i % 8 * 8));
}

/* The first byte that is wrong, or len. */
UNUSED static size_t wrong_byte(const void *at, size_t len, uint64_t key)
{
    const unsigned char *bytes = at;
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != (unsigned char)(mix(key + i / 8) >> (i % 8 * 8)))
            return i;
    return len;
}

#define CHECK_BYTES(at, len, key)                                                                                       \
    do {                                                                                                                \
        const size_t bytes_len = (len), bytes_wrong = wrong_byte((at), bytes_len, (key));                               \
        if (bytes_wrong < bytes_len)                                                                                    \
            complain(__FILE__, __LINE__, "byte %zu of %zu at %p is wrong: 0x%02x", bytes_wrong, bytes_len, (const void *)(at), \
                     ((const volatile unsigned char *)(at))[bytes_wrong]);                                              \
    } while (0)

#define CHECK_ZEROS(at, len)                                                                                            \
    do {                                                                                                                \
        const unsigned char *const zeros_at = (const void *)(at);                                                       \
        for (size_t zeros_i = 0; zeros_i < (len); zeros_i++)                                                            \
            if (zeros_at[zeros_i])                                                                                      \
                complain(__FILE__, __LINE__, "byte %zu at %p is 0x%02x, wanted 0", zeros_i, (const void *)zeros_at,     \
                         zeros_at[zeros_i]);                                                                            \
    } while (0)

UNUSED static struct timespec after_ms(clockid_t clock, long ms)
{
    struct timespec t;
    SYS(clock_gettime(clock, &t));
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

UNUSED static bool not_before(clockid_t clock, struct timespec t)
{
    struct timespec now;
    SYS(clock_gettime(clock, &now));
    return now.tv_sec > t.tv_sec || (now.tv_sec == t.tv_sec && now.tv_nsec >= t.tv_nsec);
}

/* Uses the whole stack, and what is behind its end. */
__attribute__((noinline)) UNUSED static int overflow(volatile int *depth)
{
    volatile char frame[3000];
    frame[0] = (char)*depth;
    *depth = *depth + 1;
    if (*depth < 0)
        return 0;
    return overflow(depth) + frame[0];
}

UNUSED static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

/* ---- crews -------------------------------------------------------------------------------------------------------------- */

struct member {
    int number, of; /* 0 to of - 1 */
    void *shared;
    uint64_t rng; /* different for each member, the same in each run */
    uint64_t sum; /* for the member's result */
    pthread_t id;
    void (*body)(struct member *me);
};

UNUSED static void *crew_main(void *arg)
{
    struct member *me = arg;
    me->body(me);
    return me;
}

UNUSED static struct member *crew_start(int n, void (*body)(struct member *me), void *shared)
{
    struct member *crew = NOT_NULL(calloc((size_t)n, sizeof *crew));
    for (int i = 0; i < n; i++) {
        crew[i] = (struct member){.number = i, .of = n, .shared = shared, .body = body};
        crew[i].rng = mix(torture_seed * 1000003u + (uint64_t)i);
        OK(pthread_create(&crew[i].id, NULL, crew_main, &crew[i]));
    }
    return crew;
}

/* Returns the sum of the members' sums. */
UNUSED static uint64_t crew_join(struct member *crew)
{
    uint64_t sum = 0;
    for (int i = 0, n = crew->of; i < n; i++) {
        void *value = NULL;
        OK(pthread_join(crew[i].id, &value));
        CHECK(value == &crew[i], "thread %d returned %p, wanted %p", i, value, (void *)&crew[i]);
        sum += crew[i].sum;
    }
    free(crew);
    return sum;
}

UNUSED static uint64_t crew_run(int n, void (*body)(struct member *me), void *shared)
{
    return crew_join(crew_start(n, body, shared));
}

/* Waits for something that another thread does without a lock. Gives way, so that one processor is enough. */
UNUSED static void wait_until_at_least(atomic_int *value, int wanted)
{
    for (unsigned spins = 0; atomic_load(value) < wanted; spins++)
        if (spins % 64 == 63)
            sleep_ms(spins < 6400 ? 0 : 1);
}

/* ---- main --------------------------------------------------------------------------------------------------------------- */

UNUSED static int torture_main(int argc, char **argv, const struct sub_test *tests, size_t n_tests)
{
    bool verbose = false;
    int first_name = argc;
    torture_name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    for (int i = 1; i < argc; i++) {
        long *number = !strcmp(argv[i], "--threads") ? &torture_threads : !strcmp(argv[i], "--rounds") ? &torture_rounds : NULL;
        const bool seed = !strcmp(argv[i], "--seed");
        if (number || seed) {
            char *end = argv[i];
            unsigned long value = i + 1 < argc ? strtoul(argv[i + 1], &end, 10) : 0;
            if (i + 1 == argc || *end || end == argv[i + 1] || (number && (value == 0 || value > (number == &torture_threads ? 1000 : 1000000)))) {
                fprintf(stderr, "%s: %s needs a number\n", torture_name, argv[i]);
                return 2;
            }
            if (number)
                *number = (long)value;
            else
                torture_seed = value;
            i++;
        } else if (!strcmp(argv[i], "--verbose")) {
            verbose = true;
        } else if (!strcmp(argv[i], "--list")) {
            for (size_t t = 0; t < n_tests; t++)
                printf("%-24s %s\n", tests[t].name, tests[t].what);
            return 0;
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "%s: unknown option %s\n", torture_name, argv[i]);
            return 2;
        } else {
            first_name = i;
            break;
        }
    }
    for (int i = first_name; i < argc; i++) {
        size_t t = 0;
        while (t < n_tests && strcmp(tests[t].name, argv[i]))
            t++;
        if (t == n_tests) {
            fprintf(stderr, "%s: no sub-test %s; see --list\n", torture_name, argv[i]);
            return 2;
        }
    }
    for (size_t t = 0; t < n_tests; t++) {
        bool wanted = first_name == argc;
        for (int i = first_name; i < argc; i++)
            wanted = wanted || !strcmp(tests[t].name, argv[i]);
        if (!wanted)
            continue;
        torture_sub_test = tests[t].name;
        torture_result[0] = 0;
        if (verbose)
            fprintf(stderr, "%s: %s\n", torture_name, tests[t].name);
        tests[t].run();
        printf("%s ok%s%s\n", tests[t].name, torture_result[0] ? " " : "", torture_result);
        fflush(stdout);
    }
    return 0;
}

#define TORTURE_MAIN(tests)                                              \
    int main(int argc, char **argv)                                      \
    {                                                                    \
        return torture_main(argc, argv, (tests), COUNT_OF(tests));       \
    }

#endif
