#include "cublaslt_batch.h"

moet_lt_batch moet_lt_batch_next(const int32_t *counts, int32_t experts, int32_t first, int32_t percent)
{
    moet_lt_batch best = {.first = first, .count = 1, .height = counts[first], .rows = counts[first], .is_even = true};
    moet_lt_batch trial = best;
    for (int32_t e = first + 1; e < experts; e++) {
        trial.is_even = trial.is_even && counts[e] == trial.height;
        if (counts[e] > trial.height) trial.height = counts[e];
        trial.count++;
        trial.rows += counts[e];
        const int64_t padded = 100ll * trial.height * trial.count, most = percent * trial.rows;
        if (padded <= most && counts[e] > 0) best = trial;
        if (padded > 2 * most) break; /* too much for the next ones to make up, and the search stays short */
    }
    return best;
}
