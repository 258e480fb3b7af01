-- Keys of data subjects. Nothing is ever deleted here, and nothing grows: a key is overwritten where it stands, so that no copy
-- of it stays behind in a page that SQLite moved it out of. Rows are appended, which moves none of those before.
CREATE TABLE ap_subject_keys (
    number INTEGER PRIMARY KEY,
    -- 0 once the key is destroyed: `sealed` is zeros then.
    live INTEGER NOT NULL CHECK (live = 0 OR live = 1),
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    -- Keyed hash of the subject.
    subject BLOB NOT NULL CHECK (length(subject) = 32),
    -- The root key it is wrapped under.
    root BLOB NOT NULL CHECK (length(root) = 16),
    created INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX ap_subject_keys_id ON ap_subject_keys (project, id);
CREATE UNIQUE INDEX ap_subject_keys_subject ON ap_subject_keys (project, subject) WHERE live = 1;

-- What was erased, and what it covered.
CREATE TABLE ap_erasures (
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    subject BLOB NOT NULL CHECK (length(subject) = 32),
    root BLOB NOT NULL CHECK (length(root) = 16),
    created INTEGER NOT NULL,
    at INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    files INTEGER NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (project, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ap_erasures_subject ON ap_erasures (project, subject, at);
CREATE INDEX ap_erasures_unfinished ON ap_erasures (at) WHERE finished = 0;

-- The subject's key that a run is sealed under.
ALTER TABLE ap_runs ADD COLUMN subject BLOB;
CREATE INDEX ap_runs_subject ON ap_runs (project, subject, id) WHERE subject IS NOT NULL;
CREATE INDEX ap_files_run ON ap_files (project, run) WHERE run IS NOT NULL;
