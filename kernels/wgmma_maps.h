/* wgmma_maps: the tensor maps by which wgmma_gemm's kernels copy their operands. */
#ifndef MOET_KERNELS_WGMMA_MAPS_H
#define MOET_KERNELS_WGMMA_MAPS_H

#include "../src/cuda_api.h"
#include "../src/family.h"

/* One GEMM, or one of the two that are chained. */
typedef struct moet_wgmma_product {
    CUtensorMap x_map, w_map, out_map; /* of the launch before, for mapped_* */
    const void *mapped_x, *mapped_w, *mapped_out;
    int64_t mapped_rows;
    moet_layout layout;
    bool is_fused, gathers; /* fused: w's columns are gates and ups of out's; gathering: x has no map */
    int32_t experts, n, k;  /* n: columns of w; fused and kn, rounded up to whole tiles */
    int32_t out_n;          /* columns of out */
    int32_t x_box, w_box;   /* rows of x, columns of w in one copy: MOET_X_BOX, MOET_W_PIECE of wgmma_gemm.cuh */
} moet_wgmma_product;

/* Makes the maps those of this launch. x has one row for each of `rows`: with counts on the device, rows past the
 * experts' are read (and not used). */
moet_status moet_wgmma_map(const struct moet_cuda_api *cuda, moet_wgmma_product *product,
                           const moet_family_launch_args *args);

#endif
