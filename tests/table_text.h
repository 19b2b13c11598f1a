/* table_text: writes table.json texts by hand, apart from the tuner's emit, so that the reader is tested against
 * docs/table-format.md. */
#ifndef MOET_TABLE_TEXT_H
#define MOET_TABLE_TEXT_H

#include "../src/family.h"
#include "../src/moet.h"

typedef struct text_other {
    const char *config;
    int64_t time_ns;
} text_other;

/* A winner; NULL texts are JSON null. */
typedef struct text_winner {
    const char *config; /* NULL: no winner */
    int32_t version;
    const char *validator;
    struct {
        const char *sha256, *arch;
    } cubins[MOET_MAX_CUBINS + 1]; /* sha256 NULL: no more */
    bool device_counts;
    int64_t time_ns;
    int32_t other_count;
    const text_other *others; /* NULL: the member is left out */
} text_winner;

typedef struct text_point {
    const int32_t *counts; /* as many as the problem has experts */
    text_winner any, device_counts;
} text_point;

/* The winner for a config of this build, with the version and validator that a reader expects. */
text_winner text_winner_of(const moet_config *config, char config_text[MOET_CONFIG_SIZE], char validator[64],
                           int64_t time_ns);

/* A whole table, of the newest version, of one device and one problem, with its right hash; malloc'd. defaults may be
 * 0. */
char *text_table(const moet_device *device, const moet_problem *problem, const text_point *points, int32_t point_count,
                 const text_winner *defaults, int32_t default_count);

/* The same in another version of the format: 1 or 2. */
char *text_table_of_version(int32_t version, const moet_device *device, const moet_problem *problem,
                            const text_point *points, int32_t point_count, const text_winner *defaults,
                            int32_t default_count);

/* Puts the right hash into the text (64 characters behind the first "hash"), after a change elsewhere. */
void text_rehash(char *text);

/* Replaces the first `from` by `to`; malloc'd, the given text is freed. Fails the test where there is none. */
char *text_replace(char *text, const char *from, const char *to);

/* Writes text as folder/table.json. */
void text_write(const char *folder, const char *text);

#endif
