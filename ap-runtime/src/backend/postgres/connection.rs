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
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    link::{Failure, Transaction},
    value::{Columns, Id, signed},
    writer::{Operation, audit_bytes},
};
use crate::{
    backend::check_precondition,
    store::{ConnectionRecord, ConnectionStore, SharedConnection},
};

#[async_trait]
impl ConnectionStore for PostgresBackend {
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let operation = WriteConnection { connection, precondition, epoch: None, audit: audit.to_vec() };
        self.writer.write_after_all(operation).await
    }

    async fn write_leased_connection(
        &self,
        connection: ConnectionRecord,
        (revision, epoch): (Revision, u64),
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        let precondition = Precondition::Revision(revision);
        let operation = WriteConnection { connection, precondition, epoch: Some(epoch), audit: audit.to_vec() };
        self.writer.write_after_all(operation).await
    }

    async fn connection(&self, name: LookupHash, owner: Scope) -> Result<ConnectionRecord, StoreError> {
        let query = sqlx::query(CONNECTION).bind(owner.to_bytes().to_vec()).bind(name.0.to_vec());
        self.row(query, |row| read_connection(&mut Columns::of(row))).await?.ok_or(NOT_FOUND)
    }

    async fn connections(&self, owner: Scope, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError> {
        let query = sqlx::query(CONNECTIONS).bind(owner.to_bytes().to_vec());
        let read = |row: &PgRow| read_connection(&mut Columns::of(row));
        self.page(query, page, read, |record| record.id.as_u128()).await
    }

    async fn delete_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write_after_all(DeleteConnection { id, owner, revision, audit: audit.to_vec() }).await
    }

    async fn lease_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        revision: Revision,
        lease: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.writer.write_after_all(LeaseConnection { id, owner, revision, lease }).await
    }

    async fn release_connection(
        &self,
        id: ConnectionId,
        owner: Scope,
        epoch: u64,
        rest: Duration,
    ) -> Result<(), StoreError> {
        self.writer.write_after_all(ReleaseConnection { id, owner, epoch, rest }).await
    }

    async fn share_connection(&self, shared: SharedConnection, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write_after_all(ShareConnection { shared, audit: audit.to_vec() }).await
    }

    async fn unshare_connection(
        &self,
        connection: ConnectionId,
        project: ProjectId,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write_after_all(UnshareConnection { connection, project, audit: audit.to_vec() }).await
    }

    async fn shared_connection(
        &self,
        name: LookupHash,
        project: ProjectId,
    ) -> Result<(SharedConnection, ConnectionRecord), StoreError> {
        let query = sqlx::query(SHARED).bind(Id::from(project)).bind(name.0.to_vec());
        self.row(query, read_shared).await?.ok_or(NOT_FOUND)
    }

    async fn shared_connections(
        &self,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<(SharedConnection, ConnectionRecord)>, StoreError> {
        let query = sqlx::query(ALL_SHARED).bind(Id::from(project));
        self.page(query, page, read_shared, |(shared, _)| shared.connection.as_u128()).await
    }
}

