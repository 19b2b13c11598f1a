/* bench on the host: statistics, that a wrong launch is found, that times are times. */
#include "test.h"

#include <time.h>

#include "../bench/bench.h"
#include "../kernels/reference.h"

static moet_device *host;
static moet_bench *bench;
static moet_problem problem;
static const int32_t counts[] = {20, 0, 33, 3};

static int group_open(void **state)
{
    (void)state;
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    if (moet_device_open("host", &host) != MOET_OK) return 1;
    return moet_bench_create(host, 7, false, &bench) != MOET_OK ||
           moet_bench_set_workload(bench, &problem, counts, 0) != MOET_OK;
}

static int group_close(void **state)
{
    (void)state;
    moet_bench_destroy(bench);
    moet_device_close(host);
    return 0;
}

/* Rounds end at the asked noise, or when it has stopped falling, not before. */
static void test_settled(void **state)
{
    (void)state;
    static const double falling[] = {0.08, 0.06, 0.05, 0.04, 0.03, 0.025, 0.02}, flat[] = {0.05, 0.04, 0.03, 0.03, 0.03,
                                                                                           0.03, 0.03};
    assert_false(moet_stats_is_settled(falling, 0, 0.01));
    for (int32_t i = 1; i <= 7; i++) {
        assert_int_equal(moet_stats_is_settled(falling, i, 0.01), false);
        assert_int_equal(moet_stats_is_settled(falling, i, 0.03), i >= 5);
        assert_int_equal(moet_stats_is_settled(flat, i, 0.01), i >= 7);
    }
}

static void test_stats(void **state)
{
    (void)state;
    const int64_t one[] = {7}, odd[] = {5, 1, 9, 3, 7}, even[] = {4, 1, 3, 2};
    assert_int_equal(moet_stats_median(one, 1), 7);
    assert_int_equal(moet_stats_iqr(one, 1), 0);
    assert_int_equal(moet_stats_median(odd, 5), 5);
    assert_int_equal(moet_stats_iqr(odd, 5), 7 - 3); /* sorted[15/4] - sorted[5/4] */
    assert_int_equal(moet_stats_median(even, 4), 3); /* sorted[4 * 2 / 4] */
    assert_int_equal(odd[0], 5);                     /* inputs stay */
    uint64_t random = 1;
    for (int32_t i = 0; i < 200; i++) { /* order does not matter */
        int64_t values[9], turned[9];
        for (int32_t j = 0; j < 9; j++) values[j] = test_between(&random, 0, 20);
        for (int32_t j = 0; j < 9; j++) turned[j] = values[(j * 4 + 5) % 9];
        assert_int_equal(moet_stats_median(values, 9), moet_stats_median(turned, 9));
        assert_int_equal(moet_stats_iqr(values, 9), moet_stats_iqr(turned, 9));
        assert_true(moet_stats_iqr(values, 9) >= 0);
    }
    int64_t before = moet_clock_ns();
    assert_true(moet_clock_ns() >= before && before > 0);
}

static void test_trial_status(void **state)
{
    (void)state;
    for (int32_t i = 0; i < MOET_TRIAL_STATUS_COUNT; i++) {
        moet_trial_status parsed;
        TEST_OK(moet_trial_status_parse(moet_trial_status_name((moet_trial_status)i), &parsed));
        assert_int_equal(parsed, i);
    }
    moet_trial_status parsed;
    assert_int_not_equal(moet_trial_status_parse("fine", &parsed), MOET_OK);
}

/* ---- launchers with a flaw ---- */

typedef enum flaw {
    NONE,
    ONE_ELEMENT,
    ROWS_SWAPPED,
    UNWRITTEN_ROW,
    SLOPPY_ROUNDING,
    PAST_THE_END,
    FAILS,
    FLAW_COUNT
} flaw;
typedef struct launcher {
    flaw flaw;
    int32_t busy_us;
} launcher;

static moet_status launch(void *context, const moet_launch_args *args)
{
    const launcher *l = context;
    int64_t end = moet_clock_ns() + (int64_t)1000 * l->busy_us;
    int64_t n = moet_problem_n(&problem), rows = 56;
    uint16_t *out = args->out, row[64];
    assert_true(n <= MOET_COUNT_OF(row));
    if (l->flaw == FAILS) return moet_fail(MOET_DEVICE, "this launcher always fails");
    memcpy(row, out + 5 * n, sizeof row);
    moet_reference_gemm(&problem, args->x, args->w, args->bias, counts, out);
    switch (l->flaw) {
    case ONE_ELEMENT:
        out[55 * n + 17] ^= 0x0008;
        break; /* 3 % off */
    case ROWS_SWAPPED:
        memcpy(row, out, sizeof row);
        memcpy(out, out + n, sizeof row);
        memcpy(out + n, row, sizeof row);
        break;
    case UNWRITTEN_ROW:
        memcpy(out + 5 * n, row, sizeof row);
        break;
    case SLOPPY_ROUNDING:
        for (int64_t i = 0; i < rows * n; i++) out[i] = (uint16_t)(out[i] + 3);
        break;
    case PAST_THE_END:
        out[rows * n] = 0x3f80;
        break;
    default:
        break;
    }
    while (moet_clock_ns() < end) {
    }
    return MOET_OK;
}

