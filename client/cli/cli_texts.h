/* cli_texts.h - what earlier runs found out about texts. */
#ifndef CLI_TEXTS_H
#define CLI_TEXTS_H

#include "cli_pool.h"

/* cli_texts_recall - the user's file of texts ($XDG_CACHE_HOME/endgame/texts, else ~/.cache) into the pool. A file that is not this user's alone, or lies where others
 * can write, one that is damaged, or another library's is as none; without a home there is none.
 * Context: hosted, before the program starts. Pre: pool->library. ret_path: where the run's first process is to write what it finds out; empty: nowhere. */
void cli_texts_recall(struct cli_pool *pool, char *ret_path, size_t path_bytes);

#endif
