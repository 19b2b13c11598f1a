/* Reading: trials, winners, kernels, devices. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "store_internal.h"

/* ---- queries ---- */

/* The columns of a trial row, in the order in which read_trial reads them. */
#define TRIAL_COLUMNS                                                                                                  \
    "d.key, p.key, n.name, n.skew, w.id, w.experts, w.active, w.max, w.counts, w.rows, w.max_over_mean, w.gini, "      \
    "t.id, t.config, t.family_version, t.validator, t.device_counts, t.eager, t.final_rounds, t.is_default, "          \
    "t.status, t.reason, t.median_ns, t.noise_ns, t.sample_count, t.efficiency, t.error, t.bit_class, "                \
    "t.measured_at, t.run_id, run.effort"
#define TRIAL_COLUMN_COUNT 31

/* ?1 device, ?2 problem (?8: whatever its tokens), ?3 name; NULL is any. ?4 to ?5: ids of workloads, which reach into
 * the views where a join or a subquery would not. A workload goes by its first name, of those that ?3 asks for. */
#define NAME_FILTER                                                                                                    \
    "(?3 IS NULL OR substr(m.name || '/' || v.rows || '/' || m.skew || '/', 1, length(?3) + 1) = ?3 || '/')"
#define NAMES_CTE                                                                                                      \
    "names AS MATERIALIZED (SELECT * FROM (SELECT m.workload_id, m.name, m.skew, row_number() OVER "                   \
    "(PARTITION BY m.workload_id ORDER BY m.name, m.skew, m.tokens, m.seed) AS place "                                 \
    "FROM workload_names m JOIN workloads v ON v.id = m.workload_id "                                                  \
    "WHERE v.id BETWEEN ?4 AND ?5 AND " NAME_FILTER ") "                                                               \
    "WHERE place = 1)"
#define TRIAL_JOINS                                                                                                    \
    "JOIN devices d ON d.id = t.device_id JOIN problems p ON p.id = t.problem_id "                                     \
    "JOIN workloads w ON w.id = t.workload_id JOIN names n ON n.workload_id = w.id JOIN runs run ON run.id = t.run_id "
#define PROBLEM_FILTER "(?2 IS NULL OR p.key = ?2 OR (?8 AND substr(p.key, 1, length(?2) + 8) = ?2 || ',tokens=')) "
#define TRIAL_FILTER                                                                                                   \
    "(?1 IS NULL OR d.key = ?1 OR (instr(d.key, ?1) AND NOT EXISTS (SELECT 1 FROM devices WHERE key = ?1))) "          \
    "AND " PROBLEM_FILTER
#define POINT_ORDER "d.key, p.key, w.rows, w.max_over_mean, w.counts, "

static const char trials_sql[] =
    "WITH " NAMES_CTE ", "
    "won AS MATERIALIZED (SELECT trial_id, max(kind = 'any') AS any_won, max(kind = 'device_counts') AS device_won "
    "FROM winners WHERE workload_id BETWEEN ?4 AND ?5 GROUP BY trial_id), "
    "current AS MATERIALIZED (SELECT id FROM current_trials WHERE workload_id BETWEEN ?4 AND ?5) "
    "SELECT " TRIAL_COLUMNS
    ", coalesce(won.any_won, 0), coalesce(won.device_won, 0), t.id IN (SELECT id FROM current), "
    "EXISTS (SELECT 1 FROM suspects s WHERE s.id = t.id) "
    "FROM trials t " TRIAL_JOINS "LEFT JOIN won ON won.trial_id = t.id "
    "WHERE t.workload_id BETWEEN ?4 AND ?5 AND " TRIAL_FILTER
    "AND (NOT ?6 OR won.trial_id IS NOT NULL) AND (NOT ?7 OR t.status = 'ok') "
    "ORDER BY " POINT_ORDER "t.status <> 'ok', t.median_ns, t.config, t.device_counts, t.family_version, t.validator";

static const char winners_sql[] =
    "WITH " NAMES_CTE ", won AS MATERIALIZED (SELECT * FROM winners WHERE workload_id BETWEEN ?4 AND ?5) "
    "SELECT " TRIAL_COLUMNS ", won.kind = 'any', won.kind = 'device_counts', 1, 0, "
    "r.config, r.median_ns, r.noise_ns, 0, f.config, f.median_ns, f.noise_ns, "
    "EXISTS (SELECT 1 FROM suspects s WHERE s.id = f.id) "
    "FROM won JOIN trials t ON t.id = won.trial_id " TRIAL_JOINS
    "LEFT JOIN trials r ON r.id = won.runner_up_id LEFT JOIN trials f ON f.id = won.default_id "
    "WHERE " TRIAL_FILTER "ORDER BY " POINT_ORDER "won.kind = 'device_counts'";

