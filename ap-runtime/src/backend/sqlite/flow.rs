//! Flows and their versions.

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId},
    store::{Entity, Page, PageRequest, Precondition, StoreError},
};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend, connect,
    project::{append, audit_bytes, require_project},
    row::{Columns, decode, uint},
    trigger,
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{check_flow_write, check_precondition},
    store::{FlowRecord, FlowStore, FlowVersionRecord, FlowWrite, VersionState},
};

#[async_trait]
impl FlowStore for SqliteBackend {
    async fn write_flow(&self, write: FlowWrite, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_flow_write(&write)?;
        self.writer.write(WriteFlow { write, audit: audit.to_vec() }).await
    }

    async fn flow(&self, id: FlowId, project: ProjectId) -> Result<FlowRecord, StoreError> {
        let sql = "SELECT id, project, created, updated, revision, enabled, published, draft, webhook, generation, \
            sealed FROM ap_flows WHERE project = ? AND id = ?";
        let read = move |open: &_| connect::row(open, sql, [project.as_bytes(), id.as_bytes()], read_flow);
        self.readers.read(read).await?.ok_or(StoreError::NotFound { entity: Entity::Flow })
    }

    async fn flows(&self, project: ProjectId, page: &PageRequest) -> Result<Page<FlowRecord>, StoreError> {
        let sql = "SELECT id, project, created, updated, revision, enabled, published, draft, webhook, generation, \
            sealed FROM ap_flows WHERE project = ? AND id > ? ORDER BY id LIMIT ?";
        self.page(sql, [project.as_bytes().to_vec()], page, read_flow, |flow| flow.id.as_u128()).await
    }

    async fn flow_version(&self, id: FlowVersionId, project: ProjectId) -> Result<FlowVersionRecord, StoreError> {
        let sql = "SELECT id, project, flow, number, state, created, revision, sealed \
            FROM ap_flow_versions WHERE project = ? AND id = ?";
        let read = move |open: &_| connect::row(open, sql, [project.as_bytes(), id.as_bytes()], read_version);
        self.readers.read(read).await?.ok_or(StoreError::NotFound { entity: Entity::FlowVersion })
    }

    async fn flow_versions(
        &self,
        flow: FlowId,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<FlowVersionRecord>, StoreError> {
        let sql = "SELECT id, project, flow, number, state, created, revision, sealed \
            FROM ap_flow_versions WHERE project = ? AND flow = ? AND id > ? ORDER BY id LIMIT ?";
        let of = [project.as_bytes().to_vec(), flow.as_bytes().to_vec()];
        self.page(sql, of, page, read_version, |version| version.id.as_u128()).await
    }
}

struct WriteFlow {
    write: FlowWrite,
    audit: Vec<AuditRecord>,
}

impl Operation for WriteFlow {
    type Output = ();

