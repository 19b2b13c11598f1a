-- Schema of a moe-tune database, version 1: the first migration step.
--
-- A row is known by its content, never by its row id, so that databases of several machines merge in any order.
-- Times are integer nanoseconds, booleans 0 or 1, moments UTC text in ISO 8601.

-- What makes a device's key (and some limits). What changes with a run (driver, ceilings) is in runs.
CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    backend TEXT NOT NULL,
    name TEXT NOT NULL,
    cc_major INTEGER NOT NULL,
    cc_minor INTEGER NOT NULL,
    sm_count INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    power_limit_mw INTEGER NOT NULL,
    partition TEXT NOT NULL,
    smem_per_block_optin_bytes INTEGER NOT NULL,
    smem_per_sm_bytes INTEGER NOT NULL,
    regs_per_sm INTEGER NOT NULL,
    l2_bytes INTEGER NOT NULL
) STRICT;

-- Provenance: one row a process that measured.
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE, -- random
    device_id INTEGER NOT NULL REFERENCES devices (id),
    started_at TEXT NOT NULL,
    command TEXT NOT NULL,
    revision TEXT NOT NULL,
    libraries TEXT NOT NULL,
    driver TEXT NOT NULL,
    driver_cuda_version INTEGER NOT NULL,
    dense_flops_per_s REAL NOT NULL,
    copy_bytes_per_s REAL NOT NULL,
    read_bytes_per_s REAL NOT NULL
) STRICT;

CREATE TABLE problems (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
) STRICT;

-- A routing of a shape, whatever it is called: unique by experts, hidden, inter and counts.
CREATE TABLE workloads (
    id INTEGER PRIMARY KEY,
    experts INTEGER NOT NULL,
    hidden INTEGER NOT NULL,
    inter INTEGER NOT NULL,
    counts TEXT NOT NULL, -- JSON array
    rows INTEGER NOT NULL,
    active INTEGER NOT NULL,
    max INTEGER NOT NULL,
    max_over_mean REAL NOT NULL,
    gini REAL NOT NULL,
    UNIQUE (counts, hidden, inter)
) STRICT;

-- What workloads were called where they came from. Reports show the first in this order.
CREATE TABLE workload_names (
    workload_id INTEGER NOT NULL REFERENCES workloads (id),
    name TEXT NOT NULL,
    skew TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    PRIMARY KEY (workload_id, name, skew, tokens, seed)
) STRICT, WITHOUT ROWID;

CREATE TABLE cubins (
    sha256 TEXT NOT NULL PRIMARY KEY,
    arch TEXT NOT NULL,
    bytes BLOB NOT NULL
) STRICT;

-- One candidate measured on one workload. The UNIQUE columns are the identity by which a sweep resumes.
CREATE TABLE trials (
    id INTEGER PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices (id),
    problem_id INTEGER NOT NULL REFERENCES problems (id),
    workload_id INTEGER NOT NULL REFERENCES workloads (id),
    config TEXT NOT NULL,
    device_counts INTEGER NOT NULL,
    family_version INTEGER NOT NULL,
    validator TEXT NOT NULL,
    family TEXT NOT NULL, -- of config
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    median_ns INTEGER NOT NULL,
    noise_ns INTEGER NOT NULL,
    sample_count INTEGER NOT NULL,
    floor_ns REAL,   -- NULL in a REAL: not a number
    efficiency REAL,
    error REAL,
    bit_class TEXT NOT NULL,
    is_default INTEGER NOT NULL,
    final_rounds INTEGER NOT NULL,
    eager INTEGER NOT NULL,
    measured_at TEXT NOT NULL,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    cubin_sha256 TEXT REFERENCES cubins (sha256),
    UNIQUE (workload_id, problem_id, device_id, config, device_counts, family_version, validator)
) STRICT;
CREATE INDEX trials_by_run ON trials (run_id);
CREATE INDEX trials_by_family ON trials (
    workload_id, problem_id, device_id, family, family_version, validator, measured_at);

