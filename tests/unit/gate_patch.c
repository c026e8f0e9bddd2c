/* The patcher and gate.S on text made by hand: what is patched, what is not, and that a patched site does to the registers, the
 * red zone and the result what the system call did. */
#include "client/gate/eg_gate.h"
#include "client/pager/eg_pager.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

struct eg_rt eg_rt;

/* Of the runtime: 0, this is home. */
uint32_t eg_where[1024];

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

static const struct {
    const char *name;
    uint32_t nr;
    int anywhere; /* wherever the site is */
} calls[] = {
#define X(name, number, needed) {#name, number, (needed) != EG_GATE_FOR_START},
    EG_GATE_CALLS(X)
#undef X
};
#define N_CALLS (sizeof calls / sizeof *calls)

/* --- the gate's other side ---------------------------------------------------------------------------------------------- */

static struct {
    struct eg_gate_frame frame;
    int calls, pass, misaligned, unwinds;
    uint64_t rip, rbx, rbp, rsp, way_back; /* where unwinding ended: in the text, of which nobody knows more */
    long ret;
} gate;

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

static uint8_t *text;
static uint32_t found[N_CALLS];
static uint32_t patched_before;

static void start(void)
{
    text = mmap(NULL, TEXT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(text, MAP_FAILED);
    memset(text, NOP, TEXT_BYTES);
    memset(found, 0, sizeof found);
    memset(&gate, 0, sizeof gate);
}

static void stop(void)
{
    munmap(text, TEXT_BYTES);
}

/* mov $nr,%eax; syscall; ret. */
static uint8_t *put_site(uint8_t *at, uint32_t nr)
{
    *at = 0xb8;
    memcpy(at + 1, &nr, 4);
    memcpy(at + 5, "\x0f\x05\xc3", 3);
    return at + 8;
}

/* The end of syscall(3): mov 8(%rsp),%r9; syscall; ret. */
static uint8_t *put_generic(uint8_t *at)
{
    memcpy(at, "\x4c\x8b\x4c\x24\x08\x0f\x05\xc3", 8);
    return at + 8;
}

static void executable(void)
{
    ck_assert_int_eq(mprotect(text, TEXT_BYTES, PROT_READ | PROT_EXEC), 0);
}

static uint8_t *jump_target(const uint8_t *site)
{
    int32_t rel;
    ck_assert_uint_eq(site[0], 0xe9);
    memcpy(&rel, site + 1, 4);
    return (uint8_t *)site + 5 + rel;
}

static void check_permissions(const uint8_t *at, const char *expected)
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

static struct run random_run(struct random_state *r, const uint8_t *code)
{
    struct run run = {.code = code, .sixth = random_u64(r)};
    random_fill(r, run.in, sizeof run.in);
    random_fill(r, run.red_zone, sizeof run.red_zone);
    return run;
}

static void check_kept(const struct run *run, int generic)
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

static void check_frame(const struct run *run, uint64_t nr, int generic)
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

START_TEST(answered_call_returns_the_gates_value)
{
    struct random_state r = {11 + (uint64_t)_i};
    struct run run;
    start();
    put_site(text + 64, calls[_i].nr);
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), calls[_i].anywhere);
    for (size_t k = 0; k < N_CALLS; k++)
        ck_assert_uint_eq(found[k], k == (size_t)_i && calls[_i].anywhere);
    for (int turn = 0; turn < 20 && calls[_i].anywhere; turn++) {
        gate.calls = 0;
        gate.ret = turn == 0 ? 0 : turn == 1 ? -ENOMEM : (long)random_u64(&r);
        run = random_run(&r, text + 64);
        gate_patch_run(&run);
        check_frame(&run, calls[_i].nr, 0);
        ck_assert_int_eq((long)run.out[RAX], gate.ret);
        check_kept(&run, 0);
    }
    stop();
}
END_TEST

/* What a handler that unwinds finds beyond the gate is the site, with its registers. */
START_TEST(gate_can_be_unwound)
{
    struct random_state r = {37};
    start();
    put_site(text + 64, calls[0].nr);
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    struct run run = random_run(&r, text + 64);
    gate.unwinds = 1;
    gate_patch_run(&run);
    gate.unwinds = 0;
    check_kept(&run, 0);
    ck_assert_uint_eq(gate.rip, (uint64_t)text + 64 + 7);
    ck_assert_uint_eq(gate.rbx, run.in[RBX]);
    ck_assert_uint_eq(gate.rbp, run.in[RBP]);
    ck_assert_uint_lt(gate.way_back - (uint64_t)gate_patch_run, 512);
    stop();
}
END_TEST

/* Calls that the kernel refuses, so that making them twice changes nothing; -1: the result is only compared. */
static const struct {
    uint32_t nr;
    uint64_t a, b, c;
    long expected;
} refused[] = {
    {SYS_mmap, 0, 0, 0, -EINVAL},          {SYS_mprotect, 1, 1, 0, -EINVAL},   {SYS_munmap, 1, 1, 0, -EINVAL},
    {SYS_brk, 0, 0, 0, -1},                {SYS_mremap, 1, 1, 1, -EINVAL},     {SYS_madvise, 1, 1, 0, -EINVAL},
    {SYS_clone, 0x10000, 0, 0, -EINVAL},   {SYS_clone3, 0, 0, 0, -EINVAL},     {SYS_pkey_mprotect, 1, 1, 0, -EINVAL},
    {SYS_close, ~0ull, 0, 0, -EBADF},      {SYS_close_range, 5, 4, 0, -EINVAL}, {SYS_dup2, ~0ull, ~0ull, 0, -EBADF},
    {SYS_dup3, 1, 1, 0, -EINVAL},          {SYS_process_madvise, ~0ull, 0, 0, -1},
};

START_TEST(passed_call_is_made_in_place)
{
    struct random_state r = {500 + (uint64_t)_i};
    start();
    put_site(text + 64, refused[_i].nr);
    executable();
    struct run native = random_run(&r, text + 64), patched;
    native.in[RDI] = refused[_i].a;
    native.in[RSI] = refused[_i].b;
    native.in[RDX] = refused[_i].c;
    patched = native;
    gate_patch_run(&native);
    ck_assert_int_eq(gate.calls, 0);
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    gate.pass = 1;
    gate.ret = 4711;
    gate_patch_run(&patched);
    check_frame(&patched, refused[_i].nr, 0);
    ck_assert_int_eq((long)patched.out[RAX], (long)native.out[RAX]);
    if (refused[_i].expected != -1)
        ck_assert_int_eq((long)patched.out[RAX], refused[_i].expected);
    check_kept(&native, 0);
    check_kept(&patched, 0);
    ck_assert_uint_eq(patched.out[RCX], (uint64_t)(text + 64 + SITE_BYTES)); /* the kernel saw the call at its own place */
    ck_assert_uint_eq(eg_gate_site(patched.out[RCX]), (uint64_t)text + 64);
    stop();
}
END_TEST

