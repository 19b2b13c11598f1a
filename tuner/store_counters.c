/* What a profiler counted of a trial's kernels, beside the trial. */
#include "store_internal.h"

static moet_status put_counter(moet_store *store, sqlite3_stmt *s, int64_t trial_id, const moet_store_counter *counter)
{
    int code = sqlite3_bind_int64(s, 1, trial_id);
    if (code == SQLITE_OK) code = sqlite3_bind_int(s, 2, counter->position);
    if (code == SQLITE_OK) code = sqlite3_bind_text(s, 3, counter->kernel, -1, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_bind_text(s, 4, counter->metric, -1, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_bind_double(s, 5, counter->value);
    moet_status status = code == SQLITE_OK ? moet_store_step(store, s, NULL) : moet_store_error(store, code);
    sqlite3_reset(s);
    return status;
}

static moet_status put_profile(moet_store *store, int64_t trial_id, const char *tool)
{
    static const char sql[] = "INSERT OR REPLACE INTO profiles (trial_id, tool, measured_at) "
                              "VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))";
    sqlite3_stmt *s = NULL;
    MOET_TRY(moet_store_prepare(store, sql, &s));
    int code = sqlite3_bind_int64(s, 1, trial_id);
    if (code == SQLITE_OK) code = sqlite3_bind_text(s, 2, tool, -1, SQLITE_STATIC);
    moet_status status = code == SQLITE_OK ? moet_store_step(store, s, NULL) : moet_store_error(store, code);
    sqlite3_finalize(s);
    return status;
}

static moet_status put_all(moet_store *store, int64_t trial_id, const char *tool, const moet_store_counter *counters,
                           int32_t count)
{
    sqlite3_stmt *s = NULL;
    MOET_TRY(put_profile(store, trial_id, tool));
    MOET_TRY(moet_store_prepare(
        store, "INSERT INTO counters (trial_id, position, kernel, metric, value) VALUES (?1, ?2, ?3, ?4, ?5)", &s));
    moet_status status = MOET_OK;
    for (int32_t i = 0; i < count && status == MOET_OK; i++) status = put_counter(store, s, trial_id, &counters[i]);
    sqlite3_finalize(s);
    return status;
}

moet_status moet_store_put_profile(moet_store *store, int64_t trial_id, const char *tool,
                                   const moet_store_counter *counters, int32_t count)
{
    MOET_TRY(moet_store_begin(store));
    return moet_store_end(store, put_all(store, trial_id, tool, counters, count));
}

moet_status moet_store_each_counter(moet_store *store, int64_t trial_id, moet_store_visit_counter visit, void *context)
{
    static const char sql[] = "SELECT p.tool, c.position, c.kernel, c.metric, c.value FROM counters c "
                              "JOIN profiles p ON p.trial_id = c.trial_id WHERE c.trial_id = ?1 "
                              "ORDER BY c.position, c.metric";
    sqlite3_stmt *s = NULL;
    bool more = false;
    MOET_TRY(moet_store_prepare(store, sql, &s));
    int code = sqlite3_bind_int64(s, 1, trial_id);
    moet_status status = code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        const moet_store_counter counter = {.position = sqlite3_column_int(s, 1),
                                            .kernel = moet_store_text(s, 2),
                                            .metric = moet_store_text(s, 3),
                                            .value = sqlite3_column_double(s, 4)};
        status = visit(context, moet_store_text(s, 0), &counter);
    }
    sqlite3_finalize(s);
    return status;
}
