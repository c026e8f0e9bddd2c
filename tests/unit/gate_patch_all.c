/* patch_all.c and its parts on text made by hand, on a file's mapping, and on the real libc: every system call is led to the gate, and does what it did. */
#include "tests/unit/gate_text.h"

#include "client/gate/eg_texts.h"
#include "client/pager/eg_pager.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

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
    text_start();
    code = text + 1024;
    memcpy(code, every[_i].code, len);
    code[len] = 0xc3;
    memcpy(before, text, TEXT_BYTES);
    text_executable();
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
        text_stop();
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
    text_stop();
}
END_TEST

START_TEST(moved_branch_goes_where_it_went)
{
    static const uint8_t code[] = {0x85, 0xf6, 0x74, 0x05, 0x31, 0xc0, 0x0f, 0x05, 0xc3, 0xb8, 7, 0, 0, 0, 0xc3};
    struct random_state r = {5};
    struct eg_gate_verdict v;
    text_start();
    memcpy(text + 64, code, sizeof code);
    text_executable();
    ck_assert_int_eq(patch_all(&v), 1);
    struct run run = random_run(&r, text + 64);
    run.in[RSI] = 0;
    gate_patch_run(&run);
    ck_assert_int_eq(gate.calls, 0);
    ck_assert_uint_eq(run.out[RAX], 7);
    text_stop();
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
    text_start();
    memcpy(text + 1024, two_moves, sizeof two_moves);
    jump_from((unsigned)_i);
    text_executable();
    ck_assert_int_eq(patch_all(&v), 1);
    ck_assert_uint_eq(v.n_left, 0);
    ck_assert_uint_eq(text[1024], _i == 4 ? 0xe9 : 0x45);
    if (_i != 4)
        ck_assert_uint_eq(text[1024 + 6], 0xe9);
    text_stop();
}
END_TEST

/* Neighbours may not take each other's bytes. */
START_TEST(sites_next_to_each_other)
{
    static const uint8_t code[] = {0x89, 0xf0, 0x0f, 0x05, 0x44, 0x89, 0xc0, 0x31, 0xd2, 0x0f, 0x05, 0x31, 0xc0, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0xc3};
    struct random_state r = {6};
    struct eg_gate_verdict v;
    text_start();
    memcpy(text + 1024, code, sizeof code);
    text_executable();
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
    text_stop();
}
END_TEST

START_TEST(random_bytes_do_no_harm)
{
    struct random_state r = {9000 + (uint64_t)_i};
    struct eg_gate_verdict v;
    text_start();
    random_fill(&r, text, TEXT_BYTES);
    for (unsigned i = 0; i < 200; i++)
        memcpy(text + random_below(&r, TEXT_BYTES - 2), "\x0f\x05", 2);
    text_executable();
    ck_assert_int_ge(patch_all(&v), 0);
    text_stop();
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
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, 5 * PAGE, 0, 5 * PAGE, NULL, &v), 2);
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
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, 5 * PAGE, 0, 5 * PAGE, NULL, &v), 0);
    ck_assert_uint_eq(v.n_before, 2);
    munmap(p, 5 * PAGE);
    /* Shared: not written to. */
    p = late_map(fd, MAP_SHARED, PAGE);
    memset(&v, 0, sizeof v);
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, PAGE, 0, PAGE, NULL, &v), 0);
    ck_assert_uint_eq(v.n_left, 2);
    ck_assert_mem_eq(p, page, PAGE);
    munmap(p, PAGE);
    /* Nothing of the file at all. */
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    p = late_map(fd, MAP_PRIVATE, 3 * PAGE);
    memset(&v, 0, sizeof v);
    ck_assert_int_eq(eg_gate_patch_late((uint64_t)p, 3 * PAGE, 0, 3 * PAGE, NULL, &v), 0);
    ck_assert_uint_eq(v.n_sites + v.n_left, 0);
    munmap(p, 3 * PAGE);
    close(fd);
}
END_TEST

