/* cli_machine.c - memory limits, paths of the installation. */
#include "cli_machine.h"

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

struct cgroup {
    bool v2;
    char mount[PATH_MAX];
    char path[PATH_MAX]; /* below mount, starts with / */
};

/* A field of mountinfo ends at a blank; octal escapes are as good as never found in cgroup mounts and are left alone. */
static bool find_mount(bool v2, char *ret_mount, char *ret_root)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file)
        return false;
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (!found && getline(&line, &size, file) > 0) {
        char root[PATH_MAX], mount[PATH_MAX], type[64], super[PATH_MAX];
        const char *tail = strstr(line, " - ");
        if (!tail || sscanf(line, "%*s %*s %*s %4095s %4095s", root, mount) != 2 ||
            sscanf(tail, " - %63s %*s %4095s", type, super) != 2)
            continue;
        if (v2)
            found = strcmp(type, "cgroup2") == 0;
        else if (strcmp(type, "cgroup") == 0)
            for (char *option = strtok(super, ",\n"); option && !found; option = strtok(NULL, ",\n"))
                found = strcmp(option, "memory") == 0;
        if (found) {
            strcpy(ret_mount, mount);
            strcpy(ret_root, root);
        }
    }
    free(line);
    fclose(file);
    return found;
}

/* The cgroup that limits this process's memory: version 1's if there is a memory hierarchy, else version 2's. */
static bool find_cgroup(struct cgroup *ret_cgroup)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return false;
    char line[PATH_MAX + 128], v1_path[PATH_MAX] = "", v2_path[PATH_MAX] = "";
    while (fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        controllers++;
        if (*controllers == 0)
            snprintf(v2_path, sizeof v2_path, "%s", path);
        for (char *name = strtok(controllers, ","); name; name = strtok(NULL, ","))
            if (strcmp(name, "memory") == 0)
                snprintf(v1_path, sizeof v1_path, "%s", path);
    }
    fclose(file);

    char root[PATH_MAX];
    ret_cgroup->v2 = !*v1_path;
    const char *path = *v1_path ? v1_path : v2_path;
    if (!*path || !find_mount(ret_cgroup->v2, ret_cgroup->mount, root))
        return false;
    /* In a container the mount may show a subtree only, whose root is this process's own cgroup. */
    size_t root_len = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(path, root, root_len) == 0)
        strcpy(ret_cgroup->path, path + root_len);
    else
        strcpy(ret_cgroup->path, "/");
    return true;
}

static void read_level(const struct cgroup *cgroup, struct cli_memory *memory)
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
    static struct cgroup cgroup;
    if (!find_cgroup(&cgroup))
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
