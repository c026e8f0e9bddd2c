/* cli_stat.c - see cli_stat.h. */
#include "cli_stat.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

char *cli_stat_fields(int folder, const char *name, char *text, size_t bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/stat", name);
    int fd = openat(folder, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    ssize_t len = read(fd, text, bytes - 1);
    close(fd);
    text[len > 0 ? len : 0] = 0;
    char *tail = strrchr(text, ')'); /* the name in parentheses may contain anything */
    return tail && tail[1] ? tail + 2 : NULL;
}
