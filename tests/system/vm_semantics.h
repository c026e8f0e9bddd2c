/* vm_semantics.h - what the files of vm_semantics share: the trace, content that is known, faults that are looked at, and the list of sections. */
#ifndef VM_SEMANTICS_H
#define VM_SEMANTICS_H

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB (1ul << 20)

extern char **environ;
extern const char *self_path;

/* A line of the trace. */
__attribute__((format(printf, 1, 2))) void out(const char *format, ...);
/* Arguments are evaluated in any order: this one's first, and whatever it did, before the others. */
#define out_after(first, ...)                  \
    do {                                       \
        const char *first_text = (first);      \
        out_rest(first_text, __VA_ARGS__);     \
    } while (0)
#define out_rest(first, format, ...) out(format, first, __VA_ARGS__)

/* What a call returned, or the name of its error; four texts at a time. */
const char *result(long rc);
const char *mapped(void *at);

/* Content that depends on the seed: written, and looked at in the part [from, from + len) of it. */
uint64_t word_of(uint64_t seed, uint64_t index);
void fill(void *at, size_t len, uint64_t seed);
const char *content(const void *at, size_t from, size_t len, uint64_t seed);
const char *zeros(const void *at, size_t len);

/* Everything else is evicted, as far as a sweep over other memory can do it. */
void press(void);
void *map(size_t len);
void map_at(void *at, size_t len);
/* Memory with content that was evicted. */
char *map_evicted(size_t len, uint64_t seed);

/* What an access does. */
const char *reads(void *at);
const char *writes(void *at);
/* Returns: the child's status; 1000 and its signal. */
int in_child(void (*body)(void *), void *arg);

/* X(name, what it is about) */
#define SECTIONS(X)                                                             \
    X(partial_unmap, "munmap of parts, blocks and holes")                       \
    X(fixed_over, "MAP_FIXED over captured memory")                             \
    X(fixed_noreplace, "MAP_FIXED_NOREPLACE")                                   \
    X(mmap_flags, "other flags, hints, mmap by syscall()")                      \
    X(errors_mmap, "errors of the memory calls")                                \
    X(mremap_grow, "mremap that grows")                                         \
    X(mremap_shrink, "mremap that shrinks")                                     \
    X(mremap_fixed, "MREMAP_FIXED")                                             \
    X(shared_over, "shared memory in place of captured memory")                 \
    X(own_stack, "processes on stacks of their own")                            \
    X(mremap_dontunmap, "MREMAP_DONTUNMAP")                                     \
    X(mremap_many, "pieces that grow in turns")                                 \
    X(mremap_pieces, "one mapping that is several to the kernel")               \
    X(mremap_stacks, "mremap of memory above and around a thread's stack")      \
    X(protect_keeps, "mprotect keeps content")                                  \
    X(protect_exec, "evicted code")                                             \
    X(guard_pages, "PROT_NONE pages in captured memory, MADV_GUARD_INSTALL")    \
    X(dontneed, "MADV_DONTNEED")                                                \
    X(lazy_free, "MADV_FREE")                                                   \
    X(hints, "madvise that must not change anything")                           \
    X(process_advice, "process_madvise")                                        \
    X(fork_advice, "MADV_WIPEONFORK, MADV_DONTFORK")                            \
    X(program_break, "brk")                                                     \
    X(locking, "mlock, msync, mincore")                                         \
    X(kernel_reads_writes, "read, write and their kin on evicted buffers")      \
    X(kernel_messages, "other calls with pointers into evicted memory")         \
    X(peer_memory, "process_vm_readv")                                          \
    X(shared_futex, "futex words that are not private")                         \
    X(proc_self_mem, "/proc/self/mem")                                          \
    X(direct_io, "O_DIRECT")                                                    \
    X(alternate_stacks, "sigaltstack in malloced memory")                       \
    X(own_segv_handler, "a write barrier by SIGSEGV")                           \
    X(own_bus_handler, "the program's own SIGBUS handler")                      \
    X(crash, "crashes stay what they are")                                      \
    X(timer_signals, "signals that interrupt faults")                           \
    X(jump_out_of_handler, "siglongjmp from a signal that interrupted a fault") \
    X(thread_stacks, "thread stacks in malloced memory")                        \
    X(forking, "fork")                                                          \
    X(executing, "exec, vfork, posix_spawn, system, popen")                     \
    X(fork_from_threads, "fork from threads")                                   \
    X(descriptors, "programs that close or replace all descriptors")            \
    X(libraries, "dlopen")                                                      \
    X(allocator, "glibc malloc")

#define X(name, text) void name(void);
SECTIONS(X)
#undef X

#endif
