/* bench of op FFN on the host: the choices that it draws, that right paths pass and wrong ones do not. */
#include "test.h"

#include "../bench/bench.h"

enum { E = 6, H = 64, I = 32, ROWS = 64 };
static const int32_t counts[E] = {20, 0, 30, 6, 7, 1};

static moet_device *host;
static moet_handle *handle;
static moet_bench *bench;
static moet_problem problem;

static int group_open(void **state)
{
    (void)state;
    moet_problem_init(&problem, MOET_OP_FFN, E, H, I);
    problem.prob = MOET_PROB_ADVANCE;
    problem.bias = problem.down_bias = true;
    return moet_device_open("host", &host) != MOET_OK || moet_open(NULL, "host", &handle) != MOET_OK ||
           moet_bench_create(host, 7, false, &bench) != MOET_OK;
}

static int group_close(void **state)
{
    (void)state;
    moet_bench_destroy(bench);
    moet_close(handle);
    moet_device_close(host);
    return 0;
}

/* ---- launchers ---- */

typedef enum flaw {
    NONE,
    ONE_ELEMENT,
    TOKENS_SWAPPED,
    UNWRITTEN_TOKEN,
    LOST_WEIGHTS,
    LOST_BIAS,
    LOST_CHOICE,
    PAST_THE_END,
    FAILS,
    FLAW_COUNT
} flaw;

typedef struct launcher {
    flaw flaw;
    moet_plan *plan;
    int32_t choices;
} launcher;

/* What the bench draws: each expert its counts, a token no expert twice, tokens with one expert more than others at
 * most. */
static void check_choices(const launcher *l, const moet_ffn_args *args)
{
    const int32_t *ids = args->ids;
    int32_t found[E] = {0}, least = INT32_MAX, most = 0;
    for (int64_t t = 0; t < args->tokens; t++) {
        int32_t load = 0, taken[E] = {0};
        for (int32_t i = 0; i < l->choices; i++) {
            int32_t id = ids[t * l->choices + i];
            float weight = args->weights[t * l->choices + i];
            assert_true(weight > 0 && weight <= 1);
            assert_true(id >= -1 && id < E);
            if (id < 0) continue;
            assert_int_equal(taken[id]++, 0);
            found[id]++;
            load++;
        }
        least = load < least ? load : least;
        most = load > most ? load : most;
    }
    assert_memory_equal(found, counts, sizeof found);
    assert_true(most - least <= 1);
}

static moet_status launch(void *context, const moet_ffn_args *given)
{
    const launcher *l = context;
    moet_ffn_args args = *given;
    uint16_t *out = args.out, row[H];
    int32_t ids[ROWS * MOET_MAX_CHOICES], fewer[E];
    float weights[ROWS * MOET_MAX_CHOICES];
    _Alignas(16) static const uint16_t no_bias[E * 2 * I];
    check_choices(l, given);
    memcpy(row, out + 5 * H, sizeof row);
    if (l->flaw == FAILS) return moet_fail(MOET_DEVICE, "this launcher always fails");
    if (l->flaw == LOST_WEIGHTS) {
        for (int32_t i = 0; i < MOET_COUNT_OF(weights); i++) weights[i] = 1;
        args.weights = weights;
    }
    if (l->flaw == LOST_BIAS) args.up_bias = no_bias;
    if (l->flaw == LOST_CHOICE) {
        int64_t at = 0;
        memcpy(ids, args.ids, (size_t)(args.tokens * l->choices) * sizeof *ids);
        memcpy(fewer, counts, sizeof fewer);
        while (ids[at] < 0) at++;
        fewer[ids[at]]--;
        ids[at] = -1;
        args.ids = ids;
        if (args.counts) args.counts = fewer;
    }
    MOET_TRY(moet_ffn(l->plan, &args));
    switch (l->flaw) {
    case ONE_ELEMENT:
        out[3 * H + 17] ^= 0x0040; /* half of it */
        break;
    case TOKENS_SWAPPED:
        memcpy(row, out, sizeof row);
        memcpy(out, out + H, sizeof row);
        memcpy(out + H, row, sizeof row);
        break;
    case UNWRITTEN_TOKEN:
        memcpy(out + 5 * H, row, sizeof row);
        break;
    case PAST_THE_END:
        out[args.tokens * H] = 0x3f80;
        break;
    default:
        break;
    }
    return MOET_OK;
}

static moet_plan *plan_for(bool device_counts, int32_t *choices)
{
    moet_plan_options options = {.max_rows = ROWS, .device_counts = device_counts};
    moet_plan *plan;
    moet_bench_path_size(bench, &options.max_tokens, &options.choices);
    *choices = options.choices;
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    return plan;
}

static void check(int32_t subject, moet_trial_status expected, const char *words)
{
    moet_trial trial;
    TEST_OK(moet_bench_trial(bench, subject, &trial));
    if (trial.status != expected)
        test_fail("%s: %s expected, %s found (%s)", trial.config, moet_trial_status_name(expected),
                  moet_trial_status_name(trial.status), trial.reason);
    if (words) TEST_CONTAINS(trial.reason, words);
    if (expected == MOET_TRIAL_OK) assert_true(trial.error <= 1 && trial.bit_class[0]);
    moet_trial_release(&trial);
}

/* 64 rows: one, two, and at most three local experts a token; tokens without any. */
static const int64_t token_counts[] = {0, 32, 30, 200};

