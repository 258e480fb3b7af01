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
    /// [`SqliteOpenError`]; no record of an existing database was changed then.
    pub async fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self, SqliteOpenError> {
        let given = path.as_ref().to_owned();
        lock::create_private(&given)?;
        // Two names of one file must lead to one lock.
        let path = given.canonicalize().map_err(|source| SqliteOpenError::Io { path: given, source })?;
        let lock = FileLock::acquire(&path)?;
        let options = writer_options(&path);
        let connection = match prepare(&options).await {
            Ok(connection) => connection,
            Err(Unprepared::Migration(source)) => return Err(SqliteOpenError::Migration { path, source }),
            Err(Unprepared::Statement(error)) => return Err(open_error(path, error)),
        };
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(common_options(&path).read_only(true).pragma("query_only", "ON"));
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

fn writer_options(path: &Path) -> SqliteConnectOptions {
    common_options(path).synchronous(SqliteSynchronous::Full).journal_mode(SqliteJournalMode::Wal)
}

fn common_options(path: &Path) -> SqliteConnectOptions {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use super::{
        writer::{Failure, Operation, Transaction},
        *,
    };
    use crate::clock::SystemClock;

    /// Runs one statement.
    struct Statement(&'static str);

    #[async_trait]
    impl Operation for Statement {
        type Output = ();

        fn bytes(&self) -> usize {
            0
        }

        async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
            transaction.run(&mut Script::new(self.0)).await
        }
    }

    /// Fails at its first application only.
    struct Flaky(AtomicBool);

    #[async_trait]
    impl Operation for Flaky {
        type Output = ();

        fn bytes(&self) -> usize {
            0
        }

        async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
            transaction.run(&mut Script::new("INSERT INTO child (parent) VALUES (1)")).await?;
            if self.0.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(sqlx::Error::WorkerCrashed.into()) }
        }
    }

    async fn backend(directory: &tempfile::TempDir) -> SqliteBackend {
        let backend =
            SqliteBackend::open(directory.path().join("a.db"), Arc::new(SystemClock)).await.expect("a database");
        for statement in [
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
            "INSERT INTO parent (id) VALUES (1)",
        ] {
            backend.writer.write(Statement(statement)).await.expect("a table");
        }
        backend
    }

    async fn children(backend: &SqliteBackend) -> i64 {
        let row = backend.row(Script::new("SELECT count(*) FROM child")).await.expect("a query").expect("a row");
        script::Columns::of(&row).int().expect("a number")
    }

    #[tokio::test]
    async fn after_a_failed_commit_nobody_is_acknowledged_and_work_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        // A deferred foreign key is checked by COMMIT itself, so this makes the commit of the whole batch fail.
        let good = backend.writer.write(Statement("INSERT INTO child (parent) VALUES (1)"));
        let bad = backend.writer.write(Statement("INSERT INTO child (parent) VALUES (2)"));
        let (good, bad) = futures_util::future::join(good, bad).await;
        assert!(matches!(good, Err(StoreError::Unavailable(_))), "{good:?}");
        assert!(matches!(bad, Err(StoreError::Unavailable(_))), "{bad:?}");
        assert_eq!(children(&backend).await, 0);
        backend.writer.write(Statement("INSERT INTO child (parent) VALUES (1)")).await.expect("a new connection");
        assert_eq!(children(&backend).await, 1);
    }

    #[tokio::test]
    async fn a_repeated_operation_is_applied_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        let flaky = backend.writer.write(Flaky(AtomicBool::new(false)));
        let other = backend.writer.write(Statement("INSERT INTO child (parent) VALUES (1)"));
        let (flaky, other) = futures_util::future::join(flaky, other).await;
        flaky.expect("the second application");
        other.expect("not its fault");
        assert_eq!(children(&backend).await, 2);
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        let refused = backend.rows(Script::new("INSERT INTO child (parent) VALUES (1)")).await;
        assert!(matches!(refused, Err(StoreError::Backend(_))), "{refused:?}");
        assert_eq!(children(&backend).await, 0);
    }

    #[tokio::test]
    async fn the_settings_hold() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        let mut connection =
            SqliteConnection::connect_with(&writer_options(&backend.path)).await.expect("a connection");
        for (pragma, value) in [
            ("PRAGMA synchronous", 2),
            ("PRAGMA foreign_keys", 1),
            ("PRAGMA trusted_schema", 0),
            ("PRAGMA cell_size_check", 1),
            ("PRAGMA busy_timeout", 5_000),
        ] {
            let row = Script::new(pragma).row(&mut connection).await.expect(pragma).expect(pragma);
            assert_eq!(script::Columns::of(&row).int().expect(pragma), value, "{pragma}");
        }
        let row = Script::new("PRAGMA journal_mode").row(&mut connection).await.expect("a query").expect("a row");
        assert_eq!(script::Columns::of(&row).text().expect("a mode"), "wal");
    }

    #[tokio::test]
    async fn tables_of_a_newer_or_changed_release_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for change in [
            "INSERT INTO ap_migrations (version, description, success, checksum, execution_time) \
             VALUES (99, 'later', 1, x'00', 0)",
            "UPDATE ap_migrations SET checksum = x'00'",
        ] {
            let path = directory.path().join(format!("{}.db", change.len()));
            let first = SqliteBackend::open(&path, Arc::new(SystemClock)).await.expect("a database");
            first.writer.write(Statement(change)).await.expect("a change");
            first.close().await;
            let error = SqliteBackend::open(&path, Arc::new(SystemClock)).await.expect_err("refused");
            assert!(matches!(error, SqliteOpenError::Migration { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn claims_sweeps_and_recovery_use_their_indexes() {
        let directory = tempfile::tempdir().expect("a directory");
        let backend = backend(&directory).await;
        for query in [
            "EXPLAIN QUERY PLAN SELECT id FROM ap_runs WHERE finished IS NULL AND status = 'QUEUED' AND lease IS NULL \
             ORDER BY created, id, project LIMIT 5",
            "EXPLAIN QUERY PLAN SELECT id FROM ap_runs WHERE finished IS NULL AND status = 'RUNNING' AND lease <= 5",
            "EXPLAIN QUERY PLAN SELECT id FROM ap_runs WHERE finished IS NULL",
            "EXPLAIN QUERY PLAN SELECT key FROM ap_deliveries WHERE expires <= 5 ORDER BY expires LIMIT 5",
        ] {
            let rows = backend.rows(Script::new(query)).await.expect("a plan");
            let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get::<String, _>(row, 3)).collect();
            let indexed =
                plan.iter().any(|line| line.contains("ap_runs_active") || line.contains("ap_deliveries_expires"));
            assert!(indexed, "{query}: {plan:?}");
            let sorts_queue = query.contains("QUEUED") && plan.iter().any(|line| line.contains("TEMP B-TREE"));
            assert!(!sorts_queue, "{query}: {plan:?}");
        }
    }
}
