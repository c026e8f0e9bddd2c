/* torture_cpu.c - what a thread's processor state and surroundings must be: floating point control, vector registers across faults and
 * calls, deep stacks, clocks, instructions that touch several pages. See torture.h for the command line. */
#include "torture.h"

#include <fenv.h>
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/times.h>

/* ---- floating point control: inherited, one's own, kept across faults and calls ----------------------------------------- */

static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};

static void third(double *low, long double *low_x87)
{
    volatile double one = 1, three = 3;
    volatile long double one_x87 = 1, three_x87 = 3;
    *low = one / three;
    *low_x87 = one_x87 / three_x87;
}

static double native_third[4];
static long double native_third_x87[4];

static void rounding_body(struct member *me)
{
    const int inherited = *(int *)me->shared;
    double value;
    long double value_x87;
    EQUAL(fegetround(), modes[inherited]);
    const int n = rounds(40);
    for (int i = 0; i < n; i++) {
        const int mode = i == 0 ? inherited : (me->number + i) % 4;
        if (i)
            EQUAL(fesetround(modes[mode]), 0);
        unsigned char *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(fresh != MAP_FAILED, "mmap: %s", strerror(errno));
        fresh[0] = 1; /* a fault and two calls between setting and using */
        SYS(munmap(fresh, PAGE));
        EQUAL(fegetround(), modes[mode]);
        third(&value, &value_x87);
        CHECK(value == native_third[mode] && value_x87 == native_third_x87[mode], "1/3 in mode %d is %.20g and %.25Lg", mode, value, value_x87);
    }
}

static void rounding(void)
{
    for (int mode = 0; mode < 4; mode++) {
        fesetround(modes[mode]);
        third(&native_third[mode], &native_third_x87[mode]);
    }
    fesetround(FE_TONEAREST);
    CHECK(native_third[1] < native_third[2], "rounding modes make no difference");
    for (int mode = 0; mode < 4; mode++) {
        EQUAL(fesetround(modes[mode]), 0);
        crew_run(threads(3), rounding_body, &mode);
        EQUAL(fegetround(), modes[mode]);
    }
    fesetround(FE_TONEAREST);
}

/* Flush-to-zero and masks in MXCSR, precision in the x87 control word, exception flags. */
static void control_body(struct member *me)
{
    const unsigned *wanted = me->shared;
    uint16_t x87;
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    EQUAL(_mm_getcsr() & 0xffc0u, wanted[0] & 0xffc0u);
    EQUAL(x87, wanted[1]);
    volatile double tiny = DBL_MIN;
    volatile double result_of_half = tiny / 2;
    CHECK((result_of_half == 0) == ((wanted[0] & 0x8000) != 0), "flush to zero: half of the smallest is %g", result_of_half);
    feclearexcept(FE_ALL_EXCEPT);
    volatile double zero = 0, one = 1;
    volatile double infinite = one / zero;
    (void)infinite;
    sched_yield();
    sleep_ms(1);
    EQUAL(fetestexcept(FE_DIVBYZERO | FE_INVALID), FE_DIVBYZERO);
}

static void control_words(void)
{
    const unsigned csr = _mm_getcsr();
    uint16_t x87, other;
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    for (int i = 0; i < 4; i++) {
        other = i & 2 ? (uint16_t)((x87 & ~0x300) | 0x200) : x87; /* double precision */
        unsigned wanted[2] = {i & 1 ? csr | 0x8040 : csr, other};
        _mm_setcsr(wanted[0]);
        __asm__ volatile("fldcw %0" : : "m"(other));
        crew_run(threads(2), control_body, wanted);
        __asm__ volatile("fldcw %0" : : "m"(x87));
        _mm_setcsr(csr);
    }
}

/* ---- vector registers across page faults and system calls --------------------------------------------------------------- */

/* Between loading the registers and storing them: n_pages pages that nobody has touched, and two calls. The assembly holds all of it,
 * so that no compiler saves a register meanwhile. */
struct vectors {
    _Alignas(64) unsigned char in[32][64];
    _Alignas(64) unsigned char out[32][64];
    uint64_t masks_in[8], masks_out[8];
};

