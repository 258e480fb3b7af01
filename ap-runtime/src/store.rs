//! What a backend keeps, and the seams through which the runtime reaches it.
//!
//! One backend object implements every trait here, so that a change and its audit records, an acceptance and its run
//! share one transaction. Rules that hold for all of them:
//!
//! * **Isolation.** Every method a session can reach takes the project; a record of another project does not exist.
//! * **Atomicity.** A write happens wholly or not at all, also when its future is dropped half-way: a dropped future
//!   cancels nothing that was handed over.
//! * **Durability.** Once a write returns `Ok`, it survives `kill -9` (the memory backend excepted, and it says so).
//! * **Opacity.** Payloads are [`Sealed`]; a backend returns them bit for bit and reads nothing but clear columns.
//! * **No blind write.** Mutable records are written under a [`Precondition`]; a run is written under its lease's epoch.
//! * **Audit.** Every mutating method commits the audit records it is given together with the change, or neither.
//!
//! [`SystemStore`] holds what crosses projects and is unreachable from a session; it returns the project with each row.

use std::{fmt, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{ConnectionId, FlowId, FlowVersionId, ProjectId, RunId},
    run::RunStatus,
    scope::Scope,
    store::{LookupHash, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use ap_crypto::keyring::{KeyStore, WrappedKey};
use async_trait::async_trait;

/// Everything the runtime needs from its storage.
pub trait Backend: ProjectStore + FlowStore + ConnectionStore + RunStore + AuditStore + SystemStore + KeyStore {}

impl<T> Backend for T where
    T: ProjectStore + FlowStore + ConnectionStore + RunStore + AuditStore + SystemStore + KeyStore
{
}

/// A project, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRecord {
    /// Its id.
    pub id: ProjectId,
    /// When it was created.
    pub created: Timestamp,
    /// Display name, sealed.
    pub sealed: Sealed,
}

/// Projects: the tenants.
#[async_trait]
pub trait ProjectStore: fmt::Debug + Send + Sync + 'static {
    /// Creates a project together with its tenant key.
    ///
    /// # Errors
    /// `AlreadyExists` if the id is taken; [`StoreError`] lists the rest.
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Reads one.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError>;
}

/// A flow, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Its id.
    pub id: FlowId,
    /// Its project.
    pub project: ProjectId,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last written.
    pub updated: Timestamp,
    /// Its revision.
    pub revision: Revision,
    /// Whether its trigger may start runs.
    pub enabled: bool,
    /// The version runs are started with.
    pub published: Option<FlowVersionId>,
    /// The version edits go to.
    pub draft: Option<FlowVersionId>,
    /// Keyed hash of the webhook token, unique over all projects.
    pub webhook: LookupHash,
    /// Rises whenever a cached route must no longer be used: publish, enable, disable, new token.
    pub generation: u64,
    /// Display name and webhook token, sealed.
    pub sealed: Sealed,
}

/// State of a flow version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionState {
    /// Can be edited; never runs in production.
    Draft,
    /// Never changes again.
    Locked,
}

impl VersionState {
    /// Wire spelling of the reference product.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "DRAFT",
            Self::Locked => "LOCKED",
        }
    }
}

/// One version of a flow, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowVersionRecord {
    /// Its id.
    pub id: FlowVersionId,
    /// Its project.
    pub project: ProjectId,
    /// Its flow.
    pub flow: FlowId,
    /// Counts from 1 within the flow.
    pub number: u32,
    /// Draft or locked.
    pub state: VersionState,
    /// When it was created.
    pub created: Timestamp,
    /// Its revision.
    pub revision: Revision,
    /// The flow's JSON, sealed.
    pub sealed: Sealed,
}

/// A change of a flow and of versions of it: one transaction.
#[derive(Clone, Debug)]
pub struct FlowWrite {
    /// The flow as it shall be; its revision is the precondition's resulting revision.
    pub flow: FlowRecord,
    /// What must hold of the stored flow.
    pub precondition: Precondition,
    /// Versions to write with it, each with what must hold of it; revisions as above.
    pub versions: Vec<(FlowVersionRecord, Precondition)>,
}

/// Flows and their versions.
#[async_trait]
pub trait FlowStore: fmt::Debug + Send + Sync + 'static {
    /// Writes a flow and versions of it, or nothing.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` or `Conflict` if a precondition fails (a locked version counts as a conflict for any
    /// write); `AlreadyExists` if the webhook hash is taken; [`StoreError`] lists the rest.
    async fn write_flow(&self, write: FlowWrite, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Reads one flow.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn flow(&self, id: FlowId, project: ProjectId) -> Result<FlowRecord, StoreError>;

    /// Lists flows in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn flows(&self, project: ProjectId, page: &PageRequest) -> Result<Page<FlowRecord>, StoreError>;

    /// Reads one version.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn flow_version(&self, id: FlowVersionId, project: ProjectId) -> Result<FlowVersionRecord, StoreError>;

    /// Lists the versions of a flow in order of id.
    ///
    /// # Errors
    /// [`StoreError`]; a flow of another project has no versions.
    async fn flow_versions(
        &self,
        flow: FlowId,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<FlowVersionRecord>, StoreError>;
}

/// A connection, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// Its id.
    pub id: ConnectionId,
    /// Its project.
    pub project: ProjectId,
    /// Keyed hash of its name, unique within the project.
    pub name: LookupHash,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last written.
    pub updated: Timestamp,
    /// Its revision.
    pub revision: Revision,
    /// Name, value, placements and origins, sealed.
    pub sealed: Sealed,
}

