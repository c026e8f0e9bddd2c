/* The memory server as its peers see it: a real daemon over unix and tcp sockets. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "proto/eg_control_client.h"
#include "tests/unit/memserver_peer.h"
#include "tests/unit/unit_suite.h"

#define SLAB ((uint64_t)EG_SLAB_BYTES)
#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static struct daemon d;
static uint8_t page[EG_PAGE_BYTES], back[EG_DATA_MAX_BYTES], large[EG_DATA_MAX_BYTES];

static bool eventually_stored(uint64_t bytes)
{
    for (int i = 0; i < 200; i++) {
        if (peer_stats(&d.unix_addr).stored_bytes == bytes) return true;
        usleep(50000);
    }
    return false;
}

START_TEST(shared_memory_is_read_and_written_by_the_client)
{
    struct peer a, b;
    uint32_t slabs[4];

    daemon_start(&d, OPTIONS("--capacity", "64M"));
    peer_open(&a, &d.unix_addr, 1, 0);
    ck_assert_uint_eq(a.arena_bytes, 64u << 20);
    ck_assert_uint_eq(peer_reserve(&a, 4), 0);
    ck_assert_uint_eq(peer_lease(&a, 4, slabs, NULL), 4);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pread(a.memfd, back, sizeof back, (off_t)(slabs[i] * SLAB)), sizeof back);
        for (size_t k = 0; k < sizeof back; k++) ck_assert_uint_eq(back[k], 0);
        pattern_fill(page, sizeof page, slabs[i]);
        ck_assert_int_eq(pwrite(a.memfd, page, sizeof page, (off_t)(slabs[i] * SLAB)), sizeof page);
    }
    /* The slabs' pages exist before the client touches them: they are charged to the server. */
    struct stat st;
    ck_assert_int_eq(fstat(a.memfd, &st), 0);
    ck_assert_int_eq(st.st_blocks * 512, 4 * SLAB);
    ck_assert_int_eq(fcntl(a.memfd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    /* Another process of the same run shares the arena, a stranger does not. */
    peer_open(&b, &d.unix_addr, 1, 0);
    ck_assert_int_eq(pread(b.memfd, page, sizeof page, (off_t)(slabs[2] * SLAB)), sizeof page);
    ck_assert(pattern_is(page, sizeof page, slabs[2]));
    peer_close(&b);
    peer_open(&b, &d.unix_addr, 2, 0);
    ck_assert_int_eq(pread(b.memfd, page, sizeof page, (off_t)(slabs[2] * SLAB)), sizeof page);
    for (size_t k = 0; k < sizeof page; k++) ck_assert_uint_eq(page[k], 0);
    peer_close(&b);
    ck_assert_uint_eq(peer_return(&a, slabs, 4), 0);
    ck_assert(eventually_stored(0));
    peer_close(&a);
    daemon_stop(&d);
}
END_TEST

START_TEST(tcp_reads_back_what_it_wrote)
{
    struct peer a;
    uint32_t slabs[8], n = 0;

    daemon_start(&d, OPTIONS("--capacity", "64M", "--data-threads", "2"));
    peer_open(&a, &d.tcp_addr, 1, 0);
    ck_assert_uint_eq(peer_lease(&a, 8, slabs, NULL), 8);
    peer_attach(&a, &d.tcp_addr);
    /* Many small ones in flight. */
    for (n = 0; n < 512; n++) {
        pattern_fill(page, sizeof page, n);
        peer_send_write(&a, slabs[n % 8] * SLAB + (n / 8) * EG_PAGE_BYTES, page, sizeof page);
    }
    for (n = 0; n < 512; n++) ck_assert_uint_eq(peer_reply(&a, NULL, NULL), 0);
    for (n = 0; n < 512; n++) peer_send_read(&a, slabs[n % 8] * SLAB + (n / 8) * EG_PAGE_BYTES, EG_PAGE_BYTES);
    for (n = 0; n < 512; n++) {
        uint32_t len;
        ck_assert_uint_eq(peer_reply(&a, back, &len), 0);
        ck_assert_uint_eq(len, EG_PAGE_BYTES);
        ck_assert(pattern_is(back, len, n));
    }
    /* Large ones, odd ones, and one that crosses from a slab into the next. */
    static const uint32_t lengths[] = { EG_DATA_MAX_BYTES, 1, 4097, EG_DATA_MAX_BYTES - 1, 16384 - 32, 16384 };
    for (n = 0; n < 6; n++) {
        pattern_fill(large, lengths[n], 1000 + n);
        ck_assert_uint_eq(peer_write(&a, slabs[0] * SLAB + 77 * n, large, lengths[n]), 0);
        ck_assert_uint_eq(peer_read(&a, slabs[0] * SLAB + 77 * n, back, lengths[n]), 0);
        ck_assert(pattern_is(back, lengths[n], 1000 + n));
    }
    ck_assert_uint_eq(slabs[1], slabs[0] + 1);
    ck_assert_uint_eq(peer_write(&a, slabs[1] * SLAB - 5000, large, 10000), 0);
    ck_assert_uint_eq(peer_read(&a, slabs[1] * SLAB - 5000, back, 10000), 0);
    ck_assert_mem_eq(back, large, 10000);
    /* Refusals leave the connection usable. */
    ck_assert_uint_eq(peer_read(&a, (slabs[7] + 1) * SLAB, back, 4096), EG_STATUS_RANGE);
    ck_assert_uint_eq(peer_read(&a, (slabs[7] + 1) * SLAB - 1, back, 2), EG_STATUS_RANGE);
    ck_assert_uint_eq(peer_read(&a, a.arena_bytes, back, 1), EG_STATUS_RANGE);
    ck_assert_uint_eq(peer_read(&a, UINT64_MAX - 100, back, 4096), EG_STATUS_RANGE);
    ck_assert_uint_eq(peer_write(&a, UINT64_MAX, large, sizeof large), EG_STATUS_RANGE);
    ck_assert_uint_eq(peer_read(&a, 0, back, 0), EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_write(&a, 0, large, 0), EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_return(&a, &slabs[3], 1), 0);
    ck_assert_uint_eq(peer_write(&a, slabs[3] * SLAB, large, 100), EG_STATUS_RANGE);
    ck_assert_uint_eq(peer_write(&a, slabs[4] * SLAB, large, 100), 0);
    Endgame__StatsReply stats = peer_stats(&d.tcp_addr);
    ck_assert_uint_eq(stats.writes, 512 + 6 + 1 + 1);
    ck_assert_uint_eq(stats.reads, 512 + 6 + 1);
    ck_assert_uint_eq(stats.bad_frames, 0);
    ck_assert_uint_eq(stats.stored_bytes, 7 * SLAB);
    peer_close(&a);
    ck_assert(eventually_stored(0));
    daemon_stop(&d);
}
END_TEST

START_TEST(requests_sent_behind_attach_are_served)
{
    struct peer a;
    uint32_t slabs[1];
    uint8_t frames[256];
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Attach body = ENDGAME__ATTACH__INIT;

    daemon_start(&d, OPTIONS("--capacity", "8M"));
    peer_open(&a, &d.tcp_addr, 1, 0);
    ck_assert_uint_eq(peer_lease(&a, 1, slabs, NULL), 1);
    body.agent = a.agent;
    body.secret = a.secret;
    request.version = EG_WIRE_VERSION;
    request.body_case = ENDGAME__REQUEST__BODY_ATTACH;
    request.attach = &body;
    struct eg_frame attach = { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL };
    attach.len_bytes = (uint32_t)endgame__request__pack(&request, frames + sizeof attach);
    memcpy(frames, &attach, sizeof attach);
    struct eg_frame read = { .magic = EG_WIRE_MAGIC,
                             .type = EG_FRAME_READ,
                             .arg = 64,
                             .offset = slabs[0] * SLAB,
                             .cookie = (slabs[0] * SLAB) ^ 64 };
    memcpy(frames + sizeof attach + attach.len_bytes, &read, sizeof read);
    a.data = peer_connect(&d.tcp_addr);
    peer_send_all(a.data, frames, sizeof attach + attach.len_bytes + sizeof read - 3);
    usleep(20000);
    peer_send_all(a.data, (uint8_t *)&read + sizeof read - 3, 3);
    ck_assert(peer_recv_all(a.data, &attach, sizeof attach));
    ck_assert_uint_eq(attach.status, 0);
    ck_assert(peer_recv_all(a.data, frames, attach.len_bytes));
    ck_assert_uint_eq(peer_reply(&a, back, NULL), 0);
    /* With a wrong secret nothing is given. */
    body.secret++;
    int fd = peer_connect(&d.tcp_addr);
    Endgame__Reply *reply = peer_ask(fd, 1, &request);
    ck_assert_uint_eq(reply->status, EG_STATUS_NOENT);
    endgame__reply__free_unpacked(reply, NULL);
    ck_assert(peer_hung_up(fd, 5000));
    close(fd);
    peer_close(&a);
    daemon_stop(&d);
}
END_TEST

START_TEST(snapshot_shares_slabs_until_a_write)
{
    struct peer parent, child, late;
    uint32_t slabs[3], fresh[3], same[3];

    daemon_start(&d, OPTIONS("--capacity", "64M"));
    peer_open(&parent, &d.tcp_addr, 1, 0);
    peer_attach(&parent, &d.tcp_addr);
    ck_assert_uint_eq(peer_lease(&parent, 3, slabs, NULL), 3);
    for (uint32_t i = 0; i < 3; i++) {
        pattern_fill(large, sizeof large, i);
        ck_assert_uint_eq(peer_write(&parent, slabs[i] * SLAB + SLAB - sizeof large, large, sizeof large), 0);
    }
    uint64_t snapshot = peer_snapshot(&parent);
    ck_assert_uint_eq(peer_write(&parent, slabs[0] * SLAB, large, 100), EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_open_status(&d.tcp_addr, 1, snapshot + 1), EG_STATUS_NOENT);
    ck_assert_uint_eq(peer_open_status(&d.tcp_addr, 2, snapshot), EG_STATUS_NOENT);
    peer_open(&child, &d.tcp_addr, 1, snapshot);
    peer_attach(&child, &d.tcp_addr);
    ck_assert_uint_eq(peer_open_status(&d.tcp_addr, 1, snapshot), EG_STATUS_NOENT);
    ck_assert_uint_eq(peer_write(&child, slabs[1] * SLAB, large, 100), EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_stats(&d.tcp_addr).stored_bytes, 3 * SLAB);

    ck_assert_uint_eq(peer_break(&parent, slabs, 2, fresh), 0);
    ck_assert_uint_ne(fresh[0], slabs[0]);
    ck_assert_uint_ne(fresh[1], slabs[1]);
    ck_assert_uint_eq(peer_stats(&d.tcp_addr).stored_bytes, 5 * SLAB);
    ck_assert_uint_eq(peer_read(&parent, slabs[0] * SLAB, back, 100), EG_STATUS_RANGE);
    ck_assert_uint_eq(peer_read(&parent, fresh[0] * SLAB + SLAB - sizeof large, back, sizeof large), 0);
    ck_assert(pattern_is(back, sizeof large, 0));
    pattern_fill(large, sizeof large, 100);
    ck_assert_uint_eq(peer_write(&parent, fresh[1] * SLAB + SLAB - sizeof large, large, sizeof large), 0);
    ck_assert_uint_eq(peer_read(&child, slabs[1] * SLAB + SLAB - sizeof large, back, sizeof large), 0);
    ck_assert(pattern_is(back, sizeof large, 1));
    /* The child alone holds 0 and 1 now; 2 is still shared. */
    ck_assert_uint_eq(peer_break(&child, slabs, 2, same), 0);
    ck_assert_mem_eq(same, slabs, 2 * sizeof *same);
    ck_assert_uint_eq(peer_write(&child, slabs[0] * SLAB, large, 100), 0);
    ck_assert_uint_eq(peer_write(&child, slabs[2] * SLAB, large, 100), EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_break(&child, (uint32_t[]){ slabs[2], slabs[2] }, 2, same), EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_break(&child, fresh, 1, same), EG_STATUS_NOENT);

    /* A snapshot that nobody opens. */
    snapshot = peer_snapshot(&parent);
    ck_assert_uint_eq(peer_write(&parent, fresh[0] * SLAB, large, 100), EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_drop_snapshot(&child, snapshot), 0);
    ck_assert_uint_eq(peer_drop_snapshot(&child, snapshot), EG_STATUS_NOENT);
    ck_assert_uint_eq(peer_write(&parent, fresh[0] * SLAB, large, 100), 0);

    /* The parent may die before its child opens. */
    snapshot = peer_snapshot(&parent);
    peer_close(&child);
    peer_close(&parent);
    ck_assert(eventually_stored(3 * SLAB));
    peer_open(&late, &d.tcp_addr, 1, snapshot);
    peer_attach(&late, &d.tcp_addr);
    ck_assert_uint_eq(peer_read(&late, fresh[1] * SLAB + SLAB - sizeof large, back, sizeof large), 0);
    ck_assert(pattern_is(back, sizeof large, 100));
    peer_close(&late);
    ck_assert(eventually_stored(0));
    daemon_stop(&d);
}
END_TEST

START_TEST(snapshot_nobody_opens_does_not_keep_the_session)
{
    struct peer a;
    uint32_t slabs[2];
    daemon_start(&d, OPTIONS("--capacity", "64M"));
    peer_open(&a, &d.unix_addr, 1, 0);
    ck_assert_uint_eq(peer_lease(&a, 2, slabs, NULL), 2);
    (void)peer_snapshot(&a);
    peer_close(&a);
    ck_assert(eventually_stored(0));
    daemon_stop(&d);
}
END_TEST

START_TEST(quota_limits_one_session)
{
    struct peer a, b, other;
    uint32_t slabs[16], status;

    daemon_start(&d, OPTIONS("--capacity", "64M", "--quota", "8M"));
    peer_open(&a, &d.unix_addr, 1, 0);
    ck_assert_uint_eq(a.arena_bytes, 8u << 20);
    peer_open(&b, &d.unix_addr, 1, 0);
    ck_assert_uint_eq(peer_reserve(&a, 5), EG_STATUS_QUOTA);
    ck_assert_uint_eq(peer_reserve(&a, UINT64_MAX), EG_STATUS_QUOTA);
    ck_assert_uint_eq(peer_reserve(&a, 3), 0);
    ck_assert_uint_eq(peer_reserve(&b, 2), EG_STATUS_QUOTA);
    ck_assert_uint_eq(peer_lease(&b, 16, slabs, NULL), 1);
    ck_assert_uint_eq(peer_lease(&b, 1, slabs, &status), 0);
    ck_assert_uint_eq(status, EG_STATUS_QUOTA);
    ck_assert_uint_eq(peer_lease(&a, 16, slabs, NULL), 3);
    peer_open(&other, &d.unix_addr, 2, 0);
    ck_assert_uint_eq(peer_lease(&other, 16, slabs, NULL), 4);
    peer_close(&a);
    peer_close(&b);
    peer_close(&other);
    daemon_stop(&d);
}
END_TEST

START_TEST(capacity_is_promised_once)
{
    struct peer a, b;
    uint32_t slabs[16], status;

    daemon_start(&d, OPTIONS("--capacity", "16M"));
    peer_open(&a, &d.unix_addr, 1, 0);
    peer_open(&b, &d.tcp_addr, 2, 0);
    ck_assert_uint_eq(peer_reserve(&a, 6), 0);
    ck_assert_uint_eq(peer_reserve(&b, 3), EG_STATUS_NOSPACE);
    ck_assert_uint_eq(peer_reserve(&b, 2), 0);
    ck_assert_uint_eq(peer_reserve(&b, UINT64_MAX), EG_STATUS_NOSPACE);
    ck_assert_uint_eq(peer_lease(&b, 16, slabs, NULL), 2);
    ck_assert_uint_eq(peer_lease(&b, 1, slabs, &status), 0);
    ck_assert_uint_eq(status, EG_STATUS_NOSPACE);
    ck_assert_uint_eq(peer_lease(&b, 0, slabs, &status), 0);
    ck_assert_uint_eq(status, EG_STATUS_INVALID);
    ck_assert_uint_eq(peer_lease(&a, 4, slabs, NULL), 4);
    Endgame__StatsReply stats = peer_stats(&d.tcp_addr);
    ck_assert_uint_eq(stats.stored_bytes, 6 * SLAB);
    ck_assert_uint_eq(stats.promised_bytes, 2 * SLAB);
    /* No room for a second copy: the slab stays shared and as it was. */
    ck_assert_uint_eq(peer_lease(&a, 2, slabs + 4, NULL), 2);
    uint64_t snapshot = peer_snapshot(&a);
    ck_assert_uint_eq(peer_break(&a, slabs, 1, slabs + 8), EG_STATUS_NOSPACE);
    ck_assert_uint_eq(peer_drop_snapshot(&a, snapshot), 0);
    ck_assert_uint_eq(peer_break(&a, slabs, 1, slabs + 8), 0);
    ck_assert_uint_eq(slabs[8], slabs[0]);
    peer_close(&a);
    ck_assert(eventually_stored(2 * SLAB));
    ck_assert_uint_eq(peer_reserve(&b, 8), 0);
    ck_assert_uint_eq(peer_lease(&b, 16, slabs, NULL), 6);
    peer_close(&b);
    daemon_stop(&d);
}
END_TEST

START_TEST(killed_client_frees_its_slabs)
{
    struct peer stays;
    uint32_t slabs[8];
    int ready[2];

    daemon_start(&d, OPTIONS("--capacity", "64M"));
    peer_open(&stays, &d.unix_addr, 1, 0);
    ck_assert_uint_eq(peer_lease(&stays, 1, slabs, NULL), 1);
    ck_assert_int_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (!pid) {
        struct peer peers[3];
        peer_open(&peers[0], &d.unix_addr, 1, 0);
        peer_open(&peers[1], &d.tcp_addr, 2, 0);
        peer_attach(&peers[1], &d.tcp_addr);
        peer_open(&peers[2], &d.unix_addr, 3, 0);
        for (int i = 0; i < 3; i++) ck_assert_uint_eq(peer_lease(&peers[i], 8, slabs, NULL), 8);
        ck_assert_int_eq(write(ready[1], "", 1), 1);
        pause();
    }
    char c;
    ck_assert_int_eq(read(ready[0], &c, 1), 1);
    ck_assert_uint_eq(peer_stats(&d.unix_addr).stored_bytes, 25 * SLAB);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    ck_assert(eventually_stored(SLAB));
    /* The slabs of a session that lives on leave the machine's memory soon, too. */
    struct stat st;
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(fstat(stays.memfd, &st), 0);
        if (st.st_blocks * 512 == (blkcnt_t)SLAB) break;
        usleep(50000);
    }
    ck_assert_int_eq(st.st_blocks * 512, SLAB);
    peer_close(&stays);
    daemon_stop(&d);
}
END_TEST

