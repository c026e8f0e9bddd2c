/* cli_args.c - option reading, driven by the tables of cli.h. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static int answer(struct cli_args *args, const struct cli_option *option)
{
    if (option->id != CLI_OPT_HELP && option->id != CLI_OPT_VERSION)
        return option->id;
    if (option->id == CLI_OPT_HELP)
        cli_help_print(stdout, args->command->name ? args->command : NULL);
    else
        printf("endgame %s\n", EG_VERSION);
    if (fflush(stdout) != 0 || ferror(stdout))
        exit(cli_fail(CLI_EXIT_FAILED, "cannot write to standard output"));
    exit(0);
}

static int next_letter(struct cli_args *args)
{
    char letter = *args->group++;
    const struct cli_option *option = args->command->options;
    while (option->name && option->letter != letter)
        option++;
    if (!option->name) {
        cli_usage(args->command, "unknown option '-%c'", letter);
        return CLI_ARG_BAD;
    }
    if (!option->arg) {
        if (!*args->group)
            args->group = NULL;
        return answer(args, option);
    }
    if (*args->group) {
        args->value = args->group;
    } else if (args->next < args->argc) {
        args->value = args->argv[args->next++];
    } else {
        cli_usage(args->command, "option '-%c' needs a value (%s)", letter, option->arg);
        return CLI_ARG_BAD;
    }
    args->group = NULL;
    return option->id;
}

int cli_args_next(struct cli_args *args)
{
    args->value = NULL;
    if (args->group)
        return next_letter(args);
    if (args->next >= args->argc)
        return CLI_ARG_END;
    const char *word = args->argv[args->next];
    if (word[0] != '-' || word[1] == 0)
        return CLI_ARG_END;
    args->next++;
    if (word[1] != '-') {
        args->group = word + 1;
        return next_letter(args);
    }
    if (word[2] == 0)
        return CLI_ARG_END;

    const char *name = word + 2;
    size_t len = strcspn(name, "=");
    const struct cli_option *option = args->command->options;
    while (option->name && (strlen(option->name) != len || memcmp(option->name, name, len) != 0))
        option++;
    if (!option->name) {
        cli_usage(args->command, "unknown option '--%.*s'", (int)len, name);
        return CLI_ARG_BAD;
    }
    if (!option->arg) {
        if (name[len]) {
            cli_usage(args->command, "option '--%s' takes no value", option->name);
            return CLI_ARG_BAD;
        }
        return answer(args, option);
    }
    if (name[len]) {
        args->value = name + len + 1;
    } else if (args->next < args->argc) {
        args->value = args->argv[args->next++];
    } else {
        cli_usage(args->command, "option '--%s' needs a value (%s)", option->name, option->arg);
        return CLI_ARG_BAD;
    }
    return option->id;
}
