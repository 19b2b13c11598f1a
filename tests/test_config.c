/* Configurations as texts, and what every family declares: over the whole space of every family of this build. */
#include "configs.h"

static int64_t space_size(const moet_family *family)
{
    int64_t size = 1;
    for (int32_t p = 0; p < family->param_count; p++) {
        int32_t values = 0;
        if (family->params[p].search == MOET_SEARCH_LISTED) continue; /* no walk turns it */
        while (family->params[p].values[values]) values++;
        size *= values;
    }
    return size;
}

static void test_declarations(void **state)
{
    (void)state;
    assert_non_null(moet_families[0]);
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *f = moet_families[i];
        assert_true(f->name && f->name[0] && !strpbrk(f->name, ":,= "));
        assert_true(f->version >= 1);
        assert_non_null(moet_backend_find(f->backend));
        assert_true(f->summary && f->summary[0]);
        assert_true(f->param_count >= 0 && f->param_count <= MOET_MAX_PARAMS);
        assert_true(f->traits && f->applicable && f->default_config && f->workspace_bytes && f->prepare && f->launch &&
                    f->release);
        assert_ptr_equal(moet_family_find(f->name), f);
        for (int32_t p = 0; p < f->param_count; p++) {
            assert_true(f->params[p].name[0] && !strpbrk(f->params[p].name, ":,= "));
            assert_int_equal(moet_family_param(f, f->params[p].name), p);
            assert_non_null(f->params[p].values[0]);
            for (int32_t v = 0; f->params[p].values[v]; v++) {
                assert_true(f->params[p].values[v][0] && !strpbrk(f->params[p].values[v], ":,= "));
                for (int32_t u = 0; u < v; u++) assert_string_not_equal(f->params[p].values[u], f->params[p].values[v]);
            }
        }
    }
    assert_null(moet_family_find("no_such_family"));
}

static void test_round_trip_over_the_space(void **state)
{
    (void)state;
    for (int32_t i = 0; moet_families[i]; i++) {
        moet_config config, parsed, previous = {0};
        int64_t seen = 0;
        if (moet_families[i]->gemm) continue; /* its space is a product of two */
        moet_config_first(moet_families[i], &config);
        do {
            char text[MOET_CONFIG_SIZE], again[MOET_CONFIG_SIZE];
            moet_config_format(&config, text);
            TEST_OK(moet_config_parse(text, &parsed));
            assert_true(moet_config_equal(&config, &parsed));
            moet_config_format(&parsed, again);
            assert_string_equal(text, again);
            if (seen > 0) assert_false(moet_config_equal(&config, &previous));
            previous = config;
            seen++;
        } while (moet_config_next(&config));
        assert_int_equal(seen, space_size(moet_families[i]));
    }
}

static void refuse(moet_status status, const char *words, const char *text)
{
    moet_config config, before;
    memset(&config, 0x5a, sizeof config);
    memcpy(&before, &config, sizeof config);
    TEST_FAILS(status, words, moet_config_parse(text, &config));
    assert_memory_equal(&config, &before, sizeof config);
}

