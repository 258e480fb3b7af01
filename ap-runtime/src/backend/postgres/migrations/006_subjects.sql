-- Keys of data subjects, wrapped under the root key and their tenant's; `subject` is a keyed hash.
CREATE TABLE ap_subject_keys (
    project uuid NOT NULL,
    id uuid NOT NULL,
    subject bytea NOT NULL CHECK (length(subject) = 32),
    root uuid NOT NULL,
    created bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project, id),
    CONSTRAINT ap_subject_keys_subject UNIQUE (project, subject)
);

-- What was erased, and what it covered.
CREATE TABLE ap_erasures (
    project uuid NOT NULL,
    id uuid NOT NULL,
    subject bytea NOT NULL CHECK (length(subject) = 32),
    root uuid NOT NULL,
    created bigint NOT NULL,
    at bigint NOT NULL,
    runs bigint NOT NULL,
    entries bigint NOT NULL,
    files bigint NOT NULL,
    finished boolean NOT NULL DEFAULT false,
    PRIMARY KEY (project, id)
);
CREATE INDEX ap_erasures_subject ON ap_erasures (project, subject, at);
CREATE INDEX ap_erasures_unfinished ON ap_erasures (at) WHERE NOT finished;

-- The subject's key that a run is sealed under.
ALTER TABLE ap_runs ADD COLUMN subject uuid;
CREATE INDEX ap_runs_subject ON ap_runs (project, subject, id) WHERE subject IS NOT NULL;
CREATE INDEX ap_files_run ON ap_files (project, run) WHERE run IS NOT NULL;
