/* The recorder on the host: what it keeps, what it leaves out, its file, its bound, threads, no allocation. */
#include "ffn_path.h"
#include "table_text.h"
#include "test.h"

#include <pthread.h>
#include <unistd.h>

#include "../src/family.h"
#include "../tuner/workload.h"

enum { E = 4, H = 64, I = 32, N = 2 * I, max_rows = 256 };
static uint16_t x[max_rows * H] __attribute__((aligned(64))), w[E * N * H] __attribute__((aligned(64))),
    out[max_rows * N] __attribute__((aligned(64)));
static const int32_t tuned[E] = {16, 16, 16, 16}, close_by[E] = {18, 18, 18, 18}, afar[E] = {30, 30, 30, 30},
                     skewed[E] = {1, 0, 2, 61}, nothing[E] = {0};
static moet_problem problem;
static char folder[256], path[300];

static int group_open(void **state)
{
    (void)state;
    moet_device *host;
    char text[MOET_CONFIG_SIZE], validator[64];
    moet_config config;
    unsetenv("MOET_TABLE");
    moet_problem_init(&problem, MOET_OP_UP, E, H, I);
    if (moet_device_open("host", &host) != MOET_OK) return 1;
    test_folder_make(folder);
    snprintf(path, sizeof path, "%s/recorded.jsonl", folder);
    TEST_OK(moet_default_config(&problem, 64, false, &host->info, &config));
    const text_point point = {.counts = tuned, .any = text_winner_of(&config, text, validator, 1000)};
    char *table = text_table(host, &problem, &point, 1, NULL, 0);
    text_write(folder, table);
    free(table);
    moet_device_close(host);
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static moet_plan *plan_make(moet_handle *handle, const moet_problem *of)
{
    moet_plan *plan;
    const moet_plan_options options = {.max_rows = max_rows};
    TEST_OK(moet_plan_create(handle, of, &options, &plan));
    return plan;
}

static moet_status launch(moet_plan *plan, const int32_t *counts)
{
    const moet_launch_args args = {.x = x, .w = w, .out = out, .counts = counts};
    return moet_launch(plan, &args);
}

static void is_recorded(moet_handle *handle, int32_t entries, int64_t launches, int64_t dropped)
{
    moet_record_summary sum;
    TEST_OK(moet_record_summarize(handle, &sum));
    assert_int_equal(sum.entries, entries);
    assert_int_equal(sum.launches, launches);
    assert_int_equal(sum.dropped, dropped);
}

static void test_what_is_kept(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_workloads list = {0};
    TEST_OK(moet_open(folder, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 1);
    moet_plan *plan = plan_make(handle, &problem);
    TEST_OK(launch(plan, afar)); /* before the start */
    TEST_OK(moet_record_start(handle, 100));
    TEST_OK(launch(plan, tuned));
    TEST_OK(launch(plan, close_by));
    TEST_OK(launch(plan, nothing));
    const int32_t too_many[E] = {max_rows, 1, 0, 0};
    TEST_FAILS(MOET_INVALID, "at most", launch(plan, too_many));
    is_recorded(handle, 0, 0, 0);
    TEST_OK(moet_record_save(handle, path));
    size_t size = 1;
    free(test_file_read(path, &size));
    assert_int_equal(size, 0);
    for (int32_t i = 0; i < 3; i++) TEST_OK(launch(plan, afar)); /* ln 1.875 away */
    TEST_OK(launch(plan, skewed));                               /* the default answers */
    moet_problem down = problem;
    down.op = MOET_OP_DOWN;
    moet_plan *other = plan_make(handle, &down);
    TEST_OK(launch(other, skewed)); /* another op is another entry */
    is_recorded(handle, 3, 5, 0);

    TEST_OK(moet_record_save(handle, path));
    TEST_OK(moet_workloads_read(path, &list));
    assert_int_equal(list.count, 3);
    assert_string_equal(list.items[0].name, "recorded/up");
    assert_string_equal(list.items[2].name, "recorded/down");
    assert_memory_equal(list.items[0].counts, afar, sizeof afar);
    assert_memory_equal(list.items[1].counts, skewed, sizeof skewed);
    assert_true(list.items[0].weight == 3 && list.items[1].weight == 1);
    assert_int_equal(list.items[0].rows, 120);
    assert_int_equal(list.items[0].tokens, 0);
    assert_int_equal(list.items[0].experts, E);
    assert_int_equal(list.items[0].hidden, H);
    assert_int_equal(list.items[0].inter, I);
    assert_int_equal(test_file_count(folder), 2); /* no temporary file is left */
    moet_workloads_release(&list);

    TEST_OK(moet_record_start(handle, 100)); /* anew */
    is_recorded(handle, 0, 0, 0);
    moet_plan_destroy(plan);
    moet_plan_destroy(other);
    moet_close(handle); /* frees what is recorded */
}

static void test_device_counts_are_not_kept(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan;
    const moet_plan_options options = {.max_rows = max_rows, .device_counts = true};
    TEST_OK(moet_open(NULL, "host", &handle));
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    TEST_OK(moet_record_start(handle, 10));
    TEST_OK(launch(plan, skewed));
    is_recorded(handle, 0, 0, 0);
    moet_plan_destroy(plan);
    moet_close(handle);
}

static void test_paths(void **state)
{
    (void)state;
    enum { tokens = 24, choices = 3 };
    moet_handle *handle;
    moet_plan *plan;
    ffn_path p;
    int32_t counts[E] = {0}, rows = 0;
    uint64_t random = 7;
    moet_workloads list = {0};
    moet_problem of;
    moet_problem_init(&of, MOET_OP_FFN, E, H, I);
    ffn_path_make(&p, tokens, choices, of);
    ffn_path_fill(&random, &p);
    for (int32_t i = 0; i < tokens * choices; i++) {
        if (p.ids[i] >= 0) counts[p.ids[i]]++, rows++;
    }
    const moet_plan_options options = {.max_tokens = tokens, .choices = choices};
    TEST_OK(moet_open(NULL, "host", &handle));
    TEST_OK(moet_plan_create(handle, &p.problem, &options, &plan));
    TEST_OK(moet_record_start(handle, 10));
    moet_ffn_args args = p.given;
    args.counts = counts;
    for (int32_t i = 0; i < 2; i++) TEST_OK(moet_ffn(plan, &args));
    TEST_OK(moet_record_save(handle, path));
    TEST_OK(moet_workloads_read(path, &list));
    assert_int_equal(list.count, 1);
    assert_string_equal(list.items[0].name, "recorded/ffn");
    assert_int_equal(list.items[0].tokens, tokens);
    assert_int_equal(list.items[0].rows, rows);
    assert_true(list.items[0].weight == 2);
    assert_memory_equal(list.items[0].counts, counts, sizeof counts);
    moet_workloads_release(&list);
    moet_plan_destroy(plan);
    moet_close(handle);
    ffn_path_free(&p);
}

static void test_bound(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_workloads list = {0};
    TEST_OK(moet_open(NULL, "host", &handle));
    TEST_FAILS(MOET_INVALID, "capacity is 0", moet_record_start(handle, 0));
    TEST_FAILS(MOET_INVALID, "65537", moet_record_start(handle, MOET_MAX_RECORDS + 1));
    moet_record_summary sum;
    TEST_FAILS(MOET_INVALID, "moet_record_start", moet_record_save(handle, path));
    TEST_FAILS(MOET_INVALID, "moet_record_start", moet_record_summarize(handle, &sum));
    moet_record_stop(handle);
    moet_record_stop(NULL);
    moet_plan *plan = plan_make(handle, &problem);
    TEST_OK(moet_record_start(handle, 5));
    for (int32_t turn = 0; turn < 2; turn++) {
        for (int32_t i = 1; i <= 8; i++) {
            const int32_t counts[E] = {i, 0, 0, 1};
            TEST_OK(launch(plan, counts));
        }
    }
    is_recorded(handle, 5, 10, 6);
    TEST_OK(moet_record_save(handle, path));
    TEST_OK(moet_workloads_read(path, &list));
    assert_int_equal(list.count, 5);
    for (int32_t i = 0; i < 5; i++) {
        assert_int_equal(list.items[i].counts[0], i + 1); /* the first that came */
        assert_true(list.items[i].weight == 2);
    }
    moet_workloads_release(&list);
    char *before = test_file_read(path, &(size_t){0});
    TEST_FAILS(MOET_IO, "nowhere", moet_record_save(handle, "/tmp/nowhere/at/all.jsonl"));
    char *after = test_file_read(path, &(size_t){0});
    assert_string_equal(before, after);
    free(before);
    free(after);
    moet_record_stop(handle);
    TEST_OK(launch(plan, skewed));
    TEST_FAILS(MOET_INVALID, "moet_record_start", moet_record_save(handle, path));
    moet_plan_destroy(plan);
    moet_close(handle);
}

/* Every different routing is found again, whatever the hash does. */
static void test_many(void **state)
{
    (void)state;
    enum { many = 600 };
    moet_handle *handle;
    TEST_OK(moet_open(NULL, "host", &handle));
    moet_plan *plan = plan_make(handle, &problem);
    TEST_OK(moet_record_start(handle, many));
    for (int32_t i = 0; i < 2 * many; i++) {
        const int32_t n = i % many, counts[E] = {n % 5, n / 5 % 5, n / 25 % 5, 1 + n / 125};
        TEST_OK(launch(plan, counts));
    }
    is_recorded(handle, many, 2 * many, 0);
    moet_plan_destroy(plan);
    moet_close(handle);
}

/* Another thread saves, stops and starts while launches go on. */
static void *run_saves(void *handle)
{
    char *own = test_allocate(sizeof path + 8);
    snprintf(own, sizeof path + 8, "%s.thread", path);
    for (int32_t i = 0; i < 50; i++) {
        moet_record_summary sum;
        if (moet_record_save(handle, own) != MOET_OK || moet_record_summarize(handle, &sum) != MOET_OK) return own;
        if (i % 10 == 5) moet_record_stop(handle);
        if (i % 10 == 5 && moet_record_start(handle, 64) != MOET_OK) return own;
    }
    free(own);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    moet_handle *handle;
    pthread_t thread;
    void *failed = NULL;
    TEST_OK(moet_open(NULL, "host", &handle));
    moet_plan *plan = plan_make(handle, &problem);
    TEST_OK(moet_record_start(handle, 64));
    assert_int_equal(pthread_create(&thread, NULL, run_saves, handle), 0);
    for (int32_t i = 0; i < 500; i++) {
        const int32_t counts[E] = {i % 10, i % 7, 1, 2};
        TEST_OK(launch(plan, counts));
    }
    pthread_join(thread, &failed);
    assert_null(failed);
    moet_plan_destroy(plan);
    moet_close(handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_kept), cmocka_unit_test(test_device_counts_are_not_kept),
        cmocka_unit_test(test_paths),        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_many),         cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("record", tests, group_open, group_close);
}