static void test_flaws_are_found(void **state)
{
    (void)state;
    static const moet_trial_status expected[FLAW_COUNT] = {[NONE] = MOET_TRIAL_OK,
                                                           [ONE_ELEMENT] = MOET_TRIAL_WRONG,
                                                           [ROWS_SWAPPED] = MOET_TRIAL_WRONG,
                                                           [UNWRITTEN_ROW] = MOET_TRIAL_WRONG,
                                                           [SLOPPY_ROUNDING] = MOET_TRIAL_WRONG,
                                                           [PAST_THE_END] = MOET_TRIAL_WRONG,
                                                           [FAILS] = MOET_TRIAL_FAILED};
    static launcher launchers[FLAW_COUNT];
    for (int32_t f = 0; f < FLAW_COUNT; f++) {
        int32_t subject;
        moet_trial trial;
        launchers[f].flaw = (flaw)f;
        TEST_OK(moet_bench_add_launcher(bench, "by hand", launch, &launchers[f], false, false, &subject));
        TEST_OK(moet_bench_trial(bench, subject, &trial));
        if (trial.status != expected[f])
            test_fail("flaw %d: %s expected, %s found (%s)", f, moet_trial_status_name(expected[f]),
                      moet_trial_status_name(trial.status), trial.reason);
        assert_int_equal(trial.status == MOET_TRIAL_OK, !trial.reason[0]);
        if (f == NONE) assert_true(trial.error <= 1);
        if (f == FAILS) TEST_CONTAINS(trial.reason, "always fails");
        assert_int_equal(moet_bench_active(bench, subject), trial.status == MOET_TRIAL_OK);
        moet_trial_release(&trial);
        moet_bench_retire(bench, subject);
        assert_false(moet_bench_active(bench, subject));
    }
}

/* A launch of a known length, among others: its time is that length. */
static void test_times(void **state)
{
    (void)state;
    static launcher slow;
    int32_t subject, config_subject;
    moet_config config;
    TEST_OK(moet_bench_set_workload(bench, &problem, counts, 0));
    TEST_OK(moet_default_config(&problem, 64, false, &host->info, &config));
    TEST_OK(moet_bench_add_config(bench, &config, false, &config_subject));
    slow = (launcher){.flaw = NONE};
    TEST_OK(moet_bench_add_launcher(bench, "2 ms", launch, &slow, false, false, &subject));
    assert_int_equal(moet_bench_subject_count(bench), 2);
    slow.busy_us = 2000;
    assert_int_equal(moet_bench_median_ns(bench, subject), 0);
    bool is_quiet = false; /* a busy machine is slower, not ten times, and not for ever */
    for (int32_t nth = 0; nth < 5 && !is_quiet; nth++) {
        moet_bench_clear_samples(bench);
        for (int32_t i = 0; i < 7; i++) TEST_OK(moet_bench_round(bench));
        assert_true(moet_bench_median_ns(bench, subject) >= 2000000);
        is_quiet =
            moet_bench_median_ns(bench, subject) < 20000000 && moet_bench_median_ns(bench, config_subject) < 50000000;
    }
    assert_true(is_quiet);
    moet_trial trial;
    TEST_OK(moet_bench_trial(bench, subject, &trial));
    assert_int_equal(trial.sample_count, 7);
    assert_int_equal(trial.median_ns, moet_bench_median_ns(bench, subject));
    for (int32_t i = 0; i < 7; i++) assert_true(trial.samples[i].time_ns >= 2000000);
    moet_trial_release(&trial);
    TEST_OK(moet_bench_trial(bench, config_subject, &trial));
    assert_int_equal(trial.status, MOET_TRIAL_OK);
    assert_true(trial.median_ns > 0 && trial.median_ns < 50000000);
    assert_true(trial.bit_class[0]);
    assert_true(trial.noise_ns >= 0);
    moet_trial_release(&trial);
    moet_bench_retire(bench, subject);
    TEST_OK(moet_bench_round(bench));
    TEST_OK(moet_bench_trial(bench, subject, &trial));
    assert_int_equal(trial.sample_count, 7); /* retired: no more samples */
    moet_trial_release(&trial);
    moet_bench_clear_samples(bench);
    assert_int_equal(moet_bench_median_ns(bench, config_subject), 0);
}

