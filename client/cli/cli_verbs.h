/* cli_verbs.h - memory servers and compute nodes over RDMA, for the command: libendgame-verbs.so is loaded when the first rdma: address is met. */
#ifndef CLI_VERBS_H
#define CLI_VERBS_H

#include <stddef.h>
#include "proto/control.pb-c.h"
#include "proto/eg_addr.h"

/* cli_verbs_prepare - from now on eg_control_call reaches rdma: addresses. Context: hosted. */
void cli_verbs_prepare(void);
/* cli_verbs_find - absolute path of the library, beside the runtime's. Returns: 0, or -ENOENT and ret_path is where it was expected. */
int cli_verbs_find(char *ret_path, size_t path_bytes) __attribute__((warn_unused_result));
/* cli_verbs_call - eg_control_call; an auto: address becomes rdma: where a server answers there, else tcp:, and one line says which, and why. */
int cli_verbs_call(struct eg_addr *addr, const Endgame__Request *req, int timeout_ms, Endgame__Reply **ret_reply, char *ret_why, size_t why_bytes)
    __attribute__((warn_unused_result));
/* cli_verbs_device - the device of the last connection. Returns: a name, or "". */
const char *cli_verbs_device(void);

#endif
