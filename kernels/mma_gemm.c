/* mma_gemm: grouped GEMM with mma.sync and cp.async for compute capability 8.0 and later: the descriptor of
 * mma_gemm.cu. */
#ifdef MOET_CUDA
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cuda_api.h"
#include "../src/family.h"
#include "ffn_path.h"
#include "tile_cost.h"

extern const char moet_source_mma_gemm[];
extern const moet_family moet_family_mma_gemm;

enum { VERSION = 1 };

enum { PARAM_TILE, PARAM_BK, PARAM_STAGES, PARAM_GROUP, PARAM_COUNT };

/* label, rows and columns of the output tile, warps along either. A warp's part is 16x32 (memory-bound shapes) to
 * 64x64 (fewest bytes of shared memory an operation); w8: 128x128 by 8 warps, twice the warps to hide latency. */
#define TILE_TABLE(X)                                                                                                  \
    X("16x128", 16, 128, 1, 4)                                                                                         \
    X("16x256", 16, 256, 1, 8)                                                                                         \
    X("32x128", 32, 128, 1, 4)                                                                                         \
    X("32x256", 32, 256, 1, 8)                                                                                         \
    X("64x64", 64, 64, 2, 2)                                                                                           \
    X("64x128", 64, 128, 2, 2)                                                                                         \
    X("64x256", 64, 256, 2, 4)                                                                                         \
    X("128x64", 128, 64, 2, 2)                                                                                         \
    X("128x128", 128, 128, 2, 2)                                                                                       \
    X("128x128w8", 128, 128, 2, 4)                                                                                     \
    X("128x256", 128, 256, 2, 4)                                                                                       \
    X("256x128", 256, 128, 4, 2)

struct tile {
    int32_t bm, bn, warps_m, warps_n;
};

static const struct tile tiles[] = {
#define MOET_X(label, bm, bn, warps_m, warps_n) {bm, bn, warps_m, warps_n},
    TILE_TABLE(MOET_X)
#undef MOET_X
};

static const char *const tile_values[] = {
#define MOET_X(label, bm, bn, warps_m, warps_n) label,
    TILE_TABLE(MOET_X)
#undef MOET_X
        NULL,
};
static const char *const bk_values[] = {"32", "64", NULL};
static const char *const stages_values[] = {"3", "4", NULL};
static const char *const group_values[] = {"1", "8", NULL};

#define PARAM_TABLE(X)                                                                                                 \
    X(PARAM_TILE, "tile", tile_values, MOET_SEARCH_FIRST)                                                              \
    X(PARAM_BK, "bk", bk_values, MOET_SEARCH_FIRST)                                                                    \
    X(PARAM_STAGES, "stages", stages_values, MOET_SEARCH_FIRST)                                                        \
    X(PARAM_GROUP, "group", group_values, MOET_SEARCH_FIRST)
static const moet_param params[PARAM_COUNT] = {PARAM_TABLE(MOET_PARAM)};
static const moet_param path_params[MOET_PATH_PARAM_COUNT(PARAM_COUNT)] = {
    MOET_PATH_PARAM_TABLE PARAM_TABLE(MOET_PARAM_UP) PARAM_TABLE(MOET_PARAM_DOWN)};

/* A config in numbers. */
struct shape {
    struct tile tile;
    int32_t bk, stages, group, threads;
};

static struct shape shape_of(const moet_config *config)
{
    struct shape shape = {.tile = tiles[config->value[PARAM_TILE]],
                          .bk = moet_config_number(config, PARAM_BK),
                          .stages = moet_config_number(config, PARAM_STAGES),
                          .group = moet_config_number(config, PARAM_GROUP)};
    shape.threads = 32 * shape.tile.warps_m * shape.tile.warps_n;
    return shape;
}

/* Dynamic shared memory: the stages, then what moet_body of mma_gemm.cu keeps of the experts. */
static int32_t smem_bytes(const moet_problem *problem, const moet_config *config)
{
    struct shape shape = shape_of(config);
    return shape.stages * (shape.tile.bm + shape.tile.bn) * shape.bk * 2 + (2 * (problem->experts + 1) + 8) * 4;
}

