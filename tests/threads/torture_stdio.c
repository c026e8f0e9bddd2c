/* torture_stdio.c - streams that all threads share: lines stay whole, nothing is lost or doubled. See torture.h for the command
 * line. */
#include "torture.h"


static FILE *shared;

/* A line says who wrote it and carries its own check. */
static void line_print(FILE *file, int thread, int number)
{
    const uint64_t value = mix((uint64_t)thread * 1000003 + (uint64_t)number);
    CHECK(fprintf(file, "thread %d line %d value %016" PRIx64 " %.*s end\n", thread, number, value, (int)(value % 60),
                  "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx") > 0,
          "fprintf: %s", strerror(errno));
}

/* Reads lines until the end: each is whole, each thread's come in order and are all there. */
static uint64_t lines_check(FILE *file, int n_threads, int n_lines)
{
    int *next = NOT_NULL(calloc((size_t)n_threads, sizeof *next));
    char *line = NULL;
    size_t size = 0;
    uint64_t sum = 0;
    for (ssize_t len; (len = getline(&line, &size, file)) > 0;) {
        int thread = -1, number = -1;
        uint64_t value = 0;
        char xs[80] = "";
        const int fields = sscanf(line, "thread %d line %d value %" SCNx64 " %79s", &thread, &number, &value, xs);
        CHECK(fields == 4 && thread >= 0 && thread < n_threads && !strcmp(line + len - 5, " end\n"), "a line is torn: %.*s", (int)len - 1, line);
        CHECK(number == next[thread], "thread %d: line %d, wanted %d", thread, number, next[thread]);
        CHECK(value == mix((uint64_t)thread * 1000003 + (uint64_t)number), "thread %d line %d: wrong value", thread, number);
        EQUAL(strspn(xs, "x"), value % 60 ? value % 60 : 0);
        next[thread]++;
        sum += value;
    }
    CHECK(!ferror(file), "reading: %s", strerror(errno));
    for (int t = 0; t < n_threads; t++)
        CHECK(next[t] == n_lines, "thread %d: %d lines of %d", t, next[t], n_lines);
    free(line);
    free(next);
    return sum;
}

static void lines_body(struct member *me)
{
    const int n = rounds(300);
    for (int i = 0; i < n; i++)
        line_print(shared, me->number, i);
}

static void lines(void)
{
    shared = NOT_NULL(tmpfile());
    crew_run(threads(4), lines_body, NULL);
    rewind(shared);
    result("%016" PRIx64, lines_check(shared, threads(4), rounds(300)));
    EQUAL(fclose(shared), 0);
}

static void pipe_lines(void)
{
    int ends[2];
    SYS(pipe(ends));
    shared = NOT_NULL(fdopen(ends[1], "w"));
    setvbuf(shared, NULL, _IOLBF, 256);
    FILE *in = NOT_NULL(fdopen(ends[0], "r"));
    struct member *crew = crew_start(threads(4), lines_body, NULL);
    /* The pipe is smaller than what comes: reader and writers go together. The crew is joined when all lines are there. */
    const int n = threads(4) * rounds(300);
    FILE *copy = NOT_NULL(tmpfile());
    char *line = NULL;
    size_t size = 0;
    for (int i = 0; i < n; i++) {
        CHECK(getline(&line, &size, in) > 0, "the pipe ended after %d lines", i);
        CHECK(fputs(line, copy) >= 0, "fputs: %s", strerror(errno));
    }
    free(line);
    crew_join(crew);
    EQUAL(fclose(shared), 0);
    EQUAL(getc(in), EOF);
    EQUAL(fclose(in), 0);
    rewind(copy);
    result("%016" PRIx64, lines_check(copy, threads(4), rounds(300)));
    EQUAL(fclose(copy), 0);
}

/* Several calls for one line, under flockfile. */
static void locked_body(struct member *me)
{
    const int n = rounds(150);
    for (int i = 0; i < n; i++) {
        const uint64_t value = mix((uint64_t)me->number * 1000003 + (uint64_t)i);
        flockfile(shared);
        fprintf(shared, "thread %d ", me->number);
        fprintf(shared, "line %d ", i);
        fprintf(shared, "value %016" PRIx64 " ", value);
        for (uint64_t x = 0; x < value % 60; x++)
            putc_unlocked('x', shared);
        fputs(" end\n", shared);
        funlockfile(shared);
    }
}

static void locked_lines(void)
{
    char *text = NULL;
    size_t len = 0;
    shared = NOT_NULL(open_memstream(&text, &len)); /* its buffer is moved as it grows */
    crew_run(threads(4), locked_body, NULL);
    EQUAL(fclose(shared), 0);
    FILE *in = NOT_NULL(fmemopen(text, len, "r"));
    result("%016" PRIx64, lines_check(in, threads(4), rounds(150)));
    EQUAL(fclose(in), 0);
    free(text);
}

