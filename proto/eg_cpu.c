/* eg_cpu.c - comparing processors. Bits: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2, CPUID; AMD64
 * Architecture Programmer's Manual, vol. 3, appendix E. */
#include "proto/eg_cpu.h"
#include <cpuid.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

/* X(word of struct eg_cpu, bit, "name as in /proc/cpuinfo"): what a program could use without asking the kernel again. Features that only make something
 * faster, and those of the kernel's own, are not here. */
#define EG_CPU_FEATURES(X)                  \
    X(leaf1_edx, 8, "cx8")                  \
    X(leaf1_edx, 15, "cmov")                \
    X(leaf1_edx, 19, "clflush")             \
    X(leaf1_edx, 23, "mmx")                 \
    X(leaf1_edx, 24, "fxsr")                \
    X(leaf1_edx, 25, "sse")                 \
    X(leaf1_edx, 26, "sse2")                \
    X(leaf1_ecx, 0, "pni")                  \
    X(leaf1_ecx, 1, "pclmulqdq")            \
    X(leaf1_ecx, 9, "ssse3")                \
    X(leaf1_ecx, 12, "fma")                 \
    X(leaf1_ecx, 13, "cx16")                \
    X(leaf1_ecx, 19, "sse4_1")              \
    X(leaf1_ecx, 20, "sse4_2")              \
    X(leaf1_ecx, 22, "movbe")               \
    X(leaf1_ecx, 23, "popcnt")              \
    X(leaf1_ecx, 25, "aes")                 \
    X(leaf1_ecx, 26, "xsave")               \
    X(leaf1_ecx, 27, "osxsave")             \
    X(leaf1_ecx, 28, "avx")                 \
    X(leaf1_ecx, 29, "f16c")                \
    X(leaf1_ecx, 30, "rdrand")              \
    X(leaf7_ebx, 0, "fsgsbase")             \
    X(leaf7_ebx, 3, "bmi1")                 \
    X(leaf7_ebx, 4, "hle")                  \
    X(leaf7_ebx, 5, "avx2")                 \
    X(leaf7_ebx, 8, "bmi2")                 \
    X(leaf7_ebx, 11, "rtm")                 \
    X(leaf7_ebx, 16, "avx512f")             \
    X(leaf7_ebx, 17, "avx512dq")            \
    X(leaf7_ebx, 18, "rdseed")              \
    X(leaf7_ebx, 19, "adx")                 \
    X(leaf7_ebx, 21, "avx512ifma")          \
    X(leaf7_ebx, 23, "clflushopt")          \
    X(leaf7_ebx, 24, "clwb")                \
    X(leaf7_ebx, 26, "avx512pf")            \
    X(leaf7_ebx, 27, "avx512er")            \
    X(leaf7_ebx, 28, "avx512cd")            \
    X(leaf7_ebx, 29, "sha_ni")              \
    X(leaf7_ebx, 30, "avx512bw")            \
    X(leaf7_ebx, 31, "avx512vl")            \
    X(leaf7_ecx, 0, "prefetchwt1")          \
    X(leaf7_ecx, 1, "avx512vbmi")           \
    X(leaf7_ecx, 4, "ospke")                \
    X(leaf7_ecx, 5, "waitpkg")              \
    X(leaf7_ecx, 6, "avx512_vbmi2")         \
    X(leaf7_ecx, 8, "gfni")                 \
    X(leaf7_ecx, 9, "vaes")                 \
    X(leaf7_ecx, 10, "vpclmulqdq")          \
    X(leaf7_ecx, 11, "avx512_vnni")         \
    X(leaf7_ecx, 12, "avx512_bitalg")       \
    X(leaf7_ecx, 14, "avx512_vpopcntdq")    \
    X(leaf7_ecx, 22, "rdpid")               \
    X(leaf7_ecx, 25, "cldemote")            \
    X(leaf7_ecx, 27, "movdiri")             \
    X(leaf7_ecx, 28, "movdir64b")           \
    X(leaf7_edx, 2, "avx512_4vnniw")        \
    X(leaf7_edx, 3, "avx512_4fmaps")        \
    X(leaf7_edx, 8, "avx512_vp2intersect")  \
    X(leaf7_edx, 14, "serialize")           \
    X(leaf7_edx, 16, "tsxldtrk")            \
    X(leaf7_edx, 22, "amx_bf16")            \
    X(leaf7_edx, 23, "avx512_fp16")         \
    X(leaf7_edx, 24, "amx_tile")            \
    X(leaf7_edx, 25, "amx_int8")            \
    X(leaf7_1_eax, 0, "sha512")             \
    X(leaf7_1_eax, 1, "sm3")                \
    X(leaf7_1_eax, 2, "sm4")                \
    X(leaf7_1_eax, 4, "avx_vnni")           \
    X(leaf7_1_eax, 5, "avx512_bf16")        \
    X(leaf7_1_eax, 7, "cmpccxadd")          \
    X(leaf7_1_eax, 21, "amx_fp16")          \
    X(leaf7_1_eax, 23, "avx_ifma")          \
    X(xsave_eax, 0, "xsaveopt")             \
    X(xsave_eax, 1, "xsavec")               \
    X(xsave_eax, 2, "xgetbv1")              \
    X(extended_ecx, 0, "lahf_lm")           \
    X(extended_ecx, 5, "abm")               \
    X(extended_ecx, 6, "sse4a")             \
    X(extended_ecx, 8, "3dnowprefetch")     \
    X(extended_ecx, 11, "xop")              \
    X(extended_ecx, 16, "fma4")             \
    X(extended_ecx, 21, "tbm")              \
    X(extended_ecx, 29, "mwaitx")           \
    X(extended_edx, 22, "mmxext")           \
    X(extended_edx, 27, "rdtscp")           \
    X(extended_edx, 30, "3dnowext")         \
    X(extended_edx, 31, "3dnow")

