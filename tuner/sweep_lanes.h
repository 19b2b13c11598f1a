/* sweep_lanes: a sweep over several devices: one lane each, a thread that drives its worker and has its own connection
 * to the database. sweep.c has what one lane does. */
#ifndef MOET_SWEEP_LANES_H
#define MOET_SWEEP_LANES_H

#include <pthread.h>

#include "compile_ahead.h"
#include "progress.h"
#include "sweep.h"
#include "worker.h"

/* What a lane does with a task. */
typedef enum moet_task_step { MOET_STEP_RACE, MOET_STEP_FILL } moet_task_step;

/* Tasks of one problem that follow each other. */
typedef struct moet_block {
    int32_t first, count;
    int32_t pass;     /* how often all of them were filled */
    bool is_measured; /* by this pass's filling: what is to be filled may have changed */
} moet_block;

/* Which task is whose, and what else the lanes share. */
typedef struct moet_handout {
    const moet_sweep_tasks *tasks;
    bool fills;       /* tasks are filled after they were raced */
    bool fills_early; /* GEMMs before their paths are raced, whose large kernels are compiled meanwhile */
    pthread_mutex_t lock;
    pthread_cond_t finished; /* a task: others may wait for it */
    uint8_t *states;         /* of each task */
    int32_t *block_of;       /* each task's, in blocks[] */
    moet_block *blocks;
    int32_t raced;
    int32_t lanes;
    char began_at[MOET_MOMENT_SIZE]; /* when the sweep did */
    moet_compile_ahead *ahead; /* NULL: none */
} moet_handout;

/* tasks live longer. Destroyed even where it failed; destroy takes one of zeros too. */
moet_status moet_handout_create(const moet_sweep_tasks *tasks, bool fills, int32_t lanes, moet_handout *handout);
void moet_handout_destroy(moet_handout *handout);

/* The next task for whoever asks, and what to do with it; waits while that depends on what other lanes are at; false:
 * nothing is left. Races come first, in order, but a path (op FFN) waits for the GEMMs of its workload, from which its
 * candidates follow, while there is anything else to do. Then a block of which all is raced is filled, again until
 * nothing had to be measured. With fills_early the GEMMs of a shape are filled once all of them are raced, and its
 * paths wait for that. */
bool moet_handout_take(moet_handout *handout, int32_t *task, moet_task_step *step);
bool moet_handout_is_over(moet_handout *handout); /* nothing is left, and nobody is at anything */
/* Whether nobody has taken a task yet, and all that it follows from is measured. */
bool moet_handout_is_ready(moet_handout *handout, int32_t task);
/* Is the step done, or must another lane, or a later sweep, do it? measured: anything that was not known. */
void moet_handout_finish(moet_handout *handout, int32_t task, bool is_done, bool measured);
/* How many tasks are raced. */
int32_t moet_handout_raced(moet_handout *handout);
/* How often the task's block was filled before. */
int32_t moet_handout_pass(moet_handout *handout, int32_t task);

/* Tasks until none is left, for one worker. The summary's `left` says nothing. */
moet_status moet_sweep_run_lane(const moet_sweep_options *options, moet_handout *handout, moet_progress *progress,
                                moet_worker *worker, moet_sweep_summary *summary);

#endif
