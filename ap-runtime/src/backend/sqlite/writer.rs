//! [`Writer`]: the one thread that writes.
//!
//! It owns one connection and commits in groups: whatever queued during a commit goes into the next one, with a result
//! per operation. Nobody is answered before the commit that carries the operation. An operation belongs to the queue once
//! it is sent, so dropping the future that waits for it cancels nothing.

use std::{fmt, panic, path::PathBuf, sync::Arc, thread};

use ap_core::{
    store::{BackendError, StoreError},
    time::Timestamp,
};
use rusqlite::{Connection, Params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};

use super::{
    connect::{self, Unprepared},
    error::{SqliteOpenError, open_error, store_error},
    lock::FileLock,
    row::Columns,
};
use crate::clock::Clock;

/// One change of the database.
///
/// It may be applied twice, the second time after everything of the first was rolled back.
pub(super) trait Operation: Send + 'static {
    /// What the caller gets.
    type Output: Send + 'static;

    /// Roughly how many bytes of payload it carries.
    fn bytes(&self) -> usize;

    /// Does it, as a part of `transaction`.
    fn apply(&self, transaction: &Transaction<'_>) -> Result<Self::Output, Failure>;
}

/// The open transaction of a batch.
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c Connection,
    /// The time of the batch.
    pub(super) now: Timestamp,
}

impl Transaction<'_> {
    /// Runs a statement and returns how many rows it changed. It stays prepared.
    pub(super) fn run(&self, sql: &str, arguments: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(arguments)
    }

    /// Runs a query and returns its first row.
    pub(super) fn row<T>(
        &self,
        sql: &str,
        arguments: impl Params,
        read: impl FnOnce(&mut Columns<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(arguments)?;
        rows.next()?.map(|row| read(&mut Columns::of(row))).transpose()
    }

    /// Whether a query finds anything.
    pub(super) fn exists(&self, sql: &str, arguments: impl Params) -> rusqlite::Result<bool> {
        Ok(self.row(sql, arguments, |_| Ok(()))?.is_some())
    }

    /// Runs a query and returns its rows.
    pub(super) fn rows<T>(
        &self,
        sql: &str,
        arguments: impl Params,
        read: impl FnMut(&mut Columns<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        connect::rows(self.connection, sql, arguments, read)
    }
}

/// Why an operation was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// By the rules of the seam, before anything was written: the others of the batch go on.
    Refused(StoreError),
    /// By the rules of the seam, after something was written: the transaction must not go on.
    Undone(StoreError),
    /// By the database; the transaction must not go on.
    Statement(rusqlite::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Statement(error)
    }
}

/// The way to the thread that writes.
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    /// Closes once the thread has freed the lock.
    ended: watch::Receiver<()>,
}

