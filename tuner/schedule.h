/* schedule: what a tiled grouped GEMM loses to its tiles on a routing: rows and columns that are multiplied for
 * nothing, and SMs that have no tile left while others have. */
#ifndef MOET_SCHEDULE_H
#define MOET_SCHEDULE_H

#include "../kernels/tile_cost.h"

typedef struct moet_schedule {
    int64_t tiles;
    double waves;         /* tiles by those that run at the same time */
    double padding_share; /* of what is multiplied, what is no element of the problem */
    double tail_share;    /* of all SMs' time until the last tile ends, what they wait */
} moet_schedule;

/* Of the product of an op UP or DOWN. Tiles go in the experts' order to the SM that is free first and take as long as
 * they have rows to multiply; copies and stores are left out. Zeros where there are no rows. NO_MEMORY. */
moet_status moet_schedule_of(const moet_problem *problem, const int32_t *counts, const moet_tile_shape *shape,
                             int32_t sm_count, moet_schedule *schedule);

/* Of any config's: of op FFN both GEMMs', one behind the other. *known false: a family whose tiles are not to be known
 * (a vendor library's). */
moet_status moet_schedule_config(const moet_problem *problem, const int32_t *counts, const moet_config *config,
                                 const moet_device_info *device, bool *known, moet_schedule *schedule);

#endif
