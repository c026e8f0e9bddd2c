/* gate_text.c - see gate_text.h. */
#include "tests/unit/gate_text.h"

#include "client/pager/eg_pager.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unwind.h>

struct eg_rt eg_rt;

/* Of the runtime: 0, this is home. */
uint32_t eg_where[1024];

/* --- the gate's other side ---------------------------------------------------------------------------------------------- */

struct gate_seen gate;

static _Unwind_Reason_Code unwound(struct _Unwind_Context *context, void *arg)
{
    enum { DWARF_RBX = 3, DWARF_RBP = 6 };
    (void)arg;
    gate.rip = _Unwind_GetIP(context);
    gate.rbx = _Unwind_GetGR(context, DWARF_RBX);
    gate.rbp = _Unwind_GetGR(context, DWARF_RBP);
    gate.rsp = _Unwind_GetCFA(context);
    return _URC_NO_REASON;
}

/* As unkind as C may be: every register that a function may change, and a good piece of stack. */
long eg_gate_dispatch(struct eg_gate_frame *frame)
{
    volatile uint8_t stack[1024];
    for (size_t i = 0; i < sizeof stack; i++)
        stack[i] = 0xdb;
    gate.misaligned |= (uint64_t)__builtin_frame_address(0) % 16 != 0;
    gate.frame = *frame;
    gate.calls++;
    if (gate.unwinds) {
        _Unwind_Backtrace(unwound, NULL);
        gate.way_back = *(const uint64_t *)gate.rsp;
    }
    frame->pass = gate.pass;
    __asm__ volatile("mov $0x0badc0de, %%eax\n mov %%rax, %%rcx\n mov %%rax, %%rdx\n mov %%rax, %%rsi\n mov %%rax, %%rdi\n"
                     "mov %%rax, %%r8\n mov %%rax, %%r9\n mov %%rax, %%r10\n mov %%rax, %%r11" ::
                         : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
    return gate.ret;
}

/* --- text ------------------------------------------------------------------------------------------------------------------ */

uint8_t *text;
uint32_t found[N_CALLS];
uint32_t patched_before;

void text_start(void)
{
    text = mmap(NULL, TEXT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(text, MAP_FAILED);
    memset(text, NOP, TEXT_BYTES);
    memset(found, 0, sizeof found);
    memset(&gate, 0, sizeof gate);
}

void text_stop(void)
{
    munmap(text, TEXT_BYTES);
}

uint8_t *put_site(uint8_t *at, uint32_t nr)
{
    *at = 0xb8;
    memcpy(at + 1, &nr, 4);
    memcpy(at + 5, "\x0f\x05\xc3", 3);
    return at + 8;
}

uint8_t *put_generic(uint8_t *at)
{
    memcpy(at, "\x4c\x8b\x4c\x24\x08\x0f\x05\xc3", 8);
    return at + 8;
}

void text_executable(void)
{
    ck_assert_int_eq(mprotect(text, TEXT_BYTES, PROT_READ | PROT_EXEC), 0);
}

uint8_t *jump_target(const uint8_t *site)
{
    int32_t rel;
    ck_assert_uint_eq(site[0], 0xe9);
    memcpy(&rel, site + 1, 4);
    return (uint8_t *)site + 5 + rel;
}

void check_permissions(const uint8_t *at, const char *expected)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512], perm[8] = "none";
    ck_assert_ptr_nonnull(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long lo, hi;
        char p[8];
        if (sscanf(line, "%lx-%lx %7s", &lo, &hi, p) == 3 && (unsigned long)at >= lo && (unsigned long)at < hi)
            memcpy(perm, p, sizeof perm);
    }
    fclose(maps);
    ck_assert_str_eq(perm, expected);
}

/* --- running it -------------------------------------------------------------------------------------------------------------- */

struct run random_run(struct random_state *r, const uint8_t *code)
{
    struct run run = {.code = code, .sixth = random_u64(r)};
    random_fill(r, run.in, sizeof run.in);
    random_fill(r, run.red_zone, sizeof run.red_zone);
    return run;
}

void check_kept(const struct run *run, int generic)
{
    static const char *const name[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
                                       "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    for (int i = 0; i < N_REGS; i++) {
        uint64_t want = generic && i == R9 ? run->sixth : run->in[i], got = i == R15 ? run->out_r15 : run->out[i];
        if (i != RAX && i != RCX && i != R11) /* these the kernel itself changes */
            ck_assert_msg(got == want, "%s: %llx, was %llx", name[i], (unsigned long long)got, (unsigned long long)want);
    }
    ck_assert_uint_eq(run->rsp_moved, 0);
    ck_assert_mem_eq(run->red_zone_out, run->red_zone, sizeof run->red_zone);
}

void check_frame(const struct run *run, uint64_t nr, int generic)
{
    ck_assert_int_eq(gate.calls, 1);
    ck_assert_int_eq(gate.misaligned, 0);
    ck_assert_int_eq(gate.frame.pass, 0);
    ck_assert_uint_eq((uint64_t)gate.frame.nr, nr);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[0], run->in[RDI]);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[1], run->in[RSI]);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[2], run->in[RDX]);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[3], run->in[R10]);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[4], run->in[R8]);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[5], generic ? run->sixth : run->in[R9]);
}