START_TEST(data_connection_ends_with_its_agent)
{
    struct peer a;
    uint32_t slabs[1];
    daemon_start(&d, OPTIONS("--capacity", "8M"));
    peer_open(&a, &d.tcp_addr, 1, 0);
    ck_assert_uint_eq(peer_lease(&a, 1, slabs, NULL), 1);
    peer_attach(&a, &d.tcp_addr);
    ck_assert_uint_eq(peer_read(&a, slabs[0] * SLAB, back, 4096), 0);
    shutdown(a.fd, SHUT_WR);
    ck_assert(peer_hung_up(a.data, 5000));
    peer_close(&a);
    daemon_stop(&d);
}
END_TEST

/* A reply under way keeps what the slab held when it was asked for, whatever becomes of the slab. */
START_TEST(slow_reader_gets_what_it_asked_for)
{
    struct peer a, b;
    enum { ASKED = 100 };
    uint32_t slabs[4], again[64], n;

    daemon_start(&d, OPTIONS("--capacity", "16M"));
    peer_open(&a, &d.tcp_addr, 1, 0);
    peer_attach(&a, &d.tcp_addr);
    ck_assert_uint_eq(peer_lease(&a, 4, slabs, NULL), 4);
    for (uint32_t i = 0; i < 4; i++) {
        pattern_fill(large, sizeof large, i);
        for (uint32_t k = 0; k < 8; k++)
            ck_assert_uint_eq(peer_write(&a, slabs[i] * SLAB + k * sizeof large, large, sizeof large), 0);
    }
    for (n = 0; n < ASKED; n++) peer_send_read(&a, slabs[n % 4] * SLAB + (n / 4 % 8) * sizeof large, sizeof large);
    usleep(200000);
    ck_assert_uint_eq(peer_return(&a, slabs, 4), 0);
    /* Others take the slabs over and write on them. */
    peer_open(&b, &d.tcp_addr, 1, 0);
    peer_attach(&b, &d.tcp_addr);
    uint32_t got = peer_lease(&b, 8, again, NULL);
    ck_assert_uint_eq(got, 8);
    memset(large, 0xee, sizeof large);
    for (uint32_t i = 0; i < got; i++)
        for (uint32_t k = 0; k < 8; k++)
            ck_assert_uint_eq(peer_write(&b, again[i] * SLAB + k * sizeof large, large, sizeof large), 0);
    uint32_t served = 0;
    for (n = 0; n < ASKED; n++) {
        uint32_t len, status = peer_reply(&a, back, &len);
        if (status == EG_STATUS_RANGE) continue; /* looked at after the return */
        ck_assert_uint_eq(status, 0);
        ck_assert_uint_eq(len, sizeof large);
        ck_assert_msg(pattern_is(back, len, n % 4), "reply %u", n);
        served++;
    }
    ck_assert_uint_ge(served, 16); /* the queue's limit: some did wait */
    ck_assert_uint_lt(served, ASKED);
    peer_close(&a);
    peer_close(&b);
    daemon_stop(&d);
}
END_TEST

