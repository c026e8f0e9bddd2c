#include "compute/rdma.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_TIMEOUT_MS 10000

/* Descriptors of the relay. Its standard error is the daemon's only when it runs: what the loader says is said better here. */
enum { RELAY_CHANNEL = 3, RELAY_STDERR };

static void find_relay(char *path, size_t path_bytes)
{
    const char *given = getenv("ENDGAME_RELAY");
    if (given && *given) {
        snprintf(path, path_bytes, "%s", given);
        return;
    }
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    self[len > 0 ? len : 0] = 0;
    char *slash = strrchr(self, '/');
    snprintf(path, path_bytes, "%.*s/endgame-relay", slash ? (int)(slash - self) : 0, self);
}

__attribute__((noreturn)) static void become_relay(const char *path, const char *address, int channel, pid_t parent)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int high = fcntl(channel, F_DUPFD_CLOEXEC, RELAY_STDERR + 1), err = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, RELAY_STDERR + 1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (null < 0 || high < 0 || err < 0 || dup2(high, RELAY_CHANNEL) < 0 || dup2(err, RELAY_STDERR) < 0) _exit(126);
    for (int fd = 0; fd < RELAY_CHANNEL; fd++) (void)dup2(null, fd);
    close_range(RELAY_STDERR + 1, ~0u, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent) execl(path, path, "--listen", address, "--hand-to", "3", (char *)NULL);
    _exit(127);
}

/* The relay's first word. Returns: 0, or -errno and ret_why. */
static int wait_ready(const char *path, const struct eg_addr *addr, int fd, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char said[PATH_MAX + 256];
    int n = poll(&p, 1, READY_TIMEOUT_MS);
    ssize_t got = n > 0 ? recv(fd, said, sizeof said - 1, MSG_DONTWAIT) : 0;
    said[got > 0 ? got : 0] = 0;
    if (*said == 'R') {
        snprintf(ret_text, text_bytes, "%s", said + 1);
        return 0;
    }
    if (*said == 'E') snprintf(ret_why, why_bytes, "%s", said + 1);
    else if (access(path, X_OK))
        snprintf(ret_why, why_bytes, "%s: cannot use %s: %s: install endgame whole, or set ENDGAME_RELAY", addr->text, path, strerror(errno));
    else if (n > 0)
        snprintf(ret_why, why_bytes, "%s: %s does not start: install libibverbs1 and librdmacm1, or listen on tcp:", addr->text, path);
    else snprintf(ret_why, why_bytes, "%s: no word from %s in %d seconds", addr->text, path, READY_TIMEOUT_MS / 1000);
    return -EIO;
}

int egc_rdma_open(const struct eg_addr *addr, int *ret_fd, pid_t *ret_pid, char *ret_text, size_t text_bytes, char *ret_why, size_t why_bytes)
{
    char path[PATH_MAX + 32];
    int pair[2];
    pid_t parent = getpid();
    find_relay(path, sizeof path);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        int error = errno;
        snprintf(ret_why, why_bytes, "%s: cannot start %s: %s", addr->text, path, strerror(error));
        return -error;
    }
    pid_t pid = fork();
    if (!pid) become_relay(path, addr->text, pair[1], parent);
    int error = pid < 0 ? errno : 0;
    close(pair[1]);
    int r = -error;
    if (error) snprintf(ret_why, why_bytes, "%s: cannot start %s: %s", addr->text, path, strerror(error));
    else r = wait_ready(path, addr, pair[0], ret_text, text_bytes, ret_why, why_bytes);
    if (r) {
        egc_rdma_close(pair[0], pid);
        return r;
    }
    *ret_fd = pair[0];
    *ret_pid = pid;
    return 0;
}

int egc_rdma_accept(int fd, bool *ret_local)
{
    char word = 0;
    int got = -1;
    struct iovec iov = { &word, 1 };
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof got)];
    } control;
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) return errno == EINTR ? -EAGAIN : errno == ECONNRESET ? -EPIPE : -errno;
    if (!n) return -EPIPE;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof got)) return -EMFILE;
    memcpy(&got, CMSG_DATA(head), sizeof got);
    *ret_local = word == 'l';
    return got;
}

void egc_rdma_close(int fd, pid_t pid)
{
    if (fd >= 0) close(fd);
    if (pid <= 0) return;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}
