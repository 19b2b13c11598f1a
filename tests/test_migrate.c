/* Databases of older versions: read and merged from as they are, migrated by a writer, nothing lost. */
#include "store_fill.h"
#include "test.h"

#include <sqlite3.h>

static moet_problem problem;

static int group_open(void **state)
{
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    return fill_group_open(state);
}

static void check_numbers(const char *path, const char *const *sql, const int64_t *numbers, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const int64_t number = fill_number(path, sql[i]);
        if (number != numbers[i]) test_fail("%s: %lld, not %lld", sql[i], (long long)number, (long long)numbers[i]);
    }
}

/* The content of the database `from` in a new one of version 1, made by the first schema's own text, with holes between
 * the ids. */
static void make_version_1(const char *from, const char *path)
{
    extern const char moet_source_schema[];
    static const char *const tables[] = {"devices", "problems", "workloads", "workload_names", "cubins"};
    char sql[4000];
    size_t used = 0;
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, moet_source_schema, NULL, NULL, NULL), SQLITE_OK);
    used +=
        (size_t)snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = 1; ATTACH '%s' AS new;",
                         MOET_STORE_APPLICATION_ID, from);
    for (int32_t i = 0; i < MOET_COUNT_OF(tables); i++)
        used += (size_t)snprintf(sql + used, sizeof sql - used, "INSERT INTO main.%s SELECT * FROM new.%s;", tables[i],
                                 tables[i]);
    snprintf(sql + used, sizeof sql - used,
             "INSERT INTO main.trials SELECT 1000 + 3 * t.id, t.device_id, t.problem_id, t.workload_id, t.config, "
             "t.device_counts, t.family_version, t.validator, t.family, t.status, t.reason, t.median_ns, t.noise_ns, "
             "t.sample_count, t.floor_ns, t.efficiency, t.error, t.bit_class, t.is_default, t.final_rounds, t.eager, "
             "t.measured_at, t.run_id, k.sha256 FROM new.trials t LEFT JOIN new.trial_cubins k ON k.trial_id = t.id;"
             "INSERT INTO main.samples SELECT 1000 + 3 * trial_id, position, round, time_ns, dense_ns, dense2_ns, "
             "copy_ns, read_ns, sm_mhz, power_mw, throttle_reasons, hardware_slowdown FROM new.samples;"
             "INSERT INTO main.done SELECT device_id, problem_id, workload_id, candidates, run_id FROM new.done;"
             "INSERT INTO main.runs SELECT id, uid, device_id, started_at, command, revision, libraries, driver, "
             "driver_cuda_version, dense_flops_per_s, copy_bytes_per_s, read_bytes_per_s FROM new.runs;");
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) test_fail("%s", message);
    sqlite3_close(db);
}

static char *dump_of(const char *path, moet_store_mode mode)
{
    moet_store *store;
    TEST_OK(moet_store_open(path, mode, &store));
    char *dump = fill_dump(store);
    moet_store_close(store);
    return dump;
}

static void expect_dump(const char *wanted, char *dump)
{
    assert_string_equal(wanted, dump);
    free(dump);
}