#define FAULTS_AND_CALLS                                                                                  \
    "mov %[pages], %%r12\n"                                                                               \
    "mov %[n], %%r13\n"                                                                                   \
    "1: movb $1, (%%r12)\n"                                                                               \
    "add $4096, %%r12\n"                                                                                  \
    "dec %%r13\n"                                                                                         \
    "jnz 1b\n"                                                                                            \
    "mov $39, %%eax\n"  /* getpid */                                                                      \
    "syscall\n"                                                                                           \
    "mov $24, %%eax\n"  /* sched_yield */                                                                 \
    "syscall\n"                                                                                           \
    "mov $110, %%eax\n" /* getppid */                                                                     \
    "syscall\n"

#define CLOBBERS "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "memory", "cc"

#define EACH_16(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) x(13) x(14) x(15)
#define EACH_16_TO_31(x) \
    x(16) x(17) x(18) x(19) x(20) x(21) x(22) x(23) x(24) x(25) x(26) x(27) x(28) x(29) x(30) x(31)

#define LOAD_XMM(i) "movdqa 64*" #i "(%[in]), %%xmm" #i "\n"
#define STORE_XMM(i) "movdqa %%xmm" #i ", 64*" #i "(%[out])\n"
#define LOAD_YMM(i) "vmovdqa 64*" #i "(%[in]), %%ymm" #i "\n"
#define STORE_YMM(i) "vmovdqa %%ymm" #i ", 64*" #i "(%[out])\n"
#define LOAD_ZMM(i) "vmovdqa64 64*" #i "(%[in]), %%zmm" #i "\n"
#define STORE_ZMM(i) "vmovdqa64 %%zmm" #i ", 64*" #i "(%[out])\n"

