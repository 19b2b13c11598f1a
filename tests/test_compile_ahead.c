/* Kernels that are compiled ahead are in the cache when they are waited for; where there is no cache nobody waits. */
#include "test.h"

#include "../src/family.h"
#include "../tuner/compile_ahead.h"

static const moet_device_info h100 = {
    .backend = "cuda", .name = "any", .cc_major = 9, .sm_count = 132, .smem_per_block_optin_bytes = 232448};
static moet_problem problem;
enum { CONFIGS = 3 };
static moet_config configs[CONFIGS];

static int group_open(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("mma_gemm");
    if (!family || moet_module_compiler_version() == 0) return 0;
    moet_problem_init(&problem, MOET_OP_UP, 8, 512, 256);
    moet_config config;
    int32_t count = 0;
    char why[MOET_REASON_SIZE];
    moet_config_first(family, &config);
    do {
        if (family->applicable(&problem, &config, &h100, why) && moet_config_number(&config, 3) == 1)
            configs[count++] = config;
    } while (count < CONFIGS && moet_config_next(&config));
    return count < CONFIGS;
}

static bool is_cached(const moet_config *config)
{
    moet_source source;
    assert_true(config->family->source(&problem, config, 9, 0, 0, &source));
    return moet_module_is_cached(&source);
}

static void test_ahead(void **state)
{
    (void)state;
    if (!configs[0].family) skip(); /* no compiler */
    char folder[256];
    moet_compile_ahead *ahead = NULL;
    test_folder_make(folder);
    setenv("MOET_CACHE_DIR", folder, 1);
    for (int32_t i = 0; i < CONFIGS; i++) assert_false(is_cached(&configs[i]));
    TEST_OK(moet_compile_ahead_create(2, &ahead));
    for (int32_t twice = 0; twice < 2; twice++)
        for (int32_t i = 0; i < CONFIGS; i++) TEST_OK(moet_compile_ahead_add(ahead, &problem, &configs[i], &h100));
    /* The last first: what is waited for comes next. */
    for (int32_t i = CONFIGS - 1; i >= 0; i--) {
        moet_compile_ahead_wait(ahead, &problem, &configs[i], &h100);
        assert_true(is_cached(&configs[i]));
    }
    assert_int_equal(moet_compile_ahead_compiled(ahead), CONFIGS);
    moet_compile_ahead_destroy(ahead);
    /* All is there. */
    TEST_OK(moet_compile_ahead_create(1, &ahead));
    TEST_OK(moet_compile_ahead_add(ahead, &problem, &configs[0], &h100));
    moet_compile_ahead_wait(ahead, &problem, &configs[0], &h100);
    assert_int_equal(moet_compile_ahead_compiled(ahead), 0);
    moet_compile_ahead_wait(ahead, &problem, &configs[1], &h100); /* nobody asked for it */
    moet_compile_ahead_destroy(ahead);
    test_folder_remove(folder);
}

/* A folder that cannot be made: one kernel is compiled in vain, then nobody waits any more. */
static void test_no_cache(void **state)
{
    (void)state;
    if (!configs[0].family) skip(); /* no compiler */
    moet_compile_ahead *ahead = NULL;
    setenv("MOET_CACHE_DIR", "/dev/null/cache", 1);
    TEST_OK(moet_compile_ahead_create(1, &ahead));
    for (int32_t i = 0; i < CONFIGS; i++) TEST_OK(moet_compile_ahead_add(ahead, &problem, &configs[i], &h100));
    for (int32_t i = 0; i < CONFIGS; i++) moet_compile_ahead_wait(ahead, &problem, &configs[i], &h100);
    assert_int_equal(moet_compile_ahead_compiled(ahead), 1);
    moet_compile_ahead_destroy(ahead);
}

/* Families that compile nothing, devices of the host, and no compiler threads at all. */
static void test_nothing(void **state)
{
    (void)state;
    moet_compile_ahead *ahead = NULL;
    moet_problem small;
    const moet_device_info host = {.backend = "host", .sm_count = 2};
    moet_config config = {.family = moet_family_find("host_tile")};
    assert_non_null(config.family);
    moet_problem_init(&small, MOET_OP_UP, 8, 512, 256);
    TEST_OK(moet_compile_ahead_add(NULL, &small, &config, &host));
    moet_compile_ahead_wait(NULL, &small, &config, &host);
    moet_compile_ahead_destroy(NULL);
    TEST_OK(moet_compile_ahead_create(1, &ahead));
    TEST_OK(moet_compile_ahead_add(ahead, &small, &config, &host));
    moet_compile_ahead_wait(ahead, &small, &config, &host);
    moet_compile_ahead_destroy(ahead);
    assert_true(moet_compile_ahead_jobs() >= 1 && moet_compile_ahead_jobs() <= 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ahead), cmocka_unit_test(test_no_cache),
                                       cmocka_unit_test(test_nothing)};
    return cmocka_run_group_tests_name("compile_ahead", tests, group_open, NULL);
}
