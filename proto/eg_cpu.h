/* eg_cpu.h - what a processor and a kernel have that a thread of a program could come to rely on: can a thread that began on one
 * machine go on upon another? Hosted; x86-64. */
#ifndef EG_CPU_H
#define EG_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EG_CPU_VERSION 1u
#define EG_VDSO_SUM_BYTES 16

/* As the compute node sends it (NodeReply.cpu): little-endian, fixed layout. The words are CPUID's. */
struct eg_cpu {
    uint32_t version; /* EG_CPU_VERSION */
    uint32_t leaf1_ecx, leaf1_edx;
    uint32_t leaf7_ebx, leaf7_ecx, leaf7_edx;
    uint32_t leaf7_1_eax;
    uint32_t xsave_eax;          /* leaf 0xd, subleaf 1 */
    uint32_t extended_ecx, extended_edx; /* leaf 0x80000001 */
    uint32_t xsave_bytes;        /* of the area for what XCR0 enables; 0: the kernel does not use XSAVE */
    uint32_t xsave_sum;          /* checksum of the places of XCR0's components in it */
    uint64_t xcr0;
};
_Static_assert(sizeof(struct eg_cpu) == 56, "eg_cpu is a wire format");

/* eg_cpu_read - describe this machine's processor.
 * Context: hosted, any thread. */
void eg_cpu_read(struct eg_cpu *ret_cpu);

/* eg_cpu_covers - does `node` have every feature of `home` that an unprivileged program can use, and the same XSAVE layout?
 * Context: hosted, any thread.
 * Returns: true; else false, and ret_why holds a few words without newline that name what is missing: "its processor lacks
 *          avx2, bmi2". */
bool eg_cpu_covers(const struct eg_cpu *home, const struct eg_cpu *node, char *ret_why, size_t why_bytes)
    __attribute__((warn_unused_result));

/* eg_cpu_vdso_sum - checksum of the vDSO's image: equal sums, the same code at the same offsets.
 * Context: hosted; reads /proc/self/maps. Returns: 0; -ENOENT: this kernel gave no vDSO; -errno. */
int eg_cpu_vdso_sum(uint8_t ret_sum[EG_VDSO_SUM_BYTES]) __attribute__((warn_unused_result));

#endif
