/* gate_handlers.h - a program with handlers, for tests of the gate's signals: a region under userfaultfd whose pages come and go stands for captured memory, and
 * the program's calls go to eg_signals_call as the gate hands them over. */
#ifndef GATE_HANDLERS_H
#define GATE_HANDLERS_H

#include "client/gate/eg_signals.h"
#include "client/pager/eg_inline.h"
#include "tests/unit/unit_suite.h"

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE 4096u
#define PAGES 64u
#define BIT(sig) (1ull << ((sig) - 1))
#define ALL (~(BIT(SIGKILL) | BIT(SIGSTOP)))
#define NO_POINTER 0x10ul

/* --- far memory --- */
extern uint8_t *region;
extern volatile unsigned faults, pins;
void evict(const volatile void *from, unsigned pages);

/* --- the program --- */
long call6(long nr, long a, long b, long c, long d, long e, long g);
#define CALL(nr, a, b, c, d) call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

struct action {
    uint64_t handler, flags, restorer, mask;
};
void test_restorer(void);
struct action act_with(void *handler, unsigned flags, uint64_t mask);
void act(int s, void *handler, unsigned flags, uint64_t mask);
uint64_t mask_now(void);
uint64_t mask_kernel(void);
void mask_to(uint64_t m);
void send_self(int s);
uint8_t content(unsigned page);
void start(void);
uint8_t touch(unsigned page);
void write_to(unsigned page, uint8_t byte);
/* lost_page - a page of a file that has become shorter. */
uint8_t *lost_page(int *ret_fd);
/* ending - how a child ends that does fn. Returns: its wait status. */
int ending(void (*fn)(void));
void check_killed(void (*fn)(void), int s);

/* --- what handlers saw --- */
extern struct seen {
    volatile int n, sig, code, value, depth, deepest;
    void *volatile addr;
    volatile uint64_t mask, sp, frame;
    volatile unsigned mxcsr;
    volatile pid_t pid;
} seen;
extern sigjmp_buf out;
void note(int s, siginfo_t *info, void *ctx);
void note_mask(int s, siginfo_t *info, void *ctx);
void note_and_leave(int s, siginfo_t *info, void *ctx);
/* again - sends it again, to four in all. */
void again(int s, siginfo_t *info, void *ctx);

#endif
