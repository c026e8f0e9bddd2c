/* threads.S - what C cannot say about threads that are away. Offsets are those of struct eg_thread (eg_home.h). */
    .text
    .globl eg_thread_call
    .hidden eg_thread_call
    .type eg_thread_call, @function
/* The callee-saved registers are free between here and the end: the program's are on the node. A handler that runs meanwhile preserves
 * them, and one that jumps out of it never comes back here: the thread goes on at home then. Who unwinds from a handler (cancellation, exceptions, backtrace)
 * finds the program's registers in thread->caller, by rbx. */
#define CALLER_OF(reg, ...) .cfi_escape 0x10, reg, __VA_ARGS__ /* DW_CFA_expression: what follows is DW_OP_breg3 and an offset */
eg_thread_call:
    .cfi_startproc
    .cfi_signal_frame
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rdi, %rbx
    mov %rsp, 0(%rbx)
    mov 8(%rbx), %rsp
    .cfi_escape 0x0f, 3, 0x73, 8, 0x06 /* the frame address is caller.rsp */
    CALLER_OF(16, 2, 0x73, 16)         /* rip */
    CALLER_OF(3, 2, 0x73, 24)
    CALLER_OF(6, 2, 0x73, 32)
    CALLER_OF(12, 2, 0x73, 40)
    CALLER_OF(13, 2, 0x73, 48)
    CALLER_OF(14, 2, 0x73, 56)
    CALLER_OF(15, 3, 0x73, 0xc0, 0)    /* 64 */
    xor %ebp, %ebp
    mov $14, %eax                   /* rt_sigprocmask(SIG_SETMASK, &mask, NULL, 8) */
    mov $2, %edi
    lea 72(%rbx), %rsi
    xor %edx, %edx
    mov $8, %r10d
    syscall
    mov 88(%rbx), %rdi
    mov 96(%rbx), %rsi
    mov 104(%rbx), %rdx
    mov 112(%rbx), %r10
    mov 120(%rbx), %r8
    mov 128(%rbx), %r9
    mov 80(%rbx), %rax
    syscall
    mov %rax, 136(%rbx)
    mov $14, %eax                   /* rt_sigprocmask(SIG_SETMASK, &all, &mask, 8) */
    mov $2, %edi
    lea all_signals(%rip), %rsi
    lea 72(%rbx), %rdx
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
    .cfi_endproc
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
