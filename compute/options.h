/* options.h - the command line of endgame-compute, one row per option: name, argument, default, meaning. */
#ifndef EGC_OPTIONS_H
#define EGC_OPTIONS_H

/* X(identifier, letter, "name", "ARGUMENT" or "", "what it does") */
#define EGC_OPTIONS(X)                                                                                                 \
    X(LISTEN, 'l', "listen", "ADDR",                                                                                   \
      "serve on ADDR: tcp:HOST:PORT or unix:PATH; port 0: any free one; may be repeated")                              \
    X(SLOTS, 'n', "slots", "N", "threads to run at once, 1 to 4096; more share them; default: the processors")         \
    X(MEMORY, 'm', "memory", "SIZE",                                                                                   \
      "most that one process's worker may use, such as 4G; needs a memory cgroup to write to; default: no limit")      \
    X(END_WITH, 0, "end-with", "FD", "end when descriptor FD reads end of file and no program is left")                \
    X(HELP, 'h', "help", "", "show this and end")                                                                      \
    X(VERSION, 'V', "version", "", "show the version and end")

#endif
