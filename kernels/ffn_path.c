#include "ffn_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/nvtx.h"
#include "stages.h"
#include "tile_cost.h"

enum { UP, DOWN, GEMM_COUNT };
static const moet_op ops[GEMM_COUNT] = {[UP] = MOET_OP_UP, [DOWN] = MOET_OP_DOWN};
static const char *const op_labels[GEMM_COUNT] = {[UP] = "up", [DOWN] = "down"};

const char *const moet_path_act_values[] = {[MOET_PATH_ACT_FUSED] = "fused", [MOET_PATH_ACT_PASS] = "pass", NULL};
const char *const moet_path_gather_values[] = {
    [MOET_PATH_GATHER_PASS] = "pass", [MOET_PATH_GATHER_FUSED] = "fused", NULL};
const char *const moet_path_combine_values[] = {
    [MOET_PATH_COMBINE_PASS] = "pass", [MOET_PATH_COMBINE_FUSED] = "fused", NULL};

const char *const moet_path_chain_values[] = {[MOET_PATH_CHAIN_OFF] = "off", [MOET_PATH_CHAIN_ON] = "on", NULL};

bool moet_ffn_path_is_chained(const moet_config *config)
{
    return config->family->gemm && config->value[MOET_PATH_CHAIN] == MOET_PATH_CHAIN_ON;
}

/* Launches of GEMMs: of the up GEMM, which takes the other with it where they are chained, and of the down GEMM. */
static int32_t launch_count(const moet_config *config) { return moet_ffn_path_is_chained(config) ? 1 : GEMM_COUNT; }

static bool is_fused(const moet_config *config) { return config->value[MOET_PATH_ACT] == MOET_PATH_ACT_FUSED; }

static int32_t first_param(const moet_family *gemm, int32_t which)
{
    return MOET_PATH_PARAMS + which * gemm->param_count;
}

/* A GEMM's own problem: the up GEMM's has the activation where that is fused. */
static moet_problem gemm_problem(const moet_problem *problem, const moet_config *config, int32_t which)
{
    moet_problem gemm = moet_problem_gemm(problem, ops[which]);
    if (which == UP && is_fused(config)) {
        gemm.activation = problem->activation;
        gemm.clamp = problem->clamp;
        if (problem->prob == MOET_PROB_ADVANCE) gemm.prob = problem->prob;
        if (moet_ffn_path_is_chained(config)) gemm.down_bias = problem->down_bias;
    }
    return gemm;
}

/* A GEMM's half of the values. */
moet_config moet_ffn_path_half(const moet_config *config, int32_t which)
{
    const moet_family *gemm = config->family->gemm;
    moet_config half = {.family = gemm};
    memcpy(half.value, config->value + first_param(gemm, which), (size_t)gemm->param_count * sizeof half.value[0]);
    half.gathers = which == UP && config->value[MOET_PATH_GATHER] == MOET_PATH_GATHER_FUSED;
    half.chains = which == UP && moet_ffn_path_is_chained(config);
    half.scatters = (which == DOWN || half.chains) && config->value[MOET_PATH_COMBINE] == MOET_PATH_COMBINE_FUSED;
    return half;
}

/* A GEMM's own problem, config and arguments. */
typedef struct part {
    moet_problem problem;
    moet_config config;
    moet_prepare_args args; /* points to the two above */
} part;

/* In place, as it points into itself. */
static void part_init(part *p, const moet_prepare_args *args, int32_t which)
{
    p->problem = gemm_problem(args->problem, args->config, which);
    p->config = moet_ffn_path_half(args->config, which);
    p->args = *args;
    p->args.problem = &p->problem;
    p->args.config = &p->config;
    p->args.max_tokens = 0;
    p->args.choices = 0;
    p->args.cubin_count = args->cubin_count > which ? 1 : 0;
    p->args.cubins[0] = args->cubin_count > which ? args->cubins[which] : NULL;
}

