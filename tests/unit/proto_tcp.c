/* The transports on the client's side: tcp against a scripted peer on a socket pair, one thread plays both; shm on a memfd. */
#include "tests/unit/client_random.h"

#include "proto/eg_load.h"
#include "proto/eg_transport.h"
#include "tests/unit/unit_suite.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define ARENA_BYTES (1u << 20)
#define MANY 200

static struct eg_link tcp;
static int peer_fd;

static void start(void)
{
    int fds[2], small = 4096;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    /* The least that the kernel gives, so that requests go out in pieces. */
    ck_assert_int_eq(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    tcp = (struct eg_link){.ops = &eg_transport_tcp, .fd = fds[0], .next_cookie = 1000};
    peer_fd = fds[1];
}

static void stop(void)
{
    tcp.ops->close(&tcp);
    ck_assert_int_eq(tcp.fd, -1);
    tcp.ops->close(&tcp); /* twice is harmless */
    if (peer_fd >= 0)
        close(peer_fd);
}

static void submit(struct eg_io *io, enum eg_io_op op, uint64_t offset, void *buf, uint32_t len)
{
    *io = (struct eg_io){.op = (uint8_t)op, .offset = offset, .buf = buf, .len_bytes = len, .result = 12345};
    ck_assert_int_eq(tcp.ops->submit(&tcp, io), 0);
}

static int poll_link(struct eg_io_queue *done)
{
    return tcp.ops->poll(&tcp, done);
}

static void peer_send(const void *data, size_t n)
{
    ck_assert_int_eq(send(peer_fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL), (ssize_t)n);
}

/* --- the scripted peer: a memory server that reads and answers in pieces of whatever size it is told ------------------ */

struct peer {
    uint8_t arena[ARENA_BYTES];
    uint8_t in[EG_DATA_MAX_BYTES + sizeof(struct eg_frame)];
    size_t in_len;
    uint8_t *out;
    size_t out_len, out_at;
    uint64_t next_cookie;
    uint32_t requests;
};

static void peer_answer(struct peer *p, const struct eg_frame *f)
{
    ck_assert_uint_eq(f->magic, EG_WIRE_MAGIC);
    ck_assert_uint_eq(f->cookie, p->next_cookie);
    ck_assert_uint_eq(f->flags, 0);
    ck_assert_uint_eq(f->status, 0);
    ck_assert_uint_le(f->offset + f->arg, ARENA_BYTES);
    p->next_cookie++;
    p->requests++;
    struct eg_frame r = {.magic = EG_WIRE_MAGIC, .cookie = f->cookie};
    if (f->type == EG_FRAME_WRITE) {
        ck_assert_uint_eq(f->arg, f->len_bytes);
        memcpy(p->arena + f->offset, p->in + sizeof *f, f->len_bytes);
        r.type = EG_FRAME_WRITE_REPLY;
    } else {
        ck_assert_uint_eq(f->type, EG_FRAME_READ);
        ck_assert_uint_eq(f->len_bytes, 0);
        r.type = EG_FRAME_READ_REPLY;
        r.len_bytes = f->arg;
    }
    p->out = realloc(p->out, p->out_len + sizeof r + r.len_bytes);
    ck_assert_ptr_nonnull(p->out);
    memcpy(p->out + p->out_len, &r, sizeof r);
    if (r.len_bytes)
        memcpy(p->out + p->out_len + sizeof r, p->arena + f->offset, r.len_bytes);
    p->out_len += sizeof r + r.len_bytes;
}

/* Reads at most n bytes. */
static void peer_read(struct peer *p, size_t n)
{
    while (n) {
        struct eg_frame f = {0};
        size_t want = sizeof f;
        if (p->in_len >= sizeof f) {
            memcpy(&f, p->in, sizeof f);
            want += f.len_bytes;
            ck_assert_uint_le(want, sizeof p->in);
        }
        size_t take = want - p->in_len < n ? want - p->in_len : n;
        ssize_t got = recv(peer_fd, p->in + p->in_len, take, MSG_DONTWAIT);
        if (take && got <= 0)
            return;
        p->in_len += (size_t)got;
        n -= (size_t)got;
        if (p->in_len < sizeof f)
            continue;
        memcpy(&f, p->in, sizeof f);
        if (p->in_len == sizeof f + f.len_bytes) {
            peer_answer(p, &f);
            p->in_len = 0;
        }
    }
}

/* Sends at most n bytes. */
static void peer_write(struct peer *p, size_t n)
{
    size_t left = p->out_len - p->out_at;
    ssize_t sent = left ? send(peer_fd, p->out + p->out_at, left < n ? left : n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (sent > 0)
        p->out_at += (size_t)sent;
}

static const struct {
    uint32_t read_max, write_max, pages_max;
} pace[] = {
    {1 << 20, 1 << 20, 1}, {1 << 20, 3, 1}, {3, 1 << 20, 1}, {5000, 5000, 16}, {1 << 20, 33, 2}, {1 << 20, 1 << 20, 64},
};

/* Many reads and writes in flight; after each, what a memory of the same requests in order would hold. */
START_TEST(requests_complete_in_order_with_the_right_bytes)
{
    struct random_state r = {0x7c9 + (uint64_t)_i};
    static struct peer p;
    static struct eg_io io[MANY];
    static uint8_t *buf[MANY], *want[MANY];
    uint8_t *memory = calloc(1, ARENA_BYTES);
    uint32_t n_done = 0, n_sent = 0;
    uint64_t idle = 0;
    memset(&p, 0, sizeof p);
    p.next_cookie = 1000;
    start();
    while (n_done < MANY) {
        uint32_t before = n_done;
        for (uint32_t k = random_below(&r, 24); k && n_sent < MANY; k--, n_sent++) {
            uint32_t len = EG_PAGE_BYTES * (1 + random_below(&r, pace[_i].pages_max));
            uint32_t at = EG_PAGE_BYTES * random_below(&r, (ARENA_BYTES - len) / EG_PAGE_BYTES + 1);
            int write = random_below(&r, 2) == 1;
            ck_assert_ptr_nonnull(buf[n_sent] = malloc(len));
            ck_assert_ptr_nonnull(want[n_sent] = malloc(len));
            random_fill(&r, buf[n_sent], len < 64 ? len : 64);
            memset(buf[n_sent] + 64, (int)n_sent, len - 64);
            if (write)
                memcpy(memory + at, buf[n_sent], len);
            memcpy(want[n_sent], memory + at, len);
            submit(&io[n_sent], write ? EG_IO_WRITE : EG_IO_READ, at, buf[n_sent], len);
        }
        struct eg_io_queue done = {NULL, NULL};
        int rc = poll_link(&done);
        if (rc < 0)
            ck_abort_msg("poll: %d", rc);
        for (struct eg_io *d; (d = eg_io_pop(&done)); rc--) {
            ck_assert_ptr_eq(d, &io[n_done]);
            ck_assert_int_eq(d->result, 0);
            ck_assert_mem_eq(buf[n_done], want[n_done], d->len_bytes);
            n_done++;
        }
        if (rc || tcp.outstanding != n_sent - n_done)
            ck_abort_msg("%d completions too many, %u outstanding", rc, tcp.outstanding);
        peer_read(&p, 1 + random_below(&r, pace[_i].read_max));
        peer_write(&p, 1 + random_below(&r, pace[_i].write_max));
        idle = before == n_done ? idle + 1 : 0;
        if (idle > 3000000)
            ck_abort_msg("no completion after %u", n_done);
    }
    ck_assert_uint_eq(p.requests, MANY);
    ck_assert_mem_eq(p.arena, memory, ARENA_BYTES);
    ck_assert_uint_eq(tcp.want_write, 0);
    for (uint32_t k = 0; k < MANY; k++) {
        free(buf[k]);
        free(want[k]);
    }
    free(memory);
    free(p.out);
    p.out = NULL;
    stop();
}
END_TEST

START_TEST(full_socket_is_no_error)
{
    static uint8_t data[EG_DATA_MAX_BYTES];
    static struct peer p;
    struct eg_io io;
    struct eg_io_queue done = {NULL, NULL};
    memset(&p, 0, sizeof p);
    p.next_cookie = 1000;
    start();
    ck_assert_int_eq(poll_link(&done), 0); /* nothing to do */
    memset(data, 0x5a, sizeof data);
    submit(&io, EG_IO_WRITE, 0, data, sizeof data);
    for (int k = 0; k < 3; k++) {
        ck_assert_int_eq(poll_link(&done), 0);
        ck_assert_uint_eq(tcp.want_write, 1);
    }
    for (int k = 0; k < 1000 && tcp.want_write; k++) {
        peer_read(&p, 4096);
        ck_assert_int_eq(poll_link(&done), 0);
    }
    ck_assert_uint_eq(tcp.want_write, 0);
    peer_read(&p, sizeof data + 100);
    peer_write(&p, 1000);
    ck_assert_int_eq(poll_link(&done), 1);
    ck_assert_ptr_eq(eg_io_pop(&done), &io);
    ck_assert_uint_eq(p.arena[sizeof data - 1], 0x5a);
    free(p.out);
    p.out = NULL;
    stop();
}
END_TEST

/* --- replies that are not what was asked for --------------------------------------------------------------------------- */

static const struct {
    const char *what;
    uint8_t op, type;
    uint16_t status;
    uint32_t magic_xor, len;
    uint64_t cookie_xor;
} wrong[] = {
    {"magic", EG_IO_READ, EG_FRAME_READ_REPLY, 0, 1, EG_PAGE_BYTES, 0},
    {"type of another reply", EG_IO_READ, EG_FRAME_WRITE_REPLY, 0, 0, EG_PAGE_BYTES, 0},
    {"type of a request", EG_IO_READ, EG_FRAME_READ, 0, 0, EG_PAGE_BYTES, 0},
    {"type of the control plane", EG_IO_READ, EG_FRAME_CONTROL, 0, 0, EG_PAGE_BYTES, 0},
    {"type zero", EG_IO_WRITE, 0, 0, 0, 0, 0},
    {"cookie", EG_IO_READ, EG_FRAME_READ_REPLY, 0, 0, EG_PAGE_BYTES, 1},
    {"cookie's upper half", EG_IO_WRITE, EG_FRAME_WRITE_REPLY, 0, 0, 0, 1ull << 63},
    {"an error for a read", EG_IO_READ, EG_FRAME_READ_REPLY, EG_STATUS_RANGE, 0, 0, 0},
    {"an error with the payload", EG_IO_READ, EG_FRAME_READ_REPLY, EG_STATUS_INTERNAL, 0, EG_PAGE_BYTES, 0},
    {"an error for a write", EG_IO_WRITE, EG_FRAME_WRITE_REPLY, EG_STATUS_RANGE, 0, 0, 0},
    {"a status beyond a byte", EG_IO_WRITE, EG_FRAME_WRITE_REPLY, 0x100, 0, 0, 0},
    {"too short a payload", EG_IO_READ, EG_FRAME_READ_REPLY, 0, 0, EG_PAGE_BYTES - 1, 0},
    {"too long a payload", EG_IO_READ, EG_FRAME_READ_REPLY, 0, 0, EG_PAGE_BYTES + 1, 0},
    {"no payload", EG_IO_READ, EG_FRAME_READ_REPLY, 0, 0, 0, 0},
    {"a huge payload", EG_IO_READ, EG_FRAME_READ_REPLY, 0, 0, 0xffffffff, 0},
    {"a payload for a write", EG_IO_WRITE, EG_FRAME_WRITE_REPLY, 0, 0, EG_PAGE_BYTES, 0},
};
#define N_WRONG (int)(sizeof wrong / sizeof *wrong)

/* A good reply, then a wrong one: the first still completes. Whole in one piece, or byte by byte. */
START_TEST(wrong_reply_is_a_protocol_error)
{
    int k = _i / 2, by_byte = _i % 2;
    static uint8_t first_buf[EG_PAGE_BYTES], second_buf[EG_PAGE_BYTES], message[2 * (sizeof(struct eg_frame) + EG_PAGE_BYTES) + 1];
    struct eg_io first, second;
    struct eg_io_queue done = {NULL, NULL};
    start();
    submit(&first, EG_IO_READ, 0, first_buf, sizeof first_buf);
    submit(&second, (enum eg_io_op)wrong[k].op, 4096, second_buf, sizeof second_buf);
    for (int turn = 0; turn < 10; turn++) {
        uint8_t sink[65536];
        ck_assert_int_eq(poll_link(&done), 0);
        (void)!recv(peer_fd, sink, sizeof sink, MSG_DONTWAIT);
    }
    struct eg_frame good = {.magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ_REPLY, .len_bytes = EG_PAGE_BYTES, .cookie = 1000};
    struct eg_frame bad = {.magic = EG_WIRE_MAGIC ^ wrong[k].magic_xor,
                           .type = wrong[k].type,
                           .status = wrong[k].status,
                           .len_bytes = wrong[k].len,
                           .cookie = 1001 ^ wrong[k].cookie_xor};
    size_t n = 0, payload = wrong[k].len <= EG_PAGE_BYTES + 1 ? wrong[k].len : EG_PAGE_BYTES;
    memset(message, 0xcc, sizeof message);
    memcpy(message, &good, sizeof good);
    n = sizeof good + EG_PAGE_BYTES;
    memcpy(message + n, &bad, sizeof bad);
    int rc = 0, completed = 0;
    if (by_byte) {
        for (size_t at = 0; at < n + sizeof bad; at++) {
            if (rc < 0 || send(peer_fd, message + at, 1, MSG_DONTWAIT) != 1)
                ck_abort_msg("%s: %d at byte %zu", wrong[k].what, rc, at);
            rc = poll_link(&done);
            completed += rc > 0 ? rc : 0;
            if (completed != (at + 1 >= n))
                ck_abort_msg("%s: %d completed at byte %zu", wrong[k].what, completed, at);
        }
    } else {
        peer_send(message, n + sizeof bad + payload);
        rc = poll_link(&done);
    }
    ck_assert_msg(rc == -EPROTO, "%s: %d", wrong[k].what, rc);
    ck_assert_ptr_eq(eg_io_pop(&done), &first);
    ck_assert_int_eq(first.result, 0);
    ck_assert_uint_eq(first_buf[EG_PAGE_BYTES - 1], 0xcc);
    ck_assert_ptr_null(eg_io_pop(&done));
    ck_assert_int_eq(second.result, 12345);
    stop();
}
END_TEST

START_TEST(replies_out_of_order_are_a_protocol_error)
{
    static uint8_t buf[2][EG_PAGE_BYTES];
    struct eg_io io[2];
    struct eg_io_queue done = {NULL, NULL};
    start();
    submit(&io[0], EG_IO_WRITE, 0, buf[0], 64);
    submit(&io[1], EG_IO_WRITE, 0, buf[1], 64);
    ck_assert_int_eq(poll_link(&done), 0);
    struct eg_frame second = {.magic = EG_WIRE_MAGIC, .type = EG_FRAME_WRITE_REPLY, .cookie = 1001};
    peer_send(&second, sizeof second);
    ck_assert_int_eq(poll_link(&done), -EPROTO);
    ck_assert_ptr_null(eg_io_pop(&done));
    stop();
}
END_TEST

/* --- a peer that goes away ---------------------------------------------------------------------------------------------- */

START_TEST(peer_that_closes_in_the_middle_is_an_error)
{
    static const size_t got[] = {0, 1, sizeof(struct eg_frame) - 1, sizeof(struct eg_frame), sizeof(struct eg_frame) + 1,
                                 sizeof(struct eg_frame) + EG_PAGE_BYTES - 1};
    static uint8_t buf[EG_PAGE_BYTES], message[sizeof(struct eg_frame) + EG_PAGE_BYTES];
    struct eg_frame f = {.magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ_REPLY, .len_bytes = EG_PAGE_BYTES, .cookie = 1000}, sink;
    struct eg_io io;
    struct eg_io_queue done = {NULL, NULL};
    start();
    submit(&io, EG_IO_READ, 0, buf, sizeof buf);
    ck_assert_int_eq(poll_link(&done), 0);
    ck_assert_int_eq(recv(peer_fd, &sink, sizeof sink, MSG_DONTWAIT), sizeof sink);
    memcpy(message, &f, sizeof f);
    if (got[_i])
        peer_send(message, got[_i]);
    close(peer_fd);
    peer_fd = -1;
    int rc = poll_link(&done);
    ck_assert_int_eq(rc, -ECONNRESET);
    ck_assert_ptr_null(eg_io_pop(&done));
    ck_assert_int_eq(io.result, 12345);
    stop();
}
END_TEST

/* No SIGPIPE: its default action would end the test. */
START_TEST(sending_to_a_closed_peer_is_an_error)
{
    static uint8_t buf[EG_PAGE_BYTES];
    struct eg_io io;
    struct eg_io_queue done = {NULL, NULL};
    start();
    close(peer_fd);
    peer_fd = -1;
    submit(&io, EG_IO_WRITE, 0, buf, sizeof buf);
    int rc = poll_link(&done);
    ck_assert_msg(rc == -EPIPE || rc == -ECONNRESET, "%d", rc);
    ck_assert_ptr_null(eg_io_pop(&done));
    stop();
}
END_TEST

START_TEST(closed_link_takes_nothing)
{
    static uint8_t buf[EG_PAGE_BYTES];
    struct eg_io io = {.op = EG_IO_READ, .buf = buf, .len_bytes = sizeof buf};
    struct eg_io_queue done = {NULL, NULL};
    start();
    tcp.ops->close(&tcp);
    ck_assert_int_eq(tcp.ops->submit(&tcp, &io), -EPIPE);
    ck_assert_uint_eq(tcp.outstanding, 0);
    ck_assert_ptr_null(tcp.send.head);
    ck_assert_int_eq(poll_link(&done), -EPIPE);
    stop();
}
END_TEST

/* --- shm ------------------------------------------------------------------------------------------------------------------ */

static struct eg_link shm_start(void)
{
    int fd = memfd_create("arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, ARENA_BYTES), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0); /* as the server's is */
    return (struct eg_link){.ops = &eg_transport_shm, .fd = fd};
}

START_TEST(shm_matches_memory)
{
    struct random_state r = {31};
    struct eg_link link = shm_start();
    uint8_t *arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, link.fd, 0);
    uint8_t *model = calloc(1, ARENA_BYTES);
    ck_assert_ptr_ne(arena, MAP_FAILED);
    for (int turn = 0; turn < 100; turn++) {
        struct eg_io io[16];
        static uint8_t buf[16][4 * EG_PAGE_BYTES], want[16][4 * EG_PAGE_BYTES];
        int n = 1 + (int)random_below(&r, 16);
        for (int k = 0; k < n; k++) {
            uint32_t len = EG_PAGE_BYTES * (1 + random_below(&r, 4));
            uint32_t at = EG_PAGE_BYTES * random_below(&r, (ARENA_BYTES - len) / EG_PAGE_BYTES + 1);
            int write = random_below(&r, 2) == 1;
            memset(buf[k], (int)random_below(&r, 256), len);
            if (write)
                memcpy(model + at, buf[k], len);
            memcpy(want[k], model + at, len);
            io[k] = (struct eg_io){.op = write ? EG_IO_WRITE : EG_IO_READ, .offset = at, .buf = buf[k], .len_bytes = len, .result = 1};
            ck_assert_int_eq(link.ops->submit(&link, &io[k]), 0);
        }
        ck_assert_uint_eq(link.outstanding, n);
        struct eg_io_queue done = {NULL, NULL};
        ck_assert_int_eq(link.ops->poll(&link, &done), n);
        ck_assert_uint_eq(link.outstanding, 0);
        for (int k = 0; k < n; k++) {
            ck_assert_ptr_eq(eg_io_pop(&done), &io[k]);
            ck_assert_int_eq(io[k].result, 0);
            ck_assert_mem_eq(buf[k], want[k], io[k].len_bytes);
        }
        ck_assert_ptr_null(eg_io_pop(&done));
        ck_assert_int_eq(link.ops->poll(&link, &done), 0);
    }
    ck_assert_mem_eq(arena, model, ARENA_BYTES);
    munmap(arena, ARENA_BYTES);
    free(model);
    link.ops->close(&link);
    ck_assert_int_eq(link.fd, -1);
    link.ops->close(&link);
}
END_TEST

static int shm_result(struct eg_link *link, enum eg_io_op op, uint64_t offset, uint32_t len)
{
    static uint8_t buf[4 * EG_PAGE_BYTES];
    struct eg_io io = {.op = (uint8_t)op, .offset = offset, .buf = buf, .len_bytes = len, .result = 1};
    struct eg_io_queue done = {NULL, NULL};
    ck_assert_int_eq(link->ops->submit(link, &io), 0);
    ck_assert_int_eq(link->ops->poll(link, &done), 1);
    ck_assert_ptr_eq(eg_io_pop(&done), &io);
    return io.result;
}

START_TEST(shm_reports_what_the_arena_has_not)
{
    struct eg_link link = shm_start();
    ck_assert_int_eq(shm_result(&link, EG_IO_READ, ARENA_BYTES - EG_PAGE_BYTES, EG_PAGE_BYTES), 0);
    ck_assert_int_eq(shm_result(&link, EG_IO_READ, ARENA_BYTES, EG_PAGE_BYTES), -EIO);
    ck_assert_int_eq(shm_result(&link, EG_IO_READ, ARENA_BYTES - EG_PAGE_BYTES, 2 * EG_PAGE_BYTES), -EIO);
    ck_assert_int_lt(shm_result(&link, EG_IO_WRITE, ARENA_BYTES, EG_PAGE_BYTES), 0);
    ck_assert_int_lt(shm_result(&link, EG_IO_WRITE, ARENA_BYTES - EG_PAGE_BYTES, 2 * EG_PAGE_BYTES), 0);
    ck_assert_int_eq(shm_result(&link, EG_IO_READ, 1ull << 63, EG_PAGE_BYTES), -EINVAL);
    ck_assert_int_eq(shm_result(&link, EG_IO_WRITE, 0, EG_PAGE_BYTES), 0); /* the link goes on */
    link.ops->close(&link);
    ck_assert_int_eq(shm_result(&link, EG_IO_READ, 0, EG_PAGE_BYTES), -EBADF);
    ck_assert_int_eq(shm_result(&link, EG_IO_WRITE, 0, EG_PAGE_BYTES), -EBADF);
}
END_TEST

/* --- who is beside whom ---------------------------------------------------------------------------------------------------- */

static void connected(int family, int ret_ends[2])
{
    struct sockaddr_in6 any = {.sin6_family = (sa_family_t)family};
    socklen_t bytes = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof any;
    if (family == AF_INET)
        ((struct sockaddr_in *)(void *)&any)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        any.sin6_addr = in6addr_loopback;
    int listener = socket(family, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&any, bytes), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&any, &bytes), 0);
    ret_ends[0] = socket(family, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(ret_ends[0], (struct sockaddr *)&any, bytes), 0);
    ret_ends[1] = accept(listener, NULL, NULL);
    ck_assert_int_ge(ret_ends[1], 0);
    close(listener);
}

