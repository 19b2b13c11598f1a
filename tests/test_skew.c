/* The skew generators: sums, determinism, and that each draws what its name says. */
#include "test.h"

#include <math.h>

#include "../src/module.h"
#include "../tuner/workload.h"

static const char *const skews[] = {"balanced", "uniform",  "lognormal:0.43", "lognormal:2",
                                    "zipf:1",   "zipf:0.5", "powerlaw:1.2",   "powerlaw:1",
                                    "hot:0.5",  "hot:1",    "idle:0.5",       "idle:0"};

static void test_sums(void **state)
{
    (void)state;
    static const int32_t experts[] = {1, 2, 3, 8, 64, 1024};
    static const int64_t rows[] = {1, 2, 7, 100, 4096, 65537};
    int32_t *counts = malloc(1024 * sizeof *counts), *again = malloc(1024 * sizeof *again);
    assert_true(counts && again);
    for (int32_t s = 0; s < MOET_COUNT_OF(skews); s++) {
        for (int32_t e = 0; e < MOET_COUNT_OF(experts); e++) {
            for (int32_t r = 0; r < MOET_COUNT_OF(rows); r++) {
                for (uint64_t seed = 1; seed <= 3; seed++) {
                    int64_t sum = 0;
                    TEST_OK(moet_skew_draw(skews[s], experts[e], rows[r], seed, counts));
                    for (int32_t i = 0; i < experts[e]; i++) {
                        assert_true(counts[i] >= 0);
                        sum += counts[i];
                    }
                    if (sum != rows[r]) test_fail("%s E=%d: %lld rows", skews[s], experts[e], (long long)sum);
                    TEST_OK(moet_skew_draw(skews[s], experts[e], rows[r], seed, again));
                    assert_memory_equal(counts, again, (size_t)experts[e] * sizeof *counts);
                }
            }
        }
    }
    free(counts);
    free(again);
}

/* The same on every machine: the bits of all draws, hashed, as they were when this test was written. */
static void test_same_everywhere(void **state)
{
    (void)state;
    int32_t counts[64];
    char all[64 * MOET_COUNT_OF(skews) * 8 + 1] = "", digits[MOET_SHA256_TEXT_SIZE];
    size_t used = 0;
    for (int32_t s = 0; s < MOET_COUNT_OF(skews); s++) {
        TEST_OK(moet_skew_draw(skews[s], 64, 40000, 7, counts));
        for (int32_t i = 0; i < 64; i++) used += (size_t)snprintf(all + used, sizeof all - used, "%d,", counts[i]);
    }
    moet_sha256_text(all, used, digits);
    assert_string_equal(digits, "b9076cd97f5c305837c04d7448a698dd07e9168b3d9511969856580badcfa16e");
}

static void draw(const char *skew, int32_t experts, int64_t rows, uint64_t seed, int32_t *counts, moet_routing *r)
{
    TEST_OK(moet_skew_draw(skew, experts, rows, seed, counts));
    TEST_OK(moet_routing_summarize(counts, experts, r));
}

static void test_shapes(void **state)
{
    (void)state;
    int32_t counts[64], other[64];
    moet_routing r;
    draw("balanced", 8, 1003, 1, counts, &r);
    for (int32_t e = 0; e < 8; e++) assert_int_equal(counts[e], 125 + (e < 3));
    for (uint64_t seed = 1; seed <= 20; seed++) {
        draw("hot:0.5", 64, 6400, seed, counts, &r);
        assert_int_equal(r.max, 3200);
        assert_int_equal(r.active, 64);
        draw("idle:0.25", 64, 6400, seed, counts, &r);
        assert_int_equal(r.active, 48);
        assert_true(r.max <= 6400 / 48 + 1);
        draw("idle:1", 64, 6400, seed, counts, &r); /* somebody has to work */
        assert_int_equal(r.active, 1);
        draw("uniform", 64, 64000, seed, counts, &r);
        for (int32_t e = 0; e < 64; e++) assert_true(abs(counts[e] - 1000) < 6 * 32); /* 6 sigma */
        draw("zipf:1", 64, 64000, seed, counts, &r);
        double top = 64000 / 4.7439; /* H_64 */
        assert_true(fabs(r.max - top) < 6 * sqrt(top));
        draw("zipf:0", 64, 64000, seed, counts, &r);
        assert_true(r.max_over_mean < 1.2);
    }
    /* More skew in the parameter is more skew in the counts. */
    moet_routing low, high;
    draw("lognormal:0.2", 64, 64000, 1, counts, &low);
    draw("lognormal:1", 64, 64000, 1, other, &high);
    assert_true(low.max_over_mean < high.max_over_mean);
    assert_true(moet_routing_gini(counts, 64) < moet_routing_gini(other, 64));
    /* Seeds differ. */
    draw("zipf:1", 64, 6400, 1, counts, &r);
    draw("zipf:1", 64, 6400, 2, other, &r);
    assert_memory_not_equal(counts, other, sizeof counts);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "bogus",
                                      "zipf",
                                      "zipf:",
                                      "zipf:x",
                                      "zipf:-1",
                                      "zipf:1e3",
                                      "zipf:nan",
                                      "zipf:inf",
                                      "zipf:1,2",
                                      "hot:1.5",
                                      "hot:-0.1",
                                      "idle:1.01",
                                      "idle:2",
                                      "balanced:1",
                                      "uniform:",
                                      "lognormal:999999999",
                                      " zipf:1",
                                      "zipf:1 "};
    int32_t counts[8], before[8];
    memset(counts, 0x5a, sizeof counts);
    memcpy(before, counts, sizeof counts);
    for (int32_t i = 0; i < MOET_COUNT_OF(bad); i++) {
        moet_status status = moet_skew_draw(bad[i], 8, 100, 1, counts);
        if (status != MOET_INVALID) test_fail("'%s': %s", bad[i], moet_status_name(status));
        assert_memory_equal(counts, before, sizeof counts);
    }
    moet_skew_draw("bogus", 8, 100, 1, counts);
    TEST_CONTAINS(moet_last_error(), "'bogus'");
    TEST_CONTAINS(moet_last_error(), "lognormal:S");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_same_everywhere),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("skew", tests, NULL, NULL);
}
