/* cli_stop.h - a stop of the program is one of `endgame run`, too: the shell's job control sees only the latter. */
#ifndef CLI_STOP_H
#define CLI_STOP_H

#include <sys/types.h>

/* cli_stop_follow - stop this process by the signal that stopped the child, until SIGCONT, which the child is given then, or
 * until the child goes on or ends without this process. Right after waitpid() has told of the stop.
 * Context: hosted, all signals blocked. May have no effect: in an orphaned process group, or if the child is stopped no longer. */
void cli_stop_follow(pid_t child, int number);

#endif
