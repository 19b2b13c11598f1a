/* tiling: how a configuration cuts a GEMM into tiles, and about how long these take on a routing: what a launch can
 * afford to work out. Families describe their configurations so (family.h); kernels/tile_cost.h has the model that it
 * is a quick form of. */
#ifndef MOET_TILING_H
#define MOET_TILING_H

#include <stdbool.h>
#include <stdint.h>

/* An expert's rows are cut into tiles that are full but for the last, or of equal height; either way whole steps are
 * computed. */
#define MOET_MAX_TILE_STEPS 16
#define MOET_MOST_READERS 8 /* of an expert's weights that cost more than fewer do */
typedef struct moet_tiling {
    int32_t rows, row_step; /* of a full tile, below 1024; rows / row_step is at most MOET_MAX_TILE_STEPS */
    bool is_even;           /* equal height */
    bool splits_last;       /* a last wave that is at most half full takes half tiles */
    bool is_followed;       /* by tiles of another GEMM in the same launch: no slot waits for the last ones */
    double column_tiles;
    double slots;                        /* tiles at the same time, on all SMs */
    double seconds[MOET_MAX_TILE_STEPS]; /* of a tile of 1, 2, ... steps in a slot */
    /* What HBM reads and writes, in seconds. */
    double weight_seconds[MOET_MOST_READERS]; /* of an expert's weights, for 1, 2, ... or more row tiles */
    double x_seconds, out_seconds;            /* of a row of x, and of out */
    int32_t band_tiles; /* row tiles of a band, if weights are read for each band; 0: once an expert */
    double x_reads;     /* how often the rows of a band of more than x_rows are read */
    double x_rows;      /* that L2 holds */
    double launch_seconds;
} moet_tiling;

/* Seconds; counts[experts], each 0 to MOET_MAX_ROWS. */
double moet_tiling_seconds(const moet_tiling *tiling, const int32_t *counts, int32_t experts);

#endif
