/* What computed wrong at one workload wins at none of its problem: in the store, in tables, in what a filling measures.
 */
#include "store_fill.h"
#include "test.h"

#include <sqlite3.h>
#include <stdio.h>
#include <unistd.h>

#include "../src/table.h"
#include "../tuner/emit.h"

enum { EXPERTS = 2, CONFIGS = 4 };
static moet_config configs[CONFIGS]; /* the first is the default */

static int group_open(void **state)
{
    moet_problem problem;
    const int code = fill_group_open(state);
    moet_problem_init(&problem, MOET_OP_UP, EXPERTS, 64, 32);
    for (int32_t c = 0; c < CONFIGS && code == 0; c++) fill_config(fill_host, &problem, c, &configs[c]);
    return code;
}

/* A trial of final rounds; time 0: it is wrong. */
static fill_trial trial_of(const moet_problem *problem, const int32_t *counts, int32_t config, int64_t time_ns)
{
    return (fill_trial){.device = fill_host,
                        .problem = problem,
                        .counts = counts,
                        .config = &configs[config],
                        .is_default = config == 0,
                        .final_rounds = time_ns > 0,
                        .status = time_ns > 0 ? MOET_TRIAL_OK : MOET_TRIAL_WRONG,
                        .median_ns = time_ns};
}

/* Who wins at a workload, by its place among configs; -1: nobody. */
typedef struct wins {
    const int32_t *counts;
    const char *device_key, *problem_part;
    moet_table_kind kind;
    int32_t winner, runner_up, standard;
    bool is_default_suspect;
} wins;

static int32_t place_of(const char *text)
{
    moet_config config;
    if (!text) return -1;
    TEST_OK(moet_config_parse(text, &config));
    for (int32_t c = 0; c < CONFIGS; c++) {
        if (moet_config_equal(&config, &configs[c])) return c;
    }
    test_fail("'%s' is none of the test's", text);
}

static moet_status visit_winner(void *context, const moet_store_winner_row *row)
{
    wins *w = context;
    if (row->kind != w->kind || memcmp(row->trial.counts, w->counts, EXPERTS * sizeof *w->counts) != 0 ||
        strcmp(row->trial.device_key, w->device_key) != 0 || !strstr(row->trial.problem_key, w->problem_part))
        return MOET_OK;
    assert_int_equal(w->winner, -1);
    w->winner = place_of(row->trial.config);
    w->runner_up = place_of(row->runner_up.config);
    w->standard = place_of(row->default_trial.config);
    w->is_default_suspect = row->default_trial.is_suspect;
    return MOET_OK;
}

static void check_wins(moet_store *store, wins wanted)
{
    wins found = wanted;
    if (!found.device_key) found.device_key = fill_host->key;
    if (!found.problem_part) found.problem_part = "bias=0";
    found.winner = found.runner_up = found.standard = -1;
    found.is_default_suspect = false;
    TEST_OK(moet_store_each_winner(store, NULL, visit_winner, &found));
    if (found.winner != wanted.winner || found.runner_up != wanted.runner_up || found.standard != wanted.standard ||
        found.is_default_suspect != wanted.is_default_suspect)
        test_fail("counts %d %d: %d, %d, %d (suspect %d) win, not %d, %d, %d (%d)", wanted.counts[0], wanted.counts[1],
                  found.winner, found.runner_up, found.standard, found.is_default_suspect, wanted.winner,
                  wanted.runner_up, wanted.standard, wanted.is_default_suspect);
}

static const int32_t few[EXPERTS] = {8, 8}, some[EXPERTS] = {64, 64}, many[EXPERTS] = {512, 512};

/* The default is wrong at one workload and fastest at the others. */
static int64_t fill_wrong_default(moet_store *store, const moet_problem *problem)
{
    static const int64_t times[3][3] = {{100000, 120000, 140000}, {0, 900000, 850000}, {300000, 360000, 0}};
    static const int32_t *const counts[3] = {few, some, many};
    const int64_t run = fill_run(store, fill_host);
    for (int32_t w = 0; w < 3; w++) {
        for (int32_t c = 0; c < 3; c++) {
            const fill_trial t = trial_of(problem, counts[w], c, times[w][c]);
            if (w != 2 || c != 2) assert_true(fill_put(store, run, &t));
        }
    }
    return run;
}