/* A thread on a node is single-stepped, and comes home after `steps_left` instructions, counted from its call's site. */
#define TRAP_FLAG 0x100
static int steps_left, steps_done;
static uint64_t steps_from, steps_to, steps_at;

static void on_step(int signal, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t rip = (uint64_t)r[REG_RIP], rsp = (uint64_t)r[REG_RSP];
    (void)signal;
    (void)info;
    if (!steps_done && rip != steps_from)
        return;
    const int made = steps_at == steps_to - 2; /* its syscall: the kernel does not trap right behind it */
    steps_at = rip;
    if (made || steps_done++ == steps_left) {
        r[REG_EFL] &= ~TRAP_FLAG;
        if (made)
            return;
        eg_where[0] = 0;
        eg_gate_again(&rip, &rsp);
        r[REG_RIP] = (greg_t)rip;
        r[REG_RSP] = (greg_t)rsp;
    }
}

START_TEST(thread_may_come_home_before_any_instruction)
{
    /* Elsewhere than on the stack: while gate_patch_run itself is stepped through, a frame there would lie in what is to be the code's red zone. */
    static uint8_t frames[64 << 10];
    stack_t own = {.ss_sp = frames, .ss_size = sizeof frames}, none = {.ss_flags = SS_DISABLE};
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO | SA_ONSTACK}, before;
    sigaltstack(&own, NULL);
    sigaction(SIGTRAP, &action, &before);
    for (steps_left = 0;; steps_left++) {
        struct random_state r = {900 + (uint64_t)steps_left};
        start();
        if (_i)
            put_generic(text + 64);
        else
            put_site(text + 64, SYS_munmap);
        executable();
        struct run patched = random_run(&r, text + 64);
        if (_i)
            patched.in[RAX] = SYS_getpid;
        patched.in[RDI] = patched.in[RSI] = 1;
        ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
        gate.pass = 0;
        gate.ret = 4711;
        eg_where[0] = 1;
        steps_done = 0;
        steps_at = 0;
        steps_from = (uint64_t)text + 64;
        steps_to = (uint64_t)text + 64 + SITE_BYTES;
        __asm__ volatile("pushf; orl $0x100, (%rsp); popf");
        gate_patch_run(&patched);
        eg_where[0] = 0;
        int over = steps_done <= steps_left; /* it made its call on the node */
        if (!over) {
            ck_assert_msg(gate.calls == 1, "after %d instructions the gate sees %d calls", steps_left, (int)gate.calls);
            ck_assert_int_eq((long)patched.out[RAX], 4711);
            check_kept(&patched, _i);
        }
        stop();
        if (over)
            break;
    }
    ck_assert_int_gt(steps_left, 8);
    sigaction(SIGTRAP, &before, NULL);
    sigaltstack(&none, NULL);
}
END_TEST

/* e9 before a call is part of another instruction, or a jump to somewhere else. */
START_TEST(other_jumps_are_no_site)
{
    static const uint8_t code[][7] = {
        {0xe9, 0x89, 0xd8, 0x31, 0xd2, 0x0f, 0x05}, /* of mov %rbp,%r9; then mov %ebx,%eax; xor %edx,%edx */
        {0xe9, 0x10, 0x00, 0x00, 0x00, 0x0f, 0x05},
        {0xb8, 0x0b, 0x00, 0x00, 0x00, 0x0f, 0x05},
    };
    start();
    memcpy(text + 65, code[_i], sizeof code[_i]);
    executable();
    ck_assert_uint_eq(eg_gate_site((uint64_t)text + 65 + SITE_BYTES), 0);
    ck_assert_uint_eq(eg_gate_site(3), 0);
    stop();
}
END_TEST

START_TEST(generic_site_carries_any_call)
{
    struct random_state r = {81};
    struct run run;
    start();
    put_generic(text + 64);
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    for (size_t k = 0; k < N_CALLS; k++)
        ck_assert_uint_eq(found[k], 0);
    run = random_run(&r, text + 64);
    gate.ret = 99;
    gate_patch_run(&run);
    check_frame(&run, run.in[RAX], 1);
    ck_assert_int_eq((long)run.out[RAX], 99);
    check_kept(&run, 1);

    gate.calls = 0;
    gate.pass = 1;
    run = random_run(&r, text + 64);
    run.in[RAX] = SYS_getpid;
    gate_patch_run(&run);
    check_frame(&run, SYS_getpid, 1);
    ck_assert_int_eq((long)run.out[RAX], getpid());
    check_kept(&run, 1);

    /* The sixth argument comes from the stack: an offset that is no multiple of the page is refused, 0 is not. */
    run = random_run(&r, text + 64);
    run.in[RAX] = SYS_mmap;
    run.in[RDI] = 0;
    run.in[RSI] = PAGE;
    run.in[RDX] = PROT_READ;
    run.in[R10] = MAP_PRIVATE | MAP_ANONYMOUS;
    run.in[R8] = ~0ull;
    run.in[R9] = 1;
    run.sixth = 1;
    gate_patch_run(&run);
    ck_assert_int_eq((long)run.out[RAX], -EINVAL);
    run.sixth = 0;
    gate_patch_run(&run);
    ck_assert_uint_eq(run.out[RAX] % PAGE, 0);
    ck_assert_int_eq(munmap((void *)run.out[RAX], PAGE), 0);
    stop();
}
END_TEST

START_TEST(site_may_lie_across_a_page_boundary)
{
    struct random_state r = {3 + (uint64_t)_i};
    start();
    uint8_t *site = text + 2 * PAGE - _i, before[TEXT_BYTES];
    if (_i < 7)
        put_site(site, SYS_munmap);
    else
        put_generic(site = text + 2 * PAGE - (_i - 6));
    memcpy(before, text, TEXT_BYTES);
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    memcpy(before + (site - text), site, 5);
    ck_assert_mem_eq(text, before, TEXT_BYTES); /* nothing but the mov has changed */
    check_permissions(site, "r-xp");
    check_permissions(site + SITE_BYTES, "r-xp");
    check_permissions(jump_target(site), "r-xp");
    struct run run = random_run(&r, site);
    gate.ret = 17;
    gate_patch_run(&run);
    ck_assert_int_eq(gate.calls, 1);
    ck_assert_int_eq((long)run.out[RAX], 17);
    check_kept(&run, _i >= 7);
    stop();
}
END_TEST

