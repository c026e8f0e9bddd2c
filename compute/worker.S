/* worker.S - the worker's entry, and what C cannot say. */
    .text
    .globl _start
    .type _start, @function
_start:
    xor %ebp, %ebp
    mov %rsp, %rdi
    and $-16, %rsp
    call wk_start
    ud2
    .size _start, . - _start

    .globl wk_restorer
    .hidden wk_restorer
    .type wk_restorer, @function
wk_restorer:
    mov $15, %eax
    syscall
    ud2
    .size wk_restorer, . - wk_restorer

/* void wk_call_on(void *stack_top, void (*fn)(void *), void *arg) */
    .globl wk_call_on
    .hidden wk_call_on
    .type wk_call_on, @function
wk_call_on:
    mov %rdi, %rsp
    and $-16, %rsp
    xor %ebp, %ebp
    mov %rdx, %rdi
    call *%rsi
    ud2
    .size wk_call_on, . - wk_call_on

/* long wk_clone(unsigned long flags, void *stack_top, void (*fn)(void *), void *arg) */
    .globl wk_clone
    .hidden wk_clone
    .type wk_clone, @function
wk_clone:
    and $-16, %rsi
    mov %rcx, -8(%rsi)
    mov %rdx, -16(%rsi)
    sub $16, %rsi
    mov %r8, %rdx           /* parent_tid */
    mov %r8, %r10           /* child_tid */
    xor %r8d, %r8d
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
    .size wk_clone, . - wk_clone

/* int wk_try_copy(void *to, const void *from, uint64_t bytes); int wk_try_touch(void *addr) */
    .globl wk_try_copy, wk_try_touch, wk_try_copy_from, wk_try_copy_to, wk_try_copy_failed
    .hidden wk_try_copy, wk_try_touch, wk_try_copy_from, wk_try_copy_to, wk_try_copy_failed
    .type wk_try_copy, @function
wk_try_copy:
    mov %rdx, %rcx
wk_try_copy_from:
    rep movsb
    mov $1, %eax
    ret
wk_try_touch:
    lock orb $0, (%rdi)
wk_try_copy_to:
    mov $1, %eax
    ret
wk_try_copy_failed:
    xor %eax, %eax
    ret
    .size wk_try_copy, . - wk_try_copy

    .section .note.GNU-stack, "", @progbits
