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
    id::{ConnectionId, FileId, FlowId, FlowVersionId, JobId, ProjectId, RunId, SignalId, WorkerId},
    run::RunStatus,
    scope::Scope,
    store::{LookupHash, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use ap_crypto::keyring::{KeyStore, WrappedKey};
use async_trait::async_trait;

/// Everything the runtime needs from its storage.
pub trait Backend:
    ProjectStore + FlowStore + ConnectionStore + RunStore + QueueStore + FileStore + AuditStore + SystemStore + KeyStore
{
}

impl<T> Backend for T where
    T: ProjectStore
        + FlowStore
        + ConnectionStore
        + RunStore
        + QueueStore
        + FileStore
        + AuditStore
        + SystemStore
        + KeyStore
{
}

/// A project, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRecord {
    /// Its id.
    pub id: ProjectId,
    /// When it was created.
    pub created: Timestamp,
    /// Its share of the workers.
    pub share: ProjectShare,
    /// Display name, sealed.
    pub sealed: Sealed,
}

/// What part of the workers a project gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectShare {
    /// How many of its runs are claimed in the time in which one of a project of weight 1 is. Default: 1. Accepted: 1 to
    /// 1,000.
    pub weight: u32,
    /// How many of its runs may be executed at once, over all workers; `None`: as many as the runtime's default says.
    /// Accepted: 1 to 100,000. A paused run is not being executed.
    pub concurrency: Option<u32>,
}

impl Default for ProjectShare {
    fn default() -> Self {
        Self { weight: 1, concurrency: None }
    }
}

/// Projects: the tenants.
#[async_trait]
pub trait ProjectStore: fmt::Debug + Send + Sync + 'static {
    /// Creates a project together with its tenant key.
    ///
    /// # Errors
    /// `AlreadyExists` if the id of the project or of the key is taken; [`StoreError`] lists the rest.
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

    /// Changes a project's share of the workers.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn set_share(&self, id: ProjectId, share: ProjectShare, audit: &[AuditRecord]) -> Result<(), StoreError>;
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
    /// What happens to the flow's schedule or poll.
    pub trigger: TriggerChange,
}

/// What a flow write does to the flow's schedule or poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TriggerChange {
    /// Leaves it as it is.
    #[default]
    Keep,
    /// Removes it, if there is one, with its state. Its epoch goes on: one that is set later has a higher one, so nobody who
    /// had claimed it before can fire it after.
    Remove,
    /// Sets it, replacing one that is there; its epoch becomes one more than that of the replaced or removed one, else 0, and
    /// it is not leased. `state: None` keeps what the replaced one had.
    Set {
        /// When it is to be looked at next.
        due: Timestamp,
        /// Where a poll goes on from, sealed for the epoch that it gets.
        state: Option<Sealed>,
    },
}

/// The schedule or poll of a flow, as claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedTrigger {
    /// The flow's project.
    pub project: ProjectId,
    /// The flow.
    pub flow: FlowId,
    /// The flow's published version.
    pub version: FlowVersionId,
    /// The flow's generation.
    pub generation: u64,
    /// When it was due.
    pub due: Timestamp,
    /// Rises with every claim and every replacement; what is fired under an older one is refused.
    pub epoch: u64,
    /// Where a poll goes on from, with the epoch it was sealed under.
    pub state: Option<(u64, Sealed)>,
}

/// What a claimed schedule or poll came to: its runs and when to look again, in one transaction.
#[derive(Clone, Debug)]
pub struct TriggerFire {
    /// The flow's project.
    pub project: ProjectId,
    /// The flow.
    pub flow: FlowId,
    /// The epoch of the claim.
    pub epoch: u64,
    /// When it is due next; `None` never (until the flow is written again).
    pub due: Option<Timestamp>,
    /// Where the poll goes on from, sealed for `epoch`; `None` keeps it.
    pub state: Option<Sealed>,
    /// Runs to create, each with its audit records.
    pub runs: Vec<(Accept, Vec<AuditRecord>)>,
}

