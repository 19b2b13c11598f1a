/* What is read of a store beside its trials: what won with other tokens as seeds, efforts that are none,
 * profiles of merged databases, a cost model from trials. */
#include "store_fill.h"
#include "test.h"

#include <sqlite3.h>

#include "../tuner/calibrate.h"
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

static void execute(const char *path, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) test_fail("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static moet_status pass_over(void *context, const moet_store_trial_row *row)
{
    (void)context;
    (void)row;
    return MOET_OK;
}

/* An effort is an index: one that is none ends a walk. */
static void test_damaged_effort(void **state)
{
    (void)state;
    static const char *const numbers[] = {"-1", "3", "4294967296"};
    char path[512], sql[128], text[MOET_CONFIG_SIZE];
    moet_store *store = fill_store("effort.db", path);
    int32_t own_counts[4];
    memcpy(own_counts, counts[0], sizeof own_counts);
    const moet_workload workload = {
        .name = "w", .skew = "s", .experts = 4, .hidden = 64, .inter = 32, .rows = 64, .counts = own_counts};
    const int64_t run = fill_run(store, fill_host);
    moet_config config;
    fill_trial t = trial_of(&config, 0);
    fill_put(store, run, &t);
    moet_config_format(&config, text);
    const moet_store_key key = {.device_key = fill_host->key,
                                .problem = &problem,
                                .workload = &workload,
                                .config = text,
                                .family_version = config.family->version,
                                .validator = ""};
    TEST_OK(moet_store_put_done(store, run, &key, "set", MOET_EFFORT_NORMAL));
    for (int32_t i = 0; i < MOET_COUNT_OF(numbers); i++) {
        bool is = false;
        snprintf(sql, sizeof sql, "UPDATE runs SET effort = %s; UPDATE done SET effort = %s", numbers[i], numbers[i]);
        execute(path, sql);
        TEST_FAILS(MOET_MALFORMED, numbers[i], moet_store_each_trial(store, NULL, pass_over, NULL));
        TEST_FAILS(MOET_MALFORMED, path, moet_store_has_trial(store, &key, "", MOET_EFFORT_QUICK, &is, NULL));
        TEST_FAILS(MOET_MALFORMED, path, moet_store_is_done(store, &key, "set", MOET_EFFORT_QUICK, &is));
    }
    execute(path, "UPDATE runs SET effort = 1; UPDATE done SET effort = 1");
    for (moet_effort effort = 0; effort < MOET_EFFORT_COUNT; effort++) {
        bool is = false;
        TEST_OK(moet_store_is_done(store, &key, "set", effort, &is));
        assert_int_equal(is, effort <= MOET_EFFORT_NORMAL);
    }
    moet_store_close(store);
}

/* ---- profiles ---- */

static moet_status put_profile(void *context, const moet_store_trial_row *row)
{
    static const moet_store_counter counter = {.kernel = "k", .metric = "m", .value = 1};
    TEST_OK(moet_store_put_profile(context, row->trial_id, "ncu", &counter, 1));
    return MOET_OK;
}

static void merge_into(const char *name, const char *first, const char *second)
{
    char path[512], from[512];
    moet_store *into = fill_store(name, path);
    fill_path(first, from);
    TEST_OK(moet_store_merge(into, from, NULL));
    fill_path(second, from);
    TEST_OK(moet_store_merge(into, from, NULL));
    moet_store_close(into);
}

/* A trial that replaces another was never profiled; the one that stays keeps its profile, from a copy as well. */
static void test_merged_profiles(void **state)
{
    (void)state;
    static const struct {
        const char *name, *first, *second;
        int64_t counters;
    } merges[] = {{"better-last.db", "profiled.db", "better.db", 0}, {"better-first.db", "better.db", "profiled.db", 0},
                  {"worse-last.db", "profiled.db", "worse.db", 1},   {"worse-first.db", "worse.db", "profiled.db", 1},
                  {"copy-last.db", "profiled.db", "copy.db", 1},     {"copy-first.db", "copy.db", "profiled.db", 1}};
    static const struct {
        const char *name;
        int32_t samples;
    } parts[] = {{"profiled.db", 5}, {"better.db", 7}, {"worse.db", 3}};
    for (int32_t i = 0; i < MOET_COUNT_OF(parts); i++) {
        char path[512];
        moet_store *store = fill_store(parts[i].name, path);
        moet_config config;
        fill_trial t = trial_of(&config, 0);
        t.samples = parts[i].samples;
        fill_put(store, fill_run(store, fill_host), &t);
        if (i == 0) {
            merge_into("copy.db", parts[0].name, parts[0].name);
            TEST_OK(moet_store_each_trial(store, NULL, put_profile, store));
        }
        moet_store_close(store);
    }
    for (int32_t i = 0; i < MOET_COUNT_OF(merges); i++) {
        char path[512];
        merge_into(merges[i].name, merges[i].first, merges[i].second);
        fill_path(merges[i].name, path);
        assert_int_equal(fill_number(path, "SELECT count(*) FROM trials"), 1);
        assert_int_equal(fill_number(path, "SELECT count(*) FROM counters"), merges[i].counters);
        assert_int_equal(fill_number(path, "SELECT count(*) FROM profiles"), merges[i].counters);
    }
}

/* ---- calibrating ---- */

/* Trials of too few workloads, however many and of however many problems, do not do: a few others are measured, for
 * which there is room. */
static void test_calibrate(void **state)
{
    (void)state;
    static const moet_worker_options options = {.device = "host", .in_process = true};
    char path[512];
    moet_store *store = fill_store("many.db", path);
    const int64_t run = fill_run(store, fill_host);
    moet_config config;
    fill_trial t = trial_of(&config, 0);
    fill_put(store, run, &t);
    t.counts = counts[1];
    fill_put(store, run, &t);
    execute(
        path,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2050) INSERT INTO problems (key) "
        "SELECT replace(replace(key, 'hidden=64', 'hidden=' || (64 + i / 64 * 64)), 'inter=32', "
        "'inter=' || (32 + i % 64 * 32)) FROM n, problems;"
        "CREATE TEMP TABLE copied AS SELECT t.*, p.id AS other FROM trials t JOIN problems p ON p.id <> t.problem_id;"
        "UPDATE copied SET id = NULL, problem_id = other; ALTER TABLE copied DROP COLUMN other;"
        "INSERT INTO trials SELECT * FROM copied");
    moet_worker *worker = NULL;
    moet_ceilings ceilings;
    moet_store_cost cost = {0};
    TEST_OK(moet_worker_open(&options, &worker));
    TEST_OK(moet_worker_begin(worker, &ceilings));
    TEST_OK(moet_calibrate(worker, NULL, store, &ceilings, &cost));
    assert_in_range(cost.points, 3971, 3999); /* as many trials as 4000 points leave, and what was measured */
    moet_worker_close(worker);
    moet_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_seeds_of_tokens), cmocka_unit_test(test_damaged_effort),
                                       cmocka_unit_test(test_merged_profiles), cmocka_unit_test(test_calibrate)};
    return cmocka_run_group_tests_name("store_read", tests, group_open, fill_group_close);
}
