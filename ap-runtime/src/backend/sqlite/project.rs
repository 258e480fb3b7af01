//! Projects, keys and the audit trail.

use ap_core::{
    audit::{AuditOutcome, AuditRecord},
    id::{AuditId, KeyId, PlatformId, ProjectId},
    scope::Scope,
    store::{Entity, Page, PageRequest, StoreError},
};
use ap_crypto::keyring::{KeyStore, WrappedKey};
use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use super::{
    SqliteBackend,
    error::store_error,
    script::{Columns, Script, decode},
    writer::{Failure, Operation, Transaction},
};
use crate::{
    backend::check_project,
    store::{AuditStore, ProjectRecord, ProjectStore},
};

#[async_trait]
impl ProjectStore for SqliteBackend {
    async fn create_project(
        &self,
        project: ProjectRecord,
        key: WrappedKey,
        audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        check_project(&project, &key)?;
        self.writer.write(CreateProject { project, key, audit: audit.to_vec() }).await
    }

    async fn project(&self, id: ProjectId) -> Result<ProjectRecord, StoreError> {
        let mut script = Script::new("SELECT id, created, sealed FROM ap_projects WHERE id = ?");
        script.bytes(id.as_bytes());
        let row = self.row(script).await?.ok_or(StoreError::NotFound { entity: Entity::Project })?;
        read_project(&row).map_err(store_error)
    }

    async fn set_share(
        &self,
        _id: ProjectId,
        _share: crate::store::ProjectShare,
        _audit: &[AuditRecord],
    ) -> Result<(), StoreError> {
        Err(crate::backend::misuse("not built yet"))
    }
}

#[async_trait]
impl KeyStore for SqliteBackend {
    async fn keys(&self, scope: Scope) -> Result<Vec<WrappedKey>, StoreError> {
        let mut script = Script::new("SELECT id, parent, created, sealed FROM ap_keys WHERE scope = ? ORDER BY id");
        script.bytes(&scope.to_bytes());
        let rows = self.rows(script).await?;
        rows.iter().map(|row| read_key(row, scope)).collect::<sqlx::Result<_>>().map_err(store_error)
    }

    async fn insert_key(&self, key: WrappedKey, audit: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(InsertKey { key, audit: audit.to_vec() }).await
    }
}

#[async_trait]
impl AuditStore for SqliteBackend {
    async fn append_audit(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        self.writer.write(AppendAudit { records: records.to_vec() }).await
    }

    async fn audit(&self, scope: Scope, page: &PageRequest) -> Result<Page<AuditRecord>, StoreError> {
        let mut script = Script::new(
            "SELECT scope, id, at, action, outcome, sealed FROM ap_audit WHERE scope = ? AND id > ? ORDER BY id LIMIT ?",
        );
        script.bytes(&scope.to_bytes());
        self.page(script, page, read_audit, |record| record.id.as_u128()).await
    }
}

struct CreateProject {
    project: ProjectRecord,
    key: WrappedKey,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for CreateProject {
    type Output = ();

    fn bytes(&self) -> usize {
        self.project.sealed.as_bytes().len() + self.key.wrapped.as_bytes().len() + audit_bytes(&self.audit)
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
        if project_exists(transaction, self.project.id).await? {
            return Err(StoreError::AlreadyExists { entity: Entity::Project }.into());
        }
        refuse_known_key(transaction, self.key.id).await?;
        let mut script = Script::new("INSERT INTO ap_projects (id, created, sealed) VALUES (?, ?, ?)");
        script.bytes(self.project.id.as_bytes()).time(self.project.created).sealed(&self.project.sealed);
        write_key(&mut script, &self.key);
        transaction.run(script.audit(&self.audit)).await
    }
}

struct InsertKey {
    key: WrappedKey,
    audit: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for InsertKey {
    type Output = ();

    fn bytes(&self) -> usize {
        self.key.wrapped.as_bytes().len() + audit_bytes(&self.audit)
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
        refuse_known_key(transaction, self.key.id).await?;
        let mut script = Script::default();
        write_key(&mut script, &self.key);
        transaction.run(script.audit(&self.audit)).await
    }
}

struct AppendAudit {
    records: Vec<AuditRecord>,
}

#[async_trait]
impl Operation for AppendAudit {
    type Output = ();

    fn bytes(&self) -> usize {
        audit_bytes(&self.records)
    }

