/* wgmma_gemm: grouped GEMM with TMA and wgmma for compute capability 9.0 (sm_90a): the descriptor of wgmma_gemm.cu. */
#ifdef MOET_CUDA
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cuda_api.h"
#include "../src/family.h"
#include "ffn_path.h"
#include "tile_cost.h"
#include "wgmma_maps.h"

extern const char moet_source_wgmma_gemm[];
extern const moet_family moet_family_wgmma_gemm;

enum { VERSION = 5, FEW_EXPERTS = 64 };

enum {
    PARAM_MODE,
    PARAM_TILE,
    PARAM_STAGES,
    PARAM_CLUSTER,
    PARAM_GROUP,
    PARAM_ORDER,
    PARAM_STORE,
    PARAM_LAUNCH,
    PARAM_SPARE,
    PARAM_COUNT
};

/* label, whether rows of x are on wgmma's N side, whether the two math warpgroups take tiles in turn */
#define MODE_TABLE(X)                                                                                                  \
    X("coop", 0, 0)                                                                                                    \
    X("pingpong", 0, 1)                                                                                                \
    X("swap", 1, 0)                                                                                                    \
    X("swap_pingpong", 1, 1)

/* Extent on wgmma's M side and on its N side: rows x columns of out; swapped, columns x rows (at most: the instruction
 * follows the rows that there are, in steps of 16). 160, 176, 192 and 240 divide intermediate sizes such as 2880 and
 * 1408. */
/* clang-format off: it breaks these lines anew each time */
#define TILE_TABLE(X)                                                                                                  \
    X(64, 128)                                                                                                         \
    X(64, 192)                                                                                                         \
    X(64, 256)                                                                                                         \
    X(128, 16)                                                                                                         \
    X(128, 32)                                                                                                         \
    X(128, 64) X(128, 96) X(128, 128) X(128, 160) X(128, 176) X(128, 192) X(128, 240) X(128, 256) X(192, 128)          \
        X(256, 64) X(256, 128)
/* clang-format on */

struct mode {
    int32_t swap, pingpong;
};
static const struct mode modes[] = {
#define MOET_X(label, swap, pingpong) {swap, pingpong},
    MODE_TABLE(MOET_X)
#undef MOET_X
};
static const char *const mode_values[] = {
#define MOET_X(label, swap, pingpong) label,
    MODE_TABLE(MOET_X)
#undef MOET_X
        NULL,
};

struct tile {
    int32_t bm, bn;
};
static const struct tile tiles[] = {
#define MOET_X(bm, bn) {bm, bn},
    TILE_TABLE(MOET_X)
#undef MOET_X
};
static const char *const tile_values[] = {
#define MOET_X(bm, bn) #bm "x" #bn,
    TILE_TABLE(MOET_X)
#undef MOET_X
        NULL,
};
static const char *const stages_values[] = {"3", "4", "5", "6", "8", NULL};
/* CTAs that share copies, in rows x columns of tiles: 2x1 prefers pairs of row tiles, 1x2 of column tiles. */
enum { CLUSTER_1X1, CLUSTER_2X1, CLUSTER_1X2 };
static const char *const cluster_values[] = {[CLUSTER_1X1] = "1x1", [CLUSTER_2X1] = "2x1", [CLUSTER_1X2] = "1x2", NULL};
/* Row tiles of a band, which is walked with rows innermost: 1 reads w once a row tile, 64 reads x once a column tile;
 * 16 wins most often. */
static const char *const group_values[] = {"16", "1", "8", "64", NULL};
/* mixed: experts below the ridge of the roofline are walked beside those above it, to the end; front: these, whose
 * tiles take longest, in the first three quarters. */
enum { ORDER_PLAIN, ORDER_MIXED, ORDER_FRONT };
static const char *const order_values[] = {
    [ORDER_PLAIN] = "plain", [ORDER_MIXED] = "mixed", [ORDER_FRONT] = "front", NULL};
/* Full blocks by the copy engine, or all by the threads. */
enum { STORE_BULK, STORE_DIRECT };
static const char *const store_values[] = {[STORE_BULK] = "bulk", [STORE_DIRECT] = "direct", NULL};
/* early: CTAs may take SMs that the launch before on the stream has left, where that launch allows it, and get ready
 * there (programmatic dependent launch). Not where SMs are to be left free: they would wait on those, nor is the launch
 * after allowed it then. */
