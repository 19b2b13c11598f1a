/* Merging databases by content. Row ids of the two files have nothing to do with each other: every reference goes by
 * the referred row's own identity. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store_internal.h"

/* Which of two trials with one identity stays is a total order over their content, hence merging commutes. One that was
 * wrong says more than any time. */
#define RANK(trial, run)                                                                                               \
    "(" trial ".status <> 'wrong', -" trial ".final_rounds, -" run ".effort, -" trial ".sample_count, " trial          \
    ".median_ns, " run ".uid, " trial ".measured_at)"

#define EP_RANK(trial, run)                                                                                            \
    "(-" trial ".sample_count, " trial ".median_ns, " run ".uid, " trial ".measured_at)"

/* What versions differ in, whatever the source's; the indices are versions. */
#define CUBINS "CREATE TEMP VIEW source_cubins AS SELECT trial_id, position, sha256 FROM source.trial_cubins;"
#define ALGORITHMS(trial_algorithms, algorithms)                                                                       \
    "CREATE TEMP VIEW source_algorithms AS SELECT t.trial_id, t.position, t.rows, a.library, a.bytes, a.text "         \
    "FROM " trial_algorithms " t JOIN " algorithms " a ON a.id = t.algorithm_id;"
#define ALGORITHMS_2 ALGORITHMS("(" MOET_STORE_TRIAL_ALGORITHMS_2 ")", "(" MOET_STORE_ALGORITHMS_2 ")")
#define ALGORITHMS_3 ALGORITHMS("source.trial_algorithms", "source.algorithms")
#define EFFORTS_3                                                                                                      \
    "CREATE TEMP VIEW source_runs AS SELECT *, " MOET_STORE_EFFORT_3 " AS effort FROM source.runs;"                    \
    "CREATE TEMP VIEW source_done AS SELECT *, " MOET_STORE_EFFORT_3 " AS effort FROM source.done;"                    \
    "CREATE TEMP VIEW source_costs AS " MOET_STORE_COST_MODELS_3
#define EFFORTS_4                                                                                                      \
    "CREATE TEMP VIEW source_runs AS SELECT * FROM source.runs;"                                                       \
    "CREATE TEMP VIEW source_done AS SELECT * FROM source.done;"                                                       \
    "CREATE TEMP VIEW source_costs AS SELECT * FROM source.cost_models"
#define PROFILES(profiles, counters)                                                                                   \
    ";CREATE TEMP VIEW source_profiles AS " profiles ";CREATE TEMP VIEW source_counters AS " counters
#define PROFILES_4 PROFILES(MOET_STORE_PROFILES_4, MOET_STORE_COUNTERS_4)
#define EP(trials, samples)                                                                                            \
    ";CREATE TEMP VIEW source_ep_trials AS " trials ";CREATE TEMP VIEW source_ep_samples AS " samples
#define EP_5 EP(MOET_STORE_EP_TRIALS_5, MOET_STORE_EP_SAMPLES_5)
#define EP_6 EP("SELECT * FROM source.ep_trials", "SELECT * FROM source.ep_samples")
#define PROFILES_5 PROFILES("SELECT * FROM source.profiles", "SELECT * FROM source.counters")
static const char *const source_views[] = {
    [1] = "CREATE TEMP VIEW source_cubins AS " MOET_STORE_TRIAL_CUBINS_1("source") ";" ALGORITHMS_2 EFFORTS_3 PROFILES_4 EP_5,
    [2] = CUBINS ALGORITHMS_2 EFFORTS_3 PROFILES_4 EP_5,
    [3] = CUBINS ALGORITHMS_3 EFFORTS_3 PROFILES_4 EP_5,
    [4] = CUBINS ALGORITHMS_3 EFFORTS_4 PROFILES_4 EP_5,
    [5] = CUBINS ALGORITHMS_3 EFFORTS_4 PROFILES_5 EP_5,
    [6] = CUBINS ALGORITHMS_3 EFFORTS_4 PROFILES_5 EP_6,
    [7] = CUBINS ALGORITHMS_3 EFFORTS_4 PROFILES_5 EP_6,
    [8] = CUBINS ALGORITHMS_3 EFFORTS_4 PROFILES_5 EP_6,
};
_Static_assert(sizeof source_views / sizeof source_views[0] == MOET_STORE_VERSION + 1, "views a version");

