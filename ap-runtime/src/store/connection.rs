//! Connections.

use std::{fmt, time::Duration};

use ap_core::{
    audit::AuditRecord,
    id::{ConnectionId, PlatformId, ProjectId},
    scope::Scope,
    store::{LookupHash, Page, PageRequest, Precondition, Revision, Sealed, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;

/// A connection, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// Its id.
    pub id: ConnectionId,
    /// Whose it is: a project's, or the platform's, which lends it to projects.
    pub owner: Scope,
    /// Keyed hash of its name, unique for its owner.
    pub name: LookupHash,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last written.
    pub updated: Timestamp,
    /// When somebody has to look at it again: the end of a grace. What is sealed says what for.
    pub due: Option<Timestamp>,
    /// Its revision.
    pub revision: Revision,
    /// Name, value, placements, origins and terms, sealed.
    pub sealed: Sealed,
}

/// A connection of the platform that a project may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedConnection {
    /// Which.
    pub connection: ConnectionId,
    /// Whose it is.
    pub owner: PlatformId,
    /// Who may use it.
    pub project: ProjectId,
    /// Keyed hash of its name under the project's key, unique within the project.
    pub name: LookupHash,
    /// Its name, sealed under the project's key: proof that the project was given it.
    pub sealed: Sealed,
}

/// Connections.
///
/// A connection whose tokens are being renewed is leased, so that only one process asks the provider. A lease has an epoch
/// that rises with each one that is taken, and ends by the store's time. It keeps nobody from writing: what counts for that is
/// the revision.
#[async_trait]
pub trait ConnectionStore: fmt::Debug + Send + Sync + 'static {
    /// Writes a connection if `precondition` holds; its revision is the precondition's resulting revision. It is then no longer
    /// leased.
    ///
    /// # Errors
    /// `NotFound` if its owner is a project that does not exist; `AlreadyExists` (id or name taken), `NotFound` or `Conflict`
    /// if the precondition fails; [`StoreError`] lists the rest.
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// As [`ConnectionStore::write_connection`] over an existing one, if besides `epoch` is that of the last lease taken: for
    /// what must not be said by somebody who was replaced meanwhile.
    ///
    /// # Errors
    /// `Fenced` if somebody took another lease since.
    async fn write_leased_connection(
        &self,
        connection: ConnectionRecord,
        (revision, epoch): (Revision, u64),
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Reads the connection whose name has this hash.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn connection(&self, name: LookupHash, owner: Scope) -> Result<ConnectionRecord, StoreError>;

    /// Lists connections in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn connections(&self, owner: Scope, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError>;

    /// Deletes a connection, and takes it from every project it was shared with.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is not at `revision`; [`StoreError`] lists the rest.
    async fn delete_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Leases a connection for `lease` unless somebody holds it; the epoch of the lease, or `None`.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is not at `revision`; [`StoreError`] lists the rest.
    async fn lease_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        lease: Duration,
    ) -> Result<Option<u64>, StoreError>;

    /// Ends the lease of this epoch after `rest` from now on; with zero, at once. Does nothing if another one was taken since.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn release_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        epoch: u64,
        rest: Duration,
    ) -> Result<(), StoreError>;

    /// Lets a project use a connection of the platform, or replaces what says so.
    ///
    /// # Errors
    /// `NotFound` if there is no such connection or project; `AlreadyExists` if the project was given another of this name;
    /// [`StoreError`] lists the rest.
    async fn share_connection(&self, shared: SharedConnection, audit: &[AuditRecord]) -> Result<(), StoreError>;

    /// Takes a connection of the platform from a project.
    ///
    /// # Errors
    /// `NotFound` if the project did not have it; [`StoreError`] lists the rest.
    async fn unshare_connection(
        &self,
        connection: ConnectionId,
        project: ProjectId,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError>;

    /// Reads the connection of the platform that the project was given under a name with this hash.
    ///
    /// # Errors
    /// `NotFound`; [`StoreError`] lists the rest.
    async fn shared_connection(
        &self,
        name: LookupHash,
        project: ProjectId,
    ) -> Result<(SharedConnection, ConnectionRecord), StoreError>;

    /// Lists what the project was given, in order of the connections' ids.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn shared_connections(
        &self,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<(SharedConnection, ConnectionRecord)>, StoreError>;
}