static void test_malformed(void **state)
{
    (void)state;
    refuse(MOET_NOT_FOUND, "no kernel family 'bogus'", "bogus:a=1");
    refuse(MOET_NOT_FOUND, "no kernel family ''", "");
    refuse(MOET_MALFORMED, "no such kernel family",
           "a_name_that_is_far_longer_than_any_kernel_family_in_this_or_any_other_build_would_be:x=1");
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *f = moet_families[i];
        moet_config config;
        char good[MOET_CONFIG_SIZE], text[2 * MOET_CONFIG_SIZE], words[MOET_CONFIG_SIZE + 64];
        moet_config_first(f, &config);
        moet_config_format(&config, good);
        snprintf(text, sizeof text, "%s%cbogus=1", good, f->param_count ? ',' : ':');
        refuse(MOET_MALFORMED, "'bogus' is no parameter", text);
        snprintf(text, sizeof text, "%s,", good);
        refuse(f->param_count ? MOET_MALFORMED : MOET_NOT_FOUND, NULL,
               text); /* without parameters, a name with a comma */
        if (f->param_count == 0) continue;
        refuse(MOET_MALFORMED, "is missing", f->name);
        snprintf(text, sizeof text, "%s,%s=%s", good, f->params[0].name, moet_config_text(&config, 0));
        refuse(MOET_MALFORMED, "a repeated parameter", text);
        for (int32_t p = 0; p < f->param_count;
             p++) { /* each parameter left out, without a value, with a strange one */
            size_t used = (size_t)snprintf(text, sizeof text, "%s", f->name);
            for (int32_t q = 0, n = 0; q < f->param_count; q++) {
                if (q == p) continue;
                used += (size_t)snprintf(text + used, sizeof text - used, "%c%s=%s", n++ ? ',' : ':', f->params[q].name,
                                         moet_config_text(&config, q));
            }
            snprintf(words, sizeof words, "parameter %s is missing", f->params[p].name);
            if (f->params[p].search == MOET_SEARCH_LISTED)
                TEST_OK(moet_config_parse(text, &config));
            else
                refuse(MOET_MALFORMED, words, text);
            char separator = f->param_count > 1 ? ',' : ':';
            snprintf(text + used, sizeof text - used, "%c%s=", separator, f->params[p].name);
            refuse(MOET_MALFORMED, "has no value ''", text);
            snprintf(text + used, sizeof text - used, "%c%s=-1", separator, f->params[p].name);
            refuse(MOET_MALFORMED, "has no value '-1'", text);
            snprintf(text + used, sizeof text - used, "%c%s", separator, f->params[p].name);
            refuse(MOET_MALFORMED, "no parameter", text);
        }
        for (size_t length = 0; length < strlen(good); length++) { /* cut anywhere: never taken for another config */
            snprintf(text, sizeof text, "%.*s", (int)length, good);
            moet_config parsed;
            char again[MOET_CONFIG_SIZE];
            if (moet_config_parse(text, &parsed) != MOET_OK) continue;
            moet_config_format(&parsed, again); /* "k=16" cut to "k=1" may be a value */
            assert_string_equal(text, again);
        }
    }
}

/* Parameters in another order mean the same and come back in canonical order. */
static void test_order_does_not_matter(void **state)
{
    (void)state;
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *f = moet_families[i];
        moet_config config, parsed;
        char text[MOET_CONFIG_SIZE];
        moet_config_first(f, &config);
        size_t used = (size_t)snprintf(text, sizeof text, "%s", f->name);
        for (int32_t p = f->param_count - 1, n = 0; p >= 0; p--)
            used += (size_t)snprintf(text + used, sizeof text - used, "%c%s=%s", n++ ? ',' : ':', f->params[p].name,
                                     moet_config_text(&config, p));
        TEST_OK(moet_config_parse(text, &parsed));
        assert_true(moet_config_equal(&config, &parsed));
    }
}

static void test_set_and_number(void **state)
{
    (void)state;
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *f = moet_families[i];
        moet_config config;
        moet_config_first(f, &config);
        for (int32_t p = 0; p < f->param_count; p++) {
            for (int32_t v = 0; f->params[p].values[v]; v++) {
                moet_config_set(&config, f->params[p].name, f->params[p].values[v]);
                assert_int_equal(config.value[p], v);
                assert_string_equal(moet_config_text(&config, p), f->params[p].values[v]);
                assert_int_equal(moet_config_number(&config, p), atoi(f->params[p].values[v]));
            }
        }
    }
}

/* What no family serves is refused by each with its reason; a device that no family serves has no default. */
static void test_refusals(void **state)
{
    (void)state;
    moet_problem problem;
    moet_device_info nowhere = {.backend = "abacus", .name = "beads"}, tiny = {.backend = "cuda", .cc_major = 1};
    moet_problem_init(&problem, MOET_OP_UP, 8, 64, 64);
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *f = moet_families[i];
        moet_config config;
        char why[MOET_REASON_SIZE] = "";
        moet_config_first(f, &config);
        moet_problem_init(&problem, f->gemm ? MOET_OP_FFN : MOET_OP_UP, 8, 64, 64);
        assert_false(f->applicable(&problem, &config, &nowhere, why));
        TEST_CONTAINS(why, f->name);
        TEST_CONTAINS(why, "abacus");
        moet_device_info own = {.sm_count = 1};
        snprintf(own.backend, sizeof own.backend, "%s", f->backend);
        moet_problem bad = problem;
        bad.hidden = 12;
        why[0] = '\0';
        assert_false(f->applicable(&bad, &config, &own, why));
        TEST_CONTAINS(why, "multiples of 8");
        if (strcmp(f->backend, "cuda") == 0) {
            why[0] = '\0';
            assert_false(f->applicable(&problem, &config, &tiny, why)); /* compute capability 1.0 */
            assert_true(why[0]);
        }
    }
    moet_config config;
    moet_problem_init(&problem, MOET_OP_UP, 8, 64, 64);
    TEST_FAILS(MOET_UNSUPPORTED, "none is built for this backend",
               moet_default_config(&problem, 1, false, &nowhere, &config));
}

