/* workload_find: one workload by what a person types. */
#ifndef MOET_WORKLOAD_FIND_H
#define MOET_WORKLOAD_FIND_H

#include "workload.h"

/* MODEL/epN/ROWS/SKEW, as a sweep of --model MODEL --ep N --rows ROWS --skew SKEW draws it with this seed; or a .jsonl
 * file ("-": stdin), of which `match` (NULL: it has one only) is a part of the workload's name. Adds it to an empty
 * list. *has_bias: whether the model has biases. */
moet_status moet_workload_find(const char *text, const char *match, uint64_t seed, moet_workloads *list,
                               bool *has_bias);

#endif
