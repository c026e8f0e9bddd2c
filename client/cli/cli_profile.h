/* cli_profile.h - what a profile's run counted, to a hints file. */
#ifndef CLI_PROFILE_H
#define CLI_PROFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "client/pager/eg_hints.h"

/* Mappings that one rule is to be about. */
struct cli_profile_item {
    uint32_t kind;
    uint64_t first, last; /* which of those with this size and call site: EG_HINT_LAST for all further ones */
    uint64_t min_bytes, max_bytes;
    uint64_t pages;       /* all of them together */
    uint64_t site;
    char object[EG_HINT_OBJECT_BYTES], program[EG_HINT_COMM_BYTES];
#define CLI_X(name, text) uint64_t name;
    EG_HINT_COUNTERS(CLI_X)
#undef CLI_X
    uint64_t flags;       /* decided: EG_RANGE_*; 0: nothing */
    char why[256];
};

/* cli_profile_decide - what is best for each item of a run that had so many pages of local memory. Pure. */
void cli_profile_decide(struct cli_profile_item *v, size_t n, uint64_t budget_pages);

/* cli_profile_rules - a table's entries to items, decided on and in the order in which they are written; those without advice are left out.
 * Owns: *ret_items is malloc'ed. Returns: how many items; -ENOMEM. */
long cli_profile_rules(const struct eg_profile_entry *entries, size_t n, uint64_t budget_pages, struct cli_profile_item **ret_items);

/* cli_profile_write - a hints file with these rules. path: the program's file, or NULL, to name call sites in comments; program: its command line.
 * Returns: rules written; -errno. */
long cli_profile_write(FILE *to, const struct eg_hints_file *file, uint64_t budget_bytes, const char *path, char *const *program);

#endif
