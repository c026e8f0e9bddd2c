/* options.h - the command line of endgame-memserver, one row per option: name, argument, default, meaning. */
#ifndef EGM_OPTIONS_H
#define EGM_OPTIONS_H

/* X(identifier, letter, "name", "ARGUMENT" or "", "what it does") */
#define EGM_OPTIONS(X)                                                                                                 \
    X(LISTEN, 'l', "listen", "ADDR",                                                                                   \
      "serve on ADDR: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH; port 0: any free one; may be repeated")              \
    X(CAPACITY, 'c', "capacity", "SIZE", "memory to lend, such as 64G; default: what is free now, less a tenth")       \
    X(QUOTA, 'q', "quota", "SIZE", "most that one program run may hold or be promised; default: no limit")             \
    X(DATA_THREADS, 't', "data-threads", "N", "threads that serve tcp reads and writes, 1 to 64; default: 1")          \
    X(END_WITH, 0, "end-with", "FD", "end when descriptor FD reads end of file and no program is left")                \
    X(HELP, 'h', "help", "", "show this and end")                                                                      \
    X(VERSION, 'V', "version", "", "show the version and end")

#endif
