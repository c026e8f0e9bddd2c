/* cli_compute.h - the compute nodes of a run: as they are named on the command line, and whether threads of a program that
 * starts here can go on there. */
#ifndef CLI_COMPUTE_H
#define CLI_COMPUTE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "cli.h"
#include "cli_keeper.h"
#include "cli_pool.h"
#include "proto/eg_addr.h"

struct cli_compute {
    struct eg_addr nodes[EG_POOL_NODES]; /* those that are there already */
    uint32_t slots[EG_POOL_NODES];
    uint32_t flags[EG_POOL_NODES]; /* EG_HELLO_* of eg_threads.h */
    int n_nodes;
    int n_embedded; /* to be started, on this machine */
    enum eg_threads_mode mode;
    bool mode_given;
    char daemon[PATH_MAX]; /* endgame-compute */
    char relay[PATH_MAX];  /* endgame-relay; needed for rdma: only */
};

/* cli_compute_add, cli_compute_mode - take the value of one --compute or --threads.
 * Returns: 0, or an exit status after one line that says why. */
int cli_compute_add(const struct cli_command *command, const char *text, struct cli_compute *compute)
    __attribute__((warn_unused_result));
int cli_compute_mode(const struct cli_command *command, const char *text, struct cli_compute *compute)
    __attribute__((warn_unused_result));

static inline bool cli_compute_wanted(const struct cli_compute *compute)
{
    return compute->n_nodes > 0 || compute->n_embedded > 0;
}

/* cli_compute_check - ask every node that is there already; find the daemon for the others.
 * Context: hosted; blocks for a few seconds at most for each node that does not answer.
 * Returns: 0, or CLI_EXIT_FAILED after one line that names the node and what to do. */
int cli_compute_check(struct cli_compute *compute) __attribute__((warn_unused_result));

/* cli_compute_relays - fill in which relays the run needs. Pre: checked. */
void cli_compute_relays(const struct cli_compute *compute, struct cli_embedded *embedded);

/* cli_compute_publish - write the nodes to the pool. The embedded ones and the relays must serve (cli_keeper_start). The program reaches
 * a node over RDMA by its relay's socket, and names it as the user did.
 * Returns: 0, or CLI_EXIT_FAILED after one line that says why. */
int cli_compute_publish(struct cli_compute *compute, struct cli_pool *pool) __attribute__((warn_unused_result));

#endif
