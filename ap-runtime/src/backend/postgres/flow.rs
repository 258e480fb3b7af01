//! Flows and their versions.

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, FlowVersionId, ProjectId},
    store::{Entity, Page, PageRequest, Precondition, StoreError},
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    link::{Failure, Transaction},
    value::{Columns, Id, corrupt, signed, signed_small},
    writer::{Operation, audit_bytes},
};
use crate::{
    backend::{check_flow_write, check_precondition},
    store::{FlowRecord, FlowStore, FlowVersionRecord, FlowWrite, VersionState},
};

#[async_trait]
impl FlowStore for PostgresBackend {
    async fn write_flow(&self, write: FlowWrite, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_flow_write(&write)?;
        self.writer.write_after_all(WriteFlow { write, audit: audit.to_vec() }).await
    }

    async fn flow(&self, id: FlowId, project: ProjectId) -> Result<FlowRecord, StoreError> {
        let query = sqlx::query(FLOW).bind(Id::from(project)).bind(Id::from(id));
        self.row(query, read_flow).await?.ok_or(StoreError::NotFound { entity: Entity::Flow })
    }

    async fn flows(&self, project: ProjectId, page: &PageRequest) -> Result<Page<FlowRecord>, StoreError> {
        self.page(sqlx::query(FLOWS).bind(Id::from(project)), page, read_flow, |flow| flow.id.as_u128()).await
    }

    async fn flow_version(&self, id: FlowVersionId, project: ProjectId) -> Result<FlowVersionRecord, StoreError> {
        let query = sqlx::query(VERSION).bind(Id::from(project)).bind(Id::from(id));
        self.row(query, read_version).await?.ok_or(StoreError::NotFound { entity: Entity::FlowVersion })
    }

    async fn flow_versions(
        &self,
        flow: FlowId,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<FlowVersionRecord>, StoreError> {
        let query = sqlx::query(VERSIONS).bind(Id::from(project)).bind(Id::from(flow));
        self.page(query, page, read_version, |version| version.id.as_u128()).await
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

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let FlowWrite { flow, precondition, versions, trigger } = &self.write;
        transaction.lock_project(flow.project).await?;
        let row = sqlx::query("SELECT revision FROM ap_flows WHERE project = $1 AND id = $2 FOR UPDATE")
            .bind(Id::from(flow.project))
            .bind(Id::from(flow.id))
            .fetch_optional(&mut *transaction.connection)
            .await?;
        let stored = row.map(|row| Columns::of(&row).revision()).transpose()?;
        check_precondition(Entity::Flow, *precondition, flow.revision, stored)?;
        transaction.refuse_taken_webhook(flow).await?;
        for (version, precondition) in versions {
            transaction.check_version(version, *precondition).await?;
        }
        transaction.put_flow(flow, stored.is_some()).await?;
        for (version, _) in versions {
            transaction.put_version(version).await?;
        }
        transaction.change_trigger(flow.project, flow.id, trigger).await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

impl Transaction<'_> {
    /// A missing project is refused; one that is there stays until the end.
    pub(super) async fn lock_project(&mut self, project: ProjectId) -> Result<(), Failure> {
        let query = sqlx::query("SELECT 1 FROM ap_projects WHERE id = $1 FOR KEY SHARE").bind(Id::from(project));
        match query.fetch_optional(&mut *self.connection).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::NotFound { entity: Entity::Project }.into()),
        }
    }

    async fn refuse_taken_webhook(&mut self, flow: &FlowRecord) -> Result<(), Failure> {
        let row = sqlx::query("SELECT project, id FROM ap_flows WHERE webhook = $1")
            .bind(flow.webhook.0.as_slice())
            .fetch_optional(&mut *self.connection)
            .await?;
        let owner = row.map(|row| {
            let mut columns = Columns::of(&row);
            Ok::<_, sqlx::Error>((columns.id()?, columns.id()?))
        });
        match owner.transpose()? {
            Some(owner) if owner != (flow.project, flow.id) => {
                Err(StoreError::AlreadyExists { entity: Entity::Flow }.into())
            }
            _ => Ok(()),
        }
    }

    async fn check_version(&mut self, version: &FlowVersionRecord, precondition: Precondition) -> Result<(), Failure> {
        let entity = Entity::FlowVersion;
        let row = sqlx::query(LOCK_VERSION)
            .bind(Id::from(version.project))
            .bind(Id::from(version.id))
            .fetch_optional(&mut *self.connection)
            .await?;
        let stored = row.map(|row| read_version(&row)).transpose()?;
        check_precondition(entity, precondition, version.revision, stored.as_ref().map(|stored| stored.revision))?;
        if let Some(stored) = &stored {
            if stored.flow != version.flow {
                return Err(StoreError::NotFound { entity }.into());
            }
            if stored.state == VersionState::Locked {
                return Err(StoreError::Conflict { entity, current: stored.revision }.into());
            }
        }
        let taken = sqlx::query(TAKEN_NUMBER)
            .bind(Id::from(version.project))
            .bind(Id::from(version.flow))
            .bind(signed_small(version.number))
            .bind(Id::from(version.id))
            .fetch_optional(&mut *self.connection)
            .await?;
        if taken.is_some() { Err(StoreError::AlreadyExists { entity }.into()) } else { Ok(()) }
    }