enum { LAUNCH_EARLY, LAUNCH_PLAIN };
static const char *const launch_values[] = {[LAUNCH_EARLY] = "early", [LAUNCH_PLAIN] = "plain", NULL};
/* SMs left to others, such as communication. */
static const char *const spare_values[] = {"0", "4", "8", "16", "32", NULL};

#define PARAM_TABLE(X)                                                                                                 \
    X(PARAM_MODE, "mode", mode_values, MOET_SEARCH_FIRST)                                                              \
    X(PARAM_TILE, "tile", tile_values, MOET_SEARCH_FIRST)                                                              \
    X(PARAM_STAGES, "stages", stages_values, MOET_SEARCH_FIRST)                                                        \
    X(PARAM_CLUSTER, "cluster", cluster_values, MOET_SEARCH_AROUND)                                                    \
    X(PARAM_GROUP, "group", group_values, MOET_SEARCH_AROUND)                                                          \
    X(PARAM_ORDER, "order", order_values, MOET_SEARCH_AROUND)                                                          \
    X(PARAM_STORE, "store", store_values, MOET_SEARCH_AROUND)                                                          \
    X(PARAM_LAUNCH, "launch", launch_values, MOET_SEARCH_AROUND)                                                       \
    X(PARAM_SPARE, "spare", spare_values, MOET_SEARCH_NEVER)
static const moet_param params[PARAM_COUNT] = {PARAM_TABLE(MOET_PARAM)};
static const moet_param path_params[MOET_PATH_PARAM_COUNT(PARAM_COUNT)] = {
    MOET_PATH_PARAM_TABLE PARAM_TABLE(MOET_PARAM_UP) PARAM_TABLE(MOET_PARAM_DOWN)};

/* As in wgmma_gemm.cu. */
enum {
    THREADS = 384,
    MATH_GROUPS = 2,
    TICKETS_WORDS = 7,    /* struct moet_tickets without its mailbox */
    LINE_BYTES = 128,     /* BK elements */
    STORE_BYTES = 8192,   /* of a math warpgroup */
    MAX_SUMS = 208,       /* accumulators a thread */
    MAX_MOVED_SUMS = 176, /* gathering or scattering: others spill */
    GATHER_BYTES = 48,    /* slots and barriers; and 8 a row of a tile */
    EARLY_DRIVER = 12030, /* captures such launches into graphs */
    RIDGE_ROWS = 256,     /* of an expert, where reading its weights takes as long as multiplying by them */
};

/* A config in numbers. */
struct shape {
    struct mode mode;
    struct tile tile;
    int32_t rows, cols;   /* of a tile of out */
    int32_t stages, ctas; /* of a cluster */
};

static struct shape shape_of(const moet_config *config)
{
    struct shape shape = {.mode = modes[config->value[PARAM_MODE]],
                          .tile = tiles[config->value[PARAM_TILE]],
                          .stages = moet_config_number(config, PARAM_STAGES),
                          .ctas = config->value[PARAM_CLUSTER] == CLUSTER_1X1 ? 1 : 2};
    shape.rows = shape.mode.swap ? shape.tile.bn : shape.tile.bm;
    shape.cols = shape.mode.swap ? shape.tile.bm : shape.tile.bn;
    return shape;
}

/* Rows of x in one copy: MOET_X_BOX. */
static int32_t x_box_rows(const struct shape *shape)
{
    if (shape->rows <= 64) return shape->rows;
    return shape->rows % 64 == 0 ? 64 : shape->rows % 48 == 0 ? 48 : shape->rows % 32 == 0 ? 32 : 16;
}

/* Columns of w in one copy: MOET_W_PIECE. */
static int32_t w_box_cols(const struct shape *shape, moet_layout layout)
{
    return layout == MOET_LAYOUT_KN ? 64 : shape->cols / 2;
}

/* Whether a thread has a column's gate and its up (wgmma_gemm.act.cuh). */
static bool pairs_columns(const struct shape *shape, moet_layout layout)
{
    if (layout == MOET_LAYOUT_NK) return shape->cols % 32 == 0;
    const int32_t sharers = shape->mode.pingpong ? 1 : MATH_GROUPS;
    return shape->mode.swap ? shape->tile.bm / 64 / sharers == 2 : shape->cols % 128 == 0;
}

