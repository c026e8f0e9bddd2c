/* eg_cgroup.c - finding the memory control group. Source: cgroups(7). */
#include "proto/eg_cgroup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

bool eg_cgroup_find(struct eg_cgroup *ret_cgroup)
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
