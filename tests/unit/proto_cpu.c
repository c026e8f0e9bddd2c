/* Which processors may run another's threads. */
#include <string.h>
#include "proto/eg_cpu.h"
#include "tests/unit/unit_suite.h"

static struct eg_cpu here, node;
static char why[256];

static void setup(void)
{
    eg_cpu_read(&here);
    node = here;
    memset(why, 0, sizeof why);
}

START_TEST(a_machine_covers_itself)
{
    struct eg_cpu again;
    eg_cpu_read(&again);
    ck_assert_uint_eq(here.version, EG_CPU_VERSION);
    ck_assert(!memcmp(&here, &again, sizeof here));
    ck_assert(eg_cpu_covers(&here, &again, why, sizeof why));
    ck_assert_str_eq(why, "");
    /* Each x86-64 has it; the system calls of remote threads rest on nothing less. */
    ck_assert(here.leaf1_edx >> 26 & 1);
}
END_TEST

START_TEST(what_is_missing_is_named)
{
    here.leaf7_ebx |= 1u << 5 | 1u << 8;
    node.leaf7_ebx = here.leaf7_ebx & ~(1u << 5 | 1u << 8);
    ck_assert(!eg_cpu_covers(&here, &node, why, sizeof why));
    ck_assert_str_eq(why, "its processor lacks avx2, bmi2");
    /* The other way round it has more than is asked for. */
    ck_assert(eg_cpu_covers(&node, &here, why, sizeof why));
}
END_TEST

START_TEST(a_long_list_is_cut)
{
    here.leaf1_ecx = here.leaf7_ebx = UINT32_MAX;
    node.leaf1_ecx = node.leaf7_ebx = 0;
    ck_assert(!eg_cpu_covers(&here, &node, why, sizeof why));
    ck_assert_ptr_nonnull(strstr(why, "pni"));
    ck_assert_ptr_nonnull(strstr(why, " more"));
    char little[8];
    ck_assert(!eg_cpu_covers(&here, &node, little, sizeof little));
    ck_assert_uint_eq(strlen(little), sizeof little - 1);
}
END_TEST

START_TEST(bits_of_the_kernel_do_not_count)
{
    here.leaf1_ecx |= 1u << 31; /* under a hypervisor */
    node.leaf1_ecx &= ~(1u << 31);
    here.leaf1_edx |= 1u << 28; /* more than one thread a core */
    node.leaf1_edx &= ~(1u << 28);
    ck_assert(eg_cpu_covers(&here, &node, why, sizeof why));
}
END_TEST

START_TEST(saved_registers_must_lie_alike)
{
    node.xcr0 = here.xcr0 | 1ull << 17;
    ck_assert(!eg_cpu_covers(&here, &node, why, sizeof why));
    ck_assert_ptr_nonnull(strstr(why, "another layout"));
    node.xcr0 = here.xcr0;
    node.xsave_bytes += 64;
    ck_assert(!eg_cpu_covers(&here, &node, why, sizeof why));
    node.xsave_bytes = here.xsave_bytes;
    node.xsave_sum ^= 1;
    ck_assert(!eg_cpu_covers(&here, &node, why, sizeof why));
}
END_TEST

START_TEST(vdso_has_one_sum)
{
    uint8_t sum[EG_VDSO_SUM_BYTES], again[EG_VDSO_SUM_BYTES], zero[EG_VDSO_SUM_BYTES] = { 0 };
    ck_assert_int_eq(eg_cpu_vdso_sum(sum), 0);
    ck_assert_int_eq(eg_cpu_vdso_sum(again), 0);
    ck_assert(!memcmp(sum, again, sizeof sum));
    ck_assert(memcmp(sum, zero, sizeof sum));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("proto_cpu");
    TCase *c = unit_case(suite, "proto_cpu", 4);
    tcase_add_checked_fixture(c, setup, NULL);
    tcase_add_test(c, a_machine_covers_itself);
    tcase_add_test(c, what_is_missing_is_named);
    tcase_add_test(c, a_long_list_is_cut);
    tcase_add_test(c, bits_of_the_kernel_do_not_count);
    tcase_add_test(c, saved_registers_must_lie_alike);
    tcase_add_test(c, vdso_has_one_sum);
    return unit_run(suite);
}
