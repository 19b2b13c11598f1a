/* The families on cuBLASLt, as far as no GPU is needed: what is known of versions, and what they refuse. */
#include "test.h"

#include "../kernels/cublaslt_batch.h"
#include "../kernels/cublaslt_facts.h"
#include "../tuner/candidates.h"

static void expect_serves(int64_t version, int32_t cc_major, const char *part)
{
    char why[MOET_REASON_SIZE] = "";
    const bool serves = moet_lt_grouped_serves(version, cc_major, why);
    if (serves != (part == NULL)) test_fail("%lld on %d.0: %s", (long long)version, cc_major, serves ? "served" : why);
    if (part && !strstr(why, part))
        test_fail("%lld on %d.0: '%s' does not say '%s'", (long long)version, cc_major, why, part);
}

/* The first release with the grouped product on Hopper, the last without, and the one that was wrong. */
static void test_grouped_versions(void **state)
{
    (void)state;
    expect_serves(130100, 9, "came with");
    expect_serves(130399, 9, "came with 13.4.0");
    expect_serves(130400, 9, NULL);
    expect_serves(131000, 9, NULL);
    expect_serves(130100, 10, "came with 13.2.0");
    expect_serves(130200, 10, "wrong where a group is empty");
    expect_serves(130299, 11, "wrong where a group is empty");
    expect_serves(130300, 10, NULL);
    expect_serves(131000, 8, "9.0 and later");
    expect_serves(131000, 12, "12.0 and later");
    expect_serves(120900, 9, "cuBLASLt 12.9.0: ");
    expect_serves(131002, 12, "cuBLASLt 13.10.2: ");
}

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        moet_lt_rule rule;
        int64_t version;
        int32_t cc_major;
        bool holds;
    } cases[] = {
        {MOET_LT_OWN_WORKSPACE, 130399, 9, false},      {MOET_LT_OWN_WORKSPACE, 130400, 9, true},
        {MOET_LT_OWN_WORKSPACE, 131000, 9, true},       {MOET_LT_DEVICE_POINTERS, 130400, 9, true},
        {MOET_LT_DEVICE_POINTERS, 131000, 9, true},     {MOET_LT_NO_QUERY_IN_CAPTURE, 130500, 9, false},
        {MOET_LT_NO_QUERY_IN_CAPTURE, 130501, 9, true}, {MOET_LT_NO_QUERY_IN_CAPTURE, 130700, 9, false},
        {MOET_LT_NO_SPLIT_K_66, 120602, 9, false},      {MOET_LT_NO_SPLIT_K_66, 120603, 9, true},
        {MOET_LT_NO_SPLIT_K_66, 130100, 9, true},       {MOET_LT_NO_SPLIT_K_66, 130100, 8, false},
        {MOET_LT_NO_SPLIT_K_66, 131000, 12, false},     {MOET_LT_MANY_SMS, 130100, 9, false},
        {MOET_LT_MANY_SMS, 131000, 9, true},            {MOET_LT_MANY_SMS, 131000, 8, false},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        const moet_lt_fact *fact = moet_lt_fact_find(cases[i].rule, cases[i].version, cases[i].cc_major);
        if ((fact != NULL) != cases[i].holds) test_fail("case %d: rule %d", i, (int)cases[i].rule);
        if (fact) assert_true(fact->why[0] != '\0');
    }
    char why[MOET_REASON_SIZE] = "";
    assert_true(moet_lt_takes_sms(131000, 9, 0, why) && moet_lt_takes_sms(131000, 9, MOET_LT_LEAST_SMS, why) &&
                moet_lt_takes_sms(130100, 9, 1, why));
    assert_false(moet_lt_takes_sms(131000, 9, MOET_LT_LEAST_SMS - 1, why));
    TEST_CONTAINS(why, "13.10.0: a product that is limited");
}

static const moet_device_info h100 = {
    .backend = "cuda", .name = "NVIDIA H100", .cc_major = 9, .cc_minor = 0, .sm_count = 132};

static void expect_applies(const char *text, const moet_problem *problem, const moet_device_info *device,
                           const char *part)
{
    moet_config config;
    char why[MOET_REASON_SIZE] = "";
    TEST_OK(moet_config_parse(text, &config));
    const bool applies = config.family->applicable(problem, &config, device, why);
    if (applies != (part == NULL)) test_fail("%s: %s", text, applies ? "applies" : why);
    if (part && !strstr(why, part)) test_fail("%s: '%s' does not say '%s'", text, why, part);
}

