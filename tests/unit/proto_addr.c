/* Addresses and sizes as users write them. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>
#include "client/pager/eg_pool.h"
#include "proto/eg_addr.h"
#include "tests/unit/unit_suite.h"

static const struct {
    const char *text;
    int for_listening, result;
    const char *formatted; /* or what the message contains */
} addresses[] = {
    { "tcp:127.0.0.1:80", 0, 0, "tcp:127.0.0.1:80" },
    { "tcp:127.0.0.1:65535", 0, 0, "tcp:127.0.0.1:65535" },
    { "tcp:localhost:80", 0, 0, "tcp:127.0.0.1:80" },
    { "tcp:[::1]:80", 0, 0, "tcp:[::1]:80" },
    { "tcp:127.0.0.1:0", 1, 0, "tcp:127.0.0.1:0" },
    { "unix:/run/x", 0, 0, "unix:/run/x" },
    { "tcp:127.0.0.1:0", 0, -EINVAL, "no valid port" },
    { "tcp:127.0.0.1:65536", 0, -EINVAL, "no valid port" },
    { "tcp:127.0.0.1:-1", 0, -EINVAL, "no valid port" },
    { "tcp:127.0.0.1: 1", 0, -EINVAL, "no valid port" },
    { "tcp:127.0.0.1:8x", 0, -EINVAL, "no valid port" },
    { "tcp:127.0.0.1", 0, -EINVAL, "no valid port" },
    { "tcp:::1:80", 0, -EINVAL, "[ADDRESS]" },
    { "tcp:[nonsense]:80", 0, -ENOENT, "cannot find host" },
    { "tcp:name.invalid:80", 0, -ENOENT, "cannot find host name.invalid" },
    { "tcp::80", 0, -EINVAL, "no host" },
    { "tcp:*:80", 0, -EINVAL, "no host" },
    { "unix:", 0, -EINVAL, "path is missing" },
    { "rdma:127.0.0.1:1", 0, 0, "rdma:127.0.0.1:1" },
    { "rdma:[::1]:80", 0, 0, "rdma:[::1]:80" },
    { "rdma:*:80", 0, -EINVAL, "write rdma:HOST:PORT" },
    { "rdma:127.0.0.1", 0, -EINVAL, "write rdma:HOST:PORT, an IPv6 address as rdma:[ADDRESS]:PORT" },
    { "auto:127.0.0.1:1", 0, 0, "auto:127.0.0.1:1" },
    { "auto:127.0.0.1:1", 1, -EINVAL, "write tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH" },
    { "", 0, -EINVAL, "write tcp:HOST:PORT, rdma:HOST:PORT, auto:HOST:PORT or unix:PATH" },
    { "127.0.0.1:80", 0, -EINVAL, "write tcp:HOST:PORT, rdma:" },
    { "unix:/a\nb", 0, -EINVAL, "control character" },
    { "unix:/"
      "012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890",
      0, -ENAMETOOLONG, "too long" },
    { "unix:/"
      "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901"
      "2345678901234567",
      0, -ENAMETOOLONG, "too long" },
};

START_TEST(address_is_read_or_refused)
{
    struct eg_addr addr = { .kind = 77 };
    char why[256] = "", text[160];
    int r = eg_addr_parse(addresses[_i].text, addresses[_i].for_listening, &addr, why, sizeof why);
    ck_assert_msg(r == addresses[_i].result, "%s: %d %s", addresses[_i].text, r, why);
    if (r) {
        ck_assert_msg(strstr(why, addresses[_i].formatted) && !strchr(why, '\n'), "%s", why);
        ck_assert_uint_eq(addr.kind, 77);
        return;
    }
    ck_assert_str_eq(addr.text, addresses[_i].text);
    static const uint32_t kinds[] = { ['t'] = EG_ADDR_TCP, ['r'] = EG_ADDR_RDMA, ['a'] = EG_ADDR_AUTO, ['u'] = EG_ADDR_UNIX };
    ck_assert_uint_eq(addr.kind, kinds[(unsigned char)addresses[_i].text[0]]);
    ck_assert_str_eq(eg_addr_format(addr.kind, (struct sockaddr *)&addr.sa, addr.len_bytes, text, sizeof text),
                     addresses[_i].formatted);
}
END_TEST

