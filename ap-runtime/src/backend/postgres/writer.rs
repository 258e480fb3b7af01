//! [`Writer`]: the tasks that write.
//!
//! Each owns one connection and commits in groups: whatever queued during a commit goes into the next one, with a result per
//! operation. Several work side by side, so that one's commit overlaps with another's statements; what belongs to one run goes
//! to one of them, in order. Nobody is answered before the commit that carries the operation, and an operation belongs to
//! the queue once it is sent, so dropping the future that waits for it cancels nothing.

use std::{collections::BTreeSet, fmt, future::Future, sync::Arc, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, RunId},
    store::{BackendError, StoreError},
};
use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::{
    error::store_error,
    group::Group,
    link::{Connector, Failure, Link, Outcome, Transaction, Work},
};
use crate::store::{Accept, Accepted, RunCommit};

/// Names a run.
pub(super) type RunKey = (ProjectId, RunId);

/// One change of the database with a transaction of its own.
#[async_trait]
pub(super) trait Operation: Send + Sync + 'static {
    /// What the caller gets.
    type Output: Send + 'static;

    /// Roughly how many bytes of payload it carries.
    fn bytes(&self) -> usize {
        0
    }

    /// The run whose other operations must not be overtaken.
    fn run(&self) -> Option<RunKey> {
        None
    }

    /// Does it. It may be done twice, the second time after everything of the first was rolled back.
    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Self::Output, Failure>;
}

/// The way to the tasks that write.
pub(super) struct Writer {
    lanes: Vec<Lane>,
    /// For what belongs to no run.
    system: Lane,
    tasks: TaskTracker,
}

/// The way to one task.
struct Lane {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
}

impl Writer {
    /// Starts `lanes` tasks for runs and one for the rest.
    pub(super) fn start(connector: &Arc<Connector>, lanes: u32) -> Self {
        let tasks = TaskTracker::new();
        let start = |others: Vec<mpsc::Sender<Message>>| {
            let (queue, incoming) = mpsc::channel(QUEUE_OPERATIONS);
            let task = Task { incoming, link: Link::new(Arc::clone(connector)), others };
            tasks.spawn(task.run());
            Lane { queue, room: Arc::new(Semaphore::new(QUEUE_KIB)) }
        };
        let lanes: Vec<Lane> = (0..lanes.max(1)).map(|_| start(Vec::new())).collect();
        let system = start(lanes.iter().map(|lane| lane.queue.clone()).collect());
        Self { lanes, system, tasks }
    }

    /// Accepts, or refuses at once if the queue is full.
    pub(super) async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError> {
        let lane = self.lane((accept.run.project, accept.run.id));
        let bytes = accept.entry.sealed.as_bytes().len() + audit_bytes(audit);
        let room = Arc::clone(&lane.room).try_acquire_many_owned(kib(bytes)).map_err(|_| saturated())?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending { operation: accept, audit: audit.to_vec(), reply, _room: room };
        lane.queue.try_send(Message::Accept(Box::new(pending))).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => closed(),
            mpsc::error::TrySendError::Full(_) => saturated(),
        })?;
        bounded(async { answer.await.map_err(|_| closed())? }).await
    }

    /// Commits to a run.
    pub(super) async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError> {
        let lane = self.lane((commit.lease.project, commit.lease.run));
        let entries = commit.entries.iter().map(|entry| entry.sealed.as_bytes().len());
        let files = commit.files.iter().map(|file| file.sealed.as_bytes().len());
        let bytes = entries.chain(files).sum::<usize>() + super::values::bytes(&commit.values) + audit_bytes(audit);
        bounded(async {
            let room = Arc::clone(&lane.room).acquire_many_owned(kib(bytes)).await.map_err(|_| closed())?;
            let (reply, answer) = oneshot::channel();
            let pending = Pending { operation: commit, audit: audit.to_vec(), reply, _room: room };
            lane.queue.send(Message::Commit(Box::new(pending))).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        })
        .await
    }

    /// Does an operation after those of its run that were handed over before; one of no run after those of the same kind.
    pub(super) async fn write<O: Operation>(&self, operation: O) -> Result<O::Output, StoreError> {
        let lane = operation.run().map_or(&self.system, |run| self.lane(run));
        lane.write(operation, Message::Other).await
    }

    /// Does an operation after all that were handed over before.
    pub(super) async fn write_after_all<O: Operation>(&self, operation: O) -> Result<O::Output, StoreError> {
        self.system.write(operation, Message::AfterAll).await
    }

    /// Takes no more operations, completes those that were handed over, and returns once the tasks have ended.
    pub(super) async fn close(&self) {
        self.tasks.close();
        for lane in std::iter::once(&self.system).chain(&self.lanes) {
            // An error means that the task has ended already.
            let _ = lane.queue.send(Message::Close).await;
        }
        self.tasks.wait().await;
    }

    fn lane(&self, (project, run): RunKey) -> &Lane {
        let number = (project.as_u128() ^ run.as_u128()) % (self.lanes.len().max(1) as u128);
        self.lanes.get(usize::try_from(number).unwrap_or(0)).unwrap_or(&self.system)
    }
}

