/* stages_cuda: stages.h on CUDA: compiles stages.cu and launches its kernels. */
#ifdef MOET_CUDA
#include <math.h>
#include <stdlib.h>

#include "../src/cuda_api.h"
#include "stages_table.h"

extern const char moet_source_stages[];

/* member, kernel in stages.cu */
#define KERNEL_TABLE(X)                                                                                                \
    X(permute, "moet_stage_permute")                                                                                   \
    X(permute_many, "moet_stage_permute_many")                                                                         \
    X(gather, "moet_stage_gather")                                                                                     \
    X(swiglu, "moet_stage_swiglu")                                                                                     \
    X(gpt_oss, "moet_stage_gpt_oss")                                                                                   \
    X(combine, "moet_stage_combine")

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

/* As in stages.cu. */
enum {
    PERMUTE_THREADS = 1024,
    TILE_TOKENS = 256,
    GROUP_TOKENS = 32,
    FEW_PASSES = 8,
    ROW_THREADS = 256,
    GATHER_VECTORS = 128, /* of 8 elements, that a warp takes at a time */
    ACTIVATE_VECTORS = 64,
    COMBINE_VECTORS = 32,
    COMBINE_TOKENS = 32, /* that a warp takes at a time, at most */
    COMBINE_BLOCKS = 5,  /* an SM */
};

enum {
    FEW_TOKENS = 1024,       /* of moet_stage_permute, whose blocks each count all of them */
    SMEM_BYTES = 65536,      /* dynamic, of any kernel: every architecture has it for one block */
    HISTOGRAM_WORDS = 32768, /* which each block of moet_stage_permute_many reads */
    EARLY_DRIVER = 12030,    /* captures launches that may begin early into graphs */
};

/* struct moet_route of stages.cu. */
struct route {
    const void *ids;
    int64_t ids_stride;
    const float *weights;
    int64_t weights_stride;
    const int32_t *device_tokens;
    int32_t *counts, *places, *rowmap, *source, *target;
    float *prob;
    int32_t *histogram;
    int32_t tokens;
    int32_t is_int64, choices, lanes_log, experts, width, max_rows;
    int32_t tiles;
};

typedef struct cuda_stages {
    const struct moet_cuda_api *cuda;
    moet_cubin cubin;
    void *module;
    void *functions[KERNEL_COUNT];
    bool is_early;
} cuda_stages;

/* ---- how the permutation is cut ---- */

typedef struct cut {
    int32_t lanes_log;   /* of a token: choices rounded up to a power of two */
    int32_t tile_tokens; /* of a block at a time */
    int32_t group_bytes; /* of masks, or of bases, of 32 tokens */
} cut;

static cut cut_of(int32_t choices, int32_t experts)
{
    cut c = {.group_bytes = experts * (int32_t)sizeof(int32_t)};
    while (1 << c.lanes_log < choices) c.lanes_log++;
    c.tile_tokens = PERMUTE_THREADS >> c.lanes_log;
    if (c.tile_tokens > TILE_TOKENS) c.tile_tokens = TILE_TOKENS;
    return c;
}

static int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Shared memory of one launch for few tokens. */
static int64_t few_bytes(const cut *c, int64_t tokens)
{
    return (divided_up(tokens, GROUP_TOKENS) + c->tile_tokens / GROUP_TOKENS) * c->group_bytes;
}

/* What is true of a number of tokens is true of fewer. */
static bool is_few(const cut *c, int64_t tokens)
{
    return tokens <= FEW_TOKENS && tokens << c->lanes_log <= FEW_PASSES * PERMUTE_THREADS &&
           few_bytes(c, tokens) <= SMEM_BYTES;
}

static int64_t sms_of(int32_t max_sms, const moet_device_info *device)
{
    const int32_t all = device->sm_count > 0 ? device->sm_count : INT32_MAX; /* 0: unknown */
    return max_sms > 0 && max_sms < all ? max_sms : all;
}

/* Blocks that read each other's counts, at most: what each reads is bounded, and one has an SM to itself. */
static int64_t most_blocks(int32_t experts, int64_t sms)
{
    const int64_t blocks = HISTOGRAM_WORDS / experts;
    return blocks < sms ? blocks : sms;
}

