/* Numerics `fast` of the expert path is no less accurate than `train`, by every activation, place of the router weight
 * and family, on any device: the error against the path in double.
 *
 *   test_fast [--device SPEC] [--configs N]
 *
 * Train rounds the up GEMM's result to BF16, whose unit is 2^-8, before the activation; then both round the activation,
 * the down GEMM's result and the sum over experts. Fast may leave out the first of these and then has an activation
 * that is off by 2^-20 or so, which nobody sees beside 2^-8; where it leaves out nothing it is train, bit for bit. So
 * its root mean square error is that of train or less. A ratio of two such errors of N = 24576 independent elements
 * that are in truth equal is off by sqrt(1 / N) = 0.6 %: 2 % is three times that. An epilogue that keeps FP32 leaves
 * out two of four or five roundings of like size: about the root of a half of the error, 0.75 to 0.8 by the C reference
 * (test_limits); at most 0.9 is asked, which tells that it does. */
#include "ffn_run.h"

#include <math.h>

#include "../kernels/ffn_path.h"

static const char *spec = "host";
static int64_t config_count = 1;
static moet_handle *handle;
static moet_device *device; /* the handle's */

enum { EXPERTS = 4, TOKENS = 48, CHOICES = 2, HIDDEN = 512, INTER = 128 };
static const double no_worse = 1.02, better = 0.9;

static bool is_host(void) { return strcmp(device->info.backend, "host") == 0; }

/* A path in either numerics, with what is right and how far off either may be. */
typedef struct accuracy {
    ffn_path path;
    ffn_placed placed;
    double *exact, *bounds[MOET_NUMERICS_COUNT];
    uint16_t *bits[MOET_NUMERICS_COUNT];
} accuracy;

static void accuracy_open(accuracy *a, uint64_t *random, moet_problem problem)
{
    *a = (accuracy){0};
    ffn_path_make(&a->path, TOKENS, CHOICES, problem);
    ffn_path_fill(random, &a->path);
    for (int32_t t = 0; t < TOKENS * CHOICES; t++) /* two experts a token, but for every fourth */
        a->path.ids[t] = t % CHOICES == 0 ? t / CHOICES % EXPERTS : t % 8 == 1 ? -1 : (t / CHOICES + 1) % EXPERTS;
    ffn_place(device, &a->path, false, &a->placed);
    a->exact = test_allocate((size_t)a->path.elements * sizeof *a->exact);
    for (int32_t n = 0; n < MOET_NUMERICS_COUNT; n++) {
        a->bits[n] = test_allocate((size_t)a->path.elements * sizeof *a->bits[n]);
        a->bounds[n] = test_allocate((size_t)a->path.elements * sizeof *a->bounds[n]);
        problem.numerics = (moet_numerics)n;
        TEST_OK(moet_reference_ffn_double(&problem, CHOICES, &a->path.given, a->exact, a->bounds[n]));
    }
}

static void accuracy_close(accuracy *a)
{
    for (int32_t n = 0; n < MOET_NUMERICS_COUNT; n++) {
        free(a->bits[n]);
        free(a->bounds[n]);
    }
    free(a->exact);
    ffn_placed_free(&a->placed);
    ffn_path_free(&a->path);
}

/* The root mean square of the error, as a fraction of that of what is right. */
static double error_of(const accuracy *a, moet_numerics numerics)
{
    double errors = 0, squares = 0;
    for (int64_t i = 0; i < a->path.elements; i++) {
        const double off = (double)moet_bf16_to_float(a->bits[numerics][i]) - a->exact[i];
        errors += off * off;
        squares += a->exact[i] * a->exact[i];
    }
    return sqrt(errors / squares);
}

static void check_bound(const accuracy *a, moet_numerics numerics, const double *bound, const char *text)
{
    for (int64_t i = 0; i < a->path.elements; i++) {
        const double value = (double)moet_bf16_to_float(a->bits[numerics][i]);
        if (!(fabs(value - a->exact[i]) <= bound[i]))
            test_fail("%s: element %lld is %g, %g within %g expected", text, (long long)i, value, a->exact[i],
                      bound[i]);
    }
}

/* Both results are there. keeps: fast has FP32 from the up GEMM to the activation. The ratio of the errors. */
static double check(const accuracy *a, bool keeps, const char *text)
{
    char key[MOET_KEY_SIZE];
    const double train = error_of(a, MOET_NUMERICS_TRAIN), fast = error_of(a, MOET_NUMERICS_FAST);
    moet_problem_format(&a->path.problem, key);
    assert_true(train > 0x1p-12 && train < 0x1p-6); /* some roundings to BF16 */
    if (!(fast <= (keeps ? better : no_worse) * train))
        test_fail("%s: fast is off by %.3g of the result, train by %.3g: %.3f times, at most %.2f wanted (%s)", text,
                  fast, train, fast / train, keeps ? better : no_worse, key);
    check_bound(a, MOET_NUMERICS_TRAIN, a->bounds[MOET_NUMERICS_TRAIN], text);
    check_bound(a, MOET_NUMERICS_FAST, a->bounds[keeps ? MOET_NUMERICS_FAST : MOET_NUMERICS_TRAIN], text);
    return fast / train;
}

static bool keeps_fp32(const moet_config *config)
{
    return config->family->gemm->fuses_activation && config->value[MOET_PATH_ACT] == MOET_PATH_ACT_FUSED;
}

