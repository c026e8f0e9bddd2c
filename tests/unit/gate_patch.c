/* patch.c and gate.S on text made by hand: what is patched, what is not, and that a patched site does to the registers, the
 * red zone and the result what the system call did. */
#include "tests/unit/gate_text.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

START_TEST(answered_call_returns_the_gates_value)
{
    struct random_state r = {11 + (uint64_t)_i};
    struct run run;
    text_start();
    put_site(text + 64, calls[_i].nr);
    text_executable();
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
    text_stop();
}
END_TEST

/* What a handler that unwinds finds beyond the gate is the site, with its registers. */
START_TEST(gate_can_be_unwound)
{
    struct random_state r = {37};
    text_start();
    put_site(text + 64, calls[0].nr);
    text_executable();
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
    text_stop();
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
    text_start();
    put_site(text + 64, refused[_i].nr);
    text_executable();
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
    text_stop();
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
        text_start();
        if (_i)
            put_generic(text + 64);
        else
            put_site(text + 64, SYS_munmap);
        text_executable();
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
        text_stop();
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
    text_start();
    memcpy(text + 65, code[_i], sizeof code[_i]);
    text_executable();
    ck_assert_uint_eq(eg_gate_site((uint64_t)text + 65 + SITE_BYTES), 0);
    ck_assert_uint_eq(eg_gate_site(3), 0);
    text_stop();
}
END_TEST

START_TEST(generic_site_carries_any_call)
{
    struct random_state r = {81};
    struct run run;
    text_start();
    put_generic(text + 64);
    text_executable();
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
    text_stop();
}
END_TEST

START_TEST(site_may_lie_across_a_page_boundary)
{
    struct random_state r = {3 + (uint64_t)_i};
    text_start();
    uint8_t *site = text + 2 * PAGE - _i, before[TEXT_BYTES];
    if (_i < 7)
        put_site(site, SYS_munmap);
    else
        put_generic(site = text + 2 * PAGE - (_i - 6));
    memcpy(before, text, TEXT_BYTES);
    text_executable();
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
    text_stop();
}
END_TEST

START_TEST(jump_onto_the_syscall_itself_still_works)
{
    struct random_state r = {21};
    text_start();
    put_site(text + 64, SYS_mmap);
    text_executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    struct run run = random_run(&r, text + 64 + 5);
    run.in[RAX] = SYS_getpid;
    gate_patch_run(&run);
    ck_assert_int_eq(gate.calls, 0);
    ck_assert_int_eq((long)run.out[RAX], getpid());
    check_kept(&run, 0);
    text_stop();
}
END_TEST

START_TEST(every_site_is_counted_and_patched)
{
    struct random_state r = {8};
    uint8_t *site[100], *at;
    uint32_t nr[100], want[N_CALLS] = {0};
    int n = 0;
    text_start();
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
    text_executable();
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
    text_stop();
    uint32_t before[N_CALLS];
    memcpy(before, found, sizeof before);
    text_start();
    memcpy(found, before, sizeof before);
    put_site(text + 64, calls[2].nr);
    before[2]++;
    text_executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    ck_assert_mem_eq(found, before, sizeof before);
    text_stop();
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
    text_start();
    memcpy(text + 64, others[_i].code, others[_i].len);
    memcpy(before, text, TEXT_BYTES);
    text_executable();
    int n = eg_gate_patch(text, TEXT_BYTES, found, &patched_before), at_end = eg_gate_patch(text, 64u + others[_i].len, found, &patched_before);
    ck_assert_msg(n == 0 && at_end == 0, "%s: %d %d", others[_i].what, n, at_end);
    ck_assert_mem_eq(text, before, TEXT_BYTES);
    for (size_t k = 0; k < N_CALLS; k++)
        ck_assert_uint_eq(found[k], 0);
    text_stop();
}
END_TEST

START_TEST(text_that_ends_early_is_not_read_beyond)
{
    text_start();
    put_site(text + 64, SYS_mmap);
    text_executable();
    for (size_t bytes = 0; bytes < 64 + SITE_BYTES; bytes++)
        ck_assert_int_eq(eg_gate_patch(text, bytes, found, &patched_before), 0);
    ck_assert_uint_eq(found[0], 0);
    ck_assert_int_eq(eg_gate_patch(text, 64 + SITE_BYTES, found, &patched_before), 1);
    text_stop();
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
    text_executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), -ENOMEM);
    ck_assert_mem_eq(text, before, TEXT_BYTES);
    munmap(area, wall + TEXT_BYTES);
}
END_TEST

