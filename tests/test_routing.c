/* Routing: the summary of rows per expert and its bounds. */
#include "test.h"

#include <math.h>

static void test_by_hand(void **state)
{
    (void)state;
    static const struct {
        int32_t experts, counts[4], active, max;
        int64_t rows;
        double max_over_mean, gini;
    } cases[] = {
        {4, {2, 2, 2, 2}, 4, 2, 8, 1, 0}, {4, {8, 0, 0, 0}, 1, 8, 8, 4, 0.75},
        {4, {0, 0, 0, 0}, 0, 0, 0, 1, 0}, {4, {1, 3, 0, 0}, 2, 3, 4, 3, 0.625},
        {1, {7}, 1, 7, 7, 1, 0},          {2, {1, 3}, 2, 3, 4, 1.5, 0.25},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        moet_routing r;
        TEST_OK(moet_routing_summarize(cases[i].counts, cases[i].experts, &r));
        assert_int_equal(r.experts, cases[i].experts);
        assert_int_equal(r.active, cases[i].active);
        assert_int_equal(r.max, cases[i].max);
        assert_int_equal(r.rows, cases[i].rows);
        assert_true(fabs(r.max_over_mean - cases[i].max_over_mean) < 1e-12);
        assert_true(fabs(moet_routing_gini(cases[i].counts, cases[i].experts) - cases[i].gini) < 1e-12);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static int32_t counts[MOET_MAX_EXPERTS + 1];
    moet_routing routing = {.experts = -7}; /* must stay */
    TEST_FAILS(MOET_INVALID, "0 experts", moet_routing_summarize(counts, 0, &routing));
    TEST_FAILS(MOET_INVALID, "-1 experts", moet_routing_summarize(counts, -1, &routing));
    TEST_FAILS(MOET_INVALID, "1025 experts", moet_routing_summarize(counts, MOET_MAX_EXPERTS + 1, &routing));
    const int32_t negative[] = {1, -1, 5};
    TEST_FAILS(MOET_INVALID, "expert 1 has -1 rows", moet_routing_summarize(negative, 3, &routing));
    const int32_t many[] = {MOET_MAX_ROWS, 1};
    TEST_FAILS(MOET_INVALID, "1048577 rows", moet_routing_summarize(many, 2, &routing));
    for (int32_t e = 0; e < MOET_MAX_EXPERTS; e++) counts[e] = INT32_MAX; /* a sum that 32 bits do not hold */
    TEST_FAILS(MOET_INVALID, "rows in all", moet_routing_summarize(counts, MOET_MAX_EXPERTS, &routing));
    assert_int_equal(routing.experts, -7);
    const int32_t most[] = {MOET_MAX_ROWS};
    TEST_OK(moet_routing_summarize(most, 1, &routing));
    assert_int_equal(routing.rows, MOET_MAX_ROWS);
}

/* Whatever the counts: bounds hold, and neither order nor scale changes what describes the skew. */
static void test_properties(void **state)
{
    (void)state;
    uint64_t random = 2;
    for (int32_t i = 0; i < 2000; i++) {
        int32_t experts = (int32_t)test_between(&random, 1, 64), counts[64], other[64];
        for (int32_t e = 0; e < experts; e++)
            counts[e] = (int32_t)test_between(&random, 0, test_between(&random, 0, 500));
        counts[0] += 1; /* not all empty */
        for (int32_t e = 0; e < experts; e++) other[e] = 3 * counts[(e + 5) % experts];
        moet_routing a, b;
        TEST_OK(moet_routing_summarize(counts, experts, &a));
        TEST_OK(moet_routing_summarize(other, experts, &b));
        double gini = moet_routing_gini(counts, experts);
        assert_true(a.max_over_mean >= 1 - 1e-12 && a.max_over_mean <= experts + 1e-12);
        assert_true(gini > -1e-12 && gini <= 1 - 1.0 / experts + 1e-12);
        assert_int_equal(b.rows, 3 * a.rows);
        assert_int_equal(b.active, a.active);
        assert_true(fabs(a.max_over_mean - b.max_over_mean) < 1e-12);
        assert_true(fabs(gini - moet_routing_gini(other, experts)) < 1e-9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_properties),
    };
    return cmocka_run_group_tests_name("routing", tests, NULL, NULL);
}
