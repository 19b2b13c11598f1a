/* nvtx: ranges that Nsight Systems and Nsight Compute show, in a domain of their own, "moe-tune" (NVTX 3, which is
 * headers only: MOET_NVTX says whether this build has them).
 *
 *   moet_nvtx_begin(MOET_NVTX_UP, NULL, rows);
 *   MOET_TRY(moet_nvtx_end(gemm->launch(state, &args)));
 *
 * Ranges of a thread nest. Where no tool listens, which the first range finds out, a range costs a call and a branch;
 * `test_nvtx --bench` prints how much. */
#ifndef MOET_NVTX_H
#define MOET_NVTX_H

#include "moet.h"

/* Kind, its name, and what the payload counts. A kind is a category; a range without a text of its own has its name as
 * message. Messages are registered strings. */
#define MOET_NVTX_TABLE(X)                                                                                             \
    X(SWEEP, "sweep")       /* workloads; message: "sweep" */                                                          \
    X(WORKLOAD, "workload") /* rows; message: name, rows, skew, op and layout */                                       \
    X(TRIAL, "trial")       /* which trial of its workload, from 0; message: the config, or a plan's name */           \
    X(LAUNCH, "launch")     /* rows (device counts: at most), by a plan; message: the config */                        \
    X(PERMUTE, "permute")   /* tokens (device_tokens: at most) */                                                      \
    X(GATHER, "gather")     /* rows, and below */                                                                      \
    X(UP, "up")                                                                                                        \
    X(ACTIVATE, "activate")                                                                                            \
    X(DOWN, "down")                                                                                                    \
    X(COMBINE, "combine") /* tokens */
typedef enum moet_nvtx_kind {
#define MOET_X(name, text) MOET_NVTX_##name,
    MOET_NVTX_TABLE(MOET_X)
#undef MOET_X
        MOET_NVTX_KIND_COUNT
} moet_nvtx_kind;

/* A registered string, for as long as the process lives. NULL where no tool listens. */
typedef struct moet_nvtx_text moet_nvtx_text;
const moet_nvtx_text *moet_nvtx_register(const char *text);

/* text NULL: the kind's name. */
void moet_nvtx_begin(moet_nvtx_kind kind, const moet_nvtx_text *text, int64_t payload);
/* Ends the innermost range of this thread. Returns status, so that it can stand around what the range is of. */
moet_status moet_nvtx_end(moet_status status);

#endif
