#ifdef MOET_CUDA
#include "cublaslt_product.h"

#include <string.h>

#define HEURISTIC_RESULTS 32
#define EXACT_ROWS 4 /* up to here every number of rows has a bucket of its own */

typedef struct layouts {
    cublasLtMatrixLayoutOpaque_t w, x, out;
} layouts;

static cublasStatus_t set_layout(const moet_lt_api *lt, int32_t rows, int64_t columns, int32_t batch,
                                 cublasLtMatrixLayoutOpaque_t *layout)
{
    int64_t stride = rows * columns;
    cublasStatus_t result = lt->cublasLtMatrixLayoutInit_internal(layout, sizeof *layout, CUDA_R_16BF, (uint64_t)rows,
                                                                  (uint64_t)columns, rows);
    if (batch == 1 || result != CUBLAS_STATUS_SUCCESS) return result;
    result = lt->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
    if (result != CUBLAS_STATUS_SUCCESS) return result;
    return lt->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                                sizeof stride);
}

static cublasStatus_t set_layouts(const moet_lt_product *product, int32_t rows, int32_t batch, layouts *result)
{
    const bool kn = product->problem.layout == MOET_LAYOUT_KN;
    const int32_t n = product->n, k = product->k;
    cublasStatus_t status = set_layout(product->lt, kn ? n : k, kn ? k : n, batch, &result->w);
    if (status == CUBLAS_STATUS_SUCCESS) status = set_layout(product->lt, k, rows, batch, &result->x);
    if (status == CUBLAS_STATUS_SUCCESS) status = set_layout(product->lt, n, rows, batch, &result->out);
    return status;
}

/* The most experts of a launch that has so many rows of each. */
static int32_t batch_of(const moet_lt_product *product, int32_t rows)
{
    const int64_t most = product->padded_rows / rows;
    return most < 1 ? 1 : most < product->batch ? (int32_t)most : product->batch;
}

static cublasStatus_t set_bias(moet_lt_product *product, const void *bias)
{
    return product->lt->cublasLtMatmulDescSetAttribute(&product->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                       sizeof bias);
}

/* Everything that no launch changes, and a bias pointer whose alignment is that of the real ones. */
static moet_status describe(moet_lt_product *product, int32_t sm_limit)
{
    const moet_lt_api *lt = product->lt;
    const bool bias = product->problem.bias;
    cublasOperation_t w_operation = product->problem.layout == MOET_LAYOUT_KN ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS; /* added to the fp32 accumulator */
    cudaDataType_t bias_type = CUDA_R_16BF;
    int64_t bias_stride = product->n;
    cublasStatus_t result = lt->cublasLtMatmulDescInit_internal(&product->operation, sizeof product->operation,
                                                                CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const struct {
        bool wanted;
        cublasLtMatmulDescAttributes_t attribute;
        const void *value;
        size_t size_bytes;
    } attributes[] = {
        {true, CUBLASLT_MATMUL_DESC_TRANSA, &w_operation, sizeof w_operation},
        {bias, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue},
        {bias, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type},
        {bias && product->batch > 1, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &bias_stride, sizeof bias_stride},
        {sm_limit > 0, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, &sm_limit, sizeof sm_limit},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(attributes) && result == CUBLAS_STATUS_SUCCESS; i++) {
        if (attributes[i].wanted)
            result = lt->cublasLtMatmulDescSetAttribute(&product->operation, attributes[i].attribute,
                                                        attributes[i].value, attributes[i].size_bytes);
    }
    if (result == CUBLAS_STATUS_SUCCESS && bias) result = set_bias(product, (const void *)(uintptr_t)16);
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK
                                           : moet_lt_fail(lt, product->family, result, "describing the product");
}

moet_status moet_lt_product_create(const char *family, const moet_prepare_args *args, int32_t batch, int32_t percent,
                                   int32_t sm_limit, moet_lt_product *product)
{
    *product = (moet_lt_product){.family = family,
                                 .problem = *args->problem,
                                 .n = moet_problem_n(args->problem),
                                 .k = moet_problem_k(args->problem),
                                 .cc_major = args->device->info.cc_major,
                                 .batch = batch,
                                 .padded_rows = args->max_rows * percent / 100};
    MOET_TRY(moet_lt_get(family, &product->lt));
    char why[MOET_REASON_SIZE];
    if (!moet_lt_takes_sms((int64_t)product->lt->cublasLtGetVersion(), product->cc_major, sm_limit, why))
        return moet_fail(MOET_UNSUPPORTED, "%s: %s", family, why);
    cublasStatus_t result = product->lt->cublasLtCreate(&product->handle);
    if (result != CUBLAS_STATUS_SUCCESS) {
        product->handle = NULL;
        return moet_lt_fail(product->lt, family, result, "creating a handle");
    }
    return describe(product, sm_limit);
}

void moet_lt_product_release(moet_lt_product *product)
{
    if (product->handle) product->lt->cublasLtDestroy(product->handle);
    product->handle = NULL;
}

/* ---- algorithms ---- */

static moet_status set_preference(const moet_lt_product *product, cublasLtMatmulPreferenceOpaque_t *preference)
{
    const moet_lt_api *lt = product->lt;
    uint64_t workspace = MOET_LT_WORKSPACE_BYTES;
    uint32_t reduction = product->problem.numerics == MOET_NUMERICS_FAST ? CUBLASLT_REDUCTION_SCHEME_MASK
                                                                         : CUBLASLT_REDUCTION_SCHEME_NONE;
    uint32_t alignment = 16; /* an expert may start at any row, and a row is a multiple of 16 bytes */
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t size_bytes;
    } attributes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment},
    };
    cublasStatus_t result = lt->cublasLtMatmulPreferenceInit_internal(preference, sizeof *preference);
    for (int32_t i = 0; i < MOET_COUNT_OF(attributes) && result == CUBLAS_STATUS_SUCCESS; i++)
        result = lt->cublasLtMatmulPreferenceSetAttribute(preference, attributes[i].attribute, attributes[i].value,
                                                          attributes[i].size_bytes);
    return result == CUBLAS_STATUS_SUCCESS
               ? MOET_OK
               : moet_lt_fail(lt, product->family, result, "setting the heuristic's preferences");
}

