/* cli_texts.c - see cli_texts.h. The runtime writes the file (client/gate/texts.c). */
#include "cli_texts.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Nobody else can put something there. A link as the last name is another's folder. */
static int is_own_folder(const char *path, int (*look)(const char *, struct stat *))
{
    struct stat st;
    return look(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH));
}

/* Makes the folders, as others do that are the first to need them, but not in another user's home (sudo may keep HOME). Returns: 0 when there is none. */
static int find_path(char *path, size_t path_bytes)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int is_given = cache && *cache == '/';
    if (!is_given && !(home && *home == '/' && is_own_folder(home, stat)))
        return 0;
    int n = snprintf(path, path_bytes, "%s%s", is_given ? cache : home, is_given ? "" : "/.cache");
    if (n < 0 || (size_t)n + sizeof "/endgame/texts.0123456789" > path_bytes)
        return 0;
    (void)mkdir(path, 0700);
    if (!is_own_folder(path, stat))
        return 0;
    memcpy(path + n, "/endgame", sizeof "/endgame");
    (void)mkdir(path, 0700);
    if (!is_own_folder(path, lstat))
        return 0;
    strcat(path, "/texts");
    return 1;
}

void cli_texts_recall(struct cli_pool *pool, char *ret_path, size_t path_bytes)
{
    struct eg_texts_head *head = &pool->map->texts, found;
    struct stat st;
    if (stat(pool->library, &st) || !find_path(ret_path, path_bytes)) {
        ret_path[0] = 0;
        return;
    }
    *head = (struct eg_texts_head){
        .magic = EG_TEXTS_MAGIC,
        .version = EG_POOL_VERSION,
        .library = {st.st_dev, st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec},
    };
    int fd = open(ret_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    void *to = (char *)pool->map + EG_POOL_TEXTS_OFFSET;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH)) &&
        read(fd, &found, sizeof found) == sizeof found && found.magic == head->magic && found.version == head->version &&
        memcmp(found.library, head->library, sizeof found.library) == 0 && found.bytes <= EG_TEXTS_MOST_BYTES &&
        read(fd, to, found.bytes) == (ssize_t)found.bytes && eg_texts_sum(to, found.bytes) == found.sum) {
        head->bytes = pool->map->texts_used = found.bytes;
    } else {
        memset(to, 0, EG_TEXTS_MOST_BYTES);
    }
    close(fd);
}
