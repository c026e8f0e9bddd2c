/* A data connection: raw bytes and well-formed frames, while the agent's slabs come, go and are shared. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/fuzz/memserver_fuzz.h"

static uint8_t payload[EG_DATA_MAX_BYTES];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t token[EG_TOKEN_BYTES];
    struct fuzz_input in = { data, data + size };
    struct fuzz_reader reader = { .head_bytes = 0 };
    struct egm_agent *agent;
    uint32_t slabs[EGM_LEASE_MAX], n, slab;
    uint64_t snapshot = 0;
    const uint8_t *raw;
    bool alive = true;
    int fds[2];

    if (egm_agent_open(&fuzz_server.store, token, 0, true, &agent) || egm_agent_lease(agent, 3, slabs, &n) ||
        egm_session_map(agent->session))
        abort();
    fuzz_pair(fds);
    atomic_fetch_add(&fuzz_server.n_conns, 1);
    size_t early = fuzz_bytes(&in, fuzz_u8(&in) & 63, &raw);
    struct egm_data_conn *conn = egm_data_conn_new(fuzz_server.data, agent, fds[0], raw, early);
    if (!conn) abort();
    for (int turn = 0; in.at < in.end && alive && turn < 200; turn++) {
        uint8_t what = fuzz_u8(&in);
        struct eg_frame frame = { .magic = EG_WIRE_MAGIC, .type = EG_FRAME_READ, .cookie = (uint64_t)turn };
        switch (what & 7) {
        case 0:
            early = fuzz_bytes(&in, fuzz_u8(&in), &raw);
            fuzz_send(fds[1], raw, early);
            break;
        case 1:
        case 2:
            frame.offset = fuzz_u64(&in);
            if (what & 64) frame.offset %= (FUZZ_SLABS + 1) * (uint64_t)EG_SLAB_BYTES;
            frame.arg = (uint32_t)fuzz_u64(&in);
            if (what & 128) frame.arg %= EG_DATA_MAX_BYTES + 1;
            fuzz_send(fds[1], &frame, sizeof frame);
            break;
        case 3:
        case 4:
            frame.type = EG_FRAME_WRITE;
            frame.offset = fuzz_u64(&in);
            if (what & 64) frame.offset %= (FUZZ_SLABS + 1) * (uint64_t)EG_SLAB_BYTES;
            frame.len_bytes = (uint32_t)fuzz_u64(&in) % (EG_DATA_MAX_BYTES + 2);
            fuzz_send(fds[1], &frame, sizeof frame);
            if (what & 128) frame.len_bytes /= 2; /* the rest comes later, or is something else */
            if (frame.len_bytes <= sizeof payload) fuzz_send(fds[1], payload, frame.len_bytes);
            break;
        case 5: /* the control plane at work meanwhile */
            slab = fuzz_u8(&in) % FUZZ_SLABS;
            if (what & 32) (void)!egm_agent_lease(agent, 1, slabs, &n);
            else if (what & 64) (void)!egm_agent_return(agent, &slab, 1);
            else (void)!egm_agent_break(agent, &slab, 1, slabs);
            break;
        case 6:
            if (snapshot) {
                if (egm_agent_drop_snapshot(agent, snapshot)) abort();
                snapshot = 0;
            } else if (egm_agent_snapshot(agent, &snapshot)) {
                abort();
            }
            break;
        default:
            shutdown(fds[1], SHUT_WR);
        }
        if (what & 8) alive = egm_data_conn_serve(conn) != EGM_SERVE_CLOSE;
        if (what & 16) fuzz_read_replies(fds[1], &reader);
    }
    for (int i = 0; i < 8 && alive; i++) {
        alive = egm_data_conn_serve(conn) != EGM_SERVE_CLOSE;
        fuzz_read_replies(fds[1], &reader);
    }
    fuzz_check();
    if (size & 1) egm_data_conn_free(conn);
    egm_agent_close(agent);
    if (!(size & 1)) {
        if (egm_data_conn_serve(conn) != EGM_SERVE_CLOSE) abort();
        egm_data_conn_free(conn);
    }
    (void)egm_store_trim(&fuzz_server.store, egm_now_ns() + 3600000000000ull);
    close(fds[1]);
    fuzz_check();
    if (fuzz_server.store.n_sessions || atomic_load(&fuzz_server.n_conns)) abort();
    return 0;
}