START_TEST(jump_onto_the_syscall_itself_still_works)
{
    struct random_state r = {21};
    start();
    put_site(text + 64, SYS_mmap);
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    struct run run = random_run(&r, text + 64 + 5);
    run.in[RAX] = SYS_getpid;
    gate_patch_run(&run);
    ck_assert_int_eq(gate.calls, 0);
    ck_assert_int_eq((long)run.out[RAX], getpid());
    check_kept(&run, 0);
    stop();
}
END_TEST

START_TEST(every_site_is_counted_and_patched)
{
    struct random_state r = {8};
    uint8_t *site[100], *at;
    uint32_t nr[100], want[N_CALLS] = {0};
    int n = 0;
    start();
    at = put_site(text, calls[0].nr); /* at the very start */
    site[n] = text;
    nr[n++] = calls[0].nr;
    want[0]++;
    while (n < 99) {
        at += random_below(&r, 300);
        site[n] = at;
        if (random_below(&r, 5) == 0) {
            nr[n++] = 0;
            at = put_generic(at);
            continue;
        }
        uint32_t k = random_below(&r, N_CALLS);
        if (!calls[k].anywhere)
            continue;
        want[k]++;
        nr[n++] = calls[k].nr;
        at = put_site(at, calls[k].nr);
    }
    site[n] = text + TEXT_BYTES - SITE_BYTES; /* and at the very end */
    nr[n++] = SYS_brk;
    for (size_t k = 0; k < N_CALLS; k++)
        want[k] += calls[k].nr == SYS_brk;
    memcpy(site[n - 1], (uint8_t[]){0xb8, SYS_brk, 0, 0, 0, 0x0f, 0x05}, SITE_BYTES);
    ck_assert(at < site[n - 1]);
    executable();
    patched_before = 0;
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), n);
    ck_assert_mem_eq(found, want, sizeof want);
    for (int k = 0; k < n - 1; k++) {
        struct run run = random_run(&r, site[k]);
        gate.calls = 0;
        gate.ret = k;
        gate_patch_run(&run);
        check_frame(&run, nr[k] ? nr[k] : run.in[RAX], !nr[k]);
        ck_assert_int_eq((long)run.out[RAX], k);
        check_kept(&run, !nr[k]);
    }
    jump_target(site[n - 1]);
    /* Patched text has no site any more, and counts of another text add up. */
    ck_assert_int_eq(patched_before, 0);
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 0);
    ck_assert_int_eq(patched_before, n);
    ck_assert_mem_eq(found, want, sizeof want);
    stop();
    uint32_t before[N_CALLS];
    memcpy(before, found, sizeof before);
    start();
    memcpy(found, before, sizeof before);
    put_site(text + 64, calls[2].nr);
    before[2]++;
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    ck_assert_mem_eq(found, before, sizeof before);
    stop();
}
END_TEST

static const struct {
    const char *what;
    uint8_t len;
    uint8_t code[16];
} others[] = {
    {"mov $9,%r8d", 8, {0x41, 0xb8, 9, 0, 0, 0, 0x0f, 0x05}},
    {"mov $9,%r8d with more prefix bits", 8, {0x45, 0xb8, 9, 0, 0, 0, 0x0f, 0x05}},
    {"number that no table has", 7, {0xb8, SYS_getpid, 0, 0, 0, 0x0f, 0x05}},
    {"number with a high bit", 7, {0xb8, 9, 0, 0, 1, 0x0f, 0x05}},
    {"mov to another register", 7, {0xb9, 9, 0, 0, 0, 0x0f, 0x05}},
    {"something between mov and syscall", 8, {0xb8, 9, 0, 0, 0, NOP, 0x0f, 0x05}},
    {"xor %eax,%eax", 4, {0x31, 0xc0, 0x0f, 0x05}},
    {"another instruction in the place of syscall", 7, {0xb8, 9, 0, 0, 0, 0x0f, 0x0b}},
    {"half of syscall", 7, {0xb8, 9, 0, 0, 0, 0x0e, 0x05}},
    {"sysenter", 7, {0xb8, 9, 0, 0, 0, 0x0f, 0x34}},
    {"last argument from another place", 7, {0x4c, 0x8b, 0x4c, 0x24, 0x10, 0x0f, 0x05}},
    {"other register's last argument", 7, {0x4c, 0x8b, 0x44, 0x24, 0x08, 0x0f, 0x05}},
};

/* In the middle of the text, and at its end, where it is searched byte by byte. */
START_TEST(other_code_is_left_alone)
{
    uint8_t before[TEXT_BYTES];
    start();
    memcpy(text + 64, others[_i].code, others[_i].len);
    memcpy(before, text, TEXT_BYTES);
    executable();
    int n = eg_gate_patch(text, TEXT_BYTES, found, &patched_before), at_end = eg_gate_patch(text, 64u + others[_i].len, found, &patched_before);
    ck_assert_msg(n == 0 && at_end == 0, "%s: %d %d", others[_i].what, n, at_end);
    ck_assert_mem_eq(text, before, TEXT_BYTES);
    for (size_t k = 0; k < N_CALLS; k++)
        ck_assert_uint_eq(found[k], 0);
    stop();
}
END_TEST

START_TEST(text_that_ends_early_is_not_read_beyond)
{
    start();
    put_site(text + 64, SYS_mmap);
    executable();
    for (size_t bytes = 0; bytes < 64 + SITE_BYTES; bytes++)
        ck_assert_int_eq(eg_gate_patch(text, bytes, found, &patched_before), 0);
    ck_assert_uint_eq(found[0], 0);
    ck_assert_int_eq(eg_gate_patch(text, 64 + SITE_BYTES, found, &patched_before), 1);
    stop();
}
END_TEST

/* Nothing within a jump's reach: refused before anything is changed. */
START_TEST(without_room_near_the_text_nothing_is_patched)
{
    const size_t wall = (1ul << 30) + (64ul << 20);
    uint8_t *area = mmap(NULL, wall + TEXT_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t before[TEXT_BYTES];
    ck_assert_ptr_ne(area, MAP_FAILED);
    memset(found, 0, sizeof found);
    text = area + wall;
    ck_assert_int_eq(mprotect(text, TEXT_BYTES, PROT_READ | PROT_WRITE), 0);
    memset(text, NOP, TEXT_BYTES);
    put_site(text + 64, SYS_mmap);
    memcpy(before, text, TEXT_BYTES);
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), -ENOMEM);
    ck_assert_mem_eq(text, before, TEXT_BYTES);
    munmap(area, wall + TEXT_BYTES);
}
END_TEST

