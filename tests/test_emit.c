/* emit∘load: the table that a store emits is the table that libmoet loads; byte-stable, all or nothing. */
#include "store_fill.h"
#include "table_text.h"
#include "test.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../src/table.h"
#include "../tuner/emit.h"

/* Random trials of several problems, routings and configs on two devices. */
static void fill(moet_store *store, uint64_t seed, int32_t trials)
{
    uint64_t random = seed;
    int64_t runs[2] = {fill_run(store, fill_host), fill_run(store, &fill_elsewhere)};
    for (int32_t i = 0; i < trials; i++) {
        moet_problem problem;
        moet_config config;
        int32_t counts[8], experts = (int32_t)test_between(&random, 1, 8), which = test_between(&random, 0, 3) == 0;
        moet_problem_init(&problem, (moet_op)test_between(&random, 0, 1), experts, 64, 32);
        problem.layout = (moet_layout)test_between(&random, 0, 1);
        fill_config(fill_host, &problem, (int32_t)test_between(&random, 0, 7), &config);
        for (int32_t e = 0; e < experts; e++) counts[e] = (int32_t)test_between(&random, 0, 3);
        counts[0]++;
        fill_trial t = {.device = which ? &fill_elsewhere : fill_host,
                        .problem = &problem,
                        .counts = counts,
                        .config = &config,
                        .device_counts = test_between(&random, 0, 1),
                        .final_rounds = test_between(&random, 0, 2) == 0,
                        .is_default = test_between(&random, 0, 2) == 0,
                        .noise_ns = test_between(&random, 0, 20),
                        .median_ns = test_between(&random, 100, 200000),
                        .samples = 3};
        fill_put(store, runs[which], &t);
    }
}

typedef struct expectation {
    const moet_table *table;
    int32_t own, others;
} expectation;

/* A winner of the store must be what the table's lookup finds. */
static moet_status find_winner(void *context, const moet_store_winner_row *row)
{
    expectation *e = context;
    if (strcmp(row->trial.device_key, fill_host->key) != 0) {
        e->others++;
        return MOET_OK;
    }
    moet_problem problem;
    TEST_OK(moet_problem_parse(row->trial.problem_key, &problem));
    const moet_table_problem *p = moet_table_find(e->table, &problem);
    assert_non_null(p);
    const moet_table_point *found = NULL;
    for (int32_t i = 0; i < p->point_count; i++) {
        if (memcmp(p->points[i].counts, row->trial.counts, (size_t)problem.experts * sizeof(int32_t)) == 0)
            found = &p->points[i];
    }
    assert_non_null(found);
    const moet_table_winner *winner = &found->winner[row->kind];
    char config[MOET_CONFIG_SIZE];
    assert_true(winner->present);
    moet_config_format(&winner->config, config);
    assert_string_equal(config, row->trial.config);
    assert_int_equal(winner->time_ns, row->trial.median_ns);
    moet_table_neighbor near[MOET_TABLE_NEIGHBORS];
    assert_true(moet_table_nearest(p, NULL, row->trial.rows, row->trial.max_over_mean, near) > 0);
    assert_true(near[0].distance == 0);
    e->own++;
    return MOET_OK;
}

static void test_emit_and_load(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        char db[512], dir[512], name[64];
        moet_store *store;
        moet_table *table;
        moet_emitted emitted;
        snprintf(name, sizeof name, "load-%d.db", (int)seed);
        fill_path(name, db);
        TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
        fill(store, seed, 60);
        snprintf(name, sizeof name, "load-%d", (int)seed);
        fill_path(name, dir);
        TEST_OK(moet_emit(store, dir, &(moet_emit_options){.all_winners = true}, &emitted));
        assert_true(emitted.changed);
        TEST_OK(moet_table_load(dir, fill_host, &table));
        assert_string_equal(table->hash, emitted.hash);
        expectation e = {.table = table};
        TEST_OK(moet_store_each_winner(store, NULL, find_winner, &e));
        assert_true(e.own > 10);
        assert_int_equal(table->entry_count, e.own);
        assert_int_equal(table->refusal_count, e.others);
        assert_int_equal(emitted.entries, e.own + e.others);
        moet_table_close(table);
        moet_store_close(store);
    }
}

