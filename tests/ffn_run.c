#include "ffn_run.h"

/* ---- a path on the device ---- */

/* What lies between the rows is poison. */
static void place_rows(moet_device *device, test_buffer *buffer, const void *rows, int64_t count, int64_t row_bytes,
                       int64_t stride_bytes)
{
    uint8_t *spread = test_allocate((size_t)(count * stride_bytes) + 1);
    memset(spread, TEST_POISON, (size_t)(count * stride_bytes));
    for (int64_t i = 0; i < count; i++)
        memcpy(spread + i * stride_bytes, (const uint8_t *)rows + i * row_bytes, (size_t)row_bytes);
    test_buffer_create(device, buffer, spread, (size_t)(count * stride_bytes));
    free(spread);
}

static void count_choices(const ffn_path *path, ffn_placed *d)
{
    moet_ffn_permutation *permutation;
    TEST_OK(moet_ffn_permutation_create(&path->problem, path->choices, &path->given, &permutation));
    memcpy(d->counts, permutation->counts, (size_t)path->problem.experts * sizeof d->counts[0]);
    d->rows = permutation->rows;
    moet_ffn_permutation_destroy(permutation);
}

void ffn_place(moet_device *device, const ffn_path *path, bool wide, ffn_placed *d)
{
    const moet_problem *p = &path->problem;
    const int64_t R = path->given.tokens, E = p->experts, H = p->hidden, I = p->inter, k = path->choices;
    const int64_t more = wide ? 8 : 0, id_bytes = wide ? 8 : 4;
    *d = (ffn_placed){.device = device, .path = path};
    count_choices(path, d);
    int64_t *long_ids = test_allocate((size_t)(R * k) * sizeof *long_ids);
    for (int64_t i = 0; i < R * k; i++) long_ids[i] = path->ids[i];
    place_rows(device, &d->x, path->x, R, 2 * H, 2 * (H + more));
    place_rows(device, &d->ids, wide ? (const void *)long_ids : path->ids, R, id_bytes * k, id_bytes * (k + more / 4));
    place_rows(device, &d->weights, path->weights, R, 4 * k, 4 * (k + more / 8));
    free(long_ids);
    test_buffer_create(device, &d->up, path->up, (size_t)(E * 2 * I * H) * 2);
    test_buffer_create(device, &d->up_bias, path->up_bias, (size_t)(E * 2 * I) * 2);
    test_buffer_create(device, &d->down, path->down, (size_t)(E * H * I) * 2);
    test_buffer_create(device, &d->down_bias, path->down_bias, (size_t)(E * H) * 2);
    test_output_create(device, &d->out, (size_t)(R * (H + 2 * more)) * 2);
    d->args = (moet_ffn_args){.x = test_buffer_inside(&d->x),
                              .x_stride = wide ? H + more : 0,
                              .ids = test_buffer_inside(&d->ids),
                              .ids_int64 = wide,
                              .ids_stride = wide ? k + more / 4 : 0,
                              .weights = p->prob == MOET_PROB_NONE ? NULL : test_buffer_inside(&d->weights),
                              .weights_stride = wide ? k + more / 8 : 0,
                              .up = test_buffer_inside(&d->up),
                              .up_bias = p->bias ? test_buffer_inside(&d->up_bias) : NULL,
                              .down = test_buffer_inside(&d->down),
                              .down_bias = p->down_bias ? test_buffer_inside(&d->down_bias) : NULL,
                              .out = test_buffer_inside(&d->out.buffer),
                              .out_stride = wide ? H + 2 * more : 0,
                              .tokens = R,
                              .counts = d->counts};
}

void ffn_placed_free(ffn_placed *d)
{
    moet_device *device = d->device;
    test_buffer *const buffers[] = {&d->x, &d->ids, &d->weights, &d->up, &d->up_bias, &d->down, &d->down_bias};
    for (int32_t i = 0; i < MOET_COUNT_OF(buffers); i++) test_buffer_destroy(device, buffers[i]);
    test_output_destroy(device, &d->out);
}

/* ---- plans whose workspace is poison between guards ---- */

void ffn_plan_create(moet_handle *handle, const ffn_path *path, const moet_plan_options *options, ffn_guarded_plan *g)
{
    moet_device *device = handle->device;
    TEST_OK(moet_plan_create(handle, &path->problem, options, &g->plan));
    g->own = g->plan->workspace;
    test_buffer_create(device, &g->workspace, NULL, g->plan->workspace_bytes);
    g->plan->workspace = test_buffer_inside(&g->workspace);
}

void ffn_poison_workspace(const ffn_guarded_plan *g)
{
    moet_device *device = g->plan->handle->device;
    TEST_OK(device->backend->fill(device, test_buffer_inside(&g->workspace), TEST_POISON, g->workspace.size_bytes));
}

void ffn_plan_free(ffn_guarded_plan *g)
{
    moet_device *device = g->plan->handle->device;
    uint8_t guard[TEST_GUARD_BYTES];
    for (int32_t end = 0; end < 2; end++) {
        const uint8_t *from = g->workspace.memory + (end ? TEST_GUARD_BYTES + g->workspace.size_bytes : 0);
        TEST_OK(device->backend->download(device, guard, from, sizeof guard));
        for (int32_t i = 0; i < TEST_GUARD_BYTES; i++) {
            if (guard[i] != TEST_POISON) test_fail("byte %d %s the workspace was written", i, end ? "past" : "before");
        }
    }
    g->plan->workspace = g->own;
    moet_plan_destroy(g->plan);
    test_buffer_destroy(device, &g->workspace);
}

moet_plan_options ffn_options(const ffn_path *path, bool on_device)
{
    return (moet_plan_options){.max_tokens = path->given.tokens, .choices = path->choices, .device_counts = on_device};
}

void ffn_poison_out(const ffn_placed *d)
{
    moet_device *device = d->device;
    TEST_OK(device->backend->fill(device, d->out.buffer.memory, TEST_POISON,
                                  d->out.buffer.size_bytes + 2 * TEST_GUARD_BYTES));
}

void ffn_read_out(const ffn_placed *d, int64_t tokens, uint16_t *bits)
{
    moet_device *device = d->device;
    const int64_t row_bytes = 2 * d->path->problem.hidden;
    const int64_t stride_bytes = d->args.out_stride ? 2 * d->args.out_stride : row_bytes;
    const size_t whole_bytes = d->out.buffer.size_bytes + 2 * TEST_GUARD_BYTES;
    TEST_OK(device->backend->stream_synchronize(device, NULL));
    TEST_OK(device->backend->download(device, d->out.raw, d->out.buffer.memory, whole_bytes));
    for (int64_t t = 0; t < tokens; t++) {
        uint8_t *row = d->out.raw + TEST_GUARD_BYTES + t * stride_bytes;
        memcpy((uint8_t *)bits + t * row_bytes, row, (size_t)row_bytes);
        memset(row, TEST_POISON, (size_t)row_bytes);
    }
    for (size_t i = 0; i < whole_bytes; i++) {
        if (d->out.raw[i] != TEST_POISON)
            test_fail("byte %lld from the start of out was written", (long long)i - TEST_GUARD_BYTES);
    }
}

void ffn_run(const ffn_guarded_plan *g, const ffn_placed *d, const moet_ffn_args *args, int64_t tokens, uint16_t *bits)
{
    ffn_poison_out(d);
    ffn_poison_workspace(g);
    TEST_OK(moet_ffn(g->plan, args));
    ffn_read_out(d, tokens, bits);
}
