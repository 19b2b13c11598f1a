/* What is read of a store beside its trials: what others' tokens won with as seeds. */
#include "store_fill.h"
#include "test.h"

#include "../tuner/seeds.h"

static moet_problem problem;
static const int32_t counts[][4] = {{16, 16, 16, 16}, {32, 16, 16, 16}};

static int group_open(void **state)
{
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    return fill_group_open(state);
}

static fill_trial trial_of(moet_config *config, int32_t n)
{
    fill_config(fill_host, &problem, n, config);
    return (fill_trial){.device = fill_host,
                        .problem = &problem,
                        .counts = counts[0],
                        .config = config,
                        .final_rounds = true,
                        .median_ns = 1000,
                        .noise_ns = 2};
}

/* What won with some tokens is a guess for others; what won of another problem is none. */
static void test_seeds_of_tokens(void **state)
{
    (void)state;
    char path[512], key[MOET_KEY_SIZE];
    moet_store *store = fill_store("seeds.db", path);
    moet_problem path_problem, other;
    moet_problem_init(&path_problem, MOET_OP_FFN, 4, 64, 32);
    other = path_problem;
    other.numerics = MOET_NUMERICS_FAST;
    const int64_t run = fill_run(store, fill_host);
    moet_config apart, shared, foreign;
    fill_trial t = trial_of(&apart, 0);
    t.problem = &path_problem;
    fill_put(store, run, &t);
    t = trial_of(&shared, 1);
    t.problem = &path_problem;
    t.tokens = 32;
    t.counts = counts[1];
    fill_put(store, run, &t);
    t = trial_of(&foreign, 2);
    t.problem = &other;
    t.tokens = 32;
    fill_put(store, run, &t);
    moet_problem_format(&path_problem, key);
    moet_seeds seeds = {0};
    TEST_OK(moet_seeds_load(&seeds, store, fill_host->key, key));
    assert_true(seeds.count > 0);
    bool has_apart = false, has_shared = false;
    for (int32_t i = 0; i < seeds.count; i++) {
        has_apart = has_apart || moet_config_equal(&seeds.items[i].config, &apart);
        has_shared = has_shared || moet_config_equal(&seeds.items[i].config, &shared);
        assert_false(moet_config_equal(&seeds.items[i].config, &foreign));
    }
    assert_true(has_apart);
    assert_true(has_shared);
    moet_seeds_release(&seeds);
    moet_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_seeds_of_tokens)};
    return cmocka_run_group_tests_name("store_read", tests, group_open, fill_group_close);
}
