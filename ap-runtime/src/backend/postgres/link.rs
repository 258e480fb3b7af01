//! [`Link`]: one connection that writes, opened anew whenever it is not to be trusted any more.

use std::{fmt, sync::Arc, time::Duration};

use ap_core::{
    id::ProjectId,
    store::{BackendError, LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgRow},
};

use super::{
    error::{described, is_broken, is_collision, store_error},
    value::Columns,
};
use crate::clock::Clock;

/// Opens connections that are set up alike.
pub(super) struct Connector {
    options: PgConnectOptions,
    /// Statements that every connection starts with.
    setup: String,
    timeout: Duration,
    clock: Option<Arc<dyn Clock>>,
    /// Tells the locks of this schema from those of others.
    space: u64,
}

impl Connector {
    pub(super) fn new(
        options: PgConnectOptions,
        schema: &str,
        timeouts: Timeouts,
        clock: Option<Arc<dyn Clock>>,
    ) -> Self {
        let statement = timeouts.statement.as_millis();
        // The plans of prepared statements are made once, when tables are empty, and kept while they grow, so the ways to read
        // whole tables are ruled out. To plan each execution anew takes as long as all the rest of it. A server that acknowledges before its disk does is told not to.
        let setup = format!(
            "SET search_path TO \"{schema}\"; SET statement_timeout = {statement}; SET lock_timeout = {statement}; \
             SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}; \
             SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
             SET enable_mergejoin = off; SET jit = off; \
             SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        );
        let options = options.application_name(&format!("ap-runtime {schema}")).disable_statement_logging();
        Self { options, setup, timeout: timeouts.connect, clock, space: fnv(FNV_START, schema.as_bytes()) }
    }

    /// Connects and sets up, within the timeout.
    pub(super) async fn connect(&self) -> sqlx::Result<PgConnection> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            self.set_up(&mut connection).await?;
            Ok(connection)
        };
        tokio::time::timeout(self.timeout, connecting).await.unwrap_or_else(|_| Err(timed_out("connecting")))
    }

    pub(super) async fn set_up(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(self.setup.clone())).execute(connection).await.map(|_| ())
    }

    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The time by the clock that was given, if one was.
    pub(super) fn given_time(&self) -> Option<Timestamp> {
        self.clock.as_ref().map(|clock| clock.now())
    }

    /// Starts a transaction on `connection` and returns its time.
    async fn begin(&self, connection: &mut PgConnection) -> sqlx::Result<Timestamp> {
        if let Some(now) = self.given_time() {
            sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED").execute(connection).await?;
            return Ok(now);
        }
        let row = sqlx::raw_sql(BEGIN_AND_TELL_TIME).fetch_one(connection).await?;
        Columns::of(&row).time()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The driver's options show their password.
        f.debug_struct("Connector").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Bounds of waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) statement: Duration,
}

/// What a transaction does. It may be done twice, the second time after everything of the first was rolled back.
#[async_trait]
pub(super) trait Work: Sync {
    type Output: Send;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Self::Output, Failure>;
}

/// Why work was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// By the rules of the seam.
    Refused(StoreError),
    /// By the database.
    Statement(sqlx::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement(error)
    }
}

/// An open transaction.
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c mut PgConnection,
    /// The store's time.
    pub(super) now: Timestamp,
    space: u64,
}

/// What a lock of a transaction is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// Only one claims at a time, over all processes.
    Claim,
    /// Which series of a debounce key waits.
    Debounce(ProjectId, LookupHash),
    /// Who passes a gate.
    Gate(ProjectId, LookupHash),
    /// What a pace remembers.
    Pace(ProjectId, LookupHash),
    /// Who takes jobs of a queue.
    Queue(ProjectId, LookupHash),
    /// What a project has in its key-value store.
    Values(ProjectId),
}

impl Transaction<'_> {
    /// Waits for locks, which are free again when the transaction ends. They are taken in an order that all share.
    pub(super) async fn lock(&mut self, locks: &[Lock]) -> sqlx::Result<()> {
        if locks.is_empty() {
            return Ok(());
        }
        let mut keys: Vec<i64> = locks.iter().map(|lock| lock.key(self.space)).collect();
        keys.sort_unstable();
        keys.dedup();
        sqlx::query("SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key")
            .bind(keys)
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }
}

