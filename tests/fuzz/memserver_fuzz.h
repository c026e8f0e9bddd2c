/* memserver_fuzz.h - a server inside the fuzzer's process, without listeners and threads, and the bytes that steer a case. */
#ifndef MEMSERVER_FUZZ_H
#define MEMSERVER_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include "memserver/control.h"
#include "memserver/server.h"

#define FUZZ_SLABS 6

extern struct egm_server fuzz_server;

/* Takes the input apart. */
struct fuzz_input {
    const uint8_t *at, *end;
};
uint8_t fuzz_u8(struct fuzz_input *in);
uint64_t fuzz_u64(struct fuzz_input *in);
size_t fuzz_bytes(struct fuzz_input *in, size_t most, const uint8_t **ret_bytes);

/* Both ends of a connection, non-blocking. */
void fuzz_pair(int fds[2]);
/* Sends, as far as there is room. */
void fuzz_send(int fd, const void *bytes, size_t n);
/* Reads all that waits and checks that it is a row of whole or started frames of the protocol. */
struct fuzz_reader {
    uint8_t head[sizeof(struct eg_frame)];
    size_t head_bytes, payload_left;
};
void fuzz_read_replies(int fd, struct fuzz_reader *reader);
/* Runs the loop until nothing is left to do. */
void fuzz_turn(void);
/* Recounts the store; a mistake ends the fuzzer. */
void fuzz_check(void);

#endif
