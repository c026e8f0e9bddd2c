/* The runtime's own protobuf against protobuf-c on control.proto, both directions, and input that is no message at all. */
#include "proto/control.pb-c.h"
#include "proto/eg_pb.h"
#include "proto/eg_wire.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- what the runtime sends, read by protobuf-c ------------------------------------------------------------------------- */

static const uint64_t edges[] = {0, 1, 127, 128, 16383, 16384, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ull << 35, 1ull << 56,
                                 (1ull << 63) - 1, 1ull << 63, UINT64_MAX};
#define N_EDGES (sizeof edges / sizeof *edges)

static uint64_t number(struct random_state *r)
{
    uint64_t edge = edges[random_below(r, N_EDGES)];
    return random_below(r, 2) ? edge : random_u64(r) >> random_below(r, 64);
}

/* The body is in its own buffer, as the runtime makes it. */
static Endgame__Request *request_of(uint32_t field, const struct eg_pb_writer *body)
{
    uint8_t buf[4096];
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    eg_pb_put_varint(&w, 1, EG_WIRE_VERSION);
    eg_pb_put_bytes(&w, field, body->buf, body->len);
    ck_assert(!w.overflow && !body->overflow);
    Endgame__Request *q = endgame__request__unpack(NULL, w.len, buf);
    ck_assert_ptr_nonnull(q);
    ck_assert_uint_eq(q->version, EG_WIRE_VERSION);
    ck_assert_uint_eq((uint32_t)q->body_case, field);
    ck_assert_uint_eq(q->base.n_unknown_fields, 0);
    return q;
}

START_TEST(requests_are_read_by_protobuf_c)
{
    struct random_state r = {2024};
    for (int turn = 0; turn < 500; turn++) {
        uint8_t space[2048], token[EG_TOKEN_BYTES];
        char program[64];
        uint32_t slabs[64], n = random_below(&r, 65), pid = (uint32_t)number(&r);
        uint64_t a = number(&r), b = number(&r);
        random_fill(&r, token, sizeof token);
        memset(program, 'a' + turn % 26, sizeof program);
        program[random_below(&r, sizeof program)] = 0;
        for (uint32_t i = 0; i < n; i++)
            slabs[i] = (uint32_t)number(&r);

        struct eg_pb_writer w = {.buf = space, .cap = sizeof space};
        eg_pb_put_bytes(&w, 1, token, sizeof token);
        eg_pb_put_bytes(&w, 2, program, strlen(program));
        eg_pb_put_varint(&w, 3, pid);
        eg_pb_put_fixed64(&w, 4, a);
        Endgame__Request *q = request_of(ENDGAME__REQUEST__BODY_OPEN, &w);
        ck_assert_uint_eq(q->open->token.len, sizeof token);
        ck_assert_mem_eq(q->open->token.data, token, sizeof token);
        ck_assert_str_eq(q->open->program, program);
        ck_assert_uint_eq(q->open->pid, pid);
        ck_assert_uint_eq(q->open->snapshot, a);
        endgame__request__free_unpacked(q, NULL);

        w.len = 0;
        eg_pb_put_fixed64(&w, 1, a);
        eg_pb_put_fixed64(&w, 2, b);
        q = request_of(ENDGAME__REQUEST__BODY_ATTACH, &w);
        ck_assert_uint_eq(q->attach->agent, a);
        ck_assert_uint_eq(q->attach->secret, b);
        endgame__request__free_unpacked(q, NULL);

        w.len = 0;
        eg_pb_put_varint(&w, 1, b);
        q = request_of(ENDGAME__REQUEST__BODY_RESERVE, &w);
        ck_assert_uint_eq(q->reserve->slabs, b);
        endgame__request__free_unpacked(q, NULL);

        w.len = 0;
        eg_pb_put_varint(&w, 1, pid);
        q = request_of(ENDGAME__REQUEST__BODY_LEASE, &w);
        ck_assert_uint_eq(q->lease->count, pid);
        endgame__request__free_unpacked(q, NULL);

        w.len = 0;
        eg_pb_put_packed_u32(&w, 1, slabs, n);
        q = request_of(ENDGAME__REQUEST__BODY_GIVE_BACK, &w);
        ck_assert_uint_eq(q->give_back->n_slabs, n);
        if (n)
            ck_assert_mem_eq(q->give_back->slabs, slabs, n * sizeof *slabs);
        endgame__request__free_unpacked(q, NULL);
        q = request_of(ENDGAME__REQUEST__BODY_BREAK_SHARED, &w);
        ck_assert_uint_eq(q->break_shared->n_slabs, n);
        if (n)
            ck_assert_mem_eq(q->break_shared->slabs, slabs, n * sizeof *slabs);
        endgame__request__free_unpacked(q, NULL);

        w.len = 0;
        q = request_of(ENDGAME__REQUEST__BODY_SNAPSHOT, &w);
        endgame__request__free_unpacked(q, NULL);
        eg_pb_put_fixed64(&w, 1, a);
        q = request_of(ENDGAME__REQUEST__BODY_DROP_SNAPSHOT, &w);
        ck_assert_uint_eq(q->drop_snapshot->snapshot, a);
        endgame__request__free_unpacked(q, NULL);
    }
}
END_TEST