/* Accumulators beside which an activation does not spill: fewer with gates and ups in two blocks of a thread, or with
 * gpt-oss's. */
static int32_t most_fused_sums(const moet_problem *problem, const struct shape *shape, const moet_config *config)
{
    const bool is_gpt_oss = problem->activation == MOET_ACTIVATION_GPT_OSS;
    if (problem->layout == MOET_LAYOUT_KN && shape->mode.swap)
        return is_gpt_oss && config->chains && config->gathers ? 48 : 96;
    if (!is_gpt_oss) return 144;
    return config->gathers && problem->prob == MOET_PROB_ADVANCE ? 80 : 112;
}

/* Dynamic shared memory: stages, output on its way; a slot and three barriers a stage, the turns' barriers; struct
 * moet_tickets, row_starts, ticket_starts, order. */
static int32_t smem_bytes(const moet_problem *problem, const moet_config *config)
{
    const struct shape shape = shape_of(config);
    return shape.stages * (shape.tile.bm + shape.tile.bn) * LINE_BYTES + MATH_GROUPS * STORE_BYTES +
           shape.stages * (16 + 3 * 8) + MATH_GROUPS * 8 + (TICKETS_WORDS + shape.stages) * 4 +
           2 * (problem->experts + 1) * 4 + problem->experts * 2 +
           (config->gathers ? GATHER_BYTES + 8 * shape.rows : 0) +
           (config->chains ? (TICKETS_WORDS + shape.stages + problem->experts + 1) * 4 : 0);
}

static moet_traits wgmma_traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem, (void)config;
    return (moet_traits){.host_counts = true, .device_counts = true, .capturable = true, .batch_invariant = true};
}

static bool wgmma_applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                             char *why)
{
    if (!moet_family_accepts(&moet_family_wgmma_gemm, problem, device, why)) return false;
    if (device->cc_major != 9 || device->cc_minor != 0)
        return moet_refuse(why, "wgmma_gemm needs compute capability 9.0, the device has %d.%d", device->cc_major,
                           device->cc_minor);
    /* Counts by value, of many experts, make the parameters longer than 4 KB. 0: unknown. */
    if (device->driver_cuda_version != 0 && device->driver_cuda_version < 12010)
        return moet_refuse(why, "wgmma_gemm needs a driver of CUDA 12.1 or later, this one is of %d.%d",
                           device->driver_cuda_version / 1000, device->driver_cuda_version % 1000 / 10);
    const struct shape shape = shape_of(config);
    const char *mode = moet_config_text(config, PARAM_MODE), *tile = moet_config_text(config, PARAM_TILE);
    const int32_t sharers = shape.mode.pingpong ? 1 : MATH_GROUPS;
    if (shape.tile.bm % (64 * sharers) != 0)
        return moet_refuse(why, "tile %s does not divide among %d warpgroups (mode %s)", tile, sharers, mode);
    const int32_t sums = shape.tile.bm / 64 / sharers * shape.tile.bn / 2;
    if (sums > MAX_SUMS)
        return moet_refuse(why, "tile %s in mode %s needs %d accumulators a thread, there are %d", tile, mode, sums,
                           MAX_SUMS);
    if (problem->layout == MOET_LAYOUT_KN && shape.cols % 64 != 0)
        return moet_refuse(why, "layout kn needs tiles of a multiple of 64 columns, %s in mode %s has %d", tile, mode,
                           shape.cols);
    if (problem->activation != MOET_ACTIVATION_NONE && !pairs_columns(&shape, problem->layout))
        return moet_refuse(why, "tile %s in mode %s does not pair gates and ups in a thread (layout %s)", tile, mode,
                           problem->layout == MOET_LAYOUT_KN ? "kn" : "nk");
    if (config->scatters && sums > MAX_MOVED_SUMS)
        return moet_refuse(why, "tile %s in mode %s leaves no registers for scattering", tile, mode);
    if (config->chains && shape.ctas > 1)
        return moet_refuse(why, "cluster %s: chained GEMMs have none", moet_config_text(config, PARAM_CLUSTER));
    if (config->chains && config->gathers && shape.mode.swap && shape.tile.bn == 176)
        return moet_refuse(why, "tile %s in mode %s leaves no registers for gathering in chained GEMMs", tile, mode);
    if (config->gathers && (shape.ctas > 1 || sums > MAX_MOVED_SUMS))
        return moet_refuse(why, "tile %s in mode %s, cluster %s: gathering needs registers, and x for one CTA", tile,
                           mode, moet_config_text(config, PARAM_CLUSTER));
    if (problem->activation != MOET_ACTIVATION_NONE && sums > most_fused_sums(problem, &shape, config))
        return moet_refuse(why, "tile %s in mode %s leaves no registers for an activation", tile, mode);
    const int32_t spare = moet_config_number(config, PARAM_SPARE);
    if (device->sm_count > 0 && device->sm_count - spare < shape.ctas)
        return moet_refuse(why, "spare %d of %d SMs leaves none for a cluster of %d", spare, device->sm_count,
                           shape.ctas);
    if (shape.ctas > 1 && shape.rows < 64)
        return moet_refuse(why, "tiles of fewer than 64 rows ask little of L2: no clusters of them");
    if (!shape.mode.swap && shape.cols < 64)
        return moet_refuse(why, "tiles of fewer than 64 columns are for the swapped modes, %s is not", mode);
    const int32_t size_bytes = smem_bytes(problem, config);
    if (size_bytes > device->smem_per_block_optin_bytes)
        return moet_refuse(why, "needs %d B of shared memory, device has %lld", size_bytes,
                           (long long)device->smem_per_block_optin_bytes);
    /* A CTA has the SM to itself: fewer stages than fit only hide less latency. */
    moet_config deeper = *config;
    if (stages_values[++deeper.value[PARAM_STAGES]] &&
        smem_bytes(problem, &deeper) <= device->smem_per_block_optin_bytes)
        return moet_refuse(why, "tile %s has room for %s stages", tile, moet_config_text(&deeper, PARAM_STAGES));
    return true;
}

