/* What a sweep of op ffn tries, on a GPU that need not be there. */
#include "test.h"

#include "../kernels/ffn_path.h"
#include "../tuner/candidates.h"
#include "../tuner/cost_fit.h"
#include "../tuner/race.h"
#include "../tuner/seeds.h"
#include "../tuner/sweep.h"

static const moet_device_info h100 = {
    .backend = "cuda", .name = "any", .cc_major = 9, .sm_count = 132, .smem_per_block_optin_bytes = 232448};

static void check_distinct(const moet_candidates *list)
{
    for (int32_t i = 0; i < list->count; i++) {
        for (int32_t j = 0; j < i; j++) {
            if (moet_config_equal(&list->items[i].config, &list->items[j].config))
                assert_int_not_equal(list->items[i].device_counts, list->items[j].device_counts);
        }
    }
}

static bool same_half(const moet_config *a, const moet_config *b, int32_t which)
{
    const int32_t count = a->family->gemm->param_count, first = MOET_PATH_PARAMS + which * count;
    return memcmp(a->value + first, b->value + first, (size_t)count * sizeof a->value[0]) == 0;
}

static bool is_one_gemm(const moet_config *config)
{
    moet_config swapped = *config;
    const int32_t params = config->family->gemm->param_count;
    memcpy(swapped.value + MOET_PATH_PARAMS, config->value + MOET_PATH_PARAMS + params,
           (size_t)params * sizeof swapped.value[0]);
    return moet_config_equal(config, &swapped);
}

static int32_t count_applicable(const moet_candidates *list)
{
    int32_t count = 0;
    for (int32_t i = 0; i < list->count; i++) count += list->items[i].applicable;
    return count;
}

/* How many that apply are chained. */
static int32_t count_chained(const moet_candidates *list)
{
    int32_t count = 0;
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate *c = &list->items[i];
        count += c->applicable && !c->family_default && moet_ffn_path_is_chained(&c->config);
    }
    return count;
}

static void test_halves(void **state)
{
    (void)state;
    static const char *const names[] = {"wgmma_ffn", "wgmma_gemm", "mma_ffn"};
    moet_problem problem;
    if (!moet_family_find("wgmma_ffn")) skip(); /* a build without CUDA */
    moet_problem_init(&problem, MOET_OP_FFN, 8, 7168, 2048);
    problem.prob = MOET_PROB_ADVANCE;
    for (int32_t n = 0; n < MOET_COUNT_OF(names); n++) {
        moet_text_list families = {0};
        moet_candidates list = {0};
        TEST_OK(moet_parse_texts(names[n], "--families", &families));
        TEST_OK(moet_candidates_list(&problem, 8192, &h100, &families, NULL, &list));
        check_distinct(&list);
        const moet_config *default_config = NULL;
        int32_t others[2] = {0}, applicable = count_applicable(&list), listed_chained = 0;
        for (int32_t i = 0; i < list.count; i++) {
            moet_candidate *c = &list.items[i];
            assert_non_null(c->config.family->gemm);
            if (c->family_default && c->is_chosen) default_config = &c->config;
            if (!c->applicable || c->family_default) continue;
            assert_non_null(default_config); /* defaults come first */
            assert_ptr_equal(c->config.family, default_config->family);
            if (moet_ffn_path_is_chained(&c->config)) { /* both halves are one */
                assert_true(is_one_gemm(&c->config));
                listed_chained++;
                continue;
            }
            bool up = !same_half(&c->config, default_config, 0), down = !same_half(&c->config, default_config, 1);
            assert_false(up && down);
            others[0] += up;
            others[1] += down;
            /* times: later ones are faster */
            c->status = MOET_TRIAL_OK;
            c->median_ns = 1000000 - i;
        }
        print_message("%s: %d candidates apply of %d\n", names[n], applicable, list.count);
        assert_true(others[0] >= 3 && others[1] >= 3);
        assert_true(applicable < 400);
        assert_true(default_config->family->gemm->fuses_next ? listed_chained > 20 : listed_chained == 0);
        /* None of the fastest is a default, which has no time here: all nine are new. Chained, two halves may be one. */
        const int32_t crossed = MOET_CANDIDATES_HALVES * MOET_CANDIDATES_HALVES;
        const int32_t most = moet_candidates_most_crossed(default_config->family);
        const bool chains = default_config->family->gemm->fuses_next;
        assert_int_equal(most, crossed + (chains ? 2 * MOET_CANDIDATES_HALVES : 0));
        int32_t before = list.count, chained = 0;
        TEST_OK(moet_candidates_add_crossed(&list, &problem, &h100));
        check_distinct(&list);
        for (int32_t i = before; i < list.count; i++) {
            if (!moet_ffn_path_is_chained(&list.items[i].config)) continue;
            assert_true(is_one_gemm(&list.items[i].config));
            chained++;
        }
        assert_int_equal(list.count - before - chained, crossed);
        /* Most are listed from the start, but for what is not fused as the default is. */
        assert_true(chained <= (chains ? most - crossed : 0));
        before = list.count;
        TEST_OK(moet_candidates_add_crossed(&list, &problem, &h100));
        assert_int_equal(list.count, before);
        moet_candidates_release(&list);
        moet_text_list_release(&families);
    }
}

