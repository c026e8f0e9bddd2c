#include "proto/eg_uffd.h"

#include "client/pager/eg_pager.h"

#include <errno.h>
#include <fcntl.h>

#define NO_MEMORY_TRIES 1000 /* the kernel lacks some for a moment */
#define UFFD_DEVICE "/dev/userfaultfd"
#define WANTED (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE)

static long uffd_ioctl(unsigned long request, void *arg)
{
    return eg_sys3(SYS_ioctl, eg_rt.uffd, request, arg);
}

/* Inline, nobody waits for the kernel's own faults: that needs no privilege, which the program may have given up (5.11). */
static long open_any(void)
{
    long fd = eg_rt.inlined ? eg_fd_new(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, 0, 0, 0) : -EPERM;
    if (eg_sys_failed(fd))
        fd = eg_fd_new(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
    if (fd == -EPERM) {
        int kept = eg_rt.uffd_dev >= 0;
        long dev = kept ? eg_rt.uffd_dev : eg_fd_new(SYS_openat, AT_FDCWD, (long)UFFD_DEVICE, O_RDWR | O_CLOEXEC, 0);
        if (eg_sys_failed(dev))
            return fd;
        fd = eg_fd_new(SYS_ioctl, dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK, 0);
        if (!kept)
            eg_sys1(SYS_close, dev);
    }
    return fd;
}

void eg_uffd_keep(void)
{
    if (!eg_rt.inlined)
        eg_rt.uffd_dev = eg_fd_high((int)eg_fd_new(SYS_openat, AT_FDCWD, (long)UFFD_DEVICE, O_RDWR | O_CLOEXEC, 0));
}

/* The features that the kernel does not know make UFFDIO_API fail and spoil the descriptor: ask first, then enable. */
int eg_uffd_open(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    long fd = open_any();
    if (eg_sys_failed(fd))
        return (int)fd;
    long rc = eg_sys3(SYS_ioctl, fd, UFFDIO_API, &api);
    eg_sys1(SYS_close, fd);
    if (eg_sys_failed(rc))
        return (int)rc;
    if (!(api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP))
        return -EOPNOTSUPP;
    if (eg_rt.old_kernel)
        api.features &= ~(uint64_t)UFFD_FEATURE_MOVE;
    fd = open_any();
    if (eg_sys_failed(fd))
        return (int)fd;
    uint64_t wanted = WANTED | (eg_rt.inlined ? UFFD_FEATURE_SIGBUS : 0);
    if (eg_rt.inlined && !(api.features & UFFD_FEATURE_SIGBUS)) {
        eg_sys1(SYS_close, fd);
        return -EOPNOTSUPP;
    }
    api = (struct uffdio_api){.api = UFFD_API, .features = api.features & wanted};
    rc = eg_sys3(SYS_ioctl, fd, UFFDIO_API, &api);
    if (eg_sys_failed(rc)) {
        eg_sys1(SYS_close, fd);
        return (int)rc;
    }
    eg_rt.features = api.features & wanted;
    eg_rt.move = (api.features & UFFD_FEATURE_MOVE) != 0;
    eg_rt.uffd = eg_fd_high((int)fd);
    return 0;
}

int eg_uffd_register(uint64_t start, uint64_t end)
{
    struct uffdio_register r = {
        .range = {start, end - start},
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
    };
    return (int)uffd_ioctl(UFFDIO_REGISTER, &r);
}

int eg_uffd_unregister(uint64_t start, uint64_t end)
{
    struct uffdio_range r = {start, end - start};
    return (int)uffd_ioctl(UFFDIO_UNREGISTER, &r);
}

void eg_uffd_wake(uint64_t start, uint64_t end)
{
    struct uffdio_range r = {start, end - start};
    uffd_ioctl(UFFDIO_WAKE, &r);
}

int eg_uffd_protect(uint64_t start, uint64_t end, int on)
{
    struct uffdio_writeprotect w = {
        .range = {start, end - start},
        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };
    long rc;
    do
        rc = uffd_ioctl(UFFDIO_WRITEPROTECT, &w);
    while (rc == -EAGAIN);
    if (rc == -ENOENT && end - start > EG_PAGE_BYTES) {
        /* Before 6.3 the kernel wants one mapping at a time. */
        for (rc = 0; !rc && start < end; start += EG_PAGE_BYTES)
            rc = eg_uffd_protect(start, start + EG_PAGE_BYTES, on);
    }
    return (int)rc;
}

int eg_uffd_copy(uint64_t dst, const void *src, uint64_t bytes, int write_protect)
{
    uint64_t at = 0, piece = bytes;
    int tries = 0;
    while (at < bytes) {
        struct uffdio_copy c = {
            .dst = dst + at,
            .src = (uint64_t)src + at,
            .len = bytes - at < piece ? bytes - at : piece,
            .mode = write_protect ? UFFDIO_COPY_MODE_WP : 0,
        };
        long rc = uffd_ioctl(UFFDIO_COPY, &c);
        if (rc == 0 || c.copy > 0) {
            at += (uint64_t)c.copy;
            continue;
        }
        if (rc == -ENOENT && piece > EG_PAGE_BYTES) {
            piece = EG_PAGE_BYTES; /* the kernel wants one mapping at a time, and here two meet */
        } else if (rc == -ENOMEM && ++tries < NO_MEMORY_TRIES) {
            eg_sys0(SYS_sched_yield);
        } else if (rc != -EAGAIN) {
            return (int)rc;
        }
    }
    return 0;
}

int eg_uffd_zero_check(uint64_t addr)
{
    struct uffdio_zeropage z = {.range = {addr, EG_PAGE_BYTES}};
    long rc;
    int tries = 0;
    while ((rc = uffd_ioctl(UFFDIO_ZEROPAGE, &z)) == -EAGAIN || (rc == -ENOMEM && ++tries < NO_MEMORY_TRIES))
        if (rc == -ENOMEM)
            eg_sys0(SYS_sched_yield);
    return rc == 0 ? 1 : rc == -EEXIST ? 0 : (int)rc;
}

long eg_uffd_move(uint64_t dst, uint64_t src, uint64_t bytes)
{
    struct uffdio_move m = {.dst = dst, .src = src, .len = bytes, .mode = UFFDIO_MOVE_MODE_DONTWAKE};
    long rc;
    do {
        m.move = 0;
        rc = uffd_ioctl(UFFDIO_MOVE, &m);
    } while (rc == -EAGAIN && m.move <= 0);
    if (rc == 0)
        return (long)bytes;
    /* Linux 6.18 does not count what it moves after it had to start over once (move_pages() keeps the old -EAGAIN), and then
     * says that the source is empty. What is at the target, and no longer at the source, has been moved; the target may not have been empty
     * (mlockall fills the runtime's memory, too, and keeps it). */
    uint64_t moved = m.move > 0 ? (uint64_t)m.move : 0;
    while (moved < bytes && eg_page_present(dst + moved) && !eg_page_present(src + moved))
        moved += EG_PAGE_BYTES;
    return moved ? (long)moved : rc;
}
