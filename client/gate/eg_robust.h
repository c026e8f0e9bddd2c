/* eg_robust.h - the robust mutexes that a thread ends with (Documentation/locking/robust-futexes), for whoever stands in for the kernel. Freestanding. */
#ifndef EG_ROBUST_H
#define EG_ROBUST_H

#include <linux/futex.h>
#include <stdint.h>

#define EG_ROBUST_BYTES sizeof(struct robust_list_head)
#define EG_ROBUST_PI 1ul /* of an entry: its mutex has priority inheritance */

/* eg_robust_read_fn - eight bytes of the program's memory, at any address. Returns: 0, -EFAULT. */
typedef long eg_robust_read_fn(uint64_t addr, uint64_t *ret_word);
/* eg_robust_copied - by the kernel: where a thread serves the faults, it serves the kernel's, too. */
long eg_robust_copied(uint64_t addr, uint64_t *ret_word);

struct eg_robust {
    eg_robust_read_fn *read;
    uint64_t head, entry, offset, pending;
    uint32_t tid;
};

/* eg_robust_open - the calling thread's list. Returns: 0, -EFAULT. */
int eg_robust_open(struct eg_robust *ret_list, uint64_t head, eg_robust_read_fn *read);
/* eg_robust_walk - its mutexes have a dead owner from now on, those with priority inheritance, too; with the pending one nothing
 * is done. Returns: 0, -EFAULT: an entry cannot be read. */
int eg_robust_walk(struct eg_robust *list);
/* eg_robust_pending - the same of the pending one. */
void eg_robust_pending(const struct eg_robust *list);

/* eg_robust_touch_fn - bytes that the kernel will look at when it follows a list. Returns: 1; 0: nothing can be there.
 * eg_robust_touch - touch is told of all of them, before they are looked at. */
typedef int eg_robust_touch_fn(uint64_t at, uint64_t bytes);
void eg_robust_touch(uint64_t head, eg_robust_touch_fn *touch);

#endif