/* Measured GEMMs take the place of all that could be halves; a gathering up half leaves its cluster. */
static void test_known_gemms(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("wgmma_ffn");
    moet_problem problem;
    if (!family) skip(); /* a build without CUDA */
    moet_problem_init(&problem, MOET_OP_FFN, 8, 7168, 2048);
    problem.prob = MOET_PROB_ADVANCE;
    static const char *const texts[] = {"mode=coop,tile=128x256,stages=4,cluster=2x1", "mode=swap,tile=128x64,stages=8",
                                        "mode=coop,tile=128x256,stages=4,cluster=2x1,order=mixed"};
    moet_known_gemms known = {0};
    for (int32_t i = 0; i < 10; i++) {
        moet_config config;
        moet_config_first(family->gemm, &config);
        for (int32_t p = 0; p < config.family->param_count; p++) {
            char wanted[64];
            for (config.value[p] = 0; config.family->params[p].values[config.value[p]]; config.value[p]++) {
                snprintf(wanted, sizeof wanted, "%s=%s", config.family->params[p].name,
                         config.family->params[p].values[config.value[p]]);
                if (strstr(texts[i % 3], wanted)) break;
            }
            if (!config.family->params[p].values[config.value[p]]) config.value[p] = 0;
        }
        moet_known_gemms_add(&config, &known.up_count, known.ups);
        moet_known_gemms_add(&config, &known.down_count, known.downs);
    }
    assert_int_equal(known.up_count, 3); /* repeats are left out */
    assert_int_equal(known.down_count, 3);

    moet_text_list families = {0};
    moet_candidates list = {0};
    int32_t gathering = 0, fused = 0, passing = 0, combining = 0;
    TEST_OK(moet_parse_texts("wgmma_gemm", "--families", &families));
    TEST_OK(moet_candidates_list(&problem, 8192, &h100, &families, &known, &list));
    check_distinct(&list);
    for (int32_t i = 0; i < list.count; i++) {
        const moet_candidate *c = &list.items[i];
        if (c->config.family != family || c->family_default || moet_ffn_path_is_chained(&c->config)) continue;
        if (!c->applicable) test_fail("%s: %s", c->text, c->reason);
        gathering += c->config.value[MOET_PATH_GATHER] == MOET_PATH_GATHER_FUSED;
        fused += c->config.value[MOET_PATH_ACT] == MOET_PATH_ACT_FUSED;
        combining += c->config.value[MOET_PATH_COMBINE] == MOET_PATH_COMBINE_FUSED;
        if (c->config.value[MOET_PATH_GATHER] == MOET_PATH_GATHER_FUSED) TEST_CONTAINS(c->text, "up_cluster=1x1");
        if (c->config.value[MOET_PATH_GATHER] == MOET_PATH_GATHER_PASS) passing++;
    }
    /* Two GEMMs that differ in what does not go with gathering are one then; each way of activating. */
    assert_true(gathering >= 4 && passing >= 6);
    assert_true(fused >= 5 && combining >= 3);
    assert_true(count_applicable(&list) - count_chained(&list) < 30);
    moet_candidates_release(&list);
    moet_text_list_release(&families);

    moet_known_gemms many = {0};
    moet_config config;
    moet_config_first(family->gemm, &config);
    for (int32_t i = 0; i < 100; i++) {
        moet_known_gemms_add(&config, &many.up_count, many.ups);
        moet_config_next(&config);
    }
    assert_int_equal(many.up_count, MOET_KNOWN_GEMMS);
}

