-- What a run writes, in fewer pages. A run has a number here, by which its journal knows it; what is appended stands at the end
-- of its table, whoever the tenant is, instead of in a page of the tenant's own; rows that are large stay in one piece.

CREATE TABLE ap_runs_numbered (
    -- Given by SQLite, in this file only. A run that is deleted takes its journal along, because its number is used again.
    number INTEGER PRIMARY KEY,
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    flow BLOB NOT NULL,
    version BLOB NOT NULL,
    status TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    -- 1 if the run can be claimed now, whatever the time; a lease that expired apart.
    ready INTEGER NOT NULL DEFAULT 0,
    -- 0 if the run waits before its gate.
    passed INTEGER NOT NULL DEFAULT 1,
    priority INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL,
    -- When the lease ends; NULL without one.
    lease INTEGER,
    finished INTEGER,
    -- When time makes the run ready, if it is past its gate; NULL if time does not, or has done so.
    due INTEGER,
    parent BLOB,
    gate BLOB,
    gate_limit INTEGER,
    debounce BLOB,
    debounce_since INTEGER,
    debounce_until INTEGER,
    UNIQUE (project, id)
) STRICT;
INSERT INTO ap_runs_numbered (project, id, flow, version, status, epoch, ready, passed, priority, created, lease, finished, due,
    parent, gate, gate_limit, debounce, debounce_since, debounce_until)
    SELECT project, id, flow, version, status, epoch, ready, passed, priority, created, lease, finished, due, parent, gate,
        gate_limit, debounce, debounce_since, debounce_until FROM ap_runs ORDER BY created, id;

CREATE TABLE ap_journal_numbered (
    -- The run's number.
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    UNIQUE (run, seq)
) STRICT;
INSERT INTO ap_journal_numbered (run, seq, sealed)
    SELECT run.number, entry.seq, entry.sealed FROM ap_journal AS entry
        JOIN ap_runs_numbered AS run ON run.project = entry.project AND run.id = entry.run ORDER BY run.number, entry.seq;

CREATE TABLE ap_audit_appended (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    action TEXT NOT NULL,
    -- Not `IN`, for which SQLite builds a table with each insert.
    outcome TEXT NOT NULL CHECK (outcome = 'DENIED' OR outcome = 'FAILURE' OR outcome = 'SUCCESS'),
    sealed BLOB NOT NULL
) STRICT;
-- Whose trail a record belongs to, and where it stands there.
CREATE TABLE ap_audit_ids (
    scope BLOB NOT NULL CHECK (length(scope) = 17),
    id BLOB NOT NULL CHECK (length(id) = 16),
    number INTEGER NOT NULL,
    PRIMARY KEY (scope, id)
) STRICT, WITHOUT ROWID;
INSERT INTO ap_audit_ids (scope, id, number) SELECT scope, id, row_number() OVER (ORDER BY at, scope, id) FROM ap_audit;
INSERT INTO ap_audit_appended (number, at, action, outcome, sealed)
    SELECT key.number, at, action, outcome, sealed FROM ap_audit AS record
        JOIN ap_audit_ids AS key ON key.scope = record.scope AND key.id = record.id ORDER BY key.number;

DROP TABLE ap_journal;
DROP TABLE ap_audit;
DROP TABLE ap_runs;
ALTER TABLE ap_runs_numbered RENAME TO ap_runs;
ALTER TABLE ap_journal_numbered RENAME TO ap_journal;
ALTER TABLE ap_audit_appended RENAME TO ap_audit;

-- A run stands in one of these two.
CREATE INDEX ap_runs_live ON ap_runs (flow, id) WHERE finished IS NULL;
CREATE INDEX ap_runs_ended ON ap_runs (flow, id) WHERE finished IS NOT NULL;
CREATE INDEX ap_runs_ready ON ap_runs (project, priority DESC, created, id) WHERE ready = 1;
CREATE INDEX ap_runs_due ON ap_runs (due) WHERE due IS NOT NULL AND passed = 1;
CREATE INDEX ap_runs_lease ON ap_runs (lease) WHERE lease IS NOT NULL;
CREATE INDEX ap_runs_parent ON ap_runs (project, parent, id) WHERE parent IS NOT NULL;
CREATE INDEX ap_runs_gate ON ap_runs (project, gate, passed, priority DESC, created, id, finished)
    WHERE gate IS NOT NULL AND finished IS NULL;
CREATE INDEX ap_runs_debounce ON ap_runs (project, debounce, debounce_until)
    WHERE debounce IS NOT NULL AND finished IS NULL;
