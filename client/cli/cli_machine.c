/* cli_machine.c - memory limits, paths of the installation. */
#include "cli_machine.h"
#include "proto/eg_cgroup.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t read_number(const char *path)
{
    uint64_t value = UINT64_MAX; /* also for "max" */
    FILE *file = fopen(path, "re");
    if (!file)
        return value;
    if (fscanf(file, "%" SCNu64, &value) != 1)
        value = UINT64_MAX;
    fclose(file);
    return value;
}

/* Value of the line "key value" or "key: value kB"; UINT64_MAX if there is none. */
static uint64_t read_keyed(const char *path, const char *key)
{
    uint64_t value = UINT64_MAX;
    char line[256];
    size_t len = strlen(key);
    FILE *file = fopen(path, "re");
    if (!file)
        return value;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, len) == 0 && (line[len] == ' ' || line[len] == ':')) {
            value = strtoull(line + len + 1, NULL, 10);
            break;
        }
    fclose(file);
    return value;
}

static void read_level(const struct eg_cgroup *cgroup, struct cli_memory *memory)
{
    char path[2 * PATH_MAX + 64];
#define LEVEL_FILE(name) (snprintf(path, sizeof path, "%s%s/" name, cgroup->mount, cgroup->path), path)
    uint64_t limit = read_number(cgroup->v2 ? LEVEL_FILE("memory.max") : LEVEL_FILE("memory.limit_in_bytes"));
    if (limit >= memory->total_bytes)
        return;
    uint64_t use = read_number(cgroup->v2 ? LEVEL_FILE("memory.current") : LEVEL_FILE("memory.usage_in_bytes"));
    uint64_t cache = read_keyed(LEVEL_FILE("memory.stat"), cgroup->v2 ? "inactive_file" : "total_inactive_file");
#undef LEVEL_FILE
    if (use == UINT64_MAX)
        use = 0;
    if (cache < use)
        use -= cache;
    if (limit < memory->cgroup_limit_bytes)
        memory->cgroup_limit_bytes = limit;
    uint64_t available = use < limit ? limit - use : 0;
    if (available < memory->cgroup_available_bytes)
        memory->cgroup_available_bytes = available;
}

void cli_memory_read(struct cli_memory *ret_memory)
{
    uint64_t total = read_keyed("/proc/meminfo", "MemTotal");
    uint64_t available = read_keyed("/proc/meminfo", "MemAvailable");
    *ret_memory = (struct cli_memory){
        .total_bytes = total == UINT64_MAX ? total : total * 1024,
        .available_bytes = available == UINT64_MAX ? 0 : available * 1024,
        .cgroup_limit_bytes = UINT64_MAX,
        .cgroup_available_bytes = UINT64_MAX,
    };
    static struct eg_cgroup cgroup;
    if (!eg_cgroup_find(&cgroup))
        return;
    for (;;) {
        read_level(&cgroup, ret_memory);
        char *last = strrchr(cgroup.path, '/');
        if (!last)
            break;
        *last = 0;
    }
}

static int find_beside(const char *variable, const char *const *places, char *ret_path, size_t path_bytes)
{
    const char *given = getenv(variable);
    if (given && *given) {
        char *real = realpath(given, NULL);
        snprintf(ret_path, path_bytes, "%s", real ? real : given);
        int error = real ? 0 : -ENOENT;
        free(real);
        return error;
    }
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len <= 0)
        return -ENOENT;
    self[len] = 0;
    *strrchr(self, '/') = 0;
    for (; *places; places++) {
        char path[PATH_MAX + 256];
        snprintf(path, sizeof path, "%s/%s", self, *places);
        char *real = realpath(path, NULL);
        snprintf(ret_path, path_bytes, "%s", real ? real : path);
        if (real) {
            free(real);
            return 0;
        }
    }
    return -ENOENT;
}

int cli_library_find(char *ret_path, size_t path_bytes)
{
    /* The build tree has bin/ and lib/; an installation has a libdir that the build was told. */
    static const char *const places[] = {"../" EG_LIBDIR "/libendgame.so", "../lib/libendgame.so", NULL};
    return find_beside("ENDGAME_LIBRARY", places, ret_path, path_bytes);
}

int cli_memserver_find(char *ret_path, size_t path_bytes)
{
    static const char *const places[] = {"endgame-memserver", "../sbin/endgame-memserver", NULL};
    return find_beside("ENDGAME_MEMSERVER", places, ret_path, path_bytes);
}

int cli_compute_find(char *ret_path, size_t path_bytes)
{
    static const char *const places[] = {"endgame-compute", "../sbin/endgame-compute", NULL};
    return find_beside("ENDGAME_COMPUTE", places, ret_path, path_bytes);
}

int cli_relay_find(char *ret_path, size_t path_bytes)
{
    static const char *const places[] = {"endgame-relay", "../sbin/endgame-relay", NULL};
    return find_beside("ENDGAME_RELAY", places, ret_path, path_bytes);
}
