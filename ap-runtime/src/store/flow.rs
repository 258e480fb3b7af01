//! Flows, their versions, their schedules and polls.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId},
    store::{LookupHash, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

use super::Accept;

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
