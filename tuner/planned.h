/* planned: a plan of the runtime library as a subject of the bench: what production would run, timed and verified. */
#ifndef MOET_PLANNED_H
#define MOET_PLANNED_H

#include "../bench/bench.h"
#include "workload.h"

typedef struct moet_planned {
    moet_plan *plan;    /* owned */
    moet_choice choice; /* what it launches for the workload */
    int32_t subject;    /* in the bench */
} moet_planned;

/* Opens a table folder, or with NULL none, whatever MOET_TABLE says. */
moet_status moet_planned_open(const char *table_dir, const char *device, moet_handle **handle);

/* Plans problem for counts (with device_counts: expecting them) and adds it under `name` to the bench, whose workload
 * they are. As with moet_bench_add_config, the trial tells whether it is right. */
moet_status moet_planned_add(moet_bench *bench, moet_handle *handle, const moet_problem *problem, const int32_t *counts,
                             bool device_counts, const char *name, moet_planned *planned);
/* After the bench's workload has gone: the bench launches the plan until then. */
void moet_planned_release(moet_planned *planned);

#endif
