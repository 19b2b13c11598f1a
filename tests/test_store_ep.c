/* Trials of the expert-parallel layer: put, resumed, won, merged, emitted and loaded; databases without them. */
#include "store_fill.h"
#include "test.h"

#include <sqlite3.h>

#include "../src/ep_choice.h"
#include "../tuner/emit.h"
#include "../tuner/store_ep.h"

static moet_problem local;

static int group_open(void **state)
{
    moet_problem_init(&local, MOET_OP_FFN, 4, 64, 32);
    return fill_group_open(state);
}

static moet_store_ep_point point_of(int64_t tokens, const char *skew)
{
    return (moet_store_ep_point){.device_key = fill_host->key,
                                 .problem = &local,
                                 .ranks = 2,
                                 .hosts = 1,
                                 .choices = 2,
                                 .returns = "rows",
                                 .tokens = tokens,
                                 .skew = skew};
}

#define AUTO "transport=auto,chunks=1,comm_sms=0"
#define LSA "transport=lsa,chunks=1,comm_sms=0"
#define EXCHANGE "transport=exchange,chunks=1,comm_sms=0"
#define CHUNKS "transport=lsa,chunks=2,comm_sms=16"

typedef struct given {
    const char *asked, *choice;
    bool is_default, keeps_counts;
    int64_t median_ns, noise_ns;
    int32_t rounds;
} given;

static void put(moet_store *store, int64_t run, const moet_store_ep_point *point, const given *g)
{
    int64_t times[8];
    const int32_t rounds = g->rounds ? g->rounds : 3;
    for (int32_t i = 0; i < rounds; i++) times[i] = g->median_ns + i - rounds / 2;
    const moet_store_ep_trial trial = {.asked = g->asked,
                                       .choice = g->choice,
                                       .name = "small",
                                       .busiest = point->tokens * point->choices + (point->ranks > 1 ? 3 : 0),
                                       .is_default = g->is_default,
                                       .keeps_counts = g->keeps_counts,
                                       .config = "c",
                                       .table_hash = "t",
                                       .median_ns = g->median_ns,
                                       .noise_ns = g->noise_ns,
                                       .rounds = rounds,
                                       .time_ns = {times, times}};
    TEST_OK(moet_store_put_ep(store, run, point, &trial));
}

/* Everything but what a run adds, a line a trial. */
typedef struct seen {
    char text[32768];
    char winner[MOET_EP_CHOICE_SIZE];
    int32_t rows, winners;
} seen;

static moet_status see(void *context, const moet_store_ep_row *row)
{
    seen *s = context;
    const size_t used = strlen(s->text);
    snprintf(s->text + used, sizeof s->text - used, "%s %s %d %d %d %s %lld %lld %s %s %s %lld %lld %d %s%s%s %lld\n",
             row->device_key, row->problem_key, row->ranks, row->hosts, row->choices, row->returns,
             (long long)row->tokens, (long long)row->busiest, row->skew, row->asked, row->choice,
             (long long)row->median_ns, (long long)row->noise_ns, row->sample_count, row->is_default ? "default " : "",
             row->keeps_counts ? "counts " : "", row->is_winner ? "wins" : "", (long long)row->default_ns);
    if (row->is_winner) snprintf(s->winner, sizeof s->winner, "%s", row->choice);
    s->winners += row->is_winner;
    s->rows++;
    return MOET_OK;
}

static seen look(moet_store *store)
{
    seen s = {.text = ""};
    TEST_OK(moet_store_each_ep(store, NULL, see, &s));
    return s;
}

