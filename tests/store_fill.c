#include "store_fill.h"

#include <sqlite3.h>

#include "test.h"

char fill_folder[256];
moet_device *fill_host, fill_elsewhere;

int fill_group_open(void **state)
{
    (void)state;
    test_folder_make(fill_folder);
    if (moet_device_open("host", &fill_host) != MOET_OK) return 1;
    fill_elsewhere = *fill_host;
    strcpy(fill_elsewhere.info.name, "Another processor");
    moet_device_format_key(&fill_elsewhere.info, fill_elsewhere.key);
    return 0;
}

int fill_group_close(void **state)
{
    (void)state;
    moet_device_close(fill_host);
    test_folder_remove(fill_folder);
    return 0;
}

void fill_path(const char *name, char path[512]) { snprintf(path, 512, "%s/%s", fill_folder, name); }

moet_store *fill_store(const char *name, char path[512])
{
    moet_store *store = NULL;
    fill_path(name, path);
    TEST_OK(moet_store_open(path, MOET_STORE_WRITE, &store));
    return store;
}

int64_t fill_number(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *statement;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) test_fail("%s", sqlite3_errmsg(db));
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    const int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

char *fill_table_text(const char *dir)
{
    char path[600];
    snprintf(path, sizeof path, "%s/table.json", dir);
    return test_file_read(path, NULL);
}

void fill_arch(const moet_device *device, const char *kernel, char arch[16])
{
    snprintf(arch, 16, "sm_%d%d%s", device->info.cc_major, device->info.cc_minor, strlen(kernel) & 1 ? "a" : "");
}

int64_t fill_run(moet_store *store, const moet_device *device)
{
    return fill_run_of(store, device, MOET_EFFORT_EXHAUSTIVE);
}

int64_t fill_run_of(moet_store *store, const moet_device *device, moet_effort effort)
{
    moet_store_run run = {.device = &device->info,
                          .device_key = device->key,
                          .command = "moe-tune sweep --test",
                          .revision = "test",
                          .libraries = "none 1",
                          .ceilings = {.dense_flops_per_s = 1e12, .copy_bytes_per_s = 2e10, .read_bytes_per_s = 3e10},
                          .effort = effort};
    int64_t id = 0;
    TEST_OK(moet_store_begin_run(store, &run, &id));
    assert_true(id > 0);
    return id;
}

bool fill_put(moet_store *store, int64_t run, const fill_trial *t)
{
    char config[MOET_CONFIG_SIZE], validator[64] = "";
    moet_workload workload = {.name = "test/made-up",
                              .skew = "by hand",
                              .tokens = t->tokens,
                              .experts = t->problem->experts,
                              .hidden = t->problem->hidden,
                              .inter = t->problem->inter};
    moet_routing routing;
    TEST_OK(moet_routing_summarize(t->counts, t->problem->experts, &routing));
    workload.rows = routing.rows;
    workload.counts = malloc((size_t)workload.experts * sizeof *workload.counts);
    assert_non_null(workload.counts);
    memcpy(workload.counts, t->counts, (size_t)workload.experts * sizeof *workload.counts);
    moet_config_format(t->config, config);
    if (t->config->family->validator && strcmp(t->config->family->backend, "host") == 0)
        TEST_OK(t->config->family->validator(validator));
    moet_store_key key = {.device_key = t->device->key,
                          .problem = t->problem,
                          .workload = &workload,
                          .config = config,
                          .device_counts = t->device_counts,
                          .family_version = t->version ? t->version : t->config->family->version,
                          .validator = validator};
    int32_t samples = t->status == MOET_TRIAL_OK ? t->samples ? t->samples : 3 : 0;
    moet_trial trial = {.status = t->status,
                        .device_counts = t->device_counts,
                        .sample_count = samples,
                        .median_ns = t->median_ns,
                        .noise_ns = t->noise_ns,
                        .efficiency = 0.5,
                        .floor_ns = 100,
                        .error = 0.25,
                        .algorithm_count = t->algorithm_count,
                        .algorithms = (moet_algorithm *)(uintptr_t)t->algorithms};
    strcpy(trial.config, config);
    strcpy(trial.bit_class, t->bit_class ? t->bit_class : "host_tile");
    if (t->status != MOET_TRIAL_OK) strcpy(trial.reason, "because of the test");
    trial.samples = calloc((size_t)samples + 1, sizeof *trial.samples);
    assert_non_null(trial.samples);
    for (int32_t i = 0; i < samples; i++)
        trial.samples[i] = (moet_sample){.round = i,
                                         .time_ns = t->median_ns + i - samples / 2,
                                         .dense_ns = 10,
                                         .dense2_ns = 11,
                                         .copy_ns = 12,
                                         .read_ns = 13,
                                         .clocks = {.sm_mhz = 1980}};
    for (int32_t i = 0; i < MOET_MAX_CUBINS && t->cubins[i]; i++, trial.cubin_count++) {
        moet_cubin *cubin = &trial.cubins[i];
        cubin->bytes = (void *)(uintptr_t)t->cubins[i];
        cubin->size_bytes = strlen(t->cubins[i]);
        moet_sha256_text(t->cubins[i], strlen(t->cubins[i]), cubin->sha256);
        fill_arch(t->device, t->cubins[i], cubin->arch);
    }
    bool inserted = false;
    TEST_OK(moet_store_put_trial(store, run, &key, &trial, t->is_default, t->final_rounds, t->replace, &inserted));
    bool present = false, final_rounds = false;
    TEST_OK(moet_store_has_trial(store, &key, "", MOET_EFFORT_QUICK, &present, &final_rounds));
    assert_true(present);
    if (inserted) assert_int_equal(final_rounds, t->final_rounds);
    free(trial.samples);
    moet_workload_release(&workload);
    return inserted;
}

