-- Version 4: results carry the effort of the search that gave them, and a device its cost model.

-- 0 quick, 1 normal, 2 exhaustive (tuner/effort.h). What was there before had tried everything.
ALTER TABLE runs ADD COLUMN effort INTEGER NOT NULL DEFAULT 2;
ALTER TABLE done ADD COLUMN effort INTEGER NOT NULL DEFAULT 2;

-- Rates that were fitted to measured times (tuner/cost_fit.h); error: root mean square of ln(estimate / time).
CREATE TABLE cost_models (
    device_id INTEGER PRIMARY KEY REFERENCES devices (id),
    points INTEGER NOT NULL,
    error REAL NOT NULL,
    tensor_flops_per_s REAL NOT NULL,
    l2_bytes_per_s REAL NOT NULL,
    hbm_bytes_per_s REAL NOT NULL,
    store_bytes_per_s REAL NOT NULL,
    launches_per_s REAL NOT NULL
) STRICT;
