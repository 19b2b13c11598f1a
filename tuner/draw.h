/* draw: workloads drawn by a seed, to test a table on what it was not tuned on (docs/tuning.md). */
#ifndef MOET_DRAW_H
#define MOET_DRAW_H

#include "parse.h"
#include "workload.h"

#define MOET_DRAW_MAX_COUNT 10000

typedef struct moet_draw_options {
    moet_text_list models; /* none: every one of the models file */
    moet_int_list ep;      /* those of these that divide a model's experts */
    moet_text_list skews;
    int64_t min_rows, max_rows; /* 1 <= min <= max <= MOET_MAX_ROWS */
    int64_t count;              /* 1 to MOET_DRAW_MAX_COUNT */
    uint64_t seed;              /* above 0 */
} moet_draw_options;

/* Makes a list of `count` workloads, those of a shape together, to be released. Rows are log-uniform between the bounds
 * and no powers of two, which sweeps take. Models and skews are dealt from shuffled decks, so that each comes up as
 * often as the others, within one; the EP size is any of the model's. The same options give the same workloads on every
 * machine. INVALID names a model or EP size that does not fit, and rows that are powers of two all. */
moet_status moet_workloads_draw(const moet_draw_options *options, moet_workloads *list);

#endif
