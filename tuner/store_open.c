/* Opening and closing a database, its migrations, transactions, and the messages of SQLite's errors. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "store_internal.h"

#define BUSY_TIMEOUT_MS 30000
#define BUSY_RETRIES 3

/* migrations[v] takes a database from user_version v to v + 1. Steps are never edited once released. */
extern const char moet_source_schema[], moet_source_schema_2[], moet_source_schema_3[], moet_source_schema_4[],
    moet_source_schema_5[], moet_source_schema_6[], moet_source_schema_7[], moet_source_schema_8[];
static const char *const migrations[] = {moet_source_schema,   moet_source_schema_2, moet_source_schema_3,
                                         moet_source_schema_4, moet_source_schema_5, moet_source_schema_6,
                                         moet_source_schema_7, moet_source_schema_8};
_Static_assert(sizeof migrations / sizeof migrations[0] == MOET_STORE_VERSION, "one step a version");

/* older_views[v] lets a reader, who changes nothing, find in a database of version v what the newest one has: temporary
 * views under the names of the newer tables. */
#define VIEWS_2                                                                                                        \
    "CREATE TEMP VIEW trial_algorithms AS " MOET_STORE_TRIAL_ALGORITHMS_2 ";"                                          \
    "CREATE TEMP VIEW algorithms AS " MOET_STORE_ALGORITHMS_2 ";" VIEWS_3
#define VIEWS_3                                                                                                        \
    "CREATE TEMP VIEW runs AS SELECT *, " MOET_STORE_EFFORT_3 " AS effort FROM main.runs;"                             \
    "CREATE TEMP VIEW cost_models AS " MOET_STORE_COST_MODELS_3 ";" VIEWS_4
#define VIEWS_4                                                                                                        \
    "CREATE TEMP VIEW profiles AS " MOET_STORE_PROFILES_4 ";CREATE TEMP VIEW counters AS " MOET_STORE_COUNTERS_4    \
    ";" VIEWS_5
#define VIEWS_5 "CREATE TEMP VIEW ep_trials AS " MOET_STORE_EP_TRIALS_5
static const char *const older_views[MOET_STORE_VERSION] = {
    [1] = "CREATE TEMP VIEW trial_cubins AS " MOET_STORE_TRIAL_CUBINS_1("main") ";" VIEWS_2,
    [2] = VIEWS_2,
    [3] = VIEWS_3,
    [4] = VIEWS_4,
    [5] = VIEWS_5,
    [6] = "",
    [7] = "",
};

/* ---- errors ---- */

/* SQLite reports some writes on a full disk (of the write-ahead log's index, say) as plain I/O errors. */
static bool disk_is_full(const moet_store *store)
{
    struct statvfs fs;
    int error = store->db ? sqlite3_system_errno(store->db) : 0;
    if (error == ENOSPC || error == EDQUOT) return true;
    return statvfs(store->path, &fs) == 0 && fs.f_bavail < 16;
}

/* What an SQLite result means to the user; the rest is IO with SQLite's own text. */
static const struct {
    int code;
    moet_status status;
    const char *text;
    bool wants_option; /* behind it, of another file */
} meanings[] = {
    {SQLITE_FULL, MOET_IO, "disk full; free space and run the same command again; finished trials are kept", false},
    {SQLITE_BUSY, MOET_BUSY, "locked by another process; wait for it and run the same command again", false},
    {SQLITE_LOCKED, MOET_BUSY, "locked by another process; wait for it and run the same command again", false},
    {SQLITE_READONLY, MOET_IO, "cannot be written; use a file in a folder that can be", true},
    {SQLITE_CANTOPEN, MOET_IO, "cannot be opened; check that its folder exists and can be written, or name another",
     true},
    {SQLITE_PERM, MOET_IO, "cannot be opened; check its permissions, or name another", true},
    {SQLITE_NOTADB, MOET_MALFORMED, "not a moe-tune database; name another file", true},
    {SQLITE_CORRUPT, MOET_MALFORMED, "damaged; rescue it with .recover of sqlite3, or name another file", true},
    {SQLITE_NOMEM, MOET_NO_MEMORY, "out of memory", false},
};

/* How another file would be named. */
static const char *option_of(moet_store_mode mode) { return mode == MOET_STORE_SOURCE ? "" : " (--db)"; }

