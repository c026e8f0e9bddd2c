/* eg_wire.h - what travels between an agent and a memory server: framing, data-plane requests, limits, status codes.
 * Little-endian, fixed layout. The control plane's payload is protobuf (control.proto) inside the same framing.
 *
 * A connection is either a control connection (first frame: Open, Ping, Stats or Drain) or, over tcp, a data connection
 * (first frame: Attach). Over unix sockets there is no data connection: the agent reads and writes the arena's memfd itself.
 * Over rdma one queue pair is both: control frames travel in messages (eg_rdma.h), cut where they have to be; memory is read and
 * written by the agent's device. */
#ifndef EG_WIRE_H
#define EG_WIRE_H

#include <stdint.h>

#define EG_WIRE_MAGIC 0x314d4745u /* "EGM1" */
#define EG_WIRE_VERSION 1u
#define EG_PAGE_BYTES 4096u
#define EG_SLAB_BYTES (2u << 20)
#define EG_SLAB_PAGES (EG_SLAB_BYTES / EG_PAGE_BYTES)
#define EG_CONTROL_MAX_BYTES (64u << 10) /* a control frame's payload, either way */
#define EG_DATA_MAX_BYTES (256u << 10)   /* one READ's or WRITE's bytes; a multiple of the page */
#define EG_TOKEN_BYTES 16

enum eg_frame_type {
    EG_FRAME_CONTROL = 1,    /* payload: Request or Reply */
    EG_FRAME_READ = 2,       /* no payload; `offset`, `arg` = bytes wanted */
    EG_FRAME_READ_REPLY = 3, /* payload: the bytes, or none and a status */
    EG_FRAME_WRITE = 4,      /* payload: the bytes for `offset` */
    EG_FRAME_WRITE_REPLY = 5 /* no payload */
};

/* Also Reply.status of the control plane. */
enum eg_status {
    EG_STATUS_OK = 0,
    EG_STATUS_VERSION = 1,  /* other side speaks another protocol version */
    EG_STATUS_INVALID = 2,  /* malformed or out of order */
    EG_STATUS_RANGE = 3,    /* offset outside the arena or outside the agent's slabs */
    EG_STATUS_NOSPACE = 4,  /* the server's capacity is used up */
    EG_STATUS_QUOTA = 5,    /* the session's quota is used up */
    EG_STATUS_NOENT = 6,    /* no such session, agent, snapshot or slab */
    EG_STATUS_DRAINING = 7, /* no new sessions */
    EG_STATUS_INTERNAL = 8
};

struct eg_frame {
    uint32_t magic;
    uint8_t type; /* enum eg_frame_type */
    uint8_t flags;
    uint16_t status; /* replies */
    uint32_t len_bytes; /* payload that follows */
    uint32_t arg;
    uint64_t offset;
    uint64_t cookie; /* the reply repeats the request's */
};
_Static_assert(sizeof(struct eg_frame) == 32, "eg_frame is a wire format");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire format is the machine's own layout");

#endif
