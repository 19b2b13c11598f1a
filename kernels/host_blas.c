/* host_blas: OpenBLAS on panels of weights that are widened to fp32 as they are needed. A call of sgemm always has the
 * same size, `block` rows, so that a row's bits do not depend on how many others its expert has; whether they depend on
 * its place in the block is up to the kernel that OpenBLAS chose for this processor, and is found by trying. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "../src/family.h"
#include "host_module.h"

extern const moet_family moet_family_host_blas;

enum { PARAM_BLOCK, PARAM_PANEL, PARAM_COUNT };
static const char *const block_values[] = {"8", "16", "64", "256", NULL};
static const char *const panel_values[] = {"64", "128", "256", "512", NULL};
static const moet_param params[PARAM_COUNT] = {{"block", block_values, MOET_SEARCH_FIRST},
                                               {"panel", panel_values, MOET_SEARCH_FIRST}};
enum { BLOCK_COUNT = sizeof block_values / sizeof *block_values - 1 };

typedef struct blas_state {
    const moet_host_api *module;
    moet_host_blas_config config;
    moet_host_gemm gemm; /* without the pointers of a launch */
} blas_state;

static moet_host_blas_config read_config(const moet_config *config)
{
    return (moet_host_blas_config){.block = moet_config_number(config, PARAM_BLOCK),
                                   .panel = moet_config_number(config, PARAM_PANEL)};
}

/* Which blocks leave a row's bits alone, by a sample; prepare asks about the very problem. Written once. */
static bool invariant_blocks[BLOCK_COUNT];

static void sample_blocks(void)
{
    const moet_host_api *module = NULL;
    moet_host_blas_info info;
    if (moet_host_bind_blas(&module, &info) != MOET_OK) return;
    for (int32_t i = 0; i < BLOCK_COUNT; i++) {
        moet_host_blas_config config = {.block = (int32_t)strtol(block_values[i], NULL, 10), .panel = 256};
        /* One whole panel and a short one; K longer than what OpenBLAS takes at once, and not round. */
        invariant_blocks[i] = module->blas_invariant(&config, 296, 1000, false) == 1 &&
                              module->blas_invariant(&config, 296, 1000, true) == 1;
    }
}

static bool block_invariant(int32_t value)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, sample_blocks);
    return invariant_blocks[value];
}

static moet_traits blas_traits(const moet_problem *problem, const moet_config *config)
{
    (void)problem;
    return (moet_traits){.host_counts = true,
                         .device_counts = true, /* the device's memory is the host's */
                         .batch_invariant = block_invariant(config->value[PARAM_BLOCK])};
}

static bool blas_applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                            char *why)
{
    const moet_host_api *module;
    moet_host_blas_info info;
    if (!moet_family_accepts(&moet_family_host_blas, problem, device, why)) return false;
    if (moet_host_bind_blas(&module, &info) != MOET_OK) return moet_refuse(why, "%s", moet_last_error());
    if (problem->numerics == MOET_NUMERICS_TRAIN && !block_invariant(config->value[PARAM_BLOCK]))
        return moet_refuse(why, "train numerics: with %s a row's bits depend on its place in a block of %s rows",
                           info.name, moet_config_text(config, PARAM_BLOCK));
    return true;
}

static void blas_default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                                moet_config *config)
{
    *config = (moet_config){.family = &moet_family_host_blas};
    /* The largest block that an expert's rows fill, as far as numerics allow. */
    int64_t mean = (rows_hint + problem->experts - 1) / problem->experts;
    for (int32_t i = 1; i < BLOCK_COUNT; i++) {
        if (strtol(block_values[i], NULL, 10) > mean) break;
        if (problem->numerics != MOET_NUMERICS_TRAIN || block_invariant(i)) config->value[PARAM_BLOCK] = (int16_t)i;
    }
    /* Panels wide enough to pay for widening x, while every thread finds work. */
    int64_t columns = (int64_t)moet_problem_n(problem) * problem->experts;
    config->value[PARAM_PANEL] = 0;
    for (int16_t i = 1; panel_values[i]; i++) {
        if (columns / strtol(panel_values[i], NULL, 10) >= 4 * (int64_t)device->sm_count)
            config->value[PARAM_PANEL] = i;
    }
}

static size_t blas_workspace_bytes(const moet_prepare_args *args)
{
    moet_host_blas_config values = read_config(args->config);
    return (size_t)args->device->info.sm_count * moet_host_blas_thread_bytes(&values, moet_problem_k(args->problem));
}

static moet_status blas_prepare(const moet_prepare_args *args, void **state)
{
    const moet_host_api *module;
    moet_host_blas_info info;
    MOET_TRY(moet_host_bind_blas(&module, &info));
    moet_host_blas_config config = read_config(args->config);
    moet_host_gemm gemm = {.experts = args->problem->experts,
                           .n = moet_problem_n(args->problem),
                           .k = moet_problem_k(args->problem),
                           .kn = args->problem->layout == MOET_LAYOUT_KN,
                           .threads = args->device->info.sm_count};
    if (args->max_sms > 0 && args->max_sms < gemm.threads) gemm.threads = args->max_sms;
    if (gemm.threads > info.max_threads) gemm.threads = info.max_threads;
    if (args->problem->numerics == MOET_NUMERICS_TRAIN) {
        int32_t invariant = module->blas_invariant(&config, gemm.n, gemm.k, gemm.kn);
        if (invariant < 0) return moet_fail(MOET_NO_MEMORY, "host_blas: out of memory");
        if (!invariant)
            return moet_fail(
                MOET_UNSUPPORTED,
                "train numerics: with %s a row's bits depend on its place in a block of %d rows, N %d, K %d", info.name,
                config.block, gemm.n, gemm.k);
    }
    blas_state *result = malloc(sizeof *result);
    if (!result) return moet_fail(MOET_NO_MEMORY, "host_blas: out of memory");
    *result = (blas_state){.module = module, .config = config, .gemm = gemm};
    module->warm(gemm.threads);
    *state = result;
    return MOET_OK;
}

static moet_status blas_launch(void *state, const moet_family_launch_args *args)
{
    const blas_state *s = state;
    moet_host_gemm gemm = s->gemm;
    gemm.x = args->x;
    gemm.w = args->w;
    gemm.bias = args->bias;
    gemm.out = args->out;
    gemm.counts = args->counts;
    gemm.max_rows = args->rows;
    gemm.workspace = args->workspace;
    s->module->blas_gemm(&gemm, &s->config);
    return MOET_OK;
}

static moet_status blas_validator(char *text)
{
    const moet_host_api *module;
    moet_host_blas_info info;
    MOET_TRY(moet_host_bind_blas(&module, &info));
    snprintf(text, sizeof info.name, "%s", info.name);
    return MOET_OK;
}

const moet_family moet_family_host_blas = {
    .name = "host_blas",
    .version = 1,
    .backend = "host",
    .summary = "OpenBLAS sgemm on panels of weights widened to fp32",
    .params = params,
    .param_count = PARAM_COUNT,
    .traits = blas_traits,
    .applicable = blas_applicable,
    .default_config = blas_default_config,
    .workspace_bytes = blas_workspace_bytes,
    .prepare = blas_prepare,
    .launch = blas_launch,
    .release = free,
    .validator = blas_validator,
};