static void vectors_sse(struct vectors *v, unsigned char *pages, size_t n)
{
    unsigned char *in = v->in[0], *out = v->out[0];
    __asm__ volatile(EACH_16(LOAD_XMM) FAULTS_AND_CALLS EACH_16(STORE_XMM)
                     :
                     : [in] "b"(in), [out] "r"(out), [pages] "r"(pages), [n] "r"(n)
                     : CLOBBERS, "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                       "xmm14", "xmm15");
}

__attribute__((target("avx"))) static void vectors_avx(struct vectors *v, unsigned char *pages, size_t n)
{
    unsigned char *in = v->in[0], *out = v->out[0];
    __asm__ volatile(EACH_16(LOAD_YMM) FAULTS_AND_CALLS EACH_16(STORE_YMM) "vzeroupper\n"
                     :
                     : [in] "b"(in), [out] "r"(out), [pages] "r"(pages), [n] "r"(n)
                     : CLOBBERS, "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                       "xmm14", "xmm15");
}

__attribute__((target("avx512f,avx512bw"))) static void vectors_avx512(struct vectors *v, unsigned char *pages, size_t n)
{
    unsigned char *in = v->in[0], *out = v->out[0];
    for (int k = 1; k < 8; k++)
        v->masks_in[k] = mix((uint64_t)k + (uintptr_t)in);
    __asm__ volatile(EACH_16(LOAD_ZMM) EACH_16_TO_31(LOAD_ZMM)
                     "kmovq 8+%[masks_in], %%k1\n kmovq 16+%[masks_in], %%k2\n kmovq 24+%[masks_in], %%k3\n kmovq 56+%[masks_in], %%k7\n"
                     FAULTS_AND_CALLS
                     EACH_16(STORE_ZMM) EACH_16_TO_31(STORE_ZMM)
                     "kmovq %%k1, 8+%[masks_out]\n kmovq %%k2, 16+%[masks_out]\n kmovq %%k3, 24+%[masks_out]\n kmovq %%k7, 56+%[masks_out]\n"
                     "vzeroupper\n"
                     : [masks_out] "=o"(v->masks_out)
                     : [in] "b"(in), [out] "r"(out), [pages] "r"(pages), [n] "r"(n), [masks_in] "o"(v->masks_in)
                     : CLOBBERS, "k1", "k2", "k3", "k7", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    static const int used[] = {1, 2, 3, 7};
    for (size_t i = 0; i < COUNT_OF(used); i++)
        CHECK(v->masks_out[used[i]] == v->masks_in[used[i]], "mask register k%d changed", used[i]);
}

static void vectors_check(struct member *me, void (*use)(struct vectors *, unsigned char *, size_t), int n_registers, size_t width)
{
    enum { N = 5 };
    struct vectors *v = NOT_NULL(aligned_alloc(64, sizeof *v));
    const int n = rounds(10);
    for (int i = 0; i < n; i++) {
        unsigned char *pages = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(pages != MAP_FAILED, "mmap: %s", strerror(errno));
        fill_bytes(v->in, sizeof v->in, rng_next(&me->rng));
        memset(v->out, 0, sizeof v->out);
        use(v, pages, N);
        for (int r = 0; r < n_registers; r++)
            CHECK(!memcmp(v->in[r], v->out[r], width), "%zu-byte register %d changed", width, r);
        SYS(munmap(pages, N * PAGE));
    }
    free(v);
}

static void vectors_body(struct member *me)
{
    vectors_check(me, vectors_sse, 16, 16);
    if (__builtin_cpu_supports("avx"))
        vectors_check(me, vectors_avx, 16, 32);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        vectors_check(me, vectors_avx512, 32, 64);
}

static void vectors(void)
{
    crew_run(threads(3), vectors_body, NULL);
}

/* Loads and stores of all widths that fault themselves, over a page's end, the data another thread's. */
static struct {
    pthread_barrier_t barrier;
    unsigned char *at;
} crossing;

__attribute__((target("avx"))) static void copy_avx(unsigned char *to, const unsigned char *from)
{
    _mm256_storeu_si256((void *)to, _mm256_loadu_si256((const void *)from));
    _mm256_zeroupper();
}

static void crossing_body(struct member *me)
{
    enum { N = 16 };
    const int n = rounds(12);
    for (int i = 0; i < n; i++) {
        /* By turns each writes all, then all read: every access meets somebody else's page, two at a time. */
        if (i % me->of == me->number)
            for (size_t p = 1; p < N; p++) {
                unsigned char *const end = crossing.at + p * PAGE;
                uint64_t words[4];
                for (size_t w = 0; w < 4; w++)
                    words[w] = mix((uint64_t)i * 100 + p * 4 + w);
                switch (p % 4) {
                case 0: memcpy(end - 3, words, 8); break;
                case 1: _mm_storeu_si128((void *)(end - 9), _mm_loadu_si128((const void *)words)); break;
                case 2:
                    if (__builtin_cpu_supports("avx"))
                        copy_avx(end - 17, (const unsigned char *)words);
                    else
                        memcpy(end - 17, words, 32);
                    break;
                default: __builtin_memcpy(end - 1, words, 2); break;
                }
            }
        pthread_barrier_wait(&crossing.barrier);
        for (size_t p = 1; p < N; p++) {
            const unsigned char *const end = crossing.at + p * PAGE;
            uint64_t words[4], got[4];
            for (size_t w = 0; w < 4; w++)
                words[w] = mix((uint64_t)i * 100 + p * 4 + w);
            static const size_t before[] = {3, 9, 17, 1}, lengths[] = {8, 16, 32, 2};
            memcpy(got, end - before[p % 4], lengths[p % 4]);
            CHECK(!memcmp(got, words, lengths[p % 4]), "round %d: %zu bytes over the end of page %zu are wrong", i, lengths[p % 4], p - 1);
        }
        pthread_barrier_wait(&crossing.barrier);
    }
}

static void page_crossing(void)
{
    const int n = threads(3);
    crossing.at = mmap(NULL, 17 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(crossing.at != MAP_FAILED, "mmap: %s", strerror(errno));
    OK(pthread_barrier_init(&crossing.barrier, NULL, (unsigned)n));
    crew_run(n, crossing_body, NULL);
    OK(pthread_barrier_destroy(&crossing.barrier));
    SYS(munmap(crossing.at, 17 * PAGE));
}

/* One instruction that needs four pages, all of them written by other threads all the time: it must get through. Each thread has its own
 * eight bytes at each place. */
static unsigned char *contended;

static void contended_body(struct member *me)
{
    const int n = rounds(300);
    /* Places that straddle the ends of pages 0 and 2; the threads' are next to each other, 16 bytes apart. */
    unsigned char *const a = contended + 1 * PAGE - 4, *const b = contended + 3 * PAGE - 4;
    uint64_t *const own = (void *)(contended + 4 * PAGE + (size_t)me->number * 8);
    *own = 0;
    for (int i = 0; i < n; i++) {
        const unsigned char *from = i % 2 ? a : b;
        unsigned char *to = i % 2 ? b : a;
        /* Everybody copies the same straddling bytes to and fro: 4 pages in one instruction. */
        __asm__ volatile("movsq" : "+S"(from), "+D"(to) : : "memory");
        uint64_t *const beside = (void *)(contended + (size_t)(i % 4) * PAGE + 64 + (size_t)me->number * 8);
        ++*beside;
        ++*own;
    }
    EQUAL(*own, n);
}

static void contended_instruction(void)
{
    const int n = threads(3) > 64 ? 64 : threads(3);
    contended = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(contended != MAP_FAILED, "mmap: %s", strerror(errno));
    memset(contended + 1 * PAGE - 4, 0x5a, 8);
    memset(contended + 3 * PAGE - 4, 0x5a, 8);
    crew_run(n, contended_body, NULL);
    for (int k = 0; k < 8; k++)
        CHECK(contended[PAGE - 4 + k] == 0x5a && contended[3 * PAGE - 4 + k] == 0x5a, "byte %d changed", k);
    for (int t = 0; t < n; t++)
        for (int p = 0; p < 4; p++)
            EQUAL(*(uint64_t *)(void *)(contended + (size_t)p * PAGE + 64 + (size_t)t * 8), rounds(300) / 4 + (rounds(300) % 4 > p));
    SYS(munmap(contended, 5 * PAGE));
}

/* Strings of instructions: rep movsb and rep stosb over many pages, which may be interrupted in the middle. */
static void string_body(struct member *me)
{
    enum { SIZE = 20 * 4096 + 123 };
    const int n = rounds(4);
    for (int i = 0; i < n; i++) {
        unsigned char *from = NOT_NULL(malloc(SIZE)), *to = NOT_NULL(malloc(SIZE));
        const uint64_t key = rng_next(&me->rng);
        fill_bytes(from, SIZE, key);
        void *d = to;
        const void *s = from;
        size_t len = SIZE;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(len) : : "memory");
        EQUAL(len, 0);
        CHECK_BYTES(to, SIZE, key);
        d = from;
        len = SIZE;
        __asm__ volatile("rep stosb" : "+D"(d), "+c"(len) : "a"(0) : "memory");
        CHECK_ZEROS(from, SIZE);
        /* Backwards. */
        d = from + SIZE - 1;
        s = to + SIZE - 1;
        len = SIZE;
        __asm__ volatile("std; rep movsb; cld" : "+D"(d), "+S"(s), "+c"(len) : : "memory");
        CHECK_BYTES(from, SIZE, key);
        free(from);
        free(to);
    }
}

static void string_instructions(void)
{
    crew_run(threads(3), string_body, NULL);
}

/* ---- system calls leave every other register alone ---------------------------------------------------------------------- */

static void call_registers_body(struct member *me)
{
    static const int calls[] = {SYS_getpid, SYS_gettid, SYS_sched_yield, SYS_getppid, SYS_close};
    const int n = rounds(30);
    (void)me;
    for (int i = 0; i < n; i++) {
        uint64_t in[10], out[10];
        for (size_t r = 0; r < COUNT_OF(in); r++)
            in[r] = mix((uint64_t)i * 10 + r);
        in[0] = 0xffffffff; /* rdi: close of a descriptor that is none */
        long value = calls[(size_t)i % COUNT_OF(calls)];
        uint64_t *from = in, *to = out;
        __asm__ volatile("sub $128, %%rsp\n" /* the red zone */
                         "push %%rbx\n"
                         "push %%rbp\n"
                         "push %%rdi\n"
                         "mov 0(%%rsi), %%rdi\n"
                         "mov 16(%%rsi), %%rdx\n"
                         "mov 24(%%rsi), %%r10\n"
                         "mov 32(%%rsi), %%r8\n"
                         "mov 40(%%rsi), %%r9\n"
                         "mov 48(%%rsi), %%r12\n"
                         "mov 56(%%rsi), %%r13\n"
                         "mov 64(%%rsi), %%rbx\n"
                         "mov 72(%%rsi), %%rbp\n"
                         "mov 8(%%rsi), %%rsi\n"
                         "syscall\n"
                         "pop %%r14\n"
                         "mov %%rdi, 0(%%r14)\n"
                         "mov %%rsi, 8(%%r14)\n"
                         "mov %%rdx, 16(%%r14)\n"
                         "mov %%r10, 24(%%r14)\n"
                         "mov %%r8, 32(%%r14)\n"
                         "mov %%r9, 40(%%r14)\n"
                         "mov %%r12, 48(%%r14)\n"
                         "mov %%r13, 56(%%r14)\n"
                         "mov %%rbx, 64(%%r14)\n"
                         "mov %%rbp, 72(%%r14)\n"
                         "pop %%rbp\n"
                         "pop %%rbx\n"
                         "add $128, %%rsp\n"
                         : "+a"(value), "+S"(from), "+D"(to)
                         :
                         : "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "memory", "cc");
        for (size_t r = 0; r < COUNT_OF(in); r++)
            CHECK(in[r] == out[r], "call %d: register %zu changed from %" PRIx64 " to %" PRIx64, calls[(size_t)i % COUNT_OF(calls)], r, in[r], out[r]);
        if (calls[(size_t)i % COUNT_OF(calls)] == SYS_gettid)
            EQUAL(value, gettid());
        if (calls[(size_t)i % COUNT_OF(calls)] == SYS_close)
            EQUAL(value, -EBADF);
    }
}

static void call_registers(void)
{
    crew_run(threads(3), call_registers_body, NULL);
}

/* ---- deep stacks -------------------------------------------------------------------------------------------------------- */

__attribute__((noinline)) static uint64_t recurse(unsigned depth, uint64_t key)
{
    volatile uint64_t frame[60];
    for (unsigned i = 0; i < 60; i += 7)
        frame[i] = mix(key + i);
    const uint64_t below = depth ? recurse(depth - 1, key + 60) : 0;
    for (unsigned i = 0; i < 60; i += 7)
        CHECK(frame[i] == mix(key + i), "a frame changed at depth %u", depth);
    return below + frame[0];
}

static void deep_stack_body(struct member *me)
{
    me->sum = recurse(6000, (uint64_t)me->number << 32); /* 3 to 4 MB */
    volatile unsigned char *large = __builtin_alloca(1 << 20);
    for (size_t i = 0; i < 1 << 20; i += PAGE)
        large[i] = (unsigned char)i;
    me->sum += large[3 * PAGE];
}

static void deep_stack(void)
{
    result("%016" PRIx64, crew_run(threads(3), deep_stack_body, NULL));
}

/* ---- time --------------------------------------------------------------------------------------------------------------- */

/* A clock read after a message must not be behind the clock that the message carries. */
static struct {
    _Alignas(4096) atomic_int turn;
    atomic_llong last[4];
} clocks;

static const clockid_t clock_ids[4] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE};

static void clocks_body(struct member *me)
{
    const int n = rounds(60);
    for (int i = 0; i < n; i++) {
        wait_until_at_least(&clocks.turn, i * me->of + me->number);
        for (size_t c = 0; c < COUNT_OF(clock_ids); c++) {
            struct timespec t;
            SYS(clock_gettime(clock_ids[c], &t));
            CHECK(t.tv_nsec >= 0 && t.tv_nsec < 1000000000, "clock %zu: %ld ns", c, t.tv_nsec);
            const long long now = t.tv_sec * 1000000000ll + t.tv_nsec, last = atomic_load(&clocks.last[c]);
            CHECK(now >= last, "clock %zu went back by %lld ns from one thread to the next", c, last - now);
            atomic_store(&clocks.last[c], now);
        }
        atomic_fetch_add(&clocks.turn, 1);
    }
    /* Processor time of this very thread goes forward, and is not the process's. */
    struct timespec before, after;
    SYS(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before));
    for (volatile int i = 0; i < 200000; i++)
        ;
    SYS(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after));
    CHECK(after.tv_sec > before.tv_sec || after.tv_nsec >= before.tv_nsec, "a thread's own clock went back");
}

static void clocks_test(void)
{
    memset(&clocks, 0, sizeof clocks);
    crew_run(threads(3), clocks_body, NULL);
}

static void sleeping_body(struct member *me)
{
    const struct timespec until = after_ms(CLOCK_MONOTONIC, 10 + me->number), nap = {0, 5000000};
    OK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL));
    CHECK(not_before(CLOCK_MONOTONIC, until), "clock_nanosleep woke too early");
    const struct timespec then = after_ms(CLOCK_MONOTONIC, 5);
    SYS(nanosleep(&nap, NULL));
    CHECK(not_before(CLOCK_MONOTONIC, then), "nanosleep woke too early");
    EQUAL(clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){0, -1}, NULL), EINVAL);
    time_t now = time(NULL);
    struct tm tm;
    CHECK(localtime_r(&now, &tm) && mktime(&tm) == now, "mktime does not undo localtime");
}

