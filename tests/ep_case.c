#include "ep_case.h"

/* ---- drawing ---- */

/* Choices of every kind: distinct experts, -1, ids that are none, an expert named twice, tokens with none, a rank that
 * nobody chooses. */
static void draw_ids(uint64_t *random, int64_t nth, ep_case *c)
{
    const int32_t E = c->path.problem.experts, k = c->path.choices, ranks = c->options.ranks;
    const int32_t local = E / ranks;
    const int32_t empty = nth % 3 == 1 ? (int32_t)test_between(random, 0, ranks - 1) : -1;
    for (int64_t t = 0; t < c->path.given.tokens; t++) {
        const int64_t kind = test_between(random, 0, 4); /* 0: none, 1: one, else most of them */
        for (int32_t i = 0; i < k; i++) {
            int32_t id = (int32_t)test_between(random, 0, E - 1);
            if (kind == 0 || (kind == 1 && i > 0) || test_between(random, 0, 7) == 0) id = -1;
            if (id >= 0 && id / local == empty) id = -1;
            if (test_between(random, 0, 40) == 0) id = (int32_t)test_between(random, 0, 1) ? E + 3 : -7;
            c->path.ids[t * k + i] = id;
            c->path.weights[t * k + i] = (float)test_between(random, 1, 1 << 20) / (1 << 20);
        }
    }
}

/* How many tokens each rank has: up to max_tokens, none at times. */
static int64_t draw_tokens(uint64_t *random, int64_t nth, ep_case *c)
{
    int64_t sum = 0;
    for (int32_t r = 0; r < c->options.ranks; r++) {
        c->first[r] = sum;
        if (nth % 4 == 2 && r == (int32_t)(nth / 4 % c->options.ranks)) continue;
        sum += nth % 5 == 4 ? c->options.max_tokens : test_between(random, 0, c->options.max_tokens);
    }
    c->first[c->options.ranks] = sum;
    return sum;
}

void ep_case_draw(uint64_t *random, int64_t nth, int32_t ranks, ep_case *c)
{
    moet_problem problem;
    *c = (ep_case){0};
    moet_problem_init(&problem, MOET_OP_FFN, ranks * (int32_t)test_between(random, 1, 6),
                      (int32_t)(8 * test_between(random, 1, 12)), (int32_t)(8 * test_between(random, 1, 9)));
    problem.layout = (moet_layout)test_between(random, 0, 1);
    problem.activation = (moet_activation)(1 + nth % (MOET_ACTIVATION_COUNT - 1));
    problem.clamp = problem.activation == MOET_ACTIVATION_SWIGLU_CLAMP ? 1.25 : 0;
    problem.prob = (moet_prob)(nth / 2 % MOET_PROB_COUNT);
    problem.bias = test_between(random, 0, 1);
    problem.down_bias = test_between(random, 0, 1);
    moet_ep_options_init(&c->options, problem.numerics);
    c->options.ranks = ranks;
    c->options.returns = (moet_ep_returns)(nth & 1);
    if (c->options.returns == MOET_EP_RETURNS_SUMS && problem.prob == MOET_PROB_COMBINE)
        problem.combine = nth / 12 % 2 ? MOET_COMBINE_EXACT : MOET_COMBINE_PADDLE;
    static const struct {
        const char *name;
        bool returns_rows;
    } transports[] = {{"exchange", true}, {"allgather", false}, {"lsa", true},       {"bound", false},
                      {"auto", true},     {"allgather", false}, {"lsa_joint", false}};
    const int32_t which = (int32_t)(nth / 2 % MOET_COUNT_OF(transports));
    const bool is_served = c->options.returns == MOET_EP_RETURNS_SUMS || transports[which].returns_rows;
    snprintf(c->options.transport, sizeof c->options.transport, "%s", is_served ? transports[which].name : "lsa");
    c->options.choices = (int32_t)test_between(random, 1, nth % 3 ? 8 : MOET_MAX_CHOICES);
    c->options.chunks = (int32_t)test_between(random, 0, MOET_EP_MAX_CHUNKS);
    c->options.max_tokens = test_between(random, 1, nth % 4 ? 40 : 200);
    if (nth % 24 == 11) { /* allgather, of so much that copies and not a kernel carry it where a rank has most tokens */
        snprintf(c->options.transport, sizeof c->options.transport, "allgather");
        problem.hidden = 2048;
        problem.inter = 8;
        c->options.max_tokens = 1100;
        c->options.chunks = 1;
    }
    ffn_path_make(&c->path, (int32_t)(ranks * c->options.max_tokens), c->options.choices, problem);
    ffn_path_fill(random, &c->path);
    c->path.given.tokens = draw_tokens(random, nth, c);
    draw_ids(random, nth, c);
}

