/* words.h - a recorded trace (record.c), as it is read: a word for each touch, and the pages that they name, in order. */
#ifndef WORDS_H
#define WORDS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct words {
    uint64_t *word, *page;
    size_t n, n_pages;
};

static int words_by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* memory: for n times so many bytes, or NULL. Returns: 0; 2: there is no such file; 1: no touch in it, or no memory. */
static int words_read(struct words *ret, const char *path, void *(*memory)(size_t n, size_t bytes))
{
    FILE *f = fopen(path, "rb");
    *ret = (struct words){NULL, NULL, 0, 0};
    if (!f || fseek(f, 0, SEEK_END))
        return 2;
    ret->n = (size_t)ftell(f) / 8;
    rewind(f);
    ret->word = memory(ret->n, 8);
    ret->page = memory(ret->n, 8);
    if (!ret->n || !ret->word || !ret->page || fread(ret->word, 8, ret->n, f) != ret->n)
        return 1;
    fclose(f);
    for (size_t i = 0; i < ret->n; i++)
        ret->page[i] = ret->word[i] >> 1;
    qsort(ret->page, ret->n, 8, words_by_value);
    for (size_t i = 0; i < ret->n; i++)
        if (!ret->n_pages || ret->page[ret->n_pages - 1] != ret->page[i])
            ret->page[ret->n_pages++] = ret->page[i];
    return 0;
}

/* Which of the pages touch i is of: its place in the order. */
static size_t words_page(const struct words *w, size_t i)
{
    uint64_t page = w->word[i] >> 1, *at = bsearch(&page, w->page, w->n_pages, 8, words_by_value);
    return (size_t)(at - w->page);
}

#endif
