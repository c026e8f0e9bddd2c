/* data.h - the tcp data plane: threads that serve READ and WRITE frames from and to the arena.
 *
 * Replies go out in the order of the requests. Nothing is staged on its way out: a reply's payload is sent from the arena itself,
 * and only if its slab is taken from the agent while the peer is slow to read is the rest copied (egm_data_on_drop). On the way in
 * a payload's first bytes may have come with its header (one recv takes in many small frames); the rest is read into place. */
#ifndef EGM_DATA_H
#define EGM_DATA_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include "memserver/store.h"

#define EGM_DATA_IN_BYTES (16u << 10)     /* read at once; what came behind an Attach fits too */
#define EGM_DATA_OUT_MAX_BYTES (4u << 20) /* queued replies of one connection before it is no longer read */
#define EGM_DATA_RING 1024u               /* likewise, in replies; a power of two */

struct egm_data;

struct egm_data_stats {
    uint64_t reads, writes, read_bytes, written_bytes;
};

/* egm_data_new - start n_threads threads. bad_frames and n_conns are the server's counters: each connection that the data plane
 * drops for what it sent counts in the one, each that it closes is taken off the other.
 * Context: control thread. Returns: 0 or -errno. */
int egm_data_new(unsigned n_threads, _Atomic uint64_t *bad_frames, _Atomic uint32_t *n_conns,
                 struct egm_data **ret_data) __attribute__((warn_unused_result));

/* egm_data_free - stop the threads and close what they serve. NULL-safe. */
void egm_data_free(struct egm_data *data);

/* egm_data_attach - serve fd for agent from now on; `early` came behind the Attach frame (at most EGM_DATA_IN_BYTES).
 * Pre:     the session is mapped; fd is non-blocking.
 * Owns:    fd, on success.
 * Context: control thread. Returns: 0 or -errno. */
int egm_data_attach(struct egm_data *data, struct egm_agent *agent, int fd, const void *early, size_t early_bytes)
    __attribute__((warn_unused_result));

/* egm_data_on_drop - egm_store.on_drop: see there. */
void egm_data_on_drop(struct egm_agent *agent);

void egm_data_stats(struct egm_data *data, struct egm_data_stats *ret_stats);

/* For the fuzzer and unit tests, which have no threads: one connection, served by hand. */
enum egm_serve { EGM_SERVE_IDLE, EGM_SERVE_BUSY, EGM_SERVE_CLOSE };
struct egm_data_conn *egm_data_conn_new(struct egm_data *data, struct egm_agent *agent, int fd, const void *early,
                                        size_t early_bytes);
enum egm_serve egm_data_conn_serve(struct egm_data_conn *conn);
void egm_data_conn_free(struct egm_data_conn *conn);

#endif
