//! What SQLite reports, in the words of the seams. Its messages name tables and columns, never values.

use std::path::PathBuf;

use ap_core::store::{BackendError, Entity, StoreError};

use crate::backend::entity_of_table;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteOpenError {
    /// Another process, or another backend of this process, has the database open.
    #[error("`{}` is in use: its lock file `{}` is held", path.display(), lock.display())]
    InUse {
        /// The database.
        path: PathBuf,
        /// The file whose lock is held.
        lock: PathBuf,
    },
    /// The file, its lock file or its directory cannot be created, read or locked.
    #[error("`{}` cannot be opened", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tables could not be brought up to date: a newer release wrote them, or something else did.
    #[error("the tables in `{}` do not match this release", path.display())]
    Migration {
        /// The database.
        path: PathBuf,
        /// What was found.
        source: BackendError,
    },
    /// The file holds something else, or is damaged.
    #[error("`{}` is not a SQLite database, or is damaged", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: BackendError,
    },
    /// SQLite failed otherwise.
    #[error("`{}` cannot be used", path.display())]
    Store {
        /// The database.
        path: PathBuf,
        /// What failed.
        source: StoreError,
    },
}

/// Puts a failed statement into the words of the seams.
pub(super) fn store_error(error: rusqlite::Error) -> StoreError {
    if let rusqlite::Error::SqliteFailure(failure, Some(message)) = &error
        && matches!(failure.extended_code, UNIQUE | PRIMARY_KEY)
        && let Some(entity) = entity_of(message)
    {
        return StoreError::AlreadyExists { entity };
    }
    if primary_code(&error).is_some_and(|code| PASSING.contains(&code)) {
        return StoreError::Unavailable(BackendError::new(error));
    }
    StoreError::Backend(BackendError::new(error))
}

/// Puts a failure to open the database at `path` into words.
pub(super) fn open_error(path: PathBuf, error: rusqlite::Error) -> SqliteOpenError {
    match primary_code(&error) {
        Some(CORRUPT | NOT_A_DATABASE) => SqliteOpenError::NotADatabase { path, source: BackendError::new(error) },
        _ => SqliteOpenError::Store { path, source: store_error(error) },
    }
}

/// SQLite's result code without its extension.
fn primary_code(error: &rusqlite::Error) -> Option<i32> {
    Some(error.sqlite_error()?.extended_code & 0xff)
}

/// Which record a `UNIQUE constraint failed: table.column, …` is about.
fn entity_of(message: &str) -> Option<Entity> {
    let (_, columns) = message.split_once("UNIQUE constraint failed: ")?;
    let (table, _) = columns.split_once('.')?;
    entity_of_table(table)
}

/// A unique index was violated, or a primary key.
const UNIQUE: i32 = 2067;
const PRIMARY_KEY: i32 = 1555;
const CORRUPT: i32 = 11;
const NOT_A_DATABASE: i32 = 26;
/// Busy, locked, out of memory, I/O error, disk full, cannot open: the same call may succeed later.
const PASSING: [i32; 6] = [5, 6, 7, 10, 13, 14];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_violation_names_the_record() {
        assert_eq!(entity_of("UNIQUE constraint failed: ap_runs.project, ap_runs.id"), Some(Entity::Run));
        assert_eq!(entity_of("UNIQUE constraint failed: ap_flows.webhook"), Some(Entity::Flow));
        assert_eq!(entity_of("UNIQUE constraint failed: other.id"), None);
        assert_eq!(entity_of("CHECK constraint failed: length(id) = 16"), None);
    }

    #[test]
    fn what_passes_is_worth_another_try() {
        let failure = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        // `SQLITE_IOERR_FSYNC`, `SQLITE_FULL`, `SQLITE_CONSTRAINT_CHECK`.
        assert!(store_error(failure(1034)).is_retryable());
        assert!(store_error(failure(13)).is_retryable());
        assert!(!store_error(failure(275)).is_retryable());
        assert!(!store_error(rusqlite::Error::QueryReturnedNoRows).is_retryable());
    }
}
