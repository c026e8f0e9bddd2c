/* eg_daemon.h - what the command lines of the daemons share: messages, help from their tables of options, numbers and sizes. Hosted;
 * before and outside of the event loop. */
#ifndef EG_DAEMON_H
#define EG_DAEMON_H

#include <stddef.h>
#include <stdint.h>

/* The daemon's name, for its messages; each daemon defines it. */
extern const char eg_daemon_name[];

struct eg_daemon_option {
    char letter; /* 0: none */
    const char *name, *argument, *text;
};

/* eg_daemon_usage, eg_daemon_fatal - one line on standard error, and the end: status 2 for a wrong command line, 1 else.
 * Context: hosted. */
void eg_daemon_usage(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void eg_daemon_fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* eg_daemon_show_options - the list of --help, texts from column `width` + 3 on. */
void eg_daemon_show_options(const struct eg_daemon_option *options, size_t n, int width);

/* eg_daemon_number - the value of an option. Returns: the number; does not return if it is not one from least to most. */
int eg_daemon_number(const char *option, const char *text, long least, long most);

/* What an option accepts as a size. */
struct eg_daemon_sizes {
    uint64_t least_bytes, most_bytes;
    const char *least, *most, *example; /* as users write them */
};
/* eg_daemon_size - the value of an option in bytes. Returns: it; does not return if it is not within the limits. */
uint64_t eg_daemon_size(const char *option, const char *text, const struct eg_daemon_sizes *sizes);

#endif
