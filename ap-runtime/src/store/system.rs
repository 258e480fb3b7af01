//! What crosses projects.

use std::{fmt, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, KeyId, WorkerId},
    store::{LookupHash, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::{Accept, Accepted, ClaimedTrigger, ConnectionRecord, Lease, Route, TriggerFire};

/// A request for runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Most runs to hand over.
    pub limit: u32,
    /// How long they are leased, by the store's clock.
    pub lease: Duration,
    /// Runs of one project that may be executed at once over all workers, unless its [`ProjectShare`](super::ProjectShare) says otherwise.
    pub per_project: u32,
    /// Runs that may be executed at once over all workers and projects.
    pub total: u32,
}

/// A worker, as it reports itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Its id, new at every start.
    pub id: WorkerId,
    /// What the host calls it, such as a host name; at most 128 bytes.
    pub name: String,
    /// When it started.
    pub started: Timestamp,
    /// When it last reported, by the store's clock; what a caller gives is not looked at.
    pub seen: Timestamp,
    /// How many runs it executes at most.
    pub capacity: u32,
    /// How many it executes.
    pub running: u32,
    /// Whether it takes up no more runs.
    pub draining: bool,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Leases that are no longer held.
    pub lost: Vec<Lease>,
    /// Held ones whose runs have signals that no commit has taken.
    pub signaled: Vec<Lease>,
}

/// A run that a claim handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The lease, with the new epoch.
    pub lease: Lease,
    /// The run's flow.
    pub flow: FlowId,
    /// The version it is pinned to.
    pub version: FlowVersionId,
    /// The key of the data subject it is about.
    pub subject: Option<KeyId>,
}

/// What crosses projects. Nothing here is reachable from a session.
#[async_trait]
pub trait SystemStore: fmt::Debug + Send + Sync + 'static {
    /// Creates a run, unless the delivery is a duplicate or the route is stale; a duplicate is one even if the route is
    /// stale by now.
    ///
    /// The key of a data subject that the run names is the subject's at this moment, or becomes so by being added with it.
    ///
    /// # Errors
    /// `Conflict` of a subject (its `current` is meaningless) if it has another key by now, or none, and the run's is not to be
    /// added: nothing was written; `Unavailable` at once, without waiting, if the backend is saturated; `AlreadyExists` if the run's id is taken;
    /// [`StoreError`] lists the rest.
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError>;

    /// Leases runs that are ready: queued ones past their gate, paused ones whose time has come or that were signaled, and
    /// running ones whose lease has expired.
    ///
    /// Fair between projects: the next run is one of the project with the least `(running + claimed now) / weight`, ties by
    /// the age of the oldest run it could give; within a project by priority, time of acceptance and id. A project at its
    /// limit, and everything once `total` are running, waits. A run whose lease has expired counts as running already, so
    /// limits do not keep it, and claiming it adds nothing to its project's load. Each claim raises the run's epoch and makes
    /// it `RUNNING`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError>;

    /// Extends leases to `lease` from now by the store's clock, all in one write, and keeps what the worker says of itself.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn heartbeat(&self, worker: &WorkerRecord, leases: &[Lease], lease: Duration) -> Result<Beat, StoreError>;

    /// Workers that reported within `within`, its end included, in order of id; forgets those that have not for a day. A
    /// restart may forget all: those that live report again.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn workers(&self, within: Duration) -> Result<Vec<WorkerRecord>, StoreError>;

    /// Forgets a worker that has ended.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError>;

    /// When something happens by time next, after now by the store's clock: a run becomes claimable, a lease expires, a
    /// trigger is due. What is ready already does not count: ask first and claim then, and nothing falls in between. A hint:
    /// `None` or a late answer delays nothing for longer than a worker's own interval, and an early one, such as for a run
    /// that waits before its gate, makes somebody look in vain.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Claims up to `limit` schedules and polls that are due and not leased (any more), for `lease`. Those of flows that are
    /// disabled or have no published version are left alone, and do not count.
    ///
    /// Fair between projects: the next one is of the project with the fewest leased, those claimed now included, ties by the
    /// longest due; within a project the longest due comes first. A project that has `per_project` leased waits. Claims at the
    /// same moment may exceed that together. They are handed over the longest due first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn claim_triggers(
        &self,
        limit: u32,
        per_project: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedTrigger>, StoreError>;

    /// Creates the runs of a claimed schedule or poll, remembers where it stands and lets go of it; all or nothing. A run
    /// that is a duplicate, stale, limited or skipped does not keep the others from being created.
    ///
    /// # Errors
    /// `Fenced` if the trigger's epoch is another one, or it is gone or was fired; `Conflict` of a subject as
    /// [`SystemStore::accept`]; `AlreadyExists` if a run's id is taken;
    /// [`StoreError`] lists the rest. A lease that expired without anybody claiming the trigger is still good.
    async fn fire_trigger(&self, fire: TriggerFire) -> Result<Vec<Accepted>, StoreError>;

    /// Finds where a webhook token leads, by its keyed hash.
    ///
    /// # Errors
    /// [`StoreError`]; an unknown token is `Ok(None)`.
    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError>;

    /// Forgets up to `limit` deliveries, and as many paces, whose time has passed by the store's clock; returns how many of
    /// the more numerous kind.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError>;

    /// Connections that are due at the store's time, those that have been so longest first. At most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn due_connections(&self, limit: u32) -> Result<Vec<ConnectionRecord>, StoreError>;
}