/* By moet_ffn, what a caller gets. */
static void check_plan(accuracy *a)
{
    moet_config config;
    for (int32_t n = 0; n < MOET_NUMERICS_COUNT; n++) {
        const moet_plan_options options = ffn_options(&a->path, n == MOET_NUMERICS_FAST);
        ffn_guarded_plan g;
        moet_choice choice;
        a->path.problem.numerics = (moet_numerics)n;
        ffn_plan_create(handle, &a->path, &options, &g);
        ffn_run(&g, &a->placed, &a->placed.args, TOKENS, a->bits[n]);
        TEST_OK(moet_plan_query(g.plan, a->placed.counts, &choice));
        TEST_OK(moet_config_parse(choice.config, &config));
        ffn_plan_free(&g);
    }
    check(a, keeps_fp32(&config), "moet_ffn");
}

/* One config in both. The ratio of the errors. */
static double check_config(accuracy *a, const moet_config *config)
{
    char text[MOET_CONFIG_SIZE];
    moet_plan_options options = ffn_options(&a->path, true);
    options.max_rows = a->placed.rows;
    moet_config_format(config, text);
    for (int32_t n = 0; n < MOET_NUMERICS_COUNT; n++) {
        ffn_prepared p;
        a->path.problem.numerics = (moet_numerics)n;
        ffn_prepare(device, &a->path, &options, config, true, &p);
        ffn_poison_out(&a->placed);
        TEST_OK(ffn_prepared_launch(&p, &a->placed.args, a->placed.rows, NULL));
        ffn_read_out(&a->placed, TOKENS, a->bits[n]);
        ffn_prepared_release(&p);
    }
    return check(a, keeps_fp32(config), text);
}

/* Of each family the default, and some by chance. */
static void check_families(accuracy *a, uint64_t *random, int32_t *checked)
{
    for (int32_t f = 0; moet_families[f]; f++) {
        const moet_family *family = moet_families[f];
        moet_config config = {.family = family};
        char why[MOET_REASON_SIZE];
        if (!family->gemm || strcmp(family->backend, device->info.backend) != 0) continue;
        family->default_config(&a->path.problem, a->placed.rows, &device->info, &config);
        for (int64_t i = 0; i < 1 + config_count; i++) {
            if (i > 0 && !ffn_draw_config(random, family, &a->path.problem, &device->info, &config)) break;
            a->path.problem.numerics = MOET_NUMERICS_FAST;
            if (!family->applicable(&a->path.problem, &config, &device->info, why)) continue;
            const double ratio = check_config(a, &config);
            if (i == 0) print_message("%s: %.3f of train's error\n", family->name, ratio);
            ++*checked;
        }
    }
}

static void test_fast_against_train(void **state)
{
    (void)state;
    uint64_t random = 61;
    int32_t checked = 0;
    for (int32_t i = 0; i < 3 * 2; i++) { /* each is compiled twice: no more */
        accuracy a;
        moet_problem problem;
        moet_problem_init(&problem, MOET_OP_FFN, EXPERTS, HIDDEN, INTER);
        problem.activation = (moet_activation)(MOET_ACTIVATION_SWIGLU + i % 3);
        problem.clamp = problem.activation == MOET_ACTIVATION_SWIGLU_CLAMP ? 4 : 0; /* a clamped value has no error */
        problem.prob = i / 3 ? MOET_PROB_COMBINE : MOET_PROB_ADVANCE;
        problem.layout = i / 3 ? MOET_LAYOUT_KN : MOET_LAYOUT_NK;
        problem.bias = problem.down_bias = i / 3;
        accuracy_open(&a, &random, problem);
        check_plan(&a);
        check_families(&a, &random, &checked);
        accuracy_close(&a);
    }
    assert_true(checked > 0);
}

/* What fast may do, done by the C reference, is below the limit for it; train's own result as fast's is not, nor does
 * one that is rounded once more pass for no worse: the limits tell these apart. */
static void test_limits(void **state)
{
    (void)state;
    if (!is_host()) skip();
    uint64_t random = 62;
    for (int32_t i = 0; i < 3; i++) {
        accuracy a;
        moet_problem problem;
        moet_problem_init(&problem, MOET_OP_FFN, EXPERTS, HIDDEN, INTER);
        problem.activation = (moet_activation)(MOET_ACTIVATION_SWIGLU + i);
        problem.clamp = problem.activation == MOET_ACTIVATION_SWIGLU_CLAMP ? 4 : 0; /* a clamped value has no error */
        accuracy_open(&a, &random, problem);
        a.path.given.out = a.bits[MOET_NUMERICS_TRAIN];
        TEST_OK(moet_reference_ffn_train(&problem, CHOICES, &a.path.given));
        a.path.given.out = a.bits[MOET_NUMERICS_FAST];
        ffn_path_fast(&a.path, a.bits[MOET_NUMERICS_FAST]);
        print_message("activation %d: %.3f of train's error\n", problem.activation, check(&a, true, "the reference"));
        const double train = error_of(&a, MOET_NUMERICS_TRAIN);
        memcpy(a.bits[MOET_NUMERICS_FAST], a.bits[MOET_NUMERICS_TRAIN], (size_t)a.path.elements * 2);
        for (int64_t j = 0; j < a.path.elements; j++) { /* once more, by truncation of one bit */
            a.bits[MOET_NUMERICS_FAST][j] &= 0xfffe;
        }
        assert_true(error_of(&a, MOET_NUMERICS_FAST) > no_worse * train);
        accuracy_close(&a);
    }
}

int main(int argc, char **argv)
{
    const test_option options[] = {{"--device", .text = &spec}, {"--configs", .number = &config_count}};
    test_options_parse(argc, argv, options, MOET_COUNT_OF(options));
    if (moet_open(NULL, spec, &handle) != MOET_OK) {
        fprintf(stderr, "%s\n", moet_last_error());
        return 1;
    }
    device = handle->device;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fast_against_train), cmocka_unit_test(test_limits)};
    int failed = cmocka_run_group_tests_name("fast", tests, NULL, NULL);
    moet_close(handle);
    return failed;
}
