/* bench_control.h - what benchmarks of a memory server share: the control plane over any stream, time and its order. */
#ifndef BENCH_CONTROL_H
#define BENCH_CONTROL_H

#include <stddef.h>
#include <stdint.h>
#include "proto/control.pb-c.h"

struct bench_stream {
    /* All of it, or the program's end. */
    void (*send)(int fd, const void *bytes, size_t n);
    void (*recv)(int fd, void *bytes, size_t n);
    int fd;
};

/* bench_ask - Returns: the reply, for endgame__reply__free_unpacked; ends the program if it is a refusal. */
Endgame__Reply *bench_ask(const struct bench_stream *stream, Endgame__Request *request);

/* bench_open - a session. Returns: as bench_ask. */
Endgame__Reply *bench_open(const struct bench_stream *stream, const uint8_t *token);

/* bench_lease - n slabs of it; ret_keys, over rdma, their keys (NULL: not wanted). */
void bench_lease(const struct bench_stream *stream, uint32_t n, uint32_t *ret_slabs, uint32_t *ret_keys);

uint64_t bench_now_ns(void);
/* bench_sort - smallest first. */
void bench_sort(uint64_t *ns, size_t n);

#endif
