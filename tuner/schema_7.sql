-- Version 7: what is slower than the default never wins. Noise alone, its own, made a slow candidate a tie of the fastest,
-- and where the default was none the lower config won.

DROP VIEW winners;

-- One row a device, problem, workload and kind. A tie is within max(1 %, both noises) of the fastest, and no slower than
-- the default; ties go to the default, then to the lower config. The runner-up is the fastest of another config; the
-- default the latest measured. Ids are of trials; runner_up_id and default_id may be NULL. All windows have one
-- partition, and nothing is grouped, so that a condition on workload_id reaches the tables.
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
            FROM (
                SELECT *,
                    min(CASE WHEN kind_default AND eligible THEN median_ns END) OVER (
                        PARTITION BY device_id, problem_id, workload_id, kind) AS default_ns
                FROM candidates)
            WINDOW winning AS (
                PARTITION BY device_id, problem_id, workload_id, kind
                ORDER BY eligible DESC,
                    100 * (median_ns - fastest_ns) <= max(fastest_ns, 100 * noise_ns, 100 * fastest_noise_ns)
                        AND median_ns <= coalesce(default_ns, median_ns) DESC,
                    kind_default DESC, config, device_counts)))
    WINDOW everything AS (PARTITION BY device_id, problem_id, workload_id, kind))
WHERE place = 1;