static void test_winners(void **state)
{
    (void)state;
    char path[512];
    moet_problem problem, biased;
    moet_store *store = fill_store("winners.db", path);
    moet_problem_init(&problem, MOET_OP_UP, EXPERTS, 64, 32);
    biased = problem;
    biased.bias = true;
    const int64_t run = fill_wrong_default(store, &problem);
    check_wins(store, (wins){.counts = few, .winner = 1, .runner_up = 2, .standard = 0, .is_default_suspect = true});
    check_wins(store, (wins){.counts = some, .winner = 2, .runner_up = 1, .standard = -1});
    check_wins(store, (wins){.counts = many, .winner = 1, .runner_up = -1, .standard = 0, .is_default_suspect = true});
    /* It serves counts on the device too. */
    fill_trial t = trial_of(&problem, few, 0, 100000);
    t.device_counts = true;
    assert_true(fill_put(store, run, &t));
    t = trial_of(&problem, few, 1, 110000);
    t.device_counts = true;
    assert_true(fill_put(store, run, &t));
    check_wins(store, (wins){.counts = few,
                             .kind = MOET_TABLE_DEVICE_COUNTS,
                             .winner = 1,
                             .runner_up = -1,
                             .standard = 0,
                             .is_default_suspect = true});
    /* Another problem, another device, another version of the family are none of it. */
    t = trial_of(&biased, few, 0, 100000);
    assert_true(fill_put(store, run, &t));
    check_wins(store, (wins){.counts = few, .problem_part = "bias=1", .winner = 0, .runner_up = -1, .standard = 0});
    t = trial_of(&problem, few, 0, 100000);
    t.device = &fill_elsewhere;
    assert_true(fill_put(store, fill_run(store, &fill_elsewhere), &t));
    check_wins(store,
               (wins){.counts = few, .device_key = fill_elsewhere.key, .winner = 0, .runner_up = -1, .standard = 0});
    t = trial_of(&problem, many, 0, 310000);
    t.version = configs[0].family->version + 1;
    assert_true(fill_put(store, run, &t));
    check_wins(store, (wins){.counts = many, .winner = 0, .runner_up = -1, .standard = 0});
    /* Nor is it any longer where it is right after all. */
    t = trial_of(&problem, some, 0, 800000);
    t.replace = true;
    assert_true(fill_put(store, run, &t));
    check_wins(store, (wins){.counts = few, .winner = 0, .runner_up = 1, .standard = 0});
    check_wins(store, (wins){.counts = some, .winner = 0, .runner_up = 2, .standard = 0});
    /* All of them: nobody wins. */
    for (int32_t c = 0; c < 3; c++) {
        t = trial_of(&problem, (const int32_t[EXPERTS]){1, 0}, c, 0);
        assert_true(fill_put(store, run, &t));
    }
    check_wins(store, (wins){.counts = few, .winner = -1, .runner_up = -1, .standard = -1});
    moet_store_close(store);
}

