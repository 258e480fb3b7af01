//! Runs, their journals and signals.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, JobId, KeyId, ProjectId, RunId, SignalId},
    run::RunStatus,
    store::{LookupHash, Page, PageRequest, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::{Accept, FileRecord, JobEnd, NewJob, ValueChange, ValueUsage};

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
    /// The key of the data subject it is about: what is sealed of it is sealed under that too, and is gone once that key is
    /// destroyed.
    pub subject: Option<KeyId>,
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
    /// Changes of the project's key-value store, by steps whose end is in the entries. No id stands there twice.
    pub values: Vec<ValueChange>,
    /// How much the project may have in its key-value store.
    pub value_limit: ValueUsage,
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
            values: Vec::new(),
            value_limit: ValueUsage::NOTHING,
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
    /// `AlreadyExists` if a sequence number or another id was used before; `Conflict` of a value (its
    /// `current` is meaningless) if one is not as a change expects it; `LimitExceeded` of a value; `Conflict` of a flow if a start met another
    /// published version or generation than its own, or a flow that is disabled; [`StoreError`] lists the rest. They are
    /// looked at in this order, so a commit that is tried again after it happened is told `AlreadyExists` of a journal entry,
    /// or `Fenced` if it let go of the run. A lease that expired without anybody claiming the run is still good.
    async fn commit(&self, commit: RunCommit, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Opens a run again that ended `FAILED`, `TIMEOUT`, `CANCELED`, `INTERNAL_ERROR`, `QUOTA_EXCEEDED` or
    /// `MEMORY_LIMIT_EXCEEDED`: appends `entry` and puts it into the queue, before its gate if that is full. The slots `used`
    /// stay used, whether they were or not; every other slot for signals is unused again. Throttle and debounce are over.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` of the run (its `current` is meaningless) if it has another status, or if `entry.seq` is not
    /// the next; [`StoreError`] lists the rest.
    async fn reopen(
        &self,
        id: RunId,
        project: ProjectId,
        entry: JournalEntry,
        used: &[LookupHash],
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