    async fn finish(&self, transaction: &mut Transaction<'_>, _changes: &[u64]) -> Result<(), Failure> {
        for records in self.records.chunks(AUDIT_GROUP) {
            transaction.run(Script::default().audit(records)).await?;
        }
        Ok(())
    }
}

impl Transaction<'_> {
    /// Runs statements whose results do not matter. Their number varies, so they do not stay prepared.
    pub(super) async fn run(&mut self, script: &mut Script) -> Result<(), Failure> {
        let mut script = std::mem::take(script);
        script.once();
        script.run(&mut *self.connection).await?;
        Ok(())
    }

    /// Runs a query and returns its first row.
    pub(super) async fn row(&mut self, script: Script) -> sqlx::Result<Option<SqliteRow>> {
        script.row(&mut *self.connection).await
    }
}

/// Whether there is such a project.
pub(super) async fn project_exists(transaction: &mut Transaction<'_>, id: ProjectId) -> sqlx::Result<bool> {
    let mut script = Script::new("SELECT 1 FROM ap_projects WHERE id = ?");
    script.bytes(id.as_bytes());
    Ok(transaction.row(script).await?.is_some())
}

/// Payload of audit records, in bytes.
pub(super) fn audit_bytes(records: &[AuditRecord]) -> usize {
    records.iter().map(|record| record.body.as_bytes().len() + ROW_BYTES).sum()
}

/// How outcomes are spelled in the database.
pub(super) const fn outcome_text(outcome: AuditOutcome) -> &'static str {
    match outcome {
        AuditOutcome::Denied => "DENIED",
        AuditOutcome::Failure => "FAILURE",
        AuditOutcome::Success => "SUCCESS",
    }
}

async fn refuse_known_key(transaction: &mut Transaction<'_>, id: KeyId) -> Result<(), Failure> {
    let mut script = Script::new("SELECT 1 FROM ap_keys WHERE id = ?");
    script.bytes(id.as_bytes());
    match transaction.row(script).await? {
        Some(_) => Err(StoreError::AlreadyExists { entity: Entity::Key }.into()),
        None => Ok(()),
    }
}

fn write_key(script: &mut Script, key: &WrappedKey) {
    script.then("INSERT INTO ap_keys (id, scope, parent, created, sealed) VALUES (?, ?, ?, ?, ?)");
    script.bytes(key.id.as_bytes()).bytes(&key.scope.to_bytes()).bytes(key.parent.as_bytes());
    script.time(key.created).sealed(&key.wrapped);
}

fn read_project(row: &SqliteRow) -> sqlx::Result<ProjectRecord> {
    let mut columns = Columns::of(row);
    Ok(ProjectRecord {
        id: columns.id(ProjectId::from_slice)?,
        created: columns.time()?,
        share: Default::default(),
        sealed: columns.sealed()?,
    })
}

fn read_key(row: &SqliteRow, scope: Scope) -> sqlx::Result<WrappedKey> {
    let mut columns = Columns::of(row);
    Ok(WrappedKey {
        id: columns.id(KeyId::from_slice)?,
        scope,
        parent: columns.id(KeyId::from_slice)?,
        created: columns.time()?,
        wrapped: columns.sealed()?,
    })
}

fn read_audit(row: &SqliteRow) -> sqlx::Result<AuditRecord> {
    let mut columns = Columns::of(row);
    Ok(AuditRecord {
        scope: read_scope(columns.bytes()?)?,
        id: columns.id(AuditId::from_slice)?,
        at: columns.time()?,
        action: columns.text()?.to_owned(),
        outcome: match columns.text()? {
            "DENIED" => AuditOutcome::Denied,
            "FAILURE" => AuditOutcome::Failure,
            "SUCCESS" => AuditOutcome::Success,
            _ => return Err(decode("not an audit outcome")),
        },
        body: columns.sealed()?,
    })
}

fn read_scope(bytes: &[u8]) -> sqlx::Result<Scope> {
    match bytes.split_first() {
        Some((b'P', id)) => PlatformId::from_slice(id).map(Scope::Platform).map_err(decode),
        Some((b'p', id)) => ProjectId::from_slice(id).map(Scope::Project).map_err(decode),
        _ => Err(decode("not a scope")),
    }
}

/// Audit records in one script.
const AUDIT_GROUP: usize = 64;
/// What a row takes beside its payload, roughly.
const ROW_BYTES: usize = 100;
