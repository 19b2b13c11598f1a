/* cublaslt_grouped: the grouped product of cuBLASLt (13.4 and later on Hopper): all experts in one call, one group
 * each.
 *
 * The sizes of the groups and the addresses of their matrices are arrays in device memory, written by a small kernel
 * ahead of the product. Counts may therefore be anywhere, and a captured launch replays with what they are then. The
 * library's own choice knows averages only, which are parameters here, as is the place in its list of choices. It is
 * asked at preparation, never at a launch, which may be in a capture. */
#ifdef MOET_CUDA
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cublaslt.h"

extern const char moet_source_cublaslt_grouped[];

#define NAME "cublaslt_grouped"
#define HEURISTIC_RESULTS 32
#define MAX_WORKSPACE_BYTES ((size_t)32 << 20) /* what cuBLAS itself takes on Hopper */

/* Launches take turns in slots, each with arrays and a workspace of its own (MOET_LT_OWN_WORKSPACE). Callers with 2, 3
 * or 4 sets of buffers in turn meet the same slot with the same set. */
#define MAX_SLOTS 12
#define SLOTS_BYTES ((size_t)96 << 20) /* what all workspaces of a state take, unless the fewest slots take more */
static const int32_t slot_counts[] = {12, 6, 4};

/* ---- parameters ---- */

static const char *const index_values[] = {"0",  "1",  "2",  "3",  "4",  "5",  "6",  "7",  "8",  "9",  "10",
                                           "11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21",
                                           "22", "23", "24", "25", "26", "27", "28", "29", "30", "31", NULL};
/* Numbers, not what a plan's bound says: a config is the same algorithm in every plan. */
static const char *const average_rows_values[] = {"16",   "32",   "64",   "128",  "256",   "512",
                                                  "1024", "2048", "4096", "8192", "16384", NULL};
/* What the averages of N and K, which are the same for all groups, are said to be. */
static const char *const average_size_values[] = {"exact", "half", "double", NULL};

enum { PARAM_INDEX, PARAM_AVG_ROWS, PARAM_AVG_N, PARAM_AVG_K };
static const moet_param params[] = {
    [PARAM_INDEX] = {"index", index_values, MOET_SEARCH_FIRST}, /* place in the library's list of choices */
    [PARAM_AVG_ROWS] = {"avg_rows", average_rows_values, MOET_SEARCH_AROUND_DEFAULT},
    [PARAM_AVG_N] = {"avg_n", average_size_values, MOET_SEARCH_AROUND},
    [PARAM_AVG_K] = {"avg_k", average_size_values, MOET_SEARCH_AROUND},
};

static moet_traits traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem, (void)config;
    /* Not batch-invariant: the library does not say so. */
    return (moet_traits){.host_counts = true, .device_counts = true, .capturable = true};
}

static bool applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                       char *why)
{
    if (!moet_family_accepts(config->family, problem, device, why)) return false;
    if (device->cc_major < 9 || device->cc_major > 11)
        return moet_refuse(why, NAME " needs compute capability 9.0 to 11.x, the device is sm_%d%d", device->cc_major,
                           device->cc_minor);
    if (problem->bias) return moet_refuse(why, NAME " adds no bias: the library's grouped product has no epilogue");
    return true;
}

static void default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                           moet_config *config)
{
    (void)device;
    const int64_t mean = rows_hint / problem->experts;
    int16_t nearest = 0; /* by ratio: values are powers of two, the middle of two is 1.41 times the lower */
    while (average_rows_values[nearest + 1] && mean * 100 > 141 * strtol(average_rows_values[nearest], NULL, 10))
        nearest++;
    moet_config_set(config, "index", "0");
    config->value[PARAM_AVG_ROWS] = nearest;
    moet_config_set(config, "avg_n", "exact");
    moet_config_set(config, "avg_k", "exact");
}