/* Suspects that took the places in the final rounds leave all others eligible, and not the default alone. */
static void test_final_places(void **state)
{
    (void)state;
    char path[512];
    moet_problem problem;
    moet_store *store = fill_store("final.db", path);
    moet_problem_init(&problem, MOET_OP_UP, EXPERTS, 64, 32);
    const int64_t run = fill_run(store, fill_host);
    fill_trial trials[] = {trial_of(&problem, few, 0, 200000), trial_of(&problem, few, 1, 100000),
                           trial_of(&problem, few, 2, 110000), trial_of(&problem, few, 3, 120000),
                           trial_of(&problem, some, 1, 0)};
    trials[2].final_rounds = trials[3].final_rounds = false;
    for (int32_t i = 0; i < 4; i++) assert_true(fill_put(store, run, &trials[i]));
    check_wins(store, (wins){.counts = few, .winner = 1, .runner_up = 0, .standard = 0});
    assert_true(fill_put(store, run, &trials[4]));
    check_wins(store, (wins){.counts = few, .winner = 2, .runner_up = 3, .standard = 0});
    trials[3].final_rounds = trials[3].replace = true;
    assert_true(fill_put(store, run, &trials[3]));
    check_wins(store, (wins){.counts = few, .winner = 3, .runner_up = 0, .standard = 0});
    /* Wrong with another library, it is another candidate. */
    sqlite3 *db;
    static const char other_library[] = "UPDATE trials SET validator = 'another' WHERE status = 'wrong'";
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, other_library, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    check_wins(store, (wins){.counts = few, .winner = 1, .runner_up = 3, .standard = 0});
    moet_store_close(store);
}

/* A merge keeps what was wrong in either database. */
static void test_merge(void **state)
{
    (void)state;
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, EXPERTS, 64, 32);
    char paths[2][512];
    for (int32_t d = 0; d < 2; d++) {
        moet_store *store = fill_store(d == 0 ? "wrong.db" : "right.db", paths[d]);
        const int64_t run = fill_run(store, fill_host);
        const fill_trial t[] = {trial_of(&problem, few, 0, 120000), trial_of(&problem, few, 1, 100000),
                                trial_of(&problem, some, 1, d == 0 ? 0 : 900000)};
        for (int32_t i = 0; i < MOET_COUNT_OF(t); i++) assert_true(fill_put(store, run, &t[i]));
        check_wins(store, (wins){.counts = few, .winner = d, .runner_up = d == 0 ? -1 : 0, .standard = 0});
        moet_store_close(store);
    }
    for (int32_t d = 0; d < 2; d++) {
        char path[512];
        int64_t added;
        moet_store *store = fill_store(d == 0 ? "one-way.db" : "other-way.db", path);
        TEST_OK(moet_store_merge(store, paths[d], &added));
        TEST_OK(moet_store_merge(store, paths[1 - d], &added));
        check_wins(store, (wins){.counts = few, .winner = 0, .runner_up = -1, .standard = 0});
        moet_store_close(store);
    }
}

/* A path's problem is one whatever its tokens. */
static void test_tokens(void **state)
{
    (void)state;
    char path[512];
    moet_problem problem;
    moet_store *store = fill_store("tokens.db", path);
    moet_problem_init(&problem, MOET_OP_FFN, EXPERTS, 64, 32);
    const int64_t run = fill_run(store, fill_host);
    for (int32_t c = 0; c < 2; c++) {
        fill_trial t = trial_of(&problem, few, c, 1000 + c * 500);
        t.tokens = 8;
        assert_true(fill_put(store, run, &t));
    }
    check_wins(store, (wins){.counts = few, .problem_part = "op=ffn", .winner = 0, .runner_up = 1, .standard = 0});
    fill_trial t = trial_of(&problem, some, 0, 0);
    t.tokens = 64;
    assert_true(fill_put(store, run, &t));
    check_wins(store, (wins){.counts = few,
                             .problem_part = "op=ffn",
                             .winner = 1,
                             .runner_up = -1,
                             .standard = 0,
                             .is_default_suspect = true});
    moet_store_close(store);
}

static moet_status count_config(void *context, const char *config)
{
    ((int32_t *)context)[place_of(config)]++;
    return MOET_OK;
}

/* A table has it at no point, not even as what the others are compared with; what a filling measures has it not either.
 */
