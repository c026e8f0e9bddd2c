/* Control connections: raw bytes, and well-framed messages made of the input, on connections that may share a session. */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "proto/control.pb-c.h"
#include "tests/fuzz/memserver_fuzz.h"

enum { CONNECTIONS = 3 };

static size_t add_request(struct fuzz_input *in, uint8_t *ret_bytes, size_t room)
{
    Endgame__Request request = ENDGAME__REQUEST__INIT;
    Endgame__Open open = ENDGAME__OPEN__INIT;
    Endgame__Attach attach = ENDGAME__ATTACH__INIT;
    Endgame__Reserve reserve = ENDGAME__RESERVE__INIT;
    Endgame__Lease lease = ENDGAME__LEASE__INIT;
    Endgame__Return give_back = ENDGAME__RETURN__INIT;
    Endgame__Snapshot snapshot = ENDGAME__SNAPSHOT__INIT;
    Endgame__DropSnapshot drop_snapshot = ENDGAME__DROP_SNAPSHOT__INIT;
    Endgame__Break break_shared = ENDGAME__BREAK__INIT;
    Endgame__Stats stats = ENDGAME__STATS__INIT;
    Endgame__Ping ping = ENDGAME__PING__INIT;
    uint8_t token[EG_TOKEN_BYTES] = { 0 };
    uint32_t slabs[8];
    char program[8] = "";

    request.version = EG_WIRE_VERSION;
    request.body_case = 2 + fuzz_u8(in) % 11;
    uint8_t arg = fuzz_u8(in);
    size_t n = arg & 7;
    for (size_t i = 0; i < n; i++) slabs[i] = fuzz_u8(in) % (FUZZ_SLABS + 1);
    switch (request.body_case) {
    case ENDGAME__REQUEST__BODY_OPEN:
        token[0] = arg & 1;
        open.token.data = token;
        open.token.len = arg & 2 ? arg % 20u % sizeof token : sizeof token;
        memset(program, arg, sizeof program - 1);
        open.program = program;
        if (arg & 4) open.snapshot = fuzz_u64(in);
        if (arg & 8) open.snapshot = fuzz_server.store.next_id;
        request.open = &open;
        break;
    case ENDGAME__REQUEST__BODY_ATTACH:
        attach.agent = fuzz_server.store.next_id - (arg & 3);
        attach.secret = fuzz_u64(in);
        request.attach = &attach;
        break;
    case ENDGAME__REQUEST__BODY_RESERVE:
        reserve.slabs = arg & 128 ? fuzz_u64(in) : arg % 8;
        request.reserve = &reserve;
        break;
    case ENDGAME__REQUEST__BODY_LEASE:
        lease.count = arg & 128 ? (uint32_t)fuzz_u64(in) : arg % 4;
        request.lease = &lease;
        break;
    case ENDGAME__REQUEST__BODY_GIVE_BACK:
        give_back.n_slabs = n;
        give_back.slabs = slabs;
        request.give_back = &give_back;
        break;
    case ENDGAME__REQUEST__BODY_SNAPSHOT:
        request.snapshot = &snapshot;
        break;
    case ENDGAME__REQUEST__BODY_DROP_SNAPSHOT:
        drop_snapshot.snapshot = fuzz_server.store.next_id - (arg & 3);
        request.drop_snapshot = &drop_snapshot;
        break;
    case ENDGAME__REQUEST__BODY_BREAK_SHARED:
        break_shared.n_slabs = n;
        break_shared.slabs = slabs;
        request.break_shared = &break_shared;
        break;
    case ENDGAME__REQUEST__BODY_STATS:
        request.stats = &stats;
        break;
    default: /* no Drain: it would end the loop */
        request.body_case = ENDGAME__REQUEST__BODY_PING;
        request.ping = &ping;
    }
    size_t size = endgame__request__get_packed_size(&request);
    if (size > room) return 0;
    return endgame__request__pack(&request, ret_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = { data, data + size };
    struct fuzz_reader readers[CONNECTIONS];
    int fds[CONNECTIONS][2];

    memset(readers, 0, sizeof readers);
    for (int i = 0; i < CONNECTIONS; i++) {
        fuzz_pair(fds[i]);
        if (egm_conn_new(&fuzz_server, fds[i][0], i != 0, true)) __builtin_trap();
    }
    for (int turn = 0; in.at < in.end && turn < 200; turn++) {
        uint8_t what = fuzz_u8(&in), bytes[sizeof(struct eg_frame) + 512];
        int to = fds[what % CONNECTIONS][1];
        struct eg_frame frame = { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_CONTROL, .cookie = (uint64_t)turn };
        const uint8_t *raw;
        size_t n;
        switch (what >> 5) {
        case 0: /* bytes as they are */
            n = fuzz_bytes(&in, fuzz_u8(&in), &raw);
            fuzz_send(to, raw, n);
            break;
        case 1: /* a good header before any payload */
            frame.len_bytes = (uint32_t)fuzz_bytes(&in, fuzz_u8(&in), &raw);
            fuzz_send(to, &frame, sizeof frame);
            fuzz_send(to, raw, frame.len_bytes);
            break;
        case 2:
            shutdown(to, SHUT_WR);
            break;
        default:
            n = add_request(&in, bytes + sizeof frame, sizeof bytes - sizeof frame);
            frame.len_bytes = (uint32_t)n;
            memcpy(bytes, &frame, sizeof frame);
            fuzz_send(to, bytes, sizeof frame + n);
        }
        if (what & 16) fuzz_turn();
        for (int i = 0; i < CONNECTIONS; i++) fuzz_read_replies(fds[i][1], &readers[i]);
    }
    fuzz_turn();
    fuzz_check();
    for (int i = 0; i < CONNECTIONS; i++) {
        fuzz_read_replies(fds[i][1], &readers[i]);
        close(fds[i][1]);
    }
    while (!LIST_EMPTY(&fuzz_server.conns)) egm_conn_free(LIST_FIRST(&fuzz_server.conns));
    (void)egm_store_trim(&fuzz_server.store, egm_now_ns() + 3600000000000ull);
    fuzz_check();
    if (fuzz_server.store.n_sessions || atomic_load(&fuzz_server.n_conns)) __builtin_trap();
    return 0;
}