/* The caller's workspace would be shared by launches: a state has its own. */
static size_t workspace_bytes(const moet_prepare_args *args)
{
    (void)args;
    return 0;
}

static bool source(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                   int32_t index, moet_source *result)
{
    static const char *const archs[] = {[9] = "sm_90", [10] = "sm_100", [11] = "sm_110"}; /* run on every x.y */
    (void)problem, (void)config, (void)cc_minor;
    if (index != 0 || cc_major < 9 || cc_major > 11) return false;
    *result =
        (moet_source){.name = "cublaslt_grouped.cu", .text = moet_source_cublaslt_grouped, .arch = archs[cc_major]};
    return true;
}

/* ---- state ---- */

/* As in cublaslt_grouped.cu. */
typedef struct describe_job {
    unsigned long long x, w, out;
    unsigned long long x_row_bytes, w_expert_bytes, out_row_bytes;
    CUdeviceptr rows, pointers;
    int experts, max_rows;
} describe_job;

typedef struct describe_counts {
    int v[MOET_MAX_EXPERTS];
} describe_counts;

enum { DEVICE_COUNTS, HOST_COUNTS, KERNEL_COUNT };

typedef struct grouped_slot {
    CUdeviceptr rows;     /* int32 [experts] */
    CUdeviceptr pointers; /* [3][experts] */
    CUdeviceptr workspace;
    moet_lt_layout x_layout, out_layout;
} grouped_slot;

typedef struct grouped_state {
    const struct moet_cuda_api *cuda;
    const moet_lt_api *lt;
    cublasLtHandle_t handle;
    moet_problem problem;
    int32_t n, k;
    moet_cubin cubin;
    void *module;
    void *kernels[KERNEL_COUNT]; /* CUfunction */
    cublasLtMatmulDescOpaque_t operation;
    moet_lt_layout w_layout;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
    CUdeviceptr memory;      /* everything below lies in it */
    CUdeviceptr n_array;     /* int32 [experts], all N; so with K */
    CUdeviceptr k_array;     /* */
    CUdeviceptr alpha, beta; /* float */
    int32_t slot_count, next_slot;
    grouped_slot slots[MAX_SLOTS];
    describe_counts counts; /* of the launch at hand; the driver copies them */
} grouped_state;

static void release(void *opaque)
{
    grouped_state *state = opaque;
    if (!state) return;
    if (state->memory) state->cuda->cuMemFree(state->memory);
    if (state->handle) state->lt->cublasLtDestroy(state->handle);
    moet_module_unload(state->module);
    moet_cubin_release(&state->cubin);
    free(state);
}

static int32_t cubins_of(const void *opaque, const moet_cubin **list)
{
    list[0] = &((const grouped_state *)opaque)->cubin;
    return 1;
}

static int32_t algorithms_of(const void *opaque, moet_algorithm *list)
{
    const grouped_state *state = opaque;
    moet_lt_algorithm_describe(state->lt, &state->algorithm, 0, &list[0]);
    return 1;
}

/* ---- memory: what the library is to read, and the slots ---- */

static size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

static moet_status fill_arrays(const grouped_state *state, size_t array_bytes)
{
    /* N and K of every group, then alpha and beta. */
    const size_t bytes = 2 * array_bytes + 512;
    char *host = calloc(1, bytes);
    if (!host) return moet_fail(MOET_NO_MEMORY, NAME ": out of memory");
    const int32_t sizes[] = {state->n, state->k};
    for (size_t i = 0; i < 2; i++) {
        for (int32_t e = 0; e < state->problem.experts; e++)
            memcpy(host + i * array_bytes + (size_t)e * sizeof sizes[i], &sizes[i], sizeof sizes[i]);
    }
    const float one = 1;
    memcpy(host + 2 * array_bytes, &one, sizeof one);
    CUresult result = state->cuda->cuMemcpyHtoD(state->memory, host, bytes);
    free(host);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, NAME ": writing the sizes of the groups");
}