void ep_case_redraw(uint64_t *random, int64_t nth, ep_case *c)
{
    c->path.given.tokens = draw_tokens(random, nth, c);
    draw_ids(random, nth, c);
    ffn_path_numbers(random, c->path.x, c->path.given.tokens * c->path.problem.hidden, 1);
}

void ep_case_free(ep_case *c) { ffn_path_free(&c->path); }

/* ---- one device ---- */

/* moet_ffn of the experts first to first + count - 1 on the tokens of `rank`. */
static void run_group(const ep_case *c, moet_handle *handle, int32_t rank, int32_t first, int32_t count, uint16_t *out)
{
    const ffn_path *path = &c->path;
    moet_problem problem = path->problem;
    problem.experts = count;
    const int64_t H = problem.hidden, I = problem.inter, k = path->choices, begin = c->first[rank];
    const int64_t tokens = c->first[rank + 1] - begin;
    if (tokens == 0) return;
    int32_t *ids = test_allocate((size_t)(tokens * k) * sizeof *ids);
    for (int64_t i = 0; i < tokens * k; i++) {
        const int32_t id = path->ids[begin * k + i];
        ids[i] = id >= first && id < first + count ? id - first : -1;
    }
    const moet_plan_options options = {.max_tokens = tokens, .choices = (int32_t)k, .device_counts = true};
    moet_device *device = handle->device;
    test_buffer x, id_buffer, weights, up, up_bias, down, down_bias, result;
    test_buffer_create(device, &x, path->x + begin * H, (size_t)(tokens * H) * 2);
    test_buffer_create(device, &id_buffer, ids, (size_t)(tokens * k) * 4);
    test_buffer_create(device, &weights, path->weights + begin * k, (size_t)(tokens * k) * 4);
    test_buffer_create(device, &up, path->up + first * 2 * I * H, (size_t)(count * 2 * I * H) * 2);
    test_buffer_create(device, &up_bias, path->up_bias + first * 2 * I, (size_t)(count * 2 * I) * 2);
    test_buffer_create(device, &down, path->down + first * H * I, (size_t)(count * H * I) * 2);
    test_buffer_create(device, &down_bias, path->down_bias + first * H, (size_t)(count * H) * 2);
    test_buffer_create(device, &result, NULL, (size_t)(tokens * H) * 2);
    moet_ffn_args args = {.x = test_buffer_inside(&x),
                          .ids = test_buffer_inside(&id_buffer),
                          .weights = problem.prob == MOET_PROB_NONE ? NULL : test_buffer_inside(&weights),
                          .up = test_buffer_inside(&up),
                          .up_bias = problem.bias ? test_buffer_inside(&up_bias) : NULL,
                          .down = test_buffer_inside(&down),
                          .down_bias = problem.down_bias ? test_buffer_inside(&down_bias) : NULL,
                          .out = test_buffer_inside(&result),
                          .tokens = tokens};
    moet_plan *plan;
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    TEST_OK(moet_ffn(plan, &args));
    TEST_OK(device->backend->stream_synchronize(device, NULL));
    TEST_OK(device->backend->download(device, out, test_buffer_inside(&result), (size_t)(tokens * H) * 2));
    moet_plan_destroy(plan);
    test_buffer *const buffers[] = {&x, &id_buffer, &weights, &up, &up_bias, &down, &down_bias, &result};
    for (int32_t i = 0; i < MOET_COUNT_OF(buffers); i++) test_buffer_destroy(device, buffers[i]);
    free(ids);
}

