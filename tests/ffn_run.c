#include "ffn_run.h"

#include "../kernels/ffn_path.h"

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

/* ---- the composition ---- */

/* A plan of one of the GEMMs alone. */
static moet_plan *gemm_plan(moet_handle *handle, const ffn_path *path, moet_op op, int64_t max_rows, bool on_device)
{
    const moet_problem gemm = moet_problem_gemm(&path->problem, op);
    const moet_plan_options options = {.max_rows = max_rows, .device_counts = on_device};
    moet_plan *plan;
    TEST_OK(moet_plan_create(handle, &gemm, &options, &plan));
    return plan;
}

void ffn_run_reference(moet_handle *handle, const ffn_placed *d, uint16_t *bits)
{
    const ffn_path *path = d->path;
    moet_device *device = handle->device;
    const int64_t H = path->problem.hidden, I = path->problem.inter;
    moet_ffn_permutation *permutation;
    TEST_OK(moet_ffn_permutation_create(&path->problem, path->choices, &path->given, &permutation));
    const size_t rows = (size_t)permutation->rows, room = rows ? rows : 1;
    test_buffer x, up, act, down; /* aligned memory */
    test_buffer_create(device, &x, NULL, room * (size_t)H * 2);
    test_buffer_create(device, &up, NULL, room * (size_t)(2 * I) * 2);
    test_buffer_create(device, &act, NULL, room * (size_t)I * 2);
    test_buffer_create(device, &down, NULL, room * (size_t)H * 2);
    uint16_t *gathered = test_buffer_inside(&x), *gate_up = test_buffer_inside(&up), *active = test_buffer_inside(&act);
    for (size_t m = 0; m < rows; m++)
        memcpy(gathered + m * (size_t)H, path->x + (size_t)permutation->source[m] * (size_t)H, (size_t)H * 2);
    moet_plan *first = gemm_plan(handle, path, MOET_OP_UP, (int64_t)room, false);
    moet_plan *second = gemm_plan(handle, path, MOET_OP_DOWN, (int64_t)room, false);
    moet_launch_args args = {
        .x = gathered, .w = d->args.up, .bias = d->args.up_bias, .out = gate_up, .counts = permutation->counts};
    TEST_OK(moet_launch(first, &args));
    for (size_t m = 0; m < rows; m++)
        moet_reference_activate_row(&path->problem, gate_up + m * (size_t)(2 * I), permutation->prob[m],
                                    active + m * (size_t)I);
    args = (moet_launch_args){.x = active,
                              .w = d->args.down,
                              .bias = d->args.down_bias,
                              .out = test_buffer_inside(&down),
                              .counts = permutation->counts};
    TEST_OK(moet_launch(second, &args));
    const moet_ffn_args out = {.tokens = path->given.tokens, .out = bits};
    moet_reference_combine(&path->problem, permutation, &out, test_buffer_inside(&down));
    moet_plan_destroy(first);
    moet_plan_destroy(second);
    moet_ffn_permutation_destroy(permutation);
    test_buffer *const buffers[] = {&x, &up, &act, &down};
    for (int32_t i = 0; i < MOET_COUNT_OF(buffers); i++) test_buffer_destroy(device, buffers[i]);
}

void ffn_run_pieces(const ffn_guarded_plan *g, const ffn_placed *d, bool by_rowmap, uint16_t *bits)
{
    enum { COUNTS, PLACES, ROWMAP, SOURCE, PROB, X, UP, ACT, DOWN, BUFFERS };
    const ffn_path *path = d->path;
    moet_handle *handle = g->plan->handle;
    moet_device *device = handle->device;
    const size_t R = (size_t)path->given.tokens, E = (size_t)path->problem.experts, H = (size_t)path->problem.hidden,
                 I = (size_t)path->problem.inter, rows = (size_t)g->plan->options.max_rows;
    const size_t sizes[BUFFERS] = {E * 4,        R * MOET_MAX_CHOICES * 4, R * E * 4,    rows * 4,    rows * 4,
                                   rows * H * 2, rows * 2 * I * 2,         rows * I * 2, rows * H * 2};
    test_buffer buffers[BUFFERS];
    void *at[BUFFERS];
    for (int32_t i = 0; i < BUFFERS; i++) {
        test_buffer_create(device, &buffers[i], NULL, sizes[i]);
        at[i] = test_buffer_inside(&buffers[i]);
    }
    moet_permuted permuted = {.counts = at[COUNTS],
                              .places = by_rowmap ? NULL : at[PLACES],
                              .rowmap = by_rowmap ? at[ROWMAP] : NULL,
                              .source = at[SOURCE],
                              .prob = at[PROB],
                              .x = at[X]};
    moet_plan *first = gemm_plan(handle, path, MOET_OP_UP, (int64_t)rows, true);
    moet_plan *second = gemm_plan(handle, path, MOET_OP_DOWN, (int64_t)rows, true);
    moet_launch_args up = {.x = at[X], .w = d->args.up, .bias = d->args.up_bias, .out = at[UP], .counts = at[COUNTS]};
    moet_launch_args down = {
        .x = at[ACT], .w = d->args.down, .bias = d->args.down_bias, .out = at[DOWN], .counts = at[COUNTS]};
    ffn_poison_out(d);
    ffn_poison_workspace(g);
    TEST_OK(moet_permute(g->plan, &d->args, &permuted));
    TEST_OK(moet_launch(first, &up));
    TEST_OK(moet_activate(g->plan, at[UP], &permuted, at[ACT], NULL));
    TEST_OK(moet_launch(second, &down));
    TEST_OK(moet_unpermute(g->plan, &d->args, at[DOWN], &permuted));
    ffn_read_out(d, d->args.tokens, bits);
    moet_plan_destroy(first);
    moet_plan_destroy(second);
    for (int32_t i = 0; i < BUFFERS; i++) test_buffer_destroy(device, &buffers[i]);
}