/* The loop at the end of libc's threads has no room for the usual patch. */
START_TEST(end_of_threads_is_patched)
{
    static const uint8_t loop[] = {0xba, 0x3c, 0, 0, 0, 0x66, 0x90, 0x31, 0xff, 0x89, 0xd0, 0x0f, 0x05, 0xeb, 0xf8};
    text_start();
    memcpy(text + 64, loop, sizeof loop);
    text_executable();
    ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
    ck_assert_uint_eq(text[64 + 7], 0xe9);
    ck_assert_mem_eq(text + 64 + 12, loop + 12, 3);
    text_stop();
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
    text_start();
    memcpy(text + 64, code, len);
    text[64 + len] = 0xc3;
    memcpy(before, text, TEXT_BYTES);
    text_executable();
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
        text_stop();
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
    text_stop();
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
        text_start();
        uint8_t *at = text + 64 + cases[k].gap;
        if (cases[k].gap)
            memcpy(text + 64, robust, sizeof robust);
        memcpy(at, cases[k].code, cases[k].len);
        at[cases[k].len] = 0xc3;
        text_executable();
        eg_gate_start = 0;
        eg_gate_count = 0;
        eg_gate_nodes = (uint8_t)cases[k].nodes;
        ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), cases[k].patched);
        ck_assert_int_eq(eg_gate_start, cases[k].patched);
        eg_gate_nodes = 1;
        ck_assert_uint_eq(eg_gate_count, 0);
        if (!cases[k].patched) {
            ck_assert_mem_eq(at, cases[k].code, cases[k].len);
            text_stop();
            continue;
        }
        struct run run = random_run(&r, at);
        gate.ret = 5;
        gate_patch_run(&run);
        ck_assert_uint_eq((uint64_t)gate.frame.nr, 14);
        ck_assert_uint_eq((uint64_t)gate.frame.arg[1], run.in[RBX] + 0x8f0);
        ck_assert_int_eq((long)run.out[RAX], 5);
        ck_assert_mem_eq(run.red_zone_out, run.red_zone, sizeof run.red_zone);
        text_stop();
    }
}
END_TEST

/* Behind that start, the instruction by which such a thread takes itself from the count. */
START_TEST(end_of_count_is_found)
{
    static const uint8_t robust[] = {0xb8, 0x11, 0x01, 0, 0, 0x0f, 0x05};
    static const uint8_t mask[] = {0xb8, 0x0e, 0, 0, 0, 0x48, 0x8d, 0xb3, 0xf0, 0x08, 0, 0, 0x0f, 0x05, 0xc3};
    static const struct {
        uint8_t code[8];
        unsigned at; /* behind the start */
        int found;
    } cases[] = {
        {{0xf0, 0xff, 0x0d, 1, 2, 3, 4}, 85, 1},       /* lock decl x(%rip) */
        {{0xf0, 0x83, 0x2d, 1, 2, 3, 4, 1}, 85, 1},    /* lock subl $1,x(%rip) */
        {{0xf0, 0x83, 0x2d, 1, 2, 3, 4, 2}, 85, 0},    /* of something else */
        {{0xf0, 0xff, 0x0b}, 85, 0},                   /* lock decl (%rbx): no global */
        {{0xff, 0x0d, 1, 2, 3, 4}, 85, 0},
        {{0xf0, 0xff, 0x0d, 1, 2, 3, 4}, 300, 0},      /* too far */
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        text_start();
        uint8_t *at = text + 154 + sizeof mask;
        memcpy(text + 64, robust, sizeof robust);
        memcpy(text + 154, mask, sizeof mask);
        memcpy(at + cases[k].at, cases[k].code, sizeof cases[k].code);
        text_executable();
        eg_gate_start = 0;
        eg_gate_count = 0;
        ck_assert_int_eq(eg_gate_patch(text, TEXT_BYTES, found, &patched_before), 1);
        ck_assert_uint_eq(eg_gate_count, cases[k].found ? (uint64_t)(at + cases[k].at) : 0);
        text_stop();
    }
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
    tcase_add_test(tc, end_of_count_is_found);
    tcase_add_loop_test(tc, view_calls_may_have_code_between, 0, sizeof between / sizeof *between);
    return unit_run(suite);
}