/* One launch for both GEMMs: of the families that have it, where both halves are one that each GEMM takes, and nothing
 * lies between. */
static void check_chained(const moet_problem *path, const moet_config *config, const moet_device_info *device,
                          bool fits)
{
    const moet_family *f = config->family;
    const int32_t count = f->gemm->param_count, up = f->param_count - 2 * count, down = up + count;
    char why[MOET_REASON_SIZE] = "";
    moet_config chained = *config;
    chained.value[3] = 1;
    const bool equal = memcmp(config->value + up, config->value + down, (size_t)count * sizeof config->value[0]) == 0;
    if (!f->gemm->fuses_next || config->value[0] != 0 || !equal || !fits) {
        assert_false(f->applicable(path, &chained, device, why));
        assert_true(why[0] != '\0');
        return;
    }
    if (!f->applicable(path, &chained, device, why)) assert_true(strstr(why, "cluster") || strstr(why, "shared memory"));
}

/* A path's values are its own, its up GEMM's and then its down GEMM's; it serves op ffn and refuses what either GEMM
 * refuses, which refuse op ffn. */
static void test_paths(void **state)
{
    (void)state;
    uint64_t random = 3;
    static const moet_device_info devices[] = {
        {.backend = "cuda", .name = "any", .cc_major = 9, .sm_count = 132, .smem_per_block_optin_bytes = 232448},
        {.backend = "host", .name = "any", .sm_count = 4},
    };
    int32_t paths = 0;
    for (int32_t i = 0; moet_families[i]; i++) {
        const moet_family *f = moet_families[i], *gemm = f->gemm;
        moet_problem path, up, down;
        char why[MOET_REASON_SIZE], text[MOET_CONFIG_SIZE];
        const moet_device_info *device = &devices[strcmp(f->backend, "host") == 0];
        moet_problem_init(&path, MOET_OP_FFN, 8, 1024, 512);
        path.down_bias = true;
        up = moet_problem_gemm(&path, MOET_OP_UP);
        down = moet_problem_gemm(&path, MOET_OP_DOWN);
        TEST_OK(moet_problem_validate(&up));
        TEST_OK(moet_problem_validate(&down));
        assert_true(down.bias && !up.bias);
        moet_config config, parsed;
        moet_config_first(f, &config);
        assert_false(f->applicable(gemm ? &up : &path, &config, device, why));
        TEST_CONTAINS(why, "ffn");
        if (!gemm) continue;
        paths++;
        const int32_t own_count = f->param_count - 2 * gemm->param_count;
        assert_int_equal(own_count, 4);
        assert_string_equal(f->params[0].name, "act");
        assert_string_equal(f->params[0].values[0], "fused");
        assert_string_equal(f->params[1].name, "gather");
        assert_string_equal(f->params[1].values[1], "fused");
        assert_string_equal(f->params[2].name, "combine");
        assert_string_equal(f->params[2].values[1], "fused");
        assert_string_equal(f->params[3].name, "chain");
        assert_string_equal(f->params[3].values[1], "on");
        assert_null(gemm->gemm);
        f->default_config(&path, 4096, device, &config);
        assert_true(f->applicable(&path, &config, device, why));
        for (int32_t nth = 0; nth < 3000; nth++) {
            moet_config halves[2] = {{.family = gemm}, {.family = gemm}};
            const bool is_fused = test_between(&random, 0, 1);
            config.value[0] = !is_fused;
            config.value[3] = 0;
            config.value[1] = halves[0].gathers = gemm->fuses_gather && test_between(&random, 0, 1);
            config.value[2] = halves[1].scatters = gemm->fuses_scatter && test_between(&random, 0, 1);
            path.prob = test_between(&random, 0, 1) ? MOET_PROB_COMBINE : MOET_PROB_NONE;
            up.activation = is_fused ? MOET_ACTIVATION_SWIGLU : MOET_ACTIVATION_NONE;
            for (int32_t q = 0; q < 2 * gemm->param_count; q++) {
                const int32_t p = own_count + q;
                const moet_param *param = &f->params[p], *own = &gemm->params[q % gemm->param_count];
                const bool is_up = q < gemm->param_count;
                assert_ptr_equal(param->values, own->values);
                assert_int_equal(param->search, own->search);
                assert_string_equal(param->name + (is_up ? 3 : 5), own->name);
                int32_t values = 0;
                while (param->values[values]) values++;
                config.value[p] = (int16_t)test_between(&random, 0, values - 1);
                if (!is_up && nth % 2) config.value[p] = config.value[p - gemm->param_count]; /* equal halves */
                halves[!is_up].value[q % gemm->param_count] = config.value[p];
            }
            moet_config_format(&config, text);
            TEST_OK(moet_config_parse(text, &parsed));
            assert_true(moet_config_equal(&config, &parsed));
            const bool fits_up = gemm->applicable(&up, &halves[0], device, why);
            /* The only row of a token is more than a copy where it is weighted at the combine. */
            const bool is_weighted = halves[1].scatters && path.prob == MOET_PROB_COMBINE;
            const bool fits_down = gemm->applicable(&down, &halves[1], device, why) && !is_weighted;
            why[0] = '\0';
            assert_int_equal(f->applicable(&path, &config, device, why), fits_up && fits_down);
            if (!fits_up || !fits_down) TEST_CONTAINS(why, fits_up ? "down: " : "up: ");
            check_chained(&path, &config, device, fits_up && fits_down);
        }
    }
    assert_true(paths > 0);
}

