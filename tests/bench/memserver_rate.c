/* memserver_rate ADDR - how fast a memory server answers 4 KiB reads and writes over tcp, with 1 and 16 in flight and a client that
 * spins; and the latency of one read at a time, also after pauses long enough for the server to have gone to sleep. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "proto/eg_addr.h"
#include "proto/eg_wire.h"
#include "tests/bench/bench_control.h"

#define SLABS 32u
#define SECONDS 1

static void die(const char *what)
{
    fprintf(stderr, "memserver_rate: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int connect_to(const struct eg_addr *addr)
{
    int one = 1, fd = socket(addr->sa.ss_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&addr->sa, addr->len_bytes)) die(addr->text);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void send_all(int fd, const void *bytes, size_t n)
{
    for (const char *at = bytes; n;) {
        ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);
        if (sent < 0) die("send");
        at += sent;
        n -= (size_t)sent;
    }
}

/* Spins: never sleeps in the kernel. */
static void recv_all(int fd, void *bytes, size_t n)
{
    for (char *at = bytes; n;) {
        ssize_t got = recv(fd, at, n, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) continue;
        if (got <= 0) die("recv");
        at += got;
        n -= (size_t)got;
    }
}

static uint32_t slabs[SLABS];
static uint64_t seed = 1;

static uint64_t random_page(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint64_t)slabs[(seed >> 40) % SLABS] * EG_SLAB_BYTES + ((seed >> 20) % EG_SLAB_PAGES) * EG_PAGE_BYTES;
}

static void run(int fd, const char *name, uint8_t type, uint32_t len, unsigned in_flight, unsigned batch)
{
    static uint8_t buffer[64 * (sizeof(struct eg_frame) + EG_DATA_MAX_BYTES)];
    uint64_t start = bench_now_ns(), end, sent = 0, got = 0;
    uint32_t out_payload = type == EG_FRAME_WRITE ? len : 0, in_payload = type == EG_FRAME_READ ? len : 0;

    do {
        size_t n = 0;
        while (sent - got < in_flight && n < batch * (sizeof(struct eg_frame) + out_payload)) {
            struct eg_frame frame = { .magic = EG_WIRE_MAGIC,
                                      .type = type,
                                      .len_bytes = out_payload,
                                      .arg = len,
                                      .offset = random_page(),
                                      .cookie = sent++ };
            if (len > EG_PAGE_BYTES) frame.offset &= ~(uint64_t)(EG_SLAB_BYTES - 1);
            memcpy(buffer + n, &frame, sizeof frame);
            n += sizeof frame + out_payload;
        }
        send_all(fd, buffer, n);
        for (unsigned i = 0; i < batch && got < sent; i++, got++) {
            recv_all(fd, buffer, sizeof(struct eg_frame) + in_payload);
            if (((struct eg_frame *)(void *)buffer)->status) exit(1);
        }
        end = bench_now_ns();
    } while (end - start < SECONDS * 1000000000ull);
    while (got < sent) {
        recv_all(fd, buffer, sizeof(struct eg_frame) + in_payload);
        got++;
    }
    end = bench_now_ns();
    double s = (double)(end - start) / 1e9;
    printf("%-8s %7u bytes %4u in flight  %9.0f /s  %7.2f us each  %8.0f MB/s\n", name, len, in_flight, (double)got / s,
           1e6 * s / (double)got, (double)got * len / s / 1e6);
}

static void latency(int fd, const char *name, unsigned pause_us, unsigned n)
{
    static uint64_t ns[20000];
    uint8_t reply[sizeof(struct eg_frame) + EG_PAGE_BYTES];
    for (unsigned i = 0; i < n; i++) {
        struct eg_frame frame = {
            .magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ, .arg = EG_PAGE_BYTES, .offset = random_page()
        };
        if (pause_us) usleep(pause_us);
        uint64_t start = bench_now_ns();
        send_all(fd, &frame, sizeof frame);
        recv_all(fd, reply, sizeof reply);
        ns[i] = bench_now_ns() - start;
    }
    bench_sort(ns, n);
    printf("latency of a 4 KiB read, %-22s p50 %6.1f us  p90 %6.1f us  p99 %6.1f us\n", name, (double)ns[n / 2] / 1e3,
           (double)ns[n * 9 / 10] / 1e3, (double)ns[n * 99 / 100] / 1e3);
}

int main(int argc, char **argv)
{
    struct eg_addr addr;
    char why[256];
    uint8_t token[EG_TOKEN_BYTES];
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Attach attach = ENDGAME__ATTACH__INIT;

    if (argc != 2) {
        fputs("usage: memserver_rate tcp:HOST:PORT\n", stderr);
        return 2;
    }
    if (eg_addr_parse(argv[1], 0, &addr, why, sizeof why)) {
        fprintf(stderr, "memserver_rate: %s\n", why);
        return 2;
    }
    for (size_t i = 0; i < sizeof token; i++) token[i] = (uint8_t)(bench_now_ns() >> (i % 8));
    struct bench_stream control = { send_all, recv_all, connect_to(&addr) }, data = { send_all, recv_all, connect_to(&addr) };
    int fd = data.fd;
    Endgame__Reply *reply = bench_open(&control, token);
    attach.agent = reply->open->agent;
    attach.secret = reply->open->secret;
    endgame__reply__free_unpacked(reply, NULL);
    request.body_case = ENDGAME__REQUEST__BODY_ATTACH;
    request.attach = &attach;
    endgame__reply__free_unpacked(bench_ask(&data, &request), NULL);
    bench_lease(&control, SLABS, slabs, NULL);
    latency(fd, "one after the other", 0, 20000);
    latency(fd, "20 us apart", 20, 5000);
    latency(fd, "1 ms apart", 1000, 1000);
    run(fd, "read", EG_FRAME_READ, EG_PAGE_BYTES, 1, 1);
    run(fd, "read", EG_FRAME_READ, EG_PAGE_BYTES, 16, 1);
    run(fd, "read", EG_FRAME_READ, EG_PAGE_BYTES, 16, 16);
    run(fd, "write", EG_FRAME_WRITE, EG_PAGE_BYTES, 1, 1);
    run(fd, "write", EG_FRAME_WRITE, EG_PAGE_BYTES, 16, 8);
    run(fd, "write", EG_FRAME_WRITE, EG_PAGE_BYTES, 16, 16);
    run(fd, "read", EG_FRAME_READ, EG_DATA_MAX_BYTES, 4, 1);
    run(fd, "write", EG_FRAME_WRITE, EG_DATA_MAX_BYTES, 4, 1);
    return 0;
}
