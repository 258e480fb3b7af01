//! [`SqliteBackend`]: one file, one process, durable.
//!
//! One task writes, in groups, with `synchronous=FULL`; readers use connections of their own and see what is committed.
//! Files: the database, its `-wal` and `-shm`, and `<database>.lock`, all readable by their owner only.

mod error;
mod flow;
mod lock;
mod project;
mod run;
mod script;
mod system;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ap_core::store::{BackendError, Page, PageRequest, StoreError};
use sqlx::{
    Connection, SqlSafeStr, SqliteConnection, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

pub use self::error::SqliteOpenError;
use self::{
    error::{open_error, store_error},
    lock::FileLock,
    script::Script,
    writer::Writer,
};
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
    readers: SqlitePool,
}

impl SqliteBackend {
    /// Opens the database at `path`, creating the file (but no directory) if needed, brings its tables up to date and
    /// makes the runs of a former process claimable. Leases and deliveries expire by `clock`.
    ///
    /// Call it inside a tokio runtime with its timer enabled; the backend's task lives there.
    ///
    /// # Errors
    /// [`SqliteOpenError`]; in all cases but `Store` the database is as it was.
    pub async fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, SqliteOpenError> {
        let given = path.as_ref().to_owned();
        lock::create_private(&given)?;
        // Two names of one file must lead to one lock.
        let path = given.canonicalize().map_err(|source| SqliteOpenError::Io { path: given, source })?;
        let lock = FileLock::acquire(&path)?;
        let options = options(&path).synchronous(SqliteSynchronous::Full).journal_mode(SqliteJournalMode::Wal);
        let connection = match prepare(&options).await {
            Ok(connection) => connection,
            Err(Unprepared::Migration(source)) => return Err(SqliteOpenError::Migration { path, source }),
            Err(Unprepared::Statement(error)) => return Err(open_error(path, error)),
        };
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(self::options(&path).read_only(true).pragma("query_only", "ON"));
        Ok(Self { writer: Writer::start(connection, options, lock, clock), readers, path })
    }

    /// Completes the writes that were handed over, folds the log into the database and frees the lock. Whoever calls a
    /// method afterwards gets `Unavailable`.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn row(&self, script: Script) -> Result<Option<SqliteRow>, StoreError> {
        script.row(&self.readers).await.map_err(store_error)
    }

    async fn rows(&self, script: Script) -> Result<Vec<SqliteRow>, StoreError> {
        script.rows(&self.readers).await.map_err(store_error)
    }

    /// Reads a page; `script` lacks its last two arguments, the id to start behind and the number of rows.
    async fn page<T>(
        &self,
        mut script: Script,
        page: &PageRequest,
        read: impl Fn(&SqliteRow) -> sqlx::Result<T>,
        id: impl Fn(&T) -> u128,
    ) -> Result<Page<T>, StoreError> {
        let after = page.start_after().map(u128::to_be_bytes);
        // Every id is greater than no bytes at all.
        script.bytes(after.as_ref().map_or(&[], |bytes| bytes.as_slice()));
        script.uint(u64::from(page.limit()) + 1);
        let rows = self.rows(script).await?;
        let rows = rows.iter().map(read).collect::<sqlx::Result<Vec<T>>>().map_err(store_error)?;
        Ok(Page::from_rows(rows, page, id))
    }
}

impl fmt::Debug for SqliteBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBackend").field("path", &self.path).field("writer", &self.writer).finish_non_exhaustive()
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(ROW_BUFFER)
        .statement_cache_capacity(STATEMENTS)
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .pragma("journal_size_limit", "67108864");
    sqlx::ConnectOptions::disable_statement_logging(options)
}

enum Unprepared {
    Migration(BackendError),
    Statement(sqlx::Error),
}

/// Connects, brings the tables up to date and recovers.
async fn prepare(options: &SqliteConnectOptions) -> Result<SqliteConnection, Unprepared> {
    let mut connection = SqliteConnection::connect_with(options).await.map_err(Unprepared::Statement)?;
    // The first read of the file: tells a damaged or foreign one from one whose tables are not ours.
    let look = Script::new("SELECT count(*) FROM sqlite_schema").row(&mut connection).await;
    look.map_err(Unprepared::Statement)?;
    // Not `Migrator::run`: its future cannot be shown to be `Send`, and a host must be able to spawn `open`.
    let migrated = migrator().run_direct(None, &mut connection, false).await;
    migrated.map_err(|error| Unprepared::Migration(BackendError::new(error)))?;
    Script::new(RECOVER).run(&mut connection).await.map_err(Unprepared::Statement)?;
    Ok(connection)
}

fn migrator() -> Migrator {
    let records = include_str!("migrations/001_records.sql").into_sql_str();
    let mut migrator =
        Migrator::with_migrations(vec![Migration::new(1, "records".into(), MigrationType::Simple, records, false)]);
    // Not sqlx's own name for it: the host may keep tables of its own in the same file.
    migrator.dangerous_set_table_name("ap_migrations");
    migrator
}

/// Fences off every former holder of a lease, and makes what was running claimable.
const RECOVER: &str = "UPDATE ap_runs SET epoch = epoch + 1, lease = NULL, \
    status = CASE status WHEN 'RUNNING' THEN 'QUEUED' ELSE status END WHERE finished IS NULL";
/// How long a connection waits for another one's lock, and a reader for a free connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that read.
const READERS: u32 = 4;
/// Results the driver buffers per script.
const ROW_BUFFER: usize = 256;
/// Scripts that stay prepared per connection.
const STATEMENTS: usize = 256;