moet_status moet_store_error(const moet_store *store, int code)
{
    int primary = code & 0xff;
    if ((primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN) && disk_is_full(store)) primary = SQLITE_FULL;
    for (int32_t i = 0; i < MOET_COUNT_OF(meanings); i++) {
        if (meanings[i].code == primary)
            return moet_fail(meanings[i].status, "database '%s': %s%s", store->path, meanings[i].text,
                             meanings[i].wants_option ? option_of(store->mode) : "");
    }
    return moet_fail(MOET_IO, "database '%s': %s", store->path,
                     store->db ? sqlite3_errmsg(store->db) : sqlite3_errstr(code));
}

/* ---- statements and transactions ---- */

moet_status moet_store_prepare(moet_store *store, const char *sql, sqlite3_stmt **statement)
{
    int code = sqlite3_prepare_v2(store->db, sql, -1, statement, NULL);
    return code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
}

moet_status moet_store_exec(moet_store *store, const char *sql)
{
    int code = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
}

moet_status moet_store_step(moet_store *store, sqlite3_stmt *statement, bool *row)
{
    int code = sqlite3_step(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE) return moet_store_error(store, code);
    if (row) *row = code == SQLITE_ROW;
    return MOET_OK;
}

/* The busy timeout waits for a lock; SQLite answers BUSY at once where waiting could dead-lock, hence the retries. */
static int exec_retried(moet_store *store, const char *sql)
{
    int code = SQLITE_BUSY;
    for (int i = 0; i < BUSY_RETRIES && (code & 0xff) == SQLITE_BUSY; i++) {
        if (i) sqlite3_sleep(50 << i);
        code = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    }
    return code;
}

moet_status moet_store_begin(moet_store *store)
{
    int code = exec_retried(store, "BEGIN IMMEDIATE");
    return code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
}

