/* eg_daemon.c - command lines, start and end of the daemons. */
#include "proto/eg_daemon.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define OPTIONS_MAX 16

void eg_daemon_usage(const char *format, ...)
{
    va_list ap;
    fprintf(stderr, "%s: ", eg_daemon_name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputs(" (see --help)\n", stderr);
    exit(2);
}

void eg_daemon_fatal(const char *format, ...)
{
    va_list ap;
    fprintf(stderr, "%s: ", eg_daemon_name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

/* --- the command line ---------------------------------------------------------------------------------------------------- */

static void show_help(const struct eg_daemon_help *help)
{
    puts(help->head);
    for (size_t i = 0; i < help->n_options; i++) {
        const struct eg_daemon_option *option = &help->options[i];
        char left[40], letter[8] = "    ";
        if (option->letter) snprintf(letter, sizeof letter, "-%c, ", option->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, option->name, *option->argument ? " " : "", option->argument);
        printf("  %-*s %s\n", help->width, left, option->text);
    }
    puts(help->tail);
}

void eg_daemon_parse(int argc, char **argv, const struct eg_daemon_help *help,
                     void (*own)(void *arg, char letter, const char *value), void *arg, struct eg_daemon_args *ret_args)
{
    struct option options[OPTIONS_MAX] = { { 0 } };
    const char *texts[EG_DAEMON_LISTEN_MAX];
    char letters[2 * OPTIONS_MAX + 2] = ":", why[256];
    size_t n = 1;
    int letter, at = 1;

    for (size_t i = 0; i < help->n_options && i < OPTIONS_MAX - 1; i++) {
        const struct eg_daemon_option *option = &help->options[i];
        options[i] = (struct option){ option->name, *option->argument ? required_argument : no_argument, NULL, option->letter };
        if (!option->letter) continue;
        letters[n++] = option->letter;
        if (*option->argument) letters[n++] = ':';
    }
    *ret_args = (struct eg_daemon_args){ .end_with = -1 };
    opterr = 0;
    while ((letter = getopt_long(argc, argv, letters, options, NULL)) != -1) {
        switch (letter) {
        case 'l':
            if (ret_args->n_listen == EG_DAEMON_LISTEN_MAX)
                eg_daemon_usage("--listen: at most %d addresses", EG_DAEMON_LISTEN_MAX);
            texts[ret_args->n_listen++] = optarg;
            break;
        case 0:
            ret_args->end_with = eg_daemon_number("end-with", optarg, 0, 1 << 30);
            if (fcntl(ret_args->end_with, F_SETFD, FD_CLOEXEC) < 0)
                eg_daemon_usage("--end-with %s: that descriptor is not open", optarg);
            break;
        case 'h':
            show_help(help);
            exit(0);
        case 'V':
            printf("%s " EG_VERSION "\n", eg_daemon_name);
            exit(0);
        case ':':
            eg_daemon_usage("%s: an argument is missing", argv[at]);
        case '?':
            eg_daemon_usage("%s: unknown option", argv[at]);
        default:
            own(arg, (char)letter, optarg);
        }
        at = optind;
    }
    if (optind < argc) eg_daemon_usage("%s: not an option", argv[optind]);
    if (!ret_args->n_listen) eg_daemon_usage("no --listen ADDR");
    for (unsigned i = 0; i < ret_args->n_listen; i++) {
        int error = eg_addr_parse(texts[i], 1, &ret_args->listen[i], why, sizeof why);
        if (error == -ENOENT) eg_daemon_fatal("%s", why);
        if (error) eg_daemon_usage("--listen %s", why);
    }
}

int eg_daemon_number(const char *option, const char *text, long least, long most)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno || end == text || *end || n < least || n > most)
        eg_daemon_usage("--%s %s: not a number from %ld to %ld", option, text, least, most);
    return (int)n;
}

uint64_t eg_daemon_size(const char *option, const char *text, const struct eg_daemon_sizes *sizes)
{
    uint64_t bytes = 0;
    int r = eg_size_parse(text, &bytes);
    if (r == -ERANGE || (!r && bytes > sizes->most_bytes))
        eg_daemon_usage("--%s %s: too large, at most %s", option, text, sizes->most);
    if (r) eg_daemon_usage("--%s %s: not a size, write for example %s", option, text, sizes->example);
    if (bytes < sizes->least_bytes) eg_daemon_usage("--%s %s: too small, at least %s", option, text, sizes->least);
    return bytes;
}

/* --- start and end ------------------------------------------------------------------------------------------------------- */

static const struct {
    int number;
    const char *name;
} ends[] = { { SIGTERM, "SIGTERM" }, { SIGINT, "SIGINT" } };
#define N_ENDS (sizeof ends / sizeof *ends)

struct run {
    struct event_base *base;
    const struct eg_daemon_calls *calls;
    void *arg;
    const char *ended_by;
    struct event *signals[N_ENDS], *end_with;
};

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct run *run = arg;
    (void)what;
    for (size_t i = 0; i < N_ENDS; i++)
        if (ends[i].number == number) run->ended_by = ends[i].name;
    event_base_loopbreak(run->base);
}

