/* host_tile: the project's own tiled product on the processor (host_tile_kernel.c). An output element is one fp32 chain
 * over ascending k: every configuration gives the same bits, and a row's bits are its own. */
#include <stdlib.h>

#include "../src/family.h"
#include "ffn_path.h"
#include "host_module.h"
#include "tile_cost.h"

extern const moet_family moet_family_host_tile;

enum { VERSION = 1 };

enum { PARAM_MR, PARAM_NR, PARAM_KC, PARAM_NC, PARAM_SCHEDULE, PARAM_COUNT };
static const char *const mr_values[] = {"4", "6", "8", "12", NULL};
static const char *const nr_values[] = {"16", "32", "64", NULL};
static const char *const kc_values[] = {"256", "512", NULL};
static const char *const nc_values[] = {"64", "256", NULL};
static const char *const schedule_values[] = {"static", "dynamic", NULL};
#define PARAM_TABLE(X)                                                                                                 \
    X(PARAM_MR, "mr", mr_values, MOET_SEARCH_FIRST)                                                                    \
    X(PARAM_NR, "nr", nr_values, MOET_SEARCH_FIRST)                                                                    \
    X(PARAM_KC, "kc", kc_values, MOET_SEARCH_FIRST)                                                                    \
    X(PARAM_NC, "nc", nc_values, MOET_SEARCH_AROUND)                                                                   \
    X(PARAM_SCHEDULE, "schedule", schedule_values, MOET_SEARCH_AROUND)
static const moet_param params[PARAM_COUNT] = {PARAM_TABLE(MOET_PARAM)};
static const moet_param path_params[MOET_PATH_PARAM_COUNT(PARAM_COUNT)] = {
    MOET_PATH_PARAM_TABLE PARAM_TABLE(MOET_PARAM_UP) PARAM_TABLE(MOET_PARAM_DOWN)};

typedef struct tile_state {
    const moet_host_api *module;
    moet_host_tile_config config;
    moet_host_gemm gemm; /* without the pointers of a launch */
} tile_state;

static moet_host_tile_config read_config(const moet_config *config)
{
    return (moet_host_tile_config){.mr = moet_config_number(config, PARAM_MR),
                                   .nr = moet_config_number(config, PARAM_NR),
                                   .kc = moet_config_number(config, PARAM_KC),
                                   .nc = moet_config_number(config, PARAM_NC),
                                   .dynamic = config->value[PARAM_SCHEDULE] == 1,
                                   .isa = -1};
}

static moet_traits tile_traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem;
    (void)config;
    return (moet_traits){.host_counts = true,
                         .device_counts = true, /* the device's memory is the host's */
                         .batch_invariant = true};
}

static bool tile_applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                            char *why)
{
    const moet_host_api *module;
    moet_host_isa isa;
    if (!moet_family_accepts(&moet_family_host_tile, problem, device, why)) return false;
    if (moet_host_bind(&module) != MOET_OK) return moet_refuse(why, "%s", moet_last_error());
    module->isa_best(&isa);
    moet_host_tile_config values = read_config(config);
    if (values.mr * values.nr > MOET_HOST_TILE_MAX)
        return moet_refuse(why, "no kernel was built for tiles of more than %d elements: %d x %d", MOET_HOST_TILE_MAX,
                           values.mr, values.nr);
    /* The accumulators, a row of weights and an element of x. */
    int32_t columns = values.nr / isa.lanes, needed = values.mr * columns + columns + 1;
    if (needed > isa.registers)
        return moet_refuse(why, "a tile of %d x %d needs %d vector registers, %s has %d", values.mr, values.nr, needed,
                           isa.name, isa.registers);
    return true;
}

