/* cli_hints.c - the format of hints files (described in endgame(1)) to the rules that the runtime applies. */
#include "cli_hints.h"
#include "cli.h"
#include "cli_symbol.h"
#include "proto/eg_addr.h"
#include "proto/eg_wire.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LINE_BYTES 1024
#define CONDITIONS "size, nth, site, program, thread"
#define ARROW "->"

const char *const cli_hint_kinds[EG_HINT_N_KINDS] = {
#define EG_X(name, text) text,
    EG_HINT_KINDS(EG_X)
#undef EG_X
};

struct reader {
    const char *name;
    unsigned line;
    const struct cli_hints_for *about;
    char *at; /* rest of the line */
    char *why;
    size_t why_bytes;
};

static int wrong(struct reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int wrong(struct reader *r, const char *format, ...)
{
    va_list args;
    int n = snprintf(r->why, r->why_bytes, "%s:%u: ", r->name, r->line);
    va_start(args, format);
    if (n >= 0 && (size_t)n < r->why_bytes)
        vsnprintf(r->why + n, r->why_bytes - (size_t)n, format, args);
    va_end(args);
    return -EINVAL;
}

/* The next word, its quotes taken off, in place. *ret_word: NULL at the end of the line. */
static int next_word(struct reader *r, char **ret_word)
{
    r->at += strspn(r->at, " \t\r\n");
    if (!*r->at || *r->at == '#') {
        *ret_word = NULL;
        return 0;
    }
    char *to = r->at;
    bool quoted = false;
    *ret_word = to;
    for (; *r->at && (quoted || !isspace((unsigned char)*r->at)); r->at++) {
        if (*r->at == '"')
            quoted = !quoted;
        else
            *to++ = *r->at;
    }
    if (quoted)
        return wrong(r, "a quotation mark is open at the end of the line: close it");
    r->at += *r->at != 0;
    *to = 0;
    return 0;
}

/* "A", "A..B", "A.." or "..B" */
static char *split(char *value)
{
    char *dots = strstr(value, "..");
    if (!dots)
        return value;
    *dots = 0;
    return dots + 2;
}

static int parse_size(struct reader *r, char *value, struct eg_hint_rule *rule)
{
    char *high = split(value);
    if (!*value && !*high)
        return wrong(r, "size needs a size, as size=64M, or a range, as size=64M..1G");
    if (*value && eg_size_parse(value, &rule->min_bytes))
        return wrong(r, "'%s' is not a size such as 64M or 1.5G", value);
    if (*high && eg_size_parse(high, &rule->max_bytes))
        return wrong(r, "'%s' is not a size such as 64M or 1.5G", high);
    if (high == value && rule->max_bytes < UINT64_MAX - EG_PAGE_BYTES)
        rule->min_bytes = rule->max_bytes = (rule->max_bytes + EG_PAGE_BYTES - 1) & ~(uint64_t)(EG_PAGE_BYTES - 1);
    if (rule->min_bytes > rule->max_bytes)
        return wrong(r, "no mapping has a size in %s..%s: write the smaller one first", value, high);
    return 0;
}

static bool number(const char *text, uint64_t *ret)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return *end == 0 && errno == 0;
}

static int parse_nth(struct reader *r, char *value, struct eg_hint_rule *rule)
{
    char *high = split(value);
    if (rule->kind == EG_HINT_HEAP)
        return wrong(r, "there is one heap: leave nth out");
    if ((*value || high == value) && (!number(value, &rule->first) || !rule->first))
        return wrong(r, "'%s' is not a number from 1 on, as in nth=2 or nth=2..4", value);
    if (high == value)
        rule->last = rule->first;
    else if (*high && (!number(high, &rule->last) || !rule->last))
        return wrong(r, "'%s' is not a number from 1 on, as in nth=2 or nth=2..4", high);
    if (rule->first > rule->last)
        return wrong(r, "nth=%s..%s is empty: write the smaller number first", value, high);
    return 0;
}

static int parse_symbol(struct reader *r, char *value, struct eg_hint_rule *rule)
{
    char *colon = strrchr(value, ':');
    const char *symbol = colon ? colon + 1 : value, *file = colon ? value : r->about->program;
    if (colon)
        *colon = 0;
    if (!*symbol || !file || !*file)
        return wrong(r, "site needs SYMBOL, FILE:SYMBOL or OBJECT+0xOFFSET");
    int error = cli_symbol_find(file, symbol, &rule->site, &rule->site_end);
    if (error == -ENOENT)
        return access(file, F_OK) != 0
                   ? wrong(r, "no file %s", file)
                   : wrong(r, "no function %s in %s (is it stripped?): say site=OBJECT+0xOFFSET, as 'endgame profile' does", symbol, file);
    if (error == -ENOEXEC)
        return wrong(r, "%s is not an ELF file with symbols (a script?): say site=FILE:%s", file, symbol);
    if (error)
        return wrong(r, "cannot read %s: %s", file, strerror(-error));
    char *real = realpath(file, NULL);
    const char *base = real ? strrchr(real, '/') + 1 : file;
    bool fits = strlen(base) < sizeof rule->object;
    if (fits)
        strcpy(rule->object, base);
    free(real);
    return fits ? 0 : wrong(r, "the name of %s is too long: at most %zu characters", file, sizeof rule->object - 1);
}

