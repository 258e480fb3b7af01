//! Flows, their versions, and connections.

use ap_core::{
    audit::AuditRecord,
    id::{ConnectionId, FlowId, FlowVersionId, ProjectId},
    store::{Entity, LookupHash, Page, PageRequest, Precondition, Revision, StoreError},
};
use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use super::{
    SqliteBackend,
    error::store_error,
    project::{audit_bytes, project_exists},
    script::{Columns, Script, decode},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{check_flow_write, check_precondition},
    store::{ConnectionRecord, ConnectionStore, FlowRecord, FlowStore, FlowVersionRecord, FlowWrite, VersionState},
};

#[async_trait]
impl FlowStore for SqliteBackend {
    async fn write_flow(&self, write: FlowWrite, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_flow_write(&write)?;
        self.writer.write(WriteFlow { write, audit: audit.to_vec() }).await
    }

    async fn flow(&self, id: FlowId, project: ProjectId) -> Result<FlowRecord, StoreError> {
        let mut script = Script::new(
            "SELECT id, project, created, updated, revision, enabled, published, draft, webhook, generation, sealed \
             FROM ap_flows WHERE project = ? AND id = ?",
        );
        script.bytes(project.as_bytes()).bytes(id.as_bytes());
        let row = self.row(script).await?.ok_or(StoreError::NotFound { entity: Entity::Flow })?;
        read_flow(&row).map_err(store_error)
    }

    async fn flows(&self, project: ProjectId, page: &PageRequest) -> Result<Page<FlowRecord>, StoreError> {
        let mut script = Script::new(
            "SELECT id, project, created, updated, revision, enabled, published, draft, webhook, generation, sealed \
             FROM ap_flows WHERE project = ? AND id > ? ORDER BY id LIMIT ?",
        );
        script.bytes(project.as_bytes());
        self.page(script, page, read_flow, |flow| flow.id.as_u128()).await
    }

    async fn flow_version(&self, id: FlowVersionId, project: ProjectId) -> Result<FlowVersionRecord, StoreError> {
        let mut script = Script::new(
            "SELECT id, project, flow, number, state, created, revision, sealed \
             FROM ap_flow_versions WHERE project = ? AND id = ?",
        );
        script.bytes(project.as_bytes()).bytes(id.as_bytes());
        let row = self.row(script).await?.ok_or(StoreError::NotFound { entity: Entity::FlowVersion })?;
        read_version(&row).map_err(store_error)
    }

    async fn flow_versions(
        &self,
        flow: FlowId,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<FlowVersionRecord>, StoreError> {
        let mut script = Script::new(
            "SELECT id, project, flow, number, state, created, revision, sealed \
             FROM ap_flow_versions WHERE project = ? AND flow = ? AND id > ? ORDER BY id LIMIT ?",
        );
        script.bytes(project.as_bytes()).bytes(flow.as_bytes());
        self.page(script, page, read_version, |version| version.id.as_u128()).await
    }
}

#[async_trait]
impl ConnectionStore for SqliteBackend {
    async fn write_connection(
        &self,
        connection: ConnectionRecord,
        precondition: Precondition,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write(WriteConnection { connection, precondition, audit: audit.to_vec() }).await
    }

    async fn connection(&self, name: LookupHash, project: ProjectId) -> Result<ConnectionRecord, StoreError> {
        let mut script = Script::new(
            "SELECT id, project, name, created, updated, revision, sealed \
             FROM ap_connections WHERE project = ? AND name = ?",
        );
        script.bytes(project.as_bytes()).bytes(&name.0);
        let row = self.row(script).await?.ok_or(StoreError::NotFound { entity: Entity::Connection })?;
        read_connection(&row).map_err(store_error)
    }

    async fn connections(&self, project: ProjectId, page: &PageRequest) -> Result<Page<ConnectionRecord>, StoreError> {
        let mut script = Script::new(
            "SELECT id, project, name, created, updated, revision, sealed \
             FROM ap_connections WHERE project = ? AND id > ? ORDER BY id LIMIT ?",
        );
        script.bytes(project.as_bytes());
        self.page(script, page, read_connection, |connection| connection.id.as_u128()).await
    }