struct bad {
    const char *what;
    bool data; /* on a data connection */
    struct eg_frame frame;
    uint32_t payload; /* bytes of rubbish sent behind it */
    bool half_close;
};

static const struct bad bad_peers[] = {
    { "wrong magic", false, { .magic = 0x20544547, .type = EG_FRAME_CONTROL }, 100, false },
    { "unknown type", false, { .magic = EG_WIRE_MAGIC, .type = 77 }, 0, false },
    { "data frame on a control connection",
      false,
      { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ, .arg = 4096 },
      0,
      false },
    { "flags", false, { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .flags = 1 }, 0, false },
    { "oversize",
      false,
      { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .len_bytes = EG_CONTROL_MAX_BYTES + 1 },
      0,
      false },
    { "huge", false, { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .len_bytes = UINT32_MAX }, 4096, false },
    { "rubbish for a message",
      false,
      { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .len_bytes = 4096 },
      4096,
      false },
    { "truncated", false, { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .len_bytes = 1000 }, 100, true },
    { "wrong magic", true, { .magic = 1, .type = EG_FRAME_READ, .arg = 4096 }, 0, false },
    { "control frame on a data connection", true, { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL }, 0, false },
    { "reply frame", true, { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ_REPLY }, 0, false },
    { "oversize read",
      true,
      { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ, .arg = EG_DATA_MAX_BYTES + 1 },
      0,
      false },
    { "read with payload",
      true,
      { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ, .arg = 1, .len_bytes = 1 },
      1,
      false },
    { "oversize write",
      true,
      { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_WRITE, .len_bytes = EG_DATA_MAX_BYTES + 1 },
      5000,
      false },
    { "truncated write", true, { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_WRITE, .len_bytes = 4096 }, 100, true },
};

