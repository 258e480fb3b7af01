//! Connections.

use std::time::Duration;

use ap_core::{
    audit::AuditRecord,
    id::{ConnectionId, PlatformId, ProjectId},
    scope::Scope,
    store::{Entity, LookupHash, Page, PageRequest, Precondition, Revision, StoreError},
    time::Timestamp,
};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend, connect,
    project::{append, audit_bytes, read_scope, require_project},
    row::{Columns, uint},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::check_precondition,
    store::{ConnectionRecord, ConnectionStore, SharedConnection},
};

#[async_trait]
impl ConnectionStore for SqliteBackend {
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write(WriteConnection { connection, precondition, epoch: None, audit: audit.to_vec() }).await
    }

    async fn write_leased_connection(
        &self,
        connection: ConnectionRecord,
        (revision, epoch): (Revision, u64),
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let precondition = Precondition::Revision(revision);
        let write = WriteConnection { connection, precondition, epoch: Some(epoch), audit: audit.to_vec() };
        self.writer.write(write).await
    }

    async fn connection(&self, name: LookupHash, owner: Scope) -> Result<ConnectionRecord, StoreError> {
        let sql = "SELECT id, scope, name, created, updated, due, revision, sealed \
            FROM ap_connections WHERE scope = ? AND name = ?";
        let read = move |open: &_| connect::row(open, sql, params![owner.to_bytes(), name.0], read_connection);
        self.readers.read(read).await?.ok_or(NOT_FOUND)
    }

    async fn connections(&self, owner: Scope, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError> {
        let sql = "SELECT id, scope, name, created, updated, due, revision, sealed \
            FROM ap_connections WHERE scope = ? AND id > ? ORDER BY id LIMIT ?";
        self.page(sql, [owner.to_bytes().to_vec()], page, read_connection, |record| record.id.as_u128()).await
    }

    async fn delete_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write(DeleteConnection { id, owner, revision, audit: audit.to_vec() }).await
    }

    async fn lease_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        lease: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.writer.write(LeaseConnection { id, owner, revision, lease }).await
    }

    async fn release_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        epoch: u64,
        rest: Duration,
    ) -> Result<(), StoreError> {
        self.writer.write(ReleaseConnection { id, owner, epoch, rest }).await
    }

    async fn share_connection(&self, shared: SharedConnection, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(ShareConnection { shared, audit: audit.to_vec() }).await
    }

    async fn unshare_connection(
        &self,
        connection: ConnectionId,
        project: ProjectId,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write(UnshareConnection { connection, project, audit: audit.to_vec() }).await
    }

    async fn shared_connection(
        &self,
        name: LookupHash,
        project: ProjectId,
    ) -> Result<(SharedConnection, ConnectionRecord), StoreError> {
        let sql = "SELECT s.project, s.connection, s.owner, s.name, s.sealed, \
            c.id, c.scope, c.name, c.created, c.updated, c.due, c.revision, c.sealed \
            FROM ap_shared_connections s JOIN ap_connections c ON c.scope = unhex('50' || hex(s.owner)) \
            AND c.id = s.connection WHERE s.project = ? AND s.name = ?";
        let read = move |open: &_| connect::row(open, sql, params![project.as_bytes(), name.0], read_shared);
        self.readers.read(read).await?.ok_or(NOT_FOUND)
    }

    async fn shared_connections(
        &self,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<(SharedConnection, ConnectionRecord)>, StoreError> {
        let sql = "SELECT s.project, s.connection, s.owner, s.name, s.sealed, \
            c.id, c.scope, c.name, c.created, c.updated, c.due, c.revision, c.sealed \
            FROM ap_shared_connections s JOIN ap_connections c ON c.scope = unhex('50' || hex(s.owner)) \
            AND c.id = s.connection WHERE s.project = ? AND s.connection > ? ORDER BY s.connection LIMIT ?";
        let of = [project.as_bytes().to_vec()];
        self.page(sql, of, page, read_shared, |(shared, _)| shared.connection.as_u128()).await
    }
}

struct WriteConnection {
    connection: ConnectionRecord,
    precondition: Precondition,
    /// The last lease must be this one.
    epoch: Option<u64>,
    audit: Vec<AuditRecord>,
}

impl Operation for WriteConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        self.connection.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let ConnectionRecord { id, owner, name, created, updated, due, revision, sealed } = &self.connection;
        if let Some(project) = owner.project() {
            require_project(transaction, project)?;
        }
        let stored = stored(transaction, *id, *owner)?;
        check_precondition(Entity::Connection, self.precondition, *revision, stored.map(|(revision, _)| revision))?;
        if let (Some(epoch), Some((_, last))) = (self.epoch, stored)
            && epoch != last
        {
            return Err(StoreError::Fenced.into());
        }
        let taken = transaction.exists(
            "SELECT 1 FROM ap_connections WHERE scope = ? AND name = ? AND id <> ?",
            params![owner.to_bytes(), name.0, id.as_bytes()],
        )?;
        if taken {
            return Err(StoreError::AlreadyExists { entity: Entity::Connection }.into());
        }
        transaction.run(
            "INSERT INTO ap_connections (scope, id, name, created, updated, due, revision, sealed) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, id) DO UPDATE SET name = excluded.name, \
             created = excluded.created, updated = excluded.updated, due = excluded.due, revision = excluded.revision, \
             leased = NULL, sealed = excluded.sealed",
            params![
                owner.to_bytes(),
                id.as_bytes(),
                name.0,
                created.as_micros(),
                updated.as_micros(),
                due.map(Timestamp::as_micros),
                uint(revision.0)?,
                sealed.as_bytes().as_ref()
            ],
        )?;
        append(transaction, &self.audit)
    }
}

