-- Records of the first release. Ids are the 16 bytes of a UUID, times are microseconds since 1970-01-01T00:00:00Z,
-- `sealed` columns are ciphertext. Every key starts with its tenant, so a record of another project cannot be met.

CREATE TABLE ap_projects (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    created INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;

-- Tenant and data-subject keys, each wrapped by its parent. `scope` is a tag byte and the id of the owner.
CREATE TABLE ap_keys (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    scope BLOB NOT NULL CHECK (length(scope) = 17),
    parent BLOB NOT NULL CHECK (length(parent) = 16),
    created INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE INDEX ap_keys_scope ON ap_keys (scope, id);

CREATE TABLE ap_flows (
    project BLOB NOT NULL REFERENCES ap_projects (id),
    id BLOB NOT NULL CHECK (length(id) = 16),
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    revision INTEGER NOT NULL CHECK (revision > 0),
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    published BLOB CHECK (length(published) = 16),
    draft BLOB CHECK (length(draft) = 16),
    webhook BLOB NOT NULL UNIQUE CHECK (length(webhook) = 32),
    generation INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, id)
) STRICT;

CREATE TABLE ap_flow_versions (
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    flow BLOB NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('DRAFT', 'LOCKED')),
    created INTEGER NOT NULL,
    revision INTEGER NOT NULL CHECK (revision > 0),
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, id),
    UNIQUE (project, flow, number),
    FOREIGN KEY (project, flow) REFERENCES ap_flows (project, id)
) STRICT;
CREATE INDEX ap_flow_versions_flow ON ap_flow_versions (project, flow, id);

CREATE TABLE ap_connections (
    project BLOB NOT NULL REFERENCES ap_projects (id),
    id BLOB NOT NULL CHECK (length(id) = 16),
    name BLOB NOT NULL CHECK (length(name) = 32),
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    revision INTEGER NOT NULL CHECK (revision > 0),
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, id),
    UNIQUE (project, name)
) STRICT;

-- The tables below are written by every run. They have no foreign keys: the statement that inserts a run checks its flow,
-- and the one that inserts a journal entry checks its run.

CREATE TABLE ap_runs (
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    flow BLOB NOT NULL,
    version BLOB NOT NULL,
    status TEXT NOT NULL,
    created INTEGER NOT NULL,
    finished INTEGER,
    epoch INTEGER NOT NULL,
    -- When the lease ends; NULL without one.
    lease INTEGER,
    PRIMARY KEY (project, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ap_runs_flow ON ap_runs (project, flow, id);
-- What a claim and a recovery look at: runs that have not ended.
CREATE INDEX ap_runs_active ON ap_runs (status, lease, created, id) WHERE finished IS NULL;

CREATE TABLE ap_journal (
    project BLOB NOT NULL,
    run BLOB NOT NULL,
    seq INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, run, seq)
) STRICT, WITHOUT ROWID;

-- Deliveries that were accepted, by keyed hash, until they may be forgotten.
CREATE TABLE ap_deliveries (
    project BLOB NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32),
    run BLOB NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX ap_deliveries_expires ON ap_deliveries (expires);

CREATE TABLE ap_audit (
    scope BLOB NOT NULL CHECK (length(scope) = 17),
    id BLOB NOT NULL CHECK (length(id) = 16),
    at INTEGER NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('DENIED', 'FAILURE', 'SUCCESS')),
    sealed BLOB NOT NULL,
    PRIMARY KEY (scope, id)
) STRICT, WITHOUT ROWID;
