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

/* long eg_signals_traced_exec(f) */
    .globl eg_signals_traced_exec
    .hidden eg_signals_traced_exec
    .type eg_signals_traced_exec, @function
eg_signals_traced_exec:
    .cfi_startproc
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbx, 0
    mov 8(%rdi), %rbx           /* struct eg_gate_frame: pass, nr, arg[6] */
    mov 16(%rdi), %r9           /* these calls have five arguments at most */
    mov 24(%rdi), %rsi
    mov 32(%rdi), %rdx
    mov 40(%rdi), %r10
    mov 48(%rdi), %r8
    xor %edi, %edi              /* PTRACE_TRACEME looks at no other argument */
    mov $101, %eax              /* ptrace; from here on a fault would be a stop */
    syscall
    test %rax, %rax
    jnz 1f
    mov %r9, %rdi
    mov %rbx, %rax
    syscall
1:  pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_same_value rbx
    ret
    .cfi_endproc
    .size eg_signals_traced_exec, . - eg_signals_traced_exec

/* long eg_signals_exec_by_child(f): the child's stack is what lies below its parent's. */
    .globl eg_signals_exec_by_child
    .hidden eg_signals_exec_by_child
    .type eg_signals_exec_by_child, @function
eg_signals_exec_by_child:
    .cfi_startproc
    mov $58, %eax               /* vfork */
    syscall
    test %rax, %rax
    jz 1f
    ret
1:  mov %rdi, %rbx
    mov $2, %edi                /* SIG_SETMASK: only the stop after the execve is to come */
    lea but_sigtrap(%rip), %rsi
    xor %edx, %edx
    mov $8, %r10d
    mov $14, %eax               /* rt_sigprocmask */
    syscall
    mov %rbx, %rdi
    call eg_signals_traced_exec
    neg %eax
    mov %eax, %edi
    mov $231, %eax              /* exit_group */
    syscall
    ud2
    .cfi_endproc
    .size eg_signals_exec_by_child, . - eg_signals_exec_by_child

    .section .rodata
    .balign 8
but_sigtrap:
    .quad ~(1 << (5 - 1))

    .section .note.GNU-stack, "", @progbits