/* Within the workspace. */
static bool runs_at(const moet_lt_product *product, const cublasLtMatmulAlgo_t *algorithm, int32_t rows, float *waves)
{
    layouts at;
    cublasLtMatmulHeuristicResult_t check = {0};
    if (set_layouts(product, rows, batch_of(product, rows), &at) != CUBLAS_STATUS_SUCCESS) return false;
    /* The library's descriptors are pointers to non-const, and it only reads them. */
    cublasStatus_t result =
        product->lt->cublasLtMatmulAlgoCheck(product->handle, (cublasLtMatmulDesc_t)(uintptr_t)&product->operation,
                                             &at.w, &at.x, &at.out, &at.out, algorithm, &check);
    if (waves) *waves = check.wavesCount;
    return result == CUBLAS_STATUS_SUCCESS && check.workspaceSize <= MOET_LT_WORKSPACE_BYTES;
}

bool moet_lt_product_takes(const moet_lt_product *product, const cublasLtMatmulAlgo_t *algorithm, int32_t lower,
                           int32_t upper, float *waves)
{
    return moet_lt_sums_rightly(product->lt, algorithm, product->problem.numerics, product->cc_major) &&
           runs_at(product, algorithm, upper, waves) && (lower == upper || runs_at(product, algorithm, lower, NULL));
}

moet_status moet_lt_product_ask(const moet_lt_product *product, int32_t rows, int32_t capacity,
                                cublasLtMatmulAlgo_t *algorithms, int32_t *count)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t results[HEURISTIC_RESULTS];
    layouts at;
    int found = 0;
    MOET_TRY(set_preference(product, &preference));
    cublasStatus_t result = set_layouts(product, rows, batch_of(product, rows), &at);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = product->lt->cublasLtMatmulAlgoGetHeuristic(
            product->handle, (cublasLtMatmulDesc_t)(uintptr_t)&product->operation, &at.w, &at.x, &at.out, &at.out,
            &preference, HEURISTIC_RESULTS, results, &found);
    if (result != CUBLAS_STATUS_SUCCESS && result != CUBLAS_STATUS_NOT_SUPPORTED)
        return moet_lt_fail(product->lt, product->family, result, "asking the heuristic");
    if (result == CUBLAS_STATUS_NOT_SUPPORTED) found = 0;
    *count = 0;
    for (int i = 0; i < found && *count < capacity; i++) {
        if (results[i].state == CUBLAS_STATUS_SUCCESS && results[i].workspaceSize <= MOET_LT_WORKSPACE_BYTES &&
            moet_lt_sums_rightly(product->lt, &results[i].algo, product->problem.numerics, product->cc_major))
            algorithms[(*count)++] = results[i].algo;
    }
    return MOET_OK;
}

/* ---- buckets ---- */

/* The next bucket's upper end: one row more while rows are few, then half an octave. */
static int32_t next_bucket(int32_t rows, int64_t max_rows)
{
    int64_t next =
        rows < EXACT_ROWS ? rows + 1 : (int64_t)((double)rows * 1.414213562373095 + 0.5); /* half an octave */
    return (int32_t)(next < max_rows ? next : max_rows);
}

/* Asks for the bucket's upper end, of which algorithms that also run at its lower end are taken. *is_as_wished: it has
 * the tile. */