struct WriteConnection {
    connection: ConnectionRecord,
    precondition: Precondition,
    /// The last lease must be this one.
    epoch: Option<u64>,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for WriteConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        self.connection.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let connection = &self.connection;
        if let Some(project) = connection.owner.project() {
            transaction.lock_project(project).await?;
        }
        let stored = transaction.stored_connection(connection.id, connection.owner).await?;
        let revision = stored.map(|(revision, _)| revision);
        check_precondition(Entity::Connection, self.precondition, connection.revision, revision)?;
        if let (Some(epoch), Some((_, last))) = (self.epoch, stored)
            && epoch != last
        {
            return Err(StoreError::Fenced.into());
        }
        // A name that is taken fails the statement.
        sqlx::query(if stored.is_some() { UPDATE_CONNECTION } else { INSERT_CONNECTION })
            .bind(connection.owner.to_bytes().to_vec())
            .bind(Id::from(connection.id))
            .bind(connection.name.0.as_slice())
            .bind(connection.created.as_micros())
            .bind(connection.updated.as_micros())
            .bind(signed(connection.revision.0))
            .bind(connection.sealed.as_bytes().as_ref())
            .bind(connection.due.map(Timestamp::as_micros))
            .execute(&mut *transaction.connection)
            .await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

struct DeleteConnection {
    id: ConnectionId,
    owner: Scope,
    revision: Revision,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for DeleteConnection {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        transaction.check_connection(self.id, self.owner, self.revision).await?;
        sqlx::query("DELETE FROM ap_connections WHERE scope = $1 AND id = $2")
            .bind(self.owner.to_bytes().to_vec())
            .bind(Id::from(self.id))
            .execute(&mut *transaction.connection)
            .await?;
        if let Scope::Platform(platform) = self.owner {
            sqlx::query("DELETE FROM ap_shared_connections WHERE connection = $1 AND owner = $2")
                .bind(Id::from(self.id))
                .bind(Id(platform.as_u128()))
                .execute(&mut *transaction.connection)
                .await?;
        }
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

struct LeaseConnection {
    id: ConnectionId,
    owner: Scope,
    revision: Revision,
    lease: Duration,
}

#[async_trait]
impl Operation for LeaseConnection {
    type Output = Option<u64>;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Option<u64>, Failure> {
        transaction.check_connection(self.id, self.owner, self.revision).await?;
        let (now, until) = (transaction.now, transaction.now.saturating_add(self.lease));
        let row = sqlx::query(LEASE)
            .bind(self.owner.to_bytes().to_vec())
            .bind(Id::from(self.id))
            .bind(now.as_micros())
            .bind(until.as_micros())
            .fetch_optional(&mut *transaction.connection)
            .await?;
        Ok(row.map(|row| Columns::of(&row).count()).transpose()?)
    }
}

struct ReleaseConnection {
    id: ConnectionId,
    owner: Scope,
    epoch: u64,
    rest: Duration,
}

#[async_trait]
impl Operation for ReleaseConnection {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        sqlx::query("UPDATE ap_connections SET leased = $4 WHERE scope = $1 AND id = $2 AND epoch = $3")
            .bind(self.owner.to_bytes().to_vec())
            .bind(Id::from(self.id))
            .bind(signed(self.epoch))
            .bind(transaction.now.saturating_add(self.rest).as_micros())
            .execute(&mut *transaction.connection)
            .await?;
        Ok(())
    }
}

struct ShareConnection {
    shared: SharedConnection,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for ShareConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        self.shared.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let SharedConnection { connection, owner, project, name, sealed } = &self.shared;
        transaction.lock_project(*project).await?;
        if transaction.stored_connection(*connection, (*owner).into()).await?.is_none() {
            return Err(NOT_FOUND.into());
        }
        sqlx::query(SHARE)
            .bind(Id::from(*project))
            .bind(Id::from(*connection))
            .bind(Id(owner.as_u128()))
            .bind(name.0.as_slice())
            .bind(sealed.as_bytes().as_ref())
            .execute(&mut *transaction.connection)
            .await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

struct UnshareConnection {
    connection: ConnectionId,
    project: ProjectId,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for UnshareConnection {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let gone = sqlx::query("DELETE FROM ap_shared_connections WHERE project = $1 AND connection = $2")
            .bind(Id::from(self.project))
            .bind(Id::from(self.connection))
            .execute(&mut *transaction.connection)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(NOT_FOUND.into());
        }
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

impl Transaction<'_> {
    /// Revision and epoch of a connection that is there; it stays so until the end.
    async fn stored_connection(&mut self, id: ConnectionId, owner: Scope) -> sqlx::Result<Option<(Revision, u64)>> {
        let row = sqlx::query("SELECT revision, epoch FROM ap_connections WHERE scope = $1 AND id = $2 FOR UPDATE")
            .bind(owner.to_bytes().to_vec())
            .bind(Id::from(id))
            .fetch_optional(&mut *self.connection)
            .await?;
        let read = |row: PgRow| {
            let mut columns = Columns::of(&row);
            Ok((columns.revision()?, columns.count()?))
        };
        row.map(read).transpose()
    }

