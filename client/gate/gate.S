/* gate.S - from a patched system-call site to C and back. A system call changes rax, rcx and r11 only, so nothing else may
 * change here (but the arithmetic flags, which compiled code never keeps across a system call); the C side is compiled without vector registers. */
    .text
    .hidden eg_gate_dispatch
    .hidden eg_where

/* Called by a trampoline, red zone already skipped; rax: number. Returns to the trampoline, or, to have the call made in
 * place, EG_GATE_PASS_BYTES further. */
    .globl eg_gate_entry
    .hidden eg_gate_entry
    .globl eg_gate_looked
    .hidden eg_gate_looked
    .type eg_gate_entry, @function
eg_gate_entry:
    .cfi_startproc
    cmpl $0, eg_where(%rip)
eg_gate_looked:
    jne 2f                  /* on a compute node: the call is made in place, and seen there */
    push %r9
    push %r8
    push %r10
    push %rdx
    push %rsi
    push %rdi
    push %rax
    push $0
    push %rbp
    mov %rsp, %rbp
    lea 8(%rsp), %rdi
    push %rbx               /* a new thread begins with these: see eg_gate_state */
    push %r12
    push %r13
    push %r14
    push %r15
    and $-16, %rsp
    call eg_gate_dispatch
    mov %rbp, %rsp
    pop %rbp
    pop %rcx                /* pass */
    test %rcx, %rcx
    pop %rcx                /* nr */
    pop %rdi
    pop %rsi
    pop %rdx
    pop %r10
    pop %r8
    pop %r9
    jz 1f
    mov %rcx, %rax
    addq $13, (%rsp)
1:  ret
    .globl eg_gate_away
    .hidden eg_gate_away
eg_gate_away:
2:  addq $13, (%rsp)
    .globl eg_gate_away_end
    .hidden eg_gate_away_end
eg_gate_away_end:
    ret
    .cfi_endproc
    .size eg_gate_entry, . - eg_gate_entry

/* long eg_gate_call_on(void *stack_top, fn, arg) */
    .globl eg_gate_call_on
    .hidden eg_gate_call_on
    .type eg_gate_call_on, @function
eg_gate_call_on:
    push %rbx
    mov %rsp, %rbx
    mov %rdi, %rsp
    mov %rdx, %rdi
    call *%rsi
    mov %rbx, %rsp
    pop %rbx
    ret
    .size eg_gate_call_on, . - eg_gate_call_on

/* void eg_gate_onto(frame, stack_top): as eg_gate_entry's end, with nothing read from the new stack nor written to it. */
    .globl eg_gate_onto
    .hidden eg_gate_onto
    .type eg_gate_onto, @function
eg_gate_onto:
    lea -128(%rsi), %r11    /* the trampoline undoes the red zone's skip */
    mov -8(%rdi), %rbp
    mov -16(%rdi), %rbx
    mov -24(%rdi), %r12
    mov -32(%rdi), %r13
    mov -40(%rdi), %r14
    mov -48(%rdi), %r15
    mov 24(%rdi), %rsi
    mov 32(%rdi), %rdx
    mov 40(%rdi), %r10
    mov 48(%rdi), %r8
    mov 56(%rdi), %r9
    mov 64(%rdi), %rcx
    mov 16(%rdi), %rdi
    xor %eax, %eax
    mov %r11, %rsp
    jmp *%rcx
    .size eg_gate_onto, . - eg_gate_onto

/* Objects that carry the runtime are known by this: another copy must not patch them. */
    .section .note.endgame, "a", @note
    .balign 4
    .long 8, 4, 1
    .asciz "endgame"
    .long 0

    .section .note.GNU-stack, "", @progbits
