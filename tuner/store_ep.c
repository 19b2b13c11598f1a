#include "store_ep.h"

#include <inttypes.h>
#include <stdio.h>

#include "store_internal.h"

static const char *const part_names[] = {
#define MOET_X(name, text) text,
    MOET_STORE_EP_PART_TABLE(MOET_X)
#undef MOET_X
};

/* A value of ?1, ?2, ...: a text, or where that is NULL a number. */
typedef struct value {
    const char *text;
    int64_t number;
} value;

static moet_status bind_values(moet_store *store, sqlite3_stmt *s, const value *values, int32_t count)
{
    int code = SQLITE_OK;
    for (int32_t i = 0; i < count && code == SQLITE_OK; i++)
        code = values[i].text ? sqlite3_bind_text(s, i + 1, values[i].text, -1, SQLITE_STATIC)
                              : sqlite3_bind_int64(s, i + 1, values[i].number);
    return code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
}

/* A statement without rows, or with one of whose presence alone is asked (is_row; may be NULL). */
static moet_status execute(moet_store *store, const char *sql, const value *values, int32_t count, bool *is_row)
{
    sqlite3_stmt *s = NULL;
    MOET_TRY(moet_store_prepare(store, sql, &s));
    moet_status status = bind_values(store, s, values, count);
    if (status == MOET_OK) status = moet_store_step(store, s, is_row);
    sqlite3_finalize(s);
    return status;
}

/* ?1 to ?9 of a trial's identity. */
enum { IDENTITY_VALUES = 9 };
#define IDENTITY                                                                                                       \
    "device_id = (SELECT id FROM devices WHERE key = ?1) AND problem_id = (SELECT id FROM problems WHERE key = ?2) "   \
    "AND ranks = ?3 AND hosts = ?4 AND choices = ?5 AND returns = ?6 AND tokens = ?7 AND skew = ?8 AND asked = ?9"

static void list_identity(const moet_store_ep_point *p, const char *problem_key, const char *asked, value *values)
{
    const value list[IDENTITY_VALUES] = {{.text = p->device_key}, {.text = problem_key},  {.number = p->ranks},
                                         {.number = p->hosts},    {.number = p->choices}, {.text = p->returns},
                                         {.number = p->tokens},   {.text = p->skew},      {.text = asked}};
    for (int32_t i = 0; i < IDENTITY_VALUES; i++) values[i] = list[i];
}

/* ---- writing ---- */

static moet_status put_samples(moet_store *store, int64_t trial_id, const moet_store_ep_trial *trial)
{
    sqlite3_stmt *s = NULL;
    MOET_TRY(moet_store_prepare(store,
                                "INSERT INTO ep_samples (trial_id, part, round, time_ns) VALUES (?1, ?2, ?3, ?4)", &s));
    moet_status status = MOET_OK;
    for (int32_t part = 0; part < MOET_STORE_EP_PART_COUNT; part++) {
        for (int32_t i = 0; i < trial->rounds && trial->time_ns[part] && status == MOET_OK; i++) {
            const value values[] = {
                {.number = trial_id}, {.text = part_names[part]}, {.number = i}, {.number = trial->time_ns[part][i]}};
            status = bind_values(store, s, values, MOET_COUNT_OF(values));
            if (status == MOET_OK) status = moet_store_step(store, s, NULL);
            sqlite3_reset(s);
        }
    }
    sqlite3_finalize(s);
    return status;
}

static moet_status put_trial(moet_store *store, int64_t run_id, const moet_store_ep_point *point,
                             const moet_store_ep_trial *t)
{
    static const char put[] =
        "INSERT INTO ep_trials (device_id, problem_id, ranks, hosts, choices, returns, tokens, skew, asked, name, "
        "busiest, choice, is_default, keeps_counts, checked, config, table_hash, median_ns, noise_ns, sample_count, "
        "run_id, measured_at) VALUES ((SELECT id FROM devices WHERE key = ?1), (SELECT id FROM problems WHERE key = "
        "?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, "
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))";
    char key[MOET_KEY_SIZE];
    moet_problem_format(point->problem, key);
    const value problem[] = {{.text = key}};
    value values[21];
    list_identity(point, key, t->asked, values);
    const value rest[] = {{.text = t->name},         {.number = t->busiest},      {.text = t->choice},
                          {.number = t->is_default}, {.number = t->keeps_counts}, {.number = t->is_checked},
                          {.text = t->config},       {.text = t->table_hash},     {.number = t->median_ns},
                          {.number = t->noise_ns},   {.number = t->rounds},       {.number = run_id}};
    for (int32_t i = 0; i < MOET_COUNT_OF(rest); i++) values[IDENTITY_VALUES + i] = rest[i];
    MOET_TRY(execute(store, "DELETE FROM ep_trials WHERE " IDENTITY, values, IDENTITY_VALUES, NULL));
    MOET_TRY(execute(store, "INSERT OR IGNORE INTO problems (key) VALUES (?1)", problem, 1, NULL));
    MOET_TRY(execute(store, put, values, MOET_COUNT_OF(values), NULL));
    return put_samples(store, sqlite3_last_insert_rowid(store->db), t);
}

