/* What handles and plans count of their launches, and what a table says for lookups beside its winners. */
#include "store_fill.h"
#include "table_text.h"
#include "test.h"

#include <pthread.h>

#include "../src/table.h"
#include "../tuner/emit.h"

enum { E = 4, H = 64, I = 32, N = 2 * I, max_rows = 2048 };
static uint16_t x[max_rows * H] __attribute__((aligned(64))), w[E * N * H] __attribute__((aligned(64))),
    bias[E * N] __attribute__((aligned(64)));
static const int32_t balanced[E] = {16, 16, 16, 16}, skewed[E] = {61, 1, 1, 1}, close_to_balanced[E] = {20, 20, 20, 20},
                     far_away[E] = {500, 500, 500, 500}, nothing[E] = {0};
static moet_problem problem;
static moet_device *host;
static char folder[256];
static char config_text[2][MOET_CONFIG_SIZE];
static char validators[2][64];

/* The first two configurations of the host's tunable family that apply. */
static text_winner winner(int32_t index, int64_t time_ns)
{
    moet_config config;
    char why[MOET_REASON_SIZE];
    moet_config_first(moet_family_find("host_tile"), &config);
    for (int32_t left = index;;) {
        if (config.family->applicable(&problem, &config, &host->info, why) && left-- == 0)
            return text_winner_of(&config, config_text[index], validators[index], time_ns);
        assert_true(moet_config_next(&config));
    }
}

static int group_open(void **state)
{
    (void)state;
    unsetenv("MOET_TABLE");
    moet_problem_init(&problem, MOET_OP_UP, E, H, I);
    problem.bias = true;
    if (moet_device_open("host", &host) != MOET_OK) return 1;
    test_folder_make(folder);
    const text_point points[] = {
        {.counts = balanced, .any = winner(0, 1500), .device_counts = winner(1, 2500)},
        {.counts = skewed, .any = winner(1, 2000)},
    };
    char *text = text_table(host, &problem, points, 2, NULL, 0);
    text_write(folder, text);
    free(text);
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(host);
    test_folder_remove(folder);
    return 0;
}

static moet_plan *plan_make(moet_handle *handle)
{
    moet_plan *plan;
    const moet_plan_options options = {.max_rows = max_rows};
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    return plan;
}

/* What a lookup goes by beside the winners: passed over where this build does not know it, or an older emit left it
 * out. */
static void test_rates_and_others(void **state)
{
    (void)state;
    const text_other others[] = {{"no_such_family:a=1", 5}, {config_text[1], 1234}};
    text_point points[] = {{.counts = balanced, .any = winner(0, 1000)}, {.counts = skewed, .any = winner(1, 2000)}};
    points[0].any.others = others;
    points[0].any.other_count = MOET_COUNT_OF(others);
    char *text = text_table(host, &problem, points, 2, NULL, 0);
    moet_table *table;
    TEST_OK(moet_table_parse(text, strlen(text), NULL, true, host, &table));
    assert_true(table->has_rates);
    assert_true(table->rates.rate[MOET_RATE_TENSOR] == 100000000000.0 && table->rates.rate[MOET_RATE_LAUNCH] == 100000);
    const moet_table_point *p = table->problems[0].points;
    assert_int_equal(p[0].winner[MOET_TABLE_ANY].other_count, 1);
    assert_int_equal(p[0].winner[MOET_TABLE_ANY].others[0].time_ns, 1234);
    assert_true(moet_config_equal(&p[0].winner[MOET_TABLE_ANY].others[0].config, &p[1].winner[MOET_TABLE_ANY].config));
    assert_int_equal(p[1].winner[MOET_TABLE_ANY].other_count, 0);
    moet_table_close(table);
    text = text_replace(text, "\"rates\"", "\"older\"");
    text = text_replace(text, "\"others\"", "\"older\"");
    TEST_OK(moet_table_parse(text, strlen(text), NULL, false, host, &table));
    assert_false(table->has_rates);
    assert_int_equal(table->problems[0].points[0].winner[MOET_TABLE_ANY].other_count, 0);
    moet_table_close(table);
    free(text);
}

