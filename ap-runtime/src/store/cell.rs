//! Sealed cells: every value that a tenant has sealed, wherever it is stored, for whoever changes the tenant's key.

use std::fmt;

use ap_core::{
    audit::AuditOutcome,
    id::{AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, KeyId, ProjectId, RunId, SignalId, ValueId},
    scope::Scope,
    store::{LookupHash, Revision, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::{ValueScope, VersionState};

/// Where sealed cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CellTable {
    /// Audit records.
    Audit,
    /// Connections.
    Connections,
    /// Files.
    Files,
    /// Versions of flows.
    FlowVersions,
    /// Flows.
    Flows,
    /// Jobs of queues.
    Jobs,
    /// Entries of journals.
    Journal,
    /// Projects.
    Projects,
    /// What says which connections of the platform a project may use.
    SharedConnections,
    /// Signals that no commit has taken.
    Signals,
    /// Keys of data subjects.
    SubjectKeys,
    /// States of polls.
    Triggers,
    /// Values of key-value stores.
    Values,
}

impl CellTable {
    /// Every table that has sealed cells.
    pub const ALL: [Self; 13] = [
        Self::Projects,
        Self::SubjectKeys,
        Self::Connections,
        Self::SharedConnections,
        Self::Flows,
        Self::FlowVersions,
        Self::Triggers,
        Self::Signals,
        Self::Jobs,
        Self::Journal,
        Self::Files,
        Self::Values,
        Self::Audit,
    ];

    /// A stable name, for logs and figures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Connections => "connections",
            Self::Files => "files",
            Self::FlowVersions => "flow_versions",
            Self::Flows => "flows",
            Self::Jobs => "jobs",
            Self::Journal => "journal",
            Self::Projects => "projects",
            Self::SharedConnections => "shared_connections",
            Self::Signals => "signals",
            Self::SubjectKeys => "subject_keys",
            Self::Triggers => "triggers",
            Self::Values => "values",
        }
    }
}

/// Which cell, with every clear column that its seal is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellKey {
    /// The body of an audit record.
    Audit {
        /// Its id.
        id: AuditId,
        /// When it happened.
        at: Timestamp,
        /// How it ended.
        outcome: AuditOutcome,
        /// What was done.
        action: String,
    },
    /// The value of a connection.
    Connection(ConnectionId, Revision),
    /// The content of a file.
    File(FileId),
    /// The detail of a flow.
    Flow(FlowId, Revision),
    /// The source of a flow version.
    FlowVersion {
        /// Its id.
        id: FlowVersionId,
        /// Its flow.
        flow: FlowId,
        /// Its number within the flow.
        number: u32,
        /// Draft or locked.
        state: VersionState,
        /// Its revision.
        revision: Revision,
    },
    /// The data of a job, and its queue.
    Job(JobId, LookupHash),
    /// An entry of a run's journal, by its sequence number.
    Journal(RunId, u64),
    /// The detail of a project.
    Project(ProjectId),
    /// What says that a project may use this connection of the platform.
    SharedConnection(ConnectionId),
    /// The content of a signal, and its slot.
    Signal(RunId, SignalId, LookupHash),
    /// The wrapped key of a data subject, the hash of that, and when the key was made.
    SubjectKey(KeyId, LookupHash, Timestamp),
    /// The state of a flow's poll, and the epoch it was sealed under.
    Trigger(FlowId, u64),
    /// A stored value with its key, whose it is, and its version.
    Value(ValueId, ValueScope, u64),
}

impl CellKey {
    /// Where it is.
    #[must_use]
    pub const fn table(&self) -> CellTable {
        match self {
            Self::Audit { .. } => CellTable::Audit,
            Self::Connection(..) => CellTable::Connections,
            Self::File(_) => CellTable::Files,
            Self::Flow(..) => CellTable::Flows,
            Self::FlowVersion { .. } => CellTable::FlowVersions,
            Self::Job(..) => CellTable::Jobs,
            Self::Journal(..) => CellTable::Journal,
            Self::Project(_) => CellTable::Projects,
            Self::SharedConnection(_) => CellTable::SharedConnections,
            Self::Signal(..) => CellTable::Signals,
            Self::SubjectKey(..) => CellTable::SubjectKeys,
            Self::Trigger(..) => CellTable::Triggers,
            Self::Value(..) => CellTable::Values,
        }
    }

    /// What names the cell among those of its tenant and table, in the order in which they are listed.
    #[must_use]
    pub const fn position(&self) -> (u128, u128) {
        match self {
            Self::Audit { id, .. } => (id.as_u128(), 0),
            Self::Connection(id, _) | Self::SharedConnection(id) => (id.as_u128(), 0),
            Self::File(id) => (id.as_u128(), 0),
            Self::Flow(id, _) | Self::Trigger(id, _) => (id.as_u128(), 0),
            Self::FlowVersion { id, .. } => (id.as_u128(), 0),
            Self::Job(id, _) => (id.as_u128(), 0),
            Self::Value(id, ..) => (id.as_u128(), 0),
            Self::SubjectKey(id, ..) => (id.as_u128(), 0),
            Self::Journal(run, seq) => (run.as_u128(), *seq as u128),
            Self::Project(id) => (id.as_u128(), 0),
            Self::Signal(run, id, _) => (run.as_u128(), id.as_u128()),
        }
    }
}

/// A cell as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCell {
    /// Which one.
    pub key: CellKey,
    /// Its content.
    pub sealed: Sealed,
}

/// A cell whose content is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResealedCell {
    /// Which one.
    pub key: CellKey,
    /// The content it must still have.
    pub old: Sealed,
    /// The same, sealed anew for the same place.
    pub new: Sealed,
}

/// Most bytes of one answer of [`CellStore::cells`] after its first cell. Unit: bytes; 8 MiB.
pub const CELL_BATCH_BYTES: usize = 8 << 20;

/// The sealed cells of a tenant, for a rotation of its key. Nothing here is reachable from a session.
///
/// A cell names its key in clear (see [`ap_crypto::envelope`]); that and the clear columns of [`CellKey`] are all a store looks
/// at. To replace a cell changes nothing else of its record: whoever read the record before still finds its revision, and
/// whoever writes it next wins.
#[async_trait]
pub trait CellStore: fmt::Debug + Send + Sync + 'static {
    /// Counts the cells of a tenant in one table that name another key than `current`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn count_cells(&self, table: CellTable, current: KeyId, scope: Scope) -> Result<u64, StoreError>;

    /// Cells of a tenant in one table that name another key than `current`, in order of [`CellKey::position`] and behind
    /// `after`. Up to `limit`, and no more once they hold [`CELL_BATCH_BYTES`]; none only if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn cells(
        &self,
        table: CellTable,
        current: KeyId,
        after: Option<CellKey>,
        limit: u32,
        scope: Scope,
    ) -> Result<Vec<SealedCell>, StoreError>;

    /// Replaces the content of those cells that still have the old one, in one transaction; returns how many. The cells are of
    /// one table.
    ///
    /// # Errors
    /// [`StoreError::Backend`] if they are of several tables; [`StoreError`] lists the rest.
    async fn reseal_cells(&self, cells: &[ResealedCell], scope: Scope) -> Result<u64, StoreError>;
}
