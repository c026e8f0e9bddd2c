#include "compute/cgroup.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "proto/eg_cgroup.h"

static int write_text(const char *dir, const char *name, const char *text)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return r;
}

/* Fills v2 and dir. */
static int find_own(struct egc_cgroup *cgroup)
{
    static struct eg_cgroup own;
    if (!eg_cgroup_find(&own)) return -ENOENT;
    cgroup->v2 = own.v2;
    const char *path = strcmp(own.path, "/") ? own.path : "";
    if ((size_t)snprintf(cgroup->dir, sizeof cgroup->dir, "%s%s", own.mount, path) >= sizeof cgroup->dir - 64)
        return -ENAMETOOLONG;
    return 0;
}

static void group_path(const struct egc_cgroup *cgroup, pid_t pid, char *ret_path, size_t path_bytes)
{
    snprintf(ret_path, path_bytes, "%s/endgame-worker-%d", cgroup->dir, (int)pid);
}

static int make_group(const struct egc_cgroup *cgroup, const char *path)
{
    char text[32];
    if (mkdir(path, 0755) && errno != EEXIST) return -errno;
    snprintf(text, sizeof text, "%" PRIu64, cgroup->limit_bytes);
    int r = write_text(path, cgroup->v2 ? "memory.max" : "memory.limit_in_bytes", text);
    if (r) rmdir(path);
    return r;
}

/* Version 2 gives children of a group controllers only if no process is in the group itself; the root excepted. */
static int enable_v2(struct egc_cgroup *cgroup)
{
    char pid[32], own[PATH_MAX + 64];
    if (!write_text(cgroup->dir, "cgroup.subtree_control", "+memory")) return 0;
    snprintf(own, sizeof own, "%s/endgame-compute-%d", cgroup->dir, (int)getpid());
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    if (mkdir(own, 0755)) return -errno;
    int r = write_text(own, "cgroup.procs", pid);
    if (!r) r = write_text(cgroup->dir, "cgroup.subtree_control", "+memory");
    if (r) {
        (void)write_text(cgroup->dir, "cgroup.procs", pid);
        rmdir(own);
        return r;
    }
    strcpy(cgroup->own, own);
    return 0;
}

/* Groups of workers whose daemon was killed before it could remove them. */
static void sweep(const struct egc_cgroup *cgroup)
{
    char path[PATH_MAX + 64];
    DIR *dir = opendir(cgroup->dir);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        int pid;
        if (sscanf(entry->d_name, "endgame-worker-%d", &pid) != 1 || pid <= 0 || !kill(pid, 0) || errno != ESRCH) continue;
        group_path(cgroup, pid, path, sizeof path);
        rmdir(path);
    }
    closedir(dir);
}

int egc_cgroup_init(struct egc_cgroup *cgroup, uint64_t limit_bytes)
{
    char path[PATH_MAX + 64];
    memset(cgroup, 0, sizeof *cgroup);
    if (!limit_bytes) return 0;
    int r = find_own(cgroup);
    if (!r && cgroup->v2) r = enable_v2(cgroup);
    cgroup->limit_bytes = limit_bytes;
    group_path(cgroup, getpid(), path, sizeof path);
    if (!r) r = make_group(cgroup, path);
    if (!r) rmdir(path);
    if (!r) sweep(cgroup);
    if (r) egc_cgroup_done(cgroup);
    return r;
}

void egc_cgroup_done(struct egc_cgroup *cgroup)
{
    char pid[32];
    if (cgroup->own[0]) {
        snprintf(pid, sizeof pid, "%d", (int)getpid());
        (void)write_text(cgroup->dir, "cgroup.subtree_control", "-memory");
        (void)write_text(cgroup->dir, "cgroup.procs", pid);
        rmdir(cgroup->own);
    }
    cgroup->own[0] = 0;
    cgroup->limit_bytes = 0;
}

int egc_cgroup_put(const struct egc_cgroup *cgroup, pid_t pid)
{
    char path[PATH_MAX + 64], text[32];
    if (!cgroup->limit_bytes) return 0;
    group_path(cgroup, pid, path, sizeof path);
    int r = make_group(cgroup, path);
    snprintf(text, sizeof text, "%d", (int)pid);
    return r ? r : write_text(path, "cgroup.procs", text);
}

void egc_cgroup_remove(const struct egc_cgroup *cgroup, pid_t pid)
{
    char path[PATH_MAX + 64];
    if (!cgroup->limit_bytes) return;
    group_path(cgroup, pid, path, sizeof path);
    rmdir(path);
}