moet_traits moet_ffn_path_traits(const moet_problem *problem, const moet_config *config)
{
    moet_traits all = {true, true, true, true};
    for (int32_t i = 0; i < GEMM_COUNT; i++) {
        const moet_problem gemm = gemm_problem(problem, config, i);
        const moet_config half = moet_ffn_path_half(config, i);
        const moet_traits traits = half.family->traits(&gemm, &half);
        all.host_counts = all.host_counts && traits.host_counts;
        all.device_counts = all.device_counts && traits.device_counts;
        all.capturable = all.capturable && traits.capturable;
        all.batch_invariant = all.batch_invariant && traits.batch_invariant;
    }
    return all;
}

bool moet_ffn_path_applicable(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                              char *why)
{
    if (!moet_family_accepts(config->family, problem, device, why)) return false;
    if (moet_ffn_path_is_chained(config)) {
        const moet_family *gemm = config->family->gemm;
        const int16_t *up = config->value + first_param(gemm, UP), *down = config->value + first_param(gemm, DOWN);
        if (!gemm->fuses_next) return moet_refuse(why, "%s does not chain the down GEMM to the up GEMM", gemm->name);
        if (!is_fused(config)) return moet_refuse(why, "chained GEMMs have no pass for the activation between them");
        for (int32_t i = 0; i < gemm->param_count; i++) {
            if (up[i] != down[i])
                return moet_refuse(why, "chained GEMMs have one config: up_%s=%s, down_%s=%s", gemm->params[i].name,
                                   gemm->params[i].values[up[i]], gemm->params[i].name, gemm->params[i].values[down[i]]);
        }
    }
    for (int32_t i = 0; i < GEMM_COUNT; i++) {
        const moet_problem gemm = gemm_problem(problem, config, i);
        const moet_config half = moet_ffn_path_half(config, i);
        char reason[MOET_REASON_SIZE];
        if (half.gathers && !half.family->fuses_gather)
            return moet_refuse(why, "up: %s does not gather rows", half.family->name);
        if (half.scatters && !half.family->fuses_scatter)
            return moet_refuse(why, "down: %s does not scatter rows", half.family->name);
        /* A token's only row is then more than a copy. */
        if (half.scatters && problem->prob == MOET_PROB_COMBINE && problem->combine == MOET_COMBINE_EXACT)
            return moet_refuse(why, "down: rows that are weighted at the combine are not stored to out");
        if (!half.family->applicable(&gemm, &half, device, reason))
            return moet_refuse(why, "%s: %.240s", op_labels[i], reason);
    }
    return true;
}

/* Up to so many rows an expert, on average, one launch for both GEMMs is faster (docs/ffn.md). */
enum { CHAINED_ROWS = 1024 };

/* Fused is what the GEMMs' defaults can fuse. */
void moet_ffn_path_default_config(const moet_problem *problem, int64_t rows_hint, const moet_device_info *device,
                                  moet_config *config)
{
    const moet_family *gemm = config->family->gemm;
    for (int32_t passes = 0; passes < 8; passes++) { /* a bit each */
        char why[MOET_REASON_SIZE];
        config->value[MOET_PATH_ACT] = passes & 4 ? MOET_PATH_ACT_PASS : MOET_PATH_ACT_FUSED;
        config->value[MOET_PATH_COMBINE] = passes & 2 ? MOET_PATH_COMBINE_PASS : MOET_PATH_COMBINE_FUSED;
        config->value[MOET_PATH_GATHER] = passes & 1 ? MOET_PATH_GATHER_PASS : MOET_PATH_GATHER_FUSED;
        config->value[MOET_PATH_CHAIN] = MOET_PATH_CHAIN_OFF;
        for (int32_t i = 0; i < GEMM_COUNT; i++) {
            const moet_problem of_gemm = gemm_problem(problem, config, i);
            moet_config half = {.family = gemm};
            gemm->default_config(&of_gemm, rows_hint, device, &half);
            memcpy(config->value + first_param(gemm, i), half.value, (size_t)gemm->param_count * sizeof half.value[0]);
        }
        if (!moet_ffn_path_applicable(problem, config, device, why)) continue;
        if (rows_hint > (int64_t)CHAINED_ROWS * problem->experts) return;
        config->value[MOET_PATH_CHAIN] = MOET_PATH_CHAIN_ON;
        if (!moet_ffn_path_applicable(problem, config, device, why)) config->value[MOET_PATH_CHAIN] = MOET_PATH_CHAIN_OFF;
        return;
    }
}

