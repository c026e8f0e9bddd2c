/* gate_patch_run.S - call a piece of code with registers and red zone of known content, and write down what it left. */
    .local saved_rsp, saved_rdi, run, code
    .comm saved_rsp, 8, 8
    .comm saved_rdi, 8, 8
    .comm run, 8, 8
    .comm code, 8, 8

    .text
/* void gate_patch_run(struct run *run): the offsets are those of gate_patch.c's struct run. */
    .globl gate_patch_run
    .type gate_patch_run, @function
gate_patch_run:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push 120(%rdi)          /* sixth: the code finds it at 8(%rsp) */
    mov %rsp, saved_rsp(%rip)
    mov %rdi, run(%rip)
    mov 368(%rdi), %rax
    mov %rax, code(%rip)
    /* The code's red zone: the 128 bytes below its return address. */
    xor %ecx, %ecx
1:  mov 128(%rdi,%rcx,8), %rax
    mov %rax, -136(%rsp,%rcx,8)
    inc %ecx
    cmp $16, %ecx
    jne 1b
    mov 0(%rdi), %rax
    mov 8(%rdi), %rbx
    mov 16(%rdi), %rcx
    mov 24(%rdi), %rdx
    mov 32(%rdi), %rsi
    mov 48(%rdi), %rbp
    mov 56(%rdi), %r8
    mov 64(%rdi), %r9
    mov 72(%rdi), %r10
    mov 80(%rdi), %r11
    mov 88(%rdi), %r12
    mov 96(%rdi), %r13
    mov 104(%rdi), %r14
    mov 112(%rdi), %r15
    mov 40(%rdi), %rdi
    call *code(%rip)
    mov %rdi, saved_rdi(%rip)
    mov run(%rip), %rdi
    mov %rax, 256(%rdi)
    mov %rbx, 264(%rdi)
    mov %rcx, 272(%rdi)
    mov %rdx, 280(%rdi)
    mov %rsi, 288(%rdi)
    mov saved_rdi(%rip), %rax
    mov %rax, 296(%rdi)
    mov %rbp, 304(%rdi)
    mov %r8, 312(%rdi)
    mov %r9, 320(%rdi)
    mov %r10, 328(%rdi)
    mov %r11, 336(%rdi)
    mov %r12, 344(%rdi)
    mov %r13, 352(%rdi)
    mov %r14, 360(%rdi)
    mov %r15, 376(%rdi)
    mov %rsp, %rax
    mov saved_rsp(%rip), %rsp
    sub %rsp, %rax
    mov %rax, 384(%rdi)
    xor %ecx, %ecx
2:  mov -136(%rsp,%rcx,8), %rax
    mov %rax, 392(%rdi,%rcx,8)
    inc %ecx
    cmp $16, %ecx
    jne 2b
    add $8, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .size gate_patch_run, . - gate_patch_run

    .section .note.GNU-stack, "", @progbits
