/* Plans of op FFN on any device: moet_ffn against the double reference and, bit for bit, against its pieces; what a
 * token, the counts' place, strides and configurations may not change; what is refused.
 *
 *   test_ffn [--device SPEC] [--paths N] [--configs N] */
#include "ffn_run.h"

#include <math.h>

static const char *spec = "host";
static int64_t path_count = 60, config_count = 3;
static moet_handle *handle;
static moet_device *device; /* the handle's */

/* ---- random paths ---- */

static bool is_host(void) { return strcmp(device->info.backend, "host") == 0; }

static void check_bound(const ffn_path *path, const uint16_t *got)
{
    double *want = test_allocate((size_t)path->elements * sizeof *want);
    double *bound = test_allocate((size_t)path->elements * sizeof *bound);
    TEST_OK(moet_reference_ffn_double(&path->problem, path->choices, &path->given, want, bound));
    for (int64_t i = 0; i < path->elements; i++) {
        const double value = (double)moet_bf16_to_float(got[i]);
        if (!(fabs(value - want[i]) <= bound[i])) {
            char key[MOET_KEY_SIZE];
            moet_problem_format(&path->problem, key);
            test_fail("element %lld is %g, %g within %g expected (%s)", (long long)i, value, want[i], bound[i], key);
        }
    }
    free(want);
    free(bound);
}

/* ---- the tests ---- */

/* One token alone. */
static void check_invariance(const ffn_guarded_plan *g, const ffn_placed *d, const uint16_t *all)
{
    const moet_problem *p = &d->path->problem;
    const int64_t R = d->path->given.tokens, H = p->hidden, k = d->path->choices;
    const int64_t x_stride = d->args.x_stride ? d->args.x_stride : H,
                  ids_stride = d->args.ids_stride ? d->args.ids_stride : k,
                  weights_stride = d->args.weights_stride ? d->args.weights_stride : k;
    uint16_t *alone = test_allocate((size_t)H * sizeof *alone);
    for (int64_t t = 0; t < R; t += 1 + R / 5) {
        int32_t counts[MOET_MAX_EXPERTS] = {0};
        for (int64_t c = 0; c < k; c++) {
            if (d->path->ids[t * k + c] >= 0) counts[d->path->ids[t * k + c]]++;
        }
        moet_ffn_args args = d->args;
        args.tokens = 1;
        args.x = (const uint16_t *)args.x + t * x_stride;
        args.ids = (const uint8_t *)args.ids + t * ids_stride * (args.ids_int64 ? 8 : 4);
        args.weights = args.weights ? args.weights + t * weights_stride : NULL;
        args.counts = counts;
        ffn_run(g, d, &args, 1, alone);
        ffn_assert_same(d->path, alone, all + t * H, H, "a token alone");
    }
    free(alone);
}

/* few: the plan with counts on the device has three SMs, or threads. */
static void check_path(const ffn_path *path, bool wide, bool few)
{
    ffn_placed d;
    ffn_guarded_plan with_host, with_device;
    const moet_plan_options host_options = ffn_options(path, false);
    moet_plan_options device_options = ffn_options(path, true);
    device_options.max_sms = few ? 3 : 0;
    uint16_t *got = test_allocate((size_t)path->elements * 2), *other = test_allocate((size_t)path->elements * 2);
    ffn_place(device, path, wide, &d);
    ffn_plan_create(handle, path, &host_options, &with_host);
    ffn_plan_create(handle, path, &device_options, &with_device);
    ffn_run(&with_host, &d, &d.args, d.args.tokens, got);
    check_bound(path, got);
    if (is_host()) {
        ffn_run_reference(handle, &d, other);
        ffn_assert_same(path, got, other, path->elements, "the composition with the reference");
    }
    ffn_run(&with_device, &d, &d.args, d.args.tokens, other);
    ffn_assert_same(path, other, got, path->elements, "counts on the device");
    ffn_run_pieces(&with_device, &d, wide, other);
    ffn_assert_same(path, other, got, path->elements, "the pieces");
    check_invariance(&with_host, &d, got);
    check_invariance(&with_device, &d, got);
    ffn_plan_free(&with_host);
    ffn_plan_free(&with_device);
    ffn_placed_free(&d);
    free(got);
    free(other);
}

static void test_random_paths(void **state)
{
    (void)state;
    uint64_t random = 31;
    for (int64_t i = 0; i < path_count; i++) {
        ffn_path path;
        ffn_draw(&random, i, &path);
        check_path(&path, i & 1, i % 5 == 3);
        ffn_path_free(&path);
    }
}

