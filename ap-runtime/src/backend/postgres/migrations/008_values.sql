-- Values of key-value stores. The id is a keyed hash of flow and key; a flow of zeros is the project itself.
CREATE TABLE ap_values (
    project uuid NOT NULL,
    id uuid NOT NULL,
    flow uuid NOT NULL,
    -- Drawn anew with every write.
    version bigint NOT NULL,
    updated bigint NOT NULL,
    bytes bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX ap_values_flow ON ap_values (project, flow, id);

-- How much a project has in its key-value store; no row means nothing.
CREATE TABLE ap_value_usage (
    project uuid PRIMARY KEY,
    entries bigint NOT NULL,
    bytes bigint NOT NULL
);