    fn bytes(&self) -> usize {
        let versions = self.write.versions.iter().map(|(version, _)| version.sealed.as_bytes().len());
        self.write.flow.sealed.as_bytes().len() + versions.sum::<usize>() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let FlowWrite { flow, precondition, versions, trigger } = &self.write;
        check_flow(transaction, flow, *precondition)?;
        for (version, precondition) in versions {
            check_version(transaction, version, *precondition)?;
        }
        put_flow(transaction, flow)?;
        for (version, _) in versions {
            put_version(transaction, version)?;
        }
        trigger::change(transaction, flow, trigger)?;
        append(transaction, &self.audit)
    }
}

fn check_flow(transaction: &Transaction<'_>, flow: &FlowRecord, precondition: Precondition) -> Result<(), Failure> {
    require_project(transaction, flow.project)?;
    let stored = transaction.row(
        "SELECT revision FROM ap_flows WHERE project = ? AND id = ?",
        [flow.project.as_bytes(), flow.id.as_bytes()],
        |columns| columns.revision(),
    )?;
    check_precondition(Entity::Flow, precondition, flow.revision, stored)?;
    let taken = transaction.exists(
        "SELECT 1 FROM ap_flows WHERE webhook = ? AND (project <> ? OR id <> ?)",
        params![flow.webhook.0, flow.project.as_bytes(), flow.id.as_bytes()],
    )?;
    if taken { Err(StoreError::AlreadyExists { entity: Entity::Flow }.into()) } else { Ok(()) }
}

fn check_version(
    transaction: &Transaction<'_>,
    version: &FlowVersionRecord,
    precondition: Precondition,
) -> Result<(), Failure> {
    let entity = Entity::FlowVersion;
    let stored = transaction.row(
        "SELECT revision, flow, state FROM ap_flow_versions WHERE project = ? AND id = ?",
        [version.project.as_bytes(), version.id.as_bytes()],
        |columns| Ok((columns.revision()?, columns.id(FlowId::from_slice)?, read_state(columns.text()?)?)),
    )?;
    check_precondition(entity, precondition, version.revision, stored.map(|(revision, ..)| revision))?;
    if let Some((current, flow, state)) = stored {
        if flow != version.flow {
            return Err(StoreError::NotFound { entity }.into());
        }
        if state == VersionState::Locked {
            return Err(StoreError::Conflict { entity, current }.into());
        }
    }
    let taken = transaction.exists(
        "SELECT 1 FROM ap_flow_versions WHERE project = ? AND flow = ? AND number = ? AND id <> ?",
        params![version.project.as_bytes(), version.flow.as_bytes(), version.number, version.id.as_bytes()],
    )?;
    if taken { Err(StoreError::AlreadyExists { entity }.into()) } else { Ok(()) }
}

fn put_flow(transaction: &Transaction<'_>, flow: &FlowRecord) -> rusqlite::Result<()> {
    transaction.run(
        "INSERT INTO ap_flows (project, id, created, updated, revision, enabled, published, draft, webhook, \
         generation, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, id) DO UPDATE SET \
         created = excluded.created, updated = excluded.updated, revision = excluded.revision, \
         enabled = excluded.enabled, published = excluded.published, draft = excluded.draft, \
         webhook = excluded.webhook, generation = excluded.generation, sealed = excluded.sealed",
        params![
            flow.project.as_bytes(),
            flow.id.as_bytes(),
            flow.created.as_micros(),
            flow.updated.as_micros(),
            uint(flow.revision.0)?,
            flow.enabled,
            flow.published.as_ref().map(FlowVersionId::as_bytes),
            flow.draft.as_ref().map(FlowVersionId::as_bytes),
            flow.webhook.0,
            uint(flow.generation)?,
            flow.sealed.as_bytes().as_ref()
        ],
    )?;
    Ok(())
}

fn put_version(transaction: &Transaction<'_>, version: &FlowVersionRecord) -> rusqlite::Result<()> {
    transaction.run(
        "INSERT INTO ap_flow_versions (project, id, flow, number, state, created, revision, sealed) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (project, id) DO UPDATE SET number = excluded.number, \
         state = excluded.state, created = excluded.created, revision = excluded.revision, sealed = excluded.sealed",
        params![
            version.project.as_bytes(),
            version.id.as_bytes(),
            version.flow.as_bytes(),
            version.number,
            version.state.as_str(),
            version.created.as_micros(),
            uint(version.revision.0)?,
            version.sealed.as_bytes().as_ref()
        ],
    )?;
    Ok(())
}

fn read_flow(columns: &mut Columns<'_>) -> rusqlite::Result<FlowRecord> {
    Ok(FlowRecord {
        id: columns.id(FlowId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        created: columns.time()?,
        updated: columns.time()?,
        revision: columns.revision()?,
        enabled: columns.flag()?,
        published: columns.maybe_id(FlowVersionId::from_slice)?,
        draft: columns.maybe_id(FlowVersionId::from_slice)?,
        webhook: columns.hash()?,
        generation: columns.uint()?,
        sealed: columns.sealed()?,
    })
}

fn read_version(columns: &mut Columns<'_>) -> rusqlite::Result<FlowVersionRecord> {
    Ok(FlowVersionRecord {
        id: columns.id(FlowVersionId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        flow: columns.id(FlowId::from_slice)?,
        number: columns.small()?,
        state: read_state(columns.text()?)?,
        created: columns.time()?,
        revision: columns.revision()?,
        sealed: columns.sealed()?,
    })
}

fn read_state(text: &str) -> rusqlite::Result<VersionState> {
    let states = [VersionState::Draft, VersionState::Locked];
    states.into_iter().find(|state| state.as_str() == text).ok_or_else(|| decode("not a version state"))
}
