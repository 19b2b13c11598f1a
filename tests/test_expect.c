/* Counts on the device: what the kernel says of them, and what a plan then chooses.
 *
 *   test_expect [--device host]
 */
#include "table_text.h"
#include "test.h"

#include <math.h>

#include "../kernels/reference.h"

static const char *spec = "host";
static moet_device *device;

/* ---- summaries, on any device ---- */

static void draw_counts(uint64_t *random, int32_t experts, int32_t *counts)
{
    const int64_t most = test_between(random, 0, 3) == 0 ? 3 : 1000;
    for (int32_t e = 0; e < experts; e++) counts[e] = (int32_t)test_between(random, -most / 3, most); /* many idle */
}

/* What the host says of them, which takes no negative ones. */
static moet_routing expected_of(const int32_t *counts, int32_t experts)
{
    int32_t clean[MOET_MAX_EXPERTS];
    moet_routing routing;
    for (int32_t e = 0; e < experts; e++) clean[e] = counts[e] > 0 ? counts[e] : 0;
    TEST_OK(moet_routing_summarize(clean, experts, &routing));
    return routing;
}

static void assert_routing(const moet_routing *got, const moet_routing *wanted, int32_t experts)
{
    if (got->experts != wanted->experts || got->active != wanted->active || got->rows != wanted->rows ||
        got->max != wanted->max || got->tokens != wanted->tokens || !(got->max_over_mean == wanted->max_over_mean))
        test_fail("%d experts: %d active, %lld rows, max %d, %.17g; not %d, %lld, %d, %.17g", experts, got->active,
                  (long long)got->rows, got->max, got->max_over_mean, wanted->active, (long long)wanted->rows,
                  wanted->max, wanted->max_over_mean);
}

typedef struct fixture {
    moet_handle *handle;
    moet_plan *plan;
    void *counts, *routing, *stream;
} fixture;

static fixture fixture_open(int32_t experts)
{
    fixture f = {0};
    moet_problem small;
    const moet_plan_options options = {.max_rows = 64, .device_counts = true};
    moet_problem_init(&small, MOET_OP_UP, experts, 64, 32);
    TEST_OK(moet_open(NULL, spec, &f.handle));
    TEST_OK(moet_plan_create(f.handle, &small, &options, &f.plan));
    TEST_OK(device->backend->alloc(device, MOET_MAX_EXPERTS * sizeof(int32_t), &f.counts));
    TEST_OK(device->backend->alloc(device, sizeof(moet_routing), &f.routing));
    TEST_OK(device->backend->stream_create(device, &f.stream));
    return f;
}

static void fixture_close(fixture *f)
{
    device->backend->stream_destroy(device, f->stream);
    device->backend->free(device, f->counts);
    device->backend->free(device, f->routing);
    moet_plan_destroy(f->plan);
    moet_close(f->handle);
}

static moet_routing fetch(const fixture *f)
{
    moet_routing routing;
    TEST_OK(device->backend->stream_synchronize(device, f->stream));
    TEST_OK(device->backend->download(device, &routing, f->routing, sizeof routing));
    return routing;
}

static void test_summaries(void **state)
{
    (void)state;
    static const int32_t numbers[] = {1, 2, 31, 33, 255, 256, 257, 1000, MOET_MAX_EXPERTS};
    uint64_t random = 11;
    for (int32_t n = 0; n < MOET_COUNT_OF(numbers); n++) {
        const int32_t experts = numbers[n];
        fixture f = fixture_open(experts);
        for (int32_t i = 0; i < 20; i++) {
            int32_t counts[MOET_MAX_EXPERTS];
            draw_counts(&random, experts, counts);
            if (i == 0) memset(counts, 0, sizeof counts);
            const moet_routing wanted = expected_of(counts, experts);
            TEST_OK(device->backend->upload(device, f.counts, counts, (size_t)experts * sizeof *counts));
            TEST_OK(device->backend->fill(device, f.routing, 0xff, sizeof(moet_routing)));
            TEST_OK(moet_plan_summarize(f.plan, f.counts, f.routing, f.stream));
            const moet_routing got = fetch(&f);
            assert_routing(&got, &wanted, experts);
        }
        fixture_close(&f);
    }
}

