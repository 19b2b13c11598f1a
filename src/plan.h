/* plan: what handles and plans hold, for plan.c and ffn.c. */
#ifndef MOET_PLAN_H
#define MOET_PLAN_H

#include <pthread.h>
#include <stdatomic.h>

#include "family.h"
#include "nvtx.h"
#include "table.h"

typedef struct moet_recorder moet_recorder;

struct moet_handle {
    moet_device *device;
    moet_table *table;  /* NULL: none */
    char *table_dir;    /* NULL: none */
    int32_t late_count; /* refused when a plan prepared them */
    char **late;
    atomic_bool is_recording;     /* recorder is not NULL; read by every launch */
    pthread_mutex_t record_mutex; /* guards recorder and what it holds */
    moet_recorder *recorder;      /* NULL: nothing is recorded */
};

/* A configuration with its state, shared by the points that chose it. */
typedef struct moet_prepared {
    moet_config config;
    void *state; /* NULL: preparation failed and nothing may choose it */
    const moet_nvtx_text *text; /* the config's, for its launches' ranges */
} moet_prepared;

struct moet_plan {
    moet_handle *handle;
    moet_problem problem;
    moet_plan_options options;
    moet_table_kind kind;
    const moet_table_problem *tuned; /* NULL: the table has nothing for this problem */
    int32_t *point_prepared;         /* [tuned->point_count]: index into prepared, -1 none */
    int32_t prepared_count;
    moet_prepared *prepared;
    int32_t fallback; /* index of the default */
    void *workspace;
    size_t workspace_bytes;
};

/* What a launch runs. */
typedef struct moet_decision {
    const moet_prepared *prepared;
    const moet_table_point *point; /* NULL: default */
    moet_hit hit;
    double distance;
} moet_decision;

/* What to run for these host counts; with device counts they are not looked at, and routing has max_rows rows. INVALID
 * for counts that are NULL, negative or sum to more than max_rows. */
moet_status moet_plan_decide(const moet_plan *plan, const int32_t *counts, moet_routing *routing, moet_decision *d);

/* moet_ffn without its combine: args->out is not looked at. For expert parallelism. */
moet_status moet_ffn_rows_run(moet_plan *plan, const moet_ffn_args *args, const moet_ffn_rows *rows);

#endif