/// Flows and their versions.
#[async_trait]
pub trait FlowStore: fmt::Debug + Send + Sync + 'static {
    /// Writes a flow and versions of it, or nothing.
    ///
    /// # Errors
    /// `NotFound` if there is no such project; `AlreadyExists`, `NotFound` or `Conflict` if a precondition fails (a locked
    /// version counts as a conflict for any write); `AlreadyExists` if the webhook hash, or a version's number within the
    /// flow, is taken; [`StoreError`] lists the rest.
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
    /// `NotFound` if there is no such project; `AlreadyExists` (id or name taken), `NotFound` or `Conflict` if the
    /// precondition fails; [`StoreError`] lists the rest.
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
    /// The run whose `subflow` step started it.
    pub parent: Option<RunId>,
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
    /// Ends it; the lease is over, its signals and their slots are forgotten, and the jobs it holds go back to their queues.
    End {
        /// A terminal status.
        status: RunStatus,
        /// When.
        at: Timestamp,
    },
    /// Pauses it; the lease is over. It can be claimed from `due` on (`None`: not by time), or as soon as a signal is there
    /// that no commit has taken: at once, if there is one already.
    Park {
        /// When it is to go on by itself.
        due: Option<Timestamp>,
    },
    /// Gives it back to the queue; the lease is over.
    Release,
    /// Goes on under the same lease.
    Stay,
}

/// Journal entries of a run and what they do to it, to its signals and to others: one transaction, in the order of the fields
/// as far as it matters, but what happens to the run comes last.
#[derive(Clone, Debug)]
pub struct RunCommit {
    /// Under which lease.
    pub lease: Lease,
    /// Entries to append; their sequence numbers rise and are new to the run.
    pub entries: Vec<JournalEntry>,
    /// Files that the entries refer to; they are the run's own.
    pub files: Vec<FileRecord>,
    /// What happens to the run.
    pub change: RunChange,
    /// Signals that the entries have taken in: they are not delivered again. Their slots stay used until the run ends. One
    /// that is not there is passed over.
    pub taken: Vec<SignalId>,
    /// Signals for other runs of the project. One for a run that is over, or whose slot is used, is dropped.
    pub signals: Vec<SignalRecord>,
    /// Runs to create, each with its audit records: `subflow` steps. They have neither a dedupe key nor a lease; a pace that
    /// would refuse and a gate that would skip make them wait instead.
    pub starts: Vec<(Accept, Vec<AuditRecord>)>,
    /// Jobs to add to queues.
    pub jobs: Vec<NewJob>,
    /// What became of jobs the run holds. One that it does not hold is passed over: it went back when the run ended, and the
    /// run was opened again.
    pub job_ends: Vec<(JobId, JobEnd)>,
}

impl RunCommit {
    /// A commit that does `change` and nothing else.
    #[must_use]
    pub const fn new(lease: Lease, change: RunChange) -> Self {
        Self {
            lease,
            entries: Vec::new(),
            files: Vec::new(),
            change,
            taken: Vec::new(),
            signals: Vec::new(),
            starts: Vec::new(),
            jobs: Vec::new(),
            job_ends: Vec::new(),
        }
    }

    /// The same with these entries.
    #[must_use]
    pub fn with_entries(self, entries: Vec<JournalEntry>) -> Self {
        Self { entries, ..self }
    }
}

/// Something a run is told from outside: an answer it waits for, a cancel, the end of a subflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalRecord {
    /// Its id; signals are delivered in this order.
    pub id: SignalId,
    /// The run's project.
    pub project: ProjectId,
    /// The run.
    pub run: RunId,
    /// What it is about: a run takes one signal per slot until it ends, taken in or not.
    pub slot: LookupHash,
    /// When it came.
    pub at: Timestamp,
    /// What it says, sealed.
    pub sealed: Sealed,
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signaled {
    /// It is kept, and the run will take it in.
    Delivered,
    /// The slot was used before; nothing was written.
    Used,
    /// The run has ended, or there is none; nothing was written.
    Over,
}