double moet_ffn_path_estimate_ns(const moet_problem *problem, const int32_t *counts, int64_t tokens,
                                 const moet_config *config, const moet_device_info *device,
                                 const moet_device_rates *rates)
{
    if (!config->family->gemm->estimate_ns) return 0;
    double rows = 0, sum = 0;
    for (int32_t e = 0; e < problem->experts; e++) rows += counts[e];
    for (int32_t i = 0; i < GEMM_COUNT; i++) {
        const moet_problem gemm = gemm_problem(problem, config, i);
        const moet_config half = moet_ffn_path_half(config, i);
        sum += half.family->estimate_ns(&gemm, counts, tokens, &half, device, rates);
    }
    const double hidden_bytes = 2.0 * problem->hidden, inter_bytes = 2.0 * problem->inter; /* of a row */
    sum += moet_pass_cost_ns(rows * 12, rates);                                            /* permute: ids and places */
    if (config->value[MOET_PATH_GATHER] == MOET_PATH_GATHER_PASS)
        sum += moet_pass_cost_ns(2 * rows * hidden_bytes, rates);
    if (!is_fused(config)) sum += moet_pass_cost_ns(3 * rows * inter_bytes, rates);
    /* Fused, tokens of one row have it in out already. */
    const double combined = config->value[MOET_PATH_COMBINE] == MOET_PATH_COMBINE_FUSED && tokens >= (int64_t)rows
                                ? 0
                                : (rows + (double)tokens) * hidden_bytes;
    if (config->value[MOET_PATH_CHAIN] == MOET_PATH_CHAIN_ON) sum -= moet_pass_cost_ns(0, rates);
    return sum + moet_pass_cost_ns(combined, rates);
}

int32_t moet_ffn_path_tile(const moet_problem *problem, const moet_config *config, const moet_device_info *device,
                           const moet_device_rates *rates, moet_tiling *tilings)
{
    _Static_assert(GEMM_COUNT == MOET_MAX_GEMMS, "a tiling each");
    if (!config->family->gemm->tile) return 0;
    for (int32_t i = 0; i < GEMM_COUNT; i++) {
        const moet_problem gemm = gemm_problem(problem, config, i);
        const moet_config half = moet_ffn_path_half(config, i);
        half.family->tile(&gemm, &half, device, rates, &tilings[i]);
    }
    return GEMM_COUNT;
}

/* ---- workspace ---- */

/* Where each part starts, and the sum. */
typedef struct layout {
    size_t x;   /* [max_rows, H] permuted x, and later the down GEMM's result: x is not read any more then */
    size_t up;  /* [max_rows, 2I] the up GEMM's result; nothing where the activation is fused */
    size_t act; /* [max_rows, I] */
    size_t counts, places, source, prob; /* as in moet_permuted */
    size_t target;                       /* for the down GEMM; nothing where it does not scatter */
    size_t stages;                       /* for moet_stages_permute */
    size_t gemm;                         /* for either GEMM: one runs at a time */
    size_t bytes;
} layout;

/* The start of a part of so many bytes, which is put at the end. */
static size_t put(layout *l, size_t bytes)
{
    const size_t start = l->bytes;
    l->bytes += (bytes + 255) / 256 * 256;
    return start;
}

