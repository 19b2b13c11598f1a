/* The store: what goes in comes out, identity and resuming, winners and ties, merging, files that it must refuse. */
#include "store_fill.h"
#include "test.h"

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

static moet_problem problem;
static const int32_t counts[][4] = {{16, 16, 16, 16}, {61, 1, 1, 1}, {256, 256, 256, 256}, {0, 0, 0, 5}};

static int group_open(void **state)
{
    moet_problem_init(&problem, MOET_OP_UP, 4, 64, 32);
    return fill_group_open(state);
}

static fill_trial trial_of(moet_config *config, int32_t n, int64_t median_ns)
{
    fill_config(fill_host, &problem, n, config);
    return (fill_trial){.device = fill_host,
                        .problem = &problem,
                        .counts = counts[0],
                        .config = config,
                        .median_ns = median_ns,
                        .noise_ns = 2};
}

typedef struct seen {
    int32_t rows;
    moet_store_winner_row winner[2];
    char config[2][MOET_CONFIG_SIZE], runner_up[2][MOET_CONFIG_SIZE], fallback[2][MOET_CONFIG_SIZE];
} seen;

static moet_status see_winner(void *context, const moet_store_winner_row *row)
{
    seen *s = context;
    s->rows++;
    s->winner[row->kind] = *row;
    snprintf(s->config[row->kind], MOET_CONFIG_SIZE, "%s", row->trial.config);
    snprintf(s->runner_up[row->kind], MOET_CONFIG_SIZE, "%s", row->runner_up.config ? row->runner_up.config : "");
    snprintf(s->fallback[row->kind], MOET_CONFIG_SIZE, "%s",
             row->default_trial.config ? row->default_trial.config : "");
    return MOET_OK;
}

static seen winners_of(moet_store *store)
{
    seen s = {0};
    TEST_OK(moet_store_each_winner(store, NULL, see_winner, &s));
    return s;
}

static void test_put_and_read(void **state)
{
    (void)state;
    char path[512];
    moet_store *store = fill_store("put.db", path);
    int64_t run = fill_run(store, fill_host);
    moet_config config;
    fill_trial t = trial_of(&config, 0, 1000);
    assert_true(fill_put(store, run, &t));
    t.median_ns = 900;
    assert_false(fill_put(store, run, &t)); /* the same key: the stored one stays */
    char *dump = fill_dump(store);
    TEST_CONTAINS(dump, "|1000|");
    free(dump);
    t.replace = true;
    assert_true(fill_put(store, run, &t));
    dump = fill_dump(store);
    TEST_CONTAINS(dump, "|900|");
    TEST_CONTAINS(dump, "test/made-up");
    TEST_CONTAINS(dump, fill_host->key);
    assert_null(strstr(dump, "|1000|"));
    free(dump);
    t.replace = false;
    /* Each part of the key makes another trial. */
    t.device_counts = true;
    assert_true(fill_put(store, run, &t));
    t.version = 77;
    assert_true(fill_put(store, run, &t));
    t.counts = counts[1];
    assert_true(fill_put(store, run, &t));
    moet_problem fast = problem;
    fast.numerics = MOET_NUMERICS_FAST;
    t.problem = &fast;
    assert_true(fill_put(store, run, &t));
    moet_config other;
    fill_config(fill_host, &problem, 1, &other);
    t.config = &other;
    assert_true(fill_put(store, run, &t));
    int64_t other_run = fill_run(store, &fill_elsewhere);
    t.device = &fill_elsewhere;
    assert_true(fill_put(store, other_run, &t));
    assert_false(fill_put(store, other_run, &t));
    moet_store_keys keys;
    TEST_OK(moet_store_device_keys(store, &keys));
    assert_int_equal(keys.count, 2);
    moet_store_keys_release(&keys);
    moet_device_info info;
    moet_ceilings ceilings;
    TEST_OK(moet_store_device_info(store, fill_elsewhere.key, &info, &ceilings));
    assert_string_equal(info.name, "Another processor");
    assert_int_equal(info.memory_bytes, fill_host->info.memory_bytes);
    assert_true(ceilings.read_bytes_per_s > 2.9e10);
    TEST_FAILS(MOET_NOT_FOUND, NULL, moet_store_device_info(store, "no such device", &info, &ceilings));
    /* Closed and opened again, read only: the same. */
    char *before = fill_dump(store);
    moet_store_close(store);
    TEST_OK(moet_store_open(path, MOET_STORE_READ, &store));
    char *after = fill_dump(store);
    assert_string_equal(before, after);
    free(before);
    free(after);
    moet_store_close(store);
    moet_store_close(NULL);
}

