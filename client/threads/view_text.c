/* view_text.c - the files that tell of processors, as text: sets of numbers, blocks of /proc/cpuinfo, lines of /proc/stat. Pure. */
#include "client/threads/eg_view.h"

#include "proto/eg_sys.h"

#include <errno.h>

#define STAT_IDLE 3  /* fields of a line, after its name */
#define STAT_GUEST 8 /* from here on they are part of others */

static int digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t number_get(const char *text, size_t at, size_t bytes, uint64_t *ret_value)
{
    uint64_t v = 0;
    for (; at < bytes && digit(text[at]); at++)
        v = v > UINT64_MAX / 16 ? v : v * 10 + (uint64_t)(text[at] - '0');
    *ret_value = v;
    return at;
}

/* --- sets ----------------------------------------------------------------------------------------------------------------------- */

void eg_view_bits(uint64_t *bits, uint32_t first, uint32_t end, int on)
{
    for (uint32_t i = first; i < end; i++) {
        if (on)
            bits[i / 64] |= 1ull << i % 64;
        else
            bits[i / 64] &= ~(1ull << i % 64);
    }
}

int eg_view_list_parse(const char *text, size_t bytes, uint64_t bits[EG_VIEW_LIST_CPUS / 64])
{
    memset(bits, 0, EG_VIEW_LIST_CPUS / 8);
    if (bytes && text[bytes - 1] == '\n')
        bytes--;
    for (size_t at = 0; at < bytes; at++) {
        uint64_t first, last;
        if (!digit(text[at]))
            return -EINVAL;
        at = number_get(text, at, bytes, &first);
        last = first;
        if (at < bytes && text[at] == '-') {
            if (at + 1 == bytes || !digit(text[at + 1]))
                return -EINVAL;
            at = number_get(text, at + 1, bytes, &last);
        }
        if (last < first || (at < bytes && (text[at] != ',' || at + 1 == bytes)))
            return -EINVAL;
        if (last >= EG_VIEW_LIST_CPUS)
            return -ERANGE;
        eg_view_bits(bits, (uint32_t)first, (uint32_t)last + 1, 1);
    }
    return 0;
}

size_t eg_view_list_put(const uint64_t bits[EG_VIEW_LIST_CPUS / 64], char *buf, size_t cap)
{
    size_t n = 0;
    for (uint32_t i = 0; i < EG_VIEW_LIST_CPUS; i++) {
        if (!(bits[i / 64] >> i % 64 & 1))
            continue;
        uint32_t first = i;
        while (i + 1 < EG_VIEW_LIST_CPUS && bits[(i + 1) / 64] >> (i + 1) % 64 & 1)
            i++;
        n = n ? eg_str_put(buf, cap, n, ",") : n;
        n = eg_str_put_u64(buf, cap, n, first);
        if (i > first)
            n = eg_str_put_u64(buf, cap, eg_str_put(buf, cap, n, "-"), i);
    }
    n = eg_str_put(buf, cap, n, "\n");
    return n + 1 < cap ? n : 0;
}

/* --- /proc/cpuinfo -------------------------------------------------------------------------------------------------------------- */

static size_t line_end(const char *text, size_t at, size_t bytes)
{
    while (at < bytes && text[at] != '\n')
        at++;
    return at;
}

/* Where the line's value begins; 0: the line has another key. */
static size_t value_of(const char *text, size_t at, size_t end, const char *key)
{
    size_t n = eg_strlen(key);
    if (end - at < n || memcmp(text + at, key, n) != 0)
        return 0;
    for (at += n; at < end && (text[at] == '\t' || text[at] == ' '); at++)
        ;
    if (at == end || text[at] != ':')
        return 0;
    for (at++; at < end && text[at] == ' '; at++)
        ;
    return at;
}

int eg_view_cpuinfo_value(const char *block, size_t bytes, const char *key, uint64_t *ret_value)
{
    for (size_t at = 0, end; at < bytes; at = end + 1) {
        end = line_end(block, at, bytes);
        size_t value = value_of(block, at, end, key);
        if (value && value < end && digit(block[value])) {
            number_get(block, value, end, ret_value);
            return 1;
        }
    }
    return 0;
}

static size_t bytes_put(char *buf, size_t cap, size_t n, const char *from, size_t bytes)
{
    if (bytes > cap - 1 - n)
        bytes = cap - 1 - n; /* as eg_str_put */
    memcpy(buf + n, from, bytes);
    return n + bytes;
}

size_t eg_view_cpuinfo_put(const char *block, size_t bytes, const struct eg_view_cpu *cpu, char *buf, size_t cap)
{
    const struct {
        const char *key;
        uint64_t value;
    } numbers[] = {
        {"processor", cpu->number}, {"physical id", cpu->package}, {"siblings", cpu->cores},       {"core id", cpu->core},
        {"cpu cores", cpu->cores},  {"apicid", cpu->apicid},       {"initial apicid", cpu->apicid},
    };
    size_t n = 0;
    for (size_t at = 0, end; at < bytes; at = end + 1) {
        size_t value = 0;
        end = line_end(block, at, bytes);
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers && !value; i++)
            if ((value = value_of(block, at, end, numbers[i].key)) != 0) {
                n = bytes_put(buf, cap, n, block + at, value - at);
                n = eg_str_put_u64(buf, cap, n, numbers[i].value);
            }
        if (!value)
            n = bytes_put(buf, cap, n, block + at, end - at);
        n = bytes_put(buf, cap, n, "\n", 1);
    }
    return n + 1 < cap ? n : 0;
}

/* --- /proc/stat ----------------------------------------------------------------------------------------------------------------- */

/* The next field's number; its text is [*at, *ret_end). */
static int field(const char *line, size_t bytes, size_t *at, size_t *ret_end, uint64_t *ret_value)
{
    while (*at < bytes && line[*at] == ' ')
        ++*at;
    if (*at == bytes || !digit(line[*at]))
        return 0;
    *ret_end = number_get(line, *at, bytes, ret_value);
    return 1;
}

static size_t name_end(const char *line, size_t bytes)
{
    size_t at = 0;
    while (at < bytes && line[at] != ' ')
        at++;
    return at;
}

uint64_t eg_view_stat_ticks(const char *line, size_t bytes)
{
    uint64_t sum = 0, value;
    size_t at = name_end(line, bytes), end;
    for (int i = 0; i < STAT_GUEST && field(line, bytes, &at, &end, &value); i++, at = end)
        sum += value;
    return sum;
}

size_t eg_view_stat_sum(const char *line, size_t bytes, uint64_t idle, char *buf, size_t cap)
{
    uint64_t value;
    size_t at = name_end(line, bytes), end = at;
    for (int i = 0; i <= STAT_IDLE; i++) {
        at = end;
        if (!field(line, bytes, &at, &end, &value))
            return 0;
    }
    size_t n = bytes_put(buf, cap, 0, line, at);
    n = eg_str_put_u64(buf, cap, n, value + idle);
    n = bytes_put(buf, cap, n, line + end, bytes - end);
    return n + 1 < cap ? n : 0;
}

size_t eg_view_stat_put(uint64_t number, uint64_t idle, char *buf, size_t cap)
{
    size_t n = eg_str_put_u64(buf, cap, eg_str_put(buf, cap, 0, "cpu"), number);
    n = eg_str_put_u64(buf, cap, eg_str_put(buf, cap, n, " 0 0 0 "), idle);
    n = eg_str_put(buf, cap, n, " 0 0 0 0 0 0\n");
    return n + 1 < cap ? n : 0;
}
