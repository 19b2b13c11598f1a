/* worker: a bench in a process of its own, so that a candidate that crashes, hangs, or loses the device costs itself
 * alone. The calls are those of bench.h; candidates, their trials and samples are kept here, on the sweep's side.
 *
 * A worker process that dies, or is silent for longer than the watchdog allows, is replaced by a new one: the candidate
 * that was in flight is FAILED or TIMEOUT with the reason, the workload and the other active candidates are set up
 * again, and their samples stay. The process is this program started again (worker_process.h); it never outlives this
 * one.
 *
 * Files: worker.c this side; worker_serve.c the other; worker_process.c starting and ending it; message.c the wire. */
#ifndef MOET_WORKER_H
#define MOET_WORKER_H

#include "../bench/bench.h"

/* What a step may take before the process counts as hung: seconds on a GPU, on the host; factors for steps that are no
 * launches are in worker.c. */
#define MOET_WATCHDOG_DEVICE_S 20
#define MOET_WATCHDOG_HOST_S 120

typedef struct moet_worker_options {
    const char *device;  /* as moet_device_open takes it */
    uint64_t seed;       /* of the bench */
    int64_t watchdog_ns; /* 0: as above */
    int32_t part,
        parts;       /* of the processors this process may use, the part-th (from 0) of parts is its own; 0, 0: all */
    bool in_process; /* for debuggers: no process, no watchdog; a fault is this process's own */
} moet_worker_options;

typedef struct moet_worker moet_worker;

/* Starts the process, which opens the device. */
moet_status moet_worker_open(const moet_worker_options *options, moet_worker **worker);
void moet_worker_close(moet_worker *worker);

/* What the process found out; the worker's own. */
const moet_device_info *moet_worker_info(const moet_worker *worker);
const char *moet_worker_key(const moet_worker *worker);
const char *moet_worker_libraries(const moet_worker *worker); /* moet_libraries_format */
int32_t moet_worker_device_count(const moet_worker *worker);  /* devices of its backend on this machine */
/* For tests: how many processes were replaced so far. */
int32_t moet_worker_restarts(const moet_worker *worker);

/* Makes the bench and measures its ceilings, once. */
moet_status moet_worker_begin(moet_worker *worker, moet_ceilings *ceilings);

/* As moet_bench_list. A library that crashes or hangs at it is an error, and costs only the list: the next call finds the
 * worker as it was before. */
moet_status moet_worker_list(moet_worker *worker, const moet_problem *problem, const int32_t *counts,
                             const moet_config *base, int32_t limit, moet_config_visit visit, void *context);

/* As in bench.h. The errors of a candidate, whatever it does, are its trial's: an error status means that the worker
 * cannot go on, DEVICE that the device cannot. */
moet_status moet_worker_set_workload(moet_worker *worker, const moet_problem *problem, const int32_t *counts,
                                     int64_t tokens);
moet_status moet_worker_add_config(moet_worker *worker, const moet_config *config, bool device_counts,
                                   int32_t *subject);
moet_status moet_worker_launch_again(moet_worker *worker, int32_t subject);
int64_t moet_worker_launch_ns(const moet_worker *worker, int32_t subject);
/* Makes the verified launch the trial's one sample (eager), for a candidate that is dropped on it. */
moet_status moet_worker_keep_launch(moet_worker *worker, int32_t subject);
moet_status moet_worker_set_racing(moet_worker *worker, bool is_racing);
moet_status moet_worker_round(moet_worker *worker);
void moet_worker_retire(moet_worker *worker, int32_t subject);
bool moet_worker_active(const moet_worker *worker, int32_t subject);
void moet_worker_clear_samples(moet_worker *worker);
moet_status moet_worker_trial(const moet_worker *worker, int32_t subject, moet_trial *trial);
int64_t moet_worker_median_ns(const moet_worker *worker, int32_t subject);
int64_t moet_worker_noise_ns(const moet_worker *worker, int32_t subject);

#endif