static void test_flaws_are_found(void **state)
{
    (void)state;
    static const moet_trial_status expected[FLAW_COUNT] = {[NONE] = MOET_TRIAL_OK,
                                                           [ONE_ELEMENT] = MOET_TRIAL_WRONG,
                                                           [TOKENS_SWAPPED] = MOET_TRIAL_WRONG,
                                                           [UNWRITTEN_TOKEN] = MOET_TRIAL_WRONG,
                                                           [LOST_WEIGHTS] = MOET_TRIAL_WRONG,
                                                           [LOST_BIAS] = MOET_TRIAL_WRONG,
                                                           [LOST_CHOICE] = MOET_TRIAL_WRONG,
                                                           [PAST_THE_END] = MOET_TRIAL_WRONG,
                                                           [FAILS] = MOET_TRIAL_FAILED};
    for (int32_t i = 0; i < 2; i++) { /* tokens that all have a row: swapping two of zeros is no flaw */
        TEST_OK(moet_bench_set_workload(bench, &problem, counts, token_counts[i]));
        for (int32_t f = 0; f < 2 * FLAW_COUNT; f++) {
            const bool device_counts = f >= FLAW_COUNT;
            launcher l = {.flaw = (flaw)(f % FLAW_COUNT)};
            int32_t subject;
            char name[32];
            snprintf(name, sizeof name, "flaw %d", l.flaw);
            l.plan = plan_for(device_counts, &l.choices);
            TEST_OK(moet_bench_add_path_launcher(bench, name, launch, &l, false, device_counts, &subject));
            check(subject, expected[l.flaw], l.flaw == FAILS ? "always fails" : NULL);
            if (l.flaw == UNWRITTEN_TOKEN) check(subject, MOET_TRIAL_WRONG, "at token 5");
            moet_bench_retire(bench, subject);
            moet_plan_destroy(l.plan);
        }
    }
}

/* The same bits by any config and kind of counts, whatever tokens share. */
static void test_configs(void **state)
{
    (void)state;
    for (int32_t i = 0; i < MOET_COUNT_OF(token_counts); i++) {
        char bit_class[MOET_SHA256_TEXT_SIZE] = "";
        moet_config config;
        TEST_OK(moet_bench_set_workload(bench, &problem, counts, token_counts[i]));
        TEST_OK(moet_default_config(&problem, ROWS, false, &host->info, &config));
        for (int32_t device_counts = 0; device_counts < 2; device_counts++) {
            for (int32_t act = 0; act < 2; act++) {
                int32_t subject;
                char why[MOET_REASON_SIZE];
                moet_trial trial;
                moet_config_set(&config, "act", act ? "pass" : "fused");
                if (!config.family->applicable(&problem, &config, &host->info, why)) continue;
                TEST_OK(moet_bench_add_config(bench, &config, device_counts, &subject));
                TEST_OK(moet_bench_round(bench));
                check(subject, MOET_TRIAL_OK, NULL);
                TEST_OK(moet_bench_trial(bench, subject, &trial));
                assert_true(trial.median_ns > 0);
                if (bit_class[0]) assert_string_equal(trial.bit_class, bit_class);
                snprintf(bit_class, sizeof bit_class, "%s", trial.bit_class);
                moet_trial_release(&trial);
            }
        }
        assert_true(bit_class[0]);
    }
}

/* Too large for the C reference in full: a few tokens by it, the rest by the stages. */
static void test_large(void **state)
{
    (void)state;
    moet_problem large = problem;
    moet_config config;
    int32_t subject;
    large.hidden = 512;
    large.inter = 256;
    for (int32_t i = 0; i < MOET_LAYOUT_COUNT; i++) {
        large.layout = (moet_layout)i;
        TEST_OK(moet_bench_set_workload(bench, &large, counts, token_counts[i]));
        TEST_OK(moet_default_config(&large, ROWS, true, &host->info, &config));
        TEST_OK(moet_bench_add_config(bench, &config, true, &subject));
        check(subject, MOET_TRIAL_OK, NULL);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const int32_t none[E];
    static const int32_t one_each[17] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    moet_problem many = problem, gemm = moet_problem_gemm(&problem, MOET_OP_UP);
    launcher l = {0};
    int64_t tokens;
    int32_t subject;
    moet_config config;
    TEST_FAILS(MOET_INVALID, "30 rows", moet_bench_set_workload(bench, &problem, counts, 29));
    TEST_FAILS(MOET_INVALID, "tokens", moet_bench_set_workload(bench, &problem, counts, -1));
    many.experts = 17;
    TEST_FAILS(MOET_UNSUPPORTED, "17 experts a token", moet_bench_set_workload(bench, &many, one_each, 1));
    TEST_OK(moet_bench_set_workload(bench, &many, one_each, 2)); /* nine of one token */
    moet_bench_path_size(bench, &tokens, &l.choices);
    assert_int_equal(tokens, 2);
    assert_int_equal(l.choices, 9);
    TEST_OK(moet_bench_set_workload(bench, &problem, none, 3)); /* zeros out */
    TEST_OK(moet_default_config(&problem, ROWS, false, &host->info, &config));
    TEST_OK(moet_bench_add_config(bench, &config, false, &subject));
    check(subject, MOET_TRIAL_OK, NULL);
    TEST_OK(moet_default_config(&gemm, ROWS, false, &host->info, &config));
    TEST_OK(moet_bench_add_config(bench, &config, false, &subject));
    check(subject, MOET_TRIAL_INAPPLICABLE, "op ffn");
    TEST_OK(moet_bench_set_workload(bench, &gemm, counts, 0));
    TEST_FAILS(MOET_INVALID, "op ffn only",
               moet_bench_add_path_launcher(bench, "path", launch, &l, false, false, &subject));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flaws_are_found),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("bench of paths", tests, group_open, group_close);
}
