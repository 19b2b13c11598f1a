/* sweep: measures every candidate on every workload and puts the trials into the store. */
#ifndef MOET_SWEEP_H
#define MOET_SWEEP_H

#include <signal.h>

#include "../bench/bench.h"
#include "parse.h"
#include "store.h"
#include "problem_options.h"
#include "workload.h"

#define MOET_SWEEP_LISTED 256
#define MOET_SWEEP_MOST_LISTED 4096
typedef struct moet_sweep_options {
    const char *db_path;
    const char *command; /* the command line, for provenance and for how to go on */
    moet_text_list families;
    moet_problem_options problem;
    uint64_t seed;    /* of the inputs */
    moet_shard shard; /* {1, 1}: everything */
    int32_t final_rounds;
    int64_t budget_ns; /* of the whole sweep, which its races share; 0: none */
    moet_effort effort;
    int32_t listed; /* exhaustive: configs of a family that only its vendor library can enumerate, at most; 0: none */
    double noise; /* of winners, relative: final rounds go on until then or until it stops falling */
    bool races_only; /* no filling */
    int32_t jobs; /* threads that compile ahead; 0: none */
    bool retune;  /* what is in the database is measured again */
    const moet_text_list *devices; /* each as moet_device_open takes it, or host/N: N parts of the processors; "all" */
    int64_t watchdog_ns;           /* of the worker: 0: its own */
    bool in_process;
    const char *device_key; /* NULL; else INVALID where the device is another */
    const volatile sig_atomic_t *interrupted;
} moet_sweep_options;

/* One problem on one workload: what is raced. */
typedef struct moet_sweep_task {
    moet_problem problem;
    const moet_workload *workload; /* of the list given to moet_sweep_plan */
    char since[MOET_MOMENT_SIZE];  /* "", else a moment as the store has them: what was measured before it no longer
                                      wins, and is measured again */
} moet_sweep_task;
/* "deepseek-v3/ep32 512 rows balanced up nk" into text. */
#define MOET_SWEEP_TASK_SIZE 256
void moet_sweep_task_format(const moet_sweep_task *task, char text[MOET_SWEEP_TASK_SIZE]);
typedef struct moet_sweep_tasks {
    int32_t count;
    moet_sweep_task *items;
} moet_sweep_tasks;

/* All tasks of this shard, those that share weights together (shapes in the order of their first workloads), of these
 * the workloads of greater weight first. A task's shard follows from its problem, counts and (op ffn) tokens alone.
 * INVALID names a workload that cannot be served. */
moet_status moet_sweep_plan(const moet_sweep_options *options, const moet_workloads *workloads,
                            moet_sweep_tasks *tasks);
moet_status moet_sweep_is_in_shard(const moet_shard *shard, const moet_sweep_task *task, bool *inside);
void moet_sweep_tasks_release(moet_sweep_tasks *tasks);

/* Begins a task's range for profilers (src/nvtx.h), which moet_nvtx_end ends. */
void moet_sweep_task_begin(const moet_sweep_task *task);

/* What a sweep would do. Seconds are a guess from rates that such devices reach. */
typedef struct moet_sweep_size {
    int32_t tasks;
    int64_t candidates, inapplicable;
    bool is_bound;  /* candidates: at most; op ffn has fewer the more is known of its GEMMs by then */
    int64_t around; /* candidates that may be added around the best, and (op ffn) of crossed halves, at most */
    int64_t listed; /* that only a vendor library can enumerate, at most */
    double seconds;
} moet_sweep_size;
moet_status moet_sweep_measure_size(const moet_sweep_options *options, const moet_sweep_tasks *tasks,
                                    const moet_device_info *device, moet_sweep_size *size);

#define MOET_SWEEP_LEFT_NAMED 3
typedef struct moet_sweep_summary {
    int32_t measured, already_done, failed, left; /* tasks */
    int32_t cut;                                  /* of measured: for want of time, with the least effort only */
    int32_t unfilled;                             /* whose times of the table's configurations are not all there */
    int64_t filled; /* of tried: to tell what the table's configurations take where others win */
    int32_t first_left[MOET_SWEEP_LEFT_NAMED];    /* of the list, the first that are left */
    int64_t tried, wrong, broken;                 /* candidates; broken: failed or timed out */
    bool interrupted, out_of_budget;
} moet_sweep_summary;

/* One worker a device, to which tasks are handed out as they get free; devices that are not alike are refused
 * (UNSUPPORTED), as their times are not of one kind. Messages and progress go to stderr. The summary is filled on an
 * error too; a task that fails by itself (no device memory, a wrong reference) is no error of the sweep but counts as
 * failed. */
moet_status moet_sweep_run(const moet_sweep_options *options, const moet_sweep_tasks *tasks,
                           moet_sweep_summary *summary);

#endif
