/* cublaslt_batched: experts that follow each other and have like counts as one strided batch of cublasLtMatmul.
 *
 * A batch has as many rows an expert as its longest expert. Where all its experts have as many, it reads x and writes
 * out where they are; otherwise its rows are copied into a padded buffer and out of one, in the same launch. Batches
 * are as long as their padding allows, one after the other: a near-balanced routing is one batch, a skewed one falls
 * apart into many, which other families serve better. */
#ifdef MOET_CUDA
#include <stdlib.h>
#include <string.h>

#include "cublaslt_batch.h"
#include "cublaslt_product.h"

extern const char moet_source_cublaslt_batched[];

#define NAME "cublaslt_batched"

/* ---- parameters ---- */

/* A batch's rows with padding over its rows. 1: only equal counts are one batch. */
static const char *const pad_values[] = {"1.5", "1.25", "1.1", "1", NULL};
static const int32_t pad_percents[] = {150, 125, 110, 100};
static const char *const index_values[] = {"0", "1", "2", "3", "4", "5", "6", "7", NULL};

enum { PARAM_PAD, PARAM_INDEX };
static const moet_param params[] = {
    [PARAM_PAD] = {"pad", pad_values, MOET_SEARCH_FIRST},
    [PARAM_INDEX] = {"index", index_values, MOET_SEARCH_AROUND}, /* place in the library's list of choices */
};

static moet_traits traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem, (void)config;
    return (moet_traits){.host_counts = true, .capturable = true}; /* not batch-invariant, as cublaslt_loop */
}

static bool applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                       char *why)
{
    if (!moet_family_accepts(config->family, problem, device, why)) return false;
    if (device->cc_major < 8)
        return moet_refuse(why, NAME " needs BF16 tensor cores (sm_80), the device is sm_%d%d", device->cc_major,
                           device->cc_minor);
    if (problem->experts < 2) return moet_refuse(why, NAME ": one expert is no batch");
    return true;
}

static void default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                           moet_config *config)
{
    (void)problem, (void)rows_hint, (void)device;
    moet_config_set(config, "pad", "1.5");
    moet_config_set(config, "index", "0");
}

static size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* Bytes of the padded copy of x or out at most: no launch has more padded rows than this, as every batch keeps to it.
 */
static size_t buffer_bytes(const moet_config *config, int64_t max_rows, int32_t row_elements)
{
    const size_t percent = (size_t)pad_percents[config->value[PARAM_PAD]];
    return percent > 100 ? padded((size_t)max_rows * percent / 100 * (size_t)row_elements * 2) : 0;
}

static size_t workspace_bytes(const moet_prepare_args *args)
{
    return MOET_LT_WORKSPACE_BYTES + buffer_bytes(args->config, args->max_rows, moet_problem_k(args->problem)) +
           buffer_bytes(args->config, args->max_rows, moet_problem_n(args->problem));
}

/* Code for x.0 runs on every x.y. */
static bool source(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                   int32_t index, moet_source *result)
{
    static const char *const archs[] = {
        [8] = "sm_80", [9] = "sm_90", [10] = "sm_100", [11] = "sm_110", [12] = "sm_120"};
    (void)problem, (void)config, (void)cc_minor;
    if (index != 0 || cc_major < 8 || cc_major >= MOET_COUNT_OF(archs)) return false;
    *result =
        (moet_source){.name = "cublaslt_batched.cu", .text = moet_source_cublaslt_batched, .arch = archs[cc_major]};
    return true;
}

/* ---- state ---- */

/* As in cublaslt_batched.cu. */
#define COPY_THREADS 256
typedef struct batch_counts {
    int v[MOET_MAX_EXPERTS];
} batch_counts;

typedef struct batch_copy {
    CUdeviceptr from, to;
    int experts, height;
    int packs;
    int pads;
} batch_copy;

typedef struct batched_state {
    const struct moet_cuda_api *cuda;
    moet_lt_product product;
    moet_cubin cubin;
    void *module;
    void *kernel; /* CUfunction */
    int32_t percent;
    size_t x_bytes; /* of the padded x; the padded out lies behind it */
    int32_t most_blocks;
    batch_counts counts; /* of the batch at hand; the driver copies them */
} batched_state;

static void release(void *opaque)
{
    batched_state *state = opaque;
    if (!state) return;
    moet_lt_product_release(&state->product);
    moet_module_unload(state->module);
    moet_cubin_release(&state->cubin);
    free(state);
}

static int32_t cubins_of(const void *opaque, const moet_cubin **list)
{
    list[0] = &((const batched_state *)opaque)->cubin;
    return 1;
}

static int32_t algorithms_of(const void *opaque, moet_algorithm *list)
{
    return moet_lt_product_algorithms(&((const batched_state *)opaque)->product, list);
}

static moet_status load_kernel(batched_state *state, const moet_prepare_args *args)
{
    static const char *const names[] = {"moet_batch_rows"};
    const moet_device_info *device = &args->device->info;
    moet_source kernel;
    if (args->cubin_count > 0)
        MOET_TRY(moet_cubin_copy(args->cubins[0], &state->cubin));
    else if (source(args->problem, args->config, device->cc_major, device->cc_minor, 0, &kernel))
        MOET_TRY(moet_module_compile(&kernel, &state->cubin, NULL));
    else
        return moet_fail(MOET_UNSUPPORTED, NAME ": no kernel for sm_%d%d", device->cc_major, device->cc_minor);
    return moet_module_load(&state->cubin, names, 1, &state->module, &state->kernel);
}

