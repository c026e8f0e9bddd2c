/* threads.S - what C cannot say about threads that are away. Offsets are those of struct eg_thread (eg_home.h). */
    .text
    .globl eg_thread_call
    .hidden eg_thread_call
    .type eg_thread_call, @function
/* The callee-saved registers are free between here and the end: the program's are on the node. A handler that runs meanwhile preserves
 * them, and one that jumps out of it never comes back here: the thread goes on at home then. */
eg_thread_call:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rdi, %rbx
    mov %rsp, 0(%rbx)
    mov 8(%rbx), %rsp
    xor %ebp, %ebp
    mov $14, %eax                   /* rt_sigprocmask(SIG_SETMASK, &mask, NULL, 8) */
    mov $2, %edi
    lea 16(%rbx), %rsi
    xor %edx, %edx
    mov $8, %r10d
    syscall
    mov 32(%rbx), %rdi
    mov 40(%rbx), %rsi
    mov 48(%rbx), %rdx
    mov 56(%rbx), %r10
    mov 64(%rbx), %r8
    mov 72(%rbx), %r9
    mov 24(%rbx), %rax
    syscall
    mov %rax, 80(%rbx)
    mov $14, %eax                   /* rt_sigprocmask(SIG_SETMASK, &all, &mask, 8) */
    mov $2, %edi
    lea all_signals(%rip), %rsi
    lea 16(%rbx), %rdx
    mov $8, %r10d
    syscall
    mov 0(%rbx), %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .size eg_thread_call, . - eg_thread_call

/* long eg_thread_clone(flags, stack_top, parent_tid, child_tid, tls, fn, arg) */
    .globl eg_thread_clone
    .hidden eg_thread_clone
    .type eg_thread_clone, @function
eg_thread_clone:
    mov 8(%rsp), %rax
    mov %rax, -8(%rsi)
    mov %r9, -16(%rsi)
    sub $16, %rsi
    mov %rcx, %r10
    mov $56, %eax
    syscall
    test %rax, %rax
    jz 1f
    ret
1:  xor %ebp, %ebp
    pop %rax
    pop %rdi
    call *%rax
    ud2
    .size eg_thread_clone, . - eg_thread_clone

    .section .rodata
    .balign 8
all_signals:
    .quad -1

    .section .note.GNU-stack, "", @progbits