/* The loop at the end of libc's threads has no room for the usual patch. */
START_TEST(end_of_threads_is_patched)
{
    static const uint8_t loop[] = {0xba, 0x3c, 0, 0, 0, 0x66, 0x90, 0x31, 0xff, 0x89, 0xd0, 0x0f, 0x05, 0xeb, 0xf8};
    start();
    memcpy(text + 64, loop, sizeof loop);
    executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    ck_assert_uint_eq(text[64 + 7], 0xe9);
    ck_assert_mem_eq(text + 64 + 12, loop + 12, 3);
    stop();
}
END_TEST

/* The compiler may put something between the number and the syscall: for the view's calls such sites are known, too. */
static const struct {
    uint8_t code[20];
    uint8_t len; /* the syscall included */
    uint8_t known;
} between[] = {
    {{0xb8, 0xcc, 0, 0, 0, 0x49, 0x39, 0xf0, 0x49, 0x0f, 0x46, 0xf0, 0x0f, 0x05}, 14, 1},       /* cmp %rsi,%r8; cmovbe %r8,%rsi */
    {{0xb8, 0x01, 0x01, 0, 0, 0x48, 0x89, 0xfe, 0xbf, 0x9c, 0xff, 0xff, 0xff, 0x0f, 0x05}, 15, 1}, /* mov %rdi,%rsi; mov $-100,%edi */
    {{0xb8, 0xcb, 0, 0, 0, 0xbe, 0x80, 0, 0, 0, 0x0f, 0x05}, 12, 1},                            /* mov $128,%esi */
    {{0xb8, 0xcc, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}, 9, 1},                                      /* xor %edi,%edi */
    {{0xb8, 0xcc, 0, 0, 0, 0x41, 0xb8, 1, 0, 0, 0, 0x0f, 0x05}, 13, 1},                         /* mov $1,%r8d */
    {{0xb8, 0x09, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}, 9, 0},                                      /* mmap is not of the view */
    {{0xb8, 0xcc, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05}, 9, 0},                                      /* xor %eax,%eax */
    {{0xb8, 0xcc, 0, 0, 0, 0x48, 0x89, 0xf8, 0x0f, 0x05}, 10, 0},                               /* mov %rdi,%rax */
    {{0xb8, 0xcc, 0, 0, 0, 0x48, 0x8b, 0xc7, 0x0f, 0x05}, 10, 0},                               /* the same, coded the other way */
    {{0xb8, 0xcc, 0, 0, 0, 0x0f, 0x44, 0xc7, 0x0f, 0x05}, 10, 0},                               /* cmove %edi,%eax */
    {{0xb8, 0xcc, 0, 0, 0, 0x8b, 0x3e, 0x0f, 0x05}, 9, 0},                                      /* mov (%rsi),%edi */
    {{0xb8, 0xcc, 0, 0, 0, 0x74, 0x02, 0x0f, 0x05}, 9, 0},                                      /* je over the syscall */
    {{0xb8, 0xcc, 0, 0, 0, 0x49, 0x39, 0x0f, 0x05}, 9, 0},                                      /* half an instruction */
    {{0xb8, 0xcc, 0, 0, 0, 0x48, 0xbe, 1, 0, 0, 0, 0x0f, 0x05}, 13, 0},                         /* a constant of eight bytes */
    {{0x41, 0xb8, 0xcc, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}, 10, 0},                               /* the number goes to r8d */
};

START_TEST(view_calls_may_have_code_between)
{
    struct random_state r = {900 + (uint64_t)_i};
    const uint8_t len = between[_i].len, *code = between[_i].code;
    uint8_t before[TEXT_BYTES], view = eg_gate_view;
    start();
    memcpy(text + 64, code, len);
    text[64 + len] = 0xc3;
    memcpy(before, text, TEXT_BYTES);
    executable();
    eg_gate_view = 0;
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 0);
    struct run native = random_run(&r, text + 64), run;
    native.in[RDI] = ~0ull; /* the kernel refuses all of them */
    native.in[RSI] = native.in[RDX] = native.in[R10] = 0;
    run = native;
    if (between[_i].known)
        gate_patch_run(&native);
    eg_gate_view = 1;
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), between[_i].known);
    eg_gate_view = view;
    if (!between[_i].known) {
        ck_assert_mem_eq(text, before, TEXT_BYTES);
        stop();
        return;
    }
    memcpy(before + 64, text + 64, 5);
    ck_assert_mem_eq(text, before, TEXT_BYTES);
    struct run passed = run;
    gate.pass = 1;
    gate_patch_run(&passed);
    ck_assert_int_eq(gate.calls, 1);
    ck_assert_uint_eq((uint64_t)gate.frame.nr, code[1] | (uint64_t)code[2] << 8);
    for (int i = 0; i < 14; i++) /* what came between has been done, once; the kernel saw the call at its own place */
        if (i != R11)
            ck_assert_uint_eq(passed.out[i], native.out[i]);
    ck_assert_uint_eq(passed.out[RCX], (uint64_t)(text + 64 + len));
    gate.pass = 0;
    gate.ret = 31;
    gate_patch_run(&run);
    ck_assert_int_eq((long)run.out[RAX], 31);
    ck_assert_uint_eq(run.out[RSI], native.out[RSI]);
    ck_assert_uint_eq(run.out[RDI], native.out[RDI]);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[0], native.out[RDI]);
    ck_assert_uint_eq((uint64_t)gate.frame.arg[1], native.out[RSI]);
    ck_assert_uint_eq(run.rsp_moved, 0);
    ck_assert_mem_eq(run.red_zone_out, run.red_zone, sizeof run.red_zone);
    stop();
}
END_TEST