#define OSXSAVE (1u << 27)
#define XCR0_FIRST_EXTENDED 2 /* below are the x87 and SSE states, at fixed places */

static uint32_t sum_word(uint32_t sum, uint32_t word)
{
    for (int i = 0; i < 4; i++, word >>= 8) sum = (sum ^ (word & 0xff)) * 16777619u; /* FNV-1a */
    return sum;
}

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

void eg_cpu_read(struct eg_cpu *ret_cpu)
{
    struct eg_cpu cpu = { .version = EG_CPU_VERSION };
    unsigned a, b, c, d;

    if (__get_cpuid(1, &a, &b, &c, &d)) {
        cpu.leaf1_ecx = c;
        cpu.leaf1_edx = d;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        cpu.leaf7_ebx = b;
        cpu.leaf7_ecx = c;
        cpu.leaf7_edx = d;
        if (a >= 1) {
            __cpuid_count(7, 1, a, b, c, d);
            cpu.leaf7_1_eax = a;
        }
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
        cpu.extended_ecx = c;
        cpu.extended_edx = d;
    }
    if ((cpu.leaf1_ecx & OSXSAVE) && __get_cpuid_count(0xd, 0, &a, &b, &c, &d)) {
        cpu.xsave_bytes = b;
        cpu.xcr0 = read_xcr0();
        __cpuid_count(0xd, 1, a, b, c, d);
        cpu.xsave_eax = a;
        cpu.xsave_sum = 2166136261u;
        for (unsigned i = XCR0_FIRST_EXTENDED; i < 63; i++)
            if (cpu.xcr0 >> i & 1) {
                __cpuid_count(0xd, i, a, b, c, d);
                cpu.xsave_sum = sum_word(sum_word(sum_word(cpu.xsave_sum, i), a), b);
            }
    }
    *ret_cpu = cpu;
}

/* Appends; what does not fit is left out. */
__attribute__((format(printf, 3, 4))) static void add(char *text, size_t text_bytes, const char *format, ...)
{
    size_t len = strlen(text);
    va_list ap;
    va_start(ap, format);
    vsnprintf(text + len, text_bytes - len, format, ap);
    va_end(ap);
}

bool eg_cpu_covers(const struct eg_cpu *home, const struct eg_cpu *node, char *ret_why, size_t why_bytes)
{
    enum { NAMED_MAX = 8 };
    char why[256] = "";
    int missing = 0;

#define EG_X(word, bit, name)                                                                     \
    if ((home->word & ~node->word) >> bit & 1) {                                                  \
        if (missing < NAMED_MAX) add(why, sizeof why, "%s%s", missing ? ", " : "its processor lacks ", name); \
        missing++;                                                                                \
    }
    EG_CPU_FEATURES(EG_X)
#undef EG_X
    if (missing > NAMED_MAX) add(why, sizeof why, " and %d more", missing - NAMED_MAX);
    if (!missing && (home->xcr0 != node->xcr0 || home->xsave_bytes != node->xsave_bytes || home->xsave_sum != node->xsave_sum))
        add(why, sizeof why, "its registers are saved in another layout (XCR0 %#llx, %u bytes; here %#llx, %u)",
            (unsigned long long)node->xcr0, node->xsave_bytes, (unsigned long long)home->xcr0, home->xsave_bytes);
    if (!*why) return true;
    snprintf(ret_why, why_bytes, "%s", why);
    return false;
}

int eg_cpu_vdso_sum(uint8_t ret_sum[EG_VDSO_SUM_BYTES])
{
    uintptr_t image = getauxval(AT_SYSINFO_EHDR), from, to;
    char line[512];
    size_t bytes = 0;

    if (!image) return -ENOENT;
    FILE *file = fopen("/proc/self/maps", "re");
    if (!file) return -errno;
    while (!bytes && fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from == image) bytes = to - from;
    fclose(file);
    if (!bytes) return -ENOENT;
    /* Two FNV-1a sums of 64 bits, one forwards, one backwards: against accident, not against malice. */
    uint64_t sums[2] = { 14695981039346656037u, 14695981039346656037u };
    for (size_t i = 0; i < bytes; i++) {
        sums[0] = (sums[0] ^ ((const uint8_t *)image)[i]) * 1099511628211u;
        sums[1] = (sums[1] ^ ((const uint8_t *)image)[bytes - 1 - i]) * 1099511628211u;
    }
    _Static_assert(sizeof sums == EG_VDSO_SUM_BYTES, "two sums");
    memcpy(ret_sum, sums, sizeof sums);
    return 0;
}