/// Connections.
#[async_trait]
pub trait ConnectionStore: fmt::Debug + Send + Sync + 'static {
    /// Writes a connection if `precondition` holds; its revision is the precondition's resulting revision.
    ///
    /// # Errors
    /// `AlreadyExists` (id or name taken), `NotFound` or `Conflict` if the precondition fails; [`StoreError`] lists the
    /// rest.
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Reads the connection whose name has this hash.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn connection(&self, name: LookupHash, project: ProjectId) -> Result<ConnectionRecord, StoreError>;

    /// Lists connections in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn connections(&self, project: ProjectId, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError>;

    /// Deletes a connection.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is not at `revision`; [`StoreError`] lists the rest.
    async fn delete_connection(
        &self,
        id: ConnectionId,
        project: ProjectId,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;
}

/// A run, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Its id.
    pub id: RunId,
    /// Its project.
    pub project: ProjectId,
    /// Its flow.
    pub flow: FlowId,
    /// The version it is pinned to.
    pub version: FlowVersionId,
    /// Where it stands.
    pub status: RunStatus,
    /// When it was accepted.
    pub created: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

/// Some consecutive events of a run, sealed together: one commit's worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Counts from 0 within the run; unique. It is the record version of the seal.
    pub seq: u64,
    /// The events, sealed.
    pub sealed: Sealed,
}

/// The right to write to a run. A write under an older epoch than the stored one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The run's project.
    pub project: ProjectId,
    /// The run.
    pub run: RunId,
    /// Rises with every change of owner.
    pub epoch: u64,
}

/// What a commit does to the run itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunChange {
    /// Ends it; the lease is over.
    End {
        /// A terminal status.
        status: RunStatus,
        /// When.
        at: Timestamp,
    },
    /// Gives it back to the queue; the lease is over.
    Release,
    /// Goes on under the same lease.
    Stay,
}

/// Journal entries of a run and what they do to it: one transaction.
#[derive(Clone, Debug)]
pub struct RunCommit {
    /// Under which lease.
    pub lease: Lease,
    /// Entries to append; their sequence numbers are new to the run.
    pub entries: Vec<JournalEntry>,
    /// What happens to the run.
    pub change: RunChange,
}

/// Runs and their journals.
#[async_trait]
pub trait RunStore: fmt::Debug + Send + Sync + 'static {
    /// Appends to a run's journal and changes the run, or does nothing.
    ///
    /// # Errors
    /// `Fenced` if the lease's epoch is not the stored one or the run has ended; [`StoreError`] lists the rest.
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Reads one run.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError>;

    /// Lists runs in order of id, of one flow or of all.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn runs(
        &self,
        flow: Option<FlowId>,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError>;

    /// Reads the whole journal of a run, in order.
    ///
    /// # Errors
    /// `NotFound` if there is no such run in the project; [`StoreError`] lists the rest.
    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError>;
}

/// The audit trail.
#[async_trait]
pub trait AuditStore: fmt::Debug + Send + Sync + 'static {
    /// Appends events that come with no other change: denials, reads worth a line.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError>;

    /// Lists the trail of one scope in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError>;
}

/// Where a webhook token leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The project.
    pub project: ProjectId,
    /// The flow.
    pub flow: FlowId,
    /// Its published version, if any.
    pub published: Option<FlowVersionId>,
    /// Whether its trigger may start runs.
    pub enabled: bool,
    /// Its generation; accept checks it again.
    pub generation: u64,
}

/// A request to start a run: accept, dedupe and run creation are one transaction.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The run to create; its status is `RUNNING` with a lease and `QUEUED` without.
    pub run: RunRecord,
    /// The flow's generation the caller decided on; a different stored one refuses the acceptance.
    pub generation: u64,
    /// Keyed hash of the delivery's id, and when it may be forgotten.
    pub dedupe: Option<Dedupe>,
    /// The first journal entry.
    pub entry: JournalEntry,
    /// How long the new run is leased to the caller (epoch 1); `None` leaves it to whoever claims it.
    pub lease: Option<Duration>,
}

/// Identity of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedupe {
    /// Keyed hash over flow, trigger and delivery id; unique within the project.
    pub key: LookupHash,
    /// From when on the same key is a new delivery.
    pub expires: Timestamp,
}

/// What became of an [`Accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The run exists now.
    Created,
    /// This delivery was accepted before, as this run; nothing was written.
    Duplicate(RunId),
    /// The flow was disabled, republished or given another token meanwhile; nothing was written.
    Stale,
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
}

/// What crosses projects. Nothing here is reachable from a session.
#[async_trait]
pub trait SystemStore: fmt::Debug + Send + Sync + 'static {
    /// Creates a run, unless the delivery is a duplicate or the route is stale.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn accept(&self, accept: Accept, audit: &[AuditRecord]) -> Result<Accepted, StoreError>;

    /// Leases up to `limit` runs that are queued or whose lease has expired, oldest first, for `lease` by the store's clock.
    ///
    /// Each claim raises the run's epoch and makes it `RUNNING`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn claim(&self, limit: u32, lease: Duration) -> Result<Vec<Claimed>, StoreError>;

    /// Extends leases to `lease` from now by the store's clock, all in one write; returns those no longer held.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn heartbeat(&self, leases: &[Lease], lease: Duration) -> Result<Vec<Lease>, StoreError>;

    /// Finds where a webhook token leads, by its keyed hash.
    ///
    /// # Errors
    /// [`StoreError`]; an unknown token is `Ok(None)`.
    async fn route(&self, token: LookupHash) -> Result<Option<Route>, StoreError>;

    /// Forgets up to `limit` deliveries whose time has passed by the store's clock; returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sweep_deliveries(&self, limit: u32) -> Result<u64, StoreError>;
}