static moet_status dump_row(void *context, const moet_store_trial_row *row)
{
    FILE *out = context;
    fprintf(out, "%s|%s|%s|%s|", row->device_key, row->problem_key, row->workload_name, row->skew);
    for (int32_t e = 0; e < row->experts; e++) fprintf(out, "%d ", row->counts[e]);
    fprintf(out, "|%lld|%.12g|%.12g|%s|%d|%s|%d%d%d%d|%d%d|%d|%s|%lld|%lld|%d|%.12g|%.12g|%s|%s|", (long long)row->rows,
            row->max_over_mean, row->gini, row->config, row->family_version, row->validator, row->device_counts,
            row->eager, row->final_rounds, row->is_default, row->is_winner[0], row->is_winner[1], row->status,
            row->reason, (long long)row->median_ns, (long long)row->noise_ns, row->sample_count, row->efficiency,
            row->error, row->bit_class, row->measured_at);
    for (int32_t i = 0; i < row->cubin_count; i++) fprintf(out, "%s %s ", row->cubins[i].sha256, row->cubins[i].arch);
    fprintf(out, "\n");
    return MOET_OK;
}

char *fill_dump(moet_store *store)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    TEST_OK(moet_store_each_trial(store, NULL, dump_row, out));
    assert_int_equal(fclose(out), 0);
    return text;
}

void fill_config(const moet_device *device, const moet_problem *problem, int32_t n, moet_config *config)
{
    const moet_family *family = moet_family_find("host_tile");
    char why[MOET_REASON_SIZE];
    assert_non_null(family);
    moet_config_first(family, config);
    for (;;) {
        if (family->applicable(problem, config, &device->info, why) && n-- == 0) return;
        assert_true(moet_config_next(config));
    }
}

void fill_random(moet_store *store, const moet_device *host, const moet_device *elsewhere, const moet_problem *problem,
                 uint64_t seed, int32_t most)
{
    static const int32_t counts[][4] = {{16, 16, 16, 16}, {61, 1, 1, 1}, {256, 256, 256, 256}, {0, 0, 0, 5}};
    assert_int_equal(problem->experts, 4);
    static const char *const kernels[] = {"a kernel", "kernel b", "c", "the kernel d", "e", "f"};
    uint64_t random = seed;
    moet_config configs[4];
    for (int32_t i = 0; i < 4; i++) fill_config(host, problem, i, &configs[i]);
    int64_t runs[2] = {fill_run(store, host), fill_run(store, elsewhere)};
    for (int32_t i = 0; i < 40; i++) {
        const int32_t which = (int32_t)test_between(&random, 0, 1), outcome = (int32_t)test_between(&random, 0, 23);
        fill_trial t = {.device = which ? elsewhere : host,
                        .problem = problem,
                        .counts = counts[test_between(&random, 0, 3)],
                        .config = &configs[test_between(&random, 0, 3)],
                        .device_counts = test_between(&random, 0, 1),
                        .final_rounds = test_between(&random, 0, 2) == 0,
                        .is_default = test_between(&random, 0, 3) == 0,
                        .median_ns = test_between(&random, 1000, 1010),
                        .noise_ns = 3,
                        .samples = (int32_t)test_between(&random, 3, 5),
                        .status = outcome == 0  ? MOET_TRIAL_WRONG
                                  : outcome < 5 ? MOET_TRIAL_FAILED
                                                : MOET_TRIAL_OK};
        int32_t cubins = (int32_t)test_between(&random, 0, most);
        for (int32_t j = 0; j < cubins; j++) t.cubins[j] = kernels[2 * test_between(&random, 0, 2) + (j & 1)];
        fill_put(store, runs[which], &t);
    }
}