/* Every sample is in the file, with the application's and the schema's number. */
static void test_the_file(void **state)
{
    (void)state;
    char path[512];
    moet_store *store = fill_store("file.db", path);
    moet_config config;
    fill_trial t = trial_of(&config, 0, 1000);
    t.samples = 11;
    fill_put(store, fill_run(store, fill_host), &t);
    moet_store_close(store);
    static const struct {
        const char *sql;
        int64_t value;
    } facts[] = {
        {"PRAGMA application_id", MOET_STORE_APPLICATION_ID},
        {"PRAGMA user_version", MOET_STORE_VERSION},
        {"SELECT count(*) FROM samples", 11},
        {"SELECT sum(time_ns) FROM samples", 11000},
        {"SELECT count(*) FROM trials t JOIN runs r ON r.id = t.run_id WHERE r.revision = 'test'", 1},
        {"SELECT count(*) FROM pragma_foreign_key_check", 0},
        {"SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'", 0},
    };
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    for (int32_t i = 0; i < MOET_COUNT_OF(facts); i++) {
        sqlite3_stmt *statement;
        assert_int_equal(sqlite3_prepare_v2(db, facts[i].sql, -1, &statement, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
        if (sqlite3_column_int64(statement, 0) != facts[i].value) test_fail("%s", facts[i].sql);
        sqlite3_finalize(statement);
    }
    sqlite3_close(db);
}

/* A copy of the database as version 6 had it, whose winners' view is the first schema's, read without a migration. */
static void check_older_rule(const char *path, const char *winner)
{
    extern const char moet_source_schema[];
    char copy[600];
    sqlite3 *db;
    moet_store *older;
    snprintf(copy, sizeof copy, "%s.6", path);
    char *sql = sqlite3_mprintf("VACUUM INTO %Q", copy);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    sqlite3_free(sql);
    assert_int_equal(sqlite3_open(copy, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DROP VIEW winners", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, strstr(moet_source_schema, "CREATE VIEW winners"), NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 6", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    TEST_OK(moet_store_open(copy, MOET_STORE_READ, &older));
    const seen s = winners_of(older);
    assert_string_equal(s.config[MOET_TABLE_ANY], winner);
    moet_store_close(older);
}

static void test_winners(void **state)
{
    (void)state;
    char path[512], text[3][MOET_CONFIG_SIZE];
    moet_store *store = fill_store("winners.db", path);
    int64_t run = fill_run(store, fill_host);
    moet_config configs[3];
    fill_trial t[3];
    for (int32_t i = 0; i < 3; i++) {
        t[i] = trial_of(&configs[i], i, 0);
        t[i].replace = true;
        moet_config_format(&configs[i], text[i]);
    }
    t[2].is_default = true;
    t[0].median_ns = 5000, t[1].median_ns = 4000, t[2].median_ns = 6000;
    for (int32_t i = 0; i < 3; i++) fill_put(store, run, &t[i]);
    seen s = winners_of(store);
    assert_int_equal(s.rows, 1);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[1]);
    assert_string_equal(s.runner_up[MOET_TABLE_ANY], text[0]);
    assert_string_equal(s.fallback[MOET_TABLE_ANY], text[2]);
    assert_int_equal(s.winner[MOET_TABLE_ANY].default_trial.median_ns, 6000);
    /* Within one per cent the default wins; just beyond, the faster one. */
    t[2].median_ns = 4040;
    fill_put(store, run, &t[2]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[2]);
    t[2].median_ns = 4041;
    fill_put(store, run, &t[2]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[1]);
    /* Within the noise of either. */
    t[2].noise_ns = 50;
    fill_put(store, run, &t[2]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[2]);
    t[2].noise_ns = 2;
    t[1].noise_ns = 41;
    fill_put(store, run, &t[1]);
    fill_put(store, run, &t[2]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[2]);
    /* A tie without the default: the lower config. */
    t[1].noise_ns = 2;
    t[0].median_ns = 4001;
    t[2].median_ns = 9000;
    for (int32_t i = 0; i < 3; i++) fill_put(store, run, &t[i]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], strcmp(text[0], text[1]) < 0 ? text[0] : text[1]);
    /* Noise alone makes nothing win that the default beats: of a newest database, and of one with the rule before. */
    const fill_trial steady = t[0], other = t[1];
    const int32_t lower = strcmp(text[0], text[1]) < 0 ? 0 : 1;
    t[lower].median_ns = 7000, t[lower].noise_ns = 5000;
    t[1 - lower].median_ns = 4000, t[1 - lower].noise_ns = 2;
    t[2].median_ns = 5000, t[2].noise_ns = 2;
    for (int32_t i = 0; i < 3; i++) fill_put(store, run, &t[i]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[1 - lower]);
    check_older_rule(path, text[1 - lower]);
    t[2].median_ns = 9000, t[2].noise_ns = 2;
    fill_put(store, run, &t[2]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[lower]);
    t[0] = steady, t[1] = other;
    for (int32_t i = 0; i < 2; i++) fill_put(store, run, &t[i]);
    /* What is wrong or failed never wins, however fast. */
    t[1].status = MOET_TRIAL_WRONG;
    t[1].median_ns = 1;
    fill_put(store, run, &t[1]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[0]);
    /* Where some were measured in final rounds, only those may win. */
    t[2].final_rounds = true;
    fill_put(store, run, &t[2]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[2]);
    /* A newer version of the family makes the older trials stale. */
    t[1] = trial_of(&configs[1], 1, 20000);
    t[1].version = configs[1].family->version + 1;
    fill_put(store, run, &t[1]);
    s = winners_of(store);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[1]);
    /* Device counts: a kind of their own, which may also win `any`. */
    t[0].version = t[1].version;
    t[0].device_counts = true;
    t[0].median_ns = 25000;
    fill_put(store, run, &t[0]);
    s = winners_of(store);
    assert_int_equal(s.rows, 2);
    assert_string_equal(s.config[MOET_TABLE_ANY], text[1]);
    assert_string_equal(s.config[MOET_TABLE_DEVICE_COUNTS], text[0]);
    moet_store_close(store);
}

static void test_done(void **state)
{
    (void)state;
    char path[512];
    moet_store *store = fill_store("done.db", path);
    int64_t run = fill_run(store, fill_host);
    int32_t mine[4] = {1, 2, 3, 4};
    moet_workload workload = {
        .name = "w", .skew = "s", .experts = 4, .hidden = 64, .inter = 32, .rows = 10, .counts = mine};
    moet_store_key key = {
        .device_key = fill_host->key, .problem = &problem, .workload = &workload, .config = "", .validator = ""};
    bool done = true;
    TEST_OK(moet_store_is_done(store, &key, "set-a", MOET_EFFORT_NORMAL, &done));
    assert_false(done);
    TEST_OK(moet_store_put_done(store, run, &key, "set-a", MOET_EFFORT_NORMAL));
    TEST_OK(moet_store_put_done(store, run, &key, "set-a", MOET_EFFORT_NORMAL));
    TEST_OK(moet_store_is_done(store, &key, "set-a", MOET_EFFORT_NORMAL, &done));
    assert_true(done);
    TEST_OK(moet_store_is_done(store, &key, "set-b", MOET_EFFORT_NORMAL, &done));
    assert_false(done);
    mine[3] = 5;
    TEST_OK(moet_store_is_done(store, &key, "set-a", MOET_EFFORT_NORMAL, &done));
    assert_false(done);
    moet_store_close(store);
}

/* What a higher effort found stays. */
static void test_effort(void **state)
{
    (void)state;
    char path[512], other_path[512];
    moet_store *store = fill_store("effort.db", path), *other = fill_store("effort_other.db", other_path);
    const int64_t quick = fill_run_of(store, fill_host, MOET_EFFORT_QUICK);
    const int64_t normal = fill_run_of(store, fill_host, MOET_EFFORT_NORMAL);
    int32_t mine[4] = {1, 2, 3, 4};
    moet_workload workload = {
        .name = "w", .skew = "s", .experts = 4, .hidden = 64, .inter = 32, .rows = 10, .counts = mine};
    moet_store_key key = {
        .device_key = fill_host->key, .problem = &problem, .workload = &workload, .config = "", .validator = ""};
    bool done = false;
    TEST_OK(moet_store_put_done(store, quick, &key, "set", MOET_EFFORT_QUICK));
    TEST_OK(moet_store_is_done(store, &key, "set", MOET_EFFORT_NORMAL, &done));
    assert_false(done);
    TEST_OK(moet_store_put_done(store, normal, &key, "set", MOET_EFFORT_NORMAL));
    TEST_OK(moet_store_put_done(store, quick, &key, "set", MOET_EFFORT_QUICK)); /* changes nothing */
    for (moet_effort effort = MOET_EFFORT_QUICK; effort <= MOET_EFFORT_EXHAUSTIVE; effort++) {
        TEST_OK(moet_store_is_done(store, &key, "set", effort, &done));
        assert_int_equal(done, effort <= MOET_EFFORT_NORMAL);
    }
    /* Merging a lower mark changes nothing, merging a higher one does. */
    TEST_OK(
        moet_store_put_done(other, fill_run_of(other, fill_host, MOET_EFFORT_QUICK), &key, "set", MOET_EFFORT_QUICK));
    TEST_OK(moet_store_merge(store, other_path, NULL));
    TEST_OK(moet_store_is_done(store, &key, "set", MOET_EFFORT_NORMAL, &done));
    assert_true(done);
    TEST_OK(moet_store_merge(other, path, NULL));
    TEST_OK(moet_store_is_done(other, &key, "set", MOET_EFFORT_NORMAL, &done));
    assert_true(done);

    moet_config config;
    fill_trial t = trial_of(&config, 0, 1000);
    t.replace = t.final_rounds = true;
    assert_true(fill_put(store, normal, &t));
    t.median_ns = 900;
    assert_false(fill_put(store, quick, &t)); /* a lower effort's times do not replace it, */
    assert_true(fill_put(store, normal, &t)); /* an equal one's do, */
    t.status = MOET_TRIAL_WRONG;
    t.final_rounds = false;
    assert_true(fill_put(store, quick, &t)); /* and that it is wrong does */
    t.status = MOET_TRIAL_OK;
    assert_true(fill_put(store, quick, &t)); /* over what is not of final rounds too */
    moet_store_close(store);
    moet_store_close(other);
}

/* One cost model a device; of two that merge, the one of more points, whichever way. */
static void test_cost_models(void **state)
{
    (void)state;
    char paths[2][512];
    moet_store *stores[2];
    moet_store_cost cost, few = {.points = 10, .error = 0.02}, many = {.points = 20, .error = 0.05};
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) {
        few.rates.rate[i] = 1.5 + i;
        many.rates.rate[i] = 1e15 / (3 + i);
    }
    for (int32_t i = 0; i < 2; i++) {
        stores[i] = fill_store(i ? "cost_b.db" : "cost_a.db", paths[i]);
        fill_run(stores[i], fill_host);
    }
    TEST_FAILS(MOET_NOT_FOUND, "no cost model", moet_store_get_cost(stores[0], fill_host->key, &cost));
    TEST_OK(moet_store_put_cost(stores[0], fill_host->key, &many));
    TEST_OK(moet_store_put_cost(stores[0], fill_host->key, &few));
    TEST_OK(moet_store_get_cost(stores[0], fill_host->key, &cost));
    assert_memory_equal(&cost.rates, &few.rates, sizeof cost.rates);
    assert_int_equal(cost.points, 10);
    TEST_OK(moet_store_put_cost(stores[1], fill_host->key, &many));
    TEST_OK(moet_store_merge(stores[0], paths[1], NULL));
    TEST_OK(moet_store_put_cost(stores[1], fill_host->key, &few));
    TEST_OK(moet_store_merge(stores[1], paths[0], NULL));
    for (int32_t i = 0; i < 2; i++) {
        TEST_OK(moet_store_get_cost(stores[i], fill_host->key, &cost));
        assert_memory_equal(&cost.rates, &many.rates, sizeof cost.rates);
        assert_int_equal(cost.points, 20);
        moet_store_close(stores[i]);
    }
}