/* A database of version 1 is read as it is, merged from, and brought to the newest by a writer; nothing is lost. */
static void test_version_1(void **state)
{
    (void)state;
    extern const char moet_source_schema[];
    char path[512], old[512], into_path[512], digits[MOET_SHA256_TEXT_SIZE];
    /* The released step must stay what it was. */
    moet_sha256_text(moet_source_schema, strlen(moet_source_schema), digits);
    assert_string_equal(digits, "4a812eeb97bc429649ca9d100d183198d6e1915a90ebdefd104c6e8d6c97335f");
    moet_store *store = fill_store("new.db", path), *into;
    fill_random(store, fill_host, &fill_elsewhere, &problem, 5, 1);
    int32_t mine[4] = {1, 2, 3, 4};
    moet_workload workload = {
        .name = "w", .skew = "s", .experts = 4, .hidden = 64, .inter = 32, .rows = 10, .counts = mine};
    moet_store_key key = {
        .device_key = fill_host->key, .problem = &problem, .workload = &workload, .config = "", .validator = ""};
    TEST_OK(moet_store_put_done(store, 1, &key, "a set", MOET_EFFORT_QUICK));
    char *wanted = fill_dump(store);
    TEST_CONTAINS(wanted, "sm_00a \n"); /* some have a kernel */
    TEST_CONTAINS(wanted, "Z|\n");      /* some have none */
    moet_store_close(store);
    snprintf(old, sizeof old, "%s/old.db", fill_folder);
    make_version_1(path, old);
    assert_true(fill_number(path, "SELECT count(*) FROM suspects JOIN trials USING (id) WHERE status = 'ok'") > 0);
    const int64_t samples = fill_number(path, "SELECT count(*) FROM samples");
    const int64_t cubins = fill_number(path, "SELECT count(*) FROM trial_cubins");
    assert_true(cubins > 5);
    assert_int_equal(fill_number(old, "SELECT count(*) FROM trials WHERE cubin_sha256 IS NOT NULL"), cubins);
    assert_int_equal(fill_number(old, "SELECT count(*) FROM samples"), samples);

    /* Reading and merging from it change no byte. */
    size_t size, size_after;
    int64_t added = 0;
    char *before = test_file_read(old, &size);
    expect_dump(wanted, dump_of(old, MOET_STORE_READ));
    into = fill_store("into.db", into_path);
    TEST_OK(moet_store_merge(into, old, &added));
    assert_true(added > 10);
    expect_dump(wanted, fill_dump(into));
    TEST_OK(moet_store_merge(into, old, &added));
    assert_int_equal(added, 0);
    TEST_OK(moet_store_merge(into, path, &added)); /* after an old one a new one: the views do not collide */
    assert_int_equal(added, 0);
    expect_dump(wanted, fill_dump(into));
    moet_store_close(into);
    assert_int_equal(fill_number(into_path, "SELECT count(*) FROM samples"), samples);
    char *after = test_file_read(old, &size_after);
    assert_true(size == size_after && memcmp(before, after, size) == 0);
    free(before);
    free(after);

    /* A writer migrates it. */
    expect_dump(wanted, dump_of(old, MOET_STORE_WRITE));
    static const char *const facts[] = {
        "PRAGMA user_version",
        "PRAGMA application_id",
        "SELECT count(*) FROM samples",
        "SELECT count(*) FROM trial_cubins",
        "SELECT count(*) FROM done",
        "SELECT count(*) FROM done WHERE effort = 2",
        "SELECT count(*) FROM runs WHERE effort <> 2",
        "SELECT count(*) FROM cost_models",
        "SELECT count(*) FROM profiles",
        "SELECT count(*) FROM counters",
        "SELECT count(*) FROM ep_trials",
        "SELECT count(*) FROM ep_samples",
        "SELECT count(*) FROM pragma_foreign_key_check",
        "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
        "SELECT count(*) FROM pragma_table_info('trials') WHERE name LIKE 'cubin%'",
    };
    const int64_t numbers[] = {
        MOET_STORE_VERSION, MOET_STORE_APPLICATION_ID, samples, cubins, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    check_numbers(old, facts, numbers, MOET_COUNT_OF(facts));
    expect_dump(wanted, dump_of(old, MOET_STORE_READ));
    TEST_OK(moet_store_open(old, MOET_STORE_WRITE, &store));
    bool done = false;
    TEST_OK(moet_store_is_done(store, &key, "a set", MOET_EFFORT_EXHAUSTIVE, &done));
    assert_true(done);
    moet_config config;
    fill_config(fill_host, &problem, 0, &config);
    fill_trial t = {.device = fill_host,
                    .problem = &problem,
                    .counts = mine,
                    .config = &config,
                    .median_ns = 1000,
                    .noise_ns = 2,
                    .cubins = {"c", "one more", "a kernel"}};
    assert_true(fill_put(store, fill_run(store, fill_host), &t));
    moet_store_close(store);
    assert_int_equal(fill_number(old, "SELECT count(*) FROM trial_cubins"), cubins + 3);
    free(wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_version_1)};
    return cmocka_run_group_tests_name("migrate", tests, group_open, fill_group_close);
}
