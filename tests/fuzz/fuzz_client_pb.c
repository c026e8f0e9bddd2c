/* The runtime's protobuf reader over arbitrary bytes, as session.c walks a reply: every field, every body, every list of numbers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/eg_pb.h"

#define DEPTH_MAX 4

/* Reads all of [at, end) and, where a field has bytes, those as a message of its own. */
static void walk(const uint8_t *at, const uint8_t *end, int depth)
{
    struct eg_pb_reader r = { at, end };
    struct eg_pb_field f;
    int rc;
    for (;;) {
        const uint8_t *before = r.at;
        f = (struct eg_pb_field){ .number = 0xdeadbeef };
        rc = eg_pb_next(&r, &f);
        if (r.at < before || r.at > end) abort();
        if (rc <= 0) break;
        if (r.at == before || f.number == 0 || f.number > 0x1fffffff) abort();
        if (f.wire_type == 2 && (f.data < before || f.len > (size_t)(end - f.data) || f.data + f.len != r.at)) abort();
        if (f.wire_type == 5 && f.value >> 32) abort();

        uint32_t v[9];
        for (size_t cap = 0; cap <= 8; cap++) {
            size_t n = 0;
            memset(v, 0xa5, sizeof v);
            int got = eg_pb_u32s(&f, v, cap, &n);
            if (n > cap || v[cap] != 0xa5a5a5a5) abort();
            if (got != 0 && got != -EPROTO && got != -E2BIG) abort();
            if (got == -E2BIG && n != cap) abort();
            if (got == 0 && f.wire_type == 0 && (n != 1 || v[0] != (uint32_t)f.value)) abort();
            if (got == 0 && f.wire_type != 0 && f.wire_type != 2) abort();
        }
        if (f.wire_type == 2 && depth < DEPTH_MAX) walk(f.data, f.data + f.len, depth + 1);
    }
    if (rc == 0 && r.at != end) abort();
    if (rc < 0 && (rc != -EPROTO || f.number != 0xdeadbeef)) abort();
}

/* What was read is written again and must read the same. */
static void rewrite(const uint8_t *at, const uint8_t *end)
{
    struct eg_pb_reader r = { at, end }, again;
    struct eg_pb_field f, g;
    while (eg_pb_next(&r, &f) > 0) {
        uint8_t buf[8192];
        struct eg_pb_writer w = { .buf = buf, .cap = sizeof buf };
        if (f.wire_type == 0) eg_pb_put_varint(&w, f.number, f.value);
        else if (f.wire_type == 1) eg_pb_put_fixed64(&w, f.number, f.value);
        else if (f.wire_type == 2) eg_pb_put_bytes(&w, f.number, f.data, f.len);
        else continue;
        if (w.overflow) abort();
        again = (struct eg_pb_reader){ buf, buf + w.len };
        if (eg_pb_next(&again, &g) != 1 || again.at != again.end) abort();
        if (g.number != f.number || g.wire_type != f.wire_type || g.value != f.value || g.len != f.len) abort();
        if (f.len && memcmp(g.data, f.data, f.len) != 0) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    walk(data, data + size, 0);
    rewrite(data, data + size);
    return 0;
}