/* ---- rows ---- */

/* counts is a JSON array of integers that this program wrote. */
static moet_status parse_counts(const moet_store *store, const char *text, int32_t experts, int32_t *counts)
{
    const char *at = text;
    for (int32_t i = 0; i < experts; i++) {
        char *end = NULL;
        if (*at != (i ? ',' : '[')) goto malformed;
        long value = strtol(++at, &end, 10);
        if (end == at || value < 0 || value > MOET_MAX_ROWS) goto malformed;
        counts[i] = (int32_t)value;
        at = end;
    }
    if (strcmp(at, "]") == 0) return MOET_OK;
malformed:
    return moet_fail(MOET_MALFORMED, "database '%s': damaged: counts '%.40s' are not %d numbers", store->path, text,
                     experts);
}

static void copy_text(char *to, size_t size, sqlite3_stmt *s, int column)
{
    const char *from = moet_store_text(s, column);
    size_t length = strlen(from);
    if (length >= size) length = size - 1;
    memcpy(to, from, length);
    to[length] = '\0';
}

/* ?1: a trial's row id. Not part of the trials' own query: a list is no column. */
static const char cubins_sql[] = "SELECT k.position, k.sha256, c.arch FROM trial_cubins k "
                                 "JOIN cubins c ON c.sha256 = k.sha256 WHERE k.trial_id = ?1 ORDER BY k.position";

/* s is cubins_sql, prepared. */
static moet_status read_cubins(moet_store *store, sqlite3_stmt *s, moet_store_trial_row *row)
{
    bool more = false;
    int code = sqlite3_bind_int64(s, 1, row->trial_id);
    moet_status status = code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        if (row->cubin_count == MOET_MAX_CUBINS || sqlite3_column_int64(s, 0) != row->cubin_count) {
            status = moet_fail(MOET_MALFORMED, "database '%s': damaged: the kernels of a trial are not 0 to %d",
                               store->path, MOET_MAX_CUBINS - 1);
            break;
        }
        moet_store_cubin *cubin = &row->cubins[row->cubin_count++];
        copy_text(cubin->sha256, sizeof cubin->sha256, s, 1);
        copy_text(cubin->arch, sizeof cubin->arch, s, 2);
    }
    sqlite3_reset(s);
    return status;
}

/* A NULL in a REAL column was no number. */
static double column_real(sqlite3_stmt *s, int column)
{
    return sqlite3_column_type(s, column) == SQLITE_NULL ? (double)NAN : sqlite3_column_double(s, column);
}

moet_status moet_store_read_effort(const moet_store *store, sqlite3_stmt *s, int column, moet_effort *effort)
{
    const int64_t number = sqlite3_column_int64(s, column);
    if (number < 0 || number >= MOET_EFFORT_COUNT)
        return moet_fail(MOET_MALFORMED, "database '%s': damaged: effort %lld, must be 0 to %d", store->path,
                         (long long)number, MOET_EFFORT_COUNT - 1);
    *effort = (moet_effort)number;
    return MOET_OK;
}

