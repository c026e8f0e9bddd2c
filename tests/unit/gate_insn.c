/* The length decoder against objdump, on this machine's libc; and on bytes that are cut off. */
#include "client/gate/eg_insn.h"
#include "tests/unit/client_random.h"
#include "tests/unit/unit_suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    uint8_t code[16];
    uint8_t len, kind;
    int32_t rel;
    uint8_t rip_at;
} cases[] = {
    {{0x90}, 1, EG_INSN_NOP, 0, 0},
    {{0xf3, 0x0f, 0x1e, 0xfa}, 4, EG_INSN_NOP, 0, 0},
    {{0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}, 10, EG_INSN_NOP, 0, 0},
    {{0x74, 0xfe}, 2, EG_INSN_BRANCH, -2, 0},
    {{0x0f, 0x84, 1, 2, 0, 0}, 6, EG_INSN_BRANCH, 513, 0},
    {{0xe3, 0x10}, 2, EG_INSN_LOOP, 16, 0},
    {{0xeb, 0x7f}, 2, EG_INSN_JUMP, 127, 0},
    {{0xf2, 0xe9, 4, 0, 0, 0}, 6, EG_INSN_JUMP, 4, 0},
    {{0x66, 0x48, 0xe8, 0xff, 0xff, 0xff, 0xff}, 7, EG_INSN_CALL, -1, 0},
    {{0xc3}, 1, EG_INSN_RET, 0, 0},
    {{0x3e, 0xff, 0xe0}, 3, EG_INSN_END, 0, 0},
    {{0xff, 0x25, 1, 0, 0, 0}, 6, EG_INSN_END, 0, 2},
    {{0xff, 0x15, 1, 0, 0, 0}, 6, EG_INSN_OTHER, 0, 2},
    {{0x0f, 0x0b}, 2, EG_INSN_END, 0, 0},
    {{0x0f, 0x05}, 2, EG_INSN_SYSCALL, 0, 0},
    {{0x48, 0x8d, 0x05, 1, 2, 3, 4}, 7, EG_INSN_PLAIN, 0, 3},
    {{0x83, 0x3d, 1, 2, 3, 4, 5}, 7, EG_INSN_PLAIN, 0, 2},
    {{0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, 10, EG_INSN_PLAIN, 0, 0},
    {{0x66, 0xb8, 1, 2}, 4, EG_INSN_PLAIN, 0, 0},
    {{0xf7, 0xc7, 1, 2, 3, 4}, 6, EG_INSN_PLAIN, 0, 0},
    {{0xf7, 0xd8}, 2, EG_INSN_PLAIN, 0, 0},
    {{0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0}, 9, EG_INSN_PLAIN, 0, 0},
    {{0xc5, 0xf8, 0x77}, 3, EG_INSN_PLAIN, 0, 0},
    {{0xc4, 0xe3, 0x75, 0x46, 0xc2, 0x21}, 6, EG_INSN_PLAIN, 0, 0},
    {{0x62, 0xf1, 0x7d, 0x48, 0x6f, 0x05, 1, 0, 0, 0}, 10, EG_INSN_PLAIN, 0, 6},
    {{0x66, 0x0f, 0x3a, 0x0f, 0xc1, 0x08}, 6, EG_INSN_PLAIN, 0, 0},
    {{0xc7, 0xf8, 1, 0, 0, 0}, 6, EG_INSN_OTHER, 0, 0}, /* xbegin */
    {{0x06}, 0, EG_INSN_BAD, 0, 0},
    {{0x48, 0x66, 0x90}, 0, EG_INSN_BAD, 0, 0},
};

START_TEST(known_instructions)
{
    struct eg_insn insn;
    const uint8_t *code = cases[_i].code;
    ck_assert_uint_eq(eg_insn_decode(code, code + sizeof cases[_i].code, &insn), cases[_i].len);
    ck_assert_uint_eq(insn.kind, cases[_i].kind);
    if (!cases[_i].len)
        return;
    ck_assert_uint_eq(insn.len, cases[_i].len);
    ck_assert_int_eq(insn.rel, cases[_i].rel);
    ck_assert_uint_eq(insn.rip_at, cases[_i].rip_at);
    for (unsigned cut = 0; cut < cases[_i].len; cut++) {
        uint8_t *part = malloc(cut + 1); /* the sanitizer watches the end */
        memcpy(part + 1, code, cut);
        ck_assert_uint_eq(eg_insn_decode(part + 1, part + 1 + cut, &insn), 0);
        free(part);
    }
}
END_TEST

START_TEST(random_bytes_are_read_no_further_than_their_end)
{
    struct random_state r = {77};
    struct eg_insn insn;
    for (int i = 0; i < 200000; i++) {
        uint8_t n = (uint8_t)random_below(&r, 16), *p = malloc(n + 1u);
        random_fill(&r, p, n);
        ck_assert_uint_le(eg_insn_decode(p, p + n, &insn), n);
        free(p);
    }
}
END_TEST

static int is_fwait(const uint8_t *code, int n)
{
    return n > 1 && code[0] == 0x9b; /* objdump makes one of two */
}

START_TEST(same_as_objdump_on_libc)
{
    static const char command[] = "objdump -d --insn-width=16 $(ldd /proc/$PPID/exe | awk '/libc.so.6/ {print $3}') 2>/dev/null";
    char line[1024];
    long n = 0;
    FILE *in = popen(command, "re");
    ck_assert_ptr_nonnull(in);
    while (fgets(line, sizeof line, in)) {
        char *hex = strchr(line, '\t'), *text = hex ? strchr(hex + 1, '\t') : NULL;
        uint8_t code[32] = {0};
        int len = 0;
        struct eg_insn insn;
        if (!text || strstr(text, "(bad)"))
            continue;
        *text = 0;
        for (char *p = hex + 1, *next; len < 16; p = next) {
            unsigned long byte = strtoul(p, &next, 16);
            if (next == p)
                break;
            code[len++] = (uint8_t)byte;
        }
        if (is_fwait(code, len))
            continue;
        n++;
        ck_assert_msg((int)eg_insn_decode(code, code + sizeof code, &insn) == len, "%s: %u bytes", line, insn.len);
    }
    pclose(in);
    if (n == 0)
        puts("no objdump, or no libc: not compared");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gate_insn");
    TCase *tc = unit_case(suite, "decode", 120);
    tcase_add_loop_test(tc, known_instructions, 0, sizeof cases / sizeof *cases);
    tcase_add_test(tc, random_bytes_are_read_no_further_than_their_end);
    tcase_add_test(tc, same_as_objdump_on_libc);
    return unit_run(suite);
}
