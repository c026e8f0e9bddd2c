/* cli_child.h - the program as a child that cannot tell: signals handed on, stops followed, exit status passed through. */
#ifndef CLI_CHILD_H
#define CLI_CHILD_H

#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/types.h>

/* What the program must inherit although `endgame run` changes it for itself. */
struct cli_inherit {
    sigset_t mask;
    struct sigaction child_action;
    struct itimerval timers[3];
    struct rlimit file_size; /* ours, and what we start beside the program, have files of their own */
    int *fds; /* open descriptors, but standard error; malloc'ed */
    int n_fds;
};

/* cli_child_prepare - fill the gaps among descriptors 0 to 2 (close-on-exec) so that no file of ours takes their place.
 * First thing of a run, before it opens any file. */
void cli_child_prepare(struct cli_inherit *ret_inherit);
void cli_child_done(struct cli_inherit *inherit);

/* cli_child_block - from now on no signal interrupts; before the first process is started. */
void cli_child_block(struct cli_inherit *inherit);

/* cli_child_start - fork and execvp. The child dies with this process, however that ends. The inherited descriptors, standard
 * error excepted, are closed here: a pipe's reader must see the end when the program closes it.
 * Returns: pid, or minus an exit status after one line that says why; or minus (CLI_CHILD_SIGNALLED + number) if this
 * process was told to end before there was a program. */
#define CLI_CHILD_SIGNALLED 128
pid_t cli_child_start(struct cli_inherit *inherit, char **argv, const char *pool_path, const char *library, const char *texts)
    __attribute__((warn_unused_result));

/* cli_child_wait - hand signals on until the child has ended. Returns: its wait status. */
int cli_child_wait(pid_t child) __attribute__((warn_unused_result));

/* cli_child_end_like - end this process as the child did: same exit status or same signal, without a core of its own. */
_Noreturn void cli_child_end_like(int wait_status);

#endif
