/* ops_cuda: ops.h on CUDA: compiles ops.cu and launches its kernels. */
#ifdef MOET_CUDA
#include <stdio.h>
#include <stdlib.h>

#include "../src/cuda_api.h"
#include "../src/family.h"
#include "ops_table.h"
#include "reference.h"

extern const char moet_source_ops[];

/* member, kernel in ops.cu */
#define KERNEL_TABLE(X)                                                                                                \
    X(random, "moet_random")                                                                                           \
    X(spread, "moet_spread")                                                                                           \
    X(mirror, "moet_mirror")                                                                                           \
    X(reference_gemm, "moet_reference_gemm")                                                                           \
    X(compare_begin, "moet_compare_begin")                                                                             \
    X(compare, "moet_compare")                                                                                         \
    X(gather, "moet_gather")                                                                                           \
    X(copy, "moet_copy")                                                                                               \
    X(read, "moet_read")                                                                                               \
    X(spin, "moet_spin")

enum kernel {
#define MOET_X(member, name) KERNEL_##member,
    KERNEL_TABLE(MOET_X)
#undef MOET_X
        KERNEL_COUNT
};

static const char *const kernel_names[] = {
#define MOET_X(member, name) name,
    KERNEL_TABLE(MOET_X)
#undef MOET_X
};

enum { REFERENCE_TILE = 128, STREAM_THREADS = 512, MAX_READ_BLOCKS = MOET_OPS_SINK_BYTES / 4 };

/* Of ops.cu. */
typedef struct compare_result {
    uint64_t error_bits, wrong, first_wrong, hash;
} compare_result;

typedef struct cuda_ops {
    const struct moet_cuda_api *cuda;
    void *module;
    void *functions[KERNEL_COUNT];
    void *result; /* compare_result on the device */
} cuda_ops;

static void cuda_destroy(moet_device *device, void *impl)
{
    cuda_ops *ops = impl;
    if (!ops) return;
    device->backend->free(device, ops->result);
    if (ops->module) moet_module_unload(ops->module);
    free(ops);
}

static moet_status cuda_create(moet_device *device, void **impl)
{
    char arch[16];
    snprintf(arch, sizeof arch, "sm_%d%d", device->info.cc_major, device->info.cc_minor);
    moet_source source = {.name = "ops.cu", .text = moet_source_ops, .arch = arch};
    moet_cubin cubin = {0};
    moet_status status;
    cuda_ops *ops = calloc(1, sizeof *ops);
    if (!ops) return moet_fail(MOET_NO_MEMORY, "measuring kernels: out of host memory");
    status = moet_cuda_api_get(&ops->cuda);
    if (status == MOET_OK) status = moet_module_compile(&source, &cubin, NULL);
    if (status == MOET_OK) status = moet_module_load(&cubin, kernel_names, KERNEL_COUNT, &ops->module, ops->functions);
    if (status == MOET_OK) status = device->backend->alloc(device, sizeof(compare_result), &ops->result);
    moet_cubin_release(&cubin);
    if (status != MOET_OK) {
        cuda_destroy(device, ops);
        return status;
    }
    *impl = ops;
    return MOET_OK;
}

static moet_status launch(const moet_ops *ops, enum kernel kernel, uint32_t grid_x, uint32_t grid_y, uint32_t threads,
                          void *stream, void **args)
{
    const cuda_ops *impl = ops->impl;
    CUresult result =
        impl->cuda->cuLaunchKernel(impl->functions[kernel], grid_x, grid_y, 1, threads, 1, 1, 0, stream, args, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, kernel_names[kernel]);
}