/* A plan for more tokens and rows than come, whose number is on the host or on the device. */
static void test_fewer_tokens_than_planned(void **state)
{
    (void)state;
    uint64_t random = 32;
    for (int64_t i = 0; i < 6; i++) {
        ffn_path path;
        ffn_draw(&random, i, &path);
        ffn_placed d;
        ffn_place(device, &path, i & 1, &d);
        const int64_t R = path.given.tokens, some = R / 2;
        uint16_t *want = test_allocate((size_t)path.elements * 2), *got = test_allocate((size_t)path.elements * 2);
        for (int32_t on_device = 0; on_device < 2; on_device++) {
            moet_plan_options options = ffn_options(&path, on_device);
            ffn_guarded_plan exact, large;
            options.max_tokens = R;
            ffn_plan_create(handle, &path, &options, &exact);
            options.max_tokens = 3 * R + 500;
            ffn_plan_create(handle, &path, &options, &large);
            ffn_run(&exact, &d, &d.args, R, want);
            ffn_run(&large, &d, &d.args, R, got);
            ffn_assert_same(&path, got, want, path.elements, "a plan for more tokens");
            if (on_device) {
                test_buffer tokens;
                const int32_t number = (int32_t)some;
                test_buffer_create(device, &tokens, &number, sizeof number);
                moet_ffn_args args = d.args;
                args.tokens = -77;
                args.device_tokens = test_buffer_inside(&tokens);
                ffn_run(&large, &d, &args, some, got);
                ffn_assert_same(&path, got, want, some * path.problem.hidden, "tokens counted on the device");
                test_buffer_destroy(device, &tokens);
            }
            ffn_plan_free(&exact);
            ffn_plan_free(&large);
        }
        free(want);
        free(got);
        ffn_placed_free(&d);
        ffn_path_free(&path);
    }
}

/* A captured launch replays with the ids that are there then. */
static void test_replay(void **state)
{
    (void)state;
    if (!device->backend->capture_begin) skip();
    uint64_t random = 36;
    ffn_path path;
    ffn_draw(&random, 5, &path);
    const size_t ids_bytes = (size_t)(path.given.tokens * path.choices) * sizeof *path.ids;
    uint16_t *want = test_allocate((size_t)path.elements * 2), *got = test_allocate((size_t)path.elements * 2);
    ffn_placed d;
    ffn_guarded_plan g;
    const moet_plan_options options = ffn_options(&path, true);
    void *stream, *graph;
    ffn_place(device, &path, false, &d);
    ffn_plan_create(handle, &path, &options, &g);
    TEST_OK(device->backend->stream_create(device, &stream));
    moet_ffn_args captured = d.args;
    captured.stream = stream;
    TEST_OK(device->backend->capture_begin(device, stream));
    moet_status status = moet_ffn(g.plan, &captured);
    TEST_OK(device->backend->capture_end(device, stream, &graph));
    TEST_OK(status);
    for (int32_t turn = 0; turn < 4; turn++) {
        for (int64_t i = 0; i < path.given.tokens * path.choices && turn; i++) /* each turn has fewer choices */
            if (test_between(&random, 0, 2) == 0) path.ids[i] = -1;
        TEST_OK(device->backend->upload(device, test_buffer_inside(&d.ids), path.ids, ids_bytes));
        ffn_run(&g, &d, &d.args, d.args.tokens, want);
        ffn_poison_out(&d);
        ffn_poison_workspace(&g);
        TEST_OK(device->backend->graph_launch(device, graph, stream));
        TEST_OK(device->backend->stream_synchronize(device, stream));
        ffn_read_out(&d, d.args.tokens, got);
        ffn_assert_same(&path, got, want, path.elements, "a replayed graph");
    }
    device->backend->graph_destroy(device, graph);
    device->backend->stream_destroy(device, stream);
    ffn_plan_free(&g);
    ffn_placed_free(&d);
    ffn_path_free(&path);
    free(want);
    free(got);
}

/* Decode after prefill: the first tokens of a large batch, 1, 2, 4 and 8 rows an expert, in a graph that is replayed,
 * have the bits that they had in the batch. */
