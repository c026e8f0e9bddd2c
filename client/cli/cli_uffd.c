/* cli_uffd.c - probing userfaultfd. */
#include "cli_uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UFFD_FLAGS (O_CLOEXEC | O_NONBLOCK)

static int open_by_device(void)
{
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -1;
    int fd = ioctl(device, USERFAULTFD_IOC_NEW, UFFD_FLAGS);
    int error = errno;
    close(device);
    errno = error;
    return fd;
}

void cli_uffd_probe(struct cli_uffd *ret_uffd)
{
    *ret_uffd = (struct cli_uffd){0};
    int fd = (int)syscall(SYS_userfaultfd, UFFD_FLAGS);
    if (fd < 0) {
        ret_uffd->error = errno;
        fd = open_by_device();
        if (fd >= 0) {
            ret_uffd->error = 0;
            ret_uffd->via_device = true;
        }
    }
    if (fd < 0) {
        fd = (int)syscall(SYS_userfaultfd, UFFD_FLAGS | UFFD_USER_MODE_ONLY);
        if (fd < 0)
            return;
        ret_uffd->user_mode_only = true;
    }
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(fd, UFFDIO_API, &api) == 0) {
        ret_uffd->features = api.features;
        ret_uffd->ioctls = api.ioctls;
    } else {
        ret_uffd->error = errno;
        ret_uffd->user_mode_only = false;
    }
    close(fd);
}

const char *cli_uffd_missing(const struct cli_uffd *uffd, bool thread, char *text, size_t text_bytes)
{
    int error = uffd->user_mode_only ? 0 : uffd->error;
    if (uffd->user_mode_only && (thread || !(uffd->features & UFFD_FEATURE_SIGBUS)))
        return "userfaultfd serves only faults of user mode here, not those inside system calls, which --fault-engine handler and --compute need; as root, run "
               "`sysctl vm.unprivileged_userfaultfd=1` or give this user access to /dev/userfaultfd";
    if (error == EPERM || error == EACCES)
        return "userfaultfd is not permitted here; as root, run `sysctl vm.unprivileged_userfaultfd=1` or give this "
               "user access to /dev/userfaultfd (in a container, let its seccomp profile allow userfaultfd)";
    if (error == ENOSYS)
        return "this kernel has no userfaultfd (CONFIG_USERFAULTFD); boot one that has, Linux 5.7 or later";
    if (error) {
        snprintf(text, text_bytes, "userfaultfd does not work here: %s", strerror(error));
        return text;
    }
    if (!(uffd->features & UFFD_FEATURE_PAGEFAULT_FLAG_WP))
        return "this kernel's userfaultfd cannot write-protect; boot Linux 5.7 or later";
    return NULL;
}

int cli_uffd_pagemap_scan(void)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    uintptr_t page = (uintptr_t)&fd & ~(uintptr_t)4095;
    struct page_region region;
    struct pm_scan_arg arg = {
        .size = sizeof arg,
        .start = page,
        .end = page + 4096,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_mask = PAGE_IS_PRESENT,
        .return_mask = PAGE_IS_PRESENT,
    };
    int ret = ioctl(fd, PAGEMAP_SCAN, &arg) < 0 ? -errno : 0;
    close(fd);
    return ret;
}