/* Blocks of a grid-stride kernel: enough to fill the device, no more than there is work. */
static uint32_t stride_blocks(const moet_ops *ops, int64_t items, int32_t threads, int32_t blocks_per_sm)
{
    int64_t blocks = (items + threads - 1) / threads, most = (int64_t)ops->device->info.sm_count * blocks_per_sm;
    return (uint32_t)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

/* mix64 of ops.cu */
static uint64_t mix_seed(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static moet_status cuda_random(moet_ops *ops, void *bf16, int64_t count, uint64_t seed, float scale, void *stream)
{
    uint64_t z = mix_seed(seed);
    void *args[] = {&bf16, &count, &z, &scale};
    return launch(ops, KERNEL_random, stride_blocks(ops, count, 256, 16), 1, 256, stream, args);
}

static moet_status cuda_spread(moet_ops *ops, void *to, const void *from, int64_t rows, int32_t k, uint64_t seed,
                               void *stream)
{
    uint64_t z = mix_seed(seed);
    void *args[] = {&to, &from, &rows, &k, &z};
    return launch(ops, KERNEL_spread, stride_blocks(ops, rows * k, 256, 16), 1, 256, stream, args);
}

static moet_status cuda_mirror(moet_ops *ops, const moet_problem *problem, void *w, void *stream)
{
    int32_t experts = problem->experts, N = moet_problem_n(problem), K = moet_problem_k(problem);
    int32_t kn = problem->layout == MOET_LAYOUT_KN;
    void *args[] = {&w, &experts, &N, &K, &kn};
    return launch(ops, KERNEL_mirror, stride_blocks(ops, (int64_t)experts * (N / 8) * (K / 2), 256, 16), 1, 256, stream,
                  args);
}

static moet_status cuda_reference_gemm(moet_ops *ops, const moet_problem *problem, const void *x, const void *w,
                                       const void *bias, const int32_t *device_counts, int64_t rows, float *reference,
                                       float *magnitude, void *stream)
{
    int32_t experts = problem->experts, N = moet_problem_n(problem), K = moet_problem_k(problem);
    int32_t kn = problem->layout == MOET_LAYOUT_KN;
    /* At most one partial tile an expert; blocks without a tile leave. */
    uint32_t row_tiles = (uint32_t)(rows / REFERENCE_TILE + experts);
    uint32_t column_tiles = (uint32_t)((N + REFERENCE_TILE - 1) / REFERENCE_TILE);
    void *args[] = {&x, &w, &bias, &device_counts, &experts, &N, &K, &kn, &reference, &magnitude};
    return launch(ops, KERNEL_reference_gemm, column_tiles, row_tiles, 256, stream, args);
}

static moet_status cuda_compare(moet_ops *ops, const void *out, const float *reference, const float *magnitude,
                                int64_t count, int32_t k, void *stream, moet_comparison *result)
{
    cuda_ops *impl = ops->impl;
    const moet_backend *backend = ops->device->backend;
    float gamma = (float)moet_reference_bound(k, 0, 1);
    void *begin_args[] = {&impl->result};
    void *args[] = {&out, &reference, &magnitude, &count, &gamma, &impl->result};
    compare_result found;
    MOET_TRY(launch(ops, KERNEL_compare_begin, 1, 1, 1, stream, begin_args));
    MOET_TRY(launch(ops, KERNEL_compare, stride_blocks(ops, count, 256, 16), 1, 256, stream, args));
    MOET_TRY(backend->stream_synchronize(ops->device, stream));
    MOET_TRY(backend->download(ops->device, &found, impl->result, sizeof found));
    union {
        uint32_t bits;
        float value;
    } error = {(uint32_t)found.error_bits};
    *result = (moet_comparison){
        .error = (double)error.value,
        .wrong = (int64_t)found.wrong,
        .first_wrong = found.first_wrong == UINT64_MAX ? -1 : (int64_t)found.first_wrong,
        .bits_hash = found.hash,
    };
    return MOET_OK;
}

static moet_status cuda_gather(moet_ops *ops, const moet_problem *problem, const void *w, int32_t expert,
                               const int32_t *columns, int32_t column_count, void *gathered, void *stream)
{
    int32_t N = moet_problem_n(problem), K = moet_problem_k(problem), kn = problem->layout == MOET_LAYOUT_KN;
    const uint16_t *from = (const uint16_t *)w + (int64_t)expert * N * K;
    void *args[] = {&from, &columns, &N, &K, &kn, &gathered};
    return launch(ops, KERNEL_gather, (uint32_t)column_count, 1, 256, stream, args);
}

static moet_status cuda_copy(moet_ops *ops, void *to, const void *from, size_t size_bytes, void *stream)
{
    int64_t count = (int64_t)(size_bytes / 16);
    void *args[] = {&to, &from, &count};
    return launch(ops, KERNEL_copy, stride_blocks(ops, count, STREAM_THREADS, 4), 1, STREAM_THREADS, stream, args);
}

static moet_status cuda_read(moet_ops *ops, void *sink, const void *from, size_t size_bytes, void *stream)
{
    int64_t count = (int64_t)(size_bytes / 16);
    uint32_t blocks = stride_blocks(ops, count, STREAM_THREADS, 4);
    if (blocks > MAX_READ_BLOCKS) blocks = MAX_READ_BLOCKS;
    void *args[] = {&sink, &from, &count};
    return launch(ops, KERNEL_read, blocks, 1, STREAM_THREADS, stream, args);
}

static moet_status cuda_spin(moet_ops *ops, int64_t cycles, void *stream)
{
    void *args[] = {&cycles};
    return launch(ops, KERNEL_spin, 1, 1, 1, stream, args);
}

const moet_ops_table moet_ops_table_cuda = {
    .backend = "cuda",
    .create = cuda_create,
    .destroy = cuda_destroy,
    .random = cuda_random,
    .spread = cuda_spread,
    .mirror = cuda_mirror,
    .reference_gemm = cuda_reference_gemm,
    .compare = cuda_compare,
    .gather = cuda_gather,
    .copy = cuda_copy,
    .read = cuda_read,
    .spin = cuda_spin,
};
#else
typedef int moet_ops_cuda_is_left_out; /* ISO C wants a declaration in every file */
#endif