START_TEST(bad_peer_is_dropped_others_are_served)
{
    const struct bad *bad = &bad_peers[_i];
    struct peer good, evil;
    uint32_t slabs[1];
    uint8_t rubbish[5000];
    const struct eg_addr *addresses[2] = { &d.tcp_addr, &d.unix_addr };

    memset(rubbish, 0xa5, sizeof rubbish);
    daemon_start(&d, OPTIONS("--capacity", "16M"));
    peer_open(&good, &d.tcp_addr, 1, 0);
    peer_attach(&good, &d.tcp_addr);
    ck_assert_uint_eq(peer_lease(&good, 1, slabs, NULL), 1);
    for (int i = 0; i < (bad->data ? 1 : 2); i++) {
        int fd;
        uint64_t before = peer_stats(&d.tcp_addr).bad_frames;
        if (bad->data) {
            peer_open(&evil, addresses[i], 2, 0);
            peer_attach(&evil, addresses[i]);
            fd = evil.data;
        } else {
            fd = peer_connect(addresses[i]);
        }
        peer_send_all(fd, &bad->frame, sizeof bad->frame);
        peer_send_all(fd, rubbish, bad->payload);
        if (bad->half_close) shutdown(fd, SHUT_WR);
        pattern_fill(page, sizeof page, 5);
        ck_assert_uint_eq(peer_write(&good, slabs[0] * SLAB, page, sizeof page), 0);
        ck_assert_uint_eq(peer_read(&good, slabs[0] * SLAB, back, sizeof page), 0);
        ck_assert_mem_eq(back, page, sizeof page);
        ck_assert_msg(peer_hung_up(fd, 5000), "%s: not dropped", bad->what);
        ck_assert_uint_eq(peer_stats(&d.tcp_addr).bad_frames, before + 1);
        if (bad->data) peer_close(&evil);
        else close(fd);
    }
    peer_close(&good);
    daemon_stop(&d);
}
END_TEST