/// Which runs a listing is about. `default()` is all of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Of this flow only.
    pub flow: Option<FlowId>,
    /// Started by this run only.
    pub parent: Option<RunId>,
    /// Such that have not ended only.
    pub live: bool,
}

/// Runs and their journals.
#[async_trait]
pub trait RunStore: fmt::Debug + Send + Sync + 'static {
    /// Appends to a run's journal and does what the commit says, or does nothing.
    ///
    /// # Errors
    /// `Fenced` if the lease's epoch is not the stored one or the lease is over (the run ended, was parked or given back);
    /// `AlreadyExists` if a sequence number or another id was used before; `Conflict` of a flow if a start met another
    /// published version or generation than its own, or a flow that is disabled; [`StoreError`] lists the rest. They are
    /// looked at in this order, so a commit that is tried again after it happened is told `AlreadyExists` of a journal entry,
    /// or `Fenced` if it let go of the run. A lease that expired without anybody claiming the run is still good.
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Opens a run again that ended `FAILED`, `TIMEOUT`, `CANCELED`, `INTERNAL_ERROR`, `QUOTA_EXCEEDED` or
    /// `MEMORY_LIMIT_EXCEEDED`: appends `entry` and puts it into the queue, before its gate if that is full. Every slot for
    /// signals is unused again; throttle and debounce are over.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` of the run (its `current` is meaningless) if it has another status, or if `entry.seq` is not
    /// the next; [`StoreError`] lists the rest.
    async fn reopen(
        &self,
        id: RunId,
        project: ProjectId,
        entry: JournalEntry,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Keeps a signal for a run and makes the run claimable if it is paused.
    ///
    /// # Errors
    /// `AlreadyExists` if the run has an untaken signal of this id; [`StoreError`] lists the rest.
    async fn signal(&self, signal: SignalRecord, audit: &[AuditRecord]) -> Result<Signaled, StoreError>;

    /// Signals of a run that no commit has taken, in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn signals(&self, run: RunId, project: ProjectId) -> Result<Vec<SignalRecord>, StoreError>;

    /// Reads one run.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn run(&self, id: RunId, project: ProjectId) -> Result<RunRecord, StoreError>;

    /// Lists runs in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn runs(
        &self,
        filter: RunFilter,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<RunRecord>, StoreError>;

    /// Reads the whole journal of a run, in order.
    ///
    /// # Errors
    /// `NotFound` if there is no such run in the project; [`StoreError`] lists the rest.
    async fn journal(&self, id: RunId, project: ProjectId) -> Result<Vec<JournalEntry>, StoreError>;
}

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
    /// Jobs of the queue that wait for somebody to take them.
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
    /// `Fenced` as [`RunStore::commit`]; [`StoreError`] lists the rest.
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

/// A file, as stored: an output that is too large for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its id.
    pub id: FileId,
    /// Its project.
    pub project: ProjectId,
    /// The run it belongs to, if any.
    pub run: Option<RunId>,
    /// When it was stored.
    pub created: Timestamp,
    /// Its content, sealed.
    pub sealed: Sealed,
}

/// Files.
#[async_trait]
pub trait FileStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a file. Files of a run come with the commit that refers to them instead.
    ///
    /// # Errors
    /// `NotFound` if there is no such project; `AlreadyExists`; [`StoreError`] lists the rest.
    async fn write_file(&self, file: FileRecord, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn file(&self, id: FileId, project: ProjectId) -> Result<FileRecord, StoreError>;

    /// Deletes a file.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn delete_file(&self, id: FileId, project: ProjectId, audit: &[AuditRecord]) -> Result<(), StoreError>;
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

/// A request to start a run: accept, dedupe, flow control and run creation are one transaction.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The run to create; its status is `QUEUED`, and the store makes it `RUNNING` if it leases it.
    pub run: RunRecord,
    /// The flow's generation the caller decided on; a different stored one refuses the acceptance.
    pub generation: u64,
    /// Keyed hash of the delivery's id, and when it may be forgotten.
    pub dedupe: Option<Dedupe>,
    /// When and beside which others it may run.
    pub control: RunControl,
    /// The first journal entry.
    pub entry: JournalEntry,
    /// How long the new run is leased to the caller (epoch 1), if nothing in `control` keeps it from running at once; `None`
    /// leaves it to whoever claims it.
    pub lease: Option<Duration>,
}

