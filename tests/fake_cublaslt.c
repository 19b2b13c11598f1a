/* A cuBLASLt that multiplies nothing: two made-up algorithms whose rules are simple enough to be counted by hand, for
 * test_cublaslt_space. Built under the real library's name and loaded before it.
 *
 *   id 7    tiles 20, 23; swizzle; split-K, added up in the compute type; no stages, inner shapes or clusters
 *   id 66   tiles 20, 23, 32, one of which it needs; stages 35, 36, one of which it needs; clusters 2 to 4 or none;
 *           custom options up to 3, of which 3 wants too much workspace; split-K in any way
 * Tile 23 wants 4 rows or more. A tile is as many rows as the tens of its id, so that waves are rows / tens. */
#include <cublasLt.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef struct fake_algorithm {
    int32_t id;
    uint32_t tile, split, scheme, swizzle, custom, stages;
    uint16_t inner, cluster;
} fake_algorithm;
_Static_assert(sizeof(fake_algorithm) <= sizeof(cublasLtMatmulAlgo_t), "it fits");

static const uint32_t tiles[] = {20, 23, 32}, stages[] = {35, 36};
static int handle_memory;

EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = (cublasLtHandle_t)(void *)&handle_memory;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return (void)handle, CUBLAS_STATUS_SUCCESS; }
EXPORT size_t cublasLtGetVersion(void) { return 130100; }
EXPORT const char *cublasLtGetStatusString(cublasStatus_t status) { return (void)status, "fake"; }

EXPORT cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size, cudaDataType type,
                                                        uint64_t rows, uint64_t columns, int64_t ld)
{
    (void)size, (void)type, (void)ld;
    layout->data[0] = rows;
    layout->data[1] = columns;
    layout->data[2] = 1;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                       cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                       size_t size)
{
    int32_t batch;
    if (attribute != CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT || size != sizeof batch) return CUBLAS_STATUS_SUCCESS;
    memcpy(&batch, value, size);
    layout->data[2] = (uint64_t)batch;
    return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t operation, size_t size,
                                                      cublasComputeType_t compute, cudaDataType_t scale)
{
    return (void)operation, (void)size, (void)compute, (void)scale, CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                                     cublasLtMatmulDescAttributes_t attribute, const void *value,
                                                     size_t size)
{
    return (void)operation, (void)attribute, (void)value, (void)size, CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t size)
{
    return (void)preference, (void)size, CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                           cublasLtMatmulPreferenceAttributes_t attribute,
                                                           const void *value, size_t size)
{
    return (void)preference, (void)attribute, (void)value, (void)size, CUBLAS_STATUS_SUCCESS;
}

/* ---- algorithms ---- */

EXPORT cublasStatus_t cublasLtMatmulAlgoGetIds(cublasLtHandle_t handle, cublasComputeType_t compute,
                                               cudaDataType_t scale, cudaDataType_t a, cudaDataType_t b,
                                               cudaDataType_t c, cudaDataType_t d, int capacity, int ids[], int *count)
{
    (void)handle, (void)compute, (void)scale, (void)a, (void)b, (void)c, (void)d, (void)capacity;
    ids[0] = 7;
    ids[1] = 66;
    *count = 2;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t handle, cublasComputeType_t compute, cudaDataType_t scale,
                                             cudaDataType_t a, cudaDataType_t b, cudaDataType_t c, cudaDataType_t d,
                                             int id, cublasLtMatmulAlgo_t *algorithm)
{
    const fake_algorithm made = {.id = id, .split = 1};
    (void)handle, (void)compute, (void)scale, (void)a, (void)b, (void)c, (void)d;
    if (id != 7 && id != 66) return CUBLAS_STATUS_INVALID_VALUE;
    memset(algorithm, 0, sizeof *algorithm);
    memcpy(algorithm, &made, sizeof made);
    return CUBLAS_STATUS_SUCCESS;
}

/* Where a field lies; NULL: this algorithm has none. */
static void *field_of(fake_algorithm *algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, size_t *size)
{
    const bool is_new = algorithm->id == 66;
    *size = 4;
    switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID:
        return &algorithm->id;
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
        return &algorithm->tile;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        return &algorithm->split;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        return &algorithm->scheme;
    case CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING:
        return &algorithm->swizzle;
    case CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION:
        return &algorithm->custom;
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
        return is_new ? &algorithm->stages : NULL;
    case CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID:
        *size = 2;
        return is_new ? &algorithm->inner : NULL;
    case CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID:
        *size = 2;
        return is_new ? &algorithm->cluster : NULL;
    default:
        return NULL;
    }
}

