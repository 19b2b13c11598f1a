/* effort: how much of the search space a sweep times. */
#ifndef MOET_EFFORT_H
#define MOET_EFFORT_H

#include "../src/moet.h"

/* Ascending; a database holds the numbers. */
typedef enum moet_effort {
    MOET_EFFORT_QUICK,
    MOET_EFFORT_NORMAL,
    MOET_EFFORT_EXHAUSTIVE,
    MOET_EFFORT_COUNT
} moet_effort;

#define MOET_EFFORT_PASSES 2 /* of looking around the best */

/* What an effort tries beside the controls: families' defaults, neighbours' winners, and what has no estimate. */
typedef struct moet_effort_rule {
    const char *name;
    int32_t estimated;                        /* candidates of the best estimates; 0: all */
    int32_t centers[MOET_EFFORT_PASSES];      /* around how many of the best others are tried, pass by pass */
    int32_t path_centers[MOET_EFFORT_PASSES]; /* of op FFN, whose halves have been looked around for as GEMMs */
    bool fills; /* what a table would take of a problem is measured at all its workloads */
} moet_effort_rule;

const moet_effort_rule *moet_effort_rule_of(moet_effort effort);
/* INVALID names the efforts. */
moet_status moet_effort_parse(const char *text, const char *option, moet_effort *effort);

#endif
