/* cublas_grouped: cublasGemmGroupedBatchedEx (cuBLAS of CUDA 12.5 and later), one group an expert with rows.
 *
 * In cuBLAS's column-major terms each group is the transposed product, as in cublaslt_loop.c. Sizes are host arrays,
 * the matrices' addresses are arrays in device memory, written by a small kernel ahead of the product. */
#ifdef MOET_CUDA
#include <cublas_v2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "../src/cuda_api.h"
#include "../src/family.h"

extern const char moet_source_cublas_grouped[];

#define LIBRARY_WORKSPACE_BYTES ((size_t)32 << 20)
#define POINTER_ARRAYS 3 /* w, x, out */

/* ---- cuBLAS, bound at run time ---- */

/* Symbols by their exported names: cublas_v2.h renames cublasCreate to cublasCreate_v2, and so on. */
#define BLAS_FUNCTIONS(X)                                                                                              \
    X(cublasCreate_v2)                                                                                                 \
    X(cublasDestroy_v2)                                                                                                \
    X(cublasGetProperty)                                                                                               \
    X(cublasGetStatusString)                                                                                           \
    X(cublasSetStream_v2)                                                                                              \
    X(cublasSetWorkspace_v2)                                                                                           \
    X(cublasSetMathMode)                                                                                               \
    X(cublasSetSmCountTarget)                                                                                          \
    X(cublasGemmGroupedBatchedEx)

typedef struct blas_api {
#define MOET_X(function) __typeof__(function) *function;
    BLAS_FUNCTIONS(MOET_X)
#undef MOET_X
} blas_api;

static const moet_symbol blas_symbols[] = {
#define MOET_X(function) {#function, offsetof(blas_api, function), false},
    BLAS_FUNCTIONS(MOET_X)
#undef MOET_X
};

/* Written once, under blas_once. */
static pthread_once_t blas_once = PTHREAD_ONCE_INIT;
static blas_api blas_bound;
static moet_status blas_status;
static char blas_error[512];

static void blas_bind_first(void)
{
    static const char *const sonames[] = {"libcublas.so.13", "libcublas.so.12", "/usr/local/cuda/lib64/libcublas.so.13",
                                          "/usr/local/cuda/lib64/libcublas.so.12", NULL};
    blas_status = moet_library_bind(sonames, blas_symbols, MOET_COUNT_OF(blas_symbols), &blas_bound, NULL);
    if (blas_status != MOET_OK) snprintf(blas_error, sizeof blas_error, "cublas_grouped: %.450s", moet_last_error());
}

static moet_status blas_get(const blas_api **api)
{
    pthread_once(&blas_once, blas_bind_first);
    if (blas_status != MOET_OK) return moet_fail(blas_status, "%s", blas_error);
    *api = &blas_bound;
    return MOET_OK;
}

static moet_status blas_fail(const blas_api *blas, cublasStatus_t result, const char *what)
{
    moet_status status = result == CUBLAS_STATUS_NOT_SUPPORTED  ? MOET_UNSUPPORTED
                         : result == CUBLAS_STATUS_ALLOC_FAILED ? MOET_NO_DEVICE_MEMORY
                                                                : MOET_DEVICE;
    return moet_fail(status, "cublas_grouped: %s: cuBLAS error %d (%s)", what, (int)result,
                     blas->cublasGetStatusString(result));
}

/* ---- what applies ---- */

static moet_traits traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem, (void)config;
    /* Not capturable: cuBLAS does not say whether a graph's replay would read the host arrays of sizes again. Not
     * batch-invariant: it does not say which kernel serves which sizes either. */
    return (moet_traits){.host_counts = true};
}

static bool applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                       char *why)
{
    if (!moet_family_accepts(config->family, problem, device, why)) return false;
    if (device->cc_major < 8)
        return moet_refuse(why, "cublas_grouped needs BF16 tensor cores (sm_80), the device is sm_%d%d",
                           device->cc_major, device->cc_minor);
    if (problem->bias) return moet_refuse(why, "cublas_grouped adds no bias: cuBLAS's grouped product has no epilogue");
    return true;
}

static void default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                           moet_config *config)
{
    (void)problem, (void)rows_hint, (void)device, (void)config; /* no parameters */
}

/* The pointer arrays, then cuBLAS's own. */
static size_t pointer_bytes(int32_t experts)
{
    size_t bytes = (size_t)experts * POINTER_ARRAYS * sizeof(CUdeviceptr);
    return (bytes + 255) / 256 * 256;
}

static size_t workspace_bytes(const moet_prepare_args *args)
{
    return pointer_bytes(args->problem->experts) + LIBRARY_WORKSPACE_BYTES;
}

