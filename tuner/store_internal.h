/* What store.c, store_read.c and store_merge.c share. Nothing else includes it, or sqlite3.h. */
#ifndef MOET_STORE_INTERNAL_H
#define MOET_STORE_INTERNAL_H

#include <sqlite3.h>

#include "store.h"

#define MOET_STORE_STATEMENTS 24

/* Rows of one device may differ in what its key rounds or leaves out; the larger value stays, whatever the order. */
#define MOET_STORE_DEVICE_CONFLICT                                                                                     \
    "ON CONFLICT (key) DO UPDATE SET memory_bytes = max(memory_bytes, excluded.memory_bytes), "                        \
    "power_limit_mw = max(power_limit_mw, excluded.power_limit_mw), "                                                  \
    "smem_per_block_optin_bytes = max(smem_per_block_optin_bytes, excluded.smem_per_block_optin_bytes), "              \
    "smem_per_sm_bytes = max(smem_per_sm_bytes, excluded.smem_per_sm_bytes), "                                         \
    "regs_per_sm = max(regs_per_sm, excluded.regs_per_sm), l2_bytes = max(l2_bytes, excluded.l2_bytes)"

struct moet_store {
    sqlite3 *db;
    char *path;
    moet_store_mode mode;
    sqlite3_stmt *statements[MOET_STORE_STATEMENTS]; /* prepared when first wanted, by store.c's table */
};

/* What version 2 has as the table trial_cubins, out of a database of version 1. */
#define MOET_STORE_TRIAL_CUBINS_1(database)                                                                            \
    "SELECT id AS trial_id, 0 AS position, cubin_sha256 AS sha256 FROM " database                                      \
    ".trials WHERE cubin_sha256 IS NOT NULL"

/* What versions before 4 lack: everything was tried then, and nothing estimated. */
#define MOET_STORE_EFFORT_3 "2"
#define MOET_STORE_COST_MODELS_3                                                                                       \
    "SELECT 0 AS device_id, 0 AS points, 0.0 AS error, 0.0 AS tensor_flops_per_s, 0.0 AS l2_bytes_per_s, "             \
    "0.0 AS hbm_bytes_per_s, 0.0 AS store_bytes_per_s, 0.0 AS launches_per_s WHERE false"

/* Status and one-line message of an SQLite result code: names the file and the next step. */
moet_status moet_store_error(const moet_store *store, int code);

/* Prepares sql; runs a text of statements without results. */
moet_status moet_store_prepare(moet_store *store, const char *sql, sqlite3_stmt **statement);
moet_status moet_store_exec(moet_store *store, const char *sql);

/* One step; *row (may be NULL where no row can come): whether there is one. */
moet_status moet_store_step(moet_store *store, sqlite3_stmt *statement, bool *row);

/* BEGIN IMMEDIATE, with retries while another process writes. end commits if status is OK, otherwise rolls back, and
 * returns status or the commit's error. */
moet_status moet_store_begin(moet_store *store);
moet_status moet_store_end(moet_store *store, moet_status status);

/* "file:..." for SQLite from a path and "mode=ro" or the like, malloc'd. */
char *moet_store_uri(const char *path, const char *query);
/* Query with which the file at path can be attached for reading: "mode=ro", or with "&immutable=1" where its folder
 * cannot be written and nothing waits in a write-ahead log. */
const char *moet_store_read_query(const char *path);

/* The first number that a query gives; 0 where it gives no row. */
moet_status moet_store_query_integer(moet_store *store, const char *sql, int64_t *value);

/* The counts of a workload as the database holds them, a JSON array; malloc'd. */
moet_status moet_store_counts(const moet_workload *workload, char **text);

/* Writes the algorithms of a trial that was just inserted. library: its validator. (store_algorithms.c) */
moet_status moet_store_put_algorithms(moet_store *store, int64_t trial_id, const char *library,
                                      const moet_trial *trial);
/* Versions before 3 have no algorithms. */
#define MOET_STORE_ALGORITHMS_2 "SELECT 0 AS id, '' AS library, x'' AS bytes, '' AS text WHERE false"
#define MOET_STORE_TRIAL_ALGORITHMS_2 "SELECT 0 AS trial_id, 0 AS position, 0 AS rows, 0 AS algorithm_id WHERE false"

/* Versions before 5 have no profiles. */
#define MOET_STORE_PROFILES_4 "SELECT 0 AS trial_id, '' AS tool, '' AS measured_at WHERE false"
#define MOET_STORE_COUNTERS_4                                                                                          \
    "SELECT 0 AS trial_id, 0 AS position, '' AS kernel, '' AS metric, 0.0 AS value WHERE false"

/* Trials of the expert-parallel layer: what is not a row id. Versions before 6 have none. */
#define MOET_STORE_EP_COLUMNS(x)                                                                                       \
    x "ranks, " x "hosts, " x "choices, " x "returns, " x "tokens, " x "skew, " x "asked, " x "name, " x "busiest, " x \
      "choice, " x "is_default, " x "keeps_counts, " x "checked, " x "config, " x "table_hash, " x "median_ns, " x     \
      "noise_ns, " x "sample_count, " x "measured_at"
#define MOET_STORE_EP_TRIALS_5                                                                                         \
    "SELECT 0 AS id, 0 AS device_id, 0 AS problem_id, 0 AS run_id, 0 AS ranks, 0 AS hosts, 0 AS choices, "             \
    "'' AS returns, 0 AS tokens, '' AS skew, '' AS asked, '' AS name, 0 AS busiest, '' AS choice, 0 AS is_default, "   \
    "0 AS keeps_counts, 0 AS checked, '' AS config, '' AS table_hash, 0 AS median_ns, 0 AS noise_ns, "                 \
    "0 AS sample_count, '' AS measured_at WHERE false"
#define MOET_STORE_EP_SAMPLES_5 "SELECT 0 AS trial_id, '' AS part, 0 AS round, 0 AS time_ns WHERE false"

/* A column that holds an effort; MALFORMED where it is none. */
moet_status moet_store_read_effort(const moet_store *store, sqlite3_stmt *statement, int column, moet_effort *effort);

/* Never NULL. */
const char *moet_store_text(sqlite3_stmt *statement, int column);

#endif