moet_status moet_store_end(moet_store *store, moet_status status)
{
    if (status == MOET_OK) {
        int code = exec_retried(store, "COMMIT");
        if (code == SQLITE_OK) return MOET_OK;
        status = moet_store_error(store, code);
    }
    /* SQLite may have rolled back by itself (disk full); then this has nothing to do. */
    if (!sqlite3_get_autocommit(store->db)) sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

moet_status moet_store_begin_reading(moet_store *store)
{
    int64_t objects = 0;
    MOET_TRY(moet_store_exec(store, "BEGIN"));
    /* BEGIN takes no snapshot, the first read does. */
    moet_status status = moet_store_query_integer(store, "SELECT count(*) FROM sqlite_schema", &objects);
    return status == MOET_OK ? MOET_OK : moet_store_end(store, status);
}

void moet_store_end_reading(moet_store *store) { (void)moet_store_end(store, MOET_OK); }

const char *moet_store_text(sqlite3_stmt *statement, int column)
{
    const unsigned char *text = sqlite3_column_text(statement, column);
    return text ? (const char *)text : "";
}

moet_status moet_store_query_integer(moet_store *store, const char *sql, int64_t *value)
{
    sqlite3_stmt *statement = NULL;
    bool row = false;
    MOET_TRY(moet_store_prepare(store, sql, &statement));
    moet_status status = moet_store_step(store, statement, &row);
    if (status == MOET_OK) *value = row ? sqlite3_column_int64(statement, 0) : 0;
    sqlite3_finalize(statement);
    return status;
}

/* ---- names ---- */

char *moet_store_uri(const char *path, const char *query)
{
    size_t size = 3 * strlen(path) + strlen(query) + 16, used;
    char *uri = malloc(size);
    if (!uri) return NULL;
    /* "file://x" would name a host. */
    while (path[0] == '/' && path[1] == '/') path++;
    used = (size_t)snprintf(uri, size, "file:%s", path[0] == '/' ? "" : "./");
    for (; *path; path++) {
        if (strchr("%?#", *path))
            used += (size_t)snprintf(uri + used, size - used, "%%%02x", (unsigned char)*path);
        else
            uri[used++] = *path;
    }
    snprintf(uri + used, size - used, "?%s", query);
    return uri;
}

static bool has_content(const char *path, const char *suffix)
{
    struct stat info;
    char *name = NULL;
    if (asprintf(&name, "%s%s", path, suffix) < 0) return true;
    bool content = stat(name, &info) == 0 && info.st_size > 0;
    free(name);
    return content;
}

static bool can_write_beside(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == path ? strdup("/") : slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    bool writable = folder && access(folder, W_OK) == 0;
    free(folder);
    return writable;
}

const char *moet_store_read_query(const char *path)
{
    /* Reading a database in WAL mode makes files beside it, which cannot be had in such a folder, nor are they needed
     * when nothing waits in the log. */
    bool immutable = !can_write_beside(path) && !has_content(path, "-wal") && !has_content(path, "-journal");
    return immutable ? "mode=ro&immutable=1" : "mode=ro";
}

/* A reader that may write takes those files away again when it closes; it is held to reading by query_only. */
static const char *open_query(const char *path, moet_store_mode mode)
{
    if (mode == MOET_STORE_WRITE) return "mode=rwc";
    return access(path, W_OK) == 0 && can_write_beside(path) ? "mode=rw" : moet_store_read_query(path);
}

/* ---- open ---- */

static moet_status check_path(const char *path, moet_store_mode mode)
{
    const char *option = option_of(mode);
    struct stat info;
    if (!*path) return moet_fail(MOET_INVALID, "database '': a file name is expected%s", option);
    if (stat(path, &info) != 0) {
        if (errno == ENOENT && mode == MOET_STORE_WRITE) return MOET_OK;
        if (errno == ENOENT)
            return moet_fail(MOET_NOT_FOUND, "database '%s': no such file; run moe-tune sweep first, or name another%s",
                             path, option);
        return moet_fail(MOET_IO, "database '%s': %s", path, strerror(errno));
    }
    if (S_ISDIR(info.st_mode))
        return moet_fail(MOET_INVALID, "database '%s': is a folder; name a file in it%s", path, option);
    if (!S_ISREG(info.st_mode)) return moet_fail(MOET_INVALID, "database '%s': is not a file%s", path, option);
    return MOET_OK;
}

/* The three facts of one moment: another process may be making this database. */
static moet_status read_identity(moet_store *store, int64_t *application, int64_t *version, int64_t *objects)
{
    bool own_transaction = sqlite3_get_autocommit(store->db);
    if (own_transaction) MOET_TRY(moet_store_exec(store, "BEGIN"));
    moet_status status =
        moet_store_query_integer(store, "SELECT count(*) FROM sqlite_schema", objects); /* takes the snapshot */
    if (status == MOET_OK) status = moet_store_query_integer(store, "PRAGMA application_id", application);
    if (status == MOET_OK) status = moet_store_query_integer(store, "PRAGMA user_version", version);
    return own_transaction ? moet_store_end(store, status) : status;
}

/* Whose database it is; *version 0: an empty file. Nothing has been written yet. */
static moet_status check_identity(moet_store *store, int64_t *version)
{
    const char *option = option_of(store->mode);
    int64_t application = 0, objects = 0;
    MOET_TRY(read_identity(store, &application, version, &objects));
    if (application == 0 && *version == 0 && objects == 0) return MOET_OK;
    if (application != MOET_STORE_APPLICATION_ID)
        return moet_fail(MOET_MISMATCH,
                         "database '%s': belongs to another program (application_id 0x%llx, moe-tune's is 0x%x); name "
                         "another file%s",
                         store->path, (unsigned long long)application, MOET_STORE_APPLICATION_ID, option);
    if (*version > MOET_STORE_VERSION)
        return moet_fail(MOET_MISMATCH,
                         "database '%s': version %lld was written by a newer moe-tune, this one knows up to %d; update "
                         "moe-tune or name another file%s",
                         store->path, (long long)*version, MOET_STORE_VERSION, option);
    if (*version < 1)
        return moet_fail(MOET_MALFORMED, "database '%s': damaged (version %lld); name another file%s", store->path,
                         (long long)*version, option);
    return MOET_OK;
}

/* The write-ahead log lives in shared memory, which file systems over a network do not share. */
static bool is_network_file(const char *path)
{
    static const long magics[] = {
        0x6969 /* NFS */,        0x517b /* SMB */,        0xff534d42 /* CIFS */, 0xfe534d42 /* SMB2 */,
        0x01021997 /* 9P */,     0x0bd00bd0 /* Lustre */, 0x47504653 /* GPFS */, 0x00c36400 /* Ceph */,
        0x19830326 /* BeeGFS */, 0x65735546 /* FUSE */,
    };
    struct statfs fs;
    if (statfs(path, &fs) != 0) return false;
    for (int32_t i = 0; i < MOET_COUNT_OF(magics); i++) {
        if ((long)fs.f_type == magics[i]) return true;
    }
    return false;
}

/* A journal mode that cannot be had leaves the old one, with which everything works too. */
static void set_journal(moet_store *store)
{
    if (is_network_file(store->path) || exec_retried(store, "PRAGMA journal_mode = WAL") != SQLITE_OK)
        exec_retried(store, "PRAGMA journal_mode = DELETE");
}

static moet_status migrate(moet_store *store)
{
    char version_sql[96];
    MOET_TRY(moet_store_begin(store));
    /* Asked again under the lock: another process may have migrated meanwhile. */
    int64_t version = 0;
    moet_status status = check_identity(store, &version);
    for (; status == MOET_OK && version < MOET_STORE_VERSION; version++) {
        status = moet_store_exec(store, migrations[version]);
        if (status != MOET_OK) break;
        snprintf(version_sql, sizeof version_sql, "PRAGMA application_id = %d; PRAGMA user_version = %d;",
                 MOET_STORE_APPLICATION_ID, (int)version + 1);
        status = moet_store_exec(store, version_sql);
    }
    return moet_store_end(store, status);
}

/* What a reader of an older database sees under the newer names; also who wins, by the newest rule. */
static moet_status read_older(moet_store *store, int64_t version)
{
    /* The first is a table: newer databases have an index for it. */
    static const char *const views[] = {"wrong_trials AS", "suspects AS", "candidates AS", "winners AS"};
    MOET_TRY(moet_store_exec(store, older_views[version]));
    for (int32_t i = 0; i < MOET_COUNT_OF(views); i++) {
        char start[64];
        snprintf(start, sizeof start, "CREATE VIEW %s", views[i]);
        const char *text = strstr(moet_source_schema_8, start) + strlen("CREATE VIEW ");
        char *sql = sqlite3_mprintf("CREATE TEMP %s %.*s", i == 0 ? "TABLE" : "VIEW", (int)strcspn(text, ";"), text);
        const moet_status status = sql ? moet_store_exec(store, sql) : moet_store_error(store, SQLITE_NOMEM);
        sqlite3_free(sql);
        MOET_TRY(status);
    }
    return moet_store_exec(store, "CREATE INDEX temp.wrong_by_config ON wrong_trials (device_id, config)");
}

static moet_status open_checked(moet_store *store, moet_store_mode mode)
{
    bool write = mode == MOET_STORE_WRITE;
    char *uri = moet_store_uri(store->path, open_query(store->path, mode));
    if (!uri) return moet_fail(MOET_NO_MEMORY, "database '%s': out of memory", store->path);
    /* The query of the name lowers these flags. */
    int flags = SQLITE_OPEN_URI | SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    int code = sqlite3_open_v2(uri, &store->db, flags, NULL);
    free(uri);
    if (code != SQLITE_OK) return moet_store_error(store, code);
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, BUSY_TIMEOUT_MS);

    int64_t version = 0;
    MOET_TRY(check_identity(store, &version));
    if (!write) {
        if (version == 0)
            return moet_fail(MOET_NOT_FOUND, "database '%s': is empty; run moe-tune sweep first, or name another%s",
                             store->path, option_of(mode));
        if (version < MOET_STORE_VERSION) MOET_TRY(read_older(store, version));
        return moet_store_exec(store, "PRAGMA query_only = ON");
    }
    /* SQLite falls back to reading a file that it may not write. */
    if (sqlite3_db_readonly(store->db, "main") == 1) return moet_store_error(store, SQLITE_READONLY);
    set_journal(store);
    MOET_TRY(moet_store_exec(store, "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"));
    if (version < MOET_STORE_VERSION) MOET_TRY(migrate(store));
    return MOET_OK;
}

moet_status moet_store_open(const char *path, moet_store_mode mode, moet_store **store)
{
    MOET_TRY(check_path(path, mode));
    moet_store *result = calloc(1, sizeof *result);
    if (result) *result = (moet_store){.path = strdup(path), .mode = mode};
    moet_status status = result && result->path ? open_checked(result, mode)
                                                : moet_fail(MOET_NO_MEMORY, "database '%s': out of memory", path);
    if (status != MOET_OK) {
        moet_store_close(result);
        return status;
    }
    *store = result;
    return MOET_OK;
}

void moet_store_close(moet_store *store)
{
    if (!store) return;
    for (int32_t i = 0; i < MOET_STORE_STATEMENTS; i++) sqlite3_finalize(store->statements[i]);
    sqlite3_close(store->db);
    free(store->path);
    free(store);
}

const char *moet_store_library(void) { return sqlite3_libversion(); }
