/* why: from counters and a schedule to an answer: which ceiling a launch is at, and what parameter may move it. */
#ifndef MOET_WHY_H
#define MOET_WHY_H

#include "ncu.h"
#include "schedule.h"

/* What a launch was, and what is known of it. */
typedef struct moet_why_launch {
    const char *workload; /* as people name it: name, rows, skew, op */
    const moet_problem *problem;
    const moet_config *config;
    moet_routing routing;
    const moet_ncu_report *report;
    bool has_schedule;
    moet_schedule schedule;
} moet_why_launch;

/* Ceilings, and what else a launch may be at. */
#define MOET_BOUND_TABLE(X)                                                                                            \
    X(TENSOR, "the tensor pipe")                                                                                       \
    X(L2, "L2")                                                                                                        \
    X(HBM, "HBM")                                                                                                      \
    X(ISSUE, "instruction issue")                                                                                      \
    X(TAIL, "the tail: SMs without a tile")                                                                            \
    X(LATENCY, "no ceiling: warps wait for each other and for data")
typedef enum moet_bound {
#define MOET_X(name, text) MOET_BOUND_##name,
    MOET_BOUND_TABLE(MOET_X)
#undef MOET_X
        MOET_BOUND_COUNT
} moet_bound;
const char *moet_bound_text(moet_bound bound);

/* Ceilings are at 80 % of their peak what binds, by what SMs reach while they are busy where a tail of 10 % or more is
 * what is left; between 60 and 80 % the highest is said to be nearest. */
typedef struct moet_why_verdict {
    moet_bound bound;
    bool is_clear;          /* false: nearest only */
    double achieved_pct[4]; /* of tensor, L2, HBM, issue; NaN unknown */
    char suggestion[400];   /* parameters that the config's family has, and what to look at */
} moet_why_verdict;
void moet_why_judge(const moet_why_launch *launch, moet_why_verdict *verdict);

/* The answer in ten lines, to stdout. */
void moet_why_print(const moet_why_launch *launch, const moet_why_verdict *verdict);

#endif