static moet_status layout_init(const grouped_state *state, CUdeviceptr rows, CUdeviceptr columns, CUdeviceptr ld,
                               moet_lt_layout *layout)
{
    memset(layout, 0, sizeof *layout);
    cublasStatus_t result = state->lt->grouped_layout_init(
        &layout->opaque, sizeof *layout, CUDA_R_16BF, state->problem.experts, (const void *)(uintptr_t)rows,
        (const void *)(uintptr_t)columns, (const void *)(uintptr_t)ld);
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK : moet_lt_fail(state->lt, NAME, result, "describing the groups");
}

/* The layouts of x and out as those of a slot whose rows are there. */
static moet_status slot_layouts(const grouped_state *state, CUdeviceptr rows, moet_lt_layout *x, moet_lt_layout *out)
{
    MOET_TRY(layout_init(state, state->k_array, rows, state->k_array, x));
    return layout_init(state, state->n_array, rows, state->n_array, out);
}

static moet_status allocate(grouped_state *state, bool own_workspace)
{
    const size_t experts = (size_t)state->problem.experts, array_bytes = padded(experts * sizeof(int32_t));
    const size_t pointer_bytes = padded(3 * experts * sizeof(CUdeviceptr));
    const size_t slot_bytes = array_bytes + pointer_bytes + padded(state->workspace_bytes);
    int32_t choice = 0;
    while (choice < MOET_COUNT_OF(slot_counts) - 1 && (size_t)slot_counts[choice] * slot_bytes > SLOTS_BYTES) choice++;
    state->slot_count = own_workspace ? slot_counts[choice] : 1;

    const size_t bytes = 2 * array_bytes + 512 + (size_t)state->slot_count * slot_bytes;
    CUresult result = state->cuda->cuMemAlloc(&state->memory, bytes);
    if (result != CUDA_SUCCESS) {
        state->memory = 0;
        return moet_cuda_fail(result, NAME ": workspaces");
    }
    state->n_array = state->memory;
    state->k_array = state->n_array + array_bytes;
    state->alpha = state->k_array + array_bytes;
    state->beta = state->alpha + 256;
    MOET_TRY(fill_arrays(state, array_bytes));
    CUdeviceptr at = state->beta + 256;
    for (int32_t i = 0; i < state->slot_count; i++, at += slot_bytes) {
        grouped_slot *slot = &state->slots[i];
        slot->rows = at;
        slot->pointers = slot->rows + array_bytes;
        slot->workspace = slot->pointers + pointer_bytes;
        MOET_TRY(slot_layouts(state, slot->rows, &slot->x_layout, &slot->out_layout));
    }
    const bool kn = state->problem.layout == MOET_LAYOUT_KN;
    return layout_init(state, kn ? state->n_array : state->k_array, kn ? state->k_array : state->n_array,
                       kn ? state->n_array : state->k_array, &state->w_layout);
}

/* ---- the algorithm ---- */