/* ---- what an effort tries ---- */

static void check_order(const moet_candidates *list, moet_effort effort)
{
    double before = 0;
    int32_t estimated = 0, step = 0; /* defaults, seeds, without estimate, estimated, inapplicable */
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate *c = &list->items[i];
        const int32_t now = c->family_default ? 0 : !c->applicable ? 4 : c->is_seed ? 1 : c->estimate_ns > 0 ? 3 : 2;
        assert_true(now >= step);
        step = now;
        if (now != 3) continue;
        assert_true(c->estimate_ns >= before);
        before = c->estimate_ns;
        estimated++;
    }
    const int32_t most = moet_effort_rule_of(effort)->estimated;
    if (most > 0) assert_int_equal(estimated, most);
    if (most > 0) assert_true(step < 4);
}

/* Estimates on the real routing choose: 8 experts of few rows want small tiles, of many large ones. A higher effort tries
 * what a lower one does. */
static void test_select(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("wgmma_gemm");
    if (!family) skip(); /* a build without CUDA */
    moet_problem problem;
    const moet_device_rates rates = moet_cost_guess(&h100, &(moet_ceilings){0});
    moet_text_list families = {0};
    TEST_OK(moet_parse_texts("wgmma_gemm,cublaslt_loop", "--families", &families));
    moet_problem_init(&problem, MOET_OP_UP, 8, 7168, 2048);
    static const int32_t counts[2][8] = {{16, 16, 16, 16, 16, 16, 16, 16}, {4000, 90, 4000, 4000, 90, 4000, 90, 4000}};
    char best[2][MOET_CONFIG_SIZE];
    for (int32_t w = 0; w < 2; w++) {
        moet_candidates lists[MOET_EFFORT_COUNT] = {{0}};
        for (moet_effort effort = MOET_EFFORT_QUICK; effort <= MOET_EFFORT_EXHAUSTIVE; effort++) {
            moet_candidates *list = &lists[effort];
            moet_config seed = {.family = family};
            TEST_OK(moet_candidates_list(&problem, 8192, &h100, &families, NULL, list));
            const int32_t listed = list->count;
            family->default_config(&problem, 8192, &h100, &seed);
            moet_config_set(&seed, "order", "front");
            TEST_OK(moet_candidates_add_seed(list, &problem, &h100, &seed));
            TEST_OK(moet_candidates_add_seed(list, &problem, &h100, &seed)); /* once */
            assert_int_equal(list->count, listed + 1);
            TEST_OK(moet_candidates_select(list, &problem, counts[w], 0, &h100, &rates, effort));
            check_distinct(list);
            check_order(list, effort);
            if (effort == MOET_EFFORT_EXHAUSTIVE) assert_int_equal(list->count, listed + 1);
            /* The least effort's are the first of every list. */
            const int32_t least = moet_candidates_least(list);
            assert_true(least <= list->count && least >= lists[MOET_EFFORT_QUICK].count);
            for (int32_t i = 0; i < lists[MOET_EFFORT_QUICK].count; i++) {
                bool found = false;
                for (int32_t j = 0; j < least; j++)
                    found = found || strcmp(list->items[j].text, lists[MOET_EFFORT_QUICK].items[i].text) == 0;
                assert_true(found);
            }
        }
        const moet_candidates *quick = &lists[MOET_EFFORT_QUICK];
        strcpy(best[w], quick->items[quick->count - 4].text);
        print_message("%d, %d and %d candidates; the best estimate: %s\n", quick->count,
                      lists[MOET_EFFORT_NORMAL].count, lists[MOET_EFFORT_EXHAUSTIVE].count, best[w]);
        for (int32_t i = 0; i < MOET_EFFORT_COUNT; i++) moet_candidates_release(&lists[i]);
    }
    assert_string_not_equal(best[0], best[1]);
    if (!strstr(best[1], "tile=128x256") && !strstr(best[1], "tile=256x128")) /* the largest, whichever way round */
        test_fail("%s for many rows", best[1]);
    moet_text_list_release(&families);
}

