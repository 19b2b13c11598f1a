/* regret: what a table's choice costs on one workload, against the best of its rivals.
 *
 *   1. The choice, as a plan launches it, and its rivals run a few racing rounds; those clear of the leader (beyond
 * both noises, and 3 %) drop out.
 *   2. `rounds` rounds of what is left tell the best.
 *   3. `rounds` fresh rounds of choice, best and default: regret is the median of the rounds' ratios, choice / best
 * - 1.
 *
 * The best is chosen and measured in different rounds: the fastest of several noisy times is too fast by some noise,
 * which would count as regret of the table. So a regret may be negative: the two are as fast as the noise can tell. It
 * is 0 where the choice is the best itself. */
#ifndef MOET_REGRET_H
#define MOET_REGRET_H

#include "../src/table.h"
#include "planned.h"
#include "workload.h"

/* Configurations, each once. */
#define MOET_REGRET_MOST 96
typedef struct moet_rivals {
    int32_t count;
    moet_config configs[MOET_REGRET_MOST];
} moet_rivals;
/* NO_MEMORY for more than MOET_REGRET_MOST. */
moet_status moet_rivals_add(moet_rivals *rivals, const moet_config *config);
/* Those that serve the kind of counts: the table's for this problem, then every family's default. */
moet_status moet_rivals_find(const moet_table *table, const moet_problem *problem, int64_t rows,
                             const moet_device_info *device, bool device_counts, moet_rivals *rivals);

typedef struct moet_regret {
    moet_choice choice;
    moet_trial_status status; /* of the choice; not OK: reason says why, and nothing below is set */
    char reason[MOET_REASON_SIZE];
    char best[MOET_CONFIG_SIZE];
    int32_t candidates, failed; /* that ran, the choice among them; rivals that did not run, or not right */
    int64_t choice_ns, best_ns; /* medians of the fresh rounds */
    double regret, noise;       /* noise: half the interquartile range of the rounds' ratios */
    bool has_default;
    double default_regret; /* of what runs without a table, against the same best */
} moet_regret;

/* Measures on a bench, whose workload it sets. rounds >= 3. The errors are those of the bench and of planning. */
moet_status moet_regret_measure(moet_bench *bench, moet_handle *handle, const moet_problem *problem,
                                const moet_workload *workload, const moet_rivals *rivals,
                                const moet_device_info *device, bool device_counts, int32_t rounds,
                                moet_regret *regret);

/* Of count > 0 values, which are sorted: mean, 95th percentile (the least value that 95 % of them do not exceed), most.
 */
typedef struct moet_regret_sum {
    int32_t count;
    double mean, p95, most;
} moet_regret_sum;
moet_regret_sum moet_regret_summarize(double *values, int32_t count);

#endif