START_TEST(request_without_a_session_is_refused_and_dropped)
{
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Snapshot body = ENDGAME__SNAPSHOT__INIT;
    daemon_start(&d, OPTIONS("--capacity", "16M"));
    request.version = EG_WIRE_VERSION;
    request.body_case = ENDGAME__REQUEST__BODY_SNAPSHOT;
    request.snapshot = &body;
    int fd = peer_connect(&d.unix_addr);
    Endgame__Reply *reply = peer_ask(fd, 1, &request);
    ck_assert_uint_eq(reply->status, EG_STATUS_INVALID);
    endgame__reply__free_unpacked(reply, NULL);
    ck_assert(peer_hung_up(fd, 5000));
    ck_assert_uint_eq(peer_stats(&d.unix_addr).bad_frames, 1);
    close(fd);
    daemon_stop(&d);
}
END_TEST

START_TEST(hanging_peers_are_dropped_after_a_while)
{
    struct eg_frame half = { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .len_bytes = 100 };
    int fds[4];
    struct peer quiet;

    daemon_start(&d, OPTIONS("--capacity", "16M"));
    peer_open(&quiet, &d.unix_addr, 1, 0);
    fds[0] = peer_connect(&d.tcp_addr); /* says nothing */
    fds[1] = peer_connect(&d.unix_addr);
    fds[2] = peer_connect(&d.tcp_addr); /* stops within a header */
    peer_send_all(fds[2], &half, 20);
    fds[3] = peer_connect(&d.unix_addr); /* stops within a message */
    peer_send_all(fds[3], &half, sizeof half);
    ck_assert_uint_eq(peer_stats(&d.unix_addr).bad_frames, 0);
    for (int i = 0; i < 4; i++) {
        ck_assert_msg(peer_hung_up(fds[i], 15000), "peer %d", i);
        close(fds[i]);
    }
    ck_assert_uint_eq(peer_stats(&d.unix_addr).bad_frames, 4);
    /* A program with a session may be silent for ever. */
    ck_assert_uint_eq(peer_reserve(&quiet, 1), 0);
    peer_close(&quiet);
    daemon_stop(&d);
}
END_TEST