static void test_decode(void **state)
{
    (void)state;
    if (!device->backend->capture_begin) skip();
    enum { EXPERTS = 8, CHOICES = 2, PREFILL = 1500 };
    uint64_t random = 37;
    ffn_path path;
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_FFN, EXPERTS, 1024, 512);
    problem.prob = MOET_PROB_ADVANCE;
    ffn_path_make(&path, PREFILL, CHOICES, problem);
    ffn_path_fill(&random, &path);
    uint16_t *want = test_allocate((size_t)path.elements * 2), *got = test_allocate((size_t)path.elements * 2);
    ffn_placed d;
    ffn_guarded_plan prefill;
    moet_plan_options options = ffn_options(&path, true);
    void *stream;
    ffn_place(device, &path, false, &d);
    ffn_plan_create(handle, &path, &options, &prefill);
    ffn_run(&prefill, &d, &d.args, PREFILL, want);
    TEST_OK(device->backend->stream_create(device, &stream));
    for (int32_t rows = 1; rows <= 8; rows *= 2) {
        ffn_guarded_plan decode;
        moet_ffn_args args = d.args;
        void *graph;
        args.tokens = options.max_tokens = rows * EXPERTS / CHOICES;
        args.stream = stream;
        options.max_rows = 0;
        ffn_plan_create(handle, &path, &options, &decode);
        TEST_OK(device->backend->capture_begin(device, stream));
        moet_status status = moet_ffn(decode.plan, &args);
        TEST_OK(device->backend->capture_end(device, stream, &graph));
        TEST_OK(status);
        for (int32_t replay = 0; replay < 2; replay++) {
            ffn_poison_out(&d);
            TEST_OK(device->backend->graph_launch(device, graph, stream));
            TEST_OK(device->backend->stream_synchronize(device, stream));
            ffn_read_out(&d, args.tokens, got);
            ffn_assert_same(&path, got, want, args.tokens * problem.hidden, "decode");
        }
        device->backend->graph_destroy(device, graph);
        ffn_plan_free(&decode);
    }
    device->backend->stream_destroy(device, stream);
    ffn_plan_free(&prefill);
    ffn_placed_free(&d);
    ffn_path_free(&path);
    free(want);
    free(got);
}

static void test_no_tokens_and_no_choices(void **state)
{
    (void)state;
    uint64_t random = 33;
    ffn_path path;
    ffn_draw(&random, 1, &path);
    for (int64_t i = 0; i < path.given.tokens * path.choices; i++) path.ids[i] = -1;
    ffn_placed d;
    ffn_place(device, &path, false, &d);
    assert_int_equal(d.rows, 0);
    uint16_t *got = test_allocate((size_t)path.elements * 2);
    for (int32_t on_device = 0; on_device < 2; on_device++) {
        const moet_plan_options options = ffn_options(&path, on_device);
        ffn_guarded_plan g;
        ffn_plan_create(handle, &path, &options, &g);
        ffn_run(&g, &d, &d.args, d.args.tokens, got);
        for (int64_t i = 0; i < path.elements; i++) assert_int_equal(got[i], 0);
        const moet_ffn_args nothing = {.counts = d.counts};
        ffn_run(&g, &d, &nothing, 0, got);
        moet_stats stats;
        moet_plan_stats_read(g.plan, &stats); /* nothing was looked up; the host does not see that there is nothing */
        assert_int_equal(stats.fallback, on_device);
        assert_true(stats.exact == 0 && stats.nearest == 0 && stats.refused == 0);
        ffn_plan_free(&g);
    }
    free(got);
    ffn_placed_free(&d);
    ffn_path_free(&path);
}

/* As many as there are sources. */
static void check_cubins(const moet_config *config, const moet_problem *problem, const void *prepared)
{
    const moet_cubin *list[MOET_MAX_CUBINS];
    const moet_device_info *info = &device->info;
    const moet_family *family = config->family;
    moet_source source;
    int32_t sources = 0;
    while (family->source && family->source(problem, config, info->cc_major, info->cc_minor, sources, &source))
        sources++;
    assert_int_equal(family->cubins ? family->cubins(prepared, list) : 0, sources);
}