/* Each replay of a graph summarises the counts of that moment. */
static void test_captured(void **state)
{
    (void)state;
    enum { EXPERTS = 40 };
    uint64_t random = 12;
    void *graph = NULL;
    if (!device->backend->capture_begin) skip();
    fixture f = fixture_open(EXPERTS);
    TEST_OK(device->backend->fill(device, f.counts, 0, EXPERTS * sizeof(int32_t)));
    TEST_OK(moet_plan_summarize(f.plan, f.counts, f.routing, f.stream)); /* loads the kernel */
    TEST_OK(device->backend->stream_synchronize(device, f.stream));
    TEST_OK(device->backend->capture_begin(device, f.stream));
    const moet_status status = moet_plan_summarize(f.plan, f.counts, f.routing, f.stream);
    TEST_OK(device->backend->capture_end(device, f.stream, &graph));
    TEST_OK(status);
    for (int32_t i = 0; i < 5; i++) {
        int32_t counts[EXPERTS];
        draw_counts(&random, EXPERTS, counts);
        const moet_routing wanted = expected_of(counts, EXPERTS);
        TEST_OK(device->backend->upload(device, f.counts, counts, sizeof counts));
        TEST_OK(device->backend->graph_launch(device, graph, f.stream));
        const moet_routing got = fetch(&f);
        assert_routing(&got, &wanted, EXPERTS);
    }
    device->backend->graph_destroy(device, graph);
    fixture_close(&f);
}

/* ---- what a plan chooses, on the host ---- */

enum { E = 4, H = 64, I = 32, N = 2 * I, max_rows = 2048 };
static uint16_t x[max_rows * H] __attribute__((aligned(64))), w[E * N * H] __attribute__((aligned(64))),
    out[max_rows * N] __attribute__((aligned(64))), want[max_rows * N];
static const int32_t few[E] = {8, 8, 8, 8}, many[E] = {300, 300, 300, 300}, hot[E] = {1191, 3, 3, 3};
static moet_problem problem;
static char texts[3][MOET_CONFIG_SIZE], validators[3][64];

/* The index-th config of host_tile that is not the default. */
static text_winner winner(int32_t index)
{
    moet_config config, fallback;
    char why[MOET_REASON_SIZE];
    TEST_OK(moet_default_config(&problem, max_rows, true, &device->info, &fallback));
    moet_config_first(fallback.family, &config);
    for (int32_t left = index;;) {
        if (!moet_config_equal(&config, &fallback) &&
            config.family->applicable(&problem, &config, &device->info, why) && left-- == 0)
            return text_winner_of(&config, texts[index], validators[index], 1000 + index);
        assert_true(moet_config_next(&config));
    }
}

static const char *chosen(const moet_plan *plan)
{
    static moet_choice choice;
    TEST_OK(moet_plan_query(plan, NULL, &choice));
    return choice.config;
}

static void launch_right(moet_plan *plan, const int32_t *counts)
{
    const moet_routing routing = expected_of(counts, E);
    const moet_launch_args args = {.x = x, .w = w, .out = out, .counts = counts};
    memset(out, 0xff, sizeof out);
    TEST_OK(moet_launch(plan, &args));
    moet_reference_gemm(&problem, x, w, NULL, counts, want);
    for (int64_t i = 0; i < routing.rows * N; i++) {
        if (!(moet_bf16_to_float(out[i]) == moet_bf16_to_float(want[i]))) test_fail("out[%lld]", (long long)i);
    }
}