void ep_case_expect(const ep_case *c, moet_handle *handle, int32_t rank, uint16_t *out)
{
    const int32_t E = c->path.problem.experts, ranks = c->options.ranks, k = c->path.choices, local = E / ranks;
    const int64_t H = c->path.problem.hidden, begin = c->first[rank], tokens = c->first[rank + 1] - begin;
    if (c->options.returns == MOET_EP_RETURNS_ROWS) {
        run_group(c, handle, rank, 0, E, out);
        return;
    }
    const size_t elements = (size_t)(tokens * H);
    uint16_t *group = test_allocate(elements * 2 + 2);
    float *sums = test_allocate(elements * sizeof *sums + 4);
    int32_t *parts = test_allocate((size_t)tokens * sizeof *parts + 4);
    for (int32_t q = 0; q < ranks; q++) {
        run_group(c, handle, rank, q * local, local, group);
        for (int64_t t = 0; t < tokens; t++) {
            bool is_there = false;
            for (int32_t i = 0; i < k; i++) {
                const int32_t id = c->path.ids[(begin + t) * k + i];
                is_there = is_there || (id >= q * local && id < (q + 1) * local);
            }
            if (!is_there) continue;
            parts[t]++;
            for (int64_t h = 0; h < H; h++) {
                sums[t * H + h] += moet_bf16_to_float(group[t * H + h]);
                out[t * H + h] = parts[t] == 1 ? group[t * H + h] : bf16(sums[t * H + h]);
            }
        }
    }
    for (int64_t t = 0; t < tokens; t++) {
        if (parts[t] == 0) memset(out + t * H, 0, (size_t)H * 2);
    }
    free(group);
    free(sums);
    free(parts);
}

/* ---- the layer ---- */

/* Runs the layer, or captures it in a graph and launches that. What may be replayed with any routing is captured with
 * ids that are none. */
static void enqueue(moet_ep *ep, moet_device *device, const moet_ep_args *args, bool captured, void *ids,
                    const void *host_ids, size_t ids_bytes)
{
    void *graph = NULL;
    if (!captured) {
        TEST_OK(moet_ep_run(ep, args));
        TEST_OK(moet_ep_wait(ep, args->stream));
        return;
    }
    if (moet_ep_is_graph_safe(ep)) TEST_OK(device->backend->fill(device, ids, 0xff, ids_bytes));
    TEST_OK(device->backend->capture_begin(device, args->stream));
    TEST_OK(moet_ep_run(ep, args));
    TEST_OK(device->backend->capture_end(device, args->stream, &graph));
    TEST_OK(device->backend->upload(device, ids, host_ids, ids_bytes));
    for (int32_t i = 0; i < 3; i++) {
        TEST_OK(device->backend->graph_launch(device, graph, args->stream));
        TEST_OK(moet_ep_wait(ep, args->stream));
    }
    device->backend->graph_destroy(device, graph);
}