/// When and beside which others a new run may run. Keys are unique within the project. `default()` sets no bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunControl {
    /// Higher is claimed first within the project.
    pub priority: i16,
    /// Bounds how many runs of a key are under way.
    pub gate: Option<Gate>,
    /// Bounds how many runs of a key start in a period; more start later.
    pub throttle: Option<Pace>,
    /// Bounds how many runs of a key are accepted in a period; more are refused.
    pub rate_limit: Option<Pace>,
    /// Puts the run off, and replaces one of the same key that is put off.
    pub debounce: Option<Debounce>,
}

/// At most `limit` runs of `key` are past the gate at once: from when they may be claimed until they end, paused or not.
///
/// The others wait before it, and pass by priority, time of acceptance and id as soon as others end. Where their limits differ,
/// the next one's own counts, and those behind it wait for it; a new run goes by its own alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Keyed hash.
    pub key: LookupHash,
    /// Runs past the gate.
    pub limit: u32,
    /// Whether a run that would have to wait is not created at all.
    pub skip: bool,
}

/// At most `limit` per `period`, by the generic cell rate algorithm: a burst of `limit`, then one every `period / limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Keyed hash.
    pub key: LookupHash,
    /// Per period.
    pub limit: u32,
    /// The period.
    pub period: Duration,
}

impl Pace {
    /// Time between two at the sustained rate, at least a microsecond.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.period / self.limit.max(1)).max(Duration::from_micros(1))
    }

    /// Given when the next one would be due at the sustained rate (`None` at first): when one that comes `now` may start, and
    /// what to remember if it does.
    #[must_use]
    pub fn next(&self, remembered: Option<Timestamp>, now: Timestamp) -> (Timestamp, Timestamp) {
        let due = remembered.map_or(now, |due| due.max(now));
        let burst = self.interval().saturating_mul(self.limit.saturating_sub(1));
        let start = Timestamp::from_micros(
            due.as_micros().saturating_sub(i64::try_from(burst.as_micros()).unwrap_or(i64::MAX)),
        );
        (start.max(now), due.saturating_add(self.interval()))
    }
}

/// Waits for quiet: the run is queued and not claimable until `delay` has passed. A run of the same key that still waits like
/// this is ended as `CANCELED` in the same transaction, without a journal entry, and the new one waits at most until `max_wait`
/// after the first of the series by the store's clock.
///
/// The new run takes the place of the one it replaces: at its gate, if the key is the same, and in the throttle, of which it
/// takes no more: it is just not due before the other was. Once the time has come the series is over, claimed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// Keyed hash.
    pub key: LookupHash,
    /// How long it must have been quiet.
    pub delay: Duration,
    /// How long a series may go on.
    pub max_wait: Duration,
}

/// Identity of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedupe {
    /// Keyed hash over flow, trigger and delivery id; unique within the project.
    pub key: LookupHash,
    /// From when on the same key is a new delivery.
    pub expires: Timestamp,
}

/// What became of an [`Accept`]. Looked at in this order: duplicate, stale, rate limit, gate. Neither rate limit nor throttle
/// counts a run that was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The run exists now.
    Created {
        /// Whether it is leased to the caller; else whoever claims it runs it.
        leased: bool,
    },
    /// This delivery was accepted before, as this run; nothing was written.
    Duplicate(RunId),
    /// Too many for the rate limit; nothing was written.
    Limited {
        /// When one would be accepted.
        retry: Timestamp,
    },
    /// The gate is full and asked to skip then; nothing was written.
    Skipped,
    /// The flow was disabled, republished or given another token meanwhile; nothing was written.
    Stale,
}