static layout layout_of(const moet_prepare_args *args)
{
    const size_t rows = (size_t)args->max_rows, tokens = (size_t)args->max_tokens;
    const size_t hidden = (size_t)args->problem->hidden, inter = (size_t)args->problem->inter;
    const size_t experts = (size_t)args->problem->experts, choices = (size_t)args->choices;
    size_t gemm_bytes = 0;
    for (int32_t i = 0; i < launch_count(args->config); i++) {
        part p;
        part_init(&p, args, i);
        const size_t bytes = p.config.family->workspace_bytes(&p.args);
        if (bytes > gemm_bytes) gemm_bytes = bytes;
    }
    layout l = {0};
    l.x = put(&l, rows * hidden * 2);
    l.up = put(&l, is_fused(args->config) ? 0 : rows * 2 * inter * 2);
    l.act = put(&l, rows * inter * 2);
    l.counts = put(&l, experts * 4);
    l.places = put(&l, tokens * (choices < experts ? choices : experts) * 4);
    l.source = put(&l, rows * 4);
    l.prob = put(&l, args->problem->prob == MOET_PROB_NONE ? 0 : rows * 4);
    l.target = put(&l, args->config->value[MOET_PATH_COMBINE] == MOET_PATH_COMBINE_FUSED ? rows * 4 : 0);
    l.stages = put(&l, moet_stages_workspace_bytes(args->problem, args->choices, args->max_tokens, args->max_sms,
                                                   &args->device->info));
    l.gemm = put(&l, gemm_bytes);
    return l;
}

size_t moet_ffn_path_workspace_bytes(const moet_prepare_args *args) { return layout_of(args).bytes; }

/* ---- prepared ---- */

typedef struct path {
    const moet_family *gemm;
    void *gemms[GEMM_COUNT]; /* states */
    moet_stages *stages;
    layout layout;
    int64_t max_rows;
    int32_t launches; /* of GEMMs */
    bool is_weighted, is_fused, gathers, scatters;
    int64_t hidden;
} path;

void moet_ffn_path_release(void *state)
{
    path *p = state;
    if (!p) return;
    for (int32_t i = 0; i < GEMM_COUNT; i++) p->gemm->release(p->gemms[i]);
    moet_stages_destroy(p->stages);
    free(p);
}

moet_status moet_ffn_path_prepare(const moet_prepare_args *args, void **state)
{
    moet_status status = MOET_OK;
    path *p = calloc(1, sizeof *p);
    if (!p) return moet_fail(MOET_NO_MEMORY, "%s: out of host memory", args->config->family->name);
    p->gemm = args->config->family->gemm;
    p->layout = layout_of(args);
    p->max_rows = args->max_rows;
    p->is_fused = is_fused(args->config);
    p->gathers = args->config->value[MOET_PATH_GATHER] == MOET_PATH_GATHER_FUSED;
    p->scatters = args->config->value[MOET_PATH_COMBINE] == MOET_PATH_COMBINE_FUSED;
    p->hidden = args->problem->hidden;
    p->is_weighted = args->problem->prob != MOET_PROB_NONE;
    p->launches = launch_count(args->config);
    for (int32_t i = 0; i < p->launches && status == MOET_OK; i++) {
        part of_gemm;
        part_init(&of_gemm, args, i);
        status = p->gemm->prepare(&of_gemm.args, &p->gemms[i]);
        if (status != MOET_OK) status = moet_fail(status, "%s: %.240s", op_labels[i], moet_last_error());
    }
    if (status == MOET_OK)
        status = moet_stages_create(args->device, args->problem, args->choices, args->max_tokens, args->max_sms,
                                    args->cubin_count > p->launches ? args->cubins[p->launches] : NULL, &p->stages);
    if (status != MOET_OK) {
        moet_ffn_path_release(p);
        return status;
    }
    *state = p;
    return MOET_OK;
}

int32_t moet_ffn_path_cubins(const void *state, const moet_cubin **list)
{
    const path *p = state;
    int32_t count = 0;
    for (int32_t i = 0; p->gemm->cubins && i < p->launches; i++) count += p->gemm->cubins(p->gemms[i], list + count);
    const moet_cubin *stages = moet_stages_cubin(p->stages);
    if (stages) list[count++] = stages;
    return count;
}

bool moet_ffn_path_source(const moet_problem *problem, const moet_config *config, int32_t cc_major, int32_t cc_minor,
                          int32_t index, moet_source *source)
{
    const int32_t launches = launch_count(config);
    if (index == launches) return moet_stages_source(cc_major, cc_minor, source);
    if (index < 0 || index > launches || !config->family->gemm->source) return false;
    const moet_problem gemm = gemm_problem(problem, config, index);
    const moet_config half = moet_ffn_path_half(config, index);
    return half.family->source(&gemm, &half, cc_major, cc_minor, 0, source);
}

