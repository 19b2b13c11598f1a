-- Version 5: what a profiler counted of a trial's kernels. Beside the trial, never part of it: times under a profiler are
-- none of its samples, and a trial that is measured again has none until it is profiled again.

CREATE TABLE profiles (
    trial_id INTEGER PRIMARY KEY REFERENCES trials (id) ON DELETE CASCADE,
    tool TEXT NOT NULL, -- "ncu"
    measured_at TEXT NOT NULL
) STRICT;

-- One counter of one kernel of the launch, under the tool's own name; ns, bytes, percent or as the name says.
CREATE TABLE counters (
    trial_id INTEGER NOT NULL REFERENCES profiles (trial_id) ON DELETE CASCADE,
    position INTEGER NOT NULL, -- of the kernel in the launch
    kernel TEXT NOT NULL,
    metric TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (trial_id, position, metric)
) STRICT, WITHOUT ROWID;
