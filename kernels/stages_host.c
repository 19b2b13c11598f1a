/* stages_host: stages.h on the host, in plain C on the caller's thread. */
#include <math.h>

#include "ffn_reference.h"
#include "reference.h"
#include "stages_table.h"

static moet_status host_create(moet_stages *stages, const moet_cubin *cubin)
{
    (void)stages, (void)cubin;
    return MOET_OK;
}

static void host_destroy(moet_stages *stages) { (void)stages; }

static size_t host_workspace_bytes(const moet_problem *problem, int32_t choices, int64_t max_tokens, int32_t max_sms,
                                   const moet_device_info *device)
{
    (void)problem, (void)choices, (void)max_tokens, (void)max_sms, (void)device;
    return 0;
}

/* Tokens of this launch. */
static int64_t token_count(const moet_ffn_args *args)
{
    if (!args->device_tokens) return args->tokens;
    int64_t tokens = *args->device_tokens;
    return tokens < 0 ? 0 : tokens < args->tokens ? tokens : args->tokens;
}

/* ---- permute ---- */

typedef struct choice {
    int32_t expert;
    float weight;
} choice;

/* The token's valid choices into list[MOET_MAX_CHOICES], by ascending expert; their number. */
static int32_t choices_of(const moet_stages *stages, const moet_ffn_args *args, int64_t token, choice *list)
{
    int32_t count = 0;
    for (int32_t c = 0; c < stages->choices; c++) {
        const int64_t at = token * args->ids_stride + c;
        const int64_t id = args->ids_int64 ? ((const int64_t *)args->ids)[at] : ((const int32_t *)args->ids)[at];
        if (id < 0 || id >= stages->problem.experts) continue;
        int32_t place = count; /* insertion: lists are short */
        while (place > 0 && list[place - 1].expert > id) place--;
        if (place > 0 && list[place - 1].expert == id) continue; /* the first one counts */
        for (int32_t i = count; i > place; i--) list[i] = list[i - 1];
        list[place].expert = (int32_t)id;
        list[place].weight = args->weights ? args->weights[token * args->weights_stride + c] : 1;
        count++;
    }
    return count;
}

static moet_status host_permute(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                                int64_t max_rows, int32_t *target, void *workspace)
{
    (void)workspace;
    const int64_t E = stages->problem.experts, width = moet_stages_width(stages), tokens = token_count(args);
    int64_t next[MOET_MAX_EXPERTS] = {0}; /* rows of each expert, then its next row */
    choice list[MOET_MAX_CHOICES];
    for (int64_t t = 0; t < tokens; t++) {
        const int32_t count = choices_of(stages, args, t, list);
        for (int32_t i = 0; i < count; i++) next[list[i].expert]++;
    }
    int64_t row = 0;
    for (int64_t e = 0; e < E; e++) {
        const int64_t rows = next[e], left = row < max_rows ? max_rows - row : 0;
        if (permuted->counts) permuted->counts[e] = (int32_t)(rows < left ? rows : left);
        next[e] = row;
        row += rows;
    }
    for (int64_t t = 0; t < tokens; t++) {
        const int32_t count = choices_of(stages, args, t, list);
        if (permuted->rowmap) {
            for (int64_t e = 0; e < E; e++) permuted->rowmap[t * E + e] = -1;
        }
        for (int32_t i = 0; i < width; i++) {
            int32_t place = -1;
            if (i < count && (row = next[list[i].expert]++) < max_rows) {
                place = (int32_t)row;
                if (permuted->rowmap) permuted->rowmap[t * E + list[i].expert] = place;
                if (permuted->source) permuted->source[row] = (int32_t)t;
                if (permuted->prob) permuted->prob[row] = list[i].weight;
                if (target) target[row] = count == 1 ? (int32_t)t : -1;
                if (target && count == 1) place = MOET_STAGES_DIRECT;
            }
            if (permuted->places) permuted->places[t * width + i] = place;
        }
    }
    return MOET_OK;
}

/* ---- gather, activate ---- */

static int64_t row_count(const moet_stages *stages, const moet_permuted *permuted, int64_t bound)
{
    int64_t rows = 0;
    for (int32_t e = 0; e < stages->problem.experts; e++) rows += permuted->counts[e];
    return rows < bound ? rows : bound;
}

static moet_status host_gather(moet_stages *stages, const moet_ffn_args *args, const moet_permuted *permuted,
                               int64_t rows)
{
    const int64_t H = stages->problem.hidden, count = row_count(stages, permuted, rows);
    uint16_t *to = permuted->x;
    for (int64_t m = 0; m < count; m++) {
        const uint16_t *from = (const uint16_t *)args->x + permuted->source[m] * args->x_stride;
        for (int64_t h = 0; h < H; h++) to[m * H + h] = from[h];
    }
    return MOET_OK;
}

static moet_status host_activate(moet_stages *stages, const void *up, const moet_permuted *permuted, int64_t rows,
                                 void *out, void *stream)
{
    (void)stream;
    const int64_t inter = stages->problem.inter, count = row_count(stages, permuted, rows);
    const bool in_advance = stages->problem.prob == MOET_PROB_ADVANCE;
    for (int64_t m = 0; m < count; m++)
        moet_reference_activate_row(&stages->problem, (const uint16_t *)up + m * 2 * inter,
                                    in_advance ? permuted->prob[m] : 1, (uint16_t *)out + m * inter);
    return MOET_OK;
}

/* ---- combine ---- */

/* The token's rows into list[MOET_MAX_CHOICES], ascending; their number. */
static int32_t rows_of(const moet_stages *stages, const moet_permuted *permuted, int64_t token, int32_t *list)
{
    const int64_t span = permuted->places ? moet_stages_width(stages) : stages->problem.experts;
    const int32_t *map = (permuted->places ? permuted->places : permuted->rowmap) + token * span;
    int32_t count = 0;
    for (int64_t i = 0; i < span && count < MOET_MAX_CHOICES; i++) {
        if (map[i] >= 0) list[count++] = map[i];
    }
    return count;
}

static moet_status host_combine(moet_stages *stages, const moet_ffn_args *args, const void *rows,
                                const moet_permuted *permuted)
{
    const int64_t H = stages->problem.hidden, tokens = token_count(args);
    for (int64_t t = 0; t < tokens; t++) {
        int32_t list[MOET_MAX_CHOICES];
        if (permuted->places && permuted->places[t * moet_stages_width(stages)] == MOET_STAGES_DIRECT) continue;
        const int32_t count = rows_of(stages, permuted, t, list);
        const bool single = count == 1 && stages->problem.combine == MOET_COMBINE_PADDLE;
        const bool weighted = stages->problem.prob == MOET_PROB_COMBINE && !single;
        uint16_t *out = (uint16_t *)args->out + t * args->out_stride;
        for (int64_t h = 0; h < H; h++) {
            float sum = 0;
            uint16_t bits = 0;
            for (int32_t i = 0; i < count; i++) {
                bits = ((const uint16_t *)rows)[list[i] * H + h];
                const float value = moet_bf16_to_float(bits);
                sum = weighted ? fmaf(value, permuted->prob[list[i]], sum) : sum + value;
            }
            /* A sum would turn -0 into +0. */
            out[h] = count == 1 && !weighted ? bits : moet_bf16_from_float(sum);
        }
    }
    return MOET_OK;
}

const moet_stages_table moet_stages_table_host = {
    .backend = "host",
    .create = host_create,
    .destroy = host_destroy,
    .workspace_bytes = host_workspace_bytes,
    .permute = host_permute,
    .gather = host_gather,
    .activate = host_activate,
    .combine = host_combine,
};
