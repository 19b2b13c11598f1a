/* A trial's algorithms of a vendor library: decoded, and as the bytes that restore them under the same version. */
#include <string.h>

#include "store_internal.h"

/* ?1 library, ?2 bytes, ?3 text; then ?4 trial, ?5 position, ?6 rows. */
static const char put_algorithm_sql[] =
    "INSERT INTO algorithms (library, bytes, text) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
static const char put_trial_algorithm_sql[] =
    "INSERT INTO trial_algorithms (trial_id, position, rows, algorithm_id) VALUES "
    "(?4, ?5, ?6, (SELECT id FROM algorithms WHERE library = ?1 AND bytes = ?2))";

static moet_status put_one(moet_store *store, sqlite3_stmt *s, int64_t trial_id, const char *library, int32_t position,
                           const moet_algorithm *algorithm)
{
    const bool is_of_trial = sqlite3_bind_parameter_count(s) > 3;
    int code = sqlite3_bind_text(s, 1, library, -1, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_bind_blob(s, 2, algorithm->bytes, MOET_ALGORITHM_BYTES, SQLITE_STATIC);
    if (code == SQLITE_OK && !is_of_trial) code = sqlite3_bind_text(s, 3, algorithm->text, -1, SQLITE_STATIC);
    if (code == SQLITE_OK && is_of_trial) code = sqlite3_bind_int64(s, 4, trial_id);
    if (code == SQLITE_OK && is_of_trial) code = sqlite3_bind_int(s, 5, position);
    if (code == SQLITE_OK && is_of_trial) code = sqlite3_bind_int64(s, 6, algorithm->rows);
    moet_status status = code == SQLITE_OK ? moet_store_step(store, s, NULL) : moet_store_error(store, code);
    sqlite3_reset(s);
    return status;
}

moet_status moet_store_put_algorithms(moet_store *store, int64_t trial_id, const char *library, const moet_trial *trial)
{
    sqlite3_stmt *algorithm = NULL, *of_trial = NULL;
    if (trial->algorithm_count == 0) return MOET_OK;
    moet_status status = moet_store_prepare(store, put_algorithm_sql, &algorithm);
    if (status == MOET_OK) status = moet_store_prepare(store, put_trial_algorithm_sql, &of_trial);
    for (int32_t i = 0; i < trial->algorithm_count && status == MOET_OK; i++) {
        status = put_one(store, algorithm, trial_id, library, i, &trial->algorithms[i]);
        if (status == MOET_OK) status = put_one(store, of_trial, trial_id, library, i, &trial->algorithms[i]);
    }
    sqlite3_finalize(algorithm);
    sqlite3_finalize(of_trial);
    return status;
}

static moet_status damaged(const moet_store *store)
{
    return moet_fail(MOET_MALFORMED, "database '%s': damaged: a trial's algorithms are not 0 to %d of %d bytes",
                     store->path, MOET_MAX_ALGORITHMS - 1, MOET_ALGORITHM_BYTES);
}

moet_status moet_store_get_algorithms(moet_store *store, int64_t trial_id, moet_algorithm *list, int32_t *count)
{
    static const char sql[] = "SELECT t.position, t.rows, a.text, a.bytes FROM trial_algorithms t "
                              "JOIN algorithms a ON a.id = t.algorithm_id WHERE t.trial_id = ?1 ORDER BY t.position";
    sqlite3_stmt *s = NULL;
    bool more = false;
    int32_t found = 0;
    MOET_TRY(moet_store_prepare(store, sql, &s));
    int code = sqlite3_bind_int64(s, 1, trial_id);
    moet_status status = code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        const char *text = moet_store_text(s, 2);
        if (found == MOET_MAX_ALGORITHMS || sqlite3_column_int64(s, 0) != found ||
            strlen(text) >= MOET_ALGORITHM_TEXT_SIZE || sqlite3_column_bytes(s, 3) != MOET_ALGORITHM_BYTES) {
            status = damaged(store);
            break;
        }
        moet_algorithm *algorithm = &list[found++];
        *algorithm = (moet_algorithm){.rows = sqlite3_column_int64(s, 1)};
        strcpy(algorithm->text, text);
        memcpy(algorithm->bytes, sqlite3_column_blob(s, 3), MOET_ALGORITHM_BYTES);
    }
    sqlite3_finalize(s);
    if (status == MOET_OK) *count = found;
    return status;
}