EXPORT cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algorithm,
                                                           cublasLtMatmulAlgoConfigAttributes_t attribute, void *value,
                                                           size_t size, size_t *written)
{
    fake_algorithm read;
    size_t own;
    memcpy(&read, algorithm, sizeof read);
    const void *field = field_of(&read, attribute, &own);
    if (!field || own != size) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, field, size);
    *written = size;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algorithm,
                                                           cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                           const void *value, size_t size)
{
    fake_algorithm changed;
    size_t own;
    memcpy(&changed, algorithm, sizeof changed);
    void *field = field_of(&changed, attribute, &own);
    if (!field || own != size || attribute == CUBLASLT_ALGO_CONFIG_ID) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, value, size);
    memcpy(algorithm, &changed, sizeof changed);
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t *algorithm,
                                                        cublasLtMatmulAlgoCapAttributes_t attribute, void *value,
                                                        size_t size, size_t *written)
{
    fake_algorithm read;
    memcpy(&read, algorithm, sizeof read);
    const bool is_new = read.id == 66;
    const struct {
        cublasLtMatmulAlgoCapAttributes_t attribute;
        const void *value;
        size_t size;
    } capabilities[] = {
        {CUBLASLT_ALGO_CAP_SPLITK_SUPPORT, &(int32_t){1}, 4},
        {CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK, is_new ? &(uint32_t){7} : &(uint32_t){2}, 4},
        {CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT, is_new ? &(uint32_t){0} : &(uint32_t){1}, 4},
        {CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX, is_new ? &(int32_t){3} : &(int32_t){0}, 4},
        {CUBLASLT_ALGO_CAP_TILE_IDS, tiles, is_new ? sizeof tiles : 2 * sizeof tiles[0]},
        {CUBLASLT_ALGO_CAP_STAGES_IDS, stages, is_new ? sizeof stages : 0},
    };
    for (size_t i = 0; i < sizeof capabilities / sizeof capabilities[0]; i++) {
        if (capabilities[i].attribute != attribute) continue;
        if (size < capabilities[i].size) return CUBLAS_STATUS_INVALID_VALUE;
        memcpy(value, capabilities[i].value, capabilities[i].size);
        *written = capabilities[i].size;
        return CUBLAS_STATUS_SUCCESS;
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

static bool is_one_of(uint32_t value, const uint32_t *values, int count)
{
    for (int i = 0; i < count; i++) {
        if (values[i] == value) return true;
    }
    return false;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              const cublasLtMatmulAlgo_t *algorithm,
                                              cublasLtMatmulHeuristicResult_t *result)
{
    fake_algorithm f;
    const uint64_t rows = d->data[1];
    memcpy(&f, algorithm, sizeof f);
    (void)handle, (void)operation, (void)a, (void)b, (void)c;
    if (f.id == 7 && !is_one_of(f.tile, tiles, 2)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (f.id == 7 && (f.swizzle > 1 || f.custom > 0)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (f.id == 66 && (!is_one_of(f.tile, tiles, 3) || !is_one_of(f.stages, stages, 2) || f.cluster == 1 ||
                       f.cluster > 4 || f.custom > 3 || f.inner > 0 || f.swizzle > 0))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (f.tile == 23 && rows < 4) return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((f.split > 1) != (f.scheme != 0)) return CUBLAS_STATUS_NOT_SUPPORTED;
    result->workspaceSize = f.custom == 3 ? (size_t)64 << 20 : 0;
    result->wavesCount = (float)rows * (float)d->data[2] / (float)(f.tile / 10);
    return CUBLAS_STATUS_SUCCESS;
}

/* Offers tile 32 of 66, tile 20 of 7 split in two, then tile 20 of 7. */
EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                                     cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                     cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                     cublasLtMatmulPreference_t preference, int capacity,
                                                     cublasLtMatmulHeuristicResult_t results[], int *count)
{
    static const fake_algorithm offered[] = {{.id = 66, .tile = 32, .split = 1, .stages = 35},
                                             {.id = 7, .tile = 20, .split = 2, .scheme = 2},
                                             {.id = 7, .tile = 20, .split = 1}};
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference;
    for (*count = 0; *count < capacity && *count < 3; ++*count) {
        memset(&results[*count], 0, sizeof results[0]);
        memcpy(&results[*count].algo, &offered[*count], sizeof offered[0]);
    }
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha,
                                     const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                                     cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                                     cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                                     const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
                                     cudaStream_t stream)
{
    (void)handle, (void)operation, (void)alpha, (void)a, (void)a_layout, (void)b, (void)b_layout, (void)beta, (void)c;
    (void)c_layout, (void)d, (void)d_layout, (void)algorithm, (void)workspace, (void)workspace_bytes, (void)stream;
    return CUBLAS_STATUS_NOT_SUPPORTED;
}