/* The rt_sigprocmask of libc's thread start: known by the set_robust_list not far before it. */
START_TEST(start_of_threads_is_patched_where_it_is)
{
    static const uint8_t robust[] = {0xb8, 0x11, 0x01, 0, 0, 0x0f, 0x05};                                          /* mov $273,%eax; syscall */
    static const uint8_t mask[] = {0xb8, 0x0e, 0, 0, 0, 0x48, 0x8d, 0xb3, 0xf0, 0x08, 0, 0, 0x0f, 0x05};           /* ...; lea 0x8f0(%rbx),%rsi; syscall */
    static const uint8_t stack[] = {0xb8, 0x0e, 0, 0, 0, 0x48, 0x8d, 0xb4, 0x24, 0x08, 0, 0, 0, 0x0f, 0x05};       /* lea 8(%rsp),%rsi */
    static const uint8_t here[] = {0xb8, 0x0e, 0, 0, 0, 0x48, 0x8d, 0x35, 0xf0, 0x08, 0, 0, 0x0f, 0x05};           /* lea 0x8f0(%rip),%rsi */
    static const struct {
        const uint8_t *code;
        size_t len;
        unsigned gap; /* between the two; 0: no set_robust_list */
        int nodes, patched;
    } cases[] = {{mask, sizeof mask, 90, 1, 1}, {mask, sizeof mask, 90, 0, 0}, {mask, sizeof mask, 0, 1, 0}, {mask, sizeof mask, 400, 1, 0},
                 {stack, sizeof stack, 90, 1, 0}, {here, sizeof here, 90, 1, 0}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct random_state r = {77};
        start();
        uint8_t *at = text + 64 + cases[k].gap;
        if (cases[k].gap)
            memcpy(text + 64, robust, sizeof robust);
        memcpy(at, cases[k].code, cases[k].len);
        at[cases[k].len] = 0xc3;
        executable();
        eg_gate_start = 0;
        eg_gate_nodes = (uint8_t)cases[k].nodes;
        ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), cases[k].patched);
        ck_assert_int_eq(eg_gate_start, cases[k].patched);
        eg_gate_nodes = 1;
        if (!cases[k].patched) {
            ck_assert_mem_eq(at, cases[k].code, cases[k].len);
            stop();
            continue;
        }
        struct run run = random_run(&r, at);
        gate.ret = 5;
        gate_patch_run(&run);
        ck_assert_uint_eq((uint64_t)gate.frame.nr, 14);
        ck_assert_uint_eq((uint64_t)gate.frame.arg[1], run.in[RBX] + 0x8f0);
        ck_assert_int_eq((long)run.out[RAX], 5);
        ck_assert_mem_eq(run.red_zone_out, run.red_zone, sizeof run.red_zone);
        stop();
    }
}
END_TEST

/* --- every call ---------------------------------------------------------------------------------------------------------- */

enum { NONE, IN_PLACE, AROUND, LEFT, LEFT_HARMLESS };

/* Code with one `0f 05` in it. The calls are read or getpid: the kernel refuses the one and the other takes nothing. */
static const struct {
    const char *name;
    uint8_t code[40];
    uint8_t len, syscall, jump; /* offsets; jump: where it is patched */
    uint8_t what;
} every[] = {
    {"mov $39,%eax", {0xb8, 39, 0, 0, 0, 0x0f, 0x05}, 7, 5, 0, IN_PLACE},
    {"mov $39,%rax", {0x48, 0xc7, 0xc0, 39, 0, 0, 0, 0x0f, 0x05}, 9, 7, 0, IN_PLACE},
    {"another instruction's end looks like a prefix", {0x48, 0x83, 0xc6, 0x48, 0xb8, 39, 0, 0, 0, 0x0f, 0x05}, 11, 9, 4, IN_PLACE},
    {"mov %rsi,%rdx; xor %eax,%eax", {0x48, 0x89, 0xf2, 0x31, 0xc0, 0x0f, 0x05}, 7, 5, 0, IN_PLACE},
    {"xor %r10d,%r10d; mov $39,%r8d; mov %r8d,%eax", {0x45, 0x31, 0xd2, 0x41, 0xb8, 39, 0, 0, 0, 0x44, 0x89, 0xc0, 0x0f, 0x05}, 14, 12, 3, IN_PLACE},
    {"mov $39,%eax; xor $0x80,%sil", {0xb8, 39, 0, 0, 0, 0x40, 0x80, 0xf6, 0x80, 0x0f, 0x05}, 11, 9, 0, IN_PLACE},
    {"mov $39,%eax; mov 256(%rip),%esi", {0xb8, 39, 0, 0, 0, 0x8b, 0x35, 0, 1, 0, 0, 0x0f, 0x05}, 13, 11, 5, IN_PLACE},
    {"mov $39,%eax; andl $0x7f,256(%rip); and $0x7f,%sil",
     {0xb8, 39, 0, 0, 0, 0x83, 0x3d, 0, 1, 0, 0, 0x7f, 0x40, 0x80, 0xe6, 0x7f, 0x0f, 0x05}, 18, 16, 5, IN_PLACE},
    {"mov %rdi,%rbx; mov (%rsp),%r12; mov $39,%al", {0x31, 0xc0, 0x48, 0x89, 0xfb, 0x4c, 0x8b, 0x24, 0x24, 0xb0, 39, 0x0f, 0x05}, 13, 11, 5, IN_PLACE},
    {"test %esi,%esi; je 1f; xor %eax,%eax; syscall; ret; 1: mov $7,%eax",
     {0x85, 0xf6, 0x74, 0x05, 0x31, 0xc0, 0x0f, 0x05, 0xc3, 0xb8, 7, 0, 0, 0}, 14, 6, 0, IN_PLACE},
    {"jmp 1f; 1: xor %eax,%eax; syscall; cmp $-4096,%rax; seta %dl",
     {0xeb, 0x00, 0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x0f, 0x97, 0xc2}, 15, 4, 4, AROUND},
    {"jmp 1f; mov $39,%eax; 1: syscall; mov 256(%rip),%esi",
     {0xeb, 0x05, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x8b, 0x35, 0, 1, 0, 0}, 15, 7, 7, AROUND},
    {"jmp 1f; 1: xor %eax,%eax; syscall; test %eax,%eax; js 2f; mov $5,%edx; 2:",
     {0xeb, 0x00, 0x31, 0xc0, 0x0f, 0x05, 0x85, 0xc0, 0x78, 0x05, 0xba, 5, 0, 0, 0}, 15, 4, 4, AROUND},
    {"1: xor %edi,%edi; mov %edx,%eax; syscall; jmp 1b", {0xba, 60, 0, 0, 0, 0x66, 0x90, 0x31, 0xff, 0x89, 0xd0, 0x0f, 0x05, 0xeb, 0xf8}, 15, 11, 9, AROUND},
    {"jmp 1f; 1: xor %eax,%eax; syscall; nop", {0xeb, 0x00, 0x31, 0xc0, 0x0f, 0x05, 0x0f, 0x1f, 0x00}, 9, 4, 0, LEFT_HARMLESS},
    {"jmp 1f; 1: mov %esi,%eax; syscall; nop", {0xeb, 0x00, 0x89, 0xf0, 0x0f, 0x05, 0x0f, 0x1f, 0x00}, 9, 4, 0, LEFT},
    {"loop 1f; 1: mov %esi,%eax; syscall; nop", {0xe2, 0x00, 0x89, 0xf0, 0x0f, 0x05, 0x0f, 0x1f, 0x00}, 9, 4, 0, LEFT},
    {"mov $39,%eax; syscall; je", {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x74, 0x00}, 9, 5, 0, LEFT_HARMLESS},
    {"mov 8(%rsp),%r9; syscall, and no number", {0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05}, 7, 5, 0, LEFT},
    {"rt_sigreturn", {0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05}, 9, 7, 0, NONE},
    {"mov $15,%eax", {0xb8, 15, 0, 0, 0, 0x0f, 0x05}, 7, 5, 0, NONE},
    {"lea 0x50f(%rip),%eax", {0x31, 0xc0, 0x8d, 0x05, 0x0f, 0x05, 0, 0}, 8, 4, 0, NONE},
    {"mov $0x50f,%esi", {0x31, 0xc0, 0xbe, 0x0f, 0x05, 0, 0}, 7, 3, 0, NONE},
};

