//! What PostgreSQL reports, in the words of the seams. Errors carry names of tables and constraints, never values: of the
//! server's message only its code and the constraint are kept.

use ap_core::store::{BackendError, Entity, StoreError};
use sqlx::postgres::PgDatabaseError;

use crate::backend::entity_of_table;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresOpenError {
    /// An option cannot be used.
    #[error("option `{option}` cannot be used: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// Why.
        reason: String,
    },
    /// The tables could not be brought up to date: a newer release wrote them, or something else did.
    #[error("the tables in schema `{schema}` do not match this release")]
    Migration {
        /// The schema.
        schema: String,
        /// What was found.
        source: BackendError,
    },
    /// The server cannot be reached, refuses the connection, or is not who its certificate should say.
    #[error("no connection to PostgreSQL")]
    Connection(#[source] BackendError),
    /// PostgreSQL failed otherwise.
    #[error("schema `{schema}` cannot be used")]
    Store {
        /// The schema.
        schema: String,
        /// What failed.
        source: StoreError,
    },
}

/// Puts a failed statement into the words of the seams.
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    if let Some(entity) = taken(&error) {
        return StoreError::AlreadyExists { entity };
    }
    let passing = is_passing(&error);
    let source = BackendError::new(described(error));
    if passing { StoreError::Unavailable(source) } else { StoreError::Backend(source) }
}

/// An error without the values that a server's message may quote.
pub(super) fn described(error: sqlx::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let Some(database) = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) else {
        return Box::new(error);
    };
    let at = database.constraint().or(database.table()).unwrap_or("the statement");
    // The primary message of these classes quotes nothing but names.
    let quotes = ["22", "23", "P0"].iter().any(|class| database.code().starts_with(class));
    let message = if quotes { "" } else { database.message() };
    format!("PostgreSQL error {} at {at}: {message}", database.code()).into()
}

/// Which record a unique violation is about.
fn taken(error: &sqlx::Error) -> Option<Entity> {
    let database = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    if database.code() != UNIQUE_VIOLATION {
        return None;
    }
    entity_of_table(database.table()?)
}

fn code(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code)
}

/// Whether the same call may succeed later.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => code(error).is_some_and(|code| PASSING.iter().any(|class| code.starts_with(class))),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        _ => false,
    }
}

/// Whether the transaction came into another one's way, and would not if it were repeated.
pub(super) fn is_collision(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| [DEADLOCK, SERIALIZATION].contains(&code))
}

/// Whether the connection is of no more use.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        // The server is going away, or has become a copy that takes no writes.
        sqlx::Error::Database(_) => code(error).is_some_and(|code| code.starts_with("57P") || code == READ_ONLY),
        _ => is_passing(error),
    }
}

const UNIQUE_VIOLATION: &str = "23505";
const SERIALIZATION: &str = "40001";
const DEADLOCK: &str = "40P01";
const READ_ONLY: &str = "25006";
/// Connection lost, read-only copy, collisions, out of resources, locks, operator or time-out, system error.
const PASSING: [&str; 8] = ["08", "25006", "40", "53", "55P03", "57", "58", "25P03"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_worth_another_try() {
        for error in [sqlx::Error::PoolTimedOut, sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())] {
            assert!(is_broken(&error), "{error:?}");
            assert!(store_error(error).is_retryable());
        }
        assert!(!is_broken(&sqlx::Error::RowNotFound));
        assert!(!store_error(sqlx::Error::RowNotFound).is_retryable());
    }
}
