//! The key-value store of a project: what scripts keep from run to run.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, ProjectId, ValueId},
    store::{Page, PageRequest, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

/// Whose a stored value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueScope {
    /// All flows of the project share it.
    Project,
    /// One flow's own.
    Flow(FlowId),
}

impl ValueScope {
    /// The form that stores keep: the flow's id, and zeros for the project.
    #[must_use]
    pub const fn to_flow(self) -> FlowId {
        match self {
            Self::Project => FlowId::from_u128(0),
            Self::Flow(flow) => flow,
        }
    }

    /// Reads the form that stores keep.
    #[must_use]
    pub fn from_flow(flow: FlowId) -> Self {
        if flow == Self::Project.to_flow() { Self::Project } else { Self::Flow(flow) }
    }
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRecord {
    /// What it is found by: derived from its scope and its key, under the tenant's key.
    pub id: ValueId,
    /// Its project.
    pub project: ProjectId,
    /// Whose it is.
    pub scope: ValueScope,
    /// Another one with every write, drawn at random, below 2^63. Not a count: a value that was deleted and made anew must not
    /// look as if it had never changed.
    pub version: u64,
    /// When it was written.
    pub updated: Timestamp,
    /// What it counts for. Unit: bytes of key and value in clear.
    pub bytes: u32,
    /// Key and value, sealed.
    pub sealed: Sealed,
}

/// What a change expects of a value before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueExpect {
    /// Nothing: the last writer wins.
    Anything,
    /// There is none.
    Absent,
    /// Its version is this.
    Version(u64),
}

/// What becomes of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueWrite {
    /// It is gone; nothing happens if there is none.
    Delete,
    /// It stays as it is: only what is expected matters.
    Keep,
    /// It is this, whether there is one or not.
    Put(ValueRecord),
}

/// One change of a value, together with others: all happen or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueChange {
    /// Which value.
    pub id: ValueId,
    /// What must be so.
    pub expect: ValueExpect,
    /// What becomes of it.
    pub write: ValueWrite,
}

/// How much a project has in its key-value store, or may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueUsage {
    /// How many values.
    pub entries: u64,
    /// Their keys and values. Unit: bytes in clear.
    pub bytes: u64,
}

impl ValueUsage {
    /// Nothing at all.
    pub const NOTHING: Self = Self { entries: 0, bytes: 0 };
}

/// Values that scripts keep.
///
/// To a step a change is part of its [`RunCommit`](super::RunCommit); a host changes values by themselves. A change that makes
/// more of what there is enough of is refused, and one that makes less never is, so that a limit that was lowered keeps nobody from
/// cleaning up.
#[async_trait]
pub trait KeyValueStore: fmt::Debug + Send + Sync + 'static {
    /// Changes values, all or none. No id stands there twice.
    ///
    /// # Errors
    /// `NotFound` if there is no such project; `Conflict` of a value (its `current` is meaningless) if one is not as expected;
    /// `LimitExceeded` of a value if the project would then have more than `limit`; [`StoreError`] lists the rest.
    async fn change_values(
        &self,
        changes: &[ValueChange],
        project: ProjectId,
        limit: ValueUsage,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Reads a value.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn value(&self, id: ValueId, project: ProjectId) -> Result<ValueRecord, StoreError>;

    /// Lists the values of a scope in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn values(
        &self,
        scope: ValueScope,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<ValueRecord>, StoreError>;

    /// How much the project has.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn value_usage(&self, project: ProjectId) -> Result<ValueUsage, StoreError>;
}