/* Few rows an expert: the weights' stream is the floor, and swapping pads rows to 16 only. Then ping-pong hides the
 * epilogue; many: the largest tile, whose loads are fewest. */
static void wgmma_default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                                 moet_config *config)
{
    static const struct {
        int32_t mean_rows; /* of an expert, at most */
        const char *mode, *tile;
    } rules[] = {
        {16, "swap", "128x16"},      {32, "swap", "128x32"},         {48, "swap", "128x64"},
        {128, "pingpong", "64x256"}, {INT32_MAX, "coop", "128x256"},
    };
    const int64_t mean = (rows_hint + problem->experts - 1) / problem->experts;
    int32_t rule = 0;
    while (mean > rules[rule].mean_rows) rule++;
    *config = (moet_config){.family = &moet_family_wgmma_gemm};
    moet_config_set(config, "mode", rules[rule].mode);
    moet_config_set(config, "tile", rules[rule].tile);
    for (int16_t i = 0; stages_values[i]; i++) { /* as many as fit */
        const int16_t fewer = config->value[PARAM_STAGES];
        config->value[PARAM_STAGES] = i;
        if (i > 0 && smem_bytes(problem, config) > device->smem_per_block_optin_bytes) {
            config->value[PARAM_STAGES] = fewer;
            break;
        }
    }
}

static size_t wgmma_workspace_bytes(const moet_prepare_args *args)
{
    (void)args;
    return 0;
}

/* Fitted to trials of both GEMMs in one launch on an H100 (docs/tuning.md). */
static const double SWAPPED_STORE = 5;

static bool wgmma_tile_shape(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                             moet_tile_shape *tile)
{
    const struct shape shape = shape_of(config);
    *tile = moet_tile_shape_of(shape.rows, shape.cols, shape.mode.swap ? 16 : 64);
    tile->rows_are_n = shape.mode.swap;
    tile->hides_store = shape.mode.pingpong;
    tile->splits_last = shape.ctas == 1; /* pairs are split seldom */
    tile->x_shared += config->value[PARAM_CLUSTER] == CLUSTER_1X2;
    tile->w_shared += config->value[PARAM_CLUSTER] == CLUSTER_2X1;
    tile->x_box = config->gathers ? 0 : x_box_rows(&shape);
    tile->group = moet_config_number(config, PARAM_GROUP);
    tile->is_followed = config->chains;
    /* Threads that store rows themselves have columns of them where rows are on the N side: 2 bytes at a time. */
    if (shape.mode.swap && (config->chains || config->scatters)) tile->store_factor = SWAPPED_STORE;
    return (void)problem, (void)device, true;
}

