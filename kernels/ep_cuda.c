/* ep_cuda: ep_stages.h on CUDA: compiles ep.cu and launches its kernels. */
#ifdef MOET_CUDA
#include <stdlib.h>

#include "../src/cuda_api.h"
#include "../src/ep_stages.h"
#include "../src/family.h"

#include "ep_source.h"

extern const char moet_source_ep[];

/* As in ep.cu. */
enum { PLAN_THREADS = 1024, BASES_THREADS = 256, AWAIT_THREADS = 32, ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };
enum { FLAT_THREADS = 256, FLAT_WARPS = FLAT_THREADS / 32 };

enum { EARLY_DRIVER = 12030 }; /* captures launches that may begin early into graphs; as in stages_cuda.c */

enum kernel {
    PLAN,
    BASES,
    DISPATCH,
    PACK,
    GIVE,
    SPREAD,
    AWAIT,
    COMBINE,
    COMBINE_GIVEN,
    GIVE_AND_COMBINE,
    CHOICES,
    COPY,
    SLOTS,
    KERNEL_COUNT
};
static const char *const kernel_names[] = {
    [PLAN] = "moet_ep_plan",
    [BASES] = "moet_ep_bases",
    [DISPATCH] = "moet_ep_dispatch",
    [PACK] = "moet_ep_pack",
    [GIVE] = "moet_ep_give",
    [SPREAD] = "moet_ep_spread",
    [AWAIT] = "moet_ep_await",
    [COMBINE] = "moet_ep_combine",
    [COMBINE_GIVEN] = "moet_ep_combine_given",
    [GIVE_AND_COMBINE] = "moet_ep_give_and_combine",
    [CHOICES] = "moet_ep_choices",
    [COPY] = "moet_ep_copy",
    [SLOTS] = "moet_ep_slots",
};

/* Blocks of a kernel that an SM holds: its launch bounds. */
enum {
    DISPATCH_BLOCKS = 3,
    PACK_BLOCKS = 4,
    GIVE_BLOCKS = 3,
    SPREAD_BLOCKS = 3,
    COMBINE_BLOCKS = 3,
    COMBINE_GIVEN_BLOCKS = 2,
    GIVE_AND_COMBINE_BLOCKS = 2,
    FLAT_BLOCKS = 4,
};

/* Vectors of a row that a warp should have at least, lest it looks choices up for little. */
enum { PART_VECTORS = 64 };

struct moet_ep_stages {
    const struct moet_cuda_api *cuda;
    moet_device *device;
    moet_cubin cubin;
    void *module;
    void *functions[KERNEL_COUNT];
};