static moet_status read_trial(const moet_store *store, sqlite3_stmt *s, int32_t counts[MOET_MAX_EXPERTS],
                              moet_store_trial_row *row)
{
    int i = 0;
    row->device_key = moet_store_text(s, i++);
    row->problem_key = moet_store_text(s, i++);
    row->workload_name = moet_store_text(s, i++);
    row->skew = moet_store_text(s, i++);
    row->workload_id = sqlite3_column_int64(s, i++);
    row->experts = sqlite3_column_int(s, i++);
    row->active = sqlite3_column_int(s, i++);
    row->max = sqlite3_column_int(s, i++);
    const char *counts_text = moet_store_text(s, i++);
    row->counts = counts;
    row->rows = sqlite3_column_int64(s, i++);
    row->max_over_mean = column_real(s, i++);
    row->gini = column_real(s, i++);
    row->trial_id = sqlite3_column_int64(s, i++);
    row->config = moet_store_text(s, i++);
    row->family_version = sqlite3_column_int(s, i++);
    row->validator = moet_store_text(s, i++);
    row->device_counts = sqlite3_column_int(s, i++) != 0;
    row->eager = sqlite3_column_int(s, i++) != 0;
    row->final_rounds = sqlite3_column_int(s, i++) != 0;
    row->is_default = sqlite3_column_int(s, i++) != 0;
    const char *status_text = moet_store_text(s, i++);
    row->reason = moet_store_text(s, i++);
    row->median_ns = sqlite3_column_int64(s, i++);
    row->noise_ns = sqlite3_column_int64(s, i++);
    row->sample_count = sqlite3_column_int(s, i++);
    row->efficiency = column_real(s, i++);
    row->error = column_real(s, i++);
    row->bit_class = moet_store_text(s, i++);
    row->measured_at = moet_store_text(s, i++);
    row->run_id = sqlite3_column_int64(s, i++);
    MOET_TRY(moet_store_read_effort(store, s, i++, &row->effort));
    assert(i == TRIAL_COLUMN_COUNT);
    row->is_winner[MOET_TABLE_ANY] = sqlite3_column_int(s, i++) != 0;
    row->is_winner[MOET_TABLE_DEVICE_COUNTS] = sqlite3_column_int(s, i++) != 0;
    row->is_current = sqlite3_column_int(s, i++) != 0;
    row->is_suspect = sqlite3_column_int(s, i++) != 0;
    if (row->experts < 1 || row->experts > MOET_MAX_EXPERTS)
        return moet_fail(MOET_MALFORMED, "database '%s': damaged: a workload of %d experts", store->path, row->experts);
    MOET_TRY(parse_counts(store, counts_text, row->experts, counts));
    return moet_trial_status_parse(status_text, &row->status);
}

const char *moet_store_kind_name(moet_table_kind kind)
{
    static const char *const names[MOET_TABLE_KIND_COUNT] = {
        [MOET_TABLE_ANY] = "any",
        [MOET_TABLE_DEVICE_COUNTS] = "device_counts",
    };
    return names[kind];
}

static moet_store_rival read_rival(sqlite3_stmt *s, int column)
{
    if (sqlite3_column_type(s, column) == SQLITE_NULL) return (moet_store_rival){0};
    return (moet_store_rival){moet_store_text(s, column), sqlite3_column_int64(s, column + 1),
                              sqlite3_column_int64(s, column + 2), sqlite3_column_int(s, column + 3) != 0};
}

/* The first and the last id of the workloads that a filter may find; none: first above last. The views are evaluated
 * for all that lies between, whatever problem and device it is of. */
