/* eg_control_reply.h - replies of a memory server or compute node on the control plane, as frames. Hosted. */
#ifndef EG_CONTROL_REPLY_H
#define EG_CONTROL_REPLY_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/control.pb-c.h"
#include "proto/eg_wire.h"

/* eg_control_reply - a reply in its frame; one that does not fit becomes a refusal.
 * Owns: the result is the caller's, from malloc. Returns: NULL when memory is short. */
uint8_t *eg_control_reply(const Endgame__Reply *reply, uint64_t cookie, size_t *ret_bytes) __attribute__((warn_unused_result));

/* eg_control_refusal - a reply with a status and a message for people. As eg_control_reply. */
uint8_t *eg_control_refusal(enum eg_status status, uint64_t cookie, size_t *ret_bytes, const char *format, va_list ap)
    __attribute__((warn_unused_result, format(printf, 4, 0)));

#endif
