#include "tests/fuzz/memserver_fuzz.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct egm_server fuzz_server;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    if (egm_server_init(&fuzz_server, FUZZ_SLABS * (uint64_t)EG_SLAB_BYTES, 0, 0)) abort();
    return 0;
}

uint8_t fuzz_u8(struct fuzz_input *in) { return in->at < in->end ? *in->at++ : 0; }

uint64_t fuzz_u64(struct fuzz_input *in)
{
    uint64_t v = 0;
    size_t n = (size_t)(in->end - in->at) < sizeof v ? (size_t)(in->end - in->at) : sizeof v;
    memcpy(&v, in->at, n);
    in->at += n;
    return v;
}

size_t fuzz_bytes(struct fuzz_input *in, size_t most, const uint8_t **ret_bytes)
{
    size_t n = (size_t)(in->end - in->at) < most ? (size_t)(in->end - in->at) : most;
    *ret_bytes = in->at;
    in->at += n;
    return n;
}

void fuzz_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds)) abort();
}

void fuzz_send(int fd, const void *bytes, size_t n) { (void)!send(fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT); }

void fuzz_read_replies(int fd, struct fuzz_reader *reader)
{
    static uint8_t bytes[65536];
    ssize_t n;
    while ((n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
        for (size_t at = 0; at < (size_t)n;) {
            size_t left = (size_t)n - at;
            if (reader->payload_left) {
                size_t take = left < reader->payload_left ? left : reader->payload_left;
                reader->payload_left -= take;
                at += take;
                continue;
            }
            size_t take = sizeof reader->head - reader->head_bytes;
            if (take > left) take = left;
            memcpy(reader->head + reader->head_bytes, bytes + at, take);
            reader->head_bytes += take;
            at += take;
            if (reader->head_bytes < sizeof reader->head) continue;
            struct eg_frame frame;
            memcpy(&frame, reader->head, sizeof frame);
            if (frame.magic != EG_WIRE_MAGIC || frame.flags || frame.status > EG_STATUS_INTERNAL ||
                frame.len_bytes > EG_DATA_MAX_BYTES)
                abort();
            reader->head_bytes = 0;
            reader->payload_left = frame.len_bytes;
        }
    }
}

void fuzz_turn(void)
{
    for (int i = 0; i < 64; i++) event_base_loop(fuzz_server.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

void fuzz_check(void)
{
    const char *wrong = egm_store_check(&fuzz_server.store);
    if (!wrong) return;
    fprintf(stderr, "the store does not add up: %s\n", wrong);
    abort();
}
