/* cli_symbol.h - symbols of ELF files, by place in the file: what the kernel's maps and a hints file's call sites count in. */
#ifndef CLI_SYMBOL_H
#define CLI_SYMBOL_H

#include <stddef.h>
#include <stdint.h>

/* cli_symbol_find - where a function's code is in the file: [*ret_start, *ret_end).
 * Returns: 0; -ENOENT (no such symbol; stripped files keep those only that others may call); -ENOEXEC (no 64-bit ELF file); -errno. */
int cli_symbol_find(const char *path, const char *symbol, uint64_t *ret_start, uint64_t *ret_end) __attribute__((warn_unused_result));
/* cli_symbol_at - the function that this place in the file belongs to. Returns: 0; -errno as above. */
int cli_symbol_at(const char *path, uint64_t offset, char *ret_name, size_t name_bytes) __attribute__((warn_unused_result));

#endif
