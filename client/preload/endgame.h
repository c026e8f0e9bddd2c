/* endgame.h - what a program may ask libendgame. Nothing here is needed: an unmodified program runs as well. */
#ifndef ENDGAME_H
#define ENDGAME_H

#ifdef __cplusplus
extern "C" {
#endif

/* endgame_active - is this process under `endgame run`, its memory captured?
 * Context: any thread, any time after the program's constructors began; never blocks.
 * Returns: 1 or 0 (not started under `endgame run`, or the runtime declined and said why on stderr). */
int endgame_active(void);

/* endgame_version - the library's version, such as "0.1.0".
 * Context: any. Owns: a static string. */
const char *endgame_version(void);

#ifdef __cplusplus
}
#endif

#endif