static void test_put(void **state)
{
    (void)state;
    char path[512];
    moet_store *store = fill_store("put.db", path);
    const int64_t run = fill_run(store, fill_host);
    const moet_store_ep_point point = point_of(16, "uniform"), other = point_of(16, "zipf:0.5");
    bool is_there = true;
    TEST_OK(moet_store_has_ep(store, &point, AUTO, "t", &is_there));
    assert_false(is_there);
    put(store, run, &point, &(given){AUTO, LSA, true, false, 1000, 1, 3});
    TEST_OK(moet_store_has_ep(store, &point, AUTO, "t", &is_there));
    assert_true(is_there);
    TEST_OK(moet_store_has_ep(store, &point, AUTO, "u", &is_there)); /* with another table it is measured again */
    assert_false(is_there);
    TEST_OK(moet_store_has_ep(store, &point, CHUNKS, "t", &is_there));
    assert_false(is_there);
    TEST_OK(moet_store_has_ep(store, &other, AUTO, "t", &is_there));
    assert_false(is_there);
    assert_int_equal(fill_number(path, "SELECT count(*) FROM ep_samples"), 6);
    put(store, run, &point, &(given){AUTO, LSA, true, false, 2000, 1, 5}); /* in its place, samples too */
    seen s = look(store);
    assert_int_equal(s.rows, 1);
    TEST_CONTAINS(s.text, " 2000 1 5 default wins 2000");
    assert_int_equal(fill_number(path, "SELECT count(*) FROM ep_samples"), 10);
    assert_int_equal(fill_number(path, "SELECT sum(time_ns) FROM ep_samples WHERE part = 'layer'"), 10000);
    moet_store_close(store);
}

/* Of the trials of one point. */
static void test_winner(void **state)
{
    (void)state;
    static const struct {
        given trials[4];
        const char *winner;
    } cases[] = {
        {{{AUTO, LSA, true, false, 1000, 1, 0}, {CHUNKS, CHUNKS, false, false, 900, 1, 0}}, CHUNKS},
        /* ties go to the default: within 1 %, or the noise of either */
        {{{AUTO, LSA, true, false, 1010, 1, 0}, {CHUNKS, CHUNKS, false, false, 1000, 1, 0}}, LSA},
        {{{AUTO, LSA, true, false, 1011, 1, 0}, {CHUNKS, CHUNKS, false, false, 1000, 1, 0}}, CHUNKS},
        {{{AUTO, LSA, true, false, 1200, 200, 0}, {CHUNKS, CHUNKS, false, false, 1000, 1, 0}}, LSA},
        {{{AUTO, LSA, true, false, 1200, 1, 0}, {CHUNKS, CHUNKS, false, false, 1000, 200, 0}}, LSA},
        {{{AUTO, LSA, true, false, 1010, 1, 0}, {EXCHANGE, EXCHANGE, false, false, 1000, 1, 0}}, LSA},
        /* then to the lower choice */
        {{{CHUNKS, CHUNKS, false, false, 1000, 1, 0}, {EXCHANGE, EXCHANGE, false, false, 1001, 1, 0}}, EXCHANGE},
        /* what is slower than the default is none, however noisy: the fastest wins, of the default too */
        {{{AUTO, LSA, true, false, 1100, 1, 0},
          {CHUNKS, CHUNKS, false, false, 1000, 1, 0},
          {EXCHANGE, EXCHANGE, false, false, 1200, 300, 0}},
         CHUNKS},
        /* a time that lacks the wait for counts proves nothing against a default that has it */
        {{{AUTO, LSA, true, false, 1000, 1, 0}, {EXCHANGE, EXCHANGE, false, true, 500, 1, 0}}, LSA},
        {{{AUTO, LSA, true, false, 1000, 1, 0},
          {EXCHANGE, EXCHANGE, false, true, 500, 1, 0},
          {CHUNKS, CHUNKS, false, false, 700, 1, 0}},
         CHUNKS},
        /* but where the default lacks it too */
        {{{AUTO, EXCHANGE, true, true, 1000, 1, 0},
          {CHUNKS, "transport=exchange,chunks=2,comm_sms=8", false, true, 500, 1, 0}},
         "transport=exchange,chunks=2,comm_sms=8"},
        /* no default was measured */
        {{{EXCHANGE, EXCHANGE, false, true, 500, 1, 0}, {CHUNKS, CHUNKS, false, false, 700, 1, 0}}, CHUNKS},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        char path[512], name[32];
        snprintf(name, sizeof name, "winner-%d.db", i);
        moet_store *store = fill_store(name, path);
        const int64_t run = fill_run(store, fill_host);
        const moet_store_ep_point point = point_of(16, "uniform");
        for (int32_t j = 0; j < 4 && cases[i].trials[j].asked; j++) put(store, run, &point, &cases[i].trials[j]);
        const seen s = look(store);
        assert_int_equal(s.winners, 1);
        if (strcmp(s.winner, cases[i].winner) != 0) test_fail("case %d: %s wins, not %s", i, s.winner, cases[i].winner);
        moet_store_close(store);
    }
}