/* Code for x.0 runs on every x.y. */
static const char *arch_of(int32_t cc_major)
{
    static const struct {
        int32_t cc_major;
        const char *arch;
    } archs[] = {{8, "sm_80"}, {9, "sm_90"}, {10, "sm_100"}, {11, "sm_110"}, {12, "sm_120"}};
    for (int32_t i = 0; i < MOET_COUNT_OF(archs); i++) {
        if (archs[i].cc_major == cc_major) return archs[i].arch;
    }
    return NULL;
}

static bool source(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                   int32_t index, moet_source *result)
{
    (void)problem, (void)config, (void)cc_minor;
    if (index != 0) return false;
    const char *arch = arch_of(cc_major);
    if (!arch) return false;
    *result = (moet_source){.name = "cublas_grouped.cu", .text = moet_source_cublas_grouped, .arch = arch};
    return true;
}

/* ---- state ---- */

/* As in cublas_grouped.cu. */
#define CHUNK 256
typedef struct pointer_chunk {
    int32_t first;
    int32_t count;
    int32_t row[CHUNK];
    int16_t expert[CHUNK];
} pointer_chunk;

typedef struct grouped_state {
    const struct moet_cuda_api *cuda;
    const blas_api *blas;
    cublasHandle_t handle;
    moet_problem problem;
    moet_cubin cubin;
    void *module;
    void *write_pointers; /* CUfunction */
    /* One element a group. All but `rows` are filled once. */
    cublasOperation_t w_operation[MOET_MAX_EXPERTS], x_operation[MOET_MAX_EXPERTS];
    int n[MOET_MAX_EXPERTS], k[MOET_MAX_EXPERTS], w_ld[MOET_MAX_EXPERTS];
    int group_size[MOET_MAX_EXPERTS];
    float alpha[MOET_MAX_EXPERTS], beta[MOET_MAX_EXPERTS];
    int rows[MOET_MAX_EXPERTS];
} grouped_state;

static void release(void *opaque)
{
    grouped_state *state = opaque;
    if (!state) return;
    if (state->handle) state->blas->cublasDestroy_v2(state->handle);
    moet_module_unload(state->module);
    moet_cubin_release(&state->cubin);
    free(state);
}

static int32_t cubins_of(const void *opaque, const moet_cubin **list)
{
    list[0] = &((const grouped_state *)opaque)->cubin;
    return 1;
}

static void fill_groups(grouped_state *state)
{
    bool kn = state->problem.layout == MOET_LAYOUT_KN;
    int n = moet_problem_n(&state->problem), k = moet_problem_k(&state->problem);
    for (int32_t i = 0; i < state->problem.experts; i++) {
        state->w_operation[i] = kn ? CUBLAS_OP_N : CUBLAS_OP_T;
        state->x_operation[i] = CUBLAS_OP_N;
        state->n[i] = n;
        state->k[i] = k;
        state->w_ld[i] = kn ? n : k;
        state->group_size[i] = 1;
        state->alpha[i] = 1;
    }
}