static void test_grouped_applies(void **state)
{
    (void)state;
    static const char text[] = "cublaslt_grouped:index=31,avg_rows=64,avg_n=exact,avg_k=half";
    moet_device_info a100 = h100, rtx = h100;
    moet_problem problem;
    a100.cc_major = 8;
    rtx.cc_major = 12;
    if (!moet_family_find("cublaslt_grouped")) skip(); /* a build without CUDA */
    moet_problem_init(&problem, MOET_OP_UP, 8, 2048, 1024);
    expect_applies(text, &problem, &h100, NULL);
    expect_applies(text, &problem, &a100, "compute capability 9.0");
    expect_applies(text, &problem, &rtx, "compute capability 9.0");
    problem.bias = true;
    expect_applies(text, &problem, &h100, "no bias");
}

/* The default tells the heuristic the power of two nearest to the mean. */
static void test_grouped_default(void **state)
{
    (void)state;
    static const struct {
        int64_t rows;
        const char *average;
    } cases[] = {{0, "16"}, {8 * 22, "16"}, {8 * 24, "32"}, {8 * 90, "64"}, {8 * 91, "128"}, {1 << 20, "16384"}};
    const moet_family *family = moet_family_find("cublaslt_grouped");
    moet_problem problem;
    if (!family) skip();
    moet_problem_init(&problem, MOET_OP_UP, 8, 2048, 1024);
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        moet_config config = {.family = family};
        family->default_config(&problem, cases[i].rows, &h100, &config);
        assert_string_equal(moet_config_text(&config, moet_family_param(family, "avg_rows")), cases[i].average);
    }
}

static void test_batched_applies(void **state)
{
    (void)state;
    moet_device_info v100 = h100;
    moet_problem problem;
    v100.cc_major = 7;
    if (!moet_family_find("cublaslt_batched")) skip();
    moet_problem_init(&problem, MOET_OP_DOWN, 2, 2048, 1024);
    problem.bias = true;
    expect_applies("cublaslt_batched:pad=1.5,index=0", &problem, &h100, NULL);
    expect_applies("cublaslt_batched:pad=1,index=7", &problem, &v100, "sm_80");
    problem.experts = 1;
    expect_applies("cublaslt_batched:pad=1,index=0", &problem, &h100, "no batch");
}

static void expect_batch(const int32_t *counts, int32_t experts, int32_t first, int32_t percent, int32_t count,
                         int32_t height, bool is_even)
{
    const moet_lt_batch b = moet_lt_batch_next(counts, experts, first, percent);
    if (b.first != first || b.count != count || b.height != height || b.is_even != is_even)
        test_fail("from %d with %d %%: %d experts of %d rows, %s", first, percent, b.count, b.height,
                  b.is_even ? "even" : "padded");
}

static void test_batches(void **state)
{
    (void)state;
    static const int32_t equal[] = {64, 64, 64, 64}, like[] = {60, 64, 50, 64}, skewed[] = {9, 1000, 3, 2};
    static const int32_t tail[] = {64, 64, 64, 64, 0};
    static const int32_t gap[] = {64, 0, 64, 64, 0}, ends[] = {64, 64, 1, 64};
    expect_batch(equal, 4, 0, 150, 4, 64, true);
    expect_batch(equal, 4, 0, 100, 4, 64, true);
    expect_batch(equal, 4, 2, 100, 2, 64, true);
    expect_batch(like, 4, 0, 150, 4, 64, false);
    expect_batch(like, 4, 0, 100, 1, 60, true);
    expect_batch(like, 4, 0, 110, 4, 64, false); /* 256 of 238 */
    expect_batch(skewed, 4, 0, 150, 1, 9, true);
    expect_batch(skewed, 4, 1, 150, 1, 1000, true);
    expect_batch(skewed, 4, 2, 150, 2, 3, false);
    expect_batch(gap, 5, 0, 150, 4, 64, false);
    expect_batch(tail, 5, 0, 150, 4, 64, true); /* though the padding would let it in */
    expect_batch(gap, 5, 0, 125, 1, 64, true);
    expect_batch(ends, 4, 0, 100, 2, 64, true);
    expect_batch(ends, 4, 0, 150, 4, 64, false);
}

