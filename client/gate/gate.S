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
/* Who unwinds from a signal that came meanwhile (cancellation, backtrace) steps over the trampoline, of which no unwinder knows: the frame address is the
 * site's rsp, and the return address where the trampoline's jump, behind its lea of 8 bytes, goes to. */
#define SITES_CFA 136 /* rsp to there, at the entry: the way back to the trampoline, and the red zone */
eg_gate_entry:
    .cfi_startproc
    .cfi_def_cfa rsp, SITES_CFA
    /* DW_CFA_val_expression of rip: r = *(CFA - SITES_CFA) + 13; r + (sign extended) *(r - 4) */
    .cfi_escape 0x16, 16, 19, 0x0a, SITES_CFA, 0, 0x1c, 0x06, 0x23, 13, 0x12, 0x34, 0x1c, 0x94, 4, 0x08, 32, 0x24, 0x08, 32, 0x26, 0x22
    cmpl $0, eg_where(%rip)
eg_gate_looked:
    jne 2f                  /* on a compute node: the call is made in place, and seen there */
    .irp saved, %r9, %r8, %r10, %rdx, %rsi, %rdi, %rax, $0, %rbp
    push \saved
    .cfi_adjust_cfa_offset 8
    .endr
    .cfi_rel_offset rbp, 0
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    lea 8(%rsp), %rdi
    push %rbx               /* a new thread begins with these: see eg_gate_state */
    push %r12
    push %r13
    push %r14
    push %r15
    and $-16, %rsp
    call eg_gate_dispatch
    mov %rbp, %rsp
    .cfi_def_cfa_register rsp
    pop %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_same_value rbp
    pop %rcx                /* pass */
    .cfi_adjust_cfa_offset -8
    test %rcx, %rcx
    .irp saved, %rcx, %rdi, %rsi, %rdx, %r10, %r8, %r9 /* nr first */
    pop \saved
    .cfi_adjust_cfa_offset -8
    .endr
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
    .cfi_startproc
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbx, 0
    mov %rsp, %rbx
    .cfi_def_cfa_register rbx
    mov %rdi, %rsp
    mov %rdx, %rdi
    call *%rsi
    mov %rbx, %rsp
    .cfi_def_cfa_register rsp
    pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_same_value rbx
    ret
    .cfi_endproc
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