static void test_byte_stable(void **state)
{
    (void)state;
    char db[512], a[512], b[512];
    moet_store *store;
    moet_emitted first, second, again;
    fill_path("stable.db", db);
    fill_path("stable-a", a);
    fill_path("stable-b", b);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    fill(store, 11, 40);
    TEST_OK(moet_emit(store, a, &(moet_emit_options){0}, &first));
    moet_store_close(store);
    TEST_OK(moet_store_open(db, MOET_STORE_READ, &store));
    TEST_OK(moet_emit(store, b, &(moet_emit_options){0}, &second));
    char *text_a = fill_table_text(a), *text_b = fill_table_text(b);
    assert_string_equal(text_a, text_b);
    assert_string_equal(first.hash, second.hash);
    TEST_CONTAINS(text_a, first.hash);
    assert_null(strstr(text_a, "e+")); /* integers only */
    /* Emitted again: nothing is written. */
    struct stat before, after;
    char path[600];
    snprintf(path, sizeof path, "%s/table.json", a);
    assert_int_equal(stat(path, &before), 0);
    TEST_OK(moet_emit(store, a, &(moet_emit_options){0}, &again));
    assert_false(again.changed);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(test_file_count(a), 1);
    moet_store_close(store);
    /* A changed database: the old hash becomes the parent's, the rest is as in a fresh folder. */
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    fill(store, 12, 20);
    TEST_OK(moet_emit(store, a, &(moet_emit_options){0}, &again));
    assert_true(again.changed);
    assert_string_not_equal(again.hash, first.hash);
    char *text = fill_table_text(a), parent[100];
    snprintf(parent, sizeof parent, "\"parent\":\t\"%s\"", first.hash);
    TEST_CONTAINS(text, parent);
    free(text);
    moet_table *table;
    TEST_OK(moet_table_load(a, fill_host, &table));
    moet_table_close(table);
    moet_store_close(store);
    free(text_a);
    free(text_b);
}

/* Three points, two winners, one of which is as good everywhere: the table has that one alone, with its own times. */
static void test_few_configs(void **state)
{
    (void)state;
    static const int64_t times[3][2] = {{100000, 140000}, {200400, 200000}, {300900, 300000}};
    char db[512], dir[512], skew[] = "no such skew", *skews[] = {skew};
    moet_store *store;
    moet_emitted emitted;
    moet_table *table;
    moet_problem problem;
    moet_config configs[2];
    fill_path("few.db", db);
    fill_path("few", dir);
    moet_problem_init(&problem, MOET_OP_UP, 2, 64, 32);
    /* Ties go to the lower text: the second's, which therefore wins two points. */
    char texts[2][MOET_CONFIG_SIZE];
    for (int32_t c = 0; c < 2; c++) {
        fill_config(fill_host, &problem, c, &configs[c]);
        moet_config_format(&configs[c], texts[c]);
    }
    if (strcmp(texts[0], texts[1]) < 0) {
        const moet_config first = configs[0];
        configs[0] = configs[1];
        configs[1] = first;
    }
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    const int64_t run = fill_run(store, fill_host);
    for (int32_t i = 0; i < 6; i++) {
        const int32_t counts[2] = {8 << i / 2, 8};
        const fill_trial t = {.device = fill_host,
                              .problem = &problem,
                              .counts = counts,
                              .config = &configs[i % 2],
                              .final_rounds = true,
                              .median_ns = times[i / 2][i % 2],
                              .samples = 3};
        assert_true(fill_put(store, run, &t));
    }
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(emitted.entries, 3);
    assert_int_equal(emitted.configs, 1);
    assert_int_equal(emitted.winner_configs, 2);
    assert_true(emitted.most_regret > 0.002 && emitted.most_regret < 0.01);
    TEST_OK(moet_table_load(dir, fill_host, &table));
    for (int32_t p = 0; p < 3; p++) {
        const moet_table_winner *winner = &table->problems[0].points[p].winner[MOET_TABLE_ANY];
        assert_true(moet_config_equal(&winner->config, &configs[0]));
        assert_int_equal(winner->time_ns, times[p][0]);
    }
    moet_table_close(table);
    TEST_FAILS(MOET_NOT_FOUND, "skews", moet_emit(store, dir, &(moet_emit_options){.skews = {1, skews}}, &emitted));
    moet_store_close(store);
}

/* Times of ns at the very edge of a tie: in doubles 1036 / 1007 is more than 1 + 29 / 1007, and the point is the
 * default's all the same. */