/// A request for runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Most runs to hand over.
    pub limit: u32,
    /// How long they are leased, by the store's clock.
    pub lease: Duration,
    /// Runs of one project that may be executed at once over all workers, unless its [`ProjectShare`] says otherwise.
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
}

/// What crosses projects. Nothing here is reachable from a session.
#[async_trait]
pub trait SystemStore: fmt::Debug + Send + Sync + 'static {
    /// Creates a run, unless the delivery is a duplicate or the route is stale; a duplicate is one even if the route is
    /// stale by now.
    ///
    /// # Errors
    /// `Unavailable` at once, without waiting, if the backend is saturated; `AlreadyExists` if the run's id is taken;
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

    /// Claims up to `limit` schedules and polls that are due and not leased (any more), the longest due first, for `lease`.
    /// Those of flows that are disabled or have no published version are left alone.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn claim_triggers(&self, limit: u32, lease: Duration) -> Result<Vec<ClaimedTrigger>, StoreError>;

    /// Creates the runs of a claimed schedule or poll, remembers where it stands and lets go of it; all or nothing. A run
    /// that is a duplicate, stale, limited or skipped does not keep the others from being created.
    ///
    /// # Errors
    /// `Fenced` if the trigger's epoch is another one, or it is gone or was fired; `AlreadyExists` if a run's id is taken;
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pace_lets_no_more_through_than_a_burst_and_its_rate(
            limit in 1..20_u32,
            period_ms in 1..100_000_u64,
            gaps in proptest::collection::vec(0..20_000_000_i64, 1..100),
        ) {
            let pace = Pace { key: LookupHash([0; 32]), limit, period: Duration::from_millis(period_ms) };
            let (mut remembered, mut now, mut starts) = (None, 0, Vec::new());
            for gap in gaps {
                now += gap;
                let (start, next) = pace.next(remembered, Timestamp::from_micros(now));
                prop_assert!(start >= Timestamp::from_micros(now));
                (remembered, starts) = (Some(next), [starts, vec![start]].concat());
            }
            prop_assert!(starts.is_sorted());
            // After a burst of `limit` the next one comes no sooner than an interval after the first of them. Each time is cut
            // to whole microseconds.
            let cut = Duration::from_micros(u64::from(limit));
            for window in starts.windows(limit as usize + 1) {
                let (first, last) = (window.first().copied(), window.last().copied());
                let earliest = first.map(|first| first.saturating_add(pace.interval()).saturating_sub(cut));
                prop_assert!(last >= earliest, "{last:?} before {earliest:?}");
            }
        }
    }

    #[test]
    fn a_pace_starts_a_burst_at_once_and_the_next_an_interval_later() {
        for limit in [1, 2, 7] {
            let pace = Pace { key: LookupHash([0; 32]), limit, period: Duration::from_secs(70) };
            let (now, mut remembered) = (Timestamp::EPOCH, None);
            for _ in 0..limit {
                let (start, next) = pace.next(remembered, now);
                (remembered, _) = (Some(next), assert_eq!(start, now, "limit {limit}"));
            }
            let (start, next) = pace.next(remembered, now);
            assert_eq!(start, now.saturating_add(pace.interval()));
            // Refused ones are not remembered; when the time has come, one passes.
            assert_eq!(pace.next(remembered, start), (start, next));
        }
    }

    #[test]
    fn a_pace_copes_with_nonsense() {
        let pace = Pace { key: LookupHash([0; 32]), limit: 0, period: Duration::ZERO };
        assert_eq!(pace.interval(), Duration::from_micros(1));
        let forever = Pace { limit: u32::MAX, period: Duration::MAX, ..pace };
        let latest = Timestamp::from_micros(i64::MAX);
        assert_eq!(forever.next(Some(latest), latest), (latest, latest));
    }
}