/* Every family and configuration of this device gives the bits of the plan's. */
static void check_configs(uint64_t *random, ffn_path path)
{
    ffn_placed d;
    ffn_place(device, &path, false, &d);
    const moet_plan_options options = ffn_options(&path, true);
    ffn_guarded_plan g;
    ffn_plan_create(handle, &path, &options, &g);
    uint16_t *want = test_allocate((size_t)path.elements * 2), *got = test_allocate((size_t)path.elements * 2);
    ffn_run(&g, &d, &d.args, d.args.tokens, want);
    int32_t served = 0;
    for (int32_t f = 0; moet_families[f]; f++) {
        const moet_family *family = moet_families[f];
        moet_config config;
        if (!family->gemm || strcmp(family->backend, device->info.backend) != 0) continue;
        for (int64_t i = 0; i < config_count && ffn_draw_config(random, family, &path.problem, &device->info, &config);
             i++) {
            char text[MOET_CONFIG_SIZE];
            const bool on_device = i & 1;
            ffn_prepared p;
            moet_config_format(&config, text);
            ffn_prepare(device, &path, &g.plan->options, &config, on_device, &p);
            ffn_poison_out(&d);
            TEST_OK(ffn_prepared_launch(&p, &d.args, d.rows, NULL));
            ffn_read_out(&d, d.args.tokens, got);
            ffn_assert_same(&path, got, want, path.elements, text);
            check_cubins(&config, &path.problem, p.state);
            ffn_prepared_release(&p);
            served++;
        }
    }
    assert_true(served > 0);
    ffn_plan_free(&g);
    free(want);
    free(got);
    ffn_placed_free(&d);
    ffn_path_free(&path);
}

static void test_configs_agree(void **state)
{
    (void)state;
    uint64_t random = 34;
    for (int32_t i = 0; i < 3; i++) { /* each place of the router weight */
        ffn_path path;
        ffn_draw(&random, 3 * i + 1, &path);
        check_configs(&random, path);
    }
}

/* Kernels may be others for many experts. */
static void test_many_experts(void **state)
{
    (void)state;
    uint64_t random = 65;
    moet_problem problem;
    ffn_path path;
    moet_problem_init(&problem, MOET_OP_FFN, 65, 64, 48);
    problem.prob = MOET_PROB_ADVANCE;
    problem.bias = problem.down_bias = true;
    ffn_path_make(&path, 150, 6, problem);
    ffn_path_fill(&random, &path);
    check_configs(&random, path);
}

/* ---- refusals ---- */

static void test_refused_plans(void **state)
{
    (void)state;
    static const struct {
        moet_plan_options options;
        const char *words;
    } cases[] = {
        {{.choices = 2}, "max_tokens is 0"},
        {{.choices = 2, .max_tokens = MOET_MAX_ROWS + 1}, "max_tokens"},
        {{.max_tokens = 8}, "choices is 0"},
        {{.max_tokens = 8, .choices = MOET_MAX_CHOICES + 1}, "choices is 17"},
        {{.max_tokens = 8, .choices = 2, .max_rows = -1}, "max_rows"},
        {{.max_tokens = 8, .choices = 2, .expected_rows = 17}, "expected_rows"},
        {{.max_tokens = MOET_MAX_ROWS / 2 + 1, .choices = 2}, "say max_rows"}, /* not cut in silence */
    };
    moet_problem problem;
    moet_plan *plan;
    moet_problem_init(&problem, MOET_OP_FFN, 4, 64, 32);
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++)
        TEST_FAILS(MOET_INVALID, cases[i].words, moet_plan_create(handle, &problem, &cases[i].options, &plan));
    const moet_plan_options fine = {.max_tokens = 8, .choices = 6};
    TEST_OK(moet_plan_create(handle, &problem, &fine, &plan));
    assert_int_equal(plan->options.max_rows, 32); /* no more than four experts a token */
    moet_choice choice;
    const int32_t counts[4] = {1, 2, 3, 4};
    TEST_OK(moet_plan_query(plan, counts, &choice));
    TEST_CONTAINS(choice.config, "_ffn:act=");
    const moet_launch_args gemm = {.counts = counts};
    TEST_FAILS(MOET_INVALID, "launched by moet_ffn", moet_launch(plan, &gemm));
    moet_plan_destroy(plan);

    moet_problem_init(&problem, MOET_OP_DOWN, 4, 64, 32);
    const moet_plan_options rows = {.max_rows = 8};
    TEST_OK(moet_plan_create(handle, &problem, &rows, &plan));
    const moet_ffn_args ffn = {.counts = counts};
    const moet_permuted permuted = {0};
    TEST_FAILS(MOET_INVALID, "another op", moet_ffn(plan, &ffn));
    TEST_FAILS(MOET_INVALID, "another op", moet_permute(plan, &ffn, &permuted));
    TEST_FAILS(MOET_INVALID, "another op", moet_activate(plan, NULL, &permuted, NULL, NULL));
    TEST_FAILS(MOET_INVALID, "another op", moet_unpermute(plan, &ffn, NULL, &permuted));
    moet_plan_destroy(plan);
}

