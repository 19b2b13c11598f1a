/* cublaslt_loop: one cublasLtMatmul an expert, spread over a few streams.
 *
 * Heuristics are asked at preparation only, once for each bucket of rows an expert may have; a launch picks the
 * bucket's algorithm and passes the real number of rows. */
#ifdef MOET_CUDA
#include <stdlib.h>

#include "cublaslt.h"

#define NAME "cublaslt_loop"
#define MAX_STREAMS 8
#define STREAM_WORKSPACE_BYTES ((size_t)32 << 20) /* what cuBLAS itself takes on Hopper */
#define HEURISTIC_RESULTS 16
#define EXACT_ROWS 4   /* up to here every number of rows has a bucket of its own */
#define MAX_BUCKETS 48 /* 4 + 2 an octave up to MOET_MAX_ROWS is 40 */

/* ---- parameters ---- */

/* The tiles that cuBLASLt's heuristics offer most on sm_80 and sm_90; what else it has is behind "auto". */
#define TILES(X)                                                                                                       \
    X(64x128)                                                                                                          \
    X(128x128)                                                                                                         \
    X(128x192)                                                                                                         \
    X(128x256)                                                                                                         \
    X(256x128)

static const char *const stream_values[] = {"1", "2", "4", "8", NULL};
static const char *const tile_values[] = {
    "auto", /* the heuristic's first */
#define MOET_X(tile) #tile,
    TILES(MOET_X)
#undef MOET_X
        NULL,
};
static const uint32_t tile_ids[] = {CUBLASLT_MATMUL_TILE_UNDEFINED,
#define MOET_X(tile) CUBLASLT_MATMUL_TILE_##tile,
                                    TILES(MOET_X)
#undef MOET_X
};

enum { PARAM_STREAMS, PARAM_TILE };
static const moet_param params[] = {
    [PARAM_STREAMS] = {"streams", stream_values, MOET_SEARCH_FIRST},
    [PARAM_TILE] = {"tile", tile_values, MOET_SEARCH_FIRST},
};

static moet_traits traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem, (void)config;
    /* Not batch-invariant: buckets differ in their kernels, and cuBLASLt promises nothing across kernels. */
    return (moet_traits){.host_counts = true, .capturable = true};
}

static bool applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                       char *why)
{
    if (!moet_family_accepts(config->family, problem, device, why)) return false;
    if (device->cc_major < 8)
        return moet_refuse(why, "cublaslt_loop needs BF16 tensor cores (sm_80), the device is sm_%d%d",
                           device->cc_major, device->cc_minor);
    int32_t streams = moet_config_number(config, PARAM_STREAMS);
    if (streams > problem->experts)
        return moet_refuse(why, "%d streams for %d experts are no more than fewer streams", streams, problem->experts);
    return true;
}

static void default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                           moet_config *config)
{
    (void)rows_hint, (void)device;
    moet_config_set(config, "streams", problem->experts >= 4 ? "4" : problem->experts >= 2 ? "2" : "1");
    moet_config_set(config, "tile", "auto");
}

static size_t workspace_bytes(const moet_prepare_args *args)
{
    return (size_t)moet_config_number(args->config, PARAM_STREAMS) * STREAM_WORKSPACE_BYTES;
}

/* ---- state ---- */

/* Serves experts with more rows than the bucket before and up to `rows`. */
typedef struct row_bucket {
    int32_t rows;
    cublasLtMatmulAlgo_t algorithm;
} row_bucket;

typedef struct loop_state {
    const struct moet_cuda_api *cuda;
    const moet_lt_api *lt;
    cublasLtHandle_t handle;
    moet_problem problem;
    int32_t n, k, cc_major;
    cublasLtMatmulDescOpaque_t operation; /* its bias pointer changes from expert to expert */
    cublasLtMatrixLayoutOpaque_t w_layout;
    int32_t bucket_count;
    row_bucket buckets[MAX_BUCKETS];
    int32_t stream_count; /* the caller's and stream_count - 1 of our own */
    CUstream streams[MAX_STREAMS];
    CUevent forked, joined[MAX_STREAMS]; /* index 0 is the caller's stream: unused */
    /* Scratch of a launch, so that it allocates nothing. */
    int64_t first_row[MOET_MAX_EXPERTS];
    int16_t bucket[MOET_MAX_EXPERTS];
    int16_t order[MOET_MAX_EXPERTS];
} loop_state;

