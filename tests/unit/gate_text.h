/* gate_text.h - text made by hand, the gate's other side, and running a piece of code with registers and red zone of known content. */
#ifndef GATE_TEXT_H
#define GATE_TEXT_H

#include "client/gate/eg_gate.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#define PAGE 4096u
#define TEXT_BYTES (8 * PAGE)
#define SITE_BYTES 7u
#define NOP 0x90

enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8, R9, R10, R11, R12, R13, R14, R15, N_REGS };

/* gate_patch_run.S knows the offsets. */
struct run {
    uint64_t in[N_REGS];
    uint64_t sixth;
    uint64_t red_zone[16];
    uint64_t out[14]; /* rax to r14 */
    const uint8_t *code;
    uint64_t out_r15;
    uint64_t rsp_moved;
    uint64_t red_zone_out[16];
};
_Static_assert(offsetof(struct run, out) == 256 && offsetof(struct run, code) == 368 && offsetof(struct run, red_zone_out) == 392,
               "gate_patch_run.S counts on these");
void gate_patch_run(struct run *run);

struct gate_call {
    const char *name;
    uint32_t nr;
    int anywhere; /* wherever the site is */
};
static const struct gate_call calls[] = {
#define X(name, number, needed) {#name, number, (needed) != EG_GATE_FOR_START},
    EG_GATE_CALLS(X)
#undef X
};
#define N_CALLS (sizeof calls / sizeof *calls)

/* What the gate was asked, and what it is to say. */
extern struct gate_seen {
    struct eg_gate_frame frame;
    int calls, pass, misaligned, unwinds;
    uint64_t rip, rbx, rbp, rsp, way_back; /* where unwinding ended: in the text, of which nobody knows more */
    long ret;
} gate;

/* The text: TEXT_BYTES of it, nops, to be written until text_executable. What eg_gate_patch found in it. */
extern uint8_t *text;
extern uint32_t found[N_CALLS];
extern uint32_t patched_before;
extern uint32_t eg_where[1024]; /* of the runtime: 0, this is home */
void text_start(void);
void text_executable(void);
void text_stop(void);

/* put_site - mov $nr,%eax; syscall; ret. put_generic - the end of syscall(3): mov 8(%rsp),%r9; syscall; ret. Return: behind it. */
uint8_t *put_site(uint8_t *at, uint32_t nr);
uint8_t *put_generic(uint8_t *at);
/* jump_target - where the jump at a patched site leads. */
uint8_t *jump_target(const uint8_t *site);
/* check_permissions - of the mapping, as /proc/self/maps has them. */
void check_permissions(const uint8_t *at, const char *expected);

struct run random_run(struct random_state *r, const uint8_t *code);
/* check_kept - what a system call keeps is as it was. check_frame - the gate saw one call, this one. generic: its sixth argument was on the stack. */
void check_kept(const struct run *run, int generic);
void check_frame(const struct run *run, uint64_t nr, int generic);

#endif