static int64_t tiles_of(const cut *c, int64_t tokens)
{
    return tokens > 0 ? divided_up(tokens, c->tile_tokens) : 1; /* counts are written */
}

/* A block a tile, or (is_many) blocks that take as many tiles as SMs are too few, and wait for each other's counts. As
 * with is_few, what is not many is not with fewer tokens. */
typedef struct grid {
    bool is_many;
    int64_t blocks, tiles; /* tiles: of a block */
} grid;

static grid grid_of(const cut *c, int32_t experts, int64_t tokens, int64_t sms)
{
    const int64_t tiles = tiles_of(c, tokens), most = most_blocks(experts, sms);
    if (is_few(c, tokens) && tiles <= sms) return (grid){false, tiles, 1};
    const int64_t of_block = divided_up(tiles, most);
    return (grid){true, divided_up(tiles, of_block), of_block};
}

static moet_stages_grid cuda_permute_grid(const moet_problem *problem, int32_t choices, int64_t tokens, int32_t max_sms,
                                          const moet_device_info *device)
{
    const cut c = cut_of(choices, problem->experts);
    const grid g = grid_of(&c, problem->experts, tokens, sms_of(max_sms, device));
    return (moet_stages_grid){g.is_many, g.blocks};
}

static size_t cuda_workspace_bytes(const moet_problem *problem, int32_t choices, int64_t max_tokens, int32_t max_sms,
                                   const moet_device_info *device)
{
    const cut c = cut_of(choices, problem->experts);
    const int64_t sms = sms_of(max_sms, device);
    if (!grid_of(&c, problem->experts, max_tokens, sms).is_many) return 0;
    /* Not its blocks: fewer tokens, of fewer tiles a block, may have more. */
    int64_t blocks = tiles_of(&c, max_tokens);
    const int64_t most = most_blocks(problem->experts, sms);
    if (blocks > most) blocks = most;
    return ((size_t)(blocks * c.group_bytes) + 255) / 256 * 256;
}

/* ---- creation ---- */

bool moet_stages_source(int32_t cc_major, int32_t cc_minor, moet_source *source)
{
    /* Compute capabilities that NVRTC has a target for; later ones of the same major version run it too. */
    static const struct {
        int32_t major, minor;
        const char *arch;
    } table[] = {
        {12, 0, "sm_120"}, {11, 0, "sm_110"}, {10, 0, "sm_100"}, {9, 0, "sm_90"},
        {8, 9, "sm_89"},   {8, 6, "sm_86"},   {8, 0, "sm_80"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(table); i++) {
        if (table[i].major != cc_major || table[i].minor > cc_minor) continue;
        *source = (moet_source){.name = "stages.cu", .text = moet_source_stages, .arch = table[i].arch};
        return true;
    }
    return false;
}

static void cuda_destroy(moet_stages *stages)
{
    cuda_stages *impl = stages->impl;
    if (!impl) return;
    moet_module_unload(impl->module);
    moet_cubin_release(&impl->cubin);
    free(impl);
}

static moet_status cuda_create(moet_stages *stages, const moet_cubin *cubin)
{
    const moet_device_info *device = &stages->device->info;
    moet_source source;
    moet_status status;
    cuda_stages *impl = calloc(1, sizeof *impl);
    if (!impl) return moet_fail(MOET_NO_MEMORY, "stages: out of host memory");
    stages->impl = impl;
    /* Blocks that wait on SMs that are to be left free would not leave them free. */
    impl->is_early = device->cc_major >= 9 && device->driver_cuda_version >= EARLY_DRIVER &&
                     sms_of(stages->max_sms, device) == device->sm_count;
    status = moet_cuda_api_get(&impl->cuda);
    if (status != MOET_OK) goto done;
    if (cubin)
        status = moet_cubin_copy(cubin, &impl->cubin);
    else if (moet_stages_source(device->cc_major, device->cc_minor, &source))
        status = moet_module_compile(&source, &impl->cubin, NULL);
    else
        status = moet_fail(MOET_UNSUPPORTED, "stages: no target for compute capability %d.%d", device->cc_major,
                           device->cc_minor);
    if (status == MOET_OK)
        status = moet_module_load(&impl->cubin, kernel_names, KERNEL_COUNT, &impl->module, impl->functions);
    if (status != MOET_OK) goto done;
    for (int32_t i = KERNEL_permute; i <= KERNEL_permute_many; i++) {
        CUresult result = impl->cuda->cuFuncSetAttribute(impl->functions[i],
                                                         CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, SMEM_BYTES);
        if (result != CUDA_SUCCESS) {
            status = moet_cuda_fail(result, "stages: shared memory");
            goto done;
        }
    }
done:
    if (status != MOET_OK) {
        cuda_destroy(stages);
        stages->impl = NULL;
    }
    return status;
}

static const moet_cubin *cuda_cubin(const moet_stages *stages)
{
    const cuda_stages *impl = stages->impl;
    return &impl->cubin;
}

/* ---- launches ---- */

static moet_status launch(const moet_stages *stages, enum kernel kernel, int64_t blocks, uint32_t threads,
                          int64_t smem_bytes, void *stream, void **args)
{
    const cuda_stages *impl = stages->impl;
    CUlaunchAttribute attributes[2];
    unsigned count = 0;
    if (impl->is_early)
        attributes[count++] = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                                                  .value.programmaticStreamSerializationAllowed = 1};
    if (kernel == KERNEL_permute_many) /* its blocks wait for each other */
        attributes[count++] = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
    CUlaunchConfig config = {.gridDimX = (unsigned)blocks,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = threads,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .sharedMemBytes = (unsigned)smem_bytes,
                             .hStream = stream,
                             .attrs = attributes,
                             .numAttrs = count};
    CUresult result = impl->cuda->cuLaunchKernelEx(&config, impl->functions[kernel], args, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, kernel_names[kernel]);
}

