/* eg_sys.h - raw system calls and the few memory functions of the freestanding line. Every call returns its result or
 * -errno; nothing here touches TLS, errno, the stack protector or vector registers. */
#ifndef EG_SYS_H
#define EG_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#ifdef EG_DELAYS
/* eg_delay - a build for tests: the runtime is held up before each of its system calls now and then, for up to 300 us, so that what runs beside it gets
 * in between. One in 128 times, and gives the processor away ten times as often. Context: any. */
static inline void eg_delay(void)
{
    uint64_t h = __builtin_ia32_rdtsc() * 0x9e3779b97f4a7c15ull;
    int64_t time[2] = {0, (int64_t)((h >> 8) % 300000)};
    long nr = h >> 57 ? SYS_sched_yield : SYS_nanosleep;
    if (h >> 57 < 11)
        __asm__ volatile("syscall" : "+a"(nr) : "D"(time), "S"(0l) : "rcx", "r11", "memory");
}
#else
static inline void eg_delay(void) {}
#endif

/* The kernel's struct sigaction. */
struct eg_sigaction {
    uint64_t handler, flags, restorer, mask;
};

static inline long eg_syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    eg_delay();
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long ret;
    __asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

#define EG_SYS_ARG_(x) ((long)(x))
#define eg_sys0(nr) eg_syscall6((nr), 0, 0, 0, 0, 0, 0)
#define eg_sys1(nr, a) eg_syscall6((nr), EG_SYS_ARG_(a), 0, 0, 0, 0, 0)
#define eg_sys2(nr, a, b) eg_syscall6((nr), EG_SYS_ARG_(a), EG_SYS_ARG_(b), 0, 0, 0, 0)
#define eg_sys3(nr, a, b, c) eg_syscall6((nr), EG_SYS_ARG_(a), EG_SYS_ARG_(b), EG_SYS_ARG_(c), 0, 0, 0)
#define eg_sys4(nr, a, b, c, d) \
    eg_syscall6((nr), EG_SYS_ARG_(a), EG_SYS_ARG_(b), EG_SYS_ARG_(c), EG_SYS_ARG_(d), 0, 0)
#define eg_sys5(nr, a, b, c, d, e) \
    eg_syscall6((nr), EG_SYS_ARG_(a), EG_SYS_ARG_(b), EG_SYS_ARG_(c), EG_SYS_ARG_(d), EG_SYS_ARG_(e), 0)
#define eg_sys6(nr, a, b, c, d, e, f)                                                                        \
    eg_syscall6((nr), EG_SYS_ARG_(a), EG_SYS_ARG_(b), EG_SYS_ARG_(c), EG_SYS_ARG_(d), EG_SYS_ARG_(e), EG_SYS_ARG_(f))

static inline int eg_sys_failed(long ret)
{
    return (unsigned long)ret > -4096ul;
}

static inline void eg_cpu_relax(void)
{
    __asm__ volatile("pause" ::: "memory");
}

/* libc's, of the calling thread: tells threads that libc made apart. */
static inline uint64_t eg_thread_pointer(void)
{
    uint64_t tp;
    __asm__("mov %%fs:0, %0" : "=r"(tp));
    return tp;
}

/* The compiler itself emits calls to these four, so they carry the standard names (hidden from everybody else). */
void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* eg_sys_now_ns - CLOCK_MONOTONIC. Context: any; a vDSO call once eg_sys_clock_init() found it, else a system call. */
uint64_t eg_sys_now_ns(void);
/* eg_sys_slice - the calling thread is run soon after it is woken, and asks for short turns (Linux 6.12; else nothing changes). */
void eg_sys_slice(uint64_t ns);
/* eg_sys_copy_in - the program's memory by copy: an address where nothing is does no harm. Context: a thread that may fault. Returns: bytes copied,
 * -errno. */
long eg_sys_copy_in(void *to, uint64_t from, size_t bytes);
/* eg_sys_bits - how many are set. */
uint32_t eg_sys_bits(const uint64_t *words, uint32_t n);
/* eg_sys_processors - how many the calling thread may run on. */
uint32_t eg_sys_processors(void);
/* eg_sys_clock_init - give the vDSO's clock_gettime (NULL: use the system call). */
void eg_sys_clock_init(int (*vdso_clock_gettime)(int, void *));

/* eg_sys_reserve - set addresses aside for eg_sys_map. Context: start-up. Returns: 0, -1 (eg_sys_map then asks the kernel). */
int eg_sys_reserve(size_t bytes);
/* eg_sys_reserved - which addresses those are; empty when there are none. */
void eg_sys_reserved(uint64_t *ret_start, uint64_t *ret_end);
/* eg_sys_map - zeroed memory of the runtime's own, never captured; page-aligned from a page upwards.
 * Context: any, with signals blocked. Returns: the address, or NULL when the kernel has none. */
void *eg_sys_map(size_t bytes);
/* eg_sys_discard - whole pages of private anonymous memory go back to the kernel, those that mlock keeps, too. Returns: 0, -errno. */
int eg_sys_discard(uint64_t addr, size_t bytes);
/* eg_sys_unmap - the pages of an eg_sys_map go back to the kernel, the addresses do not. */
void eg_sys_unmap(void *p, size_t bytes);

size_t eg_strlen(const char *s);
/* eg_str_put - append s to buf (of cap bytes, len used so far) and return the new length; truncates. */
size_t eg_str_put(char *buf, size_t cap, size_t len, const char *s);
size_t eg_str_put_u64(char *buf, size_t cap, size_t len, uint64_t v);
/* eg_str_u64 - the decimal number that s begins with; 0 when it is none. Returns: where it ends. */
const char *eg_str_u64(const char *s, uint64_t *ret_value);
/* eg_sys_numbers - the names in a folder of /proc that are numbers (threads, descriptors), in the kernel's order. fd: the folder, open; it is closed. */
void eg_sys_numbers(long fd, void (*each)(void *arg, uint64_t number), void *arg);
/* eg_str_hex - the hexadecimal number (0-9, a-f) that s begins with; 0 when it is none. Returns: where it ends. */
const char *eg_str_hex(const char *s, uint64_t *ret_value);

#endif