static moet_status choose_one(const moet_lt_product *product, int32_t lower, int32_t upper, const moet_lt_wish *wish,
                              cublasLtMatmulAlgo_t *algorithm, bool *is_as_wished)
{
    cublasLtMatmulAlgo_t found[HEURISTIC_RESULTS];
    int32_t count = 0, first = -1, chosen = -1, place = 0;
    if (wish->algorithm) {
        if (!moet_lt_product_takes(product, wish->algorithm, lower, upper, NULL))
            return moet_fail(MOET_UNSUPPORTED, "%s: cuBLASLt refuses %s for %d to %d rows, N %d, K %d", product->family,
                             wish->name, lower, upper, product->n, product->k);
        *algorithm = *wish->algorithm;
        *is_as_wished = true;
        return MOET_OK;
    }
    MOET_TRY(moet_lt_product_ask(product, upper, HEURISTIC_RESULTS, found, &count));
    for (int32_t i = 0; i < count && place <= wish->index; i++) {
        const bool matches =
            wish->tile_id == CUBLASLT_MATMUL_TILE_UNDEFINED ||
            moet_lt_algorithm_attribute(product->lt, &found[i], CUBLASLT_ALGO_CONFIG_TILE_ID) == wish->tile_id;
        if ((first >= 0 && !matches) || (lower < upper && !runs_at(product, &found[i], lower, NULL))) continue;
        if (first < 0) first = i;
        if (!matches) continue;
        chosen = i;
        place++;
    }
    if (first < 0)
        return moet_fail(MOET_UNSUPPORTED, "%s: cuBLASLt has no algorithm for %d rows, N %d, K %d", product->family,
                         upper, product->n, product->k);
    *algorithm = found[chosen >= 0 ? chosen : first];
    *is_as_wished = place > wish->index;
    return MOET_OK;
}

/* The table's algorithm for a bucket, if it is for the same rows and still taken. */
static bool restore(const moet_lt_product *product, const moet_prepare_args *args, int32_t lower, int32_t upper,
                    cublasLtMatmulAlgo_t *algorithm)
{
    if (args->max_sms > 0) return false; /* chosen for all SMs */
    for (int32_t i = 0; i < args->algorithm_count; i++) {
        if (args->algorithms[i].rows != upper) continue;
        memcpy(algorithm, args->algorithms[i].bytes, sizeof *algorithm);
        return moet_lt_product_takes(product, algorithm, lower, upper, NULL);
    }
    return false;
}

moet_status moet_lt_product_choose(moet_lt_product *product, const moet_prepare_args *args, const moet_lt_wish *wish)
{
    bool any_as_wished = false;
    for (int32_t rows = 0; rows < args->max_rows;) {
        bool is_as_wished = false;
        moet_lt_bucket *bucket = &product->buckets[product->bucket_count];
        if (product->bucket_count == MOET_LT_MAX_BUCKETS)
            return moet_fail(MOET_INVALID, "%s: max_rows %lld is beyond the limit %d", product->family,
                             (long long)args->max_rows, MOET_MAX_ROWS);
        bucket->rows = next_bucket(rows, args->max_rows);
        if (!wish->algorithm && restore(product, args, rows + 1, bucket->rows, &bucket->algorithm))
            is_as_wished = true;
        else
            MOET_TRY(choose_one(product, rows + 1, bucket->rows, wish, &bucket->algorithm, &is_as_wished));
        product->bucket_count++;
        any_as_wished |= is_as_wished;
        rows = bucket->rows;
    }
    if (!any_as_wished)
        return moet_fail(MOET_UNSUPPORTED, "%s: cuBLASLt offers no algorithm with %s for N %d, K %d", product->family,
                         wish->name, product->n, product->k);
    return MOET_OK;
}

moet_status moet_lt_product_find(const moet_lt_product *product, int32_t rows, int32_t *bucket)
{
    int32_t low = 0, high = product->bucket_count; /* the first bucket with at least `rows` is in [low, high] */
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (product->buckets[middle].rows < rows)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == product->bucket_count)
        return moet_fail(MOET_INVALID, "%s: an expert has %d rows, prepared for at most %d", product->family, rows,
                         product->buckets[low - 1].rows);
    *bucket = low;
    return MOET_OK;
}

moet_status moet_lt_product_launch(moet_lt_product *product, const moet_lt_launch *launch)
{
    static const float one = 1, zero = 0;
    layouts at;
    cublasStatus_t result = set_layouts(product, launch->rows, launch->batch, &at);
    if (result == CUBLAS_STATUS_SUCCESS && product->problem.bias) result = set_bias(product, launch->bias);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = product->lt->cublasLtMatmul(product->handle, &product->operation, &one, launch->w, &at.w, launch->x,
                                             &at.x, &zero, launch->out, &at.out, launch->out, &at.out,
                                             &product->buckets[launch->bucket].algorithm, launch->workspace,
                                             MOET_LT_WORKSPACE_BYTES, (cudaStream_t)launch->stream);
    return result == CUBLAS_STATUS_SUCCESS
               ? MOET_OK
               : moet_lt_fail(product->lt, product->family, result, "launching an expert's product");
}

int32_t moet_lt_product_algorithms(const moet_lt_product *product, moet_algorithm *list)
{
    for (int32_t i = 0; i < product->bucket_count; i++)
        moet_lt_algorithm_describe(product->lt, &product->buckets[i].algorithm, product->buckets[i].rows, &list[i]);
    return product->bucket_count;
}
#else
typedef int moet_cublaslt_product_unused; /* a translation unit must not be empty */
#endif
