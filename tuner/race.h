/* race: finds the fastest candidates of one workload and stores every trial. Which are listed, and how many are looked
 * around in step 3, is the effort's (effort.h).
 *
 *   1. In batches, every listed candidate that the store lacks: prepared, verified, one round; those slower than 1.5
 *      times the leader drop out.
 *   2. Three rounds; those clear of the leader (beyond both noises, and 3 %) drop out.
 *   3. Of op FFN, first: the best up halves with the best down halves. Then around the best few,
 *      twice, candidates that differ in one MOET_SEARCH_AROUND parameter: step 1 for these, and two
 *      rounds as in step 2.
 *   4. The best few of each kind, and the defaults, among them stored ones: fresh final rounds, until the leader's
 * noise is as asked or stops falling, at most 3 times as many. Only these can win.
 *
 * One that fills (moet_race's `fills`) has no step 3, and step 4 only where one that was not stored is among the best.
 *
 * A leader is the fastest that serves the same kind of counts: a candidate that reads them on the device competes with
 * its like, as it may be the only choice where the host does not know them. Trials are stored as soon as they end. */
#ifndef MOET_RACE_H
#define MOET_RACE_H

#include "candidates.h"
#include "compile_ahead.h"
#include "store.h"
#include "worker.h"

/* Raised when a change of these steps makes finished workloads unfinished. */
#define MOET_RACE_RULE 3

typedef struct moet_race {
    moet_worker *worker;
    moet_store *store;
    int64_t run_id;
    const char *device_key;
    const moet_device_info *device;
    const moet_problem *problem;
    const moet_workload *workload;
    moet_candidates *candidates; /* others are added */
    int32_t final_rounds;        /* at least */
    moet_effort effort;
    bool fills;                 /* tells what these candidates take, of a workload whose race is over */
    const char *since;          /* "", or a moment: what was stored before it is measured again */
    double noise;               /* of the winner, relative: asked */
    int64_t deadline_ns;        /* moet_clock_ns() when this race's share of the time is spent; 0: none. Then the least
                                   effort's candidates are still tried, and the final rounds run */
    moet_compile_ahead *ahead;  /* NULL: kernels are compiled when they are tried */
    /* Asked between rounds and candidates: true ends the race, what was measured is stored. */
    bool (*should_stop)(void *context);
    /* Told between rounds and candidates: the part done, 0 to 1, and the fastest so far (NULL: none). */
    void (*report)(void *context, double part, const moet_candidate *best);
    void *context;
} moet_race;

typedef struct moet_race_result {
    bool stopped;       /* by should_stop: the workload is not finished */
    moet_effort effort; /* that was reached: quick where the deadline cut the race */
    int32_t tried, wrong, failed;
    const moet_candidate *best; /* in race->candidates; NULL: none ran */
} moet_race_result;

/* The result is filled on an error too. DEVICE: the device takes no more work; the candidate that did it is stored as
 * failed, so that the same sweep goes on behind it. *of_store: the error is the store's, not the workload's. */
moet_status moet_race_run(const moet_race *race, moet_race_result *result, bool *of_store);

#endif