static cublasStatus_t set_x_layout(const loop_state *state, int64_t rows, cublasLtMatrixLayoutOpaque_t *layout)
{
    return state->lt->cublasLtMatrixLayoutInit_internal(layout, sizeof *layout, CUDA_R_16BF, (uint64_t)state->k,
                                                        (uint64_t)rows, state->k);
}

static cublasStatus_t set_out_layout(const loop_state *state, int64_t rows, cublasLtMatrixLayoutOpaque_t *layout)
{
    return state->lt->cublasLtMatrixLayoutInit_internal(layout, sizeof *layout, CUDA_R_16BF, (uint64_t)state->n,
                                                        (uint64_t)rows, state->n);
}

static cublasStatus_t set_bias(loop_state *state, const void *bias)
{
    return state->lt->cublasLtMatmulDescSetAttribute(&state->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                     sizeof bias);
}

/* Everything that no launch changes, and a bias pointer whose alignment is that of the real ones. */
static moet_status describe(loop_state *state, int32_t sm_limit)
{
    const moet_lt_api *lt = state->lt;
    bool kn = state->problem.layout == MOET_LAYOUT_KN;
    cublasOperation_t w_operation = kn ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS; /* added to the fp32 accumulator */
    cudaDataType_t bias_type = CUDA_R_16BF;
    cublasStatus_t result =
        lt->cublasLtMatmulDescInit_internal(&state->operation, sizeof state->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const struct {
        bool wanted;
        cublasLtMatmulDescAttributes_t attribute;
        const void *value;
        size_t size_bytes;
    } attributes[] = {
        {true, CUBLASLT_MATMUL_DESC_TRANSA, &w_operation, sizeof w_operation},
        {state->problem.bias, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue},
        {state->problem.bias, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type},
        {sm_limit > 0, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, &sm_limit, sizeof sm_limit},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(attributes) && result == CUBLAS_STATUS_SUCCESS; i++) {
        if (attributes[i].wanted)
            result = lt->cublasLtMatmulDescSetAttribute(&state->operation, attributes[i].attribute, attributes[i].value,
                                                        attributes[i].size_bytes);
    }
    if (result == CUBLAS_STATUS_SUCCESS && state->problem.bias) result = set_bias(state, (const void *)(uintptr_t)16);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = lt->cublasLtMatrixLayoutInit_internal(&state->w_layout, sizeof state->w_layout, CUDA_R_16BF,
                                                       (uint64_t)(kn ? state->n : state->k),
                                                       (uint64_t)(kn ? state->k : state->n), kn ? state->n : state->k);
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK : moet_lt_fail(lt, NAME, result, "describing the product");
}

static moet_status set_preference(const loop_state *state, cublasLtMatmulPreferenceOpaque_t *preference)
{
    const moet_lt_api *lt = state->lt;
    uint64_t workspace = STREAM_WORKSPACE_BYTES;
    uint32_t reduction =
        state->problem.numerics == MOET_NUMERICS_FAST ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_NONE;
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
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK
                                           : moet_lt_fail(lt, NAME, result, "setting the heuristic's preferences");
}

/* ---- algorithms ---- */

/* Whether an algorithm found for a bucket's upper end also runs at its lower end, within the workspace. */
static bool runs_at(const loop_state *state, int64_t rows, const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatrixLayoutOpaque_t x_layout, out_layout;
    cublasLtMatmulHeuristicResult_t check = {0};
    if (set_x_layout(state, rows, &x_layout) != CUBLAS_STATUS_SUCCESS ||
        set_out_layout(state, rows, &out_layout) != CUBLAS_STATUS_SUCCESS)
        return false;
    /* The library's descriptors are pointers to non-const, and it only reads them. */
    cublasStatus_t result = state->lt->cublasLtMatmulAlgoCheck(
        state->handle, (cublasLtMatmulDesc_t)(uintptr_t)&state->operation,
        (cublasLtMatrixLayout_t)(uintptr_t)&state->w_layout, &x_layout, &out_layout, &out_layout, algorithm, &check);
    return result == CUBLAS_STATUS_SUCCESS && check.workspaceSize <= STREAM_WORKSPACE_BYTES;
}

/* Asks for the bucket's upper end: *algorithm is the first that serves the bucket and has the tile, else the first that
 * serves it, and *has_tile says which. */
static moet_status choose_algorithm(const loop_state *state, const cublasLtMatmulPreferenceOpaque_t *preference,
                                    int32_t lower, int32_t upper, uint32_t tile_id, cublasLtMatmulAlgo_t *algorithm,
                                    bool *has_tile)
{
    const moet_lt_api *lt = state->lt;
    cublasLtMatrixLayoutOpaque_t x_layout, out_layout;
    cublasLtMatmulHeuristicResult_t results[HEURISTIC_RESULTS];
    int found = 0, first = -1, chosen = -1;
    cublasStatus_t result = set_x_layout(state, upper, &x_layout);
    if (result == CUBLAS_STATUS_SUCCESS) result = set_out_layout(state, upper, &out_layout);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = lt->cublasLtMatmulAlgoGetHeuristic(
            state->handle, (cublasLtMatmulDesc_t)(uintptr_t)&state->operation,
            (cublasLtMatrixLayout_t)(uintptr_t)&state->w_layout, &x_layout, &out_layout, &out_layout,
            (cublasLtMatmulPreference_t)(uintptr_t)preference, HEURISTIC_RESULTS, results, &found);
    if (result != CUBLAS_STATUS_SUCCESS && result != CUBLAS_STATUS_NOT_SUPPORTED)
        return moet_lt_fail(lt, NAME, result, "asking the heuristic");
    if (result == CUBLAS_STATUS_NOT_SUPPORTED) found = 0;
    for (int i = 0; i < found && chosen < 0; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS || results[i].workspaceSize > STREAM_WORKSPACE_BYTES ||
            !moet_lt_sums_rightly(lt, &results[i].algo, state->problem.numerics, state->cc_major))
            continue;
        bool tile_matches = tile_id == CUBLASLT_MATMUL_TILE_UNDEFINED ||
                            moet_lt_algorithm_attribute(lt, &results[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID) == tile_id;
        if ((first >= 0 && !tile_matches) || (lower < upper && !runs_at(state, lower, &results[i].algo))) continue;
        if (first < 0) first = i;
        if (tile_matches) chosen = i;
    }
    if (first < 0)
        return moet_fail(MOET_UNSUPPORTED, "cublaslt_loop: cuBLASLt has no algorithm for %d rows, N %d, K %d", upper,
                         state->n, state->k);
    *algorithm = results[chosen >= 0 ? chosen : first].algo;
    *has_tile = chosen >= 0;
    return MOET_OK;
}

/* The next bucket's upper end: one row more while rows are few, then half an octave. */
static int32_t next_bucket(int32_t rows, int64_t max_rows)
{
    int64_t next =
        rows < EXACT_ROWS ? rows + 1 : (int64_t)((double)rows * 1.414213562373095 + 0.5); /* half an octave */
    return (int32_t)(next < max_rows ? next : max_rows);
}

static moet_status choose_algorithms(loop_state *state, int64_t max_rows, uint32_t tile_id, const char *tile_name)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    bool tile_seen = false;
    MOET_TRY(set_preference(state, &preference));
    for (int32_t rows = 0; rows < max_rows;) {
        bool has_tile = false;
        row_bucket *bucket = &state->buckets[state->bucket_count];
        if (state->bucket_count == MAX_BUCKETS)
            return moet_fail(MOET_INVALID, "cublaslt_loop: max_rows %lld is beyond the limit %d", (long long)max_rows,
                             MOET_MAX_ROWS);
        bucket->rows = next_bucket(rows, max_rows);
        MOET_TRY(choose_algorithm(state, &preference, rows + 1, bucket->rows, tile_id, &bucket->algorithm, &has_tile));
        state->bucket_count++;
        tile_seen |= has_tile;
        rows = bucket->rows;
    }
    if (!tile_seen)
        return moet_fail(MOET_UNSUPPORTED, "cublaslt_loop: cuBLASLt offers no algorithm with tile %s for N %d, K %d",
                         tile_name, state->n, state->k);
    return MOET_OK;
}