#define COSTS "tensor_flops_per_s, l2_bytes_per_s, hbm_bytes_per_s, store_bytes_per_s, launches_per_s"
#define COSTS_OF(table)                                                                                                \
    table ".tensor_flops_per_s, " table ".l2_bytes_per_s, " table ".hbm_bytes_per_s, " table ".store_bytes_per_s, " table  \
          ".launches_per_s"
static const char *const steps[] = {
    "INSERT INTO main.devices (key, backend, name, cc_major, cc_minor, sm_count, memory_bytes, power_limit_mw, "
    "partition, smem_per_block_optin_bytes, smem_per_sm_bytes, regs_per_sm, l2_bytes) "
    "SELECT key, backend, name, cc_major, cc_minor, sm_count, memory_bytes, power_limit_mw, partition, "
    "smem_per_block_optin_bytes, smem_per_sm_bytes, regs_per_sm, l2_bytes FROM source.devices WHERE "
    "true " MOET_STORE_DEVICE_CONFLICT,

    "INSERT OR IGNORE INTO main.problems (key) SELECT key FROM source.problems",

    "INSERT OR IGNORE INTO main.workloads (experts, hidden, inter, counts, rows, active, max, max_over_mean, gini) "
    "SELECT experts, hidden, inter, counts, rows, active, max, max_over_mean, gini FROM source.workloads",

    "INSERT OR IGNORE INTO main.runs (uid, device_id, started_at, command, revision, libraries, driver, "
    "driver_cuda_version, dense_flops_per_s, copy_bytes_per_s, read_bytes_per_s, effort) "
    "SELECT s.uid, d.id, s.started_at, s.command, s.revision, s.libraries, s.driver, s.driver_cuda_version, "
    "s.dense_flops_per_s, s.copy_bytes_per_s, s.read_bytes_per_s, s.effort FROM source_runs s "
    "JOIN source.devices sd ON sd.id = s.device_id JOIN main.devices d ON d.key = sd.key",

    "INSERT OR IGNORE INTO main.cubins (sha256, arch, bytes) SELECT sha256, arch, bytes FROM source.cubins",

    /* ids of the source and ours, side by side */
    "CREATE TEMP TABLE device_ids AS SELECT s.id AS theirs, d.id AS ours FROM source.devices s "
    "JOIN main.devices d ON d.key = s.key",
    "CREATE TEMP TABLE problem_ids AS SELECT s.id AS theirs, p.id AS ours FROM source.problems s "
    "JOIN main.problems p ON p.key = s.key",
    "CREATE TEMP TABLE workload_ids AS SELECT s.id AS theirs, w.id AS ours FROM source.workloads s "
    "JOIN main.workloads w ON w.counts = s.counts AND w.hidden = s.hidden AND w.inter = s.inter",
    "CREATE TEMP TABLE run_ids AS SELECT s.id AS theirs, r.id AS ours FROM source.runs s "
    "JOIN main.runs r ON r.uid = s.uid",

    "INSERT OR IGNORE INTO main.workload_names (workload_id, name, skew, tokens, seed) "
    "SELECT w.ours, s.name, s.skew, s.tokens, s.seed FROM source.workload_names s "
    "JOIN workload_ids w ON w.theirs = s.workload_id",

    "INSERT INTO main.done (device_id, problem_id, workload_id, candidates, run_id, effort) "
    "SELECT d.ours, p.ours, w.ours, s.candidates, r.ours, s.effort FROM source_done s "
    "JOIN device_ids d ON d.theirs = s.device_id JOIN problem_ids p ON p.theirs = s.problem_id "
    "JOIN workload_ids w ON w.theirs = s.workload_id JOIN run_ids r ON r.theirs = s.run_id WHERE true "
    "ON CONFLICT DO UPDATE SET run_id = excluded.run_id, effort = excluded.effort "
    "WHERE (-excluded.effort, (SELECT uid FROM main.runs WHERE id = excluded.run_id)) "
    "< (-done.effort, (SELECT uid FROM main.runs WHERE id = done.run_id))",

    "INSERT INTO main.cost_models (device_id, points, error, " COSTS ") "
    "SELECT d.ours, s.points, s.error, " COSTS
    " FROM source_costs s JOIN device_ids d ON d.theirs = s.device_id WHERE true "
    "ON CONFLICT DO UPDATE SET (points, error, " COSTS ") = (excluded.points, excluded.error, " COSTS_OF(
        "excluded") ") "
                    "WHERE (-excluded.points, excluded.error, " COSTS_OF(
                        "excluded") ") < (-cost_models.points, cost_models.error, " COSTS_OF("cost_models") ")",

    "CREATE TEMP TABLE incoming AS "
    "SELECT s.id AS theirs, o.id AS replaced, d.ours AS device_id, p.ours AS problem_id, w.ours AS workload_id, "
    "r.ours AS run_id FROM source.trials s "
    "JOIN device_ids d ON d.theirs = s.device_id JOIN problem_ids p ON p.theirs = s.problem_id "
    "JOIN workload_ids w ON w.theirs = s.workload_id JOIN run_ids r ON r.theirs = s.run_id "
    "JOIN source_runs sr ON sr.id = s.run_id "
    "LEFT JOIN main.trials o ON o.workload_id = w.ours AND o.problem_id = p.ours AND o.device_id = d.ours "
    "AND o.config = s.config AND o.device_counts = s.device_counts AND o.family_version = s.family_version "
    "AND o.validator = s.validator LEFT JOIN main.runs oor ON oor.id = o.run_id "
    "WHERE o.id IS NULL OR " RANK("s", "sr") " < " RANK("o", "oor"),

    "DELETE FROM main.trials WHERE id IN (SELECT replaced FROM incoming WHERE replaced IS NOT NULL)",
    "CREATE TEMP TABLE base AS SELECT coalesce(max(id), 0) AS id FROM main.trials",

    "INSERT INTO main.trials (id, device_id, problem_id, workload_id, config, device_counts, family_version, "
    "validator, family, status, reason, median_ns, noise_ns, sample_count, floor_ns, efficiency, error, bit_class, "
    "is_default, final_rounds, eager, measured_at, run_id) "
    "SELECT base.id + i.rowid, i.device_id, i.problem_id, i.workload_id, s.config, s.device_counts, s.family_version, "
    "s.validator, s.family, s.status, s.reason, s.median_ns, s.noise_ns, s.sample_count, s.floor_ns, s.efficiency, "
    "s.error, s.bit_class, s.is_default, s.final_rounds, s.eager, s.measured_at, i.run_id "
    "FROM base, incoming i JOIN source.trials s ON s.id = i.theirs",

    "INSERT INTO main.trial_cubins (trial_id, position, sha256) "
    "SELECT base.id + i.rowid, s.position, s.sha256 "
    "FROM base, incoming i JOIN source_cubins s ON s.trial_id = i.theirs",

    "INSERT OR IGNORE INTO main.algorithms (library, bytes, text) SELECT s.library, s.bytes, s.text "
    "FROM incoming i JOIN source_algorithms s ON s.trial_id = i.theirs ORDER BY s.library, s.bytes, s.text",
    "INSERT INTO main.trial_algorithms (trial_id, position, rows, algorithm_id) "
    "SELECT base.id + i.rowid, s.position, s.rows, a.id "
    "FROM base, incoming i JOIN source_algorithms s ON s.trial_id = i.theirs "
    "JOIN main.algorithms a ON a.library = s.library AND a.bytes = s.bytes",

    "INSERT INTO main.samples (trial_id, position, round, time_ns, dense_ns, dense2_ns, copy_ns, read_ns, sm_mhz, "
    "power_mw, throttle_reasons, hardware_slowdown) "
    "SELECT base.id + i.rowid, s.position, s.round, s.time_ns, s.dense_ns, s.dense2_ns, s.copy_ns, s.read_ns, "
    "s.sm_mhz, s.power_mw, s.throttle_reasons, s.hardware_slowdown "
    "FROM base, incoming i JOIN source.samples s ON s.trial_id = i.theirs",

    /* A profile is of one measurement: a trial that was measured at another time has none of it. Of two profiles of one
     * trial the later stays. */
    "CREATE TEMP TABLE profiled AS SELECT s.trial_id AS theirs, o.id AS ours FROM source_profiles s "
    "JOIN source.trials t ON t.id = s.trial_id JOIN device_ids d ON d.theirs = t.device_id "
    "JOIN problem_ids p ON p.theirs = t.problem_id JOIN workload_ids w ON w.theirs = t.workload_id "
    "JOIN run_ids r ON r.theirs = t.run_id "
    "JOIN main.trials o ON o.workload_id = w.ours AND o.problem_id = p.ours AND o.device_id = d.ours "
    "AND o.config = t.config AND o.device_counts = t.device_counts AND o.family_version = t.family_version "
    "AND o.validator = t.validator AND o.run_id = r.ours AND o.measured_at = t.measured_at "
    "LEFT JOIN main.profiles m ON m.trial_id = o.id "
    "WHERE m.trial_id IS NULL OR (s.measured_at, s.tool) > (m.measured_at, m.tool)",
    "DELETE FROM main.profiles WHERE trial_id IN (SELECT ours FROM profiled)",
    "INSERT INTO main.profiles (trial_id, tool, measured_at) SELECT p.ours, s.tool, s.measured_at "
    "FROM profiled p JOIN source_profiles s ON s.trial_id = p.theirs",
    "INSERT INTO main.counters (trial_id, position, kernel, metric, value) "
    "SELECT p.ours, s.position, s.kernel, s.metric, s.value "
    "FROM profiled p JOIN source_counters s ON s.trial_id = p.theirs",

    "CREATE TEMP TABLE ep_incoming AS SELECT s.id AS theirs, o.id AS replaced, d.ours AS device_id, "
    "p.ours AS problem_id, r.ours AS run_id FROM source_ep_trials s "
    "JOIN device_ids d ON d.theirs = s.device_id JOIN problem_ids p ON p.theirs = s.problem_id "
    "JOIN run_ids r ON r.theirs = s.run_id JOIN source_runs sr ON sr.id = s.run_id "
    "LEFT JOIN main.ep_trials o ON o.device_id = d.ours AND o.problem_id = p.ours AND o.ranks = s.ranks "
    "AND o.hosts = s.hosts AND o.choices = s.choices AND o.returns = s.returns AND o.tokens = s.tokens "
    "AND o.skew = s.skew AND o.asked = s.asked LEFT JOIN main.runs oor ON oor.id = o.run_id "
    "WHERE o.id IS NULL OR " EP_RANK("s", "sr") " < " EP_RANK("o", "oor"),
    "DELETE FROM main.ep_trials WHERE id IN (SELECT replaced FROM ep_incoming WHERE replaced IS NOT NULL)",
    "CREATE TEMP TABLE ep_base AS SELECT coalesce(max(id), 0) AS id FROM main.ep_trials",
    "INSERT INTO main.ep_trials (id, device_id, problem_id, run_id, " MOET_STORE_EP_COLUMNS(
        "") ") "
            "SELECT ep_base.id + i.rowid, i.device_id, i.problem_id, i.run_id, " MOET_STORE_EP_COLUMNS(
                "s.") " "
                      "FROM ep_base, ep_incoming i JOIN source_ep_trials s ON s.id = i.theirs",
    "INSERT INTO main.ep_samples (trial_id, part, round, time_ns) "
    "SELECT ep_base.id + i.rowid, s.part, s.round, s.time_ns "
    "FROM ep_base, ep_incoming i JOIN source_ep_samples s ON s.trial_id = i.theirs",
};