/* The section headers tell code from data that lies in the same mapping. */
START_TEST(section_headers_say_what_is_code)
{
    static const Elf64_Shdr sections[] = {
        {.sh_type = SHT_NULL},
        {.sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC, .sh_offset = 0x200, .sh_size = 0x100},
        {.sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC | SHF_EXECINSTR, .sh_offset = 0x1000, .sh_size = 0x17},
        {.sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC | SHF_EXECINSTR, .sh_offset = 0x1040, .sh_size = 0x2000},
        {.sh_type = SHT_NOBITS, .sh_flags = SHF_ALLOC | SHF_EXECINSTR, .sh_offset = 0x5000, .sh_size = 0x100},
        {.sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC, .sh_offset = 0x3040, .sh_size = 0x1000},
    };
    static const struct {
        uint64_t lo, hi, code_lo, code_hi; /* code_hi 0: nothing is said */
    } cases[] = {
        {0, 0x6000, 0x1000, 0x3040}, {0x1010, 0x2000, 0x1010, 0x2000}, {0x1020, 0x6000, 0x1040, 0x3040},
        {0, 0x1000, 0, 0}, {0x3040, 0x6000, 0, 0}, {0x4000, 0x4000, 0, 0},
    };
    Elf64_Ehdr eh = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64}, .e_shoff = 0x4100, .e_shentsize = sizeof *sections,
                     .e_shnum = sizeof sections / sizeof *sections};
    int fd = memfd_create("sections", MFD_CLOEXEC);
    ck_assert_int_eq((int)pwrite(fd, &eh, sizeof eh, 0), (int)sizeof eh);
    ck_assert_int_eq((int)pwrite(fd, sections, sizeof sections, (off_t)eh.e_shoff), (int)sizeof sections);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        uint64_t lo = cases[k].lo, hi = cases[k].hi;
        ck_assert_int_eq(eg_gate_code(fd, NULL, &lo, &hi), cases[k].code_hi != 0);
        ck_assert_uint_eq(lo, cases[k].code_hi ? cases[k].code_lo : cases[k].lo);
        ck_assert_uint_eq(hi, cases[k].code_hi ? cases[k].code_hi : cases[k].hi);
    }
    uint64_t lo = 0, hi = 0x6000;
    Elf64_Ehdr other = eh;
    other.e_entry++;
    ck_assert_int_eq(eg_gate_code(fd, &other, &lo, &hi), 0); /* another file than what is mapped */
    ck_assert_int_eq(eg_gate_code(fd, &eh, &lo, &hi), 1);
    lo = 0, hi = 0x6000;
    ck_assert_int_eq(ftruncate(fd, 0x4200), 0); /* the headers are cut off */
    ck_assert_int_eq(eg_gate_code(fd, NULL, &lo, &hi), 0);
    ck_assert_int_eq((int)pwrite(fd, "#!", 2, 0), 2);
    ck_assert_int_eq(eg_gate_code(fd, NULL, &lo, &hi), 0);
    ck_assert_int_eq(eg_gate_code(-1, NULL, &lo, &hi), 0);
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

/* The places where this libc's threads begin and end are among what is known. */
START_TEST(threads_of_libc_are_known)
{
    struct eg_gate_text all;
    if (!libc_map(&all))
        return;
    memset(found, 0, sizeof found);
    eg_gate_start = 0;
    eg_gate_count = 0;
    ck_assert_int_eq(mprotect(all.at, all.bytes, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
    ck_assert_int_gt(eg_gate_patch(all.at, all.bytes, found, &patched_before), 20);
    ck_assert_int_eq(eg_gate_start, 1);
    ck_assert_uint_gt(eg_gate_count, (uint64_t)all.at);
    ck_assert_uint_lt(eg_gate_count, (uint64_t)all.at + all.bytes);
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
    Suite *suite = suite_create("gate_patch_all");
    TCase *tc = unit_case(suite, "patch", 120);
    tcase_add_loop_test(tc, every_kind_of_site_does_what_it_did, 0, sizeof every / sizeof *every);
    tcase_add_test(tc, moved_branch_goes_where_it_went);
    tcase_add_loop_test(tc, bytes_that_are_jumped_to_are_not_taken, 0, 5);
    tcase_add_test(tc, sites_next_to_each_other);
    tcase_add_loop_test(tc, random_bytes_do_no_harm, 0, 20);
    tcase_add_test(tc, late_mapping_is_patched);
    tcase_add_test(tc, section_headers_say_what_is_code);
    tcase_add_test(tc, nothing_of_libc_is_left);
    tcase_add_test(tc, threads_of_libc_are_known);
    tcase_add_test(tc, what_was_found_out_is_remembered);
    return unit_run(suite);
}