static const uint64_t harmless_read[EG_GATE_HARMLESS_WORDS] = {1ull | 1ull << SYS_getpid};

static int patch_all(struct eg_gate_verdict *ret)
{
    struct eg_gate_text all = {.at = text, .bytes = TEXT_BYTES, .prot = PROT_READ | PROT_EXEC};
    memset(ret, 0, sizeof *ret);
    return eg_gate_patch_all(&all, harmless_read, found, ret);
}

static void check_same(const struct run *got, const struct run *want, int and_rax)
{
    for (int i = and_rax ? RAX : RBX; i < 14; i++)
        if (i != R11 && i != RCX)
            ck_assert_msg(got->out[i] == want->out[i], "register %d: %llx, want %llx", i, (unsigned long long)got->out[i], (unsigned long long)want->out[i]);
    ck_assert_uint_eq(got->out_r15, want->out_r15);
    ck_assert_uint_eq(got->rsp_moved, 0);
    ck_assert_mem_eq(got->red_zone_out, got->red_zone, sizeof got->red_zone);
}

START_TEST(every_kind_of_site_does_what_it_did)
{
    struct random_state r = {4000 + (uint64_t)_i};
    const uint8_t what = every[_i].what, len = every[_i].len;
    uint8_t *code = text;
    uint8_t before[TEXT_BYTES];
    struct eg_gate_verdict v;
    start();
    code = text + 1024;
    memcpy(code, every[_i].code, len);
    code[len] = 0xc3;
    memcpy(before, text, TEXT_BYTES);
    executable();
    struct run run = random_run(&r, code), native;
    run.in[RDI] = ~0ull;
    run.in[RAX] = SYS_getpid;
    native = run;
    int runs = (what == IN_PLACE || what == AROUND) && code[len - 1] != 0xf8;
    if (runs)
        gate_patch_run(&native);
    int n = patch_all(&v);
    ck_assert_int_eq(n, what == IN_PLACE || what == AROUND);
    ck_assert_uint_eq(v.n_sites, what != NONE);
    ck_assert_uint_eq(v.n_patched, (uint32_t)n);
    ck_assert_uint_eq(v.n_left, what == LEFT);
    ck_assert_ptr_eq(v.first_left, what == LEFT ? code + every[_i].syscall : NULL);
    if (n != 1) {
        ck_assert_mem_eq(text, before, TEXT_BYTES);
        stop();
        return;
    }
    ck_assert_uint_eq(code[every[_i].jump], 0xe9);
    memcpy(before + 1024 + every[_i].jump, code + every[_i].jump, 5);
    ck_assert_mem_eq(text, before, TEXT_BYTES);
    ck_assert_int_eq(memcmp(code + every[_i].syscall, "\x0f\x05", 2) == 0, what == IN_PLACE);
    check_permissions(code, "r-xp");
    check_permissions(jump_target(code + every[_i].jump), "r-xp");
    if (runs) {
        struct run passed = run;
        gate.pass = 1;
        gate.ret = 4711;
        gate_patch_run(&passed);
        ck_assert_int_eq(gate.calls, 1);
        ck_assert_int_eq(gate.misaligned, 0);
        check_same(&passed, &native, 1);
        if (what == IN_PLACE)
            ck_assert_uint_eq(passed.out[RCX], (uint64_t)(code + every[_i].syscall + 2));
        gate.pass = gate.calls = 0;
        gate.ret = (long)native.out[RAX]; /* what is done behind the call may look at its result */
        gate_patch_run(&run);
        ck_assert_int_eq(gate.calls, 1);
        check_same(&run, &native, 1);
    }
    /* A second look finds everything done. */
    ck_assert_int_eq(patch_all(&v), 0);
    ck_assert_uint_eq(v.n_before, what == IN_PLACE);
    ck_assert_uint_eq(v.n_left, 0);
    stop();
}
END_TEST

START_TEST(moved_branch_goes_where_it_went)
{
    static const uint8_t code[] = {0x85, 0xf6, 0x74, 0x05, 0x31, 0xc0, 0x0f, 0x05, 0xc3, 0xb8, 7, 0, 0, 0, 0xc3};
    struct random_state r = {5};
    struct eg_gate_verdict v;
    start();
    memcpy(text + 64, code, sizeof code);
    executable();
    ck_assert_int_eq(patch_all(&v), 1);
    struct run run = random_run(&r, text + 64);
    run.in[RSI] = 0;
    gate_patch_run(&run);
    ck_assert_int_eq(gate.calls, 0);
    ck_assert_uint_eq(run.out[RAX], 7);
    stop();
}
END_TEST

/* xor %r10d,%r10d; mov %r8d,%eax; syscall; cmp $-4096,%rax: a jump to the second instruction leaves the room from there on only. */
static const uint8_t two_moves[] = {0x45, 0x31, 0xd2, 0x44, 0x89, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xc3};

static void jump_from(unsigned how)
{
    uint8_t *from = text + 3 * PAGE, *to = text + 1024 + 3;
    int32_t rel = (int32_t)(to - (from + 6)), table = 256;
    switch (how) {
    case 0: memcpy(from, "\x0f\x84", 2); memcpy(from + 2, &rel, 4); break; /* je */
    case 1: from[1] = 0xe9; memcpy(from + 2, &rel, 4); break;              /* jmp */
    case 2: from[1] = 0xe8; memcpy(from + 2, &rel, 4); break;              /* call */
    case 3:                                                                /* lea table(%rip),%rdx, its third entry */
        memcpy(from, "\x48\x8d\x15", 3);
        memcpy(from + 3, &table, 4);
        for (int32_t i = 0; i < 3; i++) {
            int32_t entry = (int32_t)((i == 2 ? to : text + 16) - (from + 7 + table));
            memcpy(from + 7 + table + 4 * i, &entry, 4);
        }
        break;
    default: /* bytes of a constant that look like a jump */
        memcpy(from, "\x48\xb8\xe9", 3);
        rel = (int32_t)(to - (from + 7));
        memcpy(from + 3, &rel, 4);
        memset(from + 7, 0, 3);
    }
}