static void fill(moet_store *store, int64_t run, uint64_t seed)
{
    static const char *const ways[] = {AUTO, EXCHANGE, CHUNKS}, *const skews[] = {"uniform", "zipf:0.5"};
    uint64_t random = seed;
    for (int32_t i = 0; i < 30; i++) {
        const int32_t way = (int32_t)test_between(&random, 0, 2);
        moet_store_ep_point point =
            point_of(INT64_C(16) << test_between(&random, 0, 3), skews[test_between(&random, 0, 1)]);
        point.ranks = (int32_t)test_between(&random, 1, 2);
        point.returns = test_between(&random, 0, 1) ? "rows" : "sums";
        put(store, run, &point,
            &(given){ways[way], way == 0 ? LSA : ways[way], way == 0, false, test_between(&random, 100, 200), 1,
                     (int32_t)test_between(&random, 3, 5)});
    }
}

static void test_merge(void **state)
{
    (void)state;
    char a_path[512], b_path[512], ab_path[512], ba_path[512];
    moet_store *a = fill_store("a.db", a_path), *b = fill_store("b.db", b_path);
    moet_store *ab = fill_store("ab.db", ab_path), *ba = fill_store("ba.db", ba_path);
    int64_t added = 0;
    fill(a, fill_run(a, fill_host), 1);
    fill(b, fill_run(b, fill_host), 2);
    TEST_OK(moet_store_merge(ab, a_path, &added));
    assert_int_equal(added, look(a).rows);
    seen first = look(a), copied = look(ab);
    assert_string_equal(first.text, copied.text);
    TEST_OK(moet_store_merge(ab, b_path, &added));
    assert_true(added > 0);
    TEST_OK(moet_store_merge(ba, b_path, &added));
    TEST_OK(moet_store_merge(ba, a_path, &added));
    seen left = look(ab), right = look(ba);
    assert_string_equal(left.text, right.text);
    assert_true(left.rows > first.rows);
    TEST_OK(moet_store_merge(ab, ba_path, &added));
    assert_int_equal(added, 0);
    const char *samples = "SELECT count(*) * 1000000 + sum(time_ns) FROM ep_samples";
    assert_int_equal(fill_number(ab_path, samples), fill_number(ba_path, samples));
    assert_int_equal(fill_number(ab_path,
                                 "SELECT count(*) FROM ep_trials t WHERE 2 * sample_count <> (SELECT count(*) FROM "
                                 "ep_samples WHERE trial_id = t.id)"),
                     0);
    moet_store_close(a);
    moet_store_close(b);
    moet_store_close(ab);
    moet_store_close(ba);
}

