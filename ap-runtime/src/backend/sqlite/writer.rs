//! [`Writer`]: the one task that writes.
//!
//! It owns one connection and commits in groups: whatever queued during a commit goes into the next one, with a result
//! per operation. Nobody is answered before the commit that carries the operation. An operation belongs to the queue once
//! it is sent, so dropping the future that waits for it cancels nothing.

use std::{fmt, sync::Arc};

use ap_core::{
    store::{BackendError, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot},
    task::JoinHandle,
};

use super::{error::store_error, lock::FileLock, script::Script};
use crate::clock::Clock;

/// One change of the database.
///
/// An operation that is refused has written nothing: it looks before it writes, or its first statement decides about the
/// rest. It may be applied twice, the second time after everything of the first was rolled back.
#[async_trait]
pub(super) trait Operation: Send + Sync + 'static {
    /// What the caller gets.
    type Output: Send + 'static;

    /// Roughly how many bytes of payload it carries.
    fn bytes(&self) -> usize;

    /// Operations of the same shape add the same statements to a script. `None` if it adds none: then it does all of its
    /// work in [`Operation::finish`].
    fn shape(&self) -> Option<Shape> {
        None
    }

    /// Adds the statements that are handed over together with those of other operations of this shape.
    fn write(&self, _script: &mut Script, _now: Timestamp) {}

    /// Completes the operation, given how many rows each of its own statements changed.
    async fn finish(&self, transaction: &mut Transaction<'_>, changes: &[u64]) -> Result<Self::Output, Failure>;
}

/// Tells operations apart whose statements differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// Which statements.
    pub(super) kind: &'static str,
    /// How many journal entries.
    pub(super) entries: usize,
    /// How many audit records.
    pub(super) audit: usize,
}

/// The open transaction of a batch.
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    /// The time of the batch.
    pub(super) now: Timestamp,
}

/// Why an operation was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// By the rules of the seam; nothing was written, and the others of the batch go on.
    Refused(StoreError),
    /// By the database; the transaction must not go on.
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

/// The way to the task that writes.
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the task on `connection`; it holds `lock` until it has written everything.
    pub(super) fn start(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        lock: FileLock,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (queue, incoming) = mpsc::channel(QUEUE_OPERATIONS);
        let task = Task { incoming, connection: Some(connection), options, clock, _lock: lock };
        let task = std::sync::Mutex::new(Some(tokio::spawn(task.run())));
        Self { queue, room: Arc::new(Semaphore::new(QUEUE_KIB)), task }
    }

    /// Hands `operation` over, waiting while the queue is full, and returns once it is durable or refused.
    pub(super) async fn write<O: Operation>(&self, operation: O) -> Result<O::Output, StoreError> {
        let room = Arc::clone(&self.room).acquire_many_owned(kib(&operation)).await.map_err(|_| closed())?;
        let (job, answer) = Pending::with_answer(operation, room);
        self.queue.send(Message::Write(job)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Like [`Writer::write`], but refuses at once if the queue is full.
    pub(super) async fn write_if_room<O: Operation>(&self, operation: O) -> Result<O::Output, StoreError> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib(&operation)).map_err(|error| match error {
            TryAcquireError::Closed => closed(),
            TryAcquireError::NoPermits => saturated(),
        })?;
        let (job, answer) = Pending::with_answer(operation, room);
        self.queue.try_send(Message::Write(job)).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => closed(),
            mpsc::error::TrySendError::Full(_) => saturated(),
        })?;
        answer.await.map_err(|_| closed())?
    }

    /// Takes no more operations, completes those that were handed over, and returns once the lock is free again.
    pub(super) async fn close(&self) {
        // An error means that the task has already ended, which is what we want.
        let _ = self.queue.send(Message::Close).await;
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match task {
            Some(task) => {
                if let Err(error) = task.await {
                    tracing::error!(%error, "the task that writes to SQLite failed");
                }
            }
            // Somebody else waits for the task; its end closes the queue.
            None => self.queue.closed().await,
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("free", &self.queue.capacity()).finish_non_exhaustive()
    }
}

enum Message {
    Write(Box<dyn Job>),
    Close,
}

