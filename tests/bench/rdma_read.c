/* rdma_read ADDR LIBRARY - one-sided reads of a memory server by the runtime's own transport (libendgame-verbs.so): latency of one
 * read at a time and rate with many under way. Prints one line each, in the units of perftest:
 *   latency BYTES READS MIN TYPICAL P99        (microseconds; typical is the median)
 *   rate BYTES READS MIB_PER_S                 (sixteen under way) */
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "client/verbs/eg_verbs_lib.h"
#include "proto/control.pb-c.h"
#include "proto/eg_addr.h"

#define SLABS 8u
#define DEPTH 16u
#define READS_MAX 20000u

static const struct eg_verbs_lib *lib;
static struct eg_verbs_open link_of;
static uint32_t slabs[SLABS], keys[SLABS];

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static long must(long rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "rdma_read: %s: %s\n", what, strerror((int)-rc));
        exit(1);
    }
    return rc;
}

static void stream(long (*move)(struct eg_verbs_link *, void *, size_t), void *bytes, size_t n)
{
    for (size_t at = 0; at < n;)
        at += (size_t)must(move(link_of.link, (uint8_t *)bytes + at, n - at), "control");
}

static long send_bytes(struct eg_verbs_link *link, void *bytes, size_t n)
{
    return lib->send(link, bytes, n);
}

static Endgame__Reply *ask(Endgame__Request *request)
{
    static uint8_t bytes[EG_CONTROL_MAX_BYTES];
    struct eg_frame frame = {.magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL};
    request->version = EG_WIRE_VERSION;
    frame.len_bytes = (uint32_t)endgame__request__pack(request, bytes);
    stream(send_bytes, &frame, sizeof frame);
    stream(send_bytes, bytes, frame.len_bytes);
    stream(lib->recv, &frame, sizeof frame);
    stream(lib->recv, bytes, frame.len_bytes);
    Endgame__Reply *reply = endgame__reply__unpack(NULL, frame.len_bytes, bytes);
    if (!reply || reply->status) {
        fprintf(stderr, "rdma_read: refused: %s\n", reply ? reply->message : "?");
        exit(1);
    }
    return reply;
}

static void lease(const uint8_t *token)
{
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Open open = ENDGAME__OPEN__INIT;
    open.token = (ProtobufCBinaryData){EG_TOKEN_BYTES, (uint8_t *)(uintptr_t)token};
    open.program = (char *)(uintptr_t) "rdma_read";
    request.body_case = ENDGAME__REQUEST__BODY_OPEN;
    request.open = &open;
    ask(&request);
    Endgame__Lease ask_lease = ENDGAME__LEASE__INIT;
    ask_lease.count = SLABS;
    request.body_case = ENDGAME__REQUEST__BODY_LEASE;
    request.lease = &ask_lease;
    Endgame__Reply *reply = ask(&request);
    if (reply->lease->n_slabs != SLABS || reply->lease->n_keys != SLABS)
        must(-ENOSPC, "lease");
    memcpy(slabs, reply->lease->slabs, sizeof slabs);
    memcpy(keys, reply->lease->keys, sizeof keys);
}

static struct eg_io read_at(uint32_t i, uint8_t *area, uint32_t bytes)
{
    uint32_t in_slab = EG_SLAB_BYTES / bytes, k = i % (SLABS * in_slab);
    return (struct eg_io){
        .op = EG_IO_READ,
        .offset = (uint64_t)slabs[k / in_slab] * EG_SLAB_BYTES + (uint64_t)(k % in_slab) * bytes,
        .buf = area + (size_t)(i % DEPTH) * bytes,
        .len_bytes = bytes,
        .key = keys[k / in_slab],
    };
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void latency(uint8_t *area, uint32_t bytes, uint32_t n)
{
    static uint64_t took[READS_MAX];
    for (uint32_t i = 0; i < n; i++) {
        struct eg_io io = read_at(i, area, bytes);
        struct eg_io_queue done = {NULL, NULL};
        uint64_t start = now_ns();
        must(lib->submit(link_of.link, &io), "submit");
        while (!must(lib->poll(link_of.link, &done), "poll"))
            ;
        took[i] = now_ns() - start;
    }
    qsort(took, n, sizeof *took, by_value);
    printf("latency %u %u %.2f %.2f %.2f\n", bytes, n, (double)took[0] / 1e3, (double)took[n / 2] / 1e3, (double)took[n / 100 * 99] / 1e3);
}

static void rate(uint8_t *area, uint32_t bytes, uint32_t n)
{
    struct eg_io io[DEPTH];
    uint32_t submitted = 0, completed = 0;
    uint64_t start = now_ns();
    while (completed < n) {
        while (submitted < n && submitted - completed < DEPTH) {
            io[submitted % DEPTH] = read_at(submitted, area, bytes);
            must(lib->submit(link_of.link, &io[submitted % DEPTH]), "submit");
            submitted++;
        }
        struct eg_io_queue done = {NULL, NULL};
        completed += (uint32_t)must(lib->poll(link_of.link, &done), "poll");
    }
    double seconds = (double)(now_ns() - start) / 1e9;
    printf("rate %u %u %.2f\n", bytes, n, (double)bytes * n / seconds / 1048576);
}

int main(int argc, char **argv)
{
    static const struct eg_verbs_host host;
    struct eg_addr addr;
    char why[256] = "?";
    uint8_t *area = NULL;
    size_t area_bytes = DEPTH * (64u << 10);
    if (argc < 3 || eg_addr_parse(argv[1], 0, &addr, why, sizeof why)) {
        fprintf(stderr, "usage: rdma_read rdma:HOST:PORT .../libendgame-verbs.so [READS] (%s)\n", why);
        return 2;
    }
    uint32_t n = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 1000;
    n = n > READS_MAX ? READS_MAX : n < 100 ? 100 : n;
    void *object = dlopen(argv[2], RTLD_NOW);
    eg_verbs_lib_fn *start = NULL;
    if (object)
        *(void **)&start = dlsym(object, "eg_verbs_lib");
    if (!start || !(lib = start(&host, 0)) || posix_memalign((void **)&area, 4096, area_bytes)) {
        fprintf(stderr, "rdma_read: cannot load %s: %s\n", argv[2], dlerror());
        return 1;
    }
    link_of = (struct eg_verbs_open){.sockaddr = &addr.sa, .timeout_ms = 10000, .area = {{area, area_bytes}}};
    must(getrandom(link_of.token, sizeof link_of.token, 0), "token");
    must(lib->open(&link_of), "connect");
    lease(link_of.token);
    latency(area, EG_PAGE_BYTES, n / 10); /* warm */
    latency(area, EG_PAGE_BYTES, n);
    rate(area, EG_PAGE_BYTES, n);
    rate(area, 64u << 10, n / 10);
    must(lib->close(link_of.link), "close");
    return 0;
}
