/* cli_help.c - `endgame help`, --help, and the options' part of the manual pages, all from the tables of cli.h. */
#include "cli.h"

#include <string.h>

#define WIDTH 79

/* Words from column `at`, wrapped, further lines indented. */
static void wrap(FILE *to, const char *text, int at, int indent)
{
    while (*text) {
        int len = (int)strcspn(text, " ");
        if (at > indent && at + 1 + len > WIDTH) {
            fprintf(to, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', to);
            at++;
        }
        fprintf(to, "%.*s", len, text);
        at += len;
        text += len;
        text += strspn(text, " ");
    }
    fputc('\n', to);
}

static void entry(FILE *to, const char *head, const char *text)
{
    enum { INDENT = 26 };
    int at = fprintf(to, "  %s", head);
    if (at + 2 > INDENT)
        fprintf(to, "\n%*s", INDENT, "");
    else
        fprintf(to, "%*s", INDENT - at, "");
    wrap(to, text, INDENT, INDENT);
}

static void print_options(FILE *to, const struct cli_command *command)
{
    fputs("\nOptions:\n", to);
    for (const struct cli_option *option = command->options; option->name; option++) {
        char head[64];
        char letter[8] = "    ";
        if (option->letter)
            snprintf(letter, sizeof letter, "-%c, ", option->letter);
        snprintf(head, sizeof head, "%s--%s%s%s", letter, option->name, option->arg ? " " : "",
                 option->arg ? option->arg : "");
        entry(to, head, option->text);
    }
}

static void print_exits(FILE *to)
{
    fputs("\nExit status: the program's (its signal, if it died by one), or\n", to);
    char head[16];
#define CLI_X(name, status, text)                \
    snprintf(head, sizeof head, "%d", status); \
    entry(to, head, text);
    CLI_EXITS(CLI_X)
#undef CLI_X
}

void cli_help_print(FILE *to, const struct cli_command *command)
{
    if (!command) {
        fputs("Usage: endgame COMMAND [ARGUMENT]...\n"
              "Runs unmodified programs with more memory than their machine has, or with their threads on other machines.\n\nCommands:\n",
              to);
        for (command = cli_commands; command->name; command++)
            entry(to, command->name, command->summary);
        fputs("\n'endgame COMMAND --help' says more. --version shows the version.\n", to);
        return;
    }
    fprintf(to, "Usage: endgame %s%s%s\n", command->name, *command->arguments ? " " : "", command->arguments);
    if (*command->about)
        wrap(to, command->about, 0, 0);
    print_options(to, command);
    if (strcmp(command->name, "run") == 0 || strcmp(command->name, "profile") == 0) {
        print_exits(to);
        fputs("\nEnvironment:\n", to);
#define CLI_X(name, text) entry(to, name, text);
        CLI_ENVIRONMENT(CLI_X)
#undef CLI_X
    }
}

/* Text for troff: its control characters escaped, minus signs that copy as such. */
static void roff_text(FILE *to, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", to);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", to);
        else if (*text == '-')
            fputs("\\-", to);
        else
            fputc(*text, to);
    }
}

static void roff_entry(FILE *to, const char *head, const char *text)
{
    fputs(".TP\n.B ", to);
    roff_text(to, head);
    fputc('\n', to);
    roff_text(to, text);
    fputs(".\n", to);
}

static void roff_print(FILE *to, const struct cli_command *command)
{
    fputs(".SS \"endgame ", to);
    roff_text(to, command->name);
    if (*command->arguments) {
        fputc(' ', to);
        roff_text(to, command->arguments);
    }
    fputs("\"\n", to);
    roff_text(to, command->about);
    fputc('\n', to);
    for (const struct cli_option *option = command->options; option->name; option++) {
        char head[80];
        char letter[8] = "";
        if (option->letter)
            snprintf(letter, sizeof letter, "-%c, ", option->letter);
        snprintf(head, sizeof head, "%s--%s%s%s", letter, option->name, option->arg ? " " : "",
                 option->arg ? option->arg : "");
        roff_entry(to, head, option->text);
    }
}

static void roff_print_common(FILE *to)
{
    fputs(".SH EXIT STATUS\nThat of the program with\n.BR \"endgame run\" ;\n"
          "if the program died by a signal, endgame dies by the same one. Else\n",
          to);
    char head[16];
#define CLI_X(name, status, text)                \
    snprintf(head, sizeof head, "%d", status); \
    roff_entry(to, head, text);
    CLI_EXITS(CLI_X)
#undef CLI_X
    fputs(".SH ENVIRONMENT\n", to);
#define CLI_X(name, text) roff_entry(to, name, text);
    CLI_ENVIRONMENT(CLI_X)
#undef CLI_X
}

int cli_help_main(const struct cli_command *command, int argc, char **argv)
{
    struct cli_args args = {.command = command, .argc = argc, .argv = argv, .next = 1};
    int roff = 0;
    for (int id; (id = cli_args_next(&args)) != CLI_ARG_END;) {
        if (id == CLI_ARG_BAD)
            return CLI_EXIT_USAGE;
        roff |= id == CLI_OPT_HELP_ROFF;
    }
    if (argc - args.next > 1)
        return cli_usage(command, "help takes one command, not %d", argc - args.next);
    const struct cli_command *about = NULL;
    if (args.next < argc) {
        for (about = cli_commands; about->name && strcmp(about->name, argv[args.next]) != 0;)
            about++;
        if (!about->name)
            return cli_usage(command, "unknown command '%s'", argv[args.next]);
    }
    if (!roff) {
        cli_help_print(stdout, about);
    } else if (about) {
        roff_print(stdout, about);
    } else {
        for (about = cli_commands; about->name; about++)
            roff_print(stdout, about);
        roff_print_common(stdout);
    }
    if (fflush(stdout) != 0)
        return cli_fail(CLI_EXIT_FAILED, "cannot write to standard output");
    return 0;
}
