-- Connections belong to a project or to the platform, and are leased while their tokens are renewed: `epoch` counts the
-- leases, `leased` is when the last one ends.

ALTER TABLE ap_connections ADD COLUMN scope bytea CHECK (length(scope) = 17);
UPDATE ap_connections SET scope = '\x70'::bytea || uuid_send(project);
ALTER TABLE ap_connections DROP CONSTRAINT ap_connections_pkey;
ALTER TABLE ap_connections DROP CONSTRAINT ap_connections_project_name_key;
ALTER TABLE ap_connections DROP COLUMN project;
ALTER TABLE ap_connections ALTER COLUMN scope SET NOT NULL;
ALTER TABLE ap_connections ADD COLUMN epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0);
ALTER TABLE ap_connections ADD COLUMN leased bigint;
ALTER TABLE ap_connections ADD PRIMARY KEY (scope, id);
ALTER TABLE ap_connections ADD UNIQUE (scope, name);

-- What of the platform's a project may use.
CREATE TABLE ap_shared_connections (
    project uuid NOT NULL REFERENCES ap_projects (id),
    connection uuid NOT NULL,
    owner uuid NOT NULL,
    name bytea NOT NULL CHECK (length(name) = 32),
    sealed bytea NOT NULL,
    PRIMARY KEY (project, connection),
    UNIQUE (project, name)
);
CREATE INDEX ap_shared_connections_connection ON ap_shared_connections (connection);