/* All read from one stream: every number goes to exactly one. */
static void readers_body(struct member *me)
{
    unsigned long value;
    while (fscanf(shared, "%lu", &value) == 1)
        me->sum += value;
    CHECK(feof(shared), "fscanf: %s", strerror(errno));
}

static void readers(void)
{
    const unsigned long n = (unsigned long)rounds(1500);
    shared = NOT_NULL(tmpfile());
    for (unsigned long i = 1; i <= n; i++)
        fprintf(shared, "%lu%c", i, i % 10 ? ' ' : '\n');
    rewind(shared);
    const uint64_t sum = crew_run(threads(4), readers_body, NULL);
    EQUAL(fclose(shared), 0);
    EQUAL(sum, n * (n + 1) / 2);
    result("%" PRIu64, sum);
}

/* Streams of one's own, opened and closed all the time; fflush(NULL) and fcloseall's list of streams under it. */
static void own_streams_body(struct member *me)
{
    const int n = rounds(20);
    for (int i = 0; i < n; i++) {
        FILE *file = NOT_NULL(tmpfile());
        const uint64_t key = rng_next(&me->rng);
        unsigned char bytes[3000], back[3000];
        fill_bytes(bytes, sizeof bytes, key);
        EQUAL(fwrite(bytes, 1, sizeof bytes, file), sizeof bytes);
        if (i % 4 == me->number % 4)
            fflush(NULL);
        EQUAL(fprintf(file, "%d %a %s\n", i, 1.5 * i, "text") > 0, 1);
        EQUAL(fseek(file, 0, SEEK_SET), 0);
        EQUAL(fread(back, 1, sizeof back, file), sizeof back);
        CHECK_BYTES(back, sizeof back, key);
        int number = -1;
        double real = -1;
        char word[8] = "";
        EQUAL(fscanf(file, "%d %la %7s", &number, &real, word), 3);
        EQUAL(number, i);
        CHECK(real == 1.5 * i, "a float came back as %g", real);
        CHECK(!strcmp(word, "text"), "a word came back as '%s'", word);
        EQUAL(ungetc('q', file), 'q');
        EQUAL(getc(file), 'q');
        EQUAL(fclose(file), 0);
    }
}

static void own_streams(void)
{
    crew_run(threads(4), own_streams_body, NULL);
}

/* Standard output: each thread's lines are in its own order in a copy of it that the program itself makes. */
static void standard_output_body(struct member *me)
{
    const int n = rounds(100);
    for (int i = 0; i < n; i++) {
        line_print(stdout, me->number, i);
        if (i % 16 == 0)
            fflush(stdout);
    }
}

static void standard_output(void)
{
    FILE *copy = NOT_NULL(tmpfile());
    fflush(stdout);
    const int real = SYS(dup(STDOUT_FILENO));
    SYS(dup2(fileno(copy), STDOUT_FILENO));
    crew_run(threads(4), standard_output_body, NULL);
    fflush(stdout);
    SYS(dup2(real, STDOUT_FILENO));
    SYS(close(real));
    rewind(copy);
    result("%016" PRIx64, lines_check(copy, threads(4), rounds(100)));
    EQUAL(fclose(copy), 0);
}

/* Formatting without streams, with everything that printf and scanf keep on their stacks and in malloc's memory. */
static void formatting_body(struct member *me)
{
    const int n = rounds(200);
    for (int i = 0; i < n; i++) {
        const double value = (double)rng_next(&me->rng) / 7.0;
        char *text = NULL, *end;
        SYS(asprintf(&text, "%.17g|%*d|%s|%Lf|%ls", value, 500, i, "tail", (long double)i, L"wide"));
        CHECK(strtod(text, &end) == value && *end == '|', "a float did not survive: %.17g became %.40s", value, text);
        EQUAL(strtol(end + 1, &end, 10), i);
        CHECK(!strncmp(end, "|tail|", 6) && !strcmp(text + strlen(text) - 5, "|wide"), "asprintf: %s", end);
        free(text);
        struct tm tm;
        const time_t when = (time_t)rng_below(&me->rng, 2000000000);
        EQUAL(gmtime_r(&when, &tm) == &tm, 1);
        EQUAL(timegm(&tm), when);
    }
}

static void formatting(void)
{
    crew_run(threads(4), formatting_body, NULL);
}

static const struct sub_test tests[] = {
    {"lines", lines, "lines into one file"},
    {"pipe_lines", pipe_lines, "lines into one pipe, line buffered"},
    {"locked_lines", locked_lines, "lines in pieces under flockfile, into memory"},
    {"readers", readers, "numbers from one stream"},
    {"own_streams", own_streams, "streams opened and closed by everybody"},
    {"standard_output", standard_output, "lines to standard output"},
    {"formatting", formatting, "printf and strtod without streams"},
};

TORTURE_MAIN(tests)
