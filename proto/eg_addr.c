/* eg_addr.c - addresses and sizes as users write them. */
#include "proto/eg_addr.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* The values of enum eg_addr_kind (client/pager/eg_pool.h): proto is a leaf and cannot include it. A unit test compares. */
enum { KIND_UNIX = 1, KIND_TCP = 2, KIND_RDMA = 3, KIND_AUTO = 4 };

static const struct {
    const char *prefix;
    uint32_t kind;
} ip_kinds[] = { { "tcp:", KIND_TCP }, { "rdma:", KIND_RDMA }, { "auto:", KIND_AUTO } };
#define N_IP_KINDS (sizeof ip_kinds / sizeof *ip_kinds)

__attribute__((format(printf, 4, 5))) static int refuse(int error, char *ret_why, size_t why_bytes, const char *format,
                                                        ...)
{
    va_list ap;
    va_start(ap, format);
    if (why_bytes) vsnprintf(ret_why, why_bytes, format, ap);
    va_end(ap);
    return error;
}

static int parse_unix(const char *text, const char *path, struct eg_addr *addr, char *why, size_t why_bytes)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&addr->sa;
    char cwd[sizeof un->sun_path] = "";

    if (!*path) return refuse(-EINVAL, why, why_bytes, "%s: a path is missing, write unix:PATH", text);
    /* Whoever connects may have changed directory since. */
    if (*path != '/' && !getcwd(cwd, sizeof cwd)) cwd[0] = 0;
    if (*path != '/' && !cwd[0])
        return refuse(-ENAMETOOLONG, why, why_bytes,
                      "%s: the path is too long for a socket, use a shorter absolute one", text);
    int n = snprintf(un->sun_path, sizeof un->sun_path, "%s%s%s", strcmp(cwd, "/") ? cwd : "", *path == '/' ? "" : "/",
                     path);
    if (n < 0 || (size_t)n >= sizeof un->sun_path)
        return refuse(-ENAMETOOLONG, why, why_bytes,
                      "%.60s...: the path is too long for a socket (at most %zu characters)", text,
                      sizeof un->sun_path - 1);
    un->sun_family = AF_UNIX;
    addr->kind = KIND_UNIX;
    addr->len_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1);
    return 0;
}

static int parse_port(const char *text, bool for_listening, uint16_t *ret_port)
{
    char *end;
    if (!isdigit((unsigned char)*text)) return -EINVAL;
    errno = 0;
    unsigned long port = strtoul(text, &end, 10);
    if (errno || *end || port > 65535 || (!port && !for_listening)) return -EINVAL;
    *ret_port = (uint16_t)port;
    return 0;
}

/* Any interface, both families where the machine has both. */
static void fill_any(struct eg_addr *addr, uint16_t port)
{
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe >= 0) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr->sa;
        close(probe);
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        addr->len_bytes = sizeof *in6;
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)&addr->sa;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        addr->len_bytes = sizeof *in;
    }
}

static bool is_loopback(const struct addrinfo *ai)
{
    if (ai->ai_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)ai->ai_addr)->sin_addr.s_addr) >> 24) == 127;
    return ai->ai_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)ai->ai_addr)->sin6_addr);
}

static int parse_ip(const char *text, const char *prefix, bool for_listening, struct eg_addr *addr, char *why, size_t why_bytes)
{
    const char *rest = text + strlen(prefix);
    char host[128], usage[96];
    uint16_t port;
    const char *colon = strrchr(rest, ':');

    snprintf(usage, sizeof usage, "write %sHOST:PORT, an IPv6 address as %s[ADDRESS]:PORT", prefix, prefix);
    if (!colon || parse_port(colon + 1, for_listening, &port))
        return refuse(-EINVAL, why, why_bytes, "%s: no valid port, %s", text, usage);
    size_t len = (size_t)(colon - rest);
    if (len >= sizeof host) return refuse(-ENAMETOOLONG, why, why_bytes, "%s: the host name is too long", text);
    memcpy(host, rest, len);
    host[len] = 0;
    if (!len || !strcmp(host, "*")) {
        if (!for_listening) return refuse(-EINVAL, why, why_bytes, "%s: no host, %s", text, usage);
        fill_any(addr, port);
        return 0;
    }
    char *name = host;
    bool bracketed = host[0] == '[' && len > 2 && host[len - 1] == ']';
    if (bracketed) {
        host[len - 1] = 0;
        name++;
    }
    if (strpbrk(name, "[]") || (!bracketed && strchr(name, ':')))
        return refuse(-EINVAL, why, why_bytes, "%s: not an address, %s", text, usage);

    struct addrinfo hints = { .ai_family = bracketed ? AF_INET6 : AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = bracketed ? AI_NUMERICHOST : 0 },
                    *found = NULL;
    int error = getaddrinfo(name, NULL, &hints, &found);
    if (error || !found)
        return refuse(-ENOENT, why, why_bytes, "%s: cannot find host %s (%s): check the name", text, name,
                      error ? gai_strerror(error) : "no address");
    /* A loopback name has both families, but servers usually listen on 127.0.0.1 only. */
    const struct addrinfo *pick = found;
    for (const struct addrinfo *ai = found; ai && is_loopback(found); ai = ai->ai_next)
        if (ai->ai_family == AF_INET && is_loopback(ai)) {
            pick = ai;
            break;
        }
    memcpy(&addr->sa, pick->ai_addr, pick->ai_addrlen);
    addr->len_bytes = pick->ai_addrlen;
    if (pick->ai_family == AF_INET) ((struct sockaddr_in *)&addr->sa)->sin_port = htons(port);
    else ((struct sockaddr_in6 *)&addr->sa)->sin6_port = htons(port);
    freeaddrinfo(found);
    return 0;
}

