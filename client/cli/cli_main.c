/* cli_main.c - dispatch, messages. */
#include "cli.h"
#include "cli_verbs.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#define CLI_X(id, letter, name, arg, text) {CLI_OPT_##id, letter, name, arg, text},
#define CLI_OPTIONS_ALL                                            \
    {CLI_OPT_HELP, 'h', "help", NULL, "show this help"},           \
    {CLI_OPT_VERSION, 'V', "version", NULL, "show the version"}, { \
        0, 0, NULL, NULL, NULL                                     \
    }
static const struct cli_option run_options[] = {CLI_OPTIONS_run(CLI_X) CLI_OPTIONS_ALL};
static const struct cli_option profile_options[] = {CLI_OPTIONS_profile(CLI_X) CLI_OPTIONS_ALL};
static const struct cli_option doctor_options[] = {CLI_OPTIONS_doctor(CLI_X) CLI_OPTIONS_ALL};
static const struct cli_option status_options[] = {CLI_OPTIONS_status(CLI_X) CLI_OPTIONS_ALL};
static const struct cli_option ps_options[] = {CLI_OPTIONS_ps(CLI_X) CLI_OPTIONS_ALL};
static const struct cli_option help_options[] = {CLI_OPTIONS_help(CLI_X) CLI_OPTIONS_ALL};
static const struct cli_option main_options[] = {CLI_OPTIONS_ALL};
#undef CLI_X

const struct cli_command cli_commands[] = {
#define CLI_X(function, name, arguments, summary, about) \
    {name, arguments, summary, about, function##_options, cli_##function##_main},
    CLI_COMMANDS(CLI_X)
#undef CLI_X
    {NULL, NULL, NULL, NULL, NULL, NULL}};

static const struct cli_command main_command = {NULL, NULL, NULL, NULL, main_options, NULL};

/* One write, so that lines of concurrent runs on one terminal do not mix. */
static void say(const char *suffix, const char *format, va_list args)
{
    static const char prefix[] = "endgame: ";
    char text[1024];
    int len = vsnprintf(text, sizeof text, format, args);
    if (len < 0)
        return;
    if ((size_t)len >= sizeof text)
        len = sizeof text - 1;
    struct iovec parts[] = {{(void *)prefix, sizeof prefix - 1},
                            {text, (size_t)len},
                            {(void *)suffix, strlen(suffix)},
                            {(void *)"\n", 1}};
    fflush(stderr);
    if (writev(STDERR_FILENO, parts, 4) < 0)
        return; /* nobody to tell */
}

int cli_fail(enum cli_exit status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say("", format, args);
    va_end(args);
    return (int)status;
}

int cli_usage(const struct cli_command *command, const char *format, ...)
{
    char suffix[64];
    const char *name = command->name ? command->name : "";
    snprintf(suffix, sizeof suffix, "; see 'endgame %s%s--help'", name, *name ? " " : "");
    va_list args;
    va_start(args, format);
    say(suffix, format, args);
    va_end(args);
    return CLI_EXIT_USAGE;
}

void cli_warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say("", format, args);
    va_end(args);
}

#define STACK_MIN_BYTES (64u << 10)

int main(int argc, char **argv)
{
    struct cli_args args = {.command = &main_command, .argc = argc, .argv = argv, .next = 1};
    struct rlimit stack;
    if (getrlimit(RLIMIT_STACK, &stack) == 0 && stack.rlim_cur < STACK_MIN_BYTES)
        return cli_fail(CLI_EXIT_FAILED, "the limit on the stack is too small; raise it: ulimit -s %u", STACK_MIN_BYTES >> 10);
    cli_verbs_prepare();
    /* Options before the command are --help and --version, which do not come back. */
    if (cli_args_next(&args) == CLI_ARG_BAD)
        return CLI_EXIT_USAGE;
    if (args.next >= argc)
        return cli_usage(&main_command, "no command given (run, profile, doctor, status, ps, help)");
    const char *name = argv[args.next];
    for (const struct cli_command *command = cli_commands; command->name; command++)
        if (strcmp(command->name, name) == 0)
            return command->run(command, argc - args.next, argv + args.next);
    return cli_usage(&main_command, "unknown command '%s' (run, profile, doctor, status, ps, help)", name);
}
