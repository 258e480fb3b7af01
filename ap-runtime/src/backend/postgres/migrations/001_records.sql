-- Records of the first release. Times are microseconds since 1970-01-01T00:00:00Z, `sealed` columns are ciphertext, and
-- keyed hashes are 32 bytes. Every key starts with its tenant, so a record of another project cannot be met.

CREATE TABLE ap_projects (
    id uuid PRIMARY KEY,
    created bigint NOT NULL,
    weight integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),
    concurrency integer CHECK (concurrency BETWEEN 1 AND 100000),
    sealed bytea NOT NULL
);

-- Tenant and data-subject keys, each wrapped by its parent. `scope` is a tag byte and the id of the owner.
CREATE TABLE ap_keys (
    id uuid PRIMARY KEY,
    scope bytea NOT NULL CHECK (length(scope) = 17),
    parent uuid NOT NULL,
    created bigint NOT NULL,
    sealed bytea NOT NULL
);
CREATE INDEX ap_keys_scope ON ap_keys (scope, id);

CREATE TABLE ap_flows (
    project uuid NOT NULL REFERENCES ap_projects (id),
    id uuid NOT NULL,
    created bigint NOT NULL,
    updated bigint NOT NULL,
    revision bigint NOT NULL CHECK (revision > 0),
    enabled boolean NOT NULL,
    published uuid,
    draft uuid,
    webhook bytea NOT NULL CONSTRAINT ap_flows_webhook UNIQUE CHECK (length(webhook) = 32),
    generation bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project, id)
);

CREATE TABLE ap_flow_versions (
    project uuid NOT NULL,
    id uuid NOT NULL,
    flow uuid NOT NULL,
    number integer NOT NULL,
    state text NOT NULL CHECK (state IN ('DRAFT', 'LOCKED')),
    created bigint NOT NULL,
    revision bigint NOT NULL CHECK (revision > 0),
    sealed bytea NOT NULL,
    PRIMARY KEY (project, id),
    UNIQUE (project, flow, number),
    FOREIGN KEY (project, flow) REFERENCES ap_flows (project, id)
);
CREATE INDEX ap_flow_versions_flow ON ap_flow_versions (project, flow, id);

-- Schedules and polls of flows.
CREATE TABLE ap_triggers (
    project uuid NOT NULL,
    flow uuid NOT NULL,
    -- NULL: not before the flow is written again.
    due bigint,
    epoch bigint NOT NULL,
    -- When the claim ends; NULL without one.
    lease bigint,
    -- Where a poll goes on from, and the epoch it was sealed under.
    state bytea,
    state_epoch bigint,
    PRIMARY KEY (project, flow),
    FOREIGN KEY (project, flow) REFERENCES ap_flows (project, id)
);
CREATE INDEX ap_triggers_due ON ap_triggers (due) WHERE due IS NOT NULL;
CREATE INDEX ap_triggers_leased ON ap_triggers (lease) WHERE lease IS NOT NULL;

CREATE TABLE ap_connections (
    project uuid NOT NULL REFERENCES ap_projects (id),
    id uuid NOT NULL,
    name bytea NOT NULL CHECK (length(name) = 32),
    created bigint NOT NULL,
    updated bigint NOT NULL,
    revision bigint NOT NULL CHECK (revision > 0),
    sealed bytea NOT NULL,
    PRIMARY KEY (project, id),
    UNIQUE (project, name)
);

-- The tables below are written by every run. They have no foreign keys: the transaction that inserts a run has checked its
-- flow, and the one that inserts a journal entry its run.

