/* eg_pb.h - the protobuf wire format for the runtime's few control messages, without an allocator (protobuf-c needs one).
 * The daemons use protobuf-c on the same control.proto. Source: protobuf.dev, "Encoding". */
#ifndef EG_PB_H
#define EG_PB_H

#include <stddef.h>
#include <stdint.h>

/* Writer: appends to a fixed buffer; `overflow` is sticky. */
struct eg_pb_writer {
    uint8_t *buf;
    size_t cap, len;
    int overflow;
};

void eg_pb_put_varint(struct eg_pb_writer *w, uint32_t field, uint64_t value);
void eg_pb_put_fixed64(struct eg_pb_writer *w, uint32_t field, uint64_t value);
void eg_pb_put_bytes(struct eg_pb_writer *w, uint32_t field, const void *data, size_t len);
void eg_pb_put_packed_u32(struct eg_pb_writer *w, uint32_t field, const uint32_t *v, size_t n);

/* Reader: a cursor over one message. */
struct eg_pb_reader {
    const uint8_t *at, *end;
};
struct eg_pb_field {
    uint32_t number;
    uint32_t wire_type;  /* 0 varint, 1 fixed64, 2 bytes, 5 fixed32 */
    uint64_t value;      /* varint, fixed */
    const uint8_t *data; /* bytes: inside the reader's buffer */
    size_t len;
};

/* eg_pb_next - the next field. Returns: 1 a field, 0 the end, -EPROTO malformed. */
int eg_pb_next(struct eg_pb_reader *r, struct eg_pb_field *ret_field) __attribute__((warn_unused_result));
/* eg_pb_u32s, eg_pb_fixed32s - append a repeated uint32 or fixed32 field's values (packed or single) to v.
 * Returns: 0, -EPROTO, -E2BIG. */
int eg_pb_fixed32s(const struct eg_pb_field *f, uint32_t *v, size_t cap, size_t *n) __attribute__((warn_unused_result));
int eg_pb_u32s(const struct eg_pb_field *f, uint32_t *v, size_t cap, size_t *n) __attribute__((warn_unused_result));

#endif