START_TEST(other_version_is_told_ours_and_dropped)
{
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Ping body = ENDGAME__PING__INIT;
    daemon_start(&d, OPTIONS("--capacity", "16M"));
    request.version = EG_WIRE_VERSION + 1;
    request.body_case = ENDGAME__REQUEST__BODY_PING;
    request.ping = &body;
    int fd = peer_connect(&d.tcp_addr);
    Endgame__Reply *reply = peer_ask(fd, 1, &request);
    ck_assert_uint_eq(reply->status, EG_STATUS_VERSION);
    ck_assert_ptr_nonnull(strstr(reply->message, "version 1"));
    endgame__reply__free_unpacked(reply, NULL);
    ck_assert(peer_hung_up(fd, 5000));
    close(fd);
    daemon_stop(&d);
}
END_TEST

START_TEST(sigterm_ends_at_once_and_says_what_was_cut)
{
    struct peer a, b;
    uint32_t slabs[4];
    daemon_start(&d, OPTIONS("--capacity", "16M"));
    peer_open(&a, &d.unix_addr, 1, 0);
    peer_open(&b, &d.tcp_addr, 2, 0);
    peer_attach(&b, &d.tcp_addr);
    ck_assert_uint_eq(peer_lease(&a, 4, slabs, NULL), 4);
    pattern_fill(page, sizeof page, 9);
    ck_assert_int_eq(pwrite(a.memfd, page, sizeof page, (off_t)(slabs[3] * SLAB)), sizeof page);
    kill(d.pid, SIGTERM);
    ck_assert_int_eq(daemon_wait(&d), 0);
    ck_assert_ptr_nonnull(strstr(daemon_errors(&d), "ended by SIGTERM, 2 programs cut off\n"));
    ck_assert(peer_hung_up(a.fd, 1000) && peer_hung_up(b.fd, 1000) && peer_hung_up(b.data, 1000));
    ck_assert_int_eq(access(d.unix_text + 5, F_OK), -1);
    /* Shared memory outlives the server: what is there is right. */
    ck_assert_int_eq(pread(a.memfd, back, sizeof page, (off_t)(slabs[3] * SLAB)), sizeof page);
    ck_assert_mem_eq(back, page, sizeof page);
    peer_close(&a);
    peer_close(&b);
    daemon_stop(&d);
}
END_TEST

START_TEST(end_with_waits_for_the_last_session)
{
    int pipes[2];
    char number[16];
    struct peer a;
    ck_assert_int_eq(pipe(pipes), 0);
    fcntl(pipes[1], F_SETFD, FD_CLOEXEC);
    snprintf(number, sizeof number, "%d", pipes[0]);
    daemon_start(&d, OPTIONS("--capacity", "16M", "--end-with", number));
    peer_open(&a, &d.unix_addr, 1, 0);
    close(pipes[1]);
    usleep(200000);
    ck_assert_int_eq(waitpid(d.pid, NULL, WNOHANG), 0);
    ck_assert_uint_eq(peer_reserve(&a, 1), 0);
    peer_close(&a);
    ck_assert_int_eq(daemon_wait(&d), 0);
    ck_assert_str_eq(daemon_errors(&d), "");
    daemon_stop(&d);
}
END_TEST

