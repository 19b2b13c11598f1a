/* plan: what handles and plans hold, for plan.c and ffn.c. */
#ifndef MOET_PLAN_H
#define MOET_PLAN_H

#include <pthread.h>
#include <stdatomic.h>

#include "family.h"
#include "nvtx.h"
#include "table.h"

typedef struct moet_recorder moet_recorder;
typedef struct moet_lookup moet_lookup;

/* Answers counted. One thread at a time adds, any reads. */
typedef enum moet_answer {
    MOET_ANSWER_EXACT,
    MOET_ANSWER_NEAREST,
    MOET_ANSWER_DEFAULT,
    MOET_ANSWER_REFUSED,
    MOET_ANSWER_COUNT
} moet_answer;
typedef struct moet_tally {
    _Atomic int64_t answers[MOET_ANSWER_COUNT];
} moet_tally;

struct moet_handle {
    moet_device *device;
    moet_table *table;  /* NULL: none */
    char *table_dir;    /* NULL: none */
    int32_t late_count; /* refused when a plan prepared them */
    char **late;
    atomic_bool is_recording;     /* recorder is not NULL; read by every launch */
    pthread_mutex_t record_mutex; /* guards recorder and what it holds */
    moet_recorder *recorder;      /* NULL: nothing is recorded */
    moet_tally tally;             /* of all its plans, those that are gone too */
    const struct moet_counts_table *counts_table; /* NULL: no moet_plan_summarize yet */
    struct moet_counts *counts;
};

/* A configuration with its state, shared by the points that chose it. */
typedef struct moet_prepared {
    moet_config config;
    void *state; /* NULL: preparation failed and nothing may choose it */
    const moet_nvtx_text *text; /* the config's, for its launches' ranges */
} moet_prepared;

/* What a launch runs. */
typedef struct moet_decision {
    const moet_prepared *prepared;
    const moet_table_point *point; /* the nearest; NULL: default */
    int64_t tuned_ns;              /* of what is run, at the point; 0: not measured there, or default */
    moet_hit hit;
    double distance;
    bool is_refused; /* default, because what the table has near was refused */
} moet_decision;

struct moet_plan {
    moet_handle *handle;
    moet_problem problem;
    moet_plan_options options;
    moet_table_kind kind;
    const moet_table_problem *tuned; /* NULL: the table has nothing for this problem */
    int32_t *point_prepared;         /* [tuned->point_count]: index into prepared, -1 none */
    bool is_foreign;                 /* it has it, but for other devices */
    moet_lookup *lookup;             /* NULL: not tuned */
    moet_tally tally;
    int32_t prepared_count;
    moet_prepared *prepared;
    int32_t fallback; /* index of the default */
    void *workspace;
    size_t workspace_bytes;
    moet_decision expected; /* with device counts: of every launch */
};

/* What to run for these host counts; with device counts they are not looked at, and routing has max_rows rows. INVALID
 * for counts that are NULL, negative or sum to more than max_rows. */
moet_status moet_plan_decide(const moet_plan *plan, const int32_t *counts, moet_routing *routing, moet_decision *d);

/* With device counts: chooses what launches run from now on. rows: 1 to max_rows. */
void moet_plan_choose(moet_plan *plan, int64_t rows, double max_over_mean);

/* Whether a plan of the handle may be made, or launched, in this process. */
static inline moet_status moet_handle_enter(const moet_handle *handle)
{
    const moet_backend *backend = handle->device->backend;
    return backend->enter ? backend->enter(handle->device) : MOET_OK;
}

/* Counts a launch's decision. */
void moet_plan_count(moet_plan *plan, const moet_decision *d);

/* What the table says between its points (plan_lookup.c). Made once everything is prepared. It has scratch memory of
 * its own: one thread at a time. */
moet_status moet_lookup_create(const moet_plan *plan, moet_lookup **lookup);
void moet_lookup_destroy(moet_lookup *lookup);
/* routing->rows > 0. counts NULL: they are on the device, and routing is what is expected. */
moet_decision moet_lookup_decide(const moet_lookup *lookup, const int32_t *counts, const moet_routing *routing);

/* moet_ffn without its combine: args->out is not looked at. For expert parallelism. */
moet_status moet_ffn_rows_run(moet_plan *plan, const moet_ffn_args *args, const moet_ffn_rows *rows);

#endif
