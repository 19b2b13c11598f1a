/* Algorithms of a vendor library on their way: from a trial into a database, between databases, into a table. */
#include "store_fill.h"
#include "table_text.h"
#include "test.h"

#include <sqlite3.h>

#include "../src/table.h"
#include "../tuner/emit.h"

static moet_problem problem;
static moet_config configs[2];
static const int32_t counts[4] = {16, 16, 16, 16};

static int group_open(void **state)
{
    if (fill_group_open(state) != 0) return 1;
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    for (int32_t i = 0; i < 2; i++) fill_config(fill_host, &problem, i, &configs[i]);
    return 0;
}

/* Of `seed` follow text and bytes. */
static moet_algorithm made_up(int64_t rows, uint64_t seed)
{
    moet_algorithm algorithm = {.rows = rows};
    snprintf(algorithm.text, sizeof algorithm.text, "algo=66,tile_id=%u", (unsigned)seed);
    for (int32_t i = 0; i < MOET_ALGORITHM_BYTES; i++) algorithm.bytes[i] = (uint8_t)test_random(&seed);
    return algorithm;
}

static bool put(moet_store *store, int64_t run, const moet_config *config, int64_t median_ns, bool replace,
                const moet_algorithm *algorithms, int32_t count)
{
    const fill_trial t = {.device = fill_host,
                          .problem = &problem,
                          .counts = counts,
                          .config = config,
                          .median_ns = median_ns,
                          .noise_ns = 1,
                          .replace = replace,
                          .algorithm_count = count,
                          .algorithms = algorithms};
    return fill_put(store, run, &t);
}

typedef struct wanted {
    moet_store *store;
    const char *config;
    const moet_algorithm *algorithms;
    int32_t count, trials;
} wanted;

static moet_status check_trial(void *context, const moet_store_trial_row *row)
{
    wanted *w = context;
    moet_algorithm list[MOET_MAX_ALGORITHMS];
    int32_t count = -1;
    if (strcmp(row->config, w->config) != 0) return MOET_OK;
    TEST_OK(moet_store_get_algorithms(w->store, row->trial_id, list, &count));
    assert_int_equal(count, w->count);
    for (int32_t i = 0; i < count; i++) {
        assert_int_equal(list[i].rows, w->algorithms[i].rows);
        assert_string_equal(list[i].text, w->algorithms[i].text);
        assert_memory_equal(list[i].bytes, w->algorithms[i].bytes, MOET_ALGORITHM_BYTES);
    }
    w->trials++;
    return MOET_OK;
}

static void check(moet_store *store, const moet_config *config, const moet_algorithm *algorithms, int32_t count)
{
    char text[MOET_CONFIG_SIZE];
    moet_config_format(config, text);
    wanted w = {store, text, algorithms, count, 0};
    TEST_OK(moet_store_each_trial(store, NULL, check_trial, &w));
    assert_int_equal(w.trials, 1);
}

/* In order, one row for the same bytes of one library; a replaced trial's go with it. */
static void test_store(void **state)
{
    (void)state;
    char path[512];
    const moet_algorithm first[] = {made_up(1, 1), made_up(2, 2), made_up(3, 1)}, second[] = {made_up(0, 2)};
    moet_store *store = fill_store("store.db", path);
    const int64_t run = fill_run(store, fill_host);
    assert_true(put(store, run, &configs[0], 1000, false, first, 3));
    assert_true(put(store, run, &configs[1], 1000, false, NULL, 0));
    check(store, &configs[0], first, 3);
    check(store, &configs[1], NULL, 0);
    assert_false(put(store, run, &configs[0], 1000, false, second, 1));
    check(store, &configs[0], first, 3);
    assert_true(put(store, run, &configs[1], 1000, true, second, 1));
    check(store, &configs[1], second, 1);
    assert_int_equal(fill_number(path, "SELECT count(*) FROM algorithms"), 2);
    assert_true(put(store, run, &configs[0], 1000, true, second, 1));
    check(store, &configs[0], second, 1);
    assert_int_equal(fill_number(path, "SELECT count(*) FROM trial_algorithms"), 2);
    moet_store_close(store);
}

