/* cli_json.c - JSON strings. */
#include "cli.h"

#include <string.h>

/* Length of the valid UTF-8 sequence at p (of at most left bytes), or 0. */
static size_t utf8_len(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t len = p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    if (len == 0 || len > left)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

void cli_json_string(FILE *to, const char *text, size_t max_bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = strnlen(text, max_bytes);
    fputc('"', to);
    while (left > 0) {
        size_t len = utf8_len(p, left);
        if (len == 0) {
            fputs("\\ufffd", to);
            len = 1;
        } else if (*p == '"' || *p == '\\') {
            fprintf(to, "\\%c", *p);
        } else if (*p < 0x20 || *p == 0x7f) {
            fprintf(to, "\\u%04x", *p);
        } else {
            fwrite(p, 1, len, to);
        }
        p += len;
        left -= len;
    }
    fputc('"', to);
}
