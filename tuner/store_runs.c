/* Runs: where a database's numbers come from. */
#include "store_internal.h"

/* ?1: device key. */
static const char runs_sql[] =
    "SELECT r.id, r.started_at, r.command, r.revision, r.libraries, r.driver, r.driver_cuda_version, "
    "r.dense_flops_per_s, r.copy_bytes_per_s, r.read_bytes_per_s, "
    "(julianday(max(t.measured_at)) - julianday(r.started_at)) * 86400, sum(t.status = 'ok'), sum(t.status = 'wrong'), "
    "sum(t.status IN ('failed', 'timeout')), count(*) "
    "FROM runs r JOIN devices d ON d.id = r.device_id JOIN trials t ON t.run_id = r.id WHERE d.key = ?1 "
    "GROUP BY r.id ORDER BY r.started_at, r.uid";

moet_status moet_store_each_run(moet_store *store, const char *device_key, moet_store_visit_run visit, void *context)
{
    sqlite3_stmt *s = NULL;
    bool more = false;
    MOET_TRY(moet_store_prepare(store, runs_sql, &s));
    int code = sqlite3_bind_text(s, 1, device_key, -1, SQLITE_STATIC);
    moet_status status = code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        const moet_store_run_row row = {.run_id = sqlite3_column_int64(s, 0),
                                        .started_at = moet_store_text(s, 1),
                                        .command = moet_store_text(s, 2),
                                        .revision = moet_store_text(s, 3),
                                        .libraries = moet_store_text(s, 4),
                                        .driver = moet_store_text(s, 5),
                                        .driver_cuda_version = sqlite3_column_int(s, 6),
                                        .ceilings = {.dense_flops_per_s = sqlite3_column_double(s, 7),
                                                     .copy_bytes_per_s = sqlite3_column_double(s, 8),
                                                     .read_bytes_per_s = sqlite3_column_double(s, 9)},
                                        .seconds = sqlite3_column_double(s, 10),
                                        .ok = sqlite3_column_int64(s, 11),
                                        .wrong = sqlite3_column_int64(s, 12),
                                        .failed = sqlite3_column_int64(s, 13),
                                        .of = sqlite3_column_int64(s, 14)};
        status = visit(context, &row);
    }
    sqlite3_finalize(s);
    return status;
}