START_TEST(any_interface_is_for_servers)
{
    static const char *const texts[] = { "tcp:*:7000", "tcp::7000" };
    for (int i = 0; i < 2; i++) {
        struct eg_addr addr;
        char why[256];
        ck_assert_int_eq(eg_addr_parse(texts[i], 1, &addr, why, sizeof why), 0);
        if (addr.sa.ss_family == AF_INET6) {
            ck_assert(IN6_IS_ADDR_UNSPECIFIED(&((struct sockaddr_in6 *)&addr.sa)->sin6_addr));
            ck_assert_uint_eq(ntohs(((struct sockaddr_in6 *)&addr.sa)->sin6_port), 7000);
        } else {
            ck_assert_uint_eq(((struct sockaddr_in *)&addr.sa)->sin_addr.s_addr, INADDR_ANY);
        }
    }
}
END_TEST

/* The program may change directory before it connects. */
START_TEST(relative_path_becomes_absolute)
{
    struct eg_addr addr;
    char why[256];
    ck_assert_int_eq(chdir("/tmp"), 0);
    ck_assert_int_eq(eg_addr_parse("unix:here", 0, &addr, why, sizeof why), 0);
    ck_assert_str_eq(((struct sockaddr_un *)&addr.sa)->sun_path, "/tmp/here");
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_int_eq(eg_addr_parse("unix:here", 0, &addr, why, sizeof why), 0);
    ck_assert_str_eq(((struct sockaddr_un *)&addr.sa)->sun_path, "/here");
}
END_TEST

static const struct {
    const char *text;
    int result;
    uint64_t bytes;
} sizes[] = {
    { "0", 0, 0 },
    { "4096", 0, 4096 },
    { "64M", 0, 64ull << 20 },
    { "64m", 0, 64ull << 20 },
    { "1.5G", 0, 3ull << 29 },
    { "2GiB", 0, 2ull << 30 },
    { "2GB", 0, 2ull << 30 },
    { "7B", 0, 7 },
    { "0.25K", 0, 256 },
    { "1T", 0, 1ull << 40 },
    { "15E", 0, 15ull << 60 },
    { "18446744073709551615", 0, UINT64_MAX },
    { "18446744073709551616", -ERANGE, 0 },
    { "99999999999999999999999999999999999999999999999", -ERANGE, 0 },
    { "16E", -ERANGE, 0 },
    { "", -EINVAL, 0 },
    { "-1", -EINVAL, 0 },
    { "+1", -EINVAL, 0 },
    { " 1", -EINVAL, 0 },
    { "1 M", -EINVAL, 0 },
    { "M", -EINVAL, 0 },
    { ".5M", -EINVAL, 0 },
    { "1.M", -EINVAL, 0 },
    { "1.5", -EINVAL, 0 },
    { "1X", -EINVAL, 0 },
    { "1Mi", -EINVAL, 0 },
    { "1MBB", -EINVAL, 0 },
    { "0x10", -EINVAL, 0 },
    { "nan", -EINVAL, 0 },
};

START_TEST(size_is_read_or_refused)
{
    uint64_t bytes = 42;
    ck_assert_msg(eg_size_parse(sizes[_i].text, &bytes) == sizes[_i].result, "%s", sizes[_i].text);
    ck_assert_uint_eq(bytes, sizes[_i].result ? 42 : sizes[_i].bytes);
}
END_TEST

START_TEST(size_is_shown_with_three_digits)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = { { 0, "0" },
                 { 1000, "1000" },
                 { 1024, "1K" },
                 { 64ull << 20, "64M" },
                 { 3ull << 29, "1.5G" },
                 { 1023, "1023" },
                 { 1048575, "1M" },
                 { 25165824000, "23.4G" },
                 { 123ull << 30, "123G" },
                 { 1000ull << 20, "1000M" },
                 { UINT64_MAX, "16E" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[16];
        ck_assert_str_eq(eg_size_format(rows[i].bytes, text, sizeof text), rows[i].text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("proto_addr");
    TCase *tc = unit_case(suite, "addr", 60);
    tcase_add_loop_test(tc, address_is_read_or_refused, 0, sizeof addresses / sizeof *addresses);
    tcase_add_test(tc, any_interface_is_for_servers);
    tcase_add_test(tc, relative_path_becomes_absolute);
    tcase_add_loop_test(tc, size_is_read_or_refused, 0, sizeof sizes / sizeof *sizes);
    tcase_add_test(tc, size_is_shown_with_three_digits);
    return unit_run(suite);
}
