/* rdma_read ADDR LIBRARY - one-sided reads of a memory server by the runtime's own transport (libendgame-verbs.so): latency of one
 * read at a time and rate with many under way. Prints one line each, in the units of perftest:
 *   latency BYTES READS MIN TYPICAL P99        (microseconds; typical is the median)
 *   rate BYTES READS MIB_PER_S                 (sixteen under way) */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "client/verbs/eg_verbs_lib.h"
#include "proto/eg_addr.h"
#include "tests/bench/bench_control.h"

#define SLABS 8u
#define DEPTH 16u
#define READS_MAX 20000u

static const struct eg_verbs_lib *lib;
static struct eg_verbs_open link_of;
static uint32_t slabs[SLABS], keys[SLABS];

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

static long send_some(struct eg_verbs_link *link, void *bytes, size_t n)
{
    return lib->send(link, bytes, n);
}

static void send_all(int fd, const void *bytes, size_t n)
{
    (void)fd;
    stream(send_some, (void *)(uintptr_t)bytes, n);
}

static void recv_all(int fd, void *bytes, size_t n)
{
    (void)fd;
    stream(lib->recv, bytes, n);
}

static const struct bench_stream control = {send_all, recv_all, -1};

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

static void latency(uint8_t *area, uint32_t bytes, uint32_t n)
{
    static uint64_t took[READS_MAX];
    for (uint32_t i = 0; i < n; i++) {
        struct eg_io io = read_at(i, area, bytes);
        struct eg_io_queue done = {NULL, NULL};
        uint64_t start = bench_now_ns();
        must(lib->submit(link_of.link, &io), "submit");
        while (!must(lib->poll(link_of.link, &done), "poll"))
            ;
        took[i] = bench_now_ns() - start;
    }
    bench_sort(took, n);
    printf("latency %u %u %.2f %.2f %.2f\n", bytes, n, (double)took[0] / 1e3, (double)took[n / 2] / 1e3, (double)took[n / 100 * 99] / 1e3);
}

static void rate(uint8_t *area, uint32_t bytes, uint32_t n)
{
    struct eg_io io[DEPTH];
    uint32_t submitted = 0, completed = 0;
    uint64_t start = bench_now_ns();
    while (completed < n) {
        while (submitted < n && submitted - completed < DEPTH) {
            io[submitted % DEPTH] = read_at(submitted, area, bytes);
            must(lib->submit(link_of.link, &io[submitted % DEPTH]), "submit");
            submitted++;
        }
        struct eg_io_queue done = {NULL, NULL};
        completed += (uint32_t)must(lib->poll(link_of.link, &done), "poll");
    }
    double seconds = (double)(bench_now_ns() - start) / 1e9;
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
    endgame__reply__free_unpacked(bench_open(&control, link_of.token), NULL);
    bench_lease(&control, SLABS, slabs, keys);
    latency(area, EG_PAGE_BYTES, n / 10); /* warm */
    latency(area, EG_PAGE_BYTES, n);
    rate(area, EG_PAGE_BYTES, n);
    rate(area, 64u << 10, n / 10);
    must(lib->close(link_of.link), "close");
    return 0;
}