static moet_status describe(grouped_state *state, int32_t sm_limit)
{
    const moet_lt_api *lt = state->lt;
    cublasOperation_t w_operation = state->problem.layout == MOET_LAYOUT_KN ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasLtPointerMode_t mode = CUBLASLT_POINTER_MODE_DEVICE; /* MOET_LT_DEVICE_POINTERS */
    cublasStatus_t result =
        lt->cublasLtMatmulDescInit_internal(&state->operation, sizeof state->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const struct {
        bool wanted;
        cublasLtMatmulDescAttributes_t attribute;
        const void *value;
        size_t size_bytes;
    } attributes[] = {
        {true, CUBLASLT_MATMUL_DESC_TRANSA, &w_operation, sizeof w_operation},
        {true, CUBLASLT_MATMUL_DESC_POINTER_MODE, &mode, sizeof mode},
        {sm_limit > 0, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, &sm_limit, sizeof sm_limit},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(attributes) && result == CUBLAS_STATUS_SUCCESS; i++) {
        if (attributes[i].wanted)
            result = lt->cublasLtMatmulDescSetAttribute(&state->operation, attributes[i].attribute, attributes[i].value,
                                                        attributes[i].size_bytes);
    }
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK : moet_lt_fail(lt, NAME, result, "describing the product");
}

static uint64_t average_size(const moet_config *config, int32_t param, int32_t size)
{
    const int16_t value = config->value[param];
    return (uint64_t)(value == 1 ? (size > 1 ? size / 2 : 1) : value == 2 ? 2 * size : size);
}

static moet_status set_preference(const grouped_state *state, const moet_config *config, moet_lt_preference *preference)
{
    const moet_lt_api *lt = state->lt;
    uint64_t workspace = MAX_WORKSPACE_BYTES, rows = (uint64_t)moet_config_number(config, PARAM_AVG_ROWS);
    uint64_t n = average_size(config, PARAM_AVG_N, state->n), k = average_size(config, PARAM_AVG_K, state->k);
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE; /* never split along K, whatever the numerics */
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
        {MOET_LT_PREF_AVERAGE_K, &k, sizeof k},
        {MOET_LT_PREF_AVERAGE_D_ROWS, &n, sizeof n},
        {MOET_LT_PREF_AVERAGE_D_COLUMNS, &rows, sizeof rows},
    };
    memset(preference, 0, sizeof *preference);
    cublasStatus_t result = lt->cublasLtMatmulPreferenceInit_internal(&preference->opaque, sizeof *preference);
    for (int32_t i = 0; i < MOET_COUNT_OF(attributes) && result == CUBLAS_STATUS_SUCCESS; i++)
        result = lt->cublasLtMatmulPreferenceSetAttribute(&preference->opaque, attributes[i].attribute,
                                                          attributes[i].value, attributes[i].size_bytes);
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK
                                           : moet_lt_fail(lt, NAME, result, "setting the heuristic's preferences");
}

static bool is_usable(const grouped_state *state, const cublasLtMatmulAlgo_t *algorithm, size_t workspace)
{
    return workspace <= MAX_WORKSPACE_BYTES &&
           moet_lt_sums_rightly(state->lt, algorithm, MOET_NUMERICS_TRAIN, 0 /* no matter */);
}

/* An algorithm that a table has; false where this library refuses it. */
static bool restore(grouped_state *state, const moet_algorithm *stored, moet_lt_layout *w, moet_lt_layout *x,
                    moet_lt_layout *out)
{
    cublasLtMatmulHeuristicResult_t check = {0};
    cublasLtMatmulAlgo_t algorithm;
    memcpy(&algorithm, stored->bytes, sizeof algorithm);
    cublasStatus_t result = state->lt->cublasLtMatmulAlgoCheck(state->handle, &state->operation, &w->opaque, &x->opaque,
                                                               &out->opaque, &out->opaque, &algorithm, &check);
    if (result != CUBLAS_STATUS_SUCCESS || !is_usable(state, &algorithm, check.workspaceSize)) return false;
    state->algorithm = algorithm;
    state->workspace_bytes = check.workspaceSize;
    return true;
}

/* Needs to know where the arrays will lie no more than that they are somewhere: descriptions hold addresses, which the
 * host does not read. */