bool moet_ep_source(int32_t cc_major, int32_t cc_minor, moet_source *source)
{
    /* As for stages.cu: the nearest target of the same major version. */
    static const struct {
        int32_t major, minor;
        const char *arch;
    } table[] = {
        {12, 0, "sm_120"}, {11, 0, "sm_110"}, {10, 0, "sm_100"}, {9, 0, "sm_90"},
        {8, 9, "sm_89"},   {8, 6, "sm_86"},   {8, 0, "sm_80"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(table); i++) {
        if (table[i].major != cc_major || table[i].minor > cc_minor) continue;
        *source = (moet_source){.name = "ep.cu", .text = moet_source_ep, .arch = table[i].arch};
        return true;
    }
    return false;
}

static void cuda_destroy(moet_ep_stages *stages)
{
    if (!stages) return;
    moet_module_unload(stages->module);
    moet_cubin_release(&stages->cubin);
    free(stages);
}

static moet_status cuda_create(moet_device *device, moet_ep_stages **stages)
{
    moet_source source;
    moet_ep_stages *result = calloc(1, sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    result->device = device;
    moet_status status = moet_cuda_api_get(&result->cuda);
    if (status == MOET_OK && !moet_ep_source(device->info.cc_major, device->info.cc_minor, &source))
        status = moet_fail(MOET_UNSUPPORTED, "expert parallelism: no target for compute capability %d.%d",
                           device->info.cc_major, device->info.cc_minor);
    if (status == MOET_OK) status = moet_module_compile(&source, &result->cubin, NULL);
    if (status == MOET_OK)
        status = moet_module_load(&result->cubin, kernel_names, KERNEL_COUNT, &result->module, result->functions);
    if (status != MOET_OK) {
        cuda_destroy(result);
        return status;
    }
    *stages = result;
    return MOET_OK;
}

/* sms: where there is a limit, blocks that wait on SMs that are to be left free would not leave them free. */
static moet_status launch(const moet_ep_stages *stages, enum kernel kernel, int64_t blocks, uint32_t threads,
                          int32_t sms, void *stream, void **args)
{
    const moet_device_info *device = &stages->device->info;
    const bool is_early = device->cc_major >= 9 && device->driver_cuda_version >= EARLY_DRIVER && sms == 0;
    CUlaunchAttribute early = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                               .value.programmaticStreamSerializationAllowed = 1};
    CUlaunchConfig config = {.gridDimX = (unsigned)blocks,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = threads,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .hStream = stream,
                             .attrs = &early,
                             .numAttrs = is_early ? 1 : 0};
    const CUresult result = stages->cuda->cuLaunchKernelEx(&config, stages->functions[kernel], args, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, kernel_names[kernel]);
}

static int64_t sms_of(const moet_ep_stages *stages, int32_t sms)
{
    const int32_t all = stages->device->info.sm_count;
    return sms > 0 && sms < all ? sms : all;
}

static int64_t at_most(int64_t value, int64_t most) { return value < most ? value : most; }

static moet_status cuda_plan(moet_ep_stages *stages, const moet_ep_pass *pass, void *stream)
{
    void *args[] = {(void *)pass};
    return launch(stages, PLAN, at_most(pass->ranks, sms_of(stages, 0)), PLAN_THREADS, 1, stream, args);
}

static moet_status cuda_bases(moet_ep_stages *stages, const moet_ep_pass *pass, void *stream)
{
    void *args[] = {(void *)pass};
    if (pass->is_lsa) return MOET_OK; /* dispatch does it, which has to wait anyway */
    return launch(stages, BASES, 1, BASES_THREADS, 1, stream, args);
}

/* Parts of a row, so many as leave work for all warps. */
static int32_t split_of(const moet_ep_pass *pass, int64_t rows, int64_t blocks)
{
    const int32_t parts = (pass->hidden / 8 + PART_VECTORS - 1) / PART_VECTORS;
    int32_t split = 1;
    while (2 * split <= parts && rows * split < blocks * ROW_WARPS) split *= 2;
    return split;
}

/* A kernel of warps that each take a part of a token's row. Blocks that wait for other ranks are all resident. */
static moet_status launch_rows(moet_ep_stages *stages, enum kernel kernel, const moet_ep_pass *pass, int64_t most_rows,
                               int64_t blocks_per_sm, int32_t sms, void *stream)
{
    const int64_t most = sms_of(stages, sms) * blocks_per_sm;
    int32_t split = split_of(pass, pass->tokens, most);
    const int64_t items = pass->tokens * split > most_rows ? (int64_t)pass->tokens * split : most_rows;
    const int64_t blocks = at_most((items + ROW_WARPS - 1) / ROW_WARPS, most);
    void *args[] = {(void *)pass, &split};
    return launch(stages, kernel, blocks > 0 ? blocks : 1, ROW_THREADS, sms, stream, args);
}

static moet_status cuda_dispatch(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t sms, void *stream)
{
    const int64_t slots = pass->is_bound ? (int64_t)pass->ranks * pass->max_tokens : 0;
    return launch_rows(stages, DISPATCH, pass, slots, DISPATCH_BLOCKS, sms, stream);
}

static moet_status cuda_pack(moet_ep_stages *stages, const moet_ep_pass *pass, const void *tails, const void *rows,
                             const int32_t *places, void *packed, int32_t sms, void *stream)
{
    void *args[] = {(void *)pass, &tails, &rows, &places, &packed};
    const int64_t most = ((int64_t)pass->ranks * pass->max_tokens + ROW_WARPS - 1) / ROW_WARPS;
    return launch(stages, PACK, at_most(most, sms_of(stages, sms) * PACK_BLOCKS), ROW_THREADS, sms, stream, args);
}

static moet_status cuda_give(moet_ep_stages *stages, const moet_ep_pass *pass, const void *tails, const void *rows,
                             const int32_t *places, int32_t sms, void *stream)
{
    const int64_t bound = (int64_t)pass->ranks * pass->max_tokens, most = sms_of(stages, sms) * GIVE_BLOCKS;
    int32_t split = split_of(pass, bound, most);
    void *args[] = {(void *)pass, &tails, &rows, &places, &split};
    return launch(stages, GIVE, at_most((bound * split + ROW_WARPS - 1) / ROW_WARPS, most), ROW_THREADS, sms, stream,
                  args);
}

/* As many rows are given as tokens are combined, where all ranks have as many tokens. */
static moet_status cuda_give_and_combine(moet_ep_stages *stages, const moet_ep_pass *pass, const void *tails,
                                         const void *rows, const int32_t *places, int32_t sms, void *stream)
{
    const int64_t most = sms_of(stages, sms) * GIVE_AND_COMBINE_BLOCKS;
    const int64_t bound = (int64_t)pass->ranks * pass->max_tokens;
    int32_t split = split_of(pass, 2 * (int64_t)pass->tokens, most);
    void *args[] = {(void *)pass, &tails, &rows, &places, &split};
    return launch(stages, GIVE_AND_COMBINE, at_most((bound * split + ROW_WARPS - 1) / ROW_WARPS, most), ROW_THREADS,
                  sms, stream, args);
}

static moet_status cuda_spread(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t sms, void *stream)
{
    const int64_t tokens = (int64_t)pass->pieces * pass->piece_tokens, most = sms_of(stages, sms) * SPREAD_BLOCKS;
    int32_t split = pass->spreads == MOET_EP_SPREADS_NONE ? 1 : split_of(pass, tokens, most);
    void *args[] = {(void *)pass, &split};
    return launch(stages, SPREAD, at_most((tokens * split + ROW_WARPS - 1) / ROW_WARPS, most), ROW_THREADS, sms, stream,
                  args);
}

static moet_status cuda_await(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t piece, int32_t sms,
                              void *stream)
{
    void *args[] = {(void *)pass, &piece};
    return launch(stages, AWAIT, 1, AWAIT_THREADS, sms, stream, args);
}

static moet_status cuda_combine(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t sms, void *stream)
{
    return pass->is_given ? launch_rows(stages, COMBINE_GIVEN, pass, 0, COMBINE_GIVEN_BLOCKS, sms, stream)
                          : launch_rows(stages, COMBINE, pass, 0, COMBINE_BLOCKS, sms, stream);
}

/* ---- for a library that dispatches itself ---- */

static moet_status launch_flat(moet_ep_stages *stages, enum kernel kernel, int64_t blocks, void *stream, void **args)
{
    const int64_t most = sms_of(stages, 0) * FLAT_BLOCKS;
    return blocks > 0 ? launch(stages, kernel, at_most(blocks, most), FLAT_THREADS, 0, stream, args) : MOET_OK;
}

static moet_status cuda_choices(moet_ep_stages *stages, const moet_ep_pass *pass, int32_t *ids, float *weights,
                                void *stream)
{
    void *args[] = {(void *)pass, &ids, &weights};
    return launch_flat(stages, CHOICES, (pass->tokens + FLAT_WARPS - 1) / FLAT_WARPS, stream, args);
}

static moet_status cuda_copy(moet_ep_stages *stages, void *to, int64_t to_stride, const void *from, int64_t from_stride,
                             int64_t rows, int32_t hidden, void *stream)
{
    int64_t to_vectors = to_stride / 8, from_vectors = from_stride / 8;
    int32_t vectors = hidden / 8;
    void *args[] = {&to, &to_vectors, &from, &from_vectors, &rows, &vectors};
    return launch_flat(stages, COPY, (rows * vectors + FLAT_THREADS - 1) / FLAT_THREADS, stream, args);
}

static moet_status cuda_slots(moet_ep_stages *stages, const int32_t *first, int32_t experts, const int32_t *total,
                              int32_t *ids, int32_t bound, void *stream)
{
    void *args[] = {&first, &experts, &total, &ids, &bound};
    return launch_flat(stages, SLOTS, ((int64_t)bound + FLAT_THREADS - 1) / FLAT_THREADS, stream, args);
}

const moet_ep_stages_table moet_ep_stages_cuda = {
    .backend = "cuda",
    .create = cuda_create,
    .destroy = cuda_destroy,
    .plan = cuda_plan,
    .bases = cuda_bases,
    .dispatch = cuda_dispatch,
    .pack = cuda_pack,
    .give = cuda_give,
    .give_and_combine = cuda_give_and_combine,
    .spread = cuda_spread,
    .await = cuda_await,
    .combine = cuda_combine,
    .choices = cuda_choices,
    .copy = cuda_copy,
    .slots = cuda_slots,
};
#else
typedef int moet_ep_cuda_is_left_out; /* ISO C wants a declaration in every file */
#endif