static void sleeping(void)
{
    crew_run(threads(4), sleeping_body, NULL);
}

/* ---- what the system says ----------------------------------------------------------------------------------------------- */

/* The kernel knows them for the end of the thread; who asks for them may give them back. */
static void own_words(void)
{
    void *list = NULL;
    size_t bytes = 0;
    int *word = NULL;
    SYS(syscall(SYS_get_robust_list, 0, &list, &bytes));
    CHECK(list && bytes == 24, "the list of robust mutexes is %p, %zu bytes", list, bytes);
    SYS(syscall(SYS_set_robust_list, list, bytes));
    if (prctl(PR_GET_TID_ADDRESS, &word, 0, 0, 0) == 0) { /* not all kernels have it */
        EQUAL(*word, gettid());
        EQUAL(syscall(SYS_set_tid_address, word), gettid());
    }
}

static void inquiries_body(struct member *me)
{
    struct rusage usage;
    struct rlimit limit;
    struct sysinfo info;
    char name[100];
    (void)me;
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1, "no processor");
    CHECK(get_nprocs() >= 1, "no processor");
    EQUAL(sysconf(_SC_PAGESIZE), PAGE);
    CHECK(sched_getcpu() >= 0, "sched_getcpu: %s", strerror(errno));
    SYS(getrusage(RUSAGE_SELF, &usage));
    SYS(getrusage(RUSAGE_THREAD, &usage));
    SYS(getrlimit(RLIMIT_STACK, &limit));
    SYS(sysinfo(&info));
    CHECK(info.totalram > 0, "no memory");
    SYS(gethostname(name, sizeof name));
    NOT_NULL(getcwd(name, sizeof name));
    unsigned char noise[64] = {0}, none[64] = {0};
    SYS(getentropy(noise, sizeof noise));
    CHECK(memcmp(noise, none, sizeof noise), "getentropy gave zeros");
    CHECK(times(NULL) != (clock_t)-1, "times: %s", strerror(errno));
    own_words();
}