    async fn delete_connection(
        &self,
        id: ConnectionId,
        project: ProjectId,
        revision: Revision,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        self.writer.write(DeleteConnection { id, project, revision, audit: audit.to_vec() }).await
    }
}

struct WriteFlow {
    write: FlowWrite,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for WriteFlow {
    type Output = ();

    fn bytes(&self) -> usize {
        let versions = self.write.versions.iter().map(|(version, _)| version.sealed.as_bytes().len());
        self.write.flow.sealed.as_bytes().len() + versions.sum::<usize>() + audit_bytes(&self.audit)
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
        let FlowWrite { flow, precondition, versions, .. } = &self.write;
        check_flow(transaction, flow, *precondition).await?;
        for (version, precondition) in versions {
            check_version(transaction, version, *precondition).await?;
        }
        let mut script = Script::default();
        put_flow(&mut script, flow);
        for (version, _) in versions {
            put_version(&mut script, version);
        }
        transaction.run(script.audit(&self.audit)).await
    }
}

struct WriteConnection {
    connection: ConnectionRecord,
    precondition: Precondition,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for WriteConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        self.connection.sealed.as_bytes().len() + audit_bytes(&self.audit)
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
        let connection = &self.connection;
        let entity = Entity::Connection;
        require_project(transaction, connection.project).await?;
        let stored = connection_revision(transaction, connection.id, connection.project).await?;
        check_precondition(entity, self.precondition, connection.revision, stored)?;
        let mut script = Script::new("SELECT 1 FROM ap_connections WHERE project = ? AND name = ? AND id <> ?");
        script.bytes(connection.project.as_bytes()).bytes(&connection.name.0).bytes(connection.id.as_bytes());
        if transaction.row(script).await?.is_some() {
            return Err(StoreError::AlreadyExists { entity }.into());
        }
        let mut script = Script::new(
            "INSERT INTO ap_connections (project, id, name, created, updated, revision, sealed) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, id) DO UPDATE SET name = excluded.name, \
             created = excluded.created, updated = excluded.updated, revision = excluded.revision, \
             sealed = excluded.sealed",
        );
        script.bytes(connection.project.as_bytes()).bytes(connection.id.as_bytes()).bytes(&connection.name.0);
        script.time(connection.created).time(connection.updated).uint(connection.revision.0);
        script.sealed(&connection.sealed);
        transaction.run(script.audit(&self.audit)).await
    }
}

struct DeleteConnection {
    id: ConnectionId,
    project: ProjectId,
    revision: Revision,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for DeleteConnection {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
        let stored = connection_revision(transaction, self.id, self.project).await?;
        let precondition = Precondition::Revision(self.revision);
        check_precondition(Entity::Connection, precondition, precondition.resulting_revision(), stored)?;
        let mut script = Script::new("DELETE FROM ap_connections WHERE project = ? AND id = ?");
        script.bytes(self.project.as_bytes()).bytes(self.id.as_bytes());
        transaction.run(script.audit(&self.audit)).await
    }
}

async fn check_flow(
    transaction: &mut Transaction<'_>,
    flow: &FlowRecord,
    precondition: Precondition,
) -> Result<(), Failure> {
    require_project(transaction, flow.project).await?;
    let mut script = Script::new("SELECT revision FROM ap_flows WHERE project = ? AND id = ?");
    script.bytes(flow.project.as_bytes()).bytes(flow.id.as_bytes());
    let stored = transaction.row(script).await?.map(|row| Columns::of(&row).revision()).transpose()?;
    check_precondition(Entity::Flow, precondition, flow.revision, stored)?;
    let mut script = Script::new("SELECT 1 FROM ap_flows WHERE webhook = ? AND (project <> ? OR id <> ?)");
    script.bytes(&flow.webhook.0).bytes(flow.project.as_bytes()).bytes(flow.id.as_bytes());
    match transaction.row(script).await? {
        Some(_) => Err(StoreError::AlreadyExists { entity: Entity::Flow }.into()),
        None => Ok(()),
    }
}

async fn check_version(
    transaction: &mut Transaction<'_>,
    version: &FlowVersionRecord,
    precondition: Precondition,
) -> Result<(), Failure> {
    let entity = Entity::FlowVersion;
    let mut script = Script::new("SELECT revision, flow, state FROM ap_flow_versions WHERE project = ? AND id = ?");
    script.bytes(version.project.as_bytes()).bytes(version.id.as_bytes());
    let stored = match transaction.row(script).await? {
        Some(row) => {
            let mut columns = Columns::of(&row);
            Some((columns.revision()?, columns.id(FlowId::from_slice)?, read_state(columns.text()?)?))
        }
        None => None,
    };
    check_precondition(entity, precondition, version.revision, stored.map(|(revision, ..)| revision))?;
    if let Some((current, flow, state)) = stored {
        if flow != version.flow {
            return Err(StoreError::NotFound { entity }.into());
        }
        if state == VersionState::Locked {
            return Err(StoreError::Conflict { entity, current }.into());
        }
    }
    let mut script =
        Script::new("SELECT 1 FROM ap_flow_versions WHERE project = ? AND flow = ? AND number = ? AND id <> ?");
    script.bytes(version.project.as_bytes()).bytes(version.flow.as_bytes());
    script.uint(version.number.into()).bytes(version.id.as_bytes());
    match transaction.row(script).await? {
        Some(_) => Err(StoreError::AlreadyExists { entity }.into()),
        None => Ok(()),
    }
}

async fn require_project(transaction: &mut Transaction<'_>, project: ProjectId) -> Result<(), Failure> {
    if project_exists(transaction, project).await? {
        Ok(())
    } else {
        Err(StoreError::NotFound { entity: Entity::Project }.into())
    }
}

async fn connection_revision(
    transaction: &mut Transaction<'_>,
    id: ConnectionId,
    project: ProjectId,
) -> sqlx::Result<Option<Revision>> {
    let mut script = Script::new("SELECT revision FROM ap_connections WHERE project = ? AND id = ?");
    script.bytes(project.as_bytes()).bytes(id.as_bytes());
    transaction.row(script).await?.map(|row| Columns::of(&row).revision()).transpose()
}

fn put_flow(script: &mut Script, flow: &FlowRecord) {
    script.then(
        "INSERT INTO ap_flows (project, id, created, updated, revision, enabled, published, draft, webhook, \
         generation, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, id) DO UPDATE SET \
         created = excluded.created, updated = excluded.updated, revision = excluded.revision, \
         enabled = excluded.enabled, published = excluded.published, draft = excluded.draft, \
         webhook = excluded.webhook, generation = excluded.generation, sealed = excluded.sealed",
    );
    script.bytes(flow.project.as_bytes()).bytes(flow.id.as_bytes()).time(flow.created).time(flow.updated);
    script.uint(flow.revision.0).bind(flow.enabled);
    script.bind(flow.published.as_ref().map(|id| id.as_bytes().as_slice()));
    script.bind(flow.draft.as_ref().map(|id| id.as_bytes().as_slice()));
    script.bytes(&flow.webhook.0).uint(flow.generation).sealed(&flow.sealed);
}

fn put_version(script: &mut Script, version: &FlowVersionRecord) {
    script.then(
        "INSERT INTO ap_flow_versions (project, id, flow, number, state, created, revision, sealed) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, id) DO UPDATE SET number = excluded.number, \
         state = excluded.state, created = excluded.created, revision = excluded.revision, sealed = excluded.sealed",
    );
    script.bytes(version.project.as_bytes()).bytes(version.id.as_bytes()).bytes(version.flow.as_bytes());
    script.uint(version.number.into()).bind(version.state.as_str()).time(version.created);
    script.uint(version.revision.0).sealed(&version.sealed);
}

fn read_flow(row: &SqliteRow) -> sqlx::Result<FlowRecord> {
    let mut columns = Columns::of(row);
    Ok(FlowRecord {
        id: columns.id(FlowId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        created: columns.time()?,
        updated: columns.time()?,
        revision: columns.revision()?,
        enabled: columns.int()? != 0,
        published: columns.maybe_id(FlowVersionId::from_slice)?,
        draft: columns.maybe_id(FlowVersionId::from_slice)?,
        webhook: columns.hash()?,
        generation: columns.uint()?,
        sealed: columns.sealed()?,
    })
}

fn read_version(row: &SqliteRow) -> sqlx::Result<FlowVersionRecord> {
    let mut columns = Columns::of(row);
    Ok(FlowVersionRecord {
        id: columns.id(FlowVersionId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        flow: columns.id(FlowId::from_slice)?,
        number: u32::try_from(columns.int()?).map_err(decode)?,
        state: read_state(columns.text()?)?,
        created: columns.time()?,
        revision: columns.revision()?,
        sealed: columns.sealed()?,
    })
}

fn read_state(text: &str) -> sqlx::Result<VersionState> {
    let states = [VersionState::Draft, VersionState::Locked];
    states.into_iter().find(|state| state.as_str() == text).ok_or_else(|| decode("not a version state"))
}

fn read_connection(row: &SqliteRow) -> sqlx::Result<ConnectionRecord> {
    let mut columns = Columns::of(row);
    Ok(ConnectionRecord {
        id: columns.id(ConnectionId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        name: columns.hash()?,
        created: columns.time()?,
        updated: columns.time()?,
        revision: columns.revision()?,
        sealed: columns.sealed()?,
    })
}