static void test_edge_of_tie(void **state)
{
    (void)state;
    char db[512], dir[512];
    moet_store *store;
    moet_emitted emitted;
    moet_table *table;
    moet_problem problem;
    moet_config configs[2];
    const int32_t counts[2] = {8, 8};
    fill_path("edge.db", db);
    fill_path("edge", dir);
    moet_problem_init(&problem, MOET_OP_UP, 2, 64, 32);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    const int64_t run = fill_run(store, fill_host);
    for (int32_t i = 0; i < 2; i++) {
        fill_config(fill_host, &problem, i, &configs[i]);
        const fill_trial t = {.device = fill_host,
                              .problem = &problem,
                              .counts = counts,
                              .config = &configs[i],
                              .final_rounds = true,
                              .is_default = i == 0,
                              .median_ns = i == 0 ? 1036 : 1007,
                              .noise_ns = i == 0 ? 29 : 0};
        assert_true(fill_put(store, run, &t));
    }
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(emitted.entries, 1);
    assert_int_equal(emitted.configs, 1);
    TEST_OK(moet_table_load(dir, fill_host, &table));
    assert_true(moet_config_equal(&table->problems[0].points[0].winner[MOET_TABLE_ANY].config, &configs[0]));
    moet_table_close(table);
    moet_store_close(store);
}

/* Tables of one bit class: what takes the place of winners with other bits, and what it costs. */
static void test_bits(void **state)
{
    (void)state;
    static const struct {
        const char *bits; /* NULL: not measured */
        int64_t time_ns;
    } trials[5][3] = {
        /* two of host_tile, one of host_blas */
        {{"a-1", 150000}, {"a-1", 140000}, {"b-1", 100000}}, /* others win */
        {{"a-1", 100000}, {NULL, 0}, {"a-1", 130000}},       /* equal bits */
        {{NULL, 0}, {NULL, 0}, {"b-1", 100000}},             /* nobody to tell by */
        {{"a-1", 100000}, {"c-1", 110000}, {NULL, 0}},       /* the family disagrees */
        {{"a-1", 120000}, {"d-2", 125000}, {"a-2", 100000}}, /* other inputs */
    };
    char db[512], dir[512];
    moet_store *store;
    moet_emitted emitted;
    moet_table *table;
    moet_problem problem;
    moet_config configs[3];
    fill_path("bits.db", db);
    fill_path("bits", dir);
    moet_problem_init(&problem, MOET_OP_UP, 2, 64, 32);
    moet_config_first(moet_family_find("host_tile"), &configs[0]);
    configs[1] = configs[0];
    assert_true(moet_config_next(&configs[1]));
    moet_config_first(moet_family_find("host_blas"), &configs[2]);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    const int64_t run = fill_run(store, fill_host);
    for (int32_t i = 0; i < 15; i++) {
        const int32_t counts[2] = {8 << i / 3, 8};
        const fill_trial t = {.device = fill_host,
                              .problem = &problem,
                              .counts = counts,
                              .config = &configs[i % 3],
                              .final_rounds = i != 1, /* faster, but of no final rounds */
                              .median_ns = trials[i / 3][i % 3].time_ns,
                              .samples = 3,
                              .bit_class = trials[i / 3][i % 3].bits};
        if (t.bit_class) assert_true(fill_put(store, run, &t));
    }
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){.bits = "host_tile"}, &emitted));
    assert_int_equal(emitted.entries, 3);
    assert_int_equal(emitted.bits_cost.points, 3);
    assert_int_equal(emitted.bits_cost.other, 2);
    assert_int_equal(emitted.bits_cost.left_out, 2);
    assert_true(fabs(emitted.bits_cost.worst - 1.5) < 1e-9);
    assert_true(fabs(emitted.bits_cost.geomean - cbrt(1.5 * 1.2)) < 1e-9);
    TEST_OK(moet_table_load(dir, fill_host, &table));
    assert_int_equal(table->problems[0].point_count, 3);
    for (int32_t p = 0; p < 3; p++) {
        const moet_table_winner *winner = &table->problems[0].points[p].winner[MOET_TABLE_ANY];
        assert_true(moet_config_equal(&winner->config, &configs[0]));
    }
    moet_table_close(table);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){.bits = "host_blas"}, &emitted));
    assert_int_equal(emitted.bits_cost.points, 4);
    assert_int_equal(emitted.bits_cost.other, 0);
    assert_int_equal(emitted.bits_cost.left_out, 1);
    assert_true(emitted.bits_cost.worst == 1 && emitted.bits_cost.geomean == 1);
    TEST_FAILS(MOET_NOT_FOUND, "no trial has the bits of seq",
               moet_emit(store, dir, &(moet_emit_options){.bits = "seq"}, &emitted));
    TEST_FAILS(MOET_INVALID, "the classes are seq",
               moet_emit(store, dir, &(moet_emit_options){.bits = "no such class"}, &emitted));
    moet_store_close(store);
}

