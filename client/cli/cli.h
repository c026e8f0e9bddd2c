/* cli.h - the `endgame` command: its tables of commands, options, environment and exit statuses (from which --help and
 * the manual come), argument reading, messages. Hosted, single-threaded. */
#ifndef CLI_H
#define CLI_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* X(NAME, status, "meaning") */
#define CLI_EXITS(X)                                                                                                   \
    X(USAGE, 2, "the command line is wrong")                                                                           \
    X(FAILED, 125, "endgame itself could not do its part; the program was not started")                                \
    X(CANNOT_RUN, 126, "the program was found but cannot be run, or not with far memory")                              \
    X(NOT_FOUND, 127, "the program was not found")

/* X("NAME", "meaning") */
#define CLI_ENVIRONMENT(X)                                                                                             \
    X("ENDGAME_LIBRARY", "libendgame.so to load into the program, instead of the one installed beside the command")    \
    X("ENDGAME_MEMSERVER", "endgame-memserver to embed, instead of the one installed beside the command")              \
    X("ENDGAME_COMPUTE", "endgame-compute to embed, instead of the one installed beside the command")                  \
    X("ENDGAME_RELAY", "endgame-relay for rdma: nodes, instead of the one installed beside the command")               \
    X("XDG_RUNTIME_DIR", "where run keeps its private directory; /dev/shm and /tmp are tried next")                    \
    X("XDG_CACHE_HOME", "endgame/texts in it, else in ~/.cache, has what was found out about programs, for faster starts; it may be removed") \
    X("ENDGAME_POOL", "set by run for the program: the file its processes share; not for users")                       \
    X("LD_PRELOAD", "libendgame.so is put in front of what is there already")

/* X(function, "name", "arguments", "one line", "paragraph"); options of `name` are CLI_OPTIONS_<function>. */
#define CLI_COMMANDS(X)                                                                                                \
    X(run, "run", "[OPTION]... [--] PROGRAM [ARG...]", "run an unmodified program with its memory or its threads elsewhere", \
      "The program runs as it would without endgame: same arguments, environment, descriptors, signals and exit "      \
      "status. At most --memory of its anonymous memory stays in this machine; the rest lives on the memory servers "  \
      "and comes back page by page. Without --memserver a server of its own starts on this machine and ends with the " \
      "program and everything it left running. With --compute, the program's threads run on compute nodes, in one "    \
      "address space with what stays here; all memory stays here then, unless --memory or --memserver is given, too. " \
      "Statically linked, set-user-ID and 32-bit programs cannot be run.")                                             \
    X(profile, "profile", "[OPTION]... [--] PROGRAM [ARG...]", "run a program and write hints that make its next run faster", \
      "The program runs as with `endgame run`, and what becomes of its memory is counted: which mappings pages were "  \
      "read back for, in what order, and how often. At its end the rules that follow from that are written, each with " \
      "the figures that decided it, for `endgame run --hints FILE`. Give the --memory with which the program is to "    \
      "run later. If the program is given other data then, rules that are about sizes may not fit any more.")          \
    X(doctor, "doctor", "", "say what this machine can do, and the command that gives what is missing",                \
      "Checks what `endgame run` needs and what it would use if it were there. The exit status is 0 if run would "     \
      "work here, 1 if it would not.")                                                                                 \
    X(status, "status", "[OPTION]... ADDR", "show what a memory server or a compute node does, and for whom",          \
      "ADDR is tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH.")                                                           \
    X(ps, "ps", "[OPTION]...", "list your programs that run under endgame, and where their threads are",               \
      "One line for each process of each run of this user on this machine, then, for a run with compute nodes, one "   \
      "for each node: the threads that it has now, and all that began there so far.")                                  \
    X(help, "help", "[OPTION] [COMMAND]", "show help for a command", "")