static moet_status count_incoming(moet_store *into, int64_t *added)
{
    sqlite3_stmt *s = NULL;
    MOET_TRY(moet_store_prepare(into, "SELECT (SELECT count(*) FROM incoming) + (SELECT count(*) FROM ep_incoming)", &s));
    moet_status status = moet_store_step(into, s, NULL);
    if (status == MOET_OK) *added = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return status;
}

/* Inside one transaction: temporary tables included, which a rollback takes back. */
static moet_status copy_all(moet_store *into, int64_t *added)
{
    /* Asked again inside the transaction: another process may have migrated the source meanwhile. */
    int64_t version = 0;
    MOET_TRY(moet_store_query_integer(into, "PRAGMA source.user_version", &version));
    if (version < 1 || version > MOET_STORE_VERSION)
        return moet_fail(MOET_MISMATCH,
                         "merge: the source's version became %lld meanwhile, this program knows up to %d",
                         (long long)version, MOET_STORE_VERSION);
    MOET_TRY(moet_store_exec(into, source_views[version]));
    for (int32_t i = 0; i < MOET_COUNT_OF(steps); i++) MOET_TRY(moet_store_exec(into, steps[i]));
    MOET_TRY(count_incoming(into, added));
    return moet_store_exec(into, "DROP TABLE device_ids; DROP TABLE problem_ids; DROP TABLE workload_ids; "
                                 "DROP TABLE run_ids; DROP TABLE incoming; DROP TABLE base; DROP VIEW source_cubins; "
                                 "DROP VIEW source_algorithms; DROP VIEW source_runs; DROP VIEW source_done; "
                                 "DROP VIEW source_costs; "
                                 "DROP TABLE profiled; DROP VIEW source_profiles; DROP VIEW source_counters; "
                                 "DROP TABLE ep_incoming; DROP TABLE ep_base; DROP VIEW source_ep_trials; "
                                 "DROP VIEW source_ep_samples;");
}

