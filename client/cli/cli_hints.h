/* cli_hints.h - hints files: rules about the memory of a program that cannot be changed. */
#ifndef CLI_HINTS_H
#define CLI_HINTS_H

#include <stdbool.h>
#include <stdio.h>
#include "client/pager/eg_hints.h"
#include "client/pager/eg_range.h"
#include "cli_pool.h"

#define CLI_HINTS_FORMAT "endgame-hints"
#define CLI_HINTS_FORMAT_VERSION 1

/* X("name", flags, flags that it cannot be together with, "meaning") */
#define CLI_HINT_ACTIONS(X)                                                                                                        \
    X("random", EG_RANGE_RANDOM, EG_RANGE_SEQUENTIAL, "nothing is read ahead")                                                     \
    X("sequential", EG_RANGE_SEQUENTIAL, EG_RANGE_RANDOM, "is read ahead at once, and what lies behind leaves first")              \
    X("evict-first", EG_RANGE_FIRST, EG_RANGE_PIN, "leaves before anything else")                                                  \
    X("pin", EG_RANGE_PIN, EG_RANGE_FIRST, "stays local: all pinned memory together at most half of the budget")

struct cli_hints {
    uint32_t n_rules;
    struct eg_hint_rule rules[EG_HINT_RULES];
};

/* What the rules are about. */
struct cli_hints_for {
    const char *program; /* the program's file, for symbols without one */
    int n_servers;
};

/* cli_hints_parse - read all of `from`; name is for the messages.
 * Returns: 0; -EINVAL and ret_why, one line that begins with "NAME:LINE: ". */
int cli_hints_parse(FILE *from, const char *name, const struct cli_hints_for *about, struct cli_hints *ret_hints, char *ret_why, size_t why_bytes)
    __attribute__((warn_unused_result));

/* cli_hints_read - the same for a file. Returns: 0, or CLI_EXIT_USAGE after one line that says what is wrong where. */
int cli_hints_read(const char *path, const struct cli_hints_for *about, struct cli_hints *ret_hints) __attribute__((warn_unused_result));

/* cli_hints_publish - for the program's processes: a file beside the pool's. profile: with a table, which is *ret_file's.
 * Owns: *ret_file (NULL without profile) stays mapped. Returns: 0, or CLI_EXIT_FAILED after one line. */
int cli_hints_publish(const struct cli_hints *hints, bool profile, const struct cli_pool *pool, struct eg_hints_file **ret_file)
    __attribute__((warn_unused_result));

extern const char *const cli_hint_kinds[EG_HINT_N_KINDS];

#endif
