//! Projects, keys and the audit trail.

use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    id::{AuditId, KeyId, PlatformId, ProjectId},
    scope::Scope,
    store::{Entity, Page, PageRequest, StoreError},
};
use ap_crypto::keyring::{KeyKind, KeyStore, WrappedKey};
use async_trait::async_trait;
use rusqlite::params;

use super::{
    SqliteBackend, connect,
    row::{Columns, decode},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::{check_key_change, check_project, check_share, key_conflict},
    store::{AuditStore, ProjectRecord, ProjectShare, ProjectStore},
};

#[async_trait]
impl ProjectStore for SqliteBackend {
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        check_share(&project.share)?;
        check_project(&project, &key)?;
        self.writer.write(CreateProject { project, key, audit: audit.to_vec() }).await
    }

    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError> {
        let sql = "SELECT id, created, weight, concurrency, sealed FROM ap_projects WHERE id = ?";
        let found = self.readers.read(move |open| connect::row(open, sql, [id.as_bytes()], read_project)).await?;
        found.ok_or(StoreError::NotFound { entity: Entity::Project })
    }

    async fn set_share(&self, id: ProjectId, share: ProjectShare, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_share(&share)?;
        self.writer.write(SetShare { id, share, audit: audit.to_vec() }).await
    }
}

#[async_trait]
impl KeyStore for SqliteBackend {
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
        let sql = "SELECT id, scope, kind, parent, created, sealed FROM ap_keys WHERE scope = ? ORDER BY id";
        self.readers.read(move |open| connect::rows(open, sql, [scope.to_bytes()], read_key)).await
    }

    async fn key_page(&self, after: Option<KeyId>, limit: u32) -> Result<Vec<WrappedKey>, StoreError> {
        let sql = "SELECT id, scope, kind, parent, created, sealed FROM ap_keys WHERE id > ? ORDER BY id LIMIT ?";
        // Every id is greater than no bytes at all.
        let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        self.readers.read(move |open| connect::rows(open, sql, params![after, limit], read_key)).await
    }

    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(InsertKey { key, audit: audit.to_vec() }).await
    }

    async fn replace_key(&self, stored: &WrappedKey, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        check_key_change(stored, &key)?;
        self.writer.write(ChangeKey { stored: stored.clone(), key: Some(key), audit: audit.to_vec() }).await
    }

    async fn delete_key(&self, stored: &WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(ChangeKey { stored: stored.clone(), key: None, audit: audit.to_vec() }).await
    }
}

#[async_trait]
impl AuditStore for SqliteBackend {
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(AppendAudit { records: records.to_vec() }).await
    }

    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError> {
        self.page(AUDIT, [scope.to_bytes().to_vec()], page, read_audit, |record| record.id.as_u128()).await
    }
}

struct CreateProject {
    project: ProjectRecord,
    key: WrappedKey,
    audit: Vec<AuditRecord>,
}

impl Operation for CreateProject {
    type Output = ();

    fn bytes(&self) -> usize {
        self.project.sealed.as_bytes().len() + self.key.wrapped.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let ProjectRecord { id, created, share, sealed } = &self.project;
        if project_exists(transaction, *id)? {
            return Err(StoreError::AlreadyExists { entity: Entity::Project }.into());
        }
        refuse_known_key(transaction, self.key.id)?;
        transaction.run(
            "INSERT INTO ap_projects (id, created, weight, concurrency, sealed) VALUES (?, ?, ?, ?, ?)",
            params![id.as_bytes(), created.as_micros(), share.weight, share.concurrency, sealed.as_bytes().as_ref()],
        )?;
        write_key(transaction, &self.key)?;
        append(transaction, &self.audit)
    }
}

struct SetShare {
    id: ProjectId,
    share: ProjectShare,
    audit: Vec<AuditRecord>,
}

impl Operation for SetShare {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let changed = transaction.run(
            "UPDATE ap_projects SET weight = ?, concurrency = ? WHERE id = ?",
            params![self.share.weight, self.share.concurrency, self.id.as_bytes()],
        )?;
        if changed == 0 {
            return Err(StoreError::NotFound { entity: Entity::Project }.into());
        }
        append(transaction, &self.audit)
    }
}

struct InsertKey {
    key: WrappedKey,
    audit: Vec<AuditRecord>,
}

impl Operation for InsertKey {
    type Output = ();

    fn bytes(&self) -> usize {
        self.key.wrapped.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        refuse_known_key(transaction, self.key.id)?;
        write_key(transaction, &self.key)?;
        append(transaction, &self.audit)
    }
}

/// Replaces the row of a key, or deletes it.
struct ChangeKey {
    stored: WrappedKey,
    key: Option<WrappedKey>,
    audit: Vec<AuditRecord>,
}

impl Operation for ChangeKey {
    type Output = ();

    fn bytes(&self) -> usize {
        2 * self.stored.wrapped.as_bytes().len() + audit_bytes(&self.audit)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let sql = "SELECT id, scope, kind, parent, created, sealed FROM ap_keys WHERE id = ?";
        match transaction.row(sql, [self.stored.id.as_bytes()], read_key)? {
            Some(found) if found == self.stored => {}
            Some(_) => return Err(key_conflict().into()),
            None => return Err(StoreError::NotFound { entity: Entity::Key }.into()),
        }
        // What is destroyed is gone from the page too, not only from its index.
        transaction.connection.execute_batch("PRAGMA secure_delete = ON")?;
        let deleted = transaction.run("DELETE FROM ap_keys WHERE id = ?", [self.stored.id.as_bytes()]);
        transaction.connection.execute_batch("PRAGMA secure_delete = OFF")?;
        deleted?;
        if let Some(key) = &self.key {
            write_key(transaction, key)?;
        }
        append(transaction, &self.audit)
    }
}

