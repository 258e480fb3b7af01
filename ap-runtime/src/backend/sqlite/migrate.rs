//! Bringing the tables up to date.
//!
//! What was done stands in `ap_migrations`, with a checksum, so that tables of a newer release or of something else are
//! noticed and left alone. A migration that was ever released never changes. The host may keep tables of its own in the same
//! file, hence the name.

use ap_core::store::BackendError;
use rusqlite::{Connection, TransactionBehavior, params};
use sha2::{Digest, Sha384};

use super::{connect, connect::Unprepared};

/// One step of the tables' history.
struct Migration {
    version: i64,
    description: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, description: "records", sql: include_str!("migrations/001_records.sql") },
    Migration { version: 2, description: "durable", sql: include_str!("migrations/002_durable.sql") },
    Migration { version: 3, description: "keys", sql: include_str!("migrations/003_keys.sql") },
    Migration { version: 4, description: "connections", sql: include_str!("migrations/004_connections.sql") },
    Migration { version: 5, description: "compact", sql: include_str!("migrations/005_compact.sql") },
    Migration { version: 6, description: "subjects", sql: include_str!("migrations/006_subjects.sql") },
    Migration { version: 7, description: "due connections", sql: include_str!("migrations/007_due_connections.sql") },
    Migration { version: 8, description: "values", sql: include_str!("migrations/008_values.sql") },
];

/// What is found in the table instead of what was written there.
#[derive(Debug, thiserror::Error)]
enum Mismatch {
    #[error("migration {0} was changed after it was applied")]
    Changed(i64),
    #[error("migration {0} was left half-way")]
    Dirty(i64),
    #[error("migration {0} belongs to no known release")]
    Unknown(i64),
}

/// Applies what is missing, each step in a transaction of its own; changes nothing if something else than our own steps was
/// applied.
pub(super) fn run(connection: &mut Connection) -> Result<(), Unprepared> {
    connection.execute_batch(TABLE).map_err(failed)?;
    let applied = connect::rows(connection, "SELECT version, checksum, success FROM ap_migrations", (), |columns| {
        Ok((columns.int()?, columns.bytes()?.to_owned(), columns.flag()?))
    });
    let applied = applied.map_err(failed)?;
    for (version, checksum, success) in &applied {
        let known = MIGRATIONS.iter().find(|migration| migration.version == *version);
        let mismatch = match known {
            _ if !success => Mismatch::Dirty(*version),
            None => Mismatch::Unknown(*version),
            Some(known) if known.checksum() != *checksum => Mismatch::Changed(*version),
            Some(_) => continue,
        };
        return Err(Unprepared::Migration(BackendError::new(mismatch)));
    }
    let missing =
        MIGRATIONS.iter().filter(|migration| applied.iter().all(|(version, ..)| *version != migration.version));
    for migration in missing {
        migration.apply(connection).map_err(failed)?;
    }
    Ok(())
}

fn failed(error: rusqlite::Error) -> Unprepared {
    Unprepared::Migration(BackendError::new(error))
}

impl Migration {
    fn checksum(&self) -> Vec<u8> {
        Sha384::digest(self.sql).to_vec()
    }

    fn apply(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(self.sql)?;
        transaction.execute(
            "INSERT INTO ap_migrations (version, description, success, checksum, execution_time) VALUES (?, ?, 1, ?, -1)",
            params![self.version, self.description, self.checksum()],
        )?;
        transaction.commit()
    }
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS ap_migrations ( \
    version BIGINT PRIMARY KEY, \
    description TEXT NOT NULL, \
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
    success BOOLEAN NOT NULL, \
    checksum BLOB NOT NULL, \
    execution_time BIGINT NOT NULL)";
