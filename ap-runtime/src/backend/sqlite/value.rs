//! Values of key-value stores.

use ap_core::{
    audit::AuditRecord,
    id::{FlowId, ProjectId, ValueId},
    store::{Entity, Page, PageRequest, StoreError},
};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend, connect,
    project::{append, audit_bytes, require_project},
    row::{Columns, uint},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{StoredValues, check_values, judge_values},
    store::{KeyValueStore, ValueChange, ValueRecord, ValueScope, ValueUsage, ValueWrite},
};

#[async_trait]
impl KeyValueStore for SqliteBackend {
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
        let read = move |open: &_| connect::row(open, ONE, [project.as_bytes(), id.as_bytes()], read_value);
        self.readers.read(read).await?.ok_or(StoreError::NotFound { entity: Entity::Value })
    }

    async fn values(
        &self,
        scope: ValueScope,
        project: ProjectId,
        page: &PageRequest,
    ) -> Result<Page<ValueRecord>, StoreError> {
        let of = [project.as_bytes().to_vec(), scope.to_flow().as_bytes().to_vec()];
        self.page(LIST, of, page, read_value, |value| value.id.as_u128()).await
    }

    async fn value_usage(&self, project: ProjectId) -> Result<ValueUsage, StoreError> {
        let read = move |open: &_| connect::row(open, USAGE, [project.as_bytes()], read_usage);
        Ok(self.readers.read(read).await?.unwrap_or_default())
    }
}

struct Change {
    changes: Vec<ValueChange>,
    project: ProjectId,
    limit: ValueUsage,
    audit: Vec<AuditRecord>,
}

impl Operation for Change {
    type Output = ();

    fn bytes(&self) -> usize {
        bytes(&self.changes) + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        require_project(transaction, self.project)?;
        judge(transaction, &self.changes, self.project, self.limit)?.write(transaction)?;
        append(transaction, &self.audit)
    }
}

/// Changes that can be made.
pub(super) struct Judged<'v> {
    changes: &'v [ValueChange],
    project: ProjectId,
    after: ValueUsage,
}

/// Looks whether the changes can be made. Nothing is written.
pub(super) fn judge<'v>(
    transaction: &Transaction<'_>,
    changes: &'v [ValueChange],
    project: ProjectId,
    limit: ValueUsage,
) -> Result<Judged<'v>, Failure> {
    let before = transaction.row(USAGE, [project.as_bytes()], read_usage)?.unwrap_or_default();
    let mut stored = StoredValues::new();
    for change in changes {
        let found = transaction.row(STATE, [project.as_bytes(), change.id.as_bytes()], |columns| {
            Ok((columns.uint()?, columns.small()?))
        })?;
        stored.extend(found.map(|found| (change.id, found)));
    }
    Ok(Judged { changes, project, after: judge_values(changes, &stored, before, limit)? })
}

impl Judged<'_> {
    pub(super) fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        for change in self.changes {
            match &change.write {
                ValueWrite::Delete => {
                    transaction.run(DELETE, [self.project.as_bytes(), change.id.as_bytes()])?;
                }
                ValueWrite::Keep => {}
                ValueWrite::Put(value) => put(transaction, value)?,
            }
        }
        let ValueUsage { entries, bytes } = self.after;
        transaction.run(SET_USAGE, params![self.project.as_bytes(), uint(entries)?, uint(bytes)?])?;
        Ok(())
    }
}

fn put(transaction: &Transaction<'_>, value: &ValueRecord) -> rusqlite::Result<()> {
    let ValueRecord { id, project, scope, version, updated, bytes, sealed } = value;
    transaction.run(
        PUT,
        params![
            project.as_bytes(),
            id.as_bytes(),
            scope.to_flow().as_bytes(),
            uint(*version)?,
            updated.as_micros(),
            bytes,
            sealed.as_bytes().as_ref()
        ],
    )?;
    Ok(())
}

/// Payload of the changes, in bytes.
pub(super) fn bytes(changes: &[ValueChange]) -> usize {
    let of = |change: &ValueChange| match &change.write {
        ValueWrite::Put(value) => value.sealed.as_bytes().len() + ROW_BYTES,
        ValueWrite::Delete | ValueWrite::Keep => ROW_BYTES,
    };
    changes.iter().map(of).sum()
}

fn read_value(columns: &mut Columns<'_>) -> rusqlite::Result<ValueRecord> {
    Ok(ValueRecord {
        id: columns.id(ValueId::from_slice)?,
        project: columns.id(ProjectId::from_slice)?,
        scope: ValueScope::from_flow(columns.id(FlowId::from_slice)?),
        version: columns.uint()?,
        updated: columns.time()?,
        bytes: columns.small()?,
        sealed: columns.sealed()?,
    })
}

fn read_usage(columns: &mut Columns<'_>) -> rusqlite::Result<ValueUsage> {
    Ok(ValueUsage { entries: columns.uint()?, bytes: columns.uint()? })
}

const ONE: &str =
    "SELECT id, project, flow, version, updated, bytes, sealed FROM ap_values WHERE project = ? AND id = ?";
const LIST: &str = "SELECT id, project, flow, version, updated, bytes, sealed FROM ap_values \
    WHERE project = ? AND flow = ? AND id > ? ORDER BY id LIMIT ?";
const STATE: &str = "SELECT version, bytes FROM ap_values WHERE project = ? AND id = ?";
const DELETE: &str = "DELETE FROM ap_values WHERE project = ? AND id = ?";
const PUT: &str = "INSERT INTO ap_values (project, id, flow, version, updated, bytes, sealed) VALUES (?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (project, id) DO UPDATE SET flow = excluded.flow, version = excluded.version, \
    updated = excluded.updated, bytes = excluded.bytes, sealed = excluded.sealed";
const USAGE: &str = "SELECT entries, bytes FROM ap_value_usage WHERE project = ?";
const SET_USAGE: &str = "INSERT INTO ap_value_usage (project, entries, bytes) VALUES (?, ?, ?) \
    ON CONFLICT (project) DO UPDATE SET entries = excluded.entries, bytes = excluded.bytes";
/// What a row takes beside its payload, roughly.
const ROW_BYTES: usize = 100;
