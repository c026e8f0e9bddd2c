/* cli_texts.c - see cli_texts.h. The runtime writes the file (client/gate/texts.c). */
#include "cli_texts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What has grown to more than that begins anew: a run needs room for the texts of its own. */
#define MOST_BYTES (EG_POOL_TEXTS_BYTES / 2)

/* Makes the folder, as others do that are the first to need it. Returns: 0 when there is none, and an empty path. */
static int find_path(char *ret_path, size_t path_bytes)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int is_given = cache && *cache == '/';
    if (!is_given && !(home && *home == '/'))
        return 0;
    int n = snprintf(ret_path, path_bytes, "%s%s", is_given ? cache : home, is_given ? "" : "/.cache");
    if (n < 0 || (size_t)n + sizeof "/endgame/texts" > path_bytes) {
        ret_path[0] = 0;
        return 0;
    }
    (void)mkdir(ret_path, 0700);
    memcpy(ret_path + n, "/endgame", sizeof "/endgame");
    if (mkdir(ret_path, 0700) && errno != EEXIST) {
        ret_path[0] = 0;
        return 0;
    }
    strcat(ret_path, "/texts");
    return 1;
}

void cli_texts_recall(struct cli_pool *pool)
{
    struct eg_texts_head *head = &pool->map->texts, found;
    struct stat st;
    char *path = pool->map->texts_path;
    if (stat(pool->library, &st) || !find_path(path, sizeof pool->map->texts_path))
        return;
    *head = (struct eg_texts_head){
        .magic = EG_TEXTS_MAGIC,
        .version = EG_POOL_VERSION,
        .library = {st.st_dev, st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec},
    };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    void *to = (char *)pool->map + EG_POOL_TEXTS_OFFSET;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH)) &&
        read(fd, &found, sizeof found) == sizeof found && found.magic == head->magic && found.version == head->version &&
        memcmp(found.library, head->library, sizeof found.library) == 0 && found.bytes <= MOST_BYTES &&
        read(fd, to, found.bytes) == (ssize_t)found.bytes && eg_texts_sum(to, found.bytes) == found.sum) {
        head->bytes = pool->map->texts_used = found.bytes;
    } else {
        memset(to, 0, MOST_BYTES);
    }
    close(fd);
}