static moet_status find_range(moet_store *store, const moet_store_filter *filter, int64_t *first, int64_t *last)
{
    static const char sql[] =
        "SELECT coalesce(min(v.id), 1), coalesce(max(v.id), 0) FROM workloads v JOIN workload_names m ON m.workload_id "
        "= v.id "
        "WHERE " NAME_FILTER " AND (?4 IS NULL OR v.counts = ?4 AND v.hidden = ?5 AND v.inter = ?6) "
        "AND (?2 IS NULL OR v.id IN (SELECT t.workload_id FROM trials t JOIN problems p ON p.id = t.problem_id "
        "WHERE " PROBLEM_FILTER "))";
    const moet_workload *w = filter->workload;
    sqlite3_stmt *s = NULL;
    char *counts = NULL;
    *first = INT64_MIN;
    *last = INT64_MAX;
    if (!filter->name && !w && !filter->problem_key) return MOET_OK;
    moet_status status = w ? moet_store_counts(w, &counts) : MOET_OK;
    if (status == MOET_OK) status = moet_store_prepare(store, sql, &s);
    if (status != MOET_OK) goto done;
    /* One workload is found at once; its problem's trials need not be looked through. */
    int code = w ? sqlite3_bind_null(s, 2) : sqlite3_bind_text(s, 2, filter->problem_key, -1, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_bind_text(s, 3, filter->name, -1, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_bind_int(s, 8, filter->any_tokens);
    if (code == SQLITE_OK) code = sqlite3_bind_text(s, 4, counts, -1, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_bind_int(s, 5, w ? w->hidden : 0);
    if (code == SQLITE_OK) code = sqlite3_bind_int(s, 6, w ? w->inter : 0);
    status = code == SQLITE_OK ? moet_store_step(store, s, NULL) : moet_store_error(store, code);
    if (status == MOET_OK) {
        *first = sqlite3_column_int64(s, 0);
        *last = sqlite3_column_int64(s, 1);
    }
done:
    sqlite3_finalize(s);
    free(counts);
    return status;
}

static moet_status open_query(moet_store *store, const char *sql, const moet_store_filter *filter,
                              sqlite3_stmt **statement)
{
    static const moet_store_filter all = {0};
    int64_t numbers[5];
    if (!filter) filter = &all;
    MOET_TRY(find_range(store, filter, &numbers[0], &numbers[1]));
    numbers[2] = filter->winners_only;
    numbers[3] = filter->ok_only;
    numbers[4] = filter->any_tokens;
    MOET_TRY(moet_store_prepare(store, sql, statement));
    const char *texts[] = {filter->device_key, filter->problem_key, filter->name};
    int code = SQLITE_OK, count = sqlite3_bind_parameter_count(*statement);
    for (int i = 0; i < MOET_COUNT_OF(texts) && code == SQLITE_OK; i++)
        code = sqlite3_bind_text(*statement, i + 1, texts[i], -1, SQLITE_STATIC);
    for (int i = 0; i < MOET_COUNT_OF(numbers) && code == SQLITE_OK && 4 + i <= count; i++)
        code = sqlite3_bind_int64(*statement, 4 + i, numbers[i]);
    return code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
}

moet_status moet_store_each_trial(moet_store *store, const moet_store_filter *filter, moet_store_visit visit,
                                  void *context)
{
    sqlite3_stmt *s = NULL, *cubins = NULL;
    bool more = false;
    int32_t counts[MOET_MAX_EXPERTS];
    moet_status status = open_query(store, trials_sql, filter, &s);
    if (status == MOET_OK) status = moet_store_prepare(store, cubins_sql, &cubins);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        moet_store_trial_row row = {0};
        status = read_trial(store, s, counts, &row);
        if (status == MOET_OK) status = read_cubins(store, cubins, &row);
        if (status == MOET_OK) status = visit(context, &row);
    }
    sqlite3_finalize(cubins);
    sqlite3_finalize(s);
    return status;
}

moet_status moet_store_each_winner(moet_store *store, const moet_store_filter *filter, moet_store_visit_winner visit,
                                   void *context)
{
    enum { RUNNER_UP = TRIAL_COLUMN_COUNT + 4, DEFAULT = RUNNER_UP + 4 };
    sqlite3_stmt *s = NULL, *cubins = NULL;
    bool more = false;
    int32_t counts[MOET_MAX_EXPERTS];
    moet_status status = open_query(store, winners_sql, filter, &s);
    if (status == MOET_OK) status = moet_store_prepare(store, cubins_sql, &cubins);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        moet_store_winner_row row = {0};
        status = read_trial(store, s, counts, &row.trial);
        row.kind = row.trial.is_winner[MOET_TABLE_DEVICE_COUNTS] ? MOET_TABLE_DEVICE_COUNTS : MOET_TABLE_ANY;
        row.runner_up = read_rival(s, RUNNER_UP);
        row.default_trial = read_rival(s, DEFAULT);
        if (status == MOET_OK) status = read_cubins(store, cubins, &row.trial);
        if (status == MOET_OK) status = visit(context, &row);
    }
    sqlite3_finalize(cubins);
    sqlite3_finalize(s);
    return status;
}

/* ---- kernels ---- */

static moet_status check_cubin(const moet_store *store, const char *sha256, const moet_cubin *cubin)
{
    char actual[MOET_SHA256_TEXT_SIZE];
    moet_sha256_text(cubin->bytes, cubin->size_bytes, actual);
    if (strcmp(actual, sha256) == 0) return MOET_OK;
    return moet_fail(MOET_MALFORMED,
                     "database '%s': damaged: kernel %.16s... has the hash %.16s...; delete its trials and sweep again",
                     store->path, sha256, actual);
}

static moet_status read_cubin(const moet_store *store, sqlite3_stmt *s, const char *sha256, moet_cubin *cubin)
{
    const void *bytes = sqlite3_column_blob(s, 1);
    size_t size = (size_t)sqlite3_column_bytes(s, 1);
    strncpy(cubin->arch, moet_store_text(s, 0), sizeof cubin->arch - 1);
    strncpy(cubin->sha256, sha256, sizeof cubin->sha256 - 1);
    cubin->bytes = malloc(size ? size : 1);
    if (!cubin->bytes) return moet_fail(MOET_NO_MEMORY, "database '%s': out of memory", store->path);
    if (size) memcpy(cubin->bytes, bytes, size);
    cubin->size_bytes = size;
    return check_cubin(store, sha256, cubin);
}

moet_status moet_store_get_cubin(moet_store *store, const char *sha256, moet_cubin *cubin)
{
    sqlite3_stmt *s = NULL;
    bool found = false;
    moet_cubin result = {0};
    MOET_TRY(moet_store_prepare(store, "SELECT arch, bytes FROM cubins WHERE sha256 = ?1", &s));
    int code = sqlite3_bind_text(s, 1, sha256, -1, SQLITE_STATIC);
    moet_status status = code == SQLITE_OK ? moet_store_step(store, s, &found) : moet_store_error(store, code);
    if (status == MOET_OK && !found)
        status = moet_fail(MOET_NOT_FOUND, "database '%s': has no kernel %s", store->path, sha256);
    if (status == MOET_OK) status = read_cubin(store, s, sha256, &result);
    sqlite3_finalize(s);
    if (status != MOET_OK) {
        free(result.bytes);
        return status;
    }
    *cubin = result;
    return MOET_OK;
}

/* ---- devices ---- */

static const char device_sql[] =
    "SELECT d.backend, d.name, d.cc_major, d.cc_minor, d.sm_count, d.memory_bytes, d.power_limit_mw, d.partition, "
    "d.smem_per_block_optin_bytes, d.smem_per_sm_bytes, d.regs_per_sm, d.l2_bytes, r.driver, r.driver_cuda_version, "
    "r.dense_flops_per_s, r.copy_bytes_per_s, r.read_bytes_per_s "
    "FROM devices d JOIN runs r ON r.device_id = d.id WHERE d.key = ?1 "
    "ORDER BY EXISTS (SELECT 1 FROM trials t WHERE t.run_id = r.id) DESC, r.started_at DESC, r.uid DESC LIMIT 1";

static void read_device(sqlite3_stmt *s, moet_device_info *info, moet_ceilings *ceilings)
{
    int i = 0;
    copy_text(info->backend, sizeof info->backend, s, i++);
    copy_text(info->name, sizeof info->name, s, i++);
    info->cc_major = sqlite3_column_int(s, i++);
    info->cc_minor = sqlite3_column_int(s, i++);
    info->sm_count = sqlite3_column_int(s, i++);
    info->memory_bytes = sqlite3_column_int64(s, i++);
    info->power_limit_mw = sqlite3_column_int64(s, i++);
    copy_text(info->partition, sizeof info->partition, s, i++);
    info->smem_per_block_optin_bytes = sqlite3_column_int64(s, i++);
    info->smem_per_sm_bytes = sqlite3_column_int64(s, i++);
    info->regs_per_sm = sqlite3_column_int(s, i++);
    info->l2_bytes = sqlite3_column_int64(s, i++);
    copy_text(info->driver, sizeof info->driver, s, i++);
    info->driver_cuda_version = sqlite3_column_int(s, i++);
    ceilings->dense_flops_per_s = sqlite3_column_double(s, i++);
    ceilings->copy_bytes_per_s = sqlite3_column_double(s, i++);
    ceilings->read_bytes_per_s = sqlite3_column_double(s, i++);
}

moet_status moet_store_device_info(moet_store *store, const char *device_key, moet_device_info *info,
                                   moet_ceilings *ceilings)
{
    sqlite3_stmt *s = NULL;
    bool found = false;
    MOET_TRY(moet_store_prepare(store, device_sql, &s));
    int code = sqlite3_bind_text(s, 1, device_key, -1, SQLITE_STATIC);
    moet_status status = code == SQLITE_OK ? moet_store_step(store, s, &found) : moet_store_error(store, code);
    if (status == MOET_OK && !found)
        status = moet_fail(MOET_NOT_FOUND, "database '%s': has no device '%s'", store->path, device_key);
    if (status == MOET_OK) {
        *info = (moet_device_info){0};
        read_device(s, info, ceilings);
    }
    sqlite3_finalize(s);
    return status;
}

void moet_store_keys_release(moet_store_keys *keys)
{
    for (int32_t i = 0; i < keys->count; i++) free(keys->texts[i]);
    free(keys->texts);
    *keys = (moet_store_keys){0};
}

moet_status moet_store_device_keys(moet_store *store, moet_store_keys *keys)
{
    sqlite3_stmt *s = NULL;
    bool more = false;
    moet_store_keys result = {0};
    moet_status status = moet_store_prepare(store, "SELECT key FROM devices ORDER BY key", &s);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        char *key = strdup(moet_store_text(s, 0));
        char **grown = key ? realloc(result.texts, ((size_t)result.count + 1) * sizeof *grown) : NULL;
        if (!grown) {
            free(key);
            status = moet_fail(MOET_NO_MEMORY, "database '%s': out of memory", store->path);
            break;
        }
        result.texts = grown;
        result.texts[result.count++] = key;
    }
    sqlite3_finalize(s);
    if (status != MOET_OK) {
        moet_store_keys_release(&result);
        return status;
    }
    *keys = result;
    return MOET_OK;
}