impl Lock {
    /// A number for it. Two locks of the same number wait for each other without need, and that is all.
    fn key(self, space: u64) -> i64 {
        let (kind, project, key) = match &self {
            Self::Claim => (b'c', None, None),
            Self::Debounce(project, key) => (b'd', Some(project), Some(key)),
            Self::Gate(project, key) => (b'g', Some(project), Some(key)),
            Self::Pace(project, key) => (b'p', Some(project), Some(key)),
            Self::Queue(project, key) => (b'q', Some(project), Some(key)),
            Self::Values(project) => (b'v', Some(project), None),
        };
        let hash = fnv(space, &[kind]);
        let hash = project.map_or(hash, |project| fnv(hash, project.as_bytes()));
        let hash = key.map_or(hash, |key| fnv(hash, &key.0));
        i64::from_ne_bytes(hash.to_ne_bytes())
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    Done(T),
    /// By the rules of the seam; nothing was written.
    Refused(StoreError),
    /// A statement failed; nothing was written.
    RolledBack(sqlx::Error),
    /// Whether it is durable is unknown, or nothing can be written now.
    Lost(sqlx::Error),
}

impl<T> Outcome<T> {
    pub(super) fn into_result(self) -> Result<T, StoreError> {
        match self {
            Self::Done(output) => Ok(output),
            Self::Refused(error) => Err(error),
            Self::RolledBack(error) => Err(store_error(error)),
            Self::Lost(error) => Err(StoreError::Unavailable(BackendError::new(described(error)))),
        }
    }
}

/// A connection that writes.
pub(super) struct Link {
    connector: Arc<Connector>,
    /// `None` until the first transaction, and after an error.
    connection: Option<PgConnection>,
}

impl Link {
    pub(super) const fn new(connector: Arc<Connector>) -> Self {
        Self { connector, connection: None }
    }

    /// Does `work` in one transaction, repeating it when it collides with another one.
    pub(super) async fn transact<W: Work>(&mut self, work: &W) -> Outcome<W::Output> {
        let mut repeats = COLLISIONS;
        loop {
            match self.attempt(work).await {
                Outcome::RolledBack(error) if is_collision(&error) && repeats > 0 => repeats -= 1,
                outcome => return outcome,
            }
        }
    }

    async fn attempt<W: Work>(&mut self, work: &W) -> Outcome<W::Output> {
        // What is cut off takes its connection with it, and the server rolls back.
        let (connection, outcome) = match tokio::time::timeout(ATTEMPT, self.take_and_apply(work)).await {
            Ok(ended) => ended,
            Err(_) => (None, Outcome::Lost(timed_out("a transaction"))),
        };
        self.connection = connection;
        if let Outcome::Lost(error) = &outcome {
            let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
            tracing::error!(code, "a transaction was lost; the connection to PostgreSQL is replaced");
        }
        outcome
    }

    /// A connection in a new transaction, and its time. One that was cut off while it was idle is replaced.
    fn begin(&mut self) -> impl Future<Output = sqlx::Result<(PgConnection, Timestamp)>> + Send + use<> {
        let (connector, kept) = (Arc::clone(&self.connector), self.connection.take());
        async move {
            if let Some(mut connection) = kept
                && let Ok(now) = connector.begin(&mut connection).await
            {
                return Ok((connection, now));
            }
            let mut connection = connector.connect().await?;
            let now = connector.begin(&mut connection).await?;
            Ok((connection, now))
        }
    }

    async fn take_and_apply<W: Work>(&mut self, work: &W) -> (Option<PgConnection>, Outcome<W::Output>) {
        let (mut connection, now) = match self.begin().await {
            Ok(begun) => begun,
            Err(error) => return (None, Outcome::Lost(error)),
        };
        let mut transaction = Transaction { connection: &mut connection, now, space: self.connector.space };
        let outcome = match work.apply(&mut transaction).await {
            Ok(output) => {
                return match sqlx::raw_sql("COMMIT").execute(&mut connection).await {
                    Ok(_) => (Some(connection), Outcome::Done(output)),
                    Err(error) => (None, Outcome::Lost(error)),
                };
            }
            Err(Failure::Statement(error)) if is_broken(&error) => return (None, Outcome::Lost(error)),
            Err(Failure::Statement(error)) => Outcome::RolledBack(error),
            Err(Failure::Refused(error)) => Outcome::Refused(error),
        };
        let rolled_back = sqlx::raw_sql("ROLLBACK").execute(&mut connection).await;
        (rolled_back.is_ok().then_some(connection), outcome)
    }

    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            // An error means that it was cut off.
            let _ = tokio::time::timeout(self.connector.timeout, connection.close()).await;
        }
    }
}

/// Reads `rows` with `read`.
pub(super) fn read_all<T>(rows: &[PgRow], read: impl Fn(&PgRow) -> sqlx::Result<T>) -> sqlx::Result<Vec<T>> {
    rows.iter().map(read).collect()
}

pub(super) fn timed_out(what: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{what} took too long")))
}

/// The hash of Fowler, Noll and Vo, 64 bits, variant 1a.
fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const BEGIN_AND_TELL_TIME: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
/// How long one attempt at a transaction may take.
const ATTEMPT: Duration = Duration::from_secs(8);
/// Repeats of a transaction that collided.
const COLLISIONS: u32 = 4;
const IDLE_IN_TRANSACTION_MS: u64 = 15_000;