static moet_status prepare(const moet_prepare_args *args, void **opaque)
{
    const struct moet_cuda_api *cuda;
    const moet_lt_wish wish = {.index = moet_config_number(args->config, PARAM_INDEX),
                               .name = "a choice at this index"};
    const int32_t sms = args->device->info.sm_count;
    if (args->device_counts)
        return moet_fail(MOET_UNSUPPORTED, NAME ": counts must be in host memory, not in device memory");
    MOET_TRY(moet_cuda_api_get(&cuda));
    batched_state *state = calloc(1, sizeof *state);
    if (!state) return moet_fail(MOET_NO_MEMORY, NAME ": out of memory");
    state->cuda = cuda;
    state->percent = pad_percents[args->config->value[PARAM_PAD]];
    state->x_bytes = buffer_bytes(args->config, args->max_rows, moet_problem_k(args->problem));
    state->most_blocks = 4 * (args->max_sms > 0 && args->max_sms < sms ? args->max_sms : sms);
    moet_status status =
        moet_lt_product_create(NAME, args, args->problem->experts, state->percent, args->max_sms, &state->product);
    if (status == MOET_OK) status = moet_lt_product_choose(&state->product, args, &wish);
    if (status == MOET_OK) status = load_kernel(state, args);
    if (status != MOET_OK) {
        release(state);
        return status;
    }
    *opaque = state;
    return MOET_OK;
}

/* ---- launch ---- */

static moet_status copy_rows(batched_state *state, const moet_lt_batch *b, CUdeviceptr from, CUdeviceptr to,
                             int32_t elements, bool pads, void *stream)
{
    batch_copy copy = {from, to, b->count, b->height, elements * 2 / 16, pads};
    void *parameters[] = {&copy, &state->counts};
    const int64_t longest = ((int64_t)b->height * copy.packs + COPY_THREADS - 1) / COPY_THREADS;
    int64_t blocks = (state->most_blocks + b->count - 1) / b->count;
    if (blocks > longest) blocks = longest;
    CUresult result = state->cuda->cuLaunchKernel((CUfunction)state->kernel, (unsigned)blocks, (unsigned)b->count, 1,
                                                  COPY_THREADS, 1, 1, 0, stream, parameters, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, NAME ": launching moet_batch_rows");
}

/* The batch's rows begin at first_row of x and out. */
static moet_status multiply(batched_state *state, const moet_family_launch_args *args, const moet_lt_batch *b,
                            int64_t first_row)
{
    const size_t n = (size_t)state->product.n, k = (size_t)state->product.k, element = 2;
    const size_t row = (size_t)first_row, first = (size_t)b->first;
    const char *x = (const char *)args->x + row * k * element;
    char *out = (char *)args->out + row * n * element;
    char *padded_x = (char *)args->workspace + MOET_LT_WORKSPACE_BYTES, *padded_out = padded_x + state->x_bytes;
    int32_t bucket = 0;
    MOET_TRY(moet_lt_product_find(&state->product, b->height, &bucket));
    const moet_lt_launch launch = {
        .x = b->is_even ? x : padded_x,
        .w = (const char *)args->w + first * n * k * element,
        .bias = args->bias ? (const char *)args->bias + first * n * element : NULL,
        .out = b->is_even ? out : padded_out,
        .workspace = args->workspace,
        .rows = b->height,
        .batch = b->count,
        .bucket = bucket,
        .stream = args->stream,
    };
    if (b->is_even) return moet_lt_product_launch(&state->product, &launch);
    memcpy(state->counts.v, args->counts + b->first, (size_t)b->count * sizeof state->counts.v[0]);
    MOET_TRY(copy_rows(state, b, (uintptr_t)x, (uintptr_t)padded_x, state->product.k, true, args->stream));
    MOET_TRY(moet_lt_product_launch(&state->product, &launch));
    return copy_rows(state, b, (uintptr_t)padded_out, (uintptr_t)out, state->product.n, false, args->stream);
}

static moet_status launch(void *opaque, const moet_family_launch_args *args)
{
    batched_state *state = opaque;
    int64_t row = 0;
    if (args->counts_on_device) return moet_fail(MOET_INVALID, NAME ": counts must be in host memory");
    for (int32_t e = 0; e < state->product.problem.experts;) {
        if (args->counts[e] <= 0) {
            e++;
            continue;
        }
        const moet_lt_batch b = moet_lt_batch_next(args->counts, state->product.problem.experts, e, state->percent);
        MOET_TRY(multiply(state, args, &b, row));
        row += b.rows;
        e += b.count;
    }
    return MOET_OK;
}

static moet_status validator(char *text) { return moet_lt_validator(NAME, text); }

const moet_family moet_family_cublaslt_batched = {
    .name = NAME,
    .version = 1,
    .backend = "cuda",
    .summary = "cuBLASLt, strided batches of experts with like counts, padded by copies",
    .params = params,
    .param_count = MOET_COUNT_OF(params),
    .traits = traits,
    .applicable = applicable,
    .default_config = default_config,
    .workspace_bytes = workspace_bytes,
    .prepare = prepare,
    .launch = launch,
    .release = release,
    .cubins = cubins_of,
    .algorithms = algorithms_of,
    .source = source,
    .validator = validator,
};
#else
typedef int moet_cublaslt_batched_unused; /* a translation unit must not be empty */
#endif