/// An operation whose types are hidden.
#[async_trait]
trait Job: Send {
    fn bytes(&self) -> usize;
    fn shape(&self) -> Option<Shape>;
    fn write(&self, script: &mut Script, now: Timestamp);
    /// Completes the operation and keeps its result; an error is the database's.
    async fn finish(&mut self, transaction: &mut Transaction<'_>, changes: &[u64]) -> sqlx::Result<()>;
    fn fail(&mut self, error: StoreError);
    fn answer(self: Box<Self>);
}

struct Pending<O: Operation> {
    operation: O,
    result: Option<Result<O::Output, StoreError>>,
    reply: oneshot::Sender<Result<O::Output, StoreError>>,
    _room: OwnedSemaphorePermit,
}

type Answer<O> = oneshot::Receiver<Result<<O as Operation>::Output, StoreError>>;

impl<O: Operation> Pending<O> {
    fn with_answer(operation: O, room: OwnedSemaphorePermit) -> (Box<dyn Job>, Answer<O>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Self { operation, result: None, reply, _room: room }), answer)
    }
}

#[async_trait]
impl<O: Operation> Job for Pending<O> {
    fn bytes(&self) -> usize {
        self.operation.bytes()
    }

    fn shape(&self) -> Option<Shape> {
        self.operation.shape()
    }

    fn write(&self, script: &mut Script, now: Timestamp) {
        self.operation.write(script, now);
    }

    async fn finish(&mut self, transaction: &mut Transaction<'_>, changes: &[u64]) -> sqlx::Result<()> {
        self.result = Some(match self.operation.finish(transaction, changes).await {
            Ok(output) => Ok(output),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Statement(error)) => return Err(error),
        });
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        self.result = Some(Err(error));
    }

    fn answer(self: Box<Self>) {
        // An error means that the caller no longer waits; what was done stays done.
        let _ = self.reply.send(self.result.unwrap_or_else(|| Err(closed())));
    }
}

struct Task {
    incoming: mpsc::Receiver<Message>,
    /// `None` after a failed commit, until the next batch opens another.
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    clock: Arc<dyn Clock>,
    _lock: FileLock,
}

/// What goes into one commit.
#[derive(Default)]
struct Batch {
    jobs: Vec<Box<dyn Job>>,
    bytes: usize,
}

impl Batch {
    /// Returns whether the message was the last one.
    fn add(&mut self, message: Message) -> bool {
        match message {
            Message::Close => true,
            Message::Write(job) => {
                self.bytes += job.bytes();
                self.jobs.push(job);
                false
            }
        }
    }

    fn is_full(&self) -> bool {
        self.jobs.len() >= BATCH_OPERATIONS || self.bytes >= BATCH_BYTES
    }
}

/// How an attempt to commit a batch ended.
enum Attempt {
    Committed,
    /// A statement failed; everything was rolled back.
    RolledBack(sqlx::Error),
    /// Whether the batch is durable is unknown, or nothing can be written now.
    Lost(sqlx::Error),
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.incoming.recv().await {
            let mut batch = Batch::default();
            let mut closing = batch.add(first);
            // Whoever the last commit woke is about to hand over its next operation: let all of it come along, for a
            // commit costs about the same for one operation as for many.
            let mut gathered = 0;
            for _ in 0..GATHER_ROUNDS {
                while !closing
                    && !batch.is_full()
                    && let Ok(message) = self.incoming.try_recv()
                {
                    closing = batch.add(message);
                }
                if closing || batch.is_full() || batch.jobs.len() == gathered {
                    break;
                }
                gathered = batch.jobs.len();
                tokio::task::yield_now().await;
            }
            if closing {
                // What was sent before stays in the queue and is received.
                self.incoming.close();
            }
            self.commit(batch.jobs).await;
        }
        self.shut_down().await;
    }

    async fn commit(&mut self, mut batch: Vec<Box<dyn Job>>) {
        if batch.is_empty() {
            return;
        }
        gather_shapes(&mut batch);
        match self.attempt(&mut batch).await {
            Attempt::RolledBack(error) if batch.len() > 1 => {
                tracing::debug!(%error, operations = batch.len(), "a batch is repeated one by one");
                for job in &mut batch {
                    let result = self.attempt(std::slice::from_mut(job)).await;
                    settle(std::slice::from_mut(job), result);
                }
            }
            result => settle(&mut batch, result),
        }
        batch.into_iter().for_each(Job::answer);
    }

    /// Applies the operations in one transaction.
    async fn attempt(&mut self, batch: &mut [Box<dyn Job>]) -> Attempt {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match SqliteConnection::connect_with(&self.options).await {
                Ok(connection) => connection,
                Err(error) => return Attempt::Lost(error),
            },
        };
        if let Err(error) = Script::new("BEGIN IMMEDIATE").run(&mut connection).await {
            discard(connection).await;
            return Attempt::Lost(error);
        }
        let applied = apply(&mut connection, self.clock.now(), batch).await;
        let end = if applied.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = Script::new(end).run(&mut connection).await;
        match (applied, ended) {
            (Ok(()), Ok(_)) => {
                self.connection = Some(connection);
                Attempt::Committed
            }
            (Ok(()), Err(error)) => {
                // After a failed commit or fsync the state of this connection is not to be trusted.
                discard(connection).await;
                Attempt::Lost(error)
            }
            (Err(error), ended) => {
                // SQLite rolls back by itself after some errors, and then has nothing to roll back.
                match ended {
                    Ok(_) => self.connection = Some(connection),
                    Err(_) => discard(connection).await,
                }
                Attempt::RolledBack(error)
            }
        }
    }

    async fn shut_down(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let checkpoint = Script::new("PRAGMA wal_checkpoint(TRUNCATE)").row(&mut connection).await;
        if let Err(error) = checkpoint {
            tracing::warn!(%error, "the SQLite log was not folded into the database; the next start does it");
        }
        discard(connection).await;
    }
}