static void tile_default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                                moet_config *config)
{
    const moet_host_api *module;
    moet_host_isa isa = {.lanes = 8};
    *config = (moet_config){.family = &moet_family_host_tile};
    if (moet_host_bind(&module) == MOET_OK) module->isa_best(&isa);
    bool wide = isa.lanes >= 16, few = rows_hint <= 4 * (int64_t)problem->experts;
    moet_config_set(config, "mr", few ? "4" : wide ? "8" : "6");
    moet_config_set(config, "nr", wide ? "32" : "16");
    moet_config_set(config, "kc", "256");
    moet_config_set(config, "schedule", "dynamic");
    /* Blocks wide enough to pay for widening x, while every thread finds work. */
    int64_t columns = (int64_t)moet_problem_n(problem) * problem->experts;
    for (int16_t i = 1; nc_values[i]; i++) {
        if (columns / strtol(nc_values[i], NULL, 10) >= 4 * (int64_t)device->sm_count) config->value[PARAM_NC] = i;
    }
}

/* A task is an expert's nc columns; of x and weights, that are widened once a task, register tiles read fp32. */
static moet_tile_shape tile_shape(const moet_config *config)
{
    const moet_host_tile_config values = read_config(config);
    moet_tile_shape tile = moet_tile_shape_of(values.mr, values.nr, values.mr);
    tile.hides_store = true;
    tile.element_bytes = 4;
    return tile;
}

static int32_t tile_tile(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                         const moet_device_rates *rates, moet_tiling *tilings)
{
    const moet_tile_shape tile = tile_shape(config);
    tilings[0] = moet_tile_tiling(problem, &tile, device, rates);
    return 1;
}

static double tile_estimate_ns(const moet_problem *problem, const int32_t *counts, int64_t tokens,
                               const moet_config *config, const moet_device_info *device,
                               const moet_device_rates *rates)
{
    const moet_tile_shape tile = tile_shape(config);
    return (void)tokens, moet_tile_cost_ns(problem, counts, &tile, device, rates);
}

static size_t tile_workspace_bytes(const moet_prepare_args *args)
{
    moet_host_tile_config values = read_config(args->config);
    return (size_t)args->device->info.sm_count * moet_host_tile_thread_bytes(&values);
}

static moet_status tile_prepare(const moet_prepare_args *args, void **state)
{
    const moet_host_api *module;
    MOET_TRY(moet_host_bind(&module));
    tile_state *result = malloc(sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "host_tile: out of memory");
    int32_t threads = args->device->info.sm_count;
    if (args->max_sms > 0 && args->max_sms < threads) threads = args->max_sms;
    *result = (tile_state){.module = module,
                           .config = read_config(args->config),
                           .gemm = {.experts = args->problem->experts,
                                    .n = moet_problem_n(args->problem),
                                    .k = moet_problem_k(args->problem),
                                    .kn = args->problem->layout == MOET_LAYOUT_KN,
                                    .threads = threads}};
    module->warm(threads);
    *state = result;
    return MOET_OK;
}

static moet_status tile_launch(void *state, const moet_family_launch_args *args)
{
    const tile_state *s = state;
    moet_host_gemm gemm = s->gemm;
    gemm.x = args->x;
    gemm.w = args->w;
    gemm.bias = args->bias;
    gemm.out = args->out;
    gemm.counts = args->counts;
    gemm.max_rows = args->rows;
    gemm.workspace = args->workspace;
    s->module->tile_gemm(&gemm, &s->config);
    return MOET_OK;
}

const moet_family moet_family_host_tile = {
    .name = "host_tile",
    .version = VERSION,
    .backend = "host",
    .summary = "own tiled kernel, one fp32 chain an element, OpenMP",
    .params = params,
    .param_count = PARAM_COUNT,
    .traits = tile_traits,
    .applicable = tile_applicable,
    .default_config = tile_default_config,
    .estimate_ns = tile_estimate_ns,
    .tile = tile_tile,
    .workspace_bytes = tile_workspace_bytes,
    .prepare = tile_prepare,
    .launch = tile_launch,
    .release = free,
};

extern const moet_family moet_family_host_tile_ffn;
const moet_family moet_family_host_tile_ffn = {
    .name = "host_tile_ffn",
    .version = MOET_PATH_VERSION(VERSION),
    .backend = "host",
    .summary = "the expert path, its GEMMs by host_tile",
    .params = path_params,
    .param_count = MOET_PATH_PARAM_COUNT(PARAM_COUNT),
    .gemm = &moet_family_host_tile,
    MOET_PATH_FUNCTIONS,
};