static moet_status attach(moet_store *into, const char *path)
{
    sqlite3_stmt *s = NULL;
    char *uri = moet_store_uri(path, moet_store_read_query(path));
    moet_status status = uri ? moet_store_prepare(into, "ATTACH ?1 AS source", &s)
                             : moet_fail(MOET_NO_MEMORY, "database '%s': out of memory", path);
    if (status == MOET_OK) {
        sqlite3_bind_text(s, 1, uri, -1, SQLITE_STATIC);
        status = moet_store_step(into, s, NULL);
    }
    sqlite3_finalize(s);
    free(uri);
    return status;
}

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int not_ok(void *damaged, int columns, char **values, char **names)
{
    (void)columns;
    (void)names;
    *(bool *)damaged = values[0] == NULL || strcmp(values[0], "ok") != 0;
    return 0;
}

/* SQLite does not say in which of two attached files it met what it could not read: the source, if it is damaged. */
static moet_status blame(moet_store *from, moet_status status)
{
    bool damaged = false;
    if (status != MOET_MALFORMED && status != MOET_IO) return status;
    int code = sqlite3_exec(from->db, "PRAGMA main.quick_check(1)", not_ok, &damaged, NULL);
    if (code == SQLITE_OK && !damaged) return status;
    return moet_store_error(from, code == SQLITE_OK ? SQLITE_CORRUPT : code);
}

moet_status moet_store_merge(moet_store *into, const char *from_path, int64_t *added)
{
    moet_store *from = NULL;
    int64_t count = 0;
    /* Opened by itself first: it must be one of ours, and it stays open so that it is not gone before it is attached.
     */
    MOET_TRY(moet_store_open(from_path, MOET_STORE_SOURCE, &from));
    moet_status status = MOET_OK;
    if (!same_file(into->path, from_path)) {
        status = attach(into, from_path);
        if (status == MOET_OK) {
            status = moet_store_begin(into);
            if (status == MOET_OK) status = moet_store_end(into, copy_all(into, &count));
            sqlite3_exec(into->db, "DETACH source", NULL, NULL, NULL);
        }
        status = blame(from, status);
    }
    moet_store_close(from);
    if (status == MOET_OK && added) *added = count;
    return status;
}