struct AppendAudit {
    records: Vec<AuditRecord>,
}

impl Operation for AppendAudit {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.records)
    }

    fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        append(transaction, &self.records)
    }
}

/// Appends audit records; one whose id is taken fails the transaction.
pub(super) fn append(transaction: &Transaction<'_>, records: &[AuditRecord]) -> Result<(), Failure> {
    for record in records {
        transaction.run(
            INSERT_AUDIT,
            params![
                record.at.as_micros(),
                record.action,
                outcome_text(record.outcome),
                record.body.as_bytes().as_ref()
            ],
        )?;
        transaction.run(INSERT_AUDIT_ID, params![record.scope.to_bytes(), record.id.as_bytes()])?;
    }
    Ok(())
}

/// Whether there is such a project.
pub(super) fn project_exists(transaction: &Transaction<'_>, id: ProjectId) -> rusqlite::Result<bool> {
    transaction.exists("SELECT 1 FROM ap_projects WHERE id = ?", [id.as_bytes()])
}

/// Refuses what belongs to a project that does not exist.
pub(super) fn require_project(transaction: &Transaction<'_>, project: ProjectId) -> Result<(), Failure> {
    if project_exists(transaction, project)? {
        Ok(())
    } else {
        Err(StoreError::NotFound { entity: Entity::Project }.into())
    }
}

/// Payload of audit records, in bytes.
pub(super) fn audit_bytes(records: &[AuditRecord]) -> usize {
    records.iter().map(|record| record.body.as_bytes().len() + ROW_BYTES).sum()
}

/// How outcomes are spelled in the database.
const fn outcome_text(outcome: AuditOutcome) -> &'static str {
    match outcome {
        AuditOutcome::Denied => "DENIED",
        AuditOutcome::Failure => "FAILURE",
        AuditOutcome::Success => "SUCCESS",
    }
}

fn refuse_known_key(transaction: &Transaction<'_>, id: KeyId) -> Result<(), Failure> {
    if transaction.exists("SELECT 1 FROM ap_keys WHERE id = ?", [id.as_bytes()])? {
        Err(StoreError::AlreadyExists { entity: Entity::Key }.into())
    } else {
        Ok(())
    }
}

fn write_key(transaction: &Transaction<'_>, key: &WrappedKey) -> rusqlite::Result<()> {
    let WrappedKey { id, scope, kind, parent, created, wrapped } = key;
    transaction.run(
        "INSERT INTO ap_keys (id, scope, kind, parent, created, sealed) VALUES (?, ?, ?, ?, ?, ?)",
        params![
            id.as_bytes(),
            scope.to_bytes(),
            kind.number(),
            parent.as_bytes(),
            created.as_micros(),
            wrapped.as_bytes().as_ref()
        ],
    )?;
    Ok(())
}

fn read_project(columns: &mut Columns<'_>) -> rusqlite::Result<ProjectRecord> {
    Ok(ProjectRecord {
        id: columns.id(ProjectId::from_slice)?,
        created: columns.time()?,
        share: ProjectShare { weight: columns.small()?, concurrency: columns.get()? },
        sealed: columns.sealed()?,
    })
}

fn read_key(columns: &mut Columns<'_>) -> rusqlite::Result<WrappedKey> {
    Ok(WrappedKey {
        id: columns.id(KeyId::from_slice)?,
        scope: read_scope(columns.bytes()?)?,
        kind: KeyKind::from_number(columns.int()?).ok_or_else(|| decode("not a kind of key"))?,
        parent: columns.id(KeyId::from_slice)?,
        created: columns.time()?,
        wrapped: columns.sealed()?,
    })
}

/// An outcome as it is spelled in the database.
pub(super) fn outcome(text: &str) -> rusqlite::Result<AuditOutcome> {
    match text {
        "DENIED" => Ok(AuditOutcome::Denied),
        "FAILURE" => Ok(AuditOutcome::Failure),
        "SUCCESS" => Ok(AuditOutcome::Success),
        _ => Err(decode("not an audit outcome")),
    }
}

fn read_audit(columns: &mut Columns<'_>) -> rusqlite::Result<AuditRecord> {
    Ok(AuditRecord {
        scope: read_scope(columns.bytes()?)?,
        id: columns.id(AuditId::from_slice)?,
        at: columns.time()?,
        action: columns.text()?.to_owned(),
        outcome: outcome(columns.text()?)?,
        body: columns.sealed()?,
    })
}

pub(super) fn read_scope(bytes: &[u8]) -> rusqlite::Result<Scope> {
    match bytes.split_first() {
        Some((b'P', id)) => PlatformId::from_slice(id).map(Scope::Platform).map_err(decode),
        Some((b'p', id)) => ProjectId::from_slice(id).map(Scope::Project).map_err(decode),
        _ => Err(decode("not a scope")),
    }
}

pub(super) const INSERT_AUDIT: &str = "INSERT INTO ap_audit (at, action, outcome, sealed) VALUES (?, ?, ?, ?)";
pub(super) const INSERT_AUDIT_ID: &str =
    "INSERT INTO ap_audit_ids (scope, id, number) VALUES (?, ?, last_insert_rowid())";
pub(super) const AUDIT: &str = "SELECT key.scope, key.id, at, action, outcome, sealed FROM ap_audit_ids AS key \
    CROSS JOIN ap_audit AS record ON record.number = key.number WHERE key.scope = ? AND key.id > ? ORDER BY key.id LIMIT ?";
/// What a row takes beside its payload, roughly.
const ROW_BYTES: usize = 100;