CREATE TABLE ap_runs (
    project uuid NOT NULL,
    id uuid NOT NULL,
    flow uuid NOT NULL,
    version uuid NOT NULL,
    parent uuid,
    status text NOT NULL,
    created bigint NOT NULL,
    finished bigint,
    epoch bigint NOT NULL,
    -- When the lease ends; NULL without one. In no index, so that a heartbeat changes rows in place.
    lease bigint,
    priority smallint NOT NULL,
    -- Whether it can be claimed now: queued, past its gate and not put off, or paused and signaled. What is `due` becomes
    -- ready with the next claim.
    ready boolean NOT NULL,
    due bigint,
    -- Whether it has signals that no commit has taken, and whether it has or had any at all.
    signaled boolean NOT NULL DEFAULT false,
    slots boolean NOT NULL DEFAULT false,
    -- Whether it may hold jobs of a queue.
    holds boolean NOT NULL DEFAULT false,
    -- The gate it stands before, or has passed.
    gate bytea,
    gate_limit integer,
    passed boolean NOT NULL,
    PRIMARY KEY (project, id)
) WITH (fillfactor = 80);
CREATE INDEX ap_runs_flow ON ap_runs (project, flow, id);
CREATE INDEX ap_runs_parent ON ap_runs (project, parent, id) WHERE parent IS NOT NULL;
-- What claims, heartbeats and listings of the living look at: runs that have not ended.
CREATE INDEX ap_runs_live ON ap_runs (project, id) WHERE finished IS NULL;
CREATE INDEX ap_runs_running ON ap_runs (project) WHERE status = 'RUNNING';
CREATE INDEX ap_runs_ready ON ap_runs (project, priority DESC, created, id) WHERE ready;
CREATE INDEX ap_runs_age ON ap_runs (project, created, id) WHERE ready;
CREATE INDEX ap_runs_due ON ap_runs (due) WHERE due IS NOT NULL;
CREATE INDEX ap_runs_gate ON ap_runs (project, gate, passed, priority DESC, created, id)
    WHERE gate IS NOT NULL AND finished IS NULL;

CREATE TABLE ap_journal (
    project uuid NOT NULL,
    run uuid NOT NULL,
    seq bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project, run, seq)
);

-- Signals of runs that have not ended. A taken one keeps its slot, without its content.
CREATE TABLE ap_signals (
    project uuid NOT NULL,
    run uuid NOT NULL,
    slot bytea NOT NULL CHECK (length(slot) = 32),
    id uuid NOT NULL,
    at bigint NOT NULL,
    taken boolean NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project, run, slot)
);
CREATE UNIQUE INDEX ap_signals_untaken ON ap_signals (project, run, id) WHERE NOT taken;

CREATE TABLE ap_jobs (
    project uuid NOT NULL,
    id uuid NOT NULL,
    queue bytea NOT NULL CHECK (length(queue) = 32),
    state text NOT NULL CHECK (state IN ('DEAD', 'HELD', 'WAITING')),
    -- Of a held one: by which run, for which of its steps, and when it may start.
    run uuid,
    holder bytea,
    start bigint,
    sealed bytea NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX ap_jobs_queue ON ap_jobs (project, queue, state, id);
CREATE INDEX ap_jobs_run ON ap_jobs (project, run) WHERE run IS NOT NULL;

CREATE TABLE ap_files (
    project uuid NOT NULL,
    id uuid NOT NULL,
    run uuid,
    created bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project, id)
);

-- Deliveries that were accepted, by keyed hash, until they may be forgotten.
CREATE TABLE ap_deliveries (
    project uuid NOT NULL,
    key bytea NOT NULL CHECK (length(key) = 32),
    run uuid NOT NULL,
    expires bigint NOT NULL,
    PRIMARY KEY (project, key)
);
CREATE INDEX ap_deliveries_expires ON ap_deliveries (expires);

-- Throttles, rate limits and the spacing of queues: when the next one would be due at the sustained rate.
CREATE TABLE ap_paces (
    project uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('QUEUE', 'RATE_LIMIT', 'THROTTLE')),
    key bytea NOT NULL CHECK (length(key) = 32),
    due bigint NOT NULL,
    PRIMARY KEY (project, kind, key)
);
CREATE INDEX ap_paces_due ON ap_paces (due);

-- Debounced runs that wait for quiet: the last of each series, when its first came, and until when it waits.
CREATE TABLE ap_series (
    project uuid NOT NULL,
    key bytea NOT NULL CHECK (length(key) = 32),
    run uuid NOT NULL,
    first bigint NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (project, key)
);
CREATE INDEX ap_series_until ON ap_series (until);

CREATE TABLE ap_workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    started bigint NOT NULL,
    seen bigint NOT NULL,
    capacity integer NOT NULL,
    running integer NOT NULL,
    draining boolean NOT NULL
);

CREATE TABLE ap_audit (
    scope bytea NOT NULL CHECK (length(scope) = 17),
    id uuid NOT NULL,
    at bigint NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('DENIED', 'FAILURE', 'SUCCESS')),
    sealed bytea NOT NULL,
    PRIMARY KEY (scope, id)
);