static void on_end_with(evutil_socket_t fd, short what, void *arg)
{
    struct run *run = arg;
    char sink[256];
    (void)what;
    ssize_t n = read(fd, sink, sizeof sink);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) return;
    event_del(run->end_with);
    run->calls->leave(run->arg);
}

/* Its warnings repeat what comes back as an error. */
static void on_event_log(int severity, const char *text)
{
    if (severity >= EVENT_LOG_ERR) fprintf(stderr, "%s: event loop: %s\n", eg_daemon_name, text);
}

void eg_daemon_init(void)
{
    event_set_log_callback(on_event_log);
    signal(SIGPIPE, SIG_IGN);
}

static int start(struct run *run, const struct eg_daemon_args *args, char *ret_why, size_t why_bytes)
{
    char ready[EG_DAEMON_LISTEN_MAX][160];

    for (size_t i = 0; i < N_ENDS; i++) {
        run->signals[i] = evsignal_new(run->base, ends[i].number, on_signal, run);
        if (!run->signals[i] || event_add(run->signals[i], NULL)) {
            snprintf(ret_why, why_bytes, "cannot start: out of memory");
            return -ENOMEM;
        }
    }
    for (unsigned i = 0; i < args->n_listen; i++) {
        int r = run->calls->listen(run->arg, &args->listen[i], ready[i], sizeof ready[i], ret_why, why_bytes);
        if (r) return r;
    }
    if (args->end_with >= 0) {
        (void)fcntl(args->end_with, F_SETFL, fcntl(args->end_with, F_GETFL) | O_NONBLOCK);
        run->end_with = event_new(run->base, args->end_with, EV_READ | EV_PERSIST, on_end_with, run);
        if (!run->end_with || event_add(run->end_with, NULL)) {
            snprintf(ret_why, why_bytes, "--end-with %d: give the reading end of a pipe or a socket", args->end_with);
            return -EINVAL;
        }
    }
    for (unsigned i = 0; i < args->n_listen; i++) printf("%s ready %s\n", eg_daemon_name, ready[i]);
    fflush(stdout);
    return 0;
}

int eg_daemon_run(const struct eg_daemon_args *args, struct event_base *base, const struct eg_daemon_calls *calls, void *arg,
                  const char **ret_ended_by, char *ret_why, size_t why_bytes)
{
    struct run run = { .base = base, .calls = calls, .arg = arg };
    int r = start(&run, args, ret_why, why_bytes);
    if (!r) {
        event_base_dispatch(base);
        *ret_ended_by = run.ended_by;
    }
    for (size_t i = 0; i < N_ENDS; i++)
        if (run.signals[i]) event_free(run.signals[i]);
    if (run.end_with) event_free(run.end_with);
    return r;
}