/* Of a path, halves of either kind, and both in one launch. */
static void test_select_path(void **state)
{
    (void)state;
    if (!moet_family_find("wgmma_ffn")) skip(); /* a build without CUDA */
    moet_problem problem;
    const moet_device_rates rates = moet_cost_guess(&h100, &(moet_ceilings){0});
    static const int32_t counts[8] = {512, 512, 512, 512, 512, 512, 512, 512};
    moet_text_list families = {0};
    moet_candidates list = {0};
    TEST_OK(moet_parse_texts("wgmma_gemm", "--families", &families));
    moet_problem_init(&problem, MOET_OP_FFN, 8, 7168, 2048);
    TEST_OK(moet_candidates_list(&problem, 4096, &h100, &families, NULL, &list));
    TEST_OK(moet_candidates_select(&list, &problem, counts, 4096, &h100, &rates, MOET_EFFORT_NORMAL));
    check_order(&list, MOET_EFFORT_NORMAL);
    const moet_config *default_config = NULL;
    int32_t ups = 0, downs = 0, chains = 0;
    for (int32_t i = 0; i < list.count; i++) {
        const moet_candidate *c = &list.items[i];
        if (c->family_default && c->is_chosen) default_config = &c->config;
        if (c->family_default) continue;
        assert_non_null(default_config);
        const bool chained = moet_ffn_path_is_chained(&c->config);
        chains += chained;
        downs += !chained && !same_half(&c->config, default_config, 1);
        ups += !chained && same_half(&c->config, default_config, 1);
    }
    assert_int_equal(chains, 6);
    assert_true(ups >= 3 && downs >= 2);
    moet_candidates_release(&list);

    /* An activation that the default leaves to a pass goes with both in one launch all the same. Where nothing is
     * chained, the others have its share. */
    for (int32_t i = 0; i < 2; i++) {
        problem.activation = MOET_ACTIVATION_GPT_OSS;
        problem.numerics = MOET_NUMERICS_TRAIN;
        TEST_OK(moet_candidates_list(&problem, 4096, &h100, &families, NULL, &list));
        assert_true(count_chained(&list) > 5);
        for (int32_t c = list.count - 1; c >= 0 && i == 1; c--) {
            if (moet_ffn_path_is_chained(&list.items[c].config)) list.items[c].applicable = false;
        }
        TEST_OK(moet_candidates_select(&list, &problem, counts, 4096, &h100, &rates, MOET_EFFORT_NORMAL));
        check_order(&list, MOET_EFFORT_NORMAL);
        assert_int_equal(count_chained(&list), i == 0 ? 6 : 0);
        moet_candidates_release(&list);
    }
    moet_text_list_release(&families);
}