static moet_traits mma_traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem, (void)config;
    return (moet_traits){.host_counts = true, .device_counts = true, .capturable = true, .batch_invariant = true};
}

static bool mma_applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                           char *why)
{
    if (!moet_family_accepts(&moet_family_mma_gemm, problem, device, why)) return false;
    if (device->cc_major < 8)
        return moet_refuse(why, "mma_gemm needs compute capability 8.0 or later, the device has %d.%d",
                           device->cc_major, device->cc_minor);
    /* Counts by value make the parameters longer than 4 KB. 0: unknown. */
    if (device->driver_cuda_version != 0 && device->driver_cuda_version < 12010)
        return moet_refuse(why, "mma_gemm needs a driver of CUDA 12.1 or later, this one is of %d.%d",
                           device->driver_cuda_version / 1000, device->driver_cuda_version % 1000 / 10);
    int32_t size_bytes = smem_bytes(problem, config);
    if (size_bytes > device->smem_per_block_optin_bytes)
        return moet_refuse(why, "needs %d B of shared memory, device has %lld", size_bytes,
                           (long long)device->smem_per_block_optin_bytes);
    /* Half the barriers a byte: on seven points of an H100 the best bk=32 was 0 to 13 % slower than the best bk=64 and
     * never faster by more than 0.5 %. */
    moet_config wider = *config;
    moet_config_set(&wider, "bk", "64");
    if (shape_of(config).bk == 32 && smem_bytes(problem, &wider) <= device->smem_per_block_optin_bytes)
        return moet_refuse(why, "bk=32 is for devices without the shared memory for bk=64; this one has it");
    return true;
}

static void set(moet_config *config, const char *tile, const char *bk, const char *stages)
{
    moet_config_set(config, "tile", tile);
    moet_config_set(config, "bk", bk);
    moet_config_set(config, "stages", stages);
}

/* Few rows an expert: the weights' stream is the floor, so no more rows than there are (they cost math and nothing
 * else) and many bytes in flight. Many: a large tile, whose loads are few. */
static void mma_default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                               moet_config *config)
{
    static const struct {
        int32_t mean_rows; /* of an expert, at most */
        const char *tile, *bk, *stages;
    } rules[] = {
        {16, "16x128", "64", "4"},   {32, "32x128", "64", "4"},         {64, "64x128", "64", "4"},
        {512, "128x128", "64", "3"}, {INT32_MAX, "128x256", "64", "4"},
    };
    static const char *const smaller[][2] = {{"64", "3"}, {"32", "4"}, {"32", "3"}}; /* bk, stages */
    const int64_t mean = (rows_hint + problem->experts - 1) / problem->experts;
    int32_t rule = 0;
    while (mean > rules[rule].mean_rows) rule++;

    *config = (moet_config){.family = &moet_family_mma_gemm};
    moet_config_set(config, "group", "8");
    for (;; rule--) {
        set(config, rules[rule].tile, rules[rule].bk, rules[rule].stages);
        for (int32_t i = 0; i < MOET_COUNT_OF(smaller); i++) {
            if (smem_bytes(problem, config) <= device->smem_per_block_optin_bytes) break;
            set(config, rules[rule].tile, smaller[i][0], smaller[i][1]);
        }
        /* A large tile that leaves SMs idle is worse than a smaller one; below 64 rows weights would be read again. */
        const struct tile tile = shape_of(config).tile;
        const int64_t m_tiles = problem->experts * ((mean + tile.bm - 1) / tile.bm);
        const int64_t n_tiles = (moet_problem_n(problem) + tile.bn - 1) / tile.bn;
        const bool fits = smem_bytes(problem, config) <= device->smem_per_block_optin_bytes;
        if (rule == 0 || (fits && (tile.bm <= 64 || m_tiles * n_tiles >= device->sm_count))) return;
    }
}