CREATE TABLE samples (
    trial_id INTEGER NOT NULL REFERENCES trials (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    round INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    dense_ns INTEGER NOT NULL,
    dense2_ns INTEGER NOT NULL,
    copy_ns INTEGER NOT NULL,
    read_ns INTEGER NOT NULL,
    sm_mhz INTEGER NOT NULL,
    power_mw INTEGER NOT NULL,
    throttle_reasons INTEGER NOT NULL,
    hardware_slowdown INTEGER NOT NULL,
    PRIMARY KEY (trial_id, position)
) STRICT, WITHOUT ROWID;

-- Workloads that need no further visit for a set of candidates.
CREATE TABLE done (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    problem_id INTEGER NOT NULL REFERENCES problems (id),
    workload_id INTEGER NOT NULL REFERENCES workloads (id),
    candidates TEXT NOT NULL, -- hash of the set
    run_id INTEGER NOT NULL REFERENCES runs (id),
    PRIMARY KEY (workload_id, problem_id, device_id, candidates)
) STRICT, WITHOUT ROWID;

-- The newest generation of each family on a workload: a newer family version or library makes the trials of an older
-- one stale, though they stay.
CREATE VIEW current_trials AS
SELECT t.id, t.device_id, t.problem_id, t.workload_id, t.config, t.device_counts, t.status, t.median_ns, t.noise_ns,
    t.is_default, t.final_rounds, t.measured_at
FROM (
    SELECT *, row_number() OVER (
        PARTITION BY workload_id, problem_id, device_id, family
        ORDER BY family_version DESC, latest DESC, validator) AS place
    FROM (
        SELECT workload_id, problem_id, device_id, family, family_version, validator, max(measured_at) AS latest
        FROM trials
        GROUP BY workload_id, problem_id, device_id, family, family_version, validator)) g
JOIN trials t ON t.workload_id = g.workload_id AND t.problem_id = g.problem_id AND t.device_id = g.device_id
    AND t.family = g.family AND t.family_version = g.family_version AND t.validator = g.validator
WHERE g.place = 1;

-- What may win: ok trials under each kind that they serve. kind_default: the family default of that kind. Where some
-- have final rounds, the others are not eligible.
CREATE VIEW candidates AS
SELECT *,
    first_value(median_ns) OVER fastest AS fastest_ns,
    first_value(noise_ns) OVER fastest AS fastest_noise_ns
FROM (
    SELECT t.*, k.kind,
        t.is_default AND t.device_counts = (k.kind = 'device_counts') AS kind_default,
        t.final_rounds = max(t.final_rounds) OVER (
            PARTITION BY t.device_id, t.problem_id, t.workload_id, k.kind) AS eligible
    FROM current_trials t
    JOIN (SELECT 'any' AS kind UNION ALL SELECT 'device_counts') k ON k.kind = 'any' OR t.device_counts
    WHERE t.status = 'ok' AND t.median_ns > 0)
WINDOW fastest AS (
    PARTITION BY device_id, problem_id, workload_id, kind
    ORDER BY eligible DESC, median_ns, config, device_counts);

-- One row a device, problem, workload and kind. A tie is within max(1 %, both noises) of the fastest; ties go to the
-- default, then to the lower config. The runner-up is the fastest of another config; the default the latest measured.
-- Ids are of trials; runner_up_id and default_id may be NULL. All windows have one partition, and nothing is grouped, so
-- that a condition on workload_id reaches the tables.
CREATE VIEW winners AS
SELECT device_id, problem_id, workload_id, kind, id AS trial_id, runner_up_id, default_id
FROM (
    SELECT device_id, problem_id, workload_id, kind, id, place,
        max(CASE WHEN rival = 1 AND config <> winner_config THEN id END) OVER everything AS runner_up_id,
        max(CASE WHEN latest = 1 AND kind_default THEN id END) OVER everything AS default_id
    FROM (
        SELECT *,
            row_number() OVER (
                PARTITION BY device_id, problem_id, workload_id, kind
                ORDER BY config = winner_config, eligible DESC, median_ns, config, device_counts) AS rival,
            row_number() OVER (
                PARTITION BY device_id, problem_id, workload_id, kind
                ORDER BY kind_default DESC, eligible DESC, measured_at DESC, config) AS latest
        FROM (
            SELECT *,
                row_number() OVER winning AS place,
                first_value(config) OVER winning AS winner_config
            FROM candidates
            WINDOW winning AS (
                PARTITION BY device_id, problem_id, workload_id, kind
                ORDER BY eligible DESC,
                    100 * (median_ns - fastest_ns) <= max(fastest_ns, 100 * noise_ns, 100 * fastest_noise_ns) DESC,
                    kind_default DESC, config, device_counts)))
    WINDOW everything AS (PARTITION BY device_id, problem_id, workload_id, kind))
WHERE place = 1;
