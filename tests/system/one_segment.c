/* one_segment.c - read-only data in the same segment as the code (-z noseparate-code), with bytes of a system call among them that could not be patched. As a program it
 * touches more memory than its budget; as a library (-DLIBRARY) the program loads it then. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOPS_8 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90
#define NOPS_64 NOPS_8, NOPS_8, NOPS_8, NOPS_8, NOPS_8, NOPS_8, NOPS_8, NOPS_8

/* mov %edi,%eax; syscall; jmp onto the syscall: no table of numbers has this, but for chance. */
__attribute__((used, visibility("default"))) const unsigned char one_segment_data[] = {
    NOPS_64, NOPS_64, NOPS_64, NOPS_64, NOPS_64, NOPS_64, 0x89, 0xf8, 0x0f, 0x05, 0xeb, 0xfc, NOPS_64, NOPS_64, NOPS_64, NOPS_64};

#ifndef LIBRARY
#define BYTES (24ul << 20)

int main(int argc, char **argv)
{
    unsigned char *p = malloc(BYTES);
    size_t wrong = 0;
    if (!p)
        return 2;
    for (size_t i = 0; i < BYTES; i += 4096)
        p[i] = (unsigned char)(i >> 12);
    if (argc > 1) {
        void *library = dlopen(argv[1], RTLD_NOW);
        const unsigned char *data = library ? dlsym(library, "one_segment_data") : NULL;
        if (!data || memcmp(data, one_segment_data, sizeof one_segment_data) != 0) {
            fprintf(stderr, "the library: %s\n", library ? "other data" : dlerror());
            return 1;
        }
    }
    for (size_t i = 0; i < BYTES; i += 4096)
        wrong += p[i] != (unsigned char)(i >> 12);
    printf("%zu wrong\n", wrong);
    return wrong != 0;
}
#endif
