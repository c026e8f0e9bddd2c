/* eg_daemon.c - command lines of the daemons. */
#include "proto/eg_daemon.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "proto/eg_addr.h"

void eg_daemon_usage(const char *format, ...)
{
    va_list ap;
    fprintf(stderr, "%s: ", eg_daemon_name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputs(" (see --help)\n", stderr);
    exit(2);
}

void eg_daemon_fatal(const char *format, ...)
{
    va_list ap;
    fprintf(stderr, "%s: ", eg_daemon_name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

void eg_daemon_show_options(const struct eg_daemon_option *options, size_t n, int width)
{
    for (size_t i = 0; i < n; i++) {
        char left[40], letter[8] = "    ";
        if (options[i].letter) snprintf(letter, sizeof letter, "-%c, ", options[i].letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, options[i].name, *options[i].argument ? " " : "",
                 options[i].argument);
        printf("  %-*s %s\n", width, left, options[i].text);
    }
}

int eg_daemon_number(const char *option, const char *text, long least, long most)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno || end == text || *end || n < least || n > most)
        eg_daemon_usage("--%s %s: not a number from %ld to %ld", option, text, least, most);
    return (int)n;
}

uint64_t eg_daemon_size(const char *option, const char *text, const struct eg_daemon_sizes *sizes)
{
    uint64_t bytes = 0;
    int r = eg_size_parse(text, &bytes);
    if (r == -ERANGE || (!r && bytes > sizes->most_bytes))
        eg_daemon_usage("--%s %s: too large, at most %s", option, text, sizes->most);
    if (r) eg_daemon_usage("--%s %s: not a size, write for example %s", option, text, sizes->example);
    if (bytes < sizes->least_bytes) eg_daemon_usage("--%s %s: too small, at least %s", option, text, sizes->least);
    return bytes;
}
