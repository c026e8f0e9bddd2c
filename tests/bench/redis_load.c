/* redis_load.c - load for redis-server over a unix socket.
 *   redis_load SOCKET fill KEYS VALUE_BYTES
 *   redis_load SOCKET mix KEYS VALUE_BYTES OPS [SEED]      uniform random keys, four GETs to one SET, WINDOW requests on their way
 *   redis_load SOCKET zipf KEYS VALUE_BYTES OPS [SEED]     the same, keys by Zipf's law with theta 0.99 as in YCSB, popular ones spread over all keys
 * Prints nanoseconds per operation. Zipf: Gray et al., Quickly generating billion-record synthetic databases, SIGMOD 1994. */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 16
#define THETA 0.99

static FILE *to, *from;
static char *value;
static size_t value_len;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct {
    double zeta_n, alpha, eta;
} zipf;

static void zipf_init(unsigned long n)
{
    for (unsigned long i = 1; i <= n; i++)
        zipf.zeta_n += 1 / pow((double)i, THETA);
    zipf.alpha = 1 / (1 - THETA);
    zipf.eta = (1 - pow(2 / (double)n, 1 - THETA)) / (1 - (1 + pow(0.5, THETA)) / zipf.zeta_n);
}

/* From a uniform random number, a key. */
static unsigned long zipf_key(uint64_t random, unsigned long n)
{
    double u = (double)(random >> 11) / (double)(1ull << 53), uz = u * zipf.zeta_n;
    uint64_t rank = uz < 1 ? 0 : uz < 1 + pow(0.5, THETA) ? 1 : (uint64_t)((double)n * pow(zipf.eta * u - zipf.eta + 1, zipf.alpha));
    /* The popular keys must not lie side by side. A prime above every n in use: two ranks never give one key. */
    return (unsigned long)((rank < n ? rank : n - 1) * 2654435761ull % n);
}

static void send_set(unsigned long key)
{
    uint64_t w = key * 0x9e3779b97f4a7c15ull; /* pages must not look alike */
    for (size_t i = 0; i + 8 <= value_len; i += 8, w += key | 1)
        memcpy(value + i, &w, 8);
    fprintf(to, "*3\r\n$3\r\nSET\r\n$12\r\nkey:%08lu\r\n$%zu\r\n", key, value_len);
    fwrite(value, 1, value_len, to);
    fputs("\r\n", to);
}

static void send_get(unsigned long key)
{
    fprintf(to, "*2\r\n$3\r\nGET\r\n$12\r\nkey:%08lu\r\n", key);
}

static void receive(unsigned long key, int is_set)
{
    char line[64];
    if (!fgets(line, sizeof(line), from) || line[0] != (is_set ? '+' : '$')) {
        fprintf(stderr, "redis_load: unexpected reply\n");
        exit(1);
    }
    if (is_set)
        return;
    size_t len = strtoul(line + 1, NULL, 10);
    uint64_t first;
    if (len != value_len || fread(value, 1, len + 2, from) != len + 2 || (memcpy(&first, value, 8), first != key * 0x9e3779b97f4a7c15ull)) {
        fprintf(stderr, "redis_load: wrong value for key %lu\n", key);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof(address.sun_path) - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    for (int try = 0; connect(fd, (struct sockaddr *)&address, sizeof(address)); try++) {
        if (try == 100)
            return 1;
        usleep(50000);
    }
    to = fdopen(fd, "w");
    from = fdopen(dup(fd), "r");
    unsigned long keys = strtoul(argv[3], NULL, 0);
    value_len = strtoul(argv[4], NULL, 0);
    value = malloc(value_len + 2);
    int is_zipf = !strcmp(argv[2], "zipf"), mix = is_zipf || !strcmp(argv[2], "mix");
    if (is_zipf)
        zipf_init(keys);
    unsigned long ops = mix && argc > 5 ? strtoul(argv[5], NULL, 0) : keys, window_keys[WINDOW];
    int window_sets[WINDOW];
    uint64_t rng = 88172645463325252ull * (argc > 6 ? 2 * strtoul(argv[6], NULL, 0) + 1 : 1), start = now_ns();
    for (unsigned long i = 0; i < ops;) {
        int n = 0;
        for (; n < WINDOW && i < ops; n++, i++) {
            rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
            window_keys[n] = is_zipf ? zipf_key(rng, keys) : mix ? (rng >> 11) % keys : i;
            window_sets[n] = !mix || (rng & 0x7ff) % 5 == 0; /* bits that choose no key */
            if (window_sets[n])
                send_set(window_keys[n]);
            else
                send_get(window_keys[n]);
        }
        fflush(to);
        for (int k = 0; k < n; k++)
            receive(window_keys[k], window_sets[k]);
    }
    printf("%.1f\n", (double)(now_ns() - start) / (double)ops);
    return 0;
}
