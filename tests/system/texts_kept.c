/* texts_kept.c - one system call in the program's own text, as a compiler would put it. */
#include <stdio.h>
#include <sys/syscall.h>

static long __attribute__((noinline)) ask(void)
{
    long ret;
    __asm__ volatile("mov %1, %%eax\n\tsyscall" : "=&a"(ret) : "i"(SYS_getpid) : "rcx", "r11", "memory");
    return ret;
}

int main(void)
{
    printf("%ld\n", ask());
    return 0;
}