static moet_status create_handle(grouped_state *state, int32_t max_sms)
{
    const blas_api *blas = state->blas;
    cublasStatus_t result = blas->cublasCreate_v2(&state->handle);
    if (result != CUBLAS_STATUS_SUCCESS) {
        state->handle = NULL;
        return blas_fail(blas, result, "creating a handle");
    }
    /* Sums stay in fp32 until the one rounding. */
    if (state->problem.numerics == MOET_NUMERICS_TRAIN)
        result = blas->cublasSetMathMode(state->handle, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    if (result == CUBLAS_STATUS_SUCCESS && max_sms > 0) result = blas->cublasSetSmCountTarget(state->handle, max_sms);
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK : blas_fail(blas, result, "setting up a handle");
}

static moet_status prepare(const moet_prepare_args *args, void **opaque)
{
    static const char *const kernel_names[] = {"moet_write_pointers"};
    const struct moet_cuda_api *cuda;
    const blas_api *blas;
    moet_source kernel;
    if (args->device_counts)
        return moet_fail(MOET_UNSUPPORTED, "cublas_grouped: counts must be in host memory, not in device memory");
    MOET_TRY(moet_cuda_api_get(&cuda));
    MOET_TRY(blas_get(&blas));
    if (!source(args->problem, args->config, args->device->info.cc_major, args->device->info.cc_minor, 0, &kernel))
        return moet_fail(MOET_UNSUPPORTED, "cublas_grouped: no kernel for sm_%d%d", args->device->info.cc_major,
                         args->device->info.cc_minor);
    grouped_state *state = calloc(1, sizeof *state);
    if (!state) return moet_fail(MOET_NO_MEMORY, "cublas_grouped: out of memory");
    state->cuda = cuda;
    state->blas = blas;
    state->problem = *args->problem;
    fill_groups(state);
    moet_status status = args->cubin_count > 0 ? moet_cubin_copy(args->cubins[0], &state->cubin)
                                               : moet_module_compile(&kernel, &state->cubin, NULL);
    if (status == MOET_OK)
        status = moet_module_load(&state->cubin, kernel_names, 1, &state->module, &state->write_pointers);
    if (status == MOET_OK) status = create_handle(state, args->max_sms);
    if (status != MOET_OK) {
        release(state);
        return status;
    }
    *opaque = state;
    return MOET_OK;
}

/* ---- launch ---- */

static moet_status write_chunk(grouped_state *state, const moet_family_launch_args *args, pointer_chunk *chunk)
{
    unsigned long long pointers = (uintptr_t)args->workspace, w = (uintptr_t)args->w, x = (uintptr_t)args->x;
    unsigned long long out = (uintptr_t)args->out;
    unsigned long long x_row_bytes = 2ull * (unsigned)state->k[0], out_row_bytes = 2ull * (unsigned)state->n[0];
    unsigned long long w_expert_bytes = x_row_bytes * (unsigned)state->n[0];
    int capacity = state->problem.experts;
    void *parameters[] = {&pointers, &capacity, &w, &x, &out, &w_expert_bytes, &x_row_bytes, &out_row_bytes, chunk};
    CUresult result = state->cuda->cuLaunchKernel((CUfunction)state->write_pointers, 1, 1, 1, CHUNK, 1, 1, 0,
                                                  args->stream, parameters, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "cublas_grouped: launching moet_write_pointers");
}

/* Fills rows[] with the experts that have any, and the pointer arrays with their matrices. */
static moet_status gather_groups(grouped_state *state, const moet_family_launch_args *args, int32_t *groups)
{
    pointer_chunk chunk = {0};
    int32_t count = 0, row = 0;
    for (int32_t e = 0; e < state->problem.experts; e++) {
        if (args->counts[e] <= 0) continue;
        chunk.row[chunk.count] = row;
        chunk.expert[chunk.count++] = (int16_t)e;
        state->rows[count++] = args->counts[e];
        row += args->counts[e];
        if (chunk.count == CHUNK) {
            MOET_TRY(write_chunk(state, args, &chunk));
            chunk.first = count;
            chunk.count = 0;
        }
    }
    if (chunk.count) MOET_TRY(write_chunk(state, args, &chunk));
    *groups = count;
    return MOET_OK;
}

static moet_status launch(void *opaque, const moet_family_launch_args *args)
{
    grouped_state *state = opaque;
    const blas_api *blas = state->blas;
    int32_t groups = 0;
    if (args->counts_on_device) return moet_fail(MOET_INVALID, "cublas_grouped: counts must be in host memory");
    MOET_TRY(gather_groups(state, args, &groups));
    if (groups == 0) return MOET_OK;
    const void *const *w = args->workspace;
    const void *const *x = w + state->problem.experts;
    void *const *out = (void *const *)args->workspace + 2 * state->problem.experts;
    char *library_workspace = (char *)args->workspace + pointer_bytes(state->problem.experts);
    /* In this order: setting the stream resets the workspace. */
    cublasStatus_t result = blas->cublasSetStream_v2(state->handle, args->stream);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = blas->cublasSetWorkspace_v2(state->handle, library_workspace, LIBRARY_WORKSPACE_BYTES);
    if (result == CUBLAS_STATUS_SUCCESS)
        result = blas->cublasGemmGroupedBatchedEx(state->handle, state->w_operation, state->x_operation, state->n,
                                                  state->rows, state->k, state->alpha, w, CUDA_R_16BF, state->w_ld, x,
                                                  CUDA_R_16BF, state->k, state->beta, out, CUDA_R_16BF, state->n,
                                                  groups, state->group_size, CUBLAS_COMPUTE_32F);
    return result == CUBLAS_STATUS_SUCCESS ? MOET_OK : blas_fail(blas, result, "launching the grouped product");
}

static moet_status validator(char *text)
{
    const blas_api *blas;
    int version[3] = {0};
    static const libraryPropertyType parts[3] = {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    MOET_TRY(blas_get(&blas));
    for (int i = 0; i < 3; i++) {
        cublasStatus_t result = blas->cublasGetProperty(parts[i], &version[i]);
        if (result != CUBLAS_STATUS_SUCCESS) return blas_fail(blas, result, "asking for the version");
    }
    snprintf(text, 64, "cublas %d", version[0] * 10000 + version[1] * 100 + version[2]); /* as CUBLAS_VERSION */
    return MOET_OK;
}

const moet_family moet_family_cublas_grouped = {
    .name = "cublas_grouped",
    .version = 1,
    .backend = "cuda",
    .summary = "cublasGemmGroupedBatchedEx, all experts in one call",
    .traits = traits,
    .applicable = applicable,
    .default_config = default_config,
    .workspace_bytes = workspace_bytes,
    .prepare = prepare,
    .launch = launch,
    .release = release,
    .cubins = cubins_of,
    .source = source,
    .validator = validator,
};
#else
typedef int moet_cublas_grouped_unused; /* a translation unit must not be empty */
#endif