/* ---- prepare, release ---- */

static void release(void *opaque)
{
    loop_state *state = opaque;
    if (!state) return;
    for (int32_t i = 1; i < MAX_STREAMS; i++) {
        if (state->joined[i]) state->cuda->cuEventDestroy(state->joined[i]);
        if (state->streams[i]) state->cuda->cuStreamDestroy(state->streams[i]);
    }
    if (state->forked) state->cuda->cuEventDestroy(state->forked);
    if (state->handle) state->lt->cublasLtDestroy(state->handle);
    free(state);
}

static moet_status create_streams(loop_state *state)
{
    const struct moet_cuda_api *cuda = state->cuda;
    CUresult result = CUDA_SUCCESS;
    if (state->stream_count > 1) result = cuda->cuEventCreate(&state->forked, CU_EVENT_DISABLE_TIMING);
    for (int32_t i = 1; i < state->stream_count && result == CUDA_SUCCESS; i++) {
        result = cuda->cuStreamCreate(&state->streams[i], CU_STREAM_NON_BLOCKING);
        if (result == CUDA_SUCCESS) result = cuda->cuEventCreate(&state->joined[i], CU_EVENT_DISABLE_TIMING);
    }
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "cublaslt_loop: creating streams");
}

static moet_status prepare(const moet_prepare_args *args, void **opaque)
{
    const struct moet_cuda_api *cuda;
    const moet_lt_api *lt;
    int32_t streams = moet_config_number(args->config, PARAM_STREAMS);
    if (args->device_counts)
        return moet_fail(MOET_UNSUPPORTED, "cublaslt_loop: counts must be in host memory, not in device memory");
    MOET_TRY(moet_cuda_api_get(&cuda));
    MOET_TRY(moet_lt_get(NAME, &lt));
    loop_state *state = calloc(1, sizeof *state);
    if (!state) return moet_fail(MOET_NO_MEMORY, "cublaslt_loop: out of memory");
    state->cuda = cuda;
    state->lt = lt;
    state->problem = *args->problem;
    state->n = moet_problem_n(args->problem);
    state->k = moet_problem_k(args->problem);
    state->cc_major = args->device->info.cc_major;
    state->stream_count = streams;
    moet_status status = MOET_OK;
    cublasStatus_t result = lt->cublasLtCreate(&state->handle);
    if (result != CUBLAS_STATUS_SUCCESS) {
        state->handle = NULL;
        status = moet_lt_fail(lt, NAME, result, "creating a handle");
        goto done;
    }
    /* The streams' products run side by side and share the SMs allowed. */
    int32_t sm_limit = args->max_sms > 0 ? (args->max_sms > streams ? args->max_sms / streams : 1) : 0;
    int32_t tile = args->config->value[PARAM_TILE];
    if ((status = describe(state, sm_limit)) != MOET_OK) goto done;
    if ((status = choose_algorithms(state, args->max_rows, tile_ids[tile], tile_values[tile])) != MOET_OK) goto done;
    if ((status = create_streams(state)) != MOET_OK) goto done;
    *opaque = state;
    state = NULL;
done:
    release(state);
    return status;
}

