//! Values of key-value stores. Who changes those of a project has its lock, so nothing changes between look and write.

use ap_core::{
    audit::AuditRecord,
    id::{ProjectId, ValueId},
    store::{Entity, Page, PageRequest, StoreError},
};
use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::{
    PostgresBackend,
    link::{Failure, Lock, Transaction},
    value::{Columns, Id, corrupt, signed},
    writer::{Operation, audit_bytes},
};
use crate::{
    backend::{StoredValues, check_values, judge_values},
    store::{KeyValueStore, ValueChange, ValueRecord, ValueScope, ValueUsage, ValueWrite},
};

#[async_trait]
impl KeyValueStore for PostgresBackend {
    async fn change_values(
        &self,
        changes: &[ValueChange],
        project: ProjectId,
        limit: ValueUsage,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        check_values(changes, project)?;
        self.writer.write(Change { changes: changes.to_vec(), project, limit, audit: audit.to_vec() }).await
    }

    async fn value(&self, id: ValueId, project: ProjectId) -> Result<ValueRecord, StoreError> {
        let query = sqlx::query(ONE).bind(Id::from(project)).bind(Id::from(id));
        self.row(query, read_value).await?.ok_or(StoreError::NotFound { entity: Entity::Value })
    }

    async fn values(
        &self,
        scope: ValueScope,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<ValueRecord>, StoreError> {
        let query = sqlx::query(LIST).bind(Id::from(project)).bind(Id::from(scope.to_flow()));
        self.page(query, page, read_value, |value| value.id.as_u128()).await
    }

    async fn value_usage(&self, project: ProjectId) -> Result<ValueUsage, StoreError> {
        let query = sqlx::query(USAGE).bind(Id::from(project));
        Ok(self.row(query, read_usage).await?.unwrap_or_default())
    }
}

struct Change {
    changes: Vec<ValueChange>,
    project: ProjectId,
    limit: ValueUsage,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for Change {
    type Output = ();

    fn bytes(&self) -> usize {
        bytes(&self.changes) + audit_bytes(&self.audit)
    }

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        transaction.lock(&[Lock::Values(self.project)]).await?;
        let project = sqlx::query("SELECT 1 FROM ap_projects WHERE id = $1").bind(Id::from(self.project));
        if project.fetch_optional(&mut *transaction.connection).await?.is_none() {
            return Err(StoreError::NotFound { entity: Entity::Project }.into());
        }
        transaction.change_values(&self.changes, self.project, self.limit).await?;
        transaction.insert_audit(&self.audit).await?;
        Ok(())
    }
}

impl Transaction<'_> {
    /// Makes the changes, or none. The caller has the project's lock.
    pub(super) async fn change_values(
        &mut self,
        changes: &[ValueChange],
        project: ProjectId,
        limit: ValueUsage,
    ) -> Result<(), Failure> {
        if changes.is_empty() {
            return Ok(());
        }
        let owner = Id::from(project);
        let usage = sqlx::query(USAGE).bind(owner).fetch_optional(&mut *self.connection).await?;
        let before = usage.as_ref().map(read_usage).transpose()?.unwrap_or_default();
        let ids: Vec<Id> = changes.iter().map(|change| Id::from(change.id)).collect();
        let rows = sqlx::query(STATES).bind(owner).bind(ids).fetch_all(&mut *self.connection).await?;
        let read = |row: &PgRow| {
            let mut columns = Columns::of(row);
            Ok((columns.id()?, (columns.count()?, small(columns.count()?)?)))
        };
        let stored: StoredValues = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
        let after = judge_values(changes, &stored, before, limit)?;

        let gone = changes.iter().filter(|change| change.write == ValueWrite::Delete);
        let gone: Vec<Id> = gone.map(|change| Id::from(change.id)).collect();
        if !gone.is_empty() {
            sqlx::query(DELETE).bind(owner).bind(gone).execute(&mut *self.connection).await?;
        }
        let put: Vec<&ValueRecord> = changes.iter().filter_map(put_of).collect();
        if !put.is_empty() {
            sqlx::query(PUT)
                .bind(owner)
                .bind(put.iter().map(|value| Id::from(value.id)).collect::<Vec<_>>())
                .bind(put.iter().map(|value| Id::from(value.scope.to_flow())).collect::<Vec<_>>())
                .bind(put.iter().map(|value| signed(value.version)).collect::<Vec<_>>())
                .bind(put.iter().map(|value| value.updated.as_micros()).collect::<Vec<_>>())
                .bind(put.iter().map(|value| i64::from(value.bytes)).collect::<Vec<_>>())
                .bind(put.iter().map(|value| value.sealed.as_bytes().as_ref()).collect::<Vec<&[u8]>>())
                .execute(&mut *self.connection)
                .await?;
        }
        let set = sqlx::query(SET_USAGE).bind(owner).bind(signed(after.entries)).bind(signed(after.bytes));
        set.execute(&mut *self.connection).await?;
        Ok(())
    }
}

fn put_of(change: &ValueChange) -> Option<&ValueRecord> {
    match &change.write {
        ValueWrite::Put(value) => Some(value),
        ValueWrite::Delete | ValueWrite::Keep => None,
    }
}

/// Payload of the changes, in bytes.
pub(super) fn bytes(changes: &[ValueChange]) -> usize {
    changes.iter().filter_map(put_of).map(|value| value.sealed.as_bytes().len()).sum()
}

fn read_value(row: &PgRow) -> sqlx::Result<ValueRecord> {
    let mut columns = Columns::of(row);
    Ok(ValueRecord {
        id: columns.id()?,
        project: columns.id()?,
        scope: ValueScope::from_flow(columns.id()?),
        version: columns.count()?,
        updated: columns.time()?,
        bytes: small(columns.count()?)?,
        sealed: columns.sealed()?,
    })
}

fn read_usage(row: &PgRow) -> sqlx::Result<ValueUsage> {
    let mut columns = Columns::of(row);
    Ok(ValueUsage { entries: columns.count()?, bytes: columns.count()? })
}

fn small(number: u64) -> sqlx::Result<u32> {
    u32::try_from(number).map_err(|_| corrupt("a stored value of more than 4 GiB"))
}

const ONE: &str =
    "SELECT id, project, flow, version, updated, bytes, sealed FROM ap_values WHERE project = $1 AND id = $2";
const LIST: &str = "SELECT id, project, flow, version, updated, bytes, sealed FROM ap_values \
    WHERE project = $1 AND flow = $2 AND id >= $3 ORDER BY id LIMIT $4";
const STATES: &str = "SELECT id, version, bytes FROM ap_values WHERE project = $1 AND id = ANY ($2)";
const DELETE: &str = "DELETE FROM ap_values WHERE project = $1 AND id = ANY ($2)";
const PUT: &str = "INSERT INTO ap_values (project, id, flow, version, updated, bytes, sealed) \
    SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[]) \
    ON CONFLICT (project, id) DO UPDATE SET flow = excluded.flow, version = excluded.version, \
    updated = excluded.updated, bytes = excluded.bytes, sealed = excluded.sealed";
const USAGE: &str = "SELECT entries, bytes FROM ap_value_usage WHERE project = $1";
const SET_USAGE: &str = "INSERT INTO ap_value_usage (project, entries, bytes) VALUES ($1, $2, $3) \
    ON CONFLICT (project) DO UPDATE SET entries = excluded.entries, bytes = excluded.bytes";