START_TEST(drain_refuses_newcomers_and_ends_with_the_last_session)
{
    struct peer a, b;
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Drain body = ENDGAME__DRAIN__INIT;
    Endgame__Reply *reply = NULL;
    char why[256];

    daemon_start(&d, OPTIONS("--capacity", "16M"));
    peer_open(&a, &d.unix_addr, 1, 0);
    request.body_case = ENDGAME__REQUEST__BODY_DRAIN;
    request.drain = &body;
    ck_assert_int_eq(eg_control_call(&d.tcp_addr, &request, 5000, &reply, why, sizeof why), 0);
    endgame__reply__free_unpacked(reply, NULL);
    ck_assert_uint_eq(peer_open_status(&d.unix_addr, 2, 0), EG_STATUS_DRAINING);
    peer_open(&b, &d.unix_addr, 1, 0);
    ck_assert(peer_stats(&d.unix_addr).draining);
    peer_close(&a);
    ck_assert_uint_eq(peer_reserve(&b, 1), 0);
    peer_close(&b);
    ck_assert_int_eq(daemon_wait(&d), 0);
    daemon_stop(&d);
}
END_TEST

/* Runs the daemon to its end. Returns: exit status; *ret_text gets what it wrote on standard error. */
static int run(const char *const *argv, char *ret_text, size_t text_bytes)
{
    int err[2], status;
    ck_assert_int_eq(pipe(err), 0);
    pid_t pid = fork();
    if (!pid) {
        alarm(10);
        dup2(err[1], 2);
        execv(EG_MEMSERVER, (char *const *)argv);
        _exit(127);
    }
    close(err[1]);
    FILE *f = fdopen(err[0], "r");
    size_t n = fread(ret_text, 1, text_bytes - 1, f);
    ret_text[n] = 0;
    fclose(f);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

START_TEST(stale_socket_is_replaced_live_one_is_an_error)
{
    char text[1024], path[128], listen_text[160];
    daemon_start(&d, OPTIONS("--capacity", "16M"));
    ck_assert_int_eq(run(OPTIONS("endgame-memserver", "--listen", d.unix_text, "--capacity", "16M"), text, sizeof text),
                     1);
    ck_assert_ptr_nonnull(strstr(text, "another server listens there"));
    ck_assert_int_eq(run(OPTIONS("endgame-memserver", "--listen", d.tcp_text, "--capacity", "16M"), text, sizeof text),
                     1);
    ck_assert_ptr_nonnull(strstr(text, "another server listens there"));
    ck_assert_uint_eq(peer_stats(&d.unix_addr).bad_frames, 0);
    struct stat st;
    ck_assert_int_eq(stat(d.unix_text + 5, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    /* Not a socket. */
    snprintf(path, sizeof path, "%s/errors", d.dir);
    snprintf(listen_text, sizeof listen_text, "unix:%s", path);
    ck_assert_int_eq(run(OPTIONS("endgame-memserver", "--listen", listen_text, "--capacity", "16M"), text, sizeof text),
                     1);
    ck_assert_int_eq(access(path, F_OK), 0);
    /* Killed without a chance to clean up. */
    kill(d.pid, SIGKILL);
    ck_assert_int_eq(daemon_wait(&d), 128 + SIGKILL);
    ck_assert_int_eq(access(d.unix_text + 5, F_OK), 0);
    struct daemon second;
    char old[128];
    strcpy(old, d.unix_text);
    daemon_start(&second, OPTIONS("--listen", old, "--capacity", "16M"));
    ck_assert_uint_eq(peer_stats(&d.unix_addr).bad_frames, 0);
    daemon_stop(&second);
    ck_assert_int_eq(access(old + 5, F_OK), -1);
    daemon_stop(&d);
}
END_TEST

static const struct {
    const char *const argv[8];
    int status;
    const char *says;
} lines[] = {
    { { "endgame-memserver" }, 2, "endgame-memserver: no --listen ADDR (see --help)\n" },
    { { "endgame-memserver", "--bogus" }, 2, "endgame-memserver: --bogus: unknown option (see --help)\n" },
    { { "endgame-memserver", "--listen" }, 2, "endgame-memserver: --listen: an argument is missing (see --help)\n" },
    { { "endgame-memserver", "--listen", "udp:1" },
      2,
      "endgame-memserver: --listen udp:1: not an address, write tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH (see --help)\n" },
    { { "endgame-memserver", "--listen", "unix:/tmp/x", "--capacity", "lots" },
      2,
      "endgame-memserver: --capacity lots: not a size, write for example 64G (see --help)\n" },
    { { "endgame-memserver", "--listen", "unix:/tmp/x", "--capacity", "1M" },
      2,
      "endgame-memserver: --capacity 1M: too small, at least 2M (see --help)\n" },
    { { "endgame-memserver", "--listen", "unix:/tmp/x", "--quota", "900P" },
      2,
      "endgame-memserver: --quota 900P: too large, at most 64T (see --help)\n" },
    { { "endgame-memserver", "--listen", "unix:/tmp/x", "extra" },
      2,
      "endgame-memserver: extra: not an option (see --help)\n" },
    { { "endgame-memserver", "--listen", "unix:/nonexistent/x", "--capacity", "2M" },
      1,
      "endgame-memserver: unix:/nonexistent/x: no such directory: make it first\n" },
    { { "endgame-memserver", "--listen", "tcp:192.0.2.1:9", "--capacity", "2M" },
      1,
      "endgame-memserver: tcp:192.0.2.1:9: this machine does not have that address: see ip addr\n" },
};

START_TEST(wrong_command_lines_say_what_to_do)
{
    char text[1024];
    ck_assert_int_eq(run(lines[_i].argv, text, sizeof text), lines[_i].status);
    ck_assert_str_eq(text, lines[_i].says);
}
END_TEST

static int listening_socket(struct eg_addr *ret_addr)
{
    char text[64], why[128];
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    ck_assert_int_eq(eg_addr_parse("tcp:127.0.0.1:0", 1, ret_addr, why, sizeof why), 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&ret_addr->sa, ret_addr->len_bytes), 0);
    ck_assert_int_eq(listen(fd, 4), 0);
    getsockname(fd, (struct sockaddr *)&sa, &len);
    eg_addr_format(ret_addr->kind, (struct sockaddr *)&sa, len, text, sizeof text);
    ck_assert_int_eq(eg_addr_parse(text, 0, ret_addr, why, sizeof why), 0);
    return fd;
}

START_TEST(one_question_says_what_is_wrong)
{
    char why[256];
    struct eg_addr addr;
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Ping body = ENDGAME__PING__INIT;
    Endgame__Reply *reply = NULL;

    request.body_case = ENDGAME__REQUEST__BODY_PING;
    request.ping = &body;
    daemon_start(&d, OPTIONS("--capacity", "16M"));
    const struct eg_addr *both[2] = { &d.unix_addr, &d.tcp_addr };
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(eg_control_call(both[i], &request, 5000, &reply, why, sizeof why), 0);
        ck_assert_uint_eq(reply->ping->capacity_bytes, 16u << 20);
        ck_assert_uint_eq(reply->ping->free_bytes, 16u << 20);
        ck_assert_uint_eq(reply->ping->version, EG_WIRE_VERSION);
        endgame__reply__free_unpacked(reply, NULL);
    }
    daemon_stop(&d);
    reply = NULL;
    ck_assert_int_eq(eg_control_call(&d.tcp_addr, &request, 5000, &reply, why, sizeof why), -ECONNREFUSED);
    ck_assert_ptr_nonnull(strstr(why, "start endgame-memserver --listen tcp:127.0.0.1:"));
    ck_assert_int_eq(eg_control_call(&d.unix_addr, &request, 5000, &reply, why, sizeof why), -ENOENT);
    /* Somebody else's server: silent, then talking rubbish, then hanging up. */
    int fd = listening_socket(&addr);
    ck_assert_int_eq(eg_control_call(&addr, &request, 200, &reply, why, sizeof why), -ETIMEDOUT);
    ck_assert_ptr_nonnull(strstr(why, "no answer in 200 ms"));
    close(fd);
    for (int i = 0; i < 2; i++) {
        fd = listening_socket(&addr);
        pid_t pid = fork();
        if (!pid) {
            char sink[64];
            int peer = accept(fd, NULL, NULL);
            if (recv(peer, sink, sizeof sink, 0) < 0) _exit(1);
            if (!i) peer_send_all(peer, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", 47);
            shutdown(peer, SHUT_WR);
            while (recv(peer, sink, sizeof sink, 0) > 0) {
            }
            _exit(0);
        }
        ck_assert_int_eq(eg_control_call(&addr, &request, 5000, &reply, why, sizeof why), i ? -ECONNRESET : -EPROTO);
        waitpid(pid, NULL, 0);
        close(fd);
    }
    ck_assert_ptr_null(reply);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memserver_protocol");
    TCase *tc = unit_case(suite, "protocol", 60);
    tcase_add_test(tc, shared_memory_is_read_and_written_by_the_client);
    tcase_add_test(tc, tcp_reads_back_what_it_wrote);
    tcase_add_test(tc, requests_sent_behind_attach_are_served);
    tcase_add_test(tc, snapshot_shares_slabs_until_a_write);
    tcase_add_test(tc, snapshot_nobody_opens_does_not_keep_the_session);
    tcase_add_test(tc, quota_limits_one_session);
    tcase_add_test(tc, capacity_is_promised_once);
    tcase_add_test(tc, killed_client_frees_its_slabs);
    tcase_add_test(tc, data_connection_ends_with_its_agent);
    tcase_add_test(tc, slow_reader_gets_what_it_asked_for);
    tcase_add_loop_test(tc, bad_peer_is_dropped_others_are_served, 0, sizeof bad_peers / sizeof *bad_peers);
    tcase_add_test(tc, request_without_a_session_is_refused_and_dropped);
    tcase_add_test(tc, hanging_peers_are_dropped_after_a_while);
    tcase_add_test(tc, other_version_is_told_ours_and_dropped);
    tcase_add_test(tc, sigterm_ends_at_once_and_says_what_was_cut);
    tcase_add_test(tc, end_with_waits_for_the_last_session);
    tcase_add_test(tc, drain_refuses_newcomers_and_ends_with_the_last_session);
    tcase_add_test(tc, stale_socket_is_replaced_live_one_is_an_error);
    tcase_add_loop_test(tc, wrong_command_lines_say_what_to_do, 0, sizeof lines / sizeof *lines);
    tcase_add_test(tc, one_question_says_what_is_wrong);
    return unit_run(suite);
}
