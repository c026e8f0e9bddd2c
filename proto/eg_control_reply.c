/* eg_control_reply.c - replies on the control plane, as frames. */
#include "proto/eg_control_reply.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t *eg_control_reply(const Endgame__Reply *reply, uint64_t cookie, size_t *ret_bytes)
{
    Endgame__Reply too_long = ENDGAME__REPLY__INIT;
    size_t n = endgame__reply__get_packed_size(reply);

    if (n > EG_CONTROL_MAX_BYTES) {
        too_long.status = EG_STATUS_INTERNAL;
        too_long.message = (char *)"the reply does not fit into a frame";
        reply = &too_long;
        n = endgame__reply__get_packed_size(reply);
    }
    struct eg_frame frame = {
        .magic = EG_WIRE_MAGIC,
        .type = EG_FRAME_CONTROL,
        .status = (uint16_t)reply->status,
        .len_bytes = (uint32_t)n,
        .cookie = cookie,
    };
    uint8_t *out = malloc(sizeof frame + n);
    if (!out) return NULL;
    memcpy(out, &frame, sizeof frame);
    endgame__reply__pack(reply, out + sizeof frame);
    *ret_bytes = sizeof frame + n;
    return out;
}

uint8_t *eg_control_refusal(enum eg_status status, uint64_t cookie, size_t *ret_bytes, const char *format, va_list ap)
{
    Endgame__Reply reply = ENDGAME__REPLY__INIT;
    char message[256];

    vsnprintf(message, sizeof message, format, ap);
    reply.status = status;
    reply.message = message;
    return eg_control_reply(&reply, cookie, ret_bytes);
}
