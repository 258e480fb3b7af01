//! Connections.

use std::fmt;

use ap_core::{
    audit::AuditRecord,
    id::{ConnectionId, ProjectId},
    store::{LookupHash, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

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
