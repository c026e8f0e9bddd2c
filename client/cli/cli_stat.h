/* cli_stat.h - what proc(5) says of a process or a thread in its stat. */
#ifndef CLI_STAT_H
#define CLI_STAT_H

#include <stddef.h>

/* cli_stat_fields - from field 3, the state, on. name: its folder, in `folder` or absolute. Context: hosted.
 * Returns: a place in text; NULL: there is no such process, or nothing can be seen of it. */
char *cli_stat_fields(int folder, const char *name, char *text, size_t bytes);

#endif