/* An inapplicable config is a trial with its reason, and no error. */
static void test_inapplicable(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("host_tile");
    moet_config config;
    char why[MOET_REASON_SIZE];
    moet_config_first(family, &config);
    while (family->applicable(&problem, &config, &host->info, why)) {
        if (!moet_config_next(&config)) skip();
    }
    int32_t subject;
    moet_trial trial;
    TEST_OK(moet_bench_add_config(bench, &config, false, &subject));
    TEST_OK(moet_bench_trial(bench, subject, &trial));
    assert_int_equal(trial.status, MOET_TRIAL_INAPPLICABLE);
    assert_string_equal(trial.reason, why);
    moet_trial_release(&trial);
}

static void test_too_large(void **state)
{
    (void)state;
    moet_problem huge;
    int32_t *rows = calloc(MOET_MAX_EXPERTS, sizeof *rows);
    assert_non_null(rows);
    rows[0] = 8;
    moet_problem_init(&huge, MOET_OP_DOWN, MOET_MAX_EXPERTS, MOET_MAX_DIM, MOET_MAX_DIM); /* 2 PB of weights */
    TEST_FAILS(MOET_NO_DEVICE_MEMORY, NULL, moet_bench_set_workload(bench, &huge, rows, 0));
    TEST_OK(moet_bench_set_workload(bench, &problem, counts, 0)); /* and another may be set */
    free(rows);
}

static void test_ceilings(void **state)
{
    (void)state;
    moet_bench *with;
    moet_ceilings ceilings;
    TEST_OK(moet_bench_create(host, 1, true, &with));
    TEST_OK(moet_bench_ceilings(with, 3, &ceilings));
    assert_true(ceilings.dense_flops_per_s > 1e7 && ceilings.dense_flops_per_s < 1e17);
    assert_true(ceilings.copy_bytes_per_s > 1e7 && ceilings.copy_bytes_per_s < 1e15);
    assert_true(ceilings.read_bytes_per_s > 1e7 && ceilings.read_bytes_per_s < 1e15);
    moet_bench_destroy(with);
    moet_bench_destroy(NULL);
}

/* A family of three kernels, which runs host_tile. */
static const moet_cubin three[] = {
    {.bytes = (void *)(uintptr_t) "up", .size_bytes = 2, .sha256 = "1", .arch = "sm_90a"},
    {.bytes = (void *)(uintptr_t) "down", .size_bytes = 4, .sha256 = "2"},
    {.bytes = (void *)(uintptr_t) "helper", .size_bytes = 6, .sha256 = "3"}};
static int32_t list_three(const void *state, const moet_cubin **list)
{
    (void)state;
    for (int32_t i = 0; i < 3; i++) list[i] = &three[i];
    return 3;
}

/* A trial has copies of all its config's cubins, in order, and they outlive the bench's workload. */
static void test_cubins(void **state)
{
    (void)state;
    moet_family family = *moet_family_find("host_tile");
    moet_config config;
    moet_trial trial;
    int32_t subject;
    family.cubins = list_three;
    moet_config_first(&family, &config);
    char why[MOET_REASON_SIZE];
    while (!family.applicable(&problem, &config, &host->info, why)) assert_true(moet_config_next(&config));
    TEST_OK(moet_bench_set_workload(bench, &problem, counts, 0));
    TEST_OK(moet_bench_add_config(bench, &config, false, &subject));
    TEST_OK(moet_bench_trial(bench, subject, &trial));
    TEST_OK(moet_bench_set_workload(bench, &problem, counts, 0));
    assert_int_equal(trial.status, MOET_TRIAL_OK);
    assert_int_equal(trial.cubin_count, 3);
    for (int32_t i = 0; i < 3; i++) {
        assert_int_equal(trial.cubins[i].size_bytes, three[i].size_bytes);
        assert_memory_equal(trial.cubins[i].bytes, three[i].bytes, three[i].size_bytes);
        assert_string_equal(trial.cubins[i].sha256, three[i].sha256);
        assert_string_equal(trial.cubins[i].arch, three[i].arch);
        assert_ptr_not_equal(trial.cubins[i].bytes, three[i].bytes);
    }
    moet_trial_release(&trial);
    assert_int_equal(trial.cubin_count, 0);
    assert_null(trial.cubins[0].bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settled),  cmocka_unit_test(test_stats),    cmocka_unit_test(test_trial_status), cmocka_unit_test(test_flaws_are_found),
        cmocka_unit_test(test_times),    cmocka_unit_test(test_inapplicable), cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_ceilings), cmocka_unit_test(test_cubins),
    };
    return cmocka_run_group_tests_name("bench", tests, group_open, group_close);
}