/* One device of several. */
static void test_one_device(void **state)
{
    (void)state;
    char db[512], dir[512];
    moet_store *store;
    moet_emitted emitted;
    moet_table *table;
    fill_path("device.db", db);
    fill_path("device", dir);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    fill(store, 21, 40);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){.device = "Another processor"}, &emitted));
    assert_int_equal(emitted.devices, 1);
    TEST_OK(moet_table_load(dir, &fill_elsewhere, &table));
    assert_int_equal(table->refusal_count, 0);
    assert_true(table->entry_count > 0);
    moet_table_close(table);
    assert_int_not_equal(moet_emit(store, dir, &(moet_emit_options){.device = "no such device"}, &emitted), MOET_OK);
    moet_store_close(store);
}

static void test_refusals(void **state)
{
    (void)state;
    char db[512], dir[512], file[600];
    moet_store *store;
    moet_emitted emitted;
    fill_path("empty.db", db);
    fill_path("empty", dir);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    TEST_FAILS(MOET_NOT_FOUND, NULL, moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(access(dir, F_OK), -1);
    fill(store, 31, 10);
    /* A folder of something else stays as it is. */
    assert_int_equal(mkdir(dir, 0777), 0);
    snprintf(file, sizeof file, "%s/thesis.txt", dir);
    test_file_write(file, "text", 4);
    TEST_FAILS(MOET_INVALID, dir, moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(test_file_count(dir), 1);
    /* So does a file. */
    assert_int_not_equal(moet_emit(store, file, &(moet_emit_options){0}, &emitted), MOET_OK);
    char *text = test_file_read(file, NULL);
    assert_string_equal(text, "text");
    free(text);
    fill_path("none/table", dir);
    assert_int_not_equal(moet_emit(store, dir, &(moet_emit_options){0}, &emitted), MOET_OK);
    TEST_CONTAINS(moet_last_error(), "none");
    moet_store_close(store);
}

/* Databases that merge to the same give the same table. */
static void test_merged(void **state)
{
    (void)state;
    char a[512], b[512], ab[512], ba[512], dir_ab[512], dir_ba[512];
    moet_store *store;
    moet_emitted emitted;
    int64_t added;
    fill_path("m-a.db", a);
    fill_path("m-b.db", b);
    fill_path("m-ab.db", ab);
    fill_path("m-ba.db", ba);
    fill_path("m-ab", dir_ab);
    fill_path("m-ba", dir_ba);
    TEST_OK(moet_store_open(a, MOET_STORE_WRITE, &store));
    fill(store, 41, 40);
    moet_store_close(store);
    TEST_OK(moet_store_open(b, MOET_STORE_WRITE, &store));
    fill(store, 42, 40);
    moet_store_close(store);
    TEST_OK(moet_store_open(ab, MOET_STORE_WRITE, &store));
    TEST_OK(moet_store_merge(store, a, &added));
    TEST_OK(moet_store_merge(store, b, &added));
    TEST_OK(moet_emit(store, dir_ab, &(moet_emit_options){0}, &emitted));
    moet_store_close(store);
    TEST_OK(moet_store_open(ba, MOET_STORE_WRITE, &store));
    TEST_OK(moet_store_merge(store, b, &added));
    TEST_OK(moet_store_merge(store, a, &added));
    TEST_OK(moet_emit(store, dir_ba, &(moet_emit_options){0}, &emitted));
    moet_store_close(store);
    char *text_ab = fill_table_text(dir_ab), *text_ba = fill_table_text(dir_ba);
    assert_string_equal(text_ab, text_ba);
    free(text_ab);
    free(text_ba);
}

static void check_cubins(const moet_cubin *const *cubins, int32_t count, const char *const *wanted)
{
    for (int32_t i = 0; i < count; i++) {
        char arch[16];
        fill_arch(fill_host, wanted[i], arch);
        assert_int_equal(cubins[i]->size_bytes, strlen(wanted[i]));
        assert_memory_equal(cubins[i]->bytes, wanted[i], strlen(wanted[i]));
        assert_string_equal(cubins[i]->arch, arch);
    }
    assert_null(wanted[count]);
}

/* The folder's only problem and point. */
static const moet_table_problem *load_only(const char *dir, moet_table **table)
{
    TEST_OK(moet_table_load(dir, fill_host, table));
    assert_int_equal((*table)->refusal_count, 0);
    assert_int_equal((*table)->problem_count, 1);
    assert_int_equal((*table)->problems[0].point_count, 1);
    return &(*table)->problems[0];
}

/* Several kernels a config: all of them come back, in their order, whatever their hashes' order is. */
static void test_several_kernels(void **state)
{
    (void)state;
    static const int32_t counts[] = {30, 2};
    static const char *const orders[][MOET_MAX_CUBINS + 1] = {{"up kernel", "down kernel", "helpers"},
                                                              {"helpers", "down kernel", "up kernel"},
                                                              {"down kernel", "up kernel"},
                                                              {"down kernel", "up kernel", "helpers", "more helpers"}};
    char db[512], dir[512], path[700], digits[MOET_SHA256_TEXT_SIZE], hash[MOET_SHA256_TEXT_SIZE] = "";
    moet_store *store;
    moet_emitted emitted;
    moet_table *table;
    moet_problem problem;
    moet_config config, slower;
    moet_problem_init(&problem, MOET_OP_DOWN, 2, 64, 64);
    fill_config(fill_host, &problem, 0, &config);
    fill_config(fill_host, &problem, 1, &slower);
    fill_path("several.db", db);
    fill_path("several", dir);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    int64_t run = fill_run(store, fill_host);
    fill_trial fallback = {.device = fill_host,
                           .problem = &problem,
                           .counts = counts,
                           .config = &slower,
                           .is_default = true,
                           .median_ns = 9000,
                           .cubins = {"another up kernel", "helpers", "helpers"}};
    fill_put(store, run, &fallback);
    for (int32_t i = 0; i < MOET_COUNT_OF(orders); i++) {
        fill_trial t = {.device = fill_host,
                        .problem = &problem,
                        .counts = counts,
                        .config = &config,
                        .median_ns = 5000,
                        .replace = true};
        memcpy(t.cubins, orders[i], sizeof t.cubins);
        fill_put(store, run, &t);
        TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
        assert_string_not_equal(emitted.hash, hash); /* the order alone makes another table */
        strcpy(hash, emitted.hash);
        const moet_table_problem *p = load_only(dir, &table);
        const moet_table_winner *winner = &p->points[0].winner[MOET_TABLE_ANY];
        assert_int_equal(winner->cubin_count, orders[i][2] ? orders[i][3] ? 4 : 3 : 2);
        check_cubins(winner->cubins, winner->cubin_count, orders[i]);
        assert_int_equal(p->default_count, 1);
        assert_int_equal(p->defaults[0].cubin_count, 3);
        /* A kernel that is named twice is one file and one cubin. */
        assert_ptr_equal(p->defaults[0].cubins[1], p->defaults[0].cubins[2]);
        assert_memory_equal(p->defaults[0].cubins[0]->bytes, "another up kernel", 17);
        assert_memory_equal(p->defaults[0].cubins[1]->bytes, "helpers", 7);
        assert_int_equal(emitted.cubins, i == 3 ? 5 : 4);
        assert_int_equal(table->cubin_count, emitted.cubins);
        assert_int_equal(test_file_count(dir), 1 + emitted.cubins); /* those that no entry names are gone */
        moet_table_close(table);
        TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
        assert_false(emitted.changed);
    }
    moet_sha256_text("more helpers", 12, digits); /* the last of the list counts as the first does */
    snprintf(path, sizeof path, "%s/%s.cubin", dir, digits);
    assert_int_equal(unlink(path), 0);
    TEST_FAILS(MOET_NOT_FOUND, digits, moet_table_load(dir, fill_host, &table));
    test_file_write(path, "more halpers", 12);
    TEST_FAILS(MOET_MISMATCH, "SHA-256", moet_table_load(dir, fill_host, &table));
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted)); /* puts it right */
    load_only(dir, &table);
    moet_table_close(table);
    moet_store_close(store);
}

