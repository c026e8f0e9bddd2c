/* Extended state that we save is what the kernel would save, and rt_sigreturn takes it. */
#include "proto/eg_frame.h"
#include "proto/eg_sys.h"
#include "tests/unit/unit_suite.h"

#include <signal.h>
#include <string.h>

#define SSE_BYTES 576u /* the legacy area and its header */

static uint8_t ours[EG_XSTATE_MAX_BYTES] __attribute__((aligned(64)));
static uint8_t kernels[EG_XSTATE_MAX_BYTES];
static uint32_t kernels_bytes;
static int restore;

static void on_signal(int number, siginfo_t *info, void *context)
{
    struct eg_ucontext *uc = context;
    (void)number;
    (void)info;
    kernels_bytes = eg_frame_xstate_bytes(uc->mc.fpstate);
    memcpy(kernels, uc->mc.fpstate, kernels_bytes);
    if (restore)
        memcpy(uc->mc.fpstate, ours, eg_frame_xstate_bytes(ours));
}

static uint64_t xmm15(void)
{
    uint64_t v;
    __asm__ volatile("movq %%xmm15, %0" : "=r"(v));
    return v;
}

static void xmm15_set(uint64_t v)
{
    __asm__ volatile("movq %0, %%xmm15" : : "r"(v) : "xmm15");
}

static void setup(void)
{
    struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    ck_assert_int_eq(sigaction(SIGUSR1, &act, NULL), 0);
    restore = 0;
}

START_TEST(it_looks_like_the_kernels)
{
    xmm15_set(0x1122334455667788ull);
    uint32_t bytes = eg_frame_xsave(ours);
    raise(SIGUSR1);
    ck_assert_uint_eq(bytes, eg_frame_xstate_bytes(ours));
    ck_assert_uint_le(bytes, kernels_bytes);
    ck_assert_mem_eq(ours + 464, kernels + 464, 4); /* magic1 */
    uint64_t parts, of_kernel;
    memcpy(&parts, ours + 472, 8);
    memcpy(&of_kernel, kernels + 472, 8);
    ck_assert_uint_eq(parts & ~of_kernel, 0);
    ck_assert_mem_eq(ours + bytes - 4, kernels + kernels_bytes - 4, 4); /* magic2 */
    ck_assert_mem_eq(ours + 160 + 15 * 16, kernels + 160 + 15 * 16, 8);  /* xmm15 */
    ck_assert_mem_eq(ours, kernels, 6);                                  /* the x87's words */
    ck_assert_mem_eq(ours + 24, kernels + 24, 4);                        /* mxcsr */
}
END_TEST

START_TEST(the_kernel_takes_it)
{
    xmm15_set(0xfeedfacecafebeefull);
    eg_frame_xsave(ours);
    restore = 1;
    for (int turn = 0; turn < 3; turn++) {
        xmm15_set(77);
        __asm__ volatile("syscall" : : "a"(SYS_tgkill), "D"(eg_sys0(SYS_getpid)), "S"(eg_sys0(SYS_gettid)), "d"(SIGUSR1) : "rcx", "r11", "memory", "xmm15");
        ck_assert_uint_eq(xmm15(), 0xfeedfacecafebeefull);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("proto_frame");
    TCase *tc = unit_case(suite, "xsave", 20);
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, it_looks_like_the_kernels);
    tcase_add_test(tc, the_kernel_takes_it);
    return unit_run(suite);
}
