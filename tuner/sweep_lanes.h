/* sweep_lanes: a sweep over several devices: one lane each, a thread that drives its worker and has its own connection
 * to the database. sweep.c has what one lane does. */
#ifndef MOET_SWEEP_LANES_H
#define MOET_SWEEP_LANES_H

#include <pthread.h>

#include "compile_ahead.h"
#include "progress.h"
#include "sweep.h"
#include "worker.h"

/* Which task is whose, and what else the lanes share. */
typedef struct moet_handout {
    const moet_sweep_tasks *tasks;
    pthread_mutex_t lock;
    uint8_t *states; /* of each task */
    int32_t done;
    int32_t lanes;
    moet_compile_ahead *ahead; /* NULL: none */
} moet_handout;

/* The next task for whoever asks; false: none is left. In order, but a path (op FFN) waits for the GEMMs of its
 * workload, from which its candidates follow, while there is anything else to do. */
bool moet_handout_take(moet_handout *handout, int32_t *task);
bool moet_handout_waits(moet_handout *handout); /* whether there is one */
/* Whether nobody has taken a task yet, and all that it follows from is measured. */
bool moet_handout_is_ready(moet_handout *handout, int32_t task);
/* Is it done, or must another lane, or a later sweep, take it? */
void moet_handout_finish(moet_handout *handout, int32_t task, bool is_done);
int32_t moet_handout_done(moet_handout *handout);

/* Tasks until none is left, for one worker. The summary's `left` says nothing. */
moet_status moet_sweep_run_lane(const moet_sweep_options *options, moet_handout *handout, moet_progress *progress,
                                moet_worker *worker, moet_sweep_summary *summary);

#endif