/* Everything wrong, one at a time; nothing is written. */
static void test_refused_launches(void **state)
{
    (void)state;
    uint64_t random = 35;
    ffn_path path;
    ffn_draw(&random, 6, &path);
    ffn_path_free(&path);
    path.problem.bias = path.problem.down_bias = true;
    path.problem.experts = 4;
    ffn_path_make(&path, 10, 3, path.problem);
    ffn_path_fill(&random, &path);
    assert_int_equal(path.problem.prob, MOET_PROB_COMBINE);
    ffn_placed d;
    ffn_place(device, &path, true, &d);
    const moet_plan_options options = ffn_options(&path, false);
    ffn_guarded_plan g;
    ffn_plan_create(handle, &path, &options, &g);
    const int32_t negative[4] = {0, -1, 0, 0}, many[4] = {10, 10, 10, 10}, most[4] = {11, 0, 0, 0};
#define REFUSE(change, words)                                                                                          \
    do {                                                                                                               \
        moet_ffn_args a = d.args;                                                                                      \
        change;                                                                                                        \
        TEST_FAILS(MOET_INVALID, words, moet_ffn(g.plan, &a));                                                         \
    } while (0)
#define SHIFTED(pointer, bytes) (void *)((char *)(uintptr_t)(pointer) + (bytes))
    ffn_poison_out(&d);
    const int32_t repeated[4] = {6, 6, 5, 5}; /* of 7 tokens with 3 choices */
    REFUSE((a.tokens = 7, a.counts = repeated), "7 tokens have 21 at most");
    REFUSE(a.x = NULL, "x is NULL");
    REFUSE(a.ids = NULL, "ids is NULL");
    REFUSE(a.weights = NULL, "weights is NULL");
    REFUSE(a.up = NULL, "up is NULL");
    REFUSE(a.up_bias = NULL, "up_bias is NULL");
    REFUSE(a.down = NULL, "down is NULL");
    REFUSE(a.down_bias = NULL, "down_bias is NULL");
    REFUSE(a.out = NULL, "out is NULL");
    REFUSE(a.counts = NULL, "counts are NULL");
    REFUSE(a.x = SHIFTED(a.x, 8), "x must be 16-byte");
    REFUSE(a.ids = SHIFTED(a.ids, 4), "ids must be 8-byte");
    REFUSE(a.weights = SHIFTED(a.weights, 2), "weights must be 4-byte");
    REFUSE(a.up = SHIFTED(a.up, 2), "up must be 16-byte");
    REFUSE(a.up_bias = SHIFTED(a.up_bias, 8), "up_bias must be 16-byte");
    REFUSE(a.down = SHIFTED(a.down, 4), "down must be 16-byte");
    REFUSE(a.down_bias = SHIFTED(a.down_bias, 8), "down_bias must be 16-byte");
    REFUSE(a.out = SHIFTED(a.out, 8), "out must be 16-byte");
    REFUSE(a.x = a.out, "out is x");
    REFUSE(a.x_stride = path.problem.hidden - 8, "x_stride");
    REFUSE(a.x_stride = path.problem.hidden + 4, "x_stride");
    REFUSE(a.x_stride = -a.x_stride, "x_stride");
    REFUSE(a.ids_stride = 2, "ids_stride");
    REFUSE(a.weights_stride = 2, "weights_stride");
    REFUSE(a.out_stride = path.problem.hidden + 1, "out_stride");
    REFUSE(a.tokens = -1, "-1 tokens");
    REFUSE(a.tokens = 11, "11 tokens");
    REFUSE(a.counts = negative, "expert 1 has -1 rows");
    REFUSE(a.counts = many, "counts sum to 40 rows");
    REFUSE(a.counts = most, "11 rows of 10 tokens");
    ffn_read_out(&d, 0, NULL);
    ffn_plan_free(&g);
    ffn_placed_free(&d);
    ffn_path_free(&path);
}

int main(int argc, char **argv)
{
    const test_option options[] = {
        {"--device", .text = &spec}, {"--paths", .number = &path_count}, {"--configs", .number = &config_count}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    if (moet_open(NULL, spec, &handle) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    device = handle->device;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_paths),  cmocka_unit_test(test_fewer_tokens_than_planned),
        cmocka_unit_test(test_replay),        cmocka_unit_test(test_no_tokens_and_no_choices),
        cmocka_unit_test(test_configs_agree), cmocka_unit_test(test_many_experts),
        cmocka_unit_test(test_refused_plans), cmocka_unit_test(test_refused_launches),
        cmocka_unit_test(test_decode),
    };
    int failed = cmocka_run_group_tests_name("ffn", tests, NULL, NULL);
    moet_close(handle);
    return failed;
}
