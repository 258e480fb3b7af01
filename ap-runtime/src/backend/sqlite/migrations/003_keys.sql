-- What a key is for: 0 seals values, or did until a newer one came; 1 is retired and opens nothing; 2 keeps what look-ups,
-- placeholders and resume tokens are made with; 3 is the platform's, for look-ups that come before the tenant is known.
ALTER TABLE ap_keys ADD COLUMN kind INTEGER NOT NULL DEFAULT 0 CHECK (kind BETWEEN 0 AND 3);