/* What the table's other configurations and the default took stands at each point where it was measured. */
static void test_others(void **state)
{
    (void)state;
    /* The first wins the first point, the second the others; the default never, and is timed at the first alone. */
    static const int64_t times[3][3] = {{100000, 150000, 170000}, {180000, 100000, 0}, {0, 100000, 0}};
    char db[512], dir[512];
    moet_store *store;
    moet_emitted emitted;
    moet_table *table;
    moet_problem of_two;
    moet_config configs[3];
    snprintf(db, sizeof db, "%s/others.db", folder);
    snprintf(dir, sizeof dir, "%s/others", folder);
    moet_problem_init(&of_two, MOET_OP_UP, 2, 64, 32);
    for (int32_t c = 0; c < 3; c++) fill_config(host, &of_two, c, &configs[c]);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    const int64_t run = fill_run(store, host);
    for (int32_t p = 0; p < 3; p++) {
        for (int32_t c = 0; c < 3; c++) {
            const int32_t counts[2] = {8 << p, 8};
            const fill_trial t = {.device = host,
                                  .problem = &of_two,
                                  .counts = counts,
                                  .config = &configs[c],
                                  .final_rounds = true,
                                  .is_default = c == 2,
                                  .median_ns = times[p][c],
                                  .samples = 3};
            if (times[p][c] > 0) assert_true(fill_put(store, run, &t));
        }
    }
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(emitted.configs, 2);
    TEST_OK(moet_table_load(dir, host, &table));
    assert_true(table->has_rates);
    for (int32_t p = 0; p < 3; p++) {
        const moet_table_winner *winner = &table->problems[0].points[p].winner[MOET_TABLE_ANY];
        int32_t wanted = 0;
        for (int32_t c = 0; c < 3; c++) {
            if (moet_config_equal(&winner->config, &configs[c]) || times[p][c] == 0) continue;
            wanted++;
            bool found = false;
            for (int32_t i = 0; i < winner->other_count; i++)
                found |= moet_config_equal(&winner->others[i].config, &configs[c]) &&
                         winner->others[i].time_ns == times[p][c];
            assert_true(found);
        }
        assert_int_equal(winner->other_count, wanted);
    }
    moet_table_close(table);
    moet_store_close(store);
}

static void expect_stats(const moet_stats *stats, int64_t exact, int64_t nearest, int64_t fallback, int64_t refused)
{
    assert_int_equal(stats->exact, exact);
    assert_int_equal(stats->nearest, nearest);
    assert_int_equal(stats->fallback, fallback);
    assert_int_equal(stats->refused, refused);
}

static moet_status launch_plainly(moet_plan *plan, const int32_t *counts)
{
    static uint16_t out[max_rows * N] __attribute__((aligned(64)));
    const moet_launch_args args = {.x = x, .w = w, .bias = bias, .out = out, .counts = counts};
    return moet_launch(plan, &args);
}