/* The nearest routings' winners, each config once, none from too far. */
static void test_seeds(void **state)
{
    (void)state;
    const moet_family *family = moet_family_find("wgmma_gemm");
    if (!family) skip(); /* a build without CUDA */
    moet_seeds seeds = {0};
    moet_config configs[5], found[MOET_SEEDS_MOST];
    moet_config_first(family, &configs[0]);
    for (int32_t i = 1; i < 5; i++) {
        configs[i] = configs[i - 1];
        moet_config_next(&configs[i]);
    }
    moet_routing here = {.experts = 8, .rows = 1000, .max_over_mean = 2};
    assert_int_equal(moet_seeds_nearest(&seeds, &here, 3, found), 0);
    const struct {
        int64_t rows;
        double skew;
        int32_t config;
    } won[] = {{8001, 2, 0}, {1100, 2, 2}, {1000, 3, 3}, {900, 2, 2}, {1000, 17, 4}, {1010, 2, 2}, {2000, 2, 1}};
    for (int32_t i = 0; i < MOET_COUNT_OF(won); i++) {
        /* As many as there are near: two, before the last. */
        if (i == MOET_COUNT_OF(won) - 1) assert_int_equal(moet_seeds_nearest(&seeds, &here, MOET_SEEDS_MOST, found), 2);

        const moet_routing routing = {.experts = 8, .rows = won[i].rows, .max_over_mean = won[i].skew};
        TEST_OK(moet_seeds_add(&seeds, &routing, &configs[won[i].config]));
    }
    assert_int_equal(moet_seeds_nearest(&seeds, &here, 2, found), 2);
    assert_int_equal(moet_seeds_nearest(&seeds, &here, 3, found), 3);
    static const int32_t wanted[] = {2, 3, 1};
    for (int32_t i = 0; i < 3; i++) assert_true(moet_config_equal(&found[i], &configs[wanted[i]]));
    moet_seeds_release(&seeds);
}

/* ---- what --dry-run says ---- */

/* Of one workload. */
static moet_sweep_size dry_run(moet_op_list ops, moet_shard shard)
{
    int32_t counts[8] = {1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024};
    moet_workload workload = {
        .name = "w", .skew = "s", .experts = 8, .hidden = 7168, .inter = 2048, .rows = 8192, .counts = counts};
    const moet_workloads workloads = {.count = 1, .items = &workload};
    moet_sweep_options options = {.shard = shard, .final_rounds = 11, .effort = MOET_EFFORT_EXHAUSTIVE};
    moet_sweep_tasks tasks;
    moet_sweep_size size;
    moet_problem_options_default(&options.problem);
    options.problem.ops = ops;
    TEST_OK(moet_sweep_plan(&options, &workloads, &tasks));
    TEST_OK(moet_sweep_measure_size(&options, &tasks, &h100, &size));
    moet_sweep_tasks_release(&tasks);
    return size;
}

/* The fastest GEMMs are some that apply, as a race leaves them: any values of any parameters. */
static void draw_known(uint64_t *random, const moet_problem *problem, const moet_family *gemm, int32_t *count,
                       moet_config configs[64])
{
    const int32_t before = *count;
    while (*count - before < MOET_KNOWN_GEMMS) {
        moet_config config = {.family = gemm};
        char why[MOET_REASON_SIZE];
        for (int32_t p = 0; p < gemm->param_count; p++) {
            int32_t values = 0;
            while (gemm->params[p].values[values]) values++;
            config.value[p] = (int16_t)test_between(random, 0, values - 1);
        }
        if (gemm->applicable(problem, &config, &h100, why)) moet_known_gemms_add(&config, count, configs);
    }
}