static int parse_site(struct reader *r, char *value, struct eg_hint_rule *rule)
{
    char *plus = strrchr(value, '+'), *end;
    if (rule->kind != EG_HINT_MMAP)
        return wrong(r, "only mmap has a call site: leave site out");
    if (!plus || strncmp(plus, "+0x", 3) != 0)
        return parse_symbol(r, value, rule);
    *plus = 0;
    errno = 0;
    rule->site = strtoull(plus + 3, &end, 16);
    rule->site_end = rule->site + 1;
    if (!isxdigit((unsigned char)plus[3]) || *end || errno || !rule->site_end)
        return wrong(r, "0x%s is not an offset in a file, as in site=prog+0x1a2b", plus + 3);
    if (!*value || strchr(value, '/'))
        return wrong(r, "name the object by its file's name without the folder, as in site=prog+0x1a2b");
    if (strlen(value) >= sizeof rule->object)
        return wrong(r, "the object's name is too long: at most %zu characters", sizeof rule->object - 1);
    strcpy(rule->object, value);
    return 0;
}

static int parse_comm(struct reader *r, const char *what, const char *value, char *ret_comm)
{
    if (!*value)
        return wrong(r, "%s needs a name, as ps shows it", what);
    if (strlen(value) >= EG_HINT_COMM_BYTES)
        return wrong(r, "the system knows no name of more than %d characters: write %s=%.15s", EG_HINT_COMM_BYTES - 1, what, value);
    strcpy(ret_comm, value);
    return 0;
}

static int parse_condition(struct reader *r, char *word, struct eg_hint_rule *rule, unsigned *seen)
{
    static const char *const names[] = {"size", "nth", "site", "program", "thread"};
    enum { SIZE, NTH, SITE, PROGRAM, THREAD, N };
    char *value = strchr(word, '=');
    unsigned which = 0;
    if (value)
        *value++ = 0;
    while (which < N && strcmp(word, names[which]) != 0)
        which++;
    if (which == N)
        return wrong(r, "unknown condition '%s' (" CONDITIONS "); the actions come after " ARROW, word);
    if (!value)
        return wrong(r, "%s needs a value: write %s=...", word, word);
    if (*seen & 1u << which)
        return wrong(r, "%s is said twice: keep one", word);
    *seen |= 1u << which;
    switch (which) {
    case SIZE: return parse_size(r, value, rule);
    case NTH: return parse_nth(r, value, rule);
    case SITE: return parse_site(r, value, rule);
    case PROGRAM: return parse_comm(r, word, value, rule->program);
    default: return parse_comm(r, word, value, rule->thread);
    }
}

static int parse_action(struct reader *r, const char *word, struct eg_hint_rule *rule)
{
    static const struct {
        const char *name;
        uint64_t flags, not_with;
    } actions[] = {
#define CLI_X(name, flags, not_with, text) {name, flags, not_with},
        CLI_HINT_ACTIONS(CLI_X)
#undef CLI_X
    };
    uint64_t server;
    if (strncmp(word, "server=", 7) == 0) {
        if (!number(word + 7, &server))
            return wrong(r, "'%s' is not the number of a memory server: 0 is the first --memserver", word + 7);
        if (server >= (uint64_t)r->about->n_servers)
            return wrong(r, "there is no memory server %" PRIu64 " in this run: the last one is %d", server, r->about->n_servers - 1);
        rule->flags = (rule->flags & ~(uint64_t)EG_RANGE_SERVER_BITS) | (server + 1) << 8;
        return 0;
    }
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(word, actions[i].name) != 0)
            continue;
        if (rule->flags & actions[i].not_with)
            return wrong(r, "%s contradicts what is before it: keep one", word);
        rule->flags |= actions[i].flags;
        return 0;
    }
    return wrong(r, "unknown action '%s' (random, sequential, evict-first, pin, server=N)", word);
}

