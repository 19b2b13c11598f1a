#ifdef MOET_CUDA
#include "wgmma_maps.h"

enum { BK = 64 }; /* MOET_BK of wgmma_gemm.cuh */

/* A BF16 tensor of `rank` dimensions, dims[0] innermost, the others strides[] bytes apart; boxes of box[] with the
 * 128-byte swizzle, zeros out of bounds. */
static moet_status encode_strided_map(const struct moet_cuda_api *cuda, CUtensorMap *map, const void *base,
                                      cuuint32_t rank, const cuuint64_t *dims, const cuuint64_t *strides,
                                      const cuuint32_t *box)
{
    const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
    CUtensorMap result;
    CUresult status =
        cuda->cuTensorMapEncodeTiled(&result, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, (void *)(uintptr_t)base, dims,
                                     strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS) return moet_cuda_fail(status, "wgmma_gemm: tensor map");
    *map = result;
    return MOET_OK;
}

/* The same, dense. */
static moet_status encode_map(const struct moet_cuda_api *cuda, CUtensorMap *map, const void *base, cuuint32_t rank,
                              const cuuint64_t *dims, const cuuint32_t *box)
{
    const cuuint64_t strides[2] = {dims[0] * 2, dims[0] * dims[1] * 2}; /* bytes */
    return encode_strided_map(cuda, map, base, rank, dims, strides, box);
}

moet_status moet_wgmma_map(const struct moet_cuda_api *cuda, moet_wgmma_product *product,
                           const moet_family_launch_args *args)
{
    const cuuint64_t n = (cuuint64_t)product->n, k = (cuuint64_t)product->k, experts = (cuuint64_t)product->experts;
    if (args->x != product->mapped_x || args->out != product->mapped_out || args->rows != product->mapped_rows) {
        const cuuint64_t x_dims[2] = {k, (cuuint64_t)args->rows},
                         out_dims[2] = {(cuuint64_t)product->out_n, (cuuint64_t)args->rows};
        const cuuint32_t x_box[2] = {BK, (cuuint32_t)product->x_box}, out_box[2] = {64, 16};
        product->mapped_x = NULL;
        if (!product->gathers) MOET_TRY(encode_map(cuda, &product->x_map, args->x, 2, x_dims, x_box));
        MOET_TRY(encode_map(cuda, &product->out_map, args->out, 2, out_dims, out_box));
        product->mapped_x = args->x;
        product->mapped_out = args->out;
        product->mapped_rows = args->rows;
    }
    if (args->w != product->mapped_w && product->is_fused && product->layout == MOET_LAYOUT_NK) {
        /* Gates and ups in turns of 8: w[e][half I + 8 group + i][k]. */
        const cuuint64_t inter = n / 2, dims[5] = {k, 8, 2, inter / 8, experts};
        const cuuint64_t strides[4] = {k * 2, inter * k * 2, 8 * k * 2, 2 * inter * k * 2}; /* bytes */
        const cuuint32_t box[5] = {BK, 8, 2, (cuuint32_t)product->w_box / 16, 1};
        product->mapped_w = NULL;
        MOET_TRY(encode_strided_map(cuda, &product->w_map, args->w, 5, dims, strides, box));
        product->mapped_w = args->w;
    } else if (args->w != product->mapped_w) {
        const bool is_kn = product->layout == MOET_LAYOUT_KN;
        const cuuint64_t columns = product->is_fused ? 2 * (cuuint64_t)product->out_n : n;
        const cuuint64_t dims[3] = {is_kn ? columns : k, is_kn ? k : columns, experts};
        const cuuint32_t box[3] = {64, is_kn ? BK : (cuuint32_t)product->w_box, 1};
        product->mapped_w = NULL;
        MOET_TRY(encode_map(cuda, &product->w_map, args->w, 3, dims, box));
        product->mapped_w = args->w;
    }
    return MOET_OK;
}

#else
typedef int moet_wgmma_maps_are_left_out; /* ISO C wants a declaration in every file */
#endif