static bool mma_tile_shape(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                           moet_tile_shape *tile)
{
    const struct shape shape = shape_of(config);
    /* What CTAs are given of an SM: shared memory with 1 KB of the system's, and the compiler's 168 registers or so. */
    const int64_t by_smem = device->smem_per_sm_bytes / (smem_bytes(problem, config) + 1024);
    const int64_t by_registers = device->regs_per_sm / (shape.threads * 168);
    const int64_t ctas = by_smem < by_registers ? by_smem : by_registers;
    *tile = moet_tile_shape_of(shape.tile.bm, shape.tile.bn, shape.tile.bm);
    tile->ctas_per_sm = ctas < 1 ? 1 : (int32_t)ctas;
    tile->hides_store = ctas > 1;
    tile->group = shape.group;
    /* mma.sync beside wgmma on an H100; elsewhere it is all there is. */
    if (device->cc_major == 9) tile->tensor_fraction = 0.62;
    return true;
}

static int32_t mma_tile(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                        const moet_device_rates *rates, moet_tiling *tilings)
{
    moet_tile_shape tile;
    mma_tile_shape(problem, config, device, &tile);
    tilings[0] = moet_tile_tiling(problem, &tile, device, rates);
    return 1;
}

static double mma_estimate_ns(const moet_problem *problem, const int32_t *counts, int64_t tokens,
                              const moet_config *config, const moet_device_info *device, const moet_device_rates *rates)
{
    moet_tile_shape tile;
    mma_tile_shape(problem, config, device, &tile);
    return (void)tokens, moet_tile_cost_ns(problem, counts, &tile, device, rates);
}

static size_t mma_workspace_bytes(const moet_prepare_args *args)
{
    (void)args;
    return 0;
}

/* Compute capabilities that NVRTC has a target for. The code uses nothing past 8.0, so one of the same major version
 * and a lower minor one runs too. */
static const char *arch_of(int32_t cc_major, int32_t cc_minor)
{
    static const struct {
        int32_t major, minor;
        const char *arch;
    } table[] = {
        {12, 0, "sm_120"}, {11, 0, "sm_110"}, {10, 0, "sm_100"}, {9, 0, "sm_90"},
        {8, 9, "sm_89"},   {8, 6, "sm_86"},   {8, 0, "sm_80"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(table); i++)
        if (table[i].major == cc_major && table[i].minor <= cc_minor) return table[i].arch;
    return NULL;
}

/* The kernels' name without the suffix for where the counts are. */
static void kernel_name(const moet_problem *problem, const moet_config *config, char name[64])
{
    snprintf(name, 64, "mma_gemm_%sx%s_s%s_%s%s", moet_config_text(config, PARAM_TILE),
             moet_config_text(config, PARAM_BK), moet_config_text(config, PARAM_STAGES),
             problem->layout == MOET_LAYOUT_KN ? "kn" : "nk", problem->bias ? "_bias" : "");
}

static bool mma_source(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                       int32_t index, moet_source *source)
{
    if (index != 0) return false;
    const char *arch = arch_of(cc_major, cc_minor);
    if (!arch) return false;
    const struct shape shape = shape_of(config);
    char name[64];
    kernel_name(problem, config, name);
    *source = (moet_source){.name = "mma_gemm.cu", .text = moet_source_mma_gemm, .arch = arch};
    moet_source_option(source, "-DMOET_NAME=%s", name);
    moet_source_option(source, "-DMOET_BM=%d", shape.tile.bm);
    moet_source_option(source, "-DMOET_BN=%d", shape.tile.bn);
    moet_source_option(source, "-DMOET_BK=%d", shape.bk);
    moet_source_option(source, "-DMOET_STAGES=%d", shape.stages);
    moet_source_option(source, "-DMOET_WARPS_M=%d", shape.tile.warps_m);
    moet_source_option(source, "-DMOET_WARPS_N=%d", shape.tile.warps_n);
    moet_source_option(source, "-DMOET_KN=%d", problem->layout == MOET_LAYOUT_KN);
    moet_source_option(source, "-DMOET_BIAS=%d", problem->bias);
    return true;
}

/* ---- prepared ---- */

/* struct moet_counts of mma_gemm.cu. */
struct counts {
    int32_t v[MOET_MAX_EXPERTS];
};

enum { DEVICE_COUNTS, HOST_COUNTS, KERNEL_COUNT };

struct state {
    const struct moet_cuda_api *cuda;
    moet_cubin cubin;
    void *module;
    void *kernels[KERNEL_COUNT];
    struct shape shape;
    int32_t experts, n, k;
    int32_t smem_bytes;
    int64_t most_ctas;    /* that are resident at the same time */
    struct counts counts; /* of the launch at hand; the driver copies them */
};

static void mma_release(void *state)
{
    struct state *mma = state;
    if (!mma) return;
    moet_module_unload(mma->module);
    moet_cubin_release(&mma->cubin);
    free(mma);
}

/* Sizes the kernels' shared memory and finds how many CTAs of either are resident on an SM. */
static moet_status set_up_kernels(struct state *mma, int32_t *ctas_per_sm)
{
    *ctas_per_sm = INT32_MAX;
    for (int32_t i = 0; i < KERNEL_COUNT; i++) {
        int ctas = 0;
        CUresult result = mma->cuda->cuFuncSetAttribute(
            mma->kernels[i], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, mma->smem_bytes);
        if (result == CUDA_SUCCESS)
            result = mma->cuda->cuFuncSetAttribute(mma->kernels[i], CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                                                   CU_SHAREDMEM_CARVEOUT_MAX_SHARED);
        if (result == CUDA_SUCCESS)
            result = mma->cuda->cuOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, mma->kernels[i], mma->shape.threads,
                                                                            (size_t)mma->smem_bytes);
        if (result != CUDA_SUCCESS) return moet_cuda_fail(result, "mma_gemm: shared memory");
        if (ctas == 0) return moet_fail(MOET_UNSUPPORTED, "mma_gemm: no CTA fits an SM");
        if (ctas < *ctas_per_sm) *ctas_per_sm = ctas;
    }
    return MOET_OK;
}