struct DeleteConnection {
    id: ConnectionId,
    owner: Scope,
    revision: Revision,
    audit: Vec<AuditRecord>,
}

impl Operation for DeleteConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        check_revision(transaction, self.id, self.owner, self.revision)?;
        let of = params![self.owner.to_bytes(), self.id.as_bytes()];
        transaction.run("DELETE FROM ap_connections WHERE scope = ? AND id = ?", of)?;
        if let Scope::Platform(platform) = self.owner {
            transaction.run(
                "DELETE FROM ap_shared_connections WHERE connection = ? AND owner = ?",
                [self.id.as_bytes(), platform.as_bytes()],
            )?;
        }
        append(transaction, &self.audit)
    }
}

struct LeaseConnection {
    id: ConnectionId,
    owner: Scope,
    revision: Revision,
    lease: Duration,
}

impl Operation for LeaseConnection {
    type Output = Option<u64>;

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<Option<u64>, Failure> {
        check_revision(transaction, self.id, self.owner, self.revision)?;
        let (now, until) = (transaction.now, transaction.now.saturating_add(self.lease));
        let epoch = transaction.row(
            "UPDATE ap_connections SET epoch = epoch + 1, leased = ? \
             WHERE scope = ? AND id = ? AND (leased IS NULL OR leased <= ?) RETURNING epoch",
            params![until.as_micros(), self.owner.to_bytes(), self.id.as_bytes(), now.as_micros()],
            |columns| columns.uint(),
        )?;
        Ok(epoch)
    }
}

struct ReleaseConnection {
    id: ConnectionId,
    owner: Scope,
    epoch: u64,
    rest: Duration,
}

impl Operation for ReleaseConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        0
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let until = transaction.now.saturating_add(self.rest);
        transaction.run(
            "UPDATE ap_connections SET leased = ? WHERE scope = ? AND id = ? AND epoch = ?",
            params![until.as_micros(), self.owner.to_bytes(), self.id.as_bytes(), uint(self.epoch)?],
        )?;
        Ok(())
    }
}

struct ShareConnection {
    shared: SharedConnection,
    audit: Vec<AuditRecord>,
}

impl Operation for ShareConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        self.shared.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let SharedConnection { connection, owner, project, name, sealed } = &self.shared;
        require_project(transaction, *project)?;
        if stored(transaction, *connection, (*owner).into())?.is_none() {
            return Err(NOT_FOUND.into());
        }
        let taken = transaction.exists(
            "SELECT 1 FROM ap_shared_connections WHERE project = ? AND name = ? AND connection <> ?",
            params![project.as_bytes(), name.0, connection.as_bytes()],
        )?;
        if taken {
            return Err(StoreError::AlreadyExists { entity: Entity::Connection }.into());
        }
        transaction.run(
            "INSERT INTO ap_shared_connections (project, connection, owner, name, sealed) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (project, connection) DO UPDATE SET owner = excluded.owner, name = excluded.name, \
             sealed = excluded.sealed",
            params![project.as_bytes(), connection.as_bytes(), owner.as_bytes(), name.0, sealed.as_bytes().as_ref()],
        )?;
        append(transaction, &self.audit)
    }
}

struct UnshareConnection {
    connection: ConnectionId,
    project: ProjectId,
    audit: Vec<AuditRecord>,
}

impl Operation for UnshareConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let of = [self.project.as_bytes(), self.connection.as_bytes()];
        if !transaction.exists("SELECT 1 FROM ap_shared_connections WHERE project = ? AND connection = ?", of)? {
            return Err(NOT_FOUND.into());
        }
        transaction.run("DELETE FROM ap_shared_connections WHERE project = ? AND connection = ?", of)?;
        append(transaction, &self.audit)
    }
}

/// Revision and epoch of a connection that is there.
fn stored(transaction: &Transaction<'_>, id: ConnectionId, owner: Scope) -> rusqlite::Result<Option<(Revision, u64)>> {
    transaction.row(
        "SELECT revision, epoch FROM ap_connections WHERE scope = ? AND id = ?",
        params![owner.to_bytes(), id.as_bytes()],
        |columns| Ok((columns.revision()?, columns.uint()?)),
    )
}

fn check_revision(
    transaction: &Transaction<'_>,
    id: ConnectionId,
    owner: Scope,
    revision: Revision,
) -> Result<(), Failure> {
    let stored = stored(transaction, id, owner)?.map(|(revision, _)| revision);
    let precondition = Precondition::Revision(revision);
    Ok(check_precondition(Entity::Connection, precondition, precondition.resulting_revision(), stored)?)
}

pub(super) fn read_connection(columns: &mut Columns<'_>) -> rusqlite::Result<ConnectionRecord> {
    Ok(ConnectionRecord {
        id: columns.id(ConnectionId::from_slice)?,
        owner: read_scope(columns.bytes()?)?,
        name: columns.hash()?,
        created: columns.time()?,
        updated: columns.time()?,
        due: columns.maybe_time()?,
        revision: columns.revision()?,
        sealed: columns.sealed()?,
    })
}

fn read_shared(columns: &mut Columns<'_>) -> rusqlite::Result<(SharedConnection, ConnectionRecord)> {
    let shared = SharedConnection {
        project: columns.id(ProjectId::from_slice)?,
        connection: columns.id(ConnectionId::from_slice)?,
        owner: columns.id(PlatformId::from_slice)?,
        name: columns.hash()?,
        sealed: columns.sealed()?,
    };
    Ok((shared, read_connection(columns)?))
}

const NOT_FOUND: StoreError = StoreError::NotFound { entity: Entity::Connection };
