/* cli_program.h - can this program be run with a preloaded library? Asked before anything starts. */
#ifndef CLI_PROGRAM_H
#define CLI_PROGRAM_H

#include <stddef.h>

/* cli_program_find - the file that execvp would start. Returns: 0, -errno. */
int cli_program_find(const char *name, char *ret_path, size_t path_bytes);

/* cli_program_check - find name as execvp would, follow #! lines to the executable, and see that the dynamic linker will
 * load a preloaded library into it.
 * Context: hosted.
 * Returns: 0, or the exit status after one line that says why not. */
int cli_program_check(const char *name) __attribute__((warn_unused_result));

#endif
