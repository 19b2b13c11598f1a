/* cublaslt_loop: one cublasLtMatmul an expert, spread over a few streams. */
#ifdef MOET_CUDA
#include <stdio.h>
#include <stdlib.h>

#include "cublaslt_space.h"

#define NAME "cublaslt_loop"
#define MAX_STREAMS 8

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

enum { PARAM_STREAMS, PARAM_TILE, PARAM_ALGO /* and the fields behind it */ };
static const moet_param params[] = {[PARAM_STREAMS] = {"streams", stream_values, MOET_SEARCH_FIRST},
                                    [PARAM_TILE] = {"tile", tile_values, MOET_SEARCH_FIRST},
                                    MOET_LT_FIELDS(MOET_LT_SPACE_PARAM)};

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
    if (moet_lt_space_is_named(config, PARAM_ALGO) && config->value[PARAM_TILE] != 0)
        return moet_refuse(why, NAME ": an algorithm has its tile by tile_id, not tile=%s",
                           moet_config_text(config, PARAM_TILE));
    for (int32_t i = 1; i < MOET_LT_FIELD_COUNT; i++) {
        if (!moet_lt_space_is_named(config, PARAM_ALGO) && config->value[PARAM_ALGO + i] != 0)
            return moet_refuse(why, NAME ": %s says nothing without algo", params[PARAM_ALGO + i].name);
    }
    if (problem->numerics == MOET_NUMERICS_TRAIN && moet_config_number(config, PARAM_ALGO + MOET_LT_FIELD_split_k) > 1)
        return moet_refuse(why, NAME ": split_k needs numerics=fast");
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
    return (size_t)moet_config_number(args->config, PARAM_STREAMS) * MOET_LT_WORKSPACE_BYTES;
}

/* ---- state ---- */

typedef struct loop_state {
    const struct moet_cuda_api *cuda;
    moet_lt_product product;
    int32_t stream_count; /* the caller's and stream_count - 1 of our own */
    CUstream streams[MAX_STREAMS];
    CUevent forked, joined[MAX_STREAMS]; /* index 0 is the caller's stream: unused */
    /* Scratch of a launch, so that it allocates nothing. */
    int64_t first_row[MOET_MAX_EXPERTS];
    int16_t bucket[MOET_MAX_EXPERTS];
    int16_t order[MOET_MAX_EXPERTS];
} loop_state;

static int32_t algorithms_of(const void *opaque, moet_algorithm *list)
{
    return moet_lt_product_algorithms(&((const loop_state *)opaque)->product, list);
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
    moet_lt_product_release(&state->product);
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
    const int32_t streams = moet_config_number(args->config, PARAM_STREAMS);
    const int32_t tile = args->config->value[PARAM_TILE];
    char wish_name[32];
    if (args->device_counts)
        return moet_fail(MOET_UNSUPPORTED, "cublaslt_loop: counts must be in host memory, not in device memory");
    MOET_TRY(moet_cuda_api_get(&cuda));
    loop_state *state = calloc(1, sizeof *state);
    if (!state) return moet_fail(MOET_NO_MEMORY, "cublaslt_loop: out of memory");
    state->cuda = cuda;
    state->stream_count = streams;
    moet_lt_wish wish = {.tile_id = tile_ids[tile], .name = wish_name};
    snprintf(wish_name, sizeof wish_name, "tile %s", tile_values[tile]);
    /* The streams' products run side by side and share the SMs allowed. */
    const int32_t sm_limit = args->max_sms > 0 ? (args->max_sms > streams ? args->max_sms / streams : 1) : 0;
    moet_status status = moet_lt_product_create(NAME, args, 1, 100, sm_limit, &state->product);
    if (status != MOET_OK) goto done;
    cublasLtMatmulAlgo_t named;
    if (moet_lt_space_is_named(args->config, PARAM_ALGO)) {
        status = moet_lt_space_make(&state->product, args->config, PARAM_ALGO, &named);
        if (status != MOET_OK) goto done;
        wish = (moet_lt_wish){.algorithm = &named, .name = "the algorithm"};
    }
    if ((status = moet_lt_product_choose(&state->product, args, &wish)) != MOET_OK) goto done;
    if ((status = create_streams(state)) != MOET_OK) goto done;
    *opaque = state;
    state = NULL;
done:
    release(state);
    return status;
}

/* The mean over rows of the rows of their expert. */
static int32_t typical_rows(const int32_t *counts, int32_t experts)
{
    int64_t rows = 0;
    double weighted = 0;
    for (int32_t e = 0; e < experts; e++) {
        rows += counts[e];
        weighted += (double)counts[e] * counts[e];
    }
    return rows > 0 ? (int32_t)(weighted / (double)rows + 0.5) : 1;
}

static moet_status list(const moet_prepare_args *args, const int32_t *counts, int32_t limit, moet_config_visit visit,
                        void *context)
{
    moet_lt_product product;
    const int32_t rows = typical_rows(counts, args->problem->experts);
    moet_status status = moet_lt_product_create(NAME, args, 1, 100, 0, &product);
    if (status == MOET_OK)
        status = moet_lt_space_list(&product, args->config, PARAM_ALGO, rows, (int32_t)args->max_rows, limit, visit,
                                    context);
    moet_lt_product_release(&product);
    return status;
}

/* ---- launch ---- */

/* Fills first_row, bucket and order: experts with rows, those with most first. */
static moet_status order_experts(loop_state *state, const int32_t *counts, int32_t *active)
{
    const moet_lt_product *product = &state->product;
    int32_t start[MOET_LT_MAX_BUCKETS + 1] = {0}; /* of each bucket in order; filled for the next lower one */
    int64_t row = 0;
    for (int32_t e = 0; e < product->problem.experts; e++) {
        state->first_row[e] = row;
        if (counts[e] <= 0) continue;
        row += counts[e];
        int32_t bucket = 0;
        MOET_TRY(moet_lt_product_find(product, counts[e], &bucket));
        state->bucket[e] = (int16_t)bucket;
        start[bucket]++;
    }
    int32_t total = 0;
    for (int32_t i = product->bucket_count - 1; i >= 0; i--) {
        int32_t in_bucket = start[i];
        start[i] = total;
        total += in_bucket;
    }
    for (int32_t e = 0; e < product->problem.experts; e++) {
        if (counts[e] > 0) state->order[start[state->bucket[e]]++] = (int16_t)e;
    }
    *active = total;
    return MOET_OK;
}

static moet_status multiply(loop_state *state, const moet_family_launch_args *args, int32_t expert, int32_t stream)
{
    const size_t n = (size_t)state->product.n, k = (size_t)state->product.k, element = 2;
    const size_t row = (size_t)state->first_row[expert], e = (size_t)expert;
    const moet_lt_launch launch = {
        .x = (const char *)args->x + row * k * element,
        .w = (const char *)args->w + e * n * k * element,
        .bias = args->bias ? (const char *)args->bias + e * n * element : NULL,
        .out = (char *)args->out + row * n * element,
        .workspace = (char *)args->workspace + (size_t)stream * MOET_LT_WORKSPACE_BYTES,
        .rows = args->counts[expert],
        .batch = 1,
        .bucket = state->bucket[expert],
        .stream = state->streams[stream],
    };
    return moet_lt_product_launch(&state->product, &launch);
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
    .list = list,
    .algorithms = algorithms_of,
    .validator = validator,
};
#else
typedef int moet_cublaslt_loop_unused; /* a translation unit must not be empty */
#endif