static moet_status cuda_permute(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                                int64_t max_rows, int32_t *target, void *workspace)
{
    const cut c = cut_of(stages->choices, stages->problem.experts);
    const grid g = grid_of(&c, stages->problem.experts, args->tokens, sms_of(stages->max_sms, &stages->device->info));
    struct route route = {.ids = args->ids,
                          .ids_stride = args->ids_stride,
                          .weights = args->weights,
                          .weights_stride = args->weights_stride,
                          .device_tokens = args->device_tokens,
                          .counts = permuted->counts,
                          .places = permuted->places,
                          .rowmap = permuted->rowmap,
                          .source = permuted->source,
                          .target = target,
                          .prob = permuted->prob,
                          .histogram = workspace,
                          .tokens = (int32_t)args->tokens,
                          .is_int64 = args->ids_int64,
                          .choices = stages->choices,
                          .lanes_log = c.lanes_log,
                          .experts = stages->problem.experts,
                          .width = moet_stages_width(stages),
                          .max_rows = (int32_t)max_rows,
                          .tiles = (int32_t)g.tiles};
    void *kernel_args[] = {&route};
    if (!g.is_many)
        return launch(stages, KERNEL_permute, g.blocks, PERMUTE_THREADS, few_bytes(&c, args->tokens), args->stream,
                      kernel_args);
    const int64_t tile_bytes = (int64_t)c.tile_tokens / GROUP_TOKENS * c.group_bytes;
    return launch(stages, KERNEL_permute_many, g.blocks, PERMUTE_THREADS, 2 * tile_bytes, args->stream, kernel_args);
}

/* Blocks for pieces of rows, each of a warp: all of them, or what the device holds at once, and then they take turns.
 */
static int64_t row_blocks(const moet_stages *stages, int64_t rows, int32_t columns, int32_t vectors,
                          int32_t blocks_per_sm)
{
    const int64_t blocks = divided_up(rows * divided_up(columns / 8, vectors), ROW_THREADS / 32);
    const int64_t most = sms_of(stages->max_sms, &stages->device->info) * blocks_per_sm;
    return blocks < most ? blocks : most;
}