START_TEST(bytes_that_are_jumped_to_are_not_taken)
{
    struct eg_gate_verdict v;
    start();
    memcpy(text + 1024, two_moves, sizeof two_moves);
    jump_from((unsigned)_i);
    executable();
    ck_assert_int_eq(patch_all(&v), 1);
    ck_assert_uint_eq(v.n_left, 0);
    ck_assert_uint_eq(text[1024], _i == 4 ? 0xe9 : 0x45);
    if (_i != 4)
        ck_assert_uint_eq(text[1024 + 6], 0xe9);
    stop();
}
END_TEST

/* Neighbours may not take each other's bytes. */
START_TEST(sites_next_to_each_other)
{
    static const uint8_t code[] = {0x89, 0xf0, 0x0f, 0x05, 0x44, 0x89, 0xc0, 0x31, 0xd2, 0x0f, 0x05, 0x31, 0xc0, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0xc3};
    struct random_state r = {6};
    struct eg_gate_verdict v;
    start();
    memcpy(text + 1024, code, sizeof code);
    executable();
    struct run native = random_run(&r, text + 1024), run;
    native.in[RDI] = ~0ull;
    native.in[RSI] = native.in[R8] = SYS_getpid;
    run = native;
    gate_patch_run(&native);
    ck_assert_int_eq(patch_all(&v), 3);
    gate.pass = 1;
    gate_patch_run(&run);
    ck_assert_int_eq(gate.calls, 3);
    check_same(&run, &native, 1);
    stop();
}
END_TEST

START_TEST(random_bytes_do_no_harm)
{
    struct random_state r = {9000 + (uint64_t)_i};
    struct eg_gate_verdict v;
    start();
    random_fill(&r, text, TEXT_BYTES);
    for (unsigned i = 0; i < 200; i++)
        memcpy(text + random_below(&r, TEXT_BYTES - 2), "\x0f\x05", 2);
    executable();
    ck_assert_int_ge(patch_all(&v), 0);
    stop();
}
END_TEST

/* A file's mapping: pages of code, then nothing. */
static uint8_t *late_map(int fd, int flags, size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_EXEC, flags, fd, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    return p;
}

START_TEST(late_mapping_is_patched)
{
    int fd = memfd_create("late", MFD_CLOEXEC);
    uint8_t page[PAGE], now[PAGE];
    struct eg_gate_verdict v = {0};
    struct random_state r = {8};
    memset(&gate, 0, sizeof gate);
    memset(page, NOP, sizeof page);
    memcpy(page + 64, "\xb8\x27\0\0\0\x0f\x05\xc3", 8);
    memcpy(page + 1024, two_moves, sizeof two_moves);
    ck_assert_int_eq((int)write(fd, page, PAGE), (int)PAGE);
    uint8_t *p = late_map(fd, MAP_PRIVATE, 5 * PAGE); /* four of them behind the file's end */
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, 5 * PAGE, NULL, &v), 2);
    ck_assert_uint_eq(v.n_sites, 2);
    ck_assert_uint_eq(v.n_left, 0);
    check_permissions(p, "r-xp");
    struct run run = random_run(&r, p + 64);
    gate.ret = 3;
    gate_patch_run(&run);
    ck_assert_int_eq(gate.calls, 1);
    ck_assert_uint_eq(run.out[RAX], 3);
    ck_assert_int_eq((int)pread(fd, now, PAGE, 0), (int)PAGE);
    ck_assert_mem_eq(now, page, PAGE);
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, 5 * PAGE, NULL, &v), 0);
    ck_assert_uint_eq(v.n_before, 2);
    munmap(p, 5 * PAGE);
    /* Shared: not written to. */
    p = late_map(fd, MAP_SHARED, PAGE);
    memset(&v, 0, sizeof v);
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, PAGE, NULL, &v), 0);
    ck_assert_uint_eq(v.n_left, 2);
    ck_assert_mem_eq(p, page, PAGE);
    munmap(p, PAGE);
    /* Nothing of the file at all. */
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    p = late_map(fd, MAP_PRIVATE, 3 * PAGE);
    memset(&v, 0, sizeof v);
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, 3 * PAGE, NULL, &v), 0);
    ck_assert_uint_eq(v.n_sites + v.n_left, 0);
    munmap(p, 3 * PAGE);
    close(fd);
}
END_TEST

/* --- the real libc ------------------------------------------------------------------------------------------------------------- */

static int libc_path(char *ret, size_t cap)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    int got = 0;
    ck_assert_ptr_nonnull(maps);
    while (!got && fgets(line, sizeof line, maps)) {
        char *path = strchr(line, '/');
        if (path && strstr(path, "/libc.so.6")) {
            path[strcspn(path, "\n")] = 0;
            got = snprintf(ret, cap, "%s", path) > 0;
        }
    }
    fclose(maps);
    return got;
}

/* `syscall` instructions and sigreturns of a file, as objdump counts them; -1: no objdump. */
static int objdump_count(const char *path)
{
    char command[800];
    int n = -1;
    if (system("command -v objdump >/dev/null") != 0)
        return -1;
    snprintf(command, sizeof command, "objdump -d '%s' | awk '/\tsyscall/ && last !~ /[$]0xf,%%[re]ax/ {n++} {last = $0} END {print n + 0}'", path);
    FILE *p = popen(command, "re");
    if (!p || fscanf(p, "%d", &n) != 1)
        n = -1;
    if (p)
        pclose(p);
    return n;
}