static moet_status choose_algorithm(grouped_state *state, const moet_prepare_args *args)
{
    const moet_lt_api *lt = state->lt;
    const CUdeviceptr some = 256;
    moet_lt_layout w, x, out;
    moet_lt_preference preference;
    cublasLtMatmulHeuristicResult_t results[HEURISTIC_RESULTS];
    const int32_t index = moet_config_number(args->config, PARAM_INDEX);
    int found = 0, place = -1;
    MOET_TRY(layout_init(state, some, some, some, &w));
    MOET_TRY(layout_init(state, some, some, some, &x));
    MOET_TRY(layout_init(state, some, some, some, &out));
    if (args->algorithm_count == 1 && args->max_sms == 0 && restore(state, &args->algorithms[0], &w, &x, &out))
        return MOET_OK;
    MOET_TRY(set_preference(state, args->config, &preference));
    cublasStatus_t result =
        lt->cublasLtMatmulAlgoGetHeuristic(state->handle, &state->operation, &w.opaque, &x.opaque, &out.opaque,
                                           &out.opaque, &preference.opaque, HEURISTIC_RESULTS, results, &found);
    if (result != CUBLAS_STATUS_SUCCESS && result != CUBLAS_STATUS_NOT_SUPPORTED)
        return moet_lt_fail(lt, NAME, result, "asking the heuristic");
    if (result == CUBLAS_STATUS_NOT_SUPPORTED) found = 0;
    for (int i = 0; i < found; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS || !is_usable(state, &results[i].algo, results[i].workspaceSize))
            continue;
        if (++place < index) continue;
        state->algorithm = results[i].algo;
        state->workspace_bytes = results[i].workspaceSize;
        return MOET_OK;
    }
    return moet_fail(MOET_UNSUPPORTED, NAME ": cuBLASLt offers %d algorithms for N %d, K %d: there is none at index %d",
                     place + 1, state->n, state->k, index);
}

/* ---- prepare ---- */

static moet_status load_kernels(grouped_state *state, const moet_prepare_args *args)
{
    static const char *const names[KERNEL_COUNT] = {"moet_lt_describe_d", "moet_lt_describe_h"};
    const moet_device_info *device = &args->device->info;
    moet_source kernel;
    if (args->cubin_count > 0)
        MOET_TRY(moet_cubin_copy(args->cubins[0], &state->cubin));
    else if (source(args->problem, args->config, device->cc_major, device->cc_minor, 0, &kernel))
        MOET_TRY(moet_module_compile(&kernel, &state->cubin, NULL));
    else
        return moet_fail(MOET_UNSUPPORTED, NAME ": no kernel for sm_%d%d", device->cc_major, device->cc_minor);
    return moet_module_load(&state->cubin, names, KERNEL_COUNT, &state->module, state->kernels);
}

static moet_status prepare(const moet_prepare_args *args, void **opaque)
{
    const struct moet_cuda_api *cuda;
    const moet_lt_api *lt;
    char why[MOET_REASON_SIZE];
    const int32_t cc_major = args->device->info.cc_major;
    MOET_TRY(moet_cuda_api_get(&cuda));
    MOET_TRY(moet_lt_get(NAME, &lt));
    const int64_t version = (int64_t)lt->cublasLtGetVersion();
    if (!moet_lt_grouped_serves(version, cc_major, why) || !moet_lt_takes_sms(version, cc_major, args->max_sms, why))
        return moet_fail(MOET_UNSUPPORTED, NAME ": %s", why);
    if (!lt->grouped_layout_init)
        return moet_fail(MOET_UNSUPPORTED, NAME ": this cuBLASLt lacks cublasLtGroupedMatrixLayoutInit_internal");
    grouped_state *state = calloc(1, sizeof *state);
    if (!state) return moet_fail(MOET_NO_MEMORY, NAME ": out of memory");
    state->cuda = cuda;
    state->lt = lt;
    state->problem = *args->problem;
    state->n = moet_problem_n(args->problem);
    state->k = moet_problem_k(args->problem);
    moet_status status = MOET_OK;
    cublasStatus_t result = lt->cublasLtCreate(&state->handle);
    if (result != CUBLAS_STATUS_SUCCESS) {
        state->handle = NULL;
        status = moet_lt_fail(lt, NAME, result, "creating a handle");
    }
    if (status == MOET_OK) status = describe(state, args->max_sms);
    if (status == MOET_OK) status = choose_algorithm(state, args);
    if (status == MOET_OK) status = load_kernels(state, args);
    if (status == MOET_OK) status = allocate(state, moet_lt_fact_find(MOET_LT_OWN_WORKSPACE, version, cc_major));
    if (status != MOET_OK) {
        release(state);
        return status;
    }
    *opaque = state;
    return MOET_OK;
}