impl Writer {
    /// Starts the thread, which opens and prepares the database at `path`; it holds `lock` until it has written everything.
    pub(super) async fn start(path: PathBuf, lock: FileLock, clock: Arc<dyn Clock>) -> Result<Self, SqliteOpenError> {
        let (queue, incoming) = mpsc::channel(QUEUE_OPERATIONS);
        let (end, ended) = watch::channel(());
        let (opened, answer) = oneshot::channel();
        let thread_path = path.clone();
        let body = move || {
            let work = Work { incoming, connection: None, path: thread_path, clock, answered: 0 };
            work.run(opened);
            drop(lock);
            drop(end);
        };
        let started = thread::Builder::new().name("ap-sqlite-writer".to_owned()).spawn(body);
        started.map_err(|source| SqliteOpenError::Io { path: path.clone(), source })?;
        answer.await.unwrap_or_else(|_| Err(SqliteOpenError::Store { path, source: closed() }))?;
        Ok(Self { queue, room: Arc::new(Semaphore::new(QUEUE_KIB)), ended })
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

    /// Folds the log into the database and truncates it, so that what was overwritten is in neither.
    ///
    /// # Errors
    /// `Unavailable` if somebody reads an old state for longer than the connection waits.
    pub(super) async fn fold(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Fold(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Takes no more operations, completes those that were handed over, and returns once the lock is free again.
    pub(super) async fn close(&self) {
        // An error means that the thread takes nothing any more, which is what we want.
        let _ = self.queue.send(Message::Close).await;
        // Nothing is ever sent: this waits for the thread to drop its end.
        let _ = self.ended.clone().changed().await;
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("free", &self.queue.capacity()).finish_non_exhaustive()
    }
}

enum Message {
    Write(Box<dyn Job>),
    /// See [`Writer::fold`].
    Fold(oneshot::Sender<Result<(), StoreError>>),
    Close,
}

/// An operation whose types are hidden.
trait Job: Send {
    fn bytes(&self) -> usize;
    /// Does the operation and keeps its result; an error means that the transaction must not go on.
    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), Broken>;
    fn fail(&mut self, error: StoreError);
    fn answer(self: Box<Self>);
}

/// Why a transaction cannot go on, and whether its connection can.
struct Broken {
    error: StoreError,
    panicked: bool,
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

impl<O: Operation> Job for Pending<O> {
    fn bytes(&self) -> usize {
        self.operation.bytes()
    }

    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), Broken> {
        // What a panic leaves behind is the connection, which is replaced then, and the operation, which never changes.
        let applied = panic::catch_unwind(panic::AssertUnwindSafe(|| self.operation.apply(transaction)));
        self.result = Some(match applied {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(Failure::Refused(error))) => Err(error),
            Ok(Err(Failure::Undone(error))) => return Err(Broken { error, panicked: false }),
            Ok(Err(Failure::Statement(error))) => return Err(Broken { error: store_error(error), panicked: false }),
            Err(_) => {
                let error = StoreError::Backend(BackendError::new("an operation panicked"));
                return Err(Broken { error, panicked: true });
            }
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

/// The state of the thread.
struct Work {
    incoming: mpsc::Receiver<Message>,
    /// `None` after a failed commit, until the next batch opens another.
    connection: Option<Connection>,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// How many operations the last commit answered.
    answered: usize,
}

/// What goes into one commit.
#[derive(Default)]
struct Batch {
    jobs: Vec<Box<dyn Job>>,
    bytes: usize,
    /// Who waits for the log to be folded in after the commit.
    folds: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Batch {
    /// Returns whether the message was the last one.
    fn add(&mut self, message: Message) -> bool {
        match message {
            Message::Close => true,
            Message::Fold(reply) => {
                self.folds.push(reply);
                false
            }
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
    /// An operation failed; everything was rolled back.
    RolledBack(StoreError),
    /// Whether the batch is durable is unknown, or nothing can be written now.
    Lost(rusqlite::Error),
}

impl Work {
    fn run(mut self, opened: oneshot::Sender<Result<(), SqliteOpenError>>) {
        let prepared = connect::prepare(&self.path);
        let ready = prepared.is_ok();
        let told = opened.send(match prepared {
            Ok(connection) => {
                self.connection = Some(connection);
                Ok(())
            }
            Err(Unprepared::Migration(source)) => Err(SqliteOpenError::Migration { path: self.path.clone(), source }),
            Err(Unprepared::Statement(error)) => Err(open_error(self.path.clone(), error)),
        });
        if ready && told.is_ok() {
            self.write_batches();
        }
        self.shut_down();
    }

    fn write_batches(&mut self) {
        while let Some(first) = self.incoming.blocking_recv() {
            let mut batch = Batch::default();
            let closing = batch.add(first) || self.gather(&mut batch);
            if closing {
                // What was sent before stays in the queue and is received.
                self.incoming.close();
            }
            self.commit(batch.jobs);
            if !batch.folds.is_empty() {
                let folded = self.fold();
                let told = |folded: &Result<(), String>| match folded {
                    Ok(()) => Ok(()),
                    Err(reason) => Err(StoreError::Unavailable(BackendError::new(reason.clone()))),
                };
                // An error means that nobody waits any more.
                batch.folds.into_iter().for_each(|reply| drop(reply.send(told(&folded))));
            }
        }
    }

    /// Folds the log into the database and truncates it.
    fn fold(&mut self) -> Result<(), String> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect::writer(&self.path).map_err(|error| error.to_string())?,
        };
        let connection = self.connection.insert(connection);
        match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get::<_, bool>(0)) {
            Ok(false) => Ok(()),
            Ok(true) => Err("the log is being read and could not be truncated".to_owned()),
            Err(error) => Err(format!("the log could not be truncated: {error}")),
        }
    }

    /// Takes what has queued, and lets whoever the last commit woke hand over its next operation: a commit costs about the
    /// same for one operation as for many. Returns whether to close.
    fn gather(&mut self, batch: &mut Batch) -> bool {
        let mut idle = 0;
        while !batch.is_full() && idle < GATHER_ROUNDS {
            match self.incoming.try_recv() {
                Ok(message) => {
                    if batch.add(message) {
                        return true;
                    }
                    idle = 0;
                }
                Err(_) if batch.jobs.len() >= self.answered => return false,
                Err(_) => {
                    idle += 1;
                    thread::yield_now();
                }
            }
        }
        false
    }

    fn commit(&mut self, mut batch: Vec<Box<dyn Job>>) {
        if batch.is_empty() {
            return;
        }
        match self.attempt(&mut batch) {
            Attempt::RolledBack(error) if batch.len() > 1 => {
                tracing::debug!(%error, operations = batch.len(), "a batch is repeated one by one");
                for job in &mut batch {
                    let result = self.attempt(std::slice::from_mut(job));
                    settle(std::slice::from_mut(job), result);
                }
            }
            result => settle(&mut batch, result),
        }
        self.answered = batch.len();
        batch.into_iter().for_each(Job::answer);
    }

    /// Applies the operations in one transaction.
    fn attempt(&mut self, batch: &mut [Box<dyn Job>]) -> Attempt {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match connect::writer(&self.path) {
                Ok(connection) => connection,
                Err(error) => return Attempt::Lost(error),
            },
        };
        if let Err(error) = statement(&connection, "BEGIN IMMEDIATE") {
            discard(connection);
            return Attempt::Lost(error);
        }
        let transaction = Transaction { connection: &connection, now: self.clock.now() };
        let applied = batch.iter_mut().try_for_each(|job| job.apply(&transaction));
        let ended = statement(&connection, if applied.is_ok() { "COMMIT" } else { "ROLLBACK" });
        match (applied, ended) {
            (Ok(()), Ok(())) => {
                self.connection = Some(connection);
                Attempt::Committed
            }
            (Ok(()), Err(error)) => {
                // After a failed commit or fsync the state of this connection is not to be trusted.
                discard(connection);
                Attempt::Lost(error)
            }
            (Err(broken), ended) => {
                // SQLite rolls back by itself after some errors, and then has nothing to roll back.
                if ended.is_ok() && !broken.panicked {
                    self.connection = Some(connection);
                } else {
                    discard(connection);
                }
                Attempt::RolledBack(broken.error)
            }
        }
    }

    fn shut_down(self) {
        let Some(connection) = self.connection else { return };
        let checkpoint = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        if let Err(error) = checkpoint {
            tracing::warn!(%error, "the SQLite log was not folded into the database; the next start does it");
        }
        discard(connection);
    }
}

fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute(()).map(|_| ())
}

fn settle(jobs: &mut [Box<dyn Job>], attempt: Attempt) {
    match attempt {
        Attempt::Committed => {}
        Attempt::RolledBack(error) => {
            // One job: a failed batch of more is repeated one by one.
            if let [job] = jobs {
                job.fail(error);
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

fn discard(connection: Connection) {
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "a SQLite connection did not close cleanly");
    }
}

fn kib(operation: &impl Operation) -> u32 {
    u32::try_from(operation.bytes().div_ceil(1024).clamp(1, QUEUE_KIB)).unwrap_or(u32::MAX)
}

fn saturated() -> StoreError {
    StoreError::Unavailable(BackendError::new("the queue of writes is full"))
}

pub(super) fn closed() -> StoreError {
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
/// How often in a row the thread lets others run without getting anything before it commits.
const GATHER_ROUNDS: usize = 64;
