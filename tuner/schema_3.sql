-- Version 3: algorithms of vendor libraries.

-- Algorithms of vendor libraries: decoded, and as bytes that mean something to the version that made them.
CREATE TABLE algorithms (
    id INTEGER PRIMARY KEY,
    library TEXT NOT NULL, -- as trials.validator
    bytes BLOB NOT NULL,
    text TEXT NOT NULL, -- the fields, by names of the library
    UNIQUE (library, bytes)
) STRICT;

-- What a trial's config was prepared with, in the order in which its family lists it, from position 0.
CREATE TABLE trial_algorithms (
    trial_id INTEGER NOT NULL REFERENCES trials (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    rows INTEGER NOT NULL, -- of an expert, up to which it is used; 0: however many
    algorithm_id INTEGER NOT NULL REFERENCES algorithms (id),
    PRIMARY KEY (trial_id, position)
) STRICT, WITHOUT ROWID;