/* ---- launch ---- */

static moet_status write_description(grouped_state *state, const grouped_slot *slot,
                                     const moet_family_launch_args *args)
{
    const size_t n = (size_t)state->n, k = (size_t)state->k, element = 2;
    describe_job job = {.x = (uintptr_t)args->x,
                        .w = (uintptr_t)args->w,
                        .out = (uintptr_t)args->out,
                        .x_row_bytes = k * element,
                        .w_expert_bytes = n * k * element,
                        .out_row_bytes = n * element,
                        .rows = slot->rows,
                        .pointers = slot->pointers,
                        .experts = state->problem.experts,
                        .max_rows = (int)args->rows};
    const int32_t *device_counts = args->counts;
    void *parameters[] = {&job, &device_counts};
    if (!args->counts_on_device) {
        memcpy(state->counts.v, args->counts, (size_t)state->problem.experts * sizeof state->counts.v[0]);
        parameters[1] = &state->counts;
    }
    CUfunction kernel = state->kernels[args->counts_on_device ? DEVICE_COUNTS : HOST_COUNTS];
    CUresult result =
        state->cuda->cuLaunchKernel(kernel, 1, 1, 1, MOET_MAX_EXPERTS, 1, 1, 0, args->stream, parameters, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, NAME ": launching moet_lt_describe");
}

static moet_status launch(void *opaque, const moet_family_launch_args *args)
{
    grouped_state *state = opaque;
    const moet_lt_api *lt = state->lt;
    if (args->rows == 0) return MOET_OK;
    grouped_slot *slot = &state->slots[state->next_slot];
    const CUdeviceptr array_bytes = (CUdeviceptr)state->problem.experts * sizeof(CUdeviceptr);
    const CUdeviceptr w = slot->pointers, x = w + array_bytes, out = x + array_bytes;
    MOET_TRY(write_description(state, slot, args));
    cublasStatus_t result = lt->cublasLtMatmul(
        state->handle, &state->operation, (const void *)(uintptr_t)state->alpha, (const void *)(uintptr_t)w,
        &state->w_layout.opaque, (const void *)(uintptr_t)x, &slot->x_layout.opaque,
        (const void *)(uintptr_t)state->beta, (const void *)(uintptr_t)out, &slot->out_layout.opaque,
        (void *)(uintptr_t)out, &slot->out_layout.opaque, &state->algorithm, (void *)(uintptr_t)slot->workspace,
        state->workspace_bytes, (cudaStream_t)args->stream);
    if (result != CUBLAS_STATUS_SUCCESS) return moet_lt_fail(lt, NAME, result, "launching the grouped product");
    state->next_slot = (state->next_slot + 1) % state->slot_count;
    return MOET_OK;
}

/* A library without the grouped product is no library for this family. */
static moet_status validator(char *text)
{
    const moet_lt_api *lt;
    MOET_TRY(moet_lt_get(NAME, &lt));
    if (!lt->grouped_layout_init)
        return moet_fail(MOET_UNSUPPORTED,
                         NAME ": cuBLASLt %zu has no grouped product; 13.4.0 or later is needed on Hopper: put it into "
                              "LD_LIBRARY_PATH",
                         lt->cublasLtGetVersion());
    return moet_lt_validator(NAME, text);
}

const moet_family moet_family_cublaslt_grouped = {
    .name = NAME,
    .version = 1,
    .backend = "cuda",
    .summary = "cuBLASLt's grouped product (13.4 and later), all experts in one call, counts anywhere",
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
typedef int moet_cublaslt_grouped_unused; /* a translation unit must not be empty */
#endif