/* A dry run of op ffn bounds what is listed when the race begins, whatever is known of the GEMMs then. */
static void test_dry_run(void **state)
{
    (void)state;
    static const moet_op_list up_down = {2, {MOET_OP_UP, MOET_OP_DOWN}}, ffn = {1, {MOET_OP_FFN}},
                              all = {3, {MOET_OP_UP, MOET_OP_DOWN, MOET_OP_FFN}},
                              ffn_first = {3, {MOET_OP_FFN, MOET_OP_UP, MOET_OP_DOWN}};
    static const moet_shard whole = {1, 1};
    const moet_family *gemms[] = {moet_family_find("wgmma_gemm"), moet_family_find("mma_gemm")};
    if (!gemms[0]) skip(); /* a build without CUDA */
    const moet_sweep_size of_gemms = dry_run(up_down, whole), alone = dry_run(ffn, whole), last = dry_run(all, whole),
                          first = dry_run(ffn_first, whole);
    assert_false(of_gemms.is_bound);
    assert_true(alone.is_bound && last.is_bound && first.is_bound);
    assert_int_equal(first.candidates, of_gemms.candidates + alone.candidates); /* nothing is known then */
    const int64_t bound = last.candidates - of_gemms.candidates;
    assert_int_equal(last.around - of_gemms.around, alone.around);

    moet_problem problem;
    moet_text_list none = {0};
    moet_problem_init(&problem, MOET_OP_FFN, 8, 7168, 2048);
    problem.prob = MOET_PROB_ADVANCE;
    const moet_problem up = moet_problem_gemm(&problem, MOET_OP_UP), down = moet_problem_gemm(&problem, MOET_OP_DOWN);
    uint64_t random = 1;
    int32_t most = 0;
    for (int32_t i = 0; i < 30; i++) {
        moet_known_gemms known = {0};
        moet_candidates list = {0};
        for (int32_t f = 0; f < MOET_COUNT_OF(gemms); f++) {
            draw_known(&random, &up, gemms[f], &known.up_count, known.ups);
            draw_known(&random, &down, gemms[f], &known.down_count, known.downs);
        }
        TEST_OK(moet_candidates_list(&problem, 8192, &h100, &none, &known, &list));
        const int32_t applicable = count_applicable(&list);
        if (applicable > bound) test_fail("%d candidates, at most %lld were said", applicable, (long long)bound);
        most = applicable > most ? applicable : most;
        moet_candidates_release(&list);
    }
    print_message("%d candidates at most, %lld said; %lld where nothing is known\n", most, (long long)bound,
                  (long long)alone.candidates);
    assert_true(most * 3 > bound * 2); /* not far below */

    /* With nothing known the list is what is said, and step 3 adds no more than is said. */
    moet_candidates list = {0};
    TEST_OK(moet_candidates_list(&problem, 8192, &h100, &none, NULL, &list));
    assert_int_equal(count_applicable(&list), alone.candidates);
    const int32_t chained = count_chained(&list), listed = list.count;
    assert_true((bound - chained) * 4 < alone.candidates - chained);
    for (int32_t i = 0; i < listed; i++) {
        list.items[i].status = MOET_TRIAL_OK; /* later ones are faster: none of the best is a default */
        const bool is_half = list.items[i].applicable && !moet_ffn_path_is_chained(&list.items[i].config);
        list.items[i].median_ns = is_half ? 1000000 - i : 0;
    }
    const moet_effort_rule *rule = moet_effort_rule_of(MOET_EFFORT_EXHAUSTIVE);
    const int32_t most_centers = rule->path_centers[0] + rule->path_centers[1];
    TEST_OK(moet_candidates_add_crossed(&list, &problem, &h100));
    for (int32_t i = 0; i < most_centers; i++) /* crossed ones: most around them is new */
        TEST_OK(moet_candidates_add_around(&list, &problem, &h100, listed + 4 * i));
    const int32_t added = list.count - listed;
    print_message("%d added around the best, at most %lld said\n", added, (long long)alone.around);
    assert_true(added <= alone.around && added * 10 > alone.around * 9);
    moet_candidates_release(&list);

    /* Another shard may have the GEMMs: nothing is taken for known. */
    int64_t sum = 0;
    for (int32_t i = 1; i <= 2; i++) sum += dry_run(all, (moet_shard){i, 2}).candidates;
    assert_int_equal(sum, first.candidates);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_halves), cmocka_unit_test(test_known_gemms),
                                       cmocka_unit_test(test_select),
                                       cmocka_unit_test(test_select_path), cmocka_unit_test(test_seeds),
                                       cmocka_unit_test(test_dry_run)};
    return cmocka_run_group_tests_name("candidates", tests, NULL, NULL);
}