/* A folder with a table of version 1 is one of ours: it is the new table's parent. */
static void test_over_version_1(void **state)
{
    (void)state;
    static const int32_t counts[] = {30, 2};
    char db[512], dir[512], validator[64], name[MOET_CONFIG_SIZE];
    moet_store *store;
    moet_emitted emitted;
    moet_table *table;
    moet_problem problem;
    moet_config config;
    moet_problem_init(&problem, MOET_OP_DOWN, 2, 64, 64);
    fill_config(fill_host, &problem, 0, &config);
    fill_path("over.db", db);
    fill_path("over", dir);
    assert_int_equal(mkdir(dir, 0777), 0);
    text_point point = {.counts = counts, .any = text_winner_of(&config, name, validator, 5000)};
    char *old = text_table_of_version(1, fill_host, &problem, &point, 1, NULL, 0);
    text_write(dir, old);
    TEST_OK(moet_table_load(dir, fill_host, &table));
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    fill_trial t = {.device = fill_host,
                    .problem = &problem,
                    .counts = counts,
                    .config = &config,
                    .median_ns = 5000,
                    .cubins = {"k"}};
    fill_put(store, fill_run(store, fill_host), &t);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_true(emitted.changed);
    char *text = fill_table_text(dir), parent[100];
    snprintf(parent, sizeof parent, "\"parent\":\t\"%s\"", table->hash);
    TEST_CONTAINS(text, parent);
    TEST_CONTAINS(text, "\"version\":\t2,");
    moet_table_close(table);
    free(text);
    free(old);
    moet_store_close(store);
}