/* word: the line's first. */
static int parse_rule(struct reader *r, char *word, struct eg_hint_rule *rule)
{
    unsigned seen = 0;
    int error;
    *rule = (struct eg_hint_rule){.line = r->line, .max_bytes = UINT64_MAX, .first = 1, .last = EG_HINT_LAST};
    while (rule->kind < EG_HINT_N_KINDS && strcmp(word, cli_hint_kinds[rule->kind]) != 0)
        rule->kind++;
    if (rule->kind == EG_HINT_N_KINDS)
        return wrong(r, "a rule begins with mmap, heap or data, not '%s'", word);
    for (;;) {
        if ((error = next_word(r, &word)))
            return error;
        if (!word)
            return wrong(r, "the rule says not what to do: write " ARROW " and random, sequential, evict-first, pin or server=N");
        if (strcmp(word, ARROW) == 0)
            break;
        if ((error = parse_condition(r, word, rule, &seen)))
            return error;
    }
    while (!(error = next_word(r, &word)) && word)
        if ((error = parse_action(r, word, rule)))
            return error;
    if (!error && !rule->flags)
        return wrong(r, "nothing comes after " ARROW ": write random, sequential, evict-first, pin or server=N");
    return error;
}

static int parse_head(struct reader *r, const char *word)
{
    uint64_t version;
    char *said = NULL;
    if (!word || strcmp(word, CLI_HINTS_FORMAT) != 0)
        return wrong(r, "not a hints file: its first line must be '" CLI_HINTS_FORMAT " %d'", CLI_HINTS_FORMAT_VERSION);
    int error = next_word(r, &said);
    if (error)
        return error;
    if (!said || !number(said, &version) || version != CLI_HINTS_FORMAT_VERSION)
        return wrong(r, "version '%s' of hints files is not known here, only %d: have 'endgame profile' write it anew", said ? said : "",
                     CLI_HINTS_FORMAT_VERSION);
    return 0;
}

int cli_hints_parse(FILE *from, const char *name, const struct cli_hints_for *about, struct cli_hints *ret_hints, char *ret_why, size_t why_bytes)
{
    struct reader r = {.name = name, .about = about, .why = ret_why, .why_bytes = why_bytes};
    char *line = NULL, *word;
    size_t room = 0;
    int error = 0;
    ret_hints->n_rules = 0;
    for (ssize_t len; !error && (len = getline(&line, &room, from)) >= 0;) {
        r.line++;
        r.at = line;
        if (len >= LINE_BYTES || memchr(line, 0, (size_t)len))
            error = wrong(&r, "the line is no text, or longer than %d characters", LINE_BYTES - 1);
        else if (!(error = next_word(&r, &word)) && r.line == 1)
            error = parse_head(&r, word);
        else if (!error && word && ret_hints->n_rules == EG_HINT_RULES)
            error = wrong(&r, "more than %d rules: leave the least important out", EG_HINT_RULES);
        else if (!error && word && !(error = parse_rule(&r, word, &ret_hints->rules[ret_hints->n_rules])))
            ret_hints->n_rules++;
    }
    bool empty = r.line == 0;
    r.line += empty;
    if (!error && ferror(from))
        error = wrong(&r, "cannot be read: %s", strerror(errno));
    else if (!error && empty)
        error = parse_head(&r, NULL);
    free(line);
    return error;
}

int cli_hints_read(const char *path, const struct cli_hints_for *about, struct cli_hints *ret_hints)
{
    char why[768];
    FILE *file = fopen(path, "re");
    if (!file)
        return cli_fail(CLI_EXIT_USAGE, "cannot read hints from %s: %s", path, strerror(errno));
    int error = cli_hints_parse(file, path, about, ret_hints, why, sizeof why);
    fclose(file);
    return error ? cli_fail(CLI_EXIT_USAGE, "%s", why) : 0;
}

int cli_hints_publish(const struct cli_hints *hints, bool profile, const struct cli_pool *pool, struct eg_hints_file **ret_file)
{
    char path[sizeof pool->dir + sizeof "/" EG_HINTS_FILE];
    struct eg_hints_file *file = MAP_FAILED;
    snprintf(path, sizeof path, "%s/" EG_HINTS_FILE, pool->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    /* Without a profile nobody looks at the table. */
    int error = fd < 0 ? errno : ftruncate(fd, sizeof *file) != 0 ? errno : posix_fallocate(fd, 0, profile ? sizeof *file : offsetof(struct eg_hints_file, entries));
    if (!error && (file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
        error = errno;
    if (fd >= 0)
        close(fd);
    if (error)
        return cli_fail(CLI_EXIT_FAILED, "cannot make %s: %s", path, strerror(error));
    file->version = EG_HINTS_VERSION;
    file->n_rules = hints->n_rules;
    file->profile = profile;
    memcpy(file->rules, hints->rules, sizeof file->rules);
    file->magic = EG_HINTS_MAGIC;
    pool->map->hints = 1;
    *ret_file = file;
    if (!profile) {
        munmap(file, sizeof *file);
        *ret_file = NULL;
    }
    return 0;
}
