/* parse: the command line's small languages: numbers, lists and ranges, times, shards, names of ops and layouts.
 * Errors are INVALID and name `what` (an option, "--rows") with the accepted forms. */
#ifndef MOET_PARSE_H
#define MOET_PARSE_H

#include "../src/moet.h"

/* Decimal digits only, min <= value <= max. */
moet_status moet_parse_integer(const char *text, const char *what, int64_t min, int64_t max, int64_t *value);
/* Plain decimal, "0.95" or "12": no sign, no exponent. */
moet_status moet_parse_decimal(const char *text, const char *what, double min, double max, double *value);

/* "512,2048", "1..64x2" (1, 2, 4, ... 64: multiplied), "1024..8192+1024" (added); items may be mixed: "1,8..64x2".
 * A range ends at the last value that is not beyond its end. Repeated values count once, the order stays. */
#define MOET_PARSE_LIST_FORMS "a list such as 512,2048, a range such as 1024..8192x2 (multiplied) or 1024..8192+1024"
#define MOET_PARSE_MAX_VALUES 4096
typedef struct moet_int_list {
    int32_t count;
    int64_t *values;
} moet_int_list;
moet_status moet_parse_list(const char *text, const char *what, int64_t min, int64_t max, moet_int_list *list);
void moet_int_list_release(moet_int_list *list);

/* "nk,kn" split at commas; empty items are errors. */
typedef struct moet_text_list {
    int32_t count;
    char **texts; /* point into one allocation, texts[0] */
} moet_text_list;
moet_status moet_parse_texts(const char *text, const char *what, moet_text_list *list);
void moet_text_list_release(moet_text_list *list);

/* "90s", "5m", "2h", "1.5h", and plain seconds; above 0, and at most a year: multiples of it in ns are numbers too. */
#define MOET_PARSE_MAX_SECONDS (366 * 24 * 3600)
moet_status moet_parse_time(const char *text, const char *what, int64_t *time_ns);

/* "2/4": the second of four shards. */
typedef struct moet_shard {
    int32_t index; /* 1 to count */
    int32_t count;
} moet_shard;
moet_status moet_parse_shard(const char *text, const char *what, moet_shard *shard);

/* "yes" or "no". */
moet_status moet_parse_yes(const char *text, const char *what, bool *yes);
/* Which GEMMs have a bias: "yes" both, "no" none, "up", "down"; NULL (an option without its value) is both. */
moet_status moet_parse_bias(const char *text, const char *what, bool *up, bool *down);

/* Names of the problem's choices, as in its key text. */
const char *moet_op_text(moet_op op);
const char *moet_layout_text(moet_layout layout);
const char *moet_numerics_text(moet_numerics numerics);
moet_status moet_parse_numerics(const char *text, const char *what, moet_numerics *numerics);
moet_status moet_parse_activation(const char *text, const char *what, moet_activation *activation);
moet_status moet_parse_prob(const char *text, const char *what, moet_prob *prob);
moet_status moet_parse_combine(const char *text, const char *what, moet_combine *combine);

/* Lists of them, without repeats, in the order given. */
typedef struct moet_op_list {
    int32_t count;
    moet_op ops[MOET_OP_COUNT];
} moet_op_list;
moet_status moet_parse_ops(const char *text, const char *what, moet_op_list *list);
typedef struct moet_layout_list {
    int32_t count;
    moet_layout layouts[MOET_LAYOUT_COUNT];
} moet_layout_list;
moet_status moet_parse_layouts(const char *text, const char *what, moet_layout_list *list);

/* Edit distance (Levenshtein) of two words, for "did you mean"; INT32_MAX for long ones. */
int32_t moet_text_distance(const char *a, const char *b);

#endif