/* ---- one configuration ---- */

void ffn_prepare(moet_device *device, const ffn_path *path, const moet_plan_options *options, const moet_config *config,
                 bool on_device, ffn_prepared *p)
{
    *p = (ffn_prepared){.device = device, .config = *config, .max_rows = options->max_rows, .on_device = on_device};
    const moet_prepare_args args = {.device = device,
                                    .problem = &path->problem,
                                    .config = &p->config,
                                    .max_rows = options->max_rows,
                                    .max_tokens = options->max_tokens,
                                    .choices = path->choices,
                                    .max_sms = options->max_sms,
                                    .device_counts = on_device};
    TEST_OK(config->family->prepare(&args, &p->state));
    test_buffer_create(device, &p->workspace, NULL, config->family->workspace_bytes(&args));
}

moet_status ffn_prepared_launch(const ffn_prepared *p, const moet_ffn_args *args, int64_t rows, void *stream)
{
    moet_ffn_args ffn = *args;
    ffn.stream = stream;
    const moet_family_launch_args launch = {.ffn = &ffn,
                                            .counts = p->on_device ? NULL : args->counts,
                                            .counts_on_device = p->on_device,
                                            .rows = p->on_device ? p->max_rows : rows,
                                            .workspace = test_buffer_inside(&p->workspace),
                                            .stream = stream};
    return p->config.family->launch(p->state, &launch);
}

void ffn_prepared_release(ffn_prepared *p)
{
    p->config.family->release(p->state);
    test_buffer_destroy(p->device, &p->workspace);
}

/* ---- by chance ---- */

void ffn_draw(uint64_t *random, int64_t nth, ffn_path *path)
{
    const moet_activation activation = (moet_activation)(1 + nth % (MOET_ACTIVATION_COUNT - 1));
    const moet_prob prob = (moet_prob)(nth / 3 % MOET_PROB_COUNT);
    const int64_t tokens = test_between(random, 0, 3) ? test_between(random, 1, 40) : test_between(random, 100, 300);
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_FFN, (int32_t)test_between(random, 1, 20),
                      (int32_t)(8 * test_between(random, 1, 12)), (int32_t)(8 * test_between(random, 1, 9)));
    problem.layout = (moet_layout)test_between(random, 0, MOET_LAYOUT_COUNT - 1);
    problem.activation = activation;
    problem.clamp = activation == MOET_ACTIVATION_SWIGLU_CLAMP ? 1.25 : 0;
    problem.prob = prob;
    problem.combine = prob == MOET_PROB_COMBINE ? (moet_combine)test_between(random, 0, 1) : MOET_COMBINE_EXACT;
    problem.bias = test_between(random, 0, 1);
    problem.down_bias = test_between(random, 0, 1);
    TEST_OK(moet_problem_validate(&problem));
    ffn_path_make(path, (int32_t)tokens, (int32_t)test_between(random, 1, MOET_MAX_CHOICES), problem);
    ffn_path_fill(random, path);
}

bool ffn_draw_config(uint64_t *random, const moet_family *family, const moet_problem *problem,
                     const moet_device_info *info, moet_config *config)
{
    char why[MOET_REASON_SIZE];
    for (int32_t tries = 0; tries < 20000; tries++) {
        *config = (moet_config){.family = family};
        for (int32_t i = 0; i < family->param_count; i++) {
            int32_t values = 0;
            while (family->params[i].values[values]) values++;
            config->value[i] = (int16_t)test_between(random, 0, values - 1);
        }
        /* Chained GEMMs have one config, which hardly ever comes by itself. */
        const int32_t gemm_params = family->gemm->param_count;
        if (family->gemm->fuses_next && config->value[MOET_PATH_CHAIN] == MOET_PATH_CHAIN_ON)
            memcpy(config->value + MOET_PATH_PARAMS + gemm_params, config->value + MOET_PATH_PARAMS,
                   (size_t)gemm_params * sizeof config->value[0]);
        if (family->applicable(problem, config, info, why)) return true;
    }
    return false;
}

/* ---- comparing ---- */

void ffn_assert_same(const ffn_path *path, const uint16_t *got, const uint16_t *want, int64_t elements,
                     const char *what)
{
    char key[MOET_KEY_SIZE];
    for (int64_t i = 0; i < elements; i++) {
        if (test_same_number(got[i], want[i])) continue;
        moet_problem_format(&path->problem, key);
        test_fail("%s: element %lld of token %lld is %04x, %04x expected (%s)", what,
                  (long long)(i % path->problem.hidden), (long long)(i / path->problem.hidden), got[i], want[i], key);
    }
}