/* A database of version 5 has none; it is read and merged from as it is, and a writer brings it to version 6. */
static void test_version_5(void **state)
{
    (void)state;
    extern const char moet_source_schema[], moet_source_schema_2[], moet_source_schema_3[], moet_source_schema_4[],
        moet_source_schema_5[];
    const char *const steps[] = {moet_source_schema, moet_source_schema_2, moet_source_schema_3, moet_source_schema_4,
                                 moet_source_schema_5};
    char path[512], into_path[512], pragmas[96];
    snprintf(path, sizeof path, "%s/five.db", fill_folder);
    snprintf(pragmas, sizeof pragmas, "PRAGMA application_id = %d; PRAGMA user_version = 5;",
             MOET_STORE_APPLICATION_ID);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    for (int32_t i = 0; i < MOET_COUNT_OF(steps); i++)
        assert_int_equal(sqlite3_exec(db, steps[i], NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, pragmas, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    moet_store *store, *into = fill_store("into.db", into_path);
    int64_t added = -1;
    TEST_OK(moet_store_open(path, MOET_STORE_READ, &store));
    assert_int_equal(look(store).rows, 0);
    moet_store_close(store);
    TEST_OK(moet_store_merge(into, path, &added));
    assert_int_equal(added, 0);
    moet_store_close(into);
    assert_int_equal(fill_number(path, "PRAGMA user_version"), 5);
    TEST_OK(moet_store_open(path, MOET_STORE_WRITE, &store));
    fill(store, fill_run(store, fill_host), 3);
    assert_true(look(store).rows > 10);
    moet_store_close(store);
    assert_int_equal(fill_number(path, "PRAGMA user_version"), MOET_STORE_VERSION);
    assert_int_equal(fill_number(path, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
}

/* What wins in the store is what the table that is emitted from it finds. */
typedef struct round_trip {
    const moet_table *table;
    int32_t own;
} round_trip;

static moet_status find_winner(void *context, const moet_store_ep_row *row)
{
    round_trip *r = context;
    moet_ep_options options = {.ranks = row->ranks, .choices = row->choices, .max_tokens = row->tokens};
    if (!row->is_winner || strcmp(row->device_key, fill_host->key) != 0) return MOET_OK;
    options.returns = strcmp(row->returns, "rows") == 0 ? MOET_EP_RETURNS_ROWS : MOET_EP_RETURNS_SUMS;
    bool is_found = false;
    for (int32_t i = 0; i < r->table->ep_count; i++) {
        const moet_table_ep *layer = &r->table->ep[i];
        if (layer->ranks != row->ranks || layer->returns != options.returns) continue;
        for (int32_t j = 0; j < layer->point_count; j++) {
            const moet_table_ep_point *p = &layer->points[j];
            is_found = is_found ||
                       (p->tokens == row->tokens && p->busiest == row->busiest && strcmp(p->choice, row->choice) == 0);
        }
    }
    assert_true(is_found);
    assert_non_null(moet_ep_choice_find(r->table, &local, &options, row->hosts));
    r->own++;
    return MOET_OK;
}

static void test_emit(void **state)
{
    (void)state;
    char path[512], dir[512], text_path[600];
    moet_device elsewhere = *fill_host;
    moet_emitted emitted, again;
    moet_table *table, *other_table;
    strcpy(elsewhere.info.name, "A processor"); /* whose key comes before the host's, without winners of GEMMs */
    moet_device_format_key(&elsewhere.info, elsewhere.key);
    assert_true(strcmp(elsewhere.key, fill_host->key) < 0);
    moet_store *store = fill_store("emit.db", path);
    snprintf(dir, sizeof dir, "%s/table", fill_folder);
    TEST_FAILS(MOET_NOT_FOUND, "no winner to emit", moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    const int64_t run = fill_run(store, fill_host);
    fill(store, run, 4);
    moet_problem up;
    moet_config config;
    const int32_t counts[4] = {1, 2, 3, 4};
    moet_problem_init(&up, MOET_OP_UP, 4, 64, 32);
    fill_config(fill_host, &up, 0, &config);
    assert_true(fill_put(
        store, run,
        &(fill_trial){.device = fill_host, .problem = &up, .counts = counts, .config = &config, .median_ns = 9}));
    moet_store_ep_point there = point_of(16, "uniform");
    there.device_key = elsewhere.key;
    put(store, fill_run(store, &elsewhere), &there, &(given){AUTO, LSA, true, false, 1000, 1, 0});
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(emitted.ep_points, look(store).winners);
    assert_int_equal(emitted.devices, 2);
    assert_int_equal(emitted.entries, 1);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &again));
    assert_false(again.changed);
    TEST_OK(moet_table_load(dir, fill_host, &table));
    assert_int_equal(table->problem_count, 1);
    round_trip trip = {.table = table};
    TEST_OK(moet_store_each_ep(store, NULL, find_winner, &trip));
    assert_int_equal(trip.own + 1, emitted.ep_points);
    TEST_OK(moet_table_load(dir, &elsewhere, &other_table));
    assert_int_equal(other_table->ep_count, 1);
    assert_int_equal(other_table->entry_count, 0);
    moet_table_close(table);
    moet_table_close(other_table);

    snprintf(text_path, sizeof text_path, "%s/table.json", dir);
    size_t size;
    char *text = test_file_read(text_path, &size), *at = strstr(text, "chunks=1");
    assert_true(strstr(text, elsewhere.key) < strstr(text, fill_host->key)); /* devices stand by key */
    assert_non_null(at);
    at[strlen("chunks=")] = '3'; /* the hash covers it */
    test_file_write(text_path, text, size);
    free(text);
    TEST_FAILS(MOET_MISMATCH, "changed by hand or damaged", moet_table_load(dir, fill_host, &table));
    moet_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_put), cmocka_unit_test(test_winner),
                                       cmocka_unit_test(test_merge), cmocka_unit_test(test_version_5),
                                       cmocka_unit_test(test_emit)};
    return cmocka_run_group_tests_name("store_ep", tests, group_open, fill_group_close);
}