static void test_stats(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_stats stats;
    moet_choice choice;
    TEST_OK(moet_open(folder, "host", &handle));
    moet_plan *plan = plan_make(handle), *other = plan_make(handle);
    moet_plan_stats_read(plan, &stats);
    expect_stats(&stats, 0, 0, 0, 0);
    static const int32_t *const routings[] = {balanced,          skewed, balanced, close_to_balanced, far_away,
                                              close_to_balanced, nothing};
    for (int32_t i = 0; i < MOET_COUNT_OF(routings); i++) TEST_OK(launch_plainly(plan, routings[i]));
    TEST_OK(launch_plainly(other, balanced));
    /* Neither questions nor launches that are turned down. */
    const int32_t negative[E] = {1, -1, 0, 0};
    TEST_OK(moet_plan_query(plan, balanced, &choice));
    TEST_FAILS(MOET_INVALID, "-1 rows", launch_plainly(plan, negative));
    moet_plan_stats_read(plan, &stats);
    expect_stats(&stats, 3, 2, 1, 0);
    moet_plan_destroy(plan);
    moet_stats_read(handle, &stats); /* of plans that are gone too */
    expect_stats(&stats, 4, 2, 1, 0);
    moet_plan_stats_read(other, &stats);
    expect_stats(&stats, 1, 0, 0, 0);
    moet_plan_destroy(other);
    /* A problem that the table does not have. */
    const moet_plan_options options = {.max_rows = max_rows, .device_counts = true, .expected_rows = 64};
    moet_problem untuned = problem;
    untuned.numerics = MOET_NUMERICS_FAST;
    TEST_OK(moet_plan_create(handle, &untuned, &options, &plan));
    TEST_OK(launch_plainly(plan, skewed));
    moet_plan_stats_read(plan, &stats);
    expect_stats(&stats, 0, 0, 1, 0);
    moet_plan_destroy(plan);
    /* With counts on the device a launch is what the plan expects. */
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    TEST_OK(launch_plainly(plan, skewed));
    moet_plan_stats_read(plan, &stats);
    expect_stats(&stats, 1, 0, 0, 0);
    moet_plan_destroy(plan);
    moet_close(handle);
}

/* Entries that another version made, and those of another device. */
static void test_stats_of_refusals(void **state)
{
    (void)state;
    for (int32_t is_foreign = 0; is_foreign < 2; is_foreign++) {
        char dir[256];
        moet_handle *handle;
        moet_stats stats;
        moet_device elsewhere = *host;
        strcpy(elsewhere.key, "backend=host,name=elsewhere");
        static const int32_t few[E] = {4, 4, 4, 4}, fewer[E] = {3, 3, 3, 3};
        text_point points[] = {{.counts = few, .any = winner(0, 1500)}, {.counts = skewed, .any = winner(1, 2000)}};
        if (!is_foreign) points[0].any.version++;
        test_folder_make(dir);
        char *text = text_table(is_foreign ? &elsewhere : host, &problem, points, 2, NULL, 0);
        text_write(dir, text);
        free(text);
        TEST_OK(moet_open(dir, "host", &handle));
        assert_int_equal(moet_refusal_count(handle), is_foreign ? 2 : 1);
        moet_plan *plan = plan_make(handle);
        /* Near the first alone; the second; near neither. */
        TEST_OK(launch_plainly(plan, fewer));
        TEST_OK(launch_plainly(plan, skewed));
        TEST_OK(launch_plainly(plan, far_away));
        moet_stats_read(handle, &stats);
        if (is_foreign)
            expect_stats(&stats, 0, 0, 0, 3);
        else
            expect_stats(&stats, 1, 0, 1, 1);
        moet_plan_destroy(plan);
        moet_close(handle);
        test_folder_remove(dir);
    }
}

/* Readers in other threads see counts that only grow. */
static void *read_stats(void *handle)
{
    int64_t before = 0;
    for (;;) {
        moet_stats stats;
        moet_stats_read(handle, &stats);
        if (stats.exact < before) return "fewer than before";
        if (stats.exact == 2000) return NULL;
        before = stats.exact;
    }
}

static void test_stats_from_another_thread(void **state)
{
    (void)state;
    moet_handle *handle;
    pthread_t thread;
    void *failed = NULL;
    TEST_OK(moet_open(folder, "host", &handle));
    moet_plan *plan = plan_make(handle);
    assert_int_equal(pthread_create(&thread, NULL, read_stats, handle), 0);
    for (int32_t i = 0; i < 2000; i++) TEST_OK(launch_plainly(plan, balanced));
    pthread_join(thread, &failed);
    if (failed) test_fail("%s", (char *)failed);
    moet_plan_destroy(plan);
    moet_close(handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates_and_others),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_stats_of_refusals),
        cmocka_unit_test(test_stats_from_another_thread),
    };
    return cmocka_run_group_tests_name("stats", tests, group_open, group_close);
}
