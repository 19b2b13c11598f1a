/* The fewest configurations that are fast enough everywhere: against every subset of small sets. */
#include "test.h"

#include "../tuner/cover.h"

enum { POINTS = 7, CONFIGS = 6 };

/* Subsets are bits. */
static bool serves_all(const double *cost, const double *allowed, uint32_t subset)
{
    for (int32_t p = 0; p < POINTS; p++) {
        bool served = false;
        for (int32_t c = 0; c < CONFIGS; c++)
            served |= (subset >> c & 1) && cost[p * CONFIGS + c] > 0 && cost[p * CONFIGS + c] <= allowed[p];
        if (!served) return false;
    }
    return true;
}

static int32_t size_of(uint32_t subset) { return __builtin_popcount(subset); }

static void test_against_all_subsets(void **state)
{
    (void)state;
    uint64_t random = 3;
    int32_t optimal = 0, smaller = 0;
    for (int32_t nth = 0; nth < 500; nth++) {
        double cost[POINTS * CONFIGS], allowed[POINTS];
        int32_t chosen[POINTS];
        for (int32_t i = 0; i < POINTS * CONFIGS; i++)
            cost[i] = test_between(&random, 0, 3) == 0 ? 0 : 1 + (double)test_between(&random, 0, 40) / 1000;
        for (int32_t p = 0; p < POINTS; p++) {
            cost[p * CONFIGS + (int32_t)test_between(&random, 0, CONFIGS - 1)] = 1;
            allowed[p] = 1 + (double)test_between(&random, 0, 20) / 1000;
        }
        const int32_t preferred = (int32_t)test_between(&random, -1, CONFIGS - 1);
        TEST_OK(moet_cover(POINTS, CONFIGS, cost, allowed, preferred, chosen));
        uint32_t subset = 0;
        for (int32_t p = 0; p < POINTS; p++) {
            assert_in_range(chosen[p], 0, CONFIGS - 1);
            const double own = cost[p * CONFIGS + chosen[p]];
            assert_true(own > 0 && own <= allowed[p]);
            subset |= 1u << chosen[p];
        }
        /* At each point the preferred one, else the fastest of the chosen. */
        for (int32_t p = 0; p < POINTS; p++) {
            for (int32_t c = 0; c < CONFIGS; c++) {
                const double other = cost[p * CONFIGS + c];
                if (!(subset >> c & 1) || other == 0 || other > allowed[p] || chosen[p] == preferred) continue;
                assert_int_not_equal(c, preferred);
                assert_true(cost[p * CONFIGS + chosen[p]] <= other);
            }
        }
        int32_t least = CONFIGS;
        for (uint32_t s = 1; s < 1u << CONFIGS; s++) {
            if (size_of(s) < least && serves_all(cost, allowed, s)) least = size_of(s);
        }
        assert_true(size_of(subset) <= least + 1);
        optimal += size_of(subset) == least;
        smaller += size_of(subset) < POINTS - 2;
    }
    print_message("%d of 500 covers have the least size\n", optimal);
    assert_true(optimal > 450 && smaller > 200);
}

/* One that is never the fastest serves all; of two that serve equally many the cheaper one. */
static void test_few(void **state)
{
    (void)state;
    const double cost[] = {1, 1.02, 1.005, 1.02, 1, 1.005, 0, 0, 1}, allowed[] = {1.01, 1.01, 1.01};
    int32_t chosen[3];
    TEST_OK(moet_cover(3, 3, cost, allowed, -1, chosen));
    for (int32_t p = 0; p < 3; p++) assert_int_equal(chosen[p], 2);
    const double equal[] = {1.004, 1, 1.003, 1.001};
    TEST_OK(moet_cover(2, 2, equal, allowed, -1, chosen));
    for (int32_t p = 0; p < 2; p++) assert_int_equal(chosen[p], 1);
    /* What was not measured serves nothing, however much else it would spare. */
    const double unknown[] = {1, 0, 0, 1};
    TEST_OK(moet_cover(2, 2, unknown, allowed, 0, chosen));
    assert_int_equal(chosen[0], 0);
    assert_int_equal(chosen[1], 1);
    TEST_OK(moet_cover(0, 0, NULL, NULL, -1, chosen));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_all_subsets), cmocka_unit_test(test_few)};
    return cmocka_run_group_tests_name("cover", tests, NULL, NULL);
}
