-- When somebody has to look at a connection again: the end of the grace of a secret that was replaced.

ALTER TABLE ap_connections ADD COLUMN due INTEGER;
CREATE INDEX ap_connections_due ON ap_connections (due) WHERE due IS NOT NULL;
