//! [`PostgresBackend`]: one database, any number of processes, durable.
//!
//! A few tasks write, in groups; readers use connections of their own. All tables are in a schema of their own. Leases,
//! deliveries and waits expire by the server's clock, so the clocks of the processes need not agree.

mod accept;
mod cell;
mod claim;
mod commit;
mod connection;
mod error;
mod flow;
mod gate;
mod group;
mod link;
mod migrate;
mod options;
mod project;
mod queue;
mod rows;
mod run;
mod subject;
mod system;
mod trigger;
mod value;
mod values;
mod wakeup;
mod writer;

use std::{fmt, sync::Arc};

use ap_core::store::{BackendError, Page, PageRequest, StoreError};
use sqlx::{
    PgPool, Postgres,
    postgres::{PgArguments, PgPoolOptions, PgRow},
    query::Query,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    error::PostgresOpenError,
    options::{DangerousPostgresOptions, PostgresOptions, PostgresTls},
};
use self::{
    error::{described, store_error},
    link::Connector,
    value::Id,
    writer::{Writer, bounded},
};
use crate::wakeup::Wakeup;

/// Keeps everything in one schema of a PostgreSQL database (15 or newer), for any number of processes.
///
/// A run belongs to whoever has its lease; one whose holder is gone can be claimed once the lease has expired. While the
/// database is gone, every call fails as `Unavailable` within ten seconds, and works again by itself when it is back. A
/// write that fails as `Unavailable` may have happened all the same.
///
/// Between the processes and the server there must be nothing that shares a connection between transactions, such as
/// PgBouncer in its transaction mode.
///
/// # Examples
/// ```no_run
/// use ap_runtime::backend::postgres::{PostgresBackend, PostgresOptions};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let options = PostgresOptions::from_url("postgres://ap:secret@db.example.com/flows")?;
/// let backend = PostgresBackend::open(options).await?;
/// let wakeup = backend.wakeup().await;
/// backend.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PostgresBackend {
    connector: Arc<Connector>,
    schema: String,
    writer: Writer,
    readers: PgPool,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl PostgresBackend {
    /// Connects, creates the schema if it is not there, and brings its tables up to date; any number of processes may do
    /// so at once.
    ///
    /// Call it inside a tokio runtime with its timer and network enabled; the backend's tasks live there.
    ///
    /// # Errors
    /// [`PostgresOpenError`]; no record was changed then.
    pub async fn open(options: PostgresOptions) -> Result<Self, PostgresOpenError> {
        let schema = options.schema()?.to_owned();
        let connector = Arc::new(options.connector()?);
        let unreachable = |error| PostgresOpenError::Connection(BackendError::new(described(error)));
        let mut connection = connector.connect().await.map_err(unreachable)?;
        migrate::run(&mut connection, &schema, migrate::ALL).await?;
        warn_of_lost_writes(&mut connection).await;
        // An error means that it is closed already.
        let _ = sqlx::Connection::close(connection).await;
        let set_up = Arc::clone(&connector);
        let readers = PgPoolOptions::new()
            .max_connections(options.readers())
            .acquire_timeout(connector.timeout())
            .after_connect(move |connection, _| {
                let connector = Arc::clone(&set_up);
                Box::pin(async move { connector.set_up(connection).await })
            })
            .connect_lazy_with(connector.options().clone());
        let writer = Writer::start(&connector, options.writers());
        Ok(Self { connector, schema, writer, readers, tasks: TaskTracker::new(), closing: CancellationToken::new() })
    }

    /// Hints between the processes on this schema, over LISTEN and NOTIFY, with two connections of their own. They end with
    /// [`PostgresBackend::close`].
    pub async fn wakeup(&self) -> Arc<dyn Wakeup> {
        // Identifiers of channels are as long as those of schemas may be.
        let channel = format!("{}_wakeup", self.schema);
        Arc::new(wakeup::start(&self.connector, channel, &self.tasks, &self.closing).await)
    }

    /// Completes the writes that were handed over and closes every connection; nothing of the backend runs on. Whoever calls a
    /// method afterwards gets `Unavailable`.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.writer.close().await;
        self.tasks.wait().await;
        self.readers.close().await;
    }

    async fn row<T>(
        &self,
        query: Query<'_, Postgres, PgArguments>,
        read: impl Fn(&PgRow) -> sqlx::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let row = bounded(async { query.fetch_optional(&self.readers).await.map_err(store_error) }).await?;
        row.map(|row| read(&row)).transpose().map_err(store_error)
    }

    async fn rows<T>(
        &self,
        query: Query<'_, Postgres, PgArguments>,
        read: impl Fn(&PgRow) -> sqlx::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = bounded(async { query.fetch_all(&self.readers).await.map_err(store_error) }).await?;
        link::read_all(&rows, read).map_err(store_error)
    }

    /// Reads a page; `query` lacks its last two arguments, the first id and the number of rows.
    async fn page<T>(
        &self,
        query: Query<'_, Postgres, PgArguments>,
        page: &PageRequest,
        read: impl Fn(&PgRow) -> sqlx::Result<T>,
        id: impl Fn(&T) -> u128,
    ) -> Result<Page<T>, StoreError> {
        let first = page.start_after().map_or(Some(0), |after| after.checked_add(1));
        let rows = match first {
            Some(first) => self.rows(query.bind(Id(first)).bind(i64::from(page.limit()) + 1), read).await?,
            // Nothing is behind the last id there is.
            None => Vec::new(),
        };
        Ok(Page::from_rows(rows, page, id))
    }
}

impl fmt::Debug for PostgresBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackend")
            .field("schema", &self.schema)
            .field("writer", &self.writer)
            .finish_non_exhaustive()
    }
}

/// A server that does not wait for its disk can lose what it acknowledged.
async fn warn_of_lost_writes(connection: &mut sqlx::PgConnection) {
    let settings = sqlx::query("SELECT current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'");
    let safe = settings.fetch_one(connection).await.and_then(|row| value::Columns::of(&row).value());
    if matches!(safe, Ok(false)) {
        tracing::warn!("PostgreSQL runs without `fsync` or `full_page_writes`: a crash of the server loses runs");
    }
}