static void test_cubins(void **state)
{
    (void)state;
    char path[512], digits[MOET_SHA256_TEXT_SIZE];
    moet_store *store = fill_store("cubins.db", path);
    moet_config config;
    fill_trial t = trial_of(&config, 0, 1000);
    t.cubins[0] = "compiled kernel";
    fill_put(store, fill_run(store, fill_host), &t);
    moet_sha256_text(t.cubins[0], strlen(t.cubins[0]), digits);
    moet_cubin cubin = {0};
    TEST_OK(moet_store_get_cubin(store, digits, &cubin));
    assert_int_equal(cubin.size_bytes, strlen(t.cubins[0]));
    assert_memory_equal(cubin.bytes, t.cubins[0], cubin.size_bytes);
    assert_string_equal(cubin.arch, "sm_00a");
    moet_cubin_release(&cubin);
    digits[0] = digits[0] == '0' ? '1' : '0';
    TEST_FAILS(MOET_NOT_FOUND, digits, moet_store_get_cubin(store, digits, &cubin));
    moet_store_close(store);
    /* Bytes that are not what their name says. */
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE cubins SET bytes = x'00'", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    moet_sha256_text(t.cubins[0], strlen(t.cubins[0]), digits);
    TEST_OK(moet_store_open(path, MOET_STORE_READ, &store));
    assert_int_not_equal(moet_store_get_cubin(store, digits, &cubin), MOET_OK);
    moet_store_close(store);
}