/* ---- launch ---- */

static void *at(void *workspace, size_t start) { return (char *)workspace + start; }

moet_status moet_ffn_path_launch(void *state, const moet_family_launch_args *args)
{
    path *p = state;
    const layout *l = &p->layout;
    const moet_ffn_args *ffn = args->ffn;
    void *workspace = args->workspace, *stream = args->stream;
    const moet_ffn_rows *apart = args->ffn_rows;
    if (!ffn) return moet_fail(MOET_INVALID, "%s: no arguments of op ffn", p->gemm->name);
    const moet_permuted permuted = {.counts = at(workspace, l->counts),
                                    .places = apart ? apart->places : at(workspace, l->places),
                                    .source = at(workspace, l->source),
                                    .prob = p->is_weighted ? at(workspace, l->prob) : NULL,
                                    .x = at(workspace, l->x)};
    int32_t *target = p->scatters && !apart ? at(workspace, l->target) : NULL;
    MOET_TRY(moet_stages_permute(p->stages, ffn, &permuted, p->max_rows, target, at(workspace, l->stages), stream));
    if (args->rows > 0) {
        moet_family_launch_args gemm = {.x = permuted.x,
                                        .w = ffn->up,
                                        .bias = ffn->up_bias,
                                        .out = at(workspace, p->is_fused ? l->act : l->up),
                                        .prob = permuted.prob,
                                        .counts = args->counts_on_device ? permuted.counts : args->counts,
                                        .counts_on_device = args->counts_on_device,
                                        .rows = args->rows,
                                        .workspace = at(workspace, l->gemm),
                                        .stream = stream};
        if (p->gathers) {
            gemm.x = ffn->x;
            gemm.x_stride = ffn->x_stride ? ffn->x_stride : p->hidden;
            gemm.source = permuted.source;
        } else {
            MOET_TRY(moet_stages_gather(p->stages, ffn, &permuted, args->rows, stream));
        }
        moet_family_launch_args down = gemm;
        down.x = at(workspace, l->act);
        down.w = ffn->down;
        down.bias = ffn->down_bias;
        down.out = apart ? apart->rows : at(workspace, l->x);
        down.target = apart && p->scatters ? apart->none : target;
        down.scattered = ffn->out;
        down.scattered_stride = ffn->out_stride ? ffn->out_stride : p->hidden;
        if (p->launches == 1) gemm.next = &down;
        moet_nvtx_begin(MOET_NVTX_UP, NULL, args->rows);
        MOET_TRY(moet_nvtx_end(p->gemm->launch(p->gemms[UP], &gemm)));
        if (!p->is_fused)
            MOET_TRY(moet_stages_activate(p->stages, gemm.out, &permuted, args->rows, at(workspace, l->act), stream));
        if (p->launches > 1) {
            moet_nvtx_begin(MOET_NVTX_DOWN, NULL, args->rows);
            MOET_TRY(moet_nvtx_end(p->gemm->launch(p->gemms[DOWN], &down)));
        }
    }
    return apart ? MOET_OK : moet_stages_combine(p->stages, ffn, at(workspace, l->x), &permuted, stream);
}

moet_status moet_ffn_path_permute(void *state, const moet_ffn_args *args, const moet_permuted *permuted,
                                  void *workspace)
{
    path *p = state;
    MOET_TRY(moet_stages_permute(p->stages, args, permuted, p->max_rows, NULL, at(workspace, p->layout.stages),
                                 args->stream));
    return permuted->x ? moet_stages_gather(p->stages, args, permuted, p->max_rows, args->stream) : MOET_OK;
}

moet_status moet_ffn_path_activate(void *state, const void *up, const moet_permuted *permuted, void *out, void *stream)
{
    path *p = state;
    return moet_stages_activate(p->stages, up, permuted, p->max_rows, out, stream);
}

moet_status moet_ffn_path_unpermute(void *state, const moet_ffn_args *args, const void *rows,
                                    const moet_permuted *permuted)
{
    path *p = state;
    return moet_stages_combine(p->stages, args, rows, permuted, args->stream);
}
