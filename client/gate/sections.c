/* sections.c - which part of a file's executable mapping is code. Some linkers put code and read-only data into one segment, and bytes of tables look like
 * anything; the section headers, which no program needs to run, tell them apart. */
#include "client/gate/eg_gate.h"
#include "proto/eg_sys.h"

#include <elf.h>
#include <sys/stat.h>

#define HEADERS 16u

int eg_gate_code(int fd, const void *head, uint64_t *lo, uint64_t *hi)
{
    Elf64_Ehdr h;
    Elf64_Shdr s[HEADERS];
    struct stat st;
    uint64_t from = *hi, to = *lo;
    if (eg_sys2(SYS_fstat, fd, &st) || (st.st_mode & S_IFMT) != S_IFREG) /* a device may have nothing to read for ever */
        return 0;
    if (eg_sys4(SYS_pread64, fd, &h, sizeof h, 0) != (long)sizeof h || memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
        h.e_shentsize != sizeof *s || (head && memcmp(&h, head, sizeof h) != 0))
        return 0;
    for (uint32_t i = 0, n; i < h.e_shnum; i += n) {
        n = h.e_shnum - i < HEADERS ? h.e_shnum - i : HEADERS;
        if (eg_sys4(SYS_pread64, fd, s, n * sizeof *s, h.e_shoff + i * sizeof *s) != (long)(n * sizeof *s))
            return 0;
        for (uint32_t k = 0; k < n; k++) {
            uint64_t start = s[k].sh_offset, end = start + s[k].sh_size;
            if (!(s[k].sh_flags & SHF_EXECINSTR) || s[k].sh_type == SHT_NOBITS || end <= *lo || start >= *hi || start >= end)
                continue;
            from = start < from ? start : from;
            to = end > to ? end : to;
        }
    }
    if (from >= to)
        return 0;
    *lo = from > *lo ? from : *lo;
    *hi = to < *hi ? to : *hi;
    return 1;
}