static int32_t wgmma_tile(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                          const moet_device_rates *rates, moet_tiling *tilings)
{
    moet_tile_shape tile;
    wgmma_tile_shape(problem, config, device, &tile);
    tilings[0] = moet_tile_tiling(problem, &tile, device, rates);
    return 1;
}

static double wgmma_estimate_ns(const moet_problem *problem, const int32_t *counts, int64_t tokens,
                                const moet_config *config, const moet_device_info *device,
                                const moet_device_rates *rates)
{
    moet_tile_shape tile;
    wgmma_tile_shape(problem, config, device, &tile);
    return (void)tokens, moet_tile_cost_ns(problem, counts, &tile, device, rates);
}

/* Without an activation, both numerics are the same kernel: nothing is rounded between. */
static bool is_fast(const moet_problem *problem)
{
    return problem->activation != MOET_ACTIVATION_NONE && problem->numerics == MOET_NUMERICS_FAST;
}

enum { NAME_SIZE = 112 };
static void kernel_name(const moet_problem *problem, const moet_config *config, char name[NAME_SIZE])
{
    static const char *const activations[] = {[MOET_ACTIVATION_NONE] = "",
                                              [MOET_ACTIVATION_SWIGLU] = "_swiglu",
                                              [MOET_ACTIVATION_SWIGLU_CLAMP] = "_clamp",
                                              [MOET_ACTIVATION_GPT_OSS] = "_gptoss"};
    snprintf(name, NAME_SIZE, "wgmma_gemm_%s_%s_s%s%s_%s%s%s%s%s%s%s%s%s", moet_config_text(config, PARAM_MODE),
             moet_config_text(config, PARAM_TILE), moet_config_text(config, PARAM_STAGES),
             config->value[PARAM_CLUSTER] == CLUSTER_1X1 ? "" : "_c2", problem->layout == MOET_LAYOUT_KN ? "kn" : "nk",
             problem->bias ? "_bias" : "", activations[problem->activation],
             problem->prob == MOET_PROB_ADVANCE ? "_prob" : "", is_fast(problem) ? "_fast" : "",
             config->gathers ? "_gather" : "",
             !config->chains      ? ""
             : problem->down_bias ? "_chain_bias"
                                  : "_chain",
             config->scatters ? "_scatter" : "", problem->experts > FEW_EXPERTS ? "_many" : "");
}

static bool wgmma_source(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                         int32_t index, moet_source *source)
{
    if (index != 0) return false;
    if (cc_major != 9 || cc_minor != 0) return false;
    const struct shape shape = shape_of(config);
    char name[NAME_SIZE];
    kernel_name(problem, config, name);
    *source = (moet_source){.name = "wgmma_gemm.cu", .text = moet_source_wgmma_gemm, .arch = "sm_90a"};
    moet_source_option(source, "-DMOET_NAME=%s", name);
    moet_source_option(source, "-DMOET_BM=%d", shape.tile.bm);
    moet_source_option(source, "-DMOET_BN=%d", shape.tile.bn);
    moet_source_option(source, "-DMOET_SWAP=%d", shape.mode.swap);
    moet_source_option(source, "-DMOET_PINGPONG=%d", shape.mode.pingpong);
    moet_source_option(source, "-DMOET_STAGES=%d", shape.stages);
    moet_source_option(source, "-DMOET_CLUSTER=%d", shape.ctas);
    moet_source_option(source, "-DMOET_KN=%d", problem->layout == MOET_LAYOUT_KN);
    moet_source_option(source, "-DMOET_BIAS=%d", problem->bias);
    moet_source_option(source, "-DMOET_COUNTS=%d", problem->experts <= FEW_EXPERTS ? FEW_EXPERTS : MOET_MAX_EXPERTS);
    if (problem->activation != MOET_ACTIVATION_NONE) {
        moet_source_option(source, "-DMOET_ACT=%d", problem->activation);
        moet_source_option(source, "-DMOET_PROB=%d", problem->prob == MOET_PROB_ADVANCE);
        moet_source_option(source, "-DMOET_FAST=%d", is_fast(problem));
    }
    if (config->gathers) moet_source_option(source, "-DMOET_GATHER=%d", 1);
    if (config->scatters) moet_source_option(source, "-DMOET_SCATTER=%d", 1);
    if (config->chains) {
        moet_source_option(source, "-DMOET_CHAIN=%d", 1);
        moet_source_option(source, "-DMOET_DOWN_BIAS=%d", problem->down_bias);
    }
    if (getenv("MOET_WATCHDOG")) moet_source_option(source, "-DMOET_WATCHDOG=%d", 1);
    if (getenv("MOET_RACECHECK")) moet_source_option(source, "-DMOET_RACECHECK=%d", 1);
    return true;
}

