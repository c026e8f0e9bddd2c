/* cli_pool.h - the private directory of one run, its pool file (client/pager/eg_pool.h), and whether anybody of the run is
 * left. */
#ifndef CLI_POOL_H
#define CLI_POOL_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "client/pager/eg_pool.h"
#include "proto/eg_addr.h"

#define CLI_POOL_SOCKET "memserver.sock"
#define CLI_POOL_COMPUTE_SOCKET "compute%d.sock" /* of embedded compute node i; no longer than the other */
#define CLI_POOL_RELAY_SOCKET "relay%d.sock" /* of the relay to node i, which is reached over RDMA; likewise */

struct cli_pool {
    int fd;                   /* of the pool file, close-on-exec; -1: none */
    struct eg_pool *map;      /* header and rows */
    char dir[96];             /* empty: none */
    char path[112];           /* the pool file: ENDGAME_POOL */
    char socket[112];         /* for the embedded server */
    char library[PATH_MAX];   /* what LD_PRELOAD names */
};

/* cli_pool_create - make the directory and the file, all but the servers filled in.
 * Context: hosted. Pre: library is libendgame.so's absolute path.
 * Owns:    *ret_pool must go to cli_pool_remove() (by one process) and cli_pool_close() (by each that has it).
 * Returns: 0, or CLI_EXIT_FAILED after one line that says why. */
int cli_pool_create(uint64_t budget_bytes, enum eg_engine engine, const char *library, struct cli_pool *ret_pool)
    __attribute__((warn_unused_result));

/* Pre: fewer than EG_POOL_SERVERS are in; the program is not started yet. */
void cli_pool_add_server(struct cli_pool *pool, const struct eg_addr *addr);

/* Pre: fewer than EG_POOL_NODES are in; the program is not started yet. */
void cli_pool_add_node(struct cli_pool *pool, const struct eg_addr *addr, uint32_t slots, uint32_t flags);

/* Removes directory and content; what is gone already is no error. */
void cli_pool_remove(struct cli_pool *pool);
void cli_pool_close(struct cli_pool *pool);

/* cli_pool_rows - rows that may be looked at: those behind them were never used. */
uint32_t cli_pool_rows(const struct cli_pool *pool);
struct eg_pool_row *cli_pool_row(const struct cli_pool *pool, uint32_t i);
bool cli_pool_row_alive(const struct cli_pool *pool, uint32_t i);

/* cli_pool_each - call `visit` for every pool file of this user's runs, those being made excepted. The pool has no map.
 * Context: hosted. Owns: the pool is closed after the call. */
void cli_pool_each(void (*visit)(struct cli_pool *pool, void *arg), void *arg);

/* cli_pool_in_use - is any process of the run left? Those with far memory hold a lock on their row; the others (static
 * programs, those just starting) are known by their environment.
 * Context: hosted; reads /proc, a fraction of a millisecond for each hundred processes. */
bool cli_pool_in_use(const struct cli_pool *pool);

#endif