static void test_most(void **state)
{
    (void)state;
    char path[512];
    moet_algorithm list[MOET_MAX_ALGORITHMS];
    for (int32_t i = 0; i < MOET_MAX_ALGORITHMS; i++) list[i] = made_up(i + 1, (uint64_t)i);
    moet_store *store = fill_store("most.db", path);
    assert_true(put(store, fill_run(store, fill_host), &configs[0], 1000, false, list, MOET_MAX_ALGORITHMS));
    check(store, &configs[0], list, MOET_MAX_ALGORITHMS);
    moet_store_close(store);
}

/* Both ways round and twice, with ids that differ, and from a trial that stays to one that loses. */
static void test_merge(void **state)
{
    (void)state;
    char paths[4][512];
    const moet_algorithm a[] = {made_up(1, 11), made_up(2, 12)}, b[] = {made_up(1, 12), made_up(2, 13)};
    moet_store *one = fill_store("one.db", paths[0]);
    moet_store *two = fill_store("two.db", paths[1]);
    assert_true(put(one, fill_run(one, fill_host), &configs[0], 2000, false, a, 2));
    const int64_t run = fill_run(two, fill_host);
    assert_true(put(two, run, &configs[1], 1000, false, b, 2));
    assert_true(put(two, run, &configs[0], 1000, false, b, 2)); /* faster: it stays */
    moet_store_close(one);
    moet_store_close(two);
    for (int32_t i = 0; i < 2; i++) {
        char name[24];
        int64_t added = 0;
        snprintf(name, sizeof name, "into%d.db", i);
        moet_store *into = fill_store(name, paths[2 + i]);
        TEST_OK(moet_store_merge(into, paths[i], &added));
        TEST_OK(moet_store_merge(into, paths[1 - i], &added));
        TEST_OK(moet_store_merge(into, paths[i], &added));
        assert_int_equal(added, 0);
        check(into, &configs[0], b, 2);
        check(into, &configs[1], b, 2);
        moet_store_close(into);
        assert_int_equal(fill_number(paths[2 + i], "SELECT count(*) FROM trial_algorithms"), 4);
        assert_int_equal(fill_number(paths[2 + i], "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    }
}

/* A database of version 2 has none, whether read, merged from or migrated. */
static void test_version_2(void **state)
{
    (void)state;
    extern const char moet_source_schema[], moet_source_schema_2[];
    char old[512], new[512], sql[900];
    const moet_algorithm a[] = {made_up(1, 21)};
    sqlite3 *db;
    moet_store *store = fill_store("new.db", new);
    assert_true(put(store, fill_run(store, fill_host), &configs[0], 1000, false, NULL, 0));
    moet_store_close(store);
    snprintf(old, sizeof old, "%s/old.db", fill_folder);
    assert_int_equal(sqlite3_open(old, &db), SQLITE_OK);
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = 2; ATTACH '%s' AS new;",
             MOET_STORE_APPLICATION_ID, new);
    static const char *const tables[] = {"devices", "problems", "workloads", "workload_names", "trials"};
    assert_int_equal(sqlite3_exec(db, moet_source_schema, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, moet_source_schema_2, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db,
                     "INSERT INTO main.runs SELECT id, uid, device_id, started_at, command, revision, libraries, "
                     "driver, driver_cuda_version, dense_flops_per_s, copy_bytes_per_s, read_bytes_per_s FROM new.runs",
                     NULL, NULL, NULL),
        SQLITE_OK);
    for (int32_t i = 0; i < MOET_COUNT_OF(tables); i++) {
        snprintf(sql, sizeof sql, "INSERT INTO main.%s SELECT * FROM new.%s", tables[i], tables[i]);
        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    }
    sqlite3_close(db);

    TEST_OK(moet_store_open(old, MOET_STORE_READ, &store));
    check(store, &configs[0], NULL, 0);
    moet_store_close(store);
    assert_int_equal(fill_number(old, "PRAGMA user_version"), 2);
    store = fill_store("from_old.db", new);
    int64_t added = 0;
    TEST_OK(moet_store_merge(store, old, &added));
    assert_int_equal(added, 1);
    check(store, &configs[0], NULL, 0);
    moet_store_close(store);
    store = fill_store("old.db", old);
    check(store, &configs[0], NULL, 0);
    assert_true(put(store, fill_run(store, fill_host), &configs[0], 1000, true, a, 1));
    check(store, &configs[0], a, 1);
    moet_store_close(store);
    assert_int_equal(fill_number(old, "PRAGMA user_version"), MOET_STORE_VERSION);
}

/* A changed copy with the right hash; malloc'd. */
static char *with(const char *text, const char *from, const char *to)
{
    char *changed = test_allocate(strlen(text) + 1);
    strcpy(changed, text);
    changed = text_replace(changed, from, to);
    text_rehash(changed);
    return changed;
}

static void expect_refused(const char *text, const char *from, const char *to, const char *words)
{
    moet_table *table = NULL;
    char *changed = with(text, from, to);
    TEST_FAILS(MOET_MALFORMED, words, moet_table_parse(changed, strlen(changed), NULL, true, fill_host, &table));
    free(changed);
}

static void test_table(void **state)
{
    (void)state;
    char path[512], dir[512];
    const moet_algorithm a[] = {made_up(4, 31), made_up(64, 32)};
    moet_store *store = fill_store("emit.db", path);
    moet_emitted emitted;
    moet_table *table = NULL;
    assert_true(put(store, fill_run(store, fill_host), &configs[0], 1000, false, a, 2));
    snprintf(dir, sizeof dir, "%s/table", fill_folder);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    TEST_OK(moet_table_load(dir, fill_host, &table));
    const moet_table_winner *winner = &table->problems[0].points[0].winner[MOET_TABLE_ANY];
    assert_true(winner->present);
    assert_int_equal(winner->algorithm_count, 2);
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(winner->algorithms[i].rows, a[i].rows);
        assert_string_equal(winner->algorithms[i].text, a[i].text);
        assert_memory_equal(winner->algorithms[i].bytes, a[i].bytes, MOET_ALGORITHM_BYTES);
    }
    moet_table_close(table);

    char *text = text_replace(fill_table_text(dir), "\"hash\":\t\"", "\"hash\":\""); /* as text_rehash wants it */
    expect_refused(text, "\"bytes\":\t\"", "\"bytes\":\t\"00", "algorithms[0]: \"bytes\" are not 128");
    expect_refused(text, "\"bytes\":\t\"", "\"bytes\":\t\"G", "algorithms[0]: \"bytes\" are not 128");
    expect_refused(text, "\"rows\":\t4,", "\"rows\":\t-1,", "algorithms[0]: \"rows\" must be");
    expect_refused(text, "\"rows\":\t4,", "\"rows\":\t1048577,", "algorithms[0]: \"rows\" must be");
    expect_refused(text, "\"text\":\t\"algo", "\"texts\":\t\"algo", "\"text\" and \"bytes\" is expected");
    expect_refused(text, "\"algorithms\":\t[{", "\"algorithms\":\t7, \"more\":\t[{",
                   "\"algorithms\" has the wrong type");
    /* A table of before has no such member. */
    char *old = with(text, "\"algorithms\":\t[{", "\"once\":\t[{");
    TEST_OK(moet_table_parse(old, strlen(old), NULL, true, fill_host, &table));
    assert_int_equal(table->problems[0].points[0].winner[MOET_TABLE_ANY].algorithm_count, 0);
    moet_table_close(table);
    free(old);
    free(text);
    moet_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store),     cmocka_unit_test(test_most),  cmocka_unit_test(test_merge),
        cmocka_unit_test(test_version_2), cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests_name("algorithms", tests, group_open, fill_group_close);
}