static moet_status see_cubins(void *context, const moet_store_trial_row *row)
{
    *(moet_store_trial_row *)context = *row;
    return MOET_OK;
}

/* A trial's kernels come back in the order in which they were put, one named twice included. */
static void test_several_cubins(void **state)
{
    (void)state;
    static const char *const kernels[] = {"up", "down", "helper", "down"};
    char path[512], digits[MOET_SHA256_TEXT_SIZE], arch[16];
    moet_store *store = fill_store("several.db", path);
    moet_config config;
    moet_store_trial_row row;
    fill_trial t = trial_of(&config, 0, 1000);
    t.replace = true;
    int64_t run = fill_run(store, fill_host);
    for (int32_t count = MOET_MAX_CUBINS; count >= 0; count--) { /* each replaces the one before */
        for (int32_t i = 0; i < MOET_MAX_CUBINS; i++) t.cubins[i] = i < count ? kernels[i] : NULL;
        fill_put(store, run, &t);
        TEST_OK(moet_store_each_trial(store, NULL, see_cubins, &row));
        assert_int_equal(row.cubin_count, count);
        for (int32_t i = 0; i < count; i++) {
            moet_sha256_text(kernels[i], strlen(kernels[i]), digits);
            fill_arch(fill_host, kernels[i], arch);
            assert_string_equal(row.cubins[i].sha256, digits);
            assert_string_equal(row.cubins[i].arch, arch);
        }
        seen s = winners_of(store);
        assert_int_equal(s.rows, 1);
        assert_memory_equal(s.winner[0].trial.cubins, row.cubins, sizeof row.cubins);
    }
    t.cubins[0] = kernels[0];
    t.cubins[1] = kernels[1];
    fill_put(store, run, &t);
    moet_store_close(store);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DELETE FROM trial_cubins WHERE position = 0", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    TEST_OK(moet_store_open(path, MOET_STORE_READ, &store));
    TEST_FAILS(MOET_MALFORMED, path, moet_store_each_trial(store, NULL, see_cubins, &row));
    moet_store_close(store);
}

