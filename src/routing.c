#include <stdlib.h>

#include "status.h"

moet_status moet_routing_summarize(const int32_t *counts, int32_t experts, moet_routing *routing)
{
    MOET_NEED(counts);
    MOET_NEED(routing);
    moet_routing r = {.experts = experts, .max_over_mean = 1};
    if (experts < 1 || experts > MOET_MAX_EXPERTS)
        return moet_fail(MOET_INVALID, "routing: %d experts, must be 1 to %d", experts, MOET_MAX_EXPERTS);
    for (int32_t e = 0; e < experts; e++) {
        if (counts[e] < 0) return moet_fail(MOET_INVALID, "routing: expert %d has %d rows", e, counts[e]);
        r.rows += counts[e];
        r.active += counts[e] > 0;
        if (counts[e] > r.max) r.max = counts[e];
    }
    if (r.rows > MOET_MAX_ROWS)
        return moet_fail(MOET_INVALID, "routing: %lld rows in all, at most %d are served", (long long)r.rows,
                         MOET_MAX_ROWS);
    r.tokens = r.rows;
    if (r.rows > 0) r.max_over_mean = (double)r.max * experts / (double)r.rows;
    *routing = r;
    return MOET_OK;
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

double moet_routing_gini(const int32_t *counts, int32_t experts)
{
    /* G = sum_i (2 i - E - 1) c_i / (E sum c) over ascending c_i, i = 1..E. */
    int32_t sorted[MOET_MAX_EXPERTS];
    double weighted = 0, rows = 0;
    for (int32_t e = 0; e < experts; e++) sorted[e] = counts[e];
    qsort(sorted, (size_t)experts, sizeof *sorted, ascending);
    for (int32_t i = 0; i < experts; i++) {
        weighted += (2.0 * (i + 1) - experts - 1) * sorted[i];
        rows += sorted[i];
    }
    return rows > 0 ? weighted / (experts * rows) : 0;
}

double moet_problem_flops(const moet_problem *problem, const moet_routing *routing)
{
    if (problem->op == MOET_OP_FFN) return 6.0 * (double)routing->rows * problem->hidden * problem->inter;
    return 2.0 * (double)routing->rows * moet_problem_n(problem) * moet_problem_k(problem);
}

double moet_problem_bytes(const moet_problem *problem, const moet_routing *routing)
{
    if (problem->op == MOET_OP_FFN) {
        const double hidden = problem->hidden, inter = problem->inter;
        const double biases = (problem->bias ? 2 * inter : 0) + (problem->down_bias ? hidden : 0);
        return 2.0 * (routing->active * (3 * hidden * inter + biases) + 2.0 * (double)routing->tokens * hidden);
    }
    double n = moet_problem_n(problem), k = moet_problem_k(problem);
    return 2.0 * (routing->active * (n * k + (problem->bias ? n : 0)) + (double)routing->rows * (n + k));
}