static void test_table(void **state)
{
    (void)state;
    char path[512], dir[512], key[MOET_STORE_PROBLEM_SIZE];
    moet_problem problem;
    moet_emitted emitted;
    moet_table *table;
    moet_store *store = fill_store("table.db", path);
    fill_path("table", dir);
    moet_problem_init(&problem, MOET_OP_UP, EXPERTS, 64, 32);
    fill_wrong_default(store, &problem);
    for (int32_t way = 0; way < 3; way++) { /* few, all, of one bit class */
        TEST_OK(moet_emit(store, dir,
                          &(moet_emit_options){.all_winners = way == 1, .bits = way == 2 ? "host_tile" : NULL},
                          &emitted));
        TEST_OK(moet_table_load(dir, fill_host, &table));
        assert_int_equal(table->entry_count, 3);
        for (int32_t p = 0; p < 3; p++) {
            const moet_table_winner *winner = &table->problems[0].points[p].winner[MOET_TABLE_ANY];
            assert_true(winner->present && !moet_config_equal(&winner->config, &configs[0]));
            for (int32_t i = 0; i < winner->other_count; i++)
                assert_false(moet_config_equal(&winner->others[i].config, &configs[0]));
        }
        moet_table_close(table);
    }
    int32_t counts[CONFIGS] = {0};
    moet_store_problem_key(&problem, NULL, key);
    TEST_OK(moet_emit_winners_each_config(store, fill_host->key, key, count_config, counts));
    assert_int_equal(counts[0], 0);
    assert_true(counts[1] > 0);
    moet_store_close(store);
}

static void check_table(moet_store *store, const char *bits, const int32_t *wanted)
{
    char dir[512];
    moet_emitted emitted;
    moet_table *table;
    fill_path(bits ? "choice-bits" : "choice", dir);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){.bits = bits}, &emitted));
    TEST_OK(moet_table_load(dir, fill_host, &table));
    for (int32_t p = 0; p < 2; p++) {
        const moet_config *config = &table->problems[0].points[p].winner[MOET_TABLE_ANY].config;
        if (!moet_config_equal(config, &configs[wanted[p]])) test_fail("point %d: not %d", p, wanted[p]);
    }
    moet_table_close(table);
}

/* Neither as the time that none may be above, nor as the fastest, nor as one of the class is it of any weight. */
static void test_choice(void **state)
{
    (void)state;
    char path[512];
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, EXPERTS, 64, 32);
    moet_store *store = fill_store("choice.db", path);
    int64_t run = fill_run(store, fill_host);
    const fill_trial covered[] = {trial_of(&problem, few, 0, 100000),  trial_of(&problem, few, 1, 120000),
                                  trial_of(&problem, few, 2, 120500),  trial_of(&problem, some, 0, 0),
                                  trial_of(&problem, some, 1, 700000), trial_of(&problem, some, 2, 500000)};
    for (int32_t i = 0; i < MOET_COUNT_OF(covered); i++) assert_true(fill_put(store, run, &covered[i]));
    check_table(store, NULL, (const int32_t[]){2, 2});
    moet_store_close(store);
    /* Of one class. */
    store = fill_store("choice-bits.db", path);
    run = fill_run(store, fill_host);
    moet_config blas;
    moet_config_first(moet_family_find("host_blas"), &blas);
    fill_trial classed[] = {trial_of(&problem, few, 3, 90000),  trial_of(&problem, few, 1, 110000),
                            trial_of(&problem, few, 2, 130000), trial_of(&problem, few, 0, 150000),
                            trial_of(&problem, some, 1, 0),     trial_of(&problem, some, 2, 190000),
                            trial_of(&problem, some, 0, 200000)};
    classed[0].config = &blas;
    classed[0].bit_class = "another";
    for (int32_t i = 0; i < MOET_COUNT_OF(classed); i++) assert_true(fill_put(store, run, &classed[i]));
    check_table(store, "host_tile", (const int32_t[]){2, 2});
    moet_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_winners), cmocka_unit_test(test_final_places),
                                       cmocka_unit_test(test_merge),   cmocka_unit_test(test_tokens),
                                       cmocka_unit_test(test_table),   cmocka_unit_test(test_choice)};
    return cmocka_run_group_tests_name("suspects", tests, group_open, fill_group_close);
}
