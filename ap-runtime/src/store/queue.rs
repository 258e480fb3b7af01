//! Queues of jobs.

use std::{fmt, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{JobId, ProjectId},
    store::{LookupHash, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::Lease;

/// A job to be added to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// Its id; jobs of a queue are taken in this order.
    pub id: JobId,
    /// Keyed hash of the queue's name.
    pub queue: LookupHash,
    /// What is to be done, sealed.
    pub sealed: Sealed,
}

/// What became of a job a run holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// It goes back to the queue, as if nobody had taken it.
    Back,
    /// It is done and forgotten.
    Done,
    /// It failed for good and is kept as a dead letter.
    Dead,
}

/// A request for jobs of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobRequest {
    /// The lease of the run that will hold them.
    pub lease: Lease,
    /// Keyed hash of the queue's name.
    pub queue: LookupHash,
    /// Tells the steps of a run apart that hold jobs of one queue.
    pub holder: LookupHash,
    /// How many jobs the holder wants to hold in all; fewer than it holds takes nothing away.
    pub limit: u32,
    /// How many jobs of the queue may be held over all runs.
    pub max_concurrent: u32,
    /// Least time between the starts of two jobs of the queue, also over runs. A job is taken before it may start.
    pub spacing: Duration,
}

/// A job that a run holds until a commit ends it, or until the run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldJob {
    /// Its id.
    pub id: JobId,
    /// When it may start.
    pub start: Timestamp,
    /// What is to be done, sealed.
    pub sealed: Sealed,
}

/// The answer to a [`JobRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldJobs {
    /// Every job the holder holds now, those of earlier requests included, in order of id.
    pub jobs: Vec<HeldJob>,
    /// Jobs of the queue that wait for somebody to take them; of more than 10,000 maybe fewer.
    pub waiting: u64,
}

/// How many jobs a queue has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Waiting to be taken.
    pub waiting: u64,
    /// Held by a run.
    pub held: u64,
    /// Dead letters.
    pub dead: u64,
}

/// Queues of jobs. A queue exists as soon as it has a job.
#[async_trait]
pub trait QueueStore: fmt::Debug + Send + Sync + 'static {
    /// Takes the oldest waiting jobs of a queue for a run, as far as the request's numbers allow. Asking again with the same
    /// holder returns what it holds already, so a crash between taking and journalling loses nothing. What a run holds stays
    /// with it whoever executes it, paused or not.
    ///
    /// # Errors
    /// `Fenced` as [`RunStore::commit`](super::RunStore::commit); [`StoreError`] lists the rest.
    async fn take_jobs(&self, request: JobRequest) -> Result<HeldJobs, StoreError>;

    /// Counts the jobs of a queue.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn queue_counts(&self, queue: LookupHash, project: ProjectId) -> Result<QueueCounts, StoreError>;

    /// Makes up to `limit` dead letters of a queue wait again, the oldest first; returns how many. They keep their ids, so they
    /// are taken before younger jobs.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn redrive(
        &self,
        queue: LookupHash,
        project: ProjectId,
        limit: u32,
        audit: &[AuditRecord],
    ) -> Result<u64, StoreError>;
}
