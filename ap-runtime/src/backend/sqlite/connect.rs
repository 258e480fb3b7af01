//! Connections, their settings, and what is done to a database before it is used.

use std::{path::Path, time::Duration};

use ap_core::store::BackendError;
use rusqlite::{Connection, OpenFlags, Params};

use super::{migrate, row::Columns};

/// Why a database could not be prepared.
pub(super) enum Unprepared {
    Migration(BackendError),
    Statement(rusqlite::Error),
}

/// Connects, brings the tables up to date and recovers.
pub(super) fn prepare(path: &Path) -> Result<Connection, Unprepared> {
    let mut connection = writer(path).map_err(Unprepared::Statement)?;
    migrate::run(&mut connection)?;
    let recovered = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).and_then(|open| {
        RECOVER.iter().try_for_each(|statement| open.execute(statement, ()).map(|_| ()))?;
        open.commit()
    });
    recovered.map_err(Unprepared::Statement)?;
    Ok(connection)
}

/// The connection that writes.
pub(super) fn writer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // The first read of the file: tells a damaged or foreign one from one whose tables are not ours.
    connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
         PRAGMA journal_size_limit = {LOG_BYTES}; PRAGMA wal_autocheckpoint = {LOG_PAGES}; \
         PRAGMA cache_size = -{WRITER_CACHE_KIB}"
    ))?;
    Ok(connection)
}

/// A connection that reads.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    Ok(connection)
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection belongs to one thread.
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch(
        "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY",
    )?;
    Ok(connection)
}

/// Runs a query and returns its rows.
pub(super) fn rows<T>(
    connection: &Connection,
    sql: &str,
    arguments: impl Params,
    mut read: impl FnMut(&mut Columns<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(arguments)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(&mut Columns::of(row))?);
    }
    Ok(found)
}

/// Runs a query and returns its first row.
pub(super) fn row<T>(
    connection: &Connection,
    sql: &str,
    arguments: impl Params,
    read: impl FnOnce(&mut Columns<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(arguments)?;
    rows.next()?.map(|row| read(&mut Columns::of(row))).transpose()
}

/// The former process is gone: whoever held a lease is fenced off, and what was being executed can be claimed at once.
pub(super) const RECOVER: &[&str] = &[
    "UPDATE ap_runs SET epoch = epoch + 1, lease = NULL, status = 'QUEUED', ready = 1 WHERE lease IS NOT NULL",
    "UPDATE ap_triggers SET epoch = epoch + 1, lease = NULL WHERE lease IS NOT NULL",
    "UPDATE ap_connections SET leased = NULL WHERE leased IS NOT NULL",
];

/// How long a connection waits for another one's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Statements that stay prepared per connection; more than there are.
const STATEMENTS: usize = 256;
/// Bytes of the log that stay on the disk.
const LOG_BYTES: u32 = 64 * 1024 * 1024;
/// Pages in the log after which they are folded into the database.
const LOG_PAGES: u32 = 4_000;
/// Memory for pages of the database in the connection that writes, in KiB.
const WRITER_CACHE_KIB: u32 = 32 * 1024;