static moet_status mma_prepare(const moet_prepare_args *args, void **state)
{
    const moet_device_info *device = &args->device->info;
    const moet_problem *problem = args->problem;
    char name[64], names[KERNEL_COUNT][72], why[MOET_REASON_SIZE];
    const char *const name_list[KERNEL_COUNT] = {names[DEVICE_COUNTS], names[HOST_COUNTS]};
    int32_t ctas_per_sm;
    moet_source source;
    moet_status status;

    if (!mma_applicable(problem, args->config, device, why)) return moet_fail(MOET_UNSUPPORTED, "%s", why);
    struct state *mma = calloc(1, sizeof *mma);
    if (!mma) return moet_fail(MOET_NO_MEMORY, "mma_gemm: out of host memory");
    mma->shape = shape_of(args->config);
    mma->experts = problem->experts;
    mma->n = moet_problem_n(problem);
    mma->k = moet_problem_k(problem);
    mma->smem_bytes = smem_bytes(problem, args->config);

    status = moet_cuda_api_get(&mma->cuda);
    if (status != MOET_OK) goto done;
    if (args->cubin_count > 0)
        status = moet_cubin_copy(args->cubins[0], &mma->cubin);
    else if (mma_source(problem, args->config, device->cc_major, device->cc_minor, 0, &source))
        status = moet_module_compile(&source, &mma->cubin, NULL);
    else
        status = moet_fail(MOET_UNSUPPORTED, "mma_gemm: no target for compute capability %d.%d", device->cc_major,
                           device->cc_minor);
    if (status != MOET_OK) goto done;

    kernel_name(problem, args->config, name);
    snprintf(names[DEVICE_COUNTS], sizeof names[0], "%s_d", name);
    snprintf(names[HOST_COUNTS], sizeof names[0], "%s_h", name);
    status = moet_module_load(&mma->cubin, name_list, KERNEL_COUNT, &mma->module, mma->kernels);
    if (status == MOET_OK) status = set_up_kernels(mma, &ctas_per_sm);
    if (status != MOET_OK) goto done;

    /* CTAs go to idle SMs first: only as many CTAs as SMs are allowed keep the other SMs free. */
    mma->most_ctas =
        args->max_sms > 0 && args->max_sms < device->sm_count ? args->max_sms : (int64_t)device->sm_count * ctas_per_sm;
    *state = mma;
    mma = NULL;
done:
    mma_release(mma);
    return status;
}