static void run_on(int processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
}

/* It is where the other end sent from, not where this one was before. */
START_TEST(beside_whoever_sends_from_here)
{
    cpu_set_t all;
    int ends[2], first = -1, last = -1;
    char byte;
    ck_assert_int_eq(sched_getaffinity(0, sizeof all, &all), 0);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &all)) {
            first = first < 0 ? i : first;
            last = i;
        }
    connected(AF_INET, ends);
    struct eg_link link = {.ops = &eg_transport_tcp, .fd = ends[0]};
    for (int turn = 0; turn < 4; turn++) {
        run_on(turn % 2 ? first : last);
        ck_assert_int_eq(send(ends[1], "x", 1, 0), 1);
        ck_assert_int_eq(recv(ends[0], &byte, 1, 0), 1);
        ck_assert_int_eq(link.ops->beside(&link), 1);
        run_on(turn % 2 ? last : first);
        ck_assert_int_eq(link.ops->beside(&link), first == last);
    }
    ck_assert_int_eq(sched_setaffinity(0, sizeof all, &all), 0);
    link.ops->close(&link);
    close(ends[1]);
}
END_TEST

START_TEST(local_is_what_has_the_same_address)
{
    int ends[2];
    connected(AF_INET, ends);
    ck_assert(eg_load_is_local(ends[0]) && eg_load_is_local(ends[1]));
    close(ends[0]);
    close(ends[1]);
    connected(AF_INET6, ends);
    ck_assert(eg_load_is_local(ends[0]) && eg_load_is_local(ends[1]));
    close(ends[0]);
    close(ends[1]);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0); /* the kernel does not say there */
    ck_assert(!eg_load_is_local(ends[0]) && !eg_load_is_local(-1));
    close(ends[0]);
    close(ends[1]);
}
END_TEST