int eg_addr_parse(const char *text, int for_listening, struct eg_addr *ret_addr, char *ret_why, size_t why_bytes)
{
    struct eg_addr addr;
    int r;

    memset(&addr, 0, sizeof addr);
    if (strlen(text) >= sizeof addr.text)
        return refuse(-ENAMETOOLONG, ret_why, why_bytes, "%.60s...: the address is too long (at most %zu characters)",
                      text, sizeof addr.text - 1);
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return refuse(-EINVAL, ret_why, why_bytes, "the address holds a control character");
    strcpy(addr.text, text);
    if (!strncmp(text, "unix:", 5)) r = parse_unix(text, text + 5, &addr, ret_why, why_bytes);
    else {
        size_t k = 0;
        while (k < N_IP_KINDS && strncmp(text, ip_kinds[k].prefix, strlen(ip_kinds[k].prefix))) k++;
        if (k == N_IP_KINDS || (for_listening && ip_kinds[k].kind == KIND_AUTO)) {
            r = refuse(-EINVAL, ret_why, why_bytes, "%s: not an address, write tcp:HOST:PORT, rdma:HOST:PORT%s or unix:PATH", text,
                       for_listening ? "" : ", auto:HOST:PORT");
        } else {
            addr.kind = ip_kinds[k].kind;
            r = parse_ip(text, ip_kinds[k].prefix, for_listening != 0, &addr, ret_why, why_bytes);
        }
    }
    if (r) return r;
    *ret_addr = addr;
    return 0;
}

char *eg_addr_format(uint32_t kind, const struct sockaddr *sa, socklen_t len_bytes, char *ret_text, size_t text_bytes)
{
    char host[INET6_ADDRSTRLEN] = "?";
    const char *prefix = "tcp:";

    for (size_t k = 0; k < N_IP_KINDS; k++)
        if (ip_kinds[k].kind == kind) prefix = ip_kinds[k].prefix;
    if (kind == KIND_UNIX || sa->sa_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)(const void *)sa;
        size_t n =
            len_bytes > offsetof(struct sockaddr_un, sun_path) ? len_bytes - offsetof(struct sockaddr_un, sun_path) : 0;
        snprintf(ret_text, text_bytes, "unix:%.*s", (int)strnlen(un->sun_path, n), un->sun_path);
    } else if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(ret_text, text_bytes, "%s[%s]:%u", prefix, host, ntohs(in6->sin6_port));
    } else if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(ret_text, text_bytes, "%s%s:%u", prefix, host, ntohs(in->sin_port));
    } else {
        snprintf(ret_text, text_bytes, "?");
    }
    return ret_text;
}

static const char size_units[] = "KMGTPE";

int eg_size_parse(const char *text, uint64_t *ret_bytes)
{
    const char *p = text;
    __uint128_t whole = 0, fraction = 0, scale = 1, bytes;
    int shift = 0;
    bool digits = false;

    for (; isdigit((unsigned char)*p); p++, digits = true)
        if ((whole = whole * 10 + (unsigned)(*p - '0')) > UINT64_MAX) return -ERANGE;
    if (*p == '.') {
        if (!digits || !isdigit((unsigned char)p[1])) return -EINVAL;
        for (p++; isdigit((unsigned char)*p); p++)
            if (scale < 1000000000) {
                fraction = fraction * 10 + (unsigned)(*p - '0');
                scale *= 10;
            }
    }
    if (!digits) return -EINVAL;
    if (*p && *p != 'B' && *p != 'b') {
        const char *unit = strchr(size_units, toupper((unsigned char)*p));
        if (!unit) return -EINVAL;
        shift = 10 * (int)(unit - size_units + 1);
        p++;
        if (*p == 'i') {
            if (p[1] != 'B') return -EINVAL;
            p++;
        }
    } else if (scale > 1) {
        return -EINVAL; /* a fraction of a byte */
    }
    if (*p == 'B' || *p == 'b') p++;
    if (*p) return -EINVAL;
    bytes = (whole << shift) + (fraction << shift) / scale;
    if (bytes > UINT64_MAX) return -ERANGE;
    *ret_bytes = (uint64_t)bytes;
    return 0;
}

char *eg_size_format(uint64_t bytes, char *ret_text, size_t text_bytes)
{
    int unit = 0;
    double value = (double)bytes;

    while (value >= 1023.5 && unit < 6) {
        value /= 1024;
        unit++;
    }
    int decimals = !unit || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    char number[32];
    snprintf(number, sizeof number, "%.*f", decimals, value);
    if (decimals) {
        char *end = number + strlen(number);
        while (end[-1] == '0') *--end = 0;
        if (end[-1] == '.') *--end = 0;
    }
    snprintf(ret_text, text_bytes, "%s%.1s", number, unit ? &size_units[unit - 1] : "");
    return ret_text;
}
