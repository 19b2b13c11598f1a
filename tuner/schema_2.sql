-- Version 2: a config may have several compiled kernels. Version 1 held one in trials.cubin_sha256.

-- A trial's kernels in the order in which its family lists them, from position 0.
CREATE TABLE trial_cubins (
    trial_id INTEGER NOT NULL REFERENCES trials (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    sha256 TEXT NOT NULL REFERENCES cubins (sha256),
    PRIMARY KEY (trial_id, position)
) STRICT, WITHOUT ROWID;

INSERT INTO trial_cubins (trial_id, position, sha256)
SELECT id, 0, cubin_sha256 FROM trials WHERE cubin_sha256 IS NOT NULL;

ALTER TABLE trials DROP COLUMN cubin_sha256;
