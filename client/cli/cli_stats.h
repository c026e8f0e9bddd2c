/* cli_stats.h - --stats FILE: the counters of a run as one JSON object. */
#ifndef CLI_STATS_H
#define CLI_STATS_H

#include <stdint.h>
#include <stdio.h>
#include "cli_pool.h"

struct cli_stats {
    int fd;         /* to write to; -1: standard error */
    int dir;        /* where a regular file goes when it is whole; -1: written in place */
    char name[256]; /* in dir */
    char temporary[320];
    int created; /* the file was not there before */
};

/* cli_stats_open - see that path can be written, before the program starts. "-" is standard error.
 * A regular file appears (or is replaced) in one step by cli_stats_write(); until then it is empty.
 * Returns: 0, or CLI_EXIT_FAILED after one line that says why. */
int cli_stats_open(const char *path, struct cli_stats *ret_stats) __attribute__((warn_unused_result));

/* cli_stats_write - write and close. Says so if it fails: the program's exit status stays the program's. */
void cli_stats_write(struct cli_stats *stats, const struct cli_pool *pool, const char *program, int wait_status,
                     uint64_t wall_ns);

/* Instead of cli_stats_write() when the program was not started: a file made by cli_stats_open() goes again. */
void cli_stats_drop(struct cli_stats *stats);

#endif