/* ---- merging ---- */

static void fill_random_here(moet_store *store, uint64_t seed)
{
    fill_random(store, fill_host, &fill_elsewhere, &problem, seed, MOET_MAX_CUBINS);
}

static char *merged(const char *name, const uint64_t *seeds, int32_t count)
{
    char path[512], part_name[64], part[512];
    moet_store *into = fill_store(name, path);
    for (int32_t i = 0; i < count; i++) {
        int64_t added;
        snprintf(part_name, sizeof part_name, "part-%d.db", (int)seeds[i]);
        snprintf(part, sizeof part, "%s/%s", fill_folder, part_name);
        TEST_OK(moet_store_merge(into, part, &added));
        if (i == 0) assert_true(added > 0);
        TEST_OK(moet_store_merge(into, part, &added)); /* again: nothing is new */
        assert_int_equal(added, 0);
    }
    char *dump = fill_dump(into);
    moet_store_close(into);
    return dump;
}

static void test_merge(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        char path[512], name[64];
        snprintf(name, sizeof name, "part-%d.db", (int)seed);
        moet_store *part = fill_store(name, path);
        fill_random_here(part, seed);
        moet_store_close(part);
    }
    /* Whatever the order, the same database. */
    static const uint64_t orders[][3] = {{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}};
    char *first = NULL;
    for (int32_t i = 0; i < MOET_COUNT_OF(orders); i++) {
        char name[64];
        snprintf(name, sizeof name, "merged-%d.db", i);
        char *dump = merged(name, orders[i], 3);
        if (!first)
            first = dump;
        else {
            assert_string_equal(first, dump);
            free(dump);
        }
    }
    free(first);
    /* Into one of the parts themselves: commutes as well. */
    char path_a[512], path_b[512];
    moet_store *a = fill_store("part-1.db", path_a), *b = fill_store("part-2.db", path_b);
    char *alone = fill_dump(a);
    int64_t added;
    TEST_OK(moet_store_merge(a, path_a, &added)); /* with itself */
    assert_int_equal(added, 0);
    char *same = fill_dump(a);
    assert_string_equal(alone, same);
    free(alone);
    free(same);
    static const uint64_t one_two[] = {1, 2};
    char *want = merged("one-two.db", one_two, 2);
    TEST_OK(moet_store_merge(b, path_a, &added));
    char *got = fill_dump(b);
    assert_string_equal(want, got);
    free(got);
    TEST_OK(moet_store_merge(a, path_b, &added));
    got = fill_dump(a);
    assert_string_equal(want, got);
    free(got);
    free(want);
    TEST_FAILS(MOET_NOT_FOUND, "absent.db", moet_store_merge(a, "/nowhere/absent.db", &added));
    moet_store_close(a);
    moet_store_close(b);
}

