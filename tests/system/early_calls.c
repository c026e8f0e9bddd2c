/* early_calls.c FILE MIB MORE - a thread reads FILE (MIB of it) into memory that nobody has touched, the end first, in one call; meanwhile another maps and
 * touches MORE, so that blocks are taken away in which the call has still to write. It must not notice. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PARTS = 64, PAGE = 4096, START_US = 1000 };

static char *buffer;
static size_t bytes;
static int fd;
static volatile int begun;

static void *read_all(void *ret_read)
{
    struct iovec part[PARTS];
    for (int i = 0; i < PARTS; i++)
        part[i] = (struct iovec){buffer + (size_t)(PARTS - 1 - i) * (bytes / PARTS), bytes / PARTS};
    begun = 1;
    *(ssize_t *)ret_read = preadv(fd, part, PARTS, 0);
    return NULL;
}

static char *map(size_t len)
{
    char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        _exit(1);
    return at;
}

int main(int argc, char **argv)
{
    pthread_t reader;
    ssize_t got = -1;
    if (argc != 4 || (fd = open(argv[1], O_RDONLY)) < 0)
        return 2;
    bytes = strtoul(argv[2], NULL, 0) << 20;
    size_t more = strtoul(argv[3], NULL, 0) << 20;
    buffer = map(bytes);
    if (pthread_create(&reader, NULL, read_all, &got))
        return 1;
    while (!begun)
        ;
    usleep(START_US);
    char *other = map(more);
    for (size_t i = 0; i < more; i += PAGE)
        other[i] = 1;
    pthread_join(reader, NULL);
    if (got != (ssize_t)bytes) {
        fprintf(stderr, "early_calls: read %zd of %zu bytes\n", got, bytes);
        return 3;
    }
    for (size_t i = 0; i < bytes; i += PAGE)
        if (buffer[i] != 'x') {
            fprintf(stderr, "early_calls: page %zu is wrong\n", i / PAGE);
            return 4;
        }
    printf("right\n");
    return 0;
}