moet_status moet_store_put_ep(moet_store *store, int64_t run_id, const moet_store_ep_point *point,
                              const moet_store_ep_trial *trial)
{
    MOET_TRY(moet_store_begin(store));
    return moet_store_end(store, put_trial(store, run_id, point, trial));
}

moet_status moet_store_has_ep(moet_store *store, const moet_store_ep_point *point, const char *asked,
                              const char *table_hash, bool *is_there)
{
    char key[MOET_KEY_SIZE];
    value values[IDENTITY_VALUES + 1];
    moet_problem_format(point->problem, key);
    list_identity(point, key, asked, values);
    values[IDENTITY_VALUES] = (value){.text = table_hash};
    return execute(store, "SELECT 1 FROM ep_trials WHERE " IDENTITY " AND table_hash = ?10", values,
                   MOET_COUNT_OF(values), is_there);
}

/* ---- reading ---- */

/* A point's trials are one partition. may_win: as store_ep.h says. */
#define POINT "device_id, problem_id, ranks, hosts, choices, returns, tokens, skew"
static const char each_sql[] =
    "WITH eligible AS (SELECT *, keeps_counts <= coalesce(max(CASE WHEN is_default THEN keeps_counts END) "
    "OVER point, min(keeps_counts) OVER point) AS may_win, "
    "coalesce(min(CASE WHEN is_default THEN median_ns END) OVER point, 0) AS default_ns "
    "FROM ep_trials WINDOW point AS (PARTITION BY " POINT ")), "
    "timed AS (SELECT *, first_value(median_ns) OVER fastest AS fastest_ns, "
    "first_value(noise_ns) OVER fastest AS fastest_noise_ns FROM eligible "
    "WINDOW fastest AS (PARTITION BY " POINT " ORDER BY may_win DESC, median_ns, choice, asked)), "
    "placed AS (SELECT *, row_number() OVER (PARTITION BY " POINT " ORDER BY may_win DESC, "
    "100 * (median_ns - fastest_ns) <= max(fastest_ns, 100 * noise_ns, 100 * fastest_noise_ns) "
    "AND median_ns <= coalesce(nullif(default_ns, 0), median_ns) DESC, "
    "is_default DESC, choice, asked) AS place FROM timed) "
    "SELECT d.key, p.key, t.returns, t.skew, t.asked, t.choice, t.name, t.config, t.table_hash, t.measured_at, "
    "t.ranks, t.hosts, t.choices, t.tokens, t.busiest, t.is_default, t.keeps_counts, t.checked, t.median_ns, "
    "t.noise_ns, t.sample_count, t.place = 1, t.default_ns "
    "FROM placed t JOIN devices d ON d.id = t.device_id JOIN problems p ON p.id = t.problem_id "
    "WHERE ?1 IS NULL OR d.key = ?1 OR (instr(d.key, ?1) AND NOT EXISTS (SELECT 1 FROM devices WHERE key = ?1)) "
    "ORDER BY d.key, p.key, t.ranks, t.hosts, t.choices, t.returns, t.tokens, t.busiest, t.skew, t.median_ns, t.asked";

static moet_store_ep_row row_of(sqlite3_stmt *s)
{
    moet_store_ep_row row;
    const char **const texts[] = {&row.device_key, &row.problem_key, &row.returns, &row.skew,       &row.asked,
                                  &row.choice,     &row.name,        &row.config,  &row.table_hash, &row.measured_at};
    int at = 0;
    for (int32_t i = 0; i < MOET_COUNT_OF(texts); i++) *texts[i] = moet_store_text(s, at++);
    row.ranks = sqlite3_column_int(s, at++);
    row.hosts = sqlite3_column_int(s, at++);
    row.choices = sqlite3_column_int(s, at++);
    row.tokens = sqlite3_column_int64(s, at++);
    row.busiest = sqlite3_column_int64(s, at++);
    row.is_default = sqlite3_column_int(s, at++) != 0;
    row.keeps_counts = sqlite3_column_int(s, at++) != 0;
    row.is_checked = sqlite3_column_int(s, at++) != 0;
    row.median_ns = sqlite3_column_int64(s, at++);
    row.noise_ns = sqlite3_column_int64(s, at++);
    row.sample_count = sqlite3_column_int(s, at++);
    row.is_winner = sqlite3_column_int(s, at++) != 0;
    row.default_ns = sqlite3_column_int64(s, at++);
    return row;
}

moet_status moet_store_each_ep(moet_store *store, const char *device, moet_store_visit_ep visit, void *context)
{
    sqlite3_stmt *s = NULL;
    bool more = false;
    MOET_TRY(moet_store_prepare(store, each_sql, &s));
    const int code = sqlite3_bind_text(s, 1, device, -1, SQLITE_STATIC); /* NULL binds NULL */
    moet_status status = code == SQLITE_OK ? MOET_OK : moet_store_error(store, code);
    while (status == MOET_OK && (status = moet_store_step(store, s, &more)) == MOET_OK && more) {
        const moet_store_ep_row row = row_of(s);
        status = visit(context, &row);
    }
    sqlite3_finalize(s);
    return status;
}
