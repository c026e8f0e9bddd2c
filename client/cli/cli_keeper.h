/* cli_keeper.h - the process that stays beside a run: parent of the embedded memory server, and the one who clears up if
 * `endgame run` is killed or leaves daemons of the program behind. */
#ifndef CLI_KEEPER_H
#define CLI_KEEPER_H

#include <sys/types.h>
#include "cli_pool.h"

struct cli_keeper {
    pid_t pid;
    int link;       /* the keeper acts when this closes */
    int server_log; /* what the embedded server said on standard error; -1: no server */
};

/* cli_keeper_start - fork the keeper and, if memserver is not NULL, let it start that server on pool->socket.
 * Context: hosted, single-threaded, all signals blocked. Blocks until the server serves.
 * Returns: 0, or CLI_EXIT_FAILED after one line that says why; nothing is left then but the pool. */
int cli_keeper_start(struct cli_pool *pool, const char *memserver, struct cli_keeper *ret_keeper)
    __attribute__((warn_unused_result));

/* cli_keeper_finish - the program has ended. If nothing of it is left, clear up and return when all is gone; else leave
 * that to the keeper. */
void cli_keeper_finish(struct cli_keeper *keeper, struct cli_pool *pool);

/* Last line that the embedded server wrote on standard error, or "" . */
void cli_keeper_server_said(const struct cli_keeper *keeper, char *ret_line, size_t line_bytes);

#endif