/* X(ID, 'letter' or 0, "name", "ARGUMENT" or NULL, "text") */
#define CLI_OPTIONS_START(X)                                                                                           \
    X(RUN_MEMORY, 'm', "memory", "SIZE",                                                                               \
      "budget of local memory for the whole process tree: bytes, or with K, M, G, T (powers of 1024); at least 8M. "   \
      "Default: half of what is available, cgroup limits counted")                                                     \
    X(RUN_MEMSERVER, 's', "memserver", "ADDR",                                                                         \
      "memory server to use: tcp:HOST:PORT, rdma:HOST:PORT, auto:HOST:PORT (rdma where that works, else tcp; one "     \
      "line says which) or unix:PATH. May be given up to 16 times: memory is spread over them. Default: an embedded "  \
      "server")                                                                                                        \
    X(RUN_COMPUTE, 'c', "compute", "ADDR",                                                                             \
      "compute node to run threads on: tcp:HOST:PORT, rdma:HOST:PORT, auto:HOST:PORT, unix:PATH, or embedded[:N]: "    \
      "one, or N, of its own on this machine. May be given up to 16 times: threads are spread over them")              \
    X(RUN_THREADS, 0, "threads", "home|remote|auto",                                                                   \
      "where threads run: all at home, all on compute nodes (remote, the default with --compute), or on compute "      \
      "nodes as soon as more of them run than this machine has processors (auto). With remote and auto the program "   \
      "sees one processor more for each slot of the nodes")                                                            \
    X(RUN_ENGINE, 0, "fault-engine", "auto|handler|inline",                                                            \
      "how page faults are served: by a thread that the runtime has for it (handler), by the thread that meets them "  \
      "(inline: faster; system calls made past libc may then fail with EFAULT), or the best way that the program "     \
      "allows (auto, the default). With --compute it is always handler")                                                \
    X(RUN_STATS, 0, "stats", "FILE",                                                                                   \
      "at the program's end, write counters of the whole process tree to FILE as one JSON object; - is standard error")
#define CLI_OPTIONS_RUN(X)                                                                                             \
    X(RUN_HINTS, 0, "hints", "FILE",                                                                                   \
      "rules about the program's memory (what stays, what leaves first, how it is read), as `endgame profile` writes " \
      "them. They change no result")
#define CLI_OPTIONS_PROFILE(X)                                                                                         \
    X(PROFILE_OUTPUT, 'o', "output", "FILE", "write the hints to FILE. Default: the program's name and .hints, here")
#define CLI_OPTIONS_run(X) CLI_OPTIONS_START(X) CLI_OPTIONS_RUN(X)
#define CLI_OPTIONS_profile(X) CLI_OPTIONS_PROFILE(X) CLI_OPTIONS_START(X)
#define CLI_OPTIONS_doctor(X)
#define CLI_OPTIONS_status(X) X(STATUS_JSON, 0, "json", NULL, "print one JSON object instead of tables")
#define CLI_OPTIONS_ps(X) X(PS_JSON, 0, "json", NULL, "print one JSON object instead of tables")
#define CLI_OPTIONS_help(X) \
    X(HELP_ROFF, 0, "roff", NULL, "print the command's options as manual page source (used when building)")

enum cli_exit {
#define CLI_X(name, status, text) CLI_EXIT_##name = status,
    CLI_EXITS(CLI_X)
#undef CLI_X
};

enum cli_option_id {
    CLI_ARG_END = -1, /* no more options */
    CLI_ARG_BAD = -2, /* message given */
    CLI_OPT_HELP = 0,
    CLI_OPT_VERSION,
#define CLI_X(id, letter, name, arg, text) CLI_OPT_##id,
    CLI_OPTIONS_run(CLI_X) CLI_OPTIONS_PROFILE(CLI_X) CLI_OPTIONS_doctor(CLI_X) CLI_OPTIONS_status(CLI_X) CLI_OPTIONS_ps(CLI_X)
    CLI_OPTIONS_help(CLI_X)
#undef CLI_X
};

struct cli_option {
    int id;
    char letter;
    const char *name;
    const char *arg;
    const char *text;
};

struct cli_command {
    const char *name;
    const char *arguments;
    const char *summary;
    const char *about;
    const struct cli_option *options; /* ends with a NULL name; --help and --version included */
    int (*run)(const struct cli_command *command, int argc, char **argv);
};

extern const struct cli_command cli_commands[]; /* ends with a NULL name */

/* Where the reading of a command line stands. */
struct cli_args {
    const struct cli_command *command;
    int argc;
    char **argv;
    int next;          /* index of the next word; after CLI_ARG_END, of the first operand */
    const char *value; /* of the option just returned */
    const char *group; /* rest of a group of letters, "-am" */
};

/* cli_args_next - next option; stops at the first operand, or after "--". --help and --version are answered here.
 * Returns: an option's id, CLI_ARG_END, or CLI_ARG_BAD after saying what is wrong. */
int cli_args_next(struct cli_args *args);

/* One line on standard error, "endgame: ..."; returns status so that callers can `return cli_fail(...)`. */
int cli_fail(enum cli_exit status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As cli_fail with CLI_EXIT_USAGE; adds where to read on. */
int cli_usage(const struct cli_command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define CLI_X(function, name, arguments, summary, about) \
    int cli_##function##_main(const struct cli_command *command, int argc, char **argv);
CLI_COMMANDS(CLI_X)
#undef CLI_X

void cli_help_print(FILE *to, const struct cli_command *command);

/* A JSON string with its quotes; at most max_bytes of text, ending at a NUL before that. Bytes that are not UTF-8
 * become U+FFFD. */
void cli_json_string(FILE *to, const char *text, size_t max_bytes);

#endif