/* Whatever the routing, batches hold every expert with rows once, in order, and keep to the padding. */
static void test_batches_cover(void **state)
{
    (void)state;
    uint64_t random = 5;
    int32_t counts[40];
    for (int32_t round = 0; round < 2000; round++) {
        const int32_t experts = 1 + (int32_t)(test_random(&random) % 40),
                      spread = 1 + (int32_t)(test_random(&random) % 9);
        static const int32_t percents[] = {150, 125, 110, 100};
        const int32_t percent = percents[round % 4];
        int64_t rows = 0, covered = 0;
        for (int32_t e = 0; e < experts; e++) {
            counts[e] = test_random(&random) % 4 ? (int32_t)(test_random(&random) % (1u << spread)) : 0;
            rows += counts[e];
        }
        for (int32_t e = 0; e < experts;) {
            if (counts[e] == 0) {
                e++;
                continue;
            }
            const moet_lt_batch b = moet_lt_batch_next(counts, experts, e, percent);
            int64_t sum = 0;
            int32_t most = 0;
            assert_true(b.first == e && b.count >= 1 && e + b.count <= experts);
            for (int32_t i = e; i < e + b.count; i++) {
                sum += counts[i];
                if (counts[i] > most) most = counts[i];
            }
            assert_true(b.rows == sum && b.height == most);
            assert_true(100 * (int64_t)b.height * b.count <= percent * sum);
            assert_int_equal(b.is_even, (int64_t)b.height * b.count == sum);
            covered += sum;
            e += b.count;
        }
        assert_int_equal(covered, rows);
    }
}

/* At first every index with the averages of the default; around one, each other average alone. */
static void test_grouped_candidates(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("cublaslt_grouped");
    moet_problem problem;
    char text[MOET_VALIDATOR_SIZE];
    if (!family) skip();
    moet_problem_init(&problem, MOET_OP_UP, 8, 2048, 1024);
    moet_candidates list = {.count = 1, .capacity = 1, .items = test_allocate(sizeof *list.items)};
    list.items[0].config.family = family;
    family->default_config(&problem, 8 * 128, &h100, &list.items[0].config);
    TEST_OK(moet_candidates_add_around(&list, &problem, &h100, 0));
    assert_int_equal(list.count, 1 + 10 + 2 + 2);
    assert_int_equal(moet_candidates_around(&list.items[0].config), 10 + 2 + 2);
    moet_candidates_release(&list);

    const char *names[] = {family->name};
    const moet_text_list families = {.count = 1, .texts = (char **)(uintptr_t)names};
    if (moet_family_validator(family, text) != MOET_OK) return; /* an older library lists the default only */
    int32_t own = 0;
    TEST_OK(moet_candidates_list(&problem, 8 * 128, &h100, &families, NULL, &list));
    for (int32_t i = 0; i < list.count; i++) {
        if (list.items[i].config.family != family) continue;
        own++;
        if (!strstr(list.items[i].text, ",avg_rows=128,avg_n=exact,avg_k=exact")) test_fail("%s", list.items[i].text);
    }
    assert_int_equal(own, 32 + 1); /* the default for each kind of counts */
    moet_candidates_release(&list);
}

/* One cubin, for the architectures that it applies to. */
static void test_grouped_source(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("cublaslt_grouped");
    moet_problem problem;
    moet_config config;
    moet_source source;
    if (!family) skip();
    moet_problem_init(&problem, MOET_OP_UP, 8, 2048, 1024);
    moet_config_first(family, &config);
    assert_true(family->source(&problem, &config, 9, 0, 0, &source));
    assert_string_equal(source.arch, "sm_90");
    assert_false(family->source(&problem, &config, 9, 0, 1, &source));
    assert_false(family->source(&problem, &config, 8, 0, 0, &source));
    assert_false(family->source(&problem, &config, 12, 0, 0, &source));
}

/* A library without the grouped product is as good as none, and the message says what to do. */
static void test_grouped_validator(void **state)
{
    (void)state;
    const moet_family *grouped = moet_family_find("cublaslt_grouped"), *loop = moet_family_find("cublaslt_loop");
    char text[MOET_VALIDATOR_SIZE] = "", version[MOET_VALIDATOR_SIZE] = "";
    if (!grouped || moet_family_validator(loop, version) != MOET_OK) skip();
    print_message("%s\n", version);
    const long number = strtol(version + strlen("cublasLt "), NULL, 10);
    const moet_status status = moet_family_validator(grouped, text);
    if (number >= 130200) {
        TEST_OK(status);
        assert_string_equal(text, version);
    } else {
        assert_int_equal(status, MOET_UNSUPPORTED);
        assert_non_null(strstr(moet_last_error(), "LD_LIBRARY_PATH"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grouped_versions), cmocka_unit_test(test_rules),
        cmocka_unit_test(test_grouped_applies),  cmocka_unit_test(test_grouped_source),
        cmocka_unit_test(test_grouped_default),  cmocka_unit_test(test_grouped_candidates),
        cmocka_unit_test(test_batched_applies),  cmocka_unit_test(test_batches),
        cmocka_unit_test(test_batches_cover),    cmocka_unit_test(test_grouped_validator),
    };
    return cmocka_run_group_tests_name("cublaslt", tests, NULL, NULL);
}
