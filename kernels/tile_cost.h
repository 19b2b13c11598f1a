/* tile_cost: about how long a grouped GEMM that works by output tiles takes on a routing, in closed form: what families
 * of such kernels have as estimate_ns. docs/tuning.md has the model and how well it ranks. */
#ifndef MOET_KERNELS_TILE_COST_H
#define MOET_KERNELS_TILE_COST_H

#include "../src/family.h"

/* How a configuration cuts its product. */
typedef struct moet_tile_shape {
    int32_t rows, cols;     /* of a tile of out */
    int32_t row_step;       /* rows of a tile are computed in steps of this, which divides rows */
    bool rows_are_n;        /* the rows are on the tensor instruction's N side: fewer than 64 do not fill it, and an
                               expert's row tiles are of equal height instead of full but for the last */
    int32_t ctas_per_sm;    /* that are resident at the same time */
    bool hides_store;       /* tiles are stored while others are multiplied */
    bool splits_last;       /* a last wave that is at most half full takes half tiles */
    int32_t x_shared;       /* CTAs that share a copy of x, and */
    int32_t w_shared;       /* of w: 1 without clusters */
    int32_t x_box;          /* rows of x that the copy engine copies at once; 0: threads copy */
    int32_t group;          /* row tiles of a band, walked with rows innermost */
    int32_t element_bytes;  /* of x and w as tiles read them */
    bool is_followed;       /* tiles of another GEMM follow in the same launch: no SM waits for the last ones */
    double store_factor;    /* how much longer a tile's store takes than a plain one's */
    double tensor_fraction; /* of the device's tensor rate that the instruction can reach */
} moet_tile_shape;

/* One CTA an SM, no cluster, bands of any height, BF16, the device's full rate. */
moet_tile_shape moet_tile_shape_of(int32_t rows, int32_t cols, int32_t row_step);

/* ns. Every active expert is cut into row tiles, whose times are the larger of multiplying and of copying from L2, and
 * storing where nothing hides it. Tiles go to the SM that is free first, the longest first. Beside it HBM streams each
 * operand, weights slower that several row tiles read; an expert takes the longer of the two, as tiles run expert by
 * expert. */
double moet_tile_cost_ns(const moet_problem *problem, const int32_t *counts, const moet_tile_shape *shape,
                         const moet_device_info *device, const moet_device_rates *rates);

/* The same cut for who sums up tiles alone. */
moet_tiling moet_tile_tiling(const moet_problem *problem, const moet_tile_shape *shape, const moet_device_info *device,
                             const moet_device_rates *rates);

/* ns of a pass that moves so many bytes through HBM. */
double moet_pass_cost_ns(double bytes, const moet_device_rates *rates);

#endif