    async fn put_flow(&mut self, flow: &FlowRecord, exists: bool) -> sqlx::Result<()> {
        sqlx::query(if exists { UPDATE_FLOW } else { INSERT_FLOW })
            .bind(Id::from(flow.project))
            .bind(Id::from(flow.id))
            .bind(flow.created.as_micros())
            .bind(flow.updated.as_micros())
            .bind(signed(flow.revision.0))
            .bind(flow.enabled)
            .bind(flow.published.map(Id::from))
            .bind(flow.draft.map(Id::from))
            .bind(flow.webhook.0.as_slice())
            .bind(signed(flow.generation))
            .bind(flow.sealed.as_bytes().as_ref())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }

    async fn put_version(&mut self, version: &FlowVersionRecord) -> sqlx::Result<()> {
        sqlx::query(PUT_VERSION)
            .bind(Id::from(version.project))
            .bind(Id::from(version.id))
            .bind(Id::from(version.flow))
            .bind(signed_small(version.number))
            .bind(version.state.as_str())
            .bind(version.created.as_micros())
            .bind(signed(version.revision.0))
            .bind(version.sealed.as_bytes().as_ref())
            .execute(&mut *self.connection)
            .await
            .map(|_| ())
    }
}

fn read_flow(row: &PgRow) -> sqlx::Result<FlowRecord> {
    let mut columns = Columns::of(row);
    Ok(FlowRecord {
        id: columns.id()?,
        project: columns.id()?,
        created: columns.time()?,
        updated: columns.time()?,
        revision: columns.revision()?,
        enabled: columns.value()?,
        published: columns.maybe_id()?,
        draft: columns.maybe_id()?,
        webhook: columns.hash()?,
        generation: columns.count()?,
        sealed: columns.sealed()?,
    })
}

fn read_version(row: &PgRow) -> sqlx::Result<FlowVersionRecord> {
    let mut columns = Columns::of(row);
    Ok(FlowVersionRecord {
        id: columns.id()?,
        project: columns.id()?,
        flow: columns.id()?,
        number: columns.small()?,
        state: match columns.value()? {
            "DRAFT" => VersionState::Draft,
            "LOCKED" => VersionState::Locked,
            _ => return Err(corrupt("not a state of a version")),
        },
        created: columns.time()?,
        revision: columns.revision()?,
        sealed: columns.sealed()?,
    })
}

const FLOW: &str = "SELECT id, project, created, updated, revision, enabled, published, draft, webhook, generation, sealed \
    FROM ap_flows WHERE project = $1 AND id = $2";
const FLOWS: &str = "SELECT id, project, created, updated, revision, enabled, published, draft, webhook, generation, \
    sealed FROM ap_flows WHERE project = $1 AND id >= $2 ORDER BY id LIMIT $3";
const INSERT_FLOW: &str = "INSERT INTO ap_flows (project, id, created, updated, revision, enabled, published, draft, webhook, \
    generation, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
const UPDATE_FLOW: &str = "UPDATE ap_flows SET created = $3, updated = $4, revision = $5, enabled = $6, published = $7, \
    draft = $8, webhook = $9, generation = $10, sealed = $11 WHERE project = $1 AND id = $2";
const VERSION: &str = "SELECT id, project, flow, number, state, created, revision, sealed \
    FROM ap_flow_versions WHERE project = $1 AND id = $2";
const LOCK_VERSION: &str = "SELECT id, project, flow, number, state, created, revision, sealed \
    FROM ap_flow_versions WHERE project = $1 AND id = $2 FOR UPDATE";
const VERSIONS: &str = "SELECT id, project, flow, number, state, created, revision, sealed \
    FROM ap_flow_versions WHERE project = $1 AND flow = $2 AND id >= $3 ORDER BY id LIMIT $4";
const TAKEN_NUMBER: &str =
    "SELECT 1 FROM ap_flow_versions WHERE project = $1 AND flow = $2 AND number = $3 AND id <> $4";
const PUT_VERSION: &str = "INSERT INTO ap_flow_versions (project, id, flow, number, state, created, revision, sealed) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
    ON CONFLICT (project, id) DO UPDATE SET flow = excluded.flow, number = excluded.number, state = excluded.state, \
    created = excluded.created, revision = excluded.revision, sealed = excluded.sealed";
