/* Writing: runs, trials with their samples and kernels, and what is done. One trial is one short transaction, so that
 * a killed process loses nothing finished and several may write at the same time. */
#include "store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store_internal.h"

#define NOW "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"

/* Every statement that writing needs, once. */
#define IDENTITY                                                                                                       \
    "device_id = (SELECT id FROM devices WHERE key = ?1) AND problem_id = (SELECT id FROM problems WHERE key = ?2) "   \
    "AND workload_id = (SELECT id FROM workloads WHERE counts = ?3 AND hidden = ?4 AND inter = ?5)"
/* MOET_RATE_TABLE's, in its order. */
#define COST_COLUMNS "tensor_flops_per_s, l2_bytes_per_s, hbm_bytes_per_s, store_bytes_per_s, launches_per_s"
#define STATEMENT_TABLE(X)                                                                                             \
    X(PUT_DEVICE, "INSERT INTO devices (key, backend, name, cc_major, cc_minor, sm_count, memory_bytes, "              \
                  "power_limit_mw, partition, smem_per_block_optin_bytes, smem_per_sm_bytes, regs_per_sm, l2_bytes) "  \
                  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) " MOET_STORE_DEVICE_CONFLICT)       \
    X(PUT_RUN, "INSERT INTO runs (uid, device_id, started_at, command, revision, libraries, driver, "                  \
               "driver_cuda_version, dense_flops_per_s, copy_bytes_per_s, read_bytes_per_s, effort) VALUES "           \
               "(lower(hex(randomblob(16))), (SELECT id FROM devices WHERE key = ?1), " NOW                            \
               ", ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")                                                               \
    X(PUT_PROBLEM, "INSERT OR IGNORE INTO problems (key) VALUES (?1)")                                                 \
    X(PUT_WORKLOAD, "INSERT OR IGNORE INTO workloads (experts, hidden, inter, counts, rows, active, max, "             \
                    "max_over_mean, gini) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")                                \
    X(PUT_NAME, "INSERT OR IGNORE INTO workload_names (workload_id, name, skew, tokens, seed) VALUES ((SELECT id "     \
                "FROM workloads WHERE counts = ?1 AND hidden = ?2 AND inter = ?3), ?4, ?5, ?6, ?7)")                   \
    X(PUT_CUBIN, "INSERT OR IGNORE INTO cubins (sha256, arch, bytes) VALUES (?1, ?2, ?3)")                             \
    X(FIND_TRIAL,                                                                                                      \
      "SELECT id, final_rounds, (SELECT effort FROM runs WHERE id = run_id), measured_at >= ?10 FROM "                 \
      "trials WHERE " IDENTITY " AND config = ?6 AND device_counts = ?7 AND family_version = ?8 AND validator = ?9")   \
    X(FIND_SUSPECT, "SELECT EXISTS (SELECT 1 FROM wrong_trials WHERE device_id = (SELECT id FROM devices WHERE key = " \
                    "?1) AND problem = ?2 AND config = ?3 AND family_version = ?4 AND validator = ?5)")                \
    X(FIND_EFFORT, "SELECT effort FROM runs WHERE id = ?1")                                                            \
    X(DELETE_TRIAL, "DELETE FROM trials WHERE id = ?1")                                                                \
    X(PUT_TRIAL, "INSERT INTO trials (device_id, problem_id, workload_id, config, device_counts, family_version, "     \
                 "validator, family, status, reason, median_ns, noise_ns, sample_count, floor_ns, efficiency, error, " \
                 "bit_class, is_default, final_rounds, eager, run_id, measured_at) VALUES ("                           \
                 "(SELECT id FROM devices WHERE key = ?1), (SELECT id FROM problems WHERE key = ?2), "                 \
                 "(SELECT id FROM workloads WHERE counts = ?3 AND hidden = ?4 AND inter = ?5), ?6, ?7, ?8, ?9, ?10, "  \
                 "?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, " NOW ")")                          \
    X(PUT_TRIAL_CUBIN, "INSERT INTO trial_cubins (trial_id, position, sha256) VALUES (?1, ?2, ?3)")                    \
    X(PUT_SAMPLE, "INSERT INTO samples (trial_id, position, round, time_ns, dense_ns, dense2_ns, copy_ns, read_ns, "   \
                  "sm_mhz, power_mw, throttle_reasons, hardware_slowdown) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, "    \
                  "?9, ?10, ?11, ?12)")                                                                                \
    X(PUT_DONE, "INSERT INTO done (device_id, problem_id, workload_id, candidates, run_id, effort) VALUES ("           \
                "(SELECT id FROM devices WHERE key = ?1), (SELECT id FROM problems WHERE key = ?2), "                  \
                "(SELECT id FROM workloads WHERE counts = ?3 AND hidden = ?4 AND inter = ?5), ?6, ?7, ?8) "            \
                "ON CONFLICT DO UPDATE SET effort = excluded.effort, run_id = excluded.run_id "                        \
                "WHERE excluded.effort > done.effort")                                                                 \
    X(REOPEN_DONE, "DELETE FROM done WHERE " IDENTITY " AND run_id IN (SELECT id FROM runs WHERE started_at < ?6)")    \
    X(REOPEN_TRIALS, "UPDATE trials SET final_rounds = 0 WHERE " IDENTITY " AND measured_at < ?6")                     \
    X(FIND_DONE, "SELECT effort FROM done WHERE " IDENTITY " AND candidates = ?6")                                     \
    X(PUT_COST, "INSERT OR REPLACE INTO cost_models (device_id, points, error, " COST_COLUMNS ") VALUES ("             \
                "(SELECT id FROM devices WHERE key = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8)")                                \
    X(FIND_COST, "SELECT points, error, " COST_COLUMNS " FROM cost_models WHERE device_id = "                          \
                 "(SELECT id FROM devices WHERE key = ?1)")

typedef enum statement_index {
#define MOET_X(name, sql) STATEMENT_##name,
    STATEMENT_TABLE(MOET_X)
#undef MOET_X
        STATEMENT_COUNT
} statement_index;
static const char *const statement_sql[] = {
#define MOET_X(name, sql) sql,
    STATEMENT_TABLE(MOET_X)
#undef MOET_X
};
_Static_assert(STATEMENT_COUNT <= MOET_STORE_STATEMENTS, "the store has room for each prepared statement");

/* ---- binding ---- */

/* A statement being bound: values go to ?1, ?2, ... in the order of the calls; the first error stays. */
typedef struct binder {
    moet_store *store;
    sqlite3_stmt *statement;
    int index;
    moet_status status;
} binder;

static binder use(moet_store *store, statement_index which)
{
    binder b = {.store = store};
    if (!store->statements[which])
        b.status = moet_store_prepare(store, statement_sql[which], &store->statements[which]);
    b.statement = store->statements[which];
    return b;
}

static void bound(binder *b, int code)
{
    if (b->status == MOET_OK && code != SQLITE_OK) b->status = moet_store_error(b->store, code);
}

static void bind_text(binder *b, const char *value)
{
    if (b->status == MOET_OK) bound(b, sqlite3_bind_text(b->statement, ++b->index, value, -1, SQLITE_STATIC));
}

static void bind_integer(binder *b, int64_t value)
{
    if (b->status == MOET_OK) bound(b, sqlite3_bind_int64(b->statement, ++b->index, value));
}

/* What is no number becomes NULL. */
static void bind_real(binder *b, double value)
{
    if (b->status == MOET_OK) bound(b, sqlite3_bind_double(b->statement, ++b->index, value));
}

/* Runs it to its first row; *row may be NULL. Columns are read before release. */
static moet_status step(binder *b, bool *row)
{
    if (b->status == MOET_OK) b->status = moet_store_step(b->store, b->statement, row);
    return b->status;
}

static moet_status release(binder *b)
{
    if (b->statement) {
        sqlite3_reset(b->statement);
        sqlite3_clear_bindings(b->statement);
    }
    return b->status;
}

static moet_status execute(binder *b)
{
    step(b, NULL);
    return release(b);
}

/* ---- keys ---- */

/* The texts by which a key's problem and workload are known. */
typedef struct key_texts {
    char problem[MOET_STORE_PROBLEM_SIZE];
    char *counts; /* JSON array, owned */
} key_texts;

moet_status moet_store_counts(const moet_workload *workload, char **text)
{
    size_t size = (size_t)workload->experts * 12 + 3, used = 1;
    char *result = malloc(size);
    if (!result) return moet_fail(MOET_NO_MEMORY, "store: out of memory");
    result[0] = '[';
    for (int32_t i = 0; i < workload->experts; i++)
        used += (size_t)snprintf(result + used, size - used, "%s%" PRId32, i ? "," : "", workload->counts[i]);
    snprintf(result + used, size - used, "]");
    *text = result;
    return MOET_OK;
}

static const char tokens_field[] = ",tokens=";

void moet_store_problem_key(const moet_problem *problem, const moet_workload *workload,
                            char text[MOET_STORE_PROBLEM_SIZE])
{
    moet_problem_format(problem, text);
    if (problem->op != MOET_OP_FFN || workload->tokens == 0 || workload->tokens == workload->rows) return;
    size_t used = strlen(text);
    snprintf(text + used, MOET_STORE_PROBLEM_SIZE - used, "%s%" PRId64, tokens_field, workload->tokens);
}

size_t moet_store_problem_length(const char *key)
{
    const char *tokens = strstr(key, tokens_field);
    return tokens ? (size_t)(tokens - key) : strlen(key);
}

int64_t moet_store_problem_tokens(const char *key)
{
    const char *tokens = strstr(key, tokens_field);
    return tokens ? strtoll(tokens + strlen(tokens_field), NULL, 10) : 0;
}

static moet_status make_texts(const moet_store_key *key, key_texts *texts)
{
    moet_store_problem_key(key->problem, key->workload, texts->problem);
    return moet_store_counts(key->workload, &texts->counts);
}

/* ?1 to ?5 of IDENTITY. */
static void bind_point(binder *b, const moet_store_key *key, const key_texts *texts)
{
    bind_text(b, key->device_key);
    bind_text(b, texts->problem);
    bind_text(b, texts->counts);
    bind_integer(b, key->workload->hidden);
    bind_integer(b, key->workload->inter);
}

typedef struct found_trial {
    bool found, final_rounds, is_since;
    int64_t id;
    moet_effort effort;
} found_trial;

static moet_status find_trial(moet_store *store, const moet_store_key *key, const key_texts *texts, const char *since,
                              found_trial *result)
{
    *result = (found_trial){0};
    binder b = use(store, STATEMENT_FIND_TRIAL);
    bind_point(&b, key, texts);
    bind_text(&b, key->config);
    bind_integer(&b, key->device_counts);
    bind_integer(&b, key->family_version);
    bind_text(&b, key->validator);
    bind_text(&b, since);
    if (step(&b, &result->found) == MOET_OK && result->found) {
        result->id = sqlite3_column_int64(b.statement, 0);
        result->final_rounds = sqlite3_column_int(b.statement, 1) != 0;
        b.status = moet_store_read_effort(store, b.statement, 2, &result->effort);
        result->is_since = sqlite3_column_int(b.statement, 3) != 0;
    }
    return release(&b);
}

static moet_status put_name(moet_store *store, const moet_workload *w, const char *counts)
{
    binder b = use(store, STATEMENT_PUT_NAME);
    bind_text(&b, counts);
    bind_integer(&b, w->hidden);
    bind_integer(&b, w->inter);
    bind_text(&b, w->name);
    bind_text(&b, w->skew);
    bind_integer(&b, w->tokens);
    bind_integer(&b, (int64_t)w->seed);
    return execute(&b);
}

/* Rows that a trial or a done mark refers to. */
static moet_status put_point(moet_store *store, const moet_store_key *key, const key_texts *texts)
{
    const moet_workload *w = key->workload;
    moet_routing routing;
    MOET_TRY(moet_routing_summarize(w->counts, w->experts, &routing));

    binder b = use(store, STATEMENT_PUT_PROBLEM);
    bind_text(&b, texts->problem);
    MOET_TRY(execute(&b));

    b = use(store, STATEMENT_PUT_WORKLOAD);
    bind_integer(&b, w->experts);
    bind_integer(&b, w->hidden);
    bind_integer(&b, w->inter);
    bind_text(&b, texts->counts);
    bind_integer(&b, routing.rows);
    bind_integer(&b, routing.active);
    bind_integer(&b, routing.max);
    bind_real(&b, routing.max_over_mean);
    bind_real(&b, moet_routing_gini(w->counts, w->experts));
    MOET_TRY(execute(&b));

    return put_name(store, w, texts->counts);
}

/* ---- runs ---- */

static moet_status put_run(moet_store *store, const moet_store_run *run, int64_t *run_id)
{
    const moet_device_info *d = run->device;
    binder b = use(store, STATEMENT_PUT_DEVICE);
    bind_text(&b, run->device_key);
    bind_text(&b, d->backend);
    bind_text(&b, d->name);
    bind_integer(&b, d->cc_major);
    bind_integer(&b, d->cc_minor);
    bind_integer(&b, d->sm_count);
    bind_integer(&b, d->memory_bytes);
    bind_integer(&b, d->power_limit_mw);
    bind_text(&b, d->partition);
    bind_integer(&b, d->smem_per_block_optin_bytes);
    bind_integer(&b, d->smem_per_sm_bytes);
    bind_integer(&b, d->regs_per_sm);
    bind_integer(&b, d->l2_bytes);
    MOET_TRY(execute(&b));

    b = use(store, STATEMENT_PUT_RUN);
    bind_text(&b, run->device_key);
    bind_text(&b, run->command);
    bind_text(&b, run->revision);
    bind_text(&b, run->libraries);
    bind_text(&b, d->driver);
    bind_integer(&b, d->driver_cuda_version);
    bind_real(&b, run->ceilings.dense_flops_per_s);
    bind_real(&b, run->ceilings.copy_bytes_per_s);
    bind_real(&b, run->ceilings.read_bytes_per_s);
    bind_integer(&b, run->effort);
    MOET_TRY(execute(&b));
    *run_id = sqlite3_last_insert_rowid(store->db);
    return MOET_OK;
}

moet_status moet_store_begin_run(moet_store *store, const moet_store_run *run, int64_t *run_id)
{
    int64_t id = 0;
    MOET_TRY(moet_store_begin(store));
    MOET_TRY(moet_store_end(store, put_run(store, run, &id)));
    *run_id = id;
    return MOET_OK;
}

/* ---- trials ---- */

static moet_status put_cubin(moet_store *store, const moet_cubin *cubin)
{
    binder b = use(store, STATEMENT_PUT_CUBIN);
    bind_text(&b, cubin->sha256);
    bind_text(&b, cubin->arch);
    if (b.status == MOET_OK)
        bound(&b, sqlite3_bind_blob64(b.statement, ++b.index, cubin->bytes, cubin->size_bytes, SQLITE_STATIC));
    return execute(&b);
}

static moet_status put_samples(moet_store *store, int64_t trial_id, const moet_trial *trial)
{
    for (int32_t i = 0; i < trial->sample_count; i++) {
        const moet_sample *s = &trial->samples[i];
        binder b = use(store, STATEMENT_PUT_SAMPLE);
        bind_integer(&b, trial_id);
        bind_integer(&b, i);
        bind_integer(&b, s->round);
        bind_integer(&b, s->time_ns);
        bind_integer(&b, s->dense_ns);
        bind_integer(&b, s->dense2_ns);
        bind_integer(&b, s->copy_ns);
        bind_integer(&b, s->read_ns);
        bind_integer(&b, s->clocks.sm_mhz);
        bind_integer(&b, s->clocks.power_mw);
        bind_integer(&b, (int64_t)s->clocks.throttle_reasons);
        bind_integer(&b, s->clocks.hardware_slowdown);
        MOET_TRY(execute(&b));
    }
    return MOET_OK;
}

static moet_status put_trial_cubins(moet_store *store, int64_t trial_id, const moet_trial *trial)
{
    for (int32_t i = 0; i < trial->cubin_count; i++) {
        MOET_TRY(put_cubin(store, &trial->cubins[i]));
        binder b = use(store, STATEMENT_PUT_TRIAL_CUBIN);
        bind_integer(&b, trial_id);
        bind_integer(&b, i);
        bind_text(&b, trial->cubins[i].sha256);
        MOET_TRY(execute(&b));
    }
    return MOET_OK;
}

/* Everything that put_trial writes, inside its transaction. */
typedef struct put_request {
    int64_t run_id;
    const moet_store_key *key;
    const key_texts *texts;
    const moet_trial *trial;
    bool is_default, final_rounds, replace;
} put_request;

static moet_status put_trial_row(moet_store *store, const put_request *put)
{
    const moet_trial *t = put->trial;
    char family[MOET_CONFIG_SIZE];
    snprintf(family, sizeof family, "%.*s", (int)strcspn(put->key->config, ":"), put->key->config);
    binder b = use(store, STATEMENT_PUT_TRIAL);
    bind_point(&b, put->key, put->texts);
    bind_text(&b, put->key->config);
    bind_integer(&b, put->key->device_counts);
    bind_integer(&b, put->key->family_version);
    bind_text(&b, put->key->validator);
    bind_text(&b, family);
    bind_text(&b, moet_trial_status_name(t->status));
    bind_text(&b, t->reason);
    bind_integer(&b, t->median_ns);
    bind_integer(&b, t->noise_ns);
    bind_integer(&b, t->sample_count);
    bind_real(&b, t->floor_ns);
    bind_real(&b, t->efficiency);
    bind_real(&b, t->error);
    bind_text(&b, t->bit_class);
    bind_integer(&b, put->is_default);
    bind_integer(&b, put->final_rounds);
    bind_integer(&b, t->eager);
    bind_integer(&b, put->run_id);
    MOET_TRY(execute(&b));
    int64_t trial_id = sqlite3_last_insert_rowid(store->db);
    MOET_TRY(put_trial_cubins(store, trial_id, t));
    MOET_TRY(moet_store_put_algorithms(store, trial_id, put->key->validator, t));
    return put_samples(store, trial_id, t);
}

/* Whether a stored trial stays where another would replace it. */
static moet_status is_kept(moet_store *store, const put_request *put, const found_trial *stored, bool *kept)
{
    bool found = false;
    moet_effort effort = MOET_EFFORT_QUICK;
    binder b = use(store, STATEMENT_FIND_EFFORT);
    bind_integer(&b, put->run_id);
    if (step(&b, &found) == MOET_OK && found) b.status = moet_store_read_effort(store, b.statement, 0, &effort);
    *kept = stored->final_rounds && stored->effort > effort && put->trial->status == MOET_TRIAL_OK;
    return release(&b);
}

static moet_status put_trial(moet_store *store, const put_request *put, bool *inserted)
{
    found_trial stored;
    bool kept = false;
    MOET_TRY(find_trial(store, put->key, put->texts, "", &stored));
    if (stored.found && put->replace) MOET_TRY(is_kept(store, put, &stored, &kept));
    *inserted = !stored.found || (put->replace && !kept);
    if (!*inserted) return MOET_OK;
    if (stored.found) {
        binder b = use(store, STATEMENT_DELETE_TRIAL);
        bind_integer(&b, stored.id);
        MOET_TRY(execute(&b));
    }
    MOET_TRY(put_point(store, put->key, put->texts));
    return put_trial_row(store, put);
}

moet_status moet_store_put_trial(moet_store *store, int64_t run_id, const moet_store_key *key, const moet_trial *trial,
                                 bool is_default, bool final_rounds, bool replace, bool *inserted)
{
    key_texts texts = {0};
    bool result = false;
    MOET_TRY(make_texts(key, &texts));
    put_request put = {run_id, key, &texts, trial, is_default, final_rounds, replace};
    moet_status status = moet_store_begin(store);
    if (status == MOET_OK) status = moet_store_end(store, put_trial(store, &put, &result));
    if (status == MOET_OK && inserted) *inserted = result;
    free(texts.counts);
    return status;
}

void moet_store_now(char text[MOET_MOMENT_SIZE])
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    const size_t used = strftime(text, MOET_MOMENT_SIZE, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    snprintf(text + used, MOET_MOMENT_SIZE - used, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

moet_status moet_store_has_trial(moet_store *store, const moet_store_key *key, const char *since, moet_effort effort,
                                 bool *present, bool *final_rounds)
{
    key_texts texts = {0};
    found_trial stored;
    MOET_TRY(make_texts(key, &texts));
    moet_status status = find_trial(store, key, &texts, since, &stored);
    free(texts.counts);
    if (status != MOET_OK) return status;
    *present = stored.found && (stored.is_since || (stored.final_rounds && stored.effort > effort));
    if (final_rounds) *final_rounds = stored.final_rounds;
    return MOET_OK;
}

moet_status moet_store_is_suspect(moet_store *store, const moet_store_key *key, bool *suspect)
{
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    moet_store_problem_key(key->problem, key->workload, problem_key);
    problem_key[moet_store_problem_length(problem_key)] = '\0';
    binder b = use(store, STATEMENT_FIND_SUSPECT);
    bind_text(&b, key->device_key);
    bind_text(&b, problem_key);
    bind_text(&b, key->config);
    bind_integer(&b, key->family_version);
    bind_text(&b, key->validator);
    if (step(&b, NULL) == MOET_OK) *suspect = sqlite3_column_int(b.statement, 0) != 0;
    return release(&b);
}

/* ---- done ---- */

static moet_status put_done(moet_store *store, int64_t run_id, const moet_store_key *key, const key_texts *texts,
                            const char *candidates, moet_effort effort)
{
    MOET_TRY(put_point(store, key, texts));
    binder b = use(store, STATEMENT_PUT_DONE);
    bind_point(&b, key, texts);
    bind_text(&b, candidates);
    bind_integer(&b, run_id);
    bind_integer(&b, effort);
    return execute(&b);
}

moet_status moet_store_put_done(moet_store *store, int64_t run_id, const moet_store_key *key, const char *candidates,
                                moet_effort effort)
{
    key_texts texts = {0};
    MOET_TRY(make_texts(key, &texts));
    moet_status status = moet_store_begin(store);
    if (status == MOET_OK) status = moet_store_end(store, put_done(store, run_id, key, &texts, candidates, effort));
    free(texts.counts);
    return status;
}

moet_status moet_store_put_name(moet_store *store, const moet_store_key *key)
{
    char *counts = NULL;
    MOET_TRY(moet_store_counts(key->workload, &counts));
    moet_status status = moet_store_begin(store);
    if (status == MOET_OK) status = moet_store_end(store, put_name(store, key->workload, counts));
    free(counts);
    return status;
}

static moet_status reopen(moet_store *store, const moet_store_key *key, const key_texts *texts, const char *before)
{
    static const statement_index statements[] = {STATEMENT_REOPEN_DONE, STATEMENT_REOPEN_TRIALS};
    for (int32_t i = 0; i < MOET_COUNT_OF(statements); i++) {
        binder b = use(store, statements[i]);
        bind_point(&b, key, texts);
        bind_text(&b, before);
        step(&b, NULL);
        MOET_TRY(release(&b));
    }
    return MOET_OK;
}

moet_status moet_store_reopen(moet_store *store, const moet_store_key *key, const char *before)
{
    key_texts texts = {0};
    MOET_TRY(make_texts(key, &texts));
    moet_status status = moet_store_begin(store);
    if (status == MOET_OK) status = moet_store_end(store, reopen(store, key, &texts, before));
    free(texts.counts);
    return status;
}

moet_status moet_store_is_done(moet_store *store, const moet_store_key *key, const char *candidates, moet_effort effort,
                               bool *done)
{
    key_texts texts = {0};
    bool found = false;
    moet_effort marked = MOET_EFFORT_QUICK;
    MOET_TRY(make_texts(key, &texts));
    binder b = use(store, STATEMENT_FIND_DONE);
    bind_point(&b, key, &texts);
    bind_text(&b, candidates);
    if (step(&b, &found) == MOET_OK && found) b.status = moet_store_read_effort(store, b.statement, 0, &marked);
    moet_status status = release(&b);
    free(texts.counts);
    if (status == MOET_OK) *done = found && marked >= effort;
    return status;
}

/* ---- cost models ---- */

moet_status moet_store_put_cost(moet_store *store, const char *device_key, const moet_store_cost *cost)
{
    MOET_TRY(moet_store_begin(store));
    binder b = use(store, STATEMENT_PUT_COST);
    bind_text(&b, device_key);
    bind_integer(&b, cost->points);
    bind_real(&b, cost->error);
    for (int32_t i = 0; i < MOET_RATE_COUNT; i++) bind_real(&b, cost->rates.rate[i]);
    return moet_store_end(store, execute(&b));
}

moet_status moet_store_get_cost(moet_store *store, const char *device_key, moet_store_cost *cost)
{
    bool found = false;
    moet_store_cost result = {0};
    binder b = use(store, STATEMENT_FIND_COST);
    bind_text(&b, device_key);
    if (step(&b, &found) == MOET_OK && found) {
        result.points = sqlite3_column_int(b.statement, 0);
        result.error = sqlite3_column_double(b.statement, 1);
        for (int32_t i = 0; i < MOET_RATE_COUNT; i++) result.rates.rate[i] = sqlite3_column_double(b.statement, 2 + i);
    }
    MOET_TRY(release(&b));
    if (!found) return moet_fail(MOET_NOT_FOUND, "database '%s': no cost model of %s", store->path, device_key);
    *cost = result;
    return MOET_OK;
}