static void run_layer(ep_case *c, moet_ep *ep, moet_handle *handle, bool is_wide, bool captured, uint16_t *got)
{
    const moet_problem *problem = &c->path.problem;
    const int32_t rank = c->options.rank, local = problem->experts / c->options.ranks;
    const int64_t H = problem->hidden, I = problem->inter, k = c->path.choices, begin = c->first[rank];
    const int64_t tokens = c->first[rank + 1] - begin, out_stride = is_wide ? H + 16 : H, first = rank * local;
    const int64_t x_stride = is_wide && c->path.ids[0] & 1 ? H + 8 : H;
    moet_device *device = handle->device;
    int64_t *long_ids = test_allocate((size_t)(tokens * k) * sizeof *long_ids + 8);
    for (int64_t i = 0; i < tokens * k; i++) long_ids[i] = c->path.ids[begin * k + i];
    test_buffer x, ids, weights, up, up_bias, down, down_bias;
    test_output out;
    uint16_t *spread = test_allocate((size_t)(tokens * x_stride) * 2 + 2);
    for (int64_t t = 0; t < tokens; t++) memcpy(spread + t * x_stride, c->path.x + (begin + t) * H, (size_t)H * 2);
    test_buffer_create(device, &x, spread, (size_t)(tokens * x_stride) * 2);
    free(spread);
    test_buffer_create(device, &ids, is_wide ? (const void *)long_ids : c->path.ids + begin * k,
                       (size_t)(tokens * k) * (is_wide ? 8 : 4));
    test_buffer_create(device, &weights, c->path.weights + begin * k, (size_t)(tokens * k) * 4);
    test_buffer_create(device, &up, c->path.up + first * 2 * I * H, (size_t)(local * 2 * I * H) * 2);
    test_buffer_create(device, &up_bias, c->path.up_bias + first * 2 * I, (size_t)(local * 2 * I) * 2);
    test_buffer_create(device, &down, c->path.down + first * H * I, (size_t)(local * H * I) * 2);
    test_buffer_create(device, &down_bias, c->path.down_bias + first * H, (size_t)(local * H) * 2);
    test_output_create(device, &out, (size_t)(tokens * out_stride) * 2);
    void *stream = NULL;
    TEST_OK(device->backend->stream_create(device, &stream));
    const moet_ep_args args = {.x = test_buffer_inside(&x),
                               .x_stride = x_stride,
                               .ids = test_buffer_inside(&ids),
                               .ids_int64 = is_wide,
                               .weights = problem->prob == MOET_PROB_NONE ? NULL : test_buffer_inside(&weights),
                               .up = test_buffer_inside(&up),
                               .up_bias = problem->bias ? test_buffer_inside(&up_bias) : NULL,
                               .down = test_buffer_inside(&down),
                               .down_bias = problem->down_bias ? test_buffer_inside(&down_bias) : NULL,
                               .out = test_buffer_inside(&out.buffer),
                               .out_stride = is_wide ? out_stride : 0,
                               .tokens = tokens,
                               .stream = stream};
    const size_t whole_bytes = out.buffer.size_bytes + 2 * TEST_GUARD_BYTES;
    TEST_OK(device->backend->fill(device, out.buffer.memory, TEST_POISON, whole_bytes));
    enqueue(ep, device, &args, captured, test_buffer_inside(&ids),
            is_wide ? (const void *)long_ids : c->path.ids + begin * k, (size_t)(tokens * k) * (is_wide ? 8 : 4));
    TEST_OK(device->backend->download(device, out.raw, out.buffer.memory, whole_bytes));
    for (int64_t t = 0; t < tokens; t++) {
        uint8_t *row = out.raw + TEST_GUARD_BYTES + t * out_stride * 2;
        memcpy(got + t * H, row, (size_t)H * 2);
        memset(row, TEST_POISON, (size_t)H * 2);
    }
    for (size_t i = 0; i < whole_bytes; i++) {
        if (out.raw[i] != TEST_POISON) test_fail("byte %lld of out was written", (long long)i - TEST_GUARD_BYTES);
    }
    device->backend->stream_destroy(device, stream);
    test_buffer *const buffers[] = {&x, &ids, &weights, &up, &up_bias, &down, &down_bias};
    for (int32_t i = 0; i < MOET_COUNT_OF(buffers); i++) test_buffer_destroy(device, buffers[i]);
    test_output_destroy(device, &out);
    free(long_ids);
}

void ep_case_check(ep_case *c, moet_handle *handle, uint64_t *random, int64_t nth)
{
    const int64_t most = c->options.max_tokens * c->path.problem.hidden;
    uint16_t *got = test_allocate((size_t)most * 2), *want = test_allocate((size_t)most * 2);
    moet_ep *ep;
    TEST_OK(moet_ep_create(handle, &c->path.problem, &c->options, &ep));
    for (int64_t run = 0; run < 4; run++) {
        char what[640];
        if (run > 1) ep_case_redraw(random, nth + run, c); /* the first two are the same */
        const int64_t tokens = c->first[c->options.rank + 1] - c->first[c->options.rank];
        snprintf(what, sizeof what, "case %lld, run %lld, rank %d: %.400s", (long long)nth, (long long)run,
                 c->options.rank, moet_ep_describe(ep));
        /* The second run has the routing of the first, which a capture of exact counts keeps. */
        const bool captured =
            handle->device->backend->capture_begin && (run == 1 || (run == 3 && moet_ep_is_graph_safe(ep)));
        run_layer(c, ep, handle, nth & 2, captured, got);
        ep_case_expect(c, handle, c->options.rank, want);
        ffn_assert_same(&c->path, got, want, tokens * c->path.problem.hidden, what);
    }
    moet_ep_destroy(ep);
    free(got);
    free(want);
}