/* A factor of test_configs_create, and so of its pairwise sets: of problems four a shape. */
static int32_t factor_of(const test_choice *choice, int32_t factor)
{
    const int32_t param_count = choice->config.family->param_count, problem = choice->problem;
    const int32_t of_problem[] = {problem & 1, problem >> 1 & 1, problem >> 2};
    return factor < param_count ? choice->config.value[factor] : of_problem[factor - param_count];
}

static void test_pairwise_sets(void **state)
{
    (void)state;
    static const moet_device_info devices[] = {
        {.backend = "cuda", .name = "any", .cc_major = 9, .sm_count = 132, .smem_per_block_optin_bytes = 232448},
        {.backend = "cuda", .name = "any", .cc_major = 8, .sm_count = 108, .smem_per_block_optin_bytes = 166912},
        {.backend = "host", .name = "any", .sm_count = 4},
    };
    enum { MOST_VALUES = 256 };
    static bool has[MOST_VALUES][MOST_VALUES];
    moet_problem problems[8];
    for (int32_t i = 0; i < MOET_COUNT_OF(problems); i++) {
        moet_problem_init(&problems[i], MOET_OP_UP, i < 4 ? 8 : 512, 1024, 512);
        problems[i].layout = (moet_layout)(i & 1);
        problems[i].bias = i & 2;
    }
    for (int32_t f = 0; moet_families[f]; f++) {
        if (moet_families[f]->gemm) continue;
        for (int32_t d = 0; d < MOET_COUNT_OF(devices); d++) {
            test_configs all, pairs;
            test_configs_create(moet_families[f], problems, MOET_COUNT_OF(problems), &devices[d], false, &all);
            test_configs_create(moet_families[f], problems, MOET_COUNT_OF(problems), &devices[d], true, &pairs);
            assert_int_equal(all.count, all.legal);
            assert_int_equal(pairs.legal, all.legal);
            assert_true(pairs.count <= all.count && (pairs.count > 0) == (all.count > 0));
            const int32_t factor_count = moet_families[f]->param_count + 3;
            for (int32_t a = 0; a < factor_count; a++) {
                for (int32_t b = 0; b < a; b++) {
                    memset(has, 0, sizeof has);
                    for (int32_t i = 0; i < pairs.count; i++)
                        has[factor_of(&pairs.choices[i], a)][factor_of(&pairs.choices[i], b)] = true;
                    for (int32_t i = 0; i < all.count; i++)
                        assert_true(has[factor_of(&all.choices[i], a)][factor_of(&all.choices[i], b)]);
                }
            }
            test_configs_destroy(&all);
            test_configs_destroy(&pairs);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_declarations),   cmocka_unit_test(test_round_trip_over_the_space),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_order_does_not_matter),
        cmocka_unit_test(test_set_and_number), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_pairwise_sets),  cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
