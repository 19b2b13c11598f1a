/* The space of cuBLASLt's algorithms, on a made-up library whose rules can be counted (fake_cublaslt.c): no GPU. */
#include "test.h"

#ifdef MOET_CUDA
#include "../kernels/cublaslt_space.h"
#include "../tuner/candidates.h"

#include <dlfcn.h>

#define FIRST 2 /* parameter of cublaslt_loop */

static moet_device device = {.info = {.backend = "cuda", .cc_major = 9, .sm_count = 132}};
static moet_problem problem;
static moet_config base;

static moet_prepare_args args_for(int64_t max_rows)
{
    return (moet_prepare_args){.device = &device, .problem = &problem, .config = &base, .max_rows = max_rows};
}

static moet_lt_product open_product(moet_numerics numerics, int64_t max_rows, int32_t batch)
{
    moet_lt_product product;
    problem.numerics = numerics;
    const moet_prepare_args args = args_for(max_rows);
    TEST_OK(moet_lt_product_create("cublaslt_loop", &args, batch, 100, 0, &product));
    return product;
}

static int group_open(void **state)
{
    (void)state;
    /* What the process has already loaded is what the families bind. */
    if (!dlopen("testlib/fake/libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL)) {
        print_error("%s\n", dlerror());
        return 1;
    }
    moet_problem_init(&problem, MOET_OP_UP, 8, 2048, 1024);
    return moet_config_parse("cublaslt_loop:streams=4,tile=auto", &base) != MOET_OK;
}

typedef struct listed {
    int32_t count;
    moet_config configs[512];
} listed;

static moet_status keep(void *context, const moet_config *config)
{
    listed *list = context;
    list->configs[list->count++] = *config;
    return MOET_OK;
}

static uint32_t number(const moet_config *config, int32_t field)
{
    return (uint32_t)moet_config_number(config, FIRST + field);
}

static void list_all(const moet_lt_product *product, int32_t rows, int32_t max_rows, int32_t limit, listed *list)
{
    list->count = 0;
    TEST_OK(moet_lt_space_list(product, &base, FIRST, rows, max_rows, limit, keep, list));
}

/* 7: tile 20, with and without swizzle. 66: tiles 20 and 32, 2 stages, 4 clusters (one of them undefined), 3 custom
 * options. Tile 23 does not serve one row. */
#define WHOLE (1 * 2 + 2 * 2 * 4 * 3)

static void test_list(void **state)
{
    (void)state;
    static listed list;
    moet_lt_product product = open_product(MOET_NUMERICS_TRAIN, 100, 1);
    list_all(&product, 64, 100, 512, &list);
    assert_int_equal(list.count, WHOLE);
    /* The heuristic's two that are not split, then by waves: tile 32 has three rows, tile 20 has two. */
    assert_int_equal(number(&list.configs[0], MOET_LT_FIELD_algo), 66);
    assert_int_equal(number(&list.configs[0], MOET_LT_FIELD_tile_id), 32);
    assert_int_equal(number(&list.configs[1], MOET_LT_FIELD_algo), 7);
    for (int32_t i = 2; i < list.count; i++)
        assert_int_equal(number(&list.configs[i], MOET_LT_FIELD_tile_id), i < 2 + 23 ? 32 : 20);
    for (int32_t i = 0; i < list.count; i++) {
        moet_config parsed;
        char text[MOET_CONFIG_SIZE], why[MOET_REASON_SIZE];
        cublasLtMatmulAlgo_t algorithm;
        const moet_config *config = &list.configs[i];
        for (int32_t j = 0; j < i; j++) assert_false(moet_config_equal(config, &list.configs[j]));
        moet_config_format(config, text);
        TEST_OK(moet_config_parse(text, &parsed));
        assert_true(moet_config_equal(config, &parsed));
        if (!config->family->applicable(&problem, config, &device.info, why)) test_fail("%s: %s", text, why);
        assert_int_equal(number(config, MOET_LT_FIELD_split_k), 1);
        TEST_OK(moet_lt_space_make(&product, config, FIRST, &algorithm));
        assert_true(moet_lt_product_takes(&product, &algorithm, 1, 100, NULL));
        moet_config again = base;
        assert_true(moet_lt_space_name(product.lt, &algorithm, FIRST, &again));
        assert_true(moet_config_equal(config, &again));
    }
    list_all(&product, 64, 100, 5, &list);
    assert_int_equal(list.count, 5);
    assert_int_equal(number(&list.configs[4], MOET_LT_FIELD_tile_id), 32);
    moet_lt_product_release(&product);
}

/* A last wave that is nearly empty costs more than smaller tiles. */
static void test_list_order(void **state)
{
    (void)state;
    static listed list;
    moet_lt_product product = open_product(MOET_NUMERICS_TRAIN, 4, 1);
    list_all(&product, 4, 4, 512, &list); /* tile 20: two full waves; tile 32: one and a third */
    assert_int_equal(number(&list.configs[2], MOET_LT_FIELD_tile_id), 20);
    assert_int_equal(number(&list.configs[list.count - 1], MOET_LT_FIELD_tile_id), 32);
    moet_lt_product_release(&product);
}

/* Split along K where sums may be, but not algorithm 66, which is wrong at it. */
static void test_list_split(void **state)
{
    (void)state;
    static listed list;
    int32_t split = 0;
    moet_lt_product product = open_product(MOET_NUMERICS_FAST, 100, 1);
    list_all(&product, 64, 100, 512, &list);
    for (int32_t i = 0; i < list.count; i++) {
        if (number(&list.configs[i], MOET_LT_FIELD_split_k) == 1) continue;
        split++;
        assert_int_equal(number(&list.configs[i], MOET_LT_FIELD_algo), 7);
        assert_int_equal(number(&list.configs[i], MOET_LT_FIELD_reduction), 2);
    }
    assert_int_equal(split, 2 * 6);
    assert_int_equal(list.count, WHOLE + split);
    moet_lt_product_release(&product);
}

static void expect_refused(const char *text, moet_numerics numerics, const char *part)
{
    moet_config config;
    char why[MOET_REASON_SIZE] = "";
    TEST_OK(moet_config_parse(text, &config));
    problem.numerics = numerics;
    if (config.family->applicable(&problem, &config, &device.info, why) || !strstr(why, part))
        test_fail("%s: '%s', expected '%s'", text, why, part);
}

static void test_texts(void **state)
{
    (void)state;
    moet_config config;
    char text[MOET_CONFIG_SIZE];
    /* Fields at their first value are left out; those of older texts stay as they were. */
    TEST_OK(moet_config_parse("cublaslt_loop:streams=4,tile=auto,algo=66,swizzle=0,tile_id=23", &config));
    moet_config_format(&config, text);
    assert_string_equal(text, "cublaslt_loop:streams=4,tile=auto,algo=66,tile_id=23");
    moet_config_format(&base, text);
    assert_string_equal(text, "cublaslt_loop:streams=4,tile=auto");
    assert_int_equal(moet_config_parse("cublaslt_loop:tile=auto,algo=66", &config), MOET_MALFORMED);
    assert_int_equal(moet_config_parse("cublaslt_loop:streams=4,tile=auto,algo=1000", &config), MOET_MALFORMED);
    expect_refused("cublaslt_loop:streams=4,tile=auto,tile_id=23", MOET_NUMERICS_TRAIN, "without algo");
    expect_refused("cublaslt_loop:streams=4,tile=64x128,algo=66", MOET_NUMERICS_TRAIN, "tile_id");
    expect_refused("cublaslt_loop:streams=4,tile=auto,algo=7,split_k=2,reduction=2", MOET_NUMERICS_TRAIN, "fast");
    /* Walks leave them alone: streams by tile. */
    int32_t count = 0;
    moet_config_first(base.family, &config);
    do count++;
    while (moet_config_next(&config));
    assert_int_equal(count, 4 * 6);
}

static void expect_choose(const char *text, int64_t max_rows, moet_status status, const char *part)
{
    moet_config config;
    cublasLtMatmulAlgo_t algorithm;
    moet_lt_product product = open_product(MOET_NUMERICS_TRAIN, max_rows, 1);
    TEST_OK(moet_config_parse(text, &config));
    moet_status got = moet_lt_space_make(&product, &config, FIRST, &algorithm);
    if (got == MOET_OK) {
        const moet_lt_wish wish = {.algorithm = &algorithm, .name = "the algorithm"};
        const moet_prepare_args args = args_for(max_rows);
        got = moet_lt_product_choose(&product, &args, &wish);
    }
    if (got != status || (part && !strstr(moet_last_error(), part))) test_fail("%s: %s", text, moet_last_error());
    moet_lt_product_release(&product);
}

/* A named algorithm serves every bucket or is refused. */
static void test_named(void **state)
{
    (void)state;
    expect_choose("cublaslt_loop:streams=1,tile=auto,algo=66,tile_id=32,stages_id=35", 1000, MOET_OK, NULL);
    expect_choose("cublaslt_loop:streams=1,tile=auto,algo=66,tile_id=23,stages_id=35", 1000, MOET_UNSUPPORTED,
                  "for 1 to 1 rows");
    expect_choose("cublaslt_loop:streams=1,tile=auto,algo=66,tile_id=32,stages_id=37", 1000, MOET_UNSUPPORTED,
                  "refuses");
    expect_choose("cublaslt_loop:streams=1,tile=auto,algo=7,tile_id=20,stages_id=35", 1000, MOET_UNSUPPORTED,
                  "takes no stages_id=35 for algorithm 7");
    expect_choose("cublaslt_loop:streams=1,tile=auto,algo=8", 1000, MOET_UNSUPPORTED, "no algorithm 8");
}

/* A table's algorithms are taken for the rows they are for, if the library takes them and all SMs are used. */
static void test_restore(void **state)
{
    (void)state;
    static moet_algorithm stored[MOET_MAX_ALGORITHMS];
    moet_lt_product product = open_product(MOET_NUMERICS_TRAIN, 100, 1), restored;
    const moet_lt_wish wish = {.name = "any"};
    moet_prepare_args args = args_for(100);
    TEST_OK(moet_lt_product_choose(&product, &args, &wish));
    const int32_t count = moet_lt_product_algorithms(&product, stored);
    assert_int_equal(count, product.bucket_count);
    assert_int_equal(stored[count - 1].rows, 100);
    assert_string_equal(stored[0].text, "algo=66,tile_id=32,stages_id=35,inner_id=0,cluster_id=0,swizzle=0,custom=0,"
                                        "split_k=1,reduction=0");
    /* Another one that is right, for one bucket; one that the library refuses, for another; one for no bucket. */
    cublasLtMatmulAlgo_t changed;
    memcpy(&changed, stored[4].bytes, sizeof changed);
    assert_int_equal(
        product.lt->cublasLtMatmulAlgoConfigSetAttribute(&changed, CUBLASLT_ALGO_CONFIG_TILE_ID, &(uint32_t){20}, 4),
        CUBLAS_STATUS_SUCCESS);
    memcpy(stored[4].bytes, &changed, sizeof changed);
    assert_int_equal(
        product.lt->cublasLtMatmulAlgoConfigSetAttribute(&changed, CUBLASLT_ALGO_CONFIG_TILE_ID, &(uint32_t){99}, 4),
        CUBLAS_STATUS_SUCCESS);
    memcpy(stored[5].bytes, &changed, sizeof changed);
    stored[6].rows += 1;
    memcpy(stored[6].bytes, stored[4].bytes, sizeof changed);
    args.algorithm_count = count;
    args.algorithms = stored;
    for (int32_t max_sms = 0; max_sms < 2; max_sms++) {
        args.max_sms = max_sms;
        restored = open_product(MOET_NUMERICS_TRAIN, 100, 1);
        TEST_OK(moet_lt_product_choose(&restored, &args, &wish));
        assert_int_equal(restored.bucket_count, count);
        for (int32_t i = 0; i < count; i++) {
            const uint32_t tile =
                moet_lt_algorithm_attribute(restored.lt, &restored.buckets[i].algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID);
            if (tile != (i == 4 && max_sms == 0 ? 20u : 32u)) test_fail("bucket %d: tile %u", i, tile);
        }
        moet_lt_product_release(&restored);
    }
    moet_lt_product_release(&product);
}

/* The heuristic's second that serves is at index 1; beyond the last the last is taken, but a bucket must have it. */
static void test_index(void **state)
{
    (void)state;
    for (int32_t index = 0; index < 3; index++) {
        moet_lt_product product = open_product(MOET_NUMERICS_TRAIN, 10, 4);
        const moet_lt_wish wish = {.index = index, .name = "a choice at this index"};
        const moet_prepare_args args = args_for(10);
        const moet_status status = moet_lt_product_choose(&product, &args, &wish);
        assert_int_equal(status, index < 2 ? MOET_OK : MOET_UNSUPPORTED);
        if (status == MOET_OK)
            assert_int_equal(
                moet_lt_algorithm_attribute(product.lt, &product.buckets[0].algorithm, CUBLASLT_ALGO_CONFIG_ID),
                index == 0 ? 66 : 7);
        moet_lt_product_release(&product);
    }
}

typedef struct library_listing {
    const int32_t *counts;
    int32_t limit;
} library_listing;

/* What a bench does in a sweep's worker, without one. */
static moet_status ask_library(void *context, const moet_config *shared, moet_config_visit visit, void *visit_context)
{
    const library_listing *l = context;
    int64_t rows = 0;
    for (int32_t e = 0; e < problem.experts; e++) rows += l->counts[e];
    const moet_prepare_args args = {.device = &device, .problem = &problem, .config = shared, .max_rows = rows};
    return shared->family->list(&args, l->counts, l->limit, visit, visit_context);
}

/* A sweep's list gets them once, beside what the parameters span. */
static void test_candidates(void **state)
{
    (void)state;
    const char *names[] = {"cublaslt_loop"};
    const moet_text_list families = {.count = 1, .texts = (char **)(uintptr_t)names};
    const int32_t counts[] = {64, 64, 64, 64, 64, 64, 64, 64};
    moet_candidates list;
    problem.numerics = MOET_NUMERICS_TRAIN;
    TEST_OK(moet_candidates_list(&problem, 512, &device.info, &families, NULL, &list));
    const int32_t spanned = list.count;
    for (int32_t round = 0; round < 2; round++) {
        library_listing listing = {counts, 300};
        TEST_OK(moet_candidates_add_listed(&list, &problem, &device.info, ask_library, &listing));
        assert_int_equal(list.count, spanned + WHOLE);
    }
    for (int32_t i = spanned; i < list.count; i++) {
        const moet_candidate *c = &list.items[i];
        assert_true(c->applicable && c->is_chosen && !c->device_counts && !c->family_default);
        assert_string_equal(c->validator, "cublasLt 130100");
        assert_non_null(strstr(c->text, ",algo="));
    }
    moet_candidates_release(&list);
    problem.experts = 4; /* counts are of as many */
    TEST_OK(moet_candidates_list(&problem, 256, &device.info, &families, NULL, &list));
    const int32_t before = list.count;
    library_listing few = {counts, 7};
    TEST_OK(moet_candidates_add_listed(&list, &problem, &device.info, ask_library, &few));
    assert_int_equal(list.count, before + 7);
    moet_candidates_release(&list);
    problem.experts = 8;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),  cmocka_unit_test(test_list_order), cmocka_unit_test(test_list_split),
        cmocka_unit_test(test_texts), cmocka_unit_test(test_named),      cmocka_unit_test(test_restore),
        cmocka_unit_test(test_index), cmocka_unit_test(test_candidates),
    };
    return cmocka_run_group_tests_name("cublaslt_space", tests, group_open, NULL);
}
#else
int main(void)
{
    puts("skipped: this build has no CUDA");
    return 77;
}
#endif