#ifdef MOET_CUDA
/* Kernels go with the table, and go again when no winner needs them. */
static void test_kernels(void **state)
{
    (void)state;
    char db[512], dir[512], path[700], digits[MOET_SHA256_TEXT_SIZE];
    moet_store *store;
    moet_emitted emitted;
    moet_problem problem;
    moet_device gpu = {.info = {.backend = "cuda",
                                .name = "Made-up GPU",
                                .cc_major = 9,
                                .sm_count = 132,
                                .memory_bytes = (int64_t)80 << 30,
                                .smem_per_block_optin_bytes = 232448}};
    moet_device_format_key(&gpu.info, gpu.key);
    moet_problem_init(&problem, MOET_OP_DOWN, 2, 64, 64);
    static const int32_t counts[] = {30, 2};
    const moet_family *family = moet_family_find("mma_gemm");
    moet_config configs[2] = {{.family = family}, {.family = family}};
    moet_config_first(family, &configs[0]);
    configs[1] = configs[0];
    assert_true(moet_config_next(&configs[1]));
    fill_path("kernels.db", db);
    fill_path("kernels", dir);
    TEST_OK(moet_store_open(db, MOET_STORE_WRITE, &store));
    int64_t run = fill_run(store, &gpu);
    fill_trial t = {.device = &gpu,
                    .problem = &problem,
                    .counts = counts,
                    .config = &configs[0],
                    .median_ns = 5000,
                    .cubins = {"first kernel"},
                    .device_counts = true};
    fill_put(store, run, &t);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(emitted.cubins, 1);
    moet_sha256_text("first kernel", 12, digits);
    snprintf(path, sizeof path, "%s/%s.cubin", dir, digits);
    char *bytes = test_file_read(path, NULL);
    assert_string_equal(bytes, "first kernel");
    free(bytes);
    moet_table *table;
    TEST_OK(moet_table_load(dir, &gpu, &table));
    assert_int_equal(table->entry_count, 2); /* any, and device counts */
    assert_int_equal(table->cubin_count, 1);
    moet_table_close(table);
    t.config = &configs[1];
    t.cubins[0] = "second kernel";
    t.median_ns = 1000;
    fill_put(store, run, &t);
    TEST_OK(moet_emit(store, dir, &(moet_emit_options){0}, &emitted));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(test_file_count(dir), 2);
    TEST_OK(moet_table_load(dir, &gpu, &table));
    moet_table_close(table);
    moet_store_close(store);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_emit_and_load),   cmocka_unit_test(test_byte_stable),
        cmocka_unit_test(test_few_configs),     cmocka_unit_test(test_bits),
        cmocka_unit_test(test_edge_of_tie),     cmocka_unit_test(test_one_device),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_merged),
        cmocka_unit_test(test_several_kernels), cmocka_unit_test(test_over_version_1),
#ifdef MOET_CUDA
        cmocka_unit_test(test_kernels),
#endif
    };
    return cmocka_run_group_tests_name("emit", tests, fill_group_open, fill_group_close);
}
