/* What a sweep of op ffn tries, on a GPU that need not be there. */
#include "test.h"

#include "../kernels/ffn_path.h"
#include "../tuner/candidates.h"

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
        TEST_OK(moet_candidates_list(&problem, 8192, &h100, &families, &list));
        check_distinct(&list);
        const moet_config *default_config = NULL;
        int32_t others[2] = {0}, applicable = moet_candidates_applicable(&list);
        for (int32_t i = 0; i < list.count; i++) {
            moet_candidate *c = &list.items[i];
            assert_non_null(c->config.family->gemm);
            if (c->family_default && c->is_chosen) default_config = &c->config;
            if (!c->applicable || c->family_default) continue;
            assert_non_null(default_config); /* defaults come first */
            assert_ptr_equal(c->config.family, default_config->family);
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
        /* None of the fastest is a default, which has no time here: all nine are new. */
        int32_t before = list.count;
        TEST_OK(moet_candidates_add_crossed(&list, &problem, &h100));
        check_distinct(&list);
        assert_int_equal(list.count - before, MOET_CANDIDATES_HALVES * MOET_CANDIDATES_HALVES);
        before = list.count;
        TEST_OK(moet_candidates_add_crossed(&list, &problem, &h100));
        assert_int_equal(list.count, before);
        moet_candidates_release(&list);
        moet_text_list_release(&families);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_halves)};
    return cmocka_run_group_tests_name("candidates", tests, NULL, NULL);
}
