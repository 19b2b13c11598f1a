-- Version 8: what computed wrong at one workload wins at none of its problem on that device, as launches bring workloads
-- that nobody checked.

CREATE INDEX wrong_by_config ON trials (device_id, config) WHERE status = 'wrong';

-- problem: the key of the problem without its tokens.
CREATE VIEW wrong_trials AS
SELECT w.device_id, substr(q.key, 1, instr(q.key || ',tokens=', ',tokens=') - 1) AS problem, w.config, w.family_version,
    w.validator
FROM trials w JOIN problems q ON q.id = w.problem_id
WHERE w.status = 'wrong';

-- Ids of trials of what was wrong at any workload of the problem, whatever its tokens. A newer version of a family, or of
-- its library, is another candidate.
CREATE VIEW suspects AS
SELECT t.id FROM trials t JOIN problems p ON p.id = t.problem_id
WHERE EXISTS (
    SELECT 1 FROM wrong_trials w
    WHERE w.device_id = t.device_id AND w.config = t.config AND w.family_version = t.family_version
        AND w.validator = t.validator
        AND w.problem = substr(p.key, 1, instr(p.key || ',tokens=', ',tokens=') - 1));

DROP VIEW winners;
DROP VIEW candidates;

-- What is compared: ok trials under each kind that they serve. kind_default: the family default of that kind. Those that
-- may win are eligible: no suspects, and where some of these have final rounds, none of the others; but all of them where
-- suspects took the places in the final rounds, so that only defaults have some.
CREATE VIEW candidates AS
SELECT *,
    first_value(median_ns) OVER fastest AS fastest_ns,
    first_value(noise_ns) OVER fastest AS fastest_noise_ns
FROM (
    SELECT *,
        NOT is_suspect AND final_rounds >= CASE
            WHEN max(is_suspect AND final_rounds) OVER point
                AND NOT max(NOT is_suspect AND NOT is_default AND final_rounds) OVER point THEN 0
            ELSE max(CASE WHEN NOT is_suspect THEN final_rounds END) OVER point END AS eligible
    FROM (
        SELECT t.*, k.kind,
            t.is_default AND t.device_counts = (k.kind = 'device_counts') AS kind_default,
            EXISTS (SELECT 1 FROM suspects s WHERE s.id = t.id) AS is_suspect
        FROM current_trials t
        JOIN (SELECT 'any' AS kind UNION ALL SELECT 'device_counts') k ON k.kind = 'any' OR t.device_counts
        WHERE t.status = 'ok' AND t.median_ns > 0)
    WINDOW point AS (PARTITION BY device_id, problem_id, workload_id, kind))
WINDOW fastest AS (
    PARTITION BY device_id, problem_id, workload_id, kind
    ORDER BY eligible DESC, median_ns, config, device_counts);

-- As in version 7, but that neither the winner nor the runner-up is a suspect. The default may be one: it is what runs
-- without a table.
CREATE VIEW winners AS
SELECT device_id, problem_id, workload_id, kind, id AS trial_id, runner_up_id, default_id
FROM (
    SELECT device_id, problem_id, workload_id, kind, id, place, is_suspect,
        max(CASE WHEN rival = 1 AND config <> winner_config AND NOT is_suspect THEN id END) OVER everything AS runner_up_id,
        max(CASE WHEN latest = 1 AND kind_default THEN id END) OVER everything AS default_id
    FROM (
        SELECT *,
            row_number() OVER (
                PARTITION BY device_id, problem_id, workload_id, kind
                ORDER BY config = winner_config OR is_suspect, eligible DESC, median_ns, config, device_counts) AS rival,
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
WHERE place = 1 AND NOT is_suspect;