static moet_status mma_launch(void *state, const moet_family_launch_args *args)
{
    struct state *mma = state;
    const int64_t n_tiles = (mma->n + mma->shape.tile.bn - 1) / mma->shape.tile.bn;
    int64_t m_tiles;
    void *counts;
    const int32_t *device_counts = args->counts;
    if (args->rows == 0) return MOET_OK;
    if (args->counts_on_device) {
        /* The most there can be: one partial tile an expert, and never more tiles than rows. */
        m_tiles = args->rows / mma->shape.tile.bm + mma->experts;
        if (m_tiles > args->rows) m_tiles = args->rows;
        counts = &device_counts;
    } else {
        m_tiles = 0; /* counted until they fill the grid */
        for (int32_t e = 0; e < mma->experts && m_tiles * n_tiles < mma->most_ctas; e++)
            m_tiles += (args->counts[e] + mma->shape.tile.bm - 1) / mma->shape.tile.bm;
        if (m_tiles == 0) return MOET_OK;
        memcpy(mma->counts.v, args->counts, (size_t)mma->experts * sizeof mma->counts.v[0]);
        counts = &mma->counts;
    }
    const int64_t tile_count = m_tiles * n_tiles;
    const int64_t ctas = tile_count < mma->most_ctas ? tile_count : mma->most_ctas;
    int32_t rows = (int32_t)args->rows;

    /* In the order of the kernels' parameters. */
    const void *x = args->x, *w = args->w, *bias = args->bias;
    void *out = args->out;
    void *kernel_args[] = {&x, &w, &bias, &out, counts, &mma->experts, &mma->n, &mma->k, &rows, &mma->shape.group};
    CUresult result = mma->cuda->cuLaunchKernel(mma->kernels[args->counts_on_device ? DEVICE_COUNTS : HOST_COUNTS],
                                                (unsigned)ctas, 1, 1, (unsigned)mma->shape.threads, 1, 1,
                                                (unsigned)mma->smem_bytes, args->stream, kernel_args, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "mma_gemm: launch");
}

static int32_t mma_cubins(const void *state, const moet_cubin **list)
{
    const struct state *mma = state;
    list[0] = &mma->cubin;
    return 1;
}

const moet_family moet_family_mma_gemm = {
    .name = "mma_gemm",
    .version = VERSION,
    .backend = "cuda",
    .summary = "one persistent kernel, mma.sync and cp.async; compute capability 8.0 and later, counts anywhere",
    .params = params,
    .param_count = PARAM_COUNT,
    .traits = mma_traits,
    .applicable = mma_applicable,
    .default_config = mma_default_config,
    .estimate_ns = mma_estimate_ns,
    .tile_shape = mma_tile_shape,
    .tile = mma_tile,
    .workspace_bytes = mma_workspace_bytes,
    .prepare = mma_prepare,
    .launch = mma_launch,
    .release = mma_release,
    .cubins = mma_cubins,
    .source = mma_source,
};

extern const moet_family moet_family_mma_ffn;
const moet_family moet_family_mma_ffn = {
    .name = "mma_ffn",
    .version = MOET_PATH_VERSION(VERSION),
    .backend = "cuda",
    .summary = "the expert path, its GEMMs by mma_gemm",
    .params = path_params,
    .param_count = MOET_PATH_PARAM_COUNT(PARAM_COUNT),
    .gemm = &moet_family_mma_gemm,
    MOET_PATH_FUNCTIONS,
    .cubins = moet_ffn_path_cubins,
    .source = moet_ffn_path_source,
};
#else
typedef int moet_mma_gemm_is_left_out; /* ISO C wants a declaration in every file */
#endif