/* ---- launch ---- */

static int32_t find_bucket(const loop_state *state, int32_t rows)
{
    int32_t low = 0, high = state->bucket_count; /* the first bucket with at least `rows` is in [low, high] */
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (state->buckets[middle].rows < rows)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Fills first_row, bucket and order: experts with rows, those with most first. */
static moet_status order_experts(loop_state *state, const int32_t *counts, int32_t *active)
{
    int32_t start[MAX_BUCKETS + 1] = {0}; /* of each bucket in order; filled for the next lower one */
    int64_t row = 0;
    for (int32_t e = 0; e < state->problem.experts; e++) {
        state->first_row[e] = row;
        if (counts[e] <= 0) continue;
        row += counts[e];
        int32_t bucket = find_bucket(state, counts[e]);
        if (bucket == state->bucket_count)
            return moet_fail(MOET_INVALID, "cublaslt_loop: expert %d has %d rows, prepared for at most %d", e,
                             counts[e], state->buckets[bucket - 1].rows);
        state->bucket[e] = (int16_t)bucket;
        start[bucket]++;
    }
    int32_t total = 0;
    for (int32_t i = state->bucket_count - 1; i >= 0; i--) {
        int32_t in_bucket = start[i];
        start[i] = total;
        total += in_bucket;
    }
    for (int32_t e = 0; e < state->problem.experts; e++) {
        if (counts[e] > 0) state->order[start[state->bucket[e]]++] = (int16_t)e;
    }
    *active = total;
    return MOET_OK;
}

static moet_status multiply(loop_state *state, const moet_family_launch_args *args, int32_t expert, int32_t stream)
{
    static const float one = 1, zero = 0;
    const moet_lt_api *lt = state->lt;
    size_t n = (size_t)state->n, k = (size_t)state->k, row = (size_t)state->first_row[expert], element = 2;
    int32_t rows = args->counts[expert];
    const char *x = (const char *)args->x + row * k * element;
    const char *w = (const char *)args->w + (size_t)expert * n * k * element;
    char *out = (char *)args->out + row * n * element;
    cublasLtMatrixLayoutOpaque_t x_layout, out_layout;
    cublasStatus_t result = set_x_layout(state, rows, &x_layout);
    if (result == CUBLAS_STATUS_SUCCESS) result = set_out_layout(state, rows, &out_layout);
    if (result == CUBLAS_STATUS_SUCCESS && state->problem.bias)
        result = set_bias(state, (const char *)args->bias + (size_t)expert * n * element);
    if (result == CUBLAS_STATUS_SUCCESS)
        result =
            lt->cublasLtMatmul(state->handle, &state->operation, &one, w, &state->w_layout, x, &x_layout, &zero, out,
                               &out_layout, out, &out_layout, &state->buckets[state->bucket[expert]].algorithm,
                               (char *)args->workspace + (size_t)stream * STREAM_WORKSPACE_BYTES,
                               STREAM_WORKSPACE_BYTES, (cudaStream_t)state->streams[stream]);
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK : moet_lt_fail(lt, NAME, result, "launching an expert's product");
}

/* Greedy: each expert, longest first, to the stream with least work so far. A product costs about as much as this many
 * rows even when it has one: its weights must be read. */
#define ROWS_WORTH_WEIGHTS 128

static moet_status multiply_all(loop_state *state, const moet_family_launch_args *args, int32_t active, int32_t streams)
{
    int64_t load[MAX_STREAMS] = {0};
    for (int32_t i = 0; i < active; i++) {
        int32_t expert = state->order[i], least = 0;
        for (int32_t s = 1; s < streams; s++) {
            if (load[s] < load[least]) least = s;
        }
        load[least] += args->counts[expert] + ROWS_WORTH_WEIGHTS;
        MOET_TRY(multiply(state, args, expert, least));
    }
    return MOET_OK;
}

static moet_status launch(void *opaque, const moet_family_launch_args *args)
{
    loop_state *state = opaque;
    const struct moet_cuda_api *cuda = state->cuda;
    int32_t active = 0, forked = 1;
    if (args->counts_on_device) return moet_fail(MOET_INVALID, "cublaslt_loop: counts must be in host memory");
    MOET_TRY(order_experts(state, args->counts, &active));
    if (active == 0) return MOET_OK;
    int32_t streams = active < state->stream_count ? active : state->stream_count;
    moet_status status = MOET_OK;
    CUresult result = CUDA_SUCCESS;
    state->streams[0] = args->stream;
    if (streams > 1) result = cuda->cuEventRecord(state->forked, state->streams[0]);
    while (forked < streams && result == CUDA_SUCCESS) {
        result = cuda->cuStreamWaitEvent(state->streams[forked], state->forked, 0);
        if (result == CUDA_SUCCESS) forked++;
    }
    if (result != CUDA_SUCCESS) status = moet_cuda_fail(result, "cublaslt_loop: forking streams");
    if (status == MOET_OK) status = multiply_all(state, args, active, streams);
    /* Also after an error: a capture must not be left with a stream that never came back. */
    for (int32_t i = 1; i < forked; i++) {
        result = cuda->cuEventRecord(state->joined[i], state->streams[i]);
        if (result == CUDA_SUCCESS) result = cuda->cuStreamWaitEvent(state->streams[0], state->joined[i], 0);
        if (result != CUDA_SUCCESS && status == MOET_OK)
            status = moet_cuda_fail(result, "cublaslt_loop: joining streams");
    }
    return status;
}

static moet_status validator(char *text) { return moet_lt_validator(NAME, text); }

const moet_family moet_family_cublaslt_loop = {
    .name = "cublaslt_loop",
    .version = 1,
    .backend = "cuda",
    .summary = "cuBLASLt, one product an expert, over 1 to 8 streams",
    .params = params,
    .param_count = MOET_COUNT_OF(params),
    .traits = traits,
    .applicable = applicable,
    .default_config = default_config,
    .workspace_bytes = workspace_bytes,
    .prepare = prepare,
    .launch = launch,
    .release = release,
    .validator = validator,
};
#else
typedef int moet_cublaslt_loop_unused; /* a translation unit must not be empty */
#endif