async fn apply(connection: &mut SqliteConnection, now: Timestamp, batch: &mut [Box<dyn Job>]) -> sqlx::Result<()> {
    let mut transaction = Transaction { connection, now };
    let mut rest = batch;
    while let Some(first) = rest.first() {
        let shape = first.shape();
        let alike = rest.iter().take(MAX_GROUP).take_while(|job| job.shape() == shape).count();
        // Groups of few sizes, so that few texts stay prepared.
        let size = if shape.is_none() { 1 } else { 1 << alike.ilog2() };
        let (group, tail) = rest.split_at_mut(size);
        let mut script = Script::default();
        let mut statements = 0;
        for job in &mut *group {
            job.write(&mut script, now);
            statements = script.statements();
        }
        let changes = script.run(&mut *transaction.connection).await?;
        let mut changes = changes.chunks((statements / size).max(1));
        for job in group {
            job.finish(&mut transaction, changes.next().unwrap_or_default()).await?;
        }
        rest = tail;
    }
    Ok(())
}

/// Brings operations of the same shape together, moving none past one without a shape. All of them wait at the same time,
/// so their order is free.
fn gather_shapes(batch: &mut [Box<dyn Job>]) {
    for run in batch.split_mut(|job| job.shape().is_none()) {
        run.sort_by_key(|job| job.shape());
    }
}

fn settle(jobs: &mut [Box<dyn Job>], attempt: Attempt) {
    match attempt {
        Attempt::Committed => {}
        Attempt::RolledBack(error) => {
            // One job: a failed batch of more is repeated one by one.
            if let [job] = jobs {
                job.fail(store_error(error));
            }
        }
        Attempt::Lost(error) => {
            tracing::error!(%error, operations = jobs.len(), "a commit failed; the connection is replaced");
            for job in jobs {
                job.fail(StoreError::Unavailable(BackendError::new(format!("the commit failed: {error}"))));
            }
        }
    }
}

async fn discard(connection: SqliteConnection) {
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "a SQLite connection did not close cleanly");
    }
}

fn kib(operation: &impl Operation) -> u32 {
    u32::try_from(operation.bytes().div_ceil(1024).clamp(1, QUEUE_KIB)).unwrap_or(u32::MAX)
}

fn saturated() -> StoreError {
    StoreError::Unavailable(BackendError::new("the queue of writes is full"))
}

fn closed() -> StoreError {
    StoreError::Unavailable(BackendError::new("the database was closed"))
}

/// Operations that wait at most.
const QUEUE_OPERATIONS: usize = 4_096;
/// Payload that waits at most, in KiB; a larger operation takes all of it.
const QUEUE_KIB: usize = 64 * 1024;
/// Operations in one commit at most.
const BATCH_OPERATIONS: usize = 512;
/// Payload after which a commit takes no further operation.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// How often the task lets others run before it commits, as long as they hand over more.
const GATHER_ROUNDS: usize = 16;
/// Operations handed over together at most; a power of two.
const MAX_GROUP: usize = 32;