/* ---- prepared ---- */

/* struct moet_counts of wgmma_gemm.cu, which has the first FEW_EXPERTS of it where there are no more. */
struct counts {
    int32_t v[MOET_MAX_EXPERTS];
};

/* struct moet_choice of wgmma_gemm.cu. */
struct choice {
    int32_t group, by_columns, light_rows, quarters, bulk_store, allows_next;
};

struct state {
    moet_wgmma_product product, next; /* next: chained, the down GEMM */
    const struct moet_cuda_api *cuda;
    moet_cubin cubin;
    void *module;
    void *kernel;
    struct shape shape;
    bool scatters, chains;
    int32_t experts;
    float clamp;
    int32_t smem_bytes;
    struct choice choice;
    int64_t most_ctas; /* one an SM */
    bool is_early;
    struct counts counts; /* of the launch at hand; the driver copies them */
};

static void wgmma_release(void *state)
{
    struct state *wgmma = state;
    if (!wgmma) return;
    moet_module_unload(wgmma->module);
    moet_cubin_release(&wgmma->cubin);
    free(wgmma);
}

/* Cleared, and aligned as tensor maps must be. */
static struct state *state_create(void)
{
    const size_t alignment = _Alignof(struct state);
    struct state *wgmma = aligned_alloc(alignment, (sizeof *wgmma + alignment - 1) / alignment * alignment);
    if (wgmma) memset(wgmma, 0, sizeof *wgmma);
    return wgmma;
}

