//! [`SqliteBackend`]: one file, one process, durable.
//!
//! One thread writes, in groups, with `synchronous=FULL`; readers use connections of their own and see what is committed.
//! Files: the database, its `-wal` and `-shm`, and `<database>.lock`, all readable by their owner only.

mod accept;
mod cell;
mod claim;
mod commit;
mod connect;
mod connection;
mod error;
mod file;
mod flow;
mod gate;
mod lock;
mod migrate;
mod project;
mod queue;
mod reader;
mod row;
mod run;
mod subject;
mod system;
mod trigger;
mod value;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ap_core::store::{Page, PageRequest, StoreError};
use rusqlite::types::Value;

pub use self::error::SqliteOpenError;
use self::{lock::FileLock, reader::Readers, row::Columns, writer::Writer};
use crate::clock::Clock;

/// Keeps everything in one SQLite file.
///
/// A database belongs to one backend at a time, guarded by an operating-system lock on `<database>.lock`. Opening it is
/// also the recovery: whoever held a lease before is fenced off, and every run that was being executed can be claimed at
/// once. A write that fails with `Unavailable` because its commit failed may have happened all the same.
///
/// Call [`SqliteBackend::close`] before the process ends to fold the log into the database; a process that is killed
/// instead loses nothing, and the next one reads the log.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use ap_runtime::{backend::sqlite::SqliteBackend, clock::SystemClock};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("flows.db");
/// let backend = SqliteBackend::open(&path, Arc::new(SystemClock)).await?;
/// backend.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SqliteBackend {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    clock: Arc<dyn Clock>,
}

impl SqliteBackend {
    /// Opens the database at `path`, creating the file (but no directory) if needed, brings its tables up to date and
    /// makes the runs of a former process claimable. Leases and deliveries expire by `clock`.
    ///
    /// The backend works on threads of its own: one that writes and four that read. They end when it is closed or dropped.
    ///
    /// # Errors
    /// [`SqliteOpenError`]; no record of an existing database was changed then.
    pub async fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, SqliteOpenError> {
        let given = path.as_ref().to_owned();
        lock::create_private(&given)?;
        // Two names of one file must lead to one lock.
        let path = given.canonicalize().map_err(|source| SqliteOpenError::Io { path: given, source })?;
        let lock = FileLock::acquire(&path)?;
        let writer = Writer::start(path.clone(), lock, Arc::clone(&clock)).await?;
        let readers = Readers::start(&path).map_err(|source| SqliteOpenError::Io { path: path.clone(), source })?;
        Ok(Self { writer, readers, path, clock })
    }

    /// Completes what was handed over, folds the log into the database and frees the lock. Whoever calls a method
    /// afterwards gets `Unavailable`.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Reads a page; the last two arguments of `sql`, after those in `of`, are the id to start behind and the number of rows.
    async fn page<T: Send + 'static>(
        &self,
        sql: &'static str,
        of: impl IntoIterator<Item = Vec<u8>>,
        page: &PageRequest,
        read: fn(&mut Columns<'_>) -> rusqlite::Result<T>,
        id: impl Fn(&T) -> u128,
    ) -> Result<Page<T>, StoreError> {
        let mut arguments: Vec<Value> = of.into_iter().map(Value::Blob).collect();
        // Every id is greater than no bytes at all.
        let after = page.start_after().map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
        arguments.push(Value::Blob(after));
        arguments.push(Value::Integer(i64::from(page.limit()) + 1));
        let rows = move |open: &_| connect::rows(open, sql, rusqlite::params_from_iter(arguments), read);
        Ok(Page::from_rows(self.readers.read(rows).await?, page, id))
    }
}

impl fmt::Debug for SqliteBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBackend")
            .field("path", &self.path)
            .field("writer", &self.writer)
            .field("readers", &self.readers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