    async fn check_connection(&mut self, id: ConnectionId, owner: Scope, revision: Revision) -> Result<(), Failure> {
        let stored = self.stored_connection(id, owner).await?.map(|(revision, _)| revision);
        let precondition = Precondition::Revision(revision);
        Ok(check_precondition(Entity::Connection, precondition, precondition.resulting_revision(), stored)?)
    }
}

pub(super) fn read_connection(columns: &mut Columns<'_>) -> sqlx::Result<ConnectionRecord> {
    Ok(ConnectionRecord {
        id: columns.id()?,
        owner: columns.scope()?,
        name: columns.hash()?,
        created: columns.time()?,
        updated: columns.time()?,
        due: columns.maybe_time()?,
        revision: columns.revision()?,
        sealed: columns.sealed()?,
    })
}

fn read_shared(row: &PgRow) -> sqlx::Result<(SharedConnection, ConnectionRecord)> {
    let mut columns = Columns::of(row);
    let shared = SharedConnection {
        project: columns.id()?,
        connection: columns.id()?,
        owner: PlatformId::from_u128(columns.value::<Id>()?.0),
        name: columns.hash()?,
        sealed: columns.sealed()?,
    };
    Ok((shared, read_connection(&mut columns)?))
}

const CONNECTION: &str = "SELECT id, scope, name, created, updated, due, revision, sealed \
    FROM ap_connections WHERE scope = $1 AND name = $2";
const CONNECTIONS: &str = "SELECT id, scope, name, created, updated, due, revision, sealed \
    FROM ap_connections WHERE scope = $1 AND id >= $2 ORDER BY id LIMIT $3";
const INSERT_CONNECTION: &str = "INSERT INTO ap_connections (scope, id, name, created, updated, revision, sealed, due) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const UPDATE_CONNECTION: &str = "UPDATE ap_connections SET name = $3, created = $4, updated = $5, revision = $6, \
    leased = NULL, sealed = $7, due = $8 WHERE scope = $1 AND id = $2";
const LEASE: &str = "UPDATE ap_connections SET epoch = epoch + 1, leased = $4 \
    WHERE scope = $1 AND id = $2 AND (leased IS NULL OR leased <= $3) RETURNING epoch";
/// Of another connection of this name the statement fails.
const SHARE: &str = "INSERT INTO ap_shared_connections (project, connection, owner, name, sealed) \
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT (project, connection) DO UPDATE SET owner = excluded.owner, \
    name = excluded.name, sealed = excluded.sealed";
const SHARED: &str = "SELECT s.project, s.connection, s.owner, s.name, s.sealed, \
    c.id, c.scope, c.name, c.created, c.updated, c.due, c.revision, c.sealed \
    FROM ap_shared_connections s JOIN ap_connections c ON c.scope = '\\x50'::bytea || uuid_send(s.owner) \
    AND c.id = s.connection WHERE s.project = $1 AND s.name = $2";
const ALL_SHARED: &str = "SELECT s.project, s.connection, s.owner, s.name, s.sealed, \
    c.id, c.scope, c.name, c.created, c.updated, c.due, c.revision, c.sealed \
    FROM ap_shared_connections s JOIN ap_connections c ON c.scope = '\\x50'::bytea || uuid_send(s.owner) \
    AND c.id = s.connection WHERE s.project = $1 AND s.connection >= $2 ORDER BY s.connection LIMIT $3";
const NOT_FOUND: StoreError = StoreError::NotFound { entity: Entity::Connection };
