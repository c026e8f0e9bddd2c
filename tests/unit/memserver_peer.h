/* memserver_peer.h - for tests: a real endgame-memserver and peers that talk to it, well or badly. Everything that must not fail
 * ends the test through Check. */
#ifndef MEMSERVER_PEER_H
#define MEMSERVER_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "proto/control.pb-c.h"
#include "proto/eg_addr.h"
#include "proto/eg_wire.h"

#define PEER_ANY_STATUS 0xffffu

struct daemon {
    pid_t pid;
    char dir[64];
    char unix_text[128], tcp_text[128];
    struct eg_addr unix_addr, tcp_addr;
    int errors; /* its standard error */
};

/* One agent; data < 0 until peer_attach. */
struct peer {
    int fd, data, memfd;
    uint64_t agent, secret, arena_bytes, cookie;
};

/* Starts the daemon on a unix socket and a tcp port, with `options` (NULL-ended) in addition. */
void daemon_start(struct daemon *daemon, const char *const *options);
/* Waits for its end. Returns: the exit status, or 128 + the signal. */
int daemon_wait(struct daemon *daemon);
/* SIGTERM, wait, remove its directory; NULL-safe for one that has ended. Its exit status must be 0. */
void daemon_stop(struct daemon *daemon);
/* Text that it wrote on standard error so far. */
const char *daemon_errors(struct daemon *daemon);

int peer_connect(const struct eg_addr *addr);
/* Sends one request and reads its reply. Returns: NULL when the server hung up. */
Endgame__Reply *peer_ask(int fd, uint64_t cookie, const Endgame__Request *request);
void peer_open(struct peer *peer, const struct eg_addr *addr, uint8_t token, uint64_t snapshot);
uint32_t peer_open_status(const struct eg_addr *addr, uint8_t token, uint64_t snapshot);
void peer_close(struct peer *peer);
uint32_t peer_reserve(struct peer *peer, uint64_t slabs);
/* Returns: how many; 0 and *ret_status otherwise. */
uint32_t peer_lease(struct peer *peer, uint32_t count, uint32_t *ret_slabs, uint32_t *ret_status);
uint32_t peer_return(struct peer *peer, const uint32_t *slabs, size_t count);
uint64_t peer_snapshot(struct peer *peer);
uint32_t peer_drop_snapshot(struct peer *peer, uint64_t snapshot);
uint32_t peer_break(struct peer *peer, const uint32_t *slabs, size_t count, uint32_t *ret_slabs);
Endgame__StatsReply peer_stats(const struct eg_addr *addr); /* without the rows */

void peer_attach(struct peer *peer, const struct eg_addr *addr);
void peer_send_read(struct peer *peer, uint64_t offset, uint32_t len_bytes);
void peer_send_write(struct peer *peer, uint64_t offset, const void *bytes, uint32_t len_bytes);
/* The next reply; its payload goes to `bytes` (room for EG_DATA_MAX_BYTES, or NULL). Returns: its status. */
uint32_t peer_reply(struct peer *peer, void *bytes, uint32_t *ret_len_bytes);
uint32_t peer_read(struct peer *peer, uint64_t offset, void *bytes, uint32_t len_bytes);
uint32_t peer_write(struct peer *peer, uint64_t offset, const void *bytes, uint32_t len_bytes);

void peer_send_all(int fd, const void *bytes, size_t n);
bool peer_recv_all(int fd, void *bytes, size_t n); /* false: the server hung up */
/* Does the server hang up within so long? */
bool peer_hung_up(int fd, int timeout_ms);

/* A pattern of its own for each seed. */
void pattern_fill(void *bytes, size_t n, uint64_t seed);
bool pattern_is(const void *bytes, size_t n, uint64_t seed);

#endif