static void inquiries(void)
{
    crew_run(threads(3), inquiries_body, NULL);
}

static void mathematics_body(struct member *me)
{
    double sum = 0;
    for (int i = 1; i < 2000; i++) /* functions that the library chooses by the processor */
        sum += sin(i) * exp(1.0 / i) + pow(i, 0.3) + log(i) + fma(i, 0.1, 3);
    memcpy(&me->sum, &sum, sizeof sum);
    const char text[] = "some text to be searched for a needle, with a long tail after it, and more";
    CHECK(strstr(text, "needle") == text + 31 && strchr(text, 'z') == NULL && strlen(text) == 74, "the library's string functions");
}

/* The main thread's result is the wanted one. */
static void mathematics(void)
{
    struct member me = {0};
    mathematics_body(&me);
    EQUAL(crew_run(threads(3), mathematics_body, NULL), (uint64_t)threads(3) * me.sum);
    result("%016" PRIx64, me.sum);
}

static const struct sub_test tests[] = {
    {"rounding", rounding, "rounding modes, inherited and changed"},
    {"control_words", control_words, "flush to zero, precision, exception flags"},
    {"vectors", vectors, "SSE, AVX, AVX-512 registers across faults and calls"},
    {"call_registers", call_registers, "a system call changes only its own registers"},
    {"page_crossing", page_crossing, "accesses over page ends"},
    {"contended_instruction", contended_instruction, "one instruction, four contended pages"},
    {"string_instructions", string_instructions, "rep movs and stos, both directions"},
    {"deep_stack", deep_stack, "megabytes of frames"},
    {"clocks", clocks_test, "clocks never go back from thread to thread"},
    {"sleeping", sleeping, "sleeps are long enough"},
    {"inquiries", inquiries, "sysconf, getrusage, sysinfo and others"},
    {"mathematics", mathematics, "libm gives the main thread's results"},
};

TORTURE_MAIN(tests)
