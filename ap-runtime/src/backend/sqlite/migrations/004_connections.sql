-- Connections belong to a project or to the platform, and are leased while their tokens are renewed: `epoch` counts the
-- leases, `leased` is when the last one ends.

CREATE TABLE ap_connections_004 (
    scope BLOB NOT NULL CHECK (length(scope) = 17),
    id BLOB NOT NULL CHECK (length(id) = 16),
    name BLOB NOT NULL CHECK (length(name) = 32),
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    revision INTEGER NOT NULL CHECK (revision > 0),
    epoch INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    leased INTEGER,
    sealed BLOB NOT NULL,
    PRIMARY KEY (scope, id),
    UNIQUE (scope, name)
) STRICT;
INSERT INTO ap_connections_004 (scope, id, name, created, updated, revision, sealed)
    SELECT unhex('70' || hex(project)), id, name, created, updated, revision, sealed FROM ap_connections;
DROP TABLE ap_connections;
ALTER TABLE ap_connections_004 RENAME TO ap_connections;
CREATE INDEX ap_connections_leased ON ap_connections (leased) WHERE leased IS NOT NULL;

-- What of the platform's a project may use.
CREATE TABLE ap_shared_connections (
    project BLOB NOT NULL REFERENCES ap_projects (id),
    connection BLOB NOT NULL CHECK (length(connection) = 16),
    owner BLOB NOT NULL CHECK (length(owner) = 16),
    name BLOB NOT NULL CHECK (length(name) = 32),
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, connection),
    UNIQUE (project, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX ap_shared_connections_connection ON ap_shared_connections (connection);
