-- Values of key-value stores. The id is a keyed hash of flow and key; a flow of zeros is the project itself.
CREATE TABLE ap_values (
    project BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    flow BLOB NOT NULL CHECK (length(flow) = 16),
    -- Drawn anew with every write.
    version INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (project, id)
) STRICT;
CREATE INDEX ap_values_flow ON ap_values (project, flow, id);

-- How much a project has in its key-value store; no row means nothing.
CREATE TABLE ap_value_usage (
    project BLOB NOT NULL PRIMARY KEY,
    entries INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
