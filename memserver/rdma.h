/* rdma.h - connections over RDMA: listeners, devices, protection domains and remote keys. Below them is proto/eg_rdma,
 * above them control.c, which sees a connection as a stream of bytes, like a socket.
 * Context of everything: control thread.
 *
 *   domain   one per session token and device; lives while connections or keys are in it. Tools, whose token is zeros,
 *            share one that never has keys
 *   key      one memory region per slab and domain, made when the slab is leased; it stays while the session keeps the
 *            slab's memory. A slab's remote addresses are its arena offsets
 *
 * Clients read and write slabs without the server's processor, so the server cannot check a single access: what a key
 * opens is open to every process of the session until the slab's memory goes back to the kernel, and to nobody else. */
#ifndef EGM_RDMA_H
#define EGM_RDMA_H

#include <event2/buffer.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "memserver/server.h"

#define EGM_ADDR_RDMA 3u /* eg_addr.kind */

struct egm_rdma;
struct egm_rdma_link; /* what carries a connection */

/* egm_rdma_listen - egm_server_listen for an rdma: address. The first one opens librdmacm and makes server->rdma. */
int egm_rdma_listen(struct egm_server *server, const struct eg_addr *addr, char *ret_text, size_t text_bytes,
                    char *ret_why, size_t why_bytes) __attribute__((warn_unused_result));

/* egm_rdma_free - Pre: no connection and no session is left. NULL-safe. */
void egm_rdma_free(struct egm_rdma *rdma);

void egm_rdma_stats(const struct egm_rdma *rdma, uint64_t *ret_keys, uint64_t *ret_messages);

/* egm_rdma_poll - ask for the next wake-up, then take what has come (egm_conn_input).
 * Returns: 0, or -errno: the connection is lost (-EPROTO: by the peer's fault). */
int egm_rdma_poll(struct egm_rdma_link *link) __attribute__((warn_unused_result));

/* egm_rdma_send - send what the peer has room for, and drain it. Returns: 0, or -errno: the connection is lost. */
int egm_rdma_send(struct egm_rdma_link *link, struct evbuffer *out) __attribute__((warn_unused_result));

/* egm_rdma_close - after it nobody reads or writes memory through this connection. */
void egm_rdma_close(struct egm_rdma_link *link);

/* egm_rdma_admits - may this connection open the session `token`? Only the one that it named when it connected. */
bool egm_rdma_admits(const struct egm_rdma_link *link, const uint8_t *token);

/* egm_rdma_keys - the remote keys of slabs of the session that the link's agent is in, made where there are none.
 * Pre:     the slabs have memory.
 * Returns: how many, from the first on, have one; less than n: ret_why holds one line that says why. */
uint32_t egm_rdma_keys(struct egm_rdma_link *link, struct egm_session *session, const uint32_t *slabs, uint32_t n,
                       uint32_t *ret_keys, char *ret_why, size_t why_bytes) __attribute__((warn_unused_result));

#endif