/* Where protobuf-c writes a message of non-zero fields in their order, ours are the same bytes. */
START_TEST(bytes_are_those_of_protobuf_c)
{
    struct random_state r = {7};
    for (int turn = 0; turn < 1000; turn++) {
        uint8_t ours[4096], theirs[4096], token[EG_TOKEN_BYTES];
        uint32_t slabs[64], n = 1 + random_below(&r, 64);
        for (uint32_t i = 0; i < n; i++)
            slabs[i] = (uint32_t)number(&r);
        Endgame__Return give_back = ENDGAME__RETURN__INIT;
        give_back.n_slabs = n;
        give_back.slabs = slabs;
        struct eg_pb_writer w = {.buf = ours, .cap = sizeof ours};
        eg_pb_put_packed_u32(&w, 1, slabs, n);
        ck_assert_uint_eq(endgame__return__pack(&give_back, theirs), w.len);
        ck_assert_mem_eq(ours, theirs, w.len);

        Endgame__Open open = ENDGAME__OPEN__INIT;
        char program[] = "a program";
        random_fill(&r, token, sizeof token);
        open.token = (ProtobufCBinaryData){sizeof token, token};
        open.program = program;
        open.pid = 1 + (uint32_t)number(&r) / 2;
        open.snapshot = number(&r) | 1;
        w.len = 0;
        eg_pb_put_bytes(&w, 1, token, sizeof token);
        eg_pb_put_bytes(&w, 2, program, strlen(program));
        eg_pb_put_varint(&w, 3, open.pid);
        eg_pb_put_fixed64(&w, 4, open.snapshot);
        ck_assert_uint_eq(endgame__open__pack(&open, theirs), w.len);
        ck_assert_mem_eq(ours, theirs, w.len);
    }
}
END_TEST

/* --- what a server sends, read by the runtime ---------------------------------------------------------------------------- */