impl Lane {
    async fn write<O: Operation>(
        &self,
        operation: O,
        message: impl FnOnce(Box<dyn Job>) -> Message,
    ) -> Result<O::Output, StoreError> {
        let bytes = operation.bytes();
        bounded(async {
            let room = Arc::clone(&self.room).acquire_many_owned(kib(bytes)).await.map_err(|_| closed())?;
            let (reply, answer) = oneshot::channel();
            let job = Box::new(Pending { operation, audit: Vec::new(), reply, _room: room });
            self.queue.send(message(job)).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        })
        .await
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free: Vec<usize> = self.lanes.iter().map(|lane| lane.queue.capacity()).collect();
        f.debug_struct("Writer").field("free", &free).finish_non_exhaustive()
    }
}

/// An operation and who waits for it.
pub(super) struct Pending<T, R> {
    pub(super) operation: T,
    pub(super) audit: Vec<AuditRecord>,
    reply: oneshot::Sender<Result<R, StoreError>>,
    _room: OwnedSemaphorePermit,
}

impl<T, R> Pending<T, R> {
    pub(super) fn answer(self, result: Result<R, StoreError>) {
        // An error means that the caller no longer waits; what was done stays done.
        let _ = self.reply.send(result);
    }
}

/// An acceptance that waits for its commit.
pub(super) type PendingAccept = Box<Pending<Accept, Accepted>>;
/// A commit to a run that waits for the one of the database.
pub(super) type PendingCommit = Box<Pending<RunCommit, ()>>;

/// An operation whose types are hidden.
#[async_trait]
pub(super) trait Job: Send {
    fn run(&self) -> Option<RunKey>;
    async fn perform(self: Box<Self>, link: &mut Link);
}

#[async_trait]
impl<O: Operation> Job for Pending<O, O::Output> {
    fn run(&self) -> Option<RunKey> {
        self.operation.run()
    }

    async fn perform(self: Box<Self>, link: &mut Link) {
        let result = link.transact(&Alone(&self.operation)).await.into_result();
        (*self).answer(result);
    }
}

struct Alone<'o, O>(&'o O);

#[async_trait]
impl<O: Operation> Work for Alone<'_, O> {
    type Output = O::Output;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<O::Output, Failure> {
        self.0.apply(transaction).await
    }
}

pub(super) enum Message {
    Accept(PendingAccept),
    /// What was sent to the other tasks before it is done first.
    AfterAll(Box<dyn Job>),
    Close,
    Commit(PendingCommit),
    Other(Box<dyn Job>),
    /// Is answered when everything before it is done.
    Reached(oneshot::Sender<()>),
}

impl Message {
    /// The run whose operations it belongs among.
    fn run(&self) -> Option<RunKey> {
        match self {
            Self::Accept(accept) => Some((accept.operation.run.project, accept.operation.run.id)),
            Self::Commit(commit) => Some((commit.operation.lease.project, commit.operation.lease.run)),
            Self::Other(job) => job.run(),
            Self::AfterAll(_) | Self::Close | Self::Reached(_) => None,
        }
    }
}

