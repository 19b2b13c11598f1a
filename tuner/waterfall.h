/* waterfall: where the time of a measured grouped GEMM goes, part by part, by the tiles that its configuration cuts and
 * by what the device was measured to do. docs/profiling.md has the model in words. */
#ifndef MOET_WATERFALL_H
#define MOET_WATERFALL_H

#include "../bench/bench.h"
#include "schedule.h"

#define MOET_WATERFALL_TABLE(X)                                                                                        \
    X(FLOOR, "floor")             /* as efficiency has it */                                                           \
    X(PADDING, "padding")         /* rows and columns that tiles multiply for nothing */                               \
    X(TAIL, "tail")               /* SMs without a tile while others have one */                                       \
    X(L2, "L2")                   /* what tiles load again, where it takes longer than the math */                     \
    X(EPILOGUE, "epilogue")       /* stores of tiles that nothing hides */                                             \
    X(UNEXPLAINED, "unexplained") /* what was measured less all of these: below 0 where they say too much */
typedef enum moet_waterfall_part {
#define MOET_X(name, text) MOET_WATERFALL_##name,
    MOET_WATERFALL_TABLE(MOET_X)
#undef MOET_X
        MOET_WATERFALL_PART_COUNT
} moet_waterfall_part;
const char *moet_waterfall_text(moet_waterfall_part part);

/* What was measured: of op UP or DOWN. */
typedef struct moet_waterfall_point {
    const moet_problem *problem;
    const int32_t *counts;        /* [problem->experts] */
    const moet_tile_shape *shape; /* NULL: not known, and then nothing but the floor is explained */
    int32_t sm_count;
    double floor_ns, time_ns; /* of the same rounds */
} moet_waterfall_point;

/* ns of each part, all but UNEXPLAINED >= 0; their sum is time_ns. Each is what it adds to those before it. ceilings:
 * of the device, as the floor is made of them; rates: fitted (cost_fit.h). NO_MEMORY. */
moet_status moet_waterfall_of(const moet_waterfall_point *point, const moet_ceilings *ceilings,
                              const moet_device_rates *rates, double parts_ns[MOET_WATERFALL_PART_COUNT]);

#endif
