-- Pauses, signals, flow control, queues, files, triggers, fair claims. Every run touches as few indexes as can be: those
-- below hold only runs in the state they are about.

ALTER TABLE ap_projects ADD COLUMN weight INTEGER NOT NULL DEFAULT 1;
-- NULL: as many as the runtime says.
ALTER TABLE ap_projects ADD COLUMN concurrency INTEGER;

ALTER TABLE ap_runs ADD COLUMN parent BLOB;
ALTER TABLE ap_runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
-- 1 if the run can be claimed now, whatever the time; a lease that expired apart.
ALTER TABLE ap_runs ADD COLUMN ready INTEGER NOT NULL DEFAULT 0;
-- When time makes the run ready, if it is past its gate; NULL if time does not, or has done so.
ALTER TABLE ap_runs ADD COLUMN due INTEGER;
ALTER TABLE ap_runs ADD COLUMN gate BLOB;
ALTER TABLE ap_runs ADD COLUMN gate_limit INTEGER;
-- 0 if the run waits before its gate.
ALTER TABLE ap_runs ADD COLUMN passed INTEGER NOT NULL DEFAULT 1;
ALTER TABLE ap_runs ADD COLUMN debounce BLOB;
ALTER TABLE ap_runs ADD COLUMN debounce_since INTEGER;
ALTER TABLE ap_runs ADD COLUMN debounce_until INTEGER;

DROP INDEX ap_runs_active;
-- What was under way belongs to a process that is gone.
UPDATE ap_runs SET epoch = epoch + 1, lease = NULL, status = 'QUEUED', ready = 1 WHERE finished IS NULL;

CREATE INDEX ap_runs_ready ON ap_runs (project, priority DESC, created, id) WHERE ready = 1;
CREATE INDEX ap_runs_due ON ap_runs (due) WHERE due IS NOT NULL AND passed = 1;
CREATE INDEX ap_runs_lease ON ap_runs (lease) WHERE lease IS NOT NULL;
CREATE INDEX ap_runs_live ON ap_runs (project, id, flow) WHERE finished IS NULL;
CREATE INDEX ap_runs_parent ON ap_runs (project, parent, id) WHERE parent IS NOT NULL;
CREATE INDEX ap_runs_gate ON ap_runs (project, gate, passed, priority DESC, created, id, finished)
    WHERE gate IS NOT NULL AND finished IS NULL;
CREATE INDEX ap_runs_debounce ON ap_runs (project, debounce, debounce_until)
    WHERE debounce IS NOT NULL AND finished IS NULL;

-- Signals that no commit has taken.
CREATE TABLE ap_signals (
    project BLOB NOT NULL,
    run BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    slot BLOB NOT NULL,
    at INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, run, id)
) STRICT, WITHOUT ROWID;

-- Slots that were used, until the run ends.
CREATE TABLE ap_slots (
    project BLOB NOT NULL,
    run BLOB NOT NULL,
    slot BLOB NOT NULL CHECK (length(slot) = 32),
    PRIMARY KEY (project, run, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE ap_jobs (
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    queue BLOB NOT NULL CHECK (length(queue) = 32),
    -- 0 waiting, 1 held, 2 dead.
    state INTEGER NOT NULL CHECK (state IN (0, 1, 2)),
    -- Who holds it, and when it may start; NULL unless held.
    run BLOB,
    holder BLOB,
    start INTEGER,
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, id)
) STRICT;
CREATE INDEX ap_jobs_queue ON ap_jobs (project, queue, state, id);
CREATE INDEX ap_jobs_run ON ap_jobs (project, run, queue, holder, id) WHERE run IS NOT NULL;

-- How many jobs a queue has in each state, so that nobody counts them; a queue without jobs has no row.
CREATE TABLE ap_queues (
    project BLOB NOT NULL,
    queue BLOB NOT NULL,
    waiting INTEGER NOT NULL,
    held INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    PRIMARY KEY (project, queue)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER ap_jobs_added AFTER INSERT ON ap_jobs BEGIN
    INSERT INTO ap_queues (project, queue, waiting, held, dead)
        VALUES (new.project, new.queue, new.state = 0, new.state = 1, new.state = 2)
        ON CONFLICT (project, queue) DO UPDATE SET waiting = waiting + excluded.waiting,
            held = held + excluded.held, dead = dead + excluded.dead;
END;
CREATE TRIGGER ap_jobs_moved AFTER UPDATE OF state ON ap_jobs BEGIN
    UPDATE ap_queues SET waiting = waiting + (new.state = 0) - (old.state = 0),
        held = held + (new.state = 1) - (old.state = 1), dead = dead + (new.state = 2) - (old.state = 2)
        WHERE project = new.project AND queue = new.queue;
END;
CREATE TRIGGER ap_jobs_removed AFTER DELETE ON ap_jobs BEGIN
    UPDATE ap_queues SET waiting = waiting - (old.state = 0), held = held - (old.state = 1),
        dead = dead - (old.state = 2) WHERE project = old.project AND queue = old.queue;
    DELETE FROM ap_queues WHERE project = old.project AND queue = old.queue
        AND waiting = 0 AND held = 0 AND dead = 0;
END;

CREATE TABLE ap_files (
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    run BLOB,
    created INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, id)
) STRICT;

-- Schedules and polls, one per flow.
CREATE TABLE ap_triggers (
    project BLOB NOT NULL,
    flow BLOB NOT NULL,
    -- 1 if the flow may start runs: enabled and published.
    active INTEGER NOT NULL,
    due INTEGER,
    epoch INTEGER NOT NULL,
    lease INTEGER,
    state BLOB,
    -- The epoch under which `state` was sealed.
    state_epoch INTEGER,
    PRIMARY KEY (project, flow)
) STRICT, WITHOUT ROWID;
CREATE INDEX ap_triggers_due ON ap_triggers (due) WHERE active = 1 AND due IS NOT NULL;
CREATE INDEX ap_triggers_lease ON ap_triggers (lease) WHERE lease IS NOT NULL;

-- What rate limits (0), throttles (1) and the spacing of queues (2) remember: when the next one would be due.
CREATE TABLE ap_paces (
    project BLOB NOT NULL,
    kind INTEGER NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32),
    due INTEGER NOT NULL,
    PRIMARY KEY (project, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX ap_paces_due ON ap_paces (due);

CREATE TABLE ap_workers (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name TEXT NOT NULL,
    started INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    capacity INTEGER NOT NULL,
    running INTEGER NOT NULL,
    draining INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