static moet_status wgmma_prepare(const moet_prepare_args *args, void **state)
{
    const moet_device_info *device = &args->device->info;
    const moet_problem *problem = args->problem;
    char name[NAME_SIZE], why[MOET_REASON_SIZE];
    const char *const names[] = {name};
    moet_source source;
    moet_status status;

    if (!wgmma_applicable(problem, args->config, device, why)) return moet_fail(MOET_UNSUPPORTED, "%s", why);
    struct state *wgmma = state_create();
    if (!wgmma) return moet_fail(MOET_NO_MEMORY, "wgmma_gemm: out of host memory");
    wgmma->shape = shape_of(args->config);
    wgmma->experts = problem->experts;
    wgmma->product = (moet_wgmma_product){.layout = problem->layout,
                                          .gathers = args->config->gathers,
                                          .experts = problem->experts,
                                          .n = moet_problem_n(problem),
                                          .k = moet_problem_k(problem),
                                          .out_n = moet_problem_n(problem),
                                          .x_box = x_box_rows(&wgmma->shape),
                                          .w_box = w_box_cols(&wgmma->shape, problem->layout)};
    wgmma->scatters = args->config->scatters;
    wgmma->chains = args->config->chains;
    if (problem->activation != MOET_ACTIVATION_NONE) {
        const int32_t cols = wgmma->shape.cols;
        wgmma->product.is_fused = true;
        wgmma->product.out_n = problem->inter;
        wgmma->clamp = problem->activation == MOET_ACTIVATION_GPT_OSS ? 7.0f : (float)problem->clamp;
        if (problem->layout == MOET_LAYOUT_KN) wgmma->product.n = (2 * problem->inter + cols - 1) / cols * cols;
    }
    if (wgmma->chains) {
        wgmma->next = wgmma->product;
        wgmma->next.is_fused = wgmma->next.gathers = false;
        wgmma->next.n = wgmma->next.out_n = problem->hidden;
        wgmma->next.k = problem->inter;
    }
    wgmma->smem_bytes = smem_bytes(problem, args->config);
    const int32_t sms = device->sm_count - moet_config_number(args->config, PARAM_SPARE);
    wgmma->most_ctas = args->max_sms > 0 && args->max_sms < sms ? args->max_sms : sms;
    wgmma->choice = (struct choice){
        .group = moet_config_number(args->config, PARAM_GROUP),
        .by_columns = args->config->value[PARAM_CLUSTER] == CLUSTER_1X2,
        .light_rows = args->config->value[PARAM_ORDER] == ORDER_PLAIN ? 0 : RIDGE_ROWS,
        .quarters = args->config->value[PARAM_ORDER] == ORDER_FRONT ? 3 : 4,
        .bulk_store = args->config->value[PARAM_STORE] == STORE_BULK,
        .allows_next = wgmma->most_ctas == device->sm_count,
    };
    wgmma->is_early = args->config->value[PARAM_LAUNCH] == LAUNCH_EARLY && wgmma->choice.allows_next &&
                      device->driver_cuda_version >= EARLY_DRIVER;
    wgmma->most_ctas -= wgmma->most_ctas % wgmma->shape.ctas;
    if (wgmma->most_ctas <= 0) {
        status = moet_fail(MOET_UNSUPPORTED, "wgmma_gemm: max_sms %d is fewer than a cluster of %d", args->max_sms,
                           wgmma->shape.ctas);
        goto done;
    }

    status = moet_cuda_api_get(&wgmma->cuda);
    if (status != MOET_OK) goto done;
    if (args->cubin_count > 0)
        status = moet_cubin_copy(args->cubins[0], &wgmma->cubin);
    else if (wgmma_source(problem, args->config, device->cc_major, device->cc_minor, 0, &source))
        status = moet_module_compile(&source, &wgmma->cubin, NULL);
    else
        status = moet_fail(MOET_UNSUPPORTED, "wgmma_gemm: no target for compute capability %d.%d", device->cc_major,
                           device->cc_minor);
    if (status != MOET_OK) goto done;

    kernel_name(problem, args->config, name);
    status = moet_module_load(&wgmma->cubin, names, 1, &wgmma->module, &wgmma->kernel);
    if (status != MOET_OK) goto done;
    const CUresult result = wgmma->cuda->cuFuncSetAttribute(
        wgmma->kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, wgmma->smem_bytes);
    if (result != CUDA_SUCCESS) {
        status = moet_cuda_fail(result, "wgmma_gemm: shared memory");
        goto done;
    }
    *state = wgmma;
    wgmma = NULL;
done:
    wgmma_release(wgmma);
    return status;
}