static moet_status cuda_gather(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                               int64_t rows)
{
    const void *x = args->x;
    void *to = permuted->x;
    int64_t x_stride = args->x_stride;
    const int32_t *source = permuted->source, *counts = permuted->counts;
    int32_t experts = stages->problem.experts, bound = (int32_t)rows, hidden = stages->problem.hidden;
    void *kernel_args[] = {&x, &x_stride, &source, &counts, &experts, &bound, &hidden, &to};
    return launch(stages, KERNEL_gather, row_blocks(stages, rows, hidden, GATHER_VECTORS, 6), ROW_THREADS, 0,
                  args->stream, kernel_args);
}

static moet_status cuda_activate(moet_stages *stages, const void *up, const moet_permuted *permuted, int64_t rows,
                                 void *out, void *stream)
{
    static const enum kernel kernels[MOET_ACTIVATION_COUNT] = {[MOET_ACTIVATION_SWIGLU] = KERNEL_swiglu,
                                                               [MOET_ACTIVATION_SWIGLU_CLAMP] = KERNEL_swiglu,
                                                               [MOET_ACTIVATION_GPT_OSS] = KERNEL_gpt_oss};
    const float limits[MOET_ACTIVATION_COUNT] = {[MOET_ACTIVATION_SWIGLU] = INFINITY,
                                                 [MOET_ACTIVATION_SWIGLU_CLAMP] = (float)stages->problem.clamp,
                                                 [MOET_ACTIVATION_GPT_OSS] = 7.0f};
    const float *prob = stages->problem.prob == MOET_PROB_ADVANCE ? permuted->prob : NULL;
    const int32_t *counts = permuted->counts;
    int32_t experts = stages->problem.experts, bound = (int32_t)rows, inter = stages->problem.inter;
    float limit = limits[stages->problem.activation];
    void *kernel_args[] = {&up, &prob, &counts, &experts, &bound, &inter, &limit, &out};
    return launch(stages, kernels[stages->problem.activation], row_blocks(stages, rows, inter, ACTIVATE_VECTORS, 4),
                  ROW_THREADS, 0, stream, kernel_args);
}

static moet_status cuda_combine(moet_stages *stages, const moet_ffn_args *args, const void *rows,
                                const moet_permuted *permuted)
{
    const float *prob = stages->problem.prob == MOET_PROB_COMBINE ? permuted->prob : NULL;
    int32_t is_rowmap = permuted->places == NULL, hidden = stages->problem.hidden, bound = (int32_t)args->tokens;
    int32_t span = is_rowmap ? stages->problem.experts : moet_stages_width(stages);
    int32_t single_plain = stages->problem.combine == MOET_COMBINE_PADDLE;
    const int32_t *map = is_rowmap ? permuted->rowmap : permuted->places, *device_tokens = args->device_tokens;
    void *out = args->out;
    int64_t out_stride = args->out_stride;
    /* As many tokens at a time as leave work for every warp. */
    const int64_t blocks = row_blocks(stages, args->tokens, hidden, COMBINE_VECTORS, COMBINE_BLOCKS);
    const int64_t pieces = args->tokens * divided_up(hidden / 8, COMBINE_VECTORS);
    int32_t group = 1;
    while (group < COMBINE_TOKENS && 2 * group * blocks * (ROW_THREADS / 32) <= pieces) group *= 2;
    void *kernel_args[] = {&rows,          &map,   &span,   &is_rowmap, &prob, &single_plain,
                           &device_tokens, &bound, &hidden, &group,     &out,  &out_stride};
    return launch(stages, KERNEL_combine, blocks, ROW_THREADS, 0, args->stream, kernel_args);
}

const moet_stages_table moet_stages_table_cuda = {
    .backend = "cuda",
    .create = cuda_create,
    .destroy = cuda_destroy,
    .cubin = cuda_cubin,
    .workspace_bytes = cuda_workspace_bytes,
    .permute_grid = cuda_permute_grid,
    .permute = cuda_permute,
    .gather = cuda_gather,
    .activate = cuda_activate,
    .combine = cuda_combine,
};
#else
typedef int moet_stages_cuda_is_left_out; /* ISO C wants a declaration in every file */
#endif
