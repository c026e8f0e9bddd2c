/* cli_texts.h - what earlier runs found out about texts. */
#ifndef CLI_TEXTS_H
#define CLI_TEXTS_H

#include "cli_pool.h"

/* cli_texts_recall - the user's file of texts ($XDG_CACHE_HOME/endgame/texts, else ~/.cache) into the pool, which also learns its name, to write what is new.
 * A file that is not this user's alone, damaged, or another library's is as none; without a home there is none.
 * Context: hosted, before the program starts. Pre: pool->library. */
void cli_texts_recall(struct cli_pool *pool);

#endif