static moet_status wgmma_launch(void *state, const moet_family_launch_args *args)
{
    struct state *wgmma = state;
    const struct shape *shape = &wgmma->shape;
    moet_wgmma_product *product = &wgmma->product, *next = &wgmma->next;
    const int64_t n_tiles =
        (product->n + shape->cols - 1) / shape->cols + (wgmma->chains ? (next->n + shape->cols - 1) / shape->cols : 0);
    int64_t m_tiles;
    const int32_t *counts_memory = args->counts_on_device ? args->counts : NULL;
    if (args->rows == 0) return MOET_OK;
    if (args->counts_on_device) {
        /* The most there can be: one partial tile an expert, and never more tiles than rows. */
        m_tiles = args->rows / shape->rows + wgmma->experts;
        if (m_tiles > args->rows) m_tiles = args->rows;
    } else {
        /* Tiles beyond those that fill the grid need no counting: divisions cost a launch with many experts most. */
        const int64_t tickets_a_row = 2 * n_tiles * shape->ctas;
        m_tiles = 0;
        for (int32_t e = 0; e < wgmma->experts && m_tiles * tickets_a_row < wgmma->most_ctas; e++)
            m_tiles += (args->counts[e] + shape->rows - 1) / shape->rows;
        if (m_tiles == 0) return MOET_OK;
        memcpy(wgmma->counts.v, args->counts, (size_t)wgmma->experts * sizeof wgmma->counts.v[0]);
    }
    MOET_TRY(moet_wgmma_map(wgmma->cuda, product, args));
    if (wgmma->chains) MOET_TRY(moet_wgmma_map(wgmma->cuda, next, args->next));
    /* Tickets are at most two a tile, halves; each at least a tile. */
    const int64_t most_tickets = 2 * m_tiles * n_tiles * shape->ctas;
    const int64_t ctas = most_tickets < wgmma->most_ctas ? most_tickets : wgmma->most_ctas;
    int32_t rows = (int32_t)args->rows;

    /* In the order of the kernels' parameters. */
    const void *bias = args->bias;
    const float *prob = args->prob;
    void *out = args->out;
    const void *x = args->x;
    const int32_t *source = args->source;
    int64_t x_stride = args->x_stride;
    const moet_family_launch_args *last = wgmma->chains ? args->next : args;
    void *scattered = last->scattered;
    int64_t scattered_stride = last->scattered_stride;
    const int32_t *target = last->target;
    const void *next_bias = last->bias;
    void *next_out = last->out;
    void *kernel_args[28] = {&product->x_map, &product->w_map, &product->out_map, &bias,       &out,  &counts_memory,
                             &wgmma->counts,  &wgmma->experts, &product->n,       &product->k, &rows, &wgmma->choice};
    void *const act_args[] = {&product->out_n, &prob, &wgmma->clamp}, *const gather_args[] = {&x, &x_stride, &source},
                *const scatter_args[] = {&scattered, &scattered_stride, &target},
                *const chain_args[] = {&next->x_map, &next->w_map, &next->out_map, &next_bias,
                                       &next_out,    &next->n,     &next->k};
    int32_t arg_count = 12;
    for (int32_t i = 0; product->is_fused && i < 3; i++) kernel_args[arg_count++] = act_args[i];
    for (int32_t i = 0; product->gathers && i < 3; i++) kernel_args[arg_count++] = gather_args[i];
    for (int32_t i = 0; wgmma->scatters && i < 3; i++) kernel_args[arg_count++] = scatter_args[i];
    for (int32_t i = 0; wgmma->chains && i < 7; i++) kernel_args[arg_count++] = chain_args[i];
    CUlaunchAttribute early = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                               .value.programmaticStreamSerializationAllowed = 1};
    CUlaunchConfig launch = {.gridDimX = (unsigned)ctas,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = THREADS,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .sharedMemBytes = (unsigned)wgmma->smem_bytes,
                             .hStream = args->stream,
                             .attrs = &early,
                             .numAttrs = wgmma->is_early ? 1 : 0};
    const CUresult result = wgmma->cuda->cuLaunchKernelEx(&launch, wgmma->kernel, kernel_args, NULL);
    return result == CUDA_SUCCESS ? MOET_OK : moet_cuda_fail(result, "wgmma_gemm: launch");
}

static int32_t wgmma_cubins(const void *state, const moet_cubin **list)
{
    const struct state *wgmma = state;
    list[0] = &wgmma->cubin;
    return 1;
}

const moet_family moet_family_wgmma_gemm = {
    .name = "wgmma_gemm",
    .version = VERSION,
    .backend = "cuda",
    .summary = "one persistent warp-specialised kernel, TMA and wgmma; compute capability 9.0, counts anywhere",
    .params = params,
    .param_count = PARAM_COUNT,
    .fuses_activation = true,
    .fuses_gather = true,
    .fuses_scatter = true,
    .fuses_next = true,
    .traits = wgmma_traits,
    .applicable = wgmma_applicable,
    .default_config = wgmma_default_config,
    .estimate_ns = wgmma_estimate_ns,
    .tile_shape = wgmma_tile_shape,
    .tile = wgmma_tile,
    .workspace_bytes = wgmma_workspace_bytes,
    .prepare = wgmma_prepare,
    .launch = wgmma_launch,
    .release = wgmma_release,
    .cubins = wgmma_cubins,
    .source = wgmma_source,
};

extern const moet_family moet_family_wgmma_ffn;
const moet_family moet_family_wgmma_ffn = {
    .name = "wgmma_ffn",
    .version = MOET_PATH_VERSION(VERSION),
    .backend = "cuda",
    .summary = "the expert path, its GEMMs by wgmma_gemm",
    .params = path_params,
    .param_count = MOET_PATH_PARAM_COUNT(PARAM_COUNT),
    .gemm = &moet_family_wgmma_gemm,
    MOET_PATH_FUNCTIONS,
    .cubins = moet_ffn_path_cubins,
    .source = moet_ffn_path_source,
};
#else
typedef int moet_wgmma_gemm_is_left_out; /* ISO C wants a declaration in every file */
#endif
