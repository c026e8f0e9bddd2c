/* eg_daemon.h - what the daemons share: messages, command lines and their help from a table of options, numbers and sizes; signals,
 * listening, start and end. Hosted, for the main thread. */
#ifndef EG_DAEMON_H
#define EG_DAEMON_H

#include <stddef.h>
#include <stdint.h>
#include "proto/eg_addr.h"

#define EG_DAEMON_LISTEN_MAX 16

struct event_base;

/* The daemon's name, for its messages; each daemon defines it. */
extern const char eg_daemon_name[];

/* eg_daemon_usage, eg_daemon_fatal - one line on standard error, and the end: status 2 for a wrong command line, 1 else.
 * Context: hosted. */
void eg_daemon_usage(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void eg_daemon_fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* --- the command line ---------------------------------------------------------------------------------------------------- */

struct eg_daemon_option {
    char letter; /* a daemon's own options have one */
    const char *name, *argument, *text;
};

/* The last rows of each daemon's table; its first is 'l', --listen ADDR. */
#define EG_DAEMON_OPTIONS                                                                                              \
    { 0, "end-with", "FD", "end when descriptor FD reads end of file and no program is left" },                        \
    { 'h', "help", "", "show this and end" },                                                                          \
    { 'V', "version", "", "show the version and end" }

/* What --help shows. */
struct eg_daemon_help {
    const char *head, *tail;
    const struct eg_daemon_option *options;
    size_t n_options; /* at most 15 */
    int width; /* texts of options begin in column width + 3 */
};

/* What every daemon is told. */
struct eg_daemon_args {
    struct eg_addr listen[EG_DAEMON_LISTEN_MAX];
    unsigned n_listen;
    int end_with; /* -1: none */
};

/* eg_daemon_parse - the command line; own() gets each option that is not every daemon's, in order.
 * Does not return after --help and --version, or if something is wrong. */
void eg_daemon_parse(int argc, char **argv, const struct eg_daemon_help *help,
                     void (*own)(void *arg, char letter, const char *value), void *arg, struct eg_daemon_args *ret_args);

/* eg_daemon_number - the value of an option. Returns: the number; does not return if it is not one from least to most. */
int eg_daemon_number(const char *option, const char *text, long least, long most);

/* What an option accepts as a size. */
struct eg_daemon_sizes {
    uint64_t least_bytes, most_bytes;
    const char *least, *most, *example; /* as users write them */
};
/* eg_daemon_size - the value of an option in bytes. Returns: it; does not return if it is not within the limits. */
uint64_t eg_daemon_size(const char *option, const char *text, const struct eg_daemon_sizes *sizes);

/* --- start and end ------------------------------------------------------------------------------------------------------- */

struct eg_daemon_calls {
    /* As eg_listener_open. */
    int (*listen)(void *arg, const struct eg_addr *addr, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes);
    /* The other end of --end-with is closed: end the loop as soon as no program is served. */
    void (*leave)(void *arg);
};

/* eg_daemon_init - signals and the event library's messages. Context: before the event base is made. */
void eg_daemon_init(void);

/* eg_daemon_run - listen, say so on standard output, serve until the loop ends. SIGTERM and SIGINT end it at once: *ret_ended_by is
 * then the signal's name, else NULL.
 * Returns: 0, or -errno and ret_why holds one line that says what to do. */
int eg_daemon_run(const struct eg_daemon_args *args, struct event_base *base, const struct eg_daemon_calls *calls, void *arg,
                  const char **ret_ended_by, char *ret_why, size_t why_bytes) __attribute__((warn_unused_result));

#endif