START_TEST(some_thread_runs)
{
    int fd = open("/proc/loadavg", O_RDONLY);
    ck_assert_uint_ge(eg_load_running(fd), 1); /* this one */
    close(fd);
    ck_assert_uint_eq(eg_load_running(-1), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("proto_tcp");
    TCase *tc = unit_case(suite, "tcp", 120);
    tcase_add_loop_test(tc, requests_complete_in_order_with_the_right_bytes, 0, sizeof pace / sizeof *pace);
    tcase_add_test(tc, full_socket_is_no_error);
    tcase_add_loop_test(tc, wrong_reply_is_a_protocol_error, 0, 2 * N_WRONG);
    tcase_add_test(tc, replies_out_of_order_are_a_protocol_error);
    tcase_add_loop_test(tc, peer_that_closes_in_the_middle_is_an_error, 0, 6);
    tcase_add_test(tc, sending_to_a_closed_peer_is_an_error);
    tcase_add_test(tc, closed_link_takes_nothing);
    tc = unit_case(suite, "shm", 120);
    tcase_add_test(tc, shm_matches_memory);
    tcase_add_test(tc, shm_reports_what_the_arena_has_not);
    tcase_add_test(tc, beside_whoever_sends_from_here);
    tcase_add_test(tc, local_is_what_has_the_same_address);
    tcase_add_test(tc, some_thread_runs);
    return unit_run(suite);
}