/* The real libc's text and read-only data, private, with room for trampolines in front. Returns: where; NULL: this process has no libc.so.6. */
static uint8_t *libc_map(struct eg_gate_text *ret_text)
{
    char path[512];
    if (!libc_path(path, sizeof path))
        return NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    Elf64_Ehdr eh;
    Elf64_Phdr ph[32];
    uint64_t high = 0;
    ck_assert_int_eq((int)read(fd, &eh, sizeof eh), (int)sizeof eh);
    ck_assert_int_le(eh.e_phnum, 32);
    ck_assert_int_gt((int)pread(fd, ph, eh.e_phnum * sizeof *ph, (off_t)eh.e_phoff), 0);
    for (int i = 0; i < eh.e_phnum; i++)
        if (ph[i].p_type == PT_LOAD && ph[i].p_vaddr + ph[i].p_memsz > high)
            high = ph[i].p_vaddr + ph[i].p_memsz;
    const size_t room = 4ul << 20;
    uint8_t *base = mmap(NULL, high + room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(base, MAP_FAILED);
    munmap(base, room); /* for the trampolines */
    base += room;
    *ret_text = (struct eg_gate_text){.prot = PROT_READ | PROT_EXEC};
    unsigned tables = 0;
    for (int i = 0; i < eh.e_phnum; i++) {
        if (ph[i].p_type != PT_LOAD || ph[i].p_flags & PF_W)
            continue;
        uint64_t skip = ph[i].p_vaddr % PAGE;
        int prot = PROT_READ | (ph[i].p_flags & PF_X ? PROT_EXEC : 0);
        ck_assert_ptr_ne(mmap(base + ph[i].p_vaddr - skip, ph[i].p_filesz + skip, prot, MAP_PRIVATE | MAP_FIXED, fd, (off_t)(ph[i].p_offset - skip)), MAP_FAILED);
        if (ph[i].p_flags & PF_X) {
            ret_text->at = base + ph[i].p_vaddr;
            ret_text->bytes = ph[i].p_filesz;
        } else if (tables < EG_GATE_TABLES) {
            ret_text->tables[tables].start = (uint64_t)base + ph[i].p_vaddr;
            ret_text->tables[tables++].end = (uint64_t)base + ph[i].p_vaddr + ph[i].p_filesz;
        }
    }
    close(fd);
    return base;
}

START_TEST(nothing_of_libc_is_left)
{
    char path[512];
    struct eg_gate_text all;
    uint8_t *base = libc_map(&all);
    if (!base || !libc_path(path, sizeof path))
        return;
    struct eg_gate_verdict v = {0};
    memset(found, 0, sizeof found);
    ck_assert_int_gt(eg_gate_patch_all(&all, NULL, found, &v), 200);
    ck_assert_msg(v.n_left == 0, "%u left, the first at %lx", v.n_left, v.n_left ? (unsigned long)(v.first_left - base) : 0);
    ck_assert_uint_eq(v.n_patched, v.n_sites);
    for (size_t k = 0; k < 6; k++) /* mmap and its like */
        ck_assert_uint_gt(found[k], 0);
    int n = objdump_count(path);
    if (n >= 0)
        ck_assert_int_eq((int)v.n_sites, n);
}
END_TEST

static unsigned looks;
static uint64_t look_counted(const uint8_t *p, int what)
{
    uint64_t all = 0;
    looks++;
    for (unsigned i = 0; i < 64; i++)
        all |= (uint64_t)(what != EG_GATE_LOOK_SYSCALLS || (p[i] == 0x0f && p[i + 1] == 0x05)) << i;
    return all;
}

/* The run's other processes take the same sites without looking for them; where another gate has been meanwhile, they look. */
START_TEST(what_was_found_out_is_remembered)
{
    struct eg_gate_text one, other, fresh;
    struct eg_gate_verdict v = {0}, again = {0}, third = {0};
    if (!libc_map(&one) || !libc_map(&other) || !libc_map(&fresh))
        return;
    eg_rt.pool = calloc(1, EG_POOL_FILE_BYTES);
    ck_assert_ptr_nonnull(eg_rt.pool);
    one.id[0] = other.id[0] = 7;
    one.look = other.look = look_counted;
    looks = 0;
    ck_assert_int_gt(eg_gate_patch_all(&one, NULL, NULL, &v), 200);
    ck_assert_uint_gt(looks, 0);
    looks = 0;
    ck_assert_int_gt(eg_gate_patch_all(&other, NULL, NULL, &again), 200);
    ck_assert_uint_eq(looks, 0);
    ck_assert_uint_eq(v.n_sites, again.n_sites);
    ck_assert_uint_eq(v.n_patched, again.n_patched);
    ck_assert_uint_eq(again.n_left, v.n_left);
    for (uint64_t i = 0; i < fresh.bytes; i++)
        if ((one.at[i] == 0xe9) != (other.at[i] == 0xe9) && fresh.at[i] != one.at[i] && fresh.at[i] != other.at[i] && (i < 4 || one.at[i - 4] != 0xe9))
            ck_assert_msg(memchr(one.at + i - 4, 0xe9, 5) && memchr(other.at + i - 4, 0xe9, 5), "the texts differ at %lx", (unsigned long)i);
    looks = 0;
    eg_gate_patch_all(&other, NULL, NULL, &third);
    ck_assert_uint_gt(looks, 0);
    ck_assert_uint_eq(third.n_before + third.n_patched + third.n_left, third.n_sites);
    ck_assert_uint_gt(third.n_before, 200);
    free(eg_rt.pool);
    eg_rt.pool = NULL;
}
END_TEST

int main(void)
{
    eg_gate_nodes = eg_gate_view = 1;
    Suite *suite = suite_create("gate_patch");
    TCase *tc = unit_case(suite, "patch", 120);
    tcase_add_loop_test(tc, answered_call_returns_the_gates_value, 0, N_CALLS);
    tcase_add_test(tc, gate_can_be_unwound);
    tcase_add_loop_test(tc, passed_call_is_made_in_place, 0, sizeof refused / sizeof *refused);
    tcase_add_loop_test(tc, thread_may_come_home_before_any_instruction, 0, 2);
    tcase_add_loop_test(tc, other_jumps_are_no_site, 0, 3);
    tcase_add_test(tc, generic_site_carries_any_call);
    tcase_add_loop_test(tc, site_may_lie_across_a_page_boundary, 0, 13);
    tcase_add_test(tc, jump_onto_the_syscall_itself_still_works);
    tcase_add_test(tc, every_site_is_counted_and_patched);
    tcase_add_loop_test(tc, other_code_is_left_alone, 0, sizeof others / sizeof *others);
    tcase_add_test(tc, text_that_ends_early_is_not_read_beyond);
    tcase_add_test(tc, without_room_near_the_text_nothing_is_patched);
    tcase_add_test(tc, end_of_threads_is_patched);
    tcase_add_test(tc, start_of_threads_is_patched_where_it_is);
    tcase_add_loop_test(tc, view_calls_may_have_code_between, 0, sizeof between / sizeof *between);
    tcase_add_loop_test(tc, every_kind_of_site_does_what_it_did, 0, sizeof every / sizeof *every);
    tcase_add_test(tc, moved_branch_goes_where_it_went);
    tcase_add_loop_test(tc, bytes_that_are_jumped_to_are_not_taken, 0, 5);
    tcase_add_test(tc, sites_next_to_each_other);
    tcase_add_loop_test(tc, random_bytes_do_no_harm, 0, 20);
    tcase_add_test(tc, late_mapping_is_patched);
    tcase_add_test(tc, nothing_of_libc_is_left);
    tcase_add_test(tc, what_was_found_out_is_remembered);
    return unit_run(suite);
}