/* ---- files that are not ours ---- */

static void refuse_file(moet_status status, const char *words, const char *path)
{
    for (int32_t mode = 0; mode < 2; mode++) {
        moet_store *store = NULL;
        moet_status got = moet_store_open(path, mode ? MOET_STORE_WRITE : MOET_STORE_READ, &store);
        if (got != status)
            test_fail("%s: %s, not %s: %s", path, moet_status_name(got), moet_status_name(status), moet_last_error());
        TEST_CONTAINS(moet_last_error(), words);
        TEST_CONTAINS(moet_last_error(), path);
        assert_null(store);
    }
}

static void make_database(const char *path, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void test_foreign_files(void **state)
{
    (void)state;
    char path[512], before[512];
    moet_store *store = NULL;
    snprintf(path, sizeof path, "%s/absent.db", fill_folder);
    TEST_FAILS(MOET_NOT_FOUND, path, moet_store_open(path, MOET_STORE_READ, &store));
    assert_int_equal(access(path, F_OK), -1); /* reading makes no file */
    moet_status status = moet_store_open(fill_folder, MOET_STORE_WRITE, &store);
    assert_int_not_equal(status, MOET_OK);
    TEST_CONTAINS(moet_last_error(), fill_folder);
    snprintf(path, sizeof path, "%s/none/x.db", fill_folder);
    status = moet_store_open(path, MOET_STORE_WRITE, &store);
    assert_int_not_equal(status, MOET_OK);
    TEST_CONTAINS(moet_last_error(), path);

    snprintf(path, sizeof path, "%s/text.db", fill_folder);
    memset(before, 'a', sizeof before);
    test_file_write(path, before, sizeof before);
    refuse_file(MOET_MALFORMED, "not a moe-tune database", path);
    size_t size;
    char *after = test_file_read(path, &size);
    assert_true(size == sizeof before && memcmp(before, after, size) == 0); /* untouched */
    free(after);

    snprintf(path, sizeof path, "%s/other.db", fill_folder);
    make_database(path, "CREATE TABLE mail (id INTEGER); INSERT INTO mail VALUES (1)");
    refuse_file(MOET_MISMATCH, "another program", path);
    snprintf(path, sizeof path, "%s/stamped.db", fill_folder);
    make_database(path, "PRAGMA application_id = 12345; CREATE TABLE mail (id INTEGER)");
    refuse_file(MOET_MISMATCH, "another program", path);
    snprintf(path, sizeof path, "%s/newer.db", fill_folder);
    store = fill_store("newer.db", path);
    moet_store_close(store);
    make_database(path, "PRAGMA user_version = 999");
    refuse_file(MOET_MISMATCH, "999", path);

    /* Cut in the middle: an error, no crash, in whatever it shows. */
    store = fill_store("cut.db", path);
    fill_random_here(store, 9);
    moet_store_close(store);
    char *whole = test_file_read(path, &size);
    for (size_t part = 1; part < 16; part++) {
        test_file_write(path, whole, size * part / 16);
        store = NULL;
        if (moet_store_open(path, MOET_STORE_READ, &store) == MOET_OK) {
            seen s = {0};
            moet_store_each_winner(store, NULL, see_winner, &s);
            moet_store_close(store);
        } else {
            assert_null(store);
            TEST_CONTAINS(moet_last_error(), path);
        }
    }
    free(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_and_read),  cmocka_unit_test(test_the_file),    cmocka_unit_test(test_winners),
        cmocka_unit_test(test_effort),        cmocka_unit_test(test_cost_models), cmocka_unit_test(test_done),
        cmocka_unit_test(test_cubins),        cmocka_unit_test(test_merge),       cmocka_unit_test(test_several_cubins),
        cmocka_unit_test(test_foreign_files),
    };
    return cmocka_run_group_tests_name("store", tests, group_open, fill_group_close);
}
