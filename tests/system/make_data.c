/* make_data.c - inputs of the system tests, the same bytes for the same arguments on every machine.
 *
 *   make_data lines SEED MIB       lines of 400 to 3600 bytes that begin with a random key
 *   make_data repeats SEED MIB     a little text, repeated in long pieces (its compressor touches memory in sequence)
 *   make_data csource SEED N       one C file of N functions */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rng_state;

static uint64_t rng(void)
{
    uint64_t z = (rng_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static const char alphabet[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 -";

static void fill_text(char *to, size_t len)
{
    while (len > 0) {
        uint64_t r = rng();
        for (int i = 0; i < 10 && len > 0; i++, len--, r >>= 6)
            *to++ = alphabet[r & 63];
    }
}

static void lines(uint64_t mib)
{
    static char line[4096];
    for (uint64_t left = mib << 20; left > 0;) {
        size_t len = 400 + rng() % 3200;
        if (len > left)
            len = left;
        fill_text(line, len);
        line[len - 1] = '\n';
        fwrite(line, 1, len, stdout);
        left -= len;
    }
}

static void repeats(uint64_t mib)
{
    enum { PIECE = 192 << 10 };
    static char text[PIECE];
    fill_text(text, sizeof(text));
    for (uint64_t left = mib << 20; left > 0;) {
        /* A changed byte here and there keeps the matches finite. */
        for (int i = 0; i < 8; i++)
            text[rng() % PIECE] = alphabet[rng() & 63];
        size_t len = left < PIECE ? left : PIECE;
        fwrite(text, 1, len, stdout);
        left -= len;
    }
}

static void csource(uint64_t n)
{
    puts("typedef unsigned long word;\nstruct node { struct node *next; word key, value; int kind; };");
    puts("extern word sink(word, word);\nextern word table[4096];");
    for (uint64_t f = 0; f < n; f++) {
        printf("word f%" PRIu64 "(struct node *p, word a, word b)\n{\n  word s = a ^ %" PRIu64 "ul;\n", f, rng() >> 8);
        int loops = 2 + (int)(rng() % 3);
        for (int l = 0; l < loops; l++) {
            printf("  for (word i = 0; i < (b & %" PRIu64 "); i++) {\n", (rng() & 1023) + 1);
            int statements = 6 + (int)(rng() % 6);
            for (int i = 0; i < statements; i++) {
                uint64_t k = rng();
                switch (k % 6) {
                case 0:
                    printf("    s += table[(s + i + %" PRIu64 ") & 4095] * %" PRIu64 "ul;\n", rng() & 4095, rng() >> 40);
                    break;
                case 1:
                    printf("    if (s & %" PRIu64 ") s ^= s >> %" PRIu64 "; else s -= p->key;\n", (uint64_t)1 << (rng() % 40), 1 + rng() % 30);
                    break;
                case 2:
                    printf("    switch (s & 7) { case 0: s += %" PRIu64 "; break; case 3: s = sink(s, i); break; case 5: p = p->next; }\n", rng() >> 20);
                    break;
                case 3:
                    printf("    while (p && p->kind == %" PRIu64 ") { s += p->value; p = p->next; }\n", rng() & 63);
                    break;
                case 4:
                    if (f > 0)
                        printf("    s ^= f%" PRIu64 "(p, s, i);\n", rng() % f);
                    break;
                default:
                    printf("    table[s & 4095] = (s / %" PRIu64 ") + (i << %" PRIu64 ");\n", 3 + rng() % 1000, rng() % 20);
                }
            }
            puts("  }");
        }
        puts("  return s;\n}");
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: make_data lines|repeats|csource SEED AMOUNT\n");
        return 2;
    }
    rng_state = strtoull(argv[2], NULL, 0);
    uint64_t amount = strtoull(argv[3], NULL, 0);
    if (!strcmp(argv[1], "lines"))
        lines(amount);
    else if (!strcmp(argv[1], "repeats"))
        repeats(amount);
    else if (!strcmp(argv[1], "csource"))
        csource(amount);
    else
        return 2;
    return fflush(stdout) || ferror(stdout) ? 1 : 0;
}
