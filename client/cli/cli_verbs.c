#include "cli_verbs.h"
#include "cli.h"
#include "cli_machine.h"
#include "client/pager/eg_pool.h"
#include "client/verbs/eg_verbs_lib.h"
#include "proto/eg_control_client.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_MS 20

static const struct eg_verbs_lib *lib;
static struct eg_verbs_open opened; /* the last connection */

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int cli_verbs_find(char *ret_path, size_t path_bytes)
{
    char library[PATH_MAX];
    int rc = cli_library_find(library, sizeof library);
    char *slash = strrchr(library, '/');
    snprintf(ret_path, path_bytes, "%.*s/" EG_VERBS_LIB_NAME, slash ? (int)(slash - library) : 0, library);
    return rc ? rc : access(ret_path, R_OK) ? -ENOENT : 0;
}

static int load(void)
{
    static const struct eg_verbs_host host;
    char path[PATH_MAX];
    eg_verbs_lib_fn *start = NULL;
    if (lib)
        return 0;
    if (cli_verbs_find(path, sizeof path))
        return -ELIBACC;
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (object)
        *(void **)&start = dlsym(object, "eg_verbs_lib");
    if (start)
        lib = start(&host, 0);
    return lib && lib->version == EG_VERBS_LIB_VERSION ? 0 : -ELIBACC;
}

static int rdma_open(const struct eg_addr *addr, int64_t deadline_ms, void **ret_connection)
{
    int64_t left = deadline_ms - now_ms();
    int rc = load();
    if (rc)
        return rc;
    opened = (struct eg_verbs_open){.sockaddr = &addr->sa, .timeout_ms = left > 0 ? (uint32_t)left : 0};
    rc = (int)lib->open(&opened);
    if (!rc)
        *ret_connection = opened.link;
    return rc;
}

/* Until the device has something, or a while. */
static int pause_for(struct eg_verbs_link *link, int64_t deadline_ms)
{
    struct pollfd p = {.fd = opened.cq_fd, .events = POLLIN};
    int rc = (int)lib->check(link);
    if (!rc)
        rc = (int)lib->arm(link);
    if (!rc && now_ms() > deadline_ms)
        rc = -ETIMEDOUT;
    if (!rc)
        poll(&p, 1, PAUSE_MS);
    return rc;
}

/* One of data_out and data_in. */
static int stream(struct eg_verbs_link *link, const uint8_t *data_out, uint8_t *data_in, size_t bytes, int64_t deadline_ms)
{
    for (size_t at = 0; at < bytes;) {
        long n = data_out ? lib->send(link, data_out + at, bytes - at) : lib->recv(link, data_in + at, bytes - at);
        int rc = n < 0 ? (int)n : n == 0 ? pause_for(link, deadline_ms) : 0;
        if (rc)
            return rc;
        at += (size_t)n;
    }
    return 0;
}

static int rdma_send(void *connection, const void *data, size_t bytes, int64_t deadline_ms)
{
    return stream(connection, data, NULL, bytes, deadline_ms);
}

static int rdma_recv(void *connection, void *data, size_t bytes, int64_t deadline_ms)
{
    return stream(connection, NULL, data, bytes, deadline_ms);
}

static void rdma_close(void *connection)
{
    lib->close(connection);
}

void cli_verbs_prepare(void)
{
    static const struct eg_control_rdma ops = {rdma_open, rdma_send, rdma_recv, rdma_close};
    eg_control_rdma = &ops;
}

const char *cli_verbs_device(void)
{
    return opened.device;
}

int cli_verbs_call(struct eg_addr *addr, const Endgame__Request *req, int timeout_ms, Endgame__Reply **ret_reply, char *ret_why, size_t why_bytes)
{
    if (addr->kind != EG_ADDR_AUTO)
        return eg_control_call(addr, req, timeout_ms, ret_reply, ret_why, why_bytes);
    struct eg_addr rdma = *addr;
    const char *place = strchr(addr->text, ':') + 1;
    rdma.kind = EG_ADDR_RDMA;
    snprintf(rdma.text, sizeof rdma.text, "rdma:%.*s", (int)sizeof rdma.text - 6, place);
    if (eg_control_call(&rdma, req, timeout_ms, ret_reply, ret_why, why_bytes) == 0) {
        cli_warn("%s: over rdma, device %s", addr->text, cli_verbs_device());
        *addr = rdma;
        return 0;
    }
    char text[sizeof addr->text];
    snprintf(text, sizeof text, "tcp:%.*s", (int)sizeof text - 5, place);
    const char *reason = strncmp(ret_why, rdma.text, strlen(rdma.text)) == 0 ? ret_why + strlen(rdma.text) + 2 : ret_why;
    cli_warn("%s: over tcp, not rdma: %s", addr->text, reason);
    addr->kind = EG_ADDR_TCP;
    memcpy(addr->text, text, sizeof text);
    return eg_control_call(addr, req, timeout_ms, ret_reply, ret_why, why_bytes);
}
