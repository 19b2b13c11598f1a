/* path: which tokens of a workload of op FFN go to which experts. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

enum { CHOICES_SEED = 301, USUAL_CHOICES = 8 };

static void shuffle(int32_t *values, int64_t count, uint64_t *state)
{
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)(moet_xorshift(state) % (uint64_t)(i + 1));
        int32_t swapped = values[i];
        values[i] = values[j];
        values[j] = swapped;
    }
}

/* Experts take tokens in laps: each lap is all tokens in a new random order, so that loads differ by one at most.
 * order, last and load are room for R values each; last is -1 and load 0. */
static void draw_ids(const moet_buffers *b, int32_t *order, int32_t *last, int32_t *load, uint64_t *state)
{
    const int64_t R = b->routing.tokens;
    const int32_t k = b->choices.count;
    int64_t at = R;
    for (int64_t t = 0; t < R; t++) order[t] = (int32_t)t;
    for (int32_t e = 0; e < b->problem.experts; e++) {
        for (int32_t i = 0; i < b->counts[e]; i++) {
            if (at == R) {
                int64_t fresh = 0;
                shuffle(order, R, state);
                /* What this expert took at the end of the lap before comes last: it needs no token twice. */
                for (int64_t j = 0; j < R; j++) {
                    if (last[order[j]] == e) continue;
                    int32_t swapped = order[j];
                    order[j] = order[fresh];
                    order[fresh++] = swapped;
                }
                at = 0;
            }
            int32_t t = order[at++];
            last[t] = e;
            b->choices.ids[(int64_t)t * k + load[t]++] = e;
        }
    }
    for (int64_t t = 0; t < R; t++) shuffle(b->choices.ids + t * k, k, state); /* a local choice is any of the k */
}

static moet_status upload(moet_bench *bench, const void *values, size_t size_bytes, void **on_device)
{
    MOET_TRY(bench->device->backend->alloc(bench->device, size_bytes, on_device));
    return bench->device->backend->upload(bench->device, *on_device, values, size_bytes);
}

moet_status moet_path_check(const moet_routing *routing, int32_t *choices)
{
    const int64_t R = routing->tokens, M = routing->rows;
    if (R < 0 || R > MOET_MAX_ROWS)
        return moet_fail(MOET_INVALID, "workload: %lld tokens, must be 0 to %d", (long long)R, MOET_MAX_ROWS);
    if (routing->max > R)
        return moet_fail(MOET_INVALID,
                         "workload: an expert has %d rows, which needs as many tokens, and there are %lld",
                         routing->max, (long long)R);
    const int64_t fullest = R > 0 ? (M + R - 1) / R : 0;
    if (fullest > MOET_MAX_CHOICES)
        return moet_fail(MOET_UNSUPPORTED,
                         "workload: %lld rows of %lld tokens are %lld experts a token, at most %d are "
                         "served",
                         (long long)M, (long long)R, (long long)fullest, MOET_MAX_CHOICES);
    *choices = fullest > USUAL_CHOICES ? (int32_t)fullest : USUAL_CHOICES;
    return MOET_OK;
}

moet_status moet_path_choices_create(moet_bench *bench)
{
    moet_buffers *b = &bench->buffers;
    moet_path_choices *c = &b->choices;
    const size_t R = (size_t)b->routing.tokens, entries = R * (size_t)c->count;
    uint64_t state = (bench->seed + CHOICES_SEED) * 0x9e3779b97f4a7c15u | 1;
    if (R == 0) return MOET_OK;
    int32_t *order = malloc(R * sizeof *order), *last = malloc(R * sizeof *last), *load = calloc(R, sizeof *load);
    c->ids = malloc(entries * sizeof *c->ids);
    c->weights = malloc(entries * sizeof *c->weights);
    moet_status status = MOET_OK;
    if (!order || !last || !load || !c->ids || !c->weights) {
        status = moet_fail(MOET_NO_MEMORY, "workload: out of host memory");
        goto done;
    }
    memset(last, 0xff, R * sizeof *last);
    memset(c->ids, 0xff, entries * sizeof *c->ids);
    draw_ids(b, order, last, load, &state);
    for (size_t i = 0; i < entries; i++)
        c->weights[i] = (float)((moet_xorshift(&state) >> 40) + 1) * 0x1p-24f; /* (0, 1] */
    status = upload(bench, c->ids, entries * sizeof *c->ids, (void **)&c->device_ids);
    if (status == MOET_OK)
        status = upload(bench, c->weights, entries * sizeof *c->weights, (void **)&c->device_weights);
done:
    free(order);
    free(last);
    free(load);
    return status;
}

void moet_path_choices_release(moet_bench *bench)
{
    moet_path_choices *c = &bench->buffers.choices;
    bench->device->backend->free(bench->device, c->device_ids);
    bench->device->backend->free(bench->device, c->device_weights);
    free(c->ids);
    free(c->weights);
    *c = (moet_path_choices){0};
}

moet_ffn_args moet_path_args(const moet_bench *bench, int32_t set, bool device_counts)
{
    const moet_buffers *b = &bench->buffers;
    const moet_buffer_set *s = &b->sets[set];
    return (moet_ffn_args){.x = s->x,
                           .ids = b->choices.device_ids,
                           .weights = b->choices.device_weights,
                           .up = s->w,
                           .up_bias = s->bias,
                           .down = s->down,
                           .down_bias = s->down_bias,
                           .out = s->out,
                           .tokens = b->routing.tokens,
                           .counts = device_counts ? NULL : b->counts,
                           .stream = bench->stream};
}
