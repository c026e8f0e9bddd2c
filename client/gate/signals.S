/* signals.S - the way back from a handler of the runtime's, and accesses that may fail. */
    .text

    .globl eg_signals_restorer
    .hidden eg_signals_restorer
    .type eg_signals_restorer, @function
    nop                         /* unwinders look one byte before the return address */
eg_signals_restorer:
    mov $15, %rax               /* rt_sigreturn, coded as debuggers know it */
    syscall
    .size eg_signals_restorer, . - eg_signals_restorer

/* long eg_signals_peek(from, ret_word): the handler of SIGSEGV leads a fault at peek_at, copy_at or poke_at to probe_failed. */
    .globl eg_signals_peek, eg_signals_peek_at
    .hidden eg_signals_peek, eg_signals_peek_at
    .type eg_signals_peek, @function
eg_signals_peek:
    .cfi_startproc
eg_signals_peek_at:
    mov (%rdi), %rax
    mov %rax, (%rsi)
    xor %eax, %eax
    ret
    .cfi_endproc
    .size eg_signals_peek, . - eg_signals_peek

/* long eg_signals_copy_in(to, from, bytes) */
    .globl eg_signals_copy_in, eg_signals_copy_at
    .hidden eg_signals_copy_in, eg_signals_copy_at
    .type eg_signals_copy_in, @function
eg_signals_copy_in:
    .cfi_startproc
    mov %rdx, %rcx
eg_signals_copy_at:
    rep movsb
    xor %eax, %eax
    ret
    .cfi_endproc
    .size eg_signals_copy_in, . - eg_signals_copy_in

/* long eg_signals_poke(to, word) */
    .globl eg_signals_poke, eg_signals_poke_at
    .hidden eg_signals_poke, eg_signals_poke_at
    .type eg_signals_poke, @function
eg_signals_poke:
    .cfi_startproc
eg_signals_poke_at:
    mov %rsi, (%rdi)
    xor %eax, %eax
    ret
    .globl eg_signals_probe_failed
    .hidden eg_signals_probe_failed
eg_signals_probe_failed:
    mov $-14, %rax              /* -EFAULT */
    ret
    .cfi_endproc
    .size eg_signals_poke, . - eg_signals_poke

    .section .note.GNU-stack, "", @progbits