static struct eg_pb_reader body_of(Endgame__Reply *reply, uint8_t *buf, uint32_t field)
{
    static char message[] = "what a person reads";
    struct eg_pb_reader r = {buf, buf}, body = {NULL, NULL};
    struct eg_pb_field f;
    int rc, seen = 0;
    reply->status = EG_STATUS_QUOTA;
    reply->message = message;
    r.end = buf + endgame__reply__pack(reply, buf);
    while ((rc = eg_pb_next(&r, &f)) > 0) {
        if (f.number == 1) {
            ck_assert_uint_eq(f.wire_type, 0);
            ck_assert_uint_eq(f.value, EG_STATUS_QUOTA);
        } else if (f.number == 2) {
            ck_assert_uint_eq(f.wire_type, 2);
            ck_assert_uint_eq(f.len, strlen(message));
            ck_assert_mem_eq(f.data, message, f.len);
        } else {
            ck_assert_uint_eq(f.number, field);
            ck_assert_uint_eq(f.wire_type, 2);
            body = (struct eg_pb_reader){f.data, f.data + f.len};
        }
        seen |= 1 << f.number;
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_int_eq(seen, 1 << 1 | 1 << 2 | 1 << field);
    ck_assert_ptr_eq(r.at, r.end);
    return body;
}

/* Reads a body of up to 8 scalar fields. Fields that are zero are not sent: they stay as they are in v[]. */
static void scalars(struct eg_pb_reader r, uint64_t v[9], uint32_t wire_types)
{
    struct eg_pb_field f;
    int rc;
    memset(v, 0, 9 * sizeof *v);
    while ((rc = eg_pb_next(&r, &f)) > 0) {
        ck_assert_uint_le(f.number, 8);
        ck_assert_uint_eq(f.wire_type, wire_types >> 4 * (f.number - 1) & 15);
        v[f.number] = f.value;
    }
    ck_assert_int_eq(rc, 0);
}

START_TEST(replies_of_protobuf_c_are_read)
{
    struct random_state r = {99};
    for (int turn = 0; turn < 500; turn++) {
        static uint8_t buf[8192];
        uint64_t v[9];
        struct eg_pb_field f;
        Endgame__Reply reply = ENDGAME__REPLY__INIT;

        Endgame__OpenReply open = ENDGAME__OPEN_REPLY__INIT;
        open.agent = number(&r);
        open.secret = number(&r);
        open.arena_bytes = number(&r);
        open.slab_bytes = number(&r);
        open.memory_follows = (int)random_below(&r, 2);
        reply.body_case = ENDGAME__REPLY__BODY_OPEN;
        reply.open = &open;
        scalars(body_of(&reply, buf, 3), v, 0x00011);
        ck_assert_uint_eq(v[1], open.agent);
        ck_assert_uint_eq(v[2], open.secret);
        ck_assert_uint_eq(v[3], open.arena_bytes);
        ck_assert_uint_eq(v[4], open.slab_bytes);
        ck_assert_uint_eq(v[5], (uint64_t)open.memory_follows);

        Endgame__SnapshotReply snapshot = ENDGAME__SNAPSHOT_REPLY__INIT;
        snapshot.snapshot = number(&r);
        reply.body_case = ENDGAME__REPLY__BODY_SNAPSHOT;
        reply.snapshot = &snapshot;
        scalars(body_of(&reply, buf, 5), v, 0x1);
        ck_assert_uint_eq(v[1], snapshot.snapshot);

        uint32_t slabs[100], got[100], n = random_below(&r, 101);
        size_t n_got = 0;
        for (uint32_t i = 0; i < n; i++)
            slabs[i] = (uint32_t)number(&r);
        Endgame__LeaseReply lease = ENDGAME__LEASE_REPLY__INIT;
        lease.n_slabs = n;
        lease.slabs = slabs;
        reply.body_case = ENDGAME__REPLY__BODY_LEASE;
        reply.lease = &lease;
        struct eg_pb_reader body = body_of(&reply, buf, 4);
        while (eg_pb_next(&body, &f) > 0)
            ck_assert_int_eq(eg_pb_u32s(&f, got, 100, &n_got), 0);
        ck_assert_uint_eq(n_got, n);
        if (n)
            ck_assert_mem_eq(got, slabs, n * sizeof *slabs);
    }
}
END_TEST

START_TEST(unpacked_repeated_field_is_read_too)
{
    uint8_t buf[64];
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    uint32_t packed[] = {300, 0xffffffff}, got[4];
    size_t n = 0;
    struct eg_pb_field f;
    eg_pb_put_varint(&w, 1, 5);
    eg_pb_put_packed_u32(&w, 1, packed, 2);
    eg_pb_put_varint(&w, 1, 7);
    struct eg_pb_reader r = {buf, buf + w.len};
    while (eg_pb_next(&r, &f) > 0)
        ck_assert_int_eq(eg_pb_u32s(&f, got, 4, &n), 0);
    ck_assert_uint_eq(n, 4);
    ck_assert(got[0] == 5 && got[1] == 300 && got[2] == 0xffffffff && got[3] == 7);
}
END_TEST

START_TEST(more_values_than_room_are_refused)
{
    uint8_t buf[64];
    struct eg_pb_writer w = {.buf = buf, .cap = sizeof buf};
    uint32_t packed[] = {1, 2, 3}, got[3] = {0, 0, 99};
    size_t n = 0;
    struct eg_pb_field f;
    eg_pb_put_packed_u32(&w, 1, packed, 3);
    struct eg_pb_reader r = {buf, buf + w.len};
    ck_assert_int_eq(eg_pb_next(&r, &f), 1);
    ck_assert_int_eq(eg_pb_u32s(&f, got, 2, &n), -E2BIG);
    ck_assert_uint_eq(got[2], 99);
    n = 2;
    ck_assert_int_eq(eg_pb_u32s(&(struct eg_pb_field){.number = 1, .wire_type = 0, .value = 1}, got, 2, &n), -E2BIG);
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(got[2], 99);
    n = 0;
    ck_assert_int_eq(eg_pb_u32s(&f, got, 3, &n), 0);
    ck_assert_uint_eq(n, 3);
}
END_TEST

/* --- input that is wrong ---------------------------------------------------------------------------------------------------- */

static const struct {
    const char *what;
    uint8_t bytes[16];
    uint8_t len;
    int expected; /* of the first eg_pb_next */
} inputs[] = {
    {"nothing", {0}, 0, 0},
    {"a varint", {0x08, 0x96, 0x01}, 3, 1},
    {"largest varint", {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 11, 1},
    {"varint with empty tail bytes", {0x08, 0x80, 0x80, 0x80, 0x00}, 5, 1},
    {"empty bytes", {0x12, 0x00}, 2, 1},
    {"largest field number", {0xf8, 0xff, 0xff, 0xff, 0x0f, 0x01}, 6, 1},
    {"field number zero", {0x00, 0x01}, 2, -EPROTO},
    {"field number zero, bytes", {0x02, 0x00}, 2, -EPROTO},
    {"field number beyond 2^29", {0x80, 0x80, 0x80, 0x80, 0x10, 0x01}, 6, -EPROTO},
    {"field number that wraps to 1", {0x88, 0x80, 0x80, 0x80, 0x80, 0x01, 0x01}, 7, -EPROTO},
    {"tag cut off", {0x88}, 1, -EPROTO},
    {"tag of eleven bytes", {0x88, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00, 0x01}, 12, -EPROTO},
    {"no value", {0x08}, 1, -EPROTO},
    {"value cut off", {0x08, 0x96}, 2, -EPROTO},
    {"varint of eleven bytes", {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 12, -EPROTO},
    {"fixed64 of seven bytes", {0x09, 1, 2, 3, 4, 5, 6, 7}, 8, -EPROTO},
    {"fixed64", {0x09, 1, 2, 3, 4, 5, 6, 7, 8}, 9, 1},
    {"fixed32 of three bytes", {0x0d, 1, 2, 3}, 4, -EPROTO},
    {"fixed32", {0x0d, 1, 2, 3, 4}, 5, 1},
    {"bytes without a length", {0x12}, 1, -EPROTO},
    {"bytes cut off", {0x12, 0x03, 'a', 'b'}, 4, -EPROTO},
    {"length that wraps around", {0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 'a'}, 12, -EPROTO},
    {"length over 32 bits", {0x12, 0x80, 0x80, 0x80, 0x80, 0x10, 'a', 'b'}, 8, -EPROTO},
    {"group start", {0x0b, 0x08, 0x01, 0x0c}, 4, -EPROTO},
    {"group end", {0x0c}, 1, -EPROTO},
    {"wire type 6", {0x0e, 0x00}, 2, -EPROTO},
    {"wire type 7", {0x0f, 0x00}, 2, -EPROTO},
};

START_TEST(malformed_input_is_refused)
{
    /* In memory of its own size, so that ASan sees a read beyond it. */
    size_t len = inputs[_i].len;
    uint8_t *exact = malloc(len ? len : 1);
    ck_assert_ptr_nonnull(exact);
    memcpy(exact, inputs[_i].bytes, len);
    struct eg_pb_field f = {.number = 4711};
    struct eg_pb_reader r = {exact, exact + len};
    int rc = eg_pb_next(&r, &f);
    ck_assert_msg(rc == inputs[_i].expected, "%s: %d", inputs[_i].what, rc);
    if (rc == 1) {
        ck_assert_ptr_eq(r.at, r.end);
        ck_assert_int_eq(eg_pb_next(&r, &f), 0);
    } else {
        ck_assert_uint_eq(f.number, 4711); /* ret_ is untouched on failure */
    }
    free(exact);
}
END_TEST

START_TEST(values_are_little_endian_and_whole)
{
    static const uint8_t bytes[] = {0x09, 1, 2, 3, 4, 5, 6, 7, 0x88, 0x15, 1, 2, 3, 0x84, 0x1a, 2, 'o', 'k', 0x20,
                                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    struct eg_pb_reader r = {bytes, bytes + sizeof bytes};
    struct eg_pb_field f;
    ck_assert_int_eq(eg_pb_next(&r, &f), 1);
    ck_assert(f.number == 1 && f.wire_type == 1 && f.value == 0x8807060504030201ull);
    ck_assert_int_eq(eg_pb_next(&r, &f), 1);
    ck_assert(f.number == 2 && f.wire_type == 5 && f.value == 0x84030201ull);
    ck_assert_int_eq(eg_pb_next(&r, &f), 1);
    ck_assert(f.number == 3 && f.wire_type == 2 && f.len == 2 && memcmp(f.data, "ok", 2) == 0);
    ck_assert_int_eq(eg_pb_next(&r, &f), 1);
    ck_assert(f.number == 4 && f.wire_type == 0 && f.value == UINT64_MAX);
    ck_assert_int_eq(eg_pb_next(&r, &f), 0);
}
END_TEST

START_TEST(repeated_field_of_a_wrong_kind_is_refused)
{
    static const uint8_t cut[] = {0x01, 0x96}, longer[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    uint32_t got[8];
    size_t n = 0;
    ck_assert_int_eq(eg_pb_u32s(&(struct eg_pb_field){.number = 1, .wire_type = 1, .value = 1}, got, 8, &n), -EPROTO);
    ck_assert_int_eq(eg_pb_u32s(&(struct eg_pb_field){.number = 1, .wire_type = 5, .value = 1}, got, 8, &n), -EPROTO);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(eg_pb_u32s(&(struct eg_pb_field){.number = 1, .wire_type = 2, .data = cut, .len = 2}, got, 8, &n), -EPROTO);
    n = 0;
    ck_assert_int_eq(eg_pb_u32s(&(struct eg_pb_field){.number = 1, .wire_type = 2, .data = longer, .len = sizeof longer}, got, 8, &n),
                     -EPROTO);
}
END_TEST

static void put_all(struct eg_pb_writer *w)
{
    uint32_t slabs[] = {1, 300, 70000, 0xffffffff};
    eg_pb_put_varint(w, 1, 1ull << 40);
    eg_pb_put_fixed64(w, 2, 5);
    eg_pb_put_bytes(w, 300, "some bytes", 10);
    eg_pb_put_packed_u32(w, 4, slabs, 4);
}

/* Each prefix of a good message: what is cut in the middle of a field is refused, at a field's end it is a shorter message. */
START_TEST(truncated_message_is_never_read_beyond)
{
    uint8_t whole[256];
    uint32_t slabs[] = {1, 300, 70000, 0xffffffff};
    size_t ends[6], n_ends = 0;
    struct eg_pb_writer w = {.buf = whole, .cap = sizeof whole};
    ends[n_ends++] = w.len;
    eg_pb_put_varint(&w, 1, 1ull << 40);
    ends[n_ends++] = w.len;
    eg_pb_put_fixed64(&w, 2, 5);
    ends[n_ends++] = w.len;
    eg_pb_put_bytes(&w, 300, "some bytes", 10);
    ends[n_ends++] = w.len;
    eg_pb_put_packed_u32(&w, 4, slabs, 4);
    ends[n_ends++] = w.len;
    for (size_t len = 0; len <= w.len; len++) {
        uint8_t *exact = malloc(len ? len : 1);
        ck_assert_ptr_nonnull(exact);
        memcpy(exact, whole, len);
        struct eg_pb_reader r = {exact, exact + len};
        struct eg_pb_field f;
        int rc, at_end = 0;
        while ((rc = eg_pb_next(&r, &f)) > 0)
            ck_assert(r.at <= r.end);
        for (size_t k = 0; k < n_ends; k++)
            at_end |= ends[k] == len;
        ck_assert_int_eq(rc, at_end ? 0 : -EPROTO);
        free(exact);
    }
}
END_TEST

/* A buffer that is too small by any number of bytes: overflow is said, and nothing is written beyond. */
START_TEST(writer_stops_at_its_capacity)
{
    uint8_t whole[256];
    struct eg_pb_writer all = {.buf = whole, .cap = sizeof whole};
    put_all(&all);
    ck_assert_int_eq(all.overflow, 0);
    for (size_t cap = 0; cap <= all.len; cap++) {
        uint8_t *exact = malloc(cap ? cap : 1);
        ck_assert_ptr_nonnull(exact);
        struct eg_pb_writer small = {.buf = exact, .cap = cap};
        put_all(&small);
        ck_assert_int_eq(small.overflow, cap < all.len);
        ck_assert_uint_eq(small.len, cap);
        if (cap)
            ck_assert_mem_eq(exact, whole, cap);
        free(exact);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("proto_pb");
    TCase *tc = unit_case(suite, "pb", 120);
    tcase_add_test(tc, requests_are_read_by_protobuf_c);
    tcase_add_test(tc, bytes_are_those_of_protobuf_c);
    tcase_add_test(tc, replies_of_protobuf_c_are_read);
    tcase_add_test(tc, unpacked_repeated_field_is_read_too);
    tcase_add_test(tc, more_values_than_room_are_refused);
    tcase_add_loop_test(tc, malformed_input_is_refused, 0, sizeof inputs / sizeof *inputs);
    tcase_add_test(tc, values_are_little_endian_and_whole);
    tcase_add_test(tc, repeated_field_of_a_wrong_kind_is_refused);
    tcase_add_test(tc, truncated_message_is_never_read_beyond);
    tcase_add_test(tc, writer_stops_at_its_capacity);
    return unit_run(suite);
}
