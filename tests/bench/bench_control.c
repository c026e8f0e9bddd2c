#include "tests/bench/bench_control.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "proto/eg_wire.h"

static void refused(const char *why)
{
    fprintf(stderr, "%s: refused: %s\n", program_invocation_short_name, why);
    exit(1);
}

Endgame__Reply *bench_ask(const struct bench_stream *stream, Endgame__Request *request)
{
    static uint8_t bytes[EG_CONTROL_MAX_BYTES];
    struct eg_frame frame = { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL };
    request->version = EG_WIRE_VERSION;
    frame.len_bytes = (uint32_t)endgame__request__pack(request, bytes);
    stream->send(stream->fd, &frame, sizeof frame);
    stream->send(stream->fd, bytes, frame.len_bytes);
    stream->recv(stream->fd, &frame, sizeof frame);
    stream->recv(stream->fd, bytes, frame.len_bytes);
    Endgame__Reply *reply = endgame__reply__unpack(NULL, frame.len_bytes, bytes);
    if (!reply || reply->status) refused(reply ? reply->message : "?");
    return reply;
}

Endgame__Reply *bench_open(const struct bench_stream *stream, const uint8_t *token)
{
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Open open = ENDGAME__OPEN__INIT;
    open.token = (ProtobufCBinaryData){ EG_TOKEN_BYTES, (uint8_t *)(uintptr_t)token };
    open.program = program_invocation_short_name;
    request.body_case = ENDGAME__REQUEST__BODY_OPEN;
    request.open = &open;
    return bench_ask(stream, &request);
}

void bench_lease(const struct bench_stream *stream, uint32_t n, uint32_t *ret_slabs, uint32_t *ret_keys)
{
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Lease lease = ENDGAME__LEASE__INIT;
    request.body_case = ENDGAME__REQUEST__BODY_LEASE;
    request.lease = &lease;
    for (uint32_t have = 0; have < n;) {
        lease.count = n - have;
        Endgame__Reply *reply = bench_ask(stream, &request);
        size_t got = reply->lease->n_slabs;
        if (!got || got > lease.count || (ret_keys && reply->lease->n_keys != got)) refused("a lease of another size");
        memcpy(ret_slabs + have, reply->lease->slabs, got * sizeof *ret_slabs);
        if (ret_keys) memcpy(ret_keys + have, reply->lease->keys, got * sizeof *ret_keys);
        have += (uint32_t)got;
        endgame__reply__free_unpacked(reply, NULL);
    }
}

uint64_t bench_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

void bench_sort(uint64_t *ns, size_t n)
{
    qsort(ns, n, sizeof *ns, by_value);
}
