-- Rows as the release with migration 8 writes them: a stored value, a key of a data subject, an erasure, a connection of the platform that a project was given, a project, a flow with its version, a run that waits and one that has ended.

INSERT INTO ap_projects (id, created, weight, concurrency, sealed)
VALUES ('00000000-0000-0000-0000-000000000001', 1800000000000000, 1, NULL, '\x01');
INSERT INTO ap_keys (id, scope, parent, created, sealed)
VALUES ('00000000-0000-0000-0000-000000000002', '\x7000000000000000000000000000000001',
    '00000000-0000-0000-0000-000000000001', 1800000000000000, '\x01');
INSERT INTO ap_flows (project, id, created, updated, revision, enabled, published, draft, webhook, generation, sealed)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', 1800000000000000,
    1800000000000000, 1, true, '00000000-0000-0000-0000-000000000001', NULL, decode(repeat('07', 32), 'hex'), 1, '\x01');
INSERT INTO ap_flow_versions (project, id, flow, number, state, created, revision, sealed)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001',
    '00000000-0000-0000-0000-000000000001', 1, 'LOCKED', 1800000000000000, 1, '\x01');
INSERT INTO ap_runs (project, id, flow, version, parent, status, created, finished, epoch, lease, priority, ready, due,
    gate, gate_limit, passed)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001',
    '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', NULL, 'QUEUED', 1800000000000000,
    NULL, 0, NULL, 0, true, NULL, NULL, NULL, true),
    ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002',
    '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', NULL, 'SUCCEEDED', 1800000000000000,
    1800000000000001, 1, NULL, 0, false, NULL, NULL, NULL, true);
INSERT INTO ap_journal (project, run, seq, sealed)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', 0, '\x01'),
    ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002', 0, '\x01');
INSERT INTO ap_connections (scope, id, name, created, updated, due, revision, epoch, leased, sealed)
VALUES ('\x5000000000000000000000000000000001', '00000000-0000-0000-0000-000000000003', decode(repeat('03', 32), 'hex'),
    1800000000000000, 1800000000000000, 1800000000000002, 1, 1, 1800000000000001, '\x01');
INSERT INTO ap_shared_connections (project, connection, owner, name, sealed)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003',
    '00000000-0000-0000-0000-000000000001', decode(repeat('04', 32), 'hex'), '\x01');
INSERT INTO ap_subject_keys (project, id, subject, root, created, sealed)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000004', decode(repeat('05', 32), 'hex'),
    '00000000-0000-0000-0000-000000000001', 1800000000000000, '\x01');
INSERT INTO ap_erasures (project, id, subject, root, created, at, runs, entries, files, finished)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000005', decode(repeat('06', 32), 'hex'),
    '00000000-0000-0000-0000-000000000001', 1800000000000000, 1800000000000001, 1, 2, 0, true);
UPDATE ap_runs SET subject = '00000000-0000-0000-0000-000000000004' WHERE status = 'QUEUED';
INSERT INTO ap_values (project, id, flow, version, updated, bytes, sealed)
VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000006',
    '00000000-0000-0000-0000-000000000000', 7, 1800000000000000, 1, '\x01');
INSERT INTO ap_value_usage (project, entries, bytes) VALUES ('00000000-0000-0000-0000-000000000001', 1, 1);
