-- Version 6: trials of the expert-parallel layer over several ranks (docs/ep.md).

-- One way of running the layer at one point. The UNIQUE columns are the identity by which `moe-tune ep --db` resumes;
-- routing is drawn from skew and ranks by fixed seeds.
CREATE TABLE ep_trials (
    id INTEGER PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices (id), -- of rank 0
    problem_id INTEGER NOT NULL REFERENCES problems (id), -- of one rank: its local experts
    ranks INTEGER NOT NULL,
    hosts INTEGER NOT NULL, -- that the ranks are on
    choices INTEGER NOT NULL, -- experts of a token
    returns TEXT NOT NULL,
    tokens INTEGER NOT NULL, -- on each rank
    skew TEXT NOT NULL,
    asked TEXT NOT NULL, -- how it was to be run, "transport=auto,chunks=1,comm_sms=0"
    name TEXT NOT NULL, -- of the shape, for people
    busiest INTEGER NOT NULL, -- expert rows of the busiest rank, of ranks * tokens * choices in all
    choice TEXT NOT NULL, -- how it was run: as asked, with what was open resolved
    is_default INTEGER NOT NULL, -- what moet_ep_create takes without a table
    keeps_counts INTEGER NOT NULL, -- timed without the wait for the other ranks' counts, which a graph cannot have
    checked INTEGER NOT NULL, -- bits were compared with one rank's
    config TEXT NOT NULL, -- of the experts, on rank 0
    table_hash TEXT NOT NULL, -- of the experts' table; '' for none
    median_ns INTEGER NOT NULL, -- of the slowest rank's time, over the rounds
    noise_ns INTEGER NOT NULL,
    sample_count INTEGER NOT NULL,
    measured_at TEXT NOT NULL,
    run_id INTEGER NOT NULL REFERENCES runs (id),
    UNIQUE (device_id, problem_id, ranks, hosts, choices, returns, tokens, skew, asked)
) STRICT;

-- Of each round the slowest rank's time. Parts alone ('dispatch', 'experts', 'combine') are of trials in one chunk.
CREATE TABLE ep_samples (
    trial_id INTEGER NOT NULL REFERENCES ep_trials (id) ON DELETE CASCADE,
    part TEXT NOT NULL, -- 'layer': all of it
    round INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    PRIMARY KEY (trial_id, part, round)
) STRICT, WITHOUT ROWID;
