/* vm_semantics.c - what a program may rely on of its memory, its descriptors, its signals and its children, as a trace
 * that must be the same natively and under endgame. A small budget and a sweep over PRESS_BYTES before each look make
 * sure that the memory looked at was evicted; a background thread keeps evictions going while calls are under way.
 *
 *   vm_semantics [--press MIB] [--quiet-background] [--without SECTION,...] [SECTION...]   all sections, or the named ones
 *   vm_semantics --list
 *
 * The trace holds no addresses, numbers of processes or times. Natively, PRESS 0 gives the same trace faster. */
#include "vm_semantics.h"

#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define BACKGROUND_BYTES (64 * MIB)

const char *self_path;
static size_t press_bytes = 24 * MIB;
static char *press_area;
static const char *section = "";

/* ---- trace ------------------------------------------------------------------------------------------------------- */

void out(const char *format, ...)
{
    char line[512];
    int at = snprintf(line, sizeof(line), "%s: ", section);
    va_list args;
    va_start(args, format);
    at += vsnprintf(line + at, sizeof(line) - (size_t)at - 1, format, args);
    va_end(args);
    if (at > (int)sizeof(line) - 2)
        at = (int)sizeof(line) - 2;
    line[at++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)at) != at)
        _exit(9);
}

const char *result(long rc)
{
    static char text[4][48];
    static unsigned next;
    char *to = text[next++ & 3];
    if (rc < 0)
        snprintf(to, sizeof(text[0]), "%s", strerrorname_np(errno));
    else
        snprintf(to, sizeof(text[0]), "%ld", rc);
    return to;
}

const char *mapped(void *at)
{
    return at == MAP_FAILED ? strerrorname_np(errno) : "ok";
}

/* ---- content ----------------------------------------------------------------------------------------------------- */

uint64_t word_of(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15ull + index * 0xd1342543de82ef95ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return z ^ (z >> 27);
}

void fill(void *at, size_t len, uint64_t seed)
{
    uint64_t *w = at;
    for (size_t i = 0; i < len / 8; i++)
        w[i] = word_of(seed, i);
}

const char *content(const void *at, size_t from, size_t len, uint64_t seed)
{
    static _Thread_local char texts[4][64];
    static _Thread_local unsigned next;
    char *text = texts[next++ & 3];
    const uint64_t *w = at;
    for (size_t i = from / 8; i < (from + len) / 8; i++)
        if (w[i] != word_of(seed, i)) {
            snprintf(text, sizeof(texts[0]), "WRONG at %zu: %016" PRIx64, i * 8, w[i]);
            return text;
        }
    return "right";
}

const char *zeros(const void *at, size_t len)
{
    static char text[64];
    const uint64_t *w = at;
    for (size_t i = 0; i < len / 8; i++)
        if (w[i]) {
            snprintf(text, sizeof(text), "NOT ZERO at %zu: %016" PRIx64, i * 8, w[i]);
            return text;
        }
    return "zero";
}

void press(void)
{
    for (size_t i = 0; i < press_bytes; i += PAGE)
        (*(volatile uint64_t *)(press_area + i))++;
}

void *map(size_t len)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        out("mmap of %zu failed: %s", len, strerrorname_np(errno));
        exit(1);
    }
    return at;
}

void map_at(void *at, size_t len)
{
    if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
        out("mmap of %zu failed: %s", len, strerrorname_np(errno));
}

