/* cli_keeper.h - the process that stays beside a run: parent of the embedded servers, and the one who clears up if
 * `endgame run` is killed or leaves daemons of the program behind. */
#ifndef CLI_KEEPER_H
#define CLI_KEEPER_H

#include <sys/types.h>
#include "cli_pool.h"

struct cli_keeper {
    pid_t pid;
    int link;       /* the keeper acts when this closes */
    int ready;      /* the keeper says here how the embedded servers' start went; -1: it has, or there is none */
    int server_log; /* what the embedded servers said on standard error; -1: no server */
};

/* What a run embeds: a memory server, compute nodes, relays to nodes that are reached over RDMA, or none of these. */
enum cli_embedded_kind { CLI_EMBEDDED_MEMORY, CLI_EMBEDDED_COMPUTE, CLI_EMBEDDED_RELAY, CLI_EMBEDDED_KINDS };
struct cli_embedded {
    const char *daemon[CLI_EMBEDDED_KINDS]; /* path of the executable */
    int n[CLI_EMBEDDED_KINDS];              /* so many: at most 1; the others together at most EG_POOL_NODES */
    struct {
        char to[128]; /* rdma:HOST:PORT */
        int node;     /* its socket has this number */
    } relay[EG_POOL_NODES];
};

/* cli_embedded_what - what it is called in messages: of all that there are, or of one kind. */
const char *cli_embedded_what(const struct cli_embedded *embedded);

/* cli_keeper_start - fork the keeper and let it start the embedded servers.
 * Context: hosted, single-threaded, all signals blocked.
 * Returns: 0, or CLI_EXIT_FAILED after one line that says why; nothing is left then but the pool. */
int cli_keeper_start(struct cli_pool *pool, const struct cli_embedded *embedded, struct cli_keeper *ret_keeper)
    __attribute__((warn_unused_result));

/* cli_keeper_wait - until all embedded servers serve. Returns: 0, or CLI_EXIT_FAILED after one line that says why; then
 * cli_keeper_give_up. */
int cli_keeper_wait(struct cli_keeper *keeper) __attribute__((warn_unused_result));

/* cli_keeper_give_up - no program runs: the keeper removes the pool, and has ended on return. */
void cli_keeper_give_up(struct cli_keeper *keeper);

/* cli_keeper_finish - the program has ended. If nothing of it is left, clear up and return when all is gone; else leave
 * that to the keeper. */
void cli_keeper_finish(struct cli_keeper *keeper, struct cli_pool *pool);

/* Last line that an embedded server wrote on standard error, or "" . */
void cli_keeper_server_said(const struct cli_keeper *keeper, char *ret_line, size_t line_bytes);

#endif
