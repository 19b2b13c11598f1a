/* The families on cuBLASLt, as far as no GPU is needed: what is known of versions, and what they refuse. */
#include "test.h"

#include "../kernels/cublaslt_facts.h"

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
        {MOET_LT_NO_SPLIT_K_66, 131000, 12, false},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        const moet_lt_fact *fact = moet_lt_fact_find(cases[i].rule, cases[i].version, cases[i].cc_major);
        if ((fact != NULL) != cases[i].holds) test_fail("case %d: rule %d", i, (int)cases[i].rule);
        if (fact) assert_true(fact->why[0] != '\0');
    }
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
    static const char text[] = "cublaslt_grouped:index=31,avg_rows=mean,avg_n=exact,avg_k=half";
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
        cmocka_unit_test(test_grouped_versions),  cmocka_unit_test(test_rules),
        cmocka_unit_test(test_grouped_applies),   cmocka_unit_test(test_grouped_source),
        cmocka_unit_test(test_grouped_validator),
    };
    return cmocka_run_group_tests_name("cublaslt", tests, NULL, NULL);
}
