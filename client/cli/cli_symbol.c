/* cli_symbol.c - reads symbol tables. A file is not trusted: every offset is checked against its size. */
#include "cli_symbol.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct elf {
    const uint8_t *at;
    uint64_t bytes;
};

static const void *part(const struct elf *elf, uint64_t offset, uint64_t count, uint64_t size)
{
    if (offset > elf->bytes || count > (elf->bytes - offset) / size)
        return NULL;
    return elf->at + offset;
}

static int elf_open(const char *path, struct elf *ret_elf)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = fstat(fd, &st) != 0 ? -errno : 0;
    void *map = error || st.st_size < (off_t)sizeof(Elf64_Ehdr) ? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return error ? error : -ENOEXEC;
    *ret_elf = (struct elf){map, (uint64_t)st.st_size};
    const Elf64_Ehdr *head = map;
    if (memcmp(head->e_ident, ELFMAG, SELFMAG) == 0 && head->e_ident[EI_CLASS] == ELFCLASS64 &&
        head->e_phentsize == sizeof(Elf64_Phdr) && head->e_shentsize == sizeof(Elf64_Shdr))
        return 0;
    munmap(map, (size_t)st.st_size);
    return -ENOEXEC;
}

/* Where an address of the program's is in the file; UINT64_MAX: nowhere. */
static uint64_t file_offset(const struct elf *elf, uint64_t addr)
{
    const Elf64_Ehdr *head = (const Elf64_Ehdr *)elf->at;
    const Elf64_Phdr *segment = part(elf, head->e_phoff, head->e_phnum, sizeof *segment);
    for (int i = 0; segment && i < head->e_phnum; i++)
        if (segment[i].p_type == PT_LOAD && addr >= segment[i].p_vaddr && addr - segment[i].p_vaddr < segment[i].p_filesz)
            return addr - segment[i].p_vaddr + segment[i].p_offset;
    return UINT64_MAX;
}

/* Calls visit for each function until it returns true. */
static bool each_function(const struct elf *elf, bool (*visit)(const char *name, uint64_t offset, uint64_t bytes, void *arg), void *arg)
{
    const Elf64_Ehdr *head = (const Elf64_Ehdr *)elf->at;
    const Elf64_Shdr *section = part(elf, head->e_shoff, head->e_shnum, sizeof *section);
    for (int i = 0; section && i < head->e_shnum; i++) {
        if ((section[i].sh_type != SHT_SYMTAB && section[i].sh_type != SHT_DYNSYM) || section[i].sh_link >= head->e_shnum)
            continue;
        const Elf64_Shdr *names = &section[section[i].sh_link];
        uint64_t n = section[i].sh_size / sizeof(Elf64_Sym);
        const Elf64_Sym *symbol = part(elf, section[i].sh_offset, n, sizeof *symbol);
        const char *text = part(elf, names->sh_offset, names->sh_size, 1);
        if (!symbol || !text || !names->sh_size || text[names->sh_size - 1])
            continue;
        for (uint64_t k = 0; k < n; k++) {
            uint64_t offset;
            if (ELF64_ST_TYPE(symbol[k].st_info) != STT_FUNC || symbol[k].st_shndx == SHN_UNDEF || symbol[k].st_name >= names->sh_size ||
                (offset = file_offset(elf, symbol[k].st_value)) == UINT64_MAX)
                continue;
            if (visit(text + symbol[k].st_name, offset, symbol[k].st_size ? symbol[k].st_size : 1, arg))
                return true;
        }
    }
    return false;
}

struct wanted {
    const char *name;
    uint64_t start, end;
    char *ret_name;
    size_t name_bytes;
};

static bool is_named(const char *name, uint64_t offset, uint64_t bytes, void *arg)
{
    struct wanted *wanted = arg;
    if (strcmp(name, wanted->name) != 0)
        return false;
    wanted->start = offset;
    wanted->end = offset + bytes;
    return true;
}

static bool is_there(const char *name, uint64_t offset, uint64_t bytes, void *arg)
{
    struct wanted *wanted = arg;
    if (wanted->start < offset || wanted->start - offset >= bytes)
        return false;
    snprintf(wanted->ret_name, wanted->name_bytes, "%s", name);
    return true;
}

int cli_symbol_find(const char *path, const char *symbol, uint64_t *ret_start, uint64_t *ret_end)
{
    struct elf elf;
    struct wanted wanted = {.name = symbol};
    int error = elf_open(path, &elf);
    if (error)
        return error;
    bool found = each_function(&elf, is_named, &wanted);
    munmap((void *)elf.at, elf.bytes);
    if (!found)
        return -ENOENT;
    *ret_start = wanted.start;
    *ret_end = wanted.end;
    return 0;
}

int cli_symbol_at(const char *path, uint64_t offset, char *ret_name, size_t name_bytes)
{
    struct elf elf;
    struct wanted wanted = {.start = offset, .ret_name = ret_name, .name_bytes = name_bytes};
    int error = elf_open(path, &elf);
    if (error)
        return error;
    bool found = each_function(&elf, is_there, &wanted);
    munmap((void *)elf.at, elf.bytes);
    return found ? 0 : -ENOENT;
}