/* What one step's counts were is what the next runs, whatever its own. */
static void test_expect_follows(void **state)
{
    (void)state;
    uint64_t random = 5;
    char folder[256];
    moet_handle *handle;
    moet_plan *plan;
    moet_routing routing;
    moet_stats stats;
    if (strcmp(device->backend->name, "host") != 0) skip();
    moet_problem_init(&problem, MOET_OP_UP, E, H, I);
    for (int32_t i = 0; i < max_rows * H; i++) x[i] = moet_bf16_from_float((float)test_between(&random, -2, 2));
    for (int32_t i = 0; i < E * N * H; i++) w[i] = moet_bf16_from_float((float)test_between(&random, -2, 2));
    const text_point points[] = {{.counts = few, .any = winner(0), .device_counts = winner(0)},
                                 {.counts = many, .any = winner(1), .device_counts = winner(1)},
                                 {.counts = hot, .any = winner(2), .device_counts = winner(2)}};
    char *text = text_table(device, &problem, points, MOET_COUNT_OF(points), NULL, 0);
    test_folder_make(folder);
    text_write(folder, text);
    free(text);
    TEST_OK(moet_open(folder, "host", &handle));
    const moet_plan_options options = {.max_rows = max_rows, .device_counts = true, .expected_rows = 32};
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    assert_string_equal(chosen(plan), texts[0]);
    for (int32_t i = 0; i < 3; i++) {
        const int32_t next = (i + 1) % 3;
        launch_right(plan, points[next].counts);
        TEST_OK(moet_plan_summarize(plan, points[next].counts, &routing, NULL));
        assert_string_equal(chosen(plan), texts[i]); /* not before it is told */
        TEST_OK(moet_plan_expect(plan, &routing));
        assert_string_equal(chosen(plan), texts[next]);
        launch_right(plan, points[i].counts);
        launch_right(plan, points[next].counts);
    }
    /* Nothing, and more than the bound. */
    TEST_OK(moet_plan_expect(plan, &(moet_routing){.experts = E, .max_over_mean = 1}));
    assert_string_equal(chosen(plan), texts[0]);
    TEST_OK(moet_plan_expect(plan, &(moet_routing){.experts = E, .rows = 1 << 20, .max_over_mean = 1}));
    assert_string_equal(chosen(plan), texts[1]);
    /* What is none leaves it as it was. */
    static const struct {
        moet_routing routing;
        const char *words;
    } wrong[] = {{{.experts = 3, .rows = 8, .max_over_mean = 1}, "3 experts, the plan of 4"},
                 {{.experts = E, .rows = -1, .max_over_mean = 1}, "-1 rows"},
                 {{.experts = E, .rows = 32, .max_over_mean = 0.5}, "max_over_mean of 0.5"},
                 {{.experts = E, .rows = 32, .max_over_mean = NAN}, "no routing"},
                 {{.experts = E, .rows = 32, .max_over_mean = 1e9}, "no routing"}};
    for (int32_t i = 0; i < MOET_COUNT_OF(wrong); i++)
        TEST_FAILS(MOET_INVALID, wrong[i].words, moet_plan_expect(plan, &wrong[i].routing));
    TEST_FAILS(MOET_INVALID, "NULL", moet_plan_expect(plan, NULL));
    TEST_FAILS(MOET_INVALID, "NULL", moet_plan_summarize(plan, NULL, &routing, NULL));
    TEST_FAILS(MOET_INVALID, "NULL", moet_plan_summarize(plan, few, NULL, NULL));
    TEST_FAILS(MOET_INVALID, "aligned", moet_plan_summarize(plan, few, (void *)((char *)&routing + 4), NULL));
    assert_string_equal(chosen(plan), texts[1]);
    launch_right(plan, few);
    moet_plan_stats_read(plan, &stats);
    assert_int_equal(stats.exact + stats.nearest, 10);
    moet_plan_destroy(plan);
    /* Host counts: each launch sees them. */
    TEST_OK(moet_plan_create(handle, &problem, &(moet_plan_options){.max_rows = max_rows}, &plan));
    TEST_FAILS(MOET_INVALID, "host memory", moet_plan_expect(plan, &wrong[0].routing));
    TEST_FAILS(MOET_INVALID, "host memory", moet_plan_summarize(plan, few, &routing, NULL));
    moet_plan_destroy(plan);
    moet_close(handle);
    test_folder_remove(folder);
}

int main(int argc, char **argv)
{
    const test_option options[] = {{.name = "--device", .text = &spec}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    unsetenv("MOET_TABLE");
    if (moet_device_open(spec, &device) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_summaries),
        cmocka_unit_test(test_captured),
        cmocka_unit_test(test_expect_follows),
    };
    const int failed = cmocka_run_group_tests_name("expect", tests, NULL, NULL);
    moet_device_close(device);
    return failed;
}