char *map_evicted(size_t len, uint64_t seed)
{
    char *at = map(len);
    fill(at, len, seed);
    press();
    return at;
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static sigjmp_buf probe_jump;
static volatile sig_atomic_t probe_signal, probe_code;
static void *volatile probe_addr;

static void probe_handler(int number, siginfo_t *info, void *context)
{
    (void)context;
    probe_signal = number;
    probe_code = info->si_code;
    probe_addr = info->si_addr;
    siglongjmp(probe_jump, 1);
}

static const char *probe(void *at, int write_it)
{
    static char text[4][64];
    static unsigned next;
    struct sigaction action = {.sa_sigaction = probe_handler, .sa_flags = SA_SIGINFO}, old_segv, old_bus;
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    char *to = text[next++ & 3];
    if (sigsetjmp(probe_jump, 1)) {
        snprintf(to, sizeof(text[0]), "%s code %d%s", probe_signal == SIGSEGV ? "SIGSEGV" : "SIGBUS", (int)probe_code,
                 (uintptr_t)probe_addr / PAGE == (uintptr_t)at / PAGE ? "" : " elsewhere");
    } else if (write_it) {
        (*(volatile char *)at)++;
        (*(volatile char *)at)--;
        snprintf(to, sizeof(text[0]), "writable");
    } else {
        (void)*(volatile char *)at;
        snprintf(to, sizeof(text[0]), "readable");
    }
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    return to;
}

const char *reads(void *at) { return probe(at, 0); }
const char *writes(void *at) { return probe(at, 1); }

int in_child(void (*body)(void *), void *arg)
{
    pid_t pid = fork();
    if (pid == 0) {
        body(arg);
        _exit(0);
    }
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

static int in_list(const char *name, const char *list)
{
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (at[n] == ',' || !at[n]))
            return 1;
    return 0;
}

static atomic_bool background_stop;

static void *background(void *arg)
{
    sigset_t all; /* its process's signals are the first thread's: while that one serves a fault, another that does not block them may get them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    char *at = map(BACKGROUND_BYTES);
    for (size_t i = 0; i < BACKGROUND_BYTES; i += PAGE)
        *(uint64_t *)(void *)(at + i) = word_of(7, i);
    while (!atomic_load(&background_stop)) {
        for (size_t i = 0; i < BACKGROUND_BYTES && !atomic_load(&background_stop); i += PAGE) {
            if (*(uint64_t *)(void *)(at + i) != word_of(7, i)) {
                out("BACKGROUND: wrong at %zu", i);
                _exit(5);
            }
            if (i % (64 * PAGE) == 0)
                usleep(500);
        }
    }
    munmap(at, BACKGROUND_BYTES);
    return arg;
}

static int exec_child(void)
{
    section = "executed";
    press_area = map(24 * MIB);
    char *at = map_evicted(3 * MIB, 160);
    out("%s", content(at, 0, 3 * MIB, 160));
    return 42;
}

int main(int argc, char **argv)
{
    static char real[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", real, sizeof(real) - 1);
    self_path = n > 0 ? real : argv[0];
    if (argc == 2 && !strcmp(argv[1], "--child"))
        return exec_child();
    int at = 1, quiet = 0;
    const char *without = "";
    if (at < argc && !strcmp(argv[at], "--list")) {
#define X(name, text) printf("%-20s %s\n", #name, text);
        SECTIONS(X)
#undef X
        return 0;
    }
    if (at + 1 < argc && !strcmp(argv[at], "--press")) {
        press_bytes = strtoul(argv[at + 1], NULL, 0) * MIB;
        at += 2;
    }
    if (at < argc && !strcmp(argv[at], "--quiet-background")) {
        quiet = 1;
        at++;
    }
    if (at + 1 < argc && !strcmp(argv[at], "--without")) {
        without = argv[at + 1];
        at += 2;
    }
    if (press_bytes)
        press_area = map(press_bytes);
    pthread_t thread;
    if (!quiet && pthread_create(&thread, NULL, background, NULL))
        return 1;
    static const struct {
        const char *name;
        void (*run)(void);
    } sections[] = {
#define X(name, text) {#name, name},
        SECTIONS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
        int wanted = at == argc && !in_list(sections[i].name, without);
        for (int a = at; a < argc; a++)
            wanted |= !strcmp(argv[a], sections[i].name);
        if (!wanted)
            continue;
        section = sections[i].name;
        sections[i].run();
    }
    if (!quiet) {
        atomic_store(&background_stop, 1);
        pthread_join(thread, NULL);
    }
    section = "end";
    out("all sections done");
    return 0;
}
