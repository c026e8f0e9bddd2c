#include "proto/eg_pb.h"

#include <errno.h>
#include <string.h>

static void put_byte(struct eg_pb_writer *w, uint8_t b)
{
    if (w->len < w->cap)
        w->buf[w->len++] = b;
    else
        w->overflow = 1;
}

static void put_raw_varint(struct eg_pb_writer *w, uint64_t v)
{
    while (v >= 0x80) {
        put_byte(w, (uint8_t)(v | 0x80));
        v >>= 7;
    }
    put_byte(w, (uint8_t)v);
}

void eg_pb_put_varint(struct eg_pb_writer *w, uint32_t field, uint64_t value)
{
    put_raw_varint(w, (uint64_t)field << 3);
    put_raw_varint(w, value);
}

void eg_pb_put_fixed64(struct eg_pb_writer *w, uint32_t field, uint64_t value)
{
    put_raw_varint(w, (uint64_t)field << 3 | 1);
    for (int i = 0; i < 8; i++)
        put_byte(w, (uint8_t)(value >> (8 * i)));
}

void eg_pb_put_bytes(struct eg_pb_writer *w, uint32_t field, const void *data, size_t len)
{
    const uint8_t *p = data;
    put_raw_varint(w, (uint64_t)field << 3 | 2);
    put_raw_varint(w, len);
    for (size_t i = 0; i < len; i++)
        put_byte(w, p[i]);
}

void eg_pb_put_packed_u32(struct eg_pb_writer *w, uint32_t field, const uint32_t *v, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t x = v[i];
        do
            bytes++;
        while (x >>= 7);
    }
    put_raw_varint(w, (uint64_t)field << 3 | 2);
    put_raw_varint(w, bytes);
    for (size_t i = 0; i < n; i++)
        put_raw_varint(w, v[i]);
}

static int get_raw_varint(struct eg_pb_reader *r, uint64_t *ret)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (r->at >= r->end)
            return -EPROTO;
        uint8_t b = *r->at++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *ret = v;
            return 0;
        }
    }
    return -EPROTO;
}

static int get_fixed(struct eg_pb_reader *r, int bytes, uint64_t *ret)
{
    uint64_t v = 0;
    if (r->end - r->at < bytes)
        return -EPROTO;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)*r->at++ << (8 * i);
    *ret = v;
    return 0;
}

int eg_pb_next(struct eg_pb_reader *r, struct eg_pb_field *ret_field)
{
    uint64_t tag;
    if (r->at >= r->end)
        return 0;
    if (get_raw_varint(r, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return -EPROTO;
    struct eg_pb_field f = {.number = (uint32_t)(tag >> 3), .wire_type = (uint32_t)(tag & 7)};
    int rc = 0;
    switch (f.wire_type) {
    case 0: rc = get_raw_varint(r, &f.value); break;
    case 1: rc = get_fixed(r, 8, &f.value); break;
    case 5: rc = get_fixed(r, 4, &f.value); break;
    case 2: {
        uint64_t len;
        rc = get_raw_varint(r, &len);
        if (!rc && len > (uint64_t)(r->end - r->at))
            rc = -EPROTO;
        if (!rc) {
            f.data = r->at;
            f.len = (size_t)len;
            r->at += len;
        }
        break;
    }
    default: rc = -EPROTO;
    }
    if (rc)
        return rc;
    *ret_field = f;
    return 1;
}

int eg_pb_u32s(const struct eg_pb_field *f, uint32_t *v, size_t cap, size_t *n)
{
    if (f->wire_type == 0) {
        if (*n >= cap)
            return -E2BIG;
        v[(*n)++] = (uint32_t)f->value;
        return 0;
    }
    if (f->wire_type != 2)
        return -EPROTO;
    struct eg_pb_reader r = {f->data, f->data + f->len};
    while (r.at < r.end) {
        uint64_t x;
        if (get_raw_varint(&r, &x))
            return -EPROTO;
        if (*n >= cap)
            return -E2BIG;
        v[(*n)++] = (uint32_t)x;
    }
    return 0;
}

int eg_pb_fixed32s(const struct eg_pb_field *f, uint32_t *v, size_t cap, size_t *n)
{
    uint32_t one = (uint32_t)f->value;
    const uint8_t *data = f->wire_type == 5 ? (const uint8_t *)&one : f->data;
    size_t len = f->wire_type == 5 ? sizeof one : f->len;
    if ((f->wire_type != 5 && f->wire_type != 2) || len % sizeof *v)
        return -EPROTO;
    if (len / sizeof *v > cap - *n)
        return -E2BIG;
    memcpy(v + *n, data, len);
    *n += len / sizeof *v;
    return 0;
}