struct Task {
    incoming: mpsc::Receiver<Message>,
    link: Link,
    /// The tasks that an operation after all waits for.
    others: Vec<mpsc::Sender<Message>>,
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.incoming.recv().await {
            let mut batch = vec![first];
            // Whoever the last commit woke is about to hand over its next operation: let all of it come along, for a
            // commit costs about the same for one operation as for many.
            let mut gathered = 0;
            for _ in 0..GATHER_ROUNDS {
                while batch.len() < BATCH_OPERATIONS
                    && let Ok(message) = self.incoming.try_recv()
                {
                    batch.push(message);
                }
                if batch.len() >= BATCH_OPERATIONS || batch.len() == gathered {
                    break;
                }
                gathered = batch.len();
                tokio::task::yield_now().await;
            }
            if batch.iter().any(|message| matches!(message, Message::Close)) {
                // What was sent before stays in the queue and is received. Those that wait for others would wait for ever.
                self.incoming.close();
            }
            self.perform(batch).await;
        }
        self.link.close().await;
    }

    /// Does everything of a batch: in rounds, each of them the largest group that can share a commit, and the first that
    /// needs one of its own.
    async fn perform(&mut self, mut batch: Vec<Message>) {
        while !batch.is_empty() {
            let (group, rest) = split(batch);
            let mut rest = rest.into_iter().peekable();
            let repeated = self.commit(group).await;
            if rest.peek().is_some_and(|message| !is_shareable(message))
                && let Some(message) = rest.next()
            {
                self.alone(message).await;
            }
            batch = repeated.into_iter().map(Message::Accept).chain(rest).collect();
        }
    }

    /// Commits a group; returns what has to be tried again.
    async fn commit(&mut self, mut group: Group) -> Vec<PendingAccept> {
        if group.is_empty() {
            return Vec::new();
        }
        match self.link.transact(&group).await {
            Outcome::Done(results) => group.answer(results),
            Outcome::RolledBack(error) if group.len() > 1 => {
                tracing::debug!(operations = group.len(), "a group is repeated one by one");
                drop(error);
                for single in group.split() {
                    let outcome = self.link.transact(&single).await;
                    settle(single, outcome);
                }
                group.take_followers()
            }
            // Nothing can be written now: not for those who follow either.
            Outcome::Lost(error) => {
                settle(group, Outcome::Lost(error));
                Vec::new()
            }
            outcome => {
                let followers = group.take_followers();
                settle(group, outcome);
                followers
            }
        }
    }

    async fn alone(&mut self, message: Message) {
        match message {
            Message::Accept(accept) => {
                let result = self.link.transact(&super::accept::AcceptOne(&accept.operation, &accept.audit)).await;
                accept.answer(result.into_result());
            }
            Message::Commit(commit) => {
                let result = self.link.transact(&super::commit::CommitOne(&commit.operation, &commit.audit)).await;
                commit.answer(result.into_result());
            }
            Message::Other(job) => job.perform(&mut self.link).await,
            Message::AfterAll(job) => {
                let mut waiting = Vec::new();
                for other in &self.others {
                    let (reached, wait) = oneshot::channel();
                    if other.send(Message::Reached(reached)).await.is_ok() {
                        waiting.push(wait);
                    }
                }
                for wait in waiting {
                    // An error means that the other task has ended, and with it all it had to do.
                    let _ = wait.await;
                }
                job.perform(&mut self.link).await;
            }
            // An error means that nobody waits any more.
            Message::Reached(reached) => drop(reached.send(())),
            Message::Close => {}
        }
    }
}

fn settle(group: Group, outcome: Outcome<super::group::Results>) {
    match outcome {
        Outcome::Done(results) => drop(group.answer(results)),
        Outcome::Refused(error) => group.fail(|| StoreError::Backend(BackendError::new(error.to_string()))),
        Outcome::RolledBack(error) => {
            let mut error = Some(store_error(error));
            group.fail(|| error.take().unwrap_or_else(closed));
        }
        Outcome::Lost(error) => {
            let reason = super::error::described(error).to_string();
            group.fail(|| StoreError::Unavailable(BackendError::new(reason.clone())));
        }
    }
}

/// Whether a message can share a commit with others.
fn is_shareable(message: &Message) -> bool {
    match message {
        Message::Accept(accept) => Group::takes_accept(&accept.operation),
        Message::Commit(commit) => Group::takes_commit(&commit.operation),
        _ => false,
    }
}

/// Takes as much as possible out of a batch that can share one commit, moving nothing before an operation of the same run.
fn split(batch: Vec<Message>) -> (Group, Vec<Message>) {
    let (mut group, mut rest) = (Group::default(), Vec::new());
    let mut touched: BTreeSet<RunKey> = BTreeSet::new();
    for message in batch {
        let run = message.run();
        let free = run.is_none_or(|run| !touched.contains(&run));
        touched.extend(run);
        match message {
            Message::Accept(accept) if free && Group::takes_accept(&accept.operation) => group.add_accept(accept),
            Message::Commit(commit) if free && Group::takes_commit(&commit.operation) => group.add_commit(commit),
            message => rest.push(message),
        }
    }
    (group, rest)
}

/// Whatever the database does, a call ends.
pub(super) async fn bounded<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| Err(unavailable("PostgreSQL does not answer in time")))
}

pub(super) fn audit_bytes(records: &[AuditRecord]) -> usize {
    records.iter().map(|record| record.body.as_bytes().len() + record.action.len()).sum()
}

/// What an operation of so many bytes takes of the queue's room; at most all of it.
fn kib(bytes: usize) -> u32 {
    u32::try_from((bytes / 1_024 + 1).min(QUEUE_KIB)).unwrap_or(1)
}

fn closed() -> StoreError {
    unavailable("the backend is closed")
}

fn saturated() -> StoreError {
    unavailable("the queue of writes is full")
}

fn unavailable(reason: &'static str) -> StoreError {
    StoreError::Unavailable(BackendError::new(reason))
}

/// How long a call waits for its answer at most.
const CALL: Duration = Duration::from_secs(10);
/// Operations that wait for one task at most, and their payload.
const QUEUE_OPERATIONS: usize = 1_024;
const QUEUE_KIB: usize = 32 * 1_024;
/// Operations in one commit at most.
const BATCH_OPERATIONS: usize = 256;
/// How often a task lets others run while more operations keep coming.
const GATHER_ROUNDS: usize = 8;
