#include "memserver/meminfo.h"
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_text(const char *path, char *ret_text, size_t text_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, ret_text, text_bytes - 1);
    close(fd);
    if (n < 0) return false;
    ret_text[n] = 0;
    return true;
}

static uint64_t meminfo_field(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

/* What the tightest of our control groups leaves. Reclaimable page cache counts as used there, so this errs on the safe side. */
static uint64_t cgroup_left(void)
{
    char group[512], path[640], text[256];
    uint64_t left = UINT64_MAX;

    if (!read_text("/proc/self/cgroup", group, sizeof group)) return left;
    char *at = strstr(group, "0::/");
    if (!at) return left;
    at += 3;
    at[strcspn(at, "\n")] = 0;
    for (;;) {
        char *slash = strrchr(at, '/');
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", at);
        if (read_text(path, text, sizeof text) && text[0] >= '0' && text[0] <= '9') {
            uint64_t max = strtoull(text, NULL, 10);
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", at);
            if (read_text(path, text, sizeof text)) {
                uint64_t used = strtoull(text, NULL, 10);
                uint64_t here = max > used ? max - used : 0;
                if (here < left) left = here;
            }
        }
        if (!slash || slash == at) break;
        *slash = 0;
    }
    return left;
}

uint64_t egm_meminfo_available(void)
{
    char text[4096];
    uint64_t left = cgroup_left();

    if (read_text("/proc/meminfo", text, sizeof text) && strstr(text, "MemAvailable:")) {
        uint64_t machine = meminfo_field(text, "MemAvailable:") + meminfo_field(text, "SwapFree:");
        if (machine < left) left = machine;
    }
    return left;
}

uint64_t egm_meminfo_total(void) { return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE); }
